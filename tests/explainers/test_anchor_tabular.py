"""Anchors of tables: a rule that is known, precision and coverage against the truth, odd data. The search's own parts
are in `test_anchors`.
"""

from __future__ import annotations

from typing import ClassVar

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.errors import InvalidRequest
from headrace.explainers.anchor_tabular import AnchorTabular, TabularLaw, predicates
from headrace.explainers.base import Ask, Explanation, Reference
from headrace.features import UNSEEN, Feature, Features, numeric
from headrace.payload import Array
from headrace.testing.explainers import CLASSES, FEATURES, ExplainerConformance, grant, table

CUTS = {f"x{at}": (0.25, 0.5, 0.75) for at in range(5)}


class TestAnchorTabular(ExplainerConformance):
    method = "anchor-tabular"


class TestAnchorTabularOfWholeRows(ExplainerConformance):
    method = "anchor-tabular"
    options: ClassVar = {"perturbation": "rows", "balanced": True}


def uniform(rows: int = 2000, *, seed: int = 0) -> Reference:
    x = np.random.default_rng(seed).random((rows, 5))
    return Reference(features=numeric(5), x=x, classes=("no", "yes"))


def corner(x: Array) -> Array:
    """One where the first two are above a half."""
    yes = ((x[:, 0] > 0.5) & (x[:, 1] > 0.5)).astype(np.float64)
    return np.stack([1 - yes, yes], axis=1)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("perturbation", ["independent", "rows"])
def test_finds_a_known_rule(seed: int, perturbation: str) -> None:
    """Of a model that is a corner of the unit cube the anchor is that corner, exactly (facts A14)."""
    reference = uniform(seed=seed)
    explainer = AnchorTabular.make(reference, seed=seed, edges=CUTS)
    found = explainer.explain(Ask(corner), np.full(5, 0.9), perturbation=perturbation)
    assert sorted(found.data["anchor"]) == ["x0 > 0.50", "x1 > 0.50"]
    assert found.data["met_threshold"]
    assert found.data["precision"] == 1.0
    assert abs(found.data["coverage"] - 0.25) < 3 * np.sqrt(0.25 * 0.75 / 2000)
    inside = (reference.x[:, 0] > 0.5) & (reference.x[:, 1] > 0.5)
    assert found.data["coverage"] == inside.mean()


def test_says_nothing_of_a_constant_model() -> None:
    """Of a model that always says the same, the anchor is empty, precise and covers everything."""
    explainer = AnchorTabular.make(uniform())
    found = explainer.explain(Ask(lambda x: np.tile([0.0, 1.0], (len(x), 1))), np.full(5, 0.9))
    assert found.data["anchor"] == []
    assert (found.data["precision"], found.data["coverage"]) == (1.0, 1.0)
    assert found.data["met_threshold"]


def test_says_that_there_is_none() -> None:
    """Where the answer has nothing to do with the row, the best effort says that it is no anchor, and why."""
    rng = np.random.default_rng(3)
    noise: dict[bytes, float] = {}

    def toss(x: Array) -> Array:
        yes = np.array([noise.setdefault(row.tobytes(), float(rng.random() < 0.5)) for row in x])
        return np.stack([1 - yes, yes], axis=1)

    found = AnchorTabular.make(uniform(200)).explain(Ask(toss), np.full(5, 0.9), max_anchor_size=2)
    assert not found.data["met_threshold"]
    assert "no rule of at most 2 conditions" in found.data["reason"]
    assert found.data["precision"] < 0.75
    assert found.warnings
    assert found.complete


def _bumps(weights: Array) -> object:
    def predict(x: Array) -> Array:
        score = np.sin(3 * x) @ weights
        yes = (score > np.sin(1.5) * weights.sum()).astype(np.float64)
        return np.stack([1 - yes, yes], axis=1)

    return predict


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.lists(st.integers(-3, 3), min_size=5, max_size=5), st.integers(0, 1000))
def test_precision_and_coverage_are_true(weights: list[int], seed: int) -> None:
    """The precision of 20,000 more samples lies in the interval that is reported, widened by their own error, and the
    coverage is the exact share of reference rows of which all conditions hold.
    """
    predict = _bumps(np.array(weights, np.float64))
    reference = uniform(500, seed=1)
    x = np.random.default_rng(seed).random(5)
    explainer = AnchorTabular.make(reference, seed=seed)
    found = explainer.explain(Ask(predict), x, delta=0.001)
    rows = reference.x
    holds = np.ones(len(rows), np.bool_)
    conditions = []
    every = predicates(reference.features, explainer._edges, x, rows)
    for wanted in found.data["raw"]["predicates"]:
        condition = next(
            each
            for each in every
            if (each.column, each.kind, each.value) == (wanted["feature"], wanted["kind"], wanted["value"])
        )
        conditions.append(condition)
        holds &= condition.holds(rows[:, condition.column])
    assert found.data["coverage"] == holds.mean()
    law = TabularLaw(conditions, x=x, drawn=rows, counted=rows, whole_rows=False)
    drawn = law.draw([tuple(range(len(conditions)))], 20_000, np.random.default_rng(seed + 1))
    for condition in conditions:
        assert condition.holds(drawn[:, condition.column]).all()
    answer = predict(x[None]).argmax(axis=1)
    fresh = (predict(drawn).argmax(axis=1) == answer).mean()
    low, high = found.data["precision_interval"]
    error = 3.3 * np.sqrt(fresh * (1 - fresh) / 20_000)
    assert low - error <= fresh <= high + error
    assert low <= found.data["precision"] <= high


def test_merges_two_bounds_of_a_column() -> None:
    """A lower and an upper bound of one column are read as one range."""

    def band(x: Array) -> Array:
        yes = ((x[:, 2] > 0.25) & (x[:, 2] <= 0.75)).astype(np.float64)
        return np.stack([1 - yes, yes], axis=1)

    found = AnchorTabular.make(uniform(), edges=CUTS).explain(Ask(band), np.full(5, 0.6))
    assert found.data["anchor"] == ["0.25 < x2 <= 0.75"]
    assert found.data["raw"]["feature"] == [2]


def test_reads_categories_whole_numbers_and_missing_values() -> None:
    """A category is named, a whole number has no decimals, and a missing value is a condition of its own."""
    features = Features(
        columns=(
            Feature(name="colour", kind="category", categories=("red", "green")),
            Feature(name="rooms", integer=True),
            Feature(name="debt"),
        )
    )
    rng = np.random.default_rng(0)
    x = np.stack([rng.integers(0, 2, 400), rng.integers(0, 9, 400), rng.normal(size=400)], axis=1).astype(np.float64)
    x[::4, 2] = np.nan
    for at, expected in ((0, "colour = green"), (1, "rooms > 6"), (2, "debt is missing")):

        def predict(rows: Array, at: int = at) -> Array:
            yes = [rows[:, 0] == 1, rows[:, 1] > 6, np.isnan(rows[:, 2])][at].astype(np.float64)
            return np.stack([1 - yes, yes], axis=1)

        made = AnchorTabular.make(Reference(features=features, x=x, classes=("a", "b")))
        assert made.explain(Ask(predict), np.array([1.0, 8.0, np.nan])).data["anchor"] == [expected]


def test_an_unseen_category_is_a_condition() -> None:
    """Of a model that answers by an unseen category the anchor is that category, which covers nothing."""

    def predict(x: Array) -> Array:
        yes = (x[:, 2] == UNSEEN).astype(np.float64)
        return np.stack([1 - yes, yes, 0 * yes], axis=1)

    reference = Reference(features=FEATURES, x=table(), classes=CLASSES)
    x = reference.x[0].copy()
    x[2] = UNSEEN
    found = AnchorTabular.make(reference).explain(Ask(predict), x)
    assert found.data["anchor"] == ["colour = unseen"]
    assert found.data["coverage"] == 0
    assert any("no row" in each for each in found.warnings)


def test_a_number_holds_within_its_tolerance() -> None:
    """Of a model of numbers the anchor keeps the answer within the tolerance, and the default is half a deviation."""
    reference = msgspec.structs.replace(uniform(), classes=())
    explainer = AnchorTabular.make(reference, edges=CUTS)
    ask = Ask(lambda x: 10 * x[:, :1])
    found = explainer.explain(ask, np.array([0.6, 0.1, 0.1, 0.1, 0.1]), tolerance=1.6)
    assert found.data["anchor"] == ["0.50 < x0 <= 0.75"]
    assert explainer.explain(ask, np.full(5, 0.6)).text.count("give or take 1.4") == 1


def test_finds_a_rule_for_a_rare_class_when_balanced() -> None:
    """Where a class is one row in a hundred, columns that go together are drawn together only with balanced classes."""
    rng = np.random.default_rng(0)
    y = (np.arange(3000) % 100 == 0).astype(np.int64)
    x = rng.normal(size=(3000, 4)) + 6 * y[:, None]

    def predict(rows: Array) -> Array:
        yes = (rows.sum(axis=1) > 12).astype(np.float64)
        return np.stack([1 - yes, yes], axis=1)

    reference = Reference(features=numeric(4), x=x, y=y, classes=("usual", "rare"))
    row = np.full(4, 6.0)
    explainer = AnchorTabular.make(reference)

    def explained(*, balanced: bool) -> Explanation:
        return explainer.explain(Ask(predict), row, perturbation="rows", balanced=balanced)

    assert not explained(balanced=False).data["met_threshold"]
    assert explained(balanced=True).data["precision"] > explained(balanced=False).data["precision"] + 0.05


@pytest.mark.parametrize(
    "options",
    [
        {"threshold": 1.5},
        {"delta": 0},
        {"beam_size": 0},
        {"perturbation": "odd"},
        {"tolerance": -1.0},
    ],
    ids=str,
)
def test_refuses_options_out_of_range(options: dict[str, object]) -> None:
    """An option that cannot be is the caller's error, and its text names it."""
    with pytest.raises(InvalidRequest, match=next(iter(options))):
        AnchorTabular.make(uniform(50)).explain(Ask(corner), np.full(5, 0.9), **options)  # type: ignore[arg-type]


def test_refuses_edges_and_quantiles_that_cannot_be() -> None:
    """Edges of an unknown column and quantiles out of range are refused when it is made."""
    with pytest.raises(InvalidRequest, match="nobody"):
        AnchorTabular.make(uniform(50), edges={"nobody": (1.0,)})
    with pytest.raises(InvalidRequest, match="quantiles"):
        AnchorTabular.make(uniform(50), quantiles=(0.0, 0.5))


def test_asks_in_large_calls() -> None:
    """Many candidates' samples go into one call of the model: fewer calls than one per candidate."""
    ask = Ask(grant)
    reference = Reference(features=FEATURES, x=table(), classes=CLASSES)
    AnchorTabular.make(reference).explain(ask, table()[0])
    assert ask.rows / ask.calls > 150
