"""Partial dependence: what every explainer keeps, scikit-learn's numbers, and the curve of each row."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_diabetes
from sklearn.ensemble import RandomForestRegressor
from sklearn.inspection import partial_dependence

from headrace.errors import InvalidRequest
from headrace.explainers.base import Ask, Reference
from headrace.explainers.partial_dependence import PartialDependence
from headrace.features import numeric
from headrace.testing.explainers import FEATURES, ExplainerConformance


class TestPartialDependence(ExplainerConformance):
    method = "partial-dependence"


def test_curves_are_those_of_scikit_learn():
    """Averaged and of each row, at the same points, curves are scikit-learn's brute force."""
    x, y = load_diabetes(return_X_y=True)
    x = x[:80]
    model = RandomForestRegressor(n_estimators=10, random_state=0).fit(x, y[:80])
    found = PartialDependence.make(Reference(features=numeric(10), x=x)).explain(
        Ask(lambda rows: model.predict(rows)[:, None]), np.empty((0, 10)), features=("x2",), points=10
    )
    oracle = partial_dependence(
        model, x, [2], kind="both", custom_values={2: found.data["feature_values"][0]}, method="brute"
    )
    assert np.allclose(found.data["pd_values"][0], oracle["average"], atol=1e-9)
    assert np.allclose(np.sort(found.data["ice_values"][0], axis=1), np.sort(oracle["individual"], axis=1), atol=1e-9)


def test_a_category_has_a_point_for_each_value():
    """A category is set to each of its values, and they are named."""
    case = TestPartialDependence()
    found = case.explained()
    at = found.data["feature_names"].index("colour")
    assert found.data["feature_labels"][at] == ["red", "green", "blue"]
    assert found.data["pd_values"][at].shape == (3, len(FEATURES.columns[2].categories))


def test_a_column_that_is_not_read_is_flat():
    """The importance of a column that the model does not read is 0, and that of the one it reads is not."""
    table = np.random.default_rng(0).normal(size=(100, 3))
    found = PartialDependence.make(Reference(features=numeric(3), x=table)).explain(
        Ask(lambda x: x[:, :1]), np.empty((0, 3))
    )
    assert [float(each[0]) > 1e-12 for each in found.data["feature_importance"]] == [True, False, False]


def test_an_unknown_column_is_refused():
    """A column that is not there is the caller's error, and the nearest is named."""
    case = TestPartialDependence()
    explainer = case.made()
    with pytest.raises(InvalidRequest, match="income"):
        explainer.explain(Ask(case.predict), case.row(), features=("incme",))
