"""Exchanges as rows: flat columns that pandas, Spark and DuckDB read without knowing of tensors. `payload_files` writes
them.

A request of n rows is n rows of the log: where all its tensors have the same first dimension. Else it is one row whose
tensors are lists in lists. Columns:

- `time`, `seconds`, `model`, `version`, `request_id`, `row` (its position in the request), `caller`, `protocol`,
  `error`, `quarantined`, `truncated`, `shapes` (JSON: what a truncated request or answer had), `parameters`, `headers`
  (JSON).
- `input.NAME`, `output.NAME`: one for each column that somebody knows the name of, each tensor of one value a row, and
  else a list a row. BYTES are text where all of them are UTF-8.

A name that is redacted is a text column of `[REDACTED]`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import orjson

from headrace.errors import MissingExtra
from headrace.monitoring.exchange import Exchange, column_names, size_of
from headrace.monitoring.redaction import REDACTED, Redaction
from headrace.payload import Array, Tensor
from headrace.protocols.cloudevents import json_of

if TYPE_CHECKING:
    import pyarrow as pa

Mode = Literal["off", "all", "request", "response"]
INPUT: Final = "input."
OUTPUT: Final = "output."
_Key = tuple[Any, ...]
Rows = tuple[str, str, int, "pa.RecordBatch"]
"""Model, version, how many exchanges, and their rows."""


def require_arrow() -> None:
    """Say early what is missing.

    Raises:
        MissingExtra: pyarrow is not installed.
    """
    try:
        import pyarrow as pa  # noqa: F401 - only whether it is there
    except ImportError as exc:
        raise MissingExtra("the payload log's files need pyarrow: pip install 'headrace[trust]'") from exc


def batches(exchanges: Iterable[Exchange], *, mode: Mode, redaction: Redaction, max_bytes: int) -> list[Rows]:
    """Rows of exchanges, those of the same model, version and columns together.

    Args:
        exchanges: In order.
        mode: Whether inputs, outputs or both are kept.
        redaction: Whose values are not.
        max_bytes: Of the inputs, and of the outputs, of one exchange; of larger ones only the shapes are kept.

    """
    groups: dict[_Key, list[tuple[Exchange, tuple[Tensor, ...], tuple[Tensor, ...], bytes]]] = {}
    for each in exchanges:
        inputs = each.inputs if mode in {"all", "request"} else ()
        outputs = each.outputs if mode in {"all", "response"} else ()
        large: dict[str, Any] = {}
        if size_of(inputs) > max_bytes:
            large["inputs"], inputs = [_shape(tensor) for tensor in inputs], ()
        if size_of(outputs) > max_bytes:
            large["outputs"], outputs = [_shape(tensor) for tensor in outputs], ()
        shapes = orjson.dumps(large) if large else b""
        key = (each.model, each.version, _layout(each, inputs), _layout(each, outputs), _are_rows(inputs, outputs))
        groups.setdefault(key, []).append((each, inputs, outputs, shapes))
    return [
        (group[0][0].model, group[0][0].version, len(group), _batch(group, redaction, are_rows=key[-1]))
        for key, group in groups.items()
    ]


def _shape(tensor: Tensor) -> dict[str, Any]:
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}


def _layout(exchange: Exchange, tensors: Sequence[Tensor]) -> _Key:
    return tuple(
        (tensor.name, tensor.datatype, tensor.data.shape[1:], tensor.data.ndim, column_names(exchange, tensor))
        for tensor in tensors
    )


def _are_rows(inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> bool | tuple[tuple[int, ...], ...]:
    """Whether axis 0 counts rows; where it does not, the shapes, as only equal ones stand in one column."""
    shapes = tuple(tensor.data.shape for tensor in (*inputs, *outputs))
    rows = shapes[0][:1] if shapes else ()
    return True if rows > (0,) and all(shape[:1] == rows for shape in shapes) else shapes


def _batch(group: Sequence[Any], redaction: Redaction, *, are_rows: Any) -> pa.RecordBatch:
    import pyarrow as pa

    exchanges: list[Exchange] = [each for each, *_ in group]
    if are_rows is True:
        counts = [(inputs or outputs)[0].data.shape[0] for _, inputs, outputs, _ in group]
    else:
        counts = [1] * len(group)
    owner = np.repeat(np.arange(len(group)), counts)
    starts = np.cumsum([0, *counts[:-1]])
    total = int(owner.size)

    def spread(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
        return pa.array(values, kind).take(pa.array(owner))

    columns: dict[str, pa.Array] = {
        "time": spread([round(each.time * 1e6) for each in exchanges], pa.int64()).cast(pa.timestamp("us", "UTC")),
        "seconds": spread([each.seconds for each in exchanges], pa.float64()),
        "model": spread([each.model for each in exchanges], pa.string()),
        "version": spread([each.version for each in exchanges], pa.string()),
        "request_id": spread([_text(each.id) for each in exchanges], pa.string()),
        "row": pa.array((np.arange(total) - np.repeat(starts, counts)).astype(np.int32)),
        "caller": spread([_text(each.caller) or None for each in exchanges], pa.string()),
        "protocol": spread([each.protocol or None for each in exchanges], pa.string()),
        "error": spread([_text(each.error) or None for each in exchanges], pa.string()),
        "quarantined": spread([each.quarantined for each in exchanges], pa.bool_()),
        "truncated": spread([bool(shapes) or each.is_partial for each, _, _, shapes in group], pa.bool_()),
        "shapes": spread([shapes.decode() or None for *_, shapes in group], pa.string()),
        "parameters": spread([_document(redaction.parameters(each.parameters)) for each in exchanges], pa.string()),
        "headers": spread([_document(redaction.headers(each.headers)) for each in exchanges], pa.string()),
    }
    for side, prefix in ((1, INPUT), (2, OUTPUT)):
        for position, tensor in enumerate(group[0][side]):
            parts = [member[side][position].data for member in group]
            data = np.concatenate(parts) if are_rows is True else np.stack(parts)
            names = column_names(exchanges[0], tensor) if are_rows is True else ()
            squeezed = are_rows is True and data.ndim == 2 and data.shape[1] == 1 and not names
            for name, values in _columns(tensor.name, data[:, 0] if squeezed else data, names):
                found = prefix + name
                while found in columns:
                    found = f"{prefix}{tensor.name}.{name}" if found == prefix + name else found + "_"
                hidden = redaction.hides(name) or redaction.hides(tensor.name)
                columns[found] = (
                    pa.array([REDACTED] * total, pa.string()) if hidden else _arrow(tensor.datatype, values, redaction)
                )
    return pa.RecordBatch.from_arrays(list(columns.values()), list(columns))


def _columns(tensor: str, data: Array, names: tuple[str, ...]) -> Iterable[tuple[str, Array]]:
    return [(name, data[:, at]) for at, name in enumerate(names)] or [(tensor, data)]


def _arrow(datatype: str, data: Array, redaction: Redaction) -> pa.Array:
    """Values `[n, ...]` as n values, or lists in lists of them."""
    import pyarrow as pa

    flat = np.ascontiguousarray(data).reshape(-1)
    if datatype == "BF16" and flat.dtype == np.uint16:
        flat = (flat.astype(np.uint32) << 16).view(np.float32)
    elif flat.dtype == np.float16:
        flat = flat.astype(np.float32)
    values = _texts(flat.tolist(), redaction) if flat.dtype == object else pa.array(flat)
    for axis in range(data.ndim - 1, 0, -1):
        rows = int(np.prod(data.shape[:axis]))
        offsets = np.arange(rows + 1, dtype=np.int32) * data.shape[axis]
        values = pa.ListArray.from_arrays(pa.array(offsets), values)
    return values


def _texts(elements: list[Any], redaction: Redaction) -> pa.Array:
    import pyarrow as pa

    shown = [redaction.element(each) for each in elements]
    texts = [
        each if isinstance(each, bytes | str) or each is None else json_of(each) for each in shown
    ]  # objects of code made for MLServer
    try:
        return pa.array([each.decode() if isinstance(each, bytes) else each for each in texts], pa.string())
    except UnicodeError:
        data = [each.encode(errors="surrogatepass") if isinstance(each, str) else each for each in texts]
        return pa.array(data, pa.binary())


def _document(value: Mapping[str, Any]) -> str | None:
    return json_of(value).decode() if value else None


def _text(value: str) -> str:
    return value.encode(errors="replace").decode()  # a lone surrogate is no text that a file could hold
