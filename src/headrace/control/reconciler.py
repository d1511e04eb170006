"""The loop that makes what is declared so: observe -> plan -> apply -> report. `service` starts it.

Level-based: a pass looks at everything and depends on nothing but what it sees, so that no event can be missed; what
woke it only decides when it looks. A pass is short: it starts the actions that nothing holds back, and whichever ends
lets those go that waited for it. So one slow model holds up nobody, and a change is live as soon as its own actions
are.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, TypeVar

import msgspec

from headrace.control import events as happenings
from headrace.control import plan, rollout
from headrace.control.backends.base import Action, Backend, Counts, Observed, Unit, UnitKey, key_of
from headrace.control.events import Event
from headrace.control.parse import plain
from headrace.control.plan import Failure
from headrace.control.report import Reporter
from headrace.control.resources import Model, Resource, Rollout, Status
from headrace.control.store import Store
from headrace.errors import HeadraceError

_log = logging.getLogger(__name__)
T = TypeVar("T")
Key = tuple[str, str]

LOADS: Final = 8
"""Models that are loaded side by side."""
OTHERS: Final = 32
"""Other actions that are carried out side by side."""
LOOK_SECONDS: Final = 1.0
"""Between two looks at the counts of a rollout that goes on."""
RESYNC_SECONDS: Final = 30.0
"""Between two looks when nothing happens."""
CRASHED_SECONDS: Final = 1.0
"""Before the next pass, when one crashed."""
LONGEST_PAUSE_SECONDS: Final = 0.5
MANY: Final = 500
"""Resources from which on a pass thinks in a thread: some milliseconds, in which requests are answered."""


class Reconciler:
    """One loop over one store and one backend."""

    def __init__(
        self,
        store: Store,
        backend: Backend,
        *,
        write: Callable[[Callable[[], T]], Awaitable[T]] | None = None,
        clock: Callable[[], float] = time.time,
        loads: int = LOADS,
        look_seconds: float = LOOK_SECONDS,
    ) -> None:
        """Store what to work with.

        Args:
            store: What is declared.
            backend: What carries it out.
            write: Calls what writes to the store, off the loop; None: in a thread of the loop's own.
            clock: Seconds since the epoch.
            loads: Models that are loaded side by side.
            look_seconds: Between two looks at the counts of a rollout.
        """
        self._store, self._backend, self._clock = store, backend, clock
        self._write: Callable[[Callable[[], Any]], Awaitable[Any]] = write or asyncio.to_thread
        self._limits = {"model": loads, "other": OTHERS}
        self._look_seconds = look_seconds
        self._memo, self._reporter = plan.Memo(), Reporter()
        self._current: dict[UnitKey, Unit] = {}
        self._failures: dict[UnitKey, Failure] = {}
        self._running: dict[UnitKey, asyncio.Task[None]] = {}
        self._waiting: dict[UnitKey, tuple[Action, set[UnitKey]]] = {}
        self._waiters: dict[UnitKey, list[UnitKey]] = {}
        self._ready: dict[str, deque[Action]] = {each: deque() for each in self._limits}
        self._ended: set[UnitKey] = set()  # since the last look at what is there
        self._begun: dict[str, int] = dict.fromkeys(self._limits, 0)
        self._wake, self._urgent, self._settled = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._changed: asyncio.Event = asyncio.Event()
        self._loop: asyncio.Task[None] | None = None

    # -- start, stop, wake --

    def start(self) -> None:
        """Begin to make it so; the first pass is at once."""
        if self._loop is None:
            self._loop = asyncio.create_task(self._run(), name="reconciler")

    async def stop(self) -> None:
        """End the loop and what it has begun; what is served stays."""
        tasks = [each for each in (self._loop, *self._running.values()) if each is not None]
        self._loop = None
        for each in tasks:
            each.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._running.clear()
        self._begun = dict.fromkeys(self._limits, 0)

    def wake(self, *, urgent: bool = True) -> None:
        """Look again; urgently: without waiting for more to come."""
        self._settled.clear()
        self._wake.set()
        if urgent:
            self._urgent.set()

    async def settled(self) -> None:
        """Wait until all that can be done now is done; what failed waits for its next attempt."""
        await self._settled.wait()

    def changed(self) -> Awaitable[Any]:
        """What can be awaited until a status is written after this was called."""
        return self._changed.wait()

    def plan(self, resources: Mapping[Key, Resource], revisions: Any, observed: list[Observed]) -> list[Action]:
        """What would be done if this were declared."""
        seen = {each.key: each for each in observed}
        wanted = plan.units(resources.values(), revisions=revisions, observed=seen)
        return plan.plan(wanted, observed, current=self._current)

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            self._urgent.clear()
            began = time.perf_counter()
            try:
                sleep = await self._pass()
            except Exception:  # noqa: BLE001 - the loop goes on whatever happens in one pass
                _log.exception("a pass of the reconciler crashed; the next is in %g s", CRASHED_SECONDS)
                sleep = CRASHED_SECONDS
            took = time.perf_counter() - began
            await _wait(self._wake, sleep)
            # What ends by itself may wait a little for what else ends: many loads cost few passes.
            await _wait(self._urgent, min(2 * took, LONGEST_PAUSE_SECONDS))

    # -- one pass --

    async def _pass(self) -> float:
        """Look, decide, begin, report. Returns the seconds after which to look again, if nothing happens."""
        self._ended.clear()
        observed = {each.key: each for each in await self._backend.observe()}
        now = self._clock()
        # What decides where traffic goes is on disk before anything is done about it.
        await self._keep(*self._moved(observed))
        resources, revisions = self._store.resources, self._store.revisions
        current, failures = dict(self._current), dict(self._failures)

        def decide() -> tuple[list[Unit], dict[UnitKey, Failure], list[Action]]:
            wanted = plan.units(resources.values(), revisions=revisions, observed=observed, memo=self._memo)
            known = _still_so(failures, wanted, observed)
            return wanted, known, plan.plan(wanted, observed.values(), current=current, failures=known, now=now)

        wanted, known, actions = await self._think(decide)
        for key in failures.keys() - known.keys() - self._ended:
            self._failures.pop(key, None)
        idle = not actions and not self._running
        self._begin(actions)
        statuses = await self._think(
            lambda: self._reporter.statuses(resources, wanted, observed, known, now=now),
        )
        try:
            await self._keep(statuses, _transitions(resources, statuses, now))
        except BaseException:
            self._reporter.forget(statuses)
            raise
        if idle and not self._wake.is_set():
            self._settled.set()
        return self._next_look(resources, now)

    async def _think(self, work: Callable[[], T]) -> T:
        """What is pure: in a thread where there is much of it, so that requests are answered meanwhile."""
        return work() if len(self._store.resources) < MANY else await asyncio.to_thread(work)

    def _next_look(self, resources: Mapping[Key, Resource], now: float) -> float:
        sleep = RESYNC_SECONDS
        retry = plan.due(self._failures)
        if retry is not None:
            sleep = min(sleep, max(retry - now, 0.01))
        for resource in resources.values():
            if resource.kind == "Rollout":
                progress = plan.progress_of(resource)
                if progress is None or not progress.final:
                    sleep = min(sleep, self._look_seconds)
        return sleep

    def _moved(self, observed: Mapping[UnitKey, Observed]) -> tuple[dict[Key, Status], list[Event]]:
        """Models whose newest revision takes over, and rollouts that go on."""
        statuses: dict[Key, Status] = {}
        news: list[Event] = []
        for key, resource in self._store.resources.items():
            if isinstance(resource.spec, Model):
                revision = plan.promoted(resource, observed)
                if revision != resource.status.ready_revision:
                    statuses[key] = msgspec.structs.replace(resource.status, ready_revision=revision)
        for resource in self._store.resources.values():
            if isinstance(resource.spec, Rollout):
                self._advance(resource, resource.spec, observed, statuses, news)
        return statuses, news

    def _advance(
        self,
        resource: Resource,
        spec: Rollout,
        observed: Mapping[UnitKey, Observed],
        statuses: dict[Key, Status],
        news: list[Event],
    ) -> None:
        split = plan.split_of(resource)
        seen = observed.get(("split", split.name, 0))
        before = plan.progress_of(resource)
        settled = seen is not None and seen.digest == split.digest and seen.state == "ready"
        settled = settled and seen is not None and not seen.details.get("settling")
        if before is None and not settled:
            return  # it begins when both are ready, and the split holds the name
        stable, candidate = split.shares
        counts = self._backend.counts(split.name)
        named = [f"{each.name}@{each.version}" if each.version else each.name for each in (stable, candidate)]
        metrics = {
            each.name: self._backend.metric(each.name, candidate.name, candidate.version) for each in spec.judge.metrics
        }
        after = rollout.advance(
            spec,
            before or rollout.Progress(),
            counts.get(named[0], Counts()),
            counts.get(named[1], Counts()),
            self._clock(),
            metrics,
            revision=candidate.version or self._revision_of(spec, statuses),
            settled=settled,
        )
        if after == before:
            return
        details = dict(resource.status.details) | {"progress": plain(after)}
        statuses[resource.key] = msgspec.structs.replace(resource.status, details=details)
        for each in rollout.news(before or rollout.Progress(), after):
            bad = after.state == "RolledBack" and each.reason == after.reason
            kind, name = resource.key
            news.append(
                Event(
                    kind=kind,
                    name=name,
                    type="Warning" if bad else "Normal",
                    reason=each.reason,
                    message=each.message,
                    at=each.at,
                )
            )

    def _revision_of(self, spec: Rollout, statuses: Mapping[Key, Status]) -> str:
        """Tells a candidate from the one that had its name before: of a model the revision that answers, and not one
        that is loading still, whose judgement the answers of the one before would be.
        """
        key = ("Pipeline" if spec.resource_type == "pipeline" else "Model", plan.pinned(spec.candidate)[0])
        found = self._store.resources.get(key)
        if found is None:
            return ""
        if spec.resource_type == "pipeline":
            return str(found.metadata.generation)
        return str(statuses.get(key, found.status).ready_revision)

    async def _keep(self, statuses: Mapping[Key, Status], news: list[Event]) -> None:
        if not statuses and not news:
            return
        resources = self._store.resources
        named = {key: (resources[key].metadata.uid, each) for key, each in statuses.items() if key in resources}

        def write() -> None:
            self._store.write_statuses(named)
            self._store.record(news)

        await self._write(write)
        self._changed.set()
        self._changed = asyncio.Event()

    # -- actions --

    def _begin(self, actions: list[Action]) -> None:
        """Put a new plan in the place of what has not begun of the one before, and begin."""
        for queue in self._ready.values():
            queue.clear()
        self._waiting.clear()
        self._waiters.clear()
        planned = {each.key for each in actions}
        for action in actions:
            if action.key in self._running or action.key in self._ended:
                continue  # this was decided without knowing how that ends, or ended; it is looked at again
            held = {each for each in action.after if each in planned or each in self._running}
            if held:
                self._waiting[action.key] = (action, held)
                for each in held:
                    self._waiters.setdefault(each, []).append(action.key)
            else:
                self._ready[_class(action)].append(action)
        self._pump()

    def _pump(self) -> None:
        for kind, queue in self._ready.items():
            while queue and self._begun[kind] < self._limits[kind]:
                action = queue.popleft()
                self._begun[kind] += 1
                name = f"{action.verb} {' '.join(map(str, action.key))}"
                self._running[action.key] = asyncio.create_task(self._carry_out(action), name=name)

    async def _carry_out(self, action: Action) -> None:
        failure = ""
        try:
            await self._backend.carry_out(action)
        except HeadraceError as error:
            failure = str(error)
            _log.info("%s %s: %s", action.verb, action.key, error)
        except Exception as error:  # noqa: BLE001 - of one unit; the others are not harmed
            failure = f"{type(error).__name__}: {error}"
            _log.exception("%s %s crashed", action.verb, action.key)
        self._finished(action, failure)

    def _finished(self, action: Action, failure: str) -> None:
        key, unit = action.key, action.unit
        self._running.pop(key, None)
        self._ended.add(key)
        self._begun[_class(action)] -= 1
        if failure:
            digest = unit.digest if unit is not None else plan.REMOVAL
            self._failures[key] = plan.failed(self._failures.get(key), digest, now=self._clock(), reason=failure)
        else:
            self._failures.pop(key, None)
            if unit is not None:
                self._current[key] = unit
            else:
                self._current.pop(key, None)
            self._release(key)
        self._pump()
        self.wake(urgent=not self._running)

    def _release(self, key: UnitKey) -> None:
        for waiter in self._waiters.pop(key, ()):
            action, held = self._waiting.get(waiter, (None, set[UnitKey]()))
            held.discard(key)
            if action is not None and not held:
                del self._waiting[waiter]
                self._ready[_class(action)].append(action)


def _still_so(
    failures: Mapping[UnitKey, Failure], wanted: list[Unit], observed: Mapping[UnitKey, Observed]
) -> dict[UnitKey, Failure]:
    """The failures of what is still wanted as it failed, and of removals that are still to be done."""
    if not failures:
        return {}
    known = {key_of(each): each.digest for each in wanted}
    return {
        key: each
        for key, each in failures.items()
        if (each.digest == plan.REMOVAL and key in observed and key not in known) or known.get(key) == each.digest
    }


def _class(action: Action) -> str:
    """What an action is counted as: models are what takes time and memory to set."""
    return "model" if action.key[0] == "model" and action.verb == "set" else "other"


def _transitions(resources: Mapping[Key, Resource], statuses: Mapping[Key, Status], now: float) -> list[Event]:
    return [
        event
        for (kind, name), status in statuses.items()
        for event in happenings.of_transitions(
            kind, name, resources[kind, name].status.conditions, status.conditions, at=now
        )
    ]


async def _wait(event: asyncio.Event, seconds: float) -> None:
    if event.is_set() or seconds <= 0:
        return
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):  # wait_for of Python 3.11 may lose a cancellation
            await event.wait()
