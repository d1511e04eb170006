"""Shapley values of a linear model in closed form: no call of the model, and no error.

Lundberg & Lee, "A Unified Approach to Interpreting Model Predictions" (NIPS 2017), corollary 1: with independent
columns, phi_i = w_i (x_i - E[x_i]). White box: the coefficients of a scikit-learn model, behind scalers or alone.
"""

from __future__ import annotations

from typing import Any, ClassVar, Final, Self

import numpy as np

from headrace.errors import InvalidRequest
from headrace.explainers import rows, shapley, white_box
from headrace.explainers.base import Ask, Data, Explainer, Explanation, Reference
from headrace.payload import Array

_LOG: Final = "log of the prediction"


class LinearShap(Explainer):
    """The coefficients times the distance from the mean of the background, in the space where the model is linear: of a
    logistic regression the log-odds (of more classes, what goes into the softmax), of a support vector machine the
    distance from the boundary, of a regression the prediction itself. `output_space` says which.
    """

    METHOD: ClassVar[str] = "linear-shap"
    DATA: ClassVar[tuple[Data, ...]] = ("tabular",)
    NEEDS_MODEL: ClassVar[bool] = True

    def __init__(self, reference: Reference, mean: Array, weights: Array, intercept: Array, output_space: str) -> None:
        self._reference, self._mean = reference, mean
        self._weights, self._intercept, self._space = weights, intercept, output_space

    @classmethod
    def make(cls, reference: Reference, *, seed: int = 0, background: int = 0) -> Self:
        """Prepare.

        Args:
            reference: Its rows are the background, its artifact the model: scikit-learn, linear.
            seed: Of the draw of the background.
            background: How many of the reference's rows; 0: all.

        Raises:
            InvalidRequest: the artifact is no linear model, or behind a step that is no scaler.
        """
        table = rows.table(reference)
        chosen = rows.sample(table, background, np.random.default_rng(seed)) if background else table
        scale, shift, model = white_box.opened(reference.artifact, len(reference.features), method=cls.METHOD)
        weights, intercept, output_space = coefficients(model, len(reference.features))
        return cls(reference, _mean(chosen), weights * scale, intercept + weights @ shift, output_space)

    def explain(self, ask: Ask, x: Array) -> Explanation:
        """Explain one row `[f]`; the model is not asked."""
        x = rows.row(self._reference.features, x)
        filled = np.where(np.isnan(x), self._mean, x)
        effects = self._weights * (filled - self._mean)
        total = self._own(filled)
        base = self._weights @ self._mean + self._intercept
        if not np.allclose(effects.sum(axis=1) + base, total, rtol=1e-6, atol=1e-6):
            raise InvalidRequest(
                f"linear-shap finds that {type(self._reference.artifact).__name__} is not linear in its coefficients; "
                "use permutation-shap"
            )
        chosen = int(total[0] > 0) if len(total) == 1 else int(total.argmax())
        told = shapley.explanation(
            self.METHOD,
            reference=self._reference,
            x=x,
            effects=effects,
            base=base,
            total=total,
            said=total,
            output_space=self._space,
            warnings=("missing values stand at the mean of the background",) if np.isnan(x).any() else (),
        )
        if self._reference.classes:
            told.data["raw"]["prediction"] = [chosen]
        return told

    def _own(self, x: Array) -> Array:
        """What the model itself says, in the space of the effects: `[k]`."""
        model = self._reference.artifact
        if hasattr(model, "decision_function"):
            return np.asarray(model.decision_function(x[None]), np.float64).reshape(-1)
        said = np.asarray(model.predict(x[None]), np.float64).reshape(-1)
        return np.log(said) if self._space == _LOG else said


def _mean(chosen: Array) -> Array:
    present = ~np.isnan(chosen)
    return np.asarray(np.where(present, chosen, 0.0).sum(axis=0) / np.maximum(present.sum(axis=0), 1))


def coefficients(model: Any, columns: int) -> tuple[Array, Array, str]:
    """The weights `[k, f]`, the intercepts `[k]` and the space of a linear scikit-learn model.

    Raises:
        InvalidRequest: it is none.
    """
    found: Any = getattr(model, "coef_", None)
    kind = type(model).__name__
    weights = np.atleast_2d(np.asarray(found.toarray() if hasattr(found, "toarray") else found, np.float64))
    if white_box.family(model) != "sklearn" or found is None or weights.shape[1] != columns:
        raise InvalidRequest(
            f"linear-shap needs a linear model of scikit-learn with {columns} coefficients for each output; the model "
            f"is a {kind}: use permutation-shap"
        )
    if kind in {"SVC", "NuSVC"} and len(weights) > 1:
        raise InvalidRequest(f"linear-shap reads a {kind} of two classes only; use permutation-shap")
    intercept = np.broadcast_to(np.asarray(model.intercept_, np.float64).reshape(-1), len(weights)).copy()
    if hasattr(model, "decision_function"):
        return weights, intercept, "log-odds" if "Logistic" in kind and len(weights) == 1 else "margin"
    link = getattr(model, "_base_loss", None)  # Poisson, Gamma and Tweedie regression: linear in the logarithm
    is_log = link is not None and "Log" in type(link.link).__name__
    return weights, intercept, _LOG if is_log else "prediction"
