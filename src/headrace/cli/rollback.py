"""`headrace rollback`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from headrace.cli import changes, kinds, output, remote

if TYPE_CHECKING:
    from headrace.client.control import ControlClient


@click.command(short_help="Make a resource be what it was.")
@click.argument("targets", nargs=-1, required=True, metavar="KIND NAME", shell_complete=kinds.complete)
@click.option(
    "--to",
    "generation",
    type=click.IntRange(min=1),
    metavar="N",
    help="The generation, as `headrace history` lists them; default: the one before the present.",
)
@remote.wait_options
@click.option("--json", "as_json", is_flag=True, help="For programs: the change.")
@remote.control_options
def command(
    *,
    targets: tuple[str, ...],
    generation: int | None,
    condition: str,
    timeout: float,
    as_json: bool,
    client: ControlClient,
) -> None:
    """Make a resource be what it was.

    Its spec becomes that of an earlier generation, as a new generation: nothing of the history is lost.

    \b
    Examples:
      headrace rollback model iris
      headrace rollback pipeline/chain --to 3 --wait
    """  # noqa: D301 - \\b is click's mark for lines to be left as they are
    kind, name = kinds.one_of(targets)
    done = client.rollback(kind, name, generation=generation or 0)
    if as_json:
        changes.write_json(done)
    else:
        changes.write(done, suffix=f" to what it was in generation {generation}" if generation else "")
    if condition:
        with output.to_error(as_json):
            changes.wait_for(client, done, condition=condition, timeout=timeout)
