"""The least that batch on upload has to be allowed on AWS, as an IAM policy. Pure; `headrace batch policy` prints it.

Each action stands for requests that are made; a test takes them away one by one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal
from urllib.parse import urlsplit

import msgspec

from headrace.errors import SettingsError

Kind = Literal["lambda", "watch"]

_KEY_ARN: Final = re.compile(r"arn:[a-z-]+:kms:[a-z0-9-]+:\d{12}:(?:key|alias)/.+")
_QUEUE_ARN: Final = re.compile(r"arn:[a-z-]+:sqs:[a-z0-9-]+:\d{12}:[A-Za-z0-9_.-]+")
_STAR: Final = re.compile(r"[*?\[]")
_PARTS: Final = ("in", "out", "model")


class Place(msgspec.Struct, frozen=True):
    """A folder of a bucket."""

    bucket: str
    prefix: str
    """With `/` at its end; empty: all of the bucket."""


def place(uri: str) -> Place:
    """What is below a uri: `s3://bucket/2026`, `s3://bucket/2026/` and `s3://bucket/2026/*.csv` are all below `2026/`.

    Raises:
        SettingsError: it is no uri of S3.
    """
    parts = urlsplit(uri, allow_fragments=False)
    if parts.scheme not in {"s3", "s3a", "s3n"} or not parts.netloc:
        raise SettingsError(f"a policy is of AWS, and {uri!r} is not: expected s3://BUCKET/PREFIX")
    path = uri.partition("://")[2].partition("/")[2]
    glob = _STAR.search(path)
    if glob is not None:
        path = path[: path.rfind("/", 0, glob.start()) + 1]
    return Place(parts.netloc, f"{path.strip('/')}/" if path.strip("/") else "")


def policy(
    *,
    inputs: Sequence[str],
    output: str,
    model: str = "",
    queue: str = "",
    kms: Sequence[str] = (),
    kind: Kind = "lambda",
    partition: str = "aws",
) -> Mapping[str, Any]:
    """The policy document, ready for JSON.

    Args:
        inputs: Uris of what is read; `s3://` all of them.
        output: Uri below which is written.
        model: Uri of the model; empty, or no `s3://`: none of AWS's business.
        queue: ARN of the queue of SQS that the bucket tells; empty: none.
        kms: ARNs of keys that the buckets are encrypted with; `in=ARN`, `out=ARN` or `model=ARN` for one of them only.
        kind: `lambda`: objects come by name. `watch`: the inputs are listed as well.
        partition: `aws-cn`, `aws-us-gov`.

    Raises:
        SettingsError: a uri or an ARN is none.
    """
    if not inputs:
        raise SettingsError("a policy needs a uri of what is read: --in s3://BUCKET/PREFIX")
    read, written = [place(uri) for uri in inputs], place(output)
    statements: list[dict[str, Any]] = []
    for at, each in enumerate(read):
        number = str(at + 1) if len(read) > 1 else ""
        statements.append(_allow(f"ReadInput{number}", ["s3:GetObject"], _objects(each, partition)))
        if kind == "watch":
            statements.append(_list(f"ListInput{number}", each, partition))
    # What stands is looked at before anything is written; a large file goes up in parts, given up where that fails.
    actions = ["s3:GetObject", "s3:PutObject", "s3:AbortMultipartUpload"]
    statements.append(_allow("WriteOutput", actions, _objects(written, partition)))
    if model.startswith(("s3://", "s3a://", "s3n://")):
        of_model, lone = place(model), not model.endswith("/")
        below = _objects(of_model, partition)
        # A model is a folder, or one object: which of them, its uri does not say.
        resource = [below.removesuffix("/*"), below] if lone and of_model.prefix else below
        statements.append(_allow("ReadModel", ["s3:GetObject"], resource))
        statements.append(_list("ListModel", of_model, partition))
    if queue:
        if _QUEUE_ARN.fullmatch(queue) is None:
            raise SettingsError(f"expected the ARN of a queue, arn:aws:sqs:REGION:ACCOUNT:NAME, got {queue!r}")
        asked = ["sqs:ReceiveMessage", "sqs:DeleteMessage"]
        # Lambda itself reads the queue, by the function's role, and looks at the queue's own settings to do so.
        statements.append(_allow("ReadQueue", [*asked, "sqs:GetQueueAttributes"] if kind == "lambda" else asked, queue))
    statements.extend(_keys(kms))
    return {"Version": "2012-10-17", "Statement": statements}


def _allow(name: str, actions: Sequence[str], resource: str | Sequence[str]) -> dict[str, Any]:
    return {"Sid": name, "Effect": "Allow", "Action": list(actions), "Resource": resource}


def _objects(of: Place, partition: str) -> str:
    return f"arn:{partition}:s3:::{of.bucket}/{of.prefix}*"


def _list(name: str, of: Place, partition: str) -> dict[str, Any]:
    statement = _allow(name, ["s3:ListBucket"], f"arn:{partition}:s3:::{of.bucket}")
    if of.prefix:
        statement["Condition"] = {"StringLike": {"s3:prefix": [f"{of.prefix}*"]}}
    return statement


def _keys(kms: Sequence[str]) -> list[dict[str, Any]]:
    decrypt: dict[str, None] = {}
    encrypt: dict[str, None] = {}
    for each in kms:
        part, equals, arn = each.partition("=")
        if not equals:
            part, arn = "", each
        if (part and part not in _PARTS) or _KEY_ARN.fullmatch(arn) is None:
            raise SettingsError(
                "expected the ARN of a key, arn:aws:kms:REGION:ACCOUNT:key/ID, alone or after in=, out= or model=; "
                f"got {each!r}"
            )
        decrypt[arn] = None  # of the output too: parts of an upload are read back to be put together
        if part in {"", "out"}:
            encrypt[arn] = None
    found = [_allow("Decrypt", ["kms:Decrypt"], list(decrypt))] if decrypt else []
    return [*found, *([_allow("Encrypt", ["kms:GenerateDataKey"], list(encrypt))] if encrypt else [])]
