"""Seldon Core v2's kinds: what they become here."""

from pathlib import Path

import pytest
import yaml
from msgspec.structs import replace

from headrace.control import manifests
from headrace.control.resources import Candidate, Experiment, Mirror, Model, Server
from headrace.errors import InvalidResources
from headrace.graph.check import faults
from headrace.graph.spec import Batch, Dataflow, Input, Output, Pipeline, Step
from headrace.payload import Signature, TensorSpec

SAMPLES = Path(__file__).parent / "samples"


def sample(file, name):
    for document in yaml.safe_load_all((SAMPLES / f"seldon_v2_{file}.yaml").read_text()):
        if document["metadata"]["name"] == name:
            (found,) = manifests.convert(document, where=f"{file}.yaml:1", base="/work")
            return found
    raise KeyError(name)


def convert(kind, spec):
    document = {
        "apiVersion": "mlops.seldon.io/v1alpha1",
        "kind": kind,
        "metadata": {"name": "one"},
        "spec": spec,
    }
    return manifests.convert(document, where="x.yaml:1", base="/work")


def test_model():
    """A model keeps place, version, requirements, memory, replicas, server and parameters; the rest is noted."""
    found = sample("models", "iris")
    assert found.spec == Model(
        uri="gs://seldon-models/mlserver/iris",
        artifact_version="2",
        requirements=("sklearn",),
        memory_bytes=102400,
        replicas=2,
        min_replicas=1,
        max_replicas=4,
        server="mlserver",
        parameters={"threshold": "0.5"},
    )
    assert found.metadata.namespace == "seldon-mesh"
    assert found.metadata.labels == {"team": "flowers"}
    assert found.metadata.annotations == {manifests.MADE_FROM: "mlops.seldon.io/Model/iris"}
    assert (
        "spec.secretName: rclone-gs: without effect: files are read with the rights of the server itself" in found.notes
    )
    assert "spec.maxReplicas: 4: without effect: replicas do not come and go in one process" in found.notes


def test_explainer():
    """A model that is an explainer becomes one of ours that explains the same model, and says what of it is not read."""
    found = sample("models", "income-explainer")
    assert (found.spec.runtime, found.spec.load, found.spec.uri) == ("explainer", "always", "")
    assert found.spec.parameters == {"model": "income", "method": "anchor-tabular"}
    assert found.spec.requirements == ()
    assert "spec.requirements: alibi-explain: without effect: any server explains" in found.notes


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"type": "anchor_text", "pipelineRef": "p"}, {"model": "p.pipeline", "method": "anchor-text"}),
        ({"type": "KernelShap", "modelRef": "m"}, {"model": "m", "method": "kernel-shap"}),
    ],
    ids=["of a pipeline", "in another spelling"],
)
def test_explainer_of(spec, expected):
    """What is explained may be a pipeline, and a method may be spelt as alibi's class is."""
    (found,) = convert("Model", {"explainer": spec})
    assert found.spec.parameters == expected


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"type": "anchor_tabla", "modelRef": "m"}, "the nearest of ours is 'anchor-tabular'"),
        ({"type": "anchor_text"}, "expected modelRef or pipelineRef"),
    ],
    ids=["an unknown method", "nobody to explain"],
)
def test_explainer_that_is_none(spec, expected):
    """An explainer that we have no method for, or that explains nobody, is refused with what there is."""
    with pytest.raises(InvalidResources, match=expected):
        convert("Model", {"explainer": spec})


def test_explainer_of_alibis():
    """A place of what alibi saved is noted and never loaded."""
    (found,) = convert(
        "Model", {"explainer": {"type": "anchor_text", "modelRef": "m"}, "storageUri": "gs://b/explainer"}
    )
    assert found.spec.uri == ""
    assert any("gs://b/explainer" in note and "headrace trust fit" in note for note in found.notes)


def test_model_that_may_leave():
    """`minReplicas: 0` lets a model leave memory after ten idle minutes."""
    spec = sample("models", "sleepy_model").spec
    assert (spec.min_replicas, spec.idle_seconds, spec.load) == (0, 600.0, "always")


def test_no_replicas():
    """`replicas: 0` waits for the first request."""
    (found,) = convert("Model", {"storageUri": "x", "replicas": 0})
    assert (found.spec.load, found.spec.replicas) == ("onDemand", 1)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"storageUri": "x", "replicas": 1, "minReplicas": 2}, "number of replicas 1 must be >= min replicas 2"),
        ({"storageUri": "x", "replicas": 3, "maxReplicas": 2}, "number of replicas 3 must be <= max replicas 2"),
        ({"storageUri": "x", "minReplicas": 3, "maxReplicas": 2}, "max number of replicas 2 must be >= min number"),
        ({}, "spec.storageUri: expected where the model is, came nothing"),
        ({"llm": {"modelRef": "a"}, "explainer": {"type": "b"}}, "explainer and llm exclude each other"),
        ({"storageUri": "x", "replicas": -1}, "spec.replicas: expected 0 or more, came -1"),
    ],
)
def test_model_faults(spec, expected):
    """What their own checks refuse of a model is refused, in their words where they have some."""
    with pytest.raises(InvalidResources, match=expected):
        convert("Model", spec)


def test_pipeline():
    """A pipeline's steps, joins, triggers, names of tensors and batches come over letter by letter."""
    assert sample("pipelines", "join").spec == Pipeline(
        steps=(
            Step(name="tfsimple1"),
            Step(name="tfsimple2", batch=Batch(size=4, window_ms=20)),
            Step(
                name="tfsimple3",
                inputs=("tfsimple1.outputs.OUTPUT0", "tfsimple2.outputs.OUTPUT1"),
                inputs_join_type="outer",
                join_window_ms=250,
                triggers=("join.inputs.INPUT1",),
                triggers_join_type="any",
                tensor_map={"tfsimple1.outputs.OUTPUT0": "INPUT0", "tfsimple2.outputs.OUTPUT1": "INPUT1"},
            ),
        ),
        output=Output(
            steps=("tfsimple3.outputs.OUTPUT0",),
            steps_join="any",
            join_window_ms=100,
            tensor_map={"tfsimple3.outputs.OUTPUT0": "RESULT"},
        ),
        dataflow=Dataflow(),
    )


def test_pipeline_of_pipelines_with_a_cycle():
    """What other pipelines give, and cycles with their bound, come over."""
    spec = sample("pipelines", "extended").spec
    assert spec.input == Input(
        external_inputs=("join.outputs.RESULT",),
        external_triggers=("join.step.tfsimple1.outputs",),
        triggers_join_type="any",
        join_window_ms=5,
        tensor_map={"join.outputs.RESULT": "INPUT0"},
    )
    assert (spec.allow_cycles, spec.max_step_revisits) == (True, 10)


def test_pipeline_faults():
    """A join of another kind and a step without a name are refused."""
    with pytest.raises(
        InvalidResources, match=r"steps\[0\].inputsJoinType: expected one of inner, outer, any, came 'all'"
    ):
        convert("Pipeline", {"steps": [{"name": "a", "inputsJoinType": "all"}]})
    with pytest.raises(InvalidResources, match=r"spec.steps\[0\].name: expected a name, came none"):
        convert("Pipeline", {"steps": [{"inputs": ["a"]}]})


def test_durable_pipelines_are_annotated():
    """Their pipelines stay in memory unless an annotation says otherwise; then their topics can be cleaned, and not
    else, which is noted; another word in it is refused.
    """

    def made(**annotations):
        document = {
            "apiVersion": "mlops.seldon.io/v1alpha1",
            "kind": "Pipeline",
            "metadata": {"name": "p", "annotations": annotations},
            "spec": {"steps": [{"name": "a"}], "dataflow": {"cleanTopicsOnDelete": True}},
        }
        (found,) = manifests.convert(document, where="p.yaml:1", base="")
        return found

    plain, durable = made(), made(**{"headrace.io/durability": "kafka"})
    assert (plain.spec.durability, durable.spec.durability) == ("memory", "kafka")
    assert durable.spec.dataflow.clean_topics_on_delete
    assert any("spec.dataflow.cleanTopicsOnDelete" in note for note in plain.notes)
    assert not any("dataflow" in note for note in durable.notes)
    with pytest.raises(InvalidResources, match="expected memory or kafka, came 'disk'"):
        made(**{"headrace.io/durability": "disk"})


def test_experiment():
    """Candidates, default and mirror come over."""
    assert sample("rest", "experiment-sample").spec == Experiment(
        default="iris",
        candidates=(Candidate(name="iris", weight=50), Candidate(name="iris2", weight=30)),
        mirror=Mirror(name="iris3", percent=20),
    )


def test_server():
    """Capabilities come over, and the overcommit that their agent's environment says; the rest of the pods is noted."""
    found = sample("rest", "mlserver-custom")
    assert found.spec == Server(capabilities=("sklearn",), extra_capabilities=("my-env",), overcommit_percent=20)
    assert any(note.startswith("spec.podSpec.containers[1].image: ") for note in found.notes)


@pytest.mark.parametrize("name", ["mlserver", "seldon", "default"])
def test_kinds_about_their_cluster(name):
    """What configures their cluster is accepted as a server that takes nothing, and says that it has no effect."""
    found = sample("rest", name)
    assert found.metadata.name == f"{name}-{found.origin.rpartition(' ')[2].lower()}"
    assert found.spec == Server()
    assert any("this process is configured by its own settings" in note for note in found.notes)


def test_outputs_of_one_name_stand_side_by_side():
    """Their sample `pipeline-inputs` answers with two tensors named alike, which a pipeline of our own may not."""
    spec = {"steps": [{"name": "mul10"}, {"name": "add10"}], "output": {"steps": ["mul10", "add10"]}}
    (found,) = convert("Pipeline", spec)
    assert found.spec.output == Output(steps=("mul10", "add10"), repeats=True)
    model = Signature(platform="", outputs=(TensorSpec(name="OUTPUT", datatype="FP32", shape=(4,)),))
    signatures = {"mul10": model, "add10": model}
    assert faults("one", found.spec, signatures=signatures) == []
    own = replace(found.spec, output=replace(found.spec.output, repeats=False))
    assert "two tensors named 'OUTPUT'" in faults("one", own, signatures=signatures)[0]
