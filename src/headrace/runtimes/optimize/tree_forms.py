"""Candidates from trees: our float64 graph, a forest's own trees in a loop, LightGBM's C call. Made by `candidates`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from headrace.runtimes.optimize import graph, lightgbm_trees, rows, session, sklearn_trees
from headrace.runtimes.optimize.candidate import Candidate, Prepared, Subject, back, chain, front_missing, open_terrain
from headrace.runtimes.optimize.engine import Engine, Refused
from headrace.runtimes.optimize.gate import EXACT, SINGLE
from headrace.runtimes.optimize.lightgbm_fast import LightgbmRow
from headrace.runtimes.optimize.rows import Terrain
from headrace.runtimes.optimize.steps import NumpyStep
from headrace.runtimes.optimize.trees import Grown


class OnnxTrees(Candidate):
    """Trees in our own float64 graph."""

    name = "onnx trees float64"

    def __init__(
        self,
        subject: Subject,
        front: Sequence[NumpyStep],
        read: Callable[[], Grown | None],
        *,
        classes: Any,
    ) -> None:
        self._subject = subject
        self._front = front
        self._read = read
        self._classes = classes

    def prepare(self) -> Prepared:
        """As the role says."""
        if not session.available():
            raise Refused("onnxruntime is not installed; headrace[optimize] brings it")
        grown = self._read()
        if grown is None:
            raise Refused("these are no trees")
        missing = grown.missing and front_missing(self._front)
        takes = "anything" if grown.infinite else "missing" if missing else "finite"
        return Prepared(
            terrain=rows.of_forest(grown.forest, missing=missing, back=back(self._front)),
            tolerance=EXACT if grown.exact else SINGLE,
            rows=min(50_000, max(20_000, 3 * grown.forest.nodes // grown.copies)),
            takes=takes,
            artefact=grown.artefact,
            differences=tuple(graph.differences(grown.artefact, grown.forest)),
        )

    def engine(self, artefact: bytes, takes: str) -> Engine:
        """As the role says."""
        labels = None if self._classes is None else self._subject.labels(self._classes)
        return chain(self._front, takes, session.OnnxEngine(artefact, name=self.name, labels=labels))


class NativeTrees(Candidate):
    """A forest's own trees in a loop."""

    name = sklearn_trees.TreeLoop.name

    def __init__(self, subject: Subject, front: Sequence[NumpyStep], last: Any) -> None:
        self._subject = subject
        self._front = front
        self._last = last

    def prepare(self) -> Prepared:
        """As the role says."""
        width = int(self._last.n_features_in_)
        missing = sklearn_trees.takes_missing(self._last) and front_missing(self._front)
        edges = tuple(np.unique(values[np.isfinite(values)]) for values in sklearn_trees.splits(self._last, width))
        low = np.array([values[0] - 1 if values.size else -1.0 for values in edges])
        high = np.array([values[-1] + 1 if values.size else 1.0 for values in edges])
        terrain = Terrain(low=low, high=high, edges=edges, missing=missing, back=back(self._front))
        return Prepared(terrain=terrain, tolerance=EXACT, rows=4000, takes="missing" if missing else "finite")

    def engine(self, artefact: bytes, takes: str) -> Engine:
        """As the role says."""
        classes = getattr(self._last, "classes_", None)
        labels = None if classes is None else self._subject.labels(classes)
        return chain(self._front, takes, sklearn_trees.TreeLoop(self._last, labels))


class SingleRow(Candidate):
    """LightGBM's C call for one row."""

    name = LightgbmRow.name

    def __init__(self, subject: Subject, front: Sequence[NumpyStep], booster: Any, classes: Any) -> None:
        self._subject = subject
        self._front = front
        self._booster = booster
        self._classes = classes

    def prepare(self) -> Prepared:
        """As the role says."""
        missing = front_missing(self._front)
        try:
            grown = lightgbm_trees.read(self._booster, self._classes)
            terrain = rows.of_forest(grown.forest, missing=missing, back=back(self._front))
        except Refused:  # the call needs no graph, and so takes boosters that have none
            terrain = open_terrain(self._front, self._subject.width)
        return Prepared(terrain=terrain, tolerance=EXACT, rows=500, takes="missing" if missing else "finite")

    def engine(self, artefact: bytes, takes: str) -> Engine:
        """As the role says."""
        labels = None if self._classes is None else self._subject.labels(self._classes)
        return chain(self._front, takes, LightgbmRow(self._booster, labels))
