"""Tests of one measure between the shares of cells, of the reference and of a sample: what is alike in `psi` and
`jensen-shannon`.

The measure of samples that drift in nothing is not 0, so its p-value is drawn with the pooled counts fixed; a bound in
its place is a rule of thumb, without p-values.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Self

from headrace.detectors import correction as corrections
from headrace.detectors import permutation
from headrace.detectors.base import Drift
from headrace.detectors.cells import Cells, both, dealt
from headrace.detectors.correction import Correction
from headrace.detectors.univariate import SAME, Compared, Level, OfCells, check_reference
from headrace.features import Features
from headrace.payload import Array


class OfShares(OfCells):
    """One measure, by p-value and effect, or by a fixed bound."""

    def __init__(self, features: Features, cells: Cells, level: Level, *, threshold: float | None = None) -> None:
        super().__init__(features, cells, level)
        self.threshold = threshold
        self.compares_missing = threshold is None

    @staticmethod
    @abstractmethod
    def measure(reference: Array, sample: Array) -> Array:
        """Between counts `[..., cells]`: `[...]`."""

    @classmethod
    def of(
        cls,
        x: Array,
        features: Features,
        *,
        alpha: float,
        seed: int,
        correction: Correction,
        min_effect: float,
        bins: int,
        threshold: float | None,
    ) -> Self:
        """What `fit` makes of its arguments."""
        corrections.check_level(cls.METHOD, alpha=alpha, correction=correction, min_effect=min_effect)
        check_reference(cls.METHOD, x, features)
        level = Level(alpha=alpha, correction=correction, min_effect=min_effect, seed=seed, rows=len(x))
        cells = Cells.of(x, features, tuple(range(len(features))), bins=bins)
        return cls(features, cells, level, threshold=threshold)

    def test(self, x: Array) -> Drift:
        """See `DriftTest.test`."""
        found = super().test(x)
        return found if self.threshold is None else corrections.by_threshold(found, self.threshold)

    def column(self, at: int, reference: Array, sample: Array) -> Compared:
        """See `OfCells.column`."""
        held = both(reference, sample)
        if held is None:
            return SAME
        reference, sample = held
        found = float(self.measure(reference, sample))
        if self.threshold is not None:
            return Compared(found, 1.0, found)
        most = permutation.draws(self.level.alpha, self.tests)
        return Compared(found, dealt(self.measure, reference, sample, most=most, rng=self.rng(at)), found)

    def parameters(self) -> dict[str, Any]:
        """See `OfCells.parameters`."""
        return {"threshold": self.threshold}
