"""The row to explain, checked, and the model's answers as far as the budget goes: what the methods here share."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from headrace.errors import InvalidRequest
from headrace.explainers.base import LARGEST_CALL, Ask, BudgetSpent, Explanation, Reference
from headrace.features import Features
from headrace.payload import Array

SPENT: Final = "the budget was spent before the method was done"


def row(features: Features, x: Array) -> Array:
    """One row as `[f]` of float64.

    Raises:
        InvalidRequest: it is no row of these columns.
    """
    found = np.asarray(x, np.float64)
    if found.shape != (len(features),):
        raise InvalidRequest(f"a row to explain has {len(features)} columns; what came has the shape {found.shape}")
    return found


def table(reference: Reference, x: Array | None = None) -> Array:
    """The rows a global method speaks of, `[n, f]` of float64: the reference's, and x beside them.

    Raises:
        InvalidRequest: there is none, or x has other columns.
    """
    width = len(reference.features)
    rows = np.asarray(reference.x, np.float64)
    if rows.ndim != 2 or rows.shape[1] != width or not len(rows):
        raise InvalidRequest(f"the reference must have rows of {width} columns; it has the shape {rows.shape}")
    if x is None or np.shape(x) == (0,):
        return rows
    more = np.atleast_2d(np.asarray(x, np.float64))
    if more.ndim != 2 or more.shape[1] != width:
        raise InvalidRequest(f"rows beside the reference have {width} columns; what came has the shape {more.shape}")
    return np.concatenate([rows, more])


def sample(rows: Array, count: int, rng: np.random.Generator) -> Array:
    """At most `count` of the rows, drawn without replacement and in random order.

    Raises:
        InvalidRequest: count is not positive.
    """
    at_least("the number of background rows", count, 1)
    return rows[rng.permutation(len(rows))[:count]]


def at_least(what: str, value: float, least: float) -> None:
    """Check a parameter.

    Raises:
        InvalidRequest: it is less.
    """
    if value < least:
        raise InvalidRequest(f"{what} must be at least {least}; it is {value}")


def one_of(what: str, value: str, known: Sequence[str]) -> None:
    """Check a parameter.

    Raises:
        InvalidRequest: it is none of the words.
    """
    if value not in known:
        raise InvalidRequest(f"{what} is one of {', '.join(known)}; it is '{value}'")


def answers(ask: Ask, x: Array) -> Array:
    """What the model says of the leading rows, as many as the budget allows: `[m, k]` of float64, m at most `len(x)`;
    `[0, 0]` where it allows none.
    """
    parts: list[Array] = []
    x = x[: max(ask.left(), 0)]
    for start in range(0, len(x), LARGEST_CALL):
        try:
            parts.append(answer(ask, x[start : start + LARGEST_CALL]))
        except BudgetSpent:
            break
    return np.concatenate(parts) if parts else np.empty((0, 0))


def answer(ask: Ask, x: Array) -> Array:
    """What the model says of all the rows: `[n, k]` of float64.

    Raises:
        BudgetSpent: it may not be asked for so many.
    """
    said = np.asarray(ask(x), np.float64)
    return said if said.ndim == 2 else said.reshape(len(x), -1)


def nothing(method: str, data: Mapping[str, Any]) -> Explanation:
    """The explanation of a budget that does not reach for the first step."""
    return Explanation(
        method=method,
        data=data,
        text="The budget was spent before anything could be said.",
        complete=False,
        warnings=(SPENT,),
    )


def output_names(classes: Sequence[str], count: int) -> tuple[str, ...]:
    """What the model's outputs are called: its classes, or `output`, or `output 0`, `output 1`, ..."""
    if len(classes) == count:
        return tuple(classes)
    if len(classes) == 2 and count == 1:
        return (classes[1],)
    return ("output",) if count == 1 else tuple(f"output {at}" for at in range(count))


def shown(features: Features, at: int, value: float) -> str:
    """`worst radius = 25.38`."""
    return f"{features.columns[at].name} = {features.columns[at].text(float(value))}"


def spread(rows: Array) -> Array:
    """Of each column `[f]`: its standard deviation without what is missing; 1 where it is constant or all missing."""
    present = ~np.isnan(rows)
    counts = np.maximum(present.sum(axis=0), 1)
    filled = np.where(present, rows, 0.0)
    mean = filled.sum(axis=0) / counts
    deviation = np.sqrt((np.where(present, rows - mean, 0.0) ** 2).sum(axis=0) / counts)
    return np.where(deviation > 0, deviation, 1.0)


def typical(features: Features, rows: Array) -> Array:
    """Of each column `[f]`: its median without what is missing, of a category its mode; 0 where all are missing."""
    found = np.zeros(rows.shape[1])
    for at in range(rows.shape[1]):
        present = rows[:, at][~np.isnan(rows[:, at])]
        if len(present) and at in features.categorical:
            values, counts = np.unique(present, return_counts=True)
            found[at] = values[counts.argmax()]
        elif len(present):
            found[at] = np.median(present)
    return found


def columns(features: Features, names: Sequence[str]) -> list[int]:
    """The positions of named columns; of no name, of all.

    Raises:
        InvalidRequest: there is no such column; names the nearest.
    """
    for name in names:
        if name not in features.names:
            near = difflib.get_close_matches(name, features.names, n=1)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            raise InvalidRequest(f"there is no column '{name}'{hint}")
    return [features.names.index(name) for name in names] if names else list(range(len(features)))


def deciles(values: Array) -> Array:
    """The least, the nine deciles and the largest of what is not missing, `[11]`; empty where all is."""
    present = values[~np.isnan(values)]
    return np.asarray(np.quantile(present, np.linspace(0, 1, 11))) if len(present) else present
