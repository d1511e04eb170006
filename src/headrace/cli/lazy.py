"""A group whose subcommands are imported when they are called: `headrace`, `headrace trust`, `headrace batch`."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from typing import Any

import click


class LazyGroup(click.Group):
    """Imports a subcommand when it is called, and lists it from a table until then.

    Args:
        commands: Name to summary, in the order of the help.
        modules: Prefix of the modules: the command of `aws-lambda` is `command` in `headrace.cli.batch_aws_lambda`
            where this is `headrace.cli.batch_`.
        extra: What click's own group takes.
    """

    def __init__(self, *args: Any, commands: Mapping[str, str], modules: str, **extra: Any) -> None:
        super().__init__(*args, **extra)
        self._table, self._modules = commands, modules

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order of the table."""
        return list(self._table)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """The command, imported now; None for a name that the table does not have."""
        if name not in self._table:
            return None
        found: click.Command = importlib.import_module(f"{self._modules}{name.replace('-', '_')}").command
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands in the help, without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl(list(self._table.items()))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command asked for; an unknown one is an error that names the nearest."""
        name = args[0]
        if name not in self._table and not name.startswith("-"):
            near = difflib.get_close_matches(name, self._table, n=1, cutoff=0.5)
            hint = f"did you mean '{near[0]}'?" if near else f"commands are {', '.join(self._table)}"
            raise click.UsageError(f"no such command '{name}'; {hint}", ctx)
        return super().resolve_command(ctx, args)
