"""`headrace batch`: a group whose subcommands are imported when they are called."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import click

from headrace.cli.lazy import LazyGroup

COMMANDS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "run": "Ask a model for whole files, now.",
        "watch": "Answer files as they come into a bucket or folder.",
        "aws-lambda": "Write a function for AWS Lambda that answers files as they come.",
        "policy": "Print the least that the work may be allowed on AWS.",
    }
)
"""Name to summary, in the order of the help."""


@click.group(
    cls=LazyGroup,
    commands=COMMANDS,
    modules="headrace.cli.batch_",
    name="batch",
    short_help="Ask a model for whole files, in folders or buckets.",
)
def command() -> None:
    """Ask a model for whole files, in folders or buckets.

    The model runs in this process, on a running server, or on Spark or Ray. Bad rows go to a file of their own, and a
    job that was killed goes on where it was.

    \b
    Examples:
      headrace batch run churn.onnx customers.parquet scores.parquet
      headrace batch run s3://models/churn s3://in/2026/ s3://out/2026/
      headrace batch watch s3://in/ --model churn.onnx --output s3://out/
    """  # noqa: D301 - \b is click's mark for lines to be left as they are
