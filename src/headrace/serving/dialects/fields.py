"""Fields of a foreign settings file: JSON and environment variables to checked values, lenient where pydantic is.

A value of the wrong kind is told by file, line and key; a key that nobody knows by the nearest known one. Dialects
declare their fields as tables of `Field` and call `read`.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import msgspec

from headrace.errors import SettingsError
from headrace.serving.dialects import positions
from headrace.serving.dialects.environment import Environment
from headrace.serving.dialects.positions import Position

MAX_BYTES: Final = 4 << 20
"""A settings file larger than this is none."""

_WHOLE: Final = re.compile(r"\s*[+-]?\d+(_\d+)*(\.0*)?\s*")
_TRUE: Final = frozenset({"1", "on", "t", "true", "y", "yes"})
_FALSE: Final = frozenset({"0", "off", "f", "false", "n", "no"})
_SHOWN: Final = 60
_CONSTANTS: Final = MappingProxyType({"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf})
"""Always the same objects: a NaN equals itself only so, and settings that did not change must be equal."""


class Mismatch(Exception):
    """A value is not of the kind that is expected."""

    def __init__(self, expected: str, came: Any, at: Position = ()) -> None:
        super().__init__(expected)
        self.expected = expected
        self.came = came
        self.at = at
        """Where inside the value."""


Kind = Callable[[Any], Any]
"""A JSON value to the field's; raises Mismatch."""


class Field(msgspec.Struct, frozen=True):
    """One field of a settings file."""

    kind: Kind
    is_json: bool = False
    """An environment variable holds it as JSON."""


class Document(msgspec.Struct, frozen=True):
    """A settings file that was read."""

    file: str
    content: Mapping[str, Any]
    lines: Mapping[Position, int] = MappingProxyType({})

    def where(self, position: Position) -> str:
        """The file, and the line where a key stands; the file alone where that is unknown."""
        line = self.lines.get(position)
        return self.file if line is None else f"{self.file}:{line}"


class Value(msgspec.Struct, frozen=True):
    """A field's value, and who set it."""

    value: Any
    origin: str = ""
    """Empty: the file."""


# -- kinds; each is as lenient as pydantic is with JSON --


def text(value: Any) -> str:
    """Text and nothing else: a number is not turned into one."""
    if isinstance(value, str):
        return value
    raise Mismatch("text in quotes", value)


def whole(value: Any) -> int:
    """A whole number; also as text, also 10.0, also true for 1."""
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and _WHOLE.fullmatch(value):
        return int(value.partition(".")[0])
    raise Mismatch("a whole number", value)


def number(value: Any) -> float:
    """A number; also as text."""
    if isinstance(value, int | float):
        return float(value)
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            pass
    raise Mismatch("a number", value)


def finite(value: Any) -> float:
    """A number that is neither infinite nor NaN."""
    found = number(value)
    if not math.isfinite(found):
        raise Mismatch("a finite number", value)
    return found


def flag(value: Any) -> bool:
    """True or false; also 1 and 0, and as the words that people use."""
    if isinstance(value, bool):
        return value
    if isinstance(value, int | float) and value in {0, 1}:
        return bool(value)
    if isinstance(value, str) and value.lower() in _TRUE | _FALSE:
        return value.lower() in _TRUE
    raise Mismatch("true or false", value)


def mapping(value: Any) -> dict[str, Any]:
    """A JSON object, whatever it holds."""
    if isinstance(value, dict):
        return value
    raise Mismatch("an object", value)


def optional(kind: Kind) -> Kind:
    """Of that kind, or null."""
    return lambda value: None if value is None else kind(value)


def items(kind: Kind, what: str) -> Kind:
    """A list of that kind."""

    def parse(value: Any) -> list[Any]:
        if not isinstance(value, list):
            raise Mismatch(f"a list of {what}", value)
        found = []
        for index, item in enumerate(value):
            try:
                found.append(kind(item))
            except Mismatch as wrong:
                raise Mismatch(wrong.expected, wrong.came, (index, *wrong.at)) from None
        return found

    return parse


def members(required: Mapping[str, Kind], others: Mapping[str, Kind], *, keep_unknown: bool = False) -> Kind:
    """A JSON object with these members; null ones are left out, as are unknown ones unless they are kept."""

    def parse(value: Any) -> dict[str, Any]:
        content = mapping(value)
        found: dict[str, Any] = {}
        for name in required:
            if name not in content:
                raise Mismatch(f"an object with {name!r}", value)
        known = {**required, **others}
        for name, each in content.items():
            if name not in known and not keep_unknown:
                continue
            try:
                parsed = known[name](each) if name in known else each
            except Mismatch as wrong:
                raise Mismatch(wrong.expected, wrong.came, (name, *wrong.at)) from None
            if parsed is not None:
                found[name] = parsed
        return found

    return parse


def one_of(*choices: str) -> Kind:
    """One of these words."""

    def parse(value: Any) -> str:
        if value in choices:
            return str(value)
        raise Mismatch(f"one of {', '.join(choices)}", value)

    return parse


# -- a file --


def load(file: Path) -> Document:
    """The JSON object that a file holds. Blocks.

    Raises:
        SettingsError: it cannot be read, or is not a JSON object; names the line and the column.
    """
    try:
        with file.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise SettingsError(f"{file}: cannot be read: {error.strerror or error}") from error
    if len(data) > MAX_BYTES:
        raise SettingsError(f"{file}: it is larger than {MAX_BYTES >> 20} MiB, which no settings file is")
    try:
        content = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise SettingsError(f"{file}:{line}: expected text in UTF-8, came byte {data[error.start]:#04x}") from error
    return parse(content, str(file))


def parse(content: str, file: str) -> Document:
    """The JSON object in a text; pure. Raises as `load`."""
    try:
        value = json.loads(content, parse_constant=_CONSTANTS.__getitem__)
    except json.JSONDecodeError as error:
        what = f"{error.msg[:1].lower()}{error.msg[1:]}"
        raise SettingsError(f"{file}:{error.lineno}: not valid JSON at column {error.colno}: {what}") from error
    except (RecursionError, ValueError) as error:  # absurd nesting, absurd numbers
        raise SettingsError(f"{file}: not usable JSON: {error}") from error
    if not isinstance(value, dict):
        raise SettingsError(f"{file}: expected a JSON object, came {came(value)}")
    return Document(file, value, positions.lines(content))


def read(
    document: Document,
    content: Mapping[str, Any],
    table: Mapping[str, Field],
    *,
    at: Position = (),
    environment: Environment,
    prefix: str,
) -> dict[str, Value]:
    """The fields that file and environment set, by name. The file stands over the environment; objects are merged.

    Args:
        document: The file.
        content: The object in it that holds the fields.
        table: The fields.
        at: Where that object stands in the file.
        environment: The variables.
        prefix: What the names of variables begin with.

    Raises:
        SettingsError: a value of the wrong kind; names file, line and key, or the variable.
    """
    found: dict[str, Value] = {}
    for name, field in table.items():
        below, origin = _of_environment(environment, f"{prefix}{name}", field)
        if name not in content:
            if origin:
                try:
                    found[name] = Value(field.kind(below), origin)
                except Mismatch as wrong:
                    raise _told(wrong, origin, ()) from None
            continue
        value = content[name]
        if isinstance(value, dict) and isinstance(below, dict):
            value = _merged(value, below)
        try:
            found[name] = Value(field.kind(value))
        except Mismatch as wrong:
            position = (*at, name, *wrong.at)
            known = next(
                position[:end] for end in range(len(position), -1, -1) if position[:end] in {*document.lines, ()}
            )
            raise _told(wrong, document.where(known), position) from None
    return found


def unknown(content: Mapping[str, Any], table: Mapping[str, Field], document: Document, at: Position = ()) -> list[str]:
    """A sentence on each key that the table does not have, with the nearest one that it has."""
    told = []
    for name in content:
        if name not in table:
            near = difflib.get_close_matches(name, table, n=1, cutoff=0.6)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            told.append(f"{document.where((*at, name))}: key {dotted((*at, name))!r} is not known{hint}")
    return told


def dotted(position: Position) -> str:
    """A position as a person writes it: `inputs[0].shape`."""
    shown = ""
    for each in position:
        shown += f"[{each}]" if isinstance(each, int) else f".{each}" if shown else each
    return shown


def came(value: Any) -> str:
    """A JSON value as a message names it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return f"the boolean {str(value).lower()}"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, dict):
        return "an object"
    shown = repr(value) if len(repr(value)) <= _SHOWN else repr(value)[:_SHOWN] + "..."
    return f"the text {shown}" if isinstance(value, str) else f"the number {shown}"


def _of_environment(environment: Environment, name: str, field: Field) -> tuple[Any, str]:
    variable = environment.get(name)
    if variable is None:
        return None, ""
    if not field.is_json:
        return variable.text, variable.origin
    try:
        return json.loads(variable.text), variable.origin
    except (ValueError, RecursionError):
        try:
            field.kind(variable.text)
        except Mismatch as wrong:
            raise SettingsError(
                f"{variable.origin}: expected JSON ({wrong.expected}), came {came(variable.text)}"
            ) from None
        return variable.text, variable.origin


def _merged(value: Mapping[str, Any], below: Mapping[str, Any]) -> dict[str, Any]:
    merged = {**below, **value}
    for name, each in value.items():
        if isinstance(each, dict) and isinstance(below.get(name), dict):
            merged[name] = _merged(each, below[name])
    return merged


def _told(wrong: Mismatch, where: str, position: Position) -> SettingsError:
    key = f"key {dotted(position)!r}: " if position else ""
    return SettingsError(f"{where}: {key}expected {wrong.expected}, came {came(wrong.came)}")
