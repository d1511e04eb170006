"""Partial dependence: what the model says on average as one column is set to each value, and for each row alone (ICE).

Friedman, "Greedy Function Approximation: A Gradient Boosting Machine" (Annals of Statistics 29, 2001), section 8.2;
individual conditional expectation: Goldstein, Kapelner, Bleich & Pitkin (Journal of Computational and Graphical
Statistics 24, 2015); the importance of a column by its curve: Greenwell, Boehmke & McCarthy (2018), equations 4 and 5.
Where columns go together, rows are asked for that cannot be: see `ale`.
"""

from __future__ import annotations

from typing import ClassVar, Self

import numpy as np

from headrace.explainers import rows, shapley
from headrace.explainers.base import Ask, BudgetSpent, Data, Explainer, Explanation, Reference
from headrace.payload import Array


class PartialDependence(Explainer):
    """One curve per column and output, with the curve of each row beside it."""

    METHOD: ClassVar[str] = "partial-dependence"
    DATA: ClassVar[tuple[Data, ...]] = ("tabular",)
    IS_GLOBAL: ClassVar[bool] = True

    def __init__(self, reference: Reference, seed: int) -> None:
        self._reference, self._seed = reference, seed

    @classmethod
    def make(cls, reference: Reference, *, seed: int = 0) -> Self:
        """Prepare.

        Args:
            reference: Its rows are those that curves are averaged over.
            seed: Of the draw of rows.

        Raises:
            InvalidRequest: it has no rows.
        """
        rows.table(reference)
        return cls(reference, seed)

    def explain(
        self, ask: Ask, x: Array, *, features: tuple[str, ...] = (), points: int = 20, sample: int = 100
    ) -> Explanation:
        """Speak of the model.

        Args:
            ask: The model; each column asks for `points` rows of each row.
            x: Rows beside the reference's, often `[0, f]`.
            features: Names of columns; empty: all.
            points: Of a number, at most, at its quantiles; of a category, all that it has.
            sample: Rows, at most.

        Raises:
            InvalidRequest: a parameter is out of its range, or a column is not known.
        """
        rows.at_least("points", points, 2)
        rows.at_least("sample", sample, 1)
        about = self._reference.features
        table = rows.table(self._reference, x)
        columns = rows.columns(about, features)
        grids = {at: self._grid(table, at, points) for at in columns}
        affordable = max(1, ask.left() // max(1, sum(len(grid) for grid in grids.values())))
        chosen = rows.sample(table, min(sample, affordable), np.random.default_rng(self._seed))
        complete = len(chosen) >= min(sample, len(table))
        warnings = [] if complete else [f"the budget allows {len(chosen)} of {min(sample, len(table))} rows"]
        curves: list[Array] = []
        done: list[int] = []
        for at, grid in grids.items():
            if not len(grid):
                warnings.append(f"'{about.names[at]}' is missing in every row, and left out")
                continue
            moved = np.repeat(chosen[None], len(grid), axis=0)
            moved[:, :, at] = grid[:, None]
            try:
                said = rows.answer(ask, moved.reshape(-1, len(about)))
            except BudgetSpent:
                warnings.append(f"{rows.SPENT}: {len(done)} of {len(columns)} columns")
                complete = False
                break
            curves.append(said.reshape(len(grid), len(chosen), -1).transpose(2, 1, 0))  # [k, rows, points]
            done.append(at)
        means = [curve.mean(axis=1) for curve in curves]
        weights = [
            np.ptp(mean, axis=1) / 4
            if at in about.categorical
            else mean.std(axis=1, ddof=1 if mean.shape[1] > 1 else 0)
            for at, mean in zip(done, means, strict=True)
        ]
        names = [about.names[at] for at in done]
        order = np.argsort([-float(each.max()) for each in weights], kind="stable")
        ranked = [f"{names[at]} ({float(weights[at].max()):.3g})" for at in order[:5]]
        return Explanation(
            method=self.METHOD,
            data={
                "pd_values": means,
                "ice_values": curves,
                "feature_values": [grids[at] for at in done],
                "feature_names": names,
                "feature_kinds": [about.columns[at].kind for at in done],
                "feature_labels": [
                    [about.columns[at].text(float(value)) for value in grids[at]] if at in about.categorical else []
                    for at in done
                ],
                "feature_deciles": [rows.deciles(table[:, at]) for at in done],
                "feature_importance": weights,
                "target_names": list(
                    rows.output_names(self._reference.classes, len(means[0]) if means else len(self._reference.classes))
                ),
                "output_space": shapley.space(self._reference),
                "rows": len(chosen),
            },
            text=f"On average over {len(chosen)} rows, the answer depends most on "
            f"{', '.join(ranked) or 'no column'} (how far its curve spreads)."
            if done
            else "The budget was spent before anything could be said.",
            complete=complete,
            warnings=tuple(warnings),
        )

    def _grid(self, table: Array, column: int, points: int) -> Array:
        about = self._reference.features.columns[column]
        if about.is_category:
            return np.arange(len(about.categories), dtype=np.float64)
        present = table[:, column][~np.isnan(table[:, column])]
        if not len(present):
            return present
        return np.asarray(np.unique(np.quantile(present, np.linspace(0, 1, points), method="inverted_cdf")))
