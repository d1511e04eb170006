"""The share of rows that an outlier detector flags, against what it was calibrated to: method `outlier-rate`.

Each row may be usual enough and yet too many of them odd. The sample is flags `[n, 1]`, 1 or 0. Given the `rate` that
the detector was calibrated to, the p-value is the exact binomial one (Clopper and Pearson 1934); without it, the
reference's flags are another sample, and it is Fisher's exact one (1935), as a rate known from few flags is not known
well.
"""

from __future__ import annotations

from typing import Literal, Self

import numpy as np
from scipy import stats

from headrace.detectors import correction as corrections
from headrace.detectors import effect, intervals
from headrace.detectors.base import Drift, DriftTest, State
from headrace.detectors.univariate import Level, check_reference, check_sample, kept, taken
from headrace.errors import InvalidRequest
from headrace.features import Features
from headrace.payload import Array

SIDES = ("two-sided", "greater")


class OutlierRate(DriftTest):
    """Compares how many rows are flagged."""

    METHOD = "outlier-rate"

    def __init__(
        self, features: Features, level: Level, *, count: int, rows: int, rate: float | None, alternative: str
    ) -> None:
        self.features = features
        self.level = level
        self.count = count
        """Flagged rows of the reference."""
        self.rows = rows
        self.rate = rate
        self.alternative = alternative

    @classmethod
    def fit(
        cls,
        x: Array,
        features: Features,
        *,
        alpha: float = 0.05,
        seed: int = 0,
        min_effect: float = 0.1,
        rate: float | None = None,
        alternative: Literal["two-sided", "greater"] = "two-sided",
    ) -> Self:
        """See `DriftTest.fit`.

        Args:
            x: `[n, 1]` FP64, the flags of held-out rows of the reference.
            features: One column.
            alpha: The level.
            seed: Not used: nothing is random.
            min_effect: Of Cohen's h; .1 is from .05 to .074.
            rate: The share that the detector was calibrated to flag; None: what these flags say.
            alternative: Whether fewer flags than usual are a drift as well, or more only.

        Raises:
            InvalidRequest: too few rows, more than one column, a rate or alternative that is none.
        """
        corrections.check_level(cls.METHOD, alpha=alpha, min_effect=min_effect)
        check_reference(cls.METHOD, x, features)
        if len(features) != 1:
            raise InvalidRequest(f"{cls.METHOD} takes one column of flags, found {len(features)} columns")
        if rate is not None and not 0 < rate < 1:
            raise InvalidRequest(f"{cls.METHOD}: rate is to be between 0 and 1, found {rate}")
        if alternative not in SIDES:
            raise InvalidRequest(f"{cls.METHOD}: alternative is to be one of {', '.join(SIDES)}, found '{alternative}'")
        flags = x[~np.isnan(x)]
        level = Level(alpha=alpha, correction="none", min_effect=min_effect, seed=seed)
        count = int(np.count_nonzero(flags))
        return cls(features, level, count=count, rows=int(flags.size), rate=rate, alternative=alternative)

    @property
    def baseline(self) -> float:
        """The share of flags that is usual."""
        return self.rate if self.rate is not None else self.count / max(self.rows, 1)

    def test(self, x: Array) -> Drift:
        """See `DriftTest.test`; the statistic is the share of flags."""
        check_sample(self.METHOD, x, 1)
        flags = x[~np.isnan(x)]
        count, rows = int(np.count_nonzero(flags)), int(flags.size)
        share = count / rows if rows else self.baseline
        return corrections.judge(
            tested=("instance",),
            statistic=np.array([share]),
            p_value=np.array([self._p_value(count, rows) if rows else 1.0]),
            effect=np.array([effect.cohens_h(self.baseline, share)]),
            effect_name="cohens_h",
            alpha=self.level.alpha,
            correction="none",
            min_effect=self.level.min_effect,
            rows=len(x),
            missing=len(x) - rows,
        )

    def interval(self, x: Array, *, confidence: float = 0.95) -> tuple[float, float]:
        """Wilson's interval of the share of flags of a sample `[m, 1]`."""
        check_sample(self.METHOD, x, 1)
        flags = x[~np.isnan(x)]
        return intervals.wilson(int(np.count_nonzero(flags)), flags.size, confidence)

    def _p_value(self, count: int, rows: int) -> float:
        if self.rate is not None:
            return float(stats.binomtest(count, rows, self.rate, alternative=self.alternative).pvalue)
        table = [[count, rows - count], [self.count, self.rows - self.count]]
        return float(stats.fisher_exact(table, alternative=self.alternative).pvalue)

    def state(self) -> State:
        """See `Detector.state`."""
        more = {"count": self.count, "rows": self.rows, "rate": self.rate, "alternative": self.alternative}
        return State(parameters=kept(self.METHOD, self.features, self.level, **more))

    @classmethod
    def restore(cls, state: State, features: Features) -> Self:
        """See `Detector.restore`."""
        level, more = taken(cls.METHOD, state, features, ())
        return cls(features, level, **more)
