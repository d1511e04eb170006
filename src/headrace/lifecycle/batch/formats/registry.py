"""Who reads a file, by its name and content, and who writes one. Jobs, engines and sketches open files here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import BinaryIO, Final, Literal

import pyarrow as pa

from headrace.errors import InvalidRequest, NotSupported
from headrace.lifecycle.batch.base import Format
from headrace.lifecycle.batch.formats.arrow import ArrowReader, ArrowWriter
from headrace.lifecycle.batch.formats.base import Lent, Reader, Writer, said
from headrace.lifecycle.batch.formats.csv import CsvReader, CsvWriter
from headrace.lifecycle.batch.formats.jsonl import JsonlReader, JsonlWriter
from headrace.lifecycle.batch.formats.names import Compression, format_of
from headrace.lifecycle.batch.formats.parquet import ParquetReader, ParquetWriter
from headrace.lifecycle.batch.formats.text import BOM, CODECS, Text, text_of

_MAGIC: Final[tuple[tuple[bytes, Compression], ...]] = (
    (b"\x1f\x8b", "gz"),
    (b"\x28\xb5\x2f\xfd", "zst"),
    (b"BZh", "bz2"),
)


def _sniffed(head: bytes) -> Format:
    if head.startswith(b"PAR1"):
        return "parquet"
    if head.startswith((b"ARROW1", b"\xff\xff\xff\xff")):
        return "arrow"
    return "jsonl" if head.removeprefix(BOM).lstrip().startswith(b"{") else "csv"


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
        kind = _sniffed(head if not compression else text_of(file, compression).read(8))
        file.seek(0)
    try:
        if kind in {"csv", "jsonl"}:
            text = Text(file, name, compression)
            if kind == "jsonl":
                return JsonlReader(text)
            return CsvReader(text, delimiter="\t" if ".tsv" in name.lower() else "", names=names)
        if compression:
            raise NotSupported(
                f"{name} is {kind}, compressed as a whole ({compression}): decompress it first, or compress within it"
            )
        return ParquetReader(file, name) if kind == "parquet" else ArrowReader(file, name)
    except pa.ArrowInvalid as exc:
        raise InvalidRequest(f"{name} cannot be read as {kind}: {said(exc)}") from exc


def open_writer(file: BinaryIO, kind: Format, compression: Compression = "") -> Writer:
    """A writer of a format.

    Raises:
        NotSupported: Parquet or Arrow is to be compressed as a whole.
    """
    if kind in {"parquet", "arrow"} and compression:
        raise NotSupported(f"an output of {kind} is not compressed as a whole: leave {compression} out of its name")
    lent = Lent(file)
    if kind == "parquet":
        return ParquetWriter(lent)
    if kind == "arrow":
        return ArrowWriter(lent)
    sink = pa.CompressedOutputStream(lent, CODECS[compression]) if compression else lent
    made: CsvWriter | JsonlWriter = CsvWriter(lent, sink) if kind == "csv" else JsonlWriter(lent, sink)
    return made
