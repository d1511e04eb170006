"""Labels that come later. Matrix: forms (ours, Seldon Core v1's) x one, many; what is none of them."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import InvalidRequest, TooLarge
from headrace.protocols import labels
from headrace.protocols.labels import Truth

values = (
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)


def parse(document):
    return labels.parse(json.dumps(document).encode())


@given(st.lists(st.tuples(st.text(min_size=1), st.lists(values, min_size=1)), min_size=1, max_size=5), st.booleans())
def test_many(entries, wrapped):
    """Every entry is read with its labels, in order, as a list or below `feedback`."""
    document = [{"id": name, "labels": given_} for name, given_ in entries]
    found = parse({"feedback": document} if wrapped else document)
    assert found == tuple(Truth(name, tuple(given_)) for name, given_ in entries)


FORMS = {
    "labels": ({"id": "a", "labels": [1, 0]}, (1, 0)),
    "truth": ({"id": "a", "truth": ["cat", None]}, ("cat", None)),
    "one": ({"id": "a", "truth": 1.5}, (1.5,)),
    "column": ({"id": "a", "labels": [[1], [0]]}, (1, 0)),
    "targets": ({"id": "a", "labels": [[1, 2], [3, 4]]}, ([1, 2], [3, 4])),
    "puid": ({"response": {"meta": {"puid": "a"}}, "truth": [1]}, (1,)),
    "reward": ({"id": "a", "labels": [1], "reward": 0.5}, (1,)),
    "ndarray": ({"response": {"meta": {"puid": "a"}}, "truth": {"data": {"ndarray": [1, 0]}}}, (1, 0)),
    "tensor": (
        {"response": {"meta": {"puid": "a"}}, "truth": {"data": {"tensor": {"shape": [2, 1], "values": [1, 0]}}}},
        (1.0, 0.0),
    ),
    "texts": ({"response": {"meta": {"puid": "a"}}, "truth": {"data": {"ndarray": ["x", "y"]}}}, ("x", "y")),
    "request": (
        {"request": {"meta": {"puid": "a"}, "data": {"ndarray": [[1, 2]]}}, "truth": {"data": {"ndarray": [3]}}},
        (3,),
    ),
    "seldon-id": ({"id": "a", "truth": {"data": {"ndarray": [3]}}}, (3,)),
    "strData": ({"response": {"meta": {"puid": "a"}}, "truth": {"strData": "cat"}}, ("cat",)),
}


@pytest.mark.parametrize("form", FORMS)
def test_forms(form):
    """Each form that callers send is the labels of one request, by row."""
    document, expected = FORMS[form]
    assert parse(document) == (Truth("a", expected),)


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ([], "empty"),
        (1, "object"),
        ({"id": "a"}, "labels"),
        ({"labels": [1]}, "id"),
        ({"id": 7, "labels": [1]}, "id"),
        ({"id": "a", "labels": []}, "empty"),
        ({"id": "a", "labels": [{"x": 1}]}, r"labels\[0\]"),
        ({"id": "a", "labels": [[[1, 2]]]}, r"labels\[0\]"),
        ({"id": "a", "label": [1]}, "label"),
        ([{"id": "a", "labels": [1]}, {"id": "b"}], r"feedback\[1\]"),
        ({"truth": {"data": {"ndarray": [1]}}}, "puid"),
        ({"response": {"meta": {"puid": "a"}}, "truth": {"data": {"nd": [1]}}}, "feedback"),
        ({"response": {"meta": {"puid": "a"}}, "truth": {}}, "truth"),
        ({"response": 1, "truth": {"data": {"ndarray": [1]}}}, "response"),
    ],
)
def test_what_is_none(document, said):
    """What says nothing of a request is refused; the text names the entry and member."""
    with pytest.raises(InvalidRequest, match=said):
        parse(document)


def test_too_much_at_once():
    """More requests than one body may name are refused with the limit."""
    with pytest.raises(TooLarge, match=str(labels.MOST)):
        parse([{"id": "a", "labels": [1]}] * (labels.MOST + 1))


def test_no_json():
    """A body that is not JSON is refused."""
    with pytest.raises(InvalidRequest, match="JSON"):
        labels.parse(b"{")


def test_an_object_is_no_label():
    """Labels that are an object are refused with what is expected, whatever stands in it."""
    with pytest.raises(InvalidRequest, match="labels must be a list"):
        parse({"id": "r", "labels": {"a": 1}})
