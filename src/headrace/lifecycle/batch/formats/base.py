"""The roles of a format: a `Reader` cuts a file into `Block`s, a `Writer` takes batches; and what the formats share.

A reader runs in one thread and cuts, cheaply; what costs time, the parsing of text, is `Block.parse`, which any thread
may do. Each block knows where the next begins, so that a job can go on there. No block depends on another: types are
those that the model wants, not those of the rows that came first.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO, Protocol

import msgspec
import numpy as np
import pyarrow as pa

from headrace.lifecycle.batch.base import Format
from headrace.payload import EMPTY


class Fault(msgspec.Struct, frozen=True):
    """A row that is none."""

    row: int
    """In its block."""
    reason: str
    known: Mapping[str, Any] = EMPTY
    """Values that can be read in it nevertheless, by column."""


class Table(msgspec.Struct, frozen=True):
    """The rows of a block."""

    rows: Any
    """A record batch of those that are rows."""
    count: int
    """Rows of the block, faulty ones too."""
    faults: tuple[Fault, ...] = ()

    def positions(self) -> Any:
        """Number in the block of each row of `rows`."""
        numbers = np.arange(self.count)
        return np.delete(numbers, [fault.row for fault in self.faults]) if self.faults else numbers


class Block(Protocol):
    """A piece of a file."""

    end: int
    """Where the next begins: bytes of text as it is uncompressed, or rows."""
    done_bytes: int
    """Of the file as it is stored, for who wants to know how far it is."""

    @property
    def lines(self) -> int:
        """Of text."""

    def parse(self) -> Table:
        """Its rows."""

    def originals(self) -> list[tuple[int, str]]:
        """Line (from 1, counted from the first of the block) and text of each row; empty of files that are no text."""


class Reader(Protocol):
    """A file that is open."""

    format: Format

    @property
    def header_lines(self) -> int:
        """Of text, before the first row."""

    @property
    def schema(self) -> pa.Schema:
        """Its columns; of CSV all are text."""

    def want(self, names: frozenset[str], texts: frozenset[str]) -> None:
        """Read only columns of these names; of JSON, those of `texts` as text."""

    def blocks(self, start: int, *, rows: int) -> Iterator[Block]:
        """Its pieces of about so many rows, from where a block ended, or 0."""


class Writer(Protocol):
    """An output that is open. Its columns are those of the first batch."""

    def write(self, batch: pa.RecordBatch) -> None:
        """Add rows."""

    def close(self) -> None:
        """Write what stands at the end; the file stays open."""

    def abandon(self) -> None:
        """Write nothing more, whatever was written is not to be read."""


class Lent(io.RawIOBase):
    """A file that whoever gets it cannot close, as Arrow's streams do with theirs; `over`: what is written is lost."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.over = file, False

    def readable(self) -> bool:
        """As of a file."""
        return True

    def writable(self) -> bool:
        """As of a file."""
        return True

    def read(self, size: int = -1) -> bytes:
        """As of a file."""
        return self._file.read(size)

    def write(self, data: Any) -> int:
        """As of a file."""
        return len(memoryview(data).cast("B")) if self.over else self._file.write(data)


class Writing:
    """What the writers have in common: the file, and Arrow's writer once there are columns."""

    def __init__(self, file: Lent, sink: Any = None) -> None:
        self._file, self._sink = file, file if sink is None else sink
        self._writer: Any = None

    def close(self) -> None:
        """As of Writer."""
        if self._writer is not None:
            self._writer.close()
        if self._sink is not self._file:
            self._sink.close()

    def abandon(self) -> None:
        """As of Writer."""
        self._file.over = True
        self.close()


class ColumnReader:
    """What readers of columns have in common: they read those that are wanted."""

    header_lines = 0

    def __init__(self, name: str, schema: pa.Schema) -> None:
        self._name, self._schema = name, schema.remove_metadata()
        self._wanted = list(self._schema.names)

    @property
    def schema(self) -> pa.Schema:
        """As of Reader."""
        return self._schema

    def want(self, names: frozenset[str], texts: frozenset[str]) -> None:
        """As of Reader; such files say themselves what is text."""
        self._wanted = [name for name in self._schema.names if name in names]


class ParsedBlock:
    """A block that is parsed already."""

    lines = 0

    def __init__(self, rows: pa.RecordBatch, end: int, done_bytes: int) -> None:
        self._rows, self.end, self.done_bytes = rows, end, done_bytes

    def parse(self) -> Table:
        """As of Block."""
        return Table(self._rows, self._rows.num_rows)

    def originals(self) -> list[tuple[int, str]]:
        """As of Block."""
        return []


def said(error: Exception) -> str:
    """What a library says, on one line."""
    return " ".join(str(error).split())[:300]


def one_batch(table: pa.Table) -> pa.RecordBatch:
    """The rows of a table together."""
    batches = table.combine_chunks().to_batches()
    return batches[0] if batches else pa.RecordBatch.from_pylist([], schema=table.schema)
