"""An object as a file that is read from anywhere: what `base.Objects.open` gives for buckets and for URLs."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from typing import Any, Final, Protocol

from headrace.artifacts import failures
from headrace.errors import ArtifactUnreachable

_BUFFER: Final = 256 << 10  # a request per buffer until reading proves to be straight on
_STRAIGHT: Final = 16 << 20  # what is larger is taken to be read straight on from its start


class Ranges(Protocol):
    """The bytes from here to there, of one object."""

    def __call__(self, *, start: int, end: int) -> Iterator[bytes | memoryview]:
        """Its chunks.

        Raises:
            ArtifactCorrupt: it is another object by now.
            ArtifactFailed: one of its other causes.
        """


def open_reader(name: str, size: int, ranges: Ranges, *, retries: int) -> io.BufferedReader:
    """A file over a way to get ranges.

    Args:
        name: For messages.
        size: Bytes of all of it.
        ranges: Gets them.
        retries: Further tries of a range that breaks off; the next begins where bytes ended.
    """
    return io.BufferedReader(_Reader(name, size, ranges, retries), _BUFFER)


class _Reader(io.RawIOBase):
    """Reads a range when it is read here and there, and one stream to the end when it is read straight on."""

    def __init__(self, name: str, size: int, ranges: Ranges, retries: int) -> None:
        self._name, self._size, self._ranges, self._retries = name, size, ranges, retries
        self._at = 0
        self._next = self._end = 0 if size > _STRAIGHT else -1  # where the open range goes on, and where it ends
        self._chunks: Iterator[bytes | memoryview] = iter(())
        self._chunk = memoryview(b"")

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise ValueError(f"no place before the start of {self._name}")
        self._at = base + offset
        return self._at

    def readall(self) -> bytes:
        out = bytearray(max(0, self._size - self._at))  # asked for as one range, and not buffer by buffer
        view = memoryview(out)
        while view:
            view = view[self.readinto(view) :]
        return bytes(out)

    def readinto(self, buffer: Any) -> int:
        out = memoryview(buffer).cast("B")
        count = min(len(out), self._size - self._at)
        if count <= 0:
            return 0
        straight = self._at == self._next
        if not straight or self._at == self._end:
            self._open(self._size if straight else self._at + count)
        tried = 0
        while not self._chunk:
            try:
                self._chunk = self._pulled()
            except ArtifactUnreachable:
                end, self._end = self._end, self._at  # the next read asks anew, whether this one is given up or not
                if tried == self._retries:
                    raise
                time.sleep(failures.pause_seconds(tried))
                tried += 1
                self._open(end)
        got = min(count, len(self._chunk))
        out[:got] = self._chunk[:got]
        self._chunk = self._chunk[got:]
        self._at += got
        self._next = self._at
        return got

    def close(self) -> None:
        self._chunks, self._chunk = iter(()), memoryview(b"")  # which lets go of the connection
        super().close()

    def _pulled(self) -> memoryview:
        for chunk in self._chunks:
            if chunk:
                return memoryview(chunk)
        raise ArtifactUnreachable(f"{self._name}: broke off at byte {self._at} of {self._size}")

    def _open(self, end: int) -> None:
        self._chunks, self._chunk = self._ranges(start=self._at, end=end), memoryview(b"")
        self._next, self._end = self._at, end
