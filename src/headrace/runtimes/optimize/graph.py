"""Tree ensembles to ONNX: a float64 `ai.onnx.ml` 5 TreeEnsemble and what follows it. Called by the `*_trees` readers.

float64 throughout, because x <= t in float64 is not x32 <= t32 in float32: a graph in float32 answers wrongly on rows
that stand on a split. Where the library itself rounds rows to float32 first (scikit-learn's forests, XGBoost,
CatBoost), `narrow` does the same before the comparison.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from headrace.runtimes.optimize import trees, wire
from headrace.runtimes.optimize.trees import Ensemble

INPUT = "rows"


class Graph:
    """An ONNX graph under construction. Each method adds an operator and returns the name of its result."""

    def __init__(self, width: int) -> None:
        self.width = width
        self._nodes: list[bytes] = []
        self._constants: list[bytes] = []
        self._outputs: list[bytes] = []
        self._names = 0

    def _name(self) -> str:
        self._names += 1
        return f"v{self._names}"

    def constant(self, value: npt.NDArray[Any]) -> str:
        """A value that does not depend on the rows."""
        name = self._name()
        self._constants.append(wire.tensor(value, name))
        return name

    def number(self, value: float) -> str:
        """A float64 scalar."""
        return self.constant(np.array(value, dtype=np.float64))

    def node(self, kind: str, *inputs: str, **attributes: int) -> str:
        """One operator with integer attributes and one result."""
        name = self._name()
        written = [wire.attribute(key, value) for key, value in attributes.items()]
        self._nodes.append(wire.node(kind, inputs, (name,), written))
        return name

    def cast(self, value: str, dtype: str) -> str:
        """To another datatype."""
        return self.node("Cast", value, to=wire.ELEMENT[dtype])

    def column(self, value: str, at: int) -> str:
        """One column of (rows, n), as (rows,)."""
        return self.node("Gather", value, self.constant(np.array(at, dtype=np.int64)), axis=1)

    def flat(self, value: str) -> str:
        """(rows, 1) as (rows,)."""
        return self.node("Reshape", value, self.constant(np.array([-1], dtype=np.int64)))

    def pair(self, probability: str) -> str:
        """(rows, 1) of p as (rows, 2) of 1 - p, p."""
        other = self.node("Sub", self.number(1.0), probability)
        return self.node("Concat", other, probability, axis=1)

    def truncate(self, rows: str, columns: Sequence[int]) -> str:
        """Drop the fraction of some columns."""
        negative = self.node("Less", rows, self.number(0.0))
        whole = self.node("Where", negative, self.node("Ceil", rows), self.node("Floor", rows))
        return self.node("Where", self._chosen(columns), whole, rows)

    def only_codes(self, rows: str, columns: Sequence[int]) -> str:
        """NaN for fractions and huge numbers: no set holds them, but ONNX Runtime cuts values to an int."""
        fraction = self.node("Not", self.node("Equal", rows, self.node("Floor", rows)))
        huge = self.node("Greater", self.node("Abs", rows), self.number(1e9))
        foreign = self.node("And", self.node("Or", fraction, huge), self._chosen(columns))
        return self.node("Where", foreign, self.number(np.nan), rows)

    def _chosen(self, columns: Sequence[int]) -> str:
        chosen = np.zeros((1, self.width), dtype=bool)
        chosen[0, list(columns)] = True
        return self.constant(chosen)

    def narrow(self, rows: str) -> str:
        """Round to float32 and return to float64."""
        return self.cast(self.cast(rows, "float32"), "float64")

    def ensemble(self, rows: str, forest: Ensemble) -> str:
        """The sum of the trees' leaves: (rows, targets), float64."""
        name = self._name()
        self._nodes.append(wire.node("TreeEnsemble", (rows,), (name,), _attributes(forest), "ai.onnx.ml"))
        return name

    def output(self, name: str, value: str, dtype: str, *, columns: int | None) -> None:
        """Name a result as an output: (rows, columns), or (rows,) where `columns` is None."""
        self._nodes.append(wire.node("Identity", (value,), (name,)))
        self._outputs.append(wire.value_info(name, dtype, ("n",) if columns is None else ("n", columns)))

    def render(self) -> bytes:
        """The finished file."""
        rows = wire.value_info(INPUT, "float64", ("n", self.width))
        return wire.model(self._nodes, self._constants, (rows,), self._outputs)


def _attributes(forest: Ensemble) -> list[bytes]:
    def leaf(children: trees.Integers) -> trees.Integers:
        return (children < 0).astype(np.int64)

    def number(children: trees.Integers) -> trees.Integers:
        return np.where(children < 0, ~children, children)

    integers = {
        "nodes_featureids": forest.feature,
        "nodes_truenodeids": number(forest.yes),
        "nodes_trueleafs": leaf(forest.yes),
        "nodes_falsenodeids": number(forest.no),
        "nodes_falseleafs": leaf(forest.no),
        "nodes_missing_value_tracks_true": forest.missing_yes.astype(np.int64),
        "leaf_targetids": forest.leaf_target,
        "tree_roots": forest.roots,
    }
    tensors: dict[str, npt.NDArray[Any]] = {
        "nodes_splits": forest.split,
        "nodes_modes": forest.mode,
        "leaf_weights": forest.leaf_weight,
    }
    if forest.members.size:
        tensors["membership_values"] = forest.members
    return [
        wire.attribute("n_targets", forest.targets),
        wire.attribute("aggregate_function", 1),
        wire.attribute("post_transform", 0),
        *(wire.attribute(name, value, integers=True) for name, value in integers.items()),
        *(wire.attribute(name, tensor) for name, tensor in tensors.items()),
    ]


def read(model: bytes) -> Ensemble:
    """The ensemble inside a file that `Graph.render` wrote, read back from its bytes.

    Raises:
        ValueError: if the bytes hold no TreeEnsemble, or more than one.
    """
    found = [item for kind, item in wire.read_nodes(model) if kind == "TreeEnsemble"]
    if len(found) != 1:
        raise ValueError(f"{len(found)} TreeEnsemble nodes, expected 1")
    values = dict(
        wire.read_attribute(part) for at, part in wire.fields(found[0]) if at == 5 and isinstance(part, bytes)
    )
    numbers = {name: np.asarray(value) for name, value in values.items()}

    def children(side: str) -> trees.Integers:
        number, leaf = numbers[f"nodes_{side}nodeids"], numbers[f"nodes_{side}leafs"]
        return np.where(leaf != 0, ~number, number)

    return Ensemble(
        width=_width(model),
        targets=int(numbers["n_targets"]),
        feature=numbers["nodes_featureids"],
        split=numbers["nodes_splits"],
        mode=numbers["nodes_modes"],
        yes=children("true"),
        no=children("false"),
        missing_yes=numbers["nodes_missing_value_tracks_true"].astype(np.uint8),
        members=numbers.get("membership_values", np.zeros(0)),
        roots=numbers["tree_roots"],
        leaf_target=numbers["leaf_targetids"],
        leaf_weight=numbers["leaf_weights"],
    )


def _width(model: bytes) -> int:
    """Columns of the graph's input: ModelProto.graph.input[0].type.tensor_type.shape.dim[1].dim_value."""
    part: Any = model
    for path in (7, 11, 2, 1, 2):
        part = next(value for number, value in wire.fields(part) if number == path)
    last = [value for number, value in wire.fields(part) if number == 1][-1]
    return next(int(value) for number, value in wire.fields(last) if number == 1) if isinstance(last, bytes) else 0


def differences(model: bytes, expected: Ensemble) -> list[str]:
    """Where a file differs from the ensemble it should hold, bit for bit; one line per kind of difference."""
    found = read(model)
    lines = []
    for name in Ensemble.__struct_fields__:
        have, want = np.asarray(getattr(found, name)), np.asarray(getattr(expected, name))
        if have.shape != want.shape or have.dtype != want.dtype:
            lines.append(f"{name}: {have.dtype}{list(have.shape)} where {want.dtype}{list(want.shape)} was expected")
            continue
        if have.tobytes() != want.tobytes():
            lines.append(f"{name}: {int((have != want).sum())} of {want.size} values differ")
    return lines
