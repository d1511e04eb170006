"""Confidence sequences: the arithmetic against plain definitions, and the promise that looking often costs nothing."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.control import sequential

RUNS, LOOKS = 1500, np.unique(np.geomspace(2, 3000, 300).astype(int))


def paths(rate, requests, seed):
    """Failures so far of many runs at each look: an array of runs by looks."""
    drawn = np.random.default_rng(seed).random((RUNS, requests[-1])) < rate
    return np.cumsum(drawn, axis=1, dtype=np.int32)[:, requests - 1]


@given(st.floats(0.01, 1e7))
def test_log_gamma(x):
    """log_gamma is that of the standard library."""
    assert float(sequential.log_gamma(x)) == pytest.approx(math.lgamma(x), rel=1e-12, abs=1e-8)


@given(
    st.integers(1, 400), st.integers(1, 400), st.floats(0, 1), st.floats(0, 1), st.floats(-0.95, 0.95, exclude_max=True)
)
def test_likeliest_rates_by_search(n_a, n_b, part_a, part_b, increase):
    """The closed form finds the same least evidence as a search over all pairs of rates that differ by the increase."""
    f_a, f_b = round(n_a * part_a), round(n_b * part_b)
    rates = np.linspace(max(0.0, -increase), min(1.0, 1.0 - increase), 4001)
    alone = sequential._log_likelihood(*np.broadcast_arrays(float(n_a), float(f_a), rates))
    both = alone + sequential._log_likelihood(*np.broadcast_arrays(float(n_b), float(f_b), rates + increase))
    found = float(sequential.difference_evidence(n_a, f_a, n_b, f_b, increase))
    mixture = sum(
        float(sequential._log_mixture(np.float64(n), np.float64(f), sequential._A, sequential._B))
        for n, f in ((n_a, f_a), (n_b, f_b))
    )
    searched = mixture - both.max()
    assert found <= searched + 1e-6
    assert found >= searched - 1e-3 * max(1.0, abs(searched)) - 0.02


def test_the_interval_is_where_the_evidence_is_small():
    """Inside the interval of a difference the evidence is below log(1/alpha), outside it is above."""
    lower, upper = sequential.difference_interval(900, 9, 300, 15, alpha=0.01)
    limit = math.log(100)
    inside, outside = [lower + 1e-4, 0.04, upper - 1e-4], [lower - 1e-4, upper + 1e-4]
    assert (sequential.difference_evidence(900, 9, 300, 15, inside) < limit).all()
    assert (sequential.difference_evidence(900, 9, 300, 15, outside) >= limit).all()


def test_a_mixture_is_a_probability():
    """The mixture's likelihoods of all outcomes of n requests, with their number, sum to one."""
    n = 40
    outcomes = [
        math.comb(n, f) * math.exp(sequential._log_mixture(np.float64(n), np.float64(f), 0.3, 5.0))
        for f in range(n + 1)
    ]
    assert sum(outcomes) == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize("rates", [(0.0, 0.01), (0.02, 0.03), (0.3, 0.31)], ids=str)
@pytest.mark.parametrize("ratio", [1, 9])
def test_false_alarms_while_looking_all_the_time(rates, ratio):
    """At the very edge of what is allowed, at most alpha of runs ever look worse, however often they are looked at."""
    alpha, allowed = 0.05, 0.01
    stable, candidate = paths(rates[0], LOOKS * ratio, 1), paths(rates[1], LOOKS, 2)
    evidence = sequential.difference_evidence(LOOKS * ratio, stable, LOOKS, candidate, allowed)
    above = candidate / LOOKS - stable / (LOOKS * ratio) > allowed
    alarmed = ((evidence >= math.log(1 / alpha)) & above).any(axis=1).mean()
    assert alarmed <= alpha


def test_a_fixed_test_would_not_do():
    """The same looks with the usual z-test raise far more false alarms than it states, which is why this room exists."""
    stable, candidate = paths(0.1, LOOKS, 3), paths(0.1, LOOKS, 4)
    pooled = (stable + candidate) / (2 * LOOKS)
    spread = np.sqrt(np.maximum(pooled * (1 - pooled) * 2 / LOOKS, 1e-12))
    z = (candidate - stable) / LOOKS / spread
    assert (z[:, LOOKS > 20] > 1.645).any(axis=1).mean() > 0.2


def test_power():
    """Of candidates that fail 5 % where 1 % is allowed, nine in ten are found within 1,000 requests."""
    stable, candidate = paths(0.002, LOOKS * 9, 5), paths(0.05, LOOKS, 6)
    evidence = sequential.difference_evidence(LOOKS * 9, stable, LOOKS, candidate, 0.01)
    found = (evidence >= math.log(6 / 0.05)) & (candidate / LOOKS > 0.02)
    assert found[:, LOOKS <= 1000].any(axis=1).mean() > 0.9


@pytest.mark.parametrize("rate", [0.0, 0.01, 0.5, 1.0])
def test_rate_interval_covers(rate):
    """The interval of a rate holds the true one at all looks together, in all but alpha of the runs."""
    failures = paths(rate, LOOKS, 7)
    missed = (sequential.rate_evidence(LOOKS, failures, rate) >= math.log(20)).any(axis=1)
    assert missed.mean() <= 0.05
    lower, upper = sequential.rate_interval(500, round(500 * rate), alpha=0.05)
    assert lower <= rate <= upper
    assert upper - lower < 0.2


@pytest.mark.parametrize("quantile", [0.5, 0.95, 0.99])
@pytest.mark.parametrize("step", [1.05, 2.5], ids=["fine buckets", "coarse buckets"])
def test_quantile_interval_covers(quantile, step):
    """The interval of a quantile holds the true one at all looks together, in all but alpha of the runs, whatever the
    buckets are.
    """
    runs, n, every = 200, 1200, 40
    bounds = np.append(step ** np.arange(-60 / math.log2(step), 60 / math.log2(step)), np.inf)
    bounds = bounds[(bounds > 1e-3) & ((bounds < 1e4) | np.isinf(bounds))]
    values = np.random.default_rng(8).exponential(size=(runs, n))
    places = np.searchsorted(bounds, values)
    counts = np.zeros((runs, n // every, len(bounds)))
    for look in range(n // every):
        chunk = places[:, look * every : (look + 1) * every]
        np.add.at(counts, (np.arange(runs)[:, None], look, chunk), 1)
    counts = counts.cumsum(axis=1)
    lower, upper = sequential.quantile_interval(bounds, counts, quantile, alpha=0.05)
    truth = -math.log(1 - quantile)
    missed = ((truth <= lower * (1 - 1e-12)) | (truth > upper)).any(axis=1)
    assert missed.mean() <= 0.05
    assert np.isfinite(upper[:, -1]).mean() > (0.9 if quantile < 0.99 else 0.2)


def test_quantile_estimate():
    """The estimate of a quantile lies in its bucket, is infinite beyond the last bound, and is nothing of nothing."""
    bounds = np.array([1.0, 2.0, 4.0, np.inf])
    assert sequential.quantile_estimate(bounds, np.array([50.0, 50.0, 0.0, 0.0]), 0.75) == pytest.approx(2**0.5)
    assert sequential.quantile_estimate(bounds, np.array([0.0, 0.0, 10.0, 90.0]), 0.5) == math.inf
    assert math.isnan(sequential.quantile_estimate(bounds, np.zeros(4), 0.5))
