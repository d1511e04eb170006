"""BYTES tensors on a wire: each element behind its length as four little-endian bytes, row-major. Protocols call it."""

from __future__ import annotations

import math
import struct
from typing import Final

import numpy as np

from headrace.errors import InvalidRequest
from headrace.payload import Array

_LENGTH: Final = struct.Struct("<I")


def is_length(shape: tuple[int, ...], element: bytes) -> bool:
    """Whether a shape is no shape but the length of the one element, in bytes or in characters.

    MLServer's examples send a text so, `[5]` for `hello`, and its users do as they do.
    """
    if len(shape) != 1 or shape[0] < 2:
        return False
    return shape[0] == len(element) or shape[0] == len(element.decode(errors="replace"))


def single(element: bytes) -> Array:
    """An array of shape [1]."""
    array: Array = np.empty(1, np.object_)
    array[0] = element
    return array


def pack(array: Array) -> bytes:
    """A BYTES array as its wire form; text elements are written as UTF-8.

    Raises:
        InvalidRequest: an element is neither bytes nor text.
    """
    parts: list[bytes] = []
    for element in array.reshape(-1).tolist():
        match element:
            case bytes():
                data = element
            case str():
                data = element.encode()
            case _:
                raise InvalidRequest(f"a BYTES element must be bytes or text, got {type(element).__name__}")
        parts.append(_LENGTH.pack(len(data)))
        parts.append(data)
    return b"".join(parts)


def unpack(data: bytes | memoryview, shape: tuple[int, ...], what: str) -> Array:
    """The BYTES array of this shape in its wire form: an object array of `bytes`.

    Args:
        data: The whole tensor.
        shape: Its dimensions, none negative.
        what: The tensor as a message names it.

    Raises:
        InvalidRequest: the lengths do not add up to the data, or to the shape.
    """
    elements = math.prod(shape)
    if elements * 4 > len(data):  # also keeps a huge shape from being allocated
        raise InvalidRequest(f"{what}: shape {list(shape)} takes {elements} elements, but {len(data)} bytes hold fewer")
    data = bytes(data)  # slices of bytes are elements at once; those of a view would need another step each
    unpack_from, total = _LENGTH.unpack_from, len(data)
    found: list[bytes] = []
    position = 0
    for index in range(elements):
        start = position + 4
        if start > total:
            raise InvalidRequest(f"{what}: the length of element {index} is cut off")
        (length,) = unpack_from(data, position)
        position = start + length
        if position > total:
            raise InvalidRequest(f"{what}: element {index} takes {length} bytes, but {total - start} are left")
        found.append(data[start:position])
    if position != total:
        raise InvalidRequest(f"{what}: {total - position} bytes are left after {elements} elements")
    array: Array = np.empty(elements, np.object_)
    array[:] = found
    try:
        return array.reshape(shape)
    except (ValueError, OverflowError):  # a zero beside dimensions beyond any array, or too many of them
        raise InvalidRequest(f"{what}: no array has shape {list(shape)}") from None
