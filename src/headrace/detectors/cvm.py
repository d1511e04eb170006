"""Cramer and von Mises' two-sample test, column by column: method `cvm`.

Anderson (1962, Ann. Math. Statist. 33, "On the distribution of the two-sample Cramer-von Mises criterion"): statistic
by equations 9 and 10, its mean and variance by 13 and 14, and the limiting law by Csorgo and Faraway (1996, J. R.
Statist. Soc. B 58, equation 1.2), as `scipy.stats.cramervonmises_2samp(method="asymptotic")`.

Where values repeat, scipy's ranks do not give Anderson's statistic, and drift where there is none when the samples'
sizes differ. Here it is his definition, n m / N^2 times the sum over all N rows of the squared gap between the
distribution functions, and its p-value is drawn with the pooled counts fixed, over at most `GRID` of the pooled values.
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
        level = Level(alpha=alpha, correction=correction, min_effect=min_effect, seed=seed)
        return cls(features, columns, level, [ordered(x[:, at]) for at in columns])

    def column(self, at: int, reference: Array, sample: Array) -> Compared:
        """See `OfValues.column`."""
        values, counts = np.unique(np.concatenate([reference, sample]), return_counts=True)
        if values.size == reference.size + sample.size:
            return compare(reference, sample)
        return compare_tied(
            reference, sample, values, counts, most=permutation.draws(self.level.alpha, self.tests), rng=self.rng(at)
        )


def compare(reference: Array, sample: Array) -> Compared:
    """T, its p-value and the KS distance of sorted values `[n]` and `[m]`, all different."""
    n, m = reference.size, sample.size
    product, rows = float(n * m), n + m
    # The rank among all less the rank among its own is the number of the others below it.
    in_reference = np.searchsorted(sample, reference).astype(np.float64)
    in_sample = np.searchsorted(reference, sample).astype(np.float64)
    u = n * float(in_reference @ in_reference) + m * float(in_sample @ in_sample)
    statistic = u / (product * rows) - (4 * product - 1) / (6 * rows)
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
        # By the largest of the law's chi-squares alone (Zolotarev 1961, Theory Probab. Appl. 6), within 1e-7 of itself
        # here, where 1 - series would soon be rounding only.
        return float(np.sqrt(2) * special.chdtrc(1, np.pi**2 * statistic))
    argument = _ODD**2 / (16 * statistic)
    # kve is kv * exp(argument), so that nothing underflows before it is multiplied
    series = _WEIGHTS * np.exp(-2 * argument) * special.kve(0.25, argument)
    return float(np.clip(1 - series.sum() / np.sqrt(statistic), 0.0, 1.0))
