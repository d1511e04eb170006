"""The gRPC listener: calls over `server.h2`, step 1 of the walk and the end of step 7. `server.grpc` starts it.

One `GrpcConnection` a socket. A unary call is stepped once where its last byte was read (`server.eager`), so that an
inline model is answered in the same write; one that waits goes on in a task, which its connection owns: a deadline, a
cancelled stream or a lost connection cancels it. Which call does what is in `server.grpc_services`.
"""

from __future__ import annotations

import asyncio
import enum
import logging
import ssl as tls
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Final, Protocol, cast

import msgspec

from headrace.errors import DeadlineExceeded, HeadraceError, InvalidRequest, NotSupported, Overloaded, TooLarge
from headrace.protocols import status, v2_grpc
from headrace.server import eager, grpc_wire, h2
from headrace.server.grpc_wire import HEAD, STATUS_NAMES, TAIL_OK, CallHead, MessageReader

log = logging.getLogger(__name__)

Message = v2_grpc.Message
_HEADS_KEPT: Final = 128
_KEEPALIVE: Final = b"headrace"
_LARGE_BYTES: Final = 64 << 10
"""Answers from this size on are not joined with their prefix: the copy would cost more than a frame of its own."""


class Kind(enum.Enum):
    """How many messages go each way."""

    UNARY = enum.auto()
    SERVER_STREAM = enum.auto()
    BIDIRECTIONAL = enum.auto()


class Send(Protocol):
    """Sends one message of a stream and returns when the peer has room for the next."""

    async def __call__(self, message: Message) -> None:
        """Raises CancelledError when nobody is there to receive it."""


class Call:
    """What a handler may know of its call, and the trailing metadata it may leave."""

    __slots__ = ("deadline", "metadata", "trailers")

    def __init__(self, metadata: Mapping[str, str], deadline: float | None) -> None:
        self.metadata = metadata
        self.deadline = deadline
        """On the clock of `time.monotonic`."""
        self.trailers: Mapping[str, str] | None = None


class Method(msgspec.Struct, frozen=True, eq=False, kw_only=True):
    """One row of the table of calls."""

    name: str
    """As metrics show it: `ModelInfer`."""
    kind: Kind
    request: Any
    """The class of its request messages."""
    handler: Callable[..., Any]
    """UNARY: `(call, message) -> message`; SERVER_STREAM: `(call, message, send)`; BIDIRECTIONAL: `(call, messages,
    send)`; each a coroutine function."""


class GrpcLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What callers may do to the listener."""

    max_message_bytes: int = 64 << 20
    """Of a request or an answer; larger ones are RESOURCE_EXHAUSTED."""
    max_buffered_bytes: int = 1 << 30
    """Of all requests that are arriving or being answered, over all connections; a call that passes it is
    RESOURCE_EXHAUSTED."""
    max_connections: int = 10_000
    """One more is closed at once."""
    request_timeout_seconds: float = 0.0
    """The deadline of unary calls that bring none; 0: none."""
    keepalive_seconds: float = 60.0
    """A connection that has been silent for as long is asked for a sign of life; one that gives none in as long again,
    or that has left an answer unread for as long, is closed. 0: never."""
    idle_seconds: float = 0.0
    """A connection without a call for as long is closed in peace; 0: never."""
    h2: h2.H2Limits = h2.H2Limits()


class _Live:
    """A call under way: what the connection keeps of it."""

    __slots__ = (
        "call", "ended", "head", "head_sent", "held", "method", "payload", "queue", "reader", "room", "stream_id",
        "task", "timer", "unconsumed", "waiter",
    )  # fmt: skip

    def __init__(self, stream_id: int, method: Method, head: CallHead, call: Call, limit: int) -> None:
        self.stream_id, self.method, self.head, self.call = stream_id, method, head, call
        self.reader = MessageReader(limit, head.encoding)
        self.ended = False  # the request is complete
        self.payload: bytes | None = None  # the one message of a unary or server-stream call
        self.queue: deque[bytes] = deque()  # messages that wait for a bidirectional handler
        self.unconsumed = 0  # bytes received and kept in the window while the handler is behind
        self.waiter: asyncio.Future[None] | None = None  # of the handler, for a message
        self.room: asyncio.Future[None] | None = None  # of the handler, for space to send
        self.head_sent = False
        self.held = 0  # bytes of the request that are counted
        self.task: asyncio.Task[Any] | None = None
        self.timer: asyncio.TimerHandle | None = None


def _wake(future: asyncio.Future[None] | None) -> None:
    if future is not None and not future.done():
        future.set_result(None)


class GrpcConnection(asyncio.Protocol):
    """One connection. Made by `Listener.protocol_factory`."""

    def __init__(self, server: Listener) -> None:
        self._server = server
        self._methods = server.methods
        self._limits = server.limits
        self._h2 = h2.H2Connection(server.limits.h2)
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._calls: dict[int, _Live] = {}
        self._tasks: set[asyncio.Task[Any]] = set()  # also of calls that were cancelled and have not ended yet
        self._heads: dict[h2.RequestHead, CallHead] = {}
        self._reading = False  # in data_received: what is queued is written at its end
        self._opened: list[_Live] = []  # in this read: most end in it too, and need no timer
        self._paused = False  # the transport's buffer is full
        self._ticker: asyncio.TimerHandle | None = None
        self._heard_at = self._called_at = 0.0
        self._asked = False  # for a sign of life
        self._progress = (0, 0.0)  # data frames sent from behind a closed window, and since when that stands still

    def __repr__(self) -> str:
        return f"<GrpcConnection calls={len(self._calls)} tasks={len(self._tasks)} {self._h2!r}>"

    # -- asyncio.Protocol --

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet, unless there are too many connections or TLS agreed on another protocol."""
        self._transport = cast("asyncio.Transport", transport)
        secure = transport.get_extra_info("ssl_object")
        if secure is not None and secure.selected_alpn_protocol() != "h2":
            transport.close()
            return
        if not self._server.admit(self):
            transport.close()
            return
        self._heard_at = self._called_at = self._loop.time()
        if self._server.tick_seconds:
            self._ticker = self._loop.call_later(self._server.tick_seconds, self._tick)
        self._write()

    def data_received(self, data: bytes) -> None:
        """Take what came, do what it asks, write what that gave."""
        self._asked = False
        self._heard_at = self._loop.time()
        self._reading = True
        try:
            for event in self._h2.receive(data):
                kind = type(event)
                if kind is h2.DataReceived:
                    self._data(event)  # type: ignore[arg-type]  # by its exact type, which costs less than isinstance
                elif kind is h2.RequestReceived:
                    self._request(event)  # type: ignore[arg-type]
                else:
                    self._other(event)
        finally:
            self._reading = False
            if self._opened:
                for live in self._opened:
                    if live.stream_id in self._calls:
                        self._expect(live)
                self._opened.clear()
            self._write()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel what runs: nobody is there to be answered."""
        if self._ticker is not None:
            self._ticker.cancel()
        for live in list(self._calls.values()):
            self._cancel(live)
        self._transport = None
        self._server.forget(self)

    def pause_writing(self) -> None:
        """Read nothing more while the peer does not read: what it may make us hold is bounded by that."""
        self._paused = True
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        """Read again, and let streams send."""
        self._paused = False
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()
        for live in self._calls.values():
            _wake(live.room)

    # -- events --

    def _other(self, event: h2.Event) -> None:
        match event:
            case h2.StreamReset():
                live = self._calls.get(event.stream_id)
                if live is not None:
                    self._cancel(live)
            case h2.StreamDrained():
                live = self._calls.get(event.stream_id)
                if live is not None and not self._paused:
                    _wake(live.room)
            case h2.TrailersReceived():
                live = self._calls.get(event.stream_id)
                if live is not None:
                    self._received(live, b"", ended=True)
            case h2.ConnectionFailed():
                log.info("gRPC connection of %s ended: %s (%s)", self._peer(), event.reason, event.code.name)
            case _:
                pass  # PingAcked was heard; PeerGoneAway: what it opened is answered, then it closes

    def _request(self, event: h2.RequestReceived) -> None:
        stream_id, head = event.stream_id, self._heads.get(event.head)
        self._called_at = self._heard_at
        if head is None:
            head = grpc_wire.parse_head(event.head)
            if len(self._heads) >= _HEADS_KEPT:
                self._heads.clear()
            self._heads[event.head] = head
        if head.refusal:
            self._h2.send_headers(stream_id, head.refusal, end=True)
            return
        if len(self._tasks) >= 2 * self._limits.h2.max_concurrent_streams:  # cancelled ones that have not ended yet
            self._h2.reset(stream_id, h2.ErrorCode.REFUSED_STREAM)
            return
        method = self._methods.get(head.path)
        if method is None:
            self._refuse(stream_id, "unknown", NotSupported(f"no method {head.path}; reflection lists what there is"))
            return
        if head.error is not None:
            self._refuse(stream_id, method.name, head.error)
            return
        timeout = head.timeout
        if timeout is None and method.kind is Kind.UNARY and self._limits.request_timeout_seconds:
            timeout = self._limits.request_timeout_seconds
        deadline = None if timeout is None else time.monotonic() + timeout
        live = _Live(stream_id, method, head, Call(head.metadata, deadline), self._limits.max_message_bytes)
        self._calls[stream_id] = live
        if method.kind is Kind.BIDIRECTIONAL:
            self._expect(live)
            self._begin(live, self._messages(live))
        else:
            self._opened.append(live)
        if event.ended:
            self._received(live, b"", ended=True)

    def _data(self, event: h2.DataReceived) -> None:
        live = self._calls.get(event.stream_id)
        if live is not None:
            self._received(live, event.data, ended=event.ended)

    def _received(self, live: _Live, data: bytes, *, ended: bool) -> None:
        """Take a piece of a call's request; start the call when its message is complete."""
        reader, bidirectional = live.reader, live.method.kind is Kind.BIDIRECTIONAL
        try:
            messages = reader.feed(data)
            if messages and not bidirectional:
                if live.payload is not None or len(messages) > 1:
                    raise InvalidRequest(f"{live.method.name} takes one message, got more")
                live.payload = messages[0]
            if ended and reader.buffered:
                raise InvalidRequest("the request ends inside a message")
            if ended and live.payload is None and not bidirectional:
                raise InvalidRequest(f"{live.method.name} takes one message, got none")
            self._hold(live, reader.buffered + (len(live.payload) if live.payload is not None else 0))
        except HeadraceError as error:
            self._fail(live, error)
            return
        live.ended = ended
        if bidirectional:
            live.queue.extend(messages)
            live.unconsumed += len(data)
            if not live.queue:  # part of a message the handler waits for: its rest must be able to come
                self._consume(live)
            if messages or ended:
                _wake(live.waiter)
            return
        self._h2.consume(live.stream_id, len(data))
        if not ended or live.payload is None:
            return
        if live.method.kind is Kind.UNARY:
            self._unary(live, live.payload)
        else:
            self._server_stream(live, live.payload)

    def _hold(self, live: _Live, size: int) -> None:
        """Count the bytes that a call's request takes. Raises TooLarge when all requests together take too many."""
        server = self._server
        server.buffered += size - live.held
        live.held = size
        if server.buffered > self._limits.max_buffered_bytes:
            limit = self._limits.max_buffered_bytes
            raise TooLarge(f"requests under way take more than {limit} bytes (grpc.max_buffered_bytes)")

    def _consume(self, live: _Live) -> None:
        if live.unconsumed:
            self._h2.consume(live.stream_id, live.unconsumed)
            live.unconsumed = 0

    # -- unary calls --

    def _unary(self, live: _Live, payload: bytes) -> None:
        try:
            message = _parse(live.method, payload)
            result = eager.start(live.method.handler(live.call, message), self._loop)
        except asyncio.CancelledError:  # raised by the handler itself: nobody could have cancelled it yet
            self._fail(live, Overloaded(f"{live.method.name} was cancelled by the server"))
            return
        except Exception as error:  # noqa: BLE001 - the one place where errors become replies
            self._fail(live, error)
            return
        if not isinstance(result, asyncio.Task):
            self._answer(live, result)
            return
        live.task = result
        self._tasks.add(result)
        self._expect(live)
        result.add_done_callback(lambda task: self._done(live, task))

    def _done(self, live: _Live, task: asyncio.Task[Any]) -> None:
        """The task of a unary call has ended."""
        self._tasks.discard(task)
        gone = self._calls.get(live.stream_id) is not live
        if task.cancelled():
            if not gone:
                self._fail(live, Overloaded(f"{live.method.name} was cancelled by the server"))
        elif (error := task.exception()) is not None:
            if not gone:
                self._fail(live, error)
        elif not gone:
            self._answer(live, task.result())
        self._write()

    def _answer(self, live: _Live, message: Message) -> None:
        payload = message.SerializeToString()
        if len(payload) > self._limits.max_message_bytes:
            limit = self._limits.max_message_bytes
            self._fail(
                live,
                TooLarge(f"the answer has {len(payload)} bytes, over the limit of {limit} (grpc.max_message_bytes)"),
            )
            return
        self._forget(live)
        trailers = live.call.trailers
        tail = grpc_wire.tail_ok(trailers) if trailers else TAIL_OK
        if len(payload) < _LARGE_BYTES:
            self._h2.respond(live.stream_id, HEAD, grpc_wire.prefix(len(payload)) + payload, tail)
        else:
            self._h2.send_headers(live.stream_id, HEAD)
            self._send_message(live, payload)
            self._h2.send_headers(live.stream_id, tail, end=True)
        self._server.count(live.method.name, v2_grpc.OK)

    # -- streams --

    def _server_stream(self, live: _Live, payload: bytes) -> None:
        try:
            message = _parse(live.method, payload)
        except HeadraceError as error:
            self._fail(live, error)
            return
        self._expect(live)
        self._begin(live, message)

    def _begin(self, live: _Live, requests: Any) -> None:
        live.task = self._loop.create_task(self._stream(live, requests))
        self._tasks.add(live.task)
        live.task.add_done_callback(self._tasks.discard)

    async def _stream(self, live: _Live, requests: Any) -> None:
        async def send(message: Message) -> None:
            await self._send(live, message)

        try:
            await live.method.handler(live.call, requests, send)
        except asyncio.CancelledError:
            if self._calls.get(live.stream_id) is live:
                self._fail(live, Overloaded(f"{live.method.name} was cancelled by the server"))
                self._write()
            raise
        except Exception as error:  # noqa: BLE001 - the one place where errors of streams become replies
            if self._calls.get(live.stream_id) is live:
                self._fail(live, error)
        else:
            if self._calls.get(live.stream_id) is live:
                self._forget(live)
                self._server.count(live.method.name, v2_grpc.OK)
                metadata = grpc_wire.metadata_fields(live.call.trailers or {})
                block = (grpc_wire.tail if live.head_sent else grpc_wire.trailers_only)(v2_grpc.OK, "", metadata)
                self._h2.send_headers(live.stream_id, block, end=True)
        self._write()

    async def _messages(self, live: _Live) -> AsyncIterator[Message]:
        """The requests of a bidirectional call, as they come; the window opens as they are taken."""
        while True:
            if live.queue:
                payload = live.queue.popleft()
                if not live.queue:
                    self._consume(live)
                    self._write()
                yield _parse(live.method, payload)
            elif live.ended:
                return
            else:
                live.waiter = self._loop.create_future()
                await live.waiter

    async def _send(self, live: _Live, message: Message) -> None:
        payload = message.SerializeToString()
        if len(payload) > self._limits.max_message_bytes:
            raise TooLarge(f"an answer of {len(payload)} bytes is over the limit of {self._limits.max_message_bytes}")
        if not live.head_sent:
            live.head_sent = True
            self._h2.send_headers(live.stream_id, HEAD)
        drained = self._send_message(live, payload)
        self._write()
        while not drained or self._paused:
            if self._calls.get(live.stream_id) is not live:
                raise asyncio.CancelledError
            live.room = self._loop.create_future()
            await live.room
            drained = True  # woken by the stream's window or the transport; if by the latter, the former was open

    def _send_message(self, live: _Live, payload: bytes) -> bool:
        self._h2.send_data(live.stream_id, grpc_wire.prefix(len(payload)))
        return self._h2.send_data(live.stream_id, payload)

    # -- the ends of calls --

    def _expect(self, live: _Live) -> None:
        """Enforce the deadline from now on."""
        if live.call.deadline is not None and live.timer is None:
            live.timer = self._loop.call_later(max(0.0, live.call.deadline - time.monotonic()), self._expire, live)

    def _expire(self, live: _Live) -> None:
        if self._calls.get(live.stream_id) is live:
            self._fail(live, DeadlineExceeded("the deadline passed before the answer was ready"))
            self._write()

    def _fail(self, live: _Live, error: BaseException) -> None:
        """Answer a call with an error."""
        self._forget(live)
        self._refuse(live.stream_id, live.method.name, error, head_sent=live.head_sent)
        if live.task is not None and not live.task.done() and live.task is not asyncio.current_task(self._loop):
            live.task.cancel()

    def _refuse(self, stream_id: int, method: str, error: BaseException, *, head_sent: bool = False) -> None:
        """Write an error as trailers: the one table of codes is `v2_grpc.GRPC_STATUS`."""
        if isinstance(error, HeadraceError):
            code = v2_grpc.status(error)
        else:
            code = v2_grpc.INTERNAL
            log.error("%s failed", method, exc_info=error)
        metadata = []
        if isinstance(error, Overloaded):
            metadata.append(("grpc-retry-pushback-ms", str(int(error.retry_after_seconds * 1000))))
        text = status.public_text(error)
        block = (grpc_wire.tail if head_sent else grpc_wire.trailers_only)(code, text, metadata)
        self._h2.send_headers(stream_id, block, end=True)
        self._server.count(method, code)

    def _cancel(self, live: _Live) -> None:
        """Nobody waits for this call any more."""
        self._forget(live)
        self._server.count(live.method.name, v2_grpc.CANCELLED)
        if live.task is not None:
            live.task.cancel()
        _wake(live.room)

    def _forget(self, live: _Live) -> None:
        self._calls.pop(live.stream_id, None)
        self._server.buffered -= live.held
        live.held = 0
        if live.timer is not None:
            live.timer.cancel()
            live.timer = None

    # -- the connection --

    def _write(self) -> None:
        transport = self._transport
        if self._reading or transport is None or transport.is_closing():
            return
        data = self._h2.to_send()
        if data:
            transport.write(data)
        if self._h2.failed or (self._h2.drained and not self._calls):
            transport.close()

    def _peer(self) -> str:
        return str(self._transport.get_extra_info("peername")) if self._transport is not None else "a lost peer"

    def _tick(self) -> None:
        """Look after a connection that may be dead, stuck or idle."""
        now, limits, transport = self._loop.time(), self._limits, self._transport
        if transport is None:
            return
        self._ticker = self._loop.call_later(self._server.tick_seconds, self._tick)
        keepalive = limits.keepalive_seconds
        sent = self._h2.delayed_frames
        if (not self._h2.blocked_streams and not self._paused) or sent != self._progress[0]:
            self._progress = (sent, now)
        if keepalive and now - self._progress[1] > keepalive:
            log.info("gRPC connection of %s closed: it reads none of its answers", self._peer())
            transport.abort()
        elif keepalive and now - self._heard_at > 2 * keepalive and self._asked:
            transport.abort()
        elif keepalive and now - self._heard_at > keepalive and not self._asked:
            self._asked = True
            self._h2.ping(_KEEPALIVE)
            self._write()
        elif limits.idle_seconds and not self._calls and now - self._called_at > limits.idle_seconds:
            self.drain()

    def drain(self) -> None:
        """Tell the peer to go elsewhere; close when what it has asked is answered."""
        self._h2.drain()
        self._write()
        self._loop.call_later(1.0, self._stop_accepting)  # for a peer that does not answer

    def _stop_accepting(self) -> None:
        self._h2.stop_accepting()
        self._write()

    def abort(self) -> list[asyncio.Task[Any]]:
        """End at once: what runs is cancelled and told so. Returns the tasks that have yet to end."""
        for live in list(self._calls.values()):
            self._fail(live, Overloaded("the server is stopping"))
        self._h2.stop_accepting()
        self._write()
        if self._transport is not None:
            self._transport.close()
        return list(self._tasks)


def _parse(method: Method, payload: bytes) -> Message:
    try:
        return method.request.FromString(payload)
    except Exception as exc:
        raise InvalidRequest(f"a message that is not a {method.request.DESCRIPTOR.full_name}") from exc


class Listener:
    """Listens for gRPC and answers by a table of methods.

    Args:
        methods: By path, `/inference.GRPCInferenceService/ModelInfer`.
        limits: What callers may do.
        counts: Calls by method and code, written to.
    """

    def __init__(
        self, methods: Mapping[str, Method], *, limits: GrpcLimits, counts: dict[tuple[str, str], int] | None = None
    ) -> None:
        self.methods = methods
        self.limits = limits
        self.buffered = 0
        """Bytes of requests that are arriving or being answered."""
        intervals = [seconds for seconds in (limits.keepalive_seconds, limits.idle_seconds) if seconds]
        self.tick_seconds = min(intervals) / 4 if intervals else 0.0
        self._counts = {} if counts is None else counts
        self._connections: set[GrpcConnection] = set()
        self._server: asyncio.Server | None = None
        self._empty = asyncio.Event()

    def protocol_factory(self) -> GrpcConnection:
        """A connection, for `loop.create_server`."""
        return GrpcConnection(self)

    async def start(self, host: str, port: int, ssl: tls.SSLContext | None = None) -> int:
        """Listen.

        Args:
            host: The address.
            port: 0 takes a free one.
            ssl: To speak TLS. A context for this listener alone: `h2` is set on it as the one protocol of ALPN.

        Returns:
            The port.
        """
        if ssl is not None:
            ssl.set_alpn_protocols(["h2"])
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self.protocol_factory, host, port, ssl=ssl, backlog=2048)
        taken: int = self._server.sockets[0].getsockname()[1]
        return taken

    async def stop(self, grace_seconds: float) -> None:
        """Accept no more, let what is under way end, then close.

        Args:
            grace_seconds: How long calls may take to end; what is left then is cancelled and answered UNAVAILABLE.
        """
        if self._server is not None:
            self._server.close()
        for connection in list(self._connections):
            connection.drain()
        if self._connections and grace_seconds > 0:
            self._empty.clear()
            try:
                await asyncio.wait_for(self._empty.wait(), grace_seconds)
            except TimeoutError:
                log.info("%d gRPC connections had calls under way after the grace period", len(self._connections))
        tasks = [task for connection in list(self._connections) for task in connection.abort()]
        if tasks:
            await asyncio.wait(tasks, timeout=1.0)

    def admit(self, connection: GrpcConnection) -> bool:
        """Take a connection in, unless there are too many."""
        if len(self._connections) >= self.limits.max_connections:
            log.warning("a gRPC connection was refused: %d are open", len(self._connections))
            return False
        self._connections.add(connection)
        return True

    def forget(self, connection: GrpcConnection) -> None:
        """A connection has ended."""
        self._connections.discard(connection)
        if not self._connections:
            self._empty.set()

    def count(self, method: str, code: int) -> None:
        """Count a call by its method and outcome."""
        key = (method, STATUS_NAMES[code])
        self._counts[key] = self._counts.get(key, 0) + 1
