"""The role of a candidate: an engine that a model might get, not proven yet. `candidates` makes them for `choose`."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec
import numpy as np

from headrace.payload import Array, TensorSpec
from headrace.runtimes.optimize import engine as role
from headrace.runtimes.optimize.engine import Chain, Check, Engine, Labels
from headrace.runtimes.optimize.gate import Tolerance
from headrace.runtimes.optimize.rows import Terrain
from headrace.runtimes.optimize.steps import NumpyStep
from headrace.runtimes.optimize.table import Table

TAKES: Final[dict[str, Check]] = {
    "finite": role.finite,
    "missing": role.finite_or_missing,
    "anything": role.anything,
}
"""By the name that a stored verdict keeps."""


class Prepared(msgspec.Struct, frozen=True, kw_only=True):
    """A candidate, exported."""

    terrain: Terrain
    tolerance: Tolerance
    rows: int
    """To be aimed at it, in float64."""
    takes: str = "finite"
    artefact: bytes = b""
    differences: tuple[str, ...] = ()
    """Between the artefact, read back, and the model it was written from."""


class Candidate(abc.ABC):
    """An engine that a model might get."""

    name: str
    unless: str = ""
    """Tried only where the candidate of this name did not pass."""

    @abc.abstractmethod
    def prepare(self) -> Prepared:
        """Export the model, read the result back, and say where to aim rows.

        Raises:
            Refused: where this model has no such form.
        """

    @abc.abstractmethod
    def engine(self, artefact: bytes, takes: str) -> Engine:
        """The engine, from what `prepare` wrote, now or in another process long ago."""


class Subject(msgspec.Struct, frozen=True, kw_only=True):
    """The model in question."""

    model: Any
    width: int
    names: tuple[str, ...]
    """Of the columns; numbers from 0 where the model was fitted on an array."""
    table: Table | None
    """The way from its columns to rows, where some hold text."""
    specs: Mapping[str, TensorSpec]
    """Outputs of the native runtime, by name."""
    missing: float
    """What the native runtime takes as missing."""
    labels: Callable[[Any], Labels | None]
    """From the model's classes to its labels as the native runtime answers them."""


def front_missing(front: Sequence[NumpyStep]) -> bool:
    """Whether NaN may pass through every step."""
    return all(step.missing for step in front)


def back(front: Sequence[NumpyStep]) -> Callable[[Array], Array] | None:
    """From what the steps give to some rows that they take; None: there are no steps."""
    if not front:
        return None

    def returned(values: Array) -> Array:
        for step in reversed(front):
            values = step.back(values)
        return values

    return returned


def inner_terrain(front: Sequence[NumpyStep], width: int) -> Terrain:
    """Rows as they leave the steps, anywhere within 4 of 0, and the way back."""
    rows = np.zeros((1, width))
    for step in front:
        rows = step.run(rows)
    inner = rows.shape[1]
    return Terrain(low=np.full(inner, -4.0), high=np.full(inner, 4.0), back=back(front))


def open_terrain(front: Sequence[NumpyStep], width: int) -> Terrain:
    """The model's inputs, as far as the first step knows them."""
    first = front[0] if front else None
    if first is None or first.low is None or first.high is None:
        return Terrain(low=np.full(width, -5.0), high=np.full(width, 5.0), missing=bool(front) and front_missing(front))
    span = np.where(first.high > first.low, first.high - first.low, 1.0)
    return Terrain(low=first.low - 0.1 * span, high=first.high + 0.1 * span, missing=front_missing(front))


def chain(front: Sequence[NumpyStep], takes: str, last: Engine) -> Engine:
    """Check, steps and last engine as one; checked again behind steps, which may push a row too far."""
    check = TAKES[takes]
    if front and takes != "anything":
        last = Chain(check, (), last)
    elif any(step.closed for step in front):
        last = Chain(role.finite_or_missing, (), last)
    if front and not front_missing(front):
        check = role.finite
    elif front and takes == "anything":
        check = role.finite_or_missing
    return Chain(check, [step.run for step in front], last)
