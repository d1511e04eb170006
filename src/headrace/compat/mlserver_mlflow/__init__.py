"""Stands in for `mlserver-mlflow`: MLflow models, for code that derives from `MLflowRuntime`."""

from .codecs import TensorDictCodec
from .runtime import MLflowRuntime

__all__ = ["MLflowRuntime", "TensorDictCodec"]
