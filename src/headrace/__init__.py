"""Headrace serves, chains, explains and watches machine-learning models.

`import headrace` is light: frameworks, the server and the command line are imported when first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headrace.notebook import Server, fit_trust, serve

__version__ = "0.1.0"
__all__ = ["Server", "__version__", "fit_trust", "serve"]


def __getattr__(name: str) -> Any:
    if name in {"serve", "Server", "fit_trust"}:
        # By name: this package is below every layer, and only its caller's line draws the notebook in.
        return getattr(importlib.import_module("headrace.notebook"), name)
    msg = f"module 'headrace' has no attribute {name!r}; it has {', '.join(__all__)}"
    raise AttributeError(msg)
