"""Reads topics, has each message answered on the event loop, sends the answers, and commits what is done.

    thread: consume a batch -> loop: handle each, in order by key; send -> producer's thread: note what is safe
    -> thread: commit

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
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any, Final

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from headrace.brokers import admin, connection, dead_letters
from headrace.brokers.base import Outgoing, Record, record_of
from headrace.brokers.counts import PumpCounts
from headrace.brokers.producer import Producer
from headrace.brokers.progress import Progress
from headrace.brokers.settings import KafkaSettings
from headrace.brokers.transactions import Aborted, Lost, Transactions
from headrace.errors import HeadraceError, SettingsError, Temporary, TooLarge

log = logging.getLogger(__name__)
Handle = Callable[[Record], Coroutine[Any, Any, Sequence[Outgoing]]]
Started = Sequence[Outgoing] | asyncio.Task[Sequence[Outgoing]]
Start = Callable[[Coroutine[Any, Any, Sequence[Outgoing]], asyncio.AbstractEventLoop], Started]

_READ_SECONDS: Final = 0.1
_BUSY_READ_SECONDS: Final = 0.005
"""With transactions: how long answers may wait for the thread, which sends them."""
_ROOM_SECONDS: Final = 0.2
"""How long reading waits for room before it pauses partitions, which throws away what was read ahead."""
_UNSENT: Final = 10
"""For each message that may be being answered, so many whose answers are on their way to the broker."""
_COMMIT_SECONDS: Final = 0.5
_LAG_SECONDS: Final = 1.0
_LAG_SHARE: Final = 20.0
"""Of the thread's time, one part in so many may go into asking for lags."""
_FIRST_SECONDS: Final = 5.0
"""How long `start` waits for the broker."""
_AGAIN_SECONDS: Final = 2.0
_LONGEST_PAUSE_SECONDS: Final = 30.0
_QUIET_SECONDS: Final = 1.0
"""Between two log lines on dead letters."""


class _Taken:
    """A message on its way through the pump."""

    __slots__ = ("answers", "attempts", "buried", "is_answered", "left", "progress", "record", "size")

    def __init__(self, record: Record, progress: Progress[_Taken]) -> None:
        self.record, self.progress = record, progress
        self.answers: Sequence[Outgoing] = ()
        """With transactions: what waits to be sent in order."""
        self.size = len(record.value or b"") + len(record.key or b"")
        self.left = 0
        """Answers that are not safe yet."""
        self.attempts = 0
        """Tries that failed."""
        self.is_answered = self.buried = False


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
        self._handle, self.counts, self._dead_letters = handle, counts, dead_letter_topic
        self._needs = tuple(dict.fromkeys([*topics, *needs, *([dead_letter_topic] if dead_letter_topic else [])]))
        self._first_pause = first_pause_seconds
        self._start = start if start is not None else _in_a_task
        self.producer = Producer(settings, reported=self._settle)
        """What the answers go through; anybody may send more. With `exactly-once`, answers do not."""
        self._transactions = Transactions(settings, group) if settings.delivery == "exactly-once" else None
        self._consumer: Any = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        """Guards what the threads and the loop share: progresses, and what is in flight."""
        self._changed = threading.Condition(self._lock)
        self._progress: dict[tuple[str, int], Progress[_Taken]] = {}
        self._lanes: dict[tuple[int, bytes | None], deque[_Taken]] = {}
        """Messages that wait for one of their key, by partition and key, while that one is being answered."""
        self._tasks: set[asyncio.Task[Sequence[Outgoing]]] = set()
        self._later: set[asyncio.TimerHandle] = set()
        self._outbox: list[tuple[_Taken, Sequence[Outgoing]]] = []
        """What was answered in this turn of the loop, in the order in which it is sent."""
        self._is_flushing = False
        self._unsafe = 0
        """Messages that are answered, and whose answers the broker does not have yet."""
        self._safe: deque[_Taken] = deque()
        """One entry for each answer that the broker has, until `_settle` counts it."""
        self._stopping = threading.Event()
        self._drain_seconds = 0.0
        self._waiting = False
        self._paused: set[tuple[str, int]] = set()
        self._opened: asyncio.Future[None] | None = None
        self._committed_at = self._measured_at = self._told_at = 0.0
        self._untold = 0
        self._refused: HeadraceError | None = None
        self._broken = ""
        """Why the transactions of this session are over."""
        self._unsendable = ""

    @property
    def reason(self) -> str:
        """Why messages are not answered now; empty: all is well."""
        return self.counts.reason or self._unsendable

    @property
    def assignment(self) -> list[tuple[str, int]]:
        """Topics and partitions that this member has now."""
        with self._lock:
            return sorted(self._progress)

    async def start(self) -> None:
        """Join the group. A broker that is away is waited for in the background; `counts.reason` says so meanwhile.

        Raises:
            SettingsError: the broker is there and refuses us, or has no such topic; or these settings cannot be.
        """
        self._loop = asyncio.get_running_loop()
        self._opened = self._loop.create_future()
        self.producer.start()
        self._thread = threading.Thread(target=self._run, name=f"kafka-{self._group}", daemon=True)
        self._thread.start()
        await self._opened

    async def stop(self, drain_seconds: float) -> None:
        """Read no more, let what is in flight end, commit, leave the group. What does not end is read by others."""
        self._drain_seconds = drain_seconds
        self._stopping.set()
        with self._lock:
            self._changed.notify_all()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)
        for timer in self._later:
            timer.cancel()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._flush()
        await asyncio.to_thread(self.producer.close, 1.0 if self._refused else 5.0)
        self.counts.in_flight = self.counts.bytes_in_flight = self._unsafe = 0

    # -- the thread --

    def _run(self) -> None:
        while not self._stopping.is_set():
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
            self._stopping.wait(_AGAIN_SECONDS)
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
        if self.counts.reason and not self._stopping.is_set():  # where it is, nobody waited for an answer
            log.info("group %s: Kafka at %s answers", self._group, self._settings.brokers)
        self.counts.reason = ""
        while not self._stopping.is_set():
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
        while not self._stopping.is_set():
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
            self._stopping.wait(0.2)

    def _opened_with(self, error: HeadraceError | None) -> bool:
        """Let `start` return, or raise; whether it was waiting to be told of this error."""
        loop, opened = self._loop, self._opened
        if opened is None or loop is None:
            return False
        self._opened = None

        def tell() -> None:
            if opened.done():
                return
            if error is None:
                opened.set_result(None)
            else:
                opened.set_exception(error)

        loop.call_soon_threadsafe(tell)
        return error is not None

    def _turn(self) -> None:
        self._wait_for_room()
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

    def _free_places(self) -> int:
        """How many messages may be taken; 0 or less: none. Called under the lock."""
        settings, counts = self._settings, self.counts
        if self._stopping.is_set() or counts.bytes_in_flight >= settings.max_in_flight_bytes:
            return 0
        if counts.in_flight >= settings.max_in_flight * _UNSENT:
            return 0
        return settings.max_in_flight - counts.in_flight + self._unsafe

    def _wait_for_room(self) -> None:
        """Return once there is room for many, or after a while: by ones, the threads would only wake each other."""
        enough = max(1, min(self._settings.batch_messages, self._settings.max_in_flight) // 4)

        def go_on() -> bool:
            if self._stopping.is_set() or self._free_places() >= enough:
                return True
            return self._transactions is not None and any(each.is_ready for each in self._progress.values())

        with self._lock:
            if self._free_places() <= 0:
                self._waiting = True
                self._changed.wait_for(go_on, _ROOM_SECONDS)
                self._waiting = False

    def _room(self) -> int:
        """How many messages may be taken; 0: none, and the partitions are paused."""
        with self._lock:
            free, mine = self._free_places(), set(self._progress)
        if free > 0 and self._paused:
            self._consumer.resume([TopicPartition(*each) for each in self._paused & mine])
            self._paused = set()
        elif free <= 0 and mine - self._paused:
            self._consumer.pause([TopicPartition(*each) for each in mine - self._paused])
            self._paused |= mine
            self.counts.paused += 1
        return max(0, free)

    def _hand_over(self, messages: Sequence[Any]) -> None:
        batch: list[_Taken] = []
        size, parts = 0, self._progress  # which this thread alone changes
        for message in messages:
            error = message.error()
            if error is not None:
                self._error(error)
                continue
            progress = parts.get((message.topic(), message.partition()))
            if progress is None:  # it went elsewhere while this batch was gathered
                continue
            taken = _Taken(record_of(message), progress)
            size += taken.size
            batch.append(taken)
        if not batch:
            return
        with self._lock:
            for taken in batch:
                taken.progress.take(taken.record.offset)
            self.counts.in_flight += len(batch)
            self.counts.bytes_in_flight += size
        self.counts.received += len(batch)
        self.counts.reason = ""
        self._call(self._take, batch)

    def _call(self, function: Callable[..., None], *arguments: Any) -> None:
        """On the loop, soon."""
        try:
            self._loop.call_soon_threadsafe(function, *arguments)  # type: ignore[union-attr]  # set by start
        except RuntimeError:
            if not self._stopping.is_set():  # the loop was closed under a pump that nobody stopped
                self._stopping.set()
                log.error("group %s: the event loop is gone; nothing more is read", self._group)  # noqa: TRY400

    def _commit(self, *, wait: bool = False, only: Sequence[Progress[_Taken]] | None = None) -> None:
        """Tell the broker how far everything is done."""
        if self._transactions is not None:
            return  # they carry the positions
        with self._lock:
            chosen = list(self._progress.values()) if only is None else only
            positions = [(each, each.position()) for each in chosen]
        offsets = [
            TopicPartition(each.topic, each.partition, position)
            for each, position in positions
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
            progress = self._progress.get((each.topic, each.partition))
            if progress is not None:
                progress.committed = each.offset

    def _measure(self) -> None:
        """The lag of each partition; and whether a broker that was away is back."""
        with self._lock:
            positions = {key: each.position() for key, each in self._progress.items()}
        lag: dict[tuple[str, int], int] = {}
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
        with self._lock:
            for each in partitions:
                self._progress[each.topic, each.partition] = Progress(each.topic, each.partition)
        self.counts.rebalances += bool(partitions)
        if partitions:
            log.info("group %s: has %s", self._group, _listed(partitions))

    def _revoked(self, consumer: Any, partitions: Sequence[Any]) -> None:
        """Others get these: end what was begun, commit, forget the rest, which they will read."""
        self.counts.rebalances += bool(partitions)
        patience = self._drain_seconds if self._stopping.is_set() else self._settings.revoke_seconds
        mine = self._finish(partitions, patience)
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

    def _finish(self, partitions: Sequence[Any] | None, seconds: float) -> list[Progress[_Taken]]:
        """Begin nothing more of these partitions (None: of all), and wait for what was begun."""
        with self._lock:
            keys = set(self._progress) if partitions is None else {(each.topic, each.partition) for each in partitions}
            mine = [each for key, each in self._progress.items() if key in keys]
            for each in mine:
                each.closing = True
            self._waiting = True
            self._changed.wait_for(lambda: not any(each.running for each in mine), seconds)
            self._waiting = False
        return mine

    def _forget(self, partitions: Sequence[Any]) -> None:
        with self._lock:
            for each in partitions:
                gone = self._progress.pop((each.topic, each.partition), None)
                if gone is not None:
                    self._give_up(gone)
                self._paused.discard((each.topic, each.partition))
                self.counts.lag.pop((each.topic, each.partition), None)

    def _give_up(self, progress: Progress[_Taken]) -> None:
        """Nothing more of it is begun or sent. Called under the lock."""
        progress.closing = True
        for taken in progress.waiting():
            self.counts.dropped += 1
            self._free(taken)

    def _drain(self) -> None:
        """Before the consumer leaves: what was begun ends, and counts."""
        self._finish(None, self._drain_seconds)
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
        with self._lock:
            for each in self._progress.values():
                self._give_up(each)
            self._progress.clear()
            self._paused.clear()
            self.counts.lag = {}

    # -- exactly once --

    def _transact(self, transactions: Transactions) -> None:
        """Send what is answered without gaps, with the position behind it."""
        if self._broken:
            return
        with self._lock:
            parts = [(each, each.prefix()) for each in self._progress.values()]
        parts = [(each, prefix) for each, prefix in parts if prefix]
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
            self._stopping.wait(0.05)
            return
        except Lost as exc:
            self.counts.aborted += 1
            log.warning("group %s: a transaction ended unknown; what it held is read again: %s", self._group, exc)
            self._broken = str(exc)
            return
        self.counts.transactions += 1
        self.counts.sent += len(answers)
        with self._lock:
            for each, prefix in parts:
                offsets = [offset for offset, _ in prefix]
                each.settle(offsets)
                each.committed = offsets[-1] + 1
                self.counts.answered += len(offsets)
                for _, taken in prefix:
                    self._free(taken)

    def _too_large(
        self, parts: Sequence[tuple[Any, list[tuple[int, _Taken]]]], refused: dict[int, HeadraceError]
    ) -> None:
        """Answers that no broker will ever take become dead letters, and those are only said; the rest goes on."""
        for _, prefix in parts:
            for _, taken in prefix:
                wrong = next((refused[id(each)] for each in taken.answers if id(each) in refused), None)
                if wrong is not None:
                    if taken.buried:
                        log.error("%s", wrong)
                    taken.answers = () if taken.buried else tuple(self._bury(taken, wrong, 1))

    # -- the loop --

    def _take(self, batch: Sequence[_Taken]) -> None:
        lanes = self._lanes
        for taken in batch:
            if lanes and (lane := lanes.get(_lane(taken))) is not None:
                lane.append(taken)
            else:
                self._begin(taken)
        self._flush()

    def _begin(self, taken: _Taken) -> bool:
        """Answer a message, now or later; whether it is done with now, so that the next of its key may begin."""
        with self._lock:
            progress = taken.progress
            ours = not progress.closing
            progress.running += ours
        if not ours:
            self._drop(taken)
            return True
        try:
            started = self._start(self._handle(taken.record), self._loop)  # type: ignore[arg-type]  # set by start
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - the messages behind it go on
            return self._failed(taken, error)
        if isinstance(started, asyncio.Task):
            self._tasks.add(started)
            started.add_done_callback(partial(self._finished, taken))
            self._hold(taken)
            return False
        self._outbox.append((taken, started))
        return True

    def _finished(self, taken: _Taken, task: asyncio.Task[Sequence[Outgoing]]) -> None:
        self._tasks.discard(task)
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        if error is None:
            self._outbox.append((taken, task.result()))
        elif not self._failed(taken, error):
            return
        self._release(taken)

    def _failed(self, taken: _Taken, error: BaseException) -> bool:
        """Try again later, or give up; whether the message is done with now."""
        taken.attempts += 1
        if isinstance(error, asyncio.CancelledError):
            if self._stopping.is_set():
                self._end(taken, done=False)
                return True
            error = Temporary("the request was cancelled before it was answered")
        if not isinstance(error, Temporary) or taken.attempts > self._settings.retries:
            self._outbox.append((taken, self._bury(taken, error, taken.attempts)))
            return True
        self.counts.retried += 1
        self._hold(taken)
        with self._lock:
            taken.progress.running -= 1  # a partition that goes elsewhere does not wait for that
            self._changed.notify_all()
        self._call_later(pause(taken.attempts, self._first_pause), self._again, taken)
        return False

    def _again(self, taken: _Taken) -> None:
        if self._begin(taken):
            self._release(taken)

    def _call_later(self, seconds: float, function: Callable[..., None], *arguments: Any) -> None:
        def due() -> None:
            self._later.discard(timer)
            function(*arguments)

        timer = asyncio.get_running_loop().call_later(seconds, due)
        self._later.add(timer)

    def _hold(self, taken: _Taken) -> None:
        """Let messages of its key wait for it."""
        if taken.record.key is not None:
            self._lanes.setdefault(_lane(taken), deque())

    def _release(self, taken: _Taken) -> None:
        """Go on with the messages of its key."""
        lane = _lane(taken)
        waiting = self._lanes.get(lane)
        if waiting is not None:
            while waiting:
                if not self._begin(waiting.popleft()):
                    break
            else:
                del self._lanes[lane]
        if self._outbox and not self._is_flushing:
            self._is_flushing = True
            asyncio.get_running_loop().call_soon(self._flush)  # with what else ends in this turn

    def _flush(self) -> None:
        """Send what was answered."""
        self._is_flushing = False
        outbox, self._outbox = self._outbox, []
        size = 0
        for taken, answers in outbox:
            taken.left = len(answers)
            taken.is_answered = True
            for each in answers:
                more = len(each.value or b"")
                taken.size += more
                size += more
        with self._lock:
            self._unsafe += len(outbox)
            self.counts.bytes_in_flight += size
            if self._transactions is not None:
                for taken, answers in outbox:
                    taken.answers = answers
                    taken.progress.ready(taken.record.offset, taken)
                    taken.progress.running -= 1
            if self._waiting:
                self._changed.notify_all()
        if self._transactions is not None:
            return
        send = self.producer.send
        for taken, answers in outbox:
            for each in answers:
                send(each, partial(self._told, taken, each))
            if not answers:
                self._end(taken, done=True)

    def _drop(self, taken: _Taken) -> None:
        """It went elsewhere before it was begun."""
        self.counts.dropped += 1
        with self._lock:
            self._free(taken)

    def _bury(self, taken: _Taken, error: BaseException, attempts: int) -> list[Outgoing]:
        taken.buried = True
        return self._dead(taken.record, error, attempts=attempts)

    def _dead(self, record: Record, error: BaseException, *, attempts: int) -> list[Outgoing]:
        """The dead letter of a message, counted and said."""
        self.counts.dead += 1
        self._untold += 1
        now = time.monotonic()
        if now - self._told_at > _QUIET_SECONDS:
            where = f"{record.topic}[{record.partition}]@{record.offset}"
            more = f" (one of {self._untold})" if self._untold > 1 else ""
            known = isinstance(error, HeadraceError)
            log.warning(
                "%s is a dead letter%s: %s: %s",
                where,
                more,
                type(error).__name__,
                error,
                exc_info=None if known else error,
            )
            self._told_at, self._untold = now, 0
        if not self._dead_letters:
            return []
        return [dead_letters.of(record, error, topic=self._dead_letters, group=self._group, attempts=attempts)]

    def _told(self, taken: _Taken, outgoing: Outgoing, error: HeadraceError | None) -> None:
        """What became of an answer. From the producer's thread, once for each."""
        if error is None:
            self._safe.append(taken)
        else:
            self._call(self._unsent, taken, outgoing, error)

    def _settle(self) -> None:
        """Count what is safe, after a round of reports."""
        safe, counts = self._safe, self.counts
        with self._lock:
            while safe:
                taken = safe.popleft()
                counts.sent += 1
                taken.left -= 1
                if not taken.left:
                    counts.answered += 1
                    taken.progress.running -= 1
                    taken.progress.done(taken.record.offset)
                    self._free(taken)
            self._unsendable = ""
            if self._waiting:
                self._changed.notify_all()

    def _unsent(self, taken: _Taken, outgoing: Outgoing, error: HeadraceError) -> None:
        """An answer that the broker did not take: what can never be sent is given up, the rest is tried again."""
        if isinstance(error, TooLarge):
            letter = [] if taken.buried else self._bury(taken, error, 1)
            if letter:
                self._send(taken, letter[0])
                return
            log.error("%s", error)
            with self._lock:
                taken.left -= 1
                last = not taken.left
            if last:
                self._end(taken, done=True)
            return
        if self._stopping.is_set() or taken.progress.closing:
            with self._lock:
                first, taken.left = taken.left > 0, -1  # whatever else becomes of its answers
            if first:
                self._end(taken, done=False)
            return
        log.warning("%s", error)
        self._unsendable = str(error)
        taken.attempts += 1
        self._call_later(pause(taken.attempts, self._first_pause), self._send, taken, outgoing)

    def _send(self, taken: _Taken, outgoing: Outgoing) -> None:
        self.producer.send(outgoing, partial(self._told, taken, outgoing))

    def _end(self, taken: _Taken, *, done: bool) -> None:
        """Nobody works on it any more. With transactions it is done later, in its order."""
        with self._lock:
            taken.progress.running -= 1
            if done:
                taken.progress.done(taken.record.offset)
                self.counts.answered += 1
            self._free(taken)
            if self._waiting:
                self._changed.notify_all()

    def _free(self, taken: _Taken) -> None:
        """It is in flight no more. Called under the lock."""
        self.counts.in_flight -= 1
        self.counts.bytes_in_flight -= taken.size
        self._unsafe -= taken.is_answered

    # -- what the library tells --

    def _error(self, error: KafkaError) -> None:
        if error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - the library's name
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


def pause(attempt: int, first_seconds: float) -> float:
    """Seconds before the next try, after so many."""
    return float(min(_LONGEST_PAUSE_SECONDS, first_seconds * 3 ** (attempt - 1)))


def _in_a_task(
    coroutine: Coroutine[Any, Any, Sequence[Outgoing]], loop: asyncio.AbstractEventLoop
) -> asyncio.Task[Sequence[Outgoing]]:
    return loop.create_task(coroutine)


def _lane(taken: _Taken) -> tuple[int, bytes | None]:
    return id(taken.progress), taken.record.key


def _listed(partitions: Sequence[Any]) -> str:
    return ", ".join(f"{each.topic}[{each.partition}]" for each in partitions) or "nothing"
