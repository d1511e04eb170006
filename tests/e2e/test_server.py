"""A server as people run it: plain HTTP, hot reload, crashes, signals. One server per test where the test changes it."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import signal
import threading
import time

import joblib
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from headrace.testing.brokers import free_port, wait_for_port


def test_every_route_of_the_document_answers(server):
    """Each path and method of the OpenAPI document leads to a handler: no 404 for a route, no 405 for a method."""
    _, _, document = server.ask("/openapi.json")
    assert len(document["paths"]) > 20
    for path, operations in document["paths"].items():
        filled = path.replace("{model_name}", "graph").replace("{model}", "graph").replace("{model_version}", "1")
        filled = filled.replace("{version}", "1").replace("{name}", "graph").replace("{job}", "none")
        if "/api/v" in path or any(each in path for each in ("{pipeline}", "{experiment}", "{deployment}")):
            continue  # there is none here; tests of resources ask these
        assert "{" not in filled, path
        if filled.endswith(("/unload", "/load")):
            continue  # they would change the server that the other tests share; test_server loads and unloads its own
        for method in operations:
            status, _, reply = server.ask(filled, b"{}" if method == "post" else None, method=method.upper())
            is_told = any(each in str(reply) for each in ("error_code", "trust f"))  # no such body, no trust folder
            assert status not in {404, 405} or is_told, (method, filled, reply)


@pytest.mark.parametrize("content_type", [None, "application/json", "application/json; charset=utf-8"])
def test_any_spelling_of_json_is_json(server, content_type):
    """A missing content type and one with a charset both mean JSON."""
    body = {"inputs": [{"name": "input-0", "shape": [1, 4], "datatype": "FP64", "data": [5.1, 3.5, 1.4, 0.2]}]}
    status, _, reply = server.ask(
        "/v2/models/linear/infer", body, {"Content-Type": content_type} if content_type else {}
    )
    assert (status, reply["outputs"][0]["data"]) == (200, [0])


def test_compressed_bodies_go_both_ways(server):
    """A gzip body is understood, and a large answer is compressed for who accepts it."""
    rows = np.tile([5.1, 3.5, 1.4, 0.2], (2000, 1))
    tensor = {"name": "input-0", "shape": list(rows.shape), "datatype": "FP64", "data": rows.ravel().tolist()}
    status, headers, reply = server.ask(
        "/v2/models/linear/infer",
        gzip.compress(json.dumps({"inputs": [tensor]}).encode()),
        {"Content-Encoding": "gzip", "Accept-Encoding": "gzip;q=0.5, deflate;q=0.1"},
    )
    assert (status, headers["Content-Encoding"]) == (200, "gzip")
    assert reply["outputs"][0]["data"] == [0] * 2000


def test_an_unknown_encoding_is_refused_by_name(server):
    """A body in an encoding nobody here speaks names those that would do."""
    status, headers, reply = server.ask("/v2/models/linear/infer", b"{}", {"Content-Encoding": "br"})
    assert status == 415
    assert "br" in reply["error"]
    assert headers["Accept-Encoding"] == "gzip, deflate"


def test_request_id_and_trace_context_come_back(server):
    """x-request-id is echoed, and the trace goes on under its own id."""
    trace = "0af7651916cd43dd8448eb211c80319c"
    headers = {"X-Request-Id": "r-1", "traceparent": f"00-{trace}-b7ad6b7169203331-01"}
    _, found, _ = server.ask("/v2/health/live", headers=headers)
    assert found["x-request-id"] == "r-1"
    assert found["traceparent"].split("-")[1] == trace
    assert "b7ad6b7169203331" not in found["traceparent"]


def test_a_streaming_model_streams_over_rest(server):
    """Each partial answer is one server-sent event."""
    name = server.ask("/v2/models/custom")[2]["inputs"][0]["name"]
    tensor = {"name": name, "shape": [3], "datatype": "BYTES", "data": ["a", "b", "c"]}
    status, headers, body = server.ask("/v2/models/custom/infer_stream", {"inputs": [tensor]})
    assert status == 200
    assert headers.get_content_type() == "text/event-stream"
    events = [json.loads(event.removeprefix(b"data: ")) for event in body.strip().split(b"\n\n")]
    assert [event["outputs"][0]["data"] for event in events] == [["A"], ["B"], ["C"]]


def test_metrics_count_what_was_asked(server):
    """A request shows in the metrics under its model, protocol and status."""
    import urllib.request

    server.infer("linear", [[5.1, 3.5, 1.4, 0.2]])
    with urllib.request.urlopen(f"http://127.0.0.1:{server.metrics_port}/metrics", timeout=60) as reply:
        text = reply.read().decode()
    line = 'headrace_requests_total{model="linear",protocol="v2_rest",status="ok",version=""}'
    assert any(row.startswith(line) and float(row.split()[-1]) >= 1 for row in text.splitlines()), text
    assert 'headrace_model_ready{model="linear",version=""} 1.0' in text


def test_calls_of_grpc_show_under_the_names_of_mlserver(serve, tmp_path, iris):
    """With the aliases on, a gRPC call is counted and timed in the metrics that MLServer's dashboards read."""
    import urllib.request

    import tritonclient.grpc

    joblib.dump(fit(*iris), tmp_path / "m.joblib")
    server = serve(tmp_path / "m.joblib", "--optimize", "off", environment={"HEADRACE_METRICS_ALIASES": "mlserver"})
    with tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{server.grpc_port}") as client:
        assert client.is_server_live()
    with urllib.request.urlopen(f"http://127.0.0.1:{server.metrics_port}/metrics", timeout=60) as reply:
        text = reply.read().decode()
    for name in ("grpc_server_started_total", "grpc_server_handling_seconds_count"):
        (row,) = [row for row in text.splitlines() if row.startswith(name) and 'grpc_method="ServerLive"' in row]
        assert float(row.split()[-1]) == 1, row


def test_metadata_says_which_engine_answers(server):
    """The forest answers while an engine is looked for; then its metadata names the engines and the proof."""
    deadline = time.monotonic() + 90
    while True:
        _, _, reply = server.ask("/v2/models/forest")
        assert reply["platform"] == "sklearn"
        if not reply["properties"]["engine.check"].startswith("not yet"):
            break
        assert time.monotonic() < deadline, reply
        assert server.infer("forest", np.zeros((1, 30)))["predict"].shape == (1,)
        time.sleep(0.2)
    assert "onnx" in reply["properties"]["engine"]


def fit(rows, labels, constant=None):
    model = LogisticRegression(max_iter=500).fit(rows, labels)
    if constant is not None:
        model.intercept_ = np.where(np.arange(len(model.intercept_)) == constant, 1e6, -1e6)
    return model


def test_a_new_version_takes_over_without_one_failed_request(serve, tmp_path, iris):
    """While callers hammer a model, versions come and go; every request is answered, by one version or the other."""
    folder = tmp_path / "models" / "m"
    (folder / "1").mkdir(parents=True)
    joblib.dump(fit(*iris, constant=0), folder / "1" / "model.joblib")
    server = serve(folder.parent, "--watch", "100ms", "--optimize", "off")
    failures, seen, stop = [], set(), threading.Event()

    def hammer():
        while not stop.is_set():
            try:
                seen.add(int(server.infer("m", [[5.1, 3.5, 1.4, 0.2]])["predict"][0]))
            except Exception as error:  # noqa: BLE001 - whatever it is, it is what the test is about
                failures.append(repr(error))

    threads = [threading.Thread(target=hammer) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for version in (2, 3):
            incoming = tmp_path / "incoming"
            incoming.mkdir()
            joblib.dump(fit(*iris, constant=version - 1), incoming / "model.joblib")
            incoming.rename(folder / str(version))
            deadline = time.monotonic() + 60
            while version - 1 not in seen and time.monotonic() < deadline:
                time.sleep(0.05)
        shutil.rmtree(folder / "3")
        seen.clear()
        deadline = time.monotonic() + 60
        while 1 not in seen and time.monotonic() < deadline:
            time.sleep(0.05)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not failures
    assert 1 in seen


def test_load_and_unload_over_rest(serve, tmp_path, iris):
    """An unloaded model is unavailable with its reason, the server stays ready, and load brings it back."""
    (tmp_path / "m").mkdir()
    joblib.dump(fit(*iris), tmp_path / "m" / "model.joblib")
    server = serve(tmp_path / "m", "--optimize", "off")
    assert server.ask("/v2/repository/models/m/unload", b"")[0] == 200
    _, _, index = server.ask("/v2/repository/index", {})
    assert (index[0]["state"], index[0]["reason"]) == ("UNAVAILABLE", "unloaded")
    assert server.ask("/v2/models/m/ready")[0] != 200
    assert server.ask("/v2/health/ready")[0] == 200
    assert server.ask("/v2/repository/models/m/load", b"")[0] == 200
    assert server.infer("m", [[5.1, 3.5, 1.4, 0.2]])["predict"] == [0]
    assert server.ask("/v2/repository/models/nobody/load", b"")[0] == 404


def test_one_broken_model_does_not_stop_the_others(serve, tmp_path, iris):
    """Under degrade the server is ready with the good one; the index and the model's own readiness tell of the other."""
    for name in ("good", "bad"):
        (tmp_path / name).mkdir()
    joblib.dump(fit(*iris), tmp_path / "good" / "model.joblib")
    joblib.dump(fit(*iris), tmp_path / "bad" / "model.joblib")
    (tmp_path / "bad" / "headrace.yaml").write_text(
        "warm_up:\n- inputs: [{name: x, shape: [1, 9], datatype: FP32, data: [1,2,3,4,5,6,7,8,9]}]\n"
    )
    server = serve(tmp_path, "--startup-policy", "degrade", "--optimize", "off")
    assert server.infer("good", [[5.1, 3.5, 1.4, 0.2]])["predict"] == [0]
    entries = {entry["name"]: entry for entry in server.ask("/v2/repository/index", {})[2]}
    assert entries["bad"]["state"] == "UNAVAILABLE"
    assert "warm-up" in entries["bad"]["reason"]
    assert server.ask("/v2/health/ready")[0] == 200
    assert server.ask("/v2/models/bad/ready")[0] == 503


def test_a_worker_that_is_killed_is_replaced(serve, tmp_path):
    """A model that takes its process down costs its own request a 503 with the cause, and answers again soon."""
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "model.py").write_text(
        "import os\nimport numpy as np\n\n\nclass Model:\n    def predict(self, x: np.ndarray) -> np.ndarray:\n"
        "        if x[0] < 0:\n            os._exit(7)\n        return x\n"
    )
    server = serve(tmp_path / "m", "--placement", "process")
    name = server.ask("/v2/models/m")[2]["inputs"][0]["name"]

    def ask(value):
        tensor = {"name": name, "shape": [1], "datatype": "FP64", "data": [value]}
        return server.ask("/v2/models/m/infer", {"inputs": [tensor]})

    assert ask(1.0)[0] == 200
    status, _, reply = ask(-1.0)
    assert status == 503
    assert "7" in reply["error"]
    deadline = time.monotonic() + 60
    while ask(1.0)[0] != 200 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert ask(1.0)[0] == 200


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_requests_end_and_the_server_exits_well(serve, tmp_path, number):
    """A request in flight at the signal is answered; the exit code is 0 and nothing is left behind."""
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "model.py").write_text(
        "import asyncio\nfrom pathlib import Path\nimport numpy as np\n\n\nclass Model:\n"
        "    async def predict(self, x: np.ndarray) -> np.ndarray:\n"
        f"        Path({str(tmp_path / 'begun')!r}).touch()\n        await asyncio.sleep(0.5)\n        return x\n"
    )
    server = serve(tmp_path / "m")
    name = server.ask("/v2/models/m")[2]["inputs"][0]["name"]
    answers = []
    tensor = {"name": name, "shape": [1], "datatype": "FP64", "data": [1.0]}
    thread = threading.Thread(target=lambda: answers.append(server.ask("/v2/models/m/infer", {"inputs": [tensor]})[0]))
    thread.start()
    deadline = time.monotonic() + 60
    while not (tmp_path / "begun").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(server.process.pid, number)
    thread.join()
    assert answers == [200]
    assert server.process.wait(timeout=60) == 0


def test_a_signal_while_models_load_ends_the_server_at_once(tmp_path):
    """SIGTERM during a long load ends the process with 0, whatever the load is doing."""
    import subprocess
    import sys

    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "model.py").write_text(
        "import time\n\n\nclass Model:\n    def load(self):\n        time.sleep(60)\n\n    def predict(self, x):\n        return x\n"
    )
    port = free_port()
    command = [sys.executable, "-m", "headrace", "serve", str(tmp_path / "m"), "--port", str(port), "--grpc-port", "0"]
    process = subprocess.Popen([*command, "--metrics-port", "0"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for_port(port, 60, process=process)  # health answers while the model loads
    process.terminate()
    assert process.wait(timeout=60) == 0
