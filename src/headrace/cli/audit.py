"""`headrace audit verify`: whether an audit log still says what was written to it."""

from __future__ import annotations

from pathlib import Path

import click

from headrace.cli import output


@click.group(short_help="Check the audit log of queries.")
def command() -> None:
    """Check the audit log of queries.

    Models whose settings say `trust: {audit: true}` write it.

    \b
    Examples:
      headrace audit verify .headrace/audit.jsonl
    """  # noqa: D301 - \b is click's mark for lines to be left as they are


@command.command("verify")
@click.argument("log", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def verify(log: Path, as_json: bool) -> None:
    """Check the chain of LOG, line by line.

    The exit code is 1 when a line was changed, left out or put in. The hash that is printed is that of the last line
    that holds: kept somewhere else, it shows later whether lines were cut off at the end.

    \b
    Examples:
      headrace audit verify .headrace/audit.jsonl --json
    """  # noqa: D301 - \b is click's mark for lines to be left as they are
    from headrace.security import audit

    checked = audit.verify(log)
    if as_json:
        output.write_json(checked)
    elif checked.first_bad is None:
        click.echo(f"{log}: {checked.lines} lines hold; the last hash is {checked.last}")
    else:
        click.echo(f"{log}: line {checked.first_bad} does not hold: {checked.problem}; {checked.lines} before it do")
    if checked.first_bad is not None:
        raise click.exceptions.Exit(1)
