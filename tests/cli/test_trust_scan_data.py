"""`headrace trust scan-data`: what it tells, writes and exits with."""

from __future__ import annotations

import json

import joblib
import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from sklearn.datasets import load_wine
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from headrace.cli.group import headrace


def run(*args):
    return CliRunner().invoke(headrace, ["trust", "scan-data", *map(str, args)])


@pytest.fixture
def wine(tmp_path):
    frame = load_wine(as_frame=True).frame
    frame["place"] = np.random.default_rng(0).choice(["north", "south"], size=len(frame))
    frame.to_parquet(tmp_path / "clean.parquet")
    frame.loc[:15, "target"] = 2
    frame.loc[frame["place"] == "south", "alcohol"] += 3
    frame.to_parquet(tmp_path / "bad.parquet")
    return tmp_path


def test_clean_data_passes(wine):
    """Of clean data the exit code is 0."""
    found = run(wine / "clean.parquet", "--labels", "target", "--source", "place")
    assert found.exit_code == 0, found.output


def test_findings_are_told_written_and_fail(wine):
    """Findings are a table, JSON and Parquet with the same rows; the exit code is 1 from the severity asked for on."""
    args = (wine / "bad.parquet", "--labels", "target", "--source", "place")
    told = run(*args)
    assert told.exit_code == 1
    assert "label-noise" in told.output
    assert "'alcohol'" in told.output  # which of two sources is the odd one nobody can say
    parsed = run(*args, "--json", "-o", wine / "findings.parquet", "--fail-on", "never")
    assert parsed.exit_code == 0
    findings = json.loads(parsed.output)["findings"]
    rows = pq.read_table(wine / "findings.parquet").to_pylist()
    noise = next(each for each in findings if each["check"] == "label-noise")
    assert [each["row"] for each in rows if each["check"] == "label-noise"] == noise["rows"]
    assert len(set(range(16)) & set(noise["rows"])) >= 10


def test_a_models_answers_are_looked_at(wine):
    """With a model its answers are asked for, and columns that it does not take are an error that says so."""
    frame = load_wine(as_frame=True).frame
    x, y = frame.drop(columns="target"), frame["target"]
    joblib.dump(make_pipeline(StandardScaler(), LogisticRegression()).fit(x, y), wine / "wine.joblib")
    args = ("--labels", "target", "--model", wine / "wine.joblib")
    assert run(wine / "clean.parquet", *args, "--source", "place").exit_code == 0
    frame.drop(columns="hue").to_parquet(wine / "less.parquet")
    refused = run(wine / "less.parquet", *args)
    assert refused.exit_code == 6
    assert "columns" in refused.output


def test_mistakes_are_told(wine):
    """A column that is not there, and labels that are no classes, are errors that name them, and no findings."""
    missing = run(wine / "clean.parquet", "--labels", "targets")
    assert missing.exit_code == 6
    assert "no column 'targets'" in missing.output
    numbers = run(wine / "clean.parquet", "--labels", "alcohol")
    assert "no classes" in numbers.output
