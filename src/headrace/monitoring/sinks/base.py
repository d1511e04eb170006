"""What a sink is. `monitoring.outbox` calls `send` from its threads and tries again where the error says so."""

from __future__ import annotations

from typing import Literal, Protocol

import msgspec

from headrace.protocols.cloudevents import Event


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How events are sent, whatever the sink."""

    mode: Literal["binary", "structured"] = "binary"
    """Of CloudEvents."""
    secret: str = ""
    """Signs what is sent; empty: nothing does."""
    timeout_seconds: float = 10.0
    """To connect, to send, and to read the answer: each."""


class Sink(Protocol):
    """An address that takes events. Its methods may be called from several threads."""

    def send(self, event: Event) -> None:
        """Deliver one, and return when the other side has it.

        Raises:
            Temporary: trying again later may succeed; `Overloaded` says when.
            HeadraceError: it never will.
        """

    def close(self) -> None:
        """Let go of connections and files. Twice is once."""
