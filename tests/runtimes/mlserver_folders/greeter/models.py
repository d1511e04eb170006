from mlserver import MLModel
from mlserver.codecs import StringCodec
from mlserver.types import InferenceRequest, InferenceResponse, Parameters


class Greeter(MLModel):
    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        headers = payload.parameters.headers
        language = getattr(payload.parameters, "language", "en")
        hello = {"en": "hello", "de": "hallo"}[language]
        return InferenceResponse(
            model_name=self.name,
            model_version=self.version,
            id="an-id-of-its-own",
            parameters=Parameters(headers={"x-greeted": headers["x-user"], "x-count": 3}, took={"ms": [1.5]}),
            outputs=[StringCodec.encode_output("greeting", [f"{hello} {headers['x-user']}"], use_bytes=False)],
        )
