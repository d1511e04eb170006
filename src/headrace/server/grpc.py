"""The gRPC server: the table of calls put together, and the listener that answers by it. `app.py` starts it."""

from __future__ import annotations

import ssl as tls
from collections.abc import Callable, Sequence

import msgspec

from headrace.monitoring.mlserver_metrics import GrpcTimes
from headrace.monitoring.tracing import Tracing
from headrace.protocols.v2_control import Statistics
from headrace.security.callers import Callers
from headrace.server import grpc_health, grpc_reflection, grpc_services
from headrace.server.authentication import authenticated_calls
from headrace.server.grpc_connection import GrpcConnection, GrpcLimits, Listener
from headrace.server.metrics import timed_calls
from headrace.serving.models import Models, Served


class GrpcServer:
    """Answers the Open Inference Protocol with its extensions, health and reflection over gRPC.

    Args:
        models: The routing table.
        repository: What loads and unloads.
        name: The server's, for its metadata.
        version: The server's.
        extensions: What its metadata names beside those that are built in.
        service: What the calls do: another class answers as another server does.
        max_message_bytes: Of a request or an answer.
        request_timeout_seconds: The deadline of unary calls that bring none; 0: none.
        limits: Everything else that callers may do.
        statistics: What the statistics extension says of a version.
        counts: Calls by method and status name, written to.
        traces: Set to trace inference.
        times: What MLServer's metrics of gRPC need, written to; None: nobody asked for them.
        callers: Who may call; None: everybody.
    """

    def __init__(
        self,
        models: Models,
        repository: grpc_services.Repository,
        *,
        name: str = "headrace",
        version: str = "",
        extensions: Sequence[str] = (),
        service: type[grpc_services.InferenceService] = grpc_services.InferenceService,
        max_message_bytes: int = 64 << 20,
        request_timeout_seconds: float = 0.0,
        limits: GrpcLimits | None = None,
        statistics: Callable[[Served], Statistics] | None = None,
        counts: dict[tuple[str, str], int] | None = None,
        traces: Tracing | None = None,
        times: GrpcTimes | None = None,
        callers: Callers | None = None,
    ) -> None:
        self._health = grpc_health.Health(models, services=(grpc_services.SERVICE,))
        methods = {
            **service(
                models,
                repository,
                name=name,
                version=version,
                extensions=extensions,
                statistics=statistics,
                traces=traces,
            ).methods(),
            **self._health.methods(),
            **grpc_reflection.methods((grpc_services.SERVICE, grpc_services.REPOSITORY_SERVICE, grpc_health.SERVICE)),
        }
        if callers is not None:
            methods = authenticated_calls(methods, callers)
        if times is not None:
            methods = timed_calls(methods, times)
        limits = msgspec.structs.replace(
            limits or GrpcLimits(),
            max_message_bytes=max_message_bytes,
            request_timeout_seconds=request_timeout_seconds,
        )
        self._listener = Listener(methods, limits=limits, counts=counts)

    def protocol_factory(self) -> GrpcConnection:
        """A connection, for `loop.create_server`."""
        return self._listener.protocol_factory()

    async def start(self, host: str, port: int, ssl: tls.SSLContext | None = None) -> int:
        """Listen; returns the port, which is a free one for port 0.

        Args:
            host: The address.
            port: 0 takes a free one.
            ssl: To speak TLS. A context for this listener alone: `h2` is set on it as the one protocol of ALPN.
        """
        return await self._listener.start(host, port, ssl)

    async def stop(self, grace_seconds: float) -> None:
        """Report NOT_SERVING, accept no more, let calls end for as long as `grace_seconds`, then close."""
        self._health.stop()
        await self._listener.stop(grace_seconds)
