"""A model of MLflow's registry, served by its alias and followed."""

from __future__ import annotations

import json
import sys
import time
import warnings
import zipfile

import pandas as pd
import pytest
from sklearn.linear_model import LinearRegression

from headrace.client.control import ControlClient
from headrace.control.parse import File

ROWS = pd.DataFrame({"a": [1.0, 2.0], "b": [0.0, 1.0]})


@pytest.fixture
def registry(mlflow_at, tmp_path):
    """A client, what logs a model that multiplies, and what registers a folder: each gives the version's number."""
    import mlflow.sklearn
    from mlflow.models import infer_signature

    client = mlflow_at.client()
    client.create_registered_model("followed")

    def register(folder):
        logged = client.create_logged_model("0", name="model")
        client.log_model_artifacts(logged.model_id, str(folder))
        client.finalize_logged_model(logged.model_id, "READY")
        return str(
            client.create_model_version("followed", f"models:/{logged.model_id}", model_id=logged.model_id).version
        )

    def log(factor):
        folder = tmp_path / f"model-{factor}"
        model = LinearRegression().fit(ROWS, factor * ROWS["a"])
        needs, signature = ["scikit-learn"], infer_signature(ROWS)
        mlflow.sklearn.save_model(model, folder, pip_requirements=needs, signature=signature)
        return register(folder)

    yield client, log, register
    client.delete_registered_model("followed")


@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("ignore:.*Any type hint")  # of MLflow's own code
def test_an_alias_is_followed_through_versions(registry, serve, mlflow_at, tmp_path):
    """`headrace serve models:/NAME@ALIAS --follow` answers as the version that the alias means, under its number; when
    the alias moves on, and back, the server does; a version that is no model is not served, and the one before is.
    """
    client, log, register = registry
    (tmp_path / "junk").mkdir()
    (tmp_path / "junk" / "MLmodel").write_text("this: is no model of anybody\n")
    first, second, third = log(2.0), log(3.0), register(tmp_path / "junk")
    client.set_registered_model_alias("followed", "champion", first)
    environ = {"MLFLOW_TRACKING_URI": mlflow_at.url, "HEADRACE_ARTIFACTS_CACHE_DIR": str(tmp_path / "cache")}
    server = serve("models:/followed@champion", "--follow", "0.2", environment=environ)

    def answer():
        body = {"dataframe_split": {"columns": ["a", "b"], "data": ROWS.to_numpy().tolist()}}
        status, _, reply = server.ask("/invocations", body, {"content-type": "application/json"})
        assert status == 200, reply
        return reply["predictions"]

    def until(factor, version):
        deadline = time.monotonic() + 60
        while answer() != pytest.approx([factor, 2 * factor]):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        while [each["version"] for each in index()] != [version]:
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def index():
        return server.ask("/v2/repository/index", b"{}", method="POST")[2]

    until(2.0, first)
    client.set_registered_model_alias("followed", "champion", second)
    until(3.0, second)
    client.set_registered_model_alias("followed", "champion", first)
    until(2.0, first)
    client.set_registered_model_alias("followed", "champion", third)
    deadline = time.monotonic() + 60
    while not any("served on" in each.get("reason", "") for each in index()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert answer() == pytest.approx([2.0, 4.0])
    (reason,) = [each["reason"] for each in index() if "served on" in each.get("reason", "")]
    assert "MLmodel" in reason  # of what came, and not of what it took the place of
    client.set_registered_model_alias("followed", "champion", second)
    until(3.0, second)


def save_code(folder, predict):
    """A model in Python that answers by the function."""
    import mlflow.pyfunc
    from mlflow.models import infer_signature

    with warnings.catch_warnings(record=True):  # MLflow wants type hints and an example
        warnings.simplefilter("ignore")

        class Model(mlflow.pyfunc.PythonModel):
            def predict(self, context, model_input, params=None):
                return predict(model_input)

        mlflow.pyfunc.save_model(folder, python_model=Model(), pip_requirements=[], signature=infer_signature(ROWS))
    return folder


def resources(**specs):
    """A file of resources of the kinds and names that are given."""
    documents = [
        {"apiVersion": "headrace.io/v1", "kind": kind, "metadata": {"name": name}, "spec": spec}
        for (kind, name), spec in ((key.split("_"), spec) for key, spec in specs.items())
    ]
    return File(name="rollout.yaml", text="\n---\n".join(map(json.dumps, documents)), base="")


@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore:.*Any type hint")  # of MLflow's own code
def test_a_version_that_an_alias_moves_to_is_rolled_out_by_steps(registry, serve, mlflow_at, tmp_path):
    """Each move of a followed alias begins the rollout that its model is the candidate of: a version that fails is
    rolled back and gets nothing more; the next one gets its share step by step, is promoted, and answers all.
    """
    client, log, register = registry
    stable, bad, good = log(2.0), register(save_code(tmp_path / "failing", lambda table: table["none"])), log(3.0)
    client.set_registered_model_alias("followed", "challenger", stable)
    environ = {"MLFLOW_TRACKING_URI": mlflow_at.url, "HEADRACE_ARTIFACTS_CACHE_DIR": str(tmp_path / "cache")}
    flags = ("--state", tmp_path / "state.db", "--control-port", "0", "--optimize", "off", "--load-policy", "trusted")
    server = serve(*flags, environment=environ)
    control = ControlClient(server.control_url)
    steps = [{"weight": weight, "pauseSeconds": 0} for weight in (25, 50)]
    judge = {"minRequests": 20, "maxLatencyRatio": 0}
    control.apply(
        [
            resources(
                Model_prod={"uri": f"models:/followed/{stable}"},
                Model_next={"uri": "models:/followed@challenger", "followSeconds": 0.2},
                Rollout_move={"stable": "prod", "candidate": "next", "steps": steps, "judge": judge},
            )
        ]
    )
    control.wait([("Model", "prod"), ("Model", "next")], timeout_seconds=240)

    def progress():
        return control.get("Rollout", "move")[0].status.details.get("progress", {})

    def asked_until(state):
        """Statuses and answers of callers, until the rollout is in this state."""
        found, deadline = set(), time.monotonic() + 240
        tensors = [
            {"name": name, "shape": [1], "datatype": "FP64", "data": [value]} for name, value in ROWS.iloc[0].items()
        ]
        while progress().get("state") != state:
            assert time.monotonic() < deadline, progress()
            for _ in range(20):
                status, _, reply = server.ask("/v2/models/prod/infer", {"inputs": tensors})
                found.add((status, round(reply["outputs"][0]["data"][0]) if status == 200 else None))
        return found

    client.set_registered_model_alias("followed", "challenger", bad)
    assert asked_until("RolledBack") == {(200, 2), (500, None)}
    client.set_registered_model_alias("followed", "challenger", good)
    assert asked_until("Promoted") == {(200, 2), (200, 3)}
    reasons = [each.reason for each in reversed(control.events("Rollout", "move"))]
    told = [each for each in reasons if each in {"Started", "ErrorRateIncreased", "StepReached", "Promoted"}]
    assert told[-4:] == ["ErrorRateIncreased", "Started", "StepReached", "Promoted"]
    control.close()


def write_wheel(folder):
    """A package that nobody has installed: `tinyone`, whose one module says its version."""
    folder.mkdir()
    members = {
        "tinyone.py": "VERSION = '1.5'\n",
        "tinyone-1.5.dist-info/METADATA": "Metadata-Version: 2.1\nName: tinyone\nVersion: 1.5\n",
        "tinyone-1.5.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "tinyone-1.5.dist-info/RECORD": "",
    }
    with zipfile.ZipFile(folder / "tinyone-1.5-py3-none-any.whl", "w") as archive:
        for name, text in members.items():
            archive.writestr(name, text)


@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore:.*Any type hint")  # of MLflow's own code
def test_a_registered_model_is_served_in_the_environment_it_was_logged_with(registry, serve, mlflow_at, tmp_path):
    """`environment: build` of a model of the registry, by its alias, builds what MLflow's files beside it ask for, and the
    model runs there: a package that the server does not have answers.
    """
    client, _, register = registry
    write_wheel(tmp_path / "wheels")
    folder = save_code(tmp_path / "needy", lambda table: [__import__("tinyone").VERSION] * len(table))
    # MLflow lists itself and its tools too, which no index is here for; the first comes from the server
    minor = ".".join(map(str, sys.version_info[:2]))
    (folder / "requirements.txt").write_text("tinyone==1.5\n")
    (folder / "python_env.yaml").write_text(f"python: {minor}.0\ndependencies: [-r requirements.txt]\n")
    (folder / "conda.yaml").unlink()
    client.set_registered_model_alias("followed", "needy", register(folder))
    environ = {"MLFLOW_TRACKING_URI": mlflow_at.url, "HEADRACE_ARTIFACTS_CACHE_DIR": str(tmp_path / "cache")}
    wheels = str(tmp_path / "wheels")
    environ |= {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": wheels, "UV_NO_INDEX": "1", "UV_FIND_LINKS": wheels}
    flags = ("--state", tmp_path / "state.db", "--control-port", "0", "--load-policy", "trusted")
    server = serve(*flags, "--cache-dir", tmp_path / "built", environment=environ)
    control = ControlClient(server.control_url)
    control.apply([resources(Model_needy={"uri": "models:/followed@needy", "environment": "build"})])
    control.wait([("Model", "needy")], timeout_seconds=240)
    body = {"dataframe_split": {"columns": ["a", "b"], "data": ROWS.to_numpy().tolist()}}
    status, _, reply = server.ask("/invocations", body, {"content-type": "application/json"})
    assert (status, reply) == (200, {"predictions": ["1.5", "1.5"]})
    (record,) = (tmp_path / "built" / "environments").glob("*/environment.json")
    assert json.loads(record.read_text())["packages"]["tinyone"] == "1.5"
    control.close()
