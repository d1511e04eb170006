"""picture: a pipeline as text and as Mermaid."""

import re

import msgspec
import yaml
from hypothesis import given
from hypothesis import strategies as st

from headrace.graph import picture, spec

PIPELINE = msgspec.convert(
    yaml.safe_load("""
    input: {externalInputs: [other.outputs]}
    steps:
    - name: choose
      route: {type: weights, branches: [{name: big, weight: 3}, {name: small, weight: 1}]}
    - {name: mul10, inputs: [choose.branches.big], when: 'INPUT > "5"'}
    - name: add10
      inputs: [choose.branches.small, pipe.inputs.x]
      inputsJoinType: outer
      triggers: [mul10.outputs.t]
      tensorMap: {pipe.inputs.x: y}
    - {name: both, combine: {type: mean}, inputs: [mul10, add10]}
    - {name: shadow, inputs: [both], mirror: true}
    output: {steps: [both], tensorMap: {both.outputs.a: b}}
    """),
    spec.Pipeline,
)


def test_the_text_says_everything_that_decides_where_tensors_flow():
    """Weights, conditions, joins, triggers, renames and mirrors are on it."""
    shown = picture.text("pipe", PIPELINE)
    for part in (
        "⇠ other.outputs", "◇ choose  (routes: weights)", "→ big 75 %", 'when INPUT > "5"', "(outer join)",
        "only after mul10.outputs.t", "pipe.inputs.x as y", "⬡ both  (combines: mean)", "mirror", "← both (a as b)",
    ):  # fmt: skip
        assert part in shown, part


def test_a_step_stands_below_and_right_of_what_it_takes_from():
    """The text reads in the direction in which tensors flow."""
    lines = picture.text("pipe", PIPELINE).splitlines()
    found = {
        each: next((n, line.index(each)) for n, line in enumerate(lines) if f" {each}  (" in line)
        for each in ("choose", "mul10", "both")
    }
    assert found["choose"] < found["mul10"] < found["both"]
    assert found["choose"][1] < found["mul10"][1] < found["both"][1]


def test_mermaid_has_an_arrow_for_each_reference():
    """Triggers and mirrors are dotted; branches, tensors and new names are on the arrows; quotes are escaped."""
    shown = picture.mermaid("pipe", PIPELINE)
    assert shown.startswith("flowchart LR\n")
    for part in (
        's0 -->|"big 75 %"| s1', 'request -->|"x as y"| s2', 's1 -.->|"t"| s2', "s3 -.-> s4", "s3 --> output",
        "x0 --> request", "when INPUT #gt; #quot;5#quot;",
    ):  # fmt: skip
        assert part in shown, part


@given(
    st.lists(
        st.builds(
            spec.Step,
            name=st.sampled_from("abcde"),
            inputs=st.lists(
                st.text(max_size=9) | st.sampled_from(["a", "b.outputs.t", "c.inputs", "pipe"]), max_size=3
            ).map(tuple),
        ),
        max_size=5,
    )
)
def test_anything_can_be_drawn(steps):
    """A pipeline that is not checked yet, with cycles, repeated names and references to nothing, is drawn as it is."""
    pipeline = spec.Pipeline(steps=tuple(steps), allow_cycles=True)
    assert picture.text("pipe", pipeline).count("├─") == len(steps)
    assert len(re.findall(r"^  s\d+\[", picture.mermaid("pipe", pipeline), re.MULTILINE)) == len(steps)
