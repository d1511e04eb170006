"""What came of a pipeline's answer, told by its caller: `POST /v2/pipelines/{pipeline}/feedback`. `rest` calls it.

A body is `{"reward": number}` with what says which branches were chosen: `"id"`, the request's, while the pipeline
remembers it, or `"routing"`, `{router: branch}` as the answer's header `headrace-routing` had it (its text is taken as
well). `"request"`, the V2 request that was asked, is for routers that look at it; `"truth"` (or
`"labels"`) is for what watches models (`protocols.labels`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec
import orjson

from headrace.errors import InvalidRequest
from headrace.payload import EMPTY, InferenceRequest, Signature
from headrace.protocols import v2_rest
from headrace.protocols.documents import read_object
from headrace.protocols.seldon_v1 import parse_routing

_MEMBERS: Final = frozenset({"id", "routing", "reward", "request", "truth", "labels"})


class Feedback(msgspec.Struct, frozen=True, kw_only=True):
    """What a caller says of an answer."""

    reward: float
    routing: Mapping[str, str] = EMPTY
    """Router to the branch that it chose; empty: what the request of that id took."""
    request: InferenceRequest | None = None
    """With the id alone where the caller did not give the request back."""


def parse(
    body: bytes | memoryview,
    *,
    model_name: str,
    signature: Signature | None = None,
    headers: Mapping[str, str] = EMPTY,
) -> Feedback:
    """Feedback.

    Args:
        body: The whole body, its content encoding undone.
        model_name: The pipeline's name.
        signature: Of the pipeline.
        headers: The transport's, lower-cased.

    Raises:
        InvalidRequest: the body is none; the text names the member.
    """
    document = read_object(body)
    unknown = document.keys() - _MEMBERS
    if unknown:
        raise InvalidRequest(f"feedback has no {', '.join(sorted(unknown))}; known: {', '.join(sorted(_MEMBERS))}")
    reward = document.get("reward")
    if isinstance(reward, bool) or not isinstance(reward, int | float):
        raise InvalidRequest(f"reward must be a number, got: {reward!r}")
    identity = document.get("id") or ""
    if not isinstance(identity, str):
        raise InvalidRequest(f"id must be a string, got: {identity!r}")
    request = None
    if document.get("request") is not None:
        request = v2_rest.parse(
            orjson.dumps(document["request"]), model_name=model_name, signature=signature, headers=headers
        )
        identity = identity or request.id
    if identity and (request is None or request.id != identity):
        known = request or InferenceRequest(model_name=model_name, inputs=())
        request = msgspec.structs.replace(known, id=identity)
    return Feedback(reward=float(reward), routing=_routing(document.get("routing")), request=request)


def _routing(value: Any) -> Mapping[str, str]:
    if value is None:
        return EMPTY
    if isinstance(value, str):
        return parse_routing(value)
    if not isinstance(value, dict) or any(not isinstance(branch, str | int) for branch in value.values()):
        raise InvalidRequest("routing must be an object: router to the branch that it chose")
    return {router: str(branch) for router, branch in value.items()}


def render_taken(name: str) -> bytes:
    """That the feedback was taken."""
    return orjson.dumps({"name": name, "taken": True})
