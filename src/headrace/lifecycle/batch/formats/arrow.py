"""Arrow IPC, read as file and as stream, and written as a file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

import pyarrow as pa
import pyarrow.ipc

from headrace.errors import ArtifactCorrupt
from headrace.lifecycle.batch.base import Format
from headrace.lifecycle.batch.formats.base import ColumnReader, ParsedBlock, Writing, said


class ArrowReader(ColumnReader):
    """Batch after batch of either kind, file or stream; which, its first bytes say."""

    format: Format = "arrow"

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._source = file
        magic = file.read(6)
        file.seek(0)
        self._seekable = magic == b"ARROW1"
        self._file = (pyarrow.ipc.open_file if self._seekable else pyarrow.ipc.open_stream)(file)
        super().__init__(name, self._file.schema)

    def blocks(self, start: int, *, rows: int) -> Iterator[ParsedBlock]:
        """As of Reader."""
        at = 0
        for batch in self._batches():
            for low in range(0, batch.num_rows, rows):
                piece = batch.slice(low, rows)
                end = at + piece.num_rows
                if end > start:
                    yield ParsedBlock(piece.slice(max(0, start - at)).select(self._wanted), end, self._source.tell())
                at = end

    def _batches(self) -> Iterator[pa.RecordBatch]:
        try:
            if self._seekable:
                for number in range(self._file.num_record_batches):
                    yield self._file.get_batch(number)
            else:
                self._source.seek(0)
                yield from pyarrow.ipc.open_stream(self._source)
        except (pa.ArrowInvalid, OSError) as exc:
            raise ArtifactCorrupt(f"{self._name} cannot be read as Arrow IPC: {said(exc)}") from exc


class ArrowWriter(Writing):
    """A batch of the file for each batch that has rows."""

    def write(self, batch: pa.RecordBatch) -> None:
        """As of Writer."""
        if self._writer is None:
            self._writer = pyarrow.ipc.new_file(self._file, batch.schema)
        if batch.num_rows:
            self._writer.write_batch(batch)
