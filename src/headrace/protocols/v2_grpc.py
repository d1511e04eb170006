"""Steps 2 and 7 of the walk for the Open Inference Protocol over gRPC: messages to requests, responses to messages.

The server calls `parse` and `render`; clients call `render_request` and `parse_response`. The message classes come from
`open_inference.binpb` through a descriptor pool of our own: clients register the same names in protobuf's default
pool, and both live in one process (a notebook, a test).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from google.protobuf import descriptor_pool, message_factory

from headrace.errors import (
    Conflict,
    DeadlineExceeded,
    Forbidden,
    HeadraceError,
    InvalidRequest,
    LoadFailed,
    ModelError,
    ModelNotReady,
    NotFound,
    NotSupported,
    Overloaded,
    Refused,
    RuntimeFailed,
    SettingsError,
    Temporary,
    Throttled,
    TooLarge,
    Unauthenticated,
    UnsupportedEncoding,
    WorkerDied,
)
from headrace.payload import (
    DTYPES,
    EMPTY,
    Array,
    InferenceRequest,
    InferenceResponse,
    Parameters,
    RequestedOutput,
    Tensor,
)
from headrace.protocols import bytes_tensor, classification

Message = Any
"""A protobuf message. Its class is made at run time, so no checker knows its fields; these functions do."""

PROTOCOL: Final = "v2_grpc"


def _files(descriptor_set: bytes) -> Iterator[bytes]:
    """The files of a serialised FileDescriptorSet, whose only field they are.

    Read by hand, for protobuf's own classes for descriptors are the larger part of the time it takes to import it.
    """
    position = 0
    while position < len(descriptor_set):
        size = shift = 0
        while True:
            position += 1  # the field's tag first, then its length, seven bits a byte
            size |= (descriptor_set[position] & 0x7F) << shift
            shift += 7
            if descriptor_set[position] < 0x80:
                break
        position += 1
        yield descriptor_set[position : position + size]
        position += size


POOL: Final = descriptor_pool.DescriptorPool()
"""Every descriptor that Headrace speaks gRPC with, apart from protobuf's default pool; reflection reads it."""
for _file in _files(Path(__file__).with_name("open_inference.binpb").read_bytes()):
    POOL.AddSerializedFile(_file)


def message_class(full_name: str) -> Any:
    """The class of a message by its full name, `inference.ModelInferRequest`.

    Raises:
        KeyError: no such message in the pool.
    """
    return message_factory.GetMessageClass(POOL.FindMessageTypeByName(full_name))


ModelInferRequest: Final = message_class("inference.ModelInferRequest")
ModelInferResponse: Final = message_class("inference.ModelInferResponse")
ModelStreamInferResponse: Final = message_class("inference.ModelStreamInferResponse")

# Status codes, by the names and numbers of gRPC's own list.
OK: Final = 0
CANCELLED: Final = 1
UNKNOWN: Final = 2
INVALID_ARGUMENT: Final = 3
DEADLINE_EXCEEDED: Final = 4
NOT_FOUND: Final = 5
RESOURCE_EXHAUSTED: Final = 8
UNIMPLEMENTED: Final = 12
PERMISSION_DENIED: Final = 7
FAILED_PRECONDITION: Final = 9
INTERNAL: Final = 13
UNAVAILABLE: Final = 14
UNAUTHENTICATED: Final = 16

GRPC_STATUS: Final[Mapping[type[HeadraceError], int]] = {
    HeadraceError: INTERNAL,
    InvalidRequest: INVALID_ARGUMENT,
    UnsupportedEncoding: UNIMPLEMENTED,  # what gRPC's compression document asks for
    TooLarge: RESOURCE_EXHAUSTED,  # what every gRPC library answers to a message over its limit
    Refused: FAILED_PRECONDITION,  # as 422 below
    Unauthenticated: UNAUTHENTICATED,
    Forbidden: PERMISSION_DENIED,
    Conflict: FAILED_PRECONDITION,
    NotFound: NOT_FOUND,
    NotSupported: UNIMPLEMENTED,
    RuntimeFailed: INTERNAL,
    LoadFailed: INTERNAL,
    SettingsError: INVALID_ARGUMENT,  # at run time, only a load request brings settings
    Temporary: UNAVAILABLE,
    ModelNotReady: UNAVAILABLE,
    # Retry policies of clients and proxies retry UNAVAILABLE by default and RESOURCE_EXHAUSTED never: a full queue is
    # the twin of REST's 503, and the place for RESOURCE_EXHAUSTED is a caller's own quota.
    Overloaded: UNAVAILABLE,
    Throttled: RESOURCE_EXHAUSTED,
    DeadlineExceeded: DEADLINE_EXCEEDED,
    WorkerDied: UNAVAILABLE,
}
"""Error class to status code; look up with `status`."""


_OF_HTTP: Final[Mapping[int, int]] = {
    400: INVALID_ARGUMENT,
    404: NOT_FOUND,
    422: FAILED_PRECONDITION,
    500: INTERNAL,
}
"""The HTTP status that a model's own code chose to its status code, as MLServer translates it; others are UNKNOWN."""


def status(error: HeadraceError) -> int:
    """The status code of an error: of a status that the model chose, its translation; else that of the nearest class
    along its MRO.
    """
    if isinstance(error, ModelError):
        return _OF_HTTP.get(error.status, UNKNOWN)
    for kind in type(error).__mro__:
        code = GRPC_STATUS.get(kind)
        if code is not None:
            return code
    return INTERNAL  # unreachable: HeadraceError itself is in the table


_FIELDS: Final[Mapping[str, str]] = {
    "BOOL": "bool_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
"""Datatype to its field in InferTensorContents; FP16 and BF16 have none and travel raw."""

_CONTENT_KINDS: Final[Mapping[str, str]] = {
    "bool_contents": "BOOL",
    "int_contents": "INT32",
    "int64_contents": "INT64",
    "uint_contents": "UINT32",
    "uint64_contents": "UINT64",
    "fp32_contents": "FP32",
    "fp64_contents": "FP64",
    "bytes_contents": "BYTES",
}
_SHARED_MEMORY: Final = "shared_memory_region"


def parse(message: Message, *, headers: Mapping[str, str] = EMPTY, deadline: float | None = None) -> InferenceRequest:
    """A ModelInferRequest as a request; raw tensors are views of the message's bytes, read-only.

    Args:
        message: A ModelInferRequest.
        headers: The call's metadata.
        deadline: On the clock of `time.monotonic`, seconds.

    Raises:
        InvalidRequest: the message contradicts itself; the text names the tensor.
        NotSupported: a tensor lies in shared memory.
    """
    name = message.model_name
    return InferenceRequest(
        model_name=name,
        model_version=message.model_version,
        id=message.id,
        inputs=_parse_tensors(message.inputs, message.raw_input_contents, name, "input"),
        outputs=_parse_outputs(message.outputs) if message.outputs else (),
        parameters=_parse_parameters(message.parameters) if message.parameters else EMPTY,
        headers=headers,
        protocol=PROTOCOL,
        deadline=deadline,
    )


def is_raw(message: Message) -> bool:
    """Whether a ModelInferRequest carries its tensors raw, so that its answer should too.

    One without any tensor data says nothing; raw is what most clients read.
    """
    return bool(message.raw_input_contents) or not any(tensor.HasField("contents") for tensor in message.inputs)


def render(
    request: InferenceRequest,
    response: InferenceResponse,
    *,
    raw: bool,
    labels: Mapping[str, Sequence[str]] = EMPTY,
) -> Message:
    """A response as a ModelInferResponse.

    Args:
        request: What was asked: its id is echoed and its requested outputs may ask for classification.
        response: The answer.
        raw: Tensors as raw bytes; otherwise typed, unless one of them is FP16 or BF16, which have no typed form.
        labels: Class labels by output name, for the classification extension.

    Raises:
        InvalidRequest: a classification count that is not a positive integer.
        RuntimeFailed: the response holds a parameter that no gRPC parameter carries.
    """
    outputs = response.outputs
    for wanted in request.outputs:
        if "classification" in wanted.parameters:
            outputs = _classified(request, outputs, labels)
            break
    message = ModelInferResponse(
        model_name=response.model_name, model_version=response.model_version, id=response.id or request.id
    )
    if response.parameters:
        render_parameters(message.parameters, response.parameters)
    _render_tensors(message.outputs, message.raw_output_contents, outputs, raw=raw)
    return message


def render_request(request: InferenceRequest, *, raw: bool = True) -> Message:
    """A request as a ModelInferRequest, for clients."""
    message = ModelInferRequest(model_name=request.model_name, model_version=request.model_version, id=request.id)
    if request.parameters:
        render_parameters(message.parameters, request.parameters)
    for wanted in request.outputs:
        render_parameters(message.outputs.add(name=wanted.name).parameters, wanted.parameters)
    _render_tensors(message.inputs, message.raw_input_contents, request.inputs, raw=raw)
    return message


def parse_response(message: Message) -> InferenceResponse:
    """A ModelInferResponse as a response, for clients.

    Raises:
        InvalidRequest: the message contradicts itself.
    """
    name = message.model_name
    return InferenceResponse(
        model_name=name,
        model_version=message.model_version,
        id=message.id,
        outputs=_parse_tensors(message.outputs, message.raw_output_contents, name, "output"),
        parameters=_parse_parameters(message.parameters) if message.parameters else EMPTY,
    )


# -- tensors --


def _parse_tensors(tensors: Any, raw: Any, model: str, role: str) -> tuple[Tensor, ...]:
    if len(tensors) == 1:  # the usual case, without the bookkeeping
        return (
            (_parse_tensor(tensors[0], raw, 0, model, role),) if len(raw) <= 1 else _count_differs(1, raw, model, role)
        )
    if raw and len(raw) != len(tensors):
        return _count_differs(len(tensors), raw, model, role)
    parsed = tuple(_parse_tensor(tensor, raw, index, model, role) for index, tensor in enumerate(tensors))
    seen: set[str] = set()
    for tensor in parsed:
        if tensor.name in seen:
            raise InvalidRequest(f"{role} '{tensor.name}' already exists in request for model '{model}'")
        seen.add(tensor.name)
    return parsed


def _count_differs(tensors: int, raw: Any, model: str, role: str) -> tuple[Tensor, ...]:
    raise InvalidRequest(
        f"{tensors} {role}s but {len(raw)} raw {role} contents for model '{model}': "
        "expected one entry for each, in the same order"
    )


def _parse_tensor(tensor: Message, raw: Any, index: int, model: str, role: str) -> Tensor:
    name, datatype = tensor.name, tensor.datatype
    if datatype not in DTYPES:
        known = ", ".join(DTYPES)
        raise InvalidRequest(f"{role} '{name}' for model '{model}' has unknown datatype '{datatype}'; known: {known}")
    shape = tuple(tensor.shape)
    if shape and min(shape) < 0:
        raise InvalidRequest(f"{role} '{name}' for model '{model}' has a negative dimension in its shape {list(shape)}")
    parameters = _parse_parameters(tensor.parameters) if tensor.parameters else EMPTY
    if _SHARED_MEMORY in parameters:
        raise NotSupported(
            f"{role} '{name}' for model '{model}' lies in shared memory, which this server does not map; "
            "send its bytes in raw_input_contents"
        )
    if raw and tensor.HasField("contents") and tensor.contents.ByteSize():  # MLServer's client sets it, and empty
        raise InvalidRequest(
            f"contents field must not be specified when using raw_{role}_contents for {role} '{name}' "
            f"for model '{model}'"
        )
    try:
        data = _parse_raw(raw[index], datatype, shape) if raw else _parse_contents(tensor, datatype, shape)
    except InvalidRequest as exc:
        raise InvalidRequest(f"{role} '{name}' for model '{model}': {exc}") from None
    except ValueError as exc:  # numpy's own limits on dimensions
        raise InvalidRequest(f"{role} '{name}' for model '{model}' has an impossible shape {list(shape)}") from exc
    except _NoData:
        raise InvalidRequest(
            f"unable to find data for {role} tensor '{name}' for model '{model}' in request."
        ) from None
    except _WrongField as exc:
        raise InvalidRequest(
            f"unexpected explicit tensor data for {role} tensor '{name}' for model '{model}' "
            f"of type '{exc}', expected datatype '{datatype}'"
        ) from None
    return Tensor(name, datatype, data, parameters)


class _NoData(Exception):
    """A tensor with elements in its shape and none anywhere else."""


class _WrongField(Exception):
    """A typed tensor whose elements are in the field of another datatype; its text is that datatype."""


def _parse_raw(raw: bytes, datatype: str, shape: tuple[int, ...]) -> Array:
    if datatype == "BYTES":
        # One text whose shape is its length, as MLServer's examples have it. Every byte but the prefix is the text's.
        if len(shape) == 1 and len(raw) > 5 and shape[0] > 1 and int.from_bytes(raw[:4], "little") == len(raw) - 4:
            element = bytes(raw[4:])
            if bytes_tensor.is_length(shape, element):
                return bytes_tensor.single(element)
        return bytes_tensor.unpack(raw, shape, "raw contents")
    dtype = DTYPES[datatype]
    expected = math.prod(shape) * dtype.itemsize
    if len(raw) != expected:
        raise InvalidRequest(f"expected {expected} bytes for shape {list(shape)} of {datatype}, got {len(raw)}")
    data = np.frombuffer(raw, dtype).reshape(shape)
    if datatype == "BOOL" and raw.translate(None, b"\x00\x01"):
        raise InvalidRequest("bytes of BOOL are 0 or 1, got others")
    return data


def _parse_contents(tensor: Message, datatype: str, shape: tuple[int, ...]) -> Array:
    dtype, elements = DTYPES[datatype], math.prod(shape)
    given = tensor.contents.ListFields()
    if not given:
        if elements == 0:
            return np.empty(shape, dtype)
        raise _NoData
    field = _FIELDS.get(datatype)
    if field is None:
        raise InvalidRequest(f"{datatype} has no typed contents; send it raw")
    for descriptor, _ in given:
        if descriptor.name != field:
            raise _WrongField(_CONTENT_KINDS[descriptor.name])
    values = given[0][1]
    if len(values) != elements:
        if datatype == "BYTES" and len(values) == 1 and bytes_tensor.is_length(shape, values[0]):
            return bytes_tensor.single(values[0])
        raise InvalidRequest(f"expected {elements} elements for shape {list(shape)}, got {len(values)}")
    if datatype == "BYTES":
        data: Array = np.empty(elements, np.object_)
        data[:] = values
    elif dtype.itemsize < 4 and dtype.kind in "iu":
        wide: Array = np.array(values, np.int64)
        data = wide.astype(dtype)
        wrong = wide != data
        if wrong.any():
            raise InvalidRequest(f"{wide[wrong][0]} is not a value of {datatype}")
    else:
        data = np.array(values, dtype)
    return data.reshape(shape)


def _render_tensors(messages: Any, contents: Any, tensors: Sequence[Tensor], *, raw: bool) -> None:
    raw = raw or any(tensor.datatype not in _FIELDS for tensor in tensors)
    for tensor in tensors:
        datatype, data = tensor.datatype, tensor.data
        message = messages.add(name=tensor.name, datatype=datatype, shape=data.shape)
        if tensor.parameters:
            render_parameters(message.parameters, tensor.parameters)
        if raw:
            contents.append(bytes_tensor.pack(data) if datatype == "BYTES" else data.tobytes())
        else:
            values = data.reshape(-1).tolist()
            message.contents.SetInParent()
            getattr(message.contents, _FIELDS[datatype]).extend(
                [value.encode() if isinstance(value, str) else value for value in values]
                if datatype == "BYTES"
                else values
            )


# -- requested outputs and classification --


def _parse_outputs(messages: Any) -> tuple[RequestedOutput, ...]:
    outputs = tuple(
        RequestedOutput(message.name, _parse_parameters(message.parameters) if message.parameters else EMPTY)
        for message in messages
    )
    seen: set[str] = set()
    for output in outputs:
        if output.name in seen:
            raise InvalidRequest(f"output '{output.name}' already exists in request")
        seen.add(output.name)
        if _SHARED_MEMORY in output.parameters:
            raise NotSupported(f"output '{output.name}' is asked for in shared memory, which this server does not map")
    return outputs


def _classified(
    request: InferenceRequest, outputs: tuple[Tensor, ...], labels: Mapping[str, Sequence[str]]
) -> tuple[Tensor, ...]:
    counts: dict[str, Any] = {
        wanted.name: wanted.parameters["classification"]
        for wanted in request.outputs
        if "classification" in wanted.parameters
    }
    for name, count in counts.items():
        if type(count) is not int or count < 1:
            raise InvalidRequest(f"output '{name}': classification must be an integer of at least 1, got {count!r}")
    return tuple(
        classification.classify(tensor, counts[tensor.name], labels.get(tensor.name, ()))
        if tensor.name in counts
        else tensor
        for tensor in outputs
    )


# -- parameters --


def _parse_parameters(parameters: Any) -> Parameters:
    return {name: parse_parameter(name, parameter) for name, parameter in parameters.items()}


def parse_parameter(name: str, parameter: Message) -> bool | int | float | str | bytes:
    """The value of a parameter message, whichever field of its `oneof` is set.

    Raises:
        InvalidRequest: none is set.
    """
    choice = parameter.WhichOneof("parameter_choice")
    if choice is None:
        raise InvalidRequest(f"parameter '{name}' has no value")
    value: bool | int | float | str | bytes = getattr(parameter, choice)
    return value


def render_parameters(messages: Any, parameters: Parameters) -> None:
    """Parameters into a message's map; lists, objects and null, which gRPC has no form for, as their JSON text.

    Raises:
        RuntimeFailed: a value that not even JSON can hold.
    """
    for name, given in parameters.items():
        value = given.item() if isinstance(given, np.generic) else given
        match value:
            case bool():
                messages[name].bool_param = value
            case int() if -(1 << 63) <= value < 1 << 63:
                messages[name].int64_param = value
            case int() if 0 <= value < 1 << 64:
                messages[name].uint64_param = value
            case float():
                messages[name].double_param = value
            case str():
                messages[name].string_param = value
            case _:
                try:
                    messages[name].string_param = msgspec.json.encode(value).decode()
                except (TypeError, ValueError, OverflowError) as exc:
                    raise RuntimeFailed(
                        f"parameter '{name}' is a {type(value).__name__}; "
                        "gRPC carries booleans, 64-bit integers, numbers, text, and what JSON can hold as its text"
                    ) from exc


# -- repository --


def parse_repository_target(message: Message) -> str:
    """The model that a RepositoryModelLoad or RepositoryModelUnload names, in Triton's form or KServe's.

    KServe's form has the model's name where Triton's has the repository's.

    Raises:
        InvalidRequest: no name at all.
        NotSupported: a repository and a model: there is one repository and it has no name.
    """
    if message.model_name and message.repository_name:
        raise NotSupported(
            f"repository '{message.repository_name}' cannot be chosen: this server has one, without a name"
        )
    name: str = message.model_name or message.repository_name
    if not name:
        raise InvalidRequest("model_name is empty; name the model to load or unload")
    return name


def parse_repository_parameters(message: Message) -> Parameters:
    """The parameters of a RepositoryModelLoad or RepositoryModelUnload: booleans, integers, text or bytes by name."""
    return _parse_parameters(message.parameters)


def file_descriptors(names: Iterable[str]) -> list[bytes]:
    """The serialised descriptors of these files and of all they import, each once, for reflection.

    Raises:
        KeyError: no such file in the pool.
    """
    found: dict[str, bytes] = {}
    queue = list(names)
    while queue:
        file = POOL.FindFileByName(queue.pop())
        if file.name not in found:
            found[file.name] = file.serialized_pb
            queue.extend(dependency.name for dependency in file.dependencies)
    return list(found.values())
