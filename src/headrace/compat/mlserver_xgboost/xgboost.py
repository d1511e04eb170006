"""An XGBoost model by its scikit-learn API. Observed of mlserver-xgboost 1.7.1."""

from __future__ import annotations

from typing import Any

from headrace.compat.official import (
    InferenceError,
    InferenceRequest,
    InferenceResponse,
    MLModel,
    NumpyCodec,
    NumpyRequestCodec,
    ResponseOutput,
    fill_outputs,
    get_model_uri,
    library,
    respond,
)

PREDICT_OUTPUT = "predict"
PREDICT_PROBA_OUTPUT = "predict_proba"
VALID_OUTPUTS = [PREDICT_OUTPUT, PREDICT_PROBA_OUTPUT]
WELLKNOWN_MODEL_FILENAMES = ["model.bst", "model.json", "model.ubj"]


class XGBoostModel(MLModel):
    """Answers `predict`, and `predict_proba` of a classifier; `_model` is an estimator of XGBoost's."""

    _model: Any

    async def load(self) -> bool:
        """Read the file that `parameters.uri` leads to."""
        xgboost = library("xgboost", extra="xgboost", needed_by=self)
        uri = await get_model_uri(self._settings, wellknown_filenames=WELLKNOWN_MODEL_FILENAMES)
        self._model = _load_sklearn_interface(uri, xgboost)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Call each method that is asked for.

        Raises:
            InferenceError: there is no such output, or the model is no classifier.
        """
        payload = self._check_request(payload)
        return respond(self, self._get_model_outputs(payload))

    def _check_request(self, payload: InferenceRequest) -> InferenceRequest:
        said = f"{XGBoostModel.__name__} only supports 'predict' and 'predict_proba'"
        for name in fill_outputs(payload, PREDICT_OUTPUT, VALID_OUTPUTS, said):
            if not hasattr(self._model, name):
                raise InferenceError(f"{type(self._model).__name__} models do not support '{name}'")
        return payload

    def _get_model_outputs(self, payload: InferenceRequest) -> list[ResponseOutput]:
        rows = self.decode_request(payload, default_codec=NumpyRequestCodec)
        return [
            self.encode(getattr(self._model, output.name)(rows), output, default_codec=NumpyCodec)
            for output in payload.outputs or []
        ]


def _load_sklearn_interface(model_uri: str, xgboost: Any) -> Any:
    """The estimator that the file was saved from; a booster saved alone is a regressor."""
    for kind in (xgboost.XGBRegressor, xgboost.XGBClassifier):
        model = kind()
        try:
            model.load_model(model_uri)
        except TypeError:  # the file says that it is of another kind
            continue
        return model
    ranker = xgboost.XGBRanker()
    ranker.load_model(model_uri)
    return ranker
