"""The loop of batch on upload: what is heard goes into the ledger, what is in the ledger is answered once.

    event, poll -> ledger -> look at the object -> claim it -> answer it -> output -> ledger

Nobody is believed: an event only makes us look, and what is there is what counts. The order is such that a kill at any
moment costs work and never a result: an event is acknowledged when the ledger has it, the ledger says done when the
output stands, and an output is written whole or not at all, under a name that only its input decides.
"""

from __future__ import annotations

import functools
import logging
import math
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Final, Literal, Protocol

import msgspec

from headrace.artifacts import objects as objects_
from headrace.artifacts import uri as uri_
from headrace.artifacts.base import ObjectInfo, Objects
from headrace.artifacts.settings import ArtifactSettings
from headrace.errors import (
    ArtifactFailed,
    ArtifactNotFound,
    ArtifactUnreachable,
    Conflict,
    HeadraceError,
    InvalidRequest,
    SettingsError,
    Temporary,
)
from headrace.lifecycle.batch.base import Format, Outcome
from headrace.lifecycle.watch import events, places
from headrace.lifecycle.watch.claims import Busy, Claim, Claims, Held
from headrace.lifecycle.watch.events import ObjectCreated, Parsed
from headrace.lifecycle.watch.ledger import Ledger, Row, State
from headrace.lifecycle.watch.places import OWN
from headrace.payload import EMPTY

log = logging.getLogger(__name__)

Answer = Callable[[ObjectInfo, str, threading.Event], Outcome]
"""Answers one object: what it is, the uri of its output, and what tells it to stop at once. It writes the output whole
or not at all, and finds by itself that it has been written already. Raises `Stopped`, or any HeadraceError."""

_CHUNK: Final = 1000
_LONGEST_BACK_OFF_SECONDS: Final = 300.0
_LONGEST_AWAY_SECONDS: Final = 30.0
"""Before another look at a store that is away when the watcher begins."""
_IDLE_SECONDS: Final = 1.0
"""How often an idle watcher looks into its ledger: another process may have added to it."""
_TICK_SECONDS: Final = 0.1
_SETTLED_SECONDS: Final = 2.0
_RECOVER_SECONDS: Final = 10.0


class Stopped(Exception):
    """An answer was told to stop, and did."""


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What is watched, and how."""

    inputs: tuple[str, ...]
    """Buckets, prefixes and folders, or globs."""
    output: str
    """A bucket, prefix or folder."""
    name: str = "{path}"
    """Of each output, below it."""
    output_format: Format | Literal["auto"] = "auto"
    start: Literal["earliest", "latest"] = "earliest"
    """`latest`: a watcher with a new ledger leaves alone what is there already."""
    concurrency: int = 1
    """Objects that are answered at the same time."""
    retries: int = 5
    """Further tries of an object that failed; then it is dead."""
    poll_seconds: float = 30.0
    """How often the inputs are listed; 0: never."""
    settle_seconds: float = _SETTLED_SECONDS
    """A file of a folder is left alone until it was not written for so long. Buckets have objects whole."""
    claims: bool = True
    """Whether watchers with other ledgers are heeded."""
    lease_seconds: float = 60.0
    """After how long another machine takes over what this one was doing when it went away."""
    drain_seconds: float = 300.0
    """How long objects that are being answered may take to end when the watcher is told to."""
    first_pause_seconds: float = 1.0
    """Before a further try; twice as long each time."""


class Heard(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a message."""

    fresh: int = 0
    """Objects that nobody had told of."""
    known: int = 0
    ignored: int = 0
    """Events that are no reason to do anything, and objects that are not watched."""
    malformed: tuple[str, ...] = ()
    """Why parts of it were not understood."""
    confirm: str = ""
    """See `events.Parsed`."""


class Offer(Protocol):
    """Takes a message; when it returns, what it says is on disk. Any thread may call it."""

    def __call__(self, body: bytes | str, headers: Mapping[str, str] = EMPTY, *, source: str) -> Heard:
        """Raises Temporary: nothing was kept; the message must come again."""


class Source(Protocol):
    """Brings messages from somewhere."""

    @property
    def name(self) -> str:
        """In logs and in the ledger: `sqs`, `kafka`, `webhook`."""

    def read(self, offer: Offer, stop: threading.Event, *, once: bool) -> None:
        """Bring messages until told to stop, or with `once` until no more come.

        Raises:
            Temporary: it will be called again.
            HeadraceError: it can bring nothing.
        """


class Tally(msgspec.Struct, frozen=True, kw_only=True):
    """What one run of a watcher did."""

    done: int = 0
    """Objects."""
    rows: int = 0
    answered: int = 0
    rejected: int = 0
    elsewhere: int = 0
    """Objects that other watchers did."""
    gone: int = 0
    failed: int = 0
    """Tries."""
    dead: int = 0
    left: int = 0
    """Objects that wait for another try, or that others are at."""


class Watch:
    """A watcher: `run` it in the main thread; `stop` may be called from a signal handler.

    Args:
        options: What to do.
        ledger: Open.
        answer: Does it.
        job: Names what is done with objects, for claims: a digest of model and options.
        settings: Of stores.
        sources: Of messages; polling comes on top.
        report: Told of each row that was settled.
        clock: Seconds that only grow.

    Raises:
        SettingsError: what is to be watched cannot be, or the output is within it.
    """

    def __init__(
        self,
        options: Options,
        *,
        ledger: Ledger,
        answer: Answer,
        job: str,
        settings: ArtifactSettings = ArtifactSettings(),
        sources: Sequence[Source] = (),
        report: Callable[[Row, State, str, Outcome | None], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.options = options
        places.checked_name(options.name)
        self._watched = [places.watched(each, options.output) for each in options.inputs]
        self._ledger, self._answer, self._sources, self._report = ledger, answer, tuple(sources), report
        self._inputs = [objects_.open_objects(each.uri, settings=settings) for each in self._watched]
        local = uri_.is_local(options.output)
        self._written = uri_.local_path(options.output) if local else options.output
        self._output = objects_.open_objects(self._written, settings=settings)
        self._claims = (
            Claims(self._output, owner=ledger.owner, job=job, lease_seconds=options.lease_seconds, clock=clock)
            if options.claims
            else None
        )
        self._clock = clock
        self._changed = threading.Condition()
        self._generation = 0
        self._stop = threading.Event()
        self._over = threading.Event()
        self._asked = 0
        self._stop_at = float("inf")
        self._running: dict[str, _Running] = {}
        self._gone: frozenset[str] = frozenset()
        self._sourcing = 0
        self._left: set[str] = set()
        self._once = False
        self._failed: BaseException | None = None
        self._tally = Tally()

    def stop(self) -> None:
        """Take no more, and end what is being answered; a second time: end it at once. Nothing is locked: a signal
        handler may call it.
        """
        self._asked += 1

    # -- what is heard --

    def offer(self, body: bytes | str, headers: Mapping[str, str] = EMPTY, *, source: str) -> Heard:
        """Take a message that says that objects were written. See `Offer`."""
        parsed = events.parse(body, headers)
        for malformed in parsed.malformed:
            log.warning("a message of %s is not understood, and is kept in the ledger: %s", source, malformed.reason)
            self._ledger.letter(malformed, source=source)
        return self._heard(parsed, source)

    def _heard(self, parsed: Parsed, source: str) -> Heard:
        wanted = [each for each in parsed.created if self._place(each.bucket, each.key) is not None]
        fresh = self._ledger.add(wanted, source=source) if wanted else 0
        if fresh:
            self._wake()
        return Heard(
            fresh=fresh,
            known=len(wanted) - fresh,
            ignored=parsed.ignored + len(parsed.created) - len(wanted),
            malformed=tuple(each.reason for each in parsed.malformed),
            confirm=parsed.confirm,
        )

    def _place(self, bucket: str, key: str) -> tuple[Objects, str] | None:
        for each, objects in zip(self._watched, self._inputs, strict=True):
            if path := each.path(bucket, key):
                return objects, path
        return None

    def poll(self, *, state: State = "pending") -> tuple[int, int]:
        """List the inputs once. How many objects are new, and how many are still being written.

        Args:
            state: `skipped`: leave alone what is there.

        Raises:
            ArtifactFailed: a store cannot be asked.
            Temporary: the ledger cannot be written.
        """
        fresh = unsettled = 0
        for each, objects in zip(self._watched, self._inputs, strict=True):
            listed = objects.list(each.glob)
            while chunk := list(islice(listed, _CHUNK)):
                found = [info for info in chunk if each.fits(info.path)]
                if each.local and state == "pending":
                    now = time.time()
                    ready = [info for info in found if now - info.modified >= self.options.settle_seconds]
                    unsettled += len(found) - len(ready)
                    found = ready
                told = [
                    ObjectCreated(
                        bucket=each.bucket,
                        key=each.prefix + info.path,
                        size=info.size,
                        etag=etag_of(info),
                        time=info.modified,
                    )
                    for info in found
                ]
                fresh += self._ledger.add(told, source="poll", state=state)
                if fresh:
                    self._wake()
        return fresh, unsettled

    # -- the loop --

    def check(self) -> None:
        """Look whether inputs can be listed and the output be written, before anything is done.

        Raises:
            ArtifactFailed: they cannot.
        """
        for each, objects in zip(self._watched, self._inputs, strict=True):
            if self.options.poll_seconds:
                next(iter(objects.list(each.glob)), None)
        note = {"inputs": [uri_.shown(each) for each in self.options.inputs], "watcher": self._ledger.owner}
        self._output.put(f"{OWN}/watcher.json", msgspec.json.encode(note))

    def run(self, *, once: bool = False) -> Tally:
        """Watch until told to stop; with `once`, until nothing is left that could be done now.

        Raises:
            HeadraceError: nothing can be watched.
        """
        self._once = once
        if not self._checked():
            return self._tally
        self._gone = self._ledger.recover()
        if not self._ledger.has_begun():
            if self.options.start == "latest":
                self.poll(state="skipped")
            self._ledger.begin()
        jobs: list[tuple[str, Callable[[], None]]] = [
            *((f"watch-{source.name}", functools.partial(self._reading, source)) for source in self._sources),
            *([("watch-poll", self._polling)] if self.options.poll_seconds else []),
        ]
        self._sourcing = len(jobs)
        jobs += [(f"watch-{at}", self._working) for at in range(self.options.concurrency)]
        threads = [
            threading.Thread(target=self._guarded, args=(job,), name=name, daemon=True)
            for name, job in [*jobs, ("watch-beat", self._beating)]
        ]
        for thread in threads:
            thread.start()
        for thread in threads[:-1]:
            while thread.is_alive():  # a wait without an end would not hear signals
                thread.join(_TICK_SECONDS)
                self._heed()
        self._over.set()
        threads[-1].join()
        if self._failed is not None:
            raise self._failed
        counts = self._ledger.counts()
        return msgspec.structs.replace(self._tally, left=counts["pending"] + counts["failed"])

    def _checked(self) -> bool:
        """`check`; a watcher that is begun again waits for a store that is away. False: it was told to stop."""
        tried, told = 0, ""
        while not self._asked:
            try:
                self.check()
            except ArtifactUnreachable as error:
                if self._once or not self._ledger.has_begun():
                    raise
                tried += 1
                if str(error) != told:
                    told = str(error)
                    log.warning("%s; it is asked again", told)
                self._pause(min(self._back_off(tried), _LONGEST_AWAY_SECONDS))
            else:
                return True
        return False

    def _pause(self, seconds: float) -> None:
        """So long, unless told to stop: by a signal handler, which wakes nobody."""
        for _ in range(math.ceil(seconds / _TICK_SECONDS)):
            if self._asked:
                return
            time.sleep(_TICK_SECONDS)

    def _heed(self) -> None:
        """Do what a signal asked for."""
        now = self._clock()
        if self._asked and not self._stop.is_set():
            log.info("stopping: what is being answered may end (%d objects)", len(self._running))
            self._stop_at = now + self.options.drain_seconds
            self._stop.set()
            self._wake()
        if self._stop.is_set() and (self._asked > 1 or self._failed is not None or now >= self._stop_at):
            for each in list(self._running.values()):
                each.cancel.set()

    def _guarded(self, job: Callable[[], None]) -> None:
        try:
            job()
        except BaseException as exc:  # noqa: BLE001 - it is raised where the watcher was begun
            self._failed = self._failed or exc
            self._stop.set()
            self._wake()

    def _wake(self) -> None:
        with self._changed:
            self._generation += 1
            self._changed.notify_all()

    # -- who hears --

    def _polling(self) -> None:
        unsettled, tried = 0, 0
        while not self._stop.is_set():
            try:
                _, unsettled = self.poll()
                tried = 0
            except (ArtifactFailed, Temporary) as exc:
                tried += 1
                if self._once and tried > self.options.retries:
                    raise
                log.warning("the inputs cannot be listed, and will be again: %s", exc)
                unsettled = 1
            if self._once and not unsettled:
                break
            pause = self.options.settle_seconds / 2 if unsettled and not tried else self.options.poll_seconds
            self._stop.wait(min(self._back_off(tried), pause) if tried and self._once else pause)
        self._sourced()

    def _reading(self, source: Source) -> None:
        tried = 0
        while not self._stop.is_set():
            try:
                source.read(self.offer, self._stop, once=self._once)
            except Temporary as exc:
                tried += 1
                if self._once and tried > self.options.retries:
                    raise
                log.warning("%s brings nothing for now: %s", source.name, exc)
                self._stop.wait(self._back_off(tried))
            else:
                break
        self._sourced()

    def _sourced(self) -> None:
        with self._changed:
            self._sourcing -= 1
        self._wake()

    # -- who answers --

    def _working(self) -> None:
        while not (self._stop.is_set() or self._asked):
            generation = self._generation
            try:
                wait = self._ledger.wait_seconds()
                row = self._ledger.take() if wait == 0 else None
            except Temporary as exc:
                log.warning("%s", exc)
                wait, row = _IDLE_SECONDS, None
            if row is not None:
                self._left.discard(row.uri)
                self._work(row)
                self._wake()
                continue
            if self._is_over():
                return
            self._idle(generation, min(wait or _IDLE_SECONDS, _IDLE_SECONDS))

    def _idle(self, generation: int, seconds: float) -> None:
        """Wait until something has come, or so long."""
        with self._changed:
            self._changed.wait_for(lambda: self._generation != generation or self._stop.is_set(), seconds)

    def _is_over(self) -> bool:
        if not self._once or self._sourcing or self._running:
            return False
        counts = self._ledger.counts()
        return counts["pending"] + counts["failed"] <= len(self._left)

    def _work(self, row: Row) -> None:
        """One object, from the ledger to the ledger."""
        running = _Running(row, beaten_at=self._clock())
        self._running[row.uri] = running
        try:
            self._look(running)
        except Exception as exc:
            if not isinstance(exc, HeadraceError):
                log.exception("%s: a defect", row.uri)
            self._tried(running.row, exc)
        finally:
            del self._running[row.uri]

    def _look(self, running: _Running) -> None:
        row = running.row
        place = self._place(row.bucket, row.key)
        if place is None:
            self._settle(row, "gone", error="it is not watched any more")
            return
        objects, path = place
        try:
            info = objects.head(path)
        except ArtifactNotFound:
            self._settle(row, "gone", error="it was deleted before it was read")
            return
        taken = self._ledger.identify(row, etag_of(info), info.size)
        if taken is None:
            return
        running.row = taken
        output = uri_.join(
            self._written, places.output_path(self.options.name, path, taken.etag, self.options.output_format)
        )
        claimed = self._claims.take(taken.uri, taken.etag, gone=self._gone) if self._claims else None
        if isinstance(claimed, Busy):
            self._left.add(taken.uri)
            self._settle(taken, "pending", after_seconds=self.options.lease_seconds / 4)
        elif isinstance(claimed, Claim):
            self._settle(taken, "done", output=claimed.output, outcome=claimed.outcome, elsewhere=True)
        else:
            running.held, running.beaten_at = claimed, self._clock()
            self._ask(info, output, running)

    def _ask(self, info: ObjectInfo, output: str, running: _Running) -> None:
        row, outcome = running.row, None
        try:
            outcome = self._answer(info, output, running.cancel)
        except Stopped:
            pause = self.options.lease_seconds / 4 if running.lost else 0.0
            why = "another watcher took it over" if running.lost else ""
            self._settle(row, "pending", error=why, after_seconds=pause)
        finally:
            self._let_go(running, output, outcome)
        if outcome is not None:
            self._settle(row, "done", output=output, outcome=outcome)

    def _let_go(self, running: _Running, output: str, outcome: Outcome | None) -> None:
        """Of a claim. What cannot be said is seen by others when a lease is over."""
        with running.mutex:
            held, running.held = running.held, None
            if held is None or self._claims is None:
                return
            try:
                self._claims.settle(held, output=output if outcome is not None else "", outcome=outcome)
            except ArtifactFailed as exc:
                log.warning("%s: the claim cannot be let go of: %s", held.claim.uri, exc)

    def _tried(self, row: Row, error: Exception) -> None:
        """A try that failed: of what, and what then."""
        if self._is_another(row):
            return
        attempts = row.attempts + 1
        text = str(error) if isinstance(error, HeadraceError) else f"a defect: {type(error).__name__}: {error}"
        last = attempts > self.options.retries
        if isinstance(error, InvalidRequest | SettingsError | Conflict) or (last and not isinstance(error, Temporary)):
            self._settle(row, "dead", error=text, attempts=attempts)
            return
        if last and self._once:
            self._left.add(row.uri)
        self._settle(row, "failed", error=text, attempts=attempts, after_seconds=self._back_off(attempts))

    def _is_another(self, row: Row) -> bool:
        """Whether the object went away or changed while it was read: no fault of its own, and looked at again later."""
        place = self._place(row.bucket, row.key)
        if place is None or not row.etag:
            return False
        try:
            info = place[0].head(place[1])
        except ArtifactNotFound:
            self._settle(row, "gone", error="it was deleted while it was read")
            return True
        except ArtifactFailed:
            return False
        if etag_of(info) == row.etag:
            return False
        other = self._ledger.identify(row, etag_of(info), info.size)
        if other is not None:
            why = "it changed while it was read"
            self._settle(other, "pending", error=why, after_seconds=self.options.settle_seconds)
        return True

    def _back_off(self, attempts: int) -> float:
        pause = min(_LONGEST_BACK_OFF_SECONDS, self.options.first_pause_seconds * 2.0 ** min(attempts - 1, 20))
        return pause * random.uniform(0.5, 1.0)  # noqa: S311 - so that watchers do not come together

    def _settle(
        self,
        row: Row,
        state: State,
        *,
        error: str = "",
        outcome: Outcome | None = None,
        output: str = "",
        attempts: int | None = None,
        after_seconds: float = 0.0,
        elsewhere: bool = False,
    ) -> None:
        while True:
            try:
                self._ledger.settle(
                    row,
                    state,
                    error=error,
                    outcome=outcome,
                    output=output,
                    attempts=attempts,
                    after_seconds=after_seconds,
                )
                break
            except Temporary as exc:
                log.warning("%s is %s, and the ledger does not have it yet: %s", row.uri, state, exc)
                if self._stop.wait(_IDLE_SECONDS):
                    return  # its row is pending again for the next watcher, which finds the output
        self._count(state, outcome, elsewhere=elsewhere)
        if self._report is not None:
            self._report(row, state, error, outcome)

    def _count(self, state: State, outcome: Outcome | None, *, elsewhere: bool) -> None:
        with self._changed:
            now = self._tally
            own = outcome if outcome is not None and not elsewhere else Outcome()
            self._tally = msgspec.structs.replace(
                now,
                done=now.done + (state == "done" and not elsewhere),
                elsewhere=now.elsewhere + elsewhere,
                rows=now.rows + own.rows,
                answered=now.answered + own.answered,
                rejected=now.rejected + own.rejected,
                gone=now.gone + (state == "gone"),
                failed=now.failed + (state == "failed"),
                dead=now.dead + (state == "dead"),
            )

    # -- who says that we live --

    def _beating(self) -> None:
        while not self._over.wait(min(self.options.lease_seconds / 4, _RECOVER_SECONDS)):
            try:
                self._gone |= self._ledger.recover()
            except (Temporary, OSError) as exc:
                log.warning("other watchers' work cannot be looked at: %s", exc)
            for running in list(self._running.values()):
                self._renew(running)

    def _renew(self, running: _Running) -> None:
        if self._claims is None:
            return
        with running.mutex:
            if running.held is None:
                return
            try:
                renewed = self._claims.renew(running.held)
            except ArtifactFailed as exc:
                log.warning("%s: the claim cannot be renewed: %s", running.held.claim.uri, exc)
                if self._clock() - running.beaten_at < self.options.lease_seconds:
                    return  # nobody else takes it over yet
                renewed = None
            running.beaten_at = self._clock()
            running.held = renewed
            if renewed is None:
                running.lost = True
                running.cancel.set()


class _Running:
    """An object that is being answered, as those see it who tell it to stop."""

    def __init__(self, row: Row, *, beaten_at: float) -> None:
        self.row = row
        self.cancel = threading.Event()
        self.mutex = threading.Lock()
        self.held: Held | None = None
        self.beaten_at = beaten_at
        self.lost = False
        """Whether another watcher has it now."""


def etag_of(info: ObjectInfo) -> str:
    """The etag of an object as ledgers have it; of a store that has none: its size and when it was written."""
    return events.bare(info.etag) or f"{info.size}-{info.modified:.6f}"
