"""ECOD: tails as PyOD's, sums as the paper's."""

from __future__ import annotations

import numpy as np
from pyod.models.ecod import ECOD
from pyod.utils.data import generate_data
from sklearn.datasets import load_breast_cancer
from sklearn.metrics import roc_auc_score

from headrace.detectors.ecod import Ecod
from headrace.features import Feature, Features, numeric
from headrace.testing.detectors import OutlierConformance


class TestEcod(OutlierConformance):
    detector = Ecod


def tumours():
    data = load_breast_cancer()
    return np.concatenate([data.data[data.target == 1], data.data[data.target == 0][:10]])


def test_tails_are_those_of_pyod():
    """Of the reference's rows the largest tails by column sum to PyOD's scores."""
    x = tumours()
    feature = Ecod.fit(x, numeric(30)).score(x).feature
    np.testing.assert_allclose(feature.sum(1), ECOD().fit(x).decision_scores_, rtol=1e-12)


def test_score_is_the_largest_of_three_sums():
    """A row's score, worked out by hand from four rows of two columns, one skewed to each side."""
    x = np.array([[0.0, 9.0], [1.0, 8.0], [2.0, 7.0], [9.0, 0.0]])
    # Of the last row: left tails 4/4 and 1/4, right tails 1/4 and 4/4, skewed ones 1/4 (right) and 1/4 (left).
    assert Ecod.fit(x, numeric(2)).score(x[3:]).instance[0] == np.float64(2 * np.log(4))
    # Further out than all four rows, both are 1/5.
    np.testing.assert_allclose(Ecod.fit(x, numeric(2)).score(np.array([[99.0, -99.0]])).instance, 2 * np.log(5))


def test_rare_categories_are_odd():
    """A category scores by the share of rows whose category is as rare or rarer."""
    features = Features(columns=(Feature(name="c", kind="category", categories=("a", "b", "c", "d")),))
    x = np.repeat([0.0, 1.0, 2.0], [70, 20, 10])[:, None]
    scores = Ecod.fit(x, features).score(np.array([[0.0], [1.0], [2.0], [3.0], [-1.0]])).instance
    np.testing.assert_allclose(scores, -np.log([1.0, 0.3, 0.1, 1 / 101, 1 / 101]), atol=1e-12)


def test_known_areas():
    """Rare tumours are ranked above 0.95 (0.961 is known), PyOD's generated outliers above 0.98 (0.995)."""
    x = tumours()
    assert roc_auc_score(np.arange(len(x)) >= 357, Ecod.fit(x, numeric(30)).score(x).instance) > 0.95
    x, rows, _, truth = generate_data(n_train=500, n_test=300, n_features=5, contamination=0.1, random_state=0)
    assert roc_auc_score(truth, Ecod.fit(x, numeric(5)).score(rows).instance) > 0.98
