"""Steps a handler's coroutine once on the spot, so that an inline model answers without a task. Listeners call it.

A coroutine that never waits is done after its first step; making a task for it would cost as much as routing it. One
that does wait goes on in a task, from where it stands. `asyncio.current_task()` is None during the first step: code
that needs a task of its own (`asyncio.timeout`, `TaskGroup`) must have awaited something first, or run in a task that
it makes.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Coroutine, Generator
from typing import Any, TypeVar, cast

T = TypeVar("T")


def start(coroutine: Coroutine[Any, Any, T], loop: asyncio.AbstractEventLoop) -> T | asyncio.Task[T]:
    """Run a coroutine to its first wait.

    It has a context of its own, as a task would: what it sets is seen by its later steps and by nobody else.

    Args:
        coroutine: Not yet started.
        loop: The running loop.

    Returns:
        The result when the coroutine ended without waiting, else the task that carries it on; the caller owns the task.

    Raises:
        BaseException: what the coroutine raised before its first wait.
    """
    context = contextvars.copy_context()
    try:
        waited_for = context.run(coroutine.send, None)
    except StopIteration as done:
        return cast("T", done.value)
    rest = _go_on(coroutine, waited_for)
    rest.send(None)  # a coroutine that was never stepped would not see a cancellation that comes before its first step
    return loop.create_task(rest, context=context)


async def _go_on(coroutine: Coroutine[Any, Any, T], waited_for: Any) -> T:
    return cast("T", await _Rest(coroutine, waited_for))


class _Rest:
    """What is left of a coroutine after its first step, as something a task can await."""

    __slots__ = ("coroutine", "waited_for")

    def __init__(self, coroutine: Coroutine[Any, Any, Any], waited_for: Any) -> None:
        self.coroutine = coroutine
        self.waited_for = waited_for

    def __await__(self) -> Generator[Any, Any, Any]:
        coroutine, waited_for = self.coroutine, self.waited_for
        try:
            yield None  # to `start`, which then gives us to a task
        except asyncio.CancelledError as cancelled:
            # Cancelled before the task took hold of what is waited for: pass it on as the task would have done.
            if waited_for is None or not waited_for.cancel():
                try:
                    waited_for = coroutine.throw(cancelled)
                except StopIteration as done:
                    return done.value
        if waited_for is None:  # it waited for a turn of the loop or for a task: both are here
            try:
                waited_for = coroutine.send(None)
            except StopIteration as done:
                return done.value
        # A future that was handed out keeps its "being awaited" mark until a task takes it, so handing it on is enough.
        while True:
            step: Callable[[Any], Any] = coroutine.send
            try:
                value = yield waited_for
            except GeneratorExit:  # the task was dropped, not cancelled: the coroutine ends the same way
                coroutine.close()
                raise
            except BaseException as exc:  # noqa: BLE001 - handed in, to be raised where the coroutine waits
                step, value = coroutine.throw, exc
            try:
                waited_for = step(value)
            except StopIteration as done:
                return done.value
