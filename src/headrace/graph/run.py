"""A pipeline as an `Infer`: what a request goes through once it is routed to a pipeline. `local` makes one for each
pipeline it serves and puts its `infer` into the routing table.

Two roads. A *chain*, where each step takes what the one before gave, is a loop. Everything else goes by `flow`, which
says what can run: alone it runs in the caller's own task, side by side in tasks that end with the request. Steps that
were never seen to wait share the caller's task too, as nothing is gained by giving them one.

What flows to the steps beside tensors: the request's id, deadline, trace and parameters (of these, `content_type` and
`binary_data_output` only to steps that take nothing but the request's own tensors, which they describe), and the
headers that concern more than one server: `x-*`, `traceparent`, `tracestate`, `baggage`, `seldon-*` and `headrace-*`.
Conditions and routers see all headers.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from headrace.errors import DeadlineExceeded, HeadraceError, InvalidRequest, RuntimeFailed, located
from headrace.graph import spec
from headrace.graph.combine import Combiner
from headrace.graph.compile import Message, compile_pipeline
from headrace.graph.crowd import Crowd
from headrace.graph.flow import Flow, Given
from headrace.graph.route import Router
from headrace.graph.signatures import pipeline_signature, wanted
from headrace.graph.taps import Taps
from headrace.graph.work import Outcome, Running, Sources, StepCounts, Work, stepped, work_of
from headrace.payload import (
    EMPTY,
    Infer,
    InferenceRequest,
    InferenceResponse,
    Parameters,
    RequestedOutput,
    Signature,
    Trace,
)

_ROUTING: Final = "headrace-routing"
_TAGS: Final = "tags"
"""The parameter of an answer whose members all steps may add to, as components of Seldon Core v1 do."""
_ROUTE: Final = "x-seldon-route"
_REMEMBERED: Final = 10_000
"""Requests whose routing is kept for feedback that names only the request."""
_ASIDE_SECONDS: Final = 60.0
"""For steps off the path, whose caller waits for nothing; beside what their batches wait."""
_KEPT_HEADERS: Final = frozenset({"traceparent", "tracestate", "baggage"})
_KEPT_PREFIXES: Final = ("x-", "seldon-", "headrace-")
_DROPPED_HEADERS: Final = frozenset({"seldon-model", "seldon-internal-model", "headrace-routing"})
_log = logging.getLogger(__name__)
_TURN: Final = 64  # calls of steps that never wait before the loop turns: cycles can be long
_OF_ENCODING: Final = frozenset({"content_type", "binary_data_output"})


class _Context:
    """What of a request goes to every step, and what the steps say beside tensors."""

    __slots__ = (
        "deadline",
        "guarded",
        "id",
        "parameters",
        "passed",
        "request",
        "routes",
        "routing",
        "stripped",
        "tags",
        "trace",
    )

    def __init__(self, request: InferenceRequest, request_id: str, deadline: float | None, trace: Trace | None) -> None:
        self.request = request
        self.id = request_id
        self.deadline = deadline
        self.guarded = False
        """Whether the deadline is kept even where a step does not mind it, which takes tasks."""
        self.trace = trace
        self.parameters = request.parameters
        self.stripped = _stripped(request.parameters) if request.parameters else EMPTY
        self.passed = passed_on(request.headers) if request.headers else EMPTY
        self.routes: list[str] = []
        self.routing: dict[str, str] = {}
        self.tags: Mapping[str, Any] = EMPTY


class Pipeline:
    """One version of one pipeline. For one event loop.

    Args:
        name: Its name: the `model_name` of its answers.
        pipeline: What `check.faults` finds no fault in.
        version: For answers and `x-seldon-route`.
        ask: Gives the `Infer` of a step that is a model, here or elsewhere, a pipeline or Python.
        combiner: Gives the function of a step that combines.
        router: Gives the router of a step that routes.
        base: The folder of the manifest, for who wants to know.
        aside: Requests whose steps off the path may run at once; the steps of more are dropped, and counted. None: 64,
            and as many as can gather in such a step's batches.

    Raises:
        InvalidRequest: a reference or a condition cannot be understood.
    """

    def __init__(
        self,
        name: str,
        pipeline: spec.Pipeline,
        *,
        version: str = "",
        ask: Callable[[spec.Step], Infer],
        combiner: Callable[[spec.Step], Combiner],
        router: Callable[[spec.Step], Router],
        base: str = "",
        aside: int | None = None,
    ) -> None:
        self.name = name
        self.version = version
        self.spec = pipeline
        self.base = base
        self._plan = compile_pipeline(name, pipeline)
        sources = Sources(ask, combiner, router)
        self._works = [
            work_of(name, self._plan.nodes[index], step, sources) for index, step in enumerate(pipeline.steps)
        ]
        chain = tuple([self._works[index] for index in self._plan.chain])
        self._chain: tuple[Work, ...] | None = None if any(each.gatherer for each in chain) else chain or None
        self._last = None if self._plan.nodes[-1].slots[0].plain else self._plan.nodes[-1].slots[0]
        self._routers = {work.node.name: work for work in self._works if work.router is not None}
        self._crowd: Crowd | None = None  # once it is known that the steps of a chain may be asked for many at once
        self._timeout_seconds = pipeline.timeout_ms / 1000
        self._own_route = f":{name}_{version or '1'}:"
        self._remembered: OrderedDict[str, dict[str, str]] = OrderedDict()
        self._ids = itertools.count(1)
        self._prefix = f"{time.time_ns():x}"
        batches = [step.batch for step in pipeline.steps if step.batch is not None]
        self._aside = 64 + 2 * max([batch.size for batch in batches], default=0) if aside is None else aside
        self._aside_seconds = _ASIDE_SECONDS + max([batch.window_ms for batch in batches], default=0) / 1000
        self._asides: set[asyncio.Task[None]] = set()
        self._leaving: set[asyncio.Task[Outcome]] = set()
        self._closed = False
        self._inside = 0
        self._drained: asyncio.Event | None = None  # set by close, for requests that are still inside
        sides = [f"{step.name}.{side}" for step in pipeline.steps for side in ("inputs", "outputs")]
        self.taps = Taps(name, ["inputs", "outputs", *sides])

    def __repr__(self) -> str:
        road = "chain" if self._chain is not None else "graph"
        return f"<Pipeline {self.name} {road} of {len(self._works)} aside={len(self._asides)}>"

    # -- the walk --

    async def infer(self, request: InferenceRequest) -> InferenceResponse:
        """The pipeline's answer.

        Raises:
            HeadraceError: what a step raised, with the pipeline and the step before its text.
            InvalidRequest: the request leads to no answer, or asks for an output that did not come.
            RuntimeFailed: a step gave nothing that the answer could be made of.
            DeadlineExceeded: the request's deadline, or the pipeline's or a step's own time, has passed.
        """
        chain = self._chain
        if chain is None or self.taps.live:
            return await self._infer_graph(request)
        crowd = self._crowd
        if crowd is None or request.parameters or request.outputs or request.trace or passed_on(request.headers):
            return await self._infer_chain(request)
        return await crowd.infer(request)

    async def _infer_chain(self, request: InferenceRequest, count: int = 1) -> InferenceResponse:
        """The answer of a chain, to a request that stands for so many."""
        chain = self._chain or ()
        tensors = request.inputs
        parameters = request.parameters
        headers = passed_on(request.headers) if request.headers else EMPTY
        trace = request.trace
        routes: list[str] = []
        tags: Mapping[str, Any] = EMPTY
        lacking = -1
        work = chain[0]
        self._inside += 1
        began = time.perf_counter_ns()
        try:
            for work in chain:
                if work.slot is not None:
                    picked = work.slot.pick(tensors)
                    if picked is None:
                        lacking = work.index
                        break
                    tensors = picked
                if work.takes:
                    tensors = _meant(work.takes, tensors)
                response = await work.infer(  # type: ignore[misc] # links of a chain are models
                    InferenceRequest(
                        model_name=work.model,
                        inputs=tensors,
                        model_version=work.version,
                        id=request.id,
                        outputs=work.outputs,
                        parameters={**parameters, **work.parameters} if work.parameters else parameters,
                        headers=headers,
                        protocol=request.protocol,
                        deadline=request.deadline,
                        trace=trace,
                    )
                )
                tensors = response.outputs
                ended = time.perf_counter_ns()
                work.requests += count
                work.nanoseconds += count * (ended - began)
                if trace is not None:
                    _record(trace, work.node.name, ended - began)
                began = ended
                if response.headers:
                    _take_routes(response, routes)
                if response.parameters:
                    tags = _with_tags(tags, response.parameters)
                if parameters and work is chain[0]:
                    parameters = _stripped(parameters)
        except Exception as exc:
            work.requests += count
            work.failures += count
            work.nanoseconds += count * (time.perf_counter_ns() - began)
            raise self._failed(work, exc) from exc
        finally:
            self._inside -= 1
            if self._drained is not None and not self._inside:
                self._drained.set()
        if self._last is not None and lacking < 0:
            picked = self._last.pick(tensors)
            if picked is None:
                lacking = len(self._works)
            else:
                tensors = picked
        if lacking >= 0:
            raise Flow(self._plan).lacking(lacking, tensors)
        return InferenceResponse(
            model_name=self.name,
            outputs=self._selected(tensors, request) if request.outputs else tensors,
            model_version=self.version,
            id=request.id,
            parameters={_TAGS: tags} if tags else EMPTY,
            headers={_ROUTE: self._route(request, routes)} if routes or (headers and _ROUTE in headers) else EMPTY,
        )

    async def _infer_graph(self, request: InferenceRequest) -> InferenceResponse:
        deadline = request.deadline
        if self._timeout_seconds:
            until = time.monotonic() + self._timeout_seconds
            deadline = until if deadline is None else min(deadline, until)
        tapped = self.taps.live
        request_id = request.id or request.headers.get("x-request-id", "")
        if not request_id and (tapped or self._routers):
            request_id = f"{self._prefix}-{next(self._ids)}"
        context = _Context(request, request_id, deadline, request.trace)
        context.guarded = self._timeout_seconds > 0
        if tapped:
            self.taps.offer(request_id, "inputs", request.inputs)

        flow = Flow(self._plan)
        self._inside += 1
        try:
            flow.begin(request.inputs)
            await self._drive(flow, context)
        except HeadraceError:
            self._go_aside(flow, context)
            raise
        finally:
            self._inside -= 1
            if self._drained is not None and not self._inside:
                self._drained.set()
        self._go_aside(flow, context)

        tensors = self._answer(flow)
        if tapped:
            self.taps.offer(request_id, "outputs", tensors)
        return InferenceResponse(
            model_name=self.name,
            outputs=self._selected(tensors, request) if request.outputs else tensors,
            model_version=self.version,
            id=request_id if self._routers else request.id,
            parameters={_TAGS: context.tags} if context.tags else EMPTY,
            headers=self._headers(context, request_id)
            if context.routes or context.routing or context.passed
            else EMPTY,
        )

    def _answer(self, flow: Flow) -> Message:
        if not self._plan.answers:
            return ()
        if flow.answer is not None:
            return flow.answer
        if flow.stopped is not None:
            return flow.stopped
        raise flow.failure()

    def _selected(self, tensors: Message, request: InferenceRequest) -> Message:
        """The outputs that the caller asks for, in that order."""
        by_name = {tensor.name: tensor for tensor in tensors}
        for each in request.outputs:
            if each.name not in by_name:
                found = ", ".join(by_name) or "none"
                raise InvalidRequest(
                    f"pipeline '{self.name}' gave no output '{each.name}' that the request asks for; it gave {found}"
                )
        return tuple([by_name[each.name] for each in request.outputs])

    # -- steps side by side --

    async def _drive(self, flow: Flow, context: _Context, *, aside: bool = False) -> None:
        """Run what is ready until the answer is settled; aside, until nothing is left to run."""
        loop = asyncio.get_running_loop()
        running = Running(loop)
        guarded = context.guarded
        in_turn = 0
        try:
            while aside or not flow.settled:
                calls = []
                while flow.ready:
                    ready, flow.ready = flow.ready, []
                    for index, given in ready:
                        ask = self._admit(self._works[index], flow, given, context)
                        if ask is not None:
                            calls.append((self._works[index], given, ask))
                # Whatever may wait begins first, so that it waits while the others compute.
                alone = len(calls) == 1 and not running.tasks and not guarded
                here = []
                for work, given, ask in calls:
                    if (alone or not work.waits) and not work.timeout_seconds and not guarded:
                        here.append((work, given, ask))
                    else:
                        running.start(work, given, self._attempt(work, given, ask, context))
                for work, given, ask in here:
                    if flow.settled and not aside:
                        return
                    self._tell(flow, work, given, await self._attempt(work, given, ask, context), context)
                if flow.settled and not aside:
                    return
                in_turn += len(here)
                if in_turn >= _TURN:
                    in_turn = 0
                    await asyncio.sleep(0)
                if not running.tasks:
                    if flow.ready:
                        continue
                    return
                if flow.ready:
                    await asyncio.sleep(0)  # steps that never wait must not keep those from their turn that do
                else:
                    await running.wait(flow.next_window, context.deadline)
                while running.ended:
                    work, given, outcome = running.take()
                    self._tell(flow, work, given, outcome, context)
                now = time.monotonic()
                flow.expire(now)
                if context.deadline is not None and now >= context.deadline and not flow.settled:
                    names = ", ".join(sorted([f"'{work.node.name}'" for work, _ in running.tasks.values()]))
                    raise DeadlineExceeded(f"pipeline '{self.name}': the deadline passed while step {names or '-'} ran")
        finally:
            if running.tasks:
                self._dismiss(running)

    def _admit(self, work: Work, flow: Flow, given: Given, context: _Context) -> InferenceRequest | None:
        """What a step is asked; None when its condition does not hold."""
        tensors = given if isinstance(given, tuple) else tuple([each for message in given.values() for each in message])
        if work.takes:
            tensors = _meant(work.takes, tensors)
        parameters = context.parameters if work.node.of_request else context.stripped
        ask = InferenceRequest(
            model_name=work.model,
            inputs=tensors,
            model_version=work.version,
            id=context.id,
            outputs=work.outputs,
            parameters={**parameters, **work.parameters} if work.parameters else parameters,
            headers=context.request.headers
            if work.router is not None or work.condition is not None
            else context.passed,
            protocol=context.request.protocol,
            deadline=context.deadline,
            trace=context.trace,
        )
        if work.condition is not None:
            try:
                holds = work.condition(ask)
            except Exception as exc:
                work.requests += 1
                work.failures += 1
                error = self._failed(work, exc)
                if not (work.soft or work.node.aside):
                    raise error from exc
                flow.gave_nothing(work.index, why=f"failed: {exc}", error=error, asked=False)
                return None
            if not holds:
                flow.gave_nothing(work.index, why=f"runs only when {work.when}, which does not hold", asked=False)
                return None
            if work.router is None:
                ask = msgspec.structs.replace(ask, headers=context.passed)
        flow.asked(work.index, tensors)
        if self.taps.live:
            self.taps.offer(context.id, f"{work.node.name}.inputs", tensors)
        return ask

    async def _attempt(self, work: Work, given: Given, ask: InferenceRequest, context: _Context) -> Outcome:
        """One call of a step: what it answers, the branches it chose, or the error that nobody minds."""
        began = time.perf_counter_ns()
        try:
            if work.timeout_seconds:
                until = time.monotonic() + work.timeout_seconds
                if ask.deadline is None or until < ask.deadline:
                    ask = msgspec.structs.replace(ask, deadline=until)
                try:
                    async with asyncio.timeout(work.timeout_seconds):
                        return await stepped(work, work.call(given, ask))
                except TimeoutError as exc:
                    raise DeadlineExceeded(f"no answer within its {work.timeout_seconds * 1000:.0f} ms") from exc
            return await stepped(work, work.call(given, ask))
        except Exception as exc:
            work.failures += 1
            error = self._failed(work, exc)
            if not (work.soft or work.node.aside):
                raise error from exc
            error.__cause__ = exc
            return error
        except asyncio.CancelledError:
            if work.node.aside:  # out of time: nobody else would tell
                work.failures += 1
            raise
        finally:
            took = time.perf_counter_ns() - began
            work.requests += 1
            work.nanoseconds += took
            if context.trace is not None:
                _record(context.trace, work.node.name, took)

    def _tell(self, flow: Flow, work: Work, given: Given, outcome: Outcome, context: _Context) -> None:
        """Let the flow know what came of a call."""
        if isinstance(outcome, HeadraceError):
            flow.gave_nothing(work.index, why=f"failed: {outcome}", error=outcome)
        elif isinstance(outcome, InferenceResponse):
            if outcome.headers:
                _take_routes(outcome, context.routes)
            if outcome.parameters:
                context.tags = _with_tags(context.tags, outcome.parameters)
            if self.taps.live:
                self.taps.offer(context.id, f"{work.node.name}.outputs", outcome.outputs)
            flow.answered(work.index, outcome.outputs)
        else:
            assert isinstance(given, tuple)
            if not work.node.aside:
                context.routing[work.node.name] = ",".join(outcome)
            if self.taps.live and not outcome:
                self.taps.offer(context.id, f"{work.node.name}.outputs", given)
            flow.chose(work.index, given, outcome)

    def _failed(self, work: Work, exc: Exception) -> HeadraceError:
        """A step's failure with its place."""
        place = f"pipeline '{self.name}' step '{work.node.name}'"
        if isinstance(exc, HeadraceError):
            return located(exc, place)
        return RuntimeFailed(f"{place}: {type(exc).__name__}: {exc}")

    # -- what nobody waits for --

    def _dismiss(self, running: Running) -> None:
        """End calls that nobody needs any more; the pipeline owns them until they have ended."""
        for task in running.tasks:
            self._leaving.add(task)
            task.add_done_callback(self._leaving.discard)
            task.cancel()

    def _go_aside(self, flow: Flow, context: _Context) -> None:
        """Run the steps that the answer did not depend on, in a task of the pipeline's."""
        if not self._plan.has_aside:
            return
        flow.turn_aside()
        if not flow.ready:
            return
        if len(self._asides) >= self._aside or self._closed:
            for index, _ in flow.ready:
                self._works[index].dropped += 1
            return
        aside = _Context(context.request, context.id, time.monotonic() + self._aside_seconds, None)
        task = asyncio.get_running_loop().create_task(self._drive_aside(flow, aside))
        self._asides.add(task)
        task.add_done_callback(self._asides.discard)

    async def _drive_aside(self, flow: Flow, context: _Context) -> None:
        try:
            async with asyncio.timeout(self._aside_seconds):
                await self._drive(flow, context, aside=True)
        except (HeadraceError, TimeoutError) as exc:
            _log.debug("pipeline '%s': a step that no answer depends on: %s", self.name, exc)

    async def close(self, *, drain_seconds: float = 10.0) -> None:
        """Let the requests inside end, then end what runs aside and what gathers, and wait for that; taps fall silent.

        Args:
            drain_seconds: How long requests that are still inside may take before their batches are given up.
        """
        self._closed = True
        self.taps.close()
        if self._inside:
            self._drained = asyncio.Event()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._drained.wait(), drain_seconds)
        for task in self._asides:
            task.cancel()
        for work in self._works:
            if work.gatherer is not None:
                await work.gatherer.close()
            if work.router is not None:
                work.router.close()
        if left := [*self._asides, *self._leaving]:
            await asyncio.wait(left)

    # -- feedback --

    def feedback(self, routing: Mapping[str, str], reward: float, request: InferenceRequest | None = None) -> None:
        """Tell routers what came of their choices.

        Args:
            routing: Router to branch, as the answer's `headrace-routing` had it; empty: what the request of
                `request.id` took, while it is among the last 10,000.
            reward: From 0 (bad) to 1 (good).
            request: The request, where the caller gives it back.

        Raises:
            InvalidRequest: no such router or branch, or nothing says which were chosen.
        """
        if not routing and request is not None and request.id:
            routing = self._remembered.get(request.id, EMPTY)
        if not routing:
            raise InvalidRequest(
                f"feedback to pipeline '{self.name}' must say what was chosen: the routing of the answer "
                f"(header {_ROUTING}), or the id of one of the last {_REMEMBERED} requests"
            )
        told: list[tuple[Router, str]] = []
        for name, branches in routing.items():
            work = self._routers.get(name)
            if work is None or work.router is None:
                known = ", ".join(sorted(self._routers)) or "none"
                raise InvalidRequest(f"pipeline '{self.name}' has no router '{name}'; its routers: {known}")
            for branch in filter(None, branches.split(",")):
                if branch not in work.node.branch_ports:
                    known = ", ".join(work.node.branch_ports)
                    raise InvalidRequest(f"router '{name}' has no branch '{branch}'; its branches: {known}")
                told.append((work.router, branch))
        for router, branch in told:
            router.feedback(branch, reward, request)

    # -- what it says of itself --

    def learnt(self) -> dict[str, Any]:
        """What its routers have learnt, by step, as values of JSON."""
        states = {name: work.router.state() for name, work in self._routers.items() if work.router is not None}
        return {name: dict(state) for name, state in states.items() if state}

    def restore(self, learnt: Mapping[str, Any]) -> None:
        """Go on from what `learnt` gave; of a router that is another one now, nothing is taken over."""
        for name, state in learnt.items():
            work = self._routers.get(name)
            if work is None or work.router is None:
                continue
            try:
                work.router.restore(state)
            except HeadraceError as exc:
                _log.info("pipeline '%s' step '%s' learns anew: %s", self.name, name, exc)

    def signature(self, of: Callable[[spec.Step], Signature | None]) -> Signature:
        """What the pipeline takes and gives, as far as its steps' signatures are known.

        From then on a step is asked for the tensors that others take from it by name and that it gives only when asked,
        and requests that come together go through a chain together where all steps are batchable.

        Args:
            of: Gives a step's signature; None where it is not known.
        """
        signatures = {step.name: of(step) for step in self.spec.steps}
        for work in self._works:
            names = wanted(self._plan, work.node, signatures[work.node.name])
            work.outputs = tuple([RequestedOutput(name) for name in names])
            own = signatures[work.node.name]
            lone = own is not None and len(own.inputs) == 1 and not work.node.of_request
            work.takes = own.inputs[0].name if lone and own is not None else ""
        together = all(each is not None and each.batchable for each in signatures.values())
        if not together or self._chain is None:
            self._crowd = None
        elif self._crowd is None:
            self._crowd = Crowd(self._infer_chain)
        return pipeline_signature(self.name, self.spec, signatures)

    def steps(self) -> Mapping[str, StepCounts]:
        """What each step has done so far, by name."""
        return {
            work.node.name: StepCounts(
                requests=work.requests,
                failures=work.failures,
                seconds=work.nanoseconds / 1e9,
                dropped=work.dropped,
            )
            for work in self._works
        }

    # -- headers --

    def _route(self, request: InferenceRequest, routes: list[str]) -> str:
        """What the caller sends back to be routed the same way."""
        return " ".join(
            dict.fromkeys([*routes, self._own_route] if routes else [request.headers[_ROUTE], self._own_route])
        )

    def _headers(self, context: _Context, request_id: str) -> Mapping[str, str]:
        headers = {}
        if context.routes or _ROUTE in context.passed:
            headers[_ROUTE] = self._route(context.request, context.routes)
        if context.routing:
            headers[_ROUTING] = ";".join([f"{router}={branches}" for router, branches in context.routing.items()])
            self._remembered[request_id] = context.routing
            if len(self._remembered) > _REMEMBERED:
                self._remembered.popitem(last=False)
        return headers


def _meant(name: str, tensors: Message) -> Message:
    """The tensors for a step of one input: a single one by the input's name."""
    if len(tensors) != 1 or tensors[0].name == name:
        return tensors
    return (msgspec.structs.replace(tensors[0], name=name),)


def passed_on(headers: Mapping[str, str]) -> Mapping[str, str]:
    """The headers of a request that its steps get."""
    return {
        name: value
        for name, value in headers.items()
        if (name.startswith(_KEPT_PREFIXES) or name in _KEPT_HEADERS) and name not in _DROPPED_HEADERS
    } or EMPTY


def _stripped(parameters: Parameters) -> Parameters:
    """The parameters of a request without those that describe its own tensors."""
    if _OF_ENCODING.isdisjoint(parameters):
        return parameters
    return {name: value for name, value in parameters.items() if name not in _OF_ENCODING} or EMPTY


def _take_routes(response: InferenceResponse, routes: list[str]) -> None:
    route = response.headers.get(_ROUTE)
    if route:
        routes.extend([each for each in route.split() if each not in routes])


def _with_tags(tags: Mapping[str, Any], parameters: Parameters) -> Mapping[str, Any]:
    own = parameters.get(_TAGS)
    return {**tags, **own} if isinstance(own, Mapping) and own else tags


def _record(trace: Trace, step: str, took_ns: int) -> None:
    ended = time.time_ns()
    trace.record(f"step {step}", ended - took_ns, ended)
