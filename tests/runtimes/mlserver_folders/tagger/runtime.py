from typing import List

from mlserver import MLModel
from mlserver.codecs import StringCodec
from mlserver.logging import logger
from mlserver.types import InferenceRequest, InferenceResponse

import words


class Tagger(MLModel):
    async def load(self) -> bool:
        self._stop_words = set(words.STOP)
        logger.info("Tagger knows %d words", len(self._stop_words))
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        from words import tag  # imported late, as people do with what is heavy

        texts: List[str] = self.decode(payload.inputs[0], default_codec=StringCodec)
        return InferenceResponse(
            model_name=self.name,
            outputs=[StringCodec.encode_output("tags", [tag(text, self._stop_words) for text in texts])],
        )
