"""A model of MLflow's registry, served by its alias and followed."""

from __future__ import annotations

import time

import pandas as pd
import pytest
from sklearn.linear_model import LinearRegression

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
