"""`headrace trust status` and `report`, against a server that says what a watched model's server says."""

from __future__ import annotations

import http.server
import json
import threading

import pytest
from click.testing import CliRunner

from headrace.cli.group import headrace

LATEST = {
    "data": {
        "is_drift": True,
        "features": ["a", "b"],
        "distance": [0.9, 0.1],
        "p_val": [1e-9, 0.5],
        "drifted": [True, False],
    }
}
STATUS = {
    "model": "iris",
    "version": "1",
    "state": "warning",
    "rows": 1234,
    "dropped_rows": 5,
    "fresh": True,
    "detectors": [
        {
            "name": "input-drift",
            "kind": "drift",
            "state": "warning",
            "method": "ks",
            "on": "inputs",
            "windows": 3,
            "drift_windows": 1,
            "collecting": {"rows": 34, "needed": 100},
            "latest": LATEST,
            "error": "",
        },
        {"name": "broken", "state": "failed", "error": "its file is damaged", "errors": 1},
    ],
}


@pytest.fixture
def url():
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            page = {
                "/v2/models/iris/trust": json.dumps(STATUS).encode(),
                "/v2/models/iris/versions/1/trust/report": b"<!doctype html>",
            }.get(self.path)
            body = page or b'{"error": "model \'cat\' is not watched"}'
            self.send_response(200 if page else 404)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def run(*arguments):
    return CliRunner().invoke(headrace, ["trust", *arguments])


def test_the_status_is_told_in_lines(url):
    """Model, state, counts, each detector with its last verdict, and what is wrong."""
    result = run("status", "iris", "--url", url)
    assert result.exit_code == 0
    assert "iris 1: warning; 1,234 rows watched, 5 dropped" in result.output
    line = next(each for each in result.output.splitlines() if each.startswith("input-drift"))
    assert line.split() == [
        "input-drift", "warning", "ks", "inputs", "3", "1", "34/100", "least", "p", "1e-09,", "1", "of", "2", "drifted:",
        "a",
    ]  # fmt: skip
    assert "broken: its file is damaged" in result.output


def test_the_status_is_told_to_programs(url):
    """--json is what the server said."""
    assert json.loads(run("status", "iris", "--url", url, "--json").output) == STATUS


def test_a_model_that_nobody_watches_is_told(url):
    """The server's words are the error's."""
    result = run("status", "cat", "--url", url)
    assert result.exit_code != 0
    assert "'cat' is not watched" in str(result.output) + str(result.exception)


def test_the_report_is_written(url, tmp_path):
    """The page that the server drew is the file's content, or goes to standard output."""
    path = tmp_path / "report.html"
    assert run("report", "iris", "--version", "1", "-o", str(path), "--url", url).exit_code == 0
    assert path.read_bytes() == b"<!doctype html>"
    assert "<!doctype html>" in run("report", "iris", "--version", "1", "-o", "-", "--url", url).output


def test_a_report_that_cannot_be_written_is_told(url, tmp_path):
    """The path and the reason stand in the error."""
    result = run("report", "iris", "--version", "1", "-o", str(tmp_path / "no" / "report.html"), "--url", url)
    assert result.exit_code != 0
    assert "No such file" in str(result.output) + str(result.exception)
