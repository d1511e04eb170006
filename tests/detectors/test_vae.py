"""The variational auto-encoder: its gradient, what it learns, odd digits."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score

from headrace.detectors import vae
from headrace.detectors.vae import Vae
from headrace.errors import InvalidRequest
from headrace.features import numeric
from headrace.testing.detectors import OutlierConformance


class TestVae(OutlierConformance):
    detector = Vae
    parameters: ClassVar = {"epochs": 100}


def test_gradient_is_that_of_the_bound():
    """Every slope equals the difference quotient of the negative evidence bound."""
    rng = np.random.default_rng(0)
    w = {}
    for name, shape in (("in", (3, 5)), ("mean", (5, 2)), ("spread", (5, 2)), ("out", (2, 5)), ("back", (5, 3))):
        w[name] = rng.normal(0, 0.5, shape)
        w[f"{name}_bias"] = rng.normal(0, 0.1, shape[1])
    x, draw = rng.normal(size=(7, 3)), rng.normal(size=(7, 2))

    def loss():
        hidden = np.tanh(x @ w["in"] + w["in_bias"])
        mean, spread = hidden @ w["mean"] + w["mean_bias"], hidden @ w["spread"] + w["spread_bias"]
        latent = mean + np.exp(spread / 2) * draw
        back = np.tanh(latent @ w["out"] + w["out_bias"]) @ w["back"] + w["back_bias"]
        divergence = 0.5 * (mean**2 + np.exp(spread) - spread - 1).sum(1)
        return np.mean(((back - x) ** 2).sum(1) / (2 * 0.3) + 0.7 * divergence)

    slopes, squared = vae._gradient(x, w, draw, noise=0.3, beta=0.7)
    assert squared > 0
    for name, each in w.items():
        for at in np.ndindex(each.shape):
            value = each[at]
            each[at] = value + 1e-6
            above = loss()
            each[at] = value - 1e-6
            below = loss()
            each[at] = value
            assert slopes[name][at] == pytest.approx((above - below) / 2e-6, rel=1e-4, abs=1e-7), (name, at)


def test_it_learns_a_curve():
    """Points of a circle come back, and points off it do not, though both lie in the same range."""
    rng = np.random.default_rng(1)
    angle = rng.uniform(0, 2 * np.pi, 1000)
    x = np.column_stack([np.cos(angle), np.sin(angle)]) + rng.normal(0, 0.03, (1000, 2))
    detector = Vae.fit(x, numeric(2), latent=2, hidden=32, epochs=150)
    on, off = detector.score(x).instance, detector.score(np.column_stack([np.cos(angle), np.sin(angle)]) * 2.5).instance
    assert np.median(off) > 5 * np.quantile(on, 0.95)


def test_odd_digits_are_found():
    """Areas for digits are those that are known of such networks, or better: 9 0.69, inverted 1, noise 0.81, shuffled 1."""
    x, y = load_digits(return_X_y=True)
    rng = np.random.default_rng(0)
    usual = rng.permutation(x[y < 9])
    detector = Vae.fit(usual[:1000], numeric(64, shape=(8, 8)))
    fresh = usual[1000:]

    def area(odd):
        both = np.concatenate([detector.score(fresh).instance, detector.score(odd).instance])
        return roc_auc_score(np.arange(len(both)) >= len(fresh), both)

    assert area(16 - fresh) > 0.999
    assert area(np.clip(fresh + rng.normal(0, 0.2 * 16, fresh.shape), 0, 16)) > 0.8
    assert area(rng.permuted(fresh, axis=1)) > 0.999
    assert 0.6 < area(x[y == 9]) < 0.88


@pytest.mark.parametrize("bad", [{"latent": -1}, {"epochs": 0}, {"learning_rate": 0.0}, {"beta": -1.0}], ids=str)
def test_parameters_out_of_range_are_refused(bad):
    """A parameter out of range raises InvalidRequest."""
    with pytest.raises(InvalidRequest):
        Vae.fit(np.random.default_rng(0).normal(size=(50, 3)), numeric(3), **bad)
