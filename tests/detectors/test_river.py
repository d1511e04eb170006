"""Detectors of river: equal to river itself, kept without pickles, and mistakes."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest
from river import drift

from headrace.detectors.river import River
from headrace.errors import InvalidRequest
from headrace.features import numeric
from headrace.testing.drift_online import DriftOnlineConformance


class TestRiver(DriftOnlineConformance):
    detector = River
    parameters: ClassVar = {"model": "PageHinkley", "options": {"threshold": 400.0}}
    calibrated = False
    longest_delay = 400

    def test_it_alarms_soon_after_a_change(self, fitted):
        """A shift in the units of a column is found."""
        rows = self.usual(400, seed=1)
        rows[200:, 1] += 500
        assert [at for at in self.again(fitted).step(rows).at if at > 200]


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("ADWIN", {"delta": 0.01}),
        ("PageHinkley", {"threshold": 8}),
        ("KSWIN", {"seed": 3}),
        ("EDDM", {}),
        ("HDDMW", {}),
    ],
)
def test_it_is_river_itself(model, options):
    """Alarms of one column are those of river's own detector, also when it is kept and restored on the way."""
    rng = np.random.default_rng(0)
    stream = np.concatenate([rng.random(500) < 0.2, rng.random(500) < 0.7]).astype(float)
    theirs = getattr(drift, model, None) or getattr(drift.binary, model)
    theirs, alarms = theirs(**options), []
    for at, value in enumerate(stream.tolist()):
        theirs.update(value)
        if theirs.drift_detected:
            alarms.append(at)
            break
    detector, found = River.fit(np.zeros((5, 1)), numeric(1), model=model, options=options), []
    for start in range(0, 1000, 100):
        step = detector.step(stream[start : start + 100, None])
        found += [start + at for at in step.at]
        detector = River.restore(detector.state(), numeric(1))
    assert found[:1] == alarms


def test_what_is_kept_is_bounded():
    """The state holds the last rows only, however long nothing happens."""
    detector = River.fit(np.zeros((5, 2)), numeric(2), keep=50)
    for _ in range(30):
        detector.step(np.zeros((20, 2)))
    assert len(detector.state().arrays["log"]) == 50
    assert sum(map(len, detector.log)) <= 120


def test_unknown_detectors_and_options_are_refused():
    """A name that river does not have raises InvalidRequest with the nearest one, and so does an unknown option."""
    with pytest.raises(InvalidRequest, match="did you mean 'ADWIN'"):
        River.fit(np.zeros((5, 1)), numeric(1), model="ADWINN")
    with pytest.raises(InvalidRequest, match="options"):
        River.fit(np.zeros((5, 1)), numeric(1), options={"no": 1})
