"""batch: rows of several requests share a call of a step; each caller gets its own, and answers for its own mistakes."""

import asyncio
import time

import numpy as np
import pytest

from headrace.errors import DeadlineExceeded, InvalidRequest, ModelNotReady, RuntimeFailed
from headrace.graph import spec
from headrace.graph.batch import Gatherer
from headrace.graph.run import Pipeline
from headrace.payload import InferenceRequest, InferenceResponse, Tensor


def tensor(name, *values):
    return Tensor(name, "FP64", np.array(values, dtype=np.float64))


def request(*values, name="x", **more):
    return InferenceRequest(model_name="m", inputs=(tensor(name, *values),), **more)


class Model:
    """Doubles; remembers each call's rows."""

    def __init__(self, refuse=None):
        self.calls, self.refuse = [], refuse
        self.requests = []

    async def infer(self, asked):
        self.requests.append(asked)
        data = asked.inputs[0].data
        self.calls.append(data.tolist())
        if self.refuse is not None and self.refuse in data:
            raise InvalidRequest(f"{self.refuse} is refused")
        outputs = (Tensor("y", "FP64", data * 2), Tensor("drift", "INT64", np.array([len(data)])))
        return InferenceResponse(model_name="m", outputs=outputs, id=asked.id)


def gatherer(model, *, size=4, window_ms=60_000):
    return Gatherer(model.infer, where="step 's'", size=size, window_ms=window_ms)


def rows(response):
    return response.outputs[0].data.tolist()


async def test_rows_of_several_requests_share_a_call():
    """The call goes out when `size` rows have come, and each caller gets its rows, under its id, in order."""
    model = Model()
    gather = gatherer(model)
    answers = await asyncio.gather(
        gather.infer(request(1, id="a")), gather.infer(request(2, 3, id="b")), gather.infer(request(4, id="c"))
    )
    assert model.calls == [[1, 2, 3, 4]]
    assert [(each.id, rows(each)) for each in answers] == [("a", [2]), ("b", [4, 6]), ("c", [8])]
    assert [each.outputs[1].data.tolist() for each in answers] == [[4]] * 3, "a verdict on the batch is everybody's"


async def test_the_window_ends_the_wait():
    """Rows that stay too few are sent when the window has passed."""
    model = Model()
    assert rows(await gatherer(model, window_ms=1).infer(request(1))) == [2]


async def test_requests_that_differ_share_no_call():
    """Names, datatypes, trailing shapes and parameters keep requests apart."""
    model = Model()
    gather = gatherer(model, size=2, window_ms=5)
    wide = InferenceRequest(model_name="m", inputs=(Tensor("x", "FP64", np.zeros((1, 2))),))
    asked = [
        request(1),
        request(2, name="z"),
        request(3, parameters={"k": 1}),
        request(4, parameters={"k": True}),
        wide,
    ]
    await asyncio.gather(*[gather.infer(each) for each in asked])
    assert len(model.calls) == 5


async def test_one_bad_request_fails_alone():
    """When the shared call is refused, each is tried alone, and only the bad one is refused."""
    model = Model(refuse=3.0)
    gather = gatherer(model, size=3)
    first, bad, last = await asyncio.gather(
        *[gather.infer(request(value)) for value in (1, 3, 5)], return_exceptions=True
    )
    assert (rows(first), rows(last)) == ([2], [10])
    assert isinstance(bad, InvalidRequest)


async def test_rows_that_do_not_add_up_fail_everybody():
    """An output of another number of rows is nobody's, unless it is one for all; each alone is tried, and fails too."""

    async def broken(asked):
        return InferenceResponse(model_name="m", outputs=(tensor("y", *range(len(asked.inputs[0].data) + 1)),))

    gather = Gatherer(broken, where="step 's'", size=2)
    one, two = await asyncio.gather(gather.infer(request(1, 2, 3)), gather.infer(request(4)), return_exceptions=True)
    assert len(rows(one)) == 4, "alone, a request has whatever the model answers"
    assert len(rows(two)) == 2


async def test_tensors_of_different_lengths_are_refused():
    """A request whose tensors do not have the same rows is refused before it harms a batch."""
    asked = InferenceRequest(model_name="m", inputs=(tensor("a", 1, 2), tensor("b", 1)))
    with pytest.raises(InvalidRequest, match="one number of rows on dimension 0; found 'a' 2, 'b' 1"):
        await gatherer(Model()).infer(asked)


async def test_a_deadline_ends_the_wait_of_its_request_alone():
    """Who cannot wait leaves; the others are answered."""
    model = Model()
    gather = gatherer(model, size=2)
    with pytest.raises(DeadlineExceeded, match="step 's'"):
        await gather.infer(request(1, deadline=time.monotonic() + 0.002))
    answers = await asyncio.gather(gather.infer(request(2)), gather.infer(request(3)))
    assert [rows(each) for each in answers] == [[4], [6]]
    assert model.calls == [[2, 3]]


async def test_a_caller_who_leaves_takes_its_rows_along():
    """A cancelled request is not in the call that goes out later, and one nobody waits for is ended."""
    model = Model()
    gather = gatherer(model, size=2)
    leaving = asyncio.create_task(gather.infer(request(1)))
    await asyncio.sleep(0)
    leaving.cancel()
    await asyncio.wait([leaving])
    await asyncio.gather(gather.infer(request(2)), gather.infer(request(3)))
    assert model.calls == [[2, 3]]


async def test_a_call_that_nobody_waits_for_is_ended():
    """When every caller has left, the shared call is cancelled."""
    begun, ended = asyncio.Event(), asyncio.Event()

    async def never(asked):
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    gather = Gatherer(never, where="step 's'", size=2)
    tasks = [asyncio.create_task(gather.infer(request(value))) for value in (1, 2)]
    await begun.wait()
    for task in tasks:
        task.cancel()
    await asyncio.wait_for(ended.wait(), 60)
    await asyncio.wait(tasks)
    await gather.close()


async def test_the_shared_call_has_the_latest_deadline_and_common_headers():
    """What the model sees beside rows is what all its callers have."""
    model = Model()
    gather = gatherer(model, size=2)
    soon, late = time.monotonic() + 50, time.monotonic() + 100
    await asyncio.gather(
        gather.infer(request(1, deadline=soon, headers={"x-a": "1", "x-b": "1"})),
        gather.infer(request(2, deadline=late, headers={"x-a": "1", "x-b": "2"})),
    )
    assert (model.requests[0].deadline, dict(model.requests[0].headers)) == (late, {"x-a": "1"})


async def test_a_step_of_a_pipeline_gathers_over_requests():
    """Concurrent requests to a pipeline meet in its step with `batch`."""
    model = Model()
    pipeline = spec.Pipeline(steps=(spec.Step(name="s", batch=spec.Batch(size=3, window_ms=60_000)),))
    made = Pipeline("p", pipeline, ask=lambda step: model.infer, combiner=None, router=None)
    answers = await asyncio.gather(*[made.infer(request(value)) for value in (1, 2, 3)])
    assert [rows(each) for each in answers] == [[2], [4], [6]]
    assert model.calls == [[1, 2, 3]]
    await made.close()


async def test_closing_ends_what_waits():
    """Nobody waits for a batch that will never be, or for a call that is given up."""

    async def never(asked):
        await asyncio.Event().wait()

    gather = Gatherer(never, where="step 's'", size=2)
    waiting = [asyncio.create_task(gather.infer(request(value))) for value in (1, 2, 3)]
    for _ in range(3):
        await asyncio.sleep(0)
    await gather.close()
    found = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(each) for each in found] == [ModelNotReady] * 3


async def test_a_failure_of_the_model_is_everybodys():
    """An error that no caller can have caused reaches all who shared the call, after one call."""
    calls = []

    async def broken(asked):
        calls.append(asked)
        raise ConnectionResetError("gone")

    gather = Gatherer(broken, where="step 's'", size=2)
    found = await asyncio.gather(gather.infer(request(1)), gather.infer(request(2)), return_exceptions=True)
    assert [type(each) for each in found] == [ConnectionResetError] * 2
    assert len(calls) == 1
    assert not isinstance(found[0], RuntimeFailed)
