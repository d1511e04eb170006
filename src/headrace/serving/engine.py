"""A loaded model as an `Infer`: decode, submit, encode. The repository makes one for each model version it serves, the
routing table hands its `infer` to the server.

Two roads: *direct*, on the loop within the caller's own step, for models of microseconds while callers come one by one;
*gathered*, through the batcher, for everything else.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Final, NoReturn, TypeVar

import msgspec

from headrace.errors import DeadlineExceeded, ModelNotReady, NotFound
from headrace.payload import (
    DIGEST,
    Infer,
    InferenceRequest,
    InferenceResponse,
    Route,
    RouteRequest,
    RouteResponse,
    Signature,
    Tensor,
    Trace,
)
from headrace.runtimes.base import Runtime
from headrace.serving import placement as placing
from headrace.serving.alone import Alone
from headrace.serving.batching import ARRAYS, Batcher, Batching, Lane, record
from headrace.serving.build import RuntimeSpec, begin, build
from headrace.serving.decoding import Call, Decoder
from headrace.serving.execution import Execution
from headrace.serving.lanes import AsyncLane, InlineLane, ThreadLane
from headrace.serving.observer import Observer, Silent
from headrace.serving.whole import MERGING, WholeDecoder, completed
from headrace.serving.workers import WorkerPool

_CLOSE_SECONDS: Final = 5.0  # for a thread or a process to end once nothing runs in it any more
_log = logging.getLogger(__name__)
_T = TypeVar("_T")
OnState = Callable[[bool, str], None]


class Engine:
    """One model version. Made by `load_engine`; `infer` is the `Infer`.

    `infer` never awaits when the placement is inline and the model is quick: a server may step it and have the answer.
    Elsewhere it awaits one future. It needs no current task.
    """

    def __init__(
        self,
        spec: RuntimeSpec,
        *,
        model: Any = None,
        placement: str = "auto",
        replicas: int = 1,
        batching: Batching | None = None,
        warm_up: Sequence[Sequence[Tensor]] = (),
        predict_timeout_seconds: float = 60.0,
        observer: Observer | None = None,
        on_state: OnState | None = None,
    ) -> None:
        self.name = spec.name
        self.version = spec.version
        self.infer: Infer = self._not_started
        self.signature = Signature(platform="")
        self.choice = placing.Choice(placement="inline", reason="not started")
        self._spec = spec
        self._model = model
        self._wanted = placement
        self._replicas = replicas
        self._declared = batching
        self._batching = batching or Batching()
        self._warm_up = warm_up
        self._predict_timeout_seconds = predict_timeout_seconds
        self._observer: Observer = observer or Silent()
        self._on_state = on_state
        self._refuses = "it is not started"
        self._runtimes: list[Runtime] = []
        self._begun: list[Runtime] = []
        self._lanes: Sequence[Lane] = ()
        self._pool: WorkerPool | None = None
        self._decoder: Decoder | WholeDecoder = Decoder(self.name, self.signature)
        self._batcher: Batcher | None = None
        self._execution: Execution | None = None
        self._alone: Alone | None = None
        self._crowded = False
        self._turn: asyncio.Handle | None = None  # set from the first request of a turn of the loop to its end
        self.routes: tuple[Route, ...] = ()
        """Paths of the model's own, which `visit` answers."""
        self.streams = False
        """Whether the model answers with streams; `infer_stream` gives one part where it does not."""

    def __repr__(self) -> str:
        return f"<Engine {self.name} {self.choice.placement} {self._batcher or 'direct'}>"

    @property
    def placement(self) -> str:
        """`inline`, `thread` or `process`."""
        return self.choice.placement

    @property
    def pids(self) -> tuple[int, ...]:
        """Of its worker processes, those that are up; none where it predicts in this one."""
        return tuple(worker.pid for worker in self._pool.workers if worker.pid) if self._pool is not None else ()

    # -- the walk --

    async def _infer_directly(self, request: InferenceRequest) -> InferenceResponse:
        """Decode, predict, encode, without a single await."""
        if self._refuses:
            raise ModelNotReady(f"model '{self.name}' is not ready: {self._refuses}")
        if request.deadline is not None and request.deadline <= time.monotonic():
            raise DeadlineExceeded(f"model '{self.name}': the deadline of the request passed before predict")
        call = self._decoder.decode(request)

        execution = self._execution
        assert execution is not None
        began = time.perf_counter_ns()
        try:
            answer = execution.runtime.predict(execution.values(call.arrays), call.outputs, call.parameters)
            took = time.perf_counter_ns() - began
            tensors = execution.encode(answer, call.outputs, call.rows)
        except (Exception, SystemExit) as exc:
            outcome = execution.failure(exc, time.perf_counter_ns() - began)
            self._observer.failed(requests=1, queue_ns=0, predict_ns=outcome.predict_ns)
            assert outcome.error is not None
            if outcome.error is exc:
                raise
            raise outcome.error from exc
        self._observer.executed(requests=1, rows=call.rows if call.rows > 0 else 1, queue_ns=0, predict_ns=took)
        if request.trace is not None:
            record(request.trace, began, began, began + took)
        return InferenceResponse(model_name=self.name, outputs=tensors, model_version=self.version, id=request.id)

    async def _infer_by_crowd(self, request: InferenceRequest) -> InferenceResponse:
        """Directly while callers come one by one, gathered while several come in one turn of the loop.

        Alone, a caller has the least latency. Together, one predict for all costs less than the parts, and each step of
        the walk finds the processor's caches warm from the same step of the request before.
        """
        batcher = self._batcher
        assert batcher is not None
        if self._crowded:
            response = await self._infer_gathered(request)
            self._crowded = batcher.last_requests > 1
            return response
        if self._turn is not None:
            self._crowded = True
            return await self._infer_gathered(request)
        self._turn = asyncio.get_running_loop().call_soon(self._turn_over)
        return await self._infer_directly(request)

    def _turn_over(self) -> None:
        self._turn = None

    async def _infer_gathered(self, request: InferenceRequest) -> InferenceResponse:
        """Decode, submit, encode: one await, on the future of the batch."""
        batcher = self._batcher
        assert batcher is not None
        deadline = request.deadline
        if deadline is not None and deadline <= time.monotonic():
            raise DeadlineExceeded(f"model '{self.name}': the deadline of the request passed before predict")
        future = batcher.submit(self._decoder.decode(request), deadline, request.trace)
        try:
            tensors = await future
        finally:
            if not future.done():  # the caller left: so does its request
                future.cancel()
        return InferenceResponse(model_name=self.name, outputs=tensors, model_version=self.version, id=request.id)

    async def _infer_whole(self, request: InferenceRequest) -> InferenceResponse:
        """Submit as it came, complete what comes back."""
        response: InferenceResponse = await self._submit(self._decoder.decode(request), request.deadline, request.trace)
        return completed(response, request, self.name, self.version)

    async def _submit(self, call: Call, deadline: float | None, trace: Trace | None = None) -> Any:
        batcher = self._batcher
        assert batcher is not None
        if deadline is not None and deadline <= time.monotonic():
            raise DeadlineExceeded(f"model '{self.name}': the deadline of the request passed before predict")
        future = batcher.submit(call, deadline, trace)
        try:
            return await future
        finally:
            if not future.done():
                future.cancel()

    async def _not_started(self, request: InferenceRequest) -> InferenceResponse:
        raise ModelNotReady(f"model '{self.name}' is not ready: {self._refuses}")

    async def infer_stream(self, request: InferenceRequest) -> AsyncIterator[InferenceResponse]:
        """Partial answers as the model gives them; a model that does not stream gives its one answer.

        Close the iterator to stop the model early. The model waits while the reader is behind.
        """
        if not self.streams:
            yield await self.infer(request)
            return
        batcher = self._batcher
        assert batcher is not None
        parts = batcher.open(self._decoder.decode(request), request.deadline, request.trace)
        try:
            async for part in parts:
                if isinstance(part, InferenceResponse):
                    yield completed(part, request, self.name, self.version)
                    continue
                yield InferenceResponse(model_name=self.name, outputs=part, model_version=self.version, id=request.id)
        finally:
            parts.close()

    async def visit(self, request: RouteRequest) -> RouteResponse:
        """Answer a request to one of the model's own routes, where and as `infer` answers others.

        Raises:
            NotFound: the model has no such route.
        """
        if self._batcher is None or all(route.name != request.route for route in self.routes):
            raise NotFound(f"model '{self.name}' has no route {request.route!r}")
        response: RouteResponse = await self._submit(Call({}, request=request), request.deadline)
        return response

    # -- start and close --

    async def start(self) -> None:
        """Load the model, warm it up, and choose where it runs.

        Raises:
            LoadFailed: or a subclass: it cannot be served.
            SettingsError: a setting asks for what this model cannot have.
        """
        movable = self._model is None
        if self._wanted == "process" or self._spec.environment:
            measured = placing.Measurement(movable=movable, environment=self._spec.environment)
            self.choice = placing.choose(measured, self._wanted, model=self.name)
            await self._start_process()
        else:
            await self._start_here(movable=movable)
        properties = {**self.signature.properties, "placement.reason": self.choice.reason}
        if self._spec.digest:
            properties[DIGEST] = f"sha256:{self._spec.digest}"
        self.signature = msgspec.structs.replace(self.signature, properties=properties)
        self._refuses = ""

    async def _start_here(self, *, movable: bool) -> None:
        runtime, signature = await self._build()
        self._runtimes.append(runtime)
        try:
            if runtime.is_async:
                signature = await begin(self._spec, runtime, signature)
                self._begun.append(runtime)
            execution = Execution(self.name, runtime, signature)
            logged = tuple(runtime.logged())  # before warm-up, whose values are of no request
            measured = await self._measure(execution, movable=movable)
            self.choice = placing.choose(measured, self._wanted, model=self.name)
            if self.choice.placement == "process":
                self._runtimes.remove(runtime)
                await _in_thread(runtime.unload, f"unload-{self.name}")
                await self._start_process()
                return
            self._serve(execution)
            if logged:
                self._observer.logged(logged)
            if self.choice.placement == "thread":
                await self._start_threads(execution)
            elif runtime.is_async:
                lane = AsyncLane(execution, depth=self._batching.max_queue_size)
                merges = signature.batchable and self._declared is not None
                self._gather([lane], merges=merges, whole=runtime.whole)
                if runtime.whole and not merges:
                    depth = self._batching.max_queue_size
                    self._alone = Alone(self.name, self.version, execution, self._observer, depth=depth)
                    self.infer = self._alone.infer
            elif signature.batchable and (self.choice.merges or self._batching.max_wait_seconds > 0):
                self._gather([InlineLane(execution)], merges=True)
            elif signature.batchable and self._batching.max_batch_size > 1:
                self._gather([InlineLane(execution)], merges=True)
                self.infer = self._infer_by_crowd
            else:
                if self.routes:
                    self._gather([InlineLane(execution)], merges=False)
                self.infer = self._infer_directly
        except BaseException:
            await self._release(0.0)
            raise

    async def _build(self) -> tuple[Runtime, Signature]:
        return await _in_thread(
            lambda: build(self._spec, model=self._model), f"load-{self.name}", undo=lambda built: built[0].unload()
        )

    async def _measure(self, execution: Execution, *, movable: bool) -> placing.Measurement:
        if not execution.runtime.is_async:
            return await _in_thread(
                lambda: placing.warm_up(execution, self._warm_up, movable=movable), f"warm-up-{self.name}"
            )
        await placing.warm_up_async(execution, self._warm_up)
        return placing.Measurement(is_async=True, streams=execution.runtime.streams, movable=movable)

    async def _start_threads(self, execution: Execution) -> None:
        lanes = [ThreadLane(execution)]
        for _ in range(self._replicas - 1):
            if execution.runtime.concurrent or self._model is not None:
                # An object in memory cannot be loaded twice; one that is not `concurrent` keeps to one thread.
                if not execution.runtime.concurrent:
                    break
                lanes.append(ThreadLane(execution))
                continue
            runtime, signature = await self._build()
            self._runtimes.append(runtime)
            lanes.append(ThreadLane(Execution(self.name, runtime, signature)))
        for lane in lanes:
            lane.open()
        self._gather(lanes, merges=execution.signature.batchable)

    async def _start_process(self) -> None:
        self._pool = WorkerPool(
            self._spec,
            replicas=self._replicas,
            warm_up=self._warm_up,
            predict_timeout_seconds=self._predict_timeout_seconds,
            observer=self._observer,
            on_state=self._state_changed,
        )
        loaded = await self._pool.start()
        self.signature = loaded.signature
        self.streams = loaded.streams
        self.routes = loaded.routes
        self._decoder = Decoder(self.name, loaded.signature)
        merges = loaded.signature.batchable and (not loaded.is_async or self._declared is not None)
        self._gather(self._pool.workers, merges=merges, whole=loaded.whole)
        self._pool.on_free = self._flush

    def _serve(self, execution: Execution) -> None:
        self._execution = execution
        self.signature = execution.signature
        self.streams = execution.runtime.streams
        self.routes = tuple(execution.runtime.routes)
        self._decoder = Decoder(self.name, execution.signature)

    def _gather(self, lanes: Sequence[Lane], *, merges: bool, whole: bool = False) -> None:
        self._lanes = lanes
        merging = MERGING if whole else ARRAYS
        self._batcher = Batcher(self.name, self._batching, lanes, self._observer, merges=merges, merging=merging)
        self.infer = self._infer_whole if whole else self._infer_gathered
        if whole:
            self._decoder = WholeDecoder(batchable=self.signature.batchable)

    def _flush(self) -> None:
        if self._batcher is not None:
            self._batcher.flush()

    def _state_changed(self, ready: bool, reason: str) -> None:
        """A worker came up, or the last one went down."""
        if self._batcher is not None:
            self._batcher.refuses = "" if ready else reason
            if ready:
                self._batcher.flush()
            else:
                self._batcher.fail_waiting(reason)
        if self._on_state is not None:
            self._on_state(ready, reason)

    async def close(self, drain_seconds: float = 30.0) -> None:
        """Let what is in flight end, then give everything back. Requests that come meanwhile are still answered.

        Args:
            drain_seconds: How long to wait; whoever waits longer is answered ModelNotReady.
        """
        kept = [each for each in (self._batcher, self._alone) if each is not None]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(drain_seconds):
                for each in kept:
                    await each.drained()
        self._refuses = "it was unloaded"
        for each in kept:
            each.close(self._refuses)
        await self._release(_CLOSE_SECONDS)

    async def _release(self, seconds: float) -> None:
        if self._pool is not None:
            await self._pool.close()
            self._pool = None
        threads = [lane for lane in self._lanes if isinstance(lane, ThreadLane)]
        for lane in threads:
            lane.close()
        for each in self._lanes:
            if isinstance(each, (ThreadLane, AsyncLane)):
                await each.closed(seconds)
        if any(lane.alive for lane in threads):
            _log.warning("model '%s': a predict does not end; its thread and its model stay in memory", self.name)
            return
        runtimes, self._runtimes = self._runtimes, []
        begun, self._begun = self._begun, []
        try:
            for runtime in begun:
                await runtime.end()
        finally:
            for runtime in runtimes:
                await _in_thread(runtime.unload, f"unload-{self.name}")


async def load_engine(
    spec: RuntimeSpec,
    *,
    model: Any = None,
    placement: str = "auto",
    replicas: int = 1,
    batching: Batching | None = None,
    warm_up: Sequence[Sequence[Tensor]] = (),
    predict_timeout_seconds: float = 60.0,
    observer: Observer | None = None,
    on_state: OnState | None = None,
) -> Engine:
    """Load a model, warm it up, place it, and give its started engine.

    Args:
        spec: What to load.
        model: The object itself, when it is in memory already.
        placement: `auto`, `inline`, `thread` or `process`.
        replicas: Threads or processes; inline has one.
        batching: None: the defaults, and an async model is not merged.
        warm_up: Requests' inputs to predict before the first caller does; a failure fails the load.
        predict_timeout_seconds: How long a worker process may be silent over a predict before it is replaced.
        observer: Told of predicts, queue depths and restarts.
        on_state: Told, on the loop, when the last worker process goes down (False, why) and when one is back (True).

    Raises:
        LoadFailed: or a subclass: the model cannot be served.
        SettingsError: a setting is wrong, or asks for what this model cannot have.
    """
    engine = Engine(
        spec,
        model=model,
        placement=placement,
        replicas=replicas,
        batching=batching,
        warm_up=warm_up,
        predict_timeout_seconds=predict_timeout_seconds,
        observer=observer,
        on_state=on_state,
    )
    await engine.start()
    return engine


async def _in_thread(work: Callable[[], _T], name: str, *, undo: Callable[[_T], None] | None = None) -> _T:
    """Run blocking work in a thread of its own. Loads are rare and long: they share no pool with anybody.

    Work cannot be interrupted: when the caller is cancelled it runs on, and `undo` gets what comes of it.
    """
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[Callable[[], _T]] = loop.create_future()

    def finish(outcome: Callable[[], _T], back: Callable[[], None] | None) -> None:
        if not ended.done():
            ended.set_result(outcome)
        elif back is not None:
            threading.Thread(target=back, name=f"headrace-{name}", daemon=True).start()

    def run() -> None:
        outcome: Callable[[], _T]
        back = None
        try:
            result = work()
        except BaseException as exc:  # noqa: BLE001 - it is raised where the work is awaited
            outcome = functools.partial(_raise, exc)
        else:
            outcome = lambda: result  # noqa: E731 - the twin of the line above
            back = functools.partial(undo, result) if undo is not None else None
        with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile: nobody waits
            loop.call_soon_threadsafe(finish, outcome, back)

    threading.Thread(target=run, name=f"headrace-{name}", daemon=True).start()
    return (await ended)()


def _raise(exc: BaseException) -> NoReturn:
    raise exc
