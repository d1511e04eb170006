"""Adaptive windowing, column by column: method `adwin`.

Bifet and Gavalda (2007, SIAM Int. Conf. Data Mining, "Learning from time-changing data with adaptive windowing"),
ADWIN2: the window is an exponential histogram (section 4), and its older part is dropped while the means of an older
and a newer part differ by more than sqrt(2 / m var ln(2 / delta')) + 2 / (3 m) ln(2 / delta'), 1 / m = 1 / n0 + 1 / n1
(section 3.1, in its practical form), delta' = delta / ln n. The statistic is ln(1 + 1 / delta) of the
smallest delta at which some cut would be drift.

It differs in this. Values are in deviations of the reference, at most 8, not in [0, 1]. All columns share their
buckets, so that what is dropped of one is dropped of all. A smallest bucket is `clock` rows, which is how often it
looks: what is newer than that is no part of its own. The window begins with the reference (`anchored=False`: empty, as
in the paper), and after an alarm it goes on with what is newer than the change: a stream that stays elsewhere alarms
once. Delta is chosen for an expected run time by simulation (`detectors.streams`): at the paper's own bound, which
holds for any law, false alarms are rarer by orders. With `delta` it is the paper's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Final, Self

import numpy as np

from headrace.detectors import run_time
from headrace.detectors.base import DriftOnline, State, Step
from headrace.detectors.filled import Parts, kept, matrix, reference, sample
from headrace.detectors.streams import Streams, Unit
from headrace.errors import InvalidRequest
from headrace.features import Features
from headrace.payload import Array

_MOST_ROWS: Final = 1000
"""Of a reference that the window begins with."""
_VALUES: Final = 8_000_000
"""To simulate."""
_MERGED: Final = 5
"""Buckets of one size; of one more the oldest two become one."""


class Window:
    """An exponential histogram of streams `[s]`, oldest bucket first."""

    def __init__(self, width: int) -> None:
        self.width = width
        self.sizes: list[int] = []
        """Of buckets, in smallest ones: powers of 2 that never grow."""
        self.parts: list[Array] = []
        """Of buckets: count, sum and squared deviations from its mean, `[3, s]`."""

    def insert(self, rows: Array) -> None:
        """Add rows `[clock, s]` as a bucket; NaN is what is missing."""
        is_there = ~np.isnan(rows)
        count = is_there.sum(0).astype(np.float64)
        values = np.where(is_there, rows, 0.0)
        total = values.sum(0)
        deviation = np.where(is_there, values - total / np.maximum(count, 1.0), 0.0)
        self.sizes.append(1)
        self.parts.append(np.stack([count, total, (deviation**2).sum(0)]))
        size, end = 1, len(self.sizes)
        while end > _MERGED and self.sizes[end - _MERGED - 1] == size:  # one too many of this size
            at = end - _MERGED - 1
            self.parts[at : at + 2] = [_joined(self.parts[at], self.parts[at + 1])]
            self.sizes[at : at + 2] = [2 * size]
            size, end = 2 * size, at + 1

    def statistics(self, least: int) -> Array:
        """`[s]`, of the cut that shows most, both parts of which have so many values at least."""
        if len(self.sizes) < 2:
            return np.zeros(self.width)
        parts = np.stack(self.parts)
        counts, totals, squares = parts[:, 0], parts[:, 1], parts[:, 2]
        old, old_total = np.cumsum(counts, axis=0), np.cumsum(totals, axis=0)
        count, total = old[-1], old_total[-1]
        old, old_total = old[:-1], old_total[:-1]
        new = count - old
        fits = (old >= least) & (new >= least)
        mean = total / np.maximum(count, 1.0)
        between = counts * (totals / np.maximum(counts, 1.0) - mean) ** 2
        variance = (squares + between).sum(0) / np.maximum(count, 1.0)
        old, new = np.maximum(old, 1.0), np.maximum(new, 1.0)
        gap = np.abs(old_total / old - (total - old_total) / new)
        inverse = 1 / old + 1 / new
        # The bound is a r^2 + b r in r = sqrt(ln(2 / delta')): solved for the r at which it is the gap.
        linear, square = np.sqrt(2 * inverse * variance), 2 / 3 * inverse
        root = (np.sqrt(linear**2 + 4 * square * gap) - linear) / (2 * square)
        logs = np.log(2 * np.log(np.maximum(count, 3.0)))
        found: Array = np.logaddexp(0.0, np.where(fits, root**2 - logs, -np.inf).max(0))
        return found

    def drop(self) -> None:
        """Forget the oldest bucket."""
        del self.sizes[0], self.parts[0]


def _joined(one: Array, other: Array) -> Array:
    """Of two buckets `[3, s]`: Chan, Golub and LeVeque (1979), equations 2.1."""
    found = one + other
    shift = one[1] / np.maximum(one[0], 1.0) - other[1] / np.maximum(other[0], 1.0)
    found[2] += shift**2 * one[0] * other[0] / np.maximum(found[0], 1.0)
    return found


class Adwin(DriftOnline):
    """A window that grows while nothing changes."""

    METHOD = "adwin"
    UNIT: ClassVar[Unit] = "deviation"

    def __init__(
        self, streams: Streams, window: Window, *, scales: Array, threshold: float, options: Mapping[str, Any]
    ) -> None:
        self.streams = streams
        self.window = window
        self.scales = scales
        """`[s]`: the statistic that one stream alone passes once in `ert` rows."""
        self.threshold = threshold
        self.options = options
        self.waiting: Array = np.empty((0, scales.size))
        """`[fewer than clock, s]`: rows that are in no bucket yet."""
        self.time = 0
        self.last = 0.0

    @classmethod
    def fit(
        cls,
        x: Array,
        features: Features,
        *,
        ert: float = 1000.0,
        seed: int = 0,
        delta: float | None = None,
        clock: int = 32,
        min_rows: int = 5,
        anchored: bool = True,
        unit: Unit = "deviation",
    ) -> Self:
        """See `DriftOnline.fit`.

        Args:
            x: `[n, f]` FP64, the reference.
            features: Its columns.
            ert: Rows.
            seed: Of the simulation.
            delta: The paper's, instead of one chosen for `ert`.
            clock: Rows from one look to the next.
            min_rows: Values of either part at least.
            anchored: Begin with the reference, at most 1,000 rows of it.
            unit: What values are measured in; see `streams.Unit`.

        Raises:
            InvalidRequest: `delta` is not in (0, 1), `clock` or `min_rows` is below 1, `ert` is below 2, or too few
                rows.
        """
        run_time.check(cls.METHOD, ert)
        if clock < 1 or min_rows < 1:
            raise InvalidRequest(f"detector 'adwin': clock and min_rows are 1 or more, got {clock} and {min_rows}")
        if delta is not None and not 0 < delta < 1:
            raise InvalidRequest(f"detector 'adwin': delta is between 0 and 1, got {delta}")
        x = sample(reference(x, features, method=cls.METHOD), _MOST_ROWS, seed=seed)
        streams = Streams.fit(x, features, unit=unit)
        values = streams(x)
        window = Window(values.shape[1])
        if anchored:
            for start in range(0, len(values), clock):
                window.insert(values[start : start + clock])
        scales = np.full(values.shape[1], 1.0 if delta is None else math.log1p(1 / delta))
        options = {"clock": clock, "min_rows": min_rows, "unit": unit}
        found = cls(streams, window, scales=scales, threshold=1.0, options=options)
        if delta is None:
            found._calibrate(values, ert=ert, anchored=anchored, rng=np.random.default_rng(seed))
        return found

    def _calibrate(self, values: Array, *, ert: float, anchored: bool, rng: np.random.Generator) -> None:
        """As `streams.Streamed.calibrate`; the windows begin with other references."""
        (count, width), clock = values.shape, self.options["clock"]
        before = -(-count // clock) if anchored else 0
        looks = max(min(math.ceil(ert / clock), _VALUES // (100 * width * clock)), 2)
        runs = min(max(_VALUES // ((before + looks) * clock * width), 100), 400)
        window = Window(runs * width)
        statistics = np.empty((looks, runs, width), np.float32)
        for at in range(-before, looks):
            rows = min(clock, count - (at + before) * clock) if at < 0 else clock
            window.insert(values[rng.integers(count, size=(rows, runs))].reshape(rows, runs * width))
            if at >= 0:
                statistics[at] = window.statistics(self.options["min_rows"]).reshape(runs, width)
        per_look = max(ert / clock, 1.5)
        for at in range(width):
            alone = run_time.constant(statistics[:, :, at], per_look)
            self.scales[at] = alone if alone is not None and alone > 0 else math.log1p(ert)
        if width > 1:
            together = run_time.constant((statistics / self.scales.astype(np.float32)).max(2), per_look)
            self.threshold = together if together is not None else 1.0

    def step(self, x: Array) -> Step:
        """See `DriftOnline.step`."""
        values = self.streams(matrix(x, len(self.streams.features), method=self.METHOD))
        clock = self.options["clock"]
        alarms: list[int] = []
        start = 0
        while start < len(values):  # from look to look
            stop = min(start + clock - len(self.waiting), len(values))
            self.waiting = np.concatenate([self.waiting, values[start:stop]])
            self.time += stop - start
            if len(self.waiting) == clock:
                self.window.insert(self.waiting)
                self.waiting = self.waiting[:0].copy()
                if self._look():
                    alarms.append(stop - 1)
                    self.time = 0
            start = stop
        return Step(
            is_drift=bool(alarms), at=tuple(alarms), statistic=self.last, threshold=self.threshold, time=self.time
        )

    def _look(self) -> bool:
        self.last = self._highest()
        highest = self.last
        while highest > self.threshold:
            self.window.drop()
            highest = self._highest()
        return self.last > self.threshold

    def _highest(self) -> float:
        return float((self.window.statistics(self.options["min_rows"]) / self.scales).max())

    def state(self) -> State:
        """See `Detector.state`."""
        parts = np.stack(self.window.parts) if self.window.parts else np.empty((0, 3, self.scales.size))
        arrays = {"scales": self.scales, "waiting": self.waiting, "parts": parts}
        arrays["sizes"] = np.array(self.window.sizes, np.int64)
        return kept(
            self.METHOD,
            len(self.streams.features),
            {**self.streams.arrays(), **arrays},
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
        scales, options = parts.array("scales"), parts.value("options")
        window = Window(scales.size)
        window.sizes, window.parts = parts.array("sizes").tolist(), list(parts.array("parts"))
        streams = Streams(features, arrays, unit=options["unit"])
        found = cls(streams, window, scales=scales, threshold=float(parts.value("threshold")), options=options)
        found.waiting = parts.array("waiting")
        found.time, found.last = int(parts.value("time")), float(parts.value("last"))
        return found
