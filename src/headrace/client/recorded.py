"""A line of a log to the request that it holds, to be asked again, and the answer that it had. `compare` calls it.

Pure: opens nothing.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from headrace.client import lines
from headrace.client.lines import Line
from headrace.errors import InvalidRequest

_ANY: Final = msgspec.json.Decoder()
_OBJECT: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])


class Recorded(msgspec.Struct, frozen=True):
    """What a line holds."""

    request: Line
    answer: bytes = b""
    """The V2 response that it had, in JSON; empty where the line does not say."""


def parse(index: int, text: bytes) -> Recorded | None:
    """The request in a line; None where the line holds none and is right so: an empty line, an event of an answer.

    Three forms are known: a V2 inference request; an exchange `{"request": ..., "response": ...}` around one; and a
    CloudEvent in JSON whose `data` (or `data_base64`) is either, as payload loggers write them: KServe's and Seldon's
    name the type `....request` or `....response`.

    Args:
        index: The line's number in the log, from 0.
        text: The line, without its end.

    Raises:
        InvalidRequest: it is none of these; the text says what was found.
    """
    if not text.strip():
        return None
    fields = _fields(index, text)
    if "inputs" in fields or "request" in fields:
        return _request(index, text, fields)
    if "data" not in fields and "data_base64" not in fields:
        return _request(index, text, fields)
    kind = _ANY.decode(fields["type"]) if "type" in fields else ""
    if isinstance(kind, str) and kind.endswith(".response"):
        return None
    inner = _inner(index, fields, "data" if "data" in fields else "data_base64")
    found = _request(index, inner, _fields(index, inner))
    own = _ANY.decode(fields["id"]) if "id" in fields else ""
    if found is None or "id" in found.request.fields or not isinstance(own, str) or not own:
        return found
    named = msgspec.structs.replace(found.request, id=own)  # by which the log's other lines call it
    return msgspec.structs.replace(found, request=named)


def _request(index: int, text: bytes, fields: Mapping[str, msgspec.Raw]) -> Recorded | None:
    """The request of a line that is one, or an exchange around one."""
    if "request" in fields:
        request = lines.parse(index, _inner(index, fields, "request"))
        return Recorded(request, _inner(index, fields, "response") if "response" in fields else b"")
    if "inputs" in fields:
        return Recorded(lines.parse(index, text))
    if "outputs" in fields or "response" in fields:
        return None
    names = ", ".join(fields) or "nothing"
    hint = "; a V1 request has no names and datatypes to send it by" if "instances" in fields else ""
    raise InvalidRequest(
        f"line {index}: expected a V2 inference request (inputs), an exchange (request, response) or a CloudEvent "
        f"(data), found {names}{hint}"
    )


def _fields(index: int, text: bytes) -> dict[str, msgspec.Raw]:
    try:
        text.decode()  # Raw values are not looked into
        return _OBJECT.decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
        raise InvalidRequest(f"line {index}: expected a request or an exchange in JSON: {exc}") from exc


def _inner(index: int, fields: Mapping[str, msgspec.Raw], name: str) -> bytes:
    """What a field holds: JSON itself, text that is JSON, or that in base64."""
    inner = bytes(fields[name]).strip()
    if not inner.startswith(b'"'):
        return inner
    value: Any = _ANY.decode(inner)
    try:
        return base64.b64decode(value, validate=True) if name == "data_base64" else str(value).encode()
    except (binascii.Error, ValueError) as exc:
        raise InvalidRequest(f"line {index}: expected base64 for data_base64: {exc}") from exc
