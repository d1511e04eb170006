"""Drift of a model's own outputs (Lipton, Wang and Smola 2018; Rabanser, Guennemann and Lipton 2019): KS on softmax outputs.

On scikit-learn's digits, 8 x 8 pixels, instead of MNIST: a network of 64 units, trained on a part, the reference another.
"""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier

from headrace.detectors.ks import Ks
from headrace.features import numeric

RUNS = 10


@pytest.fixture(scope="module")
def digits():
    """The network's probabilities as a function, its test of drift, and digits that neither has seen with their classes."""
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    x, y = x[order] / 16, y[order]
    model = MLPClassifier(hidden_layer_sizes=(64,), max_iter=400, random_state=0).fit(x[:500], y[:500])
    return model.predict_proba, Ks.fit(model.predict_proba(x[500:1100]), numeric(10)), x[1100:], y[1100:]


def rate(digits, change, rows):
    """How often a sample of so many changed digits is called drift."""
    ask, fitted, x, y = digits
    found = []
    for run in range(RUNS):
        rng = np.random.default_rng(run)
        changed = change(x, y, rng)
        found.append(fitted.test(ask(changed[rng.choice(len(changed), rows, replace=False)])).is_drift)
    return np.mean(found)


def noise(x, y, rng):
    return x + rng.normal(0, 0.3, size=x.shape)


def rolled(x, y, rng):
    return np.roll(x.reshape(-1, 8, 8), 2, axis=2).reshape(-1, 64)


def without_a_class(x, y, rng):
    return x[y != 0]


@pytest.mark.parametrize("rows", [20, 100, 500])
def test_usual_digits_are_no_drift(digits, rows):
    """Of samples of usual digits at most one in ten is called drift."""
    assert rate(digits, lambda x, y, rng: x, rows) <= 0.1


@pytest.mark.parametrize(("change", "rows"), [(noise, 500), (rolled, 100)])
def test_changed_digits_are_drift(digits, change, rows):
    """Noise on every digit (500 rows) and digits moved aside (100) are called drift, always."""
    assert rate(digits, change, rows) == 1.0


def test_a_class_that_no_longer_comes_is_drift_with_enough_rows(digits):
    """Without one class of ten, 20 rows do not tell, and 500 do."""
    assert rate(digits, without_a_class, 20) <= 0.3
    assert rate(digits, without_a_class, 500) >= 0.9
