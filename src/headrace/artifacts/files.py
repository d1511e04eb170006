"""Files of this machine as objects: `objects.open_objects` opens them, and `fetch` writes with the same care.

A file appears whole or not at all: it is written beside its name, synced, and renamed.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

from headrace.artifacts import failures, uri
from headrace.artifacts.base import ObjectInfo
from headrace.errors import ArtifactCorrupt, ArtifactNotFound

_BUFFER: Final = 1 << 20
_TEMPORARY: Final = ".headrace-"


class LocalObjects:
    """A folder.

    Args:
        name: Its uri or path, as it was given.
        folder: Its path.
    """

    def __init__(self, name: str, folder: str) -> None:
        self.uri = name
        self._folder = Path(folder or ".")

    def __repr__(self) -> str:
        return f"<LocalObjects {self.uri}>"

    def list(self, pattern: str = "") -> Iterator[ObjectInfo]:
        """See `base.Objects`."""
        glob = uri.is_glob(pattern)
        fits = uri.pattern(pattern) if glob else None
        start = uri.checked(self.uri, uri.static_part(pattern).rstrip("/"))
        with failures.told(uri.join(self.uri, pattern), "listing"):
            root = self._folder / start
            if not glob and start and root.is_file():
                yield self._info(start, root.stat())
                return
            for path, file in _walk(root, f"{start}/" if start else ""):
                if fits is None or fits.fullmatch(path):
                    try:
                        stat = file.stat()
                    except FileNotFoundError:  # removed since it was listed, or a link to nothing
                        continue
                    yield self._info(path, stat)

    def head(self, path: str) -> ObjectInfo:
        """See `base.Objects`."""
        file, name = self._file(path)
        with failures.told(name):
            stat = file.stat()
        if not file.is_file():
            raise ArtifactNotFound(f"{name}: is a folder, expected a file")
        return self._info(path, stat)

    def read(self, path: str) -> bytes:
        """See `base.Objects`."""
        with self.open(path) as file:
            return file.read()

    def open(self, path: str) -> BinaryIO:
        """See `base.Objects`."""
        file, name = self._file(path)
        self.head(path)
        with failures.told(name):
            return io.BufferedReader(_Watched(file, name), _BUFFER)

    @contextlib.contextmanager
    def write(self, path: str) -> Iterator[BinaryIO]:
        """See `base.Objects`."""
        file, name = self._file(path)
        with writing(file, name) as out:
            yield out

    def put(self, path: str, data: bytes, *, if_absent: bool = False, if_match: str | None = None) -> str | None:
        """See `base.Objects`."""
        file, name = self._file(path)
        with failures.told(name, "writing"):
            file.parent.mkdir(parents=True, exist_ok=True)
            temporary = _beside(file)
            try:
                with temporary.open("xb") as out:
                    out.write(data)
                    out.flush()
                    os.fsync(out.fileno())
                    etag = _etag(os.fstat(out.fileno()))
                with _locked(file.parent):
                    if if_absent and file.exists():
                        return None
                    if if_match is not None and (not file.exists() or _etag(file.stat()) != if_match):
                        return None
                    temporary.replace(file)
                sync_folder(file.parent)
            finally:
                temporary.unlink(missing_ok=True)
        return etag

    def probe(self, path: str) -> None:
        """See `base.Objects`."""
        file, name = self._file(path)
        with failures.told(name, "writing"):
            file.parent.mkdir(parents=True, exist_ok=True)
            temporary = _beside(file)
            temporary.touch(exist_ok=False)
            temporary.unlink()

    def delete(self, path: str) -> None:
        """See `base.Objects`."""
        file, name = self._file(path)
        with failures.told(name, "deleting"):
            file.unlink(missing_ok=True)

    def close(self) -> None:
        """See `base.Objects`."""

    def _file(self, path: str) -> tuple[Path, str]:
        return self._folder / uri.checked(self.uri, path), uri.join(self.uri, path)

    def _info(self, path: str, stat: os.stat_result) -> ObjectInfo:
        return ObjectInfo(
            uri=uri.join(self.uri, path), path=path, size=stat.st_size, etag=_etag(stat), modified=stat.st_mtime
        )


class _Watched(io.FileIO):
    """A file that says so when it changes while it is read: in place, or by shrinking. One that is replaced by another
    is read to its end as it was.
    """

    def __init__(self, file: Path, name: str) -> None:
        super().__init__(file, "rb")
        self._uri = name
        self._etag = _etag(os.fstat(self.fileno()))

    def readinto(self, buffer: memoryview) -> int | None:  # type: ignore[override]
        with failures.told(self._uri):
            count = super().readinto(buffer)
            self._check()
        return count

    def readall(self) -> bytes:
        with failures.told(self._uri):
            data = super().readall()
            self._check()
        return data or b""

    def _check(self) -> None:
        if _etag(os.fstat(self.fileno())) != self._etag:
            raise ArtifactCorrupt(f"{self._uri}: changed while it was read; read it again when it is written")


@contextlib.contextmanager
def writing(file: Path, name: str) -> Iterator[BinaryIO]:
    """A file that appears under its name, synced, when the body ends well; otherwise nothing of it stays.

    Args:
        file: Where.
        name: For messages.

    Raises:
        ArtifactFailed: the folder cannot be written to, or the disk is full.
    """
    with failures.told(name, "writing"):
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = _beside(file)
        out = temporary.open("xb", buffering=_BUFFER)
    try:
        yield out
        with failures.told(name, "writing"):
            out.close()  # which a text layer over it may have done
            with temporary.open("rb") as written:
                os.fsync(written.fileno())
            temporary.replace(file)
            sync_folder(file.parent)
    except OSError as exc:
        raise failures.failure(exc, uri=name, doing="writing") from exc
    finally:
        with contextlib.suppress(OSError):  # a disk that is full says so once more; it was said above
            out.close()
        temporary.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make names in a folder survive a loss of power."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _beside(file: Path) -> Path:
    return file.with_name(f"{_TEMPORARY}{uuid.uuid4().hex}.part")


def _etag(stat: os.stat_result) -> str:
    return f"{stat.st_ino:x}-{stat.st_mtime_ns:x}-{stat.st_size:x}"


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Alone among all processes that put conditionally into a folder."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _walk(folder: Path, head: str, seen: frozenset[tuple[int, int]] = frozenset()) -> Iterator[tuple[str, Path]]:
    """Files by name, links followed but never in a circle, ours that are half-written left out."""
    try:
        stat = folder.stat()
    except FileNotFoundError:
        return
    here = (stat.st_dev, stat.st_ino)
    if here in seen:
        return
    with os.scandir(folder) as found:
        entries = sorted(found, key=lambda each: each.name)
    for entry in entries:
        if entry.is_dir():
            yield from _walk(Path(entry.path), f"{head}{entry.name}/", seen | {here})
        elif not (entry.name.startswith(_TEMPORARY) and entry.name.endswith(".part")):
            yield f"{head}{entry.name}", Path(entry.path)
