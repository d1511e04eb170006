"""V1 in both forms: what is taken, what is refused, and the shape of answers."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.errors import InvalidRequest, RuntimeFailed
from headrace.payload import DTYPES, InferenceRequest, InferenceResponse, Signature, Tensor, TensorSpec
from headrace.protocols import v1
from headrace.testing import strategies
from headrace.testing.protocols import assert_same


def declared(**inputs):
    """A signature with an input for each `name=(datatype, shape)`."""
    specs = tuple(TensorSpec(name=name, datatype=kind, shape=shape) for name, (kind, shape) in inputs.items())
    return Signature(platform="test", inputs=specs)


FLOATS = declared(X=("FP32", (-1, 4)))
PAIR = declared(a=("FP32", (-1,)), b=("BYTES", (-1,)))


def parse(document, signature=None):
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return v1.parse(body, model_name="m", signature=signature)


def answer(*outputs):
    return InferenceResponse(model_name="m", outputs=outputs)


ROWS = InferenceRequest(model_name="m", inputs=())
COLUMNS = v1.ColumnRequest(model_name="m", inputs=())


class TestParse:
    @pytest.mark.parametrize(
        ("document", "signature", "expected"),
        [
            ({"instances": [[1, 2, 3, 4]]}, FLOATS, ("X", "FP32", [[1, 2, 3, 4]])),
            ({"instances": [[1, 2, 3, 4]]}, None, ("input-0", "INT64", [[1, 2, 3, 4]])),
            ({"instances": [1, 2.5]}, None, ("input-0", "FP64", [1, 2.5])),
            ({"instances": [True]}, None, ("input-0", "BOOL", [True])),
            ({"instances": [1 << 63]}, None, ("input-0", "UINT64", [1 << 63])),
            ({"instances": ["a", "é"]}, None, ("input-0", "BYTES", [b"a", "é".encode()])),
            ({"instances": [{"b64": "/w=="}, "a"]}, None, ("input-0", "BYTES", [b"\xff", b"a"])),
            ({"instances": [[{"b64": "/w=="}]]}, None, ("input-0", "BYTES", [[b"\xff"]])),
            ({"instances": [1, 2]}, declared(X=("FP64", (-1, 1))), ("X", "FP64", [[1], [2]])),
            ({"instances": [["a"], ["b"]]}, declared(X=("BYTES", (-1,))), ("X", "BYTES", [b"a", b"b"])),
            ({"instances": [0.5]}, declared(X=("FP16", (-1,))), ("X", "FP16", [0.5])),
            ({"instances": [1.0, -2.5]}, declared(X=("BF16", (-1,))), ("X", "BF16", [0x3F80, 0xC020])),
            ({"instances": []}, FLOATS, ("X", "FP32", [])),
            ({"inputs": [[1, 2, 3, 4]]}, FLOATS, ("X", "FP32", [[1, 2, 3, 4]])),
            ({"inputs": {"X": [[1, 2, 3, 4]]}}, FLOATS, ("X", "FP32", [[1, 2, 3, 4]])),
            ({"inputs": {"b64": "/w=="}}, None, ("input-0", "BYTES", b"\xff")),
            ({"inputs": 5}, None, ("input-0", "INT64", 5)),
        ],
        ids=lambda value: json.dumps(value)[:50] if isinstance(value, dict) else "",
    )
    def test_one_input(self, document, signature, expected):
        """One tensor takes the model's name, datatype and rank where they are known."""
        request = parse(document, signature)
        (tensor,) = request.inputs
        assert (tensor.name, tensor.datatype, tensor.data.tolist()) == expected
        assert tensor.data.dtype == DTYPES[tensor.datatype]
        assert isinstance(request, v1.ColumnRequest) is ("inputs" in document)

    @pytest.mark.parametrize(
        "document",
        [
            {"instances": [{"a": 1, "b": "x"}, {"b": {"b64": "eQ=="}, "a": 2}]},
            {"inputs": {"a": [1, 2], "b": ["x", "y"]}},
            {"instances": [[1, "x"], [2, {"b64": "eQ=="}]]},
        ],
        ids=["rows", "columns", "lists"],
    )
    def test_objects_become_columns(self, document):
        """Rows of objects, an object of columns, and rows of values in the model's order give the same tensors."""
        tensors = {tensor.name: tensor for tensor in parse(document, PAIR).inputs}
        assert tensors["a"].data.tolist() == [1.0, 2.0]
        assert tensors["a"].datatype == "FP32"
        assert tensors["b"].data.tolist() == [b"x", b"y"]

    def test_other_members_are_parameters(self):
        """Members that the protocol does not know go to the model; signature_name does not."""
        request = parse({"instances": [1], "signature_name": "serving_default", "threshold": 0.5})
        assert request.parameters == {"threshold": 0.5}
        assert request.protocol == "v1"

    @pytest.mark.parametrize(
        ("document", "signature", "text"),
        [
            ({}, None, "got neither"),
            ({"instances": [1], "inputs": [1]}, None, "got both"),
            ({"instances": 5}, None, 'Expected "instances" to be a list'),
            ({"instances": {"a": 1}}, None, 'Expected "instances" to be a list'),
            ({"instances": [[1, 2], [3]]}, None, "ragged"),
            ({"instances": [{"a": 1}, {"b": 1}]}, None, r"instance 1 .*members of instance 0 \(a\), got b"),
            ({"instances": [{"a": 1}, 5]}, None, "instance 1"),
            ({"instances": [[1, "a"]]}, None, "element 0"),
            ({"instances": [["a", "b"]]}, FLOATS, "a string"),
            ({"instances": [[{"c": 1}]]}, FLOATS, "objects"),
            ({"inputs": [{"name": "a", "shape": [1], "datatype": "FP32", "data": [1]}]}, FLOATS, "to the V2 path"),
            ({"instances": [{"b64": "?"}]}, None, "element 0 is not base64"),
            ({"instances": [{"b64": 5}]}, None, "b64"),
            ({"instances": [[1, "x", 2]]}, PAIR, r"takes 2 inputs \(a, b\)"),
            ({"instances": [300]}, declared(X=("UINT8", (-1,))), "300"),
            ({"instances": [1e6]}, declared(X=("FP16", (-1,))), "too large for FP16"),
            (b"{", None, "not JSON"),
            (b"[1]", None, "JSON object"),
            (b'{"instances": [NaN]}', None, "NaN is no JSON number"),
            (b'{"instances": ' + b"[" * 100_000, None, "nesting"),
        ],
        ids=lambda value: str(value)[:50] if isinstance(value, dict | bytes) else "",
    )
    def test_what_is_wrong_is_refused_with_the_place(self, document, signature, text):
        """The message says what was expected."""
        with pytest.raises(InvalidRequest, match=text):
            parse(document, signature)

    @settings(max_examples=60, deadline=None)
    @given(st.binary(max_size=100) | st.text(alphabet='{}[]",:instaceupb64 01', max_size=60).map(str.encode))
    def test_any_bytes_are_a_request_or_the_callers_mistake(self, body):
        """Arbitrary bytes raise InvalidRequest or parse; nothing else."""
        try:
            assert isinstance(parse(body, FLOATS), InferenceRequest)
        except InvalidRequest:
            return

    @settings(max_examples=60, deadline=None)
    @given(st.data())
    def test_a_column_comes_through_as_it_was(self, data):
        """A tensor answered in the column form and asked in it is the same tensor."""
        shape = st.lists(st.integers(1, 4), max_size=3).map(tuple)
        datatype = data.draw(st.sampled_from(list(DTYPES)))
        drawn = data.draw(strategies.arrays(datatype, shape=shape, infinite=False))
        if datatype == "BF16":
            drawn = drawn & 0xBFFF  # finite
        tensor = Tensor("t_bytes", datatype, drawn)
        outputs = json.loads(v1.render(COLUMNS, answer(tensor)))["outputs"]
        signature = declared(t_bytes=(datatype, drawn.shape))
        assert_same(parse({"inputs": {"t_bytes": outputs}}, signature).inputs, (tensor,))


class TestRender:
    def test_one_output_is_its_rows(self):
        """The row form lists the rows of the only output."""
        tensor = Tensor("y", "FP32", np.array([[0.1, np.nan]], np.float32))
        assert v1.render(ROWS, answer(tensor)) == b'{"predictions":[[0.1,null]]}'

    def test_several_outputs_are_objects(self):
        """A row of several outputs is an object by output name."""
        outputs = (Tensor("y", "INT64", np.array([1, 2])), Tensor("s", "BYTES", np.array([b"a", b"b"], np.object_)))
        assert json.loads(v1.render(ROWS, answer(*outputs))) == {
            "predictions": [{"y": 1, "s": "a"}, {"y": 2, "s": "b"}]
        }
        assert json.loads(v1.render(COLUMNS, answer(*outputs))) == {"outputs": {"y": [1, 2], "s": ["a", "b"]}}

    def test_outputs_without_common_rows_are_an_object(self):
        """What has no rows in common is answered by name, not cut to fit."""
        outputs = (Tensor("y", "INT64", np.array([1, 2])), Tensor("n", "INT64", np.array(3)))
        assert json.loads(v1.render(ROWS, answer(*outputs))) == {"predictions": {"y": [1, 2], "n": 3}}

    def test_bytes_are_text_where_they_can_be(self):
        """Bytes that are not UTF-8, and outputs named so, travel as base64 objects."""
        data = np.array([b"a", b"\xff"], np.object_)
        assert json.loads(v1.render(ROWS, answer(Tensor("y", "BYTES", data)))) == {
            "predictions": ["a", {"b64": "/w=="}]
        }
        assert json.loads(v1.render(ROWS, answer(Tensor("y_bytes", "BYTES", data[:1])))) == {
            "predictions": [{"b64": "YQ=="}]
        }

    def test_what_json_does_not_carry_is_the_models_failure(self):
        """An object of Python among the outputs fails with a named cause."""
        with pytest.raises(RuntimeFailed, match="neither bytes nor text"):
            v1.render(ROWS, answer(Tensor("y", "BYTES", np.array([object()], np.object_))))

    def test_models_and_readiness(self):
        """The bodies around prediction are KServe's and TensorFlow Serving's."""
        assert v1.render_models(["a", "b"]) == b'{"models":["a","b"]}'
        assert json.loads(v1.render_status("a", [v1.VersionStatus("2", "AVAILABLE")], ready=True)) == {
            "name": "a",
            "ready": True,
            "model_version_status": [
                {"version": "2", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
            ],
        }
        assert v1.render_error(KeyError("secret")) == b'{"error":"internal error: KeyError"}'
