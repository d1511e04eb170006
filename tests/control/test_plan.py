"""The planner, as the pure function it is."""

import time

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.control import plan, rollout
from headrace.control.backends.base import Counts, Observed, Share, SplitUnit, key_of
from headrace.control.plan import Failure, Revision
from headrace.control.resources import (
    Candidate,
    Experiment,
    Metadata,
    Mirror,
    Model,
    Resource,
    Rollout,
    Server,
    Status,
)
from headrace.graph.spec import Pipeline, Step


def model(name="a", *, revision=1, ready=0, generation=None, **spec):
    return Resource(
        kind="Model",
        metadata=Metadata(name=name, uid=name, generation=generation or revision),
        spec=Model(**({"uri": f"{name}{revision}"} | spec)),
        status=Status(revision=revision, ready_revision=ready),
    )


def pipeline(name, *steps, generation=1):
    made = tuple(step if isinstance(step, Step) else Step(name=step) for step in steps)
    return Resource(
        kind="Pipeline", metadata=Metadata(name=name, uid=name, generation=generation), spec=Pipeline(steps=made)
    )


def resource(kind, name, spec, generation=1):
    return Resource(kind=kind, metadata=Metadata(name=name, uid=name, generation=generation), spec=spec)


def kept(*numbers, name="a"):
    return {name: {n: Revision(number=n, spec=Model(uri=f"{name}{n}")) for n in numbers}}


def ready(units, **states):
    return [Observed(key=key_of(each), digest=each.digest, state=states.get(each.name, "ready")) for each in units]


def by_key(observed):
    return {each.key: each for each in observed}


def carried_out(units, observed, **more):
    """The plan, and what is there once it is carried out in an order that `after` allows."""
    actions = plan.plan(units, observed, **more)
    there, done = by_key(observed), set()
    pending = {each.key: each for each in actions}
    while pending:
        free = [each for each in pending.values() if all(key in done for key in each.after)]
        assert free, f"nobody can begin: {pending}"
        for action in free:
            done.add(action.key)
            del pending[action.key]
            if action.verb == "remove":
                del there[action.key]
            else:
                there[action.key] = Observed(key=action.key, digest=action.unit.digest, state="ready")
    return actions, list(there.values())


def shown(actions):
    return [(each.verb, each.key) for each in actions]


def test_models_come_before_what_uses_them():
    """A pipeline waits for its models, and a split for its pipeline."""
    resources = [
        resource("Experiment", "e", Experiment(candidates=(Candidate(name="p"),), resource_type="pipeline")),
        pipeline("p", "a", "b"),
        model("b"),
        model("a"),
    ]
    actions = plan.plan(plan.units(resources), [])
    after = {each.key: each.after for each in actions}
    assert set(after["pipeline", "p", 0]) == {("model", "a", 1), ("model", "b", 1)}
    assert after["split", "e", 0] == (("pipeline", "p", 0),)
    assert [each.stage for each in actions] == sorted(each.stage for each in actions)


def test_a_second_plan_is_empty():
    """Once a plan was carried out, the plan for the same is empty."""
    resources = [
        model("a"),
        model("b"),
        pipeline("p", "a", "b"),
        resource("Experiment", "e", Experiment(candidates=(Candidate(name="a"), Candidate(name="b")), default="a")),
        resource("Server", "s", Server(memory_bytes=5)),
        resource("Rollout", "r", Rollout(stable="a", candidate="b", endpoint="z")),
    ]
    units = plan.units(resources)
    _, there = carried_out(units, [])
    assert plan.plan(units, there) == []


def test_a_new_revision_comes_before_the_old_one_goes():
    """The old revision stays until the new one is ready, and is removed then."""
    changed = model(revision=2, ready=1)
    units = plan.units([changed], revisions=kept(1, 2))
    old = ready(plan.units([model(ready=1)], revisions=kept(1)))
    actions, there = carried_out(units, old)
    assert shown(actions) == [("set", ("model", "a", 2))]
    assert plan.promoted(changed, by_key(there)) == 2
    settled = model(revision=2, ready=2)
    assert shown(plan.plan(plan.units([settled], revisions=kept(1, 2)), there)) == [("remove", ("model", "a", 1))]


def test_a_revision_that_fails_leaves_the_old_one_alone():
    """While the new revision fails, the old one is wanted, and is not promoted away."""
    changed = model(revision=2, ready=1)
    there = [
        *ready(plan.units([model(ready=1)], revisions=kept(1))),
        Observed(key=("model", "a", 2), digest="?", state="failed"),
    ]
    assert plan.promoted(changed, by_key(there)) == 1
    units = plan.units([changed], revisions=kept(1, 2), observed=by_key(there))
    assert {key_of(each) for each in units} == {("model", "a", 1), ("model", "a", 2)}


def test_a_canary_never_has_more_than_its_share():
    """The split holds the name for the old revision before the new one is loaded, and lets it in once it is ready."""
    canary = model(revision=2, ready=1, canary_traffic_percent=10)
    old = ready(plan.units([model(ready=1)], revisions=kept(1)))
    units = plan.units([canary], revisions=kept(1, 2), observed=by_key(old))
    (split,) = (each for each in units if isinstance(each, SplitUnit))
    assert split.shares == (Share(name="a", version="1", weight=100.0),)
    assert (split.diverts, split.owner) == ("a", ("Model", "a"))
    actions, there = carried_out(units, old)
    assert shown(actions) == [("set", ("split", "a", 0)), ("set", ("model", "a", 2))]
    assert actions[1].after == (("split", "a", 0),)
    assert plan.promoted(canary, by_key(there)) == 1
    (split,) = (
        each
        for each in plan.units([canary], revisions=kept(1, 2), observed=by_key(there))
        if isinstance(each, SplitUnit)
    )
    assert [(each.version, each.weight) for each in split.shares] == [("1", 90.0), ("2", 10.0)]


def test_a_canary_after_a_restart_loads_the_old_revision_first():
    """From nothing, the revision with the traffic is loaded, then split, and only then the canary."""
    canary = model(revision=2, ready=1, canary_traffic_percent=10)
    actions, _ = carried_out(plan.units([canary], revisions=kept(1, 2)), [])
    assert [each.key for each in actions] == [("model", "a", 1), ("split", "a", 0), ("model", "a", 2)]


def test_a_canary_that_is_replaced_gives_its_share_back_first():
    """A third revision without a canary keeps the split for the first, until the third is ready."""
    second = model(revision=2, ready=1, canary_traffic_percent=10)
    _, there = carried_out(plan.units([second], revisions=kept(1, 2)), [])
    _, there = carried_out(plan.units([second], revisions=kept(1, 2), observed=by_key(there)), there)
    third = model(revision=3, ready=1)
    units = plan.units([third], revisions=kept(1, 2, 3), observed=by_key(there))
    (split,) = (each for each in units if isinstance(each, SplitUnit))
    assert [each.version for each in split.shares] == ["1"]
    actions = plan.plan(units, there)
    after = {each.key: each.after for each in actions}
    assert after["model", "a", 3] == (("split", "a", 0),)


@pytest.mark.parametrize("percent", [None, 100])
def test_promoting_a_canary_removes_the_split(percent):
    """Without a percentage, or at 100, the newest revision has all, and split and old revision go."""
    canary = model(revision=2, ready=1, canary_traffic_percent=10)
    _, there = carried_out(plan.units([canary], revisions=kept(1, 2)), [])
    whole = model(revision=2, ready=1, generation=3, canary_traffic_percent=percent)
    assert plan.promoted(whole, by_key(there)) == 2
    whole = model(revision=2, ready=2, generation=3, canary_traffic_percent=percent)
    units = plan.units([whole], revisions=kept(1, 2), observed=by_key(there))
    assert shown(plan.plan(units, there)) == [("remove", ("split", "a", 0)), ("remove", ("model", "a", 1))]


def test_what_changes_no_answer_makes_no_revision():
    """Idle time, memory, server and canary are kept out of what makes a revision; the uri is not."""
    assert plan.loaded(Model(uri="a", idle_seconds=3, memory_bytes=4, canary_traffic_percent=5)) == Model(uri="a")
    assert plan.loaded(Model(uri="a")) != plan.loaded(Model(uri="b"))


def test_a_canary_percentage_loads_nothing_again():
    """A changed percentage changes the digest of the split only."""
    before, after = (
        plan.units([model(revision=2, ready=1, generation=percent, canary_traffic_percent=percent)], revisions=kept(1))
        for percent in (10, 20)
    )
    assert [each.digest for each in before if each.name == "a"][:2] == [each.digest for each in after][:2]


def test_a_pipeline_that_answers_waits_for_the_models_of_its_change():
    """A pipeline that is there is not repointed to a model that failed; one that is not there yet is set."""
    old = ready(plan.units([model("a", ready=1), pipeline("p", "a")], revisions=kept(1)))
    resources = [model("a", ready=1), model("b"), pipeline("p", "b", generation=2)]
    units = plan.units(resources, revisions=kept(1))
    (bad,) = (each for each in units if each.name == "b")
    failures = {key_of(bad): Failure(digest=bad.digest, count=1, at=0.0, reason="no")}
    assert plan.plan(units, old, failures=failures, now=0.5) == []
    assert shown(plan.plan(units, old[:1], failures=failures, now=0.5)) == [("set", ("pipeline", "p", 0))]


def test_a_model_goes_after_its_last_user_was_repointed():
    """A removed model waits for the pipeline that used it, and stays while that cannot be changed."""
    first = plan.units([model("a", ready=1), pipeline("p", "a")], revisions=kept(1))
    current = {key_of(each): each for each in first}
    units = plan.units([model("b"), pipeline("p", "b", generation=2)])
    actions = plan.plan(units, ready(first), current=current)
    after = {each.key: each.after for each in actions}
    assert after["model", "a", 1] == (("pipeline", "p", 0),)
    (bad,) = (each for each in units if each.name == "b")
    failures = {key_of(bad): Failure(digest=bad.digest, count=1, at=0.0, reason="no")}
    assert plan.plan(units, ready(first), current=current, failures=failures, now=0.5) == []


def test_users_are_removed_before_what_they_use():
    """Without any resources left, splits go before pipelines, and those before models."""
    everything = plan.units(
        [
            model("a"),
            pipeline("p", "a"),
            resource("Experiment", "e", Experiment(candidates=(Candidate(name="p"),), resource_type="pipeline")),
        ]
    )
    current = {key_of(each): each for each in everything}
    actions = plan.plan([], ready(everything), current=current)
    assert [each.key[0] for each in actions] == ["split", "pipeline", "model"]
    assert actions[2].after == (("pipeline", "p", 0),)
    assert carried_out([], ready(everything), current=current)[1] == []


def test_what_has_a_name_leaves_once_the_next_to_have_it_is_there():
    """A model that becomes an experiment of its name stays until that splits, and the other way round."""
    experiment = resource("Experiment", "n", Experiment(candidates=(Candidate(name="a"), Candidate(name="b"))))
    as_split, as_model = plan.units([model("a"), model("b"), experiment]), plan.units([model("n")])
    current = {key_of(each): each for each in as_model}
    actions = plan.plan(as_split, ready(as_model), current=current)
    removal = next(each for each in actions if each.verb == "remove")
    assert (removal.key, removal.after) == (("model", "n", 1), (("split", "n", 0),))
    loading = ready([*as_model, *as_split[:2]], a="progressing", b="progressing")
    assert not any(each.verb == "remove" for each in plan.plan(as_split, loading, current=current))

    current = {key_of(each): each for each in as_split}
    actions = plan.plan(as_model, ready(as_split), current=current)
    removal = next(each for each in actions if each.key == ("split", "n", 0))
    assert removal.after == (("model", "n", 1),)
    actions = plan.plan(as_model, [*ready(as_split), *ready(as_model)], current=current)
    assert {each.key for each in actions} == {key_of(each) for each in as_split}
    broken = {("model", "n", 1): Failure(digest=as_model[0].digest, count=1, at=0.0, reason="no")}
    assert plan.plan(as_model, ready(as_split), current=current, failures=broken) == []


def test_what_failed_is_tried_again_after_a_while_that_doubles():
    """A failure holds its unit back for 1, 2, 4 ... 300 seconds; another declaration is tried at once."""
    (unit,) = plan.units([model("a")])
    failure = None
    pauses = []
    for _ in range(12):
        failure = plan.failed(failure, unit.digest, now=0.0, reason="no")
        pauses.append(failure.until)
        assert plan.plan([unit], [], failures={key_of(unit): failure}, now=failure.until - 0.1) == []
        assert len(plan.plan([unit], [], failures={key_of(unit): failure}, now=failure.until)) == 1
    assert pauses[:4] == [1.0, 2.0, 4.0, 8.0]
    assert pauses[-1] == 300.0
    (other,) = plan.units([model("a", uri="elsewhere")])
    assert len(plan.plan([other], [], failures={key_of(unit): failure}, now=0.0)) == 1
    assert plan.due({key_of(unit): failure}) == 300.0


def test_what_failed_by_itself_is_set_again():
    """A unit that is observed failed is set again, with the reason."""
    units = plan.units([model("a")])
    (action,) = plan.plan(units, [msgspec.structs.replace(ready(units)[0], state="failed", reason="it died")])
    assert action.reason == "it failed: it died"


def test_what_is_on_its_way_is_left_alone():
    """Units that are progressing or leaving get no action."""
    units = plan.units([model("a")])
    for state in ("progressing", "leaving"):
        assert plan.plan(units, ready(units, a=state)) == []
    assert plan.plan([], ready(units, a="leaving")) == []


def test_an_experiment_becomes_a_split():
    """Weights, default, mirror and pinned revisions of an experiment stand in its split, and revisions are kept."""
    experiment = resource(
        "Experiment",
        "e",
        Experiment(
            default="a",
            candidates=(Candidate(name="a", weight=3), Candidate(name="b@1")),
            mirror=Mirror(name="c", percent=50),
        ),
    )
    resources = [model("a"), model("b", revision=2, ready=2), model("c"), experiment]
    units = plan.units(resources, revisions=kept(1, 2, name="b"))
    (split,) = (each for each in units if isinstance(each, SplitUnit) and each.name == "e")
    assert split.shares == (Share(name="a", weight=3.0), Share(name="b", version="1", weight=1.0))
    assert (split.default, split.diverts) == ("a", "a")
    assert (split.mirror, split.compares) == (Share(name="c", weight=50.0), True)
    assert ("model", "b", 1) in {key_of(each) for each in units}


def test_a_split_waits_for_its_candidates_but_not_for_its_mirror():
    """A split is not set while a candidate is not ready; a mirror that is not ready is no reason."""
    experiment = Experiment(candidates=(Candidate(name="a"),), mirror=Mirror(name="b"))
    units = plan.units([model("a"), model("b"), resource("Experiment", "e", experiment)])
    split = ("split", "e", 0)
    without = {name: [each for each in ready(units[:2]) if each.key[1] != name] for name in "ab"}
    failures = {
        key_of(each): Failure(digest=each.digest, count=1, at=0.0, reason="no") for each in units if each.name in "ab"
    }
    assert split not in {each.key for each in plan.plan(units, without["a"], failures=failures, now=0.5)}
    assert split in {each.key for each in plan.plan(units, without["b"], failures=failures, now=0.5)}


def test_a_rollout_begins_with_everything_where_it_is():
    """Before its first judgement a rollout gives the candidate nothing; then what its progress says."""
    spec = Rollout(stable="a", candidate="b", mirror_percent=20)
    begun = resource("Rollout", "r", spec)
    split = plan.split_of(begun)
    assert [(each.name, each.weight) for each in split.shares] == [("a", 100.0), ("b", 0.0)]
    assert (split.diverts, split.mirror) == ("a", Share(name="b", weight=20.0))
    progress = rollout.advance(spec, rollout.Progress(), Counts(), Counts(), 0.0, {}, revision="1", settled=True)
    details = {"progress": msgspec.to_builtins(progress, enc_hook=dict)}
    moved = msgspec.structs.replace(begun, status=Status(details=details))
    assert [each.weight for each in plan.split_of(moved).shares] == [95.0, 5.0]


def world(count):
    """A thousandth each of pipelines, experiments and rollouts; mostly models and pipelines of two of them."""
    models = [model(f"m{n}", ready=1) for n in range(count * 6 // 10)]
    pipelines = [
        pipeline(f"p{n}", models[n].metadata.name, models[n + 1].metadata.name) for n in range(count * 3 // 10)
    ]
    experiments = [
        resource(
            "Experiment",
            f"e{n}",
            Experiment(candidates=(Candidate(name=f"m{n}"), Candidate(name=f"m{n + 1}")), default=f"m{n}"),
        )
        for n in range(count // 10)
    ]
    revisions = {each.metadata.name: {1: Revision(number=1, spec=each.spec)} for each in models}
    return [*models, *pipelines, *experiments], revisions


def test_five_thousand_resources_are_planned_in_a_fifth_of_a_second():
    """From nothing, and again when one of them changed, the plan of 5,000 resources takes less than 200 ms."""
    resources, revisions = world(5000)
    memo = plan.Memo()

    def timed(observed, resources):
        began = time.thread_time()  # the work, whatever else the machine does
        units = plan.units(resources, revisions=revisions, observed=by_key(observed), memo=memo)
        actions = plan.plan(units, observed, current={key_of(each): each for each in units})
        return time.thread_time() - began, units, actions

    cold, units, actions = min((timed([], resources) for _ in range(1)), key=lambda each: each[0])
    assert len(actions) == 5000
    there = ready(units)
    changed = [model("m0", ready=1, generation=2, idle_seconds=5), *resources[1:]]
    warm, _, actions = min((timed(there, changed) for _ in range(3)), key=lambda each: each[0])
    assert [each.key for each in actions] == [("model", "m0", 1)]
    assert cold < 0.2 * SLOW
    assert warm < 0.1 * SLOW


SLOW = 3
"""Room for a machine that does other things at the same time; the numbers stand in the benchmarks."""

_names = st.sampled_from("abc")


@st.composite
def _resources(draw):
    found = {}
    for name in draw(st.sets(_names)):
        revision = draw(st.integers(1, 3))
        found["Model", name] = model(
            name,
            revision=revision,
            ready=draw(st.integers(0, revision)),
            uri=draw(st.sampled_from("xy")),
            generation=draw(st.integers(1, 50)),
            canary_traffic_percent=draw(st.sampled_from([None, 0, 10, 100])),
        )
    models = [name for _, name in found]
    for name in draw(st.sets(st.sampled_from("pq"))) if models else ():
        steps = draw(st.lists(st.sampled_from(models), min_size=1, unique=True))
        found["Pipeline", name] = pipeline(name, *steps, generation=draw(st.integers(1, 50)))
    if models and draw(st.booleans()):
        chosen = draw(st.lists(st.sampled_from(models), min_size=1, unique=True))
        spec = Experiment(candidates=tuple(Candidate(name=each, weight=draw(st.integers(1, 3))) for each in chosen))
        found["Experiment", "e"] = resource("Experiment", "e", spec, generation=draw(st.integers(1, 50)))
    return list(found.values())


@given(_resources(), _resources())
def test_from_anything_to_anything_in_an_order_that_ends(before, after):
    """Whatever is there and whatever is wanted: the plan can be carried out, and then the next is empty."""
    revisions = {name: kept(1, 2, 3, name=name)[name] for name in "abc"}
    there, current = [], {}
    for resources in (before, after):
        for _ in range(4):  # a canary takes two looks, and one more to see that there is nothing to do
            units = plan.units(resources, revisions=revisions, observed=by_key(there))
            actions, there = carried_out(units, there, current=current)
            current = {key_of(each): each for each in units}
        assert actions == []
        assert {each.key for each in there} == {key_of(each) for each in units}
