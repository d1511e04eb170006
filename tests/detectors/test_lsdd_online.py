"""Online LSDD: run time and delay on rows like wine's, and windows computed one by one."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest
from sklearn.datasets import load_wine

from headrace.detectors.lsdd_online import LsddOnline
from headrace.errors import InvalidRequest
from headrace.features import numeric
from headrace.testing.drift_online import DriftOnlineConformance


class TestLsddOnline(DriftOnlineConformance):
    detector = LsddOnline
    parameters: ClassVar = {"window": 10}
    ert = 60.0


def wine(rows, *, rng):
    """Rows like those of wine, as many as one likes: one of its own with noise of a third of a deviation."""
    x = load_wine().data
    x = (x - x.mean(0)) / x.std(0)
    return x[rng.integers(len(x), size=rows)] + rng.normal(0, 0.33, size=(rows, x.shape[1]))


@pytest.mark.parametrize(("window", "ert", "delay"), [(10, 50.0, 10.0), (20, 150.0, 16.0)])
def test_runs_on_wine_are_as_long_as_asked_for(window, ert, delay):
    """The mean run is ERT within four standard errors and the thresholds' own; a shift of .7 is found soon."""
    rng, runs, delays = np.random.default_rng(0), [], []
    for seed in range(4):
        detector = LsddOnline.fit(wine(500, rng=rng), numeric(13), ert=ert, window=window, seed=seed)
        state = detector.state()
        runs += np.diff([-1, *detector.step(wine(int(12 * ert), rng=rng)).at]).tolist()
        for _ in range(5):
            found = LsddOnline.restore(state, numeric(13)).step(wine(100, rng=rng) + 0.7)
            delays.append(found.at[0] + 1 if found.at else 100)
    error = 4 * (np.var(np.log(runs)) / len(runs) + 0.05 / 4) ** 0.5
    assert ert * np.exp(-error) < np.mean(runs) < ert * np.exp(error)
    assert np.mean(delays) < delay


def test_references_that_are_too_small_are_refused():
    """Fewer rows than four windows raise InvalidRequest, and so does a window of one row."""
    x = np.random.default_rng(0).normal(size=(30, 2))
    with pytest.raises(InvalidRequest, match="40 rows"):
        LsddOnline.fit(x, numeric(2), window=10)
    with pytest.raises(InvalidRequest, match="window"):
        LsddOnline.fit(x, numeric(2), window=1)
