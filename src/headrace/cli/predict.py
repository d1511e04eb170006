"""`headrace predict`."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from headrace.cli import output, remote
from headrace.errors import InvalidRequest

if TYPE_CHECKING:
    from headrace.payload import Array, TensorSpec

_ROWS_SHOWN = 50


@click.command(short_help="Ask a served model for answers.")
@click.argument("model")
@click.option("--data", metavar="FILE", help="Rows: .json, .jsonl, .csv, .npy, .npz, .parquet; - reads standard input.")
@click.option("--input", "named", multiple=True, metavar="NAME=VALUE", help="One input: JSON, or @FILE. Repeatable.")
@click.option("--output", "outputs", multiple=True, metavar="NAME", help="An output to ask for. Repeatable.")
@click.option("--parameter", "parameters", multiple=True, metavar="NAME=VALUE", help="A request parameter. Repeatable.")
@click.option("--model-version", default="", metavar="VERSION", help="Default: the newest that is ready.")
@click.option("--json", "as_json", is_flag=True, help="Print the answers as JSON.")
@remote.server_options
def command(
    model: str,
    *,
    data: str | None,
    named: tuple[str, ...],
    outputs: tuple[str, ...],
    parameters: tuple[str, ...],
    model_version: str,
    as_json: bool,
    url: str,
    timeout: float,
    headers: tuple[str, ...],
) -> None:
    """Ask a served model for answers.

    They are printed as a table, one line for each row, or as JSON.

    JSON data is a list of rows, a list of objects (column: value), an object of columns, or the body of a V1 or
    V2 request. CSV has a head line when its first line is not all numbers.

    \b
    Examples:
      headrace predict iris --data rows.csv
      headrace predict iris --input x='[[5.1, 3.5, 1.4, 0.2]]'
      echo '[[5.1, 3.5, 1.4, 0.2]]' | headrace predict iris --data -
      headrace predict iris --data rows.parquet --output predict_proba --json
    """  # noqa: D301 - \b is click's mark for lines to be left as they are
    if bool(data) == bool(named):
        raise click.UsageError("give rows by --data, or inputs by --input", click.get_current_context())
    asked: dict[str, Any] = dict(_pair(text, "--parameter") for text in parameters)
    if data:
        values = read(data)
    else:
        values = {name: _as_array(value) for name, value in (_pair(text, "--input") for text in named)}
    client = remote.connect(url, timeout, headers)
    with output.working(f"asking {model}"), client:
        if data:
            values = fit(values, client.metadata(model, version=model_version).inputs)
        answer = client.predict(
            values, model=model, version=model_version, outputs=outputs or None, parameters=asked or None, named=True
        )
    arrays: Mapping[str, Array] = answer if isinstance(answer, dict) else {"output": answer}
    if as_json:
        output.write_json({name: _plain(array) for name, array in arrays.items()})
    else:
        _write(arrays)


def read(source: str) -> Any:
    """The rows in a file, or on standard input for `-`: an array, or arrays by column or input name.

    Raises:
        InvalidRequest: the file cannot be read, or is not what its name or first bytes say.
    """
    try:
        content = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
    except OSError as exc:
        raise InvalidRequest(f"cannot read --data {source}: {exc.strerror or exc}") from exc
    kind = Path(source).suffix.lower() if source != "-" else _sniff(content)
    readers = {
        ".json": _read_json,
        ".jsonl": _read_json_lines,
        ".csv": _read_csv,
        ".npy": _read_numpy,
        ".npz": _read_numpy,
        ".parquet": _read_parquet,
    }
    if kind not in readers:
        raise InvalidRequest(f"--data {source}: expected one of {', '.join(readers)}, got a {kind or 'nameless'} file")
    try:
        return readers[kind](content)
    except (ValueError, KeyError, UnicodeDecodeError, csv.Error) as exc:
        raise InvalidRequest(f"--data {source} is not what a {kind} file should be: {exc}") from exc


def fit(values: Any, specs: Sequence[TensorSpec]) -> Any:
    """Columns by name as the model's inputs: one each where it has them by these names, else one matrix of them."""
    import numpy as np

    if not isinstance(values, dict) or not specs:
        return values
    required = [spec.name for spec in specs if not spec.optional]
    if set(required) <= set(values):
        known = {spec.name for spec in specs}
        return {name: value for name, value in values.items() if name in known}
    if len(specs) == 1:
        columns = [np.asarray(column) for column in values.values()]
        return np.column_stack(columns) if len(columns) > 1 else columns[0]
    missing = ", ".join(name for name in required if name not in values)
    raise InvalidRequest(f"the model's inputs {missing} are not among the columns {', '.join(values)}")


def _sniff(content: bytes) -> str:
    if content.startswith(b"\x93NUMPY"):
        return ".npy"
    if content.startswith(b"PK\x03\x04"):
        return ".npz"
    if content.startswith(b"PAR1"):
        return ".parquet"
    return ".json" if content.lstrip()[:1] in {b"[", b"{"} else ".csv"


def _read_json(content: bytes) -> Any:
    return _of_json(json.loads(content))


def _read_json_lines(content: bytes) -> Any:
    return _of_json([json.loads(line) for line in content.splitlines() if line.strip()])


def _of_json(value: Any) -> Any:
    if isinstance(value, dict) and isinstance(value.get("instances"), list):
        value = value["instances"]
    if isinstance(value, dict) and isinstance(value.get("inputs"), list):
        return {each["name"]: _of_tensor(each) for each in value["inputs"]}
    if isinstance(value, dict) and value and all(isinstance(column, dict) for column in value.values()):
        value = {name: list(column.values()) for name, column in value.items()}  # as DataFrame.to_json() writes them
    if isinstance(value, dict):
        return {name: _as_array(column) for name, column in value.items()}
    if isinstance(value, list) and value and all(isinstance(row, dict) for row in value):
        names = list(value[0])
        if any(set(row) != set(names) for row in value):
            raise ValueError(f"every row should have the columns {', '.join(names)}")
        return {name: _as_array([row[name] for row in value]) for name in names}
    return _as_array(value)


def _of_tensor(tensor: Mapping[str, Any]) -> Any:
    import numpy as np

    from headrace.payload import DTYPES

    if tensor["datatype"] not in DTYPES:
        raise ValueError(f"unknown datatype {tensor['datatype']!r}; expected one of {', '.join(DTYPES)}")
    return np.array(tensor["data"], dtype=DTYPES[tensor["datatype"]]).reshape(tensor["shape"])


def _as_array(value: Any) -> Any:
    import numpy as np

    return np.asarray(value) if isinstance(value, list) else np.asarray([value])


def _read_csv(content: bytes) -> Any:
    rows = [row for row in csv.reader(io.StringIO(content.decode("utf-8-sig"))) if row]
    if not rows:
        raise ValueError("it has no rows")
    width = len(rows[0])
    for at, row in enumerate(rows, start=1):
        if len(row) != width:
            raise ValueError(f"row {at} has {len(row)} columns, the first has {width}")
    if all(_is_number(cell) for cell in rows[0]):
        return _as_array([[float(cell) if cell else float("nan") for cell in row] for row in rows])
    names, cells = rows[0], rows[1:]
    return {name: _typed([row[at] for row in cells]) for at, name in enumerate(names)}


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _typed(cells: list[str]) -> Any:
    """A column of text as whole numbers, numbers, or text; an empty cell among numbers is NaN."""
    if all(cell.removeprefix("-").isdecimal() for cell in cells):
        return _as_array([int(cell) for cell in cells])
    if all(not cell or _is_number(cell) for cell in cells):
        return _as_array([float(cell) if cell else float("nan") for cell in cells])
    return _as_array(cells)


def _read_numpy(content: bytes) -> Any:
    import numpy as np

    loaded = np.load(io.BytesIO(content), allow_pickle=False)
    return loaded if isinstance(loaded, np.ndarray) else {name: loaded[name] for name in loaded.files}


def _read_parquet(content: bytes) -> Any:
    try:
        import pandas as pd
    except ImportError as exc:
        raise InvalidRequest(
            "reading .parquet needs pandas and pyarrow: pip install 'headrace[pandas]' pyarrow"
        ) from exc
    try:
        return pd.read_parquet(io.BytesIO(content))
    except ImportError as exc:
        raise InvalidRequest(f"reading .parquet needs pyarrow: pip install pyarrow ({exc})") from exc


def _pair(text: str, option: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise click.UsageError(f"{option} expected NAME=VALUE, got {text!r}", click.get_current_context())
    if value.startswith("@"):
        return name, read(value[1:])
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _plain(array: Array) -> Any:
    values = array.tolist()
    return _texts(values) if array.dtype.kind == "O" else values


def _texts(value: Any) -> Any:
    if isinstance(value, list):
        return [_texts(each) for each in value]
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else value


def _write(arrays: Mapping[str, Array]) -> None:
    columns: list[str] = []
    cells: list[list[str]] = []
    for name, array in arrays.items():
        table = array.reshape(len(array), -1) if array.ndim else array.reshape(1, 1)
        width = table.shape[1]
        columns += [name] if width == 1 else [f"{name}[{at}]" for at in range(width)]
        plain = _plain(table)
        cells += [[_cell(row[at]) for row in plain] for at in range(width)]
    height = max((len(column) for column in cells), default=0)
    shown = min(height, _ROWS_SHOWN) if output.on_terminal() else height
    rows = [[str(at), *(column[at] if at < len(column) else "" for column in cells)] for at in range(shown)]
    output.write_table(["row", *columns], rows)
    if shown < height:
        click.echo(f"and {height - shown} more rows; --json prints all")


def _cell(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
