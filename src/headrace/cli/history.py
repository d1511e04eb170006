"""`headrace history`."""

from __future__ import annotations

import datetime as dt
from itertools import pairwise
from typing import TYPE_CHECKING

import click

from headrace.cli import changes, kinds, output, remote

if TYPE_CHECKING:
    from headrace.client.control import ControlClient, Generation


@click.command(short_help="List the states that a resource was in.")
@click.argument("targets", nargs=-1, required=True, metavar="KIND NAME", shell_complete=kinds.complete)
@click.option("--json", "as_json", is_flag=True, help="For programs: each generation with its whole spec.")
@remote.control_options
def command(targets: tuple[str, ...], as_json: bool, client: ControlClient) -> None:
    """List the states that a resource was in.

    Newest first, with what each changed. `headrace rollback` goes back to one.

    \b
    Examples:
      headrace history model iris
      headrace history pipeline/chain --json
    """  # noqa: D301 - \\b is click's mark for lines to be left as they are
    kind, name = kinds.one_of(targets)
    found = client.history(kind, name)
    if as_json:
        import msgspec

        output.write_json([msgspec.to_builtins(each, str_keys=True) for each in found])
        return
    rows = [
        _row(new, old, current=at == 0) for at, (new, old) in enumerate(pairwise([*found, None])) if new is not None
    ]
    output.write_table(["GENERATION", "", "AGE", "REVISION", "BY", "CHANGE"], rows, styles={})


def _row(new: Generation, old: Generation | None, *, current: bool) -> list[str]:
    return [
        str(new.generation),
        "now" if current and new.action != "deleted" else "",
        output.age_of(dt.datetime.fromtimestamp(new.at, tz=dt.UTC)),
        str(new.revision or ""),
        new.who,
        _change(new, old),
    ]


def _change(new: Generation, old: Generation | None) -> str:
    if new.action in {"created", "deleted"} or old is None:
        return new.action
    found = changes.field_changes(old.resource.spec, new.resource.spec)
    return "; ".join(f"{path}: {text}" for _, path, text in found) or new.action
