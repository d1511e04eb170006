"""Named tensors, as MLflow's models take and give them. Observed of mlserver-mlflow 1.7.1."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from headrace.compat.official import InferenceRequest, InferenceResponse, NumpyCodec, ResponseOutput

if TYPE_CHECKING:
    from headrace.compat.mlserver.codecs import RequestCodec, get_decoded, has_decoded, register_request_codec
    from headrace.compat.mlserver.types import Parameters, RequestInput
else:
    from mlserver.codecs import RequestCodec, get_decoded, has_decoded, register_request_codec
    from mlserver.types import Parameters, RequestInput

TensorDict = dict[str, np.ndarray]


@register_request_codec
class TensorDictCodec(RequestCodec):
    """A dict of arrays, one tensor each."""

    ContentType = "dict"
    TypeHint = TensorDict

    @classmethod
    def can_encode(cls, payload: Any) -> bool:
        """A dict of arrays by text."""
        return isinstance(payload, dict) and all(
            isinstance(name, str) and isinstance(value, np.ndarray) for name, value in payload.items()
        )

    @classmethod
    def encode_response(
        cls,
        model_name: str,
        payload: TensorDict,
        model_version: str | None = None,
        **kwargs: Any,  # noqa: ARG003 - the role's signature
    ) -> InferenceResponse:
        """A response of one output per array."""
        return InferenceResponse(
            model_name=model_name,
            model_version=model_version,
            parameters=Parameters(content_type=cls.ContentType),
            outputs=[NumpyCodec.encode_output(name, value) for name, value in payload.items()],
        )

    @classmethod
    def decode_response(cls, response: InferenceResponse) -> TensorDict:
        """The outputs as arrays."""
        return {tensor.name: _array(tensor) for tensor in response.outputs}

    @classmethod
    def encode_request(cls, payload: TensorDict, **kwargs: Any) -> InferenceRequest:  # noqa: ARG003 - as above
        """A request of one input per array."""
        return InferenceRequest(
            parameters=Parameters(content_type=cls.ContentType),
            inputs=[NumpyCodec.encode_input(name, value) for name, value in payload.items()],
        )

    @classmethod
    def decode_request(cls, request: InferenceRequest) -> TensorDict:
        """The inputs as arrays."""
        return {tensor.name: _array(tensor) for tensor in request.inputs}


def _array(tensor: RequestInput | ResponseOutput) -> Any:
    """What was decoded before, by whichever codec the tensor named, else the array."""
    if has_decoded(tensor):
        return get_decoded(tensor)
    return NumpyCodec.decode_input(tensor) if isinstance(tensor, RequestInput) else NumpyCodec.decode_output(tensor)
