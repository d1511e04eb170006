"""The pages about stores, MLflow and batch jobs, each walked from an empty folder over real processes: its files are
written as they stand there, its commands are run by a shell, and what they print is what the page says they print, but
for the numbers.

The store is an S3-compatible server with credentials of its own, which take the place of the page's. `aws` and `mlflow`
are not under test: the first is a few lines that do the same, the second runs in this process, where it is imported
once.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import re
import shlex
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)
FILE = re.compile(r"# ([\w.-]+\.\w+)\n")
NAMED = re.compile(r"`([\w.-]+\.(?:yaml|json))`:\s*\Z")
NUMBER = re.compile(r"\b[0-9a-f]{12,}\b|[-+]?\d[\d.,]*(?:e[-+]?\d+)?|\b[KM]?i?B\b")
PATIENCE = 60
"""Seconds until what a command prints must be as the page says: a server looks now and then, on a machine that may be
busy."""
QUIET = {"HEADRACE_MODELS_OPTIMIZE": "off", "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
AWS = """
import sys
from pathlib import Path
import boto3

store = boto3.client("s3")
what, *places = sys.argv[2:]
bucket, _, key = places[-1].removeprefix("s3://").partition("/")
if what == "mb":
    store.create_bucket(Bucket=bucket)
elif what == "cp":
    store.upload_file(places[0], bucket, key + Path(places[0]).name if key[-1:] in ("", "/") else key)
elif what == "ls":
    for each in store.list_objects_v2(Bucket=bucket, Prefix=key).get("Contents", []):
        print(each["Key"])
"""


def steps(page):
    """What a page says to do, in order: files to write, and commands with what they print."""
    for found in BLOCK.finditer(page):
        kind, text = found.groups()
        if kind == "console":
            for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
                command, _, shown = part.partition("\n")
                yield "run", command, shown
            continue
        name = FILE.match(text) or NAMED.search(page[: found.start()])
        if name and kind != "sh":
            yield "write", name[1], text


def shape(line):
    """A line without what differs from run to run: numbers, sizes, digests, the width of columns."""
    return " ".join(NUMBER.sub("#", line).split())


def is_shown(shown, printed):
    """Whether lines were printed in the order of the page; `...` stands for any, at the end of a line for its rest."""
    lines = [shape(line) for line in printed.splitlines() if line.strip()]
    at, gap = 0, False
    for wanted in (shape(line) for line in shown.splitlines() if line.strip()):
        if wanted == "...":
            gap = True
            continue
        start, rest, _ = wanted.partition("...")
        for position in range(at, len(lines) if gap else min(at + 1, len(lines))):
            if lines[position].startswith(start.rstrip()) if rest else lines[position] == wanted:
                at, gap = position + 1, False
                break
        else:
            return False
    return gap or at == len(lines)


class Walk:
    """Does what a page says, in a folder of its own."""

    def __init__(self, folder, serve, variables, stand_ins):
        self.folder, self.serve, self.stand_ins = folder / "folder", serve, stand_ins
        self.folder.mkdir()
        (folder / "home").mkdir()
        self.home, self.server = folder / "home", None
        programs = folder / "bin"
        programs.mkdir()
        (programs / "aws.py").write_text(AWS)
        for name, words in (
            ("headrace", [sys.executable, "-m", "headrace"]),
            ("python", [sys.executable]),
            ("aws", [sys.executable, str(programs / "aws.py")]),
        ):
            (programs / name).write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
            (programs / name).chmod(0o755)
        path = f"{programs}{os.pathsep}{os.environ['PATH']}"
        self.environment = {**QUIET, **variables, "PATH": path, "HOME": str(self.home)}
        self.environment |= {"HEADRACE_ARTIFACTS_CACHE_DIR": "~/.cache/headrace/artifacts"}

    def run(self, command):
        """What a line prints, once it has ended well."""
        environment = {**os.environ, **self.environment}
        if self.server is not None:
            command = command.replace("localhost:8080", self.server.url.removeprefix("http://"))
            environment |= {"HEADRACE_URL": self.server.url, "HEADRACE_CONTROL_URL": self.server.control_url}
        if command.startswith("HEADRACE_ARTIFACTS_CREDENTIALS="):  # nothing else is to let it in
            environment = {name: value for name, value in environment.items() if not name.startswith("AWS_")}
        if command.startswith("mlflow "):
            return mlflow_command(shlex.split(command)[1:], environment, self.folder)
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=self.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
            check=False,
        )
        printed = done.stdout.replace(str(self.home), "/home/me")
        assert "Traceback" not in printed, f"$ {command}\n{printed}"
        if done.returncode and not printed.startswith("error: "):  # pages show errors, too
            return f"{printed}\nended with {done.returncode}"
        return printed

    def start(self, command):
        """Start the server in place of the one before."""
        if self.server is not None:
            self.server.process.terminate()
            self.server.process.wait(timeout=30)
        words = shlex.split(command)[2:]
        control = ("--control-port", "0", "--state", self.folder / "state.db")
        control = control if "-f" in words or "--control" in words else ()
        self.server = self.serve(*words, *control, environment=self.environment)

    def walk(self, page):
        """All of it."""
        for kind, what, text in steps(page):
            if kind == "write":
                for shown, real in self.stand_ins.items():
                    text = text.replace(shown, real)  # noqa: PLW2901 - the same file, for this store
                (self.folder / what).write_text(text)
            elif what.startswith("headrace serve"):
                self.start(what)
            else:
                self.expect(what, text)

    def expect(self, command, shown):
        """Run a line until it prints what the page says. One that changes something is to do so at once."""
        again = re.match(r"headrace (models|get|history|predict)|curl", command)
        end = time.monotonic() + (PATIENCE if again else 0)
        while not is_shown(shown, printed := self.run(command)):
            assert time.monotonic() < end, f"$ {command}\n{printed}\nThe page says:\n{shown}"
            time.sleep(0.5)


def mlflow_command(words, environment, folder):
    """What a command of MLflow's prints, run here: a process would import it anew for each."""
    from click.testing import CliRunner

    commands = importlib.import_module("mlflow.deployments.cli").commands
    assert words[0] == "deployments"
    before = Path.cwd()
    try:
        os.chdir(folder)
        with warnings.catch_warnings(), contextlib.redirect_stderr(None):
            warnings.simplefilter("ignore")
            result = CliRunner().invoke(commands, words[1:], env=environment)
    finally:
        os.chdir(before)
    assert result.exit_code == 0, (words, result.output, result.exception)
    return result.output


@pytest.fixture
def walk(tmp_path, s3, serve, monkeypatch):
    """A walker with the S3 server's credentials, whose servers start in its folder."""
    stand_ins = {
        "http://minio:9000": s3.endpoint,
        "AKIAEXAMPLE": s3.access_key,
        "secret-example": s3.secret_key,
    }
    made = Walk(tmp_path, serve, dict(s3.environ), stand_ins)
    monkeypatch.chdir(made.folder)
    yield made
    client = s3.client()
    for name in ("models", "uploads", "answers"):
        with contextlib.suppress(client.exceptions.NoSuchBucket):
            for each in client.list_objects_v2(Bucket=name).get("Contents", []):
                client.delete_object(Bucket=name, Key=each["Key"])
            client.delete_bucket(Bucket=name)


def page(name):
    """The text of a page."""
    return (ROOT / "docs" / f"{name}.md").read_text()


@pytest.mark.timeout(300)
def test_the_walk_through_stores(walk, s3):
    """Fetch, serve, follow, what is damaged, credentials in all forms, a resource that follows; no secret is shown."""
    walk.walk(page("storage"))
    log = "".join(walk.server.errors)
    assert s3.secret_key not in log
    walk.expect("headrace predict iris --data rows.csv", "...\n2     virginica")


@pytest.mark.timeout(300)
def test_the_walk_through_mlflow(walk, monkeypatch):
    """Log, pin, serve an alias, ask as MLflow's callers do, move the alias, deploy, update and delete by MLflow."""
    pytest.importorskip("mlflow")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        interface = importlib.import_module("mlflow.deployments.interface")
    site = walk.folder.parent / "site" / "headrace_entry-1.dist-info"
    site.mkdir(parents=True)
    (site / "METADATA").write_text("Metadata-Version: 2.1\nName: headrace-entry\nVersion: 1\n")
    (site / "entry_points.txt").write_text(
        "[mlflow.deployments]\nheadrace = headrace.lifecycle.mlflow_deployments\n"  # as the installed package has it
    )
    monkeypatch.syspath_prepend(str(site.parent))
    monkeypatch.setattr(interface, "plugin_store", type(interface.plugin_store)())
    walk.environment |= {"MLFLOW_TRACKING_URI": "sqlite:///mlflow.db", "MLFLOW_DISABLE_TELEMETRY": "true"}
    walk.walk(page("mlflow"))
    walk.expect("headrace get models", "no resources")


@pytest.mark.timeout(300)
def test_the_walk_through_batch_jobs(walk):
    """A dry run, a job with a bad row, the same again, buckets watched, a function and a policy written."""
    walk.walk(page("batch"))
    told = json.loads((walk.folder / "scores.csv.manifest.json").read_text())
    assert (told["rows"], told["answered"], told["rejected"]) == (20_000, 19_999, 1)
    assert (walk.folder / "function" / "template.yaml").is_file()
    scores = (walk.folder / "scores.csv").read_text().splitlines()
    assert (len(scores), sum(line.startswith('"c7",') for line in scores)) == (20_000, 0)
