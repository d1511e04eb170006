"""Real models through real runtimes: each gets the engine it should, and the answers stay the native ones.

The matrix: linear models, transformers, pipelines, forests, gradient boosting, histogram gradient boosting (missing,
categories), LightGBM, XGBoost, CatBoost; labels as numbers and as text; arrays and DataFrames.
"""

import threading
import warnings

import numpy as np
import pandas as pd
import pytest
from lightgbm import LGBMClassifier, LGBMRanker, LGBMRegressor
from sklearn import (
    decomposition,
    discriminant_analysis,
    ensemble,
    feature_selection,
    impute,
    linear_model,
    neural_network,
    pipeline,
    preprocessing,
    svm,
    tree,
)
from xgboost import XGBClassifier, XGBRegressor, XGBRFRegressor

from headrace.errors import InvalidRequest, LoadFailed
from headrace.payload import EMPTY, Signature, TensorSpec
from headrace.runtimes import optimize
from headrace.runtimes.base import Runtime, Source
from headrace.runtimes.lightgbm import LightgbmRuntime
from headrace.runtimes.optimize import Acceptance, Engines
from headrace.runtimes.sklearn import SklearnRuntime
from headrace.runtimes.xgboost import XgboostRuntime

QUICK = Acceptance(rows=0.1, timing_seconds=0.003, speedup=1e-6)


def _pipe(*steps):
    return pipeline.make_pipeline(*steps)


SMALL = {"n_estimators": 8, "random_state": 0}
HIST = {"max_iter": 8, "early_stopping": False}
LGB = {"n_estimators": 8, "verbose": -1, "n_jobs": 1, "min_child_samples": 5}
XGB = {"n_estimators": 8, "n_jobs": 1}

NUMPY = {
    "logistic, text labels": (linear_model.LogisticRegression(), "rows", "names"),
    "logistic, two classes": (linear_model.LogisticRegression(), "rows", "two"),
    "linear": (linear_model.LinearRegression(), "rows", "target"),
    "ridge": (linear_model.Ridge(), "rows", "target"),
    "lasso": (linear_model.Lasso(0.1), "rows", "target"),
    "elastic net": (linear_model.ElasticNet(0.1), "rows", "target"),
    "sgd, log loss": (linear_model.SGDClassifier(loss="log_loss", random_state=0), "rows", "three"),
    "sgd regressor": (linear_model.SGDRegressor(random_state=0), "rows", "target"),
    "linear svc": (svm.LinearSVC(), "rows", "three"),
    "ridge classifier": (linear_model.RidgeClassifier(), "rows", "two"),
    "discriminant": (discriminant_analysis.LinearDiscriminantAnalysis(), "rows", "three"),
    "standard scaler": (preprocessing.StandardScaler(), "holes", None),
    "min max scaler": (preprocessing.MinMaxScaler(clip=True), "holes", None),
    "robust scaler": (preprocessing.RobustScaler(), "rows", None),
    "max abs scaler": (preprocessing.MaxAbsScaler(), "rows", None),
    "imputer": (impute.SimpleImputer(), "holes", None),
    "pca, whitened": (decomposition.PCA(3, whiten=True), "rows", None),
    "truncated svd": (decomposition.TruncatedSVD(3), "rows", None),
    "k best": (feature_selection.SelectKBest(k=3), "rows", "two"),
    "scaler, pca, logistic": (
        _pipe(preprocessing.StandardScaler(), decomposition.PCA(4), linear_model.LogisticRegression()),
        "rows",
        "three",
    ),
    "imputer, scaler, ridge": (
        _pipe(impute.SimpleImputer(), preprocessing.RobustScaler(), linear_model.Ridge()),
        "holes",
        "target",
    ),
    "gblinear": (XGBClassifier(booster="gblinear", **XGB), "rows", "two"),
}
TREES = {
    "decision tree": (tree.DecisionTreeClassifier(max_depth=6, random_state=0), "rows", "names"),
    "decision tree regressor": (tree.DecisionTreeRegressor(max_depth=6, random_state=0), "rows", "target"),
    "one leaf": (tree.DecisionTreeRegressor(max_leaf_nodes=2, min_samples_split=700), "rows", "target"),
    "forest": (ensemble.RandomForestClassifier(max_depth=6, **SMALL), "rows", "names"),
    "forest, missing": (ensemble.RandomForestClassifier(max_depth=6, **SMALL), "holes", "two"),
    "forest regressor": (ensemble.RandomForestRegressor(max_depth=6, **SMALL), "rows", "target"),
    "extra trees": (ensemble.ExtraTreesClassifier(max_depth=6, **SMALL), "rows", "three"),
    "scaler, forest": (
        _pipe(preprocessing.StandardScaler(), ensemble.RandomForestClassifier(max_depth=6, **SMALL)),
        "rows",
        "three",
    ),
    "boosting": (ensemble.GradientBoostingClassifier(**SMALL), "rows", "three"),
    "boosting, exponential": (ensemble.GradientBoostingClassifier(loss="exponential", **SMALL), "rows", "two"),
    "boosting regressor": (ensemble.GradientBoostingRegressor(**SMALL), "rows", "target"),
    "histogram": (ensemble.HistGradientBoostingClassifier(**HIST), "holes", "three"),
    "histogram, text labels": (ensemble.HistGradientBoostingClassifier(**HIST), "rows", "names"),
    "histogram, categories": (
        ensemble.HistGradientBoostingClassifier(categorical_features=[0], **HIST),
        "codes",
        "two",
    ),
    "histogram regressor, poisson": (
        ensemble.HistGradientBoostingRegressor(loss="poisson", **HIST),
        "holes",
        "counts",
    ),
    "xgboost": (XGBClassifier(**XGB), "holes", "three"),
    "xgboost, two classes": (XGBClassifier(**XGB), "rows", "two"),
    "xgboost regressor, dart": (XGBRegressor(booster="dart", rate_drop=0.3, **XGB), "rows", "target"),
    "xgboost forest": (XGBRFRegressor(**XGB), "rows", "target"),
    "xgboost, poisson": (XGBRegressor(objective="count:poisson", **XGB), "rows", "counts"),
}
ROWS_AND_TREES = {
    "lightgbm, text labels": (LGBMClassifier(**LGB), "holes", "names"),
    "lightgbm, two classes": (LGBMClassifier(**LGB), "rows", "two"),
    "lightgbm regressor": (LGBMRegressor(**LGB), "rows", "target"),
    "lightgbm, random forest": (
        LGBMClassifier(boosting_type="rf", bagging_freq=1, bagging_fraction=0.6, **LGB),
        "rows",
        "three",
    ),
    "lightgbm, poisson": (LGBMRegressor(objective="poisson", **LGB), "rows", "counts"),
}


def _loaded(model):
    library = type(model).__module__.partition(".")[0]
    kinds = {"sklearn": SklearnRuntime, "xgboost": XgboostRuntime, "lightgbm": LightgbmRuntime}
    runtime = kinds[library](Source(model=model))
    return runtime, runtime.load()


def _fitted(case, data):
    model, rows, target = case
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return (
            model.fit(getattr(data, rows)) if target is None else model.fit(getattr(data, rows), getattr(data, target))
        )


def _optimized(model, tmp_path, **options):
    runtime, signature = _loaded(model)
    return optimize.optimize(
        runtime, signature, **{"mode": "require", "digest": "", "cache": tmp_path, "accept": QUICK, **options}
    )


def _same(served, native, rows, name="input-0"):
    outputs = tuple(spec.name for spec in served.load().outputs)
    for part in (rows[:1], rows[:7], rows):
        have, want = served.predict({name: part}, outputs), native.predict({name: part}, outputs)
        assert have.keys() == want.keys()
        for output in outputs:
            assert have[output].dtype == want[output].dtype
            assert have[output].shape == want[output].shape
            if want[output].dtype.kind == "f":
                np.testing.assert_allclose(have[output], want[output], rtol=1e-5, atol=1e-5)
            else:
                assert (have[output] == want[output]).all()


@pytest.mark.parametrize("name", NUMPY)
def test_linear_models_and_transforms_answer_in_numpy(name, data, tmp_path):
    """One row of a linear model or a simple transform is numpy's, and every output is the native one."""
    served, signature = _optimized(_fitted(NUMPY[name], data), tmp_path)
    assert served.seats[0].engine.name == "numpy"
    assert "0 labels different" in signature.properties["engine.parity.numpy"]
    _same(served, served.native, data.rows)


@pytest.mark.parametrize("name", TREES)
def test_trees_answer_in_a_float64_graph(name, data, tmp_path):
    """One row of a tree model is the graph's, and every output is the native one."""
    model = _fitted(TREES[name], data)
    served, signature = _optimized(model, tmp_path)
    assert served.seats[0].engine.name == "onnx trees float64"
    assert "0 labels different" in signature.properties["engine.parity.onnx trees float64"]
    _same(served, served.native, data.codes if "categories" in name else data.rows)


@pytest.mark.parametrize("name", ROWS_AND_TREES)
def test_lightgbm_answers_one_row_by_its_own_c_call(name, data, tmp_path):
    """One row of a LightGBM model is its single-row call's, bit for bit; more rows keep the native values."""
    served, _ = _optimized(_fitted(ROWS_AND_TREES[name], data), tmp_path)
    assert served.seats[0].engine.name == "LightGBM single-row call"
    assert served.seats[0].most == 1
    _same(served, served.native, data.holes)


def test_a_ranker_gets_the_single_row_call(data, tmp_path):
    """LightGBM's ranker answers one row by the C call, bit for bit."""
    model = LGBMRanker(**LGB).fit(data.rows, data.three, group=[300, 300])
    served, _ = _optimized(model, tmp_path)
    want = served.native.predict({"input-0": data.rows[:1]})["predict"]
    assert served.predict({"input-0": data.rows[:1]})["predict"].tobytes() == want.tobytes()


@pytest.mark.parametrize("labels", [True, False], ids=["labels", "scores"])
@pytest.mark.parametrize("target", ["two", "three"])
def test_boosters_without_their_shell_get_engines_too(labels, target, data, tmp_path):
    """A bare Booster answers from its graph, whether its runtime makes labels of the scores or not."""
    booster = XGBClassifier(**XGB).fit(data.rows, getattr(data, target)).get_booster()
    runtime = XgboostRuntime(Source(model=booster, parameters={"labels": labels}))
    served, _ = optimize.optimize(runtime, runtime.load(), mode="require", digest="", cache=tmp_path, accept=QUICK)
    assert served.seats[0].engine.name == "onnx trees float64"
    _same(served, served.native, data.rows)


def test_columns_come_one_tensor_each(data, tmp_path):
    """A model fitted on a DataFrame answers columns as the native one does, by its engine."""
    frame = pd.DataFrame(data.rows, columns=list("abcdef"))
    served, _ = _optimized(
        _fitted((linear_model.LogisticRegression(), "rows", "three"), data).fit(frame, data.three), tmp_path
    )
    columns = {name: data.rows[:5, at] for at, name in enumerate("abcdef")}
    whole = {name: np.rint(column).astype(np.int64) for name, column in columns.items()}
    mixed = {name: (whole if name in "ace" else columns)[name] for name in columns}
    for inputs in (columns, whole, mixed, {name: column[:, None] for name, column in columns.items()}):
        assert served._stacked(inputs).shape == (5, 6)
        have, want = served.predict(inputs), served.native.predict(inputs)
        assert (have["predict"] == want["predict"]).all()
    for wrong in ({**columns, "a": columns["a"][:3]}, {"a": columns["a"]}, {**columns, "g": columns["a"]}):
        with pytest.raises((InvalidRequest, ValueError)) as native:
            served.native.predict(wrong)
        with pytest.raises(native.type):
            served.predict(wrong)


# -- what stays native --


@pytest.fixture
def logistic(data, tmp_path):
    return _optimized(linear_model.LogisticRegression().fit(data.rows, data.names), tmp_path)[0]


@pytest.mark.parametrize(
    "rows",
    [np.zeros((2, 5)), np.zeros(6), np.array([[np.nan] * 6]), np.array([[np.inf, *[0.0] * 5]])],
    ids=["width", "rank", "missing", "infinite"],
)
def test_what_the_model_refuses_is_refused_in_its_own_words(logistic, rows):
    """Wrong width, wrong rank, NaN and infinities raise what the native runtime raises."""
    with pytest.raises(InvalidRequest) as native:
        logistic.native.predict({"input-0": rows})
    with pytest.raises(InvalidRequest) as served:
        logistic.predict({"input-0": rows})
    assert str(served.value) == str(native.value)


def test_an_unknown_output_is_refused_as_natively(logistic, data):
    """A name the model does not have raises what the native runtime raises."""
    with pytest.raises(InvalidRequest, match="nonsense"):
        logistic.predict({"input-0": data.rows[:1]}, ("nonsense",))


def test_unproven_datatypes_go_to_the_native_model(logistic, data):
    """Booleans were not proven, so the native model answers them."""
    rows = data.rows > 0
    assert (
        logistic.predict({"input-0": rows})["predict"] == logistic.native.predict({"input-0": rows})["predict"]
    ).all()


def test_rows_are_never_written_to(data, tmp_path):
    """Read-only rows pass through every step of a pipeline."""
    model = _pipe(impute.SimpleImputer(), preprocessing.RobustScaler(), linear_model.Ridge()).fit(
        data.holes, data.target
    )
    served, _ = _optimized(model, tmp_path)
    rows = data.holes.copy()
    rows.flags.writeable = False
    assert np.isfinite(served.predict({"input-0": rows})["predict"]).all()
    assert np.array_equal(rows, data.holes, equal_nan=True)


def test_engines_answer_several_threads_at_once(data, tmp_path):
    """Eight threads get the answers that one gets, from an engine with per-thread buffers."""
    served, _ = _optimized(LGBMRegressor(**LGB).fit(data.rows, data.target), tmp_path)
    assert served.concurrent
    want = served.native.predict({"input-0": data.rows})["predict"]
    wrong = []

    def ask(first):
        own = range(first, len(data.rows), 8)
        wrong.extend(at for at in own if served.predict({"input-0": data.rows[at : at + 1]})["predict"][0] != want[at])

    threads = [threading.Thread(target=ask, args=(first,)) for first in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    served.unload()


# -- modes, verdicts, refusals --


def test_off_leaves_the_model_as_it_is(data, tmp_path):
    """Mode off returns the same runtime, and says so."""
    runtime, signature = _loaded(linear_model.Ridge().fit(data.rows, data.target))
    served, told = optimize.optimize(runtime, signature, mode="off", digest="", cache=tmp_path)
    assert served is runtime
    assert told.properties["engine"] == "sklearn (optimize: off)"


def test_a_model_without_an_engine_is_served_natively_with_the_reason(data, tmp_path):
    """A multi-output tree keeps its runtime; metadata says why."""
    model = tree.DecisionTreeRegressor(max_depth=3).fit(data.rows, data.rows[:, :2])
    served, told = _optimized(model, tmp_path, mode="auto")
    assert isinstance(served, SklearnRuntime)
    assert "targets at once" in told.properties["engine.refused"]


def test_require_fails_with_the_reason(data, tmp_path):
    """Mode require does not serve a model without a proven engine."""
    with pytest.raises(LoadFailed, match="targets at once"):
        _optimized(tree.DecisionTreeRegressor(max_depth=3).fit(data.rows, data.rows[:, :2]), tmp_path)


def test_a_stored_verdict_is_used_again(data, tmp_path):
    """The second load of the same bytes takes the engine from disk, and answers the same."""
    model = ensemble.RandomForestClassifier(max_depth=5, **SMALL).fit(data.rows, data.names)
    first, told = _optimized(model, tmp_path, digest="d1")
    again, told_again = _optimized(model, tmp_path, digest="d1")
    assert "checked now" in told.properties["engine.check"]
    assert "checked earlier" in told_again.properties["engine.check"]
    assert [seat.most for seat in first.seats] == [seat.most for seat in again.seats]
    _same(again, again.native, data.rows)


def test_a_stored_refusal_is_used_again(data, tmp_path):
    """A refused model is not examined twice."""
    model = tree.DecisionTreeRegressor(max_depth=3).fit(data.rows, data.rows[:, :2])
    _optimized(model, tmp_path, mode="auto", digest="d2")
    _, told = _optimized(model, tmp_path, mode="auto", digest="d2")
    assert "checked earlier" in told.properties["engine.check"]
    assert "targets at once" in told.properties["engine.refused"]


def test_a_cache_that_cannot_be_written_does_not_break_the_load(data, tmp_path):
    """A file where the folder should be: the engine serves, and metadata says it was not stored."""
    blocked = tmp_path / "file"
    blocked.write_text("")
    served, told = _optimized(linear_model.Ridge().fit(data.rows, data.target), blocked / "cache", digest="d3")
    assert isinstance(served, Engines)
    assert "not stored" in told.properties["engine.check"]


def test_a_check_that_ran_out_of_time_is_made_again(data, tmp_path):
    """A busy moment does not condemn a model for ever."""
    model = linear_model.Ridge().fit(data.rows, data.target)
    hurried = Acceptance(rows=0.1, check_seconds=0.0)
    for _ in range(2):
        _, told = _optimized(model, tmp_path, mode="auto", digest="d4", accept=hurried)
        assert "in time" in told.properties["engine.refused"]
        assert "checked now" in told.properties["engine.check"]


class Odd(Runtime):
    """A loaded runtime around a linear model, whose own answers the tests make hang, fail or differ."""

    def __init__(self, model, answer):
        super().__init__(Source(model=model))
        self.model = model
        self._answer = answer

    @classmethod
    def recognise(cls, path):
        return None

    def load(self):
        inputs = (TensorSpec(name="input-0", datatype="FP64", shape=(-1, 6)),)
        outputs = (TensorSpec(name="predict", datatype="FP64", shape=(-1,)),)
        return Signature(platform="odd", inputs=inputs, outputs=outputs)

    def predict(self, inputs, outputs=(), parameters=None):
        return {"predict": self._answer(inputs["input-0"])}


@pytest.fixture
def odd(data, tmp_path):
    model = linear_model.LinearRegression().fit(data.rows, data.target)

    def make(answer, *, seconds=60.0, speedup=QUICK.speedup):
        runtime = Odd(model, answer)
        accept = Acceptance(rows=0.1, timing_seconds=0.003, check_seconds=seconds, speedup=speedup)
        return optimize.optimize(runtime, runtime.load(), mode="auto", digest="", cache=tmp_path, accept=accept)

    make.model = model
    return make


def test_a_check_that_raises_ends_in_a_refusal(odd):
    """A model that fails inside the check is served as it is, with the reason."""

    def fails(rows):
        raise ZeroDivisionError("inside the model")

    served, told = odd(fails)
    assert isinstance(served, Odd)
    assert told.properties["engine.refused"]


def test_a_check_that_hangs_ends_in_a_refusal(odd):
    """A model that hangs inside the check does not hang the load."""
    release = threading.Event()
    try:
        served, told = odd(lambda _: release.wait(), seconds=0.1)
    finally:
        release.set()
    assert isinstance(served, Odd)
    assert "hung" in told.properties["engine.refused"]


def test_a_model_that_answers_otherwise_keeps_its_answers(odd):
    """Where the engine differs from the runtime by a trifle, the runtime stays."""
    served, told = odd(lambda rows: odd.model.predict(rows) * (1 + 1e-9))
    assert isinstance(served, Odd)
    assert "scores of" in told.properties["engine.refused"]


class Peculiar(SklearnRuntime):
    """A model that carries a row which nobody would aim at it, and answers that one in a way of its own."""

    def predict(self, inputs, outputs=(), parameters=EMPTY):
        answers = super().predict(inputs, outputs, parameters)
        (rows,) = inputs.values()
        answers["predict"] = np.where(rows[:, 0] == 0.4711, 4711.0, answers["predict"])
        return answers

    def sample(self):
        return {"input-0": np.full((2, 6), 0.4711)}


def test_a_sample_answered_otherwise_keeps_the_native_model(data, tmp_path):
    """An engine that passed the gate does not serve where the sample that the model carries shows a difference: the
    native model does, with the reason; where one is required, the load fails. Stored engines are asked it too.
    """
    runtime = Peculiar(Source(model=linear_model.LinearRegression().fit(data.rows, data.target)))
    signature = runtime.load()
    for checked in ("now", "earlier"):
        served, told = optimize.optimize(runtime, signature, mode="auto", digest="d", cache=tmp_path, accept=QUICK)
        assert served is runtime
        assert "sample that the model carries is answered otherwise: scores of 2" in told.properties["engine.refused"]
        assert f"checked {checked}" in told.properties["engine.check"]
    with pytest.raises(LoadFailed, match="the sample that the model carries"):
        optimize.optimize(runtime, signature, mode="require", digest="d", cache=tmp_path, accept=QUICK)


def test_an_engine_that_is_no_faster_gets_no_seat(odd):
    """A native model that no engine is so many times faster than stays, and metadata holds the times."""

    def finite(rows):
        if not np.isfinite(rows).all():
            raise InvalidRequest("not finite")
        return odd.model.predict(rows)

    served, told = odd(finite, speedup=1e6)
    assert isinstance(served, Odd)
    assert "times faster" in told.properties["engine.refused"]
    assert "1 row:" in told.properties["engine.speed"]


def test_a_model_of_another_kind_says_so(data, tmp_path):
    """A runtime that holds no readable model is refused by its name."""
    runtime = Odd(neural_network.MLPRegressor(), lambda rows: rows)
    del runtime.model
    _, told = optimize.optimize(runtime, runtime.load(), mode="auto", digest="", cache=tmp_path)
    assert "Odd holds no model" in told.properties["engine.refused"]


def test_a_number_that_means_missing_stays_with_xgboost(data, tmp_path):
    """A model that was told -1 means missing answers -1 as missing, and its runtime says which number that is."""
    rows = np.rint(data.rows)
    model = XGBClassifier(missing=-1.0, **XGB).fit(rows, data.two)
    runtime = XgboostRuntime(Source(model=model))
    signature = runtime.load()
    assert runtime.missing == -1.0
    served, _ = optimize.optimize(runtime, signature, mode="require", digest="", cache=tmp_path, accept=QUICK)
    assert served.seats[0].engine.name == "onnx trees float64"
    _same(served, served.native, rows)
    assert (rows == -1).any()
