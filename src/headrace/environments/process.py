"""Runs pip, uv, conda: their output into a log with credentials masked, their whole process group ended with us.

`build` and `packed` call it. Blocks; every wait has a deadline and can be cancelled.
"""

from __future__ import annotations

import collections
import contextlib
import os
import selectors
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Final

from headrace.environments.progress import Progress
from headrace.environments.requirements import mask

_TAIL: Final = 200
"""Lines of output that are kept to find a cause in."""
_POLL_SECONDS: Final = 0.1
"""How long a cancel may go unseen."""
_TERM_SECONDS: Final = 3.0
_DROPPED: Final = frozenset(
    {
        # Each would have an installer see, or write to, some other place than the environment that is being made.
        "PYTHONPATH",
        "PYTHONHOME",
        "VIRTUAL_ENV",
        "CONDA_PREFIX",
        "PIP_TARGET",
        "PIP_PREFIX",
        "PIP_ROOT",
        "PIP_PYTHON",
        "PIP_REQUIRE_VIRTUALENV",
        "UV_PYTHON",
        "UV_SYSTEM_PYTHON",
        "UV_PROJECT_ENVIRONMENT",
        "__PYVENV_LAUNCHER__",
    }
)
_ADDED: Final = {
    "PIP_USER": "0",
    "PIP_NO_INPUT": "1",
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    "PYTHONNOUSERSITE": "1",
    "NO_COLOR": "1",
    "TERM": "dumb",
    "LC_MESSAGES": "C",
}


class Ended(Exception):
    """A command did not do its work. The text says how it ended."""

    def __init__(self, how: str, lines: Sequence[str] = ()) -> None:
        super().__init__(how)
        self.lines = tuple(lines)
        """The last lines of its output, masked."""


class Stopped(Ended):
    """It was cancelled or took too long: nothing that it says is a cause."""


class Shell:
    """Where commands for one environment run: their log, their deadline, who may cancel them."""

    def __init__(
        self,
        *,
        log: IO[str],
        folder: Path,
        progress: Progress,
        timeout_seconds: float,
        cancel: threading.Event,
        held: Sequence[int] = (),
    ) -> None:
        self._log = log
        self._folder = folder
        self._progress = progress
        self._timeout = timeout_seconds
        self._deadline = time.monotonic() + timeout_seconds
        self._cancel = cancel
        self._held = tuple(held)

    def run(self, arguments: Sequence[str | Path]) -> list[str]:
        """Run a command to its end; the last lines of its output.

        Raises:
            Ended: it could not be started, or ended badly.
            Stopped: cancelled, or past the deadline; it and all that it started are ended by then.
        """
        words = [str(each) for each in arguments]
        self._log.write(f"$ {mask(' '.join(words))}\n")
        try:
            process = subprocess.Popen(  # noqa: S603 - a list, no shell
                words,
                cwd=self._folder,
                env=clean(os.environ),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                # A child that outlives us (kill -9) holds the lock until it ends: nobody builds into its folder.
                pass_fds=self._held,
            )
        except OSError as exc:
            raise Ended(f"{words[0]} could not be started: {exc}") from exc
        lines: collections.deque[str] = collections.deque(maxlen=_TAIL)
        try:
            for line in self._lines(process):
                lines.append(line)
                self._log.write(line + "\n")
                if line.strip():
                    self._progress(f"  {line.strip()}")
            code = process.wait()
        finally:
            _end(process)
            self._log.flush()
        if code:
            raise Ended(f"{Path(words[0]).name} ended with code {code}", list(lines))
        return list(lines)

    def _lines(self, process: subprocess.Popen[bytes]) -> Iterator[str]:
        """Its output by lines, until it has ended."""
        assert process.stdout is not None
        pipe = process.stdout.fileno()
        os.set_blocking(pipe, False)
        rest = b""
        with selectors.DefaultSelector() as selector:
            selector.register(pipe, selectors.EVENT_READ)
            while True:
                self.check()
                ended = process.poll() is not None  # asked before reading: what it wrote is in the pipe by then
                chunk = None
                if selector.select(0 if ended else _POLL_SECONDS):
                    with contextlib.suppress(BlockingIOError):
                        chunk = os.read(pipe, 1 << 16)
                if chunk:
                    *whole, rest = (rest + chunk).replace(b"\r", b"\n").split(b"\n")
                    yield from (mask(each.decode(errors="replace").rstrip()) for each in whole)
                elif chunk == b"" or ended:  # a grandchild may keep the pipe open for ever
                    break
        if rest:
            yield mask(rest.decode(errors="replace").rstrip())
        while process.poll() is None:  # closed its output before its end
            self.check()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_POLL_SECONDS)

    def check(self) -> None:
        """Raise Stopped when it is time to."""
        if self._cancel.is_set():
            raise Stopped("it was cancelled")
        if time.monotonic() > self._deadline:
            raise Stopped(f"it took longer than {self._timeout:g} s")


def clean(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables a command gets: ours without those that lead it elsewhere."""
    return {**{key: value for key, value in environ.items() if key not in _DROPPED}, **_ADDED}


def _end(process: subprocess.Popen[bytes]) -> None:
    """End it and all that it started, in every way out: an installer's children compile for minutes."""
    assert process.stdout is not None
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_TERM_SECONDS)
    with contextlib.suppress(ProcessLookupError, PermissionError):  # PermissionError: macOS, of a group of zombies
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
