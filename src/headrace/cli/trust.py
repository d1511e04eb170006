"""`headrace trust`: a group whose subcommands are imported when they are called."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import click

COMMANDS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "fit": "Fit detectors and explainers to a model and its training data.",
        "show": "Show what a trust folder holds.",
        "scan-data": "Look for what is wrong with training data.",
        "status": "Show what the detectors of a served model say.",
        "report": "Write what the detectors of a served model say as a page with pictures.",
    }
)
"""Name to summary, in the order of the help; the command of `scan-data` is `command` in `cli.trust_scan_data`."""


class TrustGroup(click.Group):
    """Imports a subcommand when it is called, and lists it from `COMMANDS` until then."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """The command, imported now; None for a name that the table does not have."""
        if name not in COMMANDS:
            return None
        module = importlib.import_module(f"headrace.cli.trust_{name.replace('-', '_')}")
        found: click.Command = module.command
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands in the help, without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command asked for; an unknown one is an error that names the nearest."""
        name = args[0]
        if name not in COMMANDS and not name.startswith("-"):
            near = difflib.get_close_matches(name, COMMANDS, n=1, cutoff=0.5)
            hint = f"did you mean '{near[0]}'?" if near else f"commands are {', '.join(COMMANDS)}"
            raise click.UsageError(f"no such command '{name}'; {hint}", ctx)
        return super().resolve_command(ctx, args)


@click.group(cls=TrustGroup, name="trust", short_help="Fit and look at what watches and explains a model.")
def command() -> None:
    """Fit and look at what watches and explains a model.

    A trust folder lies beside the model: a sample of its training data, detectors of outliers, drift and adversarial
    inputs with calibrated thresholds, explainers. headrace serve finds it and switches on what it holds.

    \b
    Examples:
      headrace trust fit iris.joblib --data train.parquet --labels species
      headrace trust show iris.joblib
      headrace trust status iris
      headrace trust report iris -o report.html
    """  # noqa: D301 - \b is click's mark for lines to be left as they are
