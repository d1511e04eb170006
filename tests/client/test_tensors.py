"""Values to tensors, tensors to bodies and back. Matrix: form of the values x declared inputs x binary or JSON."""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from headrace.client import tensors
from headrace.errors import InvalidRequest, RuntimeFailed
from headrace.payload import DTYPES, InferenceRequest, Tensor, TensorSpec, datatype_of


def spec(name="x", datatype="FP32", shape=(-1, 4), **rest):
    return TensorSpec(name=name, datatype=datatype, shape=shape, **rest)


def answer_of(request, *, binary):
    """What a server that echoes its inputs would answer, written from the request's own bytes."""
    body, length = tensors.render(request, binary=binary)
    head = json.loads(body[:length])
    echoed = json.dumps({"model_name": request.model_name, "outputs": head["inputs"]}).encode()
    return (bytearray(echoed + body[length:]), len(echoed)) if binary else (bytearray(echoed), None)


NUMBERS = npst.arrays(
    dtype=st.sampled_from([d for name, d in DTYPES.items() if name not in {"BYTES", "BF16"}]),
    shape=npst.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
)


@given(NUMBERS)
def test_binary_numbers_come_back(array):
    """Every number of every datatype and shape comes back from the binary form bit for bit, and may be written to."""
    request = InferenceRequest(model_name="m", inputs=(Tensor("x", datatype_of(array), array),))
    (back,) = tensors.parse(*answer_of(request, binary=True)).outputs
    assert back.data.dtype == array.dtype
    assert back.data.shape == array.shape
    assert back.data.tobytes() == array.tobytes()
    assert back.data.flags.writeable


@given(NUMBERS.filter(lambda array: array.dtype != np.float16))
def test_json_numbers_come_back(array):
    """Every number comes back from JSON; infinities and NaN come back as NaN."""
    if array.dtype.kind == "f":
        array = np.where(np.isfinite(array), array, np.array(np.nan, array.dtype)).astype(array.dtype)
    request = InferenceRequest(model_name="m", inputs=(Tensor("x", datatype_of(array), array),))
    (back,) = tensors.parse(*answer_of(request, binary=False)).outputs
    np.testing.assert_array_equal(back.data, array)


@given(st.lists(st.binary(max_size=8), max_size=6))
def test_bytes_come_back(values):
    """Bytes come back from the binary form, empty ones and an empty tensor too."""
    data = np.empty(len(values), object)
    data[:] = values
    request = InferenceRequest(model_name="m", inputs=(Tensor("x", "BYTES", data),))
    (back,) = tensors.parse(*answer_of(request, binary=True)).outputs
    assert back.data.tolist() == values


@given(st.lists(st.text(max_size=8), max_size=6))
def test_text_comes_back_as_text(values):
    """Text in JSON comes back as text."""
    (tensor,), _ = tensors.tensors_of({"x": np.array(values, dtype=object)}, [])
    request = InferenceRequest(model_name="m", inputs=(tensor,))
    if not values:
        return  # an empty object array says nothing of its kind
    (back,) = tensors.parse(*answer_of(request, binary=False)).outputs
    assert tensors.array_of(back).tolist() == values


def test_bytes_that_are_no_text_stay():
    """BYTES become text when all of it is UTF-8, by either form of the wire, and stay bytes otherwise."""
    text, noise = np.array([b"b\xc3\xa9", b""], object), np.array([b"\xff\xd8", b"a"], object)
    assert tensors.array_of(Tensor("x", "BYTES", text)).tolist() == ["b\u00e9", ""]
    assert tensors.array_of(Tensor("x", "BYTES", noise)).tolist() == noise.tolist()


def test_list_of_rows_takes_the_declared_name_and_datatype():
    """A nested list for a model of one input becomes that input, in its datatype."""
    (tensor,), parameters = tensors.tensors_of([[1, 2, 3, 4]], [spec()])
    assert (tensor.name, tensor.datatype, tensor.shape) == ("x", "FP32", (1, 4))
    assert not parameters


def test_optional_inputs_need_no_value():
    """An array goes to the one input that is required, when the others are optional."""
    (tensor,), _ = tensors.tensors_of([[1.0]], [spec("a", optional=True), spec("b")])
    assert tensor.name == "b"


def test_array_for_several_inputs():
    """An array for a model of several inputs is refused with their names."""
    with pytest.raises(InvalidRequest, match=r"2 inputs \(a, b\)"):
        tensors.tensors_of(np.zeros((1, 2)), [spec("a"), spec("b")])


def test_undeclared_inputs():
    """A model that declares nothing gets an array under a name of ours, in its own datatype."""
    (tensor,), _ = tensors.tensors_of(np.zeros((2, 2)), [])
    assert (tensor.name, tensor.datatype) == ("input-0", "FP64")


@pytest.mark.parametrize("values", [[[1, 2], [3]], [["a", 1]], [[object()]]], ids=["ragged", "mixed", "objects"])
def test_values_that_are_no_tensor(values):
    """Ragged rows, text beside numbers, and objects are refused with the input's name."""
    with pytest.raises(InvalidRequest, match="input 'x'"):
        tensors.tensors_of(values, [spec()])


def test_integers_that_do_not_fit():
    """Whole numbers beyond the declared datatype are refused rather than wrapped around."""
    with pytest.raises(InvalidRequest, match="do not fit datatype INT8"):
        tensors.tensors_of([[300]], [spec(datatype="INT8")])


def test_floats_for_integers_stay():
    """Fractions for an INT64 input are sent as they are: the server's refusal is better than a silent rounding."""
    (tensor,), _ = tensors.tensors_of([[0.5]], [spec(datatype="INT64")])
    assert tensor.datatype == "FP64"


def test_frame_becomes_a_matrix():
    """A DataFrame for a model of one wide input becomes one matrix, columns in order."""
    frame = pd.DataFrame({"a": [1, 2], "b": [0.5, 1.5]})
    (tensor,), _ = tensors.tensors_of(frame, [spec(datatype="FP64", shape=(-1, 2))])
    np.testing.assert_array_equal(tensor.data, [[1, 0.5], [2, 1.5]])


@pytest.mark.parametrize("rows", [np.array([[1, 2], [3, 4]]), [[1, 2], [3, 4]]], ids=["array", "lists"])
def test_a_matrix_is_taken_apart_for_a_model_of_columns(rows):
    """Rows as wide as the model has columns become one tensor a column, in the model's order; others are refused."""
    columns = [spec("a", shape=(-1,)), spec("b", "FP64", shape=(-1, 1))]
    (a, b), _ = tensors.tensors_of(rows, columns)
    assert (a.name, a.datatype, a.data.tolist()) == ("a", "FP32", [1.0, 3.0])
    assert (b.name, b.datatype, b.data.tolist()) == ("b", "FP64", [[2.0], [4.0]])
    with pytest.raises(InvalidRequest, match=r"2 inputs \(a, b\): give arrays by name"):
        tensors.tensors_of(np.zeros((2, 3)), columns)


def test_frame_becomes_a_tensor_a_column():
    """A DataFrame for a model of an input per column is matched by name, whatever the order; other columns stay home."""
    frame = pd.DataFrame({"city": ["Rome", "Oslo"], "extra": [0, 0], "age": [1, 2]})
    specs = [spec("age", "INT64", (-1, 1)), spec("city", "BYTES", (-1, 1))]
    sent, parameters = tensors.tensors_of(frame, specs)
    by_name = {tensor.name: tensor for tensor in sent}
    assert set(by_name) == {"age", "city"}
    assert by_name["city"].data.tolist() == [[b"Rome"], [b"Oslo"]]
    assert by_name["age"].shape == (2, 1)
    assert not parameters


def test_frame_without_a_declared_column():
    """A DataFrame that lacks a declared column is refused with its name."""
    with pytest.raises(InvalidRequest, match="inputs age"):
        tensors.tensors_of(pd.DataFrame({"city": ["Rome"], "zip": [1]}), [spec("age"), spec("city")])


def test_frame_for_an_undeclared_model():
    """A DataFrame for a model that declares nothing goes column by column, and the request says that it is one."""
    sent, parameters = tensors.tensors_of(pd.DataFrame({"a": [1], "b": ["x"]}), [])
    assert [tensor.datatype for tensor in sent] == ["INT64", "BYTES"]
    assert parameters == {"content_type": "pd"}


def test_frame_kinds():
    """Categories, nullable numbers and missing values become plain tensors; missing numbers are NaN."""
    frame = pd.DataFrame(
        {
            "category": pd.Categorical(["a", "b"]),
            "nullable": pd.array([1, None], dtype="Int64"),
            "whole": pd.array([1, 2], dtype="Int32"),
            "flag": pd.array([True, False], dtype="boolean"),
        }
    )
    sent, _ = tensors.tensors_of(frame, [])
    by_name = {tensor.name: tensor for tensor in sent}
    assert by_name["category"].data.tolist() == [b"a", b"b"]
    assert by_name["nullable"].datatype == "FP64"
    assert np.isnan(by_name["nullable"].data[1])
    assert by_name["whole"].datatype == "INT32"
    assert by_name["flag"].datatype == "BOOL"


def test_bfloat16():
    """BF16 rounds to nearest even on the way out and is float32 on the way back; NaN stays NaN."""
    values = np.array([1.0, 1.00390625, 1.01171875, -0.0, np.inf, np.nan, 3.0e38], np.float32)
    (tensor,), _ = tensors.tensors_of({"x": values}, [spec(datatype="BF16", shape=(-1,))])
    back = tensors.array_of(tensor)
    np.testing.assert_array_equal(back[:5], np.array([1.0, 1.0, 1.015625, -0.0, np.inf], np.float32))
    assert np.isnan(back[5])
    assert abs(back[6] / values[6] - 1) < 2**-8


def test_no_json_form():
    """FP16 and bytes that are not text have no JSON form; the error says which way they have."""
    for data in (np.zeros(1, np.float16), np.array([b"\xff"], object)):
        request = InferenceRequest(model_name="m", inputs=(Tensor("x", datatype_of(data), data),))
        with pytest.raises(InvalidRequest, match="binary=True"):
            tensors.render(request, binary=False)


@pytest.mark.parametrize(
    ("body", "length"),
    [
        (b"not json", None),
        (b'{"outputs": [{"name": "y", "datatype": "FP99", "shape": [1], "data": [1]}]}', None),
        (b'{"outputs": [{"name": "y", "datatype": "FP32", "shape": [2], "data": [1]}]}', None),
        (b'{"outputs":[{"name":"y","datatype":"FP32","shape":[1],"parameters":{"binary_data_size":4}}]}\0', 91),
        (
            b'{"outputs":[{"name":"y","datatype":"BYTES","shape":[1],"parameters":{"binary_data_size":4}}]}\x09\0\0\0',
            92,
        ),
    ],
    ids=["not-json", "unknown-datatype", "wrong-count", "short-tensor", "short-element"],
)
def test_answers_that_break_the_protocol(body, length):
    """An answer that breaks the protocol is an error of the server's, not a crash of the client."""
    with pytest.raises(RuntimeFailed, match="not a V2 inference response"):
        tensors.parse(bytearray(body), length)
