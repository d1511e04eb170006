"""What became of resources: observed units -> status. Pure; the last step of a pass of `reconciler`.

Ready speaks of the generation that is declared: a model whose new revision cannot be loaded is not Ready, although the
revision before keeps serving, and the message says so.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import msgspec

from headrace.control import plan
from headrace.control.backends.base import Observed, Unit, UnitKey, key_of
from headrace.control.plan import Failure
from headrace.control.resources import Condition, Experiment, Model, Resource, Rollout, Status
from headrace.graph.spec import Pipeline

Key = tuple[str, str]
_Use = tuple[str, str, int]
_State = Literal["True", "False", "Unknown"]


class Reporter:
    """Computes statuses, each again only when something that it depends on became another."""

    def __init__(self) -> None:
        self._stamps: dict[Key, tuple[Any, ...]] = {}
        self._uses: dict[Key, tuple[tuple[str, int], tuple[_Use, ...]]] = {}

    def statuses(
        self,
        resources: Mapping[Key, Resource],
        units: Iterable[Unit],
        observed: Mapping[UnitKey, Observed],
        failures: Mapping[UnitKey, Failure],
        *,
        now: float,
    ) -> dict[Key, Status]:
        """The statuses that are not what they were.

        Args:
            resources: All that is declared, each with the status that is kept of it.
            units: What should be there.
            observed: What is there.
            failures: What went wrong.
            now: Seconds since the epoch.
        """
        look = _Look({key_of(each): each for each in units}, observed, failures)
        changed: dict[Key, Status] = {}
        for key, resource in resources.items():
            uses = self._used(resource)
            stamp = (resource.metadata.uid, resource.metadata.generation, *look.stamp(resource, uses))
            if self._stamps.get(key) == stamp:
                continue
            self._stamps[key] = stamp
            status = _status(resource, uses, look, now)
            if status != resource.status:
                changed[key] = status
        for kept in (self._stamps, self._uses):
            if len(kept) > len(resources):
                for key in [each for each in kept if each not in resources]:
                    del kept[key]
        return changed

    def forget(self, keys: Iterable[Key]) -> None:
        """Compute these again: what was computed was not kept."""
        for key in keys:
            self._stamps.pop(key, None)

    def _used(self, resource: Resource) -> tuple[_Use, ...]:
        stamp = (resource.metadata.uid, resource.metadata.generation)
        kept = self._uses.get(resource.key)
        if kept is None or kept[0] != stamp:
            kept = self._uses[resource.key] = (stamp, tuple(_uses(resource)))
        return kept[1]


class _Look:
    """What is there, by what resources ask of it."""

    def __init__(
        self,
        wanted: Mapping[UnitKey, Unit],
        observed: Mapping[UnitKey, Observed],
        failures: Mapping[UnitKey, Failure],
    ) -> None:
        self.wanted, self.observed, self.failures = wanted, observed, failures
        self._ready: set[tuple[str, str]] = {key[:2] for key, seen in observed.items() if seen.state == "ready"}
        self._declared: set[tuple[str, str]] = {key[:2] for key in wanted}

    def stamp(self, resource: Resource, uses: tuple[_Use, ...]) -> tuple[Any, ...]:
        keys = _own(resource)
        return (
            *((self.wanted[key].digest if key in self.wanted else "") for key in keys),
            *(self.observed.get(key) for key in keys),
            *(self.failures.get(key) for key in keys),
            *(self.lacks(use) for use in uses),
            resource.status.revision,
            resource.status.ready_revision,
            resource.status.details.get("progress") if resource.kind == "Rollout" else None,
        )

    def is_so(self, key: UnitKey) -> bool:
        """Whether a unit is there and ready, as it is wanted."""
        seen, unit = self.observed.get(key), self.wanted.get(key)
        return seen is not None and unit is not None and seen.state == "ready" and seen.digest == unit.digest

    def trouble(self, key: UnitKey) -> str:
        """Why a unit is not ready, where something went wrong."""
        seen, unit, failure = self.observed.get(key), self.wanted.get(key), self.failures.get(key)
        if failure is not None and (unit is None or unit.digest == failure.digest):
            return failure.reason
        return (seen.reason or "it failed") if seen is not None and seen.state == "failed" else ""

    def lacks(self, use: _Use) -> bool:
        """Whether something that is declared is not ready; of what is not declared nothing is known here."""
        kind, name, number = use
        if number:
            seen = self.observed.get(use)
            return seen is None or seen.state != "ready"
        return (kind, name) in self._declared and (kind, name) not in self._ready


def _own(resource: Resource) -> tuple[UnitKey, ...]:
    name, status = resource.metadata.name, resource.status
    match resource.kind:
        case "Model":
            split: UnitKey = ("split", name, 0)
            return ("model", name, status.revision), ("model", name, status.ready_revision), split
        case "Pipeline":
            return (("pipeline", name, 0),)
        case "Server":
            return (("server", name, 0),)
        case _:
            return (("split", name, 0),)


def _uses(resource: Resource) -> Iterable[_Use]:
    spec = resource.spec
    if isinstance(spec, Pipeline):
        for step in spec.steps:
            if step.pipeline:
                yield "pipeline", step.pipeline, 0
    if isinstance(spec, Experiment | Rollout) and spec.resource_type == "pipeline":
        names = [spec.stable, spec.candidate] if isinstance(spec, Rollout) else [each.name for each in spec.candidates]
        yield from (("pipeline", name, 0) for name in names)
        return
    mirror = spec.mirror.name if isinstance(spec, Experiment) and spec.mirror is not None else ""
    for name, number in dict.fromkeys(plan.references(resource)):
        if not mirror or (name, number) != plan.pinned(mirror):
            yield "model", name, number


def _status(resource: Resource, uses: tuple[_Use, ...], look: _Look, now: float) -> Status:
    missing = [_named(use) for use in uses if look.lacks(use)]
    details = dict(resource.status.details)
    match resource.kind:
        case "Model":
            conditions, details = _of_model(resource, look)
        case "Pipeline":
            conditions = _of_pipeline(resource, missing, look)
        case "Experiment":
            conditions = _of_experiment(resource, missing, look)
        case "Rollout":
            conditions = _of_rollout(resource, missing, look)
        case _:
            conditions = [_ready(look, _own(resource)[0], "Ready", "ServerFailed", [])]
    return msgspec.structs.replace(
        resource.status,
        observed_generation=resource.metadata.generation,
        conditions=tuple(_dated(each, resource.status.conditions, now) for each in conditions),
        details=details,
    )


def _named(use: _Use) -> str:
    kind, name, number = use
    return f"{kind} '{name}'" + (f" revision {number}" if number else "")


def _condition(type: str, status: _State | bool, reason: str, message: str = "") -> Condition:  # noqa: A002 - its word
    word: _State = status if isinstance(status, str) else ("True" if status else "False")
    return Condition(type=type, status=word, reason=reason, message=message)


def _dated(condition: Condition, before: Iterable[Condition], now: float) -> Condition:
    for old in before:
        if old.type == condition.type and old.status == condition.status and old.last_transition_time is not None:
            return msgspec.structs.replace(condition, last_transition_time=old.last_transition_time)
    at = dt.datetime.fromtimestamp(int(now), tz=dt.UTC)
    return msgspec.structs.replace(condition, last_transition_time=at)


def _ready(look: _Look, key: UnitKey, reason: str, failed: str, missing: list[str]) -> Condition:
    """Whether a unit is there as it is wanted; else what went wrong, or what is waited for."""
    if look.is_so(key) and not missing:
        return _condition("Ready", True, reason)
    if trouble := look.trouble(key):
        return _condition("Ready", False, failed, trouble)
    if missing:
        return _condition("Ready", False, "Waiting", f"not ready: {', '.join(missing)}")
    seen = look.observed.get(key)
    return _condition("Ready", False, "Starting", seen.reason if seen is not None else "")


def _of_model(resource: Resource, look: _Look) -> tuple[list[Condition], dict[str, Any]]:
    name, status, spec = resource.metadata.name, resource.status, resource.spec
    newest, live, split = _own(resource)
    seen, before = look.observed.get(newest), look.observed.get(live)
    serves = f"; revision {status.ready_revision} keeps serving" if _serves(before) and live != newest else ""
    details = dict(seen.details) if seen is not None else {}
    if trouble := look.trouble(newest):
        message = f"revision {status.revision} cannot be loaded: {trouble}{serves}"
        return [_condition("Ready", False, "LoadFailed", message)], details
    if not look.is_so(newest):
        if seen is not None and seen.state == "progressing" and seen.reason:
            return [_condition("Ready", False, "Waiting", f"{seen.reason}{serves}")], details
        return [_condition("Ready", False, "Loading", f"revision {status.revision} is loading{serves}")], details
    message = ""
    percent = spec.canary_traffic_percent if isinstance(spec, Model) else None
    if live != newest and percent is not None:
        details["traffic"] = {str(status.ready_revision): 100 - percent, str(status.revision): percent}
        message = (
            f"revision {status.revision} gets {percent} % of the requests, revision {status.ready_revision} the rest"
        )
        if not look.is_so(split):
            return [_condition("Ready", False, "Splitting", look.trouble(split) or f"'{name}' is being split")], details
        return [_condition("Ready", True, "Canary", message)], details
    on_demand = details.get("inMemory") is False
    message = "it is loaded when it is asked" if on_demand else message
    return [_condition("Ready", True, "OnDemand" if on_demand else "Loaded", message)], details


def _serves(seen: Observed | None) -> bool:
    return seen is not None and seen.state == "ready"


def _of_pipeline(resource: Resource, missing: list[str], look: _Look) -> list[Condition]:
    key = _own(resource)[0]
    seen = look.observed.get(key)
    if not missing and seen is not None and seen.state == "progressing" and seen.reason:
        missing = [seen.reason]  # the backend knows of models that are no resources
    models = (
        _condition("ModelsReady", False, "ModelsNotReady", f"not ready: {', '.join(missing)}")
        if missing
        else _condition("ModelsReady", True, "ModelsReady")
    )
    return [_ready(look, key, "Running", "PipelineFailed", missing), models]


def _of_experiment(resource: Resource, missing: list[str], look: _Look) -> list[Condition]:
    spec = resource.spec
    conditions = [
        _ready(look, _own(resource)[0], "Splitting", "ExperimentFailed", missing),
        _condition("CandidatesReady", False, "CandidatesNotReady", f"not ready: {', '.join(missing)}")
        if missing
        else _condition("CandidatesReady", True, "CandidatesReady"),
    ]
    if isinstance(spec, Experiment) and spec.mirror is not None:
        name, number = plan.pinned(spec.mirror.name)
        use: _Use = ("pipeline" if spec.resource_type == "pipeline" else "model", name, number)
        lacks = look.lacks(use)
        conditions.append(
            _condition("MirrorReady", False, "MirrorNotReady", f"not ready: {_named(use)}")
            if lacks
            else _condition("MirrorReady", True, "MirrorReady")
        )
    return conditions


def _of_rollout(resource: Resource, missing: list[str], look: _Look) -> list[Condition]:
    ready = _ready(look, _own(resource)[0], "Splitting", "RolloutFailed", missing)
    progress = plan.progress_of(resource)
    if progress is None:
        split = look.observed.get(_own(resource)[0])
        waits = split.details.get("settling", "") if split is not None else ""
        begun = f"it begins when {waits or 'stable version and candidate are ready'}"
        return [
            ready,
            _condition("Progressing", False, "NotBegun", begun),
            _condition("Judged", "Unknown", "NotBegun"),
        ]
    judged: _State = (
        "True" if progress.state == "Promoted" else "False" if progress.state == "RolledBack" else "Unknown"
    )
    return [
        ready,
        _condition("Progressing", not progress.final, progress.state, progress.message),
        _condition("Judged", judged, progress.reason or progress.state, progress.message),
    ]
