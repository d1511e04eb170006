"""What guards of models did, as metrics. `trusted` attaches each model's while it is served."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Final, Protocol

from headrace.monitoring.families import Family

NAMES: Final[Mapping[str, tuple[str, str, tuple[str, ...]]]] = MappingProxyType(
    {
        "headrace_guard_requests_total": (
            "counter",
            "Requests that a guard flagged or refused",
            ("model", "version", "guard", "outcome"),
        ),
        "headrace_extraction_statistic": (
            "gauge",
            "Shapiro-Wilk's W of the distances between a caller's queries; low is suspicious",
            ("model", "version", "caller"),
        ),
        "headrace_extraction_suspected": (
            "gauge",
            "1 while the last look at a caller's queries found them suspicious",
            ("model", "version", "caller"),
        ),
    }
)
"""Name to kind, meaning and labels."""

_CALLERS_SHOWN: Final = 100


class Suspected(Protocol):
    """What the last look at a caller found (`security.extraction`)."""

    @property
    def caller(self) -> str:
        """Who."""

    @property
    def statistic(self) -> float:
        """W."""

    @property
    def reasons(self) -> tuple[str, ...]:
        """Empty: nothing is wrong."""


class GuardMetrics:
    """Reads what guards count, when somebody asks."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str, str], Mapping[str, int]] = {}
        self._suspicions: dict[tuple[str, str], Callable[[], Iterable[Suspected]]] = {}

    def attach(self, model: str, version: str, guard: str, counts: Mapping[str, int]) -> None:
        """Show the outcomes that a guard counts."""
        self._counts[model, version, guard] = counts

    def attach_monitor(self, model: str, version: str, suspicions: Callable[[], Iterable[Suspected]]) -> None:
        """Show what an extraction monitor finds; of many callers, those who are most suspicious."""
        self._suspicions[model, version] = suspicions

    def detach(self, model: str, version: str) -> None:
        """Show nothing more of a version."""
        self._suspicions.pop((model, version), None)
        for key in [key for key in self._counts if key[:2] == (model, version)]:
            del self._counts[key]

    def fill(self, families: Mapping[str, Family]) -> None:
        """Put the samples into the families of NAMES."""
        for (model, version, guard), counts in self._counts.items():
            for outcome, count in counts.items():
                labels = {"model": model, "version": version, "guard": guard, "outcome": outcome}
                families["headrace_guard_requests_total"].value(labels, count)
        for (model, version), suspicions in self._suspicions.items():
            found = sorted(suspicions(), key=lambda each: (not each.reasons, each.statistic))
            for each in found[:_CALLERS_SHOWN]:
                labels = {"model": model, "version": version, "caller": each.caller}
                families["headrace_extraction_statistic"].value(labels, each.statistic)
                families["headrace_extraction_suspected"].value(labels, int(bool(each.reasons)))
