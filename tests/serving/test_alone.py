"""Whole requests on the loop, each in its caller's own task."""

from __future__ import annotations

import asyncio
import time

import pytest

from headrace.errors import DeadlineExceeded, ModelNotReady, Overloaded, RuntimeFailed
from headrace.payload import InferenceRequest, InferenceResponse, Signature
from headrace.runtimes.base import Runtime, Source
from headrace.server import eager
from headrace.serving.alone import Alone
from headrace.serving.execution import Execution
from headrace.serving.observer import Silent


class Model(Runtime):
    whole = True
    is_async = True

    def __init__(self, body):
        super().__init__(Source(model=body))
        self.body = body

    @classmethod
    def recognise(cls, path):
        return None

    def load(self):
        return Signature(platform="test", strict=False, batchable=False)

    def predict(self, inputs, outputs=(), parameters=None):
        raise AssertionError("whole requests only")

    async def answer(self, request):
        await self.body(request)
        return InferenceResponse(model_name="", outputs=())


def alone(body, depth=8):
    runtime = Model(body)
    return Alone("m", "1", Execution("m", runtime, runtime.load()), Silent(), depth=depth)


def asked(seconds=None):
    deadline = None if seconds is None else time.monotonic() + seconds
    return InferenceRequest(model_name="m", inputs=(), id="7", deadline=deadline)


async def test_the_models_code_has_a_task_where_its_caller_had_none():
    """Code that needs a task of its own, as asyncio.timeout does, runs in one though a listener steps its caller."""
    tasks = []

    async def body(request):
        async with asyncio.timeout(5):
            tasks.append(asyncio.current_task())

    loop = asyncio.get_running_loop()
    stepped = loop.create_future()
    loop.call_soon(lambda: stepped.set_result(eager.start(alone(body).infer(asked()), loop)))  # as a listener does
    task = await stepped
    response = await task
    assert tasks == [task]
    assert (response.model_name, response.model_version, response.id) == ("m", "1", "7")


async def test_a_deadline_cancels_the_models_code_and_no_other():
    """The request whose deadline passes is told so and its code is cancelled; its neighbour is answered."""
    ends = []

    async def body(request):
        try:
            await asyncio.sleep(0.3)
        except asyncio.CancelledError:
            ends.append("cancelled")
            raise
        ends.append("done")

    model = alone(body)
    late, good = await asyncio.gather(model.infer(asked(0.05)), model.infer(asked(30)), return_exceptions=True)
    assert isinstance(late, DeadlineExceeded)
    assert isinstance(good, InferenceResponse)
    assert ends == ["cancelled", "done"]
    with pytest.raises(DeadlineExceeded, match="before predict"):
        await model.infer(asked(-1))


async def test_code_that_will_not_be_cancelled_leaves_its_callers_task_usable():
    """A model that swallows the cancellation answers late, and whoever asked can wait again."""

    async def body(request):
        try:
            await asyncio.sleep(5)
        except asyncio.CancelledError:
            return

    async def caller():
        await alone(body).infer(asked(0.02))
        assert asyncio.current_task().cancelling() == 0
        await asyncio.sleep(0)
        return "waited"

    assert await asyncio.create_task(caller()) == "waited"


async def test_a_caller_who_leaves_takes_the_models_code_along():
    """Cancelling the caller cancels what it asked for, and is no failure of the model's."""
    ends = asyncio.Event()

    async def body(request):
        try:
            await asyncio.sleep(30)
        finally:
            ends.set()

    task = asyncio.create_task(alone(body).infer(asked()))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ends.is_set()


async def test_a_model_that_cancels_itself_has_failed():
    """A CancelledError of the model's own making is its failure, not its caller's departure."""

    async def body(request):
        raise asyncio.CancelledError

    with pytest.raises(RuntimeFailed, match="was cancelled"):
        await alone(body).infer(asked())


async def test_no_more_run_than_the_bound():
    """One more request than may run is Overloaded; when one has ended, the next is taken."""
    go = asyncio.Event()
    model = alone(lambda request: go.wait(), depth=2)
    first = [asyncio.create_task(model.infer(asked())) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded, match="max_queue_size 2"):
        await model.infer(asked())
    go.set()
    await asyncio.gather(*first)
    await model.infer(asked())


async def test_closing_waits_first_and_then_says_why():
    """`drained` waits for what runs; who still runs at the close is told that the model is not ready."""
    go = asyncio.Event()
    model = alone(lambda request: go.wait())
    running = asyncio.create_task(model.infer(asked()))
    await asyncio.sleep(0)
    drained = asyncio.create_task(model.drained())
    await asyncio.sleep(0.01)
    assert not drained.done()
    model.close("it was unloaded")
    with pytest.raises(ModelNotReady, match="it was unloaded"):
        await running
    await asyncio.wait_for(drained, 60)
    with pytest.raises(ModelNotReady):
        await model.infer(asked())
