"""MLServer's metrics under the names that its dashboards read, where the setting `metrics.aliases` asks for them.

`server.metrics` times REST requests and gRPC calls into `RestTimes` and `GrpcTimes`; a model's `ModelMetrics` keeps the
lengths of its queue. Names, labels, buckets and what is left out are those of MLServer 1.7.1: paths as its routes name
them, none that it does not know, and neither health checks nor wrong methods.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from headrace.monitoring.families import DEFAULT, DEFAULT_NANOSECONDS, Family, Histogram

if TYPE_CHECKING:
    from headrace.monitoring.metrics import ModelMetrics

NAMES: Final[Mapping[str, tuple[str, str, tuple[str, ...]]]] = {
    "model_infer_request_success_total": ("counter", "Model infer request success count", ("model", "version")),
    "model_infer_request_failure_total": ("counter", "Model infer request failure count", ("model", "version")),
    "model_infer_request_duration": ("summary", "Model infer request duration in seconds", ("model", "version")),
    "batch_request_queue": (
        "histogram",
        "Requests that waited for a predict, whenever a batch was taken",
        ("model_name", "model_version"),
    ),
    "parallel_request_queue": ("histogram", "The same, of all models in processes together", ()),
    "rest_server_requests_total": ("counter", "Total HTTP requests", ("app_name", "method", "path", "status_code")),
    "rest_server_request_duration_seconds": (
        "histogram",
        "HTTP request duration, in seconds",
        ("app_name", "method", "path", "status_code"),
    ),
    "rest_server_requests_in_progress": (
        "gauge",
        "Total HTTP requests currently in progress",
        ("app_name", "method"),
    ),
    "grpc_server_started_total": ("counter", "Calls started", ("grpc_type", "grpc_service", "grpc_method")),
    "grpc_server_handled_total": (
        "counter",
        "Calls ended, well or not",
        ("grpc_type", "grpc_service", "grpc_method", "grpc_code"),
    ),
    "grpc_server_msg_received_total": (
        "counter",
        "Messages received in streams",
        ("grpc_type", "grpc_service", "grpc_method"),
    ),
    "grpc_server_msg_sent_total": ("counter", "Messages sent in streams", ("grpc_type", "grpc_service", "grpc_method")),
    "grpc_server_handling_seconds": (
        "histogram",
        "Duration of a call in seconds",
        ("grpc_type", "grpc_service", "grpc_method"),
    ),
}
"""Name to kind, meaning and labels. `rest_server` is what the setting `metrics.rest_prefix` makes it."""
REST_PREFIX: Final = "rest_server"
_APP: Final = "mlserver"
_STREAMS: Final = frozenset({"ModelStreamInfer"})
_MODEL: Final = frozenset(
    {"", "/docs", "/docs/dataplane.json", "/generate", "/generate_stream", "/infer", "/infer_stream", "/ready"}
)
"""What MLServer's paths of a model end in."""


class RestTimes:
    """REST requests by what MLServer calls their path. Written to on the event loop."""

    def __init__(self) -> None:
        self.in_progress: dict[str, int] = {}
        """Requests being answered now, by method."""
        self.ended: dict[tuple[str, str, int], Histogram] = {}
        """Durations in nanoseconds by path, method and status."""

    def begin(self, method: str) -> None:
        """A request is here."""
        self.in_progress[method] = self.in_progress.get(method, 0) + 1

    def end(self, method: str, path: str, code: int, nanoseconds: int) -> None:
        """It is answered; `path` is empty where MLServer does not count it."""
        self.in_progress[method] -= 1
        if path:
            key = (path, method, code)
            found = self.ended.get(key)
            if found is None:
                found = self.ended[key] = Histogram.of(DEFAULT_NANOSECONDS)
            found.add(nanoseconds)


class GrpcTimes:
    """gRPC calls of the inference service by method. Written to on the event loop."""

    def __init__(self, service: str = "inference.GRPCInferenceService") -> None:
        self.service = service
        self.started: defaultdict[str, int] = defaultdict(int)
        self.received: defaultdict[str, int] = defaultdict(int)
        """Messages of streams."""
        self.sent: defaultdict[str, int] = defaultdict(int)
        self.ended: dict[str, Histogram] = {}
        """Durations in nanoseconds."""

    def end(self, method: str, nanoseconds: int) -> None:
        """A call is answered."""
        found = self.ended.get(method)
        if found is None:
            found = self.ended[method] = Histogram.of(DEFAULT_NANOSECONDS)
        found.add(nanoseconds)


def path_of(target: str, own: Iterable[str] = ()) -> str:
    """The path that a request asks for as MLServer's metrics show it, its variable parts named; empty: not counted.

    Args:
        target: The request's path, without query and root path.
        own: Paths of models' own routes, which may have `{name}` segments.
    """
    segments = target.strip("/").split("/")
    match segments:
        case ["v2"] | ["v2", "docs"] | ["v2", "docs", "dataplane.json"] | ["v2", "repository", "index"]:
            return "/" + "/".join(segments)
        case ["v2", "models", _, "versions", _, *rest] if _tail(rest) in _MODEL:
            return "/v2/models/{model_name}/versions/{model_version}" + _tail(rest)
        case ["v2", "models", _, *rest] if _tail(rest) in _MODEL:
            return "/v2/models/{model_name}" + _tail(rest)
        case ["v2", "repository", "models", _, "load" | "unload" as verb]:
            return "/v2/repository/models/{model_name}/" + verb
    return next((path for path in own if _fits(segments, path.strip("/").split("/"))), "")


def _tail(rest: Sequence[str]) -> str:
    return "/" + "/".join(rest) if rest else ""


def _fits(segments: Sequence[str], pattern: Sequence[str]) -> bool:
    return len(segments) == len(pattern) and all(
        wanted.startswith("{") or wanted == segment for segment, wanted in zip(segments, pattern, strict=True)
    )


def families(
    models: Iterable[ModelMetrics],
    rest: RestTimes,
    calls: GrpcTimes,
    handled: Mapping[tuple[str, str], int],
    *,
    rest_prefix: str,
) -> Iterator[Family]:
    """All of `NAMES` with their samples."""
    made = {name: Family(exposed(name, rest_prefix), kind, text) for name, (kind, text, _) in NAMES.items()}
    _fill_models(made, models)
    _fill_rest(made, rest)
    _fill_calls(made, calls, handled)
    yield from made.values()


def exposed(name: str, rest_prefix: str) -> str:
    """A name of `NAMES` under the prefix that the setting gives REST metrics."""
    return rest_prefix + name.removeprefix(REST_PREFIX) if name.startswith(REST_PREFIX) else name


def _fill_models(made: Mapping[str, Family], models: Iterable[ModelMetrics]) -> None:
    parallel = Histogram.of(DEFAULT)
    for metrics in models:
        labels = {"model": metrics.model, "version": metrics.version or "None"}
        made["model_infer_request_success_total"].value(labels, metrics.successes()[0])
        made["model_infer_request_failure_total"].value(labels, metrics.failures()[0])
        made["model_infer_request_duration"].summary(labels, metrics.request.count(), metrics.request.total / 1e9)
        lengths = metrics.queue_lengths
        if lengths is not None and lengths.count():
            labels = {"model_name": metrics.model, "model_version": metrics.version}
            made["batch_request_queue"].histogram(labels, lengths.counts, lengths.total)
            if metrics.parallel:
                parallel.merge(lengths)
    made["parallel_request_queue"].histogram({}, parallel.counts, parallel.total)


def _fill_rest(made: Mapping[str, Family], rest: RestTimes) -> None:
    for (path, method, code), durations in rest.ended.items():
        labels = {"app_name": _APP, "method": method, "path": path, "status_code": str(code)}
        made["rest_server_requests_total"].value(labels, durations.count())
        made["rest_server_request_duration_seconds"].histogram(labels, durations.counts, durations.total, unit=1e-9)
    for method, count in rest.in_progress.items():
        made["rest_server_requests_in_progress"].value({"app_name": _APP, "method": method}, count)


def _fill_calls(made: Mapping[str, Family], calls: GrpcTimes, handled: Mapping[tuple[str, str], int]) -> None:
    def labels(method: str) -> dict[str, str]:
        kind = "BIDI_STREAMING" if method in _STREAMS else "UNARY"
        return {"grpc_method": method, "grpc_service": calls.service, "grpc_type": kind}

    for name, counts in (
        ("grpc_server_started_total", calls.started),
        ("grpc_server_msg_received_total", calls.received),
        ("grpc_server_msg_sent_total", calls.sent),
    ):
        for method, count in counts.items():
            made[name].value(labels(method), count)
    for (method, code), count in handled.items():
        if method in calls.started:  # health and reflection are counted elsewhere
            made["grpc_server_handled_total"].value({**labels(method), "grpc_code": code}, count)
    for method, durations in calls.ended.items():
        made["grpc_server_handling_seconds"].histogram(labels(method), durations.counts, durations.total, unit=1e-9)
