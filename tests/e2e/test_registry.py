"""A model of MLflow's registry, served by its alias and followed."""

from __future__ import annotations

import json
import time
import warnings

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

    return client, log, register


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


def save_failing(folder):
    """A model that loads, and fails whoever asks it."""
    import mlflow.pyfunc
    from mlflow.models import infer_signature

    with warnings.catch_warnings(record=True):  # MLflow wants type hints and an example
        warnings.simplefilter("ignore")

        class Failing(mlflow.pyfunc.PythonModel):
            def predict(self, context, model_input, params=None):
                raise RuntimeError("no answer")

        mlflow.pyfunc.save_model(folder, python_model=Failing(), pip_requirements=[], signature=infer_signature(ROWS))
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
    stable, bad, good = log(2.0), register(save_failing(tmp_path / "failing")), log(3.0)
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
