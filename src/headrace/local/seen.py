"""What the routing table and the memory say of what is declared. `backend` asks; nothing here changes anything."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from headrace.control.backends.base import PipelineUnit
from headrace.control.resources import EXPLAINER, Model
from headrace.errors import HeadraceError, ModelNotFound
from headrace.graph.spec import Step
from headrace.local.capabilities import capabilities
from headrace.local.steps import key_of_step, version_of_step
from headrace.payload import Signature
from headrace.serving.models import Models, State
from headrace.serving.residency import Residency


def why_not(models: Models, key: str) -> str:
    """Why what stands at a key cannot answer; empty: it can."""
    # The model itself, whatever its name is diverted to: a split must not look at its own readiness.
    own = key if key.endswith((".pipeline", ".experiment")) else f"{key}.model"
    try:
        served = models.find(own)
    except ModelNotFound:
        try:
            served = models.find(key)
        except ModelNotFound:
            return "not found"
    if served.state is State.READY:
        return ""
    return served.state.lower() + (f": {served.reason}" if served.reason else "")


def explained_by_its_own(spec: Model) -> str:
    """The name of the model that an explainer explains by that model's own trust folder; empty: it is no explainer, or
    has a folder itself.
    """
    return str(spec.parameters.get("model") or "") if spec.runtime == EXPLAINER and not spec.uri else ""


def unexplained(models: Models, name: str) -> str:
    """Why a model cannot be explained by its own trust folder, and what to do; empty: it can."""
    if why := why_not(models, name):
        return f"'{name}', which it explains, is {why}"
    served = models.direct(name)
    if served.explain is not None:
        return ""
    if served.kind == "model":
        how = "write it beside the model's files, `headrace trust fit PATH --data TRAINING_DATA`, and load it again"
    else:
        how = "write one, `headrace trust fit PATH --data TRAINING_DATA`, and name it by the explainer's uri"
    return f"{served.describe()} has no trust folder with explainers, so that nothing can explain it; {how}"


def version_of(models: Models, key: str) -> str:
    """The version that a name stands for now; empty: none."""
    try:
        return models.direct(key).version
    except HeadraceError:
        return ""


def signature_of(models: Models, key: str, version: str) -> Signature | None:
    """What the model at a key declares, while it is ready; None for an empty key."""
    if not key:
        return None
    try:
        return models.direct(key, version).signature
    except HeadraceError:
        return None


def signature_of_step(models: Models, unit: PipelineUnit, step: Step) -> Signature | None:
    """What the model that a step asks declares, while it is ready."""
    key, version = key_of_step(unit.name, step), version_of_step(unit, step)
    signature = signature_of(models, key, version)
    if signature is None or not signature.batchable or models.route(key, version).kind == "model":
        return signature
    # A split chooses for each request, and a pipeline may choose within: what goes together would choose once.
    return msgspec.structs.replace(signature, batchable=False)


def state_of(models: Models, name: str, version: str) -> tuple[str, str] | None:
    """State and reason of a model's version, as `Observed` has them; None: the table does not know it."""
    try:
        served = models.find(f"{name}.model", version)
    except ModelNotFound:
        return None
    match served.state:
        case State.READY:
            return "ready", served.reason
        case State.LOADING:
            return "progressing", served.reason
        case State.UNLOADING:
            return "leaving", served.reason
    return "failed", served.reason


def details_of(
    models: Models, residency: Residency, name: str, version: str, requirements: Sequence[str]
) -> dict[str, Any]:
    """What a person may want to know of a model's version: memory, placement, platform, warnings."""
    details: dict[str, Any] = {}
    usage = residency.usage().get((name, version))
    if usage is not None:
        details = {"memoryBytes": usage.bytes, "inMemory": usage.resident, "measured": usage.measured}
    try:
        served = models.find(f"{name}.model", version)
    except ModelNotFound:
        return details
    if served.placement:
        details["placement"] = served.placement
    if served.signature is not None:
        details["platform"] = served.signature.platform
    unmet = sorted(set(requirements) - capabilities())
    warnings = [f"requires '{each}', which is nothing this server knows; its files say what it is" for each in unmet]
    if warnings or served.warnings:
        details["warnings"] = [*served.warnings, *warnings]
    return details
