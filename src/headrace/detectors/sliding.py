"""The last W rows against the reference, at every row: what online MMD, LSDD and CVM share.

Cobb, Van Looveren and Klaise (2022, AISTATS, "Sequential multivariate change detection with calibrated and memoryless
false detection rates"), section 3: the reference is dealt anew many times to a smaller reference and a stream of 2 W
rows; the threshold of time t is the one that one in ERT of the streams pass which have passed none before, and from
time W on it stays. The window begins with W rows of the reference, which are kept out of it, so that there is an
answer from the first row; after an alarm it begins with them again.

It differs in this: where streams are too few for the share 1 / ERT, which is where ERT is above a tenth of them, the
tail is taken for exponential (`run_time.upper`).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, Final, Self

import numpy as np

from headrace.detectors import run_time
from headrace.detectors.base import DriftOnline, State, Step
from headrace.detectors.filled import Parts, kept, matrix, reference, sample
from headrace.errors import InvalidRequest
from headrace.features import Features
from headrace.payload import Array

_VALUES: Final = 4_000_000
"""To deal with together when streams are simulated."""


class Sliding(DriftOnline):
    """A window that goes along the stream. A method says what points are, and what a window's statistic is."""

    def __init__(
        self, features: Features, arrays: Mapping[str, Array], *, window: int, options: Mapping[str, Any]
    ) -> None:
        self.features = features
        self.arrays = dict(arrays)
        """What was fitted; `begin` `[W, d]`: the points that a window begins with; `thresholds` `[W]`."""
        self.window = window
        self.options = options
        self.points = self.arrays["begin"]
        """`[W, d]`, the last ones."""
        self.time = 0
        self.last = 0.0
        self.prepare()

    @classmethod
    @abstractmethod
    def encode(
        cls, x: Array, features: Features, options: Mapping[str, Any], rng: np.random.Generator
    ) -> tuple[dict[str, Array], Array]:
        """Arrays that `to_points` and `prepare` need, of the reference's rows `[n, f]`; and the rows that are left."""

    @abstractmethod
    def to_points(self, x: Array) -> Array:
        """Rows `[n, f]` as points `[n, d]`."""

    @abstractmethod
    def prepare(self) -> None:
        """Make of the arrays what statistics need."""

    @abstractmethod
    def statistics(self, points: Array) -> Array:
        """Of each window of W in points `[W + n, d]` but the first: `[n]`."""

    @abstractmethod
    def simulated(self, points: Array, dealt: Array) -> Array:
        """Of streams of the reference's own points: `[b, W]`.

        Args:
            points: `[n, d]`, of the whole reference.
            dealt: `[b, 2 W]`: which of them each stream is; the others are its reference.
        """

    def settle(self, points: Array, dealt: Array) -> None:
        """Choose what is chosen by simulated streams beside the thresholds, into the arrays."""

    @classmethod
    def calibrated(
        cls,
        x: Array,
        features: Features,
        *,
        ert: float,
        seed: int,
        window: int,
        max_rows: int,
        streams: int | None,
        **options: Any,
    ) -> Self:
        """What `fit` of a method does."""
        run_time.check(cls.METHOD, ert)
        if window < 2:
            raise InvalidRequest(f"detector '{cls.METHOD}': a window is of 2 rows or more, got {window}")
        x = reference(x, features, method=cls.METHOD, rows=4 * window)
        x = sample(x, max(max_rows, 4 * window), seed=seed)
        rng = np.random.default_rng(seed)
        arrays, x = cls.encode(x, features, options, rng)
        arrays |= {"begin": np.zeros((window, 1)), "thresholds": np.zeros(window)}
        found = cls(features, arrays, window=window, options=options)
        points = found.to_points(x)
        found.arrays["reference"] = points
        found.prepare()
        many = streams or int(np.clip(20 * ert, 4000, 10_000))
        dealt = np.argsort(rng.random((min(many, 1000), len(x))), axis=1)[:, : 2 * window]
        found.settle(points, dealt)
        # The window begins with rows that are neither far from the others nor near, of 33 times so many.
        dealt = np.argsort(rng.random((33, len(x))), axis=1)[:, : window + 1]
        usual = np.argsort(found.simulated(points, dealt)[:, 0])[16]
        found.arrays["begin"] = found.points = points[dealt[usual, 1:]]
        found.arrays["reference"] = np.delete(points, dealt[usual, 1:], axis=0)
        found.prepare()
        statistics = np.empty((many, window))
        size = max(1, min(many, _VALUES // max(4 * window * window, len(x))))
        for start in range(0, many, size):
            count = min(size, many - start)
            dealt = np.argsort(rng.random((count, len(x))), axis=1)[:, : 2 * window]
            statistics[start : start + count] = found.simulated(points, dealt)
        found.arrays["thresholds"] = run_time.by_time(statistics, ert)
        return found

    def step(self, x: Array) -> Step:
        """See `DriftOnline.step`."""
        points = self.to_points(matrix(x, len(self.features), method=self.METHOD))
        thresholds = self.arrays["thresholds"]
        alarms: list[int] = []
        start = 0
        while start < len(points):  # from block to block, or from alarm to alarm
            # Of so many, what is computed in vain, because it is too far apart, is as much as what is not.
            block = np.concatenate([self.points, points[start : start + max(self.window, 16)]])
            found = self.statistics(block)
            times = np.minimum(self.time + np.arange(len(found)), self.window - 1)
            passed = np.flatnonzero(found > thresholds[times])
            if passed.size:
                first = int(passed[0])
                alarms.append(start + first)
                self.last, self.time, self.points = float(found[first]), 0, self.arrays["begin"]
                start += first + 1
            else:
                self.last, self.time = float(found[-1]), self.time + len(found)
                self.points = block[-self.window :]
                start += len(found)
        return Step(
            is_drift=bool(alarms),
            at=tuple(alarms),
            statistic=self.last,
            threshold=float(thresholds[min(self.time, self.window) - 1 if self.time else 0]),
            time=self.time,
        )

    def state(self) -> State:
        """See `Detector.state`."""
        arrays = {**self.arrays, "points": self.points}
        return kept(
            self.METHOD,
            len(self.features),
            arrays,
            window=self.window,
            options=dict(self.options),
            time=self.time,
            last=self.last,
        )

    @classmethod
    def restore(cls, state: State, features: Features) -> Self:
        """See `Detector.restore`."""
        parts = Parts(state, cls.METHOD, features)
        window = int(parts.value("window"))
        for name in ("begin", "reference", "thresholds"):
            parts.array(name)
        arrays = {name: array for name, array in state.arrays.items() if name != "points"}
        found = cls(features, arrays, window=window, options=parts.value("options"))
        found.points = parts.array("points")
        found.time, found.last = int(parts.value("time")), float(parts.value("last"))
        return found


def along(values: Array, window: int) -> Array:
    """Sums over each window of so many along `[window + n, ...]` but the first: `[n, ...]`."""
    found: Array = np.lib.stride_tricks.sliding_window_view(values[1:], window, axis=0).sum(-1)
    return found


def within(kernel: Array, window: int) -> Array:
    """Sums of kernels between the points of each window but the first, each pair in both orders and each with itself.

    Args:
        kernel: `[..., m, m]` of m points one after the other; what is further apart than the window is not looked at.
        window: How many.

    Returns:
        `[..., m - window]`.
    """
    rows = np.cumsum(kernel, axis=-1)
    both = np.cumsum(rows, axis=-2)  # of the upper left corner
    both = np.pad(both, [(0, 0)] * (kernel.ndim - 2) + [(1, 0), (1, 0)])
    starts = np.arange(1, kernel.shape[-1] - window + 1)
    ends = starts + window
    found: Array = both[..., ends, ends] - both[..., starts, ends] - both[..., ends, starts] + both[..., starts, starts]
    return found
