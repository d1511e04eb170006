"""`headrace events`."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from headrace.cli import kinds, output, remote

if TYPE_CHECKING:
    from headrace.client.control import ControlClient, Event


@click.command(short_help="List what happened to resources.")
@click.argument("targets", nargs=-1, metavar="[KIND [NAME]]", shell_complete=kinds.complete)
@click.option("--json", "as_json", is_flag=True, help="For programs: one object a line.")
@click.option("-w", "--watch", is_flag=True, help="Go on, and show what happens.")
@remote.control_options
def command(targets: tuple[str, ...], as_json: bool, watch: bool, client: ControlClient) -> None:
    """List what happened to resources.

    Oldest first: loads, failures, steps of rollouts and why they were taken.

    \b
    Examples:
      headrace events
      headrace events model iris
      headrace events rollout/iris-2 --watch
    """  # noqa: D301 - \\b is click's mark for lines to be left as they are
    kind, name = kinds.maybe_of(targets)
    version = client.snapshot(kind, name)[1] if watch else 0
    found = client.events(kind, name)[::-1]
    if as_json:
        _write_lines(found)
    elif found or not watch:
        write(found)
    shown = {(each.id, each.count) for each in found}  # one that happens again is counted again
    while watch:
        version = client.watch(version).resource_version
        newer = [each for each in client.events(kind, name)[::-1] if (each.id, each.count) not in shown]
        shown |= {(each.id, each.count) for each in newer}
        if as_json:
            _write_lines(newer)
        else:
            for each in newer:
                click.echo("  ".join(_row(each)))


def write(events: Sequence[Event], *, whose: bool = True) -> None:
    """Events as a table; `whose`: with the resource of each."""
    if not events:
        click.echo("no events")
        return
    rows = [_row(each) if whose else [cell for at, cell in enumerate(_row(each)) if at != 2] for each in events]
    heads = ["AGE", "TYPE", "RESOURCE", "REASON", "TIMES", "MESSAGE"]
    output.write_table([head for head in heads if whose or head != "RESOURCE"], rows, styles={"Warning": "yellow"})


def _row(event: Event) -> list[str]:
    return [
        output.age_of(dt.datetime.fromtimestamp(event.at, tz=dt.UTC)),
        event.type,
        f"{event.kind.lower()}/{event.name}",
        event.reason,
        str(event.count) if event.count > 1 else "",
        event.message,
    ]


def _write_lines(events: Sequence[Event]) -> None:
    import msgspec

    for each in events:
        click.echo(msgspec.json.encode(each).decode())
