"""MLServer: a custom runtime on an ONNX file."""

import numpy as np
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceResponse

from peers.engine import load


class Onnx(MLModel):
    async def load(self):
        self.answer = load(self.settings.parameters.uri)
        return True

    async def predict(self, request):
        rows = NumpyCodec.decode_input(request.inputs[0]).astype(np.float32, copy=False)
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("label", self.answer(rows))])
