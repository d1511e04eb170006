"""Stands in for the packages that code written for other servers imports. `runtimes` calls it.

`mlserver/` holds modules that are imported under the name `mlserver`, by a finder that `provide` installs; nothing is
installed when this package is imported. What belongs here: the surface that foreign code can see. What does not: how a
request reaches it (`runtimes.mlserver`) and how its folders are read (`serving.dialects`). Imports: errors.
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

ROOT: Final = Path(__file__).parent / NAME
"""The folder of the modules that stand in."""


class _Finder:
    """Finds `mlserver` in `ROOT`, and says of modules that are not there what to do about it."""

    def __init__(self, *, always: bool) -> None:
        self.always = always

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The role that the import system asks for."""
        if fullname == NAME:
            return importlib.util.spec_from_file_location(
                NAME, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
            )
        if not fullname.startswith(f"{NAME}.") or not provided():
            return None
        below = ROOT.joinpath(*fullname.split(".")[1:])
        if below.with_suffix(".py").is_file() or (below / "__init__.py").is_file():
            return None  # the import system's own finder takes it from the package's path
        raise ModuleNotFoundError(not_offered(fullname), name=fullname)


def provide(*, always: bool) -> None:
    """Let `import mlserver` find our package in this process.

    Args:
        always: Even where the real package is installed. False: the real one wins. A package that is already imported
            stays as it is.
    """
    remove()
    finder = _Finder(always=always)
    if always:
        sys.meta_path.insert(0, finder)
    else:
        sys.meta_path.append(finder)


def remove() -> None:
    """Take the finder away again. What was imported stays imported."""
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, _Finder)]


def provided() -> bool:
    """Whether the `mlserver` imported in this process is ours."""
    module = sys.modules.get(NAME)
    return module is not None and getattr(module, "__file__", None) == str(ROOT / "__init__.py")


def not_offered(what: str) -> str:
    """What to say to code that asks for a part of `mlserver` that is not provided."""
    return (
        f"Headrace stands in for mlserver and does not offer {what}; install the real package (pip install mlserver) "
        "beside the model, and keep settings `compat.mlserver_package: auto`, so that it is used instead"
    )
