"""What holds of every Shapley method: the axioms, and the numbers of a game whose values are known.

Left out: that a sampled value comes near the exact one on other models than the forest here.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import RandomForestClassifier

from headrace.errors import InvalidRequest
from headrace.explainers import registry
from headrace.explainers.base import Ask, Reference
from headrace.explainers.exact_shap import ExactShap
from headrace.explainers.kernel_shap import KernelShap, fitted, plan, weigh
from headrace.explainers.permutation_shap import PermutationShap
from headrace.features import numeric

METHODS = ("exact-shap", "kernel-shap", "permutation-shap")


def effects(explanation):
    return np.concatenate(explanation.data["shap_values"])


def brute_force(predict, x, background):
    """The definition, coalition by coalition."""
    count = len(x)

    def value(members):
        mixed = background.copy()
        mixed[:, list(members)] = x[list(members)]
        return predict(mixed).mean(axis=0)

    found = []
    for player in range(count):
        rest = [at for at in range(count) if at != player]
        found.append(
            sum(
                math.factorial(size)
                * math.factorial(count - size - 1)
                / math.factorial(count)
                * (value((*members, player)) - value(members))
                for size in range(count)
                for members in itertools.combinations(rest, size)
            )
        )
    return np.stack(found, axis=1)


@pytest.fixture(scope="module")
def forest():
    x, y = load_breast_cancer(return_X_y=True)
    x = x[:, :8]
    model = RandomForestClassifier(n_estimators=20, max_depth=4, random_state=0).fit(x, y)
    return Reference(features=numeric(8), x=x[:20], classes=("malignant", "benign"), artifact=model), x[300]


@pytest.mark.parametrize(
    ("method", "options", "tolerance"),
    [
        ("exact-shap", {}, 1e-15),
        ("kernel-shap", {"samples": 254}, 1e-15),
        ("permutation-shap", {"permutations": 100}, 2e-3),
    ],
)
def test_methods_meet_the_enumerated_values_of_a_forest(forest, method, options, tolerance):
    """Exact and kernel SHAP with every coalition are the brute force; a hundred antithetic walks come within 2e-3."""
    reference, x = forest
    predict = reference.artifact.predict_proba
    found = registry.find(method).make(reference).explain(Ask(predict), x, **options)
    assert np.abs(effects(found) - brute_force(predict, x, reference.x)).max() < tolerance


@pytest.mark.parametrize("method", ["kernel-shap", "permutation-shap"])
def test_a_linear_model_has_its_closed_form(method):
    """Of a linear model every method gives the coefficient times the distance from the mean of 100 rows."""
    rng = np.random.default_rng(4)
    background, weights = rng.normal(size=(100, 30)), rng.normal(size=30)
    x = 2 * rng.normal(size=30)
    explainer = registry.find(method).make(Reference(features=numeric(30), x=background), background=100)
    found = explainer.explain(Ask(lambda rows: (rows @ weights)[:, None]), x)
    assert np.abs(effects(found)[0] - weights * (x - background.mean(axis=0))).max() < 1e-9


def polynomial(seed):
    """A model of four columns with interactions; it reads the columns 0 and 1 alike, and column 3 not at all."""
    a, b, c = np.random.default_rng(seed).normal(size=3)
    return lambda x: (a * x[:, 0] * x[:, 1] + b * (x[:, 0] + x[:, 1]) * x[:, 2] + c * np.sin(x[:, 2]))[:, None]


def game(seed):
    rng = np.random.default_rng(seed)
    background, x = rng.normal(size=(7, 4)), rng.normal(size=4)
    background[:, 1] = background[:, 0]
    x[1] = x[0]
    return Reference(features=numeric(4), x=background), x


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_axioms(method, seed):
    """Effects add up to the answer; columns that play alike share alike; one that is not read has none; effects of a
    sum of models are the sums of the effects.
    """
    reference, x = game(seed)
    explainer = registry.find(method).make(reference, seed=seed % 7)
    first, second = polynomial(seed), polynomial(seed + 1)
    found = explainer.explain(Ask(first), x)
    one = effects(found)[0]
    two = effects(explainer.explain(Ask(second), x))[0]
    both = effects(explainer.explain(Ask(lambda rows: first(rows) + 2 * second(rows)), x))[0]
    scale = 1 + np.abs(one).max() + np.abs(two).max()
    assert abs(one.sum() + found.data["expected_value"][0] - first(x[None])[0, 0]) < 1e-9 * scale
    assert abs(one[3]) < 1e-9 * scale
    assert np.abs(both - one - 2 * two).max() < 1e-9 * scale
    if method != "permutation-shap":  # symmetric in expectation only
        assert abs(one[0] - one[1]) < 1e-9 * scale


def test_permutation_errors_cover_the_truth(forest):
    """The exact value lies within four standard errors in each of twenty seeds, and within two in nearly all."""
    reference, x = forest
    predict = reference.artifact.predict_proba
    truth = effects(ExactShap.make(reference).explain(Ask(predict), x))
    within = []
    for seed in range(20):
        found = PermutationShap.make(reference, seed=seed).explain(Ask(predict), x, permutations=40)
        errors = np.concatenate(found.data["standard_errors"])
        within.append(np.abs(effects(found) - truth) / errors)
    assert np.mean(np.stack(within) < 2) > 0.85
    assert np.stack(within).max() < 6


def test_a_kernel_answer_of_few_samples_still_adds_up(forest):
    """Efficiency holds whatever the number of coalitions, because it is a constraint of the fit."""
    reference, x = forest
    for samples in (2, 5, 20, 60):
        found = KernelShap.make(reference).explain(Ask(reference.artifact.predict_proba), x, samples=samples)
        assert found.data["residual"].max() < 1e-12


@pytest.mark.parametrize("count", [2, 3, 5, 8, 9])
def test_kernel_weights_are_those_of_the_theorem(count):
    """With every coalition listed the weights are proportional to (M - 1) / (C(M, s) s (M - s))."""
    coalitions, layers, counts = plan(count, 2**count - 2, np.random.default_rng(0))
    assert len(np.unique(coalitions, axis=0)) == 2**count - 2
    sizes = coalitions.sum(axis=1)
    kernel = np.array([(count - 1) / (math.comb(count, s) * s * (count - s)) for s in sizes])
    ratio = weigh(count, layers, counts) / kernel
    assert np.allclose(ratio, ratio[0], rtol=1e-12)


def test_drawn_coalitions_are_unbiased():
    """Averaged over draws, the kernel's fit to a random game of ten players comes to its Shapley values."""
    rng = np.random.default_rng(8)
    table = rng.normal(size=1024)
    table[0] = 0.0
    powers = 1 << np.arange(10)
    from headrace.explainers.exact_shap import enumerated

    truth = enumerated(table[:, None])[0]
    total = table[-1:]
    runs = []
    for seed in range(60):
        coalitions, layers, counts = plan(10, 200, np.random.default_rng(seed))
        runs.append(fitted(coalitions, weigh(10, layers, counts), table[coalitions @ powers][:, None], total)[0])
    error = np.std(runs, axis=0, ddof=1) / np.sqrt(60)
    assert (np.abs(np.mean(runs, axis=0) - truth) < 4 * error + 0.02).all()


def test_the_logit_adds_up_in_log_odds(forest):
    """Under the logit effects add up to the log-odds of the row's probability, and the explanation says so."""
    reference, x = forest
    predict = lambda rows: np.clip(reference.artifact.predict_proba(rows), 0.01, 0.99)  # noqa: E731
    found = KernelShap.make(reference, link="logit").explain(Ask(predict), x)
    answer = predict(x[None])[0]
    total = effects(found).sum(axis=1) + found.data["expected_value"]
    assert np.allclose(total, np.log(answer / (1 - answer)), atol=1e-9)
    assert found.data["output_space"] == "log-odds"


def test_more_columns_than_can_be_enumerated_are_refused():
    """Thirteen columns are too many for the exact method, which names the one to use."""
    with pytest.raises(InvalidRequest, match="permutation-shap"):
        ExactShap.make(Reference(features=numeric(13), x=np.zeros((3, 13))))


def test_a_cut_exact_answer_is_exact_for_the_rows_reached(forest):
    """When the budget ends in the middle of the background, the effects are those against the rows that were reached."""
    reference, x = forest
    predict = reference.artifact.predict_proba
    found = ExactShap.make(reference, seed=1).explain(Ask(predict, max_rows=256 * 5 + 10), x)
    order = np.random.default_rng(1).permutation(20)
    assert not found.complete
    assert found.data["background_rows"] == 5
    assert np.abs(effects(found) - brute_force(predict, x, reference.x[order[:5]])).max() < 1e-12


@pytest.mark.parametrize("parameters", [{"background": 0}, {"link": "probit"}])
@pytest.mark.parametrize("method", METHODS)
def test_parameters_are_checked(method, parameters):
    """A parameter out of its range is refused."""
    with pytest.raises(InvalidRequest):
        registry.find(method).make(Reference(features=numeric(2), x=np.zeros((3, 2))), **parameters)
