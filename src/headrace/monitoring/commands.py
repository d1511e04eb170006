"""A program of the operator's, run for an alert: no shell, JSON on its standard input, a limited time. `actions` calls.

It starts with signals as programs expect them: the watcher ignores some, and what is ignored would stay so in a program
that it starts. Its output goes to the log. Exit code 0 is done; 75 (`EX_TEMPFAIL` of sysexits.h) asks for another try;
others failed.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from typing import IO, Final

from headrace.errors import HeadraceError, SettingsError, Temporary

log = logging.getLogger(__name__)

SECONDS: Final = 300.0
"""A program that takes longer is killed, with the processes that it started."""
AGAIN: Final = 75
_OUTPUT_SHOWN: Final = 4096
_START: Final = """\
import os, signal, sys
for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE, signal.SIGXFSZ):
    signal.signal(each, signal.SIG_DFL)
try:
    os.execv(sys.argv[1], sys.argv[2:])
except OSError as error:
    sys.exit(f"cannot be started: {error.strerror}")
"""
"""Between fork and exec nothing may be done in a process with threads, so this is done after it."""


class Command:
    """One command line.

    Args:
        line: Program and arguments, quoted as a shell would have them; nothing in it is expanded.
        setting: The key that holds it, for messages.
        seconds: The time limit.

    Raises:
        SettingsError: the line cannot be read, or there is no such program.
    """

    def __init__(self, line: str, *, setting: str, seconds: float = SECONDS) -> None:
        try:
            self._arguments = shlex.split(line)
        except ValueError as exc:
            raise SettingsError(f"{setting}: cannot be split into arguments: {exc}") from exc
        self._program = shutil.which(self._arguments[0]) if self._arguments else None
        if self._program is None:
            raise SettingsError(f"{setting}: there is no program {self._arguments[0] if self._arguments else ''!r}")
        self._seconds = seconds
        self._counting = threading.Lock()
        self.exit_codes: Counter[int] = Counter()
        """How often the program ended with each; minus the signal's number where one ended it."""

    def run(self, body: bytes) -> None:
        """Run it once.

        Raises:
            Temporary: it asks for another try.
            HeadraceError: it failed, took too long, or could not be started.
        """
        name = self._arguments[0]
        with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as said:
            given.write(body)
            given.seek(0)
            try:
                process = subprocess.Popen(  # noqa: S603 - the operator's own program, from the settings
                    [sys.executable, "-I", "-S", "-c", _START, str(self._program), *self._arguments],
                    stdin=given,
                    stdout=said,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            except OSError as exc:
                raise HeadraceError(f"command {name} cannot be started: {exc.strerror or exc}") from exc
            try:
                code = process.wait(self._seconds)
            except subprocess.TimeoutExpired:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                self._count(-signal.SIGKILL)
                raise HeadraceError(f"command {name} took longer than {self._seconds:g} s and was killed") from None
            finally:
                _show(name, said)
        self._count(code)
        if code == AGAIN:
            raise Temporary(f"command {name} asks for another try (exit code {AGAIN})")
        if code:
            raise HeadraceError(f"command {name} ended with exit code {code}")

    def _count(self, code: int) -> None:
        with self._counting:
            self.exit_codes[code] += 1


def _show(name: str, said: IO[bytes]) -> None:
    size = said.seek(0, os.SEEK_END)
    said.seek(max(size - _OUTPUT_SHOWN, 0))
    for line in said.read().decode(errors="replace").splitlines():
        log.info("command %s: %s", name, line)
