"""What stands beside a finished output: `OUTPUT.manifest.json`. It is written last, so an output with one is whole.

`run` writes it, and knows by it that a job is done.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Final

import msgspec

from headrace.artifacts import uri
from headrace.artifacts.base import ObjectInfo, Objects
from headrace.errors import ArtifactNotFound
from headrace.lifecycle.batch.base import Job, Predictor

SUFFIX: Final = ".manifest.json"
REJECTS: Final = ".rejects.jsonl"


class Input(msgspec.Struct, frozen=True, kw_only=True):
    """The file that was read."""

    uri: str
    etag: str
    size: int


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """Who answered."""

    uri: str
    """Where it was; with a server, its name there."""
    name: str
    version: str = ""
    digest: str = ""
    server: str = ""


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """One input's job, done."""

    headrace: str
    """Version of the program."""
    identity: Mapping[str, str]
    """What another run must have in common to be the same job."""
    model: Model
    input: Input
    output: str
    rejects: str = ""
    """Uri of the rows that have no answer; empty: there are none."""
    rows: int
    answered: int
    rejected: int
    rejected_by_reason: Mapping[str, int] = msgspec.field(default_factory=dict)
    resumed_rows: int = 0
    """Done by runs before the one that finished."""
    columns: Mapping[str, tuple[str, ...]] = msgspec.field(default_factory=dict)
    """Tensor to the columns that made it up."""
    job: Job
    started: str
    """ISO 8601, UTC; of the run that finished."""
    finished: str
    seconds: float


def identity_of(job: Job, info: ObjectInfo, predictor: Predictor, limit: int) -> dict[str, str]:
    """What makes a job the same: what it asks for, the input's bytes, the model's.

    How many rows are asked at once, by how many threads, and whom the model's loader trusts, is no part of it: what is
    answered is the same.
    """
    asked = msgspec.structs.replace(
        shown(job), inputs=(), output="", threads=0, batch_rows=0, limit=limit, load_policy=""
    )
    return {
        "job": hashlib.sha256(msgspec.json.encode(asked, order="sorted")).hexdigest()[:16],
        "input": f"{info.uri} {info.etag or info.size}",
        "model": model_of(predictor),
    }


def model_of(predictor: Predictor) -> str:
    """What tells a model from any other: its digest; of one that has none, name and version."""
    return predictor.digest or f"{predictor.name} {predictor.version}".strip()


def changed(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """What of an identity is not what it was, for people; empty: nothing."""
    return "; ".join(
        f"its {name} was {before.get(name) or 'not known'}, is {value}"
        for name, value in now.items()
        if value != before.get(name)
    )


def shown(job: Job) -> Job:
    """The job without the secrets that its uris may have."""
    return msgspec.structs.replace(
        job,
        model=uri.shown(job.model),
        inputs=tuple(map(uri.shown, job.inputs)),
        output=uri.shown(job.output),
        url=uri.shown(job.url),
    )


def read(objects: Objects, path: str) -> Manifest | None:
    """The manifest beside an output; None where there is none, or one that cannot be understood."""
    try:
        return msgspec.json.decode(objects.read(path + SUFFIX), type=Manifest)
    except (ArtifactNotFound, msgspec.MsgspecError):
        return None


def render(manifest: Manifest) -> bytes:
    """As it stands beside the output."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"
