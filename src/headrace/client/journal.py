"""What a batch has written: one line for each line of the input, never lost and never twice. `batch` writes to it.

The output holds answers only. Beside it a small file, `OUTPUT.headrace`, records which input and model they are of, so
that a job that was interrupted, even by kill -9, goes on where it was, and never with another input.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import heapq
import os
from array import array
from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal, Protocol, Self

import msgspec

from headrace.errors import SettingsError

SUFFIX: Final = ".headrace"
"""Of the record's file, after the output's whole name."""

HEAD_BYTES: Final = 65536
"""How much of the input's beginning the record holds a digest of."""

_INSTEAD: Final = "choose another output, or --overwrite to begin again"

_FAN_IN: Final = 64
"""Ascending runs merged in one pass when the output is put in order."""

Existing = Literal["resume", "trust", "replace"]
"""What to do with an output that is there: go on if the record says that it is of this input; go on also where there is
no record; or begin again."""


class Record(msgspec.Struct, frozen=True):
    """Which question the output answers."""

    head_bytes: int
    head_sha256: str
    model: str
    version: str = ""

    @classmethod
    def of(cls, head: bytes, *, model: str, version: str = "") -> Self:
        """The record of an input that begins so."""
        return cls(len(head), hashlib.sha256(head).hexdigest(), model, version)

    def fits(self, head: bytes) -> bool:
        """Whether an input that begins so may be the one recorded; it may have grown since."""
        return len(head) >= self.head_bytes and hashlib.sha256(head[: self.head_bytes]).hexdigest() == self.head_sha256


class Ranges:
    """A set of line numbers, small where they lie close together, as those of an output do."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        self._count = 0

    def __repr__(self) -> str:
        return f"Ranges({list(zip(self._starts, self._ends, strict=True))})"

    def __len__(self) -> int:
        return self._count

    def __contains__(self, number: int) -> bool:
        at = bisect_right(self._starts, number) - 1
        return at >= 0 and number < self._ends[at]

    @property
    def end(self) -> int:
        """One past the largest."""
        return self._ends[-1] if self._ends else 0

    def add(self, number: int) -> bool:
        """Add a number; False when it was there."""
        at = bisect_right(self._starts, number)
        if at and number < self._ends[at - 1]:
            return False
        self._count += 1
        joins_left = at > 0 and self._ends[at - 1] == number
        joins_right = at < len(self._starts) and self._starts[at] == number + 1
        if joins_left and joins_right:
            self._ends[at - 1] = self._ends.pop(at)
            self._starts.pop(at)
        elif joins_left:
            self._ends[at - 1] = number + 1
        elif joins_right:
            self._starts[at] = number
        else:
            self._starts.insert(at, number)
            self._ends.insert(at, number + 1)
        return True


class _Place(msgspec.Struct):
    batch_index: int
    inference_id: str = ""


class _Written(msgspec.Struct):
    parameters: _Place
    error: msgspec.Raw = msgspec.Raw(b"")

    @property
    def failed(self) -> bool:
        return bytes(self.error) not in {b"", b"null"}


_WRITTEN: Final = msgspec.json.Decoder(_Written)


class Sink(Protocol):
    """Where a batch writes."""

    answered: Ranges
    failed: int

    def write(self, text: bytes) -> None:
        """Append whole lines."""

    def put_in_order(self) -> None:
        """Bring the lines into the order of the input."""


class Stream:
    """A pipe as the output: what is written is gone, so nothing is resumed and nothing put in order later."""

    def __init__(self, output: BinaryIO) -> None:
        self.answered, self.failed = Ranges(), 0
        self._output = output

    def write(self, text: bytes) -> None:
        """Write and flush.

        Raises:
            SettingsError: nobody reads any more.
        """
        try:
            view = memoryview(text)
            while view:  # a raw file may take a part
                view = view[self._output.write(view) or 0 :]
            self._output.flush()
        except OSError as exc:
            raise SettingsError(f"cannot write the output: {exc.strerror or exc}") from exc

    def put_in_order(self) -> None:
        """Nothing: it was written in order."""


class Journal:
    """The output of a batch. `open` it, `write` whole lines, `close` it; each line written survives the process."""

    def __init__(self, path: Path, *, existing: Existing = "resume", retry_failed: bool = False) -> None:
        """Store; nothing is opened.

        Args:
            path: The output.
            existing: What to do with one that is there.
            retry_failed: Drop its lines that are failures, so that they are asked again.
        """
        self.path = path
        self.answered = Ranges()
        """The lines of the input that the output had when it was opened."""
        self.failed = 0
        """How many of them are failures."""
        self.torn = False
        """Whether a last line, written in part, was dropped."""
        self._existing, self._retry_failed = existing, retry_failed
        self._output: BinaryIO | None = None
        self._record: BinaryIO | None = None
        self._locked = False

    @property
    def record_path(self) -> Path:
        """Where the record is."""
        return self.path.with_name(self.path.name + SUFFIX)

    def open(self, head: bytes, *, model: str, version: str = "") -> None:
        """Open the output for an input that begins so and a model, and find out what it has.

        Raises:
            SettingsError: it answers another input or model, is no output of a batch, is written by another process, or
                cannot be written.
        """
        try:
            self._record = self.record_path.open("a+b", buffering=0)
            self._lock()
            self._check(head, model, version)
            if self._existing == "replace":
                self.path.unlink(missing_ok=True)
            elif self.path.exists():
                self._survey()
            self._write_record(Record.of(head, model=model, version=version))
            self._output = self.path.open("ab", buffering=0)
        except OSError as exc:
            self.close()
            raise SettingsError(f"cannot write the output {self.path}: {exc.strerror or exc}") from exc
        except BaseException:
            self.close()
            raise

    def write(self, text: bytes) -> None:
        """Append whole lines. They are the operating system's when this returns: killing the process loses none.

        Raises:
            SettingsError: the disk is full, or fails.
        """
        assert self._output is not None
        view = memoryview(text)
        try:
            while view:
                view = view[self._output.write(view) or 0 :]
        except OSError as exc:
            raise SettingsError(
                f"cannot write to {self.path}: {exc.strerror or exc}; the answers so far are kept"
            ) from exc

    def put_in_order(self) -> None:
        """Bring the lines into the order of the input, if they are not. A process killed meanwhile loses nothing."""
        while runs := _runs(self.path):
            if len(runs) == 1:
                return
            with self._replacing() as target:
                for at in range(0, len(runs), _FAN_IN):
                    group = runs[at : at + _FAN_IN]
                    ends = [*group[1:], *runs[at + _FAN_IN : at + _FAN_IN + 1]]
                    _merge(self.path, list(group), list(ends), target)

    def withdraw(self) -> bool:
        """After a failure: remove an output that has nothing. Whether it has something."""
        if self._output is None or self.path.stat().st_size:
            return True
        self.path.unlink()
        self.record_path.unlink(missing_ok=True)
        return False

    def close(self) -> None:
        """Close the output and let others write to it."""
        if self._output is not None:
            self._output.close()
        if self._record is not None:
            if self._locked and self._record.seek(0, os.SEEK_END) == 0:
                self.record_path.unlink(missing_ok=True)  # the output was refused
            self._record.close()
        self._output = self._record = None

    # -- steps of open --

    def _lock(self) -> None:
        assert self._record is not None
        try:
            fcntl.flock(self._record, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise SettingsError(f"another process is writing the output {self.path}; choose another output") from exc
        self._locked = True

    def _check(self, head: bytes, model: str, version: str) -> None:
        assert self._record is not None
        if self._existing == "replace" or not self.path.exists() or self.path.stat().st_size == 0:
            self._record.truncate(0)
            return
        self._record.seek(0)
        text = self._record.read()
        if not text:
            if self._existing == "trust":
                return
            how = f"--resume goes on with it by its batch_index, or {_INSTEAD}"
            raise SettingsError(f"the output {self.path} is there already, with no record of its input; {how}")
        try:
            record = msgspec.json.decode(text, type=Record)
        except msgspec.MsgspecError as exc:
            raise SettingsError(f"{self.record_path} is not the record of a batch: {exc}; {_INSTEAD}") from exc
        if not record.fits(head):
            raise SettingsError(f"the output {self.path} holds the answers of another input; {_INSTEAD}")
        if (record.model, record.version) != (model, version):
            asked = f"model {record.model!r}" + (f" version {record.version!r}" if record.version else "")
            raise SettingsError(f"the output {self.path} holds the answers of {asked}; {_INSTEAD}")

    def _write_record(self, record: Record) -> None:
        """A record that is there stays, for its digest may be of less than an input that has grown."""
        assert self._record is not None
        if self._record.seek(0, os.SEEK_END) == 0:
            self._record.write(msgspec.json.encode(record) + b"\n")

    def _survey(self) -> None:
        """Learn what the output has; drop a last line that is not whole, and failures where they are asked again."""
        dropped = kept = 0
        with self.path.open("rb") as file:
            for number, text in enumerate(file):
                if not text.endswith(b"\n"):
                    self.torn = True
                    break
                written = _written(text, f"{self.path}, line {number + 1}")
                kept += len(text)
                if written.failed and self._retry_failed:
                    dropped += 1
                elif not self.answered.add(written.parameters.batch_index):
                    where = f"{self.path}, line {number + 1}"
                    raise SettingsError(f"{where}: batch_index {written.parameters.batch_index} is there twice")
                elif written.failed:
                    self.failed += 1
        if self.torn:
            os.truncate(self.path, kept)
        if dropped:
            with self._replacing() as target, self.path.open("rb") as file:
                target.writelines(text for text in file if not _WRITTEN.decode(text).failed)

    @contextlib.contextmanager
    def _replacing(self) -> Iterator[BinaryIO]:
        """A file that takes the output's place at the end, whole, or not at all."""
        beside = self.path.with_name(self.path.name + ".ordering")
        try:
            with beside.open("wb") as target:
                yield target
                target.flush()
                os.fsync(target.fileno())
            beside.replace(self.path)
        except OSError as exc:
            beside.unlink(missing_ok=True)
            raise SettingsError(f"cannot put {self.path} in order: {exc.strerror or exc}; it is as it was") from exc


def _written(text: bytes, where: str) -> _Written:
    try:
        return _WRITTEN.decode(text)
    except msgspec.MsgspecError as exc:
        wrong = f"{where} is not a line that a batch has written: {exc}; {_INSTEAD}"
        raise SettingsError(wrong) from exc


def _runs(path: Path) -> array[int]:
    """Where each ascending run of lines begins, in bytes."""
    found, last, position = array("Q"), -1, 0
    with path.open("rb") as file:
        for text in file:
            index = _WRITTEN.decode(text).parameters.batch_index
            if index < last or position == 0:
                found.append(position)
            last = index
            position += len(text)
    return found


def _merge(path: Path, starts: list[int], ends: list[int], target: BinaryIO) -> None:
    """Several ascending runs as one; the last run ends with the file where `ends` is shorter than `starts`."""
    size = path.stat().st_size
    bounds = zip(starts, [*ends, size][: len(starts)], strict=True)
    with contextlib.ExitStack() as stack:
        runs = [_lines(stack.enter_context(path.open("rb")), start, end) for start, end in bounds]
        target.writelines(text for _, text in heapq.merge(*runs, key=_number))


def _number(pair: tuple[int, Any]) -> int:
    return pair[0]


def _lines(file: BinaryIO, start: int, end: int) -> Iterator[tuple[int, bytes]]:
    file.seek(start)
    while start < end:
        text = file.readline()
        start += len(text)
        yield _WRITTEN.decode(text).parameters.batch_index, text
