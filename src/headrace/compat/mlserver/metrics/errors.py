"""What can go wrong with metrics: the model's doing, 500."""

from __future__ import annotations

from typing import Any

from ..errors import MLServerError


class InvalidModelContext(MLServerError):
    """Measured outside of any model."""

    def __init__(self) -> None:
        super().__init__(
            "Contextual method (e.g. mlserver.log() or mlserver.register()) was called outside of a model context. ",
            500,
        )


class MetricNotFound(MLServerError):
    """No metric of that name."""

    def __init__(self, metric_name: str, collector: Any = None) -> None:
        text = f"No metric found with name '{metric_name}'"
        if collector is not None:
            text = (
                f"Invalid metric found with name '{metric_name}'. "
                f"Object is of type '{type(collector)}' instead of 'MetricWrapperBase'."
            )
        super().__init__(text, 500)
