"""What crosses the socket between the server and a worker process: frames of a header (msgpack) and raw tensor bytes.

Starts nothing and knows no process; `workers` and `worker` are its two callers.

    frame  = prefix (16 bytes: header size u32, 0 u32, body size u64; little-endian) header padding body
    body   = each tensor's bytes, padded to 8, so that arrays are aligned views of what arrived

Nothing is pickled. BYTES tensors are packed as one msgpack list. Tensors of 64 KiB together and more lie in memory
that both processes have mapped (`Shared`) when the system has `memfd_create`; the body is then empty.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias, TypeVar

import msgspec
import numpy as np

from headrace import errors
from headrace.errors import HeadraceError, ModelError, Overloaded, RuntimeFailed
from headrace.payload import (
    DTYPES,
    EMPTY,
    Array,
    InferenceRequest,
    InferenceResponse,
    RequestedOutput,
    Route,
    RouteRequest,
    RouteResponse,
    Signature,
    Tensor,
)
from headrace.serving.build import RuntimeSpec, plain
from headrace.serving.execution import Logged

SHARED_BYTES: Final = 1 << 16
"""From here on tensors go through shared memory. Measured, there and back, one core: the same below, at 256 KiB 0.12 ms
against 0.57 by the socket, at 1 MiB 0.2 against 1.7: a socket's buffer is 200 KiB, each fill of it a turn of both."""
_PREFIX: Final = struct.Struct("<IIQ")
_MAX_HEADER: Final = 1 << 28
_COPIED_BYTES: Final = 1 << 16  # smaller buffers are joined to one write, larger ones are handed over as they are

Buffer: TypeAlias = bytes | memoryview
Visited = TypeVar("Visited", RouteRequest, RouteResponse)
UNPACKABLE: Final = (TypeError, ValueError, OverflowError, RecursionError)
"""What `lay` and `pack` raise for values that msgpack has no form for."""


class Laid(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A tensor whose bytes lie in the body, or in shared memory, in the order of the header."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    size: int
    """Bytes, without padding."""
    parameters: dict[str, Any] | None = None
    nested: bool = False


class Asked(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a whole request says beside its tensors."""

    model_name: str
    model_version: str
    id: str
    outputs: tuple[RequestedOutput, ...]
    parameters: Mapping[str, Any]
    headers: Mapping[str, str]
    protocol: str
    deadline: float | None
    """On the clock of `time.monotonic`, which all processes of a machine share."""


class Told(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What the response of a runtime that takes whole requests says beside its tensors."""

    model_name: str
    model_version: str
    id: str
    parameters: Mapping[str, Any]
    headers: Mapping[str, str]


# -- to the worker --


class Load(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """The first frame: what to be. Its body is the warm-up samples' tensors."""

    spec: RuntimeSpec
    warm_up: list[list[Laid]]
    search_path: list[str]
    """`sys.path`: that of the server, so that references mean the same here, behind that of the model's environment."""
    environment_path: str | None
    """`PYTHONPATH` for programs that the model starts: the server's, before it set one to find this package."""
    log_level: int


class Ask(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """A call to answer once."""

    id: int
    slot: int
    """Which pair of shared memories is its own until it is answered; -1: none."""
    shared: bool
    """Its tensors lie in shared memory."""
    tensors: list[Laid]
    outputs: tuple[str, ...]
    parameters: dict[str, Any]
    rows: int
    window: int = 0
    """Parts that may be under way unread, for a stream; 0: a plain answer is wanted."""
    asked: Asked | None = None
    """Of a whole request; the tensors are its inputs."""
    route: RouteRequest | None = None
    """A request to one of the model's own routes, its body among the tensors."""


class Room(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """A part of a stream was read."""

    id: int


class Stop(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """Nobody waits for this call any more. It is still answered, somehow."""

    id: int


# -- from the worker --


class Loaded(msgspec.Struct, frozen=True, array_like=True, tag=11):
    """The model is up."""

    signature: Signature
    is_async: bool
    streams: bool
    predict_seconds: float | None
    whole: bool = False
    routes: tuple[Route, ...] = ()
    logged: Logged = ()
    """What the model's code measured of itself while it loaded."""


class Answer(msgspec.Struct, frozen=True, array_like=True, tag=12):
    """A call's tensors; a stream's end, with none."""

    id: int
    predict_ns: int
    shared: bool
    tensors: list[Laid]
    told: Told | None = None
    """To a whole request."""
    visited: RouteResponse | None = None
    """To a request of a route, its body among the tensors."""
    logged: Logged = ()


class Part(msgspec.Struct, frozen=True, array_like=True, tag=13):
    """A stream's partial answer."""

    id: int
    tensors: list[Laid]
    told: Told | None = None


class Failure(msgspec.Struct, frozen=True, array_like=True, tag=14):
    """A call, or with id 0 the load, has failed."""

    id: int
    error: str
    """Class name in the error tree."""
    text: str
    separable: bool = False
    predict_ns: int = 0
    logged: Logged = ()
    status: int = 0
    """Of a ModelError."""
    kind: str = ""
    """Of a ModelError: the class that the model raised."""
    retry_after_seconds: float = 0.0
    """Of an Overloaded."""


ToWorker: TypeAlias = Load | Ask | Room | Stop
FromWorker: TypeAlias = Loaded | Answer | Part | Failure

_encoder: Final = msgspec.msgpack.Encoder(enc_hook=plain)
to_worker: Final = msgspec.msgpack.Decoder(ToWorker)
from_worker: Final = msgspec.msgpack.Decoder(FromWorker)
_bytes_list: Final = msgspec.msgpack.Decoder(list)  # of bytes; text where a whole response holds text
_ERRORS: Final = {
    name: value for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, HeadraceError)
}


def error_of(failure: Failure) -> HeadraceError:
    """The error as the worker met it; a class that this side does not know is RuntimeFailed."""
    if failure.status:
        return ModelError(failure.text, status=failure.status, kind=failure.kind)
    if failure.error == Overloaded.__name__:
        return Overloaded(failure.text, retry_after_seconds=failure.retry_after_seconds)
    return _ERRORS.get(failure.error, RuntimeFailed)(failure.text)


def failure_of(
    call_id: int, error: HeadraceError, *, separable: bool = False, predict_ns: int = 0, logged: Logged = ()
) -> Failure:
    """An error as a frame's header: the class in the tree, the text, and what else the class carries."""
    kind = next(each.__name__ for each in type(error).__mro__ if each.__name__ in _ERRORS)
    status, raised = (error.status, error.kind) if isinstance(error, ModelError) else (0, "")
    retry_after_seconds = error.retry_after_seconds if isinstance(error, Overloaded) else 0.0
    text = str(error).encode(errors="replace").decode()  # a file's name may hold halves of characters, a frame may not
    return Failure(call_id, kind, text, separable, predict_ns, logged, status, raised, retry_after_seconds)


def part_body(message: Visited) -> tuple[Visited, Tensor]:
    """A message of a route, and its body as a tensor: that may be large, and a header may not."""
    body = np.frombuffer(message.body, np.uint8)
    return msgspec.structs.replace(message, body=b""), Tensor("", "UINT8", body)


def join_body(message: Visited, tensors: Sequence[Tensor]) -> Visited:
    """The whole message again."""
    return msgspec.structs.replace(message, body=tensors[0].data.tobytes())


def ask_of(request: InferenceRequest) -> Asked:
    """All of a whole request but its tensors; nobody traces it on the other side."""
    return Asked(
        request.model_name,
        request.model_version,
        request.id,
        request.outputs,
        request.parameters,
        request.headers,
        request.protocol,
        request.deadline,
    )


def request_of(asked: Asked, inputs: Sequence[Tensor]) -> InferenceRequest:
    """The whole request again."""
    return InferenceRequest(
        model_name=asked.model_name,
        model_version=asked.model_version,
        inputs=tuple(inputs),
        id=asked.id,
        outputs=asked.outputs,
        parameters=asked.parameters,
        headers=asked.headers,
        protocol=asked.protocol,
        deadline=asked.deadline,
    )


def tell(response: InferenceResponse) -> Told:
    """All of a response but its tensors."""
    return Told(response.model_name, response.model_version, response.id, response.parameters, response.headers)


def response_of(told: Told, outputs: Sequence[Tensor]) -> InferenceResponse:
    """The response again."""
    return InferenceResponse(
        model_name=told.model_name,
        model_version=told.model_version,
        id=told.id,
        outputs=tuple(outputs),
        parameters=told.parameters,
        headers=told.headers,
    )


def lay(tensors: Sequence[Tensor]) -> tuple[list[Laid], list[Buffer]]:
    """Tensors as their description and their bytes, in the same order."""
    laid = []
    buffers: list[Buffer] = []
    for tensor in tensors:
        data = tensor.data
        if tensor.datatype == "BYTES":
            buffer: Buffer = _encoder.encode(data.reshape(-1).tolist())
        elif data.nbytes < _COPIED_BYTES:
            buffer = data.tobytes()
        else:
            buffer = np.ascontiguousarray(data).reshape(-1).view(np.uint8).data
        parameters = dict(tensor.parameters) or None
        laid.append(Laid(tensor.name, tensor.datatype, data.shape, len(buffer), parameters, tensor.nested))
        buffers.append(buffer)
    return laid, buffers


def lift(laid: Sequence[Laid], memory: Buffer | mmap.mmap, offset: int = 0) -> list[Tensor]:
    """Tensors as read-only views of the bytes they lie in (BYTES are unpacked)."""
    tensors = []
    for each in laid:
        if each.datatype == "BYTES":
            values = _bytes_list.decode(memoryview(memory)[offset : offset + each.size])
            data = np.empty(len(values), np.object_)
            data[:] = values
            array: Array = data.reshape(each.shape)
        elif each.size == 0:
            array = np.empty(each.shape, DTYPES[each.datatype])
        else:
            dtype = DTYPES[each.datatype]
            array = np.frombuffer(memory, dtype, each.size // dtype.itemsize, offset).reshape(each.shape)
            array.flags.writeable = False
        tensors.append(Tensor(each.name, each.datatype, array, each.parameters or EMPTY, each.nested))
        offset += padded(each.size)
    return tensors


def uncrossed(exc: Exception) -> RuntimeFailed:
    """The error for an answer that `pack` refuses."""
    return RuntimeFailed(f"the answer cannot leave the worker process: {exc}")


def padded(size: int) -> int:
    """The size with its padding: the next multiple of 8."""
    return (size + 7) & ~7


def pack(header: ToWorker | FromWorker, buffers: Sequence[Buffer] = ()) -> list[Buffer]:
    """A frame as buffers to write one after another."""
    head = _encoder.encode(header)
    size = sum([padded(len(buffer)) for buffer in buffers])
    pieces: list[Buffer] = [_PREFIX.pack(len(head), 0, size), head, bytes(-len(head) & 7)]
    for buffer in buffers:
        pieces.append(buffer)
        if len(buffer) & 7:
            pieces.append(bytes(-len(buffer) & 7))
    return pieces if size > _COPIED_BYTES else [b"".join(pieces)]


class Reader:
    """Bytes as they arrive, to whole frames: header and body of each, as views."""

    def __init__(self) -> None:
        self._pending = bytearray()
        self._needed = 0

    def feed(self, data: bytes) -> list[tuple[memoryview, memoryview]]:
        """The frames that these bytes complete.

        Raises:
            RuntimeFailed: this is no frame: somebody else wrote to the socket.
        """
        whole: bytes | bytearray = data
        if self._pending:
            self._pending += data
            if len(self._pending) < self._needed:
                return []
            whole, self._pending = self._pending, bytearray()
        view = memoryview(whole)
        frames = []
        start, end = 0, len(whole)
        self._needed = _PREFIX.size
        while end - start >= _PREFIX.size:
            head_size, zero, body_size = _PREFIX.unpack_from(view, start)
            if zero or head_size > _MAX_HEADER:
                raise RuntimeFailed("the socket of a worker process carried something that is not a frame")
            head = start + _PREFIX.size
            body = head + padded(head_size)
            if end - body < body_size:
                self._needed = body + body_size - start
                break
            frames.append((view[head : head + head_size], view[body : body + body_size]))
            start = body + body_size
        if start < end:
            self._pending = bytearray(view[start:])
        return frames


class Shared:
    """Memory that two processes map, by a descriptor that the worker inherits. One side writes, the other reads."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._map: mmap.mmap | None = None

    def write(self, buffers: Sequence[Buffer]) -> None:
        """Lay buffers in it, one after another, padded as in a body; it grows as needed and never shrinks."""
        size = sum([padded(len(buffer)) for buffer in buffers])
        if self._map is None or len(self._map) < size:
            os.ftruncate(self.fd, size)
            self._map = mmap.mmap(self.fd, size)  # an older map lives as long as an array upon it does
        offset = 0
        memory = memoryview(self._map)
        for buffer in buffers:
            memory[offset : offset + len(buffer)] = buffer
            offset += padded(len(buffer))

    def read(self, laid: Sequence[Laid]) -> list[Tensor]:
        """What lies in it, as views: they hold until the other side writes again."""
        size = sum([padded(each.size) for each in laid])
        if self._map is None or len(self._map) < size:
            self._map = mmap.mmap(self.fd, os.fstat(self.fd).st_size)
        return lift(laid, self._map)


def is_large(buffers: Sequence[Buffer]) -> bool:
    """Whether these bytes are worth shared memory."""
    return sum([len(buffer) for buffer in buffers]) >= SHARED_BYTES
