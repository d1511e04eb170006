"""Routes of a model's own."""

from __future__ import annotations

from typing import Any

from headrace.compat import not_offered

from .custom import custom_handler, get_custom_handlers

__all__ = ["get_custom_handlers", "custom_handler"]


def __getattr__(name: str) -> Any:
    if name in {"DataPlane", "ModelRepositoryHandlers"}:
        raise ImportError(
            not_offered(f"mlserver.handlers.{name} (it offers {', '.join(sorted(__all__))})"), name=__name__
        )
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
