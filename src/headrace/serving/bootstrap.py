"""The first lines that a model's own environment runs, before anything of ours can be imported there: a script, not a
module. `interpreter` starts it, once to look at the environment and then as the worker itself.

    python -s bootstrap.py look|work SOABI CODE PACKAGES [the worker's arguments]

CODE and PACKAGES are folders of the server, joined as in PYTHONPATH. They follow the environment's own: CODE always,
PACKAGES where compiled modules are alike (SOABI). This package is the server's own in any case: both sides of the
socket must be of one version. Any Python from 3.7 on can look, so that an old one is told by its number.
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import sys
import sysconfig


def main(arguments: list[str]) -> None:
    """Look at this environment, or be a worker in it."""
    task, soabi, code, packages = arguments[:4]
    here = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120 - starts quicker
    sys.path[:] = [each for each in sys.path if each != here] + [each for each in code.split(os.pathsep) if each]
    if sysconfig.get_config_var("SOABI") == soabi:
        sys.path.extend([each for each in packages.split(os.pathsep) if each])
    if task == "look":
        sys.stdout.write("\n" + json.dumps(_look()) + "\n")
        return
    _provide()
    from headrace.serving.worker import main as work  # what it needs comes from the environment

    work(arguments[4:])


def _look() -> dict[str, object]:
    """What `interpreter.Found` says of this environment."""
    found: dict[str, object] = {
        "version": platform.python_version(),
        "soabi": sysconfig.get_config_var("SOABI") or "",
        "search_path": list(sys.path),
    }
    try:
        _provide()
        import headrace.serving.worker  # noqa: F401 - whether it can be is what is asked
    except Exception as exc:  # noqa: BLE001 - a library made for another Python may raise anything
        found["missing"] = (getattr(exc, "name", None) or "") if isinstance(exc, ModuleNotFoundError) else ""
        found["cause"] = f"{type(exc).__name__}: {exc}"
    return found


def _provide() -> None:
    """Make this package importable under its name, and nothing else that lies beside it."""
    folder = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120 - as above
    spec = importlib.util.spec_from_file_location(
        "headrace", folder + os.sep + "__init__.py", submodule_search_locations=[folder]
    )
    assert spec is not None
    assert spec.loader is not None
    package = importlib.util.module_from_spec(spec)
    sys.modules["headrace"] = package
    spec.loader.exec_module(package)


if __name__ == "__main__":
    main(sys.argv[1:])
