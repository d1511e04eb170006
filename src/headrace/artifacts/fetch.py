"""Uris brought to this machine: walk "load", step one. `headrace fetch`, `headrace serve` and batch jobs call it.

    pinned = fetch.pin("models:/iris@champion", settings=settings)      # models:/iris/3
    fetched = fetch.fetch("s3://bucket/iris", settings=settings)        # fetched.path

What is here already is not fetched again; what is half here, because a process was killed, is continued if the store
still has the same bytes. Two who fetch the same at once do it once.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import hashlib
import io
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, TypeVar

from headrace.artifacts import archives, failures, registry
from headrace.artifacts import cache as cache_
from headrace.artifacts import credentials as credentials_
from headrace.artifacts import uri as uri_
from headrace.artifacts.base import Entry, Fetched, Pinned, Progress, Ranged, Source
from headrace.artifacts.buckets import Local
from headrace.artifacts.cache import Cache, File, Manifest
from headrace.artifacts.credentials import Credentials
from headrace.artifacts.parts import PART, Parts
from headrace.artifacts.settings import ArtifactSettings
from headrace.errors import ArtifactCorrupt, ArtifactFailed, ArtifactNotFound, ArtifactUnreachable

Report = Callable[[Progress], None]
_T = TypeVar("_T")

_SMALL: Final = 1 << 20  # comes by way of memory
_PARTS_AHEAD: Final = 64  # threads that one file may keep busy
_REPORT_SECONDS: Final = 0.1
_SAFE: Final = re.compile(r"[^A-Za-z0-9._@+-]+")


def pin(name: str, *, settings: ArtifactSettings, credentials: Credentials | None = None) -> Pinned:
    """What a uri stands for now.

    Raises:
        SettingsError: its scheme is not known, or a part is missing.
        ArtifactFailed: one of its causes.
    """
    source = _open(name, None, settings, credentials)
    try:
        return _patiently(source.pin, settings, threading.Event())
    finally:
        source.close()


def fetch(
    name: str,
    *,
    settings: ArtifactSettings,
    base: str = "",
    report: Report | None = None,
    cancel: threading.Event | None = None,
    pinned: Pinned | None = None,
    credentials: Credentials | None = None,
) -> Fetched:
    """The files of a uri, on this machine. One archive alone is unpacked.

    Args:
        name: The uri; a path or `file:` uri is used where it stands.
        settings: Where to, how much, how many at once.
        base: The folder that a relative path is in; empty: the current one.
        report: Told now and then how far it is, in this thread.
        cancel: Ends it when set.
        pinned: What the uri stands for, from `pin`; None: what it stands for now.
        credentials: None: of the settings and the environment.

    Raises:
        SettingsError: its scheme is not known, or a part is missing.
        ArtifactFailed: one of its causes; or it is too large, does not fit the disk, or was cancelled.
    """
    stop = cancel or threading.Event()
    if uri_.is_local(name):
        path = os.path.join(base, uri_.local_path(name))  # noqa: PTH118 - a trailing slash stays
        return _in_place(Local(name, path))
    source = _open(name, pinned, settings, credentials)
    try:
        if isinstance(source, Local):
            return _in_place(source)
        return _Fetch(name, source, settings, report, stop).run(pinned)
    finally:
        source.close()


def last(name: str, *, settings: ArtifactSettings) -> Fetched | None:
    """The copy of a uri that was used last, whatever the uri stands for now; None: there is none. Asks no store."""
    there = Cache(settings).last(uri_.shown(name).rstrip("/"))
    return None if there is None else _fetched(*there, downloaded=0)


def _open(name: str, pinned: Pinned | None, settings: ArtifactSettings, credentials: Credentials | None) -> Source:
    known = credentials if credentials is not None else credentials_.load(settings.credentials)
    # a pin has no signature; where it names the same, the uri itself is asked
    meant = name if pinned is None or pinned.uri == uri_.shown(name) else pinned.uri
    once = dataclasses.replace(settings, retries=0)  # what may heal is tried again here, and not below as well
    return registry.open_source(meant, settings=once, credentials=known)


def _in_place(source: Local) -> Fetched:
    entries = source.entries()
    return Fetched(
        path=source.path,
        pinned=source.pin(),
        files=len(entries),
        bytes=sum(entry.size for entry in entries),
        downloaded_bytes=0,
    )


class _Fetch:
    """One uri on its way here."""

    def __init__(
        self, name: str, source: Source, settings: ArtifactSettings, report: Report | None, cancel: threading.Event
    ) -> None:
        self._shown = uri_.shown(name).rstrip("/")
        self._source, self._settings, self._report, self._cancel = source, settings, report, cancel
        self._cache = Cache(settings)
        self._stop = threading.Event()
        self._counting = threading.Lock()
        self._total_bytes = self._total_files = -1
        self._done_bytes = self._done_files = self._downloaded = 0
        self._moved = ""

    def run(self, pinned: Pinned | None) -> Fetched:
        meant = pinned or _patiently(self._source.pin, self._settings, self._cancel)
        settings = self._settings
        key = cache_.digest_of(
            "\0".join([meant.uri, meant.token, *settings.allow_patterns, "\1", *settings.ignore_patterns])
        )
        with failures.told(str(self._cache.root), "writing"):
            self._cache.open()
            if (there := self._cache.tree(key, self._alive)) is not None:
                return _fetched(*there, downloaded=0)
            with self._cache.alone(self._shown, self._alive), self._cache.filling():
                if (there := self._cache.tree(key, self._alive)) is not None:
                    return _fetched(*there, downloaded=0)
                if pinned is not None:
                    self._check_pin(pinned)
                path, manifest = self._fill(key, meant)
            if settings.max_cache_bytes:
                self._cache.prune(keep=key)
        return _fetched(path, manifest, downloaded=self._downloaded)

    def _check_pin(self, pinned: Pinned) -> None:
        """A bucket's uri names whatever is there now: bytes that came later must not be taken for those of before."""
        now = _patiently(self._source.pin, self._settings, self._cancel)
        if now.token != pinned.token:
            raise ArtifactNotFound(
                f"{self._shown}: other bytes are there than those that are wanted ({pinned.token[:12]}), and the cache "
                f"has no copy of these: put them back, or name what is there"
            )

    def _fill(self, key: str, pinned: Pinned) -> tuple[Path, Manifest]:
        entries = self._chosen(_patiently(self._source.entries, self._settings, self._cancel))
        self._total_files = len(entries)
        if all(entry.size >= 0 for entry in entries):
            self._total_bytes = sum(entry.size for entry in entries)
            self._check_size(self._total_bytes)
        blobs = self._download(entries)
        with self._cache.staging(key) as folder:
            name, files, unpacked = self._lay_out(folder, entries, blobs)
            manifest = Manifest(
                source=self._shown, pinned=pinned, name=name, files=files, boot=cache_.boot(), unpacked=unpacked
            )
            return self._cache.publish(key, folder, manifest), manifest

    def _chosen(self, entries: Sequence[Entry]) -> list[Entry]:
        allow, ignore = self._settings.allow_patterns, self._settings.ignore_patterns
        chosen = [
            entry
            for entry in entries
            if (not allow or _fits(entry.path, allow)) and not (ignore and _fits(entry.path, ignore))
        ]
        if not chosen:
            raise ArtifactNotFound(
                f"{self._shown}: none of its {len(entries)} files fits artifacts.allow_patterns and "
                f"artifacts.ignore_patterns"
            )
        for entry in chosen:
            uri_.checked(self._shown, entry.path)
        return chosen

    def _check_size(self, count: int) -> None:
        most = self._settings.max_bytes
        if count > most:
            raise ArtifactFailed(
                f"{self._shown}: has {count} bytes, more than artifacts.max_bytes, {most}: raise it if you want it"
            )
        free = shutil.disk_usage(self._cache.root).free
        if count > free:
            raise ArtifactFailed(
                f"{self._shown}: has {count} bytes, and {self._settings.cache_dir} has room for {free}: set "
                f"artifacts.cache_dir to where there is more, or run headrace fetch --prune"
            )

    # the bytes

    def _download(self, entries: Sequence[Entry]) -> list[Path]:
        """The bytes of each file, in the cache."""
        known = self._cache.known(self._shown)
        blobs: list[Path | None] = []
        for entry in entries:
            sha256 = entry.sha256 or known.get((entry.path, entry.size, entry.etag), "")
            blob = self._cache.blob(sha256, entry.size) if sha256 else None
            blobs.append(blob)
            if blob is not None:
                self._count(entry.path, blob.stat().st_size, downloaded=False, files=1)
        self._run_all(self._work(entries, blobs), min(self._settings.parallel, blobs.count(None) * _PARTS_AHEAD))
        self._tell()
        return [blob for blob in blobs if blob is not None]

    def _run_all(self, work: Iterator[Callable[[], None]], threads: int) -> None:
        """Do all of it in so many threads; what fails first is raised when all have ended."""
        taking = threading.Lock()
        failed: list[BaseException] = []

        def run() -> None:
            try:
                while not self._stop.is_set():
                    with taking:
                        call = next(work, None)
                    if call is None:
                        return
                    call()
            except BaseException as exc:  # noqa: BLE001 - it is raised below
                failed.append(exc)
                self._stop.set()

        running = [threading.Thread(target=run, name=f"headrace-fetch-{at}", daemon=True) for at in range(threads)]
        for thread in running:
            thread.start()
        try:
            for thread in running:
                while thread.is_alive():
                    thread.join(_REPORT_SECONDS)
                    self._tell()
        finally:  # an interrupt, too, ends only when nobody writes any more
            if any(thread.is_alive() for thread in running):
                self._stop.set()
            for thread in running:
                thread.join()
        if failed:
            raise failed[0]
        self._alive()

    def _work(self, entries: Sequence[Entry], blobs: list[Path | None]) -> Iterator[Callable[[], None]]:
        """What is to be done, in an order that does not matter."""
        source = self._source if isinstance(self._source, Ranged) else None
        for at, entry in enumerate(entries):
            if blobs[at] is not None:
                continue
            done = _Done(blobs, at)
            if source is not None and entry.size > PART and source.ranges:
                yield from self._in_parts(source, entry, done)
            else:
                yield _Call(self._at_once if 0 <= entry.size <= _SMALL else self._straight, entry, done)

    def _at_once(self, entry: Entry, done: _Done) -> None:
        """A small file, by way of memory."""
        tried, data = 0, b""
        while True:
            try:
                self._alive()
                data = b"".join(self._source.read(entry)) if entry.size else b""
                if len(data) < entry.size:
                    raise _short(self._of(entry), len(data), entry.size)
                break
            except ArtifactUnreachable as error:
                self._heal_or_raise(error, tried)
                tried += 1
        if len(data) > entry.size:
            raise ArtifactCorrupt(f"{self._of(entry)}: announced {entry.size} bytes, and {len(data)} came")
        sha256 = hashlib.sha256(data).hexdigest()
        self._check_digest(entry, sha256)
        done.put(self._cache.put(data, sha256))
        self._count(entry.path, len(data), files=1)

    def _straight(self, entry: Entry, done: _Done) -> None:
        """A file from its start, or from where it broke off, to its end."""
        file = self._cache.partial(self._name_of(entry))
        resumable = bool(entry.etag or entry.sha256)
        with file.open("ab", buffering=0) as out:
            at = out.tell()
            if at and (not resumable or 0 <= entry.size < at):
                out.truncate(0)
                at = 0
            digest = hashlib.sha256() if at == 0 else None
            self._count(entry.path, at, downloaded=False)
            tried, furthest = 0, at
            while at != entry.size:
                try:
                    self._append(entry, out, digest)
                    break
                except ArtifactUnreachable as error:
                    at = out.tell()
                    tried, furthest = (0, at) if at > furthest else (tried, furthest)
                    self._heal_or_raise(error, tried)
                    tried += 1
                    if not resumable:  # it may be another file by now
                        out.truncate(0)
                        self._count(entry.path, -at, downloaded=False)
                        at, digest = 0, hashlib.sha256()
                except ArtifactCorrupt:
                    file.unlink(missing_ok=True)
                    raise
        self._finish(entry, file, digest.hexdigest() if digest is not None else cache_.sha256_of(file), done)

    def _append(self, entry: Entry, out: io.FileIO, digest: hashlib._Hash | None) -> None:
        """What comes after what is there."""
        for chunk in self._source.read(entry, start=out.seek(0, io.SEEK_END)):
            self._alive()
            _write_all(out, chunk)
            if digest is not None:
                digest.update(chunk)
            self._count(entry.path, len(chunk))
        if 0 <= out.tell() < entry.size:
            raise _short(self._of(entry), out.tell(), entry.size)
        if 0 <= entry.size < out.tell():
            raise ArtifactCorrupt(f"{self._of(entry)}: announced {entry.size} bytes, and {out.tell()} came")

    def _in_parts(self, source: Ranged, entry: Entry, done: _Done) -> Iterator[Callable[[], None]]:
        """A large file, several parts of it at once."""
        parts = Parts(self._cache.partial(f"{self._name_of(entry)}\0parts"), entry.size)
        parts.open(resume=bool(entry.etag or entry.sha256))
        missing = parts.missing()
        there = entry.size - sum(end - start for start, end in map(parts.span, missing))
        self._count(entry.path, there, downloaded=False)
        for part in missing:
            yield _Call(self._part, source, entry, parts, part, done)
        if not missing:
            yield _Call(self._put_together, entry, parts, done)

    def _part(self, source: Ranged, entry: Entry, parts: Parts, part: int, done: _Done) -> None:
        at, end = parts.span(part)
        handle = os.open(parts.file, os.O_WRONLY | os.O_CLOEXEC)
        try:
            tried = 0
            while at != end:
                try:
                    for chunk in source.read_range(entry, start=at, end=end):
                        self._alive()
                        count = _write_at(handle, memoryview(chunk)[: end - at], at)
                        at, tried = at + count, 0
                        self._count(entry.path, count)
                    _whole(self._of(entry), at, end)
                except ArtifactUnreachable as error:
                    self._heal_or_raise(error, tried)
                    tried += 1
        finally:
            os.close(handle)
        parts.came(part)
        self._put_together(entry, parts, done)

    def _put_together(self, entry: Entry, parts: Parts, done: _Done) -> None:
        if parts.finished(self._alive):
            try:
                self._finish(entry, parts.file, parts.sha256, done)
            finally:
                parts.close()

    def _finish(self, entry: Entry, file: Path, sha256: str, done: _Done) -> None:
        try:
            self._check_digest(entry, sha256)
        except ArtifactCorrupt:
            file.unlink(missing_ok=True)
            raise
        done.put(self._cache.add(file, sha256))
        self._count(entry.path, 0, files=1)

    def _check_digest(self, entry: Entry, sha256: str) -> None:
        if entry.sha256 and sha256 != entry.sha256:
            raise ArtifactCorrupt(
                f"{self._of(entry)}: its digest is announced as sha256 {entry.sha256}, and is {sha256}: fetch it "
                f"again, and look at the store if that does not help"
            )

    # how it ends, and how far it is

    def _alive(self) -> None:
        if self._cancel.is_set() or self._stop.is_set():
            raise ArtifactFailed(f"{self._shown}: was stopped; what has come is kept, and continued next time")

    def _heal_or_raise(self, error: ArtifactUnreachable, tried: int) -> None:
        """Wait before a further try of what may heal; or raise why the last one failed."""
        if tried >= self._settings.retries:
            raise error
        deadline = time.monotonic() + failures.pause_seconds(tried)
        while time.monotonic() < deadline:
            self._alive()
            self._stop.wait(min(0.1, max(0.0, deadline - time.monotonic())))

    def _count(self, path: str, count: int, *, downloaded: bool = True, files: int = 0) -> None:
        with self._counting:
            self._done_bytes += count
            self._done_files += files
            self._moved = path
            if downloaded:
                self._downloaded += count
            done = self._done_bytes
        if self._total_bytes < 0 and done > self._settings.max_bytes:
            raise ArtifactFailed(
                f"{self._shown}: has more than artifacts.max_bytes, {self._settings.max_bytes}: raise it if you want it"
            )

    def _tell(self) -> None:
        if self._report is not None:
            with self._counting:
                progress = Progress(
                    self._done_bytes, self._total_bytes, self._done_files, self._total_files, self._moved
                )
            self._report(progress)

    def _of(self, entry: Entry) -> str:
        return self._shown if self._total_files == 1 else uri_.join(self._shown, entry.path)

    def _name_of(self, entry: Entry) -> str:
        return "\0".join([self._shown, entry.path, str(entry.size), entry.etag, entry.sha256])

    # the tree

    def _lay_out(self, folder: Path, entries: Sequence[Entry], blobs: list[Path]) -> tuple[str, tuple[File, ...], bool]:
        """Names for the bytes: of the file or folder, and of what is in it."""
        if len(entries) == 1 and archives.suffix_of(entries[0].path):
            return self._unpack(folder, entries[0], blobs[0])
        single = len(entries) == 1 and _is_file(self._shown, entries[0].path)
        name = _safe(entries[0].path.rpartition("/")[2]) if single else name_of(self._shown)
        root = folder / name
        files = []
        made: set[Path] = set()
        for entry, blob in zip(entries, blobs, strict=True):
            target = root if single else root / entry.path
            if target.parent not in made:
                try:
                    target.parent.mkdir(parents=True, exist_ok=True)
                except (FileExistsError, NotADirectoryError) as exc:
                    raise _both(self._shown, entry.path) from exc
                made.add(target.parent)
            try:
                cache_.link(blob, target)
            except FileExistsError as exc:
                raise _both(self._shown, entry.path) from exc
            size = entry.size if entry.size >= 0 else blob.stat().st_size
            files.append(File(path="" if single else entry.path, size=size, etag=entry.etag, sha256=blob.name))
        return name, tuple(files), False

    def _unpack(self, folder: Path, entry: Entry, blob: Path) -> tuple[str, tuple[File, ...], bool]:
        base = entry.path.rpartition("/")[2]
        name = _safe(base[: -len(archives.suffix_of(base))])
        root = folder / name
        root.mkdir()
        archives.unpack(blob, root, name=base, max_bytes=self._settings.max_bytes, alive=self._alive)
        files = []
        for path, file in _files_of(root):
            self._alive()
            files.append(File(path=path, size=file.stat().st_size, etag="", sha256=cache_.sha256_of(file)))
        return name, tuple(files), True


class _Call:
    """A function with its arguments."""

    def __init__(self, function: Callable[..., None], *arguments: object) -> None:
        self._function, self._arguments = function, arguments

    def __call__(self) -> None:
        self._function(*self._arguments)


class _Done:
    """Where the bytes of one file are noted."""

    def __init__(self, blobs: list[Path | None], at: int) -> None:
        self._blobs, self._at = blobs, at

    def put(self, blob: Path) -> None:
        """Note them."""
        self._blobs[self._at] = blob


def name_of(name: str) -> str:
    """What a copy is called: `iris` of `s3://bucket/models/iris/`, `models:/iris/3` and `models:/iris@champion`."""
    rest = uri_.shown(name).partition(":")[2].strip("/")
    parts = [part for part in rest.split("/") if part]
    if len(parts) > 1 and parts[-1] == "latest":
        parts.pop()
    if uri_.scheme_of(name) == "models":
        return _safe(parts[0].partition("@")[0]) if parts else "model"
    if uri_.scheme_of(name) == "hf" and len(parts) >= 2:
        return _safe(parts[1].partition("@")[0].partition(":")[0])
    return _safe(parts[-1]) if parts else "model"


def _safe(name: str) -> str:
    made = _SAFE.sub("-", name).strip("-.")
    return "model" if made in {"", "manifest"} else made[:200]


def _is_file(name: str, path: str) -> bool:
    """Whether a source of one file is that file, and not a folder that has one."""
    if uri_.scheme_of(name) in {"http", "https"}:
        return True
    return "/" not in path and not name.endswith("/") and uri_.parse(name).path.rpartition("/")[2] == path


def _fits(path: str, patterns: Sequence[str]) -> bool:
    base = path.rpartition("/")[2]
    return any(fnmatch.fnmatchcase(path, each) or fnmatch.fnmatchcase(base, each) for each in patterns)


def _both(name: str, path: str) -> ArtifactCorrupt:
    return ArtifactCorrupt(f"{name}: {path!r} is both a file and a folder there, or there twice")


def _files_of(root: Path) -> Iterator[tuple[str, Path]]:
    for folder, _, names in os.walk(root):
        for each in sorted(names):
            file = Path(folder, each)
            if not file.is_symlink():
                yield file.relative_to(root).as_posix(), file


def _fetched(path: Path, manifest: Manifest, *, downloaded: int) -> Fetched:
    return Fetched(
        path=str(path),
        pinned=manifest.pinned,
        files=len(manifest.files),
        bytes=manifest.bytes,
        downloaded_bytes=max(0, downloaded),
    )


def _write_all(out: io.FileIO, chunk: bytes | memoryview) -> None:
    view = memoryview(chunk)
    while view:
        view = view[out.write(view) :]


def _write_at(handle: int, chunk: memoryview, at: int) -> int:
    view, begin = chunk, at
    while view:
        count = os.pwrite(handle, view, begin)
        view, begin = view[count:], begin + count
    return len(chunk)


def _short(name: str, came: int, size: int) -> ArtifactUnreachable:
    return ArtifactUnreachable(f"{name}: broke off after {came} of {size} bytes")


def _whole(name: str, at: int, end: int) -> None:
    if at != end:
        raise ArtifactUnreachable(f"{name}: broke off {end - at} bytes before byte {end}")


def _patiently(ask: Callable[[], _T], settings: ArtifactSettings, cancel: threading.Event) -> _T:
    """An answer, asked for again while that may help."""
    for tried in range(settings.retries):
        try:
            return ask()
        except ArtifactUnreachable:
            if cancel.wait(failures.pause_seconds(tried)):
                raise
    return ask()
