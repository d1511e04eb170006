"""`headrace compare` on a real server: two versions of a model that differ on known rows, and one that equals."""

import json
import re
import signal
import subprocess
import sys
from html.parser import HTMLParser

import joblib
import numpy as np
import pytest
from click.testing import CliRunner
from sklearn.linear_model import LogisticRegression

from headrace.cli.group import headrace

X = np.array([[0.0, 1.0], [1.0, 0.0], [2.0, 3.0], [3.0, 2.0]])
ONE = LogisticRegression().fit(X, [0, 0, 1, 1])
TWO = LogisticRegression().fit(X + 0.4, [0, 0, 1, 1])
ROWS = np.random.default_rng(1).uniform(0, 3, (60, 2))
APART = int((ONE.predict(ROWS) != TWO.predict(ROWS)).sum())


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    """A server of one model in three versions, the last of which is the first again."""
    place = tmp_path_factory.mktemp("models")
    for version, model in ((1, ONE), (2, TWO), (3, ONE)):
        (place / "sorter" / str(version)).mkdir(parents=True)
        joblib.dump(model, place / "sorter" / str(version) / "model.joblib")
    ports = ["--port", "0", "--grpc-port", "0", "--metrics-port", "0", "--optimize", "off"]
    words = ["serve", str(place), *ports, "--cache-dir", str(tmp_path_factory.mktemp("cache"))]
    command = [sys.executable, "-m", "headrace", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield next(each.split()[1] for each in process.stdout if each.startswith("REST"))
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=30)


def request(row, outputs=("predict",), **rest):
    tensor = {"name": "x", "shape": [1, 2], "datatype": "FP64", "data": row.tolist()}
    return json.dumps({"inputs": [tensor], "outputs": [{"name": name} for name in outputs], **rest})


@pytest.fixture
def compare(url, tmp_path):
    """Runs the command on the lines of a log."""

    def run(lines, *args, a="sorter@1", b="sorter@2", at=url, name="log.jsonl"):
        path = tmp_path / name
        path.write_text("".join(f"{each}\n" for each in lines))
        return CliRunner().invoke(headrace, ["compare", a, b, "--from", str(path), "--url", at, *args])

    return run


def test_the_rows_differ():
    """The two models disagree on some rows, and agree on most: else the tests below say nothing."""
    assert 2 <= APART <= 20


def test_differences(compare):
    """The report counts exactly the rows on which the two models differ, and the exit code says so."""
    result = compare([request(row, id=f"r{at}") for at, row in enumerate(ROWS)], "--json")
    assert result.exit_code == 1, result.stderr
    report = json.loads(result.stdout)
    assert (report["requests"], report["compared"], report["agreed"]) == (60, 60, 60 - APART)
    assert report["agreement_interval"][0] < report["agreement"] < report["agreement_interval"][1]
    (predict,) = report["outputs"]
    assert (predict["name"], predict["differing"]) == ("predict", APART)
    assert sum(count for a, b, count in predict["confusion"] if a != b) == APART
    wrong = np.flatnonzero(ONE.predict(ROWS) != TWO.predict(ROWS))
    assert {example["line"] for example in report["examples"]} <= set(wrong.tolist())
    assert report["examples"][0]["id"] == f"r{wrong[0]}"
    assert report["latency_a"]["p50"] > 0


def test_agreement(compare):
    """Versions that are the same model agree wholly, and the exit code is 0; as it is where enough is alike."""
    lines = [request(row, ("predict", "predict_proba")) for row in ROWS]
    result = compare(lines, b="sorter@3")
    assert result.exit_code == 0, result.output
    assert "sorter@1 and sorter@3 answer 60 of 60 requests alike: 100 %" in result.output
    assert "B takes" in result.output
    labels = [request(row) for row in ROWS]
    assert compare(labels, "--min-agreement", str((60 - APART) / 60)).exit_code == 0
    assert compare(labels, "--min-agreement", str((61 - APART) / 60)).exit_code == 1
    assert compare(lines, "--atol", "1").exit_code == 0


def test_some_outputs(compare):
    """With --output only these outputs are compared, and counted."""
    lines = [request(row, ("predict", "predict_proba")) for row in ROWS]
    report = json.loads(compare(lines, "--json", "--output", "predict").stdout)
    assert [each["name"] for each in report["outputs"]] == ["predict"]
    assert report["agreed"] == 60 - APART


def test_table(compare):
    """The tables show both sides, each output with its differences, which classes changed, and examples."""
    result = compare([request(row, ("predict", "predict_proba")) for row in ROWS], "--examples", "3")
    assert result.exit_code == 1
    lines = result.output.splitlines()
    assert any(line.startswith("A") and "sorter@1" in line for line in lines)
    assert any(re.match(r"predict +INT64 +60 +\d+$", line) for line in lines)
    assert any(line.startswith("predict_proba  FP64") for line in lines)
    assert "predict: A -> B" in result.output
    assert "what differs (A -> B)" in result.output


def test_forms_of_logs(compare):
    """Requests, exchanges and CloudEvents are replayed alike; answers are passed over; other lines are named."""
    plain = json.loads(request(ROWS[0]))
    event = {"specversion": "1.0", "type": "io.seldon.serving.inference.request", "id": "e1", "data": plain}
    answer = {"specversion": "1.0", "type": "io.seldon.serving.inference.response", "data": {"outputs": []}}
    lines = [
        json.dumps(plain),
        json.dumps({"request": plain, "response": {"outputs": []}}),
        "",
        json.dumps(event),
        json.dumps(answer),
        '{"instances": [[1, 2]]}',
        "not JSON",
    ]
    result = compare(lines, b="sorter@3")
    assert result.exit_code == 0
    assert "3 of 3 requests alike" in result.stdout
    assert "2 lines are no request" in result.stderr
    assert "line 5: expected a V2 inference request (inputs)" in result.stderr


def test_rows_of_a_table(compare):
    """Each row of a CSV file is a request, with the inputs that the model declares."""
    lines = ["a,b", *(f"{one},{two}" for one, two in ROWS)]
    result = compare(lines, "--json", name="rows.csv")
    report = json.loads(result.stdout)
    assert (report["requests"], report["requests"] - report["agreed"]) == (60, APART)


def test_one_side_fails(compare, url):
    """A request that only one side can answer is a difference, with who failed and why; one that both refuse is not
    counted.
    """
    wide = json.dumps({"inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP64", "data": [1, 2, 3]}]})
    result = compare([request(ROWS[0]), wide], "--json", b="sorter@3")
    report = json.loads(result.stdout)
    assert result.exit_code == 0
    assert (report["failed_both"], report["compared"]) == (1, 1)
    assert {each["side"] for each in report["failures"]} == {"A", "B"}
    assert all(each["message"].startswith("400: ") and each["line"] == 1 for each in report["failures"])


def test_nothing_compared(compare):
    """A log without a request is no agreement."""
    result = compare([], b="sorter@3")
    assert result.exit_code == 1
    assert "nothing was compared" in result.output


def test_limit_and_concurrency(compare):
    """--limit ends it early; more at once find the same differences."""
    lines = [request(row) for row in ROWS]
    assert json.loads(compare(lines, "--json", "--limit", "7").stdout)["requests"] == 7
    report = json.loads(compare(lines, "--json", "--concurrency", "4").stdout)
    assert (report["requests"], report["agreed"]) == (60, 60 - APART)


def test_urls(compare, url, unused_url):
    """A and B may be on other servers; a model or server that is not there ends with its exit code."""
    lines = [request(row) for row in ROWS[:5]]
    place = f"{url}/v2/models/sorter/versions/3"
    assert compare(lines, b=place, at=unused_url, a=place).exit_code == 0
    missing = compare(lines, b="sorter@9")
    assert missing.exit_code == 4
    assert "sorter@9" in missing.stderr
    assert compare(lines, at=unused_url).exit_code == 3
    wrong = compare(lines, b=f"{url}/sorter")
    assert wrong.exit_code == 1
    assert "expected http://host:port/v2/models/NAME" in wrong.stderr


class Page(HTMLParser):
    """What a page refers to, and whether its tags close."""

    def __init__(self):
        super().__init__()
        self.open, self.links, self.tags = [], [], set()

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.links += [value for name, value in attributes if name in {"src", "href"}]
        if tag not in {"meta", "br"}:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.add(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_page(compare, tmp_path):
    """The HTML report is whole, draws its plots itself, and fetches nothing."""
    path = tmp_path / "report.html"
    lines = [request(row, ("predict", "predict_proba"), id="<b>") for row in ROWS]
    result = compare(lines, "--html", str(path))
    assert f"report: {path}" in result.output
    text = path.read_text()
    page = Page()
    page.feed(text)
    assert page.open == []
    assert page.links == []
    assert {"svg", "polyline", "rect", "table"} <= page.tags
    assert "script" not in page.tags
    assert "url(" not in text
    assert "sorter@1" in text
    assert "<td>&lt;b&gt;</td>" in text


def test_page_that_cannot_be_written(compare, tmp_path):
    """A page that cannot be written is one line and exit code 2."""
    result = compare([request(ROWS[0])], "--html", str(tmp_path / "none" / "report.html"))
    assert result.exit_code == 2
    assert result.stderr.startswith("error: cannot write --html")
