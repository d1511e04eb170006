"""Whether a column is missing more or less often than in the reference: beside every test of one column at a time.

What is missing is left out of the test of its column, so that a source that stops sending values, or sends a default in
their place, is seen by nothing else. Two samples by two cells, missing and there: Pearson's chi-square where five rows
are expected in every cell (Cochran 1954, Biometrics 10), else Fisher's exact test (1935).
"""

from __future__ import annotations

import numpy as np
from scipy import special, stats

from headrace.detectors import effect
from headrace.payload import Array

LEAST = 5.0
"""Rows that a cell expects, for the limiting law to be trusted."""


def differing(reference: Array, sample: Array) -> Array:
    """Columns in which a value is missing on either side: positions, ascending; in others nothing can differ.

    That is known from both together, so that which columns are tested says nothing of which sample is which.

    Args:
        reference: `[k, 2]` FP64, how many rows are missing and there, of each column.
        sample: The same of a sample.
    """
    return np.flatnonzero((reference[:, 0] + sample[:, 0] > 0) & (reference[:, 1] + sample[:, 1] > 0))


def compare(reference: Array, sample: Array) -> tuple[float, float, float]:
    """The difference of shares without its sign, its p-value and Cramer's V of counts `[2]`, missing and there."""
    rows = np.array([reference.sum(), sample.sum()])
    gap = abs(float(sample[0] / rows[1] - reference[0] / rows[0]))
    expected = np.outer(rows, reference + sample) / rows.sum()
    if expected.min() >= LEAST:
        squares = (np.stack([reference, sample]) - expected) ** 2 / expected
        p_value = float(special.chdtrc(1, squares.sum()))
    else:
        table = np.array([reference, sample], dtype=np.int64)
        p_value = float(stats.fisher_exact(table).pvalue)
    return gap, min(p_value, 1.0), effect.cramers_v(reference, sample)
