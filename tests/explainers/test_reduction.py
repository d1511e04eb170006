"""Fewer and smaller changes: what is left could not be left out, and is near its least."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.explainers import reduction
from headrace.explainers.base import BudgetSpent
from headrace.payload import Array


def square(rows: Array) -> Array:
    return np.abs(rows)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_nothing_that_is_left_could_be_left_out(seed: int) -> None:
    """Of a monotone rule, each change that is left is needed, and each row still holds."""
    rng = np.random.default_rng(seed)
    weights, rows = rng.random(6), rng.random((4, 6)) + 0.5
    limit = 0.6 * (rows @ weights).min()

    def holds(tried: Array) -> Array:
        return tried @ weights >= limit

    reduction.fewer(holds, square, np.zeros(6), rows)
    assert holds(rows).all()
    for row in rows:
        for at in np.flatnonzero(row):
            less = row.copy()
            less[at] = 0
            assert not holds(less[None])[0]


def test_changes_are_made_nearly_as_small_as_they_can_be() -> None:
    """One column ends within an eighth of the least that holds; a whole number stays whole; a category stays."""
    rows = np.array([[100.0, 0, 0], [0, 100, 0], [0, 0, 100]])

    def holds(tried: Array) -> Array:
        return tried.max(axis=1) >= 10.4

    numeric, integer = np.array([True, True, False]), np.array([False, True, False])
    reduction.smaller(holds, square, np.zeros(3), rows, numeric=numeric, integer=integer)
    assert 10.4 <= rows[0, 0] <= 10.4 * 8 / 7
    assert rows[1, 1] in {11.0, 12.0}
    assert rows[2, 2] == 100


def test_keeps_what_was_gained_when_the_budget_is_spent() -> None:
    """When asking fails on the way, rows are as good as they were by then, and hold."""
    rows, calls = np.full((1, 3), 100.0), []

    def holds(tried: Array) -> Array:
        calls.append(len(tried))
        if len(calls) > 2:
            raise BudgetSpent("spent")
        return tried.sum(axis=1) >= 50

    with pytest.raises(BudgetSpent):
        reduction.smaller(holds, square, np.zeros(3), rows, numeric=np.ones(3, np.bool_), integer=np.zeros(3, np.bool_))
    assert 50 <= rows.sum() < 300
