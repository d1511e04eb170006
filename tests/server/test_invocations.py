"""The container contract: `/ping`, `/health`, `/version`, `/invocations` of MLflow's and of any other model.

Matrix: who is asked (the only model, a path, a query, SageMaker's headers, a setting); readiness; media types both
ways; forms of errors; a model's own routes of the same paths; MLServer's faithful mode.
"""

from __future__ import annotations

import io
import json
import time

import numpy as np
import pytest

from headrace.errors import InvalidRequest, NotFound, Overloaded
from headrace.monitoring.metrics import Metrics
from headrace.payload import InferenceResponse, Route, RouteResponse, Signature, Tensor, TensorSpec
from headrace.protocols import v2_control
from headrace.server.http import HttpRequest
from headrace.server.invocations import Asked, asked, choose
from headrace.server.mlserver import MlserverRest
from headrace.server.rest import Rest, RestSettings
from headrace.serving.models import Models, Served, State

FLOW = Signature(
    platform="mlflow", inputs=(TensorSpec(name="a", datatype="FP64", shape=(-1,)),), libraries={"mlflow": "3.1"}
)
ONNX = Signature(platform="onnx", inputs=(TensorSpec(name="x", datatype="FP32", shape=(-1, 2)),))
SENT = b'{"inputs": {"a": [1, 2]}}'
ROWS = b'{"instances": [[1, 2], [3, 4]]}'


async def add_up(request):
    tensor = request.inputs[0].data
    if tensor.flat[0] == 13:
        raise Overloaded("the queue is full")
    if tensor.flat[0] == 14:
        raise ZeroDivisionError("secret")
    return InferenceResponse(model_name="flow", outputs=(Tensor("predict", "FP64", np.add(tensor, 1.0)),))


async def sums(request):
    rows = request.inputs[0].data.sum(axis=1).astype(np.float32)
    return InferenceResponse(model_name="plain", outputs=(Tensor("y", "FP32", rows),))


class Surface:
    def __init__(self, kind=Rest, **settings):
        self.models = Models()
        self.rest = kind(
            self.models,
            None,
            RestSettings(server_version="9", **settings),
            statistics=lambda served: v2_control.Statistics(name=served.name, version=served.version),
            counts=Metrics().http,
        )

    def add(self, name, *, state=State.READY, **fields):
        served = Served(name=name, **fields)
        self.models.put(served)
        self.models.changed(served, state)
        return served

    def flow(self, name="flow", **fields):
        return self.add(name, signature=FLOW, infer=add_up, **fields)

    def plain(self, name="plain", **fields):
        return self.add(name, signature=ONNX, infer=sums, **fields)

    async def ask(self, method, path, body=b"", **headers):
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.rest(HttpRequest(method.encode(), path.encode(), named, body, time.monotonic() + 5))


@pytest.fixture
def surface():
    return Surface()


async def test_a_model_of_any_runtime_is_asked(surface):
    """The only model is asked, whatever it is, and its one output is a list as `mlflow models serve` gives it."""
    surface.plain()
    reply = await surface.ask("POST", "/invocations", ROWS, content_type="application/json")
    assert (reply.status, reply.content_type, reply.body) == (200, b"application/json", b'{"predictions":[3.0,7.0]}')


async def test_an_mlflow_model_is_asked(surface):
    """MLflow's model answers at the root and below its own path, and `/version` is MLflow's."""
    surface.flow()
    assert (await surface.ask("POST", "/invocations", SENT)).body == b'{"predictions":[2.0,3.0]}'
    reply = await surface.ask("POST", "/v2/models/flow/invocations", b"a\n1\n", content_type="text/csv")
    assert reply.body == b'{"predictions":[2.0]}'
    assert (await surface.ask("GET", "/version")).body == b"3.1"
    assert (await surface.ask("GET", "/invocations")).status == 405
    assert "/invocations" in json.loads((await surface.ask("GET", "/openapi.json")).body)["paths"]


async def test_version_is_the_servers_without_an_mlflow_model(surface):
    """Where nothing is MLflow's, the server says its own version."""
    surface.plain()
    assert (await surface.ask("GET", "/version")).body == b"9"


@pytest.mark.parametrize("path", ["/ping", "/health"])
async def test_ping_follows_readiness(surface, path):
    """A container is not asked before its models are loaded: 503, then 200, with the body of MLflow's server."""
    served = surface.plain(state=State.LOADING)
    assert (await surface.ask("GET", path)).status == 503
    surface.models.changed(served, State.READY)
    reply = await surface.ask("GET", path)
    assert (reply.status, reply.body) == (200, b"\n")


async def test_without_a_model_there_is_nobody_to_ask(surface):
    """The error has MLflow's form."""
    reply = await surface.ask("POST", "/invocations", ROWS)
    assert (reply.status, json.loads(reply.body)) == (
        404,
        {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no model is loaded"},
    )


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        pytest.param("/invocations?model=plain", {}, id="query"),
        pytest.param("/v2/models/plain/invocations", {}, id="path"),
        pytest.param("/invocations", {"x_amzn_sagemaker_target_model": "plain"}, id="target model"),
        pytest.param("/invocations", {"x_amzn_sagemaker_target_model": "/plain.tar.gz"}, id="target model's archive"),
        pytest.param(
            "/invocations",
            {"x_amzn_sagemaker_custom_attributes": "accept_eula=true,tfs-model-name=plain"},
            id="custom attributes",
        ),
    ],
)
async def test_of_several_models_a_caller_says_which(surface, path, headers):
    """Each way of naming a model asks that one."""
    surface.plain()
    surface.flow()
    surface.add("other", signature=ONNX, infer=add_up)
    assert (await surface.ask("POST", path, ROWS, **headers)).body == b'{"predictions":[3.0,7.0]}'


async def test_the_setting_says_who_is_asked():
    """Callers that cannot name a model ask the one that the settings name."""
    surface = Surface(invocations_model="plain")
    surface.plain()
    surface.plain("b")
    assert (await surface.ask("POST", "/invocations", ROWS)).status == 200


async def test_of_several_models_one_must_be_named(surface):
    """The error lists where each is asked; the one MLflow model among others needs no naming."""
    surface.plain()
    surface.plain("b")
    reply = await surface.ask("POST", "/invocations", ROWS)
    assert reply.status == 400
    assert b"/v2/models/b/invocations, /v2/models/plain/invocations, or /invocations?model=b" in reply.body
    surface.flow()
    assert (await surface.ask("POST", "/invocations", SENT)).status == 200
    surface.flow("second")
    reply = await surface.ask("POST", "/invocations", SENT)
    assert b"/v2/models/flow/invocations, /v2/models/second/invocations" in reply.body


async def test_a_version_may_be_asked(surface):
    """The query names a version beside the model; an unknown member of it is refused."""
    surface.plain(version="1")
    surface.add("plain", version="2", signature=ONNX, infer=add_up)
    assert (await surface.ask("POST", "/invocations?model=plain&version=1", ROWS)).body == b'{"predictions":[3.0,7.0]}'
    assert (await surface.ask("POST", "/invocations?model=plain&version=3", ROWS)).status == 404
    assert (await surface.ask("POST", "/invocations?variant=1", ROWS)).status == 400


@pytest.mark.parametrize(
    ("path", "sent", "content_type", "status", "code"),
    [
        pytest.param("/invocations", b"{}", "application/json", 400, "BAD_REQUEST", id="no form"),
        pytest.param("/invocations", b"x", "text/plain", 415, "BAD_REQUEST", id="another media type"),
        pytest.param(
            "/invocations", b'{"inputs": {"a": [13]}}', "", 503, "TEMPORARILY_UNAVAILABLE", id="the model's failure"
        ),
        pytest.param("/invocations", b'{"inputs": {"a": [14]}}', "", 500, "INTERNAL_ERROR", id="a bug"),
        pytest.param("/v2/models/no/invocations", b"{}", "", 404, "RESOURCE_DOES_NOT_EXIST", id="no model"),
    ],
)
async def test_errors_have_mlflows_form_and_no_trace(surface, path, sent, content_type, status, code):
    """The status is ours, the body is MLflow's: a code, a message, and nothing of the program's insides."""
    surface.flow()
    reply = await surface.ask("POST", path, sent, **({"content_type": content_type} if content_type else {}))
    answer = json.loads(reply.body)
    assert (reply.status, answer["error_code"], set(answer)) == (status, code, {"error_code", "message"})
    assert "secret" not in answer["message"]
    assert "Traceback" not in answer["message"]


async def test_what_sagemakers_callers_send_and_accept(surface):
    """CSV without a header, numpy's arrays and JSON lines come in and go out."""
    surface.plain()
    reply = await surface.ask("POST", "/invocations", b"1,2\n3,4\n", content_type="text/csv", accept="text/csv")
    assert (reply.content_type, reply.body) == (b"text/csv; charset=utf-8", b"3.0\n7.0\n")
    told = io.BytesIO()
    np.save(told, np.array([[1, 2], [3, 4]]))
    reply = await surface.ask(
        "POST", "/invocations", told.getvalue(), content_type="application/x-npy", accept="application/x-npy"
    )
    assert np.load(io.BytesIO(reply.body), allow_pickle=False).tolist() == [3.0, 7.0]
    reply = await surface.ask(
        "POST",
        "/invocations",
        b"[1, 2]\n[3, 4]\n",
        content_type="application/jsonlines",
        accept="application/jsonlines",
    )
    assert reply.body == b"3.0\n7.0\n"


async def test_a_models_own_route_comes_first(surface):
    """Code that answers `/invocations` itself, as MLServer's MLflow runtime does, goes on doing so."""

    async def visit(request):
        return RouteResponse(body=b"mine")

    route = Route(method="POST", path="/invocations", name="own")
    surface.add("own", signature=ONNX, infer=sums, routes=(route,), visit=visit)
    assert (await surface.ask("POST", "/invocations", ROWS)).body == b"mine"


async def test_in_mlservers_mode_the_paths_are_those_of_its_runtime():
    """They are there while an MLflow model is, and answer JSON texts."""
    surface = Surface(MlserverRest)
    surface.plain()
    paths = [("GET", "/ping"), ("GET", "/health"), ("GET", "/version"), ("POST", "/invocations")]
    assert {(await surface.ask(method, path, SENT)).status for method, path in paths} == {404}
    surface.flow()
    replies = [await surface.ask(method, path, SENT) for method, path in paths]
    assert [reply.body for reply in replies] == [b'"\\n"', b'"\\n"', b'"3.1"', b'{"predictions":[2.0,3.0]}']


@pytest.mark.parametrize(
    ("target", "headers", "found"),
    [
        (b"/invocations", {}, Asked()),
        (b"/invocations?model=a%20b&version=2", {}, Asked("a b", "2")),
        (b"/invocations", {"x-amzn-sagemaker-target-model": " m "}, Asked("m")),
        (
            b"/invocations",
            {"x-amzn-sagemaker-custom-attributes": "tfs-model-version=3, tfs-model-name=m"},
            Asked("m", "3"),
        ),
        (b"/invocations", {"x-amzn-sagemaker-custom-attributes": "trace"}, Asked()),
    ],
)
def test_a_request_says_whom_it_asks(target, headers, found):
    """The query counts before headers; attributes that are somebody else's are passed over."""
    assert asked(target, headers) == found


def test_a_model_that_is_no_longer_wanted_is_not_a_choice():
    """An unloaded model does not make the only other one ambiguous; without any there is an error of its own."""
    gone = Served(name="gone", wanted=False)
    assert choose(Asked(), [gone, Served(name="here")]) == "here"
    with pytest.raises(NotFound):
        choose(Asked(), [gone])
    with pytest.raises(InvalidRequest, match=r"12 models are served.* and 2 more"):
        choose(Asked(), [Served(name=f"m{number:02}") for number in range(12)])
