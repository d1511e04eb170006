"""Accumulated local effects: what every explainer keeps, and curves that are known."""

from __future__ import annotations

import numpy as np
import pytest

from headrace.errors import InvalidRequest
from headrace.explainers.ale import Ale
from headrace.explainers.base import Ask, Reference
from headrace.features import numeric
from headrace.testing.explainers import ExplainerConformance


class TestAle(ExplainerConformance):
    method = "ale"


def told(predict, table, **options):
    return Ale.make(Reference(features=numeric(table.shape[1]), x=table)).explain(
        Ask(predict), np.empty((0, table.shape[1])), **options
    )


def test_a_linear_model_gives_lines():
    """Of a linear model each curve is a line with the model's slope, of mean zero, whatever the columns' correlation."""
    rng = np.random.default_rng(0)
    first = rng.normal(size=500)
    table = np.column_stack([first, first + 0.1 * rng.normal(size=500)])
    found = told(lambda x: (x @ [2.0, -1.0])[:, None], table)
    for at, slope in enumerate((2.0, -1.0)):
        bounds, values = found.data["feature_values"][at], found.data["ale_values"][at][:, 0]
        assert np.allclose(np.diff(values) / np.diff(bounds), slope, atol=1e-9)
        counts = found.data["feature_counts"][at]
        assert abs((counts * (values[:-1] + values[1:]) / 2).sum()) < 1e-9
        assert counts.sum() == 500


def test_an_effect_of_columns_that_go_together_is_not_extrapolated():
    """With x1 = x0, of the model x0 + 100 (x0 - x1)^2 the curve of x0 stays near the line within the data."""
    x = np.random.default_rng(1).uniform(size=1000)
    found = told(lambda rows: (rows[:, 0] + 100 * (rows[:, 0] - rows[:, 1]) ** 2)[:, None], np.column_stack([x, x]))
    curve = found.data["ale_values"][0][:, 0]
    assert 0.7 < np.ptp(curve) < 1.3


def test_a_quadratic_meets_its_curve():
    """The curve of x^2 is x^2 less its mean, to the width of the bins."""
    table = np.random.default_rng(2).uniform(-1, 1, size=(2000, 1))
    found = told(lambda x: x**2, table, bins=40, sample=2000)
    bounds, values = found.data["feature_values"][0], found.data["ale_values"][0][:, 0]
    assert np.abs(values - (bounds**2 - 1 / 3)).max() < 0.05


def test_columns_may_be_chosen_and_must_be_known():
    """Only the named columns are told; an unknown one, or one of categories, is refused."""
    case = TestAle()
    explainer = case.made()
    found = explainer.explain(Ask(case.predict), case.row(), features=("income",))
    assert found.data["feature_names"] == ["income"]
    for name in ("incom", "colour"):
        with pytest.raises(InvalidRequest, match=name):
            explainer.explain(Ask(case.predict), case.row(), features=(name,))
