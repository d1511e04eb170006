"""Columns of text and numbers as one matrix of numbers: a text becomes its place in its column's vocabulary.

Called by `switch`, per request, for models fitted on a DataFrame with text in it, and by `choose`, which aims rows in
the matrix and needs them back as columns. A text beyond the vocabulary gets the place behind the last one; a missing
one, or what is no text, is left to the native model.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from headrace.payload import Array
from headrace.runtimes.base import Values
from headrace.runtimes.optimize.engine import F32, F64, Engine

_OBJECT: Final = np.dtype(np.object_)
_ALIKE: Final = frozenset({F64, np.dtype(np.int64), np.dtype(np.int32)})
"""Number columns of these types may stand side by side: float64 holds them as the native model's arrays do."""
_STRANGE: Final = ("", " ", "unknown", "Ünbekannt", "未知", "a\tb\n", "nan", "None", "0", "-1", "x" * 300)


class Table:
    """The columns of a model.

    Args:
        names: Of the inputs, in the model's order.
        vocabularies: By position of the column: texts that the model knows; other columns hold numbers.
    """

    def __init__(self, names: Sequence[str], vocabularies: Mapping[int, Sequence[str]]) -> None:
        self.names = tuple(names)
        self.vocabularies = {at: tuple(known) for at, known in vocabularies.items()}
        self._columns: list[tuple[str, dict[str | bytes, int] | None]] = []
        self._texts: dict[int, Array] = {}
        for at, name in enumerate(names):
            known = self.vocabularies.get(at)
            if known is None:
                self._columns.append((name, None))
                continue
            codes: dict[str | bytes, int] = {text: code for code, text in enumerate(known)}
            codes |= {text.encode(): code for code, text in enumerate(known)}
            self._columns.append((name, codes))
            cells = np.empty(len(known) + len(others := strangers(known)) + 1, dtype=np.object_)
            cells[:-1] = [text.encode() for text in (*known, *others)]
            self._texts[at] = cells  # the last one stays None

    def encode(self, inputs: Values, *, mixed: bool = False) -> Array | None:
        """Columns, each (n,) or (n, 1), to a matrix (n, width); None: these are the native model's.

        Args:
            inputs: By name.
            mixed: Take whole numbers and float64 side by side.
        """
        columns = self._columns
        if len(inputs) != len(columns):
            return None
        count, kind, several = -1, None, False
        parts: list[Any] = []
        for name, codes in columns:
            column = inputs.get(name)
            if type(column) is not np.ndarray or column.ndim == 0 or column.size != len(column):
                return None
            if count != len(column):
                if count >= 0:
                    return None
                count = len(column)
            if codes is None:
                dtype = column.dtype
                if dtype is not kind:
                    if kind is not None and dtype != kind:
                        if not mixed or dtype not in _ALIKE or kind not in _ALIKE:
                            return None
                        several = True
                    kind = dtype
                parts.append(column)
                continue
            if column.dtype != _OBJECT:
                return None
            places = _places(column, codes)
            if places is None:
                return None
            parts.append(places)
        dtype = F64 if several or kind is None else kind
        if dtype.kind not in "fi":
            return None
        if count == 1:
            return np.array([[part[0] if type(part) is list else part.item() for part in parts]], dtype=dtype)
        rows = np.empty((count, len(parts)), dtype=dtype)
        for at, part in enumerate(parts):
            rows[:, at] = part if type(part) is list else part.reshape(-1)
        return rows

    def decode(self, rows: Array) -> dict[str, Array]:
        """A matrix, aimed anywhere, to columns: places to their texts, other numbers to unknown texts, NaN to None."""
        inputs = {}
        for at, name in enumerate(self.names):
            column = rows[:, at]
            if at in self._texts:
                column = self._texts[at].take(_cells(column, len(self.vocabularies[at]), len(self._texts[at])))
            inputs[name] = column
        return inputs


def strangers(known: Sequence[str]) -> tuple[str, ...]:
    """Texts that are not known: empty, padded, in other letters, composed otherwise, cut short."""
    near = [
        change(text)
        for text in known[:50]
        for change in (
            *(str.upper, str.lower, str.title, lambda text: f"{text} ", lambda text: f" {text}"),
            *(lambda text: text[:-1], lambda text: unicodedata.normalize("NFD", text)),
        )
    ]
    return tuple(dict.fromkeys(text for text in (*_STRANGE, *near) if text not in set(known)))


def _places(column: Array, codes: Mapping[str | bytes, int]) -> list[Any] | None:
    items = column.reshape(-1).tolist()
    find = codes.get
    try:
        places = [find(item) for item in items]
        if None in places:
            for at, place in enumerate(places):
                if place is None:
                    item = items[at]
                    if type(item) is bytes:
                        item.decode()  # the native model refuses what is no UTF-8
                    elif type(item) is not str:
                        return None
                    places[at] = len(codes) // 2
    except (TypeError, UnicodeDecodeError):
        return None
    return places


def _cells(column: Array, known: int, cells: int) -> Array:
    """Where the text of each number stands: known ones first, then unknown ones, None at the end."""
    with np.errstate(all="ignore"):
        numbers = np.nan_to_num(column.astype(F64), nan=0.0, posinf=1e15, neginf=-1e15)
        places = np.floor(np.clip(numbers, -1e15, 1e15)).astype(np.int64)
        mixed = np.abs(np.clip(numbers, -1e9, 1e9) * 7919.0).astype(np.int64)
    beyond = (places < 0) | (places >= known)
    places[beyond] = known + mixed[beyond] % (cells - 1 - known)
    if column.dtype in {F64, F32}:
        places[np.isnan(column)] = cells - 1
    return places


class ThroughText(Engine):
    """An engine as a request meets it: rows become columns of text and numbers, and those the engine's rows.

    Used by the gate only, so that what it proves includes the way from text to numbers.
    """

    def __init__(self, table: Table, last: Engine) -> None:
        self.name = last.name
        self.outputs = last.outputs
        self.most_rows = last.most_rows
        self._table = table
        self._last = last

    def answer(self, rows: Array, outputs: Sequence[str]) -> dict[str, Array] | None:
        """As the role says; None also where a column is not the table's."""
        coded = self._table.encode(self._table.decode(rows))
        return None if coded is None else self._last.answer(coded, outputs)


class Columns:
    """Rows of a matrix, decoded once, to be cut into batches."""

    def __init__(self, table: Table, rows: Array) -> None:
        self._inputs = table.decode(rows)
        self._count = len(rows)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, span: slice) -> dict[str, Array]:
        return {name: column[span] for name, column in self._inputs.items()}
