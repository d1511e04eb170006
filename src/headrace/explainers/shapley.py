"""The game whose Shapley values explain a row, and how they are told: shared by the Shapley methods.

A coalition is a set of columns that keep the row's values; the other columns are drawn together from a background
sample, and the value of the coalition is the mean of what the model says. So the expectation is the interventional
one, E[f(x_S, X_rest)] over the marginal of X_rest (Lundberg & Lee, "A Unified Approach to Interpreting Model
Predictions", NIPS 2017, eq. 11; Janzing et al., AISTATS 2020), not the conditional one: no value of a column that
the model does not read can matter.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

import numpy as np

from headrace.errors import InvalidRequest
from headrace.explainers import rows as explained
from headrace.explainers.base import LARGEST_CALL, Ask, BudgetSpent, Explanation, Reference
from headrace.features import Features
from headrace.payload import Array

Link = Literal["identity", "logit"]
LINKS: Final = ("identity", "logit")
_LEAST_PROBABILITY: Final = 1e-12
"""Under the logit a probability of 0 or 1 would be infinite."""


class Game:
    """The coalitions of one row against a background.

    Args:
        ask: The model.
        x: The row, `[f]`.
        background: `[b, f]`.
        link: What makes effects add up: the model's own numbers, or log-odds of the mean probability.
    """

    def __init__(self, ask: Ask, x: Array, background: Array, *, link: Link = "identity") -> None:
        self._ask, self._x, self._link = ask, x, link
        self.background = background
        same = (background == x) | (np.isnan(background) & np.isnan(x))
        self.players = np.flatnonzero(~same.all(axis=0))
        """Positions of columns in which the row differs from some row of the background. The others are dummies: their
        Shapley value is exactly 0, so no coalition is spent on them."""

    def ends(self) -> tuple[Array, Array, Array]:
        """The value of the empty coalition and of all columns, `[k]` each, and what the model says of the row.

        Raises:
            BudgetSpent: it may not be asked.
        """
        said = explained.answer(self._ask, np.concatenate([self._x[None], self.background]))
        return self.linked(said[1:].mean(axis=0)), self.linked(said[0]), said[0]

    def values(self, coalitions: Array) -> Array:
        """The values of the leading coalitions, as many as the budget allows: `[m, k]`, m at most `len(coalitions)`.

        Args:
            coalitions: `[n, len(players)]` of booleans: which players keep the row's value.
        """
        parts: list[Array] = []
        at_once = max(1, LARGEST_CALL // len(self.background))
        coalitions = coalitions[: max(self._ask.left(), 0) // len(self.background)]
        for start in range(0, len(coalitions), at_once):
            try:
                parts.append(self._means(coalitions[start : start + at_once], self.background))
            except BudgetSpent:
                break
        return self.linked(np.concatenate(parts)) if parts else np.empty((0, 0))

    def sums(self, coalitions: Array, background: Array) -> Array:
        """For each coalition the sum, over these rows of a background, of what the model says: `[n, k]`.

        Raises:
            BudgetSpent: it may not be asked so much.
        """
        return self._means(coalitions, background) * len(background)

    def _means(self, coalitions: Array, background: Array) -> Array:
        kept = np.zeros((len(coalitions), len(self._x)), np.bool_)
        kept[:, self.players] = coalitions
        mixed = np.where(kept[:, None, :], self._x, background[None])
        said = explained.answer(self._ask, mixed.reshape(-1, len(self._x)))
        means: Array = said.reshape(len(coalitions), len(background), -1).mean(axis=1)
        return means

    def linked(self, values: Array) -> Array:
        """Values in the space in which effects add up."""
        if self._link == "identity":
            return values
        clipped = np.clip(values, _LEAST_PROBABILITY, 1 - _LEAST_PROBABILITY)
        odds: Array = np.log(clipped) - np.log1p(-clipped)
        return odds

    def spread_out(self, effects: Array) -> Array:
        """Effects of the players `[k, p]` as effects of all columns `[k, f]`."""
        full = np.zeros((len(effects), len(self._x)))
        full[:, self.players] = effects
        return full


def check_link(link: str, reference: Reference) -> Link:
    """Check a parameter.

    Raises:
        InvalidRequest: it is no link, or the model has no probabilities that the logit could take.
    """
    explained.one_of("link", link, LINKS)
    if link == "logit" and not reference.classes:
        raise InvalidRequest("link 'logit' is for probabilities, and this model has no classes; use 'identity'")
    return "logit" if link == "logit" else "identity"


def space(reference: Reference, link: Link = "identity") -> str:
    """In what the effects are measured."""
    if link == "logit":
        return "log-odds"
    return "probability" if reference.classes else "prediction"


def nothing(method: str, features: Features, output_space: str) -> Explanation:
    """Of a budget that does not reach for one effect."""
    return explained.nothing(
        method,
        {
            "shap_values": [],
            "expected_value": [],
            "feature_names": list(features.names),
            "output_space": output_space,
        },
    )


def explanation(
    method: str,
    *,
    reference: Reference,
    x: Array,
    effects: Array,
    base: Array,
    total: Array,
    said: Array,
    output_space: str,
    complete: bool = True,
    warnings: tuple[str, ...] = (),
    extra: Mapping[str, Any] | None = None,
) -> Explanation:
    """Tell Shapley values in the words that other tools read: one array `[1, f]` per output.

    Args:
        method: As in the registry.
        reference: What they were made against.
        x: The row, `[f]`.
        effects: `[k, f]` of float64.
        base: `[k]`: the value of no column.
        total: `[k]`: the value of all columns; `effects` add up to it from `base`.
        said: What the model says of the row, `[k]`, in its own space.
        output_space: Of effects, base and total.
        complete: Whether the budget was enough.
        warnings: For a person.
        extra: More data.
    """
    names = explained.output_names(reference.classes, len(effects))
    residual = np.abs(effects.sum(axis=1) + base - total)
    chosen = int(said.argmax()) if reference.classes and len(said) > 1 else 0
    data: dict[str, Any] = {
        "shap_values": [one[None] for one in effects],
        "expected_value": base,
        "output_space": output_space,
        "output_names": list(names),
        "output_value": total,
        "residual": residual,
        "feature_names": list(reference.features.names),
        "categorical_names": {
            str(at): [str(each) for each in reference.features.columns[at].categories]
            for at in reference.features.categorical
        },
        "raw": {
            "raw_prediction": said[None],
            "prediction": [chosen] if reference.classes and len(said) > 1 else said,
            "instances": x[None],
            "importances": _importances(reference.features, effects),
        },
        **(extra or {}),
    }
    told = min(chosen, len(effects) - 1)
    text = sentence(
        reference.features,
        x,
        effects[told],
        name=names[told],
        base=float(base[told]),
        total=float(total[told]),
        output_space=output_space,
    )
    return Explanation(method=method, data=data, text=text, complete=complete, warnings=warnings)


def _importances(features: Features, effects: Array) -> dict[str, Any]:
    def ranked(sizes: Array) -> dict[str, Any]:
        order = np.argsort(-sizes, kind="stable")
        return {"ranked_effect": sizes[order], "names": [features.names[at] for at in order]}

    sizes = np.abs(effects)
    return {**{str(at): ranked(each) for at, each in enumerate(sizes)}, "aggregated": ranked(sizes.sum(axis=0))}


def sentence(
    features: Features, x: Array, effects: Array, *, name: str, base: float, total: float, output_space: str
) -> str:
    """The effects of one output, the largest three for and against it."""
    what = "The answer" if name == "output" else f"The {output_space} of '{name}'"
    unit = f" ({output_space})" if name == "output" and output_space != "prediction" else ""
    head = f"{what} is {total:.4g}{unit}; over the background it is {base:.4g} on average."
    order = np.argsort(-np.abs(effects), kind="stable")
    least = 1e-3 * float(np.abs(effects).max(initial=0.0))
    parts = [
        f"{word}: " + ", ".join(f"{explained.shown(features, at, x[at])} ({effects[at]:+.3g})" for at in chosen[:3])
        for word, chosen in (
            ("It is raised most by", [at for at in order if effects[at] > least]),
            ("It is lowered most by", [at for at in order if effects[at] < -least]),
        )
        if chosen
    ]
    return " ".join([head, *(f"{part}." for part in parts)])
