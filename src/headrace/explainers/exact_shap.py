"""Exact Shapley values by enumerating every coalition: for few columns, and to check the other methods against.

Shapley, "A value for n-person games" (1953); as an explanation: Lundberg & Lee, NIPS 2017, eq. 4.
"""

from __future__ import annotations

import math
from typing import ClassVar, Final, Self

import numpy as np

from headrace.errors import InvalidRequest
from headrace.explainers import rows, shapley
from headrace.explainers.base import LARGEST_CALL, Ask, BudgetSpent, Data, Explainer, Explanation, Reference
from headrace.payload import Array

LARGEST: Final = 12
"""Columns; twelve are 4,096 coalitions, times the rows of the background."""


class ExactShap(Explainer):
    """phi_i = sum over S without i of |S|! (M - |S| - 1)! / M! (v(S + i) - v(S)), over all 2^M coalitions.

    The game is averaged over the background row by row, so when the budget is spent the answer is still exact, against
    the rows of the background that were reached.
    """

    METHOD: ClassVar[str] = "exact-shap"
    DATA: ClassVar[tuple[Data, ...]] = ("tabular",)

    def __init__(self, reference: Reference, background: Array, link: shapley.Link) -> None:
        self._reference, self._background, self._link = reference, background, link

    @classmethod
    def make(cls, reference: Reference, *, seed: int = 0, background: int = 40, link: str = "identity") -> Self:
        """Prepare.

        Args:
            reference: Its rows are the background.
            seed: Of the draw of the background.
            background: How many of the reference's rows stand for a column that is left out.
            link: `identity`, or `logit`: effects on the log-odds of the mean probability.

        Raises:
            InvalidRequest: there are more than twelve columns, or a parameter is out of its range.
        """
        if len(reference.features) > LARGEST:
            raise InvalidRequest(
                f"exact-shap enumerates every subset of at most {LARGEST} columns; there are "
                f"{len(reference.features)}: use permutation-shap"
            )
        chosen = rows.sample(rows.table(reference), background, np.random.default_rng(seed))
        return cls(reference, chosen, shapley.check_link(link, reference))

    def explain(self, ask: Ask, x: Array) -> Explanation:
        """Explain one row `[f]`; asks for 2^M rows of each row of the background."""
        x = rows.row(self._reference.features, x)
        output_space = shapley.space(self._reference, self._link)
        game = shapley.Game(ask, x, self._background, link=self._link)
        count = len(game.players)
        numbers = np.arange(1 << count)
        coalitions = (numbers[:, None] >> np.arange(count)) & 1 == 1
        total: Array | None = None
        reached = 0
        at_once = max(1, LARGEST_CALL // len(coalitions))
        for start in range(0, len(self._background), at_once):
            part = self._background[start : start + at_once]
            part = part[: max(1, min(len(part), ask.left() // len(coalitions)))]
            try:
                summed = game.sums(coalitions, part)
            except BudgetSpent:
                break
            total = summed if total is None else total + summed
            reached += len(part)
        if total is None:
            return shapley.nothing(self.METHOD, self._reference.features, output_space)
        means = total / reached
        values = game.linked(means)
        complete = reached == len(self._background)
        return shapley.explanation(
            self.METHOD,
            reference=self._reference,
            x=x,
            effects=game.spread_out(enumerated(values)),
            base=values[0],
            total=values[-1],
            said=means[-1],
            output_space=output_space,
            complete=complete,
            warnings=()
            if complete
            else (f"{rows.SPENT}: the background is {reached} of {len(self._background)} rows",),
            extra={"background_rows": reached, "coalitions": len(coalitions)},
        )


def enumerated(values: Array) -> Array:
    """Shapley values `[k, p]` from the value of every coalition `[2^p, k]`; bit i of its position says whether player i
    is in it.
    """
    count = (len(values) - 1).bit_length()
    numbers = np.arange(len(values))
    sizes = ((numbers[:, None] >> np.arange(count)) & 1).sum(axis=1)
    weights = np.array([1 / (count * math.comb(count - 1, size)) for size in range(count)])
    effects = np.zeros((values.shape[1], count))
    for player in range(count):
        without = numbers[(numbers >> player) & 1 == 0]
        effects[:, player] = weights[sizes[without]] @ (values[without | 1 << player] - values[without])
    return effects
