"""XGBoost models against XGBoost itself.

File (JSON, UBJSON, no suffix) x estimator (classifier, regressor, ranker, multi-output) x booster (gbtree, dart,
gblinear); pickles; objects in memory; named columns; categories. Left out: GPUs, the old binary format's contents.
"""

import json
import pickle
import warnings

import joblib
import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine

from headrace.errors import InvalidRequest, LoadFailed, SettingsError, UnsafeArtifact
from headrace.runtimes.base import Source
from headrace.runtimes.xgboost import XgboostRuntime
from headrace.testing.runtimes import RuntimeConformance

xgboost = pytest.importorskip("xgboost")
pandas = pytest.importorskip("pandas")

CANCER = load_breast_cancer(return_X_y=True)
WINE = load_wine(return_X_y=True)
DIABETES = load_diabetes(return_X_y=True)


def classifier(**options):
    return xgboost.XGBClassifier(n_estimators=8, max_depth=3, n_jobs=1, **options)


def loaded(source):
    runtime = XgboostRuntime(source)
    return runtime, runtime.load()


def saved(model, path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an unknown suffix is remarked upon
        model.save_model(path)
    return path


class TestUbjson(RuntimeConformance):
    name = "xgboost"
    nan = "accepted"

    def save(self, folder):
        return saved(classifier().fit(*CANCER), folder / "model.ubj")

    def inputs(self):
        return {"input-0": CANCER[0][:5].astype(np.float32)}

    def wrong_width(self):
        return {"input-0": np.zeros((3, 29), np.float32)}


class TestJsonMulticlass(RuntimeConformance):
    name = "xgboost"
    nan = "accepted"

    def save(self, folder):
        return saved(classifier().fit(*WINE), folder / "model.json")

    def inputs(self):
        return {"x": WINE[0][::30]}

    def wrong_width(self):
        return {"x": np.zeros((3, 14))}


class TestPickle(RuntimeConformance):
    name = "xgboost"
    nan = "accepted"

    def save(self, folder):
        path = folder / "model.joblib"
        joblib.dump(xgboost.XGBRegressor(n_estimators=5).fit(*DIABETES), path)
        return path

    def inputs(self):
        return {"x": DIABETES[0][:4]}

    def wrong_width(self):
        return {"x": np.zeros((3, 11))}


class TestLinear(RuntimeConformance):
    name = "xgboost"
    nan = "accepted"

    def save(self, folder):
        model = xgboost.train({"booster": "gblinear"}, xgboost.DMatrix(*DIABETES), 5)
        return saved(model, folder / "model.bst")

    def inputs(self):
        return {"x": DIABETES[0][:4]}

    def wrong_width(self):
        return {"x": np.zeros((3, 11))}


MODELS = {
    "binary": (lambda: classifier().fit(*CANCER), CANCER[0]),
    "hinge": (lambda: classifier(objective="binary:hinge").fit(*CANCER), CANCER[0]),
    "softprob": (lambda: classifier().fit(*WINE), WINE[0]),
    "softmax": (lambda: classifier(objective="multi:softmax").fit(*WINE), WINE[0]),
    "early stopping": (
        lambda: classifier(early_stopping_rounds=1, learning_rate=2.0).fit(
            *CANCER, eval_set=[(CANCER[0][::7], 1 - CANCER[1][::7])], verbose=False
        ),
        CANCER[0],
    ),
    "dart": (lambda: classifier(booster="dart").fit(*CANCER), CANCER[0]),
    "gblinear": (lambda: xgboost.XGBClassifier(booster="gblinear", n_estimators=8).fit(*CANCER), CANCER[0]),
    "regressor": (lambda: xgboost.XGBRegressor(n_estimators=8).fit(*DIABETES), DIABETES[0]),
    "poisson": (lambda: xgboost.XGBRegressor(n_estimators=8, objective="count:poisson").fit(*DIABETES), DIABETES[0]),
    "forest": (lambda: xgboost.XGBRFRegressor(n_estimators=8).fit(*DIABETES), DIABETES[0]),
    "multi-output": (
        lambda: xgboost.XGBRegressor(n_estimators=4).fit(DIABETES[0], np.column_stack([DIABETES[1], -DIABETES[1]])),
        DIABETES[0],
    ),
    "ranker": (lambda: xgboost.XGBRanker(n_estimators=4).fit(*WINE, group=[78, 100]), WINE[0]),
    "multi-label": (
        lambda: classifier().fit(WINE[0], np.column_stack([WINE[1] == 0, WINE[1] > 0]).astype(int)),
        WINE[0],
    ),
}


@pytest.mark.parametrize("form", ["json", "ubj", "bst", "pickle", "object"])
@pytest.mark.parametrize("case", sorted(MODELS))
def test_answers_as_the_estimator_does(case, form, tmp_path):
    """Whatever form the model comes in, predict and predict_proba are the estimator's own, to the last bit."""
    make, rows = MODELS[case]
    model = make()
    if form == "object":
        source = Source(model=model)
    elif form == "pickle":
        source = Source(path=tmp_path / "model")
        source.path.write_bytes(pickle.dumps(model))
    else:
        source = Source(path=saved(model, tmp_path / f"model.{form}"))
        source.path.rename(tmp_path / "anything")  # XGBoost goes by the suffix; here the content decides
        source = Source(path=tmp_path / "anything")
        assert XgboostRuntime.recognise(source.path) is not None
    runtime, signature = loaded(source)
    expected = {"predict": model.predict(rows)}
    if hasattr(model, "predict_proba") and case != "hinge":
        expected["predict_proba"] = model.predict_proba(rows)
    assert [spec.name for spec in signature.outputs] == list(expected)
    answer = runtime.predict({"x": rows}, tuple(expected))
    for name, value in expected.items():
        assert answer[name].shape == value.shape
        assert np.array_equal(answer[name], value), name


def test_a_booster_asked_for_labels_is_a_classifier(tmp_path):
    """With labels: true, a Booster for binary:logistic answers INT64 labels, and both probabilities when asked."""
    booster = xgboost.train({"objective": "binary:logistic"}, xgboost.DMatrix(*CANCER), 5)
    path = saved(booster, tmp_path / "m.ubj")
    runtime, signature = loaded(Source(path=path, parameters={"labels": True}))
    native = booster.predict(xgboost.DMatrix(CANCER[0]))
    answer = runtime.predict({"x": CANCER[0]}, ("predict", "predict_proba"))
    assert signature.properties["objective"] == "binary:logistic"
    assert answer["predict"].dtype == np.int64
    assert np.array_equal(answer["predict"], native > 0.5)
    assert np.array_equal(answer["predict_proba"][:, 1], native)


@pytest.mark.parametrize("parameters", [{}, {"labels": False}])
def test_a_booster_answers_as_a_booster(parameters):
    """Unless labels are asked for, a Booster's predict is what Booster.predict gives."""
    booster = xgboost.train({"objective": "binary:logistic"}, xgboost.DMatrix(*CANCER), 5)
    runtime, signature = loaded(Source(model=booster, parameters=parameters))
    assert [(spec.name, spec.datatype) for spec in signature.outputs] == [("predict", "FP32")]
    assert np.array_equal(runtime.predict({"x": CANCER[0]})["predict"], booster.predict(xgboost.DMatrix(CANCER[0])))


def test_an_object_in_memory_is_left_as_it_was():
    """Serving a model does not change the number of threads of the caller's own object."""
    model = xgboost.XGBClassifier(n_estimators=2, n_jobs=2).fit(*CANCER)
    loaded(Source(model=model))
    assert json.loads(model.get_booster().save_config())["learner"]["generic_param"]["nthread"] == "2"


def test_a_derived_class_answers_by_its_own_methods():
    """A class derived from XGBClassifier keeps the predict it defines."""

    class Contrary(xgboost.XGBClassifier):
        def predict(self, *args, **kwargs):
            return 1 - super().predict(*args, **kwargs)

    model = Contrary(n_estimators=2).fit(*CANCER)
    runtime, _ = loaded(Source(model=model))
    assert np.array_equal(runtime.predict({"x": CANCER[0]})["predict"], model.predict(CANCER[0]))


def frame(first="blue"):
    numbers = np.random.default_rng(0)
    table = pandas.DataFrame(
        {
            "size": numbers.normal(size=300),
            "colour": pandas.Categorical(numbers.choice([first, "red", "zinc"], 300)),
            "grade": pandas.Categorical(numbers.choice([3, 5, 8], 300)),
        }
    )
    return table, (table["size"] + table["colour"].cat.codes * 2 - table["grade"].cat.codes).to_numpy()


def columns(table):
    return {
        "size": table["size"].to_numpy(),
        "colour": np.array([text.encode() for text in table["colour"]], object),
        "grade": table["grade"].to_numpy().astype(np.int64),
    }


@pytest.mark.parametrize("booster", ["gbtree", "dart"])
def test_categories_come_by_value(booster, tmp_path):
    """Columns that were categories in training are inputs of their own, text as BYTES, and answer as the DataFrame does."""
    table, target = frame()
    model = xgboost.XGBRegressor(n_estimators=6, enable_categorical=True, booster=booster).fit(table, target)
    runtime, signature = loaded(Source(path=saved(model, tmp_path / "m.json")))
    assert [(spec.name, spec.datatype) for spec in signature.inputs] == [
        ("size", "FP32"),
        ("colour", "BYTES"),
        ("grade", "INT64"),
    ]
    assert np.array_equal(runtime.predict(columns(table))["predict"], model.predict(table))
    last = table[table["colour"] == "zinc"].iloc[:1]
    assert np.array_equal(runtime.predict(columns(last))["predict"], model.predict(table)[last.index])


def test_an_unknown_category_is_refused(tmp_path):
    """A category that training never saw is the caller's error, with the column and the known ones in its text."""
    table, target = frame()
    model = xgboost.XGBRegressor(n_estimators=2, enable_categorical=True).fit(table, target)
    runtime, _ = loaded(Source(path=saved(model, tmp_path / "m.json")))
    inputs = columns(table.iloc[:2])
    inputs["colour"] = np.array([b"red", b"mauve"], object)
    with pytest.raises(InvalidRequest, match=r"'colour', row 1.*'blue'"):
        runtime.predict(inputs)


def test_columns_without_names_come_in_order():
    """A model that names no columns takes as many as it has, in the caller's order, and refuses another number."""
    runtime, _ = loaded(Source(model=classifier().fit(*CANCER)))
    rows = CANCER[0][:3]
    columns = {f"c{at}": rows[:, at] for at in range(rows.shape[1])}
    assert np.array_equal(runtime.predict(columns)["predict"], runtime.predict({"x": rows})["predict"])
    del columns["c3"]
    with pytest.raises(InvalidRequest, match=r"29 inputs came; expected one of shape .* or 30 columns"):
        runtime.predict(columns)


def test_named_columns_come_one_tensor_each_in_any_order():
    """A model trained on a DataFrame takes one input for each column, by name, or the whole matrix."""
    data = load_diabetes(as_frame=True)
    model = xgboost.XGBRegressor(n_estimators=4).fit(data.data, data.target)
    runtime, _ = loaded(Source(model=model))
    by_name = {name: data.data[name].to_numpy() for name in reversed(data.data.columns)}
    expected = model.predict(data.data)
    assert np.array_equal(runtime.predict(by_name)["predict"], expected)
    assert np.array_equal(runtime.predict({"x": data.data.to_numpy()})["predict"], expected)
    del by_name["age"]
    with pytest.raises(InvalidRequest, match=r"missing 'age'"):
        runtime.predict(by_name)


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.bool_, np.float16, np.float32, np.float64])
def test_takes_numbers_of_any_width(dtype):
    """Integers, booleans and half floats answer as the same values in FP32 do."""
    model = classifier().fit(*WINE)
    runtime, _ = loaded(Source(model=model))
    rows = (WINE[0] % 200).astype(dtype)
    assert np.array_equal(runtime.predict({"x": rows})["predict"], model.predict(rows.astype(np.float32)))


def test_categories_that_the_file_spoils_come_as_codes(tmp_path):
    """Where XGBoost stored category texts cut short (beyond ASCII), codes are taken, and a warning says so."""
    table, target = frame("blé")
    model = xgboost.XGBRegressor(n_estimators=6, enable_categorical=True).fit(table, target)
    runtime, signature = loaded(Source(path=saved(model, tmp_path / "m.json")))
    assert "'colour'" in signature.warnings[0]
    inputs = columns(table) | {"colour": table["colour"].cat.codes.to_numpy()}
    assert np.array_equal(runtime.predict(inputs)["predict"], model.predict(table))


@pytest.mark.parametrize(
    ("inputs", "text"),
    [
        ({"x": np.zeros((2, 12))}, r"\[2, 12\]; expected \[rows, 13\]"),
        ({"x": np.zeros(13)}, r"\[13\]; expected \[rows, 13\]"),
        ({"x": np.full((2, 13), b"1", object)}, r"'x' is BYTES; expected numbers"),
        ({"a": np.zeros(2), "b": np.zeros(2)}, r"2 inputs came; expected one"),
    ],
    ids=["width", "rank", "text", "columns"],
)
def test_a_refusal_says_what_was_expected(inputs, text):
    """Input that does not fit is the caller's error, and names what was expected and what came."""
    runtime, _ = loaded(Source(model=classifier().fit(*WINE)))
    with pytest.raises(InvalidRequest, match=text):
        runtime.predict(inputs)


def test_infinity_is_the_callers_error_where_the_booster_refuses_it():
    """An infinity for a gblinear booster, which refuses it, is the caller's error."""
    model = xgboost.train({"booster": "gblinear"}, xgboost.DMatrix(*DIABETES), 2)
    runtime, _ = loaded(Source(model=model))
    with pytest.raises(InvalidRequest, match="infinity"):
        runtime.predict({"x": np.full((1, 10), np.inf)})


def test_an_unknown_parameter_names_the_nearest():
    """A misspelt parameter is an error that names the one meant."""
    with pytest.raises(SettingsError, match="nthread"):
        loaded(Source(model=classifier().fit(*WINE), parameters={"nthreads": 2}))


def test_the_old_binary_format_says_how_to_save_it_again(tmp_path):
    """A file in the format that XGBoost 3.1 dropped is recognised, and its error says what to do."""
    path = tmp_path / "m.bst"
    path.write_bytes(b"binf\x00\x00\x00\x00" + bytes(200))
    assert XgboostRuntime.recognise(path) is not None
    with pytest.raises(LoadFailed, match=r"below 3\.1"):
        loaded(Source(path=path))


def test_a_pickle_outside_the_allow_list_is_not_loaded(tmp_path):
    """Under an allow-list without XGBoost, its pickle is refused."""
    path = tmp_path / "m.pkl"
    path.write_bytes(pickle.dumps(classifier().fit(*WINE)))
    with pytest.raises(UnsafeArtifact, match="xgboost"):
        loaded(Source(path=path, allowed_globals=("sklearn.*",)))


def test_an_untrained_model_says_so():
    """An estimator that was never fitted cannot be loaded, and its error names XGBoost's reason."""
    with pytest.raises(LoadFailed):
        loaded(Source(model=xgboost.XGBClassifier()))
