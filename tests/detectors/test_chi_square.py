"""Pearson's chi-square: its numbers against scipy, rare cells, bins of numbers."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from headrace.detectors import chi_square
from headrace.detectors.chi_square import ChiSquare
from headrace.features import UNSEEN, Feature, Features, numeric
from headrace.testing.drift import DriftConformance


class TestChiSquare(DriftConformance):
    detector = ChiSquare


@pytest.mark.parametrize(
    "table", [[[30, 20, 50], [25, 40, 35]], [[10, 200], [30, 180]], [[500, 20, 7, 80], [90, 8, 60, 70]]]
)
def test_statistic_and_p_value_are_scipys(table):
    """Where every cell expects five rows, statistic and p-value are those of chi2_contingency without correction."""
    table = np.array(table, dtype=float)
    found = chi_square.compare(table[0], table[1], most=999, rng=np.random.default_rng(0))
    expected = stats.chi2_contingency(table, correction=False)
    assert found.statistic == pytest.approx(expected.statistic, rel=1e-12)
    assert found.p_value == pytest.approx(expected.pvalue, rel=1e-9)


def test_cramers_v_does_not_depend_on_how_many_rows():
    """Ten times as many rows of one side with the same shares give the same effect, and of equal sides it is scipy's."""
    a, b = np.array([30.0, 20, 50]), np.array([25.0, 40, 35])
    rng = np.random.default_rng(0)
    one, other = (chi_square.compare(a * times, b, most=999, rng=rng) for times in (1, 10))
    assert one.effect == pytest.approx(other.effect)
    assert one.effect == pytest.approx(stats.contingency.association(np.array([a, b]).astype(int), method="cramer"))


def test_a_single_unseen_row_is_as_odd_as_it_is_rare():
    """One unseen row of 100 against 10,000 has p-value 100/10,100, not the one in billions of the limiting law."""
    features = Features(columns=(Feature(name="kind", kind="category", categories=("a", "b")),))
    reference = np.resize([0.0, 1.0], 10_000)[:, None]
    sample = np.resize([0.0, 1.0], 100)[:, None]
    sample[0] = UNSEEN
    found = ChiSquare.fit(reference, features).test(sample)
    assert 0.003 < found.p_value[0] < 0.03
    assert stats.chi2.sf(found.statistic[0], 2) < 1e-9


def test_a_number_is_counted_in_bins_and_a_repeated_value_by_itself():
    """A column that is zero in most rows drifts when these become slightly negative, between the same bounds."""
    rng = np.random.default_rng(0)
    x = np.maximum(rng.normal(size=(500, 1)), 0.0)
    fitted = ChiSquare.fit(x, numeric(1))
    y = np.maximum(rng.normal(size=(500, 1)), 0.0)
    assert not fitted.test(y).is_drift
    assert fitted.test(np.where(y == 0, -1e-9, y)).is_drift


def test_a_small_reference_is_cut_into_few_intervals():
    """Numbers of a reference of 100 rows, against ten times as many of the same law, keep the level of .05."""
    rng = np.random.default_rng(8)
    fitted = ChiSquare.fit(rng.normal(size=(100, 400)), numeric(400), correction="none", min_effect=0.0)
    found = fitted.test(rng.normal(size=(1000, 400)))
    assert found.drifted.sum() <= stats.binom.ppf(0.999, 400, 0.05)
