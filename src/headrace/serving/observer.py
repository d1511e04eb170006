"""What serving tells whoever watches it. `app.py` gives each model its own; monitoring implements it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Observer(Protocol):
    """One model version's ear. Called on the event loop, so each method takes a microsecond at most."""

    def executed(self, *, requests: int, rows: int, queue_ns: int, predict_ns: int) -> None:
        """One predict ended well: how many requests and rows it took, the sum of their waits, and its own duration."""

    def failed(self, *, requests: int, queue_ns: int, predict_ns: int) -> None:
        """One predict failed for all of its requests."""

    def queued(self, depth: int) -> None:
        """How many requests wait for this model's next predict now."""

    def restarted(self, reason: str) -> None:
        """A worker process ended and is being started again."""

    def logged(self, values: Sequence[tuple[str, str, float]]) -> None:
        """What the model's own code measured: metric name, description, value."""


class Silent:
    """An observer that keeps nothing."""

    def executed(self, *, requests: int, rows: int, queue_ns: int, predict_ns: int) -> None:
        """Keep nothing."""

    def failed(self, *, requests: int, queue_ns: int, predict_ns: int) -> None:
        """Keep nothing."""

    def queued(self, depth: int) -> None:
        """Keep nothing."""

    def restarted(self, reason: str) -> None:
        """Keep nothing."""

    def logged(self, values: Sequence[tuple[str, str, float]]) -> None:
        """Keep nothing."""
