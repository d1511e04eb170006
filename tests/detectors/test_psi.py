"""Population stability index: its value, the rule of thumb, and why that is not the default."""

from __future__ import annotations

from types import MappingProxyType

import numpy as np
import pytest

from headrace.detectors import psi
from headrace.detectors.psi import LARGE, Psi
from headrace.features import numeric
from headrace.testing.drift import DriftConformance


class TestPsi(DriftConformance):
    detector = Psi


class TestRuleOfThumb(DriftConformance):
    detector = Psi
    parameters = MappingProxyType({"threshold": LARGE})
    level = False


def test_value_is_the_sum_over_cells():
    """With many rows the index is sum (q - p) ln(q / p) of the shares."""
    p, q = np.array([0.2, 0.3, 0.5]), np.array([0.3, 0.3, 0.4])
    found = float(psi.index(p * 1e7, q * 1e7))
    assert found == pytest.approx(float(((q - p) * np.log(q / p)).sum()), rel=1e-5)


def test_the_rule_of_thumb_calls_small_samples_drift():
    """Of samples of 40 rows that drift in nothing the fixed bound calls many drift, the drawn p-value no more than alpha allows."""
    rng = np.random.default_rng(0)
    reference = rng.normal(size=(300, 1))
    samples = [rng.normal(size=(40, 1)) for _ in range(100)]
    fixed = Psi.fit(reference, numeric(1), threshold=LARGE)
    drawn = Psi.fit(reference, numeric(1))
    assert np.mean([fixed.test(each).is_drift for each in samples]) > 0.1
    # The reference is one and the same, so its own luck is in all: twice the level is what that may make.
    assert np.mean([drawn.test(each).is_drift for each in samples]) <= 0.12
    assert fixed.test(samples[0]).p_value is None
    assert fixed.test(samples[0]).threshold == LARGE


def test_a_bin_that_emptied_is_finite():
    """A sample all in one bin has a large index, not an infinite one."""
    rng = np.random.default_rng(0)
    found = Psi.fit(rng.normal(size=(1000, 1)), numeric(1)).test(np.full((200, 1), 9.0))
    assert 5 < found.statistic[0] < 100
    assert found.is_drift
