"""The bytes of a text file, plain or compressed, in pieces that end where rows end. `csv` and `jsonl` read so."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, Final, Protocol

import pyarrow as pa

from headrace.errors import ArtifactCorrupt, InvalidRequest
from headrace.lifecycle.batch.formats.base import Lent, Table, said

CODECS: Final = {"gz": "gzip", "zst": "zstd", "bz2": "bz2"}
_FIRST: Final = 1 << 14
_LEAST, _MOST = 1 << 12, 1 << 26
MAX_ROW_BYTES: Final = 1 << 26
"""A text row that is longer ends the job: it is hardly one."""
SNIFFED: Final = 1 << 20
BOM: Final = b"\xef\xbb\xbf"


def text_of(file: BinaryIO, compression: str) -> Any:
    """The text that a file holds, uncompressed where it is compressed; the file stays open."""
    return pa.CompressedInputStream(Lent(file), CODECS[compression]) if compression else file


class Text:
    """The bytes of a text file, in pieces that end where rows end."""

    def __init__(self, file: BinaryIO, name: str, compression: str) -> None:
        self.name, self._file, self._compression = name, file, compression

    def head(self) -> bytes:
        """The first bytes."""
        self._file.seek(0)
        return self._read(text_of(self._file, self._compression), SNIFFED)

    def pieces(
        self, start: int, cut: Callable[[bytes], int], size: Callable[[], int]
    ) -> Iterator[tuple[bytes, int, int]]:
        """Bytes, where they end, and how much of the stored file was read."""
        self._file.seek(0)
        source = text_of(self._file, self._compression)
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
            raise ArtifactCorrupt(f"{self.name} cannot be decompressed: {said(exc)}") from exc
        except OSError as exc:
            if self._compression and exc.errno is None:
                raise ArtifactCorrupt(f"{self.name} cannot be decompressed: {said(exc)}") from exc
            raise

    def _short(self, start: int) -> bytes:
        raise ArtifactCorrupt(f"{self.name} ends before byte {start}, where the job was: it is another file by now")


class Sizes:
    """How many bytes make up so many rows, learnt from what was cut."""

    def __init__(self, rows: int) -> None:
        self._rows, self._bytes, self._lines = rows, 0, 0

    def saw(self, piece: bytes) -> None:
        """Learn from a piece."""
        self._bytes += len(piece)
        self._lines += piece.count(b"\n") + 1

    def __call__(self) -> int:
        """Bytes to be read next."""
        if not self._lines:
            return _FIRST
        return min(max(self._bytes * self._rows // self._lines, _LEAST), _MOST)


def last_line(piece: bytes) -> int:
    """Where the last line ends that ends in a piece; 0: none does."""
    return piece.rfind(b"\n") + 1


class Parser(Protocol):
    """Who knows the rows of a piece."""

    def parse(self, piece: bytes) -> Table:
        """They, parsed."""

    def originals(self, piece: bytes) -> list[tuple[int, str]]:
        """Line, from 1, and text of each."""


class TextBlock:
    """A piece that is parsed when it is asked for."""

    def __init__(self, piece: bytes, end: int, done_bytes: int, parser: Parser) -> None:
        self._piece, self.end, self.done_bytes, self._parser = piece, end, done_bytes, parser

    def parse(self) -> Table:
        """As of Block."""
        return self._parser.parse(self._piece)

    def originals(self) -> list[tuple[int, str]]:
        """As of Block."""
        return self._parser.originals(self._piece)

    @property
    def lines(self) -> int:
        """As of Block."""
        return self._piece.count(b"\n")
