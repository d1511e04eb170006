"""How answers are read: which are of classes, and what a class is in each form."""

from __future__ import annotations

import numpy as np
import pytest

from headrace.errors import InvalidRequest
from headrace.explainers.base import Reference
from headrace.explainers.outcome import outcome
from headrace.features import numeric
from headrace.payload import Array


def reference(*classes: str, y: Array | None = None) -> Reference:
    return Reference(features=numeric(1), x=np.zeros((2, 1)), y=y, classes=classes)


def test_one_column_of_two_classes_is_the_probability_of_the_second() -> None:
    """A single column of a model of two classes is read as both probabilities; a half is the first class."""
    answers = np.array([[0.2], [0.5], [0.9]])
    meaning = outcome(reference("no", "yes"), answers)
    assert np.allclose(meaning.probabilities(answers), [[0.8, 0.2], [0.5, 0.5], [0.1, 0.9]])
    assert meaning.positions(answers).tolist() == [0, 0, 1]
    assert meaning.text(answers[2:]) == "'yes' (0.90)"


def test_one_column_of_three_classes_is_the_position() -> None:
    """A single column of a model of three classes holds positions."""
    meaning = outcome(reference("a", "b", "c"), np.array([[2.0]]))
    assert meaning.positions(np.array([[2.0], [0.0]])).tolist() == [2, 0]


@pytest.mark.parametrize(
    ("made", "answers", "is_classifier"),
    [
        (reference(), [[0.2, 0.8]], True),
        (reference(), [[2.0, 8.0]], False),
        (reference(), [[0.5]], False),
        (reference(y=np.array([0, 1])), [[0.5]], True),
        (reference(y=np.array([0.0, 1.5])), [[0.2, 0.8]], False),
    ],
    ids=["sums to one", "does not", "one number", "whole labels", "targets"],
)
def test_says_whether_it_is_of_classes(made: Reference, answers: list[list[float]], is_classifier: bool) -> None:
    """Classes are known by their names, by whole labels, or by answers that sum to one."""
    assert outcome(made, np.array(answers)).is_classifier == is_classifier


def test_refuses_what_does_not_fit() -> None:
    """Another number of classes than the reference has, and an output that is not there, are named."""
    with pytest.raises(InvalidRequest, match="3 columns"):
        outcome(reference("a", "b"), np.array([[0.1, 0.2, 0.7]]))
    with pytest.raises(InvalidRequest, match="output 4"):
        outcome(reference(), np.array([[1.0, 2.0]]), output=4)
