"""The isolation forest: equal to scikit-learn's, and beyond it for constants and unseen categories."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.ensemble import IsolationForest as Forest
from sklearn.metrics import roc_auc_score

from headrace.detectors.isolation_forest import IsolationForest, average_path
from headrace.features import numeric
from headrace.testing.detectors import OutlierConformance


class TestIsolationForest(OutlierConformance):
    detector = IsolationForest
    tells = False


@pytest.mark.parametrize(("rows", "samples"), [(2000, 256), (100, 256), (1000, 700), (2, 256)], ids=str)
def test_scores_are_those_of_scikit_learn(rows, samples):
    """Scores equal scikit-learn's -score_samples within 1e-12, near the reference and far from it."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, 7)) * [1, 10, 1e3, 1e-3, 1, 1, 1]
    rows = np.concatenate([x, 3 * x, rng.normal(size=(200, 7)) * 1e4])
    forest = Forest(n_estimators=50, max_samples=min(samples, len(x)), random_state=3).fit(x)
    ours = IsolationForest.fit(x, numeric(7), seed=3, trees=50, samples=samples)
    np.testing.assert_allclose(ours.score(rows).instance, -forest.score_samples(rows), rtol=0, atol=1e-12)


def test_average_path_is_the_papers():
    """c(2) is 1 and c(256) is 2 H(255) - 2 255/256 with the harmonic number estimated as in the paper."""
    expected = [0.0, 1.0, 2 * (np.log(255) + np.euler_gamma) - 2 * 255 / 256]
    np.testing.assert_allclose(average_path(np.array([1, 2, 256])), expected, rtol=1e-15)


def test_rare_tumours_are_found():
    """Ten malignant rows among 357 benign ones are ranked with an area of 0.95 or more (0.985 is known of it)."""
    data = load_breast_cancer()
    x = np.concatenate([data.data[data.target == 1], data.data[data.target == 0][:10]])
    truth = np.arange(len(x)) >= 357
    areas = [roc_auc_score(truth, IsolationForest.fit(x, numeric(30), seed=s).score(x).instance) for s in range(3)]
    assert np.mean(areas) > 0.965


def test_odd_digits_are_found():
    """Inverted, noisy and shuffled digits are told from usual ones; a digit that was never seen hardly is."""
    x, y = load_digits(return_X_y=True)
    rng = np.random.default_rng(0)
    usual = rng.permutation(x[y < 9])
    detector = IsolationForest.fit(usual[:1000], numeric(64, shape=(8, 8)))
    fresh = usual[1000:]
    noisy = np.clip(fresh + rng.normal(0, 0.2 * 16, fresh.shape), 0, 16)

    def area(odd):
        both = np.concatenate([detector.score(fresh).instance, detector.score(odd).instance])
        return roc_auc_score(np.arange(len(both)) >= len(fresh), both)

    assert area(16 - fresh) > 0.99
    assert area(noisy) > 0.9
    assert area(rng.permuted(fresh, axis=1)) > 0.98
    assert 0.58 < area(x[y == 9]) < 0.82
