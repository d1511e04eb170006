"""The classifier two-sample test: its scores, its area, what it tells apart."""

from __future__ import annotations

from types import MappingProxyType

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.metrics import roc_auc_score

from headrace.detectors import classifier
from headrace.detectors.classifier import Classifier
from headrace.features import numeric
from headrace.testing.drift import DriftConformance


class TestClassifier(DriftConformance):
    detector = Classifier
    parameters = MappingProxyType({"max_rows": 300})
    size_runs = MappingProxyType({100: 80, 1000: 30})


def test_scores_are_ridge_regressions_on_the_other_folds():
    """A row's score is what ridge regression, fitted on the other folds, says of it."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 4)), (rng.random((60, 1)) < 0.4) * 1.0
    folds = rng.permutation(60) % 5
    found = classifier.scores(x, y, folds, 0.1)[:, 0]
    for fold in range(5):
        train = folds != fold
        fitted = Ridge(alpha=0.1 * train.sum()).fit(x[train], y[train, 0])
        np.testing.assert_allclose(found[~train], fitted.predict(x[~train]) - y[train].mean(), atol=1e-9)


def test_area_is_scikit_learns_within_a_fold():
    """With one fold the area is that of roc_auc_score."""
    rng = np.random.default_rng(1)
    scores, labels = rng.normal(size=(40, 1)), (rng.random((40, 1)) < 0.4) * 1.0
    found = classifier.areas(scores, labels, np.zeros(40, dtype=int))[0]
    assert found == pytest.approx(roc_auc_score(labels[:, 0], scores[:, 0]))


def test_a_change_of_scale_is_told_apart():
    """A sample of the same mean and half as wide again is drift: the classifier is not linear in the columns."""
    rng = np.random.default_rng(2)
    assert Classifier.fit(rng.normal(size=(300, 3)), numeric(3)).test(1.5 * rng.normal(size=(300, 3))).is_drift
