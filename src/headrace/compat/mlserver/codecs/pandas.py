"""Data frames: one tensor per column."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, List, Optional, Union

import numpy as np

from ..types import InferenceRequest, InferenceResponse, Parameters, RequestInput, ResponseOutput, TensorData
from ..types._build import held, response_output
from ..types._build import response as build_response
from .base import LazyHint, RequestCodec, register_request_codec
from .errors import CodecError, _InvalidTensor
from .json import decode_json_input_or_output, encode_to_json
from .lists import ListElement
from .numpy import _datatype_name, _Dtypes, _name
from .string import encode_str
from .utils import get_decoded, has_decoded

if TYPE_CHECKING:
    import pandas as pd

InputOrOutput = Union[RequestInput, ResponseOutput]


def _frame() -> Any:
    import pandas as pd

    return pd.DataFrame


def _is_imported() -> bool:
    return "pandas" in sys.modules


def _to_series(input_or_output: InputOrOutput) -> pd.Series:
    """A column: what was decoded before, or the tensor itself."""
    import pandas as pd

    name = input_or_output.name
    parameters = input_or_output.parameters
    dtype = _Dtypes.get(_name(input_or_output.datatype))
    if has_decoded(input_or_output):
        decoded = get_decoded(input_or_output)
        if not isinstance(decoded, np.ndarray):
            return pd.Series(decoded, name=name)
        flat = decoded if decoded.ndim == 1 else decoded.reshape(len(decoded), -1)
        if flat.ndim > 1 and flat.shape[1] > 1:
            raise CodecError(
                f"tensor '{name}' has shape {list(decoded.shape)}; a column of a data frame takes one value per row"
            )
        return pd.Series(flat.reshape(-1).astype(dtype) if dtype is not None else flat.reshape(-1).tolist(), name=name)
    if parameters is not None and parameters.content_type == PandasCodec.JsonContentType:
        return pd.Series(decode_json_input_or_output(input_or_output), name=name)
    array = held(input_or_output.data)
    if dtype is None:
        return pd.Series(list(input_or_output.data), name=name)
    if array is not None:
        return pd.Series(np.array(array.reshape(-1), dtype=dtype), name=name)
    try:
        return _numbers(list(input_or_output.data), dtype, name)
    except (ValueError, TypeError, OverflowError) as error:
        raise _InvalidTensor(name, error) from error


def _numbers(listed: List[Any], dtype: np.dtype[Any], name: str) -> pd.Series:
    """A column of numbers. Nulls are NaN among floats; integers and booleans with nulls take pandas' own dtypes."""
    import pandas as pd

    if dtype.kind in "iub" and None in listed:
        return pd.Series(listed, dtype=_nullable(dtype), name=name)
    return pd.Series(listed, dtype=dtype, name=name)


def _nullable(dtype: np.dtype[Any]) -> str:
    text = dtype.name
    return "boolean" if text == "bool" else text.replace("uint", "UInt") if dtype.kind == "u" else text.capitalize()


def _process_bytes(data: List[Any], use_bytes: bool = True) -> tuple[List[Any], Optional[str]]:
    """Text elements, UTF-8 unless `use_bytes` is off, under `str`; anything else as JSON, under `pd_json`.

    Nulls stay null in either.
    """
    present = [element for element in data if element is not None]
    if all(isinstance(element, (str, bytes)) for element in present):
        return [encode_str(item) if use_bytes and isinstance(item, str) else item for item in data], "str"
    encoded: List[Optional[ListElement]] = [
        None if item is None else encode_to_json(item, use_bytes=use_bytes) for item in data
    ]
    return encoded, PandasCodec.JsonContentType


def _to_response_output(series: pd.Series, use_bytes: bool = True) -> ResponseOutput:
    name = str(series.name)
    shape = [len(series), 1]
    dtype = series.dtype
    if isinstance(dtype, np.dtype) and dtype in _PLAIN:
        array = np.array(series.to_numpy(), dtype=dtype.newbyteorder("="))
        return response_output(name, _datatype_name(dtype), shape, TensorData.of_array(array))
    listed = [None if missing else value for value, missing in zip(series.tolist(), series.isna(), strict=True)]
    datatype = _extension_datatype(dtype)
    if datatype is not None:
        return response_output(name, datatype, shape, TensorData(listed))
    if getattr(dtype, "kind", "") == "M":
        listed = [None if value is None else value.isoformat() for value in listed]
    processed, content_type = _process_bytes(listed, use_bytes)
    parameters = Parameters(content_type=content_type) if content_type else None
    return response_output(name, "BYTES", shape, TensorData(processed), parameters=parameters)


_PLAIN = frozenset(_Dtypes.values())


def _extension_datatype(dtype: Any) -> Optional[str]:
    """The datatype of pandas' own number dtypes, which know nulls."""
    numpy_dtype = getattr(dtype, "numpy_dtype", None)
    if numpy_dtype is None:
        return None
    return _datatype_name(numpy_dtype) if numpy_dtype in _PLAIN else None


@register_request_codec
class PandasCodec(RequestCodec):
    """A data frame, one tensor per column."""

    ContentType = "pd"
    JsonContentType = "pd_json"
    TypeHint = LazyHint(_frame, _is_imported)

    @classmethod
    def can_encode(cls, payload: Any) -> bool:
        """A data frame."""
        return _is_imported() and isinstance(payload, _frame())

    @classmethod
    def encode_response(
        cls,
        model_name: str,
        payload: pd.DataFrame,
        model_version: Optional[str] = None,
        use_bytes: bool = True,
        **kwargs: Any,
    ) -> InferenceResponse:
        """A response of one output per column."""
        return build_response(
            model_name,
            cls.encode_outputs(payload, use_bytes=use_bytes),
            model_version=model_version,
            parameters=Parameters(content_type=cls.ContentType),
        )

    @classmethod
    def decode_response(cls, response: InferenceResponse) -> pd.DataFrame:
        """The outputs as columns."""
        return cls._joined(response.outputs)

    @classmethod
    def encode_outputs(cls, payload: pd.DataFrame, use_bytes: bool = True) -> List[ResponseOutput]:
        """One output per column."""
        return [_to_response_output(payload[column], use_bytes=use_bytes) for column in payload]

    @classmethod
    def encode_request(cls, payload: pd.DataFrame, use_bytes: bool = True, **kwargs: Any) -> InferenceRequest:
        """A request of one input per column."""
        outputs = cls.encode_outputs(payload, use_bytes=use_bytes)
        return InferenceRequest(
            parameters=Parameters(content_type=cls.ContentType),
            inputs=[
                RequestInput(
                    name=output.name,
                    datatype=output.datatype,
                    shape=output.shape,
                    data=output.data,
                    parameters=output.parameters,
                )
                for output in outputs
            ],
        )

    @classmethod
    def decode_request(cls, request: InferenceRequest) -> pd.DataFrame:
        """The inputs as columns."""
        return cls._joined(request.inputs)

    @classmethod
    def _joined(cls, tensors: Any) -> pd.DataFrame:
        return _frame()({tensor.name: _to_series(tensor) for tensor in tensors})
