"""Headers that a model wants on its answer, as HTTP has them. `rest` and the surfaces of other protocols call it."""

from __future__ import annotations

import functools
import re
from typing import Final

from headrace.errors import RuntimeFailed
from headrace.payload import InferenceResponse
from headrace.server import model_routes

_OURS: Final = frozenset({"connection", "content-encoding", "content-length", "content-type", "transfer-encoding"})
"""Headers that describe the body and the connection, which are not the model's."""


def fields_of(response: InferenceResponse) -> tuple[tuple[bytes, bytes], ...]:
    """Headers that a model wants on its answer, lower-cased.

    Raises:
        RuntimeFailed: HTTP cannot carry one.
    """
    identity = response.id
    fields = []
    for given, value in response.headers.items():
        # A value that is the answer's id is another one each time: not to be remembered.
        field = _field(given, value) if value is identity else _known_field(given, value)
        if field is None:
            raise RuntimeFailed(f"model '{response.model_name}' answered with a line break in header {given!r}")
        if field:
            fields.append(field)
    return tuple(fields)


def _field(given: str, value: str) -> tuple[bytes, bytes] | tuple[()] | None:
    """A header as HTTP has it; nothing where it is not the model's to set, None where it holds a line break."""
    name = _field_name(given)
    if not name:
        return ()
    if not value.isprintable() and model_routes.splits(value):
        return None
    try:
        return name, value.encode("latin-1")
    except UnicodeEncodeError:
        return name, value.encode()  # as many servers send it, and clients that expect UTF-8 read it


_known_field = functools.lru_cache(1024)(_field)


_FIELD_NAME: Final = re.compile(r"[0-9a-z!#$%&'*+.^_`|~-]+").fullmatch  # RFC 9110, section 5.1


@functools.lru_cache(512)
def _field_name(given: str) -> bytes:
    """A header's name as HTTP has it, remembered; empty: it is not the model's to set."""
    lower = given.lower()
    return lower.encode() if lower not in _OURS and _FIELD_NAME(lower) else b""
