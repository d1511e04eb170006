"""Parquet, read by its row groups, and written in row groups of its own size."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet

from headrace.errors import ArtifactCorrupt
from headrace.lifecycle.batch.base import Format
from headrace.lifecycle.batch.formats.base import ColumnReader, Lent, ParsedBlock, Writing, said


class ParquetReader(ColumnReader):
    """Row group after row group; only columns that are wanted leave the disk."""

    format: Format = "parquet"

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file = pyarrow.parquet.ParquetFile(file, pre_buffer=True)
        super().__init__(name, self._file.schema_arrow)
        self._size = file.seek(0, 2)

    @property
    def groups(self) -> list[tuple[int, int]]:
        """Rows of each row group, and its bytes in the file, about."""
        found = [self._file.metadata.row_group(at) for at in range(self._file.metadata.num_row_groups)]
        scale = self._size / max(1, sum(each.total_byte_size for each in found))
        return [(each.num_rows, int(each.total_byte_size * scale)) for each in found]

    def blocks(self, start: int, *, rows: int) -> Iterator[ParsedBlock]:
        """As of Reader."""
        at = done = 0
        for group, (count, size) in enumerate(self.groups):
            done += size
            if at + count <= start:
                at += count
                continue
            first = at
            try:
                for batch in self._file.iter_batches(rows, row_groups=[group], columns=self._wanted):
                    end = at + batch.num_rows
                    if end > start:
                        kept = batch.slice(max(0, start - at))
                        share = size * (end - first) // max(count, 1)
                        yield ParsedBlock(kept, end, done - size + share)
                    at = end
            except (pa.ArrowInvalid, OSError) as exc:
                raise ArtifactCorrupt(
                    f"{self._name}: row group {group} cannot be read as Parquet: {said(exc)}"
                ) from exc


class ParquetWriter(Writing):
    """Row groups of one size, whatever the batches' is."""

    _ROWS = 1 << 17
    _DICTIONARY_BYTES = 1 << 16
    """Of distinct values of a column in a row group. Of more, a dictionary saves nothing, and the tables by which it is
    made cost 15 MiB a column at Arrow's own bound."""

    def __init__(self, file: Lent) -> None:
        super().__init__(file)
        self._held: list[pa.RecordBatch] = []
        self._rows = 0

    def write(self, batch: pa.RecordBatch) -> None:
        """As of Writer."""
        if self._writer is None:
            self._writer = pyarrow.parquet.ParquetWriter(
                self._file, batch.schema, dictionary_pagesize_limit=self._DICTIONARY_BYTES
            )
        self._held.append(batch)
        self._rows += batch.num_rows
        while self._rows >= self._ROWS:
            self._flush(self._ROWS)

    def _flush(self, rows: int) -> None:
        if rows:
            held = pa.Table.from_batches(self._held)
            self._writer.write_table(held.slice(0, rows), row_group_size=rows)
            self._held, self._rows = held.slice(rows).to_batches(), self._rows - rows

    def close(self) -> None:
        """As of Writer."""
        self._flush(self._rows)
        super().close()

    def abandon(self) -> None:
        """As of Writer."""
        self._held, self._rows = [], 0
        super().abandon()
