"""Tensors as the bytes of gRPC's raw contents."""

from __future__ import annotations

import struct
from typing import Any, List, Sequence, Tuple, TypeVar, Union

import numpy as np

from .codecs.numpy import _Dtypes, _name
from .codecs.string import encode_str
from .types import RequestInput, ResponseOutput, TensorData

InputOrOutput = Union[RequestInput, ResponseOutput]
_T = TypeVar("_T", RequestInput, ResponseOutput)
_SizeFormat = "<I"


def extract_raw(elems: List[_T]) -> Tuple[List[_T], List[bytes]]:
    """The contents of each tensor as bytes; the tensors are emptied."""
    raw = [pack(elem) for elem in elems]
    for elem in elems:
        elem.data = []  # type: ignore[assignment]  # the original has it so
    return elems, raw


def inject_raw(elems: List[_T], raw_contents: Sequence[bytes]) -> List[_T]:
    """Fill each tensor from bytes."""
    for elem, raw in zip(elems, raw_contents, strict=True):
        elem.data = TensorData(unpack(elem, raw))
    return elems


def pack(elem: InputOrOutput) -> bytes:
    """The contents of a tensor as bytes: little-endian, row-major; BYTES with a length before each element."""
    dtype = _Dtypes.get(_name(elem.datatype))
    if dtype is None:
        return b"".join(_sized(element) for element in elem.data)
    array = np.array(elem.data.root, dtype=dtype)
    expected = int(np.prod(elem.shape))
    if array.size != expected:
        raise struct.error(f"tensor {elem.name!r} has {array.size} elements; its shape {elem.shape} needs {expected}")
    return array.astype(dtype.newbyteorder("<"), copy=False).tobytes()


def _sized(element: Any) -> bytes:
    content = encode_str(element) if isinstance(element, str) else element
    return struct.pack(_SizeFormat, len(content)) + content


def unpack(elem: InputOrOutput, raw: bytes) -> List[Any]:
    """Bytes to the elements of a tensor, as its datatype and shape say."""
    dtype = _Dtypes.get(_name(elem.datatype))
    if dtype is None:
        return _elements(raw)
    expected = int(np.prod(elem.shape)) * dtype.itemsize
    if len(raw) != expected:
        raise struct.error(f"tensor {elem.name!r} has {len(raw)} bytes; its shape {elem.shape} needs {expected}")
    listed: List[Any] = np.frombuffer(raw, dtype=dtype.newbyteorder("<")).tolist()
    return listed


def _elements(raw: bytes) -> List[bytes]:
    found = []
    at = 0
    while at < len(raw):
        (size,) = struct.unpack_from(_SizeFormat, raw, at)
        at += struct.calcsize(_SizeFormat)
        if at + size > len(raw):
            raise struct.error(f"an element of {size} bytes is cut off at byte {len(raw)}")
        found.append(raw[at : at + size])
        at += size
    return found
