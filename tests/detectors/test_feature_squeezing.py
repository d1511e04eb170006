"""Feature squeezing: what squeezers do, and attacks on digits."""

from __future__ import annotations

import numpy as np
import pytest

from headrace.detectors.feature_squeezing import FeatureSqueezing
from headrace.errors import InvalidRequest, RuntimeFailed
from headrace.features import numeric
from headrace.testing.detectors import MIXED, AdversarialConformance, mixed


class TestFeatureSqueezing(AdversarialConformance):
    detector = FeatureSqueezing


def constant(x):
    return np.full((len(x), 2), 0.5)


def test_bits_leave_as_many_steps():
    """Squeezed to b bits, pixels take 2^b values at most, none further than half a step from where it was."""
    x = np.random.default_rng(0).uniform(0, 255, (50, 64))
    detector = FeatureSqueezing.fit(x, numeric(64, shape=(8, 8)), constant, bits=(1, 3), median=())
    for bits, squeezed in zip((1, 3), detector.squeeze(x), strict=True):
        assert len(np.unique(squeezed.round(9))) <= 2**bits
        assert np.abs(squeezed - x).max() <= (x.max() - x.min()) / (2**bits - 1) / 2 + 1e-9


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 3), (3, 8, 8)], ids=str)
def test_a_median_filter_takes_single_pixels_away(shape):
    """A single bright pixel is gone after a median of 3 by 3, in its own channel, and a flat image stays."""
    rng = np.random.default_rng(1)
    x = rng.uniform(0, 1, (20, int(np.prod(shape))))
    features = numeric(x.shape[1], shape=shape)
    detector = FeatureSqueezing.fit(x, features, constant, bits=(), median=(3,))
    flat = np.full((1, x.shape[1]), 0.5)
    spot = flat.copy()
    spot[0, x.shape[1] // 2] = 1.0
    np.testing.assert_array_equal(detector.squeeze(flat)[0], flat)
    np.testing.assert_array_equal(detector.squeeze(spot)[0], flat)


def test_bins_and_bits_leave_categories():
    """Of a table numbers become medians of their bins, rising with them, and categories stay as they are."""
    x = mixed(500, seed=0)
    detector = FeatureSqueezing.fit(x, MIXED, constant, bits=(2,), bins=(4,))
    for squeezed in detector.squeeze(x):
        np.testing.assert_array_equal(squeezed[:, 2], x[:, 2])
        np.testing.assert_array_equal(squeezed[:, 4], x[:, 4])
        assert len(np.unique(squeezed[:, 0].round(9))) == 4
        assert np.corrcoef(squeezed[:, 0], x[:, 0])[0, 1] > 0.8


def test_a_model_that_never_moves_scores_nothing():
    """Where the answers are always the same every row scores 0."""
    x = mixed(100, seed=0)
    assert (FeatureSqueezing.fit(x, MIXED, constant).score(x, constant).instance == 0).all()


def test_numbers_are_told_in_their_spread():
    """Scores of a regression do not depend on the unit of its answers."""
    x = mixed(200, seed=0)
    one, thousand = (
        FeatureSqueezing.fit(x, MIXED, lambda x, u=u: u * x[:, :1]).score(x, lambda x, u=u: u * x[:, :1]).instance
        for u in (1.0, 1000.0)
    )
    np.testing.assert_allclose(one, thousand, rtol=1e-9)


@pytest.mark.parametrize("bad", [{"bits": (0,)}, {"bins": (1,)}, {"median": (3,)}, {"bits": (), "bins": ()}], ids=str)
def test_parameters_out_of_range_are_refused(bad):
    """A parameter out of range, a filter of a table, and no squeezer at all raise InvalidRequest."""
    with pytest.raises(InvalidRequest):
        FeatureSqueezing.fit(mixed(50, seed=0), MIXED, constant, **bad)


def test_a_model_that_answers_otherwise_is_named():
    """Too few rows back and NaN raise RuntimeFailed; another number of classes raises InvalidRequest."""
    x = mixed(50, seed=0)
    detector = FeatureSqueezing.fit(x, MIXED, constant)
    with pytest.raises(RuntimeFailed, match="rows"):
        detector.score(x, lambda rows: constant(rows)[:-1])
    with pytest.raises(RuntimeFailed, match="NaN"):
        detector.score(x, lambda rows: constant(rows) * np.nan)
    with pytest.raises(InvalidRequest, match="fit it again"):
        detector.score(x, lambda rows: np.full((len(rows), 3), 1 / 3))
