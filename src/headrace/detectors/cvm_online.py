"""Cramer and von Mises' distance between the last values and the reference, column by column: method `cvm-online`.

W times the integral of (F - G)^2 dF, F the distribution function of the reference and G that of the window: the
two-sample criterion (Anderson 1962, Ann. Math. Statist. 33, equation 1) where the reference is much larger than the
window. As a function of pairs it is a sum of kernels, P(T >= max(a, b)) between values a and b of the window, and so
slides as MMD does (`detectors.sliding`). Where values repeat, it is the mean of this and the same of P(T <= t), so that
neither side of a value that is there many times is overlooked.

Thresholds by time, for all columns together, are those of Cobb, Van Looveren and Klaise (2022): the statistic is the
largest of the columns', each in units of what the column alone passes once in `ert` windows. So columns that go
together are not counted twice. A category is a column of 0 and 1 (`detectors.streams`). Missing values are left out of
the window.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np

from headrace.detectors import run_time
from headrace.detectors.sliding import Sliding, along, within
from headrace.detectors.streams import Streams
from headrace.features import Features
from headrace.payload import Array


class CvmOnline(Sliding):
    """Compares numbers by their distribution functions."""

    METHOD = "cvm-online"

    @classmethod
    def fit(
        cls,
        x: Array,
        features: Features,
        *,
        ert: float = 1000.0,
        seed: int = 0,
        window: int = 25,
        max_rows: int = 1000,
        streams: int | None = None,
    ) -> Self:
        """See `mmd_online.MmdOnline.fit`; `streams`: None is 2,000."""
        streams = 2000 if streams is None else streams
        return cls.calibrated(
            x, features, ert=ert, seed=seed, window=window, max_rows=max_rows, streams=streams, run_time=ert
        )

    @classmethod
    def encode(
        cls,
        x: Array,
        features: Features,
        options: Mapping[str, Any],  # noqa: ARG003 - nothing depends on them
        rng: np.random.Generator,  # noqa: ARG003 - nothing is drawn
    ) -> tuple[dict[str, Array], Array]:
        """See `Sliding.encode`."""
        found = Streams.fit(x, features, unit="raw").arrays()
        return {**found, "scales": np.ones(found["column"].size)}, x

    def to_points(self, x: Array) -> Array:
        """See `Sliding.to_points`."""
        return Streams(self.features, self.arrays, unit="raw")(x)

    def prepare(self) -> None:
        """See `Sliding.prepare`."""
        if "reference" not in self.arrays:
            return
        self.laws = [_Law(column[~np.isnan(column)]) for column in self.arrays["reference"].T]

    def statistics(self, points: Array) -> Array:
        """See `Sliding.statistics`."""
        found: Array = self._highest(points[None])[0]
        return found

    def settle(self, points: Array, dealt: Array) -> None:
        """Choose the units of the columns."""
        # Of a column that never varies, the first term of the limiting law's tail.
        usual = 1 / 6 + 2 * math.log(self.options["run_time"]) / math.pi**2
        for at, law in enumerate(self.laws):
            found = _distances([law], points[dealt][:, : self.window + 1, at, None], self.window)[:, 0, 0]
            alone = run_time.upper(found, 1 / self.options["run_time"])
            self.arrays["scales"][at] = alone if alone > 1e-9 else usual

    def simulated(self, points: Array, dealt: Array) -> Array:
        """See `Sliding.simulated`. The reference stays whole, but that of n rows without the window's W would be
        n / (n - W) times as far from these.
        """
        further = (len(points) / (len(points) - self.window)) ** 2
        size = max(1, 1_000_000 // (dealt.shape[1] ** 2 * points.shape[1]))
        parts = [self._highest(points[dealt[start : start + size]]) for start in range(0, len(dealt), size)]
        return further * np.concatenate(parts)

    def _highest(self, points: Array) -> Array:
        """Of windows along points `[b, window + n, s]`: `[b, n]`."""
        found: Array = (_distances(self.laws, points, self.window) / self.arrays["scales"]).max(-1)
        return found


class _Law:
    """A distribution function, by its values `[n]`."""

    def __init__(self, values: Array) -> None:
        self.values = np.sort(values)
        size = max(values.size, 1)
        self.size = size
        above = np.searchsorted(self.values, self.values, "right") / size  # P(T <= t) at each value
        below = 1 - np.searchsorted(self.values, self.values, "left") / size  # P(T >= t)
        self.constant = float((above**2).sum() + (below**2).sum()) / size
        self.after = np.append(np.cumsum(above[::-1])[::-1], 0.0) / size
        self.before = np.append(0.0, np.cumsum(below)) / size

    def parts(self, values: Array) -> tuple[Array, Array, Array]:
        """Of values: P(T >= value), P(T <= value), and the integrals of F over t >= value and of 1 - F over t <= it."""
        left = np.searchsorted(self.values, values, "left")
        right = np.searchsorted(self.values, values, "right")
        return 1 - left / self.size, right / self.size, self.after[left] + self.before[right]


def _distances(laws: Sequence[_Law], points: Array, window: int) -> Array:
    """Of windows along points `[b, window + n, s]` but the first, by column: `[b, n, s]`."""
    values = np.moveaxis(points, -1, 0)  # [s, b, window + n]
    is_there = ~np.isnan(values)
    over, under, across = np.empty((3, *values.shape))
    for at, law in enumerate(laws):
        over[at], under[at], across[at] = law.parts(np.where(is_there[at], values[at], 0.0))
        is_there[at] &= law.values.size > 0
    weight = is_there.astype(np.float64)
    # P(T >= max(a, b)) + P(T <= min(a, b)): the least of each.
    pairs = np.minimum(over[..., :, None], over[..., None, :])
    pairs += np.minimum(under[..., :, None], under[..., None, :])
    if not is_there.all():
        pairs *= weight[..., :, None] * weight[..., None, :]
    inner = within(pairs, window)
    sums = np.stack([weight, weight * across])
    count, outer = np.moveaxis(along(np.moveaxis(sums, -1, 0), window), 0, -1)
    least = np.maximum(count, 1.0)
    constant = np.array([law.constant for law in laws])[:, None, None]
    distance = constant - 2 * outer / least + inner / least**2
    found: Array = np.where(count > 0, np.maximum(distance, 0.0) * count / 2, 0.0)
    return np.moveaxis(found, 0, -1)
