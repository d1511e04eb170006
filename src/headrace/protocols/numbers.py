"""JSON data to tensors, one step from text to a typed buffer. The REST protocols' parse calls it.

Three roads. `small` takes the text of a few numbers: typed decoding refuses `"2"`, `true` and `null`, packing refuses
what the datatype cannot hold. `wide` takes a list that simdjson has parsed: no number becomes a Python object.
`careful` takes Python values; it alone accepts the rare forms (null as NaN, 1.0 for an integer, deeper nesting on small
bodies) and alone says what is wrong. The quick two decline by raising one of DECLINED, for whatever reason, and never
accept what `careful` refuses.

Buffers are little-endian, as every host is that Headrace runs on.
"""

from __future__ import annotations

import functools
import math
import struct
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec
import numpy as np
import simdjson

from headrace.errors import InvalidRequest
from headrace.payload import DTYPES, Array
from headrace.protocols import bytes_tensor

DECLINED: Final = (ValueError, TypeError, LookupError, AttributeError, OverflowError, RuntimeError, struct.error)
"""What a quick road raises to decline. msgspec's errors are ValueErrors, simdjson's ValueErrors and RuntimeErrors; too
deep a nesting is a RecursionError, which is a RuntimeError."""

MAX_DIMENSIONS: Final = 32
MAX_ELEMENTS: Final = 1 << 40
"""No body holds as many; products beyond it come from shapes made up to overflow."""

_SPACE: Final = frozenset(b" \t\n\r")
_OPEN: Final = ord("[")
_ONE: Final = (1,)
_EXACT: Final = 1 << 53  # integers beyond it are not told apart as JSON floats

# -- a few numbers, as text --

_REALS: Final = msgspec.json.Decoder(list[float | list[float]]).decode
_INTEGERS: Final = msgspec.json.Decoder(list[int | list[int]]).decode
_TEXTS: Final = msgspec.json.Decoder(list[str | list[str]]).decode

_SMALL: Final[Mapping[str, tuple[Callable[[Any], list[Any]], str, np.dtype[Any]]]] = {
    name: (decode, code, DTYPES[name])
    for name, decode, code in (
        ("FP32", _REALS, "f"),
        ("FP64", _REALS, "d"),
        ("INT8", _INTEGERS, "b"),
        ("INT16", _INTEGERS, "h"),
        ("INT32", _INTEGERS, "i"),
        ("INT64", _INTEGERS, "q"),
        ("UINT8", _INTEGERS, "B"),
        ("UINT16", _INTEGERS, "H"),
        ("UINT32", _INTEGERS, "I"),
        ("UINT64", _INTEGERS, "Q"),
    )
}


@functools.lru_cache(1024)
def _packer(code: str, count: int) -> Callable[..., bytes]:
    """Packs this many numbers; the standard form (`<`) checks ranges, of FP32 too."""
    return struct.Struct(f"<{count}{code}").pack


def small(text: msgspec.Raw, datatype: str, shape: tuple[int, ...]) -> Array:
    """The tensor in the text of a short list, flat or in rows; declines (DECLINED) whatever it is not sure of."""
    if datatype == "BYTES":
        texts: Any = _TEXTS(text)
        if type(texts[0]) is list:
            texts = _rows(texts, shape)
        if len(texts) == 1 and shape != _ONE and bytes_tensor.is_length(shape, texts[0].encode()):
            return bytes_tensor.single(texts[0].encode())
        # reshape takes -1 for "as many as there are"
        if math.prod(shape) != len(texts) or min(shape, default=0) < 0 or len(shape) > MAX_DIMENSIONS:
            raise ValueError(shape)
        return _object_array([each.encode() for each in texts], shape)
    decode, code, dtype = _SMALL[datatype]
    values = decode(text)
    if type(values[0]) is list:  # of none, no road but the careful one answers
        values = _rows(values, shape)
    # A list among the numbers does not pack; a shape that is larger, or has a negative dimension, does not build; but
    # numpy takes a sole -1 for "as many as there are".
    array: Array = np.ndarray(shape, dtype, _packer(code, len(values))(*values))
    if array.size != len(values) or shape == (-1,) or len(shape) > MAX_DIMENSIONS:
        raise ValueError(shape)
    return array


def is_nested(text: msgspec.Raw) -> bool:
    """Whether the text of a list, not empty, begins with a list in it."""
    view = memoryview(text)
    position = 1
    while view[position] in _SPACE:
        position += 1
    return view[position] == _OPEN


def _rows(values: Any, shape: tuple[int, ...]) -> list[Any]:
    rows, columns = shape
    if len(values) != rows:
        raise ValueError(len(values))
    for row in values:
        if len(row) != columns:
            raise ValueError(len(row))
    return values[0] if rows == 1 else [each for row in values for each in row]


def _object_array(elements: list[Any], shape: tuple[int, ...]) -> Array:
    array: Array = np.empty(len(elements), np.object_)
    array[:] = elements
    return array.reshape(shape)


# -- many numbers, parsed by simdjson --

_WIDE: Final[Mapping[str, tuple[str, np.dtype[Any]]]] = {
    "FP32": ("d", np.dtype(np.float64)),
    "FP64": ("d", np.dtype(np.float64)),
    "INT8": ("i", np.dtype(np.int64)),
    "INT16": ("i", np.dtype(np.int64)),
    "INT32": ("i", np.dtype(np.int64)),
    "INT64": ("i", np.dtype(np.int64)),
    "UINT8": ("u", np.dtype(np.uint64)),
    "UINT16": ("u", np.dtype(np.uint64)),
    "UINT32": ("u", np.dtype(np.uint64)),
    "UINT64": ("u", np.dtype(np.uint64)),
}


def wide(values: Any, datatype: str, shape: tuple[int, ...]) -> tuple[Array, int]:
    """The tensor in a list that simdjson has parsed, and of how many lists it is made if it is well formed.

    simdjson flattens `[[1,2],[3]]` and `[1,[2]]` alike. The lengths of all rows are checked here; that no further list
    hides among the numbers is for the caller, who counts the brackets of the whole text.
    Declines (DECLINED) whatever it is not sure of.
    """
    kind, read_as = _WIDE[datatype]
    lists = 1
    if len(shape) > 1 and len(values) == shape[0] and shape[0] and type(values[0]) is simdjson.Array:
        lists = _count_lists(values, shape)
    numbers: Array = np.frombuffer(values.as_buffer(of_type=kind), read_as)
    if not len(numbers) or len(numbers) != math.prod(shape) or min(shape, default=0) < 0 or len(shape) > MAX_DIMENSIONS:
        raise ValueError(len(numbers))
    dtype = DTYPES[datatype]
    if dtype is not read_as and dtype != read_as:
        numbers = _narrow(numbers, dtype)
    return numbers.reshape(shape), lists


def _count_lists(values: Any, shape: tuple[int, ...]) -> int:
    if len(values) != shape[0]:
        raise ValueError(len(values))
    if len(shape) == 1:
        return 1
    inner = shape[1:]
    if len(inner) == 1:
        width = inner[0]
        for row in values:
            if len(row) != width:
                raise ValueError(len(row))
        return 1 + shape[0]
    return 1 + sum([_count_lists(row, inner) for row in values])


def _narrow(numbers: Array, dtype: np.dtype[Any]) -> Array:
    """The same numbers in a narrower dtype. Raises OverflowError when one does not fit."""
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            narrow = numbers.astype(dtype)
        if np.isinf(narrow).any():
            raise OverflowError
        return narrow
    if len(numbers):
        limits = np.iinfo(dtype)
        if numbers.min() < limits.min or numbers.max() > limits.max:
            raise OverflowError
    return numbers.astype(dtype)


# -- anything, as Python values --


def check_shape(shape: tuple[int, ...], what: str) -> int:
    """The number of elements of a shape.

    Raises:
        InvalidRequest: a dimension is negative, or there are too many dimensions or elements for any array.
    """
    if len(shape) > MAX_DIMENSIONS:
        raise InvalidRequest(f"{what} has {len(shape)} dimensions; at most {MAX_DIMENSIONS} are allowed")
    if shape and min(shape) < 0:
        raise InvalidRequest(f"{what} has a negative dimension in its shape {list(shape)}")
    # Zero dimensions are left out: numpy refuses a shape whose other dimensions overflow.
    if math.prod(each or 1 for each in shape) > MAX_ELEMENTS:
        raise InvalidRequest(
            f"{what}: its shape causes total element count to exceed maximum size of {MAX_ELEMENTS} elements"
        )
    return math.prod(shape)


def careful(values: Any, datatype: str, shape: tuple[int, ...], what: str, *, objects: bool = False) -> Array:
    """The tensor in JSON values: a flat list, or one nested as its shape is; dimensions of 1 may be left out or added.

    Args:
        values: As decoded from JSON.
        datatype: Any but BF16, which JSON does not carry.
        shape: What the values must fill.
        what: The tensor as a message names it.
        objects: An element of BYTES may be any JSON value but a list, and stays one.

    Raises:
        InvalidRequest: the values are ragged, too few or many, or not of the datatype.
    """
    elements = check_shape(shape, what)
    if type(values) is not list:
        if datatype == "BYTES" and type(values) is str and bytes_tensor.is_length(shape, values.encode()):
            return bytes_tensor.single(values.encode())
        if elements != 1:
            raise InvalidRequest(f"{what}: data must be a list, got {_described(values)}")
        values = [values]
    dimensions, flat = flatten(values, what)
    if len(flat) != elements:
        if datatype == "BYTES" and type(flat[0] if flat else None) is str and len(flat) == len(dimensions) == 1:
            element = flat[0].encode()
            if bytes_tensor.is_length(shape, element):
                return bytes_tensor.single(element)
        raise InvalidRequest(f"{what} has {len(flat)} elements, but its shape {list(shape)} takes {elements}")
    if len(dimensions) > 1 and [d for d in dimensions if d != 1] != [d for d in shape if d != 1]:
        raise InvalidRequest(f"{what}: data is nested as {dimensions}, but its shape is {list(shape)}")
    if objects and datatype == "BYTES":
        return _object_array([each.encode() if type(each) is str else each for each in flat], shape)
    return typed(flat, datatype, what).reshape(shape)


def flatten(values: list[Any], what: str) -> tuple[list[int], list[Any]]:
    """The dimensions of a nested list and its elements, row-major.

    Raises:
        InvalidRequest: lists of one level differ in length, or stand beside elements.
    """
    dimensions = [len(values)]
    level = values
    while level and any(type(each) is list for each in level):
        for index, each in enumerate(level):
            if type(each) is not list:
                raise InvalidRequest(f"{what}: data is ragged: {_described(each)} stands beside lists")
            if len(each) != len(level[0]):
                raise InvalidRequest(
                    f"{what}: data is ragged: row {index} has {len(each)} elements, row 0 has {len(level[0])}"
                )
        dimensions.append(len(level[0]))
        if len(dimensions) > MAX_DIMENSIONS:
            raise InvalidRequest(f"{what}: data is nested deeper than {MAX_DIMENSIONS} lists")
        level = [inner for each in level for inner in each]
    return dimensions, level


def typed(flat: list[Any], datatype: str, what: str) -> Array:
    """JSON elements as a one-dimensional array of the datatype.

    Raises:
        InvalidRequest: an element is of another JSON type, or does not fit; the text gives its place.
    """
    kinds = set(map(type, flat))
    dtype = DTYPES[datatype]
    if datatype == "BYTES":
        if kinds - {str}:
            raise _mistyped(flat, (str,), f"{what}: BYTES data must be strings", "")
        return _object_array([each.encode() for each in flat], (len(flat),))
    if datatype == "BOOL":
        if kinds - {bool}:
            raise _mistyped(flat, (bool,), f"{what}: BOOL data must be true or false", "")
        return np.array(flat, dtype)
    if dtype.kind == "f":
        if kinds - {float, int, type(None)}:
            raise _mistyped(
                flat, (float, int, type(None)), f"{what}: {datatype} data must be numbers", " (null is NaN)"
            )
        if type(None) in kinds:
            flat = [math.nan if each is None else each for each in flat]
        try:
            numbers: Array = np.array(flat, np.float64)
        except OverflowError:
            raise InvalidRequest(f"{what}: a number is too large for {datatype}") from None
        if dtype == numbers.dtype:
            return numbers
        try:
            return _narrow(numbers, dtype)
        except OverflowError:
            with np.errstate(over="ignore"):
                index = int(np.flatnonzero(np.isinf(numbers.astype(dtype)))[0])
            raise InvalidRequest(f"{what}: element {index} is {flat[index]}, too large for {datatype}") from None
    if kinds - {float, int}:
        raise _mistyped(flat, (float, int), f"{what}: {datatype} data must be integers", "")
    if float in kinds:
        flat = [_integer(each, index, datatype, what) for index, each in enumerate(flat)]
    limits = np.iinfo(dtype)
    if flat and (min(flat) < limits.min or max(flat) > limits.max):
        index, value = next((i, each) for i, each in enumerate(flat) if not limits.min <= each <= limits.max)
        raise InvalidRequest(
            f"{what}: element {index} is {value}, outside {datatype}, which holds {limits.min} to {limits.max}"
        )
    return np.array(flat, dtype)


def _integer(value: float, index: int, datatype: str, what: str) -> int:
    """1.0 is an integer, as in JSON Schema: JSON has one kind of number and many writers put the point."""
    if type(value) is float and (not value.is_integer() or abs(value) > _EXACT):
        raise InvalidRequest(f"{what}: element {index} is {value}, but {datatype} data must be integers")
    return int(value)


def _mistyped(flat: list[Any], allowed: tuple[type, ...], expected: str, hint: str) -> InvalidRequest:
    index, value = next((i, each) for i, each in enumerate(flat) if type(each) not in allowed)
    return InvalidRequest(f"{expected}{hint}, but element {index} is {_described(value)}")


_JSON_KINDS: Final[Mapping[type, str]] = {
    type(None): "null",
    bool: "a boolean",
    int: "a number",
    float: "a number",
    str: "a string",
    list: "a list",
    dict: "an object",
}


def _described(value: Any) -> str:
    return _JSON_KINDS[type(value)]
