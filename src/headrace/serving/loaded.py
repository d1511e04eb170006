"""A model version that answers, as the repository holds it; `app` makes one of an engine, `residency` wraps it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from headrace.payload import Infer, InferStream, Parameters, Route, Signature, Visit
from headrace.serving.models import Explain
from headrace.serving.spec import ModelSpec


class Loaded(Protocol):
    """A model version that answers: loaded, warmed up, placed."""

    @property
    def signature(self) -> Signature | None:
        """What the model declares; None: not known before its first load."""

    @property
    def placement(self) -> str:
        """`inline`, `thread` or `process`."""

    @property
    def infer(self) -> Infer:
        """The model."""

    @property
    def infer_stream(self) -> InferStream | None:
        """Its streaming twin; None where it does not stream."""

    @property
    def declared(self) -> Parameters:
        """Members of metadata in the form of its dialect, under what its settings declare."""

    @property
    def routes(self) -> tuple[Route, ...]:
        """Paths of its own."""

    @property
    def visit(self) -> Visit | None:
        """What answers them; None where it has none."""

    @property
    def explain(self) -> Explain | None:
        """What explains it; None: nothing does."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """What of its settings is not honoured."""

    async def close(self, drain_seconds: float) -> None:
        """Let what is in flight end, for that long at most; answer what still comes meanwhile; then give all back."""


LoadEngine = Callable[[ModelSpec], Awaitable[Loaded]]
"""Loads, warms up and places one version; raises LoadFailed or a subclass, or SettingsError. When it is cancelled or
raises, it leaves nothing behind."""
