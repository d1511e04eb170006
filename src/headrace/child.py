"""Processes of the server's own, and messages to and from them. `monitoring` and `serving.explain` have one each.

A message is a mapping of texts to JSON values, bytes and arrays. Both sides are of one version of this package, so the
form on the socket is nobody else's: four bytes of length, then MessagePack, in which an array is an extension.

    parent (an event loop)                            child (threads)
    link = await Link.open("headrace.x.y", got)       def main(): channel = Channel.of_arguments()
    link.send({"kind": "rows", "x": array})           for message in channel: ...
    got({"kind": "verdict", ...}) is called           channel.send({"kind": "verdict", ...})

The child ends with its parent, however either of them ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self, cast

import msgspec
import numpy as np

from headrace.errors import WorkerDied
from headrace.payload import Array

Message = Mapping[str, Any]

_LENGTH: Final = struct.Struct("<I")
_NUMBERS: Final = 1
_OBJECTS: Final = 2
_MOST_BYTES: Final = 1 << 30
_HIGH_WATER: Final = 32 << 20  # bytes that may wait for the child to read them
_PR_SET_PDEATHSIG: Final = 1


def pack(message: Message) -> bytes:
    """A message as it crosses."""
    body = _encoder.encode(message)
    return _LENGTH.pack(len(body)) + body


def unpack(body: bytes | memoryview) -> Message:
    """The message that a body, without its length, is. Arrays of numbers are views of it."""
    message: Message = _decoder.decode(body)
    return message


def _extend(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        if value.dtype == np.object_:
            return msgspec.msgpack.Ext(_OBJECTS, _encoder.encode([value.shape, value.ravel().tolist()]))
        head = _encoder.encode([value.dtype.str, value.shape])
        return msgspec.msgpack.Ext(_NUMBERS, _LENGTH.pack(len(head)) + head + value.tobytes())
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return dict(value)
    msg = f"a message cannot carry {type(value).__name__}"
    raise NotImplementedError(msg)


def _restore(code: int, data: memoryview) -> Array:
    if code == _OBJECTS:
        shape, items = msgspec.msgpack.decode(data)
        array: Array = np.empty(len(items), np.object_)
        array[:] = items
        return array.reshape(shape)
    (length,) = _LENGTH.unpack_from(data)
    dtype, shape = msgspec.msgpack.decode(data[4 : 4 + length])
    return np.frombuffer(data[4 + length :], dtype).reshape(shape)


_encoder: Final = msgspec.msgpack.Encoder(enc_hook=_extend)
_decoder: Final = msgspec.msgpack.Decoder(ext_hook=_restore)


class Link(asyncio.Protocol):
    """The parent's end: one child process from start to end. `open` makes it."""

    def __init__(self, module: str, received: Callable[[Message], None]) -> None:
        self._module, self._received = module, received
        self._loop = asyncio.get_running_loop()
        self._unread = bytearray()
        self._transport: asyncio.Transport | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._full = self._is_closing = False
        self.ended: asyncio.Future[str] = self._loop.create_future()
        """How the process ended, as a clause: `exited with code 1`."""

    @classmethod
    async def open(cls, module: str, received: Callable[[Message], None], *, arguments: Sequence[str] = ()) -> Self:
        """Start `python -m MODULE` with a socket; it need not be ready yet to be sent to.

        Args:
            module: Has a `main` that makes a `Channel.of_arguments` and runs when called as a program.
            received: Called on the loop with each message of the child.
            arguments: For the program, after those that are ours.
        """
        link = cls(module, received)
        ours, theirs = socket.socketpair()
        try:
            link._start(theirs, arguments)
            await link._loop.connect_accepted_socket(lambda: link, ours)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        return link

    def _start(self, theirs: socket.socket, arguments: Sequence[str]) -> None:
        path = os.pathsep.join(str(Path(each).absolute()) for each in sys.path)
        self._process = subprocess.Popen(  # noqa: S603 - our interpreter, our package
            [sys.executable, "-P", "-m", self._module, str(theirs.fileno()), str(os.getpid()), *arguments],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": path},
        )

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid if self._process is not None else 0

    @property
    def is_open(self) -> bool:
        """Whether it can be sent to."""
        return self._transport is not None and not self._is_closing and not self.ended.done()

    @property
    def is_full(self) -> bool:
        """Whether so much waits for the child that more should be dropped or kept back."""
        return self._full

    def send(self, message: Message, *, waits: bool = False) -> bool:
        """Send, or say that it was not: the child has ended or is about to, or is too far behind.

        Args:
            message: What it is told.
            waits: Keep it here while the child is behind; for what is small, rare, and must not be missed.
        """
        if self._transport is None or self._is_closing or (self._full and not waits) or self.ended.done():
            return False
        self._transport.write(pack(message))
        return True

    async def close(self, grace_seconds: float = 5.0) -> None:
        """End the child: it sees the end of messages, finishes, and is killed when it takes too long. Twice is once."""
        self._is_closing = True
        if self._transport is not None and self._transport.can_write_eof() and not self.ended.done():
            with contextlib.suppress(OSError, RuntimeError):
                self._transport.write_eof()
        try:
            async with asyncio.timeout(grace_seconds):
                await asyncio.shield(self.ended)
        except TimeoutError:
            self.kill()
            await self.ended

    def kill(self) -> None:
        """End the process at once."""
        if self._process is not None:
            self._process.kill()

    # -- asyncio.Protocol --

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way to write."""
        self._transport = cast("asyncio.Transport", transport)  # that of uvloop is one by its methods alone
        self._transport.set_write_buffer_limits(high=_HIGH_WATER)

    def pause_writing(self) -> None:
        """The child is behind."""
        self._full = True

    def resume_writing(self) -> None:
        """It caught up."""
        self._full = False

    def data_received(self, data: bytes) -> None:
        """Cut messages out of what arrived."""
        unread = self._unread
        unread += data
        at = 0
        while len(unread) - at >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(unread, at)
            end = at + _LENGTH.size + length
            if len(unread) < end:
                break
            body = bytes(memoryview(unread)[at + _LENGTH.size : end])
            at = end
            self._received(unpack(body))
        del unread[:at]

    def eof_received(self) -> bool:
        """Nothing more comes: the connection is over."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for the process, and say how it ended."""
        task = self._loop.create_task(asyncio.to_thread(self._reap))
        task.add_done_callback(lambda done: self.ended.set_result(done.result()))

    def _reap(self) -> str:
        assert self._process is not None
        try:
            code = self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        return f"was ended by signal {signal.Signals(-code).name}" if code < 0 else f"exited with code {code}"


class Channel:
    """The child's end. Iterate over it for messages; `send` from any thread."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._sending = threading.Lock()

    @classmethod
    def of_arguments(cls, arguments: Sequence[str] | None = None) -> Self:
        """What the parent gave this process; the process ends with its parent from now on."""
        arguments = sys.argv[1:] if arguments is None else arguments
        descriptor, parent = int(arguments[0]), int(arguments[1])
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the parent is told, too, and says when
        os.set_inheritable(descriptor, False)
        if sys.platform == "linux":
            ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            sys.exit(0)
        return cls(socket.socket(fileno=descriptor))

    def __iter__(self) -> Iterator[Message]:
        while (message := self.receive()) is not None:
            yield message

    def receive(self) -> Message | None:
        """The next message; None when there will be none."""
        head = self._read(_LENGTH.size)
        if head is None:
            return None
        (length,) = _LENGTH.unpack(head)
        if length > _MOST_BYTES:
            raise WorkerDied(f"a message of {length} bytes is none of ours")
        body = self._read(length)
        return None if body is None else unpack(memoryview(body))

    def send(self, message: Message) -> None:
        """Send, and wait while the parent is behind. A parent that is gone is no error: `receive` says so soon."""
        with self._sending, contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._connection.sendall(pack(message))

    def _read(self, count: int) -> bytearray | None:
        data = bytearray(count)
        view = memoryview(data)
        at = 0
        while at < count:
            try:
                got = self._connection.recv_into(view[at:])
            except ConnectionResetError:
                return None
            if not got:
                return None
            at += got
        return data
