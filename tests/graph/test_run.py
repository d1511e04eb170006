"""run: requests through whole pipelines made of small real Infers, in the shapes of Seldon Core v2's published samples
and in those of our own step kinds. Left out: cycles (test_cycles), batches (test_batch), taps (test_taps).
"""

import asyncio
import contextlib
import gc
import time

import msgspec
import numpy as np
import pytest
import yaml

from headrace.errors import DeadlineExceeded, HeadraceError, InvalidRequest, ModelNotReady, Overloaded, RuntimeFailed
from headrace.graph import check, combine, route, spec
from headrace.graph.run import Pipeline
from headrace.payload import InferenceRequest, InferenceResponse, RequestedOutput, Signature, Tensor, TensorSpec


def tensor(name, *values):
    return Tensor(name, "FP64", np.array(values, dtype=np.float64))


def answer(request, outputs, **more):
    return InferenceResponse(model_name=request.model_name, outputs=tuple(outputs), id=request.id, **more)


def function(compute, *, wait=0):
    """An Infer that applies a function of arrays by name; `wait` turns of the loop go by first."""

    async def infer(request):
        for _ in range(wait):
            await asyncio.sleep(0)
        results = compute({each.name: each.data for each in request.inputs})
        return answer(request, [Tensor(name, "FP64", np.asarray(data)) for name, data in results.items()])

    return infer


def tfsimple(wait=0):
    """Triton's `simple`: sum and difference of its two inputs."""
    return function(lambda x: {"OUTPUT0": x["INPUT0"] + x["INPUT1"], "OUTPUT1": x["INPUT0"] - x["INPUT1"]}, wait=wait)


MUL10 = function(lambda x: {"OUTPUT": x["INPUT"] * 10})
ADD10 = function(lambda x: {"OUTPUT": x["INPUT"] + 10})


def make(text, models, *, name="pipe", **options):
    pipeline = msgspec.convert(yaml.safe_load(text), spec.Pipeline)
    assert check.faults(name, pipeline) == []
    return Pipeline(
        name,
        pipeline,
        ask=lambda step: models[step.pipeline or step.model or step.name],
        combiner=lambda step: combine.combiner(step.combine),
        router=lambda step: route.router(step.route),
        **options,
    )


def request(*tensors, **more):
    return InferenceRequest(model_name="pipe", inputs=tensors, **more)


async def run(pipeline, *tensors, **more):
    response = await pipeline.infer(request(*tensors, **more))
    return {each.name: each.data.tolist() for each in response.outputs}


TWO = (tensor("INPUT0", 5, 6), tensor("INPUT1", 1, 2))


# -- Seldon's samples --


async def test_a_chain_passes_mapped_tensors_on():
    """`tfsimples`: the second model sees the first's outputs by the names of its own inputs."""
    pipeline = make(
        """
        steps:
        - name: tfsimple1
        - name: tfsimple2
          inputs: [tfsimple1]
          tensorMap: {tfsimple1.outputs.OUTPUT0: INPUT0, tfsimple1.outputs.OUTPUT1: INPUT1}
        output: {steps: [tfsimple2]}
        """,
        {"tfsimple1": tfsimple(), "tfsimple2": tfsimple()},
    )
    assert "chain" in repr(pipeline)
    assert await run(pipeline, *TWO) == {"OUTPUT0": [10, 12], "OUTPUT1": [2, 4]}


async def test_a_step_may_take_what_another_was_asked():
    """`tfsimples-input`: one tensor from a step's inputs and one from its outputs are joined."""
    pipeline = make(
        """
        steps:
        - name: tfsimple1
        - name: tfsimple2
          inputs: [tfsimple1.inputs.INPUT0, tfsimple1.outputs.OUTPUT1]
          tensorMap: {tfsimple1.outputs.OUTPUT1: INPUT1}
        output: {steps: [tfsimple2]}
        """,
        {"tfsimple1": tfsimple(), "tfsimple2": tfsimple()},
    )
    assert await run(pipeline, *TWO) == {"OUTPUT0": [9, 10], "OUTPUT1": [1, 2]}


async def test_a_join_takes_one_tensor_of_each_model():
    """`join`: two models run on the request, a third on one output of each."""
    pipeline = make(
        """
        steps:
        - name: tfsimple1
        - name: tfsimple2
        - name: tfsimple3
          inputs: [tfsimple1.outputs.OUTPUT0, tfsimple2.outputs.OUTPUT1]
          tensorMap: {tfsimple1.outputs.OUTPUT0: INPUT0, tfsimple2.outputs.OUTPUT1: INPUT1}
        output: {steps: [tfsimple3]}
        """,
        {"tfsimple1": tfsimple(wait=3), "tfsimple2": tfsimple(), "tfsimple3": tfsimple()},
    )
    assert await run(pipeline, *TWO) == {"OUTPUT0": [10, 12], "OUTPUT1": [2, 4]}


CONDITIONAL = """
steps:
- name: conditional
- name: mul10
  inputs: [conditional.outputs.OUTPUT0]
  tensorMap: {conditional.outputs.OUTPUT0: INPUT}
- name: add10
  inputs: [conditional.outputs.OUTPUT1]
  tensorMap: {conditional.outputs.OUTPUT1: INPUT}
output: {steps: [mul10, add10], stepsJoin: JOIN}
"""


@pytest.mark.parametrize("join", ["any", "outer", "last"])
@pytest.mark.parametrize(("choice", "expected"), [(0, [20]), (1, [12])])
async def test_a_branch_is_taken_by_the_tensor_that_is_there(join, choice, expected):
    """`tfsimple-conditional`: the branch whose tensor is absent is dead at once, whatever the output's join."""
    models = {
        "conditional": function(lambda x: {f"OUTPUT{int(x['CHOICE'][0])}": x["INPUT"]}),
        "mul10": MUL10,
        "add10": ADD10,
    }
    pipeline = make(CONDITIONAL.replace("JOIN", join), models)
    started = time.monotonic()
    assert await run(pipeline, tensor("CHOICE", choice), tensor("INPUT", 2)) == {"OUTPUT": expected}
    assert time.monotonic() - started < 10, "a window was waited for"
    assert pipeline.steps()["add10" if choice == 0 else "mul10"].requests == 0


TRIGGERS = """
steps:
- name: mul10
  inputs: [pipe.inputs.INPUT]
  triggers: [pipe.inputs.ok1, pipe.inputs.ok2]
  triggersJoinType: any
- name: add10
  inputs: [pipe.inputs.INPUT]
  triggers: [pipe.inputs.ok3]
output: {steps: [mul10, add10], stepsJoin: any}
"""


@pytest.mark.parametrize(("trigger", "expected"), [("ok1", [20]), ("ok2", [20]), ("ok3", [12])])
async def test_a_trigger_lets_a_step_run_and_passes_no_data(trigger, expected):
    """`trigger-joins`: the model gets its input without the tensor that triggered it."""
    pipeline = make(TRIGGERS, {"mul10": MUL10, "add10": ADD10})
    assert await run(pipeline, tensor("INPUT", 2), tensor(trigger, 1)) == {"OUTPUT": expected}


async def test_without_any_trigger_the_request_is_to_blame():
    """A request whose tensors let no step run is told which tensors were looked for and which it has."""
    pipeline = make(TRIGGERS, {"mul10": MUL10, "add10": ADD10})
    with pytest.raises(InvalidRequest, match=r"step 'add10' takes tensor ok3 of the request, which has INPUT"):
        await run(pipeline, tensor("INPUT", 2))


async def test_a_pipeline_of_one_step_needs_no_output():
    """Its one step is what it answers."""
    assert await run(make("steps: [{name: mul10}]", {"mul10": MUL10}), tensor("INPUT", 1)) == {"OUTPUT": [10]}


async def test_a_pipeline_is_a_step_of_another():
    """A step with `pipeline` asks it as it would ask a model."""
    inner = make("steps: [{name: mul10}]", {"mul10": MUL10}, name="inner")
    outer = make(
        """
        steps:
        - {name: first, pipeline: inner}
        - {name: add10, inputs: [first], tensorMap: {first.outputs.OUTPUT: INPUT}}
        output: {steps: [add10], tensorMap: {add10.outputs.OUTPUT: answer}}
        """,
        {"inner": inner.infer, "add10": ADD10},
    )
    assert await run(outer, tensor("INPUT", 1)) == {"answer": [20]}


# -- joins --


def late(event):
    """An Infer that answers when told to."""

    async def infer(request):
        await event.wait()
        return answer(request, [tensor("late", 1)])

    return infer


async def test_an_any_join_answers_with_the_first_and_ends_the_rest():
    """The branch that nobody needs any more is cancelled, and its task ends."""
    cancelled = asyncio.Event()

    async def never(request):
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    pipeline = make(
        "{steps: [{name: slow}, {name: mul10}], output: {steps: [slow, mul10], stepsJoin: any}}",
        {"slow": never, "mul10": MUL10},
    )
    assert await run(pipeline, tensor("INPUT", 1)) == {"OUTPUT": [10]}
    await cancelled.wait()
    await pipeline.close()
    assert len(asyncio.all_tasks()) == 1


async def test_an_outer_join_passes_what_came_when_its_window_has():
    """A join that waits for a slow step goes on without it after `joinWindowMs`."""
    event = asyncio.Event()
    pipeline = make(
        """
        steps: [{name: slow}, {name: mul10}]
        output: {steps: [slow, mul10], stepsJoin: outer, joinWindowMs: 5}
        """,
        {"slow": late(event), "mul10": MUL10},
    )
    assert await run(pipeline, tensor("INPUT", 1)) == {"OUTPUT": [10]}
    await pipeline.close()


async def test_an_inner_join_gives_up_when_its_window_has_passed():
    """The error says which join waited for what, and how long."""
    event = asyncio.Event()
    pipeline = make(
        """
        steps: [{name: slow}, {name: mul10}]
        output: {steps: [slow, mul10], joinWindowMs: 5}
        """,
        {"slow": late(event), "mul10": MUL10},
    )
    with pytest.raises(RuntimeFailed, match="output got nothing from slow within 5 ms"):
        await run(pipeline, tensor("INPUT", 1))
    await pipeline.close()


async def test_two_tensors_of_one_name_are_refused_where_they_meet():
    """Nothing is overwritten in silence when models answer with equal names."""
    pipeline = make(
        "{steps: [{name: mul10}, {name: add10}], output: {steps: [mul10, add10]}}", {"mul10": MUL10, "add10": ADD10}
    )
    with pytest.raises(RuntimeFailed, match="output gets two tensors named 'OUTPUT', from mul10 and add10"):
        await run(pipeline, tensor("INPUT", 1))


async def test_tensors_of_one_name_may_stand_side_by_side_in_the_answer():
    """An output that says `repeats` answers with both, in the order of its steps, as Seldon Core v2 does."""
    pipeline = make(
        "{steps: [{name: mul10}, {name: add10}], output: {steps: [add10, mul10], repeats: true}}",
        {"mul10": MUL10, "add10": ADD10},
    )
    response = await pipeline.infer(request(tensor("INPUT", 1)))
    assert [(each.name, each.data.tolist()) for each in response.outputs] == [("OUTPUT", [11]), ("OUTPUT", [10])]


@pytest.mark.parametrize("output", ["{steps: [second]}", "{steps: [second, first.outputs.OUTPUT0], stepsJoin: any}"])
async def test_tags_of_all_steps_are_the_answers(output):
    """Each step adds to the mapping `tags`, the later one wins; other parameters, and tags of another kind, do not pass."""

    def tagging(model, tags):
        async def infer(asked):
            return msgspec.structs.replace(await model(asked), parameters={"tags": tags, "other": 1})

        return infer

    models = {
        "first": tagging(MUL10, {"a": 1, "b": 1}),
        "between": tagging(MUL10, "no mapping"),
        "second": tagging(ADD10, {"b": 2}),
    }
    pipeline = make(
        f"""
        steps:
        - name: first
        - {{name: between, inputs: [first], tensorMap: {{first.outputs.OUTPUT: INPUT}}}}
        - {{name: second, inputs: [between], tensorMap: {{between.outputs.OUTPUT: INPUT}}}}
        output: {output}
        """,
        models,
    )
    response = await pipeline.infer(request(tensor("INPUT", 1)))
    assert response.parameters == {"tags": {"a": 1, "b": 2}}
    await pipeline.close()


async def test_by_step_keeps_equal_names_apart():
    """Each tensor is named after its step."""
    pipeline = make(
        "{steps: [{name: mul10}, {name: add10}], output: {steps: [mul10, add10], byStep: true}}",
        {"mul10": MUL10, "add10": ADD10},
    )
    assert await run(pipeline, tensor("INPUT", 1)) == {"mul10.OUTPUT": [10], "add10.OUTPUT": [11]}


async def test_independent_branches_run_at_the_same_time():
    """Two steps that each wait for the other to have begun both end."""
    begun = [asyncio.Event(), asyncio.Event()]

    def meeting(own, other):
        async def infer(request):
            begun[own].set()
            await begun[other].wait()
            return answer(request, [tensor(f"x{own}", own)])

        return infer

    pipeline = make(
        "{steps: [{name: a}, {name: b}], output: {steps: [a, b]}}", {"a": meeting(0, 1), "b": meeting(1, 0)}
    )
    assert await asyncio.wait_for(run(pipeline, tensor("INPUT", 1)), 60) == {"x0": [0], "x1": [1]}


# -- failures, deadlines, cancellation --


def failing(error):
    async def infer(request):
        raise error

    return infer


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("{steps: [{name: a}, {name: bad, inputs: [a]}], output: {steps: [bad]}}", "chain"),
        ("{steps: [{name: a}, {name: bad}], output: {steps: [a, bad]}}", "graph"),
    ],
    ids=["chain", "graph"],
)
async def test_a_failure_keeps_its_class_and_names_its_step(text, where):
    """Both roads tell the caller which step of which pipeline failed, by the same error."""
    pipeline = make(text, {"a": MUL10, "bad": failing(Overloaded("full", retry_after_seconds=3.0))})
    assert where in repr(pipeline)
    with pytest.raises(Overloaded, match=r"^pipeline 'pipe' step 'bad': full$") as caught:
        await run(pipeline, tensor("INPUT", 1))
    assert caught.value.retry_after_seconds == 3.0
    assert pipeline.steps()["bad"].failures == 1
    await pipeline.close()


@pytest.mark.parametrize("road", ["chain", "graph"])
async def test_an_exception_of_a_stranger_becomes_ours(road):
    """A step that raises anything else fails the request as RuntimeFailed, with the cause chained."""
    more = ", dependency: hard, when: 'exists(INPUT)'" if road == "graph" else ""
    pipeline = make(f"steps: [{{name: bad{more}}}]", {"bad": failing(KeyError("x"))})
    with pytest.raises(RuntimeFailed, match="pipeline 'pipe' step 'bad': KeyError: 'x'") as caught:
        await run(pipeline, tensor("INPUT", 1))
    assert isinstance(caught.value.__cause__, KeyError)


async def test_a_failure_ends_the_steps_beside_it():
    """What still runs when a hard step fails is cancelled."""
    cancelled = asyncio.Event()

    async def never(request):
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    async def fail(request):
        await asyncio.sleep(0)
        raise ModelNotReady("gone")

    pipeline = make("{steps: [{name: a}, {name: b}], output: {steps: [a, b]}}", {"a": never, "b": fail})
    with pytest.raises(ModelNotReady, match="step 'b'"):
        await run(pipeline, tensor("INPUT", 1))
    await asyncio.wait_for(cancelled.wait(), 60)
    await pipeline.close()


async def test_a_soft_failure_counts_as_no_answer():
    """The join goes on with what came; the failure is counted."""
    pipeline = make(
        "{steps: [{name: bad, dependency: soft}, {name: mul10}], output: {steps: [bad, mul10], stepsJoin: outer}}",
        {"bad": failing(RuntimeFailed("broken")), "mul10": MUL10},
    )
    assert await run(pipeline, tensor("INPUT", 1)) == {"OUTPUT": [10]}
    assert pipeline.steps()["bad"].failures == 1


async def test_when_only_soft_failures_are_left_they_are_told():
    """No answer because a soft step failed: the text has its reason, the cause its error."""
    pipeline = make("steps: [{name: bad, dependency: soft}]", {"bad": failing(RuntimeFailed("broken"))})
    with pytest.raises(RuntimeFailed, match=r"has no answer to this request: step 'bad' failed: .*broken") as caught:
        await run(pipeline, tensor("INPUT", 1))
    assert isinstance(caught.value.__cause__, RuntimeFailed)


async def test_a_step_has_its_own_time():
    """A step that takes longer than its `timeoutMs` is ended, though nothing else minds."""
    pipeline = make("steps: [{name: slow, timeoutMs: 5}]", {"slow": late(asyncio.Event())})
    with pytest.raises(DeadlineExceeded, match="pipeline 'pipe' step 'slow': no answer within its 5 ms"):
        await run(pipeline, tensor("INPUT", 1))
    await pipeline.close()


async def test_a_pipeline_has_its_own_time():
    """All steps together end by the pipeline's `timeoutMs`; steps learn of that deadline."""
    seen = []

    async def slow(request):
        seen.append(request.deadline)
        await asyncio.Event().wait()

    pipeline = make("{timeoutMs: 20, steps: [{name: slow}]}", {"slow": slow})
    before = time.monotonic()
    with pytest.raises(DeadlineExceeded, match="pipeline 'pipe': the deadline passed while step 'slow' ran"):
        await run(pipeline, tensor("INPUT", 1), deadline=before + 1000)
    assert before < seen[0] < before + 500
    await pipeline.close()


@pytest.mark.parametrize("text", ["{steps: [{name: a}]}", "{steps: [{name: a}, {name: b}], output: {steps: [a, b]}}"])
async def test_cancelling_a_request_leaves_nothing_running(text):
    """The caller's cancellation reaches every step, and no task stays behind."""
    begun, ended = [], []

    async def never(request):
        begun.append(request)
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(request)

    pipeline = make(text, {"a": never, "b": never})
    task = asyncio.create_task(run(pipeline, tensor("INPUT", 1)))
    while len(begun) < text.count("name"):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await pipeline.close()
    assert len(ended) == len(begun)
    assert len(asyncio.all_tasks()) == 1


async def test_a_failure_nobody_hears_is_not_reported_by_the_loop():
    """Two branches fail at once: the caller gets one error, and the other is not an exception never retrieved."""
    complaints = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    event = asyncio.Event()

    async def fail(request):
        await event.wait()
        raise RuntimeFailed("broken")

    pipeline = make("{steps: [{name: a}, {name: b}], output: {steps: [a, b]}}", {"a": fail, "b": fail})
    task = asyncio.create_task(run(pipeline, tensor("INPUT", 1)))
    await asyncio.sleep(0)
    event.set()
    with contextlib.suppress(RuntimeFailed):  # nothing may hold the traceback, which holds everything
        await task
    await pipeline.close()
    del task
    gc.collect()
    assert complaints == []


# -- what flows beside tensors --


async def test_steps_learn_what_concerns_them_of_the_request():
    """Id, deadline, traceable headers and parameters flow on; content headers do not, and what describes the request's
    own tensors goes only to who takes them.
    """
    seen = []

    async def infer(request):
        seen.append(request)
        return answer(request, request.inputs)

    text = "{steps: [{name: a}, {name: b, inputs: [a], parameters: {k: 2}}], output: {steps: [b]}}"
    for options in ({}, {"timeoutMs": 60_000}):
        seen.clear()
        pipeline = make(yaml.safe_dump({**yaml.safe_load(text), **options}), {"a": infer, "b": infer})
        await run(
            pipeline,
            tensor("x", 1),
            id="7",
            deadline=time.monotonic() + 100,
            parameters={"content_type": "np", "k": 1, "j": 1},
            headers={"x-tenant": "t", "traceparent": "00-1", "content-type": "json", "seldon-model": "pipe"},
        )
        first, second = seen
        assert (first.id, first.model_name, second.model_name) == ("7", "a", "b")
        assert first.deadline == pytest.approx(time.monotonic() + 100, abs=50)
        assert dict(first.headers) == {"x-tenant": "t", "traceparent": "00-1"}
        assert dict(first.parameters) == {"content_type": "np", "k": 1, "j": 1}
        assert dict(second.parameters) == {"k": 2, "j": 1}
        await pipeline.close()


async def test_routes_of_steps_come_together_in_the_answer():
    """Sticky routes that steps answer with reach the caller with the pipeline's own; a plain chain has none."""

    async def routed(request):
        return answer(request, request.inputs, headers={"x-seldon-route": f":{request.model_name}_1:"})

    async def plain(request):
        return answer(request, request.inputs)

    text = "{steps: [{name: a}, {name: b, inputs: [a]}], output: {steps: [b]}}"
    pipeline = make(text, {"a": routed, "b": routed}, version="3")
    response = await pipeline.infer(request(tensor("x", 1)))
    assert response.headers == {"x-seldon-route": ":a_1: :b_1: :pipe_3:"}
    response = await make(text, {"a": plain, "b": plain}).infer(request(tensor("x", 1)))
    assert dict(response.headers) == {}


async def test_a_sticky_route_of_the_caller_reaches_every_step():
    """What the caller sends back in `x-seldon-route` is what each step sees."""
    seen = []

    async def infer(request):
        seen.append(request.headers["x-seldon-route"])
        return answer(request, request.inputs)

    text = "{steps: [{name: a}, {name: b}], output: {steps: [a, b], stepsJoin: any}}"
    await run(make(text, {"a": infer, "b": infer}), tensor("x", 1), headers={"x-seldon-route": ":a_2:"})
    assert set(seen) == {":a_2:"}


async def test_the_caller_may_ask_for_some_of_the_outputs():
    """Requested outputs come in the order asked for; one that is not there is the caller's error."""
    for text in ("steps: [{name: t}]", "{timeoutMs: 60000, steps: [{name: t}]}"):
        pipeline = make(text, {"t": tfsimple()})
        wanted = (RequestedOutput("OUTPUT1"), RequestedOutput("OUTPUT0"))
        assert list(await run(pipeline, *TWO, outputs=wanted)) == ["OUTPUT1", "OUTPUT0"]
        with pytest.raises(InvalidRequest, match="gave no output 'OUTPUT9' that the request asks for; it gave OUTPUT0"):
            await run(pipeline, *TWO, outputs=(RequestedOutput("OUTPUT9"),))
        await pipeline.close()


async def test_each_step_is_a_span_of_a_traced_request():
    """A trace has one record for each step that ran, on both roads."""

    class Spans:
        def __init__(self):
            self.names = []

        def record(self, name, start_ns, end_ns):
            assert start_ns <= end_ns
            self.names.append(name)

    for options in ("", "timeoutMs: 60000, "):
        spans = Spans()
        text = f"{{{options}steps: [{{name: mul10}}]}}"
        await run(make(text, {"mul10": MUL10}), tensor("INPUT", 1), trace=spans)
        assert spans.names == ["step mul10"]


# -- step kinds of ours --


async def test_a_condition_keeps_a_step_from_running():
    """`when` is looked at with the step's own input; where it fails, what depends on the step is dead."""
    text = """
    steps:
    - {name: mul10, when: "INPUT > 5"}
    - {name: add10}
    output: {steps: [add10, mul10], stepsJoin: last}
    """
    pipeline = make(text, {"mul10": MUL10, "add10": ADD10})
    assert await run(pipeline, tensor("INPUT", 6)) == {"OUTPUT": [60]}
    assert await run(pipeline, tensor("INPUT", 5)) == {"OUTPUT": [15]}
    assert pipeline.steps()["mul10"].requests == 1


async def test_an_unmet_condition_alone_is_told_to_the_caller():
    """A request that meets no condition is refused with the condition in the text."""
    pipeline = make("""steps: [{name: mul10, when: "INPUT > 5"}]""", {"mul10": MUL10})
    with pytest.raises(InvalidRequest, match="step 'mul10' runs only when INPUT > 5"):
        await run(pipeline, tensor("INPUT", 1))


async def test_a_combiner_gets_its_inputs_by_reference():
    """The mean of two branches is one tensor, though both have the same name."""
    text = """
    steps: [{name: mul10}, {name: add10}, {name: both, combine: {type: mean}, inputs: [mul10, add10.outputs.OUTPUT]}]
    output: {steps: [both]}
    """
    assert await run(make(text, {"mul10": MUL10, "add10": ADD10}), tensor("INPUT", 1)) == {"OUTPUT": [10.5]}


ROUTER = """
steps:
- name: choose
  route:
    type: conditions
    branches: [{name: big, when: "INPUT > 5"}, {name: small, when: "INPUT > 0"}]
- {name: mul10, inputs: [choose.branches.big]}
- {name: add10, inputs: [choose.branches.small]}
output: {steps: [mul10, add10], stepsJoin: JOIN}
"""


@pytest.mark.parametrize("join", ["any", "outer", "last"])
async def test_a_router_passes_its_input_to_the_branch_it_chose(join):
    """Only the chosen branch runs, and the answer says which it was."""
    pipeline = make(ROUTER.replace("JOIN", join), {"mul10": MUL10, "add10": ADD10})
    response = await pipeline.infer(request(tensor("INPUT", 7), id="a"))
    assert response.outputs[0].data.tolist() == [70]
    assert response.headers["headrace-routing"] == "choose=big"
    assert await run(pipeline, tensor("INPUT", 2)) == {"OUTPUT": [12]}
    assert (pipeline.steps()["mul10"].requests, pipeline.steps()["add10"].requests) == (1, 1)


async def test_a_router_that_chooses_nothing_ends_the_request_with_its_input():
    """As in Seldon Core v1, what the router got is what the caller gets."""
    pipeline = make(ROUTER.replace("JOIN", "any"), {"mul10": MUL10, "add10": ADD10})
    assert await run(pipeline, tensor("INPUT", -1)) == {"INPUT": [-1]}


BANDIT = """
steps:
- name: choose
  route: {type: epsilonGreedy, epsilon: 0.0, bestBranch: a, branches: [{name: a}, {name: b}]}
- {name: mul10, inputs: [choose.branches.a]}
- {name: add10, inputs: [choose.branches.b]}
output: {steps: [mul10, add10], stepsJoin: any}
"""


async def test_feedback_by_routing_and_by_id_reaches_the_router():
    """After rewards for the other branch and none for the first, the greedy router changes its choice."""
    pipeline = make(BANDIT, {"mul10": MUL10, "add10": ADD10})
    response = await pipeline.infer(request(tensor("INPUT", 1)))
    assert response.headers["headrace-routing"] == "choose=a"
    assert response.id, "an id that feedback can name is made where the caller gave none"
    pipeline.feedback({}, 0.0, request(tensor("INPUT", 1), id=response.id))
    pipeline.feedback({"choose": "b"}, 1.0, None)
    assert await run(pipeline, tensor("INPUT", 1)) == {"OUTPUT": [11]}


@pytest.mark.parametrize(
    ("routing", "text"),
    [
        ({}, "must say what was chosen"),
        ({"chose": "a"}, "has no router 'chose'; its routers: choose"),
        ({"choose": "c"}, "router 'choose' has no branch 'c'; its branches: a, b"),
    ],
)
async def test_feedback_that_nobody_can_use_is_refused(routing, text):
    """The text says what is missing or what there is."""
    with pytest.raises(InvalidRequest, match=text):
        make(BANDIT, {"mul10": MUL10, "add10": ADD10}).feedback(routing, 1.0, None)


# -- off the path --


async def test_a_mirror_neither_delays_nor_fails_the_caller():
    """The answer is there while the mirror still waits; its failure is counted and nothing else."""
    event = asyncio.Event()
    asked = []

    async def shadow(request):
        asked.append(request)
        await event.wait()
        raise RuntimeFailed("broken")

    pipeline = make(
        "{steps: [{name: mul10}, {name: shadow, mirror: true}], output: {steps: [mul10]}}",
        {"mul10": MUL10, "shadow": shadow},
    )
    assert await run(pipeline, tensor("INPUT", 1)) == {"OUTPUT": [10]}
    while not asked:
        await asyncio.sleep(0)
    event.set()
    while not pipeline.steps()["shadow"].failures:
        await asyncio.sleep(0)
    await pipeline.close()
    assert len(asyncio.all_tasks()) == 1


async def test_too_many_off_the_path_are_dropped_and_counted():
    """What the answer does not depend on is bounded; the rest of it is dropped."""
    event = asyncio.Event()
    pipeline = make(
        "{steps: [{name: mul10}, {name: drift, inputs: [mul10]}], output: {steps: [mul10]}}",
        {"mul10": MUL10, "drift": late(event)},
        aside=2,
    )
    for _ in range(5):
        assert await run(pipeline, tensor("INPUT", 1)) == {"OUTPUT": [10]}
    assert pipeline.steps()["drift"].dropped == 3
    await pipeline.close()


async def test_steps_off_the_path_follow_one_another():
    """A step that no output depends on may feed another such step, whatever became of a branch on the path."""
    ended = asyncio.Event()

    async def last(request):
        ended.set()
        return answer(request, request.inputs)

    text = """
    steps: [{name: mul10}, {name: slow}, {name: outlier, inputs: [mul10]},
            {name: log, inputs: [outlier, slow], inputsJoinType: outer}]
    output: {steps: [mul10]}
    """

    async def outlier(request):
        return answer(request, request.inputs)

    pipeline = make(text, {"mul10": MUL10, "slow": failing(RuntimeFailed("x")), "outlier": outlier, "log": last})
    assert await run(pipeline, tensor("INPUT", 1)) == {"OUTPUT": [10]}
    await asyncio.wait_for(ended.wait(), 60)
    await pipeline.close()


async def test_steps_off_the_path_go_on_without_what_was_cancelled_on_it():
    """A step on the path that nobody needed any more will never answer, and an outer join aside knows."""
    asked = asyncio.Event()

    async def log(request):
        assert [each.name for each in request.inputs] == ["OUTPUT"]
        asked.set()
        return answer(request, ())

    text = """
    steps: [{name: mul10}, {name: slow}, {name: log, inputs: [mul10, slow], inputsJoinType: outer}]
    output: {steps: [mul10, slow], stepsJoin: any}
    """
    pipeline = make(text, {"mul10": MUL10, "slow": late(asyncio.Event()), "log": log})
    assert await run(pipeline, tensor("INPUT", 1)) == {"OUTPUT": [10]}
    await asyncio.wait_for(asked.wait(), 60)
    await pipeline.close()


# -- signature --


async def test_a_pipeline_says_what_it_takes_and_gives():
    """Inputs are the tensors that steps take from the request, outputs those of the output's steps, by their names."""
    simple = Signature(
        platform="x",
        inputs=(
            TensorSpec(name="INPUT0", datatype="FP64", shape=(-1,)),
            TensorSpec(name="INPUT1", datatype="FP64", shape=(-1,)),
        ),
        outputs=(
            TensorSpec(name="OUTPUT0", datatype="FP64", shape=(-1,)),
            TensorSpec(name="OUTPUT1", datatype="FP64", shape=(-1,)),
        ),
    )
    pipeline = make(
        """
        steps:
        - {name: a, inputs: [pipe.inputs.x, pipe.inputs.y], tensorMap: {pipe.inputs.x: INPUT0, pipe.inputs.y: INPUT1}}
        - {name: b, inputs: [a.outputs.OUTPUT0, pipe.inputs.z], tensorMap: {a.outputs.OUTPUT0: INPUT0, pipe.inputs.z: INPUT1}}
        output: {steps: [b.outputs.OUTPUT1], tensorMap: {b.outputs.OUTPUT1: delta}}
        """,
        {"a": tfsimple(), "b": tfsimple()},
    )
    signature = pipeline.signature(lambda step: simple)
    assert [each.name for each in signature.inputs] == ["x", "y", "z"]
    assert [each.name for each in signature.outputs] == ["delta"]
    assert pipeline.signature(lambda step: None).inputs == ()


async def test_every_error_is_one_of_ours():
    """Whatever a request has, what comes back is an answer or a HeadraceError."""
    pipeline = make(CONDITIONAL.replace("JOIN", "any"), {"conditional": MUL10, "mul10": MUL10, "add10": ADD10})
    with pytest.raises(HeadraceError):
        await run(pipeline, tensor("other", 1))


async def test_a_step_is_asked_for_tensors_that_it_gives_only_when_asked():
    """Once signatures are known, a tensor beyond a model's default outputs can be taken by name."""
    specs = tuple([TensorSpec(name=name, datatype="FP64", shape=(-1,)) for name in ("label", "proba", "other")])
    model = Signature(platform="x", outputs=specs, default_outputs=("label",))

    async def infer(request):
        return answer(request, [tensor(name, 1) for name in [each.name for each in request.outputs] or ["label"]])

    text = "{steps: [{name: m}], output: {steps: [m.outputs.proba]}}"
    pipeline = make(text, {"m": infer})
    assert [each.name for each in pipeline.signature(lambda step: model).outputs] == ["proba"]
    assert await run(pipeline, tensor("x", 1)) == {"proba": [1]}
    whole = make("{steps: [{name: m}], output: {steps: [m]}}", {"m": infer})
    whole.signature(lambda step: model)
    assert await run(whole, tensor("x", 1)) == {"label": [1]}


async def test_closing_lets_requests_inside_end():
    """A pipeline that is replaced answers whom it has let in; routers and batches are there until then."""
    event = asyncio.Event()
    pipeline = make(
        "{steps: [{name: slow}, {name: mul10, batch: {size: 9, windowMs: 2}}], output: {steps: [slow, mul10]}}",
        {"slow": late(event), "mul10": MUL10},
    )
    asked = asyncio.create_task(run(pipeline, tensor("INPUT", 1)))
    await asyncio.sleep(0)
    closing = asyncio.create_task(pipeline.close())
    await asyncio.sleep(0)
    assert not closing.done()
    event.set()
    assert await asked == {"late": [1], "OUTPUT": [10]}
    await closing


async def test_closing_waits_only_so_long():
    """A request that never ends does not keep a pipeline open."""
    pipeline = make("steps: [{name: slow, when: 'exists(INPUT)'}]", {"slow": late(asyncio.Event())})
    asked = asyncio.create_task(run(pipeline, tensor("INPUT", 1)))
    await asyncio.sleep(0)
    await pipeline.close(drain_seconds=0.001)
    asked.cancel()
    await asyncio.wait([asked])


async def test_what_nobody_waits_for_has_an_end():
    """A step off the path that never answers is ended after its time, and counted as a failure."""
    pipeline = make(
        "{steps: [{name: mul10}, {name: drift, inputs: [mul10]}], output: {steps: [mul10]}}",
        {"mul10": MUL10, "drift": late(asyncio.Event())},
    )
    pipeline._aside_seconds = 0.001
    await run(pipeline, tensor("INPUT", 1))
    while not pipeline.steps()["drift"].failures:
        await asyncio.sleep(0.001)
    assert "aside=0" in repr(pipeline)


async def test_a_request_stepped_without_a_task_is_answered():
    """The server steps a request once before it gives it a task: a pipeline whose steps never wait ends in that step."""
    for text in (
        "steps: [{name: mul10}]",
        "{steps: [{name: mul10}, {name: add10}], output: {steps: [mul10, add10], byStep: true}}",
    ):
        pipeline = make(text, {"mul10": MUL10, "add10": ADD10})
        await run(pipeline, tensor("INPUT", 1))  # learns that its steps never wait
        with pytest.raises(StopIteration) as ended:
            pipeline.infer(request(tensor("INPUT", 1))).send(None)
        assert ended.value.value.outputs[0].data.tolist() == [10]


async def test_a_router_of_ones_own_may_ask_for_its_task():
    """Async code of the user's runs in a task, even on the first step of a request."""

    class Own:
        async def choose(self, asked):
            async with asyncio.timeout(60):
                return ("a",)

        def close(self):
            pass

    pipeline = msgspec.convert(
        {"steps": [{"name": "r", "route": {"branches": [{"name": "a"}]}}, {"name": "mul10", "inputs": ["r.branches.a"]}],
         "output": {"steps": ["mul10"]}},
        spec.Pipeline,
    )  # fmt: skip
    made = Pipeline("pipe", pipeline, ask=lambda step: MUL10, combiner=None, router=lambda step: Own())
    coroutine = made.infer(request(tensor("INPUT", 1)))
    loop = asyncio.get_running_loop()
    stepped = loop.create_future()
    loop.call_soon(lambda: stepped.set_result(coroutine.send(None)))  # as the server does, in no task
    assert await stepped is None, "it waits for a turn, and so for a task"

    async def rest():
        return await _Rest(coroutine)

    response = await asyncio.create_task(rest())
    assert response.outputs[0].data.tolist() == [10]


class _Rest:
    """What is left of a coroutine that was stepped once and waits for a turn of the loop."""

    def __init__(self, coroutine):
        self.coroutine = coroutine

    def __await__(self):
        yield
        return (yield from self.coroutine.__await__())
