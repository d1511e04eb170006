"""What may be set about watching models and about logging payloads; `headrace.settings` gathers it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal

_NOT_NEGATIVE: Final = {"at_least": 0}
_POSITIVE: Final = {"at_least": 1}
_SHARE: Final = {"at_least": 0, "at_most": 1}


@dataclass(frozen=True, kw_only=True)
class TrustSettings:
    """Models that have a `trust` folder beside them: detectors beside the path, explanations, and who is told."""

    enabled: bool = True
    """Whether trust folders are used at all."""
    state: str = ".headrace/trust"
    """Where windows, counts and alerts survive a restart, and where rows for retraining are written, below the current
    folder."""
    snapshot_seconds: float = field(default=30.0, metadata=_NOT_NEGATIVE)
    """How often the state is written; it is written at a stop, too. 0: only then."""
    max_waiting_rows: int = field(default=20_000, metadata=_POSITIVE)
    """Rows of one model that may wait for its detectors. More are dropped, and counted. Raise it for bursts."""
    events: str = ""
    """Where verdicts go as CloudEvents: `http://...`, `https://...`, `kafka://BROKER:PORT/TOPIC` (`kafka:///TOPIC`: the
    brokers of `kafka.brokers`; TLS and SASL as in `kafka`), or a file (JSON lines). Empty: nowhere."""
    event_types: Literal["seldon", "kserve"] = "seldon"
    """Whose types and attributes the events have: `io.seldon.serving.inference.drift`, or
    `org.kubeflow.serving.inference.drift`."""
    event_mode: Literal["binary", "structured"] = "binary"
    """How an event stands in an HTTP request or a Kafka record: attributes as headers, or all as one JSON document."""
    spool_bytes: int = field(default=64 << 20, metadata=_NOT_NEGATIVE)
    """Of verdicts that could not be sent yet, on disk below `state`: they survive a restart, and are given up after a
    day. More are dropped, and counted. 0: they wait in memory only, up to 32 MiB and 5 minutes. Alerts are always on
    disk, up to 1000."""
    webhook: str = ""
    """Where alerts are sent: one POST of JSON each, with `Idempotency-Key`. Empty: nowhere."""
    webhook_secret: str = ""
    """Signs what is sent, webhooks and events: `headrace-signature: sha256=HMAC`. Empty: not signed."""
    command: str = ""
    """A program that is run for an alert, with its arguments, without a shell; it reads the alert as JSON from standard
    input. Empty: none."""
    explain_processes: int = field(default=1, metadata=_POSITIVE)
    """How many explanations are made at the same time."""
    explain_queue: int = field(default=16, metadata=_POSITIVE)
    """Explanations that may wait; more are answered 503."""


@dataclass(frozen=True, kw_only=True)
class PayloadSettings:
    """The payload log: requests and answers, kept for retraining and audits."""

    mode: Literal["off", "all", "request", "response"] = "off"
    """What is logged of each request."""
    sink: str = ".headrace/payloads"
    """Where: a folder, for rotating files, or, for CloudEvents, `http://...`, `https://...`, or
    `kafka://BROKER:PORT/TOPIC` (`kafka:///TOPIC`: the brokers of `kafka.brokers`; TLS and SASL as in `kafka`)."""
    format: Literal["parquet", "jsonl"] = "parquet"
    """Of files."""
    sample: float = field(default=1.0, metadata=_SHARE)
    """The share of requests that are logged, from 0 to 1. The choice depends on the request's id alone."""
    redact: tuple[str, ...] = ()
    """Names of inputs, columns, outputs, parameters and headers whose values are never written: `[REDACTED]` stands in
    their place."""
    max_payload_bytes: int = field(default=1 << 20, metadata=_POSITIVE)
    """The largest request or answer that is written whole; of a larger one the tensors' shapes are, with
    `truncated: true`."""
    max_waiting_bytes: int = field(default=64 << 20, metadata=_POSITIVE)
    """What may wait to be written. More is dropped, and counted."""
    max_file_bytes: int = field(default=64 << 20, metadata=_POSITIVE)
    """A new file is begun at this size."""
    max_total_bytes: int = field(default=4 << 30, metadata=_POSITIVE)
    """The oldest files are removed beyond it."""
    flush_seconds: float = field(default=5.0, metadata=_NOT_NEGATIVE)
    """How long an entry may wait before it is on disk."""
    event_types: Literal["seldon", "kserve"] = "kserve"
    """Whose types and attributes CloudEvents have."""
    event_mode: Literal["binary", "structured"] = "binary"
    """How an event stands in an HTTP request or a Kafka record: attributes as headers, or all as one JSON document."""
    spool: str = ".headrace/payload-events"
    """A folder for CloudEvents that could not be sent yet: they survive a restart, and are given up after a day."""
    spool_bytes: int = field(default=256 << 20, metadata=_NOT_NEGATIVE)
    """What that folder may take. More is dropped, and counted. 0: they wait in memory only, up to `max_waiting_bytes`
    and one minute."""


@dataclass(frozen=True, kw_only=True)
class EventSettings:
    """What becomes of models, told as CloudEvents: loaded, swapped for a newer load, failed to load, unloaded, rolled
    back.
    """

    sink: str = ""
    """Where: `http://...`, `https://...`, `kafka://BROKER:PORT/TOPIC` (`kafka:///TOPIC`: the brokers of
    `kafka.brokers`; TLS and SASL as in `kafka`), or a file (JSON lines). Empty: nowhere."""
    types: Literal["seldon", "kserve"] = "seldon"
    """Whose prefix and attributes the events have: `io.seldon.serving.model.loaded`, or
    `org.kubeflow.serving.model.loaded`."""
    mode: Literal["binary", "structured"] = "binary"
    """How an event stands in an HTTP request or a Kafka record: attributes as headers, or all as one JSON document."""
    spool: str = ".headrace/model-events"
    """A folder for events that could not be sent yet: they survive a restart, and are given up after a day."""
    spool_bytes: int = field(default=8 << 20, metadata=_NOT_NEGATIVE)
    """What that folder may take. More is dropped, and counted. 0: they wait in memory only, up to 5 minutes."""
