"""The methods that a custom MLServer runtime offers as plain HTTP routes (`custom_handler`), for runtime `mlserver`.

They are answered by a FastAPI application that has nothing else, since FastAPI's rules say what such a method takes:
the request itself, a body checked by pydantic, parameters of path and query, headers. It is called in process, message
by message of ASGI; there is no socket. A streaming response is collected whole before it is answered.
"""

from __future__ import annotations

import asyncio
import inspect
import re
import urllib.parse
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from headrace.errors import LoadFailed
from headrace.payload import Route, RouteRequest, RouteResponse
from headrace.runtimes.base import missing_extra

_CONVERTER: Final = re.compile(r"\{(\w+):(\w+)\}")
_NOT_ANSWERED: Final = frozenset({"content-length", "connection", "keep-alive", "transfer-encoding", "upgrade"})


class Handler(msgspec.Struct, frozen=True):
    """A method of the model's that answers a route."""

    method: str
    path: str
    """As FastAPI has it: `/items/{id}`, `/files/{name:path}`."""
    call: Callable[..., Any]


class Visitors:
    """The application of one model's handlers.

    Args:
        handlers: What it answers.
        error: `MLServerError`: raised by a handler, it is answered with its status and `{"error": text}`.

    Raises:
        MissingExtra: FastAPI is not installed.
        LoadFailed: FastAPI refuses a method's signature.
    """

    def __init__(self, handlers: Sequence[Handler], error: type[Exception]) -> None:
        try:
            import fastapi
            from fastapi.exceptions import FastAPIError
            from fastapi.responses import JSONResponse
        except ModuleNotFoundError as missing:
            raise missing_extra("fastapi", "mlserver", needed_by="a runtime with custom_handler") from missing

        def answer_error(_: Any, raised: Exception) -> JSONResponse:
            return JSONResponse({"error": str(raised)}, status_code=getattr(raised, "status_code", 500))

        answers: dict[int | type[Exception], Any] = {error: answer_error}
        options: dict[str, Any] = {"openapi_url": None, "docs_url": None, "redoc_url": None}
        if "strict_content_type" in inspect.signature(fastapi.FastAPI).parameters:
            options["strict_content_type"] = (
                False  # as the releases that MLServer was made for: untyped bodies are JSON
            )
        self._app = fastapi.FastAPI(**options, exception_handlers=answers)
        for each in handlers:
            try:
                self._app.add_api_route(each.path, each.call, methods=[each.method])
            except FastAPIError as refused:
                called = getattr(each.call, "__name__", each.call)
                raise LoadFailed(f"custom handler {called} ({each.method} {each.path}): {refused}") from refused
        self.routes = tuple(
            Route(method=each.method, path=_CONVERTER.sub(r"{\1}", each.path), name=f"{each.method} {each.path}")
            for each in handlers
        )
        self.warnings = tuple(
            f"custom handler {each.path}: a path parameter matches one segment here"
            for each in handlers
            if any(kind == "path" for _, kind in _CONVERTER.findall(each.path))
        )

    async def visit(self, request: RouteRequest) -> RouteResponse:
        """Answer one request. What a handler raises is raised, less HTTPException and MLServerError, which answer."""
        path, _, query = request.target.partition("?")
        pending = [{"type": "http.request", "body": request.body, "more_body": False}]
        gone = asyncio.Event()
        response = _Response()

        async def receive() -> dict[str, Any]:
            if pending:
                return pending.pop()
            await gone.wait()
            return {"type": "http.disconnect"}

        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "method": request.method,
            "scheme": "http",
            "path": urllib.parse.unquote(path),
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": query.encode(),
            "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in request.headers],
            "client": None,
            "server": None,
            "state": {},
        }
        try:
            await self._app(scope, receive, response.send)
        finally:
            gone.set()
        return response.whole()


class _Response:
    """Collects the messages of one answer."""

    def __init__(self) -> None:
        self._status = 500
        self._headers: tuple[tuple[str, str], ...] = ()
        self._body: list[bytes] = []

    async def send(self, message: Any) -> None:
        """Take one message."""
        if message["type"] == "http.response.start":
            self._status = message["status"]
            named = [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in message["headers"]]
            self._headers = tuple(each for each in named if each[0] not in _NOT_ANSWERED)
        elif message["type"] == "http.response.body":
            self._body.append(bytes(message.get("body", b"")))

    def whole(self) -> RouteResponse:
        """What was sent."""
        return RouteResponse(status=self._status, headers=self._headers, body=b"".join(self._body))
