"""Columns of a file to a model's tensors: decided once a file (`plan`), then carried out a batch at a time (`read`).

`rows` calls it. Pure: opens nothing. A value that does not fit makes its own row bad and no other. Whole columns are
converted at once; only around values that do not fit are columns looked at in halves, and halves of these.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any, Final

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from headrace.errors import InvalidRequest, NotSupported
from headrace.lifecycle.batch.base import Job
from headrace.payload import DTYPES, Array, Signature, Tensor, TensorSpec
from headrace.protocols import csv_table

Faults = dict[int, str]
"""Number of a row in its batch to what was expected and what came."""

_ARROW: Final[Mapping[str, Any]] = {
    "BOOL": pa.bool_(),
    "UINT8": pa.uint8(),
    "UINT16": pa.uint16(),
    "UINT32": pa.uint32(),
    "UINT64": pa.uint64(),
    "INT8": pa.int8(),
    "INT16": pa.int16(),
    "INT32": pa.int32(),
    "INT64": pa.int64(),
    "FP16": pa.float32(),  # no text is read as half a float
    "FP32": pa.float32(),
    "FP64": pa.float64(),
}
"""Datatype to what text is read as."""

_MISSING: Final = tuple(sorted(csv_table.MISSING))
"""Texts of a number that is not there; in CSV, which has no null, of a text that is not there too."""
_TRUE: Final = ("true", "True", "TRUE", "1")
_FALSE: Final = ("false", "False", "FALSE", "0")
_SHOWN: Final = 60
_NAMED: Final = 20


class Feed(msgspec.Struct, frozen=True):
    """A tensor, and the columns that make it up."""

    tensor: str
    datatype: str
    columns: tuple[str, ...]
    tail: tuple[int, ...] = ()
    """Of its shape, behind the rows; -1: as the values have it. Of a column that holds lists: the lists' own."""
    content_type: str = ""
    missing: bool = False
    """The model takes None for a text that is not there; otherwise that makes its row bad."""
    words: bool = False
    """Of CSV: what stands for nothing in numbers does in texts too, where the model takes that."""


class Plan(msgspec.Struct, frozen=True):
    """How a file's columns are used."""

    feeds: tuple[Feed, ...]
    keep: tuple[str, ...] = ()
    """Columns that stand in the output, the id first."""
    id_column: str = ""

    @property
    def used(self) -> frozenset[str]:
        """All columns that are looked at."""
        return frozenset(name for feed in self.feeds for name in feed.columns) | frozenset(self.keep)


# -- deciding --


def plan(job: Job, signature: Signature, schema: pa.Schema, *, is_csv: bool = False) -> Plan:
    """What each column of a file is for.

    By `job.columns` where it says so. Else each input that the model declares is the column of its name; else a model's
    only input is made up of all columns, in the order of the file: those of numbers where the file knows types, the id
    column and the kept ones left out where they are too many.

    Raises:
        InvalidRequest: a column is missing, or what makes up a tensor cannot be told; names the columns there are.
        NotSupported: an input is BF16.
    """
    names = tuple(schema.names)
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InvalidRequest(f"two columns are named '{twice[0]}': a column's name must tell it from the others")
    keep = names if "*" in job.keep else job.keep
    if job.id_column:
        keep = (job.id_column, *(name for name in keep if name != job.id_column))
    for name in keep:
        _required(name, names, "to be kept" if name != job.id_column else "as the id column")
    feeds = _mapped(job.columns, signature, names) if job.columns else _by_signature(job, signature, schema)
    for feed in feeds:
        if feed.datatype == "BF16":
            raise NotSupported(f"input '{feed.tensor}' is BF16, which batch jobs cannot fill; serve the model in FP32")
    if signature.missing_texts:
        feeds = tuple(
            msgspec.structs.replace(feed, missing=True, words=is_csv) if feed.datatype == "BYTES" else feed
            for feed in feeds
        )
    return Plan(feeds=feeds, keep=tuple(dict.fromkeys(keep)), id_column=job.id_column)


def _mapped(columns: Mapping[str, tuple[str, ...]], signature: Signature, names: tuple[str, ...]) -> tuple[Feed, ...]:
    declared = {spec.name: spec for spec in signature.inputs}
    if signature.strict and declared:
        for name in columns:
            if name not in declared:
                raise InvalidRequest(f"the model has no input '{name}'; its inputs are {_listed(declared)}")
        left = [name for name, spec in declared.items() if not spec.optional and name not in columns]
        if left:
            raise InvalidRequest(
                f"the mapping of columns leaves out input '{left[0]}'; its inputs are {_listed(declared)}"
            )
    only = signature.inputs[0] if len(signature.inputs) == 1 else None
    feeds = []
    for name, made_of in columns.items():
        if not made_of:
            raise InvalidRequest(f"the mapping of columns names none for tensor '{name}'")
        for column in made_of:
            _required(column, names, f"for tensor '{name}'")
        spec = declared.get(name, only) or TensorSpec(name=name, datatype="FP64", shape=(-1, -1))
        feeds.append(_feed(name, spec, made_of))
    return tuple(feeds)


def _by_signature(job: Job, signature: Signature, schema: pa.Schema) -> tuple[Feed, ...]:
    names = tuple(schema.names)
    required = [spec for spec in signature.inputs if not spec.optional]
    there = [spec for spec in signature.inputs if spec.name in names]
    if not signature.inputs:
        return _undeclared(job, schema)
    if there and all(spec.name in names for spec in required):
        return tuple(_feed(spec.name, spec, (spec.name,)) for spec in there)
    if len(required) == 1 and (len(signature.inputs) == 1 or not there):
        return (_whole(job, required[0], schema),)
    missing = [spec.name for spec in required if spec.name not in names]
    if not there and len(missing) > 1:
        raise InvalidRequest(
            f"no column has the name of an input of the model ({_listed(missing)}); the file has {_listed(names)}. "
            "Say which columns make up which input: --columns INPUT=COLUMN,..."
        )
    _required(missing[0], names, "which the model takes")
    raise AssertionError(missing)  # the line above raises


def _whole(job: Job, spec: TensorSpec, schema: pa.Schema) -> Feed:
    """The only input, made up of all columns."""
    width = spec.shape[-1] if len(spec.shape) > 1 else 1 if len(spec.shape) == 1 else -1
    if len(spec.shape) > 2:
        width = prod(spec.shape[1:]) if min(spec.shape[1:]) > 0 else -1
    others = [field for field in schema if field.name != job.id_column]
    lists = [field for field in others if _is_list(field.type)]
    if len(lists) == 1 and (len(others) == 1 or spec.datatype != "BYTES"):
        return _feed(spec.name, spec, (lists[0].name,))
    fitting = [field.name for field in others if _may_be(field.type, spec.datatype)]
    unkept = [name for name in fitting if name not in job.keep]
    found = fitting if width in {-1, len(fitting)} else unkept
    if width not in {-1, len(found)} or not found:
        what = "text" if spec.datatype == "BYTES" else "numbers"
        takes = f"{width} {what} a row" if width > 0 else f"{what}"
        raise InvalidRequest(
            f"input '{spec.name}' takes {takes}; the file has {len(fitting)} columns for it ({_listed(fitting)}). Say "
            f"which make it up, in order: --columns {spec.name}=COLUMN,..."
        )
    return _feed(spec.name, spec, tuple(found))


def _undeclared(job: Job, schema: pa.Schema) -> tuple[Feed, ...]:
    """Of a model that does not say what it takes: a tensor a column, by the types that the file knows."""
    others = [field for field in schema if field.name != job.id_column and field.name not in job.keep]
    if not others or all(_is_text(field.type) for field in others):
        raise InvalidRequest(
            f"the model does not say what it takes, and the file's columns ({_listed(schema.names)}) have no types: "
            "say what makes up which input: --columns INPUT=COLUMN,..."
        )
    return tuple(Feed(field.name, _datatype(field.type), (field.name,), (-1,) * _depth(field.type)) for field in others)


def _feed(name: str, spec: TensorSpec, columns: tuple[str, ...]) -> Feed:
    return Feed(name, spec.datatype, columns, tuple(spec.shape[1:]), spec.content_type)


def _required(name: str, names: Sequence[str], what: str) -> None:
    if name in names:
        return
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    hint = f"did you mean '{near[0]}'?" if near else f"it has {_listed(names)}"
    raise InvalidRequest(f"the file has no column '{name}', {what}; {hint}")


def _listed(names: Any) -> str:
    names = list(names)
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return (", ".join(names[:_NAMED]) or "none") + more


def _is_list(kind: Any) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _is_text(kind: Any) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return any(
        test(kind)
        for test in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_binary,
                     pa.types.is_large_binary, pa.types.is_binary_view, pa.types.is_fixed_size_binary)
    )  # fmt: skip


def _may_be(kind: Any, datatype: str) -> bool:
    """Whether a column may be among those that make up a tensor; text may hold numbers where files know no types."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if _is_text(kind):
        return True
    if datatype == "BYTES":
        return not (_is_list(kind) or pa.types.is_struct(kind) or pa.types.is_map(kind))
    return any(
        test(kind)
        for test in (
            pa.types.is_integer,
            pa.types.is_floating,
            pa.types.is_boolean,
            pa.types.is_decimal,
            pa.types.is_null,
        )
    )


def _datatype(kind: Any) -> str:
    while _is_list(kind):
        kind = kind.value_type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    for datatype, arrow in _ARROW.items():
        if kind.equals(arrow) and datatype != "FP16":
            return datatype
    return "FP16" if pa.types.is_float16(kind) else "FP64" if pa.types.is_decimal(kind) else "BYTES"


def _depth(kind: Any) -> int:
    depth = 0
    while _is_list(kind):
        kind, depth = kind.value_type, depth + 1
    return depth


# -- carrying out --


def read(plan: Plan, batch: pa.RecordBatch) -> tuple[tuple[Tensor, ...], Faults]:
    """The tensors of a batch, a row each; rows with faults are filled with anything.

    Args:
        plan: Of the batch's file.
        batch: `[n]` rows, with the columns that the plan names.

    Raises:
        InvalidRequest: a column is of a kind that no value of which can be read as its tensor's datatype.
    """
    faults: Faults = {}
    tensors = tuple(_tensor(feed, batch, faults) for feed in plan.feeds)
    return tensors, faults


def _tensor(feed: Feed, batch: pa.RecordBatch, faults: Faults) -> Tensor:
    rows = batch.num_rows
    if len(feed.columns) == 1:
        name = feed.columns[0]
        column = batch.column(name)
        if _is_list(column.type):
            data = _lists(feed, name, column, feed.tail, faults)
        else:
            data = _values(feed, name, column, faults)
            if feed.tail:
                data = data.reshape(rows, *(1,) * len(feed.tail))
        return Tensor(feed.tensor, feed.datatype, data)
    data = np.empty((rows, len(feed.columns)), DTYPES[feed.datatype])
    for at, name in enumerate(feed.columns):
        data[:, at] = _values(feed, name, batch.column(name), faults)
    if len(feed.tail) > 1 and min(feed.tail) > 0 and prod(feed.tail) == len(feed.columns):
        data = data.reshape(rows, *feed.tail)
    return Tensor(feed.tensor, feed.datatype, data)


def _values(feed: Feed, name: str, column: Any, faults: Faults) -> Array:
    """`[n]` of the tensor's dtype, from a column of one value a row."""

    def fault(at: int, expected: str, came: object) -> None:
        faults.setdefault(at, f"column '{name}': expected {expected}, came {_shown(came)}")

    kind = column.type
    if pa.types.is_dictionary(kind):
        column = column.dictionary_decode()
        kind = column.type
    if feed.datatype == "BYTES":
        return _bytes(feed, name, column, fault)
    if _is_text(kind):
        column = _parsed(column, feed.datatype, fault)
    elif pa.types.is_decimal(kind):
        column = column.cast(pa.float64())
    elif pa.types.is_null(kind):
        column = column.cast(_ARROW[feed.datatype])
    elif pa.types.is_float16(kind):
        column = column.cast(pa.float32())
    elif not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        raise InvalidRequest(f"column '{name}' is of type {kind}; expected what can be read as {feed.datatype}")
    return _cast(column, feed.datatype, fault)


_Fault = Callable[[int, str, object], None]


def _cast(column: Any, datatype: str, fault: _Fault) -> Array:
    """Numbers and booleans of Arrow to an array of the datatype."""
    dtype = DTYPES[datatype]
    if column.null_count:
        if dtype.kind == "f":
            whole: Array = column.cast(pa.float64() if dtype == np.float64 else _widened(column)).to_numpy(
                zero_copy_only=False
            )
        else:
            for at in np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False)).tolist():
                fault(at, datatype, None)
            whole = column.fill_null(False if pa.types.is_boolean(column.type) else 0).to_numpy(zero_copy_only=False)
    else:
        whole = column.to_numpy(zero_copy_only=False)
    if whole.dtype == dtype:
        return whole
    with np.errstate(over="ignore", invalid="ignore"):
        made = whole.astype(dtype)
        if dtype.kind == "f":
            if dtype.itemsize >= whole.dtype.itemsize or whole.dtype.kind == "b":
                return made
            bad = np.isinf(made) & np.isfinite(whole) if np.isinf(made).any() else None
        elif dtype.kind == "b":
            bad = (whole != 0) & (whole != 1)
        elif whole.dtype.kind == "b":
            return made
        else:
            low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
            if whole.dtype.kind == "f":  # whole numbers, and none that rounding has brought beyond the bounds
                bad = ~((whole == np.floor(whole)) & (whole >= float(low)) & (whole < float(high) + 1))
            else:
                bad = (made.astype(whole.dtype) != whole) | ((made < 0) != (whole < 0))
    if bad is not None and bad.any():
        for at in np.flatnonzero(bad).tolist():
            if column[at].as_py() is not None:
                fault(at, datatype, whole[at].item())
    return made


def _widened(column: Any) -> Any:
    return column.type if pa.types.is_floating(column.type) else pa.float64()


def _parsed(column: Any, datatype: str, fault: _Fault) -> Any:
    """Texts as numbers or booleans; what stands for nothing is null."""
    texts = _texts(column, fault)
    target = _ARROW[datatype]
    if not pa.types.is_boolean(target):
        try:
            return texts.cast(target)  # nothing but numbers, as nearly always
        except pa.ArrowInvalid:
            pass
    trimmed = pc.utf8_trim_whitespace(texts)
    missing = pc.is_in(trimmed, value_set=pa.array(_MISSING, trimmed.type))
    if pc.any(missing).as_py():
        trimmed = pc.if_else(missing, pa.scalar(None, trimmed.type), trimmed)
    if pa.types.is_boolean(target):
        known = pc.is_in(trimmed, value_set=pa.array([*_TRUE, *_FALSE], trimmed.type))
        wrong = pc.and_(pc.invert(known), pc.is_valid(trimmed)).to_numpy(zero_copy_only=False)
        for at in np.flatnonzero(wrong).tolist():
            fault(at, datatype, texts[at].as_py())
        is_true = pc.is_in(trimmed, value_set=pa.array(_TRUE, trimmed.type))
        return pc.if_else(pc.is_valid(trimmed), is_true, pa.scalar(None, pa.bool_()))

    def wrong_number(at: int, value: Any) -> Any:
        if pa.types.is_integer(target):
            number = _whole_number(value)
            if number is not None and np.iinfo(DTYPES[datatype]).min <= number <= np.iinfo(DTYPES[datatype]).max:
                return number  # 3.0, as pandas writes whole numbers beside missing ones
        fault(at, datatype, texts[at].as_py())
        return 0

    return _bisected(trimmed, target, wrong_number)


def _whole_number(text: str) -> int | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return int(number) if number.is_integer() and abs(number) < 2**53 else None


def _bisected(column: Any, target: Any, otherwise: Callable[[int, Any], Any], start: int = 0) -> Any:
    """A column cast; values that cannot be are what `otherwise` says."""
    try:
        return column.cast(target)
    except pa.ArrowInvalid:
        if len(column) == 1:
            return pa.array([otherwise(start, column[0].as_py())], target)
        middle = len(column) // 2
        halves = [
            _bisected(column.slice(0, middle), target, otherwise, start),
            _bisected(column.slice(middle), target, otherwise, start + middle),
        ]
        return pa.concat_arrays(halves)


def _texts(column: Any, fault: _Fault) -> Any:
    """A column of text or bytes as valid UTF-8."""
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return column

    def wrong(at: int, value: Any) -> str:
        fault(at, "UTF-8 text", value)
        return ""

    if pa.types.is_fixed_size_binary(column.type) or pa.types.is_binary_view(column.type):
        column = column.cast(pa.binary())
    return _bisected(column, pa.large_string() if pa.types.is_large_binary(column.type) else pa.string(), wrong)


def _bytes(feed: Feed, name: str, column: Any, fault: _Fault) -> Array:
    """`[n]` objects of bytes; None, where the model takes that, is no value."""
    kind = column.type
    if feed.words and pa.types.is_string(kind):
        is_nothing = pc.is_in(column, value_set=pa.array(_MISSING, kind))
        column = pc.if_else(is_nothing, pa.scalar(None, kind), column)
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        column = pc.strftime(column, format="%Y-%m-%d" if pa.types.is_date(kind) else "%Y-%m-%dT%H:%M:%S")
    elif _is_list(kind) or pa.types.is_struct(kind) or pa.types.is_map(kind):
        raise InvalidRequest(f"column '{name}' is of type {kind}; expected text, for input '{feed.tensor}'")
    elif not _is_text(kind):
        column = column.cast(pa.string())
    is_bytes = pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind)
    if column.null_count and not feed.missing:
        for at in np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False)).tolist():
            fault(at, "text", None)
        column = column.fill_null(b"" if is_bytes else "")
    large = pa.types.is_large_string(column.type) or pa.types.is_large_binary(column.type)
    found: Array = column.cast(pa.large_binary() if large else pa.binary()).to_numpy(zero_copy_only=False)
    if is_bytes and feed.content_type == "base64":
        import base64

        found = _objects([each if each is None else base64.b64encode(each) for each in found])
    return found


def _lists(feed: Feed, name: str, column: Any, tail: tuple[int, ...], faults: Faults) -> Array:
    """`[n, d...]`, from a column that holds a list a row; lists of one length."""
    rows = len(column)
    bad = column.is_null().to_numpy(zero_copy_only=False)
    if pa.types.is_fixed_size_list(column.type):
        width = column.type.list_size
        if tail and tail[0] not in {-1, width}:
            raise InvalidRequest(f"column '{name}' holds lists of {width}; input '{feed.tensor}' takes {tail[0]}")
        for at in np.flatnonzero(bad).tolist():
            faults.setdefault(at, f"column '{name}': expected a list of {width}, came nothing")
    else:
        lengths = pc.fill_null(pc.list_value_length(column), -1).to_numpy(zero_copy_only=False)
        known = lengths[lengths >= 0]
        width = tail[0] if tail and tail[0] >= 0 else int(known[0]) if len(known) else 0
        bad = lengths != width
        for at in np.flatnonzero(bad).tolist():
            came = "nothing" if lengths[at] < 0 else f"one of {lengths[at]}"
            faults.setdefault(at, f"column '{name}': expected a list of {width}, came {came}")
    good = np.flatnonzero(~bad)
    taken = column if len(good) == rows else column.take(pa.array(good))
    inner = taken.flatten()
    found: Faults = {}
    is_deeper = _is_list(inner.type)
    flat = _lists(feed, name, inner, tail[1:], found) if is_deeper else _values(feed, name, inner, found)
    for at, reason in found.items():
        faults.setdefault(int(good[at // width]), reason)
    flat = flat.reshape(len(good), width, *flat.shape[1:])
    if len(good) == rows:
        return flat
    data: Array = np.zeros((rows, *flat.shape[1:]), flat.dtype)
    data[good] = flat
    return data


def _objects(values: Sequence[Any]) -> Array:
    array: Array = np.empty(len(values), np.object_)
    array[:] = list(values)
    return array


def _shown(value: object) -> str:
    """A value as a reason shows it."""
    if value is None:
        return "nothing"
    text = repr(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."
