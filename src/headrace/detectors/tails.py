"""How rare values are, column by column: what `ecod` and `copod` add up.

Of a number v the empirical tail probabilities are those of the reference's rows: left, the share that is v or less;
right, the share that is v or more. Of a category, both are the share of rows whose category is as rare as it or rarer.
What no row of the reference reaches has probability 1 / (n + 1), as if the row itself were one of the reference's, so
that nothing is infinite; for rows of the reference the values are those of the papers.
"""

from __future__ import annotations

import dataclasses
from typing import Self

import numpy as np

from headrace.detectors.base import State
from headrace.detectors.filled import Filling, Parts, codes, kept, matrix, reference, sample
from headrace.features import Features
from headrace.payload import Array


@dataclasses.dataclass(frozen=True, slots=True)
class Tails:
    """The reference, column by column."""

    features: Features
    filling: Filling
    ordered: Array
    """`[f, n]` FP64: every number's values, rising; of categories, zeros."""
    rarity: Array
    """`[all categories of all features, and one more each]` FP64: -ln of their tail probability."""
    skew: Array
    """`[f]` FP64: the sign of the third central moment; 0 of categories and of what never varies."""

    @classmethod
    def fit(cls, x: Array, features: Features, *, method: str, rows: int, seed: int) -> Self:
        """Of a reference, at most `rows` of it; raises InvalidRequest as `filled.reference`."""
        x = sample(reference(x, features, method=method), rows, seed=seed)
        filling = Filling.fit(x, features)
        x = filling(x)
        ordered = np.ascontiguousarray(np.sort(x, axis=0).T)
        ordered[list(features.categorical)] = 0.0
        found = []
        for position in features.categorical:
            known = len(features.columns[position].categories)
            counts = np.bincount(codes(x[:, position], known), minlength=known + 1)
            rarer = np.where(counts[None, :] <= counts[:, None], counts[None, :], 0).sum(1)
            found.append(_surprise(rarer, x.shape[0]))
        spread = np.ptp(ordered, axis=1)
        unit = np.where(spread > 0, spread, 1.0)[:, None]
        shares = (ordered - ordered[:, :1]) / unit
        third = ((shares - shares.mean(1, keepdims=True)) ** 3).mean(1)
        return cls(features, filling, ordered, np.concatenate(found) if found else np.zeros(0), np.sign(third))

    def __call__(self, x: Array, *, method: str) -> tuple[Array, Array]:
        """-ln of the left and of the right tail probabilities of rows: two of `[n, f]`, none negative."""
        x = self.filling(matrix(x, len(self.features), method=method))
        rows = self.ordered.shape[1]
        left, right = np.zeros(x.shape), np.zeros(x.shape)  # of categories it stays so until below
        for at in self.features.numeric:
            left[:, at] = self.ordered[at].searchsorted(x[:, at], side="right")
            right[:, at] = self.ordered[at].searchsorted(x[:, at], side="left")
        left, right = _surprise(left, rows), _surprise(rows - right, rows)
        start = 0
        for at in self.features.categorical:
            known = len(self.features.columns[at].categories)
            left[:, at] = right[:, at] = self.rarity[start + codes(x[:, at], known)]
            start += known + 1
        return left, right

    def state(self, method: str) -> State:
        """Of a detector that is nothing but its tails."""
        arrays = {"fill": self.filling.values, "ordered": self.ordered, "rarity": self.rarity, "skew": self.skew}
        return kept(method, len(self.features), arrays)

    @classmethod
    def restore(cls, state: State, features: Features, *, method: str) -> Self:
        """The inverse; raises as `Detector.restore`."""
        parts = Parts(state, method, features)
        return cls(
            features, Filling(parts.array("fill")), parts.array("ordered"), parts.array("rarity"), parts.array("skew")
        )


def _surprise(count: Array, rows: int) -> Array:
    """-ln of a share of rows; of none of them, ln(rows + 1)."""
    surprise: Array = -np.log(np.maximum(count / rows, 1.0 / (rows + 1)))
    return np.maximum(surprise, 0.0)  # not -0
