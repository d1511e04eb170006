"""COPOD: how unlikely a row's tails are under the empirical copula. No parameters; for tables.

Li, Zhao, Botta, Ionescu and Hu, "COPOD: copula-based outlier detection", ICDM 2020. Of every column the score is the
larger of its skewness-corrected tail (equation 11: the left one of a column skewed to the left, else the right one) and
the mean of both; the row's is their sum. That is the authors' published code, which is what comparisons in print ran;
algorithm 1 of the paper takes the largest of the three sums over all columns instead, as `ecod` does.

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
class Copod(Outlier):
    """Fitted tails."""

    METHOD: ClassVar[str] = "copod"
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
        """The sum over features of what each says."""
        left, right = self.tails(x, method=self.METHOD)
        skew = self.tails.skew
        skewed = np.where(skew < 0, left, np.where(skew > 0, right, np.maximum(left, right)))
        feature = np.maximum(skewed, (left + right) / 2)
        return Scores(instance=feature.sum(1), feature=feature)

    def state(self) -> State:
        """The tails."""
        return self.tails.state(self.METHOD)

    @classmethod
    def restore(cls, state: State, features: Features) -> Self:
        """As `Detector.restore`."""
        return cls(Tails.restore(state, features, method=cls.METHOD))
