"""Cramer and von Mises' two-sample test, column by column: method `cvm`.

Anderson (1962, Ann. Math. Statist. 33, "On the distribution of the two-sample Cramer-von Mises criterion"): statistic
by equations 9 and 10, its mean and variance by 13 and 14, and the limiting law by Csorgo and Faraway (1996, J. R.
Statist. Soc. B 58, equation 1.2), as `scipy.stats.cramervonmises_2samp(method="asymptotic")`.

Where values repeat, scipy's ranks add to the statistic what the ties make, which is drift where there is none when the
samples' sizes differ. Where that is more than `SLIGHT` the statistic is here Anderson's definition, n m / N^2 times the
sum over all N rows of the squared gap between the distribution functions, and its p-value is drawn with the pooled
counts fixed, over at most `GRID` of the pooled values.
"""

from __future__ import annotations

from typing import Self

import numpy as np
from scipy import special

from headrace.detectors import correction as corrections
from headrace.detectors import ks, permutation
from headrace.detectors.cells import dealt
from headrace.detectors.correction import Correction
from headrace.detectors.univariate import SAME, Compared, Level, OfValues, check_columns, check_reference, ordered
from headrace.features import Features
from headrace.payload import Array

GRID = 50
"""Of the pooled values, how many the gaps are looked at for the p-value where values repeat."""

SLIGHT = 0.02
"""What ties may add to the statistic, whose mean is 1/6 where nothing differs, before they matter: so much makes a
level of .05 one of less than .06 (simulated)."""

_NODES, _NODE_WEIGHTS = np.polynomial.hermite.hermgauss(40)
_TERMS = np.arange(20)
_ODD = 4.0 * _TERMS + 1
# (-1)^k binom(-1/2, k) = (2k)! / (4^k k!^2)
_WEIGHTS = np.exp(special.gammaln(_TERMS + 0.5) - special.gammaln(_TERMS + 1)) / np.pi**1.5 * np.sqrt(_ODD)


class Cvm(OfValues):
    """Compares numeric columns by the mean squared gap between their distribution functions."""

    METHOD = "cvm"
    EFFECT = "ks_distance"

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
        """See `DriftTest.fit`; min_effect is of the KS distance, from 0 to 1."""
        corrections.check_level(cls.METHOD, alpha=alpha, correction=correction, min_effect=min_effect)
        check_reference(cls.METHOD, x, features)
        columns = check_columns(cls.METHOD, features.numeric, "numbers", "chi-square or tabular")
        level = Level(alpha=alpha, correction=correction, min_effect=min_effect, seed=seed, rows=len(x))
        return cls(features, columns, level, [ordered(x[:, at]) for at in columns])

    def column(self, at: int, reference: Array, sample: Array) -> Compared:
        """See `OfValues.column`."""
        if repeated(reference, sample) <= SLIGHT:
            return compare(reference, sample)
        values, counts = np.unique(np.concatenate([reference, sample]), return_counts=True)
        return compare_tied(
            reference, sample, values, counts, most=permutation.draws(self.level.alpha, self.tests), rng=self.rng(at)
        )


def compare(reference: Array, sample: Array) -> Compared:
    """T, its p-value and the KS distance of sorted values `[n]` and `[m]`, few of which repeat."""
    n, m = reference.size, sample.size
    product, rows = float(n * m), n + m
    # The rank among all less the rank among its own is the number of the others below it; an equal one is half below.
    in_reference = _below(sample, reference)
    in_sample = _below(reference, sample)
    u = n * float(in_reference @ in_reference) + m * float(in_sample @ in_sample)
    statistic = u / (product * rows) - (4 * product - 1) / (6 * rows) + repeated(reference, sample)
    mean = (1 + 1 / rows) / 6
    variance = (rows + 1) * (4 * product * rows - 3 * (n**2 + m**2) - 2 * product) / (45 * rows**2 * 4 * product)
    p_value = 1.0 if variance <= 0 else tail(1 / 6 + (statistic - mean) / np.sqrt(45 * variance))
    return Compared(statistic, p_value, ks.distance(reference, sample))


def compare_tied(
    reference: Array, sample: Array, values: Array, counts: Array, *, most: int, rng: np.random.Generator
) -> Compared:
    """The same of values that repeat.

    Args:
        reference: `[n]`, sorted.
        sample: `[m]`, sorted.
        values: `[k]`, the different ones of both, ascending.
        counts: `[k]`, how often each comes in both.
        most: Draws at most.
        rng: Of the draws.
    """
    if values.size == 1:
        return SAME
    rows = float(counts.sum())
    gaps = np.searchsorted(sample, values, "right") / sample.size
    gaps -= np.searchsorted(reference, values, "right") / reference.size
    statistic = reference.size * sample.size / rows**2 * float(counts @ gaps**2)
    if values.size > GRID:
        at = np.searchsorted(np.cumsum(counts), rows * np.arange(1, GRID + 1) / GRID)
        values = values[np.unique(np.minimum(at, values.size - 1))]
    p_value = dealt(_squares, _held(reference, values), _held(sample, values), most=most, rng=rng)
    return Compared(statistic, p_value, float(np.abs(gaps).max()))


def repeated(reference: Array, sample: Array) -> float:
    """What ties within a sample add to scipy's statistic: there the rank of all is a mean, and that of its own is
    not.
    """
    n, m = reference.size, sample.size
    return (n * _cubes(reference) + m * _cubes(sample)) / (12.0 * n * m * (n + m))


def _cubes(values: Array) -> float:
    """The sum of t (t^2 - 1) over the ties of sorted values, t being how often a value comes."""
    bounds = np.flatnonzero(values[1:] > values[:-1]) + 1
    if bounds.size == values.size - 1:
        return 0.0
    times = np.diff(bounds, prepend=0, append=values.size).astype(np.float64)
    return float((times * (times**2 - 1)).sum())


def _below(others: Array, values: Array) -> Array:
    found: Array = (np.searchsorted(others, values, "left") + np.searchsorted(others, values, "right")) / 2
    return found


def _far_tail(statistic: float) -> float:
    """P(W > w) where 1 - series would soon be rounding only: the first term of Smirnov's alternating one (1936).

    2 / pi times the integral over t from pi to 2 pi of exp(-t^2 w / 2) / sqrt(-t sin t), at t = pi + v^2.
    """
    v = _NODES / np.sqrt(np.pi * statistic)
    inside = (v > 0) & (v**2 < 3)  # beyond, the weights are below 1e-16
    v = v[inside]
    terms = np.exp(-(v**4) * statistic / 2) * 2 * v / np.sqrt((np.pi + v**2) * np.sin(v**2))
    total = float(_NODE_WEIGHTS[inside] @ terms) / np.sqrt(np.pi * statistic)
    return float(2 / np.pi * np.exp(-(np.pi**2) * statistic / 2) * total)


def _squares(reference: Array, sample: Array) -> Array:
    pooled = reference + sample
    gaps = np.cumsum(sample, axis=-1) / sample.sum(-1, keepdims=True)
    gaps -= np.cumsum(reference, axis=-1) / reference.sum(-1, keepdims=True)
    found: Array = (pooled * gaps**2).sum(-1)
    return found


def _held(values: Array, upper: Array) -> Array:
    """How many sorted values are at or below each bound and above the one before it."""
    found: Array = np.diff(np.searchsorted(values, upper, "right"), prepend=0).astype(np.float64)
    return found


def tail(statistic: float) -> float:
    """P(W > w) of the limiting law."""
    if statistic < 0.003:  # the law's function is below 1e-16 there, and its series divides by it
        return 1.0
    if statistic > 2:
        return _far_tail(statistic)
    argument = _ODD**2 / (16 * statistic)
    # kve is kv * exp(argument), so that nothing underflows before it is multiplied
    series = _WEIGHTS * np.exp(-2 * argument) * special.kve(0.25, argument)
    return float(np.clip(1 - series.sum() / np.sqrt(statistic), 0.0, 1.0))
