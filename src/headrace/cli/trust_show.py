"""`headrace trust show`, and how a trust folder is told to people and programs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from headrace.cli import output

if TYPE_CHECKING:
    from headrace.trust.folder import Folder
    from headrace.trust.spec import DetectorSpec, Window


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
    if card.answers_told:
        click.echo(f"compared with {card.answers_told}")
    windows: dict[Window, list[str]] = {each.window: [] for each in folder.detectors}
    for each in folder.detectors:
        windows[each.window].append(each.name)
    for window, names in windows.items():
        of = "" if len(windows) == 1 else f" of {', '.join(names)}"
        click.echo(f"windows{of}: {_window(window)}")
    click.echo("")
    columns = ["DETECTOR", "KIND", "LOOKS AT", "THRESHOLD", "FALSE POSITIVES", "BETWEEN", "GUARD", "MODEL"]
    rows = [_row(each) for each in folder.detectors]
    if not any(row[-1] for row in rows):
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    output.write_table(tuple(columns), rows, styles={})
    click.echo("")
    output.write_table(
        ("EXPLAINER", "METHOD"), [(each.name, each.method) for each in folder.explainers.explainers], styles={}
    )
    if folder.explainers.model:
        click.echo(f"explanations are also served as model '{folder.explainers.model}'")
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
        spec.model,
    )


def _window(window: Window) -> str:
    told = f"each {window.step:,} rows of the last {window.rows:,}" if window.step else f"{window.rows:,} rows"
    if window.seconds and window.min_rows < window.rows:
        told += f", or what came in {window.seconds:g} s if that is {window.min_rows:,} rows or more"
    return told


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
