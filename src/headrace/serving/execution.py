"""Steps 6 and 7 of the walk, where the model is: arrays to what the model takes, predict, and back to tensors.

The same code runs on the loop, in a lane's thread and in a worker process; whoever holds the runtime holds one
`Execution` of it.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, Final, TypeAlias

import msgspec
import numpy as np

from headrace import codecs
from headrace.errors import HeadraceError, InvalidRequest, ModelError, RuntimeFailed
from headrace.payload import (
    DTYPES,
    EMPTY,
    Array,
    InferenceRequest,
    InferenceResponse,
    RouteRequest,
    RouteResponse,
    Signature,
    Tensor,
    datatype_of,
)
from headrace.runtimes.base import Runtime, Values
from headrace.serving.decoding import UNCOUNTED, Call

_DATATYPES: Final = {dtype: name for name, dtype in DTYPES.items() if name not in ("BF16", "BYTES")}
_ARRAY_TYPES: Final = frozenset({"", "np"})  # content types that ask for an array, which a tensor's data is
_SEPARABLE: Final = (InvalidRequest, ValueError, TypeError, LookupError, ArithmeticError)
FRAME: Final = ""
"""The name of the one value that a request-level content type makes of all inputs."""
_LEAST_OWN_FAULT: Final = 500  # below this status a ModelError blames the input
_PLACES_KEPT: Final = 64  # failures of one model that are shown with their traceback
_TEXT_KEPT: Final = 1000  # characters of a foreign exception; some carry the whole input

_log: Final = logging.getLogger(__name__)

Logged: TypeAlias = tuple[tuple[str, str, float], ...]
"""Metric name, description, value."""
Piece: TypeAlias = tuple[Tensor, ...] | InferenceResponse
"""A part of a stream: tensors, or the whole response of a runtime that takes whole requests."""


class Outcome(msgspec.Struct, gc=False):
    """How a predict ended: tensors, or the error in their place."""

    tensors: tuple[Tensor, ...]
    predict_ns: int
    error: HeadraceError | None = None
    separable: bool = False
    """The input may be to blame, so requests merged into this predict are worth another one each."""
    response: InferenceResponse | RouteResponse | None = None
    """Of a call with a whole request: what the runtime answered; `tensors` are its outputs."""
    logged: Logged = ()
    """What the model's code measured of itself."""


class Execution:
    """One runtime, as arrays in and tensors out."""

    def __init__(self, model: str, runtime: Runtime, signature: Signature) -> None:
        self.model = model
        self.runtime = runtime
        self.signature = signature
        self.defaults = signature.default_outputs or tuple(each.name for each in signature.outputs)
        self._takes = {
            each.name: each.content_type for each in signature.inputs if each.content_type not in _ARRAY_TYPES
        }
        self._datatypes = {each.name: each.datatype for each in signature.inputs}
        self._gives = {
            each.name: each.content_type for each in signature.outputs if each.content_type not in _ARRAY_TYPES
        }
        self._bf16 = frozenset(each.name for each in signature.outputs if each.datatype == "BF16")
        self.takes_arrays = not self._takes and not signature.content_type
        """What the model takes are the arrays as they come: `values` has nothing to do."""
        self._shown: set[tuple[type, str, int]] = set()
        self.is_trying = False
        """What it is asked was made up here: a model that fails on it is not to blame, and nothing of it is logged."""

    def attempt(self, call: Call) -> Outcome:
        """Predict, or visit where the call is of a route, and never raise."""
        if call.request is not None:
            return self._visit(call.request)
        began = time.perf_counter_ns()
        try:
            answer = self.runtime.predict(self.values(call.arrays), call.outputs, call.parameters)
            took = time.perf_counter_ns() - began
            return Outcome(self.encode(answer, call.outputs, call.rows), took)
        except (Exception, SystemExit) as exc:  # noqa: BLE001 - a model may raise anything; it ends the request alone
            return self.failure(exc, time.perf_counter_ns() - began)

    async def attempt_async(self, call: Call) -> Outcome:
        """The same for a runtime whose predict is awaited; cancellation passes through."""
        began = time.perf_counter_ns()
        try:
            answer = await self.runtime.predict(self.values(call.arrays), call.outputs, call.parameters)
            took = time.perf_counter_ns() - began
            return Outcome(self.encode(answer, call.outputs, call.rows), took)
        except (Exception, SystemExit) as exc:  # noqa: BLE001 - as above
            return self.failure(exc, time.perf_counter_ns() - began)

    def attempting(self, call: Call) -> Coroutine[Any, Any, Outcome]:
        """`attempt_async` of whatever call: of arrays, of a whole request, of a route."""
        request = call.request
        if request is None:
            return self.attempt_async(call)
        if isinstance(request, RouteRequest):
            return self._visit_async(request)
        return self._answer(request)

    async def _answer(self, request: InferenceRequest) -> Outcome:
        began = time.perf_counter_ns()
        try:
            response = self.checked(await self.runtime.answer(request))
            took = time.perf_counter_ns() - began
            return Outcome(response.outputs, took, response=response, logged=tuple(self.runtime.logged()))
        except (Exception, SystemExit) as exc:  # noqa: BLE001 - as above
            return self.failure(exc, time.perf_counter_ns() - began)

    async def _visit_async(self, request: RouteRequest) -> Outcome:
        began = time.perf_counter_ns()
        try:
            answer: Any = self.runtime.visit(request)
            return self._visited(await answer if inspect.isawaitable(answer) else answer, began)
        except (Exception, SystemExit) as exc:  # noqa: BLE001 - as above
            return self.failure(exc, time.perf_counter_ns() - began)

    def _visit(self, request: InferenceRequest | RouteRequest) -> Outcome:
        """The same where nothing can be awaited; an awaitable answer has a loop of its own, unless this is the loop."""
        began = time.perf_counter_ns()
        try:
            if not isinstance(request, RouteRequest):
                raise RuntimeFailed(  # noqa: TRY301 - one of the ways that this attempt ends
                    f"model '{self.model}': a runtime that takes whole requests must be async; set is_async"
                )
            answer: Any = self.runtime.visit(request)
            return self._visited(self._run(answer) if inspect.iscoroutine(answer) else answer, began)
        except (Exception, SystemExit) as exc:  # noqa: BLE001 - as above
            return self.failure(exc, time.perf_counter_ns() - began)

    def _run(self, visit: Coroutine[Any, Any, Any]) -> Any:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run(visit)
        visit.close()
        raise RuntimeFailed(
            f"model '{self.model}': visit is async but predict is not; choose placement 'thread' or 'process', or make "
            f"it a plain method"
        )

    def _visited(self, answer: Any, began: int) -> Outcome:
        took = time.perf_counter_ns() - began
        if not isinstance(answer, RouteResponse):
            raise RuntimeFailed(f"model '{self.model}': expected a RouteResponse, got {type(answer).__name__}")
        return Outcome((), took, response=answer, logged=tuple(self.runtime.logged()))

    def checked(self, answer: Any) -> InferenceResponse:
        """What a runtime answered to a whole request, if it is an answer.

        Raises:
            RuntimeFailed: it is none, or an output's datatype is not that of its array.
        """
        if not isinstance(answer, InferenceResponse):
            raise RuntimeFailed(f"model '{self.model}': expected an InferenceResponse, got {type(answer).__name__}")
        for tensor in answer.outputs:
            if tensor.data.dtype != DTYPES.get(tensor.datatype) and tensor.datatype != "BYTES":
                raise RuntimeFailed(
                    f"model '{self.model}': output '{tensor.name}' is of datatype {tensor.datatype!r} but holds an "
                    f"array of {tensor.data.dtype}"
                )
        return answer

    def failure(self, exc: BaseException, predict_ns: int) -> Outcome:
        """What a predict that raised amounts to."""
        error = failed(self.model, exc)
        blames_input = isinstance(error, ModelError) and error.status < _LEAST_OWN_FAULT
        if isinstance(error, RuntimeFailed) and not (blames_input or self.is_trying) and error.__cause__ is not None:
            self._show(error.__cause__)
        separable = blames_input or isinstance(exc, _SEPARABLE)
        return Outcome((), predict_ns, error, separable, logged=tuple(self.runtime.logged()))

    def _show(self, cause: BaseException) -> None:
        """Log a failure of the model's code with its traceback, of which callers see one line; once for each place."""
        step = cause.__traceback__
        while step is not None and step.tb_next is not None:
            step = step.tb_next
        place = (type(cause), step.tb_frame.f_code.co_filename, step.tb_lineno) if step else (type(cause), "", 0)
        if place not in self._shown and len(self._shown) < _PLACES_KEPT:
            self._shown.add(place)
            _log.warning(
                "model '%s' failed; further failures at this place are told by a line", self.model, exc_info=cause
            )

    def stream(self, call: Call) -> Any:
        """The model's own iterator of partial answers, an async one where the runtime is."""
        if isinstance(call.request, InferenceRequest):
            return self.runtime.answer_stream(call.request)
        return self.runtime.predict_stream(self.values(call.arrays), call.outputs, call.parameters)

    def piece(self, call: Call, answer: Any) -> Piece:
        """What the model's iterator gave, as a part of the stream. Raises as `encode` does."""
        return self.encode(answer, call.outputs, UNCOUNTED) if call.request is None else self.checked(answer)

    def values(self, arrays: dict[str, Array]) -> Values:
        """What the model takes: the arrays, or what its signature's content types make of them.

        Raises:
            InvalidRequest: a tensor's content is not of its content type.
        """
        if self.takes_arrays:
            return arrays
        if self.signature.content_type:
            tensors = tuple(self._tensor(name, array) for name, array in arrays.items())
            return {FRAME: codecs.decode_request(tensors, self.signature.content_type)}
        return {
            name: codecs.decode(self._tensor(name, array), self._takes[name]) if name in self._takes else array
            for name, array in arrays.items()
        }

    def _tensor(self, name: str, array: Array) -> Tensor:
        content_type = self._takes.get(name, "")
        parameters = {"content_type": content_type} if content_type else EMPTY
        return Tensor(name, self._datatypes.get(name) or datatype_of(array), array, parameters)

    def encode(self, answer: Any, wanted: Sequence[str], rows: int) -> tuple[Tensor, ...]:
        """The model's answer as tensors, in the order wanted.

        Args:
            answer: Outputs by name.
            wanted: Names; empty: the default outputs.
            rows: How many each output must have; UNCOUNTED: any.

        Raises:
            RuntimeFailed: the answer is not what the model promised: names the output, what was expected, what came.
        """
        if type(answer) is not dict and not isinstance(answer, Mapping):
            raise RuntimeFailed(
                f"model '{self.model}': expected outputs by name, got {type(answer).__name__}; return a dict"
            )
        tensors = []
        for name in wanted or self.defaults or answer:
            try:
                value = answer[name]
            except KeyError:
                raise self._absent(name, answer) from None
            if type(value) is np.ndarray and (datatype := _DATATYPES.get(value.dtype)) is not None:
                if datatype == "UINT16" and name in self._bf16:
                    datatype = "BF16"
                tensor = Tensor(name, datatype, value)
            else:
                tensor = self._encode(name, value)
                value = tensor.data
            shape = value.shape
            if rows != UNCOUNTED and (not shape or shape[0] != rows):
                raise RuntimeFailed(
                    f"model '{self.model}': output '{name}' has shape [{','.join(map(str, shape))}] for {rows} rows of "
                    f"input; expected one row out for each row in (a model that cannot says batchable: false)"
                )
            tensors.append(tensor)
        return tuple(tensors)

    def _absent(self, name: str, answer: Mapping[str, Any]) -> RuntimeFailed:
        came = ", ".join(map(repr, answer)) or "none"
        return RuntimeFailed(f"model '{self.model}': expected an output '{name}', got {came}")

    def _encode(self, name: str, value: Any) -> Tensor:
        """One output that is not an array of numbers in this machine's byte order."""
        try:
            content_type = self._gives.get(name, "")
            if isinstance(value, np.generic):
                value = np.asarray(value)
            if isinstance(value, np.ndarray) and not content_type:
                if value.dtype.kind in "SUO":
                    return _textual(name, value)
                if value.dtype.newbyteorder("=") in _DATATYPES:
                    native = value.astype(value.dtype.newbyteorder("="))
                    return Tensor(name, datatype_of(native), native)
            return codecs.encode(name, value, content_type)
        except (InvalidRequest, ValueError, TypeError, AttributeError) as exc:
            raise RuntimeFailed(
                f"model '{self.model}': output '{name}' is {_described(value)}, which no tensor carries: {_line(exc)}"
            ) from exc


def failed(model: str, exc: BaseException) -> HeadraceError:
    """The error that a caller sees for what a model raised; ours pass, foreign ones become RuntimeFailed, chained."""
    if isinstance(exc, HeadraceError):
        return exc
    error = RuntimeFailed(f"model '{model}': {type(exc).__name__}: {_line(exc)}")
    error.__cause__ = exc
    return error


def _textual(name: str, array: Array) -> Tensor:
    """Text and bytes as BYTES; an object array of numbers as numbers."""
    values = array.reshape(-1).tolist()
    if all(isinstance(value, str) for value in values):
        values = [value.encode() for value in values]
    elif not all(isinstance(value, bytes) for value in values):
        if all(isinstance(value, (str, bytes)) for value in values):
            values = [value.encode() if isinstance(value, str) else value for value in values]
        elif all(isinstance(value, (bool, int, float)) for value in values):
            numbers = np.asarray(values).reshape(array.shape)
            return Tensor(name, datatype_of(numbers), numbers)
        else:
            kinds = ", ".join(sorted({type(value).__name__ for value in values}))
            raise ValueError(f"expected text, bytes or numbers, got elements of {kinds}")
    data = np.empty(array.size, np.object_)
    data[:] = values
    return Tensor(name, "BYTES", data.reshape(array.shape))


def _described(value: Any) -> str:
    return f"an array of {value.dtype}" if isinstance(value, np.ndarray) else f"of type {type(value).__name__}"


def _line(exc: BaseException) -> str:
    return " ".join(str(exc).split())[:_TEXT_KEPT]
