"""Rows as Parquet: bytes to columns, as pandas reads them. Within step 2 of the walk; `invocations` calls it.

The index that pandas writes is no column. A number that is missing is None; times are their ISO 8601 text.
Source: https://parquet.apache.org/docs/file-format/, read by pyarrow.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from headrace.errors import InvalidRequest, TooLarge

_MOST_CELLS: Final = 10_000_000
"""A few bytes of Parquet may stand for any number of equal values: what is more than these is not unpacked."""


def is_readable() -> bool:
    """Whether pyarrow is installed."""
    return importlib.util.find_spec("pyarrow") is not None


def read(body: bytes) -> dict[str, Sequence[Any]]:
    """Values by column; None is no value.

    Raises:
        InvalidRequest: it is no Parquet, names a column twice, or holds a type that no datatype carries.
        TooLarge: it stands for more values than a request may bring.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(pa.BufferReader(body)) as file:
            groups = [file.metadata.row_group(at) for at in range(file.metadata.num_row_groups)]
            cells = sum(group.column(at).num_values for group in groups for at in range(group.num_columns))
            if cells > _MOST_CELLS:
                raise TooLarge(
                    f"the Parquet body holds {cells} values, a request at most {_MOST_CELLS}; send it in parts"
                )
            table = file.read(use_threads=False)
        names = table.column_names
        if len(set(names)) != len(names):
            raise InvalidRequest("the Parquet body names a column twice")
        table = table.drop_columns([name for name in _index_of(table.schema.metadata) if name in names])
        return {name: _values(name, table.column(name)) for name in table.column_names}
    except (pa.ArrowException, OSError) as exc:
        raise InvalidRequest(f"the body is no Parquet: {' '.join(str(exc).split())[:200]}") from None


def _index_of(metadata: Any) -> list[str]:
    """Columns that pandas wrote its index to."""
    try:
        told = msgspec.json.decode((metadata or {}).get(b"pandas", b"{}"), type=dict[str, Any])
    except msgspec.DecodeError:  # somebody else's
        return []
    index = told.get("index_columns")
    return [each for each in index if isinstance(each, str)] if isinstance(index, list) else []


def _values(name: str, column: Any) -> list[Any]:
    import pyarrow as pa

    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        column = column.cast(pa.string())
    elif pa.types.is_decimal(kind):
        column = column.cast(pa.float64())
    elif not (_is_plain(kind) or pa.types.is_nested(kind) or pa.types.is_null(kind)):
        raise InvalidRequest(
            f"column {name!r} of the Parquet body is of {kind}; expected numbers, texts, times or bytes"
        )
    values: list[Any] = column.to_pylist()
    return values


def _is_plain(kind: Any) -> bool:
    from pyarrow import types

    return any(
        each(kind)
        for each in (
            *(types.is_boolean, types.is_integer, types.is_floating, types.is_string, types.is_large_string),
            *(types.is_string_view, types.is_binary, types.is_large_binary, types.is_fixed_size_binary),
        )
    )
