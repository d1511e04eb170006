"""A model in a process of its own: `python -m headrace.serving.worker SOCKET SHARED...`, started by `workers`.

The socket's first frame says what to load; every later one is a call, a stream, or a word about one. A synchronous
runtime is served by a plain loop of receive, predict, send: every frame that is ready is answered, and the answers
leave together. An asynchronous one is served on an event loop, a task for each call.

It ends when the socket does, which is when the server has closed it or is no more; on Linux the kernel also ends it
with the server while it is deep in a predict. Interrupts and SIGTERM sent to the whole process group are the server's
to handle: it drains first.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import logging.config
import os
import signal
import socket
import sys
from collections import deque
from collections.abc import Sequence
from typing import Final, cast

from headrace import compat
from headrace.errors import HeadraceError, LoadFailed, RuntimeFailed
from headrace.payload import InferenceResponse, RouteResponse, Tensor
from headrace.serving import frames, placement
from headrace.serving.build import begin, build, prepare
from headrace.serving.decoding import Call
from headrace.serving.execution import Execution, Logged, Outcome, Piece, failed
from headrace.serving.frames import UNPACKABLE, Answer, Ask, Buffer, Load, Loaded, Part, Room, Shared, Stop
from headrace.serving.lanes import run_async_stream, run_stream

_RECEIVE_BYTES: Final = 1 << 18
_HELD_NS: Final = 100_000  # answers of predicts shorter than this wait for that of the next call, if it is here
_PR_SET_PDEATHSIG: Final = 1


def main(arguments: Sequence[str]) -> None:
    """Be a worker until the socket ends.

    Args:
        arguments: The socket's descriptor, the server's process id, and the descriptors of shared memories: of each
            slot, the one for requests and the one for answers.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    descriptors = [int(each) for each in (arguments[0], *arguments[2:])]
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)  # a program that the model starts must not hold the socket open
    end_with(int(arguments[1]))
    connection = socket.socket(fileno=descriptors[0])
    shared = [Shared(descriptor) for descriptor in descriptors[1:]]
    channel = _Channel(connection, list(zip(shared[::2], shared[1::2], strict=True)))
    try:
        first = channel.receive()
        if first is None:
            return
        header = frames.to_worker.decode(first[0])
        assert isinstance(header, Load)
        execution = _load(header, channel)
        if execution is None:
            return
        try:
            if execution.runtime.is_async:
                _run_async(execution, channel, header, first[1])
            elif _warm_up(execution, channel, header, first[1]):
                gc.collect()
                gc.freeze()  # what the model is made of is never garbage: collections need not walk it
                _Synchronous(execution, channel).serve()
        finally:
            execution.runtime.unload()
    except (BrokenPipeError, ConnectionResetError):
        return  # the server is gone, with nobody left to tell


def end_with(parent: int) -> None:
    """Have the kernel end this process when the server's loop thread ends, however busy the model is."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before that
        sys.exit(0)


def _load(header: Load, channel: _Channel) -> Execution | None:
    sys.path[:] = header.search_path
    if header.environment_path is None:
        os.environ.pop("PYTHONPATH", None)
    else:
        os.environ["PYTHONPATH"] = header.environment_path
    if header.spec.logging:
        logging.config.dictConfig(header.spec.logging)
    else:
        form = f"%(asctime)s %(levelname)s worker {os.getpid()} of model '{header.spec.name}': %(message)s"
        logging.basicConfig(level=header.log_level, format=form)
    prepare([header.spec.runtime])
    try:
        runtime, signature = build(header.spec)
    except HeadraceError as exc:
        channel.send(frames.pack(frames.failure_of(0, exc)))
        return None
    except (Exception, SystemExit) as exc:  # noqa: BLE001 - a model's module may raise anything while it is imported
        error = LoadFailed(str(failed(header.spec.name, exc)))
        channel.send(frames.pack(frames.failure_of(0, error)))
        return None
    return Execution(header.spec.name, runtime, signature)


def _given(header: Load, body: memoryview) -> list[list[Tensor]]:
    tensors = frames.lift([each for sample in header.warm_up for each in sample], body)
    found = iter(tensors)
    return [[next(found) for _ in sample] for sample in header.warm_up]


def _warm_up(execution: Execution, channel: _Channel, header: Load, body: memoryview) -> bool:
    logged = tuple(execution.runtime.logged())  # before warm-up, whose values are of no request
    try:
        measured = placement.warm_up(execution, _given(header, body))
    except HeadraceError as exc:
        channel.send(frames.pack(frames.failure_of(0, exc)))
        return False
    channel.send(frames.pack(_loaded(execution, measured.predict_seconds, logged)))
    return True


def _loaded(execution: Execution, predict_seconds: float | None, logged: Logged) -> Loaded:
    runtime = execution.runtime
    return Loaded(
        execution.signature,
        runtime.is_async,
        runtime.streams,
        predict_seconds,
        runtime.whole,
        tuple(runtime.routes),
        logged,
    )


class _Channel:
    """The socket, read and written by blocking calls, and the shared memories."""

    def __init__(self, connection: socket.socket, slots: list[tuple[Shared, Shared]]) -> None:
        self.connection = connection
        self.slots = slots
        self.reader = frames.Reader()
        self._buffer = bytearray(_RECEIVE_BYTES)
        self._view = memoryview(self._buffer)
        self.inbox: deque[tuple[memoryview, memoryview]] = deque()

    def receive(self) -> tuple[memoryview, memoryview] | None:
        """The next frame, waiting for it; None when there will be none."""
        while not self.inbox:
            if not self.fill():
                return None
        return self.inbox.popleft()

    def fill(self, flags: int = 0) -> bool:
        """Take what has arrived, at least something; False: the socket has ended."""
        size = self.connection.recv_into(self._buffer, 0, flags)
        self.inbox.extend(self.reader.feed(bytes(self._view[:size])))
        return size > 0

    def send(self, pieces: Sequence[Buffer]) -> None:
        """Write it all, waiting as long as that takes."""
        self.connection.sendall(pieces[0] if len(pieces) == 1 else b"".join(pieces))

    def call(self, ask: Ask, body: memoryview) -> Call:
        """What is asked, its arrays as views of what arrived."""
        tensors = self.slots[ask.slot][0].read(ask.tensors) if ask.shared else frames.lift(ask.tensors, body)
        if ask.route is not None:
            return Call({}, request=frames.join_body(ask.route, tensors))
        if ask.asked is not None:
            if ask.shared:  # code that keeps what it was sent must not see it change with the next request
                tensors = [Tensor(each.name, each.datatype, each.data.copy(), each.parameters) for each in tensors]
            return Call({}, request=frames.request_of(ask.asked, tensors))
        return Call({each.name: each.data for each in tensors}, ask.outputs, ask.parameters, ask.rows)

    def reply(self, ask: Ask, outcome: Outcome) -> list[Buffer]:
        """The frame that answers; what cannot cross is an error in its place."""
        if outcome.error is None:
            try:
                return self._answer(ask, outcome)
            except UNPACKABLE as exc:
                outcome = Outcome((), outcome.predict_ns, frames.uncrossed(exc), logged=outcome.logged)
        assert outcome.error is not None
        return frames.pack(
            frames.failure_of(
                ask.id,
                outcome.error,
                separable=outcome.separable,
                predict_ns=outcome.predict_ns,
                logged=outcome.logged,
            )
        )

    def _answer(self, ask: Ask, outcome: Outcome) -> list[Buffer]:
        tensors: Sequence[Tensor] = outcome.tensors
        told = visited = None
        if isinstance(outcome.response, InferenceResponse):
            told = frames.tell(outcome.response)
        elif isinstance(outcome.response, RouteResponse):
            visited, body = frames.part_body(outcome.response)
            tensors = (body,)
        laid, buffers = frames.lay(tensors)
        shared = ask.slot >= 0 and frames.is_large(buffers)
        if shared:
            self.slots[ask.slot][1].write(buffers)
            buffers = []
        return frames.pack(Answer(ask.id, outcome.predict_ns, shared, laid, told, visited, outcome.logged), buffers)

    def part(self, ask: Ask, piece: Piece) -> list[Buffer]:
        """The frame of a stream's part.

        Raises:
            RuntimeFailed: something in it cannot cross.
        """
        try:
            if isinstance(piece, InferenceResponse):
                laid, buffers = frames.lay(piece.outputs)
                return frames.pack(Part(ask.id, laid, frames.tell(piece)), buffers)
            laid, buffers = frames.lay(piece)
            return frames.pack(Part(ask.id, laid), buffers)
        except UNPACKABLE as exc:
            raise frames.uncrossed(exc) from exc


class _Gone(Exception):
    """The server has closed the socket in the middle of a stream."""


class _Synchronous:
    """Serves a synchronous runtime: one call at a time, in the order they came."""

    def __init__(self, execution: Execution, channel: _Channel) -> None:
        self._execution = execution
        self._channel = channel
        self._out: list[Buffer] = []
        self._stopped: set[int] = set()  # streams that nobody reads, though their turn has not come

    def serve(self) -> None:
        """Answer until the socket ends."""
        inbox = self._channel.inbox
        with contextlib.suppress(_Gone):
            while True:
                while inbox:
                    self._handle(*inbox.popleft())
                self._flush()
                if not self._channel.fill():
                    return

    def _handle(self, head: memoryview, body: memoryview) -> None:
        message = frames.to_worker.decode(head)
        if isinstance(message, Ask):
            if message.window:
                self._stream(message, body)
            else:
                outcome = self._execution.attempt(self._channel.call(message, body))
                self._out += self._channel.reply(message, outcome)
                if outcome.predict_ns > _HELD_NS:
                    self._flush()
        # Room and Stop here are late: what they speak of has been answered.

    def _stream(self, ask: Ask, body: memoryview) -> None:
        self._flush()
        room = ask.window

        def put(piece: Piece) -> bool:
            nonlocal room
            self._channel.send(self._channel.part(ask, piece))
            room -= 1
            self._listen(wait=False)
            while True:
                room += self._take_words(ask.id)
                if ask.id in self._stopped:
                    return False
                if room > 0:
                    return True
                self._listen(wait=True)

        self._take_words(ask.id)
        if ask.id in self._stopped:
            outcome = Outcome((), 0)
        else:
            outcome = run_stream(self._execution, self._channel.call(ask, body), put)
        self._stopped.discard(ask.id)
        self._out += self._channel.reply(ask, outcome)

    def _listen(self, *, wait: bool) -> None:
        try:
            if not self._channel.fill(0 if wait else socket.MSG_DONTWAIT):
                raise _Gone
        except BlockingIOError:
            return

    def _take_words(self, call_id: int) -> int:
        """Take what was said of streams out of the inbox; how many parts of this one were read."""
        inbox = self._channel.inbox
        room = 0
        for _ in range(len(inbox)):
            head, body = inbox.popleft()
            message = frames.to_worker.decode(head)
            if isinstance(message, Room):
                room += message.id == call_id
            elif isinstance(message, Stop):
                self._stopped.add(message.id)
            else:
                inbox.append((head, body))
        return room

    def _flush(self) -> None:
        if self._out:
            self._channel.send(self._out)
            self._out.clear()


def _run_async(execution: Execution, channel: _Channel, header: Load, body: memoryview) -> None:
    try:
        import uvloop
    except ImportError:  # an environment of another Python version may lack it
        asyncio.run(_serve_async(execution, channel, header, body))
    else:
        uvloop.run(_serve_async(execution, channel, header, body))


async def _serve_async(execution: Execution, channel: _Channel, header: Load, body: memoryview) -> None:
    runtime = execution.runtime
    try:
        execution = Execution(execution.model, runtime, await begin(header.spec, runtime, execution.signature))
    except HeadraceError as exc:
        channel.send(frames.pack(frames.failure_of(0, exc)))
        return
    try:
        await _answer_async(execution, channel, _given(header, body))
    finally:
        await runtime.end()


async def _answer_async(execution: Execution, channel: _Channel, samples: list[list[Tensor]]) -> None:
    logged = tuple(execution.runtime.logged())  # as above
    try:
        await placement.warm_up_async(execution, samples)
    except HeadraceError as exc:
        channel.send(frames.pack(frames.failure_of(0, exc)))
        return
    channel.send(frames.pack(_loaded(execution, None, logged)))
    loop = asyncio.get_running_loop()
    channel.connection.setblocking(False)
    gc.collect()
    gc.freeze()
    _, server = await loop.create_unix_connection(lambda: _Asynchronous(execution, channel), sock=channel.connection)
    await server.ended
    await server.close()


class _Asynchronous(asyncio.Protocol):
    """Serves an asynchronous runtime: a task for each call."""

    def __init__(self, execution: Execution, channel: _Channel) -> None:
        self._execution = execution
        self._channel = channel
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._tasks: dict[int, asyncio.Task[Outcome]] = {}
        self._rooms: dict[int, asyncio.Semaphore] = {}
        self._out: list[Buffer] = []
        self.ended: asyncio.Future[None] = self._loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember where answers go."""
        self._transport = cast("asyncio.Transport", transport)  # a Unix stream's; uvloop's does not inherit from it

    def connection_lost(self, exc: Exception | None) -> None:
        """The server has closed the socket, or is no more."""
        if not self.ended.done():
            self.ended.set_result(None)

    def data_received(self, data: bytes) -> None:
        """Start what is asked."""
        for head, body in self._channel.reader.feed(data):
            message = frames.to_worker.decode(head)
            if isinstance(message, Ask):
                self._start(message, body)
            elif isinstance(message, Room) and message.id in self._rooms:
                self._rooms[message.id].release()
            elif isinstance(message, Stop) and message.id in self._tasks:
                self._tasks[message.id].cancel()

    async def close(self) -> None:
        """Cancel what still runs."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _start(self, ask: Ask, body: memoryview) -> None:
        call = self._channel.call(ask, body)
        work = self._stream(ask, call) if ask.window else self._execution.attempting(call)
        task = self._tasks[ask.id] = self._loop.create_task(work)

        def finish(task: asyncio.Task[Outcome]) -> None:
            del self._tasks[ask.id]
            self._rooms.pop(ask.id, None)
            if task.cancelled():  # by a Stop, or by the model's own doing: the server is told that it ended
                error = RuntimeFailed(f"model '{self._execution.model}': predict was cancelled")
                outcome = Outcome((), 0, error)
            else:
                outcome = task.result()
            self._send(self._channel.reply(ask, outcome))

        task.add_done_callback(finish)

    async def _stream(self, ask: Ask, call: Call) -> Outcome:
        room = self._rooms[ask.id] = asyncio.Semaphore(ask.window)

        async def put(piece: Piece) -> None:
            await room.acquire()
            self._send(self._channel.part(ask, piece))

        return await run_async_stream(self._execution, call, put)

    def _send(self, pieces: list[Buffer]) -> None:
        if not self._out:
            self._loop.call_soon(self._flush)  # answers of one turn leave together
        self._out += pieces

    def _flush(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(b"".join(self._out))
        self._out.clear()


if __name__ == "__main__":
    main(sys.argv[1:])
elif __name__ == "__mp_main__":  # a process that a model's own code spawned: it imports that code anew
    compat.provide(always=False)
