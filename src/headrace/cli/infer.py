"""`headrace infer`, and the run of a batch that `headrace mlserver infer` shares with it."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from headrace.cli import output as screen
from headrace.cli import remote

if TYPE_CHECKING:
    from headrace.client.batch import Options, Progress, Summary
    from headrace.client.journal import Existing

_PLAIN_SECONDS = 5.0
_TERMINAL_SECONDS = 0.2


@click.command(short_help="Ask a served model for a whole file of requests.")
@click.argument("model")
@click.option("-i", "--input", "source", required=True, metavar="FILE", help="Requests, one a line; - reads a pipe.")
@click.option("-o", "--output", "target", required=True, metavar="FILE", help="For the answers; - writes to a pipe.")
@click.option("--model-version", default="", metavar="VERSION", help="Default: the newest that is ready.")
@click.option(
    "-w", "--workers", type=click.IntRange(1, 1024), default=10, show_default=True, help="Requests in flight at once."
)
@click.option(
    "-s",
    "--batch-size",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Merge up to so many consecutive lines of the same inputs and parameters into one request.",
)
@click.option(
    "-r",
    "--retries",
    type=click.IntRange(min=0),
    default=3,
    show_default=True,
    help="Further tries after 408, 429, 502, 503, 504, a time-out or a broken connection.",
)
@click.option(
    "--interval",
    type=click.FloatRange(min=0),
    default=0.0,
    show_default=True,
    metavar="SECONDS",
    help="The least time between two requests of one worker.",
)
@click.option(
    "--jitter",
    type=click.FloatRange(min=0),
    default=0.0,
    show_default=True,
    metavar="SECONDS",
    help="The most that is added to the interval, at random.",
)
@click.option("-b", "--binary", is_flag=True, help="Send and receive tensors as bytes instead of JSON.")
@click.option("--unordered", is_flag=True, help="Write answers as they come, not in the order of the lines.")
@click.option(
    "--resume", is_flag=True, help="Go on with an output that has no record of its input, by its batch_index."
)
@click.option("--retry-failed", is_flag=True, help="Ask again the lines that failed before.")
@click.option("--overwrite", is_flag=True, help="Begin again, even if the output has answers.")
@click.option("--use-ssl", is_flag=True, help="Speak TLS with a --url that does not say so.")
@click.option("--insecure", is_flag=True, help="Do not check the server's certificate.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
@remote.server_options
def command(
    model: str,
    *,
    source: str,
    target: str,
    model_version: str,
    workers: int,
    batch_size: int,
    retries: int,
    interval: float,
    jitter: float,
    binary: bool,
    unordered: bool,
    resume: bool,
    retry_failed: bool,
    overwrite: bool,
    use_ssl: bool,
    insecure: bool,
    as_json: bool,
    url: str,
    timeout: float,
    headers: tuple[str, ...],
) -> None:
    """Ask a served model for a whole file of requests.

    Each line of the input is a V2 inference request in JSON; each line of the output is its answer, in the same order,
    with its line number (batch_index) and request id (inference_id) among its parameters. A line that fails is written
    with its error; the exit code is then 1.

    Interrupted, even by kill -9, the same command goes on where it was: lines that the output has are not asked again.

    \b
    Examples:
      headrace infer iris -i requests.jsonl -o answers.jsonl
      headrace infer iris -i requests.jsonl -o answers.jsonl --batch-size 32 --workers 4
      headrace infer iris -i requests.jsonl -o answers.jsonl --retry-failed
      zcat requests.jsonl.gz | headrace infer iris -i - -o - > answers.jsonl
    """  # noqa: D301 - \b is click's mark for lines to be left as they are
    from headrace.client.batch import Options

    if overwrite and (resume or retry_failed):
        raise click.UsageError(
            "--overwrite begins again; --resume and --retry-failed go on", click.get_current_context()
        )
    options = Options(
        model=model,
        version=model_version,
        workers=workers,
        batch_size=batch_size,
        retries=retries,
        timeout_seconds=timeout,
        interval_seconds=interval,
        jitter_seconds=jitter,
        binary=binary,
        headers=remote.header_pairs(headers, option="--header"),
        ordered=not unordered,
    )
    code = perform(
        source,
        target,
        url=secured(url, use_ssl=use_ssl),
        insecure=insecure,
        options=options,
        existing="replace" if overwrite else "trust" if resume else "resume",
        retry_failed=retry_failed,
        as_json=as_json,
    )
    click.get_current_context().exit(code)


def secured(url: str, *, use_ssl: bool) -> str:
    """The URL, of https when asked for."""
    if not use_ssl:
        return url
    return f"https://{url.partition('://')[2] or url}"


def perform(
    source: str,
    target: str,
    *,
    url: str,
    insecure: bool,
    options: Options,
    existing: Existing,
    retry_failed: bool = False,
    as_json: bool = False,
    say_failed: bool = False,
) -> int:
    """Run a batch, show its progress, say what it did; the exit code.

    Args:
        source: The input's path; `-` is standard input.
        target: The output's path; `-` is standard output.
        url: The server.
        insecure: Whether its certificate goes unchecked.
        options: How to ask.
        existing: What to do with an output that is there.
        retry_failed: Whether failures in it are asked again.
        as_json: Whether the summary is for programs.
        say_failed: Whether each line that fails is named, with the reason.

    Raises:
        HeadraceError: as `batch.run` and `Journal.open` do.
    """
    from headrace.client import batch, channel, journal

    where = channel.target_of(url, tls=_unchecked() if insecure else None)
    lines = batch.Source(source)
    lines.open()
    sink: journal.Journal | journal.Stream
    with contextlib.closing(lines), contextlib.ExitStack() as stack:
        if target == "-":
            sink = journal.Stream(sys.stdout.buffer)
        elif Path(target).exists() and not Path(target).is_file():  # a named pipe or a device cannot be gone on with
            sink = journal.Stream(stack.enter_context(_opened(target)))
        else:
            if _same(source, target):
                raise click.UsageError("the output is the input", click.get_current_context())
            sink = journal.Journal(Path(target), existing=existing, retry_failed=retry_failed)
            stack.callback(sink.close)
            sink.open(lines.head, model=options.model, version=options.version)
            _say_found(sink)
        with _display(target) as (report, seconds):
            try:
                failing = _say_failing if say_failed else None
                summary = batch.run(lines, sink, where, options, report=report, report_seconds=seconds, failing=failing)
            except BaseException:
                if isinstance(sink, journal.Journal) and sink.withdraw():
                    click.echo("the answers so far are kept; the same command goes on with the rest", err=True)
                raise
    _conclude(summary, target, as_json=as_json)
    if summary.interrupted:
        return 130
    return 1 if summary.failed or summary.failed_before else 0


def _opened(target: str) -> BinaryIO:
    from headrace.errors import SettingsError

    try:
        return Path(target).open("wb", buffering=0)
    except OSError as exc:
        raise SettingsError(f"cannot write the output {target}: {exc.strerror or exc}") from exc


def _same(source: str, target: str) -> bool:
    return source != "-" and Path(target).exists() and Path(source).exists() and Path(target).samefile(source)


def _unchecked() -> Any:
    import ssl

    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _say_found(sink: Any) -> None:
    if sink.torn:
        click.echo("the last line of the output was not whole and is asked again", err=True)
    if len(sink.answered):
        failed = f", {sink.failed} of them failed" if sink.failed else ""
        click.echo(f"going on: {len(sink.answered)} lines were answered before{failed}", err=True)


def _say_failing(index: int, message: str) -> None:
    click.echo(f"line {index}: {message.removeprefix(f'line {index}: ')}", err=True)


@contextlib.contextmanager
def _display(target: str) -> Iterator[tuple[Callable[[Progress], None], float]]:
    """What shows progress, and how often: a bar on a terminal, a line now and then in a pipe."""
    if not sys.stderr.isatty():
        yield _print_progress, _PLAIN_SECONDS
        return
    with screen.bar(f"asking for {target}" if target != "-" else "asking") as shown:

        def show(progress: Progress) -> None:
            shown(progress.bytes_done, progress.bytes_total, _counts(progress))

        yield show, _TERMINAL_SECONDS


def _print_progress(progress: Progress) -> None:
    if progress.seconds < _PLAIN_SECONDS:
        return
    parts = [_counts(progress)]
    if progress.bytes_total and progress.bytes_done:
        share = min(progress.bytes_done / progress.bytes_total, 1.0)
        parts.insert(0, f"{share:.0%}")
        parts.append(f"{progress.seconds * (1 - share) / share:.0f} s to go")
    click.echo(", ".join(parts), err=True)


def _counts(progress: Progress) -> str:
    done = progress.answered + progress.failed
    text = f"{progress.skipped + done} lines, {done / max(progress.seconds, 1e-6):.0f}/s"
    if progress.failed:
        text += f", {progress.failed} failed"
    return text + (f", {progress.retries} retries" if progress.retries else "")


def _conclude(summary: Summary, target: str, *, as_json: bool) -> None:
    import msgspec

    err = target == "-"
    if as_json:
        fields: Mapping[str, Any] = msgspec.structs.asdict(summary)
        if err:
            click.echo(msgspec.json.encode(fields).decode(), err=True)
        else:
            screen.write_json(fields)
    else:
        click.echo(_said(summary, target), err=err)
    for note in summary.notes:
        click.echo(f"note: {note}", err=True)
    if summary.interrupted and target != "-":
        click.echo("interrupted; the same command goes on with the rest", err=True)


def _said(summary: Summary, target: str) -> str:
    done = summary.answered + summary.failed
    if not done and summary.skipped:
        text = f"nothing left to ask: {target} has all {summary.skipped} lines"
    else:
        text = f"answered {summary.answered} lines in {summary.seconds:.1f} s ({summary.lines_per_second:.0f}/s)"
        if summary.skipped:
            text += f" after {summary.skipped} before"
        if summary.latency_ms:
            text += f", p50 {summary.latency_ms['p50']:.3g} ms, p99 {summary.latency_ms['p99']:.3g} ms"
        if summary.retries:
            text += f", {summary.retries} retries"
    failed = summary.failed + summary.failed_before
    return (
        f"{text}; {failed} failed, --retry-failed asks them again"
        if failed and target != "-"
        else (f"{text}; {failed} failed" if failed else text)
    )
