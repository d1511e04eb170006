"""JSON documents in bodies: text to Python values, with errors that say where. The REST protocols' parse calls it."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from headrace.errors import InvalidRequest

MAX_DEPTH: Final = 100
"""Levels of nesting inside a value that is passed on; Triton's limit."""


def read_json(text: bytes | memoryview, what: str = "request body") -> Any:
    """Any JSON value.

    Raises:
        InvalidRequest: the text is not JSON; it gives the place, and the way out for NaN and infinities.
    """
    try:
        return msgspec.json.decode(text)
    except RecursionError:
        raise InvalidRequest(f"{what}: JSON nesting depth exceeds maximum allowed limit ({MAX_DEPTH})") from None
    except ValueError as exc:  # msgspec's errors, and text that is not UTF-8
        raise InvalidRequest(f"{what} is not JSON: {_located(bytes(text), str(exc))}") from None


def read_object(text: bytes | memoryview, what: str = "request body") -> dict[str, Any]:
    """A JSON object.

    Raises:
        InvalidRequest: the text is not JSON, or another kind of value.
    """
    document = read_json(text, what)
    if type(document) is not dict:
        raise InvalidRequest(f"{what} must be a JSON object")
    return document


def _located(text: bytes, message: str) -> str:
    if not text.strip():
        return "it is empty"
    _, _, place = message.rpartition("(byte ")
    if place.endswith(")") and place[:-1].isdigit():
        rest = text[int(place[:-1]) :].lstrip(b"-")
        for token in (b"NaN", b"Infinity"):
            # msgspec stops at the first letter that is not `null`'s, or right after a minus
            if rest.startswith((token, token[1:])):
                return f"{token.decode()} is no JSON number; send null for NaN, or the tensor in the binary form"
    return message


def check_depth(value: Any, what: str) -> None:
    """Refuse what is nested deeper than the limit.

    Raises:
        InvalidRequest: it is.
    """
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for each in level
            if type(each) in (dict, list)
            for inner in (each.values() if type(each) is dict else each)
        ]
        if not level:
            return
    raise InvalidRequest(f"{what}: JSON nesting depth exceeds maximum allowed limit ({MAX_DEPTH})")
