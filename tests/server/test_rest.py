"""What paths mean: the REST surface called as the listener calls it, on models that are small coroutines.

The wire itself is `test_http`'s, bodies are the protocols' tests', and real models are in `tests/e2e`.
"""

from __future__ import annotations

import asyncio
import json
import time

import msgspec
import numpy as np
import pytest

from headrace.errors import ModelError, Overloaded
from headrace.monitoring import tracing
from headrace.monitoring.logs import request_id
from headrace.monitoring.metrics import Metrics
from headrace.payload import InferenceResponse, Route, RouteResponse, Signature, Tensor, TensorSpec
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
    def __init__(self, kind=Rest, **settings):
        self.models, self.loads, self.metrics = Models(), Loads(), Metrics()
        ready = Served(name="m", version="1", signature=SIGNATURE, infer=double, infer_stream=double_twice)
        self.models.put(ready)
        self.models.changed(ready, State.READY)
        broken = Served(name="broken", wanted=False)
        self.models.put(broken)
        self.models.changed(broken, State.UNAVAILABLE, "it was trained on a Friday")
        self.rest = kind(
            self.models,
            self.loads,
            RestSettings(**{"server_version": "9", "compress_min_bytes": 100, **settings}),
            statistics=lambda served: v2_control.Statistics(name=served.name, version=served.version),
            counts=self.metrics.http,
        )

    def add(self, name, *routes, version="", dialect="", state=State.READY, **fields):
        """A model with routes of its own, which answers what it was asked."""

        async def visit(request):
            said = {"model": name, "version": version, "route": request.route, "target": request.target}
            said |= {"parameters": dict(request.parameters), "body": request.body.decode(), "method": request.method}
            return RouteResponse(body=json.dumps(said).encode(), headers=(("Content-Type", "application/json"),))

        fields = {"infer": double, "signature": SIGNATURE, "visit": visit, **fields}
        served = Served(name=name, version=version, routes=routes, dialect=dialect, **fields)
        self.models.put(served)
        self.models.changed(served, state)
        return served

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


@pytest.mark.parametrize("dialect", ["mlserver", ""])
async def test_a_stream_of_one_answer_has_its_headers_inside_for_mlservers_clients(surface, dialect):
    """A model that does not stream answers one event, and MLServer's clients find the headers in it."""

    async def infer(request):
        answer = await double(request)
        return msgspec.structs.replace(answer, headers={"Ce-Id": "7"}, parameters={"a": 1})

    surface.add("once", dialect=dialect, infer=infer)
    reply = await surface.ask("POST", "/v2/models/once/infer_stream", body())
    (event,) = [json.loads(event.removeprefix(b"data: ")) async for event in reply.stream]
    assert event["parameters"] == ({"headers": {"Ce-Id": "7"}, "a": 1} if dialect else {"a": 1})


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


# -- the models' own routes --


def route(path, method="POST", name="handler"):
    return Route(method=method, path=path, name=name)


async def test_a_models_own_route_is_answered_by_the_model(surface):
    """The model gets the route's name, the path as it was sent, the segments that vary and the body."""
    surface.add("own", route("/explain/{what}"))
    reply = await surface.ask("POST", "/explain/a%20b?deep=1", b"why")
    assert (reply.status, reply.content_type) == (200, b"application/json")
    assert json.loads(reply.body) == {
        "model": "own",
        "version": "",
        "route": "handler",
        "target": "/explain/a%20b?deep=1",
        "parameters": {"what": "a b"},
        "body": "why",
        "method": "POST",
    }
    assert surface.metrics.http == {("/explain/{what}", "POST", 200): 1}


async def test_routes_come_and_go_with_their_model(surface):
    """A path is answered from load to unload, and not a request longer."""
    assert (await surface.ask("POST", "/explain", b"")).status == 404
    served = surface.add("own", route("/explain"))
    assert (await surface.ask("POST", "/explain", b"")).status == 200
    surface.models.changed(served, State.UNAVAILABLE, "its process ended")
    reply = await surface.ask("POST", "/explain", b"")
    assert (reply.status, b"its process ended" in reply.body) == (503, True)
    surface.models.forget(served)
    assert (await surface.ask("POST", "/explain", b"")).status == 404


async def test_another_method_of_a_models_route_is_not_allowed(surface):
    """405 names the methods that are, OPTIONS lists them, and HEAD asks as GET."""
    surface.add("own", route("/explain"), route("/look", "GET"))
    wrong = await surface.ask("DELETE", "/explain")
    assert (wrong.status, dict(wrong.headers)[b"allow"]) == (405, b"POST")
    asked = await surface.ask("OPTIONS", "/look")
    assert (asked.status, asked.body, dict(asked.headers)[b"allow"]) == (204, b"", b"GET")
    head = await surface.ask("HEAD", "/look")
    assert json.loads(head.body)["method"] == "GET"


async def test_options_of_our_own_paths_lists_their_methods(surface):
    """OPTIONS is answered without asking anybody."""
    asked = await surface.ask("OPTIONS", "/v2/models/m/infer")
    assert (asked.status, dict(asked.headers)[b"allow"]) == (204, b"POST")


async def test_of_several_models_the_first_by_name_answers(surface, caplog):
    """Two models with one path: one answers, each is at a path of its own, and the log says so once."""
    surface.add("zebra", route("/explain"))
    surface.add("ant", route("/explain"), version="2")
    surface.add("ant", route("/explain"), version="10")
    for _ in range(2):
        assert json.loads((await surface.ask("POST", "/explain")).body)["version"] == "10"
    assert [record.getMessage().split(" answers")[0] for record in caplog.records] == [
        "route POST /explain is claimed by several models: ant"
    ]
    zebra = await surface.ask("POST", "/v2/models/zebra/routes/explain?a=1")
    assert (json.loads(zebra.body)["model"], json.loads(zebra.body)["target"]) == ("zebra", "/explain?a=1")
    older = await surface.ask("POST", "/v2/models/ant/versions/2/routes/explain")
    assert json.loads(older.body)["version"] == "2"
    assert (await surface.ask("POST", "/v2/models/ant/versions/3/routes/explain")).status == 404
    assert (await surface.ask("POST", "/v2/models/m/routes/explain")).status == 404


async def test_our_own_paths_come_before_a_models(surface, caplog):
    """A model that claims a path of ours is not asked there, and the log says where it is."""
    surface.add("own", route("/v2/health/live", "GET"))
    for _ in range(2):
        assert json.loads((await surface.ask("GET", "/v2/health/live")).body) == {"live": True}
    (record,) = caplog.records
    assert "/v2/models/{model}/routes/v2/health/live" in record.getMessage()
    theirs = await surface.ask("GET", "/v2/models/own/routes/v2/health/live")
    assert json.loads(theirs.body)["model"] == "own"


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        pytest.param(RouteResponse(status=299, body=b"x"), 299, id="a status nobody registered"),
        pytest.param(RouteResponse(status=700), 500, id="no status"),
        pytest.param(RouteResponse(headers=(("x-a", "1\r\nx-b: 2"),)), 500, id="a header that is two"),
        pytest.param(RouteResponse(headers=(("x-a", "\u2713"),)), 500, id="a header beyond Latin-1"),
    ],
)
async def test_an_answer_of_a_model_is_checked(surface, answer, status):
    """What HTTP cannot carry is the model's failure, and never reaches the wire."""

    async def visit(request):
        return answer

    surface.add("own", route("/explain"), visit=visit)
    assert (await surface.ask("POST", "/explain")).status == status


async def test_a_status_that_the_model_chose_is_the_replys(surface):
    """Code of a model's own may end a request with any status of errors."""

    async def tea(request):
        raise ModelError("tea", status=418)

    surface.add("pot", infer=tea)
    reply = await surface.ask("POST", "/v2/models/pot/infer", body())
    assert (reply.status, json.loads(reply.body)) == (418, {"error": "tea"})


async def test_headers_of_an_answer_are_lower_cased_and_never_two(surface):
    """A model's headers reach the reply; those of the body and with line breaks do not."""

    async def infer(request):
        headers = {"X-Mine": "q", "Content-Length": "3", "X-Bad Name": "1", "X-Umlaut": "\u00fc"}
        if request.inputs[0].data.flat[0] == 2:
            headers["X-Split"] = "1\r\nset-cookie: a"
        return InferenceResponse(model_name="h", outputs=(), headers=headers)

    surface.add("h", infer=infer)
    reply = await surface.ask("POST", "/v2/models/h/infer", body())
    assert reply.headers == ((b"x-mine", b"q"), (b"x-umlaut", b"\xfc"))
    assert (await surface.ask("POST", "/v2/models/h/infer", body(2))).status == 500


async def test_documents_list_the_models_routes(surface):
    """The OpenAPI documents have the routes of all models, or of the one."""
    surface.add("own", route("/explain/{what}/{rest:path}"), route("/look", "GET"))
    for path, there in (
        ("/openapi.json", True),
        ("/v2/models/own/docs/dataplane.json", True),
        ("/v2/models/m/docs/dataplane.json", False),
    ):
        document = json.loads((await surface.ask("GET", path)).body)
        assert ("/explain/{what}/{rest}" in document["paths"], "/look" in document["paths"]) == (there, there)
    operation = json.loads((await surface.ask("GET", "/openapi.json")).body)["paths"]["/explain/{what}/{rest}"]["post"]
    assert [each["name"] for each in operation["parameters"]] == ["what", "rest"]


# -- settings and metadata --


@pytest.mark.parametrize("path", ["/proxy/v2/models/m", "/v2/models/m"], ids=["with the prefix", "without"])
async def test_a_root_path_is_stripped_where_it_is_there(path):
    """Behind a proxy the same paths answer, whether it strips its prefix or not."""
    surface = Surface(root_path="/proxy/")
    assert (await surface.ask("GET", path)).status == 200
    assert (await surface.ask("GET", "/proxyv2/models/m")).status == 404


async def test_documents_and_pages_show_the_root_path():
    """The document names the prefix as its server, and the page finds its document behind it."""
    surface = Surface(root_path="/proxy")
    surface.add("own", route("/explain"))
    document = json.loads((await surface.ask("GET", "/proxy/openapi.json")).body)
    assert document["servers"] == [{"url": "/proxy"}]
    assert b'"/proxy/v2/models/m/docs/dataplane.json"' in (await surface.ask("GET", "/proxy/v2/models/m/docs")).body
    reply = await surface.ask("POST", "/proxy/explain?a=1")
    assert json.loads(reply.body)["target"] == "/explain?a=1"


async def test_compression_can_be_off():
    """Nobody gets a compressed answer where the setting says so."""
    surface = Surface(compress=False)
    assert (await surface.ask("GET", "/openapi.json", accept_encoding="gzip")).headers == ()


async def test_a_stream_is_never_compressed():
    """Events go as they come, whatever the least size."""
    surface = Surface(compress_min_bytes=0)
    reply = await surface.ask("POST", "/v2/models/m/infer_stream", body(), accept_encoding="gzip")
    assert reply.headers == ()


async def test_server_metadata_names_what_the_settings_say():
    """Name, version and extensions are those of the settings, with the extensions that are built in."""
    surface = Surface(server_name="iris", server_version="7", server_extensions=("mine", "statistics"))
    metadata = json.loads((await surface.ask("GET", "/v2")).body)
    assert (metadata["name"], metadata["version"]) == ("iris", "7")
    assert metadata["extensions"] == [*v2_control.EXTENSIONS, "mine"]


async def test_what_a_settings_file_declares_holds_in_metadata(surface):
    """Declared members hold over the signature's, empty ones do not; warnings stand with the signature's."""
    declared = {"platform": "sk", "versions": ["a/1"], "inputs": [{"name": "x", "datatype": "FP64", "shape": [-1]}]}
    declared |= {"outputs": [], "parameters": {"content_type": "pd"}}
    surface.add("own", dialect="mlserver", declared=declared, warnings=("`warm_workers` is not honoured",))
    metadata = json.loads((await surface.ask("GET", "/v2/models/own")).body)
    assert {name: metadata[name] for name in declared if name != "outputs"} == {k: v for k, v in declared.items() if v}
    assert [each["name"] for each in metadata["outputs"]] == ["y"]
    assert metadata["properties"]["warnings"] == "`warm_workers` is not honoured"


async def test_metadata_for_clients_of_mlserver_has_every_member(surface):
    """Their clients find versions and parameters even where there are none; ours are spared them."""
    surface.add("own", dialect="mlserver")
    assert list(json.loads((await surface.ask("GET", "/v2/models/own")).body)) == [
        "name",
        "versions",
        "platform",
        "inputs",
        "outputs",
        "parameters",
    ]
    surface.add("plain")
    assert "parameters" not in json.loads((await surface.ask("GET", "/v2/models/plain")).body)


@pytest.mark.parametrize("sent", [b"", b"{}", b'{"ready": true}', b" "])
async def test_the_index_takes_any_form_of_asking(surface, sent):
    """No body, an empty object and the flag are all understood."""
    index = json.loads((await surface.ask("POST", "/v2/repository/index", sent)).body)
    assert {"name": "m", "version": "1", "state": "READY", "reason": ""} in index
    assert ("broken" in {each["name"] for each in index}) is (b"true" not in sent)


@pytest.mark.parametrize(
    "path",
    [
        f"{base}/docs{end}"
        for base in ("/v2", "/v2/models/m", "/v2/models/m/versions/1")
        for end in ("", "/dataplane.json")
    ],
)
async def test_documents_answer_where_mlserver_has_them(surface, path):
    """Pages and documents of the server, of a model and of a version answer under MLServer's paths."""
    assert (await surface.ask("GET", path)).status == 200
