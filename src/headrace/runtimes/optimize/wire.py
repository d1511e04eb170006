"""ONNX files as bytes: a writer and a reader of the few message fields that tree graphs need. Called by `graph`.

The `onnx` package costs a server tens of megabytes and a second of import for what is, for trees, six message
types and packed integers. Field numbers are those of onnx.proto (IR version 9); values are written packed, which
readers of protocol buffers accept for every repeated number.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]

VARINT: Final = 0
BYTES: Final = 2

ELEMENT: Final[dict[str, int]] = {"float32": 1, "uint8": 2, "int32": 6, "int64": 7, "bool": 9, "float64": 11}
"""numpy dtype name to TensorProto.DataType."""

_NAMES: Final = {number: name for name, number in ELEMENT.items()}
_ATTRIBUTE_INT: Final = 2
_ATTRIBUTE_TENSOR: Final = 4
_ATTRIBUTE_INTS: Final = 7


def varint(value: int) -> bytes:
    """One non-negative integer, seven bits a byte, least significant first."""
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)


def varints(values: Integers) -> bytes:
    """Many non-negative integers, as `varint` would write each."""
    if values.size == 0:
        return b""
    groups = max(1, -(-int(values.max()).bit_length() // 7))
    parts = (values[:, None] >> (7 * np.arange(groups))) & 0x7F
    used = np.ones(parts.shape, dtype=bool)
    for group in range(1, groups):
        used[:, group] = values >= 1 << (7 * group)
    parts[:, :-1] |= np.where(used[:, 1:], 0x80, 0)
    return parts.astype(np.uint8)[used].tobytes()


def read_varints(packed: bytes) -> Integers:
    """The integers that `varints` wrote."""
    raw = np.frombuffer(packed, dtype=np.uint8).astype(np.int64)
    if raw.size == 0:
        return raw
    ends = np.flatnonzero(raw < 0x80)
    starts = np.concatenate(([0], ends[:-1] + 1))
    within = np.arange(raw.size) - np.repeat(starts, ends - starts + 1)
    return np.add.reduceat((raw & 0x7F) << (7 * within), starts)


def field(number: int, value: int | bytes | str) -> bytes:
    """A field of a message: an integer as varint, bytes and text with their length before them."""
    if isinstance(value, int):
        return varint(number << 3 | VARINT) + varint(value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | BYTES) + varint(len(data)) + data


def fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The fields of a message in order: integers for varints, bytes for the rest.

    Raises:
        ValueError: if the bytes are no message, or use a wire type that ONNX tree graphs do not.
    """
    position = 0
    while position < len(message):
        tag, position = _read_varint(message, position)
        number, kind = tag >> 3, tag & 7
        if kind == VARINT:
            value, position = _read_varint(message, position)
            yield number, value
            continue
        if kind == BYTES:
            length, position = _read_varint(message, position)
        elif kind in {1, 5}:
            length = 8 if kind == 1 else 4
        else:
            raise ValueError(f"byte {position}: wire type {kind} is not part of an ONNX file")
        if position + length > len(message):
            raise ValueError(f"byte {position}: field {number} ends after the file does")
        yield number, message[position : position + length]
        position += length


def _read_varint(message: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if position >= len(message):
            raise ValueError(f"byte {position}: the file ends within a number")
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7


def tensor(array: npt.NDArray[Any], name: str = "") -> bytes:
    """A TensorProto."""
    return b"".join(
        (
            *(field(1, size) for size in array.shape),
            field(2, ELEMENT[array.dtype.name]),
            field(8, name),
            field(9, np.ascontiguousarray(array).tobytes()),
        )
    )


def read_tensor(message: bytes) -> npt.NDArray[Any]:
    """The array of a TensorProto that holds raw data."""
    shape: list[int] = []
    dtype, raw = "", b""
    for number, value in fields(message):
        if number == 1:
            shape.extend([value] if isinstance(value, int) else read_varints(value).tolist())
        elif number == 2 and isinstance(value, int):
            dtype = _NAMES[value]
        elif number == 9 and isinstance(value, bytes):
            raw = value
    return np.frombuffer(raw, dtype=dtype).reshape(shape)


def attribute(name: str, value: int | npt.NDArray[Any] | Integers, *, integers: bool = False) -> bytes:
    """An AttributeProto: an integer, a list of integers (`integers=True`), or a tensor."""
    if isinstance(value, int):
        return field(1, name) + field(3, value) + field(20, _ATTRIBUTE_INT)
    if integers:
        return field(1, name) + field(8, varints(value)) + field(20, _ATTRIBUTE_INTS)
    return field(1, name) + field(5, tensor(value)) + field(20, _ATTRIBUTE_TENSOR)


def read_attribute(message: bytes) -> tuple[str, int | npt.NDArray[Any]]:
    """Name and value of an AttributeProto that `attribute` can write."""
    name = ""
    value: int | npt.NDArray[Any] = 0
    kind = 0
    single: list[int] = []
    for number, part in fields(message):
        if number == 1 and isinstance(part, bytes):
            name = part.decode()
        elif number == 3 and isinstance(part, int):
            value = part
        elif number == 5 and isinstance(part, bytes):
            value = read_tensor(part)
        elif number == 8:
            if isinstance(part, bytes):
                value = read_varints(part)
            else:
                single.append(part)
        elif number == 20 and isinstance(part, int):
            kind = part
    if kind == _ATTRIBUTE_INTS and single:
        value = np.array(single, dtype=np.int64)
    return name, value


def node(
    kind: str, inputs: Iterable[str], outputs: Iterable[str], attributes: Iterable[bytes] = (), domain: str = ""
) -> bytes:
    """A NodeProto."""
    return b"".join(
        (
            *(field(1, name) for name in inputs),
            *(field(2, name) for name in outputs),
            field(4, kind),
            *(field(5, item) for item in attributes),
            field(7, domain),
        )
    )


def value_info(name: str, dtype: str, shape: Iterable[int | str]) -> bytes:
    """A ValueInfoProto; a text dimension is a symbol."""
    dimensions = b"".join(field(1, field(1 if isinstance(size, int) else 2, size)) for size in shape)
    return field(1, name) + field(2, field(1, field(1, ELEMENT[dtype]) + field(2, dimensions)))


def model(
    nodes: Iterable[bytes], constants: Iterable[bytes], inputs: Iterable[bytes], outputs: Iterable[bytes]
) -> bytes:
    """A ModelProto with opset 18 and ai.onnx.ml 5."""
    graph = b"".join(
        (
            *(field(1, item) for item in nodes),
            field(2, "headrace"),
            *(field(5, item) for item in constants),
            *(field(11, item) for item in inputs),
            *(field(12, item) for item in outputs),
        )
    )
    opsets = field(8, field(1, "") + field(2, 18)) + field(8, field(1, "ai.onnx.ml") + field(2, 5))
    return field(1, 9) + field(2, "headrace") + field(7, graph) + opsets


def read_nodes(message: bytes) -> Iterator[tuple[str, bytes]]:
    """Operator and bytes of each node of a ModelProto, in order."""
    for number, graph in fields(message):
        if number == 7 and isinstance(graph, bytes):
            for part, item in fields(graph):
                if part == 1 and isinstance(item, bytes):
                    kinds = [value for at, value in fields(item) if at == 4]
                    yield (kinds[0].decode() if kinds and isinstance(kinds[0], bytes) else ""), item
