"""Durable pipelines in one process, on a real broker: what is stored, who answers, what is found by id, what comes back
when brokers, models and versions go and come.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time

import numpy as np
import pytest

from headrace.app import App
from headrace.brokers import admin
from headrace.brokers.base import Outgoing, Record
from headrace.brokers.follower import Follower
from headrace.brokers.producer import Producer
from headrace.brokers.settings import KafkaSettings
from headrace.control.backends.base import ModelUnit, PipelineUnit, key_of
from headrace.control.resources import Model
from headrace.errors import (
    Conflict,
    DeadlineExceeded,
    ModelError,
    ModelNotReady,
    NotFound,
    RuntimeFailed,
)
from headrace.graph.spec import Dataflow, Output, Pipeline, Step
from headrace.local.backend import LocalBackend
from headrace.local.durable import Durables
from headrace.payload import InferenceRequest, Signature, Tensor, TensorSpec
from headrace.protocols import v2_grpc, v2_rest
from headrace.server.kafka import KafkaServer
from headrace.settings import Settings
from headrace.testing.backends import put, take
from headrace.trust import fit

CODE = """
import asyncio
import numpy as np

from headrace.errors import ModelError, ModelNotReady

calls = []


class Add:
    def __init__(self, amount: float = 1.0):
        self.amount = amount

    def predict(self, x: np.ndarray) -> dict:
        if (x < 0).any():
            raise ValueError("a negative number")
        if (x == 418).any():
            raise ModelError("a teapot", status=418)
        return {"x": x + self.amount}


class Flaky:
    def __init__(self):
        self.left = 2

    def predict(self, x: np.ndarray) -> dict:
        self.left -= 1
        if self.left >= 0:
            raise ModelNotReady("not just now")
        return {"x": x}


class Never:
    async def predict(self, x: np.ndarray) -> dict:
        await asyncio.sleep(3600)


class Count:
    def __init__(self, path: str = ""):
        self.path = path

    def predict(self, x: np.ndarray) -> dict:
        if (x == 31337).any():  # not what is asked to find out how fast it is
            with open(self.path, "a") as file:
                file.write(".")
        return {"x": x}
"""


class Place:
    """A server without listeners, whose backend has durable pipelines on the test's broker."""

    def __init__(self, folder, settings):
        self.folder, self.settings = folder, settings

    async def start(self):
        base = Settings()
        self.app = App(
            dataclasses.replace(
                base,
                http=dataclasses.replace(base.http, port=0),
                grpc=dataclasses.replace(base.grpc, enabled=False),
                metrics=dataclasses.replace(base.metrics, enabled=False),
                models=dataclasses.replace(base.models, cache_dir=str(self.folder / "cache"), optimize="off"),
            ),
            [],
        )
        await self.app.start()
        self.durables = Durables(self.settings, drain_seconds=1.0)
        self.backend = LocalBackend(self.app.models, self.app._repository, self.app._residency, durables=self.durables)
        return self

    async def stop(self):
        await self.backend.close()
        await self.app.stop()

    async def model(self, name, reference="code.py:Add", *, revision=1, **parameters):
        spec = Model(reference=reference, parameters=parameters)
        unit = ModelUnit(name=name, digest=str(revision), base=str(self.folder), revision=revision, spec=spec)
        await put(self.backend, unit)

    async def pipeline(self, *steps, version=1, ready=True, **fields):
        fields = {"durability": "kafka", "partitions": 2, **fields}
        spec = Pipeline(steps=steps, output=Output(steps=(steps[-1].name,)), **fields)
        unit = PipelineUnit(name="p", digest=str(version), base=str(self.folder), version=version, spec=spec)
        await put(self.backend, unit)
        while ready:
            try:
                self.app.models.route("p")
            except ModelNotReady:
                await asyncio.sleep(0.01)
            else:
                break
        return self.backend._deployed[key_of(unit)].durable

    @property
    def served(self):
        return self.app.models.route("p")

    async def ask(self, value, *, identity="", seconds=30.0, **fields):
        return await self.served.infer(asking(value, identity=identity, seconds=seconds, **fields))


def asking(value, *, identity="", seconds=30.0, **fields):
    tensor = Tensor("x", "FP64", np.array(value, np.float64).reshape(-1, 1))
    headers = {"x-request-id": identity} if identity else {}
    fields = {"headers": headers, "protocol": "v2_rest", **fields}
    return InferenceRequest(model_name="p", inputs=(tensor,), deadline=time.monotonic() + seconds, **fields)


def values(response):
    return response.outputs[0].data.ravel().tolist()


@pytest.fixture
def settings(kafka, topic):
    return KafkaSettings(brokers=kafka, prefix=topic, options=("session.timeout.ms=6000",))


@pytest.fixture
async def places(tmp_path, settings):
    """Start places on one broker; each is stopped after the test."""
    (tmp_path / "code.py").write_text(CODE)
    started = []

    async def start(**changes):
        place = await Place(tmp_path, dataclasses.replace(settings, **changes)).start()
        started.append(place)
        return place

    yield start
    for each in started:
        await each.stop()


@pytest.fixture
async def place(places):
    return await places()


async def written(settings, name, *, count=0):
    """All records of a topic, once there are so many."""
    records = []
    follower = Follower(settings, records.extend)
    follower.start()
    try:
        await asyncio.to_thread(follower.follow, name, seconds=600, records=10_000)
        while True:
            assert await asyncio.to_thread(follower.catch_up, name, timeout_seconds=30)
            if len(records) >= count:
                return records
            await asyncio.sleep(0.02)
    finally:
        await asyncio.to_thread(follower.close)


class TestAnswers:
    async def test_a_durable_pipeline_answers_as_one_in_memory(self, place):
        """The answer is that of the steps, and request and answer stand in their topics under the request's id."""
        await place.model("a")
        await place.model("b", amount=10.0)
        await place.pipeline(Step(name="a"), Step(name="b", inputs=("a",)))
        response = await place.ask([1, 2], identity="r-1", id="mine")
        assert values(response) == [12.0, 13.0]
        assert (response.model_name, response.model_version, response.id) == ("p", "1", "mine")
        names = place.durables.names
        (asked,) = await written(place.settings, names.inputs("p"))
        (answered,) = await written(place.settings, names.outputs("p"))
        assert asked.key == answered.key == b"r-1"
        assert v2_rest.parse_response(answered.value).outputs[0].data.tolist() == [[12.0], [13.0]]
        assert asked.header("pipeline") == answered.header("pipeline") == "p"
        assert (answered.header("x-request-id"), answered.header("x-pipeline-version")) == ("r-1", "1")

    async def test_an_id_is_made_where_none_is_given(self, place):
        """A caller without an id is told the one by which its result can be had, and no two are the same."""
        await place.model("a")
        await place.pipeline(Step(name="a"))
        responses = await asyncio.gather(*[place.ask([n]) for n in range(50)])
        assert [values(each) for each in responses] == [[n + 1.0] for n in range(50)]
        ids = [each.headers["x-request-id"] for each in responses]
        assert len(set(ids)) == 50
        assert values(await place.served.results.find(ids[7])) == [8.0]

    @pytest.mark.parametrize("naming", ["headrace", "seldon"])
    async def test_tensors_and_parameters_pass_as_they_are(self, places, naming):
        """Infinities, NaN, text that is none, half precision and parameters survive both topics, in both namings."""
        place = await places(naming=naming)
        (place.folder / "echo.py").write_text("class Echo:\n    def predict(self, inputs):\n        return inputs\n")
        tensors = (
            Tensor("f", "FP32", np.array([1.5, np.inf, -np.inf, np.nan], np.float32)),
            Tensor("h", "FP16", np.array([0.1, 2.0, 3.0, 4.0], np.float16)),
            Tensor("i", "INT64", np.array([2**62 + 1, -1, 0, 1])),
            Tensor("b", "BYTES", np.array([b"\xff\x00", b"text", b"", "ä".encode()], object)),
        )
        durable = await place.pipeline(Step(name="m", combine=None, python="echo.py:Echo"), ready=False)
        outgoing, _ = durable._records.request(
            InferenceRequest(model_name="p", inputs=tensors, parameters={"n": 3, "s": "t"}), "r"
        )
        record = Record(outgoing.topic, 0, 0, outgoing.key, outgoing.value, outgoing.headers)
        asked = durable._records.asked(record, deadline=0.0)
        assert asked.request.parameters == {"n": 3, "s": "t"}
        assert asked.id == "r"
        for sent, came in zip(tensors, asked.request.inputs, strict=True):
            assert (came.name, came.datatype) == (sent.name, sent.datatype)
            assert came.data.tobytes() == sent.data.tobytes() if sent.datatype != "BYTES" else True
            np.testing.assert_array_equal(came.data, sent.data)

    async def test_errors_reach_the_caller_as_they_were_raised(self, place):
        """A model's failure and a status of its own arrive with class, text and status, and stand in the errors."""
        await place.model("a")
        await place.pipeline(Step(name="a"))
        with pytest.raises(RuntimeFailed, match=r"pipeline 'p' step 'a'.*a negative number"):
            await place.ask([-1], identity="bad")
        with pytest.raises(ModelError, match="a teapot") as caught:
            await place.ask([418])
        assert caught.value.status == 418
        errors = await written(place.settings, place.durables.names.errors("p"))
        assert {each.header("seldon-pipeline-errors") for each in errors} == {"a"}
        assert {each.header("headrace-error") for each in errors} == {"RuntimeFailed", "ModelError"}
        with pytest.raises(RuntimeFailed, match="a negative number"):
            await place.served.results.find("bad")

    async def test_what_is_no_request_is_answered_with_an_error(self, place):
        """A record that no protocol understands gets an error for an answer, and the ones behind it get theirs."""
        await place.model("a")
        await place.pipeline(Step(name="a"))
        names = place.durables.names
        body = v2_rest.render_request(asking([1])).body
        producer = Producer(place.settings)
        producer.start()
        poison = [Outgoing(names.inputs("p"), value, b"k") for value in (b"\xff\x00 no json", None, b"{}")]
        await producer.deliver([*poison, Outgoing(names.inputs("p"), body, b"k")])
        await asyncio.to_thread(producer.close)
        answers = await written(place.settings, names.outputs("p"), count=4)
        assert [each.header("headrace-error") for each in answers] == ["InvalidRequest"] * 3 + [""]
        assert v2_rest.parse_response(answers[3].value).outputs[0].data.tolist() == [[2.0]]
        assert len({each.header("x-request-id") for each in answers}) == 4
        assert len(await written(place.settings, names.errors("p"), count=3)) == 3

    async def test_what_may_succeed_later_is_tried_again(self, place):
        """A model that is not ready twice answers at the third try, and the caller sees no error."""
        await place.model("a", "code.py:Flaky")
        await place.pipeline(Step(name="a"))
        assert values(await place.ask([5])) == [5.0]


class TestResults:
    async def test_a_request_that_is_sent_again_is_not_run_again(self, place, tmp_path):
        """The same id and content gets the answer that there is, at once and later; a model sees it once."""
        ran = tmp_path / "ran"
        await place.model("a", "code.py:Count", path=str(ran))
        await place.pipeline(Step(name="a"))
        together = await asyncio.gather(*[place.ask([31337], identity="same") for _ in range(3)])
        again = await place.ask([31337], identity="same")
        assert [values(each) for each in (*together, again)] == [[31337.0]] * 4
        assert ran.read_text() == "."

    async def test_an_id_of_other_content_is_refused(self, place):
        """An id that was used for other tensors is a conflict, so that nobody gets another's answer."""
        await place.model("a")
        await place.pipeline(Step(name="a"))
        await place.ask([1], identity="mine")
        with pytest.raises(Conflict, match="'mine' belongs to another request"):
            await place.ask([2], identity="mine")

    async def test_results_are_found_on_every_replica_and_after_a_restart(self, places):
        """A result can be had from a replica that never saw the request, and from one that began later."""
        first, second = await places(), await places()
        for each in (first, second):
            await each.model("a")
            await each.pipeline(Step(name="a"))
        await first.ask([1], identity="r")
        assert values(await second.served.results.find("r")) == [2.0]
        third = await places()
        await third.model("a")
        await third.pipeline(Step(name="a"))
        assert values(await third.served.results.find("r")) == [2.0]

    async def test_what_nobody_asked_is_not_found(self, place):
        """An id that nobody used is not found, and one whose request waits is pending until it is answered."""
        await place.model("a")
        durable = await place.pipeline(Step(name="a"))
        with pytest.raises(NotFound, match="has no result 'nobody'"):
            await durable.find("nobody")
        await take(place.backend, ("model", "a", 1))  # nobody answers now
        while durable._pump is not None:
            await asyncio.sleep(0.01)
        assert await durable.submit(asking([4], identity="waits")) == "waits"
        assert await durable.find("waits") is None
        with pytest.raises(NotFound):
            await durable.find("nobody")
        await place.model("a", revision=2)
        while (found := await durable.find("waits")) is None:
            await asyncio.sleep(0.01)
        assert values(found) == [5.0]

    async def test_a_late_answer_is_told_where_it_will_be(self, place):
        """A caller whose time is up is told the id and the path of the result."""
        await place.model("a", "code.py:Never")
        await place.pipeline(Step(name="a"))
        with pytest.raises(DeadlineExceeded, match="/v2/pipelines/p/results/late"):
            await place.ask([1], identity="late", seconds=1.0)


class TestVersions:
    async def test_a_new_version_loses_no_request(self, place):
        """While versions follow one another under load, every request is answered, by one of them."""
        await place.model("a", amount=1.0)
        await place.model("b", amount=2.0)
        await place.pipeline(Step(name="a"))
        asked, done = [], asyncio.Event()

        async def caller(number):
            while not done.is_set():
                asked.append(values(await place.ask([10.0 * number])) == [10.0 * number + 1] or ...)

        callers = [asyncio.create_task(caller(number)) for number in range(8)]
        for version in range(2, 6):
            before = len(asked)
            while len(asked) < before + 20:
                await asyncio.sleep(0.001)
            await place.pipeline(Step(name="a" if version % 2 else "b"), version=version)
        done.set()
        await asyncio.gather(*callers)
        assert len(asked) >= 80
        assert ... in asked, "no answer came of another version"
        names = place.durables.names
        inputs = await written(place.settings, names.inputs("p"))
        outputs = await written(place.settings, names.outputs("p"), count=len(inputs))
        ids = [each.header("x-request-id") for each in outputs]
        assert sorted(ids) == sorted({each.header("x-request-id") for each in inputs})

    async def test_from_memory_to_topics_and_back(self, place):
        """A pipeline becomes durable and ceases to be with a new version, without being away in between."""
        await place.model("a")
        durable = await place.pipeline(Step(name="a"), durability="memory", partitions=0)
        assert durable is None
        assert values(await place.ask([1])) == [2.0]
        assert place.served.results is None
        await place.pipeline(Step(name="a"), version=2)
        assert values(await place.ask([1], identity="d")) == [2.0]
        assert place.served.results is not None
        await place.pipeline(Step(name="a"), durability="memory", partitions=0, version=3)
        assert values(await place.ask([1])) == [2.0]
        assert len(await written(place.settings, place.durables.names.inputs("p"))) == 1


class TestTopics:
    async def test_step_topics_hold_every_message(self, place):
        """With `topics: all`, what each step was asked and answered stands in its topics, once for every request."""
        await place.model("a")
        await place.model("b", amount=10.0)
        await place.pipeline(Step(name="a"), Step(name="b", inputs=("a",)), topics="all")
        await asyncio.gather(*[place.ask([n], identity=f"r{n}") for n in range(200)])
        names = place.durables.names
        for step, side, add in (("a", "inputs", 0), ("a", "outputs", 1), ("b", "inputs", 1), ("b", "outputs", 11)):
            records = await written(place.settings, names.step("p", step, side), count=200)
            found = {}
            for each in records:
                parse = v2_rest.parse_response if side == "outputs" else lambda body: v2_rest.parse(body, model_name="")
                parsed = parse(each.value)
                (tensor,) = parsed.outputs if side == "outputs" else parsed.inputs
                found[each.header("x-request-id")] = tensor.data.ravel().tolist()
            assert found == {f"r{n}": [n + add] for n in range(200)}
            assert len(records) == 200

    async def test_a_step_beside_the_answer_is_told_of_too(self, place):
        """A mirror's messages, which come after the answer, reach their topics."""
        await place.model("a")
        await place.model("b", amount=10.0)
        await place.pipeline(Step(name="b", mirror=True), Step(name="a"), topics=("b.outputs",))
        for n in range(20):
            await place.ask([n])
        records = await written(place.settings, place.durables.names.step("p", "b", "outputs"), count=20)
        found = sorted(v2_rest.parse_response(each.value).outputs[0].data[0, 0] for each in records)
        assert found == [n + 10.0 for n in range(20)]

    async def test_seldons_naming_has_its_topics_keys_and_protobuf(self, places):
        """With Seldon's naming, topics are Core v2's, bodies V2 protobuf, and a failed step stands in the header."""
        place = await places(naming="seldon", namespace="ns")
        await place.model("a")
        await place.pipeline(Step(name="first", model="a"), topics="all")
        await place.ask([1], identity="r1")
        with pytest.raises(RuntimeFailed):
            await place.ask([-1], identity="r2")
        prefix = f"{place.settings.prefix}.ns"
        inputs = await written(place.settings, f"{prefix}.pipeline.p.inputs", count=2)
        assert [
            each.key.decode().split(".")[1:] for each in sorted(inputs, key=lambda each: each.header("x-request-id"))
        ] == [["p", "r1"], ["p", "r2"]]
        outputs = await written(place.settings, f"{prefix}.pipeline.p.outputs", count=2)
        good, bad = sorted(outputs, key=lambda each: each.header("x-request-id"))
        message = v2_grpc.ModelInferResponse.FromString(good.value)
        assert v2_grpc.parse_response(message).outputs[0].data.tolist() == [[2.0]]
        assert bad.header("seldon-pipeline-errors") == "first"
        assert bad.value.decode().startswith("first : ")
        assert len(await written(place.settings, f"{prefix}.errors.errors", count=1)) == 1
        (step,) = [
            each
            for each in await written(place.settings, f"{prefix}.model.a.outputs", count=1)
            if each.header("x-request-id") == "r1"
        ]
        assert step.header("pipeline") == "p"

    async def test_a_detector_elsewhere_reads_what_a_step_is_asked(self, places, tmp_path):
        """A server that has no pipeline, but a detector and the topic of a step, says of each of its rows how far out
        it is, under the request's id.
        """
        rows = np.random.default_rng(3).normal(size=(400, 3))
        signature = Signature(
            platform="x",
            inputs=(TensorSpec(name="x", datatype="FP64", shape=(-1, 3)),),
            outputs=(TensorSpec(name="x", datatype="FP64", shape=(-1, 3)),),
        )
        fitted = await asyncio.to_thread(
            fit.fit,
            tmp_path / "trust",
            rows,
            (rows[:, 0] > 0).astype(int),
            model=fit.Model(ask=lambda inputs, outputs: list(inputs), signature=signature),
            options=fit.Options(detectors=("mahalanobis",), explainers=("none",)),
        )
        place = await places()
        await place.model("a")
        await place.pipeline(Step(name="a"), topics=("a.inputs",))
        watching = await places()
        spec = Model(runtime="detector", uri=str(fitted.path), parameters={"detector": "mahalanobis"})
        await put(watching.backend, ModelUnit(name="far", digest="1", base="", revision=1, spec=spec))
        topic = f"{place.settings.prefix}-verdicts"
        listener = KafkaServer(
            watching.app.models,
            dataclasses.replace(
                place.settings,
                input_topics=(place.durables.names.step("p", "a", "inputs"),),
                output_topic=topic,
                dead_letter_topic="",
                group=topic,
                model="far",
                create_topics=True,
            ),
        )
        await listener.start()
        try:
            for number, far in enumerate((0.0, 50.0)):
                await place.served.infer(
                    InferenceRequest(
                        model_name="p",
                        inputs=(Tensor("x", "FP64", np.full((1, 3), far)),),
                        headers={"x-request-id": f"r{number}"},
                    )
                )
            verdicts = await written(place.settings, topic, count=2)
        finally:
            await listener.stop(5.0)
        outlying = {}
        for each in verdicts:
            response = v2_rest.parse_response(each.value)
            outlying[response.id] = {tensor.name: tensor.data.ravel().tolist() for tensor in response.outputs}
        assert (outlying["r0"]["is_outlier"], outlying["r1"]["is_outlier"]) == ([0], [1])

    async def test_exactly_once_answers_each_request_once(self, places):
        """With transactions every request has one committed answer, with its step's message beside it."""
        place = await places(delivery="exactly-once")
        await place.model("a")
        await place.pipeline(Step(name="a"), topics="outputs")
        await asyncio.gather(*[place.ask([n], identity=f"r{n}") for n in range(100)])
        names = place.durables.names
        for name in (names.outputs("p"), names.step("p", "a", "outputs")):
            ids = [each.header("x-request-id") for each in await written(place.settings, name, count=100)]
            assert sorted(ids) == sorted(f"r{n}" for n in range(100))


class TestBrokers:
    async def test_a_broker_that_is_away_is_said_and_waited_for(self, tmp_path, broker, topic):
        """Started without its broker a pipeline is not ready and says why; with it, it answers; when it goes, callers
        are told in time; and when it is back, nothing was lost and it answers again.
        """
        (tmp_path / "code.py").write_text(CODE)
        broker.kill()
        settings = KafkaSettings(brokers=broker.bootstrap, prefix=topic)
        place = await Place(tmp_path, settings).start()
        try:
            await place.model("a")
            durable = await place.pipeline(Step(name="a"), ready=False)
            while "cannot" not in durable.reason:
                await asyncio.sleep(0.02)
            with pytest.raises(ModelNotReady, match=f"Kafka at {broker.bootstrap}"):
                place.app.models.route("p")
            await asyncio.to_thread(broker.start)
            while durable.reason:
                await asyncio.sleep(0.02)
            assert values(await place.ask([1], identity="before")) == [2.0]
            broker.stop()
            with pytest.raises(ModelNotReady, match="could not store the request"):
                await place.ask([2], identity="during", seconds=1.0)
            await asyncio.to_thread(broker.start)
            while True:
                try:
                    assert values(await place.ask([3], identity="after", seconds=5.0)) == [4.0]
                except (ModelNotReady, DeadlineExceeded):
                    continue
                break
            assert values(await durable.find("before")) == [2.0]
        finally:
            await place.stop()


async def test_topics_go_with_a_pipeline_that_says_so(places, settings):
    """A pipeline that is removed takes its topics along with `cleanTopicsOnDelete`, and leaves them without; a server
    that stops leaves them in any case.
    """
    names, lists = None, {}
    for cleans in (False, True):
        place = await places(namespace=f"n{cleans}")
        names = place.durables.names
        await place.model("a")
        await place.pipeline(Step(name="a"), topics="all", dataflow=Dataflow(clean_topics_on_delete=cleans))
        await place.ask([1])
        await take(place.backend, ("pipeline", "p", 0))
        while place.backend._closing:
            await asyncio.sleep(0.01)
        wanted = [names.inputs("p"), names.outputs("p"), names.errors("p"), names.step("p", "a", "inputs")]
        lists[cleans] = len(admin.admin(settings).list_topics(timeout=10).topics.keys() & set(wanted))
    assert lists == {False: 4, True: 0}


async def test_what_was_closed_begins_no_client_anew():
    """A message of a step that comes when the server has ended its clients is refused, and makes no client."""
    durables = Durables(KafkaSettings(brokers="127.0.0.1:1"))
    durables.producer()
    await durables.close()
    for begin in (durables.producer, durables.follower):
        with pytest.raises(ModelNotReady, match="this server stops"):
            begin()
