"""Tests of whole rows keep their level where the reference's own deviations would not do."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from headrace.detectors.classifier import Classifier
from headrace.detectors.encoding import deviations
from headrace.detectors.lsdd import Lsdd
from headrace.detectors.mmd import Mmd
from headrace.features import numeric


def zero_inflated(rng, rows):
    return np.where(rng.random((rows, 30)) < 0.7, 0.0, rng.exponential(size=(rows, 30)))


def long_tailed(rng, rows):
    return rng.standard_t(2, size=(rows, 50))


@pytest.mark.parametrize("kind", [Mmd, Lsdd, Classifier])
@pytest.mark.parametrize("law", [zero_inflated, long_tailed])
def test_many_columns_of_long_tails_are_no_drift(kind, law):
    """Small samples of one law, of many columns with long tails or mostly zeros, are drift no more often than alpha."""
    rng, runs = np.random.default_rng(1), 60
    found = [
        kind.fit(law(rng, 40), numeric(law(rng, 1).shape[1]), seed=run, permutations=99, min_effect=0.0)
        .test(law(rng, 60))
        .is_drift
        for run in range(runs)
    ]
    assert sum(found) <= stats.binom.ppf(0.999, runs, 0.05), sum(found)


@pytest.mark.parametrize("kind", [Mmd, Lsdd, Classifier])
def test_one_row_of_garbage_hides_no_drift(kind):
    """A shift of two of three columns is seen although one row of the sample is a million deviations away in each."""
    rng = np.random.default_rng(2)
    sample = rng.normal(size=(200, 3))
    sample[:, :2] += 1.0
    sample[0] = 1e9
    assert kind.fit(rng.normal(size=(300, 3)), numeric(3)).test(sample).is_drift


def test_a_deviation_is_of_the_middle():
    """A deviation is that of the bulk of the values, of a constant 1, and of what hardly ever differs that of all."""
    rng = np.random.default_rng(3)
    points = np.column_stack([rng.normal(size=1000), np.full(1000, 0.1), np.zeros(1000)])
    points[:5, 0], points[:2, 2] = 1e6, 3.0
    found = deviations(points)
    assert found[0] == pytest.approx(1.0, rel=0.1)
    assert found[1] == 1.0
    assert found[2] == pytest.approx(points[:, 2].std())
