"""Where a rollout stands, and where it goes next: steps of weight, each watched and judged. Pure.

`control.reconciler` calls `advance` at every look at the counts and keeps the `Progress` in the resource's status;
`control.plan` turns `weights` into a split. The clock comes in as a value.

    Progressing --judge: promote, pause over--> next step ... --> Promoted
    Progressing --pause over, judge: wait--> Waiting --judge: promote--> next step
    any of these --judge: rollback, or too long without a decision--> RolledBack
    any of these --paused--> Paused --not paused any more--> Progressing, watched anew

Promoted and RolledBack are final for what the rollout was started for; another candidate starts it again. The weight of
the candidate never falls, but to 0 by a rollback or a new start.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final, Literal

import msgspec

from headrace.control.backends.base import Counts
from headrace.control.judge import Verdict, judge
from headrace.control.resources import Rollout, RolloutStep
from headrace.payload import EMPTY

State = Literal["Progressing", "Waiting", "Paused", "Promoted", "RolledBack"]

_EVENTS_KEPT: Final = 64
_SETTLING_SECONDS: Final = 10.0
"""So long after a change of weights, counts that have not begun anew are taken for those from before."""


class Event(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Something that happened to a rollout, for its history."""

    at: float
    """Seconds since the epoch."""
    reason: str
    """One word in CamelCase: `Started`, `StepReached`, `Waiting`, `Paused`, `Resumed`, `CountsLost`, `Promoted`, or the
    reason of a rollback (`ErrorRateIncreased`, `LatencyIncreased`, `Disagrees`, `MetricOutOfBounds`, `TimedOut`)."""
    message: str


class Baseline(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What the stable version did in the last step in which it had requests, for a step in which it has none."""

    requests: int
    failures: int
    latency: tuple[tuple[float, int], ...]
    """Upper bounds of buckets, and what is in them; JSON has no infinity, so the last one is `beyond`."""
    beyond: int

    def counts(self) -> Counts:
        """As counts."""
        latency = {**dict(self.latency), math.inf: self.beyond}
        return Counts(requests=self.requests, failures=self.failures, latency=latency)


class Progress(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Where a rollout stands. JSON, and all that a restart needs; the default is a rollout that has not begun."""

    of: str = ""
    """What it was started for: stable version, candidate and its revision; another one starts it again."""
    step: int = 0
    """From 0."""
    weight: float = 0.0
    """Percent of the requests that the candidate gets."""
    since: float = 0.0
    """When this step was entered, or its watch began anew: seconds since the epoch."""
    state: State = "Progressing"
    reason: str = ""
    message: str = ""
    evidence: dict[str, Any] = {}
    """Of the last verdict, as `judge.Verdict`."""
    attempt: int = 0
    """How often this step's counts were lost and begun anew."""
    seen: tuple[int, int] = (0, 0)
    """Requests of stable version and candidate at the last look; fewer at the next: counts began anew."""
    settling: bool = False
    """The weights were changed, and counts have not been seen to begin anew."""
    baseline: Baseline | None = None
    """Set where the candidate has everything, so that the stable version does nothing to compare with."""
    events: tuple[Event, ...] = ()
    """The newest, oldest first; `news` says which were added."""

    @property
    def final(self) -> bool:
        """Whether nothing more will happen to what it was started for."""
        return self.state in {"Promoted", "RolledBack"}


def advance(  # noqa: PLR0917 - what was declared, where it stood, what was seen, when: always all of it
    rollout: Rollout,
    progress: Progress,
    stable: Counts,
    candidate: Counts,
    now: float,
    metrics: Mapping[str, float | None] = EMPTY,
    *,
    revision: str = "",
    settled: bool = True,
) -> Progress:
    """Where it stands now. Called again with its own answer and the same counts and time, it changes nothing.

    Args:
        rollout: What was declared.
        progress: Where it stood; `Progress()` where it has not begun.
        stable: What the stable version has done since the weights were set.
        candidate: The same of the candidate.
        now: Seconds since the epoch.
        metrics: Values of `rollout.judge.metrics` for the candidate.
        revision: Tells a changed candidate of the same name from the one before: a new one starts the rollout again.
        settled: Whether the split has the weights of `progress`. While it has not, counts say nothing.
    """
    of = _purpose(rollout) + revision
    if progress.of != of:
        return _started(rollout, progress, of, now)
    if progress.final:
        return progress
    if rollout.paused:
        return progress if progress.state == "Paused" else _paused(progress, now)
    if progress.state == "Paused":
        return _resumed(rollout, progress, (stable.requests, candidate.requests), now)
    if not rollout.steps:
        return _promoted(progress, now, "it has no steps")
    progress = _placed(rollout, progress, now)
    # A clock that was set back does not make a step last longer.
    progress = msgspec.structs.replace(progress, since=min(progress.since, now))
    if progress.since == now or not settled:
        return progress  # what was decided a moment ago is not in force yet
    progress, countable = _counted(rollout, progress, (stable.requests, candidate.requests), now)
    if not countable:
        return progress
    if not stable.requests and progress.baseline is not None:
        stable = progress.baseline.counts()
    verdict = judge(
        stable,
        candidate,
        rollout.judge,
        metrics=metrics,
        step=progress.step,
        steps=len(rollout.steps),
        attempt=progress.attempt,
        shadow=progress.weight <= 0,
    )
    return _decided(rollout, msgspec.structs.replace(progress, evidence=verdict.evidence), verdict, stable, now)


def weights(rollout: Rollout, progress: Progress) -> tuple[float, float]:
    """Percent of the requests for the stable version and for the candidate.

    Promoted is (0, 100): the endpoint is the candidate's from then on. (100, 0) before the first step, after a
    rollback, and where `progress` is of another rollout than what is declared now.
    """
    if not progress.of.startswith(_purpose(rollout)) or progress.state == "RolledBack":
        return 100.0, 0.0
    candidate = 100.0 if progress.state == "Promoted" else progress.weight
    return 100.0 - candidate, candidate


def news(before: Progress, after: Progress) -> tuple[Event, ...]:
    """The events that came between the two."""
    known = set(before.events)
    return tuple(event for event in after.events if event not in known)


# -- transitions --


def _purpose(rollout: Rollout) -> str:
    return f"{rollout.resource_type}\n{rollout.stable}\n{rollout.candidate}\n{rollout.endpoint}\n"


def _started(rollout: Rollout, progress: Progress, of: str, now: float) -> Progress:
    fresh = Progress(of=of, since=now, events=progress.events)
    if not rollout.steps:
        return _promoted(fresh, now, "it has no steps")
    if rollout.paused:
        return _paused(fresh, now)
    entered = msgspec.structs.replace(_entered(rollout, fresh, 0, now), settling=False)
    message = f"from {rollout.stable} to {rollout.candidate}: {_watched(rollout, entered)}"
    return _with(entered, now, state="Progressing", reason="Started", message=message, event=True)


def _paused(progress: Progress, now: float) -> Progress:
    return _with(progress, now, state="Paused", reason="Paused", message=f"paused at {progress.weight:g} %", event=True)


def _resumed(rollout: Rollout, progress: Progress, seen: tuple[int, int], now: float) -> Progress:
    """As it was before the pause, and watched anew; one that was paused before it began begins."""
    if not rollout.steps:
        return _promoted(progress, now, "it has no steps")
    if progress.step == 0 and progress.weight == 0:
        progress = msgspec.structs.replace(_entered(rollout, progress, 0, now), settling=False)
    resumed = msgspec.structs.replace(progress, since=now, seen=progress.seen if progress.settling else seen)
    message = _watched(rollout, resumed)
    return _with(resumed, now, state="Progressing", reason="Resumed", message=message, event=True)


def _entered(rollout: Rollout, progress: Progress, step: int, now: float) -> Progress:
    weight = max(progress.weight, _share(rollout.steps[step]))
    return msgspec.structs.replace(
        progress, step=step, weight=weight, since=now, attempt=0, settling=weight != progress.weight, evidence={}
    )


def _placed(rollout: Rollout, progress: Progress, now: float) -> Progress:
    """The same place in steps that were edited meanwhile: the first that has no less weight than the candidate now."""
    steps, at = rollout.steps, progress.step
    if at < len(steps) and max(map(_share, steps[: at + 1])) == progress.weight:
        return progress
    at = next((at for at, each in enumerate(steps) if _share(each) >= progress.weight), len(steps) - 1)
    placed = _entered(rollout, progress, at, now)
    if (placed.step, placed.weight) == (progress.step, progress.weight):
        return progress  # the last step has less weight now than the candidate, which keeps what it has
    message = f"its steps were changed: {_watched(rollout, placed)}"
    return _with(placed, now, state="Progressing", reason="StepReached", message=message, event=True)


def _counted(rollout: Rollout, progress: Progress, came: tuple[int, int], now: float) -> tuple[Progress, bool]:
    """Whether the counts are those of this step; a step whose counts were lost is watched anew."""
    anew = came[0] < progress.seen[0] or came[1] < progress.seen[1]
    if progress.settling:
        if not anew and any(came) and now - progress.since < _SETTLING_SECONDS:
            return progress, False
        return msgspec.structs.replace(progress, settling=False, seen=came), True
    if anew:
        message = f"the counts of this step were lost and begin anew: {_watched(rollout, progress)}"
        lost = _with(progress, now, state="Progressing", reason="CountsLost", message=message, event=True)
        again = msgspec.structs.replace(lost, since=now, attempt=progress.attempt + 1, seen=came, evidence={})
        return again, False
    return msgspec.structs.replace(progress, seen=came), True


def _decided(rollout: Rollout, progress: Progress, verdict: Verdict, stable: Counts, now: float) -> Progress:
    step = rollout.steps[progress.step]
    passed = now - progress.since
    if verdict.decision == "rollback":
        return _rolled_back(progress, now, verdict.reason, verdict.message)
    if verdict.decision == "promote" and passed >= step.pause_seconds:
        if progress.step + 1 == len(rollout.steps):
            return _promoted(progress, now, verdict.message)
        entered = _entered(rollout, progress, progress.step + 1, now)
        baseline = _baseline(stable) if entered.weight >= 100 else None
        entered = msgspec.structs.replace(entered, baseline=baseline)
        message = f"{_watched(rollout, entered)}; {verdict.message}"
        return _with(entered, now, state="Progressing", reason="StepReached", message=message, event=True)
    limit = rollout.judge.timeout_seconds
    if verdict.decision == "wait" and limit > 0 and passed >= max(limit, step.pause_seconds):
        message = f"no decision within {limit:g} seconds: {verdict.message}"
        return _rolled_back(progress, now, "TimedOut", message)
    if passed < step.pause_seconds:
        message = f"{_watched(rollout, progress)}; {verdict.message}"
        return _with(progress, now, state="Progressing", reason="Watching", message=message)
    first = progress.state != "Waiting" or progress.reason != verdict.reason
    message = f"stays at {progress.weight:g} %: {verdict.message}"
    return _with(progress, now, state="Waiting", reason=verdict.reason, message=message, event=first)


def _share(step: RolloutStep) -> float:
    return min(100.0, max(0.0, step.weight))


def _baseline(stable: Counts) -> Baseline:
    finite = tuple((end, count) for end, count in sorted(stable.latency.items()) if math.isfinite(end))
    beyond = sum(stable.latency.values()) - sum(count for _, count in finite)
    return Baseline(requests=stable.requests, failures=stable.failures, latency=finite, beyond=beyond)


def _promoted(progress: Progress, now: float, why: str) -> Progress:
    done = msgspec.structs.replace(progress, weight=100.0)
    return _with(done, now, state="Promoted", reason="Promoted", message=f"promoted: {why}", event=True)


def _rolled_back(progress: Progress, now: float, reason: str, why: str) -> Progress:
    at = f"rolled back from {progress.weight:g} %"
    undone = msgspec.structs.replace(progress, weight=0.0)
    return _with(undone, now, state="RolledBack", reason=reason, message=f"{at}: {why}", event=True)


def _with(progress: Progress, now: float, *, state: State, reason: str, message: str, event: bool = False) -> Progress:
    events = progress.events
    if event:
        events = (*events, Event(at=now, reason=reason, message=message))[-_EVENTS_KEPT:]
    return msgspec.structs.replace(progress, state=state, reason=reason, message=message, events=events)


def _watched(rollout: Rollout, progress: Progress) -> str:
    pause = rollout.steps[progress.step].pause_seconds if progress.step < len(rollout.steps) else 0.0
    at = f"step {progress.step + 1} of {len(rollout.steps)} at {progress.weight:g} %"
    return f"{at}, watched for {math.ceil(pause)} seconds at least" if pause > 0 else at
