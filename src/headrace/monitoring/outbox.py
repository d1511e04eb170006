"""What is sent later, by threads of its own, until it arrived. `actions` and `payloads` put things in.

Bounded in items and bytes: what comes when it is full is dropped and counted. What fails for now is tried again with
exponential back-off and jitter until its deadline. With a spool or a backlog, what was taken is on disk before `put`
returns, and is sent after a kill by whoever opens the same folder next: at least once, and of a spool once for a
receiver that heeds the key. A spool is for the few that matter most, a backlog for many: bodies stay on disk, not in
memory, until they are sent.
"""

from __future__ import annotations

import contextlib
import hashlib
import heapq
import itertools
import logging
import math
import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec

from headrace.errors import HeadraceError, Overloaded, SettingsError, Temporary
from headrace.monitoring import folders
from headrace.monitoring.backlog import Backlog, Place

log = logging.getLogger(__name__)

FIRST_DELAY: Final = 0.5
LONGEST_DELAY: Final = 60.0
LONGEST_PAUSE: Final = 5.0
"""Of all items, while the other side fails one after the other; one that only fails for some holds up no other."""
_BYTES_AT_ONCE: Final = 8 << 20
_KEYS_KEPT: Final = 4096
_SAY_SECONDS: Final = 1.0
_RANDOM: Final = random.SystemRandom()


class Item(msgspec.Struct, frozen=True, kw_only=True):
    """One thing to be sent."""

    key: str
    """One item of a key is taken, and with a spool sent, once. Empty: it is like no other."""
    body: bytes
    accepted_at: float = 0.0
    """Seconds since the epoch; set by the outbox."""


class Counts(msgspec.Struct):
    """What became of items."""

    sent: int = 0
    failed: int = 0
    """Given up: for good, or at the deadline."""
    dropped: int = 0
    """Not taken, or not sent before the end."""
    retried: int = 0


class _Entry(msgspec.Struct):
    item: Item
    """Without its body where that is at a place."""
    place: Place | None = None
    attempts: int = 0


Deliver = Callable[[Item], None]
DeliverMany = Callable[[Sequence[Item]], Sequence[HeadraceError | None]]


def delay(attempts: int, *, first: float = FIRST_DELAY, longest: float = LONGEST_DELAY, share: float = 1.0) -> float:
    """Seconds until the next attempt: doubled each time, and between half and all of that.

    Args:
        attempts: That failed, at least 1.
        first: Of the first, at most.
        longest: Of any.
        share: From 0 to 1, drawn at random, so that senders do not come back together.
    """
    most = min(first * 2.0 ** min(attempts - 1, 32), longest)
    return most * (0.5 + 0.5 * share)


class Outbox:
    """A bounded queue and the threads that empty it.

    Args:
        name: For messages and the threads.
        deliver: Sends one; raises `Temporary` where another try may help, another HeadraceError where none will.
        most_items: That wait.
        most_bytes: Of their bodies, in memory.
        deadline_seconds: From taking to giving up.
        threads: That send at the same time.
        spool: Where items survive; None: nowhere, but for a backlog.
        backlog: Where items survive, instead.
        deliver_many: Sends several at once, and gives what `deliver` would have raised for each; None: one by one.
        most_at_once: That it is given.
        first_delay: Of the back-off.
    """

    def __init__(
        self,
        name: str,
        deliver: Deliver,
        *,
        most_items: int,
        most_bytes: int,
        deadline_seconds: float,
        threads: int = 1,
        spool: Path | None = None,
        backlog: Backlog | None = None,
        deliver_many: DeliverMany | None = None,
        most_at_once: int = 1,
        first_delay: float = FIRST_DELAY,
    ) -> None:
        self._name, self._deliver = name, deliver
        self._most_items, self._most_bytes, self._deadline = most_items, most_bytes, deadline_seconds
        self._spool = None if spool is None else Spool(spool)
        self._backlog = backlog
        self._deliver_many = deliver_many
        self._most_at_once = most_at_once if deliver_many is not None else 1
        self._first_delay = first_delay
        self._changed = threading.Condition()
        self._due: list[tuple[float, int, _Entry]] = []
        self._keys: set[str] = set()
        self._numbers = itertools.count()
        self._bytes = 0
        self._in_flight = 0
        self._failures = 0  # one after the other
        self._paused_until = 0.0
        self._ending = False
        self._is_closed = False
        self._said_at = -math.inf
        self._unsaid = 0
        self._stop_at = math.inf
        self._threads = [
            threading.Thread(target=self._run, name=f"{name}-{number}", daemon=True) for number in range(threads)
        ]
        self.counts = Counts()

    def __repr__(self) -> str:
        return f"Outbox({self._name}, {self.waiting} waiting, {self.counts})"

    @property
    def waiting(self) -> int:
        """Items that were taken and have not arrived."""
        return len(self._due) + self._in_flight

    def open(self) -> None:
        """Take up what the spool or the backlog has, and start to send.

        Raises:
            SettingsError: its folder cannot be used.
        """
        if self._spool is not None:
            for item in self._spool.open():
                self._add(_Entry(item))
        if self._backlog is not None:
            for place in self._backlog.open():
                self._add(_Entry(Item(key="", body=b"", accepted_at=place.time), place))
        for thread in self._threads:
            thread.start()

    def put(self, item: Item) -> bool:
        """Take an item, or drop it where too much waits. One whose key is known is taken already."""
        with self._changed:
            if item.key and (item.key in self._keys or (self._spool is not None and self._spool.is_sent(item.key))):
                return True
            if self._ending or len(self._due) >= self._most_items or self._bytes + len(item.body) > self._most_bytes:
                self.counts.dropped += 1
                return False
            entry = _Entry(msgspec.structs.replace(item, accepted_at=time.time()))
            try:
                if self._spool is not None:
                    self._spool.keep(entry.item)
                if self._backlog is not None and not self._set_aside(entry, self._backlog):
                    self.counts.dropped += 1
                    return False
            except OSError as exc:
                # it is sent all the same; only a kill now would lose it
                self._say(logging.WARNING, f"{item.key or 'an item'} cannot be kept on disk: {_told(exc)}")
            self._add(entry)
            self._changed.notify()
        return True

    @staticmethod
    def _set_aside(entry: _Entry, backlog: Backlog) -> bool:
        """Put the body on disk, out of memory; whether there was room."""
        entry.place = backlog.put(entry.item.body, entry.item.accepted_at)
        if entry.place is None:
            return False
        entry.item = msgspec.structs.replace(entry.item, body=b"")
        return True

    def _add(self, entry: _Entry) -> None:
        heapq.heappush(self._due, (time.monotonic(), next(self._numbers), entry))
        self._bytes += len(entry.item.body)
        if entry.item.key:
            self._keys.add(entry.item.key)

    def settle(self, timeout_seconds: float) -> bool:
        """Wait until nothing waits, and say whether that came to be."""
        with self._changed:
            return self._changed.wait_for(lambda: not self.waiting, timeout_seconds)

    def close(self, grace_seconds: float) -> None:
        """Send what can be sent within the grace, then stop. The rest stays on disk, or is counted as dropped."""
        with self._changed:
            self._ending = True
            self._stop_at = time.monotonic() + grace_seconds
            self._changed.notify_all()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(max(self._stop_at - time.monotonic(), 0) + 0.1)
        with self._changed:
            self._is_closed = True
            if self._spool is None:
                in_memory = sum(entry.place is None for _, _, entry in self._due)
                self.counts.dropped += in_memory + (self._in_flight if self._backlog is None else 0)
            self._due.clear()
            if self._backlog is not None:
                self._backlog.close()
        if self._spool is not None:
            self._spool.close()

    def _run(self) -> None:
        while entries := self._next():
            items = [item for _, item in entries]
            failures = self._send(items)
            is_new = True  # of all that fail at once, one counts for the pause
            for (entry, _), failure in zip(entries, failures, strict=True):
                if failure is None:
                    self._end(entry, sent=True)
                elif isinstance(failure, Temporary):
                    self._again(entry, failure, is_new=is_new)
                    is_new = False
                else:
                    self._give_up(entry, str(failure))

    def _send(self, items: Sequence[Item]) -> Sequence[HeadraceError | None]:
        try:
            if self._deliver_many is not None and len(items) > 1:
                return self._deliver_many(items)
            self._deliver(items[0])
        except HeadraceError as exc:
            return [exc] * len(items)
        except Exception as exc:  # whatever a sink's library raises: these fail, the next are sent
            log.exception("%s: %s cannot be sent", self._name, items[0].key or "an item")
            return [HeadraceError(str(exc))] * len(items)
        return [None]

    def _next(self) -> list[tuple[_Entry, Item]]:
        """What is due, with bodies; none: it is over."""
        with self._changed:
            while True:
                now = time.monotonic()
                if now >= self._stop_at or (self._ending and not self._due):
                    return []
                if self._due:
                    ready = max(self._due[0][0], self._paused_until)
                    if ready <= now:
                        if taken := self._taken(now):
                            return taken
                        continue
                    self._changed.wait(min(ready, self._stop_at) - now)
                else:
                    self._changed.wait()

    def _taken(self, now: float) -> list[tuple[_Entry, Item]]:
        taken: list[tuple[_Entry, Item]] = []
        size = 0
        while self._due and self._due[0][0] <= now and len(taken) < self._most_at_once and size < _BYTES_AT_ONCE:
            _, _, entry = heapq.heappop(self._due)
            item = entry.item
            if entry.place is not None and self._backlog is not None:
                try:
                    item = msgspec.structs.replace(item, body=self._backlog.read(entry.place))
                except OSError as exc:
                    self._in_flight += 1
                    self._give_up(entry, f"it cannot be read: {_told(exc)}")
                    continue
            taken.append((entry, item))
            size += len(item.body)
        self._in_flight += len(taken)
        return taken

    def _again(self, entry: _Entry, error: Temporary, *, is_new: bool) -> None:
        entry.attempts += 1
        wait = delay(entry.attempts, first=self._first_delay, share=_RANDOM.random())
        if isinstance(error, Overloaded):
            wait = max(wait, error.retry_after_seconds)
        if time.time() + wait > entry.item.accepted_at + self._deadline:
            self._give_up(entry, f"{error}; given up after {entry.attempts} tries")
            return
        with self._changed:
            self.counts.retried += 1
            self._failures += is_new
            pause = delay(self._failures, first=self._first_delay, longest=LONGEST_PAUSE, share=_RANDOM.random())
            now = time.monotonic()
            self._paused_until = now + min(pause, wait)
            self._in_flight -= 1
            heapq.heappush(self._due, (now + wait, next(self._numbers), entry))
            self._changed.notify()
        if entry.attempts == 1:
            self._say(logging.WARNING, f"not sent yet: {error}")

    def _give_up(self, entry: _Entry, why: str) -> None:
        self._say(logging.ERROR, f"{entry.item.key or 'an item'} failed: {why}")
        self._end(entry, sent=False)

    def _say(self, level: int, text: str) -> None:
        """A line in the log, at most one a second: a receiver that refuses all is not told of thousands of times."""
        with self._changed:
            now = time.monotonic()
            if now - self._said_at < _SAY_SECONDS:
                self._unsaid += 1
                return
            more = f" (and {self._unsaid} more like it)" if self._unsaid else ""
            self._said_at, self._unsaid = now, 0
        log.log(level, "%s: %s%s", self._name, text, more)

    def _end(self, entry: _Entry, *, sent: bool) -> None:
        if self._spool is not None:
            try:
                self._spool.done(entry.item)
            except OSError as exc:
                log.warning("%s: %s may be sent again: %s", self._name, entry.item.key, exc.strerror or exc)
        with self._changed:
            if self._is_closed:  # too late for the grace: without a spool it was counted as dropped
                return
            if entry.place is not None and self._backlog is not None:
                try:
                    self._backlog.end(entry.place)
                except OSError as exc:
                    self._say(logging.WARNING, f"an item may be sent again: {_told(exc)}")
            self._in_flight -= 1
            self._bytes -= len(entry.item.body)
            self._keys.discard(entry.item.key)
            if sent:
                self.counts.sent += 1
                self._failures, self._paused_until = 0, 0.0
            else:
                self.counts.failed += 1
            self._changed.notify_all()


class Spool:
    """Items as files, one each, in a folder that one process has at a time.

        FOLDER/0/lock            held by the process that uses it
        FOLDER/0/KEY.json        an item that was taken and has not arrived
        FOLDER/0/sent.txt        keys of the last that arrived

    Two servers with one folder use `0` and `1`; what a dead one left, the next that starts takes over.
    """

    def __init__(self, folder: Path) -> None:
        self._root = folder
        self._folder = folder
        self._lock = -1
        self._sent: dict[str, None] = {}

    def open(self) -> list[Item]:
        """Lock a folder, and give what waits in it, the oldest first."""
        try:
            return self._open()
        except OSError as exc:
            raise SettingsError(f"trust.state: {self._root} cannot be used: {exc.strerror or exc}") from exc

    def _open(self) -> list[Item]:
        self._folder, self._lock = folders.own(self._root, setting="trust.state")
        for folder in folders.left(self._folder):
            for path in folder.glob("*.json"):
                path.replace(self._folder / path.name)
        for path in self._folder.glob("*.part"):
            path.unlink()
        with contextlib.suppress(FileNotFoundError):
            self._sent = dict.fromkeys((self._folder / "sent.txt").read_text().split()[-_KEYS_KEPT:])
            (self._folder / "sent.txt").write_text("".join(f"{key}\n" for key in self._sent))
        return sorted(self._waiting(), key=lambda item: item.accepted_at)

    def _waiting(self) -> Iterator[Item]:
        for path in self._folder.glob("*.json"):
            try:
                item = msgspec.json.decode(path.read_bytes(), type=Item)
            except ValueError:
                log.warning("%s is no item; it is put aside", path)
                path.replace(path.with_suffix(".unreadable"))
                continue
            if _name(item.key) in self._sent:
                path.unlink()
            else:
                yield item

    def keep(self, item: Item) -> None:
        """Write it, so that a kill or a power cut does not lose it."""
        path = self._folder / f"{_name(item.key)}.json"
        part = path.with_suffix(".part")
        with part.open("wb") as file:
            file.write(msgspec.json.encode(item))
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        folder = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def is_sent(self, key: str) -> bool:
        """Whether one of this key arrived, or was given up, not long ago."""
        return _name(key) in self._sent

    def done(self, item: Item) -> None:
        """Remember the key, then forget the item."""
        name = _name(item.key)
        self._sent[name] = None
        if len(self._sent) > _KEYS_KEPT:
            del self._sent[next(iter(self._sent))]
        with (self._folder / "sent.txt").open("a") as file:
            file.write(f"{name}\n")
        (self._folder / f"{name}.json").unlink(missing_ok=True)

    def close(self) -> None:
        """Let the next process have the folder."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def _told(error: OSError) -> str:
    return error.strerror or str(error)


def _name(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()[:32]
