"""MLServer's metrics: which paths it counts, and what REST and gRPC times become. Its answers were recorded from 1.7.1."""

from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from headrace.monitoring.metrics import Metrics
from headrace.monitoring.mlserver_metrics import path_of


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("/v2", "/v2"),
        ("//v2/", "/v2"),
        ("/v2/docs", "/v2/docs"),
        ("/v2/docs/dataplane.json", "/v2/docs/dataplane.json"),
        ("/v2/models/iris", "/v2/models/{model_name}"),
        ("/v2/models/iris/infer", "/v2/models/{model_name}/infer"),
        ("/v2/models/iris/generate", "/v2/models/{model_name}/generate"),
        ("/v2/models/iris/infer_stream", "/v2/models/{model_name}/infer_stream"),
        ("/v2/models/iris/docs", "/v2/models/{model_name}/docs"),
        ("/v2/models/iris/docs/dataplane.json", "/v2/models/{model_name}/docs/dataplane.json"),
        ("/v2/models/iris/versions/v1", "/v2/models/{model_name}/versions/{model_version}"),
        ("/v2/models/iris/versions/v1/infer", "/v2/models/{model_name}/versions/{model_version}/infer"),
        ("/v2/repository/index", "/v2/repository/index"),
        ("/v2/repository/models/iris/unload", "/v2/repository/models/{model_name}/unload"),
        ("/v2/health/ready", ""),
        ("/v2/health/live", ""),
        ("/nope", ""),
        ("/", ""),
        ("/v1/models/iris:predict", ""),
        ("/v2/models/iris/stats", ""),
        ("/v2/models/iris/infer/more", ""),
        ("/invocations", "/invocations"),
        ("/explain/17", "/explain/{row}"),
        ("/explain", ""),
    ],
)
def test_a_path_is_shown_as_mlserver_names_it(target, path):
    """Variable parts are named; health checks and paths it does not know are not counted; models' own routes are."""
    assert path_of(target, ["/invocations", "/explain/{row}"]) == path


def test_times_become_mlservers_rest_metrics():
    """Count, duration and what is in progress, by path, method and status, under the prefix that is set."""
    metrics = Metrics(mlserver_names=True, rest_prefix="edge")
    times = metrics.rest_times
    for code, nanoseconds in ((200, 4_000_000), (200, 60_000_000), (404, 1_000_000)):
        times.begin("POST")
        times.end("POST", "/v2/models/{model_name}/infer", code, nanoseconds)
    times.begin("GET")
    times.end("GET", "", 200, 5)
    times.begin("GET")
    found = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(metrics.render().decode())
        for sample in family.samples
        if sample.name.startswith(("edge", "rest_server"))
    }
    labels = (("method", "POST"), ("path", "/v2/models/{model_name}/infer"), ("status_code", "200"))
    app = ("app_name", "mlserver")
    assert found["edge_requests_total", (app, *labels)] == 2
    assert found["edge_request_duration_seconds_sum", (app, *labels)] == pytest.approx(0.064)
    assert found["edge_request_duration_seconds_bucket", (app, ("le", "0.005"), *labels)] == 1
    assert found["edge_requests_in_progress", (app, ("method", "GET"))] == 1
    assert found["edge_requests_in_progress", (app, ("method", "POST"))] == 0
    assert len({labels for name, labels in found if name == "edge_requests_total"}) == 2
    assert not any(name.startswith("rest_server") for name, _ in found)


def test_only_calls_of_the_inference_service_are_handled_for_mlserver():
    """Health checks share the table of counted calls and are not shown as calls of the inference service."""
    metrics = Metrics(mlserver_names=True)
    metrics.grpc_times.started["ModelInfer"] = 2
    metrics.grpc["ModelInfer", "OK"] = 1
    metrics.grpc["ModelInfer", "NOT_FOUND"] = 1
    metrics.grpc["Check", "OK"] = 9
    lines = [line for line in metrics.render().decode().splitlines() if line.startswith("grpc_server_handled_total")]
    service = 'grpc_service="inference.GRPCInferenceService",grpc_type="UNARY"'
    assert sorted(lines) == [
        f'grpc_server_handled_total{{grpc_code="NOT_FOUND",grpc_method="ModelInfer",{service}}} 1.0',
        f'grpc_server_handled_total{{grpc_code="OK",grpc_method="ModelInfer",{service}}} 1.0',
    ]
