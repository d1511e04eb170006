"""The nouns of the room: a uri taken apart, a file of it, what a uri stands for now, what a scheme has to offer, and
what objects there are at it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import BinaryIO, Protocol, runtime_checkable

import msgspec


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One file below a uri."""

    path: str
    """Relative to the uri, with `/`; of a uri that is a file: its name."""
    size: int = -1
    """Bytes; -1: the store does not say before it is read."""
    etag: str = ""
    """Changes when the bytes do; empty: the store has none."""
    modified: float = 0.0
    """Seconds since the epoch; 0: not known."""
    sha256: str = ""
    """Hexadecimal; empty: the store does not say. What comes is checked against it."""


class Pinned(msgspec.Struct, frozen=True, kw_only=True):
    """What a uri stands for now. `models:/iris@champion` is `models:/iris/3` until the alias moves."""

    uri: str
    """Names the same bytes later on, or as nearly so as the store can tell. No secret is in it."""
    token: str
    """Equal as long as the bytes are: a version, or a digest over paths, sizes and etags."""
    version: str = ""
    """For people: `3` of a registered model; empty: there is none."""


class Source(Protocol):
    """The files of one uri, as a scheme opens it. Methods block; `read` is called from several threads at once."""

    def pin(self) -> Pinned:
        """What the uri stands for now.

        Raises:
            ArtifactFailed: one of its causes.
        """

    def entries(self) -> Sequence[Entry]:
        """Its files, at least one.

        Raises:
            ArtifactNotFound: there are none.
            ArtifactFailed: one of its other causes.
        """

    def read(self, entry: Entry, *, start: int = 0) -> Iterator[bytes | memoryview]:
        """The bytes of one file from an offset on, in chunks. A source that cannot begin in the middle begins at 0 and
        drops what comes before.

        Raises:
            ArtifactCorrupt: it is another file by now (its etag is not the entry's).
            ArtifactFailed: one of its other causes.
        """

    def close(self) -> None:
        """Let go of connections. Twice is once."""


@runtime_checkable
class Ranged(Protocol):
    """What a `Source` may have as well: parts of a file, which then come at the same time."""

    @property
    def ranges(self) -> bool:
        """Whether it has, now that it is known where the files are."""

    def read_range(self, entry: Entry, *, start: int, end: int) -> Iterator[bytes | memoryview]:
        """The bytes of a part of a file. Raises as `Source.read`."""


class Fetched(msgspec.Struct, frozen=True, kw_only=True):
    """A uri on this machine."""

    path: str
    """A folder, or a file where the uri is one. Nobody writes to it, and it stays as it is."""
    pinned: Pinned
    files: int
    bytes: int
    """Of all files."""
    downloaded_bytes: int
    """Of these, what came now; the rest was here."""


class Progress(msgspec.Struct, frozen=True):
    """How far a download is."""

    done_bytes: int
    total_bytes: int
    """-1: not known yet."""
    done_files: int
    total_files: int
    name: str
    """The file that moved last."""


class ObjectInfo(msgspec.Struct, frozen=True, kw_only=True):
    """An object, as its store tells it."""

    uri: str
    path: str
    """Below the `Objects` it is of."""
    size: int
    """Bytes; -1: not known before it is read."""
    etag: str
    """Changes when the bytes do, without quotes; empty: the store has none."""
    modified: float
    """Seconds since the epoch; 0: not known."""


class Objects(Protocol):
    """A folder, bucket or prefix. Methods block, and may be called from several threads."""

    @property
    def uri(self) -> str:
        """As it may be shown."""

    def list(self, pattern: str = "") -> Iterator[ObjectInfo]:
        """Objects that fit a glob (`*`, `?`, `[...]`, and `**` across folders), or that are below a prefix of whole
        path segments. Nothing there is no error.

        Raises:
            ArtifactFailed: one of its causes.
        """

    def head(self, path: str) -> ObjectInfo:
        """What is known of one.

        Raises:
            ArtifactNotFound: it is not there.
            ArtifactFailed: one of its other causes.
        """

    def read(self, path: str) -> bytes:
        """All of one. Raises as `head`; ArtifactCorrupt where less came than was announced."""

    def open(self, path: str) -> BinaryIO:
        """One to be read from anywhere; a connection that breaks is made again. Raises as `head`, and ArtifactCorrupt
        from its own methods once the object is not the one that was opened.
        """

    def write(self, path: str) -> AbstractContextManager[BinaryIO]:
        """One to be written, in one go. It is there, whole, when the body ended well, and not at all otherwise.

        Raises:
            ArtifactFailed: one of its causes, at the end or while it is written.
        """

    def put(self, path: str, data: bytes, *, if_absent: bool = False, if_match: str | None = None) -> str | None:
        """Write a small one at once.

        Args:
            path: Its name.
            data: Its bytes.
            if_absent: Only where none is there.
            if_match: Only over the one of this etag.

        Returns:
            Its etag (empty: the store has none); None: the condition did not hold.

        Raises:
            ArtifactFailed: one of its causes.
        """

    def probe(self, path: str) -> None:
        """Find out whether one could be written, and leave nothing there. Raises ArtifactFailed: it could not; Azure's
        stores say so only when it is written.
        """

    def delete(self, path: str) -> None:
        """Take one away; one that is not there is no error."""

    def close(self) -> None:
        """Let go of connections. Twice is once."""
