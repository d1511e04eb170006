"""The shared nouns of a request's walk: tensors, requests, responses, and the one callable type `Infer`.

Datatypes are those of the Open Inference Protocol. A tensor's data is a numpy array in that datatype, as a view
of the bytes that arrived where the wire allows it; BYTES is an object array of `bytes`; BF16, which numpy lacks, is its
bit pattern as uint16. The shape of a tensor is the shape of its array.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Any, Final, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from headrace.errors import InvalidRequest

Array = npt.NDArray[Any]
Parameters = Mapping[str, Any]
"""Strings, numbers and booleans by name."""

EMPTY: Final[Parameters] = MappingProxyType({})

DTYPES: Final[Mapping[str, np.dtype[Any]]] = MappingProxyType(
    {
        "BOOL": np.dtype(np.bool_),
        "UINT8": np.dtype(np.uint8),
        "UINT16": np.dtype(np.uint16),
        "UINT32": np.dtype(np.uint32),
        "UINT64": np.dtype(np.uint64),
        "INT8": np.dtype(np.int8),
        "INT16": np.dtype(np.int16),
        "INT32": np.dtype(np.int32),
        "INT64": np.dtype(np.int64),
        "FP16": np.dtype(np.float16),
        "FP32": np.dtype(np.float32),
        "FP64": np.dtype(np.float64),
        "BF16": np.dtype(np.uint16),
        "BYTES": np.dtype(np.object_),
    }
)
"""Datatype to the numpy dtype that carries it."""

_DATATYPES: Final[Mapping[np.dtype[Any], str]] = MappingProxyType(
    {dtype: name for name, dtype in DTYPES.items() if name != "BF16"}
)


def datatype_of(array: Array) -> str:
    """The datatype that carries this array; text, bytes and objects are BYTES.

    Raises:
        InvalidRequest: for a dtype that no datatype carries (complex, structured, datetime).
    """
    name = _DATATYPES.get(array.dtype)
    if name is not None:
        return name
    native = array.dtype.newbyteorder("=")
    if native in _DATATYPES:
        return _DATATYPES[native]
    if array.dtype.kind in "SU":
        return "BYTES"
    msg = f"no datatype carries numpy dtype {array.dtype}; expected one of {', '.join(DTYPES)}"
    raise InvalidRequest(msg)


class Tensor(msgspec.Struct, frozen=True, gc=False):
    """A named tensor: `data` is an array whose dtype is `DTYPES[datatype]` and whose shape is the tensor's."""

    name: str
    datatype: str
    data: Array
    parameters: Parameters = EMPTY
    nested: bool = False
    """It came as lists in lists, as JSON allows: code written for MLServer sees it so. Nothing else depends on it."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The dimensions; `()` is a scalar."""
        return tuple(self.data.shape)


class RequestedOutput(msgspec.Struct, frozen=True, gc=False):
    """An output that the caller asks for, with its wire parameters (`binary_data`, `classification`)."""

    name: str
    parameters: Parameters = EMPTY


class Trace(Protocol):
    """Where the steps of one request are recorded when somebody traces it."""

    def record(self, name: str, start_ns: int, end_ns: int) -> None:
        """One step (`parse`, `queue`, `predict`, `render`), by nanoseconds since the epoch."""


class InferenceRequest(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """What a caller asks of a model, whatever wire it came by."""

    model_name: str
    inputs: tuple[Tensor, ...]
    model_version: str = ""
    """Empty: the default version."""
    id: str = ""
    outputs: tuple[RequestedOutput, ...] = ()
    """Empty: the model's default outputs."""
    parameters: Parameters = EMPTY
    headers: Mapping[str, str] = EMPTY
    """Lower-cased transport headers or call metadata."""
    protocol: str = ""
    """The protocol it came by (`v2_rest`, `v2_grpc`, `v1`), for metrics."""
    deadline: float | None = None
    """On the clock of `time.monotonic`, seconds; None: no deadline of its own."""
    trace: Trace | None = None
    """Set while somebody traces this request; the engine records `queue` and `predict`."""


class InferenceResponse(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """What a model answers."""

    model_name: str
    outputs: tuple[Tensor, ...]
    model_version: str = ""
    id: str = ""
    parameters: Parameters = EMPTY
    headers: Mapping[str, str] = EMPTY
    """Transport headers that the model wants on the reply."""


Infer = Callable[[InferenceRequest], Awaitable[InferenceResponse]]
"""A model, a pipeline, a split, a cache, a tap: each is this and wraps this."""

InferStream = Callable[[InferenceRequest], AsyncIterator[InferenceResponse]]
"""The twin for models that answer one request with many responses."""


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """A path of its own that a model answers beside inference."""

    method: str
    """`GET`, `POST`, ..."""
    path: str
    """From the root: `/explain`. A segment `{name}` matches any one segment."""
    name: str
    """What the model calls it; a `RouteRequest` carries it back."""


class RouteRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A plain HTTP request to one of a model's own routes."""

    route: str
    """The `name` of the route that matched."""
    method: str
    target: str
    """Path and query as the client sent them."""
    headers: tuple[tuple[str, str], ...] = ()
    """Lower-cased names."""
    body: bytes = b""
    """Decompressed."""
    parameters: Mapping[str, str] = EMPTY
    """What the `{name}` segments of the route matched."""
    deadline: float | None = None
    """As of InferenceRequest."""


class RouteResponse(msgspec.Struct, frozen=True, kw_only=True):
    """The model's answer to it."""

    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    """Without Content-Length and hop-by-hop fields."""
    body: bytes = b""


Visit = Callable[[RouteRequest], Awaitable[RouteResponse]]
"""The `Infer` of a model's own routes."""


class TensorSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What a model says of one of its inputs or outputs. A dimension of -1 varies."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    content_type: str = ""
    """The codec that turns the tensor into what the model takes; empty: an array."""
    optional: bool = False
    labels: tuple[str, ...] = ()
    """Class labels by position, where the model knows them; the classification extension shows them."""


DIGEST: Final = "digest"
"""Property of a model: `sha256:` and what its file's or folder's bytes come to. A caller knows by it whether the model
that answers is still the one that it has begun with."""


class Signature(msgspec.Struct, frozen=True, kw_only=True):
    """What a loaded model declares of itself, inferred from its file, signature or a sample."""

    platform: str
    """For example `sklearn`, `onnx_onnxruntime`, `xgboost`, `python`."""
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    default_outputs: tuple[str, ...] = ()
    """Answered when the caller names none; empty: all of `outputs`."""
    strict: bool = True
    """Input names and datatypes must be those of `inputs`. False: a single input may have any name and numeric
    datatype, and columns may come one tensor each (the model itself decides)."""
    batchable: bool = True
    """Axis 0 of every input and output counts rows, and rows do not depend on one another."""
    content_type: str = ""
    """Request-level codec (`pd`: all inputs become one DataFrame); empty: none."""
    libraries: Mapping[str, str] = EMPTY
    """Library name to installed version."""
    warnings: tuple[str, ...] = ()
    """What a person should know: shown in metadata, `headrace models` and `headrace doctor`."""
    properties: Mapping[str, str] = EMPTY
    """Shown in metadata as they are: engine by number of rows, parity figures, reasons of a refusal."""
    objects: bool = False
    """Over JSON, elements of BYTES may be any JSON value but a list: the model's own code looks at them."""
    missing_texts: bool = False
    """An element of a BYTES input may be None: no value. Only a model that says so is given any."""
    declared: Mapping[str, Any] = EMPTY
    """Members of V2 metadata in the words of the model's own code, which hold over what its settings declare."""
