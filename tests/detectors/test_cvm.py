"""Cramer and von Mises' test: its numbers against scipy and published ones, ties, size and power."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats
from sklearn.datasets import load_wine

from headrace.detectors import cvm
from headrace.detectors.cvm import Cvm
from headrace.features import numeric
from headrace.testing.drift import DriftConformance


class TestCvm(DriftConformance):
    detector = Cvm
    categories = False


def test_wine_has_the_published_numbers():
    """On wine, odd rows shifted by a half against even rows, statistics are alibi-detect's (which computes in float32)."""
    x = load_wine().data
    x = ((x - x.mean(0)) / x.std(0)).astype(np.float32).astype(np.float64)
    found = Cvm.fit(x[::2], numeric(13)).test(x[1::2] + 0.5)
    np.testing.assert_allclose(found.statistic[:4], [0.647551, 3.724182, 1.135463, 1.841245], atol=3e-6)
    expected = [stats.cramervonmises_2samp(x[::2, at], x[1::2, at] + 0.5).pvalue for at in range(4)]
    np.testing.assert_allclose(found.p_value[:4], expected, atol=2e-7)
    assert found.is_drift


@pytest.mark.parametrize(("n", "m"), [(30, 25), (10, 200), (1000, 700)])
def test_statistic_and_p_value_are_scipys(n, m):
    """Of values that are all different the statistic and the asymptotic p-value are scipy's."""
    rng = np.random.default_rng([n, m])
    a, b = np.sort(rng.normal(size=n)), np.sort(rng.normal(0.3, 1, size=m))
    expected = stats.cramervonmises_2samp(a, b, method="asymptotic")
    found = cvm.compare(a, b)
    assert found.statistic == pytest.approx(expected.statistic, abs=1e-9)
    assert found.p_value == pytest.approx(expected.pvalue, abs=1e-9)


def test_the_tail_goes_on_where_the_series_ends():
    """P(W > w) falls steadily through the point where its two forms meet, and is tiny, not 1, for huge statistics."""
    points = [0.01, 0.1, 0.46136, 0.74346, 1.9999, 2.0001, 3.0, 10.0, 1000.0]
    found = [cvm.tail(each) for each in points]
    assert all(later < earlier for earlier, later in itertools.pairwise(found))
    assert found[2] == pytest.approx(0.05, abs=1e-5)  # the published quantiles of Anderson and Darling (1952)
    assert found[3] == pytest.approx(0.01, abs=1e-5)
    assert found[4] == pytest.approx(found[5], rel=2e-3)
    assert found[7] < 1e-20


@pytest.mark.parametrize("draw", [lambda rng, n: rng.poisson(1.2, n), lambda rng, n: np.round(rng.normal(size=n), 1)])
def test_repeated_values_are_no_drift(draw):
    """Counts and rounded numbers of one law, 1000 rows against 100, are called drift at the level, not always."""
    rng = np.random.default_rng(0)
    runs = 100
    found = [
        Cvm.fit(draw(rng, 1000)[:, None] * 1.0, numeric(1), min_effect=0.0).test(draw(rng, 100)[:, None] * 1.0).is_drift
        for _ in range(runs)
    ]
    assert sum(found) <= stats.binom.ppf(0.999, runs, 0.05)


def test_size_and_power_are_those_measured():
    """With 100 rows of 5 columns, Bonferroni: false drift .045, a shift of .3 found in .79, a scale of 1.5 in .30 (within 3 standard errors)."""
    rng, runs = np.random.default_rng(7), 300
    for shift, scale, expected in ((0.0, 1.0, 0.045), (0.3, 1.0, 0.79), (0.0, 1.5, 0.30)):
        rate = np.mean(
            [
                Cvm.fit(rng.normal(size=(100, 5)), numeric(5)).test(shift + scale * rng.normal(size=(100, 5))).is_drift
                for _ in range(runs)
            ]
        )
        assert abs(rate - expected) <= 3 * np.sqrt(expected * (1 - expected) * (1 / runs + 1 / 200)), (shift, rate)
