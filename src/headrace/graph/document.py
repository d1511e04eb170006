"""The JSON view of a request, which conditions written for JSON bodies look at. `conditions` and routers make them.

A `View` is made for each request that conditions look at, and shared by all of them; its document is computed when the
first of them asks.

What came by protocol v1 is `{"instances": [...]}`, as V1 writes rows: values where there is one tensor (an object a row
where it has a name of its own and one value a row), an object of them by name where there are several. Other members of
the body stand beside them. Anything else is V2's `{"id", "parameters", "inputs": [{name, shape, datatype, data}]}`.

A step is also asked what an earlier step answered, and a condition written for that answer says `predictions` or
`outputs`. Nothing in a request says which of the two it is, so the same rows stand under both names.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from headrace.errors import RuntimeFailed
from headrace.payload import InferenceRequest, InferenceResponse, Tensor

_V1: Final = "v1"
_UNNAMED: Final = frozenset({"", "input-0", "output-0"})
"""Names that tensors have where nobody gave one."""


class View:
    """One request, and its JSON document once somebody has asked for it."""

    __slots__ = ("_document", "request")

    def __init__(self, request: InferenceRequest) -> None:
        self.request = request
        self._document: dict[str, Any] | None = None

    @property
    def document(self) -> dict[str, Any]:
        """The request as JSON has it. Raises as `of_request` does."""
        if self._document is None:
            self._document = of_request(self.request)
        return self._document


def of_request(request: InferenceRequest) -> dict[str, Any]:
    """The document of a request; rows stand under the request's name for them and under an answer's.

    Raises:
        RuntimeFailed: a BYTES tensor holds what is neither bytes nor text.
    """
    if request.protocol == _V1:
        rows = _rows(request.inputs)
        return {**request.parameters, "instances": rows, "predictions": rows}
    entries = [_entry(tensor) for tensor in request.inputs]
    document: dict[str, Any] = {"inputs": entries, "outputs": entries}
    if request.id:
        document["id"] = request.id
    if request.parameters:
        document["parameters"] = dict(request.parameters)
    return document


def of_response(response: InferenceResponse, *, protocol: str = "") -> dict[str, Any]:
    """The document of a response, in the words of the protocol that it answers.

    Raises:
        RuntimeFailed: a BYTES tensor holds what is neither bytes nor text.
    """
    if protocol == _V1:
        return {"predictions": _rows(response.outputs)}
    document: dict[str, Any] = {"model_name": response.model_name, "outputs": [_entry(t) for t in response.outputs]}
    if response.model_version:
        document["model_version"] = response.model_version
    if response.id:
        document["id"] = response.id
    if response.parameters:
        document["parameters"] = dict(response.parameters)
    return document


def _entry(tensor: Tensor) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "name": tensor.name,
        "shape": list(tensor.data.shape),
        "datatype": tensor.datatype,
        "data": _values(tensor, flat=True),
    }
    if tensor.parameters:
        entry["parameters"] = dict(tensor.parameters)
    return entry


def _rows(tensors: Sequence[Tensor]) -> Any:
    if not tensors:
        return []
    if len(tensors) == 1 and (tensors[0].name in _UNNAMED or tensors[0].data.ndim > 1):
        return _values(tensors[0])
    columns = {tensor.name: _values(tensor) for tensor in tensors}
    if len({tensor.data.shape[:1] for tensor in tensors}) > 1 or not tensors[0].data.ndim:
        return columns  # they share no rows
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _values(tensor: Tensor, *, flat: bool = False) -> Any:
    data = tensor.data
    if tensor.datatype == "BF16":
        data = (data.astype(np.uint32) << 16).view(np.float32)
    if flat:
        data = data.reshape(-1)
    if tensor.datatype == "BYTES":
        texts = np.empty(data.shape, np.object_)
        texts.reshape(-1)[:] = [_text(each, tensor.name) for each in data.reshape(-1).tolist()]
        return texts.tolist()
    if data.dtype.kind == "f" and not np.isfinite(data).all():  # which JSON has no numbers for
        return np.where(np.isfinite(data), data, None).tolist()  # type: ignore[call-overload] # None makes it objects
    return data.tolist()


def _text(value: Any, name: str) -> Any:
    if isinstance(value, str):
        return value
    if not isinstance(value, bytes):
        raise RuntimeFailed(f"tensor '{name}' is BYTES but holds a {type(value).__name__}, neither bytes nor text")
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"b64": base64.b64encode(value).decode()}
