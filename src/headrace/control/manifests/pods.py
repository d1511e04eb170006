"""What manifests for Kubernetes say of pods: the fields of a pod and its containers, and the little of it that counts
here. Shared by the dialects that hold pods; pure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from headrace.control.manifests import base
from headrace.control.manifests.base import Field, Reader, group, idle, several, text

NO_PODS: Final = "models live in this process, there are no pods"
NO_IMAGE: Final = "code is loaded from files, not from images"

ENV: Final = several(
    group(
        {
            "name": text("`PREDICT_PROBA` of sklearn and `MODEL_NAME` of a class count; others are without effect"),
            "value": text("as its name says"),
            "valueFrom": idle(NO_PODS),
        }
    )
)
CONTAINER: Final[Mapping[str, Field]] = {
    "name": text("annotations name it"),
    "image": text("not run: an annotation names the class that it holds"),
    "env": ENV,
    **{
        name: idle(NO_PODS)
        for name in (
            "args",
            "command",
            "envFrom",
            "imagePullPolicy",
            "lifecycle",
            "livenessProbe",
            "ports",
            "readinessProbe",
            "resizePolicy",
            "resources",
            "restartPolicy",
            "securityContext",
            "startupProbe",
            "stdin",
            "stdinOnce",
            "terminationMessagePath",
            "terminationMessagePolicy",
            "tty",
            "volumeDevices",
            "volumeMounts",
            "workingDir",
        )
    },
}
"""The fields of a container."""
POD: Final[Mapping[str, Field]] = {
    name: idle(NO_PODS)
    for name in (
        "activeDeadlineSeconds",
        "affinity",
        "automountServiceAccountToken",
        "dnsConfig",
        "dnsPolicy",
        "enableServiceLinks",
        "ephemeralContainers",
        "hostAliases",
        "hostIPC",
        "hostNetwork",
        "hostPID",
        "hostUsers",
        "hostname",
        "imagePullSecrets",
        "initContainers",
        "nodeName",
        "nodeSelector",
        "os",
        "overhead",
        "preemptionPolicy",
        "priority",
        "priorityClassName",
        "readinessGates",
        "resourceClaims",
        "restartPolicy",
        "runtimeClassName",
        "schedulerName",
        "schedulingGates",
        "securityContext",
        "serviceAccount",
        "serviceAccountName",
        "setHostnameAsFQDN",
        "shareProcessNamespace",
        "subdomain",
        "terminationGracePeriodSeconds",
        "tolerations",
        "topologySpreadConstraints",
        "volumes",
    )
}
"""The fields of a pod, but for its containers."""


def variables(reader: Reader, container: Mapping[str, Any], path: str, honoured: Sequence[str] = ()) -> dict[str, str]:
    """The container's environment; every variable but the honoured ones is noted, by its name alone."""
    found = {}
    for index, each in enumerate(container.get("env", ())):
        name = each.get("name", "")
        if not name:
            reader.fault(f"{path}.env[{index}].name", "expected a name, came none")
        elif name in honoured and "value" in each:
            found[name] = each["value"]
        else:
            reader.note(f"{path}.env[{index}]", f"without effect: {name} is for the process in a container")
    return found


def arguments(given: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """The named arguments of a command, `--name value` or `--name=value`, by name; and the others."""
    named: dict[str, str] = {}
    rest: list[str] = []
    waiting = list(given)
    while waiting:
        each = waiting.pop(0)
        if not each.startswith("--"):
            rest.append(each)
            continue
        name, equals, value = each[2:].partition("=")
        if not equals and waiting and not waiting[0].startswith("--"):
            value = waiting.pop(0)
        named[name.replace("-", "_")] = value
    return named, rest


def may_be_trusted(uri: str) -> bool:
    """Whether a uri can be a trust folder's: a place of this machine, or one elsewhere that is called `trust` or
    `NAME.trust`, as such folders are.
    """
    return "://" not in uri or uri.rstrip("/").rpartition("/")[2].rpartition(".")[2] == "trust"


_IMAGE: Final = re.compile(r"(?:.*/)?([^/:@]+)(?::[^/@]*)?(?:@.*)?")


def image_name(image: str) -> str:
    """`seldonio/mab_epsilon_greedy:1.17.1` -> `mab_epsilon_greedy`."""
    match = _IMAGE.fullmatch(image)
    return match[1] if match else image


def code_needed(names: Sequence[str], image: str) -> str:
    """What to add where a container's code is asked for and nothing says where it is."""
    shown = f" {image!r}" if image else ""
    return (
        f"the image{shown} cannot be run here; expected the class that it holds, as an annotation: "
        f"metadata.annotations: {{{base.CLASS}{names[0]}: FILE.py:CLASS}}"
    )
