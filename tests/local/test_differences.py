"""What a mirror answers otherwise, as the control plane is told of it."""

import asyncio

import numpy as np

from headrace.control.backends.base import Action, Share, SplitUnit, key_of
from headrace.local.backend import LocalBackend
from headrace.payload import InferenceRequest, InferenceResponse, Tensor
from headrace.serving.models import Models, Served, State


async def test_differences_of_a_mirror_are_counted_summarised_and_shown():
    """With the last examples; a mirror that agrees has none, and neither has the candidate."""

    def times(factor):
        async def infer(request):
            tensor = request.inputs[0]
            return InferenceResponse(model_name="m", outputs=(Tensor("y", tensor.datatype, tensor.data * factor),))

        return infer

    models = Models()
    for name, factor in {"old": 2, "new": 3}.items():
        served = Served(name=name, version="1", infer=times(factor))
        models.put(served)
        models.changed(served, State.READY)
    backend = LocalBackend(models, None, None)
    mirror = Share(name="new", weight=100)
    unit = SplitUnit(name="m", digest="1", shares=(Share(name="old", weight=1),), mirror=mirror, compares=True)
    await backend.carry_out(Action(verb="set", key=key_of(unit), unit=unit))

    async def ask(value):
        before = backend.counts("m")["new"].compared
        tensor = Tensor("x", "FP64", np.array([value]))
        await models.route("m").infer(InferenceRequest(model_name="m", inputs=(tensor,)))
        async with asyncio.timeout(60):
            while backend.counts("m")["new"].compared == before:
                await asyncio.sleep(0)

    await ask(0.0)
    assert (backend.counts("m")["new"].agreed, backend.counts("m")["new"].differences) == (1, {})
    for value in (1.0, 2.0, 3.0, 4.0):
        await ask(value)
    found = backend.counts("m")["new"].differences
    assert (found["outputs"], found["dropped"]) == ({"y": {"differing": 4, "difference": 4.0}}, 0)
    assert [each["inputs"] for each in found["examples"]] == [{"x": [2.0]}, {"x": [3.0]}, {"x": [4.0]}]
    assert backend.counts("m")["old"].differences == {}
    await backend.close()
