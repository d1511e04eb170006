"""Bytes as base64 text."""

from __future__ import annotations

import base64
import binascii
from typing import Any, List

from ..types import RequestInput, ResponseOutput
from .base import InputCodec, register_input_codec
from .lists import ListElement, is_list_of
from .string import bytes_input, bytes_output, each

_Base64StrCodec = "ascii"


def _ensure_bytes(elem: ListElement) -> bytes:
    return elem.encode(_Base64StrCodec) if isinstance(elem, str) else elem


def _encode_base64(elem: ListElement, use_bytes: bool) -> ListElement:
    encoded = base64.b64encode(_ensure_bytes(elem))
    return encoded if use_bytes else encoded.decode(_Base64StrCodec)


def _decode_base64(elem: ListElement) -> bytes:
    try:
        return base64.b64decode(_ensure_bytes(elem), validate=True)
    except binascii.Error:
        return _ensure_bytes(elem)  # plain bytes, as gRPC sends them


@register_input_codec
class Base64Codec(InputCodec):
    """A list of bytes."""

    ContentType = "base64"
    TypeHint = List[bytes]

    @classmethod
    def can_encode(cls, payload: Any) -> bool:
        """A list of bytes."""
        return is_list_of(payload, bytes)

    @classmethod
    def encode_output(cls, name: str, payload: List[bytes], use_bytes: bool = True, **kwargs: Any) -> ResponseOutput:
        """Base64, as bytes or as text."""
        return bytes_output(name, [_encode_base64(element, use_bytes) for element in payload], "base64")

    @classmethod
    def decode_output(cls, response_output: ResponseOutput) -> List[bytes]:
        """As of `decode_input`."""
        return each(response_output, _decode_base64)

    @classmethod
    def encode_input(cls, name: str, payload: List[bytes], use_bytes: bool = True, **kwargs: Any) -> RequestInput:
        """As of `encode_output`."""
        return bytes_input(name, [_encode_base64(element, use_bytes) for element in payload], "base64")

    @classmethod
    def decode_input(cls, request_input: RequestInput) -> List[bytes]:
        """Base64 to bytes; what is not base64 stays."""
        return each(request_input, _decode_base64)
