"""Requests and responses of custom handlers; needs starlette."""

from __future__ import annotations

from typing import Any

from headrace.compat import not_offered


def __getattr__(name: str) -> Any:
    if name == "RESTServer":
        raise ImportError(not_offered("mlserver.rest.RESTServer"), name=__name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
