"""Decoding and encoding by content type: the tensor's own, or the metadata's."""

from __future__ import annotations

from typing import Any, List, Mapping, Optional, Union

from ..settings import ModelSettings
from ..types import (
    InferenceRequest,
    InferenceResponse,
    MetadataTensor,
    Parameters,
    RequestInput,
    RequestOutput,
    ResponseOutput,
)
from ..types._build import response
from .base import (
    InputCodecLike,
    RequestCodec,
    RequestCodecLike,
    find_input_codec,
    find_input_codec_by_payload,
    find_request_codec,
    find_request_codec_by_payload,
)
from .errors import CodecError

DefaultInputPrefix = "input-"
DefaultOutputPrefix = "output-"
DecodedParameterName = "_decoded_payload"

InputOrOutput = Union[RequestInput, ResponseOutput]
Parametrised = Union[InferenceRequest, RequestInput, RequestOutput, ResponseOutput, InferenceResponse]
Tagged = Union[MetadataTensor, ModelSettings]
Codec = Union[InputCodecLike, RequestCodecLike]

_NONE: Mapping[str, MetadataTensor] = {}


def inject_batch_dimension(shape: List[int]) -> List[int]:
    """A shape of one dimension as rows of one column."""
    return shape if len(shape) > 1 else [*shape, 1] if shape else [1]


def _get_content_type(request: Parametrised, metadata: Optional[Tagged] = None) -> Optional[str]:
    if request.parameters is not None and request.parameters.content_type:
        return request.parameters.content_type
    if metadata is not None and metadata.parameters is not None:
        return metadata.parameters.content_type
    return None


def _save_decoded(parametrised_obj: Parametrised, decoded_payload: Any) -> None:
    if parametrised_obj.parameters is None:
        parametrised_obj.parameters = Parameters()
    # Beside the fields, where neither dumps nor comparisons look.
    parametrised_obj.parameters.__dict__[DecodedParameterName] = decoded_payload


def has_decoded(parametrised_obj: Parametrised) -> bool:
    """Whether a decoded value was saved with it."""
    parameters = parametrised_obj.parameters
    return parameters is not None and (
        DecodedParameterName in parameters.__dict__ or DecodedParameterName in (parameters.model_extra or _NONE)
    )


def get_decoded(parametrised_obj: Parametrised) -> Any:
    """The decoded value saved with it; None: there is none."""
    return getattr(parametrised_obj.parameters, DecodedParameterName) if has_decoded(parametrised_obj) else None


def get_decoded_or_raw(parametrised_obj: Parametrised) -> Any:
    """The decoded value saved with it; else its data, or itself where it has none."""
    if has_decoded(parametrised_obj):
        return get_decoded(parametrised_obj)
    if isinstance(parametrised_obj, (RequestInput, ResponseOutput)):
        return parametrised_obj.data
    return parametrised_obj


def encode_response_output(
    payload: Any, request_output: RequestOutput, metadata_outputs: Mapping[str, MetadataTensor] = _NONE
) -> Optional[ResponseOutput]:
    """Value to output tensor, by content type, else by the value itself; None: no codec takes it."""
    content_type = _get_content_type(request_output, metadata_outputs.get(request_output.name))
    codec = find_input_codec(content_type) if content_type else find_input_codec_by_payload(payload)
    return codec.encode_output(request_output.name, payload) if codec is not None else None


def encode_inference_response(payload: Any, model_settings: ModelSettings) -> Optional[InferenceResponse]:
    """Value to response, by the value itself; None: no codec takes it."""
    codec = find_request_codec_by_payload(payload)
    if codec is None:
        return None
    return codec.encode_response(model_settings.name, payload, model_settings.version)


def decode_request_input(
    request_input: RequestInput, metadata_inputs: Mapping[str, MetadataTensor] = _NONE
) -> Optional[Any]:
    """Input tensor to value, by content type; the value is saved with it. None: it names no codec that we know."""
    content_type = _get_content_type(request_input, metadata_inputs.get(request_input.name))
    codec = find_input_codec(content_type) if content_type else None
    if codec is None:
        return None
    decoded = codec.decode_input(request_input)
    _save_decoded(request_input, decoded)
    return decoded


def decode_inference_request(
    inference_request: InferenceRequest,
    model_settings: Optional[ModelSettings] = None,
    metadata_inputs: Mapping[str, MetadataTensor] = _NONE,
) -> Optional[Any]:
    """Request to value: each input by its content type, then all of it by its own; itself where it names no codec."""
    for request_input in inference_request.inputs:
        decode_request_input(request_input, metadata_inputs)
    content_type = _get_content_type(inference_request, model_settings)
    codec = find_request_codec(content_type) if content_type else None
    if codec is None:
        return inference_request
    decoded = codec.decode_request(inference_request)
    _save_decoded(inference_request, decoded)
    return decoded


class SingleInputRequestCodec(RequestCodec):
    """A request codec of one tensor, by an input codec."""

    InputCodec: Optional[InputCodecLike] = None

    @classmethod
    def _codec(cls) -> Any:
        if cls.InputCodec is None:
            raise NotImplementedError(f"{cls.__name__} has no InputCodec")
        return cls.InputCodec

    @classmethod
    def can_encode(cls, payload: Any) -> bool:
        """Whether the input codec takes it."""
        return bool(cls._codec().can_encode(payload))

    @classmethod
    def encode_response(
        cls, model_name: str, payload: Any, model_version: Optional[str] = None, **kwargs: Any
    ) -> InferenceResponse:
        """Value to a response of one output."""
        output = cls._codec().encode_output(f"{DefaultOutputPrefix}1", payload, **kwargs)
        return response(
            model_name, [output], model_version=model_version, parameters=Parameters(content_type=cls.ContentType)
        )

    @classmethod
    def decode_response(cls, response: InferenceResponse) -> Any:
        """A response of one output to value."""
        if len(response.outputs) != 1:
            raise CodecError(
                f"The '{cls.ContentType}' codec only supports a single output tensor "
                f"({len(response.outputs)} were received)"
            )
        return cls._decoded(response.outputs[0], cls._codec().decode_output)

    @classmethod
    def encode_request(cls, payload: Any, **kwargs: Any) -> InferenceRequest:
        """Value to a request of one input."""
        request_input = cls._codec().encode_input(f"{DefaultInputPrefix}1", payload, **kwargs)
        return InferenceRequest(inputs=[request_input], parameters=Parameters(content_type=cls.ContentType))

    @classmethod
    def decode_request(cls, request: InferenceRequest) -> Any:
        """A request of one input to value."""
        if len(request.inputs) != 1:
            raise CodecError(
                f"The '{cls.ContentType}' codec only supports a single input tensor "
                f"({len(request.inputs)} were received)"
            )
        return cls._decoded(request.inputs[0], cls._codec().decode_input)

    @classmethod
    def _decoded(cls, tensor: InputOrOutput, decode: Any) -> Any:
        """What was decoded before, by whichever codec the tensor named, or is decoded now."""
        if not has_decoded(tensor):
            _save_decoded(tensor, decode(tensor))
        return get_decoded(tensor)
