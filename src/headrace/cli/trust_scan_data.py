"""`headrace trust scan-data`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from headrace.cli import output

if TYPE_CHECKING:
    from headrace.features import Features
    from headrace.payload import Array
    from headrace.trust.scan import Finding
    from headrace.trust.table import Table


@click.command(name="scan-data", short_help="Look for what is wrong with training data.")
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--labels", default="", metavar="COLUMN", help="The column of labels; most looks for poison need it.")
@click.option("--source", default="", metavar="COLUMN", help="The column that says where a row is from.")
@click.option("--category", "categories", multiple=True, metavar="COLUMN", help="A column of numbers without order.")
@click.option("--model", default="", metavar="MODEL", help="Look at what this model answers, and at its ranges.")
@click.option(
    "--poison", type=click.FloatRange(0, 0.5, min_open=True), default=0.05, help="The share of a class to look for."
)
@click.option(
    "--fail-on",
    type=click.Choice(["low", "medium", "high", "never"]),
    default="high",
    show_default=True,
    help="Exit with 1 on a finding this severe.",
)
@click.option("--seed", type=int, default=0, help="Of all that is random.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--output",
    "-o",
    "target",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Also write a row for each finding and row of data, as Parquet.",
)
def command(
    data: Path,
    *,
    labels: str,
    source: str,
    categories: tuple[str, ...],
    model: str,
    poison: float,
    fail_on: str,
    seed: int,
    as_json: bool,
    target: Path | None,
) -> None:
    """Look for what is wrong with training data.

    Duplicates, labels that contradict or that the other rows would not give, sources that differ, rows that look
    planted, values out of range. A finding is where to look first, not a proof; exit code 1 says that there is one.

    \b
    Examples:
      headrace trust scan-data train.parquet --labels species
      headrace trust scan-data train.csv --labels y --source hospital --model model.joblib -o findings.parquet
    """  # noqa: D301 - \b is click's mark for lines to be left as they are
    from headrace.cli.group import differences

    with differences():
        findings, rows = _scanned(
            data, labels=labels, source=source, categories=categories, model=model, poison=poison, seed=seed
        )
        if target is not None:
            _write(findings, target)
    if as_json:
        output.write_json({"data": data.name, "rows": rows, "findings": findings})
    else:
        _show(findings, rows, data.name)
    from headrace.trust.scan import SEVERITIES

    if fail_on != "never" and any(SEVERITIES.index(each.severity) >= SEVERITIES.index(fail_on) for each in findings):
        raise click.exceptions.Exit(1)


def _scanned(
    data: Path, *, labels: str, source: str, categories: tuple[str, ...], model: str, poison: float, seed: int
) -> tuple[list[Finding], int]:
    import numpy as np

    from headrace.errors import InvalidRequest
    from headrace.features import numeric
    from headrace.payload import Signature
    from headrace.trust import scan, schema, table

    found = table.read(data.expanduser())
    for option, name in (("labels", labels), ("source", source)):
        if name and name not in found.columns:
            known = ", ".join(list(found.columns)[:20]) or "none: it is an array"
            raise InvalidRequest(f"--{option}: there is no column '{name}'; columns are {known}")
    marks = found.columns[labels] if labels else found.labels
    sources = np.array([str(each) for each in found.columns[source].tolist()]) if source else None
    rest = found.without(*filter(None, (labels, source)))
    if not len(rest):
        raise InvalidRequest(f"{data.name} has no columns but {labels} and {source}")
    hints = schema.Hints(categories=categories)
    outputs, expected = None, None
    if model:
        x, features, outputs, expected = _answered(model, rest, hints)
    else:
        seen = schema.taken(rest, Signature(platform=""), hints)
        x, features = seen.x, seen.features
        if seen.data == "text":  # nothing of a text is a column, but that it is the same as another
            x, features = (
                np.unique(x.astype(str), return_inverse=True)[1].astype(np.float64)[:, None],
                numeric(("text",)),
            )
    positions: Array | None = None
    names: tuple[str, ...] = ()
    if marks is not None:
        names, positions = _classes(marks)
        if len(names) > max(20, len(marks) // 10):
            raise InvalidRequest(
                f"{len(names)} different labels in {len(marks)} rows are no classes; leave out --labels"
            )
    options = scan.Options(poison=poison, seed=seed)
    findings = scan.scan(
        x,
        features,
        labels=positions,
        classes=names,
        sources=sources,
        outputs=outputs,
        expected=expected,
        options=options,
    )
    return findings, len(x)


def _classes(labels: Array) -> tuple[tuple[str, ...], Array]:
    import numpy as np

    values, positions = np.unique(np.array([str(each) for each in labels.tolist()]), return_inverse=True)
    return tuple(values.tolist()), positions


def _answered(model: str, rest: Table, hints: Any) -> tuple[Array, Features, Array, Features | None]:
    """Rows, columns, what a model answers, and the columns of its trust folder."""
    import numpy as np

    from headrace import notebook
    from headrace.errors import InvalidRequest
    from headrace.payload import Signature
    from headrace.trust import schema
    from headrace.trust.folder import find_folder, open_folder
    from headrace.trust.rows import Rows
    from headrace.trust.spec import Output, Schema

    path = Path(model).expanduser()
    place = find_folder(path) if path.exists() else None
    expected = open_folder(place).schema.features if place is not None else None
    with notebook.asked(model) as (loaded, ask):
        seen = schema.taken(rest, loaded.signature or Signature(platform=""), hints)
        known = Schema(
            data=seen.data, task="classification", features=seen.features, inputs=seen.inputs, output=Output()
        )
        if seen.data == "text":
            raise InvalidRequest("texts are scanned without --model")
        tensors = Rows(known).tensors(seen.x)
        answers = [
            each.data.reshape(len(seen.x), -1).astype(np.float64)
            for each in ask(tensors, ())
            if each.data.dtype.kind in "fiub" and len(each.data) == len(seen.x)
        ]
    if not answers:
        raise InvalidRequest(f"{model} answers no numbers a row; scan without --model")
    if expected is not None and expected.names != seen.features.names:
        expected = None
    return seen.x, seen.features, np.concatenate(answers, axis=1), expected


def _show(findings: list[Finding], rows: int, name: str) -> None:
    if not findings:
        click.echo(f"{name}: {rows} rows, nothing found")
        return
    output.write_table(
        ("SEVERITY", "CHECK", "ABOUT", "ROWS", "WHY", "FIRST ROWS"),
        [
            (
                each.severity,
                each.check,
                each.of,
                str(len(each.rows)),
                each.why,
                " ".join(map(str, each.rows[:5])) + (" ..." if len(each.rows) > 5 else ""),
            )
            for each in findings
        ],
        title=f"{name}: {rows} rows",
        styles={"high": "red", "medium": "yellow"},
    )


def _write(findings: list[Finding], path: Path) -> None:
    """A row for each finding and row of data; a finding without rows has one without a number."""
    from headrace.errors import InvalidRequest, MissingExtra

    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ModuleNotFoundError as error:
        raise MissingExtra(
            "--output needs pyarrow, which is not installed; run: pip install 'headrace[trust]'"
        ) from error
    records = [
        {"check": each.check, "of": each.of, "severity": each.severity, "row": row, "score": score}
        | {"threshold": each.threshold, "why": each.why}
        for each in findings
        for row, score in (zip(each.rows, each.scores, strict=True) if each.rows else [(None, None)])
    ]
    columns = [("check", pa.string()), ("of", pa.string()), ("severity", pa.string()), ("row", pa.int64())]
    columns += [("score", pa.float64()), ("threshold", pa.float64()), ("why", pa.string())]
    try:
        pq.write_table(pa.Table.from_pylist(records, schema=pa.schema(columns)), path)
    except OSError as error:
        raise InvalidRequest(f"{path} cannot be written: {error.strerror or error}") from error
