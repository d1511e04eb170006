"""A model whose engine comes and goes: what `residency` gives the repository in place of an engine.

A request to one that is in memory costs two counters and a clock; one that is not waits here, for a load that all its
requests share.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Final, Protocol

from headrace.errors import DeadlineExceeded, HeadraceError, ModelNotReady, NotFound, Overloaded
from headrace.payload import (
    EMPTY,
    Infer,
    InferenceRequest,
    InferenceResponse,
    InferStream,
    Parameters,
    Route,
    RouteRequest,
    RouteResponse,
    Signature,
    Visit,
)
from headrace.protocols.explain import ExplainReply, ExplainRequest, JobStatus
from headrace.serving import memory
from headrace.serving.loaded import Loaded
from headrace.serving.models import Explain
from headrace.serving.spec import ModelSpec

MOST_WAITING: Final = 1000
"""Requests that wait for the load of one model, unless its `batching.max_queue_size` says otherwise."""
RETRY_FIRST_SECONDS: Final = 1.0
RETRY_MOST_SECONDS: Final = 60.0
"""How long a model whose load failed is left alone; it doubles in between."""


class Witness(Protocol):
    """What is told of models that come and leave; `monitoring` counts it."""

    def budgeted(self, memory_bytes: int) -> None:
        """The budget is this now; 0: there is none."""

    def came(self, model: str, version: str, memory_bytes: int, *, demanded: bool) -> None:
        """It is in memory; `demanded`: a request or a hand asked for it, not the repository."""

    def left(self, model: str, version: str, cause: str) -> None:
        """It left memory: for room (`memory`), for want of requests (`idle`), by hand (`asked`)."""

    def forgotten(self, model: str, version: str) -> None:
        """It was unloaded."""

    def waited(self, seconds: float) -> None:
        """A request waited that long for a load."""


class Nobody:
    """A witness that keeps nothing."""

    def budgeted(self, memory_bytes: int) -> None:
        """Keep nothing."""

    def came(self, model: str, version: str, memory_bytes: int, *, demanded: bool) -> None:
        """Keep nothing."""

    def left(self, model: str, version: str, cause: str) -> None:
        """Keep nothing."""

    def forgotten(self, model: str, version: str) -> None:
        """Keep nothing."""

    def waited(self, seconds: float) -> None:
        """Keep nothing."""


class House(Protocol):
    """What a seat asks of all of them."""

    @property
    def wait_seconds(self) -> float:
        """How long a request waits at most."""

    @property
    def witness(self) -> Witness:
        """Who is told."""

    @property
    def meter(self) -> memory.Meter:
        """What measures loads meanwhile."""

    def fill(self, seat: Seat) -> asyncio.Task[HeadraceError | None]:
        """The load of it that is under way, or a new one; raises when there is to be none."""

    def notice(self) -> None:
        """Something happened that may make room."""

    def forget(self, seat: Seat) -> None:
        """It is closed."""


class Seat:
    """A `Loaded` whose engine may be out of memory."""

    def __init__(self, house: House, spec: ModelSpec, clock: Callable[[], float]) -> None:
        self.spec = spec
        self.size = memory.Size(spec.memory_bytes, measured=False, sure=False)
        self.used = clock()
        self.in_flight = 0
        """In the engine."""
        self.waiting = 0
        """For the engine."""
        self.engine: Loaded | None = None
        self.present: Infer | None = None
        """The engine's; None: a request has to wait."""
        self.filling: asyncio.Task[HeadraceError | None] | None = None
        self.going: asyncio.Task[bool] | None = None
        self.closed = False
        self.failed: HeadraceError | None = None
        self.failures = 0
        self.not_before = 0.0
        self.load_seconds = 1.0
        self._streams = self._explains = True  # until it is known
        self._house = house
        self._clock = clock
        self._still: asyncio.Event | None = None
        self.signature: Signature | None = None
        self.placement = ""
        self.declared: Parameters = EMPTY
        self.routes: tuple[Route, ...] = ()
        self.warnings: tuple[str, ...] = spec.warnings

    def __repr__(self) -> str:
        state = "leaving" if self.going is not None else "resident" if self.engine is not None else "absent"
        return f"<seat of {self.spec.describe()}: {state}, {self.in_flight} in flight, {self.waiting} waiting>"

    # -- Loaded --

    @property
    def infer_stream(self) -> InferStream | None:
        """None where it is known not to stream."""
        return self._infer_stream if self._streams else None

    @property
    def visit(self) -> Visit | None:
        """None where it has no routes, as far as is known."""
        return self._visit if self.routes else None

    @property
    def explain(self) -> Explain | None:
        """None where it is known that nothing explains it."""
        return _Explained(self) if self._explains else None

    async def infer(self, request: InferenceRequest) -> InferenceResponse:
        """The engine's answer, once it is there."""
        present = self.present
        if present is None:
            present = (await self._come_back(request.deadline)).infer
        self.in_flight += 1
        try:
            return await present(request)
        finally:
            self.used = self._clock()
            self.in_flight -= 1
            if self._still is not None:
                self._still.set()

    async def _infer_stream(self, request: InferenceRequest) -> AsyncIterator[InferenceResponse]:
        engine = self.engine
        if engine is None or self.present is None:
            engine = await self._come_back(request.deadline)
        with self._using():
            if engine.infer_stream is None:
                yield await engine.infer(request)
                return
            parts = engine.infer_stream(request)
            try:
                async for part in parts:
                    yield part
            finally:
                close = getattr(parts, "aclose", None)  # whoever leaves early stops the model too
                if close is not None:
                    await close()

    async def explained(self, request: ExplainRequest) -> ExplainReply:
        """The engine's explanation, once it is there; NotFound where it has none."""
        engine = self.engine
        if engine is None or self.present is None:
            engine = await self._come_back(request.inference.deadline)
        with self._using():
            return await _explain_of(engine, self.spec)(request)

    def explains(self) -> Explain:
        """What explains it while it is in memory.

        Raises:
            ModelNotReady: it is not.
            NotFound: nothing explains it.
        """
        if self.engine is None:
            raise ModelNotReady(f"{self.spec.describe()} is not in memory, and a job of it needs that; ask it first")
        return _explain_of(self.engine, self.spec)

    async def _visit(self, request: RouteRequest) -> RouteResponse:
        engine = self.engine
        if engine is None or self.present is None:
            engine = await self._come_back(request.deadline)
        if engine.visit is None:
            raise ModelNotReady(f"{self.spec.describe()} has no paths of its own any more")
        with self._using():
            return await engine.visit(request)

    async def close(self, drain_seconds: float) -> None:
        """Let who waits be answered, then what is in flight, for that long at most; then give all back."""
        until = self._clock() + drain_seconds
        await self.still(drain_seconds, lambda: not self.waiting)
        if self.going is not None:
            await asyncio.wait([self.going], timeout=max(0.0, until - self._clock()))
        self.closed = True
        if self.filling is not None:
            self.filling.cancel()
            await asyncio.wait([self.filling])
        if self.going is not None:  # requests that do not end
            self._tell()
            await asyncio.wait([self.going])
        try:
            if self.engine is not None:  # requests go to it still: it answers them until it is closed
                await self.still(until - self._clock(), lambda: not self.in_flight)
                with self._house.meter.apart():
                    await self.engine.close(max(0.0, until - self._clock()))
        finally:
            self.engine = self.present = None
            self._house.forget(self)

    @contextlib.contextmanager
    def _using(self) -> Iterator[None]:
        self.in_flight += 1
        try:
            yield
        finally:
            self.used = self._clock()
            self.in_flight -= 1
            if self._still is not None:
                self._still.set()

    # -- coming and going --

    def take(self, engine: Loaded) -> None:
        """This is the engine now."""
        self.engine, self.present = engine, engine.infer
        self.signature, self.placement, self.declared = engine.signature, engine.placement, engine.declared
        self.routes, self.warnings = engine.routes, engine.warnings
        self._streams, self._explains = engine.infer_stream is not None, engine.explain is not None
        self.failed, self.failures = None, 0
        self.used = self._clock()

    def fail(self, error: HeadraceError) -> None:
        """Its load failed: nobody tries again for a while."""
        self.failed = _without_frames(error)
        pause = min(RETRY_MOST_SECONDS, RETRY_FIRST_SECONDS * 2.0 ** min(self.failures, 16))
        self.failures += 1
        self.not_before = self._clock() + pause

    def _tell(self) -> None:
        if self._still is not None:
            self._still.set()

    async def still(self, seconds: float, is_still: Callable[[], bool]) -> bool:
        """Wait until that is so, for that long at most: whether it is."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, seconds)):
                while not is_still():
                    if self._still is None or self._still.is_set():
                        self._still = asyncio.Event()
                    await self._still.wait()
        if self._still is not None and self._still.is_set():
            self._still = None
        return is_still()

    async def _come_back(self, deadline: float | None) -> Loaded:
        """The engine, once it is in memory. Needs no current task.

        Raises:
            Overloaded: too many wait for it already, or models in use take all the memory.
            DeadlineExceeded: the deadline passed before.
            ModelNotReady: it was unloaded, or its load takes longer than any request waits.
            LoadFailed: or whatever its load failed with.
        """
        house, batching = self._house, self.spec.batching
        if self.waiting >= (MOST_WAITING if batching is None else batching.max_queue_size):
            raise Overloaded(
                f"{self.spec.describe()} is being loaded, and {self.waiting} requests wait for it",
                retry_after_seconds=max(1.0, self.load_seconds),
            )
        began = self._clock()
        until = began + house.wait_seconds
        self.waiting += 1
        try:
            while self.present is None:
                load = house.fill(self)
                until = until if deadline is None else min(until, deadline)
                done, _ = await asyncio.wait([load], timeout=max(0.0, until - self._clock()))
                if not done and until == deadline:
                    raise DeadlineExceeded(f"{self.spec.describe()}: the request's deadline passed during its load")
                if not done:
                    raise ModelNotReady(
                        f"{self.spec.describe()} is not ready: its load took longer than the {house.wait_seconds:g} s "
                        f"that a request waits"
                    )
                if load.cancelled():
                    raise ModelNotReady(f"{self.spec.describe()} is not ready: it was unloaded")
                if (error := load.result()) is not None:
                    raise afresh(error)
            engine = self.engine
            assert engine is not None
            return engine
        finally:
            self.waiting -= 1
            if not self.waiting:
                house.notice()
                self._tell()
            house.witness.waited(self._clock() - began)


class _Explained:
    """What explains a model that may be out of memory, as `Explain` has it: an explanation waits for it as a request
    does; jobs are of the engine that is there.
    """

    def __init__(self, seat: Seat) -> None:
        self._seat = seat

    def __call__(self, request: ExplainRequest) -> Awaitable[ExplainReply]:
        return self._seat.explained(request)

    def submit(self, request: ExplainRequest) -> JobStatus:
        return self._seat.explains().submit(request)

    def job(self, identity: str) -> JobStatus:
        return self._seat.explains().job(identity)

    def cancel(self, identity: str) -> JobStatus:
        return self._seat.explains().cancel(identity)


def _explain_of(engine: Loaded, spec: ModelSpec) -> Explain:
    if engine.explain is None:
        raise NotFound(f"{spec.describe()} has no explainer; write its trust folder by `headrace trust fit`")
    return engine.explain


def _without_frames(error: HeadraceError) -> HeadraceError:
    """The same error, which holds nothing of what was being loaded any more: it is kept."""
    each: BaseException | None = error
    for _ in range(100):
        if each is None:
            break
        each.__traceback__ = None
        each = each.__cause__ or each.__context__
    return error


def afresh(error: HeadraceError) -> HeadraceError:
    """The same error for one more caller: one that many raise would grow with each."""
    again = copy.copy(error).with_traceback(None)
    again.__cause__ = error.__cause__
    return again
