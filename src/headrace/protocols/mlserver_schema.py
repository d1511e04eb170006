"""What MLServer finds wrong with a body, in the form of its own: `{"detail": [{"type", "loc", "msg", "input"}, ...]}`.

`server.mlserver` asks, under `compat.answers: mlserver`, about bodies that `v2_rest` has refused. The rules are those
that release 1.7.1 was seen to follow.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Final

import orjson

Fault = dict[str, Any]
"""One thing that is wrong: `type`, `loc`, `msg`, `input`, and `ctx` where there is more to say."""
Place = tuple[str | int, ...]

_DATATYPES: Final = (
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64", "BYTES",
)  # fmt: skip
_LISTED: Final = ", ".join(f"'{name}'" for name in _DATATYPES[:-1]) + f" or '{_DATATYPES[-1]}'"
_TRUTH: Final = frozenset({"0", "off", "f", "false", "n", "no", "1", "on", "t", "true", "y", "yes"})
_NO_OBJECT: Final = "Input should be a valid dictionary or object to extract fields from"
_Check = Callable[[Any, Place], list[Fault]]


def render(faults: list[Fault]) -> bytes:
    """The body of a reply of status 422."""
    return orjson.dumps({"detail": faults})


def of_request(body: bytes, content_type: str = "application/json") -> list[Fault]:
    """What is wrong with an inference request, in the order of its members; nothing: it is one by its form.

    Args:
        body: The whole body, its content encoding undone.
        content_type: Of the body; MLServer reads JSON under a JSON content type only.
    """
    return _of_body(body, content_type, _request)


def of_index(body: bytes, content_type: str = "application/json") -> list[Fault]:
    """What is wrong with a request for the repository's index."""
    return _of_body(body, content_type, _index)


def misfit(body: bytes) -> str:
    """What numpy says to the first tensor whose data do not fill its shape; empty: all do.

    Args:
        body: An inference request with nothing wrong by its form.
    """
    try:
        inputs = orjson.loads(body)["inputs"]
    except (ValueError, TypeError, LookupError):
        return ""
    for each in inputs:
        shape = [int(size) for size in each["shape"]]
        if each["datatype"] == "BYTES" or any(size < 0 for size in shape):
            continue
        count = _count(each["data"])
        if count != math.prod(shape):
            listed = ",".join(map(str, shape)) + ("," if len(shape) == 1 else "")
            return f"cannot reshape array of size {count} into shape ({listed})"
    return ""


def _count(data: Any) -> int:
    level = [data]
    while any(type(each) is list for each in level):
        level = [inner for each in level for inner in (each if type(each) is list else [each])]
    return len(level)


# -- bodies --


def _of_body(body: bytes, content_type: str, check: _Check) -> list[Fault]:
    if not body:
        return [_fault("missing", ("body",), "Field required", None)]
    kind = content_type.partition(";")[0].strip().lower()
    if kind and not (kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))):
        return [_fault("model_attributes_type", ("body",), _NO_OBJECT, body.decode(errors="replace"))]
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        return [{**_fault("json_invalid", ("body", exc.pos), "JSON decode error", {}), "ctx": {"error": exc.msg}}]
    return check(document, ("body",))


def _request(value: Any, place: Place) -> list[Fault]:
    return _members(
        value,
        place,
        {"id": _optional(_string), "parameters": _optional(_parameters)},
        {"inputs": _list_of(_input)},
        {"outputs": _optional(_list_of(_output))},
    )


def _input(value: Any, place: Place) -> list[Fault]:
    return _members(
        value,
        place,
        {},
        {"name": _string, "shape": _list_of(_integer), "datatype": _datatype},
        {"parameters": _optional(_parameters)},
        {"data": lambda value, place: []},  # noqa: ARG005 - anything is data
    )


def _output(value: Any, place: Place) -> list[Fault]:
    return _members(value, place, {}, {"name": _string}, {"parameters": _optional(_parameters)})


def _parameters(value: Any, place: Place) -> list[Fault]:
    return _members(value, place, {"content_type": _optional(_string), "headers": _optional(_mapping)})


def _index(value: Any, place: Place) -> list[Fault]:
    return _members(value, place, {"ready": _optional(_truth)})


def _members(value: Any, place: Place, *groups: Mapping[str, _Check]) -> list[Fault]:
    """Members in groups: the first, third, ... may be absent; those of the second, fourth, ... may not."""
    if type(value) is not dict:
        return [_fault("model_attributes_type", place, _NO_OBJECT, value)]
    faults = []
    for number, group in enumerate(groups):
        for name, check in group.items():
            if name in value:
                faults += check(value[name], (*place, name))
            elif number % 2:
                faults.append(_fault("missing", (*place, name), "Field required", value))
    return faults


# -- members --


def _optional(check: _Check) -> _Check:
    return lambda value, place: [] if value is None else check(value, place)


def _list_of(check: _Check) -> _Check:
    def checked(value: Any, place: Place) -> list[Fault]:
        if type(value) is not list:
            return [_fault("list_type", place, "Input should be a valid list", value)]
        return [fault for index, each in enumerate(value) for fault in check(each, (*place, index))]

    return checked


def _string(value: Any, place: Place) -> list[Fault]:
    return [] if type(value) is str else [_fault("string_type", place, "Input should be a valid string", value)]


def _mapping(value: Any, place: Place) -> list[Fault]:
    return [] if type(value) is dict else [_fault("dict_type", place, "Input should be a valid dictionary", value)]


def _integer(value: Any, place: Place) -> list[Fault]:
    expected = "Input should be a valid integer"
    if isinstance(value, int):
        return []
    if type(value) is float:
        if value.is_integer():
            return []
        return [_fault("int_from_float", place, f"{expected}, got a number with a fractional part", value)]
    if type(value) is str:
        try:
            int(value)
        except ValueError:
            return [_fault("int_parsing", place, f"{expected}, unable to parse string as an integer", value)]
        return []
    return [_fault("int_type", place, expected, value)]


def _datatype(value: Any, place: Place) -> list[Fault]:
    if value in _DATATYPES:
        return []
    return [{**_fault("enum", place, f"Input should be {_LISTED}", value), "ctx": {"expected": _LISTED}}]


def _truth(value: Any, place: Place) -> list[Fault]:
    expected = "Input should be a valid boolean"
    if isinstance(value, bool) or (isinstance(value, int | float) and value in {0, 1}):
        return []
    if type(value) is str and value.lower() in _TRUTH:
        return []
    if isinstance(value, int | float | str):
        return [_fault("bool_parsing", place, f"{expected}, unable to interpret input", value)]
    return [_fault("bool_type", place, expected, value)]


def _fault(kind: str, place: Place, text: str, given: Any) -> Fault:
    return {"type": kind, "loc": list(place), "msg": text, "input": given}
