"""Stands in for `mlserver-xgboost`: XGBoost models, for code that derives from `XGBoostModel`."""

from .xgboost import XGBoostModel

__all__ = ["XGBoostModel"]
