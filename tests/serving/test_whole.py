"""Runtimes that take whole requests, and routes of their own: on the loop and in a worker process, alike.

Left out: what lanes, batches and workers do for any runtime (test_engine, test_batching, test_workers).
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import (
    DeadlineExceeded,
    LoadFailed,
    ModelError,
    ModelNotReady,
    NotFound,
    Overloaded,
    RuntimeFailed,
    WorkerDied,
)
from headrace.payload import InferenceRequest, InferenceResponse, RequestedOutput, RouteRequest, Tensor
from headrace.serving import whole
from headrace.serving.batching import Batching
from headrace.serving.build import RuntimeSpec
from headrace.serving.decoding import UNCOUNTED
from headrace.serving.engine import load_engine
from headrace.serving.execution import Outcome

PLACES = ["inline", "process"]


@pytest.fixture(autouse=True)
def _path(monkeypatch):
    monkeypatch.syspath_prepend(__file__.rpartition("/")[0])


class Ear:
    """Keeps all that an observer is told."""

    def __init__(self):
        self.executions = []
        self.failures = []
        self.values = []

    def executed(self, *, requests, rows, queue_ns, predict_ns):
        self.executions.append((requests, rows))

    def failed(self, *, requests, queue_ns, predict_ns):
        self.failures.append(requests)

    def queued(self, depth):
        pass

    def restarted(self, reason):
        pass

    def logged(self, values):
        self.values += [(name, value) for name, _, value in values]


@pytest.fixture
async def load():
    engines = []

    async def make(kind="Whole", *, placement, parameters=None, **options):
        spec = RuntimeSpec(
            name="m", version="3", runtime=f"small_runtimes:{kind}", reference="x:y", parameters=parameters or {}
        )
        engine = await load_engine(spec, placement=placement, **options)
        engines.append(engine)
        return engine

    yield make
    for engine in engines:
        await engine.close(1)


def request(rows=1, *, first=0.0, parameters=None, **options):
    x = np.full((rows, 2), first, np.float32)
    text = np.array([b"a%d" % i for i in range(rows)], object)
    return InferenceRequest(
        model_name="m",
        inputs=(
            Tensor("x", "FP32", x, {"content_type": "np", "deep": {"list": [1, {"a": None}]}}),
            Tensor("text", "BYTES", text),
        ),
        parameters=parameters or {},
        **options,
    )


def values(response):
    return [each.data.tolist() for each in response.outputs]


# -- one request --


@pytest.mark.parametrize("placement", PLACES)
async def test_the_model_sees_the_request_and_the_caller_its_answer(load, placement):
    """Id, headers, nested parameters, requested outputs, protocol arrive; tensors, parameters and headers come back."""
    engine = await load(placement=placement)
    parameters = {"a": 1, "b": True, "c": 2.5, "nested": {"list": [1, "two", {"three": None}]}}
    sent = request(
        2,
        parameters=parameters,
        id="7",
        model_version="3",
        headers={"x-sent": "hello"},
        outputs=(RequestedOutput("y", {"binary_data": False}),),
        protocol="v2_rest",
        deadline=time.monotonic() + 20,
    )
    response = await engine.infer(sent)
    assert engine.placement == placement
    assert (response.model_name, response.model_version, response.id) == ("m", "3", "7")
    assert dict(response.headers) == {"x-seen": "hello"}
    seen = response.parameters
    assert seen["parameters"] == parameters
    assert (seen["id"], seen["headers"], seen["protocol"]) == ("7", {"x-sent": "hello"}, "v2_rest")
    assert seen["model"] == ["m", "3"]
    assert seen["outputs"] == [["y", {"binary_data": False}]]
    for one, two in zip(sent.inputs, response.outputs, strict=True):
        assert (one.name, one.datatype, one.shape) == (two.name, two.datatype, two.shape)
        assert dict(one.parameters) == dict(two.parameters)
        assert one.data.tolist() == two.data.tolist()
    assert (seen["pid"] == os.getpid()) is (placement == "inline")


@pytest.mark.parametrize("placement", PLACES)
async def test_names_that_the_model_sets_stay(load, placement):
    """A response that names its model keeps that name; what it leaves out is the engine's."""
    engine = await load(placement=placement)
    response = await engine.infer(request(parameters={"name": "other"}, id="1"))
    assert (response.model_name, response.model_version, response.id) == ("other", "3", "1")


@pytest.mark.parametrize("placement", PLACES)
async def test_nothing_is_checked_before_the_model(load, placement):
    """Names twice, no rows, scalars and inputs of unequal rows reach the model as they are."""
    engine = await load(placement=placement, batching=Batching(max_batch_size=8))
    odd = (
        Tensor("x", "INT64", np.arange(3)),
        Tensor("x", "BF16", np.zeros((0, 2), np.uint16)),
        Tensor("s", "BOOL", np.ones(1, np.bool_)),
    )
    response = await engine.infer(InferenceRequest(model_name="m", inputs=odd))
    assert [(each.name, each.datatype, each.shape) for each in response.outputs] == [
        ("x", "INT64", (3,)),
        ("x", "BF16", (0, 2)),
        ("s", "BOOL", (1,)),
    ]


@pytest.mark.parametrize("placement", PLACES)
@pytest.mark.parametrize(
    ("how", "kind", "text"),
    [
        ("teapot", ModelError, "^I am a teapot$"),
        ("broken", ModelError, "^it broke$"),
        ("value", RuntimeFailed, "^model 'm': ValueError: not that$"),
        ("busy", Overloaded, "^later$"),
        ("exit", RuntimeFailed, "SystemExit: 3"),
    ],
)
async def test_errors_keep_what_the_model_said(load, placement, how, kind, text):
    """The class, the text, the status and the pause of an error are the model's; the next request is answered."""
    engine = await load(placement=placement)
    with pytest.raises(kind, match=text) as caught:
        await engine.infer(request(parameters={"fail": how}))
    assert type(caught.value) is kind
    assert getattr(caught.value, "status", None) == {"teapot": 418, "broken": 503}.get(how)
    assert getattr(caught.value, "retry_after_seconds", None) == {"busy": 7.5}.get(how)
    assert (await engine.infer(request())).outputs


@pytest.mark.parametrize("placement", PLACES)
async def test_an_answer_that_is_no_response_fails(load, placement):
    """Anything but an InferenceResponse of sound tensors is the model's failure, named; what elements are is its own."""
    engine = await load(placement=placement)
    with pytest.raises(RuntimeFailed, match="expected an InferenceResponse, got dict"):
        await engine.infer(request(parameters={"answer": "dict"}))
    with pytest.raises(RuntimeFailed, match="output 't' is of datatype 'FP32' but holds an array of float64"):
        await engine.infer(request(parameters={"answer": "wrong"}))
    assert values(await engine.infer(request(parameters={"answer": "text"}))) == [["text", b"bytes"]]


@pytest.mark.parametrize("placement", PLACES)
@pytest.mark.parametrize("kind", ["Whole", "Fussy"])
async def test_a_failure_of_the_models_code_is_shown_once(load, capfd, caplog, placement, kind):
    """The log has the traceback of each place that failed, once; what the model refuses on purpose is not in it."""
    engine = await load(kind, placement=placement)
    infinite = Tensor("x", "FP32", np.full((1, 4), np.inf, np.float32))
    for how in ("value", "teapot", "value"):
        sent = InferenceRequest(model_name="m", inputs=(infinite,), parameters={"fail": how})
        with pytest.raises(RuntimeFailed):
            await engine.infer(sent)
    await engine.close(1)
    told = capfd.readouterr().err + caplog.text
    assert told.count("Traceback (most recent call last)") == 1
    assert ("ValueError: not" if kind == "Whole" else "RuntimeError: cannot") in told
    assert "teapot" not in told


async def test_an_answer_that_cannot_cross_fails_alone(load):
    """A parameter of a class that only the worker knows is an error of that request, not the end of the process."""
    engine = await load(placement="process")
    with pytest.raises(RuntimeFailed, match="the answer cannot leave the worker process: object"):
        await engine.infer(request(parameters={"answer": "object"}))
    stream = engine.infer_stream(request(parameters={"parts": 3, "bad_at": 1}))
    assert (await anext(stream)).parameters["n"] == 0
    with pytest.raises(RuntimeFailed, match="the answer cannot leave the worker process: object"):
        await anext(stream)
    assert (await engine.infer(request())).outputs


async def test_a_request_that_cannot_cross_fails_alone(load):
    """A parameter that no worker can be sent is that request's error; streams and neighbours carry on."""
    engine = await load(placement="process")
    bad = request(parameters={"n": 1 << 70, "parts": 1})
    with pytest.raises(Exception, match="the request cannot go to a worker process"):
        await engine.infer(bad)
    with pytest.raises(Exception, match="the request cannot go to a worker process"):
        await anext(engine.infer_stream(bad))
    assert (await engine.infer(request())).outputs


async def test_what_the_model_keeps_of_a_large_request_does_not_change(load):
    """Tensors that came by shared memory are the request's own: ones of equal size that follow leave them alone."""
    engine = await load(placement="process")
    big = [request(40_000, first=float(n)) for n in range(4)]
    answers = await asyncio.gather(*(engine.infer(each) for each in big))
    assert [float(each.outputs[0].data.max()) for each in answers] == [0.0, 1.0, 2.0, 3.0]


@pytest.mark.parametrize("placement", PLACES)
async def test_requests_run_at_once(load, placement):
    """Ten requests are under way together."""
    engine = await load(placement=placement)
    answers = await asyncio.gather(*(engine.infer(request(parameters={"sleep": 0.05})) for _ in range(10)))
    assert max(each.parameters["most"] for each in answers) == 10


@pytest.mark.parametrize("placement", PLACES)
async def test_a_caller_who_leaves_stops_the_model(load, tmp_path, placement):
    """Cancellation reaches the model's own await, and so does a deadline."""
    note = tmp_path / "note"
    engine = await load(placement=placement, parameters={"note": str(note)})
    asked = {"sleep": 20, "tell": True}
    task = asyncio.ensure_future(engine.infer(request(parameters=asked)))
    await until(lambda: note.exists() and note.read_text() == "asleep\n")
    task.cancel()
    await until(lambda: note.read_text() == "asleep\ncancelled\n")
    with pytest.raises(DeadlineExceeded):
        await engine.infer(request(parameters=asked, deadline=time.monotonic() + 2.0))
    await until(lambda: note.read_text() == 2 * "asleep\ncancelled\n")
    with pytest.raises(DeadlineExceeded, match="before predict"):
        await engine.infer(request(deadline=time.monotonic() - 1))


async def until(holds):
    async with asyncio.timeout(40):
        while not holds():
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("placement", PLACES)
async def test_a_runtime_begins_and_ends_on_its_loop(load, tmp_path, placement):
    """`begin` says what the model is, `end` comes before `unload`; both ran on the loop of the answers."""
    note = tmp_path / "note"
    engine = await load(placement=placement, parameters={"note": str(note)})
    assert engine.signature.platform == "begun"
    await engine.infer(request())
    await engine.close(1)
    await until(lambda: note.exists() and note.read_text() == "ended\nunloaded\n")


@pytest.mark.parametrize("placement", PLACES)
async def test_a_runtime_that_cannot_begin_is_not_loaded(tmp_path, placement):
    """A failure in `begin` fails the load with the model's words, and what was loaded here is unloaded."""
    note = tmp_path / "note"
    spec = RuntimeSpec(
        name="m",
        runtime="small_runtimes:Whole",
        reference="x:y",
        parameters={"fail_at_begin": True, "note": str(note)},
    )
    with pytest.raises(LoadFailed, match="KeyError: 'no such layer'"):
        await load_engine(spec, placement=placement)
    assert placement == "process" or note.read_text() == "unloaded\n"


@pytest.mark.parametrize("placement", PLACES)
async def test_warm_up_is_a_whole_request(load, placement):
    """Samples are answered before the first caller, and one that fails fails the load."""
    ear = Ear()
    engine = await load(placement=placement, observer=ear, warm_up=[request(5).inputs])
    assert ear.values == [("loads", 1.0)]
    assert (await engine.infer(request())).parameters["answered"] == 2
    with pytest.raises(LoadFailed, match="fails on its own warm-up sample"):
        await load(placement=placement, warm_up=[[]])


@pytest.mark.parametrize("placement", PLACES)
async def test_what_the_model_measures_is_heard(load, placement):
    """Values logged at load, in answers, in failures, in visits and in streams reach the observer."""
    ear = Ear()
    engine = await load(placement=placement, observer=ear)
    assert ear.values == [("loads", 1.0)]
    ear.values.clear()
    await engine.infer(request(3))
    assert ear.values == [("rows", 3.0)]
    with pytest.raises(ModelError):
        await engine.infer(request(4, parameters={"fail": "teapot"}))
    await engine.visit(tell())
    assert [each async for each in engine.infer_stream(request(parameters={"parts": 2}))]
    assert ear.values == [("rows", 3.0), ("rows", 4.0), ("visits", 1.0), ("parts", 2.0)]


@pytest.mark.parametrize("placement", PLACES)
async def test_a_closed_engine_is_not_ready(load, placement):
    """After close, requests and visits are refused."""
    engine = await load(placement=placement)
    await engine.close(1)
    with pytest.raises(ModelNotReady, match="it was unloaded"):
        await engine.infer(request())
    with pytest.raises(ModelNotReady, match="it was unloaded"):
        await engine.visit(tell())


# -- streams --


@pytest.mark.parametrize("placement", PLACES)
async def test_a_stream_of_whole_responses(load, placement):
    """Parts arrive in order, each with its parameters and the request's id, more than the window holds."""
    engine = await load(placement=placement)
    asked = request(parameters={"parts": 30}, id="9")
    parts = [each async for each in engine.infer_stream(asked)]
    assert [each.outputs[0].data.tolist() for each in parts] == [[b"%d" % n] for n in range(30)]
    assert [each.parameters["n"] for each in parts] == list(range(30))
    assert {each.parameters["id"] for each in parts} == {each.id for each in parts} == {"9"}
    assert {(each.model_name, each.model_version) for each in parts} == {("m", "3")}
    assert dict(parts[0].outputs[0].parameters) == {"content_type": "str"}


@pytest.mark.parametrize("placement", PLACES)
async def test_a_stream_waits_for_its_reader_and_ends_with_it(load, tmp_path, placement):
    """A reader that stands still holds the model after a window of parts; one that leaves ends it."""
    note = tmp_path / "note"
    engine = await load(placement=placement, parameters={"note": str(note)})
    stream = engine.infer_stream(request(parameters={"parts": 100_000}))
    await anext(stream)
    await asyncio.sleep(0.2)
    await stream.aclose()
    await until(note.exists)
    assert int(note.read_text().split()[1]) <= 12
    assert (await engine.infer(request())).outputs


@pytest.mark.parametrize("placement", PLACES)
async def test_a_stream_that_fails_gives_what_it_had(load, placement):
    """Parts before a failure are read, then the error comes with its status."""
    engine = await load(placement=placement)
    stream = engine.infer_stream(request(parameters={"parts": 5, "fail_at": 2}))
    assert [(await anext(stream)).parameters["n"] for _ in range(2)] == [0, 1]
    with pytest.raises(ModelError, match="enough") as caught:
        await anext(stream)
    assert caught.value.status == 429


# -- merging --


@pytest.mark.parametrize("placement", PLACES)
async def test_merged_requests_each_get_their_own(load, placement):
    """Under declared batching, equal requests share an answer; each caller gets its own rows, id and row count."""
    ear = Ear()
    engine = await load(placement=placement, observer=ear, batching=Batching(max_batch_size=64))
    sent = [request(n + 1, first=float(n), id=str(n), headers={"x-request": str(n), "x-all": "same"}) for n in range(6)]
    answers = await asyncio.gather(*(engine.infer(each) for each in sent))
    for n, (one, answer) in enumerate(zip(sent, answers, strict=True)):
        assert answer.id == str(n)
        assert values(answer) == [each.data.tolist() for each in one.inputs]
        assert answer.parameters["rows"] == [21, 21]
        assert answer.parameters["headers"] == {"x-all": "same"}
        assert len(answer.parameters["id"]) == 36
    assert ear.executions == [(6, 21)]


@pytest.mark.parametrize("placement", PLACES)
@pytest.mark.parametrize("options", [{}, {"batching": Batching(max_batch_size=1)}], ids=["undeclared", "size 1"])
async def test_what_was_not_declared_is_not_merged(load, placement, options):
    """Without declared batching, or with a size of one, each request is a call of its own."""
    ear = Ear()
    engine = await load(placement=placement, observer=ear, **options)
    answers = await asyncio.gather(*(engine.infer(request(2, id=str(n))) for n in range(5)))
    assert [each.parameters["id"] for each in answers] == ["0", "1", "2", "3", "4"]
    assert ear.executions == [(1, 2)] * 5


async def test_a_model_that_counts_no_rows_is_not_merged(load):
    """A signature that is not batchable keeps requests apart, whatever was declared."""
    engine = await load("WholeAlone", placement="inline", batching=Batching(max_batch_size=8))
    answers = await asyncio.gather(*(engine.infer(request(id=str(n))) for n in range(3)))
    assert [each.parameters["id"] for each in answers] == ["0", "1", "2"]


@pytest.mark.parametrize("placement", PLACES)
async def test_a_failure_that_input_may_be_to_blame_for_is_tried_alone(load, placement):
    """A merged request that the model refuses with a 4xx is tried one by one; a 5xx is everybody's, status and all."""
    ear = Ear()
    engine = await load(placement=placement, observer=ear, batching=Batching(max_batch_size=8))
    for how, status, failures in (("teapot", 418, [1, 1, 1]), ("broken", 503, [3])):
        ear.failures.clear()
        answers = await asyncio.gather(
            *(engine.infer(request(parameters={"fail": how})) for _ in range(3)), return_exceptions=True
        )
        assert [each.status for each in answers] == [status] * 3
        assert len({id(each) for each in answers}) == 3
        assert ear.failures == failures


@st.composite
def variants(draw):
    """A request, out of few enough that two are often alike."""
    pick = st.sampled_from
    names = draw(pick([("a",), ("b",), ("a", "b"), ("b", "a")]))
    dtype, datatype = draw(pick([(np.float32, "FP32"), (np.uint16, "UINT16"), (np.uint16, "BF16")]))
    width = draw(pick([1, 2]))
    rows = draw(st.integers(1, 3))
    said = pick([{}, {"p": 1}, {"p": 1.0}, {"p": True}, {"p": "1"}, {"p": {"q": [1]}}, {"p": {"q": [2]}}])
    of_tensor = draw(said)
    return InferenceRequest(
        model_name="m",
        id=draw(st.text(max_size=3)),
        headers={"h": draw(st.text(max_size=2))},
        inputs=tuple(Tensor(name, datatype, np.ones((rows, width), dtype), of_tensor) for name in names),
        parameters=draw(said),
        outputs=draw(pick([(), (RequestedOutput("y"),), (RequestedOutput("y", {"binary_data": True}),)])),
    )


def typed(value):
    """A value that equals another only with the same types all through."""
    if isinstance(value, dict):
        return {key: typed(each) for key, each in value.items()}
    return (type(value).__name__, [typed(each) for each in value] if isinstance(value, list) else value)


def kind_of(one):
    return (
        [(t.name, t.datatype, t.shape[1:], typed(dict(t.parameters))) for t in one.inputs],
        typed(dict(one.parameters)),
        [(o.name, typed(dict(o.parameters))) for o in one.outputs],
    )


@given(variants(), variants())
def test_only_requests_alike_are_neighbours(one, two):
    """Keys are equal exactly when all that a model may look at is equal, but for rows, ids and headers."""
    decode = whole.WholeDecoder(batchable=True).decode
    assert (whole.key(decode(one)) == whole.key(decode(two))) is (kind_of(one) == kind_of(two))


@given(st.lists(st.integers(1, 4), min_size=1, max_size=5), st.lists(st.booleans(), min_size=5, max_size=5))
def test_split_undoes_merge(rows, shared):
    """Each caller's rows come back in order, and headers that not all sent are gone."""
    sent = [
        request(n, first=float(i), id=str(i), headers={"own": str(i), **({"all": "yes"} if shared[i] else {})})
        for i, n in enumerate(rows)
    ]
    calls = [whole.WholeDecoder(batchable=True).decode(each) for each in sent]
    merged = whole.merge(calls)
    assert merged.rows == sum(rows)
    response = InferenceResponse(model_name="", id="x", outputs=merged.request.inputs, parameters={"p": 1})
    answers = whole.split(Outcome(response.outputs, 1, response=response), rows)
    for one, answer in zip(sent, answers, strict=True):
        assert values(answer) == [each.data.tolist() for each in one.inputs]
        assert answer.parameters == {"p": 1}
        assert len(rows) == 1 or answer.id == ""
    if len(rows) > 1:
        assert dict(merged.request.headers) == ({"all": "yes"} if all(shared[: len(rows)]) else {})
        assert merged.request.id not in {each.id for each in sent}


def test_what_cannot_be_compared_has_no_neighbour():
    """A parameter without a form in bytes keeps its request alone; unequal rows do as well."""
    decode = whole.WholeDecoder(batchable=True).decode
    odd = request(parameters={"o": object()})
    assert whole.key(decode(odd)) != whole.key(decode(odd))
    uneven = InferenceRequest(
        model_name="m", inputs=(Tensor("a", "INT64", np.arange(3)), Tensor("b", "INT64", np.arange(2)))
    )
    assert decode(uneven).rows == UNCOUNTED
    assert decode(InferenceRequest(model_name="m", inputs=())).rows == UNCOUNTED
    assert whole.WholeDecoder(batchable=False).decode(request(3)).rows == UNCOUNTED


# -- routes --


def tell(**options):
    return RouteRequest(
        **{
            "route": "tell",
            "method": "GET",
            "target": "/tell/more?a=1",
            "headers": (("accept", "text/plain"),),
            "parameters": {"what": "more"},
            **options,
        }
    )


def do(what, **options):
    return RouteRequest(route="do", method="POST", target="/do", body=what, **options)


@pytest.mark.parametrize("placement", PLACES)
async def test_a_route_is_answered_where_the_model_is(load, placement):
    """A visit sees method, target, headers, matched segments and body; status, headers and body come back; no rows count."""
    ear = Ear()
    engine = await load(placement=placement, observer=ear)
    assert [(each.method, each.path, each.name) for each in engine.routes] == [
        ("GET", "/tell/{what}", "tell"),
        ("POST", "/do", "do"),
    ]
    response = await engine.visit(tell(body=b"\x00\xff"))
    assert response.status == 202
    assert response.body == b"GET /tell/more?a=1 more {'accept': 'text/plain'}\x00\xff"
    pid = dict(response.headers)["x-pid"]
    assert (pid == str(os.getpid())) is (placement == "inline")
    assert ear.executions == ear.failures == []
    with pytest.raises(NotFound, match="no route 'nowhere'"):
        await engine.visit(RouteRequest(route="nowhere", method="GET", target="/"))


@pytest.mark.parametrize("placement", PLACES)
@pytest.mark.parametrize("size", [0, 1, 100_000, 5_000_000])
async def test_bodies_of_any_size_reach_a_route_and_come_back(load, placement, size):
    """A body is what was sent, whether it is empty or is worth shared memory."""
    engine = await load(placement=placement)
    body = os.urandom(size)
    assert (await engine.visit(tell(body=body))).body.endswith(b"}" + body)


@pytest.mark.parametrize("placement", PLACES)
async def test_errors_of_a_route_are_those_of_inference(load, placement):
    """A visit that fails raises as infer does, keeps its deadline, and counts as no predict."""
    ear = Ear()
    engine = await load(placement=placement, observer=ear)
    with pytest.raises(ModelError, match="I am a teapot") as caught:
        await engine.visit(do(b"teapot"))
    assert caught.value.status == 418
    with pytest.raises(RuntimeFailed, match="model 'm': ValueError: not that"):
        await engine.visit(do(b"value"))
    with pytest.raises(DeadlineExceeded):
        await engine.visit(do(b"sleep", deadline=time.monotonic() + 0.05))
    with pytest.raises(DeadlineExceeded):
        await engine.visit(tell(deadline=time.monotonic() - 1))
    assert (await engine.visit(tell())).status == 202
    assert ear.executions == ear.failures == []


@pytest.mark.parametrize(
    ("placement", "thread"), [("inline", "MainThread"), ("thread", "headrace-m"), ("process", "MainThread")]
)
async def test_a_synchronous_model_has_routes_too(load, placement, thread):
    """The visit of a synchronous runtime runs where its predict does."""
    engine = await load("Guided", placement=placement, batching=Batching(max_batch_size=1))
    where = RouteRequest(route="where", method="GET", target="/where")
    assert (await engine.visit(where)).body.decode() == thread
    x = Tensor("x", "FP32", np.ones((1, 4), np.float32))
    assert (await engine.infer(InferenceRequest(model_name="m", inputs=(x,)))).outputs[0].data.tolist() == [4.0]


@pytest.mark.parametrize("placement", ["thread", "process"])
async def test_an_awaitable_visit_of_a_synchronous_model_is_awaited(load, placement):
    """Away from the loop an asynchronous visit has a loop of its own; on it, it is refused with advice."""
    where = RouteRequest(route="where", method="GET", target="/where")
    engine = await load("Guided", placement=placement, parameters={"awaited": True})
    assert (await engine.visit(where)).body == b"later"
    engine = await load("Guided", placement="inline", parameters={"awaited": True})
    with pytest.raises(RuntimeFailed, match="choose placement 'thread' or 'process'"):
        await engine.visit(where)


# -- worker processes --


async def test_a_killed_worker_fails_what_was_in_flight_and_comes_back(load):
    """A SIGKILL under whole requests, a stream and a visit gives WorkerDied to all at once; later requests succeed."""
    ready = asyncio.Event()
    states = []

    def on_state(up, reason):
        states.append((up, reason))
        if up:
            ready.set()

    ear = Ear()
    engine = await load(placement="process", on_state=on_state, observer=ear)
    before = (await engine.infer(request())).parameters["pid"]
    stream = engine.infer_stream(request(parameters={"parts": 1000, "pause": 0.01}))
    await anext(stream)
    waiting = [asyncio.ensure_future(engine.infer(request(parameters={"sleep": 20}))) for _ in range(20)]
    visit = asyncio.ensure_future(engine.visit(do(b"sleep")))
    await asyncio.sleep(0.05)
    os.kill(before, signal.SIGKILL)
    for end in await asyncio.wait_for(asyncio.gather(*waiting, visit, return_exceptions=True), 60):
        assert isinstance(end, WorkerDied)
        assert "SIGKILL" in str(end)
    with pytest.raises(WorkerDied):
        async for _ in stream:
            pass
    await asyncio.wait_for(ready.wait(), 60)
    after = await engine.infer(request(id="1"))
    assert after.id == "1"
    assert after.parameters["pid"] != before
    assert (await engine.visit(tell())).status == 202
    assert [up for up, _ in states] == [False, True]
    assert ear.values.count(("loads", 1.0)) == 2


async def test_replicas_share_the_requests(load):
    """Whole requests that come together go to both of two workers."""
    engine = await load(placement="process", replicas=2)
    answers = await asyncio.gather(*(engine.infer(request(parameters={"sleep": 0.05})) for _ in range(8)))
    assert len({each.parameters["pid"] for each in answers}) == 2
    assert all(Path(f"/proc/{each.parameters['pid']}").exists() for each in answers)
