"""Reads topics, has each message answered on the event loop, sends the answers, and commits what is done.

    thread: consume a batch -> loop (`answering`): handle each, in order by key; send -> producer's thread: note what is
    safe (`flight`) -> thread: commit

Nothing is lost: a position is committed only when every message before it is done (`brokers.progress`), which means
that the broker has its answers, or its dead letter. Whoever dies is followed by another member of the group, which
begins at that position. With `exactly-once` the answers and the position are one transaction (`brokers.transactions`).

The thread owns the consumer: rebalances are told to it, in the middle of a read.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Sequence
from typing import Any, Final

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from headrace.brokers import admin, connection
from headrace.brokers.answering import Answering, Handle, Start
from headrace.brokers.base import record_of
from headrace.brokers.counts import PumpCounts
from headrace.brokers.flight import Flight, Place, Taken
from headrace.brokers.producer import Producer
from headrace.brokers.progress import Progress
from headrace.brokers.settings import KafkaSettings
from headrace.brokers.transactions import Aborted, Lost, Transactions
from headrace.errors import HeadraceError, SettingsError, Temporary

log = logging.getLogger(__name__)

_READ_SECONDS: Final = 0.1
_BUSY_READ_SECONDS: Final = 0.005
"""With transactions: how long answers may wait for the thread, which sends them."""
_ROOM_SECONDS: Final = 0.2
"""How long reading waits for room before it pauses partitions, which throws away what was read ahead."""
_COMMIT_SECONDS: Final = 0.5
_LAG_SECONDS: Final = 1.0
_LAG_SHARE: Final = 20.0
"""Of the thread's time, one part in so many may go into asking for lags."""
_FIRST_SECONDS: Final = 5.0
"""How long `start` waits for the broker."""
_AGAIN_SECONDS: Final = 2.0


class Pump:
    """A member of a consumer group: `start`, then `stop`."""

    def __init__(
        self,
        settings: KafkaSettings,
        *,
        topics: Sequence[str],
        group: str,
        handle: Handle,
        counts: PumpCounts,
        dead_letter_topic: str = "",
        needs: Sequence[str] = (),
        first_pause_seconds: float = 0.25,
        start: Start | None = None,
    ) -> None:
        """Store what to do.

        Args:
            settings: Of the connection, and of how much at once.
            topics: What to read.
            group: The consumer group; its members share the partitions.
            handle: Answers a message with any number of messages. It is called on the event loop. Messages of one key
                (and partition) are handled one after the other, others at the same time. What it raises: `Temporary` is
                tried again, `settings.retries` times; anything else makes a dead letter.
            counts: Where to count.
            dead_letter_topic: Empty: they are logged and counted only.
            needs: Further topics that must be there.
            first_pause_seconds: Before the first further try; each next is three times longer, up to 30 s.
            start: Begins the coroutine of `handle`: its result where it never waited, else the task that carries it on
                (`server.eager`, which spares a task for each message). None: each has a task.
        """
        self._settings, self._topics, self._group = settings, tuple(topics), group
        self.counts = counts
        self._needs = tuple(dict.fromkeys([*topics, *needs, *([dead_letter_topic] if dead_letter_topic else [])]))
        self._flight = Flight(settings, counts)
        self._answering = Answering(
            settings,
            self._flight,
            counts,
            handle=handle,
            group=group,
            dead_letter_topic=dead_letter_topic,
            first_pause_seconds=first_pause_seconds,
            start=start,
        )
        self._transactions = Transactions(settings, group) if settings.delivery == "exactly-once" else None
        self._consumer: Any = None
        self._thread: threading.Thread | None = None
        self._drain_seconds = 0.0
        self._paused: set[Place] = set()
        self._opened: asyncio.Future[None] | None = None
        self._committed_at = self._measured_at = 0.0
        self._refused: HeadraceError | None = None
        self._broken = ""
        """Why the transactions of this session are over."""

    @property
    def producer(self) -> Producer:
        """What the answers go through; anybody may send more. With `exactly-once`, answers do not."""
        return self._answering.producer

    @property
    def reason(self) -> str:
        """Why messages are not answered now; empty: all is well."""
        return self.counts.reason or self._answering.reason

    @property
    def assignment(self) -> list[tuple[str, int]]:
        """Topics and partitions that this member has now."""
        return self._flight.places

    async def start(self) -> None:
        """Join the group. A broker that is away is waited for in the background; `counts.reason` says so meanwhile.

        Raises:
            SettingsError: the broker is there and refuses us, or has no such topic; or these settings cannot be.
        """
        self._opened = asyncio.get_running_loop().create_future()
        self._answering.open()
        self._thread = threading.Thread(target=self._run, name=f"kafka-{self._group}", daemon=True)
        self._thread.start()
        await self._opened

    async def stop(self, drain_seconds: float) -> None:
        """Read no more, let what is in flight end, commit, leave the group. What does not end is read by others."""
        self._drain_seconds = drain_seconds
        self._flight.close()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)
        await self._answering.close(1.0 if self._refused else 5.0)
        self.counts.in_flight = self.counts.bytes_in_flight = 0

    # -- the thread --

    def _run(self) -> None:
        while not self._flight.closed.is_set():
            try:
                try:
                    self._session()
                finally:
                    self._leave()
            except (HeadraceError, KafkaException) as exc:
                error = exc if isinstance(exc, HeadraceError) else connection.failure(self._settings, exc, "read")
                if self._opened_with(error):
                    return
                self._away(str(error))
            except Exception as exc:  # an error of ours must not leave a group without its member in silence
                log.exception("group %s: the reader ended and is begun again", self._group)
                self._opened_with(None)
                self._away(f"{type(exc).__name__}: {exc}")
            self._flight.closed.wait(_AGAIN_SECONDS)
        self._opened_with(None)

    def _session(self) -> None:
        """One life of the consumer."""
        try:
            self._consumer = Consumer(self._config())
        except (KafkaException, ValueError, TypeError) as exc:
            raise connection.failure(self._settings, exc, "connect") from exc
        self._broken = ""
        self._find_topics()
        if self._transactions is not None:
            self._transactions.start()
        self._consumer.subscribe(
            list(self._topics), on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._were_lost
        )
        self._opened_with(None)
        if self.counts.reason and not self._flight.closed.is_set():  # where it is, nobody waited for an answer
            log.info("group %s: Kafka at %s answers", self._group, self._settings.brokers)
        self.counts.reason = ""
        while not self._flight.closed.is_set():
            self._turn()
        self._drain()

    def _config(self) -> dict[str, Any]:
        settings = self._settings
        more: dict[str, Any] = {
            "group.id": self._group,
            "enable.auto.commit": "false",
            "enable.auto.offset.store": "false",
            "auto.offset.reset": settings.start,
            "queued.max.messages.kbytes": str(max(1024, settings.max_in_flight_bytes >> 10)),
            "error_cb": self._error,
            "on_commit": self._was_committed,
        }
        if connection.option(settings, "group.protocol") != "consumer":  # there, the broker says
            more["session.timeout.ms"] = "10000"
        return connection.librdkafka(settings, "consumer", more)

    def _find_topics(self) -> None:
        """Return once the broker answers and has every topic.

        Raises:
            SettingsError: before the pump was opened; later it is waited for, too.
        """
        deadline = time.monotonic() + _FIRST_SECONDS
        while not self._flight.closed.is_set():
            try:
                if admin.missing(self._settings, self._needs, timeout_seconds=2.0, client=self._consumer):
                    admin.ensure_topics(self._settings, self._needs)
                return
            except HeadraceError as exc:
                self._consumer.consume(1, 0)  # tells why, where a connection was refused
                error = self._refused or exc
                if isinstance(error, SettingsError) or time.monotonic() > deadline:
                    if self._opened_with(error if isinstance(error, SettingsError) else None):
                        raise error from exc
                    self._away(str(error))
            self._flight.closed.wait(0.2)

    def _opened_with(self, error: HeadraceError | None) -> bool:
        """Let `start` return, or raise; whether it was waiting to be told of this error."""
        opened = self._opened
        if opened is None:
            return False
        self._opened = None

        def tell() -> None:
            if opened.done():
                return
            if error is None:
                opened.set_result(None)
            else:
                opened.set_exception(error)

        opened.get_loop().call_soon_threadsafe(tell)
        return error is not None

    def _turn(self) -> None:
        self._flight.wait_for_room(_ROOM_SECONDS)
        if self._transactions is not None:
            self._transact(self._transactions)
            if self._broken:
                raise Temporary(self._broken)  # the consumer joins anew, and reads from what is committed
        room = self._room()
        busy = self._transactions is not None and self.counts.in_flight
        messages = self._consumer.consume(1, _BUSY_READ_SECONDS if busy else _READ_SECONDS)
        if messages and room > 1:
            messages += self._consumer.consume(min(room, self._settings.batch_messages) - 1, 0)
        if messages:
            self._hand_over(messages)
        now = time.monotonic()
        if now - self._committed_at > _COMMIT_SECONDS:
            self._committed_at = now
            self._commit()
        if now - self._measured_at > _LAG_SECONDS:
            self._measure()
            self._measured_at = now + _LAG_SHARE * (time.monotonic() - now)  # many partitions are asked less often

    def _room(self) -> int:
        """How many messages may be taken; 0: none, and the partitions are paused."""
        free, mine = self._flight.room(), set(self._flight.places)
        if free and self._paused:
            self._consumer.resume([TopicPartition(*each) for each in self._paused & mine])
            self._paused = set()
        elif not free and mine - self._paused:
            self._consumer.pause([TopicPartition(*each) for each in mine - self._paused])
            self._paused |= mine
            self.counts.paused += 1
        return free

    def _hand_over(self, messages: Sequence[Any]) -> None:
        batch: list[Taken] = []
        for message in messages:
            error = message.error()
            if error is not None:
                self._error(error)
                continue
            progress = self._flight.part((message.topic(), message.partition()))
            if progress is None:  # it went elsewhere while this batch was gathered
                continue
            record = record_of(message)
            batch.append(Taken(record, progress, len(record.value or b"") + len(record.key or b"")))
        if batch:
            self._flight.take(batch)
            self.counts.reason = ""
            self._answering.hand_over(batch)

    def _commit(self, *, wait: bool = False, only: Sequence[Progress[Taken]] | None = None) -> None:
        """Tell the broker how far everything is done."""
        if self._transactions is not None:
            return  # they carry the positions
        offsets = [
            TopicPartition(each.topic, each.partition, position)
            for each, position in self._flight.positions(only)
            if position is not None and position != each.committed
        ]
        if not offsets:
            return
        try:
            found = self._consumer.commit(offsets=offsets, asynchronous=not wait)
        except KafkaException as exc:
            self.counts.commit_failures += 1
            log.warning("%s", connection.failure(self._settings, exc, f"commit for group {self._group!r}"))
            return
        if wait:
            self._was_committed(None, found)

    def _was_committed(self, error: KafkaError | None, offsets: Sequence[Any]) -> None:
        for each in offsets:
            failed = each.error or error
            if failed is not None:
                self.counts.commit_failures += 1
                log.warning(
                    "%s; others may answer some messages again",
                    connection.error_of(self._settings, failed, f"commit {each.topic}[{each.partition}]"),
                )
                continue
            self.counts.commits += 1
            progress = self._flight.part((each.topic, each.partition))
            if progress is not None:
                progress.committed = each.offset

    def _measure(self) -> None:
        """The lag of each partition; and whether a broker that was away is back."""
        positions = {(each.topic, each.partition): position for each, position in self._flight.positions()}
        lag: dict[Place, int] = {}
        try:
            if not positions and self.counts.reason:
                self._consumer.list_topics(topic=self._topics[0], timeout=1.0)
            for key, position in positions.items():
                lag[key] = self._lag(TopicPartition(*key), position)
        except KafkaException as exc:
            self._away(str(connection.failure(self._settings, exc, "ask how much there is to do")))
            return
        self.counts.lag = lag
        self.counts.reason = ""

    def _lag(self, partition: Any, position: int | None) -> int:
        """Messages of a partition that are not done with. The end is asked for: what was read ahead may be old."""
        start, end = self._consumer.get_watermark_offsets(partition, timeout=1.0)
        if position is None:
            position = self._consumer.committed([partition], timeout=1.0)[0].offset
        if position < 0:  # nothing was ever committed
            position = end if self._settings.start == "latest" else start
        return int(max(0, end - max(position, start)))

    # -- the group --

    def _assigned(self, consumer: Any, partitions: Sequence[Any]) -> None:
        self._flight.add(_places(partitions))
        self.counts.rebalances += bool(partitions)
        if partitions:
            log.info("group %s: has %s", self._group, _listed(partitions))

    def _revoked(self, consumer: Any, partitions: Sequence[Any]) -> None:
        """Others get these: end what was begun, commit, forget the rest, which they will read."""
        self.counts.rebalances += bool(partitions)
        patience = self._drain_seconds if self._flight.closed.is_set() else self._settings.revoke_seconds
        mine = self._flight.finish(_places(partitions), patience)
        if self._transactions is not None:
            self._transact(self._transactions)
        else:
            self._commit(wait=True, only=mine)
        self._forget(partitions)
        if partitions:
            log.info("group %s: gave back %s", self._group, _listed(partitions))

    def _were_lost(self, consumer: Any, partitions: Sequence[Any]) -> None:
        """Others have these already: nothing of ours counts any more."""
        self.counts.rebalances += bool(partitions)
        self._forget(partitions)
        log.warning("group %s: lost %s", self._group, _listed(partitions))

    def _forget(self, partitions: Sequence[Any]) -> None:
        places = _places(partitions)
        self._flight.remove(places)
        self._paused -= places

    def _drain(self) -> None:
        """Before the consumer leaves: what was begun ends, and counts."""
        self._flight.finish(None, self._drain_seconds)
        if self._transactions is not None:
            self._transact(self._transactions)
        self._commit(wait=True)

    def _leave(self) -> None:
        if self._consumer is not None:
            self._drain_seconds, patience = 0.0, self._drain_seconds
            try:
                self._consumer.close()
            except (KafkaException, RuntimeError) as exc:
                log.warning("group %s: the consumer did not close well: %s", self._group, exc)
            self._consumer, self._drain_seconds = None, patience
        if self._transactions is not None:
            self._transactions.close()
        self._flight.remove()
        self._paused.clear()
        self.counts.lag = {}

    # -- exactly once --

    def _transact(self, transactions: Transactions) -> None:
        """Send what is answered without gaps, with the position behind it."""
        if self._broken:
            return
        parts = self._flight.prefixes()
        if not parts:
            return
        positions = [TopicPartition(each.topic, each.partition, prefix[-1][0] + 1) for each, prefix in parts]
        answers = [answer for _, prefix in parts for _, taken in prefix for answer in taken.answers]
        try:
            transactions.send(answers, positions, self._consumer.consumer_group_metadata())
        except Aborted as exc:
            self.counts.aborted += 1
            log.warning("group %s: a transaction was aborted, and is tried again: %s", self._group, exc)
            self._too_large(parts, exc.refused)
            self._flight.closed.wait(0.05)
            return
        except Lost as exc:
            self.counts.aborted += 1
            log.warning("group %s: a transaction ended unknown; what it held is read again: %s", self._group, exc)
            self._broken = str(exc)
            return
        self.counts.transactions += 1
        self.counts.sent += len(answers)
        self._flight.settle(parts)

    def _too_large(
        self, parts: Sequence[tuple[Progress[Taken], list[tuple[int, Taken]]]], refused: dict[int, HeadraceError]
    ) -> None:
        """Answers that no broker will ever take become dead letters, and those are only said; the rest goes on."""
        for _, prefix in parts:
            for _, taken in prefix:
                wrong = next((refused[id(each)] for each in taken.answers if id(each) in refused), None)
                if wrong is not None:
                    if taken.buried:
                        log.error("%s", wrong)
                    taken.answers = () if taken.buried else tuple(self._answering.bury(taken, wrong, 1))

    # -- what the library tells --

    def _error(self, error: KafkaError) -> None:
        if error.code() == KafkaError._PARTITION_EOF:
            return
        ours = connection.error_of(self._settings, error, f"read for group {self._group!r}")
        if isinstance(ours, SettingsError) and error.code() not in connection.UNKNOWN:
            self._refused = ours
        if error.fatal():
            raise KafkaException(error)
        self._away(str(ours))

    def _away(self, reason: str) -> None:
        if reason != self.counts.reason:
            log.warning("group %s: %s", self._group, reason)
        self.counts.reason = reason


def _places(partitions: Sequence[Any]) -> set[Place]:
    return {(each.topic, each.partition) for each in partitions}


def _listed(partitions: Sequence[Any]) -> str:
    return ", ".join(f"{each.topic}[{each.partition}]" for each in partitions) or "nothing"
