"""A folder made for MLServer as a model of ours. Called by `manifests.convert` for a `model-settings.json`; pure.

What the file says is honoured where the folder is loaded, as it is when the folder is served without a resource; here
it only gets a name and a place.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Final

from headrace.control.manifests import base
from headrace.control.manifests.base import Converter, Document
from headrace.control.resources import Metadata, Model, Resource
from headrace.errors import InvalidResources

FILE: Final = "model-settings.json"
_PLACE: Final = re.compile(r"(?P<file>.*?)(?::\d+)?")


def _settings(content: Document, where: str, folder: str) -> list[Resource]:
    match = _PLACE.fullmatch(where)
    file = PurePath(match["file"] if match else where)
    if file.name != FILE and not isinstance(content.get("implementation"), str):
        expected = f"a resource with apiVersion: headrace.io/v1, or a {FILE} of MLServer with 'implementation'"
        raise InvalidResources([f"{where}: 'apiVersion' and 'kind' are missing; expected {expected}"])
    given = content.get("name")
    name = given if isinstance(given, str) and given else (PurePath(folder).name or file.parent.name)
    if not name:
        raise InvalidResources([f"{where}: expected 'name', as the folder has none, came none"])
    parameters = content.get("parameters")
    version = parameters.get("version") if isinstance(parameters, Mapping) else None
    notes: tuple[str, ...] = ()
    if version:
        notes = (f"parameters.version: {version}: without effect: a resource's versions are its revisions",)
    return [
        Resource(
            kind="Model",
            metadata=Metadata(name=name, annotations={base.MADE_FROM: f"mlserver/{FILE}/{name}"}),
            spec=Model(uri="."),
            origin=f"{where}: {FILE}",
            base=folder,
            notes=notes,
        )
    ]


KINDS: Final[Mapping[tuple[str, str], Converter]] = {("", ""): _settings}
