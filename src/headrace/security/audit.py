"""The audit log: who asked which model what, and what was answered, as digests, in a chain that shows what is missing.

Each line is a JSON object whose `hash` is the SHA-256 of the line before's hash and of its own other members, so that a
line that is changed, left out or put in breaks the chain there (`verify`). What is cut off at the end leaves a chain
that holds: keep the last hash somewhere else (`headrace audit verify` prints it) to notice that, too.

A writer thread appends and syncs, many lines at a time. A query is answered when its line is queued; when the queue is
full or the disk is, queries are refused rather than answered unaudited.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import orjson

from headrace.errors import InvalidRequest, Overloaded, SettingsError
from headrace.payload import Infer, InferenceRequest, InferenceResponse, Tensor

log = logging.getLogger(__name__)

START: Final = "0" * 64
"""What stands for the hash before the first line."""
_WAITING: Final = 10_000
_AT_ONCE: Final = 1000


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One query."""

    time: float
    """Seconds since the epoch."""
    caller: str
    role: str
    model: str
    version: str
    id: str
    inputs: str
    """SHA-256 of names, datatypes, shapes and values."""
    outputs: str
    """As `inputs`; empty: it failed."""
    status: str
    """`ok`, or the class of the error."""


class Audit:
    """The log. `open` it before `add`, and `close` it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._queue: queue.Queue[bytes | None] = queue.Queue(_WAITING)
        self._hash = START
        self._file = -1
        self._thread: threading.Thread | None = None
        self._broken = ""
        self._lock = threading.Lock()
        self.written = 0

    def open(self) -> None:
        """Go on where the log ends. A last line that a kill cut short was never answered for, and is removed.

        Raises:
            SettingsError: the file cannot be written, or its end is no line of ours.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # two writers would make two chains of one
            self._hash = self._last()
        except (OSError, ValueError, KeyError, TypeError) as exc:
            raise SettingsError(f"security.audit_log {self.path}: cannot go on with it: {exc}") from exc
        self._thread = threading.Thread(target=self._write, name="audit", daemon=True)
        self._thread.start()

    def add(self, entry: Entry) -> None:
        """Queue a line.

        Raises:
            Overloaded: too many lines wait, or writing failed; the query must not be answered.
        """
        if self._broken:
            raise Overloaded(f"the audit log cannot be written ({self._broken}), so nothing is answered")
        with self._lock:
            members = msgspec.to_builtins(entry)
            digest = chained(self._hash, members)
            line = orjson.dumps({**members, "hash": digest}) + b"\n"
            try:
                self._queue.put_nowait(line)
            except queue.Full:
                raise Overloaded("the audit log is behind, so nothing is answered for a moment") from None
            self._hash = digest

    def close(self) -> None:
        """Write what waits."""
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
            self._thread = None
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _last(self) -> str:
        size = os.fstat(self._file).st_size
        start = max(0, size - (1 << 16))
        tail = os.pread(self._file, size - start, start)
        whole = tail.rfind(b"\n") + 1
        if whole < len(tail):
            os.ftruncate(self._file, start + whole)
        os.lseek(self._file, 0, os.SEEK_END)
        lines = tail[:whole].splitlines()
        return str(orjson.loads(lines[-1])["hash"]) if lines else START

    def _write(self) -> None:
        ended = False
        while not ended:
            lines = [self._queue.get()]
            with contextlib.suppress(queue.Empty):
                while len(lines) < _AT_ONCE:
                    lines.append(self._queue.get_nowait())
            ended = None in lines
            kept = [line for line in lines if line is not None]
            if not kept or self._broken:
                continue
            try:
                whole = b"".join(kept)
                while whole:
                    whole = whole[os.write(self._file, whole) :]
                os.fsync(self._file)
                self.written += len(kept)
            except OSError as exc:
                self._broken = exc.strerror or str(exc)
                log.exception("audit log %s: audited models answer nothing until a restart", self.path)


def audited(
    infer: Infer, audit: Audit, *, model: str, version: str, caller: Callable[[InferenceRequest], tuple[str, str]]
) -> Infer:
    """The same `Infer`; an answer whose line cannot be queued is not given.

    Args:
        infer: The model.
        audit: The log.
        model: Its name.
        version: Its version.
        caller: Name and role of who asks.
    """

    async def answer(request: InferenceRequest) -> InferenceResponse:
        name, role = caller(request)

        def entry(response: InferenceResponse | None, status: str) -> Entry:
            return Entry(
                time=time.time(),
                caller=name,
                role=role,
                model=model,
                version=version,
                id=request.id or ("" if response is None else response.id),
                inputs=digest_of(request.inputs),
                outputs="" if response is None else digest_of(response.outputs),
                status=status,
            )

        try:
            response = await infer(request)
        except Exception as error:
            audit.add(entry(None, type(error).__name__))
            raise
        audit.add(entry(response, "ok"))
        return response

    return answer


def digest_of(tensors: Sequence[Tensor]) -> str:
    """SHA-256 of tensors, whatever the wire they came by."""
    digest = hashlib.sha256()
    for each in tensors:
        digest.update(orjson.dumps([each.name, each.datatype, list(each.shape)]))
        if each.datatype == "BYTES":
            for item in each.data.ravel():
                if item is None:  # a length that no value has
                    digest.update(b"\xff" * 8)
                    continue
                value = item if isinstance(item, bytes) else str(item).encode()
                digest.update(len(value).to_bytes(8, "little") + value)
        else:
            digest.update(each.data.tobytes())
    return digest.hexdigest()


def chained(before: str, members: dict[str, Any]) -> str:
    """The hash of a line, by the hash of the one before."""
    return hashlib.sha256(before.encode() + orjson.dumps(members, option=orjson.OPT_SORT_KEYS)).hexdigest()


class Checked(msgspec.Struct, frozen=True, kw_only=True):
    """What `verify` found."""

    lines: int
    """That hold."""
    last: str
    """The hash of the last one."""
    first_bad: int | None = None
    """The number of the first line that does not hold, from 1; None: all do."""
    problem: str = ""


def verify(path: Path) -> Checked:
    """Whether the chain holds.

    Raises:
        InvalidRequest: the file cannot be read.
    """
    last, count = START, 0
    try:
        for number, line in enumerate(_lines(path), 1):
            problem, digest = _judge(line, last)
            if problem:
                return Checked(lines=count, last=last, first_bad=number, problem=problem)
            last, count = digest, number
    except OSError as exc:
        raise InvalidRequest(f"audit log {path}: cannot be read: {exc.strerror or exc}") from exc
    return Checked(lines=count, last=last)


def _lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        yield from file


def _judge(line: bytes, last: str) -> tuple[str, str]:
    try:
        members = orjson.loads(line)
        digest = members.pop("hash")
    except (orjson.JSONDecodeError, KeyError, AttributeError, TypeError):
        return "it is no line of an audit log", ""
    if digest != chained(last, members):
        return "it was changed, or a line before it was left out or put in", ""
    return "", digest
