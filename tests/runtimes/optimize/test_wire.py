"""ONNX bytes without the onnx package: what is written is read back, and onnx itself agrees."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.runtimes.optimize import graph, trees, wire

STUMP = trees.Tree(
    feature=np.array([1]),
    split=np.array([0.1]),
    mode=np.zeros(1, np.uint8),
    yes=np.array([~0]),
    no=np.array([~1]),
    missing_yes=np.ones(1, np.uint8),
    weight=np.array([-1.0, 2.5]),
)


@given(st.lists(st.integers(0, 2**62)))
def test_integers_come_back(values):
    """Reading packed integers gives the integers that were written."""
    array = np.array(values, dtype=np.int64)
    assert wire.read_varints(wire.varints(array)).tolist() == values


@given(st.lists(st.integers(0, 2**62), min_size=1))
def test_many_integers_are_written_as_one_by_one(values):
    """The vectorised writer gives the bytes of the plain one."""
    assert wire.varints(np.array(values, dtype=np.int64)) == b"".join(wire.varint(value) for value in values)


@pytest.mark.parametrize("dtype", ["float64", "float32", "uint8", "int64", "bool"])
def test_tensors_come_back(dtype):
    """A tensor keeps its datatype, shape and every bit."""
    array = np.arange(6).reshape(2, 3).astype(dtype)
    found = wire.read_tensor(wire.tensor(array))
    assert found.dtype == array.dtype
    assert np.array_equal(found, array)


def test_cut_bytes_are_an_error():
    """A file that ends within a field is refused, at every place it can be cut inside a value."""
    message = wire.field(7, b"abcdef")
    for end in range(1, len(message)):
        with pytest.raises(ValueError, match="ends"):
            list(wire.fields(message[:end]))


def test_onnx_reads_what_we_write():
    """The onnx package's checker accepts our file and sees our splits."""
    onnx = pytest.importorskip("onnx")
    drawing = graph.Graph(3)
    drawing.output("predict", drawing.flat(drawing.ensemble(graph.INPUT, _forest())), "float64", columns=None)
    model = onnx.load_from_string(drawing.render())
    onnx.checker.check_model(model)
    (node,) = [node for node in model.graph.node if node.op_type == "TreeEnsemble"]
    (splits,) = [each.t for each in node.attribute if each.name == "nodes_splits"]
    assert onnx.numpy_helper.to_array(splits).tolist() == [0.0, 0.1]


def _forest():
    return trees.grow([trees.constant(7.0), STUMP], width=3, targets=1)


def test_an_ensemble_comes_back():
    """Read back from the file, the ensemble differs in no bit."""
    drawing = graph.Graph(3)
    drawing.output("predict", drawing.ensemble(graph.INPUT, _forest()), "float64", columns=1)
    assert graph.differences(drawing.render(), _forest()) == []


def test_edges_are_the_finite_splits_of_each_column():
    """A split at infinity, which only asks for missing values, is no edge."""
    import msgspec

    endless = msgspec.structs.replace(STUMP, split=np.array([np.inf]))
    edges = trees.edges(trees.grow([STUMP, endless], width=3, targets=1))
    assert [values.tolist() for values in edges] == [[], [0.1], []]
