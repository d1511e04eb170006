"""Component classes written for Seldon Core v1's Python wrapper, served as models: the load and predict steps.

    class MyModel:                                # in MyModel.py; a base class is optional
        def __init__(self, factor=2.0): ...       # `parameters` of headrace.yaml, or of the graph's node
        def load(self): ...
        def predict(self, X, names, meta=None): ...

`Source.reference` is `file.py:Class` or `module:Class`; a path alone is a file, or a folder with one, whose class is
named as the file. The parameter `method` says what the class is asked for: `predict`, `transform_input` (a node of type
TRANSFORMER) or `transform_output` (OUTPUT_TRANSFORMER); without it, the first of these that it has. A class whose
constructor takes `method` itself keeps it. All other parameters are the constructor's. Routers and combiners are no
models: a pipeline's steps take them by `route` and `combine` of type custom.

Requests come whole, as names of columns and tags travel beside the tensors (`compat.seldon` says how). Tags are the
answer's parameter `tags`; metrics are the model's own metrics. Calls run in a thread, one at a time, until they have
shown to be quick (`compat.code`).

`init_metadata` is the signature: inputs and outputs in the V2 form (name, datatype, shape), or Seldon's (messagetype,
schema of names and shape). Without it nothing is declared, and anything is taken.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final

import msgspec
import numpy as np

from headrace.compat import seldon
from headrace.compat.code import Call, Own, load, loaded_object
from headrace.errors import InvalidRequest, LoadFailed, SettingsError, UnsafeArtifact
from headrace.payload import (
    DTYPES,
    EMPTY,
    InferenceRequest,
    InferenceResponse,
    Signature,
    Tensor,
    TensorSpec,
    datatype_of,
)
from headrace.runtimes.base import Recognition, Runtime, Source, Values
from headrace.runtimes.own_code import OwnCode

METHODS: Final = ("predict", "transform_input", "transform_output")
"""What a model can be asked for, the first that a class has unless told otherwise."""
_METHOD: Final = "method"
_OTHERS: Final = frozenset({"route", "aggregate"})
_NAMES: Final = re.compile(r"(features?_?)?names(_list)?")
"""The second argument of a component's methods, as people call it."""
_LARGEST_SOURCE: Final = 1 << 20
_TAGS: Final = "tags"
REWARD: Final = "headrace-reward"
"""The parameter of a request that asks nothing: it was asked before, and its answer was worth so much."""
TRUTH: Final = "headrace-truth"
"""Beside `REWARD`: what should have been answered, as lists; may be missing."""
TOLD: Final = "feedback"
"""The property of a signature whose component wants to be told."""


class SeldonRuntime(Runtime):
    """An object of a component class."""

    whole: ClassVar[bool] = True
    is_async = True

    def __init__(self, source: Source) -> None:
        super().__init__(source)
        self._own: Own | None = None
        self._component: seldon.Component | None = None
        self._call: Call | None = None
        self._method = ""
        self._output = seldon.OUTPUT
        self._measured: list[tuple[str, str, float]] = []

    @classmethod
    def recognise(cls, path: Path) -> Recognition | None:
        """A Python file, or a folder with one, that holds a component class of the file's name. Reads, never runs."""
        file = _component_file(path)
        return None if file is None else Recognition(f"Seldon component {file.stem} in {file.name}", 0.9)

    def load(self) -> Signature:
        """Import the class, construct it with the parameters, call its `load`, and read its metadata.

        Raises:
            LoadFailed: there is no such module or class, or it is no model; what its own code raises is chained.
            UnsafeArtifact: the code comes from where nobody is trusted to run code.
            SettingsError: a parameter that the constructor does not take, or one that it misses.
        """
        self._own = self._load()
        component = self._component = seldon.Component(self._own.found, self._own.name)
        self._method = self._method or next((each for each in METHODS if component.offers(each)), "")
        if not self._method:
            kind = next((each for each in _OTHERS if component.offers(each)), "")
            hint = f"; it has {kind}: name it by a step's `route` or `combine`" if kind else ""
            raise LoadFailed(f"{component.name} is no model: expected a method {', '.join(METHODS)}{hint}")
        if not component.offers(self._method):
            raise LoadFailed(f"{component.name} has no {self._method}, which `method` asks for")
        self._call = Call(self._answered, name=component.name, owner=self._own.found)
        return self._describe(component)

    def predict(self, inputs: Values, outputs: Sequence[str] = (), parameters: Mapping[str, Any] = EMPTY) -> Any:
        """Outputs by name, for callers that have arrays only; requests come whole, to `answer`."""
        tensors = [Tensor(name, datatype_of(value), value) for name, value in inputs.items()]
        answer = self._answered(tensors, {})
        return {each.name: each.data for each in self._wanted(answer.tensors, outputs)}

    async def answer(self, request: InferenceRequest) -> InferenceResponse:
        """What the component answers.

        Raises:
            InvalidRequest: several tensors that are no columns of one array, or an output that it does not give.
            ModelError: it raised an exception with an HTTP status, as Seldon's own have.
        """
        assert self._call is not None
        if REWARD in request.parameters:
            await self._call(request.inputs, request.parameters)
            return InferenceResponse(model_name="", outputs=())
        meta = getattr(request, "meta", EMPTY)  # of a request that came as a SeldonMessage
        answer: seldon.Answer = await self._call(request.inputs, meta)
        return InferenceResponse(
            model_name="",
            outputs=self._wanted(answer.tensors, [output.name for output in request.outputs]),
            parameters={_TAGS: dict(answer.tags)} if answer.tags else EMPTY,
        )

    def logged(self) -> list[tuple[str, str, float]]:
        """What the component's `metrics` gave since the last call."""
        measured, self._measured = self._measured, []
        return measured

    def unload(self) -> None:
        """Call the class's `unload`, where it has one, and forget its code."""
        own, self._own, self._component, self._call = self._own, None, None, None
        if own is not None:
            own.close()

    # -- loading --

    def _load(self) -> Own:
        source = self.source
        parameters = dict(source.parameters)
        if source.model is not None:
            self._method = self._taken(source.model, parameters)
            return loaded_object(source.model, parameters)
        reference, base = source.reference, str(source.path or "")
        if not reference:
            file = _component_file(source.path) if source.path is not None else None
            if file is None:
                raise LoadFailed(f"{source.path} holds no component named as its file; name one by `reference`")
            reference, base = f"{file.absolute()}:{file.stem}", str(file.absolute().parent)
        elif source.path is not None and not source.path.is_dir():
            base = str(source.path.absolute().parent)
        if source.allowed_globals is not None:
            raise UnsafeArtifact(
                f"{reference} is Python code, which the load policy refuses to run; if you trust whoever wrote it, "
                "set `load_policy: trusted`"
            )

        def parameters_of(found: Any) -> Mapping[str, Any]:
            self._method = self._taken(found, parameters)
            return parameters

        return load(reference, base=base, parameters=parameters_of, code=OwnCode)

    @staticmethod
    def _taken(found: Any, parameters: dict[str, Any]) -> str:
        """What `method` says, taken out of the parameters; empty where it is the constructor's own, or not there."""
        if _METHOD not in parameters or (isinstance(found, type) and _METHOD in inspect.signature(found).parameters):
            return ""
        method = parameters.pop(_METHOD)
        if method not in METHODS:
            raise SettingsError(f"parameter 'method' is {method!r}; expected one of {', '.join(METHODS)}")
        return str(method)

    def _describe(self, component: seldon.Component) -> Signature:
        said = component.said("init_metadata")
        said = said if isinstance(said, Mapping) else {}
        inputs, outputs = _specs(said.get("inputs"), "input"), _specs(said.get("outputs"), "output")
        if len(outputs) != 1:
            outputs = ()  # a component gives one
        self._output = outputs[0].name if outputs else seldon.OUTPUT
        return Signature(
            platform=str(said.get("platform") or "seldon"),
            inputs=inputs,
            outputs=outputs,
            strict=False,
            batchable=False,
            properties={
                "class": component.name,
                _METHOD: self._method,
                **({TOLD: "send_feedback"} if self._method == METHODS[0] and component.offers("send_feedback") else {}),
            },
        )

    # -- answering --

    def _answered(self, inputs: Sequence[Tensor], meta: Mapping[str, Any]) -> seldon.Answer:
        component = self._component
        assert component is not None
        if REWARD in meta:
            truth = np.asarray(meta[TRUTH]) if TRUTH in meta else None
            component.feedback(inputs, float(meta[REWARD]), truth=truth)
            return seldon.Answer((), EMPTY, ())
        answer = component.asked(self._method, inputs, meta=meta)
        for each in answer.metrics:
            key, value = each.get("key"), each.get("value")
            if isinstance(key, str) and isinstance(value, int | float):
                self._measured.append((key, f"{each.get('type', '')} of {component.name}", float(value)))
        (tensor,) = answer.tensors
        if tensor.name != self._output:
            return answer._replace(tensors=(msgspec.structs.replace(tensor, name=self._output),))
        return answer

    def _wanted(self, tensors: tuple[Tensor, ...], names: Sequence[str]) -> tuple[Tensor, ...]:
        for name in names:
            if name != self._output:
                raise InvalidRequest(f"output {name!r} is not one of the model's: expected {self._output}")
        return tensors


def _specs(said: Any, role: str) -> tuple[TensorSpec, ...]:
    """Inputs or outputs of `init_metadata`, in either form; those in none are left out."""
    found = []
    for at, each in enumerate(said if isinstance(said, Sequence) else ()):
        if not isinstance(each, Mapping):
            continue
        schema = each.get("schema")
        if each.get("datatype") in DTYPES:
            shape = tuple(int(size) for size in each.get("shape") or ())
            found.append(TensorSpec(name=str(each.get("name")), datatype=str(each["datatype"]), shape=shape))
        elif each.get("messagetype") in {"tensor", "ndarray", "tftensor"} and isinstance(schema, Mapping):
            shape = tuple(int(size) for size in schema.get("shape") or (len(schema.get("names") or ()) or -1,))
            found.append(TensorSpec(name=f"{role}-{at}", datatype="FP64", shape=(-1, *shape)))
    return tuple(found)


# -- recognising --


def _component_file(path: Path) -> Path | None:
    """The file that holds a component of its own name: this one, or the only such file of a folder."""
    if (path / "MLmodel").is_file() or (path / "model-settings.json").is_file():
        return None
    files = sorted(path.glob("*.py")) if path.is_dir() else [path]
    found = [file for file in files if file.suffix == ".py" and file.is_file() and _is_component(file)]
    return found[0] if len(found) == 1 else None


def _is_component(file: Path) -> bool:
    try:
        if file.stat().st_size > _LARGEST_SOURCE:
            return False
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return False
    found = next((node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == file.stem), None)
    if found is None:
        return False
    if any(_last(base) == "SeldonComponent" for base in found.bases):
        return True
    return any(
        isinstance(node, ast.FunctionDef)
        and (node.name in METHODS or node.name in _OTHERS)
        and len(node.args.args) > 2
        and _NAMES.fullmatch(node.args.args[2].arg) is not None
        for node in found.body
    )


def _last(base: ast.expr) -> str:
    return base.attr if isinstance(base, ast.Attribute) else base.id if isinstance(base, ast.Name) else ""
