"""Batching: the pure policy (key, merge, split) by properties, the queue through real engines.

Left out: the lanes of worker processes, in test_workers.
"""

from __future__ import annotations

import asyncio
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from headrace.errors import DeadlineExceeded, ModelNotReady, Overloaded, RuntimeFailed
from headrace.payload import EMPTY, InferenceRequest, Tensor
from headrace.serving import batching
from headrace.serving.batching import Batching
from headrace.serving.build import RuntimeSpec
from headrace.serving.decoding import Call
from headrace.serving.engine import load_engine

DTYPES = st.sampled_from([np.float32, np.float64, np.int64, np.bool_, np.object_])


@pytest.fixture(autouse=True)
def _path(monkeypatch):
    monkeypatch.syspath_prepend(__file__.rpartition("/")[0])


def spec(kind, **parameters):
    return RuntimeSpec(name="m", runtime=f"small_runtimes:{kind}", reference="x:y", parameters=parameters)


def request(rows, **options):
    return InferenceRequest(
        model_name="m", inputs=(Tensor("x", "FP32", np.asarray(rows, np.float32).reshape(-1, 4)),), **options
    )


def y(response):
    return response.outputs[0].data.tolist()


@st.composite
def neighbours(draw):
    """Calls with the same key: one set of names, dtypes and trailing shapes, many row counts."""
    names = draw(st.lists(st.sampled_from("abc"), min_size=1, max_size=3, unique=True))
    kinds = {
        name: (draw(DTYPES), draw(arrays.array_shapes(min_dims=0, max_dims=2, max_side=3, min_side=0)))
        for name in names
    }
    counts = draw(st.lists(st.integers(1, 5), min_size=1, max_size=6))
    calls = []
    for count in counts:
        values = {}
        for name, (dtype, shape) in kinds.items():
            elements = st.binary(max_size=3) if dtype is np.object_ else None
            values[name] = draw(arrays.arrays(dtype, (count, *shape), elements=elements))
        calls.append(Call(values, (), EMPTY, count))
    return calls


@given(neighbours())
def test_split_of_merge_gives_everybody_their_own_rows(calls):
    """Merging calls and splitting the merged arrays gives each caller's arrays back, in order."""
    merged = batching.merge(calls)
    tensors = [Tensor(name, "X", array) for name, array in merged.arrays.items()]
    assert merged.rows == sum(call.rows for call in calls)
    for call, answer in zip(calls, batching.split(tensors, [call.rows for call in calls]), strict=True):
        assert [each.name for each in answer] == list(call.arrays)
        for tensor in answer:
            np.testing.assert_array_equal(tensor.data, call.arrays[tensor.name])
            assert tensor.data.dtype == call.arrays[tensor.name].dtype


@given(st.lists(st.integers(1, 4), min_size=1, max_size=5), st.integers(0, 25))
def test_split_refuses_another_number_of_rows(counts, came):
    """An output is cut only when its rows are exactly those that went in, divisible or not."""
    tensor = Tensor("y", "FP32", np.zeros((came, 2), np.float32))
    if came == sum(counts):
        assert [len(answer[0].data) for answer in batching.split([tensor], counts)] == counts
    else:
        with pytest.raises(RuntimeFailed, match=rf"'y' has shape \[{came},2\] for a batch of {sum(counts)} rows"):
            batching.split([tensor], counts)


def test_split_refuses_a_scalar():
    """An output with no axis to cut along is a wrong row count."""
    with pytest.raises(RuntimeFailed, match=r"'y' has shape \[\]"):
        batching.split([Tensor("y", "FP32", np.float32(1).reshape(()))], [1, 1])


@pytest.mark.parametrize(
    "other",
    [
        Call({"x": np.zeros((2, 5), np.float32)}),
        Call({"x": np.zeros((2, 4), np.float64)}),
        Call({"z": np.zeros((2, 4), np.float32)}),
        Call({"x": np.zeros((2, 4), np.float32), "z": np.zeros(2)}),
        Call({"x": np.zeros((2, 4), np.float32)}, ("y",)),
        Call({"x": np.zeros((2, 4), np.float32)}, (), {"p": 1}),
    ],
    ids=["width", "dtype", "name", "one more input", "outputs", "parameters"],
)
def test_calls_that_differ_are_no_neighbours(other):
    """Names, dtypes, trailing shapes, outputs and parameters each keep two calls apart."""
    assert batching.key(other) != batching.key(Call({"x": np.zeros((1, 4), np.float32)}))


def test_calls_of_other_row_counts_are_neighbours():
    """Rows and the order of inputs do not keep calls apart."""
    one = Call({"a": np.zeros((1, 4)), "b": np.zeros(1)}, (), {"p": 1, "q": 2}, 1)
    two = Call({"b": np.zeros(7), "a": np.zeros((7, 4))}, (), {"q": 2, "p": 1}, 7)
    assert batching.key(one) == batching.key(two)
    assert batching.merge([one, two]).arrays["a"].shape == (8, 4)


def test_parameters_of_other_types_are_no_neighbours():
    """1, 1.0, True and '1' are four values of a parameter."""
    keys = {batching.key(Call({"x": np.zeros((1, 4))}, (), {"p": value})) for value in (1, 1.0, True, "1")}
    assert len(keys) == 4


# -- the queue --


class Gate:
    """An engine whose model waits for the test."""

    def __init__(self, engine, runtime):
        self.engine, self.runtime = engine, runtime

    async def hold(self):
        """A request that is in predict, and stays there until open()."""
        task = asyncio.ensure_future(self.engine.infer(request([[0, 0, 0, 0]])))
        await asyncio.to_thread(self.runtime.entered.acquire, True, 5)
        return task

    def open(self):
        self.runtime.gate.set()


@pytest.fixture
async def gated():
    import small_runtimes

    engines = []

    async def make(kind="Gated", **options):
        name = f"gate-{len(engines)}"
        loading = asyncio.ensure_future(load_engine(spec(kind, gate=name), placement="thread", **options))
        while name not in small_runtimes.Gated.gates:  # warm-up predicts: let it through
            await asyncio.sleep(0.001)
        runtime = small_runtimes.Gated.gates.pop(name)
        runtime.gate.set()
        engine = await loading
        while runtime.entered.acquire(blocking=False):
            pass
        runtime.gate.clear()
        runtime.calls.clear()
        engines.append((engine, runtime))
        return Gate(engine, runtime)

    yield make
    for engine, runtime in engines:
        runtime.gate.set()
        await engine.close(5)


async def test_what_queues_while_predict_runs_is_the_next_batch(gated):
    """Ten requests that came during one predict share the next one, and each gets its own answer."""
    gate = await gated()
    first = await gate.hold()
    others = [asyncio.ensure_future(gate.engine.infer(request([[i, 0, 0, 0]] * (i % 3 + 1)))) for i in range(10)]
    await asyncio.sleep(0)
    gate.open()
    assert [y(each) for each in await asyncio.gather(*others)] == [[float(i)] * (i % 3 + 1) for i in range(10)]
    await first
    assert gate.runtime.calls == [1, sum(i % 3 + 1 for i in range(10))]


async def test_a_batch_has_no_more_rows_than_allowed(gated):
    """Batches are cut at max_batch_size rows, and a single larger request runs alone, whole."""
    gate = await gated(batching=Batching(max_batch_size=4))
    first = await gate.hold()
    sizes = [3, 2, 2, 9, 1]
    others = [asyncio.ensure_future(gate.engine.infer(request([[i, 0, 0, 0]] * n))) for i, n in enumerate(sizes)]
    await asyncio.sleep(0)
    gate.open()
    answers = await asyncio.gather(*others)
    assert [y(each) for each in answers] == [[float(i)] * n for i, n in enumerate(sizes)]
    assert gate.runtime.calls == [1, 3, 4, 9, 1]
    await first


async def test_other_parameters_do_not_share_a_predict(gated):
    """Requests with different parameters run in different predicts."""
    gate = await gated()
    first = await gate.hold()
    others = [
        asyncio.ensure_future(gate.engine.infer(request([[i, 0, 0, 0]], parameters={"p": i % 2}))) for i in range(6)
    ]
    await asyncio.sleep(0)
    gate.open()
    assert [y(each) for each in await asyncio.gather(*others)] == [[float(i)] for i in range(6)]
    assert gate.runtime.calls == [1, 3, 3]
    await first


async def test_wire_parameters_do_not_keep_requests_apart(gated):
    """How the caller wants its answer written is no reason for another predict."""
    gate = await gated()
    first = await gate.hold()
    others = [
        asyncio.ensure_future(
            gate.engine.infer(request([[1, 0, 0, 0]], parameters={"binary_data_output": bool(i % 2)}))
        )
        for i in range(4)
    ]
    await asyncio.sleep(0)
    gate.open()
    await asyncio.gather(first, *others)
    assert gate.runtime.calls == [1, 4]


async def test_a_cancelled_member_leaves_before_predict(gated):
    """A request cancelled in the queue is not predicted; its neighbours are, and get their own answers."""
    gate = await gated()
    first = await gate.hold()
    others = [asyncio.ensure_future(gate.engine.infer(request([[i, 0, 0, 0]]))) for i in range(5)]
    await asyncio.sleep(0)
    others[1].cancel()
    others[3].cancel()
    await asyncio.sleep(0)
    gate.open()
    answers = await asyncio.gather(*others, return_exceptions=True)
    assert [y(each) for each in answers if not isinstance(each, BaseException)] == [[0.0], [2.0], [4.0]]
    assert gate.runtime.calls == [1, 3]
    await first


async def test_closing_the_coroutine_leaves_the_queue(gated):
    """A server that steps infer by itself and drops it at its await takes the request out of the queue."""
    gate = await gated()
    first = await gate.hold()
    walk = gate.engine.infer(request([[1, 0, 0, 0]]))
    walk.send(None)
    walk.close()
    gate.open()
    await first
    await gate.engine.close(5)
    assert gate.runtime.calls == [1]


async def test_a_deadline_that_passes_in_the_queue_is_answered_then(gated):
    """A request whose deadline passes while it waits is answered DeadlineExceeded at once, and never predicted."""
    gate = await gated()
    first = await gate.hold()
    began = time.monotonic()
    with pytest.raises(DeadlineExceeded, match=r"model 'm': the deadline .* passed while the request waited"):
        await gate.engine.infer(request([[1, 0, 0, 0]], deadline=began + 0.03))
    assert 0.02 < time.monotonic() - began < 5
    gate.open()
    await first
    assert gate.runtime.calls == [1]


async def test_a_deadline_that_passes_in_predict_is_answered_then(gated):
    """The caller of a predict that takes too long is answered at its deadline; the lane is not lost by it."""
    gate = await gated()
    with pytest.raises(DeadlineExceeded, match="while it ran"):
        await gate.engine.infer(request([[1, 0, 0, 0]], deadline=time.monotonic() + 0.03))
    gate.open()
    assert y(await gate.engine.infer(request([[1, 2, 3, 4]]))) == [10.0]


async def test_the_earliest_of_many_deadlines_counts(gated):
    """One timer serves all deadlines: each request fails at its own and not before, whatever order they came in."""
    gate = await gated()
    first = await gate.hold()
    now = time.monotonic()

    async def ask(after):
        with pytest.raises(DeadlineExceeded):
            await gate.engine.infer(request([[1, 0, 0, 0]], deadline=now + after))
        assert after <= time.monotonic() - now < 5

    await asyncio.gather(*(ask(after) for after in (0.12, 0.04, 0.2, 0.08)))
    gate.open()
    await first


async def test_a_passed_deadline_is_not_even_queued(gated):
    """A request that comes too late already is refused at once."""
    gate = await gated()
    with pytest.raises(DeadlineExceeded):
        await gate.engine.infer(request([[1, 0, 0, 0]], deadline=time.monotonic() - 1))


async def test_a_full_queue_answers_overloaded(gated):
    """One request more than max_queue_size is refused with a time to come back; those in the queue are answered."""
    gate = await gated(batching=Batching(max_queue_size=3))
    first = await gate.hold()
    others = [asyncio.ensure_future(gate.engine.infer(request([[i, 0, 0, 0]]))) for i in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded, match="3 requests wait already") as caught:
        await gate.engine.infer(request([[9, 0, 0, 0]]))
    assert caught.value.retry_after_seconds > 0
    gate.open()
    assert [y(each) for each in await asyncio.gather(*others)] == [[0.0], [1.0], [2.0]]
    await first


async def test_those_who_left_do_not_fill_the_queue(gated):
    """Cancelled requests make room in a full queue at once, though predict still runs."""
    gate = await gated(batching=Batching(max_queue_size=2))
    first = await gate.hold()
    others = [asyncio.ensure_future(gate.engine.infer(request([[i, 0, 0, 0]]))) for i in range(2)]
    await asyncio.sleep(0)
    for each in others:
        each.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    late = asyncio.ensure_future(gate.engine.infer(request([[5, 0, 0, 0]])))
    await asyncio.sleep(0)
    gate.open()
    assert y(await late) == [5.0]
    await first


async def test_close_drains(gated):
    """Closing answers what is queued and what comes while it drains; afterwards the model is not ready."""
    gate = await gated()
    first = await gate.hold()
    queued = asyncio.ensure_future(gate.engine.infer(request([[1, 0, 0, 0]])))
    await asyncio.sleep(0)
    closing = asyncio.ensure_future(gate.engine.close(5))
    await asyncio.sleep(0)
    late = asyncio.ensure_future(gate.engine.infer(request([[2, 0, 0, 0]])))
    await asyncio.sleep(0)
    assert not closing.done()
    gate.open()
    assert [y(each) for each in await asyncio.gather(first, queued, late)] == [[0.0], [1.0], [2.0]]
    await closing
    with pytest.raises(ModelNotReady, match="unloaded"):
        await gate.engine.infer(request([[3, 0, 0, 0]]))


async def test_a_drain_that_takes_too_long_answers_those_who_wait(gated):
    """When the time to drain is over, requests in flight and in the queue are answered ModelNotReady."""
    gate = await gated()
    first = await gate.hold()
    queued = asyncio.ensure_future(gate.engine.infer(request([[1, 0, 0, 0]])))
    await asyncio.sleep(0)
    closing = asyncio.ensure_future(gate.engine.close(0.02))
    with pytest.raises(ModelNotReady):
        await queued
    with pytest.raises(ModelNotReady):
        await first
    gate.open()
    await closing


async def test_max_wait_gathers_neighbours():
    """With max_wait_seconds a free model waits for neighbours, and goes early when the batch is full."""
    engine = await load_engine(
        spec("Linear"), placement="thread", batching=Batching(max_batch_size=3, max_wait_seconds=10)
    )
    tasks = []
    for i in range(3):
        tasks.append(asyncio.ensure_future(engine.infer(request([[i, 0, 0, 0]]))))
        await asyncio.sleep(0.005)
        assert i == 2 or not tasks[0].done()
    assert [y(each) for each in await asyncio.wait_for(asyncio.gather(*tasks), 60)] == [[0.0], [1.0], [2.0]]
    assert engine._runtimes[0].calls[-1] == 3
    await engine.close()


async def test_max_wait_ends():
    """A request without neighbours waits max_wait_seconds and no longer."""
    engine = await load_engine(spec("Linear"), placement="thread", batching=Batching(max_wait_seconds=0.03))
    began = time.monotonic()
    assert y(await engine.infer(request([[1, 2, 3, 4]]))) == [10.0]
    assert 0.025 < time.monotonic() - began < 5
    await engine.close()


@pytest.mark.parametrize("placement", ["inline", "thread", "process"])
async def test_one_bad_request_harms_no_other(placement):
    """Of 12 requests in one batch, 2 are refused by the model: those two fail with its words, ten are answered."""
    engine = await load_engine(spec("Fussy"), placement=placement, batching=Batching(max_wait_seconds=0.01))
    values = [float(i) if i not in (3, 7) else -1.0 for i in range(12)]
    answers = await asyncio.gather(
        *(engine.infer(request([[value, 0, 0, 0]])) for value in values), return_exceptions=True
    )
    for value, answer in zip(values, answers, strict=True):
        if value < 0:
            assert isinstance(answer, RuntimeFailed)
            assert str(answer) == "model 'm': ValueError: x is negative"
        else:
            assert y(answer) == [value]
    await engine.close()


@pytest.mark.parametrize("placement", ["inline", "thread", "process"])
async def test_a_failure_that_is_no_ones_input_is_everybodys(placement):
    """A RuntimeError of a merged predict fails each member, each with an error object of its own, after one predict."""
    engine = await load_engine(spec("Fussy"), placement=placement, batching=Batching(max_wait_seconds=0.01))
    answers = await asyncio.gather(
        *(engine.infer(request([[value, 0, 0, 0]])) for value in (1, np.inf, 2)), return_exceptions=True
    )
    assert [str(answer) for answer in answers] == ["model 'm': RuntimeError: cannot go on"] * 3
    assert len({id(answer) for answer in answers}) == 3
    await engine.close()


@pytest.mark.parametrize("placement", ["inline", "thread", "process"])
async def test_a_wrong_row_count_fails_the_batch(placement):
    """A model that answers 4 rows for callers of 2 and 3 fails both, and says so; nobody gets a neighbour's row."""
    engine = await load_engine(spec("WrongRows"), placement=placement, batching=Batching(max_wait_seconds=0.01))
    answers = await asyncio.gather(
        engine.infer(request([[1, 0, 0, 0]] * 2)), engine.infer(request([[2, 0, 0, 0]] * 3)), return_exceptions=True
    )
    for answer in answers:
        assert isinstance(answer, RuntimeFailed)
        assert "output 'y' has shape [4] for 5 rows" in str(answer)
    await engine.close()


@pytest.mark.parametrize("placement", ["inline", "thread", "process"])
async def test_a_model_that_cannot_be_batched_is_not(placement):
    """A model declared not batchable sees each request alone."""
    engine = await load_engine(spec("Alone"), placement=placement, batching=Batching(max_wait_seconds=0.01))
    answers = await asyncio.gather(*(engine.infer(request([[i, 0, 0, 0]] * 2)) for i in range(20)))
    assert [y(each) for each in answers] == [[float(i)] * 2 for i in range(20)]
    if placement != "process":
        assert set(engine._runtimes[0].calls[-20:]) == {2}
    await engine.close()


async def test_requests_of_one_turn_of_the_loop_share_an_inline_predict():
    """With the model on the loop, what arrives in one turn is one predict, and one request alone does not wait."""
    engine = await load_engine(spec("Linear"), placement="inline", batching=Batching(max_wait_seconds=1e-9))
    runtime = engine._runtimes[0]
    runtime.calls.clear()
    answers = await asyncio.gather(*(engine.infer(request([[i, 0, 0, 0]])) for i in range(16)))
    assert [y(each) for each in answers] == [[float(i)] for i in range(16)]
    assert runtime.calls == [16]
    await engine.infer(request([[1, 0, 0, 0]]))
    assert runtime.calls == [16, 1]
    await engine.close()


async def test_many_mixed_requests_each_get_their_own():
    """200 concurrent requests of mixed widths, row counts, outputs and parameters are each answered with their rows."""
    engine = await load_engine(spec("Loose"), placement="thread", batching=Batching(max_batch_size=16))

    async def ask(i):
        width, rows = i % 3 + 1, i % 5 + 1
        inputs = tuple(Tensor(f"c{k}", "FP64", np.full(rows, float(i + k))) for k in range(width))
        parameters = {"p": i % 2} if i % 7 == 0 else EMPTY
        if width == 1:
            inputs = (Tensor("x", "FP32", np.full((rows, 4), i, np.float32)),)
        response = await engine.infer(InferenceRequest(model_name="m", inputs=inputs, parameters=parameters, id=str(i)))
        total = 4 * i if width == 1 else sum(i + k for k in range(width))
        assert response.id == str(i)
        assert y(response) == [float(total)] * rows

    await asyncio.gather(*(ask(i) for i in range(200)))
    await engine.close()


class Ear:
    """An observer that keeps all it is told."""

    def __init__(self):
        self.told = []

    def executed(self, *, requests, rows, queue_ns, predict_ns):
        self.told.append(("executed", requests, rows))
        assert queue_ns >= 0
        assert predict_ns > 0

    def failed(self, *, requests, queue_ns, predict_ns):
        self.told.append(("failed", requests))

    def queued(self, depth):
        self.told.append(("queued", depth))

    def logged(self, values):
        self.values = values

    def restarted(self, reason):
        self.told.append(("restarted", reason))


async def test_the_observer_hears_of_batches_failures_and_depths():
    """One executed for a predict with its requests and rows, one failed for a failed one, and the depth in between."""
    ear = Ear()
    engine = await load_engine(
        spec("Fussy"), placement="thread", batching=Batching(max_wait_seconds=0.01, max_batch_size=5), observer=ear
    )
    await asyncio.gather(*(engine.infer(request([[1, 0, 0, 0]] * 2)) for _ in range(2)))
    with pytest.raises(RuntimeFailed):
        await engine.infer(request([[np.inf, 0, 0, 0]]))
    await engine.close()
    assert ("executed", 2, 4) in ear.told
    assert ("failed", 1) in ear.told
    assert ("queued", 2) in ear.told or ("queued", 0) in ear.told
