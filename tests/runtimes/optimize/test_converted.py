"""What goes through the converter in a child process, what is refused before it, and what the child may not do."""

import copy
import warnings

import numpy as np
import pytest
from catboost import CatBoostClassifier, CatBoostRegressor
from sklearn import (
    calibration,
    cluster,
    compose,
    ensemble,
    gaussian_process,
    linear_model,
    mixture,
    naive_bayes,
    neural_network,
    pipeline,
    preprocessing,
    svm,
    tree,
)

from headrace.runtimes import optimize
from headrace.runtimes.base import Source
from headrace.runtimes.catboost import CatboostRuntime
from headrace.runtimes.optimize import Acceptance, conversion, convert, survey
from headrace.runtimes.optimize.convert import Output, Task
from headrace.runtimes.optimize.engine import Refused
from headrace.runtimes.optimize.rows import Terrain
from headrace.runtimes.sklearn import SklearnRuntime

QUICK = Acceptance(rows=0.1, timing_seconds=0.003, speedup=1e-6)


def _optimized(runtime, tmp_path, mode="require"):
    return optimize.optimize(runtime, runtime.load(), mode=mode, digest="", cache=tmp_path, accept=QUICK)


def _same(served, rows):
    outputs = tuple(spec.name for spec in served.load().outputs)
    for part in (rows[:1], rows[:50]):
        have, want = (runtime.predict({"input-0": part}, outputs) for runtime in (served, served.native))
        for name in outputs:
            assert (have[name].dtype, have[name].shape) == (want[name].dtype, want[name].shape)
            if want[name].dtype.kind == "f":
                np.testing.assert_allclose(have[name], want[name], rtol=1e-5, atol=1e-5)
            else:
                assert (have[name] == want[name]).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "target", "engine"),
    [
        (naive_bayes.GaussianNB(), "names", "onnx float64"),
        (pipeline.make_pipeline(preprocessing.StandardScaler(), svm.SVC(kernel="poly")), "three", "onnx float32"),
    ],
    ids=["double, text labels", "single, behind a scaler"],
)
def test_a_converted_model_answers_as_the_native_one(model, target, engine, data, tmp_path):
    """Through a child process, with the native names, datatypes, shapes and labels."""
    model.fit(data.rows, getattr(data, target))
    served, signature = _optimized(SklearnRuntime(Source(model=model)), tmp_path)
    assert served.seats[0].engine.name == engine
    assert "0 labels different" in signature.properties[f"engine.parity.{engine}"]
    _same(served, data.rows)


def _both():
    return [("line", linear_model.LogisticRegression()), ("bayes", naive_bayes.GaussianNB())]


def _values():
    return [("line", linear_model.Ridge()), ("tree", tree.DecisionTreeRegressor(max_depth=3))]


CONVERTED = {
    "k means": (cluster.KMeans(3, n_init=1, random_state=0), None, "onnx float64"),
    "vote": (ensemble.VotingClassifier(_both(), voting="soft"), "three", "onnx float64"),
    "vote of values": (ensemble.VotingRegressor(_values()), "target", "onnx float32"),
    "stack": (ensemble.StackingClassifier(_both(), cv=2), "three", "onnx float64"),
    "stack of values": (ensemble.StackingRegressor(_values(), cv=2), "target", "onnx float32"),
    "bag": (ensemble.BaggingClassifier(n_estimators=3, random_state=0), "three", "onnx float32"),
    "bag of values": (ensemble.BaggingRegressor(n_estimators=3, random_state=0), "target", "onnx float32"),
    "mixture": (mixture.GaussianMixture(3, random_state=0), None, "onnx float64"),
    "calibrated": (calibration.CalibratedClassifierCV(svm.LinearSVC(), cv=2), "three", "onnx float64"),
    "network": (neural_network.MLPClassifier((8,), max_iter=20, random_state=0), "names", "onnx float64"),
    "network of values": (
        neural_network.MLPRegressor(hidden_layer_sizes=(8,), max_iter=20, random_state=0),
        "target",
        "onnx float64",
    ),
    "support vectors": (svm.SVC(kernel="poly"), "two", "onnx float32"),
    "columns": (
        pipeline.make_pipeline(
            compose.make_column_transformer(
                (preprocessing.StandardScaler(), [0, 1]), (preprocessing.MinMaxScaler(), [2]), remainder="passthrough"
            ),
            svm.SVR(),
        ),
        "target",
        "onnx float32",
    ),
}


@pytest.mark.parametrize("name", CONVERTED)
def test_what_converts_rightly_is_served_converted(name, data, tmp_path, monkeypatch):
    """Each of these passes the gate in the graph of its converter, here without the child process around it."""
    pytest.importorskip("skl2onnx")
    monkeypatch.setattr(conversion, "convert", lambda model, task: convert.convert(copy.deepcopy(model), task))
    model, target, engine = CONVERTED[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(data.rows, None if target is None else getattr(data, target))
        served, signature = _optimized(SklearnRuntime(Source(model=model)), tmp_path)
    assert served.seats[0].engine.name == engine
    assert "0 labels different" in signature.properties[f"engine.parity.{engine}"]
    _same(served, data.rows)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (calibration.CalibratedClassifierCV(svm.LinearSVC(), method="isotonic"), "isotonic"),
        (gaussian_process.GaussianProcessRegressor(), "slower"),
        (pipeline.make_pipeline(preprocessing.KBinsDiscretizer(3), svm.SVC()), "wrong bin"),
        (ensemble.VotingClassifier([("a", ensemble.HistGradientBoostingClassifier(max_iter=2))]), "rounds its splits"),
        (pipeline.make_pipeline(preprocessing.FunctionTransformer(np.abs), svm.SVC()), "a function of the user's own"),
    ],
    ids=["isotonic", "gaussian process", "bins", "nested histogram", "function"],
)
def test_known_wrong_conversions_are_refused_without_trying(model, reason, data):
    """What the converter gets wrong is named, however deep it sits."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(data.rows[:60], data.two[:60])
    with pytest.raises(Refused, match=reason):
        survey.refuse_known(model)


class Custom(naive_bayes.GaussianNB):
    """A class of the user's own."""


def test_a_class_of_the_users_own_is_not_converted(data):
    """Code that the converter does not know may do anything."""
    with pytest.raises(Refused, match="Custom is no class of scikit-learn"):
        survey.refuse_known(Custom().fit(data.rows, data.two))


def test_trees_inside_are_converted_in_float32(data):
    """A double graph does not round rows as trees do, so it is not even tried."""
    assert survey.widths(ensemble.AdaBoostClassifier(n_estimators=3).fit(data.rows, data.two)) == (False,)
    assert survey.widths(neural_network.MLPRegressor(max_iter=1)) == (True, False)


def test_columns_finer_than_float32_are_refused():
    """Times of a day in seconds since 1970 are a few hundred steps of float32."""
    fine = Terrain(low=np.array([0.0, 1.76e9]), high=np.array([1.0, 1.76e9 + 86400]))
    assert "column 1" in survey.too_fine(fine)
    assert survey.too_fine(Terrain(low=np.zeros(2), high=np.ones(2))) == ""


TASK = Task(width=6, double=True, outputs=(Output(name="predict", dtype="float64", flat=True),))


def test_a_model_that_cannot_be_pickled_is_refused():
    """The child gets the model as a pickle; what has none has no conversion."""
    with pytest.raises(Refused, match="does not reach a child process"):
        conversion.convert(lambda: None, TASK)


@pytest.mark.slow
def test_a_failing_child_is_a_refusal_with_its_last_words():
    """An error inside the child comes back as the reason."""
    with pytest.raises(Refused, match="skl2onnx: "):
        conversion.convert({"not": "an estimator"}, TASK)


@pytest.mark.slow
def test_a_child_that_takes_too_long_is_ended(monkeypatch):
    """A conversion without end becomes a refusal, and its process is gone."""
    monkeypatch.setattr(conversion, "SECONDS", 0.05)
    monkeypatch.setattr(conversion, "START_SECONDS", 0.05)
    with pytest.raises(Refused, match="did not end within"):
        conversion.convert(naive_bayes.GaussianNB(), TASK)


CAT = {"iterations": 10, "depth": 4, "verbose": 0, "thread_count": 1, "allow_writing_files": False}


@pytest.mark.parametrize(
    ("model", "rows", "target"),
    [
        (CatBoostClassifier(**CAT), "holes", "names"),
        (CatBoostClassifier(**CAT), "rows", "two"),
        (CatBoostRegressor(nan_mode="Max", **CAT), "holes", "target"),
        (CatBoostRegressor(loss_function="Poisson", **CAT), "rows", "counts"),
    ],
    ids=["text labels, missing", "two classes", "missing as largest", "poisson"],
)
def test_catboost_answers_single_rows_from_our_graph(model, rows, target, data, tmp_path):
    """Symmetric trees of CatBoost become an ensemble, exact in float64."""
    model.fit(getattr(data, rows), getattr(data, target))
    served, _ = _optimized(CatboostRuntime(Source(model=model)), tmp_path)
    assert served.seats[0].engine.name == "onnx trees float64"
    _same(served, data.holes)


def test_catboost_trees_that_are_not_symmetric_stay_native(data, tmp_path):
    """Lossguide trees have another form; metadata says so."""
    model = CatBoostRegressor(grow_policy="Lossguide", **CAT).fit(data.rows, data.target)
    served, told = _optimized(CatboostRuntime(Source(model=model)), tmp_path, mode="auto")
    assert isinstance(served, CatboostRuntime)
    assert "not symmetric" in told.properties["engine.refused"]
