"""Tree ensembles as arrays, whatever library grew them. Readers make them, `graph` writes them, `rows` aims at them.

An inner node sends a row to its `yes` or `no` child: a non-negative child is the number of a node, a negative one is
`~number` of a leaf. Comparisons are made in float64. Leaves add their weight to one target; trees are summed in order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]

BEYOND: Final = 3e38
"""Splits from here on, at infinity or at the end of float32, only tell missing values from others."""
LEQ: Final = 0
LT: Final = 1
MEMBER: Final = 6
"""Modes of a node, as numbered by ai.onnx.ml 5 TreeEnsemble: value <= split, value < split, value in the node's set."""


class Tree(msgspec.Struct, frozen=True, kw_only=True):
    """One tree whose leaves all add to one target. Arrays are per inner node, `weight` per leaf."""

    feature: Integers
    split: Floats
    mode: Bytes
    yes: Integers
    no: Integers
    missing_yes: Bytes
    """1: a missing value (NaN) goes to `yes`."""
    weight: Floats
    members: tuple[Floats, ...] = ()
    """The sets of the MEMBER nodes, in order of the nodes."""
    target: int = 0


class Ensemble(msgspec.Struct, frozen=True, kw_only=True):
    """Many trees, concatenated."""

    width: int
    """Columns of a row."""
    targets: int
    feature: Integers
    split: Floats
    mode: Bytes
    yes: Integers
    no: Integers
    missing_yes: Bytes
    members: Floats
    """The sets of the MEMBER nodes, one after the other, each closed by a NaN."""
    roots: Integers
    leaf_target: Integers
    leaf_weight: Floats

    @property
    def nodes(self) -> int:
        """Inner nodes of all trees."""
        return int(self.feature.size)


def constant(value: float, target: int = 0) -> Tree:
    """A tree of one leaf: a node that sends every row to the same leaf, as TreeEnsemble has no bare leaf."""
    return Tree(
        feature=np.zeros(1, np.int64),
        split=np.zeros(1),
        mode=np.zeros(1, np.uint8),
        yes=np.full(1, ~0),
        no=np.full(1, ~0),
        missing_yes=np.zeros(1, np.uint8),
        weight=np.array([value], dtype=np.float64),
        target=target,
    )


def from_children(
    *,
    feature: npt.NDArray[Any],
    split: npt.NDArray[Any],
    left: npt.NDArray[Any],
    right: npt.NDArray[Any],
    leaf: npt.NDArray[np.bool_],
    value: npt.NDArray[Any],
    missing_left: npt.NDArray[Any],
    mode: int = LEQ,
    target: int = 0,
) -> Tree:
    """A tree from arrays in which inner nodes and leaves share one numbering and node 0 is the root.

    Args:
        feature: Column, per node; what stands at leaves is not read.
        split: Threshold, per node.
        left: Child for rows that pass the comparison, per node.
        right: The other child.
        leaf: Whether the node is a leaf.
        value: What a leaf adds, per node.
        missing_left: Whether NaN goes left, per node.
        mode: Comparison of every inner node.
        target: What the leaves add to.
    """
    if leaf[0]:
        return constant(float(value[0]), target)
    inner = ~leaf
    number = np.where(leaf, ~(np.cumsum(leaf) - 1), np.cumsum(inner) - 1)
    return Tree(
        feature=feature[inner].astype(np.int64),
        split=split[inner].astype(np.float64),
        mode=np.full(int(inner.sum()), mode, np.uint8),
        yes=number[left[inner]],
        no=number[right[inner]],
        missing_yes=missing_left[inner].astype(np.uint8),
        weight=value[leaf].astype(np.float64),
        target=target,
    )


def grow(trees: Sequence[Tree], *, width: int, targets: int) -> Ensemble:
    """Concatenate trees, in the order in which they are to be summed."""
    inner = np.array([tree.feature.size for tree in trees])
    leaves = np.array([tree.weight.size for tree in trees])
    first_node = np.cumsum(inner) - inner
    first_leaf = np.cumsum(leaves) - leaves

    def shifted(children: Integers, tree: int) -> Integers:
        moved: Integers = np.where(children >= 0, children + first_node[tree], children - first_leaf[tree])
        return moved

    closed = [np.append(values, np.nan) for tree in trees for values in tree.members]
    return Ensemble(
        width=width,
        targets=targets,
        feature=np.concatenate([tree.feature for tree in trees]),
        split=np.concatenate([tree.split for tree in trees]),
        mode=np.concatenate([tree.mode for tree in trees]),
        yes=np.concatenate([shifted(tree.yes, at) for at, tree in enumerate(trees)]),
        no=np.concatenate([shifted(tree.no, at) for at, tree in enumerate(trees)]),
        missing_yes=np.concatenate([tree.missing_yes for tree in trees]),
        members=np.concatenate(closed) if closed else np.zeros(0),
        roots=first_node.astype(np.int64),
        leaf_target=np.concatenate([np.full(tree.weight.size, tree.target) for tree in trees]),
        leaf_weight=np.concatenate([tree.weight for tree in trees]),
    )


def edges(ensemble: Ensemble) -> tuple[Floats, ...]:
    """Per column, the sorted distinct values at which some node changes its mind: splits and set members."""
    member = ensemble.mode == MEMBER
    columns = [ensemble.feature[~member]]
    values = [ensemble.split[~member]]
    if member.any():
        closed = np.isnan(ensemble.members)
        owner = np.cumsum(closed) - closed
        columns.append(np.repeat(ensemble.feature[member], np.bincount(owner)))
        values.append(ensemble.members)
    column, value = np.concatenate(columns), np.concatenate(values)
    kept = np.abs(value) < BEYOND
    return tuple(np.unique(value[kept & (column == at)]) for at in range(ensemble.width))


class Grown(msgspec.Struct, frozen=True, kw_only=True):
    """A model's trees, and the graph that answers as the model does."""

    forest: Ensemble
    artefact: bytes
    """The ONNX file."""
    outputs: frozenset[str]
    """The names that the graph answers; `predict` of a classifier is the number of the class."""
    classes: npt.NDArray[Any] | None
    """None: not a classifier."""
    missing: bool
    """NaN is an ordinary value to this model."""
    infinite: bool = False
    """So are infinities and values too large for float32."""
    copies: int = 1
    """Trees that differ only in what their leaves add, one for each target."""
    exact: bool = True
    """The library adds in float64, so scores must agree to the last bits; False: it adds in float32."""
