"""Steps 2 and 7 of the walk for `POST /invocations`: MLflow's scoring protocol, and what callers of SageMaker send.
`server.invocations` calls it, for models of any runtime.

Sources: the scoring server of MLflow 3, observed (https://mlflow.org/docs/latest/ml/deployment/); SageMaker's common
data formats (https://docs.aws.amazon.com/sagemaker/latest/dg/cdf-inference.html). A body is

* a JSON object with one of `dataframe_split`, `dataframe_records` (tables), `instances` (rows, as in V1) and `inputs`
  (tensors), beside `params`;
* CSV (`csv_table`), Parquet (`parquet_table`), a row of JSON a line (`application/jsonlines`), an array of numpy's
  (`application/x-npy`).

The answer is `{"predictions": ...}`: a list for an array, records for a table, lists by name for several tensors; or
CSV, JSON lines or numpy's form for those who accept nothing better.

What differs from MLflow's own server, each time for the better: NaN and infinities are answered as `null`, which is
JSON; a table of plain numbers without column names goes by the order of the model's columns; a number that its column's
type cannot hold is refused rather than cut; CSV may lack its header. Columns that the model does not have are left out
of tables, as there; bytes that are no text are answered in base64, as there.
"""

from __future__ import annotations

import base64
import binascii
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
import numpy as np
import orjson
import simdjson

from headrace.errors import InvalidRequest, RuntimeFailed
from headrace.payload import DTYPES, EMPTY, Array, InferenceRequest, InferenceResponse, Signature, Tensor, TensorSpec
from headrace.protocols import csv_table, numbers, parquet_table, status
from headrace.protocols.documents import check_depth, read_json

PROTOCOL: Final = "mlflow"
UNNAMED: Final = "input-0"
"""The name of a single tensor for a model that declares no inputs."""
FORMS: Final = ("dataframe_split", "dataframe_records", "instances", "inputs")

JSON: Final = "application/json"
CSV: Final = "text/csv"
LINES: Final = "application/jsonlines"
NPY: Final = "application/x-npy"
PARQUET: Final = "application/vnd.apache.parquet"
_KINDS: Final[Mapping[str, str]] = {
    JSON: JSON,
    CSV: CSV,
    LINES: LINES,
    "application/x-jsonlines": LINES,
    "application/x-ndjson": LINES,
    NPY: NPY,
}
_TAKEN: Final = {**_KINDS, "": JSON, PARQUET: PARQUET}
"""Content types of bodies; those above are of answers too."""
_ACCEPTED: Final = {**_KINDS, "*/*": JSON, "application/*": JSON, "text/*": CSV}
"""What a header `Accept` may name."""
_ONE_ARRAY: Final = frozenset({"predict", "output-0", "output-1"})
"""What a runtime calls an answer that has no name."""
_CODES: Final[Mapping[int, str]] = {
    400: "BAD_REQUEST",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "RESOURCE_DOES_NOT_EXIST",
    413: "BAD_REQUEST",
    429: "REQUEST_LIMIT_EXCEEDED",
    501: "NOT_IMPLEMENTED",
    503: "TEMPORARILY_UNAVAILABLE",
    504: "TEMPORARILY_UNAVAILABLE",
}
_OLD: Final = (
    "that is how MLflow before 2.0 was asked; put a table into "
    '{"dataframe_split": {"columns": [...], "data": [[...]]}} or {"dataframe_records": [{...}]}'
)
_WIDE_BYTES: Final = 2048
"""From here on simdjson, which makes no object of a number, is the faster reader."""
_BRACKET: Final = ord("[")
_EXACT: Final = float(1 << 53)
_NPY_HEADER_BYTES: Final = 10_000

Table = Mapping[str, Sequence[Any] | Array]
"""Values by column; None is no value."""


class Rendered(msgspec.Struct, frozen=True):
    """The body of an answer and what it is."""

    body: bytes
    content_type: str


class _Inputs(msgspec.Struct, frozen=True):
    """What a model is known to take."""

    model: str
    specs: Sequence[TensorSpec] = ()
    strict: bool = True
    """As of `Signature`: otherwise a table's columns are found by name even where the model takes a matrix."""
    binary: frozenset[str] = frozenset()
    """Columns that come as base64."""
    missing_texts: bool = False
    """As of `Signature`."""

    @property
    def required(self) -> list[TensorSpec]:
        """Those that must come."""
        return [spec for spec in self.specs if not spec.optional]


def refusal(content_type: str) -> str:
    """Why a body of this content type is not taken; empty: it is. No content type at all is taken as JSON."""
    kind, parameters = _media(content_type)
    if kind not in _TAKEN:
        return f"content type '{content_type}' is not taken; send {JSON}, {CSV}, {PARQUET}, {LINES} or {NPY}"
    if kind == PARQUET and not parquet_table.is_readable():
        return f"content type '{content_type}' needs pyarrow on the server: pip install 'headrace[batch]'"
    if parameters.get("charset", "utf-8") not in {"utf-8", "utf8", "us-ascii"}:
        return f"charset '{parameters['charset']}' is not taken; send UTF-8"
    if "format" in parameters:
        return f"content type '{content_type}' has a parameter 'format': {_OLD}"
    if parameters.get("header", "present") not in {"present", "absent"}:
        return f"content type '{content_type}': the parameter 'header' must be present or absent"
    return ""


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
    inputs = _Inputs(model_name)
    if signature is not None:
        binary = signature.properties.get("binary_columns", "") if signature.properties else ""
        inputs = _Inputs(
            model_name,
            signature.inputs,
            strict=signature.strict,
            binary=frozenset(binary.split(",")) if binary else frozenset(),
            missing_texts=signature.missing_texts,
        )
    parameters: Mapping[str, Any] = EMPTY
    kind, told = _media(content_type)
    match _TAKEN[kind]:
        case "application/json":
            tensors, parameters = _of_json(body, inputs)
        case "text/csv":
            header = told["header"] == "present" if "header" in told else None
            tensors = _of_csv(csv_table.read(bytes(body), inputs.specs, header=header), inputs)
        case "application/vnd.apache.parquet":
            tensors = _of_table(parquet_table.read(bytes(body)), True, inputs)
        case "application/jsonlines":
            tensors = _of_lines(bytes(body), inputs)
        case _:
            tensors = _of_npy(bytes(body), inputs)
    return InferenceRequest(
        model_name=model_name,
        model_version=model_version,
        inputs=tensors,
        parameters=parameters,
        headers=headers,
        protocol=PROTOCOL,
        deadline=deadline,
    )


def render(response: InferenceResponse, *, accept: str = "", answer: str = "") -> Rendered:
    """An answer as MLflow's server gives it, or in a form that the caller wants more.

    Args:
        response: The model's.
        accept: The caller's header `Accept`. What is not known there is passed over, as MLflow does: JSON is the answer
            where nothing else is asked for.
        answer: What the model answers with: `table` (records), `array` (a list), `tensors` (lists by name); empty: as
            it looks.

    Raises:
        RuntimeFailed: an output or its text is nothing that JSON carries.
        InvalidRequest: the form that is asked for does not carry this answer.
    """
    outputs = response.outputs
    form, told = _accepted(accept)
    if form == NPY:
        return Rendered(_to_npy(outputs), NPY)
    if form == CSV:
        names, columns = _to_columns(outputs)
        return Rendered(
            csv_table.write(columns, names if told.get("header") == "present" else ()), f"{CSV}; charset=utf-8"
        )
    predictions = _predictions(outputs, answer)
    try:
        if form == LINES:
            rows = [predictions] if type(predictions) is dict else list(predictions)
            return Rendered(
                b"".join(orjson.dumps(row, option=_OPTIONS | orjson.OPT_APPEND_NEWLINE) for row in rows), LINES
            )
        return Rendered(orjson.dumps({"predictions": predictions}, option=_OPTIONS), JSON)
    except TypeError as exc:
        raise RuntimeFailed(f"an output holds what JSON cannot carry: {exc}") from exc


_OPTIONS: Final = orjson.OPT_SERIALIZE_NUMPY


def render_error(error: BaseException, code: int) -> bytes:
    """The body of an error's reply, in MLflow's form.

    Args:
        error: What went wrong.
        code: The reply's HTTP status.
    """
    name = _CODES.get(code, "BAD_REQUEST" if code < 500 else "INTERNAL_ERROR")
    return msgspec.json.encode({"error_code": name, "message": status.public_text(error)})


# -- media types --


def _media(text: str) -> tuple[str, Mapping[str, str]]:
    """A content type, lower-cased, and its parameters."""
    kind, mark, rest = text.partition(";")
    kind = kind.strip().lower()
    if not mark:
        return kind, EMPTY
    parameters = {}
    for part in rest.split(";"):
        name, _, value = part.partition("=")
        if name.strip():
            parameters[name.strip().lower()] = value.strip().strip('"').lower()
    return kind, parameters


def _accepted(accept: str) -> tuple[str, Mapping[str, str]]:
    """The form that a header `Accept` wants most (RFC 9110, section 12.5.1), and its parameters."""
    if not accept or accept in {"*/*", JSON}:
        return JSON, EMPTY
    best, chosen = 0.0, (JSON, EMPTY)
    for part in accept.split(","):
        kind, parameters = _media(part)
        form = _ACCEPTED.get(kind, "")
        try:
            quality = float(parameters.get("q", "1"))
        except ValueError:
            continue
        if form and quality > best:
            best, chosen = quality, (form, parameters)
    return chosen


# -- JSON --


def _of_json(body: bytes | memoryview, inputs: _Inputs) -> tuple[tuple[Tensor, ...], Mapping[str, Any]]:
    if len(body) >= _WIDE_BYTES and inputs.specs:
        try:
            return _read_wide(bytes(body), inputs)
        except numbers.DECLINED:
            pass  # for the careful road, which alone says what is wrong
    document = read_json(body)
    if type(document) is not dict:
        hint = '; put rows into {"instances": [...]}' if type(document) is list else ""
        raise InvalidRequest(f"the body must be a JSON object with exactly one of {', '.join(FORMS)}{hint}")
    found = [form for form in FORMS if form in document]
    if len(found) != 1:
        hint = f": {_OLD}" if not found and "data" in document else ""
        raise InvalidRequest(
            f"the body must hold exactly one of {', '.join(FORMS)}; got {', '.join(found) or 'none of them'}{hint}"
        )
    parameters = document.get("params") or EMPTY
    if not isinstance(parameters, Mapping):
        raise InvalidRequest("'params' must be an object")
    check_depth(dict(parameters), "'params'")
    return _of_form(found[0], document[found[0]], inputs), parameters


def _of_form(form: str, given: Any, inputs: _Inputs) -> tuple[Tensor, ...]:
    match form:
        case "dataframe_split":
            return _of_table(*_read_split(given, inputs), inputs)
        case "dataframe_records":
            if type(given) is not list or any(type(row) is not dict for row in given):
                raise InvalidRequest("dataframe_records must be a list of objects, one a row")
            return _of_table(_read_records(given), True, inputs)
        case "instances":
            if type(given) is not list:
                raise InvalidRequest("instances must be a list, one element a row")
            if given and all(type(row) is dict for row in given):
                return _of_table(_read_records(given), True, inputs)
            return _of_values(given, inputs)
        case _:
            if type(given) is dict:
                columns = {name: values if type(values) is list else [values] for name, values in given.items()}
                return _of_table(columns, True, inputs)
            if type(given) is list and given and all(type(row) is dict for row in given):
                return _of_table(_read_records(given), True, inputs)
            return _of_values(given if type(given) is list else [given], inputs)


def _read_split(given: Any, inputs: _Inputs) -> tuple[Table, bool]:
    """The columns, and whether the caller named them."""
    if type(given) is not dict or type(given.get("data")) is not list:
        raise InvalidRequest("dataframe_split must be an object with 'columns' and 'data', a list of rows")
    rows = given["data"]
    if any(type(row) is not list for row in rows):
        raise InvalidRequest("dataframe_split: every row of 'data' must be a list")
    columns = given.get("columns")
    named = columns is not None
    if columns is None:
        columns = _positional(len(rows[0]) if rows else 0, inputs)
    if type(columns) is not list:
        raise InvalidRequest("dataframe_split: 'columns' must be a list of names")
    names = [str(name) for name in columns]
    if len(set(names)) != len(names):
        raise InvalidRequest("dataframe_split: a column is named twice")
    for index, row in enumerate(rows):
        if len(row) != len(names):
            raise InvalidRequest(f"dataframe_split: row {index} has {len(row)} values for {len(names)} columns")
    # pandas writes 0, 1, ... for columns that have no names
    named = named and columns != list(range(len(names)))
    return {name: [row[position] for row in rows] for position, name in enumerate(names)}, named


def _positional(width: int, inputs: _Inputs) -> list[Any]:
    """Names for columns that have none: those of the model where there are as many."""
    for chosen in (inputs.specs, inputs.required):
        if chosen and len(chosen) == width and (width > 1 or len(chosen[0].shape) == 1):
            return [spec.name for spec in chosen]
    return list(range(width))


def _read_records(rows: list[dict[str, Any]]) -> Table:
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


# -- JSON of many numbers --


def _read_wide(text: bytes, inputs: _Inputs) -> tuple[tuple[Tensor, ...], Mapping[str, Any]]:
    """The same by simdjson. Declines (`numbers.DECLINED`) whatever it is not sure of."""
    document: Any = simdjson.Parser().parse(text)
    keys = list(document.keys())
    found = [form for form in FORMS if form in keys]
    if len(found) != 1 or len(set(keys)) != len(keys):
        raise ValueError(keys)
    given, lists, names = document[found[0]], 0, None
    if found[0] == "dataframe_split":
        for member in given.keys():  # noqa: SIM118 - simdjson's objects are not iterable
            if member == "columns":
                names = given["columns"].as_list()
                lists += 1
            elif member == "index" and given["index"] is not None:
                given["index"].as_buffer(of_type="i")
                lists += 1
        if names is not None and (set(map(type, names)) - {str} or len(set(names)) != len(names)):
            raise ValueError(names)
        given = given["data"]
    if found[0] == "inputs" and type(given) is simdjson.Object:
        tensors, more = _wide_members(given, inputs)
    else:
        tensors, more = _wide_rows(given, names, inputs, is_table=found[0] == "dataframe_split")
    lists += more
    parameters = document["params"].as_dict() if "params" in keys and document["params"] is not None else EMPTY
    if np.count_nonzero(np.frombuffer(text, np.uint8) == _BRACKET) != lists:
        raise ValueError(lists)  # a list among the numbers, or a bracket in some text: not for this road to tell
    return tensors, parameters


def _wide_members(given: Any, inputs: _Inputs) -> tuple[tuple[Tensor, ...], int]:
    known = {spec.name: spec for spec in inputs.specs}
    names = list(given.keys())
    if len(set(names)) != len(names) or not known.keys() >= set(names):
        raise ValueError(names)
    lists, tensors = 0, []
    for name in names:
        array, count = numbers.wide(given[name], known[name].datatype, _shape_of(given[name]))
        lists += count
        tensors.append(Tensor(name, known[name].datatype, _ranked(array, known[name])))
    return tuple(tensors), lists


def _wide_rows(
    given: Any, names: list[str] | None, inputs: _Inputs, *, is_table: bool
) -> tuple[tuple[Tensor, ...], int]:
    shape = _shape_of(given)
    required = inputs.required
    if not is_table and len(required) <= 1:
        spec = next(iter(required or inputs.specs))
        array, lists = numbers.wide(given, spec.datatype, shape)
        return (Tensor(spec.name, spec.datatype, _ranked(array, spec)),), lists
    matrix, lists = numbers.wide(given, "FP64", shape)
    if matrix.ndim != 2 or (names is not None and len(names) != matrix.shape[1]):
        raise ValueError(shape)
    return _of_matrix(matrix, names, inputs), lists


def _shape_of(values: Any) -> tuple[int, ...]:
    shape: list[int] = []
    while type(values) is simdjson.Array:
        shape.append(len(values))
        values = values[0]
    return tuple(shape)


def _ranked(array: Array, spec: TensorSpec) -> Array:
    """The array in the rank of the input, where only a dimension of 1 differs."""
    wanted = len(spec.shape)
    if wanted == array.ndim - 1 and array.shape[-1] == 1:
        return array.reshape(array.shape[:-1])
    return array.reshape(*array.shape, 1) if wanted == array.ndim + 1 else array


def _of_matrix(matrix: Array, names: Sequence[str] | None, inputs: _Inputs) -> tuple[Tensor, ...]:
    """Rows of FP64 as the model's inputs. Declines (`numbers.DECLINED`) what does not fit."""
    only = inputs.specs[0] if len(inputs.specs) == 1 and len(inputs.specs[0].shape) > 1 else None
    if names is not None and only is not None and "" in names and len(names) - 1 == only.shape[-1]:
        matrix = np.delete(matrix, names.index(""), axis=1)  # the index that pandas writes
        names = [name for name in names if name]
    width = matrix.shape[1]
    named = names is not None
    table = names if names is not None else [str(each) for each in _positional(width, inputs)]
    specs = inputs.specs
    known = {spec.name: spec for spec in specs}
    if only is not None and only.name in table:
        only = None
    if only is not None and not (named and _goes_by_name(width, only, inputs)):
        return (Tensor(only.name, only.datatype, _ranked(_exactly(matrix, only.datatype), only)),)
    columns = np.ascontiguousarray(matrix.T)
    if only is not None:
        return tuple(
            Tensor(name, only.datatype, _exactly(column, only.datatype))
            for name, column in zip(table, columns, strict=True)
        )
    if not known.keys() & set(table) or any(spec.name not in table for spec in inputs.required):
        raise ValueError(table)
    tensors = []
    for name, column in zip(table, columns, strict=True):
        spec = known.get(name)
        if spec is not None:
            if _is_left_out(spec, inputs) and np.isnan(column).all():
                continue
            tensors.append(Tensor(name, spec.datatype, _ranked(_exactly(column, spec.datatype), spec)))
    return tuple(tensors)


def _exactly(column: Array, datatype: str) -> Array:
    """FP64 numbers in another datatype. Raises ValueError where one does not fit it."""
    dtype = DTYPES[datatype]
    if dtype == column.dtype:
        return column
    if datatype in {"BOOL", "BYTES", "FP16", "BF16"}:
        raise ValueError(datatype)
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            narrow = column.astype(dtype)
        if (np.isinf(narrow) != np.isinf(column)).any():
            raise ValueError(datatype)
        return narrow
    limits = np.iinfo(dtype)
    if column.size:
        low, high = column.min(), column.max()
        if not (max(limits.min, -_EXACT) <= low and high <= min(limits.max, _EXACT)):
            raise ValueError(datatype)  # NaN too
    whole = column.astype(dtype)
    if not np.array_equal(whole, column):
        raise ValueError(datatype)
    return whole


# -- other media types --


def _of_csv(found: csv_table.Columns, inputs: _Inputs) -> tuple[Tensor, ...]:
    names = found.names
    if found.matrix is not None:
        try:
            if inputs.specs:
                return _of_matrix(found.matrix, names or None, inputs)
        except numbers.DECLINED:
            pass
        columns: list[list[Any]] = [_whole(column) for column in found.matrix.T]
    else:
        columns = list(found.values)
    if not names:
        labels = [str(each) for each in _positional(len(columns), inputs)]
        return _of_table(dict(zip(labels, columns, strict=True)), False, inputs)
    return _of_table(dict(zip(names, columns, strict=True)), True, inputs)


def _whole(column: Array) -> list[Any]:
    """A column of numbers as the narrowest kind that all of them are."""
    if not np.isnan(column).any() and (np.abs(column) <= _EXACT).all() and (column == np.floor(column)).all():
        return list(column.astype(np.int64).tolist())
    return [None if math.isnan(each) else each for each in column.tolist()]


def _of_lines(body: bytes, inputs: _Inputs) -> tuple[Tensor, ...]:
    rows = [read_json(line, f"line {index}") for index, line in enumerate(body.splitlines(), 1) if line.strip()]
    if not rows:
        raise InvalidRequest("the body is empty; expected a row of JSON on each line")
    if all(type(row) is dict for row in rows):
        return _of_table(_read_records(rows), True, inputs)
    return _of_values(rows, inputs)


def _of_npy(body: bytes, inputs: _Inputs) -> tuple[Tensor, ...]:
    source = io.BytesIO(body)
    try:
        array: Array = np.lib.format.read_array(source, allow_pickle=False, max_header_size=_NPY_HEADER_BYTES)
    except (ValueError, EOFError, OSError, SyntaxError, MemoryError, OverflowError) as exc:
        raise InvalidRequest(f"the body is no array in numpy's form: {' '.join(str(exc).split())[:200]}") from None
    if array.dtype.kind in "SU":
        return _of_values(np.char.decode(array).tolist() if array.dtype.kind == "S" else array.tolist(), inputs)
    if array.dtype.kind not in "biuf" or not array.ndim:
        raise InvalidRequest(f"the array is of {array.dtype} and {array.ndim} dimensions; expected rows of numbers")
    required = inputs.required or list(inputs.specs)
    try:
        if len(required) > 1 and array.ndim == 2:
            return _of_matrix(array.astype(np.float64), None, inputs)
        if len(required) == 1:
            spec = required[0]
            if array.dtype != DTYPES[spec.datatype]:
                array = _exactly(array.astype(np.float64), spec.datatype)
            return (Tensor(spec.name, spec.datatype, _ranked(array, spec)),)
    except numbers.DECLINED:
        pass
    return _of_values(array.tolist(), inputs)


# -- values to tensors --


def _goes_by_name(width: int, only: TensorSpec, inputs: _Inputs) -> bool:
    """Whether the columns that a caller named go to a model of one matrix by their names, which it may know."""
    return not inputs.strict and len(only.shape) == 2 and only.shape[1] > 1 and width > 1


def _of_table(table: Table, named: bool, inputs: _Inputs) -> tuple[Tensor, ...]:
    specs, model = inputs.specs, inputs.model
    known = {spec.name: spec for spec in specs}
    if len(specs) == 1 and len(specs[0].shape) > 1 and specs[0].name not in table:
        lengths = {name: len(values) for name, values in table.items()}
        if len(set(lengths.values())) > 1:
            shown = ", ".join(f"'{name}' {length}" for name, length in lengths.items())
            raise InvalidRequest(f"the columns must have as many rows as each other, got: {shown}")
        if "" in table and len(table) - 1 == specs[0].shape[-1]:  # the index that pandas writes
            table = {name: values for name, values in table.items() if name}
        if named and _goes_by_name(len(table), specs[0], inputs):
            column = msgspec.structs.replace(specs[0], shape=(-1,))
            return tuple(
                _tensor(msgspec.structs.replace(column, name=name), list(values), inputs)
                for name, values in table.items()
            )
        return _of_values([list(row) for row in zip(*table.values(), strict=True)], inputs)
    chosen = {name: values for name, values in table.items() if name in known} if known else table
    if known and not chosen and table:
        raise InvalidRequest(
            f"none of the columns {', '.join(map(repr, table))} is an input of model '{model}', which takes "
            + ", ".join(known)
        )
    tensors = []
    for name, values in chosen.items():
        spec = known.get(name)
        if spec is not None and _is_left_out(spec, inputs) and all(value is None for value in values):
            continue
        tensors.append(_tensor(spec or name, list(values), inputs))
    return tuple(tensors)


def _is_left_out(spec: TensorSpec, inputs: _Inputs) -> bool:
    """Whether an input that has no value in any row is as good as none: nothing else says so in its datatype."""
    says = inputs.missing_texts if spec.datatype == "BYTES" else DTYPES[spec.datatype].kind == "f"
    return spec.optional and not says


def _of_values(values: list[Any], inputs: _Inputs) -> tuple[Tensor, ...]:
    """One tensor without a name; rows of one value for each column where the model takes columns."""
    required = inputs.required
    if len(required) > 1:
        if any(type(row) is not list or len(row) != len(required) for row in values):
            names = ", ".join(spec.name for spec in required)
            raise InvalidRequest(f"model '{inputs.model}' takes {len(required)} inputs: name them in each row: {names}")
        columns = [[row[position] for row in values] for position in range(len(required))]
        return tuple(_tensor(spec, column, inputs) for spec, column in zip(required, columns, strict=True))
    return (_tensor(next(iter(required or inputs.specs), UNNAMED), values, inputs),)


def _tensor(spec: TensorSpec | str, values: list[Any], inputs: _Inputs) -> Tensor:
    if isinstance(spec, str):
        name, datatype, wanted = spec, "", 0
    else:
        name, datatype, wanted = spec.name, spec.datatype, len(spec.shape)
    what = f"input '{name}' for model '{inputs.model}'"
    if datatype == "BYTES" and wanted == 1:
        dimensions, flat = [len(values)], values  # a list in a cell is a value
        if len(values) and all(type(each) is list and len(each) == 1 and type(each[0]) is str for each in values):
            flat = [each[0] for each in values]
    else:
        dimensions, flat = numbers.flatten(values, what)
    datatype = datatype or _guess(flat)
    if name in inputs.binary:
        flat = [_unbased(each, index, what) for index, each in enumerate(flat)]
    data = _typed(flat, datatype, what, missing_texts=inputs.missing_texts)
    if wanted == len(dimensions) - 1 and dimensions[-1] == 1:
        dimensions = dimensions[:-1]
    elif wanted == len(dimensions) + 1:
        dimensions = [*dimensions, 1]
    return Tensor(name, datatype, data.reshape(dimensions))


def _unbased(value: Any, index: int, what: str) -> bytes:
    if type(value) is bytes:  # of Parquet
        return value
    if type(value) is not str:
        raise InvalidRequest(f"{what}: row {index} holds no text; expected bytes in base64")
    try:
        return base64.b64decode(value.encode(), validate=False)
    except (binascii.Error, ValueError) as exc:
        raise InvalidRequest(f"{what}: row {index} is not base64: {exc}") from None


def _guess(flat: list[Any]) -> str:
    kinds = set(map(type, flat))
    if kinds == {bool}:
        return "BOOL"
    if kinds == {int}:
        return "INT64" if max(flat) < 1 << 63 else "UINT64"
    return "FP64" if kinds <= {int, float, type(None)} else "BYTES"


def _typed(flat: list[Any], datatype: str, what: str, *, missing_texts: bool) -> Array:
    if datatype == "BYTES":
        array: Array = np.empty(len(flat), np.object_)
        array[:] = [
            None if each is None and missing_texts else _text(each, index, what) for index, each in enumerate(flat)
        ]
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
    if type(value) is bytes:
        return value
    if type(value) in {dict, list}:  # the runtime takes nested values as their JSON
        return msgspec.json.encode(value)
    kind = "no value" if value is None else f"the {type(value).__name__} {value}"
    raise InvalidRequest(f"{what}: row {index} holds {kind}; expected text")


# -- tensors to values --


def _predictions(outputs: Sequence[Tensor], answer: str) -> Any:
    if answer == "array" and len(outputs) == 1:
        return _plain(outputs[0])
    if len(outputs) == 1 and not answer and (outputs[0].name in _ONE_ARRAY or outputs[0].data.ndim > 1):
        return _plain(outputs[0])
    if answer != "tensors" and _share_rows(outputs):
        names = [each.name for each in outputs]
        columns = [_listed(each) for each in outputs]
        return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
    return {each.name: _plain(each) for each in outputs}


def _share_rows(outputs: Sequence[Tensor]) -> bool:
    return bool(outputs) and all(each.data.ndim == 1 and len(each.data) == len(outputs[0].data) for each in outputs)


def _listed(tensor: Tensor) -> list[Any]:
    plain = _plain(tensor)
    return plain if type(plain) is list else plain.tolist()


def _plain(tensor: Tensor) -> Any:
    """Values as JSON has them: lists, or an array that orjson renders as `tolist` would."""
    if tensor.datatype == "BYTES":
        texts: Array = np.empty(tensor.data.size, np.object_)
        texts[:] = [_shown(each, tensor.name) for each in tensor.data.reshape(-1).tolist()]
        return texts.reshape(tensor.data.shape).tolist()
    data = tensor.data
    if tensor.datatype == "BF16":
        data = (data.astype(np.uint32) << 16).view(np.float32)
    if data.dtype.kind == "f":  # as FP64, whose digits are those that MLflow writes for FP32
        return np.ascontiguousarray(data, np.float64) if data.ndim else float(data)
    return np.ascontiguousarray(data) if data.ndim else data.item()


def _shown(value: Any, name: str) -> str:
    if type(value) is str:
        return value
    if not isinstance(value, bytes):
        raise RuntimeFailed(f"output '{name}' holds a {type(value).__name__}, neither bytes nor text")
    try:
        return value.decode()
    except UnicodeDecodeError:
        return base64.encodebytes(value).decode("ascii")


def _to_columns(outputs: Sequence[Tensor]) -> tuple[list[str], list[list[Any]]]:
    """Names and cells of an answer as CSV; no value is an empty cell. A row of several dimensions is laid flat."""
    names, columns = [], []
    rows = {len(each.data) if each.data.ndim else 1 for each in outputs}
    if len(rows) > 1:
        raise InvalidRequest("the outputs have different numbers of rows, which CSV does not carry; accept JSON")
    for each in outputs:
        data = each.data.reshape(max(rows), -1)
        plain = _listed(msgspec.structs.replace(each, data=data))
        for position in range(data.shape[1]):
            many = data.shape[1] > 1
            names.append(f"{each.name}_{position}" if many else each.name)
            columns.append([_cell(row[position]) for row in plain])
    return names, columns


def _cell(value: Any) -> Any:
    return None if type(value) is float and math.isnan(value) else value


def _to_npy(outputs: Sequence[Tensor]) -> bytes:
    if len(outputs) != 1:
        raise InvalidRequest(f"{NPY} carries one array, and the model answers with {len(outputs)}; accept JSON")
    plain = _plain(outputs[0]) if outputs[0].datatype in {"BYTES", "BF16"} else outputs[0].data
    told = io.BytesIO()
    np.lib.format.write_array(told, np.asarray(plain), allow_pickle=False)
    return told.getvalue()
