"""Reconstruction from principal components: the residual, the combined index, odd digits."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score

from headrace.detectors.pca import Pca
from headrace.errors import InvalidRequest
from headrace.features import Feature, Features, numeric
from headrace.testing.detectors import OutlierConformance


class TestPca(OutlierConformance):
    detector = Pca
    points = False  # a residual leans to the columns that the plane has least of


class TestResidualAlone(OutlierConformance):
    detector = Pca
    parameters: ClassVar = {"components": 1, "within": False}


def test_score_is_the_squared_residual():
    """Without the plane's own part the score is the squared error of scikit-learn's reconstruction, shares by column."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 6)) @ rng.normal(size=(6, 6))
    z = (x - x.mean(0)) / x.std(0)
    fitted = PCA(n_components=3).fit(z)
    error = (z - fitted.inverse_transform(fitted.transform(z))) ** 2
    scores = Pca.fit(x, numeric(6), components=3, within=False).score(x)
    np.testing.assert_allclose(scores.feature, error, atol=1e-10)
    np.testing.assert_allclose(scores.instance, error.sum(1), atol=1e-10)


def test_far_away_in_the_plane_is_odd():
    """A row far away in the plane is odd by the combined index and not by the residual."""
    rng = np.random.default_rng(1)
    common = rng.normal(size=(500, 1))
    x = common + rng.normal(0, 0.1, (500, 3))
    far = np.full((1, 3), 12.0)
    combined, residual = (Pca.fit(x, numeric(3), components=1, within=within) for within in (True, False))
    assert combined.score(far).instance[0] > 3 * combined.score(x).instance.max()
    assert residual.score(far).instance[0] < residual.score(x).instance.max()


def test_share_of_variance_chooses_components():
    """A share of 0.9 keeps the fewest components that hold it, and never all."""
    rng = np.random.default_rng(2)
    x = rng.normal(size=(4000, 1)) @ np.ones((1, 10)) * 3 + rng.normal(size=(4000, 10))
    assert Pca.fit(x, numeric(10), components=0.9).axes.shape == (1, 10)
    assert Pca.fit(x, numeric(10), components=0.95).axes.shape[0] > 3
    assert Pca.fit(x, numeric(10), components=0.999999).axes.shape[0] == 9
    with pytest.raises(InvalidRequest, match="fewer"):
        Pca.fit(x, numeric(10), components=10)
    with pytest.raises(InvalidRequest, match="share"):
        Pca.fit(x, numeric(10), components=0)


def test_one_column_is_enough():
    """Of a single column the score is how far a row is from its mean."""
    x = np.random.default_rng(3).normal(size=(200, 1))
    scores = Pca.fit(x, numeric(1)).score(np.array([[0.0], [3.0], [-9.0]])).instance
    assert scores[0] < scores[1] < scores[2]


def test_reconstruction_gives_rows_back():
    """Rows come back in their own units, categories as categories."""
    features = Features(
        columns=(Feature(name="a"), Feature(name="b"), Feature(name="c", kind="category", categories=("u", "v")))
    )
    rng = np.random.default_rng(4)
    kind = rng.integers(0, 2, 300)
    a = rng.normal(100, 5, 300) + 40 * kind
    x = np.column_stack([a, 2 * a + rng.normal(0, 1, 300), kind])
    back = Pca.fit(x, features, components=2).reconstruct(x)
    assert np.abs(back[:, :2] - x[:, :2]).max() < 20
    assert (back[:, 2] == x[:, 2]).mean() > 0.98


def test_odd_digits_in_20_components():
    """Areas for digits lie near those that are known: 9 0.69, inverted 1, noise 0.97, shuffled 1."""
    x, y = load_digits(return_X_y=True)
    rng = np.random.default_rng(0)
    usual = rng.permutation(x[y < 9])
    detector = Pca.fit(usual[:1000], numeric(64, shape=(8, 8)), components=20)
    fresh = usual[1000:]

    def area(odd):
        both = np.concatenate([detector.score(fresh).instance, detector.score(odd).instance])
        return roc_auc_score(np.arange(len(both)) >= len(fresh), both)

    assert area(16 - fresh) > 0.999
    assert area(np.clip(fresh + rng.normal(0, 0.2 * 16, fresh.shape), 0, 16)) > 0.94
    assert area(rng.permuted(fresh, axis=1)) > 0.999
    assert 0.6 < area(x[y == 9]) < 0.85
