"""Reconstruction from principal components: what of a row lies outside the plane in which the reference varies.

Jackson and Mudholkar, "Control procedures for residuals associated with principal component analysis", 1979: the score
is their Q, the squared length of the residual. A row may also be far away within the plane; with `within`, which is on
for tables, the score is the combined index of Yue and Qin, "Reconstruction-based fault identification using a combined
index", 2001: Q and Hotelling's T^2 of the components, each as a share of its 95 % quantile, here of the reference's own
rows and not of a normal law's.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Self

import numpy as np

from headrace.detectors.base import Data, Outlier, Scores, State
from headrace.detectors.filled import Parts, kept, reference
from headrace.detectors.mahalanobis import FLOOR
from headrace.detectors.space import Encoding, Scale
from headrace.errors import InvalidRequest
from headrace.features import Features
from headrace.payload import Array


@dataclasses.dataclass(frozen=True)
class Pca(Outlier):
    """A fitted plane."""

    METHOD: ClassVar[str] = "pca"
    DATA: ClassVar[tuple[Data, ...]] = ("tabular", "image", "series")

    encoding: Encoding
    mean: Array
    """`[d]` FP64, of points."""
    axes: Array
    """`[k, d]` FP64: orthonormal rows, of falling variance."""
    variance: Array
    """`[k]` FP64, along them."""
    within: bool
    outside_unit: float
    """What Q is a share of."""
    within_unit: float
    """What T^2 is a share of; 0: it does not count."""

    @classmethod
    def fit(
        cls,
        x: Array,
        features: Features,
        *,
        seed: int = 0,  # noqa: ARG003 - nothing is random
        components: float = 0.9,
        within: bool | None = None,
        scale: Scale = "auto",
    ) -> Self:
        """Find the plane.

        Args:
            x: `[n, f]` FP64, the reference.
            features: Its columns.
            seed: Nothing is random.
            components: So many, where it is 1 or more; below, as many as hold that share of the variance.
            within: Whether rows that are far away in the plane are odd, too; None: unless they are images.
            scale: Of numbers, as `space.Scale`.

        Raises:
            InvalidRequest: fewer than 2 rows, or a number of components that cannot be.
        """
        if not components > 0:
            raise InvalidRequest(f"components is a share of the variance below 1, or a number from 1; got {components}")
        within = len(features.shape) < 2 if within is None else within
        x = reference(x, features, method=cls.METHOD)
        encoding = Encoding.fit(x, features, scale=scale)
        points = encoding(x, method=cls.METHOD)
        mean = points.mean(0)
        values, vectors = np.linalg.eigh(np.atleast_2d(np.cov(points.T, bias=True)))
        values, vectors = np.maximum(values[::-1], 0.0), vectors[:, ::-1]
        if components >= 1:
            many = int(components)
            if many >= values.size > 1:
                raise InvalidRequest(
                    f"{many} components of {values.size} encoded columns leave nothing to reconstruct: give fewer"
                )
        else:
            many = int(np.searchsorted(np.cumsum(values), components * values.sum() * (1 - 1e-12))) + 1
        many = min(many, max(values.size - 1, 0))  # one direction or more must be left to see a residual in
        axes, variance = np.ascontiguousarray(vectors[:, :many].T), np.maximum(values[:many], FLOOR)
        plain = cls(encoding, mean, axes, variance, within, 1.0, 0.0)
        if not within:
            return plain
        outside, inside = plain.outside(points)[0].sum(1), plain.inside(points)
        return dataclasses.replace(plain, outside_unit=_unit(outside), within_unit=_unit(inside))

    def outside(self, points: Array) -> tuple[Array, Array]:
        """Squares of the residual `[n, d]`, and the points of the plane that are nearest `[n, d]`."""
        near = self.mean + ((points - self.mean) @ self.axes.T) @ self.axes
        return (points - near) ** 2, near

    def inside(self, points: Array) -> Array:
        """Hotelling's T^2 in the plane: `[n]`."""
        squared: Array = (((points - self.mean) @ self.axes.T) ** 2 / self.variance).sum(1)
        return squared

    def score(self, x: Array) -> Scores:
        """Squared residuals; of a feature, its share of it. T^2, where it counts, is of the row alone."""
        points = self.encoding(x, method=self.METHOD)
        shares = self.outside(points)[0]
        if self.within:
            shares /= self.outside_unit
        instance = shares.sum(1)
        if self.within:
            instance += self.inside(points) / self.within_unit
        return Scores(instance=instance, feature=self.encoding.per_feature(shares))

    def reconstruct(self, x: Array) -> Array:
        """The rows of the plane that are nearest: `[n, f]`; a category is again one."""
        return self.encoding.decode(self.outside(self.encoding(x, method=self.METHOD))[1])

    def state(self) -> State:
        """The plane."""
        arrays = {**self.encoding.arrays(), "mean": self.mean, "axes": self.axes, "variance": self.variance}
        return kept(
            self.METHOD,
            len(self.encoding.features),
            arrays,
            within=self.within,
            outside_unit=self.outside_unit,
            within_unit=self.within_unit,
        )

    @classmethod
    def restore(cls, state: State, features: Features) -> Self:
        """As `Detector.restore`."""
        parts = Parts(state, cls.METHOD, features)
        return cls(
            encoding=Encoding.restore(parts, features),
            mean=parts.array("mean"),
            axes=parts.array("axes"),
            variance=parts.array("variance"),
            within=bool(parts.value("within")),
            outside_unit=float(parts.value("outside_unit")),
            within_unit=float(parts.value("within_unit")),
        )


def _unit(squared: Array) -> float:
    """The 95 % quantile, or of what is always 0, 1."""
    quantile = float(np.quantile(squared, 0.95))
    return quantile if quantile > FLOOR else 1.0
