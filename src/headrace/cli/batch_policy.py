"""`headrace batch policy`."""

from __future__ import annotations

from typing import Any

import click

from headrace.cli import output


@click.command(name="policy", short_help="Print the least that the work may be allowed on AWS.")
@click.option("--in", "inputs", multiple=True, required=True, metavar="URI", help="What is read: s3://BUCKET/PREFIX.")
@click.option("--out", "target", required=True, metavar="URI", help="Where is written.")
@click.option("--model", default="", metavar="URI", help="The model, if it is in a bucket.")
@click.option("--queue", default="", metavar="ARN", help="The queue of SQS that the bucket tells.")
@click.option("--kms", multiple=True, metavar="[in=|out=|model=]ARN", help="A key that buckets are encrypted with.")
@click.option(
    "--for",
    "kind",
    type=click.Choice(["lambda", "watch"]),
    default="lambda",
    show_default=True,
    help="Who does the work; `watch` lists the inputs too.",
)
@click.option("--partition", default="aws", show_default=True, metavar="NAME", help="aws, aws-cn or aws-us-gov.")
def command(
    *, inputs: tuple[str, ...], target: str, model: str, queue: str, kms: tuple[str, ...], kind: Any, partition: str
) -> None:
    """Print the least that batch on upload may be allowed on AWS, as an IAM policy.

    Objects are read below the inputs, written below the output, listed where they must be, and nothing else. A function
    needs AWSLambdaBasicExecutionRole besides, for its log.

    \b
    Examples:
      headrace batch policy --in s3://uploads/2026/ --out s3://answers/ --model s3://models/churn > policy.json
      headrace batch policy --for watch --in s3://uploads/ --out s3://answers/ --queue arn:aws:sqs:eu-west-1:1234:q
    """  # noqa: D301 - \b is click's mark for lines to be left as they are
    from headrace.lifecycle.policy import policy

    output.write_json(
        policy(inputs=inputs, output=target, model=model, queue=queue, kms=kms, kind=kind, partition=partition)
    )
