"""`headrace plan`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from headrace.cli import changes, group, manifests, remote

if TYPE_CHECKING:
    from headrace.client.control import ControlClient


@click.command(short_help="Show what an apply would change, and nothing more.")
@manifests.file_option()
@click.option("--json", "as_json", is_flag=True, help="For programs: each change and each action.")
@remote.control_options
def command(paths: tuple[str, ...], as_json: bool, client: ControlClient) -> None:
    """Show what an apply would change, and nothing more.

    First the resources, field by field, then what the server would do for them, stage by stage.

    Exit codes: 0 nothing would change; 1 something would; more than 1: it cannot be said, 6 where an apply would be
    refused.

    \b
    Examples:
      headrace plan -f deployment/
      headrace plan -f deployment/ --json
    """  # noqa: D301 - \\b is click's mark for lines to be left as they are
    files = manifests.read(paths)
    with group.differences():
        planned = client.plan(files)
        if as_json:
            changes.write_json(planned)
        else:
            changes.write_plan(planned)
    click.get_current_context().exit(1 if planned.differ else 0)
