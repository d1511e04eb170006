"""Least-squares density difference between the last rows and the reference: method `lsdd-online`.

Cobb, Van Looveren and Klaise (2022; see `detectors.sliding`) with the distance of `detectors.lsdd` (Sugiyama et al.
2013; Bu, Alippi and Zhao 2016, IEEE Trans. Neural Netw. Learn. Syst. 29, and 2017, IEEE Trans. Syst. Man Cybern. 47,
for windows of a stream): kernels at centres that are rows of the reference, lambda the largest at which the two
estimates differ by at most a fifth on average over simulated windows. Rows that are centres are set apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np

from headrace.detectors.encoding import Encoding, bandwidth, gaussian
from headrace.detectors.lsdd import LAMBDAS, RELATIVE
from headrace.detectors.sliding import Sliding, along
from headrace.features import Features
from headrace.payload import Array


class LsddOnline(Sliding):
    """Compares rows by the difference of their densities."""

    METHOD = "lsdd-online"

    @classmethod
    def fit(
        cls,
        x: Array,
        features: Features,
        *,
        ert: float = 1000.0,
        seed: int = 0,
        window: int = 25,
        max_rows: int = 1000,
        streams: int | None = None,
        centers: int | None = None,
        scale: bool = True,
    ) -> Self:
        """See `mmd_online.MmdOnline.fit`; `centers`: rows at which kernels stand, None: two windows, at most 50 and a
        quarter of the reference.
        """
        centers = min(2 * window, 50) if centers is None else centers
        return cls.calibrated(
            x,
            features,
            ert=ert,
            seed=seed,
            window=window,
            max_rows=max_rows,
            streams=streams,
            scale=scale,
            centers=max(1, min(centers, min(len(x), max_rows) // 4)),
        )

    @classmethod
    def encode(
        cls, x: Array, features: Features, options: Mapping[str, Any], rng: np.random.Generator
    ) -> tuple[dict[str, Array], Array]:
        """See `Sliding.encode`."""
        encoding = Encoding.of(x, features, scale=options["scale"])
        points = encoding.points(x)
        order = rng.permutation(len(x))
        centers, rest = order[: options["centers"]], np.sort(order[options["centers"] :])
        width = np.array([bandwidth(points)])
        arrays = {**encoding.arrays(), "width": width, "centers": points[centers], "lambda": LAMBDAS[:1].copy()}
        return arrays, x[rest]

    def to_points(self, x: Array) -> Array:
        """See `Sliding.to_points`."""
        return Encoding.restore(self.arrays, self.features).points(x)

    def prepare(self) -> None:
        """See `Sliding.prepare`."""
        self.width = float(self.arrays["width"][0])
        centers = self.arrays["centers"]
        values, self.vectors = np.linalg.eigh(gaussian(centers, centers, 2 * self.width))
        self.values = np.maximum(values, 0.0)
        if "reference" in self.arrays:
            self.mean = self._kernels(self.arrays["reference"]).mean(0)

    def _kernels(self, points: Array) -> Array:
        return gaussian(points, self.arrays["centers"], self.width)

    def _distances(self, gaps: Array) -> Array:
        """2 h theta - theta H theta of mean differences h `[..., c]`."""
        regular = self.values + float(self.arrays["lambda"][0])
        found: Array = ((gaps @ self.vectors) ** 2) @ (2 / regular - self.values / regular**2)
        return found

    def statistics(self, points: Array) -> Array:
        """See `Sliding.statistics`."""
        return self._distances(self.mean - along(self._kernels(points), self.window) / self.window)

    def settle(self, points: Array, dealt: Array) -> None:
        """Choose lambda as `lsdd.distances` does, by windows of the reference."""
        squares = (self._gaps(points, dealt[:, : self.window + 1])[:, 0] @ self.vectors) ** 2
        for each in LAMBDAS:
            lasts, quadratic = squares @ (1 / (self.values + each)), squares @ (self.values / (self.values + each) ** 2)
            self.arrays["lambda"] = np.array([each])
            if (1 - np.divide(quadratic, lasts, out=np.ones_like(lasts), where=lasts > 0)).mean() <= RELATIVE:
                return

    def _gaps(self, points: Array, dealt: Array) -> Array:
        """Mean differences of the windows but the first of streams `[b, W + n]`: `[b, n, c]`."""
        kernels = self._kernels(points)
        of_stream = kernels[dealt]
        rest = (kernels.sum(0) - of_stream.sum(1)) / (len(points) - dealt.shape[1])
        sums = np.moveaxis(along(np.moveaxis(of_stream, 1, 0), self.window), 0, 1)
        found: Array = rest[:, None] - sums / self.window
        return found

    def simulated(self, points: Array, dealt: Array) -> Array:
        """See `Sliding.simulated`."""
        return self._distances(self._gaps(points, dealt))
