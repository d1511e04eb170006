"""Distances to the nearest rows of the reference."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest
from pyod.utils.data import generate_data
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors

from headrace.detectors.knn import Knn
from headrace.errors import InvalidRequest
from headrace.features import Feature, Features, numeric
from headrace.testing.detectors import OutlierConformance


class TestKnn(OutlierConformance):
    detector = Knn


class TestMean(OutlierConformance):
    detector = Knn
    parameters: ClassVar = {"mean": True, "k": 3, "rows": 300}


@pytest.mark.parametrize("mean", [False, True], ids=["largest", "mean"])
def test_distances_are_those_of_scikit_learn(mean):
    """Scores are the distances of scikit-learn's exact search among the standardised rows."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(700, 5)) * [1, 10, 100, 1, 1]
    rows = rng.normal(size=(600, 5)) * [1, 10, 100, 1, 1] * 2
    distance, _ = NearestNeighbors(n_neighbors=7).fit(x / x.std(0)).kneighbors(rows / x.std(0))
    found = Knn.fit(x, numeric(5), k=7, mean=mean).score(rows).instance
    np.testing.assert_allclose(found, distance.mean(1) if mean else distance[:, -1], rtol=1e-9)


def test_rows_of_the_reference_are_at_no_distance():
    """With k = 1 a row of the reference scores exactly 0."""
    x = np.random.default_rng(1).normal(size=(100, 4)) + 1e3
    assert (Knn.fit(x, numeric(4), k=1).score(x).instance == 0).all()


def test_two_random_categories_are_as_far_as_two_random_numbers():
    """The mean squared distance of random rows in a category is that in a number: 2."""
    features = Features(columns=(Feature(name="c", kind="category", categories=tuple("abcdef")),))
    x = np.random.default_rng(2).choice(6, (2000, 1), p=[0.4, 0.3, 0.1, 0.1, 0.05, 0.05]).astype(float)
    points = Knn.fit(x, features).points
    squared = ((points[:1000] - points[1000:]) ** 2).sum(1)
    assert squared.mean() == pytest.approx(2.0, abs=0.15)


def test_uniform_noise_among_clusters_is_found():
    """On PyOD's generated data the area is above 0.99 (1.0 is known of it)."""
    x, rows, _, truth = generate_data(n_train=500, n_test=300, n_features=5, contamination=0.1, random_state=0)
    assert roc_auc_score(truth, Knn.fit(x, numeric(5)).score(rows).instance) > 0.99


def test_as_many_rows_as_neighbours_are_too_few():
    """A reference of k rows raises InvalidRequest and says how many it needs; so does k = 0."""
    x = np.random.default_rng(0).normal(size=(5, 2))
    with pytest.raises(InvalidRequest, match="6 rows"):
        Knn.fit(x, numeric(2), k=5)
    with pytest.raises(InvalidRequest, match="k is"):
        Knn.fit(x, numeric(2), k=0)
