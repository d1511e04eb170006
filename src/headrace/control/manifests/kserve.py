"""Manifests of KServe (`serving.kserve.io`), and of KFServing since v1beta1, as our resources. Called by
`manifests.convert`; pure.

An InferenceService is a model, or a pipeline of transformer and predictor; an InferenceGraph a pipeline; a TrainedModel
a model; a ServingRuntime a server that is capable of its formats.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import msgspec

from headrace.control.manifests import base, components, explainers, pods
from headrace.control.manifests.base import (
    Converter,
    Document,
    Field,
    Reader,
    flag,
    group,
    idle,
    quantity,
    several,
    text,
    whole,
)
from headrace.control.resources import Candidate, Experiment, Model, Resource, Server
from headrace.errors import InvalidResources
from headrace.graph.spec import Branch, Join, Output, Pipeline, Route, Step

GROUP: Final = "serving.kserve.io"
OLD_GROUP: Final = "serving.kubeflow.org"
FORM: Final = "inference_graph"

_FRAMEWORK: Final = msgspec.structs.replace(group(components.FRAMEWORK), called="FRAMEWORK")
_MODEL: Final = group(
    {
        **components.FRAMEWORK,
        "modelFormat": group(
            {
                "name": text("`requirements`"),
                "version": idle("the library that is installed here is used"),
            }
        ),
    }
)
_COMPONENT: Final[Mapping[str, Field]] = {
    **pods.POD,
    **components.EXTENSION,
    "containers": several(group({**pods.CONTAINER, "env": pods.ENV})),
}
_PREDICTOR: Final[Mapping[str, Field]] = {
    **_COMPONENT,
    **dict.fromkeys((name for name in components.FRAMEWORKS if name != "tensorrt"), _FRAMEWORK),
    "model": _MODEL,
    "storageUris": several(
        group({"uri": text("`uri`, of the one at `/mnt/models`"), "mountPath": text("says which one counts")})
    ),
    "workerSpec": base.refused("a model is not spread over machines"),
    "confidential": base.refused("there is no confidential computing"),
    "storageContainerName": idle("files are read by the server itself"),
}
INFERENCE_SERVICE: Final[Mapping[str, Field]] = {
    "predictor": group(_PREDICTOR),
    "transformer": group({**_COMPONENT, **components.TRANSFORMER}),
    "explainer": group(
        {**_COMPONENT, **components.EXPLAINER, "containers": several(group({**explainers.CONTAINER, "env": pods.ENV}))}
    ),
    "canary": several(
        group(
            {
                "predictor": group({**_PREDICTOR, "name": text("names the candidate")}, to="as `spec.predictor`"),
                "trafficPercent": whole("a candidate's `weight`"),
            }
        )
    ),
}


def _inference_service(content: Document, where: str, folder: str) -> list[Resource]:
    reader = Reader(content, _TABLE, where=where, base=folder)
    found = reader.read()
    spec, metadata = found["spec"], found["metadata"]
    components.note_annotations(reader, metadata.get("annotations", {}), "metadata.annotations")
    predictor = spec.get("predictor")
    if not predictor:
        reader.fault("spec.predictor", "expected a predictor, came none")
        reader.finish()
        return []
    canaries = spec.get("canary", [])
    predictor, transformer = _together(reader, predictor, spec.get("transformer"))
    endpoint = components.Endpoint(
        path="spec",
        predictor=_several_files(reader, predictor, "spec.predictor"),
        predictor_path="spec.predictor",
        transformer=transformer,
        explainer=spec.get("explainer"),
        explained_at=reader.name,
    )
    if canaries:
        return _canaries(reader, endpoint, canaries, metadata)
    resources = components.resources_of(reader, endpoint, reader.name, metadata=metadata)
    reader.finish()
    return components.with_notes(reader, resources)


def _together(
    reader: Reader, predictor: dict[str, Any], transformer: dict[str, Any] | None
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Predictor and transformer, where the second may be a container in the pod of the first."""
    containers = predictor.get("containers", [])
    inside = [each for each in containers if each.get("name") == "transformer-container"]
    others = [each for each in containers if each.get("name") != "transformer-container"]
    if inside and transformer is None:
        transformer = {"containers": inside}
    elif inside:
        reader.fault("spec.transformer", "a second transformer; the predictor's pod has one already")
    for each in others[1:]:
        reader.note("spec.predictor.containers", f"without effect: {pods.NO_PODS}", each.get("name", "a container"))
    modelled = any(name in predictor for name in (*components.FRAMEWORKS, "model"))
    if others and modelled:
        for each in others[:1]:
            reader.note("spec.predictor.containers", f"without effect: {pods.NO_PODS}", each.get("name", "a container"))
        others = []
    kept = {key: value for key, value in predictor.items() if key != "containers"}
    return ({**kept, "containers": others[:1]} if others else kept), transformer


def _several_files(reader: Reader, predictor: dict[str, Any], path: str) -> dict[str, Any]:
    """A predictor's `storageUris` put where its `storageUri` would be."""
    uris = predictor.get("storageUris", [])
    if not uris:
        return predictor
    main = next((each for each in uris if each.get("mountPath", "/mnt/models") == "/mnt/models"), uris[0])
    for index, each in enumerate(uris):
        if each is not main:
            reader.note(f"{path}.storageUris[{index}]", "refused: a model has one file or folder", each.get("uri"))
        elif "mountPath" in each:
            reader.note(f"{path}.storageUris[{index}].mountPath", f"without effect: {pods.NO_PODS}", each["mountPath"])
    for name in (*components.FRAMEWORKS, "model"):
        if name in predictor:
            if predictor[name].get("storageUri"):
                reader.fault(f"{path}.storageUris", "expected storageUri or storageUris, came both")
            return {**predictor, name: {**predictor[name], "storageUri": main.get("uri", "")}}
    containers = predictor.get("containers", [{}])
    env = [*containers[0].get("env", []), {"name": components.STORAGE_URI, "value": main.get("uri", "")}]
    return {**predictor, "containers": [{**containers[0], "env": env}]}


def _canaries(
    reader: Reader, stable: components.Endpoint, canaries: list[dict[str, Any]], metadata: Mapping[str, Any]
) -> list[Resource]:
    """Named canaries beside the stable endpoint, which alone is explained: an experiment of the service's name."""
    total = 0
    names: list[str] = []
    parts: list[tuple[str, components.Endpoint, float]] = []
    for index, each in enumerate(canaries):
        path = f"spec.canary[{index}]"
        given = dict(each.get("predictor", {}))
        name = given.pop("name", "")
        percent = each.get("trafficPercent", 0)
        if not name:
            reader.fault(f"{path}.predictor.name", f"canary[{index}] predictor.name is required")
        if name in names:
            reader.fault(f"{path}.predictor.name", f"two canaries are named '{name}'")
        if not 0 <= percent <= 100:
            reader.fault(f"{path}.trafficPercent", f"expected 0 to 100, came {percent}")
        for key in ("minReplicas", "maxReplicas", "scaleTarget", "scaleMetric"):
            if key in given and key != "minReplicas":
                reader.fault(f"{path}.predictor.{key}", "a canary has no scaling of its own")
        names.append(name)
        total += percent
        canary = components.Endpoint(
            path="spec",
            predictor=_several_files(reader, given, f"{path}.predictor"),
            predictor_path=f"{path}.predictor",
            transformer=stable.transformer,
        )
        parts.append((f"{reader.name}-{name}", canary, float(percent)))
    if total > 100:
        reader.fault("spec.canary", f"sum of canary trafficPercent values ({total}) must be <= 100")
    if _STABLE in names:
        reader.fault("spec.canary", f"'{_STABLE}' is the name of the predictor itself")
    parts.insert(0, (f"{reader.name}-{_STABLE}", stable, float(max(100 - total, 0))))
    resources: list[Resource] = []
    for name, endpoint, _ in parts:
        resources += components.resources_of(reader, endpoint, name, metadata=metadata)
    experiment = Experiment(
        candidates=tuple(Candidate(name=name, weight=weight) for name, _, weight in parts),
        resource_type="pipeline" if stable.transformer else "model",
    )
    reader.finish()
    main = reader.resource("Experiment", reader.name, experiment, metadata=metadata)
    return components.with_notes(reader, [*resources, main])


_STABLE: Final = "stable"


# -- graphs --

_TARGETS: Final = ("nodeName", "serviceName", "serviceUrl")
_STEP: Final[Mapping[str, Field]] = {
    "name": text("a step's `name`"),
    "nodeName": text("the steps of that node in its place, or a pipeline of its own"),
    "serviceName": text("`model`"),
    "serviceUrl": text("`url` and `model`"),
    "data": text("`inputs`", "$request", "$response"),
    "mapPredictionsToInstances": idle("tensors keep their names from step to step", "flag"),
    "weight": whole("a branch's `weight`"),
    "condition": text("`when` of a branch or step, after `json:`"),
    "dependency": text("`dependency`", "Soft", "Hard"),
}
INFERENCE_GRAPH: Final[Mapping[str, Field]] = {
    "nodes": base.mapped(
        group(
            {
                "routerType": text("what the node does", "Sequence", "Splitter", "Ensemble", "Switch"),
                "steps": several(group(_STEP)),
            }
        )
    ),
    "resources": idle(pods.NO_PODS),
    "affinity": idle(pods.NO_PODS),
    "tolerations": idle(pods.NO_PODS),
    "nodeSelector": idle(pods.NO_PODS),
    "nodeName": idle(pods.NO_PODS),
    "serviceAccountName": idle(pods.NO_PODS),
    "timeout": whole("`timeoutMs`"),
    "routerTimeouts": group(
        {
            "serverRead": idle("the server's own settings decide"),
            "serverWrite": idle("the server's own settings decide"),
            "serverIdle": idle("the server's own settings decide"),
            "serviceClient": whole("`timeoutMs` of each step that asks"),
        }
    ),
    "minReplicas": idle(pods.NO_PODS),
    "maxReplicas": idle(pods.NO_PODS),
    "scaleTarget": idle(pods.NO_PODS),
    "scaleMetric": idle(pods.NO_PODS),
}


def _inference_graph(content: Document, where: str, folder: str) -> list[Resource]:
    reader = Reader(content, base.document(INFERENCE_GRAPH), where=where, base=folder)
    found = reader.read()
    spec, metadata = found["spec"], found["metadata"]
    components.note_annotations(reader, metadata.get("annotations", {}), "metadata.annotations")
    nodes: dict[str, Any] = spec.get("nodes", {})
    if "root" not in nodes:
        reader.fault(
            "spec.nodes",
            "root node not found, InferenceGraph needs a node with name 'root' as the root node of the graph",
        )
    for name, node in nodes.items():
        _check_node(reader, name, node, nodes)
    reader.finish()
    graph = _Graph(reader, nodes, spec)
    pipelines = graph.convert()
    for name in nodes.keys() - graph.used:
        reader.note(f"spec.nodes.{name}", "without effect: no step leads to it")
    reader.finish()
    resources = [
        reader.resource(
            "Pipeline",
            name,
            pipeline,
            metadata=metadata,
            annotations={base.FORM: FORM} if name == reader.name else None,
        )
        for name, pipeline in pipelines.items()
    ]
    return components.with_notes(reader, resources)


def _check_node(reader: Reader, name: str, node: Mapping[str, Any], nodes: Mapping[str, Any]) -> None:
    """What their own checks refuse, in their words."""
    path, graph = f"spec.nodes.{name}", reader.name
    steps = node.get("steps", [])
    if "routerType" not in node:
        reader.fault(f"{path}.routerType", "expected Sequence, Splitter, Ensemble or Switch, came none")
    if not steps:
        reader.fault(f"{path}.steps", "expected at least one step, came none")
    seen: set[str] = set()
    for index, step in enumerate(steps):
        title = step.get("name", "")
        if title and title in seen:
            reader.fault(
                f"{path}.steps[{index}]",
                f'Node "{name}" of InferenceGraph "{graph}" contains more than one step with name "{title}"',
            )
        seen.add(title)
        targets = [key for key in _TARGETS if step.get(key)]
        intro = f'Step {index} ("{title}") in node "{name}" of InferenceGraph "{graph}"'
        if not targets:
            reader.fault(f"{path}.steps[{index}]", f"{intro} does not specify an inference target")
        elif len(targets) > 1:
            reader.fault(
                f"{path}.steps[{index}]", f"{intro} specifies more than one of nodeName, serviceName, serviceUrl"
            )
        elif targets == ["nodeName"] and step["nodeName"] not in nodes:
            known = ", ".join(sorted(nodes))
            reader.fault(f"{path}.steps[{index}].nodeName", f"no node '{step['nodeName']}'; there are {known}")
        if node.get("routerType") == "Splitter" and "weight" not in step:
            reader.fault(
                f"{path}.steps[{index}].weight",
                f"InferenceGraph[{graph}] Node[{name}] Route[{title}] missing the 'Weight'",
            )
    total = sum(step.get("weight", 0) for step in steps)
    if node.get("routerType") == "Splitter" and all("weight" in step for step in steps) and total != 100:
        reader.fault(
            f"{path}.steps",
            f"InferenceGraph[{graph}] Node[{name}] the sum of traffic weights for all routing targets should be 100",
        )


class _Answer(msgspec.Struct, frozen=True):
    """What a node answers: these references, of which one will come if there are several."""

    references: tuple[str, ...]

    @property
    def join(self) -> Join:
        return "any" if len(self.references) > 1 else "inner"


class _Graph:
    """A graph on its way to pipelines: nodes become steps of the pipeline of the node that leads to them, unless
    their answer needs a pipeline of its own (an ensemble's, or the last of a sequence that may stop early).
    """

    def __init__(self, reader: Reader, nodes: Mapping[str, Any], spec: Mapping[str, Any]) -> None:
        self.reader = reader
        self.nodes = nodes
        self._timeout_ms = 1000 * int(spec.get("timeout", 0))
        self.step_ms = 1000 * int(spec.get("routerTimeouts", {}).get("serviceClient", 0))
        self._pipelines: dict[str, Pipeline] = {}
        self.used: set[str] = set()

    def convert(self) -> dict[str, Pipeline]:
        """The pipelines by name; the graph's own is the last."""
        self.pipeline("root", ())
        return self._pipelines

    def pipeline(self, node: str, above: tuple[str, ...]) -> str:
        """A pipeline of a node, made once."""
        name = self.reader.name if node == "root" else f"{self.reader.name}-{node}"
        if name not in self._pipelines:
            part = _Part(self, name)
            output = part.node(node, "", _Answer(()), above)
            pipeline = Pipeline(
                steps=tuple(part.steps), output=output, timeout_ms=self._timeout_ms if node == "root" else 0
            )
            self._pipelines[name] = pipeline
        return name

    def stands_alone(self, node: Mapping[str, Any]) -> bool:
        """Whether a node's answer can only be said as a pipeline's output."""
        kind, steps = node["routerType"], node["steps"]
        stops = any("condition" in step or step.get("dependency") == "Soft" for step in steps)
        return kind == "Ensemble" or (kind == "Sequence" and stops)


class _Part:
    """One pipeline of the graph on its way to steps."""

    def __init__(self, graph: _Graph, pipeline: str) -> None:
        self._graph = graph
        self._reader = graph.reader
        self._nodes = graph.nodes
        self._pipeline = pipeline
        self.steps: list[Step] = []

    def node(self, name: str, prefix: str, asked: _Answer, above: tuple[str, ...]) -> Output:
        """The steps of a node, added; gives what it answers, as an output would say it."""
        node = self._nodes[name]
        above = (*above, name)
        self._graph.used.add(name)
        match node["routerType"]:
            case "Sequence":
                return self._sequence(name, prefix, asked, above)
            case "Ensemble":
                answers = [
                    self._step(name, index, prefix, asked, above) for index in range(len(self._nodes[name]["steps"]))
                ]
                self._ignored(name, "weight", "condition", "data")
                soft = any(step.get("dependency") == "Soft" for step in node["steps"])
                references = tuple(each for answer in answers for each in answer.references)
                return Output(steps=references, steps_join="outer" if soft else "inner", by_step=True)
            case _:
                return self._choice(name, prefix, asked, above)

    def _choice(self, name: str, prefix: str, asked: _Answer, above: tuple[str, ...]) -> Output:
        """A splitter or switch: a step that routes, and those of the branches."""
        node = self._nodes[name]
        splits = node["routerType"] == "Splitter"
        self._ignored(name, "condition" if splits else "weight", "data")
        titles = [_title(step, index) for index, step in enumerate(node["steps"])]
        branches = tuple(
            Branch(name=title, weight=float(step["weight"]))
            if splits
            else Branch(name=title, when=_condition(step.get("condition", "")))
            for title, step in zip(titles, node["steps"], strict=True)
        )
        router = self._add(
            Step(
                name=self._unique(prefix.rstrip("-") or name),
                route=Route(type="weights" if splits else "conditions", branches=branches),
                inputs=asked.references,
                inputs_join_type=asked.join,
            )
        )
        references: list[str] = []
        for index, title in enumerate(titles):
            branch = _Answer((f"{router}.branches.{title}",))
            references += self._step(name, index, prefix, branch, above).references
        return Output(steps=tuple(references), steps_join="any" if len(references) > 1 else "inner")

    def _sequence(self, name: str, prefix: str, asked: _Answer, above: tuple[str, ...]) -> Output:
        """One step after the other."""
        steps = self._nodes[name]["steps"]
        self._ignored(name, "weight")
        answers: list[_Answer] = []
        before = _Answer(())
        for index, step in enumerate(steps):
            passes_on = index > 0 and step.get("data") == "$response"
            if index == 0 and step.get("data") == "$response":
                self._reader.note(
                    f"spec.nodes.{name}.steps[0].data", "without effect: nothing has answered yet", "$response"
                )
            given = before if passes_on else asked
            when = ""
            triggers: tuple[str, ...] = ()
            if "condition" in step and (index == 0 or passes_on):
                when = _condition(step["condition"])
            elif "condition" in step:
                gate = self._gate(name, index, prefix, before)
                triggers = (gate,)
            elif index > 0 and not passes_on and steps[index - 1].get("dependency") != "Soft":
                triggers = before.references
            before = self._step(name, index, prefix, given, above, when=when, triggers=triggers)
            answers.append(before)
        stops = self._graph.stands_alone(self._nodes[name])
        kept = tuple(each for answer in answers for each in answer.references) if stops else before.references
        return Output(steps=kept, steps_join="last" if stops and len(kept) > 1 else before.join)

    def _gate(self, name: str, index: int, prefix: str, before: _Answer) -> str:
        """A step that looks at the last answer, for one that is asked with the request.

        It always chooses: a router that chooses nothing would be a switch without a match, which is an error.
        """
        step = self._nodes[name]["steps"][index]
        branches = (Branch(name="holds", when=_condition(step["condition"])), Branch(name="ends"))
        gate = self._add(
            Step(
                name=self._unique(f"{prefix}{_title(step, index)}-if"),
                route=Route(type="conditions", branches=branches),
                inputs=before.references,
                inputs_join_type=before.join,
            )
        )
        return f"{gate}.branches.holds"

    def _step(
        self,
        node: str,
        index: int,
        prefix: str,
        asked: _Answer,
        above: tuple[str, ...],
        *,
        when: str = "",
        triggers: tuple[str, ...] = (),
    ) -> _Answer:
        """One step of a node: a model, one elsewhere, or another node."""
        path = f"spec.nodes.{node}.steps[{index}]"
        given = self._nodes[node]["steps"][index]
        title = f"{prefix}{_title(given, index)}"
        soft = given.get("dependency") == "Soft"
        step = Step(
            name=self._unique(title),
            inputs=asked.references,
            inputs_join_type=asked.join,
            when=when,
            triggers=triggers,
            triggers_join_type="any" if len(triggers) > 1 else "inner",
            dependency="soft" if soft else "hard",
            timeout_ms=self._graph.step_ms,
        )
        if "serviceName" in given:
            return _Answer((self._add(msgspec.structs.replace(step, model=given["serviceName"])),))
        if "serviceUrl" in given:
            url, model = self._elsewhere(given["serviceUrl"], path)
            return _Answer((self._add(msgspec.structs.replace(step, url=url, model=model)),))
        target = given["nodeName"]
        if target in above:
            chain = " -> ".join([*above, target])
            self._reader.fault(f"{path}.nodeName", f"nodes lead back to themselves: {chain}")
            return asked
        keyed = self._nodes[node]["routerType"] == "Ensemble"  # what answers is called by the step's name
        if soft or when or triggers or keyed or self._graph.stands_alone(self._nodes[target]):
            pipeline = self._graph.pipeline(target, above)
            return _Answer((self._add(msgspec.structs.replace(step, pipeline=pipeline)),))
        return _Answer(self.node(target, f"{title}-", asked, above).steps)

    def _elsewhere(self, url: str, path: str) -> tuple[str, str]:
        """Server and model of an address of theirs."""
        parts = urlsplit(url)
        match = _MODEL_PATH.search(parts.path)
        if parts.scheme not in {"http", "https", "grpc"} or not parts.netloc or match is None:
            self._reader.fault(
                f"{path}.serviceUrl",
                f"expected an address such as http://HOST/v2/models/NAME/infer or http://HOST/v1/models/NAME:predict, "
                f"came {url!r}",
            )
            return "", ""
        if match["old"]:
            self._reader.note(f"{path}.serviceUrl", "asked by the Open Inference Protocol at the same place", url)
        return f"{parts.scheme}://{parts.netloc}{parts.path[: match.start()]}", unquote(match["old"] or match["new"])

    def _ignored(self, node: str, *keys: str) -> None:
        """Fields of steps that this kind of node does not look at."""
        kind = self._nodes[node]["routerType"]
        for index, step in enumerate(self._nodes[node]["steps"]):
            for key in keys:
                if key in step:
                    self._reader.note(
                        f"spec.nodes.{node}.steps[{index}].{key}", f"without effect in a {kind}", step[key]
                    )

    def _add(self, step: Step) -> str:
        self.steps.append(step)
        return step.name

    def _unique(self, title: str) -> str:
        """A step's name that is nobody else's."""
        name = title
        taken = {step.name for step in self.steps} | {self._pipeline}
        found, number = name, 2
        while found in taken:
            found, number = f"{name}-{number}", number + 1
        return found


_MODEL_PATH: Final = re.compile(r"/v1/models/(?P<old>[^/:]+)(?::predict)?/?$|/v2/models/(?P<new>[^/]+)(?:/infer)?/?$")


_NOT_IN_NAMES: Final = re.compile(r"[^A-Za-z0-9_-]+")


def _title(step: Mapping[str, Any], index: int) -> str:
    return _NOT_IN_NAMES.sub("-", step.get("name", "")).strip("-") or str(index)


def _condition(text_: str) -> str:
    return f"json:{text_}" if text_ else ""


# -- the other kinds --

TRAINED_MODEL: Final[Mapping[str, Field]] = {
    "inferenceService": idle("every model is served under its own name"),
    "model": group(
        {
            "storageUri": text("`uri`"),
            "framework": text("`requirements`"),
            "memory": quantity("`memoryBytes`"),
        }
    ),
}


def _trained_model(content: Document, where: str, folder: str) -> list[Resource]:
    reader = Reader(content, base.document(TRAINED_MODEL), where=where, base=folder)
    found = reader.read()
    spec = found["spec"].get("model", {})
    if not spec.get("storageUri"):
        reader.fault("spec.model.storageUri", "expected where the model is, came nothing")
    reader.finish()
    model = Model(
        uri=spec["storageUri"],
        requirements=(spec["framework"],) if "framework" in spec else (),
        memory_bytes=base.amount(spec.get("memory", 0)),
    )
    return [reader.resource("Model", reader.name, model, metadata=found["metadata"], main=True)]


SERVING_RUNTIME: Final[Mapping[str, Field]] = {
    "supportedModelFormats": several(
        group(
            {
                "name": text("`extraCapabilities`"),
                "version": idle("the library that is installed here is used"),
                "autoSelect": idle("the runtime is chosen by the model's content"),
                "priority": idle("the runtime is chosen by the model's content"),
            }
        )
    ),
    "disabled": flag("true: no `extraCapabilities`"),
    **{
        name: idle(pods.NO_PODS)
        for name in (
            *pods.POD,
            "containers",
            "labels",
            "annotations",
            "multiModel",
            "protocolVersions",
            "workerSpec",
            "grpcEndpoint",
            "grpcDataEndpoint",
            "httpDataEndpoint",
            "replicas",
            "storageHelper",
            "builtInAdapter",
        )
    },
}


def _serving_runtime(content: Document, where: str, folder: str) -> list[Resource]:
    reader = Reader(content, base.document(SERVING_RUNTIME), where=where, base=folder)
    found = reader.read()
    spec = found["spec"]
    formats = [each["name"] for each in spec.get("supportedModelFormats", ()) if "name" in each]
    server = Server() if spec.get("disabled") else Server(extra_capabilities=tuple(dict.fromkeys(formats)))
    reader.finish()
    return [reader.resource("Server", reader.name, server, metadata=found["metadata"], main=True)]


_REFUSED: Final[Mapping[str, str]] = {
    "LocalModelCache": "files are fetched when a model needs them; `headrace fetch` brings them ahead",
    "LocalModelNodeGroup": "there are no nodes",
    "LocalModelNode": "there are no nodes",
    "LocalModelNamespaceCache": "files are fetched when a model needs them; `headrace fetch` brings them ahead",
    "ClusterStorageContainer": "files are fetched by the server itself; set `models.uri_mirrors` for other places",
    "LLMInferenceService": "prompts are not served",
    "LLMInferenceServiceConfig": "prompts are not served",
}


def _refuse(content: Document, where: str, folder: str) -> list[Resource]:
    del folder
    kind = str(content["kind"])
    raise InvalidResources([f"{where}: {kind} is refused: {_REFUSED[kind]}. Leave it out of what is applied here"])


_TABLE: Final = base.document(INFERENCE_SERVICE)
_VERSIONS: Final = ("v1alpha1", "v1alpha2")
TABLES: Final[Mapping[str, Field]] = MappingProxyType(
    {
        "InferenceService": _TABLE,
        "InferenceGraph": base.document(INFERENCE_GRAPH),
        "TrainedModel": base.document(TRAINED_MODEL),
        "ServingRuntime, ClusterServingRuntime": base.document(SERVING_RUNTIME),
    }
)
"""By kind; for the docs."""
REFUSED: Final[Mapping[str, str]] = MappingProxyType(dict(_REFUSED))
"""Kinds that are refused, with the reason; for the docs."""

KINDS: Final[Mapping[tuple[str, str], Converter]] = MappingProxyType(
    {
        (f"{GROUP}/v1beta1", "InferenceService"): _inference_service,
        (f"{OLD_GROUP}/v1beta1", "InferenceService"): _inference_service,
        (f"{GROUP}/v1alpha1", "InferenceGraph"): _inference_graph,
        (f"{GROUP}/v1alpha1", "TrainedModel"): _trained_model,
        (f"{OLD_GROUP}/v1alpha1", "TrainedModel"): _trained_model,
        (f"{GROUP}/v1alpha1", "ServingRuntime"): _serving_runtime,
        (f"{GROUP}/v1alpha1", "ClusterServingRuntime"): _serving_runtime,
        **{(f"{GROUP}/{version}", kind): _refuse for version in _VERSIONS for kind in _REFUSED},
    }
)
