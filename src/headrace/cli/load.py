"""`headrace load`."""

from __future__ import annotations

import click

from headrace.cli import output, remote


@click.command(short_help="Load or reload a model of a running server.")
@click.argument("name")
@remote.server_options
def command(name: str, url: str, timeout: float, headers: tuple[str, ...]) -> None:
    """Load or reload a model of a running server.

    The new one is loaded and warmed up before the old one leaves, so no request fails meanwhile.

    \b
    Examples:
      headrace load iris
      headrace load iris --url http://models.example:8080
    """  # noqa: D301 - \b is click's mark for lines to be left as they are
    with remote.connect(url, timeout, headers) as client, output.working(f"loading {name}"):
        client.load(name)
    click.echo(f"{name} is loaded")
