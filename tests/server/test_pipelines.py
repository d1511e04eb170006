"""Pipelines, experiments, deployments of Seldon Core v1 and hosts of KServe's graphs on the REST surface.

The surface is called as the listener calls it; what they are made of is the tests' of `graph` and `routing`.
"""

from __future__ import annotations

import json
import time

import numpy as np
import pytest

from headrace.errors import InvalidRequest, NotSupported, RuntimeFailed
from headrace.monitoring.metrics import Metrics
from headrace.payload import InferenceResponse, Signature, Tensor, TensorSpec
from headrace.protocols import v2_control
from headrace.routing.shares import Candidate
from headrace.routing.split import Split
from headrace.server.http import HttpRequest
from headrace.server.mlserver import MlserverRest
from headrace.server.rest import Rest, RestSettings
from headrace.serving.models import Models, Served, State

SIGNATURE = Signature(
    platform="test",
    inputs=(TensorSpec(name="x", datatype="FP32", shape=(-1, 2)),),
    outputs=(TensorSpec(name="y", datatype="FP32", shape=(-1, 2)),),
)


def times(name, factor, **headers):
    async def infer(request):
        data = request.inputs[0].data * np.float32(factor)
        return InferenceResponse(
            model_name=name,
            id=request.id,
            outputs=(Tensor("y", "FP32", data),),
            headers={key.replace("_", "-"): value for key, value in headers.items()},
        )

    return infer


class Surface:
    def __init__(self, kind=Rest):
        self.models, self.metrics, self.told = Models(), Metrics(), []
        self.rest = kind(
            self.models,
            None,
            RestSettings(),
            statistics=lambda served: v2_control.Statistics(name=served.name, version=served.version),
            counts=self.metrics.http,
        )

    def put(self, name, infer=None, *, kind="model", state=State.READY, reason="", **fields):
        infer = infer or times(name, 2)
        served = Served(name=name, kind=kind, signature=SIGNATURE, infer=infer, wanted=False, **fields)
        self.models.put(served)
        self.models.changed(served, state, reason)
        return served

    def feedback(self, routing, reward, request):
        if "nobody" in routing:
            raise InvalidRequest("no router 'nobody'")
        self.told.append((dict(routing), reward, request))

    async def ask(self, method, path, body=b"", **headers):
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await self.rest(HttpRequest(method.encode(), path.encode(), named, content, time.monotonic() + 5))

    async def answer(self, method, path, body=b"", **headers):
        reply = await self.ask(method, path, body, **headers)
        return reply.status, json.loads(reply.body)


@pytest.fixture
def surface():
    """A model and a pipeline of the same name, a model, an experiment."""
    surface = Surface()
    surface.put("iris", times("iris", 2), version="1")
    surface.put("iris", times("iris", 3, headrace_routing="r=0"), kind="pipeline", feedback=surface.feedback)
    surface.put("other", times("other", 5))
    candidates = [Candidate(name, "1", 1, times(name, 7), f":{name}_1:") for name in ("a", "b")]
    split = Split("ab", candidates, seed=1)
    surface.put("ab", split.infer, kind="experiment", infer_stream=split.infer_stream)
    return surface


BODY = {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]}


def first(answer):
    return answer["outputs"][0]["data"][0]


@pytest.mark.parametrize(
    ("path", "header", "factor"),
    [
        ("/v2/models/iris/infer", None, 2),
        ("/v2/models/iris/infer", "iris", 2),
        ("/v2/models/iris/infer", "iris.model", 2),
        ("/v2/models/iris/infer", "iris.pipeline", 3),
        ("/v2/models/whatever/infer", "ab.experiment", 7),
        ("/v2/models/iris/versions/1/infer", "other", 5),
        ("/v2/models/iris/versions/1/infer", "iris", 2),
        ("/v2/models/iris.pipeline/infer", None, 3),
        ("/v2/pipelines/iris/infer", None, 3),
        ("/v2/pipelines/iris/infer", "iris.pipeline", 3),
        ("/v2/experiments/ab/infer", None, 7),
    ],
)
async def test_path_and_header_say_who_is_asked(surface, path, header, factor):
    """`seldon-model` names a model, a pipeline or an experiment over what the path names."""
    headers = {"seldon_model": header} if header else {}
    for _ in range(2):
        status, answer = await surface.answer("POST", path, BODY, **headers)
        assert (status, first(answer)) == (200, factor)
    status, answer = await surface.answer("POST", "/v2/models/iris/infer", BODY)
    assert first(answer) == 2


async def test_the_header_names_other_calls_too_but_none_without_a_name(surface):
    """Metadata, readiness and V1 follow it; health, the index and documents do not."""
    status, _ = await surface.answer("GET", "/v2/models/nobody/ready", seldon_model="iris.pipeline")
    assert status == 200
    status, answer = await surface.answer("GET", "/v2/models/nobody", seldon_model="other")
    assert (status, answer["name"]) == (200, "other")
    status, answer = await surface.answer(
        "POST", "/v1/models/iris:predict", {"instances": [[1, 2]]}, seldon_model="other"
    )
    assert (status, answer) == (200, {"predictions": [[5, 10]]})
    status, answer = await surface.answer("GET", "/v2/health/live", seldon_model="nobody")
    assert (status, answer) == (200, {"live": True})
    status, answer = await surface.answer("POST", "/v2/models/iris/infer", BODY, seldon_model="p.pipeline")
    assert (status, "pipeline 'p' is not found" in answer["error"]) == (404, True)


async def test_who_answered_is_told_those_who_ask_as_seldons_clients_do(surface):
    """`x-seldon-route` names model and version, or the pipeline, where the request has `seldon-model`; else nothing."""
    for name, route in {"iris.model": b":iris_1:", "other": b":other:", "iris.pipeline": b":iris.pipeline:"}.items():
        reply = await surface.ask("POST", "/v2/models/iris/infer", BODY, seldon_model=name)
        assert (b"x-seldon-route", route) in reply.headers
        reply = await surface.ask("POST", f"/v2/models/{name}/infer", BODY)
        assert b"x-seldon-route" not in dict(reply.headers)
    surface.put("alone", times("a", 7), kind="experiment")
    reply = await surface.ask("POST", "/v2/models/x/infer", BODY, seldon_model="alone.experiment")
    assert (b"x-seldon-route", b":a:") in reply.headers


async def test_answers_of_a_split_can_be_asked_for_again(surface):
    """The route in the answer's header, sent back, asks the same candidate, over REST and streams."""
    reply = await surface.ask("POST", "/v2/experiments/ab/infer", BODY)
    ((_, route),) = reply.headers
    for _ in range(10):
        again = await surface.ask("POST", "/v2/experiments/ab/infer", BODY, x_seldon_route=route.decode())
        assert again.headers == ((b"x-seldon-route", route),)
    stream = await surface.ask("POST", "/v2/experiments/ab/infer_stream", BODY, x_seldon_route=route.decode())
    assert stream.headers == ((b"x-seldon-route", route),)
    assert len([part async for part in stream.stream]) == 1


@pytest.mark.parametrize("kind", [Rest, MlserverRest])
async def test_readiness_says_what_a_pipeline_waits_for(kind):
    """200 when ready, 404 when nobody knows it, 424 with the reason otherwise."""
    surface = Surface(kind)
    surface.put("p", kind="pipeline")
    surface.put("q", kind="pipeline", state=State.UNAVAILABLE, reason="model 'm' is not ready")
    assert await surface.answer("GET", "/v2/pipelines/p/ready") == (200, {"name": "p", "ready": True})
    assert (await surface.answer("GET", "/v2/pipelines/nobody/ready"))[0] == 404
    for path in ("/v2/pipelines/q/ready", "/v2/models/q/ready"):
        status, answer = await surface.answer("GET", path)
        assert (status, answer["error"]) == (424, "pipeline 'q' is not ready: model 'm' is not ready")


async def test_lists_and_index_tell_them_apart(surface):
    """Names alone in their own lists, keys that can be asked in the lists of all."""
    assert await surface.answer("GET", "/v2/pipelines") == (200, {"pipelines": ["iris"]})
    assert await surface.answer("GET", "/v2/experiments") == (200, {"experiments": ["ab"]})
    _, answer = await surface.answer("GET", "/v2/models")
    assert answer == {"models": ["ab.experiment", "iris", "iris.pipeline", "other"]}
    _, index = await surface.answer("POST", "/v2/repository/index")
    assert {each["name"] for each in index} == set(answer["models"])
    for each in index:
        assert (await surface.answer("GET", f"/v2/models/{each['name']}/ready"))[0] == 200
    _, statistics = await surface.answer("GET", "/v2/models/stats")
    assert {each["name"] for each in statistics["model_stats"]} == {"iris", "other"}


async def test_metadata_is_the_signatures(surface):
    """A pipeline's inputs and outputs are real, and versions are its own, not those of a model of its name."""
    status, answer = await surface.answer("GET", "/v2/pipelines/iris")
    assert (status, answer["name"], answer["inputs"][0]["name"]) == (200, "iris", "x")
    assert "versions" not in answer


async def test_documents_name_them_by_their_own_paths(surface):
    """Examples of a pipeline stand under its paths, those of models under theirs."""
    _, document = await surface.answer("GET", "/openapi.json")
    paths = document["paths"]

    def examples(path):
        return set(paths[path]["post"]["requestBody"]["content"]["application/json"]["examples"])

    assert examples("/v2/pipelines/{pipeline}/infer") == {"iris"}
    assert examples("/v2/experiments/{experiment}/infer") == {"ab"}
    assert examples("/v2/models/{model}/infer") == {"iris", "other"}


# -- feedback --


async def test_feedback_reaches_the_pipeline(surface):
    """Routing, reward and request arrive as they were sent."""
    status, answer = await surface.answer(
        "POST", "/v2/pipelines/iris/feedback", {"reward": 1, "routing": {"r": "0"}, "request": {**BODY, "id": "a"}}
    )
    assert (status, answer) == (200, {"name": "iris", "taken": True})
    ((routing, reward, request),) = surface.told
    assert (routing, reward, request.id, request.inputs[0].data.tolist()) == ({"r": "0"}, 1.0, "a", [[1, 2]])


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/v2/pipelines/iris/feedback", {"reward": "x"}, 400),
        ("/v2/pipelines/iris/feedback", {"reward": 1, "routing": {"nobody": "0"}}, 400),
        ("/v2/pipelines/nobody/feedback", {"reward": 1}, 404),
        ("/v2/pipelines/plain/feedback", {"reward": 1}, 501),
        ("/v2/experiments/ab/feedback", {"reward": 1}, 404),
    ],
)
async def test_feedback_that_cannot_be_taken_says_why(surface, path, body, status):
    """Nobody learns from a mistake."""
    surface.put("plain", kind="pipeline")
    assert (await surface.answer("POST", path, body))[0] == status
    assert not surface.told


# -- Seldon Core v1 --

MESSAGE = {"data": {"ndarray": [[1, 2]]}}


@pytest.mark.parametrize(
    ("path", "factor"),
    [
        ("/seldon/default/iris/api/v1.0/predictions", 3),
        ("/seldon/default/iris/api/v0.1/predictions", 3),
        ("/seldon/other/other/api/v1.0/predictions", 5),
        ("/seldon/default/ab/api/v1.0/predictions", 7),
        ("/seldon/default/iris.model/api/v1.0/predictions", 2),
    ],
)
async def test_deployments_are_found_by_their_name(surface, path, factor):
    """An experiment before a pipeline before a model."""
    status, answer = await surface.answer("POST", path, MESSAGE)
    assert (status, answer["data"]["ndarray"]) == (200, [[factor, 2 * factor]])


async def test_a_prediction_has_its_meta_and_headers(surface):
    """The puid comes back in body and header, routing as numbers, and the path says who answered."""
    reply = await surface.ask("POST", "/seldon/n/iris/api/v1.0/predictions", {**MESSAGE, "meta": {"puid": "p"}})
    assert json.loads(reply.body)["meta"] == {"puid": "p", "routing": {"r": 0}, "requestPath": {"iris": "test"}}
    assert dict(reply.headers)[b"seldon-puid"] == b"p"
    reply = await surface.ask("POST", "/seldon/n/ab/api/v1.0/predictions", MESSAGE, seldon_puid="q")
    meta = json.loads(reply.body)["meta"]
    assert (meta["puid"], list(meta["requestPath"].values())) == ("q", ["1"])


async def test_bare_paths_are_for_one_deployment(surface):
    """The graph there is, the only endpoint, or the one that the header names; else the error lists all."""
    status, answer = await surface.answer("POST", "/api/v1.0/predictions", MESSAGE)
    assert (status, "iris.pipeline" in answer["status"]["info"]) == (404, True)
    status, answer = await surface.answer("POST", "/api/v1.0/predictions", MESSAGE, seldon_model="other")
    assert answer["data"]["ndarray"] == [[5, 10]]
    surface.put("g", times("g", 11), kind="pipeline", graph=True)
    status, answer = await surface.answer("POST", "/api/v0.1/predictions", MESSAGE)
    assert answer["data"]["ndarray"] == [[11, 22]]
    alone = Surface()
    alone.put("m", times("m", 13))
    status, answer = await alone.answer("POST", "/api/v1.0/predictions", MESSAGE)
    assert answer["data"]["ndarray"] == [[13, 26]]


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/seldon/n/iris/v2/models/classifier/infer", BODY),
        ("POST", "/seldon/n/iris/v2/models/infer", BODY),
        ("POST", "/seldon/n/iris/v1/models/classifier:predict", {"instances": [[1, 2]]}),
    ],
)
async def test_other_protocols_below_the_prefix_ask_the_deployment(surface, method, path, body):
    """Whatever the model in the path is called."""
    status, answer = await surface.answer(method, path, body)
    assert status == 200
    assert (first(answer) if "outputs" in answer else answer["predictions"][0][0]) == 3


async def test_health_and_metadata_of_deployments(surface):
    """A deployment says whether it is ready, what it takes, and so does a model of it."""
    surface.put("q", kind="pipeline", state=State.UNAVAILABLE, reason="model 'm' is not ready")
    for path in ("status", "status/iris", "health/status"):
        status, answer = await surface.answer("GET", f"/seldon/n/iris/api/v1.0/{path}")
        assert (status, answer["status"]["status"]) == (200, "SUCCESS")
    status, answer = await surface.answer("GET", "/seldon/n/q/api/v1.0/status")
    assert (status, answer["status"]["status"]) == (503, "FAILURE")
    status, answer = await surface.answer("GET", "/seldon/n/iris/api/v1.0/metadata")
    assert (answer["name"], answer["graphinputs"][0]["schema"]) == ("iris", {"names": ["x"], "shape": [2]})
    status, answer = await surface.answer("GET", "/seldon/n/iris/api/v1.0/metadata/other")
    assert (answer["name"], answer["platform"]) == ("other", "test")
    assert (await surface.answer("GET", "/seldon/n/iris/v2/models/other/ready"))[0] == 200
    status, answer = await surface.answer("GET", "/seldon/n/iris/v2/models/classifier")
    assert answer["name"] == "iris"


async def test_metadata_of_a_node(surface):
    """A node's model has the deployment's name before its own."""
    graph(surface, "dep")
    surface.put("dep-node", times("dep-node", 2), version="3", kind="model")
    status, answer = await surface.answer("GET", "/seldon/n/dep/api/v1.0/metadata/node")
    assert (status, answer["name"], answer["versions"]) == (200, "node", ["3"])


async def test_a_graph_in_which_nobody_learns_takes_feedback_too(surface):
    """Clients of Seldon Core v1 tell every deployment what an answer was worth."""
    graph(surface, "dep")
    body = {"request": {"data": {"ndarray": [[1, 2]]}}, "reward": 1}
    status, answer = await surface.answer("POST", "/seldon/n/dep/api/v1.0/feedback", body)
    assert (status, answer["status"]["status"]) == (200, "SUCCESS")


async def test_feedback_of_seldons_form_reaches_the_pipeline(surface):
    """Routing comes from the answer's meta."""
    body = {"request": MESSAGE, "response": {"meta": {"routing": {"r": 0}}}, "reward": 1.0}
    status, answer = await surface.answer("POST", "/seldon/n/iris/api/v1.0/feedback", body)
    assert (status, answer["status"]["status"]) == (200, "SUCCESS")
    ((routing, reward, request),) = surface.told
    assert (routing, reward, request.inputs[0].data.tolist()) == ({"r": "0"}, 1.0, [[1, 2]])


@pytest.mark.parametrize(
    ("path", "body", "status", "reason"),
    [
        ("/seldon/n/iris/api/v1.0/predictions", b"{", 400, "MICROSERVICE_BAD_DATA"),
        ("/seldon/n/iris/api/v1.0/predictions", b"", 400, "MICROSERVICE_BAD_DATA"),
        ("/seldon/n/nobody/api/v1.0/predictions", MESSAGE, 404, "MICROSERVICE_BAD_DATA"),
        ("/seldon/n/broken/api/v1.0/predictions", MESSAGE, 500, "MICROSERVICE_INTERNAL_ERROR"),
        ("/seldon/n/other/api/v1.0/feedback", {"reward": 1}, 501, "MICROSERVICE_INTERNAL_ERROR"),
    ],
)
async def test_errors_of_deployments_have_seldons_envelope(surface, path, body, status, reason):
    """The status is that of any other protocol."""

    async def broken(request):
        raise RuntimeFailed("it broke")

    surface.put("broken", broken)
    code, answer = await surface.answer("POST", path, body)
    assert (code, answer["status"]["reason"], answer["status"]["code"]) == (status, reason, -1)


# -- KServe's InferenceGraph --


def graph(surface, name, infer=None, **fields):
    surface.put(name, infer or times(name, 2), kind="pipeline", graph=True, **fields)


@pytest.mark.parametrize(
    ("path", "host"),
    [
        ("/", "g.default.example.com"),
        ("/", "g-default.example.com:8080"),
        ("/any/path", "g.default.svc.cluster.local"),
        ("/any/path?x=1", "G-default.example.com"),
        ("/serving/default/g", "localhost"),
        ("/", "localhost"),
    ],
)
async def test_a_graphs_host_answers_any_path(surface, path, host):
    """By name and namespace; without a host of its own, by path, or at the root where it is the only one."""
    graph(surface, "g")
    body = {"instances": [[1, 2]], "temperature": 3}
    assert await surface.answer("POST", path, body, host=host) == (200, {"predictions": [[2, 4]]})
    status, answer = await surface.answer("POST", path, BODY, host=host)
    assert (status, answer["outputs"][0]["data"]) == (200, [2, 4])


async def test_the_longest_name_that_fits_a_host_is_meant(surface):
    """`a-b-default` is graph `a-b`'s host, not that of graph `a` in a namespace of `b-default`."""
    graph(surface, "a", times("a", 2))
    graph(surface, "a-b", times("a-b", 3))
    body = {"instances": [[1, 2]]}
    assert (await surface.answer("POST", "/", body, host="a-b-default.example"))[1] == {"predictions": [[3, 6]]}
    assert (await surface.answer("POST", "/", body, host="a-default.example"))[1] == {"predictions": [[2, 4]]}
    assert (await surface.answer("POST", "/", body, host="localhost"))[0] == 404


async def test_without_graphs_nothing_is_different(surface):
    """The root takes no POST, unknown paths are unknown, and so they are beside a graph for other methods."""
    for _ in range(2):
        assert (await surface.answer("POST", "/any/path", BODY, host="iris.default"))[0] == 404
        assert (await surface.answer("GET", "/any/path", host="g.default"))[0] == 404
        assert await surface.answer("GET", "/", host="g.default") == (200, {"status": "alive"})
        if "g.pipeline" not in {served.key for served in surface.models}:
            assert (await surface.answer("POST", "/", BODY, host="g.default"))[0] == 405
        graph(surface, "g")
    assert (await surface.answer("POST", "/v2/models/iris/infer", BODY, host="g.default"))[1]["model_name"] == "iris"


async def test_an_ensemble_is_answered_by_step(surface):
    """Each step's tensors under its name, as predictions of their own."""

    async def ensemble(request):
        data = request.inputs[0].data
        outputs = (Tensor("one.y", "FP32", data), Tensor("two.y", "FP32", data * 2), Tensor("two.z", "FP32", data))
        return InferenceResponse(model_name="g", outputs=outputs)

    graph(surface, "g", ensemble)
    status, answer = await surface.answer("POST", "/serving/n/g", {"instances": [[1, 2]]})
    assert (status, answer) == (
        200,
        {"one": {"predictions": [[1, 2]]}, "two": {"predictions": [{"y": [2, 4], "z": [1, 2]}]}},
    )


async def test_a_switch_without_a_match_is_not_found(surface):
    """In KServe's words; other failures in the same form with their own status."""
    graph(surface, "g", times("g", 1, headrace_routing="root="))
    status, answer = await surface.answer("POST", "/serving/n/g", {"instances": [[1, 2]]})
    assert (status, answer) == (
        404,
        {"error": "Failed to process request", "cause": "None of the routes matched with the switch condition"},
    )

    async def unable(request):
        raise NotSupported("cannot")

    graph(surface, "h", unable)
    status, answer = await surface.answer("POST", "/serving/n/h", {"instances": [[1, 2]]})
    assert (status, answer["cause"]) == (501, "cannot")
    status, answer = await surface.answer("POST", "/serving/n/h", b"{")
    assert (status, answer["error"]) == (400, "Failed to process request")
