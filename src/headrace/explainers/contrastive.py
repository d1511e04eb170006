"""Contrastive explanations: what would have to be added for another answer, and what is enough for this one.

Dhurandhar, Chen, Luss, Tu, Ting, Shanmugam, Das (2018), "Explanations based on the missing: towards contrastive
explanations with pertinent negatives". The pertinent negative is the least change that adds something and changes the
class (equation 1), the pertinent positive the least part of the row that keeps it (equation 3). "Adding" is going away
from a base value that says nothing, on either side of it. Both are found by FISTA on an elastic net (equations 5, 6),
in units of each column's standard deviation:

    c max(+-(log p_t - max log p_i), -kappa) + beta |delta|_1 + |delta|_2^2

Deviations: no auto-encoder term; the model is a black box, so that gradients are differences, of all trials in one
call; scores are log-probabilities, whose differences are those of a softmax's logits; the constants c are tried side by
side and not one after the other; from a model without slopes (trees, labels) a search column by column takes their
place, and its candidates are compared with those of the gradient anyway; what was found is reduced (`reduction`):
columns that are not needed are left out, the others changed less. Candidates are compared by the elastic net and beta
more for each column, without which columns would be there by a hair.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Final, Literal, Self

import numpy as np

from headrace.errors import InvalidRequest
from headrace.explainers import reduction
from headrace.explainers.base import Ask, BudgetSpent, Data, Explainer, Explanation, Reference
from headrace.explainers.outcome import Outcome, outcome
from headrace.features import Features
from headrace.payload import Array

Mode = Literal["both", "PN", "PP"]
Base = Literal["mean", "median", "zero"]

CONSTANTS: Final = np.array([0.3, 1.0, 3.0, 10.0, 30.0])
"""The weights c of the class beside the elastic net."""

STEP: Final = 0.01
"""Standard deviations between the two points of a difference."""

RATE: Final = 0.1
"""The first step of the descent; it falls with the square root of what is left."""

GRID: Final = np.linspace(0, 1, 11)
"""Quantiles of the reference that the search column by column tries."""

DEPTH: Final = 12
"""Columns that this search changes, at most."""

STARTS: Final = 6
"""Candidates that are reduced."""


class Contrastive(Explainer):
    """What is missing for another answer (pertinent negative), and what is enough for this one (pertinent positive)."""

    METHOD: ClassVar[str] = "contrastive"
    DATA: ClassVar[tuple[Data, ...]] = ("tabular", "image")

    def __init__(self, reference: Reference, *, base: Array, scale: Array) -> None:
        self._reference, self._base, self._scale = reference, base, scale

    @classmethod
    def make(
        cls,
        reference: Reference,
        *,
        seed: int = 0,  # noqa: ARG003 - every method takes one; here nothing is drawn
        base: Base | Sequence[float] = "mean",
    ) -> Self:
        """Prepare.

        Args:
            reference: Says what is usual, and what is far.
            seed: Nothing is drawn.
            base: What says nothing: the `mean` or `median` of each number, `zero`, or one value per column; of a
                category, its most frequent value.

        Raises:
            InvalidRequest: there are no rows, or the base has another number of columns.
        """
        x, features = reference.x, reference.features
        if not len(x):
            raise InvalidRequest("contrastive explanations need at least one row of reference")
        if not isinstance(base, str):
            given = np.asarray(base, np.float64)
            if given.shape != (len(features),):
                raise InvalidRequest(f"'base' has shape {list(given.shape)}, and the reference {len(features)} columns")
        elif base in {"mean", "median", "zero"}:
            given = np.array([_usual(x[:, at], base, features, at) for at in range(len(features))])
        else:
            raise InvalidRequest(f"'base' is 'mean', 'median', 'zero' or one value per column, not '{base}'")
        return cls(reference, base=given, scale=np.array([_spread(x[:, at]) for at in range(len(features))]))

    def explain(
        self,
        ask: Ask,
        x: Array,
        *,
        mode: Mode = "both",
        kappa: float = 0.2,
        beta: float = 0.1,
        iterations: int = 50,
        add_only: bool = True,
    ) -> Explanation:
        """Explain one row.

        Args:
            ask: The model, of classes.
            x: `[f]`.
            mode: What is looked for: `PN`, `PP` or `both`.
            kappa: By how much the class must lead, in log-odds.
            beta: The weight of the absolute changes beside the squared ones: more makes fewer columns change.
            iterations: Of the descent.
            add_only: The pertinent negative only adds: no value comes nearer to its base, though it may pass it. False:
                values change in any direction.

        Raises:
            InvalidRequest: a parameter is out of its range, x has other columns, or the model answers numbers.
        """
        features = self._reference.features
        if x.shape != (len(features),):
            raise InvalidRequest(f"the row has shape {list(x.shape)}, and the reference {len(features)} columns")
        if mode not in {"both", "PN", "PP"}:
            raise InvalidRequest(f"'mode' is 'PN', 'PP' or 'both', not '{mode}'")
        if kappa < 0 or beta < 0 or iterations < 0:
            raise InvalidRequest("'kappa', 'beta' and 'iterations' must not be negative")
        x = np.asarray(x, np.float64)
        data: dict[str, Any] = {
            "X": x[None],
            **dict.fromkeys(("X_pred", "X_proba", "PN", "PN_pred", "PN_proba", "PP", "PP_pred", "PP_proba")),
            "PN_features": [],
            "PP_features": [],
            "base": self._base,
            "kappa": float(kappa),
            "beta": float(beta),
        }
        try:
            answer = np.asarray(ask(x[None]), np.float64).reshape(1, -1)
        except BudgetSpent:
            why = "the budget was spent before the model was asked about the row"
            text = f"No contrastive explanation: {why}."
            return Explanation(method=self.METHOD, data=data, text=text, complete=False, warnings=(why,))
        meaning = outcome(self._reference, answer)
        if not meaning.is_classifier:
            raise InvalidRequest("contrastive explanations are of classes, and the model answers numbers")
        data["X_pred"], data["X_proba"] = int(meaning.positions(answer)[0]), meaning.probabilities(answer)[0]
        said, warnings, is_complete = [f"The model says {meaning.text(answer)}."], [], True

        if mode != "PP":
            case = self._negative(ask, meaning, answer, x, kappa=kappa, beta=beta, add_only=add_only)
            case.reserve = ask.left() // 2 if mode == "both" else 0
            is_complete = case.solve(iterations)
            row = case.best()
            if row is None:
                warnings.append("no pertinent negative was found")
                said.append("Nothing was found that would make it say otherwise.")
            else:
                changed = np.flatnonzero(reduction.differs(row[None], x)[0]).tolist()
                other = case.answer_of(row)
                data |= {
                    "PN": row[None],
                    "PN_pred": int(meaning.positions(other)[0]),
                    "PN_proba": meaning.probabilities(other)[0],
                    "PN_features": [features.names[at] for at in changed],
                }
                changes = [f"{_value(features, at, row)} (not {features.columns[at].text(x[at])})" for at in changed]
                said.append(f"It would say {meaning.text(other)} with {' and '.join(changes)}.")
        if mode != "PN":
            case = self._positive(ask, meaning, answer, x, kappa=kappa, beta=beta)
            is_complete = case.solve(iterations) and is_complete
            row = case.best()
            if row is not None:  # the row itself is one
                kept = np.flatnonzero(reduction.differs(row[None], self._base)[0]).tolist()
                other = case.answer_of(row)
                data |= {
                    "PP": row[None],
                    "PP_pred": int(meaning.positions(other)[0]),
                    "PP_proba": meaning.probabilities(other)[0],
                    "PP_features": [features.names[at] for at in kept],
                }
                parts = " and ".join(_value(features, at, row) for at in kept)
                said.append(f"It is enough for that to have {parts}." if kept else "It says so of the base, too.")
        return Explanation(
            method=self.METHOD, data=data, text=" ".join(said), complete=is_complete, warnings=tuple(warnings)
        )

    def _negative(
        self, ask: Ask, meaning: Outcome, answer: Array, x: Array, *, kappa: float, beta: float, add_only: bool
    ) -> _Case:
        low, high = np.full(len(x), -np.inf), np.full(len(x), np.inf)
        for at in self._reference.features.numeric:
            values = self._reference.x[:, at][~np.isnan(self._reference.x[:, at])]
            if len(values):
                low[at], high[at] = values.min(), values.max()
        base = self._base
        is_numeric = np.array([not each.is_category for each in self._reference.features.columns], np.bool_)

        def into(rows: Array) -> Array:
            inside = np.where(rows == x, rows, np.clip(rows, low, high))
            if not add_only:
                return inside
            # Between x and its mirror image beyond the base nothing is added: to the nearer of the two ends.
            mirror = 2 * base - x
            nearer = is_numeric & (np.abs(inside - base) < np.abs(x - base))
            far = np.where((mirror >= low) & (mirror <= high), mirror, x)
            moved: Array = np.where(nearer, np.where(np.abs(inside - x) <= np.abs(inside - far), x, far), inside)
            return moved

        return _Case(
            self._reference,
            ask=ask,
            meaning=meaning,
            origin=x,
            start=x,
            first=answer,
            into=into,
            sign=1.0,
            kappa=kappa,
            beta=beta,
            scale=self._scale,
            trials=[self._values(at, x) for at in range(len(x))],
        )

    def _positive(self, ask: Ask, meaning: Outcome, answer: Array, x: Array, *, kappa: float, beta: float) -> _Case:
        low, high = np.minimum(x, self._base), np.maximum(x, self._base)

        def into(rows: Array) -> Array:
            return np.where(np.isnan(rows), rows, np.clip(rows, low, high))

        lead = _lead(meaning, answer, int(meaning.positions(answer)[0]))[0]
        return _Case(
            self._reference,
            ask=ask,
            meaning=meaning,
            origin=self._base,
            start=x,
            first=answer,
            into=into,
            sign=-1.0,
            kappa=min(kappa, float(lead)),
            beta=beta,
            scale=self._scale,
            trials=[],
        )

    def _values(self, at: int, x: Array) -> Array:
        """What else a column may be, for the search column by column."""
        column = self._reference.features.columns[at]
        values = self._reference.x[:, at][~np.isnan(self._reference.x[:, at])]
        if column.is_category or not len(values):
            return np.unique(values[values != x[at]])
        grid = np.concatenate([np.quantile(values, GRID), [2 * self._base[at] - x[at]]])
        grid = np.rint(grid) if column.integer else grid
        return np.unique(grid[~np.isnan(grid)])


class _Case:
    """One of the two problems: rows between what is given and an origin, of which the model says what is wanted.

    Args:
        reference: Of the explainer.
        ask: The model.
        meaning: How it is read.
        origin: `[f]`: what changes are counted from: the row (negative), or the base (positive).
        start: `[f]`: where the descent begins: the row.
        first: `[1, k]`: what the model says of it.
        into: The nearest rows that are allowed, of rows.
        sign: 1: the class is to be left; -1: it is to be kept.
        kappa: By how much, in log-odds.
        beta: Of the elastic net.
        scale: `[f]`.
        trials: By column: the values that the search tries; none: the row itself is as wanted.
    """

    def __init__(
        self,
        reference: Reference,
        *,
        ask: Ask,
        meaning: Outcome,
        origin: Array,
        start: Array,
        first: Array,
        into: Callable[[Array], Array],
        sign: float,
        kappa: float,
        beta: float,
        scale: Array,
        trials: list[Array],
    ) -> None:
        columns = reference.features.columns
        self._ask, self._meaning, self._into = ask, meaning, into
        self._origin, self._start, self._scale, self._trials = origin, start, scale, trials
        self._sign, self._kappa, self._beta = sign, kappa, beta
        self._class = int(meaning.positions(first)[0])
        self._is_number = np.array([not each.is_category for each in columns], np.bool_)
        self._is_integer = np.array([each.integer and not each.is_category for each in columns], np.bool_)
        self._found: dict[bytes, tuple[Array, Array]] = {}  # rows that are as wanted, and the answers
        self.reserve = 0
        """Rows that are left for another."""
        if sign < 0:
            self._found[start.tobytes()] = (start, first)

    def solve(self, iterations: int) -> bool:
        """Find rows; whether the budget sufficed."""
        try:
            self._descend(iterations)
            if self._trials:
                self._search()
            starts = np.stack(self._nearest()) if self._found else np.empty((0, len(self._origin)))
            if self._sign < 0:
                starts = np.unique(np.concatenate([starts, self._start[None]]), axis=0)
            numeric = self._is_number
            reduction.fewer(self._holds, self._terms, self._origin, starts)
            reduction.smaller(self._holds, self._terms, self._origin, starts, numeric=numeric, integer=self._is_integer)
        except BudgetSpent:
            return False
        return True

    def best(self) -> Array | None:
        """Of the rows that are as wanted, that of the least cost."""
        nearest = self._nearest()
        return nearest[0] if nearest else None

    def answer_of(self, row: Array) -> Array:
        """`[1, k]`: what the model said of a row that is as wanted."""
        return self._found[row.tobytes()][1]

    def _nearest(self) -> list[Array]:
        if not self._found:
            return []
        rows = np.stack([row for row, _ in self._found.values()])
        order = np.argsort(self._terms(rows).sum(axis=1), kind="stable")[:STARTS]
        return list(rows[order])

    # -- what is asked --

    def _leads(self, rows: Array) -> Array:
        """`[n]`: how far rows are from what is wanted, in log-odds: as wanted where at most -kappa."""
        if len(rows) > self._ask.left() - self.reserve:
            raise BudgetSpent("the rows of this half are spent")
        answers = np.asarray(self._ask(rows), np.float64).reshape(len(rows), -1)
        leads: Array = self._sign * _lead(self._meaning, answers, self._class)
        keeps = self._meaning.positions(answers) == self._class
        good = (leads <= -self._kappa + 1e-9) & (keeps == (self._sign < 0))
        whole = ~((rows != np.rint(rows)) & self._is_integer & reduction.differs(rows, self._start)).any(axis=1)
        kept = np.flatnonzero(good & whole)
        # The second points of differences may lie where rows may not.
        kept = kept[~reduction.differs(rows[kept], self._into(rows[kept])).any(axis=1)]
        for at in kept.tolist():
            self._found[rows[at].tobytes()] = (rows[at].copy(), answers[at : at + 1])
        return leads

    def _holds(self, rows: Array) -> Array:
        holds = np.zeros(len(rows), np.bool_)
        allowed = np.flatnonzero(~reduction.differs(rows, self._into(rows)).any(axis=1))
        if len(allowed):
            self._leads(rows[allowed])
            holds[allowed] = [rows[at].tobytes() in self._found for at in allowed.tolist()]
        return holds

    def _terms(self, rows: Array) -> Array:
        """The elastic net of each column, in units of its spread, and beta for being changed at all; of a category or a
        missing value, as of one unit.
        """
        differs = reduction.differs(rows, self._origin)
        apart = np.abs(rows - self._origin) / self._scale
        apart = np.where(self._is_number & ~np.isnan(apart), apart, 1.0)
        terms: Array = np.where(differs, self._beta * (1 + apart) + apart**2, 0.0)
        return terms

    # -- two ways to find rows --

    def _descend(self, iterations: int) -> None:
        """FISTA, for all constants side by side."""
        columns = np.flatnonzero(self._is_number & ~np.isnan(self._start) & ~np.isnan(self._origin))
        if not len(columns) or not iterations:
            return
        origin, scale = self._origin[columns], self._scale[columns]
        constants = CONSTANTS[:, None]
        delta = np.repeat(((self._start[columns] - origin) / scale)[None], len(CONSTANTS), axis=0)
        slack = delta
        for step in range(iterations):
            slopes = self._slopes(slack, columns)
            if not slopes.any() and not step and self._sign > 0:
                return  # flat: nowhere to go
            rate = RATE * np.sqrt(1 - step / iterations)
            moved = slack - rate * (constants * slopes + 2 * slack)
            moved = np.sign(moved) * np.maximum(np.abs(moved) - rate * self._beta, 0)
            moved = (self._into(self._rows(moved, columns))[:, columns] - origin) / scale
            slack = moved + step / (step + 3) * (moved - delta)
            slack = (self._into(self._rows(slack, columns))[:, columns] - origin) / scale
            delta = moved
        final = self._rows(delta, columns)
        final[:, self._is_integer] = np.where(
            np.isnan(final[:, self._is_integer]), np.nan, np.rint(final[:, self._is_integer])
        )
        self._leads(self._into(final))

    def _rows(self, delta: Array, columns: Array) -> Array:
        """Changes in units of the spread to rows; what is no number is as in the row."""
        rows = np.repeat(self._start[None], len(delta), axis=0)
        rows[:, columns] = self._origin[columns] + delta * self._scale[columns]
        return rows

    def _slopes(self, delta: Array, columns: Array) -> Array:
        """The slope of the hinge at each of `[c, j]` changes, per unit of the spread: differences, in one call."""
        rows = self._rows(delta, columns)
        moved = np.repeat(rows[:, None], len(columns) + 1, axis=1)
        each = np.arange(len(columns))
        moved[:, each + 1, columns] += STEP * self._scale[columns]
        leads = self._leads(moved.reshape(-1, rows.shape[1])).reshape(len(rows), -1)
        slopes: Array = (leads[:, 1:] - leads[:, :1]) / STEP
        return np.where(leads[:, :1] > -self._kappa, slopes, 0.0)

    def _search(self) -> None:
        """Change one column after the other, each time so that the class is nearest to being left, until it is."""
        row = self._start
        for _ in range(min(DEPTH, len(row))):
            counts = [len(each) for each in self._trials]
            rows = np.repeat(row[None], sum(counts), axis=0)
            if not len(rows):
                return
            rows[np.arange(len(rows)), np.repeat(np.arange(len(row)), counts)] = np.concatenate(self._trials)
            rows = rows[~reduction.differs(rows, self._into(rows)).any(axis=1)]
            rows = rows[reduction.differs(rows, row).any(axis=1)]
            if not len(rows):
                return
            leads = self._leads(rows)
            if (leads <= -self._kappa).any():
                return
            order = np.lexsort((self._terms(rows).sum(axis=1), leads))
            row = rows[order[0]]


def _lead(meaning: Outcome, answers: Array, position: int) -> Array:
    """`[n]`: by how much the class leads the best of the others, in log-odds."""
    scores = np.log(meaning.probabilities(answers).clip(1e-12, None))
    others = np.delete(scores, position, axis=1)
    lead: Array = scores[:, position] - others.max(axis=1)
    return lead


def _usual(values: Array, base: str, features: Features, at: int) -> float:
    """What says nothing, of one column."""
    values = values[~np.isnan(values)]
    if not len(values):
        return 0.0
    if features.columns[at].is_category:
        found, counts = np.unique(values, return_counts=True)
        return float(found[counts.argmax()])
    usual = {"mean": values.mean(), "median": np.median(values), "zero": 0.0}[base]
    return float(np.rint(usual) if features.columns[at].integer else usual)


def _spread(values: Array) -> float:
    values = values[~np.isnan(values)]
    spread = float(values.std()) if len(values) else 0.0
    return spread if spread > 0 else 1.0


def _value(features: Features, at: int, row: Array) -> str:
    return f"{features.names[at]} = {features.columns[at].text(row[at])}"
