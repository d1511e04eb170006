"""Moments, as ISO 8601."""

from __future__ import annotations

from datetime import datetime
from typing import Any, List, Union

from ..types import RequestInput, ResponseOutput
from .base import InputCodec, register_input_codec
from .lists import ListElement, is_list_of
from .string import bytes_input, bytes_output, each

_Datetime = Union[str, datetime]
_DatetimeStrCodec = "ascii"


def _encode_datetime(elem: _Datetime, use_bytes: bool) -> ListElement:
    iso = elem if isinstance(elem, str) else elem.isoformat()
    return iso.encode(_DatetimeStrCodec) if use_bytes else iso


def _decode_datetime(elem: ListElement) -> datetime:
    return datetime.fromisoformat(elem.decode(_DatetimeStrCodec) if isinstance(elem, bytes) else elem)


@register_input_codec
class DatetimeCodec(InputCodec):
    """A list of datetime, or of ISO 8601 text."""

    ContentType = "datetime"
    TypeHint = List[_Datetime]

    @classmethod
    def can_encode(cls, payload: Any) -> bool:
        """A list of datetime."""
        return is_list_of(payload, datetime)

    @classmethod
    def encode_output(
        cls, name: str, payload: List[_Datetime], use_bytes: bool = True, **kwargs: Any
    ) -> ResponseOutput:
        """ISO 8601, as bytes or as text."""
        return bytes_output(name, [_encode_datetime(moment, use_bytes) for moment in payload], "datetime")

    @classmethod
    def decode_output(cls, response_output: ResponseOutput) -> List[datetime]:
        """As of `decode_input`."""
        return each(response_output, _decode_datetime)

    @classmethod
    def encode_input(cls, name: str, payload: List[_Datetime], use_bytes: bool = True, **kwargs: Any) -> RequestInput:
        """As of `encode_output`."""
        return bytes_input(name, [_encode_datetime(moment, use_bytes) for moment in payload], "datetime")

    @classmethod
    def decode_input(cls, request_input: RequestInput) -> List[datetime]:
        """ISO 8601 to datetime."""
        return each(request_input, _decode_datetime)
