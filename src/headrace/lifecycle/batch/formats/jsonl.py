"""JSON lines, read and written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.json

from headrace.errors import InvalidRequest
from headrace.lifecycle.batch.base import Format
from headrace.lifecycle.batch.formats.base import Fault, Lent, Table, Writing, one_batch, said
from headrace.lifecycle.batch.formats.text import BOM, SNIFFED, Sizes, Text, TextBlock, last_line


class JsonlReader:
    """An object a line. Types are those of the first rows, for kept columns and lists as well; a value of another type
    makes its row faulty, but for whole numbers among others. Lines without anything are none.
    """

    format: Format = "jsonl"

    def __init__(self, text: Text) -> None:
        self._text = text
        head = text.head()
        self._start = len(BOM) if head.startswith(BOM) else 0
        end = last_line(head) if len(head) >= SNIFFED else len(head)
        self._schema = self._sampled(head[self._start : end])
        self._texts: frozenset[str] = frozenset()
        self._wanted = self._schema

    @property
    def schema(self) -> pa.Schema:
        """As of Reader."""
        return self._schema

    @property
    def header_lines(self) -> int:
        """Lines before the first row."""
        return 0

    def want(self, names: frozenset[str], texts: frozenset[str]) -> None:
        """As of Reader."""
        fields = [
            pa.field(each.name, pa.string() if each.name in texts and not pa.types.is_list(each.type) else each.type)
            for each in self._schema
            if each.name in names
        ]
        self._wanted = pa.schema(fields)

    def blocks(self, start: int, *, rows: int) -> Iterator[TextBlock]:
        """As of Reader."""
        sizes = Sizes(rows)
        for piece, end, done in self._text.pieces(max(start, self._start), last_line, sizes):
            sizes.saw(piece)
            yield TextBlock(piece, end, done, self)

    def _sampled(self, head: bytes) -> pa.Schema:
        """Names and types of the first rows."""
        values: dict[str, list[Any]] = {}
        for line in head.splitlines():
            try:
                row = msgspec.json.decode(line, type=dict[str, Any]) if line.strip() else {}
            except (msgspec.MsgspecError, UnicodeDecodeError):
                continue
            for name, value in row.items():
                values.setdefault(name, []).append(value)
        if not values:
            raise InvalidRequest(f"{self._text.name} is empty or no JSON lines: expected an object a line")
        return pa.schema([(name, _type_of(found)) for name, found in values.items()])

    def parse(self, piece: bytes) -> Table:
        """The rows of a piece."""
        options = pyarrow.json.ParseOptions(explicit_schema=self._wanted, unexpected_field_behavior="ignore")
        try:
            table = pyarrow.json.read_json(
                pa.BufferReader(piece),
                read_options=pyarrow.json.ReadOptions(use_threads=False, block_size=len(piece) + 1),
                parse_options=options,
            )
        except pa.ArrowInvalid:
            return self._line_by_line(piece)
        return Table(one_batch(table), table.num_rows)

    def _line_by_line(self, piece: bytes) -> Table:
        values: list[dict[str, Any]] = []
        faults: dict[int, str] = {}
        for at, (_, text) in enumerate(self.originals(piece)):
            try:
                values.append(msgspec.json.decode(text, type=dict[str, Any]))
            except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                faults[at] = f"expected a JSON object, came what is none: {said(error)}"
                values.append({})
        arrays = []
        for field in self._wanted:
            array, wrong = _built([row.get(field.name) for row in values], field.type)
            arrays.append(array)
            for at, came in wrong.items():
                faults.setdefault(at, f"column '{field.name}': expected {field.type}, came {came!r:.60}")
        rows = pa.RecordBatch.from_arrays(arrays, schema=self._wanted)
        good = pa.array(np.delete(np.arange(len(values)), sorted(faults)))
        return Table(rows.take(good), len(values), tuple(Fault(at, faults[at], values[at]) for at in sorted(faults)))

    @staticmethod
    def originals(piece: bytes) -> list[tuple[int, str]]:
        """Line and text of each row of a piece."""
        lines = enumerate(piece.split(b"\n"), 1)
        return [(number, text.decode(errors="replace").rstrip("\r")) for number, text in lines if text.strip()]


def _type_of(values: Sequence[Any]) -> Any:
    """The type that holds all values of a column; text where there is none."""
    present = [value for value in values if value is not None]
    if not present:
        return pa.float64()
    kinds = {type(value) for value in present}
    if kinds == {bool}:
        return pa.bool_()
    if kinds == {int} and all(-(2**63) <= value < 2**63 for value in present):
        return pa.int64()
    if kinds <= {int, float}:
        return pa.float64()
    if kinds == {list}:
        return pa.list_(_type_of([each for value in present for each in value]))
    if kinds == {dict}:
        try:
            return pa.array(present).type
        except pa.ArrowInvalid:
            return pa.string()
    counts = {kind: sum(type(value) is kind for value in present) for kind in kinds}
    common = max(counts, key=lambda kind: counts[kind])
    return _type_of([value for value in present if type(value) is common]) if common is not str else pa.string()


def _built(values: list[Any], kind: Any) -> tuple[Any, dict[int, Any]]:
    """A column; values that do not fit are null in it, and told."""
    try:
        return pa.array(values, kind), {}
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        wrong = {}
        fitting: list[Any] = []
        for at, value in enumerate(values):
            try:
                pa.scalar(value, kind)
            except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
                wrong[at] = value
                fitting.append(None)
            else:
                fitting.append(value)
        return pa.array(fitting, kind), wrong


class JsonlWriter(Writing):
    """An object a line; NaN and infinity have no form in JSON, and are null."""

    def __init__(self, file: Lent, sink: Any) -> None:
        super().__init__(file, sink)
        self._encode = msgspec.json.Encoder(enc_hook=str).encode_lines

    def write(self, batch: pa.RecordBatch) -> None:
        """As of Writer."""
        if batch.num_rows:
            self._sink.write(self._encode(batch.to_pylist()))
