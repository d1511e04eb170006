"""Step 3 of the walk for paths that belong to the models themselves: which model answers one. `server.rest` asks.

A path is looked up each time, so what is loaded and unloaded is followed at once. A segment `{name}` of a route matches
any one segment, a last segment `{name:path}` all that are left. Of several models that claim a path, those that are
ready come first, then the first by name; of several versions, the newest. Every model's routes are also under
`/v2/models/{model}/routes` and `/v2/models/{model}/versions/{version}/routes`, where nobody else's can be in the way.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from headrace.errors import ModelNotReady, RuntimeFailed
from headrace.payload import EMPTY, Route, RouteRequest, RouteResponse
from headrace.server.http import HttpReply, HttpRequest
from headrace.serving.models import Served, State, readable

_UNKNOWN_TYPE = b"application/octet-stream"


class Claim(msgspec.Struct, frozen=True):
    """A route of a model that matches a path."""

    served: Served
    route: Route
    parameters: Mapping[str, str]
    """What its `{name}` segments matched."""


def claims(models: Iterable[Served], segments: Sequence[str]) -> list[Claim]:
    """The routes that match a path, the one that answers first.

    Args:
        models: Whose routes may match.
        segments: Of the path, decoded.
    """
    found = [
        Claim(served, route, parameters)
        for served in models
        for route in served.routes
        if (parameters := match(route.path, segments)) is not None
    ]
    if len(found) > 1:
        found.sort(key=lambda claim: readable(claim.served.version), reverse=True)
        found.sort(key=lambda claim: (claim.served.state is not State.READY, claim.served.name))
    return found


def match(path: str, segments: Sequence[str]) -> Mapping[str, str] | None:
    """What the variable segments of a route's path stand for; None: the path is another."""
    wanted = path.strip("/").split("/")
    if len(wanted) != len(segments) and not (wanted[-1].endswith(":path}") and len(segments) >= len(wanted)):
        return None
    parameters = {}
    for position, (pattern, segment) in enumerate(zip(wanted, segments, strict=False)):
        if pattern.startswith("{") and pattern.endswith("}"):
            name, _, kind = pattern[1:-1].partition(":")
            if kind == "path" and position == len(wanted) - 1:
                parameters[name] = "/".join(segments[position:])
            elif segment:
                parameters[name] = segment
            else:
                return None
        elif pattern != segment:
            return None
    return parameters or EMPTY


def same(one: Claim, other: Claim) -> bool:
    """Whether two claims are of one model, so that no caller can mistake one for the other."""
    return one.served.name == other.served.name


async def visit(claim: Claim, request: HttpRequest, *, target: str, body: bytes) -> HttpReply:
    """Ask the model.

    Args:
        claim: The route that answers.
        request: As it came.
        target: Path and query, below the root path.
        body: Decompressed.

    Raises:
        ModelNotReady: the model cannot answer now.
        RuntimeFailed: its answer is no HTTP answer.
    """
    served = claim.served
    if served.visit is None or served.state is not State.READY:
        raise ModelNotReady(
            f"{served.describe()} is not ready: {served.state.lower()}"
            + (f", {served.reason}" if served.reason else "")
        )
    answer = await served.visit(
        RouteRequest(
            route=claim.route.name,
            method=claim.route.method,
            target=target,
            headers=tuple([each for each in request.headers.items() if each[0] not in _OF_THE_WIRE]),
            body=body,
            parameters=claim.parameters,
            deadline=request.deadline,
        )
    )
    return _reply(answer, served)


_OF_THE_WIRE = frozenset({"content-encoding", "content-length", "connection", "transfer-encoding", "expect"})
"""Headers that speak of the body as it was sent, or of the connection; both end here."""


def _reply(answer: RouteResponse, served: Served) -> HttpReply:
    if not 200 <= answer.status <= 599:
        raise RuntimeFailed(f"{served.describe()} answered with status {answer.status}; expected 200 to 599")
    content_type, headers = b"", []
    for given, value in answer.headers:
        name = given.lower()
        if name in _OF_THE_WIRE and name != "content-encoding":
            continue
        try:
            field = (name.encode("latin-1"), value.encode("latin-1"))
        except UnicodeEncodeError:
            raise RuntimeFailed(f"{served.describe()} answered with header {name!r}, which HTTP cannot carry") from None
        if not splits(name) and not splits(value):
            if name == "content-type":
                content_type = field[1]
            else:
                headers.append(field)
            continue
        raise RuntimeFailed(f"{served.describe()} answered with a line break in header {name!r}")
    if answer.body and not content_type:
        content_type = _UNKNOWN_TYPE
    return HttpReply(answer.body, answer.status, content_type, tuple(headers))


def splits(text: str) -> bool:
    """Whether a header of this text would be more than one."""
    return "\n" in text or "\r" in text or "\0" in text
