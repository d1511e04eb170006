"""Jensen and Shannon's distance, column by column: method `jensen-shannon`.

The square root of the mean divergence, in bits, of both samples' shares from their mean (Lin 1991, IEEE Trans. Inf.
Theory 37; Endres and Schindelin 2003 for the root being a metric), from 0 to 1, as
`scipy.spatial.distance.jensenshannon(base=2)`. Cells are categories, or the reference's quantile bins. The distance of
samples that drift in nothing is not 0, so its p-value is drawn with the pooled counts fixed; `threshold` asks for a
fixed bound instead, without p-values.
"""

from __future__ import annotations

from typing import Self

import numpy as np
from scipy import special

from headrace.detectors.correction import Correction
from headrace.detectors.shares import OfShares
from headrace.features import Features
from headrace.payload import Array


class JensenShannon(OfShares):
    """Compares shares of cells: categories, or the reference's quantile bins."""

    METHOD = "jensen-shannon"
    EFFECT = "jensen_shannon_distance"

    @classmethod
    def fit(
        cls,
        x: Array,
        features: Features,
        *,
        alpha: float = 0.05,
        seed: int = 0,
        correction: Correction = "bonferroni",
        min_effect: float = 0.05,
        bins: int = 10,
        threshold: float | None = None,
    ) -> Self:
        """See `DriftTest.fit`; a distance above `threshold`, where one is given, is a drift whatever the number of
        rows.
        """
        return cls.of(
            x, features, alpha=alpha, seed=seed, correction=correction, min_effect=min_effect, bins=bins,
            threshold=threshold,
        )  # fmt: skip

    @staticmethod
    def measure(reference: Array, sample: Array) -> Array:
        """See `OfShares.measure`."""
        return distance(reference, sample)


def distance(reference: Array, sample: Array) -> Array:
    """The distance between counts `[..., cells]`, `[...]`."""
    p = reference / reference.sum(-1, keepdims=True)
    q = sample / sample.sum(-1, keepdims=True)
    mean = (p + q) / 2
    bits = (special.rel_entr(p, mean) + special.rel_entr(q, mean)).sum(-1) / (2 * np.log(2))
    found: Array = np.sqrt(np.clip(bits, 0.0, 1.0))
    return found
