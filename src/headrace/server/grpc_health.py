"""grpc.health.v1: what Kubernetes probes, Envoy and load balancers ask. `server.grpc` puts it in its table.

The empty name is the server; so is a service it offers. Any other name is a model's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from headrace.errors import NotFound
from headrace.protocols import v2_grpc
from headrace.server.grpc_connection import Call, Kind, Message, Method, Send
from headrace.serving.models import Models, State

SERVICE: Final = "grpc.health.v1.Health"
_WATCH_SECONDS: Final = 0.5
"""How often a watched model is looked at: the table tells nobody of its changes."""

_Request: Final = v2_grpc.message_class("grpc.health.v1.HealthCheckRequest")
_Response: Final = v2_grpc.message_class("grpc.health.v1.HealthCheckResponse")
_ListRequest: Final = v2_grpc.message_class("grpc.health.v1.HealthListRequest")
_ListResponse: Final = v2_grpc.message_class("grpc.health.v1.HealthListResponse")
SERVING: Final = 1
NOT_SERVING: Final = 2
SERVICE_UNKNOWN: Final = 3


class Health:
    """Health by name.

    Args:
        models: The routing table.
        services: Names that stand for the server, beside the empty one.
    """

    def __init__(self, models: Models, *, services: Sequence[str]) -> None:
        self._models = models
        self._services = ("", *services)
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """From now on nothing is serving; watches say so and end."""
        self._stopping.set()

    def methods(self) -> dict[str, Method]:
        """The rows of the table."""
        return {
            f"/{SERVICE}/Check": Method(name="Check", kind=Kind.UNARY, request=_Request, handler=self._check),
            f"/{SERVICE}/List": Method(name="List", kind=Kind.UNARY, request=_ListRequest, handler=self._list),
            f"/{SERVICE}/Watch": Method(name="Watch", kind=Kind.SERVER_STREAM, request=_Request, handler=self._watch),
        }

    def _status(self, name: str) -> int:
        if name in self._services:
            ready = self._models.is_ready()
        else:
            versions = self._models.versions(name)
            if not versions:
                return SERVICE_UNKNOWN
            ready = any(served.state is State.READY for served in versions)
        return SERVING if ready and not self._stopping.is_set() else NOT_SERVING

    async def _check(self, call: Call, message: Message) -> Message:
        status = self._status(message.service)
        if status == SERVICE_UNKNOWN:
            raise NotFound(f"no service or model '{message.service}'")
        return _Response(status=status)

    async def _list(self, call: Call, message: Message) -> Message:
        response = _ListResponse()
        for name in (*self._services, *(served.name for served in self._models)):
            response.statuses[name].status = self._status(name)
        return response

    async def _watch(self, call: Call, message: Message, send: Send) -> None:
        last = None
        while True:
            status = self._status(message.service)
            if status != last:
                await send(_Response(status=status))
                last = status
            if self._stopping.is_set():
                return
            try:
                await asyncio.wait_for(self._stopping.wait(), _WATCH_SECONDS)
            except TimeoutError:
                continue
