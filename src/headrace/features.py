"""The columns of what a model takes, as numbers: what detectors and explainers work on, and `trust.schema` describes.

A row is a vector of float64. A category is its position in the feature's list of categories; one that is not in the
list is `UNSEEN`; what is missing is NaN. The pixels of an image and the points of a window are numeric features, one
after the other in C order.
"""

from __future__ import annotations

import functools
import math
from typing import Final, Literal

import msgspec

UNSEEN: Final = -1.0
"""The number of a category that the reference does not have."""


class Feature(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """One column."""

    name: str
    kind: Literal["numeric", "category"] = "numeric"
    categories: tuple[str | int | float | bool, ...] = ()
    """Of a category: the values that there are; number i stands for the i-th."""
    integer: bool = False
    """Of a number: only whole ones were seen."""
    low: float | None = None
    """Of a number: the least that was seen."""
    high: float | None = None
    """Of a number: the largest that was seen."""
    missing: float = 0.0
    """The share of missing values that was seen, from 0 to 1."""

    @property
    def is_category(self) -> bool:
        """Whether its numbers have no order."""
        return self.kind == "category"

    def text(self, value: float) -> str:
        """One of its numbers as a person reads it."""
        if math.isnan(value):
            return "missing"
        if not self.is_category:
            return f"{value:.6g}"
        return str(self.categories[int(value)]) if 0 <= value < len(self.categories) else "unseen"


class Features(msgspec.Struct, frozen=True, kw_only=True, dict=True, omit_defaults=True, forbid_unknown_fields=True):
    """The columns of a row, in order."""

    columns: tuple[Feature, ...]
    shape: tuple[int, ...] = ()
    """Of one row as the model takes it, where that is no vector: `(28, 28)`; its product is the number of columns."""

    def __len__(self) -> int:
        return len(self.columns)

    @functools.cached_property
    def names(self) -> tuple[str, ...]:
        """Of the columns."""
        return tuple(each.name for each in self.columns)

    @functools.cached_property
    def categorical(self) -> tuple[int, ...]:
        """The positions of columns whose numbers have no order."""
        return tuple(at for at, each in enumerate(self.columns) if each.is_category)

    @functools.cached_property
    def numeric(self) -> tuple[int, ...]:
        """The positions of the others."""
        return tuple(at for at, each in enumerate(self.columns) if not each.is_category)


def numeric(names: int | tuple[str, ...], *, shape: tuple[int, ...] = ()) -> Features:
    """Columns of numbers of which nothing else is known: `x0`, `x1`, ... where only their count is given."""
    names = tuple(f"x{at}" for at in range(names)) if isinstance(names, int) else names
    return Features(columns=tuple(Feature(name=name) for name in names), shape=shape)
