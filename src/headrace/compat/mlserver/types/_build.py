"""Builds requests and responses without validation, for callers that made the parts themselves.

`runtimes.mlserver` calls it once per request, and the codecs for what they encode.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, List, Optional, TypeVar

import numpy.typing as npt

from .dataplane import (
    InferenceRequest,
    InferenceResponse,
    Parameters,
    RequestInput,
    RequestOutput,
    ResponseOutput,
    TensorData,
)

_M = TypeVar("_M")
_set = object.__setattr__


def _model(kind: type[_M], values: dict[str, Any], given: set[str], extra: dict[str, Any] | None = None) -> _M:
    made = kind.__new__(kind)
    _set(made, "__dict__", values)
    _set(made, "__pydantic_fields_set__", given)
    _set(made, "__pydantic_extra__", extra)
    _set(made, "__pydantic_private__", None)
    return made


def parameters(values: Mapping[str, Any], headers: Optional[Mapping[str, Any]] = None) -> Optional[Parameters]:
    """Parameters of `values`, with `headers` in place of any there; None where there is nothing.

    The name under which codecs keep what they decoded is left out: no caller may speak for them.
    """
    if not values and headers is None:
        return None
    extra = dict(values)
    extra.pop("_decoded_payload", None)
    given = set(extra)
    content_type = extra.pop("content_type", None)
    found = extra.pop("headers", None)
    if headers is not None:
        found = dict(headers)
        given.add("headers")
    return _model(Parameters, {"content_type": content_type, "headers": found}, given, extra)


def request_input(
    name: str,
    datatype: str,
    array: npt.NDArray[Any],
    *,
    parameters: Optional[Parameters] = None,
    nulls: bool = True,
    text: bool = False,
    nested: bool = False,
) -> RequestInput:
    """An input tensor of the array's shape; `nulls`, `text` and `nested` are those of `TensorData.of_array`."""
    given = {"name", "shape", "datatype", "data"}
    if parameters is not None:
        given.add("parameters")
    return _model(
        RequestInput,
        {
            "name": name,
            "shape": list(array.shape),
            "datatype": datatype,
            "parameters": parameters,
            "data": TensorData.of_array(array, nulls=nulls, text=text, nested=nested),
        },
        given,
    )


def response_output(
    name: str, datatype: str, shape: List[int], data: TensorData, *, parameters: Optional[Parameters] = None
) -> ResponseOutput:
    """An output tensor."""
    given = {"name", "shape", "datatype", "data"}
    if parameters is not None:
        given.add("parameters")
    values = {"name": name, "shape": shape, "datatype": datatype, "parameters": parameters, "data": data}
    return _model(ResponseOutput, values, given)


def request_output(name: str, *, parameters: Optional[Parameters] = None) -> RequestOutput:
    """An output that the caller asks for."""
    given = {"name"} if parameters is None else {"name", "parameters"}
    return _model(RequestOutput, {"name": name, "parameters": parameters}, given)


def request(
    inputs: List[RequestInput],
    *,
    id: Optional[str] = None,
    parameters: Optional[Parameters] = None,
    outputs: Optional[List[RequestOutput]] = None,
) -> InferenceRequest:
    """A request."""
    given = {"inputs"}
    if id is not None:
        given.add("id")
    if parameters is not None:
        given.add("parameters")
    if outputs is not None:
        given.add("outputs")
    return _model(InferenceRequest, {"id": id, "parameters": parameters, "inputs": inputs, "outputs": outputs}, given)


def response(
    model_name: str,
    outputs: List[ResponseOutput],
    *,
    model_version: Optional[str] = None,
    id: Optional[str] = None,
    parameters: Optional[Parameters] = None,
) -> InferenceResponse:
    """A response."""
    given = {"model_name", "outputs", "model_version"}
    if id is not None:
        given.add("id")
    if parameters is not None:
        given.add("parameters")
    values = {
        "model_name": model_name,
        "model_version": model_version,
        "id": id,
        "parameters": parameters,
        "outputs": outputs,
    }
    return _model(InferenceResponse, values, given)


def held(data: Any) -> npt.NDArray[Any] | None:
    """The array behind the data of a tensor, while nobody has looked at it as a list; not to be changed."""
    return data._held if type(data) is TensorData else None
