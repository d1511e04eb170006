"""W3C trace context, and spans through the real OpenTelemetry SDK."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

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
