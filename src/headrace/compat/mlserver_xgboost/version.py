"""The version of the original whose behaviour this package has."""

__version__ = "1.7.1"
