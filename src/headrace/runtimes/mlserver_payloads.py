"""Requests as MLServer's classes and its answers as ours, for the runtime `mlserver`: step 6 of the walk, both ends.

Its runtimes see lists, with text as `str` where the wire is JSON and as `bytes` where it is gRPC, and the transport's
headers among the parameters. Its answers are whatever people write, so an output is read leniently: nested lists are
flattened, a scalar is one element, null is NaN among numbers, what is no text in a BYTES output is its JSON, and where
shape or datatype does not fit the data, the data count (a warning says so, once for each output's name).
"""

from __future__ import annotations

import datetime as dt
import enum
import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec
import numpy as np

from headrace.errors import ModelError
from headrace.payload import (
    DTYPES,
    EMPTY,
    Array,
    InferenceRequest,
    InferenceResponse,
    Parameters,
    RequestedOutput,
    Tensor,
    datatype_of,
)

_log = logging.getLogger(__name__)
_GRPC: Final = "v2_grpc"
_HEADERS: Final = "headers"
_MOST_WARNINGS: Final = 100
"""Outputs' names that are remembered as warned of; code that invents names must not fill the memory."""


class Payloads:
    """Translates for one model.

    Args:
        types: The module `mlserver.types`.
        build: What makes its values: the stand-in's own quick functions, or `Original`.
        model: The model's name, for messages and for answers that name none.
    """

    def __init__(self, types: Any, build: Any, model: str) -> None:
        self._model = model
        self._build = build
        self._held: Callable[[Any], Array | None] = build.held
        self._response_class = types.InferenceResponse
        self._warned: set[str] = set()

    # -- requests --

    def request(self, request: InferenceRequest) -> Any:
        """As `mlserver.types.InferenceRequest`."""
        build = self._build
        text = request.protocol != _GRPC
        inputs = []
        for each in request.inputs:
            datatype, array = each.datatype, each.data
            if datatype == "BF16":  # which MLServer does not have: the same numbers in FP32
                datatype, array = "FP32", (array.astype(np.uint32) << 16).view(np.float32)
            parameters = build.parameters(each.parameters) if each.parameters else None
            inputs.append(
                build.request_input(
                    each.name, datatype, array, parameters=parameters, nulls=text, text=text, nested=each.nested
                )
            )
        return build.request(
            inputs,
            id=request.id or None,
            parameters=build.parameters(request.parameters, request.headers),
            outputs=[self._output_of(each) for each in request.outputs] or None,
        )

    def _output_of(self, output: RequestedOutput) -> Any:
        parameters = self._build.parameters(output.parameters) if output.parameters else None
        return self._build.request_output(output.name, parameters=parameters)

    # -- responses --

    def is_response(self, response: Any) -> bool:
        """Whether it is an `mlserver.types.InferenceResponse`."""
        return isinstance(response, self._response_class)

    def response(self, response: Any, request: InferenceRequest) -> InferenceResponse:
        """What the model answered, as ours.

        Raises:
            ModelError: it is no response, or an output holds what no datatype carries.
        """
        if not isinstance(response, self._response_class):
            raise ModelError(
                f"Model '{self._model}' returned no predictions after inference: expected an InferenceResponse, "
                f"came {type(response).__name__}"
            )
        parameters = _parameters(response.parameters)
        headers: Mapping[str, str] = EMPTY
        if _HEADERS in parameters:
            parameters = dict(parameters)
            given = parameters.pop(_HEADERS)
            if isinstance(given, Mapping):
                headers = {str(name): _header(value) for name, value in given.items()}
        return InferenceResponse(
            model_name=response.model_name or self._model,
            model_version=response.model_version or "",
            id=request.id or response.id or "",  # as MLServer has it: the caller's id wins
            parameters=parameters,
            headers=headers,
            outputs=tuple([self._tensor(each) for each in response.outputs or ()]),
        )

    def _tensor(self, output: Any) -> Tensor:
        name = output.name
        datatype = output.datatype
        if type(datatype) is not str:
            datatype = str(getattr(datatype, "value", datatype))
        if datatype not in DTYPES:
            raise ModelError(
                f"Model '{self._model}' answered output '{name}' with datatype {datatype!r}; expected one of "
                f"{', '.join(DTYPES)}"
            )
        data = self._held(output.data)
        if data is None:
            data = getattr(output.data, "root", output.data)
        shape = output.shape or ()
        try:
            fitting, array = (
                ("BYTES", _bytes(data, shape)) if datatype == "BYTES" else _numbers(data, datatype, self._model, name)
            )
        except (ValueError, TypeError, OverflowError) as error:
            raise ModelError(
                f"Model '{self._model}' answered output '{name}' with data that {datatype} cannot carry: {error}"
            ) from error
        if fitting != datatype:
            self._warn(name, f"says {datatype} but holds {fitting}; it is answered as {fitting}")
        try:
            array = array.reshape(shape)
        except (ValueError, TypeError):
            array = array.reshape(-1)
            self._warn(name, f"says shape {[*shape]} but holds {array.size} elements; it is answered as [{array.size}]")
        return Tensor(name, fitting, array, _parameters(output.parameters))

    def _warn(self, name: str, text: str) -> None:
        if name not in self._warned and len(self._warned) < _MOST_WARNINGS:
            self._warned.add(name)
            _log.warning("model '%s': output '%s' %s", self._model, name, text)


# -- texts --


def _bytes(data: Any, shape: Sequence[int]) -> Array:
    """A flat array of bytes: the elements at the depth where there are as many as the shape has."""
    if isinstance(data, np.ndarray):
        items = data.ravel().tolist()
    elif isinstance(data, (str, bytes, bytearray, memoryview, Mapping)) or not isinstance(data, Iterable):
        items = [data]
    else:
        items = [*data]
        wanted = math.prod(shape)
        level = items
        for _ in range(len(shape) - 1):
            if len(level) == wanted or not all(isinstance(each, (list, tuple)) for each in level):
                break
            level = [item for each in level for item in each]
        if len(level) == wanted:
            items = level
    array = np.empty(len(items), np.object_)
    array[:] = [each if type(each) is bytes else _encoded(each) for each in items]
    return array


def _encoded(item: Any) -> bytes:
    if isinstance(item, str):
        return item.encode(errors="surrogatepass")
    if isinstance(item, (bytes, bytearray, memoryview)):
        return bytes(item)
    return msgspec.json.encode(item, enc_hook=_plain)


# -- numbers --


def _numbers(data: Any, datatype: str, model: str, name: str) -> tuple[str, Array]:
    """A flat array and the datatype that it really has: the one it says, unless that would change a value."""
    dtype = DTYPES[datatype]
    if isinstance(data, (bytes, bytearray, memoryview)) or (
        isinstance(data, list) and data and type(data[0]) is bytes and datatype in {"FP16", "BF16"}
    ):
        return datatype, np.frombuffer(b"".join(data) if isinstance(data, list) else data, dtype.newbyteorder("<"))
    if dtype.kind == "f" or datatype == "BF16":
        wide = np.dtype(np.float32) if datatype == "BF16" else dtype
        try:
            array = np.asarray(data, wide).reshape(-1)
        except (ValueError, TypeError):
            return _natural(data, model, name)
        return datatype, _bfloat(array) if datatype == "BF16" else array
    array = np.asarray(data).reshape(-1)
    if array.dtype == dtype:
        return datatype, array
    if not array.size:
        return datatype, array.astype(dtype)
    if array.dtype.kind in "biuf":
        with np.errstate(invalid="ignore"):
            fitting = array.astype(dtype)
        if (fitting == array).all():
            return datatype, fitting
    if dtype == np.uint64 and isinstance(data, list):  # numpy alone takes its upper half among others for floats
        items = np.asarray(data, object).reshape(-1).tolist()
        if all(type(each) is int for each in items) and min(items) >= 0:
            return datatype, np.array(items, dtype)
    return _natural(data, model, name)


def _natural(data: Any, model: str, name: str) -> tuple[str, Array]:
    """The datatype that carries the data whatever was said of it: numbers with null are FP64, the rest is text."""
    try:
        array = np.asarray(data).reshape(-1)
    except ValueError:  # ragged
        array = np.empty(len(data), np.object_)
        array[:] = [*data]
    if array.dtype.kind in "biuf":
        return datatype_of(array), array
    items = array.tolist()
    if all(each is None or isinstance(each, (bool, int, float, np.generic)) for each in items):
        return "FP64", np.array(items, np.float64)
    if any(each is None for each in items) or not all(isinstance(each, (str, bytes)) for each in items):
        kinds = sorted({type(each).__name__ for each in items})
        raise ModelError(f"Model '{model}' answered output '{name}' with {', '.join(kinds)}; expected numbers")
    return "BYTES", _bytes(items, (len(items),))


def _bfloat(array: Array) -> Array:
    """FP32 as the bit patterns of BF16, rounded to the nearest even as hardware does."""
    bits = array.view(np.uint32)
    rounded = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    return np.where(np.isnan(array), np.uint32(0x7FC0), rounded >> np.uint32(16)).astype(np.uint16)


# -- parameters --


def _parameters(parameters: Any) -> Parameters:
    """What was set of `mlserver.types.Parameters` (or of a dict in its place), as plain JSON values."""
    if parameters is None:
        return EMPTY
    if isinstance(parameters, Mapping):
        members = {str(name): value for name, value in parameters.items()}
    else:
        members = {name: getattr(parameters, name, None) for name in parameters.model_fields_set}
    return {
        name: value if type(value) in _PLAIN else _plain_tree(value)
        for name, value in members.items()
        if value is not None
    }


_PLAIN: Final = frozenset({str, int, float, bool})


def _plain_tree(value: Any) -> Any:
    """JSON values all the way down."""
    if value is None or type(value) in _PLAIN:
        return value
    if isinstance(value, Mapping):
        return {str(name): _plain_tree(each) for name, each in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain_tree(each) for each in value]
    return _plain_tree(_plain(value))


def _plain(value: Any) -> Any:
    """A value that JSON lacks, as one that it has."""
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, (dt.datetime, dt.date, dt.time)):
        return value.isoformat()
    if isinstance(value, (bytes, bytearray)):
        return bytes(value).decode(errors="replace")
    if hasattr(value, "model_dump"):
        return value.model_dump()
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)
    return str(value)


def _header(value: Any) -> str:
    return value if type(value) is str else str(_plain_tree(value))


# -- the original package --


class Original:
    """Makes values of the original package, as the stand-in's own functions make ours."""

    def __init__(self, types: Any) -> None:
        self._types = types

    def parameters(self, values: Parameters, headers: Mapping[str, str] | None = None) -> Any:
        """Parameters, with `headers` in place of any there."""
        given = dict(values)
        if headers is not None:
            given[_HEADERS] = dict(headers)
        return self._types.Parameters.model_construct(**given)

    def request_input(
        self,
        name: str,
        datatype: str,
        array: Array,
        *,
        parameters: Any = None,
        nulls: bool = True,
        text: bool = False,
        nested: bool = False,
    ) -> Any:
        """An input; `nulls` lists NaN as None, `text` lists bytes as text, `nested` has lists in lists."""
        data = array.ravel().tolist()
        if datatype == "BYTES":
            data = [_text(each) for each in data] if text else data
        elif array.dtype.kind == "f" and nulls and np.isnan(array).any():
            data = [None if math.isnan(each) else each for each in data]
        if nested:
            data = _folded(data, array.shape)
        optional = {"parameters": parameters} if parameters is not None else {}
        return self._types.RequestInput.model_construct(
            name=name,
            shape=[*array.shape],
            datatype=datatype,
            data=self._types.TensorData.model_construct(data),
            **optional,
        )

    def request_output(self, name: str, *, parameters: Any = None) -> Any:
        """An output that is asked for."""
        return self._types.RequestOutput.model_construct(name=name, parameters=parameters)

    def request(self, inputs: list[Any], **others: Any) -> Any:
        """A request."""
        set_ = {name: value for name, value in others.items() if value is not None}
        return self._types.InferenceRequest.model_construct(inputs=inputs, **set_)

    def held(self, data: Any) -> Array | None:
        """The array behind an output's data: the original holds lists."""
        return None


def _folded(flat: list[Any], shape: Sequence[int]) -> list[Any]:
    """The elements as lists in lists."""
    for size in shape[:0:-1]:
        flat = [flat[start : start + size] for start in range(0, len(flat), size)]
    return flat


def _text(item: Any) -> Any:
    try:
        return item.decode() if isinstance(item, bytes) else item
    except UnicodeDecodeError:
        return item
