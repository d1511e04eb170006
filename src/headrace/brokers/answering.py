"""The half of a pump that runs on the event loop: begins messages in order by key, tries again what may succeed later,
makes dead letters of what cannot be answered, and sends the answers. `pump` hands it what was read.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any, Final

from headrace.brokers import dead_letters
from headrace.brokers.base import Outgoing, Record
from headrace.brokers.counts import PumpCounts
from headrace.brokers.flight import Flight, Taken
from headrace.brokers.producer import Producer
from headrace.brokers.settings import KafkaSettings
from headrace.errors import HeadraceError, Temporary, TooLarge

log = logging.getLogger(__name__)
Handle = Callable[[Record], Coroutine[Any, Any, Sequence[Outgoing]]]
Started = Sequence[Outgoing] | asyncio.Task[Sequence[Outgoing]]
Start = Callable[[Coroutine[Any, Any, Sequence[Outgoing]], asyncio.AbstractEventLoop], Started]

_LONGEST_PAUSE_SECONDS: Final = 30.0
_QUIET_SECONDS: Final = 1.0
"""Between two log lines on dead letters."""


class Answering:
    """Of one pump: `open`, then `hand_over` from its thread, then `close`.

    Args:
        settings: Of the connection, and how often to try again. With `exactly-once`, answers are not sent: they wait in
            the flight for the thread, which sends them in order.
        flight: What was taken; it is told what becomes of it.
        counts: Where to count.
        handle: Answers a message (see `Pump`).
        group: Whose member this is.
        dead_letter_topic: Empty: they are logged and counted only.
        first_pause_seconds: Before the first further try; each next is three times longer, up to 30 s.
        start: Begins the coroutine of `handle`; None: each has a task.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        flight: Flight,
        counts: PumpCounts,
        *,
        handle: Handle,
        group: str,
        dead_letter_topic: str,
        first_pause_seconds: float,
        start: Start | None,
    ) -> None:
        self._settings, self._flight, self._counts, self._handle = settings, flight, counts, handle
        self._group, self._dead_letters = group, dead_letter_topic
        self._first_pause = first_pause_seconds
        self._start = start if start is not None else _in_a_task
        self._in_order = settings.delivery == "exactly-once"
        self.producer = Producer(settings, reported=self._settle)
        self.reason = ""
        """Why answers cannot be sent now; empty: they can."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lanes: dict[tuple[int, bytes | None], deque[Taken]] = {}
        """Messages that wait for one of their key, by partition and key, while that one is being answered."""
        self._tasks: set[asyncio.Task[Sequence[Outgoing]]] = set()
        self._later: set[asyncio.TimerHandle] = set()
        self._outbox: list[tuple[Taken, Sequence[Outgoing]]] = []
        """What was answered in this turn of the loop, in the order in which it is sent."""
        self._is_flushing = False
        self._reports: deque[Taken] = deque()
        """One entry for each answer that the broker has, until `_settle` counts it."""
        self._told_at, self._untold = 0.0, 0

    def open(self) -> None:
        """Take the running loop, and make the producer.

        Raises:
            SettingsError: no client can be made of these settings.
        """
        self._loop = asyncio.get_running_loop()
        self.producer.start()

    async def close(self, seconds: float) -> None:
        """End what is still being answered, and send what is answered for at most so long."""
        for timer in self._later:
            timer.cancel()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._flush()
        await asyncio.to_thread(self.producer.close, seconds)

    def hand_over(self, batch: Sequence[Taken]) -> None:
        """These were read. From the pump's thread."""
        self._call(self._take, batch)

    def _call(self, function: Callable[..., None], *arguments: Any) -> None:
        """On the loop, soon."""
        try:
            self._loop.call_soon_threadsafe(function, *arguments)  # type: ignore[union-attr]  # set by open
        except RuntimeError:
            if not self._flight.closed.is_set():  # the loop was closed under a pump that nobody stopped
                self._flight.close()
                # The error says nothing more than that.
                log.error("group %s: the event loop is gone; nothing more is read", self._group)  # noqa: TRY400

    # -- on the loop --

    def _take(self, batch: Sequence[Taken]) -> None:
        lanes = self._lanes
        for taken in batch:
            if lanes and (lane := lanes.get(_lane(taken))) is not None:
                lane.append(taken)
            else:
                self._begin(taken)
        self._flush()

    def _begin(self, taken: Taken) -> bool:
        """Answer a message, now or later; whether it is done with now, so that the next of its key may begin."""
        if not self._flight.begin(taken):
            return True
        try:
            started = self._start(self._handle(taken.record), self._loop)  # type: ignore[arg-type]  # set by open
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - the messages behind it go on
            return self._failed(taken, error)
        if isinstance(started, asyncio.Task):
            self._tasks.add(started)
            started.add_done_callback(partial(self._finished, taken))
            self._hold(taken)
            return False
        self._outbox.append((taken, started))
        return True

    def _finished(self, taken: Taken, task: asyncio.Task[Sequence[Outgoing]]) -> None:
        self._tasks.discard(task)
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        if error is None:
            self._outbox.append((taken, task.result()))
        elif not self._failed(taken, error):
            return
        self._release(taken)

    def _failed(self, taken: Taken, error: BaseException) -> bool:
        """Try again later, or give up; whether the message is done with now."""
        taken.attempts += 1
        if isinstance(error, asyncio.CancelledError):
            if self._flight.closed.is_set():
                self._flight.end(taken, done=False)
                return True
            error = Temporary("the request was cancelled before it was answered")
        if not isinstance(error, Temporary) or taken.attempts > self._settings.retries:
            self._outbox.append((taken, self.bury(taken, error, taken.attempts)))
            return True
        self._counts.retried += 1
        self._hold(taken)
        self._flight.rest(taken)
        self._call_later(pause(taken.attempts, self._first_pause), self._again, taken)
        return False

    def _again(self, taken: Taken) -> None:
        if self._begin(taken):
            self._release(taken)

    def _call_later(self, seconds: float, function: Callable[..., None], *arguments: Any) -> None:
        def due() -> None:
            self._later.discard(timer)
            function(*arguments)

        timer = asyncio.get_running_loop().call_later(seconds, due)
        self._later.add(timer)

    def _hold(self, taken: Taken) -> None:
        """Let messages of its key wait for it."""
        if taken.record.key is not None:
            self._lanes.setdefault(_lane(taken), deque())

    def _release(self, taken: Taken) -> None:
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
        if not outbox:
            return
        self._flight.answered(outbox, in_order=self._in_order)
        if self._in_order:
            return
        send = self.producer.send
        for taken, answers in outbox:
            for each in answers:
                send(each, partial(self._told, taken, each))
            if not answers:
                self._flight.end(taken, done=True)

    def bury(self, taken: Taken, error: BaseException, attempts: int) -> list[Outgoing]:
        """The dead letter of a message, if there is a topic for it."""
        taken.buried = True
        return self._dead(taken.record, error, attempts=attempts)

    def _dead(self, record: Record, error: BaseException, *, attempts: int) -> list[Outgoing]:
        """The dead letter of a message, counted and said."""
        self._counts.dead += 1
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

    def _told(self, taken: Taken, outgoing: Outgoing, error: HeadraceError | None) -> None:
        """What became of an answer. From the producer's thread, once for each."""
        if error is None:
            self._reports.append(taken)
        else:
            self._call(self._unsent, taken, outgoing, error)

    def _settle(self) -> None:
        """Count what is safe, after a round of reports. From the producer's thread."""
        self._flight.safe(self._reports)
        self.reason = ""

    def _unsent(self, taken: Taken, outgoing: Outgoing, error: HeadraceError) -> None:
        """An answer that the broker did not take: what can never be sent is given up, the rest is tried again."""
        if isinstance(error, TooLarge):
            letter = [] if taken.buried else self.bury(taken, error, 1)
            if letter:
                self._send(taken, letter[0])
                return
            log.error("%s", error)
            if self._flight.given_up(taken, all_of_it=False):
                self._flight.end(taken, done=True)
            return
        if self._flight.closed.is_set() or taken.progress.closing:
            if self._flight.given_up(taken, all_of_it=True):
                self._flight.end(taken, done=False)
            return
        log.warning("%s", error)
        self.reason = str(error)
        taken.attempts += 1
        self._call_later(pause(taken.attempts, self._first_pause), self._send, taken, outgoing)

    def _send(self, taken: Taken, outgoing: Outgoing) -> None:
        self.producer.send(outgoing, partial(self._told, taken, outgoing))


def pause(attempt: int, first_seconds: float) -> float:
    """Seconds before the next try, after so many."""
    return min(_LONGEST_PAUSE_SECONDS, first_seconds * 3.0 ** min(attempt - 1, 20))  # it may go on for days


def _in_a_task(
    coroutine: Coroutine[Any, Any, Sequence[Outgoing]], loop: asyncio.AbstractEventLoop
) -> asyncio.Task[Sequence[Outgoing]]:
    return loop.create_task(coroutine)


def _lane(taken: Taken) -> tuple[int, bytes | None]:
    return id(taken.progress), taken.record.key
