"""Stands in for `mlserver-catboost`: CatBoost models, for code that derives from `CatboostModel`."""

from .catboost import CatboostModel

__all__ = ["CatboostModel"]
