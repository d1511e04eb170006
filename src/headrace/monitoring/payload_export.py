"""The payload log as training data: rows with what was answered and what would have been right. `headrace payloads`
calls it.

Files are read a batch at a time and labels wait in a database on disk: memory does not grow with the log.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import math
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Self

import msgspec
import orjson

from headrace.errors import InvalidRequest, NotFound
from headrace.monitoring import payload_files
from headrace.monitoring.payload_files import LogFile, folder_name
from headrace.monitoring.payload_rows import INPUT
from headrace.protocols.cloudevents import json_of

if TYPE_CHECKING:
    import pyarrow as pa

Format = Literal["parquet", "csv", "jsonl"]
LABEL: Final = "label"
_IDS_AT_ONCE: Final = 500
_ROWS_AT_ONCE: Final = 10_000


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """Which rows."""

    model: str = ""
    """Empty: of all."""
    version: str = ""
    since: float = -math.inf
    """Seconds since the epoch; rows of that moment are in."""
    until: float = math.inf
    """Rows of that moment are not in."""
    labelled_only: bool = False


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """What was exported."""

    rows: int
    labelled: int
    columns: tuple[str, ...]


class Shown(msgspec.Struct, kw_only=True):
    """What a log has of one version."""

    model: str
    version: str
    files: int = 0
    bytes: int = 0
    rows: int = 0
    requests: int = 0
    """Rows that are the first of their request."""
    labelled: int = 0
    """Requests of which labels came."""
    first: float = math.inf
    """Seconds since the epoch."""
    last: float = -math.inf


class Labels:
    """Labels by request id, in a database of its own on disk. Use it in a `with`."""

    def __init__(self) -> None:
        self._database = sqlite3.connect("")  # a file without a name: it goes with the process, however that ends
        self._database.execute("PRAGMA journal_mode = OFF")
        self._database.execute("PRAGMA synchronous = OFF")
        self._database.execute("CREATE TABLE labels (id TEXT PRIMARY KEY, labels BLOB) WITHOUT ROWID")
        self.kind = "none"
        """Of all labels: `none`, `bool`, `int`, `float` or `text`."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()

    def add(self, lines: Sequence[dict[str, Any]]) -> None:
        """Add some; of a request that had labels before, the later ones count."""
        rows: list[tuple[str, bytes]] = []
        for line in lines:
            labels = list(line.get("labels") or ())
            for label in labels:
                self.kind = _widest(self.kind, label)
            rows.append((str(line.get("request_id", "")), orjson.dumps(labels)))
        self._database.executemany("INSERT OR REPLACE INTO labels VALUES (?, ?)", rows)

    def of(self, ids: Sequence[str]) -> dict[str, list[Any]]:
        """The labels of those of some requests that have any."""
        found: dict[str, list[Any]] = {}
        for at in range(0, len(ids), _IDS_AT_ONCE):
            some = ids[at : at + _IDS_AT_ONCE]
            marks = ",".join("?" * len(some))
            query = f"SELECT id, labels FROM labels WHERE id IN ({marks})"  # noqa: S608 - only question marks
            found |= {name: orjson.loads(labels) for name, labels in self._database.execute(query, some)}
        return found


def _widest(kind: str, label: Any) -> str:
    if label is None:
        return kind
    mine = {bool: "bool", int: "int", float: "float"}.get(type(label), "text")
    if kind in {"none", mine}:
        return mine
    return "float" if {kind, mine} == {"int", "float"} else "text"


def export(
    folder: Path,
    target: Path,
    *,
    form: Format,
    wanted: Filter = Filter(),
    progress: Callable[[int], None] = lambda read: None,  # noqa: ARG005 - nobody looks
) -> Summary:
    """Write rows with their labels to one file.

    Columns are those of the log, `input.` left out where no other column has the name, and `label`: that of the row's
    position in its request. Where versions differ in columns, those that one does not have are null; where they differ
    in type, the type is one that holds both.

    Args:
        folder: Of the log.
        target: It is there whole, or not at all.
        form: Of the target.
        wanted: Which rows.
        progress: Called with the bytes that were read since it was called before.

    Raises:
        NotFound: the folder has no rows that are wanted.
        InvalidRequest: a file cannot be read, or the target not be written.
    """
    import pyarrow as pa

    files, labels_of = _chosen(folder, wanted)
    if not files:
        raise NotFound(_nothing(folder, wanted))
    part = target.with_name(target.name + ".part")
    rows = labelled = 0
    with Labels() as labels, contextlib.ExitStack() as stack:
        try:
            for each in labels_of:
                for lines in payload_files.read_labels(each.path):
                    labels.add(lines)
            types = _types(files)
            plain = _plain_names(list(types))
            schema = pa.schema(
                [pa.field(plain[name], kind) for name, kind in types.items()]
                + [pa.field(LABEL, _label_type(labels.kind))]
            )
            writer: _Writer | None = None
            for each in files:
                size = each.path.stat().st_size if each.path.exists() else 0
                for batch in _rows(each, wanted):
                    known = labels.of(sorted(set(batch["request_id"].to_pylist())))
                    table = _joined(batch, known, types, schema)
                    if wanted.labelled_only:
                        table = table.filter(table[LABEL].is_valid())
                    if table.num_rows:
                        if writer is None:
                            writer = _Writer(part, form, schema)
                            stack.callback(part.unlink, missing_ok=True)
                            stack.callback(writer.close)
                        writer.write(table)
                        rows += table.num_rows
                        labelled += table.num_rows - table[LABEL].null_count
                progress(size)
            if writer is None:
                raise NotFound(_nothing(folder, wanted))
            writer.close()
            part.replace(target)
        except OSError as exc:
            raise InvalidRequest(f"payloads of {folder} cannot be exported to {target}: {exc}") from exc
        except pa.ArrowException as exc:
            raise InvalidRequest(f"payloads of {folder} cannot be read: {exc}") from exc
    return Summary(rows=rows, labelled=labelled, columns=tuple(schema.names))


def show(folder: Path, wanted: Filter = Filter()) -> list[Shown]:
    """What a log has, by model and version.

    Raises:
        NotFound: there is no such folder.
    """
    import pyarrow.compute as pc

    files, labels_of = _chosen(folder, wanted)
    found: dict[tuple[str, str], Shown] = {}
    with Labels() as labels:
        for each in labels_of:
            for lines in payload_files.read_labels(each.path):
                labels.add(lines)
        for each in files:
            shown: Shown | None = None
            for batch in _rows(each, wanted):
                model, version = batch["model"][0].as_py(), batch["version"][0].as_py()
                shown = found.setdefault((model, version), Shown(model=model, version=version))
                ids = batch["request_id"].filter(pc.equal(batch["row"], 0)).to_pylist()
                shown.rows += batch.num_rows
                shown.requests += len(ids)
                shown.labelled += len(labels.of(sorted(set(ids))))
                times = pc.min_max(batch["time"])
                shown.first = min(shown.first, times["min"].as_py().timestamp())
                shown.last = max(shown.last, times["max"].as_py().timestamp())
            if shown is not None and each.path.exists():
                shown.files += 1
                shown.bytes += each.path.stat().st_size
    return sorted(found.values(), key=lambda each: (each.model, each.version))


def bytes_of(folder: Path, wanted: Filter) -> int:
    """Of the files that an export reads."""
    return sum(each.path.stat().st_size for each in _chosen(folder, wanted)[0] if each.path.exists())


def seconds_of(text: str) -> float:
    """A moment as ISO 8601 has it, UTC where it names no zone; or how long ago: `90m`, `12h`, `7d`.

    Raises:
        ValueError: it is neither.
    """
    units = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
    if text[:-1].isdigit() and text[-1:] in units:
        return dt.datetime.now(dt.UTC).timestamp() - int(text[:-1]) * units[text[-1]]
    moment = dt.datetime.fromisoformat(text)
    return (moment if moment.tzinfo is not None else moment.replace(tzinfo=dt.UTC)).timestamp()


def _chosen(folder: Path, wanted: Filter) -> tuple[list[LogFile], list[LogFile]]:
    if not folder.is_dir():
        raise NotFound(f"there is no payload log at {folder}; its folder is the setting payloads.sink")
    files = payload_files.find(folder)
    rows = [each for each in files if not each.is_labels and _is_wanted(folder, each.path, wanted)]
    return rows, [each for each in files if each.is_labels]


def _is_wanted(folder: Path, path: Path, wanted: Filter) -> bool:
    model, version, *_ = *path.relative_to(folder).parts, ""
    return (not wanted.model or model == folder_name(wanted.model)) and (
        not wanted.version or version == folder_name(wanted.version)
    )


def _nothing(folder: Path, wanted: Filter) -> str:
    of = f" of model '{wanted.model}'" if wanted.model else ""
    labelled = " with labels" if wanted.labelled_only else ""
    return f"the payload log {folder} has no such rows{labelled}{of}; `headrace payloads show` lists what it has"


def _rows(file: LogFile, wanted: Filter) -> Iterator[pa.Table]:
    import pyarrow as pa
    import pyarrow.compute as pc

    for batch in payload_files.read(file.path, rows_at_once=_ROWS_AT_ONCE):
        table = pa.Table.from_batches([batch])
        if wanted.since > -math.inf or wanted.until < math.inf:
            micros = pc.cast(table["time"], pa.int64())
            low = max(wanted.since * 1e6, -(2.0**62))
            high = min(wanted.until * 1e6, 2.0**62)
            table = table.filter(pc.and_(pc.greater_equal(micros, math.ceil(low)), pc.less(micros, math.ceil(high))))
        if table.num_rows:
            yield table


def _types(files: Sequence[LogFile]) -> dict[str, pa.DataType]:
    import pyarrow as pa

    found: dict[str, pa.DataType] = {}
    for file in files:
        for schema in payload_files.schemas(file.path):
            for field in schema:
                found[field.name] = _both(found.get(field.name, pa.null()), field.type)
    return found


def _both(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    import pyarrow as pa

    if one.equals(other):
        return one
    try:
        schemas = [pa.schema([("x", one)]), pa.schema([("x", other)])]
        return pa.unify_schemas(schemas, promote_options="permissive").field("x").type
    except pa.ArrowException:
        return pa.string()


def _plain_names(names: Sequence[str]) -> dict[str, str]:
    """`input.x` as `x` where nothing else is called so."""
    taken = {*names, LABEL}
    return {
        name: name.removeprefix(INPUT) if name.startswith(INPUT) and name.removeprefix(INPUT) not in taken else name
        for name in names
    }


def _label_type(kind: str) -> pa.DataType:
    import pyarrow as pa

    return {"none": pa.null(), "bool": pa.bool_(), "int": pa.int64(), "float": pa.float64()}.get(kind, pa.string())


def _joined(rows: pa.Table, known: dict[str, list[Any]], types: dict[str, pa.DataType], schema: pa.Schema) -> pa.Table:
    import pyarrow as pa

    columns = [
        _cast(rows[name], kind) if name in rows.column_names else pa.nulls(rows.num_rows, kind)
        for name, kind in types.items()
    ]
    labels: list[Any] = []
    for name, row in zip(rows["request_id"].to_pylist(), rows["row"].to_pylist(), strict=True):
        mine = known.get(name, ())
        labels.append(mine[row] if row < len(mine) else None)
    kind = schema.field(LABEL).type
    if kind == pa.string():
        labels = [each if each is None or isinstance(each, str) else json_of(each).decode() for each in labels]
    return pa.Table.from_arrays([*columns, pa.array(labels, kind)], schema=schema)


def _cast(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    import pyarrow as pa

    if column.type.equals(kind):
        return column
    if kind == pa.string() and not pa.types.is_binary(column.type):
        texts = [
            each if each is None or isinstance(each, str) else json_of(each).decode() for each in column.to_pylist()
        ]
        return pa.chunked_array([pa.array(texts, kind)])
    return column.cast(kind)


class _Writer:
    """One file in one of three forms."""

    def __init__(self, path: Path, form: Format, schema: pa.Schema) -> None:
        import pyarrow as pa
        import pyarrow.csv
        import pyarrow.parquet

        self._file = path.open("wb")
        self._flat: list[str] = []
        self._writer: Any = None
        if form == "parquet":
            self._writer = pyarrow.parquet.ParquetWriter(self._file, schema, compression="zstd")
        elif form == "csv":
            self._flat = [field.name for field in schema if pa.types.is_nested(field.type)]
            flat = pa.schema(
                [(field.name, pa.string() if field.name in self._flat else field.type) for field in schema]
            )
            self._writer = pyarrow.csv.CSVWriter(self._file, flat)

    def write(self, table: pa.Table) -> None:
        import pyarrow as pa

        if self._writer is None:
            self._file.writelines(json_of(row) + b"\n" for row in table.to_pylist())
            return
        for name in self._flat:
            at = table.schema.get_field_index(name)
            table = table.set_column(at, name, _cast(table[name], pa.string()))
        self._writer.write_table(table)

    def close(self) -> None:
        if self._file.closed:
            return
        try:
            if self._writer is not None:
                self._writer.close()
        finally:
            self._file.close()
