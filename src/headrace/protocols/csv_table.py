"""Rows as CSV: text to columns, and columns to text. Within steps 2 and 7 of the walk; `invocations` calls it.

RFC 4180 with a header line, or without where the model's inputs tell: SageMaker's callers send none. Without a word of
the caller's (`text/csv; header=absent`, section 3 of the RFC), the first line is a row when it has as many cells as the
model takes values, each of them a number where the model takes numbers, at least one; names of the model's columns, or
the `0,1,2,...` that pandas writes for columns without names, are a header.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec
import numpy as np

from headrace.errors import InvalidRequest
from headrace.payload import Array, TensorSpec

MISSING: Final = frozenset(
    {"", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA"}
    | {"NULL", "NaN", "None", "n/a", "nan", "null"}
)
"""Cells that pandas reads as no value."""
_TRUTH: Final[Mapping[str, bool]] = {"True": True, "TRUE": True, "true": True} | {
    "False": False,
    "FALSE": False,
    "false": False,
}
_WIDE_BYTES: Final = 2048
"""From here on numpy's reader, which makes no object of a number, is the faster one."""


class Columns(msgspec.Struct, frozen=True):
    """What a text holds: `matrix` where all of it is numbers and it is large, else `values` by column."""

    names: tuple[str, ...]
    """Of the header; empty: the text has none."""
    values: tuple[list[Any], ...] = ()
    """None is no value."""
    matrix: Array | None = None
    """FP64, [rows, columns]."""


def read(body: bytes, specs: Sequence[TensorSpec], *, header: bool | None = None) -> Columns:
    """The columns of a text.

    Args:
        body: UTF-8, with a byte order mark or without.
        specs: The model's inputs; empty: they are not known, and a header is expected.
        header: Whether there is one; None: see the module.

    Raises:
        InvalidRequest: it is no CSV, is empty, names a column twice, or a line has too many cells.
    """
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        raise InvalidRequest(f"the CSV is not UTF-8: {exc.reason} at byte {exc.start}") from None
    if len(text) > _WIDE_BYTES and '"' not in text:
        found = _read_wide(text, specs, header)
        if found is not None:
            return found
    try:
        rows = [row for row in csv.reader(io.StringIO(text, newline=""), strict=True) if row]
    except csv.Error as exc:
        raise InvalidRequest(f"the body is not CSV: {exc}") from None
    if not rows:
        raise InvalidRequest("the CSV is empty; expected a line of column names and a line for each row")
    named = _has_header(rows[0], specs, lines=len(rows)) if header is None else header
    names = _checked(rows[0]) if named else ()
    cells = rows[1:] if named else rows
    width = len(rows[0])
    for index, row in enumerate(cells):
        if len(row) > width:
            whose = "columns" if named else "cells of the first line"
            raise InvalidRequest(f"line {index + 1 + named} of the CSV has {len(row)} values for {width} {whose}")
        row.extend([""] * (width - len(row)))
    texts = _texts(names, width, specs)
    columns: list[list[Any]] = []
    for position in range(width):
        column = [row[position] for row in cells]
        columns.append([None if cell in MISSING else cell for cell in column] if position in texts else _guess(column))
    return Columns(names, tuple(columns))


def write(columns: Sequence[Sequence[Any]], names: Sequence[str] = ()) -> bytes:
    """Columns as text, a line a row; a header where names are given. None is an empty cell."""
    told = io.StringIO()
    writer = csv.writer(told, lineterminator="\n")
    if names:
        writer.writerow(names)
    writer.writerows(_unambiguous(row) for row in zip(*columns, strict=True))
    return told.getvalue().encode(errors="replace")


def _unambiguous(row: Iterable[Any]) -> Iterable[Any]:
    return ["" if each is None else each for each in row]


def _read_wide(text: str, specs: Sequence[TensorSpec], header: bool | None) -> Columns | None:
    """All cells numbers; None: some are not, or something else is for the careful reader to tell."""
    first, _, rest = text.partition("\n")
    cells = first.rstrip("\r").split(",")
    if not first.strip() or not rest.strip():
        return None
    named = _has_header(cells, specs, lines=2) if header is None else header
    if named and len(set(cells)) != len(cells):
        return None
    if _texts(cells if named else (), len(cells), specs):
        return None
    try:
        matrix: Array = np.loadtxt(
            io.StringIO(rest if named else text), np.float64, comments=None, delimiter=",", ndmin=2
        )
    except ValueError:
        return None
    if matrix.shape[1] != len(cells):
        return None
    return Columns(tuple(cells) if named else (), matrix=matrix)


def _checked(names: list[str]) -> tuple[str, ...]:
    if len(set(names)) != len(names):
        raise InvalidRequest("the CSV names a column twice")
    return tuple(names)


def _has_header(first: list[str], specs: Sequence[TensorSpec], *, lines: int) -> bool:
    """Whether the first line is names, as the module says."""
    if not specs or any(spec.name in first for spec in specs):
        return True
    if len(specs) == 1 and len(specs[0].shape) == 2:
        width = specs[0].shape[1]
        numeric = [specs[0].datatype != "BYTES"] * len(first)
    else:
        required = [spec for spec in specs if not spec.optional]
        chosen = specs if len(specs) == len(first) else required
        width = len(chosen)
        numeric = [spec.datatype != "BYTES" for spec in chosen]
    if width not in {-1, len(first)} or not any(numeric):
        return True
    if lines > 1 and len(first) > 1 and first == [str(position) for position in range(len(first))]:
        return True
    return not all(_is_value(cell) for cell, is_number in zip(first, numeric, strict=True) if is_number)


def _is_value(cell: str) -> bool:
    if cell in MISSING or cell in _TRUTH:
        return True
    try:
        _number(float, cell.strip())
    except ValueError:
        return False
    return True


def _texts(names: Sequence[str], width: int, specs: Sequence[TensorSpec]) -> set[int]:
    """Positions of the columns that the model takes as text."""
    wanted = {spec.name for spec in specs if spec.datatype == "BYTES"}
    if names:
        return {position for position, name in enumerate(names) if name in wanted}
    chosen = specs if len(specs) == width else [spec for spec in specs if not spec.optional]
    return {position for position, spec in enumerate(chosen) if spec.datatype == "BYTES"}


def _guess(cells: list[str]) -> list[Any]:
    """The cells of a column as the narrowest of booleans, integers, numbers and text that all of them are."""
    values = [None if cell in MISSING else cell.strip() for cell in cells]
    present = [value for value in values if value is not None]
    if present and all(value in _TRUTH for value in present):
        return [None if value is None else _TRUTH[value] for value in values]
    for kind in (int, float):
        try:
            return [None if value is None else _number(kind, value) for value in values]
        except ValueError:
            continue
    return [None if value is None else cell for value, cell in zip(values, cells, strict=True)]


def _number(kind: type[int | float], text: str) -> int | float:
    if "_" in text:  # a digit separator in Python, and nowhere else
        raise ValueError(text)
    return kind(text)
