"""Permutation importance: what every explainer keeps, its closed form, and the size of its intervals."""

from __future__ import annotations

import numpy as np
import pytest

from headrace.errors import InvalidRequest
from headrace.explainers.base import Ask, Reference
from headrace.explainers.permutation_importance import PermutationImportance
from headrace.features import numeric
from headrace.testing.explainers import ExplainerConformance


class TestPermutationImportance(ExplainerConformance):
    method = "permutation-importance"


def explained(table, y, predict, **options):
    classes = ("no", "yes") if y.dtype.kind == "i" else ()
    reference = Reference(features=numeric(table.shape[1]), x=table, y=y, classes=classes)
    return PermutationImportance.make(reference).explain(Ask(predict), np.empty((0, table.shape[1])), **options)


def test_a_linear_model_has_its_closed_form():
    """With independent columns the squared error grows by 2 w^2 var(x): within four standard errors."""
    rng = np.random.default_rng(0)
    table, weights = rng.normal(size=(2000, 3)), np.array([2.0, 1.0, 0.0])
    y = table @ weights + rng.normal(size=2000)
    found = explained(table, y, lambda x: (x @ weights)[:, None], sample=2000)
    truth = 2 * weights**2 * table.var(axis=0)
    assert (np.abs(found.data["importance"] - truth) <= 4 * found.data["standard_errors"] + 1e-12).all()
    assert found.data["importance"][2] == 0
    assert found.data["base_loss"] == pytest.approx(1, abs=0.15)


def test_intervals_hold_the_truth():
    """In eighty samples of 200 rows, the 95 % interval of a known importance misses it no oftener than it may."""
    rng = np.random.default_rng(1)
    missed = 0
    for _ in range(80):
        table = rng.normal(size=(200, 1))
        found = explained(table, table[:, 0] + rng.normal(size=200), lambda x: x, repeats=3)
        missed += not found.data["low"][0] <= 2.0 <= found.data["high"][0]
    assert missed <= 14  # binomial(80, 0.05): P(> 10) < 0.1 %; the rows are normal only about, so a little more


@pytest.mark.parametrize("loss", ["auto", "error", "log-loss"])
def test_classes_have_losses_of_their_own(loss):
    """Of a classifier the column that it reads matters, and the other does not."""
    rng = np.random.default_rng(2)
    table = rng.normal(size=(400, 2))
    y = (table[:, 0] > 0).astype(np.int64)
    yes = lambda x: np.clip(0.5 + x[:, 0], 0.05, 0.95)  # noqa: E731
    found = explained(table, y, lambda x: np.stack([1 - yes(x), yes(x)], axis=1), loss=loss)
    assert found.data["low"][0] > 0.1
    assert found.data["importance"][1] == 0


def test_what_does_not_fit_is_refused():
    """No labels, a loss of the other kind of model, or a label that is no class is refused."""
    table = np.zeros((4, 2))
    with pytest.raises(InvalidRequest, match="label"):
        PermutationImportance.make(Reference(features=numeric(2), x=table))
    with pytest.raises(InvalidRequest, match="squared"):
        explained(table, np.array([0, 1, 0, 1]), lambda x: np.full((len(x), 2), 0.5), loss="squared")
    with pytest.raises(InvalidRequest, match="positions"):
        explained(table, np.array([0, 1, 0, 5]), lambda x: np.full((len(x), 2), 0.5))
