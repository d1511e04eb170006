"""What stands inside a fitted scikit-learn pipeline: scalers, as one affine map per column, and the model after them.

For the methods that look into the model (`linear-shap`, `tree-shap`, `integrated-gradients`).
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from headrace.errors import InvalidRequest
from headrace.payload import Array

_SCALERS: Final = ("StandardScaler", "MinMaxScaler", "MaxAbsScaler", "RobustScaler")


def opened(artifact: Any, columns: int, *, method: str) -> tuple[Array, Array, Any]:
    """The model inside, and what happens to the columns before it: `x * scale + shift`, `[f]` each.

    Raises:
        InvalidRequest: there is no artifact, or a step before the model is none of the scalers that are known.
    """
    if artifact is None:
        raise InvalidRequest(f"{method} looks into the model, and its file is not at hand; use permutation-shap")
    scale, shift = np.ones(columns), np.zeros(columns)
    if not (_is_from(artifact, "sklearn") and hasattr(artifact, "steps")):
        return scale, shift, artifact
    for name, step in artifact.steps[:-1]:
        if step is None or step == "passthrough":
            continue
        kind = type(step).__name__
        if kind not in _SCALERS or getattr(step, "clip", False):
            raise InvalidRequest(
                f"{method} sees through {', '.join(_SCALERS)} before a model; step '{name}' is a {kind}: use "
                "permutation-shap"
            )
        factor, offset = _affine(step, columns)
        scale, shift = scale * factor, shift * factor + offset
    return scale, shift, artifact.steps[-1][1]


def _affine(scaler: Any, columns: int) -> tuple[Array, Array]:
    """A fitted scaler as `x * factor + offset`."""
    found = getattr(scaler, "scale_", None)
    factor = np.ones(columns) if found is None else np.asarray(found, np.float64)
    kind = type(scaler).__name__
    if kind == "MinMaxScaler":
        return factor, np.asarray(scaler.min_, np.float64)
    centre = getattr(scaler, "mean_" if kind == "StandardScaler" else "center_", None)
    if kind == "MaxAbsScaler" or centre is None or not getattr(scaler, "with_mean", True):
        return 1 / factor, np.zeros(columns)
    return 1 / factor, -np.asarray(centre, np.float64) / factor


def family(model: Any) -> str:
    """The library that a model comes from: `sklearn`, `xgboost`, ...; also of a class derived from one of theirs."""
    for kind in type(model).__mro__:
        root = kind.__module__.partition(".")[0]
        if root in {"sklearn", "xgboost", "lightgbm", "catboost", "torch"}:
            return root
    return type(model).__module__.partition(".")[0]


def is_torch(model: Any) -> bool:
    """Whether it is a torch module."""
    return any(
        kind.__module__ == "torch.nn.modules.module" and kind.__name__ == "Module" for kind in type(model).__mro__
    )


def _is_from(model: Any, library: str) -> bool:
    return any(kind.__module__.partition(".")[0] == library for kind in type(model).__mro__)
