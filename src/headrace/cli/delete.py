"""`headrace delete`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from headrace.cli import changes, kinds, manifests, remote
from headrace.errors import HeadraceError, NotFound

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

    With -f, what the files declare, those first that need others. A resource that another needs stays, and the message
    names who needs it.

    Exit codes: 0 all are gone; 1 one was not there; 6 one is needed by another.

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
    order = list(kinds.NAMES)
    if paths or all_of_kind:
        chosen.sort(key=lambda key: order.index(key[0]), reverse=True)
    if not chosen:
        click.echo("nothing to delete")
    first: HeadraceError | None = None
    for kind, name in chosen:
        try:
            changes.write(client.delete(kind, name, force=force))
        except NotFound as exc:
            if not ignore_not_found:
                if len(chosen) == 1:
                    raise
                click.echo(f"{kind.lower()}/{name}: {exc}", err=True)
                first = first or exc
    if first is not None:
        raise first
