"""Shapley values by random orders of the columns, each walked there and back: for any number of columns.

Castro, Gómez & Tejada, "Polynomial calculation of the Shapley value based on sampling" (Computers & Operations
Research 36, 2009); Štrumbelj & Kononenko (2014); the walk there and back (antithetic permutations): Mitchell, Cooper,
Frank & Holmes, "Sampling Permutations for Shapley Value Estimation" (JMLR 23, 2022), section 3.
"""

from __future__ import annotations

from typing import ClassVar, Final, Self

import numpy as np

from headrace.explainers import rows, shapley
from headrace.explainers.base import LARGEST_CALL, Ask, BudgetSpent, Data, Explainer, Explanation, Reference
from headrace.payload import Array

_FEWEST: Final = 5
"""Pairs of walks that the background is cut for when the budget is small: fewer tell nothing of their error."""


class PermutationShap(Explainer):
    """The mean, over pairs of walks, of what each column adds when it joins those before it.

    Each walk adds up to f(x) - base, so their mean does, too (efficiency), whatever the number of walks. The standard
    errors are of the mean over pairs, which are independent of each other (a walk and its reverse are not); they speak
    of the permutations alone, not of the choice of the background.
    """

    METHOD: ClassVar[str] = "permutation-shap"
    DATA: ClassVar[tuple[Data, ...]] = ("tabular", "image")

    def __init__(self, reference: Reference, background: Array, link: shapley.Link, seed: int) -> None:
        self._reference, self._background, self._link, self._seed = reference, background, link, seed

    @classmethod
    def make(cls, reference: Reference, *, seed: int = 0, background: int = 40, link: str = "identity") -> Self:
        """Prepare.

        Args:
            reference: Its rows are the background.
            seed: Of the draw of the background and of the permutations.
            background: How many of the reference's rows stand for a column that is left out.
            link: `identity`, or `logit`: effects on the log-odds of the mean probability.

        Raises:
            InvalidRequest: a parameter is out of its range.
        """
        chosen = rows.sample(rows.table(reference), background, np.random.default_rng(seed))
        return cls(reference, chosen, shapley.check_link(link, reference), seed)

    def explain(self, ask: Ask, x: Array, *, permutations: int = 20) -> Explanation:
        """Explain one row `[f]`.

        Args:
            ask: The model; for M columns that differ from a background of b rows, a pair of walks asks for 2 (M - 1) b.
            x: The row.
            permutations: Walks, half of them there, half of them back; an odd one is rounded up.
        """
        rows.at_least("permutations", permutations, 2)
        x = rows.row(self._reference.features, x)
        output_space = shapley.space(self._reference, self._link)
        warnings: list[str] = []
        pairs = (permutations + 1) // 2
        game = shapley.Game(ask, x, self._background, link=self._link)
        count = len(game.players)
        steps = max(2 * (count - 1), 1)
        affordable = max(1, (ask.left() - 1) // (min(pairs, _FEWEST) * steps + 1))
        if affordable < len(self._background) and count > 1:
            warnings.append(f"the budget allows a background of {affordable} of {len(self._background)} rows")
            game = shapley.Game(ask, x, self._background[:affordable], link=self._link)
            count = len(game.players)
        try:
            base, total, said = game.ends()
        except BudgetSpent:
            return shapley.nothing(self.METHOD, self._reference.features, output_space)
        walked = _walk(game, base, total, pairs=pairs, seed=self._seed)
        if not len(walked):
            return shapley.nothing(self.METHOD, self._reference.features, output_space)
        done = len(walked)
        errors = game.spread_out(walked.std(axis=0, ddof=1) / np.sqrt(done)) if done > 1 else None
        if done < pairs:
            warnings.append(f"{rows.SPENT}: {2 * done} of {2 * pairs} permutations were walked")
        return shapley.explanation(
            self.METHOD,
            reference=self._reference,
            x=x,
            effects=game.spread_out(walked.mean(axis=0)),
            base=base,
            total=total,
            said=said,
            output_space=output_space,
            complete=not warnings,
            warnings=tuple(warnings),
            extra={
                "standard_errors": None if errors is None else [one[None] for one in errors],
                "permutations": 2 * done,
                "background_rows": len(game.background),
            },
        )


def _walk(game: shapley.Game, base: Array, total: Array, *, pairs: int, seed: int) -> Array:
    """What each player adds in each pair of walks, as far as the budget goes: `[pairs, k, p]`."""
    count = len(game.players)
    if count <= 1:  # nothing to order: all that there is belongs to the one player
        return np.repeat(np.broadcast_to((total - base)[:, None], (len(base), count))[None], pairs, axis=0)
    rng = np.random.default_rng(seed)
    parts: list[Array] = []
    at_once = max(1, LARGEST_CALL // (2 * (count - 1) * len(game.background)))
    for start in range(0, pairs, at_once):
        ranks = rng.permuted(np.tile(np.arange(count), (min(at_once, pairs - start), 1)), axis=1)
        ranks = np.stack([ranks, count - 1 - ranks], axis=1)  # [c, there and back, p]: when a player joins
        coalitions = ranks[:, :, None, :] < np.arange(1, count)[:, None]  # [c, 2, steps, p]
        said = game.values(coalitions.reshape(-1, count))
        whole = len(said) // (2 * (count - 1))
        if whole:
            values = said[: whole * 2 * (count - 1)].reshape(whole, 2, count - 1, -1)
            ends = np.broadcast_to(base, (whole, 2, 1, len(base))), np.broadcast_to(total, (whole, 2, 1, len(base)))
            added = np.diff(np.concatenate([ends[0], values, ends[1]], axis=2), axis=2)  # [whole, 2, p, k] by step
            joined = np.take_along_axis(added, ranks[:whole, :, :, None], axis=2)  # by player
            parts.append(joined.mean(axis=1).transpose(0, 2, 1))
        if len(said) < len(coalitions) * 2 * (count - 1):
            break
    return np.concatenate(parts) if parts else np.empty((0, len(base), count))
