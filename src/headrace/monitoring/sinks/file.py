"""CloudEvents into a file, one JSON document a line. At its largest it is renamed to `NAME.1`, and begun anew."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from headrace.errors import SettingsError, Temporary
from headrace.monitoring.sinks.base import Options
from headrace.protocols import cloudevents

LARGEST_BYTES: Final = 64 << 20
"""Of the file; as much again is in the one before."""


def open_file(address: str, *, setting: str, options: Options) -> File:  # noqa: ARG001 - a line is always a whole event
    """As `registry.SINKS` has it."""
    if not address.lower().startswith("file://"):
        return File(Path(address))
    parts = urlsplit(address)
    if parts.netloc not in {"", "localhost"} or not parts.path:
        raise SettingsError(f"{setting}: expected file:///path, got: {address}")
    return File(Path(unquote(parts.path)))


class File:
    """One file that events are appended to.

    Args:
        path: Its folder is made when the first event comes.
        largest_bytes: When it is begun anew.
    """

    def __init__(self, path: Path, *, largest_bytes: int = LARGEST_BYTES) -> None:
        self._path, self._largest = path, largest_bytes
        self._writing = threading.Lock()

    def send(self, event: cloudevents.Event) -> None:
        """As of Sink. A line that could not be written whole is taken back."""
        line = cloudevents.structured(event) + b"\n"
        with self._writing:
            try:
                self._append(line)
            except OSError as exc:
                raise Temporary(f"{self._path}: {exc.strerror or exc}") from exc

    def _append(self, line: bytes) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            size = os.fstat(descriptor).st_size
            written = os.write(descriptor, line)
            if written != len(line):
                os.ftruncate(descriptor, size)
                raise OSError(28, "no space left")
        finally:
            os.close(descriptor)
        if size + len(line) >= self._largest:
            self._path.replace(self._path.with_name(self._path.name + ".1"))

    def close(self) -> None:
        """As of Sink: nothing is kept open."""
