"""What a job has done so far, on this machine's disk: what it goes on from after kill -9.

`run` writes the answers to the output, which is there only when it is whole, and here, in parts. A part is sealed by
its entry: a file that appears after the part's bytes have reached the disk. What stands in no entry was not done.
Answers of sealed parts are written again when a job goes on, and not asked again.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec
import pyarrow as pa
import pyarrow.ipc

from headrace.artifacts import failures
from headrace.errors import Conflict
from headrace.lifecycle.batch import manifest
from headrace.lifecycle.batch.base import Reject


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """A sealed part: all that was done up to a place in the file."""

    end: int
    """Where the next block begins."""
    rows: int
    lines: int
    answered: int
    rejected: int
    """Of the file up to there."""
    done_bytes: int
    reasons: dict[str, int]
    """Of rejects up to there."""


class Log:
    """The parts of one file's job. Use it as a context.

    Args:
        folder: Of all logs.
        name: Tells this job's output from others.
        identity: What must be the same for the job to go on: by name.
        seal_seconds: The least time between two seals; what was done since the last one is done again after a kill.
    """

    def __init__(self, folder: Path, name: str, *, identity: dict[str, str], seal_seconds: float = 1.0) -> None:
        self.folder = folder / hashlib.sha256(name.encode()).hexdigest()[:24]
        self._name, self._identity, self._seal_seconds = name, identity, seal_seconds
        self._lock = -1
        self._number = 0
        self._sealed_at = time.monotonic()
        self._writer: Any = None
        self._rejects: list[Reject] = []

    def __enter__(self) -> Self:
        """Raises Conflict where another process runs the same job, ArtifactFailed where nothing can be kept."""
        with self._told():
            while self._lock < 0:
                self.folder.mkdir(parents=True, exist_ok=True)
                self._lock = self._locked(self.folder / "lock")
        return self

    def _locked(self, path: Path) -> int:
        """The lock, held; -1 where whoever had it has taken the file away meanwhile."""
        try:
            held = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        except FileNotFoundError:
            return -1
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            os.close(held)
            raise Conflict(f"{self._name} is being written by another process of this machine: wait for it") from exc
        try:
            same = path.stat().st_ino == os.fstat(held).st_ino
        except FileNotFoundError:
            same = False
        if not same:
            os.close(held)
            return -1
        return held

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            with contextlib.suppress(OSError):  # nothing of it is sealed; a disk that is full says so once more
                writer.close()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _told(self) -> contextlib.AbstractContextManager[None]:
        return failures.told(str(self.folder), "writing")

    def look(self, *, anew: bool) -> bool:
        """Whether an earlier run has begun the same job; what another one has left is forgotten, if that is asked for.

        Raises:
            Conflict: what an unfinished job worked on has changed since; names it.
        """
        if anew:
            self.clear()
        path = self.folder / "job.json"
        if not path.exists():
            return False
        known: dict[str, str] = msgspec.json.decode(path.read_bytes(), type=dict[str, str])
        changed = manifest.changed(known, self._identity)
        if not changed:
            return True
        if self._entries():
            raise Conflict(
                f"{self._name} was begun by a job that did not finish, and is not the same any more ({changed}): "
                "begin anew with --overwrite"
            )
        self.clear()
        return False

    def begin(self) -> Entry | None:
        """The last entry, where an earlier run of the same job has left one. Raises as `seal`."""
        for leftover in self.folder.glob("*.tmp"):
            leftover.unlink()
        torn = self.folder / "leaves"
        if torn.exists():
            for path in msgspec.json.decode(torn.read_bytes(), type=list[str]):
                Path(path).unlink(missing_ok=True)
            torn.unlink()
        with self._told():
            _write(self.folder / "job.json", msgspec.json.encode(self._identity))
        entries = self._entries()
        self._number = len(entries)
        self._forget_unsealed()
        self._sealed_at = time.monotonic()
        return entries[-1] if entries else None

    def _forget_unsealed(self) -> None:
        """A kill just before a seal leaves a part without an entry, which the next part of its number must not meet."""
        for path in self.folder.glob("[0-9]*"):
            if int(path.stem) >= self._number:
                path.unlink()

    def parts(self) -> Iterator[tuple[Iterator[pa.RecordBatch], list[Reject]]]:
        """Answers and rejects of the sealed parts, in order."""
        for number in range(self._number):
            rejects = self.folder / f"{number:06d}.rejects"
            found = msgspec.json.decode(rejects.read_bytes(), type=list[Reject]) if rejects.exists() else []
            yield self._batches(self.folder / f"{number:06d}.arrow"), found

    @staticmethod
    def _batches(path: Path) -> Iterator[pa.RecordBatch]:
        if path.exists():
            with pa.memory_map(str(path)) as file, pyarrow.ipc.open_stream(file) as stream:
                yield from stream

    def add(self, batch: pa.RecordBatch, rejects: list[Reject]) -> None:
        """Answers and rejects that follow; nothing is certain before `seal`. Raises as it."""
        if batch.num_rows:
            with self._told():
                if self._writer is None:
                    self._writer = pyarrow.ipc.new_stream(str(self.folder / "part.tmp"), batch.schema)
                self._writer.write_batch(batch)
        self._rejects += rejects

    def seal(self, entry: Entry, *, now: bool = False) -> None:
        """Make certain what was added, where it is time to. Raises ArtifactFailed: the disk is full."""
        if not now and time.monotonic() - self._sealed_at < self._seal_seconds:
            return
        with self._told():
            self._seal(entry)

    def _seal(self, entry: Entry) -> None:
        name = f"{self._number:06d}"
        if self._writer is not None:
            self._writer.close()
            self._writer = None
            part = self.folder / "part.tmp"
            with part.open("rb") as file:
                os.fsync(file.fileno())
            part.replace(self.folder / f"{name}.arrow")
        if self._rejects:
            _write(self.folder / f"{name}.rejects", msgspec.json.encode(self._rejects))
            self._rejects = []
        _write(self.folder / f"{name}.json", msgspec.json.encode(entry))
        self._number += 1
        self._sealed_at = time.monotonic()

    def leaves(self, paths: Sequence[str]) -> None:
        """Tell what a kill would leave: halves of outputs. The next run takes them away."""
        with self._told():
            _write(self.folder / "leaves", msgspec.json.encode([str(Path(path).absolute()) for path in paths]))

    def clear(self) -> None:
        """Forget all, but what has to be taken away."""
        for path in self.folder.iterdir():
            if path.name not in {"lock", "leaves"}:
                path.unlink()
        self._number = 0

    def end(self) -> None:
        """The job is done: nothing of it is needed any more."""
        with contextlib.suppress(OSError):  # another process may be about to take the lock
            shutil.rmtree(self.folder)

    def _entries(self) -> list[Entry]:
        found: list[Entry] = []
        while (path := self.folder / f"{len(found):06d}.json").exists():
            found.append(msgspec.json.decode(path.read_bytes(), type=Entry))
        return found


def _write(path: Path, data: bytes) -> None:
    """A file that is there whole, on the disk, or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
