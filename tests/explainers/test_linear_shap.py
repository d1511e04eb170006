"""Linear Shapley values: what every explainer keeps, and every kind of linear model in the space it names."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression, PoissonRegressor, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler, MinMaxScaler, PolynomialFeatures, RobustScaler, StandardScaler
from sklearn.svm import SVC, LinearSVC

from headrace.errors import InvalidRequest
from headrace.explainers.base import Ask, Reference
from headrace.explainers.exact_shap import ExactShap
from headrace.explainers.linear_shap import LinearShap
from headrace.features import numeric
from headrace.testing.explainers import ExplainerConformance


class TestLinearShap(ExplainerConformance):
    method = "linear-shap"

    def reference(self):
        reference = super().reference()
        model = LogisticRegression().fit(np.nan_to_num(reference.x) / [50, 5, 1, 1, 1], reference.y)
        model.coef_ = model.coef_ / [50, 5, 1, 1, 1]
        return msgspec.structs.replace(reference, artifact=model)


def refuse(x):
    raise AssertionError("the model was asked, and it was to be read")


@pytest.mark.parametrize(
    ("data", "model", "space"),
    [
        (load_breast_cancer, make_pipeline(StandardScaler(), LogisticRegression()), "log-odds"),
        (load_breast_cancer, make_pipeline(RobustScaler(), MinMaxScaler(), MaxAbsScaler(), LinearSVC()), "margin"),
        (
            load_breast_cancer,
            make_pipeline(StandardScaler(with_mean=False), "passthrough", SVC(kernel="linear")),
            "margin",
        ),
        (load_iris, make_pipeline(StandardScaler(with_std=False), LogisticRegression()), "margin"),
        (load_diabetes, Ridge(), "prediction"),
        (load_diabetes, PoissonRegressor(max_iter=1000), "log of the prediction"),
    ],
    ids=["logistic", "linear-svm", "svm", "softmax", "ridge", "poisson"],
)
def test_effects_are_those_of_the_models_own_margin(data, model, space):
    """Effects against the whole reference, read and not asked for, are the exact ones of the model's margin."""
    x, y = data(return_X_y=True)
    x = x[:, :6]
    model.fit(x, y)
    classes = () if data is load_diabetes else tuple(str(each) for each in np.unique(y))
    reference = Reference(features=numeric(x.shape[1]), x=x[:50], classes=classes, artifact=model)
    found = LinearShap.make(reference).explain(Ask(refuse), x[100])
    margin = model.decision_function if classes else model.predict
    answer = (lambda rows: np.log(margin(rows))) if "log of" in space else margin
    asked = ExactShap.make(reference, background=50).explain(
        Ask(lambda rows: answer(rows).reshape(len(rows), -1)), x[100]
    )
    assert found.data["output_space"] == space
    assert np.allclose(np.concatenate(found.data["shap_values"]), np.concatenate(asked.data["shap_values"]), atol=1e-7)


@pytest.mark.parametrize(
    "model",
    [
        RandomForestClassifier(n_estimators=2),
        make_pipeline(PolynomialFeatures(), LogisticRegression()),
        SVC(kernel="linear"),
        None,
    ],
    ids=["forest", "polynomial", "pairs", "none"],
)
def test_what_is_not_linear_in_the_columns_is_refused(model):
    """A model without coefficients of the columns, or none, is refused, with the method to use."""
    x, y = load_iris(return_X_y=True)
    if model is not None:
        model.fit(x / x.max(axis=0), y)
    with pytest.raises(InvalidRequest, match="permutation-shap"):
        LinearShap.make(Reference(features=numeric(4), x=x, classes=("a", "b", "c"), artifact=model))
