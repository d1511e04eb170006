"""Why, how it fares, what was true: REST over real sockets and gRPC by tritonclient, with real explanations of a model
that is a small coroutine, asked by the client and the command that people use.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import runpy
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tritonclient.grpc as triton
import uvloop
from click.testing import CliRunner

from headrace.cli.group import headrace as command
from headrace.client import Client
from headrace.errors import InvalidRequest, ModelNotFound, NotFound
from headrace.monitoring.metrics import Metrics
from headrace.monitoring.settings import TrustSettings
from headrace.payload import InferenceResponse, Route, RouteResponse, Signature, Tensor, TensorSpec
from headrace.protocols import v2_control
from headrace.server.grpc import GrpcServer
from headrace.server.http import HttpLimits, HttpServer
from headrace.server.rest import Rest, RestSettings
from headrace.serving.explain import Explaining
from headrace.serving.models import Models, Served, State
from headrace.serving.spec import ModelSpec

trust_folders = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "serving" / "trust_folders.py")))
SIGNATURE = Signature(
    platform="test",
    inputs=(TensorSpec(name="x", datatype="FP64", shape=(-1, 4)),),
    outputs=(TensorSpec(name="p", datatype="FP64", shape=(-1, 2)),),
)
ROW = [[2.0, 0.5, -1.0, 0.0]]
BODY = {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP64", "data": ROW[0]}]}


class Watch:
    """What watches `m` version 1, in memory: it knows one request, `r1`."""

    def __init__(self):
        self.labels = {}

    async def status(self, model, version):
        if (model, version) != ("m", "1"):
            raise NotFound(f"nothing watches {model}")
        return {"model": model, "detectors": []}

    async def report(self, model, version):
        return b"<!doctype html><title>m</title>"

    async def label(self, model, version, request_id, labels):
        if (model, version) != ("m", "1"):
            raise NotFound(f"nothing watches {model}")
        self.labels[request_id] = labels
        return request_id == "r1"


class Host:
    """A server of both wires, on a loop of its own in a thread."""

    def __init__(self, folder):
        self.folder, self.models, self.watch = folder, Models(), Watch()
        self.gate = threading.Event()
        self.gate.set()
        self.asked = threading.Semaphore(0)
        self.ready = threading.Event()
        self.thread = threading.Thread(target=lambda: uvloop.run(self.main()), daemon=True)

    def __enter__(self):
        self.thread.start()
        assert self.ready.wait(20)
        return self

    def __exit__(self, *_):
        self.gate.set()
        self.loop.call_soon_threadsafe(self.finish.set)
        self.thread.join(20)
        assert not self.thread.is_alive()

    async def infer(self, request):
        if request.headers.get("headrace-internal"):
            self.asked.release()
        while request.headers.get("headrace-internal") and not self.gate.is_set():
            await asyncio.sleep(0.01)
        output = Tensor("p", "FP64", trust_folders.probabilities(request.inputs[0].data))
        return InferenceResponse(model_name="m", model_version="1", id=request.id, outputs=(output,))

    async def main(self):
        self.loop, self.finish = asyncio.get_running_loop(), asyncio.Event()
        self.explaining = Explaining(TrustSettings(explain_processes=1, explain_queue=2))
        explainable = self.explaining.add(model="m", version="1", folder=self.folder, infer=self.infer)
        self.put("m", version="1", infer=self.infer, signature=SIGNATURE, explain=explainable)
        self.put("m-explainer", infer=explainable.infer(name="m-explainer"))
        self.put("plain", infer=self.infer, signature=SIGNATURE)
        loaded = await self.explaining.load(
            ModelSpec(name="of-mlserver", runtime="explainer", parameters={"model": "m", "method": "permutation-shap"}),
            ask=self.models.asking,
            explain=self.models.explain,
        )
        self.put("of-mlserver", infer=loaded.infer, explain=loaded.explain, routes=loaded.routes, visit=loaded.visit)
        spec = ModelSpec(
            name="dep-explainer",
            runtime="explainer",
            parameters={"model": "m", "method": "anchor-tabular", "endpoint": "dep"},
        )
        loaded = await self.explaining.load(spec, ask=self.models.asking, explain=self.models.explain)
        self.put("dep", kind="pipeline", infer=self.infer, signature=SIGNATURE, graph=True)
        self.put("dep-explainer", infer=loaded.infer, explain=loaded.explain, explains_at=spec.explains_at)
        self.put("two-main-explainer", infer=loaded.infer, explain=loaded.explain)
        self.put("own", infer=self.infer, routes=(Route(method="POST", path="/why", name="why"),), visit=self.visit)
        metrics = Metrics()
        rest = Rest(
            self.models,
            self,
            RestSettings(),
            statistics=lambda served: v2_control.Statistics(name=served.name, version=served.version),
            counts=metrics.http,
            trust=self.watch,
        )
        server, grpc = HttpServer(rest, limits=HttpLimits()), GrpcServer(self.models, self)
        self.port, self.grpc_port = await server.start("127.0.0.1", 0), await grpc.start("127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self.port}"
        self.ready.set()
        await self.finish.wait()
        await asyncio.gather(server.stop(1), grpc.stop(1))
        await self.explaining.close()

    async def visit(self, request):
        return RouteResponse(body=b'"because"', headers=(("content-type", "application/json"),))

    async def load(self, name, parameters):
        raise NotFound(name)

    async def unload(self, name, *, unload_dependents=False):
        raise NotFound(name)

    def put(self, name, **fields):
        served = Served(name=name, **fields)
        self.models.put(served)
        self.models.changed(served, State.READY)

    def ask(self, method, path, body=None, **headers):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        content = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        connection.request(method, path, content, {name.replace("_", "-"): each for name, each in headers.items()})
        response = connection.getresponse()
        answer = response.status, dict(response.getheaders()), response.read()
        connection.close()
        return answer

    @property
    def pid(self):
        (pid,) = self.explaining.pids
        return pid


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A server that tests share which change nothing."""
    with Host(trust_folders.write(tmp_path_factory.mktemp("m") / "trust")) as host:
        yield host


@pytest.fixture
def host(tmp_path):
    """A server of one's own."""
    with Host(trust_folders.write(tmp_path / "trust")) as host:
        yield host


def body(**parameters):
    return {**BODY, "parameters": parameters}


@pytest.mark.parametrize("path", ["/v2/models/m/explain", "/v2/models/m/versions/1/explain"])
def test_a_model_says_why(shared, path):
    """The machine form names model, explainer and method, and has data, text and what it cost."""
    status, headers, content = shared.ask("POST", path, body(explain_parameters={"permutations": 4}))
    answer = json.loads(content)
    (only,) = answer["explanations"]
    assert (status, headers["content-type"]) == (200, "application/json")
    assert (answer["model_name"], answer["model_version"], answer["explainer"]) == ("m", "1", "why")
    assert (only["meta"]["name"], only["meta"]["params"]["permutations"]) == ("permutation-shap", 4)
    assert only["data"]["shap_values"]
    assert only["complete"]
    assert only["model_rows"] > 0


def test_v1_says_why(shared):
    """V1 answers `explanations`, and of one row the bare explanation that KServe's clients read."""
    status, _, content = shared.ask(
        "POST", "/v1/models/m:explain", {"instances": ROW, "parameters": {"explainer": "why"}}
    )
    answer = json.loads(content)
    assert status == 200
    assert answer["data"] == answer["explanations"][0]["data"]
    assert answer["meta"]["name"] == "permutation-shap"
    status, _, content = shared.ask("POST", "/v1/models/m:explain", {"instances": ROW * 2, "deadline_ms": 5000})
    assert len(json.loads(content)["explanations"]) == 2


MESSAGE = {"data": {"ndarray": ROW}}
V1 = {"instances": ROW}


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("/v1/models/dep:explain", V1),
        ("/v1/models/dep-explainer:explain", V1),
        ("/v2/models/dep/explain", BODY),
        ("/seldon/ns/dep-explainer/default/api/v1.0/explain", MESSAGE),
        ("/seldon/ns/dep-explainer/default/v1/models/dep:explain", V1),
        ("/seldon/ns/dep-explainer/default/v2/models/dep/explain", BODY),
        ("/seldon/ns/two-explainer/main/api/v1.0/explain", MESSAGE),
    ],
)
def test_what_is_declared_to_explain_a_name_is_asked_there(shared, path, content):
    """A deployment that cannot be explained itself is, by the model that was declared to, at every name of either."""
    status, _, answer = shared.ask("POST", path, content)
    document = json.loads(answer)
    assert status == 200, document
    assert document["explanations"][0]["meta"]["name"] == "anchor-tabular"
    assert "precision" in document["explanations"][0]["data"]


def test_a_deployments_explainer_answers_as_mlservers(shared):
    """Below the paths of a deployment's explainer, V2's inference answers the output `explanation`."""
    status, _, answer = shared.ask("POST", "/seldon/ns/dep-explainer/default/v2/models/whatever/infer", BODY)
    assert (status, json.loads(answer)["outputs"][0]["name"]) == (200, "explanation")


def test_a_job_of_what_is_declared_to_explain_is_found_where_it_says(shared):
    """The address of a job that a deployment's name was asked for leads to it."""
    status, headers, _ = shared.ask("POST", "/v2/models/dep/explain", body(mode="job"))
    assert status == 202
    deadline = time.monotonic() + 50
    while (job := json.loads(shared.ask("GET", headers["location"])[2]))["state"] in {"queued", "running"}:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert (job["state"], job["result"]["method"]) == ("done", "anchor-tabular")


@pytest.mark.parametrize(
    ("headers", "parameters"), [({"accept": "text/plain"}, {}), ({}, {"format": "text"})], ids=["header", "parameter"]
)
def test_a_person_can_read_it(shared, headers, parameters):
    """The readable form is the text alone, by a header or a parameter."""
    status, came, content = shared.ask("POST", "/v2/models/m/explain", body(**parameters), **headers)
    assert (status, came["content-type"]) == (200, "text/plain; charset=utf-8")
    assert "yes" in content.decode()


@pytest.mark.parametrize("kind", ["image/svg+xml", "image/png"])
def test_a_picture_is_answered(shared, kind):
    """By the header, the answer is the picture itself."""
    status, headers, content = shared.ask("POST", "/v2/models/m/explain", BODY, accept=kind)
    assert (status, headers["content-type"]) == (200, kind)
    assert b"svg" in content[:500] or content.startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("path", "content", "status", "text"),
    [
        ("/v2/models/plain/explain", BODY, 404, "headrace trust fit"),
        ("/v1/models/plain:explain", {"instances": ROW}, 404, "headrace trust fit"),
        ("/v2/models/nobody/explain", BODY, 404, "'nobody' is not found"),
        ("/v2/models/m/explain", body(explainr="x"), 400, "did you mean 'explainer'"),
        ("/v2/models/m/explain", body(explainer="permutation-shp"), 400, "did you mean 'permutation-shap'"),
        ("/v2/models/m/explain", body(explain_parameters={"permutation": 3}), 400, "did you mean 'permutations'"),
        ("/v2/models/m/explain", body(deadline_ms=-1), 400, "deadline_ms"),
        ("/v2/models/m/explain", body(rows=[4]), 400, "row 4"),
        ("/v2/models/m/explain", b"{", 400, "JSON"),
        ("/v1/models/m:explain", {"instances": [[1.0]]}, 400, "x"),
    ],
    ids=[
        "no explainer", "no explainer, V1", "no model", "unknown parameter", "unknown explainer", "unknown option",
        "a deadline before now", "no such row", "no JSON", "too few columns",
    ],
)  # fmt: skip
def test_what_is_wrong_is_told(shared, path, content, status, text):
    """Each mistake is answered with its status, and a text that says what would be right."""
    came, _, answer = shared.ask("POST", path, content)
    assert (came, text in json.loads(answer)["error"]) == (status, True), answer


def test_a_model_named_in_the_folder_explains_over_grpc(shared):
    """A client of Triton asks it as any model: one JSON a row, with options as JSON in a text parameter."""
    with triton.InferenceServerClient(f"127.0.0.1:{shared.grpc_port}") as client:
        given = triton.InferInput("x", [2, 4], "FP64")
        given.set_data_from_numpy(np.array(ROW * 2))
        result = client.infer("m-explainer", [given], parameters={"explain_parameters": '{"permutations": 4}'})
    explanations = [json.loads(each) for each in result.as_numpy("explanation")]
    assert [each["row"] for each in explanations] == [0, 1]
    assert explanations[0]["meta"]["params"]["permutations"] == 4


def test_a_model_named_in_the_folder_explains_over_rest(shared):
    """Its answer is an inference response with the headers of Seldon's explainers."""
    status, headers, content = shared.ask("POST", "/v2/models/m-explainer/infer", BODY)
    (output,) = json.loads(content)["outputs"]
    assert (status, output["name"], output["datatype"]) == (200, "explanation", "BYTES")
    assert headers["x-seldon-alibi-type"] == "explanation"
    assert json.loads(output["data"][0])["data"]["shap_values"]


def test_a_model_made_for_mlserver_explains_as_there(shared):
    """`POST /explain` answers the bare explanation, and `/v2/models/M/explain` in our form."""
    status, _, content = shared.ask("POST", "/explain", BODY)
    assert (status, json.loads(content)["meta"]["name"]) == (200, "permutation-shap")
    status, _, content = shared.ask("POST", "/v2/models/of-mlserver/explain", BODY)
    assert json.loads(content)["explanations"][0]["meta"]["name"] == "permutation-shap"


def test_a_route_of_a_models_own_stays_its_own(host):
    """Where a model has a route of the path that explanations have, the model's own code answers."""
    routes = (Route(method="POST", path="/v2/models/m/explain", name="why"),)
    host.put("m2", infer=host.infer, routes=routes, visit=host.visit)
    assert host.ask("POST", "/v2/models/m/explain", BODY)[2] == b'"because"'
    host.put("m2", infer=host.infer)
    host.put("m3", infer=host.infer, visit=host.visit, routes=(Route(method="POST", path="/explain", name="why"),))
    assert host.ask("POST", "/v2/models/m3/explain", BODY)[2] == b'"because"'
    assert json.loads(host.ask("POST", "/v2/models/m/explain", BODY)[2])["explanations"]


# -- jobs --


def test_a_job_is_asked_for_until_it_is_done(host):
    """202 with the address; there, progress while it runs, then the answer, in the form asked for; DELETE forgets it."""
    host.gate.clear()
    status, headers, content = host.ask("POST", "/v2/models/m/explain", body(mode="job"))
    location = headers["location"]
    assert (status, json.loads(content)["location"]) == (202, location)
    assert location.startswith("/v2/models/m/versions/1/explain/jobs/")
    assert host.asked.acquire(timeout=20)
    running = json.loads(host.ask("GET", location)[2])
    assert (running["state"], "result" in running) == ("running", False)
    assert running["progress"]["model_rows"] > 0
    host.gate.set()
    done = _done(host, location)
    assert done["result"]["explanations"][0]["data"]["shap_values"]
    assert host.ask("GET", location, accept="text/plain")[1]["content-type"].startswith("text/plain")
    assert host.ask("DELETE", location)[0] == 200
    assert host.ask("GET", location)[0] == 404


def test_a_job_can_be_cancelled(host):
    """DELETE ends a running job, and the next one is made."""
    host.gate.clear()
    _, headers, _ = host.ask("POST", "/v2/models/m/explain", body(mode="job"))
    assert host.asked.acquire(timeout=20)
    status, _, content = host.ask("DELETE", headers["location"])
    assert (status, json.loads(content)["state"]) == (200, "cancelled")
    host.gate.set()
    _, headers, _ = host.ask("POST", "/v2/models/m/explain", body(mode="job"))
    assert _done(host, headers["location"])["state"] == "done"


# -- under load, and when things break --


def test_callers_come_at_once(host):
    """Of ten callers at once with one process and two places, three are answered and seven told to come back; the
    model answers everybody else meanwhile.
    """
    host.ask("POST", "/v2/models/m/explain", BODY)
    host.gate.clear()
    with ThreadPoolExecutor(10) as threads:
        calls = [threads.submit(host.ask, "POST", "/v2/models/m/explain", BODY) for _ in range(10)]
        refused = 0
        while refused < 7:
            refused = sum(each.done() for each in calls)
            began = time.perf_counter()
            assert host.ask("POST", "/v2/models/m/infer", BODY)[0] == 200
            assert time.perf_counter() - began < 20  # not until the gate opens
        host.gate.set()
        answers = [each.result(30) for each in calls]
    assert sorted(status for status, _, _ in answers) == [200] * 3 + [503] * 7
    assert all("retry-after" in headers for status, headers, _ in answers if status == 503)


def test_a_deadline_is_kept(host):
    """A model that hangs costs the caller its deadline, and the answer says that it is incomplete."""
    host.ask("POST", "/v2/models/m/explain", BODY)
    host.gate.clear()
    began = time.monotonic()
    status, _, content = host.ask("POST", "/v2/models/m/explain", body(deadline_ms=300))
    assert time.monotonic() - began < 20  # not until the gate opens
    assert (status, json.loads(content)["explanations"][0]["complete"]) == (200, False)


def test_a_process_that_is_killed_is_one_callers_loss(host):
    """A kill -9 of the process is 503 for its caller, and the next caller is answered."""
    host.ask("POST", "/v2/models/m/explain", BODY)
    while host.asked.acquire(blocking=False):
        pass
    host.gate.clear()
    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(host.ask, "POST", "/v2/models/m/explain", BODY)
        assert host.asked.acquire(timeout=20)
        os.kill(host.pid, signal.SIGKILL)
        assert call.result(30)[0] == 503
    host.gate.set()
    assert host.ask("POST", "/v2/models/m/explain", BODY)[0] == 200


def test_a_caller_that_hangs_up_frees_its_place(host):
    """When the connection is closed, the explanation ends and its process makes the next."""
    host.ask("POST", "/v2/models/m/explain", BODY)
    pid = host.pid
    while host.asked.acquire(blocking=False):
        pass
    host.gate.clear()
    content = json.dumps(BODY).encode()
    with socket.create_connection(("127.0.0.1", host.port)) as connection:
        head = b"POST /v2/models/m/explain HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(content)
        connection.sendall(head + content)
        assert host.asked.acquire(timeout=20)
    host.gate.set()
    assert host.ask("POST", "/v2/models/m/explain", BODY)[0] == 200
    assert host.pid == pid


# -- client and command --


def test_the_client_explains(shared):
    """An explanation by the client has data and text; as a job it tells how far it is."""
    with Client(shared.url) as client:
        (only,) = client.explain(ROW, model="m", options={"permutations": 4})
        assert only.meta["params"]["permutations"] == 4
        told = []
        (by_job,) = client.explain(ROW * 3, model="m", rows=[2], progress=told.append)
        assert by_job.row == 2
        assert told[0].state in {"queued", "running"}
        with pytest.raises(InvalidRequest, match="no explainer 'nothing'"):
            client.explain(ROW, model="m", explainer="nothing")
        with pytest.raises(ModelNotFound, match="trust fit"):
            client.explain(ROW, model="plain")


def test_a_client_that_gives_up_ends_its_job(host):
    """An interrupt while the client waits cancels the job on the server."""
    host.gate.clear()

    def give_up(progress):
        raise KeyboardInterrupt

    with Client(host.url) as client, pytest.raises(KeyboardInterrupt):
        client.explain(ROW, model="m", progress=give_up)
    host.gate.set()
    with Client(host.url) as client:
        assert client.explain(ROW, model="m")


def test_the_command_explains(shared, tmp_path):
    """`headrace explain` prints the text of the first row, or JSON of those that are named, or writes a file."""
    rows = tmp_path / "rows.csv"
    rows.write_text("2,0.5,-1,0\n-2,0.5,-1,0\n")
    run = CliRunner().invoke
    told = run(command, ["explain", "m", str(rows), "--url", shared.url])
    assert told.exit_code == 0, told.output
    assert "yes" in told.stdout
    arguments = [
        "--format",
        "json",
        "--row",
        "1",
        "--option",
        "permutations=4",
        "--deadline",
        "5s",
        "--url",
        shared.url,
    ]
    told = run(command, ["explain", "m", str(rows), *arguments])
    (only,) = json.loads(told.stdout)
    assert (only["row"], only["meta"]["params"]["permutations"]) == (1, 4)
    target = tmp_path / "why.json"
    told = run(command, ["explain", "m", str(rows), "--all-rows", "-o", str(target), "--url", shared.url])
    assert len(json.loads(target.read_text())) == 2
    picture = tmp_path / "why.svg"
    told = run(command, ["explain", "m", str(rows), "-o", str(picture), "--url", shared.url])
    assert "<svg" in picture.read_text()
    told = run(command, ["explain", "m", str(rows), "--deadline", "soon", "--url", shared.url])
    assert (told.exit_code, "such as 5s" in told.stderr) == (2, True)


# -- status, report, labels --


def test_what_watches_a_model_is_shown(shared):
    """Status is JSON, the report a page; a model that nobody watches is not found."""
    assert json.loads(shared.ask("GET", "/v2/models/m/trust")[2]) == {"model": "m", "detectors": []}
    status, headers, _ = shared.ask("GET", "/v2/models/m/versions/1/trust/report")
    assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert shared.ask("GET", "/v2/models/plain/trust")[0] == 404


@pytest.mark.parametrize(
    ("path", "content", "joined"),
    [
        ("/v2/models/m/feedback", {"id": "r1", "labels": [1]}, 1),
        ("/v2/models/m/versions/1/feedback", {"id": "r2", "truth": [1]}, 0),
        ("/v2/models/m/feedback", [{"id": "r1", "labels": ["yes"]}, {"id": "r3", "labels": [None]}], 1),
    ],
    ids=["labels", "truth of a request that nobody knows", "several"],
)
def test_what_was_true_is_handed_on(shared, path, content, joined):
    """Labels reach what watches the model, and the answer says of how many the request was known."""
    status, _, answer = shared.ask("POST", path, content)
    assert (status, json.loads(answer)["joined"]) == (200, joined)
    assert "r1" in shared.watch.labels or joined == 0


def test_truth_in_seldons_feedback_is_handed_on(shared):
    """Seldon Core v1's feedback with `truth` reaches what watches the model, as its clients send it."""
    content = {
        "response": {"meta": {"puid": "r9"}},
        "truth": {"data": {"ndarray": [[1], [0]]}},
        "reward": 1,
    }
    assert shared.ask("POST", "/api/v1.0/feedback", content, seldon_model="m")[0] in {200, 501}
    assert shared.watch.labels["r9"] == [1, 0]


def test_a_reward_needs_somebody_who_learns(shared):
    """A reward is for routers: of a model without one it is refused, as before there were labels."""
    assert shared.ask("POST", "/v2/models/m/feedback", {"id": "r1", "reward": 1})[0] == 501
    assert shared.ask("POST", "/v2/models/m/feedback", {"id": "r1"})[0] == 400


def _done(host, location):
    for _ in range(200):
        status = json.loads(host.ask("GET", location)[2])
        if status["state"] not in {"queued", "running"}:
            return status
        time.sleep(0.05)
    raise AssertionError(status)
