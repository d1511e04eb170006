"""The ONNX runtime.

Matrix: floats, strings, FP16, several inputs, maps, fixed sizes, scalars; recognition by bytes. Left out: weights in
files beside the model (ONNX Runtime's own affair, given the path), devices other than the CPU.
"""

import numpy as np
import onnx
import pytest
import skl2onnx
from onnx import TensorProto, helper
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

from headrace.errors import InvalidRequest, LoadFailed, SettingsError
from headrace.payload import TensorSpec
from headrace.runtimes.base import Recognition, Source
from headrace.runtimes.onnx import OnnxRuntime
from headrace.testing.runtimes import RuntimeConformance

X, Y = load_iris(return_X_y=True)
RNG = np.random.default_rng(0)


def graph(nodes, inputs, outputs, **weights):
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(*value) for value in inputs],
        [helper.make_tensor_value_info(*value) for value in outputs],
        [onnx.numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9, producer_name="tests")


def softmax():
    return graph(
        [
            helper.make_node("Gemm", ["x", "w", "b"], ["s"]),
            helper.make_node("Softmax", ["s"], ["p"]),
            helper.make_node("ArgMax", ["p"], ["label"], axis=1, keepdims=0),
        ],
        [("x", TensorProto.FLOAT, ["n", 4])],
        [("label", TensorProto.INT64, ["n"]), ("p", TensorProto.FLOAT, ["n", 3])],
        w=RNG.normal(size=(4, 3)).astype(np.float32),
        b=np.zeros(3, np.float32),
    )


def identity(kind, shape=("n", 2), op="Identity"):
    return graph([helper.make_node(op, ["x"], ["y"])], [("x", kind, list(shape))], [("y", kind, list(shape))])


def serve(model, **parameters):
    runtime = OnnxRuntime(Source(model=model, parameters=parameters))
    return runtime, runtime.load()


class TestFloats(RuntimeConformance):
    name = "onnx"
    nan = "accepted"

    def model(self):
        return softmax()

    def save(self, folder):
        onnx.save(self.model(), folder / "model.onnx")
        return folder / "model.onnx"

    def inputs(self):
        return {"x": np.arange(12, dtype=np.float32).reshape(3, 4)}

    def wrong_width(self):
        return {"x": np.zeros((3, 5), np.float32)}


class TestStrings(TestFloats):
    nan = ""

    def model(self):
        return identity(TensorProto.STRING)

    def inputs(self):
        return {"x": np.array([[b"a", "ü".encode()], [b"", b"c"], [b"d", b"e"]], dtype=object)}

    def wrong_width(self):
        return {"x": np.array([[b"a"]], dtype=object)}


class TestMaps(TestFloats):
    nan = ""

    def model(self):
        names = np.array(["setosa", "versicolor", "virginica"])
        return skl2onnx.to_onnx(LogisticRegression(max_iter=500).fit(X, names[Y]), X[:1].astype(np.float32))

    def inputs(self):
        return {"X": X[[0, 70, 140]].astype(np.float32)}

    def wrong_width(self):
        return {"X": np.zeros((3, 5), np.float32)}


class TestHalves(TestFloats):
    def model(self):
        return identity(TensorProto.FLOAT16, op="Neg")

    def inputs(self):
        return {"x": np.arange(6, dtype=np.float16).reshape(3, 2)}


class TestFixedBatch(TestFloats):
    def model(self):
        return identity(TensorProto.DOUBLE, (3, 2), "Neg")

    def inputs(self):
        return {"x": np.arange(6.0).reshape(3, 2)}


def test_the_signature_is_the_graphs():
    """Names, datatypes and shapes are those of the graph, sizes without a number are -1, and all outputs are default."""
    _, signature = serve(softmax())
    assert signature.platform == "onnx_onnxruntime"
    assert signature.inputs == (TensorSpec(name="x", datatype="FP32", shape=(-1, 4)),)
    assert signature.outputs == (
        TensorSpec(name="label", datatype="INT64", shape=(-1,)),
        TensorSpec(name="p", datatype="FP32", shape=(-1, 3)),
    )
    assert signature.strict
    assert signature.batchable


def test_maps_are_a_matrix_with_labels():
    """A classifier's list of maps is answered as probabilities by class, labels in the signature."""
    fitted = LogisticRegression(max_iter=500).fit(X, Y)
    runtime, signature = serve(skl2onnx.to_onnx(fitted, X[:1].astype(np.float32)))
    spec = signature.outputs[1]
    assert (spec.datatype, spec.shape, spec.labels) == ("FP32", (-1, 3), ("0", "1", "2"))
    answer = runtime.predict({"X": X.astype(np.float32)})
    np.testing.assert_array_equal(answer["output_label"], fitted.predict(X))
    np.testing.assert_allclose(answer["output_probability"], fitted.predict_proba(X), atol=1e-6)


@pytest.mark.parametrize(
    ("shape", "batchable"), [(("n", 2), True), ((3, 2), False), ((), False), ((1, 2), False)], ids=str
)
def test_only_a_free_first_size_is_batchable(shape, batchable):
    """A model is batchable where the first size of every input and output is free."""
    assert serve(identity(TensorProto.FLOAT, shape, "Neg"))[1].batchable is batchable


def test_a_batch_that_never_leaves_the_model_is_not_batchable():
    """A model that adds its rows up is not batchable."""
    model = graph(
        [helper.make_node("ReduceSum", ["x"], ["y"], keepdims=0)],
        [("x", TensorProto.FLOAT, ["n", 2])],
        [("y", TensorProto.FLOAT, [])],
    )
    runtime, signature = serve(model)
    assert not signature.batchable
    assert runtime.predict({"x": np.ones((5, 2), np.float32)})["y"] == 10


def test_several_inputs_go_by_name():
    """Inputs are fed by name, whatever their order."""
    model = graph(
        [helper.make_node("Sub", ["a", "b"], ["y"])],
        [("a", TensorProto.FLOAT, ["n"]), ("b", TensorProto.FLOAT, ["n"])],
        [("y", TensorProto.FLOAT, ["n"])],
    )
    runtime, _ = serve(model)
    answer = runtime.predict({"b": np.array([1], np.float32), "a": np.array([5], np.float32)})
    assert answer["y"].tolist() == [4]


@pytest.mark.parametrize("dtype", [np.float64, np.int64, np.uint8, np.float16, np.bool_])
def test_numbers_of_another_width_are_cast(dtype):
    """Numbers that only differ in width or are whole are cast; the answer is that of the cast ones."""
    runtime, _ = serve(softmax())
    rows = np.array([[0, 1, 1, 0]], dtype=dtype)
    expected = runtime.predict({"x": rows.astype(np.float32)})
    np.testing.assert_array_equal(runtime.predict({"x": rows})["p"], expected["p"])


@pytest.mark.parametrize(
    ("inputs", "text"),
    [
        ({}, "missing input 'x'"),
        ({"y": np.zeros((1, 4), np.float32)}, "unknown input 'y'"),
        ({"x": np.zeros((1, 5), np.float32)}, r"'x' has shape \[1, 5\], expected \[-1, 4\]"),
        ({"x": np.zeros(4, np.float32)}, r"'x' has shape \[4\]"),
        ({"x": np.array([[b"a"] * 4], dtype=object)}, "'x' has dtype object, expected float32"),
        ({"x": np.zeros((1, 4), np.complex64)}, "complex64"),
    ],
    ids=["none", "other name", "width", "dimensions", "text", "complex"],
)
def test_input_of_another_kind_is_refused(inputs, text):
    """Wrong names, shapes and datatypes are the caller's error, and the text says what was expected."""
    runtime, _ = serve(softmax())
    with pytest.raises(InvalidRequest, match=text):
        runtime.predict(inputs)


def test_whole_numbers_do_not_take_fractions():
    """A float for a whole-number input is refused instead of cut off."""
    runtime, _ = serve(identity(TensorProto.INT64))
    with pytest.raises(InvalidRequest, match="expected int64"):
        runtime.predict({"x": np.array([[0.5, 1.5]])})


def test_shapes_that_do_not_fit_together_are_the_callers():
    """Inputs whose free sizes disagree are refused with ONNX Runtime's own words."""
    model = graph(
        [helper.make_node("Add", ["a", "b"], ["y"])],
        [("a", TensorProto.FLOAT, ["n"]), ("b", TensorProto.FLOAT, ["m"])],
        [("y", TensorProto.FLOAT, ["n"])],
    )
    runtime, _ = serve(model)
    with pytest.raises(InvalidRequest, match="refuses the input"):
        runtime.predict({"a": np.zeros(2, np.float32), "b": np.zeros(3, np.float32)})


def test_bytes_that_are_no_text_are_refused():
    """BYTES that are no UTF-8 are the caller's error."""
    runtime, _ = serve(identity(TensorProto.STRING))
    with pytest.raises(InvalidRequest, match="no UTF-8"):
        runtime.predict({"x": np.array([[b"\xff", b""]], dtype=object)})


def test_default_outputs_can_be_chosen():
    """`default_outputs` says what is answered when the caller names none."""
    runtime, signature = serve(softmax(), default_outputs="label")
    assert signature.default_outputs == ("label",)
    assert list(runtime.predict({"x": np.zeros((1, 4), np.float32)})) == ["label"]


@pytest.mark.parametrize(
    ("parameters", "text"),
    [({"thread": 1}, "'threads'"), ({"threads": 0}, "positive"), ({"default_outputs": ["labl"]}, "'label'")],
    ids=["key", "threads", "output"],
)
def test_wrong_parameters_are_settings_errors(parameters, text):
    """An unknown key, a number of threads below one and an unknown output are settings errors."""
    with pytest.raises(SettingsError, match=text):
        serve(softmax(), **parameters)


def test_a_broken_model_fails_to_load(tmp_path):
    """A graph that ONNX Runtime refuses fails the load, and the file is named."""
    model = graph([helper.make_node("Nothing", ["x"], ["y"])], [("x", 1, ["n"])], [("y", 1, ["n"])])
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(LoadFailed, match=r"model\.onnx is refused by ONNX Runtime"):
        OnnxRuntime(Source(path=tmp_path / "model.onnx")).load()


def test_sessions_share_one_allocator():
    """A second model loads in the same process and both answer."""
    first, second = serve(softmax())[0], serve(identity(TensorProto.FLOAT, op="Neg"))[0]
    assert second.predict({"x": np.ones((1, 2), np.float32)})["y"].tolist() == [[-1, -1]]
    assert first.predict({"x": np.ones((1, 4), np.float32)})["p"].shape == (1, 3)


# -- recognition --


def test_evidence_tells_version_and_producer(tmp_path):
    """The evidence holds the IR version and who produced the file."""
    onnx.save(softmax(), tmp_path / "m")
    assert OnnxRuntime.recognise(tmp_path / "m") == Recognition("ONNX model, IR 9, by tests")


def test_a_large_model_is_told_by_its_head(tmp_path):
    """A model whose graph is longer than what is read is recognised, and not when it is cut off."""
    model = softmax()
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros(100_000, np.float32), "big"))
    content = model.SerializeToString()
    (tmp_path / "m").write_bytes(content)
    assert OnnxRuntime.recognise(tmp_path / "m") is not None
    (tmp_path / "m").write_bytes(content[:-1000])
    assert OnnxRuntime.recognise(tmp_path / "m") is None


def test_models_in_memory_are_recognised():
    """An onnx.ModelProto is claimed."""
    assert OnnxRuntime.recognise_object(softmax()) is not None


@pytest.mark.parametrize(
    "message",
    [
        helper.make_tensor("t", TensorProto.FLOAT, [2], [1.0, 2.0]).SerializeToString(),
        softmax().graph.SerializeToString(),
    ],
    ids=["tensor", "graph"],
)
def test_other_messages_are_left_alone(message, tmp_path):
    """A protobuf message that is no model is not claimed."""
    (tmp_path / "m").write_bytes(message)
    assert OnnxRuntime.recognise(tmp_path / "m") is None
