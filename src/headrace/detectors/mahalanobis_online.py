"""Mahalanobis distance that goes with the stream: mean and covariance forget old rows. For rows one after the other.

The distance and its shares are those of `mahalanobis`. Mean and covariance are weighted, a row's weight halving with
every `half_life` rows after it; two weighted sets are joined as in Chan, Golub and LeVeque, "Updating formulae and a
pairwise algorithm for computing sample variances", 1979, equations 2.1. What a row may do to them is bounded: one that
lies further away than the reference's `clip` quantile counts as if it lay there, in its direction (Campbell, "Robust
procedures in multivariate analysis I", 1980). Clipped deviations are scaled up so that rows of the reference's law
leave the covariance where it is.

It learns in steps of `STEP` rows, counted from the start: what it says does not depend on how the rows were grouped.
"""

from __future__ import annotations

import math
from typing import ClassVar, Final, Self

import numpy as np

from headrace.detectors.base import Data, Outlier, Scores, State
from headrace.detectors.filled import Parts, kept, reference
from headrace.detectors.mahalanobis import FLOOR, inverse_root
from headrace.detectors.space import Encoding, Scale
from headrace.errors import InvalidRequest
from headrace.features import Features
from headrace.payload import Array

STEP: Final = 32
"""Rows between two updates."""


class MahalanobisOnline(Outlier):
    """A distance in state."""

    METHOD: ClassVar[str] = "mahalanobis-online"
    DATA: ClassVar[tuple[Data, ...]] = ("tabular", "image")
    ONLINE: ClassVar[bool] = True

    def __init__(
        self,
        encoding: Encoding,
        *,
        mean: Array,
        covariance: Array,
        weight: float,
        half_life: float,
        reach: float,
        gain: float,
        waiting: Array,
    ) -> None:
        self.encoding = encoding
        self.mean = mean
        self.covariance = covariance
        self.weight = weight
        """Of all rows seen, in rows."""
        self.half_life = half_life
        self.reach = reach
        """The squared distance at which rows are clipped."""
        self.gain = gain
        """What squares of clipped deviations are multiplied by."""
        self.waiting = waiting
        """`[fewer than STEP, d]`: points since the last update, clipped."""
        self._root = inverse_root(covariance)

    @classmethod
    def fit(
        cls,
        x: Array,
        features: Features,
        *,
        seed: int = 0,  # noqa: ARG003 - nothing is random
        half_life: float = 10_000.0,
        clip: float = 0.99,
        scale: Scale = "auto",
    ) -> Self:
        """Start with the reference.

        Args:
            x: `[n, f]` FP64, the reference.
            features: Its columns.
            seed: Nothing is random.
            half_life: Rows until one counts half.
            clip: The share of the reference's rows that are near enough to count as they are.
            scale: Of numbers, as `space.Scale`.

        Raises:
            InvalidRequest: fewer than 2 rows, or a parameter out of range.
        """
        if not half_life > 0 or not 0 < clip <= 1:
            raise InvalidRequest(f"half_life is above 0 and clip in (0, 1]; got {half_life} and {clip}")
        x = reference(x, features, method=cls.METHOD)
        encoding = Encoding.fit(x, features, scale=scale)
        points = encoding(x, method=cls.METHOD)
        mean, covariance = points.mean(0), np.atleast_2d(np.cov(points.T, bias=True))
        squared = (((points - mean) @ inverse_root(covariance)) ** 2).sum(1)
        reach = max(float(np.quantile(squared, clip)), FLOOR)
        clipped = float(np.minimum(squared, reach).mean())
        return cls(
            encoding,
            mean=mean,
            covariance=covariance,
            weight=min(float(x.shape[0]), half_life / math.log(2.0)),
            half_life=half_life,
            reach=reach,
            gain=float(squared.mean()) / clipped if clipped > 0 else 1.0,
            waiting=np.empty((0, points.shape[1])),
        )

    def score(self, x: Array) -> Scores:
        """Squared distances by what was known at the last update; then the rows are learnt."""
        points = self.encoding(x, method=self.METHOD)
        shares = np.empty_like(points)
        start = 0
        while start < points.shape[0]:  # from update to update
            stop = min(start + STEP - self.waiting.shape[0], points.shape[0])
            deviation = points[start:stop] - self.mean
            shares[start:stop] = (deviation @ self._root) ** 2
            squared = shares[start:stop].sum(1)
            far = np.sqrt(self.reach / np.maximum(squared, self.reach))
            self.waiting = np.concatenate([self.waiting, self.mean + deviation * far[:, None]])
            if self.waiting.shape[0] == STEP:
                self._learn()
            start = stop
        return Scores(instance=shares.sum(1), feature=self.encoding.per_feature(shares))

    def _learn(self) -> None:
        rows, self.waiting = self.waiting, self.waiting[:0].copy()
        old = self.weight * 0.5 ** (STEP / self.half_life)
        mean = rows.mean(0)
        deviation, shift = rows - mean, mean - self.mean
        self.weight = old + STEP
        self.covariance = (
            old * self.covariance
            + self.gain * (deviation.T @ deviation)
            + self.gain * old * STEP / self.weight * np.outer(shift, shift)
        ) / self.weight
        self.mean = self.mean + shift * (STEP / self.weight)
        self._root = inverse_root(self.covariance)

    def state(self) -> State:
        """What it knows now, and the rows that it has not learnt yet."""
        arrays = {
            **self.encoding.arrays(),
            "mean": self.mean,
            "covariance": self.covariance,
            "waiting": self.waiting,
        }
        return kept(
            self.METHOD,
            len(self.encoding.features),
            arrays,
            weight=self.weight,
            half_life=self.half_life,
            reach=self.reach,
            gain=self.gain,
        )

    @classmethod
    def restore(cls, state: State, features: Features) -> Self:
        """As `Detector.restore`."""
        parts = Parts(state, cls.METHOD, features)
        return cls(
            Encoding.restore(parts, features),
            mean=parts.array("mean"),
            covariance=parts.array("covariance"),
            weight=float(parts.value("weight")),
            half_life=float(parts.value("half_life")),
            reach=float(parts.value("reach")),
            gain=float(parts.value("gain")),
            waiting=parts.array("waiting"),
        )
