"""Rows as points between which distances mean something: what tests of whole rows (MMD, LSDD, classifier) look at.

A number becomes its deviations from the reference's mean, a category one coordinate per value, two different ones being
one apart, with one for all that are unseen. What is missing takes the reference's median or mode: a test of whole rows
cannot leave out one value, and how often values are missing is for tests of columns to see (`missing`).
"""

from __future__ import annotations

import numpy as np

from headrace.features import Features
from headrace.payload import Array

FAR = 1e6
"""Deviations beyond which all is as far."""


class Encoding:
    """How columns become coordinates; fitted on a reference."""

    def __init__(self, features: Features, *, fill: Array, center: Array, scale: Array) -> None:
        self.features = features
        self.fill = fill
        """`[f]`, in place of what is missing."""
        self.center = center
        self.scale = scale

    @classmethod
    def of(cls, x: Array, features: Features, *, scale: bool) -> Encoding:
        """That of a reference `[n, f]`; `scale` False leaves numbers as they are, being of one unit already."""
        width = len(features)
        fill, center, spread = np.zeros(width), np.zeros(width), np.ones(width)
        for at, feature in enumerate(features.columns):
            values = x[:, at][~np.isnan(x[:, at])]
            if not values.size:
                continue
            if feature.is_category:
                distinct, counts = np.unique(values, return_counts=True)
                fill[at] = distinct[counts.argmax()]
                continue
            fill[at] = np.median(values)
            finite = values[np.isfinite(values)]
            if scale and finite.size:
                center[at] = finite.mean()
                spread[at] = finite.std() or 1.0  # what a constant column is off by is in its own unit
        return cls(features, fill=fill, center=center, scale=spread)

    def points(self, x: Array) -> Array:
        """Rows `[n, f]` to points `[n, d]`."""
        filled = np.where(np.isnan(x), self.fill, x)
        parts: list[Array] = []
        if self.features.numeric:
            numbers = list(self.features.numeric)
            deviations = (filled[:, numbers] - self.center[numbers]) / self.scale[numbers]
            parts.append(np.clip(deviations, -FAR, FAR))
        for at in self.features.categorical:
            size = len(self.features.columns[at].categories)
            known = (filled[:, at] >= 0) & (filled[:, at] < size)
            place = np.where(known, filled[:, at], size).astype(np.int64)
            parts.append(np.eye(size + 1)[place] / np.sqrt(2))
        return np.concatenate(parts, axis=1)

    def arrays(self) -> dict[str, Array]:
        """What `restore` takes."""
        return {"fill": self.fill, "center": self.center, "scale": self.scale}

    @classmethod
    def restore(cls, arrays: dict[str, Array], features: Features) -> Encoding:
        """The encoding that had these arrays."""
        return cls(features, fill=arrays["fill"], center=arrays["center"], scale=arrays["scale"])


def deviations(points: Array) -> Array:
    """One deviation of each coordinate of points `[n, d]`: `[d]`, 1 of what is constant.

    Of values brought to the first and last percentile where they are beyond, so that a few far ones do not make all
    others alike; where hardly any differ, of values as they are.
    """
    low, high = np.quantile(points, [0.01, 0.99], axis=0, method="inverted_cdf")
    inner = np.clip(points, low, high).std(axis=0)
    plain = points.std(axis=0)
    # A deviation that is rounding only is none.
    tiny = 1e-12 * np.abs(points).max(axis=0)
    return np.where(inner > tiny, inner, np.where(plain > tiny, plain, 1.0))


def squared_distances(first: Array, second: Array) -> Array:
    """Between points `[n, d]` and `[m, d]`: `[n, m]`."""
    found: Array = first @ second.T
    found *= -2
    found += np.einsum("ij,ij->i", first, first)[:, None]
    found += np.einsum("ij,ij->i", second, second)[None, :]
    return np.maximum(found, 0.0, out=found)


def bandwidth(points: Array) -> float:
    """The median of the squared distances between different points `[n, d]`; their mean, then 1, where it is 0."""
    distances = squared_distances(points, points)[np.triu_indices(len(points), 1)]
    return float(np.median(distances)) or float(distances.mean()) or 1.0


def gaussian(first: Array, second: Array, width: float) -> Array:
    """exp(-|a - b|^2 / width) between points `[n, d]` and `[m, d]`: `[n, m]`."""
    found = squared_distances(first, second)
    found /= -width
    return np.exp(found, out=found)
