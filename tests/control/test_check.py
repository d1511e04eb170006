"""Resources against each other and against what is there."""

import pytest

from headrace.control import check, parse
from headrace.control.parse import File
from headrace.payload import Signature, TensorSpec

HEAD = "apiVersion: headrace.io/v1\n"


def text(kind, name, spec="{}"):
    return f"{HEAD}kind: {kind}\nmetadata: {{name: {name}}}\nspec: {spec}\n---\n"


def models(*names):
    return "".join(text("Model", name, "{uri: 'mlflow:/x'}") for name in names)


def read(documents):
    return parse.documents([File(name="f.yaml", text=documents, base="/b")])


def stored(documents):
    return {each.resource.key: each.resource for each in read(documents)}


def faults(documents, there="", **more):
    return check.faults(read(documents), stored(there), **more)


def test_what_fits_together_has_no_fault():
    """Models, pipelines, experiments, rollouts and servers that name each other in any order are right."""
    documents = (
        text("Rollout", "r", "{stable: c, candidate: b}")
        + text("Experiment", "e", "{default: a, candidates: [{name: a}, {name: b}], mirror: {name: c}}")
        + text("Pipeline", "p", "{steps: [{name: a}, {name: q, pipeline: q, inputs: [a]}], output: {steps: [q]}}")
        + text("Pipeline", "q", "{steps: [{name: taken}]}")
        + text("Server", "s", "{extraCapabilities: [custom]}")
        + text("Model", "d", "{uri: x, server: s, requirements: [custom, sklearn]}")
        + models("a", "b")
    )
    assert faults(documents, models("c"), taken=["taken"], capabilities=["sklearn"]) == []


@pytest.mark.parametrize(
    ("documents", "fault"),
    [
        (
            models("scale") + text("Pipeline", "p", "{steps: [{name: scalee}]}"),
            "pipeline p step scalee asks model 'scalee', which does not exist; did you mean 'scale'?",
        ),
        (text("Experiment", "e"), "Experiment 'e': spec.candidates: experiment e has no candidates or mirror"),
        (
            text("Experiment", "e", "{default: x, candidates: [{name: a}]}"),
            "spec.default: default model/pipeline x not found in experiment e candidates",
        ),
        (
            text("Experiment", "e", "{candidates: [{name: a}], mirror: {name: a}}"),
            "each candidate and mirror must be unique but found resource a duplicated in experiment e",
        ),
        (
            text("Experiment", "f", "{default: a, candidates: [{name: a}]}"),
            "Resource a already in experiment there as a baseline. A model or pipeline can only appear in one experiment",
        ),
        (text("Experiment", "e", "{candidates: [{name: aa}]}"), "spec.candidates[0].name: no model 'aa'; did you mean 'a'?"),
        (text("Experiment", "e", "{candidates: [{name: a, weight: 0}]}"), "at least one candidate with a weight above 0"),
        (text("Experiment", "e", "{candidates: [{name: a@7}]}"), "model 'a' has no revision '7'; its revisions are 1, 2"),
        (text("Experiment", "e", "{resourceType: pipeline, candidates: [{name: a}]}"), "no pipeline 'a'"),
        (text("Rollout", "there", "{stable: b, candidate: c}"), "Experiment 'there' has this name"),
        (text("Rollout", "r", "{stable: b, candidate: b}"), "expected another model than stable, found 'b' twice"),
        (text("Rollout", "r", "{stable: a, candidate: b}"), "Experiment 'there' answers for 'a' already"),
        (text("Rollout", "r", "{stable: b, candidate: zz}"), "spec.candidate: no model 'zz'"),
        (
            text("Rollout", "r", "{stable: b, candidate: c, steps: [{weight: 50}, {weight: 5}]}"),
            "expected weights that rise, found 50, 5",
        ),
        (
            text("Rollout", "r", "{stable: b, candidate: c, judge: {metrics: [{name: m}]}}"),
            "spec.judge.metrics[0]: expected 'atMost' or 'atLeast', found neither",
        ),
        (text("Model", "taken", "{uri: x}"), "the server was started with a model 'taken' of its own"),
        (text("Model", "m"), "expected 'uri' or 'reference', found neither"),
        (text("Model", "m", "{runtime: explainer}"), "expected the name of the model that it explains, found none"),
        (text("Model", "m", "{uri: gone/there}"), "spec.uri: expected a file or folder, found none at /b/gone/there"),
        (text("Model", "m", "{reference: 'gone.py:X'}"), "spec.reference: expected a Python file, found none at /b/gone.py"),
        (text("Model", "m", "{uri: x, server: ss}"), "spec.server: no Server 'ss'; did you mean 's'?"),
        (text("Model", "m", "{uri: x, server: s, requirements: [torch]}"), "Server 's' is not capable of torch; it is capable of onnx"),
        (text("Model", "m", "{uri: x, requirements: [torch]}"), "this server is not capable of torch"),
        (text("Model", "a", "{uri: x, canaryTrafficPercent: 5}"), "Experiment 'there' answers for 'a' already"),
        (text("Server", "t", "{url: 'ftp://x'}"), "expected http://HOST:PORT or grpc://HOST:PORT, found 'ftp://x'"),
        (text("Server", "t", "{memoryBytes: 1}"), "Server 's' limits the memory of this process already"),
        (text("Pipeline", "p", "{steps: [{name: zz}]}"), "zz"),
        (text("Pipeline", "p", "{steps: [{name: a, version: '9'}]}"), "model 'a' has no revision '9'"),
        (text("Pipeline", "p"), "pipeline p has no steps defined"),
    ],
    ids=lambda case: case.split(":", 2)[-1][-40:].strip(),
)  # fmt: skip
def test_each_fault_is_found(documents, fault):
    """What cannot be is found, with its file, line, resource and field."""
    there = (
        models("a", "b", "c")
        + text("Experiment", "there", "{default: a, candidates: [{name: a}]}")
        + text("Server", "s", "{capabilities: [onnx], memoryBytes: 5}")
    )
    found = faults(
        documents,
        there,
        taken=["taken"],
        capabilities=["sklearn"],
        exists=lambda path: "gone" not in path,
        revisions={"a": [1, 2]},
    )
    assert len(found) == 1
    assert fault in found[0]
    assert found[0].startswith("f.yaml:")


def test_code_that_is_not_there_is_found():
    """A step's Python file that is not beside the manifest is a fault of that field, whatever the step does with it."""
    steps = (
        "{name: x, python: 'a.py:A'}",
        "{name: y, inputs: [x], route: {type: custom, reference: 'b.py:B', branches: [{name: z}]}}",
        "{name: z, inputs: [x, y.branches.z], combine: {type: custom, reference: 'c.py:c'}}",
        "{name: w, python: 'there.py:A'}",
        "{name: v, python: 'module:A'}",
    )
    document = text("Pipeline", "p", f"{{steps: [{', '.join(steps)}], output: {{steps: [z]}}}}")
    found = faults(document, exists=lambda path: path == "/b/there.py")
    assert [each.partition("spec.steps")[2] for each in found] == [
        "[0].python: expected a Python file, found none at /b/a.py",
        "[1].route.reference: expected a Python file, found none at /b/b.py",
        "[2].combine.reference: expected a Python file, found none at /b/c.py",
    ]


def test_pipelines_cannot_ask_each_other_in_a_circle():
    """A pipeline that asks itself by way of another is a fault, with the way."""
    there = text("Pipeline", "q", "{steps: [{name: x, pipeline: p}]}")
    (fault,) = faults(text("Pipeline", "p", "{steps: [{name: x, pipeline: q}]}"), there)
    assert "pipelines ask or feed each other in a cycle without a bound: p -> q -> p" in fault


def test_all_faults_are_found_at_once():
    """Faults of several resources come together."""
    documents = text("Model", "m") + text("Experiment", "e") + text("Pipeline", "p")
    assert len(faults(documents)) == 3


def test_a_fault_has_the_line_of_its_step():
    """A fault of a pipeline's step stands at the line of that step."""
    documents = (
        HEAD + "kind: Pipeline\nmetadata: {name: p}\nspec:\n  steps:\n  - name: a\n  - name: b\n    inputs: [zz]\n"
        "  output:\n    steps: [b]\n"
    )
    (fault,) = faults(documents, models("a", "b"))
    assert fault.startswith("f.yaml:7: Pipeline 'p': spec.steps[1]: ")


def signature(datatype, *shape):
    (side,) = ((TensorSpec(name="x", datatype=datatype, shape=shape),),)
    return Signature(platform="", inputs=side, outputs=side)


CHAIN = text("Pipeline", "p", "{steps: [{name: a}, {name: b, inputs: [a]}], output: {steps: [b]}}")


def test_tensors_that_cannot_flow_are_found():
    """A datatype that the next model does not take is a fault, by what is served and by what is declared."""
    served = {"a": signature("BYTES", -1), "b": signature("FP32", -1, 4)}
    assert faults(CHAIN, taken=["a", "b"], signatures=served)
    assert faults(CHAIN, taken=["a", "b"], signatures=served | {"a": signature("FP32", -1, 4)}) == []
    sides = "[{name: x, datatype: %s, shape: [-1, 4]}]"
    declared = "".join(
        text("Model", name, f"{{uri: 'mlflow:/x', inputs: {sides % kind}, outputs: {sides % kind}}}")
        for name, kind in (("a", "BYTES"), ("b", "FP32"))
    )
    assert faults(CHAIN + declared)


def test_what_is_served_says_nothing_of_a_model_that_changes():
    """A model that is changed in the same apply is not judged by what is served of it now."""
    served = {"a": signature("BYTES", -1), "b": signature("FP32", -1, 4)}
    there = models("a", "b")
    assert faults(CHAIN + text("Model", "a", "{uri: 'mlflow:/y'}"), there, signatures=served) == []


def test_what_others_need_is_named():
    """Dependants are pipelines, experiments, rollouts and models on a server; those that go too are none."""
    there = stored(
        models("a", "b")
        + text("Pipeline", "p", "{steps: [{name: x, model: a}]}")
        + text("Experiment", "e", "{candidates: [{name: a@1}, {name: b}]}")
        + text("Rollout", "r", "{stable: b, candidate: a}")
        + text("Model", "m", "{uri: x, server: s}")
        + text("Server", "s")
    )
    needing = check.dependants([("Model", "a")], there.values())
    assert [each.describe() for each, _ in needing] == ["Pipeline 'p'", "Experiment 'e'", "Rollout 'r'"]
    assert [each.describe() for each, _ in check.dependants([("Server", "s")], there.values())] == ["Model 'm'"]
    together = [("Model", "a"), ("Pipeline", "p"), ("Experiment", "e"), ("Rollout", "r")]
    assert check.dependants(together, there.values()) == []
