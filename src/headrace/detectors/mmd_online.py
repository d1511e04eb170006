"""Maximum mean discrepancy between the last rows and the reference: method `mmd-online`.

Cobb, Van Looveren and Klaise (2022; see `detectors.sliding`) with the unbiased estimate of MMD^2 and the kernel of
`detectors.mmd` (Gretton et al. 2012). Kernels to the reference are summed once per row, those within the window as it
slides.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np

from headrace.detectors.encoding import Encoding, bandwidth, gaussian
from headrace.detectors.sliding import Sliding, along, within
from headrace.features import Features
from headrace.payload import Array


class MmdOnline(Sliding):
    """Compares rows by a kernel, so that a drift of how columns go together is seen too."""

    METHOD = "mmd-online"

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
        scale: bool = True,
    ) -> Self:
        """See `DriftOnline.fit`.

        Args:
            x: `[n, f]` FP64, the reference.
            features: Its columns.
            ert: Rows.
            seed: Of which rows the window begins with, and of the simulation.
            window: Rows. A larger one sees smaller drifts and is slower with large ones.
            max_rows: Of the reference; more are sampled.
            streams: To simulate; None: ten times `ert`, at least 1,000 and at most 10,000.
            scale: Measure numbers in deviations; False: they are of one unit already.

        Raises:
            InvalidRequest: fewer rows than four windows, `ert` below 2, or `window` below 2.
        """
        return cls.calibrated(
            x, features, ert=ert, seed=seed, window=window, max_rows=max_rows, streams=streams, scale=scale
        )

    @classmethod
    def encode(
        cls,
        x: Array,
        features: Features,
        options: Mapping[str, Any],
        rng: np.random.Generator,  # noqa: ARG003 - nothing is drawn
    ) -> tuple[dict[str, Array], Array]:
        """See `Sliding.encode`."""
        encoding = Encoding.of(x, features, scale=options["scale"])
        return {**encoding.arrays(), "width": np.array([bandwidth(encoding.points(x))])}, x

    def to_points(self, x: Array) -> Array:
        """See `Sliding.to_points`."""
        return Encoding.restore(self.arrays, self.features).points(x)

    def prepare(self) -> None:
        """See `Sliding.prepare`."""
        self.width = float(self.arrays["width"][0])
        if "reference" in self.arrays:
            points = self.arrays["reference"]
            count = len(points)
            self.constant = float(gaussian(points, points, self.width).sum() - count) / (count * (count - 1))

    def statistics(self, points: Array) -> Array:
        """See `Sliding.statistics`."""
        size = self.window
        across = gaussian(points, self.arrays["reference"], self.width).mean(1)
        inner = within(gaussian(points, points, self.width), size) - size
        found: Array = self.constant + inner / (size * (size - 1)) - 2 * along(across, size) / size
        return found

    def simulated(self, points: Array, dealt: Array) -> Array:
        """See `Sliding.simulated`."""
        size, count = self.window, len(points) - dealt.shape[1]
        kernel = gaussian(points, points, self.width)
        of_stream = kernel[dealt[:, :, None], dealt[:, None, :]]
        to_all, to_stream = kernel.sum(0)[dealt], of_stream.sum(2)
        across = (to_all - to_stream) / count
        rest = kernel.sum() - 2 * to_all.sum(1) + of_stream.sum((1, 2)) - count
        inner = within(of_stream, size) - size
        outer = along(across.T, size).T / size
        found: Array = rest[:, None] / (count * (count - 1)) + inner / (size * (size - 1)) - 2 * outer
        return found
