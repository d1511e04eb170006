"""The roles of codecs, and the registry that finds them by content type, payload or type hint."""

from __future__ import annotations

import functools
import types
import typing
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Dict, List, Optional, Type, TypeVar, Union

from ..logging import logger
from ..types import InferenceRequest, InferenceResponse, RequestInput, ResponseOutput

InputCodecLike = Union[Type["InputCodec"], "InputCodec"]
RequestCodecLike = Union[Type["RequestCodec"], "RequestCodec"]

_F = TypeVar("_F", bound=Callable[..., Any])
_C = TypeVar("_C")


def deprecated(reason: str) -> Callable[[_F], _F]:
    """Say at each call that a method has had its day."""

    def mark(method: _F) -> _F:
        @functools.wraps(method)
        def call(*args: Any, **kwargs: Any) -> Any:
            logger.warning("DEPRECATED! %s", reason)
            return method(*args, **kwargs)

        return typing.cast("_F", call)

    return mark


class InputCodec:
    """Turns one tensor into a value and back."""

    ContentType: ClassVar[str] = ""
    TypeHint: ClassVar[Any] = type(None)

    @classmethod
    def can_encode(cls, payload: Any) -> bool:
        """Whether `encode_output` takes it."""
        return False

    @classmethod
    @deprecated("The encode() method is now deprecated. Use encode_output() instead.")
    def encode(cls, name: str, payload: Any) -> ResponseOutput:
        """The old name of `encode_output`."""
        return cls.encode_output(name, payload)

    @classmethod
    def encode_output(cls, name: str, payload: Any, **kwargs: Any) -> ResponseOutput:
        """Value to output tensor."""
        raise NotImplementedError

    @classmethod
    def decode_output(cls, response_output: ResponseOutput) -> Any:
        """Output tensor to value."""
        raise NotImplementedError

    @classmethod
    def encode_input(cls, name: str, payload: Any, **kwargs: Any) -> RequestInput:
        """Value to input tensor."""
        raise NotImplementedError

    @classmethod
    @deprecated("The decode() method is now deprecated. Use decode_input() instead.")
    def decode(cls, request_input: RequestInput) -> Any:
        """The old name of `decode_input`."""
        return cls.decode_input(request_input)

    @classmethod
    def decode_input(cls, request_input: RequestInput) -> Any:
        """Input tensor to value."""
        raise NotImplementedError


class RequestCodec:
    """Turns a whole request into a value, and a value into a whole response."""

    ContentType: ClassVar[str] = ""
    TypeHint: ClassVar[Any] = type(None)

    @classmethod
    def can_encode(cls, payload: Any) -> bool:
        """Whether `encode_response` takes it."""
        return False

    @classmethod
    @deprecated("The encode() method is now deprecated. Use encode_response() instead.")
    def encode(cls, model_name: str, payload: Any, model_version: Optional[str] = None) -> InferenceResponse:
        """The old name of `encode_response`."""
        return cls.encode_response(model_name, payload, model_version)

    @classmethod
    def encode_response(
        cls, model_name: str, payload: Any, model_version: Optional[str] = None, **kwargs: Any
    ) -> InferenceResponse:
        """Value to response."""
        raise NotImplementedError

    @classmethod
    def decode_response(cls, response: InferenceResponse) -> Any:
        """Response to value."""
        raise NotImplementedError

    @classmethod
    def encode_request(cls, payload: Any, **kwargs: Any) -> InferenceRequest:
        """Value to request."""
        raise NotImplementedError

    @classmethod
    @deprecated("The decode() method is now deprecated. Use decode_request() instead.")
    def decode(cls, request: InferenceRequest) -> Any:
        """The old name of `decode_request`."""
        return cls.decode_request(request)

    @classmethod
    def decode_request(cls, request: InferenceRequest) -> Any:
        """Request to value."""
        raise NotImplementedError


class LazyHint:
    """A `TypeHint` of a library that is imported when somebody looks."""

    def __init__(self, find: Callable[[], Any], is_imported: Callable[[], bool]) -> None:
        self.find = find
        self.is_imported = is_imported

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        return self.find()


def _hint(codec: Any) -> Any:
    """The type hint of a codec; None where it names a library that nothing has imported, so nothing can mean it."""
    kind = codec if isinstance(codec, type) else type(codec)
    for base in kind.__mro__:
        found = base.__dict__.get("TypeHint")
        if found is not None:
            if isinstance(found, LazyHint) and not found.is_imported():
                return None
            break
    return codec.TypeHint


def _plain(hint: Any) -> Any:
    """`list[str]` as `List[str]`, and `X | Y` as `Union[X, Y]`, at any depth."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is list and arguments:
        return List[_plain(arguments[0])]  # type: ignore[misc]  # the original has it so
    if origin in {Union, types.UnionType}:
        return Union[tuple(_plain(argument) for argument in arguments)]
    return hint


def _find_codec_by_payload(payload: Any, codecs: Iterable[_C]) -> Optional[_C]:
    matching = [codec for codec in codecs if codec.can_encode(payload)]  # type: ignore[attr-defined]
    return _first(matching, f"payload with type {type(payload)}")


def _find_codec_by_type_hint(type_hint: Any, codecs: Iterable[_C]) -> Optional[_C]:
    plain = _plain(type_hint)
    return _first([codec for codec in codecs if _hint(codec) == plain], f"type hint {type_hint}")


def _first(matching: List[_C], what: str) -> Optional[_C]:
    if not matching:
        logger.debug("No codec was found for %s.", what)
        return None
    if len(matching) > 1:
        logger.warning(
            "Multiple codecs (%d) were found for a %s. The first one found will be used (%s).",
            len(matching),
            what,
            matching[0].ContentType,  # type: ignore[attr-defined]  # the original has it so
        )
    return matching[0]


class _CodecRegistry:
    """Codecs by content type, in the order of registration."""

    def __init__(
        self,
        input_codecs: Optional[Dict[str, InputCodecLike]] = None,
        request_codecs: Optional[Dict[str, RequestCodecLike]] = None,
    ) -> None:
        self._input_codecs = {} if input_codecs is None else input_codecs
        self._request_codecs = {} if request_codecs is None else request_codecs

    def register_input_codec(self, content_type: str, codec: InputCodecLike) -> None:
        self._input_codecs[content_type] = codec

    def find_input_codec(
        self, content_type: Optional[str] = None, payload: Optional[Any] = None, type_hint: Optional[Any] = None
    ) -> Optional[InputCodecLike]:
        if content_type:
            return self._input_codecs.get(content_type)
        if payload is not None:
            return self.find_input_codec_by_payload(payload)
        if type_hint is not None:
            return self.find_input_codec_by_type_hint(type_hint)
        return None

    def find_input_codec_by_payload(self, payload: Any) -> Optional[InputCodecLike]:
        return _find_codec_by_payload(payload, self._input_codecs.values())

    def find_input_codec_by_type_hint(self, type_hint: Any) -> Optional[InputCodecLike]:
        return _find_codec_by_type_hint(type_hint, self._input_codecs.values())

    def register_request_codec(self, content_type: str, codec: RequestCodecLike) -> None:
        self._request_codecs[content_type] = codec

    def find_request_codec(
        self, content_type: Optional[str] = None, payload: Optional[Any] = None, type_hint: Optional[Any] = None
    ) -> Optional[RequestCodecLike]:
        if content_type:
            return self._request_codecs.get(content_type)
        if payload is not None:
            return self.find_request_codec_by_payload(payload)
        if type_hint is not None:
            return self.find_request_codec_by_type_hint(type_hint)
        return None

    def find_request_codec_by_payload(self, payload: Any) -> Optional[RequestCodecLike]:
        return _find_codec_by_payload(payload, self._request_codecs.values())

    def find_request_codec_by_type_hint(self, type_hint: Any) -> Optional[RequestCodecLike]:
        return _find_codec_by_type_hint(type_hint, self._request_codecs.values())


_codec_registry = _CodecRegistry()

find_input_codec = _codec_registry.find_input_codec
find_input_codec_by_payload = _codec_registry.find_input_codec_by_payload
find_input_codec_by_type_hint = _codec_registry.find_input_codec_by_type_hint
find_request_codec = _codec_registry.find_request_codec
find_request_codec_by_payload = _codec_registry.find_request_codec_by_payload
find_request_codec_by_type_hint = _codec_registry.find_request_codec_by_type_hint

_I = TypeVar("_I", bound=InputCodecLike)
_R = TypeVar("_R", bound=RequestCodecLike)


def register_input_codec(CodecKlass: _I) -> _I:
    """Let an input codec be found; a decorator."""
    _codec_registry.register_input_codec(CodecKlass.ContentType, CodecKlass)
    return CodecKlass


def register_request_codec(CodecKlass: _R) -> _R:
    """Let a request codec be found; a decorator."""
    _codec_registry.register_request_codec(CodecKlass.ContentType, CodecKlass)
    return CodecKlass
