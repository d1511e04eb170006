"""Sticky routes: the header `x-seldon-route` says who answered; sent back, it asks for the same. `split` calls it.

Its text is Seldon Core v2's: `:NAME_VERSION:` for a model, `:NAME.pipeline:` for a pipeline, and where several answered
one after the other, all of them with a space between. A candidate that is no certain version of a model answers with
the version it is at that moment, and is asked again for any: what a caller had before a reload, it still has.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from headrace.payload import InferenceResponse
from headrace.routing.shares import Arm

HEADER: Final = "x-seldon-route"
_STAMPS_KEPT: Final = 64


def route_of(key: str, version: str = "") -> str:
    """What names a model (`key` is its name) or a pipeline (`NAME.pipeline`) in the header."""
    return f":{key}_{version}:" if version else f":{key}:"


def pinned(arms: Sequence[Arm], header: str) -> Arm | None:
    """The one that the caller had before; None: it is gone, or is asked nothing any more."""
    for arm in arms:
        if arm.route in header:
            return arm
    if any(arm.moves for arm in arms):
        names = {name for name, version in routes(header) if version}
        for arm in arms:
            if arm.moves and arm.candidate.name in names:
                return arm
    return None


def signed_by(arm: Arm, response: InferenceResponse) -> InferenceResponse:
    """The same answer with who gave it in the header; a model that is no certain version, with the version it is."""
    version = response.model_version
    if response.headers:
        return stamped(response, _route_now(arm, version))
    headers = arm.stamps.get(version)
    if headers is None:
        if len(arm.stamps) >= _STAMPS_KEPT:
            arm.stamps.clear()
        headers = arm.stamps[version] = {HEADER: _route_now(arm, version)}
    return InferenceResponse(
        model_name=response.model_name,
        outputs=response.outputs,
        model_version=version,
        id=response.id,
        parameters=response.parameters,
        headers=headers,
    )


def _route_now(arm: Arm, version: str) -> str:
    return f":{arm.candidate.name}_{version}:" if arm.moves and version else arm.route


def signed(response: InferenceResponse, key: str, version: str) -> InferenceResponse:
    """The same answer with who gave it in the header, where nothing is said there yet.

    Args:
        response: The answer.
        key: Of the one that was asked; of an experiment, its only candidate answered.
        version: Of the same.
    """
    if HEADER in response.headers:
        return response
    if key.endswith(".experiment"):
        key, version = response.model_name, response.model_version
    return stamped(response, route_of(key, version))


def stamped(response: InferenceResponse, route: str) -> InferenceResponse:
    """The same answer with who gave it at the end of the header."""
    headers = response.headers
    if not headers:
        stamped = {HEADER: route}
    elif HEADER not in headers:
        stamped = {**headers, HEADER: route}
    elif route not in headers[HEADER]:
        stamped = {**headers, HEADER: f"{headers[HEADER]} {route}"}
    else:
        return response
    return InferenceResponse(
        model_name=response.model_name,
        outputs=response.outputs,
        model_version=response.model_version,
        id=response.id,
        parameters=response.parameters,
        headers=stamped,
    )


def routes(header: str) -> list[tuple[str, str]]:
    """Name and version of each that the header names; the version is empty where there is none."""
    found = []
    for entry in header.replace(",", " ").split():
        name, _, version = entry.strip(":").rpartition("_")
        found.append((name, version) if name and version.isdecimal() else (entry.strip(":"), ""))
    return found
