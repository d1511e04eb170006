"""CloudEvents. Matrix: mode x data (none, JSON, text, bytes) x attributes of any text; the two dialects."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import InvalidRequest
from headrace.protocols import cloudevents

texts = st.text(max_size=20)
names = st.from_regex(r"[a-z0-9]{1,20}", fullmatch=True).filter(lambda name: name not in cloudevents._OWN)
contents = st.one_of(
    st.none(),
    st.tuples(st.just("application/json"), st.binary(max_size=30)),
    st.tuples(st.just("application/json"), st.dictionaries(texts, st.integers(-9, 9), max_size=3)),
    st.tuples(
        st.just("application/vnd.x+json; charset=utf-8"), st.sampled_from([b'{"a": 1}', b" 1 ", b"NaN", b'"\xff"'])
    ),
    st.tuples(st.sampled_from(["text/plain", "application/octet-stream"]), st.binary(max_size=30)),
)


@st.composite
def events(draw):
    content = draw(contents)
    kind, data = content or ("application/json", None)
    return cloudevents.event(
        data,
        type=draw(st.text(min_size=1, max_size=20)),
        source=draw(st.text(min_size=1, max_size=20)),
        id=draw(texts),
        time=draw(st.one_of(st.just(""), st.floats(0, 4e9))),
        subject=draw(texts),
        dataschema=draw(texts),
        datacontenttype=kind,
        extensions=draw(st.dictionaries(names, texts, max_size=4)),
    )


@given(events())
def test_binary_mode_returns(event):
    """An event in binary mode is read as it was, whatever characters its attributes have."""
    headers, body = cloudevents.binary(event)
    assert cloudevents.parse(headers, body) == event


@given(events())
def test_structured_mode_returns(event):
    """An event in structured mode is read as it was, byte for byte of its data."""
    body = cloudevents.structured(event)
    json.loads(body)
    assert cloudevents.parse({"content-type": cloudevents.STRUCTURED}, body) == event


@given(events())
def test_headers_are_safe(event):
    """No attribute of an event, though callers choose ids, can end a header or begin another."""
    headers, _ = cloudevents.binary(event)
    assert all(value.isascii() and value.isprintable() for value in headers.values())


def test_binary_example():
    """The example of the HTTP binding, section 3.1.3.2: what is not printable ASCII, and quotes, are percent-encoded."""
    event = cloudevents.event(b"{}", type="t", source="/s", id="1", subject='Euro € "x" 100%')
    headers, body = cloudevents.binary(event)
    assert headers == {
        "ce-specversion": "1.0",
        "ce-id": "1",
        "ce-source": "/s",
        "ce-type": "t",
        "ce-subject": "Euro%20%E2%82%AC%20%22x%22%20100%25",
        "content-type": "application/json",
    }
    assert body == b"{}"


def test_quoted_headers_are_read():
    """A header value in quotes, as older senders write it, is unquoted before percent signs are (section 3.1.3.3)."""
    headers = {"ce-specversion": "1.0", "ce-id": '"a \\"b\\" %C3%BC"', "ce-source": "/s", "ce-type": "t"}
    assert cloudevents.parse(headers, b"").id == 'a "b" ü'


def test_foreign_structured_event():
    """Numbers and booleans of extensions are read in their canonical text, text data of another type as its bytes."""
    document = {
        "specversion": "1.0", "id": "1", "source": "/s", "type": "t", "count": 3, "flag": True, "gone": None,
        "datacontenttype": "text/xml", "data": '<much wow="xml"/>',
    }  # fmt: skip
    event = cloudevents.parse(
        {"content-type": "application/cloudevents+json; charset=utf-8"}, json.dumps(document).encode()
    )
    assert event.extensions == {"count": "3", "flag": "true"}
    assert event.data == b'<much wow="xml"/>'


@pytest.mark.parametrize(
    ("headers", "body", "said"),
    [
        ({}, b"", "specversion"),
        ({"ce-specversion": "0.3", "ce-id": "1", "ce-source": "s", "ce-type": "t"}, b"", "0.3"),
        ({"ce-specversion": "1.0", "ce-source": "s"}, b"", "id, type"),
        ({"ce-specversion": "1.0", "ce-id": "%FF", "ce-source": "s", "ce-type": "t"}, b"", "ce-id"),
        ({"content-type": cloudevents.STRUCTURED}, b"[]", "no CloudEvent"),
        ({"content-type": cloudevents.STRUCTURED}, b'{"specversion":"1.0","data_base64":"*"}', "no CloudEvent"),
        (
            {"content-type": cloudevents.STRUCTURED},
            b'{"specversion":"1.0","id":"1","source":"s","type":"t","x":[]}',
            "x",
        ),
        ({"content-type": "application/cloudevents-batch+json"}, b"[]", "batch"),
    ],
    ids=["none", "version", "missing", "not-utf8", "list", "base64", "list-attribute", "batch"],
)
def test_what_is_no_event(headers, body, said):
    """What is no CloudEvent is refused, and the text names why."""
    with pytest.raises(InvalidRequest, match=said):
        cloudevents.parse(headers, body)


@pytest.mark.parametrize(
    "wrong",
    [
        {"type": ""},
        {"source": ""},
        {"extensions": {"Upper": "x"}},
        {"extensions": {"id": "x"}},
        {"datacontenttype": "a\r\nb/c"},
        {"datacontenttype": "application/cloudevents+json"},
    ],
)
def test_an_event_that_cannot_be(wrong):
    """An event without a type or source, with an extension of no lawful name, or with an impossible content type."""
    with pytest.raises(InvalidRequest):
        cloudevents.event({}, **{"type": "t", "source": "/s", **wrong})


def test_dialects():
    """Types and extension attributes are those that Seldon's and KServe's receivers look for, names at most 20 long."""
    seldon = cloudevents.attributes("seldon", model="iris", version="3", request_id="r", protocol="v2_rest")
    kserve = cloudevents.attributes("kserve", model="iris", version="3", request_id="r", protocol="v2_rest")
    assert set(seldon) == {"requestid", "modelid", "inferenceservicename", "namespace", "endpoint", "protocol"}
    assert set(kserve) == {"inferenceservicename", "namespace", "component", "endpoint"}
    assert cloudevents.type_of("drift", "seldon") == "io.seldon.serving.inference.drift"
    assert cloudevents.type_of("metrics", "seldon") == "io.seldon.serving.feedback.metrics"
    assert cloudevents.type_of("request", "kserve") == "org.kubeflow.serving.inference.request"
    assert all(len(name) <= 20 for name in {*seldon, *kserve, *cloudevents.members("a", "b", 2)})
