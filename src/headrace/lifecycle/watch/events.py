"""What stores say when an object was written, in all the forms they say it in, as one noun. Pure: bytes to values.

Webhooks, queues, topics and functions call `parse`. Nothing that comes can make it raise: what cannot be understood is
told as such, for the ledger, and does not keep the rest of the same message from being understood.

Forms: AWS S3 event notifications (message structure 2.x, also as MinIO, Ceph and moto send them), the same wrapped by
SNS, by SQS or in an event of AWS Lambda; Amazon EventBridge's `Object Created`; SeaweedFS' filer notifications;
CloudEvents 1.0, structured, binary and batched, of S3, Google Cloud Storage and Azure Blob Storage; Azure Event Grid's
own form.
"""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import json
from collections.abc import Iterator, Mapping
from typing import Any, Final
from urllib.parse import unquote, unquote_plus, urlsplit

import msgspec

from headrace.payload import EMPTY

_MAX_DEPTH: Final = 6
"""An event of Lambda may hold a message of SQS that holds one of SNS that holds S3's: five; more is nonsense."""
_SHOWN: Final = 2000
_MOST_BYTES: Final = (1 << 63) - 1
_SEAWEED_OWN: Final = frozenset({".uploads", ".versions", ".system"})
_GOOGLE: Final = "google.cloud.storage.object.v1."
_AZURE: Final = "Microsoft.Storage."
_AMAZON: Final = "com.amazonaws.s3."


class ObjectCreated(msgspec.Struct, frozen=True, kw_only=True):
    """An object was written, so somebody says. Whether it is still there, and still the same, is for who reads it."""

    bucket: str
    """With its scheme: `s3://uploads`."""
    key: str
    """Decoded: as the object is named."""
    size: int = -1
    """Bytes; -1: not said."""
    etag: str = ""
    """Without quotes; empty: not said."""
    version_id: str = ""
    """Where the bucket keeps versions; empty: not said."""
    event_id: str = ""
    """The sender's own name for the event; empty: it has none."""
    time: float = 0.0
    """Seconds since the epoch; 0: not said."""

    @property
    def uri(self) -> str:
        """`s3://uploads/2026/a.csv`: for people and for ledgers. Nothing in it is encoded."""
        return f"{self.bucket}/{self.key}"


class Malformed(msgspec.Struct, frozen=True, kw_only=True):
    """A message, or a part of one, that says nothing we understand."""

    reason: str
    """What was expected, what came."""
    text: str
    """As it came, shortened."""


class Parsed(msgspec.Struct, frozen=True, kw_only=True):
    """All that one message says."""

    created: tuple[ObjectCreated, ...] = ()
    ignored: int = 0
    """Events that are understood and are no reason to do anything: deletions, tests, folders, tags."""
    malformed: tuple[Malformed, ...] = ()
    confirm: str = ""
    """Of SNS, when it asks whether messages may come here: the url to open. Nothing here opens it, for anyone could
    send one."""


class _Unknown(Exception):
    """This part is not understood; the text says why."""


class _Confirm(Exception):
    """SNS asks to be confirmed at this url."""


def parse(body: bytes | str, headers: Mapping[str, str] = EMPTY) -> Parsed:
    """Everything that a message says.

    Args:
        body: The body of a request or of a message of a queue, the value of a record.
        headers: Lower-cased names; those of CloudEvents in binary mode (`ce-type`, in Kafka `ce_type`) are looked at.
    """
    attributes = {name[3:]: value for name, value in headers.items() if name.startswith(("ce-", "ce_"))}
    try:
        document = msgspec.json.decode(body) if body else {}
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        return Parsed(malformed=(_malformed(f"expected JSON, and this is none: {exc}", body),))
    if "type" in attributes and "specversion" in attributes:
        document = {**attributes, "data": document}
    return parse_document(document)


def parse_document(document: Any) -> Parsed:
    """As `parse`, of JSON that was read already: AWS Lambda hands it over so."""
    created: list[ObjectCreated] = []
    malformed: list[Malformed] = []
    ignored = 0
    confirm = ""
    for part in _parts(document, 0):
        try:
            event = part if isinstance(part, Malformed) else _event(part)
        except _Unknown as exc:
            malformed.append(_malformed(str(exc), part))
        except _Confirm as exc:
            confirm = str(exc)
        else:
            if isinstance(event, Malformed):
                malformed.append(event)
            elif event is None:
                ignored += 1
            else:
                created.append(event)
    return Parsed(created=tuple(created), ignored=ignored, malformed=tuple(malformed), confirm=confirm)


def _parts(document: Any, depth: int) -> Iterator[Any]:
    """Take envelopes off: what is left is one event each."""
    if depth > _MAX_DEPTH:
        yield _malformed(f"expected an event within {_MAX_DEPTH} envelopes", document)
    elif isinstance(document, list):
        for each in document:
            yield from _parts(each, depth + 1)
    elif not isinstance(document, dict):
        yield document
    elif isinstance(document.get("Records"), list):
        for each in document["Records"]:
            yield from _parts(each, depth + 1)
    elif isinstance(document.get("Sns"), dict):  # Lambda's record of a message of SNS
        yield from _inside(document["Sns"].get("Message"), depth)
    elif document.get("Type") == "Notification" and "Message" in document:
        yield from _inside(document["Message"], depth)
    elif document.get("eventSource") == "aws:sqs" and "body" in document:  # Lambda's record of a message of SQS
        yield from _inside(document["body"], depth)
    else:
        yield document


def _inside(text: Any, depth: int) -> Iterator[Any]:
    if not isinstance(text, str):
        yield _malformed("expected a message that is text", text)
        return
    try:
        inner = msgspec.json.decode(text)
    except msgspec.DecodeError as exc:
        yield _malformed(f"expected JSON in the envelope, and this is none: {exc}", text)
    else:
        yield from _parts(inner, depth + 1)


def _event(document: Any) -> ObjectCreated | None:
    """One event. None: it is understood, and is no reason to do anything."""
    if not isinstance(document, dict):
        raise _Unknown(f"expected an object, got {type(document).__name__}")
    if document.get("Event") == "s3:TestEvent":
        return None
    if document.get("Type") == "SubscriptionConfirmation":
        raise _Confirm(_text(document, "SubscribeURL"))
    if document.get("Type") == "UnsubscribeConfirmation":
        return None
    if isinstance(document.get("s3"), dict):
        return _amazon(document)
    if document.get("source") == "aws.s3" and "detail-type" in document:
        return _event_bridge(document)
    if "event_type" in document and "message" in document:
        return _seaweedfs(document)
    if "specversion" in document and "type" in document:
        return _cloud_event(document)
    if str(document.get("eventType", "")).startswith(_AZURE):
        return _azure(document, document.get("eventType"), document.get("eventTime"))
    raise _Unknown(
        "expected an event of S3, SNS, SQS, EventBridge, SeaweedFS, MinIO or a CloudEvent; got an object with "
        f"{', '.join(sorted(map(repr, document))[:8]) or 'nothing in it'}"
    )


def _amazon(record: Mapping[str, Any]) -> ObjectCreated | None:
    """S3's `Records[]`: https://docs.aws.amazon.com/AmazonS3/latest/userguide/notification-content-structure.html."""
    name = _text(record, "eventName").removeprefix("s3:")
    if not name.startswith("ObjectCreated:"):
        return None
    key = unquote_plus(_text(record, "s3", "object", "key"))
    if key.endswith("/"):
        return None
    ids = record.get("responseElements")
    return ObjectCreated(
        bucket=f"s3://{_text(record, 's3', 'bucket', 'name')}",
        key=key,
        size=_size(_at(record, "s3", "object", "size")),
        etag=bare(_at(record, "s3", "object", "eTag")),
        version_id=_optional(_at(record, "s3", "object", "versionId")),
        event_id=_optional(ids.get("x-amz-request-id") if isinstance(ids, dict) else None),
        time=_seconds(record.get("eventTime")),
    )


def _event_bridge(event: Mapping[str, Any]) -> ObjectCreated | None:
    """https://docs.aws.amazon.com/AmazonS3/latest/userguide/ev-events.html: keys are not encoded."""
    if event["detail-type"] != "Object Created":
        return None
    key = _text(event, "detail", "object", "key")
    if key.endswith("/"):
        return None
    return ObjectCreated(
        bucket=f"s3://{_text(event, 'detail', 'bucket', 'name')}",
        key=key,
        size=_size(_at(event, "detail", "object", "size")),
        etag=bare(_at(event, "detail", "object", "etag")),
        version_id=_optional(_at(event, "detail", "object", "version-id")),
        event_id=_optional(event.get("id")),
        time=_seconds(event.get("time")),
    )


def _seaweedfs(event: Mapping[str, Any]) -> ObjectCreated | None:
    """The filer's notifications, of `[notification.*]` in notification.toml; buckets are folders of `/buckets`."""
    message = event["message"]
    entry = message.get("new_entry") if isinstance(message, dict) else None
    if not isinstance(entry, dict) or entry.get("is_directory"):
        return None
    path = f"{_text(event, 'message', 'new_parent_path')}/{_text(event, 'message', 'new_entry', 'name')}"
    bucket, _, key = path.removeprefix("/buckets/").partition("/")
    if not path.startswith("/buckets/") or not key or _SEAWEED_OWN & {bucket, key.partition("/")[0]}:
        return None
    return ObjectCreated(
        bucket=f"s3://{bucket}",
        key=key,
        size=_size(_at(entry, "attributes", "file_size")),
        etag=_base64(_at(entry, "extended", "Seaweed-X-Amz-ETag")),
        time=float(_size(_at(entry, "attributes", "mtime"), default=0)),
    )


def _cloud_event(event: Mapping[str, Any]) -> ObjectCreated | None:
    """CloudEvents 1.0, https://github.com/cloudevents/spec; S3's by its adapter, `cloudevents/adapters/aws-s3.md`."""
    kind = _text(event, "type")
    data = event.get("data")
    if data is None and isinstance(event.get("data_base64"), str):
        data = _decoded(event["data_base64"])
    event = {**event, "data": data}
    if kind.startswith(_AMAZON):
        if not kind.removeprefix(_AMAZON).lower().startswith("objectcreated"):
            return None
        name = "ObjectCreated:" + kind.rpartition(":")[2]
        records = _at(data, "Records")
        record = records[0] if isinstance(records, list) and records else data
        found = _amazon({"eventName": name, **(record if isinstance(record, dict) else {})})
        return found and msgspec.structs.replace(found, event_id=_optional(event.get("id")))
    if kind.startswith(_GOOGLE):
        if kind != f"{_GOOGLE}finalized":
            return None
        key = _text(event, "data", "name")
        if key.endswith("/"):
            return None
        return ObjectCreated(
            bucket=f"gs://{_text(event, 'data', 'bucket')}",
            key=key,
            size=_size(_at(event, "data", "size")),
            etag=bare(_at(event, "data", "etag")),
            version_id=_optional(_at(event, "data", "generation")),
            event_id=_optional(event.get("id")),
            time=_seconds(event.get("time")),
        )
    if kind.startswith(_AZURE):
        return _azure(event, kind, event.get("time"))
    raise _Unknown(f"expected a CloudEvent of a store ({_AMAZON}*, {_GOOGLE}*, {_AZURE}*), got one of type {kind!r}")


def _azure(event: Mapping[str, Any], kind: Any, time: Any) -> ObjectCreated | None:
    """https://learn.microsoft.com/azure/event-grid/event-schema-blob-storage, in either form."""
    if kind != f"{_AZURE}BlobCreated":
        return None
    url = _text(event, "data", "url")
    try:
        path = urlsplit(url).path
    except ValueError as exc:
        raise _Unknown(f"expected data.url with a container and a blob: {exc}") from exc
    container, _, key = path.lstrip("/").partition("/")
    if not container or not key:
        raise _Unknown(f"expected data.url with a container and a blob, got {path!r}")
    return ObjectCreated(
        bucket=f"az://{container}",
        key=unquote(key),
        size=_size(_at(event, "data", "contentLength")),
        etag=bare(_at(event, "data", "eTag")),
        event_id=_optional(event.get("id")),
        time=_seconds(time),
    )


def bare(etag: Any) -> str:
    """An etag as it is compared: without quotes, and without the mark of a weak one. Anything but text: none."""
    return etag.removeprefix("W/").strip('"') if isinstance(etag, str) else ""


def _at(document: Any, *path: str) -> Any:
    for name in path:
        if not isinstance(document, dict):
            return None
        document = document.get(name)
    return document


def _text(document: Any, *path: str) -> str:
    found = _at(document, *path)
    if not isinstance(found, str) or not found:
        raise _Unknown(f"expected text at {'.'.join(path)}, got {'nothing' if found is None else repr(found)[:60]}")
    return found


def _optional(found: Any) -> str:
    return str(found) if isinstance(found, str | int) else ""


def _size(found: Any, *, default: int = -1) -> int:
    try:
        size = int(found)  # Google writes numbers as text
    except (TypeError, ValueError, OverflowError):
        return default
    return size if 0 <= size <= _MOST_BYTES else default


def _seconds(found: Any) -> float:
    try:
        return dt.datetime.fromisoformat(found).timestamp()
    except (TypeError, ValueError, OverflowError):
        return 0.0  # when is told to people only


def _base64(found: Any) -> str:
    try:
        return bare(base64.b64decode(found, validate=True).decode())
    except (TypeError, ValueError):
        return ""  # whoever reads the object asks for its etag


def _decoded(text: str) -> Any:
    try:
        return msgspec.json.decode(base64.b64decode(text, validate=True))
    except (binascii.Error, msgspec.DecodeError, ValueError) as exc:
        raise _Unknown(f"expected JSON in data_base64: {exc}") from exc


def _malformed(reason: str, found: Any) -> Malformed:
    if isinstance(found, bytes):
        text = found.decode("utf-8", "replace")
    elif isinstance(found, str):
        text = found
    else:
        text = json.dumps(found)  # of numbers that msgspec does not write, too
    return Malformed(reason=reason, text=text if len(text) <= _SHOWN else f"{text[:_SHOWN]}...")
