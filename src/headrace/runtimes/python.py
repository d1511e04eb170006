"""A model of somebody's own: any class with a `predict`, served as it is.

    class Model:
        batchable = True                                     # default False: rows of callers are never merged

        def __init__(self, threshold: float = 0.5): ...      # `parameters` of headrace.yaml
        def load(self): ...                                  # once, before the first request
        def predict(self, x: np.ndarray) -> np.ndarray: ...  # or async
        def predict_stream(self, x: str): yield ...          # or an async generator
        def unload(self): ...                                # once, after the last request

Only `predict` (or `predict_stream`) must be there. Annotations say what the inputs and outputs are:

| annotation | tensor | content type |
|---|---|---|
| `np.ndarray`, `NDArray[np.float32]`, none | FP64 [-1] (any numbers, any rank), FP32 [-1] | |
| `str`; `list[str]` | BYTES [1]; BYTES [-1] | `str` |
| `bytes`; `list[bytes]` | BYTES [1]; BYTES [-1] | |
| `dict`, a TypedDict, a dataclass; a list of them | BYTES [1]; BYTES [-1] | `json` |
| `float`, `int`, `bool`; a list of them | FP64, INT64, BOOL [1]; [-1] | |
| `pandas.DataFrame` | every input is a column (the only parameter) | `pd` of the whole request |

A parameter with a default is an optional input; one named `parameters` gets the request's parameters; `**inputs` takes
inputs of any name. What comes back is an array, list, text, bytes, number, DataFrame (a column is an output), a tuple
(`output-0`, `output-1`, ...) or a dict, dataclass or named tuple (an output for each name).
"""

from __future__ import annotations

import ast
import collections.abc
import contextlib
import dataclasses
import inspect
import types
import typing
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from headrace.errors import InvalidRequest, LoadFailed, NotSupported, SettingsError, UnsafeArtifact, unknown_key
from headrace.payload import DTYPES, EMPTY, Array, Signature, TensorSpec, datatype_of
from headrace.runtimes.base import Recognition, Runtime, Source, Values
from headrace.runtimes.own_code import PREFIX, OwnCode

_FILE: Final = "model.py"
_CLASS: Final = "Model"
_METHODS: Final = frozenset({"predict", "predict_stream"})
_REQUEST_PARAMETERS: Final = "parameters"
_SCALARS: Final[Mapping[Any, str]] = {float: "FP64", int: "INT64", bool: "BOOL", str: "BYTES", bytes: "BYTES"}
_LISTS: Final = (list, collections.abc.Sequence, collections.abc.Iterable, collections.abc.Collection)
_ITERATORS: Final = (
    collections.abc.Iterator,
    collections.abc.Iterable,
    collections.abc.Generator,
    collections.abc.AsyncIterator,
    collections.abc.AsyncIterable,
    collections.abc.AsyncGenerator,
)
_LARGEST_SOURCE: Final = 1 << 20
"""Bytes of a Python file that recognition reads; a larger one is no model's."""


class Shape(msgspec.Struct, frozen=True):
    """What an annotation asks for."""

    kind: str
    """`array`, `str`, `bytes`, `json`, `number` or `frame`."""
    datatype: str = "FP64"
    many: bool = False
    """A list of them rather than one."""
    dtype: np.dtype[Any] | None = None
    """Of the array, or of the numbers, where it is said."""

    def spec(self, name: str, *, optional: bool = False) -> TensorSpec:
        """The tensor that carries it."""
        return TensorSpec(
            name=name,
            datatype=self.datatype,
            shape=(-1,) if self.many or self.kind in {"array", "frame"} else (1,),
            content_type=self.kind if self.kind in {"str", "json"} else "",
            optional=optional,
        )


class PythonRuntime(Runtime):
    """An instance of a class with `predict`, `predict_stream`, or both."""

    def __init__(self, source: Source) -> None:
        super().__init__(source)
        self._model: Any = None
        self._predict: Any = None
        self._stream: Any = None
        self._inputs: dict[str, Shape] = {}
        self._required: tuple[str, ...] = ()
        self._others = False
        self._takes_parameters = False
        self._frame = ""
        self._outputs: tuple[TensorSpec, ...] = ()
        self._datatypes: dict[str, str] = {}
        self._code: OwnCode | None = None

    @classmethod
    def recognise(cls, path: Path) -> Recognition | None:
        """A `.py` file, or a folder with `model.py`, in which a class has a `predict`. Reads, never runs."""
        file = path / _FILE if path.is_dir() else path
        if file.suffix != ".py" or not file.is_file() or (path / "MLmodel").is_file():
            return None
        found = _model_classes(file)
        if not found:
            return None
        return Recognition(f"Python class {' or '.join(found)} in {file.name}", 0.8)

    @classmethod
    def recognise_object(cls, model: Any) -> Recognition | None:
        """Anything with a `predict`, where no framework's runtime knows better; or a class of such things."""
        if not any(callable(getattr(model, name, None)) for name in _METHODS):
            return None
        kind = model if isinstance(model, type) else type(model)
        return Recognition(f"{kind.__module__}.{kind.__qualname__} has a predict", 0.1)

    def load(self) -> Signature:
        """Import the class, construct it with the parameters, call its `load`, and read its annotations.

        Raises:
            LoadFailed: there is no such module or class, or it is no model; what its own code raises is chained.
            UnsafeArtifact: the code comes from where nobody is trusted to run code.
            SettingsError: a parameter that the constructor does not take, or one that it misses.
        """
        if self.source.model is None and self.source.allowed_globals is not None:
            raise UnsafeArtifact(
                f"{self.source.reference or self.source.path} is Python code, which the load policy refuses to run; "
                "if you trust whoever wrote it, set `load_policy: trusted` (of the server: `--load-policy trusted`)"
            )
        self._code = OwnCode(self._folder())
        with self._code.importable():
            found = self.source.model if self.source.model is not None else self._find(self._code)
            self._model = self._construct(found)
            load = getattr(self._model, "load", None)
            if inspect.iscoroutinefunction(load):
                raise LoadFailed(
                    f"{_called(found)}: load is async; expected a plain method, as nothing waits for it yet"
                )
            if callable(load):
                load()
        return self._describe(found)

    def predict(self, inputs: Values, outputs: Sequence[str] = (), parameters: Mapping[str, Any] = EMPTY) -> Any:
        """Outputs by name, or an awaitable of them where the class's predict is async.

        Raises:
            InvalidRequest: an input is missing, unknown or not what the annotation says; an output is unknown.
            NotSupported: the class has `predict_stream` only.
        """
        if self._predict is None:
            raise NotSupported("the model answers with streams only")
        self._check_outputs(outputs)
        arguments = self._arguments(inputs, parameters)
        if self.is_async:
            return self._later(self._predict(**arguments), outputs)
        return self._named(self._predict(**arguments), outputs)

    def predict_stream(
        self, inputs: Values, outputs: Sequence[str] = (), parameters: Mapping[str, Any] = EMPTY
    ) -> Iterator[Values] | AsyncIterator[Values]:
        """Partial answers, each named as a whole answer is; an async iterator where the class's own is."""
        self._check_outputs(outputs)
        parts = self._stream(**self._arguments(inputs, parameters))
        return self._parts_later(parts, outputs) if self.is_async else self._parts(parts, outputs)

    def unload(self) -> None:
        """Call the class's `unload`, and forget its code."""
        model, self._model, self._predict, self._stream = self._model, None, None, None
        try:
            if callable(unload := getattr(model, "unload", None)):
                unload()
        finally:
            code, self._code = self._code, None
            if code is not None:
                code.forget()

    # -- loading --

    def _folder(self) -> Path | None:
        """Where the model's own modules are looked for first."""
        place = self.source.path
        reference, _, _ = self.source.reference.rpartition(":")
        if reference.endswith(".py"):
            return Path(reference).absolute().parent
        if place is not None:
            return place.absolute() if place.is_dir() else place.absolute().parent
        return Path.cwd() if reference else None

    def _find(self, code: OwnCode) -> Any:
        """The class that the source names, or the only one there is."""
        if self.source.reference:
            module, _, attribute = self.source.reference.rpartition(":")
            if not module or not attribute:
                raise LoadFailed(f"{self.source.reference!r} names no class; expected module:Class or file.py:Class")
            loaded = code.file(Path(module).absolute()) if module.endswith(".py") else code.module(module)
            found = loaded
            for name in attribute.split("."):
                if not hasattr(found, name):
                    known = ", ".join(_classes_of(loaded)) or "none with a predict"
                    raise LoadFailed(f"{module} has no {attribute!r}; its classes are: {known}")
                found = getattr(found, name)
            return found
        path = self.source.path
        if path is None:
            raise LoadFailed("there is no model: expected a path, an object or module:Class")
        file = (path / _FILE if path.is_dir() else path).absolute()
        names = _model_classes(file)
        if len(names) != 1:
            several = f"classes {', '.join(names)} with a predict" if names else "no class with a predict"
            raise LoadFailed(f"{file} has {several}; name one by `reference: {file.stem}:Class` in headrace.yaml")
        return getattr(code.file(file), names[0])

    def _construct(self, found: Any) -> Any:
        parameters = self.source.parameters
        if not any(callable(getattr(found, name, None)) for name in _METHODS):
            raise LoadFailed(f"{_called(found)} is no model: expected a class with a method `predict`")
        if not isinstance(found, type):
            if parameters:
                raise SettingsError(
                    f"{_called(found)} is an object already, so it takes no parameters; came {[*parameters]}"
                )
            return found
        if issubclass(found, Runtime):
            raise LoadFailed(f"{_called(found)} is a Runtime; name it by `runtime:` rather than `reference:`")
        known = dict(inspect.signature(found).parameters)
        if not any(each.kind is inspect.Parameter.VAR_KEYWORD for each in known.values()):
            for key in parameters:
                if key not in known:
                    raise unknown_key(key, known, where=f"parameters of {_called(found)}")
        absent = [
            name
            for name, each in known.items()
            if each.default is inspect.Parameter.empty
            and each.kind in {inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY}
            and name not in parameters
        ]
        if absent:
            raise SettingsError(
                f"{_called(found)} needs {', '.join(absent)}: say it under `parameters` in headrace.yaml"
            )
        return found(**parameters)

    def _describe(self, found: Any) -> Signature:
        name = _called(found)
        self._predict = getattr(self._model, "predict", None)
        self._stream = getattr(self._model, "predict_stream", None)
        self.streams = self._stream is not None
        waits = inspect.iscoroutinefunction(self._predict)
        streams_async = inspect.isasyncgenfunction(self._stream)
        if self._predict is not None and self._stream is not None and waits != streams_async:
            raise LoadFailed(f"{name}: one of predict and predict_stream is async; make both async or neither")
        self.is_async = waits or streams_async
        main = self._predict or self._stream
        hints, warnings = _hints(main)
        self._read_inputs(name, main, hints)
        returns = hints.get("return", Any)
        if self._predict is None and typing.get_origin(returns) in _ITERATORS:
            returns = typing.get_args(returns)[0]
        self._outputs = _output_specs(returns)
        self._datatypes = {spec.name: "" if spec.content_type else spec.datatype for spec in self._outputs}
        batchable = bool(getattr(self._model, "batchable", False))
        inputs = tuple(shape.spec(each, optional=each not in self._required) for each, shape in self._inputs.items())
        if batchable and (one := [each.name for each in (*inputs, *self._outputs) if each.shape == (1,)]):
            raise LoadFailed(f"{name} is batchable, so {', '.join(one)} holds one value a row: annotate it as a list")
        return Signature(
            platform="python",
            inputs=inputs,
            outputs=self._outputs,
            strict=False,
            batchable=batchable,
            content_type="pd" if self._frame else "",
            warnings=warnings,
            properties={"class": name},
        )

    def _read_inputs(self, name: str, method: Callable[..., Any], hints: Mapping[str, Any]) -> None:
        required = []
        self._inputs = {}
        for each in inspect.signature(method).parameters.values():
            if each.kind is inspect.Parameter.VAR_KEYWORD:
                self._others = True
            elif each.kind in {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.POSITIONAL_ONLY}:
                raise LoadFailed(
                    f"{name}: {method.__name__} takes {each}; inputs have names, so it cannot be positional"
                )
            elif each.name == _REQUEST_PARAMETERS:
                self._takes_parameters = True
            else:
                shape = shape_of(hints.get(each.name, Any))
                if shape is None:
                    raise LoadFailed(
                        f"{name}: {method.__name__} takes {each}, which no tensor carries; expected array, DataFrame, "
                        "str, bytes, dict, float, int, bool, or a list of them"
                    )
                self._inputs[each.name] = shape
                if each.default is inspect.Parameter.empty:
                    required.append(each.name)
        self._required = tuple(required)
        frames = [each for each, shape in self._inputs.items() if shape.kind == "frame"]
        if frames and len(self._inputs) > 1:
            raise LoadFailed(f"{name}: {frames[0]} is a DataFrame of all inputs, so it must be the only one")
        self._frame = frames[0] if frames else ""

    # -- predicting --

    def _arguments(self, inputs: Values, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """The keyword arguments of the class's method."""
        arguments: dict[str, Any] = {}
        if self._frame:
            arguments[self._frame] = _frame(inputs, self._frame)
        else:
            for name, value in inputs.items():
                shape = self._inputs.get(name)
                if shape is None and not self._others:
                    raise InvalidRequest(f"unknown input {name!r}: the model takes {self._available()}")
                arguments[name] = value if shape is None else _take(name, value, shape)
            for name in self._required:
                if name not in arguments:
                    raise InvalidRequest(f"missing input {name!r}: the model takes {self._available()}")
        if self._takes_parameters:
            arguments[_REQUEST_PARAMETERS] = parameters
        return arguments

    def _available(self) -> str:
        said = [name if name in self._required else f"{name} (optional)" for name in self._inputs]
        return ", ".join(said) or "none"

    def _check_outputs(self, wanted: Sequence[str]) -> None:
        if wanted and self._outputs:
            known = [spec.name for spec in self._outputs]
            for name in wanted:
                if name not in known:
                    raise InvalidRequest(f"output {name!r} is not one of the model's: expected {', '.join(known)}")

    async def _later(self, answer: Any, wanted: Sequence[str]) -> Values:
        return self._named(await answer, wanted)

    def _parts(self, parts: Any, wanted: Sequence[str]) -> Iterator[Values]:
        with contextlib.closing(parts) if hasattr(parts, "close") else contextlib.nullcontext():
            for part in parts:
                yield self._named(part, wanted)

    async def _parts_later(self, parts: Any, wanted: Sequence[str]) -> AsyncIterator[Values]:
        async with contextlib.aclosing(parts) if hasattr(parts, "aclose") else contextlib.nullcontext():
            async for part in parts:
                yield self._named(part, wanted)

    def _named(self, answer: Any, wanted: Sequence[str]) -> Values:
        """What the class answered, as outputs by name, the wanted ones."""
        named = _by_name(answer, self._outputs)
        if not wanted:
            return {name: _give(value, self._datatypes.get(name)) for name, value in named.items()}
        chosen = {}
        for name in wanted:
            if name not in named:
                raise InvalidRequest(f"output {name!r} is not one of the model's: expected {', '.join(named)}")
            chosen[name] = _give(named[name], self._datatypes.get(name))
        return chosen


# -- annotations --


def shape_of(annotation: Any) -> Shape | None:
    """What an annotation asks for; None: nothing that a tensor carries."""
    annotation = _bare(annotation)
    if annotation in {Any, inspect.Parameter.empty, object, np.ndarray}:
        return Shape("array")
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is np.ndarray:
        return _array(arguments)
    if annotation in _SCALARS:
        kind = annotation.__name__ if annotation in {str, bytes} else "number"
        return Shape(kind, _SCALARS[annotation], dtype=np.dtype(annotation) if kind == "number" else None)
    if (annotation.__module__ or "").partition(".")[0] == "pandas" and annotation.__name__ == "DataFrame":
        return Shape("frame")
    if origin in _LISTS or annotation in _LISTS:
        item = shape_of(arguments[0]) if arguments else Shape("array")
        if item is None or item.many or item.kind == "frame":
            return None
        if item.kind == "array":
            return Shape("number", many=True)
        return msgspec.structs.replace(item, many=True)
    if _is_document(origin or annotation):
        return Shape("json", "BYTES")
    return None


def _bare(annotation: Any) -> Any:
    """Without Annotated, Optional, Final."""
    while True:
        origin = typing.get_origin(annotation)
        if origin is typing.Annotated:
            annotation = typing.get_args(annotation)[0]
        elif origin in {typing.Union, types.UnionType}:
            members = [each for each in typing.get_args(annotation) if each is not type(None)]
            if len(members) != 1:
                return annotation
            annotation = members[0]
        else:
            return annotation


def _array(arguments: tuple[Any, ...]) -> Shape:
    """Of `np.ndarray[shape, np.dtype[np.float32]]`, which is what NDArray[np.float32] is."""
    scalar = typing.get_args(arguments[1]) if len(arguments) > 1 else ()
    if not scalar or not isinstance(scalar[0], type) or not issubclass(scalar[0], np.generic):
        return Shape("array")
    if inspect.isabstract(scalar[0]) or scalar[0] in {np.generic, np.number, np.floating, np.integer}:
        return Shape("array")
    dtype = np.dtype(scalar[0])
    return Shape("array", datatype_of(np.empty(0, dtype)), dtype=dtype)


def _is_document(annotation: Any) -> bool:
    if not isinstance(annotation, type):
        return False
    return (
        typing.is_typeddict(annotation)
        or dataclasses.is_dataclass(annotation)
        or issubclass(annotation, (dict, collections.abc.Mapping, msgspec.Struct))
    )


def _output_specs(annotation: Any) -> tuple[TensorSpec, ...]:
    """What the return annotation says; empty where names or kinds show in the answer only."""
    annotation = _bare(annotation)
    if annotation in {Any, None, type(None)}:
        return ()
    fields = _fields(annotation)
    if fields is None and typing.get_origin(annotation) is tuple:
        arguments = typing.get_args(annotation)
        if Ellipsis in arguments:
            return ()
        fields = {f"output-{position}": each for position, each in enumerate(arguments)}
    if fields is None:
        shape = shape_of(annotation)
        if shape is None or (shape.kind in {"frame", "json"} and not shape.many):
            return ()
        return (shape.spec("output-0"),)
    shapes = {name: shape_of(each) for name, each in fields.items()}
    if any(shape is None or shape.kind == "frame" for shape in shapes.values()):
        return ()
    return tuple(shape.spec(name) for name, shape in shapes.items() if shape is not None)


def _fields(annotation: Any) -> dict[str, Any] | None:
    """Names and annotations of a TypedDict, dataclass, Struct or NamedTuple."""
    if not isinstance(annotation, type):
        return None
    named = typing.is_typeddict(annotation) or dataclasses.is_dataclass(annotation)
    if named or hasattr(annotation, "_fields") or issubclass(annotation, msgspec.Struct):
        return typing.get_type_hints(annotation)
    return None


def _hints(method: Any) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The annotations of a method; without them, a warning, where they name what cannot be found."""
    try:
        return typing.get_type_hints(method), ()
    except (NameError, AttributeError, TypeError) as error:
        return {}, (f"annotations of {method.__qualname__} are not used: {error}",)


# -- values --


def _take(name: str, value: Any, shape: Shape) -> Any:
    """An input as its annotation says."""
    if shape.kind == "array":
        if shape.dtype is None or not isinstance(value, np.ndarray) or value.dtype == shape.dtype:
            return value
        if value.dtype.kind in "biuf" and np.can_cast(value.dtype, shape.dtype, "same_kind"):
            return value.astype(shape.dtype)
        raise InvalidRequest(f"input {name!r} is {datatype_of(value)}; expected {shape.datatype}")
    items = value.reshape(-1).tolist() if isinstance(value, np.ndarray) else value
    if isinstance(items, (str, bytes, Mapping)):
        items = [items]
    taken = [_item(name, each, shape) for each in items]
    if shape.many:
        return taken
    if len(taken) != 1:
        raise InvalidRequest(f"input {name!r} has {len(taken)} values; expected one ({shape.datatype}, shape [1])")
    return taken[0]


def _item(name: str, value: Any, shape: Shape) -> Any:
    if shape.kind == "str":
        if isinstance(value, bytes):
            try:
                return value.decode()
            except UnicodeDecodeError as error:
                raise InvalidRequest(f"input {name!r} is no UTF-8 text: {error}") from error
        wanted, fits = "text (BYTES)", isinstance(value, str)
    elif shape.kind == "bytes":
        if isinstance(value, str):
            return value.encode()
        wanted, fits = "bytes (BYTES)", isinstance(value, bytes)
    elif shape.kind == "json":
        if isinstance(value, (bytes, str)):
            try:
                value = msgspec.json.decode(value)
            except msgspec.DecodeError as error:
                raise InvalidRequest(f"input {name!r} is no JSON: {error}") from error
        wanted, fits = "a JSON object", isinstance(value, Mapping)
    elif shape.datatype == "BOOL":
        wanted, fits = "true or false (BOOL)", isinstance(value, bool)
    elif shape.datatype == "INT64":
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        wanted, fits = "a whole number (INT64)", isinstance(value, int) and not isinstance(value, bool)
    else:
        if isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        wanted, fits = "a number (FP64)", isinstance(value, float)
    if not fits:
        raise InvalidRequest(f"input {name!r} holds {type(value).__name__}; expected {wanted}")
    return value


def _frame(inputs: Values, name: str) -> Any:
    """All inputs as one DataFrame: the request's codec made it, or each is a column."""
    import pandas as pd

    for only in ("", name):
        if isinstance(inputs.get(only), pd.DataFrame):
            return inputs[only]
    columns = {}
    for column, value in inputs.items():
        if value.ndim > 1 and len(inputs) == 1:
            return pd.DataFrame(value)
        items = value.reshape(-1)
        if items.dtype == np.dtype(object):
            items = [_item(column, each, Shape("str", "BYTES")) for each in items.tolist()]
        columns[column] = items
    try:
        return pd.DataFrame(columns)
    except ValueError as error:
        raise InvalidRequest(f"inputs make no table: {error}") from error


def _by_name(answer: Any, declared: tuple[TensorSpec, ...]) -> dict[str, Any]:
    """Outputs by name from whatever was answered."""
    if isinstance(answer, np.ndarray):
        return {declared[0].name if declared else "output-0": answer}
    if isinstance(answer, Mapping):
        return {str(name): value for name, value in answer.items()}
    if isinstance(answer, tuple):
        if hasattr(answer, "_asdict"):
            return dict(answer._asdict())
        return {f"output-{position}": value for position, value in enumerate(answer)}
    if dataclasses.is_dataclass(answer) and not isinstance(answer, type):
        return {field.name: getattr(answer, field.name) for field in dataclasses.fields(answer)}
    if isinstance(answer, msgspec.Struct):
        return msgspec.structs.asdict(answer)
    if hasattr(answer, "iloc") and hasattr(answer, "columns"):
        return {str(name): answer[name].to_numpy() for name in answer.columns}
    return {declared[0].name if declared else "output-0": answer}


def _give(value: Any, datatype: str | None) -> Any:
    """An output as an array, where it is one; text and documents stay for their codec, as a list.

    Args:
        value: What the class answered.
        datatype: What its annotation says; empty: its codec knows; None: it says nothing.
    """
    if isinstance(value, np.ndarray):
        return _bytes_array(value.reshape(-1).tolist(), value.shape) if value.dtype.kind in "SU" else _plain(value)
    if isinstance(value, np.generic):
        return np.asarray(value).reshape(1)
    if isinstance(value, bytes):
        return _bytes_array([value], (1,))
    if isinstance(value, (str, dict)):
        return [value]
    if isinstance(value, (bool, int, float)):
        return np.array([value])
    if hasattr(value, "to_numpy"):
        return _give(value.to_numpy(), datatype)
    if isinstance(value, (list, tuple)):
        if datatype == "":
            return list(value)
        if (value or datatype == "BYTES") and all(isinstance(each, bytes) for each in value):
            return _bytes_array(value, (len(value),))
        if value and all(isinstance(each, (str, Mapping)) for each in value):
            return list(value)
        return np.asarray(value, None if value or datatype is None else DTYPES[datatype])
    return value


def _plain(array: Array) -> Array:
    """An object array of texts as bytes, which is what BYTES is; anything else as it is."""
    if array.dtype.kind != "O" or array.size == 0:
        return array
    items = array.reshape(-1).tolist()
    if any(isinstance(each, str) for each in items) and all(isinstance(each, (str, bytes)) for each in items):
        return _bytes_array(items, array.shape)
    return array


def _bytes_array(items: Sequence[Any], shape: tuple[int, ...]) -> Array:
    array = np.empty(len(items), np.object_)
    array[:] = [each.encode() if isinstance(each, str) else each for each in items]
    return array.reshape(shape)


# -- code --


def _called(found: Any) -> str:
    kind = found if isinstance(found, type) else type(found)
    return f"{kind.__module__.removeprefix(PREFIX).partition('@')[0]}:{kind.__qualname__}"


def _classes_of(module: types.ModuleType) -> list[str]:
    return [
        name
        for name, each in vars(module).items()
        if isinstance(each, type) and any(callable(getattr(each, method, None)) for method in _METHODS)
    ]


def _model_classes(file: Path) -> list[str]:
    """The classes in a Python file that have a predict, less those that others derive from; `Model` stands for all.

    A file that cannot be read or parsed has none.
    """
    try:
        if file.stat().st_size > _LARGEST_SOURCE:
            return []
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return []
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    bases = {name: [base.id for base in node.bases if isinstance(base, ast.Name)] for name, node in classes.items()}

    def predicts(name: str, seen: frozenset[str] = frozenset()) -> bool:
        if name not in classes or name in seen:
            return False
        own = {node.name for node in classes[name].body if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))}
        return bool(own & _METHODS) or any(predicts(base, seen | {name}) for base in bases[name])

    found = [name for name in classes if predicts(name) and not name.startswith("_")]
    found = [name for name in found if not any(name in bases[other] for other in found)]
    return [_CLASS] if _CLASS in found else found
