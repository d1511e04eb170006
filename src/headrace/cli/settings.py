"""`headrace settings`."""

from __future__ import annotations

import os

import click

from headrace.cli import output


@click.command(short_help="Show every setting, its value, and where the value came from.")
@click.option("--config", envvar="HEADRACE_CONFIG", metavar="FILE", help="A server.yaml.", show_envvar=True)
@click.option("--changed", is_flag=True, help="Only what differs from the defaults.")
@click.option("--reference", is_flag=True, help="Print the settings reference (Markdown) instead.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def command(config: str | None, changed: bool, reference: bool, as_json: bool) -> None:
    """Show every setting, its value, and where the value came from.

    \b
    Examples:
      headrace settings
      headrace settings --config server.yaml --changed
      HEADRACE_HTTP_PORT=9000 headrace settings --json
    """  # noqa: D301 - \b is click's mark for lines to be left as they are
    from headrace import settings

    if reference:
        click.echo(settings.reference(), nl=False)
        return
    loaded = settings.load(settings.Settings(), read_config(config), os.environ, {}, file_name=config or "")
    rows = [row for row in settings.effective(loaded) if row.origin != "default" or not changed]
    if as_json:
        output.write_json([{"key": row.key, "value": row.value, "origin": row.origin} for row in rows])
    elif not rows:
        click.echo("every setting is at its default")
    else:
        shown = [(row.key, settings.shown(row.key, row.value), row.origin) for row in rows]
        output.write_table(["setting", "value", "from"], shown)


def read_config(path: str | None) -> str:
    """The text of the settings file; empty when none is given.

    Raises:
        SettingsError: it cannot be read.
    """
    from pathlib import Path

    from headrace.errors import SettingsError

    if not path:
        return ""
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise SettingsError(f"cannot read the settings file {path}: {exc}") from exc
