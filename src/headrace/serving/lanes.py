"""Where a predict runs within this process: on the event loop, in a thread, or as a task of an async model.

The engine makes them, `batching` fills them. The lanes of other processes are in `workers`.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from headrace.errors import RuntimeFailed
from headrace.serving.decoding import Call
from headrace.serving.execution import Execution, Outcome, Piece
from headrace.serving.streams import WINDOW, Parts

Done = Callable[[Outcome], None]


class InlineLane:
    """The loop itself: for models that answer before a hand-over to a thread would have."""

    depth = 1

    def __init__(self, execution: Execution) -> None:
        self._execution = execution
        self.in_flight = 0

    def start(self, call: Call, done: Done) -> None:
        """Predict now; `done` has been called on return."""
        done(self._execution.attempt(call))

    def start_stream(self, call: Call, parts: Parts, done: Done) -> None:
        """Never: `placement.choose` gives a synchronous stream a thread, so that the loop turns between its parts."""
        parts.set_exception(RuntimeFailed(f"model '{self._execution.model}': a stream cannot run on the loop"))
        done(Outcome((), 0, RuntimeFailed("a stream cannot run on the loop")))


class ThreadLane:
    """One thread that owns one runtime, or shares one that says it is `concurrent`."""

    def __init__(self, execution: Execution) -> None:
        self._execution = execution
        self._loop = asyncio.get_running_loop()
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=f"headrace-{execution.model}", daemon=True)
        self.depth = 0
        self.in_flight = 0

    @property
    def alive(self) -> bool:
        """Whether the thread still runs."""
        return self._thread.is_alive()

    def open(self) -> None:
        """Start the thread. It is a daemon: a predict that never ends does not keep the process."""
        self._thread.start()
        self.depth = 1

    def close(self) -> None:
        """End the thread after what it does now."""
        self.depth = 0
        self._jobs.put(None)

    async def closed(self, seconds: float) -> None:
        """Wait for the thread to end, that long at most: a predict cannot be interrupted."""
        until = time.monotonic() + seconds
        pause = 0.001
        while self._thread.is_alive() and time.monotonic() < until:
            await asyncio.sleep(pause)
            pause = min(0.05, pause * 2)

    def start(self, call: Call, done: Done) -> None:
        """Predict in the thread."""
        self.in_flight += 1

        def job() -> None:
            outcome = self._execution.attempt(call)
            self._loop.call_soon_threadsafe(self._finish, done, outcome)

        self._jobs.put(job)

    def start_stream(self, call: Call, parts: Parts, done: Done) -> None:
        """Run the model's iterator in the thread, at most WINDOW parts ahead of the reader."""
        self.in_flight += 1
        room = threading.Semaphore(WINDOW)
        stopped = threading.Event()

        def stop() -> None:
            stopped.set()
            room.release()

        parts.on_room = room.release
        parts.on_stop = stop

        def put(part: Piece) -> bool:
            room.acquire()
            if not stopped.is_set():
                self._loop.call_soon_threadsafe(parts.put, part)
            return not stopped.is_set()

        def job() -> None:
            outcome = run_stream(self._execution, call, put) if not stopped.is_set() else Outcome((), 0)
            self._loop.call_soon_threadsafe(self._finish, done, outcome)

        self._jobs.put(job)

    def _finish(self, done: Done, outcome: Outcome) -> None:
        self.in_flight -= 1
        done(outcome)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                job()
            except RuntimeError:
                if not self._loop.is_closed():
                    raise
                return  # nobody is left to tell


class AsyncLane:
    """The loop, for a model whose predict is awaited: each call is a task of its own."""

    def __init__(self, execution: Execution, *, depth: int) -> None:
        self._execution = execution
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[Outcome]] = set()
        self.depth = depth
        self.in_flight = 0

    def start(self, call: Call, done: Done) -> Callable[[], None]:
        """Await the model in a task; what comes back cancels it."""
        return self._spawn(self._execution.attempting(call), done)

    def start_stream(self, call: Call, parts: Parts, done: Done) -> None:
        """Iterate the model in a task, at most WINDOW parts ahead of the reader."""
        room = asyncio.Semaphore(WINDOW)
        parts.on_room = room.release

        async def put(part: Piece) -> None:
            await room.acquire()
            parts.put(part)

        parts.on_stop = self._spawn(run_async_stream(self._execution, call, put), done)

    async def closed(self, seconds: float) -> None:
        """Cancel what runs, and wait for it that long at most."""
        self.depth = 0
        if self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks, timeout=seconds)

    def _spawn(self, work: Coroutine[Any, Any, Outcome], done: Done) -> Callable[[], None]:
        self.in_flight += 1
        inner = self._loop.create_task(work)
        self._tasks.add(inner)

        def finish(task: asyncio.Task[Outcome]) -> None:
            self._tasks.discard(task)
            self.in_flight -= 1
            if task.cancelled():  # by us when nobody waits, or by the model's own doing: either way it has ended
                error = RuntimeFailed(f"model '{self._execution.model}': predict was cancelled")
                done(Outcome((), 0, error))
            else:
                done(task.result())

        inner.add_done_callback(finish)

        def stop() -> None:
            inner.cancel()

        return stop


def run_stream(execution: Execution, call: Call, put: Callable[[Piece], bool]) -> Outcome:
    """Drive a synchronous stream to its end, or until `put` says that nobody reads any more."""
    began = time.perf_counter_ns()
    try:
        iterator = execution.stream(call)
        try:
            for answer in iterator:
                if not put(execution.piece(call, answer)):
                    break
        finally:
            if hasattr(iterator, "close"):
                iterator.close()  # the model's own clean-up runs here and now, not when memory is collected
        return Outcome((), time.perf_counter_ns() - began, logged=tuple(execution.runtime.logged()))
    except (Exception, SystemExit) as exc:  # noqa: BLE001 - a model may raise anything; it ends the stream alone
        return execution.failure(exc, time.perf_counter_ns() - began)


async def run_async_stream(execution: Execution, call: Call, put: Callable[[Piece], Awaitable[None]]) -> Outcome:
    """Drive an asynchronous stream to its end; `put` waits while the reader is behind."""
    began = time.perf_counter_ns()
    try:
        iterator = execution.stream(call)
        try:
            async for answer in iterator:
                await put(execution.piece(call, answer))
        finally:
            if hasattr(iterator, "aclose"):
                await iterator.aclose()
        return Outcome((), time.perf_counter_ns() - began, logged=tuple(execution.runtime.logged()))
    except (Exception, SystemExit) as exc:  # noqa: BLE001 - as above
        return execution.failure(exc, time.perf_counter_ns() - began)
