"""The share of outliers: exact p-values, its interval, and the rate that is known or counted."""

from __future__ import annotations

from types import MappingProxyType

import numpy as np
import pytest
from scipy import stats

from headrace.detectors.outlier_rate import OutlierRate
from headrace.errors import InvalidRequest
from headrace.features import numeric
from headrace.testing.drift import DriftConformance


def flags(count, rows):
    return np.repeat([1.0, 0.0], [count, rows - count])[:, None]


class Flags(DriftConformance):
    detector = OutlierRate
    features = numeric(("flag",))
    categories = False

    def usual(self, rows, *, seed):
        return (np.random.default_rng(seed).random((rows, 1)) < 0.05) * 1.0

    def drifted(self, rows, *, seed):
        return (np.random.default_rng(seed).random((rows, 1)) < 0.2) * 1.0


class TestCounted(Flags):
    pass


class TestKnown(Flags):
    parameters = MappingProxyType({"rate": 0.05})


class TestMore(Flags):
    parameters = MappingProxyType({"rate": 0.05, "alternative": "greater"})


def test_p_value_is_the_exact_binomial_one():
    """Against a known rate the p-value is binomtest's, and the interval is Wilson's."""
    fitted = OutlierRate.fit(flags(5, 100), numeric(1), rate=0.05)
    found = fitted.test(flags(9, 80))
    assert found.p_value[0] == pytest.approx(stats.binomtest(9, 80, 0.05).pvalue)
    assert found.statistic[0] == 9 / 80
    expected = stats.binomtest(9, 80).proportion_ci(method="wilson")
    assert fitted.interval(flags(9, 80)) == pytest.approx((expected.low, expected.high))


def test_a_rate_that_was_counted_is_not_known():
    """Against a rate from 100 flags the p-value is Fisher's, which is less sure than the binomial one."""
    counted = OutlierRate.fit(flags(5, 100), numeric(1)).test(flags(12, 100)).p_value[0]
    known = OutlierRate.fit(flags(5, 100), numeric(1), rate=0.05).test(flags(12, 100)).p_value[0]
    assert counted == pytest.approx(stats.fisher_exact([[12, 88], [5, 95]]).pvalue)
    assert counted > known


def test_fewer_outliers_are_drift_only_where_asked():
    """A sample without flags, of a rate of a tenth, is drift two-sided and not one-sided."""
    for alternative, drift in (("two-sided", True), ("greater", False)):
        fitted = OutlierRate.fit(flags(10, 100), numeric(1), rate=0.1, alternative=alternative)
        assert fitted.test(flags(0, 200)).is_drift is drift


def test_what_is_no_rate_is_refused():
    """A rate of 1, another alternative or a second column raise InvalidRequest that names them."""
    for features, more, said in (
        (numeric(1), {"rate": 1.0}, "rate"),
        (numeric(1), {"alternative": "less"}, "alternative"),
        (numeric(2), {}, "one column"),
    ):
        with pytest.raises(InvalidRequest, match=said):
            OutlierRate.fit(np.zeros((20, len(features))), features, **more)
