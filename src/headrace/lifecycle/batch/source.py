"""A file of a job, open: its reader, and what its columns are for. `file`, engines and sketches begin with it."""

from __future__ import annotations

import contextlib
from typing import Any, BinaryIO, Final

import msgspec
import pyarrow as pa

from headrace.artifacts import objects as objects_
from headrace.artifacts import uri
from headrace.artifacts.base import ObjectInfo, Objects
from headrace.artifacts.settings import ArtifactSettings
from headrace.errors import ArtifactCorrupt, InvalidRequest
from headrace.lifecycle.batch import columns
from headrace.lifecycle.batch.base import Job, Predictor
from headrace.lifecycle.batch.columns import Plan
from headrace.lifecycle.batch.formats import registry
from headrace.lifecycle.batch.formats.base import Reader

TEXT: Final = frozenset({"csv", "jsonl"})
"""Formats whose places are bytes."""


class Source(msgspec.Struct, frozen=True):
    """A file of a job, open."""

    info: ObjectInfo
    objects: Objects
    path: str
    """Among the objects."""
    reader: Reader

    def check(self) -> None:
        """Raises ArtifactCorrupt: the file is another one than `info` says."""
        now = self.objects.head(self.path)
        if (now.etag, now.size) != (self.info.etag, self.info.size):
            raise ArtifactCorrupt(f"{self.info.uri} has changed since the job began: run it again when it is written")

    def plan(self, job: Job, predictor: Predictor) -> Plan:
        """What the columns are for; the reader reads those from here on. Raises InvalidRequest: they do not fit."""
        try:
            plan = columns.plan(job, predictor.signature, self.reader.schema, is_csv=self.reader.format == "csv")
        except InvalidRequest as exc:
            raise InvalidRequest(f"{self.info.uri}: {exc}{_of_no_header(job, predictor, self.reader)}") from exc
        texts = frozenset(name for feed in plan.feeds if feed.datatype == "BYTES" for name in feed.columns)
        self.reader.want(plan.used, texts)
        return plan

    def no_rows(self) -> pa.RecordBatch:
        """None of its rows, in its columns."""
        return pa.RecordBatch.from_pylist([], schema=self.reader.schema)


def opened(
    info: ObjectInfo, job: Job, settings: ArtifactSettings, stack: contextlib.ExitStack, *, end: int = -1
) -> Source:
    """A file of a job, open until the stack is closed.

    Args:
        info: The file.
        job: Says what it is, where its name does not.
        settings: Of stores.
        stack: Closes it.
        end: Where text is to end, in bytes; -1: with the file.

    Raises:
        ArtifactFailed: it cannot be read.
        InvalidRequest: it cannot be read as what it is.
    """
    where, path = uri.split(info.uri)
    objects = objects_.open_objects(where, settings=settings)
    stack.callback(objects.close)
    file: Any = stack.enter_context(objects.open(path))
    if end >= 0:
        file = _Until(file)
    reader = registry.open_reader(file, info.uri, job.input_format, names=job.names)
    if end >= 0 and reader.format in TEXT:
        file.end = end
    return Source(info, objects, path, reader)


class _Until:
    """A file that ends at a place. It is one that other libraries read."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.end = -1

    def read(self, size: int = -1, /) -> bytes:
        """As of a file."""
        if self.end >= 0:
            left = max(0, self.end - self._file.tell())
            size = left if size < 0 else min(size, left)
        return self._file.read(size)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def _of_no_header(job: Job, predictor: Predictor, reader: Reader) -> str:
    """What to try where the first line of a CSV file has none of the names that are looked for."""
    looked_for = {job.id_column, *job.keep, *(each.name for each in predictor.signature.inputs)}
    looked_for.update(name for each in job.columns.values() for name in each)
    if reader.format != "csv" or job.names or not looked_for.isdisjoint(reader.schema.names):
        return ""
    return "; where its first line is a row already, and no names, give the names by --names"
