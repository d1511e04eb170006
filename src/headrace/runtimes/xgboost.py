"""XGBoost: Booster files (JSON, UBJSON), its scikit-learn API in pickles, and either in memory.

`predict` is the predict of what was saved. A Booster answers FP32 numbers: for `binary:logistic` the probability of the
second class, for `multi:softprob` those of all. An XGBClassifier answers labels, with `predict_proba` beside it where
the objective has probabilities; the files that the scikit-learn API saves carry its mark, so they answer alike.
`parameters: {labels: true}` makes a classifying Booster answer labels too, `false` makes a classifier answer as its
Booster. Early-stopped models answer with their best iteration. NaN is a missing value.
"""

from __future__ import annotations

import itertools
import json
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np

from headrace.errors import InvalidRequest, LoadFailed, RuntimeFailed, SettingsError
from headrace.payload import EMPTY, Array, Signature, TensorSpec
from headrace.runtimes import pickles
from headrace.runtimes.base import Recognition, Runtime, Source, Values, check_parameters, missing_extra
from headrace.runtimes.tabular import Features, unknown_output

_HEAD: Final = 4096
_JSON_LEARNER: Final = re.compile(rb'^\s*\{.*?"learner"\s*:\s*\{', re.DOTALL)
_JSON_INSIDE: Final = re.compile(rb'"(attributes|feature_names|gradient_booster|learner_model_param|objective)"\s*:')
_Score = Callable[[Array, str], Array]
"""Rows and a kind (`value`, `margin`) to the booster's own answer."""
_Output = tuple[str, Callable[[Array], Array]]
"""The kind of score that an output is made of, and how."""
_LABELS: Final = frozenset({"binary:logistic", "binary:hinge", "multi:softprob", "multi:softmax"})
_PARAMETERS: Final = {
    "nthread": "threads of one predict, default 1",
    "labels": "whether predict answers labels, default: what was saved did",
}


class XgboostRuntime(Runtime):
    """An XGBoost model. Inputs: one matrix [rows, features] of numbers, or the booster's named columns one each."""

    extra: ClassVar[str] = "xgboost"
    optimizable: bool = True
    releases_lock: ClassVar[bool] = True
    concurrent: ClassVar[bool] = False

    def __init__(self, source: Source) -> None:
        super().__init__(source)
        self._features = Features(width=0)
        self._score: _Score = _unloaded
        self._outputs: Mapping[str, _Output] = EMPTY
        self.model: Any = None
        """The Booster or estimator that answers, for whoever wants to answer faster."""
        self.missing = float("nan")
        """The number that the model takes as missing, beside NaN."""

    @classmethod
    def recognise(cls, path: Path) -> Recognition | None:
        """A Booster's JSON or UBJSON by its `learner`, its old binary by its magic, a pickle by its outermost class."""
        if not path.is_file():
            return None
        with path.open("rb") as file:
            head = file.read(_HEAD)
        if head[:1] == b"{":
            if head[1:2] == b"L" and b"learner" in head[:64]:
                return Recognition("XGBoost model in UBJSON")
            if _JSON_LEARNER.match(head) and _JSON_INSIDE.search(head):
                return Recognition("XGBoost model in JSON")
            return None
        if head.startswith(b"binf"):
            return Recognition("XGBoost model in its old binary format")
        root = pickles.inspect(path).root
        return Recognition(f"pickle of {root}") if root.startswith("xgboost.") else None

    @classmethod
    def recognise_object(cls, model: Any) -> Recognition | None:
        """A Booster, or an estimator of XGBoost's scikit-learn API or of a class derived from one."""
        for base in type(model).__mro__:
            if base.__module__.startswith("xgboost.") and base.__name__ in {"Booster", "XGBModel"}:
                return Recognition(f"{type(model).__module__}.{type(model).__qualname__}")
        return None

    def load(self) -> Signature:
        """Load, set the threads, learn shapes and datatypes from an answer to a row of missing values.

        Raises:
            MissingExtra: xgboost is not installed.
            LoadFailed: XGBoost cannot read the file; its first line of text is passed on.
            UnsafeArtifact: a pickle under an allow-list names something else.
            SettingsError: an unknown parameter.
        """
        check_parameters(self.source.parameters, _PARAMETERS, runtime="xgboost")
        labels = self.source.parameters.get("labels")
        nthread = self.source.parameters.get("nthread", 1)
        if labels is not None and not isinstance(labels, bool):
            raise SettingsError(f"parameters of a xgboost model: labels is {labels!r}; expected true or false")
        if not isinstance(nthread, int) or isinstance(nthread, bool) or nthread < 0:
            raise SettingsError(f"parameters of a xgboost model: nthread is {nthread!r}; expected a number of threads")
        try:
            import xgboost
        except ImportError as error:
            raise missing_extra("xgboost", self.extra, needed_by=str(self.source.path or "this model")) from error

        model, notes = self._fetch(xgboost)
        estimator = None if isinstance(model, xgboost.Booster) else model
        try:
            booster = (model if estimator is None else estimator.get_booster()).copy()  # the caller's stays as it is
            booster.set_param({"nthread": nthread})
            config = json.loads(booster.save_config())["learner"]
        except (xgboost.core.XGBoostError, ValueError, AttributeError) as error:
            raise LoadFailed(f"{self._name} is no trained XGBoost model: {_first_line(error)}") from error
        self.model = booster if estimator is None else estimator
        told = getattr(estimator, "missing", None)
        self.missing = float("nan") if told is None else float(told)
        self._features, remarks = _features(booster)
        objective = _objective(estimator, config)
        if labels is None:  # the scikit-learn API leaves a mark in the files it saves; a Booster's own file has none
            labels = estimator is not None or booster.attr("scikit_learn") is not None
        classes = _class_count(estimator, config, objective) if labels else 0
        if estimator is None or type(estimator).__module__.startswith("xgboost."):
            self._score = _scorer(xgboost, booster, estimator, config["gradient_booster"]["name"], nthread)
            self._outputs = _outputs(objective, classes)
        else:  # a class derived from XGBoost's: its own methods decide
            self._score = lambda rows, kind: np.asarray(getattr(estimator, kind)(rows))
            methods = [name for name in ("predict", "predict_proba") if hasattr(estimator, name)]
            self._outputs = {name: (name, _as_it_is) for name in methods}
        return Signature(
            platform="xgboost",
            inputs=self._features.inputs(),
            outputs=tuple(self._described(classes)),
            default_outputs=("predict",),
            strict=False,
            libraries={"xgboost": xgboost.__version__},
            warnings=notes + remarks,
            properties={"objective": objective, "booster": config["gradient_booster"]["name"]},
        )

    def predict(self, inputs: Values, outputs: Sequence[str] = (), parameters: Mapping[str, Any] = EMPTY) -> Values:
        """`predict` INT64 or FP32, `predict_proba` FP32 [rows, classes]."""
        rows = self._features.matrix(inputs)
        scores: dict[str, Array] = {}
        answer = {}
        for name in outputs or ("predict",):
            output = self._outputs.get(name)
            if output is None:
                raise unknown_output(name, tuple(self._outputs))
            kind, finish = output
            if kind not in scores:
                scores[kind] = self._score(rows, kind)
            answer[name] = finish(scores[kind])
        return answer

    def unload(self) -> None:
        """Let the booster go."""
        self._score = _unloaded
        self.model = None

    # -- loading --

    @property
    def _name(self) -> str:
        return str(self.source.path or type(self.source.model).__name__)

    def _fetch(self, xgboost: Any) -> tuple[Any, tuple[str, ...]]:
        """The Booster or estimator, and what was said while it was read."""
        path = self.source.path
        if path is None:
            return self.source.model, ()
        with path.open("rb") as file:
            head = file.read(4)
        if head[:1] != b"{" and head != b"binf":
            loaded = pickles.load_with_warnings(path, self.source.allowed_globals)
            if self.recognise_object(loaded.model) is None:
                raise LoadFailed(f"{path} holds a {type(loaded.model).__name__}; expected an XGBoost model")
            return loaded.model, tuple(str(each) for each in loaded.warnings)
        booster = xgboost.Booster()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                # From memory, where XGBoost looks at the content; from a path it believes the suffix.
                booster.load_model(bytearray(path.read_bytes()))
            except xgboost.core.XGBoostError as error:
                advice = "; save it again with an XGBoost below 3.1 as .ubj" if head == b"binf" else ""
                raise LoadFailed(f"{path}: XGBoost cannot read it: {_first_line(error)}{advice}") from error
        return booster, tuple(str(each.message) for each in caught)

    def _described(self, classes: int) -> list[TensorSpec]:
        """The outputs' datatypes and shapes, from the answer to one row of missing values."""
        row = np.full((1, self._features.width), np.nan, np.float32)
        specs = []
        for name, (kind, finish) in self._outputs.items():
            answer = finish(self._score(row, kind))
            datatype = {"f": "FP32" if answer.itemsize == 4 else "FP64", "i": "INT64"}.get(answer.dtype.kind, "BYTES")
            labels = tuple(map(str, range(classes))) if name == "predict_proba" else ()
            specs.append(TensorSpec(name=name, datatype=datatype, shape=(-1, *answer.shape[1:]), labels=labels))
        return specs


def _scorer(xgboost: Any, booster: Any, estimator: Any, gradient_booster: str, nthread: int) -> _Score:
    missing = np.nan if estimator is None else estimator.missing
    best = booster.attr("best_iteration")
    iterations = (0, int(best) + 1) if best is not None and gradient_booster != "gblinear" else (0, 0)
    width = booster.num_features()

    def inplace(rows: Array, kind: str) -> Array:
        if not len(rows):
            return _empty(inplace(np.full((1, width), np.nan, np.float32), kind))
        return np.asarray(
            booster.inplace_predict(
                rows,
                iteration_range=iterations,
                predict_type=kind,
                missing=missing,
                validate_features=False,
            )
        )

    def by_matrix(rows: Array, kind: str) -> Array:
        if not len(rows):
            return _empty(by_matrix(np.zeros((1, width), np.float32), kind))
        try:
            matrix = xgboost.DMatrix(rows, missing=missing, nthread=nthread)
        except xgboost.core.XGBoostError as error:
            if "inf" in str(error):
                raise InvalidRequest(f"an input holds an infinity: {_first_line(error)}") from error
            raise
        return np.asarray(booster.predict(matrix, output_margin=kind == "margin", validate_features=False))

    return by_matrix if gradient_booster == "gblinear" else inplace


def _outputs(objective: str, classes: int) -> Mapping[str, _Output]:
    """The outputs of XGBoost's own classes: labels and probabilities as its scikit-learn API derives them."""
    if not classes:
        return {"predict": ("value", _as_it_is)}
    if objective == "multi:softmax":
        return {"predict": ("value", _to_integers), "predict_proba": ("margin", _to_shares)}
    label = _to_best if classes > 2 else _to_likely
    if objective == "binary:hinge":
        return {"predict": ("value", label)}
    return {"predict": ("value", label), "predict_proba": ("value", _to_both_sides)}


def _unloaded(_rows: Array, _kind: str) -> Array:
    raise RuntimeFailed("the model is not loaded")


def _as_it_is(scores: Array) -> Array:
    return scores


def _to_integers(scores: Array) -> Array:
    return scores.astype(np.int64)


def _to_best(scores: Array) -> Array:
    """Probabilities of classes to the likeliest; of independent labels (one-dimensional rows have none) to each."""
    return np.argmax(scores, axis=1) if scores.ndim == 2 else _to_likely(scores)


def _to_likely(scores: Array) -> Array:
    return (scores > 0.5).astype(np.int64)


def _to_both_sides(scores: Array) -> Array:
    return scores if scores.ndim == 2 else np.stack((1.0 - scores, scores), axis=1)


def _to_shares(margins: Array) -> Array:
    from scipy.special import softmax

    return np.asarray(softmax(margins, axis=1))


def _empty(one: Array) -> Array:
    return np.empty((0, *one.shape[1:]), one.dtype)


def _features(booster: Any) -> tuple[Features, tuple[str, ...]]:
    """What the booster knows of its columns, and what a person should know of that."""
    width = booster.num_features()
    names = tuple(booster.feature_names or ())
    categories = _categories(booster) if "c" in (booster.feature_types or ()) else {}
    if categories and not names:
        names = tuple(f"f{position}" for position in range(width))
    lost = [names[position] for position, known in categories.items() if not known]
    kept = {position: known for position, known in categories.items() if known}
    features = Features(width=width, names=names, datatype="FP32", categories=kept)
    return features, tuple(
        f"column {name!r} takes category codes, not text: XGBoost cuts texts beyond ASCII short when it stores them"
        for name in lost
    )


def _categories(booster: Any) -> dict[int, dict[Any, int]]:
    """Category to code, by column; empty where the stored texts cannot be trusted.

    A model trained on codes, or by XGBoost below 3.1, keeps none. XGBoost 3.1 and 3.2 store texts as UTF-8 under
    offsets that count characters, so one text beyond ASCII shifts all that follow.
    """
    document: Any = json.loads(booster.save_raw("json").decode())["learner"]["gradient_booster"]
    document = document.get("gbtree", document)  # dart keeps its trees one level deeper
    found: dict[int, dict[Any, int]] = {}
    for position, encoding in enumerate(document.get("model", {}).get("cats", {}).get("enc", ())):
        values = encoding["values"]
        if not values:
            continue
        if "offsets" in encoding:
            text = bytes(byte % 256 for byte in values)  # signed bytes in the document
            values = [text[start:end] for start, end in itertools.pairwise(encoding["offsets"])]
            values = [value.decode() for value in values] if text.isascii() else []
        found[position] = {value: code for code, value in enumerate(values)}
    return found


def _objective(estimator: Any, config: Mapping[str, Any]) -> str:
    named = getattr(estimator, "objective", None)
    return named if isinstance(named, str) else str(config["objective"]["name"])


def _class_count(estimator: Any, config: Mapping[str, Any], objective: str) -> int:
    """How many classes `predict` chooses from; 0: it answers numbers."""
    if estimator is not None:
        return int(getattr(estimator, "n_classes_", 0)) if hasattr(estimator, "predict_proba") else 0
    if objective not in _LABELS:
        return 0
    return max(2, int(config["learner_model_param"]["num_class"]))


def _first_line(error: BaseException) -> str:
    """XGBoost's errors carry a source position and a stack trace around their one line of text."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    return re.sub(r"^\[[\d:]+\] \S+?:\d+: ", "", text)[:500]
