"""A batch of a file's rows to its answers and rejects: the core of every batch job, wherever it runs.

`run` calls it for each batch of a file, and the engines on Spark's and Ray's workers do. It knows no file, and keeps
nothing between calls.

The columns of what it answers: the id column (or `row`, the number in the file), the kept columns, one column for each
output. An output of one value a row is a column of that name; one of several is a column of lists. Where an output has
the name of a kept column, the kept one is called `input_NAME`.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Sequence
from math import prod
from typing import Any, Final, Protocol

import msgspec
import numpy as np
import pyarrow as pa

from headrace.errors import (
    DeadlineExceeded,
    HeadraceError,
    InvalidRequest,
    Overloaded,
    RuntimeFailed,
    Temporary,
    TooLarge,
    WorkerDied,
)
from headrace.lifecycle.batch import columns
from headrace.lifecycle.batch.base import Job, Predictor, Reject
from headrace.lifecycle.batch.columns import Plan
from headrace.payload import Signature, Tensor, TensorSpec

ROW: Final = "row"
"""The column that stands in for an id column."""
PATIENCE_SECONDS: Final = 300.0
"""How long a server may be away or overloaded before the job ends."""
_PROBES: Final = 16
_TEXT: Final = 500
_REASON: Final = 1000
_FIRST_PAUSE: Final = 0.2
_LAST_PAUSE: Final = 10.0
_SPLIT_AFTER: Final = 2
"""Tries of a batch that kills its worker or takes too long, before it is looked at in halves."""


class Pause(Protocol):
    """Ends a wait early: an event."""

    def wait(self, timeout: float, /) -> bool:
        """Whether it is set within so many seconds."""


class Cancelled(Exception):
    """The job is to stop; nothing of the batch at hand counts."""


def answer(
    batch: pa.RecordBatch,
    job: Job,
    predictor: Predictor,
    *,
    first_row: int = 0,
    file: str = "",
    plan: Plan | None = None,
    probe: bool = False,
    cancel: Pause | None = None,
    patience_seconds: float = PATIENCE_SECONDS,
) -> tuple[pa.RecordBatch, list[Reject]]:
    """The answers to a batch, in its order, and the rows that have none.

    Args:
        batch: `[n]` rows of a file, at least with the columns that the plan uses. Numbers may be text.
        job: What is wanted of them.
        predictor: Who answers.
        first_row: Number of the first row in its file, from 0.
        file: For rejects.
        plan: `columns.plan` of the file; None: it is made, of this batch.
        probe: Look at a few rows before a failing batch is searched for the bad ones, and raise if none of them can be
            answered either: it is not the rows.
        cancel: Ends the waiting for a server.
        patience_seconds: How long one may wait for a server that is away or overloaded.

    Raises:
        InvalidRequest: columns and model do not fit; or, with `on_error` `fail`, the first bad row.
        RuntimeFailed: the model breaks its contract, or fails on each row that was tried.
        Temporary: the server did not come back.
        Cancelled: of `cancel`.
    """
    if plan is None:
        plan = columns.plan(job, predictor.signature, batch.schema)
    tensors, faults = columns.read(plan, batch)
    bad = dict(faults)
    rows = np.arange(batch.num_rows)
    if bad:
        if job.on_error == "fail":
            at = min(bad)
            raise InvalidRequest(f"{_place(file, first_row + at)}: {bad[at]}")
        rows = np.delete(rows, sorted(bad))
        tensors = tuple(msgspec.structs.replace(each, data=each.data[rows]) for each in tensors)
    asking = _Asking(job, predictor, tensors, cancel, patience_seconds)
    found, refused = asking.all(len(rows), probe=probe)
    if refused and job.on_error == "fail":
        at = min(refused)
        raise located_failure(refused[at], _place(file, first_row + int(rows[at])))
    good = rows if not refused else np.delete(rows, sorted(refused))
    bad |= {int(rows[at]): _reason(error) for at, error in refused.items()}
    rejects = [
        Reject(file=file, row=first_row + at, id=_id(batch, plan, at), reason=bad[at], text=_row_text(batch, at))
        for at in sorted(bad)
    ]
    made = _columns(found, predictor.signature, job) if len(good) else _empty_columns(predictor.signature, job)
    return _assembled(batch, plan, good, first_row, made, whole=len(good) == batch.num_rows), rejects


def schema(batch: pa.RecordBatch, job: Job, predictor: Predictor) -> pa.Schema:
    """The columns that `answer` gives, as far as the model declares them; the first rows are asked where it does not.

    Raises as `answer`.
    """
    sample = batch.slice(0, _PROBES) if _undeclared(predictor.signature, job) else batch.slice(0, 0)
    return answer(sample, job, predictor)[0].schema


def located_failure(error: HeadraceError, place: str) -> HeadraceError:
    """The error of a row, as that of a job."""
    kind = type(error) if type(error) in {InvalidRequest, RuntimeFailed, TooLarge} else RuntimeFailed
    made = kind(f"{place}: {_reason(error)}")
    made.__cause__ = error
    return made


# -- asking --


class _Asking:
    """One batch asked, in halves where it fails."""

    def __init__(
        self,
        job: Job,
        predictor: Predictor,
        tensors: tuple[Tensor, ...],
        cancel: Pause | None,
        patience_seconds: float,
    ) -> None:
        self._job, self._predictor, self._tensors = job, predictor, tensors
        self._cancel, self._patience = cancel, patience_seconds
        self._refused: dict[int, HeadraceError] = {}
        self._pieces: list[Sequence[Tensor]] = []

    def all(self, rows: int, *, probe: bool) -> tuple[list[Tensor], dict[int, HeadraceError]]:
        """Answers of the rows that have some, in order, and why the others have none."""
        if not rows:
            return [], {}
        if self._predictor.signature.batchable:
            self._range(0, rows, probe=probe)
        else:
            for at in range(rows):
                self._range(at, at + 1)
        return _joined(self._pieces), self._refused

    def _range(self, start: int, end: int, *, probe: bool = False) -> None:
        try:
            self._pieces.append(self._tried(start, end))
        except (InvalidRequest, RuntimeFailed, TooLarge, WorkerDied, DeadlineExceeded) as error:
            if end - start == 1:
                if isinstance(error, DeadlineExceeded):
                    raise
                self._refused[start] = error
                return
            if probe and end - start > _PROBES:
                self._probe(start, end)
            middle = (start + end) // 2
            self._range(start, middle)
            self._range(middle, end)

    def _probe(self, start: int, end: int) -> None:
        wrong: HeadraceError = RuntimeFailed("no row was tried")
        for at in np.linspace(start, end - 1, _PROBES).astype(int).tolist():
            try:
                self._tried(at, at + 1)
            except (InvalidRequest, RuntimeFailed, TooLarge, WorkerDied) as error:
                wrong = error
            else:
                return
        raise located_failure(wrong, f"none of {_PROBES} rows that were tried alone is answered")

    def _tried(self, start: int, end: int) -> Sequence[Tensor]:
        """One answer; the server is asked again while it is away or overloaded."""
        inputs = [msgspec.structs.replace(each, data=each.data[start:end]) for each in self._tensors]
        pause, deadline = _FIRST_PAUSE, time.monotonic() + self._patience
        for tries in range(1, 1_000_000):
            try:
                return self._checked(inputs, end - start)
            except Temporary as error:
                if isinstance(error, WorkerDied | DeadlineExceeded) and tries >= _SPLIT_AFTER:
                    raise
                asked = error.retry_after_seconds if isinstance(error, Overloaded) else 0.0
                seconds = max(asked, pause * random.uniform(0.5, 1.0))  # noqa: S311 - of waiting, not of secrets
                if time.monotonic() + seconds > deadline:
                    raise
                self._wait(seconds)
                pause = min(_LAST_PAUSE, pause * 2)
        raise AssertionError(start)  # a million tries are beyond any deadline

    def _wait(self, seconds: float) -> None:
        if self._cancel is None:
            time.sleep(seconds)
        elif self._cancel.wait(seconds):
            raise Cancelled

    def _checked(self, inputs: Sequence[Tensor], rows: int) -> Sequence[Tensor]:
        job = self._job
        found = self._predictor.predict(inputs, job.parameters, job.outputs)
        for tensor in found:
            if len(tensor.shape) == 0 or tensor.shape[0] != rows:
                if not self._predictor.signature.batchable and rows == 1:
                    continue
                raise ContractBroken(
                    f"output '{tensor.name}' of model '{self._predictor.name}' has shape {list(tensor.shape)} for "
                    f"{rows} rows: expected as many rows as were asked; name other outputs with --outputs"
                )
        return found


class ContractBroken(HeadraceError):
    """The model answers with other rows than it was asked; no row of it can be trusted."""


def _joined(pieces: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    if len(pieces) <= 1:
        return list(pieces[0]) if pieces else []
    by_name = [{tensor.name: tensor for tensor in piece} for piece in pieces]
    try:
        return [
            msgspec.structs.replace(first, data=np.concatenate([piece[first.name].data for piece in by_name]))
            for first in pieces[0]
        ]
    except (KeyError, ValueError) as exc:
        raise ContractBroken(f"the model answers some rows with other outputs or shapes than others: {exc}") from exc


# -- answers as columns --


def _columns(found: Sequence[Tensor], signature: Signature, job: Job) -> dict[str, Any]:
    declared = {spec.name: spec for spec in signature.outputs}
    wanted = {tensor.name: tensor for tensor in found if not job.outputs or tensor.name in job.outputs}
    for name in job.outputs:
        if name not in wanted:
            raise InvalidRequest(
                f"the model has no output '{name}'; it answers {', '.join(each.name for each in found)}"
            )
    return {name: _column(tensor, declared.get(name)) for name, tensor in wanted.items()}


def _column(tensor: Tensor, spec: TensorSpec | None) -> Any:
    data = tensor.data
    if data.ndim == 0:
        data = data.reshape(1)
    values = _flat(tensor)
    if _is_scalar(data.shape[1:], spec):
        return values
    for width in reversed(data.shape[1:]):
        count = len(values) // width if width else len(data)
        values = pa.ListArray.from_arrays(np.arange(count + 1, dtype=np.int32) * width, values)
    return values


def _is_scalar(tail: tuple[int, ...], spec: TensorSpec | None) -> bool:
    """Whether an output is one value a row."""
    if spec is not None and len(spec.shape) > 1 and max(spec.shape[1:]) > 1:
        return False
    return prod(tail) == 1


def _flat(tensor: Tensor) -> Any:
    data = tensor.data.reshape(-1)
    if tensor.datatype == "BYTES":
        values = [each.encode() if isinstance(each, str) else each for each in data.tolist()]
        if not all(isinstance(each, bytes) for each in values):
            values = [each if isinstance(each, bytes) else msgspec.json.encode(each) for each in values]
        column = pa.array(values, pa.binary())
        try:
            return column.cast(pa.string())
        except pa.ArrowInvalid:
            return column
    if tensor.datatype == "BF16":
        return pa.array((data.astype(np.uint32) << 16).view(np.float32))
    return pa.array(data.astype(np.float32) if data.dtype == np.float16 else data)


def _undeclared(signature: Signature, job: Job) -> bool:
    specs = _answered(signature, job)
    return not specs or any(-1 in spec.shape[2:] or (len(spec.shape) == 2 and spec.shape[1] == -1) for spec in specs)


def _answered(signature: Signature, job: Job) -> list[TensorSpec]:
    names = job.outputs or signature.default_outputs
    return [spec for spec in signature.outputs if not names or spec.name in names]


def _empty_columns(signature: Signature, job: Job) -> dict[str, Any]:
    """Columns without rows, as the model declares them."""
    made = {}
    for spec in _answered(signature, job):
        kind = _ARROW_OF.get(spec.datatype, pa.string())
        if not _is_scalar(tuple(spec.shape[1:]), spec):
            for _ in spec.shape[1:]:
                kind = pa.list_(kind)
        made[spec.name] = pa.array([], kind)
    return made


_ARROW_OF: Final = {
    "BOOL": pa.bool_(),
    "UINT8": pa.uint8(),
    "UINT16": pa.uint16(),
    "UINT32": pa.uint32(),
    "UINT64": pa.uint64(),
    "INT8": pa.int8(),
    "INT16": pa.int16(),
    "INT32": pa.int32(),
    "INT64": pa.int64(),
    "FP16": pa.float32(),
    "BF16": pa.float32(),
    "FP32": pa.float32(),
    "FP64": pa.float64(),
}


def _assembled(
    batch: pa.RecordBatch, plan: Plan, good: Any, first_row: int, made: dict[str, Any], *, whole: bool
) -> pa.RecordBatch:
    names: list[str] = []
    arrays: list[Any] = []
    if not plan.id_column:
        names.append(f"input_{ROW}" if ROW in made or ROW in plan.keep else ROW)
        arrays.append(pa.array(good + first_row, pa.int64()))
    chosen = None if whole else pa.array(good)
    for name in plan.keep:
        column = batch.column(name)
        names.append(f"input_{name}" if name in made else name)
        arrays.append(column if chosen is None else column.take(chosen))
    names += made
    arrays += made.values()
    return pa.RecordBatch.from_arrays(arrays, names=names)


# -- rejects --


def _reason(error: HeadraceError) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= _REASON else text[: _REASON - 3] + "..."


def kinds(reasons: Counter[str]) -> dict[str, int]:
    """Reasons with what came left out, and how often each was."""
    counted: Counter[str] = Counter()
    for reason, count in reasons.items():
        counted[reason.partition(", came ")[0]] += count
    return dict(counted.most_common())


def _place(file: str, row: int) -> str:
    return f"{file}, row {row}" if file else f"row {row}"


def _id(batch: pa.RecordBatch, plan: Plan, at: int) -> str:
    if not plan.id_column:
        return ""
    value = batch.column(plan.id_column)[at].as_py()
    return "" if value is None else str(value)


def _row_text(batch: pa.RecordBatch, at: int) -> str:
    """The row in JSON, shortened."""
    row = {name: batch.column(index)[at].as_py() for index, name in enumerate(batch.schema.names)}
    text = msgspec.json.encode(row, enc_hook=str).decode()
    return shortened(text)


def shortened(text: str) -> str:
    """As much of a row as a reject shows."""
    return text if len(text) <= _TEXT else text[: _TEXT - 3] + "..."
