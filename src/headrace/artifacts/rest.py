"""HTTP as registries speak it: JSON questions, streamed files, redirects; `artifacts.mlflow` and `artifacts.hf` ask
through it. Standard library only. Connections are kept and shared by threads; every wait is bounded; what fails is one
of the causes of ArtifactFailed. Nothing here shows a header, a query, or the user part of a URL.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import re
import ssl
import time
import urllib.request
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any, Final
from urllib.parse import SplitResult, unquote, urlencode, urljoin, urlsplit

from headrace.artifacts.secrets import Secret
from headrace.errors import (
    ArtifactCorrupt,
    ArtifactDenied,
    ArtifactFailed,
    ArtifactNotFound,
    ArtifactUnreachable,
    SettingsError,
)

_CHUNK: Final = 1 << 20
_MOST_ANSWER: Final = 64 << 20
_MOST_DRAINED: Final = 64 << 10
_MOST_REDIRECTS: Final = 8
_IDLE_KEPT: Final = 32
_ANSWER_TIMEOUTS: Final = 4
"""A whole JSON answer may take this many times the wait for one byte."""
_HEALS: Final = frozenset({408, 425, 429})
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_SHOWN: Final = 300
_URL_IN_TEXT: Final = re.compile(r"(https?://)([^\s/@\"']*@)?([^\s?\"'#]*)[?#]?[^\s\"']*")


def origin_of(url: str) -> str:
    """Scheme, host and port of a URL, with neither user nor path: what may be shown, and what credentials belong to.

    Raises:
        SettingsError: it is no http(s) URL.
    """
    parts = _split(url)
    return f"{parts.scheme}://{_host_port(parts)}"


def show(url: str) -> str:
    """A URL for messages: without user, password, query and fragment, any of which may be a secret."""
    parts = _split(url)
    return f"{parts.scheme}://{_host_port(parts)}{parts.path}"


def basic(user: str, password: str) -> str:
    """The value of an `Authorization` header (RFC 7617)."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode("ascii")


def userinfo_of(url: str) -> tuple[str, str]:
    """User and password written into a URL; empty ones where there are none."""
    parts = _split(url)
    return unquote(parts.username or ""), unquote(parts.password or "")


def tls_context(*, ca_path: str = "", client_cert_path: str = "", verify: bool = True, setting: str) -> ssl.SSLContext:
    """How TLS is spoken.

    Args:
        ca_path: File or folder of certificate authorities; empty: those of this machine.
        client_cert_path: PEM file of our certificate and its key; empty: none is shown.
        verify: Whether the server's certificate is looked at.
        setting: What names the files, for messages.

    Raises:
        SettingsError: a file is missing or is no certificate.
    """
    folder = bool(ca_path) and os.path.isdir(ca_path)  # noqa: PTH112 - it is text from a variable
    try:
        context = ssl.create_default_context(
            cafile=ca_path if ca_path and not folder else None, capath=ca_path if folder else None
        )
        if client_cert_path:
            context.load_cert_chain(client_cert_path)
    except (OSError, ssl.SSLError) as exc:
        raise SettingsError(f"{setting}: the certificate cannot be read: {exc}") from exc
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


class Answer:
    """What a server said to one question, whole."""

    __slots__ = ("body", "headers", "status", "url")

    def __init__(self, status: int, headers: http.client.HTTPMessage, body: bytes, url: str) -> None:
        self.status, self.headers, self.body, self.url = status, headers, body, url

    def json(self) -> Any:
        """The body, parsed.

        Raises:
            ArtifactCorrupt: it is no JSON.
        """
        try:
            return json.loads(self.body)
        except ValueError as exc:
            raise ArtifactCorrupt(
                f"{show(self.url)}: expected JSON, got {self.headers.get('content-type', 'no content type')!r}; is it "
                "the address of the server, and not of a page in front of it?"
            ) from exc


class Head:
    """What a server says of a file: bytes (-1: it does not say), headers, where redirects led, whether ranges work."""

    __slots__ = ("headers", "ranges", "size", "url")

    def __init__(self, size: int, headers: http.client.HTTPMessage, url: str, *, ranges: bool) -> None:
        self.size, self.headers, self.url, self.ranges = size, headers, url, ranges


class Rest:
    """One server.

    Args:
        base: Its URL; `ask` and `read` take paths below it. A user and password in it are sent as basic authorization,
            where `headers` has none.
        headers: Sent to this server only, never to where it redirects.
        context: How TLS is spoken; None: with the authorities of this machine.
        timeout_seconds: To connect, and without a byte coming.
        remedy: What to do when the server refuses, for messages: which variables hold the credentials.

    Raises:
        SettingsError: the URL is none.
    """

    def __init__(
        self,
        base: str,
        *,
        headers: Mapping[str, Secret] | None = None,
        context: ssl.SSLContext | None = None,
        timeout_seconds: float = 30.0,
        remedy: str = "",
    ) -> None:
        self._base = _without_user(base)
        self.origin = origin_of(base)
        """For messages, and to compare with."""
        user, password = userinfo_of(base)
        given = {"Authorization": Secret(basic(user, password))} if user or password else {}
        self._headers = given | dict(headers or {})
        self._context = context
        self._timeout = timeout_seconds
        self._remedy = remedy
        self._idle: dict[str, deque[http.client.HTTPConnection]] = {}

    def __repr__(self) -> str:
        return f"Rest({self.origin})"

    def close(self) -> None:
        """Let go of idle connections. Twice is once; a later question opens new ones."""
        for idle in self._idle.values():
            while True:
                try:
                    idle.pop().close()
                except IndexError:
                    break

    def ask(
        self,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """The answer to a GET, or to a POST where there is a body, whatever its status. The body of an answer is at
        most 64 MiB.

        Args:
            path: Below the base, with its `/`, quoted; or a whole URL.
            query: Added to it.
            body: Sent as JSON.
            headers: Sent with this question.

        Raises:
            ArtifactUnreachable: the server does not answer, or is too slow.
            ArtifactDenied: it is not who it should be.
            ArtifactCorrupt: the answer is too long.
        """
        url = self._url(path) + ("?" + urlencode(query) if query else "")
        deadline = time.monotonic() + self._timeout * _ANSWER_TIMEOUTS
        data = None if body is None else json.dumps(body).encode()
        sent = {**(headers or {}), **({"Content-Type": "application/json"} if data is not None else {})}
        with self._asked(url, sent, data) as (response, at):
            chunks: list[bytes] = []
            total = 0
            while chunk := response.read1(_CHUNK):
                chunks.append(chunk)
                total += len(chunk)
                if total > _MOST_ANSWER:
                    raise ArtifactCorrupt(f"{show(at)}: an answer of more than {_MOST_ANSWER >> 20} MiB")
                if time.monotonic() > deadline:
                    raise ArtifactUnreachable(f"{show(at)}: too slow: {total} bytes came until the deadline")
            _whole(response, total, at)
        return Answer(response.status, response.headers, b"".join(chunks), at)

    def read(self, path: str, *, start: int = 0, end: int = -1, size: int = -1, etag: str = "") -> Iterator[bytes]:
        """The bytes of a file from an offset on. A server that knows no ranges sends it whole; what comes before the
        offset is dropped.

        Args:
            path: Below the base, with its `/`, quoted; or a whole URL.
            start: Bytes to leave out.
            end: Where to stop; -1: at the end of the file.
            size: Of the whole file; -1: not known.
            etag: Of the file, as this same request answers; empty: not known.

        Raises:
            ArtifactCorrupt: it is another file: of another size or etag.
            ArtifactFailed: one of its other causes.
        """
        if 0 <= size == start or 0 <= end <= start:
            return
        ranged = {"Range": f"bytes={start}-{end - 1 if end > 0 else ''}"} if start or end > 0 else {}
        with self._asked(self._url(path), ranged, None) as (response, at):
            if response.status not in {200, 206}:
                raise self.failed(_rest_of(response, at))
            now = response.headers.get("etag", "")
            if etag and now and now != etag:
                raise ArtifactCorrupt(f"{show(at)}: was replaced while it was read: etag {etag} is {now} now")
            skip, whole = _window(response, start, at)
            if 0 <= size != whole >= 0:
                raise ArtifactCorrupt(f"{show(at)}: was replaced while it was read: {size} bytes are {whole} now")
            total = 0
            wanted = end - start if end > 0 else -1
            while chunk := response.read(_CHUNK):
                total += len(chunk)
                if skip >= len(chunk):
                    skip -= len(chunk)
                    continue
                piece = chunk[skip:] if skip else chunk
                skip = 0
                if wanted < 0:
                    yield piece
                    continue
                yield piece[:wanted]
                wanted -= len(piece[:wanted])
                if wanted == 0:
                    break
            if wanted != 0 or response.status == 206:
                _whole(response, total, at)

    def head(self, path: str) -> Head:
        """What a server says of a file without sending it.

        Raises:
            ArtifactFailed: one of its causes.
        """
        # a question for the first byte, not HEAD: presigned URLs refuse that, it does not say whether ranges work, and
        # some servers have another etag for it
        with self._asked(self._url(path), {"Range": "bytes=0-0"}, None) as (response, at):
            if response.status not in {200, 206, 416}:
                raise self.failed(_rest_of(response, at))
            if response.status == 206:
                response.read(_CHUNK)
        headers = response.headers
        told = re.fullmatch(r"bytes (?:\d+-\d+|\*)/(\d+)", headers.get("content-range", "").strip())
        length = headers.get("content-length", "")
        size = int(told[1]) if told else int(length) if response.status == 200 and length.isdigit() else -1
        return Head(size, headers, at, ranges=response.status != 200)

    def failed(self, answer: Answer, what: str = "") -> ArtifactFailed:
        """The error for an answer that is none.

        Args:
            answer: As it came.
            what: That was asked for, for messages; empty: the URL.
        """
        said = _said(answer)
        text = f"{what or show(answer.url)}: {self.origin} answered {answer.status}" + (f": {said}" if said else "")
        if answer.status in {401, 403, 407}:
            return ArtifactDenied(text + (f". {self._remedy}" if self._remedy else ""))
        if answer.status in {404, 410}:
            return ArtifactNotFound(text)
        if answer.status in _HEALS or answer.status >= 500:
            return ArtifactUnreachable(text)
        return ArtifactFailed(text)

    def _url(self, path: str) -> str:
        return path if path.startswith(("http://", "https://")) else self._base + path

    @contextlib.contextmanager
    def _asked(
        self, url: str, headers: Mapping[str, str], data: bytes | None
    ) -> Iterator[tuple[http.client.HTTPResponse, str]]:
        """An open answer and the URL it came from. The connection is kept when its body was read to the end; who leaves
        early, or fails, closes it: the rest of the body is still in it.
        """
        connection, response, url = self._open(url, headers, data)
        try:
            yield response, url
        except (OSError, http.client.HTTPException) as exc:
            connection.close()
            raise self._broken(url, exc) from exc
        except BaseException:
            connection.close()
            raise
        self._keep(connection, response, url)

    def _open(
        self, url: str, headers: Mapping[str, str], data: bytes | None
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse, str]:
        """An open answer that is no redirect, and the URL it came from."""
        for _ in range(_MOST_REDIRECTS):
            connection, response = self._exchange(url, headers, data)
            location = response.headers.get("location", "")
            if response.status not in _REDIRECTS or not location or data is not None:
                return connection, response, url
            try:
                response.read(_CHUNK)
            except (OSError, http.client.HTTPException) as exc:
                connection.close()
                raise self._broken(url, exc) from exc
            self._keep(connection, response, url)
            target = urljoin(url, location)
            try:
                secure = _split(target).scheme == "https"
            except SettingsError as exc:
                raise ArtifactCorrupt(f"{show(url)}: redirects to what is no http(s) URL") from exc
            if url.startswith("https:") and not secure:
                raise ArtifactDenied(
                    f"{show(url)}: redirects from https to http at {show(target)}, which is not followed"
                )
            url = target
        raise ArtifactCorrupt(f"{show(url)}: redirects more than {_MOST_REDIRECTS} times")

    def _exchange(
        self, url: str, headers: Mapping[str, str], data: bytes | None
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        parts = _split(url)
        origin = f"{parts.scheme}://{_host_port(parts)}"
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        sent = {"Accept-Encoding": "identity", "User-Agent": "headrace", **headers}
        if origin == self.origin:
            sent |= {name: value.reveal() for name, value in self._headers.items()}
        proxy = _proxy_for(parts)
        if proxy and parts.scheme == "http":  # a tunnel is for TLS only; plain requests name the whole URL
            target = f"{origin}{target}"
            sent |= _proxy_headers(proxy)
        method = "GET" if data is None else "POST"
        try:
            idle: http.client.HTTPConnection | None = self._idle[origin].pop()
        except (KeyError, IndexError):
            idle = None
        if idle is not None:
            try:
                idle.request(method, target, body=data, headers=sent)
                return idle, idle.getresponse()
            except TimeoutError as exc:
                idle.close()
                raise self._broken(url, exc) from exc
            except (OSError, http.client.HTTPException):
                idle.close()  # the server closed it while it was idle: once more on a new one
        connection = self._connect(parts, proxy)
        try:
            connection.request(method, target, body=data, headers=sent)
            return connection, connection.getresponse()
        except ssl.SSLCertVerificationError as exc:
            connection.close()
            raise ArtifactDenied(
                f"{origin}: its certificate is not trusted: {exc.verify_message}. {self._remedy}".rstrip(" .")
            ) from exc
        except (OSError, http.client.HTTPException) as exc:
            connection.close()
            raise self._broken(url, exc) from exc

    def _connect(self, parts: SplitResult, proxy: str) -> http.client.HTTPConnection:
        through = _split(proxy) if proxy else parts
        if parts.scheme == "http":
            return http.client.HTTPConnection(through.hostname or "", through.port, timeout=self._timeout)
        context = self._context or ssl.create_default_context()
        connection = http.client.HTTPSConnection(
            through.hostname or "", through.port or (80 if proxy else 443), timeout=self._timeout, context=context
        )
        if proxy:
            connection.set_tunnel(parts.hostname or "", parts.port or 443, headers=_proxy_headers(proxy))
        return connection

    def _keep(self, connection: http.client.HTTPConnection, response: http.client.HTTPResponse, url: str) -> None:
        if response.length is not None and response.length <= _MOST_DRAINED:
            # tells http.client that this was all; a body that nobody wanted is cheaper read than a connection made
            with contextlib.suppress(OSError, http.client.HTTPException):
                response.read()
        idle = self._idle.setdefault(origin_of(url), deque())
        if response.isclosed() and connection.sock is not None and len(idle) < _IDLE_KEPT:
            idle.append(connection)
        else:
            connection.close()

    def _broken(self, url: str, exc: BaseException) -> ArtifactUnreachable:
        cause = (
            f"no byte came for {self._timeout:g} s" if isinstance(exc, TimeoutError) else str(exc) or type(exc).__name__
        )
        return ArtifactUnreachable(f"{show(url)}: cannot be reached, or broke off: {cause}")


def _rest_of(response: http.client.HTTPResponse, url: str) -> Answer:
    return Answer(response.status, response.headers, response.read(_CHUNK), url)


def _whole(response: http.client.HTTPResponse, total: int, url: str) -> None:
    """What http.client does not tell of reads in pieces: that fewer bytes came than were announced."""
    announced = response.headers.get("content-length", "")
    if announced.isdigit() and total != int(announced):
        raise ArtifactUnreachable(f"{show(url)}: broke off after {total} of {announced} bytes")


def _window(response: http.client.HTTPResponse, start: int, url: str) -> tuple[int, int]:
    """Bytes to drop of an answer to a question for the bytes from `start` on, and the size of the file (-1: unknown).

    Raises:
        ArtifactCorrupt: it answers another question, or is compressed.
    """
    if response.headers.get("content-encoding", "identity").lower() not in {"identity", ""}:
        raise ArtifactCorrupt(f"{show(url)}: comes compressed though that was not asked for")
    if response.status == 200:
        announced = response.headers.get("content-length", "")
        return start, int(announced) if announced.isdigit() else -1
    told = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("content-range", "").strip())
    if told is None or int(told[1]) != start:
        raise ArtifactCorrupt(f"{show(url)}: asked for the bytes from {start} on, got other ones")
    return 0, int(told[2]) if told[2] != "*" else -1


def _said(answer: Answer) -> str:
    """What the server says of the matter, in one short line; any URL in it without its secrets."""
    text = answer.headers.get("x-error-message", "")
    if not text:
        try:
            found = json.loads(answer.body)
        except ValueError:
            found = None
        if isinstance(found, dict):
            text = next((str(found[key]) for key in ("message", "error", "detail") if found.get(key)), "")
    text = _URL_IN_TEXT.sub(r"\1\3", " ".join(text.split()))
    text = "".join(character for character in text if character.isprintable()).rstrip(". ")
    return text[:_SHOWN] + ("..." if len(text) > _SHOWN else "")


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as exc:
        raise SettingsError("expected a URL like https://host:port/path") from exc
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise SettingsError("expected a URL like https://host:port/path")
    return parts


def _host_port(parts: SplitResult) -> str:
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    default = {"http": 80, "https": 443}[parts.scheme]
    return host if parts.port in {None, default} else f"{host}:{parts.port}"


def _without_user(url: str) -> str:
    parts = _split(url)
    return f"{parts.scheme}://{_host_port(parts)}{parts.path.rstrip('/')}"


def _proxy_for(parts: SplitResult) -> str:
    """The proxy that the usual variables name for a URL; empty: none."""
    proxies = urllib.request.getproxies_environment()
    proxy = proxies.get(parts.scheme) or proxies.get("all", "")
    if not proxy or urllib.request.proxy_bypass(parts.netloc.rpartition("@")[2]):
        return ""
    return proxy if "://" in proxy else f"http://{proxy}"


def _proxy_headers(proxy: str) -> dict[str, str]:
    user, password = userinfo_of(proxy)
    return {"Proxy-Authorization": basic(user, password)} if user or password else {}
