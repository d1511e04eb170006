"""Distance to the nearest rows of the reference. For tables and images; follows no assumption on their law.

Ramaswamy, Rastogi and Shim, "Efficient algorithms for mining outliers from large data sets", SIGMOD 2000: the score is
the distance to the k-th nearest row; with `mean`, of Angiulli and Pizzuti, "Fast outlier detection in high dimensional
spaces", PKDD 2002, the mean of the distances to the k nearest (theirs is the sum).
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Final, Self

import numpy as np

from headrace.detectors.base import Data, Outlier, Scores, State
from headrace.detectors.filled import Parts, kept, reference, sample
from headrace.detectors.space import Encoding, Scale
from headrace.errors import InvalidRequest
from headrace.features import Features
from headrace.payload import Array

_CHUNK: Final = 256
"""Rows that are compared with the reference together: bounds memory."""


@dataclasses.dataclass(frozen=True)
class Knn(Outlier):
    """A kept reference."""

    METHOD: ClassVar[str] = "knn"
    DATA: ClassVar[tuple[Data, ...]] = ("tabular", "image", "series")

    encoding: Encoding
    points: Array
    """`[m, d]` FP64: the reference's, at most `rows` of `fit`."""
    k: int
    mean: bool

    @classmethod
    def fit(
        cls,
        x: Array,
        features: Features,
        *,
        seed: int = 0,
        k: int = 5,
        mean: bool = False,
        rows: int = 2000,
        scale: Scale = "auto",
    ) -> Self:
        """Keep the reference.

        Args:
            x: `[n, f]` FP64, the reference.
            features: Its columns.
            seed: Of the choice of rows, where there are more than `rows`.
            k: Which neighbour.
            mean: Whether the mean over the k neighbours is the score, and not the distance to the last.
            rows: So many of the reference are kept.
            scale: Of numbers, as `space.Scale`.

        Raises:
            InvalidRequest: not more than k rows.
        """
        if k < 1:
            raise InvalidRequest(f"k is 1 or more; got {k}")
        x = reference(x, features, method=cls.METHOD, rows=k + 1)
        encoding = Encoding.fit(x, features, scale=scale)
        return cls(encoding, encoding(sample(x, max(rows, k + 1), seed=seed), method=cls.METHOD), k, mean)

    def score(self, x: Array) -> Scores:
        """Distances; of a feature, the mean squared difference to the k neighbours."""
        points = self.encoding(x, method=self.METHOD)
        instance = np.empty(points.shape[0])
        feature = np.empty((points.shape[0], len(self.encoding.features)))
        half = 0.5 * (self.points**2).sum(1)
        for start in range(0, points.shape[0], _CHUNK):
            some = points[start : start + _CHUNK]
            # Half the squared distance, less what is the same for all of a row's neighbours: only its order is used.
            order = half - some @ self.points.T
            near = np.argpartition(order, self.k - 1, axis=1)[:, : self.k]
            squared = (some[:, None, :] - self.points[near]) ** 2
            distance = np.sqrt(squared.sum(2))
            instance[start : start + _CHUNK] = distance.mean(1) if self.mean else distance.max(1)
            feature[start : start + _CHUNK] = self.encoding.per_feature(squared.mean(1))
        return Scores(instance=instance, feature=feature)

    def state(self) -> State:
        """The kept rows."""
        arrays = {**self.encoding.arrays(), "points": self.points}
        return kept(self.METHOD, len(self.encoding.features), arrays, k=self.k, mean=self.mean)

    @classmethod
    def restore(cls, state: State, features: Features) -> Self:
        """As `Detector.restore`."""
        parts = Parts(state, cls.METHOD, features)
        encoding = Encoding.restore(parts, features)
        return cls(encoding, parts.array("points"), int(parts.value("k")), bool(parts.value("mean")))
