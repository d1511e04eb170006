"""Anchors of texts: words that are known to matter, ways to take words away, odd texts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from headrace.errors import InvalidRequest
from headrace.explainers.anchor_text import AnchorText, TextLaw
from headrace.explainers.base import Ask, Reference
from headrace.features import Features, numeric
from headrace.payload import Array
from headrace.testing.explainers import ExplainerConformance

TEXTS = ("the film is not good", "a good film", "not bad, not good", "a bad film", "dull", "good")


def texts(*each: str) -> Array:
    made = np.empty(len(each), dtype=object)
    made[:] = each
    return made


def one(text: str) -> Array:
    return np.array(text, dtype=object)


def negative(x: Array) -> Array:
    """Not good is bad; so is bad itself; else it is good."""
    no = np.array([("not" in t.split() and "good" in t.split()) or "bad" in t.split() for t in x], np.float64)
    return np.stack([no, 1 - no], axis=1)


REFERENCE = Reference(features=Features(columns=()), x=texts(*TEXTS), classes=("negative", "positive"))


class TestAnchorText(ExplainerConformance):
    method = "anchor-text"

    def reference(self) -> Reference:
        return Reference(
            features=Features(columns=()),
            x=texts(*TEXTS),
            y=np.array([0, 1, 0, 0, 1, 1]),
            classes=("negative", "positive", "neither"),
        )

    def predict(self, x: Array) -> Array:
        two = negative(x)
        return np.concatenate([two, 0 * two[:, :1]], axis=1)

    def row(self) -> Array:
        return one("this is not a good film")


@pytest.mark.parametrize("perturbation", ["mask", "drop"])
def test_finds_the_words_that_matter(perturbation: Any) -> None:
    """Of a model that looks for two words, the anchor is these two, in the order of the text."""
    found = AnchorText.make(REFERENCE).explain(
        Ask(negative), one("This is not a very good film"), perturbation=perturbation
    )
    assert found.data["anchor"] == ["not", "good"]
    assert found.data["met_threshold"]
    assert found.data["precision"] == 1.0
    assert abs(found.data["coverage"] - 0.25) < 0.02
    assert found.data["reference_coverage"] == 2 / 6
    assert "'not' and 'good'" in found.text


def test_a_variant_keeps_the_rest_of_the_text() -> None:
    """Masks stand where words stood; a word that is left out takes its space with it, and no punctuation."""
    rng = np.random.default_rng(0)
    text = "Well, it isn't good."
    masked = TextLaw(text, mask="UNK", change=0.999999, count=10, rng=rng)
    assert masked.words == ("Well", "it", "isn't", "good")
    assert masked.draw([(2,), (0, 3)], 1, rng).tolist() == ["UNK, UNK isn't UNK.", "Well, UNK UNK good."]
    dropped = TextLaw(text, mask=None, change=0.999999, count=10, rng=rng)
    assert dropped.draw([(2,), (0, 3), (0, 1, 2, 3)], 1, rng).tolist() == [", isn't.", "Well, good.", text]


@pytest.mark.parametrize("text", ["", "...", "word", "日本語のテキスト", "a" * 5000])
def test_odd_texts_are_explained(text: str) -> None:
    """A text without words, with one, or in another script is explained."""
    found = AnchorText.make(REFERENCE).explain(Ask(negative), one(text))
    assert found.complete
    assert found.data["precision"] == 1.0


def test_needs_no_reference_texts() -> None:
    """Without texts in the reference there is an anchor, and no share of them."""
    reference = Reference(features=Features(columns=()), x=texts(), classes=("negative", "positive"))
    found = AnchorText.make(reference).explain(Ask(negative), one("not good"))
    assert found.data["reference_coverage"] is None


def test_refuses_what_is_no_text() -> None:
    """A table's reference, several texts and a number are the caller's error."""
    with pytest.raises(InvalidRequest, match="texts"):
        AnchorText.make(Reference(features=numeric(2), x=np.zeros((3, 2))))
    explainer = AnchorText.make(REFERENCE)
    for odd in (texts("a", "b"), np.array(1.0)):
        with pytest.raises(InvalidRequest, match="one text"):
            explainer.explain(Ask(negative), odd)
