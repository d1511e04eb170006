"""Models served from stores: fetched, followed when they move, and rolled back when what came cannot be served."""

from __future__ import annotations

import json
import threading
import time

import joblib
import numpy as np
import pytest
from sklearn.linear_model import LinearRegression

from headrace.client.control import ControlClient
from headrace.control.parse import File
from headrace.errors import ModelNotReady

ROWS = [[1.0], [2.0]]


def until(seen, seconds=40):
    """Wait for what is bound to come."""
    deadline = time.monotonic() + seconds
    while not seen():
        assert time.monotonic() < deadline
        time.sleep(0.05)


class Bucket:
    """A bucket with a model that multiplies, below `models/scale`."""

    def __init__(self, s3, folder):
        self.s3, self.name, self.folder = s3.client(), s3.bucket(), folder
        self.uri = f"s3://{self.name}/models/scale"
        self.environ = {**s3.environ, "HEADRACE_ARTIFACTS_CACHE_DIR": str(folder / "cache")}

    def put(self, factor):
        model = LinearRegression(fit_intercept=False).fit(np.array(ROWS), factor * np.array(ROWS)[:, 0])
        joblib.dump(model, self.folder / "model.joblib")
        self.put_bytes((self.folder / "model.joblib").read_bytes())

    def put_bytes(self, content):
        self.s3.put_object(Bucket=self.name, Key="models/scale/model.joblib", Body=content)


@pytest.fixture
def bucket(s3, tmp_path):
    made = Bucket(s3, tmp_path)
    made.put(2.0)
    return made


def answer(server, name="scale"):
    return server.infer(name, ROWS)["predict"].tolist()


def test_a_bucket_is_served(bucket, serve):
    """`headrace serve s3://...` fetches a folder, serves it by its name, and a second server fetches nothing."""
    server = serve(bucket.uri, environment=bucket.environ)
    assert answer(server) == pytest.approx([2.0, 4.0])
    bucket.s3.delete_object(Bucket=bucket.name, Key="models/scale/model.joblib")
    server.process.kill()
    shown = "".join(server.errors)
    assert bucket.environ["AWS_SECRET_ACCESS_KEY"] not in shown


def test_a_moving_uri_is_followed_and_what_cannot_be_served_is_not(bucket, serve, tmp_path):
    """While callers ask all the time, a new object is loaded and takes over without a failed request; one that is
    damaged does not, is told with the reason, and the next good one does. Each is an event.
    """
    told = tmp_path / "events.jsonl"
    server = serve(bucket.uri, "--follow", "0.2", environment={**bucket.environ, "HEADRACE_EVENTS_SINK": str(told)})
    wrong, stop = [], threading.Event()

    def ask():
        while not stop.is_set():
            body = {"inputs": [{"name": "input-0", "shape": [2, 1], "datatype": "FP64", "data": [1.0, 2.0]}]}
            status, _, reply = server.ask("/v2/models/scale/infer", body)
            if status != 200:
                wrong.append((status, reply))
            stop.wait(0.005)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        bucket.put(3.0)
        until(lambda: answer(server) == pytest.approx([3.0, 6.0]))
        bucket.put_bytes(b"\x80\x04 this is no model")
        index = lambda: server.ask("/v2/repository/index", b"{}", method="POST")[2]  # noqa: E731
        until(lambda: "served on" in index()[0].get("reason", ""))
        assert bucket.uri in index()[0]["reason"]
        assert str(tmp_path) not in index()[0]["reason"]
        assert answer(server) == pytest.approx([3.0, 6.0])
        assert server.ask("/v2/health/ready")[0] == 200
        bucket.put(4.0)
        until(lambda: answer(server) == pytest.approx([4.0, 8.0]))
        until(lambda: not index()[0].get("reason", ""))
    finally:
        stop.set()
        thread.join()
    assert not wrong
    kinds = ["loaded", "swapped", "rolledback"]
    until(lambda: all(f"io.seldon.serving.model.{kind}" in told.read_text() for kind in kinds))


def test_a_resource_follows_its_uri_in_revisions(bucket, serve, tmp_path):
    """A Model whose uri moves gets a revision for each move, a damaged one is not served, and an apply of the same
    manifest changes nothing of what it stands for.
    """
    text = json.dumps(
        {
            "apiVersion": "headrace.io/v1",
            "kind": "Model",
            "metadata": {"name": "scale"},
            "spec": {"uri": bucket.uri, "followSeconds": 0.2},
        }
    )
    server = serve("--state", tmp_path / "state.db", "--control-port", "0", environment=bucket.environ)
    client = ControlClient(server.control_url)
    apply = lambda: client.apply([File(name="m.yaml", text=text, base=str(tmp_path))])  # noqa: E731
    apply()
    client.wait([("Model", "scale")], timeout_seconds=40)
    revision = lambda: client.get("Model", "scale")[0].status.revision  # noqa: E731
    until(lambda: client.get("Model", "scale")[0].spec.get("resolved"))
    assert answer(server) == pytest.approx([2.0, 4.0])
    assert revision() == 1
    bucket.put(3.0)
    until(lambda: answer(server) == pytest.approx([3.0, 6.0]))
    assert revision() == 2
    before = client.get("Model", "scale")[0].metadata.generation
    apply()
    assert client.get("Model", "scale")[0].metadata.generation == before
    bucket.put_bytes(b"\x80\x04 this is no model")
    until(lambda: revision() == 3)
    with pytest.raises(ModelNotReady):
        client.wait([("Model", "scale")], timeout_seconds=1)
    assert str(tmp_path) not in str(client.get("Model", "scale")[0].status)
    assert answer(server) == pytest.approx([3.0, 6.0])
    bucket.put(4.0)
    until(lambda: answer(server) == pytest.approx([4.0, 8.0]))
    (moved, *_) = [each for each in client.events("Model", "scale") if each.reason == "Moved"]
    assert moved.message == f"{bucket.uri} stands for other bytes now"
    assert 0 <= time.time() - moved.at < 3600
    client.close()


def test_what_cannot_be_fetched_ends_the_start_with_the_cause(bucket, serve, monkeypatch):
    """Where there is nothing, or nobody lets us, `headrace serve` ends, says which it is, and shows no secret."""
    for uri, environ, cause in (
        (f"s3://{bucket.name}/nothing/here", {}, "nothing/here"),
        (bucket.uri, {"AWS_SECRET_ACCESS_KEY": "wrong-secret-of-mine"}, "refused"),
        ("s4://bucket/model", {}, "s4"),
    ):
        with pytest.raises(pytest.fail.Exception) as failed:
            serve(uri, environment={**bucket.environ, **environ, "HEADRACE_ARTIFACTS_RETRIES": "0"})
        told = str(failed.value)
        assert cause in told
        assert "Traceback" not in told
        assert "wrong-secret-of-mine" not in told
        assert bucket.environ["AWS_SECRET_ACCESS_KEY"] not in told


def test_a_store_that_is_away_at_the_start_is_served_from_the_copy(bucket, serve):
    """A server that starts while its store is away serves the copy that it has, and says so; without one it ends."""
    serve(bucket.uri, environment=bucket.environ).process.kill()
    away = {**bucket.environ, "AWS_ENDPOINT_URL": "http://127.0.0.1:9", "HEADRACE_ARTIFACTS_RETRIES": "0"}
    server = serve(bucket.uri, environment=away)
    assert answer(server) == pytest.approx([2.0, 4.0])
    assert "the copy of it that was used last is taken" in "".join(server.errors)
    with pytest.raises(pytest.fail.Exception, match="cannot be reached"):
        serve(bucket.uri + "/model.joblib", environment=away)
