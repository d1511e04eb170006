"""A backend that serves nothing and keeps what it was told: for tests of all that is above it, and to try a plan out.

Honest where it counts: it passes the same conformance class as those that serve (`headrace.testing.backends`). Loads
may be made to take time, to wait, or to fail.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import msgspec

from headrace.control.backends.base import Action, Counts, ModelUnit, Observed, Unit, UnitKey
from headrace.errors import LoadFailed, NotSupported


class MemoryBackend:
    """Units in a dict."""

    def __init__(self) -> None:
        self.units: dict[UnitKey, Unit] = {}
        """What is there."""
        self.done: list[Action] = []
        """What was carried out, in the order in which it ended."""
        self.broken: dict[str, str] = {}
        """Name of a unit to why setting it fails; `uri`s of models are looked up too."""
        self.seconds: dict[str, float] = {}
        """Name of a unit to how long setting it takes."""
        self.gates: dict[str, asyncio.Event] = {}
        """Name of a unit to what setting it waits for."""
        self.counted: dict[str, dict[str, Counts]] = {}
        """Split to what its candidates are said to have done."""
        self.metrics: dict[tuple[str, str, str], float] = {}
        self.lost: dict[UnitKey, str] = {}
        """Units that failed by themselves, and why; setting them again heals them."""
        self.busy = 0
        """Actions in flight."""
        self.busiest = 0
        """The most there ever were at once."""
        self._loading: dict[UnitKey, Unit] = {}

    async def observe(self) -> Sequence[Observed]:
        """All units there are, in any state."""
        found = [
            Observed(
                key=key,
                digest=unit.digest,
                state="failed" if key in self.lost else "ready",
                reason=self.lost.get(key, ""),
            )
            for key, unit in self.units.items()
        ]
        found += [
            Observed(key=key, digest=unit.digest, state="progressing")
            for key, unit in self._loading.items()
            if key not in self.units
        ]
        return found

    async def carry_out(self, action: Action) -> None:
        """Do it, and return when it is done.

        Raises:
            LoadFailed: it was told to fail.
            NotSupported: a `set` without a unit.
        """
        self.busy += 1
        self.busiest = max(self.busiest, self.busy)
        try:
            if action.verb == "remove":
                self.units.pop(action.key, None)
                self.lost.pop(action.key, None)
            else:
                await self._set(action)
        finally:
            self.busy -= 1
        self.done.append(action)

    async def _set(self, action: Action) -> None:
        unit = action.unit
        if unit is None:
            raise NotSupported(f"setting {action.key} needs a unit")
        self._loading[action.key] = unit
        try:
            if unit.name in self.gates:
                await self.gates[unit.name].wait()
            if seconds := self.seconds.get(unit.name, 0.0):
                await asyncio.sleep(seconds)
            why = self.broken.get(unit.name) or (isinstance(unit, ModelUnit) and self.broken.get(unit.spec.uri))
            if why:
                raise LoadFailed(why)
        finally:
            del self._loading[action.key]
        self.units[action.key] = unit
        self.lost.pop(action.key, None)

    def counts(self, split: str) -> Mapping[str, Counts]:
        """What each candidate of a split is said to have done."""
        return self.counted.get(split, {})

    def metric(self, name: str, model: str, version: str) -> float | None:
        """A metric that was written into `metrics`."""
        return self.metrics.get((name, model, version))

    def fail(self, key: UnitKey, reason: str) -> None:
        """Let something that is there fail by itself."""
        self.lost[key] = reason

    def count(self, split: str, candidate: str, **counts: int) -> None:
        """Let a candidate have done something; `requests=100, failures=3`."""
        before = self.counted.setdefault(split, {}).get(candidate, Counts())
        self.counted[split][candidate] = msgspec.structs.replace(before, **counts)
