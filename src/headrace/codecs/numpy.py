"""Content types `np` and none: the tensor's own array. Arrays of text become BYTES."""

from __future__ import annotations

from itertools import chain
from typing import Any

import numpy as np

from headrace.codecs.base import Codec
from headrace.codecs.elements import refused
from headrace.errors import InvalidRequest
from headrace.payload import DTYPES, Array, Tensor, datatype_of


class NumpyCodec(Codec):
    """Arrays, numpy scalars and nested lists of numbers. Decodes to the tensor's data without a copy.

    BF16 stays its bit pattern, uint16. Fixed-width text (`U`, `S`) decodes as the object array it travels as.
    """

    content_type = "np"

    def decode(self, tensor: Tensor) -> Array:
        """The tensor's data."""
        return tensor.data

    def encode(self, name: str, value: Any) -> Tensor:
        """The array as a tensor of the datatype that carries it."""
        array = value if isinstance(value, np.ndarray) else _array(name, value)
        kind = array.dtype.kind
        if kind in "SU":
            array = array.astype(np.object_)
        if array.dtype.kind == "O":
            return Tensor(name, "BYTES", _bytes(name, array))
        if not array.dtype.isnative:
            array = array.astype(array.dtype.newbyteorder("="))
        try:
            datatype = datatype_of(array)
        except InvalidRequest as exc:
            raise InvalidRequest(f"'{name}': {exc}") from exc
        return Tensor(name, datatype, array.astype(DTYPES[datatype], copy=False))

    def accepts(self, value: Any) -> bool:
        """Arrays but those of dates, numpy's scalars, and lists of numbers, nested or not."""
        if isinstance(value, np.ndarray):
            return value.dtype.kind in "biufSUO"
        if isinstance(value, np.generic):
            return value.dtype.kind in "biuf"
        return isinstance(value, list) and _is_numeric(value)


def _array(name: str, value: Any) -> Array:
    if not isinstance(value, np.generic | list | tuple | int | float):
        raise refused(name, value, "an array or a list of numbers")
    try:
        return np.asarray(value)
    except ValueError as exc:
        raise InvalidRequest(f"'{name}': the lists do not make an array: {exc}") from exc


def _is_numeric(values: list[Any]) -> bool:
    level = values
    while level and all(type(each) is list for each in level):
        if any(len(each) != len(level[0]) for each in level):
            return False
        level = list(chain.from_iterable(level))
    return all(isinstance(each, int | float | np.number | np.bool_) for each in level)


def _bytes(name: str, array: Array) -> Array:
    """An object array with text as UTF-8."""
    elements = array.ravel().tolist()
    for index, each in enumerate(elements):
        if isinstance(each, str):
            elements[index] = each.encode()
        elif not isinstance(each, bytes):
            raise InvalidRequest(
                f"'{name}': element {index} of an object array must be text or bytes, got {type(each).__name__}"
            )
    result: Array = np.empty(len(elements), np.object_)
    result[:] = elements
    return result.reshape(array.shape)
