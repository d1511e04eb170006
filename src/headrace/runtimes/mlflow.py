"""MLflow models: a folder with `MLmodel`, answered by its `python_function` flavor.

The signature becomes tensors: a column is an input of shape [-1] (`string` BYTES, `datetime` BYTES with content type
`datetime`, `binary` BYTES, arrays and objects BYTES of a JSON text for each row, numbers as they are), a tensor is an
input of its shape; what has no name is `input-0`. Params are request parameters. Without a signature the names of
the input example or of the model's own features are used; failing that, any columns are taken. Outputs: a DataFrame or
dict is an output for each name, anything else is `predict` or the one name that the signature has.

What the model has no name for is passed over where nothing is missing, as MLflow does. As many columns as a tensor
without a name is wide stand for it, in the caller's order.

A model behind a known library is batchable; one in Python is when `parameters: {batchable: true}` says so. Where
`predict` is the library's own, the estimator may get a faster engine (`runtimes.optimize`).

The input example is asked at load, as a request would bring it and by MLflow itself: a model that answers the two
differently is not served, unless `parameters: {accept_example_mismatch: true}` consents to it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final

import msgspec
import numpy as np
import yaml

from headrace.errors import InvalidRequest, LoadFailed, MissingExtra, SettingsError, UnsafeArtifact
from headrace.payload import DTYPES, EMPTY, Array, Signature, TensorSpec, datatype_of
from headrace.runtimes import golden, pickles
from headrace.runtimes.base import Recognition, Runtime, Source, Values, check_parameters, missing_extra

_FILE: Final = "MLmodel"
_FLAVOR: Final = "python_function"
_DATATYPES: Final[Mapping[str, str]] = {
    "boolean": "BOOL",
    "integer": "INT32",
    "long": "INT64",
    "float": "FP32",
    "double": "FP64",
    "string": "BYTES",
    "binary": "BYTES",
    "datetime": "BYTES",
}
_LIBRARIES: Final = frozenset(
    {"mlflow.sklearn", "mlflow.xgboost", "mlflow.lightgbm", "mlflow.catboost", "mlflow.onnx", "mlflow.statsmodels"}
)
"""Loaders of models that answer row by row, and whose ValueError is about the rows; any other may be code."""
_ARRAYS: Final = frozenset({"mlflow.sklearn", "mlflow.xgboost", "mlflow.lightgbm", "mlflow.catboost"})
"""Loaders of models whose predict gives an array."""
_CALLERS_FAULT: Final = frozenset({"INVALID_PARAMETER_VALUE", "BAD_REQUEST"})
_PARAMETERS: Final = frozenset({"batchable", "accept_example_mismatch"})
_INPUT: Final = "input-0"
_OUTPUT: Final = "predict"


class Column(msgspec.Struct, frozen=True, kw_only=True):
    """An input or output as the model's signature has it."""

    name: str
    kind: str
    """A type of MLflow's (`long`, `datetime`), `json` for what is nested, `tensor`."""
    datatype: str
    shape: tuple[int, ...] = (-1,)
    required: bool = True

    def spec(self) -> TensorSpec:
        """As a tensor."""
        content_type = "datetime" if self.kind == "datetime" else ""
        return TensorSpec(
            name=self.name,
            datatype=self.datatype,
            shape=self.shape,
            content_type=content_type,
            optional=not self.required,
        )


class MlflowRuntime(Runtime):
    """An MLflow model by its `python_function` flavor."""

    extra: ClassVar[str] = "mlflow"

    def __init__(self, source: Source) -> None:
        super().__init__(source)
        self._model: Any = None
        self.model: Any = None
        """The estimator inside, where the model's predict is that of its library and nothing else: `runtimes.optimize`
        looks at it."""
        self._pandas: Any = None
        self._columns: tuple[Column, ...] = ()
        self._form = "any"
        self._outputs: tuple[Column, ...] = ()
        self._params: Mapping[str, Any] = EMPTY
        self._example: dict[str, Array] | None = None
        self._faults: tuple[type[Exception], ...] = ()
        self._in_code = False

    @classmethod
    def recognise(cls, path: Path) -> Recognition | None:
        """A folder with an `MLmodel` that lists flavors."""
        found = _description(path)
        if found is None:
            return None
        flavors = ", ".join(name for name in found["flavors"] if name != _FLAVOR)
        return Recognition(f"MLflow model ({flavors or _FLAVOR})")

    @classmethod
    def recognise_object(cls, model: Any) -> Recognition | None:
        """What `mlflow.pyfunc.load_model` gives."""
        for base in type(model).__mro__:
            if base.__module__.startswith("mlflow.pyfunc") and base.__name__ == "PyFuncModel":
                return Recognition("mlflow.pyfunc.PyFuncModel")
        return None

    def load(self) -> Signature:
        """Load by `mlflow.pyfunc`, and read the signature, the params and the input example.

        Raises:
            MissingExtra: mlflow, or the library of the model's flavor, is not installed.
            LoadFailed: the model has no `python_function` flavor, or MLflow cannot load it.
            UnsafeArtifact: under an allow-list, a flavor that unpickles or runs code.
            SettingsError: an unknown parameter.
        """
        check_parameters(self.source.parameters, _PARAMETERS, runtime="mlflow")
        for key, value in self.source.parameters.items():
            if not isinstance(value, bool):
                raise SettingsError(f"parameters of a mlflow model: {key} is {value!r}; expected true or false")
        batchable = self.source.parameters.get("batchable")
        path = self.source.path
        if path is not None:
            description = _description(path)
            if description is None:
                raise LoadFailed(f"{path} is no MLflow model: expected a folder with a file {_FILE} that lists flavors")
            if _FLAVOR not in description["flavors"]:
                raise LoadFailed(
                    f"{path} has no {_FLAVOR} flavor, only {', '.join(description['flavors'])}; save it with one"
                )
            if self.source.allowed_globals is not None:
                _check_safe(path, description, self.source.allowed_globals)
        mlflow = self._import()
        with _listening() as heard:
            self._model = self.source.model if path is None else self._open(mlflow, path)
        metadata = self._model.metadata
        flavor = (metadata.flavors or {}).get(_FLAVOR, {})
        loader = str(flavor.get("loader_module", ""))
        self._in_code = loader not in _LIBRARIES
        self.streams = bool(flavor.get("streamable"))
        self._params = {each.name: each for each in metadata.get_params_schema() or ()}
        example, unread = self._read_example()
        self._read_inputs(metadata, example)
        self._example = self._values(example) if example is not None else None
        answer, unsaid = self._ask_example()
        self._outputs = self._read_outputs(metadata, answer)
        if answer is not None:
            unsaid = (*unsaid, *self._check_example(example, answer))
        self._read_estimator(loader, flavor)
        if batchable is None:
            batchable = not self._in_code
        binary = ",".join(each.name for each in self._columns if each.kind == "binary")
        rows_first = all(each.shape[:1] == (-1,) for each in (*self._columns, *self._outputs))
        return Signature(
            platform="mlflow",
            inputs=tuple(each.spec() for each in self._columns),
            outputs=tuple(each.spec() for each in self._outputs),
            strict=False,
            batchable=batchable and rows_first,
            missing_texts=self._form not in {"tensor", "tensors"},
            libraries={"mlflow": mlflow.__version__},
            warnings=(*dict.fromkeys(heard), *unread, *unsaid),
            properties={
                "loader": loader,
                "saved_by_mlflow": str(metadata.mlflow_version or "unknown"),
                **({"binary_columns": binary} if binary else {}),
                **({"params": ", ".join(map(_param, self._params.values()))} if self._params else {}),
                **self._form_of(answer, loader),
                **_kinds(input_schema=metadata.get_input_schema(), output_schema=metadata.get_output_schema()),
            },
        )

    def predict(self, inputs: Values, outputs: Sequence[str] = (), parameters: Mapping[str, Any] = EMPTY) -> Values:
        """Outputs by name.

        Raises:
            InvalidRequest: inputs or params are not what the model's signature says; the text is MLflow's where MLflow
                found it.
        """
        self._check_outputs(outputs)
        data = self._data(inputs)
        params = self._checked(parameters)
        with self._faulted(inputs):
            answer = self._model.predict(data, params=params) if params else self._model.predict(data)
        return self._named(answer, outputs)

    def predict_stream(
        self, inputs: Values, outputs: Sequence[str] = (), parameters: Mapping[str, Any] = EMPTY
    ) -> Iterator[Values]:
        """Partial answers of a model that MLflow marks as streamable."""
        self._check_outputs(outputs)
        data = self._data(inputs)
        params = self._checked(parameters)
        with self._faulted(inputs):
            for part in self._model.predict_stream(data, params=params or None):
                yield self._named(part, outputs)

    def sample(self) -> Values | None:
        """The model's input example."""
        return self._example

    def unload(self) -> None:
        """Let the model go."""
        self._model = self.model = None

    # -- loading --

    def _import(self) -> Any:
        # MLflow reports its use over the network unless told otherwise; a server does not call out on its own.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                import mlflow.pyfunc
                import pandas as pd
        except ImportError as error:
            raise missing_extra("mlflow", self.extra, needed_by=str(self.source.path or "this model")) from error
        self._pandas = pd
        self._faults = (mlflow.exceptions.MlflowException,)
        return mlflow

    def _open(self, mlflow: Any, path: Path) -> Any:
        try:
            # MLflow refuses a folder that is a link out of the one above it, as copies of uris are
            return mlflow.pyfunc.load_model(str(path.resolve()))
        except ModuleNotFoundError as error:
            raise MissingExtra(
                f"{path} needs the module {error.name!r}, which is not installed; run: "
                f"pip install -r {path / 'requirements.txt'}"
            ) from error
        except Exception as error:
            raise LoadFailed(f"{path}: MLflow cannot load it: {type(error).__name__}: {_line(error)}") from error

    def _read_example(self) -> tuple[Any, tuple[str, ...]]:
        """The input example, and why it is not used."""
        path = self.source.path
        info = self._model.metadata.saved_input_example_info
        if path is None or not info:
            return None, ()
        try:
            example = self._model.metadata.load_input_example(str(path))
        except Exception as error:  # noqa: BLE001 - the model serves without its example
            return None, (f"the input example cannot be read: {_line(error)}",)
        if isinstance(example, self._pandas.DataFrame | np.ndarray):
            return example, ()
        if isinstance(example, dict) and all(isinstance(each, np.ndarray) for each in example.values()):
            return example, ()
        return None, ()

    def _read_inputs(self, metadata: Any, example: Any) -> None:
        schema = metadata.get_input_schema()
        if schema is not None and schema.inputs:
            from_type_hint = getattr(metadata, "_is_signature_from_type_hint", None)  # of newer releases
            self._columns = _columns(schema, _INPUT)
            if schema.is_tensor_spec():
                self._form = "tensors" if schema.has_input_names() else "tensor"
            elif from_type_hint is not None and from_type_hint():
                self._form = "records" if schema.has_input_names() else "list"
            else:
                self._form = "columns" if schema.has_input_names() else "frame"
            return
        if isinstance(example, self._pandas.DataFrame):
            self._form = "columns"
            self._columns = tuple(_guessed(str(name), example[name].to_numpy()) for name in example.columns)
            return
        if isinstance(example, np.ndarray):
            self._form = "tensor"
            self._columns = (_guessed(_INPUT, example),)
            return
        raw = None
        with contextlib.suppress(NotImplementedError):  # a flavor without a model of its own
            raw = self._model.get_raw_model()
        names = getattr(raw, "feature_names_in_", None)
        if names is not None:
            self._form = "columns"
            self._columns = tuple(Column(name=str(name), kind="double", datatype="FP64") for name in names)
        elif width := getattr(raw, "n_features_in_", 0):
            self._form = "tensor"
            self._columns = (Column(name=_INPUT, kind="any", datatype="FP64", shape=(-1, int(width))),)

    def _ask_example(self) -> tuple[Any, tuple[str, ...]]:
        """What the model's predict gives for its input example, and why it gives nothing."""
        if self._example is None:
            return None, ()
        try:
            return self._model.predict(self._data(self._example)), ()
        except Exception as error:  # noqa: BLE001 - the model serves though its own example fails
            self._example = None
            return None, (f"the input example is not answered: {_line(error)}",)

    def _check_example(self, example: Any, answer: Any) -> tuple[str, ...]:
        """Compare what a request with the input example is answered with what MLflow itself answers to it.

        Returns:
            Warnings: where nothing can be compared, and of a difference that was consented to.

        Raises:
            LoadFailed: they differ.
        """
        if isinstance(example, self._pandas.DataFrame):
            texts = [each.name for each in self._columns if each.kind == "string" and each.name in example]
            example = example.assign(
                **{name: self._texts(example[name], example.index) for name in texts if example[name].isna().any()}
            )
        try:
            native = self._named(self._model.predict(example), ())
            difference = _difference(native, self._named(answer, ()))
            if difference and _difference(native, self._named(self._model.predict(example), ())):
                return ("the input example proves nothing: the model answers it differently each time",)
        except Exception as error:  # noqa: BLE001 - the model serves though MLflow cannot ask it its own example
            return (f"the input example is not answered by MLflow itself: {_line(error)}",)
        if not difference:
            return ()
        problem = f"the input example is answered otherwise from tensors than by MLflow itself: {difference}"
        if self.source.parameters.get("accept_example_mismatch", False):
            return (f"served by consent: {problem}",)
        raise LoadFailed(
            f"{self.source.path}: {problem}; log the model with the signature of what it takes, or consent to that: "
            "`parameters: {accept_example_mismatch: true}`"
        )

    def _read_estimator(self, loader: str, flavor: Mapping[str, Any]) -> None:
        """Whether the model's predict is that of an estimator, so that a faster engine may be looked for."""
        plain = flavor.get("predict_fn", "predict") == "predict" and not self._params
        if loader in _ARRAYS and plain:
            with contextlib.suppress(NotImplementedError):  # a flavor without a model of its own
                self.model = self._model.get_raw_model()
        self.optimizable = self.model is not None

    def _read_outputs(self, metadata: Any, answer: Any) -> tuple[Column, ...]:
        """What the signature says, or else what the input example is answered."""
        schema = metadata.get_output_schema()
        if schema is not None and schema.inputs:
            return _columns(schema, _OUTPUT)
        if answer is None:
            return ()
        return tuple(_guessed(name, value) for name, value in self._named(answer, ()).items())

    def _form_of(self, answer: Any, loader: str) -> dict[str, str]:
        """What the model answers with, as MLflow's own server renders it; nothing, where that is not known."""
        if answer is None:
            return {"answer": "array"} if loader in _ARRAYS else {}
        if isinstance(answer, self._pandas.DataFrame):
            return {"answer": "table"}
        if isinstance(answer, list) and answer and all(isinstance(each, Mapping) for each in answer):
            return {"answer": "table"} if len(self._outputs) > 1 else {"answer": "array"}
        return {"answer": "tensors" if isinstance(answer, Mapping) else "array"}

    # -- inputs --

    def _values(self, example: Any) -> dict[str, Array]:
        """The input example as a request would bring it."""
        if isinstance(example, np.ndarray):
            return {_INPUT: _carried(example)}
        if isinstance(example, dict):
            return {name: _carried(value) for name, value in example.items()}
        if self._form == "tensor":
            return {_INPUT: _carried(example.to_numpy())}
        texts = {each.name for each in self._columns if each.datatype == "BYTES"}
        values = {}
        for name in map(str, example.columns):
            column = example[name]
            missing = column.isna().to_numpy()
            carried = _carried(column.to_numpy())
            if name in texts:
                carried = carried if carried.dtype.kind == "O" or not missing.all() else carried.astype(object)
                carried[missing] = None
            elif missing.all() and column.dtype.kind != "f":
                continue  # an optional column, left out: no number says that it has no value
            values[name] = carried
        return values

    def _data(self, inputs: Values) -> Any:
        """What the model's predict takes."""
        if self._form == "any":
            return self._anything(inputs)
        if self._form in {"tensor", "tensors"}:
            return self._tensors(inputs)
        if len(inputs) == 1 and len(self._columns) > 1:
            ((name, value),) = inputs.items()
            if isinstance(value, np.ndarray) and value.ndim == 2 and value.shape[1] == len(self._columns):
                inputs = {column.name: value[:, position] for position, column in enumerate(self._columns)}
            elif name not in {column.name for column in self._columns}:
                raise InvalidRequest(
                    f"input {name!r} has shape {list(np.shape(value))}; expected [rows, {len(self._columns)}], or one "
                    f"input each for {self._names()}"
                )
        if len(self._columns) == 1 and len(inputs) == 1 and self._form in {"frame", "list"}:
            inputs = {self._columns[0].name: next(iter(inputs.values()))}
        self._check_names(inputs)
        columns = {
            column.name: self._column(column, inputs[column.name]) for column in self._columns if column.name in inputs
        }
        lengths = {len(each) for each in columns.values()}
        if len(lengths) > 1:
            raise InvalidRequest(f"columns differ in length: {', '.join(map(str, sorted(lengths)))} rows came")
        if self._form == "list":
            return list(next(iter(columns.values())))
        if self._form == "records":
            return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        frame = self._frame(
            columns, [each.name for each in self._columns if each.kind == "string" and each.name in columns]
        )
        if self._form == "frame":
            frame.columns = range(len(columns))
        return frame

    def _tensors(self, inputs: Values) -> Any:
        if self._form == "tensor":
            only = self._columns[0]
            if len(inputs) > 1 and only.shape[1:] == (len(inputs),):
                return self._tensor(only, only.name, _side_by_side(inputs))
            if len(inputs) != 1:
                raise InvalidRequest(f"{len(inputs)} inputs came; expected one, {only.name!r}")
            ((name, value),) = inputs.items()
            return self._tensor(only, name, value)
        if len(inputs) == len(self._columns) == 1:
            inputs = {self._columns[0].name: next(iter(inputs.values()))}
        self._check_names(inputs)
        return {
            column.name: self._tensor(column, column.name, inputs[column.name])
            for column in self._columns
            if column.name in inputs
        }

    def _tensor(self, column: Column, name: str, value: Array) -> Array:
        fits = len(value.shape) == len(column.shape) and all(
            wanted in {-1, came} for wanted, came in zip(column.shape, value.shape, strict=True)
        )
        if not fits:
            raise InvalidRequest(f"input {name!r} has shape {list(value.shape)}; expected {list(column.shape)}")
        if column.datatype == "BYTES":
            return np.array([_text(name, each) for each in value.reshape(-1).tolist()], object).reshape(value.shape)
        return value if column.kind == "any" and value.dtype.kind in "biuf" else _numbers(column, value)

    def _column(self, column: Column, value: Any) -> Any:
        """A column in the dtype that MLflow checks it against."""
        if isinstance(value, np.ndarray):
            if value.ndim == 2 and value.shape[1] == 1:
                value = value.reshape(-1)
            if value.ndim != 1:
                raise InvalidRequest(f"column {column.name!r} has shape {list(value.shape)}; expected [rows]")
        if column.datatype != "BYTES":
            return _numbers(column, np.asarray(value))
        if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
            raise InvalidRequest(f"column {column.name!r} is {datatype_of(value)}; expected BYTES ({column.kind})")
        items = value.tolist() if isinstance(value, np.ndarray) else list(value)
        if column.kind == "binary":
            return items
        if column.kind == "datetime":
            moments = [_text(column.name, each) if isinstance(each, bytes) else each for each in items]
            try:
                return self._pandas.to_datetime(moments).to_numpy()
            except (ValueError, TypeError) as error:
                raise InvalidRequest(
                    f"column {column.name!r} holds something that is no time: {_line(error)}"
                ) from error
        if column.kind == "json":
            return [_document(column.name, each) for each in items]
        return [_text(column.name, each) for each in items]

    def _anything(self, inputs: Values) -> Any:
        """Without a signature: columns of a DataFrame, or the one array there is."""
        if len(inputs) == 1:
            ((name, value),) = inputs.items()
            if isinstance(value, np.ndarray) and value.ndim > 1:
                return value
            if isinstance(value, self._pandas.DataFrame):
                return value
        columns = {}
        for name, value in inputs.items():
            column = Column(name=name, kind="string", datatype="BYTES") if value.dtype.kind in "OSU" else None
            columns[name] = self._column(column, value) if column else value.reshape(-1)
        try:
            return self._frame(columns, [name for name, value in inputs.items() if value.dtype.kind in "OSU"])
        except ValueError as error:
            raise InvalidRequest(f"inputs make no table: {_line(error)}") from error

    def _frame(self, columns: dict[str, Any], texts: Iterable[str]) -> Any:
        """A DataFrame. A text that is missing is NaN, as in a file that pandas reads, whether other rows have texts or
        not: pandas alone would keep None where none has.
        """
        for name in texts:
            if None in columns[name]:
                columns[name] = self._texts(columns[name])
        return self._pandas.DataFrame(columns)

    def _texts(self, values: Iterable[Any], index: Any = None) -> Any:
        dtype = self._pandas.Series([""]).dtype
        found = [each if isinstance(each, str) else np.nan for each in values]
        return self._pandas.Series(found, index, dtype)

    def _check_names(self, inputs: Values) -> None:
        known = {column.name for column in self._columns}
        missing = [column.name for column in self._columns if column.required and column.name not in inputs]
        unknown = [name for name in inputs if name not in known]
        if missing:
            faults = [f"missing {', '.join(map(repr, missing))}"]
            faults += [f"unknown {', '.join(map(repr, unknown))}"] if unknown else []
            raise InvalidRequest(f"inputs are {'; '.join(faults)}: the model takes {self._names()}")

    def _names(self) -> str:
        return ", ".join(each.name if each.required else f"{each.name} (optional)" for each in self._columns)

    def _checked(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """The request's parameters as the model's params; MLflow fills in defaults and checks their types."""
        if not self._params:
            return {}
        for key in parameters:
            if key not in self._params:
                raise InvalidRequest(f"unknown parameter {key!r}: the model takes {', '.join(self._params)}")
        return dict(parameters)

    @contextlib.contextmanager
    def _faulted(self, inputs: Values) -> Iterator[None]:
        """What MLflow says of inputs and params is for the caller; so is a library's ValueError about values, and what
        any model makes of values that are not there.
        """
        try:
            yield
        except self._faults as error:
            if getattr(error, "error_code", "") in _CALLERS_FAULT:
                raise InvalidRequest(_line(error)) from error
            raise
        except Exception as error:
            if isinstance(error, ValueError) and not self._in_code:
                raise InvalidRequest(_line(error)) from error
            if missing := self._missing(inputs, error):
                said = f"{type(error).__name__}: {_line(error)}"
                raise InvalidRequest(f"the model fails where {missing} has no value: {said}") from error
            raise

    def _missing(self, inputs: Values, error: Exception) -> str:
        """Inputs whose values the model fails for want of, as a message names them; empty: it fails for another reason.

        One that was left out is to be looked for in vain, and to be named in the error; of one without a value in some
        row, code may make anything that comes of None or NaN in place of text, and a library has errors of its own.
        """
        lacks = isinstance(error, LookupError | AttributeError)
        fails = lacks or not self._in_code or isinstance(error, TypeError | ValueError)
        return ", ".join(
            repr(name)
            for name in dict.fromkeys([*(each.name for each in self._columns), *inputs])
            if (fails and _lacks(inputs[name]) if name in inputs else lacks and name in str(error))
        )

    # -- outputs --

    def _check_outputs(self, wanted: Sequence[str]) -> None:
        if wanted and self._outputs:
            known = [each.name for each in self._outputs]
            for name in wanted:
                if name not in known:
                    raise InvalidRequest(f"output {name!r} is not one of the model's: expected {', '.join(known)}")

    def _named(self, answer: Any, wanted: Sequence[str]) -> Values:
        named = {name: _carried(value) for name, value in self._parts(answer).items()}
        if not wanted:
            return named
        for name in wanted:
            if name not in named:
                raise InvalidRequest(f"output {name!r} is not one of the model's: expected {', '.join(named)}")
        return {name: named[name] for name in wanted}

    def _parts(self, answer: Any) -> Mapping[str, Any]:
        if isinstance(answer, self._pandas.DataFrame):
            names = [str(name) for name in answer.columns]
            if len(self._outputs) == len(names):  # columns without names of their own, 0, 1, ...
                names = [each.name for each in self._outputs] if names == list(map(str, range(len(names)))) else names
            return {name: answer.iloc[:, position].to_numpy() for position, name in enumerate(names)}
        if isinstance(answer, Mapping):
            return {str(name): value for name, value in answer.items()}
        if isinstance(answer, list) and answer and all(isinstance(each, Mapping) for each in answer) and self._outputs:
            names = [each.name for each in self._outputs]
            if all(set(each) == set(names) for each in answer):
                return {name: [each[name] for each in answer] for name in names}
        count = len(self._outputs)
        if isinstance(answer, np.ndarray) and answer.ndim == 2 and count > 1 and answer.shape[1] == count:
            return {each.name: answer[:, position] for position, each in enumerate(self._outputs)}
        return {self._outputs[0].name if count == 1 else _OUTPUT: answer}


# -- the description --


def _description(folder: Path) -> dict[str, Any] | None:
    """`MLmodel` of a folder, when it is one and lists flavors."""
    file = folder / _FILE
    try:
        if not folder.is_dir() or not file.is_file():
            return None
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return None
    return found if isinstance(found, dict) and isinstance(found.get("flavors"), dict) and found["flavors"] else None


def _check_safe(folder: Path, description: Mapping[str, Any], allowed: tuple[str, ...]) -> None:
    """Refuse what unpickles or runs code: every flavor but those whose files are data.

    Raises:
        UnsafeArtifact: names the flavor and what to do.
    """
    flavors = description["flavors"]
    function = flavors[_FLAVOR]
    loader = str(function.get("loader_module", ""))
    own = flavors.get(loader.removeprefix("mlflow."), {})
    made = str(own.get("model_class", ""))
    safe = {
        "mlflow.onnx": True,
        "mlflow.catboost": True,
        "mlflow.xgboost": re.fullmatch(r"xgboost\.(core|sklearn)\.\w+", made) is not None,
        "mlflow.lightgbm": made == "lightgbm.basic.Booster",
        "mlflow.sklearn": own.get("serialization_format") == "skops"
        and all(pickles.admits(str(each), allowed, path=folder) for each in own.get("skops_trusted_types") or ()),
    }.get(loader, False)
    if any(flavor.get("code") for flavor in flavors.values() if isinstance(flavor, dict)) or not safe:
        raise UnsafeArtifact(
            f"{folder} is an MLflow model of {loader or 'an unnamed loader'}, whose files can run code when they are "
            "loaded, which the load policy refuses; if you trust whoever made it, set `load_policy: trusted` (of a "
            "command: `--load-policy trusted`); better, log it as ONNX, skops or its library's own format"
        )


def _columns(schema: Any, unnamed: str) -> tuple[Column, ...]:
    """A schema of MLflow's as ours."""
    found = []
    for position, each in enumerate(schema.inputs):
        name = (
            str(each.name) if each.name is not None else unnamed if len(schema.inputs) == 1 else f"{unnamed}-{position}"
        )
        required = bool(getattr(each, "required", True))
        if schema.is_tensor_spec():
            dtype = np.dtype(each.type)
            datatype = datatype_of(np.empty(0, dtype)) if dtype.kind in "biufOSU" else "BYTES"
            found.append(
                Column(name=name, kind="tensor", datatype=datatype, shape=tuple(each.shape), required=required)
            )
            continue
        kind = str(getattr(each.type, "name", ""))
        if kind in _DATATYPES:
            found.append(Column(name=name, kind=kind, datatype=_DATATYPES[kind], required=required))
        else:
            found.append(Column(name=name, kind="json", datatype="BYTES", required=required))
    return tuple(found)


def _param(param: Any) -> str:
    """A param of the signature as a person reads it: `k: double = 1.0`."""
    kind = str(getattr(param.dtype, "name", param.dtype))
    default = msgspec.json.encode(param.default, enc_hook=_plain).decode()
    return f"{param.name}: {kind}{'[]' if param.shape else ''} = {default}"


def _kinds(**schemas: Any) -> dict[str, str]:
    """Whether each schema that there is speaks of columns of a table or of tensors."""
    return {
        role: "tensors" if schema.is_tensor_spec() else "columns"
        for role, schema in schemas.items()
        if schema is not None and schema.inputs
    }


def _side_by_side(inputs: Values) -> Array:
    """Columns, one tensor each, as one array of rows."""
    columns = [np.asarray(value) for value in inputs.values()]
    for name, column in zip(inputs, columns, strict=True):
        if column.size != len(columns[0]) or column.shape[:1] != (column.size,):
            raise InvalidRequest(f"input {name!r} has shape {list(column.shape)}; expected [{len(columns[0])}]")
    return np.column_stack([column.reshape(-1) for column in columns])


def _guessed(name: str, value: Any) -> Column:
    """A column as an example of it shows."""
    carried = _carried(value)
    datatype = datatype_of(carried) if isinstance(carried, np.ndarray) else "BYTES"
    kinds = {datatype: kind for kind, datatype in _DATATYPES.items() if datatype != "BYTES"}
    shape = (-1, *np.shape(carried)[1:])
    return Column(name=name, kind=kinds.get(datatype, "string"), datatype=datatype, shape=shape)


@contextlib.contextmanager
def _listening() -> Iterator[list[str]]:
    """MLflow's warnings as values, rather than on the terminal, while a model is loaded."""
    heard: list[str] = []

    class Ear(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            heard.append(" ".join(record.getMessage().split())[:500])

    logger = logging.getLogger("mlflow")
    handlers, logger.handlers = logger.handlers, [Ear(logging.WARNING)]
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield heard
        heard += [_line(each.message)[:500] for each in caught if not issubclass(each.category, DeprecationWarning)]
    finally:
        logger.handlers = handlers


# -- values --


def _numbers(column: Column, value: Array) -> Array:
    """Numbers in the column's dtype, where that loses nothing but precision; otherwise MLflow is left to refuse."""
    dtype = DTYPES[column.datatype]
    if value.dtype == dtype:
        return value
    if value.dtype.kind not in "biuf":
        raise InvalidRequest(f"input {column.name!r} is {datatype_of(value)}; expected {column.datatype}")
    if np.can_cast(value.dtype, dtype, "same_kind"):
        narrowed = value.astype(dtype)
        if dtype.kind != "i" or np.array_equal(narrowed, value):
            return narrowed
    raise InvalidRequest(f"input {column.name!r} is {datatype_of(value)}; expected {column.datatype}")


def _difference(native: Values, served: Values) -> str:
    """Where two answers differ; empty: nowhere."""
    if native.keys() != served.keys():
        return f"outputs {', '.join(served)}, for {', '.join(native)}"
    for name, value in native.items():
        if found := golden.difference(np.asarray(value), np.asarray(served[name])):
            return f"output {name!r} {found}"
    return ""


def _text(name: str, value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    try:
        return bytes(value).decode()
    except (UnicodeDecodeError, TypeError) as error:
        raise InvalidRequest(f"input {name!r} holds something that is no UTF-8 text: {error}") from error


def _lacks(value: Any) -> bool:
    """Whether some row of an input of texts has none."""
    return np.asarray(value).dtype.kind == "O" and None in np.asarray(value).reshape(-1).tolist()


def _document(name: str, value: Any) -> Any:
    if not isinstance(value, (str, bytes)):
        return value
    try:
        return msgspec.json.decode(value)
    except msgspec.DecodeError as error:
        raise InvalidRequest(f"input {name!r} holds something that is no JSON: {error}") from error


def _carried(value: Any) -> Any:
    """An answer as an array that a datatype carries: text as bytes, times as ISO 8601, nested values as JSON.

    A list of texts is one already, for the codec of texts.
    """
    if isinstance(value, list) and value and all(type(each) is str for each in value):
        return value
    if hasattr(value, "to_numpy"):
        value = value.to_numpy()
    array = _array(value)
    if array.ndim == 0:
        array = array.reshape(1)
    if array.dtype.kind == "O" and array.size:
        items = array.reshape(-1).tolist()
        if all(isinstance(each, (bool, int, float)) for each in items):
            array = np.asarray(items).reshape(array.shape)
    if array.dtype.kind in "biuf":
        return array
    if array.dtype.kind in "mM":
        array = np.datetime_as_string(array) if array.dtype.kind == "M" else array.astype(np.int64)
    carried = np.empty(array.size, np.object_)
    carried[:] = [_bytes(each) for each in array.reshape(-1).tolist()]
    return carried.reshape(array.shape)


def _array(value: Any) -> Array:
    if isinstance(value, (str, bytes, Mapping)):
        value = [value]
    if isinstance(value, list) and any(isinstance(each, (str, bytes, Mapping)) for each in value):
        array = np.empty(len(value), np.object_)  # numpy's own text would lose trailing zeros of bytes
        array[:] = value
        return array
    try:
        return np.asarray(value)
    except ValueError:  # a ragged list: each item on its own
        array = np.empty(len(value), np.object_)
        array[:] = list(value)
        return array


def _bytes(value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode()
    return msgspec.json.encode(value, enc_hook=_plain)


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    return str(value)


def _line(error: object) -> str:
    return " ".join(str(error).split())[:1000]
