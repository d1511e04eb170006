"""`headrace explain`."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from headrace.cli import output, remote
from headrace.cli.predict import fit, read
from headrace.errors import InvalidRequest

if TYPE_CHECKING:
    from headrace.client import Client
    from headrace.client.explanations import Explanation, Progress

_DURATION: Final = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*(ms|s|m|h)?")
_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_FORMATS: Final = ("text", "json", "svg", "png")


@click.command(short_help="Ask a served model why it answers what it answers.")
@click.argument("model")
@click.argument("data", metavar="INPUT")
@click.option("--explainer", default="", metavar="NAME", help="One of the model's, or any method. Default: its first.")
@click.option("--option", "options", multiple=True, metavar="NAME=VALUE", help="An option of the method. Repeatable.")
@click.option("--row", "rows", multiple=True, type=click.IntRange(min=0), help="Which row, from 0. Repeatable.")
@click.option("--all-rows", is_flag=True, help="Explain every row. Default: the first.")
@click.option("--deadline", default="", metavar="TIME", help="The best by then is the answer: 500ms, 5s, 2m.")
@click.option("--max-rows", type=click.IntRange(min=1), help="How many rows the model may be asked for, a row.")
@click.option("--format", "form", type=click.Choice(_FORMATS), help="Default: as FILE is called, else text.")
@click.option("-o", "--output", "target", metavar="FILE", help="Where it is written. Default: standard output.")
@click.option("--model-version", default="", metavar="VERSION", help="Default: the newest that is ready.")
@remote.server_options
def command(
    model: str,
    data: str,
    *,
    explainer: str,
    options: tuple[str, ...],
    rows: tuple[int, ...],
    all_rows: bool,
    deadline: str,
    max_rows: int | None,
    form: str | None,
    target: str | None,
    model_version: str,
    url: str,
    timeout: float,
    headers: tuple[str, ...],
) -> None:
    """Ask a served model why it answers what it answers.

    INPUT is a file of rows as of `headrace predict --data`: .json, .jsonl, .csv, .npy, .npz, .parquet; - reads standard
    input. The model needs a trust folder (`headrace trust fit`). A picture is of one row.

    \b
    Examples:
      headrace explain iris rows.csv
      headrace explain iris rows.csv --explainer anchor-tabular --option threshold=0.99 --row 3
      headrace explain iris rows.csv --deadline 5s --format json
      headrace explain iris rows.csv -o why.svg
    """  # noqa: D301 - \b is click's mark for lines to be left as they are
    context = click.get_current_context()
    if rows and all_rows:
        raise click.UsageError("give --row or --all-rows", context)
    form = form or (Path(target).suffix.lstrip(".").lower() if target else "")
    form = form if form in _FORMATS else "text"
    if form in {"svg", "png"} and (all_rows or len(rows) > 1):
        raise click.UsageError("a picture is of one row: give one --row", context)
    if form == "png" and not target and sys.stdout.isatty():
        raise click.UsageError("a png is no text: give -o FILE", context)
    asked: dict[str, Any] = {
        "model": model,
        "version": model_version,
        "explainer": explainer,
        "options": dict(_pair(text) for text in options),
        "deadline_seconds": seconds_of(deadline) if deadline else None,
        "max_rows": max_rows,
    }
    client = remote.connect(url, timeout, headers)
    with client:
        values = fit(read(data), client.metadata(model, version=model_version).inputs)
        if form in {"svg", "png"}:
            with output.working(f"asking {model} why"):
                content = client.picture(values, format="svg" if form == "svg" else "png", row=[*rows, 0][0], **asked)
        else:
            chosen = None if all_rows else [*rows] or [0]
            explanations = _followed(client, values, {**asked, "rows": chosen}, model)
            content = (_json(explanations) if form == "json" else _text(explanations)).encode()
    _write(content, target, is_picture=form in {"svg", "png"})


def seconds_of(text: str) -> float:
    """A time as a person writes it, in seconds: `500ms`, `5s`, `2m`, `1h`, `5`."""
    match = _DURATION.fullmatch(text.strip())
    if match is None or not float(match[1]):
        raise click.UsageError(f"--deadline expected a time such as 5s, got {text!r}", click.get_current_context())
    return float(match[1]) * _UNITS[match[2] or "s"]


def _followed(client: Client, values: Any, asked: dict[str, Any], model: str) -> tuple[Explanation, ...]:
    """As a job, so that it may take its time, and so that it can be told how far it is."""
    with output.progress(f"asking {model} why") as say:
        return client.explain(values, progress=_told(say, model), **asked)


def _told(say: Callable[[str], None], model: str) -> Callable[[Progress], None]:
    def told(progress: Progress) -> None:
        where = f"{progress.explained} of {progress.of} rows, " if progress.of > 1 else ""
        if progress.state == "queued":
            say(f"waiting for others' explanations, {progress.seconds:.0f} s")
        else:
            say(f"asking {model} why: {where}it was asked for {progress.model_rows:,} rows, {progress.seconds:.0f} s")

    return told


def _pair(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise click.UsageError(f"--option expected NAME=VALUE, got {text!r}", click.get_current_context())
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _text(explanations: tuple[Explanation, ...]) -> str:
    parts = []
    for each in explanations:
        lines = [f"Row {each.row}:"] if len(explanations) > 1 and each.row >= 0 else []
        lines.append(each.text)
        if not each.complete:
            lines.append("This is the best there was when the budget was spent.")
        lines += [f"Note: {warning}" for warning in each.warnings]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _json(explanations: tuple[Explanation, ...]) -> str:
    import msgspec

    return msgspec.json.format(msgspec.json.encode(explanations), indent=2).decode() + "\n"


def _write(content: bytes, target: str | None, *, is_picture: bool) -> None:
    if target is None:
        click.echo(content, nl=False)
        return
    try:
        Path(target).write_bytes(content)
    except OSError as exc:
        raise InvalidRequest(f"cannot write {target}: {exc.strerror or exc}") from exc
    if is_picture:
        click.echo(f"wrote {target}", err=True)
