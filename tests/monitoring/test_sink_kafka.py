"""Events into Kafka. Matrix: both modes of the binding x with and without data; keys; a broker that is away, dies and
comes back; a topic that is not there; an event that is too large; many at once; verdicts, payloads. Left out: TLS and
SASL, which are the connection's (tests/brokers).
"""

import json
import time

import confluent_kafka
import numpy as np
import pytest

from headrace.brokers import admin
from headrace.brokers.settings import KafkaSettings
from headrace.errors import InvalidRequest, Temporary, TooLarge
from headrace.monitoring.actions import Actions
from headrace.monitoring.exchange import Exchange
from headrace.monitoring.payloads import PayloadLog
from headrace.monitoring.settings import PayloadSettings, TrustSettings
from headrace.monitoring.sinks.base import Options, SinkOfMany
from headrace.monitoring.sinks.kafka import Kafka
from headrace.monitoring.sinks.registry import open_sink
from headrace.payload import Tensor
from headrace.protocols import cloudevents


def made(bootstrap, topic, **config):
    admin.ensure_topics(KafkaSettings(brokers=bootstrap), [topic], create=True, partitions=2, config=config)
    return topic


def read(bootstrap, topic, until, seconds=40):
    """Records as (key, headers, value), from the beginning, until a function of them says so."""
    consumer = confluent_kafka.Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": f"{topic}-{time.monotonic_ns()}",
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
        }
    )
    consumer.subscribe([topic])
    found, deadline = [], time.monotonic() + seconds
    try:
        while not until(found):
            assert time.monotonic() < deadline, found
            records = [each for each in consumer.consume(500, timeout=0.5) if each.error() is None]
            found += [(each.key(), each.headers() or [], each.value()) for each in records]
    finally:
        consumer.close()
    return found


def opened(bootstrap, topic, **options):
    return open_sink(f"kafka://{bootstrap}/{topic}", setting="test", options=Options(**options))


def an_event(data=None, **extensions):
    return cloudevents.event(
        data, type="io.example.x", source="/über", id="1", time=1.5, extensions={"requestid": "é 1%", **extensions}
    )


def test_binary_mode(kafka, topic):
    """A record in binary mode has the attributes as `ce_` headers in UTF-8, unquoted, the data as its value, and the
    model as its key; an event without data has no value.
    """
    made(kafka, topic)
    sink = opened(kafka, topic)
    events = [an_event({"a": 1}, inferenceservicename="iris"), an_event(inferenceservicename="iris")]
    assert sink.send_many(events) == [None, None]
    sink.close()
    first, second = read(kafka, topic, lambda found: len(found) == 2)
    key, headers, value = first
    assert key == b"iris"
    assert dict(headers) == {
        "ce_specversion": b"1.0",
        "ce_id": b"1",
        "ce_source": "/über".encode(),
        "ce_type": b"io.example.x",
        "ce_time": b"1970-01-01T00:00:01.500000Z",
        "ce_requestid": "é 1%".encode(),
        "ce_inferenceservicename": b"iris",
        "content-type": b"application/json",
    }
    assert json.loads(value) == {"a": 1}
    assert second[2] is None
    assert [cloudevents.parse_kafka(headers, value) for _, headers, value in (first, second)] == events


def test_structured_mode(kafka, topic):
    """A record in structured mode is the JSON document, says so in its content type, and is kept in order by
    `partitionkey` where the event has that.
    """
    made(kafka, topic)
    sink = opened(kafka, topic, mode="structured")
    event = an_event({"a": 1}, inferenceservicename="iris", partitionkey="p")
    sink.send(event)
    sink.close()
    ((key, headers, value),) = read(kafka, topic, len)
    assert key == b"p"
    assert dict(headers) == {"content-type": b"application/cloudevents+json; charset=UTF-8"}
    assert json.loads(value)["data"] == {"a": 1}
    assert cloudevents.parse_kafka(headers, value) == event


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        ([("ce_id", b"\xff")], "UTF-8"),
        ([("ce_specversion", b"1.0"), ("ce_id", b"1")], "source"),
        ([("content-type", b"application/cloudevents+avro")], "avro"),
        ([("content-type", b"application/cloudevents+json")], "JSON"),
    ],
    ids=["not-utf8", "missing", "avro", "empty"],
)
def test_what_is_no_event(headers, said):
    """A record that is no CloudEvent is refused, and the text says why."""
    with pytest.raises(InvalidRequest, match=said):
        cloudevents.parse_kafka(headers, None)


def test_many_at_once(kafka, topic):
    """Thousands of events are acknowledged together, those of a model in order; one that is too large fails alone."""
    made(kafka, topic)
    sink = opened(kafka, topic)
    assert isinstance(sink, SinkOfMany)
    events = [an_event({"at": at}, inferenceservicename=f"m{at % 3}") for at in range(3000)]
    large = an_event({"x": "x" * 3_000_000})
    outcomes = sink.send_many([*events[:1500], large, *events[1500:]])
    sink.close()
    assert isinstance(outcomes.pop(1500), TooLarge)
    assert set(outcomes) == {None}
    found = read(kafka, topic, lambda found: len(found) >= 3000)
    for model in (b"m0", b"m1", b"m2"):
        assert [json.loads(value)["at"] for key, _, value in found if key == model] == [*range(model[1] - 48, 3000, 3)]


def test_a_closed_sink(kafka, topic):
    """What comes after the end is told to come later, and closing twice is closing once."""
    sink = opened(kafka, topic)
    sink.close()
    sink.close()
    with pytest.raises(Temporary, match="closed"):
        sink.send(an_event())


def test_no_secret_is_shown():
    """Neither the sink nor its options show the password or options of Kafka."""
    kafka = KafkaSettings(password="hunter2", username="u", options=("sasl.oauthbearer.config=hunter3",))
    options = Options(kafka=kafka, secret="hunter4")
    sink = Kafka("kafka://h:1/t", setting="x", options=options)
    for text in (repr(options), str(options), repr(sink), sink.name):
        assert "hunter" not in text


def an_exchange(at):
    return Exchange(
        id=f"r{at}",
        model="iris",
        version="1",
        time=1.0,
        seconds=0.1,
        inputs=(Tensor("x", "FP64", np.array([float(at)])),),
        outputs=(Tensor("y", "INT64", np.array([1])),),
        protocol="v2-rest",
    )


def test_payloads_through_a_broker_that_dies(broker, topic, tmp_path):
    """Requests and answers that are logged while the broker is away arrive once it is back, none lost; those of Seldon
    carry its attributes.
    """
    made(broker.bootstrap, topic)
    settings = PayloadSettings(
        mode="all",
        sink=f"kafka:///{topic}",
        spool=str(tmp_path / "spool"),
        event_types="seldon",
        flush_seconds=0.01,
    )
    log = PayloadLog(settings, "/server", kafka=KafkaSettings(brokers=broker.bootstrap))
    log.open()
    log.take(an_exchange(at) for at in range(100))
    read(broker.bootstrap, topic, lambda found: len(found) >= 200)
    broker.stop()
    log.take(an_exchange(at) for at in range(100, 200))
    log.flush()
    broker.start()
    found = read(broker.bootstrap, topic, lambda found: len({each[1][1] for each in found}) >= 400, seconds=50)
    log.close(20)
    events = [cloudevents.parse_kafka(headers, value) for _, headers, value in found]
    for kind in ("request", "response"):
        of_kind = [event for event in events if event.type == f"io.seldon.serving.inference.{kind}"]
        assert {event.extensions["requestid"] for event in of_kind} == {f"r{at}" for at in range(200)}
    assert events[0].extensions["modelid"] == "iris"
    assert log.counts()["dropped"] == log.counts()["failed"] == 0


def test_verdicts(kafka, topic, tmp_path):
    """Verdicts and alerts go to a topic as KServe's types where that is set."""
    made(kafka, topic)
    trust = TrustSettings(
        state=str(tmp_path), events=f"kafka://{kafka}/{topic}", event_types="kserve", event_mode="structured"
    )
    actions = Actions(trust)
    actions.open()
    record = {
        "kind": "drift",
        "model": "iris",
        "version": "1",
        "detector": "d",
        "window": "w1",
        "data": {"is_drift": 1},
    }
    assert actions.verdict(record)
    actions.alert(record)
    assert actions.settle(40)
    actions.close(1)
    found = read(kafka, topic, lambda found: len(found) >= 2)
    types = {cloudevents.parse_kafka(headers, value).type for _, headers, value in found}
    assert types == {"org.kubeflow.serving.inference.drift", "org.kubeflow.serving.inference.alert"}
