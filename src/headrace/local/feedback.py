"""What an answer was worth, told to the components of a pipeline that took part in it. The backend calls it.

Source: Seldon Core v1, whose executor walks the graph that a request took and tells every node that asks to be told.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from headrace.errors import HeadraceError
from headrace.graph import references, spec
from headrace.payload import InferenceRequest
from headrace.protocols import seldon_v1 as protocol
from headrace.runtimes.seldon_v1 import REWARD, TOLD, TRUTH
from headrace.serving.models import Models

_log = logging.getLogger(__name__)
_LEARNING = ("epsilonGreedy", "thompsonSampling", "custom")


def learns(pipeline: spec.Pipeline) -> bool:
    """Whether it has a router that feedback changes."""
    return any(step.route is not None and step.route.type in _LEARNING for step in pipeline.steps)


def took_part(name: str, pipeline: spec.Pipeline, routing: Mapping[str, str]) -> list[spec.Step]:
    """The steps that a request reached, given the branches that its routers chose; those of routers that are not named
    count as reached on every branch. Pure.
    """
    reached: dict[str, bool] = {step.name: True for step in pipeline.steps}
    for _ in pipeline.steps:  # a step may stand before those it follows; each round settles one more at least
        before = dict(reached)
        for step in pipeline.steps:
            given = [references.parse(text, pipeline=name) for text in step.inputs]
            came = [
                reached.get(each.step, True)
                and (each.side != "branches" or each.branch in routing.get(each.step, each.branch).split(","))
                for each in given
            ]
            reached[step.name] = not came or (any(came) if step.inputs_join_type == "any" else all(came))
        if reached == before:
            break
    return [step for step in pipeline.steps if reached[step.name]]


async def tell(models: Models, key: str, version: str, request: InferenceRequest, reward: float) -> None:
    """Tell a component what an answer to a request was worth, if it wants to know; a failure is logged."""
    try:
        served = models.direct(key, version)
        if served.signature is None or TOLD not in served.signature.properties or served.infer is None:
            return
        truth = {TRUTH: request.parameters[protocol.TRUTH]} if protocol.TRUTH in request.parameters else {}
        await served.infer(
            InferenceRequest(
                model_name=served.name,
                model_version=served.version,
                inputs=request.inputs,
                id=request.id,
                parameters={REWARD: reward, **truth},
            )
        )
    except HeadraceError as error:
        _log.warning("feedback to model '%s': %s", key, error)
