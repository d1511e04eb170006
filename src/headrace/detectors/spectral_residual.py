"""Spectral residual: points that stand out of what is regular in a series. For series, as they come in or by windows.

Ren et al., "Time-series anomaly detection service at Microsoft", KDD 2019, section 3.1: R = L - h_q * L of the log
amplitudes (equations 1 to 5), saliency S = |F^-1(exp(R + iP))| (6), and as the score (S - mean of the z before it) /
that mean (7). Behind the last point stand kappa copies of the one that is to be expected there (8 and 9).

Deviations: that one is expected from the points before the last, as in the authors' code: else an odd last point would
bend what follows to itself. h_q goes round the spectrum's
ends; frequencies with no amplitude have no residual; the mean is held above a hundredth of the window's, so that a
spike in silence is finite; where a row is a window, its first points are compared with the ones that there are.

Points that come one by one are each scored as the last of a window of the points before them: the detector keeps so
many. It continues the reference, whose rows are to be in the order of time; if they are not, it takes one window to
forget that.
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

_LEAST: Final = 12
"""Points of a window."""
_CHUNK: Final = 1024
"""Windows that are transformed together: bounds memory."""


class SpectralResidual(Outlier):
    """A transform, and the points that it remembers."""

    METHOD: ClassVar[str] = "spectral-residual"
    DATA: ClassVar[tuple[Data, ...]] = ("series",)
    ONLINE: ClassVar[bool] = True

    def __init__(
        self, series: Series, *, recent: Array, last: Array, smooth: int, local: int, ahead: int, slope: int
    ) -> None:
        self.series = series
        self.recent = recent
        """`[window, v]`: points before the next one; of windows, none."""
        self.last = last
        """`[f]`: the last row, with nothing missing."""
        self.smooth = smooth
        self.local = local
        self.ahead = ahead
        self.slope = slope

    @classmethod
    def fit(
        cls,
        x: Array,
        features: Features,
        *,
        seed: int = 0,  # noqa: ARG003 - nothing is random
        window: int = 251,
        smooth: int = 3,
        local: int = 21,
        ahead: int = 5,
        slope: int = 5,
        rows: Rows = "auto",
    ) -> Self:
        """Learn the scale of the series, and remember the end of it.

        Args:
            x: `[n, f]` FP64, the reference, in the order of time.
            features: Its columns.
            seed: Nothing is random.
            window: Points that each is judged among, with `ahead` best a power of two; several periods of what is
                regular. At most as many as the reference has.
            smooth: Frequencies that are averaged (q of the paper).
            local: Points before one that its saliency is compared with (z).
            ahead: Points that are put behind the last (kappa).
            slope: Points that their value is estimated from (m).
            rows: Whether rows are points or windows.

        Raises:
            InvalidRequest: fewer than 12 points in a row, no numbers, or a parameter out of range.
        """
        if window < _LEAST or min(smooth, local, slope) < 1 or ahead < 0:
            raise InvalidRequest(
                f"window is {_LEAST} or more, smooth, local and slope 1 or more, ahead 0 or more; got {window}, "
                f"{smooth}, {local}, {slope} and {ahead}"
            )
        series, points = Series.fit(x, features, method=cls.METHOD, rows=rows, least=_LEAST)
        recent = points[:0, :0] if series.windows else points[-window:]
        length = points.shape[1] if series.windows else recent.shape[0]
        return cls(
            series,
            recent=recent.reshape(-1, series.variables).copy(),
            last=series.points(x, method=cls.METHOD)[1],
            smooth=smooth,
            local=min(local, length - 1),
            ahead=ahead,
            slope=min(slope, length - 2),
        )

    def score(self, x: Array) -> Scores:
        """How far a point's saliency is above that of the points before it; of a row, its most salient value's."""
        points, last = self.series.points(x, method=self.METHOD, before=self.last)
        scores = self._windows(points) if self.series.windows else self._points(points)
        if not self.series.windows:
            self.last = last
        feature = self.series.per_feature(scores)
        return Scores(instance=scores.max(tuple(range(1, scores.ndim))), feature=feature)

    def _points(self, points: Array) -> Array:
        """Each as the last of the points before it: `[n, v]`. Remembers them."""
        window = self.recent.shape[0]
        every = np.concatenate([self.recent, points])
        # The window that ends before the first new point is not asked for.
        views = np.lib.stride_tricks.sliding_window_view(every, window, axis=0)[1:]
        scores = np.empty(points.shape)
        for start in range(0, points.shape[0], _CHUNK):
            saliency = self._saliency(views[start : start + _CHUNK])
            before = saliency[..., -1 - self.local : -1].mean(-1)
            scores[start : start + _CHUNK] = _above(saliency[..., -1], before, saliency.mean(-1))
        self.recent = every[every.shape[0] - window :].copy()
        return scores

    def _windows(self, points: Array) -> Array:
        """Every point of windows `[n, w, v]`."""
        scores = np.empty(points.shape)
        for start in range(0, points.shape[0], _CHUNK):
            saliency = self._saliency(points[start : start + _CHUNK].swapaxes(1, 2))
            total = np.concatenate([np.zeros((*saliency.shape[:-1], 1)), saliency.cumsum(-1)], -1)
            at = np.arange(saliency.shape[-1])
            first = np.maximum(at - self.local, 0)
            # The first ones have too few before them: the mean is of as many as at any point, from the start.
            end = np.maximum(at, self.local)
            before = (total[..., end] - total[..., first]) / (end - first)
            scores[start : start + _CHUNK] = _above(saliency, before, saliency.mean(-1, keepdims=True)).swapaxes(1, 2)
        return scores

    def _saliency(self, windows: Array) -> Array:
        """Of series along the last axis."""
        width = windows.shape[-1]
        if self.ahead:
            back = np.arange(1, self.slope + 1)
            mean = ((windows[..., -2:-1] - windows[..., -2 - back]) / back).mean(-1)
            guess = windows[..., -1 - self.slope] + mean * self.slope
            tail = np.broadcast_to(guess[..., None], (*guess.shape, self.ahead))
            windows = np.concatenate([windows, tail], -1)
        spectrum = np.fft.fft(windows)
        amplitude = np.abs(spectrum)
        silent = amplitude <= 1e-9 * amplitude.max(-1, keepdims=True)
        safe = np.where(silent, 1.0, amplitude)
        logs = np.where(silent, 0.0, np.log(safe))
        around = np.zeros_like(logs)
        for shift in range(-(self.smooth // 2), self.smooth - self.smooth // 2):
            around += np.roll(logs, shift, -1)
        residual = np.exp(logs - around / self.smooth)
        saliency: Array = np.abs(np.fft.ifft(np.where(silent, 0.0, spectrum / safe * residual)))
        return saliency[..., :width]

    def state(self) -> State:
        """The scale, and the points that it remembers now."""
        arrays = {**self.series.encoding.arrays(), "recent": self.recent, "last": self.last}
        return kept(
            self.METHOD,
            len(self.series.encoding.features),
            arrays,
            windows=self.series.windows,
            variables=self.series.variables,
            smooth=self.smooth,
            local=self.local,
            ahead=self.ahead,
            slope=self.slope,
        )

    @classmethod
    def restore(cls, state: State, features: Features) -> Self:
        """As `Detector.restore`."""
        parts = Parts(state, cls.METHOD, features)
        return cls(
            Series.restore(parts, features),
            recent=parts.array("recent"),
            last=parts.array("last"),
            smooth=int(parts.value("smooth")),
            local=int(parts.value("local")),
            ahead=int(parts.value("ahead")),
            slope=int(parts.value("slope")),
        )


def _above(saliency: Array, before: Array, overall: Array) -> Array:
    """Equation 7, 0 where nothing is salient at all."""
    unit = np.maximum(before, 0.01 * overall)
    return np.where(unit > 0, saliency - unit, 0.0) / np.where(unit > 0, unit, 1.0)
