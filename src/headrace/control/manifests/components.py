"""What KServe and KFServing share: the components of an inference service, as models and pipelines of ours; pure.

A predictor is a model. With a transformer in front the two are a pipeline of the service's name. The dialects say which
fields there are; this says what they mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from headrace.control.manifests import base, explainers, pods
from headrace.control.manifests.base import Field, Reader, group, idle, text, whole
from headrace.control.resources import EXPLAINER_NAME, Batching, Model, Resource
from headrace.graph.spec import Output, Pipeline, Step
from headrace.payload import EMPTY

IDLE_SECONDS: Final = 60.0
"""After which what has `minReplicas: 0` leaves memory: their autoscaler's window, in seconds."""
POSTPROCESS: Final = "headrace.io/postprocess"
"""The annotation `headrace.io/postprocess: file.py:Class`: what a transformer does with the predictor's answer."""

PREDICT_PROBA: Final = "PREDICT_PROBA"
STORAGE_URI: Final = "STORAGE_URI"

_CREDENTIALS: Final = "files are read with the rights of the server itself"
_SCALING: Final = "replicas do not come and go in one process"
_LOGGER: Final = idle(
    "requests are not logged by a component's own setting",
    fields=base.plain(
        "url",
        "mode",
        "metadataHeaders",
        "metadataAnnotations",
        "storage",
        "marshallerUrl",
        "batchSize",
        "batchInterval",
    ),
)
SCALE: Final[Mapping[str, Field]] = {
    "minReplicas": whole("`minReplicas`; 0: `load: onDemand` and `idleSeconds: 60` too"),
    "maxReplicas": whole("`maxReplicas`; 0: no bound"),
    "logger": _LOGGER,
}
"""What every component of every generation has."""
EXTENSION: Final[Mapping[str, Field]] = {
    **SCALE,
    "scaleTarget": idle(_SCALING, "whole"),
    "scaleMetric": idle(_SCALING, "text"),
    "scaleMetricType": idle(_SCALING, "text"),
    "autoScaling": idle(_SCALING, fields=base.plain("metrics", "behavior")),
    "containerConcurrency": idle("`batching.maxQueueSize` bounds the requests that wait", "whole"),
    "timeout": whole("`timeoutSeconds`"),
    "canaryTrafficPercent": whole("`canaryTrafficPercent`"),
    "batcher": group(
        {
            "maxBatchSize": whole("`batching.maxBatchSize`"),
            "maxLatency": whole("`batching.maxWaitSeconds`"),
            "timeout": idle("a request's own time counts"),
        }
    ),
    "labels": base.mapped(text("`metadata.labels`")),
    "annotations": base.mapped(text("`metadata.annotations`")),
    "deploymentStrategy": idle(pods.NO_PODS),
}
"""What every component of v1beta1 has."""
TRANSFORMER: Final[Mapping[str, Field]] = {
    name: idle("that of the predictor counts") for name in ("batcher", "canaryTrafficPercent")
}
"""What of that a transformer has no use for."""
STORAGE: Final = group(
    {
        "key": idle(_CREDENTIALS, "text"),
        "path": text("the end of `uri`"),
        "parameters": group(
            {
                "type": text("the beginning of `uri`; `s3` where it is not given"),
                "bucket": text("the middle of `uri`"),
                **{
                    name: idle(_CREDENTIALS, secret=True)
                    for name in (
                        "access_key_id",
                        "anonymous",
                        "cabundle_configmap",
                        "certificate",
                        "endpoint_url",
                        "region",
                        "secret_access_key",
                    )
                },
            }
        ),
        "schemaPath": idle("a model's inputs and outputs are those that it declares"),
    }
)
FRAMEWORK: Final[Mapping[str, Field]] = {
    **{name: field for name, field in pods.CONTAINER.items() if name != "image"},
    "image": idle(pods.NO_IMAGE),
    "name": idle(pods.NO_PODS, "text"),
    "storageUri": text("`uri`"),
    "storage": STORAGE,
    "runtime": idle("the runtime is chosen by the model's content", "text"),
    "runtimeVersion": idle("the library that is installed here is used", "text"),
    "protocolVersion": idle("every protocol is answered", "text"),
}
"""A predictor's model, by the name of its framework."""
FRAMEWORKS: Final = (
    "sklearn",
    "xgboost",
    "tensorflow",
    "pytorch",
    "triton",
    "onnx",
    "huggingface",
    "pmml",
    "lightgbm",
    "paddle",
    "tensorrt",
)
LIBRARIES: Final = ("alibi", "aix", "art")
"""Whose explainers a component may name by their type."""
EXPLAINER: Final[Mapping[str, Field]] = {
    **dict.fromkeys(LIBRARIES, msgspec.structs.replace(explainers.typed("storageUri"), called="alibi|aix|art")),
    "timeout": idle("an explanation has a deadline of its own, the folder's or the request's"),
    **{name: idle("that of the predictor counts") for name in ("batcher", "canaryTrafficPercent")},
}
"""What of that an explainer has by itself, and what it has no use for."""

ANNOTATIONS: Final = (
    "serving.kserve.io/",
    "serving.kubeflow.org/",
    "networking.k",
    "internal.serving.",
    "autoscaling.",
)
"""How annotations begin that mean something to them and nothing here, but for `STOP`."""
STOP: Final = "serving.kserve.io/stop"


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """A predictor, with what stands before it."""

    path: str
    predictor: Mapping[str, Any]
    predictor_path: str
    transformer: Mapping[str, Any] | None = None
    explainer: Mapping[str, Any] | None = None
    explained_at: str = ""
    """The name at which the explainer is asked, and which begins its own; empty: the endpoint's."""


def framework_of(reader: Reader, predictor: Mapping[str, Any], path: str) -> tuple[str, Mapping[str, Any], str]:
    """A predictor's framework, what is said of it, and where; an empty name: a container of its own."""
    given = [(name, predictor[name], f"{path}.{name}") for name in (*FRAMEWORKS, "model") if name in predictor]
    containers = containers_of(predictor)
    if len(given) + bool(containers) != 1:
        what = ", ".join([name for name, _, _ in given] + (["a container"] if containers else [])) or "nothing"
        reader.fault(path, f"expected exactly one of model, {', '.join(FRAMEWORKS)} or a container, came {what}")
        if not given and not containers:
            return "", {}, path
    if not given:
        place = f"{path}.containers[0]" if "containers" in predictor else f"{path}.custom.container"
        return "", containers[0], place
    name, content, place = given[0]
    if name == "model":
        format_ = content.get("modelFormat", {})
        name = format_.get("name", "")
        if not name:
            reader.fault(f"{place}.modelFormat.name", "expected the framework's name, came none")
    return name, content, place


def model_of(
    reader: Reader, predictor: Mapping[str, Any], path: str, *, annotations: Mapping[str, str], component: str
) -> Model:
    """A predictor as a model of ours."""
    name, content, place = framework_of(reader, predictor, path)
    model = (
        _framework(reader, name, content, place)
        if name
        else _custom_model(reader, content, place, annotations, component)
        if place != path  # there is a container
        else Model()
    )
    model = _scaled(reader, model, predictor, path)
    batcher = predictor.get("batcher")
    if batcher is not None:
        batching = Batching(max_batch_size=batcher.get("maxBatchSize") or 32)
        if "maxLatency" in batcher:
            batching = msgspec.structs.replace(batching, max_wait_seconds=batcher["maxLatency"] / 1000)
        model = msgspec.structs.replace(model, batching=batching)
    percent = predictor.get("canaryTrafficPercent")
    if percent is not None and percent > 100:
        reader.fault(f"{path}.canaryTrafficPercent", f"expected 0 to 100, came {percent}")
    return msgspec.structs.replace(
        model, timeout_seconds=float(predictor.get("timeout", 0)), canary_traffic_percent=percent
    )


def _framework(reader: Reader, name: str, content: Mapping[str, Any], path: str) -> Model:
    env = pods.variables(reader, content, path, honoured=(PREDICT_PROBA,))
    parameters: dict[str, Any] = {}
    if PREDICT_PROBA in env:
        wanted = env[PREDICT_PROBA].strip().lower() == "true"
        if not wanted and env[PREDICT_PROBA].strip().lower() != "false":
            reader.fault(f"{path}.env", f"{PREDICT_PROBA}: expected true or false, came {env[PREDICT_PROBA]!r}")
        if name == "sklearn":
            parameters["default_outputs"] = ["predict_proba" if wanted else "predict"]
        else:
            reader.note(f"{path}.env", f"without effect: {PREDICT_PROBA} is for sklearn")
    uri = content.get("storageUri") or content.get("modelUri") or _stored(reader, content, path)
    if not uri:
        reader.fault(f"{path}.storageUri", f"expected where the {name} model is, came nothing")
    return Model(uri=uri, requirements=(name,), parameters=parameters or EMPTY)


def _stored(reader: Reader, content: Mapping[str, Any], path: str) -> str:
    """The uri of a `storage`: type, bucket and path put together."""
    storage = content.get("storage")
    if storage is None:
        return ""
    given = storage.get("parameters", {})
    inside = storage.get("path", "").lstrip("/")
    if "bucket" not in given:
        reader.note(f"{path}.storage.path", "taken as relative to the manifest, as no bucket is given", inside)
        return str(inside)
    uri: str = f"{given.get('type', 's3')}://{given['bucket']}/{inside}"
    return uri.rstrip("/")


def _custom_model(
    reader: Reader, container: Mapping[str, Any], path: str, annotations: Mapping[str, str], component: str
) -> Model:
    env = pods.variables(reader, container, path, honoured=(STORAGE_URI,))
    names = [component, *([container["name"]] if "name" in container else [])]
    reference = base.class_of(annotations, *names)
    if "name" in container and base.class_of(annotations, component):
        reader.note(f"{path}.name", f"without effect: {pods.NO_PODS}", container["name"])
    if not reference:
        reader.fault(path, pods.code_needed(names, container.get("image", "")))
    if "image" in container:
        reader.note(f"{path}.image", f"without effect: {pods.NO_IMAGE}", container["image"])
    if STORAGE_URI in env and component == "transformer":
        reader.fault(f"{path}.env", "storage uri should not be specified in transformer container")
    elif STORAGE_URI in env:
        reader.note(f"{path}.env", "refused: a class of one's own opens its own files", env[STORAGE_URI])
    return Model(reference=reference)


def _scaled(reader: Reader, model: Model, component: Mapping[str, Any], path: str) -> Model:
    least, most = component.get("minReplicas"), component.get("maxReplicas")
    for key, value in (("minReplicas", least), ("maxReplicas", most)):
        if value is not None and value > 1:
            reader.note(f"{path}.{key}", f"without effect: {_SCALING}", value)
    if least and most and least > most:
        reader.fault(f"{path}.maxReplicas", f"expected at least minReplicas, which is {least}, came {most}")
    gone = least == 0
    return msgspec.structs.replace(
        model,
        min_replicas=least,
        max_replicas=most or None,
        load="onDemand" if gone else "always",
        idle_seconds=IDLE_SECONDS if gone else 0.0,
    )


def resources_of(reader: Reader, endpoint: Endpoint, name: str, *, metadata: Mapping[str, Any]) -> list[Resource]:
    """An endpoint as resources: a model of that name, or two and a pipeline of that name, which is the last; before it
    the model that explains it, if there is one.

    Args:
        reader: Takes faults and notes.
        endpoint: What there is.
        name: Under which it answers.
        metadata: The document's.
    """
    annotations = metadata.get("annotations", {})
    predictor = endpoint.predictor
    about = _about(metadata, predictor)
    model = model_of(
        reader, predictor, endpoint.predictor_path, annotations=about.get("annotations", {}), component="predictor"
    )
    stopped = annotations.get(STOP, "").lower() == "true"
    if stopped:
        model = _stopped(reader, model)
    answers = name if endpoint.transformer is None else f"{name}-predictor"
    explaining = _explained(reader, endpoint, answers, name, metadata=metadata, stopped=stopped)
    if endpoint.transformer is None:
        return [*explaining, reader.resource("Model", name, model, metadata=about)]
    path = f"{endpoint.path}.transformer" if endpoint.path else "transformer"
    steps, before = _transformed(reader, endpoint.transformer, path, name, metadata=metadata, stopped=stopped)
    pipeline = Pipeline(
        steps=tuple(steps),
        output=Output(steps=(steps[-1].name,)),
        timeout_ms=1000 * int(endpoint.transformer.get("timeout", 0)),
    )
    return [
        *before,
        *explaining,
        reader.resource("Model", answers, model, metadata=about),
        reader.resource("Pipeline", name, pipeline, metadata=metadata),
    ]


def _explained(
    reader: Reader, endpoint: Endpoint, answers: str, name: str, *, metadata: Mapping[str, Any], stopped: bool
) -> list[Resource]:
    """The model that explains an endpoint's predictor; none, where no explainer is asked for."""
    explainer = endpoint.explainer
    if explainer is None:
        return []
    path = f"{endpoint.path}.explainer"
    containers = containers_of(explainer)
    given = [(library, explainer[library]) for library in LIBRARIES if library in explainer]
    if len(given) + bool(containers) != 1:
        what = ", ".join([library for library, _ in given] + (["a container"] if containers else [])) or "nothing"
        reader.fault(path, f"expected exactly one of {', '.join(LIBRARIES)} or a container, came {what}")
        return []
    if given:
        ((library, content),) = given
        asked = explainers.of_type(content, f"{path}.{library}", "storageUri")
    else:
        place = f"{path}.containers[0]" if "containers" in explainer else f"{path}.custom.container"
        asked = explainers.of_container(reader, containers[0], place)
    at = endpoint.explained_at or name
    model = _scaled(reader, explainers.model(reader, asked, explains=answers, endpoint=at), explainer, path)
    if stopped:
        model = _stopped(reader, model)
    return [reader.resource("Model", f"{at}{EXPLAINER_NAME}", model, metadata=_about(metadata, explainer))]


def containers_of(component: Mapping[str, Any]) -> list[Any]:
    """A component's containers, of either generation."""
    given: list[Any] = component.get("containers", [])
    return given or ([component["custom"]["container"]] if component.get("custom", {}).get("container") else [])


def _stopped(reader: Reader, model: Model) -> Model:
    note = f"metadata.annotations.{STOP}: true: not loaded until a request asks for it"
    if note not in reader.notes:
        reader.notes.append(note)
    return msgspec.structs.replace(model, load="onDemand")


def as_pipeline(reader: Reader, name: str, model: str, *, metadata: Mapping[str, Any]) -> Resource:
    """A pipeline that asks one model, for where only pipelines can stand beside each other."""
    spec = Pipeline(steps=(Step(name="predictor", model=model),), output=Output(steps=("predictor",)))
    return reader.resource("Pipeline", name, spec, metadata=metadata)


def _about(metadata: Mapping[str, Any], component: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(metadata)
    for key in ("labels", "annotations"):
        if component.get(key):
            merged[key] = {**metadata.get(key, {}), **component[key]}
    return merged


def _transformed(
    reader: Reader,
    transformer: Mapping[str, Any],
    path: str,
    name: str,
    *,
    metadata: Mapping[str, Any],
    stopped: bool,
) -> tuple[list[Step], list[Resource]]:
    """The steps of a pipeline from transformer to predictor and back, and the transformer's models."""
    containers = containers_of(transformer)
    place = f"{path}.containers[0]" if "containers" in transformer else f"{path}.custom.container"
    predict = Step(name="predictor", model=f"{name}-predictor", inputs=("transformer",))
    if not containers:
        reader.fault(path, "expected a container, came none")
        return [predict], []
    about = _about(metadata, transformer)
    annotations = about.get("annotations", {})
    model = _custom_model(reader, containers[0], place, annotations, "transformer")
    model = _scaled(reader, model, transformer, path)
    if stopped:
        model = _stopped(reader, model)
    steps = [Step(name="transformer", model=f"{name}-transformer"), predict]
    resources = [reader.resource("Model", f"{name}-transformer", model, metadata=about)]
    if POSTPROCESS in annotations:
        after = msgspec.structs.replace(model, reference=annotations[POSTPROCESS])
        steps.append(Step(name="postprocess", model=f"{name}-postprocess", inputs=("predictor",)))
        resources.append(reader.resource("Model", f"{name}-postprocess", after, metadata=about))
    return steps, resources


def with_notes(reader: Reader, resources: list[Resource]) -> list[Resource]:
    """The last one, which has the document's name, with all that was noted on the way."""
    return [*resources[:-1], msgspec.structs.replace(resources[-1], notes=tuple(reader.notes))]


def note_annotations(reader: Reader, annotations: Mapping[str, str], path: str) -> None:
    """Each annotation of theirs that has no effect here."""
    for key, value in annotations.items():
        if key.startswith(ANNOTATIONS) and not (key == STOP and value.lower() in {"true", "false"}):
            reader.note(f"{path}.{key}", "without effect: there is no cluster and no ingress of its own", value)
