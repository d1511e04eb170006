import pandas as pd
from mlserver import MLModel
from mlserver.codecs import PandasCodec
from mlserver.types import InferenceRequest, InferenceResponse


class Scorer(MLModel):
    async def load(self) -> bool:
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        frame: pd.DataFrame = self.decode_request(payload, default_codec=PandasCodec)
        scores = pd.DataFrame({"score": frame["height"] * frame["weight"], "name": frame["name"].str.upper()})
        return self.encode_response(scores, default_codec=PandasCodec)
