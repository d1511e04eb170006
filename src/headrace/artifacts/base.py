"""The nouns of the room: a uri taken apart, a file of it, what a uri stands for now, and what a scheme has to offer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

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
