"""`headrace convert`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import click

from headrace.cli import manifests, output
from headrace.errors import InvalidResources

if TYPE_CHECKING:
    from headrace.control.resources import Resource


@click.command(short_help="Print manifests made for other systems as our resources.")
@manifests.file_option()
@click.option(
    "-o",
    "--output",
    "form",
    type=click.Choice(["yaml", "json"]),
    default="yaml",
    show_default=True,
    help="YAML shows what is refused or without effect as comments above each resource; JSON is a list of resources.",
)
def command(paths: tuple[str, ...], form: Literal["yaml", "json"]) -> None:
    """Print manifests made for other systems as our resources.

    Of Seldon Core 1 and 2, KServe and KFServing, and of MLServer's folders. No server is asked. What has no effect
    here, or is refused, stands above each resource with the reason. Relative paths become relative to this folder. Exit
    code 1 when something cannot be converted; every fault is told.

    \b
    Examples:
      headrace convert -f seldon/
      headrace convert -f inferenceservice.yaml -o json
      cat deployment.yaml | headrace convert -f - > ours.yaml
    """  # noqa: D301 - \b is click's mark for lines to be left as they are
    from headrace.control import parse

    try:
        found = [moved(each) for each in parse.read(manifests.read(paths))]
    except InvalidResources as exc:
        for fault in exc.faults:
            click.echo(f"error: {fault}", err=True)
        click.get_current_context().exit(1)
    if form == "json":
        output.write_json([document(each) for each in found])
    else:
        click.echo(render(found), nl=False)


def moved(resource: Resource) -> Resource:
    """The resource with its relative paths starting from the current folder, where what is printed will be."""
    import msgspec

    from headrace.control.resources import Model
    from headrace.graph.spec import Pipeline

    replace = msgspec.structs.replace
    base, spec = resource.base, resource.spec
    if isinstance(spec, Model):
        spec = replace(spec, uri=_uri(spec.uri, base), reference=_reference(spec.reference, base))
    elif isinstance(spec, Pipeline):
        steps = []
        for step in spec.steps:
            route, combine = step.route, step.combine
            if route is not None:
                route = replace(route, reference=_reference(route.reference, base))
            if combine is not None:
                combine = replace(combine, reference=_reference(combine.reference, base))
            steps.append(replace(step, python=_reference(step.python, base), route=route, combine=combine))
        spec = replace(spec, steps=tuple(steps))
    return replace(resource, spec=spec, base=str(Path.cwd()))


def _uri(uri: str, base: str) -> str:
    if not uri or "://" in uri or Path(uri).is_absolute():
        return uri
    return os.path.relpath(Path(base, uri))


def _reference(reference: str, base: str) -> str:
    file, colon, name = reference.rpartition(":")
    return f"{_uri(file, base)}{colon}{name}" if file.endswith(".py") else reference


def document(resource: Resource) -> dict[str, Any]:
    """A resource as a person would have written it."""
    from headrace.control import parse
    from headrace.control.manifests import MADE_FROM

    shown = {key: value for key, value in parse.render(resource).items() if key in _DECLARED}
    annotations = {key: value for key, value in resource.metadata.annotations.items() if key != MADE_FROM}
    metadata = {key: value for key, value in shown["metadata"].items() if key != "annotations"}
    return {**shown, "metadata": {**metadata, **({"annotations": annotations} if annotations else {})}}


_DECLARED: Final = ("apiVersion", "kind", "metadata", "spec")


def render(resources: Sequence[Resource]) -> str:
    """Resources as YAML documents, what is refused or without effect above each as comments."""
    import yaml

    documents = []
    for each in resources:
        comments = [f"# {' '.join(note.split())}\n" for note in each.notes]
        text = yaml.dump(document(each), Dumper=yaml.CSafeDumper, sort_keys=False, allow_unicode=True, width=110)
        documents.append("".join(comments) + text)
    return "---\n".join(documents)
