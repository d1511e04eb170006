"""The nouns of the Open Inference Protocol as pydantic models."""

from .dataplane import (
    Datatype,
    InferenceErrorResponse,
    InferenceRequest,
    InferenceResponse,
    MetadataModelErrorResponse,
    MetadataModelResponse,
    MetadataServerErrorResponse,
    MetadataServerResponse,
    MetadataTensor,
    Parameters,
    RequestInput,
    RequestOutput,
    ResponseOutput,
    TensorData,
)
from .model_repository import (
    RepositoryIndexRequest,
    RepositoryIndexResponse,
    RepositoryIndexResponseItem,
    RepositoryLoadErrorResponse,
    RepositoryUnloadErrorResponse,
    State,
)

__all__ = [
    "MetadataServerResponse",
    "MetadataServerErrorResponse",
    "Datatype",
    "MetadataTensor",
    "MetadataModelErrorResponse",
    "Parameters",
    "TensorData",
    "RequestOutput",
    "ResponseOutput",
    "InferenceResponse",
    "InferenceErrorResponse",
    "MetadataModelResponse",
    "RequestInput",
    "InferenceRequest",
    "RepositoryIndexRequest",
    "RepositoryIndexResponseItem",
    "State",
    "RepositoryIndexResponse",
    "RepositoryLoadErrorResponse",
    "RepositoryUnloadErrorResponse",
]
