"""What MLServer finds wrong with bodies. The wording of each fault is `tests/server/test_mlserver.py`'s."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import InvalidRequest
from headrace.protocols import mlserver_schema, v2_rest

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["name", "id", "data"]), inner),
    max_leaves=6,
)
tensor = st.fixed_dictionaries(
    {"name": st.just("x") | anything, "shape": st.lists(st.integers(-2, 4), max_size=3) | anything},
    optional={"datatype": st.sampled_from(["FP32", "INT8", "BYTES", "FP3"]), "data": anything, "parameters": anything},
)
request = st.fixed_dictionaries(
    {"inputs": st.lists(tensor, max_size=2) | anything},
    optional={"id": anything, "parameters": anything, "outputs": st.lists(tensor, max_size=2) | anything},
)


@given(request | anything)
def test_any_body_has_faults_that_json_carries_or_none(document):
    """Whatever JSON comes, the faults can be rendered, and each says what, where and why."""
    body = msgspec.json.encode(document)
    faults = mlserver_schema.of_request(body)
    assert {"detail": faults} == msgspec.json.decode(mlserver_schema.render(faults))
    assert all({"type", "loc", "msg", "input"} <= set(fault) and fault["loc"][0] == "body" for fault in faults)
    if not faults:
        mlserver_schema.misfit(body)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=3), st.integers(0, 12))
def test_data_fill_their_shape_for_both_or_for_none(shape, count):
    """What numpy would be told to reshape in vain is what our own parser refuses."""
    body = msgspec.json.encode(
        {"inputs": [{"name": "x", "shape": shape, "datatype": "INT32", "data": list(range(count))}]}
    )
    assert mlserver_schema.of_request(body) == []
    if mlserver_schema.misfit(body):
        with pytest.raises(InvalidRequest):
            v2_rest.parse(body, model_name="m")
    else:
        v2_rest.parse(body, model_name="m")


def test_faults_are_in_the_order_of_the_members():
    """Members come in the order of the schema, whatever the body's."""
    body = b'{"outputs": 1, "inputs": 2, "parameters": 3, "id": 4}'
    assert [fault["loc"][1] for fault in mlserver_schema.of_request(body)] == ["id", "parameters", "inputs", "outputs"]
