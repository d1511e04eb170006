"""`headrace compare`."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from headrace.cli import output, remote
from headrace.errors import InvalidRequest, SettingsError

if TYPE_CHECKING:
    from headrace.client.compare import Report, Side
    from headrace.client.differences import OutputReport

_TABLES = frozenset({".csv", ".npy", ".npz", ".parquet"})
_CONFUSIONS_SHOWN = 8
_EXAMPLES_SHOWN = 5


@click.command(short_help="Replay requests against two versions, and say what differs.")
@click.argument("a")
@click.argument("b")
@click.option(
    "--from",
    "source",
    required=True,
    metavar="LOG|FILE",
    help="Requests: JSON lines (- reads standard input), or rows as .csv, .npy, .npz, .parquet.",
)
@click.option(
    "--min-agreement",
    type=click.FloatRange(0, 1),
    default=1.0,
    show_default=True,
    metavar="SHARE",
    help="The share of requests answered alike below which the exit code is 1.",
)
@click.option(
    "--output", "outputs", multiple=True, metavar="NAME", help="An output to compare; default: all. Repeatable."
)
@click.option(
    "--rtol", type=click.FloatRange(min=0), default=1e-5, show_default=True, help="Relative tolerance of numbers."
)
@click.option(
    "--atol",
    type=click.FloatRange(min=0),
    default=1e-6,
    show_default=True,
    help="Absolute tolerance of numbers; of whole numbers, when it is 1 or more.",
)
@click.option("--limit", type=click.IntRange(min=0), default=0, help="Ask this many requests at most; 0: all.")
@click.option(
    "--concurrency",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Pairs of requests in flight. More are faster, and say less of latency.",
)
@click.option(
    "--examples", type=click.IntRange(min=0), default=10, show_default=True, help="Differences to keep, the worst."
)
@click.option("--html", "page", metavar="FILE", help="Write the report as one HTML page.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@remote.server_options
def command(
    a: str,
    b: str,
    *,
    source: str,
    min_agreement: float,
    outputs: tuple[str, ...],
    rtol: float,
    atol: float,
    limit: int,
    concurrency: int,
    examples: int,
    page: str | None,
    as_json: bool,
    url: str,
    timeout: float,
    headers: tuple[str, ...],
) -> None:
    """Replay requests against two versions, and say what differs.

    A and B are NAME, NAME@VERSION, NAME.pipeline, or a URL: http://host:port/v2/models/NAME/versions/VERSION. Each
    request goes to both, one right after the other, every second one to B first, so that their latencies compare.
    "recorded" as A stands for the answers that the log has.

    A line of a log is a V2 inference request, an exchange {"request": ..., "response": ...}, or a CloudEvent whose
    data is either, as payload loggers write them. Rows of a table are one request each.

    The exit code is 1 when less than --min-agreement of the requests are answered alike.

    \b
    Examples:
      headrace compare iris@1 iris@2 --from requests.jsonl
      headrace compare iris@1 iris@2 --from rows.csv --html report.html
      headrace compare iris http://staging:8080/v2/models/iris --from log.jsonl --min-agreement 0.99
      headrace compare iris@1 iris@2 --from requests.jsonl --output predict
      headrace compare recorded iris@2 --from exchanges.jsonl
    """  # noqa: D301 - \b is click's mark for lines to be left as they are
    from headrace.client import compare
    from headrace.client.differences import Tolerance

    sides = compare.side_of(a, url=url), compare.side_of(b, url=url)
    options = compare.Options(
        tolerance=Tolerance(rtol=rtol, atol=atol),
        outputs=outputs,
        concurrency=concurrency,
        limit=limit,
        examples=examples,
        timeout_seconds=timeout,
        headers=remote.header_pairs(headers, option="--header"),
    )
    with _requests(source, sides[0], timeout, headers) as requests, _progress(limit) as show:
        report = compare.run(requests, *sides, options, report=show)
    if page:
        _write_page(page, report)
    if as_json:
        output.write_json({**_fields(report), "min_agreement": min_agreement})
    else:
        _write(report, page)
    alike = report.compared > 0 and report.agreed >= min_agreement * report.compared
    click.get_current_context().exit(0 if alike else 1)


@contextlib.contextmanager
def _requests(
    source: str, side: Side, timeout: float, headers: tuple[str, ...]
) -> Iterator[AsyncIterator[tuple[int, bytes]] | Iterable[bytes]]:
    """The requests of a log, or one for each row of a table."""
    from headrace.client import batch

    if Path(source).suffix.lower() in _TABLES:
        yield _rows(source, side, timeout, headers)
        return
    log = batch.Source(source)
    log.open()
    with contextlib.closing(log):
        yield log.lines()


def _rows(source: str, side: Side, timeout: float, headers: tuple[str, ...]) -> list[bytes]:
    """A request for each row of a table, with the inputs that A declares."""
    from urllib.parse import unquote

    import msgspec

    from headrace.cli import predict
    from headrace.client import tensors
    from headrace.payload import InferenceRequest

    if side.target is None:
        raise InvalidRequest(f"a table has no answers to compare with: name a model in place of {side.label!r}")
    name, _, version = side.path.removeprefix("/v2/models/").partition("/versions/")
    with remote.connect(side.target.url, timeout, headers) as client:
        specs = client.metadata(unquote(name), version=unquote(version)).inputs
    inputs, parameters = tensors.tensors_of(predict.fit(predict.read(source), specs), specs)
    sizes = {tensor.shape[0] if tensor.shape else 0 for tensor in inputs}
    if len(sizes) != 1:
        raise InvalidRequest(f"{source}: expected inputs of one number of rows, got {sorted(sizes)}")
    texts = []
    for at in range(sizes.pop()):
        row = tuple(msgspec.structs.replace(tensor, data=tensor.data[at : at + 1]) for tensor in inputs)
        request = InferenceRequest(model_name="", inputs=row, parameters=parameters)
        texts.append(tensors.render(request, binary=False)[0])
    return texts


@contextlib.contextmanager
def _progress(limit: int) -> Iterator[Callable[[int, int], None] | None]:
    """A bar on a terminal; nothing in a pipe."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("comparing"), BarColumn(), TextColumn("{task.fields[counts]}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=limit or None, counts="")

        def show(asked: int, differing: int) -> None:
            bar.update(task, completed=asked, counts=f"{asked:,} requests, {differing:,} differ")

        yield show


def _write_page(path: str, report: Report) -> None:
    from headrace.client import compare_page

    try:
        Path(path).write_text(compare_page.render(report), encoding="utf-8")
    except OSError as exc:
        raise SettingsError(f"cannot write --html {path}: {exc.strerror or exc}") from exc


def _fields(report: Report) -> dict[str, Any]:
    import msgspec

    fields: dict[str, Any] = msgspec.to_builtins(report)
    for plotted in ("milliseconds_a", "milliseconds_b"):
        del fields[plotted]
    for each in fields["outputs"]:
        del each["histogram"]
    return fields


# -- tables --


def _write(report: Report, page: str | None) -> None:
    low, high = report.agreement_interval
    if report.compared:
        click.echo(
            f"{report.a} and {report.b} answer {report.agreed:,} of {report.compared:,} requests alike: "
            f"{100 * report.agreement:.4g} % (95 % interval {100 * low:.4g} to {100 * high:.4g} %)"
        )
    else:
        click.echo("nothing was compared")
    if report.rows > report.compared:
        click.echo(f"{report.rows - report.rows_differing:,} of {report.rows:,} rows are alike")
    if report.failed_both:
        click.echo(f"{report.failed_both:,} requests failed on both, and are not counted")
    _write_sides(report)
    if report.outputs:
        click.echo()
        output.write_table(
            ["output", "datatype", "elements", "differing", "p50", "p99", "largest", "relative"],
            [_output_row(each) for each in report.outputs],
        )
    for each in report.outputs:
        _write_confusions(each)
    if report.failures:
        click.echo()
        rows = [[each.side, f"{each.count:,}", str(each.line), each.message] for each in report.failures]
        output.write_table(["failed", "times", "first line", "message"], rows)
    _write_examples(report)
    if report.refused:
        click.echo(f"\n{report.refused:,} lines are no request:", err=True)
        for text in report.refusals:
            click.echo(f"  {text}", err=True)
    if page:
        click.echo(f"\nreport: {page}")


def _write_sides(report: Report) -> None:
    rows = []
    for mark, label, failed, latency in (
        ("A", report.a, report.failed_a, report.latency_a),
        ("B", report.b, report.failed_b, report.latency_b),
    ):
        failures = str(failed + report.failed_both)
        values = () if latency is None else (latency.p50, latency.p90, latency.p95, latency.p99, latency.max)
        rows.append([mark, label, failures, *([f"{value:.3g}" for value in values] or [""] * 5)])
    click.echo()
    output.write_table(["", "asked", "failed", "p50 ms", "p90 ms", "p95 ms", "p99 ms", "max ms"], rows)
    if report.ratio is not None:
        middle, low, high = report.ratio
        click.echo(
            f"B takes {middle:.3g} times as long as A (median of pairs; 95 % interval {low:.3g} to {high:.3g}), "
            f"{report.requests:,} requests in {report.seconds:.1f} s"
        )


def _output_row(each: OutputReport) -> list[str]:
    numeric = None if each.confusion else each.numeric
    numbers = ["", "", "", ""]
    if numeric is not None:
        values = (numeric.quantiles["p50"], numeric.quantiles["p99"], numeric.largest, numeric.largest_relative)
        numbers = [f"{value:.3g}" for value in values]
    differing = f"{each.differing:,}" + (f" and {each.unlike:,} requests unlike" if each.unlike else "")
    return [each.name, "/".join(each.datatypes), f"{each.elements:,}", differing, *numbers]


def _write_confusions(each: OutputReport) -> None:
    apart = [pair for pair in each.confusion or () if pair[0] != pair[1]]
    if not apart:
        return
    click.echo()
    rows = [[f"{a} -> {b}", f"{count:,}"] for a, b, count in apart[:_CONFUSIONS_SHOWN]]
    output.write_table([f"{each.name}: A -> B", "times"], rows)
    if len(apart) > _CONFUSIONS_SHOWN:
        click.echo(f"and {len(apart) - _CONFUSIONS_SHOWN} more pairs; --json has all")


def _write_examples(report: Report) -> None:
    rows = []
    for example in report.examples[:_EXAMPLES_SHOWN]:
        for side, error in (("A", example.error_a), ("B", example.error_b)):
            if error:
                rows.append([str(example.line), example.id, "", f"{side} failed: {error}"])
        for each in example.outputs:
            values = ", ".join(f"[{at}] {_cell(x)} -> {_cell(y)}" for at, x, y in each.elements[:3])
            rows.append([str(example.line), example.id, each.name, f"{each.what}: {values}" if values else each.what])
    if rows:
        click.echo()
        output.write_table(["line", "id", "output", "what differs (A -> B)"], rows)


def _cell(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
