"""The backend that is this process: every unit becomes something that answers, and is replaced without harm."""

from __future__ import annotations

import asyncio
import dataclasses

import numpy as np
import pytest

import headrace
from headrace.app import App
from headrace.control.backends.base import (
    Action,
    ModelUnit,
    PipelineUnit,
    ServerUnit,
    Share,
    SplitUnit,
    key_of,
)
from headrace.control.resources import Model, Server
from headrace.errors import HeadraceError, LoadFailed, ModelNotReady, NotFound
from headrace.graph.spec import Branch, Combine, Input, Output, Pipeline, Route, Step
from headrace.local.backend import LocalBackend
from headrace.monitoring.metrics import measure
from headrace.payload import InferenceRequest, Tensor
from headrace.settings import Settings
from headrace.testing.backends import BackendConformance, put, seen, take

CODE = """
import asyncio
import numpy as np


class Add:
    def __init__(self, amount: float = 1.0, fails: bool = False):
        if fails:
            raise ValueError("it was told to fail")
        self.amount = amount

    def predict(self, x: np.ndarray) -> dict:
        return {"x": x + self.amount}


class Slow:
    async def predict(self, x: np.ndarray) -> dict:
        await asyncio.sleep(0.3)
        return {"x": x + 100.0}


def largest(inputs):
    return {"x": np.max([each["x"] for each in inputs.values()], axis=0)}


def left(request):
    return "left"
"""


@pytest.fixture
def folder(tmp_path):
    """Where manifests would lie, with a module of classes."""
    (tmp_path / "code.py").write_text(CODE)
    return tmp_path


async def rooms(folder):
    """A server of nothing, whose rooms a backend can use."""
    base = Settings()
    app = App(
        dataclasses.replace(
            base,
            http=dataclasses.replace(base.http, port=0),
            grpc=dataclasses.replace(base.grpc, enabled=False),
            metrics=dataclasses.replace(base.metrics, enabled=False),
            models=dataclasses.replace(base.models, cache_dir=str(folder / "cache"), optimize="off"),
            control=dataclasses.replace(base.control, enabled=True, port=0, state=str(folder / "state.db")),
        ),
        [],
    )
    app._plane = None  # the tests are what plans here
    await app.start()
    return app


def over(app, **options):
    return LocalBackend(app.models, app._repository, app._residency, **options)


@pytest.fixture
async def app(folder):
    running = await rooms(folder)
    yield running
    await running.stop()


@pytest.fixture
async def backend(app):
    made = over(app)
    yield made
    await made.close()


class TestLocal(BackendConformance):
    async def make(self, folder):
        (folder / "code.py").write_text(CODE)
        self.app = await rooms(folder)
        return over(self.app)

    async def close(self, backend):
        await backend.close()
        await self.app.stop()

    def model(self, folder):
        return Model(reference="code.py:Add")

    def broken(self, folder):
        return Model(reference="code.py:Add", parameters={"fails": True})


def model(folder, name="m", *, revision=1, amount=1.0, **fields):
    spec = Model(reference="code.py:Add", parameters={"amount": amount, **fields})
    return ModelUnit(name=name, digest=f"{revision} {amount}", base=str(folder), revision=revision, spec=spec)


def pipeline(folder, *steps, name="p", version=1, **fields):
    spec = Pipeline(steps=steps, output=Output(steps=(steps[-1].name,)), **fields)
    return PipelineUnit(name=name, digest=f"{version}", base=str(folder), version=version, spec=spec)


def split(*shares, name="s", digest="1", **fields):
    return SplitUnit(name=name, digest=digest, shares=shares, **fields)


def request(value=0.0, name="x"):
    return InferenceRequest(model_name="asked", inputs=(Tensor(name, "FP64", np.full((1, 1), value)),))


async def ask(app, name, value=0.0):
    response = await app.models.route(name).infer(request(value))
    return float(response.outputs[0].data[0, 0])


async def test_a_pipeline_follows_what_becomes_of_its_models(app, backend, folder):
    """A step answers as the newest revision of its model does, without the pipeline being set again."""
    await put(backend, model(folder, "a"))
    await put(backend, model(folder, "b", amount=10.0))
    await put(backend, pipeline(folder, Step(name="a"), Step(name="b", inputs=("a",))))
    assert await ask(app, "p") == 11.0
    await put(backend, model(folder, "b", revision=2, amount=20.0))
    assert await ask(app, "p") == 21.0


async def test_a_pipeline_is_ready_while_its_models_are(app, backend, folder):
    """Without one of its models a pipeline refuses, says which, and is ready again when the model is."""
    await put(backend, model(folder, "a"))
    unit = pipeline(folder, Step(name="a"), Step(name="b", inputs=("a",)))
    await put(backend, unit)
    with pytest.raises(ModelNotReady, match="b is not found"):
        app.models.route("p")
    there = (await seen(backend))[key_of(unit)]
    assert (there.state, there.reason) == ("progressing", "b is not found")
    await put(backend, model(folder, "b"))
    assert await ask(app, "p") == 2.0
    await take(backend, ("model", "a", 1))
    with pytest.raises(ModelNotReady, match="a is not found"):
        app.models.route("p")


async def test_listeners_hear_of_what_changes_by_itself(app, folder):
    """When a model comes or goes, the backend says that something changed."""
    told = []
    backend = over(app, changed=lambda: told.append(1))
    await put(backend, model(folder))
    assert told
    await backend.close()


async def test_a_step_of_python_runs_the_code_of_its_own_version(app, backend, folder):
    """A new version whose second step cannot be loaded leaves the old version's code in charge, and nothing behind."""
    one = Step(name="one", python="code.py:Add", parameters={"amount": 1.0})
    await put(backend, pipeline(folder, one))
    changed = Step(name="one", python="code.py:Add", parameters={"amount": 5.0})
    broken = Step(name="two", python="code.py:Add", parameters={"fails": True}, inputs=("one",))
    with pytest.raises(LoadFailed, match="it was told to fail"):
        await put(backend, pipeline(folder, changed, broken, version=2))
    assert await ask(app, "p") == 1.0
    await backend.close()
    assert [served.describe() for served in app.models] == []


async def test_code_of_steps_leaves_with_its_version(app, backend, folder):
    """After a new version and a removal no model of a step is left; between them there is one."""
    step = Step(name="one", python="code.py:Add")
    for version in (1, 2, 3):
        await put(backend, pipeline(folder, step, version=version))
    while len(app.models.versions("p.one")) > 1:
        await asyncio.sleep(0.01)
    assert [each.version for each in app.models.versions("p.one")] == ["3"]
    await take(backend, ("pipeline", "p", 0))
    await backend.close()
    assert app.models.versions("p.one") == []


async def test_a_pipeline_that_comes_back_keeps_its_code(app, backend, folder):
    """Set again while the one that was removed still lets a request end, a pipeline does not lose its steps to that."""
    slow = Step(name="slow", python="code.py:Slow")
    await put(backend, pipeline(folder, slow))
    asked = asyncio.create_task(ask(app, "p"))
    await asyncio.sleep(0.05)
    await take(backend, ("pipeline", "p", 0))
    await put(backend, pipeline(folder, slow))
    assert await asked == 100.0
    await asyncio.sleep(0.1)
    assert await ask(app, "p") == 100.0


async def test_requests_inside_survive_a_new_version_of_their_pipeline(app, backend, folder):
    """A request that is on its way through a step elsewhere is answered although the pipeline is set anew meanwhile."""
    await put(backend, model(folder, "a"))
    with headrace.serve(Elsewhere(), name="far", placement="thread") as server:
        there = f"http://127.0.0.1:{server.http_port}"
        await put(backend, pipeline(folder, Step(name="a"), Step(name="far", url=there, inputs=("a",))))
        asked = [asyncio.create_task(ask(app, "p")) for _ in range(3)]
        await asyncio.sleep(0.1)
        await put(backend, pipeline(folder, Step(name="a"), version=2))
        assert await ask(app, "p") == 1.0
        assert await asyncio.gather(*asked) == [8.0, 8.0, 8.0]
        await backend.close()


class Elsewhere:
    """Takes its time, and adds seven."""

    def predict(self, x: np.ndarray) -> dict[str, np.ndarray]:
        import time

        time.sleep(0.3)
        return {"x": x + 7.0}


async def test_combiners_and_routers_of_ones_own(app, backend, folder):
    """Functions beside the manifest combine steps and choose branches."""
    await put(backend, model(folder, "a"))
    await put(backend, model(folder, "b", amount=10.0))
    both = (Step(name="a"), Step(name="b"))
    most = Step(name="most", combine=Combine(type="custom", reference="code.py:largest"), inputs=("a", "b"))
    await put(backend, pipeline(folder, *both, most))
    assert await ask(app, "p") == 10.0
    branches = (Branch(name="left"), Branch(name="right"))
    choose = Step(name="choose", route=Route(type="custom", reference="code.py:left", branches=branches))
    to = (Step(name="a", inputs=("choose.branches.left",)), Step(name="b", inputs=("choose.branches.right",)))
    await put(backend, pipeline(folder, choose, to[1], to[0], name="chosen"))
    assert await ask(app, "chosen") == 1.0


async def test_restricted_code_is_not_run(app, folder):
    """Where the load policy allows no code, a custom combiner of a manifest is refused, and so is its pipeline."""
    backend = over(app, load_policy="restricted")
    await put(backend, model(folder, "a"))
    most = Step(name="most", combine=Combine(type="custom", reference="code.py:largest"), inputs=("a",))
    with pytest.raises(HeadraceError):
        await put(backend, pipeline(folder, Step(name="a"), most))
    assert ("pipeline", "p", 0) not in await seen(backend)
    await backend.close()


async def test_a_pipeline_is_fed_by_another(app, backend, folder):
    """What one pipeline answers runs through the pipeline that names it as its input, also once it is set anew."""
    await put(backend, model(folder, "a"))
    await put(backend, pipeline(folder, Step(name="a"), name="first"))
    fed = pipeline(folder, Step(name="a"), name="second", input=Input(external_inputs=("first.outputs",)))
    await put(backend, fed)
    heard = asyncio.Queue()
    backend.tap("second", "outputs", lambda *what: heard.put_nowait(what))
    for version in (1, 2):
        await put(backend, pipeline(folder, Step(name="a"), name="first", version=version))
        await ask(app, "first")
        _, reference, tensors = await asyncio.wait_for(heard.get(), 60)
        assert (reference, tensors[0].data.tolist()) == ("outputs", [[2.0]])


async def test_a_tap_follows_its_pipeline(app, backend, folder):
    """A tap shows what passes the next version and the one after a removal; once ended, it shows nothing."""
    await put(backend, model(folder, "a"))
    await put(backend, pipeline(folder, Step(name="a")))
    heard = asyncio.Queue()
    end = backend.tap("p", "a.outputs", lambda *what: heard.put_nowait(what[1]))
    await put(backend, pipeline(folder, Step(name="a"), version=2))
    await ask(app, "p")
    assert await asyncio.wait_for(heard.get(), 60) == "a.outputs"
    await take(backend, ("pipeline", "p", 0))
    await put(backend, pipeline(folder, Step(name="a"), version=3))
    await ask(app, "p")
    assert await asyncio.wait_for(heard.get(), 60) == "a.outputs"
    end()
    await put(backend, pipeline(folder, Step(name="a"), version=4))
    await ask(app, "p")
    await asyncio.sleep(0.02)
    assert heard.empty()
    with pytest.raises(NotFound, match="nothing to tap at"):
        backend.tap("p", "b.outputs", print)
    with pytest.raises(NotFound, match="pipeline 'q' is not found"):
        backend.tap("q", "", print)


async def test_a_split_answers_for_a_name(app, backend, folder):
    """A split that diverts a model's name shares its requests; taken away, the name is the model's again."""
    for revision in (1, 2):
        await put(backend, model(folder, "a", revision=revision, amount=float(revision)))
    shares = (Share(name="a", version="1", weight=50), Share(name="a", version="2", weight=50))
    await put(backend, split(*shares, diverts="a"))
    assert {await ask(app, "a") for _ in range(60)} == {1.0, 2.0}
    assert sum(each.requests for each in backend.counts("s").values()) == 60
    await put(backend, split(*[Share(name="a", version="1", weight=100)], diverts="a", digest="2"))
    assert {await ask(app, "a") for _ in range(20)} == {1.0}
    await take(backend, ("split", "s", 0))
    assert await ask(app, "a") == 2.0


async def test_a_split_that_diverts_another_name_gives_the_first_back(app, backend, folder):
    """When a split answers for another name than before, the first name is its model's again."""
    await put(backend, model(folder, "a"))
    await put(backend, model(folder, "b", amount=10.0))
    await put(backend, split(Share(name="b"), diverts="a"))
    assert await ask(app, "a") == 10.0
    await put(backend, split(Share(name="a"), diverts="b", digest="2"))
    assert (await ask(app, "a"), await ask(app, "b")) == (1.0, 1.0)


async def test_a_split_is_ready_while_one_candidate_is(app, backend, folder):
    """A split with one candidate of two answers with that one; with none, it is not ready."""
    unit = split(Share(name="a"), Share(name="b"))
    await put(backend, model(folder, "a"))
    await put(backend, unit)
    assert {await ask(app, "s") for _ in range(20)} == {1.0}
    await take(backend, ("model", "a", 1))
    assert (await seen(backend))[key_of(unit)].state == "progressing"
    with pytest.raises(ModelNotReady, match="a is not found; b is not found"):
        app.models.route("s")


async def test_a_mirror_gets_copies_and_harms_nobody(app, backend, folder):
    """Copies go to a mirror that disagrees, callers see the candidate's answers, and the split counts both."""
    await put(backend, model(folder, "a"))
    await put(backend, model(folder, "b", amount=10.0))
    await put(backend, split(Share(name="a"), mirror=Share(name="b", weight=100), compares=True))
    assert {await ask(app, "s", value) for value in range(20)} == {float(value + 1) for value in range(20)}
    async with asyncio.timeout(60):
        while not any(each.compared >= 20 for each in backend.counts("s").values()):
            await asyncio.sleep(0.01)
    assert {name: (each.compared, each.agreed) for name, each in backend.counts("s").items() if each.compared} == {
        "b": (20, 0)
    }


async def test_pictures(app, backend, folder):
    """A pipeline and a split are drawn as text and as Mermaid, and what is neither is not found."""
    await put(backend, model(folder, "a"))
    await put(backend, pipeline(folder, Step(name="a")))
    await put(backend, split(Share(name="a", version="1", weight=3), Share(name="b"), diverts="a"))
    assert "a" in backend.picture("p", "text")
    assert backend.picture("p", "mermaid").startswith("flowchart")
    assert backend.picture("s", "text") == "s   answers for a\n├─ a revision 1  75 %\n└─ b             25 %\n"
    assert '-->|"75 %"| c0["a revision 1"]' in backend.picture("s", "mermaid")
    with pytest.raises(NotFound):
        backend.picture("nobody", "text")


async def test_a_server_sets_the_budget_of_memory_until_it_goes(app, folder):
    """A Server resource without url rules what models may take together; without it the setting does again."""
    backend = over(app, memory_bytes=0)
    unit = ServerUnit(name="here", digest="1", spec=Server(memory_bytes=1000))
    await put(backend, unit)
    await put(backend, model(folder, "a"))
    assert (await seen(backend))[key_of(unit)].state == "ready"
    big = model(folder, "big")
    big = ModelUnit(
        name="big", digest="1", base=big.base, revision=1, spec=Model(reference="code.py:Add", memory_bytes=10_000)
    )
    with pytest.raises(LoadFailed, match="all models together may take"):
        await put(backend, big)
    await take(backend, key_of(unit))
    await put(backend, big)
    assert await ask(app, "big") == 1.0
    await backend.close()


async def test_a_model_says_what_it_takes_and_what_it_lacks(app, backend, folder):
    """The details of a model say where it runs, what it takes, and the requirements that this server does not know."""
    unit = ModelUnit(
        name="m",
        digest="1",
        base=str(folder),
        revision=1,
        spec=Model(reference="code.py:Add", requirements=("python", "gpu"), memory_bytes=5000),
    )
    await put(backend, unit)
    details = (await seen(backend))[key_of(unit)].details
    assert details["memoryBytes"] > 0
    assert details["inMemory"] is True
    assert details["placement"] in {"inline", "thread"}
    assert [each for each in details["warnings"] if "'gpu'" in each]
    assert not [each for each in details["warnings"] if "'python'" in each]


async def test_removing_what_is_not_there_is_done(backend):
    """Removals of units that nobody set succeed."""
    for kind in ("model", "pipeline", "split", "server"):
        await backend.carry_out(Action(verb="remove", key=(kind, "nobody", 1 if kind == "model" else 0)))
    assert await seen(backend) == {}


async def test_nothing_stays_of_what_was_removed(app, folder):
    """After a model, a pipeline and a split came, answered and went, no counts, dependents or locks of theirs are kept."""
    backend = over(
        app,
        counted=lambda key, version, infer: measure(infer, app.metrics.model(key, version)),
        forgotten=app.metrics.forget,
    )
    units = [
        model(folder, "a"),
        pipeline(folder, Step(name="a"), Step(name="own", python="code.py:Add", inputs=("a",))),
        split(Share(name="a"), diverts="a"),
    ]
    for unit in units:
        await put(backend, unit)
    assert [await ask(app, name) for name in ("a", "p", "s")] == [1.0, 2.0, 1.0]
    assert app.metrics.find("p.pipeline", "") is not None
    for unit in reversed(units):
        await take(backend, key_of(unit))
    await backend.close()
    assert [app.metrics.find(*key) for key in (("a", "1"), ("p.own", "1"), ("p.pipeline", ""))] == [None] * 3
    assert (dict(backend._dependents), dict(backend._implicit), dict(app._repository._locks)) == ({}, {}, {})


async def test_what_a_candidate_did_before_it_had_its_engine_does_not_count(app, folder):
    """While an engine is looked for the split says so; afterwards its counts begin anew."""
    looked_for = {"b"}
    backend = over(app, settling=lambda name, version: name in looked_for)
    await put(backend, model(folder, "a"))
    await put(backend, model(folder, "b"))
    unit = split(Share(name="a"), Share(name="b"))
    await put(backend, unit)
    for _ in range(20):
        await ask(app, "s")
    assert "engine of b has ended" in (await seen(backend))[key_of(unit)].details["settling"]
    assert sum(each.requests for each in backend.counts("s").values()) == 20
    looked_for.clear()
    assert not (await seen(backend))[key_of(unit)].details
    assert sum(each.requests for each in backend.counts("s").values()) == 0
