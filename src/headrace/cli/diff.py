"""`headrace diff`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from headrace.cli import changes, group, manifests, remote

if TYPE_CHECKING:
    from headrace.client.control import ControlClient


@click.command(short_help="Show the lines in which files and server differ.")
@manifests.file_option()
@click.option("--json", "as_json", is_flag=True, help="For programs: each change with the manifest before and after.")
@remote.control_options
def command(paths: tuple[str, ...], as_json: bool, client: ControlClient) -> None:
    """Show the lines in which files and server differ.

    Both sides are shown as manifests of Headrace, whatever the files were made for.

    Exit codes: 0 no differences; 1 differences; more than 1: it cannot be said, 6 where an apply would be refused.

    \b
    Examples:
      headrace diff -f deployment/
      headrace get -o yaml > before.yaml; headrace diff -f before.yaml
    """  # noqa: D301 - \\b is click's mark for lines to be left as they are
    files = manifests.read(paths)
    with group.differences():
        found = client.diff(files)
        if as_json:
            changes.write_json(found)
        else:
            changes.write_diff(found)
    click.get_current_context().exit(1 if found.differ else 0)
