"""Seasonal context: how far a point is from what is usual at its time of the season. For series.

A series is a level, plus a profile over one season, plus noise (the classical additive decomposition), all three told
by medians, as Rousseeuw and Hubert, "Robust statistics for outlier detection", 2011, advise: odd points in the
reference do not move them. The score is |x - level - profile| in units of the noise, 1.4826 times the median absolute
residual. A point that would be usual at another time is odd: a contextual outlier.

The length of a season is given, or is the first lag at which the autocorrelation peaks near its highest (Box, Jenkins
and Reinsel, chapter 2); where there is none, it is 1 and the score is a robust z. What stream and reference have in
common is the profile, not the clock: after every season the level follows the stream's, and if another phase explains
the season clearly better, that is the phase from then on. A window of points is put where it fits best.
"""

from __future__ import annotations

from typing import ClassVar, Final, Self

import numpy as np

from headrace.detectors.base import Data, Outlier, Scores, State
from headrace.detectors.filled import Parts, kept
from headrace.detectors.series import Rows, Series
from headrace.errors import InvalidRequest
from headrace.features import Features
from headrace.payload import Array

_LEAST: Final = 8
"""Points in a row of time."""
_MOST: Final = 5000
"""Points of a season."""
_WHOLE: Final = 32
"""Points from which a stream without a season learns its level."""
_SURE: Final = 0.7
"""Another phase is taken if it leaves less than this share of the residual."""
_FAR: Final = 10.0
"""A residual counts for the phase up to so many units: a few odd points do not turn it."""
_FLOOR: Final = 1e-3
"""The least noise, as a share of the reference's standard deviation."""
_CELLS: Final = 4_000_000
"""Numbers that are compared together: bounds memory."""


class Seasonal(Outlier):
    """A profile, and where in it the stream is."""

    METHOD: ClassVar[str] = "seasonal"
    DATA: ClassVar[tuple[Data, ...]] = ("series",)
    ONLINE: ClassVar[bool] = True

    def __init__(
        self,
        series: Series,
        *,
        profile: Array,
        noise: Array,
        level: Array,
        rate: float,
        phase: int,
        waiting: Array,
        last: Array,
    ) -> None:
        self.series = series
        self.profile = profile
        """`[period, v]`, its median 0."""
        self.noise = noise
        """`[v]`."""
        self.level = level
        """`[v]`."""
        self.rate = rate
        """How much of the way the level goes after a season."""
        self.phase = phase
        """Of the first of the waiting points."""
        self.waiting = waiting
        """`[fewer than a season, v]`: points since the level last moved."""
        self.last = last
        """`[f]`: the last row, with nothing missing."""

    @classmethod
    def fit(
        cls,
        x: Array,
        features: Features,
        *,
        seed: int = 0,  # noqa: ARG003 - nothing is random
        period: int = 0,
        rate: float = 0.5,
        rows: Rows = "auto",
    ) -> Self:
        """Learn the profile.

        Args:
            x: `[n, f]` FP64, the reference, in the order of time.
            features: Its columns.
            seed: Nothing is random.
            period: Points of a season; 0: estimated.
            rate: How much of the way to a season's own level the level goes after it, from 0 to 1.
            rows: Whether rows are points or windows.

        Raises:
            InvalidRequest: fewer points than two seasons in a row of time, no numbers, or a parameter out of range.
        """
        if not 0 <= period <= _MOST or not 0 <= rate <= 1:
            raise InvalidRequest(f"period is from 0 to {_MOST} and rate from 0 to 1; got {period} and {rate}")
        least = max(_LEAST, period if rows == "windows" or (rows == "auto" and features.shape) else 2 * period)
        series, points = Series.fit(x, features, method=cls.METHOD, rows=rows, least=least)
        runs = points if series.windows else points[None]
        period = period or season(runs)
        if series.windows:
            cycles = _aligned(runs, period)
        else:
            # From the end, so that the next point begins a season.
            seasons = runs.shape[1] // period
            cycles = runs[0, runs.shape[1] - seasons * period :].reshape(seasons, period, -1)
        profile, noise, level = _decomposed(cycles)
        return cls(
            series,
            profile=profile,
            noise=noise,
            level=level,
            rate=rate,
            phase=0,
            waiting=np.empty((0, series.variables)),
            last=series.points(x, method=cls.METHOD)[1],
        )

    def score(self, x: Array) -> Scores:
        """Residuals in units of the noise; of a row, its largest."""
        points, last = self.series.points(x, method=self.METHOD, before=self.last)
        scores = self._windows(points) if self.series.windows else self._points(points)
        if not self.series.windows:
            self.last = last
        feature = self.series.per_feature(scores)
        return Scores(instance=scores.max(tuple(range(1, scores.ndim))), feature=feature)

    def _points(self, points: Array) -> Array:
        period = self.profile.shape[0]
        whole = max(period, -(-_WHOLE // period) * period)
        scores = np.empty(points.shape)
        start = 0
        while start < points.shape[0]:  # from season to season
            first = self.waiting.shape[0]
            stop = min(start + whole - first, points.shape[0])
            at = (self.phase + first + np.arange(stop - start)) % period
            scores[start:stop] = np.abs(points[start:stop] - self.profile[at] - self.level) / self.noise
            self.waiting = np.concatenate([self.waiting, points[start:stop]])
            if self.waiting.shape[0] == whole:
                self._learn()
            start = stop
        return scores

    def _learn(self) -> None:
        points, self.waiting = self.waiting, self.waiting[:0].copy()
        phase, _ = self._best(points[None], at=self.phase)
        self.phase = int(phase[0])  # a whole number of seasons has gone by
        at = (self.phase + np.arange(points.shape[0])) % self.profile.shape[0]
        found = np.median(points - self.profile[at], axis=0)
        self.level = self.level + self.rate * (found - self.level)

    def _windows(self, points: Array) -> Array:
        phase, level = self._best(points)
        at = (phase[:, None] + np.arange(points.shape[1])) % self.profile.shape[0]
        scores: Array = np.abs(points - self.profile[at] - level[:, None]) / self.noise
        return scores

    def _best(self, points: Array, *, at: int | None = None) -> tuple[Array, Array]:
        """The phases of windows `[n, w, v]` that leave least, and the levels there: `[n]` and `[n, v]`.

        One that is given stays, unless another is clearly better.
        """
        period = self.profile.shape[0]
        least = np.full(points.shape[0], np.inf)
        phase = np.zeros(points.shape[0], np.int64)
        steps = np.arange(points.shape[1])

        def left(shifts: Array) -> tuple[Array, Array]:
            rest = points[:, None] - self.profile[(shifts[:, None] + steps) % period]
            level = np.median(rest, axis=2)
            far = np.minimum(np.abs(rest - level[:, :, None]) / self.noise, _FAR)
            return far.mean((2, 3)), level

        if at is not None:
            phase[:] = at
            least = _SURE * left(np.array([at]))[0][:, 0]
        size = max(_CELLS // max(points.size, 1), 1)
        for start in range(0, period, size):
            shifts = np.arange(start, min(start + size, period))
            found, _ = left(shifts)
            best = found.argmin(1)
            value = np.take_along_axis(found, best[:, None], 1)[:, 0]
            phase = np.where(value < least, shifts[best], phase)
            least = np.minimum(least, value)
        rest = points - self.profile[(phase[:, None] + steps) % period]
        return phase, np.median(rest, axis=1)

    def state(self) -> State:
        """The profile, and where in it the stream is now."""
        arrays = {
            **self.series.encoding.arrays(),
            "profile": self.profile,
            "noise": self.noise,
            "level": self.level,
            "waiting": self.waiting,
            "last": self.last,
        }
        return kept(
            self.METHOD,
            len(self.series.encoding.features),
            arrays,
            windows=self.series.windows,
            variables=self.series.variables,
            rate=self.rate,
            phase=self.phase,
        )

    @classmethod
    def restore(cls, state: State, features: Features) -> Self:
        """As `Detector.restore`."""
        parts = Parts(state, cls.METHOD, features)
        return cls(
            Series.restore(parts, features),
            profile=parts.array("profile"),
            noise=parts.array("noise"),
            level=parts.array("level"),
            rate=float(parts.value("rate")),
            phase=int(parts.value("phase")),
            waiting=parts.array("waiting"),
            last=parts.array("last"),
        )


def season(runs: Array) -> int:
    """The length of a season in runs `[n, w, v]` of points; 1: there is none.

    The autocorrelation is that of all runs and series together, each less its straight line. A run has a season and two
    thirds at least, and the season's peak stands above 0.2 and above three standard errors of white noise.
    """
    width = runs.shape[1]
    time = np.arange(width) - (width - 1) / 2
    rest = runs - runs.mean(1, keepdims=True)
    slope = (rest * time[:, None]).sum(1, keepdims=True) / (time @ time)
    rest = rest - slope * time[:, None]
    size = 1 << (2 * width - 1).bit_length()
    power = np.abs(np.fft.rfft(rest, size, axis=1)) ** 2
    products = np.fft.irfft(power, size, axis=1)[:, : width * 3 // 5 + 2].sum((0, 2))
    if products[0] <= 1e-12 * rest.size:
        return 1
    correlation = products / products[0] * width / (width - np.arange(products.size))
    peak = (correlation[1:-1] >= correlation[:-2]) & (correlation[1:-1] > correlation[2:])
    lags = np.flatnonzero(peak) + 1
    # A season's profile has mean 0, so its autocorrelation falls to 0 before it rises again: what peaks before that is
    # noise on a slow wave.
    fallen = int((correlation <= 0).argmax())
    lags = lags[(lags >= max(fallen, 2)) & (lags <= _MOST) & (fallen > 0)]
    lags = lags[correlation[lags] > max(0.2, 3.0 / (runs.shape[0] * width) ** 0.5)]
    if not lags.size:
        return 1
    near = lags[correlation[lags] >= 0.85 * correlation[lags].max()]
    # Noise makes small peaks on the slopes of a wide one: the highest within a quarter of a season is meant.
    around = lags[np.abs(lags - near[0]) <= near[0] // 4]
    return int(around[correlation[around].argmax()])


def _aligned(runs: Array, period: int) -> Array:
    """Windows `[n, w, v]`, each turned to begin a season and cut or filled to whole ones: `[seasons, period, v]`.

    The turn is the phase of the fundamental in the series where it is strongest. Points that a window does not have are
    NaN.
    """
    if period == 1:
        return runs.reshape(-1, 1, runs.shape[2])
    steps = np.arange(runs.shape[1])
    wave = np.exp(-2j * np.pi * steps / period)
    found = np.einsum("nwv,w->nv", runs - runs.mean(1, keepdims=True), wave)
    strongest = found[:, np.abs(found).mean(0).argmax()]
    phase = np.round(np.angle(strongest) / (2 * np.pi) * period).astype(np.int64) % period
    seasons = -(-(runs.shape[1] + period) // period)
    cycles = np.full((runs.shape[0], seasons * period, runs.shape[2]), np.nan)
    np.put_along_axis(cycles, (phase[:, None] + steps)[:, :, None], runs, axis=1)
    cycles = cycles.reshape(-1, period, runs.shape[2])
    return cycles[(~np.isnan(cycles)).all((1, 2))] if runs.shape[1] >= 2 * period else _full(cycles)


def _full(cycles: Array) -> Array:
    """Seasons with what they lack filled by the median of the others, where windows are too short for whole ones."""
    known = ~np.isnan(cycles)
    cycles = cycles[known.any((1, 2))]
    if not known.any(0).all():
        raise InvalidRequest("the reference's windows do not cover a season: give longer ones, or a shorter period")
    return np.where(np.isnan(cycles), np.nanmedian(cycles, axis=0), cycles)


def _decomposed(cycles: Array) -> tuple[Array, Array, Array]:
    """The profile `[period, v]`, the noise `[v]` and the last level `[v]` of seasons `[n, period, v]`."""
    if cycles.shape[1] == 1:  # without a season there is one level
        level = np.median(cycles, axis=(0, 1))
        rest = cycles - level
        profile = np.zeros((1, cycles.shape[2]))
        last = level
    else:
        levels = np.median(cycles, axis=1)
        profile = np.median(cycles - levels[:, None], axis=0)
        profile = profile - np.median(profile, axis=0)
        levels = np.median(cycles - profile, axis=1)
        rest = cycles - profile - levels[:, None]
        last = levels[-1]
    # Of few seasons the residuals are too small: as many medians were taken from them as a season has points.
    freedom = cycles.shape[0] / max(cycles.shape[0] - 1, 1) if cycles.shape[1] > 1 else 1.0
    noise = 1.4826 * np.median(np.abs(rest), axis=(0, 1)) * freedom**0.5
    return profile, np.maximum(noise, _FLOOR), last
