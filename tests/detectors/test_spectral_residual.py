"""Spectral residual: spikes in a series that come one by one, and in windows."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from headrace.detectors.spectral_residual import SpectralResidual
from headrace.errors import InvalidRequest
from headrace.features import Feature, Features, numeric
from headrace.testing.detectors import OutlierConformance


def wave(points, *, seed, start=0):
    rng = np.random.default_rng(seed)
    return np.sin(2 * np.pi * (start + np.arange(points)) / 50) + rng.normal(0, 0.1, points)


def spiked(*, seed, points=2000, spikes=20, first=400):
    rng = np.random.default_rng(100 + seed)
    x = wave(points, seed=seed)
    at = rng.choice(np.arange(first, points), spikes, replace=False)
    x[at] += rng.choice([-1.5, 1.5], spikes)
    return x, np.isin(np.arange(points), at)


class TestPoints(OutlierConformance):
    detector = SpectralResidual
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
    detector = SpectralResidual
    features = numeric(120, shape=(60, 2))
    tables = False

    @classmethod
    def usual(cls, rows, *, seed):
        rng = np.random.default_rng(seed)
        starts = rng.integers(0, 50, rows)[:, None] + np.arange(60)
        waves = np.sin(2 * np.pi * starts / 50)
        return (np.stack([waves, -waves], 2) + rng.normal(0, 0.1, (rows, 60, 2))).reshape(rows, -1)

    @classmethod
    def odd(cls, rows, *, seed):
        x = cls.usual(rows, seed=seed)
        x[:, 81] += 3
        return x


@pytest.mark.parametrize("seed", range(3))
def test_spikes_in_a_window_are_found(seed):
    """Of 20 spikes in 2000 points of a noisy wave, seen as one window, the area is above 0.999."""
    x, truth = spiked(seed=seed)
    scores = SpectralResidual.fit(x[None], numeric(2000, shape=(2000,))).score(x[None])
    assert roc_auc_score(truth, scores.feature[0]) > 0.999
    assert roc_auc_score(truth, np.abs(x - x.mean())) < 0.95


def test_spikes_are_found_as_they_come():
    """Points that come one by one, each judged without those after it, give an area above 0.95 in the mean."""
    areas = []
    for seed in range(4):
        x, truth = spiked(seed=seed)
        detector = SpectralResidual.fit(x[:400, None], numeric(1))
        areas.append(roc_auc_score(truth[400:], detector.score(x[400:, None]).instance))
    assert np.mean(areas) > 0.95


def test_silence_is_not_odd_and_a_spike_in_it_is():
    """Every point of a constant series scores 0; the first that differs scores far above."""
    detector = SpectralResidual.fit(np.full((300, 1), 5.0), numeric(1))
    assert (detector.score(np.full((20, 1), 5.0)).instance == 0).all()
    assert detector.score(np.array([[5.1]])).instance[0] > 10


def test_a_missing_point_is_as_the_last():
    """A missing point scores as the value before it would have; and so does the first of a stream."""
    x = wave(500, seed=0)[:, None]
    one, other = (SpectralResidual.fit(x[:400], numeric(1)) for _ in range(2))
    gaps, filled = x[400:].copy(), x[400:].copy()
    gaps[[0, 50, 51]] = np.nan
    filled[0], filled[50], filled[51] = x[399], x[449], x[449]
    np.testing.assert_array_equal(one.score(gaps).instance, other.score(filled).instance)


def test_categories_are_left_out():
    """Of a table of numbers and categories in time the categories score 0; of categories alone, InvalidRequest."""
    category = Feature(name="c", kind="category", categories=("a", "b"))
    features = Features(columns=(category, Feature(name="x")))
    x = np.column_stack([np.arange(400) % 2, wave(400, seed=1)])
    scores = SpectralResidual.fit(x[:300], features).score(x[300:])
    assert (scores.feature[:, 0] == 0).all()
    np.testing.assert_array_equal(scores.feature[:, 1], scores.instance)
    with pytest.raises(InvalidRequest, match="categories"):
        SpectralResidual.fit(x[:, :1], Features(columns=(category,)))


@pytest.mark.parametrize("bad", [{"window": 3}, {"smooth": 0}, {"ahead": -1}, {"rows": "columns"}], ids=str)
def test_parameters_out_of_range_are_refused(bad):
    """A parameter out of range raises InvalidRequest."""
    with pytest.raises(InvalidRequest):
        SpectralResidual.fit(wave(100, seed=0)[:, None], numeric(1), **bad)
