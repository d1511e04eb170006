"""Keys asked for at the door: REST and gRPC calls of callers without a known one are refused. `app.py` wraps with it.

Health stays open, for those who ask whether the server lives have no key.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from headrace.errors import Unauthenticated
from headrace.protocols import status
from headrace.security.callers import Callers
from headrace.server.grpc_connection import Call, Kind, Method, Send
from headrace.server.http import Handler, HttpReply, HttpRequest

OPEN: Final = frozenset({b"/", b"/v2/health/live", b"/v2/health/ready", b"/ping"})
"""Paths that anybody may ask."""
_OPEN_CALLS: Final = ("/grpc.health.v1.Health/", "ServerLive", "ServerReady")
_CHALLENGE: Final = ((b"www-authenticate", b'Bearer realm="headrace"'),)  # RFC 6750, section 3


def authenticated(answer: Handler, callers: Callers, *, root_path: str = "") -> Handler:
    """The same handler, for callers with a key.

    Args:
        answer: What answers REST.
        callers: Who has one.
        root_path: What a proxy in front puts before every path.
    """
    root = root_path.rstrip("/").encode()

    async def answer_known(request: HttpRequest) -> HttpReply:
        if request.target.partition(b"?")[0].removeprefix(root) not in OPEN:
            try:
                callers.who(request.headers)
            except Unauthenticated as error:
                return HttpReply(status.error_body(str(error)), 401, headers=_CHALLENGE)
        return await answer(request)

    return answer_known


def authenticated_calls(methods: Mapping[str, Method], callers: Callers) -> dict[str, Method]:
    """The same gRPC calls, for callers with a key in their metadata."""
    return {
        path: method if any(each in path for each in _OPEN_CALLS) else _known(method, callers)
        for path, method in methods.items()
    }


def _known(method: Method, callers: Callers) -> Method:
    handle = method.handler

    async def unary(call: Call, message: Any) -> Any:
        callers.who(call.metadata)
        return await handle(call, message)

    async def stream(call: Call, messages: Any, send: Send) -> None:
        callers.who(call.metadata)
        await handle(call, messages, send)

    return msgspec.structs.replace(method, handler=unary if method.kind is Kind.UNARY else stream)
