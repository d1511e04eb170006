"""How commands write: tables (rich on a terminal, plain columns in a pipe), JSON for programs, progress."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click


def on_terminal() -> bool:
    """Whether a person reads standard output."""
    return sys.stdout.isatty()


def write_json(value: Any) -> None:
    """One JSON document on standard output, indented."""
    import msgspec

    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def write_table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, title: str = "") -> None:
    """Rows under column heads. A column in which every cell is empty is left out."""
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
            table.add_row(*(Text(cell, style=_STYLES.get(cell, "")) for cell in row))
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


def engine_of(properties: Mapping[str, Any]) -> str:
    """The engine that answers, by number of rows, as the tables show it."""
    return str(properties.get("engine", "")).removeprefix("any number of rows: ")


def shape_of(name: str, datatype: str, shape: Sequence[int]) -> str:
    """An input or output as the tables show it: `x FP64[-1,4]`."""
    return f"{name} {datatype}[{','.join(str(size) for size in shape)}]"
