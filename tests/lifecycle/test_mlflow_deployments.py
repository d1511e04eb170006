"""MLflow's deployment commands and client against a real server.

Matrix: targets; specs from config; create, update, list, get, predict, explain, delete, each with what goes wrong; the
same by MLflow's own command line, which finds the plug-in by its entry point.
"""

from __future__ import annotations

import contextlib
import http.server
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import tomllib
import warnings
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import headrace
from headrace.cli import trust_fit

pytest.importorskip("mlflow")
pandas = pytest.importorskip("pandas")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    plugin = importlib.import_module("headrace.lifecycle.mlflow_deployments")
    interface = importlib.import_module("mlflow.deployments.interface")
    commands = importlib.import_module("mlflow.deployments.cli").commands
    flavor = importlib.import_module("mlflow.sklearn")
    from mlflow.exceptions import MlflowException
    from mlflow.models import infer_signature

MODULE = "headrace.lifecycle.mlflow_deployments"
ROWS = pandas.DataFrame({"a": [0.0, 1.0, 2.0, 3.0], "b": [1.0, 0.0, 1.0, 0.0]})


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Folders of two MLflow models that answer differently."""
    from sklearn.linear_model import LinearRegression

    folder = tmp_path_factory.mktemp("saved")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, factor in (("once", 1.0), ("twice", 2.0)):
            model = LinearRegression().fit(ROWS, ROWS["a"] * factor)
            options = {"signature": infer_signature(ROWS, ROWS["a"]), "pip_requirements": []}
            flavor.save_model(model, str(folder / name), **options)
    return folder


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    """The target uri of a server without any model."""
    folder = tmp_path_factory.mktemp("server")
    environment = {**os.environ, "PYTHONPATH": str(Path(headrace.__file__).parents[1])}
    ports = [flag for kind in ("", "grpc-", "metrics-", "control-") for flag in (f"--{kind}port", "0")]
    command = [sys.executable, "-m", "headrace", "serve", "--state", str(folder / "state.db"), *ports]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment, cwd=folder
    )
    try:
        found = {}
        for line in process.stdout:
            told = re.match(r"(REST|control)\s.*?:(\d+)", line)
            if told:
                found[told[1]] = told[2]
            if len(found) == 2:
                break
        assert len(found) == 2, f"the server ended with {process.wait()}"
        yield f"headrace:http://127.0.0.1:{found['control']}?url=http://127.0.0.1:{found['REST']}"
    finally:
        process.terminate()
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


@pytest.fixture
def client(target):
    """A client, which leaves nothing behind."""
    made = plugin.HeadraceDeploymentClient(target)
    yield made
    for each in made.list_deployments():
        made.delete_deployment(each["name"])


def predicted(client, name):
    return client.predict(name, ROWS).get_predictions("ndarray").round(6).tolist()


def test_a_deployment_lives_from_create_to_delete(client, saved):
    """It answers once created, answers as the new model once updated, and is gone once deleted, twice if need be."""
    made = client.create_deployment("lin", str(saved / "once"), config={"replicas": "2"})
    assert (made["name"], made["ready"], made["spec"]["replicas"]) == ("lin", True, 2)
    assert predicted(client, "lin") == [0.0, 1.0, 2.0, 3.0]
    client.update_deployment("lin", str(saved / "twice"))
    assert predicted(client, "lin") == [0.0, 2.0, 4.0, 6.0]
    assert client.get_deployment("lin")["spec"]["replicas"] == 2
    assert [each["name"] for each in client.list_deployments()] == ["lin"]
    client.delete_deployment("lin")
    client.delete_deployment("lin")
    assert client.list_deployments() == []


@pytest.mark.parametrize(
    "inputs",
    [
        pytest.param(ROWS.to_numpy(), id="an array"),
        pytest.param(ROWS.to_numpy().tolist(), id="a list"),
        pytest.param({name: ROWS[name].to_numpy() for name in ROWS}, id="arrays by name"),
        pytest.param({"dataframe_records": ROWS.to_dict(orient="records")}, id="a body"),
    ],
)
def test_inputs_may_have_any_form(client, saved, inputs):
    """What `mlflow.pyfunc` takes is taken."""
    client.create_deployment("lin", str(saved / "once"))
    assert client.predict("lin", inputs).get_predictions("ndarray").round(6).tolist() == [0.0, 1.0, 2.0, 3.0]


def test_a_deployment_is_explained(client, saved, tmp_path):
    """A model with a trust folder explains each row by the names of its columns; one without says what to do."""
    client.create_deployment("bare", str(saved / "once"))
    with pytest.raises(MlflowException, match="headrace trust fit") as caught:
        client.explain("bare", ROWS[:2])
    assert caught.value.error_code == "RESOURCE_DOES_NOT_EXIST"
    shutil.copytree(saved / "once", tmp_path / "lin")
    pandas.concat([ROWS] * 50).to_csv(tmp_path / "rows.csv", index=False)
    options = ["--detector", "none", "--explainer", "permutation-shap"]
    fitted = CliRunner().invoke(
        trust_fit.command, [str(tmp_path / "lin"), "--data", str(tmp_path / "rows.csv"), *options]
    )
    assert fitted.exit_code == 0, fitted.output
    client.create_deployment("lin", str(tmp_path / "lin"))
    found = client.explain("lin", ROWS[:2])
    told = json.dumps(found)
    assert "permutation-shap" in told
    assert '"a"' in told


def test_a_name_is_deployed_once(client, saved):
    """A second create of the name is refused, and the first goes on."""
    client.create_deployment("lin", str(saved / "once"))
    with pytest.raises(MlflowException, match="there is a deployment 'lin'") as caught:
        client.create_deployment("lin", str(saved / "twice"))
    assert caught.value.error_code == "RESOURCE_ALREADY_EXISTS"
    assert predicted(client, "lin") == [0.0, 1.0, 2.0, 3.0]


def test_what_cannot_be_loaded_is_not_left_behind(client, saved, tmp_path):
    """A create that fails says why and leaves nothing; an update that fails leaves the old model answering."""
    (tmp_path / "MLmodel").write_text("flavors:\n  spark: {}\n")
    with pytest.raises(MlflowException, match="no python_function flavor"):
        client.create_deployment("lin", str(tmp_path))
    assert client.list_deployments() == []
    client.create_deployment("lin", str(saved / "once"))
    with pytest.raises(MlflowException, match="no python_function flavor"):
        client.update_deployment("lin", str(tmp_path))
    assert predicted(client, "lin") == [0.0, 1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    ("call", "code", "text"),
    [
        pytest.param(lambda c: c.get_deployment("no"), "RESOURCE_DOES_NOT_EXIST", "no deployment 'no'", id="get"),
        pytest.param(lambda c: c.update_deployment("no", "x"), "RESOURCE_DOES_NOT_EXIST", "'no'", id="update"),
        pytest.param(lambda c: c.predict("no", [[1]]), "RESOURCE_DOES_NOT_EXIST", "'no'", id="predict"),
        pytest.param(lambda c: c.predict(None, [[1]]), "INVALID_PARAMETER_VALUE", "name", id="no name"),
        pytest.param(lambda c: c.predict("a", None), "INVALID_PARAMETER_VALUE", "no inputs", id="no inputs"),
        pytest.param(lambda c: c.predict("a", {1, 2}), "INVALID_PARAMETER_VALUE", "JSON", id="no JSON"),
        pytest.param(lambda c: c.predict("a", [1], "e"), "INVALID_PARAMETER_VALUE", "endpoint", id="endpoint"),
        pytest.param(lambda c: c.create_deployment("a", "x", "sklearn"), "INVALID_PARAMETER_VALUE", "flavor", id="flavor"),
        pytest.param(
            lambda c: c.create_deployment("a", "x", config={"nope": "1"}), "INVALID_PARAMETER_VALUE", "nope", id="config"
        ),
        pytest.param(
            lambda c: c.create_deployment("a", "x", config={"timeout": "soon"}),
            "INVALID_PARAMETER_VALUE",
            "timeout",
            id="timeout",
        ),
        pytest.param(
            lambda c: c.delete_deployment("a", {"now": "true"}), "INVALID_PARAMETER_VALUE", "now", id="delete config"
        ),
    ],
)  # fmt: skip
def test_what_goes_wrong_is_mlflows_error(client, call, code, text):
    """Callers of MLflow's client see its exception with a code of its, and a text that names the thing."""
    with pytest.raises(MlflowException, match=text) as caught:
        call(client)
    assert caught.value.error_code == code


def test_keys_are_shown_to_the_server_and_nobody_else(monkeypatch):
    """The key of the models and the token of the control API travel as bearer tokens, and stand in no error."""
    seen = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            seen.append(self.headers["Authorization"])
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(401)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def do_GET(self):
            seen.append(self.headers["Authorization"])
            self.send_response(403)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            """Nothing."""

    monkeypatch.setenv("HEADRACE_API_KEY", "key-4711")
    monkeypatch.setenv("HEADRACE_CONTROL_TOKEN", "token-4711")
    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_port}"
            asking = plugin.HeadraceDeploymentClient(f"headrace:{url}?url={url}")
            with pytest.raises(MlflowException) as first:
                asking.predict("m", [[1]])
            with pytest.raises(MlflowException) as second:
                asking.list_deployments()
        finally:
            server.shutdown()
            thread.join()
    assert seen == ["Bearer key-4711", "Bearer token-4711"]
    assert "4711" not in f"{first.value}{second.value}{asking!r}{asking.target}"


def test_a_server_that_is_away_is_named():
    """The error says where nobody answers."""
    with pytest.raises(MlflowException, match=r"127\.0\.0\.1:9") as caught:
        plugin.HeadraceDeploymentClient("headrace:http://127.0.0.1:9").list_deployments()
    assert caught.value.error_code == "TEMPORARILY_UNAVAILABLE"


@pytest.mark.parametrize(
    ("uri", "environment", "control", "serving"),
    [
        ("headrace", {}, "http://127.0.0.1:8083", "http://127.0.0.1:8080"),
        ("headrace", {"HEADRACE_CONTROL_URL": "https://c:1"}, "https://c:1", "http://c:8080"),
        ("headrace:/", {"HEADRACE_URL": "http://d"}, "http://127.0.0.1:8083", "http://d"),
        ("headrace:http://h:1/p", {"HEADRACE_URL": "http://d"}, "http://h:1/p", "http://h:8080"),
        ("headrace://h:1?url=https://d", {}, "http://h:1", "https://d"),
        ("headrace:http://[::1]:1", {}, "http://[::1]:1", "http://[::1]:8080"),
    ],
)
def test_a_target_names_a_server(uri, environment, control, serving):
    """Each form says where the control API is and where models answer."""
    assert plugin.parse_target(uri, environment) == plugin.Target(control, serving)


@pytest.mark.parametrize(
    "uri",
    ["headrace:ftp://h", "headrace:http://h?uri=x", "headrace:/eu-west-1", "headrace:h:8083", "headrace:http://:1"],
)
def test_a_target_that_names_none_is_refused(uri):
    """The error shows the form that is expected."""
    with pytest.raises(MlflowException, match="expected headrace or headrace:http"):
        plugin.parse_target(uri, {})


def test_config_is_fields_of_a_model(tmp_path, monkeypatch):
    """Texts are read as YAML, dots lead into parts, and what was there and is not named stays."""
    before = {"uri": "s3://old", "replicas": 1, "parameters": {"a": 1}}
    config = {"replicas": "2", "max_replicas": 4, "batching.max_batch_size": "8", "parameters.b": "[x]"}
    monkeypatch.chdir(tmp_path)
    assert plugin.spec_of("models:/m@a", {}, before)["uri"] == "models:/m@a"
    assert plugin.spec_of("m", {}, {})["uri"] == str(tmp_path / "m")
    assert plugin.spec_of("s3://new", config, before) == {
        "uri": "s3://new",
        "replicas": 2,
        "maxReplicas": 4,
        "batching": {"maxBatchSize": 8},
        "parameters": {"a": 1, "b": ["x"]},
    }
    with pytest.raises(MlflowException, match="replicas has no parts"):
        plugin.spec_of("", {"replicas.x": "1"}, before)


def test_values_that_json_lacks_travel():
    """NaN goes as null, numpy's numbers and times as plain ones."""
    frame = pandas.DataFrame({"x": [np.nan, 1.5], "t": pandas.to_datetime(["2024-01-02", "2024-01-03"])})
    assert json.loads(plugin.body_of(frame)) == {
        "dataframe_split": {
            "columns": ["x", "t"],
            "data": [[None, "2024-01-02T00:00:00"], [1.5, "2024-01-03T00:00:00"]],
        }
    }
    assert json.loads(plugin.body_of(np.float32([0.5]))) == {"inputs": [0.5]}


def test_mlflows_command_line_deploys(target, client, saved, tmp_path, monkeypatch):
    """`mlflow deployments` finds the plug-in by its entry point, and creates, asks, lists and deletes."""
    told = tmp_path / "site" / "headrace_entry-1.dist-info"
    told.mkdir(parents=True)
    (told / "METADATA").write_text("Metadata-Version: 2.1\nName: headrace-entry\nVersion: 1\n")
    (told / "entry_points.txt").write_text(f"[mlflow.deployments]\nheadrace = {MODULE}\n")
    monkeypatch.syspath_prepend(str(told.parent))
    monkeypatch.setattr(interface, "plugin_store", type(interface.plugin_store)())
    (tmp_path / "rows.json").write_text(ROWS.to_json(orient="records"))

    def run(*arguments):
        with warnings.catch_warnings(), contextlib.redirect_stderr(None):
            warnings.simplefilter("ignore")
            result = CliRunner().invoke(commands, list(map(str, arguments)))
        assert result.exit_code == 0, result.output
        return result.output

    assert "headrace:http://HOST:8083" in run("help", "-t", "headrace")
    assert "lin" in run("create", "-t", target, "--name", "lin", "-m", saved / "once", "-C", "replicas=2")
    answer = json.loads(run("predict", "-t", target, "--name", "lin", "-I", tmp_path / "rows.json"))
    assert np.round(answer["predictions"], 6).tolist() == [0.0, 1.0, 2.0, 3.0]
    run("update", "-t", target, "--name", "lin", "-m", saved / "twice")
    assert predicted(client, "lin") == [0.0, 2.0, 4.0, 6.0]
    assert "lin" in run("list", "-t", target)
    assert "'ready': True" in run("get", "-t", target, "--name", "lin") or "ready: True" in run(
        "get", "-t", target, "--name", "lin"
    )
    run("delete", "-t", target, "--name", "lin")
    assert client.list_deployments() == []


def test_the_package_has_the_entry_point():
    """Who installs Headrace has the target: the package's own description names this module."""
    described = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    assert described["project"]["entry-points"]["mlflow.deployments"] == {"headrace": MODULE}


def test_the_plug_in_is_complete():
    """MLflow wants exactly one client class, `run_local` and `target_help` in the module."""
    base = interface.BaseDeploymentClient
    classes = {each for each in vars(plugin).values() if isinstance(each, type) and issubclass(each, base)} - {base}
    assert classes == {plugin.HeadraceDeploymentClient}
    assert callable(plugin.run_local)
    assert "models:/NAME@ALIAS" in plugin.target_help()
    with pytest.raises(MlflowException, match="flavor"):
        plugin.run_local("m", "x", "sklearn")
