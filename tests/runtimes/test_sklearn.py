"""The scikit-learn runtime.

Matrix: array, DataFrame, text and label inputs; classifiers (int, text, bool labels), regressors, transformers,
clusterers, outlier detectors, several targets, sparse answers; joblib, pickle, skops, memory; versions and golden rows.
Left out: estimators of other packages (each in its own runtime's tests).
"""

import copyreg
import pickle
import subprocess
import sys
import warnings

import joblib
import numpy as np
import pandas as pd
import pytest
import sklearn
import skops.io
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.cluster import DBSCAN, KMeans
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_breast_cancer, load_iris, load_linnerud
from sklearn.ensemble import (
    AdaBoostClassifier,
    HistGradientBoostingClassifier,
    IsolationForest,
    RandomForestClassifier,
    VotingClassifier,
)
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.multioutput import MultiOutputClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    LabelEncoder,
    OneHotEncoder,
    OrdinalEncoder,
    PowerTransformer,
    StandardScaler,
)
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier

from headrace.errors import InvalidRequest, LoadFailed, SettingsError, UnsafeArtifact, VersionMismatch
from headrace.payload import TensorSpec
from headrace.runtimes import versions
from headrace.runtimes.base import Source
from headrace.runtimes.golden import write_golden
from headrace.runtimes.sklearn import SklearnRuntime
from headrace.security.load_policy import ALLOWED
from headrace.testing.runtimes import RuntimeConformance

X, Y = load_iris(return_X_y=True)
NAMES = np.array(["setosa", "versicolor", "virginica"])


def _frame():
    return pd.DataFrame(
        {
            "age": [20.0, 31.0, 42.0, 53.0, 64.0, 25.0],
            "city": ["Bern", "Genf", "Bern", "Chur", "Genf", "Chur"],
            "income": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
        }
    )


def _columns_model():
    prepare = ColumnTransformer(
        [
            ("number", make_pipeline(SimpleImputer(), StandardScaler()), ["age", "income"]),
            ("text", OneHotEncoder(handle_unknown="ignore"), ["city"]),
        ]
    )
    return make_pipeline(prepare, LogisticRegression()).fit(_frame(), ["no", "no", "no", "yes", "yes", "yes"])


def serve(model, **parameters):
    runtime = SklearnRuntime(Source(model=model, parameters=parameters))
    return runtime, runtime.load()


class TestClassifier(RuntimeConformance):
    name = "sklearn"
    nan = "refused"

    def save(self, folder):
        path = folder / "model.joblib"
        joblib.dump(make_pipeline(StandardScaler(), LogisticRegression()).fit(X, NAMES[Y]), path)
        return path

    def inputs(self):
        return {"input-0": X[[0, 70, 140]].copy()}

    def wrong_width(self):
        return {"input-0": np.zeros((3, 5))}


class TestForestFromRestrictedPickle(TestClassifier):
    nan = "accepted"

    def save(self, folder):
        path = folder / "model.pkl"
        path.write_bytes(pickle.dumps(RandomForestClassifier(5, random_state=0, n_jobs=-1).fit(X, Y)))
        return path

    def source(self, artifact):
        return Source(path=artifact, allowed_globals=tuple(ALLOWED))


class TestRegressorFromSkops(TestClassifier):
    def save(self, folder):
        path = folder / "model.skops"
        skops.io.dump(LinearRegression().fit(X, Y), path)
        return path


class TestTransformerFromCompressed(TestClassifier):
    nan = "accepted"

    def save(self, folder):
        path = folder / "model.gz"
        joblib.dump(StandardScaler().fit(X), path, compress=("gzip", 1))
        return path


class TestColumns(TestClassifier):
    nan = "accepted"

    def save(self, folder):
        path = folder / "model.joblib"
        joblib.dump(_columns_model(), path)
        return path

    def inputs(self):
        return {
            "age": np.array([20.0, 50.0, 64.0]),
            "city": np.array([b"Bern", "Genève".encode(), b"Chur"], dtype=object),
            "income": np.array([1.0, 4.0, 6.0]),
        }

    def wrong_width(self):
        return {"age": np.array([20.0])}


class TestTexts(TestClassifier):
    nan = ""

    def save(self, folder):
        path = folder / "model.joblib"
        model = make_pipeline(TfidfVectorizer(), LogisticRegression())
        joblib.dump(model.fit(["good day", "bad night", "good night"], [1, 0, 1]), path)
        return path

    def inputs(self):
        return {"input-0": np.array([b"good", b"bad bad", b"night"], dtype=object)}

    def wrong_width(self):
        return {"input-0": np.array([[b"a", b"b"]], dtype=object)}


class TestClusters(TestClassifier):
    def save(self, folder):
        path = folder / "model.joblib"
        joblib.dump(KMeans(3, n_init=1, random_state=0).fit(X), path)
        return path


# -- signatures --


def test_a_classifier_of_texts_declares_labels():
    """Text classes are BYTES for predict, and labels of the columns of predict_proba."""
    _, signature = serve(LogisticRegression(max_iter=500).fit(X, NAMES[Y]))
    assert signature.inputs == (TensorSpec(name="input-0", datatype="FP64", shape=(-1, 4)),)
    assert signature.outputs == (
        TensorSpec(name="predict", datatype="BYTES", shape=(-1,)),
        TensorSpec(name="predict_proba", datatype="FP64", shape=(-1, 3), labels=tuple(NAMES)),
        TensorSpec(name="decision_function", datatype="FP64", shape=(-1, 3), labels=tuple(NAMES)),
    )
    assert signature.default_outputs == ("predict",)
    assert not signature.strict
    assert signature.libraries["scikit-learn"] == sklearn.__version__


@pytest.mark.parametrize(
    ("model", "outputs"),
    [
        (lambda: LogisticRegression(max_iter=500).fit(X[:100], Y[:100]), {"predict": ("INT64", (-1,)), "predict_proba": ("FP64", (-1, 2)), "decision_function": ("FP64", (-1,))}),
        (lambda: LogisticRegression(max_iter=500).fit(X, Y > 1), {"predict": ("BOOL", (-1,)), "predict_proba": ("FP64", (-1, 2)), "decision_function": ("FP64", (-1,))}),
        (lambda: SVC().fit(X, Y), {"predict": ("INT64", (-1,)), "decision_function": ("FP64", (-1, 3))}),
        (lambda: LinearRegression().fit(X, np.stack([Y, Y], 1)), {"predict": ("FP64", (-1, 2))}),
        (lambda: StandardScaler().fit(X.astype(np.float32)), {"transform": ("FP64", (-1, 4))}),
        (lambda: OneHotEncoder().fit(np.round(X[:20])), {"transform": ("FP64", (-1, 8))}),
        (lambda: KMeans(3, n_init=1).fit(X), {"predict": ("INT32", (-1,)), "transform": ("FP64", (-1, 3))}),
        (lambda: IsolationForest(n_estimators=5).fit(X), {"predict": ("INT64", (-1,)), "decision_function": ("FP64", (-1,))}),
        (lambda: MultiOutputClassifier(LogisticRegression(max_iter=500)).fit(X, np.stack([Y, Y > 0], 1)), {"predict": ("INT64", (-1, 2)), "predict_proba_0": ("FP64", (-1, 3)), "predict_proba_1": ("FP64", (-1, 2))}),
        (lambda: LabelEncoder().fit(NAMES), {"transform": ("INT64", (-1,))}),
        (lambda: FunctionTransformer(np.log1p).fit(X), {"transform": ("FP64", (-1, 4))}),
    ],
    ids=["binary", "bool", "no probabilities", "two targets", "transformer", "sparse", "clusters", "outliers", "two classifications", "labels", "function"],
)  # fmt: skip
def test_outputs_are_those_the_estimator_has(model, outputs):
    """Each kind of estimator declares its methods, with the datatype and shape of what they answer."""
    _, signature = serve(model())
    assert {spec.name: (spec.datatype, spec.shape) for spec in signature.outputs} == outputs


def test_answers_are_the_estimators_own():
    """Every output is bit for bit what the estimator's method gives."""
    fitted = RandomForestClassifier(7, random_state=0).fit(X, Y)
    runtime, _ = serve(fitted)
    answers = runtime.predict({"anything": X}, ("predict", "predict_proba"))
    np.testing.assert_array_equal(answers["predict"], fitted.predict(X))
    np.testing.assert_array_equal(answers["predict_proba"], fitted.predict_proba(X))


def test_several_targets_answer_each():
    """Probabilities of several targets come one output a target."""
    fitted = MultiOutputClassifier(LogisticRegression(max_iter=500)).fit(X, np.stack([Y, Y > 0], 1))
    runtime, _ = serve(fitted)
    answers = runtime.predict({"x": X}, ("predict_proba_1", "predict_proba_0"))
    for index in (0, 1):
        np.testing.assert_array_equal(answers[f"predict_proba_{index}"], fitted.predict_proba(X)[index])


def test_float32_is_passed_on_as_it_is():
    """A float32 tensor reaches the estimator as the same array, uncast and uncopied."""
    came = []
    runtime, _ = serve(FunctionTransformer(lambda rows: came.append(rows) or rows).fit(X))
    rows = X.astype(np.float32)
    runtime.predict({"input-0": rows})
    assert came[-1] is rows


@pytest.mark.parametrize(("fitted", "asked"), [(np.float64, np.float32), (np.float32, np.float64)])
@pytest.mark.parametrize("frame", [False, True], ids=["array", "frame"])
def test_clusters_take_floats_of_either_width(fitted, asked, frame):
    """KMeans, alone or behind a scaler, answers floats of a width that it was not fitted on and itself refuses."""
    rows = X.astype(fitted)
    rows = pd.DataFrame(rows, columns=list("abcd")) if frame else rows
    for model in (KMeans(3, n_init=1), make_pipeline(StandardScaler(), KMeans(3, n_init=1))):
        model.fit(rows)
        runtime, _ = serve(model)
        matrix = X.astype(asked)
        inputs = {name: matrix[:, index] for index, name in enumerate("abcd")} if frame else {"input-0": matrix}
        assert runtime.predict(inputs)["predict"].tolist() == model.predict(rows).tolist()


def test_columns_may_come_one_tensor_each():
    """A model fitted on an array takes its columns as tensors of their own, in order."""
    runtime, _ = serve(LinearRegression().fit(X, Y))
    whole = runtime.predict({"input-0": X})["predict"]
    apart = runtime.predict({name: X[:, i : i + 1] for i, name in enumerate("abcd")})["predict"]
    np.testing.assert_array_equal(whole, apart)


# -- DataFrames --


def test_a_dataframe_model_declares_its_columns():
    """Columns are inputs by name, text where their encoder has seen text."""
    _, signature = serve(_columns_model())
    assert [(spec.name, spec.datatype, spec.shape) for spec in signature.inputs] == [
        ("age", "FP64", (-1,)),
        ("city", "BYTES", (-1,)),
        ("income", "FP64", (-1,)),
    ]


def test_columns_come_by_name_in_any_order_and_either_shape():
    """Columns as [-1] or [-1, 1], in any order, answer what the DataFrame answers."""
    model = _columns_model()
    runtime, _ = serve(model)
    frame = _frame()
    cities = np.array([text.encode() for text in frame["city"]], dtype=object)
    inputs = {"city": cities[:, None], "income": frame["income"].to_numpy(), "age": frame["age"].to_numpy()[:, None]}
    np.testing.assert_array_equal(
        runtime.predict(inputs, ("predict_proba",))["predict_proba"], model.predict_proba(frame)
    )


def test_a_matrix_stands_for_the_columns_in_order():
    """One tensor of as many columns as the model was fitted on is taken, with no warning about names."""
    frame = pd.DataFrame(X, columns=list("abcd"))
    model = HistGradientBoostingClassifier(max_iter=3).fit(frame, Y)
    runtime, signature = serve(model)
    assert [spec.name for spec in signature.inputs] == list("abcd")
    np.testing.assert_array_equal(runtime.predict({"input-0": X})["predict"], model.predict(frame))


def test_numeric_columns_answer_what_the_dataframe_answers():
    """Columns of one numeric datatype, one tensor each, answer what the DataFrame answers."""
    frame = pd.DataFrame(X, columns=list("abcd"))
    model = LogisticRegression(max_iter=500).fit(frame, Y)
    runtime, _ = serve(model)
    inputs = {name: frame[name].to_numpy() for name in "dcba"}
    np.testing.assert_array_equal(
        runtime.predict(inputs, ("predict_proba",))["predict_proba"], model.predict_proba(frame)
    )


@pytest.mark.parametrize("model", ["array", "numbers", "mixed"])
def test_columns_of_different_lengths_are_refused(model):
    """Columns that do not have as many rows as each other are the caller's error."""
    if model == "mixed":
        runtime, _ = serve(_columns_model())
        inputs = {"age": np.zeros(2), "city": np.array([b"Bern"], object), "income": np.zeros(2)}
    else:
        runtime, _ = serve(LinearRegression().fit(X if model == "array" else pd.DataFrame(X, columns=list("abcd")), Y))
        inputs = {name: np.zeros(2 + (name == "c")) for name in "abcd"}
    with pytest.raises(InvalidRequest, match="different numbers of rows"):
        runtime.predict(inputs)


def test_columns_that_are_missing_or_unknown_are_named():
    """The error names the columns that miss and those nobody knows."""
    runtime, _ = serve(_columns_model())
    with pytest.raises(InvalidRequest, match=r"missing: income; unknown: incme"):
        runtime.predict({"age": np.zeros(1), "city": np.array([b"Bern"], object), "incme": np.zeros(1)})


def test_columns_beside_those_of_a_column_transformer_are_passed_over():
    """A table with a column more is answered as without it, as scikit-learn's own transformer does."""
    runtime, _ = serve(_columns_model())
    given = {"age": np.zeros(1), "city": np.array([b"Bern"], object), "income": np.zeros(1)}
    assert np.array_equal(runtime.predict({"more": np.ones(1), **given})["predict"], runtime.predict(given)["predict"])


def test_a_transformer_of_tables_answers_its_columns():
    """Each column of the DataFrame is an output, in its own datatype, beside the whole table of which it is a label."""
    frame = pd.DataFrame({"age": [1.0, 3.0], "city": ["Bern", "Basel"]})
    prepare = ColumnTransformer(
        [("scale", StandardScaler(), ["age"]), ("code", OrdinalEncoder(dtype=np.int64), ["city"])]
    )
    runtime, signature = serve(prepare.set_output(transform="pandas").fit(frame))
    columns = ("scale__age", "code__city")
    assert signature.default_outputs == ("transform",)
    assert [(spec.name, spec.datatype, spec.shape) for spec in signature.outputs] == [
        ("transform", "FP64", (-1, 2)),
        ("scale__age", "FP64", (-1,)),
        ("code__city", "INT64", (-1,)),
    ]
    assert signature.outputs[0].labels == columns
    answer = runtime.predict({"age": np.array([1.0]), "city": np.array([b"Bern"], object)}, columns)
    assert answer["scale__age"].tolist() == [-1.0]
    assert answer["code__city"].tolist() == [1]


@pytest.mark.parametrize("encoder", [OneHotEncoder, OrdinalEncoder])
def test_an_encoder_of_texts_takes_texts(encoder):
    """An encoder fitted on an array of texts declares BYTES and answers bytes."""
    fitted = encoder().fit(np.array([["a", "x"], ["b", "y"]], dtype=object))
    runtime, signature = serve(fitted)
    assert signature.inputs == (TensorSpec(name="input-0", datatype="BYTES", shape=(-1, 2)),)
    answer = runtime.predict({"input-0": np.array([[b"b", b"x"]], dtype=object)})["transform"]
    expected = fitted.transform(np.array([["b", "x"]], dtype=object))
    np.testing.assert_array_equal(answer, expected.toarray() if encoder is OneHotEncoder else expected)


def test_boosting_with_text_categories_declares_them():
    """A histogram model with a text column encodes it itself, and declares it BYTES."""
    frame = _frame().astype({"city": "category"})
    model = HistGradientBoostingClassifier(max_iter=2, min_samples_leaf=1, categorical_features="from_dtype")
    model.fit(frame, [0, 0, 0, 1, 1, 1])
    _, signature = serve(model)
    assert {spec.name: spec.datatype for spec in signature.inputs} == {"age": "FP64", "city": "BYTES", "income": "FP64"}


# -- refusals --


@pytest.mark.parametrize(
    "inputs",
    [
        {},
        {"a": np.zeros(4)},
        {"a": np.zeros((1, 2, 4))},
        {"a": np.zeros((1, 4)), "b": np.zeros((1, 4))},
        {"a": np.array([[b"1", b"2", b"3", b"4"]], dtype=object)},
        {"a": np.full((1, 4), np.inf)},
    ],
    ids=["none", "one dimension", "three dimensions", "two", "text", "infinite"],
)
def test_input_of_another_kind_is_refused(inputs):
    """Input that is not one matrix of numbers is the caller's error."""
    runtime, _ = serve(LogisticRegression(max_iter=500).fit(X, Y))
    with pytest.raises(InvalidRequest):
        runtime.predict(inputs)


class Doubler(BaseEstimator, TransformerMixin):
    """A transformer as people write them: it does not keep how many columns it was fitted on."""

    def fit(self, rows, labels=None):
        return self

    def transform(self, rows):
        return np.column_stack([rows * 2, rows[:, 2]])


def test_a_pipeline_that_begins_with_a_persons_own_transformer_answers():
    """Nothing says how many columns it takes: it is tried, and any input is the pipeline's own to judge."""
    rows, labels = load_iris(return_X_y=True)
    model = make_pipeline(Doubler(), LogisticRegression(max_iter=500)).fit(rows, labels)
    assert not hasattr(model, "n_features_in_")
    runtime, signature = serve(model)
    assert [(each.name, each.shape) for each in signature.inputs] == [("input-0", (-1, -1))]
    assert [(each.name, each.shape) for each in signature.outputs][:2] == [
        ("predict", (-1,)),
        ("predict_proba", (-1, 3)),
    ]
    np.testing.assert_array_equal(runtime.predict({"any": rows})["predict"], model.predict(rows))
    with pytest.raises(InvalidRequest, match="the model refuses the input"):
        runtime.predict({"any": rows[:, :3]})


class Ratio(Doubler):
    """One that looks for columns by name."""

    def transform(self, rows):
        return np.column_stack([rows["length"] / rows["width"], rows["length"]])


def test_a_pipeline_whose_first_step_looks_for_columns_takes_tables():
    """No made-up rows will do: it is served on what its methods usually answer, says so, and takes columns by name."""
    frame = pd.DataFrame({"length": [1.0, 2.0, 9.0, 8.0], "width": [1.0, 1.0, 2.0, 2.0]})
    model = make_pipeline(Ratio(), LogisticRegression()).fit(frame, ["low", "low", "high", "high"])
    runtime, signature = serve(model)
    assert [(each.name, each.datatype, each.shape, each.labels) for each in signature.outputs][:2] == [
        ("predict", "BYTES", (-1,), ()),
        ("predict_proba", "FP64", (-1, 2), ("high", "low")),
    ]
    assert "takes no made-up rows" in signature.warnings[-1]
    columns = {name: frame[name].to_numpy() for name in frame}
    answer = runtime.predict(columns, ["predict", "predict_proba"])
    assert answer["predict"].tolist() == [b"low", b"low", b"high", b"high"]
    np.testing.assert_allclose(answer["predict_proba"], model.predict_proba(frame))


def test_a_pipeline_that_is_not_fitted_is_still_refused():
    """That nothing is known of its inputs is no reason to serve it."""
    with pytest.raises(LoadFailed, match="is not fitted"):
        serve(make_pipeline(Doubler(), LogisticRegression()))


def test_a_wrong_width_says_expected_and_came():
    """The error names the input, its shape and the width expected."""
    runtime, _ = serve(LinearRegression().fit(X, Y))
    with pytest.raises(InvalidRequest, match=r"'x' has shape \[2, 3\], expected \[-1, 4\]"):
        runtime.predict({"x": np.zeros((2, 3))})


def test_bytes_that_are_no_text_are_refused():
    """BYTES that are no UTF-8 are the caller's error, and the text holds none of them."""
    runtime, _ = serve(_columns_model())
    with pytest.raises(InvalidRequest, match="'city' holds bytes that are no UTF-8"):
        runtime.predict({"age": np.zeros(1), "city": np.array([b"\xff"], object), "income": np.zeros(1)})


def test_numbers_for_a_model_of_texts_are_refused():
    """A model that reads texts refuses numbers as the caller's error."""
    model = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(["good day", "bad night"], [1, 0])
    runtime, _ = serve(model)
    with pytest.raises(InvalidRequest, match="expected BYTES"):
        runtime.predict({"x": np.arange(3)})


def test_a_failure_of_the_model_itself_is_not_the_callers():
    """An exception that is not about the input passes through for the engine to name."""

    def fail(rows):
        if len(rows) == 1:
            raise RuntimeError("broken")
        return rows

    runtime, _ = serve(FunctionTransformer(fail).fit(X))
    with pytest.raises(RuntimeError, match="broken"):
        runtime.predict({"x": X[:1]})


@pytest.mark.parametrize(
    ("model", "text"),
    [
        (LogisticRegression(), "not fitted"),
        (DBSCAN().fit(X), "none of the methods"),
        ({"model": 1}, "builtins.dict"),
    ],
    ids=["unfitted", "cannot predict", "dictionary"],
)
def test_what_cannot_answer_fails_to_load(model, text, tmp_path):
    """An object that answers no new rows fails to load, and the error says what it is."""
    joblib.dump(model, tmp_path / "m.joblib")
    with pytest.raises(LoadFailed, match=text):
        SklearnRuntime(Source(path=tmp_path / "m.joblib")).load()


def test_hostile_files_are_refused(tmp_path):
    """The load policy reaches the pickle and the skops file."""
    joblib.dump(FunctionTransformer(pd.DataFrame).fit(X), tmp_path / "m.joblib")
    skops.io.dump(FunctionTransformer(pd.DataFrame).fit(X), tmp_path / "m.skops")
    for name in ("m.joblib", "m.skops"):
        with pytest.raises(UnsafeArtifact, match="pandas"):
            SklearnRuntime(Source(path=tmp_path / name, allowed_globals=tuple(ALLOWED))).load()
        SklearnRuntime(Source(path=tmp_path / name)).load()


# -- parameters --


def test_default_outputs_can_be_chosen():
    """`default_outputs` says what is answered when the caller names none."""
    runtime, signature = serve(LogisticRegression(max_iter=500).fit(X, Y), default_outputs=["predict_proba"])
    assert signature.default_outputs == ("predict_proba",)
    assert list(runtime.predict({"x": X})) == ["predict_proba"]


@pytest.mark.parametrize(
    ("parameters", "near"),
    [({"default_output": ["predict"]}, "default_outputs"), ({"default_outputs": ["predict_prob"]}, "predict_proba")],
    ids=["key", "output"],
)
def test_unknown_parameters_name_the_nearest(parameters, near):
    """A parameter or output nobody knows is a settings error with the nearest known one."""
    with pytest.raises(SettingsError, match=near):
        serve(LogisticRegression(max_iter=500).fit(X, Y), **parameters)


def test_a_model_that_refuses_made_up_rows_takes_a_sample():
    """A model that refuses what load makes up says so, and loads with a row given by `sample`."""

    def between_two_and_three(rows):
        if not ((rows > 2) & (rows < 3)).all():
            raise ValueError("not between 2 and 3")
        return rows

    model = FunctionTransformer(between_two_and_three).fit(np.full((2, 4), 2.5))
    with pytest.raises(LoadFailed, match="sample"):
        serve(model)
    _, signature = serve(model, sample=[2.5] * 4)
    assert signature.outputs[0].shape == (-1, 4)
    with pytest.raises(SettingsError, match="list of 4 values"):
        serve(model, sample=[2.5])


def test_a_model_of_positive_numbers_loads():
    """A model that refuses zeros is asked with other numbers."""
    _, signature = serve(PowerTransformer(method="box-cox").fit(X))
    assert signature.outputs[0].shape == (-1, 4)


# -- threads --


def test_jobs_are_one_everywhere_and_the_persons_object_keeps_its_own():
    """Every n_jobs inside is 1 in what is served; the object in the notebook is not changed."""
    forest = RandomForestClassifier(3, n_jobs=-1)
    voting = VotingClassifier([("a", make_pipeline(StandardScaler(), forest)), ("b", forest)], voting="soft")
    model = CalibratedClassifierCV(voting, cv=2).fit(X, Y)
    model.n_jobs = model.calibrated_classifiers_[0].estimator.n_jobs = 2  # not while fitting: it would start processes
    runtime, _ = serve(model)
    served = runtime.model.calibrated_classifiers_[0].estimator
    assert runtime.model.n_jobs == served.n_jobs == 1
    assert {served.estimators_[0].steps[1][1].n_jobs, served.estimators_[1].n_jobs} == {1}
    assert model.n_jobs == 2
    assert model.calibrated_classifiers_[0].estimator.estimators_[1].n_jobs == -1


# -- versions --


class Aged:
    """Pickles an estimator as an older scikit-learn would have signed it."""

    def __init__(self, estimator, version, **changes):
        self.estimator, self.version, self.changes = estimator, version, changes

    def __reduce__(self):
        state = {**self.estimator.__getstate__(), "_sklearn_version": self.version, **self.changes}
        return copyreg._reconstructor, (type(self.estimator), object, None), state


def _old_forest(version="1.3.2"):
    forest = RandomForestClassifier(3, random_state=0).fit(X, Y)
    trees = [Aged(tree, version) for tree in forest.estimators_]
    return Aged(forest, version, estimators_=trees)


def _load(path, **parameters):
    return SklearnRuntime(Source(path=path, parameters=parameters)).load()


def test_an_old_forest_is_refused_with_the_version_to_install(tmp_path):
    """A forest written before 1.4 is refused: the error names the version to install and the consent."""
    (tmp_path / "m.pkl").write_bytes(pickle.dumps(_old_forest()))
    with pytest.raises(VersionMismatch) as caught:
        _load(tmp_path / "m.pkl")
    assert "scikit-learn==1.3.2" in str(caught.value)
    assert "accept_version_mismatch: true" in str(caught.value)


def test_consent_serves_and_stays_visible(tmp_path):
    """With consent the forest is served, and the signature says so."""
    (tmp_path / "m.pkl").write_bytes(pickle.dumps(_old_forest()))
    (note,) = _load(tmp_path / "m.pkl", accept_version_mismatch=True).warnings
    assert note.startswith("served by consent")


def test_golden_rows_that_match_overrule_the_table(tmp_path):
    """With golden rows answered as they were, an old forest is served without a warning."""
    forest = RandomForestClassifier(3, random_state=0).fit(X, Y)
    (tmp_path / "m.pkl").write_bytes(pickle.dumps(_old_forest()))
    write_golden(tmp_path / "m.golden.npz", {"input-0": X}, {"predict_proba": forest.predict_proba(X)})
    signature = _load(tmp_path / "m.pkl")
    assert signature.warnings == ()
    assert "150 rows" in signature.properties["golden"]


@pytest.mark.parametrize("version", ["1.3.2", sklearn.__version__])
def test_golden_rows_that_differ_refuse_any_version(version, tmp_path):
    """One answer that differs from its golden row refuses the file, whoever wrote it."""
    forest = RandomForestClassifier(3, random_state=0).fit(X, NAMES[Y])
    joblib.dump(forest, tmp_path / "m.joblib")
    wrong = forest.predict(X)
    wrong[7] = "virginica"
    write_golden(tmp_path / "golden.npz", {"input-0": X}, {"predict": wrong})
    with pytest.raises(VersionMismatch, match="'predict' differs in 1 of 150 rows"):
        _load(tmp_path / "m.joblib")


def test_another_mismatch_is_served_with_a_warning(tmp_path):
    """A combination of which nothing wrong is known is served, and the signature warns."""
    (tmp_path / "m.pkl").write_bytes(pickle.dumps(Aged(LinearRegression().fit(X, Y), "1.3.2")))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (note,) = _load(tmp_path / "m.pkl").warnings
    assert "written by scikit-learn 1.3.2" in note


def test_a_skops_file_of_another_version_is_judged_too(tmp_path):
    """The version inside a skops file counts as that inside a pickle does."""
    tree = DecisionTreeClassifier().fit(X, Y)
    tree._sklearn_version = "1.3.2"
    state = tree.__getstate__()
    type(tree).__getstate__, kept = (lambda self: {**state, "_sklearn_version": "1.3.2"}), tree.__class__.__getstate__
    try:
        skops.io.dump(tree, tmp_path / "m.skops")
    finally:
        del type(tree).__getstate__
    assert kept is DecisionTreeClassifier.__getstate__
    with pytest.raises(VersionMismatch, match=r"scikit-learn==1\.3\.2"):
        _load(tmp_path / "m.skops")


def test_an_old_file_that_cannot_be_read_names_its_version(tmp_path):
    """When the installed version cannot rebuild an old file, the error says which version can."""

    class Lost:
        def __reduce__(self):
            return copyreg._reconstructor, (LinearRegression, object, None), {"_sklearn_version": "1.2.2"}

    joblib.dump([Lost()], tmp_path / "lost")
    content = pickle.dumps(Lost(), 2)[:-1] + b"csklearn.ensemble._gb_losses\nLoss\n\x86."
    (tmp_path / "m.pkl").write_bytes(content)
    with pytest.raises(VersionMismatch, match=r"install scikit-learn==1\.2\.2"):
        _load(tmp_path / "m.pkl")


@pytest.mark.parametrize(
    ("estimator", "options", "written", "wrong"),
    [
        ("DecisionTreeClassifier", {}, "1.3.2", True),
        ("ExtraTreeClassifier", {}, "1.2.2", True),
        ("DecisionTreeClassifier", {}, "1.4.0", False),
        ("DecisionTreeRegressor", {}, "1.3.2", False),
        ("AdaBoostClassifier", {"algorithm": "SAMME.R"}, "1.5.2", True),
        ("AdaBoostClassifier", {"algorithm": "SAMME"}, "1.5.2", False),
        ("LogisticRegression", {"multi_class": "ovr", "classes": 3}, "1.3.2", True),
        ("LogisticRegression", {"multi_class": "ovr", "classes": 2}, "1.3.2", False),
        ("LogisticRegression", {"multi_class": "auto", "solver": "lbfgs", "classes": 3}, "1.3.2", False),
        ("LogisticRegression", {"multi_class": "auto", "solver": "liblinear", "classes": 3}, "1.3.2", True),
        ("LogisticRegression", {"multi_class": "multinomial", "classes": 2}, "1.3.2", True),
        ("LogisticRegression", {"multi_class": "multinomial", "classes": 3}, "1.3.2", False),
        ("LogisticRegression", {}, "1.10.0", False),
    ],
)
def test_the_table_of_versions(estimator, options, written, wrong):
    """Only combinations known to answer wrongly in silence are refused; every other one warns."""
    verdict = versions.judge([versions.Written(name=estimator, version=written, options=options)], "1.9.1")
    assert bool(verdict.wrong) is wrong
    assert bool(verdict.warning) is not wrong


def test_the_installed_version_is_no_mismatch():
    """A file written by the installed version is served without a word."""
    assert (
        versions.judge([versions.Written(name="DecisionTreeClassifier", version="1.9.1")], "1.9.1")
        == versions.Verdict()
    )


def test_ada_boost_keeps_its_algorithm_for_the_judge(tmp_path):
    """The option that decides is read from the file's own state."""
    boost = AdaBoostClassifier(DecisionTreeClassifier(max_depth=1), n_estimators=2).fit(
        *load_breast_cancer(return_X_y=True)
    )
    (tmp_path / "m.pkl").write_bytes(pickle.dumps(Aged(boost, "1.5.2", algorithm="SAMME.R")))
    with pytest.raises(VersionMismatch, match=r"SAMME\.R"):
        _load(tmp_path / "m.pkl")


# -- recognition --


@pytest.mark.parametrize(
    ("model", "confidence"),
    [(LinearRegression(), 1.0), (make_pipeline(StandardScaler()), 1.0), (type("Mine", (LinearRegression,), {})(), 0.5)],
    ids=["estimator", "pipeline", "derived"],
)
def test_objects_are_recognised_by_their_class(model, confidence):
    """An estimator is claimed surely, one derived from it less so that its own package's runtime may win."""
    assert SklearnRuntime.recognise_object(model).confidence == confidence


def test_regression_of_several_targets_keeps_its_shape():
    """A regressor of three targets answers [rows, 3]."""
    rows, targets = load_linnerud(return_X_y=True)
    runtime, signature = serve(LinearRegression().fit(rows, targets))
    assert signature.outputs[0].shape == (-1, 3)
    assert runtime.predict({"x": rows})["predict"].shape == (20, 3)


def test_preparing_imports_the_library_and_leaves_pandas_for_later():
    """A process that prepares for scikit-learn has it without pandas, can load pandas, and serves a model that needs it."""
    program = """
import sys
from headrace.runtimes.sklearn import SklearnRuntime
SklearnRuntime.prepare()
assert "sklearn" in sys.modules and "pandas" not in sys.modules
import pandas
from sklearn.linear_model import LinearRegression
model = LinearRegression().fit(pandas.DataFrame({"a": [1.0, 2.0, 3.0]}), [1.0, 2.0, 3.0])
assert list(model.feature_names_in_) == ["a"]
SklearnRuntime.prepare()
print("fine")
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert ran.stdout == "fine\n", ran.stderr


def test_a_model_predicts_while_another_thread_imports_pandas():
    """While pandas is half imported, scikit-learn finds no DataFrame in an array, instead of failing; afterwards it
    knows DataFrames.
    """
    program = """
import sys
from headrace.runtimes.sklearn import SklearnRuntime

SklearnRuntime.prepare()
import numpy as np
from sklearn.linear_model import LinearRegression

model = LinearRegression().fit(np.eye(2), [0.0, 1.0])
seen = []


class Midway:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.startswith("pandas."):
            seen.append(float(model.predict(np.eye(2))[1]))  # as another thread would, just then


sys.meta_path.insert(0, Midway)
import pandas as pd

assert seen and all(abs(each - 1.0) < 1e-9 for each in seen), seen[:3]
import importlib

importlib.invalidate_caches()  # asks every finder
assert list(LinearRegression().fit(pd.DataFrame({"a": [0.0, 1.0]}), [0.0, 1.0]).feature_names_in_) == ["a"]
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=50)
    assert result.returncode == 0, result.stderr
