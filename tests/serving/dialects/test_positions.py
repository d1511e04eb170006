"""positions: the line of every key and item of a JSON text."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.serving.dialects.positions import lines

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=20,
)


def positions_of(value, above=()):
    """Every position in a value, outermost first, in the order of the text."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, each in inside:
        yield (*above, name)
        yield from positions_of(each, (*above, name))


@given(values, st.integers(1, 3))
def test_every_position_has_its_line(value, indent):
    """In an indented text each key and each item stands on a line of its own, in order, and no other position is found."""
    text = json.dumps(value, indent=indent)
    found = lines(text)
    assert set(found) == set(positions_of(value))
    rows = text.split("\n")
    for position, line in found.items():
        row = rows[line - 1]
        if isinstance(position[-1], str):
            assert row.strip().startswith(json.dumps(position[-1]) + ":")
        assert len(row) - len(row.lstrip(" ")) == indent * len(position)
    assert list(found.values()) == sorted(found.values())


@given(values, st.lists(st.sampled_from(["", " ", "\n", "\r\n", "\t\n\n"]), min_size=4, max_size=4))
def test_any_spacing(value, spaces):
    """Wherever line ends stand between tokens, the line found for a key is the one on which its text begins."""
    comma, colon = f"{spaces[0]},{spaces[1]}", f"{spaces[2]}:{spaces[3]}"
    text = json.dumps(value, separators=(comma, colon))
    rows = text.split("\n")
    for position, line in lines(text).items():
        if isinstance(position[-1], str):
            assert json.dumps(position[-1]) in rows[line - 1]


def test_key_given_twice():
    """Of a key given twice the last one's line is found, and nothing of what the first one held."""
    assert lines('{"a": {"b": 1},\n"a":\n{"c": 1}}') == {("a",): 2, ("a", "c"): 3}


@pytest.mark.parametrize("text", ["1", '"x"', "null", "[]", "{}", "NaN", " \n{ }\n"])
def test_nothing_to_find(text):
    """A text without keys and items has no positions."""
    assert lines(text) == {}


def test_deep():
    """A text nested as deep as json.loads takes it does not exhaust the stack."""
    assert len(lines("[" * 900 + "]" * 900)) == 899
