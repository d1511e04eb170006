"""`headrace mlserver`: the commands of MLServer, with their arguments, variables and defaults."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tarfile
import threading
import typing
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import click
import joblib
import numpy as np
import pytest
from click.testing import CliRunner
from sklearn.linear_model import LogisticRegression

import headrace as package
from headrace.cli import group, image, mlserver
from headrace.serving.dialects import mlserver as dialect

X = np.array([[0.0, 1.0], [1.0, 0.0], [2.0, 3.0], [3.0, 2.0]])
SOURCE = str(Path(package.__file__).parents[1])


def run(*args, **rest):
    return CliRunner().invoke(group.headrace, ["mlserver", *map(str, args)], **rest)


def made(place):
    (place / "sorter").mkdir(parents=True)
    joblib.dump(LogisticRegression().fit(X, [0, 0, 1, 1]), place / "sorter" / "model.joblib")
    settings = {"name": "sorter", "implementation": "mlserver_sklearn.SKLearnModel", "parameters": {"version": "v1"}}
    (place / "sorter" / "model-settings.json").write_text(json.dumps(settings))
    ports = {"http_port": 0, "grpc_port": 0, "metrics_port": 0, "debug": False}
    (place / "settings.json").write_text(json.dumps({**ports, "parallel_workers": 0}))
    return place


@pytest.fixture
def folder(tmp_path):
    """An MLServer folder of one scikit-learn model."""
    return made(tmp_path / "models")


# -- the group --


@pytest.mark.parametrize("name", list(mlserver.command.commands))
def test_help(name):
    """Every command's help says what each option is for, and its examples are ones that it takes."""
    result = run(name, "--help")
    assert result.exit_code == 0
    examples = re.findall(r"headrace mlserver (.*)", result.output.partition("Examples:")[2].partition("Options:")[0])
    assert examples
    command = mlserver.command.commands[name]
    assert all(isinstance(each, click.Argument) or each.help for each in command.params)
    for words in map(shlex.split, examples):
        assert words[0] == name
        command.make_context(name, words[1:])


def test_version():
    """--version names the MLServer release that is spoken, and ours."""
    assert run("--version").output == f"mlserver, version 1.7.1 (headrace {package.__version__})\n"


def test_unknown():
    """A command that is not there is a usage error."""
    result = run("strat")
    assert result.exit_code == 2
    assert "see `headrace mlserver --help`" in result.stderr


# -- start --


def served(folder, tmp_path, **environ):
    """A process that starts a folder, and the address it prints."""
    paths = {
        "PYTHONPATH": SOURCE,
        "HEADRACE_MODELS_CACHE_DIR": str(tmp_path / "cache"),
        "HEADRACE_MODELS_OPTIMIZE": "off",
    }
    command = [sys.executable, "-m", "headrace", "mlserver", "start", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, **paths, **environ})
    printed = iter(process.stdout.readline, "")
    return process, next((each.split()[1] for each in printed if each.startswith("REST")), "")


def stopped(process):
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    return process.returncode


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    """The address of a server of such a folder."""
    place = tmp_path_factory.mktemp("started")
    process, url = served(made(place / "models"), place)
    try:
        yield url
    finally:
        assert stopped(process) == 0


@pytest.mark.parametrize("more", [[], ["-s", "3", "-w", "2"], ["-v"]])
def test_start_and_infer(started, tmp_path, more):
    """A folder made for MLServer is started as it is, and a file of requests answered, with the original's arguments."""
    rows = [{"inputs": [{"name": "predict", "shape": [1, 2], "datatype": "FP64", "data": row}]} for row in X.tolist()]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    host = started.removeprefix("http://")
    words = ["-u", host, "-m", "sorter", "-i", tmp_path / "in.jsonl", "-o", tmp_path / "out.jsonl", *more]
    result = run("infer", *words)
    assert result.exit_code == 0, result.stderr
    answers = [json.loads(each) for each in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [each["outputs"][0]["data"] for each in answers] == [[0], [0], [1], [1]]
    assert [each["parameters"]["batch_index"] for each in answers] == [0, 1, 2, 3]


def test_start_listens_everywhere(started):
    """Without a host in settings.json or environment, the address is every one, as the original's."""
    listening = Path("/proc/net/tcp")
    if not listening.exists():
        pytest.skip("the table of sockets is Linux's")
    port = int(started.rpartition(":")[2])
    assert f"00000000:{port:04X}" in listening.read_text()


@pytest.mark.parametrize("name", ["start", "build", "dockerfile"])
def test_no_folder(name, tmp_path):
    """A folder that is not there is one line and exit code 2."""
    result = run(name, tmp_path / "none")
    assert result.exit_code == 2
    assert "is not a folder" in result.stderr


# -- infer --


@pytest.fixture
def server():
    """Remembers what it is asked, and answers nothing of use."""

    class Handler(BaseHTTPRequestHandler):
        asked: typing.ClassVar = []

        def do_GET(self):
            self.reply(200, b"{}")

        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            self.asked.append((self.path, dict(self.headers)))
            self.reply(503, b'{"error": "busy"}')

        def reply(self, status, body):
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"127.0.0.1:{running.server_address[1]}", Handler.asked
        running.shutdown()
        thread.join()


LINE = '{"inputs": [{"name": "x", "shape": [1], "datatype": "FP64", "data": [1]}]}\n'


def test_infer_variables(server, tmp_path):
    """Every argument can come from its variable; headers there are separated by spaces; retries count the first try."""
    url, asked = server
    (tmp_path / "in.jsonl").write_text(LINE)
    environ = {
        "URL": url,
        "MODEL_NAME": "m",
        "INPUT_DATA_PATH": str(tmp_path / "in.jsonl"),
        "OUTPUT_DATA_PATH": str(tmp_path / "out.jsonl"),
        "WORKERS": "1",
        "RETRIES": "2",
        "BATCH_SIZE": "4",
        "BINARY_DATA": "true",
        "VERBOSE": "true",
        "EXTRA_VERBOSE": "true",
        "TRANSPORT": "rest",
        "REQUEST_HEADERS": "A:1 B:2",
        "CONNECTION_TIMEOUT": "5",
        "BATCH_INTERVAL": "0.01",
        "BATCH_JITTER": "0.01",
        "USE_SSL": "false",
        "INSECURE": "false",
    }
    result = run("infer", env={f"MLSERVER_INFER_{name}": value for name, value in environ.items()})
    assert result.exit_code == 1
    assert len(asked) == 2
    assert all(path == "/v2/models/m/infer" for path, _ in asked)
    headers = {name.lower(): value for name, value in asked[0][1].items()}
    assert (headers["a"], headers["b"], headers["content-type"]) == ("1", "2", "application/octet-stream")
    assert "model: m" in result.stderr
    assert "line 0: busy" in result.stderr
    variables = {each.envvar for each in mlserver.infer.params if each.envvar}
    assert variables == {f"MLSERVER_INFER_{name}" for name in environ}


def test_infer_defaults():
    """The defaults are the original's."""
    found = {each.name: each.default for each in mlserver.infer.params if each.default is not False}
    expected = {
        "url": "localhost:8080",
        "workers": 10,
        "retries": 3,
        "batch_size": 1,
        "transport": "rest",
        "timeout": 60,
    }
    expected |= {"batch_interval": 0, "batch_jitter": 0}
    assert expected.items() <= found.items()


def test_infer_replaces(server, tmp_path):
    """An output that is there is replaced, as by the original; with --resume it is gone on with."""
    url, asked = server
    (tmp_path / "in.jsonl").write_text(LINE)
    (tmp_path / "out.jsonl").write_text('{"parameters": {"batch_index": 0}, "outputs": []}\n')
    words = ["infer", "-u", url, "-m", "m", "-i", tmp_path / "in.jsonl", "-o", tmp_path / "out.jsonl", "-r", "1"]
    assert run(*words, "--resume").exit_code == 0
    assert asked == []
    assert run(*words).exit_code == 1
    (answer,) = map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())
    assert answer["error"]["msg"] == "busy"
    run(*words, "--retry-failed")
    assert len(asked) == 2


def test_infer_over_grpc():
    """The transport that the original accepts and does not speak is a usage error."""
    result = run("infer", "-m", "m", "-i", "a", "-o", "b", "-t", "grpc")
    assert result.exit_code == 2
    assert "only the transport 'rest' is spoken" in result.stderr


# -- dockerfile and build --


def test_dockerfile(folder):
    """It starts from python, has the extras that the models need, and runs the folder; -i adds what is left out."""
    assert run("dockerfile", folder).exit_code == 0
    assert not (folder / "Dockerfile.dockerignore").exists()
    text = (folder / "Dockerfile").read_text()
    assert [each for each in text.splitlines() if each.startswith("FROM")] == ["FROM python:3.11-slim"]
    assert f'pip install "headrace[mlserver,sklearn]=={package.__version__}"' in text
    assert "USER 1000" in text
    assert "MLSERVER_MODELS_DIR=/mnt/models" in text
    assert "requirements" not in text
    assert run("dockerfile", folder, "-i").exit_code == 0
    assert "Dockerfile" in (folder / "Dockerfile.dockerignore").read_text().splitlines()


def variables(text):
    lines = re.findall(r"^ENV (MLSERVER_\w+=\".*\")$", text, re.MULTILINE)
    pairs = (each.split("=", 1) for each in lines)
    return {name: re.sub(r"\\(.)", r"\1", value[1:-1]) for name, value in pairs}


def test_settings_become_defaults(folder, tmp_path):
    """What settings.json says, the image's variables say, to the letter, so that the container's own win."""
    settings = {
        "debug": True,
        "http_port": 9000,
        "server_name": 'a "$HOME" \\ b',
        "extensions": ["a", "b"],
        "cors_settings": {"allow_methods": ["GET", "POST"]},
        "model_repository_root": "/elsewhere",
        "metrics_endpoint": None,
    }
    (folder / "settings.json").write_text(json.dumps(settings))
    text = image.dockerfile(image.survey(folder))
    empty = tmp_path / "empty"
    empty.mkdir()
    del settings["model_repository_root"], settings["metrics_endpoint"]
    (folder / "settings.json").write_text(json.dumps(settings))
    of_file, _ = dialect.server_settings(folder, {})
    of_image, _ = dialect.server_settings(empty, variables(text))
    assert {key: value for key, (value, _) in of_image.items()} == {key: value for key, (value, _) in of_file.items()}
    assert """printf '%s' '{"metrics_endpoint": null}' > ./settings.json""" in text


def test_settings_that_cannot_be_read(folder):
    """A settings.json that is none is named, with exit code 2; a model's own is a warning."""
    (folder / "sorter" / "model-settings.json").write_text("{")
    result = run("dockerfile", folder)
    assert result.exit_code == 0
    assert "model-settings.json" in result.stderr
    (folder / "settings.json").write_text("[]")
    result = run("dockerfile", folder)
    assert result.exit_code == 2
    assert "settings.json: expected a JSON object" in result.stderr


def test_requirements(folder):
    """Requirements are installed, without the packages whose imports we provide."""
    kept = ["pandas", "mlserverish", "scikit-learn==1.5", "# mlserver", "mlserver-huggingface"]
    dropped = ["mlserver", "mlserver==1.7.1", "mlserver-sklearn>=1", "MLServer_XGBoost ~= 1.0", "mlserver[all]; x"]
    (folder / "requirements.txt").write_text("\n".join([*kept, *dropped]) + "\n")
    text = image.dockerfile(image.survey(folder))
    pattern = re.search(r"'(\^ .*)'", text)[1]
    left = subprocess.run(
        ["grep", "--invert-match", "--ignore-case", "--extended-regexp", pattern, str(folder / "requirements.txt")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert left.stdout.splitlines() == kept


def test_conda(folder):
    """A conda environment is packed in a stage of its own."""
    (folder / "conda.yaml").write_text("dependencies: [python=3.11]\n")
    text = image.dockerfile(image.survey(folder))
    assert "FROM continuumio/miniconda3 AS environment\nCOPY ./conda.yaml /environment.yaml" in text
    assert "COPY --from=environment --chown=1000:0 /environment.tar.gz" in text


def test_start_script(folder, tmp_path):
    """What the image runs, as `serve` too, activates an environment packed beside the models, and starts the folder with
    it, on the port that SageMaker says, if it says one.
    """
    packed = tmp_path / "environment"
    (packed / "bin").mkdir(parents=True)
    (packed / "bin" / "activate").write_text("export ACTIVATED=yes\n")
    with tarfile.open(tmp_path / "environment.tar.gz", "w:gz") as archive:
        archive.add(packed / "bin", "bin")
    text = image.dockerfile(image.survey(folder))
    script = text.partition("<<'END' /opt/headrace/start\n")[2].partition("\nEND\n")[0]
    command = '/usr/local/bin/headrace mlserver start "$MLSERVER_MODELS_DIR"'
    assert command in script
    assert "ln --symbolic /opt/headrace/start /usr/local/bin/serve" in text.partition("\nEND\n")[2]
    show = 'printf "%s|%s|%s|%s" "$MLSERVER_MODELS_DIR" "$ACTIVATED" "$MLSERVER_HTTP_PORT" "$MLSERVER_MODEL_ENVIRONMENT_PATH"'
    (tmp_path / "start").write_text(script.replace(f"exec {command}", show))
    environ = {"PATH": os.environ["PATH"], "TMPDIR": str(tmp_path), "MLSERVER_MODELS_DIR": "/models"}
    for tarball, activated, said in (
        ("none", "", {}),
        ("environment.tar.gz", "yes", {"SAGEMAKER_BIND_TO_PORT": "9123"}),
    ):
        more = {"MLSERVER_ENV_TARBALL": str(tmp_path / tarball), **said}
        result = subprocess.run(
            ["bash", str(tmp_path / "start")], env={**environ, **more}, capture_output=True, text=True, check=True
        )
        models, was, port, environment = result.stdout.split("|")
        assert (models, was, port) == ("/models", activated, said.get("SAGEMAKER_BIND_TO_PORT", ""))
        assert bool(environment) is bool(activated)
        assert not environment or (Path(environment) / "bin" / "activate").exists()


def test_build(folder, tmp_path):
    """The context holds the folder and its Dockerfile; the docker command is printed, not run; again is fine."""
    (folder / "__pycache__").mkdir()
    (folder / "sorter" / "large.bin").write_bytes(bytes(2 << 20))
    for _ in range(2):
        result = run("build", folder, "-t", "sorter:1", "--no-cache")
        assert result.exit_code == 0, result.stderr
        context = tmp_path / "models-image"
        assert f"docker build --rm --no-cache --tag sorter:1 {context}" in result.output
        assert "does not run docker" in result.output
    names = {str(each.relative_to(context)) for each in context.rglob("*") if each.is_file()}
    assert names == {"Dockerfile", ".dockerignore", "settings.json"} | {
        f"sorter/{name}" for name in ("model.joblib", "model-settings.json", "large.bin")
    }
    assert not (folder / "Dockerfile").exists()


def test_build_elsewhere(folder, tmp_path):
    """A context that is not ours is left alone, and one inside the folder refused."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("kept")
    result = run("build", folder, "--context", tmp_path / "mine")
    assert result.exit_code == 2
    assert "was not made by headrace" in result.stderr
    assert (tmp_path / "mine" / "file").read_text() == "kept"
    assert run("build", folder, "--context", folder / "in").exit_code == 2
    result = run("build", folder, "--context", tmp_path / "new")
    assert "--tag models:latest" in result.output


# -- init --


def test_init(tmp_path):
    """The skeleton is complete, named for its folder, and what is there is not replaced."""
    assert run("init", tmp_path / "my model").exit_code == 0
    folder = tmp_path / "my model"
    assert {each.name for each in folder.iterdir()} == {
        "README.md",
        "model-settings.json",
        "models.py",
        "requests.jsonl",
        "settings.json",
    }
    assert json.loads((folder / "model-settings.json").read_text())["name"] == "my-model"
    assert all("{name}" not in each.read_text() for each in folder.iterdir())
    (folder / "models.py").write_text("mine")
    result = run("init", folder)
    assert result.exit_code == 2
    assert "models.py" in result.stderr
    assert (folder / "models.py").read_text() == "mine"


def test_init_is_served(tmp_path):
    """The skeleton's own commands work as its README shows them: start, and infer on its requests."""
    folder = tmp_path / "scorer"
    assert run("init", folder).exit_code == 0
    ports = {"MLSERVER_HTTP_PORT": "0", "MLSERVER_GRPC_PORT": "0", "MLSERVER_METRICS_PORT": "0"}
    process, url = served(folder, tmp_path, **ports, MLSERVER_HOST="127.0.0.1")
    try:
        words = ["-u", url.removeprefix("http://"), "-m", "scorer", "-i", folder / "requests.jsonl"]
        result = run("infer", *words, "-o", tmp_path / "out.jsonl")
        assert result.exit_code == 0, result.stderr
    finally:
        stopped(process)
    answers = [json.loads(each) for each in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [each["id"] for each in answers] == ["first", "second"]
    np.testing.assert_allclose(answers[0]["outputs"][0]["data"], [1.0, 0.3])
    np.testing.assert_allclose(answers[1]["outputs"][0]["data"], [2.0])


def test_init_from_a_template(tmp_path):
    """A template is handed to cookiecutter, whose exit code is ours; without it the error says what to install."""
    result = run("init", "-t", "template", env={"PATH": str(tmp_path)})
    assert result.exit_code == 4
    assert "pip install cookiecutter" in result.stderr
    program = tmp_path / "cookiecutter"
    program.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/said\nexit 7\n')
    program.chmod(0o755)
    result = run("init", tmp_path / "x", "-t", "gh:a/b", env={"PATH": f"{tmp_path}:/bin:/usr/bin"})
    assert result.exit_code == 7
    assert (tmp_path / "said").read_text().split() == ["gh:a/b", "--output-dir", str(tmp_path / "x")]
