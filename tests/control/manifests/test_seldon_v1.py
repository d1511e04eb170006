"""SeldonDeployment: graphs as pipelines, predictors that share traffic as experiments."""

import copy
from pathlib import Path

import pytest
import yaml

from headrace.control import manifests
from headrace.control.resources import Candidate, Experiment, Mirror, Model
from headrace.errors import InvalidResources
from headrace.graph.check import faults
from headrace.graph.spec import Branch, Combine, Output, Pipeline, Route, Step

SAMPLES = Path(__file__).parent / "samples"


def document(name):
    return yaml.safe_load((SAMPLES / f"seldon_v1_{name}.yaml").read_text())


def convert(content):
    found = manifests.convert(content, where="x.yaml:1", base="/work")
    return {each.key: each for each in found}, found


def deployment(graph, *, containers=(), annotations=None):
    return {
        "apiVersion": "machinelearning.seldon.io/v1",
        "kind": "SeldonDeployment",
        "metadata": {"name": "dep", "annotations": annotations or {}},
        "spec": {"predictors": [{"graph": graph, "componentSpecs": [{"spec": {"containers": list(containers)}}]}]},
    }


def test_one_model():
    """A prepackaged server becomes a model and a pipeline of the deployment's name that asks it."""
    by_key, found = convert(document("iris"))
    assert [each.key for each in found] == [
        ("Model", "sklearn-classifier"),
        ("Model", "sklearn-explainer"),
        ("Pipeline", "sklearn"),
    ]
    assert by_key["Model", "sklearn-classifier"].spec == Model(
        uri="gs://seldon-models/sklearn/iris",
        requirements=("sklearn",),
        parameters={"default_outputs": ["decision_function"]},
    )
    pipeline = by_key["Pipeline", "sklearn"]
    assert pipeline.spec == Pipeline(
        steps=(Step(name="classifier", model="sklearn-classifier"),),
        output=Output(steps=("classifier",)),
        timeout_ms=2500,
    )
    assert pipeline.metadata.annotations[manifests.FORM] == "seldon_v1"
    assert pipeline.metadata.labels == {"version": "v1"}
    notes = pipeline.notes
    assert "spec.oauth_key: without effect: the server's own settings decide who may ask" in notes
    assert any(note.startswith("metadata.annotations.seldon.io/svc-name: iris-svc: ") for note in notes)
    assert any(note.startswith("spec.predictors[0].graph.parameters[1]: ") for note in notes)


def test_explainer():
    """A predictor's explainer becomes a model that explains its one model at the deployment's name, with what we have of
    its options; what alibi saved is not read, and the notes say what to run.
    """
    by_key, found = convert(document("iris"))
    assert by_key["Model", "sklearn-explainer"].spec == Model(
        runtime="explainer",
        parameters={
            "model": "sklearn-classifier",
            "method": "anchor-tabular",
            "options": {"delta": 0.1, "threshold": 0.9},
            "endpoint": "sklearn",
        },
    )
    notes = found[-1].notes
    (saved,) = [note for note in notes if note.startswith("spec.predictors[0].explainer.modelUri: gs://")]
    assert "headrace trust fit" in saved
    assert any(note.startswith("spec.predictors[0].explainer.config.stop_on_first: without effect") for note in notes)


def test_explainer_of_a_graph():
    """Of several nodes the whole graph is explained, by a trust folder of its own."""
    content = deployment(
        {
            "name": "a",
            "implementation": "SKLEARN_SERVER",
            "modelUri": "models/a",
            "children": [{"name": "b", "implementation": "XGBOOST_SERVER", "modelUri": "models/b"}],
        }
    )
    content["spec"]["predictors"][0]["explainer"] = {"type": "KernelShap", "modelUri": "models/ab.trust"}
    by_key, _ = convert(content)
    found = by_key["Model", "dep-explainer"].spec
    assert (found.parameters["model"], found.uri) == ("dep.pipeline", "models/ab.trust")


@pytest.mark.parametrize(
    ("explainer", "expected"),
    [
        ({"type": "SquareAttack"}, r"predictors\[0\].explainer.type: no method of ours for 'SquareAttack'.*lime"),
        ({"modelUri": "gs://b/e"}, r"predictors\[0\].explainer.type: expected an explainer's type"),
        ({"type": "AnchorText", "initParameters": "[1]"}, r"explainer.initParameters: expected an object in JSON"),
    ],
    ids=["none of ours", "no type", "parameters that are none"],
)
def test_explainer_that_is_none(explainer, expected):
    """An explainer that we have no method for is a fault that names the field, what was asked for, and ours."""
    content = deployment({"name": "m", "implementation": "SKLEARN_SERVER", "modelUri": "models/m"})
    content["spec"]["predictors"][0]["explainer"] = explainer
    with pytest.raises(InvalidResources, match=expected):
        convert(content)


def test_detector_in_a_container_of_mlserver():
    """A node whose container is MLServer's runtime of alibi-detect answers with a trust folder's verdicts."""
    env = [{"name": "MLSERVER_MODEL_IMPLEMENTATION", "value": "mlserver_alibi_detect.AlibiDetectRuntime"}]
    container = {"name": "drift", "image": "seldonio/mlserver:1.6.0-alibi-detect", "env": env}
    node = {"name": "drift", "type": "MODEL", "modelUri": "gs://b/income.trust"}
    annotations = {"headrace.io/detector": "tabular"}
    by_key, _ = convert(deployment(node, containers=[container], annotations=annotations))
    assert by_key["Model", "dep-drift"].spec == Model(
        runtime="detector", uri="gs://b/income.trust", parameters={"detector": "tabular"}
    )
    node["modelUri"] = "gs://seldon-models/alibi-detect/cd/ks/income"
    with pytest.raises(InvalidResources, match=r"graph.modelUri: what alibi-detect saved.*headrace trust fit"):
        convert(deployment(node, containers=[container]))


def test_scikit_learn_answers_probabilities():
    """Their server of scikit-learn answers probabilities unless told otherwise."""
    by_key, _ = convert(deployment({"name": "m", "implementation": "SKLEARN_SERVER", "modelUri": "models/m"}))
    assert by_key["Model", "dep-m"].spec.parameters == {"default_outputs": ["predict_proba"]}


def test_predictors_share_traffic():
    """Several predictors become pipelines of an experiment, by their traffic; a shadow gets copies of all."""
    by_key, found = convert(document("ab"))
    assert [name for kind, name in by_key if kind == "Pipeline"] == [
        "canary-example-main",
        "canary-example-canary",
        "canary-example-dark",
    ]
    assert found[-1].spec == Experiment(
        candidates=(
            Candidate(name="canary-example-main", weight=75),
            Candidate(name="canary-example-canary", weight=25),
        ),
        mirror=Mirror(name="canary-example-dark", percent=100),
        resource_type="pipeline",
    )
    assert found[-1].metadata.name == "canary-example"
    assert found[-1].metadata.annotations[manifests.FORM] == "seldon_v1"


def test_graph():
    """A tree is walked as their executor walks it: transformers down, children, combiners and output transformers up."""
    by_key, _ = convert(document("graph"))
    spec = by_key["Pipeline", "tree"].spec
    steps = {step.name: step for step in spec.steps}
    assert [*steps] == [
        "scale",
        "ab",
        "a",
        "b",
        "c",
        "far",
        "mean",
        "pick",
        "d",
        "eg",
        "e",
        "f",
        "vote-0",
        "vote-2",
        "vote",
        "tell",
    ]
    assert steps["scale"] == Step(name="scale", model="tree-scale")
    assert steps["ab"].route == Route(branches=(Branch(name="0", weight=0.25), Branch(name="1", weight=0.75)))
    assert steps["ab"].inputs == ("scale",)
    assert (steps["a"].inputs, steps["b"].inputs) == (("ab.branches.0",), ("ab.branches.1",))
    assert steps["mean"] == Step(name="mean", combine=Combine(), inputs=("c", "far"))
    assert steps["far"] == Step(name="far", model="far", url="http://far.example:9000", inputs=("scale",))
    assert steps["pick"].route == Route(
        type="custom", branches=(Branch(name="0"), Branch(name="1")), reference="code/pick.py:Pick"
    )
    assert steps["eg"].inputs == ("pick.branches.1",)
    assert steps["eg"].route == Route(
        type="epsilonGreedy",
        branches=(Branch(name="0"), Branch(name="1")),
        epsilon=0.2,
        best_branch="1",
        seed=3,
        parameters={"n_branches": 2},
    )
    assert (steps["vote-2"].inputs, steps["vote-2"].inputs_join_type) == (("d", "e", "f"), "any")
    assert steps["vote"].inputs == ("vote-0", "mean", "vote-2")
    assert steps["vote"].combine == Combine(type="custom", reference="code/vote.py:Vote")
    assert steps["tell"].inputs == ("vote",)
    assert spec.output == Output(steps=("tell",))
    assert by_key["Model", "tree-scale"].spec == Model(
        runtime="seldon_v1",
        reference="code/scale.py:Scale",
        parameters={"factor": 2.5, "log": True, "method": "transform_input"},
    )
    assert by_key["Model", "tree-tell"].spec.reference == "code/Tell.py:Tell"


@pytest.mark.parametrize("name", ["iris", "ab", "graph"])
def test_pipelines_are_sound(name):
    """The pipelines that graphs become pass the checks of pipelines."""
    _, found = convert(document(name))
    for each in found:
        if each.kind == "Pipeline":
            assert faults(each.metadata.name, each.spec) == []


def test_children_without_a_combiner():
    """Without a combiner the first child's answer is kept; the others are asked, and nobody waits for them."""
    graph = {
        "name": "m",
        "implementation": "SKLEARN_SERVER",
        "modelUri": "m",
        "children": [
            {"name": "x", "implementation": "SKLEARN_SERVER", "modelUri": "x"},
            {"name": "y", "implementation": "SKLEARN_SERVER", "modelUri": "y"},
        ],
    }
    by_key, _ = convert(deployment(graph))
    pipeline = by_key["Pipeline", "dep"]
    assert faults("dep", pipeline.spec) == []
    assert pipeline.spec.output == Output(steps=("x",))
    assert [step.mirror for step in pipeline.spec.steps] == [False, False, True]
    assert any("children[1].name: y: asked, and nobody waits" in note for note in pipeline.notes)


def test_node_with_the_deployments_name():
    """A node that is called like the deployment becomes a step of another name, as a pipeline asks for."""
    by_key, _ = convert(deployment({"name": "dep", "implementation": "SKLEARN_SERVER", "modelUri": "m"}))
    assert by_key["Pipeline", "dep"].spec.steps == (Step(name="dep-node", model="dep-dep-node"),)


def test_node_that_transforms_both_ways():
    """A node with methods for both ways becomes a step on each."""
    graph = {
        "name": "t",
        "methods": ["TRANSFORM_INPUT", "TRANSFORM_OUTPUT"],
        "children": [{"name": "m", "implementation": "SKLEARN_SERVER", "modelUri": "m"}],
    }
    by_key, _ = convert(deployment(graph, annotations={"headrace.io/class.t": "t.py:T"}))
    assert [(step.name, step.inputs) for step in by_key["Pipeline", "dep"].spec.steps] == [
        ("t", ()),
        ("m", ("t",)),
        ("t-output", ("m",)),
    ]
    assert by_key["Model", "dep-t-output"].spec.parameters == {"method": "transform_output"}


def test_simple_parts():
    """Their simple router always takes the first child, their simple model's class can be imported."""
    graph = {
        "name": "r",
        "implementation": "SIMPLE_ROUTER",
        "children": [{"name": "x", "implementation": "SIMPLE_MODEL"}, {"name": "y", "implementation": "SIMPLE_MODEL"}],
    }
    by_key, _ = convert(deployment(graph))
    route = by_key["Pipeline", "dep"].spec.steps[0].route
    assert [branch.weight for branch in route.branches] == [1.0, 0.0]
    from headrace.control.manifests.simple_model import SimpleModel

    reference = f"{SimpleModel.__module__}:{SimpleModel.__name__}"
    assert by_key["Model", "dep-x"].spec.reference == reference
    assert SimpleModel().predict([[1]], []) == [[0.1, 0.9, 0.5]]


def test_image_without_code():
    """A container whose code is nowhere is a fault that says which annotation to add."""
    graph = {"name": "c", "type": "MODEL"}
    containers = [{"name": "c", "image": "me/c:1", "env": [{"name": "MODEL_NAME", "value": "C"}]}]
    with pytest.raises(InvalidResources) as caught:
        convert(deployment(graph, containers=containers))
    (fault,) = caught.value.faults
    assert "metadata.annotations: {headrace.io/class.c: FILE.py:CLASS}" in fault
    assert "or the folder of C.py: {headrace.io/source: FOLDER}" in fault
    assert "image 'me/c:1' cannot be run here" in fault


@pytest.mark.parametrize(
    ("graph", "expected"),
    [
        ({"implementation": "SKLEARN_SERVER"}, "graph.name: expected a name, came none"),
        ({"name": "m", "implementation": "SKLEARN_SERVER"}, "graph.modelUri: expected where the sklearn model is"),
        ({"name": "r", "type": "ROUTER"}, "node 'r' has nothing to choose or combine"),
        ({"name": "r", "implementation": "RANDOM_ABTEST", "children": [{"name": "m", "implementation": "SIMPLE_MODEL"}]}, "two children and a ratioA"),
        ({"name": "m", "implementation": "SIMPLE_MODEL", "children": [{"name": "m", "implementation": "SIMPLE_MODEL"}]}, "two nodes are named 'm'"),
        ({"name": "m", "implementation": "SKLEARN_SERVR"}, "graph.implementation: expected one of UNKNOWN_IMPLEMENTATION"),
        ({"name": "m", "implementation": "SIMPLE_MODEL", "parameters": [{"name": "n", "value": "x", "type": "INT"}]}, "expected INT, came 'x'"),
        ({"name": "m", "endpoint": {"service_host": "h"}}, "expected the port of 'h', came none"),
    ],
)  # fmt: skip
def test_graph_faults(graph, expected):
    """A graph that cannot be is refused with the node and what was expected."""
    with pytest.raises(InvalidResources, match=expected):
        convert(deployment(graph))


def test_traffic_faults():
    """Traffic that does not sum to 100, two shadows and shadows alone are refused."""
    content = document("ab")
    content["spec"]["predictors"][0]["traffic"] = 70
    with pytest.raises(InvalidResources, match="expected traffic of all predictors to sum to 100, came 95"):
        convert(content)
    content = document("ab")
    content["spec"]["predictors"].append(copy.deepcopy(content["spec"]["predictors"][2]) | {"name": "darker"})
    with pytest.raises(InvalidResources, match="predictor 'darker' is a second shadow"):
        convert(content)
    content["spec"]["predictors"] = content["spec"]["predictors"][2:]
    with pytest.raises(InvalidResources, match="each predictor is a shadow"):
        convert(content)
