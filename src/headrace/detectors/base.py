"""What a detector is: the roles that `trust` fits and keeps, and `monitoring` feeds.

All of them see rows of float64 (`headrace.features`), and are values of their own: a fitted one is told apart from its
class by its `State`, which is plain JSON and arrays, so it is kept, moved and restored without a pickle. For all:

- a larger score is odder;
- NaN in a row is a missing value, never an error and never an answer: detectors of rows put the reference's median (of
  a category, its mode) in its place, tests between samples leave it out of its column and compare how often it comes;
- `features.UNSEEN` is a category like any other that the reference happens not to have;
- a column that is constant in the reference is no error: it is odd where a row differs from it;
- what is random is drawn from `numpy.random.default_rng(seed)`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal, Self

import msgspec

from headrace.features import Features
from headrace.payload import EMPTY, Array

Kind = Literal["outlier", "drift", "adversarial"]
Data = Literal["tabular", "image", "series"]
Predict = Callable[[Array], Array]
"""Rows `[n, f]` of float64 to what the model says of them, `[n, k]` of float64: the probabilities of k classes, or k
numbers."""


class State(msgspec.Struct, frozen=True, kw_only=True):
    """All that there is to know of a fitted detector."""

    parameters: Mapping[str, Any] = EMPTY
    """JSON values by name."""
    arrays: Mapping[str, Array] = EMPTY
    """Of numbers and booleans, never of objects."""


class Scores(msgspec.Struct, frozen=True, kw_only=True):
    """How odd rows are."""

    instance: Array
    """`[n]` FP64."""
    feature: Array | None = None
    """`[n, f]` FP64: how odd each value of a row is, where the method can tell; larger is odder, as of the row."""


class Drift(msgspec.Struct, frozen=True, kw_only=True):
    """What a test between the reference and a sample says. Arrays have one element per entry of `tested`."""

    is_drift: bool
    """Of the sample as a whole, at the level asked for, whatever the number of tests."""
    tested: tuple[str, ...]
    """The columns that were tested, and as `NAME (missing)` those whose missing values were counted; or one name of the
    whole: `instance`."""
    statistic: Array
    """`[k]` FP64: of the test, larger is further from the reference."""
    p_value: Array | None
    """`[k]` FP64, as tested, before any correction; None: the method has none."""
    threshold: float
    """What a p-value must be below (with the correction), or, of a method without p-values, a statistic above."""
    drifted: Array
    """`[k]` BOOL: which entries passed the threshold."""
    effect: Array
    """`[k]` FP64: how large the difference is, on a scale that does not grow with the number of rows."""
    effect_name: str
    """What that scale is: `cohens_d`, `cramers_v`, `ks_distance`, ..."""
    rows: int
    """Of the sample."""
    missing: int = 0
    """Values of the sample that were missing."""
    distance_threshold: float | None = None
    """The statistic that would just be drift, where the test has one (permutation tests)."""


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """What a detector that is fed row by row says after a batch of rows."""

    is_drift: bool
    """It alarmed at one of the rows."""
    at: tuple[int, ...]
    """Which of them, from 0; the detector starts anew after each."""
    statistic: float
    """The test's, after the last row."""
    threshold: float
    """What it must pass now."""
    time: int
    """Rows seen since the start or the last alarm."""


class Detector(ABC):
    """What all kinds share. Parameters of the method are keyword-only arguments of `fit`, with defaults."""

    METHOD: ClassVar[str]
    """Its name in the registry: `mahalanobis`, `ks`, `mmd-online`."""
    KIND: ClassVar[Kind]
    DATA: ClassVar[tuple[Data, ...]] = ("tabular",)
    """What it is made for. An image and a window are rows too."""
    ONLINE: ClassVar[bool] = False
    """It learns from what it sees, or has a window of its own: its `state` changes as it goes."""

    @abstractmethod
    def state(self) -> State:
        """What `restore` makes the same detector of, whatever it has seen since."""

    @classmethod
    @abstractmethod
    def restore(cls, state: State, features: Features) -> Self:
        """The detector that had this state.

        Raises:
            InvalidRequest: the state is not of this method, or of other columns.
        """


class Outlier(Detector):
    """Says how odd each row is. Thresholds are somebody else's (`trust.calibrate`): a score is all it gives."""

    KIND: ClassVar[Kind] = "outlier"

    @classmethod
    @abstractmethod
    def fit(cls, x: Array, features: Features, *, seed: int = 0) -> Self:
        """Learn what is usual.

        Args:
            x: `[n, f]` FP64, the reference.
            features: Its columns.
            seed: Of all that is random.

        Raises:
            InvalidRequest: too few rows for the method; says how many it needs.
        """

    @abstractmethod
    def score(self, x: Array) -> Scores:
        """Score rows `[n, f]`. One that is ONLINE scores each with what it knew before it, and then learns from it."""


class Adversarial(Detector):
    """Says how far the model's answer moves when a row is smoothed or brought back to what is usual."""

    KIND: ClassVar[Kind] = "adversarial"
    DATA: ClassVar[tuple[Data, ...]] = ("tabular", "image")

    @classmethod
    @abstractmethod
    def fit(cls, x: Array, features: Features, predict: Predict, *, seed: int = 0) -> Self:
        """Learn what is usual; raises as `Outlier.fit`."""

    @abstractmethod
    def score(self, x: Array, predict: Predict) -> Scores:
        """Score rows `[n, f]`, asking the model for as many rows as it needs in few calls."""


class DriftTest(Detector):
    """Compares a sample with the reference."""

    KIND: ClassVar[Kind] = "drift"
    DATA: ClassVar[tuple[Data, ...]] = ("tabular", "image")

    @classmethod
    @abstractmethod
    def fit(cls, x: Array, features: Features, *, alpha: float = 0.05, seed: int = 0) -> Self:
        """Keep of the reference what the test needs.

        Args:
            x: `[n, f]` FP64.
            features: Its columns.
            alpha: The level: how often a sample of the reference's own law may be called drift.
            seed: Of all that is random.

        Raises:
            InvalidRequest: too few rows for the method.
        """

    @abstractmethod
    def test(self, x: Array) -> Drift:
        """Compare a sample `[m, f]` with the reference. The same sample gives the same answer.

        Raises:
            InvalidRequest: no rows, or other columns.
        """


class DriftOnline(Detector):
    """Is fed row by row, and alarms as soon as it can."""

    KIND: ClassVar[Kind] = "drift"
    ONLINE: ClassVar[bool] = True

    @classmethod
    @abstractmethod
    def fit(cls, x: Array, features: Features, *, ert: float = 1000.0, seed: int = 0) -> Self:
        """Calibrate.

        Args:
            x: `[n, f]` FP64, the reference. Of a detector of one stream of numbers, `f` is 1.
            features: Its columns.
            ert: Expected run time: the mean number of rows to an alarm when nothing has changed.
            seed: Of all that is random.
        """

    @abstractmethod
    def step(self, x: Array) -> Step:
        """Take rows `[n, f]` in order."""
