"""The commands about resources, against a control API over real sockets whose backend serves nothing."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import CliRunner

from headrace.cli.group import headrace
from headrace.payload import Tensor

MODEL = """
apiVersion: headrace.io/v1
kind: Model
metadata: {name: scale, labels: {team: blue}}
spec: {uri: scale.onnx}
"""
PIPELINE = """
apiVersion: headrace.io/v1
kind: Pipeline
metadata: {name: chain}
spec:
  steps: [{name: scale}]
  output: {steps: [scale]}
"""
SELDON = """
apiVersion: mlops.seldon.io/v1alpha1
kind: Model
metadata: {name: iris}
spec: {storageUri: %s, requirements: [sklearn], memory: 100Ki}
"""
KSERVE = """
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata: {name: flowers}
spec: {predictor: {model: {modelFormat: {name: sklearn}, storageUri: "%s"}}}
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of two manifests with what they speak of; the current folder."""
    place = tmp_path / "deployment"
    place.mkdir()
    for name in ("scale.onnx", "new.onnx"):
        (place / name).write_bytes(b"an artifact")
    (place / "model.yaml").write_text(MODEL)
    (place / "pipeline.yaml").write_text(PIPELINE)
    monkeypatch.chdir(place)
    return place


@pytest.fixture
def run(control_server, monkeypatch):
    """Runs a command that asks the server; without `fails`, it must end well."""
    monkeypatch.setenv("HEADRACE_CONTROL_URL", control_server.url)
    monkeypatch.setenv("LOGNAME", "anna")

    def run(*args, code=0, **rest):
        result = CliRunner().invoke(headrace, [str(each) for each in args], **rest)
        assert result.exit_code == code, (result.output, result.stderr)
        return result

    return run


@pytest.fixture
def applied(run, folder):
    run("apply", "-f", folder, "--wait", "--timeout", 20)
    return folder


def rows(result):
    return [line.split() for line in result.stdout.splitlines()]


def test_apply_and_wait(run, folder):
    """An apply says a line for each resource, waits until they are ready, and is quiet about what stands."""
    lines = run("apply", "-f", folder, "--wait", "--timeout", 20).stdout.splitlines()
    assert lines[:2] == ["model/scale created", "pipeline/chain created"]
    assert sorted(lines[2:]) == ["model/scale is ready", "pipeline/chain is ready"]
    assert rows(run("apply", "-f", "model.yaml")) == [["model/scale", "unchanged"]]
    (folder / "model.yaml").write_text(MODEL.replace("scale.onnx", "new.onnx"))
    assert rows(run("apply", "-f", "model.yaml", "--dry-run")) == [["model/scale", "configured", "(dry", "run)"]]
    assert rows(run("apply", "-f", "-", input=MODEL.replace("blue", "red"))) == [["model/scale", "configured"]]


def test_apply_for_programs(run, folder):
    """With --json there is one document on standard output, whatever else is said."""
    result = run("apply", "-f", folder, "--json", "--wait", "--timeout", 20)
    changes = json.loads(result.stdout)["changes"]
    assert [(each["action"], each["name"]) for each in changes] == [("created", "scale"), ("created", "chain")]
    assert "model/scale is ready" in result.stderr


def test_faults_are_listed(run, folder):
    """What is wrong is a line each on standard error, nothing is applied, and the exit code is 6."""
    (folder / "model.yaml").write_text(MODEL.replace("uri:", "urii:"))
    (folder / "pipeline.yaml").write_text(PIPELINE.replace("output:", "outptu:"))
    first, *lines = run("apply", "-f", folder, code=6).stderr.splitlines()
    assert first == f"error: {len(lines)} faults; nothing of it was applied"
    assert any("model.yaml:5" in line and "did you mean 'uri'?" in line for line in lines)
    assert any("pipeline.yaml:7" in line and "did you mean 'output'?" in line for line in lines)
    (folder / "pipeline.yaml").write_text(PIPELINE)
    (only,) = run("apply", "-f", folder, code=6).stderr.splitlines()
    assert only.startswith("error: ")
    assert "urii" in only
    assert run("get").stdout == "no resources\n"


def test_a_model_that_fails_ends_the_wait(run, folder, control_server):
    """Where a model cannot be loaded, the wait ends at once with 4, and says why."""
    control_server.backend.broken["scale"] = "the file is not what it says"
    result = run("apply", "-f", folder, "--wait", "--timeout", 20, code=4)
    assert "model/scale is not Ready: LoadFailed" in result.stderr
    assert "the file is not what it says" in result.stderr


def test_a_wait_that_is_in_vain(run, applied, control_server):
    """A wait whose time is up ends with 4 and names what is missing."""
    run("wait", "model/scale", "pipeline/chain", "--timeout", 5)
    run("wait", "-f", applied)
    result = run("wait", "model/scale", "model/nobody", "--timeout", 0.1, code=4)
    assert "model/nobody is not there" in result.stderr
    assert "model/scale" not in result.stderr
    assert "Ready=True" in run("wait", "--for=Ready=False", "model", "scale", "--timeout", 0.1, code=4).stderr
    assert "still model/scale" in run("wait", "--for=delete", "model/scale", "--timeout", 0.1, code=4).stderr
    run("delete", "-f", applied)
    run("wait", "--for=delete", "model/scale")


def test_get(run, applied):
    """Resources are listed by kind with their readiness, all or some, for people and for programs."""
    assert rows(run("get"))[0][:2] == ["MODEL", "READY"]
    assert rows(run("get", "mlm"))[1][:4] == ["scale", "True", "1", "scale.onnx"]
    assert rows(run("get", "pipeline/chain"))[1][:3] == ["chain", "True", "scale"]
    assert rows(run("get", "-o", "name")) == [["model/scale"], ["pipeline/chain"]]
    assert "GENERATION" in run("get", "models", "-o", "wide").stdout
    assert json.loads(run("get", "model", "scale", "--json").stdout)["metadata"]["generation"] == 1
    assert len(json.loads(run("get", "-o", "json").stdout)["items"]) == 2
    assert "scale" in run("get", "model", "nobody", code=1).stderr + "scale"


def test_what_get_prints_can_be_applied(run, applied):
    """Manifests that were printed are the same declarations when they are applied from anywhere."""
    printed = run("get", "-o", "yaml").stdout
    assert [each["kind"] for each in yaml.safe_load_all(printed)] == ["Model", "Pipeline"]
    (applied.parent / "kept.yaml").write_text(printed)
    assert rows(run("apply", "-f", applied.parent / "kept.yaml")) == [
        ["model/scale", "unchanged"],
        ["pipeline/chain", "unchanged"],
    ]
    run("diff", "-f", applied.parent / "kept.yaml")


def test_plan(run, applied):
    """A plan says what would change and be done, ends with 1, and changes nothing; with 0 where nothing would."""
    assert run("plan", "-f", applied).stdout == "No changes: 2 resources are as the files say.\n"
    (applied / "model.yaml").write_text(MODEL.replace("scale.onnx", "new.onnx"))
    told = run("plan", "-f", applied, code=1).stdout
    assert "~ model/scale is configured: generation 2" in told
    assert "scale.onnx -> new.onnx" in told
    assert "load model scale revision 2" in told
    assert told.endswith("Plan: 0 to create, 1 to change, 1 unchanged. Nothing has been changed.\n")
    assert json.loads(run("plan", "-f", applied, "--json", code=1).stdout)["actions"]
    (applied / "model.yaml").write_text(MODEL.replace("uri:", "urii:"))
    run("plan", "-f", applied, code=6)
    assert rows(run("history", "model", "scale"))[1:][0][:2] == ["1", "now"]


def test_diff(run, applied):
    """A diff shows the lines that differ, and ends with 1; without differences with 0 and no line."""
    assert run("diff", "-f", applied).stdout == ""
    (applied / "model.yaml").write_text(MODEL.replace("scale.onnx", "new.onnx"))
    lines = run("diff", "-f", applied, code=1).stdout.splitlines()
    assert {"-  uri: scale.onnx", "+  uri: new.onnx"} <= set(lines)


@pytest.mark.parametrize("command", ["plan", "diff"])
def test_failures_are_no_differences(command, folder, unused_url):
    """What cannot be said never ends with 1, which means that there are differences."""
    result = CliRunner().invoke(headrace, [command, "-f", str(folder), "--control-url", unused_url])
    assert result.exit_code == 3
    assert CliRunner().invoke(headrace, [command, "-f", "nowhere"]).exit_code == 2


def test_describe(run, applied):
    """A description has what is declared, what became of it, and what happened."""
    told = run("describe", "model/scale").stdout
    for text in (
        "Model scale",
        "team=blue",
        "uri: scale.onnx",
        "Conditions",
        "Ready",
        "Events",
        "Created",
        str(applied),
    ):
        assert text in told
    (described,) = json.loads(run("describe", "model", "scale", "--json").stdout)
    assert described["events"]


def test_history_and_rollback(run, applied):
    """The history tells who changed what; a rollback makes it be what it was, and is kept too."""
    (applied / "model.yaml").write_text(MODEL.replace("scale.onnx", "new.onnx"))
    run("apply", "-f", "model.yaml")
    told = run("history", "model/scale").stdout
    assert "uri: scale.onnx -> new.onnx" in told
    assert "anna" in told
    assert "model/scale configured" in run("rollback", "model", "scale", "--wait", "--timeout", 20).stdout
    assert yaml.safe_load(run("get", "model", "scale", "-o", "yaml").stdout)["spec"]["uri"] == "scale.onnx"
    assert len(json.loads(run("history", "model", "scale", "--json").stdout)) == 3
    run("rollback", "model", "scale", "--to", 2)
    assert "9" in run("rollback", "model", "scale", "--to", 9, code=1).stderr
    run("history", "model", "nobody", code=1)


def test_events(run, applied):
    """Events are told oldest first, of all or of one."""
    told = rows(run("events"))
    assert told[0][:3] == ["AGE", "TYPE", "RESOURCE"]
    assert any("model/scale" in row for row in told)
    assert not any("pipeline/chain" in row for row in rows(run("events", "model", "scale")))
    first, *_ = run("events", "model", "scale", "--json").stdout.splitlines()
    assert json.loads(first)["reason"] == "Created"


def test_delete(run, applied):
    """What something needs stays, with 6; what is needed goes with who needs it; what is not there is told."""
    assert "chain" in run("delete", "model", "scale", code=6).stderr
    run("delete", "model", "nobody", code=1)
    assert run("delete", "model", "nobody", "--ignore-not-found").stdout == "nothing to delete\n"
    assert sorted(rows(run("delete", "-f", applied))) == [["model/scale", "deleted"], ["pipeline/chain", "deleted"]]
    assert run("get").stdout == "no resources\n"


def test_delete_by_force_and_all_of_a_kind(run, applied):
    """By force a resource goes although others need it; with --all, all of a kind go."""
    assert rows(run("delete", "model", "scale", "--force")) == [["model/scale", "deleted"]]
    assert rows(run("delete", "pipelines", "--all")) == [["pipeline/chain", "deleted"]]


def test_foreign_manifests(run, folder):
    """Manifests made for others are applied as they are, and are found by the kind that they were."""
    (folder / "model").mkdir()
    (folder / "model" / "model.joblib").write_bytes(b"x")
    (folder / "seldon.yaml").write_text(SELDON % f"file://{folder}/model")
    (folder / "kserve.yaml").write_text(KSERVE % f"file://{folder}/model")
    run("apply", "-f", "seldon.yaml", "-f", "kserve.yaml")
    assert rows(run("get", "isvc", "-o", "name")) == [["model/flowers"]]
    assert "InferenceService" in run("describe", "isvc", "flowers").stdout
    run("get", "isvc", "iris", code=1)


def test_graph(run, folder):
    """A picture comes from the server by name, or from files without any server."""
    assert run("graph", "chain").stdout == "text of chain\n"
    assert run("graph", "pipeline/chain", "-o", "mermaid").stdout == "mermaid of chain\n"
    for form, text in (("text", "scale"), ("mermaid", "flowchart")):
        result = run("graph", "-f", folder, "-o", form, "--control-url", "http://127.0.0.1:1")
        assert text in result.stdout
    run("graph", "-f", folder, "nobody", code=1)
    run("graph", code=2)


def test_schema():
    """Schemas are printed without a server: of a kind by any of its names, or of all."""
    run = CliRunner().invoke
    assert "steps" in run(headrace, ["schema", "mlp"]).stdout
    assert {"Model", "Server"} <= set(json.loads(run(headrace, ["schema", "--all"]).stdout)["$defs"])
    assert run(headrace, ["schema"]).exit_code == 2
    assert run(headrace, ["schema", "isvc"]).exit_code == 2


def test_prefetch_and_evict(run, control_server):
    """Models go into memory and out of it by name."""
    assert run("prefetch", "a", "b").stdout == "model/a is in memory\nmodel/b is in memory\n"
    assert control_server.local.resident == {"a", "b"}
    run("evict", "a")
    assert control_server.local.resident == {"b"}


def test_tap(run, control_server):
    """A tap shows each tensor that passes with its first values, and ends after as many exchanges as asked for."""

    async def offer():
        while not control_server.local.taps.live:
            await asyncio.sleep(0.01)
        control_server.local.taps.offer("r1", "scale.outputs", (Tensor("y", "FP64", np.arange(10.0)),))

    for options in ([], ["--json"]):
        offering = asyncio.run_coroutine_threadsafe(offer(), control_server.loop)
        told = run("tap", "chain.scale.outputs", "-n", 1, *options).stdout
        offering.result(10)
        if options:
            assert json.loads(told)["tensors"][0]["data"] == list(range(10))
        else:
            assert told.splitlines()[0] == "scale.outputs  request r1"
            assert told.splitlines()[1].split()[:3] == ["y", "FP64[10]", "0.0,"]
            assert told.endswith("… 2 more\n")
    assert "nobody" in run("tap", "nobody", code=1).stderr


def test_a_token_is_asked_for(locked_server, folder, monkeypatch):
    """Without the token the exit code is 2 and the text says how to give it; with it, from flag or environment, it works."""
    runner, url = CliRunner(), ["--control-url", locked_server.url]
    result = runner.invoke(headrace, ["get", *url])
    assert result.exit_code == 2
    assert "HEADRACE_CONTROL_TOKEN" in result.stderr
    assert runner.invoke(headrace, ["get", *url, "--token", "secret"]).exit_code == 0
    monkeypatch.setenv("HEADRACE_CONTROL_TOKEN", "secret")
    assert runner.invoke(headrace, ["get", *url]).exit_code == 0


@pytest.mark.parametrize(
    "args",
    [["get"], ["describe", "models"], ["wait", "model/a"], ["history", "model", "a"], ["tap", "chain"], ["events"]],
    ids=lambda args: args[0],
)
def test_no_server(args, unused_url):
    """Where no control API is, the exit code is 3 and the text says how to start one."""
    result = CliRunner().invoke(headrace, [*args, "--control-url", unused_url])
    assert result.exit_code == 3
    assert "headrace serve" in result.stderr


@pytest.mark.parametrize(
    "args",
    [["get", "-w", "-o", "name"], ["get", "-w"], ["events", "-w", "--json"]],
    ids=" ".join,
)
def test_watching(args, control_server, run, folder):
    """A watch shows what comes as it comes, line by line into a pipe, until it is interrupted, and then ends with 130."""
    command = [sys.executable, "-m", "headrace", *args, "--control-url", control_server.url]
    root = Path(__file__).parents[2]  # where the interpreter finds us, wherever the test stands
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=root) as process:
        try:

            async def watched():
                while not any(each.busy for each in control_server.server._connections):
                    await asyncio.sleep(0.01)

            control_server.run(watched())
            run("apply", "-f", folder / "model.yaml")
            assert "scale" in process.stdout.readline()
            process.send_signal(signal.SIGINT)
            _, error = process.communicate(timeout=60)
            assert process.returncode == 130, error
            assert not error.strip()
        finally:
            process.kill()


def test_completion_offers_kinds_and_names(run, applied, control_server):
    """The shell is offered kinds, then names that the server knows, in both ways to name a resource."""

    def offered(words):
        environ = {
            "_HEADRACE_COMPLETE": "bash_complete",
            "COMP_WORDS": words,
            "COMP_CWORD": str(len(words.split(" ")) - 1),
            "HEADRACE_CONTROL_URL": control_server.url,
        }
        return CliRunner().invoke(headrace, [], env=environ).output.split()

    assert offered("headrace get pip") == ["plain,pipeline"]
    assert offered("headrace get model ") == ["plain,scale"]
    assert offered("headrace wait model/") == ["plain,model/scale"]
    assert offered("headrace tap c") == ["plain,chain"]


def test_sources_in_the_environment_do_not_hide_each_other(run):
    """The variable that names the control API is no unknown setting to a server."""
    result = run("settings", "--changed", env={**os.environ, "HEADRACE_CONTROL_TOKEN": "x"})
    assert "control.token" in result.stdout
