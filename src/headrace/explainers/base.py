"""What an explainer is: made from the reference, asked for one row at a time, within a budget.

`trust` keeps what they need, `serving.explain` asks them. An explainer never calls the model before it is asked.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Final, Literal, Self

import msgspec

from headrace.errors import HeadraceError
from headrace.features import Features
from headrace.payload import Array

Data = Literal["tabular", "text", "image"]
Predict = Callable[[Array], Array]
"""Rows to what the model says of them, `[n, k]` of float64: the probabilities of k classes, or k numbers. Rows are
`[n, f]` of float64 (`headrace.features`); of text, `[n]` of objects, which are `str`."""

LARGEST_CALL: Final = 4096
"""Rows of one call of the model."""


class BudgetSpent(HeadraceError):
    """Another call of the model would pass the budget. Explainers catch it, and give the best they have."""


class Ask:
    """The model, counted: what an explainer calls as it would call `predict`.

    Args:
        predict: The model.
        max_rows: How many rows it may be asked for.
        deadline: Until when, on `clock`; None: no end.
        clock: Seconds.
    """

    def __init__(
        self,
        predict: Predict,
        *,
        max_rows: int = 1_000_000,
        deadline: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._predict, self._max_rows, self._deadline, self._clock = predict, max_rows, deadline, clock
        self.rows = 0
        """Asked so far."""
        self.calls = 0

    def __call__(self, x: Array) -> Array:
        """Rows to `[n, k]`, in calls of at most LARGEST_CALL rows.

        Raises:
            BudgetSpent: the rows or the time are used up; nothing was asked then.
        """
        if self.rows + len(x) > self._max_rows or self.is_late():
            raise BudgetSpent(f"the budget of {self._max_rows} rows or the time is spent, after {self.rows} rows")
        self.rows += len(x)
        parts: list[Array] = []
        for start in range(0, len(x), LARGEST_CALL):
            if parts and self.is_late():
                raise BudgetSpent(f"the time is spent, after {self.rows} rows")
            self.calls += 1
            parts.append(self._predict(x[start : start + LARGEST_CALL]))
        return parts[0] if len(parts) == 1 else _joined(parts)

    def left(self) -> int:
        """Rows that may still be asked for."""
        return self._max_rows - self.rows

    def is_late(self) -> bool:
        """Whether the time is used up."""
        return self._deadline is not None and self._clock() >= self._deadline


def _joined(parts: Sequence[Array]) -> Array:
    import numpy as np

    return np.concatenate(parts)


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """Why the model says what it says of one row (or, of a global method, in general)."""

    method: str
    data: Mapping[str, Any]
    """JSON values and arrays by name, in the field's own words: of anchors `anchor`, `precision`, `coverage`, ...; of
    Shapley values `shap_values`, `expected_value`, ..."""
    text: str
    """One or a few sentences for a person."""
    complete: bool = True
    """False: the budget was spent first, and this is the best there was."""
    warnings: tuple[str, ...] = ()
    """What a person should know: no anchor reaches the precision, the answer does not change anywhere near, ..."""


class Reference(msgspec.Struct, frozen=True, kw_only=True):
    """What explainers are made from."""

    features: Features
    """Of text, no columns."""
    x: Array
    """`[n, f]` FP64: a sample of the training data; of text, `[n]` objects, which are `str`."""
    y: Array | None = None
    """`[n]`: the labels (INT64, positions in `classes`) or targets (FP64), where known."""
    classes: tuple[str, ...] = ()
    """Of a classifier, in the order of its probabilities."""
    artifact: Any = None
    """The model itself, where the method looks into it (white box); None: it only asks."""


class Explainer(ABC):
    """One method. Parameters are keyword-only arguments with defaults: of what is made once, of `make`; else of
    `explain`.
    """

    METHOD: ClassVar[str]
    """Its name in the registry: `anchors`, `kernel-shap`."""
    DATA: ClassVar[tuple[Data, ...]] = ("tabular",)
    IS_GLOBAL: ClassVar[bool] = False
    """It speaks of the model as a whole: `explain` takes no row of interest."""
    NEEDS_MODEL: ClassVar[bool] = False
    """It looks into the model itself (`Reference.artifact`)."""

    @classmethod
    @abstractmethod
    def make(cls, reference: Reference, *, seed: int = 0) -> Self:
        """Prepare; calls no model.

        Raises:
            InvalidRequest: the reference lacks what the method needs (labels, classes, columns); says what.
        """

    @abstractmethod
    def explain(self, ask: Ask, x: Array) -> Explanation:
        """Explain one row `[f]` (of text, one `str` in an array of no dimensions); of a global method, rows to speak of
        beside the reference, often `[0, f]`.

        Args:
            ask: The model.
            x: What is to be explained.

        Raises:
            InvalidRequest: a parameter is out of its range, or x has other columns.
        """
