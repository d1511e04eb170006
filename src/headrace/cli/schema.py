"""`headrace schema`."""

from __future__ import annotations

import click

from headrace.cli import kinds, output


@click.command(short_help="Print the JSON Schema of resources.")
@click.argument("kind", required=False, shell_complete=kinds.complete)
@click.option("--all", "all_kinds", is_flag=True, help="Of any resource: one schema for whole files, for editors.")
def command(kind: str | None, all_kinds: bool) -> None:
    """Print the JSON Schema of resources.

    Editors complete and check manifests with it: in VS Code, `yaml.schemas: {"headrace.schema.json": "*.yaml"}`, or
    `# yaml-language-server: $schema=headrace.schema.json` as a file's first line. Needs no server.

    \b
    Examples:
      headrace schema --all > headrace.schema.json
      headrace schema pipeline
    """  # noqa: D301 - \\b is click's mark for lines to be left as they are
    from headrace.control import schema

    if all_kinds == (kind is not None):
        raise click.UsageError("expected KIND, or --all", click.get_current_context())
    output.write_json(schema.schema(kinds.own_kind_of(kind) if kind else ""))
