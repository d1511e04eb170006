"""The pages about stores, MLflow and batch jobs, each walked from an empty folder over real processes: its files are
written as they stand there, its commands are run by a shell, and what they print is what the page says they print, but
for the numbers.

The store is an S3-compatible server with credentials of its own, which take the place of the page's. What is not under
test runs in this process, where libraries are imported once: the pages' programs, `mlflow`, and a few lines that do what
`aws` does.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import re
import runpy
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

    def __init__(self, folder, serve, variables, stand_ins, client):
        self.folder, self.serve, self.stand_ins, self.client = folder / "folder", serve, stand_ins, client
        self.folder.mkdir()
        (folder / "home").mkdir()
        self.home, self.server = folder / "home", None
        programs = folder / "bin"
        programs.mkdir()
        (programs / "headrace").write_text(f'#!/bin/sh\nexec {sys.executable} -m headrace "$@"\n')
        (programs / "headrace").chmod(0o755)
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
        program, *words = shlex.split(command.partition(" 2>")[0])
        if program == "aws":
            return aws_command(self.client, words[1:], self.folder)
        if program in {"python", "mlflow"}:
            return command_here(program, words, environment, self.folder)
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
        printed = done.stdout.replace(str(self.home), "/home/me").replace(f"{self.folder}/", "")
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


def aws_command(client, words, folder):
    """What `aws s3` prints and does."""
    what, *places = words
    bucket, _, key = places[-1].removeprefix("s3://").partition("/")
    if what == "mb":
        client.create_bucket(Bucket=bucket)
    elif what == "cp":
        client.upload_file(str(folder / places[0]), bucket, key + places[0] if key[-1:] in {"", "/"} else key)
    elif what == "ls":
        found = client.list_objects_v2(Bucket=bucket, Prefix=key).get("Contents", [])
        return "".join(f"{each['Key']}\n" for each in found)
    return ""


def command_here(program, words, environment, folder):
    """What a program of the page or a command of MLflow's prints, run in this process."""
    from click.testing import CliRunner

    printed = io.StringIO()
    with contextlib.ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        for name, value in environment.items():
            patch.setenv(name, value)
        patch.chdir(folder)
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
        if program == "python":
            patch.setattr(sys, "argv", words)
            stack.enter_context(contextlib.redirect_stdout(printed))
            runpy.run_path(words[0], run_name="__main__")
            return printed.getvalue()
        assert words[0] == "deployments"
        result = CliRunner().invoke(importlib.import_module("mlflow.deployments.cli").commands, words[1:])
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
    client = s3.client()
    made = Walk(tmp_path, serve, dict(s3.environ), stand_ins, client)
    monkeypatch.chdir(made.folder)
    yield made
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
    database = f"sqlite:///{walk.folder}/mlflow.db"  # a store is kept by its uri for as long as this process is there
    walk.environment |= {"MLFLOW_TRACKING_URI": database, "MLFLOW_DISABLE_TELEMETRY": "true"}
    walk.stand_ins |= {
        "sqlite:///mlflow.db": database,
        "input_example=": 'pip_requirements=["scikit-learn"], input_example=',  # or a process of its own finds them
    }
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
