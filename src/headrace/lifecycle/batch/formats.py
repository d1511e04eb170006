"""Files of rows, read in pieces and written in batches: CSV, JSON lines, Parquet, Arrow IPC.

`run` calls it. A reader runs in one thread and cuts a file into `Block`s, cheaply; what costs time, the parsing of
text, is `Block.parse`, which any thread may do. Each block knows where the next begins, so that a job can go on there.
No block depends on another: types are those that the model wants, not those of the rows that came first.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO, Final, Literal, Protocol, get_args

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.ipc
import pyarrow.json
import pyarrow.parquet

from headrace.errors import ArtifactCorrupt, InvalidRequest, NotSupported
from headrace.lifecycle.batch.base import Format

Compression = Literal["", "gz", "zst", "bz2"]

_SUFFIXES: Final[dict[str, Format]] = {
    ".csv": "csv",
    ".tsv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".arrow": "arrow",
    ".arrows": "arrow",
    ".feather": "arrow",
    ".ipc": "arrow",
}
SUFFIX_OF: Final[dict[Format, str]] = {"csv": ".csv", "jsonl": ".jsonl", "parquet": ".parquet", "arrow": ".arrow"}
_COMPRESSED: Final[dict[str, Compression]] = {".gz": "gz", ".zst": "zst", ".zstd": "zst", ".bz2": "bz2"}
_CODECS: Final = {"gz": "gzip", "zst": "zstd", "bz2": "bz2"}
_MAGIC: Final[tuple[tuple[bytes, Compression], ...]] = (
    (b"\x1f\x8b", "gz"),
    (b"\x28\xb5\x2f\xfd", "zst"),
    (b"BZh", "bz2"),
)
_FIRST: Final = 1 << 14
_LEAST, _MOST = 1 << 12, 1 << 26
MAX_ROW_BYTES: Final = 1 << 26
"""A text row that is longer ends the job: it is hardly one."""
_SNIFFED: Final = 1 << 20
_BOM: Final = b"\xef\xbb\xbf"
_OTHER_DELIMITERS: Final = "\t;|"


class Fault(msgspec.Struct, frozen=True):
    """A row that is none."""

    row: int
    """In its block."""
    reason: str


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


# -- what it is --


def format_of(name: str) -> tuple[Format | None, Compression]:
    """What a name's suffixes say; None: nothing."""
    low = name.lower()
    compression: Compression = ""
    for suffix, kind in _COMPRESSED.items():
        if low.endswith(suffix):
            low, compression = low.removesuffix(suffix), kind
            break
    found = next((each for suffix, each in _SUFFIXES.items() if low.endswith(suffix)), None)
    return found, compression


def stem_of(name: str) -> str:
    """The name without the suffixes of its format and compression."""
    for endings in (_COMPRESSED, _SUFFIXES):
        ending = next((each for each in endings if name.lower().endswith(each)), "")
        name = name[: len(name) - len(ending)]
    return name


def _sniffed(head: bytes) -> Format:
    if head.startswith(b"PAR1"):
        return "parquet"
    if head.startswith((b"ARROW1", b"\xff\xff\xff\xff")):
        return "arrow"
    return "jsonl" if head.removeprefix(_BOM).lstrip().startswith(b"{") else "csv"


def open_reader(
    file: BinaryIO, name: str, wanted: Format | Literal["auto"] = "auto", *, names: Sequence[str] = ()
) -> Reader:
    """A file's reader.

    Args:
        file: Seekable; stays open for as long as it is read.
        name: For its suffixes, and for messages.
        wanted: The format; `auto`: by suffix, then by content.
        names: Of the columns of a CSV file whose first line is a row; empty: its first line has them.

    Raises:
        InvalidRequest: it is empty, or cannot be read as what it is; names it.
        NotSupported: Parquet or Arrow is compressed as a whole.
    """
    by_name, _ = format_of(name)
    head = file.read(8)
    file.seek(0)
    compression = next((kind for magic, kind in _MAGIC if head.startswith(magic)), "")
    kind = by_name if wanted == "auto" else wanted
    if kind is None:
        kind = _sniffed(head if not compression else _text_of(file, compression).read(8))
        file.seek(0)
    try:
        if kind in {"csv", "jsonl"}:
            text = _Text(file, name, compression)
            if kind == "jsonl":
                return _Jsonl(text)
            return _Csv(text, delimiter="\t" if ".tsv" in name.lower() else "", names=names)
        if compression:
            raise NotSupported(
                f"{name} is {kind}, compressed as a whole ({compression}): decompress it first, or compress within it"
            )
        return _Parquet(file, name) if kind == "parquet" else _Arrow(file, name)
    except pa.ArrowInvalid as exc:
        raise InvalidRequest(f"{name} cannot be read as {kind}: {_said(exc)}") from exc


def _said(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def _text_of(file: BinaryIO, compression: Compression | str) -> Any:
    return pa.CompressedInputStream(_Lent(file), _CODECS[compression]) if compression else file


class _Lent(io.RawIOBase):
    """A file that whoever gets it cannot close, as Arrow's streams do with theirs; `over`: what is written is lost."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.over = file, False

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        return self._file.read(size)

    def write(self, data: Any) -> int:
        return len(memoryview(data).cast("B")) if self.over else self._file.write(data)


# -- text --


class _Text:
    """The bytes of a text file, in pieces that end where rows end."""

    def __init__(self, file: BinaryIO, name: str, compression: str) -> None:
        self.name, self._file, self._compression = name, file, compression

    def head(self) -> bytes:
        """The first bytes."""
        self._file.seek(0)
        return self._read(_text_of(self._file, self._compression), _SNIFFED)

    def pieces(
        self, start: int, cut: Callable[[bytes], int], size: Callable[[], int]
    ) -> Iterator[tuple[bytes, int, int]]:
        """Bytes, where they end, and how much of the stored file was read."""
        self._file.seek(0)
        source = _text_of(self._file, self._compression)
        if self._compression:
            left = start
            while left:
                left -= len(self._read(source, min(left, _MOST)) or self._short(start))
        else:
            self._file.seek(start)
        kept, at = b"", start
        while True:
            came = self._read(source, max(size(), len(kept)))
            whole = kept + came if kept else came
            if not came:
                if whole:
                    yield whole, at + len(whole), self._file.tell()
                return
            end = cut(whole)
            kept = whole[end:]
            if len(kept) > MAX_ROW_BYTES:
                raise InvalidRequest(
                    f"{self.name}: the row at byte {at + end} has no end within {MAX_ROW_BYTES >> 20} MiB; "
                    "is a quote not closed?"
                )
            if end:
                at += end
                yield whole[:end], at, self._file.tell() if self._compression else at

    def _read(self, source: Any, size: int) -> bytes:
        try:
            return bytes(source.read(size))
        except (pa.ArrowInvalid, EOFError) as exc:
            raise ArtifactCorrupt(f"{self.name} cannot be decompressed: {_said(exc)}") from exc
        except OSError as exc:
            if self._compression and exc.errno is None:
                raise ArtifactCorrupt(f"{self.name} cannot be decompressed: {_said(exc)}") from exc
            raise

    def _short(self, start: int) -> bytes:
        raise ArtifactCorrupt(f"{self.name} ends before byte {start}, where the job was: it is another file by now")


class _Sizes:
    """How many bytes make up so many rows, learnt from what was cut."""

    def __init__(self, rows: int) -> None:
        self._rows, self._bytes, self._lines = rows, 0, 0

    def saw(self, piece: bytes) -> None:
        self._bytes += len(piece)
        self._lines += piece.count(b"\n") + 1

    def __call__(self) -> int:
        if not self._lines:
            return _FIRST
        return min(max(self._bytes * self._rows // self._lines, _LEAST), _MOST)


def _last_line(piece: bytes) -> int:
    return piece.rfind(b"\n") + 1


# -- CSV --


class _Csv:
    """Every column is text here; what is a number is known by whom it is for.

    Quotes and delimiters are as RFC 4180 has them; rows of another number of fields are faulty, lines without any are
    none.
    """

    format: Format = "csv"

    def __init__(self, text: _Text, *, delimiter: str, names: Sequence[str]) -> None:
        self._text = text
        head = text.head()
        start = len(_BOM) if head.startswith(_BOM) else 0
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
        return pa.schema([(name, pa.string()) for name in self.names])

    def want(self, names: frozenset[str], texts: frozenset[str]) -> None:
        self._wanted = [name for name in self.names if name in names]

    def blocks(self, start: int, *, rows: int) -> Iterator[_CsvBlock]:
        sizes = _Sizes(rows)
        for piece, end, done in self._text.pieces(max(start, self._start), self._cut, sizes):
            sizes.saw(piece)
            yield _CsvBlock(piece, end, done, self)

    @property
    def header_lines(self) -> int:
        """Lines before the first row."""
        return self._lines

    def _cut(self, piece: bytes) -> int:
        """Where the last row ends that ends in a piece; a quote that is not closed goes on to its end."""
        if b'"' not in piece:
            return _last_line(piece)
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

        faults: dict[int, str] = {}
        try:
            table = read(pa.string())
        except pa.ArrowInvalid as error:
            if "UTF8" not in str(error):
                raise InvalidRequest(f"{self._text.name} cannot be read as CSV: {_said(error)}") from error
            table = read(pa.binary())
        count = table.num_rows + len(wrong)
        for row in wrong:
            faults[row.number - 1] = (
                f"expected {row.expected_columns} fields, as many as the file has columns, came {row.actual_columns}"
            )
        rows = _one_batch(table)
        if rows.num_columns and pa.types.is_binary(rows.schema.types[0]):
            rows = _decoded(rows, np.delete(np.arange(count), list(faults)) if faults else np.arange(count), faults)
        return Table(rows, count, tuple(Fault(at, faults[at]) for at in sorted(faults)))

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


def _decoded(rows: pa.RecordBatch, positions: Any, faults: dict[int, str]) -> pa.RecordBatch:
    """Columns of bytes as text; rows with what is none are faulty, and left out."""
    bad: dict[int, str] = {}
    for name, column in zip(rows.schema.names, rows.columns, strict=True):
        for at, value in enumerate(column.to_pylist()):
            try:
                value.decode()
            except UnicodeDecodeError:
                bad.setdefault(at, f"column '{name}': expected UTF-8 text, came {value[:60]!r}")
    good = pa.array(np.delete(np.arange(rows.num_rows), sorted(bad)))
    faults.update({int(positions[at]): reason for at, reason in bad.items()})
    kept = rows.take(good)
    return pa.RecordBatch.from_arrays([each.cast(pa.string()) for each in kept.columns], names=rows.schema.names)


class _CsvBlock:
    def __init__(self, piece: bytes, end: int, done_bytes: int, reader: _Csv) -> None:
        self._piece, self.end, self.done_bytes, self._reader = piece, end, done_bytes, reader

    def parse(self) -> Table:
        return self._reader.parse(self._piece)

    def originals(self) -> list[tuple[int, str]]:
        return self._reader.originals(self._piece)

    @property
    def lines(self) -> int:
        return self._piece.count(b"\n")


# -- JSON lines --


class _Jsonl:
    """An object a line. Types are those of the first rows, for kept columns and lists as well; a value of another type
    makes its row faulty, but for whole numbers among others. Lines without anything are none.
    """

    format: Format = "jsonl"

    def __init__(self, text: _Text) -> None:
        self._text = text
        head = text.head()
        self._start = len(_BOM) if head.startswith(_BOM) else 0
        end = _last_line(head) if len(head) >= _SNIFFED else len(head)
        self._schema = self._sampled(head[self._start : end])
        self._texts: frozenset[str] = frozenset()
        self._wanted = self._schema

    @property
    def schema(self) -> pa.Schema:
        return self._schema

    @property
    def header_lines(self) -> int:
        """Lines before the first row."""
        return 0

    def want(self, names: frozenset[str], texts: frozenset[str]) -> None:
        fields = [
            pa.field(each.name, pa.string() if each.name in texts and not pa.types.is_list(each.type) else each.type)
            for each in self._schema
            if each.name in names
        ]
        self._wanted = pa.schema(fields)

    def blocks(self, start: int, *, rows: int) -> Iterator[_JsonBlock]:
        sizes = _Sizes(rows)
        for piece, end, done in self._text.pieces(max(start, self._start), _last_line, sizes):
            sizes.saw(piece)
            yield _JsonBlock(piece, end, done, self)

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
        return Table(_one_batch(table), table.num_rows)

    def _line_by_line(self, piece: bytes) -> Table:
        values: list[dict[str, Any]] = []
        faults: dict[int, str] = {}
        for at, (_, text) in enumerate(self.originals(piece)):
            try:
                values.append(msgspec.json.decode(text, type=dict[str, Any]))
            except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                faults[at] = f"expected a JSON object, came what is none: {_said(error)}"
                values.append({})
        arrays = []
        for field in self._wanted:
            array, wrong = _built([row.get(field.name) for row in values], field.type)
            arrays.append(array)
            for at, came in wrong.items():
                faults.setdefault(at, f"column '{field.name}': expected {field.type}, came {came!r:.60}")
        rows = pa.RecordBatch.from_arrays(arrays, schema=self._wanted)
        good = pa.array(np.delete(np.arange(len(values)), sorted(faults)))
        return Table(rows.take(good), len(values), tuple(Fault(at, faults[at]) for at in sorted(faults)))

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


class _JsonBlock:
    def __init__(self, piece: bytes, end: int, done_bytes: int, reader: _Jsonl) -> None:
        self._piece, self.end, self.done_bytes, self._reader = piece, end, done_bytes, reader

    def parse(self) -> Table:
        return self._reader.parse(self._piece)

    def originals(self) -> list[tuple[int, str]]:
        return self._reader.originals(self._piece)

    @property
    def lines(self) -> int:
        return self._piece.count(b"\n")


def _one_batch(table: pa.Table) -> pa.RecordBatch:
    batches = table.combine_chunks().to_batches()
    return batches[0] if batches else pa.RecordBatch.from_pylist([], schema=table.schema)


# -- Parquet and Arrow --


class _Batch:
    """A block that is parsed already."""

    lines = 0

    def __init__(self, rows: pa.RecordBatch, end: int, done_bytes: int) -> None:
        self._rows, self.end, self.done_bytes = rows, end, done_bytes

    def parse(self) -> Table:
        return Table(self._rows, self._rows.num_rows)

    def originals(self) -> list[tuple[int, str]]:
        return []


class _Parquet:
    format: Format = "parquet"
    header_lines = 0

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._name = name
        self._file = pyarrow.parquet.ParquetFile(file, pre_buffer=True)
        self._schema: pa.Schema = self._file.schema_arrow.remove_metadata()
        self._wanted = list(self._schema.names)
        self._size = file.seek(0, 2)

    @property
    def schema(self) -> pa.Schema:
        return self._schema

    def want(self, names: frozenset[str], texts: frozenset[str]) -> None:
        self._wanted = [name for name in self._schema.names if name in names]

    def blocks(self, start: int, *, rows: int) -> Iterator[_Batch]:
        metadata = self._file.metadata
        groups = range(metadata.num_row_groups)
        scale = self._size / max(1, sum(metadata.row_group(group).total_byte_size for group in groups))
        at = done = 0
        for group in groups:
            described = metadata.row_group(group)
            count, size = described.num_rows, int(described.total_byte_size * scale)
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
                        yield _Batch(kept, end, done - size + share)
                    at = end
            except (pa.ArrowInvalid, OSError) as exc:
                raise ArtifactCorrupt(
                    f"{self._name}: row group {group} cannot be read as Parquet: {_said(exc)}"
                ) from exc


class _Arrow:
    format: Format = "arrow"
    header_lines = 0

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._source, self._name = file, name
        magic = file.read(6)
        file.seek(0)
        self._seekable = magic == b"ARROW1"
        self._file = (pyarrow.ipc.open_file if self._seekable else pyarrow.ipc.open_stream)(file)
        self._schema: pa.Schema = self._file.schema.remove_metadata()
        self._wanted = list(self._schema.names)

    @property
    def schema(self) -> pa.Schema:
        return self._schema

    def want(self, names: frozenset[str], texts: frozenset[str]) -> None:
        self._wanted = [name for name in self._schema.names if name in names]

    def blocks(self, start: int, *, rows: int) -> Iterator[_Batch]:
        at = 0
        for batch in self._batches():
            for low in range(0, batch.num_rows, rows):
                piece = batch.slice(low, rows)
                end = at + piece.num_rows
                if end > start:
                    yield _Batch(piece.slice(max(0, start - at)).select(self._wanted), end, self._source.tell())
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
            raise ArtifactCorrupt(f"{self._name} cannot be read as Arrow IPC: {_said(exc)}") from exc


# -- writing --


class Writer(Protocol):
    """An output that is open. Its columns are those of the first batch."""

    def write(self, batch: pa.RecordBatch) -> None:
        """Add rows."""

    def close(self) -> None:
        """Write what stands at the end; the file stays open."""

    def abandon(self) -> None:
        """Write nothing more, whatever was written is not to be read."""


def open_writer(file: BinaryIO, kind: Format, compression: Compression = "") -> Writer:
    """A writer of a format.

    Raises:
        NotSupported: Parquet or Arrow is to be compressed as a whole.
    """
    if kind in {"parquet", "arrow"} and compression:
        raise NotSupported(f"an output of {kind} is not compressed as a whole: leave {compression} out of its name")
    lent = _Lent(file)
    if kind == "parquet":
        return _ParquetWriter(lent)
    if kind == "arrow":
        return _ArrowWriter(lent)
    sink = pa.CompressedOutputStream(lent, _CODECS[compression]) if compression else lent
    made: _CsvWriter | _JsonWriter = _CsvWriter(lent, sink) if kind == "csv" else _JsonWriter(lent, sink)
    return made


class _Writing:
    """What the writers have in common: the file, and Arrow's writer once there are columns."""

    def __init__(self, file: _Lent, sink: Any = None) -> None:
        self._file, self._sink = file, file if sink is None else sink
        self._writer: Any = None

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
        if self._sink is not self._file:
            self._sink.close()

    def abandon(self) -> None:
        self._file.over = True
        self.close()


class _ParquetWriter(_Writing):
    """Row groups of some size, whatever the batches' is."""

    _ROWS = 1 << 17

    def __init__(self, file: _Lent) -> None:
        super().__init__(file)
        self._held: list[pa.RecordBatch] = []
        self._rows = 0

    def write(self, batch: pa.RecordBatch) -> None:
        if self._writer is None:
            self._writer = pyarrow.parquet.ParquetWriter(self._file, batch.schema)
        self._held.append(batch)
        self._rows += batch.num_rows
        if self._rows >= self._ROWS:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(pa.Table.from_batches(self._held), row_group_size=self._ROWS)
        self._held, self._rows = [], 0

    def close(self) -> None:
        self._flush()
        super().close()

    def abandon(self) -> None:
        self._held, self._rows = [], 0
        super().abandon()


class _ArrowWriter(_Writing):
    def write(self, batch: pa.RecordBatch) -> None:
        if self._writer is None:
            self._writer = pyarrow.ipc.new_file(self._file, batch.schema)
        if batch.num_rows:
            self._writer.write_batch(batch)


class _CsvWriter(_Writing):
    """Lists of a fixed number of values become columns `NAME_0`, `NAME_1`, ...; deeper ones JSON."""

    def __init__(self, file: _Lent, sink: Any) -> None:
        super().__init__(file, sink)
        self._widths: dict[str, int] = {}

    def write(self, batch: pa.RecordBatch) -> None:
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


class _JsonWriter(_Writing):
    def __init__(self, file: _Lent, sink: Any) -> None:
        super().__init__(file, sink)
        self._encode = msgspec.json.Encoder(enc_hook=str).encode_lines

    def write(self, batch: pa.RecordBatch) -> None:
        if batch.num_rows:
            self._sink.write(self._encode(batch.to_pylist()))


FORMATS: Final[tuple[str, ...]] = get_args(Format)
