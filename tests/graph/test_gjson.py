"""gjson paths: the examples of its own documentation, KServe's of InferenceGraph, and the corners of queries."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import InvalidRequest
from headrace.graph.gjson import MISSING, path

# The document and the answers of SYNTAX.md of github.com/tidwall/gjson.
PERSON = {
    "name": {"first": "Tom", "last": "Anderson"},
    "age": 37,
    "children": ["Sara", "Alex", "Jack"],
    "fav.movie": "Deer Hunter",
    "friends": [
        {"first": "Dale", "last": "Murphy", "age": 44, "nets": ["ig", "fb", "tw"]},
        {"first": "Roger", "last": "Craig", "age": 68, "nets": ["fb", "tw"]},
        {"first": "Jane", "last": "Murphy", "age": 47, "nets": ["ig", "tw"]},
    ],
}
DOCUMENTED = {
    "name.last": "Anderson",
    "name.first": "Tom",
    "age": 37,
    "children.0": "Sara",
    "children.1": "Alex",
    "friends.1.first": "Roger",
    "child*.2": "Jack",
    "c?ildren.0": "Sara",
    r"fav\.movie": "Deer Hunter",
    "friends.#": 3,
    "friends.#.age": [44, 68, 47],
    'friends.#(last=="Murphy").first': "Dale",
    'friends.#(last=="Murphy")#.first': ["Dale", "Jane"],
    "friends.#(age>45)#.last": ["Craig", "Murphy"],
    'friends.#(first%"D*").last': "Murphy",
    'friends.#(first!%"D*").last': "Craig",
    'children.#(!%"*a*")': "Alex",
    'children.#(%"*a*")#': ["Sara", "Jack"],
    'friends.#(nets.#(=="fb"))#.first': ["Dale", "Roger"],
    "friends.0.first": "Dale",
    "friends|0.first": "Dale",
    "friends.0|first": "Dale",
    "friends|#": 3,
    'friends.#(last=="Murphy")#': [PERSON["friends"][0], PERSON["friends"][2]],
    'friends.#(last=="Murphy")#|first': MISSING,
    'friends.#(last=="Murphy")#.0': [],
    'friends.#(last=="Murphy")#|0': PERSON["friends"][0],
    'friends.#(last=="Murphy")#.#': [],
    'friends.#(last=="Murphy")#|#': 2,
    "children|@reverse": ["Jack", "Alex", "Sara"],
    "children|@reverse|0": "Jack",
    '{name.first,age,"the_murphys":friends.#(last="Murphy")#.first}': {
        "first": "Tom",
        "age": 37,
        "the_murphys": ["Dale", "Jane"],
    },
    "[name.first,age]": ["Tom", 37],
    "name|@keys": ["first", "last"],
    "name.@values": ["Tom", "Anderson"],
}


@pytest.mark.parametrize("text", DOCUMENTED)
def test_documented_examples(text):
    """A path of gjson's documentation leads where the documentation says."""
    found = path(text)(PERSON)
    assert found is DOCUMENTED[text] if DOCUMENTED[text] is MISSING else found == DOCUMENTED[text]


def test_truth_in_queries():
    """`==~true` and its kin hold as gjson's documentation says."""
    document = {
        "vals": [
            {"a": 1, "b": "data"},
            {"a": 2, "b": True},
            {"a": 3, "b": False},
            {"a": 4, "b": "0"},
            {"a": 5, "b": 0},
            {"a": 6, "b": "1"},
            {"a": 7, "b": 1},
            {"a": 8, "b": "true"},
            {"a": 9, "b": "false"},
            {"a": 10, "b": None},
            {"a": 11},
        ]
    }
    assert path("vals.#(b==~true)#.a")(document) == [2, 6, 7, 8]
    assert path("vals.#(b==~false)#.a")(document) == [3, 4, 5, 9, 10, 11]
    assert path("vals.#(b==~null)#.a")(document) == [10, 11]
    assert path("vals.#(b!=~*)#.a")(document) == [11]


# Conditions of KServe's documentation of InferenceGraph, and what they are meant for.
SWITCH = {
    '[@this].#(source_type=="dog")': ({"source_type": "dog"}, {"source_type": "cat"}),
    'instances.#(modelId=="1")': ({"instances": [{"modelId": "1"}]}, {"instances": [{"modelId": "2"}]}),
    '@this.#(predictions.0=="dog")': ([{"predictions": ["dog"]}], [{"predictions": ["cat"]}]),
    '[@this].#(predictions.0=="dog")': ({"predictions": ["dog"]}, {"predictions": ["cat"]}),
    "predictions.0": ({"predictions": [None]}, {"predictions": []}),
    "predictions.#(>=0.5)": ({"predictions": [0.2, 0.7]}, {"predictions": [0.2]}),
}


@pytest.mark.parametrize("text", SWITCH)
def test_conditions_of_inference_graphs(text):
    """A switch's condition exists in the document that it is meant for, and not in the other."""
    there, absent = SWITCH[text]
    assert path(text)(there) is not MISSING
    assert path(text)(absent) is MISSING


@pytest.mark.parametrize(
    ("text", "document", "expected"),
    [
        ("a", {"a": None}, None),
        ("a.b", {"a": 1}, MISSING),
        ("a.5", {"a": [1]}, MISSING),
        ("a.x", {"a": [1]}, MISSING),
        ("1", {"1": "one"}, "one"),
        ("@type", {"@type": "t"}, "t"),
        ("#", {"a": 1}, MISSING),
        ("a.#(x==1)", {"a": {"x": 1}}, MISSING),
        ("a.#(x==1)#", {"a": []}, []),
        ("a.#(b==true)", {"a": [{"b": False}, {"b": True}]}, {"b": True}),
        ("a.#(b>=false)#.b", {"a": [{"b": False}, {"b": True}]}, [True]),
        ("a.#(b<=true)#.b", {"a": [{"b": False}, {"b": True}]}, [False]),
        ("a.#(b==1)", {"a": [{"b": "1"}]}, {"b": "1"}),
        ('a.#(b=="1")', {"a": [{"b": 1}]}, {"b": 1}),
        ("a.#(b==null)", {"a": [{"b": None}]}, MISSING),
        ("a.#(b)", {"a": [{"c": 1}, {"b": None}]}, {"b": None}),
        ("a.#(b!=1)#.b", {"a": [{"b": 2}, {"b": "x"}, {"c": 3}]}, [2, "x"]),
        (r'a.#(b=="x\"y")', {"a": [{"b": 'x"y'}]}, {"b": 'x"y'}),
        (r'a.#(b=="c)d")', {"a": [{"b": "c)d"}]}, {"b": "c)d"}),
        (r"a.#(b\.c==1)", {"a": [{"b.c": 1}]}, {"b.c": 1}),
        (r'a.#(b%"x\*")', {"a": [{"b": "xy"}, {"b": "x*"}]}, {"b": "x*"}),
        (r"a\*", {"ab": 1, "a*": 2}, 2),
        ("a.@flatten", {"a": [1, [2], [3, [4]]]}, [1, 2, 3, [4]]),
        ('a.@flatten:{"deep":true}', {"a": [1, [2], [3, [4]]]}, [1, 2, 3, 4]),
        ("a.@fromstr.b", {"a": '{"b": 1}'}, 1),
        ("a.@fromstr", {"a": "{"}, MISSING),
        ("@this|@pretty|@ugly|@valid|a", {"a": 1}, 1),
        ("[a,b]", {"a": 1}, [1]),
        ("[]", {"a": 1}, []),
        ("a.[b,c]", {"a": {"b": 1, "c": 2}}, [1, 2]),
        ("x.#(y.#(z>1)#|#>1).n", {"x": [{"y": [{"z": 2}], "n": 1}, {"y": [{"z": 2}, {"z": 3}], "n": 2}]}, 2),
    ],
)
def test_corners(text, document, expected):
    """Paths lead where gjson's own code leads them."""
    found = path(text)(document)
    assert found is expected if expected is MISSING else (found == expected and type(found) is type(expected))


@pytest.mark.parametrize(
    ("text", "position"),
    [("", 1), ("a.#(b", 4), ("a.#(b)c", 7), ('#(a=="x)', 6), ("[a", 1), ("[a,,b]", 4), ("{a}b", 4), ("a|[b,[c]", 3)],
)
def test_what_is_no_path(text, position):
    """A bracket or quotation that nothing closes, or a missing path, is refused with its position."""
    with pytest.raises(InvalidRequest, match=f"position {position}:"):
        path(text)


def test_nesting_is_bounded():
    """Queries in queries are refused beyond a bound rather than followed."""
    with pytest.raises(InvalidRequest, match="at most 64"):
        path("a.#(" * 100 + "b" + ")" * 100)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.text("ab", max_size=2),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab#@.*", max_size=2), inner, max_size=3),
    max_leaves=12,
)


@given(st.text(alphabet='ab0.#()[]{}=!<>%"*?@|~:\\', max_size=16), JSON)
def test_any_text_is_a_path_or_refused(text, document):
    """No text and no document make it raise anything but InvalidRequest, and a path changes no document."""
    before = repr(document)
    with contextlib.suppress(InvalidRequest):
        path(text)(document)
    assert repr(document) == before


@given(st.dictionaries(st.text("ab.*?#\\|@", min_size=1, max_size=4), st.integers(), min_size=1))
def test_any_member_can_be_named(document):
    """Whatever a member is called, its name with every character escaped leads to it."""
    for name, value in document.items():
        assert path("".join(f"\\{each}" for each in name))(document) == value
