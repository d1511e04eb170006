"""A model with several engines at hand: the number of rows decides which one answers. What `optimize` returns.

Step *predict* of the walk. Whatever no engine was proven on (another width, datatype or output, a row an engine
declines) goes to the native model, so names, values and errors stay the native ones.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from headrace.payload import EMPTY, Array, Signature
from headrace.runtimes.base import Recognition, Runtime, Values
from headrace.runtimes.optimize.engine import F32, F64, Engine
from headrace.runtimes.optimize.table import Table

_NUMBERS: Final = frozenset({F64, np.dtype(np.int64), np.dtype(np.int32)})
"""What may stand side by side; not float32, which native models may round in some columns and not in others."""


class Seat(msgspec.Struct, frozen=True, kw_only=True):
    """An engine and the requests that are its own."""

    most: float
    """The largest number of rows; infinite: no limit."""
    engine: Engine | None
    """None: the native model answers."""
    datatypes: frozenset[Any] = frozenset()
    """numpy dtypes it was proven on."""
    outputs: frozenset[str] = frozenset()
    """Names it was proven on."""


class Engines(Runtime):
    """The native runtime and the engines proven equal to it.

    Engines take several threads at once; a native runtime that does not is asked by one at a time.

    Args:
        native: The loaded runtime.
        signature: The native one; answers of `load`.
        seats: In rising order of rows; the last has no limit.
        width: Columns of a row.
        columns: Names of the inputs where columns may come one tensor each; empty: they may not.
        mixed: Columns of several number types, side by side, are what the native model makes of them.
        table: The way from columns to rows where some columns hold text; a matrix is then the native model's.
    """

    concurrent = True

    def __init__(
        self,
        native: Runtime,
        signature: Signature,
        *,
        seats: Sequence[Seat],
        width: int,
        columns: Sequence[str] = (),
        mixed: bool = False,
        table: Table | None = None,
    ) -> None:
        super().__init__(native.source)
        self.native = native
        self.seats = tuple(seats)
        self._turn = contextlib.nullcontext() if native.concurrent else threading.Lock()
        self._signature = signature
        self._width = width
        self._columns = tuple(columns)
        self._mixed = mixed
        self._table = table
        self._default = signature.default_outputs or tuple(spec.name for spec in signature.outputs)
        self._input = signature.inputs[0].name if signature.strict and len(signature.inputs) == 1 else ""

    @classmethod
    def recognise(cls, path: Path) -> Recognition | None:  # noqa: ARG003 - no file is an Engines
        """None: made by `optimize` from a loaded runtime, never from a file."""
        return None

    @property
    def model(self) -> Any:
        """The native model object."""
        return getattr(self.native, "model", None)

    def load(self) -> Signature:
        """The signature; the native runtime is loaded already."""
        return self._signature

    def predict(
        self, inputs: Values, outputs: Sequence[str] = (), parameters: Mapping[str, Any] = EMPTY
    ) -> Mapping[str, Array]:
        """Answer a batch by the engine that is fastest for its number of rows.

        Raises:
            InvalidRequest: as the native runtime does, which is asked whenever no engine may answer.
        """
        rows = None
        if self._table is not None:
            rows = self._table.encode(inputs, mixed=self._mixed)
        elif len(inputs) == 1:
            ((name, rows),) = inputs.items()
            if self._input and name != self._input:
                rows = None
        elif self._columns:
            rows = self._stacked(inputs)
        if type(rows) is np.ndarray and rows.ndim == 2 and rows.shape[1] == self._width:
            count = len(rows)
            for seat in self.seats:
                if count <= seat.most:
                    break
            wanted = outputs or self._default
            if count and seat.engine is not None and rows.dtype in seat.datatypes and seat.outputs.issuperset(wanted):
                taken = rows if rows.dtype is F64 or rows.dtype == F32 else rows.astype(F64)
                answer = seat.engine.answer(taken, wanted)
                if answer is not None:
                    return answer
        with self._turn:
            result: Mapping[str, Array] = self.native.predict(inputs, outputs, parameters)
        return result

    def _stacked(self, inputs: Values) -> Array | None:
        """Columns side by side, where each is one of ours, and all have one length."""
        if len(inputs) != len(self._columns):
            return None
        try:
            parts = [inputs[name] for name in self._columns]
        except KeyError:
            return None
        first = parts[0]
        if not all(type(part) is np.ndarray and part.size == len(part) == len(first) for part in parts):
            return None
        alike = _NUMBERS if self._mixed and first.dtype in _NUMBERS else (first.dtype,)
        if not all(part.dtype in alike for part in parts):
            return None
        return np.stack([part.reshape(-1) for part in parts], axis=1)

    def sample(self) -> Values | None:
        """The native runtime's."""
        return self.native.sample()

    def unload(self) -> None:
        """Close the engines, then unload the native runtime."""
        for engine in {id(seat.engine): seat.engine for seat in self.seats}.values():
            if engine is not None:
                engine.close()
        self.native.unload()


class UnlockedEngines(Engines):
    """Every engine that has a seat spends its time outside the interpreter lock."""

    releases_lock = True


def kind_of(native: Runtime, seats: Sequence[Seat]) -> type[Engines]:
    """The class that says the truth about these seats: a promise holds only if all who have a seat keep it."""
    unlocked = all((native if seat.engine is None else seat.engine).releases_lock for seat in seats)
    return UnlockedEngines if unlocked else Engines
