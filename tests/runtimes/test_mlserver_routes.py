"""Routes and metrics of custom runtimes written for MLServer: what FastAPI's rules make of their methods."""

import contextlib
import json
from pathlib import Path

import numpy as np
import pytest

from headrace.errors import LoadFailed
from headrace.payload import InferenceRequest, Route, RouteRequest, Tensor
from headrace.runtimes.base import Source
from headrace.runtimes.mlserver import MlserverRuntime

FOLDERS = Path(__file__).parent / "mlserver_folders"


@contextlib.asynccontextmanager
async def served(folder, **parameters):
    file = folder / "model-settings.json"
    settings = json.loads(file.read_text())
    runtime = MlserverRuntime(
        Source(
            reference=settings["implementation"],
            parameters={"settings": settings, "source": str(file), "package": "auto", **parameters},
        )
    )
    try:
        runtime.load()
        runtime.signature = await runtime.begin()
        yield runtime
        await runtime.end()
    finally:
        runtime.unload()


async def visit(runtime, route, target=None, body=b"", **headers):
    method, path = route.split()
    return await runtime.visit(
        RouteRequest(
            route=route,
            method=method,
            target=target or path,
            body=body,
            headers=(("content-type", "application/json"), ("host", "h"), *headers.items()),
        )
    )


async def test_methods_under_custom_handler_are_routes():
    """Every decorated method is a route with its method and path, once the model has begun."""
    async with served(FOLDERS / "shop") as runtime:
        assert sorted((each.method, each.path) for each in runtime.routes) == [
            ("GET", "/broken"), ("GET", "/stock/{item}"), ("GET", "/ticker"), ("POST", "/orders"), ("POST", "/raw")
        ]  # fmt: skip
        assert Route(method="POST", path="/raw", name="POST /raw") in runtime.routes


async def test_a_handler_takes_the_request_and_gives_a_response():
    """A method that takes a Request reads headers and body, and its Response's status, headers and body come back."""
    async with served(FOLDERS / "shop") as runtime:
        answer = await visit(runtime, "POST /raw", body=b"hello", **{"x-tag": "t"})
        assert answer.status == 202
        assert answer.body == b"POST /raw t hello"
        assert dict(answer.headers) == {"x-shop": "shop", "content-type": "text/plain; charset=utf-8"}


@pytest.mark.parametrize(
    ("target", "status", "body"),
    [
        ("/stock/apple", 200, {"item": "apple", "stock": 3, "enough": True}),
        ("/stock/apple?least=5", 200, {"item": "apple", "stock": 3, "enough": False}),
        ("/stock/caf%C3%A9", 404, {"detail": "no café here"}),
    ],
)
async def test_a_handler_takes_path_and_query(target, status, body):
    """Parameters of path and query arrive decoded and converted; HTTPException answers with its status."""
    async with served(FOLDERS / "shop") as runtime:
        answer = await visit(runtime, "GET /stock/{item}", target)
        assert (answer.status, json.loads(answer.body)) == (status, body)


async def test_a_query_that_is_no_number_is_refused_by_fastapis_rules():
    """A parameter that does not convert is 422 with a detail that names it."""
    async with served(FOLDERS / "shop") as runtime:
        answer = await visit(runtime, "GET /stock/{item}", "/stock/apple?least=many")
        assert answer.status == 422
        assert json.loads(answer.body)["detail"][0]["loc"] == ["query", "least"]


@pytest.mark.parametrize(
    ("body", "status", "answered"),
    [
        (b'{"item": "apple", "count": 2}', 200, {"ordered": {"item": "apple", "count": 2}}),
        (b'{"item": "apple", "count": 9}', 409, {"error": "out of apple"}),
    ],
)
async def test_a_plain_method_takes_a_pydantic_body(body, status, answered):
    """A handler that is no coroutine gets its body as the model it declares; MLServerError answers with its status."""
    async with served(FOLDERS / "shop") as runtime:
        answer = await visit(runtime, "POST /orders", body=body)
        assert (answer.status, json.loads(answer.body)) == (status, answered)


async def test_a_body_without_content_type_is_json():
    """A client that says no Content-Type is understood, as by the releases of FastAPI that MLServer was made for."""
    async with served(FOLDERS / "shop") as runtime:
        answer = await runtime.visit(
            RouteRequest(route="POST /orders", method="POST", target="/orders", body=b'{"item": "apple"}')
        )
        assert (answer.status, json.loads(answer.body)) == (200, {"ordered": {"item": "apple", "count": 1}})


async def test_a_handler_may_answer_what_predict_answers(tmp_path):
    """A handler that takes and gives MLServer's own types reads and answers their JSON."""
    (tmp_path / "models.py").write_text("""
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.handlers import custom_handler
from mlserver.types import InferenceRequest, InferenceResponse

class M(MLModel):
    @custom_handler(rest_path="/again")
    async def again(self, payload: InferenceRequest) -> InferenceResponse:
        return await self.predict(payload)

    async def predict(self, payload):
        x = self.decode(payload.inputs[0], default_codec=NumpyCodec)
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("y", x * 2)])
""")
    (tmp_path / "model-settings.json").write_text('{"name": "m", "implementation": "models.M"}')
    body = b'{"inputs": [{"name": "x", "shape": [2, 1], "datatype": "INT64", "data": [1, 2]}]}'
    async with served(tmp_path) as runtime:
        answer = await visit(runtime, "POST /again", body=body)
        assert answer.status == 200
        (output,) = json.loads(answer.body)["outputs"]
        assert (output["shape"], output["datatype"], output["data"]) == ([2, 1], "INT64", [2, 4])


async def test_a_streaming_response_comes_whole():
    """What a handler streams is collected."""
    async with served(FOLDERS / "shop") as runtime:
        assert (await visit(runtime, "GET /ticker")).body == b"one\ntwo\n"


async def test_a_handler_that_breaks_raises():
    """Any other exception of a handler is raised, for the engine to make of it what it makes of predict's."""
    async with served(FOLDERS / "shop") as runtime:
        with pytest.raises(ZeroDivisionError):
            await visit(runtime, "GET /broken")


async def test_a_path_of_several_segments_is_warned_of(tmp_path):
    """A converter of FastAPI's is no part of the route, and the one that spans segments is in the warnings."""
    (tmp_path / "models.py").write_text("""
from mlserver import MLModel
from mlserver.handlers import custom_handler

class M(MLModel):
    @custom_handler(rest_path="/files/{name:path}", rest_method="get")
    async def files(self, name: str):
        return [name]

    @custom_handler(rest_path="/rows/{number:int}", rest_method="GET")
    async def row(self, number: int):
        return number
""")
    (tmp_path / "model-settings.json").write_text('{"name": "m", "implementation": "models.M"}')
    async with served(tmp_path) as runtime:
        assert sorted((each.method, each.path) for each in runtime.routes) == [
            ("GET", "/files/{name}"), ("GET", "/rows/{number}")
        ]  # fmt: skip
        assert runtime.signature.warnings == (
            "custom handler /files/{name:path}: a path parameter matches one segment here",
        )
        assert (await visit(runtime, "GET /rows/{number:int}", "/rows/7")).body == b"7"


async def test_a_method_whose_signature_fastapi_refuses_fails_the_load(tmp_path):
    """An argument that FastAPI cannot fill is LoadFailed that names the handler."""
    (tmp_path / "models.py").write_text("""
from mlserver import MLModel
from mlserver.handlers import custom_handler

class Odd: ...

class M(MLModel):
    @custom_handler(rest_path="/odd")
    async def odd(self, thing: Odd):
        return 1
""")
    (tmp_path / "model-settings.json").write_text('{"name": "m", "implementation": "models.M"}')
    with pytest.raises(LoadFailed, match=r"custom handler odd \(POST /odd\)"):
        async with served(tmp_path):
            pass


async def test_what_the_model_logs_is_read_once():
    """What the model registers and logs in load and predict is given by logged once, with its description."""
    async with served(FOLDERS / "measured", package="provided") as runtime:
        assert [(name, value) for name, _, value in runtime.logged()] == [("loads", 1.0)]
        rows = Tensor("x", "FP64", np.array([4.0, 5.0, 6.0]), {})
        await runtime.answer(InferenceRequest(model_name="m", inputs=(rows,)))
        logged = runtime.logged()
        assert ("rows_seen", "How many rows came in", 3.0) in logged
        assert {name: value for name, _, value in logged} == {"rows_seen": 3.0, "first": 4.0}
        assert runtime.logged() == []


async def test_models_of_one_process_do_not_read_each_others_metrics():
    """Reading what one model has logged leaves what another has."""
    async with served(FOLDERS / "measured", package="provided") as one, served(FOLDERS / "typewriter") as other:
        assert other.logged() == []
        assert len(one.logged()) == 1


async def test_what_a_stream_logs_between_parts_is_read():
    """The parts of a stream are made in the model's context."""
    words = Tensor("x", "BYTES", np.array([b"a b c"], np.object_), {})
    async with served(FOLDERS / "typewriter", package="provided") as runtime:
        async for _ in runtime.answer_stream(InferenceRequest(model_name="m", inputs=(words,))):
            assert [(name, value) for name, _, value in runtime.logged()] == [("words", 1.0)]
