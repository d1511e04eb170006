"""LIME: what every explainer keeps, its surrogate against scikit-learn's ridge, and tables, texts and images of which the
answer is known.
"""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from headrace.errors import InvalidRequest
from headrace.explainers.base import Ask, Reference
from headrace.explainers.lime import Lime, surrogate
from headrace.features import Feature, Features, numeric
from headrace.testing.explainers import ExplainerConformance


class TestLime(ExplainerConformance):
    method = "lime"


class TestLimeOfText(ExplainerConformance):
    method = "lime"

    def reference(self):
        x = np.array(["a good day", "a bad day", "good and bad", "nothing"], object)
        return Reference(features=Features(columns=()), x=x, classes=("sad", "glad"))

    def predict(self, x):
        glad = 0.5 + 0.4 * np.array([("good" in text) - ("bad" in text) for text in x], float)
        return np.stack([1 - glad, glad], axis=1)

    def row(self):
        return np.array("What a good, good day (not a bad one).", object)


class TestLimeOfImages(ExplainerConformance):
    method = "lime"

    def reference(self):
        x = np.random.default_rng(0).random((10, 64))
        return Reference(features=numeric(64, shape=(8, 8)), x=x, classes=("dark", "bright"))

    def predict(self, x):
        bright = x.reshape(-1, 8, 8)[:, :2, :2].max(axis=(1, 2)).clip(0, 1)
        return np.stack([1 - bright, bright], axis=1)


def test_the_surrogate_is_the_weighted_ridge():
    """Weights, intercept and R2 are those of scikit-learn's ridge with the same weights of samples."""
    rng = np.random.default_rng(2)
    seen, kernel = rng.normal(size=(300, 6)), rng.random(300)
    said = seen @ rng.normal(size=(6, 2)) + rng.normal(size=(300, 2))
    weights, intercept, fit = surrogate(seen, said, kernel, ridge=1.0, parts=6)
    oracle = Ridge(alpha=1.0).fit(seen, said, sample_weight=kernel)
    assert np.allclose(weights, oracle.coef_, atol=1e-10)
    assert np.allclose(intercept, oracle.intercept_, atol=1e-10)
    for output in range(2):
        one = Ridge(alpha=1.0).fit(seen, said[:, output], sample_weight=kernel)
        assert fit[output] == pytest.approx(one.score(seen, said[:, output], sample_weight=kernel))


def test_a_linear_model_is_found_again():
    """Of a model that is linear, the weights without quarters are its own, and R2 is 1."""
    rng = np.random.default_rng(3)
    table, weights = rng.normal(size=(200, 5)) * [1, 2, 3, 4, 5], np.array([1.0, -2.0, 0.5, 0.0, 3.0])
    found = Lime.make(Reference(features=numeric(5), x=table)).explain(
        Ask(lambda x: (x @ weights)[:, None]), table[0], discretize=False, ridge=1e-9
    )
    assert np.allclose(found.data["weights"][0], weights * table.std(axis=0), atol=1e-6)
    assert found.data["score"][0] == pytest.approx(1)


def test_only_columns_that_matter_weigh():
    """Of a model that reads two columns of six, one a category, those two have the largest weights."""
    rng = np.random.default_rng(5)
    table = np.column_stack([rng.normal(size=(400, 5)), rng.integers(0, 3, 400)])
    columns = (
        *(Feature(name=f"x{at}") for at in range(5)),
        Feature(name="colour", kind="category", categories=("red", "green", "blue")),
    )

    def predict(x):
        high = 0.1 + 0.4 * (x[:, 1] > 0.7) + 0.4 * (x[:, 5] == 1)
        return np.stack([1 - high, high], axis=1)

    x = np.array([0.0, 2.0, 0.0, 0.0, 0.0, 1.0])
    found = Lime.make(Reference(features=Features(columns=columns), x=table, classes=("no", "yes"))).explain(
        Ask(predict), x
    )
    order = np.argsort(-np.abs(found.data["weights"][1]))
    assert set(order[:2]) == {1, 5}
    assert found.data["weights"][1][[1, 5]].min() > 0.25
    assert found.data["feature_names"][5] == "colour = green"
    assert found.data["score"][1] > 0.9


def test_words_are_weighed_by_what_they_do():
    """Of a text the word that raises the answer has the largest weight, the one that lowers it the least."""
    case = TestLimeOfText()
    found = Lime.make(case.reference()).explain(Ask(case.predict), case.row())
    names, weights = found.data["feature_names"], found.data["weights"][1]
    assert names[weights.argmax()] == "good"
    assert names[weights.argmin()] == "bad"
    assert names.count("good") == 1


def test_the_patch_that_counts_weighs_most():
    """Of an image the patch that holds the pixels which the model reads has the largest weight."""
    case = TestLimeOfImages()
    x = np.zeros(64)
    x[0] = 1.0
    found = Lime.make(case.reference()).explain(Ask(case.predict), x, segments=16)
    assert found.data["segments"].ravel()[0] == np.abs(found.data["weights"][1]).argmax()


def test_a_bad_fit_is_said():
    """Where the linear model cannot follow, R2 is low and a warning says not to rely on it."""
    table = np.random.default_rng(1).normal(size=(300, 4))
    wild = lambda x: np.sin(40 * x.sum(axis=1))[:, None]  # noqa: E731
    found = Lime.make(Reference(features=numeric(4), x=table)).explain(Ask(wild), table[0])
    assert found.data["score"][0] < 0.3
    assert any("fits badly" in each for each in found.warnings)


def test_a_text_without_words_is_refused():
    """There is nothing to weigh in a text of no word."""
    case = TestLimeOfText()
    with pytest.raises(InvalidRequest, match="no word"):
        Lime.make(case.reference()).explain(Ask(case.predict), np.array("... !", object))
