"""What Headrace counts, and how Prometheus reads it. `app.py` gives each model version a `ModelMetrics`.

Counting happens on the event loop for every request, so it is plain integer arithmetic on slots; the text that
Prometheus scrapes is made from them when it asks (`Metrics` is a prometheus_client collector). `NAMES` lists every
metric: the metrics reference is generated from it. MLServer's and KServe's names are aliases that a setting adds.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final, Protocol, cast

from headrace.monitoring import (
    guard_metrics,
    kafka_metrics,
    memory_metrics,
    mlserver_metrics,
    model_events,
    traffic_metrics,
    trust_metrics,
)
from headrace.monitoring.custom_metrics import NAMES_KEPT, CustomMetrics
from headrace.monitoring.families import DEFAULT, NANOSECONDS, SECONDS, Family, Histogram
from headrace.payload import Infer, InferenceRequest, InferenceResponse

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.metrics_core import Metric

BATCH_SIZES_KEPT: Final = 1024
"""Different numbers of rows that statistics keep apart."""
ROWS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)

NAMES: Final[Mapping[str, tuple[str, str, tuple[str, ...]]]] = {
    "headrace_requests_total": ("counter", "Requests answered by a model", ("model", "version", "protocol", "status")),
    "headrace_request_seconds": ("histogram", "From routed to answered", ("model", "version")),
    "headrace_requests_in_flight": ("gauge", "Requests a model is answering now", ("model", "version")),
    "headrace_queue_seconds": ("summary", "Time requests waited for a predict", ("model", "version")),
    "headrace_queue_depth": ("gauge", "Requests waiting for a predict now", ("model", "version")),
    "headrace_predict_seconds": (
        "histogram",
        "Duration of one predict, of however many requests",
        ("model", "version"),
    ),
    "headrace_batch_rows": ("histogram", "Rows of one predict", ("model", "version")),
    "headrace_batch_requests_total": ("counter", "Requests that shared predicts", ("model", "version")),
    "headrace_worker_restarts_total": (
        "counter",
        "Worker processes that ended and were started again",
        ("model", "version"),
    ),
    "headrace_cache_hits_total": (
        "counter",
        "Requests answered from the cache, or by an equal request's predict",
        ("model", "version"),
    ),
    "headrace_cache_misses_total": ("counter", "Requests that the cache passed on to the model", ("model", "version")),
    "headrace_cache_evictions_total": (
        "counter",
        "Answers that left the cache because newer ones needed their place",
        ("model", "version"),
    ),
    "headrace_cache_entries": ("gauge", "Answers in the cache now", ("model", "version")),
    "headrace_cache_bytes": ("gauge", "Memory that they take", ("model", "version")),
    "headrace_model_ready": ("gauge", "1 while the version answers", ("model", "version")),
    "headrace_model_load_seconds": ("gauge", "How long the last load took", ("model", "version")),
    **memory_metrics.NAMES,
    "headrace_http_requests_total": ("counter", "HTTP requests by route", ("route", "method", "code")),
    "headrace_grpc_requests_total": ("counter", "gRPC calls by method", ("method", "code")),
    **traffic_metrics.NAMES,
    **guard_metrics.NAMES,
    **trust_metrics.NAMES,
    **kafka_metrics.NAMES,
    **model_events.NAMES,
}
"""Name to kind, meaning and labels."""

MLSERVER_NAMES: Final = mlserver_metrics.NAMES
KSERVE_NAMES: Final[Mapping[str, tuple[str, str, tuple[str, ...]]]] = {
    "request_predict_seconds": ("histogram", "Predict latency in seconds", ("model_name",)),
}


SELDON_NAMES: Final = {**memory_metrics.SELDON_NAMES, **trust_metrics.SELDON_NAMES}
PEERS_NAMES: Final = frozenset({*MLSERVER_NAMES, *KSERVE_NAMES, *SELDON_NAMES})
_PROCESS_NAMES: Final = frozenset(
    {
        "process_virtual_memory_bytes", "process_resident_memory_bytes", "process_start_time_seconds",
        "process_cpu_seconds_total", "process_open_fds", "process_max_fds",
    }
)  # fmt: skip


class CacheCounts(Protocol):
    """What a cache of answers counts (`routing.cache`)."""

    hits: int
    """Requests answered without a predict of their own."""
    misses: int
    """Requests that needed one."""
    evictions: int
    """Answers that left because newer ones needed their place."""
    bytes: int
    """What the answers kept now take."""

    @property
    def entries(self) -> int:
        """How many answers are kept now."""


class ModelMetrics:
    """One model version's counts. It is that version's `serving.Observer`, and what the statistics extension reads."""

    __slots__ = (
        "batches", "cache", "custom", "depth", "earlier", "executed_requests", "in_flight", "last_ns", "load_seconds",
        "model", "outcomes", "parallel", "predict", "queue_lengths", "queue_ns", "ready", "request", "restarts",
        "version",
    )  # fmt: skip

    def __init__(
        self,
        model: str,
        version: str,
        *,
        queue_lengths: bool = False,
        taken: Callable[[str], bool] = lambda name: name in NAMES,
    ) -> None:
        """Count from nothing.

        Args:
            model: Its name.
            version: Empty for a model without versions.
            queue_lengths: Whether to keep how long the queue was each time.
            taken: Whether a name is the server's own, so that the model's code cannot have it.
        """
        self.model, self.version = model, version
        self.outcomes: dict[tuple[str, str], list[int]] = {}
        """By protocol and status: requests and nanoseconds."""
        self.request = Histogram.of(NANOSECONDS)
        self.predict = Histogram.of(NANOSECONDS)
        self.batches: dict[int, list[int]] = {}
        """By rows: predicts and nanoseconds. Of rare sizes beyond BATCH_SIZES_KEPT the next power of two."""
        self.in_flight = self.depth = self.queue_ns = self.executed_requests = self.restarts = 0
        self.load_seconds = 0.0
        self.last_ns = 0
        """When a request was last answered, on the clock of `time.perf_counter_ns`; 0: never."""
        self.ready = False
        self.parallel = False
        """Whether it predicts in processes; MLServer's metrics tell those apart."""
        self.queue_lengths = Histogram.of(DEFAULT) if queue_lengths else None
        self.custom = CustomMetrics(model, taken)
        """What the model's own code measured."""
        self.cache: CacheCounts | None = None
        """The one it has now; `attach` sets it."""
        self.earlier = (0, 0, 0)
        """Hits, misses and evictions of the caches it had before."""

    def attach(self, cache: CacheCounts) -> None:
        """Show this cache's counts from now on, on top of those of the one before, which a reload replaced."""
        self.earlier = self.cache_totals()
        self.cache = cache

    def cache_totals(self) -> tuple[int, int, int]:
        """Hits, misses and evictions of all its caches."""
        if self.cache is None:
            return self.earlier
        hits, misses, evictions = self.earlier
        return hits + self.cache.hits, misses + self.cache.misses, evictions + self.cache.evictions

    # -- serving.Observer --

    def executed(self, *, requests: int, rows: int, queue_ns: int, predict_ns: int) -> None:
        """Count one predict that ended well."""
        self.executed_requests += requests
        if queue_ns:
            self.queue_ns += queue_ns
        predict = self.predict
        predict.counts[bisect_left(NANOSECONDS, predict_ns)] += 1
        predict.total += predict_ns
        batch = self.batches.get(rows)
        if batch is None:
            batch = self._kept(rows)
        batch[0] += 1
        batch[1] += predict_ns

    def _kept(self, rows: int) -> list[int]:
        if len(self.batches) >= BATCH_SIZES_KEPT:
            rows = 1 << (rows - 1).bit_length()
        return self.batches.setdefault(rows, [0, 0])

    def failed(self, *, requests: int, queue_ns: int, predict_ns: int) -> None:
        """Count one predict that failed."""
        self.executed_requests += requests
        self.queue_ns += queue_ns
        self.predict.add(predict_ns)

    def queued(self, depth: int) -> None:
        """Note how many wait now."""
        self.depth = depth
        if self.queue_lengths is not None:
            self.queue_lengths.add(depth)

    def restarted(self, reason: str) -> None:
        """Count a worker that was started again."""
        self.restarts += 1

    def logged(self, values: Sequence[tuple[str, str, float]]) -> None:
        """Count what the model's own code measured: metric name, description, value."""
        self.custom.add(values)

    # -- requests --

    def finished(self, protocol: str, status: str, nanoseconds: int) -> None:
        """Count one request that was answered, well or not."""
        outcome = self.outcomes.get((protocol, status))
        if outcome is None:
            outcome = self.outcomes[protocol, status] = [0, 0]
        outcome[0] += 1
        outcome[1] += nanoseconds
        request = self.request
        request.counts[bisect_left(NANOSECONDS, nanoseconds)] += 1
        request.total += nanoseconds

    # -- what statistics read --

    def successes(self) -> tuple[int, int]:
        """Requests answered well, and their nanoseconds."""
        return self._sum(lambda status: status == "ok")

    def failures(self) -> tuple[int, int]:
        """Requests that ended in an error or were left by their caller, and their nanoseconds."""
        return self._sum(lambda status: status != "ok")

    def _sum(self, counts: Callable[[str], bool]) -> tuple[int, int]:
        chosen = [outcome for (_, status), outcome in self.outcomes.items() if counts(status)]
        return sum(count for count, _ in chosen), sum(nanoseconds for _, nanoseconds in chosen)

    def rows(self) -> Histogram:
        """Predicts by their number of rows."""
        histogram = Histogram.of(ROWS)
        for rows, (predicts, _) in self.batches.items():
            histogram.counts[bisect_left(ROWS, rows)] += predicts
            histogram.total += rows * predicts
        return histogram

    def last_inference_ms(self) -> int:
        """When a request was last answered, milliseconds since the epoch; 0: never."""
        if not self.last_ns:
            return 0
        return int(time.time() * 1e3 - (time.perf_counter_ns() - self.last_ns) / 1e6)


def status_of(error: BaseException) -> str:
    """An error's class as a label value: `InvalidRequest` is `invalid_request`."""
    name = type(error).__name__
    return "".join("_" + letter.lower() if letter.isupper() else letter for letter in name).lstrip("_")


def measure(infer: Infer, metrics: ModelMetrics) -> Infer:
    """The same `Infer`, counted."""
    clock = time.perf_counter_ns

    async def measured(request: InferenceRequest) -> InferenceResponse:
        started = clock()
        metrics.in_flight += 1
        try:
            response = await infer(request)
        except BaseException as error:
            metrics.in_flight -= 1
            metrics.last_ns = ended = clock()
            metrics.finished(request.protocol, status_of(error), ended - started)
            raise
        metrics.in_flight -= 1
        metrics.last_ns = ended = clock()
        metrics.finished(request.protocol, "ok", ended - started)
        return response

    return measured


class Metrics:
    """Every count of this server, and their text form.

    Args:
        mlserver_names: Also count and show what MLServer does, under its names.
        kserve_names: Also show KServe's names.
        seldon_server: Also show the names of Seldon Core v2's agent, with this as the label `server`; empty: do not.
        rest_prefix: What the names of MLServer's REST metrics begin with.
    """

    def __init__(
        self,
        *,
        mlserver_names: bool = False,
        kserve_names: bool = False,
        seldon_server: str = "",
        rest_prefix: str = mlserver_metrics.REST_PREFIX,
    ) -> None:
        self._models: dict[tuple[str, str], ModelMetrics] = {}
        self._kserve_names, self._rest_prefix = kserve_names, rest_prefix
        self._seldon_server = seldon_server
        self.memory = memory_metrics.MemoryMetrics()
        """What `serving.residency` tells of models that come and leave."""
        self._taken = frozenset(
            stem
            for name in (
                *NAMES,
                *(mlserver_metrics.exposed(name, rest_prefix) for name in PEERS_NAMES),
                *_PROCESS_NAMES,
            )
            for stem in (name, name.removesuffix("_total"))
        )
        self.http: dict[tuple[str, str, int], int] = {}
        """Requests by route template, method and status code."""
        self.grpc: dict[tuple[str, str], int] = {}
        """Calls by method and code name."""
        self.rest_times = mlserver_metrics.RestTimes() if mlserver_names else None
        """What `server.metrics.timed` writes to; None: nobody asked for it."""
        self.grpc_times = mlserver_metrics.GrpcTimes() if mlserver_names else None
        """What `server.metrics.timed_calls` writes to; None: nobody asked for it."""
        self.traffic = traffic_metrics.TrafficMetrics()
        """What pipelines and splits count."""
        self.kafka = kafka_metrics.KafkaMetrics()
        """What pumps count."""
        self.events: Callable[[], Mapping[str, int]] = dict
        """What became of events of models, by outcome."""
        self.guards = guard_metrics.GuardMetrics()
        """What guards of models count."""
        self.trust = trust_metrics.TrustMetrics(seldon_names=bool(seldon_server))
        """What detectors say."""
        self._registry: CollectorRegistry | None = None

    def open(self) -> CollectorRegistry:
        """Make ready to render. Imports prometheus_client, which a server need not wait for before it answers."""
        if self._registry is None:
            from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
            from prometheus_client.registry import Collector

            registry = CollectorRegistry()
            registry.register(cast("Collector", self))
            ProcessCollector(registry=registry)
            PlatformCollector(registry=registry)
            GCCollector(registry=registry)
            self._registry = registry
        return self._registry

    def model(self, model: str, version: str) -> ModelMetrics:
        """The counts of a version; they outlive its reloads."""
        key = (model, version)
        found = self._models.get(key)
        if found is None:
            found = self._models[key] = ModelMetrics(
                model, version, queue_lengths=self.rest_times is not None, taken=self._is_taken
            )
        return found

    def _is_taken(self, name: str) -> bool:
        return name in self._taken or name.startswith(("headrace_", "python_"))

    def forget(self, model: str, version: str) -> None:
        """Show nothing more of a version: it was unloaded. What it counted is gone."""
        self._models.pop((model, version), None)

    def find(self, model: str, version: str) -> ModelMetrics | None:
        """The counts of a version that was loaded once."""
        return self._models.get((model, version))

    def refused(self, code: int) -> None:
        """Count a request that was refused before anybody knew what it asked for."""
        key = ("", "", code)
        self.http[key] = self.http.get(key, 0) + 1

    def render(self) -> bytes:
        """The Prometheus text format, version 0.0.4."""
        from prometheus_client import generate_latest

        return generate_latest(self.open())

    def collect(self) -> Iterator[Metric]:
        """What prometheus_client asks a collector for."""
        families = {name: Family(name, kind, text) for name, (kind, text, _) in NAMES.items()}
        for metrics in self._models.values():
            _fill(families, metrics)
        self.memory.fill(families)
        for (route, method, code), count in self.http.items():
            labels = {"route": route, "method": method, "code": str(code)}
            families["headrace_http_requests_total"].value(labels, count)
        for (method, name), count in self.grpc.items():
            families["headrace_grpc_requests_total"].value({"method": method, "code": name}, count)
        self.traffic.fill(families)
        self.kafka.fill(families)
        for outcome, count in self.events().items():
            families[model_events.NAME].value({"outcome": outcome}, count)
        self.guards.fill(families)
        self.trust.fill(families)
        for family in (*families.values(), *self._aliases(), *_custom(self._models.values())):
            yield family.metric

    def _aliases(self) -> Iterator[Family]:
        if self.rest_times is not None and self.grpc_times is not None:
            yield from mlserver_metrics.families(
                self._models.values(), self.rest_times, self.grpc_times, self.grpc, rest_prefix=self._rest_prefix
            )
        if self._kserve_names:
            yield _kserve(self._models.values())
        if self._seldon_server:
            yield from self.memory.seldon(self._seldon_server)
            yield from self.trust.seldon()

    def value(self, name: str, model: str, version: str) -> float | None:
        """What a metric says of a version: its value, or the sum where it has several; None: it says nothing."""
        own = ({"model": model, "version": version}, {"model_name": model, "model_version": version})
        found = [
            sample.value
            for metric in self.collect()
            for sample in metric.samples
            if sample.name == name and any(labels.items() <= sample.labels.items() for labels in own)
        ]
        return sum(found) if found else None

    def describe(self) -> Iterator[Metric]:
        """Nothing up front: names do not depend on what was counted."""
        return iter(())


def _fill(families: Mapping[str, Family], metrics: ModelMetrics) -> None:
    labels = {"model": metrics.model, "version": metrics.version}
    for (protocol, status), (count, _) in metrics.outcomes.items():
        families["headrace_requests_total"].value({**labels, "protocol": protocol, "status": status}, count)
    for name, histogram, names, unit in (
        ("headrace_request_seconds", metrics.request, SECONDS, 1e-9),
        ("headrace_predict_seconds", metrics.predict, SECONDS, 1e-9),
        ("headrace_batch_rows", metrics.rows(), ROWS, 1.0),
    ):
        families[name].histogram(labels, histogram.counts, histogram.total, names=names, unit=unit)
    families["headrace_queue_seconds"].summary(labels, metrics.executed_requests, metrics.queue_ns / 1e9)
    values: list[tuple[str, float]] = [
        ("headrace_requests_in_flight", metrics.in_flight),
        ("headrace_queue_depth", metrics.depth),
        ("headrace_batch_requests_total", metrics.executed_requests),
        ("headrace_worker_restarts_total", metrics.restarts),
        ("headrace_model_ready", metrics.ready),
        ("headrace_model_load_seconds", metrics.load_seconds),
    ]
    if metrics.cache is not None:
        hits, misses, evictions = metrics.cache_totals()
        values += [
            ("headrace_cache_hits_total", hits),
            ("headrace_cache_misses_total", misses),
            ("headrace_cache_evictions_total", evictions),
            ("headrace_cache_entries", metrics.cache.entries),
            ("headrace_cache_bytes", metrics.cache.bytes),
        ]
    for name, value in values:
        families[name].value(labels, value)


def _custom(models: Iterable[ModelMetrics]) -> Iterator[Family]:
    """What models measured themselves; a name that several use is one metric, which the first one describes."""
    families: dict[str, Family] = {}
    for metrics in models:
        labels = {"model_name": metrics.model, "model_version": metrics.version}
        for name, values in metrics.custom:
            if name not in families:
                families[name] = Family(name, "histogram", values.description)
            families[name].histogram(labels, values.counts, values.total)
    yield from families.values()


def _kserve(models: Iterable[ModelMetrics]) -> Family:
    by_name: dict[str, Histogram] = {}
    for metrics in models:  # KServe knows no versions: theirs are counted together
        by_name.setdefault(metrics.model, Histogram.of(NANOSECONDS)).merge(metrics.predict)
    name, (kind, text, _) = next(iter(KSERVE_NAMES.items()))
    predict = Family(name, kind, text)
    for model, histogram in by_name.items():
        predict.histogram({"model_name": model}, histogram.counts, histogram.total, names=SECONDS, unit=1e-9)
    return predict


def reference() -> str:
    """The metrics reference in Markdown, made from the tables above."""

    def row(name: str, kind: str, text: str, labels: tuple[str, ...]) -> str:
        return f"`{name}` | {kind} | {', '.join(labels)} | {text} |"

    peers = [("mlserver", MLSERVER_NAMES), ("kserve", KSERVE_NAMES), ("seldon", SELDON_NAMES)]
    lines = [
        "# Metrics",
        "",
        "<!-- Generated from src/headrace/monitoring by scripts/docs; edit the tables there. -->",
        "",
        "`GET /metrics` on the metrics port (8082), in the Prometheus text format; `metrics.path` and `metrics.port`",
        "move it. Durations are seconds.",
        "",
        "| name | kind | labels | meaning |",
        "|---|---|---|---|",
        *("| " + row(name, kind, text, labels) for name, (kind, text, labels) in NAMES.items()),
        "",
        "`status` is `ok` or the class of the error (`invalid_request`, `overloaded`, `deadline_exceeded`, ...).",
        "`version` is empty for a model without versions. Beside these stand the `process_*` and `python_*` metrics",
        "of the server. The metrics of a version leave when it is unloaded.",
        "",
        "## Metrics of a model's own",
        "",
        "What a model's code logs (`mlserver.log(confidence=0.9)` in a runtime written for MLServer) is a histogram of",
        "that name with the labels `model_name` and `model_version` and Prometheus's default buckets (0.005 to 10).",
        "Left out, each with a warning, are: a name of this page, one that begins with `headrace_` or `python_`, one",
        f"that is no Prometheus name, names beyond {NAMES_KEPT} of one model, values that are not finite.",
        "",
        "## Names of other servers",
        "",
        "`metrics.aliases: mlserver`, `kserve`, `seldon` or `all` adds the same counts under the names that",
        "dashboards made for those servers read. `metrics.rest_prefix` replaces `rest_server`. Under MLServer's",
        "names `version` is `None` for a model without versions, `path` is MLServer's",
        "(`/v2/models/{model_name}/infer`), and paths that MLServer does not know, health checks and wrong methods",
        "are not counted.",
        "",
        "| setting | name | kind | labels | meaning |",
        "|---|---|---|---|---|",
        *(
            f"| `{setting}` | " + row(name, kind, text, labels)
            for setting, names in peers
            for name, (kind, text, labels) in names.items()
        ),
    ]
    return "\n".join(lines) + "\n"
