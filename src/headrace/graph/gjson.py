r"""Paths and queries into JSON, in the language of KServe's conditions. Pure; `conditions` parses and asks them.

The language is that of https://github.com/tidwall/gjson/blob/master/SYNTAX.md, on values rather than text:

| written | means |
|---|---|
| `a.b`, `a.0`, `a\.b` | a member, an element by position, a name with a dot in it |
| `a*`, `a?` | the first member whose name matches |
| `a.#`, `a.#.b` | how many elements; the `b` of every element that has one |
| `a.#(b=="x")`, `a.#(b>1)#` | the first element for which the query holds; a list of all of them |
| `#(b)`, `#(=="x")`, `#(b.#(c<=2))` | there is a `b`; the element itself; a query in a query |
| `== != < <= > >= % !%` | text with text, number with number, booleans; `%` is likeness with `*` and `?` |
| `==~true ~false ~null ~*` | what counts as true, as false, as nothing, anything that is there |
| `a\|b` | as `a.b`, but after `#` and `#(...)#` on the list as a whole |
| `[a,b.c]`, `{a,"n":b}` | a new list, a new object, of those that are there |
| `@this @valid @keys @values @flatten @reverse @tostr @fromstr @ugly @pretty` | changed on the way |

A list of all that hold (`#(...)#`) and a `#.b` are there even where they are empty, as in gjson. Not offered: JSON
lines (`..`), `!` literals, `@join`, `@group`, `@dig`: those are names of members.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from headrace.errors import InvalidRequest


class _Missing:
    def __repr__(self) -> str:
        return "MISSING"


MISSING: Final[Any] = _Missing()
"""What a path leads to where nothing is; null is something."""

Path = Callable[[Any], Any]
"""From a JSON value to what a path leads to in it, or MISSING."""

_DEPTH: Final = 64
"""Paths in paths."""


def path(text: str) -> Path:
    """The path that a text says.

    Raises:
        InvalidRequest: a bracket or quotation mark that nothing closes, or an empty path; with its position.
    """
    if not text:
        raise InvalidRequest("gjson path: position 1: expected a path, found nothing")
    chains = _Reader(text).read()
    return lambda value: _follow(value, chains)


# -- steps --


class _Key(NamedTuple):
    name: str
    like: re.Pattern[str] | None

    def of(self, value: Any) -> Any:
        if isinstance(value, dict):
            if self.like is None:
                return value.get(self.name, MISSING)
            return next((value[name] for name in value if self.like.fullmatch(name)), MISSING)
        if isinstance(value, list) and self.name.isdecimal():
            position = int(self.name)
            return value[position] if position < len(value) else MISSING
        return MISSING


class _Each(NamedTuple):
    pass


class _Query(NamedTuple):
    chains: _Chains | None
    """None: the element itself."""
    holds: Callable[[Any], bool]
    every: bool

    def of(self, element: Any) -> bool:
        if self.chains is not None:
            element = _follow(element, self.chains) if isinstance(element, (dict, list)) else MISSING
        elif isinstance(element, (dict, list)):
            element = MISSING
        return self.holds(element)


class _Change(NamedTuple):
    change: Callable[[Any], Any]


class _Several(NamedTuple):
    members: tuple[tuple[str, _Chains], ...]
    named: bool

    def of(self, value: Any) -> Any:
        found = [(name, _follow(value, chains)) for name, chains in self.members]
        if self.named:
            return {name: each for name, each in found if each is not MISSING}
        return [each for _, each in found if each is not MISSING]


_Step = _Key | _Each | _Query | _Change | _Several
_Chains = tuple[tuple[_Step, ...], ...]
"""What stands between pipes; each chain starts at what the one before gave."""


def _follow(value: Any, chains: _Chains) -> Any:
    for steps in chains:
        value = _walk(value, steps, 0)
        if value is MISSING:
            return MISSING
    return value


def _walk(value: Any, steps: tuple[_Step, ...], at: int) -> Any:
    while at < len(steps):
        if value is MISSING:
            return MISSING
        step = steps[at]
        at += 1
        match step:
            case _Key() | _Several():
                value = step.of(value)
            case _Change():
                value = step.change(value)
            case _Each():
                if not isinstance(value, list):
                    return MISSING
                return len(value) if at == len(steps) else _of_each(value, steps, at)
            case _Query():
                if not isinstance(value, list):
                    return MISSING
                if step.every:
                    return _of_each([each for each in value if step.of(each)], steps, at)
                value = next((each for each in value if step.of(each)), MISSING)
    return value


def _of_each(values: list[Any], steps: tuple[_Step, ...], at: int) -> list[Any]:
    found = (_walk(each, steps, at) for each in values)
    return [each for each in found if each is not MISSING]


# -- queries --

_ORDER: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "=": lambda left, right: bool(left == right),
    "!=": lambda left, right: bool(left != right),
    "<": lambda left, right: bool(left < right),
    "<=": lambda left, right: bool(left <= right),
    ">": lambda left, right: bool(left > right),
    ">=": lambda left, right: bool(left >= right),
}


def _condition(operator: str, wanted: str) -> Callable[[Any], bool]:
    """Whether a value stands in that relation to what a query says of it."""
    if wanted in _KINDS:
        kind = _KINDS[wanted]
        compare = _booleans(operator, "true")
        return lambda value: compare(kind(value))
    if not operator:
        return lambda value: value is not MISSING
    if operator in {"%", "!%"}:
        quoted = len(wanted) > 1 and wanted[0] == wanted[-1] == '"'
        like, expected = _pattern(wanted[1:-1] if quoted else wanted), operator == "%"
        return lambda value: isinstance(value, str) and (like.fullmatch(value) is not None) is expected
    text = _unquoted(wanted)
    of_boolean, order, number = _booleans(operator, text), _ORDER[operator], _number(text)

    def holds(value: Any) -> bool:
        if isinstance(value, bool):
            return of_boolean(value)
        if isinstance(value, str):
            return order(value, text)
        return isinstance(value, (int, float)) and order(value, number)

    return holds


def _booleans(operator: str, text: str) -> Callable[[bool], bool]:
    """The order of booleans in gjson: false is less than true, and anything else is equal to neither."""
    true: dict[str, bool] = {"=": text == "true", "!=": text != "true", ">": text == "false", ">=": True}
    false: dict[str, bool] = {"=": text == "false", "!=": text != "false", "<": text == "true", "<=": True}
    when_true, when_false = not operator or true.get(operator, False), not operator or false.get(operator, False)
    return lambda value: when_true if value else when_false


def _trueish(value: Any) -> bool:
    if isinstance(value, str):
        return value.lower() in {"1", "t", "true"}
    return isinstance(value, (bool, int, float)) and value != 0


def _falseish(value: Any) -> bool:
    if value is MISSING or value is None:
        return True
    if isinstance(value, str):
        return value.lower() in {"0", "f", "false"}
    return isinstance(value, (bool, int, float)) and value == 0


_KINDS: Final[dict[str, Callable[[Any], bool]]] = {
    "~true": _trueish,
    "~false": _falseish,
    "~null": lambda value: value is MISSING or value is None,
    "~*": lambda value: value is not MISSING,
}


def _number(text: str) -> float:
    try:
        return int(text) if text.lstrip("-").isdecimal() else float(text)
    except ValueError:
        return 0.0  # as gjson takes what is no number


def _pattern(text: str) -> re.Pattern[str]:
    r"""A likeness with `*`, `?` and `\`."""
    parts, at = [], 0
    while at < len(text):
        each = text[at]
        if each == "\\" and at + 1 < len(text):
            at += 1
            parts.append(re.escape(text[at]))
        else:
            parts.append({"*": ".*", "?": "."}.get(each) or re.escape(each))
        at += 1
    return re.compile("".join(parts), re.DOTALL)


def _unquoted(text: str) -> str:
    if len(text) < 2 or text[0] != '"' or text[-1] != '"':
        return text
    try:
        return str(json.loads(text))
    except ValueError:  # an escape that JSON does not know stands for itself
        return re.sub(r"\\(.)", r"\1", text[1:-1], flags=re.DOTALL)


# -- modifiers --


def _flatten(value: Any, *, deep: bool) -> Any:
    if not isinstance(value, list):
        return value
    flat: list[Any] = []
    for each in value:
        if isinstance(each, list):
            flat.extend(_flatten(each, deep=True) if deep else each)
        else:
            flat.append(each)
    return flat


def _keys(value: Any) -> Any:
    if isinstance(value, dict):
        return list(value)
    return [None] * len(value) if isinstance(value, list) else []


def _values(value: Any) -> Any:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else [value]


def _reverse(value: Any) -> Any:
    if isinstance(value, dict):
        return dict(reversed(value.items()))
    return value[::-1] if isinstance(value, list) else value


def _from_text(value: Any) -> Any:
    try:
        return json.loads(value) if isinstance(value, str) else MISSING
    except ValueError:
        return MISSING


_MODIFIERS: Final[dict[str, Callable[[Any], Any]]] = {
    "this": lambda value: value,
    "valid": lambda value: value,
    "ugly": lambda value: value,
    "pretty": lambda value: value,
    "keys": _keys,
    "values": _values,
    "flatten": lambda value: _flatten(value, deep=False),
    "reverse": _reverse,
    "tostr": json.dumps,
    "fromstr": _from_text,
}


def _modifier(name: str, argument: str) -> Callable[[Any], Any] | None:
    if name == "flatten" and argument:
        try:
            options = json.loads(argument)
        except ValueError:
            options = {}
        if isinstance(options, dict) and options.get("deep") is True:
            return lambda value: _flatten(value, deep=True)
    return _MODIFIERS.get(name)


# -- reading --

_CLOSES: Final = {"(": ")", "[": "]", "{": "}"}
_OPERATORS: Final = ("==", "!=", "!%", "<=", ">=", "=", "<", ">", "%")


class _Reader:
    """Reads a text into chains, once."""

    def __init__(self, text: str, *, start: int = 0, whole: str = "", depth: int = 0) -> None:
        self.text, self.at, self.start = text, 0, start
        self.whole = whole or text
        self.depth = depth
        if depth > _DEPTH:
            raise self.wrong(f"expected at most {_DEPTH} paths in one another, found more", 0)

    def wrong(self, what: str, at: int | None = None) -> InvalidRequest:
        position = self.start + (self.at if at is None else at) + 1
        return InvalidRequest(f"gjson path {self.whole!r}: position {position}: {what}")

    def read(self) -> _Chains:
        chains: list[tuple[_Step, ...]] = []
        steps: list[_Step] = []
        while True:
            steps.append(self.step())
            if self.at >= len(self.text):
                chains.append(tuple(steps))
                return tuple(chains)
            if self.text[self.at] == "|":
                chains.append(tuple(steps))
                steps = []
            self.at += 1

    def step(self) -> _Step:
        text, at = self.text, self.at
        first = text[at : at + 1]
        if first == "#" and text[at + 1 : at + 2] in {"(", "["}:
            return self.query()
        if first in {"[", "{"}:
            return self.several()
        if first == "@" and (change := self.modifier()) is not None:
            return change
        return self.key()

    def key(self) -> _Step:
        text, parts, raw, wild = self.text, [], [], False
        while self.at < len(text) and text[self.at] not in ".|":
            each = text[self.at]
            if each == "\\" and self.at + 1 < len(text):
                self.at += 1
                parts.append(text[self.at])
                raw.append("\\" + text[self.at])
            else:
                wild = wild or each in "*?"
                parts.append(each)
                raw.append(each)
            self.at += 1
        name = "".join(parts)
        if raw == ["#"]:
            return _Each()
        return _Key(name, _pattern("".join(raw)) if wild else None)

    def modifier(self) -> _Change | None:
        text, begin = self.text, self.at + 1
        end = begin
        while end < len(text) and (text[end].isalnum() or text[end] == "_"):
            end += 1
        name, argument = text[begin:end], ""
        if name not in _MODIFIERS:
            return None  # a member whose name begins so
        if text[end : end + 1] == ":":
            begin = end = end + 1
            if text[end : end + 1] in _CLOSES:
                end = self.closing(end) + 1
            while end < len(text) and text[end] not in ".|":
                end += 1
            argument = text[begin:end]
        self.at = end
        change = _modifier(name, argument)
        return None if change is None else _Change(change)

    def closing(self, at: int) -> int:
        """Where the bracket that opens at a position is closed."""
        text, opened, wanted = self.text, at, [_CLOSES[self.text[at]]]
        while True:
            at += 1
            if at >= len(text):
                raise self.wrong(f"expected {wanted[-1]!r} for the {text[opened]!r} here, found the end", opened)
            each = text[at]
            if each == "\\":
                at += 1
            elif each == '"':
                at = self.quoted(at)
            elif each in _CLOSES:
                wanted.append(_CLOSES[each])
            elif each == wanted[-1]:
                wanted.pop()
                if not wanted:
                    return at

    def quoted(self, at: int) -> int:
        """Where the quotation that opens at a position is closed."""
        opened = at
        while True:
            at += 1
            if at >= len(self.text):
                raise self.wrong("expected '\"' for the one here, found the end", opened)
            if self.text[at] == "\\":
                at += 1
            elif self.text[at] == '"':
                return at

    def query(self) -> _Query:
        begin = self.at + 2
        end = self.closing(self.at + 1)
        self.at = end + 1
        every = self.text[self.at : self.at + 1] == "#"
        self.at += every
        if self.at < len(self.text) and self.text[self.at] not in ".|":
            raise self.wrong(f"expected '.', '|' or the end after a query, found {self.text[self.at]!r}")
        operator_at, operator = self.operator(begin, end)
        left = self.text[begin:operator_at]
        wanted = self.text[operator_at + len(operator) : end].strip(" ")
        chains = self.inner(left, begin)
        return _Query(chains, _condition("=" if operator == "==" else operator, wanted), every)

    def operator(self, at: int, end: int) -> tuple[int, str]:
        while at < end:
            each = self.text[at]
            if each == "\\":
                at += 1
            elif each == '"':
                at = self.quoted(at)
            elif each in _CLOSES:
                at = self.closing(at)
            else:
                found = next((one for one in _OPERATORS if self.text.startswith(one, at)), "")
                if found:
                    return at, found
            at += 1
        return end, ""

    def inner(self, text: str, start: int) -> _Chains | None:
        stripped = text.strip(" ")
        if not stripped:
            return None
        start += len(text) - len(text.lstrip(" "))
        return _Reader(stripped, start=self.start + start, whole=self.whole, depth=self.depth + 1).read()

    def several(self) -> _Several:
        opened = self.at
        end = self.closing(opened)
        named = self.text[opened] == "{"
        members: list[tuple[str, _Chains]] = []
        for begin, stop in self.parts(opened + 1, end):
            name, start = "", begin
            if named:
                name, start = self.member(begin, stop)
            chains = self.inner(self.text[start:stop], start)
            if chains is None:
                raise self.wrong("expected a path, found nothing", begin)
            members.append((name or _last(chains), chains))
        self.at = end + 1
        if self.at < len(self.text) and self.text[self.at] not in ".|":
            raise self.wrong(f"expected '.', '|' or the end, found {self.text[self.at]!r}")
        return _Several(tuple(members), named)

    def member(self, begin: int, stop: int) -> tuple[str, int]:
        """The name that a member of an object is given, and where its path begins."""
        at = begin
        while at < stop and self.text[at] == " ":
            at += 1
        if self.text[at : at + 1] == '"':
            end = self.quoted(at)
            if self.text[end + 1 : end + 2] == ":":
                return _unquoted(self.text[at : end + 1]), end + 2
        return "", begin

    def parts(self, at: int, end: int) -> Sequence[tuple[int, int]]:
        found, begin = [], at
        while at < end:
            each = self.text[at]
            if each == "\\":
                at += 1
            elif each == '"':
                at = self.quoted(at)
            elif each in _CLOSES:
                at = self.closing(at)
            elif each == ",":
                found.append((begin, at))
                begin = at + 1
            at += 1
        return [*found, (begin, end)] if found or begin < end else []


def _last(chains: _Chains) -> str:
    """The name that gjson gives to a member of an object without one: the last member of its path."""
    steps = [step.name for chain in chains for step in chain if isinstance(step, _Key)]
    return steps[-1] if steps else "_"
