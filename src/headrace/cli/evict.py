"""`headrace evict`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from headrace.cli import kinds, remote

if TYPE_CHECKING:
    from headrace.client.control import ControlClient


@click.command(short_help="Take a model out of memory until it is asked for.")
@click.argument("names", nargs=-1, required=True, metavar="NAME...", shell_complete=kinds.complete_models)
@remote.control_options
def command(names: tuple[str, ...], client: ControlClient) -> None:
    """Take a model out of memory until it is asked for.

    It stays declared and ready: the next request loads it again, and waits for that.

    \b
    Examples:
      headrace evict iris
    """  # noqa: D301 - \\b is click's mark for lines to be left as they are
    for name in names:
        client.evict(name)
        click.echo(f"model/{name} has left memory")
