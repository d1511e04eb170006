"""Batch jobs of a model that MLflow logged: what is missing in a file is missing in the DataFrame that the model sees."""

import json
import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest

from headrace.lifecycle.batch.base import Job
from headrace.lifecycle.batch.run import run
from headrace.offline import open_model

pyfunc = pytest.importorskip("mlflow.pyfunc")
census = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("census.py"))))
ROWS = 60


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return census.save(tmp_path_factory.mktemp("census") / "model")


def write(frame, path, na_rep=""):
    match path.suffix:
        case ".csv":
            frame.to_csv(path, index=False, na_rep=na_rep)
        case ".parquet":
            frame.to_parquet(path)
        case _:
            nulls = frame.astype(object).where(frame.notna(), None)
            path.write_text("".join(f"{json.dumps(each)}\n" for each in nulls.to_dict("records")))
    return path


def answers(folder, path, **more):
    """The predictions, and the reasons of rows that have none."""
    output = path.with_name(f"{path.name}.out.parquet")
    job = Job(model="census", inputs=(str(path),), output=str(output), batch_rows=16, **more)
    settings = {"artifacts.cache_dir": str(path.with_name("cache")), "models.optimize": "off"}
    run(job, open_predictor=lambda _: open_model(str(folder), settings=settings))
    rejects = Path(f"{output}.rejects.jsonl")
    found = pa.parquet.read_table(output).to_pydict()
    return found, [json.loads(each)["reason"] for each in rejects.read_text().splitlines()] if rejects.exists() else []


@pytest.mark.parametrize("missing", [[], ["workclass"], ["workclass", "occupation", "country", "hours"]])
@pytest.mark.parametrize("name", ["rows.csv", "words.csv", "rows.parquet", "rows.jsonl"])
def test_what_is_missing_is_answered_as_the_model_answers_a_frame(folder, tmp_path, name, missing):
    """Empty cells, words for nothing, and nulls, of some rows or of all, are the NaN of the DataFrame."""
    frame = census.frame(ROWS, seed=3)
    for column in missing:
        frame[column] = pd.Series([np.nan] * ROWS, dtype=frame[column].dtype)
    found, reasons = answers(folder, write(frame, tmp_path / name, "n/a" if "words" in name else ""))
    assert reasons == []
    np.testing.assert_allclose(found["predict"], pyfunc.load_model(str(folder)).predict(frame), rtol=1e-9)


def test_words_for_nothing_are_texts_where_a_file_knows_nulls(folder, tmp_path):
    """`n/a` is a text of its own in Parquet, as it is for pandas, and what is kept stands as it came."""
    frame = census.frame(ROWS, seed=4).assign(workclass="n/a")
    expected = pyfunc.load_model(str(folder)).predict(frame)
    found, _ = answers(folder, write(frame, tmp_path / "rows.parquet"), keep=("workclass",))
    np.testing.assert_allclose(found["predict"], expected, rtol=1e-9)
    found, _ = answers(folder, write(frame, tmp_path / "rows.csv"), keep=("workclass",))
    assert found["workclass"] == ["n/a"] * ROWS
    assert not np.allclose(found["predict"], expected, rtol=1e-4)
