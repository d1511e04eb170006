"""What survives the watcher: one file per model version, numbers and JSON, replaced as a whole. `watcher` writes it
every some seconds and at its end, and reads it when the model is watched again.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from headrace.detectors.base import State
from headrace.errors import LoadFailed
from headrace.trust import states

FORMAT: Final = 1
"""Of the file. One of another format is refused, as one of another trust folder is."""


def path_of(folder: Path, model: str, version: str) -> Path:
    """Where the state of a model version is kept."""
    return folder / _part(model) / f"{_part(version or '_')}.npz"


def write(path: Path, state: State, *, digest: str) -> None:
    """Replace the file. A reader, and whoever comes after a crash, sees the one before or this one.

    Args:
        path: As of `path_of`.
        state: Of a stream.
        digest: Of the trust folder that it belongs to.

    Raises:
        OSError: it cannot be written.
    """
    parameters = {"format": FORMAT, "digest": digest, "state": dict(state.parameters)}
    data = states.dump(State(parameters=parameters, arrays=state.arrays))
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(f".{os.getpid()}.part")
    try:
        with fresh.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            fresh.unlink()


def read(path: Path, *, digest: str) -> State | None:
    """The state that was written last; None: there is none.

    Raises:
        LoadFailed: it is damaged, of another format, or of another trust folder; the text says which.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise LoadFailed(f"{path}: cannot be read: {error.strerror}") from error
    state = states.load(data, where=str(path))
    about: Mapping[str, Any] = state.parameters
    if about.get("format") != FORMAT:
        raise LoadFailed(f"{path}: it is of format {about.get('format')}; expected {FORMAT}")
    if about.get("digest") != digest:
        raise LoadFailed(
            f"{path}: it is of a trust folder with digest {about.get('digest')}; the model's is {digest} now, so "
            "windows and counts start anew"
        )
    return State(parameters=about["state"], arrays=state.arrays)


def _part(name: str) -> str:
    quoted = quote(name, safe="")
    return "%2E" + quoted[1:] if quoted.startswith(".") else quoted
