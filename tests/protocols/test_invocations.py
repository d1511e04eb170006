"""MLflow's scoring protocol: bodies to tensors, answers to predictions.

Matrix: each form with the inputs of a table and of an array; CSV with types guessed and given; params; every body that
is refused; answers of arrays, tables and tensors.
"""

from __future__ import annotations

import contextlib
import json

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import InvalidRequest, ModelNotFound, ModelNotReady, RuntimeFailed
from headrace.payload import InferenceResponse, Signature, Tensor, TensorSpec
from headrace.protocols import invocations

TABLE = Signature(
    platform="mlflow",
    inputs=(
        TensorSpec(name="a", datatype="FP64", shape=(-1,)),
        TensorSpec(name="b", datatype="INT64", shape=(-1,)),
        TensorSpec(name="c", datatype="BYTES", shape=(-1,), optional=True),
    ),
)
ARRAY = Signature(platform="mlflow", inputs=(TensorSpec(name="input-0", datatype="FP32", shape=(-1, 2)),))


def texts(*values):
    array = np.empty(len(values), object)
    array[:] = values
    return array


def parse(body, signature=TABLE, content_type="application/json"):
    sent = body if isinstance(body, bytes) else json.dumps(body).encode()
    return invocations.parse(sent, content_type=content_type, model_name="m", signature=signature)


def columns(request):
    return {each.name: (each.datatype, each.data.tolist()) for each in request.inputs}


@pytest.mark.parametrize(
    "body",
    [
        pytest.param({"dataframe_split": {"columns": ["a", "b"], "data": [[1, 2], [3, 4]]}}, id="split"),
        pytest.param(
            {"dataframe_split": {"index": [7, 9], "columns": ["b", "x", "a"], "data": [[2, 0, 1], [4, 0, 3]]}},
            id="split in another order, with an index and a column too many",
        ),
        pytest.param({"dataframe_records": [{"a": 1, "b": 2}, {"b": 4, "a": 3.0, "c": None}]}, id="records"),
        pytest.param({"instances": [{"a": 1, "b": 2}, {"a": 3, "b": 4}]}, id="instances of objects"),
        pytest.param({"instances": [[1, 2], [3, 4]]}, id="instances in the order of the columns"),
        pytest.param({"inputs": {"a": [1, 3], "b": [2, 4]}}, id="inputs by name"),
        pytest.param({"inputs": {"a": [[1], [3]], "b": [[2], [4]]}}, id="inputs of one column each"),
        pytest.param({"inputs": [{"a": 1, "b": 2}, {"a": 3, "b": 4}]}, id="inputs of objects"),
    ],
)
def test_every_form_of_a_table_is_the_same_columns(body):
    """Columns are found by name, take the model's datatypes, and those it does not have are left out."""
    assert columns(parse(body)) == {"a": ("FP64", [1.0, 3.0]), "b": ("INT64", [2, 4])}


@pytest.mark.parametrize(
    "body",
    [
        {"instances": [[1, 2], [3, 4]]},
        {"inputs": [[1, 2], [3, 4]]},
        {"inputs": {"input-0": [[1, 2], [3, 4]]}},
        {"dataframe_split": {"columns": ["u", "v"], "data": [[1, 2], [3, 4]]}},
        {"dataframe_split": {"data": [[1, 2], [3, 4]]}},
    ],
    ids=["instances", "inputs", "by name", "a table", "a table without names"],
)
def test_every_form_of_an_array_is_the_same_tensor(body):
    """A model of one array takes rows, a tensor, or a table as its matrix."""
    assert columns(parse(body, ARRAY)) == {"input-0": ("FP32", [[1.0, 2.0], [3.0, 4.0]])}


def test_one_value_is_one_row():
    """Tensors by name may be plain values: a row of them."""
    assert columns(parse({"inputs": {"a": 1.5, "b": 2}})) == {"a": ("FP64", [1.5]), "b": ("INT64", [2])}


def test_without_a_signature_datatypes_are_as_values_look():
    """Integers, numbers, truth and text have the datatypes of their kind."""
    table = {"i": [1, 2], "f": [1, None], "t": [True, False], "s": ["x", "y"]}
    found = columns(parse({"inputs": table}, None))
    assert {name: kind for name, (kind, _) in found.items()} == {"i": "INT64", "f": "FP64", "t": "BOOL", "s": "BYTES"}
    assert np.isnan(found["f"][1][1])


def test_csv_takes_the_models_datatypes():
    """The index column that pandas writes is left out, quotes and missing cells are understood."""
    body = b',a,b,c\n0,1.5,2,"x, ""y"""\n1,NaN,3,7\n'
    found = columns(parse(body, content_type="text/csv; charset=utf-8"))
    assert found["b"] == ("INT64", [2, 3])
    assert found["c"] == ("BYTES", [b'x, "y"', b"7"])
    assert np.isnan(found["a"][1][1])


def test_csv_without_a_signature_is_read_as_it_looks():
    """A column is what all of its cells are; a byte order mark is no part of a name."""
    body = "\ufeffi,f,t,s,e\n1,1,True,1_0,\n2,2.5,False,x,inf\n".encode()
    found = columns(parse(body, None, "TEXT/CSV"))
    assert {name: kind for name, (kind, _) in found.items()} == {
        "i": "INT64",
        "f": "FP64",
        "t": "BOOL",
        "s": "BYTES",
        "e": "FP64",
    }
    assert found["s"][1] == [b"1_0", b"x"]
    assert found["e"][1][1] == np.inf


def test_nested_values_of_a_text_column_are_its_json():
    """Lists and objects in a cell travel as JSON, which the runtime reads back."""
    signature = Signature(platform="mlflow", inputs=(TensorSpec(name="c", datatype="BYTES", shape=(-1,)),))
    found = columns(parse({"dataframe_records": [{"c": [1, 2]}, {"c": {"k": None}}]}, signature))
    assert [json.loads(each) for each in found["c"][1]] == [[1, 2], {"k": None}]


def test_columns_of_different_lengths_are_refused():
    """A table whose columns have different numbers of rows is refused, with the numbers."""
    with pytest.raises(InvalidRequest, match="as many rows as each other, got: 'a' 1, 'b' 0"):
        parse({"inputs": {"a": None, "b": []}}, ARRAY)


def test_params_are_the_requests_parameters():
    """The model's own parameters come beside the data."""
    assert parse({"inputs": {"a": [1], "b": [1]}, "params": {"k": [1]}}).parameters == {"k": [1]}
    assert parse({"inputs": {"a": [1], "b": [1]}, "params": None}).parameters == {}


@pytest.mark.parametrize(
    ("body", "text"),
    [
        pytest.param(b"{", "not JSON", id="not JSON"),
        pytest.param([], "object", id="no object"),
        pytest.param({"foo": 1}, "none of them", id="no form"),
        pytest.param({"inputs": {"a": [1]}, "instances": []}, "instances, inputs", id="two forms"),
        pytest.param({"inputs": {"a": [1]}, "params": 3}, "params", id="params are no object"),
        pytest.param({"dataframe_split": [1]}, "dataframe_split", id="split is no object"),
        pytest.param({"dataframe_split": {"columns": ["a"], "data": [1]}}, "row", id="a row is no list"),
        pytest.param({"dataframe_split": {"columns": ["a", "a"], "data": [[1, 2]]}}, "twice", id="a name twice"),
        pytest.param({"dataframe_split": {"columns": ["a"], "data": [[1, 2]]}}, "row 0", id="a long row"),
        pytest.param({"dataframe_records": {"a": 1}}, "list of objects", id="records are no list"),
        pytest.param({"dataframe_records": [{"z": 1}]}, "'z'", id="no column of the model's"),
        pytest.param({"instances": {}}, "list", id="instances are no list"),
        pytest.param({"instances": [1]}, "takes 2 inputs", id="rows without names"),
        pytest.param({"inputs": {"a": ["x"], "b": [1]}}, "'a'", id="text for numbers"),
        pytest.param({"inputs": {"a": [1], "b": [1], "c": [2, None]}}, "'c'", id="no text"),
    ],
)
def test_a_body_that_is_none_of_the_forms_is_refused(body, text):
    """The error says what is wrong with which part."""
    with pytest.raises(InvalidRequest, match=text):
        parse(body)


@pytest.mark.parametrize(
    ("body", "text"),
    [(b"", "empty"), (b"\xff", "UTF-8"), (b"a,a\n1,2", "twice"), (b"a\n1,2", "line 2"), (b'a\n"1', "CSV")],
)
def test_what_is_no_csv_is_refused(body, text):
    """The error names the line."""
    with pytest.raises(InvalidRequest, match=text):
        parse(body, content_type="text/csv")


@pytest.mark.parametrize(
    ("content_type", "taken"),
    [
        ("application/json", True),
        ("Application/JSON; charset=utf-8", True),
        ("text/csv", True),
        ("", True),
        ("text/plain", False),
        ("application/vnd.apache.parquet", False),
    ],
)
def test_json_and_csv_are_taken(content_type, taken):
    """A refusal names what is taken."""
    refusal = invocations.refusal(content_type)
    assert (refusal == "") is taken
    assert taken or "text/csv" in refusal


@pytest.mark.parametrize(
    ("outputs", "predictions"),
    [
        pytest.param([Tensor("predict", "INT64", np.array([1, 0]))], [1, 0], id="an array"),
        pytest.param([Tensor("p", "FP64", np.array([[0.5, 0.5]]))], [[0.5, 0.5]], id="a matrix with a name"),
        pytest.param([Tensor("u", "FP64", np.array([2.0]))], [{"u": 2.0}], id="a table of one column"),
        pytest.param(
            [Tensor("u", "FP64", np.array([2.0, np.nan])), Tensor("v", "BYTES", texts(b"t", "u"))],
            [{"u": 2.0, "v": "t"}, {"u": None, "v": "u"}],
            id="a table, NaN as null",
        ),
        pytest.param(
            [Tensor("u", "FP32", np.ones((1, 2), np.float32)), Tensor("v", "INT8", np.zeros(1, np.int8))],
            {"u": [[1.0, 1.0]], "v": [0]},
            id="tensors by name",
        ),
        pytest.param([Tensor("predict", "FP16", np.array([0.5], np.float16))], [0.5], id="half precision"),
        pytest.param([Tensor("predict", "BF16", np.array([0x3F80], np.uint16))], [1.0], id="brain floats"),
    ],
)
def test_predictions_have_the_form_of_the_answer(outputs, predictions):
    """Arrays are lists, tables records, several tensors lists by name."""
    response = InferenceResponse(model_name="m", outputs=tuple(outputs))
    assert json.loads(invocations.render(response).body) == {"predictions": predictions}


def test_bytes_that_are_no_text_are_base64():
    """JSON carries text only, and MLflow answers bytes in lines of base64."""
    response = InferenceResponse(model_name="m", outputs=(Tensor("predict", "BYTES", texts(b"\xff")),))
    assert json.loads(invocations.render(response).body) == {"predictions": ["/w==\n"]}


def test_an_output_that_is_no_text_is_the_models_failure():
    """What no datatype carries is named."""
    with pytest.raises(RuntimeFailed, match="'predict' holds a float"):
        invocations.render(InferenceResponse(model_name="m", outputs=(Tensor("predict", "BYTES", texts(0.5)),)))


@pytest.mark.parametrize(
    ("error", "code", "name"),
    [
        (InvalidRequest("why"), 400, "BAD_REQUEST"),
        (ModelNotFound("why"), 404, "RESOURCE_DOES_NOT_EXIST"),
        (ModelNotReady("why"), 503, "TEMPORARILY_UNAVAILABLE"),
        (RuntimeFailed("why"), 500, "INTERNAL_ERROR"),
        (InvalidRequest("why"), 415, "BAD_REQUEST"),
    ],
)
def test_errors_have_mlflows_form(error, code, name):
    """Clients of MLflow find a code by name, and the message."""
    assert json.loads(invocations.render_error(error, code)) == {"error_code": name, "message": "why"}


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)
SIGNATURES = (None, TABLE, ARRAY, Signature(platform="mlflow", inputs=ARRAY.inputs + TABLE.inputs))


@given(
    st.dictionaries(st.sampled_from([*invocations.FORMS, "params"]), anything, min_size=1, max_size=2)
    | st.fixed_dictionaries({"dataframe_split": st.fixed_dictionaries({"columns": anything, "data": anything})})
    | anything,
    st.sampled_from(SIGNATURES),
)
def test_any_json_is_a_request_or_refused(document, signature):
    """Whatever JSON comes, nothing else is raised than what is the caller's."""
    with contextlib.suppress(InvalidRequest):
        parse(msgspec.json.encode(document), signature)


@given(st.text('a,b"\n\r 1.e-x\u00e9', max_size=30), st.sampled_from(SIGNATURES))
def test_any_text_is_csv_or_refused(text, signature):
    """Whatever text comes, nothing else is raised than what is the caller's."""
    with contextlib.suppress(InvalidRequest):
        parse(text.encode(), signature, "text/csv")
