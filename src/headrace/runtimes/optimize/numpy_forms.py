"""Candidates that answer in numpy: transformers, linear models, linear boosters. Made by `candidates`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from headrace.runtimes.optimize import linear, svm, xgboost_trees
from headrace.runtimes.optimize.candidate import (
    Candidate,
    Prepared,
    Subject,
    back,
    chain,
    front_missing,
    inner_terrain,
    open_terrain,
)
from headrace.runtimes.optimize.engine import Engine, Transform
from headrace.runtimes.optimize.gate import EXACT, SINGLE
from headrace.runtimes.optimize.rows import Terrain
from headrace.runtimes.optimize.steps import NumpyStep


class NumpyTransform(Candidate):
    """A transformer, or a pipeline of them."""

    name = "numpy"

    def __init__(self, subject: Subject, front: Sequence[NumpyStep]) -> None:
        self._width = subject.width
        self._front = front

    def prepare(self) -> Prepared:
        """As the role says."""
        terrain = open_terrain(self._front, self._width)
        edges = tuple(np.unique([low, high]) for low, high in zip(terrain.low, terrain.high, strict=True))
        takes = "missing" if front_missing(self._front) else "finite"
        terrain = msgspec.structs.replace(terrain, edges=edges)
        if self._front[0].coded:
            terrain = inner_terrain(self._front, self._width)
        return Prepared(terrain=terrain, tolerance=EXACT, rows=4000, takes=takes)

    def engine(self, artefact: bytes, takes: str) -> Engine:
        """As the role says."""
        return chain(self._front, takes, Transform())


class NumpyLinear(Candidate):
    """A linear model behind numpy steps."""

    name = "numpy"

    def __init__(self, subject: Subject, front: Sequence[NumpyStep], last: Any) -> None:
        self._subject = subject
        self._front = front
        self._last = last

    def prepare(self) -> Prepared:
        """As the role says."""
        last = self._last
        terrain = open_terrain(self._front, self._subject.width)
        if hasattr(last, "classes_"):
            inner = inner_terrain(self._front, self._subject.width)
            terrain = msgspec.structs.replace(inner, border=linear.boundary(last))
        elif self._front and self._front[0].coded:
            terrain = inner_terrain(self._front, self._subject.width)
        filled = any(step.fills for step in self._front)
        return Prepared(terrain=terrain, tolerance=EXACT, rows=8000, takes="missing" if filled else "finite")

    def engine(self, artefact: bytes, takes: str) -> Engine:
        """As the role says."""
        last = self._last
        if hasattr(last, "classes_"):
            ended: Engine = linear.LinearClassifier(last, self._subject.labels(last.classes_))
        else:
            ended = linear.LinearRegressor(last)
        return chain(self._front, takes, ended)


class KernelVotes(Candidate):
    """A support vector classifier behind numpy steps."""

    name = svm.KernelVotes.name

    def __init__(self, subject: Subject, front: Sequence[NumpyStep], last: Any) -> None:
        self._subject = subject
        self._front = front
        self._last = last

    def prepare(self) -> Prepared:
        """As the role says."""
        vectors = np.asarray(self._last.support_vectors_, np.float64)
        low, high = vectors.min(axis=0), vectors.max(axis=0)
        margin = np.where(high > low, 0.1 * (high - low), 1.0)
        terrain = Terrain(
            low=low - margin,
            high=high + margin,
            samples=vectors,
            border=svm.between(self._last),
            back=back(self._front),
        )
        return Prepared(terrain=terrain, tolerance=EXACT, rows=8000)

    def engine(self, artefact: bytes, takes: str) -> Engine:
        """As the role says."""
        return chain(self._front, takes, svm.KernelVotes(self._last, self._subject.labels(self._last.classes_)))


class LinearBooster(Candidate):
    """A gblinear booster as a product."""

    name = xgboost_trees.LinearBooster.name

    def __init__(
        self, subject: Subject, front: Sequence[NumpyStep], booster: xgboost_trees.Booster, classes: Any
    ) -> None:
        self._subject = subject
        self._front = front
        self._booster = booster
        self._classes = classes

    def prepare(self) -> Prepared:
        """As the role says."""
        terrain = open_terrain(self._front, self._subject.width)
        return Prepared(terrain=terrain, tolerance=SINGLE, rows=8000)

    def engine(self, artefact: bytes, takes: str) -> Engine:
        """As the role says."""
        labels = None if self._classes is None else self._subject.labels(self._classes)
        return chain(self._front, takes, xgboost_trees.LinearBooster(self._booster, self._classes, labels))
