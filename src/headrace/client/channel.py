"""One kept connection to a server, on an event loop: HTTP/1.1, one request at a time. `batch` holds one a worker.

`http.Client` is for a person's calls; this is for a million of them: no thread, no copy of what is sent.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from typing import Final, cast
from urllib.parse import quote

import httptools
import msgspec

from headrace.client.http import address_of
from headrace.errors import DeadlineExceeded, InvalidRequest, Unreachable

_PRINTED: Final = "".join(map(chr, range(0x20, 0x7F))).replace("%", "")
"""What a header's value may hold as it is; `quote` takes care of the rest."""


class NotConnected(Unreachable):
    """No connection could be made: the server is away, or was never there."""


class Answer(msgspec.Struct, frozen=True):
    """What came back: `headers` by lower-case name."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Target(msgspec.Struct, frozen=True):
    """Where requests go, parsed once."""

    url: str
    host: str
    port: int
    path: str
    """The path before every route; an ingress may add one."""
    tls: ssl.SSLContext | None
    authority: str
    """The Host header."""


def target_of(url: str, *, tls: ssl.SSLContext | None = None) -> Target:
    """The target that a URL means; `tls` in place of the system's default context for https.

    Raises:
        InvalidRequest: it is not the URL of a server.
    """
    parts = address_of(url)
    secure = parts.scheme == "https"
    context = (tls or ssl.create_default_context()) if secure else None
    path = parts.path.rstrip("/")
    host = parts.netloc.rpartition("@")[2]
    base = f"{parts.scheme}://{host}{path}"
    return Target(base, parts.hostname or "", parts.port or (443 if secure else 80), path, context, host)


def header_lines(headers: Mapping[str, str]) -> bytes:
    """The lines of a request's head for these headers.

    Raises:
        InvalidRequest: a name or value that would break out of its line.
    """
    for name, value in headers.items():
        if not name or not name.isascii() or any(each in name for each in " \t\r\n:") or {*value} & {*"\r\n\0"}:
            raise InvalidRequest(f"header {name!r}: expected a name without spaces and a value on one line")
    return "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode("latin-1", "replace")


def header_value(text: str) -> str:
    """Any text as the value of a header: printable ASCII as it is, the rest percent-encoded."""
    return text if text.isascii() and text.isprintable() else quote(text, safe=_PRINTED)


class _Exchange(asyncio.Protocol):
    """The bytes of one connection: what is sent, and the answer being read."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.answer: asyncio.Future[Answer] | None = None
        self.begun = False  # whether any byte of the answer has come
        self.kept = True
        self._parser: httptools.HttpResponseParser | None = None
        self._status_line_seen = False
        self._headers: dict[str, str] = {}
        self._chunks: list[bytes] = []

    # -- asyncio.Protocol --

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self.begun = True
        if self._parser is None or self.answer is None:
            self._drop(Unreachable("the server sent what nobody had asked for"))
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as exc:
            self._drop(Unreachable(f"what answers there does not speak HTTP/1.1: {exc}"))

    def eof_received(self) -> bool:
        """An answer without a length ends where the connection does."""
        if self._status_line_seen and "content-length" not in self._headers and not self._chunked():
            self.on_message_complete()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        if self.answer is not None and not self.answer.done():
            self.answer.set_exception(
                Unreachable(f"the connection broke before the answer: {exc or 'closed by the server'}")
            )

    # -- the parser's calls --

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self._status_line_seen = True

    def on_body(self, body: bytes) -> None:
        self._chunks.append(body)

    def on_message_complete(self) -> None:
        parser, answer = self._parser, self.answer
        if parser is None or answer is None or answer.done():
            return
        status = parser.get_status_code()
        if status < 200:  # an interim answer; the real one follows
            self._headers, self._chunks, self._status_line_seen = {}, [], False
            return
        self.kept = parser.should_keep_alive()
        body = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        answer.set_result(Answer(status, self._headers, body))

    # -- the channel's calls --

    def send(self, parts: list[bytes]) -> asyncio.Future[Answer]:
        """Send a request; the future is its answer."""
        assert self.transport is not None
        self._parser = httptools.HttpResponseParser(self)
        self._headers, self._chunks, self._status_line_seen, self.begun = {}, [], False, False
        self.answer = asyncio.get_running_loop().create_future()
        self.transport.writelines(parts)
        return self.answer

    def _chunked(self) -> bool:
        return "chunked" in self._headers.get("transfer-encoding", "")

    def _drop(self, error: Unreachable) -> None:
        if self.answer is not None and not self.answer.done():
            self.answer.set_exception(error)
        if self.transport is not None:
            self.transport.abort()


class Channel:
    """One connection to a server, opened when first used and again whenever it was lost.

    One call at a time; a second needs a channel of its own.
    """

    def __init__(self, target: Target, *, headers: bytes = b"", timeout_seconds: float = 60.0) -> None:
        """Store; nothing is opened.

        Args:
            target: Where requests go.
            headers: Lines sent with every request (`header_lines`).
            timeout_seconds: How long one call may take, connecting included.
        """
        self._target, self._headers, self._timeout = target, headers, timeout_seconds
        self._exchange: _Exchange | None = None

    async def post(self, path: str, parts: list[bytes], headers: bytes) -> Answer:
        """POST a body, given in parts, to a path; the answer whatever its status.

        Raises:
            DeadlineExceeded: it took longer than the time-out.
            NotConnected: no connection could be made.
            Unreachable: the connection broke before the whole answer.
        """
        return await self._call("POST", path, parts, headers)

    async def get(self, path: str) -> Answer:
        """GET a path. Raises as `post` does."""
        return await self._call("GET", path, [], b"")

    def close(self) -> None:
        """Close the connection. The channel may still be used."""
        if self._exchange is not None and self._exchange.transport is not None:
            self._exchange.transport.abort()
        self._exchange = None

    async def _call(self, method: str, path: str, parts: list[bytes], headers: bytes) -> Answer:
        length = sum(map(len, parts))
        head = (
            f"{method} {self._target.path}{path} HTTP/1.1\r\nHost: {self._target.authority}\r\n"
            f"Content-Length: {length}\r\n"
        ).encode("latin-1")
        message = [head, self._headers, headers, b"\r\n", *parts]
        try:
            async with asyncio.timeout(self._timeout):
                exchange, fresh = await self._connected()
                try:
                    answer = await exchange.send(message)
                except NotConnected:
                    raise
                except Unreachable:
                    if fresh or exchange.begun:
                        raise
                    # The server had closed a connection that stood idle; that says nothing of this request.
                    self.close()
                    exchange, _ = await self._connected()
                    answer = await exchange.send(message)
        except TimeoutError as exc:
            self.close()
            raise DeadlineExceeded(f"{self._target.url} did not answer within {self._timeout:g} seconds") from exc
        except Unreachable:
            self.close()
            raise
        except BaseException:
            self.close()  # an answer half read would be taken for the next call's
            raise
        if not exchange.kept:
            self.close()
        return answer

    async def _connected(self) -> tuple[_Exchange, bool]:
        kept = self._exchange
        if kept is not None and kept.transport is not None and not kept.transport.is_closing():
            return kept, False
        target = self._target
        try:
            _, self._exchange = await asyncio.get_running_loop().create_connection(
                _Exchange, target.host, target.port, ssl=target.tls
            )
        except ssl.SSLCertVerificationError as exc:
            raise NotConnected(
                f"do not trust the server at {target.url}: {exc.verify_message}; name its certificate, or that of who "
                "signed it, by the environment variable SSL_CERT_FILE, or --insecure"
            ) from exc
        except OSError as exc:
            text = exc.strerror or str(exc) or type(exc).__name__
            raise NotConnected(f"cannot reach a server at {target.url}: {text}; is it running?") from exc
        return self._exchange, True
