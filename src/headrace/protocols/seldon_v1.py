"""Steps 2 and 7 of the walk for Seldon Core v1's protocol: SeldonMessage and Feedback. The HTTP server calls it.

Source: Seldon Core 1.x, `prediction.proto` in its JSON form and the Python wrapper, observed. A message has `meta` and
one of `data` (`ndarray`, `tensor` or `tftensor`, with `names` of columns), `strData`, `binData` and `jsonData`.

What data become: rows by the model's own input where it has one; where it has several, one column each, by `names` or
by order. Data without a signature are INT64, FP64, BOOL or BYTES as they look. Names of columns stay with a single
tensor as its parameter `names` (a JSON list), for code that asks for them. Text, bytes and JSON are a BYTES tensor of
one element.

What is answered: the kind that was asked; arrays that hold no numbers always as `ndarray`. Where the request had no
array, one BYTES element is `strData`, `binData` or `jsonData` (an object or a list) as it looks, numbers are a
`tensor`. Several outputs of as many rows stand side by side as columns; others are `jsonData`, an object by name.
Names are those of the output's parameter `names`, else `t:0`, `t:1`, ... of what has columns. Each answer has a
`meta.puid`, the request's or a new one, as the engine of Seldon Core before 1.0 gave.
"""

from __future__ import annotations

import base64
import binascii
import math
import secrets
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import parse_qs

import msgspec
import numpy as np
import orjson

from headrace.errors import InvalidRequest, RuntimeFailed
from headrace.payload import DTYPES, EMPTY, Array, InferenceRequest, InferenceResponse, Signature, Tensor, TensorSpec
from headrace.protocols import numbers, status
from headrace.protocols.documents import check_depth, read_object

PROTOCOL: Final = "seldon_v1"
UNNAMED: Final = "input-0"
"""The name of a single tensor for a model that declares no inputs."""
NAMES: Final = "names"
"""Parameter of a tensor: the names of its columns, as a JSON list."""
TRUTH: Final = "truth"
"""Parameter of a feedback's request: what should have been answered, as lists."""
_KINDS: Final = ("data", "strData", "binData", "jsonData")
_ARRAYS: Final = ("ndarray", "tensor", "tftensor")
_OTHER_ARRAYS: Final = frozenset({"strData", "binData", "jsonData"})

_TF_VALUES: Final[Mapping[str, tuple[str, str]]] = {
    "DT_HALF": ("FP16", "halfVal"),
    "DT_FLOAT": ("FP32", "floatVal"),
    "DT_DOUBLE": ("FP64", "doubleVal"),
    "DT_INT8": ("INT8", "intVal"),
    "DT_INT16": ("INT16", "intVal"),
    "DT_INT32": ("INT32", "intVal"),
    "DT_INT64": ("INT64", "int64Val"),
    "DT_UINT8": ("UINT8", "intVal"),
    "DT_UINT16": ("UINT16", "intVal"),
    "DT_UINT32": ("UINT32", "uint32Val"),
    "DT_UINT64": ("UINT64", "uint64Val"),
    "DT_BOOL": ("BOOL", "boolVal"),
    "DT_STRING": ("BYTES", "stringVal"),
}
"""TensorFlow's datatypes: ours, and the field of a TensorProto that holds the values."""
_TF_TYPES: Final[Mapping[str, str]] = {ours: theirs for theirs, (ours, _) in _TF_VALUES.items()}


class SeldonRequest(InferenceRequest, frozen=True, gc=False, kw_only=True):
    """A request that came as a SeldonMessage, so that it is answered as one."""

    kind: str = "ndarray"
    """`ndarray`, `tensor`, `tftensor`, `strData`, `binData` or `jsonData`."""
    puid: str = ""
    """What the caller calls this prediction."""
    meta: Mapping[str, Any] = EMPTY
    """The request's `meta`: its tags are the answer's too."""


# -- parse --


def body_of(body: bytes, *, content_type: str = "", query: str = "") -> bytes:
    """The SeldonMessage in a body: itself, the field `json` of a form, or of the query where there is no body. Parts
    `strData` and `binData` of a multipart form are messages as well.

    Raises:
        InvalidRequest: there is none.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        return _of_parts(body, content_type)
    if kind == "application/x-www-form-urlencoded" and not body.lstrip().startswith(b"{"):  # curl -d says so of JSON
        query = body.decode("latin-1")
    elif body:
        return body
    fields = parse_qs(query).get("json")
    if not fields:
        raise InvalidRequest("Can't find JSON in data")
    return fields[0].encode()


def _of_parts(body: bytes, content_type: str) -> bytes:
    from email.parser import BytesParser  # forms are rare, and it takes longer to import than this module

    head = f"Content-Type: {content_type}\r\n\r\n".encode("latin-1", errors="replace")
    message = BytesParser().parsebytes(head + body)
    fields: dict[str, bytes] = {}
    for part in message.get_payload() if message.is_multipart() else ():
        name = part.get_param("name", header="content-disposition")  # type: ignore[union-attr]  # parts are messages
        content = part.get_payload(decode=True)  # type: ignore[union-attr]  # parts are messages
        if isinstance(name, str) and isinstance(content, bytes):
            fields[name] = content
    if "json" in fields:
        return fields["json"]
    if "strData" in fields:
        return orjson.dumps({"strData": fields["strData"].decode(errors="replace")})
    if "binData" in fields:
        return orjson.dumps({"binData": base64.b64encode(fields["binData"]).decode()})
    raise InvalidRequest("Can't find JSON in data: a form has a field json, strData or binData")


def parse(
    body: bytes | memoryview,
    *,
    model_name: str,
    model_version: str = "",
    signature: Signature | None = None,
    headers: Mapping[str, str] = EMPTY,
    deadline: float | None = None,
) -> SeldonRequest:
    """A SeldonMessage as a request.

    Args:
        body: The message, as `body_of` gives it.
        model_name: Who is asked.
        model_version: Empty: the default version.
        signature: The model's: gives names, datatypes and ranks.
        headers: The transport's, lower-cased.
        deadline: On the clock of `time.monotonic`, seconds.

    Raises:
        InvalidRequest: the body is no SeldonMessage, holds not exactly one kind of data, or data do not fit.
    """
    return _request(
        read_object(body),
        model_name=model_name,
        model_version=model_version,
        signature=signature,
        headers=headers,
        deadline=deadline,
    )


def _request(
    document: Mapping[str, Any],
    *,
    model_name: str,
    model_version: str = "",
    signature: Signature | None = None,
    headers: Mapping[str, str] = EMPTY,
    deadline: float | None = None,
) -> SeldonRequest:
    specs = signature.inputs if signature is not None else ()
    meta = document.get("meta")
    meta = {} if meta is None else meta
    if type(meta) is not dict:
        raise InvalidRequest("meta of a SeldonMessage must be an object")
    check_depth(meta, "meta")
    found = [kind for kind in _KINDS if document.get(kind) is not None]
    if len(found) != 1:
        raise InvalidRequest(
            f"a SeldonMessage must hold exactly one of {', '.join(_KINDS)}; got {', '.join(found) or 'none of them'}"
        )
    (kind,) = found
    value = document[kind]
    if kind == "data":
        kind, tensors = _of_data(value, specs, model_name)
    else:
        tensors = (_of_other(kind, value, specs, model_name),)
    puid = meta.get("puid") or headers.get("seldon-puid") or _new_puid()
    return SeldonRequest(
        model_name=model_name,
        model_version=model_version,
        inputs=tensors,
        id=str(puid),
        headers=headers,
        protocol=PROTOCOL,
        deadline=deadline,
        kind=kind,
        puid=str(puid),
        meta=meta,
    )


def _new_puid() -> str:
    return secrets.token_hex(16)


def _of_data(data: Any, specs: Sequence[TensorSpec], model: str) -> tuple[str, tuple[Tensor, ...]]:
    if type(data) is not dict:
        raise InvalidRequest("data of a SeldonMessage must be an object with names and ndarray, tensor or tftensor")
    found = [kind for kind in _ARRAYS if data.get(kind) is not None]
    if len(found) != 1:
        raise InvalidRequest(
            f"data of a SeldonMessage must hold exactly one of {', '.join(_ARRAYS)}; "
            f"got {', '.join(found) or 'none of them'}"
        )
    (kind,) = found
    names = data.get("names") or []
    if type(names) is not list or any(type(name) is not str for name in names):
        raise InvalidRequest("data.names of a SeldonMessage must be a list of strings")
    what = f"data.{kind} for '{model}'"
    if kind == "ndarray":
        values = data[kind]
        if type(values) is not list:
            raise InvalidRequest(f"{what} must be a list")
        dimensions, flat = numbers.flatten(values, what)
        return kind, _tensors(flat, dimensions, names=names, specs=specs, model=model, what=what)
    datatype, array = _of_tensor(data[kind], what) if kind == "tensor" else _of_tftensor(data[kind], what)
    if datatype == "BYTES":
        flat = [each.decode(errors="surrogateescape") for each in array.ravel().tolist()]
        return kind, _tensors(flat, list(array.shape), names=names, specs=specs, model=model, what=what)
    wanted = _required(specs)
    if len(wanted) == 1 and wanted[0].datatype == datatype:
        shaped = array.reshape(_ranked(list(array.shape), wanted[0]))
        return kind, (Tensor(wanted[0].name, datatype, shaped, _named(names)),)
    if not specs:
        return kind, (Tensor(UNNAMED, datatype, array, _named(names)),)
    flat = array.ravel().tolist()
    return kind, _tensors(flat, list(array.shape), names=names, specs=specs, model=model, what=what)


def _required(specs: Sequence[TensorSpec]) -> Sequence[TensorSpec]:
    return [spec for spec in specs if not spec.optional] or specs[:1]


def _tensors(
    flat: list[Any],
    dimensions: list[int],
    *,
    names: list[str],
    specs: Sequence[TensorSpec],
    model: str,
    what: str,
) -> tuple[Tensor, ...]:
    """JSON elements as the tensors that the model takes."""
    wanted = _required(specs)
    width = dimensions[1] if len(dimensions) == 2 else 0
    if len(wanted) > 1 or (width and len(names) == width and _is_mixed(flat)):
        by_name = {spec.name: spec for spec in specs}
        if len(names) != width:
            names = [spec.name for spec in wanted]
        if len(names) != width or (len(wanted) > 1 and not {spec.name for spec in wanted} <= set(names)):
            listed = ", ".join(spec.name for spec in wanted)
            raise InvalidRequest(
                f"{what}: '{model}' takes {len(wanted)} inputs ({listed}), so rows must have as many columns, or "
                f"data.names must name them; got the shape {dimensions}"
                + (f" and the names {', '.join(names)}" if names else "")
            )
        return tuple(
            _column(by_name.get(name, name), flat[index::width], f"{what}: column '{name}'")
            for index, name in enumerate(names)
            if not specs or len(wanted) == 1 or name in by_name
        )
    spec: TensorSpec | str = wanted[0] if wanted else UNNAMED
    if isinstance(spec, str):
        datatype, shape = _guessed(flat), dimensions
        return (Tensor(spec, datatype, numbers.typed(flat, datatype, what).reshape(shape), _named(names)),)
    if spec.datatype == "BYTES":
        flat = [each if type(each) is str else orjson.dumps(each).decode() for each in flat]
    data = _typed(flat, spec.datatype, what).reshape(_ranked(dimensions, spec))
    return (Tensor(spec.name, spec.datatype, data, _named(names)),)


def _column(spec: TensorSpec | str, flat: list[Any], what: str) -> Tensor:
    if isinstance(spec, str):
        datatype = _guessed(flat)
        return Tensor(spec, datatype, numbers.typed(flat, datatype, what))
    data = _typed(flat, spec.datatype, what)
    return Tensor(spec.name, spec.datatype, data.reshape(_ranked([len(flat)], spec)))


def _typed(flat: list[Any], datatype: str, what: str) -> Array:
    if datatype == "BF16":
        raise InvalidRequest(f"{what}: a SeldonMessage cannot carry BF16; use the V2 protocol with binary tensors")
    return numbers.typed(flat, datatype, what)


def _is_mixed(flat: list[Any]) -> bool:
    kinds = set(map(type, flat)) - {type(None)}
    return str in kinds and len(kinds) > 1


def _ranked(dimensions: list[int], spec: TensorSpec) -> list[int]:
    """The shape at the rank that the input has, where only a dimension of 1 is too many or missing."""
    if len(spec.shape) == len(dimensions) + 1 and spec.shape[-1] == 1:
        return [*dimensions, 1]
    if len(spec.shape) + 1 == len(dimensions) and dimensions[-1] == 1:
        return dimensions[:-1]
    return dimensions


def _guessed(flat: list[Any]) -> str:
    kinds = set(map(type, flat))
    if kinds == {bool}:
        return "BOOL"
    if kinds == {int}:
        return "INT64" if max(flat) < 1 << 63 else "UINT64"
    return "BYTES" if str in kinds else "FP64"


def _named(names: list[str]) -> Mapping[str, Any]:
    return {NAMES: orjson.dumps(names).decode()} if names else EMPTY


def _of_tensor(tensor: Any, what: str) -> tuple[str, Array]:
    shape = tensor.get("shape") if type(tensor) is dict else None
    values = tensor.get("values") if type(tensor) is dict else None
    if type(shape) is not list or type(values) is not list or any(type(each) is not int for each in shape):
        raise InvalidRequest(f"{what} must be an object with a shape, a list of integers, and a list of values")
    return "FP64", numbers.careful(values, "FP64", tuple(shape), what)


def _of_tftensor(tensor: Any, what: str) -> tuple[str, Array]:
    if type(tensor) is not dict:
        raise InvalidRequest(f"{what} must be an object: a TensorProto of TensorFlow as JSON")
    fields = {_camel(key): value for key, value in tensor.items()}
    kind = fields.get("dtype", "DT_FLOAT")
    if kind not in _TF_VALUES:
        raise InvalidRequest(f"{what}: dtype must be one of {', '.join(_TF_VALUES)}, got {kind!r}")
    datatype, field = _TF_VALUES[kind]
    shape = _tf_shape(fields.get("tensorShape") or {}, what)
    elements = numbers.check_shape(shape, what)
    content = fields.get("tensorContent")
    if content:
        if datatype == "BYTES":
            raise InvalidRequest(f"{what}: strings come in stringVal, not in tensorContent")
        data = _base64(content, f"{what}: tensorContent")
        size = elements * DTYPES[datatype].itemsize
        if len(data) != size:
            raise InvalidRequest(f"{what}: tensorContent has {len(data)} bytes, but its shape takes {size}")
        return datatype, np.frombuffer(data, DTYPES[datatype]).reshape(shape)
    values = fields.get(field) or []
    if type(values) is not list:
        raise InvalidRequest(f"{what}: {field} must be a list")
    if len(values) == 1 and elements > 1:  # a TensorProto may leave out what repeats
        if elements > _MOST_REPEATED:
            raise InvalidRequest(f"{what}: {field} has 1 element, and its shape takes {elements}")
        values = values * elements
    if datatype == "BYTES":
        array: Array = np.empty(len(values), np.object_)
        array[:] = [_base64(each, f"{what}: {field}") for each in values]
    elif datatype == "FP16":
        array = numbers.typed(values, "UINT16", what).view(np.float16)
    else:
        array = numbers.typed([_unquoted(each) for each in values], datatype, what)
    if array.size != elements:
        raise InvalidRequest(f"{what}: {field} has {array.size} elements, but its shape takes {elements}")
    return datatype, array.reshape(shape)


_MOST_REPEATED: Final = 1 << 20


def _camel(key: str) -> str:
    head, *rest = key.split("_")
    return head + "".join(part.capitalize() for part in rest)


def _tf_shape(shape: Any, what: str) -> tuple[int, ...]:
    dimensions = shape.get("dim") or [] if type(shape) is dict else None
    if type(dimensions) is not list:
        raise InvalidRequest(f'{what}: tensorShape must be {{"dim": [{{"size": ...}}]}}')
    sizes: list[Any] = [_unquoted(each.get("size", 0)) if type(each) is dict else None for each in dimensions]
    if any(type(size) is not int for size in sizes):
        raise InvalidRequest(f"{what}: each dim of tensorShape must have a size, an integer")
    return tuple(sizes)


def _unquoted(value: Any) -> Any:
    """A number that JSON's form of protobuf wrote as a string: 64 bits, NaN and infinities."""
    if type(value) is not str:
        return value
    try:
        return int(value)
    except ValueError:
        pass
    try:
        number = float(value)
    except ValueError:
        return value
    return None if math.isnan(number) else number


def _base64(text: Any, what: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (TypeError, ValueError, binascii.Error) as exc:
        raise InvalidRequest(f"{what} is not base64: {exc}") from None


def _of_other(kind: str, value: Any, specs: Sequence[TensorSpec], model: str) -> Tensor:
    wanted = _required(specs)
    if len(wanted) > 1:
        raise InvalidRequest(f"{kind}: '{model}' takes {len(wanted)} inputs; send data with a column for each")
    if wanted and wanted[0].datatype != "BYTES":
        raise InvalidRequest(
            f"{kind}: input '{wanted[0].name}' of '{model}' is {wanted[0].datatype}; send data instead"
        )
    if kind == "jsonData":
        check_depth(value, kind)
        content = orjson.dumps(value)
    elif type(value) is not str:
        raise InvalidRequest(f"{kind} of a SeldonMessage must be a string")
    else:
        content = value.encode() if kind == "strData" else _base64(value, kind)
    array: Array = np.empty(1, np.object_)
    array[0] = content
    if not wanted:
        return Tensor(UNNAMED, "BYTES", array)
    return Tensor(wanted[0].name, "BYTES", array.reshape(_ranked([1], wanted[0])))


# -- render --


def render(request: SeldonRequest, response: InferenceResponse, *, path: Mapping[str, str], routing: str = "") -> bytes:
    """The answer as a SeldonMessage.

    Args:
        request: What it answers.
        response: What was answered. A mapping in its parameter `tags` joins the request's tags.
        path: For `meta.requestPath`: each that answered with its version or image.
        routing: For `meta.routing`: `ROUTER=BRANCH;...`; branches that are numbers are numbers there.

    Raises:
        RuntimeFailed: an output holds what JSON cannot carry.
    """
    given, own = request.meta.get("tags"), response.parameters.get("tags")
    tags = {**(given if isinstance(given, Mapping) else {}), **(own if isinstance(own, Mapping) else {})}
    meta: dict[str, Any] = {"puid": request.puid}
    if tags:
        meta["tags"] = tags
    chosen = parse_routing(routing)
    if chosen:
        meta["routing"] = {
            router: int(branch) if branch.lstrip("-").isdecimal() else branch for router, branch in chosen.items()
        }
    meta["requestPath"] = dict(path)
    try:
        return orjson.dumps(
            {**_content(request.kind, response.outputs), "meta": meta},
            option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS,
        )
    except TypeError as exc:
        raise RuntimeFailed(f"'{response.model_name}' answered with what JSON cannot carry: {exc}") from exc


def parse_routing(text: str) -> dict[str, str]:
    """`ROUTER=BRANCH;...`, as the header `headrace-routing` has it, by router."""
    pairs = (each.partition("=") for each in text.split(";") if each.strip())
    return {router.strip(): branch.strip() for router, _, branch in pairs}


def _content(kind: str, outputs: Sequence[Tensor]) -> dict[str, Any]:
    if len(outputs) == 1 and kind in _OTHER_ARRAYS and outputs[0].datatype == "BYTES" and outputs[0].data.size == 1:
        return _natural(outputs[0].data.reshape(-1)[0], kind)
    joined = _joined(outputs)
    if joined is None:
        return {"jsonData": {tensor.name: _plain(tensor) for tensor in outputs}}
    names, tensor = joined
    if kind in _OTHER_ARRAYS:
        kind = "tensor"
    if tensor.datatype == "BYTES" and kind == "tensor":
        kind = "ndarray"
    return {"data": {"names": names, kind: _array(kind, tensor)}}


def _natural(element: Any, asked: str) -> dict[str, Any]:
    if isinstance(element, str):
        element = element.encode()
    if not isinstance(element, bytes):
        return {"jsonData": element}
    if element[:1] in {b"{", b"["} and asked == "jsonData":
        try:
            return {"jsonData": orjson.loads(element)}
        except ValueError:
            pass  # a text that only begins so
    if asked == "binData":
        return {"binData": base64.b64encode(element).decode()}
    try:
        return {"strData": element.decode()}
    except UnicodeDecodeError:
        return {"binData": base64.b64encode(element).decode()}


def _joined(outputs: Sequence[Tensor]) -> tuple[list[str], Tensor] | None:
    """Outputs side by side as one array with the names of its columns; None: they have no common rows."""
    if len(outputs) == 1:
        return _names(outputs[0]), outputs[0]
    if not outputs or any(tensor.data.ndim not in {1, 2} for tensor in outputs):
        return None
    if len({tensor.data.shape[0] for tensor in outputs}) > 1:
        return None
    names, columns = [], []
    for tensor in outputs:
        data = _numbers(tensor)
        data = data.reshape(data.shape[0], -1) if data.size else data.reshape(data.shape[0], 0)
        width = data.shape[1]
        names += [tensor.name] if width == 1 else [f"{tensor.name}:{index}" for index in range(width)]
        columns.append(data)
    if any(tensor.datatype == "BYTES" for tensor in outputs):
        columns = [data.astype(np.object_) for data in columns]
        return names, Tensor("", "BYTES", np.concatenate(columns, axis=1))
    data = np.concatenate(columns, axis=1)
    return names, Tensor("", "BOOL" if data.dtype == np.bool_ else "FP64" if data.dtype.kind == "f" else "INT64", data)


def _names(tensor: Tensor) -> list[str]:
    given = tensor.parameters.get(NAMES)
    if isinstance(given, str):
        given = msgspec.json.decode(given)
    if isinstance(given, Sequence) and not isinstance(given, str):
        return [str(name) for name in given]
    return [f"t:{index}" for index in range(tensor.data.shape[1])] if tensor.data.ndim > 1 else []


def _numbers(tensor: Tensor) -> Array:
    if tensor.datatype == "BF16":
        return (tensor.data.astype(np.uint32) << 16).view(np.float32)
    return tensor.data.astype(np.float32) if tensor.datatype == "FP16" else tensor.data


def _plain(tensor: Tensor) -> Any:
    data = _numbers(tensor)
    if tensor.datatype != "BYTES":
        return np.ascontiguousarray(data) if data.ndim else data.item()
    return _texts(data)


def _texts(data: Array) -> Any:
    """BYTES as nested lists of texts; what is no text as base64, numbers among them (of joined columns) as they are."""
    texts: Array = np.empty(data.size, np.object_)
    texts[:] = [_text(each) for each in data.ravel().tolist()]
    return texts.reshape(data.shape).tolist()


def _text(element: Any) -> Any:
    if not isinstance(element, bytes):
        return element
    try:
        return element.decode()
    except UnicodeDecodeError:
        return base64.b64encode(element).decode()


def _array(kind: str, tensor: Tensor) -> Any:
    if kind == "ndarray":
        return _plain(tensor)
    if kind == "tensor":
        return {"shape": list(tensor.data.shape), "values": np.ascontiguousarray(_numbers(tensor)).ravel()}
    dimensions = [{"size": str(size)} for size in tensor.data.shape]
    data = tensor.data
    datatype = "FP32" if tensor.datatype == "BF16" else tensor.datatype
    _, field = _TF_VALUES[_TF_TYPES[datatype]]
    values: Any
    if datatype == "BYTES":
        flat = [each.encode() if isinstance(each, str) else each for each in data.ravel().tolist()]
        texts = [each if isinstance(each, bytes) else str(each).encode() for each in flat]
        values = [base64.b64encode(each).decode() for each in texts]
    elif datatype == "FP16":
        values = np.ascontiguousarray(data).view(np.uint16).ravel()
    elif datatype in {"INT64", "UINT64"}:
        values = [str(each) for each in data.ravel().tolist()]  # as JSON's form of protobuf has 64 bits
    else:
        values = np.ascontiguousarray(_numbers(tensor)).ravel()
    return {"dtype": _TF_TYPES[datatype], "tensorShape": {"dim": dimensions}, field: values}


def render_error(error: BaseException, code: int) -> bytes:
    """The body of an error's reply.

    Args:
        error: What went wrong.
        code: The HTTP status it is sent with.
    """
    reason = "MICROSERVICE_BAD_DATA" if 400 <= code < 500 else "MICROSERVICE_INTERNAL_ERROR"
    info = status.public_text(error)
    return msgspec.json.encode({"status": {"status": 1, "info": info, "code": -1, "reason": reason}})


def render_done(info: str = "", *, failed: bool = False) -> bytes:
    """A SeldonMessage without data: health, and the answer to feedback."""
    state = {"status": "FAILURE" if failed else "SUCCESS", "code": 503 if failed else 200}
    return orjson.dumps({"status": {**state, "info": info} if info else state, "meta": {}})


# -- feedback --


class Feedback(msgspec.Struct, frozen=True, kw_only=True):
    """What a caller says of a prediction that it got."""

    reward: float
    routing: Mapping[str, str] = EMPTY
    """Router to the branch that it chose, as the answer's `meta.routing` said; `-1` (all) is left out."""
    request: InferenceRequest | None = None
    """What was asked, where the caller gave it back; its id is the answer's `meta.puid`."""


def parse_feedback(body: bytes | memoryview, *, model_name: str, signature: Signature | None = None) -> Feedback:
    """Feedback.

    Raises:
        InvalidRequest: the body is none.
    """
    document = read_object(body)
    reward = document.get("reward", 0.0)
    if isinstance(reward, bool) or not isinstance(reward, int | float):
        raise InvalidRequest(f"reward must be a number, got: {reward!r}")
    meta = _object(_object(document, "response"), "meta")
    routing = {
        str(router): str(branch)
        for router, branch in _object(meta, "routing").items()
        if not isinstance(branch, int | float) or branch >= 0
    }
    given = _object(document, "request")
    puid = str(meta.get("puid") or _object(given, "meta").get("puid") or "")
    request: InferenceRequest | None = None
    if any(given.get(kind) is not None for kind in _KINDS):
        request = msgspec.structs.replace(_request(given, model_name=model_name, signature=signature), id=puid)
    elif puid:
        request = InferenceRequest(model_name=model_name, inputs=(), id=puid)
    truth = _object(document, "truth")
    if request is not None and any(truth.get(kind) is not None for kind in _KINDS):
        (known, *_) = _request(truth, model_name=model_name, signature=None).inputs
        request = msgspec.structs.replace(request, parameters={TRUTH: known.data.tolist()})
    return Feedback(reward=float(reward), routing=routing, request=request)


def _object(document: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = document.get(name) or {}
    if not isinstance(value, Mapping):
        raise InvalidRequest(f"{name} of feedback must be an object")
    return value


# -- metadata --


def render_metadata(
    name: str, models: Mapping[str, tuple[Sequence[str], Signature | None]], *, alone: str = ""
) -> bytes:
    """What a deployment is: each model's versions, platform, inputs and outputs, and those of the whole.

    Args:
        name: Of the deployment.
        models: Versions and signature by name; that of the deployment's own name is the whole.
        alone: Only this one of them, in its own form.
    """
    described = {each: _described(each, versions, signature) for each, (versions, signature) in models.items()}
    if alone:
        return orjson.dumps(described[alone])
    whole: Mapping[str, Any] = described.get(name) or next(iter(described.values()), {"inputs": [], "outputs": []})
    return orjson.dumps(
        {"name": name, "models": described, "graphinputs": whole["inputs"], "graphoutputs": whole["outputs"]}
    )


def _described(name: str, versions: Sequence[str], signature: Signature | None) -> dict[str, Any]:
    known = signature or Signature(platform="")
    return {
        "name": name,
        "platform": known.platform,
        "versions": list(versions),
        "inputs": [_message(spec) for spec in known.inputs],
        "outputs": [_message(spec) for spec in known.outputs],
        "custom": {},
    }


def _message(spec: TensorSpec) -> dict[str, Any]:
    kind = "ndarray" if spec.datatype == "BYTES" else "tensor"
    return {"messagetype": kind, "schema": {"names": [spec.name], "shape": list(spec.shape[1:])}}
