"""What tests of whole rows share: the reference as points, at most so many of them, one p-value, and their state.

A method inherits `Whole` and compares points. Such tests cost the square of the number of rows, so that above
`max_rows` of either sample they take that many of them, drawn by the seed: a larger window is no dearer, and no more is
seen in it.

Dealing rows anew is a test only where the two samples are treated alike. So numbers are measured in deviations of both
together: in those of the reference, rows of the same law are further out than the reference's own, the more so with
many columns of long tails (measured: half of all windows of 50 columns of Student's t with 2 degrees of freedom).
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, Self

import msgspec
import numpy as np

from headrace.detectors import correction as corrections
from headrace.detectors.base import Drift, DriftTest, State
from headrace.detectors.encoding import Encoding, deviations
from headrace.detectors.univariate import Level, check_reference, check_sample, kept, taken
from headrace.features import Features
from headrace.payload import Array


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """What a test of whole rows finds."""

    statistic: float
    p_value: float
    effect: float
    distance_threshold: float | None = None


class Whole(DriftTest):
    """A test of whole rows."""

    EFFECT: ClassVar[str]
    """The name of the scale of its effects."""

    def __init__(
        self,
        features: Features,
        level: Level,
        encoding: Encoding,
        points: Array,
        *,
        max_rows: int,
        scale: bool,
        **more: Any,
    ) -> None:
        self.features = features
        self.level = level
        self.encoding = encoding
        self.points = points
        """`[n, d]`, of the reference."""
        self.max_rows = max_rows
        self.scale = scale
        """Whether numbers are measured in deviations."""
        self.more = more
        """Its other parameters, JSON values."""

    @classmethod
    def keep(
        cls,
        x: Array,
        features: Features,
        *,
        alpha: float,
        seed: int,
        min_effect: float,
        max_rows: int,
        scale: bool,
        **more: Any,
    ) -> Self:
        """What `fit` of a method does."""
        corrections.check_level(cls.METHOD, alpha=alpha, min_effect=min_effect)
        check_reference(cls.METHOD, x, features)
        level = Level(alpha=alpha, correction="none", min_effect=min_effect, seed=seed)
        encoding = Encoding.of(x, features, scale=scale)
        points = encoding.points(some(x, max_rows, seed))
        return cls(features, level, encoding, points, max_rows=max_rows, scale=scale, **more)

    @abstractmethod
    def compare(self, reference: Array, sample: Array, rng: np.random.Generator) -> Found:
        """Points `[n, d]` of the reference, in the order they are kept in, with those of a sample `[m, d]`."""

    def test(self, x: Array) -> Drift:
        """See `DriftTest.test`."""
        check_sample(self.METHOD, x, len(self.features))
        points = self.encoding.points(some(x, self.max_rows, self.level.seed))
        reference = self.points
        if self.scale and self.features.numeric:
            unit = np.ones(points.shape[1])
            numbers = slice(len(self.features.numeric))  # the encoding's first coordinates
            unit[numbers] = deviations(np.concatenate([reference, points])[:, numbers])
            reference, points = reference / unit, points / unit
        found = self.compare(reference, points, np.random.default_rng(self.level.seed))
        return corrections.judge(
            tested=("instance",),
            statistic=np.array([found.statistic]),
            p_value=np.array([found.p_value]),
            effect=np.array([found.effect]),
            effect_name=self.EFFECT,
            alpha=self.level.alpha,
            correction="none",
            min_effect=self.level.min_effect,
            rows=len(x),
            missing=int(np.isnan(x).sum()),
            distance_threshold=found.distance_threshold,
        )

    def state(self) -> State:
        """See `Detector.state`."""
        more = {"max_rows": self.max_rows, "scale": self.scale, **self.more}
        return State(
            parameters=kept(self.METHOD, self.features, self.level, **more),
            arrays={"points": self.points, **self.encoding.arrays()},
        )

    @classmethod
    def restore(cls, state: State, features: Features) -> Self:
        """See `Detector.restore`."""
        level, more = taken(cls.METHOD, state, features, ("points", "fill", "center", "scale"))
        encoding = Encoding.restore(dict(state.arrays), features)
        return cls(features, level, encoding, state.arrays["points"], **more)


def some(x: Array, most: int, seed: int) -> Array:
    """Rows `[n, f]`, at most so many of them, in order."""
    if len(x) <= most:
        return x
    found: Array = x[np.sort(np.random.default_rng(seed).choice(len(x), size=most, replace=False))]
    return found
