"""The union: ranks, and attacks on two models of digits at a calibrated false-positive rate."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier

from headrace.detectors.adversarial_union import AdversarialUnion, surprise
from headrace.detectors.autoencoder_output import AutoencoderOutput
from headrace.detectors.feature_squeezing import FeatureSqueezing
from headrace.errors import InvalidRequest
from headrace.features import numeric
from headrace.testing.detectors import MIXED, AdversarialConformance, mixed


class TestAdversarialUnion(AdversarialConformance):
    detector = AdversarialUnion


def test_surprise_is_a_rank():
    """At held-out scores it is -ln of the conformal p-value, between them it rises, and above them, too."""
    held = np.array([0.0, 1.0, 1.0, 4.0])
    np.testing.assert_allclose(surprise(np.array([0.0, 1.0, 4.0]), held), -np.log([1.0, 4 / 5, 2 / 5]))
    above = surprise(np.array([-5.0, 0.5, 4.0, 4.1, 5.0, 1e9]), held)
    assert (np.diff(above) > 0).all()
    assert above[3] > np.log(5)
    assert np.isfinite(surprise(np.array([0.0, 3.0]), np.zeros(6))).all()


@pytest.mark.parametrize(
    "bad", [{"parts": {}}, {"parts": {"pca": {}}}, {"parts": {"feature-squeezing": {"colours": 3}}}], ids=str
)
def test_unknown_parts_are_refused(bad):
    """No parts, parts that are no detectors of adversarial inputs, and unknown parameters raise InvalidRequest."""
    with pytest.raises(InvalidRequest):
        AdversarialUnion.fit(mixed(100, seed=0), MIXED, TestAdversarialUnion.predict, **bad)


def logistic(x, y):
    model = LogisticRegression(C=0.01, max_iter=3000).fit(x, y)

    def slope(rows, truth):
        gap = model.predict_proba(rows)
        gap[np.arange(len(rows)), truth] -= 1
        return gap @ model.coef_

    return model.predict_proba, slope


def network(x, y):
    model = MLPClassifier(hidden_layer_sizes=(32,), alpha=1.0, learning_rate_init=0.01, random_state=0, tol=1e-3).fit(
        x / 16, y
    )

    def predict(rows):
        return model.predict_proba(rows / 16)

    def slope(rows, truth):
        gap = predict(rows)
        gap[np.arange(len(rows)), truth] -= 1
        open_units = rows / 16 @ model.coefs_[0] + model.intercepts_[0] > 0
        return ((gap @ model.coefs_[1].T) * open_units) @ model.coefs_[0].T

    return predict, slope


@pytest.mark.parametrize("make", [logistic, network], ids=["logistic", "network"])
@pytest.mark.parametrize(
    ("detector", "least"),
    [(FeatureSqueezing, 0.5), (AutoencoderOutput, 0.7), (AdversarialUnion, 0.7)],
    ids=["squeezing", "autoencoder", "union"],
)
def test_attacks_on_digits_are_found(make, detector, least):
    """Of digits that the fast gradient sign method turns, most pass a threshold that a twentieth of others passes."""
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    x, y = x[order], y[order]
    predict, slope = make(x[:900], y[:900])
    found = detector.fit(x[:900], numeric(64, shape=(8, 8)), predict)
    threshold = np.quantile(found.score(x[900:1350], predict).instance, 0.95)
    fresh, truth = x[1350:], y[1350:]

    # The rate on fresh rows lies within the interval of two binomial ones, the threshold's and its own.
    rate = np.mean(found.score(fresh, predict).instance > threshold)
    reach = stats.norm.ppf(0.9995) * (0.05 * 0.95 * (1 / 450 + 1 / len(fresh))) ** 0.5
    assert abs(rate - 0.05) < reach

    # Goodfellow, Shlens and Szegedy, 2015: one of 16 steps of grey along the sign of the loss's gradient.
    attacked = np.clip(fresh + np.sign(slope(fresh, truth)), 0, 16)
    turned = (predict(fresh).argmax(1) == truth) & (predict(attacked).argmax(1) != truth)
    assert turned.sum() > 30
    assert np.mean(found.score(attacked[turned], predict).instance > threshold) > least
