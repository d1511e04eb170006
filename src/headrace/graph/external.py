"""A pipeline fed by others: each time they are asked or answer, it runs on that, without a caller. `local` makes a feed
for each pipeline with `input.externalInputs`, and refreshes feeds when pipelines come and go.

Messages of several others are joined by the id of the request that they belong to. As in Seldon Core v2: `inner` waits
for all within the window, `outer` goes on with what came when the window has passed, `any` runs on each that comes;
triggers must have come, their data is not passed.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Final

import msgspec

from headrace.errors import HeadraceError, NotFound
from headrace.graph import references, spec
from headrace.graph.compile import Message, Slot
from headrace.graph.references import External
from headrace.graph.taps import Listener, Taps
from headrace.payload import Infer, InferenceRequest

_log = logging.getLogger(__name__)
_PENDING: Final = 10_000
"""Requests whose messages wait for others; the oldest gives way."""


class FeedCounts(msgspec.Struct, frozen=True, kw_only=True):
    """What a feed has done."""

    requests: int = 0
    failures: int = 0
    dropped: int = 0
    """Runs that were not begun because too many waited, and joins that gave way."""


class _Source(msgspec.Struct, frozen=True):
    """One stream of another pipeline."""

    pipeline: str
    tap: str
    slot: Slot


class _Pending:
    """What has come of one request."""

    __slots__ = ("held", "timer")

    def __init__(self, sources: int) -> None:
        self.held: list[Message | None] = [None] * sources
        self.timer: asyncio.TimerHandle | None = None


class Feed:
    """Runs one pipeline on what others are asked and answer. For one event loop.

    Args:
        name: The fed pipeline's.
        outside: Its `input`.
        infer: Its `Infer`.
        find: Gives the taps of another pipeline by name; None while there is none.
        concurrency: Runs at once.
        depth: Runs that may wait; more are dropped, and counted.

    Raises:
        InvalidRequest: a reference cannot be understood.
    """

    def __init__(
        self,
        name: str,
        outside: spec.Input,
        *,
        infer: Infer,
        find: Callable[[str], Taps | None],
        concurrency: int = 16,
        depth: int = 1024,
    ) -> None:
        self.missing: tuple[str, ...] = ()
        """References that could not be listened to at the last `refresh`: no such pipeline now, or no such step."""
        self._name = name
        self._outside = outside
        self._infer = infer
        self._find = find
        self._concurrency = concurrency
        self._depth = depth
        inputs = _sources(outside.external_inputs, outside)
        self._inputs = len(inputs)
        self._sources = [*inputs, *_sources(outside.external_triggers, outside)]
        window = spec.JOIN_WINDOW_MS if outside.join_window_ms is None else outside.join_window_ms
        self._window_seconds = window / 1000
        self._heard: dict[int, tuple[Taps, str, Listener]] = {}
        self._pending: OrderedDict[str, _Pending] = OrderedDict()
        self._waiting: deque[tuple[str, Message]] = deque()
        self._running: set[asyncio.Task[None]] = set()
        self._requests = self._failures = self._dropped = 0

    def __repr__(self) -> str:
        return f"<Feed {self._name} hears {len(self._heard)}/{len(self._sources)} running={len(self._running)}>"

    def refresh(self) -> None:
        """Listen to the pipelines that there are now: call it to begin, and whenever a pipeline came, changed, went."""
        missing = []
        for number, source in enumerate(self._sources):
            taps = self._find(source.pipeline)
            heard = self._heard.get(number)
            if heard is not None and heard[0] is taps:
                continue
            if heard is not None:
                self._unhear(number)
            if taps is None:
                missing.append(source.slot.reference)
                continue
            listener = self._listener(number)
            try:
                taps.subscribe(source.tap, listener)
            except NotFound:
                missing.append(source.slot.reference)
                continue
            self._heard[number] = (taps, source.tap, listener)
        self.missing = tuple(missing)

    def counts(self) -> FeedCounts:
        """What it has done so far."""
        return FeedCounts(requests=self._requests, failures=self._failures, dropped=self._dropped)

    async def close(self) -> None:
        """Listen no more; end what runs and wait for it."""
        for number in list(self._heard):
            self._unhear(number)
        for pending in self._pending.values():
            if pending.timer is not None:
                pending.timer.cancel()
        self._pending.clear()
        self._waiting.clear()
        running = list(self._running)
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running)

    def _unhear(self, number: int) -> None:
        taps, tap, listener = self._heard.pop(number)
        taps.unsubscribe(tap, listener)

    def _listener(self, number: int) -> Listener:
        def listen(request_id: str, _: str, tensors: Message) -> None:
            message = self._sources[number].slot.pick(tensors)
            if message is not None:
                self._came(request_id, number, message)

        return listen

    # -- joins --

    def _came(self, request_id: str, number: int, message: Message) -> None:
        if len(self._sources) == 1:
            self._run(request_id, message)
            return
        pending = self._pending.get(request_id)
        if pending is None:
            pending = self._pending[request_id] = _Pending(len(self._sources))
            loop = asyncio.get_running_loop()
            pending.timer = loop.call_later(self._window_seconds, self._expire, request_id)
            if len(self._pending) > _PENDING:
                self._forget(next(iter(self._pending)))
                self._dropped += 1
        pending.held[number] = message
        if not self._triggered(pending):
            return
        inputs = pending.held[: self._inputs]
        if self._outside.join_type == "any":
            # The entry stays until its window has passed: others of the same request may come.
            for place, each in enumerate(inputs):
                if each is not None:
                    pending.held[place] = None
                    self._run(request_id, each)
        elif None not in inputs:
            self._forget(request_id)
            self._run(request_id, tuple([tensor for each in inputs if each is not None for tensor in each]))

    def _triggered(self, pending: _Pending) -> bool:
        triggers = pending.held[self._inputs :]
        came = [each is not None for each in triggers]
        return not came or (all(came) if self._outside.triggers_join_type == "inner" else any(came))

    def _expire(self, request_id: str) -> None:
        pending = self._pending[request_id]
        self._forget(request_id)
        came = [each for each in pending.held[: self._inputs] if each is not None]
        if self._outside.join_type == "outer" and came and self._triggered(pending):
            self._run(request_id, tuple([tensor for each in came for tensor in each]))

    def _forget(self, request_id: str) -> None:
        pending = self._pending.pop(request_id)
        if pending.timer is not None:
            pending.timer.cancel()

    # -- runs --

    def _run(self, request_id: str, message: Message) -> None:
        if len(self._running) < self._concurrency:
            task = asyncio.get_running_loop().create_task(self._work(request_id, message))
            self._running.add(task)
            task.add_done_callback(self._running.discard)
        elif len(self._waiting) < self._depth:
            self._waiting.append((request_id, message))
        else:
            self._dropped += 1

    async def _work(self, request_id: str, message: Message) -> None:
        """Run the pipeline on one message, then on those that wait."""
        while True:
            self._requests += 1
            try:
                await self._infer(InferenceRequest(model_name=self._name, inputs=message, id=request_id))
            except HeadraceError as exc:
                self._failures += 1
                _log.warning("pipeline '%s', fed by others, failed for request '%s': %s", self._name, request_id, exc)
            if not self._waiting:
                return
            request_id, message = self._waiting.popleft()


def _sources(texts: tuple[str, ...], outside: spec.Input) -> list[_Source]:
    """References to one place of a pipeline are one stream, of the tensors that they name."""
    groups: dict[tuple[str, str, str], list[tuple[str, External]]] = {}
    for text in texts:
        reference = references.parse_external(text)
        groups.setdefault((reference.pipeline, reference.step, reference.side), []).append((text, reference))
    renames: dict[tuple[str, str, str], dict[str, str]] = {}
    for key, new in outside.tensor_map.items():
        reference = references.parse_external(key)
        renames.setdefault((reference.pipeline, reference.step, reference.side), {})[reference.tensor] = new
    sources = []
    for place, group in groups.items():
        text, first = group[0]
        wanted = [reference.tensor for _, reference in group]
        tensors = frozenset() if "" in wanted else frozenset(wanted)
        slot = Slot(port=0, reference=text, tensors=tensors, renames=renames.get(place, {}))
        sources.append(_Source(first.pipeline, first.tap, slot))
    return sources
