"""A model that is watched: trust folder, drift of real data, explanation, alert. What `scripts/demo --trust` runs.

A forest that tells tumours is trained on a part of the breast cancer data that ships with scikit-learn, and its trust
folder is fitted by the command line. Patients that it has never seen are sent; then, as if another clinic had been
added, those with large tumours only. No number is made up. With --check, what must come of it is asserted.
"""

from __future__ import annotations

import argparse
import http.server
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable
from http.client import HTTPConnection
from pathlib import Path

import joblib
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import RandomForestClassifier

SECONDS = 60
WINDOW = 40
"""Rows: small, as the data is."""
USUAL_WINDOWS, SHIFTED_WINDOWS = 3, 2
TRAINED, UNSEEN = 160, 80
LARGE = 14.0
"""Millimetres of mean radius; 40 % of the tumours are larger."""
SIZES = ("radius", "perimeter", "area", "concav")
"""What a large tumour is large in; its outline has more dents, too."""


class Receiver:
    """Somebody who wants to know of alerts: a webhook that keeps what it is sent."""

    def __init__(self) -> None:
        self.alerts: list[tuple[str, dict]] = []
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                alert = json.loads(self.rfile.read(int(self.headers["content-length"])))
                receiver.alerts.append((self.headers.get("idempotency-key", ""), alert))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/alerts"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """End listening."""
        self._server.shutdown()
        self._server.server_close()


def train(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Save the model, the rows it was trained on, and rows that it was not; usual patients and large tumours later."""
    data = load_breast_cancer()
    order = np.random.default_rng(0).permutation(len(data.data))
    known, unseen, later = np.split(order, [TRAINED, TRAINED + UNSEEN])
    (folder / "cancer").mkdir()
    forest = RandomForestClassifier(100, random_state=0).fit(data.data[known], data.target[known])
    joblib.dump(forest, folder / "cancer" / "model.joblib")
    for name, rows in (("train", known), ("unseen", unseen)):
        columns = {str(column): data.data[rows, at] for at, column in enumerate(data.feature_names)}
        pq.write_table(pa.table({**columns, "benign": data.target[rows]}), folder / f"{name}.parquet")
    usual, rest = np.split(later, [USUAL_WINDOWS * WINDOW])
    large = rest[data.data[rest, 0] > LARGE][: SHIFTED_WINDOWS * WINDOW]
    return data.data[usual], data.data[large]


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    sockets = [socket.socket() for _ in range(count)]
    for listener in sockets:
        listener.bind(("127.0.0.1", 0))
    ports = [listener.getsockname()[1] for listener in sockets]
    for listener in sockets:
        listener.close()
    return ports


def headrace(*words: str, port: int = 0) -> str:
    """What a command of the command line prints; ends the program when it fails."""
    environment = {**os.environ, "HEADRACE_URL": f"http://127.0.0.1:{port}", "COLUMNS": "160"}
    command = [sys.executable, "-m", "headrace", *words]
    result = subprocess.run(command, check=False, env=environment, capture_output=True, text=True, timeout=SECONDS)
    if result.returncode:
        sys.exit(f"headrace {' '.join(words)} ended with {result.returncode}: {result.stdout}{result.stderr}")
    return result.stdout


def wait_until(what: str, is_so: Callable[[], bool]) -> None:
    """Return when something is so; end the program when it is not within a minute."""
    deadline = time.monotonic() + SECONDS
    while not is_so():
        if time.monotonic() > deadline:
            sys.exit(f"this did not happen within {SECONDS} s: {what}")
        time.sleep(0.1)


def is_ready(port: int, server: subprocess.Popen[bytes]) -> bool:
    """Whether the server answers; ends with its exit code when it is not going to."""
    if server.poll() is not None:
        sys.exit(f"the server ended with code {server.returncode}")
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/health/ready", timeout=10).close()
    except OSError:
        return False
    return True


def body(rows: np.ndarray) -> str:
    """A request of the V2 protocol."""
    tensor = {"name": "x", "shape": list(rows.shape), "datatype": "FP64", "data": rows.ravel().tolist()}
    return json.dumps({"inputs": [tensor]})


def send(rows: np.ndarray, port: int) -> None:
    """One request for each patient."""
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    for row in rows:
        connection.request("POST", "/v2/models/cancer/infer", body(row.reshape(1, -1)))
        reply = connection.getresponse()
        answer = reply.read()
        assert reply.status == 200, answer
    connection.close()


def status(port: int) -> dict:
    """What the detectors say."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/models/cancer/trust", timeout=10) as reply:
        return json.loads(reply.read())


def drift_lines(port: int) -> list[str]:
    """What Prometheus would read of it."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as reply:
        lines = reply.read().decode().splitlines()
    return [line for line in lines if line.startswith("headrace_drift_is_drift{") and 'feature="instance"' in line]


def windows_of(name: str, port: int) -> int:
    """How many windows a detector has tested."""
    return next((each["windows"] for each in status(port).get("detectors", ()) if each["name"] == name), 0)


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/demo --trust", description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="free ports; exit 0 or say what failed")
    options = parser.parse_args()
    port, grpc, metrics = free_ports(3) if options.check else (8080, 8081, 8082)
    receiver = Receiver()
    with tempfile.TemporaryDirectory(prefix="headrace-trust-") as name:
        folder = Path(name)
        usual, large = train(folder)
        fit = ["--data", str(folder / "train.parquet"), "--unseen", str(folder / "unseen.parquet")]
        fit += ["--labels", "benign", "--window", f"rows={WINDOW},min_rows={WINDOW}"]
        fit += ["--detector", "isolation-forest", "--detector", "tabular", "--detector", "cbpe"]
        fit += ["--explainer", "permutation-shap", "--explainer", "anchor-tabular"]
        print("$ headrace trust fit cancer", *fit[4:])
        print(headrace("trust", "fit", str(folder / "cancer"), *fit))
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "HEADRACE_TRUST_WEBHOOK": receiver.url,
            "HEADRACE_TRUST_STATE": str(folder / "state"),
            "HEADRACE_LOG_LEVEL": "warning",
        }
        command = [sys.executable, "-m", "headrace", "serve", str(folder / "cancer")]
        command += ["--port", str(port), "--grpc-port", str(grpc), "--metrics-port", str(metrics)]
        server = subprocess.Popen(command, env=environment)
        try:
            wait_until("the server is ready", lambda: is_ready(port, server))
            show(port, metrics, folder, receiver, patients=(usual, large))
            if options.check:
                print("scripts/demo: drift of real data is seen, told and explained")
                return
            print(
                f"""
Paste one of these; the server goes on:

  headrace trust status cancer
  headrace trust report cancer -o report.html
  curl -s localhost:{metrics}/metrics | grep headrace_drift
  curl -s localhost:{port}/v2/models/cancer/explain -d '{body(large[:1].round(4))}'
  headrace trust show {folder / "cancer"}

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
            receiver.close()


def show(port: int, metrics: int, folder: Path, receiver: Receiver, *, patients: tuple[np.ndarray, np.ndarray]) -> None:
    """Usual patients, then large tumours; what is said after each."""
    usual, large = patients
    send(usual, port)
    wait_until("the usual patients are tested", lambda: windows_of("cbpe", port) == USUAL_WINDOWS)
    told = status(port)
    print(f"{len(usual)} usual patients were sent:\n{headrace('trust', 'status', 'cancer', port=port)}")
    assert not receiver.alerts, receiver.alerts
    assert all(each["alert"] == "ok" for each in told["detectors"]), told
    print("ok  usual patients: no drift, and nobody was told\n")

    send(large, port)
    windows = USUAL_WINDOWS + SHIFTED_WINDOWS
    wait_until("the large tumours are tested", lambda: windows_of("cbpe", port) == windows)
    wait_until("somebody is told", lambda: bool(receiver.alerts))
    table = headrace("trust", "status", "cancer", port=port)
    print(f"{len(large)} patients with large tumours were sent:\n{table}")
    tabular = next(each for each in status(port)["detectors"] if each["name"] == "tabular")
    assert tabular["drift_windows"] == SHIFTED_WINDOWS, tabular
    data = tabular["latest"]["data"]
    top = [data["features"][at] for at in np.argsort(data["distance"])[::-1][:5]]
    assert all(any(word in feature for word in SIZES) for feature in top), top
    print(f"ok  drift: {', '.join(top)}\n")

    lines: list[str] = []

    def is_counted() -> bool:
        lines[:] = drift_lines(metrics)
        return any('detector="tabular"' in line and line.endswith(" 1.0") for line in lines)

    wait_until("the metrics say so", is_counted)
    print("\n".join(lines))
    print("ok  metrics: drift\n")

    time.sleep(0.5)  # a second alert would be as quick as the first
    assert len(receiver.alerts) == 1, receiver.alerts
    (key, alert) = receiver.alerts[0]
    assert len(key) == 32, alert
    assert (alert["model"], alert["detector"]) == ("cancer", "tabular"), alert
    print(f"ok  webhook: one alert, idempotency key {key}")
    (rows,) = (folder / "state").rglob(f"{key}*.parquet")
    kept = pq.read_table(rows)
    assert kept.num_rows >= WINDOW, kept.num_rows
    assert min(kept["mean radius"].to_pylist()) > LARGE, kept["mean radius"]
    print(f"ok  for retraining: {kept.num_rows} rows in {rows.name}\n")

    (folder / "why.json").write_text(json.dumps(large[:1].tolist()))
    why = headrace("explain", "cancer", str(folder / "why.json"), "--explainer", "permutation-shap", port=port)
    print(f"why the first of them is called what it is:\n{why}")
    assert "worst" in why, why
    headrace("trust", "report", "cancer", "-o", str(folder / "report.html"), port=port)
    report = (folder / "report.html").read_text()
    assert "tabular" in report, report[:500]
    assert top[0] in report, report[:500]
    print(f"ok  report: {folder / 'report.html'}, {len(report) >> 10} KiB in one file")


if __name__ == "__main__":
    main()
