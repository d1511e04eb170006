"""The payload log's folder: how it is written, recovered, kept in bounds, and read. `payloads` writes, the command line
reads.

    FOLDER/MODEL/VERSION/TIME-ID.parquet        finished: whole, never changed again
    FOLDER/MODEL/VERSION/TIME-ID.parquet.part   being written: an Arrow stream; what was flushed survives a kill
    FOLDER/MODEL/VERSION/TIME-ID.jsonl[.part]   the same as JSON lines
    FOLDER/_labels/TIME-ID.jsonl[.part]         labels that came later, by request id

A file becomes finished when it is large or old enough, by one rename; readers that skip `.part`, and names that begin
with `_`, never see half a file. The process that writes a `.part` holds a lock on it: one without is what a killed
process left, and the next that opens the folder finishes it, without the line or batch that was cut off.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import fcntl
import logging
import os
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final, Literal
from urllib.parse import quote

import msgspec
import orjson

from headrace.protocols.cloudevents import json_of

if TYPE_CHECKING:
    import pyarrow as pa

log = logging.getLogger(__name__)

Format = Literal["parquet", "jsonl"]
LABELS: Final = "_labels"
PART: Final = ".part"
FINISH_SECONDS: Final = 600.0
"""A file is finished at this age, however small, so that other programs see what is in it."""
MOST_OPEN: Final = 32
"""Files that are written at the same time, by model, version and columns; the one unused longest is finished first."""
_ROWS_AT_ONCE: Final = 1 << 16
_PRUNE_SECONDS: Final = 60.0


def folder_name(name: str) -> str:
    """A model or version as the name of a folder: no separator, no `.` or `_` in front."""
    text = quote(name, safe=" ").replace("%00", "%000") or "%00"  # an empty name is not that of a zero byte
    return f"%{ord(text[0]):02X}{text[1:]}" if text[0] in "._" else text


class Part:
    """A file that is being written, locked by this process.

    Args:
        folder: It is made.
        kind: Of the finished file.
        schema: Of its rows; None: lines.
    """

    def __init__(self, folder: Path, kind: Format, schema: pa.Schema | None) -> None:
        self._schema = schema
        stamp = dt.datetime.now(dt.UTC).strftime("%Y%m%dT%H%M%S%f")
        self.path = folder / f"{stamp}-{secrets.token_hex(4)}.{kind}{PART}"
        self._descriptor = -1
        self.size = 0
        self.opened_at = self.used_at = 0.0

    def __repr__(self) -> str:
        return f"Part({self.path.name}, {self.size} bytes)"

    def open(self, now: float) -> None:
        """Make it.

        Raises:
            OSError: it cannot be made or written.
        """
        self.opened_at = self.used_at = now
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o640)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        if self._schema is not None:
            self.append(self._schema.serialize())

    def append(self, data: Any) -> None:
        """Add bytes: all of them or, when that fails, none.

        Raises:
            OSError: no space, or a limit.
        """
        view = memoryview(data).cast("B")
        written = 0
        try:
            while written < len(view):
                written += os.write(self._descriptor, view[written:])
        except OSError:
            os.ftruncate(self._descriptor, self.size)
            raise
        self.size += len(view)

    def finish(self) -> None:
        """Make it a finished file, and let go of it.

        Raises:
            OSError: that cannot be written; the part stays, for the next process that opens the folder.
        """
        try:
            os.fsync(self._descriptor)
            finish(self.path)
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Let go of it as it is."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def finish(part: Path) -> Path:
    """Turn a part into the finished file beside it. What was cut off at its end is left out.

    Raises:
        OSError: it cannot be read or written.
    """
    final = part.with_suffix("")
    if final.suffix == ".jsonl":
        _cut_to_lines(part)
        if part.stat().st_size:
            part.replace(final)
        else:
            part.unlink()
        return final
    new = final.with_suffix(".new")
    rows = 0
    with part.open("rb") as file:
        schema, found = _stream(file)
        if schema is not None:
            try:
                rows = _write_parquet(new, schema, found)
            except OSError:
                new.unlink(missing_ok=True)
                raise
    if rows:
        new.replace(final)
    else:
        new.unlink(missing_ok=True)
    part.unlink()
    return final


def _write_parquet(path: Path, schema: pa.Schema, found: Iterator[pa.RecordBatch]) -> int:
    import pyarrow.parquet as pq

    rows = 0
    with path.open("wb") as target:
        with pq.ParquetWriter(target, schema, compression="zstd") as writer:
            for table in _gathered(found):
                writer.write_table(table)
                rows += table.num_rows
        target.flush()
        os.fsync(target.fileno())
    return rows


def _cut_to_lines(part: Path) -> None:
    with part.open("r+b") as file:
        end = file.seek(0, os.SEEK_END)
        while end:
            start = max(end - (1 << 16), 0)
            file.seek(start)
            line_end = file.read(end - start).rfind(b"\n")
            if line_end >= 0:
                end = start + line_end + 1
                break
            end = start
        file.truncate(end)


def _stream(file: BinaryIO) -> tuple[pa.Schema | None, Iterator[pa.RecordBatch]]:
    """The batches of an Arrow stream that may be cut off."""
    import pyarrow as pa

    try:
        reader = pa.ipc.open_stream(file)
    except (pa.ArrowInvalid, OSError):
        return None, iter(())

    def found() -> Iterator[pa.RecordBatch]:
        while True:
            try:
                yield reader.read_next_batch()
            except (StopIteration, pa.ArrowInvalid, OSError):
                return

    return reader.schema, found()


def _gathered(found: Iterator[pa.RecordBatch]) -> Iterator[pa.Table]:
    import pyarrow as pa

    held: list[pa.RecordBatch] = []
    rows = 0
    for batch in found:
        held.append(batch)
        rows += batch.num_rows
        if rows >= _ROWS_AT_ONCE:
            yield pa.Table.from_batches(held)
            held, rows = [], 0
    if held:
        yield pa.Table.from_batches(held)


class Folder:
    """The writing side. One thread at a time.

    Args:
        path: It is made.
        kind: Of files.
        most_file_bytes: A new file is begun at this size.
        most_bytes: The oldest files are removed beyond it.
        clock: Seconds, for the age of files.
    """

    def __init__(
        self,
        path: Path,
        *,
        kind: Format,
        most_file_bytes: int,
        most_bytes: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.path = path
        self._kind = kind
        self._most_file_bytes, self._most_bytes = most_file_bytes, most_bytes
        self._clock = clock
        self._parts: dict[tuple[Any, ...], Part] = {}
        self._prune_at = 0.0

    def open(self) -> None:
        """Make the folder, and finish what killed processes left.

        Raises:
            OSError: it cannot be made.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        recover(self.path)
        self.prune()

    def write(self, model: str, version: str, batch: pa.RecordBatch) -> None:
        """Add rows to a file of their columns; after it they survive a kill.

        Raises:
            OSError: they are not written, and nothing else was harmed.
        """
        key = (model, version, batch.schema)
        data = batch.serialize() if self._kind == "parquet" else _lines(batch)
        schema = batch.schema if self._kind == "parquet" else None
        self._append(key, self.path / folder_name(model) / folder_name(version), self._kind, schema, data)

    def write_labels(self, lines: Sequence[dict[str, Any]]) -> None:
        """Add labels.

        Raises:
            OSError: as for rows.
        """
        data = b"".join(orjson.dumps(line) + b"\n" for line in lines)
        self._append((LABELS,), self.path / LABELS, "jsonl", None, data)

    def _append(self, key: tuple[Any, ...], folder: Path, kind: Format, schema: Any, data: Any) -> None:
        now = self._clock()
        part = self._parts.get(key)
        try:
            if part is None:
                if len(self._parts) >= MOST_OPEN:
                    self._finish(min(self._parts, key=lambda each: self._parts[each].used_at))
                part = Part(folder, kind, schema)
                part.open(now)
                self._parts[key] = part
            part.append(data)
        except OSError:
            # the file may have reached a limit of its own: what it has is finished, a new one is tried next time
            if part is not None and key not in self._parts:
                part.abandon()
                part.path.unlink(missing_ok=True)  # there was no room even for its head
            if key in self._parts:
                self._finish(key)
            raise
        part.used_at = now
        if part.size >= self._most_file_bytes:
            self._finish(key)

    def tick(self) -> None:
        """Finish files that are old enough, and remove the oldest beyond the bound."""
        now = self._clock()
        for key in [key for key, part in self._parts.items() if now - part.opened_at >= FINISH_SECONDS]:
            self._finish(key)
        if now >= self._prune_at:
            self.prune()

    def close(self) -> None:
        """Finish all files."""
        for key in list(self._parts):
            self._finish(key)
        self.prune()

    def _finish(self, key: tuple[Any, ...]) -> None:
        part = self._parts.pop(key)
        self._prune_at = 0.0
        try:
            part.finish()
        except OSError as exc:
            log.warning("payload log: %s stays as it is for now: %s", part.path, exc.strerror or exc)

    def prune(self) -> None:
        """Remove the oldest files, labels among them, until the folder is within its bound. What is being written
        counts, and stays.
        """
        self._prune_at = self._clock() + _PRUNE_SECONDS
        sizes: list[tuple[str, Path, int]] = []
        for path in _files(self.path):
            with contextlib.suppress(FileNotFoundError):
                sizes.append((path.name, path, path.stat().st_size))
        total = sum(size for *_, size in sizes)
        for _, path, size in sorted(sizes):
            if total <= self._most_bytes:
                return
            if path.suffix != PART:
                path.unlink(missing_ok=True)
                total -= size


def recover(folder: Path) -> int:
    """Finish the parts that no process writes any more, and say how many."""
    count = 0
    for part in [path for path in _files(folder) if path.suffix == PART]:
        try:
            descriptor = os.open(part, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if part.exists():  # another process may have finished it before the lock was ours
                finish(part)
                count += 1
        except BlockingIOError:
            continue
        except OSError as exc:
            log.warning("payload log: %s cannot be finished: %s", part, exc.strerror or exc)
        finally:
            os.close(descriptor)
    return count


def _lines(batch: pa.RecordBatch) -> bytes:
    return b"".join(json_of(row) + b"\n" for row in batch.to_pylist())


def _files(folder: Path) -> Iterator[Path]:
    for path in folder.glob("*/**/*"):
        if path.name.endswith((".parquet", ".jsonl", ".parquet.part", ".jsonl.part")):
            yield path


# -- reading --


class LogFile(msgspec.Struct, frozen=True, kw_only=True):
    """One file of the log, finished or not."""

    path: Path
    is_labels: bool = False


def find(folder: Path) -> list[LogFile]:
    """The files of a log, the oldest first; labels among them."""
    found: dict[str, Path] = {}
    for path in sorted(_files(folder), key=lambda each: (each.suffix != PART, each)):
        found[str(path).removesuffix(PART)] = path  # a finished file is preferred to its part
    return [
        LogFile(path=path, is_labels=LABELS in path.relative_to(folder).parts[:1])
        for path in sorted(found.values(), key=lambda each: each.name)
    ]


def read(path: Path, *, rows_at_once: int = _ROWS_AT_ONCE) -> Iterator[pa.RecordBatch]:
    """The rows of a file, a batch at a time. A part that was finished meanwhile is read as what it became; one that
    was removed has none.

    Args:
        path: As `find` gave it.
        rows_at_once: At most, of Parquet and lines.

    Raises:
        OSError: it cannot be read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.exists() and path.suffix == PART:
        path = path.with_suffix("")
    if not path.exists():
        return
    if path.name.endswith((".jsonl", ".jsonl" + PART)):
        for lines in _read_lines(path, rows_at_once):
            yield _timed(pa.RecordBatch.from_pylist(lines))
    elif path.suffix == PART:
        with path.open("rb") as file:
            yield from _stream(file)[1]
    else:
        with pq.ParquetFile(path) as file:
            yield from file.iter_batches(rows_at_once)


def schemas(path: Path) -> Iterator[pa.Schema]:
    """The columns of a file: of lines, of some at a time; of others, once.

    Raises:
        OSError: it cannot be read.
    """
    import pyarrow.parquet as pq

    if path.name.endswith((".jsonl", ".jsonl" + PART)) or not path.exists():
        yield from (batch.schema for batch in read(path))
    elif path.suffix == PART:
        with path.open("rb") as file:
            schema, _ = _stream(file)
            if schema is not None:
                yield schema
    else:
        yield pq.read_schema(path)


def _timed(batch: pa.RecordBatch) -> pa.RecordBatch:
    import pyarrow as pa

    at = batch.schema.get_field_index("time")
    return batch.set_column(at, "time", batch.column(at).cast(pa.timestamp("us", "UTC")))


def _read_lines(path: Path, at_once: int) -> Iterator[list[dict[str, Any]]]:
    held: list[dict[str, Any]] = []
    with path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                break
            held.append(orjson.loads(line))
            if len(held) >= at_once:
                yield held
                held = []
    if held:
        yield held


def read_labels(path: Path) -> Iterator[list[dict[str, Any]]]:
    """The labels of a file, some at a time: `request_id`, `labels`, `time`."""
    if not path.exists() and path.suffix == PART:
        path = path.with_suffix("")
    if path.exists():
        yield from _read_lines(path, 10_000)
