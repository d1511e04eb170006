"""`headrace unload`."""

from __future__ import annotations

import click

from headrace.cli import output, remote


@click.command(short_help="Take a model of a running server out of service.")
@click.argument("name")
@remote.server_options
def command(name: str, url: str, timeout: float, headers: tuple[str, ...]) -> None:
    """Take a model of a running server out of service.

    Requests in flight end first. `headrace load` brings it back.

    \b
    Examples:
      headrace unload iris
    """  # noqa: D301 - \b is click's mark for lines to be left as they are
    with remote.connect(url, timeout, headers) as client, output.working(f"unloading {name}"):
        client.unload(name)
    click.echo(f"{name} is unloaded")
