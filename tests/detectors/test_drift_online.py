"""Online tests of drift, each of them: run time and delay on rows like wine's."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_wine

from headrace.detectors.cvm_online import CvmOnline
from headrace.detectors.lsdd_online import LsddOnline
from headrace.detectors.mmd_online import MmdOnline
from headrace.errors import InvalidRequest
from headrace.features import numeric

KINDS = pytest.mark.parametrize("kind", [CvmOnline, LsddOnline, MmdOnline])


def wine(rows, *, rng):
    """Rows like those of wine, as many as one likes: one of its own with noise of a third of a deviation."""
    x = load_wine().data
    x = (x - x.mean(0)) / x.std(0)
    return x[rng.integers(len(x), size=rows)] + rng.normal(0, 0.33, size=(rows, x.shape[1]))


@KINDS
@pytest.mark.parametrize(("window", "ert", "delay"), [(10, 50.0, 10.0), (20, 150.0, 16.0)])
def test_runs_on_wine_are_as_long_as_asked_for(kind, window, ert, delay):
    """The mean run is ERT within four standard errors and the thresholds' own; a shift of .7 is found soon."""
    rng, runs, delays = np.random.default_rng(0), [], []
    for seed in range(2):
        detector = kind.fit(wine(500, rng=rng), numeric(13), ert=ert, window=window, seed=seed)
        state = detector.state()
        runs += np.diff([-1, *detector.step(wine(int(24 * ert), rng=rng)).at]).tolist()
        for _ in range(10):
            found = kind.restore(state, numeric(13)).step(wine(100, rng=rng) + 0.7)
            delays.append(found.at[0] + 1 if found.at else 100)
    error = 4 * (np.var(np.log(runs)) / len(runs) + 0.05 / 2) ** 0.5
    assert ert * np.exp(-error) < np.mean(runs) < ert * np.exp(error)
    assert np.mean(delays) < delay


@KINDS
def test_references_that_are_too_small_are_refused(kind):
    """Fewer rows than four windows raise InvalidRequest, and so does a window of one row."""
    x = np.random.default_rng(0).normal(size=(30, 2))
    with pytest.raises(InvalidRequest, match="40 rows"):
        kind.fit(x, numeric(2), window=10)
    with pytest.raises(InvalidRequest, match="window"):
        kind.fit(x, numeric(2), window=1)
