"""What differs between two answers to one request, and what many such pairs add up to. `compare` calls it. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from headrace.client import tensors
from headrace.payload import Array, InferenceResponse, Tensor

_PAIRS_KEPT: Final = 400
"""Pairs of classes that are told apart; an output with more of them is no class."""

_SHOWN: Final = 6
"""Elements of an output that an example shows."""

_TEXT_SHOWN: Final = 80
_DECADES: Final = range(-18, 19)
_PER_DECADE: Final = 10
EDGES: Final[npt.NDArray[np.float64]] = 10.0 ** np.arange(_DECADES[0], _DECADES[-1], 1 / _PER_DECADE)
"""Lower ends of the buckets in which differences are counted, 26 % apart."""


class Tolerance(msgspec.Struct, frozen=True, kw_only=True):
    """How far two numbers may be apart and still agree: by `atol` + `rtol` times the greater of both, without sign.

    Whole numbers, text and booleans agree when they are equal; whole numbers also within an `atol` of 1 or more.
    """

    rtol: float = 1e-5
    atol: float = 1e-6


class OutputDifference(msgspec.Struct, frozen=True, kw_only=True):
    """How one output differs in one pair of answers."""

    name: str
    what: str
    """For people."""
    elements: tuple[tuple[int, Any, Any], ...] = ()
    """Position in row-major order, the value of A and that of B; the first few."""
    weight: float = math.inf
    """How bad: the greatest difference, in tolerances; infinity for what is no number."""


class PairDifference(msgspec.Struct, frozen=True, kw_only=True):
    """How two answers differ. No `outputs`: they agree."""

    outputs: tuple[OutputDifference, ...]
    rows: int
    rows_differing: int


class Numeric(msgspec.Struct, kw_only=True):
    """Differences of an output's numbers, without sign."""

    largest: float = 0.0
    largest_line: int = -1
    """Where it was."""
    largest_relative: float = 0.0
    quantiles: dict[str, float] = {}
    """`p50`, `p90`, `p99` of all elements, within 26 %; equal ones are 0."""


class OutputReport(msgspec.Struct, frozen=True, kw_only=True):
    """What all pairs say of one output."""

    name: str
    datatypes: tuple[str, ...]
    """One where both give the same."""
    elements: int
    differing: int
    unlike: int
    """Pairs in which only one has it, or the shapes differ."""
    numeric: Numeric | None
    confusion: tuple[tuple[str, str, int], ...] | None
    """For classes: the value of A, that of B, how often; most frequent first."""
    histogram: tuple[int, ...]
    """Differences above 0 by bucket of `EDGES`; what is below the first counts with it."""


class OutputTally:
    """Adds up one output."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.datatypes: dict[str, None] = {}
        self.elements = self.differing = self.unlike = 0
        self._equal = 0
        self._numeric: Numeric | None = None
        self._pairs: Counter[tuple[str, str]] | None = None
        self._histogram = np.zeros(len(EDGES), dtype=np.int64)

    def add(self, line: int, a: Array, b: Array, differing: npt.NDArray[np.bool_]) -> None:
        """Note two arrays of one shape."""
        self.elements += a.size
        self.differing += int(differing.sum())
        if a.dtype.kind in "fiu" and b.dtype.kind in "fiu":
            self._add_numbers(line, a, b)
        if "f" not in a.dtype.kind + b.dtype.kind:
            self._add_classes(a, b)

    def report(self) -> OutputReport:
        """What it comes to."""
        if self._numeric is not None:
            self._numeric.quantiles = {f"p{share:g}": self._quantile(share / 100) for share in (50, 90, 99)}
        pairs = None
        if self._pairs is not None and len(self._pairs) <= _PAIRS_KEPT:
            pairs = tuple((a, b, count) for (a, b), count in self._pairs.most_common())
        return OutputReport(
            name=self.name,
            datatypes=tuple(self.datatypes),
            elements=self.elements,
            differing=self.differing,
            unlike=self.unlike,
            numeric=self._numeric,
            confusion=pairs,
            histogram=tuple(map(int, self._histogram)),
        )

    def _add_numbers(self, line: int, a: Array, b: Array) -> None:
        self._numeric = numeric = self._numeric or Numeric()
        apart = _apart(a, b)
        known = apart[np.isfinite(apart)]
        above = known[known > 0]
        self._equal += known.size - above.size
        if not above.size:
            return
        places = np.clip(np.searchsorted(EDGES, above, side="right") - 1, 0, len(EDGES) - 1)
        self._histogram += np.bincount(places, minlength=len(EDGES))
        largest = float(above.max())
        if largest > numeric.largest:
            numeric.largest, numeric.largest_line = largest, line
        scale = _scale(a, b)
        relative = np.divide(apart, scale, out=np.zeros_like(apart), where=np.isfinite(apart) & (scale > 0))
        numeric.largest_relative = max(numeric.largest_relative, float(relative.max(initial=0.0)))

    def _add_classes(self, a: Array, b: Array) -> None:
        self._pairs = pairs = Counter() if self._pairs is None else self._pairs
        if len(pairs) <= _PAIRS_KEPT:  # once there are more, it is no class, and stays none
            pairs.update((_text(x), _text(y)) for x, y in zip(a.ravel().tolist(), b.ravel().tolist(), strict=True))

    def _quantile(self, share: float) -> float:
        wanted = share * (self._equal + int(self._histogram.sum()))
        if wanted <= self._equal:
            return 0.0
        at = int(np.searchsorted(self._equal + np.cumsum(self._histogram), wanted))
        largest = 0.0 if self._numeric is None else self._numeric.largest
        return largest if at + 1 >= len(EDGES) else min(float(EDGES[at + 1]), largest)


class Tally:
    """Adds up pairs of answers."""

    def __init__(self, tolerance: Tolerance, only: Collection[str] = ()) -> None:
        """Store.

        Args:
            tolerance: How far numbers may be apart.
            only: The outputs to look at; empty: all.
        """
        self._tolerance, self._only = tolerance, frozenset(only)
        self._outputs: dict[str, OutputTally] = {}

    def add(self, line: int, a: InferenceResponse, b: InferenceResponse) -> PairDifference:
        """How the two differ; noted under the line of their request."""
        of_a, of_b = ({tensor.name: tensor for tensor in each.outputs} for each in (a, b))
        found, marks = [], []
        for name in dict.fromkeys([*of_a, *of_b]):
            if self._only and name not in self._only:
                continue
            tally = self._outputs.setdefault(name, OutputTally(name))
            difference, differing = self._output(line, tally, of_a.get(name), of_b.get(name))
            if difference is not None:
                found.append(difference)
            marks.append(differing)
        rows, rows_differing = _rows(marks, differ=bool(found))
        return PairDifference(outputs=tuple(found), rows=rows, rows_differing=rows_differing)

    def report(self) -> tuple[OutputReport, ...]:
        """By output, in the order in which they came."""
        return tuple(tally.report() for tally in self._outputs.values())

    def _output(
        self, line: int, tally: OutputTally, a: Tensor | None, b: Tensor | None
    ) -> tuple[OutputDifference | None, npt.NDArray[np.bool_] | None]:
        for tensor in (a, b):
            if tensor is not None:
                tally.datatypes[tensor.datatype] = None
        if a is None or b is None:
            tally.unlike += 1
            return OutputDifference(name=tally.name, what=f"only {'A' if b is None else 'B'} has it"), None
        if a.shape != b.shape:
            tally.unlike += 1
            return OutputDifference(name=tally.name, what=f"shape {list(a.shape)} and {list(b.shape)}"), None
        x, y = tensors.array_of(a), tensors.array_of(b)
        differing = differ(x, y, self._tolerance)
        tally.add(line, x, y, differing)
        if not differing.any():
            return None, differing
        return _describe(tally.name, x, y, differing, self._tolerance), differing


def differ(a: Array, b: Array, tolerance: Tolerance) -> npt.NDArray[np.bool_]:
    """Where two arrays of one shape do not agree. NaN agrees with NaN, and an infinity with itself."""
    kinds = a.dtype.kind + b.dtype.kind
    if not set(kinds) <= set("fiub") or set(kinds) == {"b"}:
        return np.asarray(a != b, dtype=np.bool_).reshape(a.shape)
    same: npt.NDArray[np.bool_] = a == b
    if "f" not in kinds:
        return ~same & (_apart(a, b) > tolerance.atol) if tolerance.atol >= 1 else ~same
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    near = (_apart(a, b) <= _allowed(a, b, tolerance)) & np.isfinite(x) & np.isfinite(y)
    return ~(same | near | (np.isnan(x) & np.isnan(y)))


def wilson(part: int, whole: int, z: float = 1.959964) -> tuple[float, float]:
    """The interval of a share: Wilson, "Probable inference, the law of succession, and statistical inference", 1927."""
    if not whole:
        return 0.0, 1.0
    share, square = part / whole, z * z
    middle = (share + square / (2 * whole)) / (1 + square / whole)
    half = z / (1 + square / whole) * math.sqrt(share * (1 - share) / whole + square / (4 * whole**2))
    return max(0.0, middle - half), min(1.0, middle + half)


def median_interval(values: Sequence[float], z: float = 1.959964) -> tuple[float, float, float]:
    """The median, and its interval by order statistics, which asks nothing of the distribution."""
    ordered, n = sorted(values), len(values)
    if not n:
        return math.nan, math.nan, math.nan
    half = z * math.sqrt(n) / 2
    low, high = max(0, math.floor(n / 2 - half)), min(n - 1, math.ceil(n / 2 + half))
    return float(np.median(ordered)), ordered[low], ordered[high]


# -- steps --


def _apart(a: Array, b: Array) -> npt.NDArray[np.float64]:
    with np.errstate(invalid="ignore", over="ignore"):
        return np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64))


def _scale(a: Array, b: Array) -> npt.NDArray[np.float64]:
    return np.maximum(np.abs(np.asarray(a, np.float64)), np.abs(np.asarray(b, np.float64)))


def _allowed(a: Array, b: Array, tolerance: Tolerance) -> npt.NDArray[np.float64]:
    with np.errstate(invalid="ignore", over="ignore"):  # 0 times infinity: of numbers that are not near anyway
        return tolerance.atol + tolerance.rtol * _scale(a, b)


def _describe(
    name: str, a: Array, b: Array, differing: npt.NDArray[np.bool_], tolerance: Tolerance
) -> OutputDifference:
    x, y, where = a.ravel(), b.ravel(), np.flatnonzero(differing)
    count = f"{len(where)} of {x.size}" if x.size > 1 else "it"
    if a.dtype.kind == "f" or b.dtype.kind == "f":
        apart = _apart(x[where], y[where])
        with np.errstate(over="ignore", invalid="ignore"):
            worst = apart / np.maximum(_allowed(x[where], y[where], tolerance), 1e-300)
        worst = np.nan_to_num(worst, nan=np.inf, posinf=np.inf)
        where = where[np.argsort(-worst, kind="stable")]
        what, weight = f"{count} differ, by {float(np.nanmax(apart, initial=0.0)):.3g} at most", float(worst.max())
    else:
        what, weight = f"{count} differ", math.inf
    elements = tuple((int(at), _plain(x[at]), _plain(y[at])) for at in where[:_SHOWN])
    return OutputDifference(name=name, what=what.replace("it differ", "differs"), elements=elements, weight=weight)


def _rows(marks: Sequence[npt.NDArray[np.bool_] | None], *, differ: bool) -> tuple[int, int]:
    """Rows and differing rows, where all outputs have rows; else the request counts as one."""
    known = [mark for mark in marks if mark is not None]
    sizes = {mark.shape[0] if mark.ndim else 0 for mark in known}
    if len(known) < len(marks) or len(sizes) != 1 or not min(sizes):
        return 1, int(differ)
    (rows,) = sizes
    together = np.zeros(rows, dtype=np.bool_)
    for mark in known:
        together |= mark.reshape(rows, -1).any(axis=1)
    return rows, int(together.sum())


def _plain(value: Any) -> Any:
    plain = value.item() if isinstance(value, np.generic) else value
    if isinstance(plain, float) and not math.isfinite(plain):
        return str(plain)  # JSON has no such numbers
    return plain if isinstance(plain, float | int) else _text(plain)


def _text(value: Any) -> str:
    text = value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)
    return text if len(text) <= _TEXT_SHOWN else text[: _TEXT_SHOWN - 3] + "..."
