"""`headrace batch run`: what a person sees, and the exit codes; on a real model, in processes."""

import json
import shlex
import signal
import subprocess
import sys
import time

import joblib
import numpy as np
import pytest
from click.testing import CliRunner
from sklearn.linear_model import LogisticRegression

from headrace.cli.group import headrace


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model of three columns."""
    rows = np.random.default_rng(0).standard_normal((500, 3))
    path = tmp_path_factory.mktemp("model") / "sums.joblib"
    joblib.dump(LogisticRegression().fit(rows, rows.sum(1) > 0), path)
    return path


@pytest.fixture
def source(tmp_path):
    """A file of twenty rows, one of them bad."""
    lines = ["id,a,b,c", *(f"r{at},{at},{'?' if at == 4 else 1},-2" for at in range(20))]
    (tmp_path / "in.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "in.csv"


@pytest.fixture(autouse=True)
def engine_as_it_is(monkeypatch):
    """No other engine is looked for: its search is a process of its own, which may outlive a short job."""
    monkeypatch.setenv("HEADRACE_MODELS_OPTIMIZE", "off")


def run(tmp_path, *arguments):
    command = ["batch", "run", *map(str, arguments), "--state", str(tmp_path / "state")]
    return CliRunner().invoke(headrace, command, prog_name="headrace")


def test_a_run_says_what_it_did(model, source, tmp_path):
    """The summary counts rows and rejects, names their file, and the second time says that there is nothing to do."""
    out = tmp_path / "out.csv"
    first = run(tmp_path, model, source, out, "--id-column", "id", "--keep", "a")
    assert first.exit_code == 0, first.output
    assert "answered 19 of 20 rows in" in first.output
    assert f"1 rejected, see {out}.rejects.jsonl" in first.output
    assert out.read_text().splitlines()[0] == '"id","a","predict"'
    again = run(tmp_path, model, source, out, "--id-column", "id", "--keep", "a", "--json")
    assert json.loads(again.stdout)["finished_before"] == 1
    said = run(tmp_path, model, source, out, "--id-column", "id", "--keep", "a")
    assert said.output == "nothing to do: it is done, 20 rows; --overwrite does it anew\n"


def test_a_file_that_cannot_be_read_holds_up_no_other(model, source, tmp_path):
    """Of a folder, an empty file and one without a column are named, the others are answered, and the exit code is 1; a
    second run asks for these two again, and for no other. `--on-error fail` ends at the first.
    """
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("1.csv", "4.csv"):
        (folder / name).write_text(source.read_text())
    (folder / "2.csv").write_text("")
    (folder / "3.csv").write_text("id,a,b\nr1,1,2\n")
    out = tmp_path / "out"
    done = run(tmp_path, model, folder, out, "--id-column", "id")
    assert done.exit_code == 1
    assert "answered 38 of 40 rows of 2 files" in done.output
    assert [line.partition("in/")[2][:5] for line in done.output.splitlines() if "not answered" in line] == [
        "2.csv",
        "3.csv",
    ]
    assert {each.name for each in out.glob("*.csv")} == {"1.csv", "4.csv"}
    (folder / "2.csv").write_text(source.read_text())
    again = run(tmp_path, model, folder, out, "--id-column", "id", "--json")
    assert again.exit_code == 1
    told = json.loads(again.stdout)
    assert (told["files"], told["finished_before"], len(told["failures"])) == (3, 2, 1)
    assert run(tmp_path, model, folder, tmp_path / "o", "--on-error", "fail", "--overwrite").exit_code == 1
    assert not (tmp_path / "o" / "4.csv").exists()


def test_outputs_can_be_chosen(model, source, tmp_path):
    """Outputs that the model does not give of itself are written where they are named."""
    done = run(tmp_path, model, source, tmp_path / "o.csv", "--id-column", "id", "--outputs", "predict_proba")
    assert done.exit_code == 0, done.output
    assert (tmp_path / "o.csv").read_text().splitlines()[0] == '"id","predict_proba_0","predict_proba_1"'


def test_a_dry_run_writes_nothing(model, source, tmp_path):
    """A dry run shows mapping, columns and the first answers, and nothing is written."""
    done = run(tmp_path, model, source, tmp_path / "out.parquet", "--id-column", "id", "--dry-run")
    assert done.exit_code == 0, done.output
    assert "<- a, b, c" in done.output
    assert "columns of the output: id string, predict bool" in done.output
    assert "rejected: row 4: column 'b': expected FP64, came '?'" in done.output
    assert [each.name for each in tmp_path.iterdir()] == ["in.csv"]


@pytest.mark.parametrize(
    ("more", "code", "said"),
    [
        pytest.param([], 1, "takes 3 numbers a row; the file has 4 columns", id="extra column"),
        pytest.param(["--id-column", "ide"], 1, "did you mean 'id'", id="missing column"),
        pytest.param(["--columns", "x"], 2, "--columns takes INPUT=COLUMN", id="mapping"),
        pytest.param(["--id-column", "id", "--on-error", "fail"], 1, "row 4 (line 6): column 'b'", id="fail"),
        pytest.param(["--url", "http://127.0.0.1:1"], 3, "127.0.0.1:1", id="no server"),
    ],
)
def test_what_is_wrong_is_one_line(model, source, tmp_path, more, code, said):
    """What is wrong is said in one line, with its exit code, and nothing is written."""
    done = run(tmp_path, model, source, tmp_path / "out.csv", *more)
    assert done.exit_code == code, done.output
    assert said in done.output
    assert not (tmp_path / "out.csv").exists()


def test_a_file_without_a_header_is_told_of_and_read(model, tmp_path):
    """Where the first line is a row, the error names the option, with which all rows are answered and named."""
    (tmp_path / "rows.data").write_text("".join(f"r{at},{at},1,-2,<=50K\n" for at in range(20)))
    options = ["--id-column", "id", "--columns", "input=a,b,c"]
    said = run(tmp_path, model, tmp_path / "rows.data", tmp_path / "o.csv", *options)
    assert (said.exit_code, "--names" in said.output) == (1, True), said.output
    done = run(tmp_path, model, tmp_path / "rows.data", tmp_path / "o.csv", *options, "--names", "id,a,b,c,income")
    assert done.exit_code == 0, done.output
    assert [line.split(",")[0] for line in (tmp_path / "o.csv").read_text().splitlines()[1:]] == [
        f'"r{at}"' for at in range(20)
    ]


def test_a_pickle_is_trusted_where_the_command_says_so(model, source, tmp_path):
    """A job says which pickles it trusts, by an option of its own, and the error says that there is one."""
    made = joblib.load(model)
    made.note = shlex.quote  # which no allow-list of models has
    joblib.dump(made, tmp_path / "any.joblib")
    options = ["--id-column", "id"]
    refused = run(
        tmp_path, tmp_path / "any.joblib", source, tmp_path / "o.csv", *options, "--load-policy", "restricted"
    )
    assert (refused.exit_code, "--load-policy trusted" in refused.output) == (4, True), refused.output
    done = run(tmp_path, tmp_path / "any.joblib", source, tmp_path / "o.csv", *options, "--load-policy", "trusted")
    assert done.exit_code == 0, done.output


HELD = """
import time
from pathlib import Path


class Held:
    def predict(self, words: list[str]) -> list[str]:
        if "r3000" in words:
            Path({folder!r}, "held").touch()
            deadline = time.monotonic() + 60
            while not Path({folder!r}, "go").exists() and time.monotonic() < deadline:
                time.sleep(0.01)
        return [word.upper() for word in words]
"""


@pytest.mark.timeout(240)
def test_an_interrupt_stops_at_a_block_and_says_how_to_go_on(tmp_path):
    """SIGINT ends with 130 and leaves no output; the same command goes on, and each row is there once."""
    (tmp_path / "held.py").write_text(HELD.format(folder=str(tmp_path)))
    (tmp_path / "in.csv").write_text("\n".join(["words", *(f"r{at}" for at in range(20_000))]) + "\n")
    arguments = [tmp_path / "held.py", tmp_path / "in.csv", tmp_path / "out.csv", "--batch-rows", 100, "--threads", 1]
    command = [sys.executable, "-m", "headrace", "batch", "run", *map(str, arguments), "--state", tmp_path / "state"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not (tmp_path / "held").exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    (tmp_path / "go").touch()  # the signal is there before the model answers
    said, errors = process.communicate(timeout=100)
    assert process.returncode == 130, said + errors
    assert errors.splitlines()[-1] == "interrupted; the same command goes on where it was"
    assert not (tmp_path / "out.csv").exists()
    done = run(tmp_path, *arguments)
    assert done.exit_code == 0, done.output
    assert "of them before" in done.output
    rows = (tmp_path / "out.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in rows[1:]] == [str(at) for at in range(20_000)]
