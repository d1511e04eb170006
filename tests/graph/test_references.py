"""references, order: the grammar of references, and cycles of graphs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import InvalidRequest
from headrace.graph import order
from headrace.graph.references import External, Reference, parse, parse_external


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("s", Reference(step="s", side="outputs")),
        ("s.outputs", Reference(step="s", side="outputs")),
        ("s.outputs.t", Reference(step="s", side="outputs", tensor="t")),
        ("s.inputs.a.b", Reference(step="s", side="inputs", tensor="a.b")),
        ("s.branches.left", Reference(step="s", side="branches", branch="left")),
        ("s.branches.left.t", Reference(step="s", side="branches", branch="left", tensor="t")),
        ("pipe", Reference(step="", side="inputs")),
        ("pipe.inputs", Reference(step="", side="inputs")),
        ("pipe.inputs.t", Reference(step="", side="inputs", tensor="t")),
    ],
)
def test_a_reference_says_who_gives_what(text, expected):
    """A bare step means its outputs, the pipeline's bare name its inputs; dots beyond the third part are the tensor's."""
    assert parse(text, pipeline="pipe") == expected


@pytest.mark.parametrize(
    "text", ["", ".", "s.", "s.output", "s.outputs.", "a b", "pipe.outputs", "s.branches", "s.branches."]
)
def test_what_is_no_reference_is_refused(text):
    """The text of the error says what was expected."""
    with pytest.raises(InvalidRequest, match=r"expected|only"):
        parse(text, pipeline="pipe")


@pytest.mark.parametrize(
    ("text", "expected", "tap"),
    [
        ("o.inputs", External(pipeline="o", step="", side="inputs"), "inputs"),
        ("o.outputs.t", External(pipeline="o", step="", side="outputs", tensor="t"), "outputs"),
        ("o.step.s.inputs", External(pipeline="o", step="s", side="inputs"), "s.inputs"),
        ("o.step.s.outputs.t", External(pipeline="o", step="s", side="outputs", tensor="t"), "s.outputs"),
    ],
)
def test_a_reference_to_another_pipeline_says_where_to_listen(text, expected, tap):
    """What is heard is that place's tap; the tensor is picked from what it shows."""
    assert parse_external(text) == expected
    assert parse_external(text).tap == tap


@pytest.mark.parametrize("text", ["", "o", "o.x", "o.step", "o.step.s", "o.step..outputs", "o.step.s.x", "o.outputs."])
def test_what_is_no_external_reference_is_refused(text):
    """A bare name or an unknown side of another pipeline means nothing."""
    with pytest.raises(InvalidRequest, match="expected"):
        parse_external(text)


@given(st.lists(st.lists(st.integers(0, 7), max_size=4), min_size=8, max_size=8))
def test_nodes_share_a_cycle_when_each_reaches_the_other(successors):
    """Components are exactly the classes of mutual reachability that have a cycle, givers before takers."""
    found = order.cycles(successors)
    beyond = [order.reached(successors, each) for each in successors]  # by one step or more
    expected = {tuple(b for b in range(8) if b in beyond[a] and a in beyond[b]) for a in range(8) if a in beyond[a]}
    assert sorted(map(tuple, found)) == sorted(expected)
    for position, component in enumerate(found):
        for later in found[position + 1 :]:
            assert component[0] not in beyond[later[0]]
