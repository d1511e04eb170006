"""CloudEvents on their way to a sink: an outbox of events, with what waits on disk up to a bound. `actions`, `payloads`
and `model_events` make one each.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from headrace.errors import HeadraceError
from headrace.monitoring.backlog import Backlog
from headrace.monitoring.outbox import DeliverMany, Item, Outbox
from headrace.monitoring.sinks.base import Sink, SinkOfMany
from headrace.protocols import cloudevents

KEPT_SECONDS: Final = 24 * 3600.0
"""What is on disk is given up after so long."""
_MOST_ITEMS: Final = 1_000_000


def item_of(event: cloudevents.Event) -> Item:
    """What is put into such an outbox."""
    return Item(key="", body=cloudevents.structured(event))


def event_outbox(
    name: str,
    sink: Sink,
    *,
    most_bytes: int,
    seconds: float,
    spool: Path,
    spool_bytes: int,
    setting: str,
    most_items: int = _MOST_ITEMS,
    threads: int = 1,
) -> Outbox:
    """An outbox whose items are events (`item_of`).

    Args:
        name: For messages and threads.
        sink: Where events go. Whoever opened it closes it.
        most_bytes: That wait in memory, without a spool.
        seconds: Until an event is given up, without a spool.
        spool: A folder for those that wait.
        spool_bytes: That it may take; 0: no spool.
        setting: The key that holds the folder, for messages.
        most_items: That wait, without a spool.
        threads: That send at the same time, to a sink that takes one event at a time.
    """

    def deliver(item: Item) -> None:
        sink.send(cloudevents.parse_structured(item.body))

    return Outbox(
        name,
        deliver,
        most_items=_MOST_ITEMS if spool_bytes else most_items,
        most_bytes=most_bytes,
        deadline_seconds=KEPT_SECONDS if spool_bytes else seconds,
        threads=1 if isinstance(sink, SinkOfMany) else threads,
        backlog=Backlog(spool, most_bytes=spool_bytes, setting=setting) if spool_bytes else None,
        deliver_many=_many(sink) if isinstance(sink, SinkOfMany) else None,
        most_at_once=sink.most_at_once if isinstance(sink, SinkOfMany) else 1,
    )


def _many(sink: SinkOfMany) -> DeliverMany:
    def deliver_many(items: Sequence[Item]) -> Sequence[HeadraceError | None]:
        return sink.send_many([cloudevents.parse_structured(item.body) for item in items])

    return deliver_many
