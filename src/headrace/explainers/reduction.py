"""Fewer and smaller changes that still do: what counterfactuals and contrastive explanations end with.

Both start from rows that have what is wanted, and an origin. A change that is not needed is taken back, the largest
first; those that are needed are made as small as they can be. Rows are changed in place, so that what was gained is
kept when the budget is spent on the way. All trials of a round are one call of the model.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

from headrace.payload import Array

SHARES: Final = np.arange(1, 8) / 8
"""Of a change, how much of it is taken back in a trial."""

ROUNDS: Final = 12
"""Of making smaller, at most."""

GAIN: Final = 0.01
"""Of a row's cost: less is not worth another round."""

Holds = Callable[[Array], Array]
"""Rows `[n, f]` to `[n]` BOOL: which have what is wanted; asks the model."""

Terms = Callable[[Array], Array]
"""Rows `[n, f]` to `[n, f]`: what each of their changes costs; 0 where there is none."""


def differs(rows: Array, origin: Array) -> Array:
    """`[n, f]` BOOL: where rows are not as the origin `[f]`; missing equals missing."""
    changed: Array = (rows != origin) & ~(np.isnan(rows) & np.isnan(origin))
    return changed


def fewer(holds: Holds, terms: Terms, origin: Array, rows: Array) -> None:
    """Take changes back while the rows still hold.

    First the cheapest i of each row at once, as many as go; then one at a time, each time the most expensive.

    Raises:
        BudgetSpent: by `holds`; the rows are as good as they were then.
    """
    trials: list[Array] = []
    whose: list[Array] = []
    for at, row in enumerate(rows):
        changed = np.flatnonzero(differs(row[None], origin)[0])
        order = changed[np.argsort(terms(row[None])[0][changed], kind="stable")]
        tries = np.repeat(row[None], len(order), axis=0)
        for last in range(len(order)):
            tries[last, order[: last + 1]] = origin[order[: last + 1]]
        trials.append(tries)
        whose.append(np.full(len(tries), at))
    _accept(holds, rows, trials, whose, lambda tried: differs(tried, origin).sum(axis=1) * -1.0)

    active = np.arange(len(rows))
    for _ in range(rows.shape[1]):
        trials, whose = [], []
        for at in active.tolist():
            changed = np.flatnonzero(differs(rows[at][None], origin)[0])
            tries = np.repeat(rows[at][None], len(changed), axis=0)
            tries[np.arange(len(changed)), changed] = origin[changed]
            trials.append(tries)
            whose.append(np.full(len(tries), at))
        active = _accept(holds, rows, trials, whose, lambda tried: -terms(tried).sum(axis=1))
        if not len(active):
            return


def smaller(holds: Holds, terms: Terms, origin: Array, rows: Array, *, numeric: Array, integer: Array) -> None:
    """Make changes of numbers smaller while the rows still hold.

    Args:
        holds: Which rows have what is wanted.
        terms: What changes cost.
        origin: `[f]`.
        rows: `[n, f]`, changed in place.
        numeric: `[f]` BOOL: columns whose changes can be made smaller.
        integer: `[f]` BOOL: of these, which stay whole.

    Raises:
        BudgetSpent: by `holds`; the rows are as good as they were then.
    """
    active = np.arange(len(rows))
    for _ in range(ROUNDS):
        trials, whose = [], []
        before = terms(rows).sum(axis=1)
        for at in active.tolist():
            row = rows[at]
            open_ = differs(row[None], origin)[0] & numeric & ~np.isnan(origin) & ~np.isnan(row)
            changed = np.flatnonzero(open_)
            columns, shares = np.repeat(changed, len(SHARES)), np.tile(SHARES, len(changed))
            values = row[columns] + shares * (origin[columns] - row[columns])
            values = np.where(integer[columns], np.rint(values), values)
            news = values != row[columns]
            tries = np.repeat(row[None], int(news.sum()), axis=0)
            tries[np.arange(len(tries)), columns[news]] = values[news]
            trials.append(tries)
            whose.append(np.full(len(tries), at))
        active = _accept(holds, rows, trials, whose, lambda tried: -terms(tried).sum(axis=1))
        gained = before[active] - terms(rows[active]).sum(axis=1)
        active = active[gained > GAIN * before[active]]
        if not len(active):
            return


def _accept(
    holds: Holds, rows: Array, trials: list[Array], whose: list[Array], worth: Callable[[Array], Array]
) -> Array:
    """Put in each row's place the best of its trials that hold; which rows there was one for."""
    if not trials or not sum(map(len, trials)):
        return np.empty(0, np.int64)
    tried, owners = np.concatenate(trials), np.concatenate(whose)
    good = holds(tried)
    tried, owners = tried[good], owners[good]
    order = np.lexsort((-worth(tried), owners)) if len(tried) else np.empty(0, np.int64)
    found, first = np.unique(owners[order], return_index=True)
    rows[found] = tried[order][first]
    return found
