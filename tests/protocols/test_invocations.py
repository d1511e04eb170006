"""The protocol of `/invocations`: bodies to tensors, answers to predictions.

Matrix: each form with the inputs of a table and of an array; CSV with types guessed and given, with a header and without;
JSON lines; numpy's arrays; params; every body that is refused; the quick roads against the careful one; answers of
arrays, tables and tensors in each media type.
"""

from __future__ import annotations

import contextlib
import io
import json

import msgspec
import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from headrace.errors import InvalidRequest, ModelNotFound, ModelNotReady, RuntimeFailed, TooLarge
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


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        ({"dataframe_records": [{"a": 1, "b": 1, "c": None}]}, "application/json"),
        ({"dataframe_split": {"columns": ["a", "b", "c"], "data": [[1, 1, None]]}}, "application/json"),
        ({"inputs": {"a": [1], "b": [1], "c": [None]}}, "application/json"),
        (b"a,b,c\n1,1,\n", "text/csv"),
        (b"a,b,c\n1,1,n/a\n", "text/csv"),
        (b'{"a": 1, "b": 1, "c": null}', "application/jsonlines"),
    ],
)
def test_a_text_may_be_missing_where_the_model_takes_that(body, content_type):
    """None stands for it, in a column of nothing else too; for another model an optional column of nothing is left out."""
    model = msgspec.structs.replace(TABLE, missing_texts=True)
    assert columns(parse(body, model, content_type))["c"] == ("BYTES", [None])
    assert "c" not in columns(parse(body, TABLE, content_type))


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
        ("text/csv; header=absent", True),
        ("text/csv; header=maybe", False),
        ("application/jsonlines", True),
        ("application/x-npy", True),
        ("application/json; charset=latin-1", False),
        ("application/json; format=pandas-split", False),
        ("text/plain", False),
        ("application/vnd.apache.parquet", True),
        ("application/x-parquet", False),
    ],
)
def test_media_types_are_taken_or_refused_by_name(content_type, taken):
    """A refusal names what came."""
    refusal = invocations.refusal(content_type)
    assert (refusal == "") is taken
    assert taken or content_type in refusal or "latin-1" in refusal


@pytest.mark.parametrize(
    ("outputs", "predictions"),
    [
        pytest.param([Tensor("predict", "INT64", np.array([1, 0]))], [1, 0], id="an array"),
        pytest.param([Tensor("p", "FP64", np.array([[0.5, 0.5]]))], [[0.5, 0.5]], id="a matrix with a name"),
        pytest.param([Tensor("u", "FP64", np.array([2.0]))], [{"u": 2.0}], id="a table of one column"),
        pytest.param(
            [Tensor("predict", "FP32", np.array([0.1], np.float32))], [0.10000000149011612], id="FP32's digits"
        ),
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


@pytest.mark.parametrize(
    ("answer", "predictions"),
    [("array", [2.0, 3.0]), ("table", [{"u": 2.0}, {"u": 3.0}]), ("tensors", {"u": [2.0, 3.0]})],
)
def test_what_the_model_answers_with_decides_the_form(answer, predictions):
    """An output with a name is a list, a table or a tensor by name, as the model's own answer was."""
    response = InferenceResponse(model_name="m", outputs=(Tensor("u", "FP64", np.array([2.0, 3.0])),))
    assert json.loads(invocations.render(response, answer=answer).body) == {"predictions": predictions}


TWO = (Tensor("u", "FP64", np.array([2.0, np.nan])), Tensor("v", "BYTES", texts(b"a,b", b'"')))


@pytest.mark.parametrize(
    ("outputs", "accept", "content_type", "body"),
    [
        pytest.param(TWO, "text/csv", "text/csv; charset=utf-8", b'2.0,"a,b"\n,""""\n', id="CSV"),
        pytest.param(
            TWO, "text/csv; header=present", "text/csv; charset=utf-8", b'u,v\n2.0,"a,b"\n,""""\n', id="CSV, a header"
        ),
        pytest.param(
            (Tensor("p", "INT64", np.array([[1, 2], [3, 4]])),),
            "text/csv;header=present",
            "text/csv; charset=utf-8",
            b"p_0,p_1\n1,2\n3,4\n",
            id="a matrix as CSV",
        ),
        pytest.param(
            TWO,
            "application/x-ndjson",
            "application/jsonlines",
            b'{"u":2.0,"v":"a,b"}\n{"u":null,"v":"\\""}\n',
            id="lines",
        ),
        pytest.param(TWO[:1], "image/png", "application/json", b'{"predictions":[{"u":2.0},{"u":null}]}', id="unknown"),
        pytest.param(
            TWO[:1], "text/csv;q=0.1, */*", "application/json", b'{"predictions":[{"u":2.0},{"u":null}]}', id="less wanted"
        ),
        pytest.param(TWO[:1], "text/csv;q=x, text/*;q=0.5", "text/csv; charset=utf-8", b'2.0\n""\n', id="a wild one"),
    ],
)  # fmt: skip
def test_an_answer_comes_as_it_is_wanted(outputs, accept, content_type, body):
    """The form wanted most is given, and JSON where none of ours is wanted."""
    rendered = invocations.render(InferenceResponse(model_name="m", outputs=outputs), accept=accept)
    assert (rendered.content_type, rendered.body) == (content_type, body)


@pytest.mark.parametrize(
    ("outputs", "accept"),
    [
        (TWO, "application/x-npy"),
        ((Tensor("u", "INT8", np.zeros(2, np.int8)), Tensor("v", "INT8", np.zeros(3, np.int8))), "text/csv"),
    ],
    ids=["two arrays", "columns of different lengths"],
)
def test_a_form_that_does_not_carry_the_answer_is_refused(outputs, accept):
    """The caller is told to accept JSON."""
    with pytest.raises(InvalidRequest, match="accept JSON"):
        invocations.render(InferenceResponse(model_name="m", outputs=outputs), accept=accept)


# -- CSV without a header --


@pytest.mark.parametrize(
    ("body", "signature", "content_type", "found"),
    [
        pytest.param(b"1,2\n3,4\n", TABLE, "text/csv", {"a": ("FP64", [1.0, 3.0]), "b": ("INT64", [2, 4])}, id="a table"),
        pytest.param(b"1,2\n3,4\n", ARRAY, "text/csv", {"input-0": ("FP32", [[1.0, 2.0], [3.0, 4.0]])}, id="an array"),
        pytest.param(b"0,1\n3,4\n", ARRAY, "text/csv", {"input-0": ("FP32", [[3.0, 4.0]])}, id="pandas' own names"),
        pytest.param(b"u,v\n3,4\n", ARRAY, "text/csv", {"input-0": ("FP32", [[3.0, 4.0]])}, id="other names"),
        pytest.param(
            b"0,1\n3,4\n", ARRAY, "text/csv; header=absent", {"input-0": ("FP32", [[0.0, 1.0], [3.0, 4.0]])}, id="told"
        ),
        pytest.param(b"5,6\n3,4\n", ARRAY, "text/csv; header=present", {"input-0": ("FP32", [[3.0, 4.0]])}, id="told so"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("rows", [1, 1000], ids=["small", "large"])
def test_a_csv_without_a_header_is_told_by_the_signature(body, signature, content_type, found, rows):
    """A first line of numbers where numbers are taken is a row; names, pandas' or anybody's, are a header."""
    first, second = body.splitlines(keepends=True)
    expected = {}
    for name, (datatype, values) in found.items():
        expected[name] = (datatype, [*values[:-1], *values[-1:] * rows])
    assert columns(parse(first + second * rows, signature, content_type)) == expected


# -- other media types --


@pytest.mark.parametrize(
    "body",
    [b'{"a": 1, "b": 2}\n{"b": 4, "a": 3}\n', b"[1, 2]\n\n[3, 4]"],
    ids=["objects", "rows"],
)
def test_lines_of_json_are_rows(body):
    """Objects are found by name, lists by position."""
    found = columns(parse(body, content_type="application/jsonlines"))
    assert found == {"a": ("FP64", [1.0, 3.0]), "b": ("INT64", [2, 4])}


def npy(array, **options):
    told = io.BytesIO()
    np.lib.format.write_array(told, np.asarray(array), **options)
    return told.getvalue()


def test_an_array_of_numpys_is_the_tensor():
    """It takes the model's datatype, and goes by columns where the model takes columns."""
    assert columns(parse(npy([[1, 2], [3, 4]]), ARRAY, "application/x-npy")) == {
        "input-0": ("FP32", [[1.0, 2.0], [3.0, 4.0]])
    }
    assert columns(parse(npy([[1.5, 2.0], [3.0, 4.0]]), TABLE, "application/x-npy")) == {
        "a": ("FP64", [1.5, 3.0]),
        "b": ("INT64", [2, 4]),
    }
    word = Signature(platform="mlflow", inputs=(TensorSpec(name="c", datatype="BYTES", shape=(-1,)),))
    assert columns(parse(npy(["x", "é"]), word, "application/x-npy"))["c"] == ("BYTES", [b"x", "é".encode()])


@pytest.mark.parametrize(
    ("body", "text"),
    [
        pytest.param(b"", "no array", id="nothing"),
        pytest.param(npy([[1, 2]])[:-4], "no array", id="cut off"),
        pytest.param(npy(np.array([[{}, []]], object), allow_pickle=True), "no array", id="a pickle"),
        pytest.param(npy([[1.5, 2.5]]), "'b'", id="no integers"),
        pytest.param(npy(3), "rows of numbers", id="a scalar"),
        pytest.param(npy([1j]), "rows of numbers", id="complex"),
    ],
)
def test_what_is_no_array_is_refused(body, text):
    """A pickle inside of an array is never read."""
    with pytest.raises(InvalidRequest, match=text):
        parse(body, TABLE, "application/x-npy")


def parquet(frame, **options):
    told = io.BytesIO()
    pd.DataFrame(frame).to_parquet(told, **options)
    return told.getvalue()


def test_parquet_is_the_table_that_pandas_wrote():
    """Columns come by name and type, an index and columns that the model lacks do not, and what is missing is nothing."""
    frame = pd.DataFrame(
        {"b": [1, 2], "a": [None, 1.5], "c": pd.Categorical(["x", "é"]), "more": [[1], [2]]}, index=["first", "last"]
    )
    found = columns(parse(parquet(frame), TABLE, invocations.PARQUET))
    assert {name: found[name] for name in "bc"} == {
        "b": ("INT64", [1, 2]),
        "c": ("BYTES", [b"x", "é".encode()]),
    }
    assert found["a"][0] == "FP64"
    assert np.isnan(found["a"][1][0])
    assert found.keys() == {"a", "b", "c"}
    moments = pd.DataFrame({"when": pd.to_datetime(["2024-05-06T07:08:09"]), "blob": [b"\xff"], "list": [[1, 2]]})
    specs = tuple(TensorSpec(name=name, datatype="BYTES", shape=(-1,)) for name in moments)
    signature = Signature(platform="mlflow", inputs=specs, properties={"binary_columns": "blob"})
    ((when,), (blob,), (nested,)) = (
        data for _, data in columns(parse(parquet(moments), signature, invocations.PARQUET)).values()
    )
    assert pd.to_datetime(when.decode()) == moments["when"][0]
    assert (blob, nested) == (b"\xff", b"[1,2]")
    matrix = pd.DataFrame(np.eye(2, dtype=np.float32), columns=["x", "y"])
    assert columns(parse(parquet(matrix), ARRAY, invocations.PARQUET)) == {
        "input-0": ("FP32", [[1.0, 0.0], [0.0, 1.0]])
    }


@pytest.mark.parametrize(
    ("body", "error", "text"),
    [
        pytest.param(b"", InvalidRequest, "no Parquet", id="nothing"),
        pytest.param(parquet({"a": [1.0]})[:-9], InvalidRequest, "no Parquet", id="cut off"),
        pytest.param(parquet({"a": [1.0], "b": ["x"]}), InvalidRequest, "'b'", id="text for a number"),
        pytest.param(parquet({"a": [np.timedelta64(1)]}), InvalidRequest, "'a' of the Parquet body", id="a duration"),
        pytest.param(
            parquet({"a": np.zeros(10_000_001, bool)}), TooLarge, "10000001 values", id="small, and huge within"
        ),
    ],
)
def test_what_is_no_parquet_for_the_model_is_refused(body, error, text):
    """The error says what is wrong; what stands for more values than a request may bring is not unpacked."""
    with pytest.raises(error, match=text):
        parse(body, TABLE, invocations.PARQUET)


def test_no_line_at_all_is_refused():
    """The error says what was expected, and names the line that is no JSON."""
    with pytest.raises(InvalidRequest, match="row of JSON on each line"):
        parse(b"\n", content_type="application/jsonlines")
    with pytest.raises(InvalidRequest, match="line 2 is not JSON"):
        parse(b"[1, 2]\n[1,", content_type="application/jsonlines")


def test_bytes_come_as_base64():
    """MLflow's binary columns are base64 over JSON."""
    signature = Signature(
        platform="mlflow",
        inputs=(TensorSpec(name="c", datatype="BYTES", shape=(-1,)),),
        properties={"binary_columns": "c"},
    )
    assert columns(parse({"inputs": {"c": ["/wE="]}}, signature))["c"] == ("BYTES", [b"\xff\x01"])
    with pytest.raises(InvalidRequest, match="row 0"):
        parse({"inputs": {"c": [3]}}, signature)


def test_a_table_goes_by_name_to_a_model_that_may_know_the_names():
    """A model of one matrix that is not strict gets the columns that a caller names each by itself; pandas' index, and
    numbers for names, are no names.
    """
    loose = Signature(platform="sklearn", inputs=ARRAY.inputs, strict=False)
    for rows in (1, 400):
        data = [[1, 2]] * rows
        found = columns(parse({"dataframe_split": {"columns": ["v", "u"], "data": data}}, loose))
        assert found == {"v": ("FP32", [1.0] * rows), "u": ("FP32", [2.0] * rows)}
        assert list(columns(parse({"dataframe_split": {"columns": [0, 1], "data": data}}, loose))) == ["input-0"]
        assert list(columns(parse(b",v,u\n" + b"0,1,2\n" * rows, loose, "text/csv"))) == ["v", "u"]
        assert list(columns(parse(b"1,2\n" * rows, loose, "text/csv"))) == ["input-0"]


# -- the quick roads --

INTEGERS = Signature(
    platform="mlflow",
    inputs=(
        TensorSpec(name="a", datatype="INT8", shape=(-1,)),
        TensorSpec(name="b", datatype="FP32", shape=(-1,), optional=True),
    ),
)
cells = st.one_of(
    st.integers(-3, 3),
    st.sampled_from([1.5, -0.0, 1e300, 200, None, True, "x", [1], "[", float(1 << 60)]),
)


@settings(deadline=None)
@given(
    st.lists(st.tuples(cells, st.integers(-9, 9)), min_size=1, max_size=4),
    st.sampled_from(["instances", "inputs", "split", "named", "unnamed", "csv", "bare"]),
    st.sampled_from([TABLE, ARRAY, INTEGERS, Signature(platform="x", inputs=ARRAY.inputs, strict=False)]),
)
def test_the_quick_roads_say_what_the_careful_one_says(rows, form, signature):
    """A large body is the same request, or refused alike, as its few rows are by the careful road."""
    names = [spec.name for spec in signature.inputs[:2]] if len(signature.inputs) > 1 else ["u", "v"]

    def outcome(times):
        data = [list(row) for row in rows] * times
        body = {
            "instances": {"instances": data},
            "inputs": {"inputs": data},
            "split": {"dataframe_split": {"columns": names, "data": data}},
            "unnamed": {"dataframe_split": {"data": data}},
            "named": {"inputs": {name: [row[position] for row in data] for position, name in enumerate(names)}},
        }.get(form)
        try:
            if body is None:
                lines = "".join(",".join("" if each is None else str(each) for each in row) + "\n" for row in data)
                told = "text/csv" if form == "csv" else "text/csv; header=absent"
                header = ",".join(names) + "\n" if form == "csv" else ""
                request = parse((header + lines).encode(), signature, told)
            else:
                request = parse(body, signature)
        except InvalidRequest:
            return "refused"
        return [(each.name, each.datatype, each.data[: len(rows)].tolist()) for each in request.inputs]

    assert str(outcome(1)) == str(outcome(600))


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
@example({"dataframe_split": {"columns": None, "data": []}}, None)
def test_any_json_is_a_request_or_refused(document, signature):
    """Whatever JSON comes, nothing else is raised than what is the caller's."""
    with contextlib.suppress(InvalidRequest):
        parse(msgspec.json.encode(document), signature)


@given(st.text('a,b"\n\r 1.e-x\u00e9', max_size=30), st.sampled_from(SIGNATURES))
def test_any_text_is_csv_or_refused(text, signature):
    """Whatever text comes, nothing else is raised than what is the caller's."""
    with contextlib.suppress(InvalidRequest):
        parse(text.encode(), signature, "text/csv")
