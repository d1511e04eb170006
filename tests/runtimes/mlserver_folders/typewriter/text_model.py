import asyncio
from typing import AsyncIterator

import mlserver
from mlserver import MLModel
from mlserver.codecs import StringCodec
from mlserver.errors import MLServerError
from mlserver.types import InferenceRequest, InferenceResponse


class TextModel(MLModel):
    async def predict_stream(self, payloads: AsyncIterator[InferenceRequest]) -> AsyncIterator[InferenceResponse]:
        payload = [_ async for _ in payloads][0]
        text = StringCodec.decode_input(payload.inputs[0])[0]
        for word in text.split():
            if word == "stop":
                raise MLServerError("told to stop", 503)
            await asyncio.sleep(0)
            mlserver.log(words=1)
            yield InferenceResponse(
                model_name=self._settings.name,
                outputs=[StringCodec.encode_output(name="output", payload=[word], use_bytes=True)],
            )
