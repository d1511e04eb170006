"""Manifests of Seldon Core v1 (SeldonDeployment) as our resources. Called by `manifests.convert`; pure.

Each predictor becomes a pipeline whose steps are the nodes of its graph, walked as their executor walks it: on the way
down models and transformers, then children, then combiners and output transformers. Several predictors share their
traffic as an experiment of the deployment's name.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

import msgspec

from headrace.control.manifests import base, detectors, explainers, pods
from headrace.control.manifests.base import (
    Converter,
    Document,
    Field,
    Reader,
    flag,
    group,
    idle,
    mapped,
    number,
    several,
    text,
    whole,
)
from headrace.control.resources import EXPLAINER_NAME, Candidate, Experiment, Mirror, Model, Resource
from headrace.graph.spec import Branch, Combine, Join, Output, Pipeline, Route, Step
from headrace.payload import EMPTY

VERSIONS: Final = tuple(f"machinelearning.seldon.io/{each}" for each in ("v1", "v1alpha2", "v1alpha3"))
FORM: Final = "seldon_v1"
SOURCE: Final = "headrace.io/source"
"""The annotation that names the folder in which `MODEL_NAME.py` with the class `MODEL_NAME` is."""
TIMEOUT: Final = "seldon.io/rest-timeout"
"""Their annotation for the time of one request, in milliseconds."""
NAMESPACE: Final = "seldon.io/"

_SERVERS: Final[Mapping[str, str]] = {
    "SKLEARN_SERVER": "sklearn",
    "XGBOOST_SERVER": "xgboost",
    "MLFLOW_SERVER": "mlflow",
    "TENSORFLOW_SERVER": "tensorflow",
    "TRITON_SERVER": "triton",
    "HUGGINGFACE_SERVER": "huggingface",
    "TEMPO_SERVER": "tempo",
}
"""Their servers and what a server here must be capable of to hold such a model."""
_BANDITS: Final[Mapping[str, str]] = {
    "mab_epsilon_greedy": "epsilonGreedy",
    "mab_thompson_sampling": "thompsonSampling",
}
_TYPES: Final = ("UNKNOWN_TYPE", "ROUTER", "COMBINER", "MODEL", "TRANSFORMER", "OUTPUT_TRANSFORMER")
_METHODS: Final = ("TRANSFORM_INPUT", "TRANSFORM_OUTPUT", "ROUTE", "AGGREGATE", "SEND_FEEDBACK")
_BUILT_IN: Final = ("SIMPLE_MODEL", "SIMPLE_ROUTER", "RANDOM_ABTEST", "AVERAGE_COMBINER")
_NUMBERS: Final = ("INT", "FLOAT", "DOUBLE", "STRING", "BOOL")
_MAX_DEPTH: Final = 32
_HERE: Final = "what chooses or combines is run in this process"

_CREDENTIALS: Final = "files are read with the rights of the server itself"
_LOGGER: Final = idle("requests are not logged by a node's own setting", fields=base.plain("url", "mode"))
_NODE: Final[dict[str, Field]] = {
    "name": text("a step's `name`"),
    "type": text("what the step is", *_TYPES),
    "implementation": text("what the step is", "UNKNOWN_IMPLEMENTATION", *_BUILT_IN, *_SERVERS),
    "methods": several(text("what the step is, where `type` does not say", *_METHODS)),
    "endpoint": group(
        {
            "service_host": text("the step's `url`"),
            "service_port": whole("the step's `url`"),
            "type": text("`GRPC`: the step's `url` begins with `grpc://`", "REST", "GRPC"),
            "httpPort": whole("the step's `url`"),
            "grpcPort": whole("the step's `url`"),
        }
    ),
    "parameters": several(
        group(
            {
                "name": text("a key of `parameters`"),
                "value": text("its value"),
                "type": text("the kind of its value", *_NUMBERS),
            }
        )
    ),
    "modelUri": text("a model's `uri`; for a class, its parameter `model_uri`"),
    "serviceAccountName": idle(_CREDENTIALS),
    "envSecretRefName": idle(_CREDENTIALS),
    "storageInitializerImage": idle(pods.NO_PODS),
    "logger": _LOGGER,
}


def _graph(depth: int) -> Field:
    """A node and what is below it; the depth is bounded, as a table must be."""
    return group({**_NODE, "children": several(_graph(depth - 1))} if depth else _NODE, to="as `graph`")


_POD_METADATA: Final = idle(pods.NO_PODS)
_PREDICTOR: Final[Mapping[str, Field]] = {
    "name": text("names the pipeline, where there are several"),
    "componentSpecs": several(
        group(
            {
                "metadata": _POD_METADATA,
                "spec": group({**pods.POD, "containers": several(group(pods.CONTAINER))}),
                "hpaSpec": idle(pods.NO_PODS),
                "kedaSpec": idle(pods.NO_PODS),
                "pdbSpec": idle(pods.NO_PODS),
                "replicas": idle(pods.NO_PODS, "whole"),
            }
        )
    ),
    "replicas": idle("one process", "whole"),
    "annotations": mapped(text("as those of the deployment")),
    "labels": mapped(text("`metadata.labels` of the pipeline")),
    "engineResources": idle(pods.NO_PODS),
    "svcOrchSpec": idle(pods.NO_PODS, fields=base.plain("resources", "env", "replicas")),
    "traffic": number("a candidate's `weight`"),
    "explainer": group(
        {
            "type": text("`parameters.method` of a model `NAME-explainer`, by our name for it"),
            "modelUri": text("its `uri`, where it is a trust folder"),
            "config": mapped(base.anything("its `parameters.options`, by our names for them")),
            "initParameters": text("as `config`; an object in JSON"),
            "containerSpec": idle(pods.NO_PODS),
            "endpoint": idle("one server answers by every protocol"),
            "replicas": idle("one process", "whole"),
            "serviceAccountName": idle(_CREDENTIALS),
            "envSecretRefName": idle(_CREDENTIALS),
            "storageInitializerImage": idle(pods.NO_PODS),
        }
    ),
    "shadow": flag("the experiment's `mirror`"),
    "ssl": idle("set `http.tls_certificate` of the server"),
    "progressDeadlineSeconds": idle(pods.NO_PODS, "whole"),
}
_DEPLOYMENT: Final[Mapping[str, Field]] = {
    "name": idle("the name in the metadata counts", "text"),
    "oauth_key": idle("the server's own settings decide who may ask", secret=True),
    "oauth_secret": idle("the server's own settings decide who may ask", secret=True),
    "annotations": mapped(text("as those of the deployment")),
    "protocol": idle("every protocol is answered", "text"),
    "transport": idle("REST and gRPC are both answered", "text"),
    "replicas": idle("one process", "whole"),
    "serverType": text("`kafka` is refused", "rpc", "kafka"),
}


def _table(depth: int) -> Field:
    predictors = several(group({**_PREDICTOR, "graph": msgspec.structs.replace(_graph(depth), to="")}))
    return base.document({**_DEPLOYMENT, "predictors": predictors})


_TABLE: Final = _table(_MAX_DEPTH)


def _deployment(content: Document, where: str, folder: str) -> list[Resource]:
    reader = Reader(content, _TABLE, where=where, base=folder)
    found = reader.read()
    spec, metadata = found["spec"], found["metadata"]
    predictors = spec.get("predictors", [])
    if not predictors:
        reader.fault("spec.predictors", "expected at least one predictor, came none")
    if spec.get("serverType") == "kafka":
        reader.note("spec.serverType", "refused: nothing is read from Kafka", "kafka")
    names = [each.get("name") or str(index) for index, each in enumerate(predictors)]
    for name in sorted({each for each in names if names.count(each) > 1}):
        reader.fault("spec.predictors", f"two predictors are named '{name}'")
    given = {**metadata.get("annotations", {}), **spec.get("annotations", {})}
    for place, each in (("metadata", metadata), ("spec", spec)):
        _annotations(reader, each.get("annotations", {}), f"{place}.annotations")

    one = len(predictors) == 1
    resources: list[Resource] = []
    for index, predictor in enumerate(predictors):
        path = f"spec.predictors[{index}]"
        _annotations(reader, predictor.get("annotations", {}), f"{path}.annotations")
        title = reader.name if one else f"{reader.name}-{names[index]}"
        graph = _Graph(reader, path, predictor, title=title, annotations=given | predictor.get("annotations", {}))
        pipeline = graph.convert()
        about = {
            **metadata,
            "labels": {**metadata.get("labels", {}), **predictor.get("labels", {})},
            "annotations": graph.annotations,
        }
        resources += [
            reader.resource("Model", name, model, metadata=about) for name, model in sorted(graph.models.items())
        ]
        if predictor.get("explainer"):
            explained = _explained(reader, predictor["explainer"], f"{path}.explainer", title, pipeline)
            resources.append(reader.resource("Model", f"{title}{EXPLAINER_NAME}", explained, metadata=about))
        if one:
            _alone(reader, predictor, path)
        resources.append(
            reader.resource("Pipeline", title, pipeline, metadata=about, annotations={base.FORM: FORM}, main=one)
        )
    if len(predictors) > 1:
        experiment = _traffic(reader, predictors, names)
        resources.append(
            reader.resource(
                "Experiment",
                reader.name,
                experiment,
                metadata={**metadata, "annotations": given},
                annotations={base.FORM: FORM},
                main=True,
            )
        )
    reader.finish()
    return resources


def _explained(reader: Reader, given: Mapping[str, Any], path: str, title: str, pipeline: Pipeline) -> Model:
    """The model that explains a predictor: its one model, which may have a trust folder, or all of its graph."""
    asked = explainers.of_type(given, path, "modelUri")
    if "initParameters" in given:
        try:
            more = msgspec.json.decode(given["initParameters"], type=dict[str, Any])
        except msgspec.DecodeError as error:
            reader.fault(f"{path}.initParameters", f"expected an object in JSON: {error}")
        else:
            asked = msgspec.structs.replace(asked, options={**more, **asked.options})
    (first, *others) = pipeline.steps or (Step(name=title),)
    alone = first.model and not others and not first.url
    return explainers.model(reader, asked, explains=first.model if alone else f"{title}.pipeline", endpoint=title)


def _annotations(reader: Reader, annotations: Mapping[str, str], path: str) -> None:
    """Those that mean something to them and nothing here."""
    for name, value in annotations.items():
        if name.startswith(NAMESPACE) and name != TIMEOUT:
            reader.note(f"{path}.{name}", "without effect: this process has no ingress, engine or gateway", value)


def _alone(reader: Reader, predictor: Mapping[str, Any], path: str) -> None:
    if predictor.get("shadow"):
        reader.fault(f"{path}.shadow", "the only predictor cannot be a shadow; expected another that answers")
    traffic = predictor.get("traffic")
    if traffic not in {None, 0, 100}:
        reader.note(f"{path}.traffic", "without effect: there is no other predictor", traffic)
    if "name" in predictor:
        reader.note(f"{path}.name", "without effect: the only pipeline has the deployment's name", predictor["name"])


def _traffic(reader: Reader, predictors: list[dict[str, Any]], names: list[str]) -> Experiment:
    """How the predictors share the requests: weights in percent, and one that gets copies."""
    shown = [(name, each) for name, each in zip(names, predictors, strict=True) if not each.get("shadow")]
    shadows = [(name, each) for name, each in zip(names, predictors, strict=True) if each.get("shadow")]
    total = sum(each.get("traffic", 0) for _, each in shown)
    if not shown:
        reader.fault("spec.predictors", "each predictor is a shadow; expected one that answers")
    elif len(shown) > 1 and total != 100:
        reader.fault("spec.predictors", f"expected traffic of all predictors to sum to 100, came {total:g}")
    for name, _ in shadows[1:]:
        reader.fault("spec.predictors", f"predictor '{name}' is a second shadow; expected one at most")
    mirror = None
    if shadows:
        name, each = shadows[0]
        if each.get("traffic", 0) > 100:
            reader.fault(
                "spec.predictors", f"predictor '{name}': expected traffic of 0 to 100, came {each['traffic']:g}"
            )
        mirror = Mirror(name=f"{reader.name}-{name}", percent=float(each.get("traffic", 0) or 100))
    alone = len(shown) == 1
    return Experiment(
        candidates=tuple(
            Candidate(name=f"{reader.name}-{name}", weight=100.0 if alone else float(each.get("traffic", 0)))
            for name, each in shown
        ),
        mirror=mirror,
        resource_type="pipeline",
    )


class _Answer(msgspec.Struct, frozen=True):
    """What a part of the graph answers: one reference, or several of which one will come."""

    references: tuple[str, ...]

    @property
    def join(self) -> Join:
        return "any" if len(self.references) > 1 else "inner"


class _Graph:
    """One predictor's graph on its way to steps and models."""

    def __init__(
        self, reader: Reader, path: str, predictor: Mapping[str, Any], *, title: str, annotations: Mapping[str, str]
    ) -> None:
        self._reader = reader
        self._path = path
        self._predictor = predictor
        self._title = title
        self._containers: dict[str, tuple[str, dict[str, Any]]] = {}
        self._nodes: set[str] = set()
        self._unheard = 0
        self._steps: list[Step] = []
        self.annotations = dict(annotations)
        self.models: dict[str, Model] = {}

    def convert(self) -> Pipeline:
        """The steps; `models` is filled in on the way."""
        for at, component in enumerate(self._predictor.get("componentSpecs", ())):
            for index, container in enumerate(component.get("spec", {}).get("containers", ())):
                path = f"{self._path}.componentSpecs[{at}].spec.containers[{index}]"
                self._containers[container.get("name", "")] = (path, container)
        node = self._predictor.get("graph")
        if not node:
            self._reader.fault(f"{self._path}.graph", "expected a graph, came none")
            return Pipeline()
        answer = self._walk(node, f"{self._path}.graph", _Answer(()))
        for name, (path, container) in self._containers.items():
            if name not in self._nodes:
                self._reader.note(path, "without effect: no node of the graph has this name", name)
                continue
            pods.variables(self._reader, container, path, honoured=("MODEL_NAME", IMPLEMENTATION))
            if "image" in container:
                self._reader.note(f"{path}.image", f"without effect: {pods.NO_IMAGE}", container["image"])
        return Pipeline(
            steps=tuple(self._steps),
            output=Output(steps=answer.references, steps_join=answer.join),
            timeout_ms=self._timeout(),
        )

    def _timeout(self) -> int:
        given = self.annotations.get(TIMEOUT, "0")
        if given.isdecimal():
            return int(given)
        self._reader.fault(f"annotations.{TIMEOUT}", f"expected milliseconds, came {given!r}")
        return 0

    def _walk(self, node: Mapping[str, Any], path: str, asked: _Answer) -> _Answer:
        name = node.get("name", "")
        if not name:
            self._reader.fault(f"{path}.name", "expected a name, came none")
            return asked
        if name in self._nodes:
            self._reader.fault(f"{path}.name", f"two nodes are named '{name}'")
            return asked
        self._nodes.add(name)
        does = _does(node)
        children = node.get("children", [])
        if "methods" in node and node.get("type", "UNKNOWN_TYPE") != "UNKNOWN_TYPE":
            self._reader.note(f"{path}.methods", "without effect: type says what the node does")
        if does & {"route", "aggregate"}:
            for key, value in [(f"endpoint.{each}", value) for each, value in node.get("endpoint", {}).items()]:
                self._reader.note(f"{path}.{key}", f"without effect: {_HERE}", value)
            if "modelUri" in node:
                self._reader.note(f"{path}.modelUri", "without effect: the node has no model", node["modelUri"])
        if does & {"route", "aggregate"} and not children:
            self._reader.fault(f"{path}.children", f"node '{name}' has nothing to choose or combine; expected children")
            return asked

        # down: what is asked of the children
        if does & {"predict", "transform_input"}:
            method = "predict" if "predict" in does else "transform_input"
            asked = self._model(node, path, method, asked)
        if not children:
            return self._model(node, path, "transform_output", asked) if "transform_output" in does else asked

        # the children, all of them or the one that is chosen
        places = [f"{path}.children[{index}]" for index in range(len(children))]
        if "route" in does:
            router = self._router(node, path, asked)
            answers = [
                self._walk(child, place, _Answer((f"{router}.branches.{index}",)))
                for index, (child, place) in enumerate(zip(children, places, strict=True))
            ]
            references = [each for answer in answers for each in answer.references]
            answer = _Answer(tuple(references))
        elif "aggregate" in does:
            answers = [self._walk(child, place, asked) for child, place in zip(children, places, strict=True)]
            answer = self._combiner(node, path, answers)
        else:
            answer = self._walk(children[0], places[0], asked)
            for child, place in zip(children[1:], places[1:], strict=True):
                self._reader.note(
                    f"{place}.name",
                    "asked, and nobody waits: without a combiner the first child's answer is kept",
                    child.get("name"),
                )
                self._unheard += 1
                self._walk(child, place, asked)
                self._unheard -= 1
        return self._model(node, path, "transform_output", answer) if "transform_output" in does else answer

    def _add(self, step: Step) -> _Answer:
        if any(each.name == step.name for each in self._steps):
            self._reader.fault(f"{self._path}.graph", f"two nodes would be steps named '{step.name}'; rename one")
        self._steps.append(msgspec.structs.replace(step, mirror=True) if self._unheard else step)
        return _Answer((step.name,))

    def _step_name(self, name: str, suffix: str = "") -> str:
        """A node's name, unless it is the pipeline's, which a step cannot have."""
        return name + suffix if name + suffix != self._title else f"{name}-node{suffix}"

    def _model(self, node: Mapping[str, Any], path: str, method: str, asked: _Answer) -> _Answer:
        """A step that asks a model: theirs, of a class, or elsewhere."""
        both = method == "transform_output" and len(_does(node)) > 1
        name = self._step_name(node["name"], "-output" if both else "")
        known = f"{self._title}-{name}"
        kind = node.get("implementation", "UNKNOWN_IMPLEMENTATION")
        step = Step(name=name, model=known, inputs=asked.references, inputs_join_type=asked.join)
        url = self._url(node, path)
        parameters = self._parameters(node, path)
        if url:
            self._reader.note(f"{path}.endpoint", "asked by the Open Inference Protocol, not by that of Seldon Core v1")
            return self._add(msgspec.structs.replace(step, model=node["name"], url=url, parameters=parameters or EMPTY))
        if kind in _SERVERS:
            self.models[known] = self._prepackaged(node, path, parameters)
        elif kind == "SIMPLE_MODEL":
            self._unused(node, path)
            self.models[known] = Model(runtime=FORM, reference=f"{SIMPLE}:SimpleModel")
        elif self._env(node).get(IMPLEMENTATION, "").startswith(f"{DETECT}."):
            self._unused(node, path)
            uri, place = node.get("modelUri", ""), f"{path}.modelUri"
            self.models[known] = detectors.model(self._reader, uri, place, annotations=self.annotations)
        else:
            self.models[known] = Model(
                runtime=FORM,
                reference=self._class(node, path),
                parameters={
                    **parameters,
                    **({"model_uri": node["modelUri"]} if "modelUri" in node else {}),
                    **({METHOD: method} if method != "predict" else {}),
                }
                or EMPTY,
            )
        return self._add(step)

    def _prepackaged(self, node: Mapping[str, Any], path: str, parameters: Mapping[str, Any]) -> Model:
        """One of their ready-made servers with a model's files."""
        server = _SERVERS[node["implementation"]]
        if "modelUri" not in node:
            self._reader.fault(f"{path}.modelUri", f"expected where the {server} model is, came nothing")
        rest = dict(parameters)
        told: dict[str, Any] = {}
        if server == "sklearn":
            method = rest.pop("method", "predict_proba")
            told = {"default_outputs": [method]}
        self._unused(node, path, *(parameters.keys() - rest.keys()))
        return Model(uri=node.get("modelUri", ""), requirements=(server,), parameters=told or EMPTY)

    def _router(self, node: Mapping[str, Any], path: str, asked: _Answer) -> str:
        """A step that chooses among the children, by number."""
        name = self._step_name(node["name"])
        count = len(node["children"])
        parameters = self._parameters(node, path)
        branches = [Branch(name=str(index)) for index in range(count)]
        kind = node.get("implementation", "UNKNOWN_IMPLEMENTATION")
        if kind == "RANDOM_ABTEST":
            ratio = parameters.pop("ratioA", 0.5)
            if count != 2 or not isinstance(ratio, int | float) or not 0 <= ratio <= 1:
                self._reader.fault(path, f"expected two children and a ratioA of 0 to 1, came {count} and {ratio}")
                ratio = 0.5
            branches = [Branch(name="0", weight=float(ratio)), Branch(name="1", weight=round(1.0 - ratio, 12))]
            self._unused(node, path, "ratioA")
            route = Route(type="weights", branches=tuple(branches))
        elif kind == "SIMPLE_ROUTER":
            self._unused(node, path)
            branches = [Branch(name=each.name, weight=0.0 if int(each.name) else 1.0) for each in branches]
            route = Route(type="weights", branches=tuple(branches))
        elif bandit := self._bandit(node):
            best = parameters.pop("best_branch", 0)
            seed = parameters.pop("seed", None)
            epsilon = parameters.pop("epsilon", 0.1)
            greedy = bandit == "epsilonGreedy"
            if not isinstance(epsilon, int | float) or not 0 <= epsilon <= 1:
                self._reader.fault(path, f"expected an epsilon of 0 to 1, came {epsilon!r}")
                epsilon = 0.1
            for index, each in enumerate(node.get("parameters", ())):
                if not greedy and each.get("name") in {"best_branch", "epsilon"}:
                    self._reader.note(
                        f"{path}.parameters[{index}]", f"without effect: {each['name']} is for epsilon-greedy"
                    )
            route = Route(
                type="epsilonGreedy" if greedy else "thompsonSampling",
                branches=tuple(branches),
                epsilon=float(epsilon) if greedy else 0.1,
                best_branch=str(best) if greedy and best else "",
                seed=seed if isinstance(seed, int) else None,
                parameters=parameters or EMPTY,
            )
        else:
            route = Route(
                type="custom",
                branches=tuple(branches),
                reference=self._class(node, path),
                parameters=parameters or EMPTY,
            )
        self._add(Step(name=name, route=route, inputs=asked.references, inputs_join_type=asked.join))
        return name

    def _unused(self, node: Mapping[str, Any], path: str, *used: str) -> None:
        """Note the parameters of a node but these."""
        for index, each in enumerate(node.get("parameters", ())):
            if each.get("name") not in used:
                self._reader.note(
                    f"{path}.parameters[{index}]", f"without effect: {node.get('implementation', 'it')} has none such"
                )

    def _bandit(self, node: Mapping[str, Any]) -> str:
        _, container = self._containers.get(node["name"], ("", {}))
        return _BANDITS.get(pods.image_name(container.get("image", "")).lower(), "")

    def _combiner(self, node: Mapping[str, Any], path: str, answers: list[_Answer]) -> _Answer:
        """A step that makes one answer of the children's."""
        name = self._step_name(node["name"])
        references = [self._one(answer, f"{name}-{index}") for index, answer in enumerate(answers)]
        if node.get("implementation") == "AVERAGE_COMBINER":
            self._unused(node, path)
            combine = Combine(type="mean")
        else:
            combine = Combine(
                type="custom", reference=self._class(node, path), parameters=self._parameters(node, path) or EMPTY
            )
        return self._add(Step(name=name, combine=combine, inputs=tuple(references)))

    def _one(self, answer: _Answer, name: str) -> str:
        """One reference for what several may answer: whatever comes, passed on by a step of its own."""
        if len(answer.references) == 1:
            return answer.references[0]
        step = Step(
            name=self._step_name(name),
            combine=Combine(type="concatenate", parameters={"axis": 0}),
            inputs=answer.references,
            inputs_join_type="any",
        )
        return self._add(step).references[0]

    def _class(self, node: Mapping[str, Any], path: str) -> str:
        """The class of a node's container."""
        name = node["name"]
        place, container = self._containers.get(name, ("", {}))
        if given := base.class_of(self.annotations, name):
            return given
        module = self._env(node).get("MODEL_NAME") or ""
        if module and SOURCE in self.annotations:
            return f"{self.annotations[SOURCE].rstrip('/')}/{module}.py:{module}"
        hint = pods.code_needed([name], container.get("image", ""))
        if module:
            hint += f", or the folder of {module}.py: {{{SOURCE}: FOLDER}}"
        self._reader.fault(place or path, f"node '{name}': {hint}")
        return ""

    def _env(self, node: Mapping[str, Any]) -> dict[str, str]:
        _, container = self._containers.get(node["name"], ("", {}))
        return {each.get("name", ""): each.get("value", "") for each in container.get("env", ())}

    def _url(self, node: Mapping[str, Any], path: str) -> str:
        """Where a node is that runs elsewhere; empty: it is to be run here."""
        endpoint = node.get("endpoint", {})
        host = endpoint.get("service_host", "")
        is_grpc = endpoint.get("type") == "GRPC"
        if not host or host == "localhost":
            for key, value in endpoint.items():
                self._reader.note(f"{path}.endpoint.{key}", "without effect: the node is asked in this process", value)
            return ""
        port = endpoint.get("service_port") or endpoint.get("grpcPort" if is_grpc else "httpPort")
        unused = [key for key in ("service_port", "grpcPort", "httpPort") if key in endpoint and endpoint[key] != port]
        for key in unused:
            self._reader.note(f"{path}.endpoint.{key}", "without effect: another port is asked", endpoint[key])
        if not port:
            self._reader.fault(f"{path}.endpoint", f"expected the port of '{host}', came none")
        return f"{'grpc' if is_grpc else 'http'}://{host}:{port}"

    def _parameters(self, node: Mapping[str, Any], path: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for index, each in enumerate(node.get("parameters", ())):
            kind, given = each.get("type", "STRING"), each.get("value", "")
            try:
                found[each.get("name", "")] = _value(kind, given)
            except ValueError:
                self._reader.fault(f"{path}.parameters[{index}].value", f"expected {kind}, came {given!r}")
        return found


METHOD: Final = "method"
"""The parameter of the runtime `seldon_v1` that says what a class that is no model is asked for."""
IMPLEMENTATION: Final = "MLSERVER_MODEL_IMPLEMENTATION"
"""The variable by which a container of MLServer says what serves its model."""
DETECT: Final = "mlserver_alibi_detect"
"""The package of MLServer's runtime of alibi-detect."""
SIMPLE: Final = "headrace.control.manifests.simple_model"
"""The module that has their model for tests, `SimpleModel`."""


def _value(kind: str, given: str) -> Any:
    if kind == "INT":
        return int(given)
    if kind in {"FLOAT", "DOUBLE"}:
        return float(given)
    if kind == "BOOL":
        if given.lower() not in {"true", "false", "1", "0"}:
            raise ValueError(given)
        return given.lower() in {"true", "1"}
    return given


def _does(node: Mapping[str, Any]) -> frozenset[str]:
    """What a node does, of predict, transform_input, route, aggregate and transform_output."""
    kind = node.get("implementation", "UNKNOWN_IMPLEMENTATION")
    if kind in _SERVERS or kind == "SIMPLE_MODEL":
        return frozenset({"predict"})
    if kind in {"SIMPLE_ROUTER", "RANDOM_ABTEST"}:
        return frozenset({"route"})
    if kind == "AVERAGE_COMBINER":
        return frozenset({"aggregate"})
    by_type = {
        "MODEL": "predict",
        "TRANSFORMER": "transform_input",
        "OUTPUT_TRANSFORMER": "transform_output",
        "ROUTER": "route",
        "COMBINER": "aggregate",
    }
    if (given := node.get("type", "UNKNOWN_TYPE")) in by_type:
        return frozenset({by_type[given]})
    methods = {each.lower() for each in node.get("methods", ())} - {"send_feedback"}
    return frozenset(methods or {"predict"})


TABLES: Final[Mapping[str, Field]] = MappingProxyType({"SeldonDeployment": _table(1)})
"""By kind; for the docs."""
KINDS: Final[Mapping[tuple[str, str], Converter]] = MappingProxyType(
    {(version, "SeldonDeployment"): _deployment for version in VERSIONS}
)
