"""Mahalanobis distance that goes with the stream: what it forgets, what it follows, what does not move it."""

from __future__ import annotations

import numpy as np
import pytest

from headrace.detectors.mahalanobis import Mahalanobis
from headrace.detectors.mahalanobis_online import STEP, MahalanobisOnline
from headrace.errors import InvalidRequest
from headrace.features import numeric
from headrace.testing.detectors import OutlierConformance


class TestMahalanobisOnline(OutlierConformance):
    detector = MahalanobisOnline


def test_it_begins_as_the_reference():
    """Before its first update it scores as the plain offline distance."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 3))
    rows = rng.normal(size=(STEP, 3))
    ours = MahalanobisOnline.fit(x, numeric(3)).score(rows)
    plain = Mahalanobis.fit(x, numeric(3), estimator="empirical").score(rows)
    np.testing.assert_allclose(ours.instance, plain.instance, rtol=1e-12)


def test_it_keeps_weighted_moments():
    """Unclipped, mean and covariance are those of all rows with the weight of each halving every half-life."""
    rng = np.random.default_rng(1)
    x, rows = rng.normal(size=(200, 2)), rng.normal(1, 2, size=(10 * STEP, 2))
    detector = MahalanobisOnline.fit(x, numeric(2), half_life=500.0, clip=1.0)
    detector.reach, detector.gain = 1e12, 1.0
    detector.score(rows)
    z = (np.concatenate([x, rows]) - x.mean(0)) / x.std(0)
    # A row fades with every update after its own.
    age = np.concatenate([np.full(200, 10), np.repeat(np.arange(9, -1, -1), STEP)])
    weight = 0.5 ** (age * STEP / 500.0)
    np.testing.assert_allclose(detector.mean, np.average(z, axis=0, weights=weight), rtol=1e-10)
    np.testing.assert_allclose(detector.covariance, np.cov(z.T, aweights=weight, bias=True), rtol=1e-10)


def test_it_follows_a_stream_that_moves():
    """After the law of the rows has moved for good, what is usual now scores as usual rows did before."""
    rng = np.random.default_rng(2)
    detector = MahalanobisOnline.fit(rng.normal(size=(1000, 3)), numeric(3), half_life=300.0)
    before = np.median(detector.score(rng.normal(size=(320, 3))).instance)
    first = np.median(detector.score(rng.normal(2, 1, size=(32, 3))).instance)
    detector.score(rng.normal(2, 1, size=(4000, 3)))
    after = np.median(detector.score(rng.normal(2, 1, size=(320, 3))).instance)
    assert first > 3 * before
    assert after < 1.3 * before


def test_it_stays_where_the_stream_stays():
    """Over 20,000 rows of the reference's law clipping neither shrinks nor blows up the covariance."""
    rng = np.random.default_rng(3)
    detector = MahalanobisOnline.fit(rng.normal(size=(2000, 3)), numeric(3), half_life=2000.0)
    detector.score(rng.normal(size=(20_000, 3)))
    assert 0.85 < np.linalg.det(detector.covariance) < 1.15


def test_one_wild_row_hardly_moves_it():
    """A row a million deviations away moves the mean no further than one at the clip does."""
    rng = np.random.default_rng(4)
    detector = MahalanobisOnline.fit(rng.normal(size=(500, 3)), numeric(3))
    mean = detector.mean
    rows = rng.normal(size=(STEP, 3))
    rows[7] = 1e9
    detector.score(rows)
    assert np.abs(detector.mean - mean).max() < 0.05


def test_parameters_out_of_range_are_refused():
    """A half-life of nothing and a clip above one raise InvalidRequest."""
    x = np.random.default_rng(0).normal(size=(50, 2))
    with pytest.raises(InvalidRequest, match="half_life"):
        MahalanobisOnline.fit(x, numeric(2), half_life=0)
    with pytest.raises(InvalidRequest, match="clip"):
        MahalanobisOnline.fit(x, numeric(2), clip=1.5)
