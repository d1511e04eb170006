"""Which model of the routing table a pipeline's step asks."""

from __future__ import annotations

from headrace.control.backends.base import ModelUnit, PipelineUnit
from headrace.control.resources import Model
from headrace.graph.spec import Step
from headrace.local.models import model_spec
from headrace.serving.spec import ModelSpec


def key_of_step(pipeline: str, step: Step) -> str:
    """The key in the routing table of what a step asks; empty: nothing that stands there."""
    if step.url or step.combine is not None or step.route is not None:
        return ""
    if step.pipeline:
        return f"{step.pipeline}.pipeline"
    if step.python:
        return f"{pipeline}.{step.name}"
    return step.model or step.name


def version_of_step(unit: PipelineUnit, step: Step) -> str:
    """The version there that it asks; empty: whichever has the traffic. Code that a step names is as old as it."""
    return str(unit.version) if step.python else step.version


def implicit_model(unit: PipelineUnit, step: Step) -> ModelSpec:
    """The model that stands for a step written in Python. Blocks while its file is looked at.

    Raises:
        LoadFailed: or another of the load's errors.
    """
    own = ModelUnit(
        name=key_of_step(unit.name, step),
        digest=unit.digest,
        base=unit.base,
        revision=unit.version,
        spec=Model(reference=step.python, parameters=step.parameters),
    )
    return model_spec(own)
