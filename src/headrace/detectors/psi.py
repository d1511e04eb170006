"""Population stability index, column by column: method `psi`.

The sum over cells of (q - p) ln(q / p), Kullback and Leibler's (1951) symmetric divergence J between the shares p of
the reference and q of a sample; in credit scoring (Siddiqi 2006, Credit Risk Scorecards, chapter 9) below .1 is
"stable", above .25 is "shifted". These two mean nothing for small samples: of 100 rows in ten cells that drift in
nothing the index has mean .09 and more. So by default a drift needs a p-value, drawn with the pooled counts fixed, and
an index of at least .1 (`min_effect`); `threshold=0.25` asks for the rule of thumb instead, without p-values.

Shares are (count + 1/2) / (rows + cells / 2), so that an empty cell is not infinitely far.
"""

from __future__ import annotations

from typing import Self

import numpy as np

from headrace.detectors.correction import Correction
from headrace.detectors.shares import OfShares
from headrace.features import Features
from headrace.payload import Array

MODERATE = 0.1
LARGE = 0.25


class Psi(OfShares):
    """Compares shares of cells: categories, or the reference's quantile bins."""

    METHOD = "psi"
    EFFECT = "psi"

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
        return cls.of(
            x, features, alpha=alpha, seed=seed, correction=correction, min_effect=min_effect, bins=bins,
            threshold=threshold,
        )  # fmt: skip

    @staticmethod
    def measure(reference: Array, sample: Array) -> Array:
        """See `OfShares.measure`."""
        return index(reference, sample)


def index(reference: Array, sample: Array) -> Array:
    """PSI of counts `[..., cells]`, `[...]`."""
    p, q = _shares(reference), _shares(sample)
    found: Array = ((q - p) * np.log(q / p)).sum(-1)
    return found


def _shares(counts: Array) -> Array:
    found: Array = (counts + 0.5) / (counts.sum(-1, keepdims=True) + counts.shape[-1] / 2)
    return found
