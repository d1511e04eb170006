"""The processes in which explanations are made, seen from the server: who gets one, what crosses, what happens when one
hangs, dies or is not wanted any more. `serving.explain` calls it; the other end is `serving.explain_child`.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from headrace import errors
from headrace.child import Link, Message
from headrace.errors import DeadlineExceeded, HeadraceError, Overloaded, RuntimeFailed, WorkerDied
from headrace.payload import Infer, InferenceRequest, InferenceResponse, RequestedOutput, Tensor
from headrace.protocols.explain import Explained

_MODULE: Final = "headrace.serving.explain_child"
_GRACE_SECONDS: Final = 2.0  # after the deadline, for what is under way in the process
_PREPARE_SECONDS: Final = 60.0  # for a process to begin, to read the folder and to import what a method needs
_IDLE_SECONDS: Final = 300.0
_BACK_OFF_SECONDS: Final = 0.05  # of a question to a model that has too much to do
INTERNAL: Final[Mapping[str, str]] = {"headrace-internal": "explain", "seldon-skip-logging": "true"}
"""Headers of the questions that explainers ask: nobody logs, counts or watches them."""


class Subject(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """A model version to be explained."""

    key: int
    """What processes call it."""
    model: str
    version: str
    folder: str
    infer: Infer
    artifact: bytes
    """A `RuntimeSpec` as JSON; empty: none."""


class Budget:
    """How long one explanation may take, from now on.

    Args:
        seconds: For waiting and explaining. What a process needs to begin, to read the folder and to import a method's
            libraries comes on top: it is so once, and no reason to answer nothing.
        latest: Whatever the reason, the answer is due then; on the clock of `time.monotonic`. None: no such bound.
    """

    def __init__(self, seconds: float, *, latest: float | None = None) -> None:
        self.deadline = time.monotonic() + seconds
        self._latest = math.inf if latest is None else latest
        self.deadline = min(self.deadline, self._latest)
        self.prepared_by = min(self.deadline + _PREPARE_SECONDS, self._latest)

    def left(self) -> float:
        """Seconds to the deadline."""
        return max(0.0, self.deadline - time.monotonic())

    def prepared(self, seconds: float) -> None:
        """Everything is ready to explain; so many seconds were left before that began."""
        self.deadline = min(time.monotonic() + seconds, self._latest)


class Progress(msgspec.Struct, kw_only=True):
    """How far one explanation is."""

    of: int = 0
    explained: list[Explained] = msgspec.field(default_factory=list)
    model_rows: int = 0
    is_running: bool = False


class Pool:
    """At most `processes` explanations at a time, each in a process of its own, and at most `waiting` that wait."""

    def __init__(self, processes: int, waiting: int) -> None:
        self._processes, self._most_waiting = processes, waiting
        self._taken = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._idle: list[_Process] = []
        self._all: set[_Process] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_closed = False

    @property
    def pids(self) -> tuple[int, ...]:
        """Of the processes that there are."""
        return tuple(each.link.pid for each in self._all)

    def check(self) -> None:
        """Raises Overloaded where one more would have to wait and too many wait already."""
        if self._taken >= self._processes and len(self._waiting) >= self._most_waiting:
            raise Overloaded(
                f"{len(self._waiting)} explanations wait already (trust.explain_queue); "
                "try again later, or set trust.explain_processes higher",
                retry_after_seconds=2.0,
            )

    async def explain(self, subject: Subject, message: dict[str, Any], budget: Budget, progress: Progress) -> None:
        """Have one request explained; `progress.explained` then has the answer.

        Args:
            subject: Whose.
            message: What the process is told beside.
            budget: How long it may take.
            progress: Is written as it goes.

        Raises:
            Overloaded: too many wait.
            DeadlineExceeded: nobody began before the deadline, or the process went on after it and was ended.
            WorkerDied: the process ended by itself.
            HeadraceError: what the model or the explainer raised.
        """
        await self._take(budget)
        process: _Process | None = None
        try:
            process = self._idle.pop() if self._idle else await self._start()
            process.rest()
            progress.is_running = True
            await process.explain(subject, message, budget, progress)
        except asyncio.CancelledError:
            self._do(self._let_end(process))  # the caller left: the place is free when the process is
            raise
        except BaseException:
            self._give(process)
            raise
        self._give(process)

    def forget(self, key: int) -> None:
        """No process needs to know a subject any more."""
        for each in self._all:
            each.link.send({"kind": "forget", "key": key})

    async def close(self) -> None:
        """End all processes; what is under way fails."""
        self._is_closed = True
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_exception(WorkerDied("the server stops"))
        await asyncio.gather(*(each.close() for each in list(self._all)))
        while self._tasks:
            await asyncio.wait(self._tasks)

    # -- places and processes --

    async def _take(self, budget: Budget) -> None:
        self.check()
        if self._taken < self._processes:
            self._taken += 1
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            async with asyncio.timeout(budget.left()):
                await waiter
        except BaseException as exc:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self._pass_on()  # it got the place and leaves at the same moment
            elif waiter in self._waiting:
                self._waiting.remove(waiter)
            if isinstance(exc, TimeoutError):
                raise DeadlineExceeded(
                    f"the explanation waited for {len(self._waiting) + self._processes} others until its deadline; "
                    "give it a later one, or ask for it as a job"
                ) from exc
            raise

    def _pass_on(self) -> None:
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
        self._taken -= 1

    def _give(self, process: _Process | None) -> None:
        """A place is free, and its process, if it is well."""
        if process is not None:
            if process.is_well and not self._is_closed:
                self._idle.append(process)
                process.retire(_IDLE_SECONDS, self._expired)
            else:
                process.link.kill()
        self._pass_on()

    async def _let_end(self, process: _Process | None) -> None:
        if process is not None:
            await process.stop()
        self._give(process)

    async def _start(self) -> _Process:
        if self._is_closed:
            raise WorkerDied("the server stops")
        process = _Process()
        opening = asyncio.get_running_loop().create_task(process.open())
        try:
            await asyncio.shield(opening)
        except asyncio.CancelledError:
            self._do(_end(process, opening))  # half a process cannot be left behind
            raise
        self._all.add(process)
        process.link.ended.add_done_callback(lambda _: self._ended(process))
        return process

    def _ended(self, process: _Process) -> None:
        self._all.discard(process)
        if process in self._idle:
            self._idle.remove(process)
        process.rest()

    def _expired(self, process: _Process) -> None:
        if process in self._idle:
            self._idle.remove(process)
            self._do(process.close())

    def _do(self, work: Any) -> None:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class _Run:
    """What one process works on."""

    def __init__(self, number: int, subject: Subject, budget: Budget, progress: Progress) -> None:
        self.number, self.subject, self.budget, self.progress = number, subject, budget, progress
        self.seconds = budget.left()
        self.patience: asyncio.Timeout | None = None
        """Until the process is ended: first for what it needs to begin, then for the explanation."""
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.question: asyncio.Task[None] | None = None
        self.cause: Exception | None = None
        """What the model raised."""

    def begin(self, rows: int) -> None:
        """The explainer is made: from here on the time counts."""
        self.progress.of = rows
        self.budget.prepared(self.seconds)
        if self.patience is not None and not self.patience.expired():
            now = asyncio.get_running_loop().time()
            self.patience.reschedule(now + self.budget.left() + _GRACE_SECONDS)


class _Process:
    """One process: asked for one explanation at a time."""

    link: Link

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._run: _Run | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._is_bad = False

    async def open(self) -> None:
        """Start it."""
        self.link = await Link.open(_MODULE, self._received)
        self.link.ended.add_done_callback(self._link_ended)

    @property
    def is_well(self) -> bool:
        """Whether it may be asked again."""
        return self.link.is_open and not self._is_bad and self._run is None

    def retire(self, seconds: float, expired: Any) -> None:
        """Call `expired` when nobody calls `rest` for so long."""
        self._timer = asyncio.get_running_loop().call_later(seconds, expired, self)

    def rest(self) -> None:
        """Forget about retiring."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def close(self) -> None:
        """End it."""
        self.rest()
        await self.link.close(grace_seconds=1.0)

    async def explain(self, subject: Subject, message: dict[str, Any], budget: Budget, progress: Progress) -> None:
        """As `Pool.explain`. Cancelled, it leaves the run to `stop`."""
        run = self._run = _Run(next(self._numbers), subject, budget, progress)
        whole = budget.prepared_by - time.monotonic()
        sent = self.link.send(
            {
                **message,
                "kind": "explain",
                "run": run.number,
                "key": subject.key,
                "folder": subject.folder,
                "artifact": subject.artifact,
                "seconds": run.seconds,
                "whole_seconds": whole,
            }
        )
        if not sent:
            self._is_bad, self._run = True, None
            raise WorkerDied("the process that makes explanations takes no more; try again")
        try:
            async with asyncio.timeout(whole + _GRACE_SECONDS) as run.patience:
                await asyncio.shield(run.ended)
        except TimeoutError as exc:
            if run.ended.done():  # what the run itself raised
                raise
            self._abandon(run)
            raise DeadlineExceeded(
                f"the explanation of model '{subject.model}' went on for {_GRACE_SECONDS:g} s after its deadline and "
                "was ended; ask for less, give it more time, or ask for it as a job"
            ) from exc
        finally:
            run.patience = None  # the run may go on for a moment without its caller

    async def stop(self) -> None:
        """Let what is under way end soon; the process with it, where it does not."""
        run = self._run
        if run is None:
            return
        self.link.send({"kind": "stop", "run": run.number})
        self._refuse(run, late=True, text="the caller left")
        done, _ = await asyncio.wait({run.ended}, timeout=_GRACE_SECONDS)
        if not done:
            self._abandon(run)
        elif not run.ended.cancelled():
            run.ended.exception()  # nobody is there to be told

    def _abandon(self, run: _Run) -> None:
        self._is_bad, self._run = True, None
        self._end_question(run)
        run.ended.cancel()
        self.link.kill()

    # -- messages --

    def _received(self, message: Message) -> None:
        run = self._run
        if run is None or message["run"] != run.number:
            return
        match message["kind"]:
            case "of":
                run.begin(message["rows"])
            case "ask":
                run.progress.model_rows += message["rows"]
                run.question = asyncio.get_running_loop().create_task(self._answer(run, message))
            case "explained":
                run.progress.explained.append(_explained(message))
            case "done":
                self._finish(run, None)
            case "failed":
                self._finish(run, self._error(run, message))

    def _link_ended(self, ended: asyncio.Future[str]) -> None:
        if self._run is not None:
            self._finish(self._run, WorkerDied(f"the process that made the explanation {ended.result()}; try again"))

    def _finish(self, run: _Run, error: Exception | None) -> None:
        self._run = None
        self._end_question(run)
        if run.ended.done():
            return
        if error is None:
            run.ended.set_result(None)
        else:
            run.ended.set_exception(error)

    def _error(self, run: _Run, message: Message) -> Exception:
        if message["error"] == "ModelRefused" and run.cause is not None:
            return run.cause
        kind = getattr(errors, message["error"], RuntimeFailed)
        is_ours = isinstance(kind, type) and issubclass(kind, HeadraceError)
        return kind(message["text"]) if is_ours else RuntimeFailed(message["text"])

    # -- the model --

    async def _answer(self, run: _Run, message: Message) -> None:
        """Ask the model, as somebody who has time: after all who wait now, and again later where it has too much."""
        request = InferenceRequest(
            model_name=run.subject.model,
            model_version=run.subject.version,
            inputs=tuple([Tensor(each["name"], each["datatype"], each["data"]) for each in message["inputs"]]),
            outputs=tuple([RequestedOutput(each["name"], each["parameters"]) for each in message["outputs"]]),
            headers=INTERNAL,
            deadline=run.budget.deadline,
        )
        response: InferenceResponse | None = None
        began = 0.0
        while response is None:
            await asyncio.sleep(0)
            began = time.monotonic()
            try:
                async with asyncio.timeout(max(0.0, run.budget.deadline - began)):
                    response = await run.subject.infer(request)
            except Overloaded:
                if time.monotonic() + _BACK_OFF_SECONDS >= run.budget.deadline:
                    self._refuse(run, late=True, text="")
                    return
                await asyncio.sleep(_BACK_OFF_SECONDS)
            except (DeadlineExceeded, TimeoutError):
                self._refuse(run, late=True, text="")
                return
            except Exception as exc:  # noqa: BLE001 - the explanation fails of it, and its caller is told
                run.cause = exc
                self._refuse(run, late=False, text=str(exc))
                return
        sent = self.link.send(
            {
                "kind": "answer",
                "run": run.number,
                "seconds": time.monotonic() - began,
                "outputs": [_plain(each) for each in response.outputs],
            }
        )
        if not sent:
            self.link.kill()

    def _refuse(self, run: _Run, *, late: bool, text: str) -> None:
        self.link.send({"kind": "refused", "run": run.number, "late": late, "text": text})

    def _end_question(self, run: _Run) -> None:
        if run.question is not None and not run.question.done():
            run.question.cancel()


async def _end(process: _Process, opening: asyncio.Task[None]) -> None:
    await opening
    await process.close()


def _explained(message: Message) -> Explained:
    return Explained(
        row=message["row"],
        meta=message["meta"],
        data=message["data"],
        text=message["text"],
        complete=message["complete"],
        warnings=tuple(message["warnings"]),
        model_rows=message["model_rows"],
        seconds=message["seconds"],
        image=message["image"],
    )


def _plain(tensor: Tensor) -> dict[str, Any]:
    return {
        "name": tensor.name,
        "datatype": tensor.datatype,
        "data": tensor.data,
        "parameters": dict(tensor.parameters),
    }


def tensors(inputs: Sequence[Tensor]) -> list[dict[str, Any]]:
    """Inputs as they cross."""
    return [_plain(each) for each in inputs]
