"""Objects of any store, to be listed, read and written: what batch jobs and watchers use, and what a folder of a bucket
is fetched with. Local folders are such stores too.

    objects = open_objects("s3://bucket/in")
    for info in objects.list("**/*.csv"): ...
    with objects.open("a.csv") as file: ...
    with objects.write("b.csv") as file: ...      # there when the body ends well
"""

from __future__ import annotations

import contextlib
import functools
import io
import queue
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import msgspec

from headrace.artifacts import credentials as credentials_
from headrace.artifacts import failures, registry, uri
from headrace.artifacts.base import ObjectInfo, Objects
from headrace.artifacts.credentials import Credentials
from headrace.artifacts.files import LocalObjects
from headrace.artifacts.http import WebObjects
from headrace.artifacts.reader import open_reader
from headrace.artifacts.settings import ArtifactSettings
from headrace.errors import (
    ArtifactCorrupt,
    ArtifactFailed,
    ArtifactNotFound,
    ArtifactUnreachable,
)

if TYPE_CHECKING:
    from obstore import GetOptions

    from headrace.artifacts.stores import OpenStore

_STREAM: Final = 1 << 20  # of a chunk while reading straight on
_WHOLE: Final = 8 << 20  # a range that comes in one buffer
_PART: Final = 16 << 20  # of an upload; ten thousand of them are the largest object: 160 GiB
_UPLOADS: Final = 3  # parts under way
_SCHEMES: Final = ("file", "s3", "gs", "az", "http", "https")
_EMPTY: Final = frozenset({"", "d41d8cd98f00b204e9800998ecf8427e"})  # etags of nothing


def open_objects(
    name: str,
    *,
    settings: ArtifactSettings = ArtifactSettings(),
    credentials: Credentials | None = None,
) -> Objects:
    """The objects below a uri. Nothing is asked of the store yet.

    Args:
        name: A bucket, prefix or folder of `file`, `s3`, `gs`, `az`; or one file of `http`, whose path is empty.
        settings: Deadlines, tries, parts.
        credentials: None: of the settings and the environment.

    Raises:
        SettingsError: no store is known by this scheme, or the uri lacks a part.
        ArtifactDenied: there are no credentials where there must be.
    """
    place = uri.parse(name)
    known = credentials if credentials is not None else _known(name, settings)
    if (remote := known.remotes.get(uri.scheme_of(name))) is not None:
        place = msgspec.structs.replace(place, scheme=remote.scheme)
    if place.scheme == "file":
        return LocalObjects(name, place.path)
    if place.scheme in {"s3", "gs", "az"}:
        from headrace.artifacts import stores

        return StoreObjects(
            place.shown.rstrip("/"),
            place.path.strip("/"),
            stores.open_store(place, name, settings=settings, credentials=known),
            place.scheme,
            settings,
        )
    if place.scheme in {"http", "https"}:
        return WebObjects(name, settings=settings, credentials=known)
    raise registry.unknown(name, _SCHEMES, what="files of rows")


def _known(name: str, settings: ArtifactSettings) -> Credentials:
    if uri.is_local(name):
        return Credentials(credentials_.Variables({}))
    return credentials_.load(settings.credentials)


def expand(
    name: str,
    *,
    settings: ArtifactSettings = ArtifactSettings(),
    credentials: Credentials | None = None,
) -> list[ObjectInfo]:
    """The objects that a uri means: one, those that fit a glob, or all below a folder or prefix; by path, at least one.

    Raises:
        ArtifactNotFound: it means none.
        ArtifactFailed: one of its other causes.
    """
    where, path = uri.split(name)
    objects = open_objects(where, settings=settings, credentials=credentials)
    try:
        if path and not uri.is_glob(path):
            try:
                return [objects.head(path)]
            except ArtifactNotFound:
                pass  # a folder, then, or nothing
        found = sorted(objects.list(path), key=lambda info: info.path)
    finally:
        objects.close()
    if not found:
        what = "fits" if uri.is_glob(path) else "is there, neither as an object nor below it"
        raise ArtifactNotFound(f"{uri.shown(name)}: nothing {what}")
    return found


class StoreObjects:
    """A bucket or a prefix of it, through `obstore`.

    Args:
        name: As it may be shown.
        prefix: In the bucket, without `/` at its ends.
        store: The client.
        scheme: `s3`, `gs`, `az`.
        settings: Tries and pauses.
    """

    def __init__(self, name: str, prefix: str, store: OpenStore, scheme: str, settings: ArtifactSettings) -> None:
        self.uri = name
        self._prefix = f"{prefix}/" if prefix else ""
        self._store, self._scheme, self._settings = store, scheme, settings

    def __repr__(self) -> str:
        return f"<StoreObjects {self.uri}>"

    def list(self, pattern: str = "") -> Iterator[ObjectInfo]:
        """See `base.Objects`."""
        import obstore

        glob = uri.is_glob(pattern)
        fits = uri.pattern(pattern) if glob else None
        start = uri.checked(self.uri, uri.static_part(pattern).rstrip("/"))
        below = (self._prefix + start).rstrip("/")
        seen = False
        with self._told(pattern, "listing"):
            for chunk in obstore.list(self._store.client, below or None, chunk_size=1000):
                for meta in chunk:
                    path = meta["path"][len(self._prefix) :]
                    if (fits is None or fits.fullmatch(path)) and not self._is_folder(meta):
                        seen = True
                        yield self._info(path, meta)
        if not seen and not glob and start:
            with contextlib.suppress(ArtifactNotFound):
                yield self.head(start)

    def head(self, path: str) -> ObjectInfo:
        """See `base.Objects`."""
        import obstore

        with self._told(path):
            return self._info(path, obstore.head(self._store.client, self._key(path)))

    def read(self, path: str) -> bytes:
        """See `base.Objects`."""
        with self.open(path) as file:
            return file.read()

    def open(self, path: str) -> BinaryIO:
        """See `base.Objects`."""
        info = self.head(path)
        retries = min(1, self._settings.retries)  # the client itself tries as often as is set
        return open_reader(info.uri, info.size, functools.partial(self.chunks, info), retries=retries)

    @contextlib.contextmanager
    def write(self, path: str) -> Iterator[BinaryIO]:
        """See `base.Objects`. A process that is killed leaves parts which nobody sees; a lifecycle rule of the bucket
        (`AbortIncompleteMultipartUpload`) takes them away.
        """
        upload = _Upload(self, path)
        out = io.BufferedWriter(upload, _STREAM)
        try:
            yield out
            if not out.closed:  # a text layer over it may have closed it
                out.flush()
        except BaseException:
            upload.abort()
            raise
        finally:
            upload.silence()
        upload.finish()

    def put(self, path: str, data: bytes, *, if_absent: bool = False, if_match: str | None = None) -> str | None:
        """See `base.Objects`."""
        import obstore
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        mode: Any = "create" if if_absent else "overwrite"
        with self._told(path, "writing"):
            key = self._key(path)
            try:
                if if_match is not None:
                    meta = obstore.head(self._store.client, key)  # Google's condition is a generation, not an etag
                    if _etag(meta) != if_match:
                        return None
                    mode = {"e_tag": meta["e_tag"]}
                    if meta["version"] is not None:
                        mode["version"] = meta["version"]
                done = obstore.put(self._store.client, key, data, mode=mode, use_multipart=False)
            except (AlreadyExistsError, PreconditionError):
                return None
            except FileNotFoundError:
                if if_match is None:
                    raise
                return None
        return _etag(done)

    def probe(self, path: str) -> None:
        """See `base.Objects`: an upload in parts is begun, and taken back before the first."""

        def taken_back(_: bytes) -> bytes:
            raise _AbortedError

        with contextlib.suppress(_AbortedError):
            self.upload(path, map(taken_back, (b"",)))

    def delete(self, path: str) -> None:
        """See `base.Objects`."""
        import obstore

        with self._told(path, "deleting"), contextlib.suppress(FileNotFoundError):
            obstore.delete(self._store.client, self._key(path))

    def close(self) -> None:
        """See `base.Objects`."""

    def chunks(self, info: ObjectInfo, *, start: int, end: int) -> Iterator[memoryview]:
        """The bytes of a range of one, in one request.

        Raises:
            ArtifactCorrupt: it is another object by now, or less came than was announced.
            ArtifactFailed: one of its other causes.
        """
        import obstore

        if start >= end:
            return
        at = start
        options: GetOptions | None = None if (start, end) == (0, info.size) else {"range": (start, end)}
        with self._told(info.path):
            got = obstore.get(self._store.client, self._key(info.path), options=options)
            self._same(info, got.meta)
            for chunk in (got.bytes(),) if end - start <= _WHOLE else got.stream(min_chunk_size=_STREAM):
                at += len(chunk)
                yield memoryview(chunk)
        if at != end:
            raise ArtifactUnreachable(f"{info.uri}: broke off after {at - start} of {end - start} bytes")

    def upload(self, path: str, data: Any) -> None:
        """Write what an iterator or a buffer holds; if the iterator raises, nothing is written."""
        import obstore

        multipart = None if isinstance(data, Iterator) else False
        with self._told(path, "writing"):
            obstore.put(
                self._store.client,
                self._key(path),
                data,
                use_multipart=multipart,
                chunk_size=_PART,
                max_concurrency=_UPLOADS,
            )

    def _same(self, info: ObjectInfo, meta: Any) -> None:
        if meta["size"] != info.size or (info.etag and _etag(meta) not in {"", info.etag}):
            raise ArtifactCorrupt(f"{info.uri}: changed while it was read; read it again when it is written")

    def _is_folder(self, meta: Any) -> bool:
        """Whether it is what consoles make to show a folder: an empty object whose name ends with `/`, which the client
        lists without that `/`, and does not find.
        """
        import obstore

        if meta["size"] or _etag(meta) not in _EMPTY:
            return False
        try:
            obstore.head(self._store.client, meta["path"])
        except FileNotFoundError:
            return True
        return False

    def _key(self, path: str) -> str:
        return self._prefix + uri.checked(self.uri, path) if path else self._prefix.rstrip("/")

    def _told(self, path: str, doing: str = "reading") -> contextlib.AbstractContextManager[None]:
        name = uri.join(self.uri, path)
        return failures.told(name, doing, origin=self._store.origin, secrets=self._store.secrets)

    def _info(self, path: str, meta: Any) -> ObjectInfo:
        return ObjectInfo(
            uri=uri.join(self.uri, path),
            path=path,
            size=meta["size"],
            etag=_etag(meta),
            modified=meta["last_modified"].timestamp(),
        )


def _etag(meta: Any) -> str:
    """Without its quotes: Azure's listing has none, its other answers have them; and events of S3 have none."""
    return (meta["e_tag"] or "").strip('"')


class _AbortedError(Exception):
    """What ends an upload that is not to be."""


class _Upload(io.RawIOBase):
    """What is written, sent in parts by a thread of its own; nothing is sent of what is small until it is whole."""

    def __init__(self, objects: StoreObjects, path: str) -> None:
        self._objects, self._path = objects, path
        self._part = bytearray()
        self._queue: queue.Queue[bytes | _AbortedError | None] = queue.Queue(maxsize=1)
        self._thread: threading.Thread | None = None
        self._failed: BaseException | None = None
        self._over = False

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        if self._over:
            return len(memoryview(data).cast("B"))  # a writer that is thrown away empties its buffer
        view = memoryview(data).cast("B")
        self._part += view
        while len(self._part) >= _PART:
            part = bytes(memoryview(self._part)[:_PART])
            del self._part[:_PART]
            self._send(part)
        return len(view)

    def finish(self) -> None:
        """Send the rest, and return when the object is there."""
        if self._thread is None:
            self._objects.upload(self._path, bytes(self._part))
            return
        if self._part:
            self._send(bytes(self._part))
        self._send(None)
        self._thread.join()
        if self._failed is not None:
            raise self._failed

    def abort(self) -> None:
        """Take back what was sent."""
        self._over = True
        if self._thread is not None:
            with contextlib.suppress(ArtifactFailed):
                self._send(_AbortedError())
            self._thread.join()

    def silence(self) -> None:
        """Take nothing more."""
        self._over = True

    def _send(self, part: bytes | _AbortedError | None) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="headrace-upload", daemon=True)
            self._thread.start()
        while True:
            if self._failed is not None:
                raise self._failed
            try:
                self._queue.put(part, timeout=0.2)
            except queue.Full:
                continue
            return

    def _run(self) -> None:
        try:
            self._objects.upload(self._path, self._parts())
        except BaseException as exc:  # noqa: BLE001 - it is raised where the writer is
            self._failed = exc

    def _parts(self) -> Iterator[bytes]:
        while (part := self._queue.get()) is not None:
            if isinstance(part, _AbortedError):
                raise part
            yield part
