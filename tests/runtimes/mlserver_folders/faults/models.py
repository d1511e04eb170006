import numpy as np
from fastapi import HTTPException
from mlserver import MLModel, ModelSettings
from mlserver.codecs import NumpyCodec, NumpyRequestCodec, StringCodec
from mlserver.errors import InferenceError, MLServerError
from mlserver.types import InferenceRequest, InferenceResponse


class TeapotError(MLServerError):
    def __init__(self, msg: str):
        super().__init__(msg, status_code=418)


class Faults(MLModel):
    def __init__(self, settings: ModelSettings):
        super().__init__(settings)
        self._extra = settings.parameters.extra

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        fault = payload.parameters.fault
        if fault == "teapot":
            raise TeapotError(self._extra["teapot"])
        if fault == "inference":
            raise InferenceError("not like this")
        if fault == "status":
            raise MLServerError("a status that is no error's", status_code=200)
        if fault == "http":
            raise HTTPException(status_code=451, detail={"why": "law"})
        if fault == "nothing":
            return None
        if fault == "dict":
            return {"outputs": []}
        if fault == "own":
            raise ValueError("my own mistake")
        if fault == "codec":
            return self.encode_response(NumpyRequestCodec.decode_request(payload), default_codec=NumpyRequestCodec)
        if fault == "reshape":
            return self.encode_response(self.decode(payload.inputs[0], default_codec=NumpyCodec))
        if fault == "number as text":
            return self.encode_response(StringCodec.decode_input(payload.inputs[0]))
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("y", np.zeros(1))])
