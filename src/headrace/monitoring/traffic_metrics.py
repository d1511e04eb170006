"""What steps of pipelines and candidates of splits did, as metrics. `local` attaches each while it is served."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from headrace.monitoring.families import Family

NAMES: Final[Mapping[str, tuple[str, str, tuple[str, ...]]]] = MappingProxyType(
    {
        "headrace_step_requests_total": ("counter", "Calls of a step, whatever came of them", ("pipeline", "step")),
        "headrace_step_failures_total": ("counter", "Calls of a step that failed", ("pipeline", "step")),
        "headrace_step_seconds_total": ("counter", "Time spent in a step", ("pipeline", "step")),
        "headrace_step_dropped_total": (
            "counter",
            "Calls of a step that nobody waits for, left out since too many ran",
            ("pipeline", "step"),
        ),
        "headrace_candidate_requests": (
            "gauge",
            "Requests that a candidate answered since the shares last changed",
            ("experiment", "candidate"),
        ),
        "headrace_candidate_failures": (
            "gauge",
            "Those of them that failed by its own fault",
            ("experiment", "candidate"),
        ),
        "headrace_candidate_compared": (
            "gauge",
            "Answers of a mirror that were compared with the callers'",
            ("experiment", "candidate"),
        ),
        "headrace_candidate_agreed": ("gauge", "Those of them that agreed", ("experiment", "candidate")),
    }
)
"""Name to kind, meaning and labels."""


class TrafficMetrics:
    """Reads the counts of what is attached, when somebody asks."""

    def __init__(self) -> None:
        self._sources: dict[str, Any] = {}

    def attach(self, key: str, source: Any) -> None:
        """Show what a pipeline (`graph.run.Pipeline`) or a split (`routing.split.Split`) counts.

        Args:
            key: In the routing table, `NAME.pipeline` or `NAME.experiment`.
            source: It; the one attached to the same key before is shown no more.
        """
        self._sources[key] = source

    def detach(self, key: str) -> None:
        """Show it no more."""
        self._sources.pop(key, None)

    def fill(self, families: Mapping[str, Family]) -> None:
        """Put the samples into the families of NAMES."""
        for key, source in self._sources.items():
            name, _, kind = key.rpartition(".")
            if kind == "pipeline":
                for step, counts in source.steps().items():
                    labels = {"pipeline": name, "step": step}
                    for field in ("requests", "failures", "seconds", "dropped"):
                        families[f"headrace_step_{field}_total"].value(labels, getattr(counts, field))
                continue
            for candidate, counted in source.counts().items():
                labels = {"experiment": name, "candidate": candidate}
                for field in ("requests", "failures", "compared", "agreed"):
                    families[f"headrace_candidate_{field}"].value(labels, getattr(counted, field))
