"""What a job would do, and the answers to its first rows: `batch run --dry-run`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from headrace.artifacts import uri
from headrace.artifacts.settings import ArtifactSettings
from headrace.errors import InvalidRequest
from headrace.lifecycle.batch import rows, source
from headrace.lifecycle.batch.base import Job, Predictor, Reject
from headrace.lifecycle.batch.block import first_rows, rejected
from headrace.lifecycle.batch.columns import Plan
from headrace.lifecycle.batch.formats.base import Reader, Table
from headrace.lifecycle.batch.targets import targets


class SketchedFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file that would be done."""

    input: str
    bytes: int
    format: str
    output: str


class Sketch(msgspec.Struct, frozen=True, kw_only=True):
    """What a job would do, and the answers to its first rows."""

    model: str
    digest: str
    files: tuple[SketchedFile, ...]
    columns: Mapping[str, tuple[str, ...]]
    """Tensor to the columns that make it up."""
    ignored: tuple[str, ...]
    """Columns that are neither asked nor kept."""
    answers: Mapping[str, str]
    """Columns of the output, and their types."""
    sample: tuple[Mapping[str, Any], ...]
    """Answers to the first rows."""
    rejects: tuple[Reject, ...]
    """Of the first rows."""


_SAMPLE: Final = 5


def sketch(
    job: Job, *, open_predictor: Callable[[Job], Predictor], settings: ArtifactSettings = ArtifactSettings()
) -> Sketch:
    """What a job would do. Nothing is written; the first rows of the first file are asked. Raises as `run.run`."""
    found = targets(job, settings=settings)
    predictor = open_predictor(job)
    try:
        files: list[SketchedFile] = []
        told: tuple[Plan, Reader, Table] | None = None
        for target in found:
            with contextlib.ExitStack() as stack:
                file = source.opened(target.info, job, settings, stack)
                files.append(
                    SketchedFile(
                        input=target.info.uri,
                        bytes=max(0, target.info.size),
                        format=file.reader.format,
                        output=uri.shown(target.output),
                    )
                )
                plan = file.plan(job, predictor)
                if told is None:
                    block = next(iter(file.reader.blocks(0, rows=_SAMPLE)), None)
                    table = Table(file.no_rows(), 0) if block is None else first_rows(block.parse(), _SAMPLE)
                    told = plan, file.reader, table
        if told is None:
            raise InvalidRequest("the job names no input")
        plan, reader, table = told
        batch, rejects = rows.answer(table.rows, job, predictor, plan=plan, file=found[0].info.uri)
        faulty = [rejected(fault, plan) for fault in table.faults]
        return Sketch(
            model=f"{predictor.name} {predictor.version}".strip(),
            digest=predictor.digest,
            files=tuple(files),
            columns={feed.tensor: feed.columns for feed in plan.feeds},
            ignored=tuple(name for name in reader.schema.names if name not in plan.used),
            answers={field.name: str(field.type) for field in batch.schema},
            sample=tuple(batch.to_pylist()),
            rejects=(*rejects, *faulty),
        )
    finally:
        predictor.close()
