"""Stands in for `mlserver-lightgbm`: LightGBM boosters, for code that derives from `LightGBMModel`."""

from .lightgbm import LightGBMModel

__all__ = ["LightGBMModel"]
