"""The judge: what it decides on given counts, what it says, and how often it is wrong (`test_sequential` has the rest).

Criteria: failures, latency, agreement, metrics. Decisions: rollback, promote, wait. Left out: traffic whose failures
depend on each other, which the tests do not promise anything for.
"""

import math

import msgspec
import numpy as np
import pytest

from headrace.control import judge as judging
from headrace.control.backends.base import Counts
from headrace.control.judge import judge
from headrace.control.resources import Judge, MetricCheck

BOUNDS = np.append(np.geomspace(1e-4, 100, 121), math.inf)
NO_LATENCY = Judge(max_latency_ratio=0)


def latency(values):
    counts = np.bincount(np.searchsorted(BOUNDS, values), minlength=len(BOUNDS))
    return {float(bound): int(count) for bound, count in zip(BOUNDS, counts, strict=True)}


def counts(requests, failures=0, seconds=None, **rest):
    values = np.full(requests, 0.01) if seconds is None else seconds
    return Counts(requests=requests, failures=failures, latency=latency(values), **rest)


def test_fails_nearly_everything():
    """A candidate that fails nearly everything is rolled back within two dozen requests, before the least number."""
    verdict = judge(counts(300, 1), counts(20, 19), Judge(), steps=3)
    assert (verdict.decision, verdict.reason) == ("rollback", "ErrorRateIncreased")
    assert "19 of its 20 requests fail (95 %)" in verdict.message


def test_fails_as_stable_does():
    """A candidate whose stable version fails as much is not rolled back, however bad both are."""
    assert judge(counts(3000, 2700), counts(1000, 900), Judge(), steps=3).decision != "rollback"


def test_promotes_what_is_as_good():
    """A candidate as good as the stable version is promoted within a few hundred requests, with its evidence."""
    verdict = judge(counts(5000, 5), counts(300), Judge(), step=1, steps=3)
    assert (verdict.decision, verdict.reason) == ("promote", "WithinBounds")
    assert verdict.message.startswith("step 2 of 3: nothing speaks against it after 300 of the candidate's requests")
    errors = verdict.evidence["errors"]
    assert errors["interval"][0] < errors["increase"] < errors["interval"][1] < 0.06
    assert errors["alpha"] == pytest.approx(0.05 * 0.9 / 6)


def test_evidence_is_json():
    """Evidence goes through JSON unchanged, infinite ends of intervals too."""
    for number in (0, 5, 500):
        evidence = judge(counts(number), counts(number), Judge(min_agreement=0.9)).evidence
        assert msgspec.json.decode(msgspec.json.encode(evidence)) == evidence


@pytest.mark.parametrize("seen", [0, 1, 43, 99])
def test_too_little_traffic(seen):
    """Below the least number it waits, and says how many requests there are and how many are missing."""
    verdict = judge(counts(2000), counts(seen), Judge(), steps=3)
    assert (verdict.decision, verdict.reason) == ("wait", "TooLittleTraffic")
    assert f"too little traffic to decide: {seen} of the candidate's requests" in verdict.message
    assert "more are needed" in verdict.message


def test_what_is_missing_is_about_right():
    """As many more requests as the message names are enough, if it goes on as before, and a tenth of them is not."""
    stable, candidate = counts(900, 9), counts(100, 1)
    assert judge(stable, candidate, NO_LATENCY).decision == "wait"
    (more,) = [
        int(word.replace(",", ""))
        for before, word in zip(
            *(judge(stable, candidate, NO_LATENCY).message.split()[at:] for at in (0, 1)), strict=False
        )
        if before == "about"
    ]
    for part, decision in ((1.0, "promote"), (0.1, "wait")):
        n = 100 + round(more * part)
        assert judge(counts(9 * n, 9 * n // 100), counts(n, n // 100), NO_LATENCY).decision == decision


def test_the_least_number_is_kept():
    """However clear it is, nothing is promoted below the least number."""
    demanding = Judge(min_requests=5000, max_latency_ratio=0)
    assert judge(counts(90000), counts(4999), demanding).decision == "wait"
    assert judge(counts(90000), counts(5000), demanding).decision == "promote"


def test_slower():
    """A candidate twice as slow at a heavy tail is rolled back for its latency within 2,000 requests."""
    drawn = np.random.default_rng(1)
    stable = counts(18000, seconds=0.01 * drawn.lognormal(0, 0.8, 18000))
    verdict = judge(stable, counts(2000, seconds=0.02 * drawn.lognormal(0, 0.8, 2000)), Judge(), steps=3)
    assert (verdict.decision, verdict.reason) == ("rollback", "LatencyIncreased")
    assert "its p95 is" in verdict.message
    assert 1.25 < verdict.evidence["latency"]["interval"][0] < 2 < verdict.evidence["latency"]["interval"][1]


@pytest.mark.parametrize("tail", ["lognormal", "pareto"])
def test_the_same_heavy_tail(tail):
    """Of candidates with the stable version's own heavy tail, looked at again and again, none in 30 is rolled back."""
    drawn = np.random.default_rng(2)
    for _ in range(30):
        draw = drawn.lognormal(0, 2, 8000) if tail == "lognormal" else 1 + drawn.pareto(1.1, 8000)
        for n in range(25, 2000, 175):
            stable, candidate = counts(3 * n, seconds=0.001 * draw[: 3 * n]), counts(n, seconds=0.001 * draw[-n:])
            assert judge(stable, candidate, Judge(), steps=3).decision != "rollback"


def test_failures_as_often_as_stable():
    """Of candidates that fail as often as the stable version, looked at again and again, at most the error rate is
    rolled back, and nearly all are promoted in the end.
    """
    drawn = np.random.default_rng(3)
    rolled_back = promoted = 0
    runs, looks = 100, range(50, 1500, 145)
    for _ in range(runs):
        stable, candidate = np.cumsum(drawn.random(9000) < 0.02), np.cumsum(drawn.random(3000) < 0.02)
        decisions = [
            judge(counts(3 * n, int(stable[3 * n - 1])), counts(n, int(candidate[n - 1])), NO_LATENCY).decision
            for n in looks
        ]
        rolled_back += "rollback" in decisions
        promoted += "promote" in decisions
    assert rolled_back <= 0.05 * runs
    assert promoted >= 0.95 * runs


def test_histograms_too_coarse():
    """Where the buckets are too wide to tell, it says so instead of asking for traffic that would not help."""
    wide = Counts(requests=5000, latency={0.001: 2500, 1.0: 2500, math.inf: 0})
    verdict = judge(wide, wide, Judge())
    assert verdict.decision == "wait"
    assert "cannot be decided from these histograms" in verdict.message


def test_nothing_to_compare_with():
    """Without a request of the stable version it waits, and says that this is why."""
    verdict = judge(Counts(), counts(5000, 100), Judge())
    assert (verdict.decision, verdict.reason) == ("wait", "NothingToCompareWith")


def test_no_latency_asked_for():
    """With a ratio of 0, latency is not judged, and the error rate is not shared with it."""
    slow = counts(1000, seconds=np.full(1000, 5.0))
    verdict = judge(counts(1000), slow, NO_LATENCY)
    assert verdict.decision == "promote"
    assert set(verdict.evidence) == {"errors", "requests"}
    assert verdict.evidence["errors"]["alpha"] == pytest.approx(0.045)


@pytest.mark.parametrize(
    ("compared", "agreed", "decision", "reason"),
    [
        (0, 0, "wait", "TooLittleTraffic"),
        (20, 20, "wait", "TooLittleTraffic"),
        (400, 400, "promote", "WithinBounds"),
        (400, 280, "rollback", "Disagrees"),
        (400, 375, "wait", "TooLittleTraffic"),
    ],
)
def test_agreement(compared, agreed, decision, reason):
    """Agreement is promoted when it is shown to be near what is asked for, and rolled back when shown to be below."""
    rule = Judge(min_agreement=0.95, max_latency_ratio=0)
    verdict = judge(counts(5000), counts(500, compared=compared, agreed=agreed), rule)
    assert (verdict.decision, verdict.reason) == (decision, reason)


def test_all_must_agree():
    """Where all answers must agree, one that does not is enough."""
    verdict = judge(counts(500), counts(500, compared=500, agreed=499), Judge(min_agreement=1.0))
    assert (verdict.decision, verdict.reason) == ("rollback", "Disagrees")


def test_shadow():
    """A candidate that gets copies only is judged by agreement, and its comparisons count as requests."""
    rule = Judge(min_agreement=0.95)
    shadow = Counts(compared=300, agreed=299)
    verdict = judge(counts(5000), shadow, rule, shadow=True)
    assert verdict.decision == "promote"
    assert set(verdict.evidence) == {"agreement", "requests"}
    assert judge(counts(5000), Counts(compared=20, agreed=20), rule, shadow=True).decision == "wait"
    failing = Counts(requests=300, failures=150, compared=150, agreed=150)
    assert judge(counts(5000), failing, rule, shadow=True).reason == "ErrorRateIncreased"


@pytest.mark.parametrize(
    ("value", "seen", "decision", "reason"),
    [
        (0.4, 500, "promote", "WithinBounds"),
        (0.6, 500, "rollback", "MetricOutOfBounds"),
        (0.1, 500, "rollback", "MetricOutOfBounds"),
        (None, 500, "wait", "MetricMissing"),
        (math.nan, 500, "wait", "MetricMissing"),
        (0.6, 50, "wait", "TooLittleTraffic"),
    ],
)
def test_metrics(value, seen, decision, reason):
    """A metric beyond its bounds rolls back after the least number of requests; one without a value is waited for."""
    rule = Judge(metrics=(MetricCheck(name="drift", at_most=0.5, at_least=0.2),), max_latency_ratio=0)
    verdict = judge(counts(5000), counts(seen), rule, metrics={"drift": value})
    assert (verdict.decision, verdict.reason) == (decision, reason)


def test_lost_counts_cost_confidence():
    """All attempts of a step together keep to the share of the error rate that one has."""
    alphas = [judge(counts(9), counts(9), Judge(), attempt=at).evidence["errors"]["alpha"] for at in range(12)]
    assert sum(alphas) <= 0.05 / 2
    assert alphas[0] > 0.8 * sum(alphas)


def test_every_margin_is_decided():
    """With no increase allowed at all, equal arms are promoted and a worse one is rolled back."""
    none = Judge(max_error_rate_increase=0, max_latency_ratio=0)
    assert judge(counts(5000, 50), counts(1000, 10), none).decision == "promote"
    assert judge(counts(5000, 50), counts(1000, 60), none).decision == "rollback"
    assert judging.FAR_FAILURES > 0
