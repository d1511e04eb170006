"""`headrace trust fit`."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click

from headrace.cli import trust_show


@click.command(short_help="Fit detectors and explainers to a model and its training data.")
@click.argument("model")
@click.option(
    "--data",
    required=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Training data: CSV, Parquet, JSON lines, Arrow, .npy or .npz. Best rows that the model was not trained on.",
)
@click.option("--labels", default="", metavar="COLUMN", help="The column of labels; without it, nothing needs them.")
@click.option(
    "--protected",
    multiple=True,
    metavar="RULE",
    help="Who is compared with whom: sex=male, race=white,asian or age>25 (the privileged group).",
)
@click.option("--favourable", default="", metavar="CLASS", help="The class that is good to get.  [default: 1 or yes]")
@click.option("--category", "categories", multiple=True, metavar="COLUMN", help="A column of numbers without order.")
@click.option(
    "--kind",
    type=click.Choice(["tabular", "image", "text", "series"]),
    help="What the rows are.  [default: told by the model]",
)
@click.option(
    "--task",
    type=click.Choice(["classification", "regression"]),
    help="What the model does.  [default: told by the model and the labels]",
)
@click.option(
    "--detector",
    "detectors",
    multiple=True,
    metavar="METHOD[:ON][,NAME=VALUE]",
    help="A detector, as knn or mmd:outputs,alpha=0.01, in place of those that fit the data; none: none.",
)
@click.option(
    "--explainer",
    "explainers",
    multiple=True,
    metavar="METHOD[,NAME=VALUE]",
    help="An explainer, in place of those that fit the data; none: none.",
)
@click.option("-o", "--output", "folder", metavar="DIR", help="Where the folder shall be.  [default: beside the model]")
@click.option(
    "--fpr",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.01,
    show_default=True,
    help="Which share of usual rows detectors of rows may call odd.",
)
@click.option(
    "--alpha",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.05,
    show_default=True,
    help="How often tests may call a usual window drifted.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of all that is random.")
@click.option("--runtime", default="", help="The model's runtime, where its content does not decide.")
@click.option("--json", "as_json", is_flag=True, help="Print what was fitted as JSON.")
def command(
    model: str,
    *,
    data: Path,
    labels: str,
    protected: tuple[str, ...],
    favourable: str,
    categories: tuple[str, ...],
    kind: str | None,
    task: str | None,
    detectors: tuple[str, ...],
    explainers: tuple[str, ...],
    folder: str | None,
    fpr: float,
    alpha: float,
    seed: int,
    runtime: str,
    as_json: bool,
) -> None:
    """Fit detectors and explainers to a model and its training data.

    Reads the data, asks the model what it says of it, and writes the trust folder beside the model. A fifth of the rows
    is kept apart to choose thresholds, another fifth to measure how often usual rows pass them; a detector that calls
    too many of them odd is left out, and a note says why. The same data, options and seed give the same folder.

    \b
    Examples:
      headrace trust fit iris.joblib --data train.parquet --labels species
      headrace trust fit credit/ --data loans.csv --labels paid --protected sex=male --favourable 1
      headrace trust fit digits.onnx --data digits.npz --kind image --detector pca --detector mmd:outputs
    """  # noqa: D301 - \b is click's mark for lines to be left as they are
    from headrace.notebook import fit_trust

    overrides = {"runtime": runtime} if runtime else {}
    with _progress() as progress:
        fitted = fit_trust(
            model,
            data,
            path=folder,
            labels=labels,
            protected=protected,
            favourable=favourable,
            categories=categories,
            kind=kind or "",
            task=task or "",
            detectors=detectors,
            explainers=explainers,
            false_positive_rate=fpr,
            alpha=alpha,
            seed=seed,
            progress=progress,
            **overrides,
        )
    trust_show.show(fitted, as_json=as_json)


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """A bar on a terminal, nothing in a pipe."""
    if not sys.stderr.isatty():
        yield lambda step, done, of: None  # noqa: ARG005 - nobody looks
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description:<32}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("loading the model", total=None)

        def tell(step: str, done: int, of: int) -> None:
            bar.update(task, description=step, completed=done, total=of)

        yield tell
