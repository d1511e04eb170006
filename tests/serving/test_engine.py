"""The engine's walk: decode and its refusals, predict and its failures, encode and its conversions, streams, placements.

Left out: batches (test_batching) and what only worker processes do (test_workers).
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import re
import time

import numpy as np
import pytest

from headrace.errors import (
    DeadlineExceeded,
    InvalidRequest,
    LoadFailed,
    ModelNotReady,
    RuntimeFailed,
    SettingsError,
)
from headrace.monitoring.metrics import Metrics
from headrace.payload import EMPTY, InferenceRequest, RequestedOutput, Signature, Tensor, TensorSpec
from headrace.runtimes.base import Source
from headrace.serving.batching import Batching
from headrace.serving.build import RuntimeSpec
from headrace.serving.decoding import Decoder
from headrace.serving.engine import Engine, load_engine
from headrace.serving.execution import Execution


@pytest.fixture(autouse=True)
def _path(monkeypatch):
    monkeypatch.syspath_prepend(__file__.rpartition("/")[0])


def spec(kind, **parameters):
    return RuntimeSpec(name="m", version="3", runtime=f"small_runtimes:{kind}", reference="x:y", parameters=parameters)


def request(rows=((1, 2, 3, 4),), **options):
    return InferenceRequest(
        model_name="m", inputs=(Tensor("x", "FP32", np.asarray(rows, np.float32).reshape(-1, 4)),), **options
    )


def step(walk):
    """Run a coroutine that never awaits, as a server does."""
    try:
        walk.send(None)
    except StopIteration as done:
        return done.value
    walk.close()
    pytest.fail("the coroutine awaited")


@pytest.fixture
async def load():
    engines = []

    async def make(kind, *, parameters=None, **options):
        engine = await load_engine(spec(kind, **(parameters or {})), **options)
        engines.append(engine)
        return engine

    yield make
    for engine in engines:
        await engine.close(1)


# -- the walk --


@pytest.mark.parametrize("placement", ["inline", "thread", "process"])
async def test_answers_alike_wherever_it_runs(load, placement):
    """Every placement gives the same response, with the version, the id, and outputs in the signature's order."""
    engine = await load("TwoOutputs", placement=placement)
    assert engine.placement == placement
    response = await engine.infer(request(id="7"))
    assert (response.model_name, response.model_version, response.id) == ("m", "3", "7")
    assert [(each.name, each.datatype, each.data.tolist()) for each in response.outputs] == [
        ("y", "FP32", [10.0]),
        ("double", "FP32", [[2.0, 4.0, 6.0, 8.0]]),
    ]


@pytest.mark.parametrize("placement", ["inline", "thread", "process"])
async def test_outputs_come_in_the_requested_order(load, placement):
    """Requested outputs alone are answered, in the caller's order."""
    engine = await load("TwoOutputs", placement=placement)
    asked = (RequestedOutput("double"), RequestedOutput("y"))
    response = await engine.infer(request(outputs=asked))
    assert [each.name for each in response.outputs] == ["double", "y"]
    response = await engine.infer(request(outputs=asked[:1]))
    assert [each.name for each in response.outputs] == ["double"]


async def test_an_inline_answer_needs_no_loop(load):
    """A quick model answers within the first step of its coroutine: nothing is awaited."""
    engine = await load("Linear")
    assert engine.placement == "inline"
    assert step(engine.infer(request())).outputs[0].data.tolist() == [10.0]


async def test_callers_who_come_together_share_a_predict_and_one_alone_does_not_wait(load):
    """Of requests in one turn of the loop the first is answered on the spot and the rest by one predict; alone, at once."""
    counted = Metrics().model("m", "3")
    engine = await load("Linear", observer=counted)
    before = counted.predict.count()
    answers = await asyncio.gather(*(engine.infer(request([[n, 0, 0, 0]])) for n in range(6)))
    assert [answer.outputs[0].data.tolist() for answer in answers] == [[float(n)] for n in range(6)]
    assert counted.predict.count() - before == 2
    assert counted.batches[1][0] == 1
    assert counted.batches[5][0] == 1
    await engine.infer(request())  # the crowd has gone, which this one finds out
    await asyncio.sleep(0)
    step(engine.infer(request()))
    await asyncio.sleep(0)
    step(engine.infer(request()))


async def test_a_model_that_is_not_to_be_merged_never_is(load):
    """With max_batch_size 1 every request is answered on the spot, however many come together."""
    engine = await load("Linear", batching=Batching(max_batch_size=1))
    for _ in range(3):
        step(engine.infer(request()))


async def test_an_inline_model_keeps_deadlines(load):
    """A request that comes after its deadline is not predicted."""
    engine = await load("Linear")
    with pytest.raises(DeadlineExceeded):
        step(engine.infer(request(deadline=time.monotonic() - 0.001)))


async def test_a_closed_engine_is_not_ready(load):
    """After close an inline model refuses; before start it does as well."""
    engine = await load("Linear")
    await engine.close()
    with pytest.raises(ModelNotReady, match="unloaded"):
        step(engine.infer(request()))
    with pytest.raises(ModelNotReady, match="not started"):
        step(Engine(spec("Linear")).infer(request()))


@pytest.mark.parametrize("placement", ["inline", "thread", "process"])
async def test_bytes_go_in_and_text_comes_out_as_bytes(load, placement):
    """BYTES arrays reach the model as objects of bytes; arrays of text leave as UTF-8 bytes."""
    engine = await load("Text", placement=placement)
    data = np.array(["grün".encode(), b"", b"a\x00b"], object)
    response = await engine.infer(InferenceRequest(model_name="m", inputs=(Tensor("text", "BYTES", data),)))
    (output,) = response.outputs
    assert output.datatype == "BYTES"
    assert output.data.tolist() == ["GRÜN".encode(), b"", b"A\x00B"]


@pytest.mark.parametrize(
    ("answer", "datatype", "expected"),
    [
        ("text", "BYTES", ["é".encode(), b"b"]),
        ("objects", "BYTES", [b"a", b"b"]),
        ("numbers", "INT64", [1, 2]),
        ("big-endian", "FP32", [1.5]),
        ("scalar", "FP64", 2.5),
    ],
)
async def test_outputs_become_tensors(load, answer, datatype, expected):
    """Text, objects, foreign byte order and scalars leave in a datatype that carries them."""
    engine = await load("Odd", parameters={"answer": answer}, placement="inline")
    (output,) = (await engine.infer(request())).outputs
    assert output.datatype == datatype
    assert output.data.tolist() == expected


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("mixed", "output 'y' is an array of object, which no tensor carries: .*NoneType, int"),
        ("complex", "output 'y' is an array of complex128, which no tensor carries"),
        ("not-a-dict", "expected outputs by name, got list; return a dict"),
        ("nothing", "expected an output 'y', got none"),
    ],
)
async def test_an_answer_that_breaks_the_contract_fails(load, answer, message):
    """What a model may not answer is a RuntimeFailed that names model, output, what was expected and what came."""
    engine = await load("Odd", parameters={"answer": answer}, placement="inline")
    with pytest.raises(RuntimeFailed, match=f"model 'm': {message}"):
        await engine.infer(request(outputs=(RequestedOutput("y"),)))


@pytest.mark.parametrize("placement", ["inline", "thread", "process"])
async def test_the_models_own_words_in_one_line(load, placement):
    """InvalidRequest passes as it is; a foreign exception becomes one line naming the model and its class."""
    engine = await load("Fussy", placement=placement)
    with pytest.raises(InvalidRequest, match=r"^x holds a NaN$"):
        await engine.infer(request([[np.nan, 0, 0, 0]]))
    with pytest.raises(RuntimeFailed, match=r"^model 'm': RuntimeError: cannot go on$") as caught:
        await engine.infer(request([[np.inf, 0, 0, 0]]))
    if placement != "process":
        assert isinstance(caught.value.__cause__, RuntimeError)


@pytest.mark.parametrize("placement", ["inline", "thread", "process"])
async def test_sys_exit_in_a_model_ends_the_request_alone(load, placement):
    """A model that calls sys.exit fails its request; the server, its thread and its worker live on."""
    engine = await load("Exits", placement=placement)
    for _ in range(2):
        with pytest.raises(RuntimeFailed, match="SystemExit: 3"):
            await engine.infer(request())


def test_bf16_keeps_its_name():
    """An output declared BF16 leaves as BF16 though numpy only knows its bits; another UINT16 stays what it is."""
    from small_runtimes import Linear

    signature = Signature(
        platform="t",
        outputs=(
            TensorSpec(name="b", datatype="BF16", shape=(-1,)),
            TensorSpec(name="u", datatype="UINT16", shape=(-1,)),
        ),
    )
    bits = np.array([16256], np.uint16)
    tensors = Execution("m", Linear(Source(reference="x:y")), signature).encode({"u": bits, "b": bits}, (), 1)
    assert [(each.name, each.datatype) for each in tensors] == [("b", "BF16"), ("u", "UINT16")]


# -- content types --


def people(*rows):
    ages = Tensor("age", "INT64", np.array([age for _, age in rows]))
    names = Tensor("name", "BYTES", np.array([name.encode() for name, _ in rows], object))
    return InferenceRequest(model_name="m", inputs=(ages, names))


@pytest.mark.parametrize("placement", ["inline", "thread", "process"])
async def test_a_table_is_made_of_merged_requests(load, placement):
    """A model that takes a DataFrame gets one of all merged rows; its list of texts is cut back to its callers."""
    engine = await load("Framed", placement=placement, batching=Batching(max_wait_seconds=0.01))
    answers = await asyncio.gather(
        engine.infer(people(("ann", 3), ("béa", 4))), engine.infer(people(("cid", 5))), engine.infer(people(("d", 6)))
    )
    told = [answer.outputs[0].data.reshape(-1).tolist() for answer in answers]
    assert told == [[b"ann is 3", "béa is 4".encode()], [b"cid is 5"], [b"d is 6"]]
    if placement != "process":
        assert engine._runtimes[0].calls[-1] == 4


def words(*values):
    return InferenceRequest(model_name="m", inputs=(Tensor("text", "BYTES", np.array(values, object)),))


@pytest.mark.parametrize("placement", ["inline", "thread", "process"])
async def test_text_that_is_no_text_fails_alone(load, placement):
    """Of three requests in one batch the one whose bytes are not UTF-8 is refused by its codec; two are answered."""
    engine = await load("Worded", placement=placement, batching=Batching(max_wait_seconds=0.01))
    answers = await asyncio.gather(
        *(engine.infer(words(*each)) for each in [(b"abc", b"d"), (b"\xff",), ("äö".encode(),)]), return_exceptions=True
    )
    assert answers[0].outputs[0].data.tolist() == [3, 1]
    assert isinstance(answers[1], InvalidRequest)
    assert answers[2].outputs[0].data.tolist() == [2]


class Steps:
    """A trace that keeps what it is told."""

    def __init__(self):
        self.steps = []

    def record(self, name, start_ns, end_ns):
        self.steps.append((name, start_ns, end_ns))


@pytest.mark.parametrize("placement", ["inline", "thread", "process"])
async def test_a_trace_hears_of_queue_and_predict(load, placement):
    """A traced request records both steps, one after the other, at the time of day."""
    engine = await load("Sleeping", parameters={"seconds": 0.01}, placement=placement)
    trace = Steps()
    before = time.time_ns()
    await engine.infer(request(trace=trace))
    (queue, q0, q1), (predict, p0, p1) = trace.steps
    assert (queue, predict) == ("queue", "predict")
    assert before - 10**9 < q0 <= q1 == p0 < p1 < time.time_ns() + 10**9
    assert p1 - p0 >= 0.009 * 1e9


# -- decode --


STRICT = Signature(
    platform="test",
    inputs=(
        TensorSpec(name="a", datatype="FP32", shape=(-1, 2)),
        TensorSpec(name="b", datatype="INT64", shape=(-1,)),
        TensorSpec(name="c", datatype="BYTES", shape=(-1, -1), optional=True),
    ),
    outputs=(TensorSpec(name="y", datatype="FP32", shape=(-1,)),),
)
A = Tensor("a", "FP32", np.zeros((3, 2), np.float32))
B = Tensor("b", "INT64", np.zeros(3, np.int64))
C = Tensor("c", "BYTES", np.full((3, 1), b"", object))


def decode(*inputs, signature=STRICT, **options):
    return Decoder("m", signature).decode(InferenceRequest(model_name="m", inputs=inputs, **options))


def test_optional_inputs_may_be_missing():
    """A request with and one without an optional input are both taken, uncopied, and count their rows."""
    call = decode(A, B)
    assert call.arrays["a"] is A.data
    assert call.rows == 3
    assert list(decode(A, B, C).arrays) == ["a", "b", "c"]


MISSING = (
    r"^expected number of inputs between 2 and 3 but got 1 inputs for model 'm'. Got input\(s\) \['a'\], "
    r"but missing required input\(s\) \['b'\]. Please provide all required input\(s\).$"
)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (
            (A,),
            MISSING,
        ),
        ((A, B, Tensor("z", "FP32", A.data)), "unexpected inference input 'z' for model 'm'"),
        ((A, Tensor("b", "INT32", B.data)), "inference input 'b' data-type is 'INT32', but model 'm' expects 'INT64'"),
        (
            (Tensor("a", "FP32", np.zeros((3, 4), np.float32)), B),
            r"unexpected shape for input 'a' for model 'm'. Expected \[-1,2\], got \[3,4\]",
        ),
        (
            (Tensor("a", "FP32", np.zeros(2, np.float32)), B),
            r"unexpected shape for input 'a' for model 'm'. Expected \[-1,2\], got \[2\]",
        ),
        ((A, B, A), "input 'a' already exists in request"),
        (
            (A, Tensor("b", "INT64", np.zeros(2, np.int64))),
            "input 'b' batch size does not match other inputs for 'm': expected 3 rows, got 2",
        ),
    ],
    ids=["missing", "unknown", "datatype", "width", "dimensions", "twice", "rows"],
)
def test_a_request_that_the_signature_does_not_fit(inputs, message):
    """Each way of missing the signature is an InvalidRequest that names the input, what was expected and what came."""
    with pytest.raises(InvalidRequest, match=message):
        decode(*inputs)


def test_all_required_inputs_are_named_when_none_is_optional():
    """Without optional inputs the text gives the one number that is right."""
    signature = Signature(platform="t", inputs=STRICT.inputs[:2])
    with pytest.raises(InvalidRequest, match=r"^expected 2 inputs but got 1 inputs for model 'm'"):
        decode(B, signature=signature)


def test_an_unknown_output_is_refused():
    """A requested output that the model does not have is named, every time; one asked for twice also."""
    decoder = Decoder("m", STRICT)
    for _ in range(2):
        with pytest.raises(InvalidRequest, match="unexpected inference output 'z' for model 'm'"):
            decoder.decode(InferenceRequest(model_name="m", inputs=(A, B), outputs=(RequestedOutput("z"),)))
        with pytest.raises(InvalidRequest, match="output 'y' is requested more than once"):
            decoder.decode(InferenceRequest(model_name="m", inputs=(A, B), outputs=(RequestedOutput("y"),) * 2))


def test_one_column_of_a_table_is_a_vector():
    """[n,1] is taken where the model wants one value a row."""
    assert decode(A, Tensor("b", "INT64", np.zeros((3, 1), np.int64))).arrays["b"].shape == (3,)


def test_base64_text_becomes_bytes():
    """A BYTES input marked base64 reaches the model decoded."""
    data = np.array([[base64.b64encode(b"\xff\x00")]] * 3, object)
    call = decode(A, B, Tensor("c", "BYTES", data, {"content_type": "base64"}))
    assert call.arrays["c"].tolist() == [[b"\xff\x00"]] * 3


LOOSE = Signature(platform="t", inputs=STRICT.inputs[:1], strict=False)


def test_a_loose_model_takes_any_name_and_numbers():
    """A model that is not strict gets a single input of any name and numeric datatype, or columns one by one."""
    data = np.zeros((2, 2))
    assert decode(Tensor("whatever", "FP64", data), signature=LOOSE).arrays["whatever"] is data
    columns = [Tensor(name, "INT64", np.zeros(4, np.int64)) for name in "pq"]
    assert decode(*columns, signature=LOOSE).rows == 4


def test_a_loose_model_still_has_a_width():
    """A table of another width is refused before the model sees it."""
    with pytest.raises(InvalidRequest, match=r"Expected \[-1,2\], got \[2,3\]"):
        decode(Tensor("x", "FP64", np.zeros((2, 3))), signature=LOOSE)


def test_a_scalar_has_no_rows():
    """A scalar for a model that counts rows is refused; for one that does not, it is taken."""
    scalar = Tensor("x", "FP32", np.float32(1).reshape(()))
    with pytest.raises(InvalidRequest, match="scalar"):
        decode(scalar, signature=Signature(platform="t", strict=False))
    assert decode(scalar, signature=Signature(platform="t", strict=False, batchable=False)).rows == -1


def test_an_unknown_signature_refuses_nothing():
    """A model that says nothing of its inputs gets them as they come."""
    assert decode(C, signature=Signature(platform="t")).rows == 3


def test_parameters_of_the_wire_stay_out():
    """What the caller says to the server is not given to the model; the rest is."""
    assert decode(A, B, parameters={"binary_data_output": True, "k": 1}).parameters == {"k": 1}
    assert decode(A, B, parameters={"binary_data_output": True}).parameters is EMPTY


# -- load --


async def test_a_model_that_cannot_be_loaded_says_why():
    """LoadFailed passes as it is; another exception in load becomes one, naming model, runtime and cause."""
    with pytest.raises(LoadFailed, match=r"^told to refuse$"):
        await load_engine(spec("Crashing", refuse_while="/"))
    with pytest.raises(LoadFailed, match=r"^model 'm': runtime 'small_runtimes:Broken': KeyError: 'no such layer'$"):
        await load_engine(spec("Broken"))


async def test_a_load_that_is_cancelled_leaves_nothing():
    """A model whose load nobody waits for any more is unloaded as soon as it is loaded; a worker process is ended."""
    import small_runtimes

    happened = small_runtimes.SlowToLoad.happened
    happened.clear()
    loading = asyncio.ensure_future(load_engine(spec("SlowToLoad", seconds=0.1)))
    async with asyncio.timeout(60):
        while not happened:
            await asyncio.sleep(0.005)
        loading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await loading
        while happened != ["loading", "unloaded"]:
            await asyncio.sleep(0.005)

    loading = asyncio.ensure_future(load_engine(spec("SlowToLoad", seconds=20), placement="process", replicas=2))
    await asyncio.sleep(0.05)
    loading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await loading
    assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []


async def test_a_model_that_holds_the_lock_for_long_gets_a_process(load):
    """Measured, not declared: a model that spins for 30 ms is moved to a worker, and the metadata say why."""
    engine = await load("Spinning", parameters={"seconds": 0.03})
    assert engine.placement == "process"
    assert engine._runtimes == []
    reason = engine.signature.properties["placement.reason"]
    assert re.fullmatch(r"predict took .* ms and holds the interpreter lock", reason)
    assert (await engine.infer(request())).outputs[0].data.tolist() == [10.0]


async def test_a_long_queue_lets_the_loop_turn(load):
    """Of many batches on the loop, not all run in one turn of it: other work gets in between."""
    engine = await load(
        "Spinning", parameters={"seconds": 0.001}, placement="inline", batching=Batching(max_batch_size=2)
    )
    turns = 0

    async def count():
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.ensure_future(count())
    await asyncio.gather(*(engine.infer(request()) for _ in range(20)))
    counting.cancel()
    assert turns >= 10


@pytest.mark.parametrize("placement", ["auto", "thread", "process"])
async def test_a_failing_warm_up_sample_fails_the_load(placement):
    """A sample that somebody gave and the model refuses is a LoadFailed; a made-up one is not."""
    sample = [Tensor("x", "FP32", np.full((1, 4), -1, np.float32))]
    with pytest.raises(LoadFailed, match=r"fails on its own warm-up sample: .*x is negative"):
        await load_engine(spec("Fussy"), warm_up=[sample], placement=placement)
    engine = await load_engine(spec("Exits"), placement=placement)
    await engine.close()


async def test_warm_up_predicts_what_was_given(load):
    """Each given sample is predicted before the first caller."""
    sample = [Tensor("x", "FP32", np.zeros((5, 4), np.float32))]
    engine = await load("Linear", warm_up=[sample])
    assert engine._runtimes[0].calls[0] == 5


@pytest.mark.parametrize("placement", ["thread", "process"])
async def test_replicas_run_at_once(load, tmp_path, placement):
    """Of two replicas each takes one of two requests, at the same time, each with a runtime of its own."""
    engine = await load(
        "Meeting",
        parameters={"folder": str(tmp_path)},
        placement=placement,
        replicas=2,
        batching=Batching(max_batch_size=1),
    )
    await asyncio.gather(engine.infer(request()), engine.infer(request()))
    assert len(list(tmp_path.iterdir())) == 2
    if placement == "thread":
        assert [runtime.calls[-1:] for runtime in engine._runtimes] == [[1], [1]]


async def test_a_setting_that_cannot_be_met_is_an_error():
    """A synchronous stream asked to run on the loop is refused with what to do."""
    with pytest.raises(SettingsError, match="choose 'thread' or 'process'"):
        await load_engine(spec("Streaming"), placement="inline")


# -- streams and async models; the same for a process in test_workers --


def ask(count=3, fail=0, pause=0.0):
    return request([[count, fail, pause, 0]])


async def read(engine, *arguments):
    return [response.outputs[0].data.tolist() async for response in engine.infer_stream(ask(*arguments))]


@pytest.mark.parametrize("placement", ["auto", "process"])
@pytest.mark.parametrize("kind", ["Streaming", "AsyncModel"])
async def test_a_stream_gives_its_parts_in_order(load, kind, placement):
    """All parts arrive in order, more than the window holds, and several streams keep apart."""
    engine = await load(kind, placement=placement)
    assert engine.streams
    assert await read(engine, 30) == [[i] for i in range(30)]
    both = await asyncio.gather(read(engine, 12), read(engine, 5), engine.infer(ask(4)))
    assert both[0] == [[i] for i in range(12)]
    assert both[1] == [[i] for i in range(5)]


@pytest.mark.parametrize("placement", ["auto", "process"])
@pytest.mark.parametrize("kind", ["Streaming", "AsyncModel"])
async def test_a_stream_that_is_left_stops_the_model(load, tmp_path, kind, placement):
    """Closing a stream early closes the model's iterator, at most a window of parts later."""
    note = tmp_path / "note"
    engine = await load(kind, parameters={"note": str(note)}, placement=placement)
    stream = engine.infer_stream(ask(1_000_000))
    assert (await anext(stream)).outputs[0].data.tolist() == [0]
    await stream.aclose()
    async with asyncio.timeout(60):
        while not note.exists():
            await asyncio.sleep(0.005)
    assert 1 <= int(note.read_text()) <= 20
    assert await read(engine, 2) == [[0], [1]]


@pytest.mark.parametrize("placement", ["auto", "process"])
async def test_a_stream_that_fails_gives_what_it_had(load, placement):
    """Parts made before a failure are read, then the failure is raised in the model's words."""
    engine = await load("Streaming", placement=placement)
    stream = engine.infer_stream(ask(5, 2))
    assert [(await anext(stream)).outputs[0].data.tolist() for _ in range(2)] == [[0], [1]]
    with pytest.raises(RuntimeFailed, match="model 'm': ValueError: told to fail"):
        await anext(stream)


@pytest.mark.parametrize("placement", ["auto", "process"])
@pytest.mark.parametrize("kind", ["Streaming", "AsyncModel"])
async def test_a_streams_deadline_ends_it(load, kind, placement):
    """A deadline that passes in the middle of a stream ends it there."""
    engine = await load(kind, placement=placement)
    slow = request([[10_000, 0, 0.01, 0]], deadline=time.monotonic() + 0.1)
    with pytest.raises(DeadlineExceeded):
        async for _ in engine.infer_stream(slow):
            pass
    assert await read(engine, 2) == [[0], [1]]


async def test_a_model_that_does_not_stream_gives_its_one_answer(load):
    """infer_stream of an ordinary model is its infer, once."""
    engine = await load("Linear")
    assert [each.outputs[0].data.tolist() async for each in engine.infer_stream(request())] == [[10.0]]


@pytest.mark.parametrize("placement", ["auto", "process"])
async def test_an_async_model_runs_its_requests_at_once(load, placement):
    """Ten requests to an async model are under way together, on the loop or in one process."""
    engine = await load("AsyncModel", placement=placement)
    answers = await asyncio.gather(*(engine.infer(ask(0, 0, 0.05)) for _ in range(10)))
    assert max(each.outputs[0].data.tolist()[0] for each in answers) == 10


@pytest.mark.parametrize("placement", ["auto", "process"])
async def test_cancelling_a_request_cancels_an_async_model(load, tmp_path, placement):
    """The caller's cancellation reaches the model's own await; so does a deadline."""
    note = tmp_path / "note"
    engine = await load("AsyncModel", parameters={"note": str(note)}, placement=placement)

    async def is_noted():
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(3):
                while not note.exists():
                    await asyncio.sleep(0.005)
        return note.exists()

    async def leave(seconds):
        task = asyncio.ensure_future(engine.infer(ask(0, 0, 20)))
        await asyncio.sleep(seconds)
        task.cancel()

    async def pass_deadline(seconds):
        with pytest.raises(DeadlineExceeded):
            await engine.infer(request([[0, 0, 20, 0]], deadline=time.monotonic() + seconds))

    for give_up in (leave, pass_deadline):
        for seconds in (0.02, 0.2, 2.0, 10.0):  # on a busy machine the request may not have come to the model so soon
            await give_up(seconds)
            if await is_noted():
                break
        note.unlink()
