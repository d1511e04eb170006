"""The child process that turns a scikit-learn estimator into an ONNX file. Run by `conversion` as `python -m`.

Importing a converter costs a second and 190 MiB, which a server should not carry. The child is given the task as its
argument and the pickled model on stdin, and writes the file to stdout, or nothing and its error to stderr. Outputs are
renamed, reshaped and cast to those of the native runtime, so the engine needs to know nothing of the converter.
"""

from __future__ import annotations

import os
import pickle
import resource
import sys
import warnings
from typing import Any, Final

import msgspec

from headrace.runtimes.optimize import survey

MEMORY: Final = 4 << 30
"""Bytes of address space the child may take."""
INPUT: Final = "rows"


class Output(msgspec.Struct, frozen=True, kw_only=True):
    """One output of the native runtime."""

    name: str
    dtype: str
    """numpy dtype; of labels, that of their numbers."""
    flat: bool
    """Shape (rows,), not (rows, n)."""


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """What to convert, and how."""

    width: int
    double: bool
    """A graph in float64; else in float32."""
    outputs: tuple[Output, ...]


def main(task: Task) -> None:
    """Convert the model on stdin."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    with os.fdopen(os.dup(sys.stdout.fileno()), "wb") as out:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a library prints does not get into the file
        model = pickle.load(sys.stdin.buffer)  # noqa: S301 - written by the parent a moment ago
        out.write(convert(model, task))


def convert(model: Any, task: Task) -> bytes:
    """The estimator as an ONNX file with the outputs of the task.

    Raises:
        Exception: whatever the converter raises for what it cannot convert.
    """
    import skl2onnx
    from skl2onnx.common import data_types

    kind = data_types.DoubleTensorType if task.double else data_types.FloatTensorType
    last = _last(model)
    if hasattr(last, "classes_"):
        last.classes_ = _numbers(last.classes_)
    for part in survey.parts(model):
        if hasattr(part, "flatten_transform"):  # of the transform of a vote, which is not converted; True is refused
            part.flatten_transform = False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        onnx_model = skl2onnx.convert_sklearn(
            model,
            initial_types=[(INPUT, kind([None, task.width]))],
            options=_options(model),
            target_opset=18,
        )
    _adapt(onnx_model, task)
    converted: bytes = onnx_model.SerializeToString()
    return converted


def _last(model: Any) -> Any:
    while type(model).__name__ == "Pipeline":
        model = model.steps[-1][1]
    return model


def _numbers(classes: Any) -> Any:
    import numpy as np

    return np.arange(len(classes))


def _options(model: Any) -> dict[int, dict[str, Any]]:
    """Plain arrays of probabilities for classifiers; for neighbours, the distance that is not slower than native."""
    options: dict[int, dict[str, Any]] = {}
    last = _last(model)
    if hasattr(last, "predict_proba") and hasattr(last, "classes_"):
        options[id(last)] = {"zipmap": False}
    if type(last).__name__ in {"KNeighborsClassifier", "KNeighborsRegressor"}:
        options.setdefault(id(last), {})["optim"] = "cdist"
    return options


def _adapt(onnx_model: Any, task: Task) -> None:
    """Append what turns the converter's outputs into the native ones."""
    from onnx import TensorProto, helper

    graph = onnx_model.graph
    own = [value.name for value in graph.output]
    del graph.output[:]
    graph.initializer.append(helper.make_tensor("headrace_flat", TensorProto.INT64, [1], [-1]))
    for output in task.outputs:
        source = _source(own, output.name, predicts=any(each.name == "predict" for each in task.outputs))
        if source is None:
            continue
        result = f"headrace_{output.name}"
        dtype = helper.np_dtype_to_tensor_dtype(_dtype(output.dtype))
        graph.node.append(helper.make_node("Cast", [source], [result], to=dtype))
        if output.flat:
            graph.node.append(helper.make_node("Reshape", [result, "headrace_flat"], [output.name]))
        else:
            graph.node.append(helper.make_node("Identity", [result], [output.name]))
        shape = ["n"] if output.flat else ["n", None]
        graph.output.append(helper.make_tensor_value_info(output.name, dtype, shape))


def _source(own: list[str], name: str, *, predicts: bool) -> str | None:
    """The converter's name for an output: labels, values or transformed rows come first, probabilities second."""
    if name == "predict" or (name == "transform" and not predicts):
        return own[0]
    if name == "predict_proba" and len(own) > 1:
        return own[1]
    return None


def _dtype(name: str) -> Any:
    import numpy as np

    return np.dtype(name)


if __name__ == "__main__":
    main(msgspec.json.decode(sys.argv[1], type=Task))
