"""Dialects: folders made for other servers, one file per layout; read into ModelSpecs and settings.

Belongs here: whether a folder speaks the dialect, what its settings files mean in our words, what of them is not
honoured. Does not belong here: loading models, answers of that server's form. May import: as `serving`.

`DIALECTS` is the registry: adding a dialect is one module with the functions of `base.Dialect` and one row here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from headrace.serving.dialects import mlserver
from headrace.serving.dialects.base import Dialect

DIALECTS: Final[Mapping[str, Dialect]] = MappingProxyType({"mlserver": mlserver})
"""Name to module, in the order of being asked."""


def of(folder: Path, environ: Mapping[str, str]) -> Dialect | None:
    """The dialect that a folder speaks; None: our own rules hold. Blocks for a bounded walk over names."""
    return next((dialect for dialect in DIALECTS.values() if dialect.speaks(folder, environ)), None)
