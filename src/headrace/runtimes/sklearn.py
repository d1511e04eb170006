"""scikit-learn estimators: `.joblib .pkl .pickle .skops` files, plain or compressed, and estimators in memory.

Outputs are the estimator's methods, by their names: `predict`, `predict_proba`, `decision_function`, `transform`, those
it has. A model with several targets answers `predict_proba_<i>` for each; a transformer that gives a DataFrame answers
each of its columns by name as well, in its own datatype. The default output is `predict`; an estimator
that cannot predict answers `transform`.

Inputs are what it was fitted on. Fitted on an array: one input `input-0` of shape [-1, features]; whatever numeric
datatype comes is passed on as it is. Fitted on a DataFrame: one input a column; the columns as one tensor, in the order
of fitting, are taken as well. Fitted on texts: one input `input-0` of BYTES [-1].

Parameters: `default_outputs`, a list of output names; `sample`, one row of values that the model takes, in the order of
fitting, for a model that refuses the rows which `load` makes up to learn what the outputs look like;
`accept_version_mismatch`, consent to serve a file that `runtimes.versions` or golden rows (`runtimes.golden`) say this
installation answers wrongly.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import importlib.abc
import importlib.machinery
import importlib.metadata
import json
import sys
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Final

import numpy as np

from headrace.errors import (
    HeadraceError,
    InvalidRequest,
    LoadFailed,
    SettingsError,
    UnsafeArtifact,
    VersionMismatch,
    unknown_key,
)
from headrace.payload import DTYPES, EMPTY, Array, Signature, TensorSpec, datatype_of
from headrace.runtimes import golden, pickles, versions
from headrace.runtimes.base import Recognition, Runtime, Source, Values, check_parameters, missing_extra

METHODS: Final = ("predict", "predict_proba", "decision_function", "transform")
PARAMETERS: Final = ("default_outputs", "sample", "accept_version_mismatch")
INPUT: Final = "input-0"
"""The name of the one input of a model that knows no names."""

_OTHERS: Final = frozenset({"xgboost", "lightgbm", "catboost", "mlflow", "torch", "builtins", "numpy", "pandas"})
_OPTIONS: Final = ("multi_class", "solver", "algorithm")
_Output = tuple[TensorSpec, str, Callable[[Any], Array]]
"""What an output is, the method that gives it, and what turns the method's answer into its array."""


class _LatePandas(importlib.abc.MetaPathFinder):
    """Finds pandas once scikit-learn is there, and gives it what scikit-learn asks of it from the first moment on.

    scikit-learn takes pandas for loaded as soon as it is in `sys.modules`, and asks it for `DataFrame`: a model that
    predicts while another thread imports pandas would fail. Until the real classes are there, nothing is one of them.
    """

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Of pandas, as the path has it; None: of anything else."""
        if name != "pandas":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                for each in ("DataFrame", "Series"):
                    setattr(module, each, type(each, (), {}))
                execute(module)

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


class SklearnRuntime(Runtime):
    """A fitted estimator. `predict` costs what the estimator's own method costs, and some microseconds."""

    extra: ClassVar[str] = "sklearn"
    optimizable: bool = True

    def __init__(self, source: Source) -> None:
        super().__init__(source)
        self.model: Any = None
        """The fitted estimator as it is served, once loaded: what `runtimes.optimize` looks at."""
        self._arrange: Callable[[Values], Any] = _not_loaded
        self._outputs: dict[str, _Output] = {}
        self._defaults: tuple[str, ...] = ()

    @classmethod
    def prepare(cls) -> None:
        """Import scikit-learn without pandas, which it imports wherever it finds it and needs only for DataFrames: a
        third of the import's time and a fifth of its memory. Whoever asks for pandas afterwards gets it.
        """
        if "pandas" in sys.modules:
            return
        if not any(isinstance(finder, _LatePandas) for finder in sys.meta_path):
            sys.meta_path.insert(0, _LatePandas())
        if "sklearn" in sys.modules:
            return
        sys.modules["pandas"] = None  # type: ignore[assignment]  # what the import system takes for "not installed"
        try:
            with contextlib.suppress(ImportError):  # not installed, or a release that cannot do without
                import sklearn.utils.fixes  # noqa: F401 - where it looks for pandas
        finally:
            del sys.modules["pandas"]

    @classmethod
    def recognise(cls, path: Path) -> Recognition | None:
        """A pickle, joblib or skops file that names scikit-learn, unless another framework's object is outermost."""
        if not path.is_file():
            return None
        if zipfile.is_zipfile(path):
            return _recognise_skops(path)
        contents = pickles.inspect(path)
        top = contents.root.partition(".")[0]
        if top == "sklearn":
            return Recognition(f"pickle of {contents.root}")
        if top and top not in _OTHERS and any(name.startswith("sklearn.") for name in contents.globals):
            return Recognition(f"pickle of {contents.root}, which names scikit-learn", 0.5)
        return None

    @classmethod
    def recognise_object(cls, model: Any) -> Recognition | None:
        """An instance of a scikit-learn class, or of a class derived from one."""
        kind = type(model)
        name = f"{kind.__module__}.{kind.__qualname__}"
        if kind.__module__.partition(".")[0] == "sklearn":
            return Recognition(f"an instance of {name}")
        if any(base.__module__.partition(".")[0] == "sklearn" for base in kind.__mro__):
            return Recognition(f"an instance of {name}, derived from scikit-learn", 0.5)
        return None

    def load(self) -> Signature:
        """Load, check the version that wrote the file, and ask two made-up rows what each output looks like.

        Raises:
            MissingExtra: scikit-learn, or what the file needs beside it, is not installed.
            UnsafeArtifact: the file names what the load policy refuses.
            VersionMismatch: this installation would answer wrongly.
            LoadFailed: the file holds no fitted estimator that answers new rows.
            SettingsError: a parameter is not known, or names an output that is not there.
        """
        check_parameters(self.source.parameters, PARAMETERS, runtime="sklearn")
        try:
            import sklearn
        except ModuleNotFoundError as error:
            raise missing_extra("scikit-learn", "sklearn", needed_by=self._name()) from error
        model, written = self._open(sklearn.__version__)
        if not any(hasattr(model, method) for method in METHODS):
            raise LoadFailed(
                f"{self._name()} is {_article(model)}, which has none of the methods {', '.join(METHODS)}; "
                "save the fitted estimator itself, or write a Python runtime class"
            )
        verdict = versions.judge(written, sklearn.__version__)
        self.model = _single_threaded(model, ours=self.source.path is not None)
        try:
            inputs, arrange, made_up = _describe_inputs(self.model)
            floats = _floats(self.model)
            self._arrange = arrange if floats is None else lambda values: arrange(_cast(values, floats))
            sample = self.source.parameters.get("sample")
            candidates = made_up if sample is None else [_sample(inputs, sample)]
            told_nothing = isinstance(arrange, _Anything) and sample is None and not (verdict.wrong or verdict.warning)
            self._outputs, unlearned = self._learn_outputs(candidates, presume=told_nothing)
        except HeadraceError:
            raise
        except Exception as error:
            raise self._cannot_answer(error, verdict) from error
        self._defaults = self._choose_defaults()
        notes, properties = self._check(verdict)
        return Signature(
            platform="sklearn",
            inputs=inputs,
            outputs=tuple(spec for spec, _, _ in self._outputs.values()),
            default_outputs=self._defaults,
            strict=False,
            libraries=_installed(self.model),
            warnings=(*notes, *unlearned),
            properties=properties,
        )

    def predict(self, inputs: Values, outputs: Sequence[str] = (), parameters: Mapping[str, Any] = EMPTY) -> Values:
        """Answer a batch with the estimator's own methods.

        Raises:
            InvalidRequest: wrong columns, or input that the estimator refuses (NaN where it takes none).
        """
        rows = self._arrange(inputs)
        answers: dict[str, Array] = {}
        method, answer = "", None
        for name in outputs or self._defaults:
            if name not in self._outputs:
                raise InvalidRequest(f"unknown output {name!r}; the model's outputs are {', '.join(self._outputs)}")
            _, wanted, convert = self._outputs[name]
            if wanted != method:  # outputs of one method follow one another: it is called once
                method, answer = wanted, _call(self.model, wanted, rows)
            answers[name] = convert(answer)
        return answers

    def unload(self) -> None:
        """Let the estimator go."""
        self.model = None
        self._arrange = _not_loaded
        self._outputs = {}

    # -- the steps of load --

    def _name(self) -> str:
        return str(self.source.path) if self.source.path is not None else type(self.source.model).__name__

    def _open(self, installed: str) -> tuple[Any, list[versions.Written]]:
        """The estimator, and who wrote each part of it."""
        path = self.source.path
        if path is None:
            return self.source.model, []
        try:
            if zipfile.is_zipfile(path):
                loaded = _load_skops(path, self.source.allowed_globals)
            else:
                loaded = pickles.load_with_warnings(path, self.source.allowed_globals)
        except UnsafeArtifact:
            raise
        except LoadFailed as error:
            told = {version for version in pickles.inspect(path).versions.values() if version != installed}
            if not told:
                raise
            raise VersionMismatch(_advice(str(path), min(told, key=versions.parse), installed, str(error))) from error
        return loaded.model, _written(loaded)

    def _cannot_answer(self, error: Exception, verdict: versions.Verdict) -> LoadFailed:
        """Why a model that came into memory answers nothing."""
        from sklearn.exceptions import NotFittedError

        if isinstance(error, NotFittedError):
            return LoadFailed(f"{self._name()} is not fitted: {error}")
        said = f"{type(error).__name__}: {error}"
        if verdict.wrong or verdict.warning:
            return VersionMismatch(
                f"{self._name()} loads but cannot answer ({said}): {verdict.wrong or verdict.warning}"
            )
        return LoadFailed(
            f"{self._name()} loads but cannot answer: {said}; if it only refuses made-up rows, give it one it takes: "
            "`parameters: {sample: [...]}`"
        )

    def _learn_outputs(
        self, candidates: Sequence[Values], *, presume: bool
    ) -> tuple[dict[str, _Output], tuple[str, ...]]:
        """What the outputs look like, from the first rows that the model takes, and warnings.

        Args:
            candidates: Made-up rows.
            presume: Where it takes none, go by what its methods usually answer: a person's own transformer may look
                for columns by name, and nobody but its callers knows which.
        """
        from sklearn.exceptions import NotFittedError

        refused: list[Exception] = []
        for rows in candidates:
            try:
                found = _describe_outputs(self.model, self._arrange(rows))
                return {output[0].name: output for output in found}, ()
            except (ValueError, IndexError) as error:  # a model may want positive numbers, say, or more columns
                refused.append(error)
            except Exception as error:
                if not presume:
                    raise
                refused.append(error)
                break
        first = refused[0]
        if not presume or isinstance(first, NotFittedError):
            raise first
        said = f"{type(first).__name__}: {str(first).partition(chr(10))[0][:200]}"
        outputs = {output[0].name: output for output in _presumed_outputs(self.model)}
        return outputs, (f"what it takes is not known before it is asked: it takes no made-up rows ({said})",)

    def _choose_defaults(self) -> tuple[str, ...]:
        wanted = self.source.parameters.get("default_outputs")
        if wanted is not None:
            names = (wanted,) if isinstance(wanted, str) else tuple(wanted)
            for name in names:
                if name not in self._outputs:
                    raise unknown_key(str(name), self._outputs, where="parameters.default_outputs of an sklearn model")
            return names
        return ("predict",) if "predict" in self._outputs else tuple(self._outputs)[:1]

    def _check(self, verdict: versions.Verdict) -> tuple[tuple[str, ...], Mapping[str, str]]:
        """Warnings and properties for the signature, once the file may be served."""
        consent = bool(self.source.parameters.get("accept_version_mismatch", False))
        path = None if self.source.path is None else golden.find_golden(self.source.path)
        if path is not None:
            check = golden.check_golden(path, self.predict)
            if not check.difference:
                return (), {"golden": f"{check.rows} rows of {path.name} answered as they were"}
            problem = f"golden rows of {path.name}: {check.difference}" + (
                f" ({verdict.wrong})" if verdict.wrong else ""
            )
        else:
            problem = verdict.wrong
        if not problem:
            return ((verdict.warning,) if verdict.warning else ()), EMPTY
        if not consent:
            raise VersionMismatch(
                f"{self._name()}: {problem}; or consent to that: `parameters: {{accept_version_mismatch: true}}`"
            )
        return (f"served by consent: {problem}",), EMPTY


# -- opening --


def _recognise_skops(path: Path) -> Recognition | None:
    try:
        with zipfile.ZipFile(path) as archive:
            schema = json.loads(archive.read("schema.json"))
        root = f"{schema['__module__']}.{schema['__class__']}"
    except (KeyError, ValueError, TypeError, OSError, zipfile.BadZipFile, NotImplementedError):
        return None
    if root.partition(".")[0] in _OTHERS:
        return None
    return Recognition(f"skops file of {root}", 1.0 if root.startswith("sklearn.") else 0.5)


def _load_skops(path: Path, allowed: tuple[str, ...] | None) -> pickles.Loaded:
    try:
        import skops.io
    except ModuleNotFoundError as error:
        raise missing_extra("skops", "skops", needed_by=str(path)) from error
    with pickles.recorded_warnings() as caught:
        try:
            # skops runs nothing it does not know; types beyond that need a person's word, or that of the load policy.
            unknown = skops.io.get_untrusted_types(file=path)
            refused = [] if allowed is None else [name for name in unknown if name not in allowed]
            model = None if refused else skops.io.load(path, trusted=unknown)
        except ModuleNotFoundError as error:
            raise pickles.missing_module(path, error) from error
        except Exception as error:
            raise LoadFailed(f"{path} cannot be read by skops: {type(error).__name__}: {error}") from error
    if refused:
        raise UnsafeArtifact(
            f"{path} names {', '.join(refused)}, which the load policy refuses; if you trust whoever made the file, "
            "set `load_policy: trusted` (of a command: `--load-policy trusted`)"
        )
    return pickles.Loaded(model, tuple(caught))


def _written(loaded: pickles.Loaded) -> list[versions.Written]:
    """The estimators that another version wrote, from the warnings that rebuilding them gave."""
    by_name = {
        str(warning.estimator_name): str(warning.original_sklearn_version)
        for warning in loaded.warnings
        if hasattr(warning, "original_sklearn_version") and hasattr(warning, "estimator_name")
    }
    if not by_name:
        return []
    found = [
        versions.Written(name=type(part).__name__, version=by_name[type(part).__name__], options=_options(part))
        for part in _parts(loaded.model)
        if type(part).__name__ in by_name
    ]
    unseen = by_name.keys() - {written.name for written in found}
    return found + [versions.Written(name=name, version=by_name[name]) for name in sorted(unseen)]


def _options(part: Any) -> Mapping[str, object]:
    held = vars(part)
    options: dict[str, object] = {name: held[name] for name in _OPTIONS if isinstance(held.get(name), str)}
    if "classes_" in held:
        options["classes"] = len(held["classes_"])
    return options


def _advice(what: str, written: str, installed: str, said: str) -> str:
    return (
        f"{what} was written by scikit-learn {written} and {installed} is installed, which cannot read it ({said}); "
        f"install scikit-learn=={written}, or save the model again with {installed}"
    )


def _parts(model: Any) -> Iterator[Any]:
    """Every estimator in a model, itself included; of the members of an ensemble, the first of each class."""
    from sklearn.base import BaseEstimator

    seen: set[int] = set()
    waiting = [model]
    while waiting:
        part = waiting.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        if isinstance(part, BaseEstimator):
            yield part
            waiting.extend(vars(part).values())
        elif type(part).__module__.startswith("sklearn.") and hasattr(part, "__dict__"):  # holders, not estimators
            waiting.extend(vars(part).values())
        elif isinstance(part, dict):
            waiting.extend(part.values())
        elif isinstance(part, (list, tuple)):
            waiting.extend(_first_of_each_class(part))
        elif isinstance(part, np.ndarray) and part.dtype == object:
            waiting.extend(_first_of_each_class(part.ravel()[:10_000].tolist()))


def _first_of_each_class(items: Sequence[Any]) -> list[Any]:
    """The items, but of a forest's thousand trees only the first of each class."""
    kept: dict[Any, Any] = {}
    for item in items:
        kept.setdefault(type(item) if type(item).__module__.startswith("sklearn.tree.") else id(item), item)
    return list(kept.values())


def _single_threaded(model: Any, *, ours: bool) -> Any:
    """The model with every `n_jobs` at 1: starting joblib's threads costs a row more than the work they share.

    A person's own object in memory is copied before it is changed.
    """

    def busy(whole: Any) -> list[Any]:
        return [part for part in _parts(whole) if vars(part).get("n_jobs") not in {None, 1}]

    if not busy(model):
        return model
    model = model if ours else copy.deepcopy(model)
    for part in busy(model):
        part.n_jobs = 1
    return model


def _installed(model: Any) -> Mapping[str, str]:
    """The libraries whose code answers."""
    names = {"scikit-learn": "sklearn", "numpy": "numpy", "scipy": "scipy"}
    tops = {type(part).__module__.partition(".")[0] for part in _parts(model)}
    names |= {top: top for top in ("xgboost", "lightgbm", "catboost") if top in tops}
    return {name: str(importlib.import_module(module).__version__) for name, module in names.items()}


# -- inputs --


_FILLERS: Final = (0.0, 1.0, 0.5)
_MOST_COLUMNS_TRIED: Final = 64
"""Of a model that does not say how many it takes."""
_Inputs = tuple[tuple[TensorSpec, ...], Callable[[Values], Any], list[dict[str, Array]]]
"""The inputs, what arranges them for the estimator, and made-up rows to try it with, two at a time."""


def _describe_inputs(model: Any) -> _Inputs:
    names = getattr(model, "feature_names_in_", None)
    count = getattr(model, "n_features_in_", None)
    if names is not None:
        return _describe_columns(model, [str(name) for name in names])
    if _reads_text(_first_step(model)):
        return (
            (TensorSpec(name=INPUT, datatype="BYTES", shape=(-1,)),),
            _Vector(texts=True),
            [{INPUT: _encode(np.array(["a", "b"]))}],
        )
    if count is not None:
        return _describe_matrix(model, int(count))
    if hasattr(model, "classes_") and not hasattr(model, "predict"):  # LabelEncoder and LabelBinarizer transform labels
        labels = _encode(np.resize(np.asarray(model.classes_), 2))
        return (
            (TensorSpec(name=INPUT, datatype=datatype_of(labels), shape=(-1,)),),
            _Vector(texts=False),
            [{INPUT: labels}],
        )
    # A person's own transformer need not say how many columns it takes; what comes after it often takes as many.
    specs = (TensorSpec(name=INPUT, datatype="FP64", shape=(-1, -1)),)
    widths = dict.fromkeys([*_widths(model), *range(1, _MOST_COLUMNS_TRIED + 1)])
    made_up = [{INPUT: np.full((2, width), filler)} for width in widths for filler in _FILLERS]
    return specs, _Anything(), made_up


def _widths(model: Any) -> Iterator[int]:
    """How many columns the parts of a model take, those that say so."""
    for part in _parts(model):
        width = getattr(part, "n_features_in_", None)
        if width is not None:
            yield int(width)


def _describe_matrix(model: Any, count: int) -> _Inputs:
    names = [str(index) for index in range(count)]
    known = _categories(model, names)
    texts = any(values.dtype.kind in "OUS" for values in known.values())
    made_up: list[dict[str, Array]] = []
    for filler in _FILLERS:
        row = [known[name][0] if name in known and len(known[name]) else filler for name in names]
        made_up.append({INPUT: _encode(np.array([row] * 2, dtype=object if texts else np.float64))})
    spec = TensorSpec(name=INPUT, datatype="BYTES" if texts else "FP64", shape=(-1, count))
    return (spec,), _Matrix(count, texts=texts), made_up


def _describe_columns(model: Any, names: list[str]) -> _Inputs:
    try:
        import pandas as pd
    except ModuleNotFoundError as error:
        raise missing_extra("pandas", "pandas", needed_by="a model fitted on a DataFrame") from error
    known = _categories(model, names)
    specs: list[TensorSpec] = []
    made_up: list[dict[str, Array]] = [{} for _ in _FILLERS]
    for name in names:
        seen = known.get(name, np.empty(0))
        text = seen.dtype.kind in "OUS"
        specs.append(TensorSpec(name=name, datatype="BYTES" if text else "FP64", shape=(-1,)))
        for rows, filler in zip(made_up, _FILLERS, strict=True):
            value = seen[0] if len(seen) else "" if text else filler
            rows[name] = _encode(np.array([value] * 2, dtype=object if text else np.float64))
    ignores_others = hasattr(_first_step(model), "transformers_")  # a ColumnTransformer takes the columns it knows
    arrange = _Frame(pd.DataFrame, pd.Index(names), names, ignores_others=ignores_others)
    return tuple(specs), arrange, made_up


def _sample(inputs: Sequence[TensorSpec], row: Any) -> dict[str, Array]:
    """A person's sample row, twice, as the inputs it stands for."""
    width = len(inputs) if len(inputs) > 1 or len(inputs[0].shape) == 1 else inputs[0].shape[1]
    if not isinstance(row, (list, tuple)) or (width >= 0 and len(row) != width):
        raise SettingsError(f"parameters.sample of an sklearn model: expected a list of {width} values, came {row!r}")
    if len(inputs) == 1 and len(inputs[0].shape) == 2:
        return {inputs[0].name: _encode(np.array([row] * 2, dtype=DTYPES[inputs[0].datatype]))}
    return {
        spec.name: _encode(np.array([value] * 2, dtype=DTYPES[spec.datatype]))
        for spec, value in zip(inputs, row, strict=True)
    }


def _floats(model: Any) -> np.dtype[Any] | None:
    """The one kind of floats that the model takes: KMeans and its kin refuse others than they were fitted on."""
    for part in _parts(model):
        centers = getattr(part, "cluster_centers_", None)
        if centers is not None and any(base.__name__ == "_BaseKMeans" for base in type(part).__mro__):
            return np.asarray(centers).dtype
    return None


def _cast(values: Values, floats: np.dtype[Any]) -> Values:
    return {
        name: value.astype(floats) if isinstance(value, np.ndarray) and value.dtype.kind == "f" else value
        for name, value in values.items()
    }


def _first_step(model: Any) -> Any:
    """What sees the input first."""
    while True:
        if hasattr(model, "steps"):
            steps = [step for _, step in model.steps if step not in {None, "passthrough"}]
            if not steps:
                return model
            model = steps[0]
        elif hasattr(model, "best_estimator_"):
            model = model.best_estimator_
        else:
            return model


def _reads_text(step: Any) -> bool:
    return any(
        base.__module__ == "sklearn.feature_extraction.text" and base.__name__ == "_VectorizerMixin"
        for base in type(step).__mro__
    )


def _categories(model: Any, names: list[str]) -> dict[str, Array]:
    """By column: values that its preprocessor has seen, where it keeps them; text columns are known by theirs."""
    step = _first_step(model)
    step = getattr(step, "_preprocessor", None) or step  # HistGradientBoosting encodes its own categories
    if _reads_text(step):
        return dict.fromkeys(names, np.array(["a"], dtype=object))
    if hasattr(step, "transformers_"):
        found: dict[str, Array] = {}
        for _, inner, columns in step.transformers_:
            if not isinstance(inner, str):
                picked = _pick(names, columns)
                found |= _categories(inner, picked)
        return found
    if hasattr(step, "categories_"):
        return dict(zip(names, map(np.asarray, step.categories_), strict=False))
    statistics = getattr(step, "statistics_", None)
    if isinstance(statistics, np.ndarray) and statistics.dtype == object:
        # The rest of the pipeline, an encoder, knows the categories; without one, what fills a gap is of the kind.
        later = [part for _, part in getattr(model, "steps", [])[1:] if hasattr(part, "categories_")]
        if later:
            return dict(zip(names, map(np.asarray, later[0].categories_), strict=False))
        return {
            name: np.array([value], dtype=object if isinstance(value, str) else np.float64)
            for name, value in zip(names, statistics, strict=False)
        }
    return {}


def _pick(names: list[str], columns: Any) -> list[str]:
    """The names that a ColumnTransformer's selection means."""
    if isinstance(columns, slice):
        return names[columns]
    picked = np.asarray(columns).reshape(-1)
    if picked.dtype == bool:
        return [name for name, taken in zip(names, picked, strict=True) if taken]
    return [str(item) if isinstance(item, str) else names[int(item)] for item in picked.tolist()]


class _Matrix:
    """Inputs as one array of a known width."""

    def __init__(self, width: int | None, *, texts: bool) -> None:
        self.width = width
        self.texts = texts

    def __call__(self, inputs: Values) -> Any:
        if len(inputs) == 1:
            ((name, array),) = inputs.items()
            array = array if isinstance(array, np.ndarray) else np.asarray(array)
            if array.ndim == 1 and self.width in {1, None}:
                array = array[:, np.newaxis]
        elif self.width is not None and len(inputs) == self.width:
            name, array = "columns", np.column_stack(_columns(inputs, inputs))
        else:
            came = ", ".join(map(repr, inputs)) or "none"
            raise InvalidRequest(f"expected one input of shape [-1, {self._width()}], came {came}")
        if array.ndim != 2 or self.width not in {array.shape[1], None}:
            raise InvalidRequest(f"input {name!r} has shape {list(array.shape)}, expected [-1, {self._width()}]")
        if array.dtype.kind in "biuf":
            return array
        if not self.texts:
            raise InvalidRequest(f"input {name!r} has datatype BYTES, expected numbers")
        return _decode(name, array)

    def _width(self) -> int:
        return -1 if self.width is None else self.width


class _Anything:
    """Inputs of a model that says nothing of them: one is the rows, several are columns of a DataFrame."""

    def __call__(self, inputs: Values) -> Any:
        if len(inputs) == 1:
            (value,) = inputs.values()
            return value if hasattr(value, "iloc") else _Matrix(None, texts=True)(inputs)
        try:
            import pandas as pd
        except ModuleNotFoundError as error:
            raise missing_extra("pandas", "pandas", needed_by="a model that is asked with columns") from error
        columns = zip(inputs, _columns(inputs, inputs), strict=True)
        return pd.DataFrame({name: _decode(name, column) for name, column in columns})


class _Vector:
    """One input of one dimension: texts, or the labels that an encoder was fitted on."""

    def __init__(self, *, texts: bool) -> None:
        self.texts = texts

    def __call__(self, inputs: Values) -> Any:
        if len(inputs) != 1:
            raise InvalidRequest(f"expected one input of shape [-1], came {', '.join(map(repr, inputs)) or 'none'}")
        ((name, value),) = inputs.items()
        column = _column(name, value)
        if self.texts and column.dtype.kind not in "OUS":
            raise InvalidRequest(f"input {name!r} has dtype {column.dtype}, expected BYTES")
        return _decode(name, column)


class _Frame:
    """Inputs as a DataFrame with the columns that the model was fitted on."""

    def __init__(self, frame: Any, index: Any, names: list[str], *, ignores_others: bool) -> None:
        self.frame = frame
        self.ignores_others = ignores_others
        self.index = index
        self.names = names
        self.known = frozenset(names)

    def __call__(self, inputs: Values) -> Any:
        if inputs.keys() == self.known:
            columns = _columns(inputs, self.names)
            if len({column.dtype for column in columns}) == 1 and columns[0].dtype != object:
                return self.frame(np.stack(columns, axis=1), columns=self.index, copy=False)  # a tenth of the time
            texts = {name: _decode(name, column) for name, column in zip(self.names, columns, strict=True)}
            return self.frame(texts, copy=False)
        if len(inputs) == 1:
            ((name, value),) = inputs.items()
            if hasattr(value, "iloc"):
                return value
            array = np.asarray(value)
            if array.ndim == 1 and len(self.names) == 1:
                array = array[:, np.newaxis]
            if array.ndim == 2 and array.shape[1] == len(self.names):
                return self.frame(_decode(name, array), columns=self.index, copy=False)
            if name not in self.known:
                raise InvalidRequest(
                    f"input {name!r} has shape {list(array.shape)}; expected the columns {', '.join(self.names)}, each "
                    f"an input of its own or together as [-1, {len(self.names)}]"
                )
        missing = [name for name in self.names if name not in inputs]
        unknown = [name for name in inputs if name not in self.known]
        if self.ignores_others and not missing:
            return self({name: inputs[name] for name in self.names})
        told = [f"missing: {', '.join(missing)}"] if missing else []
        told += [f"unknown: {', '.join(unknown)}"] if unknown else []
        raise InvalidRequest(f"the inputs are not the columns that the model was fitted on; {'; '.join(told)}")


def _columns(inputs: Values, names: Iterable[str]) -> list[Array]:
    """Columns in the order of these names, all of one length."""
    columns = [_column(name, inputs[name]) for name in names]
    if len({len(column) for column in columns}) > 1:
        came = ", ".join(f"{name}: {len(column)}" for name, column in zip(names, columns, strict=True))
        raise InvalidRequest(f"the columns have different numbers of rows ({came})")
    return columns


def _column(name: str, value: Any) -> Array:
    array = value if isinstance(value, np.ndarray) else np.asarray(value)
    if array.ndim == 2 and array.shape[1] == 1:
        return array[:, 0]
    if array.ndim != 1:
        raise InvalidRequest(f"input {name!r} has shape {list(array.shape)}, expected [-1] or [-1, 1]")
    return array


def _decode(name: str, array: Array) -> Array:
    """BYTES as text; anything else as it is."""
    if array.dtype != object:
        return array
    texts = np.empty(array.shape, dtype=object)
    try:
        texts.reshape(-1)[:] = [item.decode() if isinstance(item, bytes) else item for item in array.ravel()]
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"input {name!r} holds bytes that are no UTF-8 text: {error.reason}") from error
    return texts


# -- outputs --


def _describe_outputs(model: Any, rows: Any) -> Iterator[_Output]:
    """Each output's spec, method and conversion, from what the method answers to the made-up rows."""
    classes = getattr(model, "classes_", None)
    for method in METHODS:
        if not hasattr(model, method):
            continue
        answer = _call(model, method, rows, load=True)
        if isinstance(answer, list):  # one array a target
            for index, part in enumerate(answer):
                labels = _labels(classes[index]) if isinstance(classes, list) else ()
                convert = _part(index)
                yield _spec(f"{method}_{index}", convert(answer), np.asarray(part).shape[-1], labels), method, convert
            continue
        if method == "transform" and hasattr(answer, "columns") and hasattr(answer, "iloc"):
            yield from _describe_table(answer)
            continue
        array = _array(answer)
        known = (
            ()
            if isinstance(classes, list) or classes is None or method in {"predict", "transform"}
            else _labels(classes)
        )
        width = array.shape[1] if array.ndim == 2 else 0
        yield _spec(method, array, width, known), method, _array


def _presumed_outputs(model: Any) -> Iterator[_Output]:
    """Each output of a model that cannot be tried, as its method usually answers."""
    classes = getattr(model, "classes_", None)
    known = _encode(np.asarray(classes)) if classes is not None and not isinstance(classes, list) else None
    for method in METHODS:
        if not hasattr(model, method):
            continue
        if method == "predict":
            datatype = "FP64" if known is None else datatype_of(known)
            yield TensorSpec(name=method, datatype=datatype, shape=(-1,)), method, _array
        elif method == "predict_proba" and known is not None:
            labels = _labels(classes)
            yield TensorSpec(name=method, datatype="FP64", shape=(-1, len(labels)), labels=labels), method, _array
        else:
            yield TensorSpec(name=method, datatype="FP64", shape=(-1, -1)), method, _array


def _describe_table(table: Any) -> Iterator[_Output]:
    """A transformer's DataFrame: the whole of it, and each column as an output of its own."""
    names = tuple(map(str, table.columns))
    array = _array(table)
    yield _spec("transform", array, len(names), names), "transform", _array
    for position, name in enumerate(names):
        if name not in METHODS and names.count(name) == 1:
            convert = _nth(position)
            yield _spec(name, convert(table), 0, ()), "transform", convert


def _nth(position: int) -> Callable[[Any], Array]:
    return lambda table: _array(table.iloc[:, position])


def _spec(name: str, array: Array, width: int, labels: tuple[str, ...]) -> TensorSpec:
    shape = (-1, *array.shape[1:])
    return TensorSpec(
        name=name, datatype=datatype_of(array), shape=shape, labels=labels if len(labels) == width else ()
    )


def _labels(classes: Any) -> tuple[str, ...]:
    return tuple(str(label) for label in np.asarray(classes).tolist())


def _part(index: int) -> Callable[[Any], Array]:
    return lambda answer: _array(answer[index])


def _array(answer: Any) -> Array:
    """An estimator's answer as an array that a datatype carries."""
    if isinstance(answer, np.ndarray) and answer.dtype.kind in "fiub":
        return answer
    if hasattr(answer, "toarray"):  # sparse
        return np.asarray(answer.toarray())
    array = np.asarray(answer.to_numpy() if hasattr(answer, "to_numpy") else answer)
    return _encode(array) if array.dtype.kind in "OUS" else array


def _encode(array: Array) -> Array:
    """Text and objects as BYTES; other arrays as they are."""
    if array.dtype.kind not in "OUS":
        return array
    encoded = np.empty(array.size, dtype=object)
    encoded[:] = [item if isinstance(item, bytes) else str(item).encode() for item in array.ravel().tolist()]
    return encoded.reshape(array.shape)


def _call(model: Any, method: str, rows: Any, *, load: bool = False) -> Any:
    try:
        return getattr(model, method)(rows)
    except ValueError as error:
        if load:
            raise
        raise InvalidRequest(f"the model refuses the input: {error}") from error
    except TypeError as error:
        # Text among numbers and the like: the caller's, where the input can hold such a thing.
        if load or getattr(getattr(rows, "dtype", None), "kind", "O") != "O":
            raise
        raise InvalidRequest(f"the model refuses the input: {error}") from error


def _article(model: Any) -> str:
    return f"a {type(model).__module__}.{type(model).__qualname__}"


def _not_loaded(_: Values) -> Any:
    raise LoadFailed("predict was called before load, or after unload")
