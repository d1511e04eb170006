"""An MLflow model by its `python_function` flavor, and MLflow's scoring protocol. Observed of mlserver-mlflow 1.7.1."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from fastapi import Depends, Header, Request, Response

from headrace.compat.official import (
    InferenceError,
    InferenceRequest,
    InferenceResponse,
    MLModel,
    NumpyRequestCodec,
    PandasCodec,
    get_model_uri,
    library,
)

from .codecs import TensorDictCodec
from .metadata import DefaultInputPrefix, DefaultOutputPrefix, to_metadata_tensors, to_model_content_type

if TYPE_CHECKING:
    from headrace.compat.mlserver.codecs.errors import CodecNotFound
    from headrace.compat.mlserver.handlers import custom_handler
    from headrace.compat.mlserver.settings import ModelParameters
else:
    from mlserver.codecs.errors import CodecNotFound
    from mlserver.handlers import custom_handler
    from mlserver.settings import ModelParameters

__all__ = ["MLflowRuntime", "TensorDictCodec", "DefaultInputPrefix", "DefaultOutputPrefix"]

CONTENT_TYPES = ["text/csv", "application/json"]


async def _get_raw_body(request: Request) -> str:
    return (await request.body()).decode("utf-8")


class MLflowRuntime(MLModel):
    """Answers whatever the model gives; `_model` is what `mlflow.pyfunc.load_model` gave."""

    _model: Any
    _signature: Any
    _input_schema: Any

    async def load(self) -> bool:
        """Load the folder that `parameters.uri` leads to, and take metadata and content types from its signature."""
        mlflow = library("mlflow.pyfunc", extra="mlflow", needed_by=self)
        self._model = mlflow.load_model(await get_model_uri(self._settings))
        self._signature = self._model.metadata.signature
        self._input_schema = self._model.metadata.get_input_schema()
        self._sync_metadata()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Answer one request; its parameters, less content type and headers, are the model's params."""
        # Without a signature and a content type there is nothing to go by but how many inputs there are.
        codec = NumpyRequestCodec if len(payload.inputs) == 1 else PandasCodec
        rows = self.decode_request(payload, default_codec=codec)
        params = None
        if payload.parameters is not None:
            params = payload.parameters.model_dump(exclude={"content_type", "headers"}, exclude_unset=True) or None
        answer = self._model.predict(rows, params=params)
        try:
            return self.encode_response(answer)
        except CodecNotFound:  # a column of a table, a list of numbers
            return NumpyRequestCodec.encode_response(self.name, np.asarray(answer), self.version)

    @custom_handler(rest_path="/ping", rest_method="GET")
    async def ping(self) -> str:
        """Say that the model is there."""
        return "\n"

    @custom_handler(rest_path="/health", rest_method="GET")
    async def health(self) -> str:
        """Say that the model is there."""
        return "\n"

    @custom_handler(rest_path="/version", rest_method="GET")
    async def mlflow_version(self) -> str:
        """The version of MLflow that answers."""
        return str(library("mlflow", extra="mlflow", needed_by=self).__version__)

    @custom_handler(rest_path="/invocations")
    async def invocations(self, raw_body: str = Depends(_get_raw_body), content_type: str = Header()) -> Response:
        """Answer MLflow's scoring protocol: `{"predictions": ...}` to JSON or CSV.

        Raises:
            InferenceError: MLflow says what is wrong with the body or its content type.
        """
        if content_type.partition(";")[0].strip() not in CONTENT_TYPES:
            raise InferenceError(
                f"This predictor only supports the following content types, {CONTENT_TYPES}. Got '{content_type}'."
            )
        scoring = library("mlflow.pyfunc.scoring_server", extra="mlflow", needed_by=self)
        failures = library("mlflow.exceptions", extra="mlflow", needed_by=self)
        try:
            reply = scoring.invocations(raw_body, content_type, self._model, self._input_schema)
        except failures.MlflowException as error:
            raise InferenceError(error.message) from error
        if reply.status >= 400:
            raise InferenceError(reply.response)
        return Response(content=reply.response, media_type=reply.mimetype)

    def _sync_metadata(self) -> None:
        """Say of inputs, outputs and the request what the signature says, where there is one."""
        if self._signature is None:
            return
        if self._input_schema is not None:
            self.inputs = to_metadata_tensors(self._input_schema, prefix=DefaultInputPrefix)
            if self._settings.parameters is None:
                self._settings.parameters = ModelParameters()
            self._settings.parameters.content_type = to_model_content_type(self._input_schema)
        if self._signature.outputs is not None:
            self.outputs = to_metadata_tensors(self._signature.outputs, prefix=DefaultOutputPrefix)
