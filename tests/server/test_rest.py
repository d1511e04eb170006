"""What paths mean: the REST surface called as the listener calls it, on models that are small coroutines.

The wire itself is `test_http`'s, bodies are the protocols' tests', and real models are in `tests/e2e`.
"""

from __future__ import annotations

import asyncio
import json
import time

import numpy as np
import pytest

from headrace.errors import Overloaded
from headrace.monitoring import tracing
from headrace.monitoring.logs import request_id
from headrace.monitoring.metrics import Metrics
from headrace.payload import InferenceResponse, Signature, Tensor, TensorSpec
from headrace.protocols import routes, v2_control
from headrace.server.http import HttpRequest
from headrace.server.rest import Rest, RestSettings
from headrace.serving.models import Models, Served, State

SIGNATURE = Signature(
    platform="test",
    inputs=(TensorSpec(name="x", datatype="FP32", shape=(-1, 2)),),
    outputs=(TensorSpec(name="y", datatype="FP32", shape=(-1, 2), labels=("no", "yes")),),
)


async def double(request):
    (tensor,) = request.inputs
    if tensor.data.size and tensor.data.flat[0] == 13:
        raise Overloaded("the queue is full", retry_after_seconds=2.4)
    if tensor.data.size and tensor.data.flat[0] == 14:
        raise ZeroDivisionError("secret")
    return InferenceResponse(
        model_name="m", model_version="1", id=request.id, outputs=(Tensor("y", "FP32", tensor.data * np.float32(2)),)
    )


async def double_twice(request):
    yield await double(request)
    if request.inputs[0].data.flat[0] == 15:
        raise Overloaded("no more")
    yield await double(request)


class Loads:
    """A repository that notes what it is asked."""

    def __init__(self):
        self.asked = []

    async def load(self, name, parameters):
        self.asked.append(("load", name, dict(parameters)))

    async def unload(self, name, *, unload_dependents=False):
        self.asked.append(("unload", name, unload_dependents))


class Surface:
    def __init__(self):
        self.models, self.loads, self.metrics = Models(), Loads(), Metrics()
        ready = Served(name="m", version="1", signature=SIGNATURE, infer=double, infer_stream=double_twice)
        self.models.put(ready)
        self.models.changed(ready, State.READY)
        broken = Served(name="broken", wanted=False)
        self.models.put(broken)
        self.models.changed(broken, State.UNAVAILABLE, "it was trained on a Friday")
        self.rest = Rest(
            self.models,
            self.loads,
            RestSettings(server_version="9", compress_min_bytes=100),
            statistics=lambda served: v2_control.Statistics(name=served.name, version=served.version),
            counts=self.metrics.http,
        )

    async def ask(self, method, path, body=b"", **headers):
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        request = HttpRequest(method.encode(), path.encode(), named, body, time.monotonic() + 5)
        return await self.rest(request)


@pytest.fixture
def surface():
    return Surface()


def body(first=1.0, **rest):
    return json.dumps(
        {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [first, 2.0]}], **rest}
    ).encode()


async def test_infer_answers_under_name_and_version(surface):
    """The same model answers with and without its version, and echoes the id."""
    for path in ("/v2/models/m/infer", "/v2/models/m/versions/1/infer"):
        reply = await surface.ask("POST", path, body(id="a"))
        answer = json.loads(reply.body)
        assert (reply.status, answer["id"], answer["outputs"][0]["data"]) == (200, "a", [2.0, 4.0])


@pytest.mark.parametrize(
    ("method", "path", "sent", "status", "text"),
    [
        pytest.param("POST", "/v2/models/nobody/infer", body(), 404, "nobody", id="unknown model"),
        pytest.param("POST", "/v2/models/m/versions/9/infer", body(), 404, "9", id="unknown version"),
        pytest.param("POST", "/v2/models/broken/infer", body(), 503, "Friday", id="not ready, with its reason"),
        pytest.param("POST", "/v2/models/m/infer", b"{", 400, "JSON", id="not JSON"),
        pytest.param("POST", "/v2/models/m/infer", body(13), 503, "queue", id="queue full"),
        pytest.param("POST", "/v2/models/m/infer", body(14), 500, "ZeroDivisionError", id="a defect"),
        pytest.param("GET", "/v2/models/m/infer", b"", 405, "POST", id="wrong method"),
        pytest.param("GET", "/v3", b"", 404, "/v3", id="unknown path"),
        pytest.param("GET", "/v2/models/m/nonsense", b"", 404, "nonsense", id="unknown path of a model"),
        pytest.param("POST", "/v1/models/m:explain", b"{}", 404, "explainer", id="no explainer"),
        pytest.param("POST", "/v1/models/nobody:predict", b"{}", 404, "nobody", id="unknown model over V1"),
        pytest.param("GET", "/v2/models/nobody", b"", 404, "nobody", id="metadata of an unknown model"),
        pytest.param("GET", "/v2/models/nobody/stats", b"", 404, "nobody", id="statistics of an unknown model"),
        pytest.param("POST", "/v2/repository/index", b'{"ready": 1}', 400, "ready", id="index with a wrong flag"),
        pytest.param(
            "POST", "/v2/models/m/infer", body(parameters={"timeout": -1}), 400, "timeout", id="negative timeout"
        ),
    ],
)
async def test_an_error_is_an_object_with_its_text_and_status(surface, method, path, sent, status, text):
    """Every failure has the one form, names the thing, and shows nothing of ours."""
    reply = await surface.ask(method, path, sent)
    error = json.loads(reply.body)
    assert (reply.status, list(error)) == (status, ["error"])
    assert text in error["error"]
    assert "secret" not in error["error"]


async def test_a_full_queue_says_when_to_come_back(surface):
    """503 for a full queue carries Retry-After in whole seconds."""
    reply = await surface.ask("POST", "/v2/models/m/infer", body(13))
    assert (b"retry-after", b"2") in reply.headers


async def test_a_header_length_that_is_no_number_is_refused(surface):
    """Inference-Header-Content-Length must be a number."""
    reply = await surface.ask("POST", "/v2/models/m/infer", body(), inference_header_content_length="many")
    assert reply.status == 400
    assert b"many" in reply.body


async def test_the_binary_form_goes_both_ways(surface):
    """Bytes in and bytes out, with the length of the JSON in the header."""
    tensor = {"name": "x", "shape": [1, 2], "datatype": "FP32", "parameters": {"binary_data_size": 8}}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    sent = head + np.array([3, 4], np.float32).tobytes()
    reply = await surface.ask("POST", "/v2/models/m/infer", sent, inference_header_content_length=str(len(head)))
    assert (reply.status, reply.content_type) == (200, b"application/octet-stream")
    length = int(dict(reply.headers)[b"inference-header-content-length"])
    assert np.frombuffer(reply.body[length:], np.float32).tolist() == [6, 8]


async def test_an_output_may_be_asked_for_as_classes(surface):
    """The classification extension shows the model's own labels."""
    asked = body(outputs=[{"name": "y", "parameters": {"classification": 1}}])
    reply = await surface.ask("POST", "/v2/models/m/infer", asked)
    (output,) = json.loads(reply.body)["outputs"]
    assert output["data"] == ["4.000000:1:yes"]


async def test_a_requests_own_timeout_becomes_its_deadline(surface):
    """The parameter `timeout`, in microseconds, is a deadline that the model sees and the listener enforces."""
    seen = []

    async def look(request):
        seen.append(request.deadline)
        return InferenceResponse(model_name="m", outputs=())

    surface.models.find("m").infer = look
    before = time.monotonic()
    request = HttpRequest(b"POST", b"/v2/models/m/infer", {}, body(parameters={"timeout": 50_000}), before + 60)
    await surface.rest(request)
    assert before + 0.04 < seen[0] < before + 1
    assert request.deadline == seen[0]


async def test_a_stream_is_events_and_an_error_in_it_is_the_last(surface):
    """Each answer is an event; what goes wrong after the first answer is told in an event too."""
    reply = await surface.ask("POST", "/v2/models/m/infer_stream", body(15))
    assert reply.content_type.startswith(b"text/event-stream")
    events = [json.loads(event.removeprefix(b"data: ")) async for event in reply.stream]
    assert [list(event) for event in events] == [["model_name", "model_version", "outputs"], ["error"]]


async def test_an_error_before_the_first_event_has_its_status(surface):
    """A stream that cannot begin is an ordinary error."""
    reply = await surface.ask("POST", "/v2/models/m/infer_stream", body(13))
    assert (reply.status, reply.stream) == (503, None)


@pytest.mark.parametrize("path", ["/v2/models/m/generate", "/v2/models/m/versions/1/generate_stream"])
async def test_generate_is_another_name_of_infer(surface, path):
    """MLServer's paths answer to the same body as infer and infer_stream, and count as those."""
    infer = path.replace("generate", "infer")
    named, plain = await surface.ask("POST", path, body(15)), await surface.ask("POST", infer, body(15))
    assert (named.status, named.content_type, named.body) == (200, plain.content_type, plain.body)


async def test_health_and_readiness_follow_the_models(surface):
    """The server is ready while every wanted model is; an unwanted one does not count."""
    assert (await surface.ask("GET", "/v2/health/live")).status == 200
    assert (await surface.ask("GET", "/v2/health/ready")).status == 200
    assert (await surface.ask("GET", "/v2/models/broken/ready")).status == 503
    surface.models.find("broken").wanted = True
    assert (await surface.ask("GET", "/v2/health/ready")).status == 503


async def test_load_and_unload_reach_the_repository(surface):
    """The repository is asked by name, with the parameters of the body."""
    await surface.ask("POST", "/v2/repository/models/a%20b/load", b'{"parameters": {"config": "{}"}}')
    await surface.ask("POST", "/v2/repository/models/m/unload", b'{"parameters": {"unload_dependents": true}}')
    assert surface.loads.asked == [("load", "a b", {"config": "{}"}), ("unload", "m", True)]


async def test_large_answers_are_compressed_for_who_accepts(surface):
    """Below the least size, or unasked, an answer goes as it is."""
    plain = await surface.ask("GET", "/openapi.json")
    packed = await surface.ask("GET", "/openapi.json", accept_encoding="gzip")
    small = await surface.ask("GET", "/v2/health/live", accept_encoding="gzip")
    assert (b"content-encoding", b"gzip") in packed.headers
    assert len(packed.body) < len(plain.body)
    assert small.headers == ()


async def test_requests_are_counted_by_route_not_by_path(surface):
    """Paths that callers make up share one label."""
    for path in ("/made/up", "/other"):
        await surface.ask("GET", path)
    await surface.ask("GET", "/v2/models/nobody")
    await surface.ask("GET", "/v2/models/m")
    assert surface.metrics.http == {
        ("unknown", "GET", 404): 2,
        ("/v2/models/{model}", "GET", 404): 1,
        ("/v2/models/{model}", "GET", 200): 1,
    }


async def test_a_line_of_the_access_log_says_who_asked_what_and_how_it_went(surface, caplog):
    """With access_log, each request leaves one line with its path, status, duration and id; without, none."""
    import logging

    caplog.set_level(logging.INFO, logger="headrace.access")
    logging.getLogger("headrace").propagate = True
    await surface.ask("GET", "/v2/health/live")
    assert not caplog.records
    surface.rest._settings = RestSettings(access_log=True)
    await surface.ask("GET", "/v2/models/nobody", x_request_id="r-7")
    (record,) = caplog.records
    assert record.fields["status"] == 404
    assert record.fields["milliseconds"] >= 0
    assert record.getMessage().startswith("GET /v2/models/nobody 404 ")
    assert request_id.get() == "r-7"


async def test_a_traced_request_leaves_a_span_for_each_step_and_carries_its_trace(surface):
    """With tracing, parse and render are spans under the caller's trace, an error marks the request's own, and the reply
    says where the trace goes on.
    """
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter = InMemorySpanExporter()
    traces = tracing.Tracing(endpoint="", sample_ratio=1.0, service_name="test", exporter=exporter)
    surface.rest._traces = traces
    caller = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    well = await surface.ask("POST", "/v2/models/m/infer", body(), traceparent=caller)
    ill = await surface.ask("POST", "/v2/models/m/infer", body(13), traceparent=caller)
    traces.close()
    assert (well.status, ill.status) == (200, 503)
    (context,) = [value.decode() for name, value in well.headers if name == b"traceparent"]
    assert context.split("-")[1] == caller.split("-")[1]
    assert context != caller
    spans = exporter.get_finished_spans()
    assert [span.name for span in spans] == ["parse", "render", "infer", "parse", "infer"]
    assert {f"{span.context.trace_id:032x}" for span in spans} == {caller.split("-")[1]}
    assert [span.status.is_ok for span in spans if span.name == "infer"] == [True, False]


async def test_the_inline_walk_never_waits(surface):
    """A model that answers inline is answered in one step of the coroutine, so no task is needed."""
    request = HttpRequest(b"POST", b"/v2/models/m/infer", {}, body(), time.monotonic() + 5)
    walk = surface.rest(request)
    with pytest.raises(StopIteration) as done:
        walk.send(None)
    assert done.value.value.status == 200
    await asyncio.sleep(0)


@pytest.mark.parametrize("route", routes.ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_every_documented_route_is_dispatched(surface, route):
    """The paths of the OpenAPI document are those that the server answers, under the same names."""
    path = route.path.replace("{model}", "m").replace("{version}", "1")
    target = surface.rest._resolve((route.method.encode(), path.encode()))
    assert (target.route, target.allow) == (route.path, "")
