"""How long each engine takes by number of rows, and which one therefore answers. Called by `choose`.

Rows must differ between calls: with one row repeated, the processor learns a tree's path and flatters it by half.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np

from headrace.payload import Array
from headrace.runtimes.optimize.table import Columns

POINTS: Final = (1, 4, 16, 64, 256)
"""Batch sizes that are timed."""
NATIVE: Final = ""
"""The name under which the native engine stands in `ranges`."""

Times = Mapping[int, float]
"""Seconds per call, by number of rows."""


def measure(
    call: Callable[[Any], Any], rows: Array | Columns, *, most: int | None = None, seconds: float = 0.03
) -> dict[int, float]:
    """The median time of a call, for each of POINTS.

    Args:
        call: What to time.
        rows: Different rows, at least 256, or columns that can be cut as rows can; calls walk through them.
        most: The largest batch to try; None: all of POINTS.
        seconds: Spent on each point, at least three calls.
    """
    times = {}
    for point in POINTS:
        if most is not None and point > most:
            break
        starts = itertools.cycle(range(0, max(1, len(rows) - point), point))
        spent: list[float] = []
        call(rows[:point])
        end = time.perf_counter() + seconds
        while len(spent) < 3 or (time.perf_counter() < end and len(spent) < 2000):
            at = next(starts)
            part = rows[at : at + point]
            begin = time.perf_counter()
            call(part)
            spent.append(time.perf_counter() - begin)
        times[point] = float(np.median(spent))
    return times


def ranges(times: Mapping[str, Times], *, speedup: float) -> tuple[tuple[int | None, str], ...]:
    """Who answers for how many rows.

    Args:
        times: By name of engine; NATIVE among them. An engine not timed at a point does not take that many rows.
        speedup: How many times faster than the native engine another must be.

    Returns:
        (most rows, name) in rising order; the last one's most is None: no limit. Between timed points, times are
        taken to grow in a straight line; beyond the last one its winner stays.
    """
    native = times[NATIVE]
    winners = [_winner(count, times, native, speedup) for count in range(1, POINTS[-1] + 1)]
    found: list[tuple[int | None, str]] = []
    for name, group in itertools.groupby(enumerate(winners, 1), key=lambda pair: pair[1]):
        found.append((max(count for count, _ in group), name))
    found[-1] = (None, found[-1][1])
    return tuple(found)


def _winner(count: int, times: Mapping[str, Times], native: Times, speedup: float) -> str:
    bar = _at(count, native) / speedup
    able = [(_at(count, own), name) for name, own in times.items() if name != NATIVE and max(own) >= count]
    best = min(able, default=(bar, NATIVE))
    return best[1] if best[0] < bar or (best[0] <= bar and best[1] == NATIVE) else NATIVE


def _at(count: int, times: Times) -> float:
    points = sorted(times)
    return float(np.interp(count, points, [times[point] for point in points]))


def text(found: tuple[tuple[int | None, str], ...], native: str) -> str:
    """Ranges for people: `1 row: numpy; 2 to 64 rows: onnx; 65 rows and more: scikit-learn`."""
    parts, first = [], 1
    for most, name in found:
        if most is None:
            span = "any number of rows" if first == 1 else f"{first} rows and more"
        else:
            span = f"{first} row" + ("s" if first > 1 else "") if most == first else f"{first} to {most} rows"
        parts.append(f"{span}: {name or native}")
        first = (most or 0) + 1
    return "; ".join(parts)


def table(times: Mapping[str, Times], native: str) -> str:
    """Times for people, in microseconds: `1 row: scikit-learn 2816, onnx 5; ...`."""
    parts = []
    for point in POINTS:
        own = [f"{name or native} {values[point] * 1e6:.3g}" for name, values in times.items() if point in values]
        parts.append(f"{point} row{'s' if point > 1 else ''}: {', '.join(own)}")
    return "; ".join(parts) + " (us)"
