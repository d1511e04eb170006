"""`headrace fetch`, as a person and as a program call it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from headrace.artifacts import objects
from headrace.cli.group import headrace


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("HEADRACE_ARTIFACTS_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("HEADRACE_ARTIFACTS_RETRIES", "0")

    def call(*arguments):
        return CliRunner().invoke(headrace, ["fetch", *map(str, arguments)])

    return call


@pytest.fixture
def uri(s3):
    store = objects.open_objects(f"s3://{s3.bucket()}/iris")
    store.put("model.onnx", b"1" * 2048)
    store.put("deep/labels.json", b"{}")
    return store.uri


def test_it_prints_the_path_and_what_came(run, uri):
    """The path is all of standard output; how much came, and later that all was here, is on standard error."""
    first = run(uri)
    assert first.exit_code == 0
    path = Path(first.stdout.strip())
    assert (path / "model.onnx").read_bytes() == b"1" * 2048
    assert "2 files, 2 KiB, 2 KiB downloaded" in first.stderr
    again = run(uri)
    assert again.stdout == first.stdout
    assert "all of it was here" in again.stderr


def test_json_for_programs(run, uri):
    """`--json` is one document with path, token, files and bytes that came and that were here."""
    told = json.loads(run(uri, "--json").stdout)
    assert (told["files"], told["bytes"], told["downloaded_bytes"], told["reused_bytes"]) == (2, 2050, 2050, 0)
    pinned = json.loads(run(uri, "--pin", "--json").stdout)
    assert (pinned["token"], pinned["uri"]) == (told["token"], uri)


def test_a_copy_of_ones_own(run, uri, tmp_path):
    """DEST is a writable copy that does not change the cache; a DEST that has files is refused, not mixed."""
    dest = tmp_path / "out" / "iris"
    assert run(uri, dest).stdout.strip() == str(dest)
    (dest / "model.onnx").write_bytes(b"mine")
    assert (Path(run(uri).stdout.strip()) / "model.onnx").read_bytes() == b"1" * 2048
    refused = run(uri, dest)
    assert (refused.exit_code, "is there already" in refused.stderr) == (2, True)
    assert (dest / "model.onnx").read_bytes() == b"mine"
    (tmp_path / "file").write_bytes(b"")
    assert run(uri, tmp_path / "file" / "below").exit_code == 2


def test_exit_codes(run, uri, monkeypatch):
    """Wrong usage and unknown schemes end with 2, nothing there and refusal with 1, unreachable with 5; each in a line."""
    cases = [
        ((), 2, "a uri is needed"),
        (("s4://b/x",), 2, "did you mean s3"),
        ((f"{uri}/none",), 1, "nothing is there"),
    ]
    for arguments, code, said in cases:
        done = run(*arguments)
        assert (done.exit_code, said in done.stderr, done.stderr.count("\n")) == (code, True, 1)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-wrong-secret-of-tests")
    denied = run(uri)
    assert (denied.exit_code, "was refused" in denied.stderr) == (1, True)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    away = run(uri)
    assert (away.exit_code, "cannot be reached" in away.stderr) == (5, True)
    assert "a-wrong-secret" not in denied.output + away.output


def test_pruning(run, uri, monkeypatch):
    """`--prune` says what went and what is kept, and that without a bound only leftovers go."""
    run(uri)
    said = run("--prune")
    assert (said.exit_code, "only leftovers went" in said.stdout) == (0, True)
    monkeypatch.setenv("HEADRACE_ARTIFACTS_MAX_CACHE_BYTES", "1000000")
    assert json.loads(run("--prune", "--json").stdout)["copies"] == 0
