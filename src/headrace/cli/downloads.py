"""Downloads as people see them: bars on a terminal, a line now and then elsewhere, all on standard error."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

import click

from headrace.cli import output

if TYPE_CHECKING:
    from headrace.artifacts.base import Progress

_LINE_SECONDS: Final = 5.0

Report = Callable[[str, "Progress"], None]
"""Gets a uri and how far it is; from any thread."""


@contextlib.contextmanager
def shown() -> Iterator[Report]:
    """Show how far downloads are while it holds."""
    with _bars() if sys.stderr.isatty() else _lines() as report:
        yield report


@contextlib.contextmanager
def _bars() -> Iterator[Report]:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(binary_units=True), TransferSpeedColumn())
    tasks: dict[str, Any] = {}
    with Bars(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bars:

        def report(uri: str, progress: Progress) -> None:
            if uri not in tasks:
                tasks[uri] = bars.add_task(uri, total=None)
            total = progress.total_bytes if progress.total_bytes >= 0 else None
            bars.update(tasks[uri], completed=progress.done_bytes, total=total)

        yield report


@contextlib.contextmanager
def _lines() -> Iterator[Report]:
    said: dict[str, float] = {}

    def report(uri: str, progress: Progress) -> None:
        now = time.monotonic()
        if now - said.setdefault(uri, now) < _LINE_SECONDS:
            return
        said[uri] = now
        of = f" of {output.size_of(progress.total_bytes)}" if progress.total_bytes >= 0 else ""
        files = f", {progress.done_files} of {progress.total_files} files" if progress.total_files > 1 else ""
        click.echo(f"{uri}: {output.size_of(progress.done_bytes)}{of}{files}", err=True)

    yield report
