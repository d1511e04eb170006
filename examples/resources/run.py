"""Resources from files: a chain, an experiment, a rollout that ends by itself. What `scripts/demo --resources` runs.

Trains three small models, serves the manifests of this folder, and asks. With --check the answers are compared with the
models' own, and the rollout gets traffic until it is promoted.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from http.client import HTTPConnection
from pathlib import Path

import joblib
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

HERE = Path(__file__).parent
ROW = [5.1, 3.5, 1.4, 0.2]
BODY = json.dumps({"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP64", "data": ROW}]})
SECONDS = 60


def train(folder: Path) -> int:
    """Save the models that the manifests name; the answer that the chain must give for `ROW`."""
    rows, labels = load_iris(return_X_y=True)
    scale = StandardScaler().fit(rows)
    folder.mkdir()
    joblib.dump(scale, folder / "scale.joblib")
    for number, strength in ((1, 1.0), (2, 0.5)):
        model = LogisticRegression(C=strength, max_iter=500).fit(scale.transform(rows), labels)
        joblib.dump(model, folder / f"churn-{number}.joblib")
    return int(model.predict(scale.transform([ROW]))[0])


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    sockets = [socket.socket() for _ in range(count)]
    for listener in sockets:
        listener.bind(("127.0.0.1", 0))
    ports = [listener.getsockname()[1] for listener in sockets]
    for listener in sockets:
        listener.close()
    return ports


def headrace(*words: str, control: int) -> str:
    """What a command of the command line prints; ends the program when it fails."""
    environment = {**os.environ, "HEADRACE_CONTROL_URL": f"http://127.0.0.1:{control}"}
    command = [sys.executable, "-m", "headrace", *words]
    result = subprocess.run(command, check=False, env=environment, capture_output=True, text=True, timeout=SECONDS)
    if result.returncode:
        sys.exit(f"headrace {' '.join(words)} ended with {result.returncode}: {result.stdout}{result.stderr}")
    return result.stdout


def wait_until_ready(port: int, server: subprocess.Popen[bytes]) -> None:
    """Return when the server answers; end with its exit code when it is not going to."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        if server.poll() is not None:
            sys.exit(f"the server ended with code {server.returncode}")
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/health/ready", timeout=10).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    sys.exit("the server was not ready within a minute")


def check(http: int, control: int, folder: Path, expected: int) -> None:
    """Ask the chain and the experiment; apply the rollout, and give it traffic until it has ended."""
    connection = HTTPConnection("127.0.0.1", http, timeout=10)

    def ask(path: str) -> tuple[dict, str]:
        connection.request("POST", path, BODY)
        reply = connection.getresponse()
        document = json.loads(reply.read())
        assert reply.status == 200, (path, reply.status, document)
        return document, reply.headers.get("x-seldon-route", "")

    document, _ = ask("/v2/pipelines/shop/infer")
    assert document["outputs"][0]["data"] == [expected], document
    print("ok  shop: the chain gives the models' own answer")

    counts = Counter(ask("/v2/experiments/ab/infer")[1] for _ in range(200))
    assert set(counts) == {":churn_1:", ":churn-next_1:"} and 100 < counts[":churn_1:"] < 200, counts
    print(f"ok  ab: 200 requests were shared as {dict(counts)}")

    print(headrace("apply", "-f", str(folder / "rollout.yaml"), "--wait", control=control), end="")
    deadline = time.monotonic() + SECONDS
    asked, state = 0, ""
    while "Promoted" not in state:
        assert time.monotonic() < deadline, headrace("describe", "rollout", "churn-rollout", control=control)
        for _ in range(300):
            ask("/v2/pipelines/shop/infer")
        asked += 300
        state = headrace("get", "rollout", "churn-rollout", control=control)
        assert "RolledBack" not in state, headrace("describe", "rollout", "churn-rollout", control=control)
    assert ask("/v2/models/churn/infer")[1] in {"", ":churn-next_1:"}
    print(f"ok  churn-rollout: promoted after {asked} requests, none of which failed")
    assert headrace("plan", "-f", str(folder), control=control).startswith("No changes")
    print("ok  a plan of what is applied is empty")


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/demo --resources", description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="free ports; exit 0 or say what failed")
    options = parser.parse_args()
    http, grpc, metrics, control = free_ports(4) if options.check else (8080, 8081, 8082, 8083)
    with tempfile.TemporaryDirectory(prefix="headrace-resources-") as name:
        folder = Path(name)
        for manifest in HERE.glob("*.yaml"):
            shutil.copy(manifest, folder)
        expected = train(folder / "models")
        ports = ["--port", str(http), "--grpc-port", str(grpc), "--metrics-port", str(metrics)]
        ports += ["--control-port", str(control), "--state", str(folder / "state.db")]
        files = ["-f", str(folder / "shop.yaml"), "-f", str(folder / "experiment.yaml")]
        command = [sys.executable, "-m", "headrace", "serve", *files, *ports]
        server = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
        try:
            wait_until_ready(http, server)
            headrace("wait", *files, control=control)
            if options.check:
                check(http, control, folder, expected)
                print("scripts/demo: resources do as they say")
                return
            print(
                f"""
Paste one of these:

  curl -s localhost:{http}/v2/pipelines/shop/infer -d '{BODY}'
  curl -si localhost:{http}/v2/experiments/ab/infer -d '{BODY}'

  headrace get
  headrace graph shop
  headrace apply -f {folder}/rollout.yaml
  headrace describe rollout churn-rollout

Stop: Ctrl-C
""",
                flush=True,
            )
            server.wait()
        except KeyboardInterrupt:
            pass
        finally:
            if server.poll() is None:
                server.terminate()
                server.wait(timeout=30)


if __name__ == "__main__":
    main()
