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


def ratio(
    first: tuple[float, float], second: tuple[float, float], confidence: float = 0.95
) -> tuple[float, float, float] | None:
    """The ratio of shares, first over second, each as (count, rows), and its interval; None: the second share is 0.

    Donner and Zou (2012, Stat. Methods Med. Res. 21, "Closed-form confidence intervals for functions of the normal mean
    and standard deviation"), by both shares' Wilson intervals. The usual one by the logarithm (Katz and others 1978)
    has no width where both shares are 1, and covers .85 instead of .95 near there.
    """
    (a, n), (b, m) = first, second
    if b <= 0:
        return None
    p, q = a / n, b / m
    low, high = wilson(a, n, confidence)
    below, above = wilson(b, m, confidence)
    root = math.sqrt(max((p * q) ** 2 - low * (2 * p - low) * above * (2 * q - above), 0.0))
    least = low * (2 * p - low) / (p * q + root) if a > 0 else 0.0
    under = below * (2 * q - below)
    root = math.sqrt(max((p * q) ** 2 - high * (2 * p - high) * under, 0.0))
    return p / q, least, (p * q + root) / under
