"""Pearson's chi-square test of homogeneity, column by column: method `chi-square`.

Pearson (1900), two samples by cells: categories, with one cell for all unseen ones, and of a number its deciles in the
reference. Where a cell expects fewer than five rows on either side (Cochran 1954, Biometrics 10) the limiting law is
not trusted and the p-value is drawn with the margins fixed (Hope 1968): so one row of an unseen category is judged by
how rare it is, not by the law of large numbers. No continuity correction; it makes two cells conservative.

Intervals between the reference's own quantiles hold equal shares of it by construction, which its counts would not by
chance: with ten rows in each, samples of ten times as many rows are called different twice as often as they may be. So
there are at most so many that each holds `HELD` rows.
"""

from __future__ import annotations

from typing import Self

import numpy as np
from scipy import special

from headrace.detectors import correction as corrections
from headrace.detectors import effect, permutation
from headrace.detectors.cells import Cells, both, dealt
from headrace.detectors.correction import Correction
from headrace.detectors.univariate import SAME, Compared, Level, OfCells, check_reference
from headrace.features import Features
from headrace.payload import Array

HELD = 40
"""Rows of the reference in an interval of a number, at least."""


class ChiSquare(OfCells):
    """Compares how often each category comes."""

    METHOD = "chi-square"
    EFFECT = "cramers_v"

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
    ) -> Self:
        """See `DriftTest.fit`; min_effect is of Cramer's V, from 0 to 1; bins are those of a number, fewer of few
        rows.
        """
        corrections.check_level(cls.METHOD, alpha=alpha, correction=correction, min_effect=min_effect)
        check_reference(cls.METHOD, x, features)
        bins = min(bins, max(2, len(x) // HELD))
        level = Level(alpha=alpha, correction=correction, min_effect=min_effect, seed=seed, rows=len(x))
        return cls(features, Cells.of(x, features, tuple(range(len(features))), bins=bins), level)

    def column(self, at: int, reference: Array, sample: Array) -> Compared:
        """See `OfCells.column`."""
        most = permutation.draws(self.level.alpha, self.tests)
        return compare(reference, sample, most=most, rng=self.rng(at))


def compare(reference: Array, sample: Array, *, most: int, rng: np.random.Generator) -> Compared:
    """Chi-square, its p-value and Cramer's V of counts `[cells]`; `most` draws where the limiting law is not
    trusted.
    """
    held = both(reference, sample)
    if held is None:
        return SAME
    reference, sample = held
    found = float(statistic(reference, sample))
    rarest = float((reference + sample).min()) * min(reference.sum(), sample.sum()) / (reference.sum() + sample.sum())
    if rarest >= 5:
        p_value = float(special.chdtrc(reference.size - 1, found))
    else:
        p_value = dealt(statistic, reference, sample, most=most, rng=rng)
    return Compared(found, p_value, effect.cramers_v(reference, sample))


def statistic(reference: Array, sample: Array) -> Array:
    """Chi-square of counts `[..., cells]`, each cell held by a row of either, `[...]`."""
    rows = sample.sum(-1, keepdims=True)
    pooled = reference + sample
    share = rows / pooled.sum(-1, keepdims=True)
    expected = pooled * share
    squares = (sample - expected) ** 2 * (1 / expected + 1 / (pooled - expected))
    found: Array = squares.sum(-1)
    return found
