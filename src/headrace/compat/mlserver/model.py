"""The class that custom runtimes inherit."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Dict, List, Optional

from .codecs import (
    InputCodecLike,
    RequestCodecLike,
    decode_inference_request,
    decode_request_input,
    encode_inference_response,
    encode_response_output,
)
from .codecs.errors import CodecNotFound
from .settings import ModelSettings
from .types import (
    InferenceRequest,
    InferenceResponse,
    MetadataModelResponse,
    MetadataTensor,
    Parameters,
    RequestInput,
    RequestOutput,
    ResponseOutput,
)


def _generate_metadata_index(metadata_tensors: Optional[List[MetadataTensor]]) -> Dict[str, MetadataTensor]:
    return {tensor.name: tensor for tensor in metadata_tensors or ()}


class MLModel:
    """A model: `load` it, `predict` with it, `unload` it."""

    def __init__(self, settings: ModelSettings) -> None:
        self._settings = settings
        self._inputs_index = _generate_metadata_index(settings.inputs)
        self._outputs_index = _generate_metadata_index(settings.outputs)
        self.ready = False

    async def load(self) -> bool:
        """Bring the model into memory; says whether it is ready."""
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Answer one request."""
        raise NotImplementedError("predict() method not implemented")

    async def predict_stream(self, payloads: AsyncIterator[InferenceRequest]) -> AsyncIterator[InferenceResponse]:
        """Answer a stream of requests; by default the first alone, by `predict`."""
        async for payload in payloads:
            yield await self.predict(payload)
            break

    async def unload(self) -> bool:
        """Give back what `load` took."""
        return True

    @property
    def name(self) -> str:
        """The name it is served under."""
        return self._settings.name

    @property
    def version(self) -> Optional[str]:
        """Its version, where it has one."""
        return self._settings.version

    @property
    def settings(self) -> ModelSettings:
        """Its settings."""
        return self._settings

    @property
    def inputs(self) -> Optional[List[MetadataTensor]]:
        """What it says of its inputs; may be set while loading."""
        return self._settings.inputs

    @inputs.setter
    def inputs(self, value: List[MetadataTensor]) -> None:
        self._settings.inputs = value
        self._inputs_index = _generate_metadata_index(value)

    @property
    def outputs(self) -> Optional[List[MetadataTensor]]:
        """What it says of its outputs; may be set while loading."""
        return self._settings.outputs

    @outputs.setter
    def outputs(self, value: List[MetadataTensor]) -> None:
        self._settings.outputs = value
        self._outputs_index = _generate_metadata_index(value)

    def decode(self, request_input: RequestInput, default_codec: Optional[InputCodecLike] = None) -> Any:
        """An input as a value, by its content type, else by the default codec, else its data."""
        decoded = decode_request_input(request_input, self._inputs_index)
        if decoded is not None:
            return decoded
        return default_codec.decode_input(request_input) if default_codec else request_input.data

    def decode_request(
        self, inference_request: InferenceRequest, default_codec: Optional[RequestCodecLike] = None
    ) -> Any:
        """A request as a value, by its content type, else by the default codec, else as it is."""
        decoded = decode_inference_request(inference_request, self._settings, self._inputs_index)
        if decoded is inference_request and default_codec:
            return default_codec.decode_request(inference_request)
        return decoded

    def encode_response(self, payload: Any, default_codec: Optional[RequestCodecLike] = None) -> InferenceResponse:
        """A value as a response, by what it is, else by the default codec.

        Raises:
            CodecNotFound: nothing takes it.
        """
        encoded = encode_inference_response(payload, self._settings)
        if encoded is not None:
            return encoded
        if default_codec:
            return default_codec.encode_response(self.name, payload, self.version)
        raise CodecNotFound(payload_type=str(type(payload)), is_input=False, is_request=True)

    def encode(
        self, payload: Any, request_output: RequestOutput, default_codec: Optional[InputCodecLike] = None
    ) -> ResponseOutput:
        """A value as an output, by the output's content type, else by what it is, else by the default codec.

        Raises:
            CodecNotFound: nothing takes it.
        """
        encoded = encode_response_output(payload, request_output, self._outputs_index)
        if encoded is not None:
            return encoded
        if default_codec:
            return default_codec.encode_output(request_output.name, payload)
        raise CodecNotFound(name=request_output.name, is_input=False, is_request=False)

    async def metadata(self) -> MetadataModelResponse:
        """What it says of itself."""
        settings = self._settings
        described = MetadataModelResponse(
            name=self.name,
            platform=settings.platform,
            versions=settings.versions,
            inputs=self.inputs,
            outputs=self.outputs,
        )
        if settings.parameters is not None and settings.parameters.content_type:
            described.parameters = Parameters(content_type=settings.parameters.content_type)
        return described
