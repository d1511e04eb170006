"""`headrace trust show`, and how a trust folder is told to people and programs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from headrace.cli import output

if TYPE_CHECKING:
    from headrace.trust.folder import Folder
    from headrace.trust.spec import DetectorSpec


@click.command(short_help="Show what a trust folder holds.")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(folder: Path, *, as_json: bool) -> None:
    """Show what a trust folder holds.

    FOLDER is a trust folder, or a model that has one beside it. Every digest is checked.

    \b
    Examples:
      headrace trust show iris.joblib
      headrace trust show models/iris/trust --json
    """  # noqa: D301 - \b is click's mark for lines to be left as they are
    from headrace.trust.folder import find_folder, is_folder, open_folder

    path = folder.expanduser()
    found = path if is_folder(path) else find_folder(path) if path.exists() else None
    show(open_folder(found or path), as_json=as_json)


def show(folder: Folder, *, as_json: bool) -> None:
    """Write what a folder holds on standard output."""
    if as_json:
        output.write_json(described(folder))
        return
    card, schema = folder.card, folder.schema
    size = sum(each.stat().st_size for each in folder.path.iterdir())
    kind = f"{schema.data} {schema.task}"
    taken = "texts" if schema.data == "text" else f"{len(schema.features)} columns"
    told = f", classes {', '.join(map(str, schema.classes[:10]))}" if schema.classes else ""
    click.echo(f"{folder.path}  {output.size_of(size)}, digest {folder.digest[:12]}")
    click.echo(f"{kind}: {taken}{told}")
    click.echo(f"fitted {card.fitted_at} by headrace {card.headrace} on {card.rows} rows of {card.data}")
    click.echo("")
    output.write_table(
        ("DETECTOR", "KIND", "LOOKS AT", "THRESHOLD", "FALSE POSITIVES", "BETWEEN", "GUARD"),
        [_row(each) for each in folder.detectors],
        styles={},
    )
    click.echo("")
    output.write_table(
        ("EXPLAINER", "METHOD"), [(each.name, each.method) for each in folder.explainers.explainers], styles={}
    )
    for warning in card.warnings:
        click.echo(f"note: {warning}")


def _row(spec: DetectorSpec) -> tuple[str, ...]:
    rate, between = spec.false_positive_rate, spec.false_positive_interval
    return (
        spec.name,
        spec.kind,
        spec.on,
        "" if spec.threshold is None else f"{spec.threshold:.4g}",
        "" if rate is None else f"{rate:.2%}",
        "" if between is None else f"{between[0]:.2%} to {between[1]:.2%}",
        spec.guard if spec.guard != "off" else "",
    )


def described(folder: Folder) -> dict[str, Any]:
    """A folder as JSON."""
    import msgspec

    plain = msgspec.to_builtins
    schema = plain(folder.schema)
    return {
        "path": str(folder.path),
        "digest": folder.digest,
        "bytes": sum(each.stat().st_size for each in folder.path.iterdir()),
        "card": plain(folder.card),
        "schema": schema,
        "detectors": [plain(each) for each in folder.detectors],
        "explainers": plain(folder.explainers),
    }
