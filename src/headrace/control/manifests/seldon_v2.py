"""Manifests of Seldon Core v2 (`mlops.seldon.io/v1alpha1`) as our resources. Called by `manifests.convert`; pure.

Its pipelines and experiments are ours nearly letter by letter; what is about pods has no effect. Their pipelines pass
through Kafka always, ours do where the annotation `headrace.io/durability: kafka` says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

import msgspec

from headrace.control.manifests import base, explainers
from headrace.control.manifests.base import (
    Converter,
    Document,
    Field,
    Reader,
    anything,
    flag,
    group,
    idle,
    mapped,
    number,
    quantity,
    refused,
    several,
    text,
    whole,
)
from headrace.control.resources import Candidate, Experiment, Mirror, Model, Resource, Server
from headrace.graph.spec import Pipeline
from headrace.payload import EMPTY

GROUP: Final = "mlops.seldon.io/v1alpha1"

IDLE_SECONDS: Final = 600.0
"""After which their scheduler lets go of a model whose `minReplicas` is 0, in seconds."""

_PODS: Final = "models live in this process, there are no pods"
_KAFKA: Final = "set `kafka` of the server"
_DATAFLOW: Final = idle("a model has no topics of its own", fields=base.plain("cleanTopicsOnDelete", form="flag"))
_DURABILITY: Final = "headrace.io/durability"
"""The annotation of a pipeline that says what `durability` says of ours."""
_JOINS: Final = ("inner", "outer", "any")

MODEL: Final[Mapping[str, Field]] = {
    "modelType": idle("a model is recognised by its content"),
    "storageUri": text("`uri`"),
    "artifactVersion": whole("`artifactVersion`"),
    "schemaUri": idle("a model's inputs and outputs are those that it declares"),
    "secretName": idle("files are read with the rights of the server itself"),
    "requirements": several(text("`requirements`")),
    "memory": quantity("`memoryBytes`"),
    "replicas": whole("`replicas`; 0: `load: onDemand`"),
    "minReplicas": whole("`minReplicas`; 0: `idleSeconds: 600` too"),
    "maxReplicas": whole("`maxReplicas`"),
    "server": text("`server`"),
    "preloaded": idle("a server brings no models of its own"),
    "dedicated": idle(_PODS),
    "logger": idle("requests are not logged by a model's own setting", fields=base.plain("percent", form="whole")),
    "explainer": group(
        {
            "type": text("`parameters.method`, by our name for it"),
            "modelRef": text("`parameters.model`"),
            "pipelineRef": text("`parameters.model`"),
        },
        "`runtime: explainer`",
    ),
    "llm": refused("prompts are not served", fields=base.plain("modelRef", "pipelineRef", form="text")),
    "parameters": several(group({"name": text("a key of `parameters`"), "value": text("its value")})),
    "dataflow": _DATAFLOW,
}
_REFERENCES: Final = several(text("as it is"))
_TENSOR_MAP: Final = mapped(text("`tensorMap`"))
PIPELINE: Final[Mapping[str, Field]] = {
    "input": group(
        {
            "externalInputs": _REFERENCES,
            "externalTriggers": _REFERENCES,
            "joinWindowMs": whole("as it is"),
            "joinType": text("as it is", *_JOINS),
            "triggersJoinType": text("as it is", *_JOINS),
            "tensorMap": _TENSOR_MAP,
        }
    ),
    "steps": several(
        group(
            {
                "name": text("`name`, and the model's"),
                "inputs": _REFERENCES,
                "joinWindowMs": whole("as it is"),
                "tensorMap": _TENSOR_MAP,
                "triggers": _REFERENCES,
                "inputsJoinType": text("as it is", *_JOINS),
                "triggersJoinType": text("as it is", *_JOINS),
                "batch": group(
                    {
                        "size": whole("as it is"),
                        "windowMs": whole("as it is"),
                        "rolling": idle("rows are gathered once each", "flag"),
                    }
                ),
            }
        )
    ),
    "output": group(
        {
            "steps": _REFERENCES,
            "joinWindowMs": whole("as it is"),
            "stepsJoin": text("as it is", *_JOINS),
            "tensorMap": _TENSOR_MAP,
        }
    ),
    "dataflow": group({"cleanTopicsOnDelete": flag("as it is, with `durability: kafka`")}),
    "allowCycles": flag("as it is"),
    "maxStepRevisits": whole("as it is"),
}
EXPERIMENT: Final[Mapping[str, Field]] = {
    "default": text("as it is"),
    "candidates": several(group({"name": text("as it is"), "weight": number("as it is")})),
    "mirror": group({"name": text("as it is"), "percent": number("as it is")}),
    "resourceType": text("as it is", "model", "pipeline"),
}
SERVER: Final[Mapping[str, Field]] = {
    "serverConfig": idle("this process is the server"),
    "capabilities": several(text("`capabilities`")),
    "extraCapabilities": several(text("`extraCapabilities`")),
    "imageOverrides": idle(_PODS, fields=base.plain("agent", "rclone")),
    "podSpec": anything(
        "env `SELDON_OVERCOMMIT_PERCENTAGE` of the container `agent`: `overcommitPercent`; the rest is without effect"
    ),
    "statefulSetPersistentVolumeClaimRetentionPolicy": idle(_PODS),
    "replicas": whole("`replicas`"),
    "minReplicas": idle(_PODS, "whole"),
    "maxReplicas": idle(_PODS, "whole"),
    "deploymentStrategy": idle(_PODS),
    "disableAutoUpdate": idle(_PODS, "flag"),
}
SERVER_CONFIG: Final[Mapping[str, Field]] = {"podSpec": idle(_PODS), "volumeClaimTemplates": idle(_PODS)}
_CONFIG: Final = group(
    {
        "scalingConfig": idle("the server's own settings decide"),
        "tracingConfig": idle("set `tracing.otlp_endpoint` of the server"),
        "kafkaConfig": idle(_KAFKA),
        "agentConfig": idle("files are read with the rights of the server itself", secret=True),
        "serviceConfig": idle(_PODS),
    }
)
SELDON_RUNTIME: Final[Mapping[str, Field]] = {
    "seldonConfig": idle(_PODS),
    "overrides": idle(_PODS),
    "config": _CONFIG,
    "disableAutoUpdate": idle(_PODS, "flag"),
}
SELDON_CONFIG: Final[Mapping[str, Field]] = {"components": idle(_PODS), "config": _CONFIG}


def _model(content: Document, where: str, folder: str) -> list[Resource]:
    reader = Reader(content, base.document(MODEL), where=where, base=folder)
    found = reader.read()
    spec = found["spec"]
    elsewhere = [key for key in ("explainer", "llm") if (content.get("spec") or {}).get(key)]
    if len(elsewhere) > 1:
        reader.fault("spec", "explainer and llm exclude each other")
    if not spec.get("storageUri") and not elsewhere:
        reader.fault("spec.storageUri", "expected where the model is, came nothing")
    _bounds(reader, spec)
    for key in ("minReplicas", "maxReplicas"):
        if spec.get(key, 0) > 1:
            reader.note(f"spec.{key}", "without effect: replicas do not come and go in one process", spec[key])
    if "explainer" in elsewhere:
        spec = _explainer(reader, spec)
    elif elsewhere and "requirements" in spec:
        reader.note("spec.requirements", f"without effect: the {elsewhere[0]} is refused")
    replicas = spec.get("replicas", 1)
    waits = "llm" in elsewhere or replicas == 0
    model = Model(
        runtime=spec.get("runtime", ""),
        uri=spec.get("storageUri", ""),
        artifact_version=str(spec["artifactVersion"]) if "artifactVersion" in spec else "",
        requirements=() if elsewhere else tuple(spec.get("requirements", ())),
        memory_bytes=base.amount(spec.get("memory", 0)),
        replicas=max(replicas, 1),
        min_replicas=spec.get("minReplicas"),
        max_replicas=spec.get("maxReplicas"),
        server=spec.get("server", ""),
        load="onDemand" if waits else "always",
        idle_seconds=IDLE_SECONDS if spec.get("minReplicas") == 0 else 0.0,
        parameters=spec["explains"]
        if "explains" in spec
        else {each.get("name", ""): each.get("value", "") for each in spec.get("parameters", ())} or EMPTY,
    )
    reader.finish()
    return [reader.resource("Model", reader.name, model, metadata=found["metadata"], main=True)]


def _explainer(reader: Reader, spec: Mapping[str, Any]) -> dict[str, Any]:
    """The spec of a model that explains another, in our words: `runtime`, and `explains` for its parameters."""
    given = spec.get("explainer", {})
    kind, model = given.get("type", ""), given.get("modelRef", "")
    if not model and given.get("pipelineRef"):
        model = f"{given['pipelineRef']}.pipeline"
    if not model:
        reader.fault("spec.explainer", "expected modelRef or pipelineRef, came neither")
    asked = explainers.Asked(
        kind=kind,
        path="spec.explainer.type",
        uri=spec.get("storageUri", ""),
        uri_path="spec.storageUri",
        options={each.get("name", ""): each.get("value", "") for each in spec.get("parameters", ())},
        options_path="spec.parameters",
    )
    found = explainers.model(reader, asked, explains=model)
    if "requirements" in spec:
        reader.note("spec.requirements", "without effect: any server explains", ", ".join(spec["requirements"]))
    return {**spec, "storageUri": found.uri, "runtime": found.runtime, "explains": found.parameters}


def _bounds(reader: Reader, spec: Mapping[str, Any]) -> None:
    replicas, least, most = spec.get("replicas"), spec.get("minReplicas"), spec.get("maxReplicas")
    if replicas is not None and least is not None and replicas < least:
        reader.fault("spec.replicas", f"number of replicas {replicas} must be >= min replicas {least}")
    if replicas is not None and most is not None and replicas > most:
        reader.fault("spec.replicas", f"number of replicas {replicas} must be <= max replicas {most}")
    if least is not None and most is not None and most < least:
        reader.fault("spec.maxReplicas", f"max number of replicas {most} must be >= min number of replicas {least}")


def _pipeline(content: Document, where: str, folder: str) -> list[Resource]:
    reader = Reader(content, base.document(PIPELINE), where=where, base=folder)
    found = reader.read()
    for index, step in enumerate(found["spec"].get("steps", ())):
        if not step.get("name"):
            reader.fault(f"spec.steps[{index}].name", "expected a name, came none")
    durability = str(found["metadata"].get("annotations", {}).get(_DURABILITY, "memory"))
    if durability not in {"memory", "kafka"}:
        reader.fault(f"metadata.annotations.{_DURABILITY}", f"expected memory or kafka, came {durability!r}")
    cleans = found["spec"].get("dataflow", {}).get("cleanTopicsOnDelete")
    if cleans and durability == "memory":
        reader.note(
            "spec.dataflow.cleanTopicsOnDelete",
            f"without effect: nothing of it is written to topics; the annotation {_DURABILITY}: kafka changes that",
            cleans,
        )
    reader.finish()
    spec = msgspec.structs.replace(msgspec.convert(found["spec"], Pipeline), durability=durability)
    if spec.output is not None and len(spec.output.steps) > 1 and spec.output.steps_join != "any":
        spec = msgspec.structs.replace(spec, output=msgspec.structs.replace(spec.output, repeats=True))
    return [reader.resource("Pipeline", reader.name, spec, metadata=found["metadata"], main=True)]


def _experiment(content: Document, where: str, folder: str) -> list[Resource]:
    reader = Reader(content, base.document(EXPERIMENT), where=where, base=folder)
    found = reader.read()
    spec = found["spec"]
    named = [(f"candidates[{index}]", each) for index, each in enumerate(spec.get("candidates", ()))]
    named += [("mirror", spec["mirror"])] if "mirror" in spec else []
    for path, each in named:
        if not each.get("name"):
            reader.fault(f"spec.{path}.name", "expected a name, came none")
    mirror = spec.get("mirror")
    if mirror is not None and mirror.get("percent", 0) > 100:
        reader.fault("spec.mirror.percent", f"expected 0 to 100, came {mirror['percent']}")
    reader.finish()
    experiment = Experiment(
        default=spec.get("default", ""),
        candidates=tuple(
            Candidate(name=each["name"], weight=float(each.get("weight", 1))) for each in spec.get("candidates", ())
        ),
        mirror=Mirror(name=mirror["name"], percent=float(mirror.get("percent", 0))) if mirror else None,
        resource_type=spec.get("resourceType", "model"),
    )
    return [reader.resource("Experiment", reader.name, experiment, metadata=found["metadata"], main=True)]


def _server(content: Document, where: str, folder: str) -> list[Resource]:
    reader = Reader(content, base.document(SERVER), where=where, base=folder)
    found = reader.read()
    spec = found["spec"]
    server = Server(
        capabilities=tuple(spec.get("capabilities", ())),
        extra_capabilities=tuple(spec.get("extraCapabilities", ())),
        replicas=spec.get("replicas", 1),
        overcommit_percent=_overcommit(reader, spec["podSpec"]) if "podSpec" in spec else 0,
    )
    if server.replicas != 1:
        reader.note("spec.replicas", "without effect: this process is the server", server.replicas)
    reader.finish()
    return [reader.resource("Server", reader.name, server, metadata=found["metadata"], main=True)]


_OVERCOMMIT: Final = "SELDON_OVERCOMMIT_PERCENTAGE"


def _overcommit(reader: Reader, pods: Any) -> int:
    """What the agent's environment says of it; everything else of the pods is noted, by its path."""
    percent = 0
    for path, value in _leaves(pods, "spec.podSpec"):
        if isinstance(value, Mapping) and value.get("name") == _OVERCOMMIT:
            given = str(value.get("value", ""))
            if given.isdecimal():
                percent = int(given)
            else:
                reader.fault(f"{path}.value", f"expected a percentage, came {given!r}")
            continue
        reader.note(path, f"without effect: {_PODS}")
    return percent


def _leaves(value: Any, path: str) -> list[tuple[str, Any]]:
    """The parts of pods that are noted by themselves; a variable of the environment is one."""
    if isinstance(value, Mapping) and value and not path.rpartition(".")[2].startswith("env["):
        return [leaf for key, each in value.items() for leaf in _leaves(each, f"{path}.{key}")]
    if isinstance(value, list) and value and isinstance(value[0], Mapping):
        return [leaf for index, each in enumerate(value) for leaf in _leaves(each, f"{path}[{index}]")]
    return [(path, value)]


def _elsewhere(table: Mapping[str, Field]) -> Converter:
    """What is about the cluster of theirs: kept as a server that takes nothing and says what has no effect."""

    def convert(content: Document, where: str, folder: str) -> list[Resource]:
        reader = Reader(content, base.document(table), where=where, base=folder)
        found = reader.read()
        reader.note("kind", "without effect: this process is configured by its own settings", reader.kind)
        reader.finish()
        name = f"{reader.name}-{reader.kind.lower()}"
        return [reader.resource("Server", name, Server(), metadata=found["metadata"], main=True)]

    return convert


TABLES: Final[Mapping[str, Field]] = MappingProxyType(
    {
        "Model": base.document(MODEL),
        "Pipeline": base.document(PIPELINE),
        "Experiment": base.document(EXPERIMENT),
        "Server": base.document(SERVER),
        "ServerConfig": base.document(SERVER_CONFIG),
        "SeldonRuntime": base.document(SELDON_RUNTIME),
        "SeldonConfig": base.document(SELDON_CONFIG),
    }
)
"""By kind; for the docs."""

KINDS: Final[Mapping[tuple[str, str], Converter]] = MappingProxyType(
    {
        (GROUP, "Model"): _model,
        (GROUP, "Pipeline"): _pipeline,
        (GROUP, "Experiment"): _experiment,
        (GROUP, "Server"): _server,
        (GROUP, "ServerConfig"): _elsewhere(SERVER_CONFIG),
        (GROUP, "SeldonRuntime"): _elsewhere(SELDON_RUNTIME),
        (GROUP, "SeldonConfig"): _elsewhere(SELDON_CONFIG),
    }
)
