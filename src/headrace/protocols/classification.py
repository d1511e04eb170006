"""The classification extension: an output as its highest values with their classes. Protocols call it in render."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from headrace.errors import InvalidRequest
from headrace.payload import Array, Tensor


def classify(tensor: Tensor, count: int, labels: Sequence[str] = ()) -> Tensor:
    """The `count` highest values along the last axis, highest first, as BYTES `value:index` or `value:index:label`.

    Args:
        tensor: Numeric, with at least one dimension; scores of classes along the last.
        count: At least 1; more than there are classes gives all.
        labels: By position; none, or too few: the label is left out.

    Raises:
        InvalidRequest: the output is not numeric, or a scalar.
    """
    if tensor.datatype in {"BYTES", "BF16"} or tensor.data.ndim == 0:
        raise InvalidRequest(
            f"output '{tensor.name}' cannot be classified: it is {tensor.datatype} of shape {list(tensor.shape)}"
        )
    classes = tensor.data.shape[-1]
    count = min(count, classes)
    rows = tensor.data.reshape(-1, classes) if classes else tensor.data.reshape(0, 0)
    order = np.argsort(-rows.astype(np.float64), axis=-1, kind="stable")[:, :count]
    result: Array = np.empty(order.shape, np.object_)
    for row, picked in enumerate(order.tolist()):
        for place, index in enumerate(picked):
            text = f"{float(rows[row, index]):f}:{index}" + (f":{labels[index]}" if index < len(labels) else "")
            result[row, place] = text.encode()
    return Tensor(tensor.name, "BYTES", result.reshape((*tensor.data.shape[:-1], count)), tensor.parameters)
