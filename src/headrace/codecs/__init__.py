"""Codecs: tensor to value by content type, and back.

Belongs here: what a content type means. Does not belong here: wires, models. May import: payload, errors.

To add one: a file with a Codec, a row in `CODECS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

import numpy as np

from headrace.codecs.base import Codec, RequestCodec
from headrace.codecs.base64 import Base64Codec
from headrace.codecs.bytes import BlobCodec, BytesCodec
from headrace.codecs.datetime import DatetimeCodec
from headrace.codecs.json import JsonCodec
from headrace.codecs.numpy import NumpyCodec
from headrace.codecs.pandas import PandasCodec
from headrace.codecs.scalar import ScalarCodec
from headrace.codecs.string import StringCodec, TextCodec
from headrace.errors import InvalidRequest
from headrace.payload import Tensor

_NUMPY: Final = NumpyCodec()

CODECS: Final[Mapping[str, Codec]] = MappingProxyType(
    {
        "": _NUMPY,
        "np": _NUMPY,
        "str": StringCodec(),
        "text": TextCodec(),
        "bytes": BytesCodec(),
        "blob": BlobCodec(),
        "base64": Base64Codec(),
        "datetime": DatetimeCodec(),
        "json": JsonCodec(),
        "scalar": ScalarCodec(),
    }
)
"""Content type of a tensor to its codec."""

REQUEST_CODECS: Final[Mapping[str, RequestCodec]] = MappingProxyType({"pd": PandasCodec(CODECS)})
"""Content type of a whole request to its codec."""


def decode(tensor: Tensor, content_type: str) -> Any:
    """The value of a tensor.

    Raises:
        InvalidRequest: no such content type, or the tensor does not fit it.
    """
    return _codec(content_type, tensor.name).decode(tensor)


def encode(name: str, value: Any, content_type: str = "") -> Tensor:
    """A value as a tensor, by the codec of this content type, or by the one codec that accepts it.

    Raises:
        InvalidRequest: no such content type, it does not carry the value, or none or several accept it.
    """
    if content_type:
        return _codec(content_type, name).encode(name, value)
    if isinstance(value, np.ndarray) and value.dtype.kind != "M":
        return _NUMPY.encode(name, value)
    found = [key for key, codec in CODECS.items() if key and codec.accepts(value)]
    if len(found) == 1:
        return CODECS[found[0]].encode(name, value)
    which = (
        f"several carry it ({', '.join(found)})" if found else f"none of {', '.join(filter(None, CODECS))} carries it"
    )
    raise InvalidRequest(f"'{name}': a {type(value).__name__} names no content type, and {which}")


def decode_request(tensors: tuple[Tensor, ...], content_type: str) -> Any:
    """The value of all tensors of a request together.

    Raises:
        InvalidRequest: no such content type, or the tensors do not fit together.
    """
    return _request_codec(content_type).decode(tensors)


def encode_request(value: Any, content_type: str = "") -> tuple[Tensor, ...]:
    """A value as several tensors.

    Raises:
        InvalidRequest: no such content type, or none carries the value.
    """
    if content_type:
        return _request_codec(content_type).encode(value)
    for codec in REQUEST_CODECS.values():
        if codec.accepts(value):
            return codec.encode(value)
    raise InvalidRequest(f"no request content type ({', '.join(REQUEST_CODECS)}) carries a {type(value).__name__}")


def _codec(content_type: str, name: str) -> Codec:
    codec = CODECS.get(content_type)
    if codec is None:
        known = ", ".join(filter(None, CODECS))
        raise InvalidRequest(f"'{name}': unknown content type '{content_type}'; expected one of {known}")
    return codec


def _request_codec(content_type: str) -> RequestCodec:
    codec = REQUEST_CODECS.get(content_type)
    if codec is None:
        known = ", ".join(REQUEST_CODECS)
        raise InvalidRequest(f"unknown content type '{content_type}' of a request; expected one of {known}")
    return codec
