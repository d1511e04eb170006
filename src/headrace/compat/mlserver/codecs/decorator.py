"""`decode_args`: a predict function whose type hints choose the codecs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, Dict, List, Optional, Tuple, Type, Union, get_args, get_origin, get_type_hints

from ..types import InferenceRequest, InferenceResponse, ResponseOutput
from ..types._build import response as build_response
from .base import (
    InputCodec,
    InputCodecLike,
    RequestCodec,
    RequestCodecLike,
    _plain,
    find_input_codec,
    find_request_codec,
)
from .errors import CodecNotFound, InputsNotFound, OutputNotFound, _InputMissing
from .utils import DefaultOutputPrefix

Codec = Union[InputCodecLike, RequestCodecLike]
PredictFunc = Callable[[Any, InferenceRequest], Coroutine[Any, Any, InferenceResponse]]


def _is_optional(t: Any) -> bool:
    return get_origin(_plain(t)) is Union and len(get_args(t)) == 2 and type(None) in get_args(t)


def _unwrap_optional(t: Any) -> Any:
    """`Optional[X]` as X; anything else as it is."""
    if not _is_optional(t):
        return t
    return next(argument for argument in get_args(t) if argument is not type(None))


def _as_list(a: Any) -> List[Any]:
    """What a function gave, as outputs."""
    if a is None:
        return []
    return list(a) if isinstance(a, tuple) else [a]


def _is_codec_type(c: Codec, t: Type[Any]) -> bool:
    return issubclass(c, t) if inspect.isclass(c) else isinstance(c, t)


class SignatureCodec(RequestCodec):
    """A request codec made of the type hints of one function."""

    def __init__(self, predict: Callable[..., Any]) -> None:
        self._predict = predict
        self._input_codecs, self._output_codecs = self._get_codecs(predict)
        self._request_argument = self._get_request_codec()
        self._required = [
            parameter.name
            for parameter in inspect.signature(predict).parameters.values()
            if parameter.name in self._input_codecs and parameter.default is parameter.empty
        ]

    def _get_codecs(self, pred: Callable[..., Any]) -> Tuple[Dict[str, Codec], List[Codec]]:
        hints = self._get_type_hints(pred)
        returned = hints.pop("return", None)
        self._input_hints = hints
        self._output_hints = self._get_output_hints(returned)
        inputs = {name: self._find_codec(name, hint, is_input=True) for name, hint in hints.items()}
        return inputs, [self._find_codec(None, hint) for hint in self._output_hints]

    def _get_type_hints(self, pred: Callable[..., Any]) -> Dict[str, Any]:
        return {name: _unwrap_optional(hint) for name, hint in get_type_hints(pred).items()}

    @staticmethod
    def _get_output_hints(returned: Any) -> List[Any]:
        if returned is None:
            return []
        if get_origin(returned) is tuple:
            return [_unwrap_optional(hint) for hint in get_args(returned)]
        return [returned]

    def _find_codec(self, name: Optional[str], type_hint: Any, is_input: bool = False) -> Codec:
        codec: Optional[Codec] = find_input_codec(type_hint=type_hint) or find_request_codec(type_hint=type_hint)
        if codec is None:
            raise CodecNotFound(name=name, payload_type=str(type_hint), is_input=is_input)
        return codec

    def _get_request_codec(self) -> Optional[Tuple[str, Any]]:
        """The argument that takes the inputs no other argument is named for."""
        for name, codec in self._input_codecs.items():
            if _is_codec_type(codec, RequestCodec):
                return name, codec
        return None

    def decode_request(self, request: InferenceRequest) -> Dict[str, Any]:  # type: ignore[override]
        """Values by argument.

        Raises:
            InputsNotFound: inputs that no argument takes.
            TypeError: an argument without a default has no input; a 400.
            CodecNotFound: an input named like the argument that takes the whole request.
        """
        values: Dict[str, Any] = {}
        extra = []
        for request_input in request.inputs:
            codec: Any = self._input_codecs.get(request_input.name)
            if codec is None:
                extra.append(request_input)
            elif _is_codec_type(codec, InputCodec):
                values[request_input.name] = codec.decode_input(request_input)
            else:
                raise CodecNotFound(name=request_input.name, is_input=True)
        if extra:
            if self._request_argument is None:
                raise InputsNotFound(extra, self._input_hints)
            name, request_codec = self._request_argument
            values[name] = request_codec.decode_request(InferenceRequest(parameters=request.parameters, inputs=extra))
        missing = [name for name in self._required if name not in values]
        if missing:
            raise _InputMissing(missing, [request_input.name for request_input in request.inputs])
        return values

    def encode_response(  # type: ignore[override]  # the original has it so
        self, model_name: str, payload: Any, model_version: Optional[str] = None
    ) -> InferenceResponse:
        """Outputs of what the function gave, named by position.

        Raises:
            OutputNotFound: a value that no return hint announces.
        """
        outputs: List[ResponseOutput] = []
        for idx, value in enumerate(_as_list(payload)):
            outputs.extend(self._encode_outputs(idx, value))
        return build_response(model_name, outputs, model_version=model_version)

    def _encode_outputs(self, idx: int, payload: Any) -> List[ResponseOutput]:
        if payload is None:
            return []
        codec: Any = self._output_codecs[idx] if idx < len(self._output_codecs) else None
        if codec is None or not codec.can_encode(payload):
            raise OutputNotFound(idx, type(payload), self._output_hints)
        if _is_codec_type(codec, InputCodec):
            return [codec.encode_output(f"{DefaultOutputPrefix}{idx}", payload)]
        whole: InferenceResponse = codec.encode_response(model_name="", payload=payload)
        return whole.outputs


def decode_args(predict: Callable[..., Any]) -> PredictFunc:
    """Let `predict` take and give plain values, as its type hints say.

    Raises:
        CodecNotFound: a hint that no codec takes.
    """
    codec = SignatureCodec(predict)

    @wraps(predict)
    async def _f(self: Any, request: InferenceRequest) -> InferenceResponse:
        values = codec.decode_request(request)
        outputs = await predict(self, **values)
        return codec.encode_response(model_name=self.name, payload=outputs, model_version=self.version)

    return _f
