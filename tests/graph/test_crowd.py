"""Requests that come together go through a chain together, and each is answered as if it had been alone."""

from __future__ import annotations

import asyncio

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import InvalidRequest
from headrace.graph.run import Pipeline
from headrace.graph.spec import Output, Step
from headrace.graph.spec import Pipeline as Spec
from headrace.payload import InferenceRequest, InferenceResponse, Signature, Tensor, TensorSpec

CHAIN = Spec(steps=(Step(name="double"), Step(name="inverse", inputs=("double",))), output=Output(steps=("inverse",)))


class Steps:
    """Two models of one input each, which note how many rows each call had."""

    def __init__(self):
        self.rows = []
        self.summed = False

    async def double(self, request):
        (tensor,) = request.inputs
        self.rows.append(len(tensor.data))
        if (tensor.data == 13).any():
            raise InvalidRequest("13 is not for me")
        data = tensor.data.sum(0, keepdims=True) if self.summed else 2 * tensor.data
        return answer(request, data)

    async def inverse(self, request):
        (tensor,) = request.inputs
        return answer(request, -tensor.data)

    def ask(self, step):
        return getattr(self, step.name)


def answer(request, data):
    tensor = msgspec.structs.replace(request.inputs[0], data=data)
    return InferenceResponse(model_name="m", outputs=(tensor,), id=request.id)


def pipeline(steps, *, batchable=True):
    made = Pipeline("p", CHAIN, ask=steps.ask, combiner=None, router=None)
    made.signature(lambda step: Signature(platform="test", batchable=batchable))
    return made


def asking(value, rows=1, number=0, **fields):
    tensor = Tensor("x", "FP64", np.full((rows, 2), float(value)))
    return InferenceRequest(model_name="p", inputs=(tensor,), id=f"r{number}", **fields)


@given(st.lists(st.tuples(st.integers(-9, 9), st.integers(1, 4)), min_size=1, max_size=40))
async def test_each_gets_its_own_rows(sizes):
    """Whatever number of requests of whatever rows come at once, each has its own id, rows and values back."""
    steps = Steps()
    made = pipeline(steps)
    asked = [asking(value, rows, number) for number, (value, rows) in enumerate(sizes)]
    for request, response in zip(asked, await asyncio.gather(*map(made.infer, asked)), strict=True):
        np.testing.assert_array_equal(response.outputs[0].data, -2 * request.inputs[0].data)
        assert (response.id, response.model_name) == (request.id, "p")
    assert sum(steps.rows) == sum(rows for _, rows in sizes)


async def test_those_that_come_together_are_one_call():
    """Sixteen at once are two calls of each step: the first of them alone, the others together; each is counted."""
    steps = Steps()
    made = pipeline(steps)
    await asyncio.gather(*(made.infer(asking(1, number=number)) for number in range(16)))
    assert steps.rows == [1, 15]
    assert made.steps()["double"].requests == 16


@pytest.mark.parametrize("fields", [{"parameters": {"a": 1}}, {"headers": {"x-request-id": "7"}}])
async def test_a_request_with_something_of_its_own_goes_alone(fields):
    """Parameters and headers that flow to the steps are one request's."""
    steps = Steps()
    made = pipeline(steps)
    await asyncio.gather(*(made.infer(asking(1, **fields)) for _ in range(4)))
    assert steps.rows == [1, 1, 1, 1]


async def test_steps_that_cannot_be_batched_are_asked_one_by_one():
    """A chain with such a step merges nothing."""
    steps = Steps()
    made = pipeline(steps, batchable=False)
    await asyncio.gather(*(made.infer(asking(1)) for _ in range(4)))
    assert steps.rows == [1, 1, 1, 1]


async def test_one_bad_request_fails_alone():
    """The others are answered, and the bad one is told what is wrong with it."""
    made = pipeline(Steps())
    values = [1, 2, 13, 4]
    found = await asyncio.gather(*(made.infer(asking(value)) for value in values), return_exceptions=True)
    assert [isinstance(each, InvalidRequest) for each in found] == [False, False, True, False]
    assert "pipeline 'p' step 'double'" in str(found[2])
    assert found[3].outputs[0].data[0, 0] == -8


async def test_a_step_whose_rows_are_not_the_callers_is_noticed():
    """Where rows in are not rows out, each is asked alone, from then on at once."""
    steps = Steps()
    steps.summed = True
    made = pipeline(steps)
    found = await asyncio.gather(*(made.infer(asking(value, rows=2)) for value in range(5)))
    assert [each.outputs[0].data[0, 0] for each in found] == [-2.0 * value for value in range(5)]
    steps.rows.clear()
    await asyncio.gather(*(made.infer(asking(1, rows=2)) for _ in range(3)))
    assert steps.rows == [2, 2, 2]


async def test_a_caller_who_leaves_spoils_nothing():
    """The others of the same turn are answered; nothing is left running."""
    made = pipeline(Steps())
    tasks = [asyncio.create_task(made.infer(asking(value))) for value in range(4)]
    await asyncio.sleep(0)
    tasks[2].cancel()
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert [isinstance(each, asyncio.CancelledError) for each in found] == [False, False, True, False]
    assert len(asyncio.all_tasks()) == 1


async def test_one_tensor_for_a_step_of_one_input_is_that_one():
    """A step is asked by the name of its only input, whatever the step before calls its answer; the request is not."""
    names = []

    class Named(Steps):
        async def double(self, request):
            names.append(request.inputs[0].name)
            return await super().double(request)

        async def inverse(self, request):
            names.append(request.inputs[0].name)
            return await super().inverse(request)

    made = Pipeline("p", CHAIN, ask=Named().ask, combiner=None, router=None)
    lone = TensorSpec(name="features", datatype="FP64", shape=(-1, 2))
    made.signature(lambda step: Signature(platform="test", inputs=(lone,), batchable=False))
    await made.infer(asking(1))
    assert names == ["x", "features"]
