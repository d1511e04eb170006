"""Manifests to resources. Left out: foreign documents, which have tests of their own beside each dialect."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.control import parse
from headrace.control.parse import File
from headrace.control.resources import Batching, Experiment, Model, Rollout
from headrace.errors import InvalidResources
from headrace.graph.spec import Pipeline, Step

HEAD = "apiVersion: headrace.io/v1\n"


def read(text, base="/b"):
    return parse.read([File(name="f.yaml", text=text, base=base)])


def faults(text):
    with pytest.raises(InvalidResources) as caught:
        read(text)
    return list(caught.value.faults)


def model(spec="uri: a", name="iris"):
    lines = "\n".join("  " + line for line in spec.splitlines())
    return f"{HEAD}kind: Model\nmetadata:\n  name: {name}\nspec:\n{lines}\n"


def test_documents_become_typed_specs():
    """Fields in camelCase, nested structs and lists arrive in the types of `resources`, in the files' order."""
    text = (
        model("uri: a\nbatching: {maxBatchSize: 7}\npredictTimeoutSeconds: 3")
        + "---\n"
        + HEAD
        + "kind: Pipeline\nmetadata: {name: p}\nspec: {steps: [{name: iris, inputsJoinType: outer}]}\n---\n"
        + HEAD
        + "kind: Experiment\nmetadata: {name: e}\nspec: {candidates: [{name: iris, weight: 3}]}\n"
    )
    iris, pipeline, experiment = read(text)
    assert iris.spec == Model(uri="a", batching=Batching(max_batch_size=7), predict_timeout_seconds=3.0)
    assert iris.base == "/b"
    assert pipeline.spec == Pipeline(steps=(Step(name="iris", inputs_join_type="outer"),))
    assert isinstance(experiment.spec, Experiment)
    assert experiment.spec.candidates[0].weight == 3.0


def test_documents_for_the_cluster_alone_are_noted():
    """Secrets and the like, which samples bring along, have no effect, and the next resource says so; none goes alone."""
    secret = "apiVersion: v1\nkind: Secret\nmetadata: {name: s3}\ndata: {a: aGVsbG8=}\n---\n"
    gateway = "apiVersion: networking.istio.io/v1beta1\nkind: Gateway\n---\n"
    (found,) = read(secret + gateway + model())
    assert found.notes == (
        "f.yaml:1: Secret 's3': without effect: there is no cluster here",
        "f.yaml:6: Gateway: without effect: there is no cluster here",
    )
    assert faults(secret) == [
        "f.yaml:1: Secret 's3': without effect: there is no cluster here. There is nothing else to apply"
    ]


def test_json_lists_and_empty_documents():
    """JSON is read as YAML is, `kind: List` is unfolded, and empty documents are passed over."""
    items = [
        {"apiVersion": "headrace.io/v1", "kind": "Model", "metadata": {"name": name}, "spec": {"uri": "\U0001f600"}}
        for name in "ab"
    ]
    found = read(json.dumps({"apiVersion": "v1", "kind": "List", "items": items}))
    assert [each.metadata.name for each in found] == ["a", "b"]
    assert found[0].spec.uri == "\U0001f600"  # two surrogates in JSON, which YAML does not take
    assert [each.metadata.name for each in read("---\n# nothing\n---\n" + model() + "---\n")] == ["iris"]


def test_all_faults_at_once_with_file_line_field_and_nearest_name():
    """Every fault of every document is told, each with its line, its field, what was expected and what was found."""
    text = (
        model("urii: a\nreplicas: none\nplacement: inlin\nbatching: 3\nmemoryBytes: much")
        + "---\n"
        + HEAD
        + "kind: Rollout\nmetadata: {name: r}\nspec: {stable: a, steps: [{weight: 101}]}\n"
    )
    assert faults(text) == [
        "f.yaml:6: Model 'iris': spec.urii: unknown field 'urii'; did you mean 'uri'?",
        "f.yaml:7: Model 'iris': spec.replicas: expected a whole number, found text 'none'",
        (
            "f.yaml:8: Model 'iris': spec.placement: expected one of auto, inline, process, thread, found text 'inlin'; "
            "did you mean 'inline'?"
        ),
        "f.yaml:9: Model 'iris': spec.batching: expected fields by name, found the number '3'",
        "f.yaml:10: Model 'iris': spec.memoryBytes: expected bytes, such as 200Mi or a whole number, found text 'much'",
        "f.yaml:15: Rollout 'r': spec.steps[0].weight: expected 0 to 100, found the number '101'",
        "f.yaml:15: Rollout 'r': spec: 'candidate' is missing",
    ]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("- 1", "f.yaml:1: expected a resource, with 'apiVersion', 'kind', 'metadata' and 'spec', found the number '1'"),
        ("kind: Model", "f.yaml:1: 'apiVersion' is missing; expected for example apiVersion: headrace.io/v1, kind: Model"),
        (HEAD + "kind: Modell", "f.yaml:1: unknown kind 'Modell'; did you mean 'Model'?"),
        (HEAD + "kind: Model\nspec: {uri: a}", "f.yaml:1: Model: 'metadata' with a 'name' is missing"),
        (HEAD + "kind: Model\nmetadata: {name: a}", "f.yaml:1: Model 'a': 'spec' is missing"),
        (model("uri: 3"), "f.yaml:6: Model 'iris': spec.uri: expected text (in quotes, if it looks like something else), found the number '3'"),
        (model("uri: a\nuri: b"), "f.yaml:7: Model 'iris': spec.uri: given twice"),
        (model("uri: a\nparameters: {a: !!python/object:os.system {}}"), "f.yaml:7: Model 'iris': spec.parameters.a: "),
        (model() + "---\n" + model("uri: b"), "f.yaml:8: Model 'iris': declared twice; the other is at f.yaml:1"),
        ("a: }", "f.yaml:1: not valid YAML: "),
        ("[" * 100, "f.yaml:1: not valid YAML: nested deeper than 64 levels"),
        (model(name="a.model"), "f.yaml:4: Model 'a.model': metadata.name: a name cannot end with '.model'"),
        (model(name="a/b"), "f.yaml:4: Model 'a/b': metadata.name: expected a name of up to 128 letters"),
        (HEAD + "kind: Pipeline\nmetadata: {name: a.b}\nspec: {}", "f.yaml:3: Pipeline 'a.b': metadata.name: pipeline a.b does not have a valid name"),
        (model("uri: a\nreplicas: .inf"), "f.yaml:7: Model 'iris': spec.replicas: expected a whole number, found the number '.inf'"),
        (model("uri: a\nidleSeconds: .nan"), "f.yaml:7: Model 'iris': spec.idleSeconds: expected a number, found the number '.nan'"),
        (model("uri: a\nloadPolicy: trusted"), "f.yaml:7: Model 'iris': spec.loadPolicy: expected one of auto, restricted"),
        ("apiVersion: headrace.io/v2\nkind: Model\n", "f.yaml:1: expected apiVersion: headrace.io/v1, found 'headrace.io/v2'"),
        ("apiVersion: nobody.io/v1\nkind: Thing\n", "f.yaml:1: nobody here knows apiVersion 'nobody.io/v1', kind 'Thing'; known are headrace.io/v1 (Model,"),
    ],
    ids=lambda case: None if "\n" in case else case[:40],
)  # fmt: skip
def test_each_fault_is_named(text, fault):
    """A document that is wrong in one way gives one fault, which says where and what."""
    (found,) = faults(text)
    assert found.startswith(fault)


@pytest.mark.parametrize(
    ("written", "count"),
    [("200Mi", 200 << 20), ("1G", 10**9), ("1.5Ki", 1536), ("7", 7), ("64MiB", 64 << 20), ("'12'", 12), ("2k", 2000)],
)
def test_bytes_may_be_quantities(written, count):
    """A field of bytes takes what Kubernetes writes for memory."""
    assert read(model(f"uri: a\nmemoryBytes: {written}"))[0].spec.memory_bytes == count


def test_words_stand_as_they_are_written():
    """`off` is not false, and version 1.10 is not 1.1."""
    spec = read(model("uri: a\noptimize: off\nartifactVersion: 1.10\nenvironment: off"))[0].spec
    assert (spec.optimize, spec.artifact_version, spec.environment) == ("off", "1.10", "off")


@pytest.mark.parametrize(
    ("written", "topics"), [("outputs", "outputs"), ("[a.inputs]", ("a.inputs",)), ("off", None), ("{a: b}", None)]
)
def test_a_field_that_is_a_word_or_a_list(written, topics):
    """Which step topics a pipeline writes is one of three words, or a list; anything else is refused with the words."""
    text = f"""
apiVersion: headrace.io/v1
kind: Pipeline
metadata: {{name: p}}
spec: {{durability: kafka, topics: {written}, steps: [{{name: a}}]}}
"""
    if topics is None:
        assert "expected" in faults(text)[0]
        assert "outputs" in faults(text)[0]
    else:
        assert read(text)[0].spec.topics == topics


def test_anchors_and_merges():
    """Aliases and `<<` are followed; what a mapping says itself holds over what it merges."""
    text = model("uri: a\nparameters:\n  x: &x {k: 1, l: 2}\n  y: {<<: *x, k: 3}\n  z: *x")
    assert read(text)[0].spec.parameters == {"x": {"k": 1, "l": 2}, "y": {"k": 3, "l": 2}, "z": {"k": 1, "l": 2}}


def test_a_few_lines_cannot_stand_for_billions_of_values():
    """Aliases of aliases are refused once they stand for too much, and so is a value that contains itself."""
    lines = "\n".join(f"  a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12))
    (fault,) = faults(model(f"uri: a\nparameters:\n  a0: &a0 [1]\n{lines}"))
    assert "values in all" in fault
    (fault,) = faults(model("uri: a\nparameters:\n  a: &a [*a]"))
    assert "nested deeper" in fault or "undefined alias" in fault


def test_what_get_prints_can_be_applied_again():
    """A rendered resource, with all that the server wrote into it, reads as the same declaration."""
    (before,) = read(model("uri: a\nminReplicas: 0\nparameters: {k: [1, 2.5, null, x]}"))
    document = parse.render(before)
    document["metadata"] |= {"uid": "u", "generation": 3, "resourceVersion": "7", "creationTimestamp": "2026-01-01"}
    document["status"] = {"whatever": 1}
    (after,) = read(json.dumps(document), base="/elsewhere")
    assert after == before


def test_null_is_as_if_the_field_were_not_there():
    """`field:` with nothing behind it leaves the default, as in Kubernetes."""
    assert read(model("uri: a\nreplicas:\nbatching: null"))[0].spec == Model(uri="a")


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(text):
    """Whatever is sent, the answer is resources or faults, never another exception."""
    try:
        found, told = read(text), []
    except InvalidResources as error:
        found, told = [], error.faults
    assert isinstance(found, list)
    assert all(fault.startswith("f.yaml:") for fault in told)


@given(
    st.dictionaries(
        st.sampled_from(["uri", "replicas", "batching", "inputs", "parameters", "canaryTrafficPercent", "warmUp", "x"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
            max_leaves=5,
        ),
    )
)
def test_any_spec_is_read_or_refused(spec):
    """Whatever a spec holds, it becomes a Model that renders to a document that reads the same, or faults."""
    document = {"apiVersion": "headrace.io/v1", "kind": "Model", "metadata": {"name": "m"}, "spec": spec}
    try:
        (found,) = read(json.dumps(document))
    except InvalidResources:
        return
    assert read(json.dumps(parse.render(found))) == [found]


def test_rollout_has_its_defaults():
    """A rollout that says only from what to what has the default steps and judge."""
    (found,) = read(HEAD + "kind: Rollout\nmetadata: {name: r}\nspec: {stable: a, candidate: b}")
    assert found.spec == Rollout(stable="a", candidate="b")
