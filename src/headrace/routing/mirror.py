"""A mirror: a candidate that gets a copy of some requests, and whose answers nobody gets. `split` offers them.

It must cost its callers nothing. So an offer is an append to a bounded queue, or a count of what was dropped; what has
gathered within some milliseconds is sent on in one task: the first of a kind alone, so that the candidate's latency is
measured as it is, the rest of that kind as one request of many rows. Their answers are compared in one operation, too.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, Final

import msgspec
import numpy as np

from headrace.errors import DeadlineExceeded, InvalidRequest, NotSupported, RuntimeFailed
from headrace.payload import EMPTY, InferenceRequest, InferenceResponse, Parameters, Tensor
from headrace.routing import differences
from headrace.routing.shares import Candidate, Counted, Tally, is_failure

log = logging.getLogger(__name__)

_MOST_MERGED: Final = 128  # requests
_MOST_ROWS: Final = 256
_EXAMPLES: Final = 20
_EXAMPLES_A_CALL: Final = 2
_AT_ONCE: Final = 8  # calls under way, of a candidate that makes us wait
_ALONE: Final[Hashable] = None


class _Copy(msgspec.Struct, frozen=True, gc=False):
    """One request to be mirrored, and what its caller was answered."""

    request: InferenceRequest
    response: InferenceResponse | None
    size: int


class Mirror:
    """Copies a share of requests to a candidate, when there is time for it.

    Args:
        name: Of the experiment, for messages.
        candidate: Who gets them; its weight is the percent of requests that are copied.
        compares: Whether its answers are compared with the callers'.
        merges: Whether requests may be sent on as one of many rows: the candidate's rows do not depend on one another
            (`Signature.batchable`). Merged requests have no headers and no id. Turns itself off where answers show that
            it is not so.
        delay_seconds: How long a copy waits for others.
        timeout_seconds: For one call of the candidate; the callers' deadlines are their own.
        max_requests: Copies that may wait; more are dropped and counted.
        max_bytes: Of the copies that wait or are under way, their answers with them.
        seed: Makes the choice of requests repeatable.
        clock: Seconds, never going back.
    """

    def __init__(
        self,
        name: str,
        candidate: Candidate,
        *,
        compares: bool = False,
        merges: bool = True,
        delay_seconds: float = 0.02,
        timeout_seconds: float = 30.0,
        max_requests: int = 1024,
        max_bytes: int = 64 << 20,
        seed: int | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.name, self.candidate, self.compares = name, candidate, compares
        self._merges = merges
        self._delay_seconds, self._timeout_seconds = delay_seconds, timeout_seconds
        self._max_requests, self._max_bytes = max_requests, max_bytes
        self._random = random.Random(seed).random  # noqa: S311 - samples traffic, keeps no secret
        self._clock = clock
        self._share = 0.0
        self._waiting: deque[_Copy] = deque()
        self._bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        self.set_percent(candidate.weight)
        self.reset()

    def __repr__(self) -> str:
        return f"<Mirror {self.candidate.key} {len(self._waiting)} waiting, {self.dropped} dropped>"

    # -- what a split says --

    def offer(self, request: InferenceRequest, response: InferenceResponse | None) -> None:
        """Take a copy of a request that was answered (None: that failed), or leave it. Never waits, never raises."""
        if self._share < 1.0 and self._random() >= self._share:
            return
        size = _size(request.inputs) + (_size(response.outputs) if response is not None else 0)
        if self._closed or len(self._waiting) >= self._max_requests or self._bytes + size > self._max_bytes:
            self.dropped += 1
            return
        self._bytes += size
        self._waiting.append(_Copy(request, response if self.compares else None, size))
        if self._timer is None and self._task is None:
            self._timer = asyncio.get_running_loop().call_later(self._delay_seconds, self._begin)

    def set_percent(self, percent: float) -> None:
        """Copy this many of 100 requests from now on.

        Raises:
            InvalidRequest: it is none from 0 to 100.
        """
        if not 0 <= percent <= 100:
            raise InvalidRequest(f"experiment '{self.name}': the mirror's percent must be 0 to 100, got {percent}")
        self._share = percent / 100

    def reset(self) -> None:
        """Count anew."""
        self._tally = Tally()
        self.dropped = 0
        """Requests that found the queue full."""
        self._worst: dict[str, float] = {}
        self._differing: dict[str, int] = {}
        self._examples: deque[differences.Example] = deque(maxlen=_EXAMPLES)

    def counted(self) -> Counted:
        """What it has done since `reset`."""
        return self._tally.counted()

    def examples(self) -> list[dict[str, Any]]:
        """The last requests that were answered in two ways, as JSON values; newest last."""
        return [each.document() for each in self._examples]

    def summary(self) -> dict[str, Any]:
        """What was compared, as JSON values: answers compared and agreed, requests dropped, by output how many answers
        differ and the largest difference of numbers (null: what differs are no numbers), and the output that differs
        most often.
        """
        outputs = {
            name: {"differing": self._differing.get(name, 0), "difference": worst if np.isfinite(worst) else None}
            for name, worst in sorted(self._worst.items())
        }
        often = max(self._differing, key=lambda name: (self._differing[name], self._worst[name]), default="")
        return {
            "compared": self._tally.compared,
            "agreed": self._tally.agreed,
            "dropped": self.dropped,
            "outputs": outputs,
            "worst": often if self._differing.get(often) else "",
        }

    def close(self) -> None:
        """Forget what waits and end what runs."""
        self._closed = True
        self._waiting.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._task is not None:
            self._task.cancel()

    # -- sending on --

    def _begin(self) -> None:
        self._timer = None
        self._task = asyncio.get_running_loop().create_task(self._send_all(), name=f"mirror of {self.name}")
        self._task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._task = None
        if not task.cancelled() and task.exception() is not None:
            log.error("the mirror of experiment '%s' failed", self.name, exc_info=task.exception())
        if self._waiting and not self._closed:
            self._timer = asyncio.get_running_loop().call_later(self._delay_seconds, self._begin)

    async def _send_all(self) -> None:
        """Send on what waits. Between two calls the loop turns, so a caller waits for one of them at most."""
        taken, self._waiting = self._waiting, deque()
        calls: set[asyncio.Task[None]] = set()
        try:
            for group in self._grouped(taken):
                calls.add(asyncio.create_task(self._send(group)))
                await asyncio.sleep(0)  # a candidate on this loop has answered by now
                done = {call for call in calls if call.done()}
                if len(calls) - len(done) >= _AT_ONCE:
                    done, _ = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
                calls -= done
                _raise_first(done)
            if calls:
                done, calls = await asyncio.wait(calls)
                _raise_first(done)
        finally:
            self._bytes = sum(copy.size for copy in self._waiting)
            for call in calls:
                call.cancel()

    def _grouped(self, copies: Sequence[_Copy]) -> Iterator[list[_Copy]]:
        """Those that one call may answer, by kind; the first of each kind by itself."""
        if not self._merges:
            yield from ([copy] for copy in copies)
            return
        kinds: dict[Hashable, list[_Copy]] = {}
        for copy in copies:
            kind = _kind(copy.request)
            if kind is _ALONE:
                yield [copy]
            else:
                kinds.setdefault(kind, []).append(copy)
        for alike in kinds.values():
            yield alike[:1]
            rows, begin = 0, 1
            for index, copy in enumerate(itertools.islice(alike, 1, None), start=1):
                rows += copy.request.inputs[0].data.shape[0]
                if index - begin == _MOST_MERGED or (rows > _MOST_ROWS and index > begin):
                    yield alike[begin:index]
                    begin, rows = index, copy.request.inputs[0].data.shape[0]
            if begin < len(alike):
                yield alike[begin:]

    async def _send(self, group: list[_Copy]) -> None:
        """Ask the candidate for a group, note how it went, compare."""
        tally = self._tally
        if len(group) > 1 and not self._merges:
            await self._send_apart(group)
            return
        started = self._clock()
        try:
            response = await self._ask(_merged(group))
        except Exception as error:  # noqa: BLE001 - whatever a mirror does is nobody's failure but its own
            if len(group) > 1 and isinstance(error, InvalidRequest | RuntimeFailed | NotSupported):
                await self._send_apart(group)  # one of them may be to blame
                return
            tally.requests += len(group)
            if is_failure(error):
                tally.failures += len(group)
                if self.compares:  # the caller had an answer: none is another one
                    tally.compared += sum(copy.response is not None for copy in group)
            if len(group) == 1:
                tally.took(self._clock() - started)
            return
        took = self._clock() - started
        if len(group) > 1 and not _has_rows(response.outputs, sum(_rows(group))):
            self._merges = False  # rows in are not rows out: this candidate's answers cannot be told apart
            await self._send_apart(group)
            return
        tally.requests += len(group)
        if len(group) == 1:
            tally.took(took)
            request = group[0].request
            if self._merges and _kind(request) is not _ALONE and not _has_rows(response.outputs, sum(_rows(group))):
                self._merges = False
        if self.compares:
            self._compare(tally, group, response)

    async def _send_apart(self, group: list[_Copy]) -> None:
        for copy in group:
            await self._send([copy])
            await asyncio.sleep(0)

    async def _ask(self, request: InferenceRequest) -> InferenceResponse:
        limit = msgspec.structs.replace(request, deadline=time.monotonic() + self._timeout_seconds, trace=None)
        try:
            async with asyncio.timeout(self._timeout_seconds):
                return await self.candidate.infer(limit)
        except TimeoutError as error:
            raise DeadlineExceeded(f"the mirror '{self.candidate.key}' took too long") from error

    # -- comparison --

    def _compare(self, tally: Tally, group: list[_Copy], response: InferenceResponse) -> None:
        """Compare what can be compared: all at once where the callers' answers are of one kind."""
        if tally is not self._tally:
            return  # counts began anew in between
        rows = _rows(group) if len(group) > 1 else [0]
        if len(group) > 1:
            expected = [copy.response.outputs for copy in group if copy.response is not None]
            if len(expected) == len(group) and _alike(expected, rows):
                found = differences.compare(_concatenated(expected), response.outputs, rows)
                self._note(tally, group, response, rows, found)
                return
        begin = 0
        for copy, count in zip(group, rows, strict=True):
            if copy.response is not None:
                outputs = response.outputs if len(group) == 1 else _sliced(response.outputs, begin, begin + count)
                alone = msgspec.structs.replace(response, outputs=outputs)
                found = differences.compare(copy.response.outputs, outputs, (count,))
                self._note(tally, [copy], alone, [count], found)
            begin += count

    def _note(
        self,
        tally: Tally,
        group: list[_Copy],
        response: InferenceResponse,
        rows: Sequence[int],
        found: Sequence[differences.Found],
    ) -> None:
        tally.compared += len(group)
        tally.agreed += len(group)
        differs = np.zeros(len(group), np.bool_)
        for each in found:
            self._worst[each.output] = max(self._worst.get(each.output, 0.0), each.difference)
            count = int(np.count_nonzero(each.differs))
            self._differing[each.output] = self._differing.get(each.output, 0) + count
            if count:
                differs |= each.differs
        tally.agreed -= int(np.count_nonzero(differs))
        for index in np.flatnonzero(differs)[:_EXAMPLES_A_CALL].tolist():
            worst = max((each for each in found if each.differs[index]), key=lambda each: each.difference)
            copy = group[index]
            begin = sum(rows[:index])
            theirs = response.outputs if len(group) == 1 else _sliced(response.outputs, begin, begin + rows[index])
            ours = copy.response.outputs if copy.response is not None else ()
            self._examples.append(differences.example(copy.request, ours, theirs, worst.output, at=time.time()))


def _raise_first(done: set[asyncio.Task[None]]) -> None:
    for call in done:
        call.result()


def _size(tensors: Sequence[Tensor]) -> int:
    size = 0
    for tensor in tensors:
        size += tensor.data.nbytes
        if tensor.datatype == "BYTES":
            size += sum(len(each) if isinstance(each, bytes | str) else 64 for each in tensor.data.flat)
    return size


def _kind(request: InferenceRequest) -> Hashable:
    """What requests have in common that one call can answer; None: nothing with any."""
    inputs = request.inputs
    if request.outputs or not inputs:
        return _ALONE
    kind = _kind_of(inputs)
    if kind is _ALONE or (len(inputs) > 1 and len({tensor.data.shape[0] for tensor in inputs}) > 1):
        return _ALONE
    if not request.parameters:
        return kind
    parameters = _hashable(request.parameters)
    return _ALONE if parameters is _ALONE else (kind, parameters)


def _kind_of(tensors: Sequence[Tensor]) -> Hashable:
    if len(tensors) == 1 and not tensors[0].parameters:  # the usual case
        (tensor,) = tensors
        shape = tensor.data.shape
        return (tensor.name, tensor.datatype, shape[1:]) if shape else _ALONE
    kind: list[Hashable] = []
    for tensor in tensors:
        data = tensor.data
        if not data.ndim:
            return _ALONE
        kind += (tensor.name, tensor.datatype, data.shape[1:])
        if tensor.parameters:
            parameters = _hashable(tensor.parameters)
            if parameters is _ALONE:
                return _ALONE
            kind.append(parameters)
    return tuple(kind)


def _hashable(parameters: Parameters) -> Hashable:
    items = tuple((name, type(value).__name__, value) for name, value in sorted(parameters.items()))
    try:
        hash(items)
    except TypeError:
        return _ALONE
    return items


def _rows(group: Sequence[_Copy]) -> list[int]:
    return [copy.request.inputs[0].data.shape[0] for copy in group]


def _merged(group: Sequence[_Copy]) -> InferenceRequest:
    first = group[0].request
    if len(group) == 1:
        return first
    inputs = _concatenated([copy.request.inputs for copy in group])
    return msgspec.structs.replace(first, inputs=inputs, id="", headers=EMPTY)


def _concatenated(members: Sequence[Sequence[Tensor]]) -> tuple[Tensor, ...]:
    return tuple(
        Tensor(
            tensor.name,
            tensor.datatype,
            np.concatenate([each[index].data for each in members]),
            tensor.parameters,
            tensor.nested,
        )
        for index, tensor in enumerate(members[0])
    )


def _alike(answers: Sequence[Sequence[Tensor]], rows: Sequence[int]) -> bool:
    """Whether answers can be put one after the other: one kind, and as many rows as were asked."""
    kind = _kind_of(answers[0])
    if kind is _ALONE:
        return False
    for outputs, count in zip(answers, rows, strict=True):
        if _kind_of(outputs) != kind:
            return False
        for tensor in outputs:
            if tensor.data.shape[0] != count:
                return False
    return True


def _has_rows(tensors: Sequence[Tensor], rows: int) -> bool:
    return all(tensor.data.ndim and tensor.data.shape[0] == rows for tensor in tensors)


def _sliced(tensors: Sequence[Tensor], begin: int, end: int) -> tuple[Tensor, ...]:
    return tuple(Tensor(tensor.name, tensor.datatype, tensor.data[begin:end]) for tensor in tensors)
