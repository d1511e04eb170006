"""Kolmogorov and Smirnov's two-sample test, column by column: method `ks`.

Smirnov (1939); the p-value is that of `scipy.stats.ks_2samp(method="asymp")`, which is also alibi-detect's: the law of
the one-sample statistic for round(n m / (n + m)) rows (Simard and L'Ecuyer 2011, J. Stat. Softw. 39/11). Of two small
samples (`SMALL`) that is too small far out, and the exact law takes its place (Hodges 1958, Ark. Mat. 3). Values that
repeat make either conservative. It sees the largest gap between the distributions only; `cvm` sees all of them.
"""

from __future__ import annotations

from typing import Self

import numpy as np
from scipy import special, stats

from headrace.detectors import correction as corrections
from headrace.detectors.correction import Correction
from headrace.detectors.univariate import Compared, Level, OfValues, check_columns, check_reference, ordered
from headrace.features import Features
from headrace.payload import Array

EXACT_ROWS = 1000
"""Of n m / (n + m): above, the limiting law with a correction takes microseconds where the exact one takes up to a
second.
"""

SMALL = 2500
"""n m up to which the law is the exact one of two samples."""


class Ks(OfValues):
    """Compares numeric columns by the largest gap between their distribution functions."""

    METHOD = "ks"
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
        """See `DriftTest.fit`; min_effect is of the KS distance, from 0 to 1 (.05: a shift of an eighth of a
        deviation).
        """
        corrections.check_level(cls.METHOD, alpha=alpha, correction=correction, min_effect=min_effect)
        check_reference(cls.METHOD, x, features)
        columns = check_columns(cls.METHOD, features.numeric, "numbers", "chi-square or tabular")
        level = Level(alpha=alpha, correction=correction, min_effect=min_effect, seed=seed, rows=len(x))
        return cls(features, columns, level, [ordered(x[:, at]) for at in columns])

    def compare(self, x: Array) -> list[Compared]:
        """See `Univariate.compare`: p-values of all columns in one call."""
        distances = np.zeros(len(self.columns))
        rows = np.ones(len(self.columns))
        for at, (column, reference) in enumerate(zip(self.columns, self.values, strict=True)):
            sample = ordered(x[:, column])
            if reference.size and sample.size:
                distances[at] = distance(reference, sample)
                rows[at] = reference.size * sample.size / (reference.size + sample.size)
        p_values = tail(distances, rows)
        for at, (column, reference) in enumerate(zip(self.columns, self.values, strict=True)):
            if 0 < reference.size * len(x) <= SMALL and (sample := ordered(x[:, column])).size:
                p_values[at] = stats.ks_2samp(reference, sample, method="exact").pvalue
        return [Compared(d, p, d) for d, p in zip(distances.tolist(), p_values.tolist(), strict=True)]


def distance(reference: Array, sample: Array) -> float:
    """The largest gap between the distribution functions of sorted values `[n]` and `[m]`.

    The sample's function is constant between its values, so the gap is largest at one of them or just before one.
    """
    size = sample.size
    at = np.searchsorted(reference, sample, side="right") / reference.size
    before = np.searchsorted(reference, sample, side="left") / reference.size
    # Where values repeat, the function jumps at once: at the last of them it is its upper value, before the first its
    # lower.
    if size < 2 or (sample[1:] > sample[:-1]).all():
        above, below = np.arange(1, size + 1) / size, np.arange(size) / size
    else:
        above = np.searchsorted(sample, sample, side="right") / size
        below = np.searchsorted(sample, sample, side="left") / size
    return float(max((above - at).max(), (before - below).max(), 0.0))


def tail(distances: Array, rows: Array) -> Array:
    """P(D >= d) of distances `[k]` for `rows` `[k]`, n m / (n + m) of each.

    Above `EXACT_ROWS` by Kolmogorov's limit at x + 1 / (6 sqrt n) + (x - 1) / (4 n), x = d sqrt n (Vrbik 2018,
    Pioneer J. Theor. Appl. Stat. 15), which is within 2e-5 of the exact one there, and within 1.5 % of one above 1e-6.
    """
    effective = np.maximum(np.round(rows), 1)
    found = np.empty(distances.shape)
    exact = effective <= EXACT_ROWS
    if exact.any():
        found[exact] = stats.kstwo.sf(distances[exact], effective[exact])
    if not exact.all():
        n = effective[~exact]
        x = distances[~exact] * np.sqrt(n)
        found[~exact] = np.where(x > 0, special.kolmogorov(x + 1 / (6 * np.sqrt(n)) + (x - 1) / (4 * n)), 1.0)
    return np.clip(found, 0.0, 1.0)
