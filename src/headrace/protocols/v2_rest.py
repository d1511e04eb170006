"""Steps 2 and 7 of the walk for the Open Inference Protocol over HTTP: a body to a request, a response to a body.

The HTTP server calls `parse`, `render` and `render_error`; clients call `render_request` and `parse_response`.
Sources: the Open Inference Protocol's REST document, Triton's binary tensor data, classification and parameters
extensions.

What the documents leave open is decided so:

- Data may be flat or nested as its shape is; dimensions of 1 may be left out or added. Answers are flat.
- `null` is NaN in FP32 and FP64 and refused elsewhere; the tokens `NaN` and `Infinity` are not JSON and refused. NaN
  and infinities are answered as `null`. The binary form carries all of them.
- BF16 travels in the binary form only. BYTES are UTF-8 strings in JSON; an output that is not UTF-8 is refused
  with the advice to ask for `binary_data`.
- 1.0 is an integer, 1.5 is not; numbers that a datatype cannot hold are refused, also those that would be infinite.
- Unknown members are ignored, as other servers do. Of a member given twice, the last counts.
- One text in BYTES may have its length as its shape, `[5]` for `hello`, as MLServer's examples do: it is one element,
  of shape [1]. It may stand without a list around it.
- An answer whose `parameters` are any mapping but `payload.EMPTY` shows them, even when there are none.
- Parameters may be nested (clients send `headers` objects) up to 100 levels. `null` for an optional member is absence.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec
import numpy as np
import orjson
import simdjson

from headrace.errors import InvalidRequest, NotSupported, RuntimeFailed
from headrace.payload import (
    DTYPES,
    EMPTY,
    Array,
    InferenceRequest,
    InferenceResponse,
    Parameters,
    RequestedOutput,
    Signature,
    Tensor,
)
from headrace.protocols import bytes_tensor, classification, documents, numbers, status

PROTOCOL: Final = "v2_rest"
JSON: Final = b"application/json"
BINARY: Final = b"application/octet-stream"
_WIDE_BYTES: Final = 4096
"""From about 200 numbers on, simdjson is the faster reader: reading its document member by member costs 8 us."""
_KEPT_BYTES: Final = 4 << 20
"""A parser that read more is dropped: it would keep buffers of several times that size."""
_SIZE: Final = "binary_data_size"
_REGION: Final = "shared_memory_region"
_NUMERIC: Final = frozenset(DTYPES) - {"FP16", "BF16", "BYTES"}
"""What orjson writes from its buffer."""
_BRACKET: Final = ord("[")
_NOTHING: Final = msgspec.Raw(b"")
_NUMPY: Final = orjson.OPT_SERIALIZE_NUMPY


class Rendered(msgspec.Struct, frozen=True, gc=False):
    """A body and the headers that describe it."""

    body: bytes
    content_type: bytes = JSON
    header_length: int | None = None
    """For `Inference-Header-Content-Length`: the length of the JSON before the tensors; None: all is JSON."""


class _Input(msgspec.Struct, gc=False):
    name: str
    shape: tuple[int, ...]
    datatype: str
    data: msgspec.Raw = _NOTHING
    parameters: dict[str, Any] | None = None


class _Output(msgspec.Struct, gc=False):
    name: str
    parameters: dict[str, Any] | None = None


class _Body(msgspec.Struct, gc=False):
    inputs: tuple[_Input, ...]
    id: str | None = None
    parameters: dict[str, Any] | None = None
    outputs: tuple[_Output, ...] | None = None


_decode_body: Final = msgspec.json.Decoder(_Body).decode


class _Parsers(threading.local):
    """simdjson's rule: one parser a thread, and no object of its last document alive when the next begins."""

    idle: simdjson.Parser | None = None


_parsers: Final = _Parsers()


def parse(
    body: bytes | memoryview,
    *,
    model_name: str,
    model_version: str = "",
    header_length: int | None = None,
    signature: Signature | None = None,
    headers: Mapping[str, str] = EMPTY,
    deadline: float | None = None,
) -> InferenceRequest:
    """An inference request; binary tensors are read-only views of the body where its alignment allows.

    Args:
        body: The whole body, its content encoding undone.
        model_name: From the path.
        model_version: From the path; empty: the default version.
        header_length: `Inference-Header-Content-Length`; None: all is JSON; 0: all is the one tensor of the model.
        signature: The model's: needed for `header_length` 0, and says whether elements of BYTES may be any JSON value.
        headers: The transport's, lower-cased.
        deadline: On the clock of `time.monotonic`, seconds.

    Raises:
        InvalidRequest: the body is not JSON, lacks a member, or a tensor's data do not fit its shape and datatype.
        NotSupported: a tensor lies in shared memory.
    """
    if header_length is None:
        head: bytes | memoryview = body
        position = len(body)
    elif header_length == 0:
        return InferenceRequest(
            model_name=model_name,
            model_version=model_version,
            inputs=(_parse_raw(body, model_name, signature),),
            parameters={"binary_data_output": True},  # as the extension has it: what came raw is answered in bytes
            headers=headers,
            protocol=PROTOCOL,
            deadline=deadline,
        )
    else:
        if not 0 < header_length <= len(body):
            raise InvalidRequest(
                f"inference header size should be in range (0, {len(body)}), got: {header_length} "
                f"for model '{model_name}'"
            )
        head = body[:header_length]
        position = header_length

    quick = _quick if len(head) < _WIDE_BYTES else _wide
    objects = signature is not None and signature.objects
    parsed = quick(head, body, position) or _careful(head, body, position, model_name, "input", objects=objects)
    identity, inputs, outputs, parameters = parsed
    if len(inputs) > 1:
        _check_names((tensor.name for tensor in inputs), "input")
    if outputs:
        _check_names((output.name for output in outputs), "output")
        for output in outputs:
            if output.parameters:
                _check_output(output)
    if parameters:
        _check_parameters(parameters)
    return InferenceRequest(
        model_name=model_name,
        inputs=inputs,
        model_version=model_version,
        id=identity,
        outputs=outputs,
        parameters=parameters,
        headers=headers,
        protocol=PROTOCOL,
        deadline=deadline,
    )


# -- three roads from the JSON to tensors; the quick two answer None for whatever they are not sure of --

_Parsed = tuple[str, tuple[Tensor, ...], tuple[RequestedOutput, ...], Parameters]


def _quick(head: bytes | memoryview, body: bytes | memoryview, position: int) -> _Parsed | None:
    try:
        parsed = _decode_body(head)
        tensors = []
        for each in parsed.inputs:
            datatype = each.datatype
            parameters = each.parameters
            if parameters is None:  # without data, the empty text declines
                data = numbers.small(each.data, datatype, each.shape)
                nested = data.ndim > 1 and numbers.is_nested(each.data)
                tensors.append(Tensor(each.name, datatype, data, EMPTY, nested))
                continue
            if _REGION in parameters or (_SIZE in parameters) is not (each.data is _NOTHING):
                return None
            if _SIZE in parameters:
                size = parameters.pop(_SIZE)
                tensors.append(_binary(each, body, position, size, parameters or EMPTY))
                position += size
            else:
                data = numbers.small(each.data, datatype, each.shape)
                nested = data.ndim > 1 and numbers.is_nested(each.data)
                tensors.append(Tensor(each.name, datatype, data, parameters or EMPTY, nested))
    except numbers.DECLINED:
        return None
    if position != len(body):
        return None
    outputs: tuple[RequestedOutput, ...] = ()
    if parsed.outputs:
        outputs = tuple([RequestedOutput(each.name, each.parameters or EMPTY) for each in parsed.outputs])
    return parsed.id or "", tuple(tensors), outputs, parsed.parameters or EMPTY


def _binary(each: _Input, body: bytes | memoryview, position: int, size: int, parameters: Parameters) -> Tensor:
    """A numeric tensor among the bytes after the JSON."""
    datatype, shape = each.datatype, each.shape
    dtype = DTYPES[datatype]
    if type(size) is not int:  # true is 1, and 8.0 is 8
        raise TypeError(size)
    if datatype in {"BYTES", "BOOL"} or size != math.prod(shape) * dtype.itemsize or position + size > len(body):
        raise ValueError(datatype)
    if not size or shape == (-1,) or len(shape) > numbers.MAX_DIMENSIONS:
        raise ValueError(datatype)
    return Tensor(each.name, datatype, _view(body, position, dtype, shape), parameters)


def _view(body: bytes | memoryview, position: int, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
    """A view where the address suits the dtype, else an aligned copy: engines in C need not take unaligned numbers."""
    data: Array = np.ndarray(shape, dtype, body, position)
    if not data.flags.aligned:
        data = data.copy()
        data.flags.writeable = False
    return data


def _wide(head: bytes | memoryview, body: bytes | memoryview, position: int) -> _Parsed | None:
    if position != len(body):
        return None  # numbers as text and as bytes in one large request: rare enough for the careful road
    parser = _parsers.idle or simdjson.Parser()
    _parsers.idle = None  # put back only after success: what raises may keep objects of the document alive
    try:
        parsed = _read_document(parser, bytes(head))
    except numbers.DECLINED:
        return None
    if len(head) <= _KEPT_BYTES:
        _parsers.idle = parser
    return parsed


def _read_document(parser: simdjson.Parser, text: bytes) -> _Parsed:
    document: Any = parser.parse(text)
    members = _keys(document)
    lists = 1
    tensors = []
    for each in document["inputs"]:
        keys = _keys(each)
        name, datatype, shape = each["name"], each["datatype"], tuple(each["shape"])
        if type(name) is not str or any(type(size) is not int for size in shape):
            raise TypeError(name)
        parameters = _plain(each["parameters"]) if "parameters" in keys else EMPTY
        if _SIZE in parameters or _REGION in parameters:
            raise ValueError(name)
        array, count = numbers.wide(each["data"], datatype, shape)
        lists += count + 1  # and the shape
        tensors.append(Tensor(name, datatype, array, parameters, count > 1))
    identity = (document["id"] or "") if "id" in members else ""
    if type(identity) is not str:
        raise TypeError(identity)
    outputs = []
    wanted = document["outputs"] if "outputs" in members else None
    if wanted is not None:
        lists += 1
        for each in wanted:
            name = each["name"]
            if type(name) is not str:
                raise TypeError(name)
            outputs.append(RequestedOutput(name, _plain(each["parameters"]) if "parameters" in _keys(each) else EMPTY))
    if np.count_nonzero(np.frombuffer(text, np.uint8) == _BRACKET) != lists:
        raise ValueError(lists)  # a list among the numbers, or a bracket in some text: not for this road to tell
    parameters = _plain(document["parameters"]) if "parameters" in members else EMPTY
    return identity, tuple(tensors), tuple(outputs), parameters


def _keys(element: Any) -> set[str]:
    """The members of an object. simdjson finds the first of two alike where the other roads find the last: declined."""
    keys = list(element.keys())
    unique = set(keys)
    if len(unique) != len(keys):
        raise ValueError(keys)
    return unique


def _plain(parameters: Any) -> Parameters:
    if parameters is None:
        return EMPTY
    plain: dict[str, Any] = parameters.as_dict()
    return plain or EMPTY


def _careful(
    head: bytes | memoryview,
    body: bytes | memoryview,
    position: int,
    model: str,
    role: str,
    *,
    objects: bool = False,
) -> _Parsed:
    document = documents.read_object(head)
    tensors = []
    for index, each in enumerate(_member(document, f"{role}s", list, "request body", required=True)):
        place = f"{role} {index}"
        if type(each) is not dict:
            raise InvalidRequest(f"{place} must be an object with name, shape, datatype and data")
        name = _member(each, "name", str, place, required=True)
        what = f"{role} '{name}' for model '{model}'"
        datatype = _member(each, "datatype", str, what, required=True)
        if datatype not in DTYPES:
            raise InvalidRequest(f"{what} has unknown datatype '{datatype}'; expected one of {', '.join(DTYPES)}")
        shape = tuple(_member(each, "shape", list, what, required=True))
        for size in shape:
            if type(size) is not int:
                raise InvalidRequest(f"{what}: shape must be a list of integers, got {list(shape)}"[:1000])
        numbers.check_shape(shape, what)
        parameters = _member(each, "parameters", dict, what) or {}
        _check_parameters(parameters)
        sources = [
            source
            for source, present in (
                ("data", each.get("data") is not None),
                (_SIZE, _SIZE in parameters),
                (_REGION, _REGION in parameters),
            )
            if present
        ]
        if len(sources) != 1:
            raise InvalidRequest(
                f"{what}: Input must set only one of the following fields: 'data', '{_SIZE}' in 'parameters', "
                f"'{_REGION}' in 'parameters'; got {' and '.join(sources) or 'none'}"
            )
        if sources == [_REGION]:
            raise NotSupported(f"{what} lies in shared memory, which this server does not map; send its data")
        nested = False
        if sources == ["data"]:
            if datatype == "BF16":
                raise InvalidRequest(
                    f"receiving {datatype} data via JSON is not supported. "
                    f"Please use the binary data format for {role} '{name}'"
                )
            values = each["data"]
            data = numbers.careful(values, datatype, shape, what, objects=objects)
            nested = data.ndim > 1 and data.size > 0 and type(values) is list and type(values[0]) is list
        else:
            size = parameters.pop(_SIZE)
            if type(size) is not int or size < 0:
                raise InvalidRequest(f"{what}: {_SIZE} must be a number of bytes, got {size!r}"[:1000])
            if size > len(body) - position:
                raise InvalidRequest(
                    f"unexpected size for {what}, expecting {size - len(body) + position} additional bytes: "
                    f"{len(body) - position} are left after the JSON (Inference-Header-Content-Length)"
                )
            data = _tensor_bytes(body, position, size, (datatype, shape), what)
            position += size
        tensors.append(Tensor(name, datatype, data, parameters or EMPTY, nested))
    if position != len(body):
        raise InvalidRequest(
            f"unexpected additional input data for model '{model}': {len(body) - position} bytes after the last tensor"
        )
    outputs = []
    wanted = [] if role == "output" else _member(document, "outputs", list, "request body") or []
    for index, each in enumerate(wanted):
        if type(each) is not dict:
            raise InvalidRequest(f"requested output {index} must be an object with a name")
        name = _member(each, "name", str, f"requested output {index}", required=True)
        given = _member(each, "parameters", dict, f"output '{name}'") or EMPTY
        outputs.append(RequestedOutput(name, given))
    identity = _member(document, "id", str, "request body") or ""
    parameters = _member(document, "parameters", dict, "request body") or EMPTY
    return identity, tuple(tensors), tuple(outputs), parameters


def _tensor_bytes(
    body: bytes | memoryview, position: int, size: int, form: tuple[str, tuple[int, ...]], what: str
) -> Array:
    """A tensor in the binary form, size and content checked. `form`: datatype and shape."""
    datatype, shape = form
    if datatype == "BYTES":
        return bytes_tensor.unpack(memoryview(body)[position : position + size], shape, what)
    dtype = DTYPES[datatype]
    expected = math.prod(shape) * dtype.itemsize
    if size != expected:
        raise InvalidRequest(
            f"input byte size mismatch for {what}. Expected {expected} for {datatype} of shape {list(shape)}, "
            f"got {size}"
        )
    data = _view(body, position, dtype, shape)
    if datatype == "BOOL" and data.size and data.view(np.uint8).max() > 1:
        raise InvalidRequest(f"{what} is BOOL, whose bytes are 0 or 1, but holds {data.view(np.uint8).max()}")
    return data


def _parse_raw(body: bytes | memoryview, model_name: str, signature: Signature | None) -> Tensor:
    """The raw binary form: the body is the one tensor of the model, whose shape follows from its length."""
    specs = signature.inputs if signature is not None else ()
    if len(specs) != 1:
        raise InvalidRequest(
            f"Raw request must only have 1 input (found 1) to be deduced but got {len(specs)} inputs in model "
            f"'{model_name}'; send Inference-Header-Content-Length and a JSON header"
        )
    spec = specs[0]
    what = f"raw input '{spec.name}' for model '{model_name}'"
    shape = list(spec.shape)
    if spec.datatype == "BYTES":
        if math.prod(abs(size) for size in shape) != 1:
            raise InvalidRequest(f"For BYTE datatype {what}, the model must have input shape [1], it has {shape}")
        element: Array = np.empty(1, np.object_)
        element[0] = bytes(body)
        data = element.reshape([1] * len(shape))
    else:
        variable = [index for index, size in enumerate(shape) if size < 0]
        if len(variable) == 2 and variable[0] == 0 and signature is not None and signature.batchable:
            shape[0] = 1  # the form has no room for a batch
            variable = variable[1:]
        if len(variable) > 1:
            raise InvalidRequest(
                f"The shape of the {what} can not be deduced because there are more than one variable-sized dimension"
            )
        if variable:
            step = math.prod(size for size in shape if size >= 0) * DTYPES[spec.datatype].itemsize
            shape[variable[0]] = len(body) // step if step else 0
        data = _tensor_bytes(body, 0, len(body), (spec.datatype, tuple(shape)), what)
    return Tensor(spec.name, spec.datatype, data)


# -- checks that every road shares --


_EXPECTED: Final[Mapping[type, str]] = {
    str: "a string",
    list: "a list",
    dict: "an object",
    int: "an integer",
    bool: "true or false",
}


def _member(document: dict[str, Any], name: str, kind: type, where: str, *, required: bool = False) -> Any:
    value = document.get(name)
    if value is None:
        if required:
            raise InvalidRequest(f"{where}: '{name}' is missing; expected {_EXPECTED[kind]}")
        return None
    if type(value) is not kind:
        raise InvalidRequest(f"{where}: '{name}' must be {_EXPECTED[kind]}")
    return value


def _check_names(names: Iterable[str], role: str) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise InvalidRequest(f"{role} '{name}' already exists in request")
        seen.add(name)


def _check_output(output: RequestedOutput) -> None:
    for key, value in output.parameters.items():
        match key:
            case "binary_data" if type(value) is not bool:
                raise InvalidRequest(f"output '{output.name}': binary_data must be true or false")
            case "classification" if type(value) is not int or value < 1:
                raise InvalidRequest(f"output '{output.name}': classification must be an integer of at least 1")
            case "shared_memory_region":
                raise NotSupported(
                    f"output '{output.name}' is asked for in shared memory, which this server does not map"
                )
            case _:
                pass


def _check_parameters(parameters: Parameters) -> None:
    for key, value in parameters.items():
        if type(value) in (dict, list):
            documents.check_depth(value, f"parameter '{key}'")
        elif key == "binary_data_output" and type(value) is not bool:
            raise InvalidRequest("parameter 'binary_data_output' must be true or false")


# -- render --


def render(
    request: InferenceRequest, response: InferenceResponse, *, labels: Mapping[str, Sequence[str]] = EMPTY
) -> Rendered:
    """A response in the form its request asked for.

    Args:
        request: Its id is echoed; its outputs and parameters may ask for the binary form and for classification.
        response: The answer.
        labels: Class labels by output name, for the classification extension.

    Raises:
        InvalidRequest: an output has no JSON form (FP16, BF16, bytes that are not UTF-8) and JSON was asked for, or it
            cannot be classified.
        RuntimeFailed: an output or a parameter holds what no wire carries.
    """
    document: dict[str, Any] = {"model_name": response.model_name}
    if response.model_version:
        document["model_version"] = response.model_version
    identity = response.id or request.id
    if identity:
        document["id"] = identity
    if response.parameters is not EMPTY:
        document["parameters"] = _shown(response.parameters)
    outputs = response.outputs
    if not request.outputs and not request.parameters:  # the common case, without the bookkeeping
        document["outputs"] = [
            {"name": each.name, "shape": each.data.shape, "datatype": each.datatype, "data": each.data.ravel()}
            if each.datatype in _NUMERIC and not each.parameters
            else _entry(each)
            for each in outputs
        ]
        try:
            return Rendered(orjson.dumps(document, option=_NUMPY))
        except TypeError as exc:
            raise _unwritable(exc) from exc
    binary = request.parameters.get("binary_data_output") is True
    wanted = {output.name: output.parameters for output in request.outputs if output.parameters}
    outputs = tuple([_classified(tensor, wanted, labels) for tensor in outputs])
    forms = [wanted.get(tensor.name, EMPTY).get("binary_data", binary) for tensor in outputs]
    return _render_mixed(document, "outputs", outputs, forms)


def render_error(error: BaseException) -> bytes:
    """The body of an error's reply: `{"error": text}`."""
    return status.error_body(status.public_text(error))


def render_request(request: InferenceRequest, *, binary: bool = False) -> Rendered:
    """A request as a body, for clients; outputs come back as the request's parameters say.

    Raises:
        InvalidRequest: `binary` is False and an input has no JSON form.
    """
    document: dict[str, Any] = {}
    if request.id:
        document["id"] = request.id
    if request.parameters:
        document["parameters"] = dict(request.parameters)
    if request.outputs:
        document["outputs"] = [
            {"name": output.name, "parameters": dict(output.parameters)} if output.parameters else {"name": output.name}
            for output in request.outputs
        ]
    return _render_mixed(document, "inputs", request.inputs, [binary] * len(request.inputs))


def parse_response(body: bytes | memoryview, *, header_length: int | None = None) -> InferenceResponse:
    """A response's body, for clients.

    Args:
        body: The whole body, its content encoding undone.
        header_length: `Inference-Header-Content-Length` of the reply; None: all is JSON.

    Raises:
        InvalidRequest: the body is not an inference response.
    """
    position = len(body) if header_length is None else header_length
    head = body[:position]
    document = documents.read_object(head, "response body")
    name = _member(document, "model_name", str, "response body") or ""
    identity, outputs, _, parameters = _careful(head, body, position, name, "output")
    return InferenceResponse(
        model_name=name,
        model_version=_member(document, "model_version", str, "response body") or "",
        id=identity,
        outputs=outputs,
        parameters=parameters,
    )


def _classified(tensor: Tensor, wanted: Mapping[str, Parameters], labels: Mapping[str, Sequence[str]]) -> Tensor:
    parameters = wanted.get(tensor.name, EMPTY)
    if "classification" not in parameters:
        return tensor
    return classification.classify(tensor, parameters["classification"], labels.get(tensor.name, ()))


def _shown(parameters: Parameters) -> dict[str, Any]:
    """As the encoder takes them."""
    return parameters if type(parameters) is dict else dict(parameters)


def _entry(tensor: Tensor) -> dict[str, Any]:
    """A tensor in JSON; numbers stay in their buffer for orjson to write, FP32 in its short form."""
    entry: dict[str, Any] = {"name": tensor.name, "shape": tensor.data.shape, "datatype": tensor.datatype}
    if tensor.parameters:
        entry["parameters"] = _shown(tensor.parameters)
    datatype = tensor.datatype
    if datatype == "BYTES":
        entry["data"] = _texts(tensor)
    elif datatype == "FP16":  # which orjson does not know; the same numbers
        entry["data"] = tensor.data.ravel().astype(np.float64)
    elif datatype == "BF16":
        raise InvalidRequest(
            f"sending {datatype} data via JSON is not supported. "
            f"Please use the binary data format for output '{tensor.name}'"
        )
    else:
        entry["data"] = tensor.data.ravel()
    return entry


def _texts(tensor: Tensor) -> list[str]:
    try:
        return [each if type(each) is str else each.decode() for each in tensor.data.ravel().tolist()]
    except UnicodeDecodeError as exc:
        raise InvalidRequest(
            f"output '{tensor.name}' holds bytes that are not UTF-8 text, which JSON cannot carry; "
            "ask for it with the parameter binary_data"
        ) from exc
    except AttributeError as exc:
        raise RuntimeFailed(
            f"output '{tensor.name}' is BYTES but holds values that are neither bytes nor text"
        ) from exc


def _unwritable(exc: TypeError) -> RuntimeFailed:
    return RuntimeFailed(f"a parameter or output holds what JSON cannot carry: {exc}")


def _render_mixed(document: dict[str, Any], member: str, tensors: Sequence[Tensor], forms: Sequence[bool]) -> Rendered:
    entries = document[member] = []
    chunks: list[bytes | memoryview] = []
    for tensor, binary in zip(tensors, forms, strict=True):
        if not binary:
            entries.append(_entry(tensor))
            continue
        chunk: bytes | memoryview
        if tensor.datatype == "BYTES":
            chunk = bytes_tensor.pack(tensor.data)
            size = len(chunk)
        else:
            data = np.ascontiguousarray(tensor.data, DTYPES[tensor.datatype])
            chunk = data.data
            size = data.nbytes
        entries.append(
            {
                "name": tensor.name,
                "shape": tensor.data.shape,
                "datatype": tensor.datatype,
                "parameters": {**tensor.parameters, _SIZE: size},
            }
        )
        chunks.append(chunk)
    try:
        head = orjson.dumps(document, option=_NUMPY)
    except TypeError as exc:
        raise _unwritable(exc) from exc
    if not chunks:
        return Rendered(head)
    return Rendered(b"".join((head, *chunks)), BINARY, len(head))
