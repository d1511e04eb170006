"""`headrace graph`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal

import click

from headrace.cli import kinds, manifests, output, remote
from headrace.errors import NotFound

if TYPE_CHECKING:
    from headrace.client.control import ControlClient
    from headrace.control.resources import Resource


@click.command(short_help="Draw a pipeline or an experiment.")
@click.argument("name", required=False, metavar="[NAME]", shell_complete=kinds.complete_pipelines)
@manifests.file_option(required=False)
@click.option(
    "-o",
    "--output",
    "form",
    type=click.Choice(["text", "mermaid"]),
    default="text",
    show_default=True,
    help="`mermaid`: for Markdown pages and https://mermaid.live.",
)
@click.option("--json", "as_json", is_flag=True, help="For programs: name to picture.")
@remote.control_options
def command(
    name: str | None, paths: tuple[str, ...], form: Literal["text", "mermaid"], as_json: bool, client: ControlClient
) -> None:
    """Draw a pipeline or an experiment.

    As the server has it; with -f as files have it, and no server is asked.

    \b
    Examples:
      headrace graph chain
      headrace graph chain -o mermaid
      headrace graph -f deployment/
    """  # noqa: D301 - \b is click's mark for lines to be left as they are
    if paths:
        from headrace.control.parse import read

        pictures = dict(_drawn(read(manifests.read(paths)), name or "", form))
        if not pictures:
            what = f"pipeline or experiment '{name}'" if name else "pipelines or experiments"
            raise NotFound(f"the files declare no {what}")
    else:
        if not name:
            raise click.UsageError("expected NAME, or -f", click.get_current_context())
        plain = name.rpartition("/")[2]
        pictures = {plain: client.picture(plain, form=form)}
    if as_json:
        output.write_json(pictures)
        return
    for at, picture in enumerate(pictures.values()):
        click.echo(("\n" if at else "") + picture.rstrip("\n"))


def _drawn(resources: Sequence[Resource], name: str, form: Literal["text", "mermaid"]) -> Iterator[tuple[str, str]]:
    from headrace.control.backends.base import PipelineUnit, SplitUnit
    from headrace.control.plan import units
    from headrace.graph import picture
    from headrace.local.picture import split

    for each in units(resources):
        if name not in {"", each.name}:
            continue
        if isinstance(each, PipelineUnit):
            drawn = picture.mermaid(each.name, each.spec) if form == "mermaid" else picture.text(each.name, each.spec)
            yield each.name, drawn
        elif isinstance(each, SplitUnit):
            yield each.name, split(each, form)
