"""`headrace payloads`: what a log has, and training data of it. Matrix: forms of log and output, filters, labels."""

import json
import subprocess
import sys

import numpy as np
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from headrace.cli.group import headrace
from headrace.monitoring.exchange import Exchange
from headrace.monitoring.payload_export import Labels, seconds_of
from headrace.monitoring.payloads import PayloadLog
from headrace.monitoring.settings import PayloadSettings
from headrace.payload import Tensor


def run(*args):
    return CliRunner().invoke(headrace, ["payloads", *map(str, args)])


def exchange(number, **other):
    known = {
        "id": f"r{number}",
        "model": "iris",
        "version": "1",
        "time": 1_700_000_000.0 + number * 60,
        "inputs": (Tensor("x", "FP64", np.array([[number, 0.5], [number + 0.25, 1.5]])),),
        "outputs": (Tensor("y", "INT64", np.array([0, 1])),),
        "columns": {"": ("age", "income")},
    }
    return Exchange(**{**known, **other})


@pytest.fixture(params=["parquet", "jsonl"])
def folder(request, tmp_path):
    """A log of ten requests of iris, half with labels, and one of another model; labels partly from a later process."""
    path = tmp_path / "log"
    settings = PayloadSettings(mode="all", sink=str(path), format=request.param)
    first = PayloadLog(settings)
    first.open()
    first.take(exchange(number) for number in range(10))
    first.take(
        [
            exchange(
                99,
                model="other",
                version="",
                inputs=(Tensor("x", "BYTES", np.array([b"a", b"b"], object)),),
                columns={},
            )
        ]
    )
    first.label("r0", [1, 0])
    first.label("r1", [1])
    first.close()
    second = PayloadLog(settings)
    second.open()
    second.label("r0", [0, 0])
    second.label("r9", [1, 1])
    second.close()
    return path


def test_export_parquet(folder, tmp_path):
    """Rows come with their columns by name and the label of their position; what came later counts."""
    result = run("export", folder, tmp_path / "out.parquet", "--model", "iris")
    assert result.exit_code == 0, result.output
    table = pq.read_table(tmp_path / "out.parquet")
    assert result.output.startswith(f"20 rows, 5 with a label, in {table.num_columns} columns")
    rows = {(row["request_id"], row["row"]): row for row in table.to_pylist()}
    assert rows["r3", 1]["age"] == 3.25
    assert rows["r3", 1]["income"] == 1.5
    assert rows["r3", 1]["output.y"] == 1
    labels = {place: row["label"] for place, row in rows.items() if row["label"] is not None}
    assert labels == {("r0", 0): 0, ("r0", 1): 0, ("r1", 0): 1, ("r9", 0): 1, ("r9", 1): 1}


def test_export_labelled_csv(folder, tmp_path):
    """With --labelled-only, only rows of which the right answer is known are written, here as CSV."""
    assert run("export", folder, tmp_path / "out.csv", "--labelled-only").exit_code == 0
    table = pyarrow.csv.read_csv(tmp_path / "out.csv")
    assert table.select(["request_id", "label"]).to_pydict() == {
        "request_id": ["r0", "r0", "r1", "r9", "r9"],
        "label": [0, 0, 1, 1, 1],
    }


def test_export_between(folder, tmp_path):
    """--since is in and --until is not."""
    since, until = "2023-11-14T22:15:20Z", "2023-11-14T22:17:20+00:00"
    assert (
        run("export", folder, tmp_path / "out", "--format", "jsonl", "--since", since, "--until", until).exit_code == 0
    )
    lines = [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]
    assert [line["request_id"] for line in lines] == ["r2", "r2", "r3", "r3"]


def test_export_of_unlike_models(folder, tmp_path):
    """Columns that one model does not have are null; of columns of different types the values are text."""
    log = PayloadLog(PayloadSettings(mode="all", sink=str(folder)))
    log.open()
    log.take([exchange(50, model="third", inputs=(Tensor("x", "FP32", np.ones((2, 2), np.float32)),), columns={})])
    log.close()
    assert run("export", folder, tmp_path / "out.parquet").exit_code == 0
    rows = pq.read_table(tmp_path / "out.parquet").to_pylist()
    by_model = {row["model"]: row for row in rows}
    assert by_model["iris"]["x"] is None
    assert by_model["other"]["x"] == "b"
    assert by_model["third"]["x"] == "[1.0,1.0]"
    assert len(rows) == 24


def test_export_while_it_is_written(folder, tmp_path):
    """What a server has flushed and not finished is exported."""
    log = PayloadLog(PayloadSettings(mode="all", sink=str(folder)))
    log.open()
    log.take([exchange(70)])
    log.label("r70", [1, 1])
    log.flush()
    try:
        assert run("export", folder, tmp_path / "out.parquet", "--model", "iris").exit_code == 0
    finally:
        log.close()
    rows = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert [row["label"] for row in rows if row["request_id"] == "r70"] == [1, 1]


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (("--model", "nobody"), 1, "no such rows of model 'nobody'"),
        (("--since", "1h"), 1, "no such rows"),
        (("--since", "yesterday"), 2, "90m"),
    ],
)
def test_nothing_to_export(folder, tmp_path, args, code, said):
    """Where nothing is to be exported the message says so, and no file is there."""
    result = run("export", folder, tmp_path / "out.parquet", *args)
    assert result.exit_code == code
    assert said in " ".join(result.output.split())
    assert not list(tmp_path.glob("out*"))


def test_export_that_cannot_be(folder, tmp_path):
    """A form that nobody named, a folder that is not there and an output that cannot be written are one line each."""
    assert run("export", folder, tmp_path / "out").exit_code == 2
    missing = run("export", tmp_path / "none", tmp_path / "out.csv")
    assert (missing.exit_code, "payloads.sink" in missing.output) == (1, True)
    unwritable = run("export", folder, tmp_path / "none" / "out.csv")
    assert (unwritable.exit_code, "cannot be exported" in unwritable.output) == (1, True)


def test_show(folder):
    """The log's models and versions are listed with how much there is of each, and how many have labels."""
    result = run("show", folder, "--json")
    assert result.exit_code == 0, result.output
    iris, other = json.loads(result.output)
    assert {name: iris[name] for name in ("model", "version", "files", "rows", "requests", "labelled_requests")} == {
        "model": "iris", "version": "1", "files": 1, "rows": 20, "requests": 10, "labelled_requests": 3,
    }  # fmt: skip
    assert (iris["first"], iris["last"]) == ("2023-11-14T22:13:20Z", "2023-11-14T22:22:20Z")
    assert (other["model"], other["requests"]) == ("other", 1)
    lines = run("show", folder, "--model", "iris").output.splitlines()
    assert lines[0].split()[:3] == ["MODEL", "VERSION", "REQUESTS"]
    assert lines[1].split()[:3] == ["iris", "1", "10"]
    assert len(lines) == 2


def test_show_nothing(tmp_path):
    """A folder without payloads says so."""
    assert run("show", tmp_path).output == f"no payloads in {tmp_path}\n"


@pytest.mark.parametrize(
    ("given_", "kind"),
    [
        ([1, 2], "int"),
        ([1, 2.5], "float"),
        ([True, None], "bool"),
        ([1, "a"], "text"),
        ([True, 1], "text"),
        ([None], "none"),
        ([[1, 2]], "text"),
    ],
)
def test_kinds_of_labels(given_, kind):
    """The column of labels has the narrowest kind that holds all of them."""
    with Labels() as labels:
        labels.add([{"request_id": "a", "labels": given_}])
        assert labels.kind == kind
        assert labels.of(["a", "b"]) == {"a": given_}


def test_moments():
    """A time without a zone is UTC; a number with a unit is so long ago."""
    assert seconds_of("2023-11-14T22:13:20") == seconds_of("2023-11-14T23:13:20+01:00") == 1_700_000_000
    assert 0 < seconds_of("1d") - seconds_of("2d") - 86400 + 5 < 10


FLAT = """
import resource, sys
from pathlib import Path
import numpy as np
from headrace.monitoring import payload_export
from headrace.monitoring.exchange import Exchange
from headrace.monitoring.payloads import PayloadLog
from headrace.monitoring.settings import PayloadSettings
from headrace.payload import Tensor
log = PayloadLog(PayloadSettings(mode="all", sink=sys.argv[1], flush_seconds=3600, max_file_bytes=4 << 20))
log.open()
x, y = np.random.default_rng(0).random((2000, 20)), np.zeros(2000)
for part in range(20):
    log.take([
        Exchange(id=f"r{part}", model="first" if part < 3 else "rest", inputs=(Tensor("x", "FP64", x),), outputs=(Tensor("y", "FP64", y),))
        for _ in range(8)
    ])
    log.flush()
log.close()
sizes = []
for wanted in (payload_export.Filter(model="first"), payload_export.Filter()):
    payload_export.export(Path(sys.argv[1]), Path(sys.argv[2]), form="parquet", wanted=wanted)
    sizes.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
print((sizes[1] - sizes[0]) / 1024)
"""


def test_memory_is_flat(tmp_path):
    """Exporting seven times as many rows, 54 MB instead of 8, takes less than half of the difference in memory."""
    done = subprocess.run(
        [sys.executable, "-c", FLAT, str(tmp_path / "log"), str(tmp_path / "out.parquet")],
        capture_output=True, text=True, timeout=55,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 20
