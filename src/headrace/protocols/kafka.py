"""Requests and answers as Kafka messages: a message <-> a request. `server.kafka` calls it.

The value is a V2 request: JSON; JSON with binary tensors where the header `inference-header-content-length` says so; or
a `ModelInferRequest` in protobuf where `content-type` says so. The answer has the form of its request. Headers say who
answers: `headrace-model`, `headrace-version`, `headrace-method`, or MLServer's `mlserver-model`, `mlserver-version`,
`mlserver-method`. The key is the request's id where there is one, and the key of the answer.

A request that cannot be answered gets no answer: it is a dead letter (`brokers.dead_letters`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

import msgspec

from headrace.brokers.base import Headers, Outgoing, Record
from headrace.errors import InvalidRequest, NotSupported
from headrace.payload import EMPTY, InferenceRequest, InferenceResponse, Signature
from headrace.protocols import v2_grpc, v2_rest

PROTOCOL: Final = "kafka"
MODEL: Final = ("headrace-model", "mlserver-model")
VERSION: Final = ("headrace-version", "mlserver-version")
METHOD: Final = ("headrace-method", "mlserver-method")
REPLY_TOPIC: Final = "headrace-reply-topic"
PROTOBUF: Final = frozenset(
    {"application/protobuf", "application/x-protobuf", "application/vnd.google.protobuf", "application/grpc"}
)
_LENGTH: Final = "inference-header-content-length"
_KEPT: Final = ("x-request-id", "traceparent", "headrace-correlation-id")
"""Of the request, on its answer: how its sender finds it."""
_JSON: Final = (("content-type", b"application/json"),)
_PROTOBUF: Final = (("content-type", b"application/x-protobuf"),)


class Addressed(msgspec.Struct, frozen=True, gc=False):
    """Who is to answer a message, and where to."""

    model: str
    version: str
    topic: str
    headers: Mapping[str, str]
    """Of the message, lower-cased, as text."""


def address(record: Record, *, default_model: str, topic: str, reply_topics: Sequence[str] = ()) -> Addressed:
    """What the headers of a message say.

    Args:
        record: The message.
        default_model: Who answers when no header says it; empty: nobody.
        topic: Where answers go when no header says it.
        reply_topics: Others that a header may name.

    Raises:
        InvalidRequest: no header names a model, or one names a topic that answers may not go to.
        NotSupported: something else than inference is asked for.
    """
    headers = {name.lower(): value.decode("utf-8", "replace") for name, value in record.headers}
    model = _first(headers, MODEL) or default_model
    if not model:
        raise InvalidRequest(
            "the message names no model: set its header headrace-model (or mlserver-model), or the setting kafka.model"
        )
    method = _first(headers, METHOD)
    if method and method.lower() != "infer":
        raise NotSupported(f"the message asks for method {method!r}; over Kafka there is 'infer' only")
    wanted = headers.get(REPLY_TOPIC, "")
    if wanted and wanted != topic and wanted not in reply_topics:
        raise InvalidRequest(
            f"the message wants its answer on topic {wanted!r}, which kafka.reply_topics does not list"
        )
    return Addressed(model, _first(headers, VERSION), wanted or topic, MappingProxyType(headers))


def parse(
    record: Record,
    addressed: Addressed,
    *,
    model: str,
    version: str,
    signature: Signature | None = None,
    deadline: float | None = None,
) -> InferenceRequest:
    """The request that a message carries. Its key, where it is text, stands over the id in the value.

    Args:
        record: The message.
        addressed: Of it.
        model: Who answers, as the routing table names it.
        version: Of it.
        signature: Of it.
        deadline: On the clock of `time.monotonic`, seconds.

    Raises:
        InvalidRequest: there is no value, or it is no V2 request; the text says where.
        NotSupported: a tensor lies in shared memory.
    """
    value, headers = record.value, addressed.headers
    if value is None:
        raise InvalidRequest("the message has no value; expected a V2 inference request as JSON or protobuf")
    if _is_protobuf(headers):
        request = v2_grpc.parse(_message(value), headers=headers, deadline=deadline)
        if request.model_name != model or request.model_version != version:
            request = msgspec.structs.replace(request, model_name=model, model_version=version)
    else:
        length = headers.get(_LENGTH)
        request = v2_rest.parse(
            value,
            model_name=model,
            model_version=version,
            header_length=None if length is None else _whole(length),
            signature=signature,
            headers=headers,
            deadline=deadline,
        )
    return msgspec.structs.replace(request, id=_identity(record.key) or request.id, protocol=PROTOCOL)


def render(
    record: Record,
    addressed: Addressed,
    request: InferenceRequest,
    response: InferenceResponse,
    *,
    labels: Mapping[str, Sequence[str]] = EMPTY,
) -> Outgoing:
    """The message that answers another.

    Args:
        record: What was asked.
        addressed: Of it.
        request: Of it.
        response: The answer; its headers become headers of the message (CloudEvents attributes of models of MLServer).
        labels: Class labels by output name, for the classification extension.

    Raises:
        InvalidRequest: an output has no JSON form and JSON was asked for, or it cannot be classified.
        RuntimeFailed: an output or a parameter holds what no wire carries.
    """
    headers: Headers
    if _is_protobuf(addressed.headers):
        message = v2_grpc.render(request, response, raw=v2_grpc.is_raw(_message(record.value or b"")), labels=labels)
        value, headers = message.SerializeToString(), _PROTOBUF
    else:
        rendered = v2_rest.render(request, response, labels=labels)
        value, headers = rendered.body, _JSON
        if rendered.header_length is not None:
            headers = (
                ("content-type", rendered.content_type),
                (_LENGTH, str(rendered.header_length).encode()),
            )
    asked = addressed.headers
    if len(asked) > 1:
        headers = (*headers, *((name, asked[name].encode()) for name in _KEPT if name in asked))
    if response.headers:
        headers = (*headers, *((name, text.encode()) for name, text in response.headers.items()))
    key = record.key
    if key is None:
        identity = response.id or request.id
        key = identity.encode() if identity else None
    return Outgoing(addressed.topic, value, key, headers)


def _first(headers: Mapping[str, str], names: Sequence[str]) -> str:
    return next((headers[name] for name in names if name in headers), "")


def _is_protobuf(headers: Mapping[str, str]) -> bool:
    kind = headers.get("content-type")
    return kind is not None and kind.partition(";")[0].strip().lower() in PROTOBUF


def _message(value: bytes) -> Any:
    from google.protobuf.message import DecodeError

    try:
        return v2_grpc.ModelInferRequest.FromString(value)
    except DecodeError as exc:
        raise InvalidRequest(f"the message's value is no ModelInferRequest in protobuf: {exc}") from exc


def _whole(text: str) -> int:
    if not text.isascii() or not text.isdecimal():
        raise InvalidRequest(f"header {_LENGTH} is {text!r}; expected the length of the JSON part in bytes")
    return int(text)


def _identity(key: bytes | None) -> str:
    """A key as an id; empty: there is none, or it is no text."""
    if not key:
        return ""
    try:
        return key.decode()
    except UnicodeDecodeError:
        return ""
