"""Thresholds for scores, and how often they are passed by rows that are as usual: what `trust.fit` asks after fitting.

Three disjoint parts of the training data: one the detector was fitted on, one that chooses the threshold, one that
measures it. Nothing is assumed of the scores but that usual rows are exchangeable.
"""

from __future__ import annotations

import math

import msgspec
import numpy as np

from headrace.errors import InvalidRequest
from headrace.payload import Array


class Rate(msgspec.Struct, frozen=True, kw_only=True):
    """How often something happened."""

    count: int
    of: int
    low: float
    """Of the interval that holds the true rate with the asked probability, whatever it is."""
    high: float

    @property
    def value(self) -> float:
        """The share; 0 of nothing."""
        return self.count / self.of if self.of else 0.0


def threshold(scores: Array, rate: float) -> float:
    """The score that a share `rate` of usual rows pass.

    Split conformal prediction (Vovk, Gammerman and Shafer 2005, section 4.1; Lei et al. 2018, theorem 2.2): the
    k-th smallest of m scores, k = ceil((m + 1)(1 - rate)), is passed by a new exchangeable score with probability at
    most `rate`. Deviation: where m is too small for that (m + 1 < 1 / rate), the largest score stands in, which is
    passed with probability 1 / (m + 1), more than `rate` (see `finest`).

    Args:
        scores: `[m]` of rows that the detector was not fitted on; NaN is left out.
        rate: Between 0 and 1, both excluded.

    Raises:
        InvalidRequest: no score is a number, or the rate is out of range.
    """
    if not 0.0 < rate < 1.0:
        raise InvalidRequest(f"a false-positive rate lies between 0 and 1, got {rate}")
    usable = np.sort(scores[np.isfinite(scores)])
    if not len(usable):
        raise InvalidRequest("no score of the held-out rows is a number")
    rank = math.ceil((len(usable) + 1) * (1.0 - rate) - 1e-9)
    return float(usable[min(max(rank, 1), len(usable)) - 1])


def finest(rows: int) -> float:
    """The least false-positive rate that so many held-out rows can set: 1 / (m + 1)."""
    return 1.0 / (rows + 1)


def interval(count: int, of: int, *, confidence: float = 0.95) -> Rate:
    """A measured share with its exact binomial interval (Clopper and Pearson 1934): quantiles of Beta(k, n - k + 1) and
    Beta(k + 1, n - k). Of nothing, the interval is everything.
    """
    from scipy import stats

    tail = (1.0 - confidence) / 2.0
    low = float(stats.beta.ppf(tail, count, of - count + 1)) if count else 0.0
    high = float(stats.beta.ppf(1.0 - tail, count + 1, of - count)) if count < of else 1.0
    return Rate(count=count, of=of, low=low, high=high)


def is_too_many(count: int, of: int, *, held_out: int, rate: float, level: float = 0.01) -> bool:
    """Whether a threshold of `threshold` is passed by more rows than chance allows: the detector tells rows apart that
    it should not (rows were not exchangeable, as when they are sorted or the fit has seen them).

    The measured interval alone would refuse honest detectors, as the threshold is random, too. Of exchangeable scores
    without ties, the share of the law above the k-th smallest of m is Beta(m - k + 1, k) (Vovk 2012, proposition 2a),
    so the count is beta-binomial whatever the scores' law is; ties only make it smaller.

    Args:
        count: Rows above the threshold ...
        of: ... of so many that chose nothing.
        held_out: m, the rows that chose the threshold.
        rate: The rate that was asked for.
        level: How often an honest detector may be refused.
    """
    if not of or not held_out:
        return False
    from scipy import stats

    rank = min(max(math.ceil((held_out + 1) * (1.0 - rate) - 1e-9), 1), held_out)
    law = stats.betabinom(of, held_out - rank + 1, rank)
    return bool(law.sf(count - 1) < level)


def is_more_often(count: int, of: int, *, rate: float, level: float = 0.01) -> bool:
    """Whether independent tests at level `rate` were positive more often than chance allows (one-sided, binomial)."""
    if not of:
        return False
    from scipy import stats

    return bool(stats.binom.sf(count - 1, of, rate) < level)


def parts(rows: int, y: Array | None, *, shares: tuple[float, ...], seed: int, in_order: bool = False) -> list[Array]:
    """Disjoint parts of rows, as sorted positions, each with the same share of each class.

    Args:
        rows: How many there are.
        y: `[n]`, the class of each row; None: they are alike.
        shares: Of the parts; their sum is 1.
        seed: Of who goes where.
        in_order: Rows follow one another in time: the parts do, too.
    """
    if in_order:
        ends = np.rint(np.cumsum(shares) * rows).astype(int)
        return [np.arange(start, end) for start, end in zip([0, *ends[:-1]], ends, strict=True)]
    order = np.random.default_rng(seed).permutation(rows)
    if y is not None:
        order = order[np.argsort(y[order], kind="stable")]
    # Along the rows sorted by class, each part takes its share evenly: place i goes to the part whose share holds the
    # fraction of i times the golden ratio, a sequence of low discrepancy.
    edges = np.cumsum(shares)
    at = np.minimum(np.searchsorted(edges, _spread(rows), side="right"), len(shares) - 1)
    return [np.sort(order[at == part]) for part in range(len(shares))]


def sample(rows: int, y: Array | None, *, most: int, seed: int, in_order: bool = False) -> Array:
    """At most so many rows, as sorted positions, each class by its share; of rows in time, the last ones."""
    if rows <= most:
        return np.arange(rows)
    if in_order:
        return np.arange(rows - most, rows)
    order = np.random.default_rng(seed).permutation(rows)
    if y is None:
        return np.sort(order[:most])
    order = order[np.argsort(y[order], kind="stable")]
    return np.sort(order[np.floor((np.arange(most) + 0.5) * rows / most).astype(int)])


def _spread(rows: int) -> Array:
    spread: Array = (np.arange(rows) * 0.6180339887498949 + 0.5) % 1.0
    return spread
