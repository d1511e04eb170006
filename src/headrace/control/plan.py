"""What is to be done: resources -> units -> actions. Pure; `reconciler` carries them out, `service` shows them.

    units(resources)        what should be there: revisions of models, pipelines, splits, servers
    plan(units, observed)   what to do about what is not so; empty when all is so

The laws of the order, which `Action.after` carries:

* A model is there before a pipeline or split that is to use it; one that is in use leaves after its last user does.
* What already answers is not changed into something whose models are not ready: it waits, and answers as before.
* A canary's revision is loaded only when a split holds the model's name for the revision before it, as the newest
  ready revision is what a bare name means.
* What failed is tried again after a while that doubles (`RETRY_SECONDS` to `MAX_RETRY_SECONDS`), and at once when its
  declaration changes.

A model's revisions: `status.revision` is the newest, `status.ready_revision` the one that had all the traffic last.
Both stay until the newest is ready and no canary holds it back; `promoted` says when that is so.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

import msgspec

from headrace.artifacts.uri import is_local
from headrace.control import rollout
from headrace.control.backends.base import (
    Action,
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
from headrace.control.manifests.base import FORM
from headrace.control.resources import Experiment, Model, Resource, Rollout, Server, Spec
from headrace.graph.spec import Pipeline, Step

RETRY_SECONDS: Final = 1.0
MAX_RETRY_SECONDS: Final = 300.0

UNTOUCHED: Final = ("canary_traffic_percent", "max_replicas", "follow_seconds")
"""Fields of a model that no backend has to do anything for."""
SAME_REVISION: Final = (
    *UNTOUCHED,
    "min_replicas",
    "idle_seconds",
    "memory_bytes",
    "load",
    "requirements",
)
"""Fields of a model that change how it is kept, not what answers: no new revision."""

_STAGE: Final[Mapping[str, int]] = {"server": 0, "model": 1, "pipeline": 2, "split": 3}
_CANARY: Final = 4
_REMOVAL: Final[Mapping[str, int]] = {"split": 5, "pipeline": 6, "model": 7, "server": 8}


class Revision(msgspec.Struct, frozen=True, kw_only=True):
    """What a model was declared to be when it got a number."""

    number: int
    spec: Model
    base: str = ""


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """What went wrong with a unit, last time."""

    digest: str
    """Of the unit that failed; another one is tried at once."""
    count: int
    """How often in a row."""
    at: float
    """Seconds since the epoch."""
    reason: str

    @property
    def until(self) -> float:
        """When it is tried again, seconds since the epoch."""
        return self.at + float(min(MAX_RETRY_SECONDS, RETRY_SECONDS * 2.0 ** min(self.count - 1, 30)))


class Memo:
    """What was computed for a resource last time, by what it depends on: a change of one costs one."""

    def __init__(self) -> None:
        self.units: dict[tuple[str, str], tuple[Any, tuple[Unit, ...]]] = {}
        self.pins: dict[tuple[str, str], tuple[Any, tuple[tuple[str, int], ...]]] = {}

    def forget(self, known: Collection[tuple[str, str]]) -> None:
        """Drop what is kept for resources that are no more."""
        for kept in (self.units, self.pins):
            if len(kept) > len(known):
                for key in [each for each in kept if each not in known]:
                    del kept[key]


# -- resources -> units --


def units(
    resources: Iterable[Resource],
    *,
    revisions: Mapping[str, Mapping[int, Revision]] = MappingProxyType({}),
    observed: Mapping[UnitKey, Observed] = MappingProxyType({}),
    memo: Memo | None = None,
) -> list[Unit]:
    """What should be there.

    Args:
        resources: All that are declared, each with its status.
        revisions: By model, what its revisions were; the newest may be missing, it is the resource's own.
        observed: What is there: a canary gets traffic once it is loaded.
        memo: Kept between calls with changed resources.
    """
    memo = memo or Memo()
    everything = list(resources)
    pins: dict[str, set[int]] = {}
    for resource in everything:
        if resource.kind != "Model":
            for name, number in _pins(resource, memo):
                pins.setdefault(name, set()).add(number)
    urls = {each.metadata.name: each.spec.url for each in everything if isinstance(each.spec, Server) and each.spec.url}
    found: list[Unit] = []
    for resource in everything:
        name = resource.metadata.name
        spec = resource.spec
        if isinstance(spec, Model):
            known = revisions.get(name, {})
            found += _of_model(resource, spec, known, urls, pins=pins.get(name, ()), observed=observed, memo=memo)
        elif isinstance(spec, Rollout):
            progress = progress_of(resource)
            found += _remembered(memo, resource, progress, functools.partial(_of_rollout, resource, spec, progress))
        else:
            form = resource.metadata.annotations.get(FORM, "")
            found += _remembered(memo, resource, form, functools.partial(_of_other, resource))
    memo.forget({each.key for each in everything})
    return found


def promoted(resource: Resource, observed: Mapping[UnitKey, Observed]) -> int:
    """The revision of a model that has the traffic, given what is there: what `status.ready_revision` should be."""
    spec, status = resource.spec, resource.status
    if not isinstance(spec, Model) or status.revision == status.ready_revision:
        return status.ready_revision
    newest = observed.get(("model", resource.metadata.name, status.revision))
    if newest is None or newest.state != "ready":
        return status.ready_revision
    return status.ready_revision if status.ready_revision and _holds_back(spec) else status.revision


def progress_of(resource: Resource) -> rollout.Progress | None:
    """How far a rollout is; None: not begun."""
    kept = resource.status.details.get("progress")
    return None if kept is None else msgspec.convert(kept, rollout.Progress)


def loaded(spec: Model) -> Model:
    """What of a model's declaration makes a revision: two that are equal here are one revision."""
    defaults = Model()
    return msgspec.structs.replace(spec, **{name: getattr(defaults, name) for name in SAME_REVISION})


def endpoint(name: str, kind: str) -> str:
    """The key (`Served.key`) of a candidate, and with it that of its name; a revision is left out."""
    bare = name.partition("@")[0]
    return f"{bare}.pipeline" if kind == "pipeline" else bare


def pinned(name: str) -> tuple[str, int]:
    """Model and revision of `NAME@REVISION`; 0: whichever has the traffic."""
    bare, _, number = name.partition("@")
    return bare, int(number) if number.isdecimal() else 0


def _remembered(
    memo: Memo, resource: Resource, state: Any, compute: Callable[[], Unit | tuple[Unit, ...]]
) -> tuple[Unit, ...]:
    stamp = (resource.metadata.uid, resource.metadata.generation, state)
    kept = memo.units.get(resource.key)
    if kept is not None and kept[0] == stamp:
        return kept[1]
    computed = compute()
    made = computed if isinstance(computed, tuple) else (computed,)
    memo.units[resource.key] = (stamp, made)
    return made


def _of_model(
    resource: Resource,
    spec: Model,
    revisions: Mapping[int, Revision],
    urls: Mapping[str, str],
    *,
    pins: Collection[int],
    observed: Mapping[UnitKey, Observed],
    memo: Memo,
) -> tuple[Unit, ...]:
    name, status = resource.metadata.name, resource.status
    newest, live = max(status.revision, 1), status.ready_revision
    if live not in revisions:
        live = newest
    seen = observed.get(("model", name, newest)) if live != newest else None
    arrived = seen is not None and seen.state == "ready"
    split = live != newest and ("split", name, 0) in observed

    def compute() -> tuple[Unit, ...]:
        own = Revision(number=newest, spec=spec, base=resource.base)
        numbers = sorted({live, newest} | {each for each in pins if each in revisions})
        each = {number: own if number == newest else revisions[number] for number in numbers}
        made: list[Unit] = [_model_unit(name, each[number], urls) for number in numbers]
        between = any(live < number < newest for number in numbers)
        if live != newest and (_holds_back(spec) or split or between):
            made.append(_canary(name, live, newest if arrived else 0, spec.canary_traffic_percent))
        return tuple(made)

    places = tuple([urls.get(each.server, "") for each in (spec, *(past.spec for past in revisions.values()))])
    return _remembered(memo, resource, (newest, live, arrived, split, tuple(sorted(pins)), places), compute)


def _holds_back(spec: Model) -> bool:
    return spec.canary_traffic_percent is not None and spec.canary_traffic_percent < 100


def _model_unit(name: str, revision: Revision, urls: Mapping[str, str]) -> ModelUnit:
    defaults = Model()
    place = urls.get(revision.spec.server, "")  # a model elsewhere is another one at another address
    spec = msgspec.structs.replace(revision.spec, **{each: getattr(defaults, each) for each in UNTOUCHED})
    digest = digest_of(spec, revision.base + place)
    return ModelUnit(name=name, digest=digest, base=revision.base, revision=revision.number, spec=revision.spec)


def _canary(name: str, live: int, arrived: int, percent: int | None) -> SplitUnit:
    weight = percent or 0
    shares = [Share(name=name, version=str(live), weight=float(100 - weight) if arrived else 100.0)]
    if arrived:
        shares.append(Share(name=name, version=str(arrived), weight=float(weight)))
    return _split(name, shares, diverts=name, owner=("Model", name))


def split_of(resource: Resource) -> SplitUnit:
    """The split of a rollout, where it stands: stable version and candidate, in this order.

    Raises:
        TypeError: it is no rollout.
    """
    if not isinstance(resource.spec, Rollout):
        raise TypeError(f"{resource.describe()} is no rollout")
    return _of_rollout(resource, resource.spec, progress_of(resource))


def _of_rollout(resource: Resource, spec: Rollout, progress: rollout.Progress | None) -> SplitUnit:
    stable, candidate = (
        _share(each, spec.resource_type, weight)
        for each, weight in zip((spec.stable, spec.candidate), _weights(spec, progress), strict=True)
    )
    over = progress is not None and progress.state in {"Promoted", "RolledBack"}
    mirrors = spec.mirror_percent > 0 and not over
    return _split(
        resource.metadata.name,
        [stable, candidate],
        diverts=endpoint(spec.endpoint or spec.stable, spec.resource_type),
        mirror=msgspec.structs.replace(candidate, weight=spec.mirror_percent) if mirrors else None,
        owner=resource.key,
        base=resource.base,
    )


def _weights(spec: Rollout, progress: rollout.Progress | None) -> tuple[float, float]:
    # Before its first judgement all requests stay where they are.
    return (100.0, 0.0) if progress is None else rollout.weights(spec, progress)


def _of_other(resource: Resource) -> Unit:
    name, base, spec = resource.metadata.name, resource.base, resource.spec
    match spec:
        case Pipeline():
            version = resource.metadata.generation
            form = resource.metadata.annotations.get(FORM, "")
            digest = digest_of(spec, base + form)
            return PipelineUnit(name=name, digest=digest, base=base, version=version, spec=spec, form=form)
        case Experiment():
            mirror = spec.mirror
            return _split(
                name,
                [_share(each.name, spec.resource_type, each.weight) for each in spec.candidates],
                default=endpoint(spec.default, spec.resource_type) if spec.default else "",
                diverts=endpoint(spec.default, spec.resource_type) if spec.default else "",
                mirror=_share(mirror.name, spec.resource_type, mirror.percent) if mirror is not None else None,
                owner=resource.key,
                base=base,
                form=resource.metadata.annotations.get(FORM, ""),
            )
        case Server():
            return ServerUnit(name=name, digest=digest_of(spec, base), base=base, spec=spec)
        case _:
            raise TypeError(f"{resource.describe()} has a spec of type {type(spec).__name__}")


def _share(name: str, kind: str, weight: float) -> Share:
    _, number = pinned(name)
    return Share(name=endpoint(name, kind), version=str(number) if number else "", weight=float(weight))


def _split(
    name: str,
    shares: Sequence[Share],
    *,
    diverts: str,
    owner: tuple[str, str],
    default: str = "",
    mirror: Share | None = None,
    base: str = "",
    form: str = "",
) -> SplitUnit:
    made = SplitUnit(
        name=name,
        digest="",
        base=base,
        shares=tuple(shares),
        default=default,
        diverts=diverts,
        mirror=mirror,
        compares=mirror is not None,
        owner=owner,
        form=form,
    )
    return msgspec.structs.replace(made, digest=digest_of(made, base))


def _pins(resource: Resource, memo: Memo) -> tuple[tuple[str, int], ...]:
    stamp = (resource.metadata.uid, resource.metadata.generation)
    kept = memo.pins.get(resource.key)
    if kept is not None and kept[0] == stamp:
        return kept[1]
    found = tuple(each for each in references(resource) if each[1])
    memo.pins[resource.key] = (stamp, found)
    return found


def references(resource: Resource) -> Iterator[tuple[str, int]]:
    """The models that a resource names, each with the revision that it insists on; 0: none."""
    match resource.spec:
        case Pipeline(steps=steps):
            for step in steps:
                if (name := model_of(step)) and (step.version.isdecimal() or not step.version):
                    yield name, int(step.version or 0)
        case Experiment(resource_type="model") as spec:
            for candidate in spec.candidates:
                yield pinned(candidate.name)
            if spec.mirror is not None:
                yield pinned(spec.mirror.name)
        case Rollout(resource_type="model") as spec:
            yield pinned(spec.stable)
            yield pinned(spec.candidate)
        case _:
            return


def model_of(step: Step) -> str:
    """The model of this server that a step asks; empty: it asks none."""
    elsewhere = step.url or step.pipeline or step.python or step.combine is not None or step.route is not None
    return "" if elsewhere else step.model or step.name


def looks_beside(spec: Spec) -> bool:
    """Whether a spec names files relative to its manifest, so that the manifest's folder is a part of it."""
    match spec:
        case Model():
            elsewhere = not is_local(spec.uri) or spec.uri.startswith(("/", "file:"))
            return bool(spec.reference) or spec.environment not in {"auto", "off"} or not (elsewhere or not spec.uri)
        case Pipeline():
            return any(
                step.python
                or (step.route is not None and step.route.reference)
                or (step.combine is not None and step.combine.reference)
                for step in spec.steps
            )
    return False


def digest_of(spec: msgspec.Struct, base: str) -> str:
    """A digest of a declaration and the folder it starts from."""
    return hashlib.blake2b(_ENCODER.encode((spec, base)), digest_size=16).hexdigest()


def _encodable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    raise NotImplementedError(f"a {type(value).__name__} has no form in JSON")


_ENCODER: Final = msgspec.json.Encoder(enc_hook=_encodable, order="deterministic")


# -- units, observed -> actions --


def plan(
    units: Iterable[Unit],
    observed: Iterable[Observed],
    *,
    current: Mapping[UnitKey, Unit] = MappingProxyType({}),
    failures: Mapping[UnitKey, Failure] = MappingProxyType({}),
    now: float = 0.0,
) -> list[Action]:
    """What to do so that what is there becomes what should be, in order; empty when it is so.

    Args:
        units: What should be there.
        observed: What is there.
        current: The units that were set last, as far as the caller knows: what uses what now.
        failures: What failed, so that it is not hammered.
        now: Seconds since the epoch.
    """
    there = {each.key: each for each in observed}
    wanted = {key_of(each): each for each in units}
    todo = {key: unit for key, unit in wanted.items() if not _is_so(unit, there.get(key))}
    gone = [key for key, seen in there.items() if key not in wanted and seen.state != "leaving"]
    if not todo and not gone:
        return []
    planner = _Planner(wanted, there, current, {key: each for key, each in failures.items() if now < each.until})
    planner.set_all(todo)
    planner.remove_all(gone)
    return sorted(planner.actions.values(), key=lambda action: action.stage)


def due(failures: Mapping[UnitKey, Failure]) -> float | None:
    """When the next of what failed is tried again, seconds since the epoch; None: nothing failed."""
    return min((each.until for each in failures.values()), default=None)


def failed(before: Failure | None, digest: str, *, now: float, reason: str) -> Failure:
    """What to remember of a failure, given the one before."""
    again = before is not None and before.digest == digest
    return Failure(digest=digest, count=before.count + 1 if again and before else 1, at=now, reason=reason)


def needs(unit: Unit, revisions: Mapping[str, Sequence[UnitKey]]) -> Iterator[tuple[UnitKey, ...]]:
    """What a unit uses: of each group, one must be ready.

    Args:
        unit: The user.
        revisions: The keys of each model's units; a model that is not in it was not declared, and is not waited for.
    """
    match unit:
        case ModelUnit(spec=spec):
            if spec.server:
                yield (("server", spec.server, 0),)
        case PipelineUnit(spec=spec):
            for step in spec.steps:
                if step.pipeline:
                    yield (("pipeline", step.pipeline, 0),)
                elif name := model_of(step):
                    yield from _model_keys(name, step.version, revisions)
        case SplitUnit(shares=shares):
            for share in shares:
                yield from _share_keys(share, revisions)
        case ServerUnit():
            return


def _share_keys(share: Share, revisions: Mapping[str, Sequence[UnitKey]]) -> Iterator[tuple[UnitKey, ...]]:
    if share.name.endswith(".pipeline"):
        yield (("pipeline", share.name.removesuffix(".pipeline"), 0),)
    else:
        yield from _model_keys(share.name, share.version, revisions)


def _model_keys(name: str, version: str, revisions: Mapping[str, Sequence[UnitKey]]) -> Iterator[tuple[UnitKey, ...]]:
    if version.isdecimal():
        if name in revisions:
            yield (("model", name, int(version)),)
    elif keys := revisions.get(name):
        yield tuple(keys)


def revisions_of(keys: Iterable[UnitKey]) -> dict[str, list[UnitKey]]:
    """The keys of models' units by model, for `needs`."""
    found: dict[str, list[UnitKey]] = {}
    for key in keys:
        if key[0] == "model":
            found.setdefault(key[1], []).append(key)
    return found


def _is_so(unit: Unit, seen: Observed | None) -> bool:
    if seen is None:
        return False
    if seen.state == "leaving":  # it comes back when it is gone
        return True
    return seen.digest == unit.digest and seen.state in {"ready", "progressing"}


class _Planner:
    """One plan in the making."""

    def __init__(
        self,
        wanted: Mapping[UnitKey, Unit],
        there: Mapping[UnitKey, Observed],
        current: Mapping[UnitKey, Unit],
        waiting: Mapping[UnitKey, Failure],
    ) -> None:
        self.actions: dict[UnitKey, Action] = {}
        self._wanted = wanted
        self._there = there
        self._current = current
        self._waiting = waiting
        self._revisions = revisions_of(wanted)
        self._decided: set[UnitKey] = set()

    def set_all(self, todo: Mapping[UnitKey, Unit]) -> None:
        for key in sorted(todo, key=lambda key: _STAGE[key[0]]):
            self._set(key, todo)

    def _set(self, key: UnitKey, todo: Mapping[UnitKey, Unit]) -> None:
        if key in self._decided or key not in todo:
            return
        self._decided.add(key)
        unit, seen = todo[key], self._there.get(key)
        failure = self._waiting.get(key)
        if failure is not None and failure.digest == unit.digest:
            return
        guard = self._guard(key)
        after: list[UnitKey] = []
        # What already answers, and a split, which would take requests away from what answers, wait for what they use.
        patient = isinstance(unit, SplitUnit) or (seen is not None and seen.state == "ready") or bool(guard)
        for group in [*needs(unit, self._revisions), *guard]:
            for each in group:
                self._set(each, todo)
            acting = [each for each in group if each in self.actions]
            after += acting
            if acting or any(self._is_ready(each) for each in group):
                continue
            if patient or any(self._is_loading(each) for each in group):
                return
        if isinstance(unit, SplitUnit) and unit.mirror is not None:
            for group in _share_keys(unit.mirror, self._revisions):
                after += [each for each in group if each in self.actions]
        self.actions[key] = Action(
            verb="set",
            key=key,
            unit=unit,
            stage=_CANARY if guard else _STAGE[key[0]],
            reason=_why(unit, seen),
            after=tuple(dict.fromkeys(after)),
        )

    def _guard(self, key: UnitKey) -> list[tuple[UnitKey, ...]]:
        """The split that must hold the name of a model before this revision of it is loaded."""
        kind, name, number = key
        split = self._wanted.get(("split", name, 0)) if kind == "model" else None
        if key in self._there or not isinstance(split, SplitUnit) or split.owner != ("Model", name):
            return []
        if any(share.version == str(number) for share in split.shares):
            return []
        if all(other[2] >= number for other in self._revisions[name]):
            return []
        return [(("split", name, 0),)]

    def _is_ready(self, key: UnitKey) -> bool:
        seen = self._there.get(key)
        return seen is not None and seen.state == "ready"

    def _is_loading(self, key: UnitKey) -> bool:
        seen = self._there.get(key)
        return key[0] == "model" and seen is not None and seen.state == "progressing"

    def remove_all(self, gone: Sequence[UnitKey]) -> None:
        if not gone:
            return
        users = self._users(set(gone))
        heirs = self._heirs(set(gone))
        leaving = set(gone)
        for key in gone:
            failure = self._waiting.get(key)
            if failure is not None and failure.digest == REMOVAL:
                continue
            after = [heir for heir in heirs.get(key, ()) if heir in self.actions]
            if any(heir not in self.actions and not self._is_ready(heir) for heir in heirs.get(key, ())):
                continue  # nobody else answers to its name yet
            for user in users.get(key, ()):
                if user in self.actions or user in leaving:
                    after.append(user)
                elif user in self._wanted and self._wanted[user].digest != self._current[user].digest:
                    break  # its user waits to be changed, and needs it until then
            else:
                self.actions[key] = Action(
                    verb="remove", key=key, stage=_REMOVAL[key[0]], reason="no longer declared", after=tuple(after)
                )
        while stuck := [key for key in gone if (it := self.actions.get(key)) and self._waits_in_vain(it)]:
            for key in stuck:
                del self.actions[key]

    def _heirs(self, gone: set[UnitKey]) -> dict[UnitKey, list[UnitKey]]:
        """What is to answer to the name of something that leaves, and is of another kind: it must be there before."""
        leaving = [key for key in gone if key[0] != "server" and not self._guards(key)]
        named: dict[str, list[UnitKey]] = {key[1]: [] for key in leaving}
        for key in self._wanted:
            if key[1] in named and key[0] != "server" and not self._guards(key):
                named[key[1]].append(key)
        return {key: [each for each in named[key[1]] if each[0] != key[0]] for key in leaving if named[key[1]]}

    def _guards(self, key: UnitKey) -> bool:
        """Whether it is a split among revisions of the model of its name."""
        unit = self._wanted.get(key) or self._current.get(key)
        return isinstance(unit, SplitUnit) and unit.owner == ("Model", key[1])

    def _waits_in_vain(self, action: Action) -> bool:
        return not all(each in self.actions for each in action.after)

    def _users(self, gone: set[UnitKey]) -> dict[UnitKey, list[UnitKey]]:
        revisions = revisions_of([*self._there])
        found: dict[UnitKey, list[UnitKey]] = {}
        for user, unit in self._current.items():
            if user not in self._there:
                continue
            for group in needs(unit, revisions):
                if any(each not in gone and self._is_ready(each) for each in group):
                    continue
                for each in group:
                    if each in gone and each != user:
                        found.setdefault(each, []).append(user)
        return found


REMOVAL: Final = "removal"
"""In place of the digest of a unit, in the failure of its removal."""


def _why(unit: Unit, seen: Observed | None) -> str:
    if seen is None:
        return "not there yet"
    if seen.digest != unit.digest:
        return "its declaration changed"
    return f"it failed: {seen.reason}" if seen.reason else "it failed"
