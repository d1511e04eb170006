import mlserver
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class Measured(MLModel):
    async def load(self) -> bool:
        mlserver.register("rows_seen", "How many rows came in")
        mlserver.log(loads=1)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        rows = self.decode(payload.inputs[0], default_codec=NumpyCodec)
        mlserver.log(rows_seen=len(rows), first=float(rows[0]))
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("rows", rows)])
