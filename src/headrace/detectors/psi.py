"""Population stability index, column by column: method `psi`.

The sum over cells of (q - p) ln(q / p), Kullback and Leibler's (1951) symmetric divergence J between the shares p of
the reference and q of a sample; in credit scoring (Siddiqi 2006, Credit Risk Scorecards, chapter 9) below .1 is
"stable", above .25 is "shifted". These two mean nothing for small samples: of 100 rows in ten cells that drift in
nothing the index has mean .09 and more. So by default a drift needs a p-value, drawn with the pooled counts fixed, and
an index of at least .1 (`min_effect`); `threshold=0.25` asks for the rule of thumb instead, without p-values.

Shares are (count + 1/2) / (rows + cells / 2), so that an empty cell is not infinitely far.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np

from headrace.detectors import correction as corrections
from headrace.detectors import permutation
from headrace.detectors.base import Drift
from headrace.detectors.cells import Cells, both, dealt
from headrace.detectors.correction import Correction
from headrace.detectors.univariate import SAME, Compared, Level, OfCells, check_reference
from headrace.features import Features
from headrace.payload import Array

MODERATE = 0.1
LARGE = 0.25


class Psi(OfCells):
    """Compares shares of cells: categories, or the reference's quantile bins."""

    METHOD = "psi"
    EFFECT = "psi"

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
        min_effect: float = MODERATE,
        bins: int = 10,
        threshold: float | None = None,
    ) -> Self:
        """See `DriftTest.fit`; an index above `threshold`, where one is given, is a drift whatever the number of
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
        found = float(index(reference, sample))
        if self.threshold is not None:
            return Compared(found, 1.0, found)
        most = permutation.draws(self.level.alpha, self.tests)
        return Compared(found, dealt(index, reference, sample, most=most, rng=self.rng(at)), found)

    def parameters(self) -> dict[str, Any]:
        """See `OfCells.parameters`."""
        return {"threshold": self.threshold}


def index(reference: Array, sample: Array) -> Array:
    """PSI of counts `[..., cells]`, `[...]`."""
    p, q = _shares(reference), _shares(sample)
    found: Array = ((q - p) * np.log(q / p)).sum(-1)
    return found


def _shares(counts: Array) -> Array:
    found: Array = (counts + 0.5) / (counts.sum(-1, keepdims=True) + counts.shape[-1] / 2)
    return found
