"""How large a difference is, on scales that do not grow with the number of rows: what stands beside every p-value.

With enough rows any difference is significant; only these say whether it matters. Called by the tests between samples.
"""

from __future__ import annotations

import numpy as np

from headrace.payload import Array


def cramers_v(reference: Array, sample: Array) -> float:
    """Cramer's V between counts `[cells]` of two samples, from 0 (equal shares) to 1 (no cell in common).

    Cramer (1946, Mathematical Methods of Statistics, section 21.9) divides chi-square by the number of rows; that
    depends on how unequal the samples' sizes are, so here both count equally: sqrt(1/2 sum (p - q)^2 / (p + q)), which
    is V for samples of one size.
    """
    p, q = reference / reference.sum(), sample / sample.sum()
    both = p + q
    held = both > 0
    return float(np.sqrt(0.5 * ((p - q)[held] ** 2 / both[held]).sum()))


def cohens_d(reference: Array, sample: Array) -> float:
    """The difference of means over the pooled standard deviation (Cohen 1988, section 2.2), of values `[n]` and `[m]`.

    Infinite where both are constant and differ.
    """
    rows = reference.size + sample.size - 2
    gap = float(sample.mean() - reference.mean())
    squares = ((reference - reference.mean()) ** 2).sum() + ((sample - sample.mean()) ** 2).sum()
    spread = float(np.sqrt(squares / rows)) if rows > 0 else 0.0
    if spread == 0:
        return 0.0 if gap == 0 else float(np.copysign(np.inf, gap))
    return gap / spread


def cohens_h(first: float, second: float) -> float:
    """The difference of two shares after 2 arcsin sqrt (Cohen 1988, section 6.2), from 0 to pi, without sign."""
    return float(abs(2 * np.arcsin(np.sqrt(second)) - 2 * np.arcsin(np.sqrt(first))))
