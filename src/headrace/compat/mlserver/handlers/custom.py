"""`custom_handler`: a method of a model that answers plain HTTP requests."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, List, Tuple, TypeVar

from pydantic import BaseModel

from ..model import MLModel

_CustomHandlerAttr = "__custom_handler__"
_HandlerMethod = Callable[..., Any]
_F = TypeVar("_F", bound=_HandlerMethod)


class CustomHandler(BaseModel):
    """Where the method is reached."""

    rest_path: str
    rest_method: str = "POST"


def custom_handler(rest_path: str, rest_method: str = "POST") -> Callable[[_F], _F]:
    """Let a method answer requests to a path of its own."""

    def _wraps(f: _F) -> _F:
        register_custom_handler(CustomHandler(rest_path=rest_path, rest_method=rest_method), f)
        return f

    return _wraps


def register_custom_handler(handler: CustomHandler, method: _HandlerMethod) -> None:
    """Note on the method where it is reached."""
    setattr(method, _CustomHandlerAttr, handler)


def get_custom_handlers(model: MLModel) -> List[Tuple[CustomHandler, _HandlerMethod]]:
    """The methods of a model that answer requests of their own, by name."""
    return [
        (getattr(method, _CustomHandlerAttr), method)
        for _, method in inspect.getmembers(model, predicate=inspect.ismethod)
        if hasattr(method, _CustomHandlerAttr)
    ]
