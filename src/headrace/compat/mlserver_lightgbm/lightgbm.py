"""A LightGBM booster. Observed of mlserver-lightgbm 1.7.1."""

from __future__ import annotations

from typing import Any

from headrace.compat.official import (
    InferenceRequest,
    InferenceResponse,
    MLModel,
    NumpyCodec,
    NumpyRequestCodec,
    get_model_uri,
    library,
    respond,
)

WELLKNOWN_MODEL_FILENAMES = ["model.bst"]


class LightGBMModel(MLModel):
    """Answers `predict`, whatever is asked for; `_model` is the booster."""

    _model: Any

    async def load(self) -> bool:
        """Read the file that `parameters.uri` leads to."""
        lightgbm = library("lightgbm", extra="lightgbm", needed_by=self)
        uri = await get_model_uri(self._settings, wellknown_filenames=WELLKNOWN_MODEL_FILENAMES)
        self._model = lightgbm.Booster(model_file=uri)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """The booster's own answer: values, probabilities of the second class, or of each class."""
        rows = self.decode_request(payload, default_codec=NumpyRequestCodec)
        return respond(self, [NumpyCodec.encode_output("predict", self._model.predict(rows))])
