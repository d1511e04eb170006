"""The reference as counts: categories, and intervals between quantiles. Used by tests of counts (chi-square, PSI, ...).

A category is a cell, and all unseen ones together are another. Of a number, the reference's quantiles bound the cells,
and a value that makes up a whole cell of its own (a constant, zero in a sparse column, each value of a few-valued
column) has a cell to itself, so that what lies just beside it is seen.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from headrace.detectors import permutation
from headrace.features import Features
from headrace.payload import Array


class Cells:
    """The cells of some columns, with how many rows of the reference each holds."""

    def __init__(self, features: Features, columns: tuple[int, ...], *, edges: list[Array], atoms: list[Array]) -> None:
        self.columns = columns
        self.edges = edges
        """Of a number: bounds, ascending; of a category: empty."""
        self.atoms = atoms
        """Which of them is a cell of its own."""
        self.categories = tuple(
            len(features.columns[at].categories) if features.columns[at].is_category else None for at in columns
        )
        self.reference: list[Array] = []
        """FP64 counts of each column."""

    @classmethod
    def of(cls, x: Array, features: Features, columns: tuple[int, ...], *, bins: int) -> Cells:
        """Those of a reference `[n, f]`."""
        edges: list[Array] = []
        atoms: list[Array] = []
        for at in columns:
            values = x[:, at][~np.isnan(x[:, at])]
            if features.columns[at].is_category or not values.size:
                edges.append(np.empty(0))
                atoms.append(np.empty(0, dtype=bool))
                continue
            distinct, counts = np.unique(values, return_counts=True)
            if distinct.size <= bins:
                edges.append(distinct)
                atoms.append(np.ones(distinct.size, dtype=bool))
                continue
            cut = np.quantile(values, np.arange(1, bins) / bins, method="inverted_cdf")
            cut = np.unique(np.concatenate([cut, distinct[counts * bins >= values.size]]))
            edges.append(cut)
            atoms.append(counts[np.searchsorted(distinct, cut)] * bins >= values.size)
        made = cls(features, columns, edges=edges, atoms=atoms)
        made.reference = made.counts(x)
        return made

    def counts(self, x: Array) -> list[Array]:
        """Rows `[m, f]` in each cell, per column `[cells]`; missing values are in none."""
        found: list[Array] = []
        for at, edges, atoms, categories in zip(self.columns, self.edges, self.atoms, self.categories, strict=True):
            values = x[:, at]
            values = values[~np.isnan(values)]
            if categories is not None:
                known = (values >= 0) & (values < categories)
                cell = np.where(known, values, categories).astype(np.int64)
                found.append(np.bincount(cell, minlength=categories + 1).astype(np.float64))
                continue
            left = np.searchsorted(edges, values, side="left")
            own = np.append(atoms, False)[left] & (np.append(edges, np.nan)[left] == values)
            found.append(np.bincount(2 * left + own, minlength=2 * edges.size + 1).astype(np.float64))
        return found

    def arrays(self) -> dict[str, Array]:
        """What `restore` takes."""
        return {
            "edges": np.concatenate([np.empty(0), *self.edges]),
            "atoms": np.concatenate([np.empty(0, dtype=bool), *self.atoms]),
            "edge_counts": np.array([each.size for each in self.edges], dtype=np.int64),
            "counts": np.concatenate([np.empty(0), *self.reference]),
            "cell_counts": np.array([each.size for each in self.reference], dtype=np.int64),
        }

    @classmethod
    def restore(cls, arrays: dict[str, Array], features: Features, columns: tuple[int, ...]) -> Cells:
        """The cells that had these arrays."""
        made = cls(
            features,
            columns,
            edges=cut(arrays["edges"], arrays["edge_counts"]),
            atoms=cut(arrays["atoms"], arrays["edge_counts"]),
        )
        made.reference = cut(arrays["counts"], arrays["cell_counts"])
        return made


def cut(values: Array, lengths: Array) -> list[Array]:
    """Pieces of these lengths, one after the other."""
    return [np.ascontiguousarray(each) for each in np.split(values, np.cumsum(lengths)[:-1])] if lengths.size else []


Statistic = Callable[[Array, Array], Array]
"""Counts of reference and sample, `[..., cells]` both, to a statistic `[...]`."""


def dealt(statistic: Statistic, reference: Array, sample: Array, *, most: int, rng: np.random.Generator) -> float:
    """The p-value of a statistic of counts, given the pooled counts and the size of both samples.

    Dealing pooled rows to two samples makes their counts multivariate hypergeometric, so counts are drawn, not rows
    (Hope 1968, J. R. Statist. Soc. B 30, is the Monte Carlo test; the margins are those of Fisher's exact one).
    """
    pooled = (reference + sample).astype(np.int64)
    rows = int(sample.sum())

    def draw(count: int) -> Array:
        drawn = rng.multivariate_hypergeometric(pooled, rows, size=count, method="marginals").astype(np.float64)
        return statistic(pooled - drawn, drawn)

    return permutation.p_value(draw, float(statistic(reference, sample)), most=most)


def both(reference: Array, sample: Array) -> tuple[Array, Array] | None:
    """The counts in cells that any row is in; None: fewer than two such cells, or a side without rows: nothing
    differs.
    """
    held = reference + sample > 0
    if held.sum() < 2 or not reference.any() or not sample.any():
        return None
    return reference[held], sample[held]
