"""Stands in for `mlserver`: what custom runtimes import, with the behaviour that they know.

`headrace.compat.provide` lets it be found under this name; `headrace.runtimes.mlserver` drives the models made with it.
"""

from __future__ import annotations

from typing import Any

from headrace.compat import not_offered
from headrace.errors import NotSupported

from .metrics import log, register
from .model import MLModel
from .settings import ModelSettings, Settings
from .version import __version__

__all__ = ["__version__", "MLServer", "MLModel", "Settings", "ModelSettings", "register", "log"]


_NOT_OFFERED = frozenset(
    {
        "batch_processing",
        "batching",
        "cache",
        "cli",
        "cloudevents",
        "env",
        "grpc",
        "kafka",
        "middleware",
        "parallel",
        "registry",
        "server",
        "tracing",
    }
)


class MLServer:
    """The server, which is Headrace's own here."""

    def __init__(self, settings: Settings) -> None:
        raise NotSupported(
            "mlserver.MLServer cannot be started from Python here, because Headrace stands in for mlserver; "
            "run `headrace serve FOLDER` instead"
        )


def __getattr__(name: str) -> Any:
    """Modules that the real package imports along with itself, so that `mlserver.repository` needs no import."""
    if name in {"repository", "rest", "raw", "utils", "handlers"}:
        import importlib

        return importlib.import_module(f"{__name__}.{name}")
    if name in _NOT_OFFERED:
        raise ImportError(not_offered(f"mlserver.{name}"), name=f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
