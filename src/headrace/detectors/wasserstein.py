"""Wasserstein's distance, column by column: method `wasserstein`.

The area between the distribution functions (Vallender 1974, Theory Probab. Appl. 18), which is how far values moved on
average, over the reference's interquartile range / 1.349 (which is the deviation of a normal law, and is not stretched
by a few far values), else, where half of the values are one, its standard deviation. A constant column has neither: its
unit is its own. The p-value is that of the same area by the gaps at fifty quantiles of the pooled values, whose null
law given the pooled values is that of a Brownian bridge at these points (del Barrio, Gine and Matran 1999, Ann. Probab.
27, for the limit of the area), drawn once for all columns; of twenty rows against ten a level of .05 is .065 by it
(simulated), of fifty against fifty it is held; `threshold` asks for a fixed bound instead, in those
deviations, without p-values.
"""

from __future__ import annotations

import functools
from typing import Any, Self

import numpy as np

from headrace.detectors import correction as corrections
from headrace.detectors import permutation
from headrace.detectors.base import Drift
from headrace.detectors.correction import Correction
from headrace.detectors.univariate import Compared, Level, OfValues, check_columns, check_reference, ordered
from headrace.features import Features
from headrace.payload import Array

FAR = 1e6
"""Deviations from the median beyond which all values are as far: an infinity is a value, and has no distance."""


GRID = 50
"""Steps of the quantiles at which gaps are looked at for the p-value."""


class Wasserstein(OfValues):
    """Compares numeric columns by how far their values moved."""

    METHOD = "wasserstein"
    EFFECT = "wasserstein_deviations"

    def __init__(
        self,
        features: Features,
        columns: tuple[int, ...],
        level: Level,
        values: list[Array],
        *,
        threshold: float | None = None,
    ) -> None:
        super().__init__(features, columns, level, values)
        self.threshold = threshold
        self.compares_missing = threshold is None

    @classmethod
    def fit(
        cls,
        x: Array,
        features: Features,
        *,
        alpha: float = 0.05,
        seed: int = 0,
        correction: Correction = "bonferroni",
        min_effect: float = 0.1,
        threshold: float | None = None,
    ) -> Self:
        """See `DriftTest.fit`; min_effect and threshold are in deviations of the reference."""
        corrections.check_level(cls.METHOD, alpha=alpha, correction=correction, min_effect=min_effect)
        check_reference(cls.METHOD, x, features)
        columns = check_columns(cls.METHOD, features.numeric, "numbers", "jensen-shannon or tabular")
        level = Level(alpha=alpha, correction=correction, min_effect=min_effect, seed=seed, rows=len(x))
        return cls(features, columns, level, [ordered(x[:, at]) for at in columns], threshold=threshold)

    def test(self, x: Array) -> Drift:
        """See `DriftTest.test`."""
        found = super().test(x)
        return found if self.threshold is None else corrections.by_threshold(found, self.threshold)

    def column(self, at: int, reference: Array, sample: Array) -> Compared:
        """See `OfValues.column`."""
        middle, unit = float(np.median(reference)), scale(reference)
        reference = np.clip((reference - middle) / unit, -FAR, FAR)
        sample = np.clip((sample - middle) / unit, -FAR, FAR)
        pooled = np.sort(np.concatenate([reference, sample]), kind="stable")
        found = float(np.abs(gaps(reference, sample, pooled[:-1])) @ np.diff(pooled))
        return Compared(found, 1.0 if self.threshold is not None else self._p_value(reference, sample, pooled), found)

    def _p_value(self, reference: Array, sample: Array, pooled: Array) -> float:
        rows = pooled.size
        grid = pooled[np.arange(GRID + 1) * (rows - 1) // GRID]
        inner = grid[1:-1]
        # An inner point stands for half of the way to both of its neighbours.
        widths = (grid[2:] - grid[:-2]) / 2
        unit = np.sqrt(rows**2 / ((rows - 1.0) * reference.size * sample.size))
        null = bridges(self.level.seed, permutation.draws(self.level.alpha, self.tests)) @ widths
        seen = float(np.abs(gaps(reference, sample, inner)) @ widths) / unit
        return float((1 + np.count_nonzero(null >= seen * (1 - 1e-12))) / (1 + null.size))

    def parameters(self) -> dict[str, Any]:
        """See `OfValues.parameters`."""
        return {"threshold": self.threshold}


def gaps(reference: Array, sample: Array, at: Array) -> Array:
    """By how much more of the sample than of the reference is at or below some values `[k]`; both are sorted."""
    below = np.searchsorted(sample, at, side="right") / sample.size
    found: Array = below - np.searchsorted(reference, at, side="right") / reference.size
    return found


@functools.lru_cache(maxsize=4)
def bridges(seed: int, count: int) -> Array:
    """`[count, GRID - 1]`: how far from 0 Brownian bridges are at the inner points of a grid of equal steps."""
    steps = np.random.default_rng(seed).standard_normal((count, GRID)) / np.sqrt(GRID)
    walks = np.cumsum(steps, axis=1)
    found: Array = np.abs(walks[:, :-1] - walks[:, -1:] * (np.arange(1, GRID) / GRID))
    return found


def scale(values: Array) -> float:
    """One deviation of values `[n]`."""
    low, high = np.quantile(values, [0.25, 0.75])
    return float((high - low) / 1.349) or float(values.std()) or 1.0
