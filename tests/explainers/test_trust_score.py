"""Trust scores: what every explainer keeps, distances that are known, and that they tell right answers from wrong."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from headrace.errors import InvalidRequest
from headrace.explainers.base import Ask, Reference
from headrace.explainers.trust_score import TrustScore
from headrace.features import numeric
from headrace.testing.explainers import ExplainerConformance


class TestTrustScore(ExplainerConformance):
    method = "trust-score"


def test_the_score_is_the_ratio_of_distances():
    """On a line, a row at 1 between classes at 0 and 10 scores 9, and 1/9 where the model answers the far one."""
    table = np.array([[0.0]] * 4 + [[10.0]] * 4)
    reference = Reference(features=numeric(1), x=table, y=np.array([0] * 4 + [1] * 4), classes=("near", "far"))
    explainer = TrustScore.make(reference)
    near = explainer.explain(Ask(lambda x: np.array([[0.9, 0.1]])), np.array([1.0]))
    far = explainer.explain(Ask(lambda x: np.array([[0.1, 0.9]])), np.array([1.0]))
    assert near.data["score"][0] == pytest.approx(9)
    assert far.data["score"][0] == pytest.approx(1 / 9)
    assert near.data["closest_class_name"] == "far"
    assert far.warnings


def test_scores_tell_right_answers_from_wrong():
    """On digits, rows that a weak model gets wrong score lower: AUROC above 0.8, and each quarter with higher scores is
    right at least as often, within chance.
    """
    x, y = load_digits(return_X_y=True)
    model = LogisticRegression(C=1e-4, max_iter=200).fit(x[:300], y[:300])
    reference = Reference(
        features=numeric(64, shape=(8, 8)), x=x[:900], y=y[:900], classes=tuple(str(each) for each in range(10))
    )
    explainer = TrustScore.make(reference)
    rows = x[900:1500]
    ask = Ask(model.predict_proba)
    scores = np.array([explainer.explain(ask, row).data["score"][0] for row in rows])
    right = model.predict(rows) == y[900:1500]
    assert 20 < (~right).sum() < 200
    assert roc_auc_score(right, scores) > 0.8
    quarters = np.array_split(right[np.argsort(scores)], 4)
    assert quarters[0].mean() < quarters[3].mean()


def test_outliers_of_a_class_are_set_aside():
    """A mislabelled row far from its class makes that class look near, unless alpha sets it aside."""
    rng = np.random.default_rng(0)
    table = np.concatenate([rng.normal(0, 1, (50, 2)), rng.normal(10, 1, (49, 2)), [[0.0, 0.0], [0.1, 0.0]]])
    y = np.array([0] * 50 + [1] * 51)
    reference = Reference(features=numeric(2), x=table, y=y, classes=("a", "b"))
    ask = Ask(lambda x: np.array([[1.0, 0.0]]))
    kept = TrustScore.make(reference, alpha=0.0).explain(ask, np.array([0.05, 0.05]))
    aside = TrustScore.make(reference, alpha=0.05).explain(ask, np.array([0.05, 0.05]))
    assert kept.data["score"][0] < 2
    assert aside.data["score"][0] > 10


def test_what_cannot_be_compared_is_refused():
    """No labels, labels of one class, or an answered class without rows is refused."""
    table = np.zeros((4, 1))
    with pytest.raises(InvalidRequest, match="class of each row"):
        TrustScore.make(Reference(features=numeric(1), x=table))
    with pytest.raises(InvalidRequest, match="one only"):
        TrustScore.make(Reference(features=numeric(1), x=table, y=np.zeros(4, np.int64)))
    some = TrustScore.make(Reference(features=numeric(1), x=table, y=np.array([0, 0, 1, 1])))
    with pytest.raises(InvalidRequest, match="no row of it"):
        some.explain(Ask(lambda x: np.array([[0.0, 0.0, 1.0]])), np.zeros(1))
