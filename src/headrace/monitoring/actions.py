"""Who is told of verdicts and alerts: CloudEvents, a webhook, a command. The watcher's process calls it.

Nothing here waits for a receiver: records go to outboxes (`monitoring.outbox`). Alerts are on disk before `alert`
returns, safe from a power cut; verdicts, of which there are many, are on disk up to a bound, safe from a kill.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, get_args

from headrace.brokers.settings import KafkaSettings
from headrace.errors import SettingsError
from headrace.monitoring.alerts import idempotency_key
from headrace.monitoring.commands import Command
from headrace.monitoring.event_box import event_outbox, item_of
from headrace.monitoring.outbox import Item, Outbox
from headrace.monitoring.settings import TrustSettings
from headrace.monitoring.sinks.base import Options, Sink
from headrace.monitoring.sinks.http import Http
from headrace.monitoring.sinks.registry import open_sink, scheme_of
from headrace.protocols import cloudevents

ALERT_SECONDS: Final = 24 * 3600.0
"""An alert that reached nobody is given up after so long."""
VERDICT_SECONDS: Final = 300.0
MOST_ALERTS: Final = 1000
MOST_VERDICTS: Final = 10_000
MOST_BYTES: Final = 32 << 20
_NAMESPACE: Final = uuid.UUID("6b1f7a52-6a1e-5f0e-9a3c-2d7f3c9b8e11")
_KINDS: Final = frozenset(get_args(cloudevents.Kind))
_RENAMED: Final[Mapping[str, cloudevents.Kind]] = {"performance": "metrics"}


def event_of(record: Mapping[str, Any], *, dialect: cloudevents.Dialect) -> cloudevents.Event:
    """A verdict or an alert as a CloudEvent.

    Args:
        record: JSON values: `kind` (of a detector, or `alert`), `model`, `version`, `detector`; about rows of one
            request, `request_id`; about a window, `window` (its id) and `members` {first, last, count}; `time`,
            seconds since the epoch.
        dialect: Whose types and attributes.

    A verdict on rows has the request's id as its own; two detectors differ in `source`. One on a window has an id made
    from the window's, so that a window that is judged again after a restart is not another event.
    """
    kind = str(record.get("kind", "drift"))
    known: Any = _RENAMED.get(kind, kind if kind in _KINDS else "drift")
    model, version = str(record.get("model", "")), str(record.get("version", ""))
    detector = str(record.get("detector", ""))
    request_id = str(record.get("request_id", ""))
    window = str(record.get("window", ""))
    extensions = cloudevents.attributes(dialect, model=model, version=version, request_id=request_id)
    span = record.get("members")
    if not request_id and isinstance(span, Mapping):
        first, last, count = str(span.get("first", "")), str(span.get("last", "")), int(span.get("count", 0))
        extensions |= cloudevents.members(first, last, count)
    fresh = str(uuid.uuid5(_NAMESPACE, idempotency_key(model, version, f"{kind}/{detector}", window))) if window else ""
    return cloudevents.event(
        dict(record),
        type=cloudevents.type_of(known, dialect),
        source=f"/v2/models/{model}/versions/{version or 'default'}/detectors/{detector or kind}",
        id=request_id or fresh,
        time=float(record.get("time") or time.time()),
        subject=model,
        extensions=extensions,
    )


class Actions:
    """All that is done about verdicts and alerts.

    Args:
        trust: Addresses, the command, the secret, and the folder in which alerts survive.
        kafka: How brokers are reached, where events go to a topic.

    Raises:
        SettingsError: an address or the command cannot be used.
    """

    def __init__(self, trust: TrustSettings, *, kafka: KafkaSettings = KafkaSettings()) -> None:
        self._dialect = trust.event_types
        self._boxes: dict[str, Outbox] = {}
        self._sinks: list[Sink] = []
        self._command: Command | None = None
        spool = Path(trust.state) / "outbox"
        if trust.events:
            options = Options(mode=trust.event_mode, secret=trust.webhook_secret, kafka=kafka)
            sink = self._opened(open_sink(trust.events, setting="trust.events", options=options))

            def send(item: Item) -> None:
                sink.send(cloudevents.parse_structured(item.body))

            self._boxes["event"] = event_outbox(
                "events",
                sink,
                most_items=MOST_VERDICTS,
                most_bytes=MOST_BYTES,
                seconds=VERDICT_SECONDS,
                spool=spool / "verdicts",
                spool_bytes=trust.spool_bytes,
                setting="trust.state",
            )
            self._boxes["alert_event"] = _kept("alert-events", send, spool / "events")
        if trust.webhook:
            if scheme_of(trust.webhook) not in {"http", "https"}:
                raise SettingsError("trust.webhook: expected http://... or https://...")
            hook = Http(trust.webhook, setting="trust.webhook", options=Options(secret=trust.webhook_secret))
            self._opened(hook)
            self._boxes["webhook"] = _kept(
                "webhook",
                lambda item: hook.post(item.body, {"content-type": cloudevents.JSON, "idempotency-key": item.key}),
                spool / "webhook",
            )
        if trust.command:
            command = self._command = Command(trust.command, setting="trust.command")
            self._boxes["command"] = _kept("command", lambda item: command.run(item.body), spool / "command")

    def _opened(self, sink: Sink) -> Sink:
        self._sinks.append(sink)
        return sink

    def open(self) -> None:
        """Take up alerts that an earlier process could not deliver, and begin to send.

        Raises:
            SettingsError: the folder of the state cannot be used.
        """
        for box in self._boxes.values():
            box.open()

    def alert(self, record: Mapping[str, Any]) -> str:
        """Tell everybody of an alert.

        Args:
            record: JSON values: `model`, `version`, `detector`, `window`, and what is known of it; `key`, where it is
                known; see `event_of`.

        Returns:
            Its idempotency key. An alert whose key was taken before is not told again.
        """
        key = str(record.get("key") or "") or idempotency_key(
            *(str(record.get(name, "")) for name in ("model", "version", "detector", "window"))
        )
        told = {"time": time.time(), **record, "key": key, "kind": "alert"}
        body = cloudevents.json_of(told)
        for name in ("webhook", "command"):
            if name in self._boxes:
                self._boxes[name].put(Item(key=key, body=body))
        if "alert_event" in self._boxes:
            event = event_of(told, dialect=self._dialect)
            self._boxes["alert_event"].put(Item(key=key, body=cloudevents.structured(event)))
        return key

    def verdict(self, record: Mapping[str, Any]) -> bool:
        """Send a verdict as a CloudEvent where `trust.events` says so; False: it was dropped."""
        if "event" not in self._boxes:
            return True
        event = event_of(record, dialect=self._dialect)
        return self._boxes["event"].put(item_of(event))

    def settle(self, timeout_seconds: float) -> bool:
        """Wait until all that was taken has arrived, and say whether it has."""
        until = time.monotonic() + timeout_seconds
        return all(box.settle(max(until - time.monotonic(), 0)) for box in self._boxes.values())

    def close(self, grace_seconds: float) -> None:
        """Send what can be sent within the grace; alerts that could not be stay on disk for the next process."""
        until = time.monotonic() + grace_seconds
        for box in self._boxes.values():
            box.close(max(until - time.monotonic(), 0))
        for sink in self._sinks:
            sink.close()

    def counts(self) -> dict[str, dict[str, int]]:
        """By `event`, `alert_event`, `webhook` and `command`, those that are set: sent, failed, dropped, retried,
        waiting; of the command also `exit_N` for each exit code N that it ended with.
        """
        found: dict[str, dict[str, int]] = {}
        for name, box in self._boxes.items():
            counts = box.counts
            found[name] = {
                "sent": counts.sent,
                "failed": counts.failed,
                "dropped": counts.dropped,
                "retried": counts.retried,
                "waiting": box.waiting,
            }
        if self._command is not None:
            found["command"] |= {f"exit_{code}": count for code, count in sorted(self._command.exit_codes.items())}
        return found


def _kept(name: str, deliver: Any, spool: Path) -> Outbox:
    return Outbox(
        name,
        deliver,
        most_items=MOST_ALERTS,
        most_bytes=MOST_BYTES,
        deadline_seconds=ALERT_SECONDS,
        spool=spool,
    )
