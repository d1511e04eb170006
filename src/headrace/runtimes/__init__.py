"""Runtimes: the model itself. One file per framework, each framework imported only there and only when first used.

Belongs here: recognising an artifact by its content, loading it, calling it on arrays, describing it (Signature).
Does not belong here: wires, content types, batching, threads, processes. May import: payload, errors
(detector: trust, detectors; what is made for other servers: compat).

`RUNTIMES` is the registry: adding a runtime is one row here, or one entry point of the group `headrace.runtimes` in
somebody else's package, which `with_entry_points` merges into the table that the composition root passes on.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from headrace.errors import LoadFailed, SettingsError, unknown_key

if TYPE_CHECKING:
    from headrace.runtimes.base import Runtime

RUNTIMES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "sklearn": "headrace.runtimes.sklearn:SklearnRuntime",
        "onnx": "headrace.runtimes.onnx:OnnxRuntime",
        "xgboost": "headrace.runtimes.xgboost:XgboostRuntime",
        "lightgbm": "headrace.runtimes.lightgbm:LightgbmRuntime",
        "catboost": "headrace.runtimes.catboost:CatboostRuntime",
        "mlflow": "headrace.runtimes.mlflow:MlflowRuntime",
        "python": "headrace.runtimes.python:PythonRuntime",
        "mlserver": "headrace.runtimes.mlserver:MlserverRuntime",
        "seldon_v1": "headrace.runtimes.seldon_v1:SeldonRuntime",
        "detector": "headrace.runtimes.detector:DetectorRuntime",
    }
)
"""Name to `module:Class`, imported when first asked for."""

GROUP: Final = "headrace.runtimes"
"""The entry-point group by which other packages offer runtimes."""


def with_entry_points(table: Mapping[str, str] = RUNTIMES) -> Mapping[str, str]:
    """The table and the installed packages' rows.

    Raises:
        SettingsError: a package offers a name that is taken; the text names both classes.
    """
    merged = dict(table)
    for point in importlib.metadata.entry_points(group=GROUP):
        if merged.setdefault(point.name, point.value) != point.value:
            taken = merged[point.name]
            raise SettingsError(f"two runtimes are named {point.name!r}: {taken} and {point.value}; uninstall one")
    return MappingProxyType(merged)


def find(name: str, table: Mapping[str, str] = RUNTIMES) -> type[Runtime]:
    """The runtime class of that name, imported now; its framework is not.

    Raises:
        SettingsError: no row of that name; names the nearest one.
        LoadFailed: the row's module or class is not there, or is no runtime.
    """
    from headrace.runtimes.base import Runtime

    if name not in table:
        raise unknown_key(name, table, where="runtime")
    module, _, attribute = table[name].partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise LoadFailed(f"runtime {name!r} is {table[name]}, which cannot be imported: {error}") from error
    if not (isinstance(found, type) and issubclass(found, Runtime)):
        raise LoadFailed(f"runtime {name!r} is {table[name]}, which is not a headrace.runtimes.base.Runtime")
    return found
