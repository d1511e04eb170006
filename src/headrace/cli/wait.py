"""`headrace wait`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from headrace.cli import changes, kinds, manifests, remote

if TYPE_CHECKING:
    from headrace.client.control import ControlClient

_STATES = {"true": "True", "false": "False", "unknown": "Unknown"}


@click.command(short_help="Wait until resources are ready.")
@click.argument("targets", nargs=-1, metavar="[KIND/NAME]...", shell_complete=kinds.complete)
@manifests.file_option(required=False)
@click.option(
    "--for",
    "wanted",
    default="Ready",
    show_default=True,
    metavar="CONDITION[=STATUS]",
    help="A condition, with what it is to be (True, unless said); or `delete`: until they are gone.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=300.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait.",
)
@remote.control_options
def command(
    *, targets: tuple[str, ...], paths: tuple[str, ...], wanted: str, timeout: float, client: ControlClient
) -> None:
    """Wait until resources are ready.

    Only what is said of the present generation counts: a resource that was ready before it was changed is waited for.

    Exit codes: 0 all are; 4 the time is up.

    \b
    Examples:
      headrace wait model/iris pipeline/chain --timeout 60
      headrace wait --for=Ready=False model iris
      headrace wait -f deployment/
      headrace wait --for=delete model/iris
    """  # noqa: D301 - \\b is click's mark for lines to be left as they are
    chosen = kinds.targets_of(targets) + manifests.declared(paths)
    if not chosen:
        raise click.UsageError("expected KIND/NAME, or -f", click.get_current_context())
    condition, _, text = wanted.removeprefix("condition=").partition("=")
    if text.lower() not in {"", *_STATES}:
        raise click.UsageError(f"--for expected True, False or Unknown, got {text!r}", click.get_current_context())
    if condition == "delete":
        changes.wait_gone(client, chosen, timeout=timeout)
        return
    status = _STATES.get(text.lower(), "True")
    changes.wait(client, chosen, condition=condition, status=status, timeout=timeout)
