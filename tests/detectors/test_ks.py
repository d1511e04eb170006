"""Kolmogorov and Smirnov's test: its numbers against scipy and published ones, size, power, corrections, and time."""

from __future__ import annotations

import time
from types import MappingProxyType

import numpy as np
import pytest
from scipy import stats
from sklearn.datasets import load_wine

from headrace.detectors import ks
from headrace.detectors.ks import Ks
from headrace.errors import InvalidRequest
from headrace.features import Feature, Features, numeric
from headrace.testing.drift import DriftConformance


class TestKs(DriftConformance):
    detector = Ks
    categories = False


class TestKsBh(DriftConformance):
    detector = Ks
    parameters = MappingProxyType({"correction": "bh"})
    categories = False


class TestKsNone(DriftConformance):
    detector = Ks
    parameters = MappingProxyType({"correction": "none"})
    categories = False


def wine():
    x = load_wine().data
    x = ((x - x.mean(0)) / x.std(0)).astype(np.float32).astype(np.float64)
    return x[::2], x[1::2]


def test_wine_has_the_published_numbers():
    """On wine, odd rows shifted by a half against even rows, statistics, p-values and threshold are alibi-detect's."""
    reference, sample = wine()
    found = Ks.fit(reference, numeric(13)).test(sample + 0.5)
    np.testing.assert_allclose(found.statistic[:4], [0.224719, 0.494382, 0.258427, 0.303371], atol=5e-7)
    np.testing.assert_allclose(found.p_value[[0, 2, 3]], [0.0196298, 0.00443162, 0.00043307], atol=5e-8)
    assert found.p_value[1] < 1e-8
    assert found.threshold == pytest.approx(0.05 / 13)
    assert found.is_drift


@pytest.mark.parametrize(("n", "m"), [(3, 1), (10, 1), (50, 80), (300, 2000), (2500, 2000)])
@pytest.mark.parametrize("decimals", [12, 1, 0])
def test_statistic_and_p_value_are_scipys(n, m, decimals):
    """With and without repeated values the statistic is scipy's, and so is its asymptotic p-value, if within 2e-5 above a thousand rows."""
    rng = np.random.default_rng([n, m])
    a, b = np.round(rng.normal(size=n), decimals), np.round(rng.normal(0.1, 1.1, size=m), decimals)
    expected = stats.ks_2samp(a, b, method="asymp")
    found = ks.distance(np.sort(a), np.sort(b))
    assert found == pytest.approx(expected.statistic, abs=1e-12)
    p_value = ks.tail(np.array([found]), np.array([n * m / (n + m)]))[0]
    assert p_value == pytest.approx(expected.pvalue, abs=2e-5 if n * m / (n + m) > ks.EXACT_ROWS else 1e-12)


def test_size_and_power_are_those_measured():
    """With 100 rows of 5 columns, Bonferroni: false drift .027, a shift of .3 found in .70, a scale of 1.5 in .38 (within 3 standard errors)."""
    rng, runs = np.random.default_rng(7), 300
    for shift, scale, expected in ((0.0, 1.0, 0.027), (0.3, 1.0, 0.70), (0.0, 1.5, 0.38)):
        rate = np.mean(
            [
                Ks.fit(rng.normal(size=(100, 5)), numeric(5)).test(shift + scale * rng.normal(size=(100, 5))).is_drift
                for _ in range(runs)
            ]
        )
        assert abs(rate - expected) <= 3 * np.sqrt(expected * (1 - expected) * 2 / runs), (shift, scale, rate)


def test_many_columns_cost_no_more_than_scipys_one_by_one():
    """30 columns of 10,000 rows take no longer than scipy's asymptotic test of each, the best of a few runs."""
    rng = np.random.default_rng(0)
    reference, sample = rng.normal(size=(10_000, 30)), rng.normal(size=(10_000, 30))
    fitted = Ks.fit(reference, numeric(30))

    def one_by_one():
        for ours, theirs in zip(reference.T, sample.T, strict=True):
            stats.ks_2samp(ours, theirs, method="asymp")

    assert min(elapsed(lambda: fitted.test(sample)) for _ in range(4)) < 1.5 * min(
        elapsed(one_by_one) for _ in range(4)
    )


def elapsed(work):
    started = time.process_time()
    work()
    return time.process_time() - started


def test_without_correction_columns_are_at_the_level_and_the_whole_too():
    """Under `none` about one column in twenty drifts by chance, and yet the whole does in no more than one sample in twenty."""
    rng = np.random.default_rng(1)
    tests = [
        Ks.fit(rng.normal(size=(400, 20)), numeric(20), correction="none", min_effect=0.0).test(
            rng.normal(size=(400, 20))
        )
        for _ in range(60)
    ]
    columns = np.mean([each.drifted for each in tests])
    assert 0.03 < columns < 0.07
    assert np.mean([each.is_drift for each in tests]) <= stats.binom.ppf(0.999, 60, 0.05) / 60


def test_a_large_window_is_no_drift_by_itself():
    """A difference of a fiftieth of a deviation has a tiny p-value in 200,000 rows, and is no drift unless asked for."""
    rng = np.random.default_rng(2)
    reference, sample = rng.normal(size=(200_000, 1)), rng.normal(0.02, 1, size=(200_000, 1))
    found = Ks.fit(reference, numeric(1)).test(sample)
    assert found.p_value[0] < 1e-3
    assert not found.is_drift
    assert Ks.fit(reference, numeric(1), min_effect=0.0).test(sample).is_drift


def test_missing_values_are_as_if_they_were_not_there():
    """Statistic and p-value of a column with missing values are those of its other values."""
    rng = np.random.default_rng(3)
    reference, sample = rng.normal(size=(100, 2)), rng.normal(0.2, 1, size=(80, 2))
    holes = sample.copy()
    holes[::4, 0] = np.nan
    found = Ks.fit(reference, numeric(2)).test(holes)
    expected = stats.ks_2samp(reference[:, 0], np.delete(sample[:, 0], np.s_[::4]), method="asymp")
    assert found.p_value[0] == pytest.approx(expected.pvalue)
    assert found.missing == 20


def test_categories_have_no_order():
    """A table of categories only is refused, with the methods that would do."""
    features = Features(columns=(Feature(name="kind", kind="category", categories=("a", "b")),))
    with pytest.raises(InvalidRequest, match="chi-square"):
        Ks.fit(np.zeros((20, 1)), features)


def test_small_samples_have_the_exact_law():
    """Of 20 rows against 10 the p-value is that of all ways to deal them, where the limiting one is a third of it."""
    gap = np.arange(30.0)
    found = Ks.fit(gap[10:, None], numeric(1)).test(gap[:10, None])
    assert found.p_value[0] == pytest.approx(stats.ks_2samp(gap[10:], gap[:10], method="exact").pvalue, rel=1e-9)
    assert found.p_value[0] == pytest.approx(2 / 30045015)
