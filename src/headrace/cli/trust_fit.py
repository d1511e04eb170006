"""`headrace trust fit`."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
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
    help="Training data: CSV, Parquet, JSON lines, Arrow, .npy or .npz.",
)
@click.option(
    "--unseen",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Rows that the model was not trained on: its answers to these are what later ones are compared with.",
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
@click.option(
    "--window",
    default="",
    metavar="NAME=VALUE,...",
    help="When tests are made, as rows=500,min_rows=100,seconds=60,step=0.  [default: rows=1000,seconds=3600]",
)
@click.option(
    "--guard",
    "guards",
    multiple=True,
    metavar="DETECTOR=ACTION",
    help="flag or reject rows that this detector calls odd before the model answers.",
)
@click.option(
    "--detector-model",
    "detector_models",
    multiple=True,
    metavar="DETECTOR=NAME",
    help="Serve this detector as a model of this name, too.",
)
@click.option("--explainer-model", default="", metavar="NAME", help="Serve explanations as a model of this name, too.")
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
@click.option(
    "--fold-seconds",
    type=click.FloatRange(0),
    default=60.0,
    show_default=True,
    help="How long clones of the model may take that show what it would say of its training data unseen; 0: none.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of all that is random.")
@click.option("--runtime", default="", help="The model's runtime, where its content does not decide.")
@click.option("--json", "as_json", is_flag=True, help="Print what was fitted as JSON.")
def command(
    model: str,
    *,
    data: Path,
    unseen: Path | None,
    labels: str,
    protected: tuple[str, ...],
    favourable: str,
    categories: tuple[str, ...],
    kind: str | None,
    task: str | None,
    detectors: tuple[str, ...],
    explainers: tuple[str, ...],
    window: str,
    guards: tuple[str, ...],
    detector_models: tuple[str, ...],
    explainer_model: str,
    folder: str | None,
    fpr: float,
    alpha: float,
    fold_seconds: float,
    seed: int,
    runtime: str,
    as_json: bool,
) -> None:
    """Fit detectors and explainers to a model and its training data.

    Reads the data, asks the model what it says of it, and writes the trust folder beside the model. A fifth of the rows
    is kept apart to choose thresholds, another fifth to measure how often usual rows pass them; a detector that calls
    too many of them odd is left out, and a note says why. The same data, options and seed give the same folder.

    A model is right and sure of rows that it was trained on. With --unseen, what depends on its answers is fitted to
    rows that it does not know. Without, and with labels, clones of a scikit-learn model are asked of rows that each
    was fitted without; of other models, a note says what will alarm.

    \b
    Examples:
      headrace trust fit iris.joblib --data train.parquet --unseen test.parquet --labels species
      headrace trust fit credit/ --data loans.csv --labels paid --protected sex=male --favourable 1
      headrace trust fit digits.onnx --data digits.npz --kind image --detector pca --detector mmd:outputs
    """  # noqa: D301 - \b is click's mark for lines to be left as they are
    from headrace.notebook import fit_trust

    overrides = {"runtime": runtime} if runtime else {}
    with _progress() as progress:
        fitted = fit_trust(
            model,
            data,
            unseen=unseen,
            path=folder,
            labels=labels,
            protected=protected,
            favourable=favourable,
            categories=categories,
            kind=kind or "",
            task=task or "",
            detectors=detectors,
            explainers=explainers,
            window=_pairs("--window", [each for each in window.split(",") if each]),
            guards=_pairs("--guard", guards),
            detector_models=_pairs("--detector-model", detector_models),
            explainer_model=explainer_model,
            false_positive_rate=fpr,
            alpha=alpha,
            fold_seconds=fold_seconds,
            seed=seed,
            progress=progress,
            **overrides,
        )
    trust_show.show(fitted, as_json=as_json)


def _pairs(option: str, given: Sequence[str]) -> dict[str, str]:
    """`name=value` of each."""
    pairs = {}
    for each in given:
        name, sign, value = each.partition("=")
        if not (name.strip() and sign and value.strip()):
            raise click.BadParameter(f"{each!r}; expected NAME=VALUE", param_hint=option)
        pairs[name.strip()] = value.strip()
    return pairs


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
