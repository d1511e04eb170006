"""P-values by drawing what could as well have come: of tests between samples whose null law has no closed form.

Under "both samples follow one law" every way of dealing the pooled rows to the two is as likely as that seen. So the
p-value is exact at any size of the samples, up to the drawing.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from headrace.payload import Array

ENOUGH = 20
"""Draws at least as far as the one seen after which no further ones are made."""


def p_value(draw: Callable[[int], Array], observed: float, *, most: int) -> float:
    """Draw one after the other until it is clear that the one seen is nothing special.

    Besag and Clifford (1991, Biometrika 78, "Sequential Monte Carlo p-values"): h / l when the h-th draw that is at
    least as far is the l-th of all, else (1 + k) / (1 + most). A column that did not drift costs tens of draws, not
    thousands, and P(p <= a) <= a holds all the same.

    Args:
        draw: Statistics `[b]` of b deals.
        observed: That of the samples as they came.
        most: Draws at most; 1 / (1 + most) is the least p-value.
    """
    floor = observed - 1e-12 * max(1.0, abs(observed))
    seen = far = 0
    size = 100
    while seen < most:
        hits = np.flatnonzero(draw(min(size, most - seen)) >= floor)
        if far + hits.size >= ENOUGH:
            return ENOUGH / (seen + int(hits[ENOUGH - far - 1]) + 1)
        far += hits.size
        seen += min(size, most - seen)
        size = min(2 * size, 2000)
    return (1 + far) / (1 + seen)


def draws(alpha: float, tests: int) -> int:
    """How many draws tell a p-value at the level alpha / tests from larger ones: four times the fewest that can."""
    return max(999, math.ceil(4 * tests / alpha) - 1)


def deals(rng: np.random.Generator, *, first: int, second: int, count: int) -> Array:
    """Ways of dealing `first + second` rows: `[first + second, count]` of FP64, 1 where a row goes to the second."""
    labels = np.zeros((count, first + second))
    labels[:, first:] = 1.0
    return np.ascontiguousarray(rng.permuted(labels, axis=1, out=labels).T)


def threshold(null: Array, alpha: float) -> float:
    """The least statistic whose p-value (1 + k) / (1 + B) is at or below alpha, among the B of `null`; infinity:
    none.
    """
    most = math.floor(alpha * (null.size + 1) + 1e-9) - 1  # draws that may be as far
    if most < 0:
        return math.inf
    return float(np.nextafter(np.sort(null)[::-1][most], math.inf)) if most < null.size else -math.inf
