"""Rows as a detector of rows may count on them: checked, of float64, with nothing missing; and the parts of a `State`.

All detectors of rows begin here, and so does what restores them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Self

import numpy as np

from headrace.detectors.base import State
from headrace.errors import InvalidRequest
from headrace.features import Features
from headrace.payload import EMPTY, Array


def matrix(x: Array, columns: int, *, method: str) -> Array:
    """Rows as they are given to `score` or `test`.

    Returns:
        `[n, columns]` FP64; the same array where it is already that.

    Raises:
        InvalidRequest: it is no matrix of numbers, or has another number of columns.
    """
    try:
        x = np.asarray(x, np.float64)
    except (TypeError, ValueError) as exc:
        raise InvalidRequest(f"detector '{method}' takes rows of numbers, got {type(x).__name__}: {exc}") from exc
    if x.ndim != 2 or x.shape[1] != columns:
        raise InvalidRequest(
            f"detector '{method}' was fitted on {columns} columns and takes rows [n, {columns}], got {list(x.shape)}"
        )
    return x


def reference(x: Array, features: Features, *, method: str, rows: int = 2) -> Array:
    """Rows as they are given to `fit`: `[n, f]` FP64.

    Raises:
        InvalidRequest: another number of columns, fewer rows than the method needs, or a number that is not finite.
    """
    x = matrix(x, len(features), method=method)
    if x.shape[0] < rows:
        raise InvalidRequest(f"detector '{method}' needs a reference of {rows} rows or more, got {x.shape[0]}")
    if x.shape[1] == 0:
        raise InvalidRequest(f"detector '{method}' needs a reference of one column or more, got none")
    infinite = np.isinf(x).any(0)
    if infinite.any():
        names = ", ".join(f"'{features.names[at]}'" for at in np.flatnonzero(infinite)[:5])
        raise InvalidRequest(
            f"the reference of detector '{method}' has infinite numbers in {names}: leave those rows out"
        )
    return x


def sample(x: Array, rows: int, *, seed: int) -> Array:
    """At most so many of the rows, in their order."""
    if x.shape[0] <= rows:
        return x
    return x[np.sort(np.random.default_rng(seed).choice(x.shape[0], rows, replace=False))]


@dataclasses.dataclass(frozen=True, slots=True)
class Filling:
    """What stands for a missing value: the median of a number, the most frequent category."""

    values: Array
    """`[f]` FP64."""

    @classmethod
    def fit(cls, x: Array, features: Features) -> Self:
        """Of a reference `[n, f]`. A column that is always missing is one of zeros."""
        values = np.zeros(len(features))
        for at, feature in enumerate(features.columns):
            known = x[~np.isnan(x[:, at]), at]
            if not known.size:
                continue
            if feature.is_category:
                codes, counts = np.unique(known, return_counts=True)
                values[at] = codes[counts.argmax()]
            else:
                values[at] = np.median(known)
        return cls(values)

    def __call__(self, x: Array) -> Array:
        """The rows with nothing missing; the same array where nothing was."""
        missing = np.isnan(x)
        return np.where(missing, self.values, x) if missing.any() else x


def codes(column: Array, categories: int) -> Array:
    """The categories of a column as positions: `[n]` INT64 from 0; one that is not known is `categories`."""
    at = np.clip(column, -1.0, float(categories)).astype(np.int64)
    at[at < 0] = categories
    return at


# -- states --


def kept(method: str, columns: int, arrays: Mapping[str, Array], **parameters: Any) -> State:
    """A state that says whose it is."""
    return State(parameters={"method": method, "columns": columns, **parameters}, arrays=arrays)


class Parts:
    """A state that is being restored: every part is asked for by name and must be there.

    Args:
        state: As `kept` made it.
        method: The method that restores it.
        features: Its columns.

    Raises:
        InvalidRequest: the state is of another method or of another number of columns.
    """

    def __init__(self, state: State, method: str, features: Features) -> None:
        self.state = state
        self.method = method
        was = state.parameters.get("method")
        if was != method:
            raise InvalidRequest(f"this state is of detector method '{was}', not of '{method}'")
        columns = state.parameters.get("columns")
        if columns != len(features):
            raise InvalidRequest(
                f"this state of detector '{method}' is of {columns} columns, the schema has {len(features)}: "
                "fit it again"
            )

    def array(self, name: str) -> Array:
        """One of the arrays; raises InvalidRequest where it is missing."""
        try:
            return self.state.arrays[name]
        except KeyError as exc:
            raise InvalidRequest(
                f"this state of detector '{self.method}' lacks the array '{name}': fit it again"
            ) from exc

    def value(self, name: str) -> Any:
        """One of the parameters; raises InvalidRequest where it is missing."""
        try:
            return self.state.parameters[name]
        except KeyError as exc:
            raise InvalidRequest(f"this state of detector '{self.method}' lacks '{name}': fit it again") from exc


def within(name: str, state: State) -> tuple[dict[str, Any], dict[str, Array]]:
    """The state of a detector that is part of another: its parameters, and its arrays by names of the whole."""
    return dict(state.parameters), {f"{name}.{key}": array for key, array in state.arrays.items()}


def part(name: str, parameters: Mapping[str, Any], arrays: Mapping[str, Array]) -> State:
    """The inverse of `within`."""
    prefix = f"{name}."
    mine = {key.removeprefix(prefix): array for key, array in arrays.items() if key.startswith(prefix)}
    return State(parameters=dict(parameters), arrays=mine or EMPTY)
