"""The rows of a retraining, and the record beside them."""

import hashlib
import json
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import InvalidRequest
from headrace.features import Feature, Features
from headrace.monitoring import retrain
from headrace.trust.spec import Schema

SCHEMA = Schema(
    features=Features(
        columns=(
            Feature(name="age", integer=True),
            Feature(name="job", kind="category", categories=("clerk", "nurse")),
            Feature(name="label"),
        )
    ),
    classes=("no", "yes"),
)
X = np.array([[31, 0, 0.5], [np.nan, 1, np.nan], [40, -1, 1.5], [50, np.nan, 2.5]])
RECORD = {"model": "m", "version": "3", "detector": "d", "windows": ["w1", "w2"], "reason": "drift"}


def test_rows_and_record(tmp_path):
    """Rows are written in the values of the schema, with predictions, labels where known, ids and flags; the record
    says why, ranks the features, and has the file's digest.
    """
    path = retrain.write(
        tmp_path / "deep",
        SCHEMA,
        X,
        record={**RECORD, "key": "k", "features": {"age": 0.1, "job": 0.7, "label": float("nan")}},
        predictions=np.array([0.0, 1.0, 1.0, np.nan]),
        labels=["no", None, "yes", None],
        request_ids=["r1", "r1", "r2", "r3"],
        quarantined=np.array([False, True, False, False]),
    )
    data = path.with_suffix(".parquet")
    assert pq.read_table(data).to_pydict() == {
        "age": [31, None, 40, 50],
        "job": ["clerk", "nurse", None, None],
        "input.label": [0.5, None, 1.5, 2.5],
        "prediction": ["no", "yes", "yes", None],
        "label": ["no", None, "yes", None],
        "request_id": ["r1", "r1", "r2", "r3"],
        "quarantined": [False, True, False, False],
    }
    record = json.loads(path.read_bytes())
    assert record["data"] == data.name
    assert record["data_digest"] == "sha256:" + hashlib.sha256(data.read_bytes()).hexdigest()
    assert [each["name"] for each in record["features"]] == ["job", "age", "label"]
    assert (record["rows"], record["labelled_rows"], record["quarantined_rows"], record["version"]) == (4, 2, 1, "3")
    assert record["windows"] == ["w1", "w2"]


def test_the_same_alert_writes_once(tmp_path):
    """A record of the same key is left as it is: a window judged again after a restart trains nothing twice."""
    first = retrain.write(tmp_path, SCHEMA, X, record=RECORD)
    before = first.read_bytes()
    assert retrain.write(tmp_path, SCHEMA, X[:1], record=RECORD) == first
    assert first.read_bytes() == before
    assert retrain.write(tmp_path, SCHEMA, X, record={**RECORD, "windows": ["w3"]}) != first
    assert retrain.write(tmp_path, SCHEMA, X, record={**RECORD, "key": "../../x"}).parent == tmp_path


@pytest.mark.parametrize("rows", [0, 1])
def test_few_rows(tmp_path, rows):
    """No row and one row are files like others."""
    path = retrain.write(tmp_path, SCHEMA, X[:rows], record=RECORD)
    assert pq.read_table(path.with_suffix(".parquet")).num_rows == rows


def test_texts_and_numbers(tmp_path):
    """Texts are one column; numbers of a regression are written as they were answered."""
    texts = np.array(["a", b"b"], object)
    path = retrain.write(
        tmp_path, Schema(data="text", task="regression"), texts, record=RECORD, predictions=np.array([0.5, 2.0])
    )
    assert pq.read_table(path.with_suffix(".parquet")).select(["text", "prediction"]).to_pydict() == {
        "text": ["a", "b"],
        "prediction": [0.5, 2.0],
    }


@given(
    st.lists(st.integers(1, 60), min_size=1, max_size=12),
    st.floats(0.05, 1.0),
    st.integers(0, 9),
)
def test_no_caller_has_more_than_its_share(counts, share, seed):
    """No caller has more than its share of what stays (with few callers: than an equal one); callers below the bound
    lose nothing, the bound is the largest that keeps the share, and rows stay in order.
    """
    callers = [f"c{number}" for number, count in enumerate(counts) for _ in range(count)]
    np.random.default_rng(seed).shuffle(callers)
    kept = retrain.capped(callers, most_share=share, seed=seed)
    allowed = max(share, 1 / len(counts))
    left = [sum(callers[at] == f"c{number}" for at in kept) for number in range(len(counts))]
    assert max(left) <= allowed * len(kept) + 1e-6
    assert list(kept) == sorted(set(kept.tolist()))
    cap = max(left)
    assert left == [min(count, cap) for count in counts]
    more = [min(count, cap + 1) for count in counts]
    assert more == left or cap + 1 > allowed * sum(more)


def test_rows_are_drawn_over_the_whole_window():
    """Of a caller with too many rows, those that stay are drawn from all of them, not the first or last."""
    callers = ["many"] * 1000 + [f"c{at}" for at in range(40)]
    kept = retrain.capped(callers, most_share=0.5, seed=1)
    many = kept[kept < 1000]
    assert len(many) == 40
    assert 300 < many.mean() < 700  # the mean of 40 draws has a standard deviation of 45


def test_callers(tmp_path):
    """The record says each caller's share; where nobody is known, all rows stay."""
    path = retrain.write(tmp_path, SCHEMA, np.tile(X, (10, 1)), record=RECORD, callers=["a"] * 36 + ["b", "c", "d", ""])
    record = json.loads(path.read_bytes())
    assert record["callers"] == {"": 0.2, "a": 0.2, "b": 0.2, "c": 0.2, "d": 0.2}
    assert (record["rows"], record["rows_left_out"]) == (5, 35)
    path = retrain.write(tmp_path, SCHEMA, X, record={**RECORD, "key": "k"}, callers=[""] * 4)
    assert json.loads(path.read_bytes())["rows"] == 4


def test_lengths_that_differ(tmp_path):
    """Labels that are not one for each row are refused by name, and nothing is written."""
    with pytest.raises(InvalidRequest, match="labels: expected 4"):
        retrain.write(tmp_path / "x", SCHEMA, X, record=RECORD, labels=["no"])
    assert not (tmp_path / "x").exists()


def test_a_full_disk(tmp_path):
    """Where the disk takes no more, neither file is left, not even in part."""
    program = """
import resource, sys
from pathlib import Path
import numpy as np
from headrace.monitoring import retrain
from headrace.trust.spec import Schema
import pyarrow.parquet
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
try:
    retrain.write(Path(sys.argv[1]), Schema(), np.zeros((10, 2)), record={})
except OSError as exc:
    print(exc.errno)
"""
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, timeout=50)
    assert done.stdout == "27\n", done.stderr
    assert list(tmp_path.iterdir()) == []
