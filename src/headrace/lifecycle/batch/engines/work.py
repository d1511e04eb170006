"""One task: a range of a file, answered into a part. It runs in a worker process of an engine.

A part is a file of answers (`NUMBER.arrow`), one of rejects (`NUMBER.rejects`), and a mark (`NUMBER.json`), which is
written last, so a part with a mark is whole. A task that is done twice writes the same files again, each at once.

The workers read files themselves, by the reader that a job on one machine has, and not by the engine's: so types, bad
rows, and their numbers and lines are the same by construction, and a quoted line break is no end of a row.
"""

from __future__ import annotations

import contextlib
import importlib
import threading
from collections.abc import Callable
from typing import Any, Final

import msgspec
import pyarrow as pa
import pyarrow.ipc

from headrace import __version__
from headrace import errors as errors_
from headrace.artifacts import objects as objects_
from headrace.artifacts import uri
from headrace.artifacts.base import ObjectInfo, Objects
from headrace.artifacts.settings import ArtifactSettings
from headrace.errors import Conflict, HeadraceError
from headrace.lifecycle.batch import manifest, source
from headrace.lifecycle.batch.base import Job, Predictor, Reject
from headrace.lifecycle.batch.block import answer_block, moved
from headrace.lifecycle.batch.sink import conformed

OPENER: Final = "headrace.offline:open_model"
"""Opens a model by its path or uri; by name, since this room may not import it."""


class Cut(msgspec.Struct, frozen=True, kw_only=True):
    """A range of a file."""

    start: int = 0
    """Where the first block begins, as `formats.base.Block.end` counts."""
    end: int = -1
    """Where the last one ends; -1: with the file."""
    rows: int = 0
    """That are wanted at most, from the first; 0: all."""


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker gets, as JSON."""

    job: Job
    info: ObjectInfo
    """The file; it must still be what this says."""
    parts: str
    """Uri of the folder that the part is written to."""
    number: int
    """Of the part."""
    cut: Cut
    settings: ArtifactSettings
    opener: str
    model: str
    """As of `manifest.model_of`, as the driver sees it."""
    version: str = __version__


class Mark(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a task."""

    rows: int = 0
    lines: int = 0
    answered: int = 0
    rejected: int = 0
    end: int = 0
    done_bytes: int = 0
    error: str = ""
    """Class, of `headrace.errors`, of what ended it; empty: it is done."""
    text: str = ""


def work(data: bytes) -> bytes:
    """Do a task, and say what became of it. What is no error of ours is raised: the engine may try again.

    Args:
        data: A `Task`, as JSON.

    Returns:
        A `Mark`, as JSON.
    """
    task = msgspec.json.decode(data, type=Task)
    try:
        mark = _done(task)
    except HeadraceError as exc:
        known = next(kind for kind in type(exc).__mro__ if kind.__module__ == errors_.__name__)  # rooms have their own
        mark = Mark(error=known.__name__, text=str(exc))
    return msgspec.json.encode(mark)


def failure(mark: Mark) -> HeadraceError:
    """The error of a task, of the class that its mark says."""
    kind: type[HeadraceError] = getattr(errors_, mark.error)
    return kind(mark.text)


def answers_name(number: int) -> str:
    """Of a part, in the folder of parts."""
    return f"{number:06d}.arrow"


def rejects_name(number: int) -> str:
    """Of a part, in the folder of parts."""
    return f"{number:06d}.rejects"


def mark_name(number: int) -> str:
    """Of a part, in the folder of parts."""
    return f"{number:06d}.json"


# -- one task --


def _done(task: Task) -> Mark:
    if task.version != __version__:
        raise Conflict(
            f"the worker has headrace {__version__}, the driver {task.version}: install the same version on both"
        )
    predictor = _opened(task)
    with contextlib.ExitStack() as stack:
        parts = objects_.open_objects(task.parts, settings=task.settings)
        stack.callback(parts.close)
        file = source.opened(task.info, task.job, task.settings, stack, end=task.cut.end)
        file.check()
        plan = file.plan(task.job, predictor)
        job = msgspec.structs.replace(task.job, on_error="reject")  # the driver judges, in the order of the file
        rows = lines = answered = 0
        rejects: list[Reject] = []
        cut = task.cut
        end, done_bytes = cut.start, 0
        with contextlib.ExitStack() as published:
            part = _Part(parts, task.number, published)
            for block in file.reader.blocks(cut.start, rows=job.batch_rows):
                done = answer_block(
                    block,
                    plan,
                    job,
                    predictor,
                    model=task.model,
                    left=cut.rows - rows if cut.rows else 0,
                    probe=not answered,
                )
                for batch in done.batches:
                    part.write(batch if job.id_column else moved(batch, rows))
                rejects += [
                    msgspec.structs.replace(each, row=each.row + rows, line=each.line + lines if each.line else 0)
                    for each in done.rejects
                ]
                rows, lines, answered = rows + done.rows, lines + block.lines, answered + done.answered
                end, done_bytes = block.end, block.done_bytes
                if 0 <= cut.end <= end or (cut.rows and rows >= cut.rows):
                    break
        file.check()
        if rejects:
            parts.put(rejects_name(task.number), msgspec.json.encode(rejects))
        mark = Mark(rows=rows, lines=lines, answered=answered, rejected=len(rejects), end=end, done_bytes=done_bytes)
        parts.put(mark_name(task.number), msgspec.json.encode(mark))
        return mark


class _Part:
    """The answers of a task; there when the stack is closed well, and not at all where there are none."""

    def __init__(self, parts: Objects, number: int, stack: contextlib.ExitStack) -> None:
        self._parts, self._name, self._stack = parts, answers_name(number), stack
        self._writer: Any = None
        self._schema: pa.Schema | None = None

    def write(self, batch: pa.RecordBatch) -> None:
        """Add rows."""
        if not batch.num_rows:
            return
        if self._schema is None:
            file = self._stack.enter_context(self._parts.write(self._name))
            self._schema = batch.schema
            self._writer = self._stack.enter_context(pyarrow.ipc.new_stream(file, batch.schema))
        elif not batch.schema.equals(self._schema):
            batch = conformed(batch, self._schema)
        self._writer.write_batch(batch)


# -- one model for each process --


_open_lock: Final = threading.Lock()
_open: Final[dict[bytes, Predictor]] = {}


def _opened(task: Task) -> Predictor:
    """The model, loaded at the first task of a process and kept: a cluster's process does many tasks of a job."""
    job = task.job
    key = msgspec.json.encode([task.opener, job.model, job.url, job.version, task.model])
    with _open_lock:
        known = _open.get(key)
        if known is not None:
            return known
        for old in list(_open):
            _open.pop(old).close()
        predictor = open_predictor(job, task.opener)
        if manifest.model_of(predictor) != task.model:
            found = manifest.model_of(predictor)
            predictor.close()
            raise Conflict(
                f"the worker's model {uri.shown(job.model)} is {found}, the driver's is {task.model}: the same path or "
                "uri must lead to the same model on all machines"
            )
        _open[key] = predictor
        return predictor


def open_predictor(job: Job, opener: str = OPENER) -> Predictor:
    """Who answers a job: the model, loaded here, or the one of a server.

    Args:
        job: Says which.
        opener: `module:function` that loads a model from its path or uri.
    """
    if job.url:
        from headrace.lifecycle.batch.remote import open_remote

        return open_remote(job)
    module, _, function = opener.partition(":")
    load: Callable[..., Predictor] = getattr(importlib.import_module(module), function)
    return load(job.model, settings=job.model_settings)
