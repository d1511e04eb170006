import json

import numpy as np
from mlserver import MLModel
from mlserver.codecs import decode_args
from mlserver.utils import get_model_uri


class DivorceModel(MLModel):
    async def load(self) -> bool:
        model_uri = await get_model_uri(self._settings)
        with open(model_uri) as model_file:
            raw = json.load(model_file)
        self._weights = {name: np.array(value) for name, value in raw.items()}
        return True

    @decode_args
    async def predict(self, marriage: np.ndarray, age: np.ndarray) -> np.ndarray:
        return self._weights["a"] + self._weights["bM"] * marriage + self._weights["bA"] * age
