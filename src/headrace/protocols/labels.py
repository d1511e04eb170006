"""What would have been right, told later: bodies of `POST /v2/models/{model}/feedback`. The server calls `parse`.

One object, a list of them, or `{"feedback": [...]}`. An object is one of

- `{"id": "request-1", "labels": [1, 0]}`, or `truth` instead of `labels`, also one value without a list around it;
- Seldon Core v1's: `{"response": {"meta": {"puid": "request-1"}}, "truth": {"data": {"ndarray": [1]}}}`, with the
  `request` or without.

Labels are by row of the request: numbers, texts, booleans, null where it is not known; of models with several targets,
lists of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec
import orjson

from headrace.errors import InvalidRequest, TooLarge
from headrace.protocols import seldon_v1
from headrace.protocols.documents import read_json

MOST: Final = 10_000
"""Requests that one body may say something of."""
MOST_LABELS: Final = 1_000_000
_MEMBERS: Final = frozenset({"id", "labels", "truth", "reward", "request", "response", "parameters"})


class Truth(msgspec.Struct, frozen=True):
    """What would have been right for one request."""

    request_id: str
    labels: tuple[Any, ...]
    """By row; None: not known."""


def parse(body: bytes | memoryview) -> tuple[Truth, ...]:
    """What a body says, in its order.

    Raises:
        InvalidRequest: it is no such body; the text names the entry and member.
        TooLarge: it says too much at once.
    """
    document = read_json(body)
    if isinstance(document, Mapping) and "feedback" in document:
        document = document["feedback"]
    entries = document if isinstance(document, list) else [document]
    if not entries:
        raise InvalidRequest("feedback is empty; expected labels of at least one request")
    if len(entries) > MOST:
        raise TooLarge(f"feedback on {len(entries)} requests at once; at most {MOST} go into one body")
    found = tuple(
        _entry(entry, f"feedback[{at}]" if len(entries) > 1 else "feedback") for at, entry in enumerate(entries)
    )
    total = sum(len(each.labels) for each in found)
    if total > MOST_LABELS:
        raise TooLarge(f"{total} labels at once; at most {MOST_LABELS} go into one body")
    return found


def render_taken(model: str, taken: int, known: int) -> bytes:
    """How many entries were taken, and of how many of them the request is remembered."""
    return orjson.dumps({"model_name": model, "taken": taken, "joined": known})


def _entry(entry: Any, place: str) -> Truth:
    if not isinstance(entry, Mapping):
        raise InvalidRequest(f"{place} must be an object with id and labels, got: {type(entry).__name__}")
    unknown = entry.keys() - _MEMBERS
    if unknown:
        raise InvalidRequest(f"{place} has no {', '.join(sorted(unknown))}; known: {', '.join(sorted(_MEMBERS))}")
    given = entry["labels"] if entry.get("labels") is not None else entry.get("truth")
    if given is None:
        raise InvalidRequest(f"{place} says nothing: expected labels, or truth")
    if isinstance(given, Mapping):
        if given is not entry.get("truth"):
            raise InvalidRequest(f"{place}: labels must be a list, one of each row; an object is only read as truth")
        return _seldon(entry, place)
    identity = entry.get("id") or _puid(entry)
    if not isinstance(identity, str) or not identity:
        raise InvalidRequest(f"{place}: id must be the id of the request that the labels are of")
    return Truth(identity, _rows(given, place))


def _seldon(entry: Mapping[str, Any], place: str) -> Truth:
    members = {name: entry[name] for name in ("response", "truth") if name in entry}
    # the request itself is not needed, and may be large; its id is
    request = entry.get("request")
    if isinstance(request, Mapping) and isinstance(request.get("meta"), Mapping):
        members["request"] = {"meta": request["meta"]}
    try:
        feedback = seldon_v1.parse_feedback(orjson.dumps(members), model_name="")
    except InvalidRequest as exc:
        raise InvalidRequest(f"{place}: {exc}") from exc
    identity = entry.get("id") or (feedback.request.id if feedback.request is not None else "")
    if not isinstance(identity, str) or not identity:
        raise InvalidRequest(f"{place}: expected response.meta.puid, the id that the answer had")
    labels = feedback.request.parameters.get(seldon_v1.TRUTH) if feedback.request is not None else None
    if labels is None:
        truth = seldon_v1.parse_feedback(
            orjson.dumps({"response": {"meta": {"puid": identity}}, "truth": entry["truth"]}), model_name=""
        )
        labels = truth.request.parameters.get(seldon_v1.TRUTH) if truth.request is not None else None
    if labels is None:
        raise InvalidRequest(f"{place}: truth has no data; expected data, strData or jsonData")
    return Truth(identity, _rows(labels, place))


def _puid(entry: Mapping[str, Any]) -> Any:
    response = entry.get("response")
    meta = response.get("meta") if isinstance(response, Mapping) else None
    return meta.get("puid") if isinstance(meta, Mapping) else None


def _rows(given: Any, place: str) -> tuple[Any, ...]:
    rows = given if isinstance(given, list) else [given]
    if not rows:
        raise InvalidRequest(f"{place}: labels are empty; expected one for each row of the request")
    return tuple(_row(row, f"{place}: labels[{at}]") for at, row in enumerate(rows))


def _row(row: Any, place: str) -> Any:
    if not isinstance(row, list):
        return _value(row, place)
    values = [_value(value, place) for value in row]
    return values[0] if len(values) == 1 else values  # a column of labels, as arrays [n, 1] have it


def _value(value: Any, place: str) -> Any:
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise InvalidRequest(f"{place} is no text") from None
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise InvalidRequest(f"{place} must be a number, a text or a boolean, got: {type(value).__name__}")
