"""Which engines a model might get, in the order in which they are tried. Called by `choose`.

A candidate only claims; `choose` exports it, compares its structure, puts it through the gate and times it.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from headrace.runtimes.optimize import (
    catboost_trees,
    encoders,
    lightgbm_trees,
    linear,
    sklearn_trees,
    steps,
    survey,
    svm,
    xgboost_trees,
)
from headrace.runtimes.optimize.candidate import Candidate, Subject
from headrace.runtimes.optimize.converted import Converted
from headrace.runtimes.optimize.engine import Refused
from headrace.runtimes.optimize.numpy_forms import KernelVotes, LinearBooster, NumpyLinear, NumpyTransform
from headrace.runtimes.optimize.steps import NumpyStep
from headrace.runtimes.optimize.table import Table
from headrace.runtimes.optimize.tree_forms import NativeTrees, OnnxTrees, SingleRow

_SCORES: Final = frozenset({"FP32", "FP64"})


def candidates(subject: Subject) -> list[Candidate]:
    """The engines to try.

    Raises:
        Refused: if there is none for this kind of model.
    """
    front, last = split(subject.model, subject.table, subject.names)
    found: list[Candidate] = []
    if last is None:
        found.append(NumpyTransform(subject, front))
    elif linear.is_linear(last):
        found.append(NumpyLinear(subject, front, last))
    elif svm.is_svm(last):
        found.append(KernelVotes(subject, front, last))
        found.append(Converted(subject, front, last, double=False, unless=KernelVotes.name))  # other kernels
    else:
        found.extend(_tree_candidates(subject, front, last))
    if not found:
        raise Refused(f"no faster engine for {type(last if front else subject.model).__name__}")
    return found


def split(model: Any, table: Table | None = None, names: tuple[str, ...] = ()) -> tuple[tuple[NumpyStep, ...], Any]:
    """The leading transformers that have a numpy form, and what comes after them; None: nothing does.

    A pipeline is split only if all but its last member have a numpy form; otherwise it is one whole, unless some of
    its columns hold text.

    Raises:
        Refused: for a transformer with a setting that has no numpy form here.
    """
    members = encoders.members(model)
    if not members:
        return (), model
    front = []
    try:
        first = encoders.step_of(members, table, names)
    except Refused:
        if table is not None:
            raise
        return (), model
    if first is not None:
        front.append(first[0])
        members = members[first[1] :]
        if not members:
            return tuple(front), None
    for member in members[:-1]:
        step = steps.step_of(member)
        if step is None:
            if table is not None:
                raise Refused(f"{type(member).__name__} behind encoders has no numpy form")
            return (), model
        front.append(step)
    last = steps.step_of(members[-1])
    return ((*front, last), None) if last is not None else (tuple(front), members[-1])


def _tree_candidates(subject: Subject, front: tuple[NumpyStep, ...], last: Any) -> list[Candidate]:
    library = type(last).__module__.partition(".")[0]
    if library == "sklearn":
        return _sklearn(subject, front, last)
    if library == "lightgbm":
        booster = _lightgbm(last)
        classes = _classes(subject, last, max(2, booster.num_model_per_iteration()))
        return [
            SingleRow(subject, front, booster, classes),
            OnnxTrees(subject, front, lambda: lightgbm_trees.read(booster, classes), classes=classes),
        ]
    if library == "xgboost":
        booster = last.get_booster() if hasattr(last, "get_booster") else last
        if not np.isnan(missing := float(getattr(last, "missing", subject.missing))):
            front = (*front, steps.missing_number(missing))
        best = booster.attr("best_iteration")
        rounds = None if best is None else int(best) + 1
        parsed = xgboost_trees.parse(booster)
        classes = _classes(subject, last, max(2, parsed.targets))
        if parsed.name == "gblinear":
            return [LinearBooster(subject, front, parsed, classes)]
        return [OnnxTrees(subject, front, lambda: xgboost_trees.read(parsed, classes, rounds), classes=classes)]
    if library == "catboost":
        classes = _classes(subject, last, 2)
        return [OnnxTrees(subject, front, lambda: catboost_trees.read(last, classes), classes=classes)]
    return []


def _sklearn(subject: Subject, front: tuple[NumpyStep, ...], last: Any) -> list[Candidate]:
    if not sklearn_trees.is_known(last):
        return [
            Converted(subject, front, last, double=double, unless="" if double else "onnx float64")
            for double in survey.widths(last)
        ]
    trees = OnnxTrees(subject, front, lambda: sklearn_trees.read(last), classes=getattr(last, "classes_", None))
    if not sklearn_trees.is_forest(last):
        return [trees]
    rounded = Converted(subject, front, last, double=False, unless=trees.name)  # for forests too large for float64
    return [trees, NativeTrees(subject, front, last), rounded]


def _lightgbm(model: Any) -> Any:
    """The booster in a model of LightGBM."""
    if not hasattr(model, "booster_"):
        return model
    if callable(model.objective):
        raise Refused("an objective of the user's own: LightGBM answers raw sums")
    return model.booster_


def _classes(subject: Subject, model: Any, count: int) -> Any:
    """The classes of a booster's model; None where its runtime answers scores only."""
    answer = subject.specs.get("predict")
    if "predict_proba" not in subject.specs and (answer is None or answer.datatype in _SCORES):
        return None
    classes = getattr(model, "classes_", None)
    return np.arange(count) if classes is None else classes
