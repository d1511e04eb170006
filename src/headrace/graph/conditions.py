"""Conditions: the `when` of steps and branches, parsed once to a closure. `check` parses them, steps and routers ask.

    inputs.amount > 100 and not exists(inputs.override)
    tensor[0,1] >= 0.5 or any(tensor > 0.99)
    header("x-tier") == "gold" and parameter("lang") != "de"

A condition looks at one request: its tensors, headers and parameters.

| written | is |
|---|---|
| `inputs.NAME`, `NAME`, `inputs["any name"]` | a tensor; names may hold letters, digits, `_`, `-` and `.` |
| `x[0]`, `x[0,1]`, `x[-1]` | an element or a part of it, by position on the first dimensions |
| `sum(x)`, `min(x)`, `max(x)`, `mean(x)` | a number over all elements |
| `rows(x)`, `size(x)` | the length of the first dimension, the number of elements |
| `any(x > 1)`, `all(x > 1)`, `any(x)` | whether it holds for one element, for every element |
| `exists(x)` | whether the tensor (element, header, parameter) is there |
| `header("name")`, `parameter("name")` | a transport header (text), a parameter of the request |
| `number(header("name"))` | a text as the number that it is |
| `== != < <= > >=` | a comparison; text with text, numbers with numbers, by their order |
| `matches "regex"`, `startswith "text"`, `endswith "text"`, `contains "text"` | of text; `matches` looks anywhere |
| `and`, `or`, `not`, `( )`, `true`, `false`, `1.5e3`, `"text"`, `'text'` | as one would think |

Rules. A comparison of a tensor of several elements holds where it holds for all of them, and for none where it has
none: say `any(...)` for the other. What is absent (a tensor, an index beyond its end, a header, a parameter, the mean
of nothing) is equal to nothing: every comparison with it fails but `!=`. NaN likewise. BYTES are text (UTF-8); text
compared with numbers is a mistake, told where both are known, else at the request, as InvalidRequest. Booleans are
numbers where numbers are expected: `inputs.flag == true`, `inputs.flag == 1`.

A text that begins with `json:` is a gjson path into the JSON of the request (`gjson`, `document`): it holds where the
path leads somewhere, as the conditions of KServe's InferenceGraph do.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence
from typing import Any, Final, Literal, NamedTuple

import numpy as np

from headrace.errors import InvalidRequest
from headrace.graph import gjson
from headrace.graph.document import View
from headrace.payload import InferenceRequest, Tensor

Condition = Callable[[InferenceRequest], bool]
"""Whether a condition holds for a request. Raises InvalidRequest where a tensor's datatype does not fit it."""

Test = Callable[[View], bool]
"""The same of a view, which several conditions of one request share."""

JSON: Final = "json:"
"""What a condition begins with that is a gjson path."""

_DEPTH: Final = 64
"""Parentheses in parentheses."""


def condition(text: str) -> Condition:
    """The condition that a text says, parsed now.

    Raises:
        InvalidRequest: it is no condition; the text names the position, what was expected and what was found.
    """
    holds = test(text)
    return lambda request: holds(View(request))


def test(text: str) -> Test:
    """As `condition`, of views: conditions on one request then compute its JSON once."""
    if text.lstrip().startswith(JSON):
        lead = gjson.path(text.lstrip().removeprefix(JSON).strip())
        return lambda view: lead(view.document) is not gjson.MISSING
    return _Parser(text).parse()


# -- values --

Kind = Literal["truth", "number", "text", "tensor", "any"]
"""What an expression gives: a boolean; a number or None; a text or None; a Tensor (or part) or None; not known."""

_Give = Callable[[InferenceRequest], Any]


class _Node(NamedTuple):
    kind: Kind
    give: _Give
    at: int
    """Its position in the text."""
    each: _Give | None = None
    """Of a comparison: what it is for every element, a boolean or an array of them, or None for what is absent."""
    constant: bool = False


class _Part(NamedTuple):
    """A tensor, or what an index takes out of one."""

    name: str
    datatype: str
    data: Any

    @property
    def text(self) -> bool:
        return self.datatype == "BYTES"


def _part(tensor: Tensor) -> _Part:
    data = tensor.data
    if tensor.datatype == "BF16":
        data = (data.astype(np.uint32) << 16).view(np.float32)
    return _Part(tensor.name, tensor.datatype, data)


def _value(part: _Part) -> Any:
    """The elements as numbers, a numpy array; or as texts, an object array; one element as itself."""
    data = part.data
    if part.text:
        if not isinstance(data, np.ndarray):
            return _text(data)
        if data.size == 1:
            return _text(data.item())
        texts = np.empty(data.shape, np.object_)
        texts.reshape(-1)[:] = [_text(each) for each in data.reshape(-1).tolist()]
        return texts
    return data.item() if data.size == 1 else data


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _numbers(part: _Part, function: str) -> Any:
    if part.text:
        raise InvalidRequest(f"condition: {function}({part.name}) takes numbers, but tensor '{part.name}' is BYTES")
    return part.data


_REDUCE: Final[dict[str, Callable[[Any], Any]]] = {
    "sum": lambda data: np.sum(data).item(),
    "min": lambda data: np.min(data).item() if np.size(data) else None,
    "max": lambda data: np.max(data).item() if np.size(data) else None,
    "mean": lambda data: np.mean(data, dtype=np.float64).item() if np.size(data) else None,
}
_COUNT: Final[dict[str, Callable[[Any], int]]] = {
    "rows": lambda data: int(np.shape(data)[0]) if np.ndim(data) else 1,
    "size": lambda data: int(np.size(data)),
}
_QUANTIFY: Final = frozenset({"any", "all"})
_LOOKUP: Final = frozenset({"header", "parameter"})
_FUNCTIONS: Final = frozenset({*_REDUCE, *_COUNT, *_QUANTIFY, *_LOOKUP, "exists", "number"})

_COMPARE: Final[dict[str, Callable[[Any, Any], Any]]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_TEXTUAL: Final[dict[str, Callable[[str, str], bool]]] = {
    "startswith": str.startswith,
    "endswith": str.endswith,
    "contains": lambda text, part: part in text,
}
_WORDS: Final = frozenset({"and", "or", "not", "true", "false", "matches", *_TEXTUAL})


def _all(value: Any) -> bool:
    if value is None:
        return False
    return bool(value) if not isinstance(value, np.ndarray) else bool(value.size and value.all())


def _any(value: Any) -> bool:
    if value is None:
        return False
    return bool(value) if not isinstance(value, np.ndarray) else bool(value.any())


# -- reading --


class _Token(NamedTuple):
    kind: Literal["name", "number", "text", "sign", "end"]
    text: str
    at: int
    value: Any = None


_TOKEN: Final = re.compile(
    r"""\s*(?:
        (?P<number>-?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)
      | (?P<name>[^\W\d][\w\-]*)
      | (?P<text>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
      | (?P<sign>==|!=|<=|>=|[<>()\[\],.])
    )""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPE: Final = re.compile(r"\\(.)", re.DOTALL)
_ESCAPES: Final = {"n": "\n", "t": "\t", "r": "\r"}


def _tokens(text: str) -> list[_Token]:
    found, at = [], 0
    end = len(text.rstrip())
    while at < end:
        match = _TOKEN.match(text, at)
        if match is None:
            begin = at + len(text[at:]) - len(text[at:].lstrip())
            what = "the quotation mark that closes this one" if text[begin] in "\"'" else "a word, number, text or sign"
            raise _wrong(text, begin, what, text[begin])
        kind = match.lastgroup
        raw, begin = match.group(kind or 0), match.start(kind or 0)
        match kind:
            case "number":
                whole = re.fullmatch(r"-?\d+", raw)
                found.append(_Token("number", raw, begin, int(raw) if whole else float(raw)))
            case "text":
                said = _ESCAPE.sub(lambda each: _ESCAPES.get(each.group(1), each.group(1)), raw[1:-1])
                found.append(_Token("text", raw, begin, said))
            case "name":
                found.append(_Token("name", raw, begin))
            case _:
                found.append(_Token("sign", raw, begin))
        at = match.end()
    found.append(_Token("end", "", end))
    return found


def _wrong(text: str, at: int, expected: str, found: str) -> InvalidRequest:
    shown = repr(found) if found else "the end"
    return InvalidRequest(f"condition {text!r}: position {at + 1}: expected {expected}, found {shown}")


class _Parser:
    """Reads a condition by descent: or, and, not, comparison, value."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = _tokens(text)
        self.next = 0
        self.depth = 0

    def parse(self) -> Test:
        node = self.either()
        if self.token.kind != "end":
            raise self.wrong("'and', 'or', a comparison or the end")
        holds = self.truth(node)
        return lambda view: holds(view.request)

    # -- tokens --

    @property
    def token(self) -> _Token:
        return self.tokens[self.next]

    def take(self) -> _Token:
        token = self.token
        self.next += 1
        return token

    def accept(self, kind: str, *texts: str) -> _Token | None:
        token = self.token
        if token.kind == kind and (not texts or token.text in texts):
            self.next += 1
            return token
        return None

    def expect(self, sign: str) -> None:
        if self.accept("sign", sign) is None:
            raise self.wrong(repr(sign))

    def wrong(self, expected: str, token: _Token | None = None) -> InvalidRequest:
        token = token or self.token
        return _wrong(self.text, token.at, expected, token.text)

    def mistake(self, at: int, what: str) -> InvalidRequest:
        return InvalidRequest(f"condition {self.text!r}: position {at + 1}: {what}")

    # -- grammar --

    def either(self) -> _Node:
        nodes = [self.both()]
        while self.accept("name", "or"):
            nodes.append(self.both())
        if len(nodes) == 1:
            return nodes[0]
        tests = tuple(self.truth(node) for node in nodes)
        return _Node("truth", lambda request: any(holds(request) for holds in tests), nodes[0].at)

    def both(self) -> _Node:
        nodes = [self.negation()]
        while self.accept("name", "and"):
            nodes.append(self.negation())
        if len(nodes) == 1:
            return nodes[0]
        tests = tuple(self.truth(node) for node in nodes)
        return _Node("truth", lambda request: all(holds(request) for holds in tests), nodes[0].at)

    def negation(self) -> _Node:
        token = self.accept("name", "not")
        if token is None:
            return self.comparison()
        self.deeper()
        holds = self.truth(self.negation())
        self.depth -= 1
        return _Node("truth", lambda request: not holds(request), token.at)

    def comparison(self) -> _Node:
        left = self.value()
        token = self.token
        if token.kind == "sign" and token.text in _COMPARE:
            self.take()
            node = self.compared(left, token, self.value())
        elif token.kind == "name" and (token.text == "matches" or token.text in _TEXTUAL):
            self.take()
            node = self.textual(left, token)
        else:
            return left
        if (after := self.token).kind == "sign" and after.text in _COMPARE:
            raise self.mistake(after.at, "comparisons do not chain; write `a < b and b < c`")
        return node

    def value(self) -> _Node:
        token = self.take()
        match token.kind:
            case "number" | "text":
                value = token.value
                kind: Kind = "number" if token.kind == "number" else "text"
                return _Node(kind, lambda _: value, token.at, constant=True)
            case "sign" if token.text == "(":
                self.deeper()
                node = self.either()
                self.depth -= 1
                self.expect(")")
                return node
            case "name" if token.text in {"true", "false"}:
                known = token.text == "true"
                return _Node("truth", lambda _: known, token.at, constant=True)
            case "name" if token.text not in _WORDS:
                following = self.token
                if following.kind == "sign" and following.text == "(":
                    return self.call(token)
                return self.tensor(token)
            case _:
                raise self.wrong("a tensor, function, number, text, 'not' or '('", token)

    def call(self, name: _Token) -> _Node:
        if name.text not in _FUNCTIONS:
            known = ", ".join(sorted(_FUNCTIONS))
            raise self.wrong(f"a function ({known})", name)
        self.expect("(")
        self.deeper()
        node = self.lookup(name) if name.text in _LOOKUP else self.applied(name, self.either())
        self.depth -= 1
        self.expect(")")
        return node

    def lookup(self, name: _Token) -> _Node:
        given = self.accept("text")
        if given is None:
            raise self.wrong(f"the {name.text}'s name in quotation marks")
        key: str = given.value
        if name.text == "header":
            key = key.lower()
            return _Node("text", lambda request: request.headers.get(key), name.at)
        return _Node("any", lambda request: request.parameters.get(key), name.at)

    def applied(self, name: _Token, inner: _Node) -> _Node:
        function, give, at = name.text, inner.give, name.at
        if function == "exists":
            if inner.constant or inner.kind == "truth":
                raise self.mistake(inner.at, "exists takes a tensor, a header or a parameter")
            return _Node("truth", lambda request: give(request) is not None, at)
        if function == "number":
            if inner.kind not in {"text", "any"}:
                raise self.mistake(inner.at, "number takes a text: a header, a parameter")
            return _Node("number", lambda request: _as_number(give(request)), at)
        if function in _QUANTIFY:
            return self.quantified(function, inner, at)
        if inner.kind != "tensor":
            raise self.mistake(inner.at, f"{function} takes a tensor")
        if function in _COUNT:
            count = _COUNT[function]
            return _Node("number", lambda request: None if (x := give(request)) is None else count(x.data), at)
        reduce = _REDUCE[function]
        return _Node(
            "number",
            lambda request: None if (x := give(request)) is None else reduce(_numbers(x, function)),
            at,
        )

    def quantified(self, function: str, inner: _Node, at: int) -> _Node:
        reduce, each, give = _any if function == "any" else _all, inner.each, inner.give
        if each is not None:
            return _Node("truth", lambda request: reduce(each(request)), at)
        if inner.kind != "tensor":
            raise self.mistake(inner.at, f"{function} takes a tensor or one comparison with one")
        return _Node(
            "truth",
            lambda request: (x := give(request)) is not None and reduce(np.asarray(_numbers(x, function)) != 0),
            at,
        )

    def tensor(self, name: _Token) -> _Node:
        key = name.text
        if key == "inputs":
            if self.accept("sign", "["):
                given = self.accept("text")
                if given is None:
                    raise self.wrong("a tensor's name in quotation marks")
                key = given.value
                self.expect("]")
            elif self.accept("sign", "."):
                key = self.word()
            else:
                raise self.wrong("'.' and a tensor's name, or '[\"name\"]'")
        while self.accept("sign", "."):
            key = f"{key}.{self.word()}"
        give = _finder(key)
        if self.accept("sign", "["):
            index = self.index()
            whole = give

            def give(request: InferenceRequest) -> _Part | None:
                part = whole(request)
                return None if part is None else _indexed(part, index)

        return _Node("tensor", give, name.at)

    def word(self) -> str:
        token = self.take()
        if token.kind == "name" or (token.kind == "number" and token.text.isdecimal()):
            return token.text
        raise self.wrong("a tensor's name", token)

    def index(self) -> tuple[int, ...]:
        positions = []
        while True:
            token = self.take()
            if token.kind != "number" or not isinstance(token.value, int):
                raise self.wrong("a whole number", token)
            positions.append(token.value)
            if self.accept("sign", "]"):
                return tuple(positions)
            self.expect(",")

    def deeper(self) -> None:
        self.depth += 1
        if self.depth > _DEPTH:
            raise self.mistake(self.token.at, f"expected at most {_DEPTH} parentheses in one another")

    # -- meaning --

    def truth(self, node: _Node) -> Callable[[InferenceRequest], bool]:
        """A node as a condition of its own."""
        give = node.give
        match node.kind:
            case "truth":
                return give
            case "tensor":
                return lambda request: (x := give(request)) is not None and _all(_nonzero(x))
            case "any":
                return lambda request: give(request) is True
            case _:
                raise self.mistake(
                    node.at, "expected a comparison here: a number or text alone is neither true nor false"
                )

    def compared(self, left: _Node, sign: _Token, right: _Node) -> _Node:
        kinds = {left.kind, right.kind}
        if "text" in kinds and kinds & {"number", "truth"}:
            raise self.mistake(sign.at, "text is compared with a number; write number(...) around the text")
        for node in (left, right):
            if node.kind == "truth" and not node.constant:
                raise self.mistake(node.at, "a condition is not compared; use 'and', 'or', 'not'")
        compare, unequal, text = _COMPARE[sign.text], sign.text == "!=", self.text
        take_left, take_right = left.give, right.give
        left_part, right_part = left.kind == "tensor", right.kind == "tensor"

        def each(request: InferenceRequest) -> Any:
            one, other = take_left(request), take_right(request)
            if one is None or other is None:
                return unequal
            what = ""
            if left_part:
                what, one = one.name, _value(one)
            if right_part:
                what, other = what or other.name, _value(other)
            return _compare(compare, one, other, what, text)

        return _Node("truth", lambda request: _all(each(request)), left.at, each)

    def textual(self, left: _Node, name: _Token) -> _Node:
        given = self.accept("text")
        if given is None:
            raise self.wrong("a text in quotation marks")
        if left.kind in {"number", "truth"}:
            raise self.mistake(name.at, f"{name.text} is of text")
        if name.text == "matches":
            try:
                search = re.compile(given.value).search
            except re.error as exc:
                raise self.mistake(given.at, f"expected a regular expression: {exc}") from exc

            def fits(value: str) -> bool:
                return search(value) is not None
        else:
            method, wanted = _TEXTUAL[name.text], given.value

            def fits(value: str) -> bool:
                return method(value, wanted)

        give, function, text = left.give, name.text, self.text

        def each(request: InferenceRequest) -> Any:
            value = give(request)
            if isinstance(value, _Part):
                if not value.text:
                    raise InvalidRequest(
                        f"condition {text!r}: {function} is of text, but tensor '{value.name}' is {value.datatype}"
                    )
                value = _value(value)
            if isinstance(value, np.ndarray):
                return np.array([fits(one) for one in value.reshape(-1).tolist()], np.bool_)
            return None if value is None else isinstance(value, str) and fits(value)

        return _Node("truth", lambda request: _all(each(request)), left.at, each)


def _compare(compare: Callable[[Any, Any], Any], one: Any, other: Any, what: str, text: str) -> Any:
    """The comparison, one boolean or an array; text with text or numbers with numbers."""
    one_text, other_text = _is_text(one), _is_text(other)
    if one_text != other_text:
        known, asked = ("text", "a number") if one_text else ("a number", "text")
        place = f" (tensor '{what}')" if what else ""
        raise InvalidRequest(f"condition {text!r}: {known} is compared with {asked}{place}")
    try:
        return compare(one, other)
    except (ValueError, TypeError) as exc:
        raise InvalidRequest(f"condition {text!r}: the values of '{what}' cannot be compared: {exc}") from exc


def _is_text(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, np.ndarray) and value.dtype.kind == "O")


def _nonzero(part: _Part) -> Any:
    if part.text:
        raise InvalidRequest(f"condition: tensor '{part.name}' is BYTES, which is neither true nor false; compare it")
    return np.asarray(part.data) != 0


def _as_number(value: Any) -> float | int | None:
    if isinstance(value, (bool, int, float)):
        return value
    try:
        return float(value) if isinstance(value, str) else None
    except ValueError:
        return None


def _finder(name: str) -> Callable[[InferenceRequest], _Part | None]:
    def find(request: InferenceRequest) -> _Part | None:
        for tensor in request.inputs:
            if tensor.name == name:
                return _part(tensor)
        return None

    return find


def _indexed(part: _Part, index: Sequence[int]) -> _Part | None:
    shape = part.data.shape
    if len(index) > len(shape) or any(not -size <= each < size for each, size in zip(index, shape, strict=False)):
        return None
    return _Part(part.name, part.datatype, part.data[tuple(index)])
