"""Which engines a model might get. Called by `choose`; one function per family, in the order in which they are tried.

A candidate only claims; `choose` exports it, compares its structure, puts it through the gate and times it.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec
import numpy as np

from headrace.payload import Array
from headrace.runtimes.optimize import (
    engine as role,
)
from headrace.runtimes.optimize import (
    graph,
    lightgbm_trees,
    linear,
    rows,
    session,
    sklearn_trees,
    steps,
    xgboost_trees,
)
from headrace.runtimes.optimize.engine import Chain, Check, Engine, Labels, Refused, Transform
from headrace.runtimes.optimize.gate import EXACT, SINGLE, Tolerance
from headrace.runtimes.optimize.lightgbm_fast import LightgbmRow
from headrace.runtimes.optimize.rows import Terrain
from headrace.runtimes.optimize.steps import NumpyStep
from headrace.runtimes.optimize.trees import Grown

TAKES: Final[dict[str, Check]] = {
    "finite": role.finite,
    "missing": role.finite_or_missing,
    "anything": role.anything,
}
"""By the name that a stored verdict keeps."""


class Prepared(msgspec.Struct, frozen=True, kw_only=True):
    """A candidate, exported."""

    terrain: Terrain
    tolerance: Tolerance
    rows: int
    """To be aimed at it, in float64."""
    takes: str = "finite"
    artefact: bytes = b""
    differences: tuple[str, ...] = ()
    """Between the artefact, read back, and the model it was written from."""


class Candidate(abc.ABC):
    """An engine that a model might get."""

    name: str

    @abc.abstractmethod
    def prepare(self) -> Prepared:
        """Export the model, read the result back, and say where to aim rows.

        Raises:
            Refused: where this model has no such form.
        """

    @abc.abstractmethod
    def engine(self, artefact: bytes, takes: str) -> Engine:
        """The engine, from what `prepare` wrote, now or in another process long ago."""


class Subject(msgspec.Struct, frozen=True, kw_only=True):
    """The model in question."""

    model: Any
    width: int
    outputs: tuple[str, ...]
    """Names the native runtime answers."""
    missing: float
    """What the native runtime takes as missing."""
    labels: Callable[[Any], Labels | None]
    """From the model's classes to its labels as the native runtime answers them."""


def candidates(subject: Subject) -> list[Candidate]:
    """The engines to try.

    Raises:
        Refused: if there is none for this kind of model.
    """
    front, last = split(subject.model)
    found: list[Candidate] = []
    if last is None:
        found.append(NumpyTransform(subject, front))
    elif linear.is_linear(last):
        found.append(NumpyLinear(subject, front, last))
    else:
        found.extend(_tree_candidates(subject, front, last))
    if not found:
        raise Refused(f"no faster engine for {type(last if front else subject.model).__name__}")
    return found


def split(model: Any) -> tuple[tuple[NumpyStep, ...], Any]:
    """The leading transformers that have a numpy form, and what comes after them; None: nothing does.

    A pipeline is split only if all but its last member have a numpy form; otherwise it is one whole.
    """
    members = [model]
    if type(model).__module__ == "sklearn.pipeline" and type(model).__name__ == "Pipeline":
        members = [member for _, member in model.steps if member is not None and member != "passthrough"]
    if not members:
        return (), model
    front = []
    for member in members[:-1]:
        step = steps.step_of(member)
        if step is None:
            return (), model
        front.append(step)
    last = steps.step_of(members[-1])
    return ((*front, last), None) if last is not None else (tuple(front), members[-1])


def _tree_candidates(subject: Subject, front: tuple[NumpyStep, ...], last: Any) -> list[Candidate]:
    library = type(last).__module__.partition(".")[0]
    if library == "sklearn":
        found: list[Candidate] = [OnnxTrees(subject, front, last, lambda: sklearn_trees.read(last))]
        if sklearn_trees.is_forest(last):
            found.append(NativeTrees(subject, front, last))
        return found if sklearn_trees.is_known(last) else []
    if library == "lightgbm":
        booster = _lightgbm(last)
        classes = _classes(subject, last, max(2, booster.num_model_per_iteration()))
        return [
            SingleRow(subject, front, booster, classes),
            OnnxTrees(subject, front, last, lambda: lightgbm_trees.read(booster, classes), classes=classes),
        ]
    if library == "xgboost":
        booster = last.get_booster() if hasattr(last, "get_booster") else last
        if not np.isnan(getattr(last, "missing", subject.missing)):
            raise Refused("a number is taken as missing; engines here take only NaN so")
        best = booster.attr("best_iteration")
        rounds = None if best is None else int(best) + 1
        parsed = xgboost_trees.parse(booster)
        classes = _classes(subject, last, max(2, parsed.targets))
        if parsed.name == "gblinear":
            return [LinearBooster(subject, front, parsed, classes)]
        return [OnnxTrees(subject, front, last, lambda: xgboost_trees.read(parsed, classes, rounds), classes=classes)]
    return []


def _lightgbm(model: Any) -> Any:
    """The booster in a model of LightGBM."""
    if not hasattr(model, "booster_"):
        return model
    if callable(model.objective):
        raise Refused("an objective of the user's own: LightGBM answers raw sums")
    return model.booster_


def _classes(subject: Subject, model: Any, count: int) -> Any:
    """The classes of a booster's model; None where its runtime answers scores only."""
    if "predict_proba" not in subject.outputs:
        return None
    classes = getattr(model, "classes_", None)
    return np.arange(count) if classes is None else classes


# Rows behind numpy steps.


def _missing(front: Sequence[NumpyStep]) -> bool:
    return all(step.missing for step in front)


def _back(front: Sequence[NumpyStep]) -> Callable[[Array], Array] | None:
    if not front:
        return None

    def back(values: Array) -> Array:
        for step in reversed(front):
            values = step.back(values)
        return values

    return back


def _open_terrain(front: Sequence[NumpyStep], width: int) -> Terrain:
    """The model's inputs, as far as the first step knows them."""
    first = front[0] if front else None
    if first is None or first.low is None or first.high is None:
        return Terrain(low=np.full(width, -5.0), high=np.full(width, 5.0), missing=bool(front) and _missing(front))
    span = np.where(first.high > first.low, first.high - first.low, 1.0)
    return Terrain(low=first.low - 0.1 * span, high=first.high + 0.1 * span, missing=_missing(front))


def _chain(front: Sequence[NumpyStep], takes: str, last: Engine) -> Engine:
    check = TAKES[takes]
    if front and takes != "anything":
        last = Chain(check, (), last)  # a scaler may push a row beyond what comes next
    if front and not _missing(front):
        check = role.finite
    elif front and takes == "anything":
        check = role.finite_or_missing
    return Chain(check, [step.run for step in front], last)


class NumpyTransform(Candidate):
    """A transformer, or a pipeline of them."""

    name = "numpy"

    def __init__(self, subject: Subject, front: Sequence[NumpyStep]) -> None:
        self._width = subject.width
        self._front = front

    def prepare(self) -> Prepared:
        """As the role says."""
        terrain = _open_terrain(self._front, self._width)
        edges = tuple(np.unique([low, high]) for low, high in zip(terrain.low, terrain.high, strict=True))
        takes = "missing" if _missing(self._front) else "finite"
        terrain = msgspec.structs.replace(terrain, edges=edges)
        return Prepared(terrain=terrain, tolerance=EXACT, rows=4000, takes=takes)

    def engine(self, artefact: bytes, takes: str) -> Engine:
        """As the role says."""
        return Chain(TAKES[takes], [step.run for step in self._front], Transform())


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
        terrain = _open_terrain(self._front, self._subject.width)
        if hasattr(last, "classes_"):
            inner = int(last.coef_.shape[-1])
            terrain = Terrain(
                low=np.full(inner, -4.0),
                high=np.full(inner, 4.0),
                border=linear.boundary(last),
                back=_back(self._front),
            )
        filled = any(step.fills for step in self._front)
        return Prepared(terrain=terrain, tolerance=EXACT, rows=8000, takes="missing" if filled else "finite")

    def engine(self, artefact: bytes, takes: str) -> Engine:
        """As the role says."""
        last = self._last
        if hasattr(last, "classes_"):
            ended: Engine = linear.LinearClassifier(last, self._subject.labels(last.classes_))
        else:
            ended = linear.LinearRegressor(last)
        return _chain(self._front, takes, ended)


class OnnxTrees(Candidate):
    """Trees in our own float64 graph."""

    name = "onnx trees float64"

    def __init__(
        self,
        subject: Subject,
        front: Sequence[NumpyStep],
        last: Any,
        read: Callable[[], Grown | None],
        *,
        classes: Any = None,
    ) -> None:
        self._subject = subject
        self._front = front
        self._read = read
        self._classes = getattr(last, "classes_", None) if classes is None else classes

    def prepare(self) -> Prepared:
        """As the role says."""
        if not session.available():
            raise Refused("onnxruntime is not installed; headrace[optimize] brings it")
        grown = self._read()
        if grown is None:
            raise Refused("these are no trees")
        missing = grown.missing and _missing(self._front)
        takes = "anything" if grown.infinite else "missing" if missing else "finite"
        return Prepared(
            terrain=rows.of_forest(grown.forest, missing=missing, back=_back(self._front)),
            tolerance=EXACT if grown.exact else SINGLE,
            rows=min(50_000, max(20_000, 3 * grown.forest.nodes)),
            takes=takes,
            artefact=grown.artefact,
            differences=tuple(graph.differences(grown.artefact, grown.forest)),
        )

    def engine(self, artefact: bytes, takes: str) -> Engine:
        """As the role says."""
        labels = None if self._classes is None else self._subject.labels(self._classes)
        return _chain(self._front, takes, session.OnnxEngine(artefact, name=self.name, labels=labels))


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
        missing = sklearn_trees.takes_missing(self._last) and _missing(self._front)
        edges = tuple(np.unique(values[np.isfinite(values)]) for values in sklearn_trees.splits(self._last, width))
        low = np.array([values[0] - 1 if values.size else -1.0 for values in edges])
        high = np.array([values[-1] + 1 if values.size else 1.0 for values in edges])
        terrain = Terrain(low=low, high=high, edges=edges, missing=missing, back=_back(self._front))
        return Prepared(terrain=terrain, tolerance=EXACT, rows=4000, takes="missing" if missing else "finite")

    def engine(self, artefact: bytes, takes: str) -> Engine:
        """As the role says."""
        classes = getattr(self._last, "classes_", None)
        labels = None if classes is None else self._subject.labels(classes)
        return _chain(self._front, takes, sklearn_trees.TreeLoop(self._last, labels))


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
        missing = _missing(self._front)
        try:
            grown = lightgbm_trees.read(self._booster, self._classes)
            terrain = rows.of_forest(grown.forest, missing=missing, back=_back(self._front))
        except Refused:  # the call needs no graph, and so takes boosters that have none
            terrain = _open_terrain(self._front, self._subject.width)
        return Prepared(terrain=terrain, tolerance=EXACT, rows=500, takes="missing" if missing else "finite")

    def engine(self, artefact: bytes, takes: str) -> Engine:
        """As the role says."""
        labels = None if self._classes is None else self._subject.labels(self._classes)
        return _chain(self._front, takes, LightgbmRow(self._booster, labels))


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
        terrain = _open_terrain(self._front, self._subject.width)
        return Prepared(terrain=terrain, tolerance=SINGLE, rows=8000)

    def engine(self, artefact: bytes, takes: str) -> Engine:
        """As the role says."""
        labels = None if self._classes is None else self._subject.labels(self._classes)
        return _chain(self._front, takes, xgboost_trees.LinearBooster(self._booster, self._classes, labels))
