"""`headrace prefetch`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from headrace.cli import kinds, output, remote

if TYPE_CHECKING:
    from headrace.client.control import ControlClient


@click.command(short_help="Load a model into memory before it is asked for.")
@click.argument("names", nargs=-1, required=True, metavar="NAME...", shell_complete=kinds.complete_models)
@remote.control_options
def command(names: tuple[str, ...], client: ControlClient) -> None:
    """Load a model into memory before it is asked for.

    For models that left it: because they were idle, because others needed the room, or because they are loaded on
    demand. Returns when they are loaded.

    \b
    Examples:
      headrace prefetch iris
      headrace prefetch iris churn fraud
    """  # noqa: D301 - \\b is click's mark for lines to be left as they are
    for name in names:
        with output.working(f"loading {name}"):
            client.prefetch(name)
        click.echo(f"model/{name} is in memory")
