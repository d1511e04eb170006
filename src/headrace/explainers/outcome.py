"""What a model's answer means: a class out of several, or a number. Read by the explainers that compare answers.

A model of classes may give a probability for each, only that of the second of two, only the position of the class, or
one-hot labels: all are read into `[n, k]`. Whether it is one of classes, the reference says: it has classes, or whole
labels; where it says neither, a first answer of several columns that sum to one.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from headrace.errors import InvalidRequest
from headrace.explainers.base import Reference
from headrace.payload import Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """How the answers of one model are read."""

    is_classifier: bool
    classes: tuple[str, ...]
    """Of a classifier, one name per probability."""
    output: int = 0
    """Of several numbers, which."""

    def probabilities(self, answers: Array) -> Array:
        """Of a classifier: answers to `[n, k]`, k at least 2."""
        answers = _columns(answers)
        if answers.shape[1] > 1:
            return answers
        if len(self.classes) > 2:
            positions = answers[:, 0].astype(np.int64).clip(0, len(self.classes) - 1)
            one_hot: Array = np.eye(len(self.classes))[positions]
            return one_hot
        return np.concatenate([1 - answers, answers], axis=1)

    def positions(self, answers: Array) -> Array:
        """Of a classifier: answers to `[n]`, the position of the likeliest class; the first of equals."""
        found: Array = self.probabilities(answers).argmax(axis=1)
        return found

    def numbers(self, answers: Array) -> Array:
        """Of numbers: answers to `[n]`."""
        answers = _columns(answers)
        if self.output >= answers.shape[1]:
            raise InvalidRequest(f"output {self.output} is not there: the model answers {answers.shape[1]} numbers")
        column: Array = answers[:, self.output]
        return column

    def text(self, answer: Array) -> str:
        """One answer `[1, k]` as a person reads it: the class and its probability, or the number."""
        if not self.is_classifier:
            return f"{self.numbers(answer)[0]:.4g}"
        probabilities = self.probabilities(answer)[0]
        at = int(probabilities.argmax())
        return f"'{self.classes[at]}' ({probabilities[at]:.2f})"


def outcome(reference: Reference, answer: Array, *, output: int = 0) -> Outcome:
    """How answers are read, from what the reference says and a first answer.

    Args:
        reference: Of the explainer.
        answer: `[n, k]`.
        output: Of a model that answers several numbers, which is meant.

    Raises:
        InvalidRequest: the answer has another number of classes than the reference; there is no such output.
    """
    answer = _columns(answer)
    width = answer.shape[1]
    classes = reference.classes
    if classes and width not in {1, len(classes)}:
        raise InvalidRequest(f"the model answers {width} columns, and the reference has {len(classes)} classes")
    is_classifier = bool(classes) or (
        reference.y.dtype.kind in "iub" if reference.y is not None else _sums_to_one(answer)
    )
    if not is_classifier:
        if not 0 <= output < width:
            raise InvalidRequest(f"output {output} is not there: the model answers {width} numbers")
        return Outcome(is_classifier=False, classes=(), output=output)
    count = max(width, 2)
    if width == 1 and reference.y is not None and len(reference.y):
        count = max(count, int(reference.y.max()) + 1)
    return Outcome(is_classifier=True, classes=classes or tuple(str(each) for each in range(count)))


def _columns(answers: Array) -> Array:
    answers = np.asarray(answers, dtype=np.float64)
    return answers[:, None] if answers.ndim == 1 else answers


def _sums_to_one(answer: Array) -> bool:
    return answer.shape[1] > 1 and bool((answer >= 0).all() and (np.abs(answer.sum(axis=1) - 1) < 1e-3).all())
