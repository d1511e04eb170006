"""`headrace delete`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from headrace.cli import changes, kinds, manifests, remote

if TYPE_CHECKING:
    from headrace.client.control import ControlClient


@click.command(short_help="Take resources away.")
@click.argument("targets", nargs=-1, metavar="[KIND NAME... | KIND/NAME...]", shell_complete=kinds.complete)
@manifests.file_option(required=False)
@click.option("--force", is_flag=True, help="Although others need it: they are not ready then, and say so.")
@click.option("--all", "all_of_kind", is_flag=True, help="Every resource of KIND.")
@click.option("--ignore-not-found", is_flag=True, help="What is not there counts as taken away.")
@remote.control_options
def command(
    *,
    targets: tuple[str, ...],
    paths: tuple[str, ...],
    force: bool,
    all_of_kind: bool,
    ignore_not_found: bool,
    client: ControlClient,
) -> None:
    """Take resources away.

    All that are named, and with -f all that the files declare, or none: nothing goes that something else needs, and the
    message names what needs it.

    Exit codes: 0 all are gone; 1 one was not there; 6 one is needed by something that stays.

    \b
    Examples:
      headrace delete model iris
      headrace delete experiment/ab pipeline/chain
      headrace delete -f deployment/
      headrace delete rollouts --all
    """  # noqa: D301 - \\b is click's mark for lines to be left as they are
    if all_of_kind:
        if len(targets) != 1 or paths:
            raise click.UsageError("--all expected one KIND", click.get_current_context())
        kind = kinds.kind_of(targets[0])
        chosen = [(each.kind, each.metadata.name) for each in kinds.find(client, kind)]
    else:
        chosen = kinds.targets_of(targets) + manifests.declared(paths)
        if not chosen:
            raise click.UsageError("expected KIND NAME, or -f", click.get_current_context())
    if ignore_not_found:
        there = {(each.kind, each.metadata.name) for each in client.get()}
        chosen = [key for key in chosen if key in there]
    if chosen:
        changes.write(client.delete_all(chosen, force=force))
    else:
        click.echo("nothing to delete")
