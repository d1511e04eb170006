"""Histograms, and metric families as Prometheus's text form has them. The other files of metrics are made of both."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from typing import Final

import msgspec

SECONDS: Final = (
    0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip
"""Buckets of durations."""
NANOSECONDS: Final = tuple(int(bound * 1e9) for bound in SECONDS)
DEFAULT: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
"""The buckets of Prometheus's own client libraries, which other servers use for everything."""
DEFAULT_NANOSECONDS: Final = tuple(int(bound * 1e9) for bound in DEFAULT)


class Histogram(msgspec.Struct, gc=False):
    """Counts by bucket and their sum, in the unit of the bounds."""

    bounds: tuple[float, ...]
    counts: list[int]
    total: int = 0

    @classmethod
    def of(cls, bounds: tuple[float, ...]) -> Histogram:
        """An empty one."""
        return cls(bounds, [0] * (len(bounds) + 1))

    def add(self, value: int) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def count(self) -> int:
        """How many values."""
        return sum(self.counts)

    def merge(self, other: Histogram) -> None:
        """Count what the other counted, in the same buckets."""
        for index, count in enumerate(other.counts):
            self.counts[index] += count
        self.total += other.total


class Family:
    """One metric and its samples, as the text format names them.

    Args:
        name: As it is exposed; of a counter, with `_total`.
        kind: `counter`, `gauge`, `histogram` or `summary`.
        text: What it means.
    """

    def __init__(self, name: str, kind: str, text: str) -> None:
        from prometheus_client.metrics_core import Metric

        self.name = name
        self.metric = Metric(name.removesuffix("_total") if kind == "counter" else name, text, kind)

    def value(self, labels: dict[str, str], value: float) -> None:
        """The one sample of a counter or gauge."""
        self.metric.add_sample(self.name, labels, value)

    def summary(self, labels: dict[str, str], count: float, total: float) -> None:
        """How many, and their sum."""
        self.metric.add_sample(self.name + "_count", labels, count)
        self.metric.add_sample(self.name + "_sum", labels, total)

    def histogram(
        self,
        labels: dict[str, str],
        counts: Iterable[int],
        total: float,
        *,
        names: Iterable[object] = DEFAULT,
        unit: float = 1.0,
    ) -> None:
        """Cumulated buckets, how many, and their sum.

        Args:
            labels: Of every sample.
            counts: By bucket, not cumulated; the last is above all bounds.
            total: The sum of the values.
            names: The bounds as they are shown.
            unit: What `total` is multiplied with.
        """
        seen = 0
        for name, count in zip([*names, "+Inf"], counts, strict=True):
            seen += count
            self.metric.add_sample(self.name + "_bucket", {**labels, "le": str(name)}, seen)
        self.summary(labels, seen, total * unit)
