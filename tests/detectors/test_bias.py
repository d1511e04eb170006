"""Bias between groups: published numbers, fairlearn's, intervals, and what is too few."""

from __future__ import annotations

import numpy as np
import pytest
from fairlearn import metrics as fairlearn

from headrace.detectors import intervals
from headrace.detectors.bias import Attribute, consistency, groups
from headrace.errors import InvalidRequest
from headrace.features import UNSEEN, Feature, Features, numeric

AGE = Features(columns=(Feature(name="age"), Feature(name="sex", kind="category", categories=("f", "m"))))


def german_credit():
    """The 1000 rows of German credit as far as they count here: 190 of age up to 25, 110 of them good; 810 above, 590."""
    age = np.repeat([25.0, 40.0], [190, 810])
    good = np.concatenate([np.repeat([1.0, 0.0], [110, 80]), np.repeat([1.0, 0.0], [590, 220])])
    return np.column_stack([age, np.resize([0.0, 1.0], 1000)]), good


def test_german_credit_has_the_published_numbers():
    """With age above 25 privileged, 110/190 against 590/810: SPD -0.149448 and DI 0.794826, as aif360 says."""
    x, good = german_credit()
    found = groups(x, AGE, good, None, Attribute(column="age", above=25))
    assert found.spd.value == pytest.approx(-0.149448, abs=5e-7)
    assert found.di.value == pytest.approx(0.794826, abs=5e-7)
    assert found.spd.low < found.spd.value < found.spd.high < 0
    assert found.di.low < found.di.value < found.di.high < 1
    assert (found.unprivileged.selected.count, found.unprivileged.rows, found.privileged.rows) == (110, 190, 810)
    assert found.eod is None
    assert found.rule == "age > 25"


def test_metrics_are_fairlearns():
    """All four metrics equal those that fairlearn's rates of the groups give."""
    rng = np.random.default_rng(0)
    sex = (rng.random(800) < 0.4) * 1.0
    truth = (rng.random(800) < 0.4 + 0.2 * sex) * 1.0
    said = np.where(rng.random(800) < 0.8 + 0.1 * sex, truth, 1 - truth)
    x = np.column_stack([np.zeros(800), sex])
    found = groups(x, AGE, said, truth, Attribute(column="sex", values=("m",)))
    rates = fairlearn.MetricFrame(
        metrics={
            "selected": fairlearn.selection_rate,
            "true": fairlearn.true_positive_rate,
            "false": fairlearn.false_positive_rate,
        },
        y_true=truth,
        y_pred=said,
        sensitive_features=sex,
    ).by_group
    gaps = rates.loc[0.0] - rates.loc[1.0]
    assert found.spd.value == pytest.approx(gaps["selected"])
    assert found.di.value == pytest.approx(rates.loc[0.0, "selected"] / rates.loc[1.0, "selected"])
    assert found.eod.value == pytest.approx(gaps["true"])
    assert found.aod.value == pytest.approx((gaps["true"] + gaps["false"]) / 2)
    assert found.labelled == 800


def test_intervals_are_the_published_ones():
    """Newcombe's example, 56/70 against 48/80, has the interval 0.0524 to 0.3339 by method 10; Wilson's is scipy's."""
    assert intervals.newcombe((56, 70), (48, 80)) == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-5)
    assert intervals.ratio((3, 10), (0, 10)) is None
    value, low, high = intervals.ratio((56, 70), (48, 80))
    spread = 1.959964 * np.sqrt(1 / 56 - 1 / 70 + 1 / 48 - 1 / 80)  # Katz's, of shares far from 0 and 1 nearly the same
    assert (value, low, high) == pytest.approx((4 / 3, 4 / 3 * np.exp(-spread), 4 / 3 * np.exp(spread)), rel=0.02)


@pytest.mark.parametrize(
    ("first", "second", "p", "q"),
    [(30, 30, 0.95, 0.98), (40, 40, 1.0, 0.95), (30, 200, 0.05, 0.1), (50, 500, 0.02, 0.05)],
)
def test_a_ratio_near_the_ends_is_held_as_often_as_it_says(first, second, p, q):
    """Of shares near 0 or 1 at least 93 % of the intervals of a ratio hold it, and none is a point."""
    rng, runs, held = np.random.default_rng(3), 600, 0
    for a, b in zip(rng.binomial(first, p, runs), np.maximum(rng.binomial(second, q, runs), 1), strict=True):
        found = intervals.ratio((a, first), (b, second))
        assert found is not None
        assert found[1] <= found[0] <= found[2]
        assert found[1] < found[2]
        held += found[1] <= p / q <= found[2]
    assert held >= 0.93 * runs


def test_intervals_hold_the_truth_as_often_as_they_say():
    """Of windows with a known gap, about 95 % of the intervals of SPD, DI and AOD hold it."""
    rng, runs = np.random.default_rng(1), 300
    held = np.zeros(3)
    for _ in range(runs):
        sex = np.repeat([0.0, 1.0], [120, 200])
        truth = (rng.random(320) < 0.5) * 1.0
        said = (rng.random(320) < 0.2 + 0.1 * sex + 0.4 * truth) * 1.0
        found = groups(np.column_stack([sex, sex]), AGE, said, truth, Attribute(column="sex", values=("m",)))
        for at, (gap, true) in enumerate(((found.spd, -0.1), (found.di, 0.4 / 0.5), (found.aod, -0.1))):
            held[at] += gap.low <= true <= gap.high
    assert (np.abs(held / runs - 0.95) <= 0.04).all(), held / runs


def test_too_few_rows_are_not_judged():
    """A group below `min_rows` gives `too_few` with its counts, and no metric."""
    x, good = german_credit()
    few = np.concatenate([np.arange(5), np.arange(500, 700)])
    found = groups(x[few], AGE, good[few], good[few], Attribute(column="age", above=25))
    assert found.status == "too_few"
    assert found.unprivileged.rows == 5
    assert found.spd is None
    assert found.di is None
    assert groups(x[:0], AGE, good[:0], None, Attribute(column="age", above=25)).status == "too_few"


def test_what_is_not_known_is_in_no_group():
    """Missing attributes and answers and unseen categories are counted as unknown, and change nothing else."""
    x, good = german_credit()
    more = np.array([[40.0, UNSEEN], [40.0, np.nan], [40.0, 1.0]])
    expected = groups(x, AGE, good, good, Attribute(column="sex", values=("m",)))
    found = groups(
        np.concatenate([x, more]),
        AGE,
        np.concatenate([good, [1.0, 1.0, np.nan]]),
        np.concatenate([good, np.ones(3)]),
        Attribute(column="sex", values=("m",)),
    )
    assert found.unknown == 3
    assert found.spd == expected.spd
    assert found.eod == expected.eod


@pytest.mark.parametrize(
    ("attribute", "said"),
    [
        (Attribute(column="height", above=1), "no column"),
        (Attribute(column="age"), "either values or bounds"),
        (Attribute(column="age", above=1, values=(2,)), "either values or bounds"),
        (Attribute(column="sex", values=("x",)), "no categories"),
        (Attribute(column="sex", above=0), "no categories"),
    ],
)
def test_a_rule_that_is_none_is_refused(attribute, said):
    """A rule without its column, its values or its bounds raises InvalidRequest that says which."""
    x, good = german_credit()
    with pytest.raises(InvalidRequest, match=said):
        groups(x, AGE, good, None, attribute)


def test_consistency_is_one_where_neighbours_are_treated_alike():
    """Two far clusters with one answer each have consistency 1; answers at random have about 1/2 less what a row shares with itself."""
    rng = np.random.default_rng(2)
    points = np.concatenate([rng.normal(0, 1, (100, 2)), rng.normal(50, 1, (100, 2))])
    assert consistency(points, np.repeat([0.0, 1.0], 100)) == 1.0
    assert consistency(points, (rng.random(200) < 0.5) * 1.0) == pytest.approx(0.6, abs=0.06)


def test_one_column_of_one_value():
    """A column in which everybody is privileged leaves nobody to compare with: too few."""
    found = groups(np.ones((50, 1)), numeric(1), np.ones(50), None, Attribute(column="x0", above=0))
    assert found.status == "too_few"
    assert found.unprivileged.selected is None
