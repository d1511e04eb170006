"""The payload log as CloudEvents, one for each request and one for each answer. `payloads` sends them.

Source: KServe's logger and Seldon's request logger, observed: the data are the V2 body in JSON; of KServe, the event's
id is the request's.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from headrace.monitoring.exchange import Exchange, column_names, size_of
from headrace.monitoring.payload_rows import Mode
from headrace.monitoring.redaction import REDACTED, Redaction
from headrace.payload import Array, Tensor
from headrace.protocols import cloudevents

_BASE64: Final = "base64"


def events(
    exchange: Exchange,
    *,
    mode: Mode,
    dialect: cloudevents.Dialect,
    source: str,
    redaction: Redaction,
    max_bytes: int,
) -> list[cloudevents.Event]:
    """The events of one exchange.

    Args:
        exchange: A request and its answer.
        mode: Which of both.
        dialect: Whose types and attributes.
        source: A URI reference: the server.
        redaction: Whose values are left out. In an array of numbers, a redacted column is null.
        max_bytes: Of larger bodies only names, datatypes and shapes are sent, with `truncated: true`.
    """
    made: list[cloudevents.Event] = []
    if mode in {"all", "request"}:
        body = _body(exchange, "inputs", exchange.inputs, redaction, max_bytes)
        if exchange.parameters:
            body["parameters"] = redaction.parameters(exchange.parameters)
        made.append(_event(exchange, "request", body, dialect=dialect, source=source, time=exchange.time))
    if mode in {"all", "response"}:
        body = _body(exchange, "outputs", exchange.outputs, redaction, max_bytes)
        body |= {"model_name": exchange.model, "model_version": exchange.version}
        if exchange.error:
            body["error"] = exchange.error
        answered = exchange.time + exchange.seconds
        made.append(_event(exchange, "response", body, dialect=dialect, source=source, time=answered))
    return made


def feedback(
    request_id: str, labels: Sequence[Any], *, model: str, version: str, dialect: cloudevents.Dialect, source: str
) -> cloudevents.Event:
    """Labels that came later."""
    return cloudevents.event(
        {"id": request_id, "truth": list(labels)},
        type=cloudevents.type_of("feedback", dialect),
        source=source,
        id=request_id if dialect == "kserve" else "",
        extensions=cloudevents.attributes(dialect, model=model, version=version, request_id=request_id),
    )


def _event(
    exchange: Exchange,
    kind: cloudevents.Kind,
    body: dict[str, Any],
    *,
    dialect: cloudevents.Dialect,
    source: str,
    time: float,
) -> cloudevents.Event:
    return cloudevents.event(
        body,
        type=cloudevents.type_of(kind, dialect),
        source=source,
        id=exchange.id if dialect == "kserve" else "",
        time=time,
        extensions=cloudevents.attributes(
            dialect,
            model=exchange.model,
            version=exchange.version,
            request_id=exchange.id,
            protocol=exchange.protocol,
        ),
    )


def _body(
    exchange: Exchange, side: str, tensors: Sequence[Tensor], redaction: Redaction, max_bytes: int
) -> dict[str, Any]:
    body: dict[str, Any] = {"id": exchange.id}
    is_large = size_of(tensors) > max_bytes
    if is_large or exchange.is_partial:
        body["truncated"] = True
    body[side] = [_tensor(exchange, tensor, redaction, is_large=is_large) for tensor in tensors]
    return body


def _tensor(exchange: Exchange, tensor: Tensor, redaction: Redaction, *, is_large: bool) -> dict[str, Any]:
    shown: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
    if is_large:
        return shown
    if redaction.hides(tensor.name):
        return {"name": tensor.name, "datatype": "BYTES", "shape": [1], "data": [REDACTED]}
    if tensor.parameters:
        shown["parameters"] = redaction.parameters(tensor.parameters)
    data = _numbers(tensor)
    hidden = [at for at, name in enumerate(column_names(exchange, tensor)) if redaction.hides(name)]
    if hidden:
        rows = data.astype(object)
        rows[:, hidden] = REDACTED if tensor.datatype == "BYTES" else None
        data = rows
    if data.dtype != object:
        return {**shown, "data": np.ascontiguousarray(data).reshape(-1)}
    return {**shown, "data": [_element(redaction.element(each)) for each in data.reshape(-1).tolist()]}


def _numbers(tensor: Tensor) -> Array:
    if tensor.datatype == "BF16" and tensor.data.dtype == np.uint16:
        return (tensor.data.astype(np.uint32) << 16).view(np.float32)
    return tensor.data.astype(np.float32) if tensor.data.dtype == np.float16 else tensor.data


def _element(element: Any) -> Any:
    if not isinstance(element, bytes):
        return element
    try:
        return element.decode()
    except UnicodeDecodeError:
        return {_BASE64: base64.b64encode(element).decode()}
