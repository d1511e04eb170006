"""COPOD: equal to its authors' code on the reference, and finite beyond it."""

from __future__ import annotations

import numpy as np
from pyod.models.copod import COPOD
from pyod.utils.data import generate_data
from sklearn.datasets import load_breast_cancer, load_wine
from sklearn.metrics import roc_auc_score

from headrace.detectors.copod import Copod
from headrace.features import numeric
from headrace.testing.detectors import OutlierConformance


class TestCopod(OutlierConformance):
    detector = Copod


def rare(data, common):
    usual = np.isin(data.target, common)
    x = np.concatenate([data.data[usual], data.data[~usual][:10]])
    return x, np.arange(len(x)) >= usual.sum()


def test_scores_are_those_of_pyod():
    """Scores of the reference's rows equal those of the authors' code."""
    x, _ = rare(load_breast_cancer(), [1])
    np.testing.assert_allclose(Copod.fit(x, numeric(30)).score(x).instance, COPOD().fit(x).decision_scores_, rtol=1e-12)


def test_known_areas():
    """Rare tumours are ranked near 0.989, rare wines near 0.928, PyOD's generated outliers at 1.0."""
    x, truth = rare(load_breast_cancer(), [1])
    assert abs(roc_auc_score(truth, Copod.fit(x, numeric(30)).score(x).instance) - 0.989) < 0.005
    x, truth = rare(load_wine(), [1, 2])
    assert abs(roc_auc_score(truth, Copod.fit(x, numeric(13)).score(x).instance) - 0.928) < 0.01
    x, rows, _, truth = generate_data(n_train=500, n_test=300, n_features=5, contamination=0.1, random_state=0)
    assert roc_auc_score(truth, Copod.fit(x, numeric(5)).score(rows).instance) > 0.99


def test_shares_sum_to_the_score():
    """A row's score is the sum of its features'."""
    x, _ = rare(load_breast_cancer(), [1])
    scores = Copod.fit(x, numeric(30)).score(x * 1.1)
    np.testing.assert_allclose(scores.feature.sum(1), scores.instance)
