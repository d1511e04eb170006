"""CloudEvents 1.0 in HTTP and Kafka: an event to headers and body, and back. Sinks of `monitoring` render; receivers
parse.

Sources: CloudEvents 1.0.2, "Context Attributes" and "Type System"; the HTTP binding 1.0.2, sections 3.1 (binary mode)
and 3.2 (structured mode); the Kafka binding 1.0.2, sections 3.1 to 3.3; the JSON format 1.0.2, sections 2 and 3.1; the
partitioning extension 1.0.2. Types and extension attributes: the request logger
and the detector server of Seldon Core 1.17, the logger of KServe, observed.

Values of extension attributes are text here, in the canonical text form of the type system: in binary mode a reader
cannot tell a number from its text. Batches are not spoken.
"""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import re
import uuid
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, Literal
from urllib.parse import quote

import msgspec
import orjson

from headrace.errors import InvalidRequest

Dialect = Literal["seldon", "kserve"]
Kind = Literal[
    "request",
    "response",
    "outlier",
    "drift",
    "adversarial",
    "bias",
    "feedback",
    "metrics",
    "alert",
    "security",
    "loaded",
    "swapped",
    "failed",
    "unloaded",
    "rolled-back",
]
"""The last five are what became of a model; Seldon and KServe have no such events, so these names are ours."""

JSON: Final = "application/json"
STRUCTURED: Final = "application/cloudevents+json"
PARTITION_KEY: Final = "partitionkey"
_SUFFIXES: Final[Mapping[Kind, str]] = MappingProxyType(
    {
        "request": "inference.request",
        "response": "inference.response",
        "outlier": "inference.outlier",
        "drift": "inference.drift",
        "adversarial": "inference.adversarial",
        "bias": "inference.bias",
        "feedback": "feedback",
        "metrics": "feedback.metrics",
        "alert": "inference.alert",
        "security": "inference.security",
        "loaded": "model.loaded",
        "swapped": "model.swapped",
        "failed": "model.failed",
        "unloaded": "model.unloaded",
        "rolled-back": "model.rolledback",
    }
)
_PREFIXES: Final[Mapping[Dialect, str]] = MappingProxyType(
    {"seldon": "io.seldon.serving.", "kserve": "org.kubeflow.serving."}
)
_OWN: Final = frozenset(
    {"specversion", "id", "source", "type", "time", "subject", "datacontenttype", "dataschema", "data", "data_base64"}
)
_NAME: Final = re.compile(r"[a-z0-9]+")
# "Type System", String: control characters, surrogates without their half and noncharacters are not allowed
_FORBIDDEN: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef"
    + "".join(chr(plane << 16 | last) for plane in range(17) for last in (0xFFFE, 0xFFFF))
    + "]"
)
# HTTP binding 3.1.3.2: all that is printable ASCII stays, but for the space, '"' and '%'
_SAFE: Final = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in '"%')


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One event. `event` makes one that is right."""

    id: str
    """Unique together with `source`."""
    source: str
    """A URI reference."""
    type: str
    time: str = ""
    """RFC 3339."""
    subject: str = ""
    dataschema: str = ""
    datacontenttype: str = JSON
    extensions: Mapping[str, str] = MappingProxyType({})
    data: bytes = b""
    """Empty: none."""


def type_of(kind: Kind, dialect: Dialect) -> str:
    """The type by which receivers know the event."""
    return _PREFIXES[dialect] + _SUFFIXES[kind]


def attributes(
    dialect: Dialect,
    *,
    model: str,
    version: str = "",
    request_id: str = "",
    namespace: str = "default",
    component: str = "predictor",
    protocol: str = "",
) -> dict[str, str]:
    """The extension attributes that a dialect's receivers look for; empty ones are left out.

    Args:
        dialect: Of KServe, the request's id is the event's own and none of these.
        model: The deployment's or service's name, there.
        version: The endpoint, there.
        request_id: The caller's, or the one that it was given.
        namespace: Of a cluster.
        component: Of KServe's parts of a service.
        protocol: By which the request came.
    """
    named = {"inferenceservicename": model, "namespace": namespace, "endpoint": version or "default"}
    if dialect == "seldon":
        named |= {"requestid": request_id, "modelid": model, "protocol": protocol}
    else:
        named |= {"component": component}
    return {name: value for name, value in named.items() if value}


def members(first: str, last: str, count: int) -> dict[str, str]:
    """Extension attributes of an event about a window: which requests it is about."""
    named = {"firstrequestid": first, "lastrequestid": last, "requestcount": str(count)}
    return {name: value for name, value in named.items() if value}


def event(
    data: Any = None,
    *,
    type: str,  # noqa: A002 - the attribute's name
    source: str,
    id: str = "",  # noqa: A002 - the attribute's name
    time: float | str = "",
    subject: str = "",
    datacontenttype: str = JSON,
    dataschema: str = "",
    extensions: Mapping[str, str] = MappingProxyType({}),
) -> Event:
    """An event.

    Args:
        data: Bytes as they are; any other value is written as JSON; None: no data.
        type: From `type_of`.
        source: A URI reference: what it is about.
        id: Empty: a fresh one.
        time: RFC 3339, or seconds since the epoch; empty: none.
        subject: What of the source.
        datacontenttype: Of the data.
        dataschema: A URI.
        extensions: Names of lower-case letters and digits; empty values are left out. Characters that no attribute may
            have become U+FFFD: ids come from callers.

    Raises:
        InvalidRequest: an attribute that must be there is empty, or an extension has no name that may be.
    """
    for name, value in (("type", type), ("source", source)):
        if not value:
            raise InvalidRequest(f"a CloudEvent needs a {name}; it is empty")
    if not _is_media_type(datacontenttype):
        raise InvalidRequest(f"{datacontenttype!r} is no content type that data of a CloudEvent may have")
    for name in extensions:
        if name in _OWN or not _NAME.fullmatch(name):
            raise InvalidRequest(f"{name!r} is no name of an extension; expected lower-case letters and digits")
    body = b"" if data is None else bytes(data) if isinstance(data, bytes | memoryview) else json_of(data)
    when = time if isinstance(time, str) else rfc3339(time)
    return Event(
        id=_clean(id) or str(uuid.uuid4()),
        source=_clean(source),
        type=_clean(type),
        time=_clean(when),
        subject=_clean(subject),
        dataschema=_clean(dataschema),
        datacontenttype=datacontenttype,
        extensions={name: _clean(value) for name, value in extensions.items() if value},
        data=body,
    )


def rfc3339(seconds: float) -> str:
    """Seconds since the epoch as the specification's Timestamp."""
    return dt.datetime.fromtimestamp(seconds, dt.UTC).isoformat().replace("+00:00", "Z")


# -- rendering --


def binary(event: Event) -> tuple[dict[str, str], bytes]:
    """Binary mode: attributes as headers, data as the body (HTTP binding 3.1)."""
    headers = {"ce-specversion": "1.0"}
    for name, value in _attributes(event).items():
        headers[f"ce-{name}"] = _header(value)
    headers["content-type"] = event.datacontenttype
    return headers, event.data


def structured(event: Event) -> bytes:
    """Structured mode: one JSON document, whose content type is `STRUCTURED` (HTTP binding 3.2, JSON format 3)."""
    document: dict[str, Any] = {"specversion": "1.0", **_attributes(event), "datacontenttype": event.datacontenttype}
    if event.data:
        if _is_json(event.datacontenttype) and _stands_alone(event.data):
            document["data"] = msgspec.Raw(event.data)
        else:
            document["data_base64"] = base64.b64encode(event.data).decode()
    return msgspec.json.encode(document)


def kafka_binary(event: Event) -> tuple[tuple[tuple[str, bytes], ...], bytes | None]:
    """Binary mode: attributes as headers of a record, in UTF-8 as they are, data as its value (Kafka binding 3.2); no
    data is no value.
    """
    named = (("ce_specversion", b"1.0"), *((f"ce_{name}", text.encode()) for name, text in _attributes(event).items()))
    return (*named, ("content-type", event.datacontenttype.encode())), event.data or None


def kafka_structured(event: Event) -> tuple[tuple[tuple[str, bytes], ...], bytes]:
    """Structured mode: the JSON document as the value of a record (Kafka binding 3.3)."""
    return (("content-type", f"{STRUCTURED}; charset=UTF-8".encode()),), structured(event)


def kafka_key(event: Event) -> bytes | None:
    """The key of a record (Kafka binding 3.1): `partitionkey`, where the event has that; else the model's name, so that
    events of a model stay in order.
    """
    return (event.extensions.get(PARTITION_KEY) or event.extensions.get("inferenceservicename", "")).encode() or None


def _attributes(event: Event) -> dict[str, str]:
    optional = {"time": event.time, "subject": event.subject, "dataschema": event.dataschema}
    return {
        "id": event.id,
        "source": event.source,
        "type": event.type,
        **{name: value for name, value in optional.items() if value},
        **event.extensions,
    }


def json_of(value: Any) -> bytes:
    """A value as JSON text: mappings, arrays, numpy's scalars and structs among them. What is not finite is null."""
    return orjson.dumps(value, default=_plain, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    if hasattr(value, "tolist"):  # arrays that orjson does not take, and numpy's scalars
        return value.tolist()
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return msgspec.to_builtins(value)


def _clean(text: str) -> str:
    return _FORBIDDEN.sub("\ufffd", text)


def _header(value: str) -> str:
    return quote(value, safe=_SAFE)


def _is_media_type(text: str) -> bool:
    # in binary mode it is the body's own: one of an event would make the body look like the structured mode
    printable = text.isascii() and text.isprintable() and text.strip() == text
    return printable and "/" in text and not text.lower().startswith("application/cloudevents")


def _is_json(content_type: str) -> bool:
    media = content_type.partition(";")[0].strip().lower()
    return media.endswith(("/json", "+json"))


def _stands_alone(data: bytes) -> bool:
    """Whether bytes are one JSON value and nothing around it: then they come back as they went."""
    try:
        return bytes(msgspec.json.decode(data, type=msgspec.Raw)) == data and _is_text(data)
    except ValueError:
        return False


def _is_text(data: bytes) -> bool:
    orjson.loads(data)
    return data.strip() == data


# -- parsing --


def parse(headers: Mapping[str, str], body: bytes) -> Event:
    """An event in either mode.

    Args:
        headers: Lower-cased names.
        body: The whole.

    Raises:
        InvalidRequest: it is none; the text names the attribute.
    """
    content_type = headers.get("content-type", "")
    media = content_type.partition(";")[0].strip().lower()
    if media.startswith("application/cloudevents-batch"):
        raise InvalidRequest("a batch of CloudEvents is not spoken; send one event a request")
    if media.startswith("application/cloudevents"):
        return parse_structured(body)
    named = {name[3:]: _unquoted(name, value) for name, value in headers.items() if name.startswith("ce-")}
    return _checked(named, content_type or JSON, body)


def parse_kafka(headers: Sequence[tuple[str, bytes]], value: bytes | None) -> Event:
    """An event in either mode, from a record.

    Args:
        headers: Of the record.
        value: None: no data.

    Raises:
        InvalidRequest: it is none; the text names the attribute.
    """
    try:
        named = {name.lower(): data.decode() for name, data in headers}
    except UnicodeDecodeError as exc:
        raise InvalidRequest("a header of the record is not UTF-8") from exc
    content_type = named.get("content-type", "")
    if content_type.partition(";")[0].strip().lower() == STRUCTURED:
        return parse_structured(value or b"")
    if content_type.lower().startswith("application/cloudevents"):
        raise InvalidRequest(f"{content_type} is not spoken; send CloudEvents as JSON, or in binary mode")
    attributes_ = {name[3:]: text for name, text in named.items() if name.startswith("ce_")}
    return _checked(attributes_, content_type or JSON, value or b"")


def parse_structured(body: bytes) -> Event:
    """An event as one JSON document.

    Raises:
        InvalidRequest: it is none.
    """
    try:
        document = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
        named = {
            name: msgspec.json.decode(raw)
            for name, raw in document.items()
            if name not in {"data", "data_base64"} and bytes(raw) != b"null"
        }
        data = _data(document, str(named.get("datacontenttype") or JSON))
    except (ValueError, binascii.Error) as exc:
        raise InvalidRequest(f"the body is no CloudEvent in JSON: {exc}") from exc
    content_type = str(named.pop("datacontenttype", "") or JSON)
    return _checked({name: _text(name, value) for name, value in named.items()}, content_type, data)


def _data(document: Mapping[str, msgspec.Raw], content_type: str) -> bytes:
    if "data_base64" in document:
        return base64.b64decode(msgspec.json.decode(document["data_base64"], type=str), validate=True)
    raw = document.get("data")
    if raw is None:
        return b""
    if not _is_json(content_type) and bytes(raw).lstrip()[:1] == b'"':
        return msgspec.json.decode(raw, type=str).encode()  # JSON format 3.1: text of another content type
    return bytes(raw)


def _text(name: str, value: Any) -> str:
    match value:
        case str():
            return value
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
    raise InvalidRequest(f"attribute {name} must be a text, a whole number or a boolean")


def _unquoted(name: str, value: str) -> str:
    # HTTP binding 3.1.3.3: a quoted string is unquoted first, then percent signs are
    text = value.strip(" \t")
    if len(text) >= 2 and text[0] == text[-1] == '"':
        text = re.sub(r"\\(.)", r"\1", text[1:-1])
    data = re.sub(rb"%([0-9A-Fa-f]{2})", lambda found: bytes([int(found[1], 16)]), text.encode("utf-8", "replace"))
    try:
        return data.decode()
    except UnicodeDecodeError as exc:
        raise InvalidRequest(f"header {name} is not UTF-8 behind its percent signs") from exc


def _checked(named: dict[str, str], content_type: str, data: bytes) -> Event:
    version = named.pop("specversion", "")
    if version != "1.0":
        raise InvalidRequest(f"expected a CloudEvent of specversion 1.0, got: {version or 'none'}")
    missing = [name for name in ("id", "source", "type") if not named.get(name)]
    if missing:
        raise InvalidRequest(f"a CloudEvent needs {', '.join(missing)}")
    known = {name: named.pop(name, "") for name in ("id", "source", "type", "time", "subject", "dataschema")}
    wrong = [name for name in named if not _NAME.fullmatch(name)]
    if wrong:
        raise InvalidRequest(f"{wrong[0]!r} is no name of an attribute; expected lower-case letters and digits")
    extensions = {name: value for name, value in named.items() if value}
    return Event(**known, datacontenttype=content_type, extensions=extensions, data=data)
