"""JSON inside of elements."""

from __future__ import annotations

import json
from typing import Any, List, Union

import numpy as np
import orjson

from ..types import RequestInput, ResponseOutput
from .lists import ListElement
from .string import decode_str, each

InputOrOutput = Union[RequestInput, ResponseOutput]


class JSONEncoderWithArray(json.JSONEncoder):
    """An encoder that knows arrays and numpy's numbers."""

    def default(self, obj: Any) -> Any:
        """Arrays as lists, numpy's numbers as numbers."""
        if isinstance(obj, (np.ndarray, np.generic)):
            return obj.tolist()
        return super().default(obj)


def encode_to_json(v: Any, use_bytes: bool = True) -> Union[str, bytes]:
    """Compact JSON, arrays included; NaN is refused."""
    text = JSONEncoderWithArray(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode(v)
    return text.encode() if use_bytes else text


def encode_to_json_bytes(v: Any) -> bytes:
    """Compact JSON of plain values, and of bytes as text; NaN is null."""
    return orjson.dumps(v, default=_encode_object_to_bytes)


def _encode_object_to_bytes(obj: Any) -> str:
    if isinstance(obj, bytes):
        try:
            return obj.decode()
        except UnicodeDecodeError:
            raise TypeError("bytes that are not UTF-8 cannot be JSON") from None
    raise TypeError(f"{type(obj).__name__} cannot be JSON")


def decode_from_bytelike_json_to_dict(v: ListElement) -> Any:
    """JSON to value."""
    return orjson.loads(v)


def decode_json_input_or_output(input_or_output: InputOrOutput) -> List[Any]:
    """JSON in each element to values."""
    return each(input_or_output, lambda element: json.loads(decode_str(element)))
