"""scikit-learn's support vector classifiers in numpy: one product with all support vectors where libsvm goes through
them one by one. Called by `candidates`.

The votes are libsvm's: each pair of classes has a decision, whose sign is a vote; of equal votes the first class wins.
Sums are in another order than libsvm's, so a decision may differ in its last digits; rows with a decision that close to
zero are declined, and the native model answers them. Labels are therefore the native ones, always.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np

from headrace.payload import Array
from headrace.runtimes.optimize.engine import Engine, Labels, Refused

CLASSIFIERS: Final = frozenset({"SVC", "NuSVC"})
_KERNELS: Final = frozenset({"rbf", "linear"})
_DOUBT: Final = 1e-9
"""Decisions nearer to zero than this share of what was added up are the native model's. Rounding is far less."""
_ROWS: Final = 1024
"""Of one product; more are cut, so that memory is bounded."""


def is_svm(model: Any) -> bool:
    """Whether the model is one of scikit-learn's kernel classifiers."""
    kind = type(model)
    return kind.__module__ == "sklearn.svm._classes" and kind.__name__ in CLASSIFIERS


class KernelVotes(Engine):
    """Labels of a support vector classifier.

    Raises:
        Refused: a kernel or a setting that is not known here.
    """

    name = "numpy"
    outputs = frozenset({"predict"})

    def __init__(self, model: Any, labels: Labels | None) -> None:
        if labels is None:
            raise Refused("the classes have no table")
        if model.kernel not in _KERNELS:
            raise Refused(f"kernel {model.kernel!r} has no numpy form here")
        if model._sparse or getattr(model, "break_ties", False):  # noqa: SLF001 - it stands nowhere else
            raise Refused("it was fitted on sparse rows, or breaks ties by scores")
        vectors = np.asarray(model.support_vectors_, np.float64)
        self._table = labels.table
        self._vectors = np.ascontiguousarray(vectors.T)
        self._squares = np.einsum("ij,ij->i", vectors, vectors)
        self._gamma = float(model._gamma) if model.kernel == "rbf" else None  # noqa: SLF001 - as it was fitted
        self._weights, self._pairs = _weights(model)
        self._intercept = np.asarray(model._intercept_, np.float64)
        self._scale = np.abs(self._weights)
        self._count = len(model.classes_)

    def answer(self, rows: Array, outputs: Sequence[str]) -> dict[str, Array] | None:
        """The labels; None where a decision is too close to tell."""
        parts = []
        for start in range(0, len(rows), _ROWS):
            votes = self._votes(rows[start : start + _ROWS])
            if votes is None:
                return None
            parts.append(votes)
        numbers = parts[0] if len(parts) == 1 else np.concatenate(parts)
        return dict.fromkeys(outputs, self._table.take(numbers))

    def _votes(self, rows: Array) -> Array | None:
        rows = rows if rows.dtype == np.float64 else rows.astype(np.float64)
        kernel = rows @ self._vectors
        doubt = _DOUBT
        if self._gamma is not None:
            squares = np.einsum("ij,ij->i", rows, rows)[:, None]
            kernel *= 2.0
            kernel -= self._squares
            kernel -= squares
            kernel *= self._gamma
            np.exp(kernel, out=kernel)
            # What rounding of a squared distance does to its exponential grows with the squares it is a difference of.
            doubt += 1e-14 * self._gamma * float(squares.max(initial=0.0) + self._squares.max(initial=0.0))
        decisions = kernel @ self._weights
        decisions += self._intercept
        bound = np.abs(kernel) @ self._scale
        bound += np.abs(self._intercept)
        if (np.abs(decisions) <= doubt * bound).any():
            return None
        votes = np.where(decisions > 0, self._pairs[0], self._pairs[1])
        counts = (votes[:, :, None] == np.arange(self._count)).sum(axis=1)
        numbers: Array = counts.argmax(axis=1)
        return numbers


def _weights(model: Any) -> tuple[Array, Array]:
    """For each pair of classes the weight of each support vector, shape (vectors, pairs), and the pairs, (2, pairs).

    libsvm keeps for a vector of class i its weight against class j at row j - 1 for j > i, else at row j.
    """
    duals = np.asarray(model._dual_coef_, np.float64)
    counts = np.asarray(model.n_support_)
    ends = np.cumsum(counts)
    starts = ends - counts
    classes = len(model.classes_)
    pairs = np.array([(i, j) for i in range(classes) for j in range(i + 1, classes)]).T
    weights = np.zeros((len(model.support_vectors_), pairs.shape[1]))
    for at, (i, j) in enumerate(pairs.T):
        of_i, of_j = slice(starts[i], ends[i]), slice(starts[j], ends[j])
        weights[of_i, at] = duals[j - 1, of_i]
        weights[of_j, at] = duals[i, of_j]
    return weights, pairs


def between(model: Any) -> Callable[[Array, np.random.Generator], Array]:
    """A function that puts rows on the way from one support vector to another, which crosses the borders of classes."""
    vectors = np.asarray(model.support_vectors_, np.float64)

    def move(rows: Array, rng: np.random.Generator) -> Array:
        one, other = rng.integers(len(vectors), size=(2, len(rows)))
        share = rng.random((len(rows), 1))
        moved: Array = share * vectors[one] + (1 - share) * vectors[other]
        return moved

    return move
