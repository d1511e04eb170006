"""Maximum mean discrepancy: published numbers, size and power, what columns do together, and time."""

from __future__ import annotations

import time
from types import MappingProxyType

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from sklearn.datasets import load_wine

from headrace.detectors.mmd import Mmd
from headrace.features import numeric
from headrace.testing.drift import DriftConformance


class TestMmd(DriftConformance):
    detector = Mmd
    parameters = MappingProxyType({"max_rows": 300})
    size_runs = MappingProxyType({100: 100, 1000: 30})


def wine():
    x = load_wine().data
    x = ((x - x.mean(0)) / x.std(0)).astype(np.float32).astype(np.float64)
    return x[::2], x[1::2]


def test_wine_has_the_published_numbers():
    """On wine the unbiased MMD^2 is -0.004256 of odd rows against even ones, and 0.086674 when they are shifted by a half."""
    reference, sample = wine()
    fitted = Mmd.fit(reference, numeric(13), scale=False)
    same, shifted = fitted.test(sample), fitted.test(sample + 0.5)
    assert same.statistic[0] == pytest.approx(-0.004256, abs=1e-6)
    assert same.p_value[0] == pytest.approx(0.77, abs=0.1)
    assert shifted.statistic[0] == pytest.approx(0.086674, abs=2e-6)
    assert shifted.p_value[0] == 1 / 200
    assert shifted.is_drift
    assert not same.is_drift


def test_statistic_is_the_sum_over_pairs():
    """The estimate is the mean over different pairs within each sample, less twice that across, counted one by one."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(12, 2)), rng.normal(0.5, 1, size=(9, 2))
    gaps = [((a[i] - a[j]) ** 2).sum() for i in range(12) for j in range(i)]

    def kernel(x, y):
        return np.exp(-((x - y) ** 2).sum() / np.median(gaps))

    within = np.mean([kernel(x, y) for i, x in enumerate(a) for j, y in enumerate(a) if i != j])
    other = np.mean([kernel(x, y) for i, x in enumerate(b) for j, y in enumerate(b) if i != j])
    across = np.mean([kernel(x, y) for x in a for y in b])
    found = Mmd.fit(a, numeric(2), scale=False).test(b)
    assert found.statistic[0] == pytest.approx(within + other - 2 * across, abs=1e-12)


def test_size_and_power_are_those_measured():
    """With 100 rows of 5 columns: false drift .03, a shift of .3 found in .95, a scale of 1.5 always (within 3 standard errors)."""
    rng, runs = np.random.default_rng(7), 100
    for shift, scale, expected in ((0.0, 1.0, 0.03), (0.3, 1.0, 0.95), (0.0, 1.5, 1.0)):
        rate = np.mean(
            [
                Mmd.fit(rng.normal(size=(100, 5)), numeric(5), seed=run)
                .test(shift + scale * rng.normal(size=(100, 5)))
                .is_drift
                for run in range(runs)
            ]
        )
        assert abs(rate - expected) <= 3 * np.sqrt(max(expected * (1 - expected), 0.01) * 2 / runs), (shift, rate)


def test_what_columns_do_together_is_seen():
    """Two columns, each as before, that were independent and now go together are drift."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(400, 2))
    y = rng.multivariate_normal([0, 0], [[1, 0.8], [0.8, 1]], size=400)
    assert Mmd.fit(x, numeric(2)).test(y).is_drift


def test_the_distance_threshold_is_where_drift_begins():
    """A sample is at or below alpha exactly when its statistic reaches the threshold."""
    rng = np.random.default_rng(2)
    fitted = Mmd.fit(rng.normal(size=(100, 3)), numeric(3), min_effect=0.0)
    for shift in (0.0, 0.1, 0.2, 0.3, 0.5):
        found = fitted.test(rng.normal(shift, 1, size=(60, 3)))
        assert found.is_drift == (found.statistic[0] >= found.distance_threshold)


def test_permutations_cost_a_few_times_the_distances():
    """199 permutations of 1,000 rows against 1,000 take less than 25 times the distances between all of them."""
    rng = np.random.default_rng(0)
    reference, sample = rng.normal(size=(1000, 10)), rng.normal(size=(1000, 10))
    fitted = Mmd.fit(reference, numeric(10))
    both = np.concatenate([reference, sample])

    def elapsed(work):
        started = time.process_time()
        work()
        return time.process_time() - started

    distances = min(elapsed(lambda: cdist(both, both, "sqeuclidean")) for _ in range(4))
    assert min(elapsed(lambda: fitted.test(sample)) for _ in range(4)) < 25 * distances


def test_large_windows_are_sampled():
    """Of 20,000 rows as many are compared as `max_rows` says, and a shift is still seen."""
    rng = np.random.default_rng(3)
    fitted = Mmd.fit(rng.normal(size=(20_000, 3)), numeric(3), max_rows=200)
    assert len(fitted.points) == 200
    found = fitted.test(rng.normal(0.5, 1, size=(20_000, 3)))
    assert found.is_drift
    assert found.rows == 20_000
