"""W3C trace context in and out, and OpenTelemetry spans for the steps of a request where a setting asks for them.

Context: https://www.w3.org/TR/trace-context/ (section 3.2, `traceparent`). The server begins a `RequestTrace` per
request; whoever does a step records it there; `finish` hands the spans to the OpenTelemetry SDK, whose exporter works
off the path.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any, Final, Literal, TypeVar

import msgspec

from headrace.errors import MissingExtra, SettingsError

_T = TypeVar("_T")
_TRACEPARENT: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


class TraceContext(msgspec.Struct, frozen=True):
    """Where a request stands in a distributed trace."""

    trace_id: str
    """32 hexadecimal digits."""
    span_id: str
    """16 hexadecimal digits."""
    flags: str = "00"
    """Two hexadecimal digits; bit 0: sampled."""

    def render(self) -> str:
        """The `traceparent` header."""
        return f"00-{self.trace_id}-{self.span_id}-{self.flags}"

    def child(self) -> TraceContext:
        """The same trace, a new span."""
        return TraceContext(self.trace_id, secrets.token_hex(8), self.flags)


def parse(header: str) -> TraceContext | None:
    """The context of a `traceparent` header; None when it is malformed, as the specification asks."""
    match = _TRACEPARENT.fullmatch(header.strip())
    if match is None:
        return None
    version, trace_id, span_id, flags, rest = match.groups()
    if version == "ff" or not int(trace_id, 16) or not int(span_id, 16) or (version == "00" and rest):
        return None
    return TraceContext(trace_id, span_id, flags)


class RequestTrace:
    """The steps of one request, as they end. Implements `payload.Trace`."""

    __slots__ = ("_context", "_finished", "_span", "_tracer", "context")

    def __init__(self, tracer: Any, name: str, parent: TraceContext | None, attributes: Mapping[str, str]) -> None:
        from opentelemetry import trace

        self._tracer = tracer
        self._finished = False
        remote = None
        if parent is not None:
            remote = trace.set_span_in_context(
                trace.NonRecordingSpan(
                    trace.SpanContext(
                        int(parent.trace_id, 16), int(parent.span_id, 16), True, trace.TraceFlags(int(parent.flags, 16))
                    )
                )
            )
        self._span = tracer.start_span(name, context=remote, kind=trace.SpanKind.SERVER, attributes=dict(attributes))
        self._context = trace.set_span_in_context(self._span)
        own = self._span.get_span_context()
        self.context = TraceContext(f"{own.trace_id:032x}", f"{own.span_id:016x}", f"{int(own.trace_flags):02x}")

    def record(self, name: str, start_ns: int, end_ns: int) -> None:
        """One step, by nanoseconds since the epoch."""
        self._tracer.start_span(name, context=self._context, start_time=start_ns).end(end_time=end_ns)

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Record what is done inside as one step."""
        started = time.time_ns()
        try:
            yield
        finally:
            self.record(name, started, time.time_ns())

    @contextlib.contextmanager
    def request(self) -> Iterator[RequestTrace]:
        """Finish this trace when the block ends, with the class of the error that it ends in."""
        error = ""
        try:
            yield self
        except BaseException as exc:
            error = type(exc).__name__
            raise
        finally:
            self.finish(error)

    async def stream(self, parts: AsyncIterator[_T]) -> AsyncIterator[_T]:
        """The same parts; this trace is finished with the last one, or when the reader leaves.

        Once read from, it must be closed, as any generator that is left early.
        """
        with self.request():
            try:
                async for part in parts:
                    yield part
            finally:
                close = getattr(parts, "aclose", None)
                if close is not None:
                    await close()

    def finish(self, error: str = "") -> None:
        """The request is answered; a second call changes nothing."""
        if self._finished:
            return
        self._finished = True
        if error:
            from opentelemetry.trace import Status, StatusCode

            self._span.set_status(Status(StatusCode.ERROR, error))
        self._span.end()


class Tracing:
    """Begins traces and exports them by OTLP."""

    def __init__(
        self,
        *,
        endpoint: str,
        sample_ratio: float,
        service_name: str,
        protocol: Literal["http", "grpc"] = "http",
        exporter: Any = None,
    ) -> None:
        """Set up the SDK for this process's server, without touching its global provider.

        Args:
            endpoint: Of an OTLP collector: over HTTP its base URL, to which `/v1/traces` is added; over gRPC
                `http://host:4317` or `host:4317`, without TLS, or `https://host:4317`.
            sample_ratio: Share of traces begun here that are kept, 0 to 1; a caller's own decision is followed.
            service_name: The resource's `service.name`.
            protocol: What the collector speaks there.
            exporter: A SpanExporter to use in place of OTLP.

        Raises:
            MissingExtra: the OpenTelemetry SDK is not installed.
            SettingsError: spans are to go over gRPC, and the exporter for it is not installed.
        """
        try:
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

            exporter = exporter or (_over_grpc if protocol == "grpc" else _over_http)(endpoint)
        except ImportError as exc:
            raise MissingExtra(
                f"tracing needs {exc.name}, which is not installed; install 'headrace[tracing]' or unset tracing"
            ) from exc
        self._provider = TracerProvider(
            resource=Resource.create({"service.name": service_name}),
            sampler=ParentBased(TraceIdRatioBased(sample_ratio)),
        )
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("headrace")

    def begin(self, name: str, headers: Mapping[str, str], attributes: Mapping[str, str]) -> RequestTrace:
        """A trace for one request, joined to the caller's where `traceparent` says so."""
        header = headers.get("traceparent", "")
        return RequestTrace(self._tracer, name, parse(header) if header else None, attributes)

    def close(self) -> None:
        """Export what is left."""
        self._provider.shutdown()


def _over_http(endpoint: str) -> Any:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return OTLPSpanExporter(endpoint=endpoint.rstrip("/") + "/v1/traces")


def _over_grpc(endpoint: str) -> Any:
    try:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    except ImportError as exc:
        raise SettingsError(
            "tracing.protocol grpc needs the package opentelemetry-exporter-otlp-proto-grpc, which is not installed; "
            "install it, or set tracing.protocol to http and tracing.otlp_endpoint to the collector's HTTP port (4318)"
        ) from exc
    return OTLPSpanExporter(endpoint=endpoint, insecure=not endpoint.startswith("https://"))
