"""The nouns of the room: what came from a topic, and what is to go to one; and the road to the rest of the room, which
needs the broker's library. This file does not.
"""

from __future__ import annotations

import importlib
from typing import Any

import msgspec

from headrace.errors import MissingExtra

Headers = tuple[tuple[str, bytes], ...]


class Record(msgspec.Struct, frozen=True, gc=False):
    """A message as it came."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()
    timestamp: float = 0.0
    """Seconds since the epoch."""

    def header(self, name: str) -> str:
        """The first value of a header, as text; names are compared without case. Empty: there is none."""
        wanted = name.lower()
        return next((value.decode("utf-8", "replace") for key, value in self.headers if key.lower() == wanted), "")


class Outgoing(msgspec.Struct, frozen=True, gc=False):
    """A message to send."""

    topic: str
    value: bytes | None
    key: bytes | None = None
    headers: Headers = ()


def record_of(message: Any) -> Record:
    """A message of the library as ours."""
    headers = message.headers()
    return Record(
        message.topic(),
        message.partition(),
        message.offset(),
        message.key(),
        message.value(),
        tuple([(name, value or b"") for name, value in headers]) if headers else (),
        message.timestamp()[1] / 1000,
    )


def library(module: str, *, needed_by: str) -> Any:
    """A module that needs the broker's library, for those who want it only where Kafka is used.

    Args:
        module: `headrace.brokers.pump`.
        needed_by: Who wants it, as a sentence begins: `durable pipelines`.

    Raises:
        MissingExtra: the broker's library is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as exc:
        if exc.name != "confluent_kafka":
            raise
        raise MissingExtra(
            f"{needed_by} need the library confluent-kafka, which is not installed; run: pip install 'headrace[kafka]'"
        ) from exc
