"""The search for anchors: its bounds against their definitions, and how it counts."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.explainers import anchors
from headrace.explainers.base import Ask
from headrace.payload import Array


def kl(p: float, q: float) -> float:
    first = 0.0 if p == 0 else math.inf if q == 0 else p * math.log(p / q)
    second = 0.0 if p == 1 else math.inf if q == 1 else (1 - p) * math.log((1 - p) / (1 - q))
    return first + second


@given(st.integers(0, 200), st.integers(1, 200), st.floats(0.01, 20))
def test_bounds_are_at_their_divergence(hits: int, samples: int, rate: float) -> None:
    """The bounds are on either side of the mean, and either at the level in Kullback-Leibler divergence or at 0 or 1."""
    mean = min(hits, samples) / samples
    level = rate / samples
    high = float(anchors.upper(np.array([mean]), np.array([level]))[0])
    low = float(anchors.lower(np.array([mean]), np.array([level]))[0])
    assert low <= mean <= high
    for bound in (low, high):
        assert bound < 1e-6 or bound > 1 - 1e-6 or math.isclose(kl(mean, bound), level, rel_tol=1e-3, abs_tol=1e-6)


@pytest.mark.parametrize(("hits", "samples"), [(0, 10), (10, 10), (3, 10), (950, 1000)])
def test_the_interval_is_the_exact_one(hits: int, samples: int) -> None:
    """At either end of the interval, so many hits or further have half of delta (Clopper, Pearson 1934)."""
    from scipy.stats import binom

    low, high = anchors.interval(hits, samples, 0.05)
    if hits:
        assert math.isclose(binom.sf(hits - 1, samples, low), 0.025, rel_tol=1e-6)
    if hits < samples:
        assert math.isclose(binom.cdf(hits, samples, high), 0.025, rel_tol=1e-6)


def test_the_exploration_rate_is_that_of_the_paper() -> None:
    """The rate is log(405.5 K t^1.1 / delta) + log of that (Kaufmann, Kalyanakrishnan 2013)."""
    inner = math.log(405.5 * 10 * 100**1.1 / 0.05)
    assert math.isclose(anchors.exploration(10, 100, 0.05), inner + math.log(inner))


class Coins:
    """A law without data: predicate i is a coin that makes the answer hold with its own probability."""

    def __init__(self, *probabilities: float, largest: int = 10_000) -> None:
        self._probabilities, self.largest, self.drawn = probabilities, largest, 0

    @property
    def groups(self) -> Array:
        return np.arange(len(self._probabilities))

    @property
    def present(self) -> Array:
        return np.random.default_rng(0).random((4000, len(self._probabilities))) < 0.5

    def draw(self, rules: list[anchors.Anchor], count: int, rng: np.random.Generator) -> Array:
        self.drawn = max(self.drawn, len(rules) * count)
        best = [max((self._probabilities[at] for at in rule), default=0.3) for rule in rules]
        return (rng.random(len(rules) * count) < np.repeat(best, count)).astype(np.float64)[:, None]


def searched(law: Coins, *, ask: Ask | None = None, **options: float) -> anchors.Found:
    search = anchors.Search(
        ask or Ask(lambda x: x),
        law,
        lambda answers: answers[:, 0] > 0.5,
        options=anchors.Options(**options),  # type: ignore[arg-type]
        rng=np.random.default_rng(1),
    )
    return search.run()


def test_finds_the_best_of_many_arms() -> None:
    """Of forty coins, the one that nearly always holds is the anchor."""
    found = searched(Coins(*([0.4] * 39), 0.98), beam_size=1)
    assert found.anchor == (39,)
    assert found.met_threshold
    assert found.interval is not None
    assert found.interval[0] < 0.98 < found.interval[1]


def test_a_met_threshold_is_met() -> None:
    """In forty searches among coins just below the threshold, hardly one claims that it is met: chance decides about
    the mean, and delta bounds how far off it is.
    """
    claimed = 0
    for seed in range(40):
        search = anchors.Search(
            Ask(lambda x: x),
            Coins(*([0.90] * 5)),
            lambda answers: answers[:, 0] > 0.5,
            options=anchors.Options(max_anchor_size=1),
            rng=np.random.default_rng(seed),
        )
        claimed += search.run().met_threshold
    assert claimed <= 2


def test_leaves_out_what_adds_nothing() -> None:
    """A predicate that the search needed on its way, and that the precision does not need, is not in the anchor."""
    found = searched(Coins(0.4, 0.6, 1.0))
    assert found.anchor == (2,)


def test_draws_in_blocks_of_bounded_size() -> None:
    """No more rows are drawn at once than the law says."""
    law = Coins(*([0.5] * 30), largest=64)
    searched(law, max_anchor_size=2)
    assert law.drawn <= 64


def test_keeps_rows_back_to_measure_what_it_found() -> None:
    """Though the budget is spent in the search, fresh rows are left for the precision."""
    ask = Ask(lambda x: x, max_rows=4000)
    found = searched(Coins(*([0.9] * 60)), ask=ask)
    assert not found.complete
    assert found.samples >= 900
    assert ask.rows <= 4000


@pytest.mark.parametrize("rows", [0, 1, 5, 20, 60, 101, 250])
def test_says_what_it_saw_when_the_budget_is_small(rows: int) -> None:
    """However few the rows, something is found, and nothing is claimed that was not seen."""
    ask = Ask(lambda x: x, max_rows=rows)
    found = searched(Coins(0.5, 0.9), ask=ask)
    assert not found.complete
    assert ask.rows <= rows
    assert not found.met_threshold
    assert found.reason
