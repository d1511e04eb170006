"""Stands in for the packages that code written for other servers imports. `runtimes` calls it.

`mlserver/` and the folders beside it, `mlserver_sklearn/` and its like and `seldon_core/`, hold modules that are
imported under those very names, by a finder that `provide` installs; nothing is installed when this package is
imported. What belongs here: the surface that foreign code can see, and how functions and classes of other people are
loaded and called (`code`; `seldon` for components of Seldon Core v1), which runtimes and pipelines share. What does
not: how a request reaches it (`runtimes.mlserver`) and how its folders are read (`serving.dialects`). Imports: payload,
errors.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Final

NAME: Final = "mlserver"
"""The package that is stood in for."""

OFFICIAL: Final = ("mlserver_sklearn", "mlserver_xgboost", "mlserver_lightgbm", "mlserver_catboost", "mlserver_mlflow")
"""Packages of its official runtimes, whose classes people derive their own from: stood in for as well."""

SELDON: Final = "seldon_core"
"""The package of Seldon Core v1 that component classes import their bases from."""

_NAMES: Final = frozenset({NAME, *OFFICIAL, SELDON})


class _Finder:
    """Finds each of these packages in its folder, and says of modules that are not there what to do about it."""

    def __init__(self, *, always: bool) -> None:
        self.always = always

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The role that the import system asks for."""
        name, _, inside = fullname.partition(".")
        if name not in _NAMES:
            return None
        if not inside:
            return importlib.util.spec_from_file_location(
                name, _start(name), submodule_search_locations=[str(_start(name).parent)]
            )
        if not provided(name):
            return None
        below = _start(name).parent.joinpath(*inside.split("."))
        if below.with_suffix(".py").is_file() or (below / "__init__.py").is_file():
            return None  # the import system's own finder takes it from the package's path
        raise ModuleNotFoundError(not_offered(fullname), name=fullname)


def provide(*, always: bool) -> None:
    """Let `import mlserver` and its like find our packages in this process.

    Args:
        always: Even where the real packages are installed. False: each real one wins. A package that is already
            imported stays as it is.
    """
    remove()
    finder = _Finder(always=always)
    if always:
        sys.meta_path.insert(0, finder)
    else:
        sys.meta_path.append(finder)


def stand_in() -> None:
    """Let our packages be found where the real ones are not installed, unless `provide` has said already how."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        provide(always=False)


def remove() -> None:
    """Take the finder away again. What was imported stays imported."""
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, _Finder)]


def provided(name: str = NAME) -> bool:
    """Whether the package of this name that is imported in this process is ours."""
    module = sys.modules.get(name)
    return module is not None and getattr(module, "__file__", None) == str(_start(name))


def not_offered(what: str) -> str:
    """What to say to code that asks for a part of one of these packages that is not provided."""
    name = what.partition(".")[0]
    return (
        f"Headrace stands in for {name} and does not offer {what}; install the real package (pip install "
        f"{name.replace('_', '-')}) beside the model, and keep settings `compat.mlserver_package: auto`, so that it is "
        "used instead"
    )


def _start(name: str) -> Path:
    return Path(__file__).parent / name / "__init__.py"
