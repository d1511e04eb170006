"""What tests of one column at a time share: which columns, the correction over all, both gates, and their state.

A method inherits `Univariate` and says how one column of the reference compares with the same column of a sample.
Missing values are left out of their column. A column without values on one side, in which nothing can be compared, has
p-value 1. Whether values are missing as often as in the reference is an entry of its own, `NAME (missing)`, under the
same correction, of every column in which any is missing on either side; its statistic is the difference of the shares,
its effect Cramer's V.

How columns go together is seen by none of these, only by tests of whole rows. And the level is that of a reference and
a sample, both drawn anew: a reference of few rows that is an unlucky one calls window after window a drift.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Self

import msgspec
import numpy as np

from headrace.detectors import correction as corrections
from headrace.detectors import missing
from headrace.detectors.base import Drift, DriftTest, State
from headrace.detectors.cells import Cells, cut
from headrace.detectors.correction import Correction
from headrace.errors import InvalidRequest
from headrace.features import Features
from headrace.payload import Array

LEAST_ROWS = 10
"""Of a reference."""


class Compared(msgspec.Struct, frozen=True):
    """One column, or the whole, of reference and sample."""

    statistic: float
    p_value: float
    effect: float


SAME = Compared(0.0, 1.0, 0.0)


class Level(msgspec.Struct, frozen=True, kw_only=True):
    """When a difference is a drift."""

    alpha: float
    correction: Correction
    min_effect: float
    seed: int
    rows: int = 0
    """Of the reference; 0: not known, and what is missing is not compared."""


class Univariate(DriftTest):
    """A test of one column at a time."""

    EFFECT: ClassVar[str]
    """The name of the scale of its effects."""

    def __init__(self, features: Features, columns: tuple[int, ...], level: Level) -> None:
        self.features = features
        self.columns = columns
        self.level = level
        self.compares_missing = True
        """Whether what is missing is tested, too: by the p-value, and so not by a method that is asked for none."""
        self.tests = len(columns)
        """Over which the correction will be: draws must tell p-values at that level apart."""

    @abstractmethod
    def compare(self, x: Array) -> list[Compared]:
        """Each of its columns with the same of a sample `[m, f]`."""

    @abstractmethod
    def there(self) -> Array:
        """How many rows of the reference have a value in each of its columns: `[k]` FP64."""

    def test(self, x: Array) -> Drift:
        """See `DriftTest.test`."""
        check_sample(self.METHOD, x, len(self.features))
        found = self.compare(x)
        tested = [self.features.names[at] for at in self.columns]
        absent = np.isnan(x[:, list(self.columns)]).sum(0).astype(np.float64)
        scale = self.EFFECT
        if self.level.rows and self.compares_missing:
            there = self.there()
            before = np.stack([self.level.rows - there, there], axis=1)
            now = np.stack([absent, len(x) - absent], axis=1)
            for at in missing.differing(before, now).tolist():
                tested.append(f"{tested[at]} (missing)")
                found.append(Compared(*missing.compare(before[at], now[at])))
                scale = f"{self.EFFECT}, cramers_v of missing"
        return corrections.judge(
            tested=tuple(tested),
            statistic=np.array([each.statistic for each in found]),
            p_value=np.array([each.p_value for each in found]),
            effect=np.array([each.effect for each in found]),
            effect_name=scale,
            alpha=self.level.alpha,
            correction=self.level.correction,
            min_effect=self.level.min_effect,
            rows=len(x),
            missing=int(absent.sum()),
        )

    def rng(self, column: int) -> np.random.Generator:
        """What a column's draws come from; the same at each test, so that the same sample gives the same answer."""
        return np.random.default_rng([self.level.seed, column])


class OfValues(Univariate):
    """One that keeps the sorted values of the reference's numeric columns."""

    def __init__(self, features: Features, columns: tuple[int, ...], level: Level, values: list[Array]) -> None:
        super().__init__(features, columns, level)
        self.values = values

    def compare(self, x: Array) -> list[Compared]:
        """See `Univariate.compare`."""
        found: list[Compared] = []
        for at, reference in zip(self.columns, self.values, strict=True):
            sample = ordered(x[:, at])
            found.append(self.column(at, reference, sample) if reference.size and sample.size else SAME)
        return found

    def column(self, at: int, reference: Array, sample: Array) -> Compared:
        """Compare sorted values `[n]` and `[m]` of the column `at`, at least one of each."""
        raise NotImplementedError

    def there(self) -> Array:
        """See `Univariate.there`."""
        return np.array([each.size for each in self.values], dtype=np.float64)

    def parameters(self) -> dict[str, Any]:
        """What its state says beside the level."""
        return {}

    def state(self) -> State:
        """See `Detector.state`."""
        arrays = {
            "columns": np.array(self.columns, dtype=np.int64),
            "values": np.concatenate(self.values),
            "lengths": np.array([each.size for each in self.values], dtype=np.int64),
        }
        return State(parameters=kept(self.METHOD, self.features, self.level, **self.parameters()), arrays=arrays)

    @classmethod
    def restore(cls, state: State, features: Features) -> Self:
        """See `Detector.restore`."""
        level, more = taken(cls.METHOD, state, features, ("columns", "values", "lengths"))
        columns = tuple(int(at) for at in state.arrays["columns"])
        return cls(features, columns, level, cut(state.arrays["values"], state.arrays["lengths"]), **more)


class OfCells(Univariate):
    """One that keeps how many rows of the reference each cell holds."""

    def __init__(self, features: Features, cells: Cells, level: Level) -> None:
        super().__init__(features, cells.columns, level)
        self.cells = cells

    def compare(self, x: Array) -> list[Compared]:
        """See `Univariate.compare`."""
        counted = zip(self.columns, self.cells.reference, self.cells.counts(x), strict=True)
        return [self.column(at, reference, sample) for at, reference, sample in counted]

    def column(self, at: int, reference: Array, sample: Array) -> Compared:
        """Compare counts `[cells]` of the column `at`."""
        raise NotImplementedError

    def there(self) -> Array:
        """See `Univariate.there`."""
        return np.array([each.sum() for each in self.cells.reference], dtype=np.float64)

    def parameters(self) -> dict[str, Any]:
        """What its state says beside the level."""
        return {}

    def state(self) -> State:
        """See `Detector.state`."""
        arrays = {"columns": np.array(self.columns, dtype=np.int64), **self.cells.arrays()}
        return State(parameters=kept(self.METHOD, self.features, self.level, **self.parameters()), arrays=arrays)

    @classmethod
    def restore(cls, state: State, features: Features) -> Self:
        """See `Detector.restore`."""
        names = ("columns", "edges", "atoms", "edge_counts", "counts", "cell_counts")
        level, more = taken(cls.METHOD, state, features, names)
        columns = tuple(int(at) for at in state.arrays["columns"])
        return cls(features, Cells.restore(dict(state.arrays), features, columns), level, **more)


def ordered(values: Array) -> Array:
    """Values `[n]` without the missing, ascending; infinities are the largest numbers there are room for."""
    values = np.sort(values)  # NaN comes last
    values = values[: values.size - int(np.isnan(values).sum())]
    return np.clip(values, -1e150, 1e150, out=values)


def check_reference(method: str, x: Array, features: Features, *, least: int = LEAST_ROWS) -> None:
    """Refuse a reference that is none.

    Raises:
        InvalidRequest: other columns than `features`, or fewer rows than `least`.
    """
    if x.ndim != 2 or x.shape[1] != len(features):
        raise InvalidRequest(f"{method}: the reference is to have {len(features)} columns, found shape {x.shape}")
    if len(x) < least:
        raise InvalidRequest(f"{method} needs a reference of at least {least} rows, found {len(x)}")


def check_sample(method: str, x: Array, columns: int) -> None:
    """Refuse a sample that is none.

    Raises:
        InvalidRequest: no rows, or another number of columns.
    """
    if x.ndim != 2 or x.shape[1] != columns:
        raise InvalidRequest(f"{method}: a sample is to have {columns} columns, found shape {x.shape}")
    if not len(x):
        raise InvalidRequest(f"{method}: a sample is to have at least one row, found none")


def check_columns(method: str, columns: Iterable[int], wanted: str, instead: str) -> tuple[int, ...]:
    """The columns, if there are any.

    Raises:
        InvalidRequest: there are none; names the methods that would do.
    """
    found = tuple(columns)
    if not found:
        raise InvalidRequest(f"{method} tests {wanted}, and the reference has none; use {instead}")
    return found


def kept(method: str, features: Features, level: Level, **more: Any) -> dict[str, Any]:
    """A state's parameters, JSON values all."""
    return {"method": method, "features": len(features), "level": msgspec.to_builtins(level), "more": more}


def taken(method: str, state: State, features: Features, arrays: Iterable[str]) -> tuple[Level, Mapping[str, Any]]:
    """What `kept` took.

    Raises:
        InvalidRequest: the state is of another method, of other columns, or lacks an array.
    """
    found = state.parameters
    if found.get("method") != method:
        raise InvalidRequest(f"{method}: the state is of method '{found.get('method')}'")
    if found.get("features") != len(features):
        raise InvalidRequest(f"{method}: the state is of {found.get('features')} columns, found {len(features)}")
    if lacking := [name for name in arrays if name not in state.arrays]:
        raise InvalidRequest(f"{method}: the state lacks the arrays {', '.join(lacking)}")
    try:
        return msgspec.convert(found["level"], Level), dict(found["more"])
    except (KeyError, TypeError, msgspec.ValidationError) as exc:
        raise InvalidRequest(f"{method}: the state's parameters cannot be read: {exc}") from exc
