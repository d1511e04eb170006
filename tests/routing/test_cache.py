"""The cache around small real `Infer`s: keys as a property, order of leaving, one predict for many, who owns what."""

from __future__ import annotations

import asyncio
import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from headrace.errors import DeadlineExceeded, RuntimeFailed
from headrace.payload import InferenceRequest, InferenceResponse, RequestedOutput, Tensor
from headrace.routing.cache import Cache, key_of
from headrace.testing import strategies


def ask(value=0.0, **fields):
    data = np.array([value], np.float64)
    return InferenceRequest(model_name="m", inputs=(Tensor("x", "FP64", data),), **fields)


class Model:
    """Doubles; keeps what it was asked; waits for `go` while it is clear; fails with `error` while it is set."""

    def __init__(self):
        self.asked = []
        self.error = None
        self.go = asyncio.Event()
        self.go.set()
        self.entered = asyncio.Semaphore(0)
        self.buffer = np.zeros(1)

    async def __call__(self, request):
        self.asked.append(request)
        self.entered.release()
        if not self.go.is_set():
            await self.go.wait()
        if self.error is not None:
            raise self.error
        np.multiply(request.inputs[0].data, 2, out=self.buffer)
        return InferenceResponse(
            model_name="m",
            model_version="1",
            id=request.id,
            outputs=(Tensor("y", "FP64", self.buffer, {"content_type": "np"}),),
            parameters={"seen": [1]},
            headers={"x-of-the-first": "yes"},
        )


def cached(model, **options):
    options = {"max_entries": 100, "max_bytes": 1 << 20} | options
    return Cache(model, model="m", version="1", **options)


def plain(value):
    """A parameter with its type, so that 1, 1.0 and True differ."""
    return (type(value).__name__, repr(value))


def asked_for(request):
    """All that a request asks, as values that compare."""
    return (
        tuple(
            (
                each.name,
                each.datatype,
                each.shape,
                tuple(each.data.ravel().tolist()) if each.data.dtype.hasobject else each.data.tobytes(),
                sorted((name, plain(value)) for name, value in each.parameters.items()),
            )
            for each in request.inputs
        ),
        tuple(
            (each.name, sorted((name, plain(value)) for name, value in each.parameters.items()))
            for each in request.outputs
        ),
        sorted((name, plain(value)) for name, value in request.parameters.items()),
    )


# -- keys --


@given(strategies.requests(), strategies.requests())
def test_keys_are_equal_exactly_when_the_requests_ask_the_same(one, other):
    """Of any two requests, the keys are equal if and only if inputs, wanted outputs and parameters are."""
    keys = [key_of(each, model="m", version="") for each in (one, other)]
    assert (keys[0] == keys[1]) is (asked_for(one) == asked_for(other))


@given(strategies.requests(), st.randoms())
def test_who_asks_and_in_what_order_parameters_stand_makes_no_difference(request_, random):
    """Id, headers, protocol, deadline, memory layout and the order of parameters are not in the key."""

    def shuffled(parameters):
        items = list(parameters.items())
        random.shuffle(items)
        return dict(items)

    other = InferenceRequest(
        model_name=request_.model_name,
        inputs=tuple(
            Tensor(each.name, each.datatype, np.array(each.data, order="F"), shuffled(each.parameters))
            for each in request_.inputs
        ),
        id="another",
        outputs=tuple(RequestedOutput(each.name, shuffled(each.parameters)) for each in request_.outputs),
        parameters=shuffled(request_.parameters),
        headers={"x-request-id": "7"},
        protocol="v2_grpc",
        deadline=1.0,
    )
    assert key_of(request_, model="m", version="") == key_of(other, model="m", version="")


@given(*[st.lists(st.none() | st.binary(max_size=4), max_size=5)] * 2)
@example([b"ab", b"c"], [b"a", b"bc"])
@example([None], [b""])
@example([b"a\x00"], [b"a", b"\x00"])
@example([], [b""])
def test_bytes_elements_do_not_run_together(one, other):
    """Lists of strings and of no values have equal keys only when they are equal, however their bytes join."""

    def key(elements):
        data = np.empty(len(elements), object)
        data[:] = elements
        return key_of(InferenceRequest(model_name="m", inputs=(Tensor("x", "BYTES", data),)), model="m", version="")

    assert (key(one) == key(other)) is (one == other)


def _request(*tensors, **fields):
    return InferenceRequest(model_name="m", inputs=tensors, **fields)


_X = Tensor("x", "INT32", np.array([1, 2], np.int32))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param(_request(_X), _request(Tensor("y", "INT32", _X.data)), id="name"),
        pytest.param(_request(_X), _request(Tensor("x", "FP32", _X.data.view(np.float32))), id="datatype, equal bytes"),
        pytest.param(_request(_X), _request(Tensor("x", "INT32", _X.data.reshape(2, 1))), id="shape"),
        pytest.param(_request(_X), _request(Tensor("x", "INT32", _X.data.astype(">i4"))), id="byte order"),
        pytest.param(_request(_X), _request(_X, outputs=(RequestedOutput("y"),)), id="requested output"),
        pytest.param(
            _request(_X, outputs=(RequestedOutput("y"), RequestedOutput("z"))),
            _request(_X, outputs=(RequestedOutput("z"), RequestedOutput("y"))),
            id="order of outputs",
        ),
        pytest.param(
            _request(_X, outputs=(RequestedOutput("y"),)),
            _request(_X, outputs=(RequestedOutput("y", {"classification": 1}),)),
            id="parameter of an output",
        ),
        pytest.param(_request(_X, parameters={"a": 1}), _request(_X, parameters={"a": True}), id="1 and true"),
        pytest.param(_request(_X, parameters={"a": 1}), _request(_X, parameters={"a": 1.0}), id="1 and 1.0"),
        pytest.param(_request(_X, parameters={"a": "1"}), _request(_X, parameters={"a": b"1"}), id="text and bytes"),
        pytest.param(_request(_X, parameters={"a": [1, [2]]}), _request(_X, parameters={"a": [1, 2]}), id="nesting"),
        pytest.param(
            _request(_X, Tensor("b", "INT32", _X.data[:0])), _request(Tensor("b", "INT32", _X.data[:0]), _X), id="order"
        ),
        pytest.param(
            _request(Tensor("a", "INT32", _X.data[:0]), Tensor("b", "INT32", _X.data)),
            _request(Tensor("a", "INT32", _X.data), Tensor("b", "INT32", _X.data[:0])),
            id="which tensor holds the bytes",
        ),
    ],
)
def test_what_is_asked_is_in_the_key(one, other):
    """Requests that differ in this alone have different keys."""
    assert key_of(one, model="m", version="") != key_of(other, model="m", version="")


def test_model_and_version_are_in_the_key_and_do_not_run_together():
    """The same content asked of another model or version has another key (MLServer mixed up models here)."""
    keys = {key_of(ask(), model=model, version=version) for model, version in [("a", "1"), ("b", "1"), ("a1", "")]}
    assert len(keys) == 3


# -- answers --


async def test_an_equal_request_is_answered_without_the_model_under_its_own_id():
    """The second of two equal requests gets the same values, its own id, and no header of the first one's answer."""
    model = Model()
    cache = cached(model)
    first = await cache.infer(ask(3.0, id="a"))
    second = await cache.infer(ask(3.0, id="b", headers={"x": "1"}, protocol="v1"))
    assert len(model.asked) == 1
    assert (first.id, second.id) == ("a", "b")
    assert second.outputs[0].data.tolist() == [6.0]
    assert (second.model_name, second.model_version) == ("m", "1")
    assert (second.parameters, second.outputs[0].parameters) == ({"seen": [1]}, {"content_type": "np"})
    assert (dict(first.headers), dict(second.headers)) == ({"x-of-the-first": "yes"}, {})
    assert (cache.hits, cache.misses, cache.entries) == (1, 1, 1)


async def test_different_requests_are_answered_differently():
    """Each content has its own answer."""
    cache = cached(Model())
    for _ in range(2):
        for value in (1.0, 2.0, float("nan")):
            found = (await cache.infer(ask(value))).outputs[0].data
            np.testing.assert_array_equal(found, [value * 2])
    assert (cache.hits, cache.misses) == (3, 3)


async def test_what_is_kept_is_nobody_elses():
    """A model that uses its output buffer again and a caller that writes to its answer do not change what is kept."""
    model = Model()
    cache = cached(model)
    first = await cache.infer(ask(3.0))
    first.parameters["seen"].append(2)
    model.buffer[:] = -1.0
    second = await cache.infer(ask(3.0))
    assert second.outputs[0].data.tolist() == [6.0]
    assert second.parameters == {"seen": [1]}
    with pytest.raises(ValueError, match="read-only"):
        second.outputs[0].data[0] = 7.0
    assert model.buffer.flags.writeable


async def test_an_answer_that_is_kept_holds_no_more_memory_than_is_counted():
    """One row of a large array is kept as one row, and `bytes` is what Python says the answers take, within a third."""

    async def row_of_many(request):
        many = np.full((1000, 100), request.inputs[0].data[0])
        words = np.array([b"w%06d" % (number + int(request.inputs[0].data[0])) for number in range(10)], object)
        return InferenceResponse(model_name="m", outputs=(Tensor("y", "FP64", many[:1]), Tensor("w", "BYTES", words)))

    cache = cached(row_of_many, max_entries=10_000)
    await cache.infer(ask(-1.0))
    tracemalloc.start()
    try:
        for value in range(300):
            await cache.infer(ask(float(value)))
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert held * 0.75 < cache.bytes < held * 1.5


async def test_errors_are_not_kept():
    """A request that failed is asked of the model again."""
    model = Model()
    cache = cached(model)
    model.error = RuntimeFailed("no")
    with pytest.raises(RuntimeFailed):
        await cache.infer(ask())
    model.error = None
    assert (await cache.infer(ask())).outputs[0].data.tolist() == [0.0]
    assert (cache.hits, cache.misses, cache.entries) == (0, 2, 1)


async def test_a_parameter_that_cannot_be_compared_asks_the_model_each_time():
    """What is no JSON value, bytes or number of 64 bits is passed on to the model and never answered from memory."""
    model = Model()
    cache = cached(model)
    for strange in (1 << 70, object(), {(1, 2): 3}, "\ud800"):
        for _ in range(2):
            await cache.infer(ask(parameters={"a": strange}))
    assert (len(model.asked), cache.entries, cache.hits) == (8, 0, 0)


async def test_an_answer_that_cannot_be_copied_is_for_its_caller_alone():
    """An answer whose parameters cannot be copied reaches all who asked for it and is not kept."""

    async def strange(request):
        await asyncio.sleep(0)
        return InferenceResponse(model_name="m", outputs=(), parameters={"lock": time.get_clock_info, "a": iter(())})

    async def stranger(request):
        await asyncio.sleep(0)
        return InferenceResponse(model_name="m", outputs=(), parameters={"file": (each for each in ())})

    for infer in (strange, stranger):
        cache = cached(infer)
        answers = await asyncio.gather(*(cache.infer(ask()) for _ in range(3)))
        assert all(set(answer.parameters) for answer in answers)
    assert cache.entries == 0


async def test_a_large_request_is_keyed_like_a_small_one():
    """A request of several megabytes, hashed in a thread, is found again, and one bit more is another request."""
    model = Model()
    cache = cached(model, max_bytes=1 << 30)
    data = np.zeros(1 << 18)
    model.buffer = np.zeros_like(data)
    large = InferenceRequest(model_name="m", inputs=(Tensor("x", "FP64", data),))
    other = InferenceRequest(model_name="m", inputs=(Tensor("x", "FP64", np.append(data[1:], 1.0)),))
    for _ in range(2):
        assert (await cache.infer(large)).outputs[0].data[-1] == 0.0
        assert (await cache.infer(other)).outputs[0].data[-1] == 2.0
    assert (cache.hits, cache.misses) == (2, 2)


# -- leaving --


async def test_the_least_recently_used_leaves_first():
    """Of three answers where two fit, the one that was not asked for longest is gone."""
    model = Model()
    cache = cached(model, max_entries=2)
    for value in (1.0, 2.0, 1.0, 3.0):
        await cache.infer(ask(value))
    assert (cache.hits, cache.misses, cache.evictions, cache.entries) == (1, 3, 1, 2)
    await cache.infer(ask(1.0))
    assert cache.hits == 2
    await cache.infer(ask(2.0))
    assert cache.misses == 4


@given(st.lists(st.integers(0, 12), max_size=60), st.integers(0, 6), st.integers(0, 6000))
async def test_neither_limit_is_ever_passed(values, max_entries, max_bytes):
    """After any sequence of requests, entries and bytes are within their limits and the answers right."""

    async def sized(request):
        value = int(request.inputs[0].data[0])
        return InferenceResponse(model_name="m", outputs=(Tensor("y", "FP64", np.full(value * 50, value * 1.0)),))

    cache = cached(sized, max_entries=max_entries, max_bytes=max_bytes)
    for value in values:
        data = (await cache.infer(ask(float(value)))).outputs[0].data
        assert (len(data), set(data.tolist())) == (value * 50, {value * 1.0} if value else set())
        assert cache.entries <= max_entries
        assert 0 <= cache.bytes <= max_bytes
        assert bool(cache.entries) is bool(cache.bytes)
    assert cache.hits + cache.misses == len(values)


async def test_an_answer_larger_than_all_places_is_not_kept_and_moves_nobody():
    """A too large answer is given and forgotten; what was kept stays."""

    async def sized(request):
        return InferenceResponse(
            model_name="m", outputs=(Tensor("y", "FP64", np.zeros(int(request.inputs[0].data[0]))),)
        )

    cache = cached(sized, max_bytes=5000)
    for value in (1.0, 100_000.0, 1.0):
        await cache.infer(ask(value))
    assert (cache.hits, cache.entries, cache.evictions) == (1, 1, 0)


async def test_an_answer_past_its_time_is_asked_for_again():
    """With a time to live, the model is asked again once it has passed, and not before."""
    now = [0.0]
    model = Model()
    cache = cached(model, ttl_seconds=10.0, clock=lambda: now[0])
    await cache.infer(ask())
    now[0] = 9.9
    await cache.infer(ask())
    assert len(model.asked) == 1
    now[0] = 10.0
    await cache.infer(ask())
    assert (len(model.asked), cache.entries) == (2, 1)


# -- many at once --


async def several(cache, model, count, **fields):
    """That many equal requests under way, the first of them inside the model."""
    model.go.clear()
    tasks = [asyncio.create_task(cache.infer(ask(5.0, id=str(number), **fields))) for number in range(count)]
    await model.entered.acquire()
    await asyncio.sleep(0)
    return tasks


async def test_equal_requests_at_once_take_one_predict():
    """Callers who ask the same while it is being answered share one predict, each under its own id."""
    model = Model()
    cache = cached(model)
    tasks = await several(cache, model, 5)
    model.go.set()
    answers = await asyncio.gather(*tasks)
    assert [answer.id for answer in answers] == ["0", "1", "2", "3", "4"]
    assert all(answer.outputs[0].data.tolist() == [10.0] for answer in answers)
    assert (len(model.asked), cache.hits, cache.misses) == (1, 4, 1)


async def test_they_share_it_even_when_nothing_can_be_kept():
    """With no room for the answer, those who wait for it get it all the same."""
    model = Model()
    cache = cached(model, max_bytes=1)
    tasks = await several(cache, model, 3)
    model.go.set()
    assert [(await task).outputs[0].data.tolist() for task in tasks] == [[10.0]] * 3
    assert (len(model.asked), cache.entries) == (1, 0)


async def test_when_the_first_leaves_another_asks_for_the_rest():
    """A caller that is cancelled takes nobody along: the next one's predict answers all who are left."""
    model = Model()
    cache = cached(model)
    tasks = await several(cache, model, 4)
    tasks[0].cancel()
    await model.entered.acquire()
    assert [request.id for request in model.asked] == ["0", "1"]
    model.go.set()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(answers[0], asyncio.CancelledError)
    assert [answer.id for answer in answers[1:]] == ["1", "2", "3"]
    assert len(model.asked) == 2


async def test_when_first_and_second_leave_at_once_the_third_asks():
    """A caller that is cancelled in the moment in which the work comes to it hands it on."""
    model = Model()
    cache = cached(model)
    tasks = await several(cache, model, 3)
    tasks[0].cancel()
    await asyncio.sleep(0)  # the first is gone, the second has been told and has not run
    tasks[1].cancel()
    await model.entered.acquire()
    model.go.set()
    assert (await tasks[2]).id == "2"
    assert [request.id for request in model.asked] == ["0", "2"]


async def test_those_who_only_waited_may_leave():
    """Cancelled followers change nothing for the others, and the work does not come to one who is gone."""
    model = Model()
    cache = cached(model)
    tasks = await several(cache, model, 4)
    tasks[1].cancel()
    await asyncio.sleep(0)
    tasks[0].cancel()
    await model.entered.acquire()
    model.go.set()
    assert [(await task).id for task in tasks[2:]] == ["2", "3"]
    assert [request.id for request in model.asked] == ["0", "2"]


async def test_when_all_leave_nothing_is_left_behind():
    """After every caller was cancelled, the next equal request asks the model afresh."""
    model = Model()
    cache = cached(model)
    tasks = await several(cache, model, 3)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    model.go.set()
    assert (await asyncio.wait_for(cache.infer(ask(5.0)), 60)).outputs[0].data.tolist() == [10.0]


async def test_the_firsts_failure_is_its_own():
    """When the shared predict fails, each of the others asks for itself and has its own outcome."""
    model = Model()
    cache = cached(model)
    tasks = await several(cache, model, 3)

    class Once(RuntimeFailed):
        """Raised once."""

    inner = cache._infer

    async def recover(request):
        model.error = None
        return await inner(request)

    model.error = Once("no")
    cache._infer = recover
    model.go.set()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(answers[0], Once)
    assert [answer.id for answer in answers[1:]] == ["1", "2"]
    assert (cache.hits, cache.misses) == (0, 3)


async def test_one_whose_deadline_passes_while_it_waits_is_told_so():
    """A follower's deadline is its own: it gets DeadlineExceeded, and the first its answer."""
    model = Model()
    cache = cached(model)
    tasks = await several(cache, model, 1)
    late = asyncio.create_task(cache.infer(ask(5.0, deadline=time.monotonic() + 0.01)))
    with pytest.raises(DeadlineExceeded, match="'m'"):
        await asyncio.wait_for(late, 60)
    model.go.set()
    assert (await tasks[0]).outputs[0].data.tolist() == [10.0]


async def test_the_firsts_deadline_is_not_the_others():
    """When the first request runs out of time, the next one leads and both of the others are answered."""
    model = Model()
    cache = cached(model)
    tasks = await several(cache, model, 3)
    inner = model.__call__

    async def recover(request):
        model.error = None
        return await inner(request)

    model.error = DeadlineExceeded("late")
    cache._infer = recover
    model.go.set()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(answers[0], DeadlineExceeded)
    assert [answer.id for answer in answers[1:]] == ["1", "2"]
    assert len(model.asked) == 2


def test_an_answer_from_memory_awaits_nothing():
    """A listener that steps the coroutine once has the answer, from a model on the loop and from memory."""

    async def at_once(request):
        return InferenceResponse(model_name="m", outputs=request.inputs, id=request.id)

    cache = cached(at_once)
    for _ in range(2):
        with pytest.raises(StopIteration) as ended:
            cache.infer(ask(1.0)).send(None)
        assert ended.value.value.outputs[0].data.tolist() == [1.0]
    assert (cache.hits, cache.misses) == (1, 1)
