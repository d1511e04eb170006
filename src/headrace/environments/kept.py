"""Environments on disk: one folder for each key, made once by whoever comes first. `build` and `packed` call it.

    CACHE/environments/KEY/                    the environment; whole when environment.json is in it
    CACHE/environments/KEY/environment.json    what it was made of, by what, when; written last
    CACHE/environments/KEY.log                 what pip, uv or conda said
    CACHE/environments/KEY.lock                held while it is made; freed by the kernel however its holder ends

It is made in its final place, since interpreters and scripts of an environment hold its path. A folder without the
record is what a killed process left: the next to hold the lock removes it.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import fcntl
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import msgspec

from headrace.environments.process import Ended, Shell, Stopped
from headrace.environments.progress import Progress
from headrace.errors import LoadFailed

_RECORD: Final = "environment.json"
_POLL_SECONDS: Final = 0.05
_SHOWN: Final = 6
"""Lines of output in an error; the log has them all."""


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """What an environment was made of."""

    source: str
    """The file of requirements, or the packed environment."""
    digest: str
    builder: str
    """`uv`, `venv`, `micromamba`, `mamba`, `conda`, `unpacked`."""
    made_at: str
    """ISO 8601, UTC."""
    python: str
    platform: str
    packages: dict[str, str]
    """Installed distributions and their versions."""


class Made(msgspec.Struct, frozen=True, kw_only=True):
    """What a maker says of the environment that it has just made."""

    builder: str
    python: str
    platform: str
    packages: dict[str, str]


Make = Callable[[Path, Path, Shell], Made]
"""Makes an environment: its folder (not there yet), a folder for its own files, where to run commands."""
Explain = Callable[[tuple[str, ...]], str]
"""The cause in the last lines of an output, for a person; empty: none was recognised."""


def folder(cache: Path, key: str) -> Path:
    """Where the environment of a key is, or would be."""
    return cache.absolute() / "environments" / key


def record(place: Path) -> Record | None:
    """What a folder holds; None: nothing that is whole and runs on this machine."""
    try:
        found = msgspec.json.decode((place / _RECORD).read_bytes(), type=Record)
    except (OSError, msgspec.DecodeError):
        return None
    return found if os.access(place / "bin" / "python", os.X_OK) else None  # its base interpreter may be gone


def keep(
    cache: Path,
    key: str,
    make: Make,
    *,
    source: str,
    doing: str,
    explain: Explain,
    progress: Progress,
    timeout_seconds: float,
    cancel: threading.Event,
) -> Path:
    """The environment of a key, made now unless it is there. Blocks, for minutes the first time.

    Args:
        cache: Folder of all that is kept.
        key: Names the content: equal keys are equal environments.
        make: Makes it.
        source: File it is made from, for the record.
        doing: What is done, for messages: `model 'churn': building the environment of requirements.txt`.
        explain: Finds the cause of a failure in an output.
        progress: Told of each phase.
        timeout_seconds: Longest that waiting and making may take together.
        cancel: Set by another thread to have this end soon.

    Raises:
        LoadFailed: it could not be made; nothing of it is left but the log.
    """
    place = folder(cache, key)
    if record(place) is not None:
        return place
    try:
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (
            _locked(place, doing=doing, progress=progress, timeout_seconds=timeout_seconds, cancel=cancel) as lock,
            open(_log(place), "w", encoding="utf-8", opener=_private) as log,
        ):
            if record(place) is not None:  # made by another while this one waited
                return place
            _clear(place)
            with tempfile.TemporaryDirectory(prefix=f".{key}-", dir=place.parent) as desk:
                shell = Shell(
                    log=log,
                    folder=Path(desk),
                    progress=progress,
                    timeout_seconds=timeout_seconds,
                    cancel=cancel,
                    held=(lock,),
                )
                started = time.monotonic()
                progress(f"{doing}; its log is {_log(place)}")
                try:
                    made = make(place, Path(desk), shell)
                    _write_record(place, made, source=source, key=key)
                except BaseException:
                    shutil.rmtree(place, ignore_errors=True)  # what stays is removed by the next
                    raise
                progress(f"{doing}: done in {time.monotonic() - started:.1f} s")
    except Stopped as exc:
        raise LoadFailed(f"{doing}: {exc}; the log is {_log(place)}") from exc
    except Ended as exc:
        cause = explain(exc.lines) or str(exc)
        shown = [each.strip() for each in exc.lines if each.strip()][-_SHOWN:]
        tail = f"; its last lines: {' | '.join(shown)}" if shown else ""
        raise LoadFailed(f"{doing}: {cause}; the log is {_log(place)}{tail}") from exc
    except OSError as exc:
        raise LoadFailed(f"{doing}: {exc}") from exc
    return place


def _log(place: Path) -> Path:
    return place.with_name(place.name + ".log")


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _clear(place: Path) -> None:
    """Remove what whoever was killed while making it left: the lock is ours, so nobody works here."""
    if place.exists():
        shutil.rmtree(place)
    for desk in place.parent.glob(f".{place.name}-*"):
        shutil.rmtree(desk)


def _write_record(place: Path, made: Made, *, source: str, key: str) -> None:
    whole = Record(
        source=source,
        digest=key,
        builder=made.builder,
        made_at=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        python=made.python,
        platform=made.platform,
        packages=made.packages,
    )
    written = place / f"{_RECORD}.new"
    written.write_bytes(msgspec.json.format(msgspec.json.encode(whole), indent=2))
    written.replace(place / _RECORD)


@contextlib.contextmanager
def _locked(
    place: Path, *, doing: str, progress: Progress, timeout_seconds: float, cancel: threading.Event
) -> Iterator[int]:
    """Hold the lock of an environment; its descriptor."""
    deadline = time.monotonic() + timeout_seconds
    waiting = False
    lock = os.open(place.with_name(place.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not waiting:
                    waiting = True
                    progress(f"{doing}: another process is at it; waiting for it")
                if cancel.wait(_POLL_SECONDS):
                    raise Stopped("it was cancelled") from None
                if time.monotonic() > deadline:
                    raise Stopped(f"another process has been at it for more than {timeout_seconds:g} s") from None
        yield lock
    finally:
        os.close(lock)
