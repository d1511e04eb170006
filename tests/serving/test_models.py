"""models: name and version to what answers; states, default version, readiness."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import ModelNotFound, ModelNotReady, NotFound
from headrace.payload import InferenceResponse
from headrace.serving.models import Models, Served, State, newest, readable


async def infer(request):
    return InferenceResponse(model_name=request.model_name, outputs=())


def table(*rows):
    """Rows are (name, version, state)."""
    models = Models()
    for name, version, state in rows:
        models.put(Served(name=name, version=version, state=state, infer=infer))
    return models


READY, LOADING, UNAVAILABLE = State.READY, State.LOADING, State.UNAVAILABLE


@pytest.mark.parametrize(
    ("versions", "expected"),
    [
        (["1", "10", "9"], "10"),
        (["v9", "v10"], "v10"),
        (["1.9", "1.10"], "1.10"),
        (["1.2", "1.2.1"], "1.2.1"),
        (["7", ""], ""),
        (["2026-01", "2025-12"], "2026-01"),
        (["1", "v2"], "1"),
    ],
)
def test_the_newest_version_is_the_one_a_person_would_pick(versions, expected):
    """Versions compare by their numbers as numbers; an unversioned one is the default."""
    assert newest(versions) == newest(versions[::-1]) == expected


@given(st.lists(st.text(max_size=6), min_size=2, max_size=5))
def test_versions_can_always_be_ordered(versions):
    """Any two version texts can be compared, and the order does not depend on where they stood."""
    assert sorted(map(readable, versions)) == sorted(map(readable, versions[::-1]))


def test_the_default_is_the_newest_ready_version():
    """With no version asked for, the newest READY one answers, not a newer one that is still loading."""
    models = table(("a", "1", READY), ("a", "2", READY), ("a", "10", LOADING))
    assert models.route("a").version == "2"
    models.changed(models.find("a", "10"), READY)
    assert models.route("a").version == "10"
    models.changed(models.find("a", "10"), UNAVAILABLE, "broke")
    assert models.route("a").version == "2"
    models.forget(models.find("a", "2"))
    assert models.route("a").version == "1"


def test_what_is_not_there_is_told_apart_from_what_is_not_ready():
    """An unknown name or version is ModelNotFound and names the known ones; a known one is ModelNotReady with why."""
    models = table(("a", "1", READY), ("b", "", LOADING))
    models.changed(models.find("b"), UNAVAILABLE, "the file is empty")
    with pytest.raises(ModelNotFound, match="model 'x' is not found"):
        models.route("x")
    with pytest.raises(ModelNotFound, match=r"model 'wine2' is not found; did you mean 'wine'\?"):
        table(("wine", "", READY)).route("wine2")
    with pytest.raises(ModelNotFound, match="version '3' is not found; known versions: 1"):
        models.route("a", "3")
    with pytest.raises(ModelNotFound, match="version '3' is not found; it has no versions"):
        models.route("b", "3")
    with pytest.raises(ModelNotReady, match="model 'b' is not ready: unavailable, the file is empty"):
        models.route("b")


def test_a_name_that_may_still_come_is_not_ready():
    """While what is declared is carried out for the first time, a name that nobody knows yet may come: the caller is
    told to try again; afterwards there is none.
    """
    models = table()
    models.starting = True
    with pytest.raises(ModelNotReady, match="the server is starting"):
        models.route("shop")
    models.starting = False
    with pytest.raises(ModelNotFound):
        models.route("shop")


def test_ready_means_every_wanted_model():
    """The table is ready when each wanted version is READY; one that nobody wants does not count."""
    models = table(("a", "", READY), ("b", "", LOADING))
    assert not models.is_ready()
    models.find("b").wanted = False
    assert models.is_ready()
    assert Models().is_ready()


def test_a_row_in_the_place_of_another_takes_its_route():
    """Putting a row with the same name and version routes to the new one, and forgetting the old one changes nothing."""
    models = table(("a", "1", READY))
    old = models.route("a")
    new = Served(name="a", version="1", state=READY, infer=infer)
    models.put(new)
    models.forget(old)
    assert models.route("a") is models.route("a", "1") is new
    models.forget(new)
    assert list(models) == []
    with pytest.raises(ModelNotFound):
        models.route("a")


_versions = st.sampled_from(["", "1", "2", "v10"])
_steps = st.lists(st.tuples(st.sampled_from(["put", "forget", *State]), st.sampled_from("ab"), _versions), max_size=25)


@given(_steps)
def test_routes_say_what_the_rows_say(steps):
    """After any changes, route answers for exactly the READY rows, and by default with the newest of them."""
    models, rows = Models(), {}
    for step, name, version in steps:
        row = rows.get((name, version))
        if step == "put":
            rows[name, version] = Served(name=name, version=version, state=LOADING, infer=infer)
            models.put(rows[name, version])
        elif row is not None and step == "forget":
            models.forget(rows.pop((name, version)))
        elif row is not None:
            models.changed(row, State(step))
    for name in "ab":
        ready = [version for (each, version), row in rows.items() if each == name and row.state is READY]
        for version in ["", "1", "2", "v10"]:
            expected = rows.get((name, version))
            if version == "" and ready:
                expected = rows[name, newest(ready)]
            if expected is not None and expected.state is READY:
                assert models.route(name, version) is expected
            else:
                with pytest.raises((ModelNotFound, ModelNotReady)):
                    models.route(name, version)
    assert {(row.name, row.version) for row in models} == set(rows)


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        ("tfsimpel.pipeline", "pipeline 'tfsimpel' is not found; did you mean 'tfsimple'?"),
        ("nope.pipeline", "pipeline 'nope' is not found"),
        ("wnie.model", "model 'wnie' is not found; did you mean 'wine'?"),
        ("wine.experiment", "experiment 'wine' is not found"),
        ("tfsimple.pipelin", "model 'tfsimple.pipelin' is not found; did you mean 'tfsimple.pipeline'?"),
    ],
)
def test_the_nearest_name_is_one_of_the_kind_that_was_asked(asked, text):
    """What all keys of a kind end with makes no two names alike."""
    models = Models()
    for served in (
        Served(name="wine"),
        Served(name="choice", kind="pipeline"),
        Served(name="tfsimple", kind="pipeline"),
        Served(name="ab", kind="experiment"),
    ):
        models.put(served)
    with pytest.raises(ModelNotFound) as raised:
        models.find(asked)
    assert str(raised.value) == text


async def test_a_name_that_passes_from_kind_to_kind_is_answered_all_along():
    """While the model of a name is loading or leaving, what else has the name answers; the model itself is not that."""
    models = Models()

    async def infer(request):
        return None

    split, model = Served(name="n", kind="experiment", infer=infer), Served(name="n", version="1", infer=infer)
    models.put(split)
    models.changed(split, READY)
    assert models.route("n") is split
    models.put(model)
    models.changed(model, LOADING)
    assert models.route("n") is split
    with pytest.raises(ModelNotReady, match="model 'n' version '1' is not ready: loading"):
        models.direct("n")
    with pytest.raises(ModelNotReady):
        models.route("n.model")
    models.changed(model, READY)
    assert models.route("n") is models.direct("n") is model
    models.changed(model, State.UNLOADING)
    assert models.route("n") is split
    models.forget(model)
    assert models.route("n") is split


def test_what_is_declared_to_explain_a_name_is_asked_why():
    """The model that was declared to explain at a name is asked in place of what stands there, and its state tells;
    what has a split's name for its requests is asked itself.
    """
    models = table(("a", "1", READY))
    plain = models.find("a")
    plain.explain = infer
    split = Served(name="a", kind="experiment", state=READY, infer=infer)
    models.put(split)
    models.divert("a", "a.experiment")
    assert models.route("a") is split
    assert models.explaining(split) is plain
    declared = Served(name="a-explainer", version="1", state=LOADING, infer=infer, explains_at="a")
    models.put(declared)
    with pytest.raises(ModelNotReady, match="a-explainer"):
        models.explaining(split)
    models.changed(declared, READY)
    assert models.explaining(split) is models.explaining(plain) is declared
    models.forget(declared)
    assert models.explaining(split) is plain


def test_a_model_that_nothing_explains_says_what_to_do():
    """Who asks for what explains a model that has nothing is told the command that writes it."""
    models = table(("a", "1", READY))
    with pytest.raises(NotFound, match="headrace trust fit"):
        models.explain("a")
