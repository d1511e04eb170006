"""Accumulated local effects: how the answer moves, on average, as one column moves, others staying where they belong.

Apley & Zhu, "Visualizing the effects of predictor variables in black box supervised learning models" (Journal of the
Royal Statistical Society B 82, 2020): the estimator of the first-order effect, equations 15 and 16, with quantiles of
the column as bounds of its bins. Deviation: the effect is centred at the mean over the bins of their middle, weighted
by the rows in them, which is its mean where it is linear within a bin; columns of categories have no order, and are
left to partial dependence.
"""

from __future__ import annotations

from typing import Any, ClassVar, Self

import numpy as np

from headrace.errors import InvalidRequest
from headrace.explainers import rows, shapley
from headrace.explainers.base import Ask, BudgetSpent, Data, Explainer, Explanation, Reference
from headrace.payload import Array


class Ale(Explainer):
    """One curve per column and output, in the units of the answer, around zero."""

    METHOD: ClassVar[str] = "ale"
    DATA: ClassVar[tuple[Data, ...]] = ("tabular",)
    IS_GLOBAL: ClassVar[bool] = True

    def __init__(self, reference: Reference, seed: int) -> None:
        self._reference, self._seed = reference, seed

    @classmethod
    def make(cls, reference: Reference, *, seed: int = 0) -> Self:
        """Prepare.

        Args:
            reference: Its rows are those that the effects are averaged over.
            seed: Of the draw of rows.

        Raises:
            InvalidRequest: it has no rows.
        """
        rows.table(reference)
        return cls(reference, seed)

    def explain(
        self, ask: Ask, x: Array, *, features: tuple[str, ...] = (), bins: int = 20, sample: int = 1000
    ) -> Explanation:
        """Speak of the model.

        Args:
            ask: The model; each column asks for two rows of each row.
            x: Rows beside the reference's, often `[0, f]`.
            features: Names of columns; empty: all of numbers.
            bins: At most; of columns of few values, fewer.
            sample: Rows, at most.

        Raises:
            InvalidRequest: a parameter is out of its range; a column is not known, or of categories.
        """
        rows.at_least("bins", bins, 1)
        rows.at_least("sample", sample, 1)
        table = rows.table(self._reference, x)
        columns = rows.columns(self._reference.features, features)
        named = [at for at in columns if at in self._reference.features.categorical]
        if features and named:
            raise InvalidRequest(
                f"ale needs an order, and '{self._reference.features.names[named[0]]}' is of categories; use "
                "partial-dependence"
            )
        numeric = [at for at in columns if at not in named]
        warnings = ["categories have no order and are left out; see partial-dependence"] if named else []
        affordable = max(1, (ask.left() - 1) // max(2 * len(numeric) + 1, 1))
        chosen = rows.sample(table, min(sample, affordable), np.random.default_rng(self._seed))
        complete = len(chosen) >= min(sample, len(table))
        if not complete:
            warnings.append(f"the budget allows {len(chosen)} of {min(sample, len(table))} rows")
        try:
            mean = rows.answer(ask, chosen).mean(axis=0)
        except BudgetSpent:
            return rows.nothing(self.METHOD, {"ale_values": [], "feature_values": [], "feature_names": []})
        curves: list[dict[str, Any]] = []
        done: list[int] = []
        for at in numeric:
            try:
                curve = effect(ask, chosen, table[:, at], at, bins=bins)
            except BudgetSpent:
                warnings.append(f"{rows.SPENT}: {len(done)} of {len(numeric)} columns")
                complete = False
                break
            if curve is None:
                warnings.append(f"'{self._reference.features.names[at]}' is constant in the reference, and left out")
                continue
            curves.append(curve)
            done.append(at)
        names = [self._reference.features.names[at] for at in done]
        spans = [float(np.ptp(curve["values"], axis=0).max()) for curve in curves]
        ranked = [f"{names[at]} ({spans[at]:.3g})" for at in np.argsort(np.negative(spans), kind="stable")[:5]]
        return Explanation(
            method=self.METHOD,
            data={
                "ale_values": [curve["values"] for curve in curves],
                "ale0": [curve["first"] for curve in curves],
                "constant_value": mean,
                "feature_values": [curve["bounds"] for curve in curves],
                "feature_names": names,
                "feature_counts": [curve["counts"] for curve in curves],
                "feature_deciles": [rows.deciles(table[:, at]) for at in done],
                "target_names": list(rows.output_names(self._reference.classes, len(mean))),
                "output_space": shapley.space(self._reference),
                "rows": len(chosen),
            },
            text=f"On average over {len(chosen)} rows, the answer moves most with "
            f"{', '.join(ranked) or 'no column'} (the largest change along its range).",
            complete=complete,
            warnings=tuple(warnings),
        )


def effect(ask: Ask, table: Array, values: Array, column: int, *, bins: int) -> dict[str, Any] | None:
    """The curve of one column: its bounds `[m]`, its values there `[m, k]`, rows in each bin `[m - 1]`, and its value
    at the first bound; None where the column is constant.

    Raises:
        BudgetSpent: the model may not be asked so much.
    """
    present = values[~np.isnan(values)]
    inside = table[~np.isnan(table[:, column])]
    if not len(inside):
        return None
    bounds = np.unique(np.quantile(present, np.linspace(0, 1, bins + 1), method="inverted_cdf"))
    if len(bounds) < 2:
        return None
    # bins are open below, but for the first, which holds its lower bound, too
    bin_of = np.clip(np.searchsorted(bounds, inside[:, column], side="left") - 1, 0, len(bounds) - 2)
    low, high = inside.copy(), inside.copy()
    low[:, column], high[:, column] = bounds[bin_of], bounds[bin_of + 1]
    said = rows.answer(ask, np.concatenate([low, high]))
    change = said[len(inside) :] - said[: len(inside)]
    counts = np.bincount(bin_of, minlength=len(bounds) - 1)
    summed = np.zeros((len(bounds) - 1, change.shape[1]))
    np.add.at(summed, bin_of, change)
    local = summed / np.maximum(counts, 1)[:, None]
    curve = np.concatenate([np.zeros((1, change.shape[1])), local.cumsum(axis=0)])
    centre = (counts[:, None] * (curve[:-1] + curve[1:]) / 2).sum(axis=0) / counts.sum()
    return {"bounds": bounds, "values": curve - centre, "counts": counts, "first": -centre}
