"""Columns as streams of numbers, each with a statistic of its own: Page-Hinkley, HDDM and ADWIN, over all columns.

A numeric column is a stream, and so is "it is this category" of each frequent category, of all others, and of those
that the reference does not have. A missing value is left out of its stream.

Each stream's statistic is measured in the threshold which that stream alone passes once in `ert` rows, and the largest
of them in one that all together pass once in `ert` rows; both by streams simulated from rows of the reference with all
their columns, so that columns which go together are not counted twice. A detector begins with what the reference says
of the mean, and the simulation has the error of that, too: the run time is that expected over references.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Final, Literal, Self

import numpy as np

from headrace.detectors import run_time
from headrace.detectors.base import DriftOnline, State, Step
from headrace.detectors.filled import Parts, kept, matrix, reference, sample
from headrace.features import Features
from headrace.payload import Array

Unit = Literal["deviation", "range", "raw"]
"""What a number is measured in: the reference's standard deviations, at most 8 of them; its range, from 0 to 1; as it
is."""

MOST_ROWS: Final = 5000
"""Of a reference; of more, so many are drawn."""
_LIMIT: Final = 8.0
"""Deviations: a value further out counts as that, so that one wild value is no drift."""
_MOST_CATEGORIES: Final = 20
"""Of a column that have a stream of their own."""
_VALUES: Final = 8_000_000
"""To simulate."""
_BLOCK: Final = 256
"""Rows that are looked at together."""

Memory = dict[str, Array]
"""What a statistic keeps of each stream: arrays `[s]`."""


class Streams:
    """From rows `[n, f]` to streams `[n, s]`; NaN is what is missing."""

    def __init__(self, features: Features, arrays: Mapping[str, Array], *, unit: Unit) -> None:
        self.features = features
        self.unit = unit
        self.column = arrays["column"]
        """`[s]`: where the stream comes from."""
        self.code = arrays["code"]
        """`[s]`: the category it is of, -1 of those not known, -2 of all without a stream, NaN: of numbers."""
        self.center = arrays["center"]
        self.scale = arrays["scale"]
        self._numbers = np.flatnonzero(np.isnan(self.code))

    @classmethod
    def fit(cls, x: Array, features: Features, *, unit: Unit) -> Self:
        """Of a reference `[n, f]`."""
        column: list[int] = []
        code: list[float] = []
        for at, feature in enumerate(features.columns):
            if not feature.is_category:
                column.append(at)
                code.append(math.nan)
                continue
            size = len(feature.categories)
            known = x[:, at][(x[:, at] >= 0) & (x[:, at] < size)].astype(np.int64)
            order = np.argsort(-np.bincount(known, minlength=size), kind="stable")
            own = sorted(order[:_MOST_CATEGORIES].tolist())
            codes = [*(own[1:] if size == 2 else own), *([-2] if size > _MOST_CATEGORIES else []), -1]
            column += [at] * len(codes)
            code += codes
        streams = np.zeros(len(column)), np.ones(len(column))
        arrays = {"column": np.array(column), "code": np.array(code), "center": streams[0], "scale": streams[1]}
        found = cls(features, arrays, unit=unit)
        raw = found.raw(x)
        for at in range(raw.shape[1]) if unit != "raw" else ():
            values = raw[~np.isnan(raw[:, at]), at]
            found.center[at], found.scale[at] = _moments(values, unit, is_number=bool(np.isnan(found.code[at])))
        return found

    def raw(self, x: Array) -> Array:
        """`[n, s]`, numbers as they are and 1 where it is the category."""
        found = x[:, self.column]
        for at in np.flatnonzero(~np.isnan(self.code)):
            values, code = found[:, at], self.code[at]
            size = len(self.features.columns[self.column[at]].categories)
            if code == -1:
                is_it = (values < 0) | (values >= size)
            elif code == -2:
                own = self.code[(self.column == self.column[at]) & (self.code >= 0)]
                is_it = (values >= 0) & (values < size) & ~np.isin(values, own)
            else:
                is_it = values == code
            found[:, at] = np.where(np.isnan(values), np.nan, is_it)
        return found

    def __call__(self, x: Array) -> Array:
        """`[n, s]` in the unit."""
        found = self.raw(x)
        if self.unit == "raw":
            return np.clip(found, -1e150, 1e150)
        low, high = (-_LIMIT, _LIMIT) if self.unit == "deviation" else (0.0, 1.0)
        reach = _LIMIT * self.scale
        near = np.clip(found, self.center - reach, self.center + reach)  # so that infinity has a place
        limited: Array = np.clip((near - self.center) / self.scale, low, high)
        return limited

    def arrays(self) -> dict[str, Array]:
        """What it is made of."""
        return {"column": self.column, "code": self.code, "center": self.center, "scale": self.scale}


def _moments(values: Array, unit: Unit, *, is_number: bool) -> tuple[float, float]:
    """Center and scale."""
    if not is_number:
        if unit == "range":
            return 0.0, 1.0
        share = float(values.mean()) if values.size else 0.0
        return share, max(math.sqrt(share * (1 - share)), (values.size + 2) ** -0.5)
    values = np.clip(values, -1e150, 1e150)
    if not values.size:
        return 0.0, 1.0
    low, high = float(values.min()), float(values.max())
    size = max(abs(low), abs(high)) or 1.0
    if not (high - low) > 1e-12 * size:  # a constant is measured in its own unit
        return (low - 0.5, 1.0) if unit == "range" else (low, 1.0)
    if unit == "range":
        return low, high - low
    shares = values / size
    return float(shares.mean()) * size, float(shares.std()) * size


class Streamed(DriftOnline):
    """A statistic of each stream. A method says how it begins and how it goes on."""

    UNIT: ClassVar[Unit]

    def __init__(
        self,
        streams: Streams,
        *,
        means: Array,
        rows: float,
        scales: Array,
        threshold: float,
        options: Mapping[str, Any],
    ) -> None:
        self.streams = streams
        self.means = means
        """`[s]`, of the reference."""
        self.rows = rows
        """What the reference's means count for; 0: nothing, it begins without."""
        self.scales = scales
        """`[s]`: the statistic that one stream alone passes once in `ert` rows."""
        self.threshold = threshold
        self.options = options
        self.time = 0
        self.last = 0.0
        self.memory = self.begin(means, rows)

    @abstractmethod
    def begin(self, means: Array, rows: float) -> Memory:
        """What is known before the first row: means `[s]` of so many rows."""

    @abstractmethod
    def advance(self, memory: Memory, block: Array) -> tuple[Array, Memory]:
        """Statistics `[r, s]` after each row of a block `[r, s]`, at least 0, and what is known after all of them."""

    @abstractmethod
    def fallback(self, ert: float) -> float:
        """The threshold of a stream that never varies in the reference."""

    @classmethod
    def calibrated(
        cls,
        x: Array,
        features: Features,
        *,
        ert: float,
        seed: int,
        threshold: float | None,
        anchored: bool,
        **options: Any,
    ) -> Self:
        """What `fit` of a method does; with a `threshold` nothing is simulated."""
        run_time.check(cls.METHOD, ert)
        x = sample(reference(x, features, method=cls.METHOD), MOST_ROWS, seed=seed)
        streams = Streams.fit(x, features, unit=cls.UNIT)
        values = streams(x)
        present = np.maximum((~np.isnan(values)).sum(0), 1)
        means = np.where(np.isnan(values), 0.0, values).sum(0) / present
        found = cls(
            streams,
            means=means,
            rows=float(len(x)) if anchored else 0.0,
            scales=np.ones(values.shape[1]) if threshold is None else np.full(values.shape[1], threshold),
            threshold=1.0,
            options=options,
        )
        if threshold is None:
            found.calibrate(values, ert=ert, rng=np.random.default_rng(seed))
        return found

    def calibrate(self, values: Array, *, ert: float, rng: np.random.Generator) -> None:
        """Choose scales and threshold by streams drawn from rows `[n, s]` of the reference."""
        count, width = values.shape
        length = max(min(math.ceil(ert), _VALUES // (100 * width)), 2)
        runs = min(max(_VALUES // (length * width), 100), 400)
        statistics = np.empty((length, runs, width), np.float32)
        filled = np.where(np.isnan(values), self.means, values)
        drawn = rng.multinomial(count, np.full(count, 1 / count), size=runs)  # another reference for each run
        memory = self.begin((drawn @ filled / count).ravel(), self.rows)
        for start in range(0, length, _BLOCK):
            rows = min(_BLOCK, length - start)
            block = values[rng.integers(count, size=(rows, runs))].reshape(rows, runs * width)
            found, memory = self.advance(memory, block)
            statistics[start : start + rows] = found.reshape(rows, runs, width)
        for at in range(width):
            alone = run_time.constant(statistics[:, :, at], ert)
            self.scales[at] = alone if alone is not None and alone > 0 else self.fallback(ert)
        if width > 1:
            together = run_time.constant((statistics / self.scales.astype(np.float32)).max(2), ert)
            self.threshold = together if together is not None else 1.0

    def step(self, x: Array) -> Step:
        """See `DriftOnline.step`."""
        values = self.streams(matrix(x, len(self.streams.features), method=self.METHOD))
        alarms: list[int] = []
        start = 0
        while start < len(values):  # from block to block, or from alarm to alarm
            block = values[start : start + _BLOCK]
            statistics, memory = self.advance(self.memory, block)
            highest = (statistics / self.scales).max(1)
            passed = np.flatnonzero(highest > self.threshold)
            if passed.size:
                first = int(passed[0])
                alarms.append(start + first)
                self.last, self.time = float(highest[first]), 0
                self.memory = self.begin(self.means, self.rows)
                start += first + 1
            else:
                self.last, self.time, self.memory = float(highest[-1]), self.time + len(block), memory
                start += len(block)
        return Step(
            is_drift=bool(alarms), at=tuple(alarms), statistic=self.last, threshold=self.threshold, time=self.time
        )

    def state(self) -> State:
        """See `Detector.state`."""
        return kept(
            self.METHOD,
            len(self.streams.features),
            {
                **self.streams.arrays(),
                "means": self.means,
                "scales": self.scales,
                **{f"memory.{name}": array for name, array in self.memory.items()},
            },
            rows=self.rows,
            threshold=self.threshold,
            options=dict(self.options),
            time=self.time,
            last=self.last,
        )

    @classmethod
    def restore(cls, state: State, features: Features) -> Self:
        """See `Detector.restore`."""
        parts = Parts(state, cls.METHOD, features)
        arrays = {name: parts.array(name) for name in ("column", "code", "center", "scale")}
        found = cls(
            Streams(features, arrays, unit=cls.UNIT),
            means=parts.array("means"),
            rows=float(parts.value("rows")),
            scales=parts.array("scales"),
            threshold=float(parts.value("threshold")),
            options=parts.value("options"),
        )
        found.memory = {name: parts.array(f"memory.{name}") for name in found.memory}
        found.time, found.last = int(parts.value("time")), float(parts.value("last"))
        return found


# -- along a block --


def accumulated(before: Array, block: Array) -> Array:
    """Running sums `[r, s]` of a block that go on from `[s]`, the same however rows are cut into blocks."""
    found: Array = np.cumsum(np.concatenate([before[None], block]), axis=0)[1:]
    return found


def lowest(before: Array, block: Array) -> Array:
    """Running minima `[r, s]` that go on from `[s]`."""
    found: Array = np.minimum.accumulate(np.concatenate([before[None], block]), axis=0)[1:]
    return found


def latest(marks: Array) -> Array:
    """Of booleans `[r, s]` the last row, up to each, that is marked: from 1; 0: none in this block."""
    rows = np.arange(1, len(marks) + 1)[:, None]
    found: Array = np.maximum.accumulate(np.where(marks, rows, 0), axis=0)
    return found


def at(rows: Array, before: Array, block: Array) -> Array:
    """Values of `[s]` (row 0) and a block `[r, s]` (rows from 1) at rows `[r, s]`."""
    found: Array = np.take_along_axis(np.concatenate([before[None], block]), rows, axis=0)
    return found
