"""`headrace batch aws-lambda`."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from headrace.cli.batch_jobs import job_of, job_options

if TYPE_CHECKING:
    from headrace.lifecycle.aws_lambda import Function

_HANDLER = '''"""Answers files that come into a bucket. Lambda calls `handler`; what it does stands in function.json."""

import logging
import os
import tempfile
from pathlib import Path

import msgspec

from headrace import offline, settings
from headrace.lifecycle.aws_lambda import Function, Handler

logging.getLogger().setLevel(logging.INFO)
# Of a function's files only the temporary folder can be written, and it stays from one call to the next.
WRITABLE = tempfile.gettempdir()
os.environ.setdefault("HOME", WRITABLE)
os.environ.setdefault("HEADRACE_ARTIFACTS_CACHE_DIR", f"{WRITABLE}/headrace")
os.environ.setdefault("HEADRACE_MODELS_CACHE_DIR", f"{WRITABLE}/headrace/models")

function = msgspec.json.decode(Path(__file__).with_name("function.json").read_bytes(), type=Function)
handler = Handler(
    function,
    open_predictor=lambda job: offline.open_model(job.model, settings=job.model_settings),
    settings=settings.load(settings.Settings(), "", os.environ, {}).artifacts,
)
'''

_DOCKERFILE = """FROM public.ecr.aws/lambda/python:3.11
COPY requirements.txt ${LAMBDA_TASK_ROOT}/
RUN pip install --no-cache-dir -r requirements.txt
COPY handler.py function.json ${LAMBDA_TASK_ROOT}/
CMD ["handler.handler"]
"""

_TEMPLATE = """AWSTemplateFormatVersion: "2010-09-09"
Transform: AWS::Serverless-2016-10-31
Description: Answers files that come into a bucket with a model.
Resources:
  Uploads:  # the bucket must tell this queue of s3:ObjectCreated:*; see README.md
    Type: AWS::SQS::Queue
    Properties:
      VisibilityTimeout: 5400  # six times the function's
      RedrivePolicy:
        deadLetterTargetArn: !GetAtt Dead.Arn
        maxReceiveCount: 5
  Dead:
    Type: AWS::SQS::Queue
    Properties:
      MessageRetentionPeriod: 1209600
  MayTell:
    Type: AWS::SQS::QueuePolicy
    Properties:
      Queues: [!Ref Uploads]
      PolicyDocument:
        Statement:
          - Effect: Allow
            Principal: {{Service: s3.amazonaws.com}}
            Action: sqs:SendMessage
            Resource: !GetAtt Uploads.Arn
            Condition:
              StringEquals: {{"aws:SourceAccount": !Ref "AWS::AccountId"}}
              ArnLike: {{"aws:SourceArn": {sources}}}
  Answer:
    Type: AWS::Serverless::Function
    Properties:
      PackageType: Image
      MemorySize: 3008
      Timeout: 900
      EphemeralStorage: {{Size: 2048}}
      Policies:
        - AWSLambdaBasicExecutionRole
        - {policy}
      Events:
        Uploads:
          Type: SQS
          Properties:
            Queue: !GetAtt Uploads.Arn
            BatchSize: 1
            FunctionResponseTypes: [ReportBatchItemFailures]
    Metadata:
      DockerContext: .
      Dockerfile: Dockerfile
"""

_README = """# Answers for files that come into a bucket

`handler.py` answers each object that comes into {inputs} with the model {model}, and writes to {output}.
What it does stands in `function.json`; what it may do in `policy.json`, and it needs no more.

    sam build && sam deploy --guided

Then let the bucket tell the queue that was made (`Uploads`):

    aws s3api put-bucket-notification-configuration --bucket {bucket} --notification-configuration \\
      '{{"QueueConfigurations":[{{"QueueArn":"ARN","Events":["s3:ObjectCreated:*"]{filter}}}]}}'

This replaces the notifications that the bucket has; add to them if there are any.

An event that comes twice is answered once: an output that stands is left alone. A message that fails five times is in
the queue `Dead`. Objects that are too large for fifteen minutes belong to `headrace batch watch`.
Objects that were there before are answered by `headrace batch watch --once` with the same options.
"""


@click.command(name="aws-lambda", short_help="Write a function for AWS Lambda that answers files as they come.")
@click.option("--model", required=True, metavar="URI", help="The model, in a bucket of its own.")
@click.option("--in", "inputs", multiple=True, required=True, metavar="URI", help="What is read: s3://BUCKET/PREFIX.")
@click.option("--output", "target", required=True, metavar="URI", help="Where is written: s3://BUCKET/PREFIX.")
@click.option("--name", default="{path}", show_default=True, help="Of outputs: {path} {folder} {stem} {suffix} {etag}.")
@click.option("--kms", multiple=True, metavar="[in=|out=|model=]ARN", help="A key that buckets are encrypted with.")
@click.option(
    "-o",
    "where",
    type=click.Path(path_type=Path),
    default=None,
    metavar="FOLDER|FILE.zip",
    help="Write everything here; without it, the handler is printed.",
)
@click.option("--force", is_flag=True, help="Write over files that are there.")
@job_options
def command(**given: Any) -> None:
    """Write a function for AWS Lambda that answers files as they come: handler, image, template, policy.

    The function is the work of `headrace batch watch` without a watcher: S3 tells a queue, the queue calls the
    function, the function reads the object, answers it and writes the output. The model is fetched from its bucket once
    for each environment of Lambda.

    \b
    Examples:
      headrace batch aws-lambda --model s3://models/churn --in s3://uploads/ --output s3://answers/ -o function/
      headrace batch aws-lambda --model s3://models/churn --in s3://uploads/ --output s3://answers/
    """  # noqa: D301 - \b is click's mark for lines to be left as they are
    from headrace.lifecycle.aws_lambda import Function, Handler

    def unopened(_: object) -> Any:
        raise AssertionError  # nothing is answered here

    job = job_of(given, output=given["target"])
    function = Function(job=job, inputs=given["inputs"], name=given["name"])
    Handler(function, open_predictor=unopened)  # says now what it would say there
    if given["where"] is None:
        click.echo(_HANDLER, nl=False)
        return
    files = _files(function, given["kms"])
    where: Path = given["where"]
    if where.suffix == ".zip":
        _write(where, _zipped(files), force=given["force"])
        click.echo(f"wrote {where}: {', '.join(files)}")
        return
    where.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        _write(where / name, text.encode(), force=given["force"])
        click.echo(f"wrote {where / name}")


def _files(function: Function, kms: tuple[str, ...]) -> Mapping[str, str]:
    import json

    import msgspec

    from headrace import __version__
    from headrace.artifacts import uri
    from headrace.lifecycle.policy import place, policy

    job = function.job
    allowed = policy(inputs=function.inputs, output=job.output, model=job.model, kms=kms)
    places = [place(each) for each in function.inputs]
    rule = json.dumps({"Key": {"FilterRules": [{"Name": "prefix", "Value": places[0].prefix}]}})
    return {
        "handler.py": _HANDLER,
        "function.json": msgspec.json.format(msgspec.json.encode(function), indent=2).decode() + "\n",
        "requirements.txt": f"headrace[storage]=={__version__}\n",
        "Dockerfile": _DOCKERFILE,
        "template.yaml": _TEMPLATE.format(
            policy=json.dumps(allowed), sources=json.dumps([f"arn:aws:s3:::{each.bucket}" for each in places])
        ),
        "policy.json": json.dumps(allowed, indent=2) + "\n",
        "README.md": _README.format(
            inputs=", ".join(map(uri.shown, function.inputs)),
            model=uri.shown(job.model),
            output=uri.shown(job.output),
            bucket=places[0].bucket,
            filter=f',"Filter":{rule}' if places[0].prefix else "",
        ),
    }


def _zipped(files: Mapping[str, str]) -> bytes:
    found = io.BytesIO()
    with zipfile.ZipFile(found, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            archive.writestr(zipfile.ZipInfo(name), text)  # without a moment: the same is the same
    return found.getvalue()


def _write(path: Path, data: bytes, *, force: bool) -> None:
    from headrace.errors import SettingsError

    if path.exists() and not force and path.read_bytes() != data:
        raise SettingsError(f"{path} is there and says something else; --force writes over it")
    path.write_bytes(data)
