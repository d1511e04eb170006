"""What Headrace counts, and how Prometheus reads it. `app.py` gives each model version a `ModelMetrics`.

Counting happens on the event loop for every request, so it is plain integer arithmetic on slots; the text that
Prometheus scrapes is made from them when it asks (`Metrics` is a prometheus_client collector). `NAMES` lists every
metric: the metrics reference is generated from it. MLServer's and KServe's names are aliases that a setting adds.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final, cast

import msgspec

from headrace.payload import Infer, InferenceRequest, InferenceResponse

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.metrics_core import Metric

SECONDS: Final = (
    0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip
_NANOSECONDS: Final = tuple(int(bound * 1e9) for bound in SECONDS)
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
    "headrace_model_ready": ("gauge", "1 while the version answers", ("model", "version")),
    "headrace_model_load_seconds": ("gauge", "How long the last load took", ("model", "version")),
    "headrace_http_requests_total": ("counter", "HTTP requests by route", ("route", "method", "code")),
    "headrace_grpc_requests_total": ("counter", "gRPC calls by method", ("method", "code")),
}
"""Name to kind, meaning and labels."""

MLSERVER_NAMES: Final[Mapping[str, str]] = {
    "model_infer_request_success_total": "counter of successful requests, by model and version",
    "model_infer_request_failure_total": "counter of failed requests, by model and version",
    "model_infer_request_duration": "summary in seconds, by model and version",
}
KSERVE_NAMES: Final[Mapping[str, str]] = {
    "request_predict_seconds": "histogram of the predict step, by model_name",
}


class Histogram(msgspec.Struct, gc=False):
    """Counts by bucket and their sum, in the unit of the bounds."""

    bounds: tuple[int, ...]
    counts: list[int]
    total: int = 0

    @classmethod
    def of(cls, bounds: tuple[int, ...]) -> Histogram:
        """An empty one."""
        return cls(bounds, [0] * (len(bounds) + 1))

    def add(self, value: int) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def count(self) -> int:
        """How many values."""
        return sum(self.counts)


class ModelMetrics:
    """One model version's counts. It is that version's `serving.Observer`, and what the statistics extension reads."""

    __slots__ = (
        "batches", "depth", "executed_requests", "in_flight", "last_ns", "load_seconds", "model", "outcomes", "predict",
        "queue_ns", "ready", "request", "restarts", "version",
    )  # fmt: skip

    def __init__(self, model: str, version: str) -> None:
        self.model, self.version = model, version
        self.outcomes: dict[tuple[str, str], list[int]] = {}
        """By protocol and status: requests and nanoseconds."""
        self.request = Histogram.of(_NANOSECONDS)
        self.predict = Histogram.of(_NANOSECONDS)
        self.batches: dict[int, list[int]] = {}
        """By rows: predicts and nanoseconds. Of rare sizes beyond BATCH_SIZES_KEPT the next power of two."""
        self.in_flight = self.depth = self.queue_ns = self.executed_requests = self.restarts = 0
        self.load_seconds = 0.0
        self.last_ns = 0
        """When a request was last answered, on the clock of `time.perf_counter_ns`; 0: never."""
        self.ready = False

    # -- serving.Observer --

    def executed(self, *, requests: int, rows: int, queue_ns: int, predict_ns: int) -> None:
        """Count one predict that ended well."""
        self.executed_requests += requests
        if queue_ns:
            self.queue_ns += queue_ns
        predict = self.predict
        predict.counts[bisect_left(_NANOSECONDS, predict_ns)] += 1
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

    def restarted(self, reason: str) -> None:
        """Count a worker that was started again."""
        self.restarts += 1

    def logged(self, values: Sequence[tuple[str, str, float]]) -> None:
        """Count what the model's own code measured: metric name, description, value."""

    # -- requests --

    def finished(self, protocol: str, status: str, nanoseconds: int) -> None:
        """Count one request that was answered, well or not."""
        outcome = self.outcomes.get((protocol, status))
        if outcome is None:
            outcome = self.outcomes[protocol, status] = [0, 0]
        outcome[0] += 1
        outcome[1] += nanoseconds
        request = self.request
        request.counts[bisect_left(_NANOSECONDS, nanoseconds)] += 1
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
    """Every count of this server, and their text form."""

    def __init__(self, *, mlserver_names: bool = False, kserve_names: bool = False) -> None:
        self._models: dict[tuple[str, str], ModelMetrics] = {}
        self._mlserver_names, self._kserve_names = mlserver_names, kserve_names
        self.http: dict[tuple[str, str, int], int] = {}
        """Requests by route template, method and status code."""
        self.grpc: dict[tuple[str, str], int] = {}
        """Calls by method and code name."""
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
            found = self._models[key] = ModelMetrics(model, version)
        return found

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
        families = {name: _Family(name, kind, text) for name, (kind, text, _) in NAMES.items()}
        for metrics in self._models.values():
            _fill(families, metrics)
        for (route, method, code), count in self.http.items():
            labels = {"route": route, "method": method, "code": str(code)}
            families["headrace_http_requests_total"].value(labels, count)
        for (method, name), count in self.grpc.items():
            families["headrace_grpc_requests_total"].value({"method": method, "code": name}, count)
        if self._mlserver_names:
            families |= _mlserver(self._models.values())
        if self._kserve_names:
            families |= _kserve(self._models.values())
        for family in families.values():
            yield family.metric

    def describe(self) -> Iterator[Metric]:
        """Nothing up front: names do not depend on what was counted."""
        return iter(())


class _Family:
    """One metric and its samples, as the text format names them."""

    def __init__(self, name: str, kind: str, text: str) -> None:
        from prometheus_client.metrics_core import Metric

        self.name = name
        self.metric = Metric(name.removesuffix("_total"), text, kind)

    def value(self, labels: dict[str, str], value: float) -> None:
        self.metric.add_sample(self.name, labels, value)

    def summary(self, labels: dict[str, str], count: float, total: float) -> None:
        self.metric.add_sample(self.name + "_count", labels, count)
        self.metric.add_sample(self.name + "_sum", labels, total)

    def histogram(
        self, labels: dict[str, str], histogram: Histogram, names: Iterable[object], unit: float = 1.0
    ) -> None:
        seen = 0
        for name, count in zip([*names, "+Inf"], histogram.counts, strict=True):
            seen += count
            self.metric.add_sample(self.name + "_bucket", {**labels, "le": str(name)}, seen)
        self.summary(labels, seen, histogram.total * unit)


def _fill(families: Mapping[str, _Family], metrics: ModelMetrics) -> None:
    labels = {"model": metrics.model, "version": metrics.version}
    for (protocol, status), (count, _) in metrics.outcomes.items():
        families["headrace_requests_total"].value({**labels, "protocol": protocol, "status": status}, count)
    families["headrace_request_seconds"].histogram(labels, metrics.request, SECONDS, 1e-9)
    families["headrace_predict_seconds"].histogram(labels, metrics.predict, SECONDS, 1e-9)
    families["headrace_batch_rows"].histogram(labels, metrics.rows(), ROWS)
    families["headrace_queue_seconds"].summary(labels, metrics.executed_requests, metrics.queue_ns / 1e9)
    for name, value in (
        ("headrace_requests_in_flight", metrics.in_flight),
        ("headrace_queue_depth", metrics.depth),
        ("headrace_batch_requests_total", metrics.executed_requests),
        ("headrace_worker_restarts_total", metrics.restarts),
        ("headrace_model_ready", metrics.ready),
        ("headrace_model_load_seconds", metrics.load_seconds),
    ):
        families[name].value(labels, value)


def _mlserver(models: Iterable[ModelMetrics]) -> dict[str, _Family]:
    success = _Family("model_infer_request_success_total", "counter", "Model infer request success count")
    failure = _Family("model_infer_request_failure_total", "counter", "Model infer request failure count")
    duration = _Family("model_infer_request_duration", "summary", "Model infer request duration in seconds")
    for metrics in models:
        labels = {"model": metrics.model, "version": metrics.version or "None"}
        success.value(labels, metrics.successes()[0])
        failure.value(labels, metrics.failures()[0])
        duration.summary(labels, metrics.request.count(), metrics.request.total / 1e9)
    return {family.name: family for family in (success, failure, duration)}


def _kserve(models: Iterable[ModelMetrics]) -> dict[str, _Family]:
    predict = _Family("request_predict_seconds", "histogram", "Predict latency in seconds")
    for metrics in models:
        predict.histogram({"model_name": metrics.model}, metrics.predict, SECONDS, 1e-9)
    return {predict.name: predict}


def reference() -> str:
    """The metrics reference in Markdown, made from the tables above."""
    lines = [
        "# Metrics",
        "",
        "<!-- Generated from src/headrace/monitoring/metrics.py by scripts/docs; edit the tables there. -->",
        "",
        "`GET /metrics` on the metrics port (8082), in the Prometheus text format. Durations are seconds.",
        "",
        "| name | kind | labels | meaning |",
        "|---|---|---|---|",
        *(f"| `{name}` | {kind} | {', '.join(labels)} | {text} |" for name, (kind, text, labels) in NAMES.items()),
        "",
        "`status` is `ok` or the class of the error (`invalid_request`, `overloaded`, `deadline_exceeded`, ...).",
        "`version` is empty for a model without versions. Beside these stand the `process_*` and `python_*` metrics",
        "of the server.",
        "",
        "## Names of other servers",
        "",
        "`metrics.aliases: mlserver`, `kserve` or `all` adds the same counts under the names that dashboards made for",
        "those servers read.",
        "",
        "| setting | name | meaning |",
        "|---|---|---|",
        *(f"| `mlserver` | `{name}` | {text} |" for name, text in MLSERVER_NAMES.items()),
        *(f"| `kserve` | `{name}` | {text} |" for name, text in KSERVE_NAMES.items()),
    ]
    return "\n".join(lines) + "\n"
