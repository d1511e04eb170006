"""`headrace.fit_trust`."""

from __future__ import annotations

import asyncio

import joblib
import numpy as np
import pandas as pd
import pytest
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_digits, load_iris
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

import headrace
from headrace.errors import SettingsError
from headrace.trust.rows import Rows

NONE = {"explainers": ["none"]}


def test_fits_a_model_in_memory(tmp_path):
    """A fitted estimator and its data give a folder, with what the model says of the kept rows in it."""
    x, y = load_iris(return_X_y=True)
    model = LogisticRegression(max_iter=1000).fit(x, y)
    folder = headrace.fit_trust(model, x, y, path=tmp_path / "t", detectors=["mahalanobis"], **NONE)
    assert np.allclose(folder.outputs(), model.predict_proba(folder.reference().x))


async def test_works_where_a_loop_runs(tmp_path):
    """In Jupyter, where a loop already runs, it works as well."""
    assert asyncio.get_running_loop().is_running()
    x, y = load_iris(return_X_y=True)
    model = LogisticRegression(max_iter=1000).fit(x, y)
    assert headrace.fit_trust(model, x, y, path=tmp_path / "t", detectors=["none"], **NONE).schema.classes == (0, 1, 2)


def test_fits_a_table_with_text_and_missing_values(tmp_path):
    """Columns of a DataFrame reach a pipeline as it was trained on them, and groups are compared by them."""
    generator = np.random.default_rng(0)
    frame = pd.DataFrame({"age": generator.integers(18, 80, 400), "sex": generator.choice(["f", "m"], 400)})
    paid = np.where((frame.age > 40) | (frame.sex == "m"), "yes", "no")
    model = make_pipeline(
        make_column_transformer((OneHotEncoder(), ["sex"]), (StandardScaler(), ["age"])), LogisticRegression()
    ).fit(frame, paid)
    folder = headrace.fit_trust(
        model, frame, paid, path=tmp_path / "t", protected=["sex=m", "age>40"], favourable="yes", **NONE
    )
    assert {each.name for each in folder.detectors} >= {"isolation-forest", "tabular", "ks-outputs", "cbpe", "realised"}
    assert [each.attribute for each in folder.schema.bias] == ["sex", "age"]
    assert "groups" in {each.method for each in folder.detectors}
    rows = Rows(folder.schema)
    inputs = {each.name: each.data for each in rows.tensors(folder.reference().x)}
    back = pd.DataFrame({"age": inputs["age"], "sex": [each.decode() for each in inputs["sex"]]})
    assert np.allclose(folder.outputs(), model.predict_proba(back))


def test_fits_images_texts_and_numbers(tmp_path):
    """Images keep their shape though the model takes them flat, texts stay texts, and a regression has no classes."""
    x, y = load_digits(return_X_y=True)
    model = LogisticRegression(max_iter=50, tol=0.1).fit(x[:300] / 16, y[:300])
    folder = headrace.fit_trust(
        model, x[300:600].reshape(-1, 8, 8) / 16, y[300:600], path=tmp_path / "i", detectors=["pca"], **NONE
    )
    assert (folder.schema.data, folder.schema.features.shape) == ("image", (8, 8))
    texts = [f"{word} {at}" for at, word in enumerate(["good", "bad"] * 50)]
    labels = ["pos", "neg"] * 50
    reader = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(texts, labels)
    folder = headrace.fit_trust(reader, texts, labels, path=tmp_path / "t", **NONE)
    assert folder.schema.data == "text"
    assert {each.on for each in folder.detectors} <= {"outputs", "uncertainty", "predictions"}
    line = LinearRegression().fit(x[:, :3], x[:, 3:5])
    folder = headrace.fit_trust(line, x[:200, :3], path=tmp_path / "r", detectors=["ks:outputs"], **NONE)
    assert folder.schema.task == "regression"
    assert folder.outputs().shape[1] == 2


def test_fits_a_series(tmp_path):
    """Points in time are split in time, watched by detectors of series, and usual ones pass as seldom as was asked."""
    time = np.arange(2000)
    points = np.sin(2 * np.pi * time / 50) + np.random.default_rng(0).normal(0, 0.1, 2000)
    model = LinearRegression().fit(points[:-1, None], points[1:])
    folder = headrace.fit_trust(model, points[:-1, None], path=tmp_path / "s", kind="series", **NONE)
    assert np.array_equal(folder.held_out().x[:, 0], points[1199:1599])
    rates = {each.name: each.false_positive_rate for each in folder.detectors if each.kind == "outlier"}
    # Of 400 rows at a threshold chosen on 400: Beta(5, 396), and 99.9 % of it lies below .033.
    assert rates.keys() == {"spectral-residual", "seasonal"}
    assert max(rates.values()) < 0.045


def test_writes_beside_the_model(tmp_path):
    """Of a file the folder lies beside it, of a folder in it; a model in memory needs a path, and a folder of several
    models is refused.
    """
    x, y = load_iris(return_X_y=True)
    model = LogisticRegression(max_iter=1000).fit(x, y)
    joblib.dump(model, tmp_path / "a.joblib")
    (tmp_path / "b").mkdir()
    joblib.dump(model, tmp_path / "b" / "model.joblib")
    few = {"detectors": ["mahalanobis"], "explainers": ["none"]}
    assert headrace.fit_trust(tmp_path / "a.joblib", x, y, **few).path == tmp_path / "a.trust"
    assert headrace.fit_trust(tmp_path / "b", x, y, **few).path == tmp_path / "b" / "trust"
    with pytest.raises(SettingsError, match="'path'"):
        headrace.fit_trust(model, x, y)
    with pytest.raises(SettingsError, match="holds 2 models"):
        headrace.fit_trust(tmp_path, x, y)
    with pytest.raises(SettingsError, match="not one of tabular"):
        headrace.fit_trust(model, x, y, path=tmp_path / "c", kind="table")
