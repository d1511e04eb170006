"""Batch jobs on a running server, over REST and gRPC, against the same job in this process; and servers that go away."""

import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import urllib.request

import joblib
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from sklearn.linear_model import LogisticRegression

from headrace.errors import Conflict, ModelNotFound, Temporary
from headrace.lifecycle.batch.base import Job
from headrace.lifecycle.batch.remote import open_remote
from headrace.lifecycle.batch.run import run
from headrace.offline import open_model
from headrace.payload import Tensor
from headrace.serving.digest import digest

ROWS = 3000


class Server:
    """`headrace serve` in a process of its own."""

    def __init__(self, folder, port=0, grpc_port=0):
        command = ["serve", str(folder), "--port", str(port), "--grpc-port", str(grpc_port), "--metrics-port", "0"]
        command += ["--cache-dir", str(folder.parent / "cache")]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "headrace", *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "HEADRACE_MODELS_OPTIMIZE": "off"},
        )
        self.ports = {}
        while len(self.ports) < 3:
            line = self.process.stdout.readline()
            assert line, f"the server ended with {self.process.wait()} before it listened"
            if found := re.match(r"(REST|gRPC|metrics)\s+\S*?:(\d+)(/\S*)?(\s|$)", line.replace("http://", "")):
                self.ports[found[1]] = int(found[2])
        self.reader = threading.Thread(target=self.process.stdout.read, daemon=True)
        self.reader.start()

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.reader.join()
        self.process.stdout.close()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder of one model, and a file of rows."""
    folder = tmp_path_factory.mktemp("served")
    rows = np.random.default_rng(0).standard_normal((ROWS, 3))
    model = LogisticRegression().fit(rows, rows.sum(1) > 0)
    (folder / "models" / "sums").mkdir(parents=True)
    joblib.dump(model, folder / "models" / "sums" / "model.joblib")
    pyarrow.parquet.write_table(
        pa.table({"id": range(ROWS), **{name: rows[:, at] for at, name in enumerate("abc")}}), folder / "rows.parquet"
    )
    return folder


@pytest.fixture(scope="module")
def server(files):
    """One server for the tests that leave it as it is."""
    running = Server(files / "models")
    yield running
    running.kill()


def job(files, output, **more):
    return Job(
        inputs=(str(files / "rows.parquet"),), output=str(output), id_column="id", batch_rows=200, threads=2, **more
    )


@pytest.mark.parametrize(("scheme", "port"), [("http", "REST"), ("grpc", "gRPC")])
def test_a_server_answers_as_the_model_does_here(files, server, tmp_path, scheme, port):
    """The answers of a server are those of the same model in this process, on either wire."""
    url = f"{scheme}://127.0.0.1:{server.ports[port]}"
    run(job(files, tmp_path / "there.parquet", model="sums", url=url), open_predictor=open_remote)
    here = job(files, tmp_path / "here.parquet", model=str(files / "models" / "sums"))
    run(here, open_predictor=lambda given: open_model(given.model, settings={"models.optimize": "off"}))
    there, here = (pyarrow.parquet.read_table(tmp_path / f"{name}.parquet") for name in ("there", "here"))
    assert there.to_pydict() == here.to_pydict()
    assert there.num_rows == ROWS


def test_what_the_server_does_not_have_is_said_at_once(files, server, tmp_path):
    """A model that the server does not know, and a server that is not there, are errors before a row is asked."""
    url = f"http://127.0.0.1:{server.ports['REST']}"
    with pytest.raises(ModelNotFound, match="nosuch"):
        run(job(files, tmp_path / "x.csv", model="nosuch", url=url), open_predictor=open_remote)
    with pytest.raises(Temporary, match=r"127\.0\.0\.1:1"):
        run(job(files, tmp_path / "x.csv", model="sums", url="http://127.0.0.1:1"), open_predictor=open_remote)
    assert list(tmp_path.iterdir()) == []


def test_an_error_is_told_when_the_server_goes_away_with_it():
    """Rows that a server refuses, which then does not say which model it has, are asked again, and both are told."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.answer(503 if server.refused else 200, {"name": "m", "platform": "x", "inputs": [], "outputs": []})

        def do_POST(self):
            server.refused = True
            self.rfile.read(int(self.headers["content-length"]))
            self.answer(400, {"error": "expected other columns"})

        def answer(self, status, body):
            text = json.dumps(body if status < 500 else {"error": "the server is stopping"}).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.refused = False
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        predictor = open_remote(
            Job(model="m", inputs=(), output="", url=f"http://127.0.0.1:{server.server_address[1]}")
        )
        with pytest.raises(Temporary, match=r"expected other columns; which model .* the server is stopping"):
            predictor.predict([Tensor("x", "FP64", np.zeros((1, 1)))])
        predictor.close()
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_model_that_is_changed_in_the_middle_ends_the_job(files, server, tmp_path):
    """A model that is changed on the server while a job asks it ends the job, and keeps it from going on, with both
    models named; with the former one again, the job goes on, and every answer is the former one's.
    """
    served = files / "models" / "sums" / "model.joblib"
    shutil.copy(served, tmp_path / "first.joblib")
    url = f"http://127.0.0.1:{server.ports['REST']}"
    rows = np.random.default_rng(1).standard_normal((50, 3))
    joblib.dump(LogisticRegression().fit(rows, rows.sum(1) < 0), tmp_path / "other.joblib")

    def swap(name):
        shutil.copy(tmp_path / name, served)
        address = f"{url}/v2/repository/models/sums/load"
        with urllib.request.urlopen(urllib.request.Request(address, b"{}", method="POST"), timeout=60) as reply:
            assert reply.status == 200

    def report(outcome, _):
        if outcome.rows == 600:
            swap("other.joblib")

    asked = job(files, tmp_path / "out.parquet", model="sums", url=url)
    options = {"open_predictor": open_remote, "state": tmp_path / "state", "seal_seconds": 0}
    models = [f"sha256:{digest(tmp_path / name)}" for name in ("first.joblib", "other.joblib")]
    try:
        with pytest.raises(Conflict, match=rf"changed while the job ran \(it was {models[0]}, is {models[1]}\)"):
            run(asked, report=report, **options)
        with pytest.raises(Conflict, match=rf"its model was {models[0]}, is {models[1]}.*--overwrite"):
            run(asked, **options)
        assert not (tmp_path / "out.parquet").exists()
    finally:
        swap("first.joblib")
    outcome = run(asked, **options)
    assert (outcome.answered, outcome.rejected) == (ROWS, 0)
    assert outcome.resumed_rows >= 600
    here = job(files, tmp_path / "here.parquet", model=str(files / "models" / "sums"))
    run(here, open_predictor=lambda given: open_model(given.model, settings={"models.optimize": "off"}))
    there, here = (pyarrow.parquet.read_table(tmp_path / f"{name}.parquet") for name in ("out", "here"))
    assert there.to_pydict() == here.to_pydict()


@pytest.mark.timeout(240)
def test_a_server_killed_in_the_middle_loses_nothing(files, tmp_path):
    """A server that is killed and started again while a job asks it costs time, and no row."""
    servers = [Server(files / "models")]
    ports = servers[0].ports
    starting = []

    def report(outcome, _):
        if outcome.rows >= 600 and not starting:
            servers[0].kill()
            starting.append(threading.Thread(target=again, daemon=True))
            starting[0].start()

    def again():
        servers.append(Server(files / "models", ports["REST"], ports["gRPC"]))

    try:
        given_job = job(files, tmp_path / "out.parquet", model="sums", url=f"http://127.0.0.1:{ports['REST']}")
        outcome = run(given_job, open_predictor=open_remote, report=report)
        assert starting
        assert (outcome.answered, outcome.rejected) == (ROWS, 0)
        assert pyarrow.parquet.read_table(tmp_path / "out.parquet")["id"].to_pylist() == list(range(ROWS))
    finally:
        for each in starting:
            each.join()
        servers[-1].kill()
