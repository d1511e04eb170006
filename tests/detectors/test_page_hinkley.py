"""Page-Hinkley: river's test where it is the same, known delays, and drift before the first row."""

from __future__ import annotations

import numpy as np
import pytest
from river import drift

from headrace.detectors.page_hinkley import PageHinkley
from headrace.errors import InvalidRequest
from headrace.features import numeric
from headrace.testing.drift_online import DriftOnlineConformance


class TestPageHinkley(DriftOnlineConformance):
    detector = PageHinkley


@pytest.mark.parametrize("seed", range(5))
def test_it_is_rivers_where_nothing_is_forgotten(seed):
    """With a threshold of one's own and no mean to begin with, the first alarm is that of river without forgetting."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(400, 1)).clip(-5, 5)
    stream = np.concatenate([rng.normal(size=300), rng.normal(1, 1, size=300)]).clip(-5, 5)[:, None]
    fitted = PageHinkley.fit(x, numeric(1), threshold=12.0, delta=0.05, min_rows=30, anchored=False)
    theirs = drift.PageHinkley(min_instances=30, delta=0.05, threshold=12.0, alpha=1.0)
    first = None
    for at, value in enumerate(((stream - x.mean()) / x.std()).ravel().tolist()):
        theirs.update(value)
        if theirs.drift_detected:
            first = at
            break
    assert first is not None
    assert fitted.step(stream).at[0] == first


def test_a_shift_of_half_a_deviation_is_found_in_time():
    """A Gaussian mean that moves by half a deviation is found within 65 rows, with fewer than 1.8 alarms per 3,000."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2000, 1))
    state = PageHinkley.fit(x, numeric(1), ert=2000.0).state()
    delays, alarms = [], 0
    for _ in range(20):
        detector = PageHinkley.restore(state, numeric(1))
        found = detector.step(rng.normal(size=(3000, 1)))
        alarms += len(found.at)
        found = detector.step(rng.normal(0.5, 1, size=(500, 1)))
        delays.append(found.at[0] if found.at else 500)
    assert alarms / 20 < 1.8 + 3 * (1.8 / 20) ** 0.5
    assert np.median(delays) < 65


def test_drift_before_the_first_row_is_seen():
    """A stream that was elsewhere from its first row on alarms, and again after the alarm; without the reference's mean
    it never does.
    """
    rng = np.random.default_rng(1)
    x, rows = rng.normal(size=(500, 1)), rng.normal(1, 1, size=(300, 1))
    found = PageHinkley.fit(x, numeric(1), ert=1e4).step(rows)
    assert len(found.at) > 3
    assert not PageHinkley.fit(x, numeric(1), ert=1e4, anchored=False).step(rows).is_drift


def test_long_run_times_are_continued():
    """A run time of a million rows, which no simulation sees, has a larger threshold than one of ten thousand."""
    x = np.random.default_rng(2).normal(size=(500, 1))
    short, long = (PageHinkley.fit(x, numeric(1), ert=ert) for ert in (1e4, 1e6))
    assert 1.2 < long.scales[0] / short.scales[0] < 2.5


def test_a_delta_below_zero_is_refused():
    """A negative delta raises InvalidRequest."""
    with pytest.raises(InvalidRequest, match="delta"):
        PageHinkley.fit(np.zeros((10, 1)), numeric(1), delta=-1.0)
