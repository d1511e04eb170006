"""Train, serve, ask: what `scripts/demo` runs.

Four models on data that ships with scikit-learn, saved as people save them (a joblib file, an ONNX file, an XGBoost
file, a Python class), served from one folder with no configuration. With --check the answers are asked for through real
clients and compared with what the models themselves say.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import joblib
import numpy as np
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

CUSTOM = '''"""A custom model: any class with a `predict`."""

import numpy as np


class Brightness:
    def predict(self, images: np.ndarray) -> np.ndarray:
        """Mean pixel of each 8x8 image."""
        return images.mean(axis=1)
'''


def train(folder: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Save the models under `folder`; for each, some rows and the model's own answers."""
    from skl2onnx import to_onnx
    from xgboost import XGBClassifier

    expected = {}
    rows, labels = load_breast_cancer(return_X_y=True)
    forest = RandomForestClassifier(200, random_state=0).fit(rows, labels)
    (folder / "cancer").mkdir()
    joblib.dump(forest, folder / "cancer" / "model.joblib")
    expected["cancer"] = rows[:5], forest.predict(rows[:5])

    rows, labels = load_wine(return_X_y=True)
    booster = XGBClassifier(n_estimators=50, max_depth=3).fit(rows, labels)
    (folder / "wine").mkdir()
    booster.save_model(folder / "wine" / "model.ubj")
    expected["wine"] = rows[:5], booster.predict(rows[:5])

    rows, labels = load_digits(return_X_y=True)
    rows = rows.astype(np.float32)
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500)).fit(rows, labels)
    (folder / "digits" / "1").mkdir(parents=True)
    graph = to_onnx(pipeline, rows[:1], options={"zipmap": False}, target_opset=17)
    (folder / "digits" / "1" / "model.onnx").write_bytes(graph.SerializeToString())
    expected["digits"] = rows[:5], pipeline.predict(rows[:5])

    (folder / "brightness").mkdir()
    (folder / "brightness" / "model.py").write_text(CUSTOM)
    expected["brightness"] = rows[:5], rows[:5].mean(axis=1)
    return expected


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    sockets = [socket.socket() for _ in range(count)]
    for listener in sockets:
        listener.bind(("127.0.0.1", 0))
    ports = [listener.getsockname()[1] for listener in sockets]
    for listener in sockets:
        listener.close()
    return ports


def get(url: str, body: object = None) -> tuple[int, dict]:
    """One plain HTTP request."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"} if data else {})
    try:
        with urllib.request.urlopen(request, timeout=10) as reply:
            return reply.status, json.loads(reply.read() or b"{}")
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read() or b"{}")


def wait_until_ready(url: str, server: subprocess.Popen) -> None:
    """Return when the server is ready; end with its exit code when it is not going to be."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if server.poll() is not None:
            sys.exit(f"the server ended with code {server.returncode}")
        try:
            if get(f"{url}/v2/health/ready")[0] == 200:
                return
        except OSError:
            pass
        time.sleep(0.1)
    sys.exit("the server was not ready within two minutes")


def check(
    http_port: int, grpc_port: int, metrics_port: int, expected: dict[str, tuple[np.ndarray, np.ndarray]]
) -> None:
    """Ask every model through plain HTTP (V2 and V1), tritonclient over HTTP and over gRPC; compare every answer."""
    import tritonclient.grpc
    import tritonclient.http

    base = f"http://127.0.0.1:{http_port}"
    rest = tritonclient.http.InferenceServerClient(f"127.0.0.1:{http_port}")
    grpc = tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{grpc_port}")
    for name, (trained, answers) in expected.items():
        code, metadata = get(f"{base}/v2/models/{name}")
        assert code == 200, metadata
        (tensor,) = metadata["inputs"]
        output = metadata["outputs"][0]["name"]
        rows = trained.astype({"FP32": np.float32, "FP64": np.float64}.get(tensor["datatype"], np.float32))
        datatype = {"float32": "FP32", "float64": "FP64"}[str(rows.dtype)]

        body = {
            "inputs": [{"name": tensor["name"], "shape": list(rows.shape), "datatype": datatype, "data": rows.tolist()}]
        }
        code, reply = get(f"{base}/v2/models/{name}/infer", body)
        assert code == 200, reply
        first = next(out for out in reply["outputs"] if out["name"] == output)
        np.testing.assert_allclose(first["data"], answers, rtol=1e-6, err_msg=f"{name} over V2 REST")

        code, reply = get(f"{base}/v1/models/{name}:predict", {"instances": rows.tolist()})
        assert code == 200, reply
        first = [row[output] if isinstance(row, dict) else row for row in reply["predictions"]]
        np.testing.assert_allclose(first, answers, rtol=1e-6, err_msg=f"{name} over V1")

        for client, module, wire in ((rest, tritonclient.http, "HTTP"), (grpc, tritonclient.grpc, "gRPC")):
            asked = module.InferInput(tensor["name"], list(rows.shape), datatype)
            asked.set_data_from_numpy(rows)
            answered = client.infer(name, [asked]).as_numpy(output)
            np.testing.assert_allclose(answered, answers, rtol=1e-6, err_msg=f"{name} through tritonclient {wire}")
        print(f"ok  {name}: V2, V1, tritonclient HTTP and gRPC give the model's own answers")
    code, reply = get(f"{base}/v2/models/nobody/infer", {"inputs": []})
    assert code == 404 and "nobody" in reply["error"], (code, reply)
    with urllib.request.urlopen(f"http://127.0.0.1:{metrics_port}/metrics", timeout=10) as metrics:
        assert b'headrace_requests_total{model="cancer"' in metrics.read()
    print("ok  an unknown model is a 404 with its name; requests are counted in /metrics")


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/demo", description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="free ports, real clients, exit 0 or say what failed")
    options = parser.parse_args()
    http_port, grpc_port, metrics_port = free_ports(3) if options.check else (8080, 8081, 8082)
    with tempfile.TemporaryDirectory(prefix="headrace-demo-") as name:
        folder = Path(name)
        print("Training on breast cancer, wine and digits ...", flush=True)
        expected = train(folder)
        ports = ["--port", str(http_port), "--grpc-port", str(grpc_port), "--metrics-port", str(metrics_port)]
        command = [sys.executable, "-m", "headrace", "serve", str(folder), *ports]
        server = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
        try:
            wait_until_ready(f"http://127.0.0.1:{http_port}", server)
            if options.check:
                check(http_port, grpc_port, metrics_port, expected)
                print("scripts/demo: everything answers as it should")
                return
            row = json.dumps([round(float(value), 4) for value in expected["wine"][0][0]])
            print(
                f"""
Paste one of these:

  curl -s localhost:{http_port}/v2/models/wine/infer -d '{{"inputs": [{{"name": "input-0", "shape": [1, 13],
    "datatype": "FP64", "data": {row}}}]}}'

  curl -s localhost:{http_port}/v1/models/wine:predict -d '{{"instances": [{row}]}}'

  curl -s localhost:{http_port}/v2/models/cancer          # what it is, and which engine answers for how many rows
  curl -s localhost:{metrics_port}/metrics | grep ^headrace

Documents: http://localhost:{http_port}/docs      gRPC: localhost:{grpc_port}      Stop: Ctrl-C
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
