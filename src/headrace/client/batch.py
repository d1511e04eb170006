"""A file of requests to a file of answers: read -> ask with bounded concurrency -> write, resumable by position.

`headrace infer` and `headrace mlserver infer` call `run`. Lines are read as there is room, a fixed number of
connections ask (each line, or several merged), and answers wait in a bounded window for their line's place.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import os
import random
import signal
import stat
import threading
import time
import uuid
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from email.utils import parsedate_to_datetime
from pathlib import Path
from types import MappingProxyType
from typing import Final

import msgspec

from headrace.client import lines
from headrace.client.channel import Answer, Channel, NotConnected, Target, header_lines, header_value
from headrace.client.http import error_text, model_path
from headrace.client.journal import HEAD_BYTES, Sink
from headrace.client.lines import Line
from headrace.errors import HeadraceError, InvalidRequest, ModelNotFound, ModelNotReady, RuntimeFailed, Temporary

TEMPORARY: Final = frozenset({408, 429, 502, 503, 504})
"""Statuses after which the same request is sent again."""

_LONGEST_PAUSE_SECONDS: Final = 30.0
_LONGEST_HEEDED_SECONDS: Final = 600.0
"""The longest Retry-After that is waited for."""

_HELD_BYTES: Final = 256 << 20
"""Bytes of lines read and answers waiting for their place; reading pauses above."""

_CHUNK_BYTES: Final = 1 << 18
_LONE_BYTES: Final = 64 << 20
"""The largest file that is looked at as one JSON value over several lines."""


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How a batch is asked."""

    model: str
    version: str = ""
    """Empty: the default version."""
    workers: int = 10
    """Requests in flight."""
    batch_size: int = 1
    """Consecutive lines that may go as one request."""
    retries: int = 3
    """Further tries of a request that failed for a while: 408, 429, 502, 503, 504, a time-out, a broken connection."""
    pause_seconds: float = 0.5
    """Before the second try; doubled before each further one, up to 30 s, with jitter."""
    timeout_seconds: float = 60.0
    """For one try."""
    interval_seconds: float = 0.0
    """The least time between two requests of one worker."""
    jitter_seconds: float = 0.0
    """The most that is added to the interval, at random."""
    binary: bool = False
    """Whether tensors travel as bytes (Triton's extension)."""
    headers: Mapping[str, str] = MappingProxyType({})
    ordered: bool = True
    """Whether answers are written in the order of the lines; else as they come."""
    window: int = 0
    """Lines read beyond the oldest that has no answer; 0: enough to keep the workers busy."""


class Progress(msgspec.Struct, frozen=True):
    """How far a batch is."""

    answered: int
    """Lines with an answer, in this run."""
    failed: int
    skipped: int
    """Lines that had an answer before."""
    retries: int
    bytes_done: int
    """Of the input."""
    bytes_total: int
    """0 where it is not known."""
    seconds: float


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """What a batch did. Latencies are those of answered requests, in milliseconds, within 3 %."""

    answered: int
    failed: int
    skipped: int
    failed_before: int
    """Of the skipped lines, those whose answer is a failure."""
    requests: int
    retries: int
    seconds: float
    lines_per_second: float
    latency_ms: Mapping[str, float]
    interrupted: bool
    notes: tuple[str, ...] = ()


class Source:
    """The input: lines of a file or a pipe. `open` it, then read `lines` once."""

    def __init__(self, path: str) -> None:
        """Store; `-` is standard input."""
        self.path = path
        self.head = b""
        """How it begins: what tells one input from another."""
        self.total = 0
        """Its bytes; 0 where they are not known."""
        self._fd = -1
        self._waits = False
        self._lone = b""
        self._first = b""

    def open(self) -> None:
        """Open it and read its beginning.

        Raises:
            InvalidRequest: it cannot be read.
        """
        try:
            self._fd = 0 if self.path == "-" else os.open(self.path, os.O_RDONLY)
            kind = os.fstat(self._fd)
            self._waits = stat.S_ISFIFO(kind.st_mode) or stat.S_ISSOCK(kind.st_mode) or os.isatty(self._fd)
            self.total = kind.st_size if stat.S_ISREG(kind.st_mode) else 0
            # A pipe's beginning is its first line: more may be long in coming.
            while len(self._first) < HEAD_BYTES and not (self._waits and b"\n" in self._first):
                chunk = os.read(self._fd, HEAD_BYTES)
                if not chunk:
                    break
                self._first += chunk
        except OSError as exc:
            self.close()
            raise InvalidRequest(f"cannot read the input {self.path}: {exc.strerror or exc}") from exc
        self.head = self._first[:HEAD_BYTES]
        if self._waits:
            self.head = self.head.partition(b"\n")[0]
        elif 0 < self.total <= _LONE_BYTES and self.path != "-":
            self._lone = _lone(self._first, self.path, self.total)

    def close(self) -> None:
        """Close it."""
        if self._fd > 0:
            os.close(self._fd)
        self._fd = -1

    async def lines(self) -> AsyncIterator[tuple[int, bytes]]:
        """Each line's number and text, without its end. Empty lines are given too."""
        if self._lone:
            yield 0, self._lone
            return
        index, chunk = 0, self._first
        parts: list[bytes] = []  # of a line longer than what is read at once
        self._first = b""
        while chunk:
            *whole, rest = chunk.split(b"\n")
            for text in whole:
                if parts:
                    parts.append(text)
                    yield index, b"".join(parts)
                    parts = []
                else:
                    yield index, text
                index += 1
            if rest:
                parts.append(rest)
            chunk = await self._read()
        if parts:
            yield index, b"".join(parts)

    async def _read(self) -> bytes:
        if self._waits:
            loop, ready = asyncio.get_running_loop(), asyncio.Event()
            loop.add_reader(self._fd, ready.set)
            try:
                await ready.wait()
            finally:
                loop.remove_reader(self._fd)
        else:
            await asyncio.sleep(0)  # lines that are passed over wait for nothing, and a signal wants to be heard
        try:
            return os.read(self._fd, _CHUNK_BYTES)
        except OSError as exc:
            raise InvalidRequest(f"cannot read the input {self.path}: {exc.strerror or exc}") from exc


def run(
    source: Source,
    sink: Sink,
    target: Target,
    options: Options,
    *,
    report: Callable[[Progress], None] | None = None,
    report_seconds: float = 1.0,
    failing: Callable[[int, str], None] | None = None,
) -> Summary:
    """Ask every line of the source that the sink has no answer of, and write each answer.

    In the main thread, an interrupt (SIGINT, SIGTERM) ends the reading: requests in flight are finished and written.
    A second one leaves them.

    Args:
        source: Open.
        sink: Open.
        target: The server.
        options: How to ask.
        report: Called now and then while it runs, and once at the end.
        report_seconds: How often.
        failing: Called with the number of each line that fails, and why.

    Raises:
        Unreachable: no connection could be made, at the start or later, in all the tries; answers so far are written.
        ModelNotFound: at the start: the server has no such model.
        ModelNotReady: at the start, in all the tries.
        InvalidRequest: the input cannot be read, or a header cannot be sent.
        SettingsError: the output cannot be written.
    """
    import uvloop

    batch = _Batch(source, sink, target, options, failing)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(batch.run(report, report_seconds))


def pause_seconds(first: float, tries: int, retry_after: float, *, chance: float) -> float:
    """How long to wait before the next try: doubled each time, with jitter, and not less than the server asks.

    Args:
        first: The pause after the first try, without jitter.
        tries: Tries that have failed, from 1.
        retry_after: What the server asks for; 0: nothing.
        chance: From 0 to 1, at random.
    """
    longest = min(first * 2 ** min(tries - 1, 30), _LONGEST_PAUSE_SECONDS)
    jitter = longest * (0.5 + 0.5 * chance)
    asked = min(retry_after, _LONGEST_HEEDED_SECONDS)
    return float(jitter if asked <= 0 else max(jitter, asked * (1 + 0.1 * chance)))


def retry_after_seconds(value: str, *, now: float) -> float:
    """The wait that a Retry-After header asks for: seconds or a date; 0 for what is neither.

    Source: RFC 9110, section 10.2.3.
    """
    try:
        if value.strip()[:1].isdigit():
            return float(value)
        return max(0.0, parsedate_to_datetime(value).timestamp() - now) if value else 0.0
    except (ValueError, OverflowError):
        return 0.0


class _Failure(msgspec.Struct, frozen=True):
    """A request that has no answer."""

    message: str
    code: int = 0
    """The HTTP status, where there was one."""
    temporary: bool = False
    retry_after: float = 0.0
    away: HeadraceError | None = None
    """No connection could be made."""


class _Latencies:
    """A distribution in few numbers: counts by power of 1.05 of a microsecond."""

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}
        self._total = 0
        self._most = 0.0

    def add(self, seconds: float) -> None:
        bucket = round(math.log(max(seconds, 1e-6) * 1e6, 1.05))
        self._counts[bucket] = self._counts.get(bucket, 0) + 1
        self._total += 1
        self._most = max(self._most, seconds)

    def percentiles(self) -> dict[str, float]:
        """p50, p90, p99 and max in milliseconds; none without a request."""
        if not self._total:
            return {}
        found = {f"p{share}": self._at(share / 100) for share in (50, 90, 99)}
        return {name: round(min(ms, self._most * 1e3), 3) for name, ms in found.items()} | {
            "max": round(self._most * 1e3, 3)
        }

    def _at(self, share: float) -> float:
        wanted, seen, bucket = math.ceil(self._total * share), 0, 0
        for bucket in sorted(self._counts):
            seen += self._counts[bucket]
            if seen >= wanted:
                break
        return float(1.05**bucket / 1e3)


class _Batch:
    def __init__(
        self,
        source: Source,
        sink: Sink,
        target: Target,
        options: Options,
        failing: Callable[[int, str], None] | None,
    ) -> None:
        self._failing = failing
        self._source, self._sink, self._target, self._options = source, sink, target, options
        self._window = options.window or max(1000, 8 * options.workers * options.batch_size)
        self._path = model_path(options.model, options.version) + "/infer"
        self._reading: asyncio.Task[None] | None = None
        self._queue: asyncio.Queue[list[Line] | None] = asyncio.Queue(maxsize=options.workers)
        self._stopping = asyncio.Event()
        self._room = asyncio.Event()
        self._away: HeadraceError | None = None
        self._merging = options.batch_size > 1
        # Lines read and not yet written, in order; their sizes; answers that wait for their place.
        self._pending: deque[int] = deque()
        self._sizes: dict[int, int] = {}
        self._held: dict[int, bytes] = {}
        self._held_bytes = 0
        self._answered = self._failed = self._skipped = self._retries = self._requests = self._bytes_done = 0
        self._latencies = _Latencies()
        self._notes: list[str] = []
        self._started = time.monotonic()

    async def run(self, report: Callable[[Progress], None] | None, report_seconds: float) -> Summary:
        options = self._options
        fixed = header_lines(
            {
                "Content-Type": "application/octet-stream" if options.binary else "application/json",
                "Accept": "*/*",
                **options.headers,
            }
        )
        channels = [
            Channel(self._target, headers=fixed, timeout_seconds=options.timeout_seconds)
            for _ in range(options.workers)
        ]
        self._reading = asyncio.create_task(self._read(channels[0]))
        tasks = [self._reading, *(asyncio.create_task(self._work(channel)) for channel in channels)]
        reporting = asyncio.create_task(self._report(report, report_seconds)) if report is not None else None
        heedless = self._heed_signals(tasks)
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            failed = [task for task in tasks if task.done() and not task.cancelled() and task.exception() is not None]
            if failed:
                for task in tasks:
                    task.cancel()
            await asyncio.wait(tasks)
        finally:
            heedless()
            if reporting is not None:
                reporting.cancel()
                await asyncio.wait([reporting])
            for channel in channels:
                channel.close()
        if not failed:
            self._flush()
        if report is not None:
            report(self._progress())
        if failed:
            raise failed[0].exception() or RuntimeFailed("the batch ended for no known reason")
        if self._away is not None:
            raise self._away
        interrupted = self._stopping.is_set()
        if not interrupted and options.ordered and self._skipped:
            self._sink.put_in_order()
        return self._summary(interrupted=interrupted)

    # -- reading --

    async def _read(self, channel: Channel) -> None:
        """Lines to groups of one key, as there is room; then one end for each worker."""
        group: list[Line] = []
        greeted = False
        async for index, text in self._source.lines():
            if index in self._sink.answered:
                self._skipped += 1
                self._bytes_done += len(text) + 1
                continue
            if not text.strip():
                self._bytes_done += len(text) + 1
                continue
            if not greeted:
                await self._greet(channel)
                greeted = True
            if self._full():
                group = await self._put(group)
                while self._full():
                    self._room.clear()
                    await self._room.wait()
            self._pending.append(index)
            self._sizes[index] = len(text) + 1
            self._held_bytes += len(text)
            try:
                line = lines.parse(index, text, mergeable=self._merging)
            except InvalidRequest as exc:
                self._fail(index, lines.name_of(text), _Failure(str(exc)), status="preprocessing error")
                continue
            if group and (line.key is None or line.key != group[0].key):
                group = await self._put(group)
            group.append(line)
            if line.key is None or len(group) >= self._options.batch_size:
                group = await self._put(group)
        await self._put(group)
        for _ in range(self._options.workers):
            await self._queue.put(None)

    def _full(self) -> bool:
        return len(self._pending) >= self._window or (self._held_bytes > _HELD_BYTES and bool(self._pending))

    async def _put(self, group: list[Line]) -> list[Line]:
        if group:
            await self._queue.put(group)
        return []

    async def _greet(self, channel: Channel) -> None:
        """Make sure that there is a server, and that it has the model, before the first line is asked."""
        path = model_path(self._options.model, self._options.version) + "/ready"
        for tries in itertools.count(1):
            wrong: HeadraceError
            after = 0.0
            try:
                answer = await channel.get(path)
            except Temporary as exc:
                wrong = exc
            else:
                said = b'"error"' in answer.body or b'"detail"' in answer.body
                text = error_text(answer.body) if said else f"HTTP status {answer.status}"
                if answer.status == 404:
                    raise ModelNotFound(text)
                if answer.status in {401, 403}:
                    raise InvalidRequest(f"{self._target.url} refuses to answer: {text}")
                if answer.status not in TEMPORARY | {400}:  # 400 is how servers of the Triton kind say not ready
                    return
                wrong, after = ModelNotReady(f"model {self._options.model!r} is not ready: {text}"), _asked(answer)
            if tries > self._options.retries:
                raise wrong
            self._retries += 1
            await asyncio.sleep(pause_seconds(self._options.pause_seconds, tries, after, chance=_chance()))

    # -- asking --

    async def _work(self, channel: Channel) -> None:
        due = 0.0
        interval, jitter = self._options.interval_seconds, self._options.jitter_seconds
        while (group := await self._queue.get()) is not None:
            if interval or jitter:
                await self._pause(due - time.monotonic())
                due = time.monotonic() + interval + jitter * _chance()
            if self._stopping.is_set():
                return
            await self._ask(channel, group)

    async def _ask(self, channel: Channel, group: Sequence[Line]) -> None:
        """Ask a group and write the answers; one by one where together is not possible."""
        request_id = group[0].id if len(group) == 1 else str(uuid.uuid4())
        came = await self._tried(channel, group, request_id)
        if came is None:
            return
        if isinstance(came, bytes) and len(group) == 1:
            came = self._settle_parts(group, [came], request_id)
        elif isinstance(came, bytes):
            came = self._settle_merged(group, came, request_id)
        if came is None:
            return
        if len(group) > 1 and not came.temporary:
            for line in group:  # one of them may be wrong, and no reason to fail the others
                await self._ask(channel, [line])
            return
        if came.away is not None:
            self._away = came.away
            self._stop()
            return
        for line in group:
            self._fail(line.index, line.id, came, status="inference error")

    def _settle_merged(self, group: Sequence[Line], body: bytes, request_id: str) -> _Failure | None:
        try:
            parts = lines.split(body, group)
        except RuntimeFailed as exc:
            return _Failure(str(exc))
        if parts is None:
            if self._merging:
                self._merging = False
                self._notes.append("the model's answers have not a row for each row asked: lines were not merged")
            return _Failure("the answer cannot be split")
        return self._settle_parts(group, parts, request_id)

    def _settle_parts(self, group: Sequence[Line], parts: Sequence[bytes], request_id: str) -> _Failure | None:
        try:
            texts = [lines.placed(part, line, inference_id=request_id) for line, part in zip(group, parts, strict=True)]
        except RuntimeFailed as exc:
            return _Failure(str(exc))
        for line, text in zip(group, texts, strict=True):
            self._done(line.index, text, good=True)
        return None

    async def _tried(self, channel: Channel, group: Sequence[Line], request_id: str) -> bytes | _Failure | None:
        """The body of the answer, in JSON, or why there is none in all the tries; None when stopped meanwhile."""
        try:
            body = lines.render(group[0]) if len(group) == 1 else lines.merge(group, request_id)
            length = 0
            if self._options.binary:
                body, length = lines.to_binary(body)
        except InvalidRequest as exc:
            return _Failure(str(exc))
        name = header_value(request_id)
        own = f"seldon-puid: {name}\r\nx-request-id: {name}\r\n"
        if length:
            own += f"Inference-Header-Content-Length: {length}\r\n"
        headers = own.encode("latin-1")
        for tries in itertools.count(1):
            came = await self._once(channel, body, headers)
            if isinstance(came, bytes) or not came.temporary or tries > self._options.retries:
                return came
            self._retries += 1
            seconds = pause_seconds(self._options.pause_seconds, tries, came.retry_after, chance=_chance())
            if await self._pause(seconds):
                return None
        return None

    async def _once(self, channel: Channel, body: bytes, headers: bytes) -> bytes | _Failure:
        self._requests += 1
        began = time.monotonic()
        try:
            answer = await channel.post(self._path, [body], headers)
        except NotConnected as exc:
            return _Failure(str(exc), temporary=True, away=exc)
        except Temporary as exc:
            return _Failure(str(exc), temporary=True)
        if answer.status >= 300:
            text = error_text(answer.body) or f"HTTP status {answer.status}"
            return _Failure(text, answer.status, answer.status in TEMPORARY, _asked(answer))
        self._latencies.add(time.monotonic() - began)
        if not self._options.binary:
            return answer.body
        length = answer.headers.get("inference-header-content-length", "")
        try:
            return lines.from_binary(answer.body, int(length) if length.isdecimal() else None)
        except RuntimeFailed as exc:
            return _Failure(str(exc))

    # -- writing --

    def _fail(self, index: int, name: str, failure: _Failure, *, status: str) -> None:
        if self._failing is not None:
            self._failing(index, failure.message)
        text = lines.failed(index, name, status=status, message=failure.message, code=failure.code)
        self._done(index, text, good=False)

    def _done(self, index: int, text: bytes, *, good: bool) -> None:
        """Count an answer and write what has its turn."""
        if good:
            self._answered += 1
        else:
            self._failed += 1
        if self._options.ordered:
            self._held[index] = text
            self._held_bytes += len(text)
        else:
            self._sink.write(text + b"\n")
            self._held[index] = b""
        if index != self._pending[0]:
            return
        ready = []
        while self._pending and self._pending[0] in self._held:
            first = self._pending.popleft()
            text = self._held.pop(first)
            size = self._sizes.pop(first)
            self._held_bytes -= len(text) + size - 1
            self._bytes_done += size
            if text:
                ready += [text, b"\n"]
        if ready:
            self._sink.write(b"".join(ready))
        self._room.set()

    def _flush(self) -> None:
        """Write answers that wait behind lines which will get none in this run."""
        waiting = [text + b"\n" for _, text in sorted(self._held.items()) if text]
        self._held.clear()
        if waiting:
            self._sink.write(b"".join(waiting))

    # -- stopping and reporting --

    def _heed_signals(self, tasks: Sequence[asyncio.Task[None]]) -> Callable[[], None]:
        """Stop at the first signal, leave at the second; the call that undoes it."""
        if threading.current_thread() is not threading.main_thread():
            return lambda: None
        loop = asyncio.get_running_loop()

        def heed() -> None:
            if self._stopping.is_set():
                for task in tasks:
                    task.cancel()
            self._stop()

        def heedless() -> None:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, heed)
        return heedless

    def _stop(self) -> None:
        """Read no more, ask no more; what is in flight ends."""
        self._stopping.set()
        if self._reading is not None:
            self._reading.cancel()
        while not self._queue.empty():
            self._queue.get_nowait()
        for _ in range(self._options.workers):
            self._queue.put_nowait(None)

    async def _pause(self, seconds: float) -> bool:
        """Wait, unless stopped; whether it is."""
        if seconds > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), seconds)
        return self._stopping.is_set()

    async def _report(self, report: Callable[[Progress], None], seconds: float) -> None:
        while True:
            await asyncio.sleep(seconds)
            report(self._progress())

    def _progress(self) -> Progress:
        return Progress(
            answered=self._answered,
            failed=self._failed,
            skipped=self._skipped,
            retries=self._retries,
            bytes_done=self._bytes_done,
            bytes_total=self._source.total,
            seconds=time.monotonic() - self._started,
        )

    def _summary(self, *, interrupted: bool) -> Summary:
        seconds = time.monotonic() - self._started
        return Summary(
            answered=self._answered,
            failed=self._failed,
            skipped=self._skipped,
            failed_before=self._sink.failed,
            requests=self._requests,
            retries=self._retries,
            seconds=round(seconds, 3),
            lines_per_second=round((self._answered + self._failed) / max(seconds, 1e-6), 1),
            latency_ms=self._latencies.percentiles(),
            interrupted=interrupted,
            notes=tuple(self._notes),
        )


def _asked(answer: Answer) -> float:
    return retry_after_seconds(answer.headers.get("retry-after", ""), now=time.time())


def _chance() -> float:
    return random.random()  # noqa: S311 - of waiting, not of secrets


def _lone(first: bytes, path: str, total: int) -> bytes:
    """The one JSON object that a file is, over several lines; empty where its first line is complete, or it is none."""
    begin, newline, _ = first.lstrip().partition(b"\n")
    if not begin.startswith(b"{") or (not newline and len(first) < total):
        return b""
    try:
        msgspec.json.decode(begin, type=msgspec.Raw)
    except msgspec.MsgspecError:
        text = Path(path).read_bytes()
    else:
        return b""
    try:
        msgspec.json.decode(text, type=dict[str, msgspec.Raw])
    except msgspec.MsgspecError:
        return b""
    return msgspec.json.format(text, indent=-1)
