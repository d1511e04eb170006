"""`headrace trust`: a group whose subcommands are imported when they are called."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import click

from headrace.cli.lazy import LazyGroup

COMMANDS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "fit": "Fit detectors and explainers to a model and its training data.",
        "show": "Show what a trust folder holds.",
        "scan-data": "Look for what is wrong with training data.",
        "status": "Show what the detectors of a served model say.",
        "report": "Write what the detectors of a served model say as a page with pictures.",
    }
)
"""Name to summary, in the order of the help; the command of `scan-data` is `command` in `cli.trust_scan_data`."""


@click.group(
    cls=LazyGroup,
    commands=COMMANDS,
    modules="headrace.cli.trust_",
    name="trust",
    short_help="Fit and look at what watches and explains a model.",
)
def command() -> None:
    """Fit and look at what watches and explains a model.

    A trust folder lies beside the model: a sample of its training data, detectors of outliers, drift and adversarial
    inputs with calibrated thresholds, explainers. headrace serve finds it and switches on what it holds.

    \b
    Examples:
      headrace trust fit iris.joblib --data train.parquet --labels species
      headrace trust show iris.joblib
      headrace trust status iris
      headrace trust report iris -o report.html
    """  # noqa: D301 - \b is click's mark for lines to be left as they are
