"""The condition language: what each form means, what is absent, what is refused and where; and a model of it by
hypothesis. Conditions of KServe (`json:`) are here as far as they are conditions; their language is in test_gjson.
"""

import contextlib
import math
import operator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import InvalidRequest
from headrace.graph import conditions
from headrace.graph.conditions import condition
from headrace.payload import InferenceRequest, Tensor


def texts(*values):
    array = np.empty(len(values), object)
    array[:] = values
    return array


def request(headers=None, parameters=None, **tensors):
    inputs = []
    for name, value in tensors.items():
        array = np.asarray(value)
        datatype = {"f": "FP64", "i": "INT64", "b": "BOOL", "O": "BYTES"}[array.dtype.kind]
        inputs.append(Tensor(name, datatype, array))
    return InferenceRequest(
        model_name="m", inputs=tuple(inputs), headers=headers or {}, parameters=parameters or {}, protocol="v2_rest"
    )


ASKED = request(
    headers={"x-tier": "gold", "x-n": "12", "x-bad": "twelve"},
    parameters={"lang": "en", "k": 3, "debug": True},
    amount=[150.0],
    matrix=[[1.0, 2.0], [3.0, 4.0]],
    count=[7],
    flags=[True, False],
    on=[True],
    kind=texts(b"dog"),
    kinds=texts(b"dog", b"cat"),
    empty=np.empty(0),
    nan=[math.nan],
    scalar=np.float64(5.0),
)

HOLD = [
    "inputs.amount > 100",
    "amount > 100",
    'inputs["amount"] > 1.0e2',
    "100 < amount",
    "amount != 100 and amount == 150",
    "matrix[0,1] == 2",
    "matrix[-1,-1] >= 4",
    "matrix[1] > 2",
    "matrix > 0",
    "any(matrix > 3)",
    "not all(matrix > 3)",
    "not any(matrix > 4)",
    "sum(matrix) == 10 and mean(matrix) == 2.5 and min(matrix) == 1 and max(matrix) == 4",
    "rows(matrix) == 2 and size(matrix) == 4",
    "rows(scalar) == 1 and scalar == 5",
    "any(flags) and not all(flags)",
    "not flags",
    "on and on == true and on == 1",
    "exists(amount) and not exists(absent)",
    "exists(matrix[1,1]) and not exists(matrix[2,0]) and not exists(matrix[0,0,0])",
    'exists(header("X-Tier")) and not exists(header("x-none")) and exists(parameter("k"))',
    'kind == "dog"',
    "kind == 'dog'",
    'any(kinds == "cat") and not kinds == "cat"',
    'kinds[1] == "cat"',
    'kind matches "^d" and kind startswith "do" and kind endswith "g" and kind contains "o"',
    'any(kinds matches "a") and not kinds matches "a"',
    'header("x-tier") == "gold"',
    'header("x-tier") matches "^(gold|silver)$"',
    'number(header("x-n")) > 11.5',
    'not number(header("x-bad")) > 0',
    'parameter("lang") == "en" and parameter("k") == 3 and parameter("debug")',
    'not parameter("lang") == "de" or false',
    "not (amount < 100 or count == 8)",
    "false or not false and true",
    "count == amount or count < amount",
    # what is absent is equal to nothing
    "not absent > 1 and not absent == 1 and not absent < 1 and absent != 1",
    'header("x-none") != "gold" and not header("x-none") == "gold"',
    "not empty > 0 and not any(empty > 0) and not exists(empty[0]) and sum(empty) == 0 and mean(empty) != 0",
    "not nan > 0 and not nan == nan and nan != 0",
    'json:inputs.#(name=="amount").data.0',
    'json: inputs.#(datatype=="BYTES")',
]

FAIL = ["amount > 150", "absent", "empty", 'header("x-tier") == "silver"', "json:instances", "json:parameters.nothing"]


@pytest.mark.parametrize("text", HOLD)
def test_holds(text):
    """The condition holds for the request."""
    assert condition(text)(ASKED) is True


@pytest.mark.parametrize("text", FAIL)
def test_does_not_hold(text):
    """The condition does not hold for the request."""
    assert condition(text)(ASKED) is False


WRONG = {
    "": (1, "expected a tensor, function", "the end"),
    "   ": (1, "expected a tensor, function", "the end"),
    "amount >": (9, "expected a tensor, function", "the end"),
    "amount > 1 2": (12, "'and', 'or'", "'2'"),
    "(amount > 1": (12, "')'", "the end"),
    "amount[a] > 1": (8, "a whole number", "'a'"),
    "amount[1.5] > 1": (8, "a whole number", "'1.5'"),
    "header(x)": (8, "name in quotation marks", "'x'"),
    "median(x) > 1": (1, "expected a function", "'median'"),
    "inputs > 1": (8, "'.' and a tensor's name", "'>'"),
    "x @ 1": (3, "a word, number, text or sign", "'@'"),
    'x == "abc': (6, "the quotation mark that closes", "'\"'"),
    "1": (1, "neither true nor false", ""),
    "sum(x)": (1, "neither true nor false", ""),
    'header("a")': (1, "neither true nor false", ""),
    'header("a") > 1': (13, "text is compared with a number", ""),
    "1 < x < 3": (7, "do not chain", ""),
    "(x > 1) == true": (2, "not compared", ""),
    "sum(header('x')) > 1": (5, "sum takes a tensor", ""),
    "exists(x > 1)": (8, "exists takes a tensor", ""),
    "any(x > 1 and y > 1)": (5, "one comparison", ""),
    "number(x) > 1": (8, "number takes a text", ""),
    "x matches '('": (11, "regular expression", ""),
    "x startswith 5": (14, "a text in quotation marks", "'5'"),
    "sum(x) contains 'a'": (8, "contains is of text", ""),
    "and": (1, "expected a tensor", "'and'"),
    "json:": (1, "expected a path", ""),
    "json:a.#(b": (4, "expected ')'", ""),
}


@pytest.mark.parametrize("text", WRONG)
def test_mistakes_are_told_with_their_place(text):
    """A text that is no condition is refused when it is parsed, with position, what was expected and what was found."""
    position, expected, found = WRONG[text]
    with pytest.raises(InvalidRequest) as raised:
        condition(text)
    said = str(raised.value)
    assert f"position {position}:" in said or (not text.strip() and "position" in said)
    assert expected in said
    assert found in said


@pytest.mark.parametrize("text", ["(" * 100 + "true" + ")" * 100, "not " * 100 + "true"])
def test_nesting_is_bounded(text):
    """A hundred parentheses or negations are refused rather than followed."""
    with pytest.raises(InvalidRequest, match="at most 64"):
        condition(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("kind > 5", "tensor 'kind'"),
        ('amount == "dog"', "tensor 'amount'"),
        ("sum(kind) > 1", "'kind' is BYTES"),
        ("kind", "'kind' is BYTES"),
        ('amount matches "1"', "'amount' is FP64"),
        ("flags == kinds[0]", "text"),
        ("matrix == count3", "cannot be compared"),
    ],
)
def test_datatypes_that_do_not_fit_are_the_callers_mistake(text, said):
    """A condition whose tensor has another datatype or shape than it needs is InvalidRequest, naming the tensor."""
    asked = InferenceRequest(model_name="m", inputs=(*ASKED.inputs, Tensor("count3", "INT64", np.arange(3))))
    with pytest.raises(InvalidRequest, match=said):
        condition(text)(asked)


def test_bf16_is_compared_by_its_number():
    """A BF16 tensor is the number that its bits say, not the bits."""
    bits = np.array([0x3FC0], np.uint16)  # 1.5
    assert condition("x == 1.5")(InferenceRequest(model_name="m", inputs=(Tensor("x", "BF16", bits),)))


def test_big_integers_are_compared_exactly():
    """Integers beyond 2**53 are compared as they are."""
    asked = request(x=[2**53 + 1])
    assert condition(f"x == {2**53 + 1}")(asked)
    assert not condition(f"x == {2**53}")(asked)


def test_a_condition_is_parsed_once():
    """A condition holds for one request and not for another, without being parsed again."""
    holds = condition("x > 1")
    assert [holds(request(x=[value])) for value in (0, 2, 1, 3)] == [False, True, False, True]


# -- the language against a model of it --

NAMES = ("a", "b-c", "d_1")
OPERATORS = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
NUMBERS = st.integers(-5, 5) | st.floats(-5, 5, allow_nan=False)
SPACE = st.sampled_from(["", " ", "  ", "\n"])


def compared(name, sign, number, space):
    def meaning(values):
        array = values.get(name)
        if array is None:
            return sign == "!="
        return bool(array) and all(OPERATORS[sign](each, number) for each in array)

    return f"{space}{name}{space}{sign}{space}{number!r}", meaning


LEAVES = st.builds(
    compared, st.sampled_from(NAMES), st.sampled_from(sorted(OPERATORS)), NUMBERS, SPACE
) | st.sampled_from([("true", lambda values: True), ("false", lambda values: False)])


def joined(word, left, right):
    (one, first), (two, second) = left, right
    if word == "and":
        return f"({one}) and ({two})", lambda values: first(values) and second(values)
    return f"({one}) or ({two})", lambda values: first(values) or second(values)


CONDITIONS = st.recursive(
    LEAVES,
    lambda inner: (
        st.builds(joined, st.sampled_from(["and", "or"]), inner, inner)
        | inner.map(lambda each: (f"not ({each[0]})", lambda values: not each[1](values)))
    ),
    max_leaves=8,
)
VALUES = st.dictionaries(st.sampled_from(NAMES), st.lists(st.integers(-5, 5), max_size=3))


@given(CONDITIONS, VALUES)
def test_any_condition_means_what_its_parts_mean(written, values):
    """Whatever is written with numbers, and, or and not holds exactly where a plain evaluation of it does."""
    text, meaning = written
    inputs = tuple(Tensor(name, "INT64", np.array(each, np.int64)) for name, each in values.items())
    assert condition(text)(InferenceRequest(model_name="m", inputs=inputs)) is meaning(values)


@given(st.text(alphabet="ab1.()[]<>=!\"' andornot,-", max_size=30))
def test_any_text_is_a_condition_or_refused(text):
    """No text makes the parser raise anything but InvalidRequest."""
    with contextlib.suppress(InvalidRequest):
        conditions.test(text)


@given(st.booleans(), st.booleans(), st.booleans())
def test_and_binds_before_or(a, b, c):
    """`a or b and c` is `a or (b and c)`, and `not a and b` is `(not a) and b`."""
    asked = request(a=[a], b=[b], c=[c])
    assert condition("a or b and c")(asked) is (a or (b and c))
    assert condition("not a and b")(asked) is ((not a) and b)
