"""How commands write: tables (rich on a terminal, plain columns in a pipe), JSON for programs, progress."""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import click


def on_terminal() -> bool:
    """Whether a person reads standard output."""
    return sys.stdout.isatty()


def write_json(value: Any) -> None:
    """One JSON document on standard output, indented."""
    import msgspec

    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def write_yaml(value: Any) -> None:
    """One YAML document on standard output."""
    click.echo(yaml_of(value), nl=False)


def yaml_of(value: Any) -> str:
    """A value as YAML, members in their own order, texts of several lines as blocks."""
    import yaml

    class Dumper(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:
            return True

    def text(dumper: yaml.SafeDumper, data: str) -> yaml.Node:
        return dumper.represent_scalar("tag:yaml.org,2002:str", data, style="|" if "\n" in data else None)

    Dumper.add_representer(str, text)
    return yaml.dump(value, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=110)


def coloured() -> bool:
    """Whether lines on standard output may have colours."""
    return on_terminal() and "NO_COLOR" not in os.environ


def write_line(line: str, colour: str = "") -> None:
    """A line on standard output, in a colour on a terminal."""
    click.echo(click.style(line, fg=colour) if colour and coloured() else line)


def write_table(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    title: str = "",
    styles: Mapping[str, str] | None = None,
) -> None:
    """Rows under column heads. A column in which every cell is empty is left out.

    Args:
        columns: The heads.
        rows: A cell for each of them.
        title: Above.
        styles: Cell to colour, on a terminal; None: the states of models.
    """
    kept = [index for index in range(len(columns)) if index == 0 or any(row[index] for row in rows)]
    heads = [columns[index] for index in kept]
    cells = [[row[index] for index in kept] for row in rows]
    if on_terminal():
        from rich import box
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(*heads, title=title or None, title_justify="left", box=box.SIMPLE_HEAD, header_style="bold")
        for row in cells:
            table.add_row(*(Text(cell, style=(_STYLES if styles is None else styles).get(cell, "")) for cell in row))
        Console().print(table)
        return
    if title:
        click.echo(title)
    widths = [max(len(head), *(len(row[at]) for row in cells)) if cells else len(head) for at, head in enumerate(heads)]
    for row in [heads, *cells]:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


_STYLES = {
    "READY": "green",
    "ok": "green",
    "LOADING": "yellow",
    "UNLOADING": "yellow",
    "warning": "yellow",
    "UNAVAILABLE": "red",
    "wrong": "red",
    "missing": "dim",
}


@contextlib.contextmanager
def working(text: str) -> Iterator[None]:
    """A spinner beside `text` on a terminal while the body runs; nothing in a pipe."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(text):
        yield


@contextlib.contextmanager
def to_error(wanted: bool) -> Iterator[None]:
    """While the body runs, lines for people go to standard error if `wanted`: standard output is a program's."""
    if not wanted:
        yield
        return
    with contextlib.redirect_stdout(sys.stderr):
        yield


@contextlib.contextmanager
def progress(text: str) -> Iterator[Callable[[str], None]]:
    """A spinner on a terminal while the body runs; what is yielded changes its text. Nothing in a pipe."""
    if not sys.stderr.isatty():
        yield lambda said: None  # noqa: ARG005 - nobody looks
        return
    from rich.console import Console

    with Console(stderr=True).status(text) as status:
        yield status.update


@contextlib.contextmanager
def bar(text: str = "") -> Iterator[Callable[[int, int, str], None]]:
    """A bar on a terminal while the body runs, with the time left; what is yielded takes how much is done, of how much
    (0: not known), and what stands beside the bar.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[beside]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task(text, total=None, beside="")
        yield lambda done, total, beside: shown.update(task, completed=done, total=total or None, beside=beside)


def age_of(moment: dt.datetime | None) -> str:
    """How long ago: `12s`, `5m`, `3h`, `9d`; empty when it is not known."""
    if moment is None:
        return ""
    seconds = max(0, int((dt.datetime.now(dt.UTC) - moment).total_seconds()))
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def size_of(count: int) -> str:
    """Bytes as a person reads them: `120 KiB`, `1.5 GiB`."""
    size, unit = float(count), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if size < 1024:
            break
        size, unit = size / 1024, larger
    return f"{size:.3g} {unit}" if size < 1000 else f"{size:.0f} {unit}"


def engine_of(properties: Mapping[str, Any]) -> str:
    """The engine that answers, by number of rows, as the tables show it."""
    return str(properties.get("engine", "")).removeprefix("any number of rows: ")


def shape_of(name: str, datatype: str, shape: Sequence[int]) -> str:
    """An input or output as the tables show it: `x FP64[-1,4]`."""
    return f"{name} {datatype}[{','.join(str(size) for size in shape)}]"
