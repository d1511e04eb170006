"""What the model says, as detectors of adversarial inputs compare it."""

from __future__ import annotations

from typing import Final

import numpy as np

from headrace.detectors.base import Predict
from headrace.errors import RuntimeFailed
from headrace.payload import Array

_LEAST: Final = 1e-9
"""Of a probability: a model that says 0 is not infinitely sure."""


def ask(predict: Predict, rows: Array) -> Array:
    """The model's answers `[n, k]`; of no rows it is not asked, and k is 1.

    Raises:
        RuntimeFailed: it gave other than one row of finite numbers for each.
    """
    if not rows.shape[0]:
        return np.empty((0, 1))
    answers = np.asarray(predict(rows), np.float64)
    if answers.ndim != 2 or answers.shape[0] != rows.shape[0] or not np.isfinite(answers).all():
        raise RuntimeFailed(
            f"a detector asked the model for {rows.shape[0]} rows and expected as many rows of finite numbers, got "
            f"{list(answers.shape)}{'' if np.isfinite(answers).all() else ' with NaN or infinity'}"
        )
    return answers


def units(answers: Array) -> Array:
    """`[k]`: what differences of answers are told in. Of probabilities 1, of numbers their standard deviation."""
    sums = answers.sum(1)
    if answers.shape[1] > 1 and answers.min() >= -1e-6 and np.abs(sums - 1.0).max() < 1e-3:
        return np.ones(answers.shape[1])
    spread = answers.std(0)
    return np.where(spread > 1e-12 * np.maximum(np.abs(answers).max(0), 1e-300), spread, 1.0)


def moved(before: Array, after: Array, unit: Array) -> Array:
    """The L1 distance of answers `[n, k]`: `[n]`, of probabilities from 0 to 2."""
    distance: Array = (np.abs(before - after) / unit).sum(1)
    return distance


def divergence(before: Array, after: Array, unit: Array, *, probabilities: bool) -> Array:
    """KL(before || after) of probabilities in nats, of numbers that of normal laws of unit variance: `[n]`."""
    if not probabilities:
        squared: Array = (((before - after) / unit) ** 2).sum(1) / 2
        return squared
    p, q = np.clip(before, _LEAST, None), np.clip(after, _LEAST, None)
    p, q = p / p.sum(1, keepdims=True), q / q.sum(1, keepdims=True)
    found: Array = (p * np.log(p / q)).sum(1)
    return np.maximum(found, 0.0)
