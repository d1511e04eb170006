"""Pipelines whose requests survive their server (`durability: kafka`): requests wait in a topic, any replica takes
them, answers go to another topic. `backend` makes one `Durable` for each such pipeline and puts its `infer` into the
routing table in place of the pipeline's own.

    a caller -> infer -> topic of inputs -> pump -> the same pipeline in this process -> topic of outputs
                  ^------------- follower, which shows every answer to every front ----------v

A position is committed once the answer is safe, so that whoever is killed is followed by another replica, which runs
what it had begun. Every front sees all answers: it finds its callers' by the request's id, keeps all for a while, and
so knows the results of requests whose front is gone, and of those that are sent again.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec

from headrace.brokers.base import Outgoing, Record, library
from headrace.brokers.counts import PumpCounts
from headrace.brokers.settings import KafkaSettings
from headrace.errors import (
    Conflict,
    DeadlineExceeded,
    HeadraceError,
    ModelNotReady,
    NotFound,
    Temporary,
)
from headrace.graph import run as graph
from headrace.graph import spec as graph_spec
from headrace.graph.compile import compile_pipeline
from headrace.local.records import Answer, Asked, Records
from headrace.local.results import KEPT, Results
from headrace.payload import InferenceRequest, InferenceResponse, Tensor
from headrace.protocols.pipeline_topics import REQUEST_ID, Names

if TYPE_CHECKING:
    from headrace.brokers.follower import Follower
    from headrace.brokers.producer import Producer
    from headrace.brokers.pump import Pump

_log = logging.getLogger(__name__)
STORE_SECONDS: Final = 10.0
"""How long a request may wait for a broker that takes it."""
_AGAIN_SECONDS: Final = 1.0
"""Between looks for a broker that is away."""
_CATCH_UP_SECONDS: Final = 5.0
_TRIED: Final = 10_000
"""Requests whose tries are counted; the oldest give way."""
_ASIDES: Final = 1000
"""Requests that were answered and may still have messages of steps; the oldest give way."""


class Shown(Protocol):
    """Where what pumps count is shown (`monitoring.kafka_metrics`)."""

    def attach(self, group: str, counts: PumpCounts, reason: Callable[[], str]) -> None:
        """Show what a member of a group counts."""

    def detach(self, group: str) -> None:
        """No longer."""


class Durables:
    """The durable pipelines of this process, and what they share: who writes requests, and who reads answers.

    Args:
        settings: The section `kafka`.
        drain_seconds: How long what is being answered may take when a pipeline or the server stops.
        metrics: Where it is shown what is taken from topics.
    """

    def __init__(self, settings: KafkaSettings, *, drain_seconds: float = 10.0, metrics: Shown | None = None) -> None:
        self.settings, self.drain_seconds, self.metrics = settings, drain_seconds, metrics
        self.names = Names(naming=settings.naming, prefix=settings.prefix, namespace=settings.namespace)
        self._producer: Producer | None = None
        self._follower: Follower | None = None
        self._by_topic: dict[str, Durable] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False

    def producer(self) -> Producer:
        """Writes requests, and what is told of steps after an answer. It fails what no broker takes for too long.

        Raises:
            ModelNotReady: this server stops.
            SettingsError: these settings cannot be.
            MissingExtra: the library is not installed.
        """
        self._check_open()
        if self._producer is None:
            made = _library("producer").Producer(self.settings, delivery_seconds=STORE_SECONDS)
            made.start()
            self._producer = made
        return self._producer

    def follower(self) -> Follower:
        """Reads answers. Raises as `producer`."""
        self._check_open()
        if self._follower is None:
            self._loop = asyncio.get_running_loop()
            made = _library("follower").Follower(self.settings, self._arrived)
            made.start()
            self._follower = made
        return self._follower

    def enter(self, topic: str, durable: Durable) -> None:
        """Show a pipeline what comes to its topic of outputs."""
        self._by_topic[topic] = durable

    def leave(self, topic: str) -> None:
        """No longer."""
        self._by_topic.pop(topic, None)
        if self._follower is not None:
            self._follower.forget(topic)

    def _check_open(self) -> None:
        if self._closed:  # a step that ends late would begin clients that nobody ends
            raise ModelNotReady("this server stops, and writes and reads no topics any more")

    async def close(self) -> None:
        """End what is shared, once no pipeline is left."""
        self._closed = True
        if self._follower is not None:
            await asyncio.to_thread(self._follower.close)
        if self._producer is not None:
            await asyncio.to_thread(self._producer.close)
        self._follower = self._producer = None

    def _arrived(self, records: Sequence[Record]) -> None:
        """On the follower's thread."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._hand_out, records)

    def _hand_out(self, records: Sequence[Record]) -> None:
        for record in records:
            durable = self._by_topic.get(record.topic)
            if durable is not None:
                durable.answered(record)


class _Waiting:
    """Callers here that wait for one answer."""

    __slots__ = ("answer", "callers", "digest", "stored")

    def __init__(self, digest: str, answer: asyncio.Future[Answer]) -> None:
        self.digest, self.answer = digest, answer
        self.callers = 0
        self.stored = False
        """The broker has the request; written by the producer's thread."""


class _Target(msgspec.Struct, frozen=True):
    """The version of the pipeline that answers here."""

    pipeline: graph.Pipeline
    models: Mapping[str, str]
    """By step, for Seldon's names of topics."""
    references: frozenset[str]
    """What of steps is written to topics."""
    has_aside: bool
    """Some of that may come after the answer."""


class Durable:
    """One durable pipeline, through all its versions. For one event loop.

    Args:
        name: The pipeline's.
        durables: What it shares with others.
        changed: Called when `reason` changes.
    """

    def __init__(self, name: str, durables: Durables, changed: Callable[[], None] = lambda: None) -> None:
        self.name = name
        self.reason = f"pipeline '{name}' has not reached its topics yet"
        """Why it can answer nothing here; empty: it can."""
        self.counts = PumpCounts()
        """What this replica took from the topic of inputs."""
        self.failures = 0
        """Requests that it answered with an error."""
        self.repeated = 0
        """Requests that had an answer already, which was given again."""
        self.lost = 0
        """Messages of steps beside the answer that no topic took."""
        self._durables, self._changed = durables, changed
        self._settings = durables.settings
        self._records = Records(durables.names, name, partitions=self._settings.partitions)
        self._results = Results(3600.0)
        self._target: _Target | None = None
        self._partitions = 0
        self._made: frozenset[str] = frozenset()
        self._followed = False
        self._ready = False
        self._closing = False
        self._cleans = False
        self._turned = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._pump: Pump | None = None
        self._waiting: dict[str, _Waiting] = {}
        self._seen: dict[str, list[tuple[str, tuple[Tensor, ...]]]] = {}
        self._asides: OrderedDict[str, tuple[Record, Asked, _Target]] = OrderedDict()
        self._tries: OrderedDict[tuple[int, int], int] = OrderedDict()
        self._scan: asyncio.Task[tuple[frozenset[str], bool]] | None = None
        self._next_scan: asyncio.Task[tuple[frozenset[str], bool]] | None = None

    def __repr__(self) -> str:
        state = self.reason or ("reads" if self._pump is not None else "waits for its models")
        return f"<Durable {self.name} {state} waiting={len(self._waiting)} results={len(self._results)}>"

    # -- what the backend says --

    def carry(self, pipeline: graph.Pipeline) -> None:
        """Let this version answer from now on; what the one before has begun ends there."""
        spec = pipeline.spec
        references = frozenset(graph_spec.topic_references(spec))
        models = {step.name: step.model for step in spec.steps}
        has_aside = bool(references) and compile_pipeline(self.name, spec).has_aside
        self._target = _Target(pipeline, models, references, has_aside)
        self._partitions = spec.partitions
        self._results.seconds = float(spec.result_seconds)
        if references:
            pipeline.taps.witness(references, self._witnessed)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._supervise(), name=f"durable {self.name}")
        self._turned.set()

    def ready(self, is_ready: bool) -> None:
        """Whether the pipeline's models can be asked here; while they cannot, other replicas take the requests."""
        if is_ready != self._ready:
            self._ready = is_ready
            self._turned.set()

    def removed(self) -> None:
        """The pipeline is to be no more, nowhere: its topics go with it where it says so, once it is closed."""
        spec = self._target.pipeline.spec if self._target is not None else graph_spec.Pipeline()
        self._cleans = spec.dataflow is not None and spec.dataflow.clean_topics_on_delete

    async def close(self) -> None:
        """Take no more requests, let those end that were begun, and tell callers that wait that they wait in vain."""
        self._closing = True
        self._turned.set()
        if self._task is not None:
            await asyncio.wait({self._task})
        for waiting in self._waiting.values():
            if not waiting.answer.done():
                gone = f"pipeline '{self.name}' was taken away here; the request may still be answered elsewhere"
                waiting.answer.set_exception(ModelNotReady(gone))
        await asyncio.to_thread(self._durables.leave, self._outputs)
        if self._cleans:
            own = [each for each in sorted(self._made) if f".pipeline.{self.name}." in each]  # others are shared
            try:
                await asyncio.to_thread(_library("admin").delete_topics, self._settings, own)
            except HeadraceError as error:
                _log.warning("pipeline '%s' is removed, its topics are not: %s", self.name, error)

    # -- what callers ask --

    async def infer(self, request: InferenceRequest) -> InferenceResponse:
        """Store a request, and wait for its answer, whoever gives it.

        A header `x-request-id` makes it the request of that id: sent again, it gets the answer that there is.

        Raises:
            HeadraceError: what the pipeline raised.
            Conflict: the id belongs to another request.
            ModelNotReady: no broker takes the request, or none gives an answer.
            DeadlineExceeded: no answer came in time; it can be had by the id.
        """
        given = request.headers.get(REQUEST_ID, "")
        request_id = given or _new_id()
        outgoing, digest = self._records.request(request, request_id, version=self._version)
        answer = self._known(request_id, digest) if given else None
        if answer is None:
            answer = await self._exchange(outgoing, request_id, digest, request.deadline)
        response = self._records.response(answer)
        if given:
            return response
        # The very object: the server does not remember headers whose value is the id.
        headers = {**response.headers, REQUEST_ID: response.id}
        return msgspec.structs.replace(response, headers=headers) if response.id == request_id else response

    async def submit(self, request: InferenceRequest) -> str:
        """Store a request, and return its id once it is safe.

        Raises:
            Conflict: the id belongs to another request.
            ModelNotReady: no broker takes it.
        """
        request_id = request.headers.get(REQUEST_ID, "") or _new_id()
        outgoing, digest = self._records.request(request, request_id, version=self._version)
        waiting = self._waiting.get(request_id)
        if waiting is not None and waiting.digest != digest:
            raise self._taken(request_id)
        if waiting is not None or self._known(request_id, digest) is not None:
            return request_id
        try:
            await self._durables.producer().deliver([outgoing])
        except HeadraceError as error:
            raise self._not_stored(error) from error
        return request_id

    async def find(self, request_id: str) -> InferenceResponse | None:
        """The answer to the request of this id; None: it is not answered yet.

        Raises:
            NotFound: nobody asked that, or it is too long ago.
            HeadraceError: what the pipeline raised; or no broker tells whether the request is there.
        """
        answer = self._results.get(request_id)
        if answer is None and request_id in self._waiting:
            return None
        if answer is None:
            unread, complete = await self._unread()
            # Whatever nobody has to do any more is answered, and so is some that is not told of as done yet.
            follower = self._durables.follower()
            there = await asyncio.to_thread(follower.catch_up, self._outputs, timeout_seconds=_CATCH_UP_SECONDS)
            answer = self._results.get(request_id)
            if answer is None and (request_id in unread or not (complete and there)):
                return None
        if answer is None:
            raise NotFound(
                f"pipeline '{self.name}' has no result '{request_id}': no such request, or one of more than "
                f"{self._results.seconds:g} seconds or {KEPT} answers ago"
            )
        return self._records.response(answer)

    def answered(self, record: Record) -> None:
        """A record of the outputs came."""
        answer = self._records.answer_of(record)
        self._results.put(answer)
        waiting = self._waiting.get(answer.id)
        if waiting is not None and not waiting.answer.done():
            waiting.answer.set_result(answer)

    async def _exchange(self, outgoing: Outgoing, request_id: str, digest: str, deadline: float | None) -> Answer:
        waiting = self._waiting.get(request_id)
        if waiting is None:
            loop = asyncio.get_running_loop()
            waiting = self._waiting[request_id] = _Waiting(digest, loop.create_future())
            self._store(outgoing, waiting, loop)
        elif waiting.digest != digest:
            raise self._taken(request_id)
        left = self._settings.request_timeout_seconds if deadline is None else deadline - time.monotonic()
        waiting.callers += 1
        try:  # a little less than there is, so that the caller is told more than that the time is up
            await asyncio.wait({waiting.answer}, timeout=max(0.0, left - min(0.1, left / 20)))
            if waiting.answer.done():
                return waiting.answer.result()
        finally:
            waiting.callers -= 1
            if not waiting.callers and self._waiting.get(request_id) is waiting:
                del self._waiting[request_id]
        raise self._late(request_id, waiting)

    def _store(self, outgoing: Outgoing, waiting: _Waiting, loop: asyncio.AbstractEventLoop) -> None:
        def refused(error: HeadraceError) -> None:
            if not waiting.answer.done():
                waiting.answer.set_exception(self._not_stored(error))
                waiting.answer.exception()  # whoever waited may have left

        def sent(error: HeadraceError | None) -> None:
            if error is None:
                waiting.stored = True
            elif not loop.is_closed():
                loop.call_soon_threadsafe(refused, error)

        self._durables.producer().send(outgoing, sent)

    def _known(self, request_id: str, digest: str) -> Answer | None:
        """The answer that a request has already, unless that was an error.

        Raises:
            Conflict: the id belongs to another request.
        """
        found = self._results.get(request_id)
        if found is None or found.failed:
            return None
        if found.digest and found.digest != digest:
            raise self._taken(request_id)
        return found

    def _taken(self, request_id: str) -> Conflict:
        return Conflict(
            f"pipeline '{self.name}': {REQUEST_ID} '{request_id}' belongs to another request, of other content; send "
            "an id of its own with each request, or none"
        )

    def _not_stored(self, error: HeadraceError) -> HeadraceError:
        if not isinstance(error, Temporary):
            return error
        return ModelNotReady(f"pipeline '{self.name}' could not store the request: {error}")

    def _late(self, request_id: str, waiting: _Waiting) -> HeadraceError:
        """Why there is no answer, as far as is known."""
        if not waiting.stored:
            why = self._durables.producer().reason or "no broker took it in time"
            return ModelNotReady(f"pipeline '{self.name}' could not store the request: {why}")
        why = self._durables.follower().reason
        if why:
            return ModelNotReady(
                f"pipeline '{self.name}' stored request '{request_id}', and cannot read answers: {why}"
            )
        return DeadlineExceeded(
            f"pipeline '{self.name}': request '{request_id}' was not answered in time; its result will be at "
            f"/v2/pipelines/{self.name}/results/{request_id}"
        )

    async def _unread(self) -> tuple[frozenset[str], bool]:
        """Ids of requests that nobody is done with, as of after this call; and whether they are all. Those who ask
        while somebody looks share the next look.
        """
        if self._next_scan is None:
            self._next_scan = asyncio.get_running_loop().create_task(self._look(self._scan))
        mine = self._next_scan
        await asyncio.wait({mine})
        return mine.result()

    async def _look(self, before: asyncio.Task[Any] | None) -> tuple[frozenset[str], bool]:
        if before is not None:
            await asyncio.wait({before})
        self._scan, self._next_scan = self._next_scan, None
        names = self._durables.names
        unread = _library("follower").unread
        found, complete = await asyncio.to_thread(
            unread, self._settings, names.inputs(self.name), names.group(self.name)
        )
        return frozenset([self._records.id_of(each) for each in found]), complete

    # -- what this replica answers --

    async def _handle(self, record: Record) -> Sequence[Outgoing]:
        """Answer one record of the inputs: the answer, and what is told of its steps. Called by the pump.

        Raises:
            Temporary: it may be answered later, here or elsewhere.
        """
        target, place = self._target, (record.partition, record.offset)
        if target is None:
            raise ModelNotReady(f"pipeline '{self.name}' is not there yet")
        version = target.pipeline.version
        try:
            asked = self._records.asked(record, deadline=time.monotonic() + self._settings.request_timeout_seconds)
            known = self._results.get(asked.id)
            if known is not None and not known.failed and known.digest == asked.digest:
                self.repeated += 1
                given = known.record
                return [Outgoing(given.topic, given.value, given.key, given.headers)]
            return await self._run(target, record, asked)
        except Exception as error:  # whatever it is, the caller is told
            if isinstance(error, Temporary) and not isinstance(error, DeadlineExceeded):
                tries = self._tries[place] = self._tries.pop(place, 0) + 1
                if len(self._tries) > _TRIED:
                    self._tries.popitem(last=False)
                if tries <= self._settings.retries:
                    raise
            if not isinstance(error, HeadraceError):
                _log.exception("pipeline '%s' failed", self.name)
            self._tries.pop(place, None)
            self.failures += 1
            return self._records.failure(record, error, version=version)

    async def _run(self, target: _Target, record: Record, asked: Asked) -> Sequence[Outgoing]:
        seen: list[tuple[str, tuple[Tensor, ...]]] = []
        if target.references:
            self._seen[asked.id] = seen
        if target.has_aside:
            self._asides[asked.id] = (record, asked, target)
            if len(self._asides) > _ASIDES:
                self._asides.popitem(last=False)
        try:
            response = await target.pipeline.infer(asked.request)
        finally:
            self._seen.pop(asked.id, None)
        return [
            self._records.answer(record, asked, response, version=target.pipeline.version),
            *[self._step(target, record, asked, *each) for each in seen],
        ]

    def _witnessed(self, request_id: str, reference: str, tensors: tuple[Tensor, ...]) -> None:
        """A message of a step: it goes with the answer; where that has gone, by itself."""
        seen = self._seen.get(request_id)
        if seen is not None:
            seen.append((reference, tensors))
            return
        about = self._asides.get(request_id)
        if about is None:
            self.lost += 1
            return
        record, asked, target = about
        try:
            self._durables.producer().send(self._step(target, record, asked, reference, tensors), self._lost)
        except HeadraceError as error:
            self._lost(error)

    def _lost(self, error: HeadraceError | None) -> None:
        if error is not None:
            self.lost += 1
            _log.warning("pipeline '%s': a message of a step beside the answer is lost: %s", self.name, error)

    def _step(
        self, target: _Target, record: Record, asked: Asked, reference: str, tensors: tuple[Tensor, ...]
    ) -> Outgoing:
        step, _, side = reference.rpartition(".")
        return self._records.step(
            record,
            asked,
            step=step,
            side=side,
            model=target.models.get(step, ""),
            version=target.pipeline.version,
            tensors=tensors,
        )

    # -- being there --

    async def _supervise(self) -> None:
        """Make what is wanted so, again and again: topics, following, and reading while the models are ready."""
        while not self._closing:
            self._turned.clear()
            again: float | None = None
            try:
                await self._open()
                self._say("")
                await self._read_if_ready()
            except HeadraceError as error:
                self._say(str(error))
                again = _AGAIN_SECONDS
            except Exception as error:  # noqa: BLE001 - an error of ours must not leave a pipeline without its reader in silence
                _log.exception("pipeline '%s' is begun again", self.name)
                self._say(f"{type(error).__name__}: {error}")
                again = _AGAIN_SECONDS
            await _turn(self._turned, again)
        await self._stop()

    async def _open(self) -> None:
        names, target = self._durables.names, self._target
        references = sorted(target.references) if target is not None else []
        wanted = [names.inputs(self.name), self._outputs, names.errors(self.name)]
        for reference in references:
            step, _, side = reference.rpartition(".")
            wanted.append(names.step(self.name, step, side, model=target.models.get(step, "") if target else ""))
        lacking = [each for each in dict.fromkeys(wanted) if each not in self._made]
        self._durables.producer()
        follower = self._durables.follower()
        if lacking:
            ensure = _library("admin").ensure_topics
            await asyncio.to_thread(ensure, self._settings, lacking, create=True, partitions=self._partitions)
            self._made |= frozenset(lacking)
        if not self._followed:
            self._durables.enter(self._outputs, self)
            seconds = self._results.seconds
            await asyncio.to_thread(follower.follow, self._outputs, seconds=seconds, records=KEPT)
            self._followed = True

    async def _read_if_ready(self) -> None:
        if not self._ready or self._closing:
            await self._stop()
            return
        if self._pump is not None:
            return
        names = self._durables.names
        pump = _library("pump").Pump(
            self._settings,
            topics=[names.inputs(self.name)],
            group=names.group(self.name),
            handle=self._handle,
            counts=self.counts,
            dead_letter_topic=names.errors(self.name),
        )
        try:
            await pump.start()
        except BaseException:
            await pump.stop(0.0)
            raise
        self._pump = pump
        if self._durables.metrics is not None:
            self._durables.metrics.attach(names.group(self.name), self.counts, lambda: pump.reason)

    async def _stop(self) -> None:
        pump, self._pump = self._pump, None
        if pump is not None:
            if self._durables.metrics is not None:
                self._durables.metrics.detach(self._durables.names.group(self.name))
            await pump.stop(self._durables.drain_seconds)

    def _say(self, reason: str) -> None:
        if reason == self.reason:
            return
        if reason:
            _log.warning("pipeline '%s': %s", self.name, reason)
        elif self.reason:
            _log.info("pipeline '%s' is durable: %s", self.name, self._durables.names.inputs(self.name))
        self.reason = reason
        self._changed()

    @property
    def _outputs(self) -> str:
        return self._durables.names.outputs(self.name)

    @property
    def _version(self) -> str:
        return self._target.pipeline.version if self._target is not None else ""


def _new_id() -> str:
    """Whoever knows an id can have its result, so that nobody may find those of others by counting."""
    return secrets.token_hex(16)


async def _turn(event: asyncio.Event, seconds: float | None) -> None:
    """Until the event, or so long."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return


def _library(module: str) -> Any:
    return library(f"headrace.brokers.{module}", needed_by="durable pipelines")
