"""Page and Hinkley's test of a mean that moves, column by column: method `page-hinkley`.

Page (1954, Biometrika 41, "Continuous inspection schemes"), section 2, with the mean estimated as it goes (Hinkley
1971, Biometrika 58, "Inference about the change-point from cumulative sum tests"): m_t = sum (x_i - mean_i - delta),
and the statistic is m_t less its minimum so far, or the same downwards, whichever is larger. Values are in deviations
of the reference.

It differs in this: the mean begins with the reference's, counting for as many rows as it has, so that a stream which
has drifted before its first row is seen (`anchored=False`: it begins with nothing, as in river); and the threshold is
no constant out of the air, but chosen for an expected run time (`detectors.streams`).
"""

from __future__ import annotations

import math
from typing import ClassVar, Self

import numpy as np

from headrace.detectors.streams import Memory, Streamed, Unit, accumulated, lowest
from headrace.errors import InvalidRequest
from headrace.features import Features
from headrace.payload import Array


class PageHinkley(Streamed):
    """Sums of deviations."""

    METHOD = "page-hinkley"
    UNIT: ClassVar[Unit] = "deviation"

    @classmethod
    def fit(
        cls,
        x: Array,
        features: Features,
        *,
        ert: float = 1000.0,
        seed: int = 0,
        delta: float = 0.25,
        threshold: float | None = None,
        min_rows: int = 1,
        anchored: bool = True,
    ) -> Self:
        """See `DriftOnline.fit`.

        Args:
            x: `[n, f]` FP64, the reference.
            features: Its columns.
            ert: Rows.
            seed: Of the simulation.
            delta: In deviations: half the shift that is to be seen first. A smaller one finds small shifts and is
                slower with large ones.
            threshold: Lambda, in deviations, instead of one chosen for `ert`.
            min_rows: No alarm before so many.
            anchored: Begin with the reference's mean.

        Raises:
            InvalidRequest: `delta` is below 0, `ert` is below 2, or too few rows.
        """
        if not 0 <= delta < math.inf:
            raise InvalidRequest(f"detector 'page-hinkley': delta is 0 or more deviations, got {delta}")
        return cls.calibrated(
            x,
            features,
            ert=ert,
            seed=seed,
            threshold=threshold,
            anchored=anchored,
            delta=delta,
            min_rows=min_rows,
        )

    def begin(self, means: Array, rows: float) -> Memory:
        """See `Streamed.begin`."""
        zeros = np.zeros(means.size)
        named = ("up", "least_up", "down", "least_down")
        weight = np.full(means.size, rows)
        return {"seen": zeros, "weight": weight, "total": means * rows, **dict.fromkeys(named, zeros)}

    def advance(self, memory: Memory, block: Array) -> tuple[Array, Memory]:
        """See `Streamed.advance`."""
        is_there = ~np.isnan(block)
        values = np.where(is_there, block, 0.0)
        one = is_there.astype(np.float64)
        seen = accumulated(memory["seen"], one)
        weight = accumulated(memory["weight"], one)
        total = accumulated(memory["total"], values)
        deviation = one * (values - total / np.maximum(weight, 1.0))
        slack = self.options["delta"] * one
        up = accumulated(memory["up"], deviation - slack)
        down = accumulated(memory["down"], -deviation - slack)
        least_up, least_down = lowest(memory["least_up"], up), lowest(memory["least_down"], down)
        statistics = np.where(seen >= self.options["min_rows"], np.maximum(up - least_up, down - least_down), 0.0)
        after = {"seen": seen, "weight": weight, "total": total, "up": up, "least_up": least_up}
        after |= {"down": down, "least_down": least_down}
        return statistics, {name: array[-1] for name, array in after.items()}

    def fallback(self, ert: float) -> float:
        """Of a normal stream: Siegmund (1985, Sequential Analysis, equation 2.57), for both sides, to first order."""
        delta: float = self.options["delta"]
        return math.log1p(4 * delta**2 * ert) / (2 * delta) if delta > 1e-3 else math.sqrt(ert)
