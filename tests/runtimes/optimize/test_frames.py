"""Models fitted on a DataFrame with text in it: from text to numbers by table, proven on known, unknown and odd texts."""

import warnings

import msgspec
import numpy as np
import pandas as pd
import pytest
from lightgbm import LGBMClassifier
from sklearn import compose, ensemble, feature_extraction, impute, linear_model, pipeline, preprocessing, svm

from headrace.errors import InvalidRequest
from headrace.runtimes import optimize
from headrace.runtimes.base import Source
from headrace.runtimes.optimize import Acceptance, encoders
from headrace.runtimes.optimize.table import Table
from headrace.runtimes.sklearn import SklearnRuntime

QUICK = Acceptance(rows=0.05, timing_seconds=0.002, speedup=1e-6)
FOREST = {"n_estimators": 8, "max_depth": 5, "random_state": 0}
SIZE = 300
_RNG = np.random.default_rng(3)
TRAINED = pd.DataFrame(
    {
        "city": _RNG.choice(["Paris", "Köln ", "b", "東京"], SIZE),
        "size": _RNG.choice(["S", "M", "L", ""], SIZE),
        "age": _RNG.normal(40, 9, SIZE),
        "pay": _RNG.normal(2000, 400, SIZE),
        "rooms": _RNG.integers(1, 6, SIZE).astype(float),
    }
)
HOLES = TRAINED.assign(age=TRAINED.age.where(_RNG.random(SIZE) > 0.1))
ANSWER = np.where((TRAINED.age > 40) ^ (TRAINED.city == "b"), "yes", "nö")
PRICE = TRAINED.pay + 300 * (TRAINED.city == "b")
OPEN = preprocessing.OneHotEncoder(handle_unknown="ignore")
ORDER = preprocessing.OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
TEXT = ["city", "size"]
FILLED = pipeline.make_pipeline(impute.SimpleImputer(), preprocessing.StandardScaler())
RARE = pipeline.make_pipeline(
    impute.SimpleImputer(strategy="most_frequent", missing_values=""),
    preprocessing.OneHotEncoder(handle_unknown="infrequent_if_exist", min_frequency=0.26),
)


def _on(*parts, last, **options):
    columns = compose.make_column_transformer(*parts, **options)
    return columns if last is None else pipeline.make_pipeline(columns, last)


MODELS = {
    "one hot, imputer, scaler, logistic": (
        _on((OPEN, TEXT), (FILLED, ["age", "pay"]), last=linear_model.LogisticRegression()),
        (HOLES, ANSWER, "numpy"),
    ),
    "one hot, imputer, scaler, forest": (
        _on((OPEN, TEXT), (FILLED, ["age", "pay"]), last=ensemble.RandomForestClassifier(**FOREST)),
        (HOLES, ANSWER, "onnx trees float64"),
    ),
    "passthrough, ordinal, forest": (
        _on(("passthrough", ["age"]), (ORDER, TEXT), last=ensemble.RandomForestRegressor(**FOREST)),
        (TRAINED, PRICE, "onnx trees float64"),
    ),
    "text and numbers in one encoder, unknown ones refused, ridge": (
        _on(
            (preprocessing.OneHotEncoder(drop="first"), ["city", "rooms"]),
            remainder="drop",
            last=linear_model.Ridge(),
        ),
        (TRAINED, PRICE, "numpy"),
    ),
    "target encoder": (
        _on(
            (preprocessing.TargetEncoder(), TEXT),
            (preprocessing.StandardScaler(), ["age"]),
            last=linear_model.LogisticRegression(),
        ),
        (TRAINED, ANSWER, "numpy"),
    ),
    "imputed text, rare categories": (
        _on((RARE, TEXT), (preprocessing.MinMaxScaler(), ["age"]), last=linear_model.LogisticRegression()),
        (TRAINED, ANSWER, "numpy"),
    ),
    "histogram boosting, missing numbers": (
        _on((ORDER, TEXT), remainder="passthrough", last=ensemble.HistGradientBoostingClassifier(max_iter=8)),
        (HOLES, ANSWER, "onnx trees float64"),
    ),
    "lightgbm behind encoders": (
        _on(
            (ORDER, TEXT),
            remainder="passthrough",
            last=LGBMClassifier(n_estimators=8, verbose=-1, n_jobs=1, min_child_samples=5),
        ),
        (HOLES, ANSWER, "LightGBM single-row call"),
    ),
    "encoder without selection": (
        pipeline.make_pipeline(OPEN, linear_model.LogisticRegression()),
        (TRAINED[TEXT], ANSWER, "numpy"),
    ),
    "nothing but columns": (
        _on((preprocessing.OneHotEncoder(), ["city"]), (preprocessing.StandardScaler(), ["age"]), last=None),
        (TRAINED, None, "numpy"),
    ),
    "numbers only, by name": (
        _on((OPEN, ["rooms"]), (preprocessing.StandardScaler(), ["age"]), last=linear_model.LogisticRegression()),
        (TRAINED[["age", "rooms"]], ANSWER, "numpy"),
    ),
}


def _served(model, tmp_path, mode="require", **options):
    runtime = SklearnRuntime(Source(model=model))
    return optimize.optimize(runtime, runtime.load(), mode=mode, digest="", cache=tmp_path, accept=QUICK, **options)


def _fit(model, frame, target):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model.fit(frame) if target is None else model.fit(frame, target)


def _inputs(frame, count=SIZE):
    inputs = {}
    for name in frame.columns:
        column = frame[name].to_numpy()[:count]
        if column.dtype.kind != "f":
            texts, column = column, np.empty(len(column), dtype=object)
            column[:] = [text.encode() for text in texts]
        inputs[name] = column
    return inputs


def _outcome(runtime, inputs, outputs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the native encoders warn of what they do not know
        try:
            return runtime.predict(inputs, outputs)
        except InvalidRequest as error:
            return str(error)


def _same(served, inputs):
    outputs = tuple(spec.name for spec in served.load().outputs)
    have, want = _outcome(served, inputs, outputs), _outcome(served.native, inputs, outputs)
    assert type(have) is type(want)
    if isinstance(want, str):
        assert have == want
        return
    for name in outputs:
        assert (have[name].dtype, have[name].shape) == (want[name].dtype, want[name].shape)
        if want[name].dtype.kind == "f":
            np.testing.assert_allclose(have[name], want[name], rtol=1e-12, atol=1e-12)
        else:
            assert (have[name] == want[name]).all()


def _odd(inputs):
    """One row, several times, each with one cell that is not ordinary."""
    for name, column in inputs.items():
        if column.dtype == object:
            for text in (b"", b"b ", b" b", b"B", "Köln".encode(), "b", b"\xff", None, float("nan"), 1):
                cell = np.empty(1, dtype=object)
                cell[0] = text
                yield {**inputs, name: cell}
            yield {**inputs, name: np.ones(1)}
        else:
            yield {**inputs, name: np.array([np.nan])}
            yield {**inputs, name: np.array([3], dtype=np.int64)}
            yield {**inputs, name: np.array([3], dtype=np.float32)}
            yield {**inputs, name: np.array([3.0, 4.0])}
            yield {**inputs, name: np.array([[3.0]])}
    yield dict(list(inputs.items())[1:])


@pytest.mark.parametrize("name", MODELS)
def test_frames_answer_from_tables(name, tmp_path):
    """One row of a DataFrame model is an engine's, and every answer and refusal is the native one."""
    model, (frame, target, engine) = MODELS[name]
    served, told = _served(_fit(model, frame, target), tmp_path)
    assert served.seats[0].engine.name == engine
    assert "0 labels different" in told.properties[f"engine.parity.{engine}"]
    for count in (1, 7, SIZE):
        _same(served, _inputs(frame, count))
    for inputs in _odd(_inputs(frame.dropna(), 1)):
        _same(served, inputs)


def _logistic():
    model, (frame, target, _) = MODELS["one hot, imputer, scaler, logistic"]
    return _fit(model, frame, target)


def test_a_stored_verdict_brings_the_table_back(tmp_path):
    """A second load takes engine and table from the verdict, without a check."""
    runtime = SklearnRuntime(Source(model=_logistic()))
    signature = runtime.load()
    for origin in ("checked now", "checked earlier"):
        served, told = optimize.optimize(runtime, signature, mode="require", digest="d", cache=tmp_path, accept=QUICK)
        assert origin in told.properties["engine.check"]
        _same(served, _inputs(HOLES, 5))


class _Trimming(Table):
    """A table that takes padded texts for their categories."""

    def encode(self, inputs, *, mixed=False):
        trimmed = {}
        for name, column in inputs.items():
            trimmed[name] = column
            if column.dtype == object and None not in column.tolist():
                trimmed[name] = np.array([text.strip() for text in column.tolist()], dtype=object)
        return super().encode(trimmed, mixed=mixed)


def test_a_table_that_mistakes_a_padded_text_is_refused(tmp_path, monkeypatch):
    """The gate aims at texts beside the known ones."""
    monkeypatch.setattr(encoders, "Table", _Trimming)
    _, told = _served(_logistic(), tmp_path, mode="auto")
    assert "labels differ" in told.properties["engine.refused"] or "scores" in told.properties["engine.refused"]


@pytest.mark.parametrize("place", [0, -1], ids=["a known category", "unknown ones"])
def test_a_wrong_entry_of_a_table_is_refused(place, tmp_path, monkeypatch):
    """One category encoded as its neighbour is found."""
    make = encoders._lookups

    def wrong(*arguments):
        lookups, width = make(*arguments)
        table = lookups[0].table.copy()
        table[place] = table[1]
        return [msgspec.structs.replace(lookups[0], table=table), *lookups[1:]], width

    monkeypatch.setattr(encoders, "_lookups", wrong)
    _, told = _served(_logistic(), tmp_path, mode="auto")
    assert "differ" in told.properties["engine.refused"]


def test_text_without_a_table_stays_native(tmp_path):
    """What is no encoder of categories leaves the model as it is, and says so."""
    words = (feature_extraction.text.CountVectorizer(), "city")
    model = _on(words, (preprocessing.StandardScaler(), ["age"]), last=svm.LinearSVC())
    served, told = _served(_fit(model, TRAINED[["city", "age"]], ANSWER), tmp_path, mode="auto")
    assert isinstance(served, SklearnRuntime)
    assert "CountVectorizer has no numpy form" in told.properties["engine.refused"]


def test_a_table_returns_what_it_took():
    """Places go to the texts that have them, and only what is no text goes to nothing."""
    table = Table(("a", "n"), {0: ("x", "ÿ")})
    rows = np.array([[0.0, 5.0], [1.0, 6.0], [2.0, 7.0], [-4.0, 8.0]])
    back = table.encode(table.decode(rows))
    assert back.tolist() == [[0, 5], [1, 6], [2, 7], [2, 8]]
    assert table.encode(table.decode(np.array([[np.nan, 1.0]]))) is None
