"""Anchors of rows of a table: `petal width > 1.80 and petal length > 4.90`. The search itself is in `anchors`.

Numbers are compared with quantiles of the reference, a category with the row's own. What a rule says nothing about is
drawn anew; the law of that decides what a precision means, and is said in every explanation as `perturbation`:

- `independent` (the default): every column by itself, from the reference's values of that column; a column of the rule
  from those of its values that satisfy the rule. Combinations that never occur are among them.
- `rows`: a row of the reference as a whole; only the values that break the rule are drawn anew, from those that satisfy
  it. This is the law of the authors' own code (Ribeiro, Singh, Guestrin 2018, section 4, "tabular").

With `balanced` each class has the same weight in what is drawn: of a rare class, hardly any rule reaches a precision
otherwise, because there is nothing to see of it. Coverage is always that of the reference as it is, all rows of it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final, Literal, Self

import numpy as np

from headrace.errors import InvalidRequest
from headrace.explainers import anchors
from headrace.explainers.anchors import Anchor
from headrace.explainers.base import Ask, BudgetSpent, Data, Explainer, Explanation, Reference
from headrace.features import Feature, Features
from headrace.payload import EMPTY, Array

Perturbation = Literal["independent", "rows"]

Kind = Literal["missing", "is", "above", "at most"]

EXAMPLES: Final = 5
"""Rows of each sort that an explanation shows."""


@dataclasses.dataclass(frozen=True)
class Predicate:
    """One condition on one column."""

    column: int
    kind: Kind
    value: float = math.nan

    def holds(self, values: Array) -> Array:
        """Of which values, elementwise."""
        if self.kind == "missing":
            return np.isnan(values)
        if self.kind == "is":
            equal: Array = values == self.value
            return equal
        return values > self.value if self.kind == "above" else values <= self.value


class AnchorTabular(Explainer):
    """Rules on the columns of one row under which the model's answer (nearly) always holds."""

    METHOD: ClassVar[str] = "anchor-tabular"
    DATA: ClassVar[tuple[Data, ...]] = ("tabular",)

    def __init__(self, reference: Reference, *, edges: tuple[Array, ...], seed: int) -> None:
        self._reference, self._edges, self._seed = reference, edges, seed

    @classmethod
    def make(
        cls,
        reference: Reference,
        *,
        seed: int = 0,
        quantiles: Sequence[float] = (0.25, 0.5, 0.75),
        edges: Mapping[str, Sequence[float]] = EMPTY,
    ) -> Self:
        """Prepare.

        Args:
            reference: Its rows are what is drawn from.
            seed: Of the samples.
            quantiles: Where numbers are cut, from 0 to 1, exclusive.
            edges: By the name of a column: where it is cut instead.

        Raises:
            InvalidRequest: a quantile is out of its range, an edge names no column, or there are no rows.
        """
        if not len(reference.x):
            raise InvalidRequest("anchors need at least one row of reference")
        if not all(0 < each < 1 for each in quantiles):
            raise InvalidRequest(f"'quantiles' of anchors must be between 0 and 1, not {list(quantiles)}")
        unknown = set(edges) - set(reference.features.names)
        if unknown:
            raise InvalidRequest(f"'edges' names {sorted(unknown)}, which are no columns")
        columns = reference.features.columns
        found = tuple(
            np.sort(np.asarray(edges[column.name], np.float64))
            if column.name in edges
            else _edges(column, reference.x[:, at], quantiles)
            for at, column in enumerate(columns)
        )
        return cls(reference, edges=found, seed=seed)

    def explain(
        self,
        ask: Ask,
        x: Array,
        *,
        threshold: float = 0.95,
        delta: float = 0.05,
        tau: float = 0.1,
        beam_size: int = 4,
        batch: int = 50,
        max_anchor_size: int = 8,
        precision_samples: int = 1000,
        perturbation: Perturbation = "independent",
        balanced: bool = False,
        tolerance: float | None = None,
        output: int = 0,
    ) -> Explanation:
        """Explain one row.

        Args:
            ask: The model.
            x: `[f]`.
            threshold: Precision to reach.
            delta: Chance that a bound is wrong.
            tau: How far below the threshold the lower bound of the precision may be.
            beam_size: Candidates that are gone on with.
            batch: Samples of one candidate in one round.
            max_anchor_size: Conditions, at most.
            precision_samples: Fresh samples that the precision is measured from.
            perturbation: How rows are drawn: `independent` or `rows`.
            balanced: Each class has the same weight in what is drawn; classes are the reference's labels, or what the
                model says of it.
            tolerance: Of a model of numbers: how far an answer may be to be the same; None: half the standard
                deviation of the targets.
            output: Of several numbers, which.

        Raises:
            InvalidRequest: a parameter is out of its range, or x has other columns.
        """
        options = anchors.Options(
            threshold=threshold,
            delta=delta,
            tau=tau,
            beam_size=beam_size,
            batch=batch,
            max_anchor_size=max_anchor_size,
            precision_samples=precision_samples,
        )
        features = self._reference.features
        if perturbation not in {"independent", "rows"}:
            raise InvalidRequest(f"'perturbation' of anchors is 'independent' or 'rows', not '{perturbation}'")
        if x.shape != (len(features),):
            raise InvalidRequest(f"the row has shape {list(x.shape)}, and the reference {len(features)} columns")
        x = np.asarray(x, np.float64)
        law_name = f"{perturbation}, balanced" if balanced else perturbation
        raw: dict[str, Any] = {"feature": [], "mean": [], "precision": [], "coverage": [], "instance": x}
        try:
            what = anchors.said(ask, self._reference, x[None], tolerance=tolerance, output=output)
            drawn = self._balanced(ask, what) if balanced else self._reference.x
        except BudgetSpent:
            return anchors.nothing(self.METHOD, options=options, law=law_name, extra={}, raw=raw)
        law = TabularLaw(
            predicates(features, self._edges, x, self._reference.x),
            x=x,
            drawn=drawn,
            counted=self._reference.x,
            whole_rows=perturbation == "rows",
        )
        rng = np.random.default_rng(self._seed)
        found = anchors.Search(ask, law, what.agrees, options=options, rng=rng).run()

        chosen = [law.predicates[at] for at in found.anchor]
        order = list(dict.fromkeys(each.column for each in chosen))
        names = [
            _text(features.columns[at], [each for each in chosen if each.column == at], self._scale(at)) for at in order
        ]
        ends = [max(place for place, each in enumerate(chosen) if each.column == at) for at in order]
        raw |= {
            "feature": order,
            "mean": [found.prefixes[end][0] for end in ends],
            "precision": [found.prefixes[end][0] for end in ends],
            "coverage": [found.prefixes[end][1] for end in ends],
            "predicates": [
                {"feature": each.column, "kind": each.kind, "value": None if math.isnan(each.value) else each.value}
                for each in chosen
            ],
        }
        if found.rows is not None and found.agreed is not None:
            raw["examples"] = {
                "covered_true": found.rows[found.agreed][:EXAMPLES],
                "covered_false": found.rows[~found.agreed][:EXAMPLES],
            }
        return anchors.explanation(
            self.METHOD, found, what, names=names, options=options, law=law_name, extra={}, raw=raw, asked=ask.rows
        )

    def _scale(self, at: int) -> float:
        edges = self._edges[at]
        return float(edges[-1] - edges[0]) if len(edges) > 1 else 0.0

    def _balanced(self, ask: Ask, what: anchors.Said) -> Array:
        """Rows of which each class has as many, drawn with replacement from those of the reference."""
        x, y = self._reference.x, self._reference.y
        if not what.outcome.is_classifier:
            raise InvalidRequest("'balanced' is of classes, and the model answers numbers")
        labels = what.outcome.positions(ask(x)) if y is None else y
        rng = np.random.default_rng((self._seed, 1))
        found, counts = np.unique(labels, return_counts=True)
        chosen = [rng.choice(np.flatnonzero(labels == each), counts.max()) for each in found]
        balanced: Array = x[np.concatenate(chosen)]
        return balanced


class TabularLaw:
    """How rows are drawn under conditions on their columns; a Law of `anchors`.

    Args:
        conditions: That hold of the row.
        x: `[f]`: the row; its own value stands where no value of the reference satisfies a condition.
        drawn: `[m, f]`: what values are drawn from.
        counted: `[n, f]`: what coverage is measured on.
        whole_rows: Rows are drawn as a whole; else each column by itself.
    """

    def __init__(
        self, conditions: Sequence[Predicate], *, x: Array, drawn: Array, counted: Array, whole_rows: bool
    ) -> None:
        self.predicates = tuple(conditions)
        self._x, self._drawn, self._whole_rows = x, drawn, whole_rows
        self._pools: dict[tuple[Predicate, ...], Array] = {}
        sorts = {key: at for at, key in enumerate(dict.fromkeys((each.column, each.kind) for each in conditions))}
        self._groups = np.array([sorts[each.column, each.kind] for each in conditions], np.int64)
        self._present = np.zeros((len(counted), len(conditions)), np.bool_)
        for at, each in enumerate(conditions):
            self._present[:, at] = each.holds(counted[:, each.column])

    @property
    def groups(self) -> Array:
        """Conditions on one column in one direction are one group."""
        return self._groups

    @property
    def present(self) -> Array:
        """Of the rows that coverage is measured on."""
        return self._present

    @property
    def largest(self) -> int:
        """Rows of 64 MiB."""
        return max(1, 2**23 // max(len(self._x), 1))

    def draw(self, anchors: Sequence[Anchor], count: int, rng: np.random.Generator) -> Array:
        """`count` rows for each anchor, one anchor after the other."""
        total, width = len(anchors) * count, self._drawn.shape[1]
        if self._whole_rows:
            rows = self._drawn[rng.integers(len(self._drawn), size=total)]
        else:
            rows = np.take_along_axis(self._drawn, rng.integers(len(self._drawn), size=(total, width)), axis=0)
        for at, anchor in enumerate(anchors):
            block = rows[at * count : (at + 1) * count]
            conditions: dict[int, tuple[Predicate, ...]] = {}
            for position in anchor:
                each = self.predicates[position]
                conditions[each.column] = (*conditions.get(each.column, ()), each)
            for column, on in conditions.items():
                pool = self._pool(on)
                values = pool[rng.integers(len(pool), size=count)]
                if self._whole_rows:
                    breaks = ~_all_hold(on, block[:, column])
                    block[breaks, column] = values[breaks]
                else:
                    block[:, column] = values
        return rows

    def _pool(self, conditions: tuple[Predicate, ...]) -> Array:
        """Values of one column that satisfy all conditions."""
        pool = self._pools.get(conditions)
        if pool is None:
            column = conditions[0].column
            values = self._drawn[:, column]
            pool = values[_all_hold(conditions, values)]
            if not len(pool):
                pool = self._x[column : column + 1]
            self._pools[conditions] = pool
        return pool


def predicates(features: Features, edges: Sequence[Array], x: Array, rows: Array) -> list[Predicate]:
    """All conditions that hold of a row, but those that hold of every row."""
    found: list[Predicate] = []
    for at, column in enumerate(features.columns):
        value = float(x[at])
        if math.isnan(value):
            found.append(Predicate(at, "missing"))
        elif column.is_category:
            found.append(Predicate(at, "is", value))
        else:
            found += [Predicate(at, "above" if value > edge else "at most", edge) for edge in edges[at].tolist()]
    return [each for each in found if not each.holds(rows[:, each.column]).all()]


def _all_hold(conditions: Sequence[Predicate], values: Array) -> Array:
    held = conditions[0].holds(values)
    for each in conditions[1:]:
        held &= each.holds(values)
    return held


def _edges(column: Feature, values: Array, quantiles: Sequence[float]) -> Array:
    """Where a column is cut: quantiles, each once; of whole numbers, whole."""
    values = values[~np.isnan(values)]
    if column.is_category or not len(values):
        return np.empty(0)
    method: Literal["lower", "linear"] = "lower" if column.integer else "linear"
    cuts: Array = np.unique(np.quantile(values, list(quantiles), method=method))
    return cuts


def _text(column: Feature, conditions: Sequence[Predicate], scale: float) -> str:
    """All conditions on one column as a person reads them."""
    first = conditions[0]
    if first.kind == "missing":
        return f"{column.name} is missing"
    if first.kind == "is":
        return f"{column.name} = {column.text(first.value)}"
    above = [each.value for each in conditions if each.kind == "above"]
    most = [each.value for each in conditions if each.kind == "at most"]
    if above and most:
        return f"{_number(column, max(above), scale)} < {column.name} <= {_number(column, min(most), scale)}"
    if above:
        return f"{column.name} > {_number(column, max(above), scale)}"
    return f"{column.name} <= {_number(column, min(most), scale)}"


def _number(column: Feature, value: float, scale: float) -> str:
    """With so many decimals, two at least, that what is left off does not matter beside the column's spread."""
    if column.integer and value.is_integer():
        return f"{value:.0f}"
    return next(
        (f"{value:.{digits}f}" for digits in range(2, 9) if abs(round(value, digits) - value) <= 0.005 * scale),
        f"{value:.6g}",
    )
