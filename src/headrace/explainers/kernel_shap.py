"""Kernel SHAP: Shapley values as the one weighted least squares fit to the values of coalitions.

Lundberg & Lee, "A Unified Approach to Interpreting Model Predictions" (NIPS 2017), theorem 2; paired sampling and the
constrained fit: Covert & Lee, "Improving KernelSHAP" (AISTATS 2021), sections 3.1 and 3.3.
"""

from __future__ import annotations

import itertools
import math
from typing import ClassVar, Final, Self

import numpy as np

from headrace.explainers import rows, shapley
from headrace.explainers.base import Ask, BudgetSpent, Data, Explainer, Explanation, Reference
from headrace.payload import Array

_EXTRA: Final = 256
"""Coalitions beyond two per column, where `samples` is not given."""
_LARGEST_LAYER: Final = 200_000
"""Coalitions of one size that are listed; more are drawn."""


class KernelShap(Explainer):
    """Coalitions of the smallest and largest sizes are listed where the number of samples allows (they weigh most), the
    others drawn by their weight, each with its complement; efficiency holds exactly, as a constraint of the fit.

    With every coalition listed the answer is the Shapley value itself. Deviations from the paper: no L1 penalty; the
    effects of columns that the drawn coalitions cannot tell apart are as equal as can be (least norm).
    """

    METHOD: ClassVar[str] = "kernel-shap"
    DATA: ClassVar[tuple[Data, ...]] = ("tabular", "image")

    def __init__(self, reference: Reference, background: Array, link: shapley.Link, seed: int) -> None:
        self._reference, self._background, self._link, self._seed = reference, background, link, seed

    @classmethod
    def make(cls, reference: Reference, *, seed: int = 0, background: int = 40, link: str = "identity") -> Self:
        """Prepare.

        Args:
            reference: Its rows are the background.
            seed: Of the draw of the background and of coalitions.
            background: How many of the reference's rows stand for a column that is left out.
            link: `identity`, or `logit`: effects on the log-odds of the mean probability.

        Raises:
            InvalidRequest: a parameter is out of its range.
        """
        chosen = rows.sample(rows.table(reference), background, np.random.default_rng(seed))
        return cls(reference, chosen, shapley.check_link(link, reference), seed)

    def explain(self, ask: Ask, x: Array, *, samples: int = 0) -> Explanation:
        """Explain one row `[f]`.

        Args:
            ask: The model; each coalition asks for as many rows as the background has.
            x: The row.
            samples: Coalitions, but for the empty one and that of all; 0: 2 M + 256 of M columns.
        """
        rows.at_least("samples", samples, 0)
        x = rows.row(self._reference.features, x)
        output_space = shapley.space(self._reference, self._link)
        warnings: list[str] = []
        game = shapley.Game(ask, x, self._background, link=self._link)
        count = len(game.players)
        wanted = samples or 2 * count + _EXTRA
        wanted = max(2, min(wanted, 2**count - 2 if count < 40 else wanted))
        affordable = max(1, (ask.left() - 1) // (min(wanted, 2 * count + 2) + 1))
        if affordable < len(self._background):
            warnings.append(f"the budget allows a background of {affordable} of {len(self._background)} rows")
            game = shapley.Game(ask, x, self._background[:affordable], link=self._link)
            count = len(game.players)
        try:
            base, total, said = game.ends()
        except BudgetSpent:
            return shapley.nothing(self.METHOD, self._reference.features, output_space)
        effects, asked, planned = (total - base)[:, None], 0, 0
        if count > 1:
            coalitions, layers, counts = plan(count, wanted, np.random.default_rng(self._seed))
            values = game.values(coalitions)
            asked, planned = len(values), len(coalitions)
            if not asked:
                return shapley.nothing(self.METHOD, self._reference.features, output_space)
            weights = weigh(count, layers[:asked], counts[:asked])
            effects = fitted(coalitions[:asked], weights, values - base, total - base)
        if asked < planned:
            warnings.append(f"{rows.SPENT}: {asked} of {planned} coalitions were asked")
        return shapley.explanation(
            self.METHOD,
            reference=self._reference,
            x=x,
            effects=game.spread_out(effects[:, :count]),
            base=base,
            total=total,
            said=said,
            output_space=output_space,
            complete=not warnings,
            warnings=tuple(warnings),
            extra={
                "coalitions": asked,
                "enumerated": count < 40 and asked == max(2**count - 2, 0),
                "background_rows": len(game.background),
            },
        )


def plan(count: int, wanted: int, rng: np.random.Generator) -> tuple[Array, Array, Array]:
    """Which coalitions are asked, the ones that weigh most first.

    Args:
        count: Players, 2 or more.
        wanted: Coalitions, about; a listed one and its complement always come together.
        rng: Of what is drawn.

    Returns:
        The coalitions `[n, count]`; the layer of each (the smaller of its size and its complement's; 0: drawn from the
        layers that were not listed); how many times each was drawn.
    """
    sizes = range(1, count // 2 + 1)
    listed: list[Array] = []
    layers: list[Array] = []
    left = wanted
    rest = list(sizes)
    for size in sizes:
        in_layer = math.comb(count, size) * (1 if 2 * size == count else 2)
        share = _mass(count, size) / sum(_mass(count, each) for each in rest)
        if in_layer > _LARGEST_LAYER or left * share < in_layer * (1 - 1e-8):
            break
        listed.append(_layer(count, size, rng))
        layers.append(np.full(len(listed[-1]), size))
        left -= in_layer
        rest.remove(size)
    counts = [np.ones(len(each)) for each in listed]
    if rest and left > 0:
        drawn, times = _drawn(count, rest, max(left // 2, 1), rng)
        listed.append(drawn)
        layers.append(np.zeros(len(drawn), np.int64))
        counts.append(times)
    return np.concatenate(listed), np.concatenate(layers), np.concatenate(counts)


def _mass(count: int, size: int) -> float:
    """Of all coalitions of a size and of their complements, up to one factor: C(M, s) pi(s) = (M - 1) / (s (M - s))."""
    return (1 if 2 * size == count else 2) / (size * (count - size))


def _layer(count: int, size: int, rng: np.random.Generator) -> Array:
    """Every coalition of a size, each followed by its complement, in random order."""
    members = np.array(list(itertools.combinations(range(count), size)))
    chosen = np.zeros((len(members), count), np.bool_)
    np.put_along_axis(chosen, members, values=True, axis=1)
    if 2 * size == count:
        chosen = chosen[chosen[:, 0]]  # the others are their complements
    return _paired(chosen[rng.permutation(len(chosen))])


def _drawn(count: int, sizes: list[int], pairs: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """Coalitions of these sizes and their complements, drawn by their weight, and how often each came."""
    masses = np.array([_mass(count, size) for size in sizes])
    size = rng.choice(sizes, size=pairs, p=masses / masses.sum())
    ranks = rng.permuted(np.tile(np.arange(count), (pairs, 1)), axis=1)
    chosen = ranks < size[:, None]
    chosen ^= ~chosen[:, :1]  # a coalition and its complement are one draw: keep the one with the first player
    unique, times = np.unique(chosen, axis=0, return_counts=True)
    order = rng.permutation(len(unique))
    return _paired(unique[order]), np.repeat(times[order], 2).astype(np.float64)


def _paired(chosen: Array) -> Array:
    return np.stack([chosen, ~chosen], axis=1).reshape(-1, chosen.shape[1])


def weigh(count: int, layers: Array, counts: Array) -> Array:
    """The weight of each coalition: its layer's mass in the Shapley kernel, shared by how often each was drawn."""
    masses = np.array([0.0, *(_mass(count, size) for size in range(1, count // 2 + 1))])
    listed = np.unique(layers[layers > 0])
    masses[0] = masses.sum() - masses[listed].sum()
    shared = np.bincount(layers, weights=counts, minlength=len(masses))
    weights: Array = masses[layers] * counts / shared[layers]
    return weights


def fitted(coalitions: Array, weights: Array, values: Array, total: Array) -> Array:
    """The effects `[k, p]` that fit best, among those that add up to `total`.

    The constraint is met by construction: effects are an equal share each, plus a combination of an orthonormal basis
    of the vectors that add up to 0; the combination of least norm is taken.

    Args:
        coalitions: `[n, p]` of booleans.
        weights: `[n]`.
        values: `[n, k]`, above that of the empty coalition.
        total: `[k]`, that of all players.
    """
    count = coalitions.shape[1]
    members = coalitions.astype(np.float64)
    basis = _zero_sum(count)
    root = np.sqrt(weights)[:, None]
    share = total / count
    found = np.linalg.lstsq(
        root * (members @ basis), root * (values - members.sum(axis=1)[:, None] * share), rcond=None
    )[0]
    effects = share[:, None] + (basis @ found).T
    effects += (total - effects.sum(axis=1))[:, None] / count  # what rounding left
    return np.asarray(effects)


def _zero_sum(count: int) -> Array:
    """An orthonormal basis `[p, p - 1]` of the vectors that add up to 0 (Helmert's)."""
    basis = np.triu(np.ones((count, count - 1)))
    at = np.arange(1, count)
    basis[at, at - 1] = -at
    return basis / np.sqrt(at * (at + 1.0))
