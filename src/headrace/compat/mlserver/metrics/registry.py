"""The metrics that model code has registered, and the samples that wait to be drained."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Dict, List, Tuple

from ..context import model_name_var, model_version_var
from .errors import InvalidModelContext, MetricNotFound

Model = Tuple[str, str]
"""Name and version; "" is no version."""
Sample = Tuple[str, str, float]
"""Metric name, description, value."""

DEFAULT_DESCRIPTION = "A value that the model's code has logged."


def current_model() -> Model:
    """The model at work.

    Raises:
        InvalidModelContext: there is none.
    """
    try:
        return model_name_var.get(), model_version_var.get()
    except LookupError:
        raise InvalidModelContext from None


class Histogram:
    """A metric: `observe` values, which are counted under the model at work."""

    def __init__(self, name: str, description: str, registry: MetricsRegistry, model: Model | None = None) -> None:
        self.name = name
        self.description = description
        self._registry = registry
        self._model = model

    def __repr__(self) -> str:
        return f"mlserver.metrics.Histogram({self.name})"

    def labels(self, model_name: str, model_version: str = "") -> Histogram:
        """The same metric, counted under another model."""
        return Histogram(self.name, self.description, self._registry, (model_name, model_version))

    def observe(self, amount: Any) -> None:
        """Count a value.

        Raises:
            TypeError: it is no number.
            InvalidModelContext: no model is at work.
        """
        if isinstance(amount, (str, bytes)):
            raise TypeError(f"metric {self.name!r} takes numbers, not {type(amount).__name__}")
        self._registry.add(self._model or current_model(), (self.name, self.description, float(amount)))

    @contextmanager
    def time(self) -> Iterator[None]:
        """Count the seconds that the block takes."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.observe(time.perf_counter() - start)


class MetricsRegistry:
    """Metrics by name."""

    def __init__(self) -> None:
        self._metrics: Dict[str, Histogram] = {}
        self._samples: Dict[Model, List[Sample]] = {}
        self._lock = threading.Lock()

    def exists(self, metric_name: str) -> bool:
        """Whether it is registered."""
        return metric_name in self._metrics

    def get(self, metric_name: str) -> Histogram:
        """The metric.

        Raises:
            MetricNotFound: it is not registered.
        """
        try:
            return self._metrics[metric_name]
        except KeyError:
            raise MetricNotFound(metric_name) from None

    def __getitem__(self, metric_name: str) -> Histogram:
        return self.get(metric_name)

    def metric(self, name: str, description: str) -> Histogram:
        """The metric of that name, made where it is new."""
        metric = self._metrics.setdefault(name, Histogram(name, description, self))
        if metric.description == DEFAULT_DESCRIPTION:
            metric.description = description
        return metric

    def register(self, collector: Any) -> None:
        """Take a collector of prometheus_client into its own registry, which is exposed where the model runs inline."""
        import prometheus_client

        prometheus_client.REGISTRY.register(collector)

    def unregister(self, collector: Any) -> None:
        """The counterpart of `register`."""
        import prometheus_client

        prometheus_client.REGISTRY.unregister(collector)

    def add(self, model: Model, sample: Sample) -> None:
        """Keep a sample until it is drained."""
        with self._lock:
            self._samples.setdefault(model, []).append(sample)

    def drain(self, model: Model | None = None) -> List[Sample]:
        """Give the samples of a model, or of all, and forget them."""
        if not self._samples:
            return []
        with self._lock:
            if model is not None:
                return self._samples.pop(model, [])
            drained = [sample for samples in self._samples.values() for sample in samples]
            self._samples.clear()
            return drained


REGISTRY = MetricsRegistry()
