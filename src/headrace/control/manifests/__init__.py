"""Manifests made for other systems, turned into our resources. One file per dialect; pure.

`control.parse` and `headrace convert` call `convert`. Each field of theirs is honoured, or is named in the notes of the
resource that has the document's name as refused or without effect here; an unknown one is a fault.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from headrace.control.manifests import base, kfserving, knative, kserve, mlserver, pods, seldon_v1, seldon_v2
from headrace.control.manifests.base import FORM, MADE_FROM, Converter, Document, Row
from headrace.control.resources import Resource
from headrace.errors import InvalidResources

_DIALECTS: Final = (seldon_v2, seldon_v1, kserve, kfserving, knative, mlserver)
_CONVERTERS: Final[Mapping[tuple[str, str], Converter]] = MappingProxyType(
    {key: converter for dialect in _DIALECTS for key, converter in dialect.KINDS.items()}
)

__all__ = ["FORM", "KINDS", "MADE_FROM", "convert", "fields", "group_of", "table"]


def group_of(api_version: str) -> str:
    """The group of an apiVersion: `serving.kserve.io` of `serving.kserve.io/v1beta1`."""
    return api_version.rpartition("/")[0] or api_version


def _of_kind(group: str, kind: str) -> Converter:
    versions = {
        version: converter
        for (version, each), converter in _CONVERTERS.items()
        if each == kind and group_of(version) == group
    }

    def convert_one(content: Document, where: str, folder: str) -> list[Resource]:
        version = str(content.get("apiVersion", ""))
        if version not in versions:
            known = ", ".join(sorted(versions))
            raise InvalidResources([f"{where}: {kind}: apiVersion {version!r} is not known; known are {known}"])
        return versions[version](content, where, folder)

    return convert_one


KINDS: Final[Mapping[tuple[str, str], Converter]] = MappingProxyType(
    {(group_of(version), kind): _of_kind(group_of(version), kind) for version, kind in _CONVERTERS}
)
"""Group and kind to what converts such a document. `("", "")` is a file without both: MLServer's."""


def convert(document: Document, *, where: str, base: str) -> list[Resource]:
    """The resources that a foreign document becomes. The one with the document's name carries the notes.

    Args:
        document: As YAML or JSON gives it; keys are text.
        where: The file and line, as messages name it.
        base: The folder that relative paths in it start from, absolute.

    Raises:
        InvalidResources: nobody knows its kind, or it has faults; carries each of them.
    """
    version, kind = (str(document.get(key) or "") for key in ("apiVersion", "kind"))
    converter = KINDS.get((group_of(version), kind))
    if converter is None:
        raise InvalidResources([f"{where}: nobody here knows apiVersion {version!r}, kind {kind!r}"])
    return converter(document, where, base)


# -- the page of the docs --


def fields() -> list[Row]:
    """What becomes of each field of the spec of each foreign kind."""
    tables = {
        "Seldon Core 2": seldon_v2.TABLES,
        "Seldon Core 1": seldon_v1.TABLES,
        "KServe": kserve.TABLES,
        "KFServing": kfserving.TABLES,
        "Knative": knative.TABLES,
    }
    return [
        row
        for title, kinds in tables.items()
        for kind, fields_ in kinds.items()
        for row in base.rows(f"{title}: {kind}", fields_)
        if row.path.startswith("spec.")
    ]


def table() -> str:
    """`fields`, and the kinds that are refused as a whole, in Markdown."""
    refused = "\n".join(f"| {kind} | {reason} |" for kind, reason in {**kserve.REFUSED, **knative.REFUSED}.items())
    sets = {
        "the fields of a pod": pods.POD,
        "the other fields of a container": [name for name, field in pods.CONTAINER.items() if field.note],
    }
    return f"{base.table(fields(), sets)}\n### Refused kinds\n\n| kind | reason |\n|---|---|\n{refused}\n"
