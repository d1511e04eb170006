"""What a sink is. `monitoring.outbox` calls `send` from its threads and tries again where the error says so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol, runtime_checkable

import msgspec

from headrace.brokers.settings import KafkaSettings
from headrace.errors import HeadraceError
from headrace.protocols.cloudevents import Event


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How events are sent, whatever the sink."""

    mode: Literal["binary", "structured"] = "binary"
    """Of CloudEvents."""
    secret: str = ""
    """Signs what is sent; empty: nothing does."""
    timeout_seconds: float = 10.0
    """To connect, to send, and to read the answer: each."""
    kafka: KafkaSettings = KafkaSettings()
    """How brokers are reached: TLS, SASL, and their addresses where the sink's names none."""

    def __repr__(self) -> str:
        return f"Options(mode={self.mode!r}, {self.timeout_seconds:g} s)"  # the others hold secrets


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


@runtime_checkable
class SinkOfMany(Sink, Protocol):
    """A sink that sends several events in about the time of one."""

    @property
    def most_at_once(self) -> int:
        """Events that it should be given together, at most."""

    def send_many(self, events: Sequence[Event]) -> Sequence[HeadraceError | None]:
        """Deliver them, and return when what became of each is known: what `send` would have raised, in order."""
