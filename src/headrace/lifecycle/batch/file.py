"""One file of a job: its rows in, answers, rejects and manifest out. Jobs, watchers and functions call `run_file`.

The walk: open, plan, then for each block parse, ask, write, log; publish. One thread cuts the file into blocks, some
parse and ask, the caller's writes, in order.

    OUTPUT                 the answers: there when they are whole
    OUTPUT.rejects.jsonl   rows that have none, and why; where there are such
    OUTPUT.manifest.json   counts, model, input; written last
"""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Final

import msgspec
import pyarrow as pa

from headrace import __version__
from headrace.artifacts import objects as objects_
from headrace.artifacts import uri
from headrace.artifacts.base import ObjectInfo, Objects
from headrace.artifacts.settings import ArtifactSettings
from headrace.errors import ArtifactNotFound, Conflict, InvalidRequest
from headrace.lifecycle.batch import manifest, rows, source
from headrace.lifecycle.batch.base import Job, Outcome, Predictor, Reject
from headrace.lifecycle.batch.block import Done, Place, answer_block, moved
from headrace.lifecycle.batch.columns import Plan
from headrace.lifecycle.batch.formats.base import Block, Reader
from headrace.lifecycle.batch.log import Entry, Log
from headrace.lifecycle.batch.sink import Sink
from headrace.lifecycle.batch.targets import Target, output_format

Report = Callable[[Outcome, int], None]
"""Told after each block: what was done, of all files, and how many bytes there are to be read."""

Answers = Callable[[Reader, Plan], Iterator[tuple[Place, Done]]]
"""Gives the blocks of a file in order, answered elsewhere: by the workers of an engine."""

_AHEAD: Final = 2
"""Blocks for each thread that are read, asked or waiting for their turn."""
_HOPELESS: Final = 16
"""A first block of more rows, none of which can be answered, ends the job: it is not the rows."""


class TooManyRejects(InvalidRequest):
    """More rows are bad than the job allows."""


def run_file(
    job: Job,
    info: ObjectInfo,
    output: str,
    predictor: Predictor,
    *,
    settings: ArtifactSettings = ArtifactSettings(),
    state: Path | None = None,
    report: Report | None = None,
    cancel: threading.Event | None = None,
    overwrite: bool = False,
    limit: int = 0,
    seal_seconds: float = 1.0,
    answers: Answers | None = None,
) -> Outcome:
    """Do one file of a job: its object to one output object. Arguments and errors as of `run`.

    Args:
        job: Its `inputs`, `output` and `limit` are not looked at.
        info: The file; it must still be what this says.
        output: Uri of the answers.
        predictor: Stays open.
        settings: Of stores.
        state: As of `run`.
        report: As of `run`.
        cancel: As of `run`.
        overwrite: As of `run`.
        limit: Rows of this file; 0: all.
        seal_seconds: As of `run`.
        answers: Who answers its blocks; None: this process does.

    Raises:
        ArtifactCorrupt: the file is another one by now, or is damaged; when it was changed, try again with what it is.
    """
    with contextlib.ExitStack() as stack:
        where, path = uri.split(output)
        out = objects_.open_objects(where, settings=settings)
        stack.callback(out.close)
        identity = manifest.identity_of(job, info, predictor, limit)
        log = (
            stack.enter_context(Log(state, uri.shown(output), identity=identity, seal_seconds=seal_seconds))
            if state is not None
            else None
        )
        known = log.look(anew=overwrite) if log is not None else False
        if not overwrite:
            done = finished(out, path, output, identity, known=known)
            if done is not None:
                if log is not None:
                    log.end()
                return done
        entry = log.begin() if log is not None else None
        work = _File(
            job, Target(info, output), predictor, out, path=path, log=log, limit=limit, model=identity["model"]
        )
        try:
            outputs = work.run(settings, entry, identity, report, cancel, answers=answers)
        except rows.Cancelled:
            return work.outcome((), interrupted=True)
        return work.outcome(outputs)


def finished(out: Objects, path: str, output: str, identity: dict[str, str], *, known: bool) -> Outcome | None:
    """What an earlier run has done, all of it; None where there is something to do.

    Raises:
        Conflict: what is there is another job's.
    """
    told = manifest.read(out, path)
    if told is not None and dict(told.identity) == identity:
        outputs = (told.output, *([told.rejects] if told.rejects else []), told.output + manifest.SUFFIX)
        return Outcome(
            rows=told.rows,
            answered=told.answered,
            rejected=told.rejected,
            files=1,
            bytes=max(0, told.input.size),
            resumed_rows=told.rows,
            outputs=outputs,
            finished_before=1,
        )
    if known:
        return None
    shown = uri.shown(output)
    if told is not None:
        changed = manifest.changed(told.identity, identity)
        raise Conflict(f"{shown} is there, from another job ({changed}): write it anew with --overwrite")
    try:
        out.head(path)
    except ArtifactNotFound:
        return None
    raise Conflict(
        f"{shown} is there, and no manifest says that a job wrote it: name another output, or use --overwrite"
    )


class _File:
    """The work of one run on one file."""

    def __init__(
        self,
        job: Job,
        target: Target,
        predictor: Predictor,
        out: Objects,
        *,
        path: str,
        log: Log | None,
        limit: int,
        model: str,
    ) -> None:
        self._job = msgspec.structs.replace(job, on_error="reject")  # bad rows are found out of turn, and told in turn
        self._asked, self._predictor = job, predictor
        self._info, self._output = target.info, target.output
        self._out, self._path, self._log, self._limit, self._model = out, path, log, limit, model
        self._rows = self._lines = self._answered = self._rejected = self._resumed = self._bytes = 0
        self._reasons: Counter[str] = Counter()
        self._last: Entry | None = None
        self._started = time.monotonic()

    def run(
        self,
        settings: ArtifactSettings,
        entry: Entry | None,
        identity: dict[str, str],
        report: Report | None,
        cancel: threading.Event | None,
        *,
        answers: Answers | None,
    ) -> tuple[str, ...]:
        """Uris of what was written. Raises Cancelled, with nothing of it there."""
        began = dt.datetime.now(dt.UTC)
        with contextlib.ExitStack() as stack:
            # open and plan
            file = source.opened(self._info, self._job, settings, stack)
            file.check()
            reader, plan = file.reader, file.plan(self._job, self._predictor)
            # make sure that it can be written
            if not uri.is_local(self._output) and entry is None:
                self._out.probe(self._path)
            published = stack.enter_context(contextlib.ExitStack())
            kind = output_format(self._job, self._output, reader.format)
            sink = Sink(self._out, self._path, kind, published, self._log)
            # what was done before
            start = 0
            if entry is not None and self._log is not None:
                start = self._restore(entry, sink)
            # block by block
            stopped = cancel if cancel is not None else threading.Event()
            try:
                if answers is None:
                    self._blocks(reader, plan, sink, start=start, report=report, cancel=stopped)
                else:
                    self._elsewhere(answers(reader, plan), reader.header_lines + 1, sink, report, stopped)
            except rows.Cancelled:
                if self._log is not None and self._last is not None:
                    self._log.seal(self._last, now=True)
                raise
            file.check()
            if not sink.settled:
                sink.write(rows.answer(file.no_rows(), self._job, self._predictor, plan=plan)[0])
            # publish
            sink.close()
            published.close()
            return self._publish(sink, plan, identity, began)

    def _restore(self, entry: Entry, sink: Sink) -> int:
        assert self._log is not None
        for batches, rejects in self._log.parts():
            for batch in batches:
                sink.write(batch)
            sink.reject(rejects)
        self._rows = self._resumed = entry.rows
        self._lines, self._answered, self._rejected = entry.lines, entry.answered, entry.rejected
        self._bytes, self._reasons = entry.done_bytes, Counter(entry.reasons)
        return entry.end

    def _blocks(
        self,
        reader: Reader,
        plan: Plan,
        sink: Sink,
        *,
        start: int,
        report: Report | None,
        cancel: threading.Event,
    ) -> None:
        """Answer what there is from a place on. Raises Cancelled."""
        threads = self._job.threads or len(os.sched_getaffinity(0))
        window = 1 if self._limit else threads * _AHEAD
        first_line = reader.header_lines + 1
        waiting: deque[tuple[Block, Future[Done]]] = deque()
        stop = threading.Event()
        blocks = reader.blocks(start, rows=self._job.batch_rows)

        with ThreadPoolExecutor(threads, thread_name_prefix="headrace-batch") as pool:
            try:
                for block in blocks:
                    left = self._limit - self._rows if self._limit else 0
                    if cancel.is_set() or (self._limit and left <= 0):
                        break
                    probe = not self._answered
                    asked = pool.submit(
                        answer_block,
                        block,
                        plan,
                        self._job,
                        self._predictor,
                        model=self._model,
                        left=left,
                        probe=probe,
                        cancel=Either(cancel, stop),
                    )
                    waiting.append((block, asked))
                    while len(waiting) >= window and not cancel.is_set():
                        first, answered = waiting.popleft()
                        self._collect(first, answered.result(), first_line, sink, report)
                while waiting and not cancel.is_set():
                    first, answered = waiting.popleft()
                    self._collect(first, answered.result(), first_line, sink, report)
                if cancel.is_set():
                    raise rows.Cancelled
            finally:
                stop.set()
                for _, future in waiting:
                    future.cancel()

    def _elsewhere(
        self,
        answers: Iterator[tuple[Place, Done]],
        first_line: int,
        sink: Sink,
        report: Report | None,
        cancel: threading.Event,
    ) -> None:
        """Take what others answered. Raises Cancelled."""
        for place, done in answers:
            if cancel.is_set():
                raise rows.Cancelled
            self._collect(place, done, first_line, sink, report)

    def _collect(self, block: Place, done: Done, first_line: int, sink: Sink, report: Report | None) -> None:
        """Write a block in its turn."""
        rejects = [
            msgspec.structs.replace(
                each,
                file=self._info.uri,
                row=each.row + self._rows,
                line=each.line + self._lines + first_line - 1 if each.line else 0,
            )
            for each in done.rejects
        ]
        self._judge(done, rejects)
        for batch in done.batches:
            written = sink.write(batch if self._job.id_column else moved(batch, self._rows))
            if self._log is not None:
                self._log.add(written, [])
        sink.reject(rejects)
        self._rows += done.rows
        self._lines += block.lines
        self._answered += done.answered
        self._rejected += len(rejects)
        self._reasons.update(rows.kinds(Counter(each.reason for each in rejects)))
        self._bytes = block.done_bytes
        if self._log is not None:
            self._log.add(_NOTHING, rejects)
            self._last = Entry(
                end=block.end,
                rows=self._rows,
                lines=self._lines,
                answered=self._answered,
                rejected=self._rejected,
                done_bytes=self._bytes,
                reasons=dict(self._reasons),
            )
            self._log.seal(self._last)
        if report is not None:
            report(self.outcome(()), self._info.size)

    def _judge(self, done: Done, rejects: Sequence[Reject]) -> None:
        """Raises InvalidRequest where rejects end the job."""
        if not rejects:
            return
        first = rejects[0]
        place = f"{first.file}, row {first.row}" + (f" (line {first.line})" if first.line else "")
        if self._asked.on_error == "fail":
            raise InvalidRequest(f"{place}: {first.reason}")
        if not done.answered and not self._answered and not self._rows and done.rows > _HOPELESS:
            raise InvalidRequest(f"none of the first {done.rows} rows can be answered; {place}: {first.reason}")
        if self._asked.max_rejects and self._rejected + len(rejects) > self._asked.max_rejects:
            raise TooManyRejects(
                f"more than {self._asked.max_rejects} rows are bad, as --max-rejects has it; {place}: {first.reason}"
            )

    def _publish(self, sink: Sink, plan: Plan, identity: dict[str, str], began: dt.datetime) -> tuple[str, ...]:
        output = uri.shown(self._output)
        if not sink.rejected and uri.is_local(self._output):
            self._out.delete(self._path + manifest.REJECTS)
        rejects = output + manifest.REJECTS if sink.rejected else ""
        told = manifest.Manifest(
            headrace=__version__,
            identity=identity,
            model=manifest.Model(
                uri=uri.shown(self._asked.model),
                name=self._predictor.name,
                version=self._predictor.version,
                digest=self._predictor.digest,
                server=uri.shown(self._asked.url),
            ),
            input=manifest.Input(uri=self._info.uri, etag=self._info.etag, size=self._info.size),
            output=output,
            rejects=rejects,
            rows=self._rows,
            answered=self._answered,
            rejected=self._rejected,
            rejected_by_reason=dict(self._reasons.most_common(100)),
            resumed_rows=self._resumed,
            columns={feed.tensor: feed.columns for feed in plan.feeds},
            job=manifest.shown(self._asked),
            started=began.isoformat(timespec="milliseconds"),
            finished=dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds"),
            seconds=round(time.monotonic() - self._started, 3),
        )
        self._out.put(self._path + manifest.SUFFIX, manifest.render(told))
        if self._log is not None:
            self._log.end()
        return (output, *([rejects] if rejects else []), output + manifest.SUFFIX)

    def outcome(self, outputs: tuple[str, ...], *, interrupted: bool = False) -> Outcome:
        """What was done so far."""
        return Outcome(
            rows=self._rows,
            answered=self._answered,
            rejected=self._rejected,
            files=1,
            bytes=self._bytes,
            seconds=time.monotonic() - self._started,
            resumed_rows=self._resumed,
            outputs=outputs,
            interrupted=interrupted,
        )


_NOTHING: Final = pa.RecordBatch.from_pylist([], schema=pa.schema([]))


class Either:
    """Two events as one."""

    def __init__(self, one: threading.Event, other: threading.Event) -> None:
        self._one, self._other = one, other

    def wait(self, seconds: float) -> bool:
        """Whether one of them is set within a time; the second is looked at now and then."""
        deadline = time.monotonic() + seconds
        while not (self._one.is_set() or self._other.is_set()):
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            self._one.wait(min(left, 0.2))
        return True
