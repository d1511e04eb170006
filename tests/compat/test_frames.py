"""Data frames: a column per tensor, with nulls in every kind of column."""

# Hints stand as older code writes them; moments without a zone are what it sends.
# ruff: noqa: DTZ001

import datetime as dt

import numpy as np
import pandas as pd
import pytest
from mlserver.codecs import CodecError, PandasCodec, base
from mlserver.model import MLModel
from mlserver.settings import ModelSettings
from mlserver.types import InferenceRequest, Parameters, RequestInput, _build


def tensor(name, data, datatype="FP32", shape=None, **parameters):
    return RequestInput(
        name=name, shape=shape or [len(data)], datatype=datatype, data=data, parameters=parameters or None
    )


def frame_of(*inputs, **parameters):
    return PandasCodec.decode_request(InferenceRequest(inputs=list(inputs), parameters=parameters or None))


def column(values, **options):
    [output] = PandasCodec.encode_outputs(pd.DataFrame({"a": pd.Series(values, **options)}))
    content_type = output.parameters.content_type if output.parameters else None
    return output.datatype, content_type, output.data.root


COLUMNS = {
    "integers": ([1, 2], {}, ("INT64", None, [1, 2])),
    "floats": ([1.5, None], {"dtype": "float32"}, ("FP32", None, [1.5, None])),
    "booleans": ([True, False], {}, ("BOOL", None, [True, False])),
    "text": (["x", "é"], {}, ("BYTES", "str", [b"x", "é".encode()])),
    "text with null": (["x", None], {}, ("BYTES", "str", [b"x", None])),
    "text as objects": (["x", None], {"dtype": object}, ("BYTES", "str", [b"x", None])),
    "text with nan": (["x", float("nan")], {"dtype": object}, ("BYTES", "str", [b"x", None])),
    "bytes": ([b"x", b"y"], {}, ("BYTES", "str", [b"x", b"y"])),
    "nullable integers": ([1, None], {"dtype": "Int32"}, ("INT32", None, [1, None])),
    "nullable booleans": ([True, None], {"dtype": "boolean"}, ("BOOL", None, [True, None])),
    "categories": (["x", None], {"dtype": "category"}, ("BYTES", "str", [b"x", None])),
    "objects": ([{"z": 1}, [1], None], {}, ("BYTES", "pd_json", [b'{"z":1}', b"[1]", None])),
    "arrays": ([np.array([1, 2])], {}, ("BYTES", "pd_json", [b"[1,2]"])),
    "mixed": (["x", 1], {}, ("BYTES", "pd_json", [b'"x"', b"1"])),
    "moments": ([dt.datetime(2020, 1, 1), None], {}, ("BYTES", "str", [b"2020-01-01T00:00:00", None])),
    "empty": ([], {"dtype": "float64"}, ("FP64", None, [])),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_columns(name):
    """Each kind of column has its datatype and content type, and its nulls are None."""
    values, options, expected = COLUMNS[name]
    assert column(values, **options) == expected


def test_response_form():
    """A response has an output of N x 1 per column, in order, under the name of the model."""
    response = PandasCodec.encode_response("m", pd.DataFrame({"a": [1, 2], "b": ["x", "y"]}), "v1")
    assert (response.model_name, response.model_version, response.parameters.content_type) == ("m", "v1", "pd")
    assert [(output.name, output.shape) for output in response.outputs] == [("a", [2, 1]), ("b", [2, 1])]


def test_text_without_bytes():
    """use_bytes off leaves text, and JSON text, as str."""
    frame = pd.DataFrame({"a": ["x"], "b": [{"z": 1}]})
    request = PandasCodec.encode_request(frame, use_bytes=False)
    assert [request_input.data.root for request_input in request.inputs] == [["x"], ['{"z":1}']]


def test_columns_are_not_listed():
    """Columns of numbers travel as arrays."""
    [output] = PandasCodec.encode_outputs(pd.DataFrame({"a": [1.0, 2.0]}))
    assert _build.held(output.data) is not None


def test_frames_come_back():
    """Decoding what was encoded gives the frame, by way of the content types of its columns."""
    frame = pd.DataFrame({"a": [1, 2], "b": ["x", None], "c": [1.5, np.nan], "d": [{"z": 1}, [2]], "e": [True, False]})
    model = MLModel(ModelSettings(name="m", implementation=MLModel))
    back = model.decode_request(PandasCodec.encode_request(frame))
    assert back.to_dict("list")["b"][0] == "x"
    assert back["b"].isna().tolist() == [False, True]
    np.testing.assert_array_equal(back["c"], frame["c"])
    for name in "ade":
        assert back[name].tolist() == frame[name].tolist()


@pytest.mark.parametrize(
    ("data", "datatype", "dtype", "missing"),
    [
        ([1, 2], "INT64", "int64", [False, False]),
        ([1, None], "INT64", "Int64", [False, True]),
        ([1, None], "UINT8", "UInt8", [False, True]),
        ([True, None], "BOOL", "boolean", [False, True]),
        ([1, None], "FP32", "float32", [False, True]),
    ],
    ids=["integers", "null integers", "null bytes", "null booleans", "null floats"],
)
def test_null_numbers(data, datatype, dtype, missing):
    """Nulls among numbers stay missing, and no other number changes."""
    series = frame_of(tensor("a", data, datatype))["a"]
    assert str(series.dtype) == dtype
    assert series.isna().tolist() == missing


def test_array_columns():
    """Tensors backed by arrays become columns of their datatype, as listed ones do."""
    fast = _build.request_input("a", "FP32", np.ones((2, 1), dtype=np.float32))
    frame = frame_of(fast, tensor("b", [1, 2], "INT64", [2, 1]))
    assert [str(dtype) for dtype in frame.dtypes] == ["float32", "int64"]
    text = _build.request_input("a", "BYTES", np.array([b"x", b"y"], dtype=object), text=True)
    assert frame_of(text)["a"].tolist() == ["x", "y"]


def test_decoded_columns():
    """A column that was decoded before is used as it was decoded."""
    model = MLModel(ModelSettings(name="m", implementation=MLModel))
    request = InferenceRequest(
        parameters=Parameters(content_type="pd"),
        inputs=[
            tensor("a", ["YQ=="], "BYTES", content_type="base64"),
            tensor("b", [b"x"], "BYTES", content_type="str"),
            tensor("c", [1], "FP32", [1, 1], content_type="np"),
            tensor("d", ["2020-01-01"], "BYTES", content_type="datetime"),
            tensor("e", ['{"q": 1}'], "BYTES", content_type="pd_json"),
        ],
    )
    frame = model.decode_request(request)
    assert frame.iloc[0].tolist() == [b"a", "x", 1.0, pd.Timestamp("2020-01-01"), {"q": 1}]


def test_wide_tensors():
    """A tensor of several values per row is no column, and that is the caller's fault."""
    model = MLModel(ModelSettings(name="m", implementation=MLModel))
    request = InferenceRequest(inputs=[tensor("a", [1, 2, 3, 4], "FP32", [2, 2], content_type="np")])
    with pytest.raises(CodecError, match="tensor 'a' has shape") as caught:
        model.decode_request(request, default_codec=PandasCodec)
    assert caught.value.status_code == 400


def test_broken_json():
    """A column that says it is JSON and is not is the caller's fault."""
    with pytest.raises(CodecError, match="tensor 'a'"):
        frame_of(tensor("a", ["b"], "BYTES", content_type="pd_json"))


def test_found():
    """The codec is found by a frame and by its hint."""
    assert base.find_request_codec(payload=pd.DataFrame()) is PandasCodec
    assert base.find_request_codec(type_hint=pd.DataFrame) is PandasCodec
    assert PandasCodec.TypeHint is pd.DataFrame
    assert not PandasCodec.can_encode({})
