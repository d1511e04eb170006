"""`headrace.serve`: from a variable to a server. Matrix: kind of model x where it is called from x how it ends."""

import asyncio
import socket
import subprocess
import sys
import threading
import time
import urllib.request

import joblib
import numpy as np
import pandas as pd
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

import headrace
import headrace.client
from headrace import app, errors, notebook
from headrace.client import Unreachable
from headrace.testing.brokers import free_port

X = np.array([[0.0, 1.0], [1.0, 0.0], [2.0, 3.0], [3.0, 2.0]])
Y = np.array([0, 0, 1, 1])
OFF = {"models.optimize": "off"}


class Doubler:
    """A model of one's own."""

    def predict(self, x: np.ndarray) -> np.ndarray:
        return x * 2


@pytest.fixture(scope="module")
def estimator():
    """A fitted classifier."""
    return LogisticRegression().fit(X, Y)


def test_estimator(estimator):
    """A fitted estimator is served under its class's name, and the bound client answers as the estimator does."""
    with headrace.serve(estimator, settings=OFF) as server:
        np.testing.assert_array_equal(server.client.predict(X), estimator.predict(X))
        assert server.models == ["logistic-regression"]
        assert repr(server) == f"<headrace.Server logistic-regression at {server.url}>"
        with urllib.request.urlopen(f"{server.url}/v2/health/ready", timeout=60) as reply:
            assert reply.status == 200
    assert repr(server) == "<headrace.Server logistic-regression, stopped>"


def test_stop(estimator):
    """After stop nobody answers, no thread is left, and a second stop does nothing."""
    server = headrace.serve(estimator, settings=OFF)
    server.client.predict(X)
    server.stop()
    server.stop()
    assert not server.running
    assert not [thread for thread in threading.enumerate() if thread.name == "headrace"]
    with pytest.raises(Unreachable):
        server.client.predict(X)


async def test_inside_a_running_loop(estimator):
    """It works where an event loop already runs, as in Jupyter, and leaves that loop alone."""
    server = headrace.serve(estimator, settings=OFF)
    loop = asyncio.get_running_loop()
    try:
        answer = await loop.run_in_executor(None, server.client.predict, X)
        assert answer.tolist() == estimator.predict(X).tolist()
        assert server.client.predict(X).tolist() == answer.tolist()
    finally:
        server.stop()
    assert asyncio.get_running_loop() is loop


def test_path(estimator, tmp_path):
    """A path is served as `headrace serve` would, under the name given."""
    joblib.dump(estimator, tmp_path / "sorter.joblib")
    with headrace.serve(tmp_path / "sorter.joblib", name="renamed", settings=OFF) as server:
        assert server.models == ["renamed"]
        assert server.client.predict(X).tolist() == estimator.predict(X).tolist()


def test_several(estimator):
    """A mapping serves each model under its key; the client then asks which."""
    scaled = make_pipeline(StandardScaler(), LogisticRegression()).fit(X, Y)
    with headrace.serve({"plain": estimator, "scaled": scaled}, settings=OFF) as server:
        assert server.models == ["plain", "scaled"]
        assert server.client.predict(X, model="scaled").tolist() == scaled.predict(X).tolist()
        with pytest.raises(errors.InvalidRequest, match="plain, scaled"):
            server.client.predict(X)


def test_frame_and_text_labels():
    """A pipeline on columns takes a DataFrame and answers its own text labels, by bytes or by JSON."""
    frame = pd.DataFrame({"city": ["Rome", "Oslo", "Rome", "Bonn"], "age": [20, 30, 40, 50]})
    columns = ColumnTransformer([("city", OneHotEncoder(), ["city"]), ("age", StandardScaler(), ["age"])])
    pipeline = make_pipeline(columns, LogisticRegression()).fit(frame, ["no", "yes", "no", "yes"])
    with headrace.serve(pipeline, settings=OFF) as server:
        assert server.client.predict(frame).tolist() == pipeline.predict(frame).tolist()
        with headrace.client.Client(server.url, binary=False) as client:
            assert client.predict(frame).tolist() == pipeline.predict(frame).tolist()
        with pytest.raises(errors.InvalidRequest, match="inputs age"):
            server.client.predict(frame.drop(columns="age"))


def test_own_class():
    """An object of one's own class with a predict is served."""
    with headrace.serve(Doubler()) as server:
        assert server.models == ["doubler"]
        assert server.client.predict([[1.5, 2.0]]).tolist() == [[3.0, 4.0]]


def test_chosen_port(estimator):
    """The port asked for is the one that answers."""
    port = free_port()
    with headrace.serve(estimator, port=port, settings=OFF) as server:
        assert server.url == f"http://127.0.0.1:{port}"
        assert server.client.ready()


def test_taken_port(estimator):
    """A port that is taken is an error in the caller's hands, and nothing is left running."""
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(errors.SettingsError, match=r"http\.port"):
        headrace.serve(estimator, port=taken.getsockname()[1], settings=OFF)
    assert not [thread for thread in threading.enumerate() if thread.name == "headrace"]


def test_object_that_is_no_model():
    """An object that no runtime recognises is an error in the caller's hands."""
    with pytest.raises(errors.LoadFailed, match="object"):
        headrace.serve(object())


def test_path_that_is_not_there(tmp_path):
    """A path where nothing is, is an error in the caller's hands."""
    with pytest.raises(errors.HeadraceError, match="nothing here"):
        headrace.serve(tmp_path / "none.joblib")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"replicsa": 2}, "did you mean 'replicas'"),
        ({"placement": "somewhere"}, "expected one of auto, inline, thread, process"),
        ({"settings": {"models.optimise": "off"}}, "did you mean 'models.optimize'"),
        ({"name": "a/b"}, "cannot stand in a URL"),
    ],
)
def test_wrong_options(estimator, options, expected):
    """A wrong option is an error that names the nearest right one, before anything starts."""
    with pytest.raises(errors.SettingsError, match=expected):
        headrace.serve(estimator, **options)


def test_name_for_several(estimator):
    """One name for several models is an error."""
    with pytest.raises(errors.SettingsError, match="names each by its key"):
        headrace.serve({"a": estimator}, name="b")


def test_overrides(estimator):
    """Keys of headrace.yaml may be given: they reach the model."""
    with headrace.serve(estimator, placement="thread", batching={"max_batch_size": 8}, settings=OFF) as server:
        assert server.client.metadata().properties["placement"] == "thread"


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("RandomForestClassifier", "random-forest-classifier"),
        ("XGBModel", "xgb-model"),
        ("PCA", "pca"),
        ("_A1b", "a1b"),
    ],
)
def test_names_of_classes(kind, name):
    """A class's name becomes a name for urls."""
    assert notebook._name_of(type(kind, (), {})()) == name


def test_stop_goes_on_where_a_part_fails(monkeypatch):
    """A part that cannot be closed is told, and keeps no port, thread or process of the others open."""

    def broken(*_):
        raise OSError("the disk is gone")

    monkeypatch.setattr(app.ModelEvents, "close", broken)
    server = headrace.serve(LogisticRegression().fit(X, Y), settings=OFF)
    ports = (server.http_port, server.grpc_port, server.metrics_port)
    with pytest.raises(ExceptionGroup, match="did not stop well") as told:
        server.stop()
    assert "the disk is gone" in str(told.value.exceptions)
    for port in ports:
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) != 0


SCRIPT = """
import numpy as np, headrace
from sklearn.linear_model import LogisticRegression
server = headrace.serve(LogisticRegression().fit([[0.0], [1.0]], [0, 1]), settings={"models.optimize": "off"})
print(server.client.predict(np.array([[0.0], [1.0]])).tolist(), flush=True)
"""


def test_end_of_the_process():
    """A script that ends without stopping its server ends well: exit code 0, nothing on standard error."""
    result = subprocess.run([sys.executable, "-W", "error", "-c", SCRIPT], capture_output=True, text=True, timeout=50)
    assert (result.returncode, result.stdout, result.stderr) == (0, "[0, 1]\n", "")


def test_end_of_a_forked_child():
    """A child that a script forks ends at once: the server is its parent's, and serves on."""
    child = "import multiprocessing as m\nchild = m.get_context('fork').Process(target=print, args=('child',))\n"
    script = f"{SCRIPT}{child}child.start()\nchild.join(30)\nprint(child.exitcode, server.client.ready())\n"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=100)
    assert (result.returncode, result.stdout.splitlines()[-1]) == (0, "0 True")


def test_block():
    """With block=True the call serves until Ctrl-C, and then returns."""
    script = SCRIPT.replace("server = headrace.serve(", "print('in', flush=True)\nheadrace.serve(").replace(
        "settings=", "block=True, port=PORT, settings="
    )
    script = script.partition("print(server")[0] + "print('out')\n"
    port = free_port()
    command = [sys.executable, "-c", script.replace("PORT", str(port))]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        client = headrace.client.Client(f"http://127.0.0.1:{port}")
        assert process.stdout.readline() == "in\n"
        while True:  # until the suite's own limit
            try:
                if client.ready():
                    break
            except Unreachable:
                time.sleep(0.01)  # no event crosses from the process before it listens
            assert process.poll() is None
        client.close()
        process.send_signal(2)
        out, err = process.communicate(timeout=30)
        assert (process.returncode, out, err) == (0, "out\n", "")
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
