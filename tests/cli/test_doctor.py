"""`headrace doctor`: what it says of this machine, of settings, ports and folders, and of models."""

import json
import socket
import tomllib
from pathlib import Path

import joblib
import numpy as np
import pytest
from click.testing import CliRunner
from sklearn.linear_model import LogisticRegression

from headrace.cli import doctor
from headrace.cli.group import headrace

PROJECT = Path(__file__).parents[2] / "pyproject.toml"
QUIET = {"HEADRACE_HTTP_PORT": "0", "HEADRACE_GRPC_PORT": "0", "HEADRACE_METRICS_PORT": "0"}


def run(*args, **environ):
    result = CliRunner().invoke(headrace, ["doctor", "--json", *args], env=QUIET | environ)
    report = json.loads(result.output)
    return result.exit_code, {(each["about"], each["name"]): each for each in report["findings"]}


@pytest.fixture
def model(tmp_path):
    """A file with a small classifier."""
    path = tmp_path / "sorter.joblib"
    joblib.dump(LogisticRegression().fit(np.arange(8.0).reshape(4, 2), [0, 0, 1, 1]), path)
    return path


def test_extras_are_those_of_the_project():
    """The doctor's table of extras is that of pyproject.toml, and each extra says what it is for."""
    extras = tomllib.loads(PROJECT.read_text())["project"]["optional-dependencies"]
    del extras["all"]
    assert {name: list(needs) for name, needs in doctor.EXTRAS.items()} == extras
    assert set(doctor.SERVES) == set(doctor.EXTRAS)


def test_healthy(tmp_path):
    """On a machine with everything, nothing is wrong and each extra shows its version."""
    code, found = run(HEADRACE_MODELS_CACHE_DIR=str(tmp_path / "cache"))
    assert code == 0
    assert found["extra", "sklearn"]["state"] == "ok"
    assert "scikit-learn 1." in found["extra", "sklearn"]["detail"]
    assert found["server", "cache folder"]["state"] == "ok"
    assert not (tmp_path / "cache").exists()


def test_missing_extra(monkeypatch):
    """An extra that is not installed is missing, not wrong, and says how to install it."""
    monkeypatch.setattr(doctor, "EXTRAS", {"onnx": ("surely-not-installed>=1",)})
    (finding,) = doctor.extras()
    assert finding.state == "missing"
    assert "pip install 'headrace[onnx]'" in finding.detail


def test_old_library(monkeypatch):
    """A library older than the extra needs is wrong, with both versions."""
    monkeypatch.setattr(doctor, "EXTRAS", {"onnx": ("numpy>=99.1",)})
    (finding,) = doctor.extras()
    assert finding.state == "wrong"
    assert "is older than 99.1" in finding.detail


def test_taken_port():
    """A port that somebody listens on is wrong, and the setting to change is named."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, found = run(HEADRACE_HTTP_PORT=str(port))
    assert code == 1
    finding = found["server", "REST port"]
    assert finding["state"] == "wrong"
    assert f"127.0.0.1:{port}" in finding["detail"]
    assert "http.port" in finding["detail"]


def test_wrong_settings():
    """A wrong setting is a finding, not the end of the report."""
    code, found = run(HEADRACE_HTTP_PROT="1")
    assert code == 1
    assert "HEADRACE_HTTP_PORT" in found["server", "settings"]["detail"]
    assert ("machine", "python") in found


def test_cache_that_is_a_file(tmp_path):
    """A cache folder that cannot be written is wrong."""
    (tmp_path / "file").write_text("")
    code, found = run(HEADRACE_MODELS_CACHE_DIR=str(tmp_path / "file"))
    assert code == 1
    assert found["server", "cache folder"]["state"] == "wrong"


def test_model_is_recognised(model):
    """A model's runtime is named with the evidence, without loading it."""
    code, found = run("--no-load", str(model))
    assert code == 0
    assert found["model", "sorter"]["detail"].startswith("sklearn: ")


def test_model_loads(model):
    """With loading, the report says that the model loads, and what its inputs are."""
    code, found = run(str(model))
    assert code == 0
    assert "loads; inputs" in found["model", "sorter"]["detail"]


def test_file_that_is_no_model(tmp_path):
    """A file that no runtime recognises is wrong, and the report says what was found."""
    path = tmp_path / "noise.onnx"
    path.write_bytes(b"\x00" * 64)
    code, found = run(str(path))
    assert code == 1
    assert found["model", str(path)]["state"] == "wrong"


def test_mlserver_folder(tmp_path):
    """Of a folder made for MLServer each model's class, its runtime here, what is not honoured, and what is wrong by file
    and line is told; a class that cannot be found is named without loading anything.
    """
    for name in ("iris", "echo", "lost", "cut"):
        (tmp_path / name).mkdir()
    joblib.dump(LogisticRegression().fit(np.arange(8.0).reshape(4, 2), [0, 0, 1, 1]), tmp_path / "iris/model.joblib")
    (tmp_path / "iris/model-settings.json").write_text('{"implementation": "mlserver_sklearn.SKLearnModel"}')
    (tmp_path / "echo/model-settings.json").write_text('{"implementation": "models.Echo",\n"max_batchsize": 1}')
    (tmp_path / "echo/models.py").write_text("from mlserver import MLModel\nclass Echo(MLModel): ...\n")
    (tmp_path / "lost/model-settings.json").write_text('{"implementation": "models.Ecko"}')
    (tmp_path / "lost/models.py").write_text("class Echo: ...\n")
    (tmp_path / "cut/model-settings.json").write_text("{")
    (tmp_path / "settings.json").write_text('{"metrics_dir": "/metrics", "http_port": 0}')
    result = CliRunner().invoke(headrace, ["doctor", "--json", "--no-load", str(tmp_path)], env=QUIET)
    found = [(each["name"], each["state"], each["detail"]) for each in json.loads(result.output)["findings"]]
    told = {(name, state): detail for name, state, detail in found}
    assert result.exit_code == 1
    assert told["iris", "ok"] == "sklearn: implementation mlserver_sklearn.SKLearnModel"
    assert ("echo", "ok", "mlserver: implementation models.Echo") in found
    assert ("echo", "ok", "class models.Echo is there") in found
    assert told["echo", "warning"].startswith(f"{tmp_path / 'echo' / 'model-settings.json'}:2: key 'max_batchsize'")
    assert told["lost", "wrong"] == f"{tmp_path / 'lost' / 'models.py'} has no 'Ecko'; did you mean 'Echo'?"
    assert told["cut", "wrong"].startswith(f"{tmp_path / 'cut' / 'model-settings.json'}:1: not valid JSON")
    assert "'metrics_dir' is not honoured" in told[str(tmp_path), "warning"]
    assert "http.port" in told[str(tmp_path), "ok"]


def test_mlserver_class_loads(tmp_path):
    """With loading, a class written for MLServer is loaded as the server would."""
    (tmp_path / "model-settings.json").write_text('{"name": "mine", "implementation": "models.Mine"}')
    (tmp_path / "models.py").write_text(
        "from mlserver import MLModel\nclass Mine(MLModel):\n    async def load(self):\n        raise OSError('no weights')\n"
    )
    result = CliRunner().invoke(headrace, ["doctor", "--json", str(tmp_path)], env=QUIET)
    found = [each for each in json.loads(result.output)["findings"] if each["name"] == "mine"]
    assert found[-1]["state"] == "wrong"
    assert "no weights" in found[-1]["detail"]


def test_settings_of_mlserver_that_are_wrong(tmp_path):
    """A settings.json that cannot be read is wrong, by file and line, and the report goes on."""
    (tmp_path / "settings.json").write_text('{"http_port":\n"x"}')
    (tmp_path / "model-settings.json").write_text('{"implementation": "models.Mine"}')
    code, found = run("--no-load", str(tmp_path))
    assert code == 1
    assert "key 'http_port': expected a whole number" in found["model", str(tmp_path)]["detail"]
    assert ("machine", "python") in found


def test_report_for_people(model):
    """Without --json the report is in sections, and ends with a verdict."""
    result = CliRunner().invoke(headrace, ["doctor", "--no-load", str(model)], env=QUIET)
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert [title for title in ("Machine", "Extras", "Server", "Models") if title in lines] == [
        "Machine",
        "Extras",
        "Server",
        "Models",
    ]
    assert lines[-1] == "nothing is wrong"
