"""Components of Seldon Core v1 as they are called: what X and names are, what answers become, whole messages, bases."""

import inspect
import subprocess
import sys

import numpy as np
import pytest
from seldon_core.flask_utils import SeldonMicroserviceException
from seldon_core.metrics import create_counter, create_gauge, create_timer, validate_metrics
from seldon_core.storage import Storage
from seldon_core.user_model import SeldonComponent, SeldonNotImplementedError, SeldonResponse

from headrace.compat import seldon
from headrace.compat.seldon import Component
from headrace.errors import InvalidRequest, RuntimeFailed
from headrace.payload import Tensor


def texts(*values):
    array = np.empty(len(values), object)
    array[:] = values
    return array


def shown(value):
    return value.tolist() if isinstance(value, np.ndarray) else value


MATRIX = Tensor("x", "FP64", np.array([[1.0, 2.0]]))

FEATURES = {
    "an array": ([MATRIX], [[1.0, 2.0]], []),
    "names": ([Tensor("x", "FP64", MATRIX.data, {"names": '["a", "b"]'})], [[1.0, 2.0]], ["a", "b"]),
    "columns": (
        [Tensor("a", "INT64", np.array([1, 2])), Tensor("b", "FP64", np.array([[3.5], [4.5]]))],
        [[1.0, 3.5], [2.0, 4.5]],
        ["a", "b"],
    ),
    "columns of text": (
        [Tensor("a", "INT64", np.array([1])), Tensor("b", "BYTES", texts(b"u"))],
        [[1, "u"]],
        ["a", "b"],
    ),
    "wide columns": (
        [Tensor("a", "FP64", MATRIX.data), Tensor("b", "FP64", np.ones(1))],
        [[1, 2, 1]],
        ["a:0", "a:1", "b"],
    ),
    "texts": ([Tensor("x", "BYTES", texts(b"u", b"\xff"))], ["u", b"\xff"], []),
    "a text": ([Tensor("x", "BYTES", texts(b"hello"))], "hello", []),
    "bytes": ([Tensor("x", "BYTES", texts(b"\xff"))], b"\xff", []),
    "json": ([Tensor("x", "BYTES", texts(b'{"a": [1]}'))], {"a": [1]}, []),
    "a text like json": ([Tensor("x", "BYTES", texts(b"[1] is a list"))], "[1] is a list", []),
    "nothing": ([], [], []),
}


@pytest.mark.parametrize("case", FEATURES)
def test_what_a_component_is_given(case):
    """Tensors become the array, text or JSON that the wrapper gives, with the names of its columns."""
    tensors, values, names = FEATURES[case]
    came, columns = seldon.features(tensors)
    assert (shown(came), columns) == (values, names)


def test_tensors_that_are_no_columns():
    """Several tensors of different rows are the caller's mistake, and the text names them."""
    with pytest.raises(InvalidRequest, match=r"'a' \[1\], 'b' \[2\]"):
        seldon.features([Tensor("a", "FP64", np.ones(1)), Tensor("b", "FP64", np.ones(2))])


ANSWERS = {
    "an array": (np.array([[1.5]]), "FP64", [[1.5]]),
    "a list": ([[1, 2]], "INT64", [[1, 2]]),
    "a number": (np.float32(1.5), "FP32", [1.5]),
    "booleans": ([True, False], "BOOL", [True, False]),
    "texts": (["u", "v"], "BYTES", [b"u", b"v"]),
    "an array of texts": (np.array([["u"]]), "BYTES", [[b"u"]]),
    "a text": ("u", "BYTES", [b"u"]),
    "bytes": (b"\xff", "BYTES", [b"\xff"]),
    "a dictionary": ({"a": np.float64(1)}, "BYTES", [b'{"a":1.0}']),
    "mixed": ([1, "u"], "BYTES", [b'[1,"u"]']),
    "ragged": ([[1], [2, 3]], "BYTES", [b"[[1],[2,3]]"]),
    "big-endian": (np.array([1, 2], ">i4"), "INT32", [1, 2]),
    "nothing": ([], "FP64", []),
}


@pytest.mark.parametrize("case", ANSWERS)
def test_what_an_answer_becomes(case):
    """Numbers and texts are tensors of their datatype, anything else that JSON can hold is one element of BYTES."""
    value, datatype, data = ANSWERS[case]
    tensor = seldon.tensor("y", value)
    assert (tensor.datatype, tensor.data.tolist()) == (datatype, data)


@pytest.mark.parametrize("value", [object(), {1: object()}, np.array([1j])])
def test_answers_that_no_tensor_carries(value):
    """An answer that is neither numbers nor text nor JSON is the model's failure."""
    with pytest.raises(RuntimeFailed):
        seldon.tensor("y", value)


class Plain:
    def predict(self, x, names):
        return [[sum(x[0]), len(names)]]

    class_names = ("sum", "count")


class WithMeta:
    def predict(self, x, features_names=None, meta=None):
        return SeldonResponse(x, tags={"seen": meta["tags"], "x": 1}, metrics=[create_counter("k", 2)])

    def tags(self):
        return {"always": True, "x": 0}

    def metrics(self):
        return [create_gauge("g", 1)]


class Raw(SeldonComponent):
    def predict_raw(self, msg):
        return {
            "data": {"names": ["s"], "tensor": {"shape": [1, 1], "values": [msg["data"]["ndarray"][0][0] + 1]}},
            "meta": {"tags": {"t": 1}},
        }

    def predict(self, x, names, meta=None):
        raise AssertionError("predict_raw comes first")


class RawRefuses(SeldonComponent):
    def predict_raw(self, msg):
        raise SeldonNotImplementedError("not for this")

    def predict(self, x, names, meta=None):
        return x


class Transformer:
    def transform_input(self, x, names):
        return x * 2

    def feature_names(self):
        return ["double a", "double b"]


def test_arguments_are_as_many_as_it_takes():
    """A method gets X, names and meta as far as it takes them, and columns are named by `class_names`."""
    answer = Component(Plain()).asked("predict", [MATRIX])
    assert answer.tensors[0].data.tolist() == [[3, 0]]
    assert answer.tensors[0].parameters == {"names": ["sum", "count"]}


def test_tags_and_metrics_are_gathered():
    """Tags and metrics of the component and of the one response come together, the response's on top."""
    answer = Component(WithMeta()).asked("predict", [MATRIX], meta={"tags": {"a": 1}})
    assert answer.tags == {"always": True, "x": 1, "seen": {"a": 1}}
    assert [each["key"] for each in answer.metrics] == ["g", "k"]
    assert answer.tensors[0].data.tolist() == [[1.0, 2.0]]


def test_whole_messages():
    """A method for whole messages comes first, gets and gives a SeldonMessage."""
    answer = Component(Raw()).asked("predict", [MATRIX])
    assert answer.tensors[0].data.tolist() == [[2.0]]
    assert answer.tensors[0].parameters == {"names": ["s"]}
    assert answer.tags == {"t": 1}


def test_a_whole_message_that_is_refused_goes_the_other_way():
    """Where the method for messages says that it is not there, the plain one is asked."""
    assert Component(RawRefuses()).asked("predict", [MATRIX]).tensors[0].data.tolist() == [[1.0, 2.0]]


def test_transformers_name_their_columns():
    """A transformer's columns are named by `feature_names`."""
    answer = Component(Transformer()).asked("transform_input", [MATRIX])
    assert answer.tensors[0].parameters == {"names": ["double a", "double b"]}


@pytest.mark.parametrize("method", ["predict", "transform_input", "transform_output"])
def test_methods_of_the_base_do_not_count(method):
    """A component that leaves a method to its base does not offer it, and asking for it is told."""
    component = Component(SeldonComponent(anything=1), "C")
    assert not component.offers(method)
    with pytest.raises(RuntimeFailed, match=f"C has no {method}"):
        component.asked(method, [MATRIX])


class Routes:
    def __init__(self, given):
        self.given = given

    def route(self, features, feature_names):
        return self.given


@pytest.mark.parametrize("given", [1, np.int64(1), [1], np.array([[1]]), 1.0, SeldonResponse(1)])
def test_routes(given):
    """A route is a number in any form that the wrapper takes."""
    assert Component(Routes(given)).route([MATRIX]) == 1


@pytest.mark.parametrize("given", ["1", None, [1, 2], 1.5, {}])
def test_routes_that_are_none(given):
    """Anything else is the component's failure."""
    with pytest.raises(RuntimeFailed, match="expected the number of a child"):
        Component(Routes(given)).route([MATRIX])


def test_feedback_reaches_a_component_in_either_form():
    """`send_feedback` gets as many arguments as it takes; a component without it is told nothing."""
    told = []

    class Short:
        def send_feedback(self, features, names, reward, truth):
            told.append((features.tolist(), reward, truth))

    Component(Short()).feedback([MATRIX], 0.5, truth=[1], routing=0)
    Component(Plain()).feedback([MATRIX], 0.5)
    assert told == [([[1.0, 2.0]], 0.5, [1])]


# -- the package --


def test_exceptions_carry_their_status():
    """An exception of a component has the status, reason and body that the wrapper answers with."""
    error = SeldonMicroserviceException("no", status_code=403, reason="WHY")
    assert error.status_code == 403
    assert error.to_dict() == {"status": {"status": 1, "info": "no", "code": -1, "reason": "WHY"}}
    assert SeldonMicroserviceException("no").status_code == 400


def test_metrics_are_made_and_checked():
    """What makes metrics makes valid ones, and a list of anything else is told from them."""
    assert validate_metrics([create_counter("a", 1), create_timer("b", 2.5, tags={"t": "u"})])
    assert not validate_metrics([{"type": "COUNTER", "key": "a"}])
    assert not validate_metrics({})


def test_storage_knows_this_machine(tmp_path):
    """A path or file URI is its local path; what is not there or elsewhere is refused."""
    assert Storage.download(f"file://{tmp_path}") == Storage.download(str(tmp_path)) == str(tmp_path)
    for wrong in ("s3://bucket/x", str(tmp_path / "absent")):
        with pytest.raises(RuntimeError):
            Storage.download(wrong)


def test_responses_are_equal_by_what_they_hold():
    """A response made of a response is itself, and two of the same data are equal."""
    response = SeldonResponse([1], tags={"a": 1})
    assert SeldonResponse.create(response) is response
    assert SeldonResponse.create([1]) == SeldonResponse([1])
    assert response != SeldonResponse([1])


def test_every_method_of_the_base_refuses_alike():
    """Every method of the base but `load` says that it is not implemented, by the error that the wrapper looks for."""
    component = SeldonComponent()
    for name, method in inspect.getmembers(component, inspect.ismethod):
        if name in {"load", "__init__"}:
            continue
        with pytest.raises(SeldonNotImplementedError, match=name):
            method(*[None] * len([p for p in inspect.signature(method).parameters.values() if p.default is p.empty]))


@pytest.mark.parametrize("installed", [True, False])
def test_the_real_package_wins(tmp_path, installed):
    """`stand_in` lets ours be found only where the real package is not installed, and leaves what was provided before."""
    if installed:
        (tmp_path / "seldon_core").mkdir()
        (tmp_path / "seldon_core" / "__init__.py").write_text("__version__ = 'original'")
    program = """
import sys
from headrace import compat
compat.stand_in()
compat.stand_in()
import seldon_core
print(seldon_core.__version__, compat.provided("seldon_core"), sum(type(each).__module__ == compat.__name__ for each in sys.meta_path))
"""
    paths = [str(tmp_path), *(entry for entry in sys.path if entry)]
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=50,
        check=True,
        env={"PYTHONPATH": ":".join(paths)},
    )
    assert done.stdout.split() == (["original", "False", "1"] if installed else ["1.19.0", "True", "1"])
