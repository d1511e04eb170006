"""A large file that comes in parts, several at once: which of them are there is kept beside it, so that a later process
goes on where a killed one ended, and its digest follows the parts, so that the file is not read once more at the end.
`fetch` writes it.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

from headrace.errors import ArtifactCorrupt

PART: Final = 8 << 20
"""Bytes of each but the last."""
_CHUNK: Final = 1 << 20


class Parts:
    """The file. `came` and `finished` may be called from several threads.

    Args:
        file: Where it is put together.
        size: Bytes of all of it.
    """

    def __init__(self, file: Path, size: int) -> None:
        self.file, self.size = file, size
        self._count = -(-size // PART)
        self._journal = file.with_name(f"{file.name}.parts")
        self._there: set[int] = set()
        self._digest = hashlib.sha256()
        self._hashed = 0
        self._hashing = False
        self._noting = threading.Lock()

    def open(self, *, resume: bool) -> None:
        """Take up what is there; nothing, unless the store is sure to have the same bytes."""
        if not resume or not self.file.exists():
            self._journal.unlink(missing_ok=True)
        self._there = _read(self._journal, self._count)
        with self.file.open("ab") as out:
            out.truncate(self.size)

    def missing(self) -> list[int]:
        """Numbers of the parts that are not there."""
        return [part for part in range(self._count) if part not in self._there]

    def span(self, part: int) -> tuple[int, int]:
        """Where it begins, and where the next one does."""
        return part * PART, min(self.size, (part + 1) * PART)

    def came(self, part: int) -> None:
        """Note that it was written."""
        with self._journal.open("ab", buffering=0) as out:
            out.write(f"{part}\n".encode())
        with self._noting:
            self._there.add(part)

    def finished(self, alive: Callable[[], None]) -> bool:
        """Bring the digest up to the first part that is missing, unless another thread does: whether it is over all of
        the file, which one thread is told.

        Args:
            alive: May raise to end it.
        """
        with self._noting:
            if self._hashing:
                return False
            self._hashing = True
        while True:
            with self._noting:
                if self._hashed not in self._there:
                    self._hashing = self._hashed == self._count  # then nobody else needs to
                    return self._hashing
            alive()
            self._hash(*self.span(self._hashed))
            self._hashed += 1

    @property
    def sha256(self) -> str:
        """Hexadecimal; of the whole file once it is `finished`."""
        return self._digest.hexdigest()

    def close(self) -> None:
        """Remove what is kept beside the file."""
        self._journal.unlink(missing_ok=True)

    def _hash(self, at: int, end: int) -> None:
        handle = os.open(self.file, os.O_RDONLY | os.O_CLOEXEC)
        buffer = memoryview(bytearray(_CHUNK))
        try:
            while at < end:
                count = os.preadv(handle, [buffer[: end - at]], at)
                if not count:
                    raise ArtifactCorrupt(f"{self.file}: was cut off at byte {at} while it was written; fetch it again")
                self._digest.update(buffer[:count])
                at += count
        finally:
            os.close(handle)


def _read(journal: Path, count: int) -> set[int]:
    try:
        lines = journal.read_text("ascii").split("\n")[:-1]  # a line that was cut off is none
    except FileNotFoundError:
        return set()
    return {int(line) for line in lines if line.isdigit() and int(line) < count}
