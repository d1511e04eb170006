"""Rollouts: the laws of the state machine as properties, and each transition by example."""

import math

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.control import rollout as rollouts
from headrace.control.backends.base import Counts
from headrace.control.resources import Judge, MetricCheck, Rollout, RolloutStep
from headrace.control.rollout import Progress, advance, news, weights

JUDGE = Judge(max_latency_ratio=0, min_requests=100)
THREE = tuple(RolloutStep(weight=weight, pause_seconds=60) for weight in (5, 25, 50))
ROLLOUT = Rollout(stable="iris@1", candidate="iris@2", steps=THREE, judge=JUDGE)
GOOD, BAD, NONE = Counts(requests=400), Counts(requests=400, failures=300), Counts()
STABLE = Counts(requests=4000)


def change(rollout, **fields):
    return msgspec.structs.replace(rollout, **fields)


def begun(rollout=ROLLOUT, now=0.0):
    return advance(rollout, Progress(), NONE, NONE, now)


def passed(progress, rollout=ROLLOUT, *, now, stable=STABLE, candidate=GOOD):
    """One look at counts that have begun anew, and one at what came in the step."""
    fresh = advance(rollout, progress, NONE, NONE, progress.since + 0.5) if progress.settling else progress
    return advance(rollout, fresh, stable, candidate, now)


# -- laws --

COUNTS = st.builds(
    lambda n, part: Counts(requests=n, failures=round(n * part)),
    st.sampled_from([0, 3, 99, 100, 101, 400, 5000]),
    st.sampled_from([0.0, 0.01, 0.5, 1.0]),
)
STEPS = st.lists(
    st.builds(RolloutStep, weight=st.sampled_from([0, 1, 5, 25, 50, 100]), pause_seconds=st.sampled_from([0, 30])),
    max_size=4,
).map(tuple)
LOOKS = st.lists(st.tuples(st.sampled_from([0.0, 1, 11, 31, 100]), COUNTS, COUNTS, st.booleans()), max_size=25)


@settings(max_examples=150, deadline=None)
@given(STEPS, LOOKS, st.sampled_from([0.0, 60.0]))
def test_laws(steps, looks, timeout):
    """Whatever the counts do: weights stay within 0 and 100 and fall by a rollback only; the end is the end; nothing
    goes on with less than the least number of requests; saying it twice changes nothing; JSON keeps it.
    """
    judge = Judge(max_latency_ratio=0, timeout_seconds=timeout)
    progress, now = Progress(), 1e9
    for after, stable, candidate, paused in looks:
        now += after
        rollout = Rollout(stable="a", candidate="b", steps=steps, judge=judge, paused=paused)
        before, progress = progress, advance(rollout, progress, stable, candidate, now)
        assert advance(rollout, progress, stable, candidate, now) == progress
        assert msgspec.json.decode(msgspec.json.encode(progress), type=Progress) == progress
        share = weights(rollout, progress)
        assert sum(share) == 100
        assert 0 <= share[1] <= 100
        assert share[1] >= weights(rollout, before)[1] or progress.state == "RolledBack"
        if before.final:
            assert progress == before
        if before.of and (progress.step > before.step or (progress.state == "Promoted" != before.state)) and steps:
            assert candidate.requests >= judge.min_requests
        if paused and before.of and not before.final:
            assert share == weights(rollout, before)
        assert progress.reason
        assert progress.message
        assert set(progress.events) >= set(news(before, progress))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([10.0, 61, 200]), min_size=5, max_size=20), st.integers(0, 19))
def test_a_restart_loses_nothing_but_counts(waits, at):
    """Counts that begin anew at any moment do not move a rollout, and make its step be watched anew."""
    progress, now = begun(), 0.0
    for number, wait in enumerate(waits):
        now += wait
        if number == at and not progress.final and not progress.settling:
            again = advance(ROLLOUT, progress, NONE, NONE, now)
            assert (again.step, again.weight) == (progress.step, progress.weight)
            if progress.seen != (0, 0):
                assert (again.since, again.attempt) == (now, progress.attempt + 1)
            progress = again
        now += 1
        progress = passed(progress, now=now)


# -- transitions --


def test_the_whole_way():
    """A good candidate goes from step to step, each after its pause, and ends with everything."""
    progress = begun()
    seen = [weights(ROLLOUT, progress)]
    for now in (61, 122, 183):
        assert passed(progress, now=now - 30).step == progress.step
        progress = passed(progress, now=now)
        seen.append(weights(ROLLOUT, progress))
    assert seen == [(95, 5), (75, 25), (50, 50), (0, 100)]
    assert progress.state == "Promoted"
    assert [event.reason for event in progress.events] == ["Started", "StepReached", "StepReached", "Promoted"]
    assert advance(ROLLOUT, progress, STABLE, BAD, 999) == progress


def test_rolled_back_during_the_pause():
    """A candidate that is proven bad is rolled back at once, with the reason in state and history."""
    progress = passed(begun(), now=5, candidate=BAD)
    assert (progress.state, progress.reason) == ("RolledBack", "ErrorRateIncreased")
    assert weights(ROLLOUT, progress) == (100, 0)
    assert progress.message.startswith("rolled back from 5 %: step 1 of 3: the candidate fails more")
    assert progress.events[-1].message == progress.message
    assert advance(ROLLOUT, progress, STABLE, GOOD, 999) == progress


def test_waits_for_traffic():
    """With too little traffic it stays in its step, says so, and records that once."""
    few = Counts(requests=43)
    progress = passed(begun(), now=61, candidate=few)
    assert (progress.state, progress.reason, progress.step) == ("Waiting", "TooLittleTraffic", 0)
    assert "stays at 5 %: step 1 of 3: too little traffic to decide: 43 of the candidate's requests" in progress.message
    again = passed(progress, now=70, candidate=Counts(requests=50))
    assert len(again.events) == len(progress.events)
    assert passed(again, now=80).step == 1


def test_times_out():
    """Without a decision in time it is rolled back, and not before its pause is over."""
    hasty = change(ROLLOUT, judge=change(JUDGE, timeout_seconds=30))
    few = Counts(requests=43)
    progress = passed(begun(hasty), hasty, now=59, candidate=few)
    assert progress.state == "Progressing"
    progress = passed(progress, hasty, now=61, candidate=few)
    assert (progress.state, progress.reason) == ("RolledBack", "TimedOut")
    assert "43 of the candidate's requests" in progress.message


def test_paused():
    """Paused it stays where it is whatever comes, and watches its step anew afterwards."""
    held = change(ROLLOUT, paused=True)
    progress = passed(begun(), held, now=61)
    assert (progress.state, progress.step) == ("Paused", 0)
    assert passed(progress, held, now=500, candidate=BAD) == progress
    resumed = passed(progress, now=1000)
    assert (resumed.state, resumed.reason, resumed.since) == ("Progressing", "Resumed", 1000)
    assert passed(resumed, now=1059).step == 0
    assert passed(resumed, now=1060).step == 1


def test_paused_from_the_beginning():
    """Declared paused, nothing is sent to the candidate until it is not."""
    held = change(ROLLOUT, paused=True)
    progress = begun(held)
    assert (progress.state, weights(held, progress)) == ("Paused", (100, 0))
    assert weights(ROLLOUT, advance(ROLLOUT, progress, NONE, NONE, 10)) == (95, 5)


@pytest.mark.parametrize("fields", [{"candidate": "iris@3"}, {"stable": "iris@0"}, {"endpoint": "flowers"}], ids=str)
def test_another_candidate(fields):
    """Another candidate, stable version or endpoint begins again, and keeps the history."""
    done = passed(begun(), now=5, candidate=BAD)
    other = change(ROLLOUT, **fields)
    assert weights(other, done) == (100, 0)
    progress = advance(other, done, STABLE, GOOD, 10)
    assert (progress.state, progress.step, weights(other, progress)) == ("Progressing", 0, (95, 5))
    assert [event.reason for event in progress.events] == ["Started", "ErrorRateIncreased", "Started"]
    assert [event.reason for event in news(done, progress)] == ["Started"]


def test_another_revision_of_the_candidate():
    """A candidate of the same name that has changed begins again."""
    first = advance(ROLLOUT, Progress(), NONE, NONE, 0, revision="2")
    assert advance(ROLLOUT, first, NONE, NONE, 0, revision="2") == first
    failed = advance(ROLLOUT, first, STABLE, BAD, 5, revision="2")
    assert failed.state == "RolledBack"
    assert advance(ROLLOUT, failed, STABLE, BAD, 6, revision="3").state == "Progressing"


def test_edited_judge_and_steps():
    """An edit of the judge goes on; an edit of the steps goes on at the first that has no less weight."""
    progress = passed(begun(), now=61)
    assert passed(progress, change(ROLLOUT, judge=Judge()), now=62).weight == 25
    steps = tuple(RolloutStep(weight=weight) for weight in (10, 20, 40, 80))
    moved = advance(change(ROLLOUT, steps=steps), progress, NONE, NONE, 63)
    assert (moved.step, moved.weight) == (2, 40)
    shorter = advance(change(ROLLOUT, steps=steps[:1]), progress, NONE, NONE, 63)
    assert (shorter.step, shorter.weight) == (0, 25)
    assert [event.reason for event in news(progress, shorter)] == ["StepReached"]
    assert advance(change(ROLLOUT, steps=steps[:1]), shorter, NONE, NONE, 64).step == 0


def test_old_counts_are_not_the_new_steps():
    """Right after a change of weights, counts that go on from before decide nothing; once anew, they do."""
    quick = change(ROLLOUT, steps=tuple(RolloutStep(weight=weight) for weight in (5, 50)))
    progress = advance(quick, begun(quick), STABLE, GOOD, 1)
    assert progress.step == 1
    more = Counts(requests=401)
    assert advance(quick, progress, STABLE, more, 2) == progress
    assert advance(quick, advance(quick, progress, NONE, NONE, 3), STABLE, more, 4).state == "Promoted"
    assert advance(quick, progress, STABLE, more, 20).state == "Promoted"


def test_nothing_is_judged_before_the_split_is_set():
    """While the split does not have its weights, nothing is decided."""
    progress = begun()
    assert advance(ROLLOUT, progress, STABLE, BAD, 500, settled=False) == progress


def test_a_step_with_everything():
    """Where the candidate has every request, it is compared with the stable version's last step, also after a restart;
    alone from the start, there is nothing to compare with.
    """
    full = change(ROLLOUT, steps=(RolloutStep(weight=50), RolloutStep(weight=100, pause_seconds=60)))
    slow = {0.1: 3990, math.inf: 10}
    progress = advance(full, begun(full), change(STABLE, latency=slow), GOOD, 1)
    assert weights(full, progress) == (0, 100)
    progress = msgspec.json.decode(msgspec.json.encode(progress), type=Progress)
    assert progress.baseline.counts().latency == slow
    assert passed(progress, full, now=30, stable=NONE, candidate=BAD).reason == "ErrorRateIncreased"
    assert passed(progress, full, now=62, stable=NONE).state == "Promoted"
    alone = change(ROLLOUT, steps=(RolloutStep(weight=100),))
    assert passed(begun(alone), alone, now=62, stable=NONE).reason == "NothingToCompareWith"


def test_shadow_step():
    """A step of weight 0 is judged by the answers compared."""
    steps = (RolloutStep(weight=0), RolloutStep(weight=10))
    shadow = change(ROLLOUT, steps=steps, judge=change(JUDGE, min_agreement=0.9), mirror_percent=100)
    progress = begun(shadow)
    assert weights(shadow, progress) == (100, 0)
    assert passed(progress, shadow, now=5, candidate=Counts(compared=400, agreed=400)).weight == 10
    assert passed(progress, shadow, now=5, candidate=Counts(compared=400, agreed=200)).reason == "Disagrees"


def test_a_metric():
    """A metric of the candidate that is out of bounds rolls back."""
    metric = change(ROLLOUT, judge=change(JUDGE, metrics=(MetricCheck(name="drift", at_most=1),)))
    progress = advance(metric, begun(metric), STABLE, GOOD, 5, {"drift": 2.0})
    assert progress.reason == "MetricOutOfBounds"


def test_a_clock_set_back():
    """A clock that is set back delays by no more than the pause that begins then."""
    progress = begun(now=1000)
    progress = advance(ROLLOUT, progress, STABLE, GOOD, 500)
    assert progress.since == 500
    assert passed(progress, now=560).step == 1


def test_history_is_bounded():
    """However often it begins again, a bounded number of events is kept, the newest."""
    progress = Progress()
    for number in range(100):
        progress = advance(change(ROLLOUT, candidate=f"iris@{number}"), progress, NONE, NONE, number)
    assert len(progress.events) == rollouts._EVENTS_KEPT
    assert progress.events[-1].at == 99
