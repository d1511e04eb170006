"""Tables of mixed columns, column by column with the test that fits each: method `tabular`, the default for tables.

Numbers: `cvm` by default, which sees all of the distribution where `ks` sees its widest gap only; categories, and
numbers with ten different values or fewer (whose ties neither of the two allows for): `chi-square`; and of every column
how often it is missing. The correction is over all of these. A drift needs the p-value and an effect of at least
`min_effect`: the KS distance of numbers, Cramer's V of counts, both from 0 to 1 and not growing with the number of
rows, so that a window of a million rows is not a drift by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Literal, Self

import numpy as np

from headrace.detectors import correction as corrections
from headrace.detectors.base import State
from headrace.detectors.cells import Cells
from headrace.detectors.chi_square import ChiSquare
from headrace.detectors.correction import Correction
from headrace.detectors.cvm import Cvm
from headrace.detectors.ks import Ks
from headrace.detectors.univariate import Compared, Level, OfValues, Univariate, check_reference, kept, ordered, taken
from headrace.errors import InvalidRequest
from headrace.features import Features
from headrace.payload import Array

FEW = 10
"""Different values of a number up to which it is counted instead of ordered."""

NUMBERS: Final[Mapping[str, type[OfValues]]] = MappingProxyType({"cvm": Cvm, "ks": Ks})
"""The tests that there are for numbers."""


class Tabular(Univariate):
    """Compares each column by the test of its kind."""

    METHOD = "tabular"
    EFFECT = "ks_distance, cramers_v of counts"

    def __init__(self, features: Features, level: Level, numbers: OfValues | None, counts: ChiSquare | None) -> None:
        self._parts: tuple[Univariate, ...] = tuple(each for each in (numbers, counts) if each is not None)
        columns = tuple(sorted(at for part in self._parts for at in part.columns))
        super().__init__(features, columns, level)
        self.numbers = numbers
        self.counts = counts
        for part in self._parts:
            part.tests = len(columns)

    @classmethod
    def fit(
        cls,
        x: Array,
        features: Features,
        *,
        alpha: float = 0.05,
        seed: int = 0,
        correction: Correction = "bonferroni",
        min_effect: float = 0.05,
        numbers: Literal["cvm", "ks"] = "cvm",
    ) -> Self:
        """See `DriftTest.fit`; `numbers` is the test of numbers.

        Raises:
            InvalidRequest: too few rows, no column, or another test of numbers.
        """
        corrections.check_level(cls.METHOD, alpha=alpha, correction=correction, min_effect=min_effect)
        check_reference(cls.METHOD, x, features)
        if numbers not in NUMBERS:
            raise InvalidRequest(f"{cls.METHOD}: numbers is to be one of {', '.join(NUMBERS)}, found '{numbers}'")
        level = Level(alpha=alpha, correction=correction, min_effect=min_effect, seed=seed, rows=len(x))
        few = tuple(at for at in features.numeric if np.unique(x[~np.isnan(x[:, at]), at]).size <= FEW)
        many = tuple(at for at in features.numeric if at not in few)
        counted = tuple(sorted({*features.categorical, *few}))
        return cls(
            features,
            level,
            NUMBERS[numbers](features, many, level, [ordered(x[:, at]) for at in many]) if many else None,
            ChiSquare(features, Cells.of(x, features, counted, bins=FEW), level) if counted else None,
        )

    def compare(self, x: Array) -> list[Compared]:
        """See `Univariate.compare`."""
        found = {
            at: compared for part in self._parts for at, compared in zip(part.columns, part.compare(x), strict=True)
        }
        return [found[at] for at in self.columns]

    def there(self) -> Array:
        """See `Univariate.there`."""
        found = {at: rows for part in self._parts for at, rows in zip(part.columns, part.there().tolist(), strict=True)}
        return np.array([found[at] for at in self.columns])

    def state(self) -> State:
        """See `Detector.state`."""
        states = {part.METHOD: part.state() for part in self._parts}
        return State(
            parameters=kept(
                self.METHOD,
                self.features,
                self.level,
                parts={method: dict(state.parameters) for method, state in states.items()},
            ),
            arrays={
                f"{method}.{name}": each for method, state in states.items() for name, each in state.arrays.items()
            },
        )

    @classmethod
    def restore(cls, state: State, features: Features) -> Self:
        """See `Detector.restore`."""
        level, more = taken(cls.METHOD, state, features, ())
        parts = more["parts"]

        def part(method: str) -> State:
            arrays = {
                name.removeprefix(f"{method}."): each
                for name, each in state.arrays.items()
                if name.startswith(f"{method}.")
            }
            return State(parameters=parts[method], arrays=arrays)

        numbers = next((name for name in NUMBERS if name in parts), None)
        return cls(
            features,
            level,
            NUMBERS[numbers].restore(part(numbers), features) if numbers else None,
            ChiSquare.restore(part(ChiSquare.METHOD), features) if ChiSquare.METHOD in parts else None,
        )
