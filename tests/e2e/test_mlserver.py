"""Folders made for MLServer, served by real processes and asked by real clients, as its users know them.

One server for what changes nothing outside its own model, `headrace mlserver start` for settings, ports and variables,
`--compat mlserver` for a model that the environment alone describes. Not here: each field of the settings
(tests/serving/dialects), each answer (tests/routing, tests/differential).
"""

from __future__ import annotations

import concurrent.futures
import gzip
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

import joblib
import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from sklearn.linear_model import LogisticRegression
from tritonclient.utils import InferenceServerException

from headrace.testing.brokers import free_port

HEAD = """
import asyncio, json, os, pathlib
from typing import AsyncIterator
import numpy as np
import mlserver
from mlserver import MLModel
from mlserver.codecs import NumpyCodec, NumpyRequestCodec, StringCodec, decode_args
from mlserver.errors import InferenceError, MLServerError
from mlserver.handlers import custom_handler
from mlserver.types import InferenceRequest, InferenceResponse, Parameters, ResponseOutput
from mlserver.utils import get_model_uri
"""

GREETER = """
from helpers import GREETING


class Model(MLModel):
    async def load(self) -> bool:
        self.greeting = GREETING
        return True

    @decode_args
    async def predict(self, who: list[str]) -> list[str]:
        from helpers import MARK  # late, after another folder's helpers were imported
        return [f"{self.greeting} {each}{MARK}" for each in who]
"""

DERIVED = """
from mlserver_sklearn import SKLearnModel


class Model(SKLearnModel):
    async def load(self) -> bool:
        await super().load()
        self.seen = type(self._model).__name__
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        response = await super().predict(payload)
        response.parameters = Parameters(headers={"x-estimator": self.seen}, rows=payload.inputs[0].shape[0])
        return response
"""

TYPEWRITER = """
class Model(MLModel):
    async def load(self) -> bool:
        self.folder = pathlib.Path(self.settings.parameters.extra["folder"])
        return True

    async def predict_stream(self, payloads: AsyncIterator[InferenceRequest]) -> AsyncIterator[InferenceResponse]:
        async for payload in payloads:
            for word in StringCodec.decode_input(payload.inputs[0]):
                while not (self.folder / word).exists():
                    await asyncio.sleep(0.01)
                yield InferenceResponse(
                    model_name=self.name, outputs=[StringCodec.encode_output("word", [word.upper() * 300])]
                )
"""

SHOP = """
from fastapi import Request, Response


class Model(MLModel):
    async def load(self) -> bool:
        mlserver.register("basket_total", "What was bought.")
        self.sold = 0
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        amounts = NumpyCodec.decode_input(payload.inputs[0])
        mlserver.log(basket_total=float(amounts.sum()))
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("total", amounts.sum(axis=1))])

    @custom_handler(rest_path="/buy/{item}")
    async def buy(self, item: str, request: Request, many: int = 1) -> Response:
        body = await request.json()
        self.sold += many
        return Response(json.dumps({"item": item, "many": many, **body}), status_code=201, headers={"x-sold": str(self.sold)})

    @custom_handler(rest_path="/sold", rest_method="GET")
    async def how_many(self) -> dict:
        return {"sold": self.sold}
"""

FAULTY = """
class Model(MLModel):
    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        (what,) = StringCodec.decode_input(payload.inputs[0])
        if what == "teapot":
            raise MLServerError("short and stout", status_code=418)
        if what == "caller":
            raise InferenceError("not like that")
        raise ValueError("boom")
"""

BROKEN = """
class Model(MLModel):
    async def load(self) -> bool:
        raise RuntimeError("the weights are gone")
"""

WORKER = """
class Model(MLModel):
    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        seconds = float(NumpyCodec.decode_input(payload.inputs[0])[0])
        if seconds:
            with open(self.settings.parameters.extra["begun"], "a") as file:
                file.write("x")
            await asyncio.sleep(seconds)
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("pid", np.array([os.getpid()]))])
"""

WEIGHED = """
class Model(MLModel):
    async def load(self) -> bool:
        self.weight = int(pathlib.Path(await get_model_uri(self.settings)).read_text())
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        await asyncio.sleep(0.002)
        return InferenceResponse(
            model_name=self.name, outputs=[NumpyCodec.encode_output("weight", np.array([self.weight]))]
        )
"""

COUNTER = """
class Model(MLModel):
    async def load(self) -> bool:
        self.count = 0
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        self.count += 1
        return InferenceResponse(
            model_name=self.name, outputs=[NumpyCodec.encode_output("count", np.array([self.count]))]
        )
"""

ROWS_SEEN = """
class Model(MLModel):
    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        rows = self.decode_request(payload, default_codec=NumpyRequestCodec)
        await asyncio.sleep(0.05)
        together = np.full(len(rows), len(rows))
        return InferenceResponse(
            model_name=self.name,
            outputs=[NumpyCodec.encode_output("twice", rows * 2), NumpyCodec.encode_output("together", together)],
        )
"""

SCALING = """
from sklearn.base import BaseEstimator, TransformerMixin


class Halver(BaseEstimator, TransformerMixin):
    def fit(self, rows, labels=None):
        return self

    def transform(self, rows):
        return rows / 2
"""

SKLEARN = "mlserver_sklearn.SKLearnModel"


def write(folder, name, code=None, *, implementation="models.Model", **settings):
    """A model's folder: settings, and the code if it has its own."""
    place = folder / name
    place.mkdir(parents=True)
    if code is not None:
        (place / "models.py").write_text(HEAD + code)
    (place / "model-settings.json").write_text(json.dumps({"name": name, "implementation": implementation, **settings}))
    return place


def run_python(code, cwd):
    """In a process of its own, so that no module of the model's is known here."""
    subprocess.run([sys.executable, "-c", code], cwd=cwd, check=True, timeout=50)


def fit(iris):
    return LogisticRegression(max_iter=500).fit(*iris)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, iris):
    """A folder as a team keeps it: official runtimes and their own, some streaming, some broken."""
    root = tmp_path_factory.mktemp("mlserver")
    (root / "settings.json").write_text(
        json.dumps({
            "debug": False, "server_name": "shop", "extensions": ["model_repository"], "metrics_endpoint": "/stats",
            "gzip_enabled": True, "cache_enabled": True, "cors_settings": {
                "allow_origins": ["https://shop.example"], "allow_methods": ["POST"], "allow_headers": ["X-Basket"],
            },
        })
    )  # fmt: skip
    for name, more in [("iris", {}), ("iris-batched", {"max_batch_size": 4, "max_batch_time": 0.25})]:
        place = write(
            root, name, implementation=SKLEARN, parameters={"uri": "./model.joblib", "version": "v0.1.0"}, **more
        )
        joblib.dump(fit(iris), place / "model.joblib")
    (root / "team_transformers.py").write_text(SCALING)
    place = write(root, "scaled", implementation=SKLEARN, parameters={"uri": "./model.joblib"})
    run_python(
        "import joblib; from sklearn.datasets import load_iris; from sklearn.linear_model import LogisticRegression;"
        "from sklearn.pipeline import make_pipeline; from team_transformers import Halver;"
        "model = make_pipeline(Halver(), LogisticRegression(max_iter=500)).fit(*load_iris(return_X_y=True));"
        f"joblib.dump(model, {str(place / 'model.joblib')!r})",
        cwd=root,
    )
    for name, more in [("derived", {}), ("derived-batched", {"max_batch_size": 4, "max_batch_time": 0.25})]:
        place = write(root, name, DERIVED, parameters={"uri": "."}, parallel_workers=0, **more)
        joblib.dump(fit(iris), place / "model.joblib")
    for name, greeting, mark in [("hello", "hello", "!"), ("bye", "good bye", ".")]:
        place = write(root, f"deep/{name}", GREETER, parallel_workers=0)
        (place / "model-settings.json").write_text(
            json.dumps({"name": name, "implementation": "models.Model", "parallel_workers": 0})
        )
        (place / "helpers.py").write_text(f"GREETING = {greeting!r}\nMARK = {mark!r}\n")
    gates = tmp_path_factory.mktemp("gates")
    for workers, name in enumerate(["typewriter-inline", "typewriter-process"]):
        extra = {"folder": str(gates / name)}
        (gates / name).mkdir()
        write(root, name, TYPEWRITER, parallel_workers=workers, parameters={"extra": extra})
    write(root, "shop", SHOP, parallel_workers=1)
    write(root, "faulty", FAULTY, parallel_workers=0)
    write(root, "broken", BROKEN, parallel_workers=0)
    write(root, "misspelt", BROKEN, implementation="modles.Model", parallel_workers=0)
    write(root, "worker", WORKER, parallel_workers=1, parameters={"extra": {"begun": str(gates / "begun")}})
    place = write(root, "weighed", WEIGHED, parallel_workers=1, parameters={"uri": "./weight.txt"})
    (place / "weight.txt").write_text("1")
    for name in ("counter-a", "counter-b"):
        write(root, name, COUNTER, parallel_workers=0, cache_enabled=True)
    write(root, "rows-seen", ROWS_SEEN, parallel_workers=0, max_batch_size=8, max_batch_time=0.25)
    return root, gates


@pytest.fixture(scope="module")
def shop(serve, folder):
    """That folder, served."""
    return serve(folder[0])


def tensor(values, *, name="x", datatype=None, shape=None, **parameters):
    array = np.asarray(values)
    datatype = datatype or {"f": "FP64", "i": "INT64", "U": "BYTES"}[array.dtype.kind]
    found = {"name": name, "shape": list(shape or array.shape), "datatype": datatype, "data": array.ravel().tolist()}
    return {**found, "parameters": parameters} if parameters else found


def ask(server, model, *tensors, **rest):
    """Status, headers and body of a V2 request."""
    return server.ask(f"/v2/models/{model}/infer", {"inputs": list(tensors), **rest})


def at_once(*works):
    """What each gives, all begun together."""
    gate = threading.Barrier(len(works))

    def run(work):
        gate.wait(timeout=60)
        return work()

    with concurrent.futures.ThreadPoolExecutor(len(works)) as pool:
        return [each.result(timeout=30) for each in [pool.submit(run, work) for work in works]]


TWO = [[5.1, 3.5, 1.4, 0.2], [6.0, 3.0, 5.0, 2.0]]


# -- answers --


def test_an_official_runtime_answers_in_mlservers_form(shop):
    """Rank 1 is [n, 1], every output has its content type, parameters are there, and the CloudEvents headers too."""
    status, headers, reply = ask(shop, "iris", tensor(TWO), id="r1")
    assert status == 200
    assert reply == {
        "model_name": "iris",
        "model_version": "v0.1.0",
        "id": "r1",
        "parameters": {},
        "outputs": [
            {
                "name": "predict",
                "shape": [2, 1],
                "datatype": "INT64",
                "parameters": {"content_type": "np"},
                "data": [0, 2],
            }
        ],
    }
    assert list(reply) == ["model_name", "model_version", "id", "parameters", "outputs"]
    assert {name.lower(): headers[name] for name in headers if name.lower().startswith("ce-")} == {
        "ce-specversion": "0.3",
        "ce-source": "io.seldon.serving.deployment.shop",
        "ce-type": "io.seldon.serving.inference.response",
        "ce-modelid": "iris",
        "ce-inferenceservicename": "shop",
        "ce-endpoint": "iris",
        "ce-id": "r1",
        "ce-requestid": "r1",
    }


def test_an_official_runtime_finds_the_teams_own_modules(shop):
    """A pickle that names a module at the top of the folder loads, as MLServer has that folder on its import path; that
    its transformer does not say how many columns it takes is no hindrance.
    """
    status, _, reply = ask(shop, "scaled", tensor(TWO))
    assert (status, reply["outputs"][0]["data"]) == (200, [0, 2])


def test_an_output_that_is_asked_for_comes_alone(shop):
    """predict_proba in place of predict, by name; one that no model has is refused in the original's words."""
    _, _, reply = ask(shop, "iris", tensor(TWO), outputs=[{"name": "predict_proba"}])
    assert [(each["name"], each["shape"]) for each in reply["outputs"]] == [("predict_proba", [2, 3])]
    status, _, reply = ask(shop, "iris", tensor(TWO), outputs=[{"name": "zzz"}])
    assert (status, "zzz" in reply["error"]) == (400, True)


def test_a_class_derived_from_an_official_runtime_answers_like_it(shop):
    """super().load and super().predict are the original's, _model is the estimator, and its headers reach the caller."""
    status, headers, reply = ask(shop, "derived", tensor(TWO))
    assert (status, headers["x-estimator"]) == (200, "LogisticRegression")
    assert reply["parameters"] == {"rows": 2}
    assert reply["outputs"] == ask(shop, "iris", tensor(TWO))[2]["outputs"]
    status, _, reply = ask(shop, "derived", tensor(TWO), outputs=[{"name": "zzz"}])
    assert status == 400
    assert reply["error"].endswith("'predict', 'predict_proba' and 'transform' as outputs (zzz was received)")


def test_folders_with_modules_of_the_same_name_keep_their_own(shop):
    """Two models.py, each with its own helpers.py, also where that is imported while a request is answered."""
    answers = [ask(shop, model, tensor(["ann", "bob"], name="who"))[2] for model in ("hello", "bye", "hello")]
    assert [each["outputs"][0]["data"] for each in answers] == [
        ["hello ann!", "hello bob!"],
        ["good bye ann.", "good bye bob."],
        ["hello ann!", "hello bob!"],
    ]
    assert answers[0]["outputs"][0]["parameters"] == {"content_type": "str"}


@pytest.mark.parametrize(
    ("what", "status", "text"),
    [("teapot", 418, "short and stout"), ("caller", 400, "not like that"), ("x", 500, "boom")],
)
def test_what_a_runtime_raises_has_its_status_and_no_traceback(shop, what, status, text):
    """MLServerError ends with its own status, InferenceError with 400, anything else with 500, each with its message."""
    found, headers, reply = ask(shop, "faulty", tensor([what]))
    assert (found, headers.get_content_type()) == (status, "application/json")
    assert text in reply["error"]
    assert "Traceback" not in reply["error"]


@pytest.mark.parametrize("model", ["typewriter-inline", "typewriter-process"])
def test_streams_flow_though_gzip_is_accepted(shop, folder, model):
    """Each word arrives before the next is written, from the server's loop and from a worker alike, uncompressed."""
    gates = folder[1] / model
    connection = http.client.HTTPConnection("127.0.0.1", shop.http_port, timeout=60)
    words = ["one", "two", "three"]
    body = json.dumps({"inputs": [tensor(words)]})
    connection.request("POST", f"/v2/models/{model}/infer_stream", body, {"Accept-Encoding": "gzip"})
    (gates / "one").touch()  # without it not even the head of the answer need come
    reply = connection.getresponse()
    assert (reply.status, reply.headers.get_content_type()) == (200, "text/event-stream")
    assert reply.headers["Content-Encoding"] is None
    for index, word in enumerate(words):
        line = reply.readline()
        assert reply.readline() == b"\n"
        event = json.loads(line.removeprefix(b"data: "))
        assert event["outputs"][0]["data"] == [word.upper() * 300]
        if index < 2:
            (gates / words[index + 1]).touch()
    assert reply.read() == b""
    connection.close()


def test_large_answers_are_compressed(shop):
    """From 500 bytes on, for who accepts it, as gzip_enabled says."""
    rows = np.tile(TWO, (200, 1))
    body = json.dumps({"inputs": [tensor(rows)]}).encode()
    status, headers, reply = shop.ask(
        "/v2/models/iris/infer", gzip.compress(body), {"Content-Encoding": "gzip", "Accept-Encoding": "gzip"}
    )
    assert (status, headers["Content-Encoding"]) == (200, "gzip")
    assert reply["outputs"][0]["data"] == [0, 2] * 200


def test_custom_handlers_run_where_the_model_is(shop):
    """A path parameter, a query and a body reach the method in the worker; its status and headers come back."""
    before = shop.ask("/sold")[2]["sold"]
    status, headers, reply = shop.ask("/buy/pear?many=3", {"ripe": True}, {"Content-Type": "application/json"})
    assert (status, json.loads(reply) if isinstance(reply, bytes) else reply) == (
        201,
        {"item": "pear", "many": 3, "ripe": True},
    )
    assert headers["x-sold"] == str(before + 3)
    assert shop.ask("/sold")[2] == {"sold": before + 3}
    assert shop.ask("/buy/pear?many=few", {}, {"Content-Type": "application/json"})[0] == 422


def scrape(server, path="/stats"):
    with urllib.request.urlopen(f"http://127.0.0.1:{server.metrics_port}{path}", timeout=60) as reply:
        return reply.read().decode()


def sample(text, start):
    """The value of the one sample line that begins so."""
    found = [line for line in text.splitlines() if line.startswith(start)]
    assert len(found) == 1, (start, text)
    return float(found[0].rpartition(" ")[2])


def test_metrics_of_models_and_of_the_server_have_their_names(shop):
    """A worker's own metric and the counters of MLServer's dashboards are on the metrics port, at metrics_endpoint."""
    ask(shop, "shop", tensor([[1.0, 2.0]]))
    before = scrape(shop)
    assert ask(shop, "shop", tensor([[30.0, 12.0]]))[2]["outputs"][0]["data"] == [42.0]
    after = scrape(shop)
    start = 'basket_total_sum{model_name="shop"'
    assert sample(after, start) - sample(before, start) == 42.0
    start = 'model_infer_request_success_total{model="shop"'
    assert sample(after, start) - sample(before, start) == 1
    assert "rest_server_requests_total{" in after
    with pytest.raises(urllib.error.HTTPError):
        scrape(shop, "/metrics")


def test_other_origins_are_let_in_as_the_settings_say(shop):
    """A preflight from the origin of the settings is allowed the header and the method; another origin is not."""
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "X-Basket"}
    path = "/v2/models/iris/infer"
    status, headers, _ = shop.ask(path, None, {"Origin": "https://shop.example", **asked}, method="OPTIONS")
    assert (status, headers["Access-Control-Allow-Origin"]) == (200, "https://shop.example")
    assert "POST" in headers["Access-Control-Allow-Methods"]
    assert "x-basket" in headers["Access-Control-Allow-Headers"].lower()
    _, headers, _ = shop.ask(path, None, {"Origin": "https://else.example", **asked}, method="OPTIONS")
    assert headers["Access-Control-Allow-Origin"] is None


# -- failures --


def test_a_model_that_fails_is_told_of_while_the_others_serve(shop):
    """The cause stands in the index and in metadata; the server is ready; the model is not."""
    index = {entry["name"]: entry for entry in shop.ask("/v2/repository/index", {})[2]}
    assert index["iris"]["state"] == "READY"
    assert index["broken"]["state"] == index["misspelt"]["state"] == "UNAVAILABLE"
    assert "the weights are gone" in index["broken"]["reason"]
    assert "modles" in index["misspelt"]["reason"]
    assert shop.ask("/v2/health/ready")[0] == 200
    assert shop.ask("/v2/models/broken/ready")[0] == 503
    status, _, reply = shop.ask("/v2/models/broken")
    assert "the weights are gone" in json.dumps(reply), (status, reply)
    status, _, reply = ask(shop, "broken", tensor([1.0]))
    assert (status, "the weights are gone" in reply["error"]) == (503, True)


def test_doctor_tells_what_is_wrong_before_anything_is_served(tmp_path):
    """The models that cannot load are named, each with its cause; the exit code says that there are some."""
    write(tmp_path, "good", COUNTER, parallel_workers=0)
    write(tmp_path, "broken", BROKEN, parallel_workers=0)
    write(tmp_path, "misspelt", BROKEN, implementation="modles.Model", parallel_workers=0)
    done = subprocess.run(
        [sys.executable, "-m", "headrace", "doctor", str(tmp_path)], capture_output=True, text=True, timeout=50
    )
    assert done.returncode != 0
    assert "the weights are gone" in done.stdout
    assert "modles" in done.stdout


def test_a_worker_that_is_killed_costs_what_was_in_it_and_no_more(shop, folder):
    """On kill -9 with requests in flight, each of those is answered 503 at once, other models never notice, and the model
    answers again.
    """
    begun = folder[1] / "begun"
    (pid,) = ask(shop, "worker", tensor([0.0]))[2]["outputs"][0]["data"]
    answers, stop = [], threading.Event()

    def keep_asking():
        while not stop.is_set():
            answers.append(ask(shop, "hello", tensor(["you"], name="who"))[0])

    with concurrent.futures.ThreadPoolExecutor(5) as pool:
        others = pool.submit(keep_asking)
        held = [pool.submit(ask, shop, "worker", tensor([25.0])) for _ in range(4)]
        wait_for(lambda: begun.exists() and len(begun.read_text()) == 4)
        os.kill(pid, signal.SIGKILL)
        ended = [each.result(timeout=60) for each in held]
        wait_for(lambda: ask(shop, "worker", tensor([0.0]))[0] == 200)
        stop.set()
        others.result(timeout=60)
    assert [status for status, _, _ in ended] == [503] * 4
    assert all("error" in reply for _, _, reply in ended)
    assert set(answers) == {200}
    (again,) = ask(shop, "worker", tensor([0.0]))[2]["outputs"][0]["data"]
    assert again != pid


def wait_for(found, seconds=20):
    """Until it is so, or the test fails."""
    deadline = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.02)


# -- changes while serving --


def test_a_reload_under_load_loses_no_request(shop, folder):
    """Weights are replaced and loaded again, three times, while callers ask: every answer is 200, of one weight or the
    next, and never of an older one than its caller has seen.
    """
    weight = folder[0] / "weighed" / "weight.txt"
    failures, stop = [], threading.Event()

    def keep_asking():
        last = 0
        while not stop.is_set():
            status, _, reply = ask(shop, "weighed", tensor([1.0]))
            if status != 200 or reply["outputs"][0]["data"][0] < last:
                failures.append((status, reply, last))
                return last
            last = reply["outputs"][0]["data"][0]
        return last

    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        callers = [pool.submit(keep_asking) for _ in range(3)]
        try:
            for value in (2, 3, 4):
                weight.write_text(str(value))
                status, _, reply = shop.ask("/v2/repository/models/weighed/load", b"")
                assert status == 200, reply
                assert ask(shop, "weighed", tensor([1.0]))[2]["outputs"][0]["data"] == [value]
        finally:
            stop.set()
        seen = [each.result(timeout=60) for each in callers]
    assert not failures
    assert min(seen) >= 3


@pytest.fixture(params=["HTTP", "gRPC"])
def wire(request, shop):
    """The client of Triton, over either protocol."""
    module, port = {"HTTP": (tritonclient.http, shop.http_port), "gRPC": (tritonclient.grpc, shop.grpc_port)}[
        request.param
    ]
    client = module.InferenceServerClient(f"127.0.0.1:{port}")
    yield module, client
    client.close()


def test_tritonclient_unloads_loads_and_infers(wire):
    """A model that was unloaded is gone for this client until it loads it again; unknown ones are refused."""
    module, client = wire
    rows = module.InferInput("x", [2, 4], "FP64")
    rows.set_data_from_numpy(np.array(TWO), **({"binary_data": False} if module is tritonclient.http else {}))
    client.unload_model("derived")
    assert not client.is_model_ready("derived")
    with pytest.raises(InferenceServerException, match="derived"):
        client.infer("derived", [rows])
    client.load_model("derived")
    assert client.is_model_ready("derived")
    answer = client.infer("derived", [rows], request_id="t1")
    np.testing.assert_array_equal(answer.as_numpy("predict"), [[0], [2]])
    with pytest.raises(InferenceServerException, match="nobody"):
        client.load_model("nobody")


def test_grpc_carries_ids_headers_and_content_types(shop):
    """The answer has the request's id, the CloudEvents attributes as trailing metadata, and each output's content type."""
    import grpc
    from tritonclient.grpc import service_pb2, service_pb2_grpc

    request = service_pb2.ModelInferRequest(model_name="derived", id="g1")
    each = request.inputs.add(name="x", datatype="FP64", shape=[2, 4])
    each.contents.fp64_contents.extend(np.ravel(TWO))
    with grpc.insecure_channel(f"127.0.0.1:{shop.grpc_port}") as channel:
        reply, call = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer.with_call(request, timeout=60)
    trailers = dict(call.trailing_metadata())
    assert (reply.id, reply.model_name) == ("g1", "derived")
    assert {name: trailers.get(name) for name in ("ce-id", "ce-endpoint", "x-estimator")} == {
        "ce-id": "g1",
        "ce-endpoint": "derived",
        "x-estimator": "LogisticRegression",
    }
    (output,) = reply.outputs
    assert (output.name, list(output.shape), list(output.contents.int64_contents)) == ("predict", [2, 1], [0, 2])
    assert output.parameters["content_type"].string_param == "np"


# -- cache and batches --


def test_the_cache_knows_its_models_apart(shop):
    """The same request is answered from the cache, under a fresh id; another model's answer is its own."""
    first, again = (ask(shop, "counter-a", tensor([7.0]))[2] for _ in range(2))
    assert first["outputs"] == again["outputs"]
    assert first["id"] != again["id"]
    ask(shop, "counter-b", tensor([8.0]))
    other = ask(shop, "counter-b", tensor([7.0]))[2]
    assert (other["model_name"], other["outputs"][0]["data"]) == ("counter-b", [2])
    assert ask(shop, "counter-a", tensor([9.0]))[2]["outputs"][0]["data"] != first["outputs"][0]["data"]


def test_callers_of_one_batch_get_their_own_rows_and_ids(shop):
    """Requests that fit together are predicted together, and each caller has its own rows and its own id back."""
    works = [
        lambda value=value: ask(shop, "rows-seen", tensor([[value]]), id=f"i{value}") for value in (1.0, 2.0, 3.0, 4.0)
    ]
    replies = [reply for _, _, reply in at_once(*works)]
    assert [each["id"] for each in replies] == ["i1.0", "i2.0", "i3.0", "i4.0"]
    assert [each["outputs"][0]["data"] for each in replies] == [[2.0], [4.0], [6.0], [8.0]]
    assert max(each["outputs"][1]["data"][0] for each in replies) > 1


@pytest.mark.parametrize("model", ["iris-batched", "derived-batched"])
class TestNothingOfAnotherCaller:
    """What MLServer mixes when two requests wait for one batch (its four cases), for an official class and a derived."""

    def test_outputs(self, shop, model):
        """A caller who asks for nothing gets predict, though another asks for predict_proba."""
        plain, proba = at_once(
            lambda: ask(shop, model, tensor(TWO)),
            lambda: ask(shop, model, tensor(TWO), outputs=[{"name": "predict_proba"}]),
        )
        assert [[each["name"] for each in reply["outputs"]] for _, _, reply in (plain, proba)] == [
            ["predict"],
            ["predict_proba"],
        ]

    def test_mistakes(self, shop, model):
        """One who sends too few elements is refused alone."""
        good, bad = at_once(
            lambda: ask(shop, model, tensor(TWO)), lambda: ask(shop, model, tensor([1.0, 2.0, 3.0], shape=[1, 4]))
        )
        assert (good[0], bad[0]) == (200, 400)
        assert good[2]["outputs"][0]["data"] == [0, 2]

    def test_nested(self, shop, model):
        """Nested data and flat data are answered alike."""
        nested = {"name": "x", "shape": [2, 4], "datatype": "FP64", "data": TWO}
        replies = at_once(lambda: ask(shop, model, tensor(TWO)), lambda: ask(shop, model, nested))
        assert [(status, reply["outputs"][0]["data"]) for status, _, reply in replies] == [(200, [0, 2])] * 2

    def test_names(self, shop, model):
        """Inputs by other names are answered each."""
        replies = at_once(
            lambda: ask(shop, model, tensor(TWO, name="a")), lambda: ask(shop, model, tensor(TWO[::-1], name="b"))
        )
        assert [(status, reply["outputs"][0]["data"]) for status, _, reply in replies] == [(200, [0, 2]), (200, [2, 0])]


# -- settings and variables --


def test_mlserver_start_takes_the_folders_settings_and_the_environment(serve, tmp_path, iris):
    """Ports and name are the file's, which stands over MLSERVER_ variables; these fill in what it leaves out."""
    ports = set()
    while len(ports) < 3:
        ports.add(free_port())
    rest, grpc_port, metrics = ports
    (tmp_path / "settings.json").write_text(
        json.dumps(
            {
                "host": "127.0.0.1",
                "http_port": rest,
                "grpc_port": grpc_port,
                "server_name": "filed",
                "gzip_enabled": False,
            }
        )
    )
    place = write(tmp_path, "iris", implementation=SKLEARN)
    joblib.dump(fit(iris), place / "other.joblib")
    server = serve(
        tmp_path,
        command=("mlserver", "start"),
        environment={
            "MLSERVER_METRICS_PORT": str(metrics),
            "MLSERVER_METRICS_ENDPOINT": "/measured",
            "MLSERVER_SERVER_NAME": "varied",
            "MLSERVER_EXTENSIONS": '["theirs"]',
            "MLSERVER_MODEL_URI": "./other.joblib",
            "MLSERVER_MODEL_VERSION": "v7",
            "HEADRACE_MODELS_CACHE_DIR": str(tmp_path / "cache"),
        },
    )
    assert (server.http_port, server.grpc_port, server.metrics_port) == (rest, grpc_port, metrics)
    _, headers, reply = server.ask("/v2")
    assert (reply["name"], "theirs" in reply["extensions"]) == ("filed", True)
    status, headers, reply = server.ask(
        "/v2/models/iris/versions/v7/infer", {"inputs": [tensor(np.tile(TWO, (200, 1)))]}, {"Accept-Encoding": "gzip"}
    )
    assert (status, reply["model_version"], headers["Content-Encoding"]) == (200, "v7", None)
    assert headers["Ce-Source"] == "io.seldon.serving.deployment.filed"
    assert "model_infer_request_success_total" in scrape(server, "/measured")


def test_bug_for_bug_where_it_is_asked_for(serve, tmp_path):
    """A model that the environment alone describes, under `--compat mlserver`: envelopes and statuses are MLServer's."""
    (tmp_path / "models.py").write_text(HEAD + FAULTY)
    server = serve(
        tmp_path,
        "--compat",
        "mlserver",
        environment={"MLSERVER_MODEL_NAME": "faulty", "MLSERVER_MODEL_IMPLEMENTATION": "models.Model"},
    )
    assert server.ask("/v2/models/nope/infer", {"inputs": []})[0::2] == (404, {"error": "Model nope not found"})
    status, _, reply = server.ask("/v2/models/faulty/infer", {"inputs": [{"name": "x"}]})
    assert (status, {each["loc"][0] for each in reply["detail"]}) == (422, {"body"})
    assert server.ask("/nowhere")[0::2] == (404, {"detail": "Not Found"})
    assert server.ask("/v2/health/ready")[0::2] == (200, b"")
    assert ask(server, "faulty", tensor(["teapot"]))[0::2] == (
        418,
        {"error": "mlserver.errors.MLServerError: short and stout"},
    )
    assert ask(server, "faulty", tensor(["x"]))[0::2] == (500, {"error": "builtins.ValueError: boom"})
