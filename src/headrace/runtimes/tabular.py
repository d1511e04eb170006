"""Rows of features, as boosters take them: one matrix, or one tensor for each named column. Within step 6 of the walk;
the XGBoost, LightGBM and CatBoost runtimes call it before the model.

A category arrives as the value it had in training (text or number) and becomes the code that the model was trained on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
import numpy as np

from headrace.errors import InvalidRequest
from headrace.payload import Array, TensorSpec, datatype_of
from headrace.runtimes.base import Values

INPUT: Final = "input-0"
"""The name of the one input of a model that takes a matrix."""

_FLOATS: Final = frozenset({np.dtype(np.float32), np.dtype(np.float64)})


class Features(msgspec.Struct, frozen=True, kw_only=True):
    """What a model knows of its columns."""

    width: int
    names: tuple[str, ...] = ()
    """In the model's order; empty: the model does not name them."""
    datatype: str = "FP64"
    """Of the numbers: FP32 or FP64. Both are taken as they come, anything else is turned into this one."""
    categories: Mapping[int, Mapping[Any, int]] = {}
    """By column: category to code. Such columns are taken by value, so each column is an input of its own."""
    unknown: float | None = None
    """The code of a value that is none of the categories; None: it is the caller's error."""
    ignores_others: bool = False
    """Columns that the model does not have are passed over, as its library does; else they are the caller's error."""

    def inputs(self) -> tuple[TensorSpec, ...]:
        """A matrix; or, where there are categories, columns."""
        if not self.categories:
            return (TensorSpec(name=INPUT, datatype=self.datatype, shape=(-1, self.width)),)
        return tuple(
            TensorSpec(name=name, datatype=self._datatype(position), shape=(-1,), labels=self._labels(position))
            for position, name in enumerate(self.names)
        )

    def matrix(self, inputs: Values) -> Array:
        """The rows as a contiguous array of FP32 or FP64 numbers, shape [rows, width]; no copy where none is needed.

        Raises:
            InvalidRequest: another width, a missing or unknown column, something that is no number, an unknown
                category.
        """
        if self.categories:
            return np.column_stack(
                [self._coded(position, column) for position, column in enumerate(self.columns(inputs))]
            )
        if len(inputs) == 1:
            ((name, value),) = inputs.items()
            shape = value.shape
            if len(shape) == 2 and shape[1] == self.width:
                return self._numbers(name, value)
            if len(shape) == 1 and self.width == 1:
                return self._numbers(name, value).reshape(-1, 1)
            if name not in self.names:
                raise InvalidRequest(
                    f"input {name!r} has shape {list(shape)}; expected [rows, {self.width}], {self._described()}"
                )
        columns = self.columns(inputs)
        names = self.names or tuple(inputs)
        return np.column_stack([self._numbers(name, column) for name, column in zip(names, columns, strict=True)])

    def columns(self, inputs: Values) -> list[Array]:
        """One array of shape [rows] for each column, in the model's order; in the caller's where it names none.

        Raises:
            InvalidRequest: a column is missing or unknown, or they differ in length.
        """
        if not self.names and len(inputs) != self.width:
            raise InvalidRequest(
                f"{len(inputs)} inputs came; expected one of shape [rows, {self.width}], or {self.width} columns in "
                "the order of training: the model does not name them"
            )
        names = self.names or tuple(inputs)
        missing = [name for name in names if name not in inputs]
        unknown = [] if self.ignores_others else [name for name in inputs if name not in names]
        if missing or unknown:
            faults = [f"missing {', '.join(map(repr, missing))}"] if missing else []
            faults += [f"unknown {', '.join(map(repr, unknown))}"] if unknown else []
            raise InvalidRequest(f"columns are {'; '.join(faults)}: expected one input each, {self._described()}")
        columns = []
        for name in names:
            column = inputs[name]
            if column.ndim == 2 and column.shape[1] == 1:
                column = column.reshape(-1)
            if column.ndim != 1:
                raise InvalidRequest(f"column {name!r} has shape {list(column.shape)}; expected [rows] or [rows, 1]")
            columns.append(column)
        lengths = {len(column) for column in columns}
        if len(lengths) > 1:
            raise InvalidRequest(f"columns differ in length: {', '.join(map(str, sorted(lengths)))} rows came")
        return columns

    def _numbers(self, name: str, value: Array) -> Array:
        if value.dtype not in _FLOATS:
            if value.dtype.kind not in "biuf":
                raise InvalidRequest(f"input {name!r} is {datatype_of(value)}; expected numbers ({self.datatype})")
            return value.astype(np.float32 if self.datatype == "FP32" else np.float64)
        flags = value.flags
        if flags.c_contiguous and flags.aligned:
            return value
        return np.require(value, requirements=("C", "A"))

    def _coded(self, position: int, column: Array) -> Array:
        name = self.names[position]
        known = self.categories.get(position)
        if known is None:
            return self._numbers(name, column)
        textual = any(isinstance(category, str) for category in known)
        if textual != (column.dtype.kind in "OSU"):
            wanted = "text (BYTES)" if textual else "numbers"
            raise InvalidRequest(f"column {name!r} is {datatype_of(column)}; expected categories that are {wanted}")
        values = [text_of(value) for value in column.tolist()] if textual else column.tolist()
        codes = np.empty(len(values), np.float64)
        for row, value in enumerate(values):
            code = known.get(value, self.unknown)
            if value is None or value != value:  # noqa: PLR0124 - NaN: a missing value
                code = np.nan
            if code is None:
                raise InvalidRequest(
                    f"column {name!r}, row {row}: a category the model was not trained on; "
                    f"expected {', '.join(map(repr, list(known)[:10]))}{', ...' if len(known) > 10 else ''}"
                )
            codes[row] = code
        return codes

    def _datatype(self, position: int) -> str:
        known = self.categories.get(position)
        if known is None:
            return self.datatype
        kinds = {type(category) for category in known}
        return {frozenset({str}): "BYTES", frozenset({int}): "INT64", frozenset({bool}): "BOOL"}.get(
            frozenset(kinds), "BYTES" if str in kinds else "FP64"
        )

    def _labels(self, position: int) -> tuple[str, ...]:
        return tuple(str(category) for category in self.categories.get(position, ()))

    def _described(self) -> str:
        if not self.names:
            return "features without names"
        return f"columns {', '.join(self.names[:20])}{', ...' if self.width > 20 else ''}"


def text_of(value: Any) -> str | None:
    """The text of an element of a BYTES tensor; None stays None (a missing value).

    Raises:
        InvalidRequest: bytes that are no UTF-8.
    """
    if value is None or isinstance(value, str):
        return value
    try:
        return bytes(value).decode()
    except (UnicodeDecodeError, TypeError) as error:
        raise InvalidRequest(f"an element of a text column is no UTF-8 text: {error}") from error


def labels_of(classes: Sequence[Any] | Array) -> Array:
    """Class labels as an array that a datatype carries: text as an object array of bytes, numbers as they are."""
    array = np.asarray(classes)
    if array.dtype.kind in "OSU":
        encoded = np.empty(len(array), np.object_)
        encoded[:] = [each if isinstance(each, bytes) else str(each).encode() for each in array.tolist()]
        return encoded
    return array


def unknown_output(name: str, known: Sequence[str]) -> InvalidRequest:
    """The error for an output that the model does not have."""
    return InvalidRequest(f"output {name!r} is not one of the model's: expected {', '.join(known)}")
