"""A stream of partial answers between whoever makes it (a lane) and whoever reads it (the server), bounded on its way.

The maker may be `WINDOW` parts ahead of the reader, then it waits: a slow client slows the model, not the memory.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from headrace.serving.execution import Piece

WINDOW: Final = 8
"""Parts that may be made and not yet read."""


class Parts:
    """One stream, seen from the event loop: the lane puts and ends, the reader iterates and may close early."""

    def __init__(self) -> None:
        self._parts: deque[Piece] = deque()
        self._error: BaseException | None = None
        self._ended = False
        self._waiter: asyncio.Future[None] | None = None
        self.on_room: Callable[[], None] | None = None
        """Called each time that a part was read."""
        self.on_stop: Callable[[], None] | None = None
        """Called once when nobody will read on, before the end was reached."""

    def done(self) -> bool:
        """Whether it has ended, failed, or was closed by its reader."""
        return self._ended

    def put(self, part: Piece) -> None:
        """A part for the reader; dropped when the reader has left."""
        if not self._ended:
            self._parts.append(part)
            self._wake()

    def end(self) -> None:
        """There is no further part."""
        self._ended = True
        self._wake()

    def set_exception(self, error: BaseException) -> None:
        """The reader gets what was put, then this; the maker stops."""
        if not self._ended:
            self._error = error
            self._stop()

    def close(self) -> None:
        """The reader has left."""
        self._parts.clear()
        if not self._ended:
            self._stop()

    def __aiter__(self) -> Parts:
        return self

    async def __anext__(self) -> Piece:
        while not self._parts:
            if self._error is not None:
                raise self._error
            if self._ended:
                raise StopAsyncIteration
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        part = self._parts.popleft()
        if self.on_room is not None and not self._ended:
            self.on_room()
        return part

    def _stop(self) -> None:
        self.end()
        if self.on_stop is not None:
            self.on_stop()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
