"""`headrace payloads`."""

from __future__ import annotations

import contextlib
import datetime as dt
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from headrace.cli import output

if TYPE_CHECKING:
    from headrace.monitoring.payload_export import Filter, Format

_FORMATS = {".parquet": "parquet", ".csv": "csv", ".jsonl": "jsonl"}


@click.group(short_help="Show logged payloads, and make training data of them.")
def command() -> None:
    """Show logged payloads, and make training data of them.

    The log is a folder: the setting payloads.sink. A server may be writing to it meanwhile.

    \b
    Examples:
      headrace payloads show .headrace/payloads
      headrace payloads export .headrace/payloads train.parquet --model iris --labelled-only
    """  # noqa: D301 - \b is click's mark for lines to be left as they are


def _filters(function: Callable[..., None]) -> Callable[..., None]:
    for option in (
        click.option("--until", callback=_moment, metavar="TIME", help="Only requests before it; as for --since."),
        click.option(
            "--since",
            callback=_moment,
            metavar="TIME",
            help="Only requests from then on: 2026-01-31T12:00 (UTC), or 7d.",
        ),
        click.option("--version", default="", metavar="VERSION", help="Only of this version."),
        click.option("--model", default="", metavar="NAME", help="Only of this model."),
    ):
        function = option(function)
    return function


def _moment(_ctx: click.Context, option: click.Parameter, text: str | None) -> float | None:
    from headrace.monitoring.payload_export import seconds_of

    if text is None:
        return None
    try:
        return seconds_of(text)
    except ValueError:
        raise click.BadParameter(
            f"expected a time like 2026-01-31T12:00, or how long ago, like 90m, 12h or 7d; got {text!r}", param=option
        ) from None


def _wanted(
    model: str, version: str, since: float | None, until: float | None, *, labelled_only: bool = False
) -> Filter:
    from headrace.monitoring.payload_export import Filter
    from headrace.monitoring.payload_rows import require_arrow

    require_arrow()
    bounds: dict[str, Any] = {"since": since, "until": until}
    return Filter(
        model=model,
        version=version,
        labelled_only=labelled_only,
        **{name: value for name, value in bounds.items() if value is not None},
    )


@command.command("show", short_help="Say what a log has, by model and version.")
@click.argument("folder", type=click.Path(path_type=Path))
@_filters
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def show(folder: Path, *, model: str, version: str, since: float | None, until: float | None, as_json: bool) -> None:
    """Say what a log has, by model and version.

    \b
    Examples:
      headrace payloads show .headrace/payloads
      headrace payloads show .headrace/payloads --model iris --since 1d --json
    """  # noqa: D301 - \b is click's mark for lines to be left as they are
    from headrace.monitoring import payload_export

    with output.working(f"reading {folder}"):
        found = payload_export.show(folder, _wanted(model, version, since, until))
    if as_json:
        output.write_json(
            [
                {
                    "model": each.model, "version": each.version, "files": each.files, "bytes": each.bytes,
                    "rows": each.rows, "requests": each.requests, "labelled_requests": each.labelled,
                    "first": _time(each.first), "last": _time(each.last),
                }
                for each in found
            ]
        )  # fmt: skip
        return
    if not found:
        click.echo(f"no payloads in {folder}")
        return
    output.write_table(
        ["MODEL", "VERSION", "REQUESTS", "ROWS", "LABELLED", "FILES", "MB", "FIRST", "LAST"],
        [
            [
                each.model, each.version, f"{each.requests}", f"{each.rows}", f"{each.labelled}", f"{each.files}",
                f"{each.bytes / 1e6:.1f}", _time(each.first), _time(each.last),
            ]
            for each in found
        ],
        styles={},
    )  # fmt: skip


@command.command("export", short_help="Write rows, answers and labels to one file.")
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("target", metavar="OUTPUT", type=click.Path(path_type=Path, dir_okay=False))
@_filters
@click.option("--labelled-only", is_flag=True, help="Only rows of which the right answer is known.")
@click.option(
    "--format",
    "form",
    type=click.Choice(list(_FORMATS.values())),
    help="Of the output; default: as its name ends.",
)
def export(
    folder: Path,
    target: Path,
    *,
    model: str,
    version: str,
    since: float | None,
    until: float | None,
    labelled_only: bool,
    form: Format | None,
) -> None:
    """Write rows, answers and labels to one file.

    A row of the output is a row of a request: its inputs by column, what was answered (output.*), and the label that
    came later through feedback. Memory does not grow with the log.

    \b
    Examples:
      headrace payloads export .headrace/payloads train.parquet --model iris --labelled-only
      headrace payloads export .headrace/payloads last-week.csv --since 7d
    """  # noqa: D301 - \b is click's mark for lines to be left as they are
    from headrace.monitoring import payload_export

    chosen: Any = form or _FORMATS.get(target.suffix.lower())
    if chosen is None:
        raise click.UsageError(
            f"{target}: give --format, or a name that ends with {', '.join(_FORMATS)}", click.get_current_context()
        )
    wanted = _wanted(model, version, since, until, labelled_only=labelled_only)
    total = payload_export.bytes_of(folder, wanted)
    with _bar(total) as read:
        summary = payload_export.export(folder, target, form=chosen, wanted=wanted, progress=read)
    click.echo(f"{summary.rows} rows, {summary.labelled} with a label, in {len(summary.columns)} columns: {target}")


@contextlib.contextmanager
def _bar(total: int) -> Iterator[Callable[[int], None]]:
    if not sys.stderr.isatty():
        yield lambda read: None  # noqa: ARG005 - nobody looks
        return
    with click.progressbar(length=max(total, 1), label="exporting", file=sys.stderr) as bar:
        yield bar.update


def _time(seconds: float) -> str:
    return dt.datetime.fromtimestamp(seconds, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
