"""The types of inference. `TensorData` may be backed by an array, which is listed only when somebody looks."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from typing import Any, Dict, List, Optional, Union

import numpy as np
import numpy.typing as npt
from pydantic import ConfigDict, RootModel, model_validator

from .base import BaseModel


class Datatype(Enum):
    """The datatypes of the protocol."""

    BOOL = "BOOL"
    UINT8 = "UINT8"
    UINT16 = "UINT16"
    UINT32 = "UINT32"
    UINT64 = "UINT64"
    INT8 = "INT8"
    INT16 = "INT16"
    INT32 = "INT32"
    INT64 = "INT64"
    FP16 = "FP16"
    FP32 = "FP32"
    FP64 = "FP64"
    BYTES = "BYTES"


class MetadataServerResponse(BaseModel):
    """What a server says of itself."""

    name: str
    version: str
    extensions: List[str]


class MetadataServerErrorResponse(BaseModel):
    """Why it says nothing."""

    error: str


class Parameters(BaseModel):
    """Parameters of a request, response or tensor; any name is allowed."""

    model_config = ConfigDict(extra="allow")

    content_type: Optional[str] = None
    headers: Optional[Dict[str, Any]] = None


class MetadataTensor(BaseModel):
    """What a model says of one of its tensors."""

    name: str
    datatype: Datatype
    shape: List[int]
    parameters: Optional[Parameters] = None


class MetadataModelErrorResponse(BaseModel):
    """Why it says nothing."""

    error: str


class MetadataModelResponse(BaseModel):
    """What a model says of itself."""

    name: str
    versions: Optional[List[str]] = None
    platform: str
    inputs: Optional[List[MetadataTensor]] = None
    outputs: Optional[List[MetadataTensor]] = None
    parameters: Optional[Parameters] = None


class TensorData(RootModel[Union[List, Any]]):  # type: ignore[type-arg]  # the original has it so
    """The elements of a tensor: a list, flat or nested, or whatever the caller put there.

    Made by `of_array`, it holds an array instead, until somebody asks for `root`: from then on it is the list alone,
    so that a change of the list is never missed.
    """

    __slots__ = ("_array", "_style")

    root: Union[List, Any]  # type: ignore[type-arg]  # the original has it so

    @model_validator(mode="before")
    @classmethod
    def _from_old_name(cls, values: Any) -> Any:
        """`TensorData(__root__=...)`, as code for pydantic 1 writes it."""
        return values["__root__"] if type(values) is dict and values.keys() == {"__root__"} else values

    @classmethod
    def of_array(
        cls, array: npt.NDArray[Any], *, nulls: bool = True, text: bool = False, nested: bool = False
    ) -> TensorData:
        """The data of a tensor, as an array that nobody changes from now on.

        Args:
            array: In the tensor's shape and datatype; BYTES as objects (`bytes` or `str`).
            nulls: List NaN as None, as JSON has it. False: as NaN, as gRPC has it.
            text: List `bytes` elements as `str`, as JSON has them.
            nested: List rows as lists, as the caller did.
        """
        data = cls.__new__(cls)
        _set(data, "__dict__", {})
        _set(data, "__pydantic_fields_set__", {"root"})
        _set(data, "__pydantic_extra__", None)
        _set(data, "__pydantic_private__", None)
        _set(data, "_array", array)
        _set(data, "_style", (nulls, text, nested))
        return data

    @property
    def _held(self) -> npt.NDArray[Any] | None:
        """The array, while nobody has looked at the list; not to be changed."""
        return None if "root" in self.__dict__ else self._array

    def __getattr__(self, name: str) -> Any:
        if name == "root":
            try:
                array, style = self._array, self._style
            except AttributeError:
                return super().__getattr__(name)  # type: ignore[misc]  # the original has it so
            listed = self.__dict__["root"] = _listed(array, *style)
            return listed
        if name == "__root__":  # what pydantic 1 called it
            return self.root
        return super().__getattr__(name)  # type: ignore[misc]  # the original has it so

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # the original has it so
        return iter(self.root)

    def __getitem__(self, idx: Any) -> Any:
        return self.root[idx]

    def __len__(self) -> int:
        held = self._held
        if held is None or self._style[2]:
            return len(self.root)
        return held.size

    def __eq__(self, other: object) -> bool:
        if isinstance(other, TensorData):
            return bool(self.root == other.root)
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]  # the original has it so

    def __copy__(self) -> TensorData:
        _ = self.root
        return super().__copy__()

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> TensorData:
        _ = self.root
        return super().__deepcopy__(memo)

    def __getstate__(self) -> dict[Any, Any]:
        _ = self.root
        return super().__getstate__()


_set = object.__setattr__


def _listed(array: npt.NDArray[Any], nulls: bool, text: bool, nested: bool) -> list[Any]:
    """The elements in row-major order, as plain values; `nested`: rows in lists, as the shape is."""
    kind = array.dtype.kind
    listed: list[Any] = array.ravel().tolist()
    if kind == "f" and nulls and np.isnan(array).any():
        listed = [None if element != element else element for element in listed]  # noqa: PLR0124 - NaN is not itself
    elif kind == "O" and text:
        listed = [_text(element) for element in listed]
    if nested:
        for size in array.shape[:0:-1]:
            listed = [listed[start : start + size] for start in range(0, len(listed), size)]
    return listed


def _text(element: Any) -> Any:
    if not isinstance(element, bytes):
        return element
    try:
        return element.decode()
    except UnicodeDecodeError:
        return element  # came as binary data, which no JSON text could have carried


class RequestInput(BaseModel):
    """An input tensor."""

    name: str
    shape: List[int]
    datatype: Datatype
    parameters: Optional[Parameters] = None
    data: TensorData


class RequestOutput(BaseModel):
    """An output that the caller asks for."""

    name: str
    parameters: Optional[Parameters] = None


class ResponseOutput(BaseModel):
    """An output tensor."""

    name: str
    shape: List[int]
    datatype: Datatype
    parameters: Optional[Parameters] = None
    data: TensorData


class InferenceResponse(BaseModel):
    """What a model answers."""

    model_name: str
    model_version: Optional[str] = None
    id: Optional[str] = None
    parameters: Optional[Parameters] = None
    outputs: List[ResponseOutput]


class InferenceErrorResponse(BaseModel):
    """Why it does not."""

    error: Optional[str] = None


class InferenceRequest(BaseModel):
    """What a caller asks."""

    id: Optional[str] = None
    parameters: Optional[Parameters] = None
    inputs: List[RequestInput]
    outputs: Optional[List[RequestOutput]] = None
