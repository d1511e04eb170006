"""Counterfactuals: the least change of a row with which the model would say otherwise.

Distance is that of Wachter, Mittelstadt, Russell (2018), "Counterfactual explanations without opening the black box",
section III: absolute differences divided by the column's median absolute deviation; a category that differs, or a value
that is missing on one side, counts one. Candidates are

- the nearest rows of the reference that the model answers as wanted (nearest unlike neighbours: Keane, Smyth 2020,
  "Good counterfactuals and where to find them"), and
- rows in growing spheres around the row: Laugel et al. (2018), "Comparison-based inverse classification for
  interpretability in machine learning", algorithm 1, with all shells drawn in one call; besides, rows of which up to
  three values are exchanged for ones of the reference, because few changes are what a person can act on.

Then changes are taken back and made smaller (`reduction`, after algorithm 2 there), and several that change different
columns are kept. How far each is from rows of its kind is reported as its plausibility.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final, Self

import numpy as np

from headrace.errors import InvalidRequest
from headrace.explainers import reduction
from headrace.explainers.base import Ask, BudgetSpent, Data, Explainer, Explanation, Reference
from headrace.explainers.outcome import Outcome, outcome
from headrace.features import Features
from headrace.payload import EMPTY, Array

NEIGHBOURS: Final = 5
"""Rows of its kind that a counterfactual's plausibility is the mean distance to."""

SHELLS: Final = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""Outer radii, in median absolute deviations per column; the ball within the first is filled."""


class Metric:
    """How far rows are from each other: the sum over columns of a difference in units of the column's own spread.

    Args:
        features: Of the rows.
        x: `[n, f]`: the reference.
    """

    def __init__(self, features: Features, x: Array) -> None:
        self.is_numeric = np.array([not each.is_category for each in features.columns], np.bool_)
        self.is_integer = np.array([each.integer and not each.is_category for each in features.columns], np.bool_)
        width = len(features)
        self.scale, self.low, self.high = np.ones(width), np.full(width, -np.inf), np.full(width, np.inf)
        for at in features.numeric:
            values, column = x[:, at][~np.isnan(x[:, at])], features.columns[at]
            if len(values):
                self.scale[at] = _spread(values)
                self.low[at], self.high[at] = values.min(), values.max()
            self.low[at] = self.low[at] if column.low is None else min(column.low, self.low[at])
            self.high[at] = self.high[at] if column.high is None else max(column.high, self.high[at])

    def terms(self, rows: Array, origin: Array) -> Array:
        """`[n, f]`: of each column, how far rows `[n, f]` are from one row `[f]`, or from as many."""
        differs = (rows != origin) & ~(np.isnan(rows) & np.isnan(origin))
        one_missing = np.isnan(rows) != np.isnan(origin)
        apart = np.abs(np.nan_to_num(rows) - np.nan_to_num(origin)) / self.scale
        terms: Array = np.where(differs, np.where(one_missing | ~self.is_numeric, 1.0, apart), 0.0)
        return terms

    def distance(self, rows: Array, origin: Array) -> Array:
        """`[n]`: the sum of the terms."""
        distance: Array = self.terms(rows, origin).sum(axis=1)
        return distance


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Goal:
    """What the model should say."""

    outcome: Outcome
    origin: int
    """The class of the row; of numbers, -1."""
    target: int | None
    """The class; None: any other."""
    low: float
    high: float
    """Of numbers: from where to where; of a class, the least probability and 1."""

    def nearness(self, answers: Array) -> Array:
        """`[n]`: above 0 where it is reached, and larger where it is nearer."""
        if not self.outcome.is_classifier:
            numbers = self.outcome.numbers(answers)
            inside: Array = np.minimum(numbers - self.low, self.high - numbers)
            reached: Array = np.where(inside >= 0, 1.0 + inside, inside)
            return reached
        probabilities = self.outcome.probabilities(answers)
        wanted = np.arange(probabilities.shape[1]) == self.target
        if self.target is None:
            wanted = np.arange(probabilities.shape[1]) != self.origin
        best = np.where(wanted, probabilities, -1.0).max(axis=1)
        rest = np.where(wanted, -1.0, probabilities).max(axis=1)
        said = wanted[probabilities.argmax(axis=1)] & (best >= self.low)
        nearness: Array = np.where(said, 1.0 + best - rest, np.minimum(best - np.maximum(rest, self.low), 0.0))
        return nearness


class Counterfactual(Explainer):
    """Rows near one row that the model answers otherwise, with as few changes as possible."""

    METHOD: ClassVar[str] = "counterfactual"
    DATA: ClassVar[tuple[Data, ...]] = ("tabular",)

    def __init__(self, reference: Reference, *, metric: Metric, seed: int) -> None:
        self._reference, self._metric, self._seed = reference, metric, seed

    @classmethod
    def make(cls, reference: Reference, *, seed: int = 0) -> Self:
        """Prepare.

        Args:
            reference: Its rows are candidates, and say what is far.
            seed: Of the samples.

        Raises:
            InvalidRequest: there are no rows.
        """
        if not len(reference.x):
            raise InvalidRequest("counterfactuals need at least one row of reference")
        return cls(reference, metric=Metric(reference.features, reference.x), seed=seed)

    def explain(
        self,
        ask: Ask,
        x: Array,
        *,
        target: str | int | None = None,
        target_range: Sequence[float] | None = None,
        probability: float = 0.0,
        immutable: Sequence[str] = (),
        ranges: Mapping[str, Sequence[float]] = EMPTY,
        count: int = 4,
        samples: int = 1000,
        neighbours: int = 2000,
        output: int = 0,
    ) -> Explanation:
        """Explain one row.

        Args:
            ask: The model.
            x: `[f]`.
            target: The class that it should say, by name or position; None: any other than now.
            target_range: Of a model of numbers: from where to where it should be.
            probability: The least that the class must have, beside being the likeliest.
            immutable: Names of columns that may not change.
            ranges: By the name of a column: from where to where it may change; else as in the reference.
            count: Counterfactuals, at most.
            samples: Rows drawn of each kind.
            neighbours: Rows of the reference that the model is asked of, at most; the nearest.
            output: Of several numbers, which.

        Raises:
            InvalidRequest: a parameter is out of its range, x has other columns, or the model says the target already.
        """
        features = self._reference.features
        if x.shape != (len(features),):
            raise InvalidRequest(f"the row has shape {list(x.shape)}, and the reference {len(features)} columns")
        if count < 1 or samples < 0 or neighbours < 0 or not 0 <= probability <= 1:
            raise InvalidRequest(
                "'count' must be at least 1, 'samples' and 'neighbours' not negative, 'probability' in [0, 1]"
            )
        x = np.asarray(x, np.float64)
        free, low, high = self._bounds(x, immutable, ranges)
        try:
            answer = ask(x[None])
        except BudgetSpent:
            return _unasked()
        meaning = outcome(self._reference, answer, output=output)
        goal = self._goal(meaning, answer, target, target_range, probability)
        hunt = _Hunt(ask, goal, x, answer)

        def within(rows: Array) -> Array:
            return _within(rows, x, free, low, high)

        def holds(rows: Array) -> Array:
            good: Array = np.logical_not(reduction.differs(rows, within(rows)).any(axis=1))
            good[good] = hunt.tried(rows[good])
            return good

        def terms(rows: Array) -> Array:
            return self._metric.terms(rows, x)

        def reduce(rows: Array) -> None:
            metric = self._metric
            reduction.fewer(holds, terms, x, rows)
            reduction.smaller(holds, terms, x, rows, numeric=metric.is_numeric, integer=metric.is_integer)

        is_complete = True
        found = np.empty((0, len(x)))
        kin = np.empty((0, len(x)))
        try:
            near = self._neighbours(x, neighbours)
            kin = near[hunt.tried(near)]
            rng = np.random.default_rng(self._seed)
            moved, sampled = within(kin[:100]), within(self._sampled(x, free, samples, rng))
            rows = np.concatenate([moved[hunt.tried(moved)], sampled[hunt.tried(sampled)]])
            found = self._starts(rows, x, 3 * count)
            reduce(found)
            if count > 1 and len(found):
                others = self._others(rows, self._diverse(found, x, 1)[0], x, count)
                found = np.concatenate([found, others])
                reduce(found[len(found) - len(others) :])
        except BudgetSpent:
            is_complete = False
            if not len(found):
                rows = hunt.good()
                found = self._starts(rows[~reduction.differs(rows, within(rows)).any(axis=1)], x, count)
        is_complete = is_complete and not hunt.was_cut
        chosen = self._diverse(found, x, count)
        return self._explanation(hunt, chosen, kin, complete=is_complete)

    # -- what is wanted, and allowed --

    def _bounds(
        self, x: Array, immutable: Sequence[str], ranges: Mapping[str, Sequence[float]]
    ) -> tuple[Array, Array, Array]:
        """Which columns may change, and from where to where."""
        names = self._reference.features.names
        unknown = sorted((set(immutable) | set(ranges)) - set(names))
        if unknown:
            raise InvalidRequest(f"'immutable' or 'ranges' names {unknown}, which are no columns")
        free = np.array([name not in immutable for name in names], np.bool_)
        low, high = self._metric.low.copy(), self._metric.high.copy()
        for name, (start, end) in ranges.items():
            low[names.index(name)], high[names.index(name)] = start, end
        if (low > high).any():
            raise InvalidRequest(f"'ranges' has one that ends before it starts: {dict(ranges)}")
        return free, low, high

    def _goal(
        self,
        meaning: Outcome,
        answer: Array,
        target: str | int | None,
        target_range: Sequence[float] | None,
        probability: float,
    ) -> _Goal:
        if not meaning.is_classifier:
            if target_range is None or len(target_range) != 2 or not target_range[0] <= target_range[1]:
                raise InvalidRequest(
                    "the model answers numbers: 'target_range' must say from where to where it should be"
                )
            goal = _Goal(
                outcome=meaning, origin=-1, target=None, low=float(target_range[0]), high=float(target_range[1])
            )
            if goal.nearness(answer)[0] > 0:
                raise InvalidRequest(f"the model says {meaning.text(answer)} already, which is in the target range")
            return goal
        origin = int(meaning.positions(answer)[0])
        position = None if target is None else _position(meaning.classes, target)
        if position == origin:
            raise InvalidRequest(f"the model says '{meaning.classes[origin]}' already, which is the target")
        return _Goal(outcome=meaning, origin=origin, target=position, low=probability, high=1.0)

    # -- candidates --

    def _neighbours(self, x: Array, count: int) -> Array:
        """The nearest rows of the reference, the nearest first."""
        rows = self._reference.x
        nearest: Array = rows[np.argsort(self._metric.distance(rows, x), kind="stable")[:count]]
        return nearest

    def _sampled(self, x: Array, free: Array, samples: int, rng: np.random.Generator) -> Array:
        """Rows with up to three values of the reference, and rows in shells around x."""
        reference, metric = self._reference.x, self._metric
        columns = np.flatnonzero(free)
        if not len(columns) or not samples:
            return np.empty((0, len(x)))
        exchanged = np.repeat(x[None], samples, axis=0)
        for share in (1, 2 / 3, 1 / 2)[: len(columns)]:
            # The first is always exchanged, the second in two of three rows, the third in one.
            which = np.flatnonzero(rng.random(samples) < share)
            column = rng.choice(columns, len(which))
            exchanged[which, column] = reference[rng.integers(len(reference), size=len(which)), column]

        numeric = np.flatnonzero(free & metric.is_numeric & ~np.isnan(x))
        if not len(numeric):
            return exchanged
        per = max(samples // len(SHELLS), 1)
        # Uniform in a shell of dimension d: a direction, and a radius whose d-th power is uniform.
        direction = rng.normal(size=(per * len(SHELLS), len(numeric)))
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        inner, outer = np.repeat((0.0, *SHELLS[:-1]), per), np.repeat(SHELLS, per)
        ratio, power = inner / outer, 1 / len(numeric)
        share = ratio ** len(numeric)
        radius = outer * (share + rng.random(len(outer)) * (1 - share)) ** power * np.sqrt(len(numeric))
        around = np.repeat(x[None], len(radius), axis=0)
        around[:, numeric] += direction * radius[:, None] * metric.scale[numeric]
        around[:, metric.is_integer] = np.rint(around[:, metric.is_integer])
        return np.concatenate([exchanged, around])

    def _starts(self, rows: Array, x: Array, count: int) -> Array:
        """Of rows that are as wanted, those to go on with: the fewest changes, and the nearest."""
        if not len(rows):
            return rows
        rows = np.unique(rows, axis=0)
        distance, changes = self._metric.distance(rows, x), reduction.differs(rows, x).sum(axis=1)
        few, near = np.lexsort((distance, changes))[:count], np.argsort(distance, kind="stable")[:count]
        starts: Array = rows[np.unique(np.concatenate([few, near]))]
        return starts

    def _others(self, rows: Array, best: Array, x: Array, count: int) -> Array:
        """Of rows that are as wanted, those to go on with that leave a column alone which the best one changes."""
        changed = reduction.differs(rows, x)
        columns = np.flatnonzero(reduction.differs(best[None], x)[0])
        parts = [self._starts(rows[~changed[:, at]], x, count) for at in columns[:3]]
        others: Array = np.unique(np.concatenate(parts), axis=0)
        return others

    # -- the end --

    def _diverse(self, rows: Array, x: Array, count: int) -> Array:
        """The best, and then those that change other columns, as far as there are any."""
        if not len(rows):
            return rows
        rows = np.unique(rows, axis=0)
        changed = reduction.differs(rows, x)
        order = np.lexsort((self._metric.distance(rows, x), changed.sum(axis=1)))
        chosen: list[int] = []
        for at in order.tolist():
            if not any((changed[other] <= changed[at]).all() for other in chosen):
                chosen.append(at)
        for at in order.tolist():
            if not any((changed[other] == changed[at]).all() for other in chosen):
                chosen.append(at)
        diverse: Array = rows[chosen[:count]]
        return diverse

    def _explanation(self, hunt: _Hunt, rows: Array, kin: Array, *, complete: bool) -> Explanation:
        goal, meaning, x = hunt.goal, hunt.goal.outcome, hunt.x
        is_found = bool(len(rows))
        each = [self._record(hunt, row, kin) for row in rows]
        wanted = (
            f"between {goal.low:.4g} and {goal.high:.4g}"
            if not meaning.is_classifier
            else "otherwise"
            if goal.target is None
            else f"'{meaning.classes[goal.target]}'"
        )
        nearest = None if is_found or hunt.nearest is None else self._record(hunt, hunt.nearest, kin)
        said = f"The model says {meaning.text(hunt.answer)}."
        warnings: list[str] = []
        if is_found:
            said += f" It would say {meaning.text(hunt.answer_of(rows[0]))} if {self._changes(rows[0], x)}."
        else:
            warnings.append(f"no row was found for which the model says {wanted}")
            said += f" No row was found for which it says {wanted}"
            said += "." if nearest is None else f"; the nearest attempt has {self._changes(hunt.nearest, x)}."
        data: dict[str, Any] = {
            "success": is_found,
            "orig_class": goal.origin if meaning.is_classifier else None,
            "orig_proba": meaning.probabilities(hunt.answer)[0] if meaning.is_classifier else None,
            "orig_value": None if meaning.is_classifier else float(meaning.numbers(hunt.answer)[0]),
            "target": goal.target if meaning.is_classifier else [goal.low, goal.high],
            "instance": x,
            "cf": each[0] if is_found else nearest,
            "all": each,
        }
        return Explanation(method=self.METHOD, data=data, text=said, complete=complete, warnings=tuple(warnings))

    def _record(self, hunt: _Hunt, row: Array, kin: Array) -> dict[str, Any]:
        """One counterfactual, in the words of its field."""
        features, meaning, x = self._reference.features, hunt.goal.outcome, hunt.x
        answer = hunt.answer_of(row)
        changed = np.flatnonzero(reduction.differs(row[None], x)[0]).tolist()
        record: dict[str, Any] = {
            "X": row[None],
            "class": int(meaning.positions(answer)[0]) if meaning.is_classifier else None,
            "proba": meaning.probabilities(answer)[0] if meaning.is_classifier else None,
            "value": None if meaning.is_classifier else float(meaning.numbers(answer)[0]),
            "distance": float(self._metric.distance(row[None], x)[0]),
            "changed": [
                {
                    "feature": at,
                    "name": features.names[at],
                    "from": features.columns[at].text(x[at]),
                    "to": features.columns[at].text(row[at]),
                }
                for at in changed
            ],
            "plausibility": self._plausibility(hunt, row, answer, kin),
        }
        return record

    def _plausibility(self, hunt: _Hunt, row: Array, answer: Array, kin: Array) -> dict[str, Any]:
        """How far it is from the nearest rows of the reference that the model answers alike, and how far these are from
        one another.
        """
        meaning = hunt.goal.outcome
        kin = kin[:500]
        if len(kin) and meaning.is_classifier:
            said = meaning.positions(np.concatenate([hunt.answer_of(each) for each in kin]))
            kin = kin[said == meaning.positions(answer)[0]]
        if not len(kin):
            return {"distance": None, "typical": None, "neighbours": 0}
        near = min(NEIGHBOURS, len(kin))
        distance = np.sort(self._metric.distance(kin, row))[:near].mean()
        among = [np.sort(self._metric.distance(kin, each))[1 : near + 1] for each in kin[:50]]
        typical = float(np.median([each.mean() for each in among])) if len(kin) > 1 else None
        return {"distance": float(distance), "typical": typical, "neighbours": near}

    def _changes(self, row: Array | None, x: Array) -> str:
        if row is None:
            return "no change"
        columns = self._reference.features.columns
        changed = np.flatnonzero(reduction.differs(row[None], x)[0]).tolist()
        parts = [f"{columns[at].name} = {columns[at].text(row[at])} (not {columns[at].text(x[at])})" for at in changed]
        return " and ".join(parts)


class _Hunt:
    """The model, with what it was asked and said: the best attempt, and the answers of rows that are as wanted."""

    def __init__(self, ask: Ask, goal: _Goal, x: Array, answer: Array) -> None:
        self.ask, self.goal, self.x, self.answer = ask, goal, x, answer
        self.nearest: Array | None = None
        self.was_cut = False
        self._nearness = -np.inf
        self._answers: dict[bytes, Array] = {}
        self._good: list[Array] = []

    def tried(self, rows: Array) -> Array:
        """`[n]` BOOL: which are as wanted. Where not all may be asked for, the first; the others are not."""
        room = min(self.ask.left(), len(rows))
        good = np.zeros(len(rows), np.bool_)
        if not len(rows):
            return good
        if room < len(rows):
            self.was_cut = True
        answers = np.asarray(self.ask(rows[: max(room, 1)]), np.float64).reshape(max(room, 1), -1)
        nearness = self.goal.nearness(answers)
        best = int(nearness.argmax())
        if nearness[best] > self._nearness:
            self._nearness, self.nearest = float(nearness[best]), rows[best].copy()
            self._answers[rows[best].tobytes()] = answers[best : best + 1]
        good[: len(nearness)] = nearness > 0
        for at in np.flatnonzero(good).tolist():
            self._answers[rows[at].tobytes()] = answers[at : at + 1]
        self._good.append(rows[good])
        return good

    def answer_of(self, row: Array) -> Array:
        """`[1, k]`: what the model said of a row that was as wanted, or nearest."""
        return self._answers[row.tobytes()]

    def good(self) -> Array:
        """All rows so far that are as wanted."""
        return np.concatenate(self._good) if self._good else np.empty((0, len(self.x)))


def _within(rows: Array, x: Array, free: Array, low: Array, high: Array) -> Array:
    """Rows with nothing changed that may not be, and within the ranges; where x is as it was, as it is."""
    inside = np.where(rows == x, rows, np.clip(rows, low, high))
    within: Array = np.where(free, inside, x)
    return within


def _position(classes: Sequence[str], target: str | int) -> int:
    if isinstance(target, str) and target in classes:
        return classes.index(target)
    if isinstance(target, int) and 0 <= target < len(classes):
        return target
    raise InvalidRequest(f"the target {target!r} is none of the classes: {', '.join(classes)}")


def _spread(values: Array) -> float:
    """The median absolute deviation; where that is 0 the standard deviation; of a constant, 1."""
    deviation = float(np.median(np.abs(values - np.median(values))))
    if deviation > 0:
        return deviation
    deviation = float(values.std())
    return deviation if deviation > 0 else 1.0


def _unasked() -> Explanation:
    why = "the budget was spent before the model was asked about the row"
    data: dict[str, Any] = {
        "success": False,
        "orig_class": None,
        "orig_proba": None,
        "orig_value": None,
        "target": None,
        "instance": None,
        "cf": None,
        "all": [],
    }
    return Explanation(
        method=Counterfactual.METHOD, data=data, text=f"No counterfactual: {why}.", complete=False, warnings=(why,)
    )
