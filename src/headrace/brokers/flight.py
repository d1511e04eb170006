"""What a pump has taken and is not done with, by partition. The pump's thread, its event loop and the producer's thread
share it, under one lock.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Collection, Iterable, Sequence
from typing import Final

import msgspec

from headrace.brokers.base import Outgoing, Record
from headrace.brokers.counts import PumpCounts
from headrace.brokers.progress import Progress
from headrace.brokers.settings import KafkaSettings

Place = tuple[str, int]
"""A topic, and the number of one of its partitions."""

_UNSENT: Final = 10
"""For each message that may be being answered, so many whose answers are on their way to the broker."""


class Taken(msgspec.Struct, eq=False):
    """A message on its way through the pump."""

    record: Record
    progress: Progress[Taken]
    size: int
    """Bytes of its value and key, and of its answers."""
    answers: Sequence[Outgoing] = ()
    """With transactions: what waits to be sent in order."""
    left: int = 0
    """Answers that are not safe yet."""
    attempts: int = 0
    """Tries that failed."""
    is_answered: bool = False
    buried: bool = False
    """Its answer is its dead letter."""


class Flight:
    """The messages between a read and a commit.

    Args:
        settings: How many there may be, and of how many bytes.
        counts: Where to count.
    """

    def __init__(self, settings: KafkaSettings, counts: PumpCounts) -> None:
        self._settings, self._counts = settings, counts
        self._changed = threading.Condition(threading.Lock())
        self._parts: dict[Place, Progress[Taken]] = {}
        self._unsafe = 0
        """Messages that are answered, and whose answers the broker does not have yet."""
        self.closed = threading.Event()
        """Nothing more is taken."""

    # -- partitions: the pump's thread alone changes which there are --

    @property
    def places(self) -> list[Place]:
        """The partitions that this member has."""
        with self._changed:
            return sorted(self._parts)

    def part(self, place: Place) -> Progress[Taken] | None:
        """Of a partition; None: it is another member's. For the pump's thread."""
        return self._parts.get(place)

    def add(self, places: Iterable[Place]) -> None:
        """These are this member's from now on."""
        with self._changed:
            for place in places:
                self._parts[place] = Progress(*place)

    def remove(self, places: Collection[Place] | None = None) -> None:
        """These (None: all) are no longer: whatever is left of them is somebody else's."""
        with self._changed:
            for place in list(self._parts) if places is None else places:
                gone = self._parts.pop(place, None)
                if gone is not None:
                    gone.closing = True
                    for taken in gone.waiting():
                        self._counts.dropped += 1
                        self._free(taken)
                self._counts.lag.pop(place, None)

    def finish(self, places: Collection[Place] | None, seconds: float) -> list[Progress[Taken]]:
        """Let nothing more of these partitions (None: of all) begin, and wait for what was begun."""
        with self._changed:
            mine = [each for place, each in self._parts.items() if places is None or place in places]
            for each in mine:
                each.closing = True
            self._changed.wait_for(lambda: not any(each.running for each in mine), seconds)
        return mine

    def positions(self, only: Sequence[Progress[Taken]] | None = None) -> list[tuple[Progress[Taken], int | None]]:
        """Where somebody else would have to go on; None: nothing was read."""
        with self._changed:
            return [(each, each.position()) for each in (self._parts.values() if only is None else only)]

    # -- room --

    def close(self) -> None:
        """Nothing more is to be taken: whoever waits for room waits no more."""
        with self._changed:
            self.closed.set()
            self._changed.notify_all()

    def room(self) -> int:
        """How many messages may be taken; 0: none."""
        with self._changed:
            return max(0, self._room())

    def wait_for_room(self, seconds: float) -> None:
        """Return once there is room for many, or something to send in order, or so much later. By ones, the threads
        would only wake each other.
        """
        enough = max(1, min(self._settings.batch_messages, self._settings.max_in_flight) // 4)

        def go_on() -> bool:
            return self.closed.is_set() or self._room() >= enough or any(each.is_ready for each in self._parts.values())

        with self._changed:
            if self._room() <= 0:
                self._changed.wait_for(go_on, seconds)

    def _room(self) -> int:
        settings, counts = self._settings, self._counts
        if self.closed.is_set() or counts.bytes_in_flight >= settings.max_in_flight_bytes:
            return 0
        if counts.in_flight >= settings.max_in_flight * _UNSENT:
            return 0
        return settings.max_in_flight - counts.in_flight + self._unsafe

    # -- messages --

    def take(self, batch: Sequence[Taken]) -> None:
        """These were read, in this order."""
        size = 0
        with self._changed:
            for taken in batch:
                taken.progress.take(taken.record.offset)
                size += taken.size
            self._counts.in_flight += len(batch)
            self._counts.bytes_in_flight += size
        self._counts.received += len(batch)

    def begin(self, taken: Taken) -> bool:
        """Somebody works on it from now on; False: its partition goes elsewhere, and it with it."""
        with self._changed:
            progress = taken.progress
            if not progress.closing:
                progress.running += 1
                return True
            self._counts.dropped += 1
            self._free(taken)
            return False

    def rest(self, taken: Taken) -> None:
        """Nobody works on it until its next try: a partition that goes elsewhere does not wait for that."""
        with self._changed:
            taken.progress.running -= 1
            self._changed.notify_all()

    def answered(self, outbox: Sequence[tuple[Taken, Sequence[Outgoing]]], *, in_order: bool) -> None:
        """These are answered. `in_order`: their answers wait for those of all messages before them."""
        size = 0
        for taken, answers in outbox:
            more = 0
            for each in answers:
                more += len(each.value or b"")
            taken.left, taken.is_answered = len(answers), True
            taken.size += more
            size += more
        with self._changed:
            self._unsafe += len(outbox)
            self._counts.bytes_in_flight += size
            if in_order:
                for taken, answers in outbox:
                    taken.answers = answers
                    taken.progress.ready(taken.record.offset, taken)
                    taken.progress.running -= 1
            self._changed.notify_all()

    def safe(self, reports: deque[Taken]) -> None:
        """The broker has an answer of each of these; they are taken off, one entry for each answer."""
        with self._changed:
            while reports:
                taken = reports.popleft()
                self._counts.sent += 1
                taken.left -= 1
                if not taken.left:
                    self._done(taken)
            self._changed.notify_all()

    def given_up(self, taken: Taken, *, all_of_it: bool) -> bool:
        """An answer of it (or `all_of_it`) will never be safe; whether that was the first such, or the last left."""
        with self._changed:
            if all_of_it:
                first, taken.left = taken.left > 0, -1
                return first
            taken.left -= 1
            return not taken.left

    def end(self, taken: Taken, *, done: bool) -> None:
        """Nobody works on it any more, and (`done`) nobody has to."""
        with self._changed:
            if done:
                self._done(taken)
            else:
                taken.progress.running -= 1
                self._free(taken)
            self._changed.notify_all()

    def prefixes(self) -> list[tuple[Progress[Taken], list[tuple[int, Taken]]]]:
        """What is answered without gaps, by partition."""
        with self._changed:
            parts = [(each, each.prefix()) for each in self._parts.values()]
        return [(each, prefix) for each, prefix in parts if prefix]

    def settle(self, parts: Iterable[tuple[Progress[Taken], list[tuple[int, Taken]]]]) -> None:
        """The broker has the answers of these, and the positions behind them."""
        with self._changed:
            for each, prefix in parts:
                offsets = [offset for offset, _ in prefix]
                each.settle(offsets)
                each.committed = offsets[-1] + 1
                self._counts.answered += len(offsets)
                for _, taken in prefix:
                    self._free(taken)

    def _done(self, taken: Taken) -> None:
        progress = taken.progress
        progress.running -= 1
        progress.done(taken.record.offset)
        self._counts.answered += 1
        self._free(taken)

    def _free(self, taken: Taken) -> None:
        """It is in flight no more."""
        counts = self._counts
        counts.in_flight -= 1
        counts.bytes_in_flight -= taken.size
        self._unsafe -= taken.is_answered
