"""A message that can never be answered, as it came, with the cause in headers. The pump makes them."""

from __future__ import annotations

from typing import Final

from headrace.brokers.base import Outgoing, Record
from headrace.errors import HeadraceError

_TEXT_KEPT: Final = 2000
"""Characters of a cause."""
_CAUSE: Final = "headrace-error"


def of(record: Record, error: BaseException, *, topic: str, group: str, attempts: int) -> Outgoing:
    """The dead letter of a message.

    Key, value and headers are those of the message; added are `headrace-error` (the class), `headrace-error-message`,
    `headrace-error-topic`, `-partition`, `-offset`, `-group` and `-attempts`. A message that was a dead letter before
    gets the newest cause only. Of an error that is not ours the text stays in the log: it may hold anything.

    Args:
        record: The message.
        error: Why.
        topic: Where to.
        group: Who gave it up.
        attempts: How often it was tried.
    """
    causes = {
        _CAUSE: type(error).__name__,
        f"{_CAUSE}-message": _text(error),
        f"{_CAUSE}-topic": record.topic,
        f"{_CAUSE}-partition": str(record.partition),
        f"{_CAUSE}-offset": str(record.offset),
        f"{_CAUSE}-group": group,
        f"{_CAUSE}-attempts": str(attempts),
    }
    kept = tuple((name, value) for name, value in record.headers if not name.lower().startswith(_CAUSE))
    return Outgoing(
        topic, record.value, record.key, kept + tuple((name, text.encode()) for name, text in causes.items())
    )


def _text(error: BaseException) -> str:
    return str(error)[:_TEXT_KEPT] if isinstance(error, HeadraceError) else "internal error; see the server's log"
