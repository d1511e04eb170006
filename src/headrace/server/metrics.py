"""The metrics listener: what Prometheus scrapes, on a port of its own. `app.py` gives `handler` to an `HttpServer`.

`timed` and `timed_calls` wrap what answers REST and gRPC where somebody asked for MLServer's metrics, which need the
duration of every request; otherwise nothing is timed.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from typing import Any, Final

import msgspec

from headrace.monitoring.mlserver_metrics import GrpcTimes, RestTimes, path_of
from headrace.server.grpc_connection import Kind, Method
from headrace.server.http import TEXT, Handler, HttpReply, HttpRequest, error_body

EXPOSITION: Final = b"text/plain; version=0.0.4; charset=utf-8"
_TARGETS_KEPT: Final = 4096


def handler(render: Callable[[], bytes], *, path: str = "/metrics") -> Handler:
    """Answers `GET` of one path with the text that `render` makes."""
    scraped = path.encode()

    async def answer(request: HttpRequest) -> HttpReply:
        asked = request.target.partition(b"?")[0]
        if request.method not in {b"GET", b"HEAD"}:
            return HttpReply(error_body("only GET is for this port"), 405, headers=((b"allow", b"GET"),))
        if asked == scraped:
            return HttpReply(render(), content_type=EXPOSITION)
        if asked == b"/":
            return HttpReply(f"metrics are at {path}\n".encode(), content_type=TEXT)
        return HttpReply(error_body(f"only {path} is on this port"), 404)

    return answer


def timed(
    answer: Handler, times: RestTimes, *, root_path: str = "", own: Callable[[], Iterable[str]] = tuple
) -> Handler:
    """The same handler, timed; a stream until its last part.

    Args:
        answer: What answers REST.
        times: Written to.
        root_path: What a proxy in front puts before every path.
        own: The paths of models' own routes now.
    """
    clock = time.perf_counter_ns
    root = root_path.rstrip("/")
    known: dict[tuple[bytes, bytes], tuple[str, str]] = {}  # of paths that are not models' own, which come and go

    def look(key: tuple[bytes, bytes]) -> tuple[str, str]:
        method, target = key[0].decode("latin-1"), key[1].partition(b"?")[0].decode("latin-1").removeprefix(root)
        path = path_of(target)
        if not path:
            return method, path_of(target, own())
        if len(known) >= _TARGETS_KEPT:
            known.clear()  # a caller that makes up paths costs a look, not memory
        known[key] = method, path
        return method, path

    async def answer_timed(request: HttpRequest) -> HttpReply:
        began = clock()
        key = (request.method, request.target)
        method, path = known.get(key) or look(key)
        times.begin(method)
        try:
            reply = await answer(request)
        except BaseException:  # the caller left: nothing was answered
            times.end(method, "", 0, 0)
            raise
        code = reply.status
        if code == 405:
            path = ""
        if reply.stream is None or method == "HEAD":
            times.end(method, path, code, clock() - began)
        else:
            reply.stream = _Timed(reply.stream, lambda: times.end(method, path, code, clock() - began))
        return reply

    return answer_timed


class _Timed:
    """A stream that says once when it ends: read to its end, failed, closed, or dropped before anybody read it."""

    def __init__(self, parts: AsyncIterator[bytes], end: Callable[[], None]) -> None:
        self._parts = parts
        self._end: Callable[[], None] | None = end

    def __aiter__(self) -> _Timed:
        return self

    async def __anext__(self) -> bytes:
        try:
            return await anext(self._parts)
        except BaseException:
            self._ended()
            raise

    async def aclose(self) -> None:
        """Stop the source."""
        self._ended()
        close = getattr(self._parts, "aclose", None)
        if close is not None:
            await close()

    def __del__(self) -> None:
        self._ended()

    def _ended(self) -> None:
        end, self._end = self._end, None
        if end is not None:
            end()


def timed_calls(methods: Mapping[str, Method], times: GrpcTimes) -> dict[str, Method]:
    """The same table of calls, timed, and the messages of its streams counted."""
    return {
        path: msgspec.structs.replace(method, handler=_timed_call(method, times)) for path, method in methods.items()
    }


def _timed_call(method: Method, times: GrpcTimes) -> Callable[..., Any]:
    name, call_handler, clock = method.name, method.handler, time.perf_counter_ns

    async def unary(call: Any, message: Any) -> Any:
        times.started[name] += 1
        began = clock()
        try:
            return await call_handler(call, message)
        finally:
            times.end(name, clock() - began)

    async def stream(call: Any, messages: Any, send: Callable[[Any], Awaitable[None]]) -> None:
        async def counted() -> AsyncIterator[Any]:
            async for message in messages:
                times.received[name] += 1
                yield message

        async def send_counted(message: Any) -> None:
            times.sent[name] += 1
            await send(message)

        times.started[name] += 1
        began = clock()
        incoming = counted() if method.kind is Kind.BIDIRECTIONAL else messages
        try:
            await call_handler(call, incoming, send_counted)
        finally:
            times.end(name, clock() - began)

    return unary if method.kind is Kind.UNARY else stream
