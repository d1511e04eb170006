"""Rows as points of a space with distances: what PCA, VAE, kNN and Mahalanobis measure in.

A number is centred and scaled by its standard deviation (of an image, all pixels by one, so that pixels which hardly
vary are not blown up). A category is a block of columns, one for each category and one for those that are unknown,
scaled so that two random rows of the reference are as far apart in it as in a number: their expected squared distance
is 2.

What never varies in the reference has no scale of its own. A number that is constant is measured in millionths of
itself. A category that no row has is as far away as a standardised one of probability 1 / (n + 2) is: sqrt(n + 1).
"""

from __future__ import annotations

import dataclasses
from typing import Final, Literal, Self

import numpy as np

from headrace.detectors.filled import Filling, Parts, codes, matrix
from headrace.errors import InvalidRequest
from headrace.features import Features
from headrace.payload import Array

Scale = Literal["auto", "column", "whole"]
"""Whether every number has its own scale, or all one; `auto`: one where a row has a shape of two or more axes."""

LIMIT: Final = 1e6
"""Standard deviations; further away is as far as that, so that nothing overflows and infinity has a place."""
_CONSTANT: Final = 1e-6
"""The scale of a constant, as a share of it."""


@dataclasses.dataclass(frozen=True, slots=True)
class Encoding:
    """From rows `[n, f]` to points `[n, d]`, and back."""

    features: Features
    filling: Filling
    center: Array
    """`[d]` FP64."""
    scale: Array
    """`[d]` FP64, never 0."""

    @classmethod
    def fit(cls, x: Array, features: Features, *, scale: Scale = "auto") -> Self:
        """Of a reference `[n, f]` that `filled.reference` has checked."""
        if scale not in {"auto", "column", "whole"}:
            raise InvalidRequest(f"scale is one of auto, column, whole; got '{scale}'")
        filling = Filling.fit(x, features)
        x = filling(x)
        whole = scale == "whole" or (scale == "auto" and len(features.shape) >= 2)
        numbers = list(features.numeric)
        center, spread = _moments(x[:, numbers])
        if whole and spread.any():
            spread = np.full_like(spread, np.sqrt(np.mean(spread**2)))
        spread = np.where(spread > 0, spread, _CONSTANT * np.where(center == 0, 1.0, np.abs(center)))
        centers, scales, at = [], [], 0
        for position, feature in enumerate(features.columns):
            if not feature.is_category:
                centers.append(center[at : at + 1])
                scales.append(spread[at : at + 1])
                at += 1
                continue
            known = len(feature.categories)
            share = np.bincount(codes(x[:, position], known), minlength=known + 1) / x.shape[0]
            gini = max(1.0 - float(share @ share), 1.0 / (x.shape[0] + 1))
            centers.append(share)
            scales.append(np.where(share > 0, np.sqrt(gini), (x.shape[0] + 1) ** -0.5))
        return cls(features, filling, np.concatenate(centers), np.concatenate(scales))

    def __call__(self, x: Array, *, method: str) -> Array:
        """Rows `[n, f]` as points `[n, d]`; raises InvalidRequest as `filled.matrix`."""
        x = self.filling(matrix(x, len(self.features), method=method))
        if not self.features.categorical:
            raw = x
        else:
            raw = np.zeros((x.shape[0], self.center.size))
            starts = self.starts()
            numbers = list(self.features.numeric)
            raw[:, starts[numbers]] = x[:, numbers]
            rows = np.arange(x.shape[0])
            for position in self.features.categorical:
                known = len(self.features.columns[position].categories)
                raw[rows, starts[position] + codes(x[:, position], known)] = 1.0
        reach = LIMIT * self.scale
        point: Array = (np.clip(raw, self.center - reach, self.center + reach) - self.center) / self.scale
        return point

    def decode(self, points: Array) -> Array:
        """Points `[n, d]` as rows `[n, f]`: of a category, the one that the point is nearest to."""
        raw = points * self.scale + self.center
        if not self.features.categorical:
            return raw
        starts = self.starts()
        rows = np.empty((points.shape[0], len(self.features)))
        numbers = list(self.features.numeric)
        rows[:, numbers] = raw[:, starts[numbers]]
        for position in self.features.categorical:
            known = max(len(self.features.columns[position].categories), 1)
            rows[:, position] = raw[:, starts[position] : starts[position] + known].argmax(1)
        return rows

    def per_feature(self, contribution: Array) -> Array:
        """What the columns of points `[n, d]` contribute, summed by feature: `[n, f]`."""
        if not self.features.categorical:
            return contribution
        summed: Array = np.add.reduceat(contribution, self.starts(), axis=1)
        return summed

    def starts(self) -> Array:
        """The first column of each feature: `[f]`."""
        widths = [len(each.categories) + 1 if each.is_category else 1 for each in self.features.columns]
        return np.concatenate([[0], np.cumsum(widths[:-1])]).astype(np.int64)

    def arrays(self) -> dict[str, Array]:
        """What `restore` needs."""
        return {"fill": self.filling.values, "center": self.center, "scale": self.scale}

    @classmethod
    def restore(cls, parts: Parts, features: Features) -> Self:
        """The encoding whose `arrays` are in the state; raises InvalidRequest where categories differ."""
        found = cls(features, Filling(parts.array("fill")), parts.array("center"), parts.array("scale"))
        width = sum(len(each.categories) + 1 if each.is_category else 1 for each in features.columns)
        if found.center.shape != (width,):
            raise InvalidRequest(
                f"this state of detector '{parts.method}' is of {found.center.size} encoded columns, the schema has "
                f"{width}: its categories have changed; fit it again"
            )
        return found


def _moments(x: Array) -> tuple[Array, Array]:
    """Means and standard deviations of columns; of a constant, its value and exactly 0."""
    if not x.shape[1]:
        return np.zeros(0), np.zeros(0)
    low, high = x.min(0), x.max(0)
    unit = np.maximum(np.abs(low), np.abs(high))
    unit[unit == 0] = 1.0  # squares of very large numbers overflow, so they are taken of shares of the largest
    shares = x / unit
    spread = shares.std(0)
    constant = (low == high) | (spread < 1e-12)
    return np.where(constant, low, shares.mean(0) * unit), np.where(constant, 0.0, spread * unit)
