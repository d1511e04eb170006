"""Which models are in memory: stands between the repository and the loads, so that more models are served than fit.

`app` gives `Residency.load_engine` to the repository in place of its own loader. What that gives is a seat: to the
repository a loaded model like any other, whose engine may have left memory. A request for it then waits for its load.

    resident  an engine is in memory        leaves by  no request for `idle_seconds`, room for another, by hand
    absent    the next request loads it     leaves by  a request, by hand
    leaving   what is in flight ends; who comes now waits for the load after it

The budget is for memory: any number of models may be registered, and those in memory take no more than the budget, by
what they were measured to take (`memory`). Before a load its expected size is reserved, and the least recently used
models leave for it: first those without a request in flight; then those with, whose requests end first. Nobody's
request fails for want of room but that of the model that finds none. A load that turns out larger than expected
is over the budget until others have left for it.

The routing table keeps an absent model READY: a request does get its answer. Where nothing asks for any of this, the
engine passes through as it is.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Literal, TypeVar

import msgspec

from headrace.errors import HeadraceError, LoadFailed, ModelNotFound, ModelNotReady, Overloaded
from headrace.payload import (
    Infer,
)
from headrace.serving import memory
from headrace.serving.loaded import Loaded, LoadEngine
from headrace.serving.models import newest
from headrace.serving.seat import Nobody, Seat, Witness, afresh
from headrace.serving.spec import ModelSpec

Key = tuple[str, str]
"""Name and version."""
Cause = Literal["memory", "idle", "asked"]

_LEAST_PAUSE_SECONDS: Final = 0.01
_CLOSE_SECONDS: Final = 5.0

_T = TypeVar("_T")
_log = logging.getLogger(__name__)


# -- deciding --


class Resident(msgspec.Struct, frozen=True):
    """A model in memory, as far as the decision who leaves needs it."""

    id: int
    bytes: int
    used: float
    """When it last answered; larger is later."""
    in_use: bool = False
    """It has requests in flight."""
    pinned: bool = False
    """It cannot leave now, whatever for."""


def leaving(needed: int, budget: int, residents: Iterable[Resident]) -> list[Resident]:
    """Who leaves so that `needed` bytes more fit into the budget: the least recently used first, and no more than it
    takes. Those in use and those pinned stay; when the others are not enough, all of the others leave.
    """
    residents = list(residents)
    over = needed + sum(each.bytes for each in residents) - budget
    going = []
    for each in sorted(residents, key=lambda each: each.used):
        if over <= 0:
            break
        if not each.in_use and not each.pinned and each.bytes > 0:
            going.append(each)
            over -= each.bytes
    return going


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """One version that may leave memory."""

    bytes: int
    """What it takes now; while it is absent, what it would."""
    resident: bool
    measured: bool
    """False: `bytes` is declared, or the size of its files."""
    sure: bool
    """False: it was measured while another load was under way."""
    last_used: float
    """On the clock of `time.monotonic`."""


# -- all of them --


class Residency:
    """The models that may leave memory, and the room they share. Used on one event loop."""

    def __init__(
        self,
        load: LoadEngine,
        *,
        memory_bytes: int = 0,
        always: bool = False,
        max_parallel_loads: int = 2,
        wait_seconds: float = 60.0,
        pids: Callable[[Any], Sequence[int]] = lambda _: (),
        changed: Callable[[ModelSpec, Loaded, str], None] = lambda _, __, ___: None,
        witness: Witness | None = None,
        meter: memory.Meter | None = None,
        sweeper: memory.Sweeper | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Store how models are loaded and what they may take.

        Args:
            load: Loads one version.
            memory_bytes: What all models together may take; 0: no bound.
            always: Whether models get a seat also while no budget is set, so that one set later holds for them, and
                `usage` tells of all. It costs a fraction of a microsecond a request.
            max_parallel_loads: Loads that run side by side.
            wait_seconds: How long a request waits for a load at most, and a load for room.
            pids: The worker processes of what `load` gave.
            changed: Called when an engine came back or left, or could not come back (then with the reason):
                `Repository.refresh`.
            witness: Told who comes and leaves.
            meter: Measures loads.
            sweeper: Cleans up after those that left.
            clock: Seconds; that of deadlines.
            sleep: Waits that many seconds.
        """
        self.wait_seconds = wait_seconds
        self.witness: Witness = witness or Nobody()
        self.meter = meter or memory.Meter()
        self._load = load
        self._budget = memory_bytes
        self._always = always
        self._gate = asyncio.Semaphore(max_parallel_loads)
        self._turn = asyncio.Lock()  # to make room: one at a time, in the order of asking
        self._pids, self._changed = pids, changed
        self._sweeper = sweeper or memory.Sweeper()
        self._clock, self._sleep = clock, sleep
        self._sizes = memory.Sizes()
        self._seats: dict[Key, list[Seat]] = {}  # a reload has two of a version for a while; the last one counts
        self._residents: set[Seat] = set()
        self._taken = 0  # by them
        self._reserved = 0  # for loads under way
        self._happened = asyncio.Event()  # something that may make room
        self._tasks: set[asyncio.Task[Any]] = set()
        self._idle: asyncio.Task[None] | None = None
        self._idle_until = 0.0
        self._sweeping: asyncio.Task[None] | None = None
        self._unswept = False
        self.witness.budgeted(memory_bytes)

    def __repr__(self) -> str:
        return f"<Residency {len(self._residents)} of {len(self._seats)} in memory, {self._held()} of {self._budget} B>"

    # -- for the repository --

    async def load_engine(self, spec: ModelSpec) -> Loaded:
        """Load a version; with `on_demand`, only prepare for it.

        Raises:
            LoadFailed: or what the load raises; or it takes more than the whole budget.
            Overloaded: models in use take all the memory, and did for `wait_seconds`.
        """
        if not self._governs(spec):
            return await self._load(spec)
        seat = Seat(self, spec, self._clock)
        self._seats.setdefault((spec.name, spec.version), []).append(seat)
        if not spec.on_demand:
            try:
                await self._fill(seat, demanded=False)
            except BaseException:
                self.forget(seat)
                raise
        return seat

    def _governs(self, spec: ModelSpec) -> bool:
        """A model that is in memory already (a notebook's) could not come back."""
        wanted = self._always or self._budget > 0 or spec.idle_seconds > 0 or spec.on_demand
        return wanted and spec.model is None

    def tune(self, spec: ModelSpec) -> bool:
        """Take over `spec.TUNED` for a version as it is: whether that does what a load with this spec would."""
        seat = self._seat(spec.name, spec.version)
        if seat is None:
            return not self._governs(spec)
        seat.spec = spec
        self._watch(seat)
        return True

    def stands_for(self, outer: Infer | None, inner: Infer) -> bool:
        """Whether a request to `outer`, which the routing table has, is one to `inner`, which `load` gave, now."""
        seat = getattr(outer, "__self__", None)
        return outer == inner or (isinstance(seat, Seat) and seat.present == inner)

    def is_resident(self, name: str, version: str) -> bool:
        """Whether a version is in memory, as far as this knows: what passed through is."""
        seat = self._seat(name, version)
        return seat is None or seat.engine is not None

    async def close(self) -> None:
        """End what is still under way, once the repository has closed all it had."""
        if self._idle is not None:
            self._idle.cancel()
        if self._sweeping is not None:
            self._sweeping.cancel()
        ending = [task for task in (self._idle, self._sweeping, *self._tasks) if task is not None]
        if ending:
            await asyncio.wait(ending)

    # -- by hand --

    async def prefetch(self, name: str, version: str = "") -> None:
        """Have a version in memory. Returns once it is; one that cannot leave is there already.

        Raises:
            ModelNotFound: there is none that may leave memory.
            LoadFailed: or whatever its load failed with.
            Overloaded: models in use take all the memory.
        """
        seat = self._named(name, version)
        seat.failed = None
        while seat.present is None:
            load = self.fill(seat)
            await asyncio.wait([load])
            if load.cancelled():
                raise ModelNotReady(f"{seat.spec.describe()} is not ready: it was unloaded")
            if (error := load.result()) is not None:
                raise afresh(error)
        seat.used = self._clock()

    async def evict(self, name: str, version: str = "") -> bool:
        """Have a version leave memory once its requests in flight have ended: whether they did in `wait_seconds`. It
        comes back with the next request.

        Raises:
            ModelNotFound: there is none that may leave memory.
        """
        seat = self._named(name, version)
        if seat.going is None and seat.engine is not None and not seat.closed:
            self._start_leaving(seat, "asked")
        return seat.going is None or await asyncio.shield(seat.going)

    def usage(self) -> Mapping[Key, Usage]:
        """What each version that may leave memory takes: a view of now."""
        return _Usages(self._seats)

    def set_budget(self, memory_bytes: int) -> None:
        """From now on all models together may take this many bytes; 0: no bound. Those that must leave for it begin to
        leave. Versions that were loaded while nothing asked for seats (`always`) stay until they are loaded again.
        """
        self._budget = memory_bytes
        self.witness.budgeted(memory_bytes)
        self.notice()

    def _named(self, name: str, version: str) -> Seat:
        versions = [key[1] for key in self._seats if key[0] == name] if not version else [version]
        seat = self._seat(name, newest(versions)) if versions else None
        if seat is None:
            raise ModelNotFound(
                f"model '{name}'"
                + (f" version '{version}'" if version else "")
                + " is not there, or is none that may leave memory: that takes models.memory_bytes, idle_seconds or "
                "on_demand"
            )
        return seat

    def _seat(self, name: str, version: str) -> Seat | None:
        seats = self._seats.get((name, version))
        return seats[-1] if seats else None

    def forget(self, seat: Seat) -> None:
        """This seat is closed."""
        self._gone(seat)
        key = (seat.spec.name, seat.spec.version)
        seats = self._seats.get(key, [])
        if seat not in seats:
            return
        seats.remove(seat)
        if not seats:
            del self._seats[key]
            self.witness.forgotten(*key)
        self.notice()
        self._clean()

    # -- a load --

    def fill(self, seat: Seat) -> asyncio.Task[HeadraceError | None]:
        """The one load of an absent version that all its requests wait for; gives the error it failed with.

        Raises:
            ModelNotReady: it was unloaded.
            HeadraceError: what its last load failed with, a short time ago.
        """
        if seat.closed:
            raise ModelNotReady(f"{seat.spec.describe()} is not ready: it was unloaded")
        if seat.filling is None:
            if seat.failed is not None and self._clock() < seat.not_before:
                raise afresh(seat.failed)
            seat.filling = self._own(self._fill_on_demand(seat))
        return seat.filling

    async def _fill_on_demand(self, seat: Seat) -> HeadraceError | None:
        spec = seat.spec
        try:
            await self._fill(seat, demanded=True)
        except Overloaded as error:  # no fault of this model's
            _log.warning("%s: %s", spec.describe(), error)
            return error
        except Exception as exc:  # noqa: BLE001 - whatever a model raises is that model's failure
            failure = _told(exc, spec)
            seat.fail(failure)
            self._changed(spec, seat, str(failure))
            return failure
        finally:
            seat.filling = None
        self._changed(spec, seat, "")
        return None

    async def _fill(self, seat: Seat, *, demanded: bool) -> None:
        """Wait until it has left, if it is leaving; make room; load; measure."""
        if seat.going is not None:
            await asyncio.wait([seat.going])
        if seat.engine is not None:
            return
        spec = seat.spec
        model = await asyncio.to_thread(memory.known, spec)
        async with self._gate:
            began = self._clock()
            expected = self._sizes.expected(model, spec)
            reserved = await self._make_room(spec, expected)
            try:
                engine, size = await self._measured(spec, model, expected)
            finally:
                self._reserved -= reserved
                self._happened.set()
            try:
                self._check_alone(spec, size)
            except LoadFailed:
                await asyncio.shield(self._own(self._close(engine, spec)))
                raise
            seat.size = size
            seat.load_seconds = self._clock() - began
            seat.take(engine)
            self._residents.add(seat)
            self._taken += seat.size.bytes
        self.witness.came(spec.name, spec.version, seat.size.bytes, demanded=demanded)
        self.notice()
        self._watch(seat)

    async def _measured(
        self, spec: ModelSpec, model: memory.Known, expected: memory.Size
    ) -> tuple[Loaded, memory.Size]:
        reading = self.meter.begin(model.file_bytes)
        try:
            engine = await self._load(spec)
        except BaseException:
            self.meter.end(reading)
            raise
        size = self.meter.end(reading)
        pids = self._pids(engine)
        if pids:
            try:
                size = memory.Size(await asyncio.to_thread(memory.of_processes, pids))
            except BaseException:
                await asyncio.shield(self._own(self._close(engine, spec)))
                raise
        if not size.sure:  # something may have left meanwhile
            size = msgspec.structs.replace(size, bytes=max(size.bytes, expected.bytes))
        return engine, self._sizes.remember(model, size)

    def _check_alone(self, spec: ModelSpec, size: memory.Size) -> None:
        """Refuse what would not fit if it were alone, where that is known and no guess."""
        if self._budget and size.sure and size.bytes > self._budget:
            how = "was measured to take" if size.measured else "is declared to take"
            raise LoadFailed(
                f"{spec.describe()} {how} {_mib(size.bytes)}, and all models together may take {_mib(self._budget)}: "
                f"raise models.memory_bytes (or memoryBytes of the Server resource)"
            )

    async def _make_room(self, spec: ModelSpec, expected: memory.Size) -> int:
        """Reserve what a load will take, once others have left for it: how many bytes."""
        async with self._turn:
            until = self._clock() + self.wait_seconds
            while True:
                self._check_alone(spec, expected)
                needed = min(expected.bytes, self._budget) if self._budget else expected.bytes
                if not self._budget or self._held() + needed <= self._budget:
                    self._reserved += needed
                    return needed
                self._happened.clear()
                self._ask_to_leave(needed)
                try:
                    async with asyncio.timeout(max(0.0, until - self._clock())):
                        await self._happened.wait()
                except TimeoutError:
                    raise Overloaded(
                        f"{spec.describe()} needs {_mib(needed)} of memory, and the models that are in use leave none "
                        f"of {_mib(self._budget)}",
                        retry_after_seconds=1.0,
                    ) from None

    def _ask_to_leave(self, needed: int) -> None:
        """Have those leave that must for so many bytes: idle ones, then those in use, whose requests end first."""
        seats = {id(seat): seat for seat in self._residents if seat.going is None}
        residents = [_resident(seat) for seat in seats.values()]
        needed += self._reserved
        going = leaving(needed, self._budget, residents)
        left = [each for each in residents if each not in going]
        also = leaving(needed, self._budget, [msgspec.structs.replace(each, in_use=False) for each in left])
        for each in (*going, *also):
            self._start_leaving(seats[each.id], "memory")

    def _held(self) -> int:
        """What is taken, or promised to a load."""
        return self._reserved + self._taken

    def notice(self) -> None:
        """Something happened that may make room, or have taken more of it than there is."""
        self._happened.set()
        if self._budget and self._held() > self._budget:
            self._ask_to_leave(0)

    def _gone(self, seat: Seat) -> None:
        if seat in self._residents:
            self._residents.remove(seat)
            self._taken -= seat.size.bytes

    # -- leaving --

    def _start_leaving(self, seat: Seat, cause: Cause) -> None:
        seat.present = None
        seat.going = self._own(self._leave(seat, cause))

    async def _leave(self, seat: Seat, cause: Cause) -> bool:
        """Close an engine once what is in flight in it has ended; one whose requests do not end stays."""
        engine = seat.engine
        assert engine is not None
        try:
            if not await seat.still(self.wait_seconds, lambda: seat.closed or not seat.in_flight):
                seat.present = engine.infer
                return False
            with self.meter.apart():
                await self._close(engine, seat.spec)
            seat.engine = None
            self._gone(seat)
        finally:
            seat.going = None
            self.notice()
            self._watch(seat)
        self.witness.left(seat.spec.name, seat.spec.version, cause)
        self._changed(seat.spec, seat, "")
        self._clean()
        return True

    async def _close(self, engine: Loaded, spec: ModelSpec) -> None:
        try:
            await engine.close(_CLOSE_SECONDS)
        except Exception:  # noqa: BLE001 - the model's own code; nobody waits for it any more
            _log.exception("%s: its engine did not close as it should", spec.describe())

    # -- no requests for a while --

    def _watch(self, seat: Seat) -> None:
        """See to it that this seat is looked at in time; one task does for all."""
        if seat.spec.idle_seconds <= 0 or seat.engine is None:
            return
        until = seat.used + seat.spec.idle_seconds
        if self._idle is None or until < self._idle_until:
            if self._idle is not None:
                self._idle.cancel()
            self._idle_until = until
            self._idle = asyncio.create_task(self._look_for_idle())

    async def _look_for_idle(self) -> None:
        while True:
            await self._sleep(max(_LEAST_PAUSE_SECONDS, self._idle_until - self._clock()))
            now = self._clock()
            following = []
            for seat in self._residents:
                seconds = seat.spec.idle_seconds
                if seconds <= 0 or seat.going is not None or seat.closed:
                    continue
                if seat.in_flight or seat.waiting:
                    following.append(now + seconds)
                elif seat.used + seconds > now:
                    following.append(seat.used + seconds)
                else:
                    self._start_leaving(seat, "idle")
            if not following:
                self._idle = None
                return
            self._idle_until = min(following)

    # -- tasks --

    def _clean(self) -> None:
        """Sweep soon, once for any number of models that left."""
        self._unswept = True
        if self._sweeping is None:
            self._sweeping = asyncio.create_task(self._sweep())

    async def _sweep(self) -> None:
        while self._unswept:
            await asyncio.sleep(self._sweeper.pause())
            self._unswept = False
            with self.meter.apart():
                await self._sweeper.sweep()
        self._sweeping = None

    def _own(self, work: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _told(exc: Exception, spec: ModelSpec) -> HeadraceError:
    """A load's failure as an error of ours, which stands in the log now."""
    if isinstance(exc, HeadraceError):
        _log.warning("%s: %s", spec.describe(), exc)
        return exc
    _log.error("%s cannot be loaded", spec.describe(), exc_info=exc)
    error = LoadFailed(f"{spec.describe()}: {type(exc).__name__}: {exc}")
    error.__cause__ = exc
    return error


def _resident(seat: Seat) -> Resident:
    in_use = seat.in_flight > 0
    pinned = seat.closed or seat.waiting > 0  # who waited for it is to be answered before it leaves again
    return Resident(id(seat), seat.size.bytes, seat.used, in_use, pinned)


def _mib(size: int) -> str:
    return f"{size / (1 << 20):.1f} MiB"


class _Usages(Mapping[Key, Usage]):
    def __init__(self, seats: Mapping[Key, list[Seat]]) -> None:
        self._seats = seats

    def __getitem__(self, key: Key) -> Usage:
        seats = self._seats[key]
        last = seats[-1]
        return Usage(
            bytes=sum(seat.size.bytes for seat in seats if seat.engine is not None) or last.size.bytes,
            resident=any(seat.engine is not None for seat in seats),
            measured=last.size.measured,
            sure=last.size.sure,
            last_used=last.used,
        )

    def __iter__(self) -> Iterator[Key]:
        return iter(list(self._seats))

    def __len__(self) -> int:
        return len(self._seats)
