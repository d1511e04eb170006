"""Tree Shapley values: what every explainer keeps, the numbers of brute force, and each library's models."""

from __future__ import annotations

import sys
from typing import ClassVar

import msgspec
import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris
from sklearn.ensemble import (
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from headrace.errors import InvalidRequest, MissingExtra
from headrace.explainers.base import Ask, Reference
from headrace.explainers.exact_shap import ExactShap
from headrace.explainers.tree_shap import TreeShap
from headrace.features import numeric
from headrace.testing.explainers import ExplainerConformance


def refuse(x):
    raise AssertionError("the model was asked, and it was to be read")


class TestTreeShap(ExplainerConformance):
    method = "tree-shap"
    parameters: ClassVar = {"background": 20}

    def reference(self):
        pytest.importorskip("shap")
        reference = super().reference()
        model = HistGradientBoostingClassifier(max_iter=3, random_state=0).fit(reference.x, reference.y)
        return msgspec.structs.replace(reference, artifact=model)


def made(name):
    """A fitted model, its reference, and its answer in the space of the effects."""
    x, y = {"binary": load_breast_cancer, "many": load_iris, "number": load_diabetes}[name.split("-")[0]](
        return_X_y=True
    )
    x = x[:, :6]
    if "xgboost" in name:
        xgboost = pytest.importorskip("xgboost")
        kind = xgboost.XGBRegressor if name.startswith("number") else xgboost.XGBClassifier
        model = kind(n_estimators=8, max_depth=3, n_jobs=1).fit(x, y)
        answer = lambda rows: model.predict(rows, output_margin=True)  # noqa: E731
    elif "lightgbm" in name:
        lightgbm = pytest.importorskip("lightgbm")
        kind = lightgbm.LGBMRegressor if name.startswith("number") else lightgbm.LGBMClassifier
        model = kind(n_estimators=8, max_depth=3, n_jobs=1, verbose=-1).fit(x, y).booster_
        answer = lambda rows: model.predict(rows, raw_score=True)  # noqa: E731
    elif "catboost" in name:
        catboost = pytest.importorskip("catboost")
        kind = catboost.CatBoostRegressor if name.startswith("number") else catboost.CatBoostClassifier
        model = kind(iterations=8, depth=3, thread_count=1, verbose=0, allow_writing_files=False).fit(x, y)
        answer = lambda rows: model.predict(rows, prediction_type="RawFormulaVal")  # noqa: E731
    else:
        pytest.importorskip("shap")
        model = {
            "binary-forest": RandomForestClassifier(n_estimators=8, random_state=0),
            "many-forest": make_pipeline(StandardScaler(), RandomForestClassifier(n_estimators=8, random_state=0)),
            "number-forest": RandomForestRegressor(n_estimators=8, random_state=0),
            "binary-boosted": GradientBoostingClassifier(n_estimators=8, random_state=0),
            "many-histogram": HistGradientBoostingClassifier(max_iter=8, random_state=0),
            "number-histogram": HistGradientBoostingRegressor(max_iter=8, random_state=0),
        }[name].fit(x, y)
        answer = model.predict
        if not name.startswith("number"):
            answer = model.predict_proba if "forest" in name else model.decision_function
    classes = () if name.startswith("number") else tuple(str(each) for each in np.unique(y))
    reference = Reference(features=numeric(x.shape[1]), x=x[::5], classes=classes, artifact=model)
    return reference, x[3], lambda rows: np.asarray(answer(rows), float).reshape(len(rows), -1)


SKLEARN = ["binary-forest", "many-forest", "number-forest", "binary-boosted", "many-histogram", "number-histogram"]
OTHERS = [
    f"{task}-{library}" for library in ("xgboost", "lightgbm", "catboost") for task in ("binary", "many", "number")
]


@pytest.mark.parametrize("name", [*SKLEARN, "binary-xgboost", "many-xgboost", "number-xgboost", "binary-lightgbm"])
def test_interventional_effects_are_the_enumerated_ones(name):
    """Against the same rows, interventional effects of deep trees are those of brute force, also where rows stand on
    splits.
    """
    pytest.importorskip("shap")
    reference, x, answer = made(name)
    found = TreeShap.make(reference, perturbation="interventional", background=20).explain(Ask(refuse), x)
    exact = ExactShap.make(reference, background=20).explain(Ask(answer), x)
    effects = np.concatenate(exact.data["shap_values"])
    assert np.abs(np.concatenate(found.data["shap_values"]) - effects).max() < 1e-6 * (1 + np.abs(effects).max())


def test_interventional_effects_of_the_shallow_forest():
    """On the first eight columns of breast cancer, a forest of depth 4 and 20 rows, the engine meets brute force."""
    pytest.importorskip("shap")
    x, y = load_breast_cancer(return_X_y=True)
    model = RandomForestClassifier(n_estimators=20, max_depth=4, random_state=0).fit(x[:, :8], y)
    reference = Reference(features=numeric(8), x=x[:20, :8], classes=("malignant", "benign"), artifact=model)
    found = TreeShap.make(reference, background=20).explain(Ask(refuse), x[300, :8])
    exact = ExactShap.make(reference, background=20).explain(Ask(model.predict_proba), x[300, :8])
    difference = np.concatenate(found.data["shap_values"]) - np.concatenate(exact.data["shap_values"])
    assert np.abs(difference).max() < 5e-9


@pytest.mark.parametrize("name", [*SKLEARN, *OTHERS])
def test_path_dependent_effects_add_up(name):
    """Of every library's models, effects add up to the model's own answer in the space they name."""
    reference, x, answer = made(name)
    found = TreeShap.make(reference, perturbation="path-dependent").explain(Ask(refuse), x)
    total = np.concatenate(found.data["shap_values"]).sum(axis=1) + found.data["expected_value"]
    assert np.allclose(total, answer(x[None])[0], rtol=1e-6, atol=1e-6)
    assert found.data["engine"] == (name.split("-")[1] if name in OTHERS else "shap")
    kind = "prediction" if name.startswith("number") else "probability" if "forest" in name else None
    assert found.data["output_space"] == (kind or ("log-odds" if name.startswith("binary") else "margin"))


def test_models_that_are_no_trees_are_refused():
    """A linear model, and CatBoost's for interventional effects, are refused, with the method to use."""
    x, y = load_iris(return_X_y=True)
    linear = LogisticRegression(max_iter=500).fit(x, y)
    with pytest.raises(InvalidRequest, match="permutation-shap"):
        TreeShap.make(Reference(features=numeric(4), x=x, artifact=linear))
    reference, _, _ = made("binary-catboost")
    with pytest.raises(InvalidRequest, match="path-dependent only"):
        TreeShap.make(reference, perturbation="interventional")


def test_a_number_that_no_tree_can_compare_is_refused():
    """A number beyond single precision is the caller's mistake, and the column is named."""
    x, y = load_iris(return_X_y=True)
    reference = Reference(
        features=numeric(("a", "b", "c", "d")), x=x, y=y, artifact=RandomForestClassifier(5, random_state=0).fit(x, y)
    )
    row = x[0].copy()
    row[2] = 1e308
    with pytest.raises(InvalidRequest, match="column 'c' is beyond"):
        TreeShap.make(reference, perturbation="path-dependent").explain(Ask(refuse), row)


def test_the_extra_is_named_where_shap_is_missing(monkeypatch):
    """Without shap a scikit-learn model cannot be explained so, and the message names the extra to install."""
    x, y = load_iris(return_X_y=True)
    forest = RandomForestClassifier(n_estimators=2).fit(x, y)
    monkeypatch.setitem(sys.modules, "shap", None)
    with pytest.raises(MissingExtra, match=r"headrace\[shap\]"):
        TreeShap.make(Reference(features=numeric(4), x=x, classes=("a", "b", "c"), artifact=forest))
