"""The role of an engine: it answers for a model, faster, on rows it was proven on. Called by `switch`, per request.

An engine may decline rows (None): then the native model answers, with its own values and its own errors. So an engine
never has to imitate a refusal; it only has to know which rows it was not proven on.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np

from headrace.errors import LoadFailed
from headrace.payload import Array

F64: Final = np.dtype(np.float64)
F32: Final = np.dtype(np.float32)
HUGE: Final = 3e38
"""Larger magnitudes may not fit float32; native models that round to it refuse them."""
_SQUARE: Final = HUGE * HUGE


class Refused(LoadFailed):
    """A model cannot get this faster engine; the text says why."""


class OutOfTime(Refused):
    """A check did not end in time. That says more of this moment than of the model, so it is not remembered."""


class Engine(abc.ABC):
    """Answers for a model. Engines take float64 or float32 rows and never write to them."""

    name: str
    """For people: `numpy`, `onnx trees float64`."""
    outputs: frozenset[str]
    """The names it can answer."""
    releases_lock: bool = False
    concurrent: bool = True
    most_rows: int | None = None
    """The largest batch it takes; None: any."""

    @abc.abstractmethod
    def answer(self, rows: Array, outputs: Sequence[str]) -> dict[str, Array] | None:
        """Outputs by name for `rows` of shape (n, width), n >= 1; None: these rows are the native model's."""

    def close(self) -> None:
        """Give back what the engine holds outside Python's memory."""


Check = Callable[[Array], bool]
"""Whether an engine may take these rows."""


def finite(rows: Array) -> bool:
    """No NaN, no infinity, nothing that float32 cannot hold.

    One dot product: its sum of squares is NaN or infinite where an element is, and passes the bound before an element
    passes float32. Some rows that are fine, but large, fail too; the native model then answers them. `vdot`, because
    `dot` warns of an overflow.
    """
    return bool(np.vdot(rows, rows).item() < _SQUARE)


def finite_or_missing(rows: Array) -> bool:
    """As `finite`, but NaN is welcome."""
    return bool(np.vdot(rows, rows).item() < _SQUARE) or not bool((np.abs(rows) > HUGE).any())


def anything(rows: Array) -> bool:  # noqa: ARG001 - the role's argument
    """Every row."""
    return True


Step = Callable[[Array], Array]


class Chain(Engine):
    """Rows are checked, pass through numpy steps, and reach the engine that finishes."""

    def __init__(self, check: Check, steps: Sequence[Step], last: Engine) -> None:
        self.name = last.name
        self.outputs = last.outputs
        self.releases_lock = last.releases_lock
        self.concurrent = last.concurrent
        self.most_rows = last.most_rows
        self._check = check
        self._steps = tuple(steps)
        self._last = last

    def answer(self, rows: Array, outputs: Sequence[str]) -> dict[str, Array] | None:
        """None if the check fails, or the last engine declines."""
        if not self._check(rows):
            return None
        for step in self._steps:
            rows = step(rows)
        return self._last.answer(rows, outputs)

    def close(self) -> None:
        """Close the engine that finishes."""
        self._last.close()


class Transform(Engine):
    """The end of a chain of steps that is itself the answer of a transformer."""

    name = "numpy"
    outputs = frozenset({"transform"})

    def answer(self, rows: Array, outputs: Sequence[str]) -> dict[str, Array]:
        """The rows, as the steps left them."""
        return dict.fromkeys(outputs, rows)


class Labels:
    """From class numbers to what the native model answers for them."""

    def __init__(self, table: Array) -> None:
        self.table = table

    def take(self, numbers: Array) -> Array:
        """The label of each number, in the native model's datatype."""
        return self.table.take(numbers)


def labels_like(classes: Array | None, native: Array) -> Labels | None:
    """The table that answers as `native`, a sample of the model's own labels, does.

    Args:
        classes: The model's classes in order; None: the model has none.
        native: What its runtime answered for some rows. Runtimes that speak BYTES answer objects.
    """
    if classes is None or native.ndim != 1:
        return None
    if native.dtype == np.object_ and native.size and isinstance(native[0], bytes):
        encoded: list[Any] = [value if isinstance(value, bytes) else str(value).encode() for value in classes.tolist()]
        table = np.empty(len(encoded), dtype=np.object_)
        table[:] = encoded
        return Labels(table)
    return Labels(np.asarray(classes).astype(native.dtype))
