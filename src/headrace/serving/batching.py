"""Step 5 of the walk, batch: requests that wait for one model become one predict. The engine submits, lanes predict.

What queues while the last predict runs is what the next one takes, up to `max_batch_size` rows: a busy model gets large
batches, an idle one answers at once, and no timer is involved (`max_wait_seconds` adds one for those who want it).
With a lane on the event loop itself, the requests that arrived in one turn of the loop share a predict.

Arrays merge, not messages: requests are neighbours when names, dtypes, trailing shapes, wanted outputs and parameters
are equal (`key`). One bad request never harms another: when a merged predict fails in a way that input may be to blame
for (InvalidRequest, ValueError and their like), each member is tried once more, alone. That costs one predict a member,
once; any other failure (a crash, a wrong row count) is everybody's, loudly.
"""

from __future__ import annotations

import asyncio
import copy
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Protocol

import numpy as np

from headrace.errors import DeadlineExceeded, HeadraceError, ModelNotReady, Overloaded, RuntimeFailed
from headrace.payload import Array, Parameters, RouteRequest, Tensor, Trace
from headrace.serving.decoding import Call
from headrace.serving.execution import Outcome
from headrace.serving.observer import Observer, Silent
from headrace.serving.streams import Parts

_SMOOTHING: Final = 0.2  # weight of the last predict in the mean that retry_after_seconds is estimated from
_LEAST_RETRY_SECONDS: Final = 0.001
_PURGE_SECONDS: Final = 0.01  # between two looks at a full queue for those who left it
_UNCOUNTED: Final[Observer] = Silent()  # hears of calls that are no predicts
_TURN_NS: Final = 1_000_000  # a lane on the loop lets the loop turn between batches once these have passed


@dataclass(frozen=True, kw_only=True)
class Batching:
    """How a model's requests are merged."""

    max_batch_size: int = 64
    """Rows of one predict at most; 1 turns merging off. A single request of more rows runs alone."""
    max_wait_seconds: float = 0.0
    """How long a request may wait for neighbours though the model is free. 0: not at all."""
    max_queue_size: int = 1000
    """Requests that may wait; one more is Overloaded."""


# -- policy: pure --


def key(call: Call) -> Hashable:
    """What neighbours have in common."""
    arrays = call.arrays
    if len(arrays) == 1:
        ((name, array),) = arrays.items()
        return (name, array.dtype, array.shape[1:], call.outputs, _key_of(call.parameters) if call.parameters else ())
    shapes = tuple([(name, array.dtype, array.shape[1:]) for name, array in sorted(arrays.items())])
    return (shapes, call.outputs, _key_of(call.parameters) if call.parameters else ())


def _key_of(parameters: Parameters) -> Hashable:
    """Parameters as something that hashes; 1, 1.0 and True stay apart."""
    return tuple(sorted((name, type(value).__name__, str(value)) for name, value in parameters.items()))


def merge(calls: Sequence[Call]) -> Call:
    """One call of equal `key`s' rows, in order; a single one is itself, uncopied."""
    first = calls[0]
    if len(calls) == 1:
        return first
    arrays: dict[str, Array] = {name: np.concatenate([call.arrays[name] for call in calls]) for name in first.arrays}
    return Call(arrays, first.outputs, first.parameters, sum([call.rows for call in calls]))


def split(tensors: Sequence[Tensor], rows: Sequence[int]) -> list[tuple[Tensor, ...]]:
    """Each caller's rows of a merged answer, as views, in order.

    Raises:
        RuntimeFailed: an output has another number of rows than all callers together; checked before any is cut.
    """
    total = sum(rows)
    for tensor in tensors:
        shape = tensor.data.shape
        if not shape or shape[0] != total:
            raise RuntimeFailed(
                f"output '{tensor.name}' has shape [{','.join(map(str, shape))}] for a batch of {total} rows; "
                f"expected one row out for each row in"
            )
    answers = []
    start = 0
    for count in rows:
        stop = start + count
        answers.append(
            tuple([Tensor(each.name, each.datatype, each.data[start:stop], each.parameters) for each in tensors])
        )
        start = stop
    return answers


class Merging(NamedTuple):
    """How requests of one kind merge: of arrays here, whole ones in `whole`."""

    key: Callable[[Call], Hashable]
    merge: Callable[[Sequence[Call]], Call]
    split: Callable[[Outcome, Sequence[int]], Sequence[Any]]
    """Raises RuntimeFailed when the outcome has another number of rows than all callers together."""


ARRAYS: Final = Merging(key, merge, lambda outcome, rows: split(outcome.tensors, rows))


# -- the queue --


class Lane(Protocol):
    """Somewhere a predict can run. Calls `done` on the loop, exactly once for each call."""

    @property
    def depth(self) -> int:
        """Calls it takes at once; 0 while it cannot take any."""
        ...

    @property
    def in_flight(self) -> int:
        """Calls it has not ended yet."""
        ...

    def start(self, call: Call, done: Callable[[Outcome], None]) -> Callable[[], None] | None:
        """Predict. What comes back, if anything, stops it when nobody waits any more."""
        ...

    def start_stream(self, call: Call, parts: Parts, done: Callable[[Outcome], None]) -> None:
        """Put partial answers until they end; `done` then tells how, with no tensors."""
        ...


class _Member:
    """A request in the queue or in a predict."""

    __slots__ = ("alone", "call", "deadline", "queued_ns", "trace", "waits")

    def __init__(
        self,
        call: Call,
        waits: asyncio.Future[Any] | Parts,
        deadline: float | None,
        trace: Trace | None,
    ) -> None:
        self.call = call
        self.trace = trace
        self.waits = waits
        self.deadline = deadline
        self.alone = False
        self.queued_ns = time.perf_counter_ns()


class Batcher:
    """The queue of one model, and the lanes that empty it. Used on the event loop only."""

    def __init__(
        self,
        model: str,
        batching: Batching,
        lanes: Sequence[Lane],
        observer: Observer,
        *,
        merges: bool,
        merging: Merging = ARRAYS,
    ) -> None:
        self._model = model
        self._batching = batching
        self._lanes = lanes
        self._observer = observer
        self._merges = merges and batching.max_batch_size > 1
        self._key, self._merge, self._split = merging
        self._loop = asyncio.get_running_loop()
        self._groups: dict[Hashable, deque[_Member]] = {}  # by key; the one whose turn is next comes first
        self._waiting = 0
        self._running: dict[int, list[_Member]] = {}
        self._due: asyncio.Handle | None = None  # the flush that is scheduled
        self._linger: asyncio.TimerHandle | None = None
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_at = float("inf")
        self._idle: list[asyncio.Future[None]] = []
        self._flushing = False
        self._purge_from = 0.0
        self._predict_seconds = 0.0
        self._batch_requests = 1.0
        self.refuses = ""
        """Why it takes nothing now; empty: it does."""
        self.last_requests = 0
        """How many requests shared the last predict."""

    def __repr__(self) -> str:
        return f"<Batcher {self._model} waiting={self._waiting} running={len(self._running)}>"

    def submit(self, call: Call, deadline: float | None = None, trace: Trace | None = None) -> asyncio.Future[Any]:
        """Queue a call. Cancelling what comes back takes it out again. It becomes the tensors of the answer, or for a
        call with a whole request, the response.

        Args:
            call: What to predict.
            deadline: On the clock of `time.monotonic`; passing it answers DeadlineExceeded.
            trace: Told of the steps `queue` and `predict`.

        Raises:
            Overloaded: the queue is full.
            ModelNotReady: no lane is up.
        """
        future: asyncio.Future[Any] = self._loop.create_future()
        alone = not self._merges or call.rows <= 0
        self._add(object() if alone else self._key(call), _Member(call, future, deadline, trace))
        return future

    def open(self, call: Call, deadline: float | None = None, trace: Trace | None = None) -> Parts:
        """Queue a call answered by a stream, which has a lane to itself. Raises as `submit` does."""
        parts = Parts()
        self._add(object(), _Member(call, parts, deadline, trace))
        return parts

    def fail_waiting(self, reason: str) -> None:
        """Answer all that wait, and none that runs, with ModelNotReady."""
        for group in self._groups.values():
            for member in group:
                if not member.waits.done():
                    member.waits.set_exception(ModelNotReady(f"model '{self._model}' is not ready: {reason}"))
        self._groups.clear()
        self._waiting = 0
        self._tell_idle()

    def flush(self) -> None:
        """Give free lanes what waits. Called when something arrived, or a lane became free or came up."""
        if self._due is not None:
            self._due.cancel()
            self._due = None
        if self._flushing:  # a lane on the loop has just answered inside the loop below
            return
        self._flushing = True
        began = time.perf_counter_ns()
        try:
            while self._groups and (lane := self._free_lane()) is not None:
                batch = self._take()
                if not batch:
                    break
                self._start(lane, batch)
                if self._groups and time.perf_counter_ns() - began > _TURN_NS:
                    self._due = self._loop.call_soon(self.flush)
                    break
        finally:
            self._flushing = False
        self._observer.queued(self._waiting)
        self._tell_idle()

    async def drained(self) -> None:
        """Wait until nothing waits and nothing runs."""
        while self._waiting or self._running:
            idle = self._loop.create_future()
            self._idle.append(idle)
            await idle

    def close(self, reason: str) -> None:
        """Take nothing more; answer all that is still here with ModelNotReady."""
        self.refuses = reason
        self.fail_waiting(reason)
        for batch in self._running.values():
            for member in batch:
                if not member.waits.done():
                    member.waits.set_exception(ModelNotReady(f"model '{self._model}' is not ready: {reason}"))
        for handle in (self._due, self._linger, self._alarm):
            if handle is not None:
                handle.cancel()
        self._due = self._linger = self._alarm = None

    # -- in --

    def _add(self, group: Hashable, member: _Member) -> None:
        if self.refuses:
            raise ModelNotReady(f"model '{self._model}' is not ready: {self.refuses}")
        if self._waiting >= self._batching.max_queue_size:
            now = time.monotonic()
            if now >= self._purge_from:  # those who left do not take a place; not looked at for each that is refused
                self._purge()
                self._purge_from = now + _PURGE_SECONDS
            if self._waiting >= self._batching.max_queue_size:
                raise self._overloaded()
        members = self._groups.get(group)
        if members is None:
            self._groups[group] = deque((member,))
        else:
            members.append(member)
        self._waiting += 1
        if member.deadline is not None and member.deadline < self._alarm_at:
            self._set_alarm(member.deadline)
        if self._due is None:  # at the end of this turn of the loop, so that all who arrive in it are together
            self._due = self._loop.call_soon(self.flush)

    def _overloaded(self) -> Overloaded:
        predicts = self._waiting / max(1.0, self._batch_requests * max(1, len(self._lanes)))
        return Overloaded(
            f"model '{self._model}': {self._waiting} requests wait already (max_queue_size "
            f"{self._batching.max_queue_size}); try again later",
            retry_after_seconds=max(_LEAST_RETRY_SECONDS, predicts * self._predict_seconds),
        )

    # -- through --

    def _free_lane(self) -> Lane | None:
        best = None
        for lane in self._lanes:
            if lane.in_flight < lane.depth and (best is None or lane.in_flight < best.in_flight):
                best = lane
        return best

    def _take(self) -> list[_Member]:
        """The next batch, of those who still wait for an answer; empty when all may linger for neighbours."""
        now = time.monotonic()
        soonest = float("inf")
        for group in list(self._groups):
            members = self._groups[group]
            while members and self._left(members[0], now):
                members.popleft()
                self._waiting -= 1
            if not members:
                del self._groups[group]
                continue
            if self._batching.max_wait_seconds and (linger := self._lingers(members)) > 0:
                soonest = min(soonest, linger)
                continue
            del self._groups[group]
            batch = self._cut(members, now)
            if members:
                self._groups[group] = members  # behind the others: no key starves another
            return batch
        if soonest < float("inf"):
            if self._linger is not None:
                self._linger.cancel()
            self._linger = self._loop.call_later(soonest, self.flush)
        return []

    def _cut(self, members: deque[_Member], now: float) -> list[_Member]:
        batch = [members.popleft()]
        self._waiting -= 1
        rows = batch[0].call.rows
        limit = self._batching.max_batch_size
        while members:
            member = members[0]
            if self._left(member, now):
                members.popleft()
                self._waiting -= 1
                continue
            rows += member.call.rows
            if rows > limit:
                break
            batch.append(members.popleft())
            self._waiting -= 1
        return batch

    def _lingers(self, members: deque[_Member]) -> float:
        """Seconds that a group may still wait for neighbours; 0 or less: it goes now."""
        first = members[0]
        if not self._merges or first.alone or first.call.rows <= 0 or isinstance(first.waits, Parts):
            return 0.0
        if sum(member.call.rows for member in members) >= self._batching.max_batch_size:
            return 0.0
        return self._batching.max_wait_seconds - (time.perf_counter_ns() - first.queued_ns) / 1e9

    def _left(self, member: _Member, now: float) -> bool:
        """Whether nobody waits for it any more: cancelled, disconnected or, just now, expired."""
        if member.waits.done():
            return True
        if member.deadline is not None and member.deadline <= now:
            member.waits.set_exception(self._expired("while the request waited for it"))
            return True
        return False

    def _start(self, lane: Lane, batch: list[_Member]) -> None:
        self._running[id(batch)] = batch
        began = time.perf_counter_ns()
        first = batch[0]

        def done(outcome: Outcome) -> None:
            self._done(batch, began, outcome)

        if isinstance(first.waits, Parts):
            lane.start_stream(first.call, first.waits, done)
            return
        try:
            call = self._merge([member.call for member in batch])
        except (ValueError, MemoryError) as exc:  # the key was wrong, or there is no room for the batch
            error = RuntimeFailed(f"model '{self._model}': {len(batch)} requests could not be merged: {exc}")
            error.__cause__ = exc
            done(Outcome((), 0, error, separable=True))
            return
        stop = lane.start(call, done)
        if stop is not None and len(batch) == 1 and not first.waits.done():
            halt = stop
            first.waits.add_done_callback(
                lambda waits: halt() if waits.cancelled() or id(batch) in self._running else None
            )

    # -- out --

    def _done(self, batch: list[_Member], began: int, outcome: Outcome) -> None:
        del self._running[id(batch)]
        self.last_requests = len(batch)
        queue_ns = 0
        for member in batch:
            queue_ns += began - member.queued_ns
            if member.trace is not None:
                record(member.trace, member.queued_ns, began, time.perf_counter_ns())
        observer = self._observer
        if outcome.logged:
            observer.logged(outcome.logged)
        if isinstance(batch[0].call.request, RouteRequest):
            observer = _UNCOUNTED
        error = outcome.error
        if error is None:
            error = self._answer(batch, outcome)
        if error is None:
            rows = sum([max(1, member.call.rows) for member in batch])
            observer.executed(requests=len(batch), rows=rows, queue_ns=queue_ns, predict_ns=outcome.predict_ns)
        else:
            self._fail(batch, error, queue_ns, outcome, observer)
        self._predict_seconds += _SMOOTHING * (outcome.predict_ns / 1e9 - self._predict_seconds)
        self._batch_requests += _SMOOTHING * (len(batch) - self._batch_requests)
        if not self._flushing:
            self.flush()

    def _answer(self, batch: list[_Member], outcome: Outcome) -> HeadraceError | None:
        if len(batch) == 1:
            waits = batch[0].waits
            if isinstance(waits, Parts):
                waits.end()
            elif not waits.done():
                waits.set_result(outcome.tensors if outcome.response is None else outcome.response)
            return None
        try:
            answers = self._split(outcome, [member.call.rows for member in batch])
        except RuntimeFailed as exc:
            return exc
        for member, answer in zip(batch, answers, strict=True):
            waits = member.waits
            if not waits.done() and not isinstance(waits, Parts):
                waits.set_result(answer)
        return None

    def _fail(
        self, batch: list[_Member], error: HeadraceError, queue_ns: int, outcome: Outcome, observer: Observer
    ) -> None:
        if len(batch) > 1 and outcome.separable and not self.refuses:
            for member in batch:
                if not member.waits.done():
                    member.alone = True
                    self._groups[object()] = deque((member,))
                    self._waiting += 1
            return
        observer.failed(requests=len(batch), queue_ns=queue_ns, predict_ns=outcome.predict_ns)
        for member in batch:
            if not member.waits.done():
                member.waits.set_exception(error if len(batch) == 1 else _again(error))

    # -- deadlines --

    def _set_alarm(self, at: float) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm_at = at
        self._alarm = self._loop.call_later(max(0.0, at - time.monotonic()), self._expire)

    def _expire(self) -> None:
        """Answer those whose deadline has passed, and sleep until the next one's. One timer serves all."""
        self._alarm = None
        self._alarm_at = float("inf")
        now = time.monotonic()
        soonest = float("inf")
        for batch in self._running.values():
            for member in batch:
                if member.deadline is None or member.waits.done():
                    continue
                if member.deadline <= now:
                    member.waits.set_exception(self._expired("while it ran"))
                else:
                    soonest = min(soonest, member.deadline)
        self._purge()
        for group in self._groups.values():
            for member in group:
                if member.deadline is not None:
                    soonest = min(soonest, member.deadline)
        if soonest < float("inf"):
            self._set_alarm(soonest)

    def _purge(self) -> None:
        """Take those out of the queue who have left it."""
        now = time.monotonic()
        for group, members in list(self._groups.items()):
            staying = deque(member for member in members if not self._left(member, now))
            self._waiting -= len(members) - len(staying)
            if staying:
                self._groups[group] = staying
            else:
                del self._groups[group]
        self._tell_idle()

    def _expired(self, when: str) -> DeadlineExceeded:
        return DeadlineExceeded(
            f"model '{self._model}': the deadline of the request passed {when}; predict takes "
            f"{self._predict_seconds * 1000:.3g} ms, {self._waiting} requests wait"
        )

    def _tell_idle(self) -> None:
        if self._idle and not self._waiting and not self._running:
            for idle in self._idle:
                if not idle.done():
                    idle.set_result(None)
            self._idle.clear()


def record(trace: Trace, queued_ns: int, began_ns: int, ended_ns: int) -> None:
    """Tell a trace of the two steps, whose times come from `time.perf_counter_ns`."""
    epoch = time.time_ns() - time.perf_counter_ns()
    trace.record("queue", epoch + queued_ns, epoch + began_ns)
    trace.record("predict", epoch + began_ns, epoch + ended_ns)


def _again(error: HeadraceError) -> HeadraceError:
    """The same error for another caller: an exception object belongs to the one who raises it."""
    found = copy.copy(error)
    found.__cause__ = error.__cause__
    return found
