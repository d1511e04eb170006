"""Steps 2 and 7 of the walk for MLflow's scoring protocol (`POST /invocations`). The HTTP server calls it.

Source: the scoring server of MLflow 3, observed. A body is CSV with a header line, or a JSON object with one of
`dataframe_split`, `dataframe_records` (tables), `instances` (rows, as in V1) and `inputs` (tensors), beside `params`.
The answer is `{"predictions": ...}`: a list for an array, records for a table, lists by name for several tensors.

What differs from MLflow's own server, each time for the better: NaN and infinities are answered as `null`, which is
JSON; a table of plain numbers without column names goes by the order of the model's columns. Columns that the model
does not have are left out of tables, as there. Parquet is not taken.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
import numpy as np
import orjson

from headrace.errors import InvalidRequest, RuntimeFailed
from headrace.payload import DTYPES, EMPTY, Array, InferenceRequest, InferenceResponse, Signature, Tensor, TensorSpec
from headrace.protocols import numbers, status
from headrace.protocols.documents import check_depth, read_json

PROTOCOL: Final = "mlflow"
UNNAMED: Final = "input-0"
"""The name of a single tensor for a model that declares no inputs."""
FORMS: Final = ("dataframe_split", "dataframe_records", "instances", "inputs")
_ONE_ARRAY: Final = frozenset({"predict", "output-0", "output-1"})
"""What a runtime calls an answer that has no name."""
_MISSING: Final = frozenset(
    {"", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA"}
    | {"NULL", "NaN", "None", "n/a", "nan", "null"}
)
"""Cells that pandas reads as no value."""
_TRUTH: Final[Mapping[str, bool]] = {"True": True, "TRUE": True, "true": True} | {
    "False": False,
    "FALSE": False,
    "false": False,
}
_CODES: Final[Mapping[int, str]] = {
    400: "BAD_REQUEST",
    404: "RESOURCE_DOES_NOT_EXIST",
    413: "BAD_REQUEST",
    501: "NOT_IMPLEMENTED",
    503: "TEMPORARILY_UNAVAILABLE",
    504: "TEMPORARILY_UNAVAILABLE",
}

Table = Mapping[str, Sequence[Any]]
"""Values by column; None is no value."""


def refusal(content_type: str) -> str:
    """Why a body of this content type is not taken; empty: it is. No content type at all is taken as JSON."""
    kind = content_type.partition(";")[0].strip().lower()
    if kind in {"", "application/json", "text/csv"}:
        return ""
    return f"content type '{content_type}' is not taken; send application/json or text/csv"


def parse(
    body: bytes | memoryview,
    *,
    content_type: str,
    model_name: str,
    model_version: str = "",
    signature: Signature | None = None,
    headers: Mapping[str, str] = EMPTY,
    deadline: float | None = None,
) -> InferenceRequest:
    """A scoring request.

    Args:
        body: The whole body, its content encoding undone.
        content_type: One that `refusal` has nothing against.
        model_name: The model's.
        model_version: Empty: the default version.
        signature: The model's: gives names, datatypes and ranks.
        headers: The transport's, lower-cased.
        deadline: On the clock of `time.monotonic`, seconds.

    Raises:
        InvalidRequest: the body is none of the forms, or a value does not fit the model's input.
    """
    specs = signature.inputs if signature is not None else ()
    parameters: Mapping[str, Any] = EMPTY
    if content_type.lower().startswith("text/csv"):
        tensors = _of_table(_read_csv(bytes(body), specs), specs, model_name)
    else:
        document = read_json(body)
        if type(document) is not dict:
            raise InvalidRequest(f"the body must be a JSON object with exactly one of {', '.join(FORMS)}")
        found = [form for form in FORMS if form in document]
        if len(found) != 1:
            raise InvalidRequest(
                f"the body must hold exactly one of {', '.join(FORMS)}; got {', '.join(found) or 'none of them'}"
            )
        parameters = document.get("params") or EMPTY
        if not isinstance(parameters, Mapping):
            raise InvalidRequest("'params' must be an object")
        check_depth(dict(parameters), "'params'")
        tensors = _parse_form(found[0], document[found[0]], specs, model_name)
    return InferenceRequest(
        model_name=model_name,
        model_version=model_version,
        inputs=tensors,
        parameters=parameters,
        headers=headers,
        protocol=PROTOCOL,
        deadline=deadline,
    )


def render(response: InferenceResponse) -> bytes:
    """An answer as MLflow's server gives it.

    Raises:
        RuntimeFailed: an output or its text is nothing that JSON carries.
    """
    outputs = response.outputs
    if len(outputs) == 1 and (outputs[0].name in _ONE_ARRAY or outputs[0].data.ndim > 1):
        predictions: Any = _plain(outputs[0])
    elif outputs and all(each.data.ndim == 1 and len(each.data) == len(outputs[0].data) for each in outputs):
        names = [each.name for each in outputs]
        columns = [_plain(each) for each in outputs]
        predictions = [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
    else:
        predictions = {each.name: _plain(each) for each in outputs}
    try:
        return orjson.dumps({"predictions": predictions}, option=orjson.OPT_SERIALIZE_NUMPY)
    except TypeError as exc:
        raise RuntimeFailed(f"an output holds what JSON cannot carry: {exc}") from exc


def render_error(error: BaseException, code: int) -> bytes:
    """The body of an error's reply, in MLflow's form.

    Args:
        error: What went wrong.
        code: The reply's HTTP status.
    """
    name = _CODES.get(code, "BAD_REQUEST" if code < 500 else "INTERNAL_ERROR")
    return msgspec.json.encode({"error_code": name, "message": status.public_text(error)})


# -- forms --


def _parse_form(form: str, given: Any, specs: Sequence[TensorSpec], model: str) -> tuple[Tensor, ...]:
    match form:
        case "dataframe_split":
            return _of_table(_read_split(given, specs), specs, model)
        case "dataframe_records":
            if type(given) is not list or any(type(row) is not dict for row in given):
                raise InvalidRequest("dataframe_records must be a list of objects, one a row")
            return _of_table(_read_records(given), specs, model)
        case "instances":
            if type(given) is not list:
                raise InvalidRequest("instances must be a list, one element a row")
            if given and all(type(row) is dict for row in given):
                return _of_table(_read_records(given), specs, model)
            return _of_values(given, specs, model)
        case _:
            if type(given) is dict:
                columns = {name: values if type(values) is list else [values] for name, values in given.items()}
                return _of_table(columns, specs, model)
            if type(given) is list and given and all(type(row) is dict for row in given):
                return _of_table(_read_records(given), specs, model)
            return _of_values(given if type(given) is list else [given], specs, model)


def _read_split(given: Any, specs: Sequence[TensorSpec]) -> Table:
    if type(given) is not dict or type(given.get("data")) is not list:
        raise InvalidRequest("dataframe_split must be an object with 'columns' and 'data', a list of rows")
    rows = given["data"]
    if any(type(row) is not list for row in rows):
        raise InvalidRequest("dataframe_split: every row of 'data' must be a list")
    width = len(rows[0]) if rows else 0
    columns = given.get("columns")
    if columns is None:
        columns = [spec.name for spec in specs] if len(specs) == width else list(range(width))
    if type(columns) is not list:
        raise InvalidRequest("dataframe_split: 'columns' must be a list of names")
    names = [str(name) for name in columns]
    if len(set(names)) != len(names):
        raise InvalidRequest("dataframe_split: a column is named twice")
    for index, row in enumerate(rows):
        if len(row) != len(names):
            raise InvalidRequest(f"dataframe_split: row {index} has {len(row)} values for {len(names)} columns")
    return {name: [row[position] for row in rows] for position, name in enumerate(names)}


def _read_records(rows: list[dict[str, Any]]) -> Table:
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def _read_csv(body: bytes, specs: Sequence[TensorSpec]) -> Table:
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        raise InvalidRequest(f"the CSV is not UTF-8: {exc.reason} at byte {exc.start}") from None
    try:
        rows = [row for row in csv.reader(io.StringIO(text, newline=""), strict=True) if row]
    except csv.Error as exc:
        raise InvalidRequest(f"the body is not CSV: {exc}") from None
    if not rows:
        raise InvalidRequest("the CSV is empty; expected a line of column names and a line for each row")
    names, *cells = rows
    if len(set(names)) != len(names):
        raise InvalidRequest("the CSV names a column twice")
    for index, row in enumerate(cells):
        if len(row) > len(names):
            raise InvalidRequest(f"line {index + 2} of the CSV has {len(row)} values for {len(names)} columns")
        row.extend([""] * (len(names) - len(row)))
    texts = {spec.name for spec in specs if spec.datatype == "BYTES"}
    return {
        name: [None if row[position] in _MISSING else row[position] for row in cells]
        if name in texts
        else _guess_cells([row[position] for row in cells])
        for position, name in enumerate(names)
    }


def _guess_cells(cells: list[str]) -> list[Any]:
    """The cells of a column as the narrowest of booleans, integers, numbers and text that all of them are."""
    values = [None if cell in _MISSING else cell.strip() for cell in cells]
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


# -- values to tensors --


def _of_table(table: Table, specs: Sequence[TensorSpec], model: str) -> tuple[Tensor, ...]:
    known = {spec.name: spec for spec in specs}
    if len(specs) == 1 and len(specs[0].shape) > 1 and specs[0].name not in table:
        lengths = {name: len(values) for name, values in table.items()}
        if len(set(lengths.values())) > 1:
            shown = ", ".join(f"'{name}' {length}" for name, length in lengths.items())
            raise InvalidRequest(f"the columns must have as many rows as each other, got: {shown}")
        return _of_values([list(row) for row in zip(*table.values(), strict=True)], specs, model)
    chosen = {name: values for name, values in table.items() if name in known} if known else table
    if known and not chosen and table:
        raise InvalidRequest(
            f"none of the columns {', '.join(map(repr, table))} is an input of model '{model}', which takes "
            + ", ".join(known)
        )
    tensors = []
    for name, values in chosen.items():
        spec = known.get(name)
        if spec is not None and spec.optional and all(value is None for value in values):
            continue
        tensors.append(_tensor(spec or name, list(values), model))
    return tuple(tensors)


def _of_values(values: list[Any], specs: Sequence[TensorSpec], model: str) -> tuple[Tensor, ...]:
    """One tensor without a name; rows of one value for each column where the model takes columns."""
    required = [spec for spec in specs if not spec.optional]
    if len(required) > 1:
        if any(type(row) is not list or len(row) != len(required) for row in values):
            names = ", ".join(spec.name for spec in required)
            raise InvalidRequest(f"model '{model}' takes {len(required)} inputs: name them in each row: {names}")
        columns = [[row[position] for row in values] for position in range(len(required))]
        return tuple(_tensor(spec, column, model) for spec, column in zip(required, columns, strict=True))
    return (_tensor(next(iter(required or specs), UNNAMED), values, model),)


def _tensor(spec: TensorSpec | str, values: list[Any], model: str) -> Tensor:
    if isinstance(spec, str):
        name, datatype, wanted = spec, "", 0
    else:
        name, datatype, wanted = spec.name, spec.datatype, len(spec.shape)
    what = f"input '{name}' for model '{model}'"
    if datatype == "BYTES" and wanted == 1:
        dimensions, flat = [len(values)], values  # a list in a cell is a value
    else:
        dimensions, flat = numbers.flatten(values, what)
    datatype = datatype or _guess(flat)
    data = _typed(flat, datatype, what)
    if wanted == len(dimensions) - 1 and dimensions[-1] == 1:
        dimensions = dimensions[:-1]
    elif wanted == len(dimensions) + 1:
        dimensions = [*dimensions, 1]
    return Tensor(name, datatype, data.reshape(dimensions))


def _guess(flat: list[Any]) -> str:
    kinds = set(map(type, flat))
    if kinds == {bool}:
        return "BOOL"
    if kinds == {int}:
        return "INT64" if max(flat) < 1 << 63 else "UINT64"
    return "FP64" if kinds <= {int, float, type(None)} else "BYTES"


def _typed(flat: list[Any], datatype: str, what: str) -> Array:
    if datatype == "BYTES":
        array: Array = np.empty(len(flat), np.object_)
        array[:] = [_text(each, index, what) for index, each in enumerate(flat)]
        return array
    if datatype in {"FP16", "BF16"}:
        raise InvalidRequest(f"{what} is {datatype}, which this protocol does not carry; ask by the V2 protocol")
    if DTYPES[datatype].kind == "f":  # CSV has texts for what JSON writes as null
        flat = [None if type(each) is float and math.isnan(each) else each for each in flat]
        infinite = [each for each in flat if type(each) is float and math.isinf(each)]
        if infinite:
            return np.array([math.nan if each is None else each for each in flat], DTYPES[datatype])
    return numbers.typed(flat, datatype, what)


def _text(value: Any, index: int, what: str) -> bytes:
    if type(value) is str:
        return value.encode()
    if type(value) in {dict, list}:  # the runtime takes nested values as their JSON
        return msgspec.json.encode(value)
    kind = "no value" if value is None else f"the {type(value).__name__} {value}"
    raise InvalidRequest(f"{what}: row {index} holds {kind}; expected text")


# -- tensors to values --


def _plain(tensor: Tensor) -> Any:
    if tensor.datatype == "BYTES":
        texts: Array = np.empty(tensor.data.size, np.object_)
        try:
            texts[:] = [each if type(each) is str else each.decode() for each in tensor.data.reshape(-1).tolist()]
        except (UnicodeDecodeError, AttributeError) as exc:
            raise RuntimeFailed(f"output '{tensor.name}' holds elements that are not text, which JSON carries") from exc
        return texts.reshape(tensor.data.shape).tolist()
    if tensor.datatype == "BF16":
        return (tensor.data.astype(np.uint32) << 16).view(np.float32).tolist()
    return tensor.data.astype(np.float32).tolist() if tensor.datatype == "FP16" else tensor.data.tolist()
