"""run, flow: pipelines with cycles. A step on a cycle runs again for each arrival, within a bound, and the rest of the
pipeline learns when a cycle is over.
"""

import asyncio

import msgspec
import numpy as np
import pytest
import yaml

from headrace.errors import InvalidRequest, RuntimeFailed
from headrace.graph import check, spec
from headrace.graph.run import Pipeline
from headrace.payload import InferenceRequest, InferenceResponse, Tensor


def tensor(name, *values):
    return Tensor(name, "INT32", np.array(values, dtype=np.int32))


def answer(request, outputs):
    return InferenceResponse(model_name=request.model_name, outputs=tuple(outputs), id=request.id)


def counter(until, *, wait=0):
    """Seldon's counter: adds one, and says whether to go on or to stop."""
    seen = []

    async def infer(request):
        for _ in range(wait):
            await asyncio.sleep(0)
        (given,) = request.inputs
        value = int(given.data[0]) + 1
        seen.append(value)
        return answer(request, [tensor("output", value), tensor("continue" if value < until else "stop", 1)])

    infer.seen = seen
    return infer


async def identity(request):
    return answer(request, [Tensor("output", each.datatype, each.data) for each in request.inputs])


def make(text, models):
    pipeline = msgspec.convert(yaml.safe_load(text), spec.Pipeline)
    assert check.faults("counter-pipeline", pipeline) == []
    return Pipeline("counter-pipeline", pipeline, ask=lambda step: models[step.name], combiner=None, router=None)


async def run(pipeline, *tensors):
    request = InferenceRequest(model_name="counter-pipeline", inputs=tensors)
    response = await asyncio.wait_for(pipeline.infer(request), 60)
    await pipeline.close()
    return {each.name: each.data.tolist() for each in response.outputs}


COUNTER = """
allowCycles: true
maxStepRevisits: REVISITS
steps:
- name: counter
  inputsJoinType: any
  inputs: [counter-pipeline.inputs, identity-loop.outputs.output]
  tensorMap: {counter-pipeline.inputs.counter: input, identity-loop.outputs.output: input}
- name: identity-output
  joinWindowMs: 1
  inputs: [counter.outputs.output]
  triggers: [counter.outputs.stop]
- name: identity-loop
  joinWindowMs: 1
  inputs: [counter.outputs.output]
  triggers: [counter.outputs.continue]
output: {steps: [identity-output.outputs]}
"""


@pytest.mark.parametrize("wait", [0, 3], ids=["at once", "waiting"])
async def test_seldons_counter_counts_to_its_end(wait):
    """The documented example goes round until the counter says stop, with no sleep to dodge joins."""
    model = counter(10, wait=wait)
    pipeline = make(
        COUNTER.replace("REVISITS", "100"), {"counter": model, "identity-output": identity, "identity-loop": identity}
    )
    assert await run(pipeline, tensor("counter", 0)) == {"output": [10]}
    assert model.seen == list(range(1, 11))


@pytest.mark.parametrize("revisits", [1, 5])
async def test_a_step_may_run_again_so_often_and_no_more(revisits):
    """One run and `maxStepRevisits` more; then the request fails in Seldon's words."""
    model = counter(1000)
    pipeline = make(
        COUNTER.replace("REVISITS", str(revisits)),
        {"counter": model, "identity-output": identity, "identity-loop": identity},
    )
    with pytest.raises(RuntimeFailed, match=rf"Max step revisits \({revisits}\) exceeded"):
        await run(pipeline, tensor("counter", 0))
    assert len(model.seen) == revisits + 1


async def test_a_cycle_that_ends_without_the_wanted_tensor_is_told_at_once():
    """When nothing on the cycle runs any more, the output knows that nothing can come, and waits for no window."""

    async def silent(request):
        return answer(request, [tensor("output", 1)])

    pipeline = make(
        COUNTER.replace("REVISITS", "9"), {"counter": silent, "identity-output": identity, "identity-loop": identity}
    )
    with pytest.raises(RuntimeFailed, match="takes tensor stop of step 'counter', which gave output"):
        await run(pipeline, tensor("counter", 0))


async def test_a_cycle_that_nothing_enters_is_over_at_once():
    """A request without the tensor that enters the cycle gets its error, not a wait."""
    text = COUNTER.replace("REVISITS", "9").replace("[counter-pipeline.inputs,", "[counter-pipeline.inputs.counter,")
    pipeline = make(text, {"counter": counter(3), "identity-output": identity, "identity-loop": identity})
    with pytest.raises(InvalidRequest, match="takes tensor counter of the request, which has other"):
        await run(pipeline, tensor("other", 0))


async def test_a_join_on_a_cycle_pairs_what_belongs_together():
    """A join of two steps on a cycle waits for both of the same round, though one of them is slower; what came from
    outside the cycle is there in every round.
    """
    text = """
    allowCycles: true
    maxStepRevisits: 10
    steps:
    - {name: counter, inputsJoinType: any, inputs: [counter-pipeline.inputs.counter, join.outputs.output]}
    - {name: fast, inputs: [counter.outputs.output], triggers: [counter.outputs.continue], tensorMap: {counter.outputs.output: a}}
    - {name: slow, inputs: [counter.outputs.output], triggers: [counter.outputs.continue], tensorMap: {counter.outputs.output: a}}
    - name: join
      inputs: [fast, slow, counter-pipeline.inputs.step]
      tensorMap: {fast.outputs.output: f, slow.outputs.output: s}
    output: {steps: [counter.outputs.output, counter.outputs.stop]}
    """.replace("steps: [counter.outputs.output, counter.outputs.stop]", "steps: [last]").replace(
        "    output:",
        "    - {name: last, inputs: [counter.outputs.output], triggers: [counter.outputs.stop]}\n    output:",
    )
    rounds = []

    async def join(request):
        values = {each.name: int(each.data[0]) for each in request.inputs}
        rounds.append((values["f"], values["s"], values["step"]))
        return answer(request, [tensor("output", values["f"])])

    async def slow(request):
        await asyncio.sleep(0.001)
        return await identity(request)

    model = counter(4)
    pipeline = make(text, {"counter": model, "fast": identity, "slow": slow, "join": join, "last": identity})
    assert await run(pipeline, tensor("counter", 0), tensor("step", 7)) == {"output": [4]}
    assert rounds == [(1, 1, 7), (2, 2, 7), (3, 3, 7)]


async def test_an_outer_join_after_a_cycle_goes_on_when_the_cycle_is_over():
    """What can still come out of a cycle is waited for, and what cannot is not."""
    text = (
        COUNTER.replace("REVISITS", "9")
        .replace(
            "output: {steps: [identity-output.outputs]}",
            "output: {steps: [identity-output, never.outputs.output, counter-pipeline.inputs.counter], stepsJoin: outer}",
        )
        .replace("output: {", "- {name: never, inputs: [counter.outputs.error]}\noutput: {")
    )
    models = {"counter": counter(3, wait=2), "identity-output": identity, "identity-loop": identity, "never": identity}
    assert await run(make(text, models), tensor("counter", 0)) == {"output": [3], "counter": [0]}


async def test_a_step_that_is_its_own_giver_goes_round():
    """A cycle of one step is a cycle."""
    text = """
    allowCycles: true
    maxStepRevisits: 50
    steps:
    - name: counter
      inputs: [counter-pipeline.inputs.counter, counter.outputs.next]
      inputsJoinType: any
    - {name: last, inputs: [counter.outputs.stop]}
    output: {steps: [last]}
    """

    async def count(request):
        value = int(request.inputs[0].data[0]) + 1
        return answer(request, [tensor("next" if value < 5 else "stop", value)])

    assert await run(make(text, {"counter": count, "last": identity}), tensor("counter", 0)) == {"output": [5]}


async def test_a_cycle_that_never_waits_lets_others_have_their_turn():
    """An answer from a step that waits is given though a cycle beside it could go on and on."""
    text = COUNTER.replace("REVISITS", "1000000").replace(
        "identity-output.outputs]", "identity-output, aside], stepsJoin: any"
    )
    text = text.replace("output: {", "- {name: aside}\noutput: {")

    async def aside(request):
        await asyncio.sleep(0)
        return answer(request, [tensor("here", 1)])

    endless = counter(10**9)
    models = {"counter": endless, "identity-output": identity, "identity-loop": identity, "aside": aside}
    pipeline = make(text, models)
    for _ in range(2):  # the second time it is known what waits
        response = await pipeline.infer(InferenceRequest(model_name="counter-pipeline", inputs=(tensor("counter", 0),)))
        assert [each.name for each in response.outputs] == ["here"]
    await pipeline.close()
    assert len(endless.seen) < 1000


async def test_a_cycle_off_the_path_neither_holds_the_loop_nor_outlives_the_pipeline():
    """It goes on beside others after the answer, and ends when the pipeline is closed."""
    text = COUNTER.replace("REVISITS", "100000000").replace("identity-output.outputs]", "aside]")
    text = text.replace("output: {", "- {name: aside}\noutput: {")
    endless = counter(10**9)
    models = {"counter": endless, "identity-output": identity, "identity-loop": identity, "aside": identity}
    assert await run(make(text, models), tensor("counter", 0)) == {"output": [0]}
    assert len(endless.seen) < 1000


async def test_an_input_and_a_trigger_from_one_step_are_of_one_message():
    """What a step on a cycle gave in one round is not joined with what it gave in another."""
    text = """
    allowCycles: true
    maxStepRevisits: 20
    steps:
    - {name: counter, inputsJoinType: any, inputs: [counter-pipeline.inputs.counter, counter.outputs.next]}
    - {name: last, inputs: [counter.outputs.even], triggers: [counter.outputs.big]}
    output: {steps: [last]}
    """

    async def count(request):
        value = int(request.inputs[0].data[0]) + 1
        given = [tensor("next", value)]
        given += [tensor("even", value)] if value % 2 == 0 else []
        given += [tensor("big", value)] if value >= 3 else []
        return answer(request, given)

    assert await run(make(text, {"counter": count, "last": identity}), tensor("counter", 0)) == {"output": [4]}
