"""Isolation forest: how few random splits set a row apart. For tables; the watcher asks it, and so do guards.

Liu, Ting and Zhou, "Isolation Forest", ICDM 2008: score s = 2^(-E[h] / c(psi)), equations 1 and 2. The trees are grown
by scikit-learn and kept as arrays; they are walked here for all rows and trees at once.

Two things that the paper leaves open. A category stands as its surprise, -ln of its share in the reference, so that one
split sets rare ones apart. What no row of the reference has in a column that it never varies in, and a category that no
row has, is set apart by a single split: such a row scores as one of depth 1, or more.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Final, Self

import numpy as np

from headrace.detectors.base import Data, Outlier, Scores, State
from headrace.detectors.filled import Filling, Parts, codes, kept, matrix, reference
from headrace.features import Features
from headrace.payload import Array

_CHUNK: Final = 2048
"""Rows that walk down together: bounds memory."""
_LARGEST: Final = float(np.finfo(np.float32).max)


@dataclasses.dataclass(frozen=True)
class IsolationForest(Outlier):
    """A fitted forest. Scores are from 0 to 1; about 0.5 is usual."""

    METHOD: ClassVar[str] = "isolation-forest"
    DATA: ClassVar[tuple[Data, ...]] = ("tabular", "image")

    features: Features
    filling: Filling
    surprise: Array
    """`[all categories of all features, and one more each]` FP64; NaN: no row of the reference has it."""
    constant: Array
    """`[f]` FP64: the value of what never varies; NaN: it varies."""
    roots: Array
    """`[trees]` INT32."""
    column: Array
    """`[nodes]` INT32: which column a node splits."""
    threshold: Array
    """`[nodes]` FP64: up to it a row goes left. Of a leaf, infinity."""
    left: Array
    """`[nodes]` INT32: the left child; the right one is next to it. Of a leaf, itself."""
    depth: Array
    """`[nodes]` FP64: of a leaf, how deep a row in it lies, in the mean (h of the paper)."""
    levels: int
    """Splits from a root to the deepest leaf."""
    normal: float
    """c(psi): the mean depth of an unsuccessful search among as many rows as a tree was grown from."""

    @classmethod
    def fit(cls, x: Array, features: Features, *, seed: int = 0, trees: int = 100, samples: int = 256) -> Self:
        """Grow the trees.

        Args:
            x: `[n, f]` FP64, the reference.
            features: Its columns.
            seed: Of the rows that a tree sees and of its splits.
            trees: How many.
            samples: Rows that each is grown from (psi of the paper).

        Raises:
            InvalidRequest: fewer than 2 rows.
        """
        from sklearn.ensemble import IsolationForest as Forest

        x = reference(x, features, method=cls.METHOD)
        filling = Filling.fit(x, features)
        x = filling(x)
        surprise = _surprises(x, features)
        values = _values(x, features, surprise)
        constant = np.where(values.min(0) == values.max(0), values[0], np.nan)
        forest = Forest(n_estimators=trees, max_samples=min(samples, x.shape[0]), random_state=seed, n_jobs=1)
        forest.fit(values)
        grown = [_tree(each.tree_) for each in forest.estimators_]
        first = np.cumsum([0, *(len(each[0]) for each in grown[:-1])])
        return cls(
            features=features,
            filling=filling,
            surprise=surprise,
            constant=constant,
            roots=first.astype(np.int32),
            column=np.concatenate([each[0] for each in grown]),
            threshold=np.concatenate([each[1] for each in grown]),
            left=np.concatenate([each[2] + start for each, start in zip(grown, first, strict=True)]).astype(np.int32),
            depth=np.concatenate([each[3] for each in grown]),
            levels=max(each[4] for each in grown),
            normal=float(average_path(np.array([forest.max_samples_]))[0]),
        )

    def score(self, x: Array) -> Scores:
        """Score rows: `2 ** (-mean depth / c(psi))`, as scikit-learn's `-score_samples`."""
        x = self.filling(matrix(x, len(self.features), method=self.METHOD))
        values = _values(x, self.features, self.surprise)
        apart = np.isnan(values) | ((values != self.constant) & ~np.isnan(self.constant))
        if apart.any():
            values = np.where(np.isnan(values), _LARGEST, values)
        depths = np.empty(x.shape[0])
        for start in range(0, x.shape[0], _CHUNK):
            depths[start : start + _CHUNK] = self._depths(values[start : start + _CHUNK])
        depths = np.where(apart.any(1), np.minimum(depths, 1.0), depths)
        # A forest of single rows has no depth at all: every row is as usual as any other.
        return Scores(instance=2.0 ** (-depths / self.normal) if self.normal else np.where(apart.any(1), 1.0, 0.5))

    def _depths(self, values: Array) -> Array:
        """The mean depth of rows `[n, f]` over the trees: `[n]`."""
        flat = values.ravel()
        base = (np.arange(values.shape[0]) * values.shape[1])[:, None]
        node = np.broadcast_to(self.roots, (values.shape[0], self.roots.size))
        for _ in range(self.levels):
            node = self.left.take(node) + (flat.take(base + self.column.take(node)) > self.threshold.take(node))
        total: Array = self.depth.take(node).sum(1)
        return total / self.roots.size

    def state(self) -> State:
        """The trees as arrays."""
        arrays = {
            "fill": self.filling.values,
            "surprise": self.surprise,
            "constant": self.constant,
            "roots": self.roots,
            "column": self.column,
            "threshold": self.threshold,
            "left": self.left,
            "depth": self.depth,
        }
        return kept(self.METHOD, len(self.features), arrays, levels=self.levels, normal=self.normal)

    @classmethod
    def restore(cls, state: State, features: Features) -> Self:
        """As `Detector.restore`."""
        parts = Parts(state, cls.METHOD, features)
        names = ("surprise", "constant", "roots", "column", "threshold", "left", "depth")
        return cls(
            features=features,
            filling=Filling(parts.array("fill")),
            levels=int(parts.value("levels")),
            normal=float(parts.value("normal")),
            **{name: parts.array(name) for name in names},
        )


def average_path(rows: Array) -> Array:
    """c(n), equation 1 of the paper: the mean depth at which a search among n rows ends without success."""
    rows = np.asarray(rows, np.float64)
    many = np.maximum(rows, 3.0)
    return np.where(
        rows <= 1,
        0.0,
        np.where(rows == 2, 1.0, 2.0 * (np.log(many - 1.0) + np.euler_gamma) - 2.0 * (many - 1.0) / many),
    )


def _surprises(x: Array, features: Features) -> Array:
    """-ln of the share of every category, feature after feature; NaN of one that no row has."""
    found = []
    for position in features.categorical:
        known = len(features.columns[position].categories)
        counts = np.bincount(codes(x[:, position], known), minlength=known + 1)
        found.append(np.where(counts > 0, -np.log(np.maximum(counts, 1) / x.shape[0]), np.nan))
    return np.concatenate(found) if found else np.zeros(0)


def _values(x: Array, features: Features, surprise: Array) -> Array:
    """Rows as the trees see them: numbers rounded to float32, as scikit-learn does; categories as their surprise."""
    values: Array = np.clip(x, -_LARGEST, _LARGEST)
    start = 0
    for position in features.categorical:
        known = len(features.columns[position].categories)
        values[:, position] = surprise[start + codes(x[:, position], known)]
        start += known + 1
    return values.astype(np.float32).astype(np.float64)


def _tree(tree: object) -> tuple[Array, Array, Array, Array, int]:
    """Columns, thresholds, left children and depths of a scikit-learn tree, its nodes renumbered level by level."""
    lefts, rights = getattr(tree, "children_left"), getattr(tree, "children_right")  # noqa: B009 - it has no types
    old, levels, level = [np.zeros(1, np.int64)], 0, np.zeros(1, np.int64)
    while True:
        inner = level[lefts[level] != -1]
        if not inner.size:
            break
        level = np.stack([lefts[inner], rights[inner]], 1).ravel()  # siblings side by side
        old.append(level)
        levels += 1
    deep = np.repeat(np.arange(len(old), dtype=np.float64), [each.size for each in old])
    order = np.concatenate(old)
    new = np.empty(order.size, np.int64)
    new[order] = np.arange(order.size)
    leaf = lefts[order] == -1
    left = np.where(leaf, np.arange(order.size), new[lefts[order]])
    column = np.where(leaf, 0, getattr(tree, "feature")[order]).astype(np.int32)  # noqa: B009
    threshold = np.where(leaf, np.inf, getattr(tree, "threshold")[order])  # noqa: B009
    depth = deep + average_path(getattr(tree, "n_node_samples")[order])  # noqa: B009
    return column, threshold, left, depth, levels
