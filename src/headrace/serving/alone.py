"""Whole requests on the loop, each in its caller's own task: the road of a runtime that takes them whole and merges
none. The engine takes it where the model is inline.

The model's code may ask for the task it runs in (`asyncio.timeout`, `TaskGroup`), so a caller who has none yet waits
for one; a task of the model's own, a queue and a future to hand the answer back would cost as much again as a small
model.
"""

from __future__ import annotations

import asyncio
import time

from headrace.errors import DeadlineExceeded, HeadraceError, ModelNotReady, Overloaded, RuntimeFailed
from headrace.payload import InferenceRequest, InferenceResponse
from headrace.serving.batching import record
from headrace.serving.execution import Execution
from headrace.serving.observer import Observer
from headrace.serving.whole import completed, rows_of


class Alone:
    """The requests that one model answers now.

    Args:
        name: The model's.
        version: The model's.
        execution: Of a whole runtime.
        observer: Told of predicts.
        depth: How many may run at once; one more is Overloaded.
    """

    def __init__(self, name: str, version: str, execution: Execution, observer: Observer, *, depth: int) -> None:
        self._name, self._version = name, version
        self._execution, self._observer, self._depth = execution, observer, depth
        self._batchable = execution.signature.batchable
        self._running: dict[asyncio.Task[object], float] = {}  # to its deadline
        self._ended: dict[asyncio.Task[object], HeadraceError] = {}  # cancelled by us, with what the caller is told
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_at = float("inf")
        self._idle: asyncio.Event = asyncio.Event()
        self._idle.set()
        self._refuses = ""

    async def infer(self, request: InferenceRequest) -> InferenceResponse:
        """Have the model answer, in this task.

        Raises:
            ModelNotReady: it is being unloaded.
            Overloaded: too many run.
            DeadlineExceeded: the request's deadline passed; the model's code was cancelled.
        """
        task = asyncio.current_task()
        while task is None:
            await asyncio.sleep(0)
            task = asyncio.current_task()
        deadline = float("inf") if request.deadline is None else request.deadline
        self._admit(task, deadline)
        execution = self._execution
        began = time.perf_counter_ns()
        try:
            response = execution.checked(await execution.runtime.answer(request))
        except asyncio.CancelledError as cancelled:
            error = self._ended.pop(task, None)
            self._observer.failed(requests=1, queue_ns=0, predict_ns=time.perf_counter_ns() - began)
            if error is not None:
                task.uncancel()
                raise error from cancelled
            if task.cancelling():  # the caller left
                raise
            raise RuntimeFailed(f"model '{self._name}': predict was cancelled") from cancelled
        except (Exception, SystemExit) as exc:
            outcome = execution.failure(exc, time.perf_counter_ns() - began)
            self._observer.failed(requests=1, queue_ns=0, predict_ns=outcome.predict_ns)
            if outcome.logged:
                self._observer.logged(outcome.logged)
            assert outcome.error is not None
            raise outcome.error from exc
        finally:
            del self._running[task]
            if self._ended.pop(task, None) is not None:  # the model's code was quicker, or would not be cancelled
                task.uncancel()
            if not self._running:
                self._idle.set()
        took = time.perf_counter_ns() - began
        rows = rows_of(request.inputs) if self._batchable else 1
        self._observer.executed(requests=1, rows=max(1, rows), queue_ns=0, predict_ns=took)
        if logged := execution.runtime.logged():
            self._observer.logged(logged)
        if request.trace is not None:
            record(request.trace, began, began, began + took)
        return completed(response, request, self._name, self._version)

    async def drained(self) -> None:
        """Wait until none runs."""
        await self._idle.wait()

    def close(self, reason: str) -> None:
        """Take nothing more; whoever still waits is told so."""
        self._refuses = reason
        for task in list(self._running):
            self._end(task, ModelNotReady(f"model '{self._name}' is not ready: {reason}"))
        if self._alarm is not None:
            self._alarm.cancel()

    def _admit(self, task: asyncio.Task[object], deadline: float) -> None:
        if self._refuses:
            raise ModelNotReady(f"model '{self._name}' is not ready: {self._refuses}")
        if deadline <= time.monotonic():
            raise DeadlineExceeded(f"model '{self._name}': the deadline of the request passed before predict")
        if len(self._running) >= self._depth:
            raise Overloaded(
                f"model '{self._name}': {len(self._running)} requests run already (max_queue_size {self._depth}); "
                "try again later"
            )
        self._running[task] = deadline
        self._idle.clear()
        if deadline < self._alarm_at:
            self._set_alarm(deadline)

    def _set_alarm(self, at: float) -> None:
        """One timer serves all: deadlines come in order, mostly."""
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm_at = at
        self._alarm = asyncio.get_running_loop().call_later(max(0.0, at - time.monotonic()), self._expire)

    def _expire(self) -> None:
        self._alarm, self._alarm_at = None, float("inf")
        now = time.monotonic()
        for task, deadline in list(self._running.items()):
            if deadline <= now and task not in self._ended:
                self._end(task, DeadlineExceeded(f"model '{self._name}': the deadline passed while the request ran"))
        ahead = min((deadline for deadline in self._running.values() if deadline > now), default=float("inf"))
        if ahead < float("inf"):
            self._set_alarm(ahead)

    def _end(self, task: asyncio.Task[object], error: HeadraceError) -> None:
        self._ended[task] = error
        task.cancel()
