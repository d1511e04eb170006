"""KServe and KFServing: services as models, pipelines and experiments; graphs as pipelines."""

from pathlib import Path

import pytest
import yaml

from headrace.control import manifests
from headrace.control.resources import Batching, Candidate, Experiment, Model, Server
from headrace.errors import InvalidResources
from headrace.graph.check import faults
from headrace.graph.spec import Branch, Output, Pipeline, Route, Step

SAMPLES = Path(__file__).parent / "samples"


def sample(file, name):
    for document in yaml.safe_load_all((SAMPLES / f"{file}.yaml").read_text()):
        if document["metadata"]["name"] == name:
            return convert(document)
    raise KeyError(name)


def convert(document):
    found = manifests.convert(document, where="x.yaml:1", base="/work")
    return {each.key: each for each in found}


def service(spec, *, annotations=None, version="serving.kserve.io/v1beta1", kind="InferenceService"):
    return {
        "apiVersion": version,
        "kind": kind,
        "metadata": {"name": "svc", "annotations": annotations or {}},
        "spec": spec,
    }


def graph(nodes, **rest):
    return service({"nodes": nodes, **rest}, version="serving.kserve.io/v1alpha1", kind="InferenceGraph")


# -- services --


def test_predictor():
    """A predictor is a model of the service's name, with its scaling, batching, time and canary."""
    by_key = sample("kserve_services", "sklearn-iris")
    (found,) = by_key.values()
    assert found.key == ("Model", "sklearn-iris")
    assert found.spec == Model(
        uri="gs://kfserving-examples/models/sklearn/1.0/model",
        requirements=("sklearn",),
        parameters={"default_outputs": ["predict_proba"]},
        batching=Batching(max_batch_size=16, max_wait_seconds=0.02),
        min_replicas=0,
        max_replicas=3,
        load="onDemand",
        idle_seconds=60.0,
        timeout_seconds=30.0,
        canary_traffic_percent=10,
    )
    assert found.metadata.labels == {"tier": "gold"}
    assert found.metadata.annotations["note"] == "kept"
    notes = found.notes
    assert "spec.predictor.model.protocolVersion: v2: without effect: every protocol is answered" in notes
    assert any(
        note.startswith("metadata.annotations.serving.kserve.io/deploymentMode: RawDeployment: ") for note in notes
    )
    assert not any("sidecar.example" in note for note in notes)
    assert not any("PREDICT_PROBA" in note for note in notes)


def test_storage():
    """A `storage` gives a uri of its type, bucket and path."""
    found = sample("kserve_services", "old-xgb")["Model", "old-xgb"]
    assert found.spec == Model(uri="s3://models/xgb/iris", requirements=("xgboost",))


def test_explainer():
    """An explainer becomes a model that explains the service's at its name, with what we have of its options; what
    alibi saved is not read, and the notes say what to run.
    """
    by_key = sample("kserve_services", "old-xgb")
    assert [*by_key] == [("Model", "old-xgb-explainer"), ("Model", "old-xgb")]
    assert by_key["Model", "old-xgb-explainer"].spec == Model(
        runtime="explainer",
        parameters={
            "model": "old-xgb",
            "method": "anchor-tabular",
            "options": {"batch": 20, "threshold": 0.9},
            "endpoint": "old-xgb",
        },
        min_replicas=0,
        load="onDemand",
        idle_seconds=60.0,
    )
    notes = by_key["Model", "old-xgb"].notes
    (saved,) = [note for note in notes if note.startswith("spec.explainer.alibi.storageUri: gs://")]
    assert "headrace trust fit" in saved
    assert (
        "spec.explainer.alibi.config.binary_cache_size: without effect: our anchor-tabular has no such option" in notes
    )


def test_explainer_in_a_container():
    """The arguments of KServe's server of alibi say what a container explains by."""
    by_key = sample("kserve_services", "income")
    assert by_key["Model", "income-explainer"].spec.parameters == {
        "model": "income",
        "method": "anchor-tabular",
        "options": {"threshold": 0.8},
        "endpoint": "income",
    }
    notes = by_key["Model", "income"].notes
    place = "spec.explainer.containers[0]"
    assert any(note.startswith(f"{place}.args: without effect: --predictor_host: ") for note in notes)
    assert any(note.startswith(f"{place}.env: gs://") and "headrace trust fit" in note for note in notes)


def test_explainer_with_a_transformer_and_canaries():
    """With a transformer the predictor behind it is explained; with canaries what is stable."""
    spec = {
        "predictor": {"sklearn": {"storageUri": "m"}},
        "explainer": {"alibi": {"type": "KernelShap", "storageUri": "gs://b/m.trust", "config": {"nsamples": 50}}},
    }
    transformer = {"containers": [{"image": "me/t:1"}]}
    by_key = convert(
        service({**spec, "transformer": transformer}, annotations={"headrace.io/class.transformer": "t.py:T"})
    )
    found = by_key["Model", "svc-explainer"].spec
    assert (found.parameters["model"], found.parameters["endpoint"]) == ("svc-predictor", "svc")
    assert (found.uri, found.parameters["options"]) == ("gs://b/m.trust", {"samples": 50})
    canary = {"trafficPercent": 10, "predictor": {"name": "v2", "sklearn": {"storageUri": "m2"}}}
    by_key = convert(service({**spec, "canary": [canary]}))
    assert by_key["Model", "svc-explainer"].spec.parameters["model"] == "svc-stable"
    assert by_key["Model", "svc-explainer"].spec.parameters["endpoint"] == "svc"


@pytest.mark.parametrize(
    ("explainer", "expected"),
    [
        ({"art": {"type": "SquareAttack"}}, r"spec.explainer.art.type: no method of ours for 'SquareAttack'.*lime"),
        ({"alibi": {"type": "AnchorTabla"}}, "the nearest of ours is 'anchor-tabular'"),
        ({"alibi": {}}, r"spec.explainer.alibi.type: expected an explainer's type"),
        ({"alibi": {"type": "ALE"}, "aix": {"type": "LimeImages"}}, "expected exactly one of alibi, aix, art"),
        ({"containers": [{"image": "me/why:1"}]}, r"containers\[0\]: the image 'me/why:1' cannot be run here"),
        (
            {"alibi": {"type": "AnchorText", "config": {"threshold": "high"}}},
            r"spec.explainer.alibi.config: threshold: expected a number, came 'high'",
        ),
    ],
    ids=["none of ours", "misspelt", "no type", "two", "a container of one's own", "an option that is no number"],
)
def test_explainer_that_is_none(explainer, expected):
    """An explainer that we have no method for is a fault that names the field, what was asked for, and ours."""
    with pytest.raises(InvalidResources, match=expected):
        convert(service({"predictor": {"sklearn": {"storageUri": "m"}}, "explainer": explainer}))


def test_transformer():
    """Transformer and predictor are a pipeline of the service's name; a stopped service loads nothing by itself."""
    by_key = sample("kserve_services", "digits")
    assert [*by_key] == [
        ("Model", "digits-transformer"),
        ("Model", "digits-postprocess"),
        ("Model", "digits-predictor"),
        ("Pipeline", "digits"),
    ]
    pipeline = by_key["Pipeline", "digits"]
    assert pipeline.spec == Pipeline(
        steps=(
            Step(name="transformer", model="digits-transformer"),
            Step(name="predictor", model="digits-predictor", inputs=("transformer",)),
            Step(name="postprocess", model="digits-postprocess", inputs=("predictor",)),
        ),
        output=Output(steps=("postprocess",)),
        timeout_ms=5000,
    )
    assert faults("digits", pipeline.spec) == []
    assert by_key["Model", "digits-transformer"].spec.reference == "code/digits.py:Reshape"
    assert by_key["Model", "digits-predictor"].spec.uri == "models/digits"
    assert {each.spec.load for key, each in by_key.items() if key[0] == "Model"} == {"onDemand"}
    assert any(
        "serving.kserve.io/stop: true: not loaded until a request asks for it" in note for note in pipeline.notes
    )


def test_transformer_beside_the_predictor():
    """A transformer in the predictor's pod is one all the same."""
    spec = {
        "predictor": {
            "sklearn": {"storageUri": "m"},
            "containers": [{"name": "transformer-container", "image": "me/t:1"}],
        }
    }
    by_key = convert(service(spec, annotations={"headrace.io/class.transformer": "t.py:T"}))
    assert ("Pipeline", "svc") in by_key
    assert by_key["Model", "svc-transformer"].spec.reference == "t.py:T"


def test_container_of_ones_own():
    """A predictor in a container is the class that an annotation names."""
    (found,) = sample("kserve_services", "own").values()
    assert found.spec == Model(reference="own.py:Own")
    with pytest.raises(InvalidResources, match=r"annotation: metadata.annotations: \{headrace.io/class.predictor"):
        convert(service({"predictor": {"containers": [{"image": "me/own:1"}]}}))


def test_named_canaries():
    """Named canaries are models of their own, and the service's name an experiment among them."""
    by_key = sample("kserve_services", "named")
    assert by_key["Experiment", "named"].spec == Experiment(
        candidates=(
            Candidate(name="named-stable", weight=75),
            Candidate(name="named-v2", weight=20),
            Candidate(name="named-v3", weight=5),
        )
    )
    assert by_key["Model", "named-v3"].spec.requirements == ("lightgbm",)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({}, "spec.predictor: expected a predictor, came none"),
        ({"predictor": {"minReplicas": 1}}, "expected exactly one of model, sklearn.* or a container, came nothing"),
        ({"predictor": {"sklearn": {"storageUri": "a"}, "xgboost": {"storageUri": "b"}}}, "came sklearn, xgboost"),
        ({"predictor": {"sklearn": {}}}, "spec.predictor.sklearn.storageUri: expected where the sklearn model is"),
        ({"predictor": {"model": {"storageUri": "a"}}}, "modelFormat.name: expected the framework's name"),
        ({"predictor": {"sklearn": {"storageUri": "a"}, "canaryTrafficPercent": 101}}, "expected 0 to 100, came 101"),
        ({"predictor": {"sklearn": {"storageUri": "a"}, "minReplicas": 3, "maxReplicas": 2}}, "expected at least minReplicas"),
        ({"predictor": {"sklearn": {"storageUri": "a"}}, "transformer": {}}, "spec.transformer: expected a container"),
        ({"predictor": {"sklearn": {"storageUri": "a"}}, "transformer": {"containers": [{"env": [{"name": "STORAGE_URI", "value": "x"}]}]}},
         "storage uri should not be specified in transformer container"),
        ({"predictor": {"sklearn": {"storageUri": "a"}}, "canary": [{"predictor": {"sklearn": {"storageUri": "b"}}}]},
         r"canary\[0\] predictor.name is required"),
        ({"predictor": {"sklearn": {"storageUri": "a"}}, "canary": [{"trafficPercent": 60, "predictor": {"name": "b", "sklearn": {"storageUri": "b"}}},
                                                                     {"trafficPercent": 60, "predictor": {"name": "c", "sklearn": {"storageUri": "c"}}}]},
         r"sum of canary trafficPercent values \(120\) must be <= 100"),
        ({"predictor": {"skleran": {"storageUri": "a"}}}, "unknown field 'skleran'; did you mean 'sklearn'"),
    ],
)  # fmt: skip
def test_service_faults(spec, expected):
    """What their own checks refuse of a service is refused, in their words where they have some."""
    with pytest.raises(InvalidResources, match=expected):
        convert(service(spec))


@pytest.mark.parametrize(
    "predictor", [{"minReplicas": 1}, {"sklearn": {"storageUri": "a"}, "xgboost": {"storageUri": "b"}}]
)
def test_a_predictor_of_none_or_two_kinds_is_one_fault(predictor):
    """Nothing is said of a container that is not there."""
    with pytest.raises(InvalidResources) as raised:
        convert(service({"predictor": predictor}))
    (fault,) = raised.value.faults
    assert "expected exactly one of model, sklearn" in fault


# -- graphs --


def test_splitter_and_ensemble():
    """A splitter is a router by weight; an ensemble keeps its answers apart, so as a branch it is a pipeline."""
    by_key = sample("kserve_rest", "splitter")
    assert [*by_key] == [("Pipeline", "splitter-both"), ("Pipeline", "splitter")]
    root = by_key["Pipeline", "splitter"]
    assert root.spec == Pipeline(
        steps=(
            Step(name="root", route=Route(branches=(Branch(name="one", weight=20), Branch(name="two", weight=80)))),
            Step(name="one", model="isvc1", inputs=("root.branches.one",), timeout_ms=10000),
            Step(name="two", pipeline="splitter-both", inputs=("root.branches.two",), timeout_ms=10000),
        ),
        output=Output(steps=("one", "two"), steps_join="any"),
        timeout_ms=30000,
    )
    both = by_key["Pipeline", "splitter-both"]
    assert both.spec.output == Output(steps=("left", "1"), steps_join="outer", by_step=True)
    assert [step.dependency for step in both.spec.steps] == ["hard", "soft"]
    assert root.metadata.annotations[manifests.FORM] == "inference_graph"
    assert manifests.FORM not in both.metadata.annotations
    assert "spec.nodes.lost: without effect: no step leads to it" in root.notes


def test_sequence_with_conditions():
    """In a sequence a condition is about the answer before; where it fails, that answer is the last."""
    spec = sample("kserve_rest", "dog-breed")["Pipeline", "dog-breed"].spec
    steps = {step.name: step for step in spec.steps}
    condition = 'json:[@this].#(predictions.0=="dog")'
    assert steps["breed-if"].inputs == ("animal",)
    assert steps["breed-if"].route == Route(
        type="conditions", branches=(Branch(name="holds", when=condition), Branch(name="ends"))
    )
    assert (steps["breed"].inputs, steps["breed"].triggers) == ((), ("breed-if.branches.holds",))
    assert steps["last"].route == Route(
        type="conditions",
        branches=(Branch(name="s", when="json:instances.#(size<3)"), Branch(name="b")),
    )
    assert (steps["last-b"].url, steps["last-b"].model) == ("http://far.example:8080", "big")
    assert spec.output == Output(steps=("animal", "breed", "last-s", "last-b"), steps_join="last")


def test_a_node_in_an_ensemble_answers_under_its_steps_name():
    """A splitter that an ensemble asks is a pipeline: one answer, not one of each branch."""
    nodes = {
        "root": {"routerType": "Ensemble", "steps": [{"nodeName": "split", "name": "s"}, {"serviceName": "c"}]},
        "split": {
            "routerType": "Splitter",
            "steps": [{"serviceName": "a", "weight": 50}, {"serviceName": "b", "weight": 50}],
        },
    }
    split, root = convert(graph(nodes)).values()
    assert [(step.name, step.model, step.pipeline) for step in root.spec.steps] == [
        ("s", "", split.metadata.name),
        ("1", "c", ""),
    ]
    assert root.spec.output == Output(steps=("s", "1"), by_step=True)


@pytest.mark.parametrize("name", ["splitter", "dog-breed"])
def test_pipelines_are_sound(name):
    """The pipelines that graphs become pass the checks of pipelines."""
    for (_, title), each in sample("kserve_rest", name).items():
        assert faults(title, each.spec) == []


def test_plain_sequence_inline():
    """A node whose answer is one step's is put in the place of the step that leads to it, names prefixed."""
    nodes = {
        "root": {
            "routerType": "Sequence",
            "steps": [{"nodeName": "inner", "name": "first"}, {"serviceName": "b", "data": "$response"}],
        },
        "inner": {
            "routerType": "Sequence",
            "steps": [{"serviceName": "x"}, {"serviceName": "y", "name": "y", "data": "$response"}],
        },
    }
    (found,) = convert(graph(nodes)).values()
    assert [(step.name, step.model, step.inputs, step.triggers) for step in found.spec.steps] == [
        ("first-0", "x", (), ()),
        ("first-y", "y", ("first-0",), ()),
        ("1", "b", ("first-y",), ()),
    ]
    assert found.spec.output == Output(steps=("1",))
    assert faults("svc", found.spec) == []


def test_steps_of_a_sequence_keep_their_order():
    """A step that is asked with the request waits for the one before all the same, unless that may fail."""
    steps = [
        {"serviceName": "a", "name": "a"},
        {"serviceName": "b", "name": "b", "dependency": "Soft"},
        {"serviceName": "c", "name": "c"},
    ]
    (found,) = convert(graph({"root": {"routerType": "Sequence", "steps": steps}})).values()
    assert [step.triggers for step in found.spec.steps] == [(), ("a",), ()]
    assert found.spec.output == Output(steps=("a", "b", "c"), steps_join="last")


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ({"top": {"routerType": "Sequence", "steps": [{"serviceName": "a"}]}}, "root node not found, InferenceGraph needs a node with name 'root'"),
        ({"root": {"routerType": "Splitter", "steps": [{"serviceName": "a", "name": "r"}]}}, r"InferenceGraph\[svc\] Node\[root\] Route\[r\] missing the 'Weight'"),
        ({"root": {"routerType": "Splitter", "steps": [{"serviceName": "a", "weight": 90}]}}, "the sum of traffic weights for all routing targets should be 100"),
        ({"root": {"routerType": "Ensemble", "steps": [{"serviceName": "a", "name": "s"}, {"serviceName": "b", "name": "s"}]}},
         'Node "root" of InferenceGraph "svc" contains more than one step with name "s"'),
        ({"root": {"routerType": "Sequence", "steps": [{"name": "s"}]}}, r'Step 0 \("s"\) in node "root" .* does not specify an inference target'),
        ({"root": {"routerType": "Sequence", "steps": [{"serviceName": "a", "nodeName": "b"}]}}, "specifies more than one of nodeName, serviceName, serviceUrl"),
        ({"root": {"routerType": "Sequence", "steps": [{"nodeName": "b"}]}}, "no node 'b'; there are root"),
        ({"root": {"routerType": "Sequence", "steps": []}}, "expected at least one step, came none"),
        ({"root": {"steps": [{"serviceName": "a"}]}}, "routerType: expected Sequence, Splitter, Ensemble or Switch"),
        ({"root": {"routerType": "Sequence", "steps": [{"serviceUrl": "http://far.example/predict"}]}}, "serviceUrl: expected an address such as"),
        ({"root": {"routerType": "Sequence", "steps": [{"nodeName": "b"}]}, "b": {"routerType": "Sequence", "steps": [{"nodeName": "root"}]}},
         "nodes lead back to themselves: root -> b -> root"),
        ({"root": {"routerType": "Ensemble", "steps": [{"nodeName": "b"}]}, "b": {"routerType": "Ensemble", "steps": [{"nodeName": "root"}]}},
         "nodes lead back to themselves: root -> b -> root"),
    ],
)  # fmt: skip
def test_graph_faults(nodes, expected):
    """What their own checks refuse of a graph is refused, in their words; so are nodes that lead to themselves."""
    with pytest.raises(InvalidResources, match=expected):
        convert(graph(nodes))


# -- other kinds --


def test_trained_model():
    """A trained model is a model under its own name."""
    (found,) = sample("kserve_rest", "wine").values()
    assert found.spec == Model(uri="models/wine", requirements=("sklearn",), memory_bytes=256 << 20)


def test_serving_runtime():
    """A serving runtime is a server that is capable of its formats, unless it is disabled."""
    (found,) = sample("kserve_rest", "my-runtime").values()
    assert found.spec == Server(extra_capabilities=("my-format", "sklearn"))
    document = service(
        {"disabled": True, "supportedModelFormats": [{"name": "a"}]},
        version="serving.kserve.io/v1alpha1",
        kind="ServingRuntime",
    )
    (found,) = convert(document).values()
    assert found.spec == Server()


@pytest.mark.parametrize("kind", ["LocalModelCache", "ClusterStorageContainer", "LLMInferenceService"])
def test_refused_kinds(kind):
    """Kinds with no meaning here are refused, with the reason."""
    with pytest.raises(InvalidResources, match=f"x.yaml:1: {kind} is refused: .+ Leave it out"):
        convert(service({}, version="serving.kserve.io/v1alpha1", kind=kind))


# -- the older forms --


def test_first_form():
    """The first form, with modelUri and a canary: two models, and an experiment of the service's name."""
    by_key = sample("kfserving", "flowers")
    assert [*by_key] == [("Model", "flowers-default"), ("Model", "flowers-canary"), ("Experiment", "flowers")]
    assert by_key["Model", "flowers-canary"].spec.uri == "gs://kfserving-samples/models/tensorflow/flowers-2"
    assert by_key["Experiment", "flowers"].spec == Experiment(
        candidates=(Candidate(name="flowers-default", weight=90), Candidate(name="flowers-canary", weight=10))
    )


def test_canary_beside_a_transformer():
    """Where one endpoint is a pipeline, the other becomes one too, as candidates are of one kind."""
    by_key = sample("kfserving", "income")
    assert {name for kind, name in by_key if kind == "Pipeline"} == {"income-default", "income-canary"}
    assert by_key["Experiment", "income"].spec.resource_type == "pipeline"
    assert [each.weight for each in by_key["Experiment", "income"].spec.candidates] == [100, 0]
    for (kind, name), each in by_key.items():
        if kind == "Pipeline":
            assert faults(name, each.spec) == []
            assert all(("Model", step.model) in by_key for step in each.spec.steps)


def test_no_canary():
    """Without a canary a service is a model of its name, and a share for none is noted."""
    by_key = sample("kfserving", "plain")
    assert by_key["Model", "plain"].spec == Model(uri="models/net.onnx", requirements=("onnx",))
    explainer = by_key["Model", "plain-explainer"].spec
    assert (explainer.uri, explainer.parameters["options"]) == ("models/net.trust", {"change": 0.3})
    spec = {"default": {"predictor": {"onnx": {"storageUri": "m"}}}, "canaryTrafficPercent": 5}
    (found,) = convert(service(spec, version="serving.kubeflow.org/v1alpha2")).values()
    assert found.notes == ("spec.canaryTrafficPercent: 5: without effect: there is no canary",)


def test_old_form_faults():
    """A service without its default endpoint, and one whose endpoint has no predictor, are refused."""
    with pytest.raises(InvalidResources, match=r"spec.default: expected the default endpoint, came none"):
        convert(service({}, version="serving.kubeflow.org/v1alpha2"))
    with pytest.raises(InvalidResources, match=r"spec.default.predictor: expected a predictor, came none"):
        convert(service({"default": {}}, version="serving.kubeflow.org/v1alpha2"))
