"""What component classes written for Seldon Core v1 import from `seldon_core`: bases, responses, errors, metrics."""

from .storage import Storage

__all__ = ["Storage", "__version__"]

__version__ = "1.19.0"
"""The release whose names these are."""
