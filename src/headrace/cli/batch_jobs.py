"""What `batch run`, `batch watch` and `batch aws-lambda` take of a batch job, who answers it, and what stops it."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from headrace.lifecycle.batch.base import Job, Predictor

_F = TypeVar("_F", bound=Callable[..., Any])
_FORMATS = ("auto", "csv", "jsonl", "parquet", "arrow")


names_option: Callable[[_F], _F] = click.option(
    "--names",
    multiple=True,
    metavar="COLUMN,...",
    help="Of the columns of CSV files whose first line is a row. Default: their first line has them.",
)
load_policy_option: Callable[[_F], _F] = click.option(
    "--load-policy",
    type=click.Choice(["auto", "restricted", "trusted"]),
    default=None,
    help="What a pickle may name while it is loaded; `trusted` runs any code that it holds. Default: the setting "
    "models.load_policy, which is auto.",
)


def server_options(command: _F) -> _F:
    """The options that say which model of which server answers, and how it is asked."""
    options = (
        click.option(
            "--url",
            default="",
            metavar="URL",
            help="Ask the model of this server, http://host:port or grpc://host:port, and load none here.",
        ),
        click.option("--model-version", default="", metavar="VERSION", help="Of the model; default: the newest."),
        click.option("--header", "headers", multiple=True, metavar="NAME:VALUE", help="Of each request to --url."),
        click.option(
            "--timeout",
            type=click.FloatRange(min=0, min_open=True),
            default=60.0,
            show_default=True,
            metavar="SECONDS",
            help="How long the server at --url may take for a batch.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def job_options(command: _F) -> _F:
    """The options of a job that say how rows become requests and answers."""
    options = (
        click.option("--input-format", type=click.Choice(_FORMATS), default="auto", show_default=True),
        names_option,
        click.option("--output-format", type=click.Choice(_FORMATS), default="auto", show_default=True),
        click.option(
            "--columns",
            "mappings",
            multiple=True,
            metavar="INPUT=COLUMN,...",
            help="Which columns make up an input of the model, in order. Default: by the model's signature.",
        ),
        click.option(
            "--keep", multiple=True, metavar="COLUMN,...", help="Columns to stand beside the answers; * for all."
        ),
        click.option("--id-column", default="", metavar="COLUMN", help="Stands first. Default: the row's number."),
        click.option("--outputs", multiple=True, metavar="NAME,...", help="Of the model, to be written. Default: all."),
        click.option(
            "--max-rejects", type=click.IntRange(0), default=0, metavar="N", help="Give up a file with more bad rows."
        ),
        click.option(
            "--batch-rows",
            type=click.IntRange(1),
            default=16_384,
            show_default=True,
            metavar="N",
            help="Asked at once.",
        ),
        click.option(
            "--threads", type=click.IntRange(0), default=0, metavar="N", help="Batches at once. 0: one for each core."
        ),
        click.option("--parameter", "parameters", multiple=True, metavar="NAME=VALUE", help="Of each request."),
        load_policy_option,
    )
    for option in reversed(options):
        command = option(command)
    return command


def job_of(given: Mapping[str, Any], *, output: str, **more: Any) -> Job:
    """The job that the options say; `more` are members that not every command has options for.

    Raises:
        UsageError: a value cannot be understood.
    """
    from headrace.lifecycle.batch.base import Job

    return Job(
        model=given["model"],
        output=output,
        input_format=given["input_format"],
        names=names_of(given["names"]),
        output_format=given["output_format"],
        columns=dict(mapping_of(each) for each in given["mappings"]),
        keep=names_of(given["keep"]),
        id_column=given["id_column"],
        outputs=names_of(given["outputs"]),
        max_rejects=given["max_rejects"],
        batch_rows=given["batch_rows"],
        threads=given["threads"],
        parameters=dict(parameter_of(each) for each in given["parameters"]),
        load_policy=given["load_policy"] or "",
        **{"inputs": (), **more},
    )


def open_predictor(job: Job, *, headers: Mapping[str, str], timeout_seconds: float) -> Predictor:
    """Who answers: the model, loaded here, or the one of a server. Close it."""
    from headrace.cli import output

    if job.url:
        from headrace.lifecycle.batch.remote import open_remote

        return open_remote(job, timeout_seconds=timeout_seconds, headers=headers)
    from headrace.offline import open_model

    with output.progress("loading the model"):
        return open_model(job.model, settings=job.model_settings)


@contextlib.contextmanager
def signals(heed: Callable[[int], None]) -> Iterator[None]:
    """While the body runs, SIGTERM and SIGINT call this with their number, at any place: it must lock nothing."""
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.signal(number, lambda number, _: heed(number)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def mapping_of(text: str) -> tuple[str, tuple[str, ...]]:
    """Tensor and columns of `INPUT=COLUMN,COLUMN`."""
    name, equals, columns = text.partition("=")
    if not equals or not name or not columns:
        raise click.UsageError(f"--columns takes INPUT=COLUMN,COLUMN,..., not {text!r}")
    return name, names_of((columns,))


def names_of(values: tuple[str, ...]) -> tuple[str, ...]:
    """Names that stand apart by commas, of an option that may be given again."""
    return tuple(name.strip() for value in values for name in value.split(",") if name.strip())


def parameter_of(text: str) -> tuple[str, str | float | bool]:
    """Name and value of `NAME=VALUE`: JSON where it is, else text."""
    import msgspec

    name, equals, value = text.partition("=")
    if not equals or not name:
        raise click.UsageError(f"--parameter takes NAME=VALUE, not {text!r}")
    try:
        return name, msgspec.json.decode(value, type=float | bool | str)
    except msgspec.MsgspecError:
        return name, value
