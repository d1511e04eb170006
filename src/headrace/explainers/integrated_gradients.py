"""Integrated gradients: how much each column adds on the straight way from a baseline to the row.

Sundararajan, Taly & Yan, "Axiomatic Attribution for Deep Networks" (ICML 2017), equation 1, by Gauss-Legendre
quadrature instead of their Riemann sum (section 5). Attributions add up to F(x) - F(baseline) (completeness); what the
quadrature misses of it is part of the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Final, Protocol, Self

import numpy as np

from headrace.errors import InvalidRequest
from headrace.explainers import rows, shapley, white_box
from headrace.explainers.base import Ask, BudgetSpent, Data, Explainer, Explanation, Reference
from headrace.payload import Array

_GRADIENTS: Final = ("auto", "model", "numeric")
_MISSED: Final = 0.01
"""Of the change from baseline to row: beyond it the attributions come with a warning."""


class IntegratedGradients(Explainer):
    """The gradient comes from the model where it can be read (a torch module by autograd, linear models and multi-layer
    perceptrons of scikit-learn in closed form, behind scalers or alone), else from central differences of its answers,
    all steps in batched calls. Trees have no gradient: their differences are zero nearly everywhere, and the warning
    says that the attributions do not add up.
    """

    METHOD: ClassVar[str] = "integrated-gradients"
    DATA: ClassVar[tuple[Data, ...]] = ("tabular", "image")

    def __init__(self, reference: Reference, baseline: Array, scale: Array, model: _Model | None) -> None:
        self._reference, self._baseline, self._scale, self._model = reference, baseline, scale, model

    @classmethod
    def make(
        cls, reference: Reference, *, seed: int = 0, baseline: str | Sequence[float] = "typical", gradient: str = "auto"
    ) -> Self:
        """Prepare.

        Args:
            reference: Its rows say what is typical, and how far columns vary.
            seed: Not used: nothing is random.
            baseline: Where the way begins: `typical` (the median of each column), `zero` (of images, black), or a row.
            gradient: `model`: the artifact's own; `numeric`: of its answers; auto: the first where it can be had.

        Raises:
            InvalidRequest: the artifact has no gradient that could be read, and only that was asked for; the baseline
                is no row.
        """
        del seed
        rows.one_of("gradient", gradient, _GRADIENTS)
        table = rows.table(reference)
        if isinstance(baseline, str):
            rows.one_of("baseline", baseline, ("typical", "zero"))
            start = np.zeros(table.shape[1]) if baseline == "zero" else rows.typical(reference.features, table)
        else:
            start = rows.row(reference.features, np.asarray(baseline))
        model = None if gradient == "numeric" else _opened(reference, must=gradient == "model")
        return cls(reference, start, rows.spread(table), model)

    def explain(self, ask: Ask, x: Array, *, steps: int = 50, target: int = -1, step: float = 1e-3) -> Explanation:
        """Explain one row `[f]`.

        Args:
            ask: The model; numeric gradients of M columns that differ from the baseline ask for 2 M rows at each step.
            x: The row. A value that is missing, and a category, has no way from the baseline, and stays out.
            steps: Nodes of the quadrature.
            target: Which output; -1: that of the class the model answers, of numbers the first.
            step: Of numeric differences, in standard deviations of the reference.
        """
        rows.at_least("steps", steps, 1)
        if not step > 0:
            raise InvalidRequest(f"step must be above 0; it is {step}")
        features = self._reference.features
        x = rows.row(features, x)
        fixed = np.isnan(x) | np.isnan(self._baseline)
        fixed[list(features.categorical)] = True
        start = np.where(fixed, x, self._baseline)
        warnings = ["missing values and categories have no gradient and stay out"] if fixed.any() else []
        try:
            ends = (
                rows.answer(ask, np.stack([x, start]))
                if self._model is None
                else self._model.answers(np.stack([x, start]))
            )
        except BudgetSpent:
            return self._nothing()
        if not -1 <= target < ends.shape[1]:
            raise InvalidRequest(f"target is an output from 0 to {ends.shape[1] - 1}, or -1; it is {target}")
        chosen = target if target >= 0 else int(ends[0].argmax()) if self._reference.classes else 0
        nodes = steps
        moving = np.flatnonzero(x != start) if self._model is None else np.arange(0)
        if len(moving):
            moving = moving[~fixed[moving]]
            nodes = max(1, min(steps, ask.left() // max(2 * len(moving), 1)))
        places, weights = np.polynomial.legendre.leggauss(nodes)
        path = start + ((places + 1) / 2)[:, None] * (x - start)
        try:
            gradients = self._gradients(ask, path, moving, target=chosen, step=step)
        except BudgetSpent:
            return self._nothing()
        attributions = np.where(fixed, 0.0, (x - start) * (weights / 2 @ gradients))
        change = float(ends[0, chosen] - ends[1, chosen])
        missed = float(attributions.sum() - change)
        if nodes < steps:
            warnings.append(f"{rows.SPENT}: {nodes} of {steps} steps were taken")
        if abs(missed) > _MISSED * max(abs(change), 1e-3):
            warnings.append(f"attributions miss the change of {change:.3g} by {missed:.2g}: take more steps, or shap")
        return self._told(
            x, start, attributions, ends, chosen=chosen, missed=missed, complete=nodes == steps, warnings=warnings
        )

    def _gradients(self, ask: Ask, path: Array, moving: Array, *, target: int, step: float) -> Array:
        """Of the target along the path: `[nodes, f]`.

        Raises:
            BudgetSpent: it may not be asked so much.
        """
        if self._model is not None:
            return self._model.gradients(path, target)
        found = np.zeros_like(path)
        if not len(moving):
            return found
        width = step * self._scale[moving]
        moved = np.repeat(path[:, None, :], 2 * len(moving), axis=1)
        each = np.arange(len(moving))
        moved[:, each, moving] += width
        moved[:, len(moving) + each, moving] -= width
        said = rows.answer(ask, moved.reshape(-1, path.shape[1]))[:, target].reshape(len(path), 2, len(moving))
        found[:, moving] = (said[:, 0] - said[:, 1]) / (2 * width)
        return found

    def _nothing(self) -> Explanation:
        return rows.nothing(self.METHOD, {"attributions": [], "feature_names": list(self._reference.features.names)})

    def _told(
        self,
        x: Array,
        start: Array,
        attributions: Array,
        ends: Array,
        *,
        chosen: int,
        missed: float,
        complete: bool,
        warnings: list[str],
    ) -> Explanation:
        features = self._reference.features
        shape = features.shape or (len(features),)
        space = shapley.space(self._reference) if self._model is None else self._model.space
        name = rows.output_names(self._reference.classes, ends.shape[1])[chosen]
        text = shapley.sentence(
            features,
            x,
            attributions,
            name=name,
            base=float(ends[1, chosen]),
            total=float(ends[0, chosen]),
            output_space=space,
        ).replace("over the background it is", "at the baseline it is")
        return Explanation(
            method=self.METHOD,
            data={
                "attributions": [attributions.reshape(1, *shape)],
                "X": [x.reshape(1, *shape)],
                "baselines": [start.reshape(1, *shape)],
                "predictions": ends[:1],
                "baseline_predictions": ends[1:],
                "deltas": np.array([missed]),
                "target": [chosen],
                "output_names": list(rows.output_names(self._reference.classes, ends.shape[1])),
                "output_space": space,
                "feature_names": list(features.names),
                "gradient": "numeric" if self._model is None else self._model.kind,
            },
            text=text.replace(" on average.", "."),
            complete=complete,
            warnings=tuple(warnings),
        )


class _Model(Protocol):
    """A model that can be differentiated, at rows `[n, f]`."""

    kind: str
    space: str

    def answers(self, x: Array) -> Array:
        """`[n, k]`."""

    def gradients(self, x: Array, target: int) -> Array:
        """Of one output by the columns: `[n, f]`."""


def _opened(reference: Reference, *, must: bool) -> _Model | None:
    """The artifact, where its gradient can be read."""
    try:
        scale, shift, model = white_box.opened(reference.artifact, len(reference.features), method="the gradient")
    except InvalidRequest:
        if must:
            raise
        return None
    if white_box.is_torch(model):
        return _Torch(model, reference.features.shape or (len(reference.features),))
    if white_box.family(model) == "sklearn":
        layers = _layers(model, len(reference.features))
        if layers is not None:
            weights, shifts, hidden, last = layers
            first = (scale[:, None] * weights[0], shifts[0] + shift @ weights[0])
            return _Layers(
                [first[0], *weights[1:]], [first[1], *shifts[1:]], hidden, last, is_classifier=bool(reference.classes)
            )
    if must:
        raise InvalidRequest(
            f"gradient 'model' needs a torch module, or a linear model or multi-layer perceptron of scikit-learn; the "
            f"model is a {type(model).__name__}: use gradient 'numeric'"
        )
    return None


_REGRESSIONS: Final = ("LinearRegression", "Ridge", "RidgeCV", "Lasso", "LassoCV", "ElasticNet", "ElasticNetCV")


def _layers(model: Any, columns: int) -> tuple[list[Array], list[Array], str, str] | None:
    """Weights `[in, out]`, shifts, the hidden activation and the last one, of a fitted model; None: not such a one."""
    kind = type(model).__name__
    if kind in {"MLPClassifier", "MLPRegressor"}:
        weights = [np.asarray(each, np.float64) for each in model.coefs_]
        return (
            weights,
            [np.asarray(each, np.float64) for each in model.intercepts_],
            model.activation,
            (model.out_activation_),
        )
    is_logistic = kind in {"LogisticRegression", "LogisticRegressionCV"}
    if not (is_logistic or kind in _REGRESSIONS):
        return None
    weights = [np.atleast_2d(np.asarray(model.coef_, np.float64)).T]
    if len(weights[0]) != columns or (is_logistic and model.solver == "liblinear" and weights[0].shape[1] > 1):
        return None  # one against the rest, scaled to one: another function than the softmax
    shifts = [np.broadcast_to(np.asarray(model.intercept_, np.float64).reshape(-1), weights[0].shape[1:])]
    last = "identity" if not is_logistic else "logistic" if weights[0].shape[1] == 1 else "softmax"
    return weights, shifts, "identity", last


class _Layers:
    """A multi-layer perceptron, or a linear model as one without hidden layers."""

    kind = "analytic"

    def __init__(
        self, weights: list[Array], shifts: list[Array], hidden: str, last: str, *, is_classifier: bool
    ) -> None:
        self._weights, self._shifts, self._hidden, self._last = weights, shifts, hidden, last
        self.space = "probability" if is_classifier else "prediction"

    def answers(self, x: Array) -> Array:
        """`[n, k]`; of two classes both probabilities."""
        return self._finished(self._forward(x)[-1])

    def gradients(self, x: Array, target: int) -> Array:
        """Backwards through the layers."""
        values = self._forward(x)
        back = self._slope(values[-1], target)
        for weights, value in zip(self._weights[:0:-1], values[-2::-1], strict=True):
            back = (back @ weights.T) * _DERIVATIVES[self._hidden](value)
        return np.asarray(back @ self._weights[0].T)

    def _forward(self, x: Array) -> list[Array]:
        """What comes out of each layer, of the last before its activation."""
        values: list[Array] = []
        for at, (weights, shift) in enumerate(zip(self._weights, self._shifts, strict=True)):
            x = x @ weights + shift
            if at < len(self._weights) - 1:
                x = _ACTIVATIONS[self._hidden](x)
            values.append(x)
        return values

    def _finished(self, last: Array) -> Array:
        if self._last == "logistic":
            second = _ACTIVATIONS["logistic"](last)
            return np.concatenate([1 - second, second], axis=1) if second.shape[1] == 1 else second
        if self._last == "softmax":
            raised = np.exp(last - last.max(axis=1, keepdims=True))
            return np.asarray(raised / raised.sum(axis=1, keepdims=True))
        return last

    def _slope(self, last: Array, target: int) -> Array:
        """Of the target by what comes out of the last layer."""
        slope = np.zeros_like(last)
        if self._last == "identity":
            slope[:, target] = 1
            return slope
        said = self._finished(last)
        if self._last == "logistic" and last.shape[1] == 1:
            slope[:, 0] = said[:, 0] * said[:, 1] * (1 if target else -1)
        elif self._last == "logistic":
            slope[:, target] = said[:, target] * (1 - said[:, target])
        else:
            slope = -said * said[:, target : target + 1]
            slope[:, target] += said[:, target]
        return slope


def _logistic(x: Array) -> Array:
    small = np.exp(-np.abs(x))
    return np.asarray(np.where(x >= 0, 1 / (1 + small), small / (1 + small)))


_ACTIVATIONS: Final[Mapping[str, Callable[[Array], Array]]] = {
    "identity": lambda x: x,
    "logistic": _logistic,
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, 0),
}
_DERIVATIVES: Final[Mapping[str, Callable[[Array], Array]]] = {
    "identity": np.ones_like,
    "logistic": lambda value: value * (1 - value),
    "tanh": lambda value: 1 - value**2,
    "relu": lambda value: (value > 0).astype(np.float64),
}
"""Of what comes out of a layer, by what went into the activation."""


class _Torch:
    """A torch module that takes rows in the shape of the features, as precise as its weights and where they are."""

    kind = "autograd"
    space = "the module's output"

    def __init__(self, module: Any, shape: tuple[int, ...]) -> None:
        self._module, self._shape = module, shape

    def answers(self, x: Array) -> Array:
        """`[n, k]`."""
        return self._run(x, None)

    def gradients(self, x: Array, target: int) -> Array:
        """By autograd; rows do not see each other, so the gradient of their sum is each row's own."""
        return self._run(x, target)

    def _run(self, x: Array, target: int | None) -> Array:
        import torch  # type: ignore[import-not-found,unused-ignore]

        weight = next(self._module.parameters(), torch.zeros((), dtype=torch.float64))
        was_training = self._module.training
        self._module.eval()  # drop-out and batch norms as when serving
        try:
            rows_in = torch.as_tensor(x.reshape(-1, *self._shape), dtype=weight.dtype, device=weight.device)
            rows_in.requires_grad_(target is not None)
            with torch.set_grad_enabled(target is not None):
                said = self._module(rows_in)
                said = said.reshape(len(x), -1)
                if target is None:
                    found = said
                else:
                    (found,) = torch.autograd.grad(said[:, target].sum(), rows_in)
        finally:
            self._module.train(was_training)
        return np.asarray(found.detach().cpu().double().numpy()).reshape(len(x), -1)
