"""What is counted of models that come to memory and leave it. `Metrics.memory` is the `Witness` that `serving.seat`
asks for.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from headrace.monitoring.families import NANOSECONDS, SECONDS, Family, Histogram

NAMES: Final[Mapping[str, tuple[str, str, tuple[str, ...]]]] = MappingProxyType(
    {
        "headrace_memory_budget_bytes": ("gauge", "What all models together may take of memory; 0: no bound", ()),
        "headrace_resident_models": ("gauge", "Versions that may leave memory and are there now", ()),
        "headrace_resident_bytes": (
            "gauge",
            "What such a version takes of memory, as measured, while it is there",
            ("model", "version"),
        ),
        "headrace_demand_loads_total": (
            "counter",
            "Loads that a request or a prefetch started",
            ("model", "version"),
        ),
        "headrace_evictions_total": (
            "counter",
            "Times that a version left memory: for room, for want of requests, or by hand",
            ("model", "version", "cause"),
        ),
        "headrace_load_wait_seconds": ("histogram", "How long requests waited for their model to be loaded", ()),
    }
)
"""Name to kind, meaning and labels."""

SELDON_NAMES: Final[Mapping[str, tuple[str, str, tuple[str, ...]]]] = MappingProxyType(
    {
        "seldon_cache_evict_count": ("gauge", "Models that left memory for room", ("server",)),
        "seldon_cache_miss_count": ("gauge", "Loads that a request or a prefetch started", ("server",)),
        "seldon_loaded_model_gauge": ("gauge", "1 for a model in memory", ("model", "server")),
        "seldon_loaded_model_memory_bytes_gauge": ("gauge", "What a model in memory takes", ("model", "server")),
        "seldon_evicted_model_memory_bytes_gauge": ("gauge", "What a model took that left", ("model", "server")),
        "seldon_server_replica_memory_capacity_bytes_gauge": (
            "gauge",
            "What all models together may take of memory",
            ("server",),
        ),
    }
)
"""What Seldon Core v2's agent calls the same. Its counters are gauges here: the text form wants a counter's name to end
in `_total`, and theirs do not.
"""

Key = tuple[str, str]


class MemoryMetrics:
    """Counts of all versions that may leave memory."""

    def __init__(self) -> None:
        self.budget = 0
        self.resident: dict[Key, int] = {}
        """Bytes, by name and version."""
        self.evicted: dict[Key, int] = {}
        """What those took that are absent now."""
        self.demanded: dict[Key, int] = {}
        self.causes: dict[Key, dict[str, int]] = {}
        """How often a version left, by cause."""
        self.waits = Histogram.of(NANOSECONDS)

    # -- serving.seat.Witness --

    def budgeted(self, memory_bytes: int) -> None:
        """The budget is this now."""
        self.budget = memory_bytes

    def came(self, model: str, version: str, memory_bytes: int, *, demanded: bool) -> None:
        """A version is in memory."""
        key = (model, version)
        self.resident[key] = memory_bytes
        self.evicted.pop(key, None)
        if demanded:
            self.demanded[key] = self.demanded.get(key, 0) + 1

    def left(self, model: str, version: str, cause: str) -> None:
        """A version left memory."""
        self.evicted[model, version] = self.resident.pop((model, version), 0)
        causes = self.causes.setdefault((model, version), {})
        causes[cause] = causes.get(cause, 0) + 1

    def forgotten(self, model: str, version: str) -> None:
        """A version was unloaded; what it counted is gone."""
        self.causes.pop((model, version), None)
        for counts in (self.resident, self.evicted, self.demanded):
            counts.pop((model, version), None)

    def waited(self, seconds: float) -> None:
        """A request waited for a load."""
        self.waits.add(int(seconds * 1e9))

    # -- what Prometheus reads --

    def fill(self, families: Mapping[str, Family]) -> None:
        """Put the samples into the families of NAMES."""
        families["headrace_memory_budget_bytes"].value({}, self.budget)
        families["headrace_resident_models"].value({}, len(self.resident))
        for name, counts in (
            ("headrace_resident_bytes", self.resident),
            ("headrace_demand_loads_total", self.demanded),
        ):
            for (model, version), count in counts.items():
                families[name].value({"model": model, "version": version}, count)
        for (model, version), causes in self.causes.items():
            for cause, count in causes.items():
                families["headrace_evictions_total"].value({"model": model, "version": version, "cause": cause}, count)
        waits = families["headrace_load_wait_seconds"]
        waits.histogram({}, self.waits.counts, self.waits.total, names=SECONDS, unit=1e-9)

    def seldon(self, server: str) -> list[Family]:
        """The same under SELDON_NAMES. Versions of a model are added up: Seldon Core counts models.

        Args:
            server: What its label `server` says.
        """
        families = {name: Family(name, kind, text) for name, (kind, text, _) in SELDON_NAMES.items()}
        ours = {"server": server}
        families["seldon_cache_evict_count"].value(
            ours, sum(causes.get("memory", 0) for causes in self.causes.values())
        )
        families["seldon_cache_miss_count"].value(ours, sum(self.demanded.values()))
        families["seldon_server_replica_memory_capacity_bytes_gauge"].value(ours, self.budget)
        for name, sizes in (
            ("seldon_loaded_model_memory_bytes_gauge", _by_model(self.resident)),
            ("seldon_evicted_model_memory_bytes_gauge", _by_model(self.evicted)),
            ("seldon_loaded_model_gauge", dict.fromkeys(_by_model(self.resident), 1)),
        ):
            for model, size in sizes.items():
                families[name].value({"model": model, **ours}, size)
        return list(families.values())


def _by_model(sizes: Mapping[Key, int]) -> dict[str, int]:
    added: dict[str, int] = {}
    for (model, _), size in sizes.items():
        added[model] = added.get(model, 0) + size
    return added
