"""LightGBM: Booster files (its text format), its scikit-learn API in pickles, and either in memory.

`predict` is the predict of what was saved. A Booster answers FP64 numbers: for `binary` the probability of the second
class, for `multiclass` those of all; a classifying Booster has `predict_proba` [rows, classes] and `predict_label`
(INT64 positions of classes) beside it. An LGBMClassifier answers labels, and has `predict_proba`. Early-stopped models
answer with their best iteration. NaN is a missing value; so is a category that training never saw.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np

from headrace.errors import LoadFailed, RuntimeFailed, SettingsError
from headrace.payload import EMPTY, Array, Signature, TensorSpec
from headrace.runtimes import pickles
from headrace.runtimes.base import Recognition, Runtime, Source, Values, check_parameters, missing_extra
from headrace.runtimes.tabular import Features, labels_of, unknown_output

_TEXT: Final = re.compile(rb"tree\r?\nversion=")
_SIZES: Final = re.compile(rb"^tree_sizes=([0-9 ]*)", re.MULTILINE)
_CLASSIFYING: Final = frozenset({"binary", "multiclass", "multiclassova"})

_Finish = Callable[[Array], Array]


class LightgbmRuntime(Runtime):
    """A LightGBM model. Inputs: one matrix [rows, features] of numbers, or its named columns one each."""

    extra: ClassVar[str] = "lightgbm"
    optimizable: bool = True
    releases_lock: ClassVar[bool] = True

    def __init__(self, source: Source) -> None:
        super().__init__(source)
        self.model: Any = None
        """The Booster or estimator that answers, for whoever wants to answer faster."""
        self._features = Features(width=0)
        self._score: Callable[[Array], Array] = _unloaded
        self._outputs: Mapping[str, _Finish] = EMPTY

    @classmethod
    def recognise(cls, path: Path) -> Recognition | None:
        """A Booster's text by its first two lines, a pickle by its outermost class."""
        if not path.is_file():
            return None
        with path.open("rb") as file:
            head = file.read(32)
        if _TEXT.match(head):
            return Recognition("LightGBM model in text")
        root = pickles.inspect(path).root
        return Recognition(f"pickle of {root}") if root.startswith("lightgbm.") else None

    @classmethod
    def recognise_object(cls, model: Any) -> Recognition | None:
        """A Booster, or an estimator of LightGBM's scikit-learn API or of a class derived from one."""
        for base in type(model).__mro__:
            if base.__module__.startswith("lightgbm.") and base.__name__ in {"Booster", "LGBMModel"}:
                return Recognition(f"{type(model).__module__}.{type(model).__qualname__}")
        return None

    def load(self) -> Signature:
        """Load, and learn shapes and datatypes from an answer to a row of missing values.

        Raises:
            MissingExtra: lightgbm is not installed.
            LoadFailed: LightGBM cannot read the file, or the model is not trained.
            UnsafeArtifact: a pickle under an allow-list names something else.
            SettingsError: an unknown parameter.
        """
        check_parameters(self.source.parameters, {"num_threads"}, runtime="lightgbm")
        threads = self.source.parameters.get("num_threads", 1)
        if not isinstance(threads, int) or isinstance(threads, bool) or threads < 0:
            raise SettingsError(f"parameters of a lightgbm model: num_threads is {threads!r}; expected a whole number")
        try:
            import lightgbm
        except ImportError as error:
            raise missing_extra("lightgbm", self.extra, needed_by=str(self.source.path or "this model")) from error

        model, notes = self._fetch(lightgbm)
        estimator = None if isinstance(model, lightgbm.Booster) else model
        try:
            booster = model if estimator is None else estimator.booster_
            text = booster.model_to_string(num_iteration=1)
        except Exception as error:  # what an unfitted estimator raises is scikit-learn's
            raise LoadFailed(f"{type(model).__name__} is no trained LightGBM model: {error}") from error
        self.model = model
        self._features, remarks = _features(booster, text)
        objective, count = _objective(text)
        own = estimator is not None and (
            not type(estimator).__module__.startswith("lightgbm.") or callable(estimator.objective)
        )
        if own:  # a class derived from LightGBM's, or an objective of the user's: its own methods decide
            self._score = _as_it_is
            self._outputs = {
                name: _called(getattr(estimator, name))
                for name in ("predict", "predict_proba")
                if hasattr(estimator, name)
            }
        else:
            self._score = _scorer(booster, threads)
            self._outputs = _outputs(estimator, objective, count)
        classes = getattr(estimator, "classes_", None)
        labels = tuple(map(str, range(count) if classes is None else classes.tolist()))
        return Signature(
            platform="lightgbm",
            inputs=self._features.inputs(),
            outputs=tuple(self._described(labels)),
            default_outputs=("predict",),
            strict=False,
            libraries={"lightgbm": lightgbm.__version__},
            warnings=notes + remarks,
            properties={"objective": objective or "custom"},
        )

    def predict(self, inputs: Values, outputs: Sequence[str] = (), parameters: Mapping[str, Any] = EMPTY) -> Values:
        """`predict` and, for classifiers, `predict_proba` FP64 [rows, classes]; for Boosters `predict_label` INT64."""
        if len(inputs) > 1:  # LightGBM keeps names of columns with underscores for spaces
            inputs = {name.replace(" ", "_"): value for name, value in inputs.items()}
        for name in outputs:
            if name not in self._outputs:
                raise unknown_output(name, tuple(self._outputs))
        rows = self._features.matrix(inputs)
        if len(rows):
            scores = self._score(rows)
            return {name: self._outputs[name](scores) for name in outputs or ("predict",)}
        scores = self._score(np.full((1, self._features.width), np.nan))
        return {name: self._outputs[name](scores)[:0] for name in outputs or ("predict",)}

    def unload(self) -> None:
        """Let the model go."""
        self.model = None
        self._score = _unloaded
        self._outputs = EMPTY

    # -- loading --

    def _fetch(self, lightgbm: Any) -> tuple[Any, tuple[str, ...]]:
        """The Booster or estimator, and what was said while it was read."""
        path = self.source.path
        if path is None:
            return self.source.model, ()
        with path.open("rb") as file:
            head = file.read(32)
        if not _TEXT.match(head):
            loaded = pickles.load_with_warnings(path, self.source.allowed_globals)
            if self.recognise_object(loaded.model) is None:
                raise LoadFailed(f"{path} holds a {type(loaded.model).__name__}; expected a LightGBM model")
            return loaded.model, tuple(str(each) for each in loaded.warnings)
        _check_whole(path)
        try:
            return lightgbm.Booster(model_file=str(path)), ()
        except (lightgbm.basic.LightGBMError, ValueError) as error:
            raise LoadFailed(f"{path}: LightGBM cannot read it: {error}") from error

    def _described(self, labels: tuple[str, ...]) -> list[TensorSpec]:
        """The outputs' datatypes and shapes, from the answer to one row of missing values."""
        scores = self._score(np.full((1, self._features.width), np.nan))
        specs = []
        for name, finish in self._outputs.items():
            answer = finish(scores)
            specs.append(
                TensorSpec(
                    name=name,
                    datatype={"f": "FP64", "i": "INT64", "b": "BOOL"}.get(answer.dtype.kind, "BYTES"),
                    shape=(-1, *answer.shape[1:]),
                    labels=labels if answer.ndim == 2 and len(labels) == answer.shape[1] else (),
                )
            )
        return specs


def _check_whole(path: Path) -> None:
    """Refuse a file whose trees are not where its head says: LightGBM reads on beyond its end, and ends the process.

    Raises:
        LoadFailed: a tree, or the line after the last one, is not at its place, or the parameters have no end.
    """
    data = path.read_bytes()
    head, mark, _ = data.partition(b"\nTree=0")
    told = _SIZES.search(head)
    if told is None:  # LightGBM before 2.1.1 told no sizes, and is read line by line
        return
    sizes = [int(size) for size in told[1].split()]
    at = len(head) + len(mark) - len(b"Tree=0")
    for index, size in enumerate([*sizes, 0]):
        expected = b"Tree=%d" % index if index < len(sizes) else b"end of trees"
        if data[at : at + len(expected)] != expected:
            raise LoadFailed(
                f"{path} is cut off or changed: expected '{expected.decode()}' at byte {at} of {len(data)}, for "
                f"{len(sizes)} trees of the sizes that its head tells; copy it again, as bytes, or save the model again"
            )
        at += size
    if b"\nparameters:" in data[at:] and b"\nend of parameters" not in data[at:]:
        raise LoadFailed(
            f"{path} is cut off: expected 'end of parameters' before its end at byte {len(data)}; copy it again"
        )


def _scorer(booster: Any, threads: int) -> Callable[[Array], Array]:
    def score(rows: Array) -> Array:
        return np.asarray(booster.predict(rows, num_threads=threads))

    return score


def _outputs(estimator: Any, objective: str, count: int) -> Mapping[str, _Finish]:
    """The outputs of LightGBM's own classes, from what the Booster predicts."""
    if estimator is not None:
        if not hasattr(estimator, "predict_proba"):
            return {"predict": _as_it_is}
        classes = labels_of(estimator.classes_)
        classes = classes.astype(np.int64) if classes.dtype.kind in "iu" else classes
        return {"predict": lambda scores: classes[np.argmax(_shares(scores), axis=1)], "predict_proba": _shares}
    if objective not in _CLASSIFYING or count < 2:
        return {"predict": _as_it_is}
    return {
        "predict": _as_it_is,
        "predict_proba": _shares,
        "predict_label": lambda scores: np.argmax(_shares(scores), axis=1),
    }


def _shares(scores: Array) -> Array:
    """Probabilities of every class: a binary model gives that of the second only."""
    return scores if scores.ndim == 2 else np.stack((1.0 - scores, scores), axis=1)


def _as_it_is(scores: Array) -> Array:
    return scores


def _called(method: Callable[[Array], Any]) -> _Finish:
    def finish(rows: Array) -> Array:
        answer = np.asarray(method(rows))
        return labels_of(answer) if answer.dtype.kind in "OSU" else answer

    return finish


def _unloaded(_rows: Array) -> Array:
    raise RuntimeFailed("the model is not loaded")


def _objective(text: str) -> tuple[str, int]:
    """The objective's name and the number of classes (2 for binary) that a model text states."""
    found = re.search(r"^objective=(\S+)", text, re.MULTILINE)
    objective = found[1] if found else ""
    classes = re.search(r"^num_class=(\d+)", text, re.MULTILINE)
    count = int(classes[1]) if classes else 1
    return objective, 2 if objective == "binary" else count if objective in _CLASSIFYING else 0


def _features(booster: Any, text: str) -> tuple[Features, tuple[str, ...]]:
    """What the booster knows of its columns, and what a person should know of that."""
    width = booster.num_feature()
    names = tuple(booster.feature_name())
    lists = booster.pandas_categorical or []
    if not lists:
        unnamed = names == tuple(f"Column_{position}" for position in range(width))
        return Features(width=width, names=() if unnamed else names), ()
    positions = _categorical(text)
    if len(positions) != len(lists):
        remark = "columns that were categories in training take their codes: the model does not say which they are"
        return Features(width=width, names=names), (remark,)
    categories = {
        position: {value: code for code, value in enumerate(values)}
        for position, values in zip(positions, lists, strict=True)
    }
    return Features(width=width, names=names, categories=categories, unknown=np.nan), ()


def _categorical(text: str) -> list[int]:
    """The positions of categorical columns that a model text states."""
    stated = re.search(r"^\[categorical_feature: ([\d,]+)\]", text, re.MULTILINE)
    if stated:
        return sorted(int(position) for position in stated[1].split(","))
    ranges = re.search(r"^feature_infos=(.*)$", text, re.MULTILINE)
    values = ranges[1].split(" ") if ranges else []
    return [position for position, value in enumerate(values) if value != "none" and not value.startswith("[")]
