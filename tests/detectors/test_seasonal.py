"""Seasonal context: points that are usual at another time, phases that shift, levels that drift."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from headrace.detectors.seasonal import Seasonal, season
from headrace.errors import InvalidRequest
from headrace.features import numeric
from headrace.testing.detectors import OutlierConformance


def wave(points, *, seed, start=0, period=50):
    rng = np.random.default_rng(seed)
    at = 2 * np.pi * (start + np.arange(points)) / period
    return np.sin(at) + 0.5 * np.sin(2 * at) + rng.normal(0, 0.1, points)


class TestPoints(OutlierConformance):
    detector = Seasonal
    features = numeric(2)
    tables = False

    @classmethod
    def usual(cls, rows, *, seed):
        return np.column_stack([wave(rows, seed=seed), wave(rows, seed=seed + 1000, start=17)])

    @classmethod
    def odd(cls, rows, *, seed):
        x = cls.usual(rows, seed=seed)
        x[rows - 1 :: -2, 1] += 4
        return x


class TestWindows(OutlierConformance):
    detector = Seasonal
    features = numeric(90, shape=(90,))
    tables = False

    @classmethod
    def usual(cls, rows, *, seed):
        rng = np.random.default_rng(seed)
        starts = 2 * np.pi * (rng.integers(0, 50, rows)[:, None] + np.arange(90)) / 50
        return np.sin(starts) + 0.5 * np.sin(2 * starts) + rng.normal(0, 0.1, (rows, 90))

    @classmethod
    def odd(cls, rows, *, seed):
        x = cls.usual(rows, seed=seed)
        x[:, 41] += 2
        return x


@pytest.mark.parametrize("seed", range(3))
def test_spikes_are_found(seed):
    """Of 20 spikes in 2000 points of a noisy wave, whose season is not told, the area is 1."""
    rng = np.random.default_rng(seed)
    x = np.sin(2 * np.pi * np.arange(2600) / 50) + rng.normal(0, 0.1, 2600)
    at = rng.choice(np.arange(600, 2600), 20, replace=False)
    x[at] += rng.choice([-1.5, 1.5], 20)
    detector = Seasonal.fit(x[:600, None], numeric(1))
    assert detector.profile.shape == (50, 1)
    assert roc_auc_score(np.isin(np.arange(600, 2600), at), detector.score(x[600:, None]).instance) > 0.9999


def test_usual_values_at_another_time_are_odd():
    """The largest usual value, where the smallest is due, is odd, though its like is in the reference."""
    x = wave(600, seed=0)[:, None]
    rows = wave(100, seed=1)[:, None]
    high, low = rows[:50].argmax(), rows[:50].argmin()
    rows[low] = rows[high]
    scores = Seasonal.fit(x, numeric(1)).score(rows).instance
    assert scores.argmax() == low
    assert scores[low] > 10
    assert scores[high] < 5


def test_noise_is_its_unit():
    """Scores of fresh points are about absolute standard normal ones: their median is 0.67."""
    detector = Seasonal.fit(wave(1000, seed=2)[:, None], numeric(1))
    assert np.median(detector.score(wave(2000, seed=3)[:, None]).instance) == pytest.approx(0.6745, abs=0.1)


def test_another_phase_is_found():
    """A stream that begins at another time of the season is odd for one season and usual from then on."""
    detector = Seasonal.fit(wave(600, seed=4)[:, None], numeric(1))
    scores = detector.score(wave(300, seed=5, start=17)[:, None]).instance
    assert np.median(scores[:50]) > 3
    assert np.median(scores[50:]) < 1


def test_a_few_odd_points_do_not_turn_the_phase():
    """A season with a tenth of wild points leaves the phase, the level and the next season's scores alone."""
    detector = Seasonal.fit(wave(600, seed=6)[:, None], numeric(1))
    rows = wave(100, seed=7)[:, None]
    rows[:50:10] += 100
    scores = detector.score(rows).instance
    assert detector.phase == 0
    assert np.median(scores[50:]) < 1


def test_a_level_that_moves_is_followed():
    """After a step of the level scores are high for a season and fall with every one after it."""
    detector = Seasonal.fit(wave(600, seed=8)[:, None], numeric(1))
    scores = detector.score(2 + wave(500, seed=9)[:, None]).instance.reshape(10, 50)
    medians = np.median(scores, axis=1)
    assert medians[0] > 15
    assert medians[-1] < 1.2


@pytest.mark.parametrize("period", [2, 7, 24, 50, 168])
def test_the_season_is_estimated(period):
    """The length of a season is found in noise and on a trend."""
    rng = np.random.default_rng(period)
    profile = rng.normal(size=period) if period < 10 else wave(period, seed=period, period=period)
    x = np.tile(profile, 12) + rng.normal(0, 0.2, 12 * period) + 0.001 * np.arange(12 * period)
    assert season(x[None, :, None]) == period


def test_noise_has_no_season():
    """White noise and silence have a season of 1, and the score is a robust z."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1000, 1))
    assert season(x[None]) == 1
    assert season(np.zeros((1, 100, 1))) == 1
    scores = Seasonal.fit(x, numeric(1)).score(np.array([[0.0], [3.0], [-6.0]])).instance
    np.testing.assert_allclose(scores, [0, 3, 6], atol=0.5)


@pytest.mark.parametrize("bad", [{"period": -1}, {"rate": 2.0}, {"period": 300}, {"rows": "columns"}], ids=str)
def test_what_cannot_be_fitted_is_refused(bad):
    """A parameter out of range, and a season that the reference does not have twice, raise InvalidRequest."""
    with pytest.raises(InvalidRequest):
        Seasonal.fit(wave(400, seed=0)[:, None], numeric(1), **bad)
