"""Stands in for `mlserver-sklearn`: scikit-learn estimators, for code that derives from `SKLearnModel`."""

from .sklearn import SKLearnModel

__all__ = ["SKLearnModel"]
