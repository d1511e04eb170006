"""How far a partition is done: the position to commit is the lowest message that is not. Pure; the pump calls it."""

from __future__ import annotations

from typing import Generic, TypeVar

T = TypeVar("T")


class Progress(Generic[T]):
    """Of one partition, from its assignment to its loss. Messages are taken in order and done in any order."""

    __slots__ = ("_open", "_ready", "closing", "committed", "next", "partition", "running", "topic")

    def __init__(self, topic: str, partition: int) -> None:
        self.topic, self.partition = topic, partition
        self._open: dict[int, None] = {}
        self._ready: dict[int, T] = {}
        self.next: int | None = None
        """After the last message taken; None: none was."""
        self.committed: int | None = None
        """The position that the broker has from us; None: none."""
        self.running = 0
        """Messages that somebody works on."""
        self.closing = False
        """The partition goes elsewhere: nothing more of it is begun."""

    def take(self, offset: int) -> None:
        """A message was read. Offsets may have gaps (compaction, transactions)."""
        self._open[offset] = None
        self.next = offset + 1

    def done(self, offset: int) -> None:
        """It needs nothing more."""
        self._open.pop(offset, None)

    def ready(self, offset: int, answers: T) -> None:
        """It is answered, and the answers wait for those of all messages before it."""
        self._ready[offset] = answers

    def prefix(self) -> list[tuple[int, T]]:
        """What may be sent in order: the answered messages before the first that is not."""
        found = []
        for offset in self._open:
            if offset not in self._ready:
                break
            found.append((offset, self._ready[offset]))
        return found

    @property
    def is_ready(self) -> bool:
        """Whether `prefix` has anything."""
        return bool(self._ready) and next(iter(self._open)) in self._ready

    def waiting(self) -> list[T]:
        """All that is answered and was not sent."""
        return list(self._ready.values())

    def settle(self, offsets: list[int]) -> None:
        """Those of the prefix that were sent."""
        for offset in offsets:
            del self._open[offset]
            del self._ready[offset]

    def position(self) -> int | None:
        """What to commit: where somebody else would have to go on; None: nothing was read."""
        return next(iter(self._open), self.next)

    @property
    def open(self) -> int:
        """How many messages are not done."""
        return len(self._open)
