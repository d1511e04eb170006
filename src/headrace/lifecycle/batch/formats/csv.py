"""CSV, read and written."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.csv

from headrace.errors import InvalidRequest, NotSupported
from headrace.lifecycle.batch.base import Format
from headrace.lifecycle.batch.formats.base import Fault, Lent, Table, Writing, one_batch, said
from headrace.lifecycle.batch.formats.text import BOM, Sizes, Text, TextBlock, last_line

_OTHER_DELIMITERS: Final = "\t;|"


class CsvReader:
    """Every column is text here; what is a number is known by whom it is for.

    Quotes and delimiters are as RFC 4180 has them; rows of another number of fields are faulty, lines without any are
    none.
    """

    format: Format = "csv"

    def __init__(self, text: Text, *, delimiter: str, names: Sequence[str]) -> None:
        self._text = text
        head = text.head()
        start = len(BOM) if head.startswith(BOM) else 0
        while head[start : start + 1] in {b"\n", b"\r"}:
            start += 1
        if not head[start:].strip():
            raise InvalidRequest(
                f"{text.name} is empty: expected {'rows' if names else 'a line with the names of columns'}"
            )
        line, _, _ = head[start:].partition(b"\n")
        self.delimiter = delimiter or _delimiter(line)
        self._field = re.compile(
            rb"(?:^|(?<=[\n\r" + re.escape(self.delimiter.encode()) + rb']))"[^"]*+(?:""[^"]*+)*+"?'
        )
        self._start = start + (0 if names else self._first_end(head[start:]) or len(head) - start)
        try:
            found = list(names) or next(
                csv.reader(io.StringIO(head[start : self._start].decode(), newline=""), delimiter=self.delimiter)
            )
        except UnicodeDecodeError as exc:
            raise InvalidRequest(f"{text.name}: the names of its columns are not UTF-8 text: {exc.reason}") from exc
        self.names = [name.strip() for name in found]
        self._lines = head[: self._start].count(b"\n")
        self._wanted = self.names

    @property
    def schema(self) -> pa.Schema:
        """As of Reader."""
        return pa.schema([(name, pa.string()) for name in self.names])

    def want(self, names: frozenset[str], texts: frozenset[str]) -> None:
        """As of Reader."""
        self._wanted = [name for name in self.names if name in names]

    def blocks(self, start: int, *, rows: int) -> Iterator[TextBlock]:
        """As of Reader."""
        sizes = Sizes(rows)
        for piece, end, done in self._text.pieces(max(start, self._start), self._cut, sizes):
            sizes.saw(piece)
            yield TextBlock(piece, end, done, self)

    @property
    def header_lines(self) -> int:
        """Lines before the first row."""
        return self._lines

    def _cut(self, piece: bytes) -> int:
        """Where the last row ends that ends in a piece; a quote that is not closed goes on to its end."""
        if b'"' not in piece:
            return last_line(piece)
        spans = self._quoted(piece)
        at, newline = len(spans) - 1, piece.rfind(b"\n")
        while newline >= 0:
            while at >= 0 and spans[at][0] > newline:
                at -= 1
            if at < 0 or spans[at][1] <= newline:
                return newline + 1
            newline = piece.rfind(b"\n", 0, spans[at][0])
        return 0

    def _quoted(self, piece: bytes) -> list[tuple[int, int]]:
        """Where quoted fields begin and end."""
        return [found.span() for found in self._field.finditer(piece)] if b'"' in piece else []

    def _first_end(self, piece: bytes) -> int:
        """Where the first row ends."""
        spans = self._quoted(piece)
        newline = piece.find(b"\n")
        while newline >= 0 and any(low <= newline < high for low, high in spans):
            newline = piece.find(b"\n", newline + 1)
        return newline + 1

    def parse(self, piece: bytes) -> Table:
        """The rows of a piece."""
        wrong: list[Any] = []

        def heed(row: Any) -> str:
            wrong.append(row)
            return "skip"

        def read(kind: Any) -> Any:
            wrong.clear()
            return pyarrow.csv.read_csv(
                pa.BufferReader(piece),
                read_options=pyarrow.csv.ReadOptions(
                    column_names=self.names, use_threads=False, block_size=len(piece) + 1
                ),
                parse_options=pyarrow.csv.ParseOptions(
                    delimiter=self.delimiter, newlines_in_values=True, invalid_row_handler=heed
                ),
                convert_options=pyarrow.csv.ConvertOptions(
                    column_types=dict.fromkeys(self.names, kind),
                    include_columns=self._wanted,
                    strings_can_be_null=False,
                ),
            )

        faults: dict[int, Fault] = {}
        try:
            table = read(pa.string())
        except pa.ArrowInvalid as error:
            if "UTF8" not in str(error):
                raise InvalidRequest(f"{self._text.name} cannot be read as CSV: {said(error)}") from error
            table = read(pa.binary())
        count = table.num_rows + len(wrong)
        for row in wrong:
            faults[row.number - 1] = Fault(
                row.number - 1,
                f"expected {row.expected_columns} fields, as many as the file has columns, came {row.actual_columns}",
                self._known(row.text or ""),
            )
        rows = one_batch(table)
        if rows.num_columns and pa.types.is_binary(rows.schema.types[0]):
            rows = _decoded(rows, np.delete(np.arange(count), list(faults)) if faults else np.arange(count), faults)
        return Table(rows, count, tuple(faults[at] for at in sorted(faults)))

    def _known(self, text: str) -> dict[str, str]:
        """What a row of another number of fields has: of too few, the last are missing; of too many, who knows which
        delimiter is none, so only the first field is what it seems.
        """
        fields = next(csv.reader([text], delimiter=self.delimiter), [])
        return dict(zip(self.names, fields if len(fields) < len(self.names) else fields[:1], strict=False))

    def originals(self, piece: bytes) -> list[tuple[int, str]]:
        """Line and text of each row of a piece."""
        spans = self._quoted(piece)
        found, start, line, at = [], 0, 1, 0
        while start < len(piece):
            newline = piece.find(b"\n", start)
            while newline >= 0:
                while at < len(spans) and spans[at][1] <= newline:
                    at += 1
                if at == len(spans) or spans[at][0] > newline:
                    break
                newline = piece.find(b"\n", spans[at][1])
            end = len(piece) if newline < 0 else newline
            text = piece[start:end]
            if text.strip(b"\r"):
                found.append((line, text.rstrip(b"\r").decode(errors="replace")))
            line += text.count(b"\n") + 1
            start = end + 1
        return found


def _delimiter(line: bytes) -> str:
    text = line.decode(errors="replace")
    return "," if "," in text else next((each for each in _OTHER_DELIMITERS if each in text), ",")


def _decoded(rows: pa.RecordBatch, positions: Any, faults: dict[int, Fault]) -> pa.RecordBatch:
    """Columns of bytes as text; rows with what is none are faulty, and left out."""
    bad: dict[int, str] = {}
    for name, column in zip(rows.schema.names, rows.columns, strict=True):
        for at, value in enumerate(column.to_pylist()):
            try:
                value.decode()
            except UnicodeDecodeError:
                bad.setdefault(at, f"column '{name}': expected UTF-8 text, came {value[:60]!r}")
    for at, reason in bad.items():
        row = {name: rows.column(name)[at].as_py().decode(errors="replace") for name in rows.schema.names}
        faults[int(positions[at])] = Fault(int(positions[at]), reason, row)
    good = pa.array(np.delete(np.arange(rows.num_rows), sorted(bad)))
    kept = rows.take(good)
    return pa.RecordBatch.from_arrays([each.cast(pa.string()) for each in kept.columns], names=rows.schema.names)


class CsvWriter(Writing):
    """Lists of a fixed number of values become columns `NAME_0`, `NAME_1`, ...; deeper ones JSON."""

    def __init__(self, file: Lent, sink: Any) -> None:
        super().__init__(file, sink)
        self._widths: dict[str, int] = {}

    def write(self, batch: pa.RecordBatch) -> None:
        """As of Writer."""
        if self._writer is None:
            self._settle(batch)
        flat = self._flat(batch)
        if self._writer is None:
            options = pyarrow.csv.WriteOptions(quoting_style="needed")
            self._writer = pyarrow.csv.CSVWriter(self._sink, flat.schema, write_options=options)
        self._writer.write_batch(flat)

    def _settle(self, batch: pa.RecordBatch) -> None:
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            if pa.types.is_list(column.type) and not pa.types.is_list(column.type.value_type):
                lengths = {length for length in column.value_lengths().to_pylist() if length is not None}
                if len(lengths) == 1:
                    self._widths[name] = lengths.pop()

    def _flat(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        names: list[str] = []
        arrays: list[Any] = []
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            kind = column.type
            width = self._widths.get(name)
            if width is not None and set(column.value_lengths().to_pylist()) <= {width}:
                values = column.flatten()
                for at in range(width):
                    names.append(f"{name}_{at}")
                    arrays.append(values.take(pa.array(np.arange(len(column)) * width + at)))
            elif width is not None:
                raise NotSupported(
                    f"column '{name}' holds lists of different lengths: write Parquet, Arrow or JSON lines"
                )
            elif pa.types.is_nested(kind):
                names.append(name)
                texts = [
                    None if each is None else msgspec.json.encode(each, enc_hook=str).decode()
                    for each in column.to_pylist()
                ]
                arrays.append(pa.array(texts, pa.string()))
            else:
                names.append(name)
                arrays.append(column.dictionary_decode() if pa.types.is_dictionary(kind) else column)
        return pa.RecordBatch.from_arrays(arrays, names=names)
