"""Contrastive explanations: the published iris case, what adding means, models without slopes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression

from headrace.errors import InvalidRequest
from headrace.explainers.base import Ask, Reference
from headrace.explainers.contrastive import Contrastive
from headrace.features import numeric
from headrace.payload import Array
from headrace.testing.explainers import CLASSES, FEATURES, ExplainerConformance, grant, table

NAMES = ("sepal length", "sepal width", "petal length", "petal width")


class TestContrastive(ExplainerConformance):
    method = "contrastive"


def iris() -> tuple[Reference, Array]:
    x, y = load_iris(return_X_y=True)
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    return Reference(features=numeric(NAMES), x=x, y=y, classes=("setosa", "versicolor", "virginica")), y


def test_selects_the_published_features_of_iris() -> None:
    """Of the standardised iris, a virginica would be versicolor by its petal length alone, and is virginica by its petal
    length and width alone (facts A15).
    """
    reference, y = iris()
    model = LogisticRegression(max_iter=1000).fit(reference.x, y)
    x = np.array([0.553, -1.283, 0.706, 0.922])
    found = Contrastive.make(reference).explain(Ask(model.predict_proba), x)
    assert found.complete
    assert found.data["X_pred"] == 2
    assert found.data["PN_features"] == ["petal length"]
    assert found.data["PN_pred"] == 1
    assert found.data["PN"][0, 2] < 0
    assert found.data["PP_features"] == ["petal length", "petal width"]
    assert found.data["PP_pred"] == 2


@pytest.mark.parametrize("slopes", [True, False], ids=["slopes", "trees"])
@pytest.mark.parametrize("row", [0, 60, 120])
def test_says_what_the_model_says(slopes: bool, row: int) -> None:
    """The negative has another class, further from the base than the row in each changed column; the positive has the
    same class, between the base and the row in each column; neither could do with one column less.
    """
    reference, y = iris()
    model = (
        LogisticRegression(max_iter=1000) if slopes else RandomForestClassifier(n_estimators=10, random_state=0)
    ).fit(reference.x, y)
    x = reference.x[row]
    found = Contrastive.make(reference, base="median").explain(Ask(model.predict_proba), x, kappa=0.0)
    base, origin = found.data["base"], found.data["X_pred"]
    negative, positive = found.data["PN"], found.data["PP"]
    assert model.predict(negative)[0] == found.data["PN_pred"] != origin
    assert model.predict(positive)[0] == found.data["PP_pred"] == origin
    assert (np.abs(negative - base) >= np.abs(x - base) - 1e-9).all()
    assert ((positive - base) * (x - base) >= 0).all()
    assert (np.abs(positive - base) <= np.abs(x - base) + 1e-9).all()
    for at in np.flatnonzero(negative[0] != x):
        less = negative.copy()
        less[0, at] = x[at]
        assert model.predict(less)[0] == origin
    for at in np.flatnonzero(positive[0] != base):
        less = positive.copy()
        less[0, at] = base[at]
        assert model.predict(less)[0] != origin


def test_may_change_in_any_direction_when_asked() -> None:
    """Without the rule that only adding counts, the change is no larger."""
    reference, y = iris()
    model = LogisticRegression(max_iter=1000).fit(reference.x, y)
    x = reference.x[120]
    made, ask = Contrastive.make(reference), Ask(model.predict_proba)
    added = made.explain(ask, x, mode="PN").data["PN"]
    free = made.explain(ask, x, mode="PN", add_only=False).data["PN"]
    assert np.abs(free - x).sum() < np.abs(added - x).sum()


def test_gives_only_what_was_asked_for() -> None:
    """One of the two is left out by its mode."""
    reference = Reference(features=FEATURES, x=table(), classes=CLASSES)
    made = Contrastive.make(reference)
    assert made.explain(Ask(grant), table()[0], mode="PN").data["PP"] is None
    assert made.explain(Ask(grant), table()[0], mode="PP").data["PN"] is None


def test_takes_categories_and_whole_numbers_as_they_are() -> None:
    """What is found has categories that there are, and whole numbers where they were whole."""
    made = Contrastive.make(Reference(features=FEATURES, x=table(), classes=CLASSES))
    for x in table()[:10]:
        found = made.explain(Ask(grant), x)
        for name in ("PN", "PP"):
            row = found.data[name]
            if row is not None:
                assert row[0, 0] == round(row[0, 0])
                assert row[0, 2] in {0.0, 1.0, 2.0}


def test_says_that_nothing_is_missing_of_a_constant_model() -> None:
    """Of a model that always says the same there is no negative, and the base is enough."""
    made = Contrastive.make(Reference(features=numeric(3), x=np.random.default_rng(0).normal(size=(50, 3))))
    found = made.explain(Ask(lambda x: np.tile([0.2, 0.8], (len(x), 1))), np.ones(3))
    assert found.data["PN"] is None
    assert found.warnings
    assert found.data["PP_features"] == []
    assert "of the base, too" in found.text


@pytest.mark.parametrize("options", [{"mode": "odd"}, {"kappa": -1.0}, {"beta": -1.0}], ids=str)
def test_refuses_options_out_of_range(options: dict[str, Any]) -> None:
    """An option that cannot be is the caller's error, and its text names it."""
    made = Contrastive.make(Reference(features=FEATURES, x=table(), classes=CLASSES))
    with pytest.raises(InvalidRequest, match=next(iter(options))):
        made.explain(Ask(grant), table()[0], **options)


def test_refuses_a_base_that_cannot_be_and_numbers() -> None:
    """A base of another width or name, and a model of numbers, are refused."""
    reference = Reference(features=numeric(3), x=np.zeros((5, 3)), y=np.zeros(5))
    for base in ("odd", (1.0, 2.0)):
        with pytest.raises(InvalidRequest, match="base"):
            Contrastive.make(reference, base=base)  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest, match="classes"):
        Contrastive.make(reference).explain(Ask(lambda x: x[:, :1]), np.zeros(3))
