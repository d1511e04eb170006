"""check: what is refused, in which words. Each case is a pipeline, and a part of the sentence that must be found; the last
cases say what is not refused. Signatures are given where tensors are followed.
"""

import msgspec
import pytest
import yaml

from headrace.graph.check import faults, feeding_faults
from headrace.graph.spec import Pipeline, Step, topic_references
from headrace.payload import Signature, TensorSpec


def found(text, **options):
    return faults("P", msgspec.convert(yaml.safe_load(text), Pipeline), **options)


SELDON = {
    "no steps": ("{}", "pipeline P has no steps defined"),
    "repeated": ("{steps: [{name: a}, {name: a}], output: {steps: [a]}}", "pipeline P has repeated step a"),
    "named like the pipeline": (
        "steps: [{name: P}]",
        "pipeline P must not have a step name with the same name as pipeline name",
    ),
    "empty input": ("steps: [{name: a, inputs: ['']}]", "pipeline P step a has an empty input"),
    "empty trigger": ("steps: [{name: a, triggers: ['']}]", "pipeline P step a has an empty trigger"),
    "unknown step": (
        "{steps: [{name: model1}, {name: b, inputs: [modle1.outputs]}], output: {steps: [b]}}",
        "pipeline P step b has input modle1.outputs for step that does not exist; did you mean 'model1'?",
    ),
    "grammar": (
        "steps: [{name: a, inputs: [a.output.x]}]",
        "pipeline step input invalid pipeline P step a input step a.output.x. after 'a.' expected inputs, outputs or branches",
    ),
    "both": (
        "steps: [{name: a, inputs: [P.inputs.x], triggers: [P.inputs.x]}]",
        "pipeline P : inputs and triggers must differ, but found P.inputs.x in both",
    ),
    "cycle": (
        "{steps: [{name: a, inputs: [P, b], inputsJoinType: any}, {name: b, inputs: [a]}], output: {steps: [b]}}",
        "pipeline P has a cycle: a -> b -> a; allowCycles is false",
    ),
    "no output": ("steps: [{name: a}, {name: b}]", "multi step pipeline P must specify output"),
    "empty output": ("{steps: [{name: a}], output: {}}", "pipeline P must have a non empty output"),
    "unknown output": ("{steps: [{name: a}], output: {steps: [b]}}", "pipeline P output step b not found"),
    "output grammar": ("{steps: [{name: a}], output: {steps: [a.x.y]}}", "pipeline P output specifier a.x.y invalid"),
    "external": (
        "{input: {externalInputs: [other]}, steps: [{name: a}]}",
        "pipeline P input other is invalid. expected PIPELINE.inputs",
    ),
}
OURS = {
    "cycle without bound": (
        "{allowCycles: true, steps: [{name: a, inputs: [P, a], inputsJoinType: any}]}",
        "pipeline P has a cycle without a bound: a -> a; expected maxStepRevisits of 1 or more, found 0",
    ),
    "no source": (
        "{allowCycles: true, maxStepRevisits: 2, steps: [{name: a, inputs: [b]}, {name: b, inputs: [a]}], output: {steps: [b]}}",
        "pipeline P step a can never run: what it takes (b) comes from no source",
    ),
    "inner cycle": (
        "{allowCycles: true, maxStepRevisits: 2, steps: [{name: a, inputs: [P, a]}]}",
        "(a cycle is entered by inputsJoinType any)",
    ),
    "two kinds": (
        "steps: [{name: a, model: m, pipeline: p}]",
        "pipeline P step a says model and pipeline; a step is one of them",
    ),
    "url and python": ("steps: [{name: a, url: 'http://h', python: 'm:C'}]", "says url and python"),
    "url": ("steps: [{name: a, url: 'h:80'}]", "has url 'h:80'; expected http://HOST:PORT or grpc://HOST:PORT"),
    "itself": ("steps: [{name: a, pipeline: P}]", "asks the pipeline that it is a step of"),
    "unknown branch": (
        "{steps: [{name: r, route: {branches: [{name: left, weight: 1}]}}, {name: a, inputs: [r.branches.lefd]}], output: {steps: [a]}}",
        "branch 'lefd' that does not exist; step r has left; did you mean 'left'?",
    ),
    "no router": (
        "{steps: [{name: r}, {name: a, inputs: [r.branches.x]}], output: {steps: [a]}}",
        "branch 'x' of step r, which is no router",
    ),
    "negative weight": (
        "steps: [{name: r, route: {branches: [{name: a, weight: -1}, {name: b, weight: 2}]}}]",
        "branch 'a' has weight -1; expected 0 or more",
    ),
    "zero weights": ("steps: [{name: r, route: {branches: [{name: a}, {name: b}]}}]", "branches that all weigh 0"),
    "combine weights": (
        "{steps: [{name: a}, {name: c, inputs: [a], combine: {type: weightedMean, weights: {b: 1}}}], output: {steps: [c]}}",
        "has a weight for 'b', which is none of its inputs",
    ),
    "condition": ("steps: [{name: a, when: 'x >'}]", "pipeline P step a has a condition that cannot be understood"),
    "map of no tensor": ("steps: [{name: a, tensorMap: {P.inputs: x}}]", "tensorMap key 'P.inputs' names no tensor"),
    "map of nothing taken": (
        "{steps: [{name: a}, {name: b, inputs: [a], tensorMap: {P.inputs.x: y}}], output: {steps: [b]}}",
        "tensorMap key 'P.inputs.x' names nothing: it takes nothing from there",
    ),
    "map of another tensor": (
        "{steps: [{name: a}, {name: b, inputs: [a.outputs.xx], tensorMap: {a.outputs.xy: y}}], output: {steps: [b]}}",
        "names nothing: of that it takes only xx; did you mean 'xx'?",
    ),
    "map of two to one": (
        "steps: [{name: a, tensorMap: {P.inputs.x: z, P.inputs.y: z}}]",
        "tensorMap gives both 'P.inputs.x' and 'P.inputs.y' the name 'z'",
    ),
    "two outputs of one name": (
        "{steps: [{name: a}, {name: b}], output: {steps: [a.outputs.x, b.outputs.x]}}",
        "pipeline P output has two tensors named 'x', from a.outputs.x and b.outputs.x",
    ),
    "two inputs of one name": (
        "{steps: [{name: a}, {name: b}, {name: c, inputs: [a.outputs.x, b.outputs.y], tensorMap: {b.outputs.y: x}}], output: {steps: [c]}}",
        "pipeline P step c has two tensors named 'x'",
    ),
    "mirror": (
        "{steps: [{name: a, mirror: true}], output: {steps: [a]}}",
        "step a is a mirror, for which nobody waits, but the output depends on what it answers",
    ),
    "negative time": ("steps: [{name: a, timeoutMs: -1}]", "pipeline P step a has timeoutMs -1; expected 0 or more"),
    "fed by itself": (
        "{input: {externalInputs: [P.outputs]}, steps: [{name: a}]}",
        "A pipeline cannot be fed by itself",
    ),
}


@pytest.mark.parametrize(("text", "sentence"), (SELDON | OURS).values(), ids=(SELDON | OURS).keys())
def test_what_cannot_be_is_refused(text, sentence):
    """The fault is among the sentences, with the words that name step, expected and found."""
    assert any(sentence in each for each in found(text)), found(text)


def test_a_bad_name_is_refused():
    """Dots separate references, so no name has one; underscores are fine."""
    pipeline = msgspec.convert({"steps": [{"name": "a_b"}]}, Pipeline)
    assert (
        "does not have a valid name - it must be alphanmumeric and cannot contain dots (.)"
        in faults("p.q", pipeline)[0]
    )
    assert faults("p_q", pipeline) == []


def test_all_faults_come_at_once():
    """A pipeline with several mistakes is told of each."""
    text = """
    steps: [{name: a, inputs: [x]}, {name: b, inputs: [y.outputs.t], when: "(", triggers: ['']}]
    output: {steps: [z]}
    """
    assert len(found(text)) == 5


def test_unknown_models_and_pipelines_are_refused():
    """`known` is asked for what each step asks, but not for models elsewhere, code, combiners and routers."""
    text = """
    steps: [{name: a}, {name: b, model: c}, {name: d, pipeline: e}, {name: f, url: "http://h"}, {name: g, python: "m:C"}]
    output: {steps: [a]}
    """
    asked = []

    def known(kind, name):
        asked.append((kind, name))
        return name == "a"

    assert found(text, known=known) == [
        "pipeline P step b asks model 'c', which does not exist",
        "pipeline P step d asks pipeline 'e', which does not exist",
    ]
    assert asked == [("model", "a"), ("model", "c"), ("pipeline", "e")]


def signature(inputs, outputs, **more):
    def specs(text):
        each = [item.split(":") for item in text.split()]
        return tuple(
            TensorSpec(name=name, datatype=datatype, shape=tuple(map(int, shape.split(","))))
            for name, datatype, shape in each
        )

    return Signature(platform="x", inputs=specs(inputs), outputs=specs(outputs), **more)


CHAIN = "{steps: [{name: a}, {name: b, inputs: [a.outputsTENSOR], tensorMap: {MAP}}], output: {steps: [b]}}"
TAKES = signature("x:FP32:-1,4", "y:FP32:-1")


@pytest.mark.parametrize(
    ("gives", "tensor", "renames", "expected"),
    [
        ("x:FP32:-1,4", "", "", None),
        ("x:FP32:2,-1", "", "", None),
        ("o:FP32:-1,4", "", "a.outputs.o: x", None),
        ("x:FP32:-1,3", "", "", "step b tensor 'x': expected FP32 [-1,4], found FP32 [-1,3]"),
        ("x:FP32:-1", "", "", "expected FP32 [-1,4], found FP32 [-1]"),
        ("x:INT64:-1,4", "", "", "expected FP32 [-1,4], found INT64 [-1,4]"),
        ("xx:FP32:-1,4", "", "", None),  # one tensor for a model of one input is that one
        ("xx:FP32:-1,3", "", "", "step b tensor 'xx': expected FP32 [-1,4], found FP32 [-1,3]"),
        ("xx:FP32:-1,4 yy:FP32:-1,4", "", "", "gets tensor 'xx', which it does not take; expected x"),
        ("xx:FP32:-1,4 yy:FP32:-1,4", "", "", "expects tensor 'x' (FP32 [-1,4]), but gets only xx, yy"),
        ("label:FP32:-1,4", ".labels", "", "takes tensor 'labels' of a, which gives label; did you mean 'label'?"),
        ("o:FP32:-1,4", "", "a.outputs.p: x", "takes tensor 'p' of a, which gives o"),
    ],
)
def test_tensors_are_followed_from_step_to_step(gives, tensor, renames, expected):
    """Names, datatypes and shapes are compared along references and renames; -1 is any length."""
    text = CHAIN.replace("TENSOR", tensor).replace("MAP", renames)
    sentences = found(text, signatures={"a": signature("i:FP32:-1", gives), "b": TAKES})
    assert any(expected in each for each in sentences) if expected else sentences == []


@pytest.mark.parametrize(
    ("gives", "expected"),
    [
        ("any:INT64:-1,4", None),
        ("any:BYTES:-1,4", "expected FP32 [-1,4], found BYTES [-1,4]"),
        ("any:INT64:-1,5", "expected FP32 [-1,4], found INT64 [-1,5]"),
        ("one:INT64:-1 two:FP32:-1", None),
    ],
)
def test_a_model_that_is_not_strict_takes_any_name_and_number(gives, expected):
    """Its only input has any name and numeric datatype, and columns may come one by one; text and widths still count."""
    lax = signature("x:FP32:-1,4", "y:FP32:-1", strict=False)
    text = CHAIN.replace("TENSOR", "").replace("MAP", "")
    sentences = found(text, signatures={"a": signature("i:FP32:-1", gives), "b": lax})
    assert any(expected in each for each in sentences) if expected else sentences == []


def test_what_is_asked_of_a_step_is_followed_through_routers_and_inputs():
    """What reaches a branch is what the router got; what a step was asked is what was given to it."""
    text = """
    steps:
    - {name: a}
    - {name: r, inputs: [a], route: {branches: [{name: left, weight: 1}]}}
    - {name: b, inputs: [r.branches.left]}
    - {name: c, inputs: [r.inputs]}
    output: {steps: [b, c], stepsJoin: any}
    """
    sentences = found(text, signatures={"a": signature("i:FP32:-1", "x:FP32:-1,3"), "b": TAKES, "c": TAKES})
    assert [sentence.split(" tensor")[0] for sentence in sentences] == ["pipeline P step b", "pipeline P step c"]


def test_an_output_that_is_given_only_when_asked_for_exists():
    """A tensor beyond a model's default outputs may be named."""
    gives = signature("i:FP32:-1", "y:FP32:-1 proba:FP32:-1,3", default_outputs=("y",))
    text = "{steps: [{name: a}], output: {steps: [a.outputs.proba]}}"
    assert found(text, signatures={"a": gives}) == []


def test_models_whose_outputs_are_unknown_are_not_guessed_at():
    """A model that declares no outputs may give anything."""
    gives = Signature(platform="python")
    assert (
        found(CHAIN.replace("TENSOR", ".z").replace("MAP", "a.outputs.z: x"), signatures={"a": gives, "b": TAKES}) == []
    )


def many(text):
    return {name: msgspec.convert(each, Pipeline) for name, each in yaml.safe_load(text).items()}


FED = """
one: {steps: [{name: s}]}
two: {input: {externalInputs: [one.step.s.outputs], externalTriggers: [one.inputs]}, steps: [{name: s}]}
three: {steps: [{name: s, pipeline: two}]}
"""


def test_pipelines_may_feed_and_ask_each_other():
    """A pipeline fed by one and asked by another is fine."""
    assert feeding_faults(many(FED)) == []


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        (
            "one.step.s.",
            "none.step.s.",
            "input none.step.s.outputs is of pipeline 'none', which does not exist; did you mean 'one'?",
        ),
        ("one.step.s.", "one.step.ss.", "is of step 'ss', which does not exist; did you mean 's'?"),
        (
            "[one.inputs]}, steps: [{name: s}",
            "[one.inputs]}, steps: [{name: s, pipeline: one}",
            "without a bound: one -> two -> one",
        ),
        ("one: {", "one: {input: {externalInputs: [two.outputs]}, ", "in a cycle without a bound: one -> two -> one"),
    ],
    ids=["unknown pipeline", "unknown step", "asks what feeds it", "feed each other"],
)
def test_what_cannot_be_between_pipelines_is_refused(old, new, sentence):
    """References to others must lead somewhere, and no message may go round for ever."""
    found_ = feeding_faults(many(FED.replace(old, new)))
    assert any(sentence in text for _, text in found_), found_


class TestTopics:
    def test_only_durable_pipelines_have_topics(self):
        """A pipeline in memory that names topics or partitions is told what is missing."""
        found = faults("p", Pipeline(steps=(Step(name="a"),), topics="all", partitions=3))
        assert found == [
            "pipeline p has topics, but no topics; expected durability: kafka beside it",
            "pipeline p has partitions, but no topics; expected durability: kafka beside it",
        ]

    def test_topics_are_of_steps_that_there_are(self):
        """A topic of a step that does not exist is refused with the nearest that does."""
        steps = (Step(name="alpha"),)
        pipeline = Pipeline(steps=steps, durability="kafka", topics=("alpha.inputs", "alpa.outputs"))
        (found,) = faults("p", pipeline)
        assert "topics has 'alpa.outputs'" in found
        assert "did you mean 'alpha.outputs'?" in found

    def test_words_stand_for_lists(self):
        """`outputs` and `all` mean the sides of every step, `none` means none, and a list means itself."""
        steps = (Step(name="a"), Step(name="b"))

        def listed(topics):
            return topic_references(Pipeline(steps=steps, durability="kafka", topics=topics))

        assert listed("none") == ()
        assert listed("outputs") == ("a.outputs", "b.outputs")
        assert listed("all") == ("a.inputs", "a.outputs", "b.inputs", "b.outputs")
        assert listed(("b.inputs",)) == ("b.inputs",)
