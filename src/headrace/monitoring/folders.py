"""A folder that one process has at a time, among those below a root that several servers may name: ROOT/0, ROOT/1, ...
`backlog` and `outbox` keep there what waits to be sent; what a dead process left, the next that starts takes over.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from headrace.errors import SettingsError

_MOST: Final = 64


def own(root: Path, *, setting: str) -> tuple[Path, int]:
    """The first folder that nobody has, and the descriptor that holds it until it is closed.

    Args:
        root: Made where it is not there.
        setting: The key that holds it, for messages.

    Raises:
        SettingsError: all are taken.
        OSError: the root cannot be used.
    """
    root.mkdir(parents=True, exist_ok=True)
    for number in range(_MOST):
        folder = root / str(number)
        folder.mkdir(exist_ok=True)
        descriptor = _held(folder)
        if descriptor is not None:
            return folder, descriptor
    raise SettingsError(f"{setting}: {_MOST} processes use {root}; give this server one of its own")


def left(mine: Path) -> Iterator[Path]:
    """The folders behind `mine` that nobody has; each is held while its caller looks at it."""
    for number in range(int(mine.name) + 1, _MOST):
        folder = mine.with_name(str(number))
        if not folder.exists():
            return
        descriptor = _held(folder)
        if descriptor is not None:
            try:
                yield folder
            finally:
                os.close(descriptor)


def _held(folder: Path) -> int | None:
    """A descriptor that holds a folder; None: another process has it."""
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor
