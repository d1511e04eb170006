"""What this process can load, in the words that `requirements` of a model and `capabilities` of a server use."""

from __future__ import annotations

import functools
from importlib.util import find_spec
from typing import Final

_LIBRARIES: Final = {
    "sklearn": "sklearn",
    "xgboost": "xgboost",
    "lightgbm": "lightgbm",
    "catboost": "catboost",
    "onnx": "onnxruntime",
    "mlflow": "mlflow",
    "mlserver": "pydantic",
}
"""Capability to the library that makes it so. `mlserver`: a runtime class written for it, on our stand-in."""


@functools.cache
def capabilities() -> frozenset[str]:
    """The runtimes whose libraries are installed, and `python`."""
    return frozenset({"python", *(name for name, library in _LIBRARIES.items() if find_spec(library) is not None)})
