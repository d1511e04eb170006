"""The version that code compares."""

__version__ = "1.7.1"
