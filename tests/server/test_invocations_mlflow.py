"""`/invocations` against MLflow's own scoring server: the same models, the same bodies, the same statuses and values.

The reference is `mlflow.pyfunc.scoring_server`, the application that `mlflow models serve` runs, on a port, with each
model at a path of its own, so that one process is enough. What is meant to differ stands in `BETTER`, with both sides.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

import headrace

pytest.importorskip("mlflow")
pytest.importorskip("uvicorn")
pytestmark = pytest.mark.timeout(240)

MAKE = """
import sys, warnings
warnings.simplefilter("ignore")
import numpy as np, pandas as pd, mlflow
from mlflow.models import ModelSignature, infer_signature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
from sklearn.linear_model import LogisticRegression

class Mixed(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        frame, what, k = model_input, params["what"], params["k"]
        if what == "frame":
            return pd.DataFrame({"sum": frame["d"] * k + frame["l"], "text": frame["s"].astype(str)})
        if what == "array":
            return np.asarray(frame["d"], np.float32) * np.float32(0.1)
        if what == "matrix":
            return np.stack([frame["d"].to_numpy(), frame["l"].to_numpy().astype(float)], 1)
        if what == "list":
            return [str(each) for each in frame["s"]]
        if what == "dict":
            return {"a": np.asarray(frame["d"]), "b": np.ones((len(frame), 2), np.float32) / 3}
        if what == "types":
            return [str(each) for each in frame.dtypes]
        raise RuntimeError("secret")

columns = [("double", "d", True), ("long", "l", True), ("string", "s", True), ("boolean", "b", False)]
signature = ModelSignature(
    inputs=Schema([ColSpec(kind, name, required=required) for kind, name, required in columns]),
    params=ParamSchema([ParamSpec("what", DataType.string, "frame"), ParamSpec("k", DataType.double, 1.0)]),
)
folder = sys.argv[1]
mlflow.pyfunc.save_model(folder + "/mixed", python_model=Mixed(), signature=signature, pip_requirements=[])
X = np.random.default_rng(0).normal(size=(20, 4))
y = (X[:, 0] > 0).astype(int)
fitted = LogisticRegression().fit(X, y)
mlflow.sklearn.save_model(fitted, folder + "/tensor", signature=infer_signature(X, y), pip_requirements=[])
X, y = pd.DataFrame(X, columns=list("abcd")), pd.Series(y, name="target")
fitted = LogisticRegression().fit(X, y)
mlflow.sklearn.save_model(fitted, folder + "/named", signature=infer_signature(X, y), pip_requirements=[])
"""

REFERENCE = """
print(0, flush=True)
import socket
import uvicorn
from fastapi import FastAPI
from mlflow.pyfunc import load_model, scoring_server

app = FastAPI()
for name in ("mixed", "tensor", "named"):
    app.mount(f"/{name}", scoring_server.init(load_model(f"{sys.argv[1]}/{name}")))
listening = socket.create_server(("127.0.0.1", 0))
print(listening.getsockname()[1], flush=True)
uvicorn.Server(uvicorn.Config(app, log_level="error")).run(sockets=[listening])
"""

JSON = "application/json"
CSV = "text/csv"
ROWS = {"columns": ["d", "l", "s"], "data": [[1.5, 2, "x"], [2.5, 3, "\u00e9"]]}
ONE = {"d": 1.5, "l": 2, "s": "a"}


def shown(what):
    return {"dataframe_split": ROWS, "params": {"what": what, "k": 2.0}}


ALIKE = [
    *(("mixed", JSON, shown(what)) for what in ("frame", "array", "matrix", "list", "dict", "types")),
    ("mixed", JSON, {"dataframe_split": {**ROWS, "index": [5, 6]}}),
    ("mixed", JSON, {"dataframe_records": [ONE, {**ONE, "d": 1}]}),
    ("mixed", JSON, {"dataframe_records": [{**ONE, "extra": 1}]}),
    ("mixed", JSON, {"dataframe_records": [{"d": 1.5, "l": 2}]}),
    ("mixed", JSON, {"dataframe_records": [{**ONE, "d": "x"}]}),
    ("mixed", JSON, {"dataframe_records": [{**ONE, "l": None}]}),
    ("mixed", JSON, {"instances": [ONE]}),
    ("mixed", JSON, {"inputs": {"d": [1.5], "l": [2], "s": ["a"]}}),
    ("mixed", JSON, {"inputs": {"d": [1.5], "l": [2], "s": ["a"]}, "params": None}),
    ("mixed", JSON, {"inputs": [ONE]}),
    ("mixed", JSON, {"inputs": {"d": [1], "l": [2], "s": ["a"]}, "params": {"k": "x"}}),
    ("mixed", JSON, ROWS),
    ("mixed", JSON, [1]),
    ("mixed", JSON, {}),
    ("mixed", JSON, {"instances": [], "inputs": []}),
    ("mixed", JSON, {"dataframe_split": []}),
    ("mixed", JSON, {"dataframe_records": {}}),
    ("mixed", JSON, b"{"),
    ("mixed", "application/json; format=pandas-split", ROWS),
    ("mixed", "application/json; charset=latin-1", {"dataframe_split": ROWS}),
    ("mixed", "text/plain", b"x"),
    ("mixed", CSV, b"d,l,s\n1,2,x\n2,3,y\n"),
    ("mixed", CSV, b",d,l,s\n0,1,2,07\n"),
    ("mixed", CSV, b"d,l\n1,2\n"),
    ("mixed", CSV, b""),
    *(
        (model, JSON, body)
        for model in ("tensor", "named")
        for body in (
            {"dataframe_split": {"columns": list("abcd"), "data": [[1, 2, 3, 4]]}},
            {"dataframe_split": {"columns": list("dcba"), "data": [[1, 2, 3, -4]]}},
            {"dataframe_records": [{"a": -1, "b": 2, "c": 3, "d": 4}] * 200},
            {"instances": [[1, 2, 3]]},
            {"instances": [[1, 2, 3, "x"]]},
            {"instances": []},
            {"instances": [[1, 2, 3, None]]},
        )
    ),
    ("tensor", JSON, {"instances": [[1, 2, 3, 4], [-5, 6.5, 7, 8]]}),
    ("tensor", JSON, {"inputs": [[1, 2, 3, 4], [-5, 6.5, 7, 8]]}),
    ("tensor", JSON, {"inputs": [[index - 99.5, 2, 3.25, 4] for index in range(200)]}),
    ("tensor", JSON, {"dataframe_split": {"data": [[1, 2, 3, 4]]}}),
    ("named", JSON, {"instances": [{"a": 1, "b": 2, "c": 3, "d": 4}]}),
    ("named", JSON, {"inputs": {"a": [1], "b": [2], "c": [3], "d": [-4]}}),
    ("named", JSON, {"inputs": {"a": 1, "b": 2, "c": 3, "d": -4}}),
    ("named", JSON, {"dataframe_split": {"columns": list("bacd"), "data": [[5, index - 99.5, 3, 4] for index in range(200)]}}),
    ("named", CSV, b"a,b,c,d\n1,2,3,4\n"),
    ("named", CSV, b"d,c,b,a\n" + b"".join(b"%d,1.5,2,%d\n" % (index, index - 250) for index in range(500))),
    ("named", CSV, b"0,1,2,3\n1,2,3,4\n"),
]  # fmt: skip

BETTER = [
    pytest.param("mixed", JSON, shown("fails"), 400, 500, None, id="a failing model is no fault of the caller's"),
    pytest.param(
        "mixed", JSON, {"dataframe_records": [{**ONE, "d": None}]}, 200, 200, [{"sum": None, "text": "a"}], id="NaN"
    ),
    pytest.param("mixed", JSON, {"dataframe_records": [{**ONE, "l": 2.5}]}, 200, 400, None, id="an integer cut off"),
    pytest.param("mixed", JSON, {"dataframe_records": [{**ONE, "s": 3}]}, 200, 400, None, id="a number for text"),
    pytest.param("mixed", JSON, {**shown("list"), "params": {"nope": 1}}, 200, 400, None, id="an unknown param"),
    pytest.param("tensor", CSV, b"a,b,c,d\n1,2,3,4\n", 400, 200, [1], id="CSV for a tensor"),
    pytest.param("tensor", CSV, b"1,2,3,4\n-5,2,3,4\n", 400, 200, [1, 0], id="CSV without a header"),
    pytest.param("named", JSON, {"instances": [[1, 2, 3, 4]]}, 400, 200, [1], id="rows in the order of the columns"),
]


def ask(url, body, content_type):
    sent = body if isinstance(body, bytes) else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(
            urllib.request.Request(url, sent, {"Content-Type": content_type}), timeout=60
        ) as reply:
            return reply.status, reply.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def first_port(process, pattern):
    for line in process.stdout:
        found = re.match(pattern, line)
        if found:
            return int(found[1])
    pytest.fail(f"the server ended with {process.wait()}")


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    """Urls of MLflow's server and of ours, to which a model's name and a path are added."""
    folder = tmp_path_factory.mktemp("mlflow")
    environment = {
        **os.environ,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
        "PYTHONPATH": str(Path(headrace.__file__).parents[1]),
    }
    quiet = {"stderr": subprocess.DEVNULL, "text": True, "env": environment, "cwd": folder}
    ports = [flag for kind in ("", "grpc-", "metrics-") for flag in (f"--{kind}port", "0")]
    models = [str(folder / name) for name in ("mixed", "tensor", "named")]
    running = []
    try:
        for command in (["-c", MAKE + REFERENCE, str(folder)], ["-m", "headrace", "serve", *ports, *models]):
            process = subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, **quiet)
            running.append(process)
            if len(running) == 1:
                first_port(process, r"(0)$")  # the models are saved
        theirs = first_port(running[0], r"(\d+)$")
        ours = first_port(running[1], r"REST\s.*?:(\d+)")
        yield f"http://127.0.0.1:{theirs}", f"http://127.0.0.1:{ours}/v2/models"
    finally:
        for process in running:
            process.terminate()
        for process in running:
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            process.stdout.close()


def test_the_answers_are_those_of_mlflows_server(servers):
    """Status by status and value by value; a refusal is one on both sides and says nothing of a trace."""
    for model, content_type, body in ALIKE:
        (status, theirs), (ours, answer) = (ask(f"{url}/{model}/invocations", body, content_type) for url in servers)
        told = (model, content_type, str(body)[:200], theirs[:200], answer[:200])
        assert ours == status, told
        found = json.loads(answer)
        if status == 200:
            assert found == json.loads(theirs), told
        else:
            assert found.keys() == {"error_code", "message"}, told
            assert "Traceback" not in found["message"], told


@pytest.mark.parametrize(("model", "content_type", "body", "theirs", "ours", "predictions"), BETTER)
def test_what_differs_from_mlflows_server_is_meant_to(servers, model, content_type, body, theirs, ours, predictions):
    """Each difference is as the documents say, on both sides, so that a release of MLflow that changes it is seen."""
    replies = [ask(f"{url}/{model}/invocations", body, content_type) for url in servers]
    assert [status for status, _ in replies] == [theirs, ours]
    if predictions is not None:
        assert json.loads(replies[1][1]) == {"predictions": predictions}
    else:
        assert "secret" not in json.loads(replies[1][1])["error_code"]


def test_the_health_of_both_is_asked_alike(servers):
    """`/ping`, `/health` and `/version` have the same statuses and bytes."""
    theirs, ours = servers[0], servers[1].removesuffix("/v2/models")
    for path in ("ping", "health", "version"):
        replies = []
        for url in (f"{theirs}/tensor/{path}", f"{ours}/{path}"):
            with urllib.request.urlopen(url, timeout=30) as reply:
                replies.append((reply.status, reply.read()))
        assert replies[0] == replies[1], path
