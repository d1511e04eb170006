"""The output of a file, answers and rejects, written as they come; there when it is whole. `file` writes to it."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import BinaryIO

import msgspec
import pyarrow as pa

from headrace.artifacts.base import Objects
from headrace.lifecycle.batch import manifest, rows
from headrace.lifecycle.batch.base import Format, Reject
from headrace.lifecycle.batch.formats import registry
from headrace.lifecycle.batch.formats.names import Compression
from headrace.lifecycle.batch.log import Log


class Sink:
    """The answers and rejects of a file, written as they come; there when the stack is closed well."""

    def __init__(
        self, out: Objects, path: str, kind: tuple[Format, Compression], stack: contextlib.ExitStack, log: Log | None
    ) -> None:
        self._out, self._path, self._stack, self._log = out, path, stack, log
        self._rejects: BinaryIO | None = None
        self._temporary: list[str] = []
        self._writer = registry.open_writer(self._opened(path), *kind)
        self._closed = False
        stack.callback(self._abandon)
        self._schema: pa.Schema | None = None
        self._empty: pa.RecordBatch | None = None

    @property
    def settled(self) -> bool:
        """Whether the columns are known."""
        return self._schema is not None or self._empty is not None

    @property
    def rejected(self) -> bool:
        """Whether there are rejects."""
        return self._rejects is not None

    def write(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Add answers; as they were added."""
        if not batch.num_rows:
            self._empty = batch if self._empty is None else self._empty
            return batch
        if self._schema is None:
            self._schema = batch.schema
        elif not batch.schema.equals(self._schema):
            batch = conformed(batch, self._schema)
        self._writer.write(batch)
        return batch

    def reject(self, rejects: Sequence[Reject]) -> None:
        """Add rejects."""
        if not rejects:
            return
        if self._rejects is None:
            self._rejects = self._opened(self._path + manifest.REJECTS)
        self._rejects.write(msgspec.json.Encoder().encode_lines(rejects))

    def close(self) -> None:
        """Write what stands at the end."""
        if self._schema is None and self._empty is not None:
            self._writer.write(self._empty)
        self._writer.close()
        self._closed = True

    def _abandon(self) -> None:
        """Before the file is closed: Arrow's writers write once more when they are thrown away."""
        if not self._closed:
            self._writer.abandon()

    def _opened(self, path: str) -> BinaryIO:
        file = self._stack.enter_context(self._out.write(path))
        if self._log is not None and (name := getattr(file, "name", "")):
            self._temporary.append(str(name))
            self._log.leaves(self._temporary)
        return file


def conformed(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """Answers in the columns of those before them.

    Raises:
        ContractBroken: they cannot be.
    """
    try:
        return pa.RecordBatch.from_arrays(
            [batch.column(field.name).cast(field.type) for field in schema], schema=schema
        )
    except (KeyError, pa.ArrowInvalid, pa.ArrowNotImplementedError) as exc:
        raise rows.ContractBroken(
            f"the model answers in other columns than before: expected {_told(schema)}, came {_told(batch.schema)}"
        ) from exc


def _told(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name} {field.type}" for field in schema)
