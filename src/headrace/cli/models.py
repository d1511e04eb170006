"""`headrace models`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click

from headrace.cli import output, remote
from headrace.errors import ModelNotReady

if TYPE_CHECKING:
    from headrace.client import Client, IndexEntry


@click.command(short_help="List the models of a running server.")
@click.option("--json", "as_json", is_flag=True, help="For programs: everything that the server says of each model.")
@remote.server_options
def command(as_json: bool, url: str, timeout: float, headers: tuple[str, ...]) -> None:
    """List the models of a running server.

    With state and reason, platform, engine by number of rows, placement, inputs, outputs and warnings.

    \b
    Examples:
      headrace models
      headrace models --url http://models.example:8080 --json
    """  # noqa: D301 - \b is click's mark for lines to be left as they are
    with remote.connect(url, timeout, headers) as client:
        rows = [_row(client, entry) for entry in client.models()]
    if as_json:
        output.write_json(rows)
        return
    if not rows:
        click.echo("the server has no models")
        return
    columns = ["name", "version", "state", "reason", "platform", "engine", "placement", "inputs", "outputs"]
    output.write_table(columns, [[row[column] for column in columns] for row in map(_shown, rows)])
    for row in rows:
        for note in _notes(row):
            click.echo(f"{row['name']}: {note}")


def _row(client: Client, entry: IndexEntry) -> dict[str, Any]:
    row: dict[str, Any] = {"name": entry.name, "version": entry.version, "state": entry.state, "reason": entry.reason}
    row |= {"platform": "", "placement": "", "inputs": [], "outputs": [], "properties": {}, "warnings": []}
    if entry.state != "READY":
        return row
    try:
        metadata = client.metadata(entry.name, version=entry.version)
    except ModelNotReady as exc:  # it left between the two questions
        return row | {"state": "UNAVAILABLE", "reason": str(exc)}
    properties = dict(metadata.properties)
    warnings = properties.pop("warnings", "")
    return row | {
        "platform": metadata.platform,
        "placement": str(properties.pop("placement", "")),
        "inputs": [{"name": e.name, "datatype": e.datatype, "shape": e.shape} for e in metadata.inputs],
        "outputs": [{"name": e.name, "datatype": e.datatype, "shape": e.shape} for e in metadata.outputs],
        "properties": properties,
        "warnings": [str(warnings)] if warnings else [],
    }


def _notes(row: Mapping[str, Any]) -> Iterator[str]:
    """What needs a line of its own: warnings, and how the engine was proven or why there is no faster one."""
    for warning in row["warnings"]:
        yield f"warning: {warning}"
    for name, value in row["properties"].items():
        if name == "engine.refused":
            yield f"no faster engine: {value}"
        elif name.startswith("engine.parity."):
            yield f"engine {name.removeprefix('engine.parity.')} was proven: {value}"


def _shown(row: Mapping[str, Any]) -> dict[str, str]:
    return {
        **{name: str(row[name]) for name in ("name", "version", "state", "reason", "platform", "placement")},
        "engine": output.engine_of(row["properties"]),
        "inputs": ", ".join(output.shape_of(**each) for each in row["inputs"]),
        "outputs": ", ".join(output.shape_of(**each) for each in row["outputs"]),
    }
