"""What the backend of this process takes away again."""

from headrace.control.backends.base import Action, Share, SplitUnit, key_of
from headrace.local.backend import LocalBackend
from headrace.payload import InferenceResponse
from headrace.serving.models import Models, Served, State


async def test_a_split_that_answers_for_a_name_leaves_without_a_trace():
    """The name is its model's again, and neither the split's own name nor its readiness is left in the table."""

    async def infer(request):
        return InferenceResponse(model_name="iris", outputs=())

    models = Models()
    backend = LocalBackend(models, None, None)
    for name in ("iris", "other"):
        served = Served(name=name, version="1", infer=infer)
        models.put(served)
        models.changed(served, State.READY)
    unit = SplitUnit(
        name="ab", digest="1", shares=(Share(name="iris", weight=1), Share(name="other", weight=1)), diverts="iris"
    )
    await backend.carry_out(Action(verb="set", key=key_of(unit), unit=unit))
    assert models.route("iris").kind == "experiment"
    await backend.carry_out(Action(verb="remove", key=key_of(unit)))
    assert models.route("iris").kind == "model"
    assert models.versions("ab.experiment") == []
    assert list(await backend.observe()) == []
