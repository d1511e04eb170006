"""Wasserstein's distance: its value against scipy, its unit, and fixed bounds."""

from __future__ import annotations

from types import MappingProxyType

import numpy as np
import pytest
from scipy import stats

from headrace.detectors.wasserstein import Wasserstein
from headrace.features import numeric
from headrace.testing.drift import DriftConformance


class TestWasserstein(DriftConformance):
    detector = Wasserstein
    categories = False


class TestFixed(DriftConformance):
    detector = Wasserstein
    parameters = MappingProxyType({"threshold": 0.4})
    categories = False
    level = False


def test_value_is_scipys_in_deviations():
    """The distance times the interquartile range / 1.349 is scipy's, for samples of unequal size with ties."""
    rng = np.random.default_rng(0)
    a, b = np.round(rng.gamma(2, size=(300, 1)), 2), np.round(rng.gamma(3, size=(111, 1)), 2)
    unit = np.subtract(*np.quantile(a, [0.75, 0.25])) / 1.349
    found = Wasserstein.fit(a, numeric(1)).test(b)
    assert found.statistic[0] * unit == pytest.approx(stats.wasserstein_distance(a[:, 0], b[:, 0]), rel=1e-9)


def test_units_do_not_matter():
    """The answer for a column in other units is the same."""
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(200, 1)), rng.normal(0.3, 1, size=(100, 1))
    one = Wasserstein.fit(a, numeric(1)).test(b)
    other = Wasserstein.fit(1000 * a + 5, numeric(1)).test(1000 * b + 5)
    assert one.statistic[0] == pytest.approx(other.statistic[0])
    assert one.p_value[0] == pytest.approx(other.p_value[0])


def test_a_shift_is_as_far_as_it_is():
    """A sample that is the reference moved by one deviation is at a distance of one."""
    a = np.random.default_rng(2).normal(size=(5000, 1))
    assert Wasserstein.fit(a, numeric(1)).test(a + 1).statistic[0] == pytest.approx(1.0, abs=0.03)
