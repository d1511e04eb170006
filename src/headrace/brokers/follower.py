"""Reads topics without a group: everybody who follows a topic sees all of it, from a while ago on. What answers of
durable pipelines are found by; `local` uses it.

One thread for all topics of a process, which alone uses the client that reads; questions go through another, under a
lock, because the library's calls wait for each other for seconds otherwise. `unread` looks at what a group has still
to read.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition

from headrace.brokers import connection
from headrace.brokers.base import Record, record_of
from headrace.brokers.settings import KafkaSettings
from headrace.errors import HeadraceError, Temporary

log = logging.getLogger(__name__)
_POLL_SECONDS: Final = 0.1
_ASK_SECONDS: Final = 5.0
_LOOK_SECONDS: Final = 30.0
"""How often partitions are looked for that were added to a topic."""
_BATCH: Final = 500
_EOF: Final = KafkaError._PARTITION_EOF
_ALWAYS: Final = {
    "isolation.level": "read_committed",
    "enable.auto.commit": "false",
    "auto.offset.reset": "earliest",  # of a partition that lost its end, too much is read rather than too little
}


class Follower:
    """Shows what comes to topics: `start`, then `follow` and `forget` from any thread, then `close`."""

    def __init__(self, settings: KafkaSettings, arrived: Callable[[Sequence[Record]], None]) -> None:
        """Store what for.

        Args:
            settings: Of the connection.
            arrived: Called with messages as they come, from the follower's thread. Of one partition they are in order.
        """
        self._settings, self._arrived = settings, arrived
        self._client: Any = None
        self._asking: Any = None
        self._lock = threading.Lock()
        self._orders: deque[tuple[bool, list[TopicPartition]]] = deque()
        self._thread: threading.Thread | None = None
        self._closing = threading.Event()
        self._moved = threading.Condition()
        self._positions: dict[tuple[str, int], int] = {}
        self.reason = ""
        """Why nothing can be read now, as far as is known."""

    def start(self) -> None:
        """Make the client; it connects by itself, now and after every loss.

        Raises:
            SettingsError: no client can be made of these settings.
        """
        self._client = _consumer(
            self._settings,
            "headrace-follower",  # never joined, nothing is committed under it
            {"enable.partition.eof": "true", "fetch.wait.max.ms": "100", "error_cb": self._error},
        )
        self._asking = _consumer(self._settings, "headrace-follower", {})
        self._thread = threading.Thread(target=self._read, name="kafka-follower", daemon=True)
        self._thread.start()

    def follow(self, topic: str, *, seconds: float = 0.0, records: int = 0) -> None:
        """Show what comes to a topic from now on, and what came before. Blocks until that is settled.

        Args:
            topic: Which; it exists. Following it already is no mistake.
            seconds: How far to go back; a broker that finds nothing by time has all of `records` shown.
            records: How many messages of each partition to go back at most.

        Raises:
            SettingsError: the broker refuses us, or there is no such topic.
            Temporary: it does not answer.
        """
        try:
            with self._lock:
                begin = [
                    self._begin(topic, number, seconds=seconds, records=records)
                    for number in _partitions(self._settings, self._asking, topic)
                    if (topic, number) not in self._positions
                ]
                self._assign(begin)
        except KafkaException as exc:
            raise connection.failure(self._settings, exc, f"read topic {topic!r}") from exc

    def forget(self, topic: str) -> None:
        """Show no more of it."""
        with self._moved:
            left = [TopicPartition(*each) for each in self._positions if each[0] == topic]
            for each in left:
                del self._positions[each.topic, each.partition]
            if left:
                self._orders.append((False, left))

    def catch_up(self, topic: str, *, timeout_seconds: float) -> bool:
        """Wait until all has been shown that a followed topic holds now; whether it was in time. Blocks."""
        deadline = time.monotonic() + timeout_seconds
        ends = {}
        try:
            with self._lock:
                for each in [each for each in list(self._positions) if each[0] == topic]:
                    left = max(0.1, deadline - time.monotonic())
                    ends[each] = self._asking.get_watermark_offsets(TopicPartition(*each), timeout=left)[1]
        except KafkaException as exc:
            raise connection.failure(self._settings, exc, f"read topic {topic!r}") from exc

        def there() -> bool:
            return all(self._positions.get(each, end) >= end for each, end in ends.items())

        with self._moved:
            return self._moved.wait_for(there, max(0.0, deadline - time.monotonic()))

    def close(self) -> None:
        """End. Blocks."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join()
        for client in (self._client, self._asking):
            if client is not None:
                client.close()
        self._client = self._asking = None

    def _begin(self, topic: str, number: int, *, seconds: float, records: int) -> TopicPartition:
        """Where to begin with a partition."""
        low, high = self._asking.get_watermark_offsets(TopicPartition(topic, number), timeout=_ASK_SECONDS)
        first = max(low, high - records)
        if seconds and first < high:
            asked = TopicPartition(topic, number, int((time.time() - seconds) * 1000))
            (found,) = self._asking.offsets_for_times([asked], timeout=_ASK_SECONDS)
            # None is found where all are older, and at brokers that cannot look by time: rather too much is read.
            first = max(first, found.offset)
        return TopicPartition(topic, number, min(first, high))

    def _assign(self, begin: Sequence[TopicPartition]) -> None:
        if not begin:
            return
        with self._moved:
            for each in begin:
                self._positions[each.topic, each.partition] = max(each.offset, 0)
            self._orders.append((True, list(begin)))

    def _read(self) -> None:
        """The thread: one message is waited for, and what has come with it is taken at once."""
        looked = time.monotonic()
        while not self._closing.is_set():
            while self._orders:
                begins, partitions = self._orders.popleft()
                (self._client.incremental_assign if begins else self._client.incremental_unassign)(partitions)
            messages = self._client.consume(1, timeout=_POLL_SECONDS)
            if messages:
                messages += self._client.consume(_BATCH - 1, timeout=0)
                self._show(messages)
            if time.monotonic() - looked > _LOOK_SECONDS:
                looked = time.monotonic()
                self._look_for_more()

    def _show(self, messages: Sequence[Any]) -> None:
        records, moved = [], {}
        for each in messages:
            place = (each.topic(), each.partition())
            if place not in self._positions:
                continue  # it was forgotten meanwhile
            error = each.error()
            if error is None:
                records.append(record_of(each))
                moved[place] = each.offset() + 1
            elif error.code() == _EOF:
                moved[place] = each.offset()
            else:
                self._error(error)
        if moved:
            self.reason = ""
        if records:
            self._arrived(records)
        with self._moved:
            self._positions.update({place: at for place, at in moved.items() if place in self._positions})
            self._moved.notify_all()

    def _look_for_more(self) -> None:
        """Follow partitions that were added to a topic."""
        for topic in sorted({topic for topic, _ in list(self._positions)}):
            try:
                with self._lock:
                    numbers = _partitions(self._settings, self._asking, topic)
                new = [number for number in numbers if (topic, number) not in self._positions]
                self._assign([TopicPartition(topic, number, OFFSET_BEGINNING) for number in new])
            except (HeadraceError, KafkaException) as error:
                log.warning("topic %r: %s", topic, connection.hidden(self._settings, str(error)))
                return

    def _error(self, error: KafkaError) -> None:
        self.reason = str(connection.error_of(self._settings, error, "read"))
        log.warning("%s", self.reason)


def unread(
    settings: KafkaSettings, topic: str, group: str, *, records: int = 10_000, timeout_seconds: float = 5.0
) -> tuple[list[Record], bool]:
    """What of a topic a group has not done with yet, and whether that is all of it. Blocks.

    Args:
        settings: Of the connection.
        topic: Which.
        group: Whose progress counts. It is not joined.
        records: Looked at at most.
        timeout_seconds: Spent at most.

    Raises:
        SettingsError: the broker refuses us, or there is no such topic.
        Temporary: it does not answer.
    """
    deadline = time.monotonic() + timeout_seconds
    client = _consumer(settings, group, {"enable.partition.eof": "true"})
    found: list[Record] = []
    try:
        places = [TopicPartition(topic, number) for number in _partitions(settings, client, topic)]
        begin = []
        for each in client.committed(places, timeout=_ASK_SECONDS):
            low, high = client.get_watermark_offsets(TopicPartition(topic, each.partition), timeout=_ASK_SECONDS)
            first = max(low, each.offset) if each.offset >= 0 else low
            if first < high:
                begin.append(TopicPartition(topic, each.partition, first))
        client.assign(begin)
        left = {each.partition for each in begin}
        while left and len(found) < records and time.monotonic() < deadline:
            for message in client.consume(_BATCH, timeout=0.05):
                error = message.error()
                if error is None:
                    found.append(record_of(message))
                elif error.code() == _EOF:
                    left.discard(message.partition())
                else:
                    raise connection.error_of(settings, error, f"read topic {topic!r}")
    except KafkaException as exc:
        raise connection.failure(settings, exc, f"read topic {topic!r}") from exc
    finally:
        client.close()
    return found, not left


def _consumer(settings: KafkaSettings, group: str, more: dict[str, Any]) -> Any:
    config = connection.librdkafka(settings, "consumer", {**_ALWAYS, "group.id": group, **more})
    for name in ("group.protocol", "partition.assignment.strategy", "group.instance.id"):
        config.pop(name, None)  # which are about members of groups
    try:
        return Consumer(config)
    except (KafkaException, ValueError, TypeError) as exc:
        raise connection.failure(settings, exc, "connect") from exc


def _partitions(settings: KafkaSettings, client: Any, topic: str) -> list[int]:
    found = client.list_topics(topic=topic, timeout=_ASK_SECONDS).topics.get(topic)
    if found is None or found.error is not None:
        if found is not None and found.error is not None:
            raise connection.error_of(settings, found.error, f"read topic {topic!r}")
        raise Temporary(f"Kafka at {settings.brokers} says nothing of topic {topic!r}")
    return sorted(found.partitions)
