"""A scikit-learn estimator whose methods are outputs. Observed of mlserver-sklearn 1.7.1."""

from __future__ import annotations

from typing import Any

from headrace.compat.official import (
    InferenceError,
    InferenceRequest,
    InferenceResponse,
    MLModel,
    NumpyCodec,
    NumpyRequestCodec,
    PandasCodec,
    ResponseOutput,
    fill_outputs,
    get_model_uri,
    library,
    respond,
)

PREDICT_OUTPUT = "predict"
PREDICT_PROBA_OUTPUT = "predict_proba"
PREDICT_TRANSFORM = "transform"
VALID_OUTPUTS = [PREDICT_OUTPUT, PREDICT_PROBA_OUTPUT, PREDICT_TRANSFORM]
PREDICT_FN_KEY = "predict_fn"
WELLKNOWN_MODEL_FILENAMES = ["model.joblib", "model.pickle", "model.pkl"]


class SKLearnModel(MLModel):
    """Answers `predict`, or the methods among `VALID_OUTPUTS` that a request names; `_model` is the estimator."""

    _model: Any

    async def load(self) -> bool:
        """Unpickle the file that `parameters.uri` leads to."""
        joblib = library("joblib", extra="sklearn", needed_by=self)
        self._model = joblib.load(
            await get_model_uri(self._settings, wellknown_filenames=WELLKNOWN_MODEL_FILENAMES),
        )
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Call each method that is asked for.

        Raises:
            InferenceError: there is no such output, the estimator lacks the method, or more than one output is asked
                for where one is a data frame.
        """
        payload = self._check_request(payload)
        return respond(self, self._get_model_outputs(payload))

    def _check_request(self, payload: InferenceRequest) -> InferenceRequest:
        parameters = self._settings.parameters
        default = (parameters.extra or {}).get(PREDICT_FN_KEY, PREDICT_OUTPUT) if parameters else PREDICT_OUTPUT
        said = f"{SKLearnModel.__name__} only supports 'predict', 'predict_proba' and 'transform'"
        for name in fill_outputs(payload, default, VALID_OUTPUTS, said):
            if not hasattr(self._model, name):
                raise InferenceError(f"{_last(self._model)} models do not support '{name}'")
        return payload

    def _get_model_outputs(self, payload: InferenceRequest) -> list[ResponseOutput]:
        rows = self.decode_request(payload, default_codec=NumpyRequestCodec)
        asked = payload.outputs or []
        outputs: list[ResponseOutput] = []
        for output in asked:
            answer = getattr(self._model, output.name)(rows)
            if not PandasCodec.can_encode(answer):
                dense = answer.toarray() if hasattr(answer, "toarray") else answer  # what encoders give is sparse
                outputs.append(self.encode(dense, output, default_codec=NumpyCodec))
            elif len(asked) == 1:
                outputs += PandasCodec.encode_outputs(answer)
            else:
                raise InferenceError(
                    f"{output.name} returned columnar data of type {type(answer)} and "
                    f"{[each.name for each in asked]} were requested. Cannot encode multiple columnar data responses "
                    "into one response."
                )
        return outputs


def _last(model: Any) -> type:
    """The class that answers: of a pipeline, its last step's."""
    steps = getattr(model, "steps", None)
    return type(steps[-1][1]) if steps else type(model)
