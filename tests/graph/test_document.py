"""The JSON view of a request: V1's rows, V2's tensors, what JSON cannot hold; computed once."""

import numpy as np
import pytest

from headrace.errors import RuntimeFailed
from headrace.graph import document
from headrace.graph.document import View
from headrace.payload import InferenceRequest, InferenceResponse, Tensor


def texts(*values):
    array = np.empty(len(values), object)
    array[:] = values
    return array


def v1(*tensors, **parameters):
    return InferenceRequest(model_name="m", inputs=tensors, parameters=parameters, protocol="v1")


@pytest.mark.parametrize(
    ("tensors", "rows"),
    [
        ((Tensor("input-0", "INT64", np.array([1, 2])),), [1, 2]),
        ((Tensor("x", "FP64", np.array([[1.5, 2], [3, 4]])),), [[1.5, 2.0], [3.0, 4.0]]),
        ((Tensor("source", "BYTES", texts(b"dog", b"cat")),), [{"source": "dog"}, {"source": "cat"}]),
        (
            (Tensor("a", "INT64", np.array([1, 2])), Tensor("b", "BOOL", np.array([[True], [False]]))),
            [{"a": 1, "b": [True]}, {"a": 2, "b": [False]}],
        ),
        ((Tensor("a", "INT64", np.array([1, 2])), Tensor("b", "INT64", np.array([1]))), {"a": [1, 2], "b": [1]}),
        ((), []),
    ],
    ids=["values", "lists", "named", "objects", "no common rows", "nothing"],
)
def test_rows_of_v1(tensors, rows):
    """A request of V1 shows its rows as V1 writes them, and the other members of its body beside them."""
    found = document.of_request(v1(*tensors, source_type="dog"))
    assert found == {"source_type": "dog", "instances": rows, "predictions": rows}


def test_tensors_of_v2():
    """A request of V2 shows its tensors with name, shape, datatype and flat data, under both sides' names."""
    request = InferenceRequest(
        model_name="m",
        inputs=(Tensor("x", "FP32", np.array([[1, 2]], np.float32), {"content_type": "np"}),),
        id="7",
        parameters={"k": 1},
        protocol="v2_grpc",
    )
    entry = {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1.0, 2.0], "parameters": {"content_type": "np"}}
    assert document.of_request(request) == {"inputs": [entry], "outputs": [entry], "id": "7", "parameters": {"k": 1}}


def test_what_json_has_no_form_for():
    """NaN and infinities are null, bytes that are no text are base64, BF16 is the number it stands for."""
    found = document.of_response(
        InferenceResponse(
            model_name="m",
            outputs=(
                Tensor("f", "FP64", np.array([1, np.nan, np.inf])),
                Tensor("b", "BYTES", texts(b"\xff", "é")),
                Tensor("h", "BF16", np.array([0x3FC0], np.uint16)),
            ),
        )
    )
    assert [each["data"] for each in found["outputs"]] == [[1.0, None, None], [{"b64": "/w=="}, "é"], [1.5]]


def test_responses():
    """A response is `predictions` for V1 and `outputs` otherwise."""
    response = InferenceResponse(model_name="m", outputs=(Tensor("output-0", "INT64", np.array([1])),), id="1")
    assert document.of_response(response, protocol="v1") == {"predictions": [1]}
    assert document.of_response(response)["outputs"][0]["data"] == [1]


def test_bytes_that_are_none():
    """A BYTES tensor that holds numbers is the model's failure, and its text names the tensor."""
    with pytest.raises(RuntimeFailed, match="'x'"):
        document.of_request(v1(Tensor("x", "BYTES", np.array([1], object))))


def test_a_view_computes_once():
    """Conditions that share a view see one document."""
    view = View(v1(Tensor("x", "INT64", np.array([1]))))
    assert view.document is view.document
