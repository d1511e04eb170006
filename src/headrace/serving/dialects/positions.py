"""Where the keys of a JSON text stand, so that a message can name the line. Dialects call it; pure."""

from __future__ import annotations

import json
import re
from typing import Final

Position = tuple[str | int, ...]
"""Keys and indices from the outermost value inwards."""

_TOKEN: Final = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[{}\[\],:]|[^\s"{}\[\],:]+', re.DOTALL)


def lines(text: str) -> dict[Position, int]:
    """The line, counted from 1, of every key and of every item of a list.

    Args:
        text: What `json.loads` accepts; of a key given twice, the last counts, as it does there.
    """
    found: dict[Position, int] = {}
    above: list[str | int | None] = []  # where we are: a key, an index, or None before a key
    is_object: list[bool] = []
    line, counted, item_begins = 1, 0, False
    for match in _TOKEN.finditer(text):
        part, start = match[0], match.start()
        line, counted = line + text.count("\n", counted, start), start
        if part in {"}", "]"}:
            above.pop()
            is_object.pop()
            item_begins = False
            continue
        if part == ",":
            at = above[-1]
            above[-1] = at + 1 if isinstance(at, int) else None
            item_begins = isinstance(at, int)
            continue
        if part == ":":
            continue
        if is_object and is_object[-1] and above[-1] is None:
            above[-1] = json.loads(part)
            _put(found, _position(above), line)
            continue
        if item_begins:
            _put(found, _position(above), line)
            item_begins = False
        if part in {"{", "["}:
            is_object.append(part == "{")
            above.append(None if part == "{" else 0)
            item_begins = part == "["
    return found


def _position(above: list[str | int | None]) -> Position:
    return tuple(each for each in above if each is not None)


def _put(found: dict[Position, int], position: Position, line: int) -> None:
    if position in found:  # given twice: what stood below the first does not count
        for other in [each for each in found if each[: len(position)] == position]:
            del found[other]
    found[position] = line
