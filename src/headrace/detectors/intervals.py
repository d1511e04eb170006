"""Intervals of shares, of differences and ratios of shares, and of means. Called by outlier-rate, bias and
performance.
"""

from __future__ import annotations

import math

from scipy import special


def normal(confidence: float) -> float:
    """The quantile z with P(|Z| <= z) = confidence."""
    return float(special.ndtri(0.5 + confidence / 2))


def wilson(count: float, rows: float, confidence: float = 0.95) -> tuple[float, float]:
    """Of the share count / rows: Wilson (1927, J. Am. Stat. Assoc. 22); (0, 1) without rows."""
    if rows <= 0:
        return 0.0, 1.0
    z = normal(confidence)
    share = count / rows
    middle = (share + z * z / (2 * rows)) / (1 + z * z / rows)
    half = z / (1 + z * z / rows) * math.sqrt(share * (1 - share) / rows + z * z / (4 * rows * rows))
    # At the ends the formula gives 0 and 1 but for rounding.
    return (0.0 if count <= 0 else max(0.0, middle - half)), (1.0 if count >= rows else min(1.0, middle + half))


def newcombe(
    first: tuple[float, float], second: tuple[float, float], confidence: float = 0.95
) -> tuple[float, float, float]:
    """The difference of shares, first less second, each as (count, rows), and its interval.

    Newcombe (1998, Statist. Med. 17, method 10: "hybrid score"), by both shares' Wilson intervals.
    """
    p, q = first[0] / first[1], second[0] / second[1]
    low, high = wilson(*first, confidence)
    below, above = wilson(*second, confidence)
    return p - q, p - q - math.hypot(p - low, above - q), p - q + math.hypot(high - p, q - below)


def katz(
    first: tuple[float, float], second: tuple[float, float], confidence: float = 0.95
) -> tuple[float, float, float] | None:
    """The ratio of shares, first over second, each as (count, rows), and its interval; None: the second share is 0.

    Katz, Baptista, Azen and Pike (1978, Biometrics 34, method C): the logarithm is normal with variance 1/a - 1/n + 1/b
    - 1/m. A first count of 0 has no logarithm: its interval starts at 0, and ends where it would with half a row
    (Walter 1975).
    """
    (a, n), (b, m) = first, second
    if b <= 0:
        return None
    ratio = (a / n) / (b / m)
    half = a if a > 0 else 0.5
    spread = normal(confidence) * math.sqrt(max(1 / half - 1 / n + 1 / b - 1 / m, 0.0))
    middle = (half / n) / (b / m)
    return ratio, (0.0 if a <= 0 else middle * math.exp(-spread)), middle * math.exp(spread)
