"""Copies on this machine, shared by all models and processes of a user: `fetch` fills it, `headrace fetch --prune` and
a bound of its size empty it.

    blobs/ab/SHA256      bytes of files, by digest; read-only
    trees/KEY/NAME       what a uri stood for: links to blobs; there as a whole or not at all
    trees/KEY/manifest   its files, with digests
    partial/             files that are not all there
    links/               folders of processes that lead to copies; those of processes that ended are removed
    locks/               of processes, given back by the system when one is killed

Nothing is synced to disk: what was written before this start of the machine is checked against its digests once, which
finds what a loss of power lost.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import stat
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

import msgspec

from headrace.artifacts.base import Pinned
from headrace.artifacts.settings import ArtifactSettings

_VERSION: Final = "1"
_GRACE_SECONDS: Final = 600.0  # between a fetch and the hold of who serves it
_STALE_SECONDS: Final = 7 * 86400.0
_WAIT_SECONDS: Final = 0.05
_BOOT: Final = Path("/proc/sys/kernel/random/boot_id")


class File(msgspec.Struct, frozen=True, kw_only=True):
    """A file of a tree."""

    path: str
    size: int
    etag: str
    sha256: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a tree is."""

    source: str
    """The uri that was asked for, without secrets."""
    pinned: Pinned
    name: str
    """Of the folder or file beside the manifest."""
    files: tuple[File, ...]
    boot: str
    """Of the machine, when it was written or last checked."""
    unpacked: bool = False
    """Whether the files come from an archive; their etags are then nobody's."""

    @property
    def bytes(self) -> int:
        """Of all files."""
        return sum(file.size for file in self.files)


class Pruned(msgspec.Struct, frozen=True, kw_only=True):
    """What went."""

    copies: int
    freed_bytes: int
    kept_bytes: int


class Hold:
    """A copy in use: it is not removed before `close`, or before the process ends."""

    def __init__(self, handle: int) -> None:
        self._handle = handle

    def close(self) -> None:
        """Let it go. Twice is once."""
        handle, self._handle = self._handle, -1
        if handle >= 0:
            os.close(handle)


class Cache:
    """The folder of copies.

    Args:
        settings: Where it is, and how large it may get.
    """

    def __init__(self, settings: ArtifactSettings) -> None:
        self._settings = settings
        self.root = Path(settings.cache_dir).expanduser() / _VERSION
        self._blobs, self._partial = self.root / "blobs", self.root / "partial"
        self._now = digest_of(boot())[:8]

    def __repr__(self) -> str:
        return f"<Cache {self.root}>"

    def open(self) -> None:
        """Make its folders."""
        for name in ("blobs", "trees", "partial", "links", "locks"):
            (self.root / name).mkdir(parents=True, exist_ok=True)

    @contextlib.contextmanager
    def alone(self, name: str, alive: Callable[[], None]) -> Iterator[None]:
        """The body runs in one process and thread at a time for a name; `alive` may raise to end the wait."""
        handle = os.open(self.root / "locks" / digest_of(name), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            while not _try_lock(handle, fcntl.LOCK_EX):
                alive()
                time.sleep(_WAIT_SECONDS)
            yield
        finally:
            os.close(handle)

    @contextlib.contextmanager
    def filling(self) -> Iterator[None]:
        """While the body runs, blobs that are in no tree yet stay."""
        handle = os.open(self.root / "locks" / "filling", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_SH)
            yield
        finally:
            os.close(handle)

    def tree(self, key: str, alive: Callable[[], None] = lambda: None) -> tuple[Path, Manifest] | None:
        """A copy that is there and whole, marked as used now; None: there is none."""
        manifest = self._manifest(key)
        if manifest is None:
            return None
        path = self.root / "trees" / key / manifest.name
        if not _sizes_hold(path, manifest):
            return None
        if manifest.boot != boot():
            for file in manifest.files:
                alive()
                if sha256_of(_file_of(path, file)) != file.sha256:
                    return None
            manifest = msgspec.structs.replace(manifest, boot=boot())
            self._write(key, manifest)
        with contextlib.suppress(OSError):  # of another user, or read-only: it is only less exact who is the oldest
            os.utime(self.root / "trees" / key / "manifest")
        return path, manifest

    def last(self, source: str) -> tuple[Path, Manifest] | None:
        """The copy of a uri that was used last and is whole; None: there is none."""
        for folder in sorted(self._trees(), key=_used, reverse=True):
            manifest = self._manifest(folder.name)
            if manifest is not None and manifest.source == source and (there := self.tree(folder.name)) is not None:
                return there
        return None

    def known(self, source: str) -> Mapping[tuple[str, int, str], str]:
        """Digests of files that earlier copies of a uri had, by path, size and etag."""
        found: dict[tuple[str, int, str], str] = {}
        for folder in self._trees():
            manifest = self._manifest(folder.name)
            if manifest is not None and manifest.source == source and not manifest.unpacked:
                found.update({(file.path, file.size, file.etag): file.sha256 for file in manifest.files if file.etag})
        return found

    def blob(self, sha256: str, size: int) -> Path | None:
        """The bytes of a digest, checked; None: they are not here."""
        return self._checked(self._blob(sha256), size)

    def _checked(self, blob: Path, size: int) -> Path | None:
        try:
            there = blob.stat()
        except FileNotFoundError:
            return None
        if (size >= 0 and there.st_size != size) or sha256_of(blob) != blob.name:
            blob.unlink(missing_ok=True)
            return None
        return blob

    def partial(self, name: str) -> Path:
        """Where a file that is not all there has its bytes: the same for a name until the machine starts anew."""
        return self._partial / f"{digest_of(name)}-{self._now}"

    def add(self, file: Path, sha256: str) -> Path:
        """Make a file, which is taken away from where it was, the bytes of its digest."""
        path = self._blob(sha256)
        path.parent.mkdir(exist_ok=True)
        file.chmod(0o444)
        if (there := self._checked(path, file.stat().st_size)) is not None:
            file.unlink()
            return there
        file.replace(path)
        return path

    def put(self, data: bytes, sha256: str) -> Path:
        """Keep bytes under their digest: `add` for what is in memory, which takes fewer questions of the system."""
        path = self._blob(sha256)
        if (there := self._checked(path, len(data))) is not None:
            return there
        made = self._partial / uuid.uuid4().hex
        handle = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444)
        try:
            try:
                view = memoryview(data)
                while view:
                    view = view[os.write(handle, view) :]
            finally:
                os.close(handle)
            try:
                made.rename(path)
            except FileNotFoundError:
                path.parent.mkdir(exist_ok=True)
                made.rename(path)
        except BaseException:
            made.unlink(missing_ok=True)
            raise
        return path

    @contextlib.contextmanager
    def staging(self, key: str) -> Iterator[Path]:
        """A folder to build a tree in; it is gone afterwards, unless it was published."""
        folder = self.root / "trees" / f".{key}-{uuid.uuid4().hex}"
        folder.mkdir()
        try:
            yield folder
        finally:
            remove(folder)

    def publish(self, key: str, folder: Path, manifest: Manifest) -> Path:
        """Make a folder that was built the tree of a key. It has the file or folder that the manifest names."""
        (folder / "manifest").write_bytes(msgspec.json.encode(manifest))
        tree = self.root / "trees" / key
        if tree.exists():  # damaged, or it would have been used
            tree.rename(self.root / "trees" / f".{key}-{uuid.uuid4().hex}-old")
        folder.rename(tree)
        return tree / manifest.name

    def hold(self, path: str | Path) -> Hold | None:
        """Keep a copy from being removed; None: the path is not of the cache.

        Args:
            path: Of a `Fetched`.
        """
        try:
            key = Path(path).relative_to(self.root / "trees").parts[0]
        except (ValueError, IndexError):
            return None
        return self._held(key)

    def _held(self, key: str) -> Hold:
        handle = os.open(self._use(key), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(handle, fcntl.LOCK_SH)
        return Hold(handle)

    def links(self) -> tuple[Path, Hold]:
        """A new folder for links to copies, and what keeps it. One whose process was killed goes when the next process
        asks for its own.
        """
        self.open()
        root = self.root / "links"
        with self.alone("links", lambda: None):  # or another process takes it for one that nobody holds
            for folder in root.iterdir():
                self._discard(folder)
            mine = root / uuid.uuid4().hex
            mine.mkdir()
            return mine, self._held(mine.name)

    def prune(self, max_bytes: int | None = None, *, keep: str = "") -> Pruned:
        """Remove the least recently used copies until the rest fits; those that are held, or were fetched within ten
        minutes, stay. Leftovers of what was killed go too.

        Args:
            max_bytes: None: of the settings. 0: no bound.
            keep: The key of a copy that stays in any case.
        """
        if not self.root.is_dir():
            return Pruned(copies=0, freed_bytes=0, kept_bytes=0)
        bound = self._settings.max_cache_bytes if max_bytes is None else max_bytes
        before = self._size()
        copies = 0
        if bound:
            trees = sorted(self._trees(), key=_used)
            for folder in trees:
                if self._size() <= bound:
                    break
                if folder.name != keep and time.time() - _used(folder) > _GRACE_SECONDS and self._discard(folder):
                    copies += 1
                    self._sweep()
        self._sweep()
        after = self._size()
        return Pruned(copies=copies, freed_bytes=max(0, before - after), kept_bytes=after)

    def _discard(self, folder: Path) -> bool:
        handle = os.open(self._use(folder.name), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if not _try_lock(handle, fcntl.LOCK_EX):
                return False
            gone = folder.with_name(f".{folder.name}-{uuid.uuid4().hex}-old")
            folder.rename(gone)
            remove(gone)
            self._use(folder.name).unlink(missing_ok=True)
        except FileNotFoundError:  # another process was faster
            return False
        finally:
            os.close(handle)
        return True

    def _sweep(self) -> None:
        """Remove blobs of no tree and old leftovers, unless somebody fills the cache now."""
        handle = os.open(self.root / "locks" / "filling", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if not _try_lock(handle, fcntl.LOCK_EX):
                return
            for blob in self._blobs.glob("*/*"):
                with contextlib.suppress(FileNotFoundError):
                    if blob.stat().st_nlink == 1:
                        blob.unlink()
            for folder in (self.root / "trees").glob(".*"):
                remove(folder)
            for part in self._partial.iterdir():
                with contextlib.suppress(FileNotFoundError):
                    if time.time() - part.stat().st_mtime > _STALE_SECONDS:
                        part.unlink()
        finally:
            os.close(handle)

    def _size(self) -> int:
        """Bytes on disk; what has several names counts once."""
        seen: set[tuple[int, int]] = set()
        total = 0
        for folder, _, names in os.walk(self.root):
            for name in names:
                with contextlib.suppress(FileNotFoundError):
                    told = os.lstat(os.path.join(folder, name))  # noqa: PTH118 - `Path` takes longer than lstat
                    if (told.st_dev, told.st_ino) not in seen:
                        seen.add((told.st_dev, told.st_ino))
                        total += told.st_size
        return total

    def _trees(self) -> list[Path]:
        return [folder for folder in (self.root / "trees").iterdir() if not folder.name.startswith(".")]

    def _manifest(self, key: str) -> Manifest | None:
        try:
            return msgspec.json.decode((self.root / "trees" / key / "manifest").read_bytes(), type=Manifest)
        except (OSError, msgspec.DecodeError):  # not there, or lost with the power
            return None

    def _write(self, key: str, manifest: Manifest) -> None:
        folder = self.root / "trees" / key
        new = folder / f".manifest-{uuid.uuid4().hex}"
        try:
            new.write_bytes(msgspec.json.encode(manifest))
            new.replace(folder / "manifest")
        except OSError as exc:
            if exc.errno not in {errno.EROFS, errno.EACCES, errno.EPERM}:  # another user's: checked again next time
                raise

    def _blob(self, sha256: str) -> Path:
        return self._blobs.joinpath(sha256[:2], sha256)

    def _use(self, key: str) -> Path:
        return self.root / "locks" / f"{key}.use"


def prune(settings: ArtifactSettings, max_bytes: int | None = None) -> Pruned:
    """Remove the least recently used copies until the rest fits `max_cache_bytes`; those in use stay."""
    return Cache(settings).prune(max_bytes)


def link(blob: Path, target: Path) -> None:
    """Give bytes another name; where the system cannot, a copy."""
    try:
        os.link(blob, target)
    except OSError as exc:
        if exc.errno not in {errno.EXDEV, errno.EMLINK, errno.EPERM, errno.ENOTSUP, errno.ENOSYS}:
            raise
        shutil.copyfile(blob, target)
        target.chmod(0o444)


def remove(folder: Path) -> None:
    """Take a tree away; one that is not there is no error."""
    if folder.exists():
        shutil.rmtree(folder, ignore_errors=True)


def sha256_of(file: Path) -> str:
    """Of a file's bytes; empty: it is not there."""
    try:
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError:
        return ""


def digest_of(name: str) -> str:
    """A name for a file that stands for any text."""
    return hashlib.sha256(name.encode()).hexdigest()[:40]


def boot() -> str:
    """Which start of the machine this is; empty: the system does not say."""
    try:
        return _BOOT.read_text("ascii").strip()
    except OSError:
        return ""


def _sizes_hold(path: Path, manifest: Manifest) -> bool:
    for file in manifest.files:
        try:
            told = _file_of(path, file).stat()
        except OSError:
            return False
        if told.st_size != file.size or not stat.S_ISREG(told.st_mode):
            return False
    return True


def _file_of(path: Path, file: File) -> Path:
    return path / file.path if file.path else path


def _used(folder: Path) -> float:
    try:
        return (folder / "manifest").stat().st_mtime
    except OSError:
        return 0.0


def _try_lock(handle: int, kind: int) -> bool:
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
