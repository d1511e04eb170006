"""Points in time, for `spectral_residual` and `seasonal`: what a row is, and what stands for a missing point.

A row is a point of as many series as it has columns, and rows come in the order of time; or it is a window of its own,
`[w]` points or `[w, v]` points of v series, where `Features.shape` says so. A missing point is as the last one before
it, in a window's beginning as the reference's median. Columns that are categories have no value in time: they are left
out, and score 0.
"""

from __future__ import annotations

import dataclasses
from typing import Literal, Self

import numpy as np

from headrace.detectors.filled import Parts, matrix, reference
from headrace.detectors.space import Encoding
from headrace.errors import InvalidRequest
from headrace.features import Features
from headrace.payload import Array

Rows = Literal["auto", "points", "windows"]
"""What a row is; `auto`: a window where it has a shape, else a point."""


@dataclasses.dataclass(frozen=True, slots=True)
class Series:
    """Rows as standardised points in time."""

    encoding: Encoding
    numbers: Array
    """Positions of the columns that are numbers."""
    places: Array
    """Their positions among the encoded ones."""
    windows: bool
    """Whether each row is a window of its own."""
    variables: int
    """Series that run side by side."""

    @classmethod
    def fit(cls, x: Array, features: Features, *, method: str, rows: Rows, least: int) -> tuple[Self, Array]:
        """Of a reference `[n, f]`; and its points, as of `points`.

        Raises:
            InvalidRequest: fewer points in a row of time than `least`, no numbers at all, categories in a window, or a
                `rows` that does not fit.
        """
        if rows not in {"auto", "points", "windows"}:
            raise InvalidRequest(f"rows is one of auto, points, windows; got '{rows}'")
        windows = rows == "windows" or (rows == "auto" and bool(features.shape))
        x = reference(x, features, method=method, rows=1 if windows else max(least, 2))
        if not features.numeric or (windows and features.categorical):
            raise InvalidRequest(f"detector '{method}' watches numbers in time; its columns are categories")
        found = cls._of(Encoding.fit(x, features, scale="column"), windows)
        if windows and len(features) // found.variables < least:
            raise InvalidRequest(
                f"detector '{method}' needs windows of {least} points or more, got {len(features) // found.variables}"
            )
        return found, found.points(x, method=method)[0]

    @classmethod
    def _of(cls, encoding: Encoding, windows: bool) -> Self:
        features = encoding.features
        variables = len(features.numeric)
        if windows:
            variables = int(np.prod(features.shape[1:], dtype=np.int64)) if features.shape else 1
            # One scale per series, not per point of the window.
            center = encoding.center.reshape(-1, variables)
            spread = np.sqrt((encoding.scale.reshape(-1, variables) ** 2 + (center - center.mean(0)) ** 2).mean(0))
            width = center.shape[0]
            encoding = dataclasses.replace(
                encoding, center=np.tile(center.mean(0), width), scale=np.tile(spread, width)
            )
        numbers = np.array(features.numeric, np.int64)
        return cls(encoding, numbers, encoding.starts()[numbers], windows, variables)

    def points(self, x: Array, *, method: str, before: Array | None = None) -> tuple[Array, Array]:
        """Rows as points.

        Args:
            x: `[n, f]`.
            method: Named in errors.
            before: `[f]`: the last row before, with nothing missing.

        Returns:
            Points `[n, v]`, or of windows `[n, w, v]`; and the last row `[f]` with nothing missing.

        Raises:
            InvalidRequest: as `filled.matrix`.
        """
        x = matrix(x, len(self.encoding.features), method=method)
        fill = self.encoding.filling.values
        if np.isnan(x).any():
            if self.windows:
                x = _carried(x.reshape(x.shape[0], -1, self.variables).swapaxes(0, 1)).swapaxes(0, 1).reshape(x.shape)
            else:
                first = fill if before is None else before
                x = _carried(np.concatenate([first[None], x]))[1:]
        encoded = self.encoding(x, method=method)
        last = np.where(np.isfinite(x[-1]), x[-1], fill) if x.shape[0] else fill if before is None else before
        if self.windows:
            return encoded.reshape(x.shape[0], x.shape[1] // self.variables, self.variables), last
        return encoded[:, self.places], last

    def per_feature(self, scores: Array) -> Array:
        """Scores of points `[n, v]` or `[n, w, v]` as those of columns `[n, f]`."""
        if self.windows:
            return scores.reshape(scores.shape[0], len(self.encoding.features))
        if self.numbers.size == len(self.encoding.features):
            return scores
        all_columns = np.zeros((scores.shape[0], len(self.encoding.features)))
        all_columns[:, self.numbers] = scores
        return all_columns

    @classmethod
    def restore(cls, parts: Parts, features: Features) -> Self:
        """From the arrays of the encoding and the parameter `windows`."""
        encoding = Encoding.restore(parts, features)
        windows = bool(parts.value("windows"))
        variables = int(parts.value("variables"))
        numbers = np.array(features.numeric, np.int64)
        return cls(encoding, numbers, encoding.starts()[numbers], windows, variables)


def _carried(x: Array) -> Array:
    """The last known value before, along the first axis; NaN where there is none."""
    known = ~np.isnan(x)
    steps = np.arange(x.shape[0]).reshape(-1, *(1,) * (x.ndim - 1))
    last = np.maximum.accumulate(np.where(known, steps, 0), axis=0)
    return np.take_along_axis(x, last, axis=0)
