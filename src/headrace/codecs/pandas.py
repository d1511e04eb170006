"""Request content type `pd`: all tensors as one DataFrame, a column each. Needs the extra `pandas`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from headrace.codecs.base import Codec, RequestCodec
from headrace.codecs.elements import texts_of
from headrace.errors import InvalidRequest
from headrace.payload import Array, Tensor


class PandasCodec(RequestCodec):
    """A DataFrame: one tensor a column, in order.

    BYTES columns are text; a column that says its content type (`datetime`, `json`, `bytes`, `base64`) is decoded by
    that codec. Text with missing values travels as `json`, where they are null; nullable integers with missing values
    as FP64, where they are NaN; a tensor [n, k] is a column of rows. The index is not carried.
    """

    content_type = "pd"

    def __init__(self, codecs: Mapping[str, Codec]) -> None:
        self._codecs = codecs

    def decode(self, tensors: tuple[Tensor, ...]) -> Any:
        """The DataFrame. Raises InvalidRequest when columns differ in length or a tensor is a scalar."""
        import pandas as pd

        columns: dict[str, Any] = {}
        rows = -1
        for tensor in tensors:
            shape = tensor.data.shape
            if not shape:
                raise InvalidRequest(f"input '{tensor.name}' is a scalar; a column needs shape [n] or [n,1]")
            if rows not in {-1, shape[0]}:
                raise InvalidRequest(
                    f"input '{tensor.name}' has {shape[0]} rows, the columns before it have {rows}: "
                    "a table's columns are equally long"
                )
            rows = shape[0]
            columns[tensor.name] = self._column(tensor)
        return pd.DataFrame(columns)

    def _column(self, tensor: Tensor) -> Any:
        named = str(tensor.parameters.get("content_type") or "")
        codec = self._codecs.get("json" if named == "pd_json" else named)
        values: Any
        if tensor.datatype != "BYTES":
            values = tensor.data
        elif codec is None or named in {"", "np"}:
            values = texts_of(tensor, "pd")
        else:
            values = codec.decode(tensor)
            if named in {"json", "pd_json"} and tensor.data.size == 1:
                values = [values]
        if tensor.data.ndim == 1 or tensor.data.size == len(tensor.data):
            if isinstance(values, np.ndarray):
                return values.reshape(-1)
            return _objects(values) if named in {"json", "pd_json", "bytes", "base64"} else values
        if isinstance(values, list):
            values = _objects(values).reshape(tensor.data.shape)
        return list(values)

    def encode(self, value: Any) -> tuple[Tensor, ...]:
        """The columns as tensors of shape [n]."""
        names = [str(name) for name in value.columns]
        if len(set(names)) != len(names):
            raise InvalidRequest("the DataFrame has columns of the same name; tensors need different ones")
        return tuple(self._tensor(name, value.iloc[:, index]) for index, name in enumerate(names))

    def _tensor(self, name: str, column: Any) -> Tensor:
        kind = column.dtype.kind
        missing = bool(column.isna().any())
        if kind in "biuf":
            if isinstance(column.dtype, np.dtype):
                return self._codecs["np"].encode(name, column.to_numpy())
            if not missing:
                return self._codecs["np"].encode(name, column.to_numpy(dtype=column.dtype.numpy_dtype))
            if kind != "b":
                return self._codecs["np"].encode(name, column.to_numpy(dtype=np.float64, na_value=np.nan))
        if kind == "M" and not missing:
            return self._codecs["datetime"].encode(name, [each.to_pydatetime(warn=False) for each in column])
        values = [
            None if absent else each for each, absent in zip(column.tolist(), column.isna().tolist(), strict=True)
        ]
        if kind == "M":
            values = [None if each is None else each.isoformat() for each in values]
        if values and not missing:
            if all(isinstance(each, str) for each in values):
                return self._codecs["str"].encode(name, values)
            if all(isinstance(each, bytes) for each in values):
                return self._codecs["bytes"].encode(name, values)
        return self._codecs["json"].encode(name, values)

    def accepts(self, value: Any) -> bool:
        """DataFrames, told without importing pandas."""
        return any(
            kind.__module__.partition(".")[0] == "pandas" and kind.__name__ == "DataFrame"
            for kind in type(value).__mro__
        )


def _objects(values: list[Any]) -> Array:
    array: Array = np.empty(len(values), np.object_)
    array[:] = values
    return array
