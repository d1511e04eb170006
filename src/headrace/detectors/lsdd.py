"""Least-squares density difference between whole rows: method `lsdd`.

Sugiyama, Kanamori, Suzuki, du Plessis, Liu and Takeuchi (2013, Neural Comput. 25, "Density-difference estimation"): p -
q is fitted by kernels at some of the reference's rows, f = sum theta_l exp(-|x - c_l|^2 / 2 s^2), theta = (H + lambda
I)^-1 h, and the distance is 2 h theta - theta H theta, of which the regularisation takes less than of either estimate
alone (h theta, theta H theta). After Bu, Alippi and Zhao (2018, IEEE Trans. Neural Netw. Learn. Syst. 29, "A pdf-free
change detection test based on density difference estimation"): the rows that are centres are set apart from those
compared, and lambda is the largest of 4^-i at which the two estimates differ by at most a fifth of the first, here on
average over the permutations.

2 s^2 is the median squared distance in the reference. H is exp(-|c - c'|^2 / 4 s^2), without the factor (pi s^2)^(d/2)
that the integral of two kernels has, and so the distance is the integral of (p - q)^2 times that factor: it neither
vanishes nor explodes with the number of columns. Of normal laws in one and two columns it is the closed form; in more,
where few centres cannot follow the densities, it is that of the difference's projection on the kernels, which is less,
and with few centres it depends on which rows they are: on wine with four, alibi-detect's 0.0378 lies among 0.029 +-
0.013.
The p-value is by permutation, (1 + k) / (1 + B).
"""

from __future__ import annotations

from typing import Self

import numpy as np

from headrace.detectors import permutation
from headrace.detectors.encoding import bandwidth, gaussian
from headrace.detectors.whole import Found, Whole
from headrace.features import Features
from headrace.payload import Array

LAMBDAS = 4.0 ** -np.arange(10)
RELATIVE = 0.2
"""By how much the two estimates may differ."""


class Lsdd(Whole):
    """Compares rows by the difference of their densities."""

    METHOD = "lsdd"
    EFFECT = "lsdd"

    @classmethod
    def fit(
        cls,
        x: Array,
        features: Features,
        *,
        alpha: float = 0.05,
        seed: int = 0,
        min_effect: float = 0.001,
        permutations: int = 199,
        max_rows: int = 1000,
        centers: int | None = None,
        scale: bool = True,
    ) -> Self:
        """See `DriftTest.fit`.

        Args:
            x: `[n, f]` FP64.
            features: Its columns.
            alpha: The level.
            seed: Of the permutations, and of which rows are taken and which of them are centres.
            min_effect: Of the distance, in the unit named above.
            permutations: B; the least p-value is 1 / (1 + B).
            max_rows: Of each sample; more are sampled.
            centers: Rows at which kernels stand; None: a tenth of the reference, at most 50.
            scale: Measure numbers in deviations of both samples; False: they are of one unit already.
        """
        held = min(len(x), max_rows)
        centers = max(1, min(held // 10, 50)) if centers is None else max(1, min(centers, held // 2))
        return cls.keep(
            x,
            features,
            alpha=alpha,
            seed=seed,
            min_effect=min_effect,
            max_rows=max_rows,
            scale=scale,
            permutations=permutations,
            centers=centers,
        )

    def compare(self, reference: Array, sample: Array, rng: np.random.Generator) -> Found:
        """See `Whole.compare`."""
        width = bandwidth(reference)
        order = np.random.default_rng(self.level.seed).permutation(len(reference))
        centers = reference[order[: self.more["centers"]]]
        others = reference[np.sort(order[self.more["centers"] :])]
        n, m = len(others), len(sample)
        kernel = gaussian(np.concatenate([others, sample]), centers, width)
        labels = permutation.deals(rng, first=n, second=m, count=self.more["permutations"])
        labels = np.concatenate([np.repeat([0.0, 1.0], [n, m])[:, None], labels], axis=1)
        of_second = kernel.T @ labels
        h = (kernel.sum(0)[:, None] - of_second) / n - of_second / m
        distance, *null = distances(gaussian(centers, centers, 2 * width), h).tolist()
        found = np.array(null)
        far = np.count_nonzero(found >= distance - 1e-15)
        limit = permutation.threshold(found, self.level.alpha)
        return Found(
            statistic=distance,
            p_value=(1 + far) / (1 + found.size),
            effect=max(distance, 0.0),
            distance_threshold=limit if np.isfinite(limit) else None,
        )


def distances(h_matrix: Array, h: Array) -> Array:
    """LSDD of mean differences `[c, b]` at centres whose kernel matrix is `[c, c]`: `[b]`."""
    values, vectors = np.linalg.eigh(h_matrix)
    values = np.maximum(values, 0.0)
    squares = (vectors.T @ h) ** 2
    lasts = squares.T @ (1 / (values[:, None] + LAMBDAS))  # [b, lambdas]: h theta
    quadratic = squares.T @ (values[:, None] / (values[:, None] + LAMBDAS) ** 2)  # theta H theta
    differ = 1 - np.divide(quadratic, lasts, out=np.ones_like(lasts), where=lasts > 0)
    fits = np.flatnonzero(differ.mean(0) <= RELATIVE)
    chosen = int(fits[0]) if fits.size else len(LAMBDAS) - 1
    found: Array = 2 * lasts[:, chosen] - quadratic[:, chosen]
    return found
