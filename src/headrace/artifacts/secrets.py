"""Values that nobody is shown: `credentials` makes them, stores and HTTP take them apart where they are sent."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

_SHORTEST: Final = 4  # a shorter value would be found in half of all texts


class Secret:
    """A text whose `repr` and `str` are `***`.

    Args:
        value: The text.
    """

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def __repr__(self) -> str:
        return "***" if self._value else "Secret('')"

    __str__ = __repr__

    def __bool__(self) -> bool:
        return bool(self._value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._value == other._value

    def __hash__(self) -> int:
        return hash(self._value)

    def reveal(self) -> str:
        """The text itself, for the one place that sends it."""
        return self._value


def scrub(text: str, secrets: Iterable[str]) -> str:
    """A text in which every one of these values is `***`."""
    for value in sorted(secrets, key=len, reverse=True):
        if len(value) >= _SHORTEST:
            text = text.replace(value, "***")
    return text
