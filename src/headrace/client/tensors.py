"""What a person has in hand (arrays, lists, data frames) to tensors, and tensors to the V2 body and back.

`http` calls it.

Pure: opens nothing. Numbers travel by the binary tensor extension, little-endian and row-major; text as length-prefixed
UTF-8; with `binary=False` everything is JSON, where NaN and infinities become null.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec
import numpy as np

from headrace.errors import InvalidRequest, RuntimeFailed
from headrace.payload import (
    DTYPES,
    Array,
    InferenceRequest,
    InferenceResponse,
    Parameters,
    Tensor,
    TensorSpec,
    datatype_of,
)

_UNNAMED: Final = "input-0"
"""The name of a single tensor for a model that declares no inputs."""


def tensors_of(values: Any, specs: Sequence[TensorSpec]) -> tuple[tuple[Tensor, ...], Parameters]:
    """The tensors, and the request parameters that go with them, for values of any form `Client.predict` takes.

    Args:
        values: An array, a nested list, a DataFrame or Series, or a mapping of input name to an array or list.
        specs: What the model declares of its inputs; empty when it declares nothing.

    Raises:
        InvalidRequest: the values do not fit the declared inputs; the text names the input.
    """
    known = {spec.name: spec for spec in specs}
    if _is_frame(values):
        return _tensors_of_frame(values, specs)
    if isinstance(values, Mapping):
        if not values:
            raise InvalidRequest(f"expected arrays by input name ({', '.join(known) or 'any'}), got an empty mapping")
        return tuple(_tensor(str(name), value, known.get(str(name))) for name, value in values.items()), {}
    required = [spec for spec in specs if not spec.optional]
    if len(required) > 1:
        rows = values if isinstance(values, np.ndarray) else np.asarray(values, dtype=object)
        if rows.shape[1:] == (len(required),) and all(map(_takes_columns, required)):  # columns in the model's order
            return tuple(_tensor(spec.name, rows[:, at], spec) for at, spec in enumerate(required)), {}
        names = ", ".join(spec.name for spec in required)
        came = type(values).__name__
        raise InvalidRequest(f"the model has {len(required)} inputs ({names}): give arrays by name, got one {came}")
    spec = next(iter(required or specs), None)
    return (_tensor(_UNNAMED if spec is None else spec.name, values, spec),), {}


def render(request: InferenceRequest, *, binary: bool) -> tuple[bytes, int | None]:
    """The body, and the length of its JSON part when tensors follow it as bytes (else None)."""
    head: dict[str, Any] = {"inputs": []}
    chunks: list[Any] = []
    for tensor in request.inputs:
        entry: dict[str, Any] = {"name": tensor.name, "shape": tensor.shape, "datatype": tensor.datatype}
        parameters = dict(tensor.parameters)
        if binary:
            raw = _raw(tensor)
            chunks.append(raw)
            parameters["binary_data_size"] = len(raw)
        else:
            entry["data"] = _json(tensor)
        if parameters:
            entry["parameters"] = parameters
        head["inputs"].append(entry)
    if request.id:
        head["id"] = request.id
    if request.outputs:
        head["outputs"] = [
            {"name": each.name, "parameters": dict(each.parameters)} if each.parameters else {"name": each.name}
            for each in request.outputs
        ]
    parameters = dict(request.parameters)
    if binary:
        parameters["binary_data_output"] = True
    if parameters:
        head["parameters"] = parameters
    try:
        encoded = msgspec.json.encode(head)
    except TypeError as exc:
        raise InvalidRequest(f"request parameters take text, numbers and booleans: {exc}") from exc
    return (b"".join([encoded, *chunks]), len(encoded)) if binary else (encoded, None)


class _Output(msgspec.Struct):
    name: str
    shape: tuple[int, ...]
    datatype: str
    data: list[Any] | None = None
    parameters: dict[str, Any] | None = None


class _Response(msgspec.Struct):
    model_name: str = ""
    outputs: list[_Output] = []
    model_version: str | None = ""
    id: str | None = ""
    parameters: dict[str, Any] | None = None


_RESPONSE: Final = msgspec.json.Decoder(_Response)


def parse(body: bytearray, header_length: int | None) -> InferenceResponse:
    """The response in a body; arrays are writable views of it.

    Raises:
        RuntimeFailed: the server's answer is not what the protocol says.
    """
    view = memoryview(body)
    end = len(body) if header_length is None else header_length
    try:
        head = _RESPONSE.decode(view[:end])
        offset, outputs = end, []
        for output in head.outputs:
            size = (output.parameters or {}).get("binary_data_size")
            chunk = None if size is None else view[offset : offset + size]
            offset += 0 if size is None else size
            outputs.append(_parse_output(output, chunk))
    except (msgspec.MsgspecError, ValueError, KeyError, TypeError, struct.error) as exc:
        raise RuntimeFailed(f"the server's answer is not a V2 inference response: {exc}") from exc
    return InferenceResponse(
        model_name=head.model_name,
        model_version=head.model_version or "",
        id=head.id or "",
        outputs=tuple(outputs),
        parameters=head.parameters or {},
    )


def array_of(tensor: Tensor) -> Array:
    """What a caller gets for an output: BF16 as float32, BYTES as text where all of it is UTF-8, else the array itself.

    Text is what the JSON form of BYTES always gives, so both forms give the same; `Client.infer` gives the bytes.
    """
    if tensor.datatype == "BF16":
        return (tensor.data.astype(np.uint32) << 16).view(np.float32)
    if tensor.datatype == "BYTES":
        try:
            return _objects([each.decode() for each in tensor.data.ravel()], tensor.shape)
        except UnicodeDecodeError:
            return tensor.data
    return tensor.data


# -- values to tensors --


def _is_frame(values: Any) -> bool:
    return hasattr(values, "columns") and hasattr(values, "iloc")  # pandas, without importing it


def _tensors_of_frame(frame: Any, specs: Sequence[TensorSpec]) -> tuple[tuple[Tensor, ...], Parameters]:
    if len(specs) == 1 and len(frame.columns) != 1 and not _takes_columns(specs[0]):
        return (_tensor(specs[0].name, _matrix(frame), specs[0]),), {}
    known = {spec.name: spec for spec in specs}
    if len(known) == 1 and len(frame.columns) == 1:
        (spec,) = specs
        return (_tensor(spec.name, _column(frame.iloc[:, 0]), spec),), {}
    missing = [
        spec.name for spec in specs if not spec.optional and spec.name not in {str(name) for name in frame.columns}
    ]
    if missing:
        raise InvalidRequest(f"the model's inputs {', '.join(missing)} are not among the columns of the DataFrame")
    tensors = []
    for position, name in enumerate(frame.columns):
        if known and str(name) not in known:
            continue  # a frame may carry columns that the model was not trained on
        tensors.append(_tensor(str(name), _column(frame.iloc[:, position]), known.get(str(name))))
    return tuple(tensors), {} if known else {"content_type": "pd"}


def _takes_columns(spec: TensorSpec) -> bool:
    return len(spec.shape) < 2 or spec.shape[-1] == 1


def _matrix(frame: Any) -> Array:
    columns = [_column(frame.iloc[:, position]) for position in range(len(frame.columns))]
    return np.stack(columns, axis=1) if columns else np.empty((len(frame), 0))


def _column(series: Any) -> Array:
    if getattr(series.dtype, "name", "") == "category":
        series = series.astype(series.dtype.categories.dtype)
    kind = getattr(series.dtype, "kind", "O")
    if not isinstance(series.dtype, np.dtype) and kind in "biuf":  # nullable numbers: missing becomes NaN
        dtype = np.dtype(np.float64) if series.isna().any() else series.dtype.numpy_dtype
        return np.asarray(
            series.to_numpy(dtype=dtype, na_value=np.nan) if dtype.kind == "f" else series.to_numpy(dtype=dtype)
        )
    return np.asarray(series.to_numpy())


def _tensor(name: str, values: Any, spec: TensorSpec | None) -> Tensor:
    try:
        array = np.asarray(values)
    except ValueError as exc:
        raise InvalidRequest(f"input '{name}': rows must have one length each: {exc}") from exc
    if array.dtype.kind in "US" and not hasattr(values, "dtype"):
        array = np.asarray(values, dtype=object)  # numpy has turned numbers beside text into text
    if array.dtype.kind == "O":
        array = _settle(name, array)
    if array.dtype.kind in "USO":
        array = _as_bytes(array)
    datatype = datatype_of(array)
    if spec is not None and spec.datatype != datatype:
        array, datatype = _cast(name, array, datatype, spec.datatype)
    if spec is not None and len(spec.shape) == array.ndim + 1 and spec.shape[-1] == 1:
        array = array[..., np.newaxis]
    parameters = {"content_type": spec.content_type} if spec is not None and spec.content_type else {}
    return Tensor(name, datatype, np.ascontiguousarray(array) if array.ndim else array, parameters)


def _settle(name: str, array: Array) -> Array:
    """An object array of numbers as numbers; text and bytes stay; a mixture is refused."""
    flat = array.ravel().tolist()
    if all(isinstance(each, str | bytes) for each in flat):
        return array
    if any(isinstance(each, str | bytes) for each in flat):
        raise InvalidRequest(
            f"input '{name}': text and other values are mixed; send each column as an input of its own"
        )
    try:
        settled = np.array([np.nan if each is None else each for each in flat])
    except ValueError as exc:
        raise InvalidRequest(f"input '{name}': rows must have one length each: {exc}") from exc
    if settled.dtype.kind not in "biuf" or settled.shape != (array.size,):
        raise InvalidRequest(f"input '{name}': expected numbers, booleans, text or bytes, got {type(flat[0]).__name__}")
    return settled.reshape(array.shape)


def _as_bytes(array: Array) -> Array:
    return _objects(
        [each.encode() if isinstance(each, str) else bytes(each) for each in array.ravel().tolist()], array.shape
    )


def _objects(values: list[Any], shape: tuple[int, ...]) -> Array:
    flat = np.empty(len(values), dtype=object)
    flat[:] = values
    return flat.reshape(shape)


def _cast(name: str, array: Array, datatype: str, wanted: str) -> tuple[Array, str]:
    """The array in the datatype the model declares, where no value changes meaning; else as it is, for the server."""
    dtype = DTYPES.get(wanted)
    if dtype is None or "BYTES" in {datatype, wanted}:
        return array, datatype
    if wanted == "BF16":
        return (array, datatype) if array.dtype.kind not in "iuf" else (_bfloat16(array.astype(np.float32)), wanted)
    if array.dtype.kind in "iu" and dtype.kind in "iu":
        limits = np.iinfo(dtype)
        if array.size and (int(array.min()) < limits.min or int(array.max()) > limits.max):
            raise InvalidRequest(
                f"input '{name}': values beyond {limits.min}..{limits.max} do not fit datatype {wanted}"
            )
        return array.astype(dtype), wanted
    if np.can_cast(array.dtype, dtype, casting="same_kind"):
        return array.astype(dtype), wanted
    return array, datatype


def _bfloat16(array: Array) -> Array:
    """The upper half of each float32, rounded to nearest, ties to even; NaN stays NaN."""
    bits = np.ascontiguousarray(array).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    quiet = (bits >> 16) | 0x40
    return np.where(np.isnan(array), quiet, rounded).astype(np.uint16)


# -- tensors to bytes and JSON, and back --


def _raw(tensor: Tensor) -> Any:
    if tensor.datatype == "BYTES":
        return b"".join(part for each in tensor.data.ravel() for part in (struct.pack("<I", len(each)), each))
    array = tensor.data
    if array.dtype.byteorder == ">" or (array.dtype.byteorder == "=" and sys.byteorder == "big"):
        array = array.astype(array.dtype.newbyteorder("<"))
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _json(tensor: Tensor) -> list[Any]:
    if tensor.datatype in {"FP16", "BF16"}:
        raise InvalidRequest(f"input '{tensor.name}': {tensor.datatype} has no JSON form; use binary=True")
    if tensor.datatype != "BYTES":
        return list(tensor.data.ravel().tolist())
    try:
        return [each.decode() for each in tensor.data.ravel()]
    except UnicodeDecodeError as exc:
        raise InvalidRequest(
            f"input '{tensor.name}': bytes that are not UTF-8 have no JSON form; use binary=True"
        ) from exc


def _parse_output(output: _Output, chunk: memoryview | None) -> Tensor:
    dtype = DTYPES[output.datatype]
    parameters = {name: value for name, value in (output.parameters or {}).items() if name != "binary_data_size"}
    if output.datatype == "BYTES":
        if chunk is None:
            values = [each.encode() if isinstance(each, str) else bytes(each) for each in _flat(output.data or [])]
        else:
            values = list(_split_bytes(chunk))
        return Tensor(output.name, "BYTES", _objects(values, output.shape), parameters)
    if chunk is not None:
        array = np.frombuffer(chunk, dtype=dtype.newbyteorder("<")).astype(dtype, copy=False)
    else:
        flat = _flat(output.data or [])
        array = np.array(
            [np.nan if each is None else each for each in flat] if dtype.kind == "f" else flat, dtype=dtype
        )
    return Tensor(output.name, output.datatype, array.reshape(output.shape), parameters)


def _flat(data: list[Any]) -> list[Any]:
    while data and isinstance(data[0], list):
        data = [each for row in data for each in row]
    return data


def _split_bytes(chunk: memoryview) -> Iterable[bytes]:
    position = 0
    while position < len(chunk):
        (size,) = struct.unpack_from("<I", chunk, position)
        position += 4
        if position + size > len(chunk):
            raise ValueError(f"a BYTES element of {size} bytes does not fit the {len(chunk) - position} left")
        yield bytes(chunk[position : position + size])
        position += size
