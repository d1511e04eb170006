"""A line of a batch's input to a request, several merged into one, and an answer split into the lines of the output.

`batch` calls it. Pure: opens nothing. Tensors stay the text that they are: what is merged and split is text between
commas, so that no number changes on the way; only nested data and text are decoded, to find where rows begin.
"""

from __future__ import annotations

import uuid
from collections.abc import Hashable, Mapping, Sequence
from math import prod
from typing import Any, Final

import msgspec
import numpy as np

from headrace.client import tensors
from headrace.errors import InvalidRequest, RuntimeFailed
from headrace.payload import DTYPES, InferenceRequest, RequestedOutput, Tensor

_OBJECT: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_TENSORS: Final = msgspec.json.Decoder(list[dict[str, msgspec.Raw]])
_SHAPE: Final = msgspec.json.Decoder(tuple[int, ...])
_ANY: Final = msgspec.json.Decoder()
_encode: Final = msgspec.json.Encoder().encode


class Line(msgspec.Struct, frozen=True):
    """One line of the input, checked as far as the client can: a JSON object with a list of inputs."""

    index: int
    """Its number in the input, from 0; empty lines count."""
    id: str
    """Its own, or a fresh one."""
    fields: Mapping[str, msgspec.Raw]
    size: int
    """Bytes of the line."""
    key: Hashable = None
    """Lines of one key can be merged; None: not with any."""
    rows: int = 0


def parse(index: int, text: bytes, *, mergeable: bool = False) -> Line:
    """The line in a text.

    Args:
        index: The line's number in the input.
        text: JSON, without the line's end.
        mergeable: Whether to find out what the line can be merged with.

    Raises:
        InvalidRequest: it is not a request; nothing needs to be asked to know.
    """
    try:
        text.decode()  # Raw values are not looked into
        fields = _OBJECT.decode(text)
        own = _ANY.decode(fields["id"]) if "id" in fields else None
    except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
        raise InvalidRequest(f"line {index}: expected a V2 inference request in JSON: {exc}") from exc
    if not bytes(fields.get("inputs", b"")).lstrip().startswith(b"["):
        raise InvalidRequest(f"line {index}: expected a V2 inference request, an object with a list of inputs")
    if not isinstance(own, str | None):
        raise InvalidRequest(f"line {index}: expected text for id, got {type(own).__name__}")
    key, rows = _key(fields) if mergeable else (None, 0)
    return Line(index, own or str(uuid.uuid4()), fields, len(text), key, rows)


def name_of(text: bytes) -> str:
    """The id that a line which is no request has nevertheless; a fresh one where it has none."""
    try:
        own = _ANY.decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        own = None
    own = own.get("id") if isinstance(own, dict) else None
    return own if isinstance(own, str) and own else str(uuid.uuid4())


def render(line: Line) -> bytes:
    """The body of the request that a line is, with its id."""
    return _encode({**line.fields, "id": line.id})


def merge(lines: Sequence[Line], request_id: str) -> bytes:
    """The body of one request for lines of one key: rows under rows, in order."""
    members = [_TENSORS.decode(line.fields["inputs"]) for line in lines]
    merged = []
    for at, first in enumerate(members[0]):
        shape = _SHAPE.decode(first["shape"])
        data = b",".join(bytes(member[at]["data"]).strip()[1:-1] for member in members)
        rows = sum(line.rows for line in lines)
        merged.append({**first, "shape": (rows, *shape[1:]), "data": msgspec.Raw(b"[" + data + b"]")})
    return _encode({**lines[0].fields, "id": request_id, "inputs": merged})


def split(body: bytes, lines: Sequence[Line]) -> list[bytes] | None:
    """The lines' own answers out of that to the request merged of them, each still without its place in the batch.

    None where the answer's rows are not those asked for, so that no one's rows go to another.

    Raises:
        RuntimeFailed: it is not a V2 inference response.
    """
    answer, outputs = _response(body)
    total = sum(line.rows for line in lines)
    columns: list[tuple[dict[str, Any], tuple[int, ...], list[Any]]] = []
    try:
        for output in outputs:
            shape = _SHAPE.decode(output["shape"])
            if not shape or shape[0] != total:
                return None
            rows = _rows(bytes(output["data"]).strip(), shape)
            if rows is None:
                return None
            columns.append((dict(output), shape, rows))
    except (msgspec.MsgspecError, KeyError) as exc:
        raise RuntimeFailed(f"the server's answer is not a V2 inference response: {exc}") from exc
    found, start = [], 0
    for line in lines:
        end = start + line.rows
        own = [
            {**output, "shape": (line.rows, *shape[1:]), "data": msgspec.Raw(b"[" + b",".join(rows[start:end]) + b"]")}
            for output, shape, rows in columns
        ]
        found.append(_encode({**answer, "outputs": own}))
        start = end
    return found


def placed(body: bytes, line: Line, *, inference_id: str) -> bytes:
    """An answer as a line of the output: the response, with the line's id and its place in the batch.

    Raises:
        RuntimeFailed: it is not a V2 inference response.
    """
    answer, _ = _response(body)
    try:
        parameters = _ANY.decode(answer.get("parameters", b"null")) or {}
        place = {**parameters, "batch_index": line.index, "inference_id": inference_id}
    except (msgspec.MsgspecError, TypeError) as exc:
        raise RuntimeFailed(f"the server's answer has parameters that are no object: {exc}") from exc
    return _one_line(_encode({**answer, "id": line.id, "parameters": place}))


def failed(index: int, inference_id: str, *, status: str, message: str, code: int = 0) -> bytes:
    """A line of the output for one that has no answer."""
    error: dict[str, Any] = {"status": status, "msg": message}
    if code:
        error["code"] = code
    return _encode({"parameters": {"batch_index": index, "inference_id": inference_id}, "error": error})


class _Sent(msgspec.Struct):
    name: str
    shape: tuple[int, ...]
    datatype: str
    data: Any
    parameters: dict[str, Any] | None = None


class _Wanted(msgspec.Struct):
    name: str
    parameters: dict[str, Any] | None = None


class _Request(msgspec.Struct):
    inputs: list[_Sent]
    id: str = ""
    parameters: dict[str, Any] | None = None
    outputs: list[_Wanted] | None = None


_REQUEST: Final = msgspec.json.Decoder(_Request)


def to_binary(body: bytes) -> tuple[bytes, int]:
    """A request in JSON as one whose tensors travel as bytes; the second value is the length of its JSON part.

    Raises:
        InvalidRequest: the data does not fit datatype and shape.
    """
    try:
        request = _REQUEST.decode(body)
        inputs = tuple(_tensor(sent) for sent in request.inputs)
    except (msgspec.MsgspecError, ValueError, TypeError, OverflowError) as exc:
        raise InvalidRequest(f"cannot send the tensors as bytes: {exc}") from exc
    rendered, length = tensors.render(
        InferenceRequest(
            model_name="",
            id=request.id,
            inputs=inputs,
            outputs=tuple(RequestedOutput(each.name, each.parameters or {}) for each in request.outputs or ()),
            parameters=request.parameters or {},
        ),
        binary=True,
    )
    return rendered, length or 0


def from_binary(body: bytes, header_length: int | None) -> bytes:
    """A response whose tensors came as bytes, in JSON; floats that are no numbers become null.

    Raises:
        RuntimeFailed: it is not a V2 inference response, or holds bytes that are not text.
    """
    response = tensors.parse(bytearray(body), header_length)
    outputs = []
    for tensor in response.outputs:
        data = tensors.array_of(tensor).ravel().tolist()
        if tensor.datatype == "BYTES" and any(isinstance(each, bytes) for each in data):
            raise RuntimeFailed(f"output '{tensor.name}' holds bytes that are not UTF-8, which have no form in JSON")
        entry = {"name": tensor.name, "shape": tensor.shape, "datatype": tensor.datatype, "data": data}
        outputs.append({**entry, "parameters": dict(tensor.parameters)} if tensor.parameters else entry)
    answer: dict[str, Any] = {"model_name": response.model_name}
    if response.model_version:
        answer["model_version"] = response.model_version
    return _encode({**answer, "id": response.id, "parameters": dict(response.parameters), "outputs": outputs})


def _tensor(sent: _Sent) -> Tensor:
    if sent.datatype not in DTYPES:
        raise ValueError(f"input '{sent.name}': unknown datatype {sent.datatype!r}")
    parameters = sent.parameters or {}
    if sent.datatype == "BF16":
        raise ValueError(f"input '{sent.name}': BF16 has no form in JSON to read it from")
    if sent.datatype == "BYTES":
        flat = _leaves(sent.data)
        data = np.empty(len(flat), dtype=object)
        data[:] = [each.encode() if isinstance(each, str) else _refuse(sent.name, each) for each in flat]
    else:
        flat = _leaves(sent.data)
        missing = np.nan if DTYPES[sent.datatype].kind == "f" else None
        data = np.array([missing if each is None else each for each in flat], dtype=DTYPES[sent.datatype])
    return Tensor(sent.name, sent.datatype, data.reshape(sent.shape), parameters)


def _refuse(name: str, value: object) -> bytes:
    raise ValueError(f"input '{name}': expected text for BYTES, got {type(value).__name__}")


def _leaves(data: Any) -> list[Any]:
    flat: list[Any] = data if isinstance(data, list) else [data]
    while flat and isinstance(flat[0], list):
        flat = [each for part in flat for each in part]
    return flat


# -- merging --


def _key(fields: Mapping[str, msgspec.Raw]) -> tuple[Hashable, int]:
    """What the line can be merged with, and its rows; None where its rows cannot be told for certain."""
    parts: list[Hashable] = []
    seen: set[int] = set()
    try:
        inputs = _TENSORS.decode(fields["inputs"])
        for tensor in inputs:
            shape = _SHAPE.decode(tensor["shape"])
            data = bytes(tensor["data"]).strip()
            if not shape or min(shape) < 1 or _rows(data, shape) is None:
                return None, 0
            seen.add(shape[0])
            own = tuple(sorted((name, bytes(raw)) for name, raw in tensor.items() if name not in {"shape", "data"}))
            parts.append((own, shape[1:], data[1:].lstrip().startswith(b"[")))
    except (msgspec.MsgspecError, KeyError):
        return None, 0  # the server says what is wrong with it
    if len(seen) != 1:
        return None, 0
    rest = tuple(sorted((name, bytes(raw)) for name, raw in fields.items() if name not in {"id", "inputs"}))
    return (tuple(parts), rest), seen.pop()


def _rows(data: bytes, shape: tuple[int, ...]) -> list[bytes] | None:
    """The text of each row of a tensor's data, without brackets where it is flat; None where it is not of its shape.

    Args:
        data: A JSON array, flat or nested.
        shape: The first size is the number of rows.
    """
    if not data.startswith(b"["):
        return None
    width = prod(shape[1:])
    if width == 0:
        return None
    if b"[" not in data[1:] and b'"' not in data and b"{" not in data:  # flat numbers: no need to know them
        elements = data[1:-1].split(b",")
    else:
        values = msgspec.json.decode(data, type=list[msgspec.Raw])
        if values and bytes(values[0]).startswith(b"["):
            nested = _ANY.decode(data)
            if len(nested) != shape[0] or any(_count(row) != width for row in nested):
                return None
            return [bytes(each) for each in values]
        elements = [bytes(each) for each in values]
        if any(each.startswith(b"[") for each in elements):
            return None
    if len(elements) != shape[0] * width or (len(elements) == 1 and not elements[0].strip()):
        return None
    if width == 1:
        return elements
    return [b",".join(elements[at : at + width]) for at in range(0, len(elements), width)]


def _count(value: Any) -> int:
    return sum(map(_count, value)) if isinstance(value, list) else 1


def _response(body: bytes) -> tuple[dict[str, msgspec.Raw], list[dict[str, msgspec.Raw]]]:
    try:
        answer = _OBJECT.decode(body)
        return answer, _TENSORS.decode(answer["outputs"])
    except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
        raise RuntimeFailed(f"the server's answer is not a V2 inference response: {exc}") from exc
    except KeyError:
        raise RuntimeFailed("the server's answer is not a V2 inference response: it has no outputs") from None


def _one_line(text: bytes) -> bytes:
    return msgspec.json.format(text, indent=-1) if b"\n" in text or b"\r" in text else text
