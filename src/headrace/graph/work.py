"""A step of a pipeline at work: what it calls, and how calls run beside one another. `run` makes one for each step."""

from __future__ import annotations

import asyncio
import functools
import inspect
import time
import types
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any, Final, NamedTuple, TypeVar, cast

import msgspec

from headrace.errors import HeadraceError, InvalidRequest, RuntimeFailed, located
from headrace.graph import conditions, spec
from headrace.graph.batch import Gatherer
from headrace.graph.combine import Combiner
from headrace.graph.compile import Node, Slot
from headrace.graph.flow import Given
from headrace.graph.route import Router
from headrace.payload import EMPTY, Infer, InferenceRequest, InferenceResponse, Parameters, RequestedOutput

_T = TypeVar("_T")
_TICK: Final = 0.001  # seconds; clocks of loops are coarse: a timer that fires early would find nothing to do

Answer = InferenceResponse | tuple[str, ...]
"""What a step gives; of a router, the branches it chose."""
Outcome = Answer | HeadraceError
"""How a call of a step ended."""


class StepCounts(msgspec.Struct, frozen=True, kw_only=True):
    """What one step has done since the pipeline was made."""

    requests: int = 0
    """Calls, whatever came of them."""
    failures: int = 0
    seconds: float = 0.0
    """In calls, all together."""
    dropped: int = 0
    """Calls off the path that were not made because too many ran."""


class Work:
    """A node at work: what to call, and how often it was."""

    __slots__ = (
        "combiner",
        "condition",
        "dropped",
        "failures",
        "gatherer",
        "index",
        "infer",
        "model",
        "nanoseconds",
        "node",
        "outputs",
        "parameters",
        "requests",
        "router",
        "slot",
        "soft",
        "takes",
        "timeout_seconds",
        "version",
        "waits",
        "when",
    )

    def __init__(self, node: Node, step: spec.Step) -> None:
        self.node = node
        self.index = node.index
        self.model = step.pipeline or step.model or step.name
        self.version = step.version
        self.parameters: Parameters = EMPTY if step.python else step.parameters
        self.outputs: tuple[RequestedOutput, ...] = ()  # none: what it gives unasked
        self.soft = step.dependency == "soft"
        self.takes = ""
        """The only input of the model: one tensor from another step is that one, whatever its name."""
        self.timeout_seconds = step.timeout_ms / 1000
        self.slot: Slot | None = None if node.slots[0].plain else node.slots[0]
        self.infer: Infer | None = None
        self.gatherer: Gatherer | None = None
        self.condition: Callable[[InferenceRequest], bool] | None = None
        self.combiner: Combiner | None = None
        self.router: Router | None = None
        self.when = step.when
        self.waits = True  # until a call has been seen that did not
        self.requests = self.failures = self.nanoseconds = self.dropped = 0

    async def call(self, given: Given, ask: InferenceRequest) -> Answer:
        """What the step answers; of a router, the branches it chose."""
        if self.infer is not None:
            return await self.infer(ask)
        if self.combiner is not None:
            assert not isinstance(given, tuple)
            combined = self.combiner(given)
            outputs = await _in_task(combined) if inspect.isawaitable(combined) else combined
            return InferenceResponse(model_name=self.model, outputs=tuple(outputs), id=ask.id)
        assert self.router is not None
        choice = self.router.choose(ask)
        branches = tuple(await _in_task(choice) if inspect.isawaitable(choice) else choice)
        for branch in branches:
            if branch not in self.node.branch_ports:
                known = ", ".join(self.node.branch_ports)
                raise RuntimeFailed(f"the router chose branch '{branch}'; its branches are {known}")
        return branches


class Sources(NamedTuple):
    """Where a pipeline gets what its steps call."""

    ask: Callable[[spec.Step], Infer]
    combiner: Callable[[spec.Step], Combiner]
    router: Callable[[spec.Step], Router]


def work_of(name: str, node: Node, step: spec.Step, of: Sources) -> Work:
    """A step of a pipeline, ready to be called.

    Raises:
        InvalidRequest: its condition cannot be understood.
    """
    work = Work(node, step)
    where = f"pipeline '{name}' step '{step.name}'"
    if step.combine is not None:
        work.combiner = of.combiner(step)
    elif step.route is not None:
        work.router = of.router(step)
    else:
        work.infer = of.ask(step)
        if step.batch is not None and step.batch.size > 0:
            work.gatherer = Gatherer(work.infer, where=where, size=step.batch.size, window_ms=step.batch.window_ms)
            work.infer = work.gatherer.infer
    if step.when:
        try:
            work.condition = conditions.condition(step.when)
        except InvalidRequest as exc:
            raise located(exc, where) from exc
    return work


class Running:
    """The calls of one request that run in tasks of their own."""

    __slots__ = ("_loop", "_wake", "ended", "tasks")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.tasks: dict[asyncio.Task[Outcome], tuple[Work, Given]] = {}
        self.ended: deque[asyncio.Task[Outcome]] = deque()
        self._loop = loop
        self._wake: asyncio.Future[None] | None = None

    def start(self, work: Work, given: Given, call: Coroutine[Any, Any, Outcome]) -> None:
        """Begin a call."""
        task = self._loop.create_task(call)
        self.tasks[task] = (work, given)
        task.add_done_callback(self._done)

    def take(self) -> tuple[Work, Given, Outcome]:
        """One that has ended. Raises what it raised."""
        task = self.ended.popleft()
        work, given = self.tasks.pop(task)
        return work, given, task.result()

    async def wait(self, next_window: Callable[[float], float | None], deadline: float | None) -> None:
        """Until one has ended, or it is time to look at windows and the deadline."""
        if self.ended:
            return
        now = time.monotonic()
        until = next_window(now)
        if deadline is not None and (until is None or deadline < until):
            until = deadline
        self._wake = self._loop.create_future()
        timer = None if until is None else self._loop.call_later(max(0.0, until - now) + _TICK, self._look)
        try:
            await self._wake
        finally:
            self._wake = None
            if timer is not None:
                timer.cancel()

    def _look(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    def _done(self, task: asyncio.Task[Outcome]) -> None:
        self.ended.append(task)
        if not task.cancelled():
            task.exception()  # whoever dismissed it does not ask
        self._look()


async def _in_task(call: Awaitable[_T]) -> _T:
    """Await other people's code, which may ask for the task it runs in: a request's first step has none yet."""
    while asyncio.current_task() is None:  # noqa: ASYNC110 - a turn of the loop is all there is to wait for
        await asyncio.sleep(0)
    return await call


@types.coroutine
def stepped(work: Work, call: Awaitable[_T]) -> Generator[Any, Any, _T]:
    """Await a call, and learn whether it waits: one that never does gains nothing from a task of its own."""
    steps = call.__await__()
    try:
        waited_for = next(steps)
    except StopIteration as done:
        work.waits = False
        return cast("_T", done.value)
    work.waits = True
    while True:
        try:
            sent = yield waited_for
        except GeneratorExit:
            steps.close()
            raise
        except BaseException as exc:  # noqa: BLE001 - it is the call's
            resume: Callable[[], Any] = functools.partial(steps.throw, exc)
        else:
            resume = functools.partial(steps.send, sent)
        try:
            waited_for = resume()
        except StopIteration as done:
            return cast("_T", done.value)
