"""Thresholds that a statistic passes once in an expected run time (ERT), by simulating streams of the reference's law.

Detectors that are fed row by row call it when they are fitted. Cobb, Van Looveren and Klaise (2022, AISTATS,
"Sequential multivariate change detection with calibrated and memoryless false detection rates") choose for each time a
threshold which of the simulated streams that have not alarmed yet one in ERT passes (`by_time`). That needs many more
streams than ERT, so statistics without a window take one threshold for all times (`constant`), by the number of rows
per alarm of fewer and longer streams.
"""

from __future__ import annotations

import math

import numpy as np

from headrace.errors import InvalidRequest
from headrace.payload import Array

_ENOUGH = 20
"""Streams that pass a threshold, below which how often it is passed is extrapolated."""


def check(method: str, ert: float) -> None:
    """Refuse a run time that is none; raises InvalidRequest."""
    if not 2 <= ert < math.inf:
        raise InvalidRequest(f"detector '{method}': ert is a number of rows of 2 or more, got {ert}")


def constant(statistics: Array, ert: float) -> float | None:
    """The threshold with this many rows per alarm.

    Rows per alarm are those that all streams ran up to their first alarm or their end, by the number of alarms: of a
    constant rate of alarms the maximum likelihood estimate of the mean run time, of a falling one the mean over the
    first `length` rows. Where fewer than 20 streams would pass it, the logarithm of the run time is continued as a line
    in the threshold, as it is of sums with exponential tails (Siegmund 1985, Sequential Analysis, section 2.6).

    Args:
        statistics: `[length, streams]`.
        ert: Rows.

    Returns:
        None where nothing varies.
    """
    highest = np.maximum.accumulate(statistics, axis=0)
    final = np.sort(highest[-1])[::-1].astype(np.float64)
    if not final[0] > final[-1]:
        return None
    ranks = np.unique(np.geomspace(1, len(final) - 1, 32).astype(np.int64))
    thresholds, times = [], []
    for rank in ranks[::-1]:
        if final[rank - 1] == final[rank]:
            continue
        threshold = (final[rank - 1] + final[rank]) / 2
        alarms = np.count_nonzero(final > threshold)
        thresholds.append(threshold)
        times.append(math.log(1 + np.count_nonzero(highest <= threshold) / alarms))
    wanted = math.log(ert)
    known = max(int(np.count_nonzero(ranks >= _ENOUGH)), 1)
    if wanted <= times[min(known, len(times)) - 1] or len(times) < 3:
        return float(np.interp(wanted, np.maximum.accumulate(times), thresholds))
    fitted = slice(max(min(known, len(times)) - 8, 0), max(known, 3))
    slope, offset = np.polyfit(thresholds[fitted], times[fitted], 1)
    return max(float((wanted - offset) / slope), thresholds[0]) if slope > 0 else float(thresholds[-1])


def by_time(statistics: Array, ert: float) -> Array:
    """Thresholds `[times]`, each passed by one in ERT of the streams that passed none before.

    Args:
        statistics: `[streams, times]`.
        ert: Rows.
    """
    left = np.ones(len(statistics), np.bool_)
    found = np.empty(statistics.shape[1])
    for at in range(statistics.shape[1]):
        found[at] = upper(statistics[left, at], 1 / ert)
        left &= statistics[:, at] <= found[at]
    return found


def upper(values: Array, share: float) -> float:
    """What a share of a law's draws `[n]` passes; beyond the tenth largest the tail is taken for exponential."""
    if share * values.size >= 10:
        return float(np.quantile(values, 1 - share))
    many = min(100, max(values.size // 10, 2), values.size)
    largest = np.sort(values)[-many:]
    excess = float((largest - largest[0]).mean())
    return float(largest[0]) + excess * max(math.log(many / (share * values.size)), 0.0)
