"""Odd answers of custom MLServer runtimes: what people put into outputs, and what is served.

The matrix: data (flat, nested, scalar, array, text, bytes, documents, null) by datatype, fitting and not. What is not
here: the answers of ordinary runtimes (test_mlserver).
"""

import logging
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from headrace import compat
from headrace.errors import ModelError
from headrace.payload import DTYPES, InferenceRequest, Tensor

try:
    compat.provide(always=False)
    from mlserver import types
finally:
    compat.remove()

from headrace.runtimes.mlserver_payloads import Original, Payloads

BUILDERS = {"original": Original(types)}
if compat.provided():
    from mlserver.types import _build

    BUILDERS["stand-in"] = _build


@pytest.fixture(params=BUILDERS)
def payloads(request):
    return Payloads(types, BUILDERS[request.param], "m")


REQUEST = InferenceRequest(model_name="m", inputs=(), id="7")


def answer(payloads, shape, datatype, data, **parameters):
    output = types.ResponseOutput(name="o", shape=shape, datatype=datatype, data=data, parameters=parameters or None)
    return payloads.response(types.InferenceResponse(model_name="m", outputs=[output]), REQUEST).outputs[0]


@pytest.mark.parametrize(
    ("shape", "datatype", "data", "expected"),
    [
        ([2, 2], "FP32", [1, 2, 3, 4], [[1.0, 2.0], [3.0, 4.0]]),
        ([2, 2], "FP32", [[1, 2], [3, 4]], [[1.0, 2.0], [3.0, 4.0]]),
        ([1], "INT64", 5, [5]),
        ([], "INT64", 5, 5),
        ([-1, 2], "INT8", [1, 2, 3, 4], [[1, 2], [3, 4]]),
        ([2], "FP64", np.array([1, 2]), [1.0, 2.0]),
        ([2], "INT32", np.array([1.0, 2.0]), [1, 2]),
        ([3], "BOOL", [1, 0, True], [True, False, True]),
        ([2], "UINT64", [2**64 - 1, 0], [2**64 - 1, 0]),
        ([2], "FP16", [0.5, 1], [0.5, 1.0]),
        ([2], "FP16", [b"\x00\x38\x00\x3c"], [0.5, 1.0]),
        ([0], "FP32", [], []),
        ([0], "INT64", [], []),
        ([0], "BYTES", [], []),
        ([2], "BYTES", ["ä", b"\xff"], ["ä".encode(), b"\xff"]),
        ([1], "BYTES", "text", [b"text"]),
        ([1], "BYTES", b"bytes", [b"bytes"]),
        ([2, 2], "BYTES", [["a", "b"], ["c", "d"]], [[b"a", b"b"], [b"c", b"d"]]),
        ([2], "BYTES", [["a", 1], ["c"]], [b'["a",1]', b'["c"]']),
        ([3], "BYTES", [{"a": np.float32(1.5)}, 2, None], [b'{"a":1.5}', b"2", b"null"]),
        ([1], "BYTES", {"a": 1}, [b'{"a":1}']),
        ([2], "BYTES", np.array(["a", "bc"]), [b"a", b"bc"]),
        ([2], "BYTES", np.array(["a", {"b": 1}], object), [b"a", b'{"b":1}']),
    ],
)
def test_data_that_fit_are_served_as_they_say(shape, datatype, data, expected, payloads, caplog):
    """Data of the declared datatype and count, however nested, have that datatype and shape, without a warning."""
    tensor = answer(payloads, shape, datatype, data)
    assert tensor.datatype == datatype
    assert tensor.data.dtype == DTYPES[datatype]
    assert tensor.data.tolist() == expected
    assert not caplog.records


@pytest.mark.parametrize(
    ("shape", "datatype", "data", "real", "expected"),
    [
        ([1], "FP32", [1, 2, 3, 4, 5], "FP32", [1.0, 2.0, 3.0, 4.0, 5.0]),
        ([4], "BYTES", ["text"], "BYTES", [b"text"]),
        ([7, 7], "BYTES", ["a", "b"], "BYTES", [b"a", b"b"]),
        ([2], "INT64", [0.5, 2], "FP64", [0.5, 2.0]),
        ([2], "UINT8", [300, 1], "INT64", [300, 1]),
        ([2], "UINT8", [-1, 1], "INT64", [-1, 1]),
        ([2], "BOOL", [2, 1], "INT64", [2, 1]),
        ([2], "FP32", ["cat", "dog"], "BYTES", [b"cat", b"dog"]),
        ([2], "INT64", ["1", "2"], "BYTES", [b"1", b"2"]),
    ],
)
def test_data_that_do_not_fit_are_served_as_they_are(shape, datatype, data, real, expected, payloads, caplog):
    """Where shape or datatype does not fit the data, no value is changed, and a warning is logged once."""
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            tensor = answer(payloads, shape, datatype, data)
    assert tensor.datatype == real
    assert tensor.data.tolist() == expected
    assert len(caplog.records) == 1
    assert "output 'o'" in caplog.text


@pytest.mark.parametrize("datatype", ["FP16", "FP32", "FP64", "INT64"])
@pytest.mark.parametrize("data", [[1.0, None], [1.0, float("nan")]], ids=["null", "nan"])
def test_null_among_numbers_is_nan(datatype, data, payloads):
    """None and NaN are NaN, in FP64 where the declared datatype has none."""
    tensor = answer(payloads, [2], datatype, data)
    assert tensor.datatype == (datatype if datatype != "INT64" else "FP64")
    np.testing.assert_array_equal(tensor.data.astype(float), [1.0, np.nan])


def test_bfloat_is_rounded_to_the_nearest():
    """Floats under BF16, which only unvalidated code can say, become its bit patterns; NaN stays NaN."""
    payloads = Payloads(types, BUILDERS["original"], "m")
    output = types.ResponseOutput.model_construct(
        name="o", shape=[4], datatype="BF16", parameters=None, data=[1.5, -2.0, float("nan"), 1.00390625]
    )
    response = types.InferenceResponse.model_construct(model_name="m", outputs=[output])
    (tensor,) = payloads.response(response, REQUEST).outputs
    assert tensor.datatype == "BF16"
    assert tensor.data.tolist() == [0x3FC0, 0xC000, 0x7FC0, 0x3F80]


@pytest.mark.parametrize(
    ("datatype", "data", "said"),
    [
        ("FP32", [[1, 2], [3]], "list; expected numbers"),
        ("FP32", [{"a": 1}], "dict; expected numbers"),
        ("INT64", ["a", None], "NoneType, str; expected numbers"),
        ("BYTES", [lambda: 1], None),
    ],
)
def test_data_that_nothing_carries_are_the_models_error(datatype, data, said, payloads):
    """Ragged lists and objects among numbers are ModelError 500 that names model and output."""
    if said is None:
        assert b"function" in answer(payloads, [1], datatype, data).data[0]
        return
    with pytest.raises(ModelError, match=r"Model 'm' answered output 'o'") as failed:
        answer(payloads, [2], datatype, data)
    assert said in str(failed.value)
    assert failed.value.status == 500


def test_an_unknown_datatype_is_the_models_error():
    """A datatype that only unvalidated code can say is ModelError that lists the known ones."""
    payloads = Payloads(types, BUILDERS["original"], "m")
    output = types.ResponseOutput.model_construct(name="o", shape=[1], datatype="FP8", parameters=None, data=[1])
    response = types.InferenceResponse.model_construct(model_name="m", outputs=[output])
    with pytest.raises(ModelError, match="'FP8'; expected one of BOOL"):
        payloads.response(response, REQUEST)


def test_a_datatype_that_is_the_enum_is_its_name(payloads):
    """Datatype.FP32 assigned after validation is FP32."""
    output = types.ResponseOutput(name="o", shape=[1], datatype="INT8", data=[1])
    output.datatype = types.Datatype.FP32
    response = types.InferenceResponse(model_name="m", outputs=[output])
    assert payloads.response(response, REQUEST).outputs[0].datatype == "FP32"


def test_parameters_are_plain_json(payloads):
    """Parameters may hold arrays, enumerations and documents; None and what was never set are left out."""
    tensor = answer(payloads, [1], "FP32", [1], content_type="np", a=np.arange(2), b={"c": (np.int8(1), None)}, d=None)
    assert tensor.parameters == {"content_type": "np", "a": [0, 1], "b": {"c": [1, None]}}


def test_parameters_that_are_a_dict_are_taken(payloads):
    """A dict assigned in place of Parameters, which pydantic lets pass, is read as one."""
    response = types.InferenceResponse(model_name="m", outputs=[])
    response.parameters = {"headers": {"X-A": 1.5}, "b": True}
    answered = payloads.response(response, REQUEST)
    assert (answered.parameters, answered.headers) == ({"b": True}, {"X-A": "1.5"})


def test_a_null_in_a_request_is_none_in_json_and_nan_in_grpc(payloads):
    """NaN of a REST request is None, as the caller wrote it; of a gRPC request it is NaN."""
    x = Tensor("x", "FP32", np.array([np.nan, 1], np.float32), {})
    rest = payloads.request(InferenceRequest(model_name="m", inputs=(x,), protocol="v2_rest"))
    grpc = payloads.request(InferenceRequest(model_name="m", inputs=(x,), protocol="v2_grpc"))
    assert list(rest.inputs[0].data) == [None, 1.0]
    assert str(list(grpc.inputs[0].data)) == "[nan, 1.0]"


@pytest.mark.parametrize(
    ("array", "datatype", "expected"),
    [
        (np.array([[1, 2], [3, 4]], np.int64), "INT64", [[1, 2], [3, 4]]),
        (np.arange(8, dtype=np.float32).reshape(2, 2, 2), "FP32", [[[0, 1], [2, 3]], [[4, 5], [6, 7]]]),
        (np.array([[1.5], [np.nan]]), "FP64", [[1.5], [None]]),
        (np.array([[b"a", b"\xc3\xb6"]], object), "BYTES", [["a", "\u00f6"]]),
    ],
    ids=str,
)
def test_rows_that_came_as_lists_are_lists(array, datatype, expected, payloads):
    """Code that takes a tensor's data as they are sees them nested as the caller sent them, else flat."""
    for nested in (True, False):
        sent = InferenceRequest(model_name="m", inputs=(Tensor("x", datatype, array, {}, nested),), protocol="v2_rest")
        data = payloads.request(sent).inputs[0].data
        flat = [None if isinstance(each, float) and math.isnan(each) else each for each in array.ravel().tolist()]
        flat = [each.decode() if isinstance(each, bytes) else each for each in flat]
        assert len(data) == len(expected if nested else flat)
        assert data.root == (expected if nested else flat)
        assert data[0] == (expected if nested else flat)[0]


def test_a_request_can_be_validated_and_dumped(payloads):
    """What is built without validation is what pydantic would have built."""
    x = Tensor("x", "INT8", np.array([[1], [2]], np.int8), {"content_type": "np", "mine": 1})
    built = payloads.request(InferenceRequest(model_name="m", inputs=(x,), id="7", headers={"a": "b"}))
    dumped = {
        "id": "7",
        "parameters": {"headers": {"a": "b"}},
        "inputs": [
            {"name": "x", "shape": [2, 1], "datatype": "INT8", "data": [1, 2],
             "parameters": {"content_type": "np", "mine": 1}}
        ],
    }  # fmt: skip
    assert built.model_dump() == dumped
    assert types.InferenceRequest.model_validate(dumped).model_dump() == dumped


@given(
    st.sampled_from(sorted(set(DTYPES) - {"BYTES", "BF16"})).flatmap(
        lambda name: st.tuples(
            st.just(name), arrays.arrays(DTYPES[name], arrays.array_shapes(min_dims=0, max_dims=3, min_side=0))
        )
    ),
    st.sampled_from(sorted(BUILDERS)),
    st.sampled_from(["v2_rest", "v2_grpc"]),
)
def test_what_is_echoed_comes_back(case, builder, protocol):
    """A numeric input that the model answers as it is has the same datatype, shape and values."""
    datatype, array = case
    payloads = Payloads(types, BUILDERS[builder], "m")
    request = InferenceRequest(model_name="m", inputs=(Tensor("x", datatype, array, {}),), protocol=protocol)
    (seen,) = payloads.request(request).inputs
    echoed = answer(payloads, seen.shape, seen.datatype, seen.data.root)
    assert echoed.datatype == datatype
    np.testing.assert_array_equal(echoed.data, array)
