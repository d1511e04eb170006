"""`register` and `log`, for the model at work."""

from __future__ import annotations

from typing import List, Optional

from ..context import model_name_var, model_version_var  # noqa: F401 - older code imports them from here
from ..settings import ModelSettings
from .registry import DEFAULT_DESCRIPTION, REGISTRY, Histogram, Sample, current_model

SELDON_MODEL_NAME_LABEL = "model_name"
SELDON_MODEL_VERSION_LABEL = "model_version"


def register(name: str, description: str) -> Histogram:
    """The metric of that name; new where there is none."""
    return REGISTRY.metric(name, description)


def log(**metrics: float) -> None:
    """Count values, by metric name; one that is not registered is registered.

    Raises:
        InvalidModelContext: called outside of a model's methods.
    """
    current_model()
    for name, value in metrics.items():
        REGISTRY.metric(name, DEFAULT_DESCRIPTION).observe(value)


def _drain(model_settings: Optional[ModelSettings] = None) -> List[Sample]:
    """What was logged since the last drain, by one model or by all."""
    if model_settings is None:
        return REGISTRY.drain()
    return REGISTRY.drain((model_settings.name, model_settings.version or ""))
