"""What a uri of a bucket or of this machine fetches: the sources of `s3`, `gs`, `az`, `file` and `pvc`."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import msgspec

from headrace.artifacts import stores, uri
from headrace.artifacts.base import Entry, ObjectInfo, Pinned
from headrace.artifacts.credentials import Credentials
from headrace.artifacts.files import LocalObjects
from headrace.artifacts.objects import StoreObjects
from headrace.artifacts.settings import ArtifactSettings
from headrace.errors import ArtifactNotFound


class Bucket:
    """An object, or all below a prefix: a `Source` that can be read in parts.

    Args:
        objects: The bucket itself.
        place: The uri, taken apart.
    """

    ranges = True

    def __init__(self, objects: StoreObjects, place: uri.Place) -> None:
        self._objects = objects
        self._place = place
        self._path = place.path.strip("/")
        self._entries: tuple[Entry, ...] | None = None
        self._one = False

    def __repr__(self) -> str:
        return f"<Bucket {self._place.shown}>"

    def pin(self) -> Pinned:
        """See `base.Source`: a digest over paths, sizes and etags."""
        return Pinned(uri=self._place.shown.rstrip("/"), token=token_of(self.entries()))

    def entries(self) -> Sequence[Entry]:
        """See `base.Source`: asked once. What has objects below it is a folder, even where an object has its name."""
        if self._entries is None:
            cut = len(self._path) + 1 if self._path else 0
            below = [entry_of(info, info.path[cut:]) for info in self._objects.list(self._path) if len(info.path) > cut]
            if below:
                self._entries = tuple(sorted(below, key=lambda entry: entry.path))
            else:
                if not self._path:
                    raise ArtifactNotFound(f"{self._place.shown}: nothing is in it")
                info = self._objects.head(self._path)
                self._one = True
                self._entries = (entry_of(info, self._path.rpartition("/")[2]),)
        return self._entries

    def read(self, entry: Entry, *, start: int = 0) -> Iterator[memoryview]:
        """See `base.Source`."""
        return self.read_range(entry, start=start, end=entry.size)

    def read_range(self, entry: Entry, *, start: int, end: int) -> Iterator[memoryview]:
        """See `base.Ranged`."""
        return self._objects.chunks(self._info(entry), start=start, end=end)

    def close(self) -> None:
        """See `base.Source`."""
        self._objects.close()

    def _info(self, entry: Entry) -> ObjectInfo:
        path = self._path if self._one else f"{self._path}/{entry.path}" if self._path else entry.path
        return ObjectInfo(
            uri=uri.join(self._objects.uri, path),
            path=path,
            size=entry.size,
            etag=entry.etag,
            modified=entry.modified,
        )


class Local:
    """A file or folder of this machine: a `Source` that need not be copied.

    Args:
        name: The uri, as it was given.
        path: Where it is.
    """

    def __init__(self, name: str, path: str) -> None:
        self._name = name
        self.path = path
        """Where it is: it is used as it stands there."""
        self._root = Path(path)

    def __repr__(self) -> str:
        return f"<Local {self._name}>"

    def pin(self) -> Pinned:
        """See `base.Source`."""
        return Pinned(uri=self._name, token=token_of(self.entries()))

    def entries(self) -> Sequence[Entry]:
        """See `base.Source`."""
        if self._root.is_file():
            info = LocalObjects(self._name, str(self._root.parent)).head(self._root.name)
            return (entry_of(info, self._root.name),)
        found = tuple(entry_of(info, info.path) for info in LocalObjects(self._name, self.path).list())
        if not found:
            what = "an empty folder" if self._root.is_dir() else "not there"
            raise ArtifactNotFound(f"{self._name}: {self.path} is {what}")
        return found

    def read(self, entry: Entry, *, start: int = 0) -> Iterator[bytes]:
        """See `base.Source`."""
        root = self._root.parent if self._root.is_file() else self._root
        with LocalObjects(self._name, str(root)).open(entry.path) as file:
            file.seek(start)
            while chunk := file.read(1 << 20):
                yield chunk

    def close(self) -> None:
        """See `base.Source`."""


def open_bucket(name: str, *, settings: ArtifactSettings, credentials: Credentials) -> Bucket:
    """The source of a uri of `s3`, `gs` or `az`, or of a remote that is one of them."""
    place = uri.parse(name)
    remote = credentials.remotes.get(uri.scheme_of(name))
    if remote is not None and remote.scheme != place.scheme:
        place = msgspec.structs.replace(place, scheme=remote.scheme)
    store = stores.open_store(place, name, settings=settings, credentials=credentials)
    depth = 4 if uri.scheme_of(name) == "https" else 3  # the container stands in the path of a URL
    root = "/".join(place.shown.split("/")[:depth])
    return Bucket(StoreObjects(root, "", store, place.scheme, settings), place)


def open_local(
    name: str,
    *,
    settings: ArtifactSettings,  # noqa: ARG001 - every opener takes it
    credentials: Credentials,  # noqa: ARG001 - every opener takes it
) -> Local:
    """The source of a path or a `file:` uri."""
    return Local(name, uri.local_path(name) if uri.is_local(name) else f"/{uri.parse(name).path}")


def open_volume(
    name: str,
    *,
    settings: ArtifactSettings,
    credentials: Credentials,  # noqa: ARG001 - every opener takes it
) -> Local:
    """The source of `pvc://CLAIM/PATH`: below the folder of volumes, in that of the claim, or, as KServe mounts the
    only claim of a pod, in itself.

    Raises:
        ArtifactNotFound: it is in neither.
    """
    place = uri.parse(name)
    volumes = Path(settings.volumes)
    claim = volumes / place.host
    for root in (claim, volumes):
        path = os.path.normpath(root / place.path)
        if not Path(path).is_relative_to(root):
            break
        if (root != volumes or not claim.exists()) and Path(path).exists():
            return Local(name, path)
    raise ArtifactNotFound(
        f"{name}: neither {claim / place.path} nor {volumes / place.path} is there: is the claim mounted below "
        f"artifacts.volumes, {settings.volumes}?"
    )


def entry_of(info: ObjectInfo, path: str) -> Entry:
    """An object as a file of a source."""
    return Entry(path=path, size=info.size, etag=info.etag, modified=info.modified)


def token_of(entries: Iterable[Entry]) -> str:
    """A digest over paths, sizes and etags (or, where there is none, times)."""
    digest = hashlib.sha256()
    for entry in sorted(entries, key=lambda each: each.path):
        told = entry.sha256 or entry.etag or str(entry.modified)
        digest.update(f"{entry.path}\0{entry.size}\0{told}\n".encode())
    return digest.hexdigest()
