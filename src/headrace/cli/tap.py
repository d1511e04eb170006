"""`headrace tap`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from headrace.cli import kinds, output, remote

if TYPE_CHECKING:
    from headrace.client.control import ControlClient, Tapped, TappedTensor

_VALUES = 8


@click.command(short_help="Show what passes through a pipeline, as it passes.")
@click.argument("place", metavar="PIPELINE[.STEP][.inputs|.outputs]", shell_complete=kinds.complete_pipelines)
@click.option("-n", "--count", type=click.IntRange(min=1), metavar="N", help="End after so many.")
@click.option("--json", "as_json", is_flag=True, help="For programs: one object a line, with all values.")
@remote.control_options
def command(place: str, count: int | None, as_json: bool, client: ControlClient) -> None:
    """Show what passes through a pipeline, as it passes.

    At any step's input or output, or the pipeline's own: its answers, unless another place is named. Callers are not
    slowed: a tap that cannot keep up misses some, and says how many. Ctrl-C ends it.

    \b
    Examples:
      headrace tap chain
      headrace tap chain.scale.outputs -n 5
      headrace tap chain.inputs --json
    """  # noqa: D301 - \\b is click's mark for lines to be left as they are
    pipeline, _, reference = place.partition(".")
    for each in client.tap(pipeline, reference=reference, count=count or 0):
        if as_json:
            import msgspec

            click.echo(msgspec.json.encode(each).decode())
            continue
        if each.dropped:
            output.write_line(f"{each.dropped} were missed", "yellow")
        output.write_line(_head(each), "cyan")
        for tensor in each.tensors:
            click.echo(f"  {_shown(tensor)}")


def _head(tapped: Tapped) -> str:
    return f"{tapped.reference}" + (f"  request {tapped.id}" if tapped.id else "")


def _shown(tensor: TappedTensor) -> str:
    head = output.shape_of(tensor.name, tensor.datatype, tensor.shape)
    if tensor.data is None:
        return f"{head}  (too large to show, or not text)"
    more = len(tensor.data) - _VALUES
    values = ", ".join(json.dumps(value, ensure_ascii=False) for value in tensor.data[:_VALUES])
    return f"{head}  {values}" + (f", … {more} more" if more > 0 else "")
