"""CatBoost: its binary `.cbm` and JSON files, pickles, and objects in memory.

A file is loaded as the class that its loss is for. A classifier's `predict` answers labels as [rows] (text as BYTES;
CatBoost itself gives [rows, 1] for several classes), and `predict_proba` FP64 [rows, classes]. Regressors and rankers
answer FP64. A plain `CatBoost` in memory answers as its own predict does. Categorical and text features are inputs of
their own, as text or whole numbers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np

from headrace.errors import InvalidRequest, LoadFailed, SettingsError
from headrace.payload import EMPTY, Array, Signature, TensorSpec, datatype_of
from headrace.runtimes import pickles
from headrace.runtimes.base import Recognition, Runtime, Source, Values, check_parameters, missing_extra
from headrace.runtimes.tabular import Features, labels_of, text_of, unknown_output

_MAGIC: Final = b"CBM1"
_JSON: Final = re.compile(rb'\s*\{\s*"(ctr_data|features_info|model_info|oblivious_trees|trees|scale_and_bias)"\s*:')
_JSON_END: Final = re.compile(rb'"(scale_and_bias|oblivious_trees|trees)"\s*:')
_EDGE: Final = 1 << 16
_CLASSIFIERS: Final = frozenset(
    {"Logloss", "CrossEntropy", "MultiClass", "MultiClassOneVsAll", "MultiLogloss", "MultiCrossEntropy", "Focal"}
)
_RANKERS: Final = frozenset(
    {
        "LambdaMart",
        "PairLogit",
        "PairLogitPairwise",
        "QueryCrossEntropy",
        "QueryRMSE",
        "QuerySoftMax",
        "StochasticFilter",
        "StochasticRank",
        "YetiRank",
        "YetiRankPairwise",
    }
)


class CatboostRuntime(Runtime):
    """A CatBoost model. Inputs: one matrix [rows, features] of numbers, or its named columns one each."""

    extra: ClassVar[str] = "catboost"
    optimizable: bool = True
    releases_lock: ClassVar[bool] = True

    def __init__(self, source: Source) -> None:
        super().__init__(source)
        self.model: Any = None
        """The CatBoost object that answers, for whoever wants to answer faster."""
        self._features = Features(width=0)
        self._columns: dict[int, str] = {}
        self._outputs: Mapping[str, Callable[[Any], Array]] = EMPTY
        self._none: dict[str, Array] = {}

    @classmethod
    def recognise(cls, path: Path) -> Recognition | None:
        """A binary file by its magic, JSON by the first and last of its keys, a pickle by its outermost class."""
        if not path.is_file():
            return None
        kind = _format(path)
        if kind:
            return Recognition("CatBoost model in JSON" if kind == "json" else "CatBoost model")
        root = pickles.inspect(path).root
        return Recognition(f"pickle of {root}") if root.startswith("catboost.") else None

    @classmethod
    def recognise_object(cls, model: Any) -> Recognition | None:
        """A CatBoost, or one of the classes derived from it."""
        for base in type(model).__mro__:
            if base.__module__.startswith("catboost.") and base.__name__ == "CatBoost":
                return Recognition(f"{type(model).__module__}.{type(model).__qualname__}")
        return None

    def load(self) -> Signature:
        """Load, and learn shapes and datatypes from an answer to a row of zeros.

        Raises:
            MissingExtra: catboost is not installed.
            LoadFailed: CatBoost cannot read the file, the model is not trained, or has embedding features.
            UnsafeArtifact: a pickle under an allow-list names something else.
            SettingsError: an unknown parameter.
        """
        check_parameters(self.source.parameters, {"thread_count"}, runtime="catboost")
        threads = self.source.parameters.get("thread_count", 1)
        if not isinstance(threads, int) or isinstance(threads, bool) or threads < -1 or threads == 0:
            raise SettingsError(
                f"parameters of a catboost model: thread_count is {threads!r}; expected 1 or more, or -1"
            )
        try:
            import catboost
        except ImportError as error:
            raise missing_extra("catboost", self.extra, needed_by=str(self.source.path or "this model")) from error

        self.model, notes = self._fetch(catboost)
        name = str(self.source.path or type(self.model).__name__)
        if not self.model.is_fitted():
            raise LoadFailed(f"{name} is not trained: expected a fitted CatBoost model")
        if self.model.get_embedding_feature_indices():
            raise LoadFailed(f"{name} has embedding features, which are not served; a Python class can serve it")
        self._features = _features(self.model)
        self._columns = dict.fromkeys(self.model.get_cat_feature_indices(), "categorical")
        self._columns |= dict.fromkeys(self.model.get_text_feature_indices(), "text")
        self._outputs = _outputs(self.model, threads)
        loss = str(self.model.get_all_params().get("loss_function", ""))
        return Signature(
            platform="catboost",
            inputs=self._inputs(),
            outputs=tuple(self._described()),
            default_outputs=("predict",),
            strict=False,
            libraries={"catboost": catboost.__version__},
            warnings=notes,
            properties={"loss_function": loss} if loss else EMPTY,
        )

    def predict(self, inputs: Values, outputs: Sequence[str] = (), parameters: Mapping[str, Any] = EMPTY) -> Values:
        """`predict` and, for classifiers, `predict_proba`."""
        for name in outputs:
            if name not in self._outputs:
                raise unknown_output(name, tuple(self._outputs))
        rows = self._mixed(inputs) if self._columns else self._features.matrix(inputs)
        if not len(rows):
            return {name: self._none[name] for name in outputs or ("predict",)}
        return {name: self._outputs[name](rows) for name in outputs or ("predict",)}

    def unload(self) -> None:
        """Let the model go."""
        self.model = None
        self._outputs = EMPTY

    # -- loading --

    def _fetch(self, catboost: Any) -> tuple[Any, tuple[str, ...]]:
        """The model, and what was said while it was read."""
        path = self.source.path
        if path is None:
            return self.source.model, ()
        kind = _format(path)
        if not kind:
            loaded = pickles.load_with_warnings(path, self.source.allowed_globals)
            if self.recognise_object(loaded.model) is None:
                raise LoadFailed(f"{path} holds a {type(loaded.model).__name__}; expected a CatBoost model")
            return loaded.model, tuple(str(each) for each in loaded.warnings)
        try:
            plain = catboost.CatBoost()
            plain.load_model(str(path), format=kind)
            loss = str(plain.get_all_params().get("loss_function", "")).partition(":")[0]
            wanted = catboost.CatBoostRegressor
            if loss in _CLASSIFIERS:
                wanted = catboost.CatBoostClassifier
            elif loss in _RANKERS:
                wanted = catboost.CatBoostRanker
            model = wanted()
            model.load_model(str(path), format=kind)
        except catboost.CatBoostError as error:
            raise LoadFailed(f"{path}: CatBoost cannot read it: {error}") from error
        return model, ()

    def _inputs(self) -> tuple[TensorSpec, ...]:
        if not self._columns:
            return self._features.inputs()
        return tuple(
            TensorSpec(name=name, datatype="BYTES" if position in self._columns else "FP32", shape=(-1,))
            for position, name in enumerate(self._features.names)
        )

    def _described(self) -> list[TensorSpec]:
        """The outputs' datatypes and shapes, from the answer to one row."""
        row: Array = np.zeros((1, self._features.width), np.float32)
        if self._columns:
            row = row.astype(np.object_)
            row[:, list(self._columns)] = "0"
        specs = []
        classes = tuple(map(str, np.asarray(self.model.classes_).tolist())) if "predict_proba" in self._outputs else ()
        for name, output in self._outputs.items():
            answer = output(row)
            self._none[name] = answer[:0]
            specs.append(
                TensorSpec(
                    name=name,
                    datatype=datatype_of(answer),
                    shape=(-1, *answer.shape[1:]),
                    labels=classes if answer.ndim == 2 and len(classes) == answer.shape[1] else (),
                )
            )
        return specs

    def _mixed(self, inputs: Values) -> Array:
        """Rows of numbers, categories and texts, as an object array."""
        if len(inputs) == 1 and self._features.width > 1:
            ((name, value),) = inputs.items()
            raise InvalidRequest(
                f"input {name!r} came alone, with shape {list(value.shape)}; expected one input for each column: "
                f"{', '.join(self._features.names)}, as some are categories"
            )
        columns = self._features.columns(inputs)
        rows = np.empty((len(columns[0]), self._features.width), np.object_)
        for position, column in enumerate(columns):
            name = self._features.names[position]
            kind = self._columns.get(position)
            if kind is None:
                if column.dtype.kind not in "biuf":
                    raise InvalidRequest(f"column {name!r} is {datatype_of(column)}; expected numbers")
                rows[:, position] = column.tolist()
            elif column.dtype.kind in "OSU":
                values = [text_of(value) for value in column.tolist()]
                if None in values:
                    raise InvalidRequest(f"column {name!r} has a missing value; a {kind} feature has none")
                rows[:, position] = values
            elif column.dtype.kind in "iub" and kind == "categorical":
                rows[:, position] = column.tolist()
            else:
                wanted = "text (BYTES) or whole numbers" if kind == "categorical" else "text (BYTES)"
                raise InvalidRequest(f"column {name!r} is {datatype_of(column)}; a {kind} feature takes {wanted}")
        return rows


def _format(path: Path) -> str:
    """`cbm`, `json`, or empty."""
    with path.open("rb") as file:
        head = file.read(256)
        if head.startswith(_MAGIC):
            return "cbm"
        if not _JSON.match(head):
            return ""
        file.seek(max(0, path.stat().st_size - _EDGE))
        return "json" if _JSON_END.search(file.read()) else ""


def _features(model: Any) -> Features:
    names = tuple(model.feature_names_)
    unnamed = names == tuple(map(str, range(len(names))))
    mixed = model.get_cat_feature_indices() or model.get_text_feature_indices()
    return Features(
        width=len(names), names=() if unnamed and not mixed else names, datatype="FP32", ignores_others=True
    )


def _outputs(model: Any, threads: int) -> Mapping[str, Callable[[Any], Array]]:
    def predict(rows: Any) -> Array:
        answer = np.asarray(model.predict(rows, thread_count=threads))
        if answer.ndim == 2 and answer.shape[1] == 1:
            answer = answer[:, 0]
        return labels_of(answer) if answer.dtype.kind in "OSU" else answer

    def predict_proba(rows: Any) -> Array:
        return np.asarray(model.predict_proba(rows, thread_count=threads))

    return (
        {"predict": predict, "predict_proba": predict_proba}
        if hasattr(model, "predict_proba")
        else {"predict": predict}
    )
