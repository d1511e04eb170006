"""Which components of a pipeline hear what an answer was worth."""

import msgspec
import numpy as np
import pytest
import yaml

from headrace.errors import RuntimeFailed
from headrace.graph import spec
from headrace.local import feedback
from headrace.payload import InferenceRequest, InferenceResponse, Signature, Tensor
from headrace.runtimes.seldon_v1 import REWARD, TOLD, TRUTH
from headrace.serving.models import Models, Served, State

PIPELINE = msgspec.convert(
    yaml.safe_load(
        """
        steps:
        - {name: last, inputs: [right], tensorMap: {right.outputs.y: x}}
        - {name: scale}
        - {name: ab, route: {type: epsilonGreedy, branches: [{name: "0"}, {name: "1"}]}, inputs: [scale]}
        - {name: left, inputs: [ab.branches.0]}
        - {name: right, inputs: [ab.branches.1]}
        - {name: both, inputs: [left, last], inputsJoinType: any}
        output: {steps: [both]}
        """
    ),
    spec.Pipeline,
)


@pytest.mark.parametrize(
    ("routing", "reached"),
    [
        ({"ab": "0"}, {"scale", "ab", "left", "both"}),
        ({"ab": "1"}, {"scale", "ab", "right", "last", "both"}),
        ({"ab": "0,1"}, {"scale", "ab", "left", "right", "last", "both"}),
        ({}, {"scale", "ab", "left", "right", "last", "both"}),
    ],
)
def test_steps_that_the_request_did_not_reach_took_no_part(routing, reached):
    """A branch that was not chosen, and what follows it; with several inputs, one that came may be enough."""
    assert {step.name for step in feedback.took_part("p", PIPELINE, routing)} == reached


def test_who_learns():
    """A bandit does, weights do not."""
    assert feedback.learns(PIPELINE)
    step = spec.Step(name="r", route=spec.Route(type="weights", branches=(spec.Branch(name="0", weight=1),)))
    assert not feedback.learns(spec.Pipeline(steps=(step,)))


async def test_a_component_that_wants_to_know_is_told(caplog):
    """With reward, truth and what was asked; others are not asked, and a failure is a line in the log."""
    asked = []

    async def infer(request):
        asked.append(request)
        if request.parameters[REWARD] < 0:
            raise RuntimeFailed("cannot")
        return InferenceResponse(model_name="m", outputs=())

    models = Models()
    for name, properties in {"told": {TOLD: "send_feedback"}, "other": {}}.items():
        served = Served(name=name, version="1", infer=infer, signature=Signature(platform="", properties=properties))
        models.put(served)
        models.changed(served, State.READY)
    request = InferenceRequest(
        model_name="p", inputs=(Tensor("x", "FP64", np.array([1.0])),), parameters={"truth": [1]}
    )
    await feedback.tell(models, "other", "", request, 1.0)
    await feedback.tell(models, "told", "", request, 1.0)
    assert [(each.model_name, each.inputs, each.parameters) for each in asked] == [
        ("told", request.inputs, {REWARD: 1.0, TRUTH: [1]})
    ]
    await feedback.tell(models, "told", "", request, -1.0)
    await feedback.tell(models, "gone", "", request, 1.0)
    assert ["cannot" in caplog.text, "'gone' is not found" in caplog.text] == [True, True]
