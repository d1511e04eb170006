"""Apply to report, over the backend in memory: `service`, `reconciler` and `store` together."""

import asyncio
import contextlib
import time

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headrace.control import parse
from headrace.control.backends.memory import MemoryBackend
from headrace.control.parse import File
from headrace.control.service import Control
from headrace.control.store import Store
from headrace.errors import Conflict, InvalidResources, NotFound

HEAD = "apiVersion: headrace.io/v1\n"


def text(kind, name, spec="{}"):
    return f"{HEAD}kind: {kind}\nmetadata: {{name: {name}}}\nspec: {spec}\n---\n"


def model(name="a", **spec):
    return text("Model", name, "{" + ", ".join(f"{k}: {v}" for k, v in ({"uri": "u"} | spec).items()) + "}")


def files(*documents):
    return [File(name="f.yaml", text="".join(documents), base="/b")]


class Clock:
    def __init__(self):
        self.now = 1_000_000.0

    def __call__(self):
        return self.now


@contextlib.asynccontextmanager
async def controlled(path, backend=None, **more):
    with Store(path) as store:
        control = Control(store, backend or MemoryBackend(), exists=lambda path: "gone" not in path, **more)
        await control.start()
        try:
            yield control
        finally:
            await control.stop()


@pytest.fixture
def backend():
    return MemoryBackend()


@pytest.fixture
async def control(tmp_path, backend):
    async with controlled(tmp_path / "s.db", backend) as made:
        yield made


async def settle(control):
    await asyncio.wait_for(control.settled(), 60)


async def until(condition, control, seconds=60.0):
    async def waiting():
        while not condition():
            await control.watch(control.resource_version, timeout=0.02)

    await asyncio.wait_for(waiting(), seconds)


def conditions(control, kind, name):
    return {each.type: (each.status, each.reason) for each in control.get(kind, name)[0].status.conditions}


async def reasons(control, kind, name):
    return [each.reason for each in reversed(await control.events(kind, name))]


async def test_what_is_applied_becomes_so(control, backend):
    """Models, a pipeline, an experiment and a server are there and Ready, in the generation that was applied."""
    documents = (
        model("a"),
        model("b"),
        text("Pipeline", "p", "{steps: [{name: a}, {name: b, inputs: [a]}], output: {steps: [b]}}"),
        text("Experiment", "e", "{candidates: [{name: a}], mirror: {name: b}}"),
        text("Server", "s"),
    )
    applied = await control.apply(files(*documents))
    assert [each.action for each in applied.changes] == ["created"] * 5
    await settle(control)
    assert backend.units.keys() == {
        ("model", "a", 1), ("model", "b", 1), ("pipeline", "p", 0), ("split", "e", 0), ("server", "s", 0),
    }  # fmt: skip
    assert conditions(control, "Model", "a") == {"Ready": ("True", "Loaded")}
    assert conditions(control, "Pipeline", "p") == {
        "Ready": ("True", "Running"),
        "ModelsReady": ("True", "ModelsReady"),
    }
    assert set(conditions(control, "Experiment", "e")) == {"Ready", "CandidatesReady", "MirrorReady"}
    for resource in control.get():
        assert resource.status.observed_generation == 1
        assert all(each.status == "True" and each.last_transition_time for each in resource.status.conditions)
    assert (await control.plan(files(*documents))).actions == ()
    assert [each.action for each in (await control.apply(files(*documents))).changes] == ["unchanged"] * 5


async def test_nothing_of_a_faulty_apply_is_kept(control, backend):
    """One fault anywhere, and nothing of the apply is declared; all faults come at once."""
    with pytest.raises(InvalidResources) as caught:
        await control.apply(files(model("a"), model("b", uri="gone/x"), text("Experiment", "e")))
    assert len(caught.value.faults) == 2
    assert control.get() == []
    assert control.resource_version == 0


async def test_dry_runs_plans_and_diffs_change_nothing(control, backend):
    """They say what would be done, to the field and the action, and nothing is."""
    await control.apply(files(model("a", replicas=1)))
    await settle(control)
    before = control.get(), control.resource_version, backend.units.keys()
    changed = files(model("a", replicas=2), model("b"))
    applied = await control.apply(changed, dry_run=True)
    assert [(each.name, each.action, each.revision) for each in applied.changes] == [
        ("a", "configured", 2),
        ("b", "created", 1),
    ]
    planned = await control.plan(changed)
    assert {(each.verb, each.key) for each in planned.actions} == {
        ("set", ("model", "a", 2)),
        ("set", ("model", "b", 1)),
    }
    assert all(each.reason for each in planned.actions)
    found = await control.diff(changed)
    fields = {(each.name, each.path): (each.before, each.after) for each in found.differences}
    assert fields["a", "spec.replicas"] == (None, 2)  # what is at its default is not written
    assert fields["b", ""][1]["metadata"] == {"name": "b"}
    assert found.documents["Model", "b"][0] is None
    assert (control.get(), control.resource_version, backend.units.keys()) == before


async def test_an_update_moves_on_when_the_new_revision_is_ready(control, backend):
    """While the new revision loads the old one stays and says so; then it goes."""
    await control.apply(files(model()))
    await settle(control)
    gate = backend.gates["a"] = asyncio.Event()
    await control.apply(files(model(uri="v")))
    await until(lambda: conditions(control, "Model", "a")["Ready"] == ("False", "Loading"), control)
    assert ("model", "a", 1) in backend.units
    assert "revision 1 keeps serving" in control.get("Model", "a")[0].status.conditions[0].message
    gate.set()
    await settle(control)
    assert backend.units.keys() == {("model", "a", 2)}
    status = control.get("Model", "a")[0].status
    assert (status.revision, status.ready_revision) == (2, 2)


async def test_a_revision_that_fails_leaves_the_old_one(tmp_path, backend):
    """The failure is told with its reason, tried again with growing pauses, and gone when it works."""
    clock = Clock()
    async with controlled(tmp_path / "s.db", backend, clock=clock) as control:
        await control.apply(files(model()))
        await settle(control)
        backend.broken["v"] = "it is broken"
        await control.apply(files(model(uri="v")))
        await settle(control)
        message = control.get("Model", "a")[0].status.conditions[0].message
        assert message == "revision 2 cannot be loaded: it is broken; revision 1 keeps serving"
        assert backend.units.keys() == {("model", "a", 1)}
        attempts = []
        carry_out = backend.carry_out

        async def counting(action):
            attempts.append(clock.now)
            await carry_out(action)

        backend.carry_out = counting
        for _ in range(8):
            clock.now += 0.5
            control.changed()
            await settle(control)
        assert attempts == [1_000_001.0, 1_000_003.0]
        backend.broken.clear()
        clock.now += 10
        control.changed()
        await settle(control)
        assert backend.units.keys() == {("model", "a", 2)}
        assert "LoadFailed" in await reasons(control, "Model", "a")
        assert (await reasons(control, "Model", "a"))[-1] == "Loaded"


async def test_one_that_fails_or_takes_long_holds_up_nobody(control, backend):
    """Beside a model that hangs and one that fails, others become ready."""
    gate = backend.gates["slow"] = asyncio.Event()
    backend.broken["bad"] = "no"
    await control.apply(files(model("slow"), model("bad"), text("Pipeline", "p", "{steps: [{name: slow}]}")))
    await control.apply(files(model("quick"), text("Pipeline", "q", "{steps: [{name: quick}]}")))
    await until(lambda: ("pipeline", "q", 0) in backend.units, control)
    assert ("pipeline", "p", 0) not in backend.units
    gate.set()
    await settle(control)
    assert ("pipeline", "p", 0) in backend.units
    assert conditions(control, "Model", "bad") == {"Ready": ("False", "LoadFailed")}


async def test_loads_run_side_by_side_up_to_the_bound(tmp_path, backend):
    """Of twenty models that take a while, as many are loaded at once as is allowed, and no more."""
    backend.seconds = {f"m{n}": 0.01 for n in range(20)}
    async with controlled(tmp_path / "s.db", backend, loads=5) as control:
        await control.apply(files(*(model(f"m{n}") for n in range(20))))
        await settle(control)
    assert (backend.busiest, len(backend.units)) == (5, 20)


async def test_what_ends_while_a_pass_thinks_is_not_done_again(control, backend, monkeypatch):
    """Though actions end while the next pass looks and thinks, each model is loaded once."""
    monkeypatch.setattr("headrace.control.reconciler.MANY", 0)
    backend.seconds = {f"m{n}": 0.0005 * n for n in range(40)}
    await control.apply(files(*(model(f"m{n}") for n in range(40))))
    await settle(control)
    assert sorted(each.key[1] for each in backend.done) == sorted(backend.seconds)


async def test_a_canary_end_to_end(control, backend):
    """A canary gets its share, changes it without a load, and is promoted or taken back."""
    await control.apply(files(model()))
    await settle(control)
    await control.apply(files(model(uri="v", canaryTrafficPercent=10)))
    await settle(control)
    assert conditions(control, "Model", "a") == {"Ready": ("True", "Canary")}
    assert control.get("Model", "a")[0].status.details["traffic"] == {"1": 90, "2": 10}
    backend.done.clear()
    await control.apply(files(model(uri="v", canaryTrafficPercent=50)))
    await settle(control)
    assert [(each.verb, each.key) for each in backend.done] == [("set", ("split", "a", 0))]
    await control.apply(files(model(uri="v")))
    await settle(control)
    assert backend.units.keys() == {("model", "a", 2)}


async def test_a_canary_survives_a_restart(tmp_path):
    """After a restart both revisions are served with the same shares, the old one first."""
    async with controlled(tmp_path / "s.db") as control:
        await control.apply(files(model()))
        await settle(control)
        await control.apply(files(model(uri="v", canaryTrafficPercent=10)))
        await settle(control)
    backend = MemoryBackend()
    async with controlled(tmp_path / "s.db", backend) as control:
        await settle(control)
    assert [each.key for each in backend.done][:3] == [("model", "a", 1), ("split", "a", 0), ("model", "a", 2)]
    assert [(each.version, each.weight) for each in backend.units["split", "a", 0].shares] == [("1", 90.0), ("2", 10.0)]
    assert backend.units["model", "a", 1].spec.uri == "u"


async def test_delete_refuses_what_others_need(control, backend):
    """A model that a pipeline uses is not deleted, unless forced; together they go."""
    await control.apply(files(model("a"), text("Pipeline", "p", "{steps: [{name: a}]}")))
    await settle(control)
    with pytest.raises(Conflict, match="Pipeline 'p' needs Model 'a'"):
        await control.delete("Model", "a")
    with pytest.raises(NotFound):
        await control.delete("Model", "nobody")
    await control.delete("Model", "a", force=True)
    await settle(control)
    await control.delete_all([("Pipeline", "p")])
    await settle(control)
    assert backend.units == {}
    told = await reasons(control, "Pipeline", "p")
    assert (told[0], told[-1]) == ("Created", "Deleted")


async def test_rollback_is_a_new_generation(control, backend):
    """What was declared before is declared again, served again, and stands in the history."""
    await control.apply(files(model(uri="u")), who="me")
    await control.apply(files(model(uri="v")), who="you")
    (change,) = (await control.rollback("Model", "a")).changes
    assert (change.generation, change.revision) == (3, 3)
    await settle(control)
    assert backend.units["model", "a", 3].spec.uri == "u"
    assert [(each.generation, each.who) for each in await control.history("Model", "a")] == [
        (3, "rollback"),
        (2, "you"),
        (1, "me"),
    ]
    await control.delete("Model", "a")
    assert (await control.rollback("Model", "a")).changes[0].action == "created"


async def test_watch_tells_of_every_change(control):
    """A watch answers when something is applied, when it becomes ready and when it goes, and in time when nothing is."""
    first = asyncio.create_task(control.watch(0, timeout=60))
    await asyncio.sleep(0)
    await control.apply(files(model()))
    watched = await first
    while not (watched.resources and watched.resources[0].status.ready_revision):
        watched = await control.watch(watched.resource_version, timeout=60)
    await settle(control)
    version = control.resource_version
    began = time.monotonic()
    quiet = await control.watch(version, timeout=0.05)
    assert (quiet.resources, quiet.deleted) == ((), ())
    assert time.monotonic() - began < 5
    waiting = asyncio.create_task(control.watch(version, timeout=60))
    await control.delete("Model", "a")
    assert (await waiting).deleted == (("Model", "a"),)


async def test_what_fails_by_itself_is_set_again(control, backend):
    """A model that dies is seen when the backend says so, and loaded again."""
    await control.apply(files(model()))
    await settle(control)
    backend.done.clear()
    backend.fail(("model", "a", 1), "it died")
    control.changed()
    await settle(control)
    assert [each.key for each in backend.done] == [("model", "a", 1)]
    assert conditions(control, "Model", "a") == {"Ready": ("True", "Loaded")}


async def test_a_pass_that_crashes_is_not_the_end(tmp_path, backend, caplog, monkeypatch):
    """After a pass that raised, which is logged, the next makes it so."""
    monkeypatch.setattr("headrace.control.reconciler.CRASHED_SECONDS", 0.01)
    observe, crashes = backend.observe, iter([True, False])

    async def crashing():
        if next(crashes, False):
            raise RuntimeError("the backend is confused")
        return await observe()

    backend.observe = crashing
    async with controlled(tmp_path / "s.db", backend) as control:
        await control.apply(files(model()))
        await settle(control)
    assert backend.units.keys() == {("model", "a", 1)}
    assert "a pass of the reconciler crashed" in caplog.text


ROLLOUT = "{stable: a, candidate: b, steps: [{weight: 20, pauseSeconds: 10}, {weight: 60, pauseSeconds: 10}], judge: {minRequests: 20, maxLatencyRatio: 0}}"


async def rolled(control, backend, clock, *, failures):
    """Let both answer requests, of which so many of the candidate's fail, until the rollout ends."""
    for step in range(1, 80):
        clock.now += 11
        weights = [each.weight for each in backend.units["split", "r", 0].shares]
        backend.count("r", "a", requests=step * 400, failures=0)
        backend.count("r", "b", requests=step * 400, failures=failures * step)
        control.changed()
        await settle(control)
        if [each.weight for each in backend.units["split", "r", 0].shares] != weights:
            backend.counted.clear()
        if control.get("Rollout", "r")[0].status.details["progress"]["state"] in {"Promoted", "RolledBack"}:
            return
    pytest.fail("the rollout does not end")


@pytest.mark.parametrize(("failures", "end"), [(0, "Promoted"), (200, "RolledBack")])
async def test_a_rollout_ends_by_itself(tmp_path, backend, failures, end):
    """A good candidate is promoted step by step, a bad one rolled back; status, events and weights say so."""
    clock = Clock()
    async with controlled(tmp_path / "s.db", backend, clock=clock) as control:
        await control.apply(files(model("a"), model("b"), text("Rollout", "r", ROLLOUT)))
        await until(lambda: "progress" in control.get("Rollout", "r")[0].status.details, control)
        await settle(control)
        assert [each.weight for each in backend.units["split", "r", 0].shares] == [80.0, 20.0]
        await rolled(control, backend, clock, failures=failures)
        await settle(control)
        weights = [each.weight for each in backend.units["split", "r", 0].shares]
        assert weights == ([0.0, 100.0] if end == "Promoted" else [100.0, 0.0])
        found = conditions(control, "Rollout", "r")
        assert found["Progressing"] == ("False", end)
        assert found["Judged"][0] == ("True" if end == "Promoted" else "False")
        told = await reasons(control, "Rollout", "r")
        assert "Started" in told
        assert told.count(end) <= 2  # the decision, and that the split that follows from it stands
    again = MemoryBackend()
    async with controlled(tmp_path / "s.db", again, clock=clock) as control:
        await settle(control)
        assert [each.weight for each in again.units["split", "r", 0].shares] == weights


async def test_a_rollout_waits_until_its_candidates_are_as_they_will_be(tmp_path, backend, monkeypatch):
    """While the backend says of the split that a candidate settles, nothing begins, and the condition says why."""
    looking = {"settling": "the look for a faster engine of b has ended"}
    observe = backend.observe

    async def observed():
        return [
            msgspec.structs.replace(each, details=dict(looking)) if each.key[0] == "split" else each
            for each in await observe()
        ]

    monkeypatch.setattr(backend, "observe", observed)
    async with controlled(tmp_path / "s.db", backend, look_seconds=0.02) as control:
        await control.apply(files(model("a"), model("b"), text("Rollout", "r", ROLLOUT)))
        await settle(control)
        (found,) = control.get("Rollout", "r")
        (condition,) = [each for each in found.status.conditions if each.type == "Progressing"]
        assert condition.message == "it begins when the look for a faster engine of b has ended"
        assert "progress" not in found.status.details
        looking.clear()
        await until(lambda: "progress" in control.get("Rollout", "r")[0].status.details, control)


async def test_a_change_of_one_among_five_thousand_is_live_at_once(tmp_path, backend):
    """With 5,000 resources there, a change of one is live after less than a tenth of the work that all took."""
    async with controlled(tmp_path / "s.db", backend, loads=64) as control:
        began = time.process_time()
        await control.apply(files(*(model(f"m{n}") for n in range(5000))))
        await settle(control)
        everything = time.process_time() - began
        taken = []
        for revision in (2, 3, 4):
            await control.apply(files(model("m7", uri=f"v{revision}")))
            began = time.process_time()
            while ("model", "m7", revision) not in backend.units:
                await asyncio.sleep(0.001)
            taken.append(time.process_time() - began)
            await settle(control)
    assert min(taken) < everything / 10


_steps = st.lists(
    st.one_of(
        st.tuples(st.just("apply"), st.sampled_from("ab"), st.sampled_from("uvx"), st.sampled_from([None, 0, 30])),
        st.tuples(st.just("chain"), st.sampled_from(["a", "ab"])),
        st.tuples(st.just("delete"), st.sampled_from([("Model", "a"), ("Model", "b"), ("Pipeline", "p")])),
        st.tuples(st.just("rollback"), st.sampled_from([("Model", "a"), ("Model", "b"), ("Pipeline", "p")])),
        st.tuples(st.just("restart")),
        st.tuples(st.just("settle")),
    ),
    max_size=12,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(_steps)
async def test_any_sequence_converges(tmp_path_factory, steps):
    """After any applies, deletes, rollbacks and restarts: what is declared is there, and nothing else is to be done."""
    path = tmp_path_factory.mktemp("any") / "s.db"
    declared, stack = {}, contextlib.AsyncExitStack()
    backend = MemoryBackend()
    backend.broken["x"] = "x never loads"
    async with stack:
        control = await stack.enter_async_context(controlled(path, backend))
        for verb, *rest in steps:
            match verb:
                case "apply":
                    name, uri, percent = rest
                    more = {} if percent is None else {"canaryTrafficPercent": percent}
                    await control.apply(files(model(name, uri=uri, **more)))
                    declared["Model", name] = uri
                case "chain":
                    names = [each for each in rest[0] if ("Model", each) in declared]
                    steps_ = ", ".join(f"{{name: {each}}}" for each in names)
                    document = text(
                        "Pipeline", "p", f"{{steps: [{steps_}], output: {{steps: [{names[0] if names else ''}]}}}}"
                    )
                    if names:
                        await control.apply(files(document))
                        declared["Pipeline", "p"] = names
                case "delete":
                    if rest[0] in declared:
                        await control.delete(*rest[0], force=True)
                        del declared[rest[0]]
                case "rollback":
                    with contextlib.suppress(NotFound, InvalidResources):
                        await control.rollback(*rest[0])
                        spec = control.get(*rest[0])[0].spec
                        declared[rest[0]] = spec.uri if rest[0][0] == "Model" else [each.name for each in spec.steps]
                case "restart":
                    await stack.aclose()
                    backend = MemoryBackend()
                    backend.broken["x"] = "x never loads"
                    control = await stack.enter_async_context(controlled(path, backend))
                case "settle":
                    await settle(control)
        await settle(control)
        assert {each.key for each in control.get()} == set(declared)
        undeclared = {key[1] for key in backend.units} - {name for _, name in declared}
        for (kind, name), what in declared.items():
            status = control.get(kind, name)[0].status
            if kind == "Model" and what != "x":
                assert backend.units["model", name, status.revision].spec.uri == what
                assert status.conditions[0].status == "True"
        needed = declared.get(("Pipeline", "p"), ())
        if "x" not in declared.values() and all(("Model", each) in declared for each in needed):
            assert (await control.plan()).actions == ()
            assert not undeclared
        # A pipeline that cannot become what it is declared to be answers as it did, and keeps what it needs for that.
        assert not undeclared or needed


GRAPH = """
apiVersion: machinelearning.seldon.io/v1
kind: SeldonDeployment
metadata: {name: d}
spec:
  predictors:
  - name: main
    graph: {name: a, implementation: SKLEARN_SERVER, modelUri: "gs://x/a", children: [%s]}
"""


async def test_resources_made_of_one_foreign_resource_go_with_it(control):
    """What a later form of a foreign resource no longer gives is taken away by the apply of that form, and by no other."""
    child = '{name: b, implementation: SKLEARN_SERVER, modelUri: "gs://x/b"}'
    await control.apply(files(GRAPH % child))
    before = {each.key for each in control.get()}
    await control.apply(
        files(*(msgspec.json.encode(parse.render(each)).decode() + "\n---\n" for each in control.get("Pipeline")))
    )
    assert {each.key for each in control.get()} == before
    applied = await control.apply(files(GRAPH % ""))
    gone = {each.key for each in applied.changes if each.action == "deleted"}
    assert len(gone) >= 1
    assert {each.key for each in control.get()} == {each.key for each in applied.changes} - gone


async def test_counts_are_shown_where_they_are_asked_for(control, backend):
    """`get` of an experiment shows what its candidates have done by now."""
    await control.apply(files(model("a"), text("Experiment", "e", "{candidates: [{name: a}]}")))
    await settle(control)
    backend.count("e", "a", requests=7, failures=1)
    counts = control.get("Experiment", "e")[0].status.details["counts"]
    assert counts["a"] == {"requests": 7, "failures": 1, "compared": 0, "agreed": 0}
    assert msgspec.json.encode(counts)


async def test_faults_of_reading_and_of_meaning_come_together(control):
    """One apply tells the typo in one document and the missing step in another, and does not miss what is misspelt."""
    misspelt = text("Model", "wrong", "{urii: u}")
    unknown = text(
        "Pipeline", "p", "{steps: [{name: a, model: wrong}, {name: b, inputs: [nowhere]}], output: {steps: [b]}}"
    )
    with pytest.raises(InvalidResources) as refused:
        await control.apply(files(misspelt, unknown))
    found = "\n".join(refused.value.faults)
    assert "unknown field 'urii'; did you mean 'uri'?" in found
    assert "pipeline p step b has input nowhere for step that does not exist" in found
    assert "model 'wrong'" not in found
    assert control.get() == []


async def test_a_file_that_is_no_yaml_hides_no_fault_of_another(control):
    """The others are checked, but what they name may stand in the one that cannot be read."""
    broken = File(name="broken.yaml", text="{", base="/b")
    experiment = text("Experiment", "e", "{candidates: [{name: x}, {name: x}]}")
    with pytest.raises(InvalidResources) as refused:
        await control.apply([broken, *files(experiment)])
    found = "\n".join(refused.value.faults)
    assert "not valid YAML" in found
    assert "duplicated" in found
    assert "does not exist" not in found
