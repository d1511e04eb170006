"""A file behind a URL: as objects to be read (`objects.open_objects`), and as what a uri of `http` fetches."""

from __future__ import annotations

import contextlib
import email.utils
import functools
import json
import os
import re
import tempfile
import urllib.parse
from collections.abc import Iterator, Sequence
from typing import BinaryIO, Final

from headrace.artifacts import rest, uri
from headrace.artifacts.base import Entry, ObjectInfo, Pinned
from headrace.artifacts.credentials import Credentials
from headrace.artifacts.reader import open_reader
from headrace.artifacts.secrets import Secret
from headrace.artifacts.settings import ArtifactSettings
from headrace.errors import ArtifactFailed, ArtifactNotFound, SettingsError

_IN_MEMORY: Final = 8 << 20
_FILENAME: Final = re.compile(r"filename\*?=(?:UTF-8'')?\"?([^\";]+)", re.IGNORECASE)


class WebFile:
    """One file behind a URL: a `Source`.

    Args:
        name: The URL; a user and a query in it are sent, and never shown.
        settings: Deadlines.
        credentials: For headers by host, and certificates.

    Raises:
        SettingsError: it is no URL, or the headers of its host are no JSON object.
    """

    def __init__(self, name: str, *, settings: ArtifactSettings, credentials: Credentials) -> None:
        place = uri.parse(name)
        parts = urllib.parse.urlsplit(name)
        self.uri = place.shown
        self._path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        variables = credentials.of(uri.scheme_of(name), "http")
        headers = _headers(variables.first(f"{parts.hostname}-headers", "HEADRACE_HTTP_HEADERS"), parts.hostname or "")
        bundle = variables.first("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
        context = rest.tls_context(ca_path=bundle, setting="REQUESTS_CA_BUNDLE") if bundle else None
        self.rest = rest.Rest(
            f"{place.scheme}://{parts.netloc}",
            headers=headers,
            context=context,
            timeout_seconds=settings.timeout_seconds,
            remedy=f"Its headers can be set as a JSON object in the variable {parts.hostname}-headers",
        )
        self._about: rest.Head | None = None

    def __repr__(self) -> str:
        return f"<WebFile {self.uri}>"

    def about(self) -> rest.Head:
        """What the server says of it, asked once."""
        if self._about is None:
            self._about = self.rest.head(self._path)
        return self._about

    @property
    def etag(self) -> str:
        """Strong ones only: a weak one may be the same for other bytes. Else the time of its last change."""
        headers = self.about().headers
        etag = headers.get("etag", "")
        return etag if not etag.startswith("W/") else ""

    @property
    def modified(self) -> float:
        """Seconds since the epoch; 0: not known."""
        try:
            return email.utils.parsedate_to_datetime(self.about().headers.get("last-modified", "")).timestamp()
        except ValueError:
            return 0.0

    def pin(self) -> Pinned:
        """See `base.Source`."""
        about = self.about()
        token = self.etag or f"{about.headers.get('last-modified', '')} {about.size}"
        return Pinned(uri=self.uri, token=token)

    def entries(self) -> Sequence[Entry]:
        """See `base.Source`: the one file, by the name that its server gives it, or that stands in the URL."""
        told = _FILENAME.search(self.about().headers.get("content-disposition", ""))
        name = urllib.parse.unquote(told[1]) if told else urllib.parse.unquote(self.uri.rpartition("/")[2])
        name = os.path.basename(name.replace("\\", "/")) or "index"  # noqa: PTH119 - it is text from a server
        if name in {".", ".."}:
            name = "index"
        return (Entry(path=name, size=self.about().size, etag=self.etag, modified=self.modified),)

    def read(self, entry: Entry, *, start: int = 0) -> Iterator[bytes]:
        """See `base.Source`."""
        return self.read_range(entry, start=start, end=-1)

    def read_range(self, entry: Entry, *, start: int, end: int) -> Iterator[bytes]:
        """The bytes of a range. Raises as `read`."""
        return self.rest.read(self._path, start=start, end=end, size=entry.size, etag=entry.etag)

    @property
    def ranges(self) -> bool:
        """Whether the server sends parts."""
        return self.about().ranges

    def close(self) -> None:
        """See `base.Source`."""
        self.rest.close()


def open_web(name: str, *, settings: ArtifactSettings, credentials: Credentials) -> WebFile:
    """The source of a URL."""
    return WebFile(name, settings=settings, credentials=credentials)


class WebObjects:
    """A URL as objects: one, whose path is empty, to be read only.

    Args:
        name: The URL.
        settings: Deadlines.
        credentials: For headers by host.
    """

    def __init__(self, name: str, *, settings: ArtifactSettings, credentials: Credentials) -> None:
        self._file = WebFile(name, settings=settings, credentials=credentials)
        self._settings = settings
        self.uri = self._file.uri

    def __repr__(self) -> str:
        return f"<WebObjects {self.uri}>"

    def list(self, pattern: str = "") -> Iterator[ObjectInfo]:
        """See `base.Objects`: the one there is."""
        if not pattern:
            yield self.head("")

    def head(self, path: str) -> ObjectInfo:
        """See `base.Objects`."""
        self._only(path)
        about = self._file.about()
        return ObjectInfo(uri=self.uri, path="", size=about.size, etag=self._file.etag, modified=self._file.modified)

    def read(self, path: str) -> bytes:
        """See `base.Objects`."""
        with self.open(path) as file:
            return file.read()

    def open(self, path: str) -> BinaryIO:
        """See `base.Objects`: of a server that sends no parts, a temporary copy."""
        self._only(path)
        entry = self._file.entries()[0]
        if self._file.ranges and entry.size >= 0:
            ranges = functools.partial(self._file.read_range, entry)
            return open_reader(self.uri, entry.size, ranges, retries=self._settings.retries)
        copy = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY)  # noqa: SIM115 - the caller closes it
        try:
            for chunk in self._file.read(entry):
                copy.write(chunk)
            copy.seek(0)
        except BaseException:
            copy.close()
            raise
        return copy  # type: ignore[return-value]  # it has every method of a BinaryIO

    def write(self, path: str) -> contextlib.AbstractContextManager[BinaryIO]:
        """See `base.Objects`: refused."""
        raise self._read_only()

    def put(self, path: str, data: bytes, *, if_absent: bool = False, if_match: str | None = None) -> str | None:
        """See `base.Objects`: refused."""
        raise self._read_only()

    def probe(self, path: str) -> None:
        """See `base.Objects`: refused."""
        raise self._read_only()

    def delete(self, path: str) -> None:
        """See `base.Objects`: refused."""
        raise self._read_only()

    def close(self) -> None:
        """See `base.Objects`."""
        self._file.close()

    def _only(self, path: str) -> None:
        if path:
            raise ArtifactNotFound(f"{self.uri}: is one file, nothing is below it; asked for {path!r}")

    def _read_only(self) -> ArtifactFailed:
        return ArtifactFailed(f"{self.uri}: a URL can be read only; write to file, s3, gs or az")


def _headers(text: str, host: str) -> dict[str, Secret]:
    """KServe's headers by host: a JSON object of texts, or as several lines of `name: value`; rclone's: `a,b,c,d`."""
    if not text.strip():
        return {}
    if text.lstrip().startswith("{"):
        try:
            found = json.loads(text)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise SettingsError(f"{host}-headers: expected a JSON object of headers")
        return {str(name): Secret(str(value)) for name, value in found.items()}
    if ":" in text.partition("\n")[0]:
        pairs = [line.partition(":") for line in text.splitlines() if line.strip()]
        return {name.strip(): Secret(value.strip()) for name, _, value in pairs}
    parts = [part.strip().strip('"') for part in text.split(",")]
    return {name: Secret(value) for name, value in zip(parts[::2], parts[1::2], strict=False)}
