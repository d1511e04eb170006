"""Fisher's exact test, column by column: method `fisher`, for yes-or-no columns and small samples.

Fisher (1935), two-sided as `scipy.stats.fisher_exact`: the chance, with the margins as they are, of a table no more
likely than the one seen. More than two cells (an unseen category) by Freeman and Halton (1951, Biometrika 38), drawn.
The statistic is minus the logarithm of the table's probability, by which the test orders tables.
"""

from __future__ import annotations

from typing import Self

import numpy as np
from scipy import special, stats

from headrace.detectors import correction as corrections
from headrace.detectors import effect, permutation
from headrace.detectors.cells import Cells, both, dealt
from headrace.detectors.correction import Correction
from headrace.detectors.univariate import SAME, Compared, Level, OfCells, check_columns, check_reference
from headrace.features import Features
from headrace.payload import Array


class Fisher(OfCells):
    """Compares how often each category comes, exactly."""

    METHOD = "fisher"
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
    ) -> Self:
        """See `DriftTest.fit`; it tests categories, and numbers with at most two values; min_effect is of Cramer's
        V.
        """
        corrections.check_level(cls.METHOD, alpha=alpha, correction=correction, min_effect=min_effect)
        check_reference(cls.METHOD, x, features)
        binary = (
            at
            for at, each in enumerate(features.columns)
            if each.is_category or np.unique(x[~np.isnan(x[:, at]), at]).size <= 2
        )
        columns = check_columns(cls.METHOD, binary, "categories and columns of two values", "ks, cvm or tabular")
        level = Level(alpha=alpha, correction=correction, min_effect=min_effect, seed=seed, rows=len(x))
        return cls(features, Cells.of(x, features, columns, bins=2), level)

    def column(self, at: int, reference: Array, sample: Array) -> Compared:
        """See `OfCells.column`."""
        held = both(reference, sample)
        if held is None:
            return SAME
        reference, sample = held
        if reference.size == 2:
            table = np.array([reference, sample], dtype=np.int64)
            p_value = float(stats.fisher_exact(table).pvalue)
        else:
            most = permutation.draws(self.level.alpha, self.tests)
            p_value = dealt(surprise, reference, sample, most=most, rng=self.rng(at))
        return Compared(float(surprise(reference, sample)), p_value, effect.cramers_v(reference, sample))


def surprise(reference: Array, sample: Array) -> Array:
    """Minus the logarithm of the multivariate hypergeometric probability of counts `[..., cells]`, `[...]`."""
    ways = _choose(reference + sample, sample).sum(-1)
    found: Array = _choose((reference + sample).sum(-1), sample.sum(-1)) - ways
    return found


def _choose(rows: Array, chosen: Array) -> Array:
    found: Array = special.gammaln(rows + 1) - special.gammaln(chosen + 1) - special.gammaln(rows - chosen + 1)
    return found
