"""external: pipelines fed by others, in the shapes of Seldon Core v2's pipeline-to-pipeline samples."""

import asyncio

import msgspec
import numpy as np
import pytest
import yaml

from headrace.graph import spec
from headrace.graph.external import Feed
from headrace.graph.run import Pipeline
from headrace.payload import InferenceRequest, InferenceResponse, Tensor


def tensor(name, *values):
    return Tensor(name, "INT32", np.array(values, dtype=np.int32))


async def add_one(request):
    outputs = tuple([Tensor(each.name, each.datatype, each.data + 1) for each in request.inputs])
    return InferenceResponse(model_name=request.model_name, outputs=outputs)


class World:
    """Pipelines that find each other, and what the last one was asked."""

    def __init__(self, outside, **options):
        self.pipelines = {name: self.made(name) for name in ("one", "two")}
        self.asked = []
        self.came = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()
        fed = msgspec.convert(yaml.safe_load(outside), spec.Input)
        self.feed = Feed("fed", fed, infer=self.infer, find=self.find, **options)
        self.feed.refresh()

    @staticmethod
    def made(name):
        pipeline = spec.Pipeline(steps=(spec.Step(name="s"),))
        return Pipeline(name, pipeline, ask=lambda step: add_one, combiner=None, router=None)

    def find(self, name):
        return self.pipelines[name].taps if name in self.pipelines else None

    async def infer(self, request):
        self.asked.append((request.id, {each.name: int(each.data[0]) for each in request.inputs}))
        self.came.set()
        await self.gate.wait()
        return InferenceResponse(model_name="fed", outputs=())

    async def ask(self, name, request_id, *tensors):
        await self.pipelines[name].infer(InferenceRequest(model_name=name, inputs=tensors, id=request_id))

    async def settled(self):
        for _ in range(5):
            await asyncio.sleep(0)
        return self.asked

    async def close(self):
        await self.feed.close()
        assert not any(pipeline.taps.live for pipeline in self.pipelines.values())
        assert len(asyncio.all_tasks()) == 1


async def test_a_pipeline_runs_on_what_another_answers():
    """`tfsimple-extended`: each answer of the other, renamed, is a request of this one under the same id."""
    world = World("{externalInputs: [one.outputs.x], tensorMap: {one.outputs.x: INPUT}}")
    await world.ask("one", "7", tensor("x", 1), tensor("y", 5))
    await world.ask("two", "8", tensor("x", 1))
    assert await world.settled() == [("7", {"INPUT": 2})]
    assert world.feed.counts().requests == 1
    await world.close()


async def test_a_pipeline_runs_on_what_a_step_of_another_is_asked():
    """`other.step.STEP.inputs` is what that step got."""
    world = World("{externalInputs: [one.step.s.inputs]}")
    await world.ask("one", "7", tensor("x", 1))
    assert await world.settled() == [("7", {"x": 1})]
    await world.close()


async def test_messages_of_one_request_are_joined():
    """`inner`: both others must have answered the same request; what two requests gave does not mix."""
    world = World("{externalInputs: [one.outputs.x, two.outputs.x], tensorMap: {two.outputs.x: y}}")
    await world.ask("one", "7", tensor("x", 1))
    await world.ask("two", "8", tensor("x", 2))
    assert await world.settled() == []
    await world.ask("two", "7", tensor("x", 3))
    assert await world.settled() == [("7", {"x": 2, "y": 4})]
    await world.close()


async def test_any_runs_on_each_that_comes():
    """Each of several others makes a request of its own."""
    world = World("{externalInputs: [one.outputs, two.outputs], joinType: any}")
    await world.ask("one", "7", tensor("x", 1))
    await world.ask("two", "7", tensor("x", 3))
    assert await world.settled() == [("7", {"x": 2}), ("7", {"x": 4})]
    await world.close()


async def test_outer_goes_on_when_its_window_has_passed():
    """What came within the window is what the pipeline runs on."""
    world = World("{externalInputs: [one.outputs, two.outputs], joinType: outer, joinWindowMs: 2}")
    await world.ask("one", "7", tensor("x", 1))
    await asyncio.wait_for(world.came.wait(), 60)
    assert world.asked == [("7", {"x": 2})]
    await world.close()


@pytest.mark.parametrize(("join", "needed"), [("inner", 2), ("any", 1)])
async def test_triggers_must_have_come(join, needed):
    """The data of triggers is not passed, and their join says how many there must be."""
    outside = (
        f"{{externalInputs: [one.inputs], externalTriggers: [two.inputs, two.outputs.x], triggersJoinType: {join}}}"
    )
    world = World(outside)
    await world.ask("one", "7", tensor("x", 1))
    assert await world.settled() == []
    world.pipelines["two"].taps.offer("7", "inputs", (tensor("x", 0),))
    assert len(await world.settled()) == (needed == 1)
    if needed == 2:
        world.pipelines["two"].taps.offer("7", "outputs", (tensor("x", 0),))
    assert await world.settled() == [("7", {"x": 1})]
    await world.close()


async def test_a_pipeline_that_comes_later_or_anew_is_heard_after_a_refresh():
    """What is missing is listed; a new pipeline of the same name is heard in place of the old one."""
    world = World("{externalInputs: [three.outputs]}")
    assert world.feed.missing == ("three.outputs",)
    world.pipelines["three"] = world.made("three")
    world.feed.refresh()
    assert world.feed.missing == ()
    old = world.pipelines["three"]
    world.pipelines["three"] = world.made("three")
    world.feed.refresh()
    assert not old.taps.live
    await world.ask("three", "7", tensor("x", 1))
    assert await world.settled() == [("7", {"x": 2})]
    del world.pipelines["three"]
    world.feed.refresh()
    assert world.feed.missing == ("three.outputs",)
    await world.close()


async def test_runs_are_bounded_and_the_rest_is_dropped_and_counted():
    """So many at once, so many waiting, and no more."""
    world = World("{externalInputs: [one.outputs]}", concurrency=2, depth=3)
    world.gate.clear()
    for number in range(8):
        await world.ask("one", str(number), tensor("x", number))
        await world.settled()
    assert [request_id for request_id, _ in world.asked] == ["0", "1"]
    world.gate.set()
    assert [request_id for request_id, _ in await world.settled()] == ["0", "1", "2", "3", "4"]
    assert world.feed.counts().dropped == 3
    await world.close()
