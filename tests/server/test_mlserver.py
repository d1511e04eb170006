"""MLServer's answers bug for bug: REST by the bodies that release 1.7.1 was seen to give, gRPC over real sockets.

Matrix: every row of SWITCHES on both sides of it where the other tests do not have ours.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time

import grpc
import pytest
import uvloop

from headrace.errors import InvalidRequest, ModelError, ModelNotFound, RuntimeFailed
from headrace.payload import InferenceResponse, Signature
from headrace.protocols import v2_control, v2_grpc
from headrace.server import mlserver
from headrace.server.grpc import GrpcServer
from headrace.server.http import HttpRequest
from headrace.server.mlserver import MlserverRest, MlserverService
from headrace.server.rest import RestSettings
from headrace.serving.models import Models, Served, State

SERVICE = "inference.GRPCInferenceService"
PATIENCE = 20


async def echo(request):
    name = request.inputs[0].name
    if name == "boom":
        raise RuntimeFailed("model 'echo': ValueError: boom")
    if name == "tea":
        raise ModelError("tea", status=418, kind="mlserver.errors.MLServerError")
    if name == "unnamed":
        raise ModelError("why", status=400) from KeyError("why")
    if name == "refused":
        raise InvalidRequest("ours")
    return InferenceResponse(model_name="echo", outputs=request.inputs, id=request.id)


async def echo_twice(request):
    yield await echo(request)
    yield await echo(request)


class Repository:
    async def load(self, name, parameters):
        if name != "echo":
            raise ModelNotFound(f"model '{name}' is not found")

    async def unload(self, name, *, unload_dependents=False):
        await self.load(name, {})


def models(placement="process"):
    table = Models()
    served = Served(
        name="echo",
        version="v1",
        infer=echo,
        infer_stream=echo_twice,
        placement=placement,
        dialect="mlserver",
        signature=Signature(platform="python"),
    )
    table.put(served)
    table.changed(served, State.READY)
    return table


def add_broken(table):
    for name, wanted in (("broken", True), ("gone", False)):
        served = Served(name=name, wanted=wanted)
        table.put(served)
        table.changed(served, State.UNAVAILABLE, "no")
    return table


class Asked:
    def __init__(self, table):
        self.rest = MlserverRest(
            table,
            Repository(),
            RestSettings(),
            statistics=lambda served: v2_control.Statistics(name=served.name),
            counts={},
        )

    async def __call__(self, method, path, sent=b"", content_type="application/json"):
        headers = {"content-type": content_type} if content_type else {}
        body = sent if isinstance(sent, bytes) else json.dumps(sent).encode()
        return await self.rest(HttpRequest(method.encode(), path.encode(), headers, body, time.monotonic() + 5))


@pytest.fixture
def ask():
    return Asked(models())


def tensor(name="x", **fields):
    return {"name": name, "shape": [2], "datatype": "FP32", "data": [1, 2], **fields}


def asked(name="x", **fields):
    return {"inputs": [tensor(name, **fields)]}


INFER = "/v2/models/echo/infer"


@pytest.mark.parametrize(
    ("sent", "detail"),
    [
        pytest.param(b"", [{"type": "missing", "loc": ["body"], "msg": "Field required", "input": None}], id="no body"),
        pytest.param(
            b"{",
            [
                {
                    "type": "json_invalid",
                    "loc": ["body", 1],
                    "msg": "JSON decode error",
                    "input": {},
                    "ctx": {"error": "unexpected end of data"},
                }
            ],
            id="no JSON",
        ),
        pytest.param(
            {},
            [{"type": "missing", "loc": ["body", "inputs"], "msg": "Field required", "input": {}}],
            id="no inputs",
        ),
        pytest.param(
            {"inputs": {}, "id": 3, "outputs": [{}]},
            [
                {"type": "string_type", "loc": ["body", "id"], "msg": "Input should be a valid string", "input": 3},
                {"type": "list_type", "loc": ["body", "inputs"], "msg": "Input should be a valid list", "input": {}},
                {"type": "missing", "loc": ["body", "outputs", 0, "name"], "msg": "Field required", "input": {}},
            ],
            id="several at once",
        ),
        pytest.param(
            asked(shape=["a"]),
            [
                {
                    "type": "int_parsing",
                    "loc": ["body", "inputs", 0, "shape", 0],
                    "msg": "Input should be a valid integer, unable to parse string as an integer",
                    "input": "a",
                }
            ],
            id="a shape of text",
        ),
        pytest.param(
            asked(shape=[1.5]),
            [
                {
                    "type": "int_from_float",
                    "loc": ["body", "inputs", 0, "shape", 0],
                    "msg": "Input should be a valid integer, got a number with a fractional part",
                    "input": 1.5,
                }
            ],
            id="a fraction of a dimension",
        ),
    ],
)
async def test_a_body_that_breaks_the_schema_is_told_as_mlserver_tells_it(ask, sent, detail):
    """422, with what is wrong where, in MLServer's own words."""
    reply = await ask("POST", INFER, sent)
    assert (reply.status, json.loads(reply.body)) == (422, {"detail": detail})
    assert (await ask("POST", "/v2/models/echo/infer_stream", sent)).status == 422


@pytest.mark.parametrize(
    ("sent", "content_type", "kinds"),
    [
        (asked(datatype="FP3"), "application/json", ["enum"]),
        (
            asked(name=4, shape="a", parameters=[]),
            "application/json",
            ["string_type", "list_type", "model_attributes_type"],
        ),
        (
            asked(shape=[None], parameters={"content_type": 3, "headers": 4}),
            "",
            ["int_type", "string_type", "dict_type"],
        ),
        ([1], "application/vnd.api+json", ["model_attributes_type"]),
        ({"inputs": [3]}, "text/plain", ["model_attributes_type"]),
    ],
)
async def test_each_kind_of_fault_has_its_name(ask, sent, content_type, kinds):
    """The types are those of the library that MLServer checks with."""
    reply = await ask("POST", INFER, sent, content_type)
    assert [fault["type"] for fault in json.loads(reply.body)["detail"]] == kinds


@pytest.mark.parametrize(
    ("sent", "status", "error"),
    [
        pytest.param(
            asked(shape=[2, 4]),
            500,
            "builtins.ValueError: cannot reshape array of size 2 into shape (2,4)",
            id="misfit",
        ),
        pytest.param(
            asked(shape=[3]),
            500,
            "builtins.ValueError: cannot reshape array of size 2 into shape (3,)",
            id="one dimension",
        ),
        pytest.param(asked("boom"), 500, "builtins.ValueError: boom", id="an exception of Python's"),
        pytest.param(asked("tea"), 418, "mlserver.errors.MLServerError: tea", id="a status of the model's"),
        pytest.param(asked("unnamed"), 400, "builtins.KeyError: why", id="a class known by its cause"),
        pytest.param(asked("refused"), 400, "ours", id="what the model cannot take"),
    ],
)
async def test_errors_of_a_model_in_a_process_begin_with_their_class(ask, sent, status, error):
    """The text that crosses MLServer's worker queues is the one the caller reads."""
    reply = await ask("POST", INFER, sent)
    assert (reply.status, json.loads(reply.body)) == (status, {"error": error})


async def test_errors_of_a_model_in_the_server_are_told_by_mlservers_only():
    """What is no MLServerError is plain text; what is one has its text alone."""
    ask = Asked(models("inline"))
    boom = await ask("POST", INFER, asked("boom"))
    assert (boom.status, boom.content_type, boom.body) == (500, b"text/plain; charset=utf-8", b"Internal Server Error")
    tea = await ask("POST", INFER, asked("tea"))
    assert (tea.status, json.loads(tea.body)) == (418, {"error": "tea"})


@pytest.mark.parametrize(
    ("method", "path", "status", "body"),
    [
        ("POST", "/v2/models/nope/infer", 404, {"error": "Model nope not found"}),
        ("POST", "/v2/models/echo/versions/v9/infer", 404, {"error": "Model echo with version v9 not found"}),
        ("POST", "/v2/models/broken/infer", 400, {"error": "Model broken is not ready yet."}),
        ("POST", "/v2/models/gone/infer", 404, {"error": "Model gone not found"}),
        ("GET", "/v2/models/gone/ready", 404, {"error": "Model gone not found"}),
        ("POST", "/v2/repository/models/nope/load", 404, {"error": "Model nope not found"}),
        ("GET", "/v2/models/nope/ready", 404, {"error": "Model nope not found"}),
        ("GET", "/nope", 404, {"detail": "Not Found"}),
        ("POST", "/v2/models/echo", 405, {"detail": "Method Not Allowed"}),
        ("OPTIONS", "/v2/models/echo", 405, {"detail": "Method Not Allowed"}),
        ("HEAD", "/v2/models/echo", 405, {"detail": "Method Not Allowed"}),
        ("GET", "/v2/health/live", 200, None),
        ("GET", "/v2/health/ready", 400, None),
        ("GET", "/v2/models/echo/ready", 200, None),
        ("GET", "/v2/models/broken/ready", 400, None),
        ("POST", "/v2/repository/models/echo/load", 200, None),
        ("POST", "/v2/repository/models/echo/unload", 200, None),
    ],
)
async def test_every_other_answer_is_mlservers(method, path, status, body):
    """Statuses, texts and empty bodies are those of the real server."""
    ask = Asked(add_broken(models()))
    for _ in range(2):  # found and remembered
        reply = await ask(method, path, asked() if method == "POST" and path.endswith("infer") else b"")
        assert (reply.status, json.loads(reply.body) if reply.body else None) == (status, body)
        assert bool(reply.body) is bool(reply.content_type)


async def test_what_was_unloaded_does_not_count_as_not_ready():
    """A server whose other models are ready is, whatever was unloaded."""
    table = models()
    gone = Served(name="gone", wanted=False)
    table.put(gone)
    table.changed(gone, State.UNAVAILABLE, "unloaded")
    assert (await Asked(table)("GET", "/v2/health/ready")).status == 200


async def test_a_server_without_models_is_ready():
    """MLServer asks only the models that are there."""
    assert (await Asked(Models())("GET", "/v2/health/ready")).status == 200


@pytest.mark.parametrize("path", ["/v2/models/echo/infer_stream", "/v2/models/nope/infer_stream"])
async def test_a_stream_that_cannot_start_is_plain_text(ask, path):
    """The status is 500 whatever went wrong."""
    reply = await ask("POST", path, asked("tea"))
    assert (reply.status, reply.body) == (500, b"Internal Server Error")


@pytest.mark.parametrize(
    ("sent", "status", "kind"),
    [(b"", 422, "missing"), ({"ready": 5}, 422, "bool_parsing"), ({"ready": []}, 422, "bool_type"), ({}, 200, "")],
)
async def test_the_index_needs_a_body(ask, sent, status, kind):
    """An empty object asks for all; no body, and a flag that is none, break the schema."""
    reply = await ask("POST", "/v2/repository/index", sent)
    assert reply.status == status
    found = json.loads(reply.body)
    assert found[0]["name"] == "echo" if status == 200 else found["detail"][0]["type"] == kind


async def test_what_is_well_is_answered_as_ever(ask):
    """The switches change nothing of an answer."""
    reply = await ask("POST", INFER, asked())
    assert (reply.status, json.loads(reply.body)["outputs"][0]["data"]) == (200, [1.0, 2.0])


def test_the_table_has_every_switch_in_four_columns():
    """The documents' table is the constant's, a line each."""
    lines = mlserver.table().splitlines()
    assert len(lines) == len(mlserver.SWITCHES) + 2
    assert {line.replace("\\|", "").count("|") for line in lines} == {5}
    assert len({each.name for each in mlserver.SWITCHES}) == len(mlserver.SWITCHES)


# -- gRPC --


@pytest.fixture(scope="module")
def connection():
    """A channel to a server that answers as MLServer does, over a real socket."""
    ready, ends = threading.Event(), {}

    def run():
        async def main():
            ends["loop"], ends["finish"] = asyncio.get_running_loop(), asyncio.Event()
            server = GrpcServer(add_broken(models()), Repository(), service=MlserverService)
            ends["port"] = await server.start("127.0.0.1", 0)
            ready.set()
            await ends["finish"].wait()
            await server.stop(0)

        uvloop.run(main())

    thread = threading.Thread(target=run)
    thread.start()
    assert ready.wait(PATIENCE)
    with grpc.insecure_channel(f"127.0.0.1:{ends['port']}") as channel:
        yield channel
    ends["loop"].call_soon_threadsafe(ends["finish"].set)
    thread.join(PATIENCE)


def call(connection, name, /, **fields):
    kind = v2_grpc.message_class(f"inference.{name}Request")
    made = fields.pop("message", None) or kind(**fields)
    return connection.unary_unary(
        f"/{SERVICE}/{name}",
        request_serializer=lambda m: m.SerializeToString(),
        response_deserializer=v2_grpc.message_class(f"inference.{name}Response").FromString,
    )(made, timeout=PATIENCE)


def infer_message(model="echo", shape=(2,), tensor="x", **fields):
    made = v2_grpc.ModelInferRequest(model_name=model, **fields)
    made.inputs.add(name=tensor, datatype="FP32", shape=shape).contents.fp32_contents.extend([1, 2])
    return made


@pytest.mark.parametrize(
    ("name", "fields", "code", "text"),
    [
        ("ModelInfer", {"message": infer_message("nope")}, "NOT_FOUND", "Model nope with version  not found"),
        (
            "ModelInfer",
            {"message": infer_message(model_version="9")},
            "NOT_FOUND",
            "Model echo with version 9 not found",
        ),
        ("ModelInfer", {"message": infer_message("gone")}, "NOT_FOUND", "Model gone with version  not found"),
        ("ModelInfer", {"message": infer_message("broken")}, "INVALID_ARGUMENT", "Model broken is not ready yet."),
        (
            "ModelInfer",
            {"message": infer_message(shape=(2, 4))},
            "INTERNAL",
            "cannot reshape array of size 2 into shape (2,4)",
        ),
        (
            "ModelReady",
            {"name": "nope"},
            "UNKNOWN",
            "Unexpected <class 'mlserver.errors.ModelNotFound'>: Model nope with version  not found",
        ),
        ("ModelInfer", {"message": infer_message(tensor="boom")}, "INTERNAL", "builtins.ValueError: boom"),
        ("ModelInfer", {"message": infer_message(tensor="tea")}, "UNKNOWN", "mlserver.errors.MLServerError: tea"),
        ("ModelMetadata", {"name": "nope"}, "NOT_FOUND", "Model nope with version  not found"),
        ("RepositoryModelLoad", {"model_name": "nope"}, "NOT_FOUND", "Model nope not found"),
    ],
)
def test_grpc_errors_are_mlservers(connection, name, fields, code, text):
    """Codes and texts are those of the real server."""
    with pytest.raises(grpc.RpcError) as caught:
        call(connection, name, **fields)
    assert (caught.value.code().name, caught.value.details()) == (code, text)


def test_states_over_grpc_are_those_of_mlservers_enum(connection):
    """The index shows the member of the enum, not its value."""
    index = call(connection, "RepositoryIndex")
    assert {each.state for each in index.models} == {"State.READY", "State.UNAVAILABLE"}


def test_a_grpc_stream_ends_with_mlservers_error(connection):
    """The text of a stream's end is MLServer's too."""
    stream = connection.stream_stream(
        f"/{SERVICE}/ModelStreamInfer",
        request_serializer=lambda m: m.SerializeToString(),
        response_deserializer=v2_grpc.ModelInferResponse.FromString,
    )
    assert [len(each.outputs) for each in stream(iter([infer_message()]), timeout=PATIENCE)] == [1, 1]
    with pytest.raises(grpc.RpcError) as caught:
        list(stream(iter([infer_message(model_version="9")]), timeout=PATIENCE))
    assert caught.value.details() == "Model echo with version 9 not found"


def test_what_is_well_is_answered_over_grpc_as_ever(connection):
    """The switches change nothing of an answer."""
    answer = call(connection, "ModelInfer", message=infer_message(id="7"))
    assert (answer.id, list(answer.outputs[0].contents.fp32_contents)) == ("7", [1.0, 2.0])
    assert call(connection, "ModelReady", name="echo").ready
