"""Starts Headrace and the peers on one model, asks the corpus, prints a table of differences. See scripts/differential."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import joblib
from corpus import ENVELOPE, MEANT, QUESTIONS
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

ROOT = Path(__file__).resolve().parents[2]
KSERVE_APP = """
import sys
import joblib
from kserve import InferOutput, InferResponse, Model, ModelServer
from kserve.utils.utils import generate_uuid


class Iris(Model):
    def __init__(self, path):
        super().__init__("iris")
        self.model = joblib.load(path)
        self.ready = True

    def predict(self, payload, headers=None, response_headers=None):
        if isinstance(payload, dict):
            return {"predictions": self.model.predict(payload.get("instances") or payload["inputs"]).tolist()}
        labels = self.model.predict(payload.inputs[0].as_numpy())
        output = InferOutput("predict", list(labels.shape), "INT64")
        output.set_data_from_numpy(labels, binary_data=False)
        return InferResponse(payload.id or generate_uuid(), "iris", [output])


ModelServer(workers=1, http_port=int(sys.argv[1]), enable_grpc=False).start([Iris(sys.argv[2])])
"""


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextlib.contextmanager
def running(command, port, log):
    with Path(log).open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True, cwd=Path(log).parent)
    try:
        deadline = time.monotonic() + 90
        while True:
            with contextlib.suppress(OSError):
                if ask(port, QUESTIONS[4])[0] == 200:
                    break
            if process.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"{command[0]} does not answer:\n{Path(log).read_text()[-3000:]}")
            time.sleep(0.1)
        yield
    finally:
        process.terminate()
        try:
            process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)


def ask(port, question):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.putrequest(question.method, question.path)
        if question.method == "POST":
            connection.putheader("Content-Length", str(len(question.body)))
        for name, value in question.headers.items():
            connection.putheader(name, value)
        connection.endheaders(question.body or None)
        reply = connection.getresponse()
        return reply.status, reply.read()
    finally:
        connection.close()


def plain(body):
    """A body without what no client compares: generated ids, nulls, empty members, key order."""
    try:
        value = json.loads(body)
    except ValueError:
        return body.decode(errors="replace")
    if isinstance(value, dict):
        value.pop("id", None)
        value = {key: member for key, member in value.items() if member not in (None, {}, [], "")}
        if "error" in value or "detail" in value:
            return "an error"
    return value


def main():
    folder = Path(tempfile.mkdtemp(prefix="headrace-differential-"))
    rows, labels = load_iris(return_X_y=True)
    model = folder / "iris" / "model.joblib"
    model.parent.mkdir()
    joblib.dump(LogisticRegression(max_iter=500).fit(rows, labels), model)
    theirs = folder / "mlserver"
    theirs.mkdir()
    ports = {name: free_port() for name in ("Headrace", "MLServer", "KServe")}
    (theirs / "settings.json").write_text(json.dumps({
        "debug": False, "parallel_workers": 0, "host": "127.0.0.1", "http_port": ports["MLServer"],
        "grpc_port": free_port(), "metrics_port": free_port(),
    }))  # fmt: skip
    (theirs / "model-settings.json").write_text(json.dumps({
        "name": "iris", "implementation": "mlserver_sklearn.SKLearnModel", "parameters": {"uri": str(model)},
    }))  # fmt: skip
    (folder / "kserve_app.py").write_text(KSERVE_APP)
    commands = {
        "Headrace": [sys.executable, "-m", "headrace", "serve", str(model.parent), "--port", str(ports["Headrace"]),
                     "--grpc-port", "0", "--metrics-port", "0"],
        "MLServer": [str(ROOT / ".venv-mlserver/bin/mlserver"), "start", str(theirs)],
        "KServe": [str(ROOT / ".venv-kserve/bin/python"), str(folder / "kserve_app.py"), str(ports["KServe"]), str(model)],
    }  # fmt: skip
    undeclared = 0
    with contextlib.ExitStack() as stack:
        for name, command in commands.items():
            stack.enter_context(running(command, ports[name], folder / f"{name}.log"))
        for question in QUESTIONS:
            ours = ask(ports["Headrace"], question)
            for peer in ("MLServer", "KServe"):
                if (
                    (question.path.startswith("/v1") and peer == "MLServer")
                    or "repository" in question.path
                    and peer == "KServe"
                ):
                    continue
                answer = ask(ports[peer], question)
                same = ours[0] == answer[0] and plain(ours[1]) == plain(answer[1])
                reason = MEANT[peer].get(question.name)
                if same and reason is None:
                    print(f"same       {peer:9} {question.name} ({ours[0]})")
                elif same:
                    undeclared += 1
                    print(f"STALE      {peer:9} {question.name}: declared to differ, but does not")
                elif reason is not None:
                    print(f"meant      {peer:9} {question.name}: {ours[0]} for {answer[0]}; {reason}")
                else:
                    undeclared += 1
                    print(
                        f"DIFFERENT  {peer:9} {question.name}\n    ours   {ours[0]} {ours[1][:300]!r}\n    theirs {answer[0]} {answer[1][:300]!r}"
                    )
    print(f"{undeclared} undeclared differences; {ENVELOPE}")
    return 1 if undeclared else 0


if __name__ == "__main__":
    sys.exit(main())
