"""taps: what steps are asked and answer is shown to listeners, after the answer and never at its cost."""

import asyncio

import msgspec
import numpy as np
import pytest
import yaml

from headrace.errors import NotFound
from headrace.graph import route, spec
from headrace.graph.run import Pipeline
from headrace.graph.taps import Taps
from headrace.payload import InferenceRequest, InferenceResponse, Tensor


def tensor(name, *values):
    return Tensor(name, "INT32", np.array(values, dtype=np.int32))


async def add_one(request):
    outputs = tuple([Tensor(each.name, each.datatype, each.data + 1) for each in request.inputs])
    return InferenceResponse(model_name=request.model_name, outputs=outputs)


CHAIN = "{steps: [{name: a}, {name: b, inputs: [a]}], output: {steps: [b]}}"


def make(text):
    pipeline = msgspec.convert(yaml.safe_load(text), spec.Pipeline)
    return Pipeline(
        "pipe", pipeline, ask=lambda step: add_one, combiner=None, router=lambda step: route.router(step.route)
    )


async def ask(pipeline, value, **more):
    return await pipeline.infer(InferenceRequest(model_name="pipe", inputs=(tensor("x", value),), **more))


def listener():
    shown = []
    return shown, lambda request_id, reference, tensors: shown.append((request_id, reference, int(tensors[0].data[0])))


async def test_every_place_of_a_pipeline_can_be_listened_to():
    """One request shows each place once, under its id, after the answer."""
    pipeline = make(CHAIN)
    shown, listen = listener()
    for reference in ("inputs", "a.inputs", "a.outputs", "b.inputs", "b.outputs", "outputs"):
        pipeline.taps.subscribe(reference, listen)
    await ask(pipeline, 5, id="7")
    assert shown == []
    await asyncio.sleep(0)
    assert shown == [
        ("7", "inputs", 5), ("7", "a.inputs", 5), ("7", "a.outputs", 6), ("7", "b.inputs", 6), ("7", "b.outputs", 7),
        ("7", "outputs", 7),
    ]  # fmt: skip


async def test_requests_without_an_id_get_one_for_listeners():
    """Each request is told apart, and messages of one share its id."""
    pipeline = make(CHAIN)
    shown, listen = listener()
    pipeline.taps.subscribe("inputs", listen)
    pipeline.taps.subscribe("outputs", listen)
    await ask(pipeline, 1)
    await ask(pipeline, 2)
    await asyncio.sleep(0)
    assert shown[0][0] == shown[1][0] != shown[2][0] == shown[3][0]


async def test_a_listener_that_left_is_shown_nothing():
    """After the last one is gone the pipeline offers nothing, and a chain is a plain loop again."""
    pipeline = make(CHAIN)
    shown, listen = listener()
    pipeline.taps.subscribe("a.outputs", listen)
    assert pipeline.taps.live
    await ask(pipeline, 1)
    pipeline.taps.unsubscribe("a.outputs", listen)
    pipeline.taps.unsubscribe("a.outputs", listen)
    await asyncio.sleep(0)
    assert shown == []
    assert not pipeline.taps.live


def test_a_place_that_is_not_there_is_refused():
    """The text lists what there is."""
    with pytest.raises(NotFound, match=r"nothing to tap at 'c.outputs'; there is a.inputs, a.outputs"):
        make(CHAIN).taps.subscribe("c.outputs", print)


async def test_what_listeners_are_too_slow_for_is_dropped_and_counted():
    """The queue is bounded: offering never waits."""
    taps = Taps("pipe", ["outputs"], depth=10)
    shown, listen = listener()
    taps.subscribe("outputs", listen)
    for number in range(15):
        taps.offer(str(number), "outputs", (tensor("x", number),))
    await asyncio.sleep(0)
    assert (len(shown), taps.dropped) == (10, 5)


async def test_many_messages_are_handed_out_over_several_turns():
    """A full queue does not hold the loop, and order is kept."""
    taps = Taps("pipe", ["outputs"])
    shown, listen = listener()
    taps.subscribe("outputs", listen)
    for number in range(200):
        taps.offer("", "outputs", (tensor("x", number),))
    await asyncio.sleep(0)
    assert 0 < len(shown) < 200
    while len(shown) < 200:
        await asyncio.sleep(0)
    assert [value for _, _, value in shown] == list(range(200))


async def test_a_listener_that_fails_silences_nobody(caplog):
    """Its failure is logged, and the next listener is shown the message."""
    taps = Taps("pipe", ["outputs"])
    shown, listen = listener()

    def broken(request_id, reference, tensors):
        raise ValueError("broken")

    taps.subscribe("outputs", broken)
    taps.subscribe("outputs", listen)
    taps.offer("1", "outputs", (tensor("x", 1),))
    await asyncio.sleep(0)
    assert shown == [("1", "outputs", 1)]
    assert "a listener at 'outputs' failed" in caplog.text


async def test_closing_a_pipeline_silences_its_taps():
    """What still waited to be shown is not shown."""
    pipeline = make(CHAIN)
    shown, listen = listener()
    pipeline.taps.subscribe("outputs", listen)
    await ask(pipeline, 1)
    await pipeline.close()
    await asyncio.sleep(0)
    assert shown == []


async def test_routers_show_what_they_pass_on_and_where_they_stop():
    """A router's inputs are shown for each request; its outputs where it chose no branch."""
    text = """
    steps:
    - {name: r, route: {type: conditions, branches: [{name: big, when: "x > 5"}]}}
    - {name: a, inputs: [r.branches.big]}
    output: {steps: [a]}
    """
    pipeline = make(text)
    shown, listen = listener()
    pipeline.taps.subscribe("r.inputs", listen)
    pipeline.taps.subscribe("r.outputs", listen)
    await ask(pipeline, 9, id="1")
    await ask(pipeline, 1, id="2")
    await asyncio.sleep(0)
    assert shown == [("1", "r.inputs", 9), ("2", "r.inputs", 1), ("2", "r.outputs", 1)]
