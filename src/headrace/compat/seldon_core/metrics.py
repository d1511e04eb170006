"""Metrics as components return them from `metrics()`, and what makes them."""

from __future__ import annotations

from typing import Any

COUNTER = "COUNTER"
GAUGE = "GAUGE"
TIMER = "TIMER"


def create_counter(key: str, value: float, tags: dict[str, str] | None = None) -> dict[str, Any]:
    """A number that is added."""
    return _metric(COUNTER, key, value, tags)


def create_gauge(key: str, value: float, tags: dict[str, str] | None = None) -> dict[str, Any]:
    """A number that stands."""
    return _metric(GAUGE, key, value, tags)


def create_timer(key: str, value: float, tags: dict[str, str] | None = None) -> dict[str, Any]:
    """A duration in milliseconds."""
    return _metric(TIMER, key, value, tags)


def validate_metrics(metrics: Any) -> bool:
    """Whether this is a list of metrics."""
    return isinstance(metrics, list) and all(
        isinstance(each, dict)
        and each.get("type") in {COUNTER, GAUGE, TIMER}
        and isinstance(each.get("key"), str)
        and isinstance(each.get("value"), int | float)
        for each in metrics
    )


def _metric(kind: str, key: str, value: float, tags: dict[str, str] | None) -> dict[str, Any]:
    found: dict[str, Any] = {"key": key, "type": kind, "value": value}
    if tags is not None:
        found["tags"] = tags
    return found
