"""A block of a file, answered. Any thread of a job may do one, and any worker of an engine; none knows of another."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from headrace.errors import Conflict
from headrace.lifecycle.batch import manifest, rows
from headrace.lifecycle.batch.base import Job, Predictor, Reject
from headrace.lifecycle.batch.columns import Plan
from headrace.lifecycle.batch.formats.base import Block, Fault, Table


class Done(msgspec.Struct):
    """A block, answered."""

    batches: Iterable[pa.RecordBatch]
    rejects: list[Reject]
    """Rows and lines count from the first of the block."""
    rows: int
    answered: int


class Place(Protocol):
    """Of a block in its file: `formats.base.Block` is one."""

    end: int
    done_bytes: int

    @property
    def lines(self) -> int:
        """Of text."""


def answer_block(
    block: Block,
    plan: Plan,
    job: Job,
    predictor: Predictor,
    *,
    model: str,
    left: int = 0,
    probe: bool = False,
    cancel: rows.Pause | None = None,
) -> Done:
    """A block parsed and asked; by any thread.

    Args:
        block: Of a file.
        plan: Of the file.
        job: Bad rows are rejects if it says so.
        predictor: Who answers.
        model: Who is to answer, as of `manifest.model_of`.
        left: Rows that are wanted at most; 0: all.
        probe: As of `rows.answer`.
        cancel: As of `rows.answer`.

    Raises:
        Conflict: another model has answered: the one on the server was changed.
        HeadraceError: as of `rows.answer`.
    """
    table = block.parse()
    if left and table.count > left:
        table = first_rows(table, left)
    batches, rejects, answered = [], [], 0
    positions = table.positions() if table.faults else None
    try:
        for low in range(0, table.rows.num_rows, job.batch_rows):
            batch, bad = rows.answer(
                table.rows.slice(low, job.batch_rows),
                job,
                predictor,
                first_row=low,
                plan=plan,
                probe=probe,
                cancel=cancel,
            )
            if positions is not None:
                batch = _numbered(batch, plan, positions)
                bad = [msgspec.structs.replace(each, row=int(positions[each.row])) for each in bad]
            answered += batch.num_rows
            batches.append(batch)
            rejects += bad
    finally:  # a failure may be another model's
        _check(predictor, model)
    rejects += [rejected(fault, plan) for fault in table.faults]
    if rejects:
        rejects.sort(key=lambda each: each.row)
        originals = block.originals()
        if originals:
            rejects = [_as_it_stood(each, originals) for each in rejects]
    return Done(batches, rejects, table.count, answered)


def rejected(fault: Fault, plan: Plan) -> Reject:
    """A row that is none, as a reject."""
    value = fault.known.get(plan.id_column)
    return Reject(file="", row=fault.row, id="" if value is None else str(value), reason=fault.reason)


def first_rows(table: Table, count: int) -> Table:
    """The first rows of a table."""
    kept = int((table.positions() < count).sum())
    return Table(table.rows.slice(0, kept), count, tuple(fault for fault in table.faults if fault.row < count))


def _numbered(batch: pa.RecordBatch, plan: Plan, positions: Any) -> pa.RecordBatch:
    """Row numbers of a table's rows as those of the block."""
    if plan.id_column:
        return batch
    numbers = np.asarray(positions, np.int64)[batch.column(0).to_numpy()]
    return batch.set_column(0, batch.schema.field(0), pa.array(numbers, pa.int64()))


def moved(batch: pa.RecordBatch, rows_before: int) -> pa.RecordBatch:
    """Row numbers of a block as those of the file."""
    if not rows_before:
        return batch
    return batch.set_column(0, batch.schema.field(0), pc.add(batch.column(0), rows_before))


def _as_it_stood(reject: Reject, originals: Sequence[tuple[int, str]]) -> Reject:
    if reject.row >= len(originals):
        return reject
    line, text = originals[reject.row]
    return msgspec.structs.replace(reject, line=line, text=rows.shortened(text))


def _check(predictor: Predictor, model: str) -> None:
    """Raises Conflict: another model is there than the job has begun with."""
    if (now := manifest.model_of(predictor)) != model:
        raise Conflict(
            f"model '{predictor.name}' was changed while the job ran (it was {model}, is {now}): nothing that the new "
            "one answered is kept; begin anew with --overwrite, or serve the former one and go on"
        )
