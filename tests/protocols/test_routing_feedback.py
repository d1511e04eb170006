"""Feedback to pipelines: what says which branches were chosen, and what is refused."""

from __future__ import annotations

import json

import pytest

from headrace.errors import InvalidRequest
from headrace.protocols import routing_feedback


def parse(**members):
    return routing_feedback.parse(json.dumps(members).encode(), model_name="p")


REQUEST = {"id": "r", "inputs": [{"name": "x", "shape": [1], "datatype": "INT64", "data": [1]}]}


def test_routing_is_an_object_or_the_headers_text():
    """Both name branches as texts."""
    assert parse(reward=1, routing={"r": "a", "q": 1}).routing == {"r": "a", "q": "1"}
    assert parse(reward=1, routing="r=a;q=1").routing == {"r": "a", "q": "1"}
    assert not parse(reward=1).routing


def test_a_request_is_known_by_its_id():
    """Given alone, or with the request, whose own id it overrides."""
    assert parse(reward=0.5, id="r").request.id == "r"
    whole = parse(reward=0.5, request=REQUEST, truth=[1]).request
    assert (whole.id, whole.inputs[0].data.tolist()) == ("r", [1])
    assert parse(reward=0.5, request=REQUEST, id="s").request.id == "s"


@pytest.mark.parametrize(
    ("members", "text"),
    [
        ({}, "reward"),
        ({"reward": True}, "reward"),
        ({"reward": "1"}, "reward"),
        ({"reward": 1, "id": 3}, "id"),
        ({"reward": 1, "routing": [1]}, "routing"),
        ({"reward": 1, "routing": {"r": []}}, "routing"),
        ({"reward": 1, "reword": 1}, "reword"),
        ({"reward": 1, "request": {}}, "inputs"),
    ],
)
def test_what_is_no_feedback_is_refused(members, text):
    """The error names the member."""
    with pytest.raises(InvalidRequest, match=text):
        parse(**members)
