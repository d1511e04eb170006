"""Step 1 of the walk: HTTP/1.1 connections to requests, replies to bytes. `app.py` gives it a handler and starts it.

httptools parses, uvloop moves the bytes; what stands here is what the two leave open: limits, deadlines, one request at
a time per connection and in order, back-pressure, cancellation when the caller leaves, a shutdown that loses nothing.

A handler is a coroutine function. It is stepped once where the bytes arrived (`eager`), so a model that answers inline
is answered in the same call, without a task. Limits are swept once a second over all connections rather than by a timer
each.
"""

from __future__ import annotations

import asyncio
import contextlib
import http
import logging
import ssl
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from typing import Any, Final, cast

import httptools
import msgspec

from headrace.server import eager

log = logging.getLogger(__name__)

JSON: Final = b"application/json"
TEXT: Final = b"text/plain; charset=utf-8"


class HttpRequest(msgspec.Struct, gc=False):
    """One request, complete."""

    method: bytes
    target: bytes
    """As it came: path and query, percent-encoded."""
    headers: dict[str, str]
    """Lower-cased names; repeated headers are joined by a comma (RFC 9110, section 5.3)."""
    body: bytes
    deadline: float
    """On the clock of `time.monotonic`, seconds."""


class HttpReply(msgspec.Struct, gc=False):
    """What goes back: a body, or a stream of chunks."""

    body: bytes = b""
    status: int = 200
    content_type: bytes = JSON
    """Empty: the reply has none."""
    headers: tuple[tuple[bytes, bytes], ...] = ()
    stream: AsyncIterator[bytes] | None = None


Handler = Callable[[HttpRequest], Coroutine[Any, Any, HttpReply]]


class HttpLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What one connection may ask of the server."""

    max_body_bytes: int = 64 << 20
    max_header_bytes: int = 64 << 10
    max_connections: int = 10_000
    header_timeout_seconds: float = 10.0
    """From the first byte of a request to its last; the body gets this much again for each megabyte."""
    idle_timeout_seconds: float = 75.0
    """A connection on which nothing was asked for this long is closed."""
    request_timeout_seconds: float = 60.0
    """The deadline of a request that brings none of its own."""


_BEFORE_TYPE: Final = b"\r\ncontent-type: "
_STATUS_LINES: Final[Mapping[int, bytes]] = {
    status.value: b"HTTP/1.1 %d %s%b" % (status.value, status.phrase.encode(), _BEFORE_TYPE)
    for status in http.HTTPStatus
    if status.value >= 200
}
_OK_JSON: Final = _STATUS_LINES[200] + JSON + b"\r\ncontent-length: "
_WITHOUT_BODY: Final = frozenset({204, 304})
_NAMES_KEPT: Final = 512
_MAX_PIPELINED: Final = 32
_HIGH_WATER: Final = 1 << 20


def error_body(text: str) -> bytes:
    """The one error form of every REST protocol here: `{"error": text}`."""
    return msgspec.json.encode({"error": text})


class _Connection(asyncio.Protocol):
    """One client. States: reading a request, answering (at most one at a time), closing."""

    __slots__ = (
        "_body",
        "_body_begun",
        "_body_bytes",
        "_chunk_bytes",
        "_drained",
        "_expired",
        "_headers",
        "_names",
        "_parser",
        "_pipelined",
        "_server",
        "_target",
        "_task",
        "_timer",
        "_transport",
        "_unfinished_bytes",
        "busy",
        "closing",
        "last_active",
        "reading_since",
    )  # fmt: skip

    def __init__(self, server: HttpServer) -> None:
        self._server = server
        self._names = server.names
        self._transport: asyncio.Transport
        self._parser: Any = None
        self._target = b""
        self._headers: dict[str, str] = {}
        self._body: bytes | bytearray = b""
        self._body_bytes = 0
        self._chunk_bytes = 0
        self._unfinished_bytes = 0
        self._body_begun = False
        self._pipelined: deque[tuple[HttpRequest, bool]] = deque()
        self._task: asyncio.Task[HttpReply] | asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._drained: asyncio.Event | None = None
        self._expired = False
        self.busy = False
        self.closing = False
        self.last_active = 0.0
        self.reading_since = 0.0

    # -- asyncio calls these --

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's transports are so in all but name
        self._transport.set_write_buffer_limits(high=_HIGH_WATER)
        self._parser = httptools.HttpRequestParser(self)
        self.last_active = time.monotonic()
        if not self._server.admit(self):
            self._refuse(
                503, f"the server is at its limit of {self._server.limits.max_connections} connections; try again"
            )

    def data_received(self, data: bytes) -> None:
        if self.closing:
            return
        if not self.reading_since:
            self.reading_since = time.monotonic()
        self._chunk_bytes = self._unfinished_bytes + len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass  # the request is answered as if it had not asked (RFC 9110, section 7.8); the answer closes
        except httptools.HttpParserError as exc:
            if not self.closing:
                self._refuse(400, f"malformed HTTP request: {exc}")
        else:
            if self.reading_since and not self._body_begun:
                self._unfinished_bytes += len(data)  # one header that never ends is told to nobody by the parser
                if self._unfinished_bytes > self._server.limits.max_header_bytes and not self.closing:
                    self._refuse_headers()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.closing = True
        self._parser = None  # it holds us, and we it: freed now rather than by the collector
        self._server.leave(self)
        self._pipelined.clear()
        if self._drained is not None:
            self._drained.set()
        if self._task is not None:
            self._task.cancel()  # the caller left: its request leaves the queue and the batch

    def pause_writing(self) -> None:
        self._drained = asyncio.Event()

    def resume_writing(self) -> None:
        if self._drained is not None:
            self._drained.set()
            self._drained = None

    # -- httptools calls these --

    def on_message_begin(self) -> None:
        self._headers = {}
        self._target = b""
        self._body = b""
        self._body_bytes = 0
        self._body_begun = False

    def on_url(self, url: bytes) -> None:
        self._target = self._target + url if self._target else url

    def on_header(self, name: bytes, value: bytes) -> None:
        text = self._names.get(name)
        if text is None:
            text = self._server.remember_name(name)
        headers = self._headers
        if text in headers:
            headers[text] += ", " + value.decode("latin-1")
        else:
            headers[text] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self._body_begun = True
        self._unfinished_bytes = 0
        limits = self._server.limits
        headers = self._headers
        if self._chunk_bytes > limits.max_header_bytes:  # only a chunk that large can hold headers that large
            size = len(self._target) + sum(len(name) + len(value) + 4 for name, value in headers.items())
            if size > limits.max_header_bytes:
                self._refuse_headers()
                return
        length = headers.get("content-length")
        if length is not None and int(length) > limits.max_body_bytes:
            self._refuse_body()
        elif "expect" in headers and headers["expect"].lower() == "100-continue" and not self.closing:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        if self.closing:
            return
        if not self._body_bytes:
            self._body = body
        else:
            if not isinstance(self._body, bytearray):
                self._body = bytearray(self._body)
            self._body += body
        self._body_bytes += len(body)
        if self._body_bytes > self._server.limits.max_body_bytes:
            self._refuse_body()

    def on_message_complete(self) -> None:
        if self.closing:
            return
        parser = self._parser
        now = time.monotonic()
        self.reading_since = 0.0
        self.last_active = now
        body = self._body if isinstance(self._body, bytes) else bytes(self._body)
        self._body = b""
        request = HttpRequest(
            parser.get_method(), self._target, self._headers, body, now + self._server.limits.request_timeout_seconds
        )
        keep_alive = parser.should_keep_alive() and not ("upgrade" in self._headers and parser.should_upgrade())
        if self.busy:
            self._pipelined.append((request, keep_alive))
            if len(self._pipelined) >= _MAX_PIPELINED:
                self._transport.pause_reading()
        else:
            self._answer(request, keep_alive)

    # -- answering --

    def _answer(self, request: HttpRequest, keep_alive: bool) -> None:
        self.busy = True
        try:
            started = eager.start(self._server.handler(request), self._server.loop)
        except Exception as error:  # noqa: BLE001 - a defect of the handler's must not cost the connection its answer
            self._reply(_defect(error), request, keep_alive)
            return
        if isinstance(started, asyncio.Task):
            self._task = started
            self._expired = False
            delay = max(0.0, request.deadline - time.monotonic())
            self._timer = self._server.loop.call_later(delay, self._expire, started)
            started.add_done_callback(lambda task: self._finished(task, request, keep_alive))
        else:
            self._reply(started, request, keep_alive)

    def _expire(self, task: asyncio.Task[HttpReply]) -> None:
        self._expired = True
        task.cancel()

    def _finished(self, task: asyncio.Task[HttpReply], request: HttpRequest, keep_alive: bool) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._task = None
        if task.cancelled():
            if self.closing:
                self._server.changed()
                return
            if self._expired:
                late = HttpReply(error_body("the request's deadline passed before its answer was ready"), 504)
            else:
                late = HttpReply(error_body("the request was cancelled"), 503)
            self._reply(late, request, keep_alive)
            return
        error = task.exception()
        self._reply(task.result() if error is None else _defect(error), request, keep_alive)

    def _reply(self, reply: HttpReply, request: HttpRequest, keep_alive: bool) -> None:
        if self.closing or self._transport.is_closing():
            self.busy = False
            return
        keep_alive = keep_alive and not self._server.stopping
        if keep_alive and "connection" in request.headers and self._parser.get_http_version() == "1.0":
            reply.headers = (*reply.headers, (b"connection", b"keep-alive"))  # such a client waits to be told
        if reply.stream is not None and request.method != b"HEAD":
            self._task = self._server.loop.create_task(self._stream(reply, reply.stream, keep_alive))
            return
        self._transport.write(
            _head(reply, len(reply.body), keep_alive) + (b"" if request.method == b"HEAD" else reply.body)
        )
        self._next(keep_alive)

    async def _stream(self, reply: HttpReply, chunks: AsyncIterator[bytes], keep_alive: bool) -> None:
        """Write chunks as they come, never faster than the caller reads; a caller that leaves cancels the source."""
        chunked = self._parser.get_http_version() != "1.0"  # before chunks there was the end of the connection
        keep_alive = keep_alive and chunked
        try:
            self._transport.write(_head(reply, None, keep_alive, chunked=chunked))
            async with contextlib.aclosing(chunks) as source:  # type: ignore[type-var]  # generators all
                async for chunk in source:
                    if self._drained is not None:
                        await self._drained.wait()
                    if chunk and not self.closing:
                        self._transport.write(b"%x\r\n%b\r\n" % (len(chunk), chunk) if chunked else chunk)
            if chunked and not self.closing:
                self._transport.write(b"0\r\n\r\n")
        except asyncio.CancelledError:
            keep_alive = False
            if not self.closing:
                self._transport.abort()
        except Exception:
            log.exception("a stream failed")
            keep_alive = False
            self._transport.abort()  # the only honest end of a chunked body that cannot be finished
        self._task = None
        if not self.closing:
            self._next(keep_alive)

    def _next(self, keep_alive: bool) -> None:
        self.busy = False
        self.last_active = time.monotonic()
        if not keep_alive:
            self.close()
        elif self._pipelined:
            request, keep_alive = self._pipelined.popleft()
            if not self._pipelined:
                self._transport.resume_reading()
            # Through the loop, so that a long pipeline of inline answers neither recurses nor starves its neighbours.
            self.busy = True
            self._server.loop.call_soon(self._answer_queued, request, keep_alive)

    def _answer_queued(self, request: HttpRequest, keep_alive: bool) -> None:
        if not self.closing:
            self._answer(request, keep_alive)

    # -- refusing and closing --

    def _refuse_headers(self) -> None:
        self._refuse(
            431, f"the request's headers are over {self._server.limits.max_header_bytes} bytes (max_header_bytes)"
        )

    def _refuse_body(self) -> None:
        self._refuse(413, f"the request's body is over {self._server.limits.max_body_bytes} bytes (max_body_bytes)")

    def _refuse(self, status: int, text: str) -> None:
        """Answer an error outside the order of requests, and close: what follows here cannot be trusted."""
        if self.closing:
            return
        if self._server.refused is not None:
            self._server.refused(status)
        reply = HttpReply(error_body(text), status)
        self._transport.write(_head(reply, len(reply.body), keep_alive=False) + reply.body)
        self.close()

    def close(self) -> None:
        """Close once what was written has been sent."""
        self.closing = True
        self._transport.close()

    def abort(self) -> None:
        """Close now."""
        self._transport.abort()

    def sweep(self, now: float, limits: HttpLimits) -> None:
        """Close a connection that is too slow to ask, or asks nothing."""
        if self.busy:
            return
        if self.reading_since:
            allowed = limits.header_timeout_seconds * (1 + self._body_bytes / (1 << 20))
            if now - self.reading_since > allowed:
                self._refuse(408, f"the request was not complete within {allowed:.0f} s (header_timeout_seconds)")
        elif now - self.last_active > limits.idle_timeout_seconds:
            self.close()


def _defect(error: BaseException) -> HttpReply:
    """Handlers turn errors into replies; what arrives here is a defect of ours."""
    log.error("a handler failed", exc_info=error)
    return HttpReply(error_body(f"internal error ({type(error).__name__})"), 500)


def _status_line(status: int) -> bytes:
    """Of a status that nobody has registered: a model may choose one."""
    return b"HTTP/1.1 %d Status%b" % (status, _BEFORE_TYPE)


def _head(reply: HttpReply, length: int | None, keep_alive: bool, *, chunked: bool = False) -> bytes:
    if reply.status == 200 and reply.content_type == JSON and length is not None and keep_alive:
        if not reply.headers:
            return b"%b%d\r\n\r\n" % (_OK_JSON, length)
        return b"%b%d%b\r\n\r\n" % (_OK_JSON, length, b"".join([b"\r\n%b: %b" % header for header in reply.headers]))
    parts = [_STATUS_LINES.get(reply.status) or _status_line(reply.status), reply.content_type]
    if not reply.content_type:
        parts = [parts[0].removesuffix(_BEFORE_TYPE)]
    if chunked:
        parts.append(b"\r\ntransfer-encoding: chunked")
    elif length is not None and reply.status not in _WITHOUT_BODY:
        parts.append(b"\r\ncontent-length: %d" % length)
    parts += [b"\r\n%b: %b" % header for header in reply.headers]
    parts.append(b"\r\n\r\n" if keep_alive else b"\r\nconnection: close\r\n\r\n")
    return b"".join(parts)


class HttpServer:
    """A listener. `start` opens it, `stop` drains it."""

    def __init__(
        self, handler: Handler, *, limits: HttpLimits | None = None, refused: Callable[[int], None] | None = None
    ) -> None:
        """Store what to do.

        Args:
            handler: Answers requests.
            limits: What one connection may ask.
            refused: Told the status of each request that was refused before it came to the handler.
        """
        self.handler = handler
        self.refused = refused
        self.limits = limits or HttpLimits()
        self.stopping = False
        self.names: dict[bytes, str] = {}
        self._connections: set[_Connection] = set()
        self.loop: asyncio.AbstractEventLoop
        self._server: asyncio.Server | None = None
        self._sweeper: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()

    async def start(self, host: str, port: int, *, tls: ssl.SSLContext | None = None) -> int:
        """Listen; port 0 takes a free one. Returns the port.

        Raises:
            OSError: the address is taken or not ours.
        """
        self.loop = loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Connection(self), host, port, backlog=2048, ssl=tls)
        self._sweeper = loop.create_task(self._sweep())
        return int(self._server.sockets[0].getsockname()[1])

    async def stop(self, grace_seconds: float = 30.0) -> None:
        """Accept nothing new, let what runs end within the grace, then close everything."""
        self.stopping = True
        if self._server is not None:
            self._server.close()
        for connection in [c for c in self._connections if not c.busy]:
            connection.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace_seconds):
                while self._connections:
                    self._changed.clear()
                    await self._changed.wait()
        for connection in list(self._connections):
            connection.abort()
        if self._sweeper is not None:
            self._sweeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._sweeper

    def admit(self, connection: _Connection) -> bool:
        """Count a new connection in; whether there is room for it."""
        self._connections.add(connection)
        return len(self._connections) <= self.limits.max_connections

    def leave(self, connection: _Connection) -> None:
        """Count a connection out."""
        self._connections.discard(connection)
        self.changed()

    def changed(self) -> None:
        """Tell `stop` to look again."""
        self._changed.set()

    def remember_name(self, name: bytes) -> str:
        """A header's lower-cased name; the first spellings seen are kept, so that the usual ones cost a look-up."""
        text = name.decode("latin-1").lower()
        if len(self.names) < _NAMES_KEPT:
            self.names[name] = text
        return text

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            now = time.monotonic()
            for connection in list(self._connections):
                connection.sweep(now, self.limits)
