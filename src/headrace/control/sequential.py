"""Confidence sequences: intervals that stay true however often they are looked at. `control.judge` decides by them.

A fixed-sample test that is asked again with every request raises a false alarm sooner or later. Here each interval is
that of a mixture martingale (Robbins 1970; Howard, Ramdas, McAuliffe and Sekhon, "Time-uniform, nonparametric,
nonasymptotic confidence sequences", Annals of Statistics 2021): with p the true rate of independent failures, the mean
of the likelihood over a Beta prior divided by the likelihood at p is a martingale that starts at 1, so by Ville's
inequality the chance that it ever reaches 1/alpha is at most alpha. The interval holds every p at which it has not. The
product of two arms' martingales is one as well, whatever order their requests come in, so that a difference of rates
needs no correction for two arms. A quantile is a rate that is known: at it, 1 - q of the values lie above (Howard and
Ramdas, "Sequential estimation of quantiles", Bernoulli 2022).

Pure, and over arrays: a count may be an array of counts, and need not be whole.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]
Numbers = Any
"""A number, or an array of them (numpy's array-like)."""

_A: Final = 0.3
_B: Final = 5.0
"""The Beta prior of failure rates: most of it is near 0, where servers live. The prior decides how soon something is
found, not whether what is found is true."""

_STIRLING: Final = 0.5 * math.log(2 * math.pi)
_NEVER: Final = 1e-300
_POINTS: Final = 33
_ROUNDS: Final = 5


def difference_evidence(
    requests_a: Numbers, failures_a: Numbers, requests_b: Numbers, failures_b: Numbers, increase: Numbers
) -> Values:
    """How much speaks against b's failure rate being a's plus `increase`, as the logarithm of a martingale.

    While that is so, the chance that this is ever log(1/alpha) or more is at most alpha.
    """
    arrays = [np.asarray(each, np.float64) for each in (requests_a, failures_a, requests_b, failures_b, increase)]
    n_a, f_a, n_b, f_b, d = np.broadcast_arrays(*arrays)
    rate_a = _nearest(n_a, f_a, n_b, f_b, d)
    likeliest = _log_likelihood(n_a, f_a, rate_a) + _log_likelihood(n_b, f_b, rate_a + d)
    return _log_mixture(n_a, f_a, _A, _B) + _log_mixture(n_b, f_b, _A, _B) - likeliest


def difference_interval(
    requests_a: float, failures_a: float, requests_b: float, failures_b: float, *, alpha: float
) -> tuple[float, float]:
    """By how much b's failure rate is above a's, with confidence 1 - alpha at all times together."""
    if not requests_a or not requests_b:
        return -1.0, 1.0
    middle = failures_b / requests_b - failures_a / requests_a

    def evidence(increase: Values) -> Values:
        return difference_evidence(requests_a, failures_a, requests_b, failures_b, increase)

    return _edge(evidence, middle, -1.0, alpha), _edge(evidence, middle, 1.0, alpha)


def rate_evidence(requests: Numbers, failures: Numbers, rate: Numbers) -> Values:
    """How much speaks against `rate` being the rate of failures, as `difference_evidence`."""
    arrays = [np.asarray(each, np.float64) for each in (requests, failures, rate)]
    n, f, p = np.broadcast_arrays(*arrays)
    return _log_mixture(n, f, _A, _B) - _log_likelihood(n, f, p)


def rate_interval(requests: float, failures: float, *, alpha: float) -> tuple[float, float]:
    """The rate of failures, with confidence 1 - alpha at all times together."""
    if not requests:
        return 0.0, 1.0

    def evidence(rate: Values) -> Values:
        return rate_evidence(requests, failures, rate)

    middle = failures / requests
    return _edge(evidence, middle, 0.0, alpha), _edge(evidence, middle, 1.0, alpha)


def quantile_interval(bounds: Values, counts: Values, quantile: float, *, alpha: float) -> tuple[Values, Values]:
    """Between which bounds a quantile lies, with confidence 1 - alpha at all times together.

    Args:
        bounds: Upper bounds of the buckets, ascending; the last is infinity.
        counts: Values in each, not cumulated; the last axis is that of `bounds`.
        quantile: Between 0 and 1, both excluded.
        alpha: The chance of being wrong, ever.

    Returns:
        The greatest bound that the quantile is shown to be above (0: none), and the smallest that it is shown not to be
        above (infinity: none).
    """
    below: Values = np.cumsum(counts, axis=-1)
    total: Values = below[..., -1:]
    above: Values = total - below
    tail = 1.0 - quantile
    # Were a bound the quantile itself, `tail` of the values would lie above it. The prior's mean is that.
    evidence = _log_mixture(total, above, 1.0, 1.0 / tail - 1.0) - _log_likelihood(total, above, np.asarray(tail))
    shown = evidence >= math.log(1.0 / alpha)
    lower = np.max(np.where(shown & (above > total * tail), bounds, 0.0), axis=-1)
    upper = np.min(np.where(shown & (above < total * tail), bounds, np.inf), axis=-1)
    return lower, upper


def quantile_estimate(bounds: Values, counts: Values, quantile: float) -> float:
    """The quantile, between the bounds of its bucket as if the values lay evenly there on a logarithmic scale.

    Infinity in the last bucket, NaN without values.
    """
    below = np.cumsum(counts)
    if not below[-1]:
        return math.nan
    wanted = quantile * float(below[-1])
    at = min(int(np.searchsorted(below, wanted)), len(bounds) - 1)
    upper = float(bounds[at])
    if at == 0 or math.isinf(upper):
        return upper
    lower, before, inside = float(bounds[at - 1]), float(below[at - 1]), float(counts[at])
    if lower <= 0:
        return upper
    return float(lower * (upper / lower) ** ((wanted - before) / inside))


def log_gamma(x: Numbers) -> Values:
    """The logarithm of the gamma function for x > 0: Stirling's series at x + 8, which is exact to 1e-9 there."""
    x = np.asarray(x, np.float64)
    product = np.zeros_like(x)
    for step in range(8):
        product += np.log(x + step)
    y = x + 8.0
    series = 1.0 / (12.0 * y) - 1.0 / (360.0 * y**3) + 1.0 / (1260.0 * y**5)
    value: Values = (y - 0.5) * np.log(y) - y + _STIRLING + series - product
    return value


def _log_mixture(n: Values, f: Values, a: float, b: float) -> Values:
    """The logarithm of the likelihood's mean over Beta(a, b)."""
    prior = math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
    return log_gamma(f + a) + log_gamma(n - f + b) - log_gamma(n + a + b) - prior


def _log_likelihood(n: Values, f: Values, p: Values) -> Values:
    failed = np.where(f > 0, f * np.log(np.maximum(p, _NEVER)), 0.0)
    return failed + np.where(n > f, (n - f) * np.log(np.maximum(1.0 - p, _NEVER)), 0.0)


def _nearest(n_a: Values, f_a: Values, n_b: Values, f_b: Values, d: Values) -> Values:
    """The rate of a that is likeliest where b's is that plus d.

    The root of a cubic in closed form: Miettinen and Nurminen, "Comparative analysis of two rates", Statistics in
    Medicine 1985, appendix.
    """
    total, failed = np.maximum(n_a + n_b, _NEVER), f_a + f_b
    quadratic = (n_b + 2 * n_a) * d - total - failed
    linear = (n_a * d - total - 2 * f_a) * d + failed
    constant = f_a * d * (1 - d)
    shift = quadratic / (3 * total)
    q = shift**3 - quadratic * linear / (6 * total**2) + constant / (2 * total)
    p = np.where(q < 0, -1.0, 1.0) * np.sqrt(np.maximum(shift**2 - linear / (3 * total), 0.0))
    cosine = np.clip(q / np.where(p == 0, 1.0, p**3), -1.0, 1.0)
    rate: Values = 2 * p * np.cos((math.pi + np.arccos(cosine)) / 3) - shift
    return np.clip(rate, np.maximum(0.0, -d), np.minimum(1.0, 1.0 - d))


def _edge(evidence: Callable[[Values], Values], inside: float, outside: float, alpha: float) -> float:
    """Where the evidence, which grows away from `inside`, reaches log(1/alpha); `outside` where it does not."""
    limit = math.log(1.0 / alpha)
    for _ in range(_ROUNDS):
        points = np.linspace(inside, outside, _POINTS)
        (shown,) = np.nonzero(evidence(points) >= limit)
        if not shown.size:
            return outside
        first = max(int(shown[0]), 1)
        inside, outside = float(points[first - 1]), float(points[first])
    return outside
