"""CatBoost models against CatBoost itself.

Files (cbm, JSON), pickles and objects x classifier, regressor, ranker and their losses; named columns; categories and
texts. Left out: embedding features (refused), GPUs.
"""

import pickle

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine

from headrace.errors import InvalidRequest, LoadFailed, SettingsError, UnsafeArtifact
from headrace.runtimes.base import Source
from headrace.runtimes.catboost import CatboostRuntime
from headrace.testing.runtimes import RuntimeConformance

catboost = pytest.importorskip("catboost")
pandas = pytest.importorskip("pandas")

CANCER = load_breast_cancer(return_X_y=True)
WINE = load_wine(return_X_y=True)
DIABETES = load_diabetes(return_X_y=True)


def fit(kind, data, *, loss=None, **options):
    model = kind(iterations=6, depth=3, thread_count=1, verbose=0, allow_writing_files=False, loss_function=loss)
    return model.fit(*data, **options)


def loaded(source):
    runtime = CatboostRuntime(source)
    return runtime, runtime.load()


class TestBinary(RuntimeConformance):
    name = "catboost"
    nan = "accepted"

    def save(self, folder):
        fit(catboost.CatBoostClassifier, CANCER).save_model(str(folder / "model.cbm"))
        return folder / "model.cbm"

    def inputs(self):
        return {"input-0": CANCER[0][:5]}

    def wrong_width(self):
        return {"input-0": np.zeros((3, 31))}


class TestTextLabelsInJson(RuntimeConformance):
    name = "catboost"
    nan = "accepted"

    def save(self, folder):
        names = load_wine().target_names[WINE[1]]
        fit(catboost.CatBoostClassifier, (WINE[0], names)).save_model(str(folder / "model.json"), format="json")
        return folder / "model.json"

    def inputs(self):
        return {"x": WINE[0][::30].astype(np.float32)}

    def wrong_width(self):
        return {"x": np.zeros((3, 12))}


class TestCategories(RuntimeConformance):
    name = "catboost"
    nan = "accepted"

    def save(self, folder):
        table, target = frame()
        model = fit(catboost.CatBoostRegressor, (table, target), cat_features=["colour", "grade"])
        model.save_model(str(folder / "model.bin"), format="cbm")
        return folder / "model.bin"

    def inputs(self):
        return columns(frame()[0][:5])

    def wrong_width(self):
        inputs = self.inputs()
        del inputs["colour"]
        return inputs


MODELS = {
    "binary": lambda: (fit(catboost.CatBoostClassifier, CANCER), CANCER[0]),
    "text": lambda: (fit(catboost.CatBoostClassifier, (CANCER[0], np.array(["no", "yes"])[CANCER[1]])), CANCER[0]),
    "cross entropy": lambda: (fit(catboost.CatBoostClassifier, CANCER, loss="CrossEntropy"), CANCER[0]),
    "multiclass": lambda: (fit(catboost.CatBoostClassifier, (WINE[0], WINE[1] * 10)), WINE[0]),
    "multi-label": lambda: (
        fit(
            catboost.CatBoostClassifier,
            (WINE[0], np.column_stack([WINE[1] == 0, WINE[1] > 0]).astype(int)),
            loss="MultiLogloss",
        ),
        WINE[0],
    ),
    "regressor": lambda: (fit(catboost.CatBoostRegressor, DIABETES, loss="RMSE"), DIABETES[0]),
    "poisson": lambda: (fit(catboost.CatBoostRegressor, DIABETES, loss="Poisson"), DIABETES[0]),
    "quantile": lambda: (fit(catboost.CatBoostRegressor, DIABETES, loss="Quantile:alpha=0.9"), DIABETES[0]),
    "uncertainty": lambda: (fit(catboost.CatBoostRegressor, DIABETES, loss="RMSEWithUncertainty"), DIABETES[0]),
    "multi-output": lambda: (
        fit(catboost.CatBoostRegressor, (DIABETES[0], np.column_stack([DIABETES[1]] * 2)), loss="MultiRMSE"),
        DIABETES[0],
    ),
    "ranker": lambda: (
        fit(catboost.CatBoostRanker, WINE, loss="YetiRank", group_id=np.repeat(np.arange(89), 2)),
        WINE[0],
    ),
}


@pytest.mark.parametrize("form", ["cbm", "json", "pickle", "object"])
@pytest.mark.parametrize("case", sorted(MODELS))
def test_answers_as_the_model_does(case, form, tmp_path):
    """Whatever form the model comes in, predict and predict_proba are its own to the last bit, labels one a row."""
    model, rows = MODELS[case]()
    path = tmp_path / "anything"
    if form == "pickle":
        path.write_bytes(pickle.dumps(model))
    elif form != "object":
        model.save_model(str(path), format=form)
    runtime, signature = loaded(Source(model=model) if form == "object" else Source(path=path))
    expected = np.asarray(model.predict(rows))
    if case == "multiclass":
        assert expected.shape == (len(rows), 1)  # the shape that is not passed on
        expected = expected[:, 0]
    exact = {} if form == "json" else {"rtol": 0, "atol": 0}  # JSON holds decimals
    answer = runtime.predict({"x": rows})["predict"]
    if expected.dtype.kind in "OU":
        assert answer.tolist() == [value.encode() for value in expected]
    else:
        np.testing.assert_allclose(answer, expected, **exact)
    if hasattr(model, "predict_proba"):
        proba = runtime.predict({"x": rows}, ("predict_proba",))["predict_proba"]
        np.testing.assert_allclose(proba, model.predict_proba(rows), **exact)
        assert signature.outputs[1].labels == tuple(map(str, model.classes_))


def test_a_plain_catboost_in_memory_answers_as_itself():
    """A CatBoost object that is no classifier answers its own predict: raw values."""
    model = catboost.CatBoost({"iterations": 3, "loss_function": "Logloss", "verbose": 0, "allow_writing_files": False})
    model.fit(*CANCER)
    runtime, signature = loaded(Source(model=model))
    assert [spec.name for spec in signature.outputs] == ["predict"]
    assert np.array_equal(runtime.predict({"x": CANCER[0]})["predict"], model.predict(CANCER[0]))


def frame():
    numbers = np.random.default_rng(0)
    table = pandas.DataFrame(
        {
            "size": numbers.normal(size=300),
            "colour": numbers.choice(["blé", "red", "zinc"], 300),
            "grade": numbers.choice([3, 5, 8], 300),
        }
    )
    return table, table["size"] + (table["colour"] == "red") * 2 - table["grade"]


def columns(table):
    return {
        "size": table["size"].to_numpy(),
        "colour": np.array([text.encode() for text in table["colour"]], object),
        "grade": table["grade"].to_numpy(),
    }


@pytest.mark.parametrize("grades", [np.int64, np.uint8, "text"], ids=str)
def test_categories_come_by_value(grades):
    """Categorical columns answer as the DataFrame does, whole numbers as numbers or as their text."""
    table, target = frame()
    model = fit(catboost.CatBoostRegressor, (table, target), cat_features=["colour", "grade"])
    runtime, _ = loaded(Source(model=model))
    inputs = columns(table)
    if grades == "text":
        inputs["grade"] = np.array([str(grade).encode() for grade in inputs["grade"]], object)
    else:
        inputs["grade"] = inputs["grade"].astype(grades)
    assert np.array_equal(runtime.predict(inputs)["predict"], model.predict(table))


def test_a_text_feature_comes_as_text():
    """A model with a text feature takes that column as BYTES and answers as for the DataFrame."""
    words = np.random.default_rng(0).choice(["good", "bad", "fair", "poor"], (200, 5))
    table = pandas.DataFrame({"n": np.arange(200.0), "review": [" ".join(row) for row in words]})
    model = fit(catboost.CatBoostClassifier, (table, words[:, 0] == "good"), text_features=["review"])
    runtime, signature = loaded(Source(model=model))
    assert [spec.datatype for spec in signature.inputs] == ["FP32", "BYTES"]
    inputs = {
        "review": np.array([text.encode() for text in table["review"]], object),
        "n": table["n"].to_numpy(),
    }
    assert np.array_equal(
        runtime.predict(inputs, ("predict_proba",))["predict_proba"],
        model.predict_proba(table),
    )


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"grade": np.full(300, 3.0)}, r"'grade' is FP64; a categorical feature takes text \(BYTES\) or whole numbers"),
        ({"size": np.full(300, b"1", object)}, r"'size' is BYTES; expected numbers"),
        ({"colour": np.full(300, None, object)}, r"'colour' has a missing value"),
        ({"colour": np.full(300, b"\xff", object)}, r"no UTF-8"),
        ({"grade": np.zeros(299, np.int64)}, r"differ in length: 299, 300"),
    ],
    ids=["float category", "text number", "missing category", "bytes", "lengths"],
)
def test_a_refusal_says_what_was_expected(change, text):
    """Columns that do not fit are the caller's error, and name the column, what was expected and what came."""
    table, target = frame()
    runtime, _ = loaded(
        Source(model=fit(catboost.CatBoostRegressor, (table, target), cat_features=["colour", "grade"]))
    )
    with pytest.raises(InvalidRequest, match=text):
        runtime.predict(columns(table) | change)


def test_columns_of_other_names_are_passed_over():
    """A table with a column more than the model was trained on is answered as without it, as CatBoost itself does."""
    table, target = frame()
    runtime, _ = loaded(
        Source(model=fit(catboost.CatBoostRegressor, (table, target), cat_features=["colour", "grade"]))
    )
    given = columns(table)
    wider = {"weight": np.zeros(300), **given}
    assert np.array_equal(runtime.predict(wider)["predict"], runtime.predict(given)["predict"])


def test_more_columns_than_trained_on_are_refused():
    """A row that is too wide is the caller's error, though CatBoost itself would ignore the rest."""
    runtime, _ = loaded(Source(model=fit(catboost.CatBoostRegressor, DIABETES)))
    with pytest.raises(InvalidRequest, match=r"\[2, 11\]; expected \[rows, 10\]"):
        runtime.predict({"x": np.zeros((2, 11))})


def test_named_columns_come_one_tensor_each_in_any_order():
    """A model trained on a DataFrame takes one input for each column, by name."""
    data = load_diabetes(as_frame=True)
    model = fit(catboost.CatBoostRegressor, (data.data, data.target))
    runtime, _ = loaded(Source(model=model))
    by_name = {name: data.data[name].to_numpy() for name in reversed(data.data.columns)}
    assert np.array_equal(runtime.predict(by_name)["predict"], model.predict(data.data))


def test_an_unknown_parameter_names_the_nearest():
    """A misspelt parameter is an error that names the one meant."""
    with pytest.raises(SettingsError, match="thread_count"):
        loaded(Source(model=fit(catboost.CatBoostRegressor, DIABETES), parameters={"threads": 2}))


def test_a_pickle_outside_the_allow_list_is_not_loaded(tmp_path):
    """Under an allow-list without CatBoost, its pickle is refused."""
    path = tmp_path / "m.pkl"
    path.write_bytes(pickle.dumps(fit(catboost.CatBoostRegressor, DIABETES)))
    with pytest.raises(UnsafeArtifact, match="catboost"):
        loaded(Source(path=path, allowed_globals=("sklearn.*",)))


def test_a_torn_file_says_so(tmp_path):
    """A file that ends too early cannot be loaded, and its error names it."""
    path = tmp_path / "m.cbm"
    path.write_bytes(b"CBM1" + bytes(64))
    with pytest.raises(LoadFailed, match=r"m\.cbm"):
        loaded(Source(path=path))


def test_an_untrained_model_says_so():
    """A model that was never fitted cannot be loaded."""
    with pytest.raises(LoadFailed, match="not trained"):
        loaded(Source(model=catboost.CatBoostClassifier()))
