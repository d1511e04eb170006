"""An MLflow signature as metadata and content types. Observed of mlserver-mlflow 1.7.1."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from headrace.compat.official import NumpyCodec, PandasCodec

from .codecs import TensorDictCodec

if TYPE_CHECKING:
    from headrace.compat.mlserver.codecs import Base64Codec, DatetimeCodec, StringCodec
    from headrace.compat.mlserver.codecs.numpy import to_datatype
    from headrace.compat.mlserver.types import Datatype, MetadataTensor, Parameters
else:
    from mlserver.codecs import Base64Codec, DatetimeCodec, StringCodec
    from mlserver.codecs.numpy import to_datatype
    from mlserver.types import Datatype, MetadataTensor, Parameters

DefaultInputPrefix = "input-"
DefaultOutputPrefix = "output-"

_COLUMNS = {
    "boolean": (Datatype.BOOL, NumpyCodec.ContentType),
    "integer": (Datatype.INT32, NumpyCodec.ContentType),
    "long": (Datatype.INT64, NumpyCodec.ContentType),
    "float": (Datatype.FP32, NumpyCodec.ContentType),
    "double": (Datatype.FP64, NumpyCodec.ContentType),
    "string": (Datatype.BYTES, StringCodec.ContentType),
    "binary": (Datatype.BYTES, Base64Codec.ContentType),
    "datetime": (Datatype.BYTES, DatetimeCodec.ContentType),
}


def to_metadata_tensors(schema: Any, prefix: str = DefaultInputPrefix) -> list[MetadataTensor]:
    """A tensor for each column or tensor of an MLflow `Schema`; what has no name is numbered after the prefix."""
    tensors = []
    for index, each in enumerate(schema.inputs):
        datatype, content_type = _get_content_type(each)
        tensors.append(
            MetadataTensor(
                name=each.name if each.name is not None else f"{prefix}{index}",
                datatype=datatype,
                shape=_get_shape(each),
                parameters=Parameters(content_type=content_type),
            )
        )
    return tensors


def to_model_content_type(schema: Any) -> str | None:
    """What a request becomes: a data frame for columns, a dict for named tensors, an array for one without a name."""
    if not schema.is_tensor_spec():
        return PandasCodec.ContentType
    return TensorDictCodec.ContentType if schema.has_input_names() else NumpyCodec.ContentType


def _get_content_type(input_spec: Any) -> tuple[Datatype, str | None]:
    if hasattr(input_spec, "shape"):
        return to_datatype(input_spec.type), NumpyCodec.ContentType
    # Arrays, objects and maps have no name in this table: they travel as JSON.
    return _COLUMNS.get(getattr(input_spec.type, "name", ""), (Datatype.BYTES, PandasCodec.JsonContentType))


def _get_shape(input_spec: Any) -> list[int]:
    return list(input_spec.shape) if hasattr(input_spec, "shape") else [-1, 1]
