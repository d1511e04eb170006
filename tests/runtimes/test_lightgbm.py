"""LightGBM models against LightGBM itself.

Boosters (text files, objects) x objectives; estimators (pickles, objects); named columns; categories.
Left out: GPUs, linear trees.
"""

import pickle

import joblib
import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine

from headrace.errors import InvalidRequest, LoadFailed, SettingsError, UnsafeArtifact
from headrace.runtimes.base import Source
from headrace.runtimes.lightgbm import LightgbmRuntime
from headrace.testing.runtimes import RuntimeConformance

lightgbm = pytest.importorskip("lightgbm")
pandas = pytest.importorskip("pandas")

CANCER = load_breast_cancer(return_X_y=True)
WINE = load_wine(return_X_y=True)
DIABETES = load_diabetes(return_X_y=True)


def train(data, objective, **options):
    rows, target = data
    group = [len(target)] if objective == "lambdarank" else None
    parameters = {"verbosity": -1, "num_threads": 1, **options}
    if objective:
        parameters["objective"] = objective
    return lightgbm.train(parameters, lightgbm.Dataset(rows, target, group=group), 6)


def fit(kind, data, **options):
    return kind(n_estimators=6, verbosity=-1, n_jobs=1).fit(*data, **options)


def loaded(source):
    runtime = LightgbmRuntime(source)
    return runtime, runtime.load()


class TestBinaryText(RuntimeConformance):
    name = "lightgbm"
    nan = "accepted"

    def save(self, folder):
        train(CANCER, "binary").save_model(folder / "model.txt")
        return folder / "model.txt"

    def inputs(self):
        return {"input-0": CANCER[0][:5]}

    def wrong_width(self):
        return {"input-0": np.zeros((3, 29))}


class TestMulticlassText(RuntimeConformance):
    name = "lightgbm"
    nan = "accepted"

    def save(self, folder):
        train(WINE, "multiclass", num_class=3).save_model(folder / "model.bst")
        return folder / "model.bst"

    def inputs(self):
        return {"x": WINE[0][::30].astype(np.float32)}

    def wrong_width(self):
        return {"x": np.zeros((3, 14))}


class TestPickleOfTextLabels(RuntimeConformance):
    name = "lightgbm"
    nan = "accepted"

    def save(self, folder):
        names = load_wine().target_names[WINE[1]]
        joblib.dump(fit(lightgbm.LGBMClassifier, (WINE[0], names)), folder / "model.joblib")
        return folder / "model.joblib"

    def inputs(self):
        return {"x": WINE[0][::30]}

    def wrong_width(self):
        return {"x": np.zeros((3, 12))}


BOOSTERS = {
    "binary": (CANCER, "binary", {}),
    "cross entropy": (CANCER, "cross_entropy", {}),
    "multiclass": (WINE, "multiclass", {"num_class": 3}),
    "one against all": (WINE, "multiclassova", {"num_class": 3}),
    "regression": (DIABETES, "regression", {}),
    "quantile": (DIABETES, "quantile", {}),
    "ranking": (WINE, "lambdarank", {}),
    "random forest": (CANCER, "binary", {"boosting": "rf", "bagging_freq": 1, "bagging_fraction": 0.5}),
    "dart": (DIABETES, "regression", {"boosting": "dart"}),
}


@pytest.mark.parametrize("form", ["file", "pickle", "object"])
@pytest.mark.parametrize("case", sorted(BOOSTERS))
def test_a_boosters_predict_is_its_own(case, form, tmp_path):
    """Whatever form a Booster comes in, predict is Booster.predict to the last bit; classifying ones have more."""
    data, objective, options = BOOSTERS[case]
    booster = train(data, objective, **options)
    path = tmp_path / "anything"
    if form == "file":
        booster.save_model(path)
    else:
        path.write_bytes(pickle.dumps(booster))
    runtime, signature = loaded(Source(model=booster) if form == "object" else Source(path=path))
    native = booster.predict(data[0])
    assert signature.properties["objective"] == objective
    assert np.array_equal(runtime.predict({"x": data[0]})["predict"], native)
    names = [spec.name for spec in signature.outputs]
    if objective not in {"binary", "multiclass", "multiclassova"}:
        assert names == ["predict"]
        return
    assert names == ["predict", "predict_proba", "predict_label"]
    answer = runtime.predict({"x": data[0]}, ("predict_proba", "predict_label"))
    shares = native if native.ndim == 2 else np.column_stack([1 - native, native])
    assert np.array_equal(answer["predict_proba"], shares)
    assert np.array_equal(answer["predict_label"], shares.argmax(axis=1))


ESTIMATORS = {
    "binary": lambda: (fit(lightgbm.LGBMClassifier, CANCER), CANCER[0]),
    "text": lambda: (fit(lightgbm.LGBMClassifier, (CANCER[0], np.array(["no", "yes"])[CANCER[1]])), CANCER[0]),
    "multiclass": lambda: (fit(lightgbm.LGBMClassifier, (WINE[0], WINE[1] * 10)), WINE[0]),
    "regressor": lambda: (fit(lightgbm.LGBMRegressor, DIABETES), DIABETES[0]),
    "ranker": lambda: (fit(lightgbm.LGBMRanker, WINE, group=[78, 100]), WINE[0]),
    "early stopping": lambda: (
        fit(
            lightgbm.LGBMClassifier,
            CANCER,
            eval_set=[(CANCER[0][::5], 1 - CANCER[1][::5])],
            callbacks=[lightgbm.early_stopping(1, verbose=False)],
        ),
        CANCER[0],
    ),
}


@pytest.mark.filterwarnings(
    "ignore:X does not have valid feature names", "ignore:The argument .eval_set. is deprecated"
)
@pytest.mark.parametrize("form", ["pickle", "object"])
@pytest.mark.parametrize("case", sorted(ESTIMATORS))
def test_answers_as_the_estimator_does(case, form, tmp_path):
    """An estimator's predict and predict_proba are its own to the last bit, text labels as BYTES."""
    model, rows = ESTIMATORS[case]()
    path = tmp_path / "anything"
    path.write_bytes(pickle.dumps(model))
    runtime, signature = loaded(Source(model=model) if form == "object" else Source(path=path))
    expected = model.predict(rows)
    assert runtime.predict({"x": rows})["predict"].tolist() == [
        value.encode() if isinstance(value, str) else value for value in expected.tolist()
    ]
    if hasattr(model, "predict_proba"):
        assert np.array_equal(
            runtime.predict({"x": rows}, ("predict_proba",))["predict_proba"], model.predict_proba(rows)
        )
        assert signature.outputs[1].labels == tuple(map(str, model.classes_))


def test_a_derived_class_answers_by_its_own_methods():
    """A class derived from LGBMRegressor keeps the predict it defines."""

    class Negative(lightgbm.LGBMRegressor):
        def predict(self, X, **kwargs):  # noqa: N803 - scikit-learn's name
            return -super().predict(X, **kwargs)

    model = fit(Negative, DIABETES)
    runtime, _ = loaded(Source(model=model))
    assert np.array_equal(runtime.predict({"x": DIABETES[0]})["predict"], model.predict(DIABETES[0]))


def frame():
    numbers = np.random.default_rng(0)
    table = pandas.DataFrame(
        {
            "size": numbers.normal(size=400),
            "colour": pandas.Categorical(numbers.choice(["blé", "red", "zinc"], 400)),
            "constant": pandas.Categorical(["same"] * 400),
            "grade": pandas.Categorical(numbers.choice([3, 5, 8], 400)),
        }
    )
    return table, (table["size"] + table["colour"].cat.codes * 2 - table["grade"].cat.codes).to_numpy()


def columns(table):
    return {
        "size": table["size"].to_numpy(),
        "colour": np.array([text.encode() for text in table["colour"]], object),
        "constant": np.array([b"same"] * len(table), object),
        "grade": table["grade"].to_numpy().astype(np.int64),
    }


@pytest.mark.parametrize("form", ["file", "object"])
def test_categories_come_by_value(form, tmp_path):
    """Columns that were categories in training come as text or numbers, and answer as the DataFrame does."""
    table, target = frame()
    model = fit(lightgbm.LGBMRegressor, (table, target))
    model.booster_.save_model(tmp_path / "m.txt")
    runtime, signature = loaded(Source(path=tmp_path / "m.txt") if form == "file" else Source(model=model))
    assert [spec.datatype for spec in signature.inputs] == ["FP64", "BYTES", "BYTES", "INT64"]
    assert np.array_equal(runtime.predict(columns(table))["predict"], model.predict(table))


def test_an_unknown_category_is_missing():
    """A category that training never saw answers as LightGBM answers it: as a missing value."""
    table, target = frame()
    model = fit(lightgbm.LGBMRegressor, (table, target))
    runtime, _ = loaded(Source(model=model))
    inputs = columns(table[:1]) | {"colour": np.array([b"mauve"], object)}
    native = table[:1].assign(colour=pandas.Categorical(["mauve"]))
    assert np.array_equal(runtime.predict(inputs)["predict"], model.predict(native))


def test_numbers_for_text_categories_are_refused():
    """Numbers where categories are text are the caller's error, not silently missing values."""
    table, target = frame()
    runtime, _ = loaded(Source(model=fit(lightgbm.LGBMRegressor, (table, target))))
    with pytest.raises(InvalidRequest, match=r"'colour' is INT64; expected categories that are text"):
        runtime.predict(columns(table) | {"colour": np.zeros(len(table), np.int64)})


def test_named_columns_come_one_tensor_each_in_any_order():
    """Columns come by the names of the DataFrame, spaces and all, though LightGBM writes underscores."""
    data = load_breast_cancer(as_frame=True)
    model = fit(lightgbm.LGBMClassifier, (data.data, data.target))
    runtime, _ = loaded(Source(model=model))
    by_name = {name: data.data[name].to_numpy() for name in reversed(data.data.columns)}
    assert np.array_equal(runtime.predict(by_name)["predict"], model.predict(data.data))
    with pytest.raises(InvalidRequest, match=r"unknown 'mean_weight'"):
        runtime.predict(by_name | {"mean weight": np.zeros(569)})


def test_a_refusal_says_what_was_expected():
    """A wrong width is the caller's error, and names what was expected and what came."""
    runtime, _ = loaded(Source(model=fit(lightgbm.LGBMRegressor, DIABETES)))
    with pytest.raises(InvalidRequest, match=r"\[2, 9\]; expected \[rows, 10\]"):
        runtime.predict({"x": np.zeros((2, 9))})


def test_an_unknown_parameter_names_the_nearest():
    """A misspelt parameter is an error that names the one meant."""
    with pytest.raises(SettingsError, match="num_threads"):
        loaded(Source(model=train(DIABETES, "regression"), parameters={"num_thread": 2}))


def test_a_pickle_outside_the_allow_list_is_not_loaded(tmp_path):
    """Under an allow-list without LightGBM, its pickle is refused."""
    path = tmp_path / "m.pkl"
    path.write_bytes(pickle.dumps(fit(lightgbm.LGBMRegressor, DIABETES)))
    with pytest.raises(UnsafeArtifact, match="lightgbm"):
        loaded(Source(path=path, allowed_globals=("sklearn.*",)))


def test_a_torn_file_says_so(tmp_path):
    """A model text that ends too early cannot be loaded, and its error names the file."""
    path = tmp_path / "m.txt"
    path.write_bytes(b"tree\nversion=v4\nnum_class=1\n")
    assert LightgbmRuntime.recognise(path) is not None
    with pytest.raises(LoadFailed, match=r"m\.txt"):
        loaded(Source(path=path))


def test_a_file_cut_anywhere_fails_alone(tmp_path):
    """A text cut inside its trees or parameters, or with other line ends, fails its load; LightGBM would end us all."""
    path = tmp_path / "m.txt"
    train(CANCER, "binary").save_model(path)
    whole = path.read_bytes()
    inside = [whole.index(mark) for mark in (b"Tree=0", b"Tree=3", b"end of trees", b"end of parameters")]
    for damaged in [*(whole[: at + 5] for at in inside), whole.replace(b"\n", b"\r\n")]:
        path.write_bytes(damaged)
        with pytest.raises(LoadFailed, match=r"m\.txt is cut off"):
            loaded(Source(path=path))
    path.write_bytes(whole)
    loaded(Source(path=path))


def test_an_untrained_model_says_so():
    """An estimator that was never fitted cannot be loaded."""
    with pytest.raises(LoadFailed, match="no trained LightGBM model"):
        loaded(Source(model=lightgbm.LGBMClassifier()))
