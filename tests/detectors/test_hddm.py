"""HDDM: river's A exactly, W as the paper writes it, and the errors of facts B11."""

from __future__ import annotations

import math

import numpy as np
import pytest
from river import drift

from headrace.detectors.hddm import HddmA, HddmW
from headrace.errors import InvalidRequest
from headrace.features import numeric
from headrace.testing.drift_online import DriftOnlineConformance


class TestHddmA(DriftOnlineConformance):
    detector = HddmA


class TestHddmW(DriftOnlineConformance):
    detector = HddmW


def errors(seed, *, rows=5000, later=2000):
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.random(rows) < 0.1, rng.random(later) < 0.3]).astype(float)


REFERENCE = np.array([[0.0], [1.0]] * 20)


@pytest.mark.parametrize("two_sided", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_a_is_rivers(seed, two_sided):
    """With a confidence and no mean to begin with, A alarms at the rows at which river's does."""
    stream = errors(seed, rows=800, later=800)
    fitted = HddmA.fit(REFERENCE, numeric(1), confidence=0.001, two_sided=two_sided, anchored=False)
    theirs, alarms = drift.binary.HDDMA(two_sided_test=two_sided), []
    for at, value in enumerate(stream.tolist()):
        theirs.update(value)
        if theirs.drift_detected:
            alarms.append(at)
    assert fitted.step(stream[:, None]).at == tuple(alarms)


@pytest.mark.parametrize("seed", range(4))
def test_w_is_the_papers(seed):
    """W alarms at the rows that the paper's formulas give, written down one row after the other."""
    stream = errors(seed, rows=600, later=600)
    fitted = HddmW.fit(REFERENCE, numeric(1), confidence=0.001, two_sided=False, anchored=False)
    share, logs, alarms = 0.05, math.log(1000), []

    def taken(mean, value):
        if mean is None:
            return value, 1.0
        return (1 - share) * mean[0] + share * value, share**2 + (1 - share) ** 2 * mean[1]

    total = before = after = None
    cut = math.inf
    for at, value in enumerate(stream.tolist()):
        total = taken(total, value)
        key = total[0] + math.sqrt(total[1] * logs / 2)
        if key < cut:
            cut, before, after = key, total, None
        else:
            after = taken(after, value)
        if after is not None and after[0] - before[0] > math.sqrt((before[1] + after[1]) * logs / 2):
            alarms.append(at)
            total = before = after = None
            cut = math.inf
    assert alarms
    assert fitted.step(stream[:, None]).at == tuple(alarms)


@pytest.mark.parametrize(("method", "delay"), [(HddmA, 120), (HddmW, 127)])
def test_errors_that_become_more_are_found(method, delay):
    """Errors of .1 that become .3 after 5,000 rows: of 30 streams at most 2 alarm before, and the delay is as published."""
    found = []
    state = method.fit(REFERENCE, numeric(1), confidence=0.001, two_sided=False, anchored=False).state()
    for seed in range(30):
        detector = method.restore(state, numeric(1))
        stream = errors(100 + seed)[:, None]
        found.append((len(detector.step(stream[:5000]).at), *detector.step(stream[5000:]).at[:1]))
    assert sum(each[0] for each in found) <= 2
    assert all(len(each) == 2 for each in found)
    assert abs(np.median([each[1] for each in found]) - delay) < 40


def test_missing_values_are_left_out():
    """A stream alarms at the same values whether or not missing ones lie between them."""
    stream = errors(0, rows=500, later=300)
    at = np.sort(np.random.default_rng(0).choice(1600, size=800, replace=False))
    holes = np.full((1600, 1), np.nan)
    holes[at, 0] = stream
    for method in (HddmA, HddmW):
        plain, other = (method.fit(REFERENCE, numeric(1), confidence=0.001, anchored=False) for _ in range(2))
        assert other.step(holes).at == tuple(at[list(plain.step(stream[:, None]).at)].tolist())


def test_confidences_out_of_range_are_refused():
    """Confidences and weights that are none raise InvalidRequest."""
    with pytest.raises(InvalidRequest, match="confidence"):
        HddmA.fit(REFERENCE, numeric(1), confidence=1.5)
    with pytest.raises(InvalidRequest, match="weight"):
        HddmW.fit(REFERENCE, numeric(1), weight=0.0)
