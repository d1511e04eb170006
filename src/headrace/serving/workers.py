"""Lanes in other processes: spawns workers, gives them batches, sees them die, starts them again. An engine has a pool.

A worker's end is seen by the socket's end or by the process's own (`pidfd`), whichever comes first; a hang by a predict
that stays silent for `predict_timeout_seconds`, upon which the process is ended. Either way, what was in flight fails
at once with `WorkerDied` naming the cause, and the worker is started again after a pause that grows while it keeps
dying.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, cast

from headrace.errors import HeadraceError, InvalidRequest, LoadFailed, WorkerDied
from headrace.payload import InferenceRequest, InferenceResponse, RouteResponse, Tensor, datatype_of
from headrace.serving import frames, interpreter
from headrace.serving.build import RuntimeSpec
from headrace.serving.decoding import Call
from headrace.serving.execution import Outcome
from headrace.serving.frames import Answer, Ask, Buffer, Failure, Load, Loaded, Part, Room, Shared, Stop
from headrace.serving.interpreter import Interpreter
from headrace.serving.observer import Observer
from headrace.serving.streams import WINDOW, Parts

_log = logging.getLogger(__name__)

_SLOTS: Final = 2
"""Pairs of shared memories a worker has: as many as calls that may be under way in a synchronous one. An async one has
more calls; those that find none go by the socket."""
_PIPELINED_NS: Final = 1_000_000
"""A predict shorter than this is not worth waiting for a turn of the socket: the next call is sent ahead of the answer.
Above it, calls stay here, where they still merge and may still be cancelled."""
_ASYNC_DEPTH: Final = 256
_FIRST_PAUSE_SECONDS: Final = 0.1
_LONGEST_PAUSE_SECONDS: Final = 30.0
_STEADY_SECONDS: Final = 60.0
"""A worker that lived this long has earned a short pause again."""
_EXIT_SECONDS: Final = 5.0
_REAP_SECONDS: Final = 1.0
_LATE_EOF_SECONDS: Final = 0.05

Done = Callable[[Outcome], None]


def backoff(attempt: int, share: float) -> float:
    """Seconds to wait before a start.

    Args:
        attempt: How many starts failed before, from 0.
        share: Between 0 and 1, by chance: workers that died together do not come back in step.
    """
    return float(min(_LONGEST_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * 2 ** min(attempt, 16)) * (0.5 + share / 2))


def ending(code: int) -> str:
    """How a process ended, for a message."""
    if code < 0:
        try:
            return f"was ended by signal {signal.Signals(-code).name}"
        except ValueError:
            return f"was ended by signal {-code}"
    return f"exited with code {code}"


class _Pending:
    """A call that a worker has not answered yet."""

    __slots__ = ("done", "parts", "slot", "unread")

    def __init__(self, done: Done, slot: int, parts: Parts | None) -> None:
        self.done = done
        self.slot = slot
        self.parts = parts
        self.unread = 0


class _Link(asyncio.Protocol):
    """One worker process from spawn to end."""

    def __init__(self, model: str, predict_timeout_seconds: float) -> None:
        self._model = model
        self._timeout = predict_timeout_seconds
        self._loop = asyncio.get_running_loop()
        self._reader = frames.Reader()
        self._transport: asyncio.Transport | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._pidfd = -1
        self._slots: list[tuple[Shared, Shared]] = []
        self._free: list[int] = []
        self._pending: dict[int, _Pending] = {}
        self._last_id = 0
        self._progress = 0.0
        self._watch: asyncio.TimerHandle | None = None
        self._hung = ""
        self._ending: asyncio.Task[None] | None = None
        self._depth = 1
        self._pipelines = False
        self._patience = _REAP_SECONDS
        self.is_async = False
        self.opened_at = 0.0
        self.loaded: asyncio.Future[Loaded] = self._loop.create_future()
        self.ended: asyncio.Future[str] = self._loop.create_future()

    @property
    def pid(self) -> int:
        """Of the process; 0 before it is spawned."""
        return self._process.pid if self._process is not None else 0

    @property
    def in_flight(self) -> int:
        """Calls without an answer."""
        return len(self._pending)

    @property
    def depth(self) -> int:
        """Calls it takes at once, now."""
        return 0 if self._ending is not None or not self.loaded.done() else self._depth

    async def open(self, spec: RuntimeSpec, interpreter: Interpreter, warm_up: Sequence[Sequence[Tensor]]) -> Loaded:
        """Spawn the process and have it load the model.

        Raises:
            LoadFailed: or whatever class the load failed with in the process, or it ended meanwhile.
        """
        try:
            ours, theirs = socket.socketpair()
            try:
                self._spawn(interpreter, theirs)
            except OSError:
                ours.close()
                self._close_shared()
                raise
            finally:
                theirs.close()
        except OSError as exc:
            raise LoadFailed(f"model '{self._model}': a worker process could not be started: {exc}") from exc
        try:
            ours.setblocking(False)
            await self._loop.create_unix_connection(lambda: self, sock=ours)
            self._write(self._load_frame(spec, interpreter, warm_up))
            return await self.loaded
        except BaseException:
            await self.close(0.0)
            raise

    def _spawn(self, interpreter: Interpreter, theirs: socket.socket) -> None:
        if hasattr(os, "memfd_create"):
            for number in range(_SLOTS):
                asked = os.memfd_create(f"headrace-ask-{number}")
                self._slots.append((Shared(asked), Shared(os.memfd_create(f"headrace-answer-{number}"))))
        self._free = list(range(len(self._slots)))
        shared = [memory.fd for pair in self._slots for memory in pair]
        arguments = [theirs.fileno(), os.getpid(), *shared]
        self._process = subprocess.Popen(  # noqa: S603 - our interpreter or the model's own, our package
            [*interpreter.command, *map(str, arguments)],
            pass_fds=[theirs.fileno(), *shared],
            stdin=subprocess.DEVNULL,
            env=dict(interpreter.environ),
        )
        self.opened_at = time.monotonic()
        if hasattr(os, "pidfd_open"):
            with contextlib.suppress(OSError):  # an old kernel, or no descriptor left: the socket's end tells as well
                self._pidfd = os.pidfd_open(self._process.pid)
                self._loop.add_reader(self._pidfd, self._exited)

    def _load_frame(
        self, spec: RuntimeSpec, interpreter: Interpreter, warm_up: Sequence[Sequence[Tensor]]
    ) -> list[Buffer]:
        described, buffers = [], []
        for sample in warm_up:
            laid, pieces = frames.lay(sample)
            described.append(laid)
            buffers += pieces
        level = logging.getLogger().getEffectiveLevel()
        load = Load(spec, described, list(interpreter.search_path), interpreter.python_path, level)
        return frames.pack(load, buffers)

    # -- calls --

    def ask(self, call: Call, done: Done, parts: Parts | None = None) -> int:
        """Send a call; its id. One that cannot cross is done at once."""
        self._last_id = call_id = self._last_id + 1
        if not self._pending:
            self._progress = time.monotonic()
            self._watch_over(self._timeout)
        slot = self._free.pop() if self._free else -1
        self._pending[call_id] = _Pending(done, slot, parts)
        try:
            frame = self._ask_frame(call_id, slot, call, 0 if parts is None else WINDOW)
        except frames.UNPACKABLE as exc:
            self._end_call(call_id)
            done(Outcome((), 0, InvalidRequest(f"the request cannot go to a worker process: {exc}")))
        else:
            self._write(frame)
        return call_id

    def _ask_frame(self, call_id: int, slot: int, call: Call, window: int) -> list[Buffer]:
        asked = route = None
        request = call.request
        if request is None:
            tensors: Sequence[Tensor] = [Tensor(name, datatype_of(array), array) for name, array in call.arrays.items()]
        elif isinstance(request, InferenceRequest):
            tensors, asked = request.inputs, frames.ask_of(request)
        else:
            route, body = frames.part_body(request)
            tensors = (body,)
        laid, buffers = frames.lay(tensors)
        shared = slot >= 0 and frames.is_large(buffers)
        if shared:
            self._slots[slot][0].write(buffers)
        header = Ask(call_id, slot, shared, laid, call.outputs, dict(call.parameters), call.rows, window, asked, route)
        return frames.pack(header, () if shared else buffers)

    def _end_call(self, call_id: int) -> _Pending:
        pending = self._pending.pop(call_id)
        if pending.slot >= 0:
            self._free.append(pending.slot)
        return pending

    def stream(self, call: Call, parts: Parts, done: Done) -> None:
        """Send a call that is answered by parts."""
        call_id = self.ask(call, done, parts)
        pending = self._pending.get(call_id)
        if pending is None:
            return

        def room() -> None:
            pending.unread -= 1
            if call_id in self._pending:
                self._progress = time.monotonic()  # it may have stood still for want of this
                self._write(frames.pack(Room(call_id)))

        parts.on_room = room
        parts.on_stop = lambda: self.stop(call_id)

    def stop(self, call_id: int) -> None:
        """Tell the worker that nobody waits for this call."""
        if call_id in self._pending:
            self._write(frames.pack(Stop(call_id)))

    def _write(self, pieces: list[Buffer]) -> None:
        if self._transport is None or self._transport.is_closing():  # what is pending is answered by its end
            return
        if len(pieces) == 1:
            self._transport.write(pieces[0])  # uvloop sends what is written in one turn of the loop together
        else:
            self._transport.writelines(pieces)

    # -- what the worker says --

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember where calls go."""
        self._transport = cast("asyncio.Transport", transport)  # a Unix stream's; uvloop's does not inherit from it

    def data_received(self, data: bytes) -> None:
        """Hand answers to who waits for them."""
        self._progress = time.monotonic()
        for head, body in self._reader.feed(data):
            message = frames.from_worker.decode(head)
            if isinstance(message, Answer):
                self._answered(message, body)
            elif isinstance(message, Part):
                self._part(message, body)
            elif isinstance(message, Failure):
                self._failed(message)
            elif not self.loaded.done():
                self._loaded(message)

    def _loaded(self, message: Loaded) -> None:
        self.is_async = message.is_async
        self._pipelines = not message.is_async and not message.streams  # behind a stream a call would wait for its end
        if message.is_async:
            self._depth = _ASYNC_DEPTH
        elif message.predict_seconds is not None:
            self._pipeline(int(message.predict_seconds * 1e9))
        self.loaded.set_result(message)

    def _pipeline(self, predict_ns: int) -> None:
        if self._pipelines:
            self._depth = 2 if predict_ns < _PIPELINED_NS else 1

    def _answered(self, message: Answer, body: memoryview) -> None:
        pending = self._end_call(message.id)
        if message.shared:  # copied: the worker may write there again as soon as it has another call
            shared = self._slots[pending.slot][1].read(message.tensors)
            tensors = [Tensor(each.name, each.datatype, each.data.copy(), each.parameters) for each in shared]
        else:
            tensors = frames.lift(message.tensors, body)
        self._pipeline(message.predict_ns)
        response: InferenceResponse | RouteResponse | None = None
        if message.told is not None:
            response = frames.response_of(message.told, tensors)
        elif message.visited is not None:
            response = frames.join_body(message.visited, tensors)
        pending.done(Outcome(tuple(tensors), message.predict_ns, response=response, logged=message.logged))

    def _part(self, message: Part, body: memoryview) -> None:
        pending = self._pending[message.id]
        pending.unread += 1
        if pending.parts is not None:
            tensors = tuple(frames.lift(message.tensors, body))
            told = message.told
            pending.parts.put(tensors if told is None else frames.response_of(told, tensors))

    def _failed(self, message: Failure) -> None:
        error = frames.error_of(message)
        if message.id == 0:
            if not self.loaded.done():
                self.loaded.set_exception(error)
            return
        outcome = Outcome((), message.predict_ns, error, message.separable, logged=message.logged)
        self._end_call(message.id).done(outcome)

    # -- how it ends --

    def connection_lost(self, exc: Exception | None) -> None:
        """The worker's end of the socket is closed: it has ended, or is about to."""
        self._end()

    def _exited(self) -> None:
        """The process is no more.

        Its last answers may still be in the socket, whose end comes at once unless something that the model started
        holds it open.
        """
        self._loop.remove_reader(self._pidfd)
        self._loop.call_later(_LATE_EOF_SECONDS, self._end)

    def _watch_over(self, seconds: float) -> None:
        if self._timeout > 0 and self._watch is None:
            self._watch = self._loop.call_later(seconds, self._check)

    def _check(self) -> None:
        """End a process that has been silent too long while a predict is its to answer."""
        self._watch = None
        if not self._pending or self._ending is not None:
            return
        if all(pending.unread >= WINDOW for pending in self._pending.values()):
            self._progress = time.monotonic()  # its streams wait for their readers: silence is right
        left = self._progress + self._timeout - time.monotonic()
        if left > 0:
            self._watch_over(left)
            return
        self._hung = f"gave no answer for {self._timeout:g} s (predict_timeout_seconds) and was ended"
        self.kill()

    def kill(self) -> None:
        """End the process now."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()

    def _end(self) -> None:
        if self._ending is None:
            self._ending = self._loop.create_task(self._finish())

    async def _finish(self) -> None:
        """Collect the exit code, then tell everybody who waits for something of this process."""
        process = self._process
        assert process is not None
        until = time.monotonic() + self._patience
        pause = 0.001
        while process.poll() is None:
            if time.monotonic() > until:
                process.kill()
            await asyncio.sleep(pause)
            pause = min(0.02, pause * 2)
        reason = f"worker process {process.pid} {self._hung or ending(process.returncode)}"
        if self._watch is not None:
            self._watch.cancel()
        if self._transport is not None:
            self._transport.abort()
        if self._pidfd >= 0:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1
        self._close_shared()
        if not self.loaded.done():
            self.loaded.set_exception(LoadFailed(f"model '{self._model}': {reason} while it loaded the model"))
        pending, self._pending = self._pending, {}
        for each in pending.values():
            error = WorkerDied(f"model '{self._model}': {reason} with this request in flight")
            each.done(Outcome((), 0, error))
        self.ended.set_result(reason)

    def _close_shared(self) -> None:
        for pair in self._slots:
            for memory in pair:
                os.close(memory.fd)
        self._slots = []

    async def close(self, seconds: float = _EXIT_SECONDS) -> None:
        """Close the socket, which the worker takes as its end; kill it if it takes longer than that."""
        if self._process is None:
            return
        self._patience = seconds
        if self._transport is not None:
            self._transport.abort()
        self._end()
        await asyncio.shield(self.ended)
        if self.loaded.done() and not self.loaded.cancelled():
            self.loaded.exception()  # whoever waited for it has it, or has left


class Worker:
    """One replica: a lane that outlives its processes."""

    def __init__(self) -> None:
        self.link: _Link | None = None

    def __repr__(self) -> str:
        return f"<Worker pid={self.pid} in_flight={self.in_flight}>"

    @property
    def pid(self) -> int:
        """Of its process now; 0 while there is none."""
        return self.link.pid if self.link is not None else 0

    @property
    def depth(self) -> int:
        """Calls it takes at once; 0 while its process is down."""
        return self.link.depth if self.link is not None else 0

    @property
    def in_flight(self) -> int:
        """Calls without an answer."""
        return self.link.in_flight if self.link is not None else 0

    def start(self, call: Call, done: Done) -> Callable[[], None] | None:
        """Send a batch to the process."""
        link = self.link
        assert link is not None
        call_id = link.ask(call, done)
        return (lambda: link.stop(call_id)) if link.is_async else None

    def start_stream(self, call: Call, parts: Parts, done: Done) -> None:
        """Send a call that is answered by parts."""
        assert self.link is not None
        self.link.stream(call, parts, done)


class WorkerPool:
    """The replicas of one model, and the tasks that keep them up."""

    def __init__(
        self,
        spec: RuntimeSpec,
        *,
        replicas: int,
        warm_up: Sequence[Sequence[Tensor]],
        predict_timeout_seconds: float,
        observer: Observer,
        on_state: Callable[[bool, str], None],
    ) -> None:
        self.workers = [Worker() for _ in range(max(1, replicas))]
        self.on_free: Callable[[], None] | None = None
        """Called when a worker is back."""
        self._spec = spec
        self._warm_up = warm_up
        self._predict_timeout_seconds = predict_timeout_seconds
        self._observer = observer
        self._on_state = on_state
        self._interpreter: Interpreter | None = None
        self._keepers: list[asyncio.Task[None]] = []
        self._ready = False

    async def start(self) -> Loaded:
        """Spawn all, and wait until all have loaded.

        Raises:
            LoadFailed: or a subclass: the model cannot be served; none is left running.
        """
        if self._spec.environment:
            self._interpreter = await interpreter.of_environment(self._spec.name, Path(self._spec.environment))
        else:
            self._interpreter = interpreter.own()
        try:
            opened = await asyncio.gather(*(self._open(worker) for worker in self.workers), return_exceptions=True)
        except asyncio.CancelledError:
            await self.close()  # those that are up already must not stay
            raise
        loaded = []
        for each in opened:
            if isinstance(each, BaseException):
                await self.close()
                raise each
            loaded.append(each)
        self._ready = True
        self._keepers = [asyncio.create_task(self._keep(worker)) for worker in self.workers]
        return loaded[0]

    async def close(self) -> None:
        """End every process, and wait until all have ended."""
        for keeper in self._keepers:
            keeper.cancel()
        for end in await asyncio.gather(*self._keepers, return_exceptions=True):
            if isinstance(end, Exception):
                _log.error("model '%s': its workers were no longer kept up", self._spec.name, exc_info=end)
        self._keepers = []
        links = [worker.link for worker in self.workers if worker.link is not None]
        await asyncio.gather(*(link.close() for link in links))
        for worker in self.workers:
            worker.link = None

    async def _open(self, worker: Worker) -> Loaded:
        link = _Link(self._spec.name, self._predict_timeout_seconds)
        assert self._interpreter is not None
        loaded = await link.open(self._spec, self._interpreter, self._warm_up)
        worker.link = link
        if loaded.logged:
            self._observer.logged(loaded.logged)
        return loaded

    async def _keep(self, worker: Worker) -> None:
        """Start a replica again each time that it ends."""
        attempt = 0
        while True:
            link = worker.link
            assert link is not None
            reason = await asyncio.shield(link.ended)  # the pool may stop keeping it; it ends all the same
            worker.link = None
            if time.monotonic() - link.opened_at > _STEADY_SECONDS:
                attempt = 0
            _log.warning("model '%s': %s; starting it again", self._spec.name, reason)
            self._observer.restarted(reason)
            self._tell(reason)
            while not worker.pid:
                await asyncio.sleep(backoff(attempt, random.random()))  # noqa: S311 - spreads restarts, guards nothing
                attempt += 1
                try:
                    await self._open(worker)
                except HeadraceError as exc:
                    _log.warning("model '%s': the worker did not come back: %s", self._spec.name, exc)
                    self._tell(f"{reason}, and did not come back: {exc}")
            self._tell("")
            if self.on_free is not None:
                self.on_free()

    def _tell(self, reason: str) -> None:
        """Say so when the last replica went down, or the first came back."""
        ready = any(worker.link is not None for worker in self.workers)
        if ready != self._ready or (not ready and reason):
            self._ready = ready
            self._on_state(ready, "" if ready else reason)
