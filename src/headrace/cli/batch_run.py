"""`headrace batch run`."""

from __future__ import annotations

import contextlib
import functools
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from headrace.cli import output as screen
from headrace.cli.batch_jobs import job_of, job_options, open_predictor, server_options, signals

if TYPE_CHECKING:
    from headrace.lifecycle.batch.base import Job, Outcome, Predictor
    from headrace.lifecycle.batch.sketch import Sketch

_PLAIN_SECONDS = 5.0
_TELLING_SHARE = 0.01  # of the bytes; before it, how long it takes to begin says nothing of how long it takes


@click.command(short_help="Ask a model for whole files, now.")
@click.argument("model")
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...")
@click.argument("output")
@server_options
@job_options
@click.option(
    "--on-error",
    type=click.Choice(["reject", "fail"]),
    default="reject",
    show_default=True,
    help="Put bad rows into OUTPUT.rejects.jsonl, or end with the first.",
)
@click.option("--limit", type=click.IntRange(min=0), default=0, metavar="N", help="Only the first N rows. 0: all.")
@click.option(
    "--dry-run", is_flag=True, help="Show what would be done, and the answers to the first rows; write nothing."
)
@click.option(
    "--engine",
    default="local",
    show_default=True,
    metavar="ENGINE",
    help="local, spark://host:port, spark://local[2], ray://host:port or ray://local.",
)
@click.option(
    "--state",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(".headrace/batch"),
    show_default=True,
    help="Folder of what is half done: what a job that was stopped goes on from.",
)
@click.option("--overwrite", is_flag=True, help="Begin anew, whatever stands at OUTPUT.")
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON.")
def command(**given: Any) -> None:
    """Ask a model for whole files: CSV, JSON lines, Parquet or Arrow.

    MODEL is a path or uri, or with --url the model's name on a server. INPUT are files, globs, folders or prefixes,
    here or on a store (s3://, gs://, az://). OUTPUT is a file for one input file, else a folder or prefix.

    Columns go to the inputs of the model that have their names; a model with one input of another name takes all
    columns, in the order of the file. Bad rows go to OUTPUT.rejects.jsonl, with the reason; OUTPUT.manifest.json has
    counts, and is written last. Stopped at any moment, even by kill -9, the same command goes on where it was.

    \b
    Examples:
      headrace batch run churn.onnx customers.parquet scores.parquet
      headrace batch run churn.onnx 'in/*.csv' out/ --id-column customer --keep region
      headrace batch run s3://models/churn s3://in/2026/ s3://out/2026/ --output-format parquet
      headrace batch run churn rows.csv scores.csv --url http://localhost:8080
    """  # noqa: D301 - \b is click's mark for lines to be left as they are
    from headrace.cli.remote import header_pairs
    from headrace.lifecycle.batch.run import run

    job = job_of(
        given,
        inputs=given["inputs"],
        output=given["output"],
        url=given["url"],
        version=given["model_version"],
        on_error=given["on_error"],
        limit=given["limit"],
    )
    headers = header_pairs(given["headers"], option="--header")
    if headers and given["engine"] != "local":
        raise click.UsageError("--header goes with --engine local: it would be sent to machines that may not see it")
    opened = functools.partial(open_predictor, headers=headers, timeout_seconds=given["timeout"])
    if given["dry_run"]:
        _sketch(job, opened, as_json=given["as_json"])
        return
    cancel = threading.Event()

    def heed(_: int) -> None:
        """Stop at a block; a second time: at once."""
        if cancel.is_set():
            raise KeyboardInterrupt
        cancel.set()

    with signals(heed), _display() as report:
        options: dict[str, Any] = {"report": report, "cancel": cancel, "overwrite": given["overwrite"]}
        if given["engine"] == "local":
            outcome = run(job, open_predictor=opened, settings=_settings(), state=given["state"], **options)
        else:
            from headrace.lifecycle.batch.engines.base import run_on

            outcome = run_on(given["engine"], job, settings=_settings(), **options)
    _conclude(outcome, as_json=given["as_json"])


def _settings() -> Any:
    import os

    from headrace import settings

    return settings.load(settings.Settings(), "", os.environ, {}).artifacts


@contextlib.contextmanager
def _display() -> Iterator[Callable[[Outcome, int], None]]:
    """A bar on a terminal, a line now and then in a pipe."""
    if not sys.stderr.isatty():
        yield _printer()
        return
    with screen.bar() as shown:
        yield lambda outcome, total: shown(outcome.bytes, total, _counts(outcome))


def _printer() -> Callable[[Outcome, int], None]:
    import time

    said = 0.0  # of the first block: before it, the model was loaded

    def show(outcome: Outcome, total: int) -> None:
        nonlocal said
        now = time.monotonic()
        said = said or now
        if now - said < _PLAIN_SECONDS:
            return
        said = now
        share = min(outcome.bytes / total, 1.0) if total else 0.0
        left = f", {outcome.seconds * (1 - share) / share:.0f} s to go" if share >= _TELLING_SHARE else ""
        click.echo(f"{share:.0%}, {_counts(outcome)}{left}", err=True)

    return show


def _counts(outcome: Outcome) -> str:
    now = outcome.rows - outcome.resumed_rows
    text = f"{outcome.rows:,} rows, {now / max(outcome.seconds, 1e-6):,.0f}/s"
    return text + (f", {outcome.rejected:,} rejected" if outcome.rejected else "")


def _conclude(outcome: Outcome, *, as_json: bool) -> None:
    if as_json:
        import msgspec

        screen.write_json(msgspec.structs.asdict(outcome))
    elif outcome.finished_before == outcome.files and not outcome.interrupted:
        what = "it is" if outcome.files == 1 else f"all {outcome.files} files are"
        click.echo(f"nothing to do: {what} done, {outcome.rows:,} rows; --overwrite does it anew")
    else:
        click.echo(_said(outcome))
    for failure in outcome.failures:
        click.echo(f"not answered: {failure.reason}", err=True)
    if outcome.interrupted:
        click.echo("interrupted; the same command goes on where it was", err=True)
        click.get_current_context().exit(130)
    if outcome.failures:
        click.get_current_context().exit(1)


def _said(outcome: Outcome) -> str:
    files = f" of {outcome.files} files" if outcome.files != 1 else ""
    text = f"answered {outcome.answered:,} of {outcome.rows:,} rows{files} in {outcome.seconds:.1f} s"
    now = outcome.rows - outcome.resumed_rows
    text += f" ({now / max(outcome.seconds, 1e-6):,.0f}/s)"
    if outcome.resumed_rows:
        text += f", {outcome.resumed_rows:,} of them before"
    if outcome.rejected:
        named = [each for each in outcome.outputs if each.endswith(".rejects.jsonl")]
        text += f"; {outcome.rejected:,} rejected" + (f", see {named[0]}" if named else "")
    return text


def _sketch(job: Job, opened: Callable[[Job], Predictor], *, as_json: bool) -> None:
    from headrace.lifecycle.batch.sketch import sketch as sketched

    sketch = sketched(job, open_predictor=opened, settings=_settings())
    if as_json:
        import msgspec

        screen.write_json(msgspec.structs.asdict(sketch))
        return
    _show(sketch)


def _show(sketch: Sketch) -> None:
    click.echo(f"model {sketch.model}{f', {sketch.digest[:19]}' if sketch.digest else ''}")
    rows = [[each.input, screen.size_of(each.bytes), each.format, each.output] for each in sketch.files]
    screen.write_table(["input", "size", "format", "output"], rows)
    for tensor, names in sketch.columns.items():
        click.echo(f"{tensor} <- {', '.join(names)}")
    click.echo(f"ignored: {', '.join(sketch.ignored)}" if sketch.ignored else "every column is used")
    click.echo(f"columns of the output: {', '.join(f'{name} {kind}' for name, kind in sketch.answers.items())}")
    for row in sketch.sample:
        click.echo(f"  {row}")
    for reject in sketch.rejects:
        click.echo(f"  rejected: row {reject.row}: {reject.reason}")
    click.echo("nothing was written")
