"""Content type `scalar`: one number or boolean of Python."""

from __future__ import annotations

from typing import Any

import numpy as np

from headrace.codecs.base import Codec
from headrace.codecs.elements import refused
from headrace.errors import InvalidRequest
from headrace.payload import Tensor


class ScalarCodec(Codec):
    """One number or boolean: one element of BOOL, INT64 (UINT64 where needed) or FP64."""

    content_type = "scalar"

    def decode(self, tensor: Tensor) -> bool | int | float:
        """The one element as a bool, int or float."""
        if tensor.datatype in {"BYTES", "BF16"} or tensor.data.size != 1:
            raise InvalidRequest(
                f"input '{tensor.name}': content type 'scalar' needs one number or boolean, "
                f"got {tensor.datatype} of shape {list(tensor.shape)}"
            )
        value: bool | int | float = tensor.data.item()
        return value

    def encode(self, name: str, value: Any) -> Tensor:
        """The number as a tensor of shape [1]."""
        if isinstance(value, bool):
            return Tensor(name, "BOOL", np.array([value], np.bool_))
        if isinstance(value, int):
            if not -(1 << 63) <= value < 1 << 64:
                raise InvalidRequest(f"'{name}': no datatype carries an integer of {value.bit_length()} bits")
            if value >= 1 << 63:
                return Tensor(name, "UINT64", np.array([value], np.uint64))
            return Tensor(name, "INT64", np.array([value], np.int64))
        if isinstance(value, float):
            return Tensor(name, "FP64", np.array([value], np.float64))
        raise refused(name, value, "a number or a boolean")

    def accepts(self, value: Any) -> bool:
        """Python's bool, int and float. Numpy's `float64`, also a float, belongs to `np`."""
        return isinstance(value, bool | int | float) and not isinstance(value, np.generic)
