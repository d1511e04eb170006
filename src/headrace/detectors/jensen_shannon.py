"""Jensen and Shannon's distance, column by column: method `jensen-shannon`.

The square root of the mean divergence, in bits, of both samples' shares from their mean (Lin 1991, IEEE Trans. Inf.
Theory 37; Endres and Schindelin 2003 for the root being a metric), from 0 to 1, as
`scipy.spatial.distance.jensenshannon(base=2)`. Cells are categories, or the reference's quantile bins. The distance of
samples that drift in nothing is not 0, so its p-value is drawn with the pooled counts fixed; `threshold` asks for a
fixed bound instead, without p-values.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from scipy import special

from headrace.detectors import correction as corrections
from headrace.detectors import permutation
from headrace.detectors.base import Drift
from headrace.detectors.cells import Cells, both, dealt
from headrace.detectors.correction import Correction
from headrace.detectors.univariate import SAME, Compared, Level, OfCells, check_reference
from headrace.features import Features
from headrace.payload import Array


class JensenShannon(OfCells):
    """Compares shares of cells: categories, or the reference's quantile bins."""

    METHOD = "jensen-shannon"
    EFFECT = "jensen_shannon_distance"

    def __init__(self, features: Features, cells: Cells, level: Level, *, threshold: float | None = None) -> None:
        super().__init__(features, cells, level)
        self.threshold = threshold
        self.compares_missing = threshold is None

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
        corrections.check_level(cls.METHOD, alpha=alpha, correction=correction, min_effect=min_effect)
        check_reference(cls.METHOD, x, features)
        level = Level(alpha=alpha, correction=correction, min_effect=min_effect, seed=seed, rows=len(x))
        cells = Cells.of(x, features, tuple(range(len(features))), bins=bins)
        return cls(features, cells, level, threshold=threshold)

    def test(self, x: Array) -> Drift:
        """See `DriftTest.test`."""
        found = super().test(x)
        return found if self.threshold is None else corrections.by_threshold(found, self.threshold)

    def column(self, at: int, reference: Array, sample: Array) -> Compared:
        """See `OfCells.column`."""
        held = both(reference, sample)
        if held is None:
            return SAME
        reference, sample = held
        found = float(distance(reference, sample))
        if self.threshold is not None:
            return Compared(found, 1.0, found)
        most = permutation.draws(self.level.alpha, self.tests)
        return Compared(found, dealt(distance, reference, sample, most=most, rng=self.rng(at)), found)

    def parameters(self) -> dict[str, Any]:
        """See `OfCells.parameters`."""
        return {"threshold": self.threshold}


def distance(reference: Array, sample: Array) -> Array:
    """The distance between counts `[..., cells]`, `[...]`."""
    p = reference / reference.sum(-1, keepdims=True)
    q = sample / sample.sum(-1, keepdims=True)
    mean = (p + q) / 2
    bits = (special.rel_entr(p, mean) + special.rel_entr(q, mean)).sum(-1) / (2 * np.log(2))
    found: Array = np.sqrt(np.clip(bits, 0.0, 1.0))
    return found
