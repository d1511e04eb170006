"""The errors' texts and statuses, which clients of the original know by heart."""

import pytest
from mlserver import errors
from mlserver.codecs.errors import CodecNotFound, InputsNotFound
from mlserver.metrics.errors import MetricNotFound
from mlserver.types import RequestInput

X = RequestInput(name="a", shape=[1], datatype="FP32", data=[1])


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (errors.MLServerError("m"), 400, "m"),
        (errors.MLServerError("m", 418), 418, "m"),
        (errors.MLServerError("m", status_code=500), 500, "m"),
        (errors.ModelNotFound("n"), 404, "Model n not found"),
        (errors.ModelNotFound("n", "v"), 404, "Model n with version v not found"),
        (errors.ModelNotReady("n"), 400, "Model n is not ready yet."),
        (errors.ModelNotReady("n", "v"), 400, "Model n with version v is not ready yet."),
        (errors.InferenceError("m"), 400, "m"),
        (errors.InvalidModelURI("n"), 422, "Invalid URI specified for model n"),
        (errors.InvalidModelURI("n", "u"), 422, "Invalid URI specified for model n (u)"),
        (errors.ModelParametersMissing("n"), 400, "Parameters missing for model n"),
        (CodecNotFound(), 400, "Codec not found for output field "),
        (
            CodecNotFound(name="a", payload_type="b", is_input=True, is_request=True),
            400,
            "Codec not found for input request with name 'a' and type b",
        ),
        (
            InputsNotFound([X, X], {"x": int, "y": str}),
            400,
            "Input 'a', 'a' was not found. Available inputs are 'x', 'y'.",
        ),
        (MetricNotFound("x"), 500, "No metric found with name 'x'"),
        (
            MetricNotFound("x", 3),
            500,
            "Invalid metric found with name 'x'. Object is of type '<class 'int'>' instead of 'MetricWrapperBase'.",
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_errors(error, status, text):
    """Each error has its status and text, and is an MLServerError."""
    assert (error.status_code, str(error), error.args) == (status, text, (text,))
    assert isinstance(error, errors.MLServerError)
