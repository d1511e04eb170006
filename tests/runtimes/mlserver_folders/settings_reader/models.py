import json

from mlserver import MLModel
from mlserver.codecs import StringCodec
from mlserver.types import InferenceRequest, InferenceResponse


class Reader(MLModel):
    async def load(self) -> bool:
        extra = self.settings.parameters.extra
        self._threshold = extra["threshold"]
        self._labels = extra["labels"]["names"]
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        known = {
            "threshold": self._threshold,
            "labels": self._labels,
            "own": self.settings.parameters.my_own,
            "class": self.settings.implementation is type(self),
            "name": self.name,
        }
        return InferenceResponse(model_name=self.name, outputs=[StringCodec.encode_output("s", [json.dumps(known)])])
