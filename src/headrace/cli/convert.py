"""`headrace convert`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import click

from headrace.cli import output
from headrace.errors import InvalidResources

if TYPE_CHECKING:
    from headrace.control.parse import File
    from headrace.control.resources import Resource

SUFFIXES: Final = (".yaml", ".yml", ".json")
SETTINGS: Final = "model-settings.json"
"""The only JSON file of a folder made for MLServer that becomes a resource."""
_NOT_OURS: Final = ("settings.json",)


@click.command(short_help="Print manifests made for other systems as our resources.")
@click.option(
    "-f",
    "--filename",
    "names",
    multiple=True,
    required=True,
    metavar="FILE|DIR|-",
    help="A manifest, a folder of them with what is below it, or - for standard input. Repeatable.",
)
@click.option(
    "-o",
    "--output",
    "form",
    type=click.Choice(["yaml", "json"]),
    default="yaml",
    show_default=True,
    help="YAML shows what is refused or without effect as comments above each resource; JSON is a list of resources.",
)
def command(names: tuple[str, ...], form: Literal["yaml", "json"]) -> None:
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
        found = [moved(each) for each in parse.read(list(files(names)))]
    except InvalidResources as exc:
        for fault in exc.faults:
            click.echo(f"error: {fault}", err=True)
        click.get_current_context().exit(1)
    if form == "json":
        output.write_json([document(each) for each in found])
    else:
        click.echo(render(found), nl=False)


def files(names: Sequence[str]) -> Iterator[File]:
    """The manifests at these places, with their text; those of a folder in the order of their paths.

    Raises:
        click.UsageError: nothing is there, or it is not text in UTF-8.
    """
    from headrace.control.parse import File

    for name in names:
        if name == "-":
            yield File(name="standard input", text=sys.stdin.read(), base=str(Path.cwd()))
            continue
        path = Path(name)
        if not path.exists():
            raise click.UsageError(f"there is no {name}")
        found = sorted(each for each in path.rglob("*") if _is_manifest(each)) if path.is_dir() else [path]
        if not found:
            raise click.UsageError(f"{name} holds no {', '.join(SUFFIXES)}")
        for file in found:
            try:
                text = file.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as exc:
                raise click.UsageError(f"{file} cannot be read: {exc}") from exc
            yield File(name=str(file), text=text, base=str(file.parent.resolve()))


def _is_manifest(path: Path) -> bool:
    if path.suffix not in SUFFIXES or not path.is_file() or path.name in _NOT_OURS:
        return False
    beside = (path.parent / SETTINGS).is_file()  # the rest of such a folder is the model's
    return not beside or path.name == SETTINGS


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
