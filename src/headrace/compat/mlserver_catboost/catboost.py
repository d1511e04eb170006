"""A CatBoost model. Observed of mlserver-catboost 1.7.1, which serves classifiers only."""

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

WELLKNOWN_MODEL_FILENAMES = ["model.cbm", "model.bin"]


class CatboostModel(MLModel):
    """Answers `predict`, whatever is asked for; `_model` is an estimator of CatBoost's."""

    _model: Any

    async def load(self) -> bool:
        """Read the file that `parameters.uri` leads to: a classifier; a regressor where it knows no classes."""
        catboost = library("catboost", extra="catboost", needed_by=self)
        uri = await get_model_uri(self._settings, wellknown_filenames=WELLKNOWN_MODEL_FILENAMES)
        model = catboost.CatBoostClassifier()
        model.load_model(uri)
        if not len(model.classes_):
            model = catboost.CatBoostRegressor()
            model.load_model(uri)
        self._model = model
        self.ready = True
        return self.ready

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """The labels of a classifier, the values of a regressor."""
        rows = self.decode_request(payload, default_codec=NumpyRequestCodec)
        return respond(self, [NumpyCodec.encode_output("predict", self._model.predict(rows))])
