"""Arrays. Data that is backed by an array is taken as it is; anything else is listed data, as JSON brings it."""

from __future__ import annotations

from typing import Any, Dict, List, Union

import numpy as np
import numpy.typing as npt

from ..types import Datatype, Parameters, RequestInput, ResponseOutput, TensorData
from ..types._build import held, response_output
from .base import InputCodec, register_input_codec, register_request_codec
from .errors import _InvalidTensor
from .string import encode_str
from .utils import SingleInputRequestCodec, inject_batch_dimension

InputOrOutput = Union[RequestInput, ResponseOutput]

_DatatypeToNumpy: Dict[str, npt.DTypeLike] = {
    "BOOL": "bool",
    "UINT8": "uint8",
    "UINT16": "uint16",
    "UINT32": "uint32",
    "UINT64": "uint64",
    "INT8": "int8",
    "INT16": "int16",
    "INT32": "int32",
    "INT64": "int64",
    "FP16": "float16",
    "FP32": "float32",
    "FP64": "float64",
}
_NumpyToDatatype: Dict[str, Datatype] = {str(dtype): Datatype(name) for name, dtype in _DatatypeToNumpy.items()}
_Dtypes = {name: np.dtype(dtype) for name, dtype in _DatatypeToNumpy.items()}
_Names = {dtype: name for name, dtype in _Dtypes.items()}


def to_datatype(dtype: npt.DTypeLike) -> Datatype:
    """The datatype that carries a dtype; text, bytes and objects are BYTES.

    Raises:
        KeyError: nothing carries it.
    """
    return Datatype(_datatype_name(np.dtype(dtype)))


def _datatype_name(dtype: np.dtype[Any]) -> str:
    name = _Names.get(dtype) or _Names.get(dtype.newbyteorder("="))
    if name is not None:
        return name
    if dtype.kind in "OSUT":
        return "BYTES"
    raise KeyError(dtype.kind)


def _name(datatype: Any) -> str:
    return str(datatype.value) if isinstance(datatype, Datatype) else str(datatype)


def to_dtype(input_or_output: InputOrOutput) -> np.dtype[Any]:
    """The dtype of a tensor. BYTES is text where the first element is, else bytes of the shape's last dimension."""
    known = _Dtypes.get(_name(input_or_output.datatype))
    if known is not None:
        return known
    data = _root(input_or_output.data)
    if isinstance(data, str) or (isinstance(data, (list, tuple)) and data and isinstance(data[0], str)):
        return np.dtype("str")
    return np.dtype(("bytes", input_or_output.shape[-1] if input_or_output.shape else 1))


def _root(data: Any) -> Any:
    return data.root if isinstance(data, TensorData) else data


def convert_nan(val: Any) -> Any:
    """None for what is no number; anything else, text and None included, stays."""
    return None if isinstance(val, (float, np.floating)) and val != val else val  # noqa: PLR0124 - NaN is not itself


def _to_ndarray(input_or_output: InputOrOutput) -> npt.NDArray[Any]:
    """The array of a tensor; the caller may write to it.

    Raises:
        CodecError: the data are not what datatype and shape say.
    """
    try:
        return _array(input_or_output)
    except (ValueError, TypeError, OverflowError) as error:
        raise _InvalidTensor(input_or_output.name, error) from error


def _array(input_or_output: InputOrOutput) -> npt.NDArray[Any]:
    name = _name(input_or_output.datatype)
    dtype = _Dtypes.get(name)
    array = held(input_or_output.data)
    if dtype is None:
        if array is not None and not array.size:
            return np.empty(input_or_output.shape, dtype="U1")
        return _bytes_array(input_or_output)
    if array is not None:
        return np.array(array, dtype=dtype).reshape(input_or_output.shape)
    return np.array(_root(input_or_output.data), dtype=dtype).reshape(input_or_output.shape)


def _bytes_array(input_or_output: InputOrOutput) -> npt.NDArray[Any]:
    data = _root(input_or_output.data)
    shape = input_or_output.shape
    listed = data if isinstance(data, (list, tuple)) else [data]
    flat: List[Any] = np.array(listed, dtype=object).ravel().tolist() if _is_nested(listed) else list(listed)
    count = int(np.prod(shape)) if shape else 1
    if not flat:
        return np.empty(shape, dtype="U1")
    if all(isinstance(element, str) for element in flat):
        return np.array(flat, dtype=np.str_).reshape(shape)
    if not all(isinstance(element, (str, bytes)) for element in flat):
        return np.array(flat, dtype=object).reshape(shape)  # nulls and numbers among text
    encoded = [encode_str(element) if isinstance(element, str) else element for element in flat]
    if len(encoded) == count or count < 1:
        return np.array(encoded, dtype=np.bytes_).reshape(shape)
    # A buffer of items of one size, as `encode_output` makes of arrays of bytes.
    buffer = b"".join(encoded)
    size, rest = divmod(len(buffer), count)
    if rest or not size or (len(encoded) > 1 and size != shape[-1]):
        raise ValueError(f"cannot reshape {len(buffer)} bytes into shape ({','.join(map(str, shape))})")
    return np.frombuffer(bytearray(buffer), dtype=f"S{size}").reshape(shape)


def _is_nested(listed: Any) -> bool:
    return bool(listed) and isinstance(listed[0], (list, tuple))


def _encode_data(data: npt.NDArray[Any], datatype: str) -> TensorData:
    """The data of a tensor; the array is copied, for the model may write to it while the answer is on its way."""
    kind = data.dtype.kind
    if datatype != "BYTES":
        return TensorData.of_array(np.array(data, dtype=_Dtypes[datatype], order="C"))
    if kind == "S":
        return TensorData([data.tobytes()])
    if kind in "UT":
        return TensorData([encode_str(text) for text in data.ravel().tolist()])
    return TensorData(data.ravel().tolist())


@register_input_codec
class NumpyCodec(InputCodec):
    """An array."""

    ContentType = "np"
    TypeHint = np.ndarray

    @classmethod
    def can_encode(cls, payload: Any) -> bool:
        """An array."""
        return isinstance(payload, np.ndarray)

    @classmethod
    def encode_output(cls, name: str, payload: npt.NDArray[Any], **kwargs: Any) -> ResponseOutput:
        """NaN becomes None, text UTF-8; bytes are joined into one buffer."""
        datatype = _datatype_name(payload.dtype)
        return response_output(
            name,
            datatype,
            inject_batch_dimension(list(payload.shape)),
            _encode_data(payload, datatype),
            parameters=Parameters(content_type=cls.ContentType),
        )

    @classmethod
    def decode_output(cls, response_output: ResponseOutput) -> npt.NDArray[Any]:
        """As of `decode_input`."""
        return _to_ndarray(response_output)

    @classmethod
    def encode_input(cls, name: str, payload: npt.NDArray[Any], **kwargs: Any) -> RequestInput:
        """As of `encode_output`."""
        output = cls.encode_output(name, payload, **kwargs)
        return RequestInput(
            name=output.name,
            datatype=output.datatype,
            shape=output.shape,
            data=output.data,
            parameters=output.parameters,
        )

    @classmethod
    def decode_input(cls, request_input: RequestInput) -> npt.NDArray[Any]:
        """The array, in the tensor's datatype and shape; None among floats becomes NaN."""
        return _to_ndarray(request_input)


@register_request_codec
class NumpyRequestCodec(SingleInputRequestCodec):
    """A request of one array."""

    InputCodec = NumpyCodec
    ContentType = "np"
