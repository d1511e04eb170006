"""Stepping a coroutine once: results, errors, waits, cancellation, contexts."""

import asyncio
import contextvars

import pytest
import uvloop

from headrace.server import eager

VARIABLE = contextvars.ContextVar("VARIABLE", default="unset")


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request):
    """Runs a coroutine function on either kind of loop."""

    def runner(main):
        factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop
        with asyncio.Runner(loop_factory=factory) as loop:
            return loop.run(main())

    return runner


def test_a_coroutine_that_never_waits_answers_at_once(run):
    """A coroutine without a wait gives its result, with no task made."""

    async def quick():
        return 7

    async def main():
        before = len(asyncio.all_tasks())
        assert eager.start(quick(), asyncio.get_running_loop()) == 7
        assert len(asyncio.all_tasks()) == before

    run(main)


def test_an_error_before_the_first_wait_is_raised_to_the_caller(run):
    """An exception in the first step reaches the caller of start, not a task."""

    async def broken():
        raise KeyError("x")

    async def main():
        with pytest.raises(KeyError):
            eager.start(broken(), asyncio.get_running_loop())

    run(main)


def test_a_waiting_coroutine_goes_on_in_a_task(run):
    """Every kind of wait (a future, sleep(0), a timer) is carried on, in order, and its result returned."""

    async def main():
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        steps = []

        async def slow():
            steps.append("first")
            steps.append(await future)
            await asyncio.sleep(0)
            await asyncio.sleep(0.001)
            async with asyncio.timeout(1):
                await asyncio.sleep(0)
            return "done"

        task = eager.start(slow(), loop)
        assert isinstance(task, asyncio.Task)
        assert steps == ["first"]
        future.set_result("second")
        assert await task == "done"
        assert steps == ["first", "second"]

    run(main)


def test_an_error_after_a_wait_ends_the_task(run):
    """An exception raised in a later step is the task's, with its own type."""

    async def main():
        async def late():
            await asyncio.sleep(0)
            raise LookupError("late")

        with pytest.raises(LookupError, match="late"):
            await eager.start(late(), asyncio.get_running_loop())

    run(main)


def test_an_exception_of_the_awaited_future_is_raised_inside(run):
    """A coroutine can catch the error of the future it waited for."""

    async def main():
        loop = asyncio.get_running_loop()
        future = loop.create_future()

        async def careful():
            try:
                await future
            except ValueError as exc:
                return f"caught {exc}"

        task = eager.start(careful(), loop)
        future.set_exception(ValueError("it"))
        assert await task == "caught it"

    run(main)


def test_cancelling_the_task_cancels_what_the_coroutine_waits_for(run):
    """Cancelling reaches the coroutine as CancelledError at its wait and cancels the awaited future."""

    async def main():
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        seen = []

        async def handler():
            try:
                await future
            except asyncio.CancelledError:
                seen.append("cancelled")
                raise

        task = eager.start(handler(), loop)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert seen == ["cancelled"]
        assert future.cancelled()

    run(main)


def test_cancelling_before_the_task_ran_reaches_a_second_wait_too(run):
    """A coroutine that survives one cancellation goes on with its next wait."""

    async def main():
        loop = asyncio.get_running_loop()

        async def stubborn():
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                await asyncio.sleep(0)
                return "cleaned up"

        task = eager.start(stubborn(), loop)
        await asyncio.sleep(0)
        task.cancel()
        assert await task == "cleaned up"

    run(main)


def test_context_is_the_coroutines_own(run):
    """What the first step sets is seen by later steps, and never by the caller."""

    async def main():
        async def setter():
            VARIABLE.set("inner")
            await asyncio.sleep(0)
            return VARIABLE.get()

        task = eager.start(setter(), asyncio.get_running_loop())
        assert VARIABLE.get() == "unset"
        assert await task == "inner"
        assert VARIABLE.get() == "unset"

    run(main)
