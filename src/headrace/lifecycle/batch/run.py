"""A batch job on this machine: files in, answers, rejects and manifests out.

The command `batch run`, watchers and functions call it. The walk of a file: open, plan, then for each block parse, ask,
write, log; publish. One thread cuts the file into blocks, some parse and ask, the caller's writes, in order.

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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, Final, Protocol

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from headrace import __version__
from headrace.artifacts import objects as objects_
from headrace.artifacts import uri
from headrace.artifacts.objects import ObjectInfo, Objects
from headrace.artifacts.settings import ArtifactSettings
from headrace.errors import ArtifactCorrupt, ArtifactNotFound, Conflict, InvalidRequest
from headrace.lifecycle.batch import columns, formats, manifest, rows
from headrace.lifecycle.batch.base import Failure, Format, Job, Outcome, Predictor, Reject
from headrace.lifecycle.batch.columns import Plan
from headrace.lifecycle.batch.formats import Block, Compression, Reader, Table
from headrace.lifecycle.batch.log import Entry, Log

Report = Callable[[Outcome, int], None]
"""Told after each block: what was done, of all files, and how many bytes there are to be read."""

_DEFAULTS: Final = ArtifactSettings()
_AHEAD: Final = 2
"""Blocks for each thread that are read, asked or waiting for their turn."""
_HOPELESS: Final = 16
"""A first block of more rows, none of which can be answered, ends the job: it is not the rows."""


class Target(msgspec.Struct, frozen=True):
    """A file, and where its answers go."""

    info: ObjectInfo
    output: str


class TooManyRejects(InvalidRequest):
    """More rows are bad than the job allows."""


def run(
    job: Job,
    *,
    open_predictor: Callable[[Job], Predictor],
    settings: ArtifactSettings = _DEFAULTS,
    state: Path | None = None,
    report: Report | None = None,
    cancel: threading.Event | None = None,
    overwrite: bool = False,
    seal_seconds: float = 1.0,
) -> Outcome:
    """Do a job: each of its files, one after the other. Of several files, one that cannot be read, or whose columns do
    not fit, holds up no other, unless bad rows end the job, too (`Job.on_error`).

    Args:
        job: What is to be done.
        open_predictor: Loads the model, once; it is closed here.
        settings: Of stores.
        state: Folder of what is half done, on this machine; None: a job that is killed begins anew.
        report: Told how far it is.
        cancel: When set, the job stops at a block, and is to be gone on with.
        overwrite: Begin anew, whatever stands at the output.
        seal_seconds: As of `log.Log`.

    Raises:
        InvalidRequest: columns do not fit the model, no row can be answered, or too many cannot.
        Conflict: the output is there and is another job's.
        ArtifactFailed: what is read or written; said before the first row is asked where it can be.
        RuntimeFailed: the model's fault, not the rows'.
        Temporary: the server did not come back.
    """
    found = targets(job, settings=settings)
    total = sum(max(0, target.info.size) for target in found)
    done = Outcome()
    predictor = open_predictor(job)
    try:
        for target in found:
            before = done

            def heed(now: Outcome, _: int, before: Outcome = before) -> None:
                if report is not None:
                    report(added(before, now), total)

            limit = max(0, job.limit - done.rows)
            if job.limit and not limit:
                break
            try:
                now = run_file(
                    job,
                    target.info,
                    target.output,
                    predictor,
                    settings=settings,
                    state=state,
                    report=heed,
                    cancel=cancel,
                    overwrite=overwrite,
                    limit=limit,
                    seal_seconds=seal_seconds,
                )
            except (InvalidRequest, ArtifactCorrupt) as error:
                if len(found) == 1 or job.on_error == "fail" or isinstance(error, TooManyRejects):
                    raise
                now = Outcome(failures=(Failure(file=uri.shown(target.info.uri), reason=str(error)),))
                if len(done.failures) + 1 == len(found):  # then it is not the files that are odd
                    raise
            done = added(done, now)
            if now.interrupted:
                break
    finally:
        predictor.close()
    return done


def added(one: Outcome, other: Outcome) -> Outcome:
    """What two parts of a job have done together."""
    return Outcome(
        rows=one.rows + other.rows,
        answered=one.answered + other.answered,
        rejected=one.rejected + other.rejected,
        files=one.files + other.files,
        bytes=one.bytes + other.bytes,
        seconds=one.seconds + other.seconds,
        resumed_rows=one.resumed_rows + other.resumed_rows,
        outputs=one.outputs + other.outputs,
        finished_before=one.finished_before + other.finished_before,
        interrupted=one.interrupted or other.interrupted,
        failures=one.failures + other.failures,
    )


# -- which files --


def targets(job: Job, *, settings: ArtifactSettings = _DEFAULTS) -> list[Target]:
    """The files of a job, and where the answers of each go.

    Of folders and globs, files whose name begins with `.` or `_` are left out, and what jobs have written: rejects,
    manifests, all that is below the output.

    Raises:
        InvalidRequest: two files would have one output, or there is no input.
        ArtifactNotFound: an input is not there.
        ArtifactFailed: one of its other causes.
    """
    found: list[Target] = []
    folder = job.output.endswith("/") or len(job.inputs) > 1 or _is_folder(job.output)
    for name in job.inputs:
        infos = objects_.expand(name, settings=settings)
        _, path = objects_.split_uri(name)
        lone = len(infos) == 1 and infos[0].path == path
        base = uri.static_part(path) if uri.is_glob(path) else path
        for info in infos:
            if lone and not folder:
                found.append(Target(info, job.output))
                continue
            relative = (
                info.path.removeprefix(base.rstrip("/")).lstrip("/") if not lone else info.path.rpartition("/")[2]
            )
            if not lone and (_is_left_out(relative) or _is_below(info.uri, job.output)):
                continue
            relative = relative or info.path.rpartition("/")[2]
            found.append(Target(info, f"{job.output.rstrip('/')}/{_output_name(relative, job)}"))
        if not any(target.info in infos for target in found):
            raise ArtifactNotFound(f"{uri.shown(name)}: no file of rows is there, of {len(infos)} files")
    if not found:
        raise InvalidRequest("the job names no input: expected a file, a glob, a folder or a prefix")
    counts = Counter(target.output for target in found)
    twice, count = counts.most_common(1)[0]
    if count > 1:
        raise InvalidRequest(
            f"{count} inputs have one output, {uri.shown(twice)}: give them a job each, or name the folder above them"
        )
    return found


def _is_folder(output: str) -> bool:
    return uri.is_local(output) and Path(uri.local_path(output)).is_dir()


def _is_left_out(path: str) -> bool:
    parts = path.split("/")
    return any(part.startswith((".", "_")) for part in parts) or path.endswith((manifest.SUFFIX, manifest.REJECTS))


def _is_below(name: str, output: str) -> bool:
    if uri.is_local(name) != uri.is_local(output):
        return False
    if uri.is_local(name):
        return Path(uri.local_path(name)).resolve().is_relative_to(Path(uri.local_path(output)).resolve())
    return uri.shown(name).startswith(uri.shown(output).rstrip("/") + "/")


def _output_name(path: str, job: Job) -> str:
    if job.output_format == "auto":
        return path if formats.format_of(path)[0] else f"{path}.answers"
    return formats.stem_of(path) + formats.SUFFIX_OF[job.output_format]


def output_format(job: Job, output: str, input_kind: Format) -> tuple[Format, Compression]:
    """Of an output: what the job says, else its suffix, else as the input."""
    kind, compression = formats.format_of(output)
    if job.output_format != "auto":
        return job.output_format, compression
    return kind or input_kind, compression


# -- one file --


def run_file(
    job: Job,
    info: ObjectInfo,
    output: str,
    predictor: Predictor,
    *,
    settings: ArtifactSettings = _DEFAULTS,
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
        where, path = objects_.split_uri(output)
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
        work = _File(job, Target(info, output), predictor, out, path=path, log=log, limit=limit)
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
        changed = [
            f"its {name} was {was}, is {identity.get(name)}"
            for name, was in told.identity.items()
            if was != identity.get(name)
        ]
        raise Conflict(f"{shown} is there, from another job ({'; '.join(changed)}): write it anew with --overwrite")
    try:
        out.head(path)
    except ArtifactNotFound:
        return None
    raise Conflict(
        f"{shown} is there, and no manifest says that a job wrote it: name another output, or use --overwrite"
    )


def _opened(info: ObjectInfo, job: Job, settings: ArtifactSettings, stack: contextlib.ExitStack) -> Reader:
    where, path = objects_.split_uri(info.uri)
    source = objects_.open_objects(where, settings=settings)
    stack.callback(source.close)
    return formats.open_reader(stack.enter_context(source.open(path)), info.uri, job.input_format, names=job.names)


def planned(info: ObjectInfo, job: Job, predictor: Predictor, reader: Reader) -> Plan:
    """What the columns of a file are for; the reader reads those from here on."""
    try:
        plan = columns.plan(job, predictor.signature, reader.schema)
    except InvalidRequest as exc:
        raise InvalidRequest(f"{info.uri}: {exc}{_of_no_header(job, predictor, reader)}") from exc
    texts = frozenset(name for feed in plan.feeds if feed.datatype == "BYTES" for name in feed.columns)
    reader.want(plan.used, texts)
    return plan


def _of_no_header(job: Job, predictor: Predictor, reader: Reader) -> str:
    """What to try where the first line of a CSV file has none of the names that are looked for."""
    looked_for = {job.id_column, *job.keep, *(each.name for each in predictor.signature.inputs)}
    looked_for.update(name for each in job.columns.values() for name in each)
    if reader.format != "csv" or job.names or not looked_for.isdisjoint(reader.schema.names):
        return ""
    return "; where its first line is a row already, and no names, give the names by --names"


def _none(reader: Reader) -> pa.RecordBatch:
    """No rows of a file."""
    return pa.RecordBatch.from_pylist([], schema=reader.schema)


class Done(msgspec.Struct):
    """A block, answered."""

    batches: Iterable[pa.RecordBatch]
    rejects: list[Reject]
    """Rows and lines count from the first of the block."""
    rows: int
    answered: int


class Place(Protocol):
    """Of a block in its file: `formats.Block` is one."""

    end: int
    done_bytes: int

    @property
    def lines(self) -> int:
        """Of text."""


Answers = Callable[[Reader, Plan], Iterator[tuple[Place, Done]]]
"""Gives the blocks of a file in order, answered elsewhere: by the workers of an engine."""


def answer_block(
    block: Block,
    plan: Plan,
    job: Job,
    predictor: Predictor,
    *,
    left: int = 0,
    probe: bool = False,
    cancel: rows.Pause | None = None,
) -> Done:
    """A block parsed and asked; by any thread. Raises as `rows.answer`.

    Args:
        block: Of a file.
        plan: Of the file.
        job: Bad rows are rejects if it says so.
        predictor: Who answers.
        left: Rows that are wanted at most; 0: all.
        probe: As of `rows.answer`.
        cancel: As of `rows.answer`.
    """
    table = block.parse()
    if left and table.count > left:
        table = _first(table, left)
    batches, rejects, answered = [], [], 0
    positions = table.positions() if table.faults else None
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
    rejects += [Reject(file="", row=fault.row, reason=fault.reason) for fault in table.faults]
    if rejects:
        rejects.sort(key=lambda each: each.row)
        originals = block.originals()
        if originals:
            rejects = [_as_it_stood(each, originals) for each in rejects]
    return Done(batches, rejects, table.count, answered)


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
    ) -> None:
        self._job = msgspec.structs.replace(job, on_error="reject")  # bad rows are found out of turn, and told in turn
        self._asked, self._predictor = job, predictor
        self._info, self._output = target.info, target.output
        self._out, self._path, self._log, self._limit = out, path, log, limit
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
            where, path = objects_.split_uri(self._info.uri)
            source = objects_.open_objects(where, settings=settings)
            stack.callback(source.close)
            reader = _opened(self._info, self._job, settings, stack)
            self._same(source, path)
            plan = planned(self._info, self._job, self._predictor, reader)
            # make sure that it can be written
            if not uri.is_local(self._output) and entry is None:
                self._out.put(self._path + manifest.REJECTS, b"")
            published = stack.enter_context(contextlib.ExitStack())
            kind = output_format(self._job, self._output, reader.format)
            sink = _Sink(self._out, self._path, kind, published, self._log)
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
            self._same(source, path)
            if not sink.settled:
                sink.write(rows.answer(_none(reader), self._job, self._predictor, plan=plan)[0])
            # publish
            sink.close()
            published.close()
            return self._publish(sink, plan, identity, began)

    def _same(self, source: Objects, path: str) -> None:
        now = source.head(path)
        if (now.etag, now.size) != (self._info.etag, self._info.size):
            raise ArtifactCorrupt(f"{self._info.uri} has changed since the job began: run it again when it is written")

    def _restore(self, entry: Entry, sink: _Sink) -> int:
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
        sink: _Sink,
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
                        left=left,
                        probe=probe,
                        cancel=_Either(cancel, stop),
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
        sink: _Sink,
        report: Report | None,
        cancel: threading.Event,
    ) -> None:
        """Take what others answered. Raises Cancelled."""
        for place, done in answers:
            if cancel.is_set():
                raise rows.Cancelled
            self._collect(place, done, first_line, sink, report)

    def _collect(self, block: Place, done: Done, first_line: int, sink: _Sink, report: Report | None) -> None:
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

    def _publish(self, sink: _Sink, plan: Plan, identity: dict[str, str], began: dt.datetime) -> tuple[str, ...]:
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


class _Either:
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


class _Sink:
    """The answers and rejects of a file, written as they come; there when the stack is closed well."""

    def __init__(
        self, out: Objects, path: str, kind: tuple[Format, Compression], stack: contextlib.ExitStack, log: Log | None
    ) -> None:
        self._out, self._path, self._stack, self._log = out, path, stack, log
        self._rejects: BinaryIO | None = None
        self._temporary: list[str] = []
        self._writer = formats.open_writer(self._opened(path), *kind)
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


def _first(table: Table, count: int) -> Table:
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


# -- what would be done --


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


def sketch(job: Job, *, open_predictor: Callable[[Job], Predictor], settings: ArtifactSettings = _DEFAULTS) -> Sketch:
    """What a job would do. Nothing is written; the first rows of the first file are asked. Raises as `run`."""
    found = targets(job, settings=settings)
    predictor = open_predictor(job)
    try:
        files: list[SketchedFile] = []
        told: tuple[Plan, Reader, Table] | None = None
        for target in found:
            with contextlib.ExitStack() as stack:
                reader = _opened(target.info, job, settings, stack)
                files.append(
                    SketchedFile(
                        input=target.info.uri,
                        bytes=max(0, target.info.size),
                        format=reader.format,
                        output=uri.shown(target.output),
                    )
                )
                plan = planned(target.info, job, predictor, reader)
                if told is None:
                    block = next(iter(reader.blocks(0, rows=_SAMPLE)), None)
                    table = Table(_none(reader), 0) if block is None else _first(block.parse(), _SAMPLE)
                    told = plan, reader, table
        if told is None:
            raise InvalidRequest("the job names no input")
        plan, reader, table = told
        batch, rejects = rows.answer(table.rows, job, predictor, plan=plan, file=found[0].info.uri)
        faulty = [Reject(file=found[0].info.uri, row=fault.row, reason=fault.reason) for fault in table.faults]
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
