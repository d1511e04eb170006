"""ECOD: how far out in its tails a row lies, all columns together. No parameters; for tables.

Li, Zhao, Hu, Botta, Ionescu and Chen, "ECOD: unsupervised outlier detection using empirical cumulative distribution
functions", TKDE 2022, algorithm 1: -ln of tail probabilities is summed over columns three times, of left tails, of
right tails, and of each column's tail on the side it is skewed to; the largest sum is the score. (The authors' code in
pyod takes the largest in every column and then sums: it scores the same or more.)

What holds outside the reference's range, and of categories, `tails` says.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Self

import numpy as np

from headrace.detectors.base import Data, Outlier, Scores, State
from headrace.detectors.tails import Tails
from headrace.features import Features
from headrace.payload import Array


@dataclasses.dataclass(frozen=True)
class Ecod(Outlier):
    """Fitted tails."""

    METHOD: ClassVar[str] = "ecod"
    DATA: ClassVar[tuple[Data, ...]] = ("tabular", "image")

    tails: Tails

    @classmethod
    def fit(cls, x: Array, features: Features, *, seed: int = 0, rows: int = 10_000) -> Self:
        """Keep the columns' values.

        Args:
            x: `[n, f]` FP64, the reference.
            features: Its columns.
            seed: Of the choice of rows, where there are more than `rows`.
            rows: So many of the reference are kept.

        Raises:
            InvalidRequest: fewer than 2 rows.
        """
        return cls(Tails.fit(x, features, method=cls.METHOD, rows=rows, seed=seed))

    def score(self, x: Array) -> Scores:
        """The largest of three sums; of a feature, its larger tail."""
        left, right = self.tails(x, method=self.METHOD)
        skewed = np.where(self.tails.skew < 0, left, right)
        instance = np.maximum(np.maximum(left.sum(1), right.sum(1)), skewed.sum(1))
        return Scores(instance=instance, feature=np.maximum(left, right))

    def state(self) -> State:
        """The tails."""
        return self.tails.state(self.METHOD)

    @classmethod
    def restore(cls, state: State, features: Features) -> Self:
        """As `Detector.restore`."""
        return cls(Tails.restore(state, features, method=cls.METHOD))
