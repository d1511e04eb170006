"""Archives taken apart: `fetch` does it with a model that is one archive. What comes is not trusted: no name leads out
of the folder, no link does, nothing but files and folders is made, and no more bytes than allowed.
"""

from __future__ import annotations

import contextlib
import os
import posixpath
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Final

from headrace.errors import ArtifactCorrupt, ArtifactFailed, SettingsError

SUFFIXES: Final = (
    ".tar.gz",
    ".tgz",
    ".tar.bz2",
    ".tbz2",
    ".tar.xz",
    ".txz",
    ".tar.zst",
    ".tzst",
    ".tar",
    ".zip",
)
"""Of names that are unpacked."""

_CHUNK: Final = 1 << 20
_MOST_MEMBERS: Final = 1_000_000


def suffix_of(name: str) -> str:
    """The suffix of an archive; empty: the name is of none."""
    lower = name.lower()
    return next((suffix for suffix in SUFFIXES if lower.endswith(suffix) and len(lower) > len(suffix)), "")


def unpack(
    archive: Path, folder: Path, *, name: str, max_bytes: int, alive: Callable[[], None] = lambda: None
) -> tuple[int, int]:
    """Unpack an archive into a folder that is there, and empty.

    Args:
        archive: The file; its kind is told by `name`.
        folder: Where to.
        name: As the store calls it, for messages as well.
        max_bytes: Of all files together.
        alive: Called between members; it may raise to end the work.

    Returns:
        Files and bytes.

    Raises:
        ArtifactCorrupt: it cannot be unpacked, or has what must not be there. The text names the member.
        ArtifactFailed: it is larger than allowed.
        SettingsError: it needs a library that is not installed.
    """
    room = _Room(folder, name, max_bytes, alive)
    suffix = suffix_of(name)
    try:
        if suffix == ".zip":
            _unzip(archive, room)
        else:
            _untar(archive, suffix, room)
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, ValueError) as exc:
        raise ArtifactCorrupt(f"{name}: cannot be unpacked: {str(exc) or type(exc).__name__}") from exc
    except RuntimeError as exc:  # what zipfile raises where a password is needed
        raise ArtifactCorrupt(f"{name}: cannot be unpacked: {exc}") from exc
    except OSError as exc:
        if type(exc) is OSError and exc.errno is None:  # bz2 and gzip: invalid data
            raise ArtifactCorrupt(f"{name}: cannot be unpacked: {exc}") from exc
        raise
    if not room.files:
        raise ArtifactCorrupt(f"{name}: no file is in it")
    return room.files, room.bytes


class _Room:
    """Where members go, and what is left of what is allowed."""

    def __init__(self, folder: Path, name: str, max_bytes: int, alive: Callable[[], None]) -> None:
        self.folder, self.name = folder, name
        self.files = self.bytes = self._members = 0
        self._max, self._alive = max_bytes, alive

    def place(self, member: str) -> Path:
        """Where a member goes."""
        self._alive()
        self._members += 1
        if self._members > _MOST_MEMBERS:
            raise ArtifactFailed(f"{self.name}: has more than {_MOST_MEMBERS} members")
        path = member.replace("\\", "/").rstrip("/")
        parts = [part for part in path.split("/") if part not in {"", "."}]
        if path.startswith("/") or ".." in parts or "\0" in path or (parts and parts[0].endswith(":")):
            raise ArtifactCorrupt(f"{self.name}: its member {member!r} leads out of it")
        target = self.folder.joinpath(*parts)
        # an earlier member may be a link: nothing is written through one
        if any(parent.is_symlink() for parent in target.parents if parent.is_relative_to(self.folder)):
            raise ArtifactCorrupt(f"{self.name}: its member {member!r} is below a link")
        return target

    def file(self, target: Path, source: IO[bytes], *, executable: bool) -> None:
        """Write one."""
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_symlink() or target.exists():
            if target.is_dir() and not target.is_symlink():
                raise ArtifactCorrupt(f"{self.name}: its member {target.name!r} is both a file and a folder")
            target.unlink()  # the later one holds, as tar has it
        with target.open("xb") as out:
            while chunk := source.read(_CHUNK):
                self.bytes += len(chunk)
                if self.bytes > self._max:
                    raise ArtifactFailed(
                        f"{self.name}: unpacks to more than artifacts.max_bytes, {self._max} bytes; raise it if you "
                        f"trust the archive"
                    )
                out.write(chunk)
                self._alive()
        target.chmod(0o555 if executable else 0o444)
        self.files += 1


def _unzip(archive: Path, room: _Room) -> None:
    with zipfile.ZipFile(archive) as zipped:
        for member in zipped.infolist():
            target = room.place(member.filename)
            mode = member.external_attr >> 16
            if member.is_dir():
                target.mkdir(parents=True, exist_ok=True)
                continue
            if stat.S_IFMT(mode) not in {0, stat.S_IFREG}:
                raise ArtifactCorrupt(f"{room.name}: its member {member.filename!r} is neither a file nor a folder")
            with zipped.open(member) as source:
                room.file(target, source, executable=bool(mode & 0o100))


def _untar(archive: Path, suffix: str, room: _Room) -> None:
    with _tar(archive, suffix) as tar:
        for member in tar:
            target = room.place(member.name)
            if member.isdir():
                target.mkdir(parents=True, exist_ok=True)
            elif member.isreg():
                source = tar.extractfile(member)
                if source is None:
                    raise ArtifactCorrupt(f"{room.name}: its member {member.name!r} has no bytes")
                with source:
                    room.file(target, source, executable=bool(member.mode & 0o100))
            elif member.issym():
                _link(member, target, room)
            elif member.islnk():
                original = room.place(member.linkname)
                if original.is_symlink() or not original.is_file():
                    raise ArtifactCorrupt(f"{room.name}: its member {member.name!r} links to what is not there")
                with original.open("rb") as source:
                    room.file(target, source, executable=os.access(original, os.X_OK))
            else:
                raise ArtifactCorrupt(f"{room.name}: its member {member.name!r} is neither a file nor a folder")


def _link(member: tarfile.TarInfo, target: Path, room: _Room) -> None:
    """A symbolic link that stays inside."""
    here = posixpath.dirname(posixpath.normpath(member.name))
    there = posixpath.normpath(posixpath.join(here, member.linkname))
    if posixpath.isabs(member.linkname) or there == ".." or there.startswith("../"):
        raise ArtifactCorrupt(f"{room.name}: its member {member.name!r} links out of it, to {member.linkname!r}")
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_symlink() or target.is_file():
        target.unlink()
    target.symlink_to(member.linkname)


@contextlib.contextmanager
def _tar(archive: Path, suffix: str) -> Iterator[tarfile.TarFile]:
    if suffix not in {".tar.zst", ".tzst"}:
        with tarfile.open(archive, "r:*") as tar:
            yield tar
        return
    with contextlib.ExitStack() as stack:
        stream = stack.enter_context(_zstd(archive))
        yield stack.enter_context(tarfile.open(fileobj=stream, mode="r|"))


def _zstd(archive: Path) -> Any:
    """A stream of what is compressed, by whichever library is there."""
    with contextlib.suppress(ModuleNotFoundError):
        import pyarrow as pa

        if pa.Codec.is_available("zstd"):
            return pa.CompressedInputStream(pa.OSFile(str(archive)), "zstd")
    raise SettingsError(f"{archive.name}: .zst needs pyarrow: pip install 'headrace[batch]'")
