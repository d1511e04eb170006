"""Carries out a plan in this process. `app` builds it and gives it to `control`; nothing here decides what should be.

A unit becomes what the routing table can answer with: a revision of a model is given to the repository, a pipeline or a
split becomes a `Served` of its own kind, whose steps and candidates look their models up in the table at each call. So
a model that is loaded again, moved or split needs nothing done over here but its readiness told (`_look_again`).
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec

from headrace.client.remote import Remote
from headrace.control.backends.base import (
    Action,
    Counts,
    ModelUnit,
    Observed,
    PipelineUnit,
    ServerUnit,
    Share,
    SplitUnit,
    Unit,
    UnitKey,
    key_of,
)
from headrace.errors import HeadraceError, InvalidRequest, NotFound, NotSupported
from headrace.graph import check as graph_check
from headrace.graph import picture as graph_picture
from headrace.graph import run as graph
from headrace.graph import spec as graph_spec
from headrace.graph.combine import Combiner, combiner
from headrace.graph.external import Feed
from headrace.graph.route import Router, router
from headrace.graph.taps import Listener, Taps
from headrace.local import elsewhere, feedback, picture, seen
from headrace.local.durable import Durable, Durables
from headrace.local.models import Fetch, model_spec
from headrace.local.steps import implicit_model, key_of_step, version_of_step
from headrace.payload import Infer, InferenceRequest, InferenceResponse, Signature
from headrace.routing import sticky
from headrace.routing.mirror import Mirror
from headrace.routing.shares import Candidate
from headrace.routing.split import Split
from headrace.runtimes.own_code import OwnCode
from headrace.security import load_policy
from headrace.serving.models import Models, Served, State
from headrace.serving.repository import Repository
from headrace.serving.residency import Residency

_log = logging.getLogger(__name__)

VIEWS_SECONDS: Final = 30.0
"""How old what is seen of a model may be, where nothing was told of it: sizes that were measured anew meanwhile."""
_EXAMPLES: Final = 3
"""Shown of what a mirror answered otherwise; the newest."""


class Gauges(Protocol):
    """Where what candidates and steps do is shown (`monitoring`)."""

    def attach(self, key: str, source: Any) -> None:
        """Show what a pipeline or a split counts, under its key in the routing table."""

    def detach(self, key: str) -> None:
        """No longer."""


class _Deployed(msgspec.Struct, eq=False):
    """A unit that somebody wanted, and what carries it."""

    unit: Unit
    state: str = "progressing"
    reason: str = ""
    served: Served | None = None
    pipeline: graph.Pipeline | None = None
    split: Split | None = None
    feed: Feed | None = None
    durable: Durable | None = None
    remotes: tuple[Remote, ...] = ()
    settling: bool = False
    """A candidate of it was not as fast yet as it will be, at the last look."""
    needs: frozenset[str] = frozenset()
    """Keys of the table without which it is not ready."""
    implicit: frozenset[tuple[str, str]] = frozenset()
    """Models that stand in the repository for its steps, by name and version."""


class LocalBackend:
    """What `control.backends.base.Backend` asks for, over the rooms of this process. Used on one event loop."""

    def __init__(
        self,
        models: Models,
        repository: Repository,
        residency: Residency,
        *,
        mirrors: Sequence[str] = (),
        fetch: Fetch | None = None,
        memory_bytes: int = 0,
        changed: Callable[[], None] = lambda: None,
        metric: Callable[[str, str, str], float | None] = lambda *_: None,
        counted: Callable[[str, str, Infer], Infer] = lambda *given: given[-1],
        forgotten: Callable[[str, str], None] = lambda *_: None,
        settling: Callable[[str, str], bool] = lambda *_: False,
        gauges: Gauges | None = None,
        load_policy: str = "auto",
        durables: Durables | None = None,
    ) -> None:
        """Store the rooms.

        Args:
            models: The routing table.
            repository: Loads models.
            residency: Decides which of them are in memory.
            mirrors: As the setting `models.uri_mirrors`.
            fetch: Brings what a uri of a store names to this machine; None: nothing does.
            memory_bytes: As the setting; what holds where no Server resource says otherwise.
            changed: Called when something changes state by itself.
            metric: A metric's value by its name, a model's name and version.
            counted: An `Infer` that counts what is asked of one, by its key in the routing table and its version.
            forgotten: Called with the key and version of what was counted and is no more.
            settling: Whether a version of a model may soon be faster than it is.
            gauges: Where what steps and candidates did is shown.
            load_policy: As the setting `models.load_policy`: for code that steps name.
            durables: For pipelines with `durability: kafka`; None: they are refused.
        """
        self._models, self._repository, self._residency = models, repository, residency
        self._mirrors, self._fetch, self._memory_bytes = tuple(mirrors), fetch, memory_bytes
        self.changed = changed
        self.metric = metric
        self._counted, self._forgotten = counted, forgotten
        self._settling, self._gauges, self._load_policy = settling, gauges, load_policy
        self._durables = durables
        self.recalled: dict[str, Any] = {}
        """What routers of pipelines had learnt before this process began, by pipeline; each is taken once."""
        self._deployed: dict[UnitKey, _Deployed] = {}
        self._dependents: dict[str, set[UnitKey]] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._views: dict[str, dict[UnitKey, Observed]] = {}
        """What was last seen of models, by name: a look at thousands costs what changed."""
        self._views_since = 0.0
        self._implicit: Counter[tuple[str, str]] = Counter()  # how many pipelines, old ones that still close too
        self._tapped: dict[str, list[tuple[str, Listener]]] = {}
        models.listen(self._look_again)

    # -- the role --

    async def observe(self) -> Sequence[Observed]:
        """All units there are, in any state."""
        now = time.monotonic()
        if now - self._views_since > VIEWS_SECONDS:
            self._views.clear()
            self._views_since = now
        views = self._views
        return [views.get(key[1], {}).get(key) or self._view(key, deployed) for key, deployed in self._deployed.items()]

    def _view(self, key: UnitKey, deployed: _Deployed) -> Observed:
        observed = self._observed(key, deployed)
        if key[0] == "model":
            self._views.setdefault(key[1], {})[key] = observed
        return observed

    def moved(self, model: str) -> None:
        """A model left memory, or came back."""
        self._views.pop(model, None)

    async def carry_out(self, action: Action) -> None:
        """Do it, and return when it is done.

        Raises:
            HeadraceError: it cannot be done; what was there before stays.
        """
        try:
            await self._carry_out(action)
        finally:
            self._views.pop(action.key[1], None)

    async def _carry_out(self, action: Action) -> None:
        if action.verb == "remove":
            await self._remove(action.key)
            return
        match action.unit:
            case ModelUnit() as unit:
                await self._set_model(unit)
            case PipelineUnit() as unit:
                await self._set_pipeline(unit)
            case SplitUnit() as unit:
                self._set_split(unit)
            case ServerUnit() as unit:
                self._set_server(unit)

    def counts(self, split: str) -> Mapping[str, Counts]:
        """What each candidate of a split has done."""
        deployed = self._deployed.get(("split", split, 0))
        if deployed is None or deployed.split is None:
            return {}
        differences = _differences(deployed.split)
        return {
            name: Counts(
                requests=counted.requests,
                failures=counted.failures,
                latency=counted.latency,
                compared=counted.compared,
                agreed=counted.agreed,
                differences=differences if counted.agreed < counted.compared else {},
            )
            for name, counted in deployed.split.counts().items()
        }

    async def close(self) -> None:
        """Take everything away that is not the repository's."""
        for key in [key for key in self._deployed if key[0] in {"split", "pipeline"}]:
            self._forget(key)
        while self._closing:
            await asyncio.wait(self._closing)
        if self._durables is not None:
            await self._durables.close()

    def learnt(self) -> dict[str, Any]:
        """What routers of pipelines have learnt, by pipeline, those included that are not up yet."""
        now = {
            key[1]: states
            for key, deployed in self._deployed.items()
            if deployed.pipeline is not None and (states := deployed.pipeline.learnt())
        }
        return {**self.recalled, **now}

    # -- for the control API --

    def tap(self, pipeline: str, reference: str, listener: Listener) -> Callable[[], None]:
        """Tell a listener what passes a reference of a pipeline; returns what ends it. A new version that has the
        reference is listened to as well, one that has not is silent.

        Raises:
            NotFound: no such pipeline, or no such reference in it.
        """
        heard = (reference or "outputs", listener)
        self._pipeline(pipeline).taps.subscribe(*heard)
        self._tapped.setdefault(pipeline, []).append(heard)

        def end() -> None:
            kept = self._tapped.get(pipeline, [])
            if heard in kept:
                kept.remove(heard)
            if not kept:
                self._tapped.pop(pipeline, None)
            if (taps := self._taps_of(pipeline)) is not None:
                taps.unsubscribe(*heard)

        return end

    def picture(self, name: str, form: str) -> str:
        """A pipeline or an experiment, as `text` or `mermaid`.

        Raises:
            NotFound: no such pipeline or experiment.
        """
        split = self._deployed.get(("split", name, 0))
        if split is not None and isinstance(split.unit, SplitUnit):
            return picture.split(split.unit, form)
        spec = self._pipeline(name).spec
        return graph_picture.mermaid(name, spec) if form == "mermaid" else graph_picture.text(name, spec)

    async def prefetch(self, model: str) -> None:
        """Load a model that is not in memory; returns when it is."""
        await self._residency.prefetch(model)

    async def evict(self, model: str) -> None:
        """Take a model out of memory."""
        await self._residency.evict(model)

    def _pipeline(self, name: str) -> graph.Pipeline:
        deployed = self._deployed.get(("pipeline", name, 0))
        if deployed is None or deployed.pipeline is None:
            raise NotFound(f"pipeline '{name}' is not found")
        return deployed.pipeline

    # -- models --

    async def _set_model(self, unit: ModelUnit) -> None:
        key = key_of(unit)
        deployed = self._deployed.setdefault(key, _Deployed(unit))
        self._depend_no_more(key, deployed)
        deployed.needs = frozenset(filter(None, [seen.explained_by_its_own(unit.spec)]))
        self._depend(key, deployed)  # before it is in the table, where somebody may look at once
        server = self._deployed.get(("server", unit.spec.server, 0))
        try:
            if server is not None and isinstance(server.unit, ServerUnit) and server.unit.spec.url:
                await self._set_elsewhere(deployed, unit, server.unit)
            else:
                spec = await asyncio.to_thread(model_spec, unit, mirrors=self._mirrors, fetch=self._fetch)
                await self._repository.add(spec)
                self._leave_elsewhere(deployed)
        except Exception as error:
            if deployed.state != "ready":
                deployed.unit, deployed.state, deployed.reason = unit, "failed", str(error)
            raise
        deployed.unit, deployed.state, deployed.reason = unit, "ready", ""

    async def _set_elsewhere(self, deployed: _Deployed, unit: ModelUnit, server: ServerUnit) -> None:
        """A model that another server holds, in place of the one that stood here."""
        remote, signature = await elsewhere.connect(unit, server)
        version = str(unit.revision)
        if deployed.served is None:
            await self._repository.remove(unit.name, version)
        served = Served(name=unit.name, version=version, state=State.READY, wanted=False, elsewhere=True)
        served.infer = self._counted(unit.name, version, remote.infer)
        served.signature, served.placement = signature, "server"
        self._leave_elsewhere(deployed)
        deployed.served, deployed.remotes = served, (remote,)
        self._models.put(served)

    def _leave_elsewhere(self, deployed: _Deployed) -> None:
        """The model is no longer asked where it was."""
        served, deployed.served = deployed.served, None
        remotes, deployed.remotes = deployed.remotes, ()
        if served is not None:
            self._models.forget(served)
        for remote in remotes:
            self._later(remote.close())

    # -- pipelines --

    async def _set_pipeline(self, unit: PipelineUnit) -> None:
        key = key_of(unit)
        specs = [await asyncio.to_thread(implicit_model, unit, step) for step in unit.spec.steps if step.python]
        implicit = frozenset([(spec.name, spec.version) for spec in specs])
        self._implicit.update(implicit)
        try:
            for spec in specs:
                await self._repository.add(spec)
            self._check_flow(unit)
            before = self._deployed.get(key)
            deployed = self._pipeline_of(unit, before, implicit)
        except BaseException:
            self._later(self._release(implicit))
            raise
        self._put(key, deployed)
        self._refresh_feeds()
        if before is not None:
            if before.durable is deployed.durable:
                before.durable = None  # it goes on, with the new version
            self._later(self._close_pipeline(before))

    def _check_flow(self, unit: PipelineUnit) -> None:
        """That tensors can flow, once the models have said what they take; at apply they may not have been loaded.

        Raises:
            InvalidRequest: names every tensor that cannot.
        """
        told = {step.name: seen.signature_of_step(self._models, unit, step) for step in unit.spec.steps}
        signatures = {name: signature for name, signature in told.items() if signature is not None}
        if faults := graph_check.flow_faults(unit.name, unit.spec, signatures):
            raise InvalidRequest("; ".join(faults))

    def _pipeline_of(
        self, unit: PipelineUnit, before: _Deployed | None, implicit: frozenset[tuple[str, str]]
    ) -> _Deployed:
        remotes: list[Remote] = []
        pipeline = graph.Pipeline(
            unit.name,
            unit.spec,
            version=str(unit.version),
            ask=lambda step: self._ask(unit, step, remotes),
            combiner=lambda step: self._combiner(step, unit.base),
            router=lambda step: self._router(step, unit.base),
            base=unit.base,
        )
        needs = frozenset(filter(None, (key_of_step(unit.name, step) for step in unit.spec.steps)))
        served = before.served if before is not None and before.served is not None else None
        served = served or Served(name=unit.name, kind="pipeline", wanted=False)
        durable = self._durable_of(unit, before)
        infer = pipeline.infer if durable is None else durable.infer
        served.infer, served.placement = self._counted(served.key, "", infer), "inline"
        served.results = durable
        hears = unit.form or any(step.route is not None for step in unit.spec.steps)
        served.feedback = functools.partial(self._hear, unit, pipeline) if hears else None
        served.graph = bool(unit.form)
        served.declared = {"properties": {"pipeline.version": str(unit.version)}}
        old = before.pipeline if before is not None else None
        pipeline.restore(old.learnt() if old is not None else self.recalled.pop(unit.name, {}))
        feed = None
        if unit.spec.input is not None:
            feed = Feed(unit.name, unit.spec.input, infer=infer, find=self._taps_of)
        if durable is not None:
            durable.carry(pipeline)
        return _Deployed(
            unit,
            served=served,
            pipeline=pipeline,
            feed=feed,
            durable=durable,
            remotes=tuple(remotes),
            needs=needs,
            implicit=implicit,
        )

    def _durable_of(self, unit: PipelineUnit, before: _Deployed | None) -> Durable | None:
        """What stores a pipeline's requests: the one of the version before, if there is one. None: nothing does.

        Raises:
            NotSupported: nothing here can.
        """
        if unit.spec.durability == "memory":
            return None
        if before is not None and before.durable is not None:
            return before.durable
        if self._durables is None:
            raise NotSupported(f"pipeline '{unit.name}' has durability: kafka, and this process has no brokers")
        return Durable(unit.name, self._durables, lambda: self._look_again_at(key_of(unit)))

    def _hear(
        self,
        unit: PipelineUnit,
        pipeline: graph.Pipeline,
        routing: Mapping[str, str],
        reward: float,
        request: InferenceRequest | None,
    ) -> None:
        """Tell routers and components what an answer was worth."""
        if routing or feedback.learns(unit.spec) or not unit.form:
            pipeline.feedback(routing, reward, request)
        if request is not None and request.inputs:
            for step in feedback.took_part(unit.name, unit.spec, routing):
                key = key_of_step(unit.name, step)
                if key:
                    self._later(feedback.tell(self._models, key, step.version, request, reward))

    def _ask(self, unit: PipelineUnit, step: graph_spec.Step, remotes: list[Remote]) -> Infer:
        """What a step asks: looked up at each call, so that it follows what becomes of the model. Its own code is that
        of its own version, whatever is being loaded for the next.
        """
        if step.url:
            remote = Remote(step.url, model=step.model or step.name, version=step.version)
            remotes.append(remote)
            return remote.infer
        return self._models.asking(key_of_step(unit.name, step), version_of_step(unit, step))

    def _combiner(self, step: graph_spec.Step, base: str) -> Combiner:
        if step.combine is None:
            raise NotSupported(f"step '{step.name}' combines nothing")
        return combiner(step.combine, base=base, code=OwnCode, allowed=self._allowed(step.combine.reference, base))

    def _router(self, step: graph_spec.Step, base: str) -> Router:
        if step.route is None:
            raise NotSupported(f"step '{step.name}' chooses nothing")
        return router(step.route, base=base, code=OwnCode, allowed=self._allowed(step.route.reference, base))

    def _allowed(self, reference: str, base: str) -> tuple[str, ...] | None:
        """Whether the code that a step names may run: None; otherwise what the load policy allows."""
        file = Path(base or ".", reference.rpartition(":")[0])
        return load_policy.decide(file if file.is_file() else Path(base or "."), self._load_policy)

    def _taps_of(self, name: str) -> Taps | None:
        deployed = self._deployed.get(("pipeline", name, 0))
        return deployed.pipeline.taps if deployed is not None and deployed.pipeline is not None else None

    def _refresh_feeds(self) -> None:
        """Pipelines came or went: who is fed by others listens to those that there are."""
        for deployed in self._deployed.values():
            if deployed.feed is not None:
                deployed.feed.refresh()

    async def _close_pipeline(self, deployed: _Deployed) -> None:
        if deployed.durable is not None:
            await deployed.durable.close()
        if deployed.feed is not None:
            await deployed.feed.close()
        if deployed.pipeline is not None:
            await deployed.pipeline.close()
        for remote in deployed.remotes:
            await remote.close()
        await self._release(deployed.implicit)

    async def _release(self, implicit: Collection[tuple[str, str]]) -> None:
        """Have models leave that stood for steps, unless another pipeline has begun to need them."""
        for each in implicit:
            self._implicit[each] -= 1
            if self._implicit[each] <= 0:
                del self._implicit[each]
                await self._repository.remove(*each)

    # -- splits --

    def _set_split(self, unit: SplitUnit) -> None:
        key = key_of(unit)
        before = self._deployed.get(key)
        was = before.unit if before is not None and isinstance(before.unit, SplitUnit) else None
        if (
            before is not None
            and before.split is not None
            and was is not None
            and _but_weights(was) == _but_weights(unit)
        ):
            before.split.set_weights({_name(share): share.weight for share in unit.shares})
            before.unit = unit
            return
        split = Split(
            unit.name,
            [self._candidate(share) for share in unit.shares],
            mirror=self._mirror(unit),
        )
        served = Served(name=unit.name, kind="experiment", wanted=False, graph=bool(unit.form))
        served.infer, served.placement = split.infer, "inline"  # it counts for itself
        served.infer_stream = split.infer_stream
        needs = frozenset(share.name for share in unit.shares)
        self._put(key, _Deployed(unit, served=served, split=split, needs=needs))
        if was is not None and was.diverts and was.diverts != unit.diverts:
            self._models.divert(was.diverts, "")
        if unit.diverts:
            self._models.divert(unit.diverts, served.key)
        if before is not None and before.split is not None:
            before.split.close()

    def _candidate(self, share: Share) -> Candidate:
        models, name, version = self._models, share.name, share.version
        infer = models.asking(name, version, direct=True)

        def infer_stream(request: InferenceRequest) -> AsyncIterator[InferenceResponse]:
            served = models.direct(name, version)
            return served.infer_stream(request) if served.infer_stream is not None else _once(infer(request))

        return Candidate(
            name=name,
            version=version,
            weight=share.weight,
            infer=infer,
            route=sticky.route_of(name, version),
            infer_stream=infer_stream,
        )

    def _mirror(self, unit: SplitUnit) -> Mirror | None:
        if unit.mirror is None:
            return None
        signature = seen.signature_of(self._models, unit.mirror.name, unit.mirror.version)
        return Mirror(
            unit.name,
            self._candidate(unit.mirror),
            compares=unit.compares,
            # A pipeline's router would choose once for all rows that are sent together.
            merges=signature is not None and signature.batchable and not unit.mirror.name.endswith(".pipeline"),
        )

    # -- servers --

    def _set_server(self, unit: ServerUnit) -> None:
        deployed = self._deployed.setdefault(key_of(unit), _Deployed(unit))
        deployed.unit, deployed.state = unit, "ready"
        if not unit.spec.url:
            self._residency.set_budget(unit.spec.memory_bytes or self._memory_bytes)

    # -- what is there --

    async def _remove(self, key: UnitKey) -> None:
        deployed = self._deployed.get(key)
        if deployed is None:
            return
        match deployed.unit:
            case ModelUnit(name=name, revision=revision):
                deployed.state = "leaving"
                self._views.pop(name, None)
                self._leave_elsewhere(deployed)
                self._depend_no_more(key, deployed)
                await self._repository.remove(name, str(revision))
                self._forgotten(name, str(revision))
                del self._deployed[key]
            case ServerUnit(spec=spec):
                del self._deployed[key]
                if not spec.url:
                    self._residency.set_budget(self._memory_bytes)
            case _:
                if deployed.durable is not None:
                    deployed.durable.removed()
                self._forget(key)

    def _forget(self, key: UnitKey) -> None:
        """Take a pipeline or split out of the table; what is in flight on it ends by itself."""
        deployed = self._deployed.pop(key)
        self._depend_no_more(key, deployed)
        if isinstance(deployed.unit, SplitUnit) and deployed.unit.diverts:  # which makes `_look_again` look again
            self._models.divert(deployed.unit.diverts, "")
        if deployed.served is not None:
            self._models.forget(deployed.served)
            self._forgotten(deployed.served.key, "")
            if self._gauges is not None:
                self._gauges.detach(deployed.served.key)
        if deployed.pipeline is not None:
            self._later(self._close_pipeline(deployed))
            self._refresh_feeds()
        if deployed.split is not None:
            deployed.split.close()

    def _put(self, key: UnitKey, deployed: _Deployed) -> None:
        """Let callers reach a pipeline or split, in place of the one that was there."""
        before = self._deployed.get(key)
        if before is not None:
            self._depend_no_more(key, before)
        self._depend(key, deployed)
        self._deployed[key] = deployed
        served = deployed.served
        if served is None:
            return
        if deployed.pipeline is not None:
            self._tap_again(deployed.unit.name, deployed.pipeline.taps)
        self._judge(deployed)
        self._models.put(served)
        if self._gauges is not None:
            self._gauges.attach(served.key, deployed.pipeline or deployed.split)

    def _depend(self, key: UnitKey, deployed: _Deployed) -> None:
        for need in deployed.needs:
            self._dependents.setdefault(need, set()).add(key)

    def _depend_no_more(self, key: UnitKey, deployed: _Deployed) -> None:
        for need in deployed.needs:
            dependents = self._dependents.get(need, set())
            dependents.discard(key)
            if not dependents:
                self._dependents.pop(need, None)

    def _tap_again(self, name: str, taps: Taps) -> None:
        """Whoever listened to the version before listens to this one."""
        for reference, listener in self._tapped.get(name, ()):
            try:
                taps.subscribe(reference, listener)
            except NotFound as error:
                _log.info("a tap falls silent: %s", error)

    def _look_again(self, key: str) -> None:
        """Tell the readiness of what depends on something in the table that changed."""
        self._views.pop(key, None)
        bare = key.removesuffix(".pipeline").removesuffix(".experiment")
        for dependent in {*self._dependents.get(key, ()), *self._dependents.get(bare, ())}:
            self._views.pop(dependent[1], None)
            self._judge_again(self._deployed[dependent])
        self.changed()

    def _look_again_at(self, key: UnitKey) -> None:
        """A durable pipeline found its topics, or lost them."""
        deployed = self._deployed.get(key)
        if deployed is not None:
            self._judge_again(deployed)
            self.changed()

    def _judge_again(self, deployed: _Deployed) -> None:
        served = deployed.served
        if served is None:
            return
        state, reason = served.state, served.reason
        self._judge(deployed)
        if (served.state, served.reason) != (state, reason):
            self._models.changed(served, served.state, served.reason)

    def _judge(self, deployed: _Deployed) -> None:
        """Write whether a pipeline or split can answer, from what it needs."""
        served = deployed.served
        if served is None:
            return
        missing = [f"{need} is {why}" for need in sorted(deployed.needs) if (why := seen.why_not(self._models, need))]
        if deployed.durable is not None:
            deployed.durable.ready(not missing)
            missing += filter(None, [deployed.durable.reason])
        ready = not missing if deployed.pipeline is not None else len(missing) < len(deployed.needs)
        served.state = State.READY if ready else State.UNAVAILABLE
        served.reason = "; ".join(missing)
        served.signature = self._signature(deployed) if ready else served.signature

    def _signature(self, deployed: _Deployed) -> Signature | None:
        try:
            unit = deployed.unit
            if deployed.pipeline is not None and isinstance(unit, PipelineUnit):
                return deployed.pipeline.signature(lambda step: seen.signature_of_step(self._models, unit, step))
            if isinstance(deployed.unit, SplitUnit):
                shares = deployed.unit.shares
                default = next((each for each in shares if each.name == deployed.unit.default), shares[0])
                return seen.signature_of(self._models, default.name, default.version)
        except HeadraceError as error:
            _log.warning("%s: its signature is not known: %s", deployed.unit.name, error)
        return None

    def _of_split(self, deployed: _Deployed) -> dict[str, Any]:
        """Whether candidates of a split are yet as fast as they will be; what they did before counts no more then."""
        if deployed.split is None or not isinstance(deployed.unit, SplitUnit):
            return {}
        found = []
        for share in deployed.unit.shares:
            version = share.version or seen.version_of(self._models, share.name)
            if self._settling(share.name, version):
                found.append(share.name)
        if deployed.settling and not found:
            deployed.split.reset()
        deployed.settling = bool(found)
        return {"settling": f"the look for a faster engine of {', '.join(found)} has ended"} if found else {}

    def _observed(self, key: UnitKey, deployed: _Deployed) -> Observed:
        state, reason, details = deployed.state, deployed.reason, dict[str, Any]()
        match deployed.unit:
            case ModelUnit(name=name, revision=revision, spec=spec):
                state, reason = seen.state_of(self._models, name, str(revision)) or (state, reason)
                details = seen.details_of(self._models, self._residency, name, str(revision), spec.requirements)
                for need in deployed.needs if state == "ready" else ():
                    if reason := seen.unexplained(self._models, need):
                        state = "progressing"
            case PipelineUnit() | SplitUnit() if deployed.served is not None:
                state = "ready" if deployed.served.state is State.READY else "progressing"
                reason = deployed.served.reason
                details = self._of_split(deployed)
        return Observed(key=key, digest=deployed.unit.digest, state=state, reason=reason, details=details)  # type: ignore[arg-type]  # one of the literals

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._closing.add(task)
        task.add_done_callback(self._closed)

    def _closed(self, task: asyncio.Task[None]) -> None:
        self._closing.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("what was replaced could not be closed: %s", error, exc_info=error)


def _differences(split: Split) -> Mapping[str, Any]:
    """What the mirror of a split found otherwise than its callers did, for people."""
    summary = split.summary()
    examples = split.examples()[-_EXAMPLES:]
    return {"outputs": summary["outputs"], "dropped": summary["dropped"], "examples": examples} if examples else {}


async def _once(answer: Awaitable[InferenceResponse]) -> AsyncIterator[InferenceResponse]:
    yield await answer


def _name(share: Share) -> str:
    return f"{share.name}@{share.version}" if share.version else share.name


def _but_weights(unit: SplitUnit) -> SplitUnit:
    """What of a split cannot be changed while it runs."""
    shares = tuple(msgspec.structs.replace(share, weight=0.0) for share in unit.shares)
    mirror = msgspec.structs.replace(unit.mirror, weight=0.0) if unit.mirror is not None else None
    return msgspec.structs.replace(unit, shares=shares, mirror=mirror, digest="")
