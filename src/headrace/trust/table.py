"""Training data as columns, whatever it lies in: the first step of `trust.fit`, before anything is known of the model.

Files: CSV (`.csv .tsv`, also `.gz`), Parquet, JSON lines (`.jsonl .ndjson`), Arrow (`.arrow .feather .ipc`), numpy
(`.npy .npz`). In memory: a DataFrame, an array, a mapping of names to columns, a list of texts. Errors name the file,
and the row and column where there is one.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from headrace.errors import InvalidRequest, MissingExtra
from headrace.payload import Array

_LABELS: Final = ("y", "labels", "label", "target", "targets")
"""What an array of labels is called in an .npz beside the rows."""
_ROWS: Final = ("x", "X", "data", "images", "rows")
_INDEX: Final = re.compile(r"__index_level_\d+__")
"""What pandas calls the index of a frame in a file: the number of a row is nothing that it says."""
_ARROW: Final = frozenset({".csv", ".tsv", ".parquet", ".pq", ".jsonl", ".ndjson", ".arrow", ".feather", ".ipc"})
SUFFIXES: Final = (*sorted(_ARROW), ".csv.gz", ".npy", ".npz")


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """Rows of training data: named columns, or one block without names."""

    source: str
    """The file's name, or what it was in memory."""
    columns: Mapping[str, Array] = {}
    """`[n]` each: booleans, numbers (NaN: missing), or objects (`str`, bool, number, None: missing)."""
    categories: Mapping[str, tuple[Any, ...]] = {}
    """Of columns that came as categories: all that there are, in their order."""
    block: Array | None = None
    """`[n, ...]`: numbers, where columns have no names: a matrix, images."""
    labels: Array | None = None
    """`[n]`: where they came beside the rows."""

    def __len__(self) -> int:
        if self.block is not None:
            return len(self.block)
        return len(next(iter(self.columns.values()))) if self.columns else 0

    def without(self, *names: str) -> Table:
        """The other columns."""
        kept = {name: column for name, column in self.columns.items() if name not in names}
        return msgspec.structs.replace(self, columns=kept)

    def digest(self) -> str:
        """SHA-256 of all values, whatever file they were in."""
        whole = hashlib.sha256()
        named = dict(self.columns) if self.block is None else {"": self.block}
        if self.labels is not None:
            named["\0labels"] = self.labels
        for name, column in named.items():
            whole.update(f"{name}\0{column.dtype}\0{column.shape}\0".encode())
            if column.dtype == object:
                for value in column.ravel().tolist():
                    whole.update(f"{type(value).__name__}:{value}\0".encode("utf-8", "surrogatepass"))
            else:
                whole.update(np.ascontiguousarray(column).data)
        return whole.hexdigest()


def of(data: Any) -> Table:
    """A table of what a person has in hand; a path is read.

    Raises:
        InvalidRequest: it is none of the known forms, is empty, or a column holds what is no number, text or boolean.
    """
    if isinstance(data, Table):
        return data
    if isinstance(data, Path | str):
        return read(Path(data))
    if hasattr(data, "columns") and hasattr(data, "iloc"):
        return _checked(_of_frame(data))
    if isinstance(data, Mapping):
        columns = {str(name): _column(f"column '{name}'", np.asarray(values)) for name, values in data.items()}
        return _checked(Table(source="columns in memory", columns=columns))
    if hasattr(data, "toarray"):
        data = data.toarray()
    if hasattr(data, "to_numpy"):
        data = data.to_numpy()
    if not isinstance(data, np.ndarray) and isinstance(data, Sequence) and data and isinstance(data[0], str):
        return _checked(Table(source="texts in memory", columns={"text": _column("the texts", _objects(data))}))
    try:
        array = np.asarray(data)
    except ValueError as error:
        raise InvalidRequest(f"the rows have different lengths: {error}") from error
    if array.dtype.kind in "OUS" and array.ndim == 1:
        return _checked(Table(source="texts in memory", columns={"text": _column("the texts", array)}))
    if array.dtype.kind in "OUS" and array.ndim == 2:
        columns = {f"x{at}": _column(f"column {at}", array[:, at]) for at in range(array.shape[1])}
        return _checked(Table(source="an array in memory", columns=columns))
    return _checked(Table(source="an array in memory", block=_block("the array", array)))


def read(path: Path) -> Table:
    """The table in a file.

    Raises:
        InvalidRequest: there is no such file, its suffix is none that is known, or what it holds is no table; names
            the file, and row and column where the reader knows them.
        MissingExtra: pyarrow is not installed.
    """
    if not path.is_file():
        raise InvalidRequest(f"{path}: there is no such file; expected training data ({', '.join(SUFFIXES)})")
    suffixes = [each.lower() for each in path.suffixes]
    suffix = (suffixes[-2] if suffixes[-1:] == [".gz"] and len(suffixes) > 1 else (suffixes or [""])[-1]) or ""
    if suffix in {".npy", ".npz"}:
        table = _read_numpy(path, suffix)
    elif suffix in _ARROW:
        table = _read_arrow(path, suffix)
    else:
        raise InvalidRequest(f"{path}: suffix '{suffix}' is not known; expected one of {', '.join(SUFFIXES)}")
    return _checked(msgspec.structs.replace(table, source=path.name), str(path))


# -- files --


def _read_arrow(path: Path, suffix: str) -> Table:
    try:
        import pyarrow as pa
    except ModuleNotFoundError as error:
        raise MissingExtra(
            f"reading {path.name} needs pyarrow, which is not installed; run: pip install 'headrace[trust]'"
        ) from error
    try:
        found = _arrow_table(path, suffix)
        columns, categories = {}, {}
        for name, column in zip(found.column_names, found.columns, strict=True):
            if _INDEX.fullmatch(name):
                continue
            if name in columns:
                raise InvalidRequest(f"{path}: two columns are named '{name}'")
            columns[name], known = _arrow_column(f"{path}: column '{name}'", column)
            if known is not None:
                categories[name] = known
    except (pa.ArrowException, OSError) as error:
        raise InvalidRequest(f"{path}: {error}") from error
    if len(columns) == 1 and next(iter(columns.values())).ndim > 1:
        return Table(source="", block=next(iter(columns.values())))
    for name, column in columns.items():
        if column.ndim > 1:
            raise InvalidRequest(f"{path}: column '{name}' holds lists; expected one value a row")
    return Table(source="", columns=columns, categories=categories)


def _arrow_table(path: Path, suffix: str) -> Any:
    import pyarrow as pa

    if suffix in {".parquet", ".pq"}:
        import pyarrow.parquet as pq

        return pq.read_table(path, use_threads=False)
    if suffix in {".arrow", ".feather", ".ipc"}:
        with path.open("rb") as file:
            is_file = file.read(6) == b"ARROW1"
            file.seek(0)
            with (pa.ipc.open_file if is_file else pa.ipc.open_stream)(file) as reader:
                return reader.read_all()
    # The whole file is one block, so that types are settled by every row and not by the first ones, and one thread
    # reads it, so that an error names the row.
    whole = min(max(path.stat().st_size * 40, 1 << 20), (1 << 31) - 1)
    if suffix in {".jsonl", ".ndjson"}:
        import pyarrow.json

        return pyarrow.json.read_json(path, read_options=pyarrow.json.ReadOptions(use_threads=False, block_size=whole))
    import pyarrow.csv

    return pyarrow.csv.read_csv(
        path,
        read_options=pyarrow.csv.ReadOptions(use_threads=False, block_size=whole),
        parse_options=pyarrow.csv.ParseOptions(delimiter="\t" if suffix == ".tsv" else ","),
        convert_options=pyarrow.csv.ConvertOptions(strings_can_be_null=True, quoted_strings_can_be_null=False),
    )


def _arrow_column(where: str, column: Any) -> tuple[Array, tuple[Any, ...] | None]:
    import pyarrow as pa

    kind, known = column.type, None
    if pa.types.is_dictionary(kind):
        column = column.combine_chunks()
        chunk = column.chunk(0) if isinstance(column, pa.ChunkedArray) and column.num_chunks else column
        known = tuple(chunk.dictionary.to_pylist()) if len(column) else ()
        column = column.cast(kind.value_type)
        kind = column.type
    if pa.types.is_null(kind):
        return np.full(len(column), np.nan), known
    if pa.types.is_decimal(kind):
        column = column.cast(pa.float64())
        kind = column.type
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        if column.null_count:
            return _numbers(column.cast(pa.float64()).to_numpy()), known
        return _numbers(column.to_numpy()), known
    if pa.types.is_boolean(kind) and not column.null_count:
        return np.asarray(column.to_numpy()), known
    if pa.types.is_boolean(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return _objects(column.to_pylist()), known
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        try:
            return _block(where, np.asarray(column.to_pylist())), known
        except ValueError as error:
            raise InvalidRequest(f"{where}: its lists have different lengths") from error
    raise InvalidRequest(f"{where} is of type {kind}; {_HINT}")


def _read_numpy(path: Path, suffix: str) -> Table:
    try:
        loaded = np.load(path, allow_pickle=False)
        if suffix == ".npy":
            return of(loaded)
        with loaded:
            arrays = {name: loaded[name] for name in loaded.files}
    except (ValueError, OSError, EOFError) as error:
        raise InvalidRequest(f"{path}: cannot be read as numpy arrays of numbers and text: {error}") from error
    labels = next((arrays.pop(name) for name in _LABELS if name in arrays), None)
    if labels is not None:
        labels = _column(f"{path}: labels", labels.reshape(-1))
    rows = next((name for name in _ROWS if name in arrays), next(iter(arrays)) if len(arrays) == 1 else "")
    if rows and arrays[rows].ndim > 1:
        return msgspec.structs.replace(of(arrays[rows]), labels=labels)
    columns = {name: _column(f"{path}: array '{name}'", array) for name, array in arrays.items()}
    return Table(source="", columns=columns, labels=labels)


# -- memory --


def _of_frame(frame: Any) -> Table:
    columns: dict[str, Array] = {}
    categories: dict[str, tuple[Any, ...]] = {}
    for at, name in enumerate(map(str, frame.columns)):
        if name in columns:
            raise InvalidRequest(f"the DataFrame has two columns named '{name}'")
        series = frame.iloc[:, at]
        if getattr(series.dtype, "name", "") == "category":
            categories[name] = tuple(series.cat.categories.tolist())
            series = series.astype(object)
        kind = getattr(series.dtype, "kind", "O")
        if not isinstance(series.dtype, np.dtype) and kind in "iuf":
            columns[name] = _numbers(series.to_numpy(dtype=np.float64, na_value=np.nan))
        elif kind in "iuf":
            columns[name] = _numbers(series.to_numpy())
        elif kind == "b" and not series.isna().any():
            columns[name] = series.to_numpy(dtype=np.bool_)
        elif kind in "mM":
            raise InvalidRequest(f"column '{name}' is of type {series.dtype}; {_HINT}")
        else:
            missing = series.isna().to_numpy()
            values = series.to_numpy(dtype=object).copy()
            values[missing] = None
            columns[name] = _column(f"column '{name}'", values)
    return Table(source="a DataFrame in memory", columns=columns, categories=categories)


_HINT: Final = "expected numbers, text or booleans: turn dates and the like into such before the model sees them"


def _column(where: str, values: Array) -> Array:
    """`[n]` of what a column may hold."""
    if values.ndim != 1:
        raise InvalidRequest(f"{where} has shape {list(values.shape)}; expected one value a row")
    if values.dtype.kind in "iuf":
        return _numbers(values)
    if values.dtype.kind == "b":
        return values
    if values.dtype.kind not in "OUS":
        raise InvalidRequest(f"{where} has dtype {values.dtype}; {_HINT}")
    found = _objects(values.tolist())
    kinds = {type(each) for each in found.tolist()}
    if bytes in kinds:
        try:
            found[:] = [each.decode() if isinstance(each, bytes) else each for each in found.tolist()]
        except UnicodeDecodeError as error:
            raise InvalidRequest(f"{where} holds bytes that are no UTF-8 text: {error.reason}") from error
    for row, each in enumerate(found.tolist()):
        if isinstance(each, float) and each != each:  # noqa: PLR0124 - NaN among texts: missing
            found[row] = None
        elif each is not None and not isinstance(each, str | bool | int | float):
            raise InvalidRequest(f"{where}, row {row}: {type(each).__name__}; {_HINT}")
    present = [each for each in found.tolist() if each is not None]
    if present and all(isinstance(each, int | float) and not isinstance(each, bool) for each in present):
        return _numbers(np.array([np.nan if each is None else each for each in found.tolist()], np.float64))
    if present and len(present) == len(found) and all(isinstance(each, bool) for each in present):
        return found.astype(np.bool_)
    return found


def _numbers(values: Any) -> Array:
    array = np.asarray(values)
    return array.astype(np.float64) if array.dtype == np.float16 else array


def _block(where: str, array: Array) -> Array:
    if array.dtype.kind not in "biuf":
        raise InvalidRequest(f"{where} has dtype {array.dtype}; expected numbers")
    return array.reshape(-1, 1) if array.ndim == 1 else array


def _objects(values: Sequence[Any]) -> Array:
    array: Array = np.empty(len(values), np.object_)
    array[:] = list(values)
    return array


def _checked(table: Table, where: str = "") -> Table:
    """The table, if it has rows and columns of one length."""
    where = where or table.source
    lengths = {name: len(column) for name, column in table.columns.items()}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{name}: {length}" for name, length in lengths.items())
        raise InvalidRequest(f"{where}: the columns have different numbers of rows ({told})")
    if not len(table):
        raise InvalidRequest(f"{where}: there are no rows")
    if table.labels is not None and len(table.labels) != len(table):
        raise InvalidRequest(f"{where}: {len(table.labels)} labels came for {len(table)} rows")
    return table
