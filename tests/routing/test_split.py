"""A split shares by weight, sticks, counts what is whose fault, and changes its weights without a failed request."""

from __future__ import annotations

import asyncio
import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.routing.small_candidates import Model, asking

from headrace.errors import InvalidRequest, ModelError, ModelNotFound, ModelNotReady, Overloaded, RuntimeFailed
from headrace.payload import InferenceResponse
from headrace.routing.mirror import Mirror
from headrace.routing.shares import BOUNDS, Candidate
from headrace.routing.split import Split


async def asked(split, count):
    for _ in range(count):
        await split.infer(asking())


@pytest.mark.parametrize("weights", [(50, 50), (90, 10), (1, 2, 3, 4), (99.5, 0.5)])
async def test_candidates_are_asked_as_often_as_their_weights_say(weights):
    """Pearson's statistic over 4000 requests is within the 99.9th percentile of its distribution."""
    models = [Model(f"m{index}") for index in range(len(weights))]
    split = Split("e", [m.candidate(w) for m, w in zip(models, weights, strict=True)], seed=7)
    await asked(split, 4000)
    wanted = [4000 * weight / sum(weights) for weight in weights]
    found = [len(model.calls) for model in models]
    statistic = sum((f - w) ** 2 / w for f, w in zip(found, wanted, strict=True))
    assert statistic < {1: 10.83, 3: 16.27}[len(weights) - 1]
    assert [split.counts()[model.name].requests for model in models] == found


async def test_a_weight_of_zero_gets_nothing():
    """Neither by chance nor by a sticky header."""
    a, b = Model("a"), Model("b")
    split = Split("e", [a.candidate(0), b.candidate(1)])
    await asked(split, 50)
    await split.infer(asking(headers={"x-seldon-route": ":a:"}))
    assert (len(a.calls), len(b.calls)) == (0, 51)


@pytest.mark.parametrize("header", [":b_2:", ":x_1: :b_2:", ":x_1:,:b_2:"])
async def test_a_route_sent_back_asks_for_the_same_again(header):
    """Also when its weight has become small, but not when it is gone."""
    a, b = Model("a"), Model("b")
    split = Split("e", [a.candidate(99, "1"), b.candidate(1, "2")], seed=1)
    for _ in range(20):
        response = await split.infer(asking(headers={"x-seldon-route": header}))
        assert (response.model_name, response.headers["x-seldon-route"]) == ("b", ":b_2:")
    alone = Split("e", [a.candidate(99, "1")])
    assert (await alone.infer(asking(headers={"x-seldon-route": header}))).model_name == "a"


async def test_a_name_that_is_part_of_another_is_not_taken_for_it():
    """`:b_1:` does not stick to `b_11` or `ab_1`."""
    models = [Model("b"), Model("b"), Model("ab")]
    candidates = [m.candidate(1, v) for m, v in zip(models, ("11", "1", "1"), strict=True)]
    split = Split("e", candidates, seed=1)
    for _ in range(20):
        await split.infer(asking(headers={"x-seldon-route": ":b_1:"}))
    assert [len(model.calls) for model in models] == [0, 20, 0]


async def test_answers_accumulate_their_routes():
    """A pipeline's own steps stay in the header, and its other headers too."""

    async def pipeline(request):
        return InferenceResponse(model_name="p", outputs=(), headers={"x-seldon-route": ":add10_1:", "x-y": "z"})

    split = Split("e", [Candidate("p.pipeline", "", 1, pipeline, ":p.pipeline:"), Model("q").candidate(0)])
    response = await split.infer(asking())
    assert response.headers == {"x-seldon-route": ":add10_1: :p.pipeline:", "x-y": "z"}


async def test_where_nobody_else_could_have_answered_nothing_is_said():
    """An experiment of one candidate, there for its mirror, gives the answer as it is."""
    split = Split("e", [Model("a").candidate()])
    assert not (await split.infer(asking())).headers


@pytest.mark.parametrize("away", [ModelNotReady("loading"), ModelNotFound("gone")], ids=["not ready", "gone"])
async def test_a_candidate_that_is_not_there_costs_its_callers_nothing(away):
    """Another one answers, and the failure is the absent one's."""
    a, b = Model("a", error=away), Model("b")
    split = Split("e", [a.candidate(), b.candidate()], seed=3)
    await asked(split, 40)
    counts = split.counts()
    assert counts["a"].requests == counts["a"].failures > 5
    assert (counts["b"].requests, counts["b"].failures) == (40, 0)


async def test_where_nobody_is_there_the_caller_learns_it():
    """Each candidate is tried once, none with a weight of 0."""
    models = [Model(name, error=ModelNotReady(f"{name} is loading")) for name in "abc"]
    split = Split("e", [m.candidate(w) for m, w in zip(models, (1, 1, 0), strict=True)])
    with pytest.raises(ModelNotReady, match="is loading"):
        await split.infer(asking())
    assert [len(model.calls) for model in models] == [1, 1, 0]


@pytest.mark.parametrize(
    ("error", "failures"),
    [
        (RuntimeFailed("no"), 1),
        (Overloaded("full"), 1),
        (ZeroDivisionError("no"), 1),
        (ModelError("no", status=500), 1),
        (ModelError("no", status=422), 0),
        (InvalidRequest("no"), 0),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_only_the_candidates_own_failures_count(error, failures):
    """What the caller did wrong is a request of the candidate's, but no failure."""
    split = Split("e", [Model("a", error=error).candidate()])
    with pytest.raises(type(error)):
        await split.infer(asking())
    counted = split.counts()["a"]
    assert (counted.requests, counted.failures, sum(counted.latency.values())) == (1, failures, 1)


async def test_latencies_fall_into_their_buckets():
    """A request of 3 milliseconds is in the bucket whose bounds hold it; one of minutes in the last."""
    clock = itertools.cycle([0.0, 0.003, 1.0, 301.0]).__next__
    split = Split("e", [Model("a").candidate()], clock=clock)
    await asked(split, 2)
    taken = [bound for bound, count in split.counts()["a"].latency.items() if count]
    assert taken[0] >= 0.003 > taken[0] / 1.13
    assert taken[1] == math.inf
    assert len(split.counts()["a"].latency) == len(BOUNDS) + 1


async def test_counts_begin_anew_with_other_weights_and_not_with_the_same():
    """Setting what is set changes nothing."""
    a, b = Model("a"), Model("b")
    split = Split("e", [a.candidate(1), b.candidate(1)])
    await asked(split, 10)
    split.set_weights({"a": 1.0})
    assert sum(each.requests for each in split.counts().values()) == 10
    split.set_weights({"a": 3.0})
    assert split.weights() == {"a": 3.0, "b": 1.0}
    assert sum(each.requests for each in split.counts().values()) == 0
    await asked(split, 10)
    split.reset()
    assert sum(each.requests for each in split.counts().values()) == 0
    assert split.weights() == {"a": 3.0, "b": 1.0}


@pytest.mark.parametrize(
    "weights",
    [{"a": 0, "b": 0}, {"a": -1}, {"a": math.nan}, {"a": math.inf}, {"c": 1}],
    ids=["all zero", "negative", "nan", "infinite", "unknown"],
)
async def test_weights_that_cannot_be_change_nothing(weights):
    """The split says what is wrong, and goes on as it was."""
    split = Split("e", [Model("a").candidate(1), Model("b").candidate(2)])
    with pytest.raises(InvalidRequest):
        split.set_weights(weights)
    assert split.weights() == {"a": 1, "b": 2}


@pytest.mark.parametrize("candidates", [[], [Model("a").candidate(), Model("a").candidate()]], ids=["none", "twice"])
def test_candidates_that_cannot_be_are_refused(candidates):
    """A split has somebody to ask, and everybody once."""
    with pytest.raises(InvalidRequest):
        Split("e", candidates)


@settings(max_examples=30, deadline=None)
@given(
    changes=st.lists(st.tuples(st.floats(0, 100), st.floats(0, 100)).filter(lambda w: max(w) > 0), max_size=12),
    stride=st.integers(1, 7),
)
def test_weights_change_under_traffic_without_a_failed_request(changes, stride):
    """Every request is answered by one candidate, those in flight by whom they were with."""

    async def play():
        gate = asyncio.Event()
        a, b = Model("a", gate=gate), Model("b", factor=3.0, gate=gate)
        split = Split("e", [a.candidate(1), b.candidate(1)], seed=5)
        tasks = []
        for weights in [*changes, (1, 1)]:
            tasks += [asyncio.create_task(split.infer(asking(index))) for index in range(stride)]
            await asyncio.sleep(0)
            split.set_weights(dict(zip("ab", weights, strict=True)))
        gate.set()
        answers = await asyncio.gather(*tasks)
        assert len(a.calls) + len(b.calls) == len(answers) == stride * (len(changes) + 1)
        for index, answer in enumerate(answers):
            factor = {"a": 2.0, "b": 3.0}[answer.model_name]
            assert answer.outputs[0].data[0, 0] == np.float32(index % stride) * factor

    asyncio.run(play())


async def test_streams_are_shared_alike():
    """A stream comes from one candidate, sticks, and goes to another when that is not there yet."""

    async def parts(request):
        for index in range(3):
            yield InferenceResponse(model_name="s", outputs=(), id=str(index))

    streaming = Model("s").candidate(infer_stream=parts)
    away, once = Model("a", error=ModelNotReady("loading")), Model("b")
    split = Split("e", [streaming, away.candidate(), once.candidate()], seed=2)
    sticky = [r async for r in split.infer_stream(asking(headers={"x-seldon-route": ":s:"}))]
    assert [(r.id, r.headers["x-seldon-route"]) for r in sticky] == [("0", ":s:"), ("1", ":s:"), ("2", ":s:")]
    for _ in range(10):
        answers = [r async for r in split.infer_stream(asking(headers={"x-seldon-route": ":a:"}))]
        assert [r.model_name for r in answers] in (["s"] * 3, ["b"])
    assert split.counts()["a"].failures == 10


async def test_a_stream_that_has_begun_is_not_begun_again():
    """An error after the first answer is the caller's to see."""

    async def broken(request):
        yield InferenceResponse(model_name="s", outputs=())
        raise ModelNotReady("unloaded in between")

    split = Split("e", [Model("s").candidate(infer_stream=broken), Model("b").candidate()], seed=2)
    responses = split.infer_stream(asking(headers={"x-seldon-route": ":s:"}))
    assert (await anext(responses)).model_name == "s"
    with pytest.raises(ModelNotReady, match="in between"):
        await anext(responses)


async def test_a_candidate_that_is_the_mirror_too_is_counted_once_and_never_against_itself(settle):
    """A rollout's candidate has the requests that callers asked it, and comparisons of those that it did not answer."""
    candidate = Model("new")
    mirror = Mirror("e", candidate.candidate(100), compares=True, delay_seconds=0)
    split = Split("e", [Model("old").candidate(50), candidate.candidate(50)], mirror=mirror, seed=3)
    await asked(split, 40)
    await settle(lambda: mirror.counted().requests == split.counts()["old"].requests)
    old, new = split.counts()["old"], split.counts()["new"]
    assert old.requests + new.requests == 40
    assert new.compared == old.requests
    split.set_weights({"old": 10, "new": 90}, mirror_percent=0)
    assert split.weights() == {"old": 10, "new": 90}
    split.close()


async def test_the_mirrors_percent_is_set_with_the_weights(settle):
    """From nothing to all."""
    shadow = Model("shadow")
    mirror = Mirror("e", shadow.candidate(0, "2"), delay_seconds=0)
    split = Split("e", [Model("a").candidate()], mirror=mirror)
    await asked(split, 10)
    split.set_weights({}, mirror_percent=100)
    await asked(split, 10)
    await settle(lambda: split.counts()["shadow@2"].requests == 10)
    with pytest.raises(InvalidRequest, match="percent"):
        split.set_weights({}, mirror_percent=101)
    split.close()


async def test_a_model_of_no_certain_version_answers_with_the_one_it_is():
    """As Seldon Core v2's clients count and send it back; after a reload, what they sent still asks the same model."""

    def served(name, version):
        async def infer(request):
            return InferenceResponse(model_name=name, model_version=version, outputs=())

        return Candidate(name, "", 1.0, infer, f":{name}:")

    split = Split("e", [served("iris", "3"), served("iris_2", "1"), served("p.pipeline", "7")], seed=1)
    for sent, answered in {
        ":iris_3:": ":iris_3:",
        ":iris_1:": ":iris_3:",
        ":iris:": ":iris_3:",
        ":iris_2_4:": ":iris_2_1:",
        ":p.pipeline:": ":p.pipeline:",
        ":add10_1: :p.pipeline:": ":p.pipeline:",
    }.items():
        for _ in range(10):
            response = await split.infer(asking(headers={"x-seldon-route": sent}))
            assert response.headers["x-seldon-route"] == answered
    assert {(await split.infer(asking(headers={"x-seldon-route": ":gone_1:"}))).model_name for _ in range(99)} == {
        "iris",
        "iris_2",
        "p.pipeline",
    }
