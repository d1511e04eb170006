"""The nouns of the room: what came from a topic, and what is to go to one."""

from __future__ import annotations

import msgspec

Headers = tuple[tuple[str, bytes], ...]


class Record(msgspec.Struct, frozen=True):
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


class Outgoing(msgspec.Struct, frozen=True):
    """A message to send."""

    topic: str
    value: bytes | None
    key: bytes | None = None
    headers: Headers = ()
