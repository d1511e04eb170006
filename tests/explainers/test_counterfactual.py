"""Counterfactuals: the exact nearest point of a linear model, what may not change, several, none at all."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from headrace.errors import InvalidRequest
from headrace.explainers.base import Ask, Explanation, Reference
from headrace.explainers.counterfactual import Counterfactual, Metric
from headrace.features import UNSEEN, numeric
from headrace.payload import Array
from headrace.testing.explainers import CLASSES, FEATURES, ExplainerConformance, grant, table


class TestCounterfactual(ExplainerConformance):
    method = "counterfactual"


REFERENCE = Reference(features=FEATURES, x=table(), classes=CLASSES)


def explained(x: Array, **options: Any) -> Explanation:
    return Counterfactual.make(REFERENCE).explain(Ask(grant), x, **options)


def denied() -> Array:
    """A row that is denied, without missing values."""
    rows = table()
    return rows[(grant(rows).argmax(axis=1) == 0) & ~np.isnan(rows).any(axis=1)][0]


@pytest.mark.parametrize("seed", range(5))
def test_is_near_the_nearest_point_of_a_linear_model(seed: int) -> None:
    """Of a linear model the distance is that of the nearest point, which changes the one column that counts most per
    unit of its spread, within an eighth.
    """
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(500, 4)) * np.array([1, 10, 0.1, 3])
    weights = np.array([1, 0.3, 4, -0.2])

    def predict(rows: Array) -> Array:
        p = 1 / (1 + np.exp(-rows @ weights))
        return np.stack([1 - p, p], axis=1)

    reference = Reference(features=numeric(4), x=x, classes=("no", "yes"))
    row = x[np.argsort(np.abs(x @ weights + 2))[0]]
    found = Counterfactual.make(reference, seed=seed).explain(Ask(predict), row)
    scale = Metric(reference.features, x).scale
    best = abs(row @ weights) / np.abs(weights * scale).max()
    assert found.data["cf"]["class"] == 1
    assert best <= found.data["cf"]["distance"] <= 1.125 * best
    assert len(found.data["cf"]["changed"]) == 1


def test_gets_what_was_asked_for() -> None:
    """The target class is what the model says of each counterfactual, with the probability asked for."""
    for target in ("grant", 2):
        found = explained(denied(), target=target, probability=0.7)
        assert found.complete
        assert found.data["success"]
        for each in found.data["all"]:
            answer = grant(each["X"])[0]
            assert each["class"] == 2 == answer.argmax()
            assert answer[2] >= 0.7
            assert np.array_equal(each["proba"], answer)


def test_changes_only_what_may_change() -> None:
    """Columns that may not change do not, the others stay within their ranges; numbers are whole where they were, and
    categories known.
    """
    x = denied()
    found = explained(x, immutable=["income", "constant"], ranges={"age": (x[0], 90)}, target="grant")
    assert found.data["all"]
    for each in found.data["all"]:
        row = each["X"][0]
        assert (row[1], row[3]) == (x[1], x[3])
        assert x[0] <= row[0] <= 90
        assert row[0] == round(row[0])
        assert row[2] in {0.0, 1.0, 2.0}
        assert -3 <= row[4] <= 3 or row[4] == x[4] or np.isnan(row[4])


def test_several_change_different_columns() -> None:
    """No two of several counterfactuals change the same columns."""
    found = explained(denied(), count=4)
    changed = [tuple(change["name"] for change in each["changed"]) for each in found.data["all"]]
    assert len(changed) > 1
    assert len(set(changed)) == len(changed)


def test_says_how_plausible_it_is() -> None:
    """Plausibility is the mean distance to the five nearest rows that the model answers alike, in the units of the
    distance.
    """
    found = explained(denied(), target="grant")
    row = found.data["cf"]["X"][0]
    kin = table()[grant(table()).argmax(axis=1) == 2]
    metric = Metric(FEATURES, table())
    expected = np.sort(metric.distance(kin, row))[:5].mean()
    assert np.isclose(found.data["cf"]["plausibility"]["distance"], expected)
    assert found.data["cf"]["plausibility"]["typical"] > 0


def test_says_that_there_is_none() -> None:
    """Where nothing that may change matters, there is no success, a warning, and the nearest attempt."""
    x = denied()
    found = explained(x, immutable=["income", "age", "debt", "colour"], target="grant")
    assert not found.data["success"]
    assert found.data["all"] == []
    assert found.data["cf"] is not None
    assert found.warnings
    assert "No row was found" in found.text
    assert found.complete


def test_a_number_goes_into_its_range() -> None:
    """Of a model of numbers, the answer of each counterfactual is within the range asked for."""
    reference = Reference(features=FEATURES, x=table(), y=table()[:, 1])
    ask = Ask(lambda rows: rows[:, 1:2] * 10)
    x = table()[0]
    x[1] = 2.0
    found = Counterfactual.make(reference).explain(ask, x, target_range=(55, 60))
    assert found.data["success"]
    assert all(55 <= each["value"] <= 60 for each in found.data["all"])
    assert [each["name"] for each in found.data["cf"]["changed"]] == ["income"]
    assert found.data["cf"]["X"][0, 1] < 5.65


def test_an_unseen_category_is_left_only_for_a_known_one() -> None:
    """A row of an unseen category may keep it or change to one of the reference."""
    x = denied()
    x[2] = UNSEEN
    for each in explained(x).data["all"]:
        assert each["X"][0, 2] in {UNSEEN, 0.0, 1.0, 2.0}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"target": "deny"}, "already"),
        ({"target": "nobody"}, "nobody"),
        ({"target": 7}, "7"),
        ({"immutable": ["nobody"]}, "nobody"),
        ({"ranges": {"age": (50, 40)}}, "ranges"),
        ({"count": 0}, "count"),
    ],
    ids=str,
)
def test_refuses_what_cannot_be(options: dict[str, Any], says: str) -> None:
    """A target that is said already or not known, a column that is not there, an empty range are named."""
    with pytest.raises(InvalidRequest, match=says):
        explained(denied(), **options)


def test_a_number_needs_a_range() -> None:
    """Of a model of numbers the range is needed, and one that the answer is in already is refused."""
    reference = Reference(features=FEATURES, x=table(), y=table()[:, 1])
    made, ask = Counterfactual.make(reference), Ask(lambda rows: rows[:, 1:2])
    with pytest.raises(InvalidRequest, match="target_range"):
        made.explain(ask, table()[0])
    with pytest.raises(InvalidRequest, match="already"):
        made.explain(ask, table()[0], target_range=(-100, 100))


def test_costs_one_per_missing_or_other_category() -> None:
    """Distance counts one for a category that differs and for a value that is missing on one side, and none for equal
    missing ones.
    """
    metric = Metric(FEATURES, table())
    x = np.array([30, 5, 0, 1, np.nan])
    rows = np.array([[30, 5, 2, 1, np.nan], [30, 5, 0, 1, 0.3], [30, 5, 0, 1, np.nan]])
    assert metric.distance(rows, x).tolist() == [1, 1, 0]
