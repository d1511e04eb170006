"""Mahalanobis distance, from a fixed reference: its closed form, shares of features, estimators."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest
from scipy import stats
from sklearn.covariance import MinCovDet
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from sklearn.metrics import roc_auc_score

from headrace.detectors.mahalanobis import Mahalanobis
from headrace.errors import InvalidRequest
from headrace.features import numeric
from headrace.testing.detectors import OutlierConformance


class TestMahalanobis(OutlierConformance):
    detector = Mahalanobis


class TestEmpirical(OutlierConformance):
    detector = Mahalanobis
    parameters: ClassVar = {"estimator": "empirical"}


class TestRobust(OutlierConformance):
    detector = Mahalanobis
    parameters: ClassVar = {"estimator": "robust"}


def test_score_is_the_closed_form():
    """With the plain covariance the score is (z - m)' S^-1 (z - m), whatever the columns' units, and shares sum to it."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(500, 4)) @ rng.normal(size=(4, 4)) * [1, 1e3, 1e-3, 1] + [5, 0, 0, 100]
    rows = x[:50] * 1.5
    scores = Mahalanobis.fit(x, numeric(4), estimator="empirical").score(rows)
    gap = rows - x.mean(0)
    expected = np.einsum("ni,ij,nj->n", gap, np.linalg.inv(np.cov(x.T, bias=True)), gap)
    np.testing.assert_allclose(scores.instance, expected, rtol=1e-8)
    np.testing.assert_allclose(scores.feature.sum(1), expected, rtol=1e-8)
    assert (scores.feature >= 0).all()


def test_scores_of_normal_rows_are_chi_square():
    """Scores of fresh normal rows are not told from chi-square with as many degrees of freedom as columns."""
    rng = np.random.default_rng(1)
    detector = Mahalanobis.fit(rng.normal(size=(20_000, 5)), numeric(5))
    assert stats.kstest(detector.score(rng.normal(size=(1000, 5))).instance, "chi2", (5,)).pvalue > 0.01


def test_robust_is_the_minimum_covariance_determinant():
    """The robust distances are those of scikit-learn's estimate on the standardised rows."""
    rng = np.random.default_rng(2)
    x = rng.normal(size=(300, 3))
    x[:40] += 8
    z = (x - x.mean(0)) / x.std(0)
    _, vectors = np.linalg.eigh(np.cov(z.T, bias=True))
    expected = MinCovDet(random_state=0).fit(z @ vectors).mahalanobis(z @ vectors)
    found = Mahalanobis.fit(x, numeric(3), estimator="robust").score(x).instance
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert found[:40].min() > found[40:].max()


def test_few_rows_for_robust_are_refused():
    """The robust estimate of more columns than rows can tell raises InvalidRequest and says how many it needs."""
    with pytest.raises(InvalidRequest, match="20 rows"):
        Mahalanobis.fit(np.random.default_rng(0).normal(size=(15, 10)), numeric(10), estimator="robust")


@pytest.mark.parametrize(
    "bad", [{"estimator": "median"}, {"components": 0}, {"components": 9}, {"scale": "huge"}], ids=str
)
def test_unknown_parameters_are_refused(bad):
    """A parameter out of range raises InvalidRequest."""
    with pytest.raises(InvalidRequest):
        Mahalanobis.fit(np.random.default_rng(0).normal(size=(50, 3)), numeric(3), **bad)


def test_collinear_columns_are_no_error():
    """Of a column that is the sum of others, a row that breaks the sum is odd and one that keeps it is not."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(300, 2))
    x = np.column_stack([x, x.sum(1)])
    detector = Mahalanobis.fit(x, numeric(3), estimator="empirical")
    usual = np.quantile(detector.score(x).instance, 0.99)
    keeps, breaks = detector.score(np.array([[1.0, 1.0, 2.0], [1.0, 1.0, 0.0]])).instance
    assert keeps < usual < breaks


def test_rare_rows_are_found():
    """Rare tumours and wines are ranked near the areas that are known of robust estimates (0.956 of wines)."""
    data = load_breast_cancer()
    x = np.concatenate([data.data[data.target == 1], data.data[data.target == 0][:10]])
    found = Mahalanobis.fit(x, numeric(30), estimator="robust").score(x).instance
    assert roc_auc_score(np.arange(len(x)) >= 357, found) > 0.93
    data = load_wine()
    x = np.concatenate([data.data[data.target != 0], data.data[data.target == 0][:10]])
    found = Mahalanobis.fit(x, numeric(13), estimator="robust").score(x).instance
    assert roc_auc_score(np.arange(len(x)) >= 119, found) > 0.93


def test_odd_digits_in_30_components():
    """In 30 components inverted and shuffled digits are found; noise, which lies outside of them, hardly is."""
    x, y = load_digits(return_X_y=True)
    rng = np.random.default_rng(0)
    usual = rng.permutation(x[y < 9])
    detector = Mahalanobis.fit(usual[:1000], numeric(64, shape=(8, 8)), components=30)
    fresh = usual[1000:]

    def area(odd):
        both = np.concatenate([detector.score(fresh).instance, detector.score(odd).instance])
        return roc_auc_score(np.arange(len(both)) >= len(fresh), both)

    assert area(16 - fresh) > 0.98
    assert area(rng.permuted(fresh, axis=1)) > 0.98
    assert 0.6 < area(np.clip(fresh + rng.normal(0, 0.2 * 16, fresh.shape), 0, 16)) < 0.8
