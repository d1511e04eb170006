"""`headrace apply`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from headrace.cli import changes, manifests, output, remote

if TYPE_CHECKING:
    from headrace.client.control import ControlClient


@click.command(short_help="Make models, pipelines and experiments be what files say.")
@manifests.file_option()
@click.option("--dry-run", is_flag=True, help="Check, and say what would change, but change nothing.")
@remote.wait_options
@click.option("--json", "as_json", is_flag=True, help="For programs: each change.")
@remote.control_options
def command(
    *, paths: tuple[str, ...], dry_run: bool, condition: str, timeout: float, as_json: bool, client: ControlClient
) -> None:
    """Make models, pipelines and experiments be what files say.

    All of it is applied, or nothing: faults are listed, every one with its file, line and field. Manifests of Seldon
    Core, KServe and MLServer are taken as they are. Paths in a manifest are relative to its file, and are paths of the
    machine that the server runs on.

    Exit codes: 0 applied (and ready, with --wait); 4 not ready in time, or failed; 6 refused.

    \b
    Examples:
      headrace apply -f models.yaml
      headrace apply -f deployment/ --wait
      headrace apply -f deployment/ --dry-run
      kustomize build overlays/test | headrace apply -f -
    """  # noqa: D301 - \\b is click's mark for lines to be left as they are
    files = manifests.read(paths)
    applied = client.apply(files, dry_run=dry_run)
    if as_json:
        changes.write_json(applied)
    else:
        changes.write(applied, suffix=" (dry run)" if dry_run else "")
    if condition and not dry_run:
        with output.to_error(as_json):
            changes.wait_for(client, applied, condition=condition, timeout=timeout)
