"""scikit-learn's linear models in numpy: the same product, the same link, without the checks. Called by `candidates`.

Operations are those of scikit-learn in the same order, so scores are equal to the last bit; at one row a matrix
product costs a microsecond where the estimator's validation costs fifty.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from headrace.payload import Array
from headrace.runtimes.optimize.engine import Engine, Labels, Refused

REGRESSORS = frozenset(
    {
        *("LinearRegression", "Ridge", "RidgeCV", "Lasso", "LassoCV", "ElasticNet", "ElasticNetCV", "Lars", "LarsCV"),
        *("LassoLars", "LassoLarsCV", "LassoLarsIC", "BayesianRidge", "ARDRegression", "HuberRegressor", "LinearSVR"),
        *("TheilSenRegressor", "OrthogonalMatchingPursuit", "OrthogonalMatchingPursuitCV", "MultiTaskLasso"),
        *("MultiTaskElasticNet", "SGDRegressor", "PassiveAggressiveRegressor"),
    }
)
CLASSIFIERS = frozenset(
    {
        *("LogisticRegression", "LogisticRegressionCV", "SGDClassifier", "Perceptron", "LinearSVC", "RidgeClassifier"),
        *("RidgeClassifierCV", "PassiveAggressiveClassifier", "LinearDiscriminantAnalysis"),
    }
)
_FLAT = frozenset({"SGDRegressor", "PassiveAggressiveRegressor"})
_SOFTMAX = frozenset({"LogisticRegression", "LogisticRegressionCV", "LinearDiscriminantAnalysis"})


def is_linear(model: Any) -> bool:
    """Whether the model is one of scikit-learn's linear ones."""
    kind = type(model)
    return kind.__module__.startswith("sklearn.") and kind.__name__ in REGRESSORS | CLASSIFIERS


class LinearRegressor(Engine):
    """rows @ coef + intercept: shape (n,), or (n, targets)."""

    name = "numpy"
    outputs = frozenset({"predict"})

    def __init__(self, model: Any) -> None:
        coefficients = model.coef_
        self._coefficients = coefficients.T if coefficients.ndim == 2 else coefficients
        self._intercept = model.intercept_
        self._flat = type(model).__name__ in _FLAT

    def answer(self, rows: Array, outputs: Sequence[str]) -> dict[str, Array]:
        """The product, under each name asked for."""
        scores = rows @ self._coefficients + self._intercept
        return dict.fromkeys(outputs, scores.ravel() if self._flat else scores)


class LinearClassifier(Engine):
    """Labels, scores and probabilities of a linear classifier."""

    name = "numpy"
    outputs = frozenset({"predict", "decision_function", "predict_proba"})

    def __init__(self, model: Any, labels: Labels | None) -> None:
        if labels is None:
            raise Refused(f"{type(model).__name__} answers several labels at once")
        self._coefficients = model.coef_.T
        self._intercept = model.intercept_
        self._binary = model.coef_.ndim == 1 or model.coef_.shape[0] == 1
        self._table = labels.table
        self._probabilities = _link(model)

    def answer(self, rows: Array, outputs: Sequence[str]) -> dict[str, Array]:
        """Labels, scores, probabilities, as asked for."""
        scores = rows @ self._coefficients + self._intercept
        if self._binary:
            scores = scores.reshape(-1)
        result = {}
        for output in outputs:
            if output == "predict":
                numbers = (scores > 0).astype(np.intp) if self._binary else scores.argmax(axis=1)
                result[output] = self._table.take(numbers)
            elif output == "predict_proba":
                result[output] = self._probabilities(scores)
            else:
                result[output] = scores
        return result


def _link(model: Any) -> Callable[[Array], Array]:
    """From scores, which it leaves alone, to probabilities."""
    from scipy.special import expit

    def binary(scores: Array) -> Array:
        probabilities = np.empty((scores.size, 2), dtype=scores.dtype)
        expit(scores, out=probabilities[:, 1])
        np.subtract(1, probabilities[:, 1], out=probabilities[:, 0])
        return probabilities

    def softmax(scores: Array) -> Array:
        scores = scores - scores.max(axis=1).reshape(-1, 1)
        np.exp(scores, out=scores)
        scores /= scores.sum(axis=1).reshape(-1, 1)
        return scores

    def one_against_rest(scores: Array) -> Array:
        probabilities: Array = expit(scores)
        total = probabilities.sum(axis=1)
        nowhere = total == 0
        if nowhere.any():
            probabilities[nowhere, :] = 1
            total[nowhere] = probabilities.shape[1]
        probabilities /= total.reshape(-1, 1)
        return probabilities

    if len(model.classes_) <= 2:
        return binary
    return softmax if type(model).__name__ in _SOFTMAX else one_against_rest


def boundary(model: Any) -> Callable[[Array, np.random.Generator], Array]:
    """A function that moves rows onto the border between two classes, or 1e-6 to either side of it."""
    coefficients = np.atleast_2d(np.asarray(model.coef_, dtype=np.float64))
    intercept = np.broadcast_to(np.asarray(model.intercept_, dtype=np.float64), (coefficients.shape[0],))

    def move(rows: Array, rng: np.random.Generator) -> Array:
        if coefficients.shape[0] == 1:
            normal, offset = np.repeat(coefficients, len(rows), 0), np.repeat(intercept, len(rows))
        else:
            one = rng.integers(coefficients.shape[0], size=len(rows))
            other = (one + rng.integers(1, coefficients.shape[0], size=len(rows))) % coefficients.shape[0]
            normal, offset = coefficients[one] - coefficients[other], intercept[one] - intercept[other]
        length = np.maximum((normal**2).sum(axis=1), np.finfo(np.float64).tiny)
        side = rng.choice([-1e-6, 0.0, 1e-6], size=len(rows))
        distance = (np.einsum("ij,ij->i", rows, normal) + offset) / length
        moved: Array = rows - (distance - side)[:, None] * normal
        return moved

    return move
