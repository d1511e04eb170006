"""Manifests of KFServing before v1beta1 (`serving.kubeflow.org`), with `default` and `canary`, as our resources. Called
by `manifests.convert`; pure.

With a canary, a service becomes two endpoints, `NAME-default` and `NAME-canary`, and an experiment of its own name.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

import msgspec

from headrace.control.manifests import base, components, explainers, pods
from headrace.control.manifests.base import Converter, Document, Field, Reader, group, idle, text, whole
from headrace.control.resources import Candidate, Experiment, Resource

GROUP: Final = "serving.kubeflow.org"

_COMMON: Final[Mapping[str, Field]] = {
    **components.SCALE,
    "serviceAccountName": idle("files are read with the rights of the server itself"),
    "parallelism": idle("`batching.maxQueueSize` bounds the requests that wait", "whole"),
    "batcher": components.EXTENSION["batcher"],
    "custom": group({"container": group(pods.CONTAINER)}),
}


def _frameworks(uri: str) -> dict[str, Field]:
    fields = {
        uri: text("`uri`"),
        "runtimeVersion": idle("the library that is installed here is used", "text"),
        "resources": idle(pods.NO_PODS),
        "parallelism": idle(pods.NO_PODS),
    }
    alike = msgspec.structs.replace(group(fields), called="FRAMEWORK")
    found = dict.fromkeys(("sklearn", "xgboost", "tensorflow", "tensorrt", "triton", "onnx"), alike)
    return {**found, "pytorch": group({**fields, "modelClassName": idle("a model is recognised by its content")})}


_ENDPOINT: Final = group(
    {
        "predictor": group({**_COMMON, **_frameworks("storageUri")}),
        "transformer": group(
            {**_COMMON, "batcher": components.TRANSFORMER["batcher"], "feast": base.refused("features are not fetched")}
        ),
        "explainer": group(
            {**_COMMON, **components.EXPLAINER, "custom": group({"container": group(explainers.CONTAINER)})}
        ),
    }
)
_PERCENT: Final = whole("the `weight` of the candidate `NAME-canary`")
SERVICE: Final[Mapping[str, Field]] = {"default": _ENDPOINT, "canary": _ENDPOINT, "canaryTrafficPercent": _PERCENT}
"""v1alpha2: components with a `storageUri`."""
_FLAT: Final = group({**_COMMON, **_frameworks("modelUri")})
FLAT_SERVICE: Final[Mapping[str, Field]] = {"default": _FLAT, "canary": _FLAT, "canaryTrafficPercent": _PERCENT}
"""v1alpha1, the first: predictors alone, with a `modelUri`."""


def _endpoint(reader: Reader, spec: Mapping[str, Any], key: str, *, flat: bool) -> components.Endpoint:
    path = f"spec.{key}"
    if flat:
        return components.Endpoint(path=path, predictor=spec[key], predictor_path=path)
    if "predictor" not in spec[key]:
        reader.fault(f"{path}.predictor", "expected a predictor, came none")
    return components.Endpoint(
        path=path,
        predictor=spec[key].get("predictor", {}),
        predictor_path=f"{path}.predictor",
        transformer=spec[key].get("transformer"),
        explainer=spec[key].get("explainer"),
        explained_at=reader.name if key == "default" else f"{reader.name}-{key}",
    )


def _service(content: Document, where: str, folder: str, *, flat: bool) -> list[Resource]:
    reader = Reader(content, base.document(FLAT_SERVICE if flat else SERVICE), where=where, base=folder)
    found = reader.read()
    spec, metadata = found["spec"], found["metadata"]
    components.note_annotations(reader, metadata.get("annotations", {}), "metadata.annotations")
    if "default" not in spec:
        reader.fault("spec.default", "expected the default endpoint, came none")
        reader.finish()
    default = _endpoint(reader, spec, "default", flat=flat)
    percent = spec.get("canaryTrafficPercent", 0)
    if not 0 <= percent <= 100:
        reader.fault("spec.canaryTrafficPercent", f"expected 0 to 100, came {percent}")
    if "canary" not in spec:
        if percent:
            reader.note("spec.canaryTrafficPercent", "without effect: there is no canary", percent)
        resources = components.resources_of(reader, default, reader.name, metadata=metadata)
        reader.finish()
        return components.with_notes(reader, resources)

    canary = _endpoint(reader, spec, "canary", flat=flat)
    as_pipelines = default.transformer is not None or canary.transformer is not None
    resources = []
    for name, endpoint in ((f"{reader.name}-default", default), (f"{reader.name}-canary", canary)):
        if as_pipelines and endpoint.transformer is None:
            # Candidates are of one kind, so a model beside a pipeline becomes one too.
            made = components.resources_of(reader, endpoint, f"{name}-predictor", metadata=metadata)
            resources += [*made, components.as_pipeline(reader, name, f"{name}-predictor", metadata=metadata)]
        else:
            resources += components.resources_of(reader, endpoint, name, metadata=metadata)
    experiment = Experiment(
        candidates=(
            Candidate(name=f"{reader.name}-default", weight=float(100 - percent)),
            Candidate(name=f"{reader.name}-canary", weight=float(percent)),
        ),
        resource_type="pipeline" if as_pipelines else "model",
    )
    reader.finish()
    main = reader.resource("Experiment", reader.name, experiment, metadata=metadata)
    return components.with_notes(reader, [*resources, main])


def _nested_service(content: Document, where: str, folder: str) -> list[Resource]:
    return _service(content, where, folder, flat=False)


def _flat_service(content: Document, where: str, folder: str) -> list[Resource]:
    return _service(content, where, folder, flat=True)


TABLES: Final[Mapping[str, Field]] = MappingProxyType(
    {
        "InferenceService, KFService v1alpha2": base.document(SERVICE),
        "KFService v1alpha1": base.document(FLAT_SERVICE),
    }
)
"""By kind; for the docs."""
KINDS: Final[Mapping[tuple[str, str], Converter]] = MappingProxyType(
    {
        (f"{GROUP}/v1alpha2", "InferenceService"): _nested_service,
        (f"{GROUP}/v1alpha2", "KFService"): _nested_service,
        (f"{GROUP}/v1alpha1", "KFService"): _flat_service,
    }
)
