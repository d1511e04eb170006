"""ADWIN: river's where they are the same, the histogram, and the errors and shifts of facts B11 and B12."""

from __future__ import annotations

import numpy as np
import pytest
from river import drift

from headrace.detectors.adwin import Adwin, Window
from headrace.errors import InvalidRequest
from headrace.features import numeric
from headrace.testing.drift_online import DriftOnlineConformance


class TestAdwin(DriftOnlineConformance):
    detector = Adwin
    ert = 320.0
    longest_delay = 64


REFERENCE = np.array([[0.0], [1.0]] * 20)


def paper(**more):
    return Adwin.fit(REFERENCE, numeric(1), delta=0.002, anchored=False, unit="raw", **more)


@pytest.mark.parametrize("seed", range(4))
def test_it_is_rivers_where_every_row_is_a_bucket(seed):
    """With buckets of one row and the paper's bound, the first alarm and the window left are river's."""
    rng = np.random.default_rng(seed)
    stream = np.concatenate([rng.random(400) < 0.2, rng.random(400) < 0.6]).astype(float)
    theirs = drift.ADWIN(delta=0.002, clock=1, min_window_length=1, grace_period=1)
    ours = paper(clock=1, min_rows=1)
    for value in stream.tolist():
        theirs.update(value)
        assert ours.step(np.array([[value]])).is_drift == theirs.drift_detected
        assert sum(ours.window.sizes) == theirs.width
        if theirs.drift_detected:
            return
    pytest.fail("neither alarmed")


def test_the_histogram_keeps_sums():
    """Of 5,000 rows it keeps a few dozen buckets, whose counts, sums and squares are those of the rows."""
    rows = np.random.default_rng(0).normal(3, 2, size=(5000, 2))
    window = Window(2)
    for row in rows:
        window.insert(row[None])
    assert len(window.sizes) < 5 * 12
    assert window.sizes == sorted(window.sizes, reverse=True)
    assert max(np.unique(window.sizes, return_counts=True)[1]) <= 5
    count, total, squares = np.stack(window.parts).sum(0)
    np.testing.assert_array_equal(count, 5000)
    np.testing.assert_allclose(total, rows.sum(0))
    parts = np.stack(window.parts)
    between = (parts[:, 0] * (parts[:, 1] / parts[:, 0] - rows.mean(0)) ** 2).sum(0)
    np.testing.assert_allclose(squares + between, 5000 * rows.var(0))


def test_errors_that_become_more_are_found():
    """Errors of .1 that become .3 at 5,000: none of 30 streams alarms before, and the delay is about 119 rows."""
    rng, delays, alarms = np.random.default_rng(1), [], 0
    for _ in range(30):
        detector = paper()
        alarms += len(detector.step((rng.random((5000, 1)) < 0.1).astype(float)).at)
        found = detector.step((rng.random((1000, 1)) < 0.3).astype(float))
        delays.append(found.at[0])
    assert alarms <= 1
    assert abs(np.median(delays) - 119) <= 32


def test_a_shift_of_half_a_deviation_is_found():
    """A Gaussian mean that moves by half a deviation after 3,000 rows: no false alarm, and a delay of about 103 rows."""
    rng, delays, alarms = np.random.default_rng(2), [], 0
    for _ in range(20):
        detector = paper()
        alarms += len(detector.step(rng.normal(size=(3000, 1))).at)
        found = detector.step(rng.normal(0.5, 1, size=(1000, 1)))
        delays.append(found.at[0])
    assert alarms <= 1
    assert abs(np.median(delays) - 103) <= 40


def test_calibrated_it_is_faster_than_the_bound():
    """With a threshold for a run time, a shift is found sooner than with the paper's bound."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(1000, 1))
    ours = Adwin.fit(x, numeric(1), ert=2000.0)
    bound = Adwin.fit(x, numeric(1), delta=0.002)
    assert ours.scales[0] < bound.scales[0]
    state, other = ours.state(), bound.state()
    delays = []
    for _ in range(10):
        rows = rng.normal(0.5, 1, size=(1000, 1))
        delays.append([Adwin.restore(each, numeric(1)).step(rows).at[0] for each in (state, other)])
    assert np.mean(delays, axis=0)[0] < np.mean(delays, axis=0)[1]


def test_a_stream_that_stays_elsewhere_alarms_once():
    """After the alarm the window is what came since the change, and is used to it."""
    rng = np.random.default_rng(4)
    detector = Adwin.fit(rng.normal(size=(1000, 1)), numeric(1), delta=0.002)
    assert len(detector.step(rng.normal(2, 1, size=(3000, 1))).at) <= 2
    assert detector.window.statistics(5).size == 1


def test_parameters_out_of_range_are_refused():
    """A delta, a clock and a run time that are none raise InvalidRequest."""
    with pytest.raises(InvalidRequest, match="delta"):
        Adwin.fit(REFERENCE, numeric(1), delta=2.0)
    with pytest.raises(InvalidRequest, match="clock"):
        Adwin.fit(REFERENCE, numeric(1), clock=0)
