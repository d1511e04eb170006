"""Mahalanobis distance: how far a row lies from the reference's mean, in the reference's own covariance.

Mahalanobis, "On the generalised distance in statistics", 1936: D^2 = (z - m)' S^-1 (z - m), here the score. Which value
of the row is odd follows Garthwaite and Koch, "Evaluating the contributions of individual variables to a quadratic
form", 2016 (the corr-max transformation): w = S^(-1/2) (z - m) with the symmetric root, of standardised columns; the
squares of w are not negative and sum to D^2.

S is Ledoit and Wolf's (2004), the minimum covariance determinant of Rousseeuw and van Driessen (1999), which a few odd
rows in the reference do not move (of numbers; categories stand beside them on their own), or the plain one. Directions
in which the reference does not vary have variance `FLOOR`: collinear columns are no error, and a row that leaves their
plane is odd.
"""

from __future__ import annotations

import dataclasses
import warnings
from typing import ClassVar, Final, Literal, Self

import numpy as np

from headrace.detectors.base import Data, Outlier, Scores, State
from headrace.detectors.filled import Parts, kept, reference
from headrace.detectors.space import Encoding, Scale
from headrace.errors import InvalidRequest
from headrace.features import Features
from headrace.payload import Array

FLOOR: Final = 1e-6
"""The least variance of a direction, on the scale where a column has variance 1."""

Estimator = Literal["ledoit-wolf", "robust", "empirical"]


@dataclasses.dataclass(frozen=True)
class Mahalanobis(Outlier):
    """A fitted distance. Of normal rows of d columns the score is about chi-square with d degrees of freedom."""

    METHOD: ClassVar[str] = "mahalanobis"
    DATA: ClassVar[tuple[Data, ...]] = ("tabular", "image")

    encoding: Encoding
    mean: Array
    """`[d]` FP64, of points."""
    root: Array
    """`[d, d]` FP64: the symmetric root of the inverse covariance."""

    @classmethod
    def fit(
        cls,
        x: Array,
        features: Features,
        *,
        seed: int = 0,
        estimator: Estimator = "ledoit-wolf",
        components: int | None = None,
        scale: Scale = "auto",
    ) -> Self:
        """Estimate mean and covariance.

        Args:
            x: `[n, f]` FP64, the reference.
            features: Its columns.
            seed: Of the robust estimator's subsets.
            estimator: Of the covariance.
            components: Measure only in so many principal directions, the ones of largest variance; None: in all.
            scale: Of numbers, as `space.Scale`.

        Raises:
            InvalidRequest: fewer than 2 rows; or `robust` with too few rows for the columns.
        """
        x = reference(x, features, method=cls.METHOD)
        encoding = Encoding.fit(x, features, scale=scale)
        points = encoding(x, method=cls.METHOD)
        if estimator == "empirical":
            mean, covariance = points.mean(0), np.atleast_2d(np.cov(points.T, bias=True))
        elif estimator == "ledoit-wolf":
            from sklearn.covariance import LedoitWolf

            # What never varies must not be given a share of the others' variance by the shrinkage.
            varies = np.ptp(points, axis=0) > 0
            mean, covariance = points.mean(0), np.zeros((points.shape[1],) * 2)
            if varies.any():
                covariance[np.ix_(varies, varies)] = LedoitWolf().fit(points[:, varies]).covariance_
        elif estimator == "robust":
            # Half of the rows may agree in a category, which has no determinant: categories keep plain moments.
            mean, covariance = points.mean(0), np.atleast_2d(np.cov(points.T, bias=True))
            numbers = encoding.starts()[list(features.numeric)]
            others = np.setdiff1d(np.arange(points.shape[1]), numbers)
            covariance[np.ix_(numbers, others)] = covariance[np.ix_(others, numbers)] = 0.0
            mean[numbers], covariance[np.ix_(numbers, numbers)] = _robust(points[:, numbers], seed=seed)
        else:
            raise InvalidRequest(f"estimator is one of ledoit-wolf, robust, empirical; got '{estimator}'")
        return cls(encoding, mean, inverse_root(covariance, components=components))

    def score(self, x: Array) -> Scores:
        """Squared distances; of a feature, its share of it: they sum to the row's."""
        shares = ((self.encoding(x, method=self.METHOD) - self.mean) @ self.root) ** 2
        return Scores(instance=shares.sum(1), feature=self.encoding.per_feature(shares))

    def state(self) -> State:
        """Mean, root and encoding."""
        arrays = {**self.encoding.arrays(), "mean": self.mean, "root": self.root}
        return kept(self.METHOD, len(self.encoding.features), arrays)

    @classmethod
    def restore(cls, state: State, features: Features) -> Self:
        """As `Detector.restore`."""
        parts = Parts(state, cls.METHOD, features)
        return cls(Encoding.restore(parts, features), parts.array("mean"), parts.array("root"))


def inverse_root(covariance: Array, *, components: int | None = None) -> Array:
    """The symmetric root of the inverse, in the largest principal directions; variances are `FLOOR` or more."""
    values, vectors = np.linalg.eigh(covariance)
    if components is not None:
        if not 1 <= components <= values.size:
            raise InvalidRequest(
                f"components is from 1 to {values.size}, the number of encoded columns; got {components}"
            )
        values, vectors = values[-components:], vectors[:, -components:]
    root: Array = (vectors / np.sqrt(np.maximum(values, FLOOR))) @ vectors.T
    return root


def _robust(points: Array, *, seed: int) -> tuple[Array, Array]:
    """Mean and covariance of the half of the points whose covariance has the least determinant, reweighted.

    It is looked for in the directions that vary at all: the determinant of the others is 0.
    """
    from sklearn.covariance import MinCovDet

    mean = points.mean(0)
    if not points.shape[1]:
        return mean, np.zeros((0, 0))
    values, vectors = np.linalg.eigh(np.atleast_2d(np.cov(points.T, bias=True)))
    plane = vectors[:, values > FLOOR]
    if not plane.shape[1]:
        return mean, np.zeros((points.shape[1],) * 2)
    rows, columns = points.shape[0], plane.shape[1]
    advice = "use estimator 'ledoit-wolf' or give more rows"
    if rows < 2 * columns:
        raise InvalidRequest(
            f"estimator 'robust' needs a reference of {2 * columns} rows or more for {columns} directions, "
            f"got {rows}; {advice}"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # scikit-learn warns where half of the rows lie in a plane
            found = MinCovDet(random_state=seed).fit((points - mean) @ plane)
    except (UserWarning, RuntimeWarning, ValueError) as exc:
        raise InvalidRequest(
            f"estimator 'robust' found no half of the reference with a covariance: {exc}; {advice}"
        ) from exc
    return mean + plane @ found.location_, plane @ found.covariance_ @ plane.T
