"""What becomes of models, as CloudEvents: loaded, swapped, failed, unloaded, rolled back. The app owns one, and lets
the routing table tell it of changes.

    events = ModelEvents(settings.events, rows=models.versions, server="headrace")
    events.open()
    models.listen(events.changed)                         # the table's key, on the event loop
    events.rolled_back("iris", "2", to="1", reason="...")  # rollouts, and followed uris
    await asyncio.to_thread(events.close, 5.0)

What happened is decided from two looks at a version (`what_happened`), so nothing depends on who changed it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal, Protocol

import msgspec

from headrace.brokers.settings import KafkaSettings
from headrace.monitoring.event_box import event_outbox, item_of
from headrace.monitoring.outbox import Outbox
from headrace.monitoring.settings import EventSettings
from headrace.monitoring.sinks.base import Options, Sink
from headrace.monitoring.sinks.registry import open_sink
from headrace.protocols import cloudevents

NAME: Final = "headrace_model_events_total"
NAMES: Final[Mapping[str, tuple[str, str, tuple[str, ...]]]] = MappingProxyType(
    {NAME: ("counter", "Events of models that were sent, given up, dropped, or tried again", ("outcome",))}
)
"""Name to kind, meaning and labels."""

Happened = Literal["loaded", "swapped", "failed", "unloaded"]

_MOST_ITEMS: Final = 10_000
_MOST_BYTES: Final = 8 << 20
_SECONDS: Final = 300.0
_IDLE: Final = "not loaded yet"
"""With which the reason of a version begins that nobody asked for so far: that is no failure."""


class Row(Protocol):
    """One version, as the routing table has it."""

    @property
    def name(self) -> str:
        """The model's."""

    @property
    def version(self) -> str:
        """Empty: it has none."""

    @property
    def kind(self) -> str:
        """`model`; pipelines and experiments are none of ours."""

    @property
    def state(self) -> str:
        """Of the model repository extension: `READY`, `UNAVAILABLE`, ..."""

    @property
    def reason(self) -> str:
        """Why it is not READY, or why its last reload failed."""

    @property
    def loaded_at(self) -> float:
        """Seconds since the epoch."""


class Seen(msgspec.Struct, frozen=True):
    """A version at one look."""

    state: str
    reason: str = ""
    loaded_at: float = 0.0


ABSENT: Final = Seen("")


def what_happened(before: Seen, after: Seen) -> Happened | None:
    """What became of a version between two looks; None: nothing to tell of.

    A reload that fails leaves the version READY, with a reason: it is told as `failed`, and what was loaded serves on.
    """
    if before == after:
        return None
    was, is_ = before.state == "READY", after.state == "READY"
    if is_ and not was:
        return "loaded"
    if is_ and after.loaded_at != before.loaded_at:
        return "swapped"
    if is_:
        return "failed" if after.reason and after.reason != before.reason else None
    if after.state == "UNAVAILABLE":
        if before.state == "UNLOADING" or was:
            return "unloaded"
        is_news = before.state != "UNAVAILABLE" or after.reason != before.reason
        return "failed" if is_news and after.reason and not after.reason.startswith(_IDLE) else None
    if after == ABSENT and (was or before.state == "UNLOADING"):
        return "unloaded"
    return None


class ModelEvents:
    """Tells a sink what becomes of models.

    Args:
        settings: Where to, and how.
        rows: From a name to its versions, as they are now.
        server: Who tells it.
        kafka: How brokers are reached, where events go to a topic.

    Raises:
        SettingsError: the sink is none that there is.
    """

    def __init__(
        self,
        settings: EventSettings,
        *,
        rows: Callable[[str], Iterable[Row]],
        server: str = "headrace",
        kafka: KafkaSettings = KafkaSettings(),
    ) -> None:
        self._settings, self._rows, self._server = settings, rows, server
        self._seen: dict[str, dict[str, Seen]] = {}
        self._sink: Sink | None = None
        self._box: Outbox | None = None
        if settings.sink:
            self._sink = open_sink(
                settings.sink, setting="events.sink", options=Options(mode=settings.mode, kafka=kafka)
            )
            self._box = event_outbox(
                "model-events",
                self._sink,
                most_items=_MOST_ITEMS,
                most_bytes=_MOST_BYTES,
                seconds=_SECONDS,
                spool=Path(settings.spool),
                spool_bytes=settings.spool_bytes,
                setting="events.spool",
            )

    def __repr__(self) -> str:
        return f"ModelEvents({self._box or 'off'})"

    def open(self) -> None:
        """Take up what an earlier process could not send, and begin.

        Raises:
            SettingsError: the spool's folder cannot be used.
        """
        if self._box is not None:
            self._box.open()

    def changed(self, key: str) -> None:
        """Something at a key of the routing table changed: look, and tell. Where nothing happened it takes
        microseconds.
        """
        if self._box is None:
            return
        rows = {row.version: row for row in self._rows(key) if row.kind == "model" and row.name == key}
        known = self._seen.get(key, {})
        now = {version: Seen(str(row.state), row.reason, row.loaded_at) for version, row in rows.items()}
        if now == known:
            return
        for version in {**known, **now}:
            before, after = known.get(version, ABSENT), now.get(version, ABSENT)
            happened = what_happened(before, after)
            if happened is not None:
                self._tell(happened, key, version, {"reason": after.reason} if after.reason else {})
        if now:
            self._seen[key] = now
        else:
            self._seen.pop(key, None)

    def rolled_back(self, model: str, version: str, *, to: str, reason: str) -> None:
        """A candidate was given up for what served before.

        Args:
            model: Its name.
            version: That was given up.
            to: What serves on: a version, or of a rollout `NAME` or `NAME@REVISION`.
            reason: Why, for people.
        """
        self._tell("rolled-back", model, version, {"to_version": to, "reason": reason})

    def _tell(self, kind: cloudevents.Kind, model: str, version: str, more: dict[str, Any]) -> None:
        if self._box is None:
            return
        now = time.time()
        named = {"event": kind, "model": model, "version": version, "server": self._server, **more}
        event = cloudevents.event(
            named,
            type=cloudevents.type_of(kind, self._settings.types),
            source=f"/v2/models/{model}/versions/{version or 'default'}",
            time=now,
            subject=model,
            extensions=cloudevents.attributes(self._settings.types, model=model, version=version),
        )
        self._box.put(item_of(event))

    def close(self, grace_seconds: float) -> None:
        """Send what can be sent within the grace; the rest stays on disk for the next process. Blocks."""
        if self._box is not None:
            self._box.close(grace_seconds)
        if self._sink is not None:
            self._sink.close()

    def counts(self) -> dict[str, int]:
        """sent, failed, dropped, retried; empty: it is off."""
        if self._box is None:
            return {}
        counts = self._box.counts
        return {
            "sent": counts.sent,
            "failed": counts.failed,
            "dropped": counts.dropped,
            "retried": counts.retried,
        }
