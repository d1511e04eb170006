from mlserver import MLModel
from mlserver.codecs import NumpyCodec, StringCodec
from mlserver.types import InferenceRequest, InferenceResponse, MetadataTensor, RequestOutput


class Chooser(MLModel):
    async def load(self) -> bool:
        self.inputs = [MetadataTensor(name="x", datatype="FP32", shape=[-1, 2], parameters={"content_type": "np"})]
        self.outputs = [
            MetadataTensor(name="total", datatype="FP32", shape=[-1]),
            MetadataTensor(name="text", datatype="BYTES", shape=[-1], parameters={"content_type": "str"}),
        ]
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        x = self.decode(payload.inputs[0], default_codec=NumpyCodec)
        found = {"total": x.sum(axis=1), "text": [str(row.tolist()) for row in x]}
        wanted = payload.outputs or [RequestOutput(name="total")]
        return InferenceResponse(
            model_name=self.name,
            outputs=[
                self.encode(found[each.name], each, default_codec=NumpyCodec if each.name == "total" else StringCodec)
                for each in wanted
            ],
        )
