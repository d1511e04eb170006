"""`headrace serve` and the commands that ask it, as processes: what is printed, answered, and left behind."""

import contextlib
import json
import shlex
import signal
import subprocess
import sys
import urllib.request

import joblib
import numpy as np
import pytest
from click.testing import CliRunner
from sklearn.linear_model import LogisticRegression

from headrace import settings
from headrace.cli import serve
from headrace.cli.group import headrace

X = np.array([[0.0, 1.0], [1.0, 0.0], [2.0, 3.0], [3.0, 2.0]])
SORTER = LogisticRegression().fit(X, [0, 0, 1, 1])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of two models: a file, and a class in a file."""
    place = tmp_path_factory.mktemp("models")
    joblib.dump(SORTER, place / "sorter.joblib")
    (place / "adder").mkdir()
    (place / "adder" / "model.py").write_text(
        "import numpy as np\n\nclass Adder:\n    def predict(self, x: np.ndarray) -> np.ndarray:\n        return x.sum(axis=1)\n"
    )
    (place / "adder" / "headrace.yaml").write_text(
        "reference: model:Adder\ninputs: [{name: x, datatype: FP64, shape: [-1, 2]}]\n"
    )
    return place


@contextlib.contextmanager
def serving(*args, cache, last="curl"):
    """A server process and what it printed until a line began as the last one does."""
    ports = ["--port", "0", "--grpc-port", "0", "--metrics-port", "0", "--cache-dir", str(cache), "--optimize", "off"]
    command = [sys.executable, "-m", "headrace", "serve", *map(str, args), *ports]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        printed = []
        for line in process.stdout:
            printed.append(line.rstrip("\n"))
            if line.startswith(last):
                break
        yield process, printed
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def server(folder, tmp_path_factory):
    """The url of a server of the folder, and what it printed."""
    with serving(folder, cache=tmp_path_factory.mktemp("cache")) as (process, printed):
        assert process.poll() is None, process.communicate()
        (rest,) = [line for line in printed if line.startswith("REST")]
        yield rest.split()[1], printed
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


@pytest.fixture
def ask(server):
    """Runs a command that asks the server."""

    def run(*args, **rest):
        return CliRunner().invoke(headrace, [*args, "--url", server[0]], **rest)

    return run


def test_table(server):
    """The models are listed with state, platform, placement and inputs; the ports are those it listens on."""
    _, printed = server
    assert printed[0].split()[:2] == ["model", "state"]  # without versions there is no column of them
    rows = {line.split()[0]: line for line in printed[1:3]}
    assert set(rows) == {"sorter", "adder"}
    assert all("READY" in row for row in rows.values())
    assert any(line.startswith("gRPC     localhost:") and not line.endswith(":0") for line in printed)
    assert any(line.startswith("metrics  http://localhost:") for line in printed)


def test_pasted_request_is_answered(server):
    """The curl command that is printed gets an answer."""
    _, printed = server
    words = shlex.split(printed[-1])
    request = urllib.request.Request(words[1], words[3].encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as reply:
        assert json.loads(reply.read())["outputs"]


def test_models(ask):
    """`headrace models` lists both models as READY, with their inputs; --json says the same."""
    result = ask("models")
    assert result.exit_code == 0, result.stderr
    assert result.output.count("READY") == 2
    rows = {row["name"]: row for row in json.loads(ask("models", "--json").output)}
    assert rows["sorter"]["platform"] == "sklearn"
    assert rows["sorter"]["inputs"][0]["shape"][-1] == 2
    assert rows["sorter"]["placement"] in {"inline", "thread", "process"}


def test_predict(ask, tmp_path):
    """`headrace predict` answers rows of a file as the model itself would, as a table or as JSON."""
    np.savetxt(tmp_path / "rows.csv", X, delimiter=",", header="a,b", comments="")
    result = ask("predict", "sorter", "--data", str(tmp_path / "rows.csv"))
    assert result.exit_code == 0, result.stderr
    lines = [line.split() for line in result.output.splitlines()]
    assert [line[1] for line in lines[1:]] == [str(label) for label in SORTER.predict(X)]
    answer = json.loads(ask("predict", "sorter", "--data", "-", "--json", input=json.dumps(X.tolist())).output)
    assert next(iter(answer.values())) == SORTER.predict(X).tolist()


def test_predict_named_input(ask):
    """Inputs given by name reach the model under these names."""
    result = ask("predict", "adder", "--input", "x=[[1, 2.5]]", "--json")
    assert result.exit_code == 0, result.stderr
    assert list(json.loads(result.output).values()) == [[3.5]]


def test_predict_unknown_model(ask):
    """An unknown model is one line and exit code 4."""
    result = ask("predict", "nobody", "--input", "x=[1]")
    assert result.exit_code == 4
    assert "nobody" in result.stderr
    assert result.stderr.count("\n") == 1


def test_unload_and_load(ask):
    """An unloaded model is not ready, says why, and comes back by load."""
    assert ask("unload", "adder").output == "adder is unloaded\n"
    rows = {row["name"]: row for row in json.loads(ask("models", "--json").output)}
    assert rows["adder"]["state"] == "UNAVAILABLE"
    assert rows["adder"]["reason"] == "unloaded"
    assert ask("predict", "adder", "--input", "x=[[1, 2]]").exit_code == 4
    assert ask("load", "adder").output == "adder is loaded\n"
    assert ask("predict", "adder", "--input", "x=[[1, 2]]").exit_code == 0


def test_load_unknown(ask):
    """Loading a model that the repository does not have fails with 4."""
    assert ask("load", "nobody").exit_code == 4


def failing(*args):
    command = [sys.executable, "-m", "headrace", "serve", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_nothing_there(tmp_path):
    """A path where nothing is ends at once with one line and no traceback."""
    result = failing(tmp_path / "none.joblib", "--port", "0", "--grpc-port", "0", "--metrics-port", "0")
    assert result.returncode in {2, 4}
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1


def test_model_that_cannot_load(tmp_path):
    """Under the policy `fail`, a model that cannot be loaded ends the server with 4 and the reason."""
    (tmp_path / "broken.py").write_text(
        "class Broken:\n    def load(self):\n        raise OSError('no weights')\n    def predict(self, x):\n        return x\n"
    )
    ports = ["--port", "0", "--grpc-port", "0", "--metrics-port", "0"]
    result = failing(f"{tmp_path / 'broken.py'}:Broken", *ports)
    assert result.returncode == 4
    assert "no weights" in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr.splitlines()[-1]


def test_taken_port(folder):
    """A port that is taken ends the server with 2 and names the setting."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = failing(folder, "--port", str(port), "--grpc-port", "0", "--metrics-port", "0")
    assert result.returncode == 2
    assert f"http.port: cannot listen on 127.0.0.1:{port}" in result.stderr


def test_address_of_another_machine(folder):
    """An address that is not this machine's is told from a port that is taken: the host is what to change."""
    result = failing(folder, "--host", "192.0.2.1", "--port", "0")
    assert result.returncode == 2
    assert "cannot listen on 192.0.2.1:0" in result.stderr
    assert "set http.host to an address of this machine" in result.stderr


def test_wrong_flag_value(folder):
    """A flag's value is checked by the settings loader: exit code 2, before any model loads."""
    result = failing(folder, "--watch", "often")
    assert result.returncode == 2
    assert (
        result.stderr == "error: flag for models.watch_seconds: expected a number of seconds, 0 or more, got 'often'\n"
    )


def test_set_any_setting(folder):
    """--set reaches any setting, and refuses an unknown one by the nearest name."""
    result = failing(folder, "--set", "http.max_conections=5")
    assert result.returncode == 2
    assert "did you mean 'http.max_connections'?" in result.stderr


def test_name_for_several(folder):
    """--name is for one model; for a folder of several it is a usage error."""
    result = failing(folder, "--name", "x")
    assert result.returncode == 2
    assert "--name is for one model, and 2 were found" in result.stderr


def test_renamed(folder, tmp_path):
    """--name changes what callers ask for, also after a reload."""
    with serving(folder / "sorter.joblib", "--name", "renamed", cache=tmp_path) as (process, printed):
        assert process.poll() is None, process.communicate()
        (rest,) = [line for line in printed if line.startswith("REST")]
        url = rest.split()[1]
        for command in ("load", "models"):
            args = ["load", "renamed"] if command == "load" else ["models", "--json"]
            result = CliRunner().invoke(headrace, [*args, "--url", url])
            assert result.exit_code == 0, result.stderr
        assert [row["name"] for row in json.loads(result.output)] == ["renamed"]
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0


@pytest.fixture
def mlserver_folder(tmp_path):
    """A folder made for MLServer: a scikit-learn model, a class of its own, one that cannot be read, and settings."""
    place = tmp_path / "theirs"
    for name in ("iris", "echo", "broken"):
        (place / name).mkdir(parents=True)
    joblib.dump(SORTER, place / "iris" / "model.joblib")
    settings = {"implementation": "mlserver_sklearn.SKLearnModel", "parameters": {"version": "v1"}}
    (place / "iris" / "model-settings.json").write_text(json.dumps(settings))
    settings = {"implementation": "models.Echo", "max_batchsize": 3}
    (place / "echo" / "model-settings.json").write_text(json.dumps(settings, indent=1))
    (place / "echo" / "models.py").write_text(
        "from mlserver import MLModel\nfrom mlserver.types import InferenceResponse\n\n"
        "class Echo(MLModel):\n    async def load(self):\n        return True\n"
        "    async def predict(self, payload):\n"
        "        outputs = [{**i.model_dump(), 'data': [2 * x for x in i.data]} for i in payload.inputs]\n"
        "        return InferenceResponse(model_name=self.name, outputs=outputs)\n"
    )
    (place / "broken" / "model-settings.json").write_text('{"name": "cut",\n')
    settings = {
        "server_name": "theirs",
        "http_port": 1,
        "metrics_dir": "/metrics",
        "debug": False,
        "parallel_workers": 0,
    }
    (place / "settings.json").write_text(json.dumps(settings))
    return place


def fetch(url, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as reply:
        return json.loads(reply.read())


def test_mlserver_folder(mlserver_folder, tmp_path):
    """A folder made for MLServer is served as it is: its classes answer, its settings hold under the flags, what is not
    honoured is told once, and a model that cannot be read keeps nobody from being served.
    """
    with serving(mlserver_folder, "--compat", "mlserver", cache=tmp_path) as (process, printed):
        assert process.poll() is None, process.communicate()
        (rest,) = [line for line in printed if line.startswith("REST")]
        url = rest.split()[1]
        assert fetch(f"{url}/v2")["name"] == "theirs"
        body = {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP64", "data": [2, 3]}]}
        assert fetch(f"{url}/v2/models/echo/infer", body)["outputs"][0]["data"] == [4, 6]
        assert fetch(f"{url}/v2/models/iris/versions/v1/infer", body)["outputs"][0]["data"] == [1]
        index = {row["name"]: row for row in fetch(f"{url}/v2/repository/index", {})}
        assert {name: row["state"] for name, row in index.items()} == {
            "broken": "UNAVAILABLE",
            "echo": "READY",
            "iris": "READY",
        }
        assert f"{mlserver_folder / 'broken' / 'model-settings.json'}:2: not valid JSON" in index["broken"]["reason"]
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=30)
    warnings = [line.removeprefix("warning: ") for line in errors.splitlines() if line.startswith("warning: ")]
    (key,) = [each for each in warnings if "echo" in each]
    (field,) = [each for each in warnings if each is not key]
    file = mlserver_folder / "echo" / "model-settings.json"
    assert key == f"{file}:3: key 'max_batchsize' is not known; did you mean 'max_batch_size'?"
    assert field.startswith(f"{mlserver_folder / 'settings.json'}:1: 'metrics_dir' is not honoured: ")


def test_mlserver_settings_that_are_wrong(mlserver_folder):
    """A settings.json with a wrong value ends the server with 2, naming file, line and key."""
    (mlserver_folder / "settings.json").write_text('{"debug": false,\n"http_port": "many"}')
    result = failing(mlserver_folder)
    assert result.returncode == 2
    place = f"{mlserver_folder / 'settings.json'}:2"
    assert result.stderr == f"error: {place}: key 'http_port': expected a whole number, came the text 'many'\n"


def test_foreign_settings_of_two_folders(tmp_path):
    """Of two folders that say different things of the server the first counts, and a warning names both."""
    for name, port in (("a", 9000), ("b", 9001)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "settings.json").write_text(json.dumps({"http_port": port}))
    values, warnings = serve.foreign_settings([str(tmp_path / "a"), str(tmp_path / "b"), "no/folder"])
    assert values["http.port"] == (9000, f"{tmp_path / 'a' / 'settings.json'}:1")
    (warning,) = warnings
    assert warning.startswith(f"{tmp_path / 'b' / 'settings.json'}:1: http.port 9001 is not honoured: ")


def test_placement_by_flag_stands_over_their_workers(mlserver_folder):
    """What is said of all models in our own words stands over `parallel_workers`; what nobody said does not."""
    values, _ = serve.foreign_settings([str(mlserver_folder)])
    said = serve.said_of_models(settings.load(settings.Settings(), "", {}, {}, foreign=values), values)
    assert said == {}
    environ = {"HEADRACE_MODELS_PLACEMENT": "thread", "HEADRACE_MODELS_LOAD_AT_START": "no"}
    loaded = settings.load(settings.Settings(), "", environ, {"models.replicas": 2}, foreign=values)
    assert serve.said_of_models(loaded, values) == {"placement": "thread", "replicas": 2, "load_at_start": False}


# -- resources --

SHOP = """
apiVersion: headrace.io/v1
kind: Model
metadata: {name: first}
spec: {uri: sorter.joblib}
---
apiVersion: headrace.io/v1
kind: Pipeline
metadata: {name: shop}
spec:
  steps: [{name: first}]
  output: {steps: [first]}
"""


def serving_resources(*args, cwd):
    """A server process that takes resources, and what it printed until its control API stood."""
    state = ["--control-port", "0", "--state", cwd / "state.db"]
    return serving(*args, *state, cache=cwd / "cache", last="control")


@pytest.fixture
def shop(tmp_path):
    """A folder of manifests, and the model that they speak of."""
    place = tmp_path / "shop"
    place.mkdir()
    joblib.dump(SORTER, place / "sorter.joblib")
    (place / "shop.yaml").write_text(SHOP)
    return place


def asked(line, *words):
    """Runs a command that asks the control API of the line that a server printed."""
    return CliRunner().invoke(headrace, [*map(str, words), "--control-url", line.split()[1]])


def test_resources_survive_a_kill(shop, tmp_path):
    """A server without paths waits for resources; what was applied is served again after it was killed."""
    with serving_resources(cwd=tmp_path) as (process, printed):
        assert process.poll() is None, process.communicate()
        assert process.stdout.readline() == "\n"
        assert process.stdout.readline().startswith("no models yet; declare some: headrace apply -f FILE --control-url")
        result = asked(printed[-1], "apply", "-f", shop, "--wait", "--timeout", 30)
        assert result.exit_code == 0, result.stderr
        process.send_signal(signal.SIGKILL)
        process.wait(60)
    with serving_resources(cwd=tmp_path) as (process, printed):
        assert process.poll() is None, process.communicate()
        rows = {line.split()[0]: line.split()[1:] for line in printed if line}
        assert rows["first"][:2] == ["1", "READY"]
        assert rows["shop"][:2] == ["pipeline", "READY"]
        words = shlex.split(process.stdout.readline() + process.stdout.readline())
        assert words[1].endswith("/v2/pipelines/shop/infer")
        request = urllib.request.Request(words[1], words[3].encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as reply:
            assert json.loads(reply.read())["outputs"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


def test_manifests_at_the_start(shop, folder, tmp_path):
    """With -f, manifests are applied when the server starts, beside the models of its paths."""
    with serving_resources(folder, "-f", shop, cwd=tmp_path) as (process, printed):
        assert process.poll() is None, process.communicate()
        names = {line.split()[0] for line in printed if "READY" in line}
        assert names == {"adder", "sorter", "first", "shop"}
        assert asked(printed[-1], "get", "-o", "name").output.split() == ["model/first", "pipeline/shop"]


def test_a_port_for_the_control_api_asks_for_it(folder, tmp_path):
    """With --control-port, a server of paths takes resources without being told so twice."""
    with serving_resources(folder, cwd=tmp_path) as (process, printed):
        assert process.poll() is None, process.communicate()
        assert asked(printed[-1], "get", "-o", "name").exit_code == 0


def test_manifests_that_are_wrong(shop, tmp_path):
    """A server whose manifests are wrong does not start, and lists every fault with file and line."""
    (shop / "shop.yaml").write_text(SHOP.replace("uri:", "urii:").replace("output:", "outptu:"))
    with serving_resources("-f", shop, cwd=tmp_path) as (process, _):
        assert process.wait(30) == 6
        error = process.stderr.read()
    assert "error: 2 faults" in error
    assert "shop.yaml:5" in error


@pytest.mark.parametrize("args", [[], ["-f", "."]], ids=["without paths", "with manifests"])
def test_no_control_where_it_is_needed(args, shop, monkeypatch):
    """Without the control loop there is nothing that could serve resources: a usage error says so."""
    monkeypatch.chdir(shop)
    result = CliRunner().invoke(headrace, ["serve", "--no-control", *args])
    assert result.exit_code == 2
    assert "--no-control" in result.stderr


def test_the_control_api_of_other_machines_needs_a_token(tmp_path):
    """Where other machines would reach the control API, a server without a token does not start."""
    with serving_resources("--set", "control.host=0.0.0.0", cwd=tmp_path) as (process, _):
        assert process.wait(30) == 2
        assert "HEADRACE_CONTROL_TOKEN" in process.stderr.read()
