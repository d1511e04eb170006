"""The extras of pyproject.toml install what they name, and that imports for real."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
EXTRAS = {name: needs for name, needs in PROJECT["optional-dependencies"].items() if name != "all"}


def modules(requirement):
    """What a distribution lets one import."""
    name = re.match(r"[A-Za-z0-9._-]+", requirement)[0]
    files = importlib.metadata.files(name) or []
    tops = {file.parts[0] for file in files if len(file.parts) == 2 and file.name == "__init__.py"}
    deeper = {".".join(file.parts[:-1]) for file in files if file.name == "__init__.py" and len(file.parts) <= 6}
    return sorted(tops) or sorted(deeper, key=len)[-1:]


def test_every_extra_imports():
    """A fresh interpreter imports every library of every extra."""
    names = {extra: [name for each in needs for name in modules(each)] for extra, needs in EXTRAS.items()}
    assert all(names.values())
    libraries = sorted({name for each in names.values() for name in each})
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", "import " + ", ".join(libraries)],
        capture_output=True,
        text=True,
        timeout=170,
    )
    assert result.returncode == 0, result.stderr


def test_all_is_every_extra():
    """`headrace[all]` leaves none out, but the engines of clusters, which are half a gigabyte each."""
    (everything,) = PROJECT["optional-dependencies"]["all"]
    assert everything == f"headrace[{','.join(name for name in EXTRAS if name not in {'spark', 'ray'})}]"


def test_headrace_alone_is_light():
    """Without extras no framework, no gRPC library and no web framework comes along."""
    heavy = {"scikit-learn", "pandas", "scipy", "grpcio", "fastapi", "starlette", "pydantic", "onnxruntime", "requests"}
    needed = {re.match(r"[A-Za-z0-9._-]+", requirement)[0].lower() for requirement in PROJECT["dependencies"]}
    assert not heavy & needed
    assert len(needed) <= 14
