"""A real server, in a process of its own, on models saved as people save them."""

from __future__ import annotations

import gzip
import json
import os
import queue
import re
import subprocess
import sys
import threading
import urllib.error
import urllib.request

import joblib
import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

CUSTOM = """
import time
import numpy as np


class Custom:
    def predict(self, words: list[str]) -> list[str]:
        return [word.upper() for word in words]

    def predict_stream(self, words: list[str]):
        for word in words:
            yield [word.upper()]
"""


class Server:
    """A server process: its ports, and plain HTTP."""

    def __init__(self, process, http_port, grpc_port, metrics_port):
        self.process, self.http_port, self.grpc_port, self.metrics_port = process, http_port, grpc_port, metrics_port
        self.url = f"http://127.0.0.1:{http_port}"

    def ask(self, path, body=None, headers=None, method=None):
        """Status, headers and parsed body of one request."""
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, headers or {}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=30) as reply:
                status, found, content = reply.status, reply.headers, reply.read()
        except urllib.error.HTTPError as error:
            status, found, content = error.code, error.headers, error.read()
        if found["Content-Encoding"] == "gzip":
            content = gzip.decompress(content)
        kind = found.get_content_type()
        return status, found, json.loads(content) if kind == "application/json" and content else content

    def infer(self, model, rows, *, name="input-0", datatype="FP64", **rest):
        """One V2 request; the outputs by name."""
        tensor = {"name": name, "shape": list(np.shape(rows)), "datatype": datatype, "data": np.asarray(rows).tolist()}
        status, _, reply = self.ask(f"/v2/models/{model}/infer", {"inputs": [tensor], **rest})
        assert status == 200, reply
        return {each["name"]: np.array(each["data"]).reshape(each["shape"]) for each in reply["outputs"]}


@pytest.fixture(scope="session")
def serve(tmp_path_factory):
    """Start a server on paths and flags; all are ended with the session."""
    started = []
    cache = tmp_path_factory.mktemp("cache")

    own = ("serve", "--port", "0", "--grpc-port", "0", "--metrics-port", "0", "--cache-dir", str(cache))

    def start(*arguments, environment=None, command=own):
        command = [sys.executable, "-m", "headrace", *command, *map(str, arguments)]
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **(environment or {})},
        )
        lines: queue.Queue[str | None] = queue.Queue()
        errors: list[str] = []
        threading.Thread(target=lambda: [*map(lines.put, process.stdout), lines.put(None)], daemon=True).start()
        threading.Thread(target=lambda: errors.extend(process.stderr), daemon=True).start()
        started.append(process)
        ports, seen = {}, []
        while len(ports) < 3 + ("--control-port" in arguments):
            line = lines.get(timeout=60)
            if line is None:
                process.wait(timeout=60)
                pytest.fail(f"the server ended with {process.returncode}: {''.join(seen)}{''.join(errors)}")
            seen.append(line)
            found = re.match(r"(REST|gRPC|metrics|control)\s+\S*?:(\d+)(/\S*)?(\s|$)", line.replace("http://", ""))
            if found:
                ports[found[1]] = int(found[2])
        server = Server(process, ports["REST"], ports["gRPC"], ports["metrics"])
        server.errors = errors
        server.control_url = f"http://127.0.0.1:{ports['control']}" if "control" in ports else ""
        return server

    start.started = started
    yield start
    end(started)


def end(processes):
    """End them all, and take them off the list."""
    for process in processes:
        process.terminate()
    while processes:
        process = processes.pop()
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        finally:
            process.stdout.close()
            process.stderr.close()


@pytest.fixture(autouse=True)
def leaves_no_server(serve):
    """What a test started ends with it: servers that wait for messages cost the next tests their time."""
    before = len(serve.started)
    yield
    own = serve.started[before:]
    del serve.started[before:]
    for process in own:  # at once: what one waits for may be gone already
        process.kill()
    end(own)


@pytest.fixture(scope="session")
def iris():
    """Rows and labels."""
    return load_iris(return_X_y=True)


@pytest.fixture(scope="session")
def saved(tmp_path_factory, iris):
    """A folder of models, and the estimators they came from."""
    from skl2onnx import to_onnx

    folder = tmp_path_factory.mktemp("models")
    rows, labels = iris
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500)).fit(rows, labels)
    (folder / "linear").mkdir()
    joblib.dump(pipeline, folder / "linear" / "model.joblib")
    graph = to_onnx(pipeline, rows[:1].astype(np.float32), options={"zipmap": False}, target_opset=17)
    (folder / "graph" / "1").mkdir(parents=True)
    (folder / "graph" / "1" / "model.onnx").write_bytes(graph.SerializeToString())
    cancer, benign = load_breast_cancer(return_X_y=True)
    forest = RandomForestClassifier(50, random_state=0).fit(cancer, benign)
    (folder / "forest").mkdir()
    joblib.dump(forest, folder / "forest" / "model.joblib")
    (folder / "custom").mkdir()
    (folder / "custom" / "model.py").write_text(CUSTOM)
    return folder, {"linear": pipeline, "graph": pipeline, "forest": forest}


@pytest.fixture(scope="session")
def server(serve, saved):
    """One server on all of them, shared by tests that change nothing."""
    return serve(saved[0])
