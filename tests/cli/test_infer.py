"""`headrace infer` on a real server: answers as the model's own, summaries, exit codes, TLS."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import joblib
import numpy as np
import pytest
from click.testing import CliRunner
from sklearn.linear_model import LogisticRegression

from headrace.cli.group import headrace

X = np.array([[0.0, 1.0], [1.0, 0.0], [2.0, 3.0], [3.0, 2.0]])
SORTER = LogisticRegression().fit(X, [0, 0, 1, 1])
ROWS = np.random.default_rng(1).uniform(-1, 4, (60, 2))


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    """A server of one scikit-learn model."""
    place = tmp_path_factory.mktemp("models")
    joblib.dump(SORTER, place / "sorter.joblib")
    ports = ["--port", "0", "--grpc-port", "0", "--metrics-port", "0", "--optimize", "off"]
    words = ["serve", str(place / "sorter.joblib"), *ports, "--cache-dir", str(tmp_path_factory.mktemp("cache"))]
    command = [sys.executable, "-m", "headrace", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            (found,) = [each.split()[1] for each in iter(process.stdout.readline, "\n") if each.startswith("REST")]
            yield found
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=30)


@pytest.fixture
def infer(url, tmp_path):
    """Runs the command on lines: to its result and what it wrote."""

    def run(lines, *args, model="sorter"):
        (tmp_path / "in.jsonl").write_text("".join(f"{each}\n" for each in lines))
        words = ["infer", model, "-i", str(tmp_path / "in.jsonl"), "-o", str(tmp_path / "out.jsonl"), "--url", url]
        result = CliRunner().invoke(headrace, [*words, *args])
        out = tmp_path / "out.jsonl"
        return result, [json.loads(text) for text in out.read_text().splitlines()] if out.exists() else None

    return run


def request(rows, **rest):
    tensor = {"name": "x", "shape": list(rows.shape), "datatype": "FP64", "data": rows.ravel().tolist()}
    return json.dumps({"inputs": [tensor], "outputs": [{"name": "predict"}], **rest})


LINES = [request(ROWS[at : at + 1 + at % 3]) for at in range(57)]
EXPECTED = [SORTER.predict(ROWS[at : at + 1 + at % 3]).tolist() for at in range(57)]


@pytest.mark.parametrize(
    "args",
    [[], ["-s", "8"], ["-s", "1000", "-w", "1"], ["--binary"], ["-b", "-s", "8"], ["--unordered"]],
    ids=["alone", "merged", "all as one", "bytes", "bytes merged", "unordered"],
)
def test_answers(infer, args):
    """However they are sent, every line gets the model's own answer for its rows."""
    result, answers = infer(LINES, *args)
    assert result.exit_code == 0, result.stderr
    assert "answered 57 lines" in result.output
    if "--unordered" in args:
        answers.sort(key=lambda each: each["parameters"]["batch_index"])
    assert [each["parameters"]["batch_index"] for each in answers] == list(range(57))
    assert [each["outputs"][0]["data"] for each in answers] == EXPECTED
    assert [each["outputs"][0]["shape"][0] for each in answers] == [len(each) for each in EXPECTED]


def test_some_fail(infer):
    """Where a line fails the exit code is 1, the count is said, and --retry-failed asks only that line again."""
    lines = [LINES[0], request(np.ones((1, 3))), LINES[2]]
    result, answers = infer(lines)
    assert result.exit_code == 1
    assert "1 failed" in result.output
    assert [each.get("error", {}).get("code") for each in answers] == [None, 400, None]
    result, _ = infer(lines)
    assert result.exit_code == 1
    assert "nothing left to ask" in result.output
    result, _ = infer(lines, "--retry-failed", "--json")
    summary = json.loads(result.stdout)
    assert (result.exit_code, summary["skipped"], summary["failed"], summary["requests"]) == (1, 2, 1, 1)


def test_summary_for_programs(infer):
    """--json prints counts, seconds, rate and latencies."""
    result, _ = infer(LINES[:5], "--json")
    summary = json.loads(result.stdout)
    assert (summary["answered"], summary["failed"], summary["interrupted"]) == (5, 0, False)
    assert summary["latency_ms"].keys() == {"p50", "p90", "p99", "max"}
    assert summary["lines_per_second"] > 0


def test_another_input(infer):
    """An output of another input is refused with 2, and stays; --overwrite replaces it."""
    infer(LINES[:5])
    result, answers = infer(LINES[5:9])
    assert result.exit_code == 2
    assert "another input" in result.stderr
    assert len(answers) == 5
    result, answers = infer(LINES[5:9], "--overwrite")
    assert result.exit_code == 0
    assert len(answers) == 4


def test_exit_codes(infer, unused_url, tmp_path):
    """No server is 3, no such model 4, no input 1, a wrong option 2; none of them leaves an output."""
    result, answers = infer(LINES[:2], "--url", unused_url, "--retries", "0")
    assert (result.exit_code, answers) == (3, None)
    assert result.stderr == f"error: cannot reach a server at {unused_url}: Connection refused; is it running?\n"
    result, answers = infer(LINES[:2], model="nobody")
    assert (result.exit_code, answers) == (4, None)
    result, answers = infer(LINES[:2], "-i", str(tmp_path / "none.jsonl"))
    assert (result.exit_code, answers) == (1, None)
    result, answers = infer(LINES[:2], "--overwrite", "--resume")
    assert (result.exit_code, answers) == (2, None)
    assert infer(LINES[:2], "-o", str(tmp_path / "in.jsonl"))[0].exit_code == 2
    assert (tmp_path / "in.jsonl").read_text() == "".join(f"{each}\n" for each in LINES[:2])


def test_output_that_takes_nothing(infer):
    """A device as the output is written to as a pipe is; that it is full is one line, and exit code 2."""
    if not Path("/dev/full").exists():
        pytest.skip("the device is Linux's")
    result, _ = infer(LINES[:3], "-o", "/dev/full")
    assert result.exit_code == 2
    assert result.stderr == "error: cannot write the output: No space left on device\n"
    assert not Path("/dev/full.headrace").exists()


def test_url_forms(infer, url):
    """A URL without a scheme is taken; --use-ssl speaks TLS to it, which this server does not."""
    bare = url.removeprefix("http://")
    assert infer(LINES[:2], "--url", bare)[0].exit_code == 0
    result, _ = infer(LINES[:3], "--url", bare, "--use-ssl", "--retries", "0", "--overwrite")
    assert result.exit_code == 3
    assert "https://" in result.stderr


def test_certificates(tmp_path, infer, certificate):
    """A certificate that nobody vouches for is refused, unless --insecure is given."""
    joblib.dump(SORTER, tmp_path / "sorter.joblib")
    tls = ["--tls-certificate", str(certificate / "cert.pem"), "--tls-key", str(certificate / "key.pem")]
    words = [
        "serve",
        str(tmp_path / "sorter.joblib"),
        "--port",
        "0",
        "--no-grpc",
        "--no-metrics",
        "--optimize",
        "off",
        *tls,
    ]
    with subprocess.Popen([sys.executable, "-m", "headrace", *words], stdout=subprocess.PIPE, text=True) as process:
        try:
            (url,) = [each.split()[1] for each in iter(process.stdout.readline, "\n") if each.startswith("REST")]
            result, _ = infer(LINES[:3], "--url", url, "--retries", "0")
            assert result.exit_code == 3
            assert "do not trust the server" in result.stderr
            result, answers = infer(LINES[:3], "--url", url, "--insecure")
            assert result.exit_code == 0, result.stderr
            assert [each["outputs"][0]["data"] for each in answers] == EXPECTED[:3]
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=30)
