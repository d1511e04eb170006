"""Text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, List, TypeVar, Union, cast

from ..types import Parameters, RequestInput, ResponseOutput, TensorData
from ..types._build import held, response_output
from .base import InputCodec, register_input_codec, register_request_codec
from .errors import _InvalidTensor
from .lists import ListElement, as_list, is_list_of
from .utils import SingleInputRequestCodec

_DefaultStrCodec = "utf-8"
InputOrOutput = Union[RequestInput, ResponseOutput]
_T = TypeVar("_T")


def encode_str(elem: str) -> bytes:
    """Text to bytes."""
    return elem.encode(_DefaultStrCodec)


def decode_str(encoded: ListElement, str_codec: str = _DefaultStrCodec) -> str:
    """Bytes to text; text stays, anything else is empty."""
    if isinstance(encoded, bytes):
        return encoded.decode(str_codec)
    return encoded if isinstance(encoded, str) else ""  # type: ignore[redundant-expr]  # the original has it so


def elements(data: Any) -> List[Any]:
    """The elements of a BYTES tensor; of an array without listing it."""
    array = held(data)
    if array is not None:
        listed: List[Any] = array.ravel().tolist()
        return listed
    return list(as_list(data.root if isinstance(data, TensorData) else data))


def bytes_output(name: str, payload: List[Any], content_type: str) -> ResponseOutput:
    """An output of one row per element."""
    return response_output(
        name, "BYTES", [len(payload), 1], TensorData(payload), parameters=Parameters(content_type=content_type)
    )


def bytes_input(name: str, payload: List[Any], content_type: str) -> RequestInput:
    """An input of one row per element."""
    return RequestInput(
        name=name,
        datatype="BYTES",  # type: ignore[arg-type]  # the original has it so
        shape=[len(payload), 1],
        data=TensorData(payload),
        parameters=Parameters(content_type=content_type),
    )


def _decode_input_or_output(input_or_output: InputOrOutput) -> List[str]:
    return each(input_or_output, decode_str)


def each(input_or_output: InputOrOutput, decode: Callable[[Any], _T]) -> List[_T]:
    """The elements of a tensor, decoded; nulls reach the model as they were sent.

    Raises:
        CodecError: an element cannot be decoded.
    """
    try:
        return [cast("_T", None) if element is None else decode(element) for element in elements(input_or_output.data)]
    except ValueError as error:
        raise _InvalidTensor(input_or_output.name, error) from error


@register_input_codec
class StringCodec(InputCodec):
    """A list of str."""

    ContentType = "str"
    TypeHint = List[str]

    @classmethod
    def can_encode(cls, payload: Any) -> bool:
        """A list of str."""
        return is_list_of(payload, str)

    @classmethod
    def encode_output(cls, name: str, payload: List[str], use_bytes: bool = True, **kwargs: Any) -> ResponseOutput:
        """UTF-8, unless `use_bytes` is off."""
        return bytes_output(name, [encode_str(text) for text in payload] if use_bytes else list(payload), "str")

    @classmethod
    def decode_output(cls, response_output: ResponseOutput) -> List[str]:
        """As of `decode_input`."""
        return _decode_input_or_output(response_output)

    @classmethod
    def encode_input(cls, name: str, payload: List[str], use_bytes: bool = True, **kwargs: Any) -> RequestInput:
        """As of `encode_output`."""
        return bytes_input(name, [encode_str(text) for text in payload] if use_bytes else list(payload), "str")

    @classmethod
    def decode_input(cls, request_input: RequestInput) -> List[str]:
        """UTF-8 or text to text."""
        return _decode_input_or_output(request_input)


@register_request_codec
class StringRequestCodec(SingleInputRequestCodec):
    """A request of one list of str."""

    InputCodec = StringCodec
    ContentType = "str"
    TypeHint = List[str]
