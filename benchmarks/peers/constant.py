"""A runtime as MLServer's users write them: the least one that answers. Both servers load this very file."""

from mlserver import MLModel
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput


class Constant(MLModel):
    async def load(self) -> bool:
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        output = ResponseOutput(name="answer", shape=[1], datatype="INT64", data=[42])
        return InferenceResponse(model_name=self.name, outputs=[output])
