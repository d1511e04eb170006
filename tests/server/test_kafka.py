"""Inference by Kafka on a real broker: headers, forms, answers, dead letters."""

from __future__ import annotations

import asyncio
import json
import queue

import numpy as np
import pytest

from headrace.brokers import admin
from headrace.brokers.base import Outgoing
from headrace.brokers.follower import Follower
from headrace.brokers.producer import Producer
from headrace.brokers.settings import KafkaSettings
from headrace.monitoring.families import Family
from headrace.monitoring.kafka_metrics import NAMES, KafkaMetrics
from headrace.monitoring.tracing import Tracing
from headrace.payload import InferenceRequest, InferenceResponse, Signature, Tensor, TensorSpec
from headrace.protocols import v2_grpc, v2_rest
from headrace.routing import mlserver_answers
from headrace.server.kafka import KafkaServer
from headrace.serving.models import Models, Served, State

SIGNATURE = Signature(
    platform="test",
    inputs=(TensorSpec(name="x", datatype="FP32", shape=(-1, 2)),),
    outputs=(TensorSpec(name="y", datatype="FP32", shape=(-1, 2), labels=("no", "yes")),),
)


def body(*rows, **rest):
    data = np.asarray(rows or [[1, 2]])
    tensor = {"name": "x", "shape": list(data.shape), "datatype": "FP32", "data": data.tolist()}
    return json.dumps({"inputs": [tensor], **rest}).encode()


class Wire:
    """A server on topics of its own, and both ends of them."""

    def __init__(self, brokers, name, **settings):
        self.settings = KafkaSettings(
            brokers=brokers,
            group=name,
            input_topics=(name,),
            output_topic=f"{name}-out",
            dead_letter_topic=f"{name}-dead",
            reply_topics=(f"{name}-reply",),
            **settings,
        )
        self.models, self.asked = Models(), []
        self.answers = queue.Queue()
        topics = [name, *(f"{name}-{each}" for each in ("out", "dead", "reply"))]
        admin.ensure_topics(self.settings, topics, create=True, partitions=2)
        self.producer = Producer(self.settings)
        self.producer.start()
        self.follower = Follower(self.settings, lambda records: [self.answers.put(each) for each in records])
        self.follower.start()
        for each in topics[1:]:
            self.follower.follow(each)

    def serve(self, name="double", *, version="", dialect="", state=State.READY):
        async def infer(request):
            self.asked.append(request)
            output = Tensor("y", "FP32", request.inputs[0].data * np.float32(2))
            return InferenceResponse(model_name=name, model_version=version, outputs=(output,))

        if dialect:
            infer = mlserver_answers.answers(infer, model=name, version=version, server_name="srv", whole=False)
        served = Served(name=name, version=version, signature=SIGNATURE, infer=infer, dialect=dialect)
        self.models.put(served)
        self.models.changed(served, state)
        return served

    async def ask(self, value, key=None, **headers):
        named = tuple((name.replace("_", "-"), text.encode()) for name, text in headers.items())
        await self.producer.deliver([Outgoing(self.settings.input_topics[0], value, key, named)])
        return await asyncio.to_thread(self.answers.get, timeout=40)

    def close(self):
        self.producer.close()
        self.follower.close()


@pytest.fixture
async def start(kafka, topic):
    started = []

    async def serve(*, traces=None, before=lambda wire: wire.serve(), **settings):
        wire = await asyncio.to_thread(Wire, kafka, topic, **settings)
        before(wire)
        server = KafkaServer(wire.models, wire.settings, traces=traces, first_pause_seconds=0.01)
        wire.server = server
        started.append((server, wire))
        await server.start()
        return wire

    yield serve
    for server, wire in started:
        await server.stop(5)
        await asyncio.to_thread(wire.close)


def headers_of(record):
    return {name: value.decode() for name, value in record.headers}


@pytest.mark.parametrize("prefix", ["headrace", "mlserver"])
async def test_answer(start, prefix):
    """A V2 request whose headers name model, version and method is answered on the output topic with its key, which
    stands over the id in the value, and what its sender finds it by.
    """
    wire = await start(before=lambda wire: (wire.serve(version="1"), wire.serve(version="2")))
    named = {f"{prefix}_model": "double", f"{prefix}_version": "1", f"{prefix}_method": "infer"}
    answer = await wire.ask(body([1, 2], id="inner"), b"outer", **named, x_request_id="r1")
    assert (answer.topic, answer.key) == (wire.settings.output_topic, b"outer")
    assert json.loads(answer.value) == {
        "model_name": "double",
        "model_version": "1",
        "id": "outer",
        "outputs": [{"name": "y", "shape": [1, 2], "datatype": "FP32", "data": [2.0, 4.0]}],
    }
    assert headers_of(answer) == {"content-type": "application/json", "x-request-id": "r1"}
    (request,) = wire.asked
    assert (request.id, request.protocol, request.headers["x-request-id"]) == ("outer", "kafka", "r1")


async def test_answer_without_a_key(start):
    """Without a key the answer's is the id of the request; without either it has none."""
    wire = await start(model="double")
    assert (await wire.ask(body(id="inner"))).key == b"inner"
    assert (await wire.ask(body())).key is None


async def test_mlserver_attributes(start):
    """Models of an MLServer folder are answered with MLServer's CloudEvents attributes as headers."""
    wire = await start(before=lambda wire: wire.serve(dialect="mlserver"))
    answer = await wire.ask(body(), b"k", mlserver_model="double")
    found = headers_of(answer)
    assert found["Ce-Id"] == found["Ce-Requestid"] == "k"
    assert (found["Ce-Source"], found["Ce-Endpoint"]) == ("io.seldon.serving.deployment.srv", "double")
    assert found["Ce-Type"] == "io.seldon.serving.inference.response"


async def test_binary_form(start):
    """JSON with binary tensors behind it is answered in the same form."""
    wire = await start(model="double")
    request = InferenceRequest(
        model_name="double",
        inputs=(Tensor("x", "FP32", np.float32([[3, 4]])),),
        parameters={"binary_data_output": True},
    )
    sent = v2_rest.render_request(request, binary=True)
    answer = await wire.ask(sent.body, inference_header_content_length=str(sent.header_length))
    length = int(headers_of(answer)["inference-header-content-length"])
    response = v2_rest.parse_response(answer.value, header_length=length)
    assert response.outputs[0].data.tolist() == [[6, 8]]


async def test_protobuf_form(start):
    """A ModelInferRequest in protobuf is answered with a ModelInferResponse, by the model that the header names."""
    wire = await start()
    request = InferenceRequest(model_name="other", inputs=(Tensor("x", "FP32", np.float32([[3, 4]])),), id="a")
    value = v2_grpc.render_request(request).SerializeToString()
    answer = await wire.ask(value, headrace_model="double", content_type="application/x-protobuf")
    message = v2_grpc.ModelInferResponse.FromString(answer.value)
    assert (message.model_name, message.id, headers_of(answer)["content-type"]) == (
        "double",
        "a",
        "application/x-protobuf",
    )
    assert v2_grpc.parse_response(message).outputs[0].data.tolist() == [[6, 8]]


async def test_reply_topic(start):
    """An answer goes to the topic that its request names, if settings list it."""
    wire = await start(model="double")
    (listed,) = wire.settings.reply_topics
    assert (await wire.ask(body(), headrace_reply_topic=listed)).topic == listed
    refused = await wire.ask(body(), headrace_reply_topic="elsewhere")
    assert refused.topic == wire.settings.dead_letter_topic
    assert "'elsewhere'" in headers_of(refused)["headrace-error-message"]


POISON = {
    "no model": (body(), {}, "InvalidRequest", "headrace-model"),
    "unknown model": (body(), {"headrace_model": "doubl"}, "ModelNotFound", "did you mean 'double'"),
    "method": (body(), {"mlserver_model": "double", "mlserver_method": "explain"}, "NotSupported", "'explain'"),
    "not JSON": (b"{", {"headrace_model": "double"}, "InvalidRequest", "JSON"),
    "wrong shape": (
        b'{"inputs":[{"name":"x","shape":[3,2],"datatype":"FP32","data":[1]}]}',
        {"headrace_model": "double"},
        "InvalidRequest",
        "x",
    ),
    "no value": (None, {"headrace_model": "double"}, "InvalidRequest", "no value"),
    "length": (
        body(),
        {"headrace_model": "double", "inference_header_content_length": "-1"},
        "InvalidRequest",
        "inference-header-content-length",
    ),
    "protobuf": (
        b"\xff\xff",
        {"headrace_model": "double", "content_type": "application/x-protobuf"},
        "InvalidRequest",
        "ModelInferRequest",
    ),
}


async def test_poison(start):
    """Each message that can never be answered is a dead letter as it came, with the class and text of the cause; those
    behind it are answered.
    """
    wire = await start()
    for value, headers, kind, text in POISON.values():
        letter = await wire.ask(value, b"k", **headers)
        found = headers_of(letter)
        assert (letter.topic, letter.key, letter.value) == (wire.settings.dead_letter_topic, b"k", value)
        assert found["headrace-error"] == kind
        assert text in found["headrace-error-message"]
    assert (await wire.ask(body(), b"k", headrace_model="double")).topic == wire.settings.output_topic
    assert wire.server.counts.dead == len(POISON)


async def test_model_that_is_not_ready(start):
    """A message for a model that is loading is answered once it is there."""
    wire = await start(before=lambda wire: wire.serve(state=State.LOADING), retries=50)
    asking = asyncio.create_task(wire.ask(body(), headrace_model="double"))
    while not wire.server.counts.retried:
        await asyncio.sleep(0.01)
    wire.models.changed(wire.models.find("double"), State.READY)
    assert (await asking).topic == wire.settings.output_topic


async def test_metrics(start):
    """The metrics of a member tell what was read, answered, dead, in flight and left, by group, topic and partition."""
    wire = await start(model="double")
    await wire.ask(body())
    await wire.ask(b"{")
    while wire.server.counts.answered < 2 or len(wire.server.counts.lag) < 2:
        await asyncio.sleep(0.01)
    metrics = KafkaMetrics()
    metrics.attach("g", wire.server.counts, lambda: wire.server.reason)
    families = {name: Family(name, kind, text) for name, (kind, text, _) in NAMES.items()}
    metrics.fill(families)
    samples = {
        (each.name, each.labels.get("partition", "")): each.value
        for family in families.values()
        for each in family.metric.samples
    }
    name = "headrace_kafka_"
    assert {each: samples[name + each, ""] for each in ("received_total", "answered_total", "dead_letters_total")} == {
        "received_total": 2,
        "answered_total": 2,
        "dead_letters_total": 1,
    }
    assert samples[name + "connected", ""] == 1
    assert samples[name + "in_flight", ""] == 0
    assert {partition for each, partition in samples if each == name + "lag"} == {"0", "1"}
    for family in families.values():
        assert family.metric.samples, family.name
    metrics.detach("g")
    empty = {each: Family(each, kind, text) for each, (kind, text, _) in NAMES.items()}
    metrics.fill(empty)
    assert not any(each.metric.samples for each in empty.values())


async def test_traces(start):
    """A traced message has spans for its steps under its caller's trace, whose id its answer carries."""
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter = InMemorySpanExporter()
    traces = Tracing(endpoint="", sample_ratio=1.0, service_name="s", exporter=exporter)
    wire = await start(model="double", traces=traces)
    caller = "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01"
    answer = await wire.ask(body(), traceparent=caller)
    await asyncio.to_thread(traces.close)
    spans = exporter.get_finished_spans()
    assert {span.name for span in spans} >= {"infer", "parse", "render"}
    assert {f"{span.context.trace_id:032x}" for span in spans} == {caller[3:35]}
    assert headers_of(answer)["traceparent"][3:35] == caller[3:35]
