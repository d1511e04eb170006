"""W3C trace context, and spans through the real OpenTelemetry SDK."""

from __future__ import annotations

import importlib.util

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from headrace.errors import SettingsError
from headrace.monitoring import tracing

HEX = "0123456789abcdef"


@given(
    st.text(HEX, min_size=32, max_size=32).filter(lambda t: int(t, 16)),
    st.text(HEX, min_size=16, max_size=16).filter(lambda t: int(t, 16)),
    st.text(HEX, min_size=2, max_size=2),
)
def test_a_context_survives_its_header(trace_id, span_id, flags):
    """Parsing what was rendered gives the same context."""
    context = tracing.TraceContext(trace_id, span_id, flags)
    assert tracing.parse(context.render()) == context


@given(st.text())
def test_any_text_is_a_context_or_nothing(text):
    """A malformed header is ignored and never raises."""
    context = tracing.parse(text)
    assert context is None or tracing.parse(context.render()) == context


@pytest.mark.parametrize(
    "header",
    [
        pytest.param("00-" + "0" * 32 + "-b7ad6b7169203331-01", id="trace id of zeros"),
        pytest.param("00-0af7651916cd43dd8448eb211c80319c-" + "0" * 16 + "-01", id="span id of zeros"),
        pytest.param("ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", id="version ff"),
        pytest.param("00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01", id="capitals"),
        pytest.param("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more", id="version 00 with more"),
    ],
)
def test_what_the_specification_forbids_is_ignored(header):
    """An invalid traceparent is treated as absent."""
    assert tracing.parse(header) is None


def test_a_later_version_with_more_fields_is_understood():
    """Fields after the flags are allowed from version 01 on."""
    assert tracing.parse("01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more") is not None


def test_steps_become_spans_under_the_callers_trace():
    """Each recorded step is a child of the request's span, which is a child of the caller's."""
    exporter = InMemorySpanExporter()
    traces = tracing.Tracing(endpoint="http://127.0.0.1:1", sample_ratio=0.0, service_name="test", exporter=exporter)
    header = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    trace = traces.begin("infer", {"traceparent": header}, {"model": "m"})
    trace.record("parse", 1_000, 2_000)
    trace.finish()
    traces.close()
    child, parent = exporter.get_finished_spans()
    assert (child.name, child.start_time, child.end_time) == ("parse", 1_000, 2_000)
    assert child.parent.span_id == parent.context.span_id
    assert f"{parent.context.trace_id:032x}" == "0af7651916cd43dd8448eb211c80319c"
    assert f"{parent.parent.span_id:016x}" == "b7ad6b7169203331"
    assert trace.context.trace_id == "0af7651916cd43dd8448eb211c80319c"


def traced(exporter):
    return tracing.Tracing(endpoint="http://127.0.0.1:1", sample_ratio=1.0, service_name="test", exporter=exporter)


def test_a_block_is_a_request_and_its_steps():
    """A trace around a block ends with it; steps within are its children, and an error gives its class."""
    exporter = InMemorySpanExporter()
    traces = traced(exporter)

    def fail():
        with traces.begin("infer", {}, {}).request() as trace:
            with trace.step("parse"):
                pass
            raise ValueError("secret")

    with pytest.raises(ValueError, match="secret"):
        fail()
    traces.close()
    child, parent = exporter.get_finished_spans()
    assert (child.name, child.parent.span_id) == ("parse", parent.context.span_id)
    assert parent.start_time <= child.start_time <= child.end_time <= parent.end_time
    assert (parent.status.is_ok, parent.status.description) == (False, "ValueError")


@pytest.mark.parametrize(("end", "description"), [("read", None), ("left", "GeneratorExit"), ("fails", "ValueError")])
async def test_a_streams_trace_ends_with_the_stream(end, description):
    """A stream that is read, left or fails has one span, finished at that moment; its source is closed."""
    exporter = InMemorySpanExporter()
    traces = traced(exporter)
    closed = []

    async def parts():
        try:
            yield 1
            yield 2
            if end == "fails":
                raise ValueError
        finally:
            closed.append(True)

    trace = traces.begin("infer", {}, {})
    stream = trace.stream(parts())
    seen = [await anext(stream)]
    assert not closed
    if end == "left":
        await stream.aclose()
    elif end == "fails":
        with pytest.raises(ValueError):
            [part async for part in stream]
    else:
        seen += [part async for part in stream]
        assert seen == [1, 2]
    trace.finish("again")
    traces.close()
    (span,) = exporter.get_finished_spans()
    assert closed == [True]
    assert span.status.description == description


def test_spans_over_grpc_name_the_package_that_they_need():
    """Without the exporter for gRPC the setting is refused with the package's name; with it, spans go over gRPC."""
    options = {"endpoint": "http://127.0.0.1:1", "sample_ratio": 1.0, "service_name": "test", "protocol": "grpc"}
    if importlib.util.find_spec("opentelemetry.exporter.otlp.proto.grpc"):
        tracing.Tracing(**options).close()
    else:
        with pytest.raises(SettingsError, match="opentelemetry-exporter-otlp-proto-grpc"):
            tracing.Tracing(**options)
