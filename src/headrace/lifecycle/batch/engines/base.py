"""A batch job on an engine: cut into tasks here, done there, put together here. The command `batch run` calls `run_on`.

    cut       each file into ranges of some size that begin and end where rows do: Parquet by its row groups, text by
              looking for the ends of rows; what is compressed, and Arrow, is one range
    do        each range on some worker, by `work.work`, into a part beside the output
    assemble  the parts of a file in its order, through the same writer, rejects and manifest as on one machine

So the outputs are those of a job on one machine; the driver streams answers and holds none. Parts are what a job that
was killed goes on from: a task whose part is marked as done is not done again.

    DIRECTORY/_NAME.parts/job.json      what the parts are of
    DIRECTORY/_NAME.parts/000000.json   marks, with answers and rejects beside them
"""

from __future__ import annotations

import contextlib
import importlib
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final, Protocol, Self

import msgspec
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet

from headrace.artifacts import objects as objects_
from headrace.artifacts import uri
from headrace.artifacts.base import Objects
from headrace.artifacts.settings import ArtifactSettings
from headrace.errors import ArtifactNotFound, Conflict, SettingsError, Temporary
from headrace.lifecycle.batch import manifest, source
from headrace.lifecycle.batch.base import Job, Outcome, Predictor, Reject
from headrace.lifecycle.batch.block import Done, Place
from headrace.lifecycle.batch.columns import Plan
from headrace.lifecycle.batch.engines import work
from headrace.lifecycle.batch.engines.work import Cut, Mark, Task
from headrace.lifecycle.batch.file import Report, finished, run_file
from headrace.lifecycle.batch.formats.base import Reader
from headrace.lifecycle.batch.formats.parquet import ParquetReader
from headrace.lifecycle.batch.targets import Target, targets

ENGINES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "spark": "headrace.lifecycle.batch.engines.spark:Spark",
        "ray": "headrace.lifecycle.batch.engines.ray:Ray",
    }
)
"""Scheme to `module:class`, which takes what stands behind `://`."""
TASK_BYTES: Final = 64 << 20
"""Of a file as it is stored, that one task does."""
TICK_SECONDS: Final = 1.0
"""How often engines say that they are still at it."""
_JOB: Final = "job.json"
_CONNECT_SECONDS: Final = 10.0


class Engine(Protocol):
    """Where tasks are done. It is used from one thread."""

    def open(self) -> None:
        """Connect.

        Raises:
            MissingExtra: its library is not installed.
            SettingsError: it cannot be used as it is set up here.
            Temporary: nobody answers there.
        """

    def run(
        self, tasks: Sequence[bytes], *, tick: Callable[[], None], cancel: threading.Event
    ) -> Sequence[bytes] | None:
        """Do each with `work.work`, on workers, more than once if need be, and give what it gave, in order; None: it
        was cancelled.

        Args:
            tasks: As `work.work` takes them.
            tick: Called about each second meanwhile.
            cancel: When set, nothing more is begun, and what is under way is left.

        Raises:
            RuntimeFailed: a task ended its worker again and again.
            Temporary: the engine is gone.
        """

    def close(self) -> None:
        """Let go of it. Twice is once."""


def engine_of(name: str) -> Engine:
    """The engine at an address; open it.

    Args:
        name: `spark://host:port`, `spark://local[2]`, `ray://host:port`, `ray://local`.

    Raises:
        SettingsError: there is no such engine.
    """
    scheme, colon, address = name.partition("://")
    if not colon or scheme not in ENGINES or not address:
        known = ", ".join(f"{each}://HOST:PORT, {each}://local" for each in ENGINES)
        raise SettingsError(f"no engine is called {name!r}; there are local, {known}")
    module, _, made = ENGINES[scheme].partition(":")
    engine: Engine = getattr(importlib.import_module(module), made)(address)
    return engine


def answering(name: str, addresses: str) -> None:
    """Return when one of some `HOST:PORT` takes connections: engines take minutes to say that nobody does.

    Args:
        name: Of the engine, for messages.
        addresses: By commas.

    Raises:
        SettingsError: an address is none.
        Temporary: nobody is there.
    """
    why = ""
    for address in addresses.split(","):
        host, colon, port = address.rpartition(":")
        if not colon or not port.isdecimal():
            raise SettingsError(f"{name}: expected HOST:PORT, got: {address}")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_SECONDS).close()
        except OSError as exc:
            why = exc.strerror or str(exc)
        else:
            return
    raise Temporary(f"{name}: nobody answers at {addresses}: {why}")


def run_on(
    engine: str | Engine,
    job: Job,
    *,
    settings: ArtifactSettings = ArtifactSettings(),
    report: Report | None = None,
    cancel: threading.Event | None = None,
    overwrite: bool = False,
    opener: str = work.OPENER,
    task_bytes: int = TASK_BYTES,
) -> Outcome:
    """Do a job on an engine: as `run.run`, with the same outputs.

    Inputs, output and model must lead to the same files on the driver and on all workers: a store, or a folder that all
    have. Workers need headrace, the libraries of the model, and credentials of their own.

    Args:
        engine: Its address; or one that is open, and stays so.
        job: What is to be done.
        settings: Of stores, here and there.
        report: Told about each second how far it is.
        cancel: When set, the job stops, and is to be gone on with.
        overwrite: Begin anew, whatever stands at the output.
        opener: As of `work.open_predictor`.
        task_bytes: See TASK_BYTES.

    Raises:
        HeadraceError: as of `run.run`, and of `Engine`.
    """
    started = time.monotonic()
    workers = engine_of(engine) if isinstance(engine, str) else engine
    stop = cancel if cancel is not None else threading.Event()
    found = targets(job, settings=settings)
    total = sum(max(0, target.info.size) for target in found)
    predictor = work.open_predictor(job, opener)
    with contextlib.ExitStack() as stack:
        stack.callback(predictor.close)
        files: list[_File] = []
        left = job.limit
        for target in found:
            if job.limit and not left:
                break
            file = _File(target, job, predictor, settings=settings, opener=opener, overwrite=overwrite, limit=left)
            files.append(stack.enter_context(file))
            left = max(0, left - file.prepare(task_bytes))

        def tick() -> None:
            if report is not None:
                for file in files:
                    file.look()
                report(_so_far(files, time.monotonic() - started, interrupted=False), total)

        # do
        tasks = [task for file in files for task in file.todo]
        if tasks and not stop.is_set():
            _do(workers, tasks, tick, stop, is_own=isinstance(engine, str))
        if stop.is_set():
            for file in files:
                file.look()
            return _so_far(files, time.monotonic() - started, interrupted=True)
        # assemble
        done = Outcome()
        for file in files:
            now = run_file(
                job,
                file.target.info,
                file.target.output,
                predictor,
                settings=settings,
                cancel=stop,
                overwrite=overwrite,
                limit=file.limit,
                answers=file.answers,
            )
            if not now.interrupted:
                file.clear()
                if not now.finished_before:
                    now = msgspec.structs.replace(
                        now, resumed_rows=file.resumed_rows, bytes=max(0, file.target.info.size)
                    )
            done = done + now
            if now.interrupted:
                break
        done = msgspec.structs.replace(done, seconds=time.monotonic() - started)
        if report is not None:
            report(done, total)
        return done


def _do(
    engine: Engine, tasks: Sequence[Task], tick: Callable[[], None], cancel: threading.Event, *, is_own: bool
) -> None:
    """Raises the error of the first task that has one."""
    with contextlib.ExitStack() as stack:
        if is_own:
            stack.callback(engine.close)
            engine.open()
        told = engine.run([msgspec.json.encode(task) for task in tasks], tick=tick, cancel=cancel)
    if told is None:
        return
    for data in told:
        mark = msgspec.json.decode(data, type=Mark)
        if mark.error:
            raise work.failure(mark)


def _so_far(files: Sequence[_File], seconds: float, *, interrupted: bool) -> Outcome:
    marks = [mark for file in files for mark in file.marks.values()]
    return Outcome(
        rows=sum(mark.rows for mark in marks),
        answered=sum(mark.answered for mark in marks),
        rejected=sum(mark.rejected for mark in marks),
        files=len(files),
        bytes=sum(file.done_bytes for file in files),
        seconds=seconds,
        resumed_rows=sum(file.resumed_rows for file in files),
        interrupted=interrupted,
    )


class _Kept(msgspec.Struct, frozen=True, kw_only=True):
    """What parts are of."""

    identity: dict[str, str]
    cuts: tuple[Cut, ...]
    rows: int
    """Of the file, where the job has a limit; else 0: nobody has counted."""


class _Where(msgspec.Struct):
    """`block.Place` of a part."""

    end: int
    done_bytes: int
    lines: int


class _File:
    """One file of the job, and its parts. Use it as a context."""

    def __init__(
        self,
        target: Target,
        job: Job,
        predictor: Predictor,
        *,
        settings: ArtifactSettings,
        opener: str,
        overwrite: bool,
        limit: int,
    ) -> None:
        self.target, self.limit = target, limit
        self._job, self._predictor, self._settings = job, predictor, settings
        self._opener, self._overwrite = opener, overwrite
        where, _, name = everywhere(target.output).rstrip("/").rpartition("/")
        self._parts_uri = f"{where}/_{name}.parts"
        self._parts: Objects = objects_.open_objects(self._parts_uri, settings=settings)
        self._cuts: tuple[Cut, ...] = ()
        self.marks: dict[int, Mark] = {}
        """Of the parts that are done, by number."""
        self.resumed_rows = 0
        """Done by runs before this one."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._parts.close()

    @property
    def done_bytes(self) -> int:
        """Of the file as it is stored, about."""
        return max(0, self.target.info.size) * len(self.marks) // max(1, len(self._cuts))

    @property
    def todo(self) -> list[Task]:
        """Tasks that have no mark."""
        job = msgspec.structs.replace(self._job, model=everywhere(self._job.model), inputs=(), output="")
        info = msgspec.structs.replace(self.target.info, uri=everywhere(self.target.info.uri))
        return [
            Task(
                job=job,
                info=info,
                parts=self._parts_uri,
                number=number,
                cut=cut,
                settings=self._settings,
                opener=self._opener,
                model=manifest.model_of(self._predictor),
            )
            for number, cut in enumerate(self._cuts)
            if number not in self.marks
        ]

    # -- cutting --

    def prepare(self, task_bytes: int) -> int:
        """See what is done, and cut the rest; how many rows of the file are wanted, where the job has a limit.

        Raises:
            Conflict: the output, or what an unfinished job left, is another job's.
            InvalidRequest: columns do not fit the model.
            ArtifactFailed: what cannot be read, or written: said before the first row is asked.
        """
        identity = manifest.identity_of(self._job, self.target.info, self._predictor, self.limit)
        kept = self._kept()
        same = kept is not None and kept.identity == identity
        if self._overwrite:
            self.clear()
            kept = None
        elif (done := self._finished(identity, known=kept is not None)) is not None:
            return done.rows
        if kept is not None and not same:
            self._refuse(kept, identity)
            self.clear()
            kept = None
        if kept is None:
            cuts, rows = self._cut(task_bytes)
            kept = _Kept(identity=identity, cuts=cuts, rows=rows)
            self._parts.put(_JOB, msgspec.json.encode(kept))
        self._cuts = kept.cuts
        self.look()
        self.resumed_rows = sum(mark.rows for mark in self.marks.values())
        return kept.rows

    def _kept(self) -> _Kept | None:
        try:
            return msgspec.json.decode(self._parts.read(_JOB), type=_Kept)
        except (ArtifactNotFound, msgspec.MsgspecError):
            return None

    def _finished(self, identity: dict[str, str], *, known: bool) -> Outcome | None:
        where, path = uri.split(self.target.output)
        out = objects_.open_objects(where, settings=self._settings)
        try:
            return finished(out, path, self.target.output, identity, known=known)
        finally:
            out.close()

    def _refuse(self, kept: _Kept, identity: Mapping[str, str]) -> None:
        if any(info.path.endswith(".json") and info.path != _JOB for info in self._parts.list()):
            raise Conflict(
                f"{uri.shown(self.target.output)} was begun by a job that did not finish, and is not the same any more "
                f"({manifest.changed(kept.identity, identity)}): begin anew with --overwrite"
            )

    def _cut(self, task_bytes: int) -> tuple[tuple[Cut, ...], int]:
        info = self.target.info
        with contextlib.ExitStack() as stack:
            file = source.opened(info, self._job, self._settings, stack)
            file.plan(self._job, self._predictor)  # columns that do not fit are told here
            if not self.limit and 0 <= info.size <= task_bytes:
                return (Cut(),), 0
            return _cuts(_pieces(file.reader, self._job.batch_rows, count=bool(self.limit)), task_bytes, self.limit)

    # -- what is done --

    def look(self) -> None:
        """Read marks that are new."""
        for info in self._parts.list():
            stem, dot, suffix = info.path.partition(".")
            if dot and suffix == "json" and stem.isdecimal() and int(stem) not in self.marks:
                self.marks[int(stem)] = msgspec.json.decode(self._parts.read(info.path), type=Mark)

    def answers(self, reader: Reader, plan: Plan) -> Iterator[tuple[Place, Done]]:
        """As of `file.Answers`: the parts, in order."""
        for number in range(len(self._cuts)):
            mark = msgspec.json.decode(self._parts.read(work.mark_name(number)), type=Mark)
            rejects: list[Reject] = []
            if mark.rejected:
                rejects = msgspec.json.decode(self._parts.read(work.rejects_name(number)), type=list[Reject])
            batches = self._batches(number) if mark.answered else iter(())
            yield _Where(mark.end, mark.done_bytes, mark.lines), Done(batches, rejects, mark.rows, mark.answered)

    def _batches(self, number: int) -> Iterator[pa.RecordBatch]:
        with self._parts.open(work.answers_name(number)) as file, pyarrow.ipc.open_stream(file) as stream:
            yield from stream

    def clear(self) -> None:
        """Take the parts away; what says what they are of goes last."""
        found = [info.path for info in self._parts.list()]
        for path in sorted(found, key=lambda path: path == _JOB):
            self._parts.delete(path)
        if uri.is_local(self._parts_uri):
            with contextlib.suppress(OSError):  # a worker that was given up may write into it still
                Path(uri.local_path(self._parts_uri)).rmdir()


def everywhere(name: str) -> str:
    """A uri, or path, that means the same from any folder."""
    path = Path(uri.local_path(name)) if uri.is_local(name) else None
    return name if path is None or (":" in name and not path.exists()) else str(path.absolute())


class _Piece(msgspec.Struct, frozen=True):
    """Of a file, between places where it may be cut."""

    end: int
    bytes: int
    """As it is stored; 0: it may not be cut there."""
    rows: int
    """0: not counted."""


def _pieces(reader: Reader, batch_rows: int, *, count: bool) -> Iterator[_Piece]:
    """Row groups of Parquet, blocks of text. Text that is compressed, and Arrow, are looked at for their rows only."""
    at = 0
    if isinstance(reader, ParquetReader):
        for rows, size in reader.groups:
            at += rows
            yield _Piece(at, size, rows)
        return
    for block in reader.blocks(0, rows=batch_rows):
        whole = reader.format not in source.TEXT or block.done_bytes != block.end  # places are no bytes of the file
        if whole and not count:
            return
        yield _Piece(block.end, 0 if whole else block.end - at, block.parse().count if count else 0)
        at = block.end


def _cuts(pieces: Iterable[_Piece], task_bytes: int, limit: int) -> tuple[tuple[Cut, ...], int]:
    """Ranges of so many bytes, and how many rows they have; with a limit, those that hold the first rows."""
    cuts: list[Cut] = []
    start = end = gathered = rows = before = 0
    for piece in pieces:
        end = piece.end
        rows += piece.rows
        gathered += piece.bytes
        if limit and rows >= limit:
            return (*cuts, Cut(start=start, rows=limit - before)), limit
        if gathered >= task_bytes:
            cuts.append(Cut(start=start, end=end))
            start, gathered, before = end, 0, rows
    if end > start or not cuts:
        cuts.append(Cut(start=start))
    return tuple(cuts), rows
