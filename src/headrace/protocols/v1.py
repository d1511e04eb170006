"""Steps 2 and 7 of the walk for the V1 protocol: KServe's and TensorFlow Serving's predict. The HTTP server calls it.

Row form: `{"instances": [...]}` -> `{"predictions": [...]}`, a row an element: a number, a text, a nested list,
`{"b64": ...}`, or an object of tensors by name. Column form: `{"inputs": ...}` -> `{"outputs": ...}`: one tensor, or an
object of tensors by name. Other members become request parameters; `signature_name` is read and dropped, since a model
here has one signature.

V1 names no datatypes: data take that of the model's input (integers serve a model of floats; null is NaN), or without
a signature INT64, FP64, BOOL or BYTES as they look. Bytes are answered as text, as `{"b64": ...}` where they
are not UTF-8 or the output's name ends in `_bytes`; NaN and infinities as null.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
import numpy as np
import orjson

from headrace.errors import InvalidRequest, RuntimeFailed
from headrace.payload import DTYPES, EMPTY, Array, InferenceRequest, InferenceResponse, Signature, Tensor, TensorSpec
from headrace.protocols import numbers, status
from headrace.protocols.documents import read_object

PROTOCOL: Final = "v1"
UNNAMED: Final = "input-0"
"""The name of a single tensor for a model that declares no inputs."""


class ColumnRequest(InferenceRequest, frozen=True, gc=False, kw_only=True):
    """A request in the column form, so that it is answered in it."""


def parse(
    body: bytes | memoryview,
    *,
    model_name: str,
    model_version: str = "",
    signature: Signature | None = None,
    headers: Mapping[str, str] = EMPTY,
    deadline: float | None = None,
) -> InferenceRequest:
    """A prediction request; a `ColumnRequest` when it came in the column form.

    Args:
        body: The whole body, its content encoding undone.
        model_name: From the path.
        model_version: From the path; empty: the default version.
        signature: The model's: gives names and datatypes.
        headers: The transport's, lower-cased.
        deadline: On the clock of `time.monotonic`, seconds.

    Raises:
        InvalidRequest: the body is not JSON, holds neither or both of `instances` and `inputs`, or data do not fit.
    """
    document = read_object(body)
    specs = signature.inputs if signature is not None else ()
    instances, inputs = document.pop("instances", None), document.pop("inputs", None)
    document.pop("signature_name", None)
    if (instances is None) is (inputs is None):
        found = "neither" if instances is None else "both"
        raise InvalidRequest(
            f"request for model '{model_name}' must hold \"instances\" (a list, one element a row) or "
            f'"inputs" (tensors), got {found}'
        )
    if inputs is None:
        tensors, kind = _parse_rows(instances, specs, model_name), InferenceRequest
    else:
        tensors, kind = _parse_columns(inputs, specs, model_name), ColumnRequest
    return kind(
        model_name=model_name,
        model_version=model_version,
        inputs=tensors,
        parameters=document or EMPTY,
        headers=headers,
        protocol=PROTOCOL,
        deadline=deadline,
    )


def _parse_rows(instances: Any, specs: Sequence[TensorSpec], model: str) -> tuple[Tensor, ...]:
    if type(instances) is not list:
        raise InvalidRequest(f"Expected \"instances\" to be a list in the request for model '{model}'")
    first = instances[0] if instances else None
    if type(first) is list and len(specs) > 1 and (named := _in_order(instances, specs)):
        return _by_name(named, specs, model)
    if type(first) is not dict or _is_b64(first):
        return (_tensor(_single(specs, model, "give each instance as an object"), instances, model),)
    columns: dict[str, list[Any]] = {name: [] for name in first}
    for index, instance in enumerate(instances):
        if type(instance) is not dict or instance.keys() != columns.keys():
            got = ", ".join(instance) if type(instance) is dict else "no object"
            raise InvalidRequest(
                f"instance {index} for model '{model}' must have the members of instance 0 "
                f"({', '.join(columns)}), got {got}"
            )
        for name, value in instance.items():
            columns[name].append(value)
    return _by_name(columns, specs, model)


def _in_order(instances: list[Any], specs: Sequence[TensorSpec]) -> Mapping[str, Any]:
    """Rows of one plain value for each column, as columns in the model's order; empty when they are something else."""
    required = [spec for spec in specs if not spec.optional]
    width = len(required)
    if width == 1 or any(spec.shape not in {(-1,), (-1, 1)} for spec in required):
        return EMPTY
    for row in instances:
        if type(row) is not list or len(row) != width or list in map(type, row):
            return EMPTY
    return {spec.name: list(column) for spec, column in zip(required, zip(*instances, strict=True), strict=True)}


def _parse_columns(inputs: Any, specs: Sequence[TensorSpec], model: str) -> tuple[Tensor, ...]:
    if type(inputs) is dict and not _is_b64(inputs):
        return _by_name(inputs, specs, model)
    return (_tensor(_single(specs, model, 'give "inputs" as an object'), inputs, model),)


def _single(specs: Sequence[TensorSpec], model: str, advice: str) -> TensorSpec | str:
    required = [spec for spec in specs if not spec.optional]
    if len(required) > 1:
        names = ", ".join(spec.name for spec in required)
        raise InvalidRequest(f"model '{model}' takes {len(required)} inputs ({names}): {advice} with these members")
    return next(iter(required or specs), UNNAMED)


def _by_name(columns: Mapping[str, Any], specs: Sequence[TensorSpec], model: str) -> tuple[Tensor, ...]:
    known = {spec.name: spec for spec in specs}
    return tuple(_tensor(known.get(name, name), values, model) for name, values in columns.items())


def _is_b64(value: Any) -> bool:
    return type(value) is dict and value.keys() == {"b64"}


def _tensor(spec: TensorSpec | str, values: Any, model: str) -> Tensor:
    """Nested JSON as a tensor of the input's datatype and, where only dimensions of 1 differ, of its rank."""
    if isinstance(spec, str):
        name, datatype, wanted = spec, "", None
    else:
        name, datatype, wanted = spec.name, spec.datatype, spec.shape
    what = f"input '{name}' for model '{model}'"
    dimensions, flat = numbers.flatten(values, what) if type(values) is list else ([], [values])
    data = _typed(flat, datatype, what)
    if wanted is not None and len(wanted) != len(dimensions):
        if len(wanted) == len(dimensions) + 1 and wanted[-1] == 1:
            dimensions = [*dimensions, 1]
        elif len(wanted) + 1 == len(dimensions) and dimensions[-1] == 1:
            dimensions = dimensions[:-1]
    return Tensor(name, datatype or _guessed(data), data.reshape(dimensions))


def _is_v2(flat: list[Any]) -> bool:
    """Whether these are the tensors of a V2 request, sent to a V1 path."""
    return all(type(each) is dict and {"name", "shape", "datatype"} <= each.keys() for each in flat)


def _guessed(data: Array) -> str:
    return {"b": "BOOL", "i": "INT64", "u": "UINT64", "f": "FP64"}.get(data.dtype.kind, "BYTES")


def _typed(flat: list[Any], datatype: str, what: str) -> Array:
    kinds = set(map(type, flat))
    if dict in kinds or (str in kinds and datatype in {"", "BYTES"}):
        if datatype not in {"", "BYTES"}:
            hint = "; send a V2 body to the V2 path, :predict is V1" if _is_v2(flat) else ""
            raise InvalidRequest(f"{what} is {datatype}, but holds objects{hint}")
        array: Array = np.empty(len(flat), np.object_)
        array[:] = [_bytes(each, index, what) for index, each in enumerate(flat)]
        return array
    if datatype in {"FP16", "BF16"}:
        single = numbers.typed(flat, "FP32", what)
        if datatype == "BF16":
            return _to_bf16(single)
        with np.errstate(over="ignore"):
            half: Array = single.astype(np.float16)
        if (np.isinf(half) & ~np.isinf(single)).any():
            raise InvalidRequest(f"{what}: a number is too large for FP16")
        return half
    if not datatype:
        if kinds == {bool}:
            datatype = "BOOL"
        elif kinds == {int}:
            datatype = "INT64" if max(flat) < 1 << 63 else "UINT64"
        else:
            datatype = "FP64"
    return numbers.typed(flat, datatype, what)


def _to_bf16(single: Array) -> Array:
    """Rounded to nearest, ties to even; NaN stays one."""
    bits = single.view(np.uint32).astype(np.uint64)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(single), 0x7FC0, rounded).astype(np.uint16)


def _bytes(value: Any, index: int, what: str) -> bytes:
    if type(value) is str:
        return value.encode()
    if _is_b64(value) and type(value["b64"]) is str:
        try:
            return base64.b64decode(value["b64"], validate=True)
        except (binascii.Error, ValueError) as exc:
            raise InvalidRequest(f"{what}: element {index} is not base64: {exc}") from None
    raise InvalidRequest(f'{what}: element {index} must be a string or {{"b64": text}}')


# -- render --


def render(request: InferenceRequest, response: InferenceResponse) -> bytes:
    """The answer in its request's form. Row form: a list with an element a row, which is an object by output name when
    there are several outputs; column form: the one output's values, or an object of them.

    Outputs whose numbers of rows differ have no row form: predictions are then an object by name.

    Raises:
        RuntimeFailed: an output holds what JSON cannot carry.
    """
    outputs = response.outputs
    values: Any
    if len(outputs) == 1:
        values = _values(outputs[0])
    elif isinstance(request, ColumnRequest) or not _share_rows(outputs):
        values = {tensor.name: _values(tensor) for tensor in outputs}
    else:
        columns = [_values(tensor) for tensor in outputs]
        names = [tensor.name for tensor in outputs]
        values = [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
    form = "outputs" if isinstance(request, ColumnRequest) else "predictions"
    try:
        return orjson.dumps({form: values}, option=orjson.OPT_SERIALIZE_NUMPY)
    except TypeError as exc:
        raise RuntimeFailed(f"model '{response.model_name}' answered with what JSON cannot carry: {exc}") from exc


def _share_rows(outputs: Sequence[Tensor]) -> bool:
    rows = {tensor.data.shape[:1] for tensor in outputs}
    return len(rows) == 1 and rows != {()}


def _values(tensor: Tensor) -> Any:
    data = tensor.data
    match tensor.datatype:
        case "BYTES":
            as_object = tensor.name.endswith("_bytes")
            texts: Array = np.empty(data.size, np.object_)
            texts[:] = [_text(each, as_object=as_object) for each in data.ravel().tolist()]
            return texts.reshape(data.shape).tolist()
        case "FP16":
            data = data.astype(np.float32)
        case "BF16":
            data = (data.astype(np.uint32) << 16).view(np.float32)
        case _:
            data = np.asarray(data, DTYPES[tensor.datatype], order="C")
    return data if data.ndim else data.reshape(1)[0]


def _text(value: Any, *, as_object: bool) -> Any:
    data = value.encode() if isinstance(value, str) else value
    if not isinstance(data, bytes):
        raise RuntimeFailed(f"a BYTES output holds a {type(value).__name__}, neither bytes nor text")
    if not as_object:
        try:
            return data.decode()
        except UnicodeDecodeError:
            pass  # shown as base64 instead
    return {"b64": base64.b64encode(data).decode()}


def render_error(error: BaseException) -> bytes:
    """The body of an error's reply: `{"error": text}`."""
    return status.error_body(status.public_text(error))


# -- models --


def render_models(names: Sequence[str]) -> bytes:
    """The list of models."""
    return orjson.dumps({"models": list(names)})


class VersionStatus(msgspec.Struct, frozen=True):
    """One version of a model as TensorFlow Serving tells it."""

    version: str
    state: str
    """`START`, `LOADING`, `AVAILABLE`, `UNLOADING` or `END`."""
    message: str = ""
    """Why it is not available; empty: nothing is wrong."""


def render_status(name: str, versions: Sequence[VersionStatus], *, ready: bool) -> bytes:
    """A model's readiness in KServe's form and TensorFlow Serving's, which share a path and no member."""
    return orjson.dumps(
        {
            "name": name,
            "ready": ready,
            "model_version_status": [
                {
                    "version": each.version or "1",
                    "state": each.state,
                    "status": {"error_code": "UNKNOWN" if each.message else "OK", "error_message": each.message},
                }
                for each in versions
            ],
        }
    )
