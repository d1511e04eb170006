"""Looking for faster engines while models already serve: `app.py` adds what was loaded without a verdict on engines, a
child process finds one (`python -m headrace.serving.ahead`), and the model is loaded once more, which takes it.

One child at a time, of low priority: the requests of today come before the speed of tomorrow. What it finds lies in
the cache of engines, so the next start of the server has it at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from headrace.serving import interpreter
from headrace.serving.build import RuntimeSpec, build, plain
from headrace.serving.worker import end_with

_log = logging.getLogger(__name__)
_NICE: Final = 10
_MOST_SECONDS: Final = 300.0
"""A check ends by itself after a minute; a child that still runs then hangs in foreign code."""
_TAIL: Final = 500


class Lookout:
    """What is to be checked, and the one child that checks.

    Args:
        found: Called with a model's name and version once the cache holds a verdict on it.
    """

    def __init__(self, found: Callable[[str, str], Awaitable[None]]) -> None:
        self._found = found
        self._waiting: dict[str, list[RuntimeSpec]] = {}  # by the digest of the artifact: one check serves all
        self._checked: set[str] = set()
        self._looking: set[tuple[str, str]] = set()
        self._task: asyncio.Task[None] | None = None

    def add(self, spec: RuntimeSpec) -> None:
        """Check this model when its turn comes; what was checked once is not checked again."""
        if spec.digest in self._checked:
            return
        self._waiting.setdefault(spec.digest, []).append(spec)
        self._looking.add((spec.name, spec.version))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._work())

    def is_looking(self, name: str, version: str) -> bool:
        """Whether a version may soon be faster than it is: its engine is being looked for, or is about to be."""
        return (name, version) in self._looking

    async def close(self) -> None:
        """Stop, and end the child."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _work(self) -> None:
        while self._waiting:
            digest = next(iter(self._waiting))
            spec = self._waiting[digest][-1]
            problem = await _check(spec)
            self._checked.add(digest)
            specs = self._waiting.pop(digest)
            if problem:
                _log.warning("model '%s' serves as it is, the look for a faster engine failed: %s", spec.name, problem)
            for name, version in dict.fromkeys((each.name, each.version) for each in specs):
                if not problem:
                    await self._found(name, version)
                self._looking.discard((name, version))


async def _check(spec: RuntimeSpec) -> str:
    """Fill the cache from a child process; why that failed, else nothing."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", "headrace.serving.ahead",
        env=dict(interpreter.own().environ),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        async with asyncio.timeout(_MOST_SECONDS):
            _, told = await child.communicate(msgspec.msgpack.encode(spec, enc_hook=plain))
    except TimeoutError:
        return f"it did not end within {_MOST_SECONDS:g} s"
    finally:
        if child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                child.kill()
            await child.wait()
    if child.returncode == 0:
        return ""
    lines = told.decode(errors="replace").strip().splitlines()
    return (lines[-1] if lines else f"it exited with code {child.returncode}")[-_TAIL:]


def main() -> None:
    """The child: build the model that standard input describes, which stores the verdict on its engines."""
    os.nice(_NICE)
    end_with(os.getppid())
    build(msgspec.msgpack.decode(sys.stdin.buffer.read(), type=RuntimeSpec))


if __name__ == "__main__":
    main()
