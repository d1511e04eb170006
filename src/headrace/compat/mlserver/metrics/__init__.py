"""Metrics that model code measures of itself. They are kept here until the server drains them."""

from __future__ import annotations

from typing import Any

from headrace.compat import not_offered

from .context import _drain as _drain
from .context import log, register
from .registry import REGISTRY

__all__ = ["register", "log", "REGISTRY"]


def __getattr__(name: str) -> Any:
    if name in {"MetricsServer", "configure_metrics"}:
        raise ImportError(
            not_offered(f"mlserver.metrics.{name} (it offers {', '.join(sorted(__all__))})"), name=__name__
        )
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
