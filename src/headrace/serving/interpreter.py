"""Which Python a worker process runs on, and what it can import: the server's own, or that of the model's environment.
`workers` asks before it spawns.

An environment comes first in all: its interpreter, its packages. Behind it stands the server, so that an environment
need not hold what only the server needs: its own code always, its packages where both Pythons load the same compiled
modules. Where they do not, the environment must have the few that a worker imports (`NEEDED`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import platform
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from headrace.errors import LoadFailed

NEEDED: Final = ("numpy>=1.26", "msgspec>=0.19", "orjson>=3.10")
"""What a worker imports beside the standard library and this package."""

_OLDEST: Final = (3, 11)
_LOOK_SECONDS: Final = 120.0  # a cold disk and a large environment; it takes a fifth of a second
_PACKAGE_FOLDERS: Final = ("site-packages", "dist-packages")
_BOOTSTRAP: Final = str(Path(__file__).with_name("bootstrap.py"))


class Interpreter(msgspec.Struct, frozen=True, kw_only=True):
    """How to start a worker, and what it sees."""

    command: tuple[str, ...]
    """The worker's own arguments follow."""
    environ: Mapping[str, str]
    search_path: tuple[str, ...]
    """Its `sys.path`."""
    python_path: str | None
    """PYTHONPATH for programs that the model starts."""


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """What a look at an environment found."""

    version: str
    soabi: str
    """Of compiled modules that its Python loads: `cpython-311-x86_64-linux-gnu`."""
    search_path: tuple[str, ...]
    missing: str = ""
    """The module that a worker needs and could not import, where it was one."""
    cause: str = ""
    """Why a worker could not be imported; empty: it can."""


def own() -> Interpreter:
    """The server's own."""
    path = _absolute(sys.path)
    return Interpreter(
        command=(sys.executable, "-P", "-m", "headrace.serving.worker"),
        environ={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
        search_path=path,
        python_path=os.environ.get("PYTHONPATH"),
    )


async def of_environment(model: str, folder: Path) -> Interpreter:
    """That of a virtual or conda environment, after a look whether a worker can live there.

    Args:
        model: Named in messages.
        folder: Holds `bin/python`.

    Raises:
        LoadFailed: it cannot; says what it is about the environment, and what to do.
    """
    folder = _rooted(folder)
    python = folder / "bin" / "python"
    if not python.exists():
        raise LoadFailed(f"model '{model}': {_absent(python)}")
    code, packages = shared_folders(_absolute(sys.path))
    soabi = str(sysconfig.get_config_var("SOABI") or "")
    start = (str(python), "-s", _BOOTSTRAP)
    rest = (soabi, os.pathsep.join(code), os.pathsep.join(packages))
    environ = environ_of(folder, os.environ)
    found = await _look(model, folder, (*start, "look", *rest), environ)
    if problem := judge(found, soabi, str(folder)):
        raise LoadFailed(f"model '{model}': {problem}")
    return Interpreter(
        command=(*start, "work", *rest), environ=environ, search_path=found.search_path, python_path=None
    )


def shared_folders(search_path: Sequence[str]) -> tuple[list[str], list[str]]:
    """What of the server's `sys.path` an environment may use behind its own: folders of code, and of packages.

    The standard library is neither: each Python has its own.
    """
    stdlib = sysconfig.get_path("stdlib")
    others = {
        stdlib,
        sysconfig.get_path("platstdlib"),
        str(sysconfig.get_config_var("DESTSHARED")),
        str(Path(stdlib).parent / f"python{sys.version_info.major}{sys.version_info.minor}.zip"),
    }
    rest = [each for each in search_path if each not in others]
    packages = [each for each in rest if Path(each).name in _PACKAGE_FOLDERS]
    return [each for each in rest if each not in packages], packages


def environ_of(folder: Path, environ: Mapping[str, str]) -> dict[str, str]:
    """The variables of a process in an environment: as if it were activated, and nothing that is for another Python."""
    ours = {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "CONDA_PREFIX", "__PYVENV_LAUNCHER__"}
    variables = {name: value for name, value in environ.items() if name not in ours}
    variables["PATH"] = os.pathsep.join([str(folder / "bin"), *filter(None, [environ.get("PATH")])])
    variables["CONDA_PREFIX" if (folder / "conda-meta").is_dir() else "VIRTUAL_ENV"] = str(folder)
    return variables


def judge(found: Found, soabi: str, folder: str) -> str:
    """Why no worker can live in an environment, and what to do; empty: one can.

    Args:
        found: What the look found.
        soabi: The server's own.
        folder: The environment's.
    """
    named = f"environment {folder} (Python {found.version})"
    if _numbers(found.version) < _OLDEST:
        return (
            f"{named} is too old: a worker process needs Python {'.'.join(map(str, _OLDEST))} or newer; build the "
            f"environment with a newer Python"
        )
    if not found.cause:
        return ""
    lack = f"lacks {found.missing!r}" if found.missing else f"cannot run a worker process ({found.cause})"
    why = "" if found.soabi == soabi else f", and the server's packages are for Python {platform.python_version()}"
    needed = " ".join(f"'{each}'" for each in NEEDED)
    return (
        f"{named} {lack}, which a worker process needs{why}; run: {folder}/bin/python -m pip install {needed}, or "
        f"build the environment with the server's Python"
    )


async def _look(model: str, folder: Path, command: Sequence[str], environ: Mapping[str, str]) -> Found:
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=dict(environ),
        )
    except OSError as exc:
        raise LoadFailed(
            f"model '{model}': {command[0]} cannot be run here ({exc.strerror}): the environment was made for another "
            f"platform than this ({platform.system()} {platform.machine()}); build it again on this one"
        ) from exc
    try:
        async with asyncio.timeout(_LOOK_SECONDS):
            out, err = await process.communicate()
    except TimeoutError as exc:
        raise LoadFailed(
            f"model '{model}': {command[0]} did not start within {_LOOK_SECONDS:g} s; check the environment by hand"
        ) from exc
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    try:
        return msgspec.json.decode(out.strip().rpartition(b"\n")[2], type=Found)
    except msgspec.DecodeError as exc:
        told = err.decode(errors="replace").strip().rpartition("\n")[2] or "it said nothing"
        raise LoadFailed(
            f"model '{model}': the Python of environment {folder} does not work here (exit code {process.returncode}): "
            f"{told}; build the environment again on this machine, with Python {'.'.join(map(str, _OLDEST))} or newer"
        ) from exc


def _absent(python: Path) -> str:
    if python.is_symlink():
        return (
            f"{python} leads to {python.readlink()}, which is not there: the environment was made on another machine; "
            f"build it again on this one"
        )
    return f"there is no {python}; expected the folder of a virtual or conda environment"


def _rooted(folder: Path) -> Path:
    return folder.absolute()


def _absolute(search_path: Sequence[str]) -> tuple[str, ...]:
    return tuple([each or str(Path.cwd()) for each in search_path])


def _numbers(version: str) -> tuple[int, ...]:
    return tuple([int(each) for each in version.split(".")[:2]])
