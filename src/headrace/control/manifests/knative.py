"""Detectors beside Seldon Core 1 and KServe: a Service of Knative whose container is alibi-detect's server, as a model
of ours. Called by `manifests.convert`; pure.

There a broker hands each logged request to it. Here a model with a trust folder is watched by itself, so that Brokers
and Triggers are refused with that reason; what becomes of the Service answers whoever asks it.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from headrace.control.manifests import base, detectors, pods
from headrace.control.manifests.base import Converter, Document, Field, Reader, group, idle, several, text
from headrace.control.resources import Resource
from headrace.errors import InvalidResources

SERVING: Final = "serving.knative.dev"
EVENTING: Final = "eventing.knative.dev"
IMAGE: Final = "alibi-detect-server"
_CLASSES: Final[Mapping[str, str]] = MappingProxyType({"OutlierDetector": "outlier", "DriftDetector": "drift"})
_BESIDE: Final[Mapping[str, str]] = MappingProxyType(
    {
        "AdversarialDetector": "ours (autoencoder-output, feature-squeezing) work beside their model: "
        "headrace trust fit MODEL --data TRAINING_DATA --detector autoencoder-output",
        "MetricsServer": "ours work beside their model: headrace trust fit MODEL --data TRAINING_DATA, then send what "
        "was true to POST /v2/models/MODEL/feedback",
    }
)
"""Classes that have no model of their own here, with what there is."""
_ARGUMENTS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "model_name": "it is asked by the name of the Service",
        "http_port": pods.NO_PODS,
        "grpc_port": pods.NO_PODS,
        "workers": pods.NO_PODS,
        "protocol": "every protocol is answered",
        "reply_url": "set `trust.events` of the server, where verdicts on a watched model go",
        "event_type": "set `trust.events` of the server, where verdicts on a watched model go",
        "event_source": "set `trust.events` of the server, where verdicts on a watched model go",
        "drift_batch_size": "a request's rows are the sample; of a watched model, set `window.rows` in detectors.json",
        "elasticsearch_uri": "what was true comes by feedback",
    }
)
"""Arguments of their server, with the reason why they are without effect."""

SERVICE: Final[Mapping[str, Field]] = {
    "template": group(
        {
            "metadata": idle(pods.NO_PODS),
            "spec": group(
                {
                    **pods.POD,
                    "containers": several(
                        group(
                            {
                                **pods.CONTAINER,
                                "name": idle(pods.NO_PODS),
                                "env": idle(pods.NO_PODS),
                                "image": text("not run: it must be alibi-detect's server"),
                                "args": several(text("`uri` of a trust folder, `parameters.kind`")),
                            }
                        )
                    ),
                    "containerConcurrency": idle(pods.NO_PODS),
                    "timeoutSeconds": idle(pods.NO_PODS),
                }
            ),
        }
    ),
    "traffic": idle("revisions of a model share its requests by `canaryTrafficPercent`"),
}
_TABLE: Final = base.document(SERVICE)


def _service(content: Document, where: str, folder: str) -> list[Resource]:
    reader = Reader(content, _TABLE, where=where, base=folder)
    found = reader.read()
    metadata = found["metadata"]
    containers = found["spec"].get("template", {}).get("spec", {}).get("containers", [])
    place = "spec.template.spec.containers"
    image = containers[0].get("image", "") if len(containers) == 1 else ""
    if pods.image_name(image) != IMAGE:
        came = repr(image) if image else f"{len(containers)} containers"
        reader.fault(place, f"expected one container of the image {IMAGE}, came {came}; no other is known here")
        reader.finish()
    named, classes = pods.arguments(containers[0].get("args", ()))
    path = f"{place}[0].args"
    reader.note(f"{place}[0].image", f"without effect: {pods.NO_IMAGE}", image)
    for name in named.keys() - {"storage_uri"}:
        reader.note(path, f"without effect: --{name}: {_ARGUMENTS.get(name, pods.NO_PODS)}")
    kind = _CLASSES.get(classes[0], "") if classes else ""
    if not kind:
        came = classes[0] if classes else "none"
        known = _BESIDE.get(came, f"expected {', '.join(_CLASSES)}")
        reader.fault(path, f"there is no model of ours for the class {came}: {known}")
        reader.finish()
    uri = named.get("storage_uri", "")
    model = detectors.model(reader, uri, path, annotations=metadata.get("annotations", {}), kind=kind)
    reader.finish()
    return [reader.resource("Model", reader.name, model, metadata=metadata, main=True)]


_REASON: Final = "a model with a trust folder is watched by itself, without a broker"
REFUSED: Final[Mapping[str, str]] = MappingProxyType({"Trigger": _REASON, "Broker": _REASON})
"""Kinds that are refused, with the reason; for the docs."""


def _refuse(content: Document, where: str, folder: str) -> list[Resource]:
    del folder
    kind = str(content["kind"])
    raise InvalidResources([f"{where}: {kind} is refused: {REFUSED[kind]}. Leave it out of what is applied here"])


TABLES: Final[Mapping[str, Field]] = MappingProxyType({"Service of alibi-detect": _TABLE})
"""By kind; for the docs."""
KINDS: Final[Mapping[tuple[str, str], Converter]] = MappingProxyType(
    {
        **{(f"{SERVING}/{version}", "Service"): _service for version in ("v1", "v1beta1", "v1alpha1")},
        **{(f"{EVENTING}/{version}", kind): _refuse for version in ("v1", "v1beta1", "v1alpha1") for kind in REFUSED},
    }
)
