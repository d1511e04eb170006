"""Codecs of one tensor: both ways, by data that are listed and data that are arrays, and found by type or payload."""

# Hints stand as older code writes them; moments without a zone are what it sends.
# ruff: noqa: UP006, UP035, DTZ001

import base64
from datetime import UTC, datetime
from typing import Dict, List

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from mlserver.codecs import (
    Base64Codec,
    CodecError,
    DatetimeCodec,
    InputCodec,
    NumpyCodec,
    NumpyRequestCodec,
    RequestCodec,
    StringCodec,
    StringRequestCodec,
    base,
    decode_request_input,
    encode_response_output,
    get_decoded,
    get_decoded_or_raw,
    has_decoded,
)
from mlserver.codecs.json import decode_json_input_or_output, encode_to_json, encode_to_json_bytes
from mlserver.codecs.lists import as_list, is_list_of
from mlserver.codecs.numpy import convert_nan, to_datatype, to_dtype
from mlserver.codecs.utils import inject_batch_dimension
from mlserver.errors import MLServerError
from mlserver.types import (
    InferenceRequest,
    InferenceResponse,
    MetadataTensor,
    RequestInput,
    RequestOutput,
    ResponseOutput,
    TensorData,
    _build,
)

NUMBERS = {
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
}


def listed(data, datatype, shape, **parameters):
    return RequestInput(name="x", shape=shape, datatype=datatype, data=data, parameters=parameters or None)


def bytes_of(elements, shape=None, *, text=False):
    array = np.array([element.encode() if isinstance(element, str) else element for element in elements], dtype=object)
    return _build.request_input("x", "BYTES", array.reshape(shape or [len(elements)]), text=text)


@pytest.mark.parametrize("datatype", NUMBERS)
@given(data=st.data())
def test_arrays_come_back(datatype, data):
    """Decoding what was encoded gives the array, for every datatype, with one column added to a vector; NaN included."""
    array = data.draw(arrays.arrays(NUMBERS[datatype], arrays.array_shapes(max_dims=3, max_side=3)))
    output = NumpyCodec.encode_output("y", array)
    assert output.datatype == datatype
    assert output.shape == (list(array.shape) if array.ndim > 1 else [len(array), 1])
    back = NumpyCodec.decode_output(output)
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array.reshape(output.shape))


@pytest.mark.parametrize("datatype", NUMBERS)
@given(data=st.data())
def test_arrays_equal_lists(datatype, data):
    """Decoding data backed by an array gives what decoding the same data as a list gives."""
    array = data.draw(arrays.arrays(NUMBERS[datatype], arrays.array_shapes(max_dims=3, max_side=3)))
    fast = NumpyCodec.decode_input(_build.request_input("x", datatype, array))
    slow = NumpyCodec.decode_input(listed(TensorData.of_array(array).root, datatype, list(array.shape)))
    assert fast.dtype == slow.dtype
    np.testing.assert_array_equal(fast, slow)


def test_no_list_is_made():
    """Decoding and encoding numbers lists nothing."""
    request_input = _build.request_input("x", "FP32", np.ones((2, 2), dtype=np.float32))
    output = NumpyCodec.encode_output("y", NumpyCodec.decode_input(request_input))
    assert _build.held(request_input.data) is not None
    assert _build.held(output.data) is not None


def test_decoded_arrays_are_the_callers_own():
    """Writing to a decoded array changes neither the request nor what is decoded from it next."""
    source = np.zeros(2)
    source.flags.writeable = False
    request_input = _build.request_input("x", "FP64", source)
    NumpyCodec.decode_input(request_input)[0] = 5
    assert NumpyCodec.decode_input(request_input).tolist() == [0, 0]
    assert request_input.data.root == [0, 0]


def test_encoded_arrays_are_copied():
    """Writing to an array after it was encoded does not change the answer."""
    array = np.zeros(2)
    output = NumpyCodec.encode_output("y", array)
    array[0] = 5
    assert output.data.root == [0, 0]


def test_encoded_form():
    """An encoded array is a flat list, named np, in which NaN is None."""
    output = NumpyCodec.encode_output("y", np.array([[1.5, np.nan]]))
    assert output.model_dump() == {
        "name": "y",
        "shape": [1, 2],
        "datatype": "FP64",
        "parameters": {"content_type": "np"},
        "data": [1.5, None],
    }
    assert NumpyCodec.encode_input("y", np.array([[1.5, np.nan]])).model_dump() == output.model_dump()


def test_encoded_scalar():
    """A scalar becomes a tensor of one element."""
    assert NumpyCodec.encode_output("y", np.float32(3)).shape == [1]
    assert NumpyCodec.encode_output("y", np.array(3)).shape == [1]


@pytest.mark.parametrize(
    ("data", "shape", "expected"),
    [
        ([1, None], [2], [1.0, np.nan]),
        ([[1, 2], [3, 4]], [2, 2], [[1, 2], [3, 4]]),
        ([1, 2, 3, 4], [2, 2], [[1, 2], [3, 4]]),
        ([1, 2], [-1, 1], [[1], [2]]),
        ([], [0], []),
    ],
    ids=["null", "nested", "flat", "open", "empty"],
)
def test_lists_of_numbers(data, shape, expected):
    """Numbers come flat or nested, with nulls among floats."""
    np.testing.assert_array_equal(NumpyCodec.decode_input(listed(data, "FP32", shape)), np.float32(expected))


@pytest.mark.parametrize(
    ("request_input", "error"),
    [
        (listed([1, 2, 3], "FP32", [2, 2]), "cannot reshape array of size 3"),
        (listed([1, None], "INT64", [2]), "NoneType"),
        (listed([300], "UINT8", [1]), "out of bounds"),
        (listed(["zz"], "FP32", [1]), "could not convert"),
        (_build.request_input("x", "BYTES", np.array([b"a", b"b"], dtype=object)), None),
    ],
    ids=["shape", "null", "range", "text", "fine"],
)
def test_broken_tensors(request_input, error):
    """A tensor that is not what it says is refused as the caller's fault, by name, and is a ValueError too."""
    if error is None:
        assert NumpyCodec.decode_input(request_input).tolist() == [b"a", b"b"]
        return
    with pytest.raises(CodecError, match=f"tensor 'x': .*{error}") as caught:
        NumpyCodec.decode_input(request_input)
    assert caught.value.status_code == 400
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    ("data", "shape", "dtype", "expected"),
    [
        (["a", "bcd"], [2], "<U3", ["a", "bcd"]),
        (["a", "bcd"], [2, 1], "<U3", [["a"], ["bcd"]]),
        ([b"a", b"bcd"], [2], "S3", [b"a", b"bcd"]),
        (["a", b"bcd"], [2], "S3", [b"a", b"bcd"]),
        ([["a"], ["b"]], [2, 1], "<U1", [["a"], ["b"]]),
        ([b"abcd"], [2], "S2", [b"ab", b"cd"]),
        ([b"abcd"], [2, 1], "S2", [[b"ab"], [b"cd"]]),
        ([b"ab", b"cd"], [4, 1], "S1", [[b"a"], [b"b"], [b"c"], [b"d"]]),
        (["a", None], [2], "O", ["a", None]),
        ([], [0], "<U1", []),
    ],
    ids=["text", "column", "bytes", "both", "nested", "buffer", "buffer column", "buffers", "null", "empty"],
)
def test_arrays_of_bytes(data, shape, dtype, expected):
    """BYTES become text, bytes or objects, every element whole; a buffer of items of one size is cut at them."""
    array = NumpyCodec.decode_input(listed(data, "BYTES", shape))
    assert array.dtype == np.dtype(dtype)
    assert array.tolist() == expected


@pytest.mark.parametrize(("data", "shape"), [([b"abc"], [2]), ([b"ab", b"cd"], [2, 2]), (["a", "b"], [3])])
def test_buffers_that_do_not_fit(data, shape):
    """Bytes that fill no shape are refused."""
    with pytest.raises(CodecError):
        NumpyCodec.decode_input(listed(data, "BYTES", shape))


@pytest.mark.parametrize(
    ("array", "data"),
    [
        (np.array(["a", "bé"]), [b"a", "bé".encode()]),
        (np.array([b"ab", b"cd"]), [b"abcd"]),
        (np.array(["a", None], dtype=object), ["a", None]),
    ],
    ids=["text", "bytes", "objects"],
)
def test_encoded_bytes(array, data):
    """Text becomes UTF-8, bytes one buffer, objects stay."""
    output = NumpyCodec.encode_output("y", array)
    assert (output.datatype, output.shape, output.data.root) == ("BYTES", [2, 1], data)


def test_dtypes():
    """Datatypes and dtypes are known both ways; what nothing carries is a KeyError."""
    for datatype, dtype in NUMBERS.items():
        assert to_datatype(np.dtype(dtype)).value == datatype
        assert to_dtype(listed([1], datatype, [1])) == np.dtype(dtype)
    assert to_dtype(listed(["a"], "BYTES", [1])) == np.dtype("<U")
    assert to_dtype(listed([b"a"], "BYTES", [2, 5])) == np.dtype("S5")
    assert to_datatype(np.dtype(">i4")).value == "INT32"
    with pytest.raises(KeyError):
        to_datatype(np.dtype("complex64"))


def test_nan_rule():
    """Only what is no number becomes None."""
    assert [convert_nan(value) for value in (float("nan"), np.float32("nan"), 1.0, "a", None)] == [
        None,
        None,
        1.0,
        "a",
        None,
    ]


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]))))
def test_text_comes_back(texts):
    """Decoding what was encoded gives the list of str, as bytes or as text."""
    for use_bytes in (True, False):
        output = StringCodec.encode_output("y", texts, use_bytes=use_bytes)
        assert output.shape == [len(texts), 1]
        assert StringCodec.decode_output(output) == texts
        assert StringCodec.decode_input(StringCodec.encode_input("y", texts, use_bytes=use_bytes)) == texts


def test_text_of_arrays():
    """Text is decoded from arrays without listing them, whichever wire they came by."""
    for text in (True, False):
        request_input = bytes_of(["a", "é"], [2, 1], text=text)
        assert StringCodec.decode_input(request_input) == ["a", "é"]
        assert _build.held(request_input.data) is not None


def test_text_wire_shows():
    """Models that look at the raw data see str from JSON and bytes from gRPC."""
    assert bytes_of(["a"], text=True).data[0] == "a"
    assert bytes_of(["a"]).data[0] == b"a"


def test_odd_text():
    """Nulls stay None, a single text is one element, numbers are empty, broken UTF-8 is the caller's fault."""
    assert StringCodec.decode_input(listed(["a", None], "BYTES", [2])) == ["a", None]
    assert StringCodec.decode_input(listed("ab", "BYTES", [1])) == ["ab"]
    assert StringCodec.decode_input(listed([1], "FP32", [1])) == [""]
    with pytest.raises(CodecError, match="tensor 'x': 'utf-8' codec"):
        StringCodec.decode_input(bytes_of([b"\xff"]))


@given(st.lists(st.binary()))
def test_bytes_come_back(elements):
    """Decoding what was encoded gives the list of bytes."""
    for use_bytes in (True, False):
        assert Base64Codec.decode_output(Base64Codec.encode_output("y", elements, use_bytes=use_bytes)) == elements


def test_plain_bytes():
    """What is not base64 stays as it is; text that cannot be bytes is the caller's fault."""
    assert Base64Codec.decode_input(bytes_of([b"no base64!", base64.b64encode(b"abc")])) == [b"no base64!", b"abc"]
    with pytest.raises(CodecError, match="ascii"):
        Base64Codec.decode_input(listed(["é"], "BYTES", [1]))


@given(st.lists(st.datetimes(timezones=st.sampled_from([None, UTC]))))
def test_moments_come_back(moments):
    """Decoding what was encoded gives the list of datetime, with its zone."""
    assert DatetimeCodec.decode_output(DatetimeCodec.encode_output("y", moments)) == moments


def test_moments_as_text():
    """ISO text goes through, and a text that is no moment is the caller's fault."""
    assert DatetimeCodec.decode_input(DatetimeCodec.encode_input("y", ["2020-01-01T00:00:00Z"])) == [
        datetime(2020, 1, 1, tzinfo=UTC)
    ]
    with pytest.raises(CodecError, match="Invalid isoformat"):
        DatetimeCodec.decode_input(listed(["zz"], "BYTES", [1]))


def test_json_elements():
    """JSON in elements is read, arrays and numpy's numbers are written, NaN is refused or null."""
    assert decode_json_input_or_output(bytes_of([b'{"a":1}', b"[1]"])) == [{"a": 1}, [1]]
    assert encode_to_json({"a": np.array([1, 2.5]), "b": np.float32(1)}) == b'{"a":[1.0,2.5],"b":1.0}'
    assert encode_to_json("é", use_bytes=False) == '"é"'
    with pytest.raises(ValueError, match="not JSON compliant"):
        encode_to_json(float("nan"))
    assert encode_to_json_bytes({"a": b"x", "b": float("nan")}) == b'{"a":"x","b":null}'
    with pytest.raises(TypeError, match="bytes"):
        encode_to_json_bytes(b"\xff")


def test_lists():
    """A list of one kind is known; anything else is its own only element."""
    assert (is_list_of(["a"], str), is_list_of(["a", 1], str), is_list_of("a", str)) == (True, False, False)
    assert (list(as_list(["a", b"b"])), list(as_list("ab"))) == (["a", b"b"], ["ab"])


def test_batch_dimension():
    """A vector becomes rows of one column; other shapes stay."""
    assert [inject_batch_dimension(shape) for shape in ([3], [3, 2], [])] == [[3, 1], [3, 2], [1]]


@pytest.mark.parametrize(
    ("payload", "codec"),
    [
        (np.zeros(2), NumpyCodec),
        (["a"], StringCodec),
        ([b"a"], Base64Codec),
        ([datetime(2020, 1, 1)], DatetimeCodec),
        (3, None),
    ],
    ids=["array", "text", "bytes", "moments", "number"],
)
def test_found_by_payload(payload, codec):
    """A codec is found by what it can encode."""
    assert base.find_input_codec(payload=payload) is codec


@pytest.mark.parametrize(
    ("hint", "codec"),
    [
        (np.ndarray, NumpyCodec),
        (List[str], StringCodec),
        (list[str], StringCodec),
        (List[bytes], Base64Codec),
        (Dict[str, str], None),
    ],
    ids=str,
)
def test_found_by_hint(hint, codec):
    """A codec is found by its type hint, in either spelling."""
    assert base.find_input_codec(type_hint=hint) is codec


def test_found_by_content_type():
    """A content type decides alone."""
    assert base.find_input_codec("np") is NumpyCodec
    assert base.find_request_codec("str") is StringRequestCodec
    assert base.find_input_codec("nope", payload=np.zeros(1)) is None
    assert base.find_input_codec() is None


def test_registered(monkeypatch):
    """A registered codec is found; the first of several that take a payload is used."""
    monkeypatch.setattr(base._codec_registry, "_input_codecs", dict(base._codec_registry._input_codecs))

    class Tables(InputCodec):
        ContentType = "tables"
        TypeHint = dict

        @classmethod
        def can_encode(cls, payload):
            return isinstance(payload, dict)

    class Others(Tables):
        ContentType = "others"

    assert base.register_input_codec(Tables) is Tables
    base.register_input_codec(Others)
    assert base.find_input_codec("others") is Others
    assert base.find_input_codec(payload={}) is Tables
    assert base.find_input_codec(type_hint=dict) is Tables


def test_roles_do_nothing():
    """A codec that defines nothing encodes nothing."""
    assert not InputCodec.can_encode(1)
    assert not RequestCodec.can_encode(1)
    for call in (
        lambda: InputCodec.encode_output("a", 1),
        lambda: InputCodec.decode_input(1),
        lambda: RequestCodec.encode_response("m", 1),
        lambda: RequestCodec.decode_request(1),
    ):
        with pytest.raises(NotImplementedError):
            call()


def test_old_names(caplog):
    """The old names still work, and say that they are old."""
    output = NumpyCodec.encode(name="a", payload=np.zeros(1))
    assert output.shape == [1, 1]
    assert NumpyCodec.decode(listed([0], "FP32", [1])).tolist() == [0]
    assert "The encode() method is now deprecated. Use encode_output() instead." in caplog.text


def test_single_input_requests():
    """A request of one array is encoded and decoded whole, and one of several is refused."""
    request = NumpyRequestCodec.encode_request(np.zeros((1, 2)))
    assert (request.inputs[0].name, request.parameters.content_type) == ("input-1", "np")
    assert NumpyRequestCodec.decode_request(request).tolist() == [[0, 0]]
    response = NumpyRequestCodec.encode_response("m", np.zeros((1, 2)), "v1")
    assert (response.outputs[0].name, response.model_version) == ("output-1", "v1")
    assert NumpyRequestCodec.decode_response(response).tolist() == [[0, 0]]
    with pytest.raises(CodecError, match=r"only supports a single input tensor \(0 were received\)"):
        NumpyRequestCodec.decode_request(InferenceRequest(inputs=[]))
    with pytest.raises(CodecError, match=r"only supports a single output tensor \(0 were received\)"):
        NumpyRequestCodec.decode_response(InferenceResponse(model_name="m", outputs=[]))


def test_decoded_is_kept():
    """What a content type decoded is kept with the tensor, out of sight of dumps and comparisons."""
    request_input = listed([1], "FP32", [1], content_type="np")
    assert not has_decoded(request_input)
    decoded = decode_request_input(request_input)
    assert get_decoded(request_input) is decoded
    assert get_decoded_or_raw(request_input) is decoded
    assert request_input == listed([1], "FP32", [1], content_type="np")
    assert request_input.model_dump()["parameters"] == {"content_type": "np"}


def test_undecoded():
    """Without a content type that we know, nothing is decoded and the raw data are given."""
    request_input = listed([1], "FP32", [1])
    assert decode_request_input(request_input) is None
    assert decode_request_input(listed([1], "FP32", [1], content_type="nope")) is None
    assert get_decoded(request_input) is None
    assert get_decoded_or_raw(request_input) is request_input.data
    request = InferenceRequest(inputs=[])
    assert get_decoded_or_raw(request) is request


def metadata(content_type):
    tensor = MetadataTensor(name="x", datatype="BYTES", shape=[-1], parameters={"content_type": content_type})
    return {"x": tensor}


def test_metadata_decide():
    """The metadata's content type decides where the tensor names none."""
    assert decode_request_input(listed(["YQ=="], "BYTES", [1]), metadata("base64")) == [b"a"]
    assert decode_request_input(listed(["YQ=="], "BYTES", [1], content_type="str"), metadata("base64")) == ["YQ=="]
    assert encode_response_output(["a"], RequestOutput(name="x"), metadata("base64")).data.root == [b"YQ=="]


def test_outputs_by_payload():
    """An output that names no content type is encoded by what the payload is; None where nothing takes it."""
    assert encode_response_output(["a"], RequestOutput(name="o")).parameters.content_type == "str"
    assert encode_response_output(3, RequestOutput(name="o")) is None
    requested = RequestOutput(name="o", parameters={"content_type": "nope"})
    assert encode_response_output(["a"], requested) is None


def test_codec_errors_have_a_status():
    """Codec errors are the caller's: 400, and MLServerErrors."""
    assert isinstance(CodecError("x"), MLServerError)
    assert str(CodecError("x")) == "There was an error encoding / decoding the payload: x"


def test_outputs_of_others():
    """An output made by hand of a list decodes as one made by a codec."""
    output = ResponseOutput(name="y", shape=[2], datatype="INT64", data=[1, 2])
    assert NumpyCodec.decode_output(output).tolist() == [1, 2]
