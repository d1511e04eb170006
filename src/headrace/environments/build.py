"""Builds the environment that a model's file asks for: by uv when it is on PATH, else venv and pip; conda's by conda.

Fourth step of the walk; `prepare` calls it. `kept` decides whether it is there already, and makes it safe to make.

Headrace's worker runs inside. Of the same Python it borrows what it needs from the server's own packages; for another
Python those were compiled for the wrong interpreter, so what it needs (`NEEDS`) is installed with the rest.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Final

import msgspec
from packaging.version import Version

from headrace.environments import kept, requirements
from headrace.environments.kept import Made
from headrace.environments.process import Ended, Shell, clean
from headrace.environments.progress import Progress, ignore
from headrace.environments.requirements import Requirements, python_accepts
from headrace.errors import LoadFailed

TIMEOUT_SECONDS: Final = 1800.0

NEEDS: Final = (
    "click>=8.1",
    "hpack>=4.0",
    "httptools>=0.6",
    "msgspec>=0.19",
    "numpy>=1.26",
    "orjson>=3.10",
    "packaging>=24",
    "prometheus-client>=0.20",
    "protobuf>=5.28",
    "pysimdjson>=6.0",
    "pyyaml>=6.0",
    "rich>=13.7",
    "uvloop>=0.20",
)
"""Headrace's own dependencies, as its distribution declares them; a test compares the two."""
MLSERVER_NEEDS: Final = ("pydantic>=2.7", "fastapi>=0.110", "pandas>=2.1", "python-multipart>=0.0.9")
"""The extra `mlserver`: for a custom runtime written for MLServer."""
_MLSERVER_FILE: Final = "model-settings.json"

_OLDEST: Final = 11
"""Minor of the oldest Python 3 that Headrace runs on."""
_NEWEST: Final = 20
"""Minor of the last Python 3 to look for."""
_CONDAS: Final = ("micromamba", "mamba", "conda")
_PIP_PYTHON: Final = Version("22.3")
"""The first pip that installs into another interpreter's environment (`--python`)."""
_PROBE: Final = """
import importlib.metadata as m, json, platform
print(json.dumps([platform.python_version(), {d.metadata["Name"]: d.version for d in m.distributions()}]))
"""
_CAUSES: Final = (
    # pip's words, then uv's; the first that is found is the cause.
    (r"No matching distribution found for (?P<name>[^\n]+)", "no matching distribution for {name} on {here}"),
    (r"Because (?P<name>\S+) was not found in", "no matching distribution for {name} on {here}"),
    (
        r"there (?:is|are) no versions? of (?P<name>[^\n]+?)(?: and |,|$)",
        "no matching distribution for {name} on {here}",
    ),
    (r"Because (?P<name>\S+) has no [^\n]*wheels", "no matching distribution for {name} on {here}"),
    (r"Cannot install (?P<name>[^\n]+?) because these", "{name} contradict each other"),
    (r"DO NOT MATCH THE HASHES|[Hh]ash mismatch", "a downloaded package does not have the hash that was asked for"),
    (
        r"require-hashes|Hashes are required",
        "some packages have a hash and some have none; give one to each, or to none",
    ),
    (r"[Ff]ailed (?:building wheel for|to build) `?(?P<name>[^\s`]+)", "{name} could not be compiled on {here}"),
    (r"No space left on device", "no space is left on the disk"),
    (
        r"[Tt]emporary failure in name resolution|Failed to establish a new connection|dns error|error sending request",
        "an index could not be reached; without a network, name a folder of wheels by --no-index and --find-links",
    ),
    (r"No interpreter found for Python (?P<name>[\d.]+)", "Python {name} was not found, and uv has none for {here}"),
    (r"ensurepip is not available", "this Python cannot make environments; install uv, or the system's python3-venv"),
    (r"nothing provides (?P<name>[^\n]+)", "conda knows nothing that provides {name} for {here}"),
    (r"because (?P<name>[^\n]+) and (?:\S+ )*depend", "{name} contradict each other"),
    (r"\n\s*\xd7\s*(?P<name>[^\n]+)", "{name}"),
)


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """The Python that an environment is built with."""

    minor: str
    """`3.11`."""
    is_ours: bool


def ours() -> str:
    """This interpreter's version, major and minor."""
    return f"{sys.version_info[0]}.{sys.version_info[1]}"


def targets(python: str | None) -> tuple[Target, ...]:
    """The Pythons that would do, best first: this one, else the nearest.

    Args:
        python: A version, a range or None, as in `Requirements`.
    """
    mine = sys.version_info[1]
    # A version asks for its minor; a range is tried by the last patch of each, which is what is found or downloaded.
    accepted = [minor for minor in range(_OLDEST, _NEWEST) if minor != mine and python_accepts(python, f"3.{minor}.99")]
    found = [Target(minor=f"3.{minor}", is_ours=False) for minor in sorted(accepted, key=lambda each: abs(each - mine))]
    if python_accepts(python, ".".join(map(str, sys.version_info[:3]))):
        found.insert(0, Target(minor=ours(), is_ours=True))
    return tuple(found)


def key(wanted: Requirements) -> str:
    """Names the environment: what is asked for, the Python, the platform. Whatever tool builds it, it is the same."""
    target = targets(wanted.python)[:1]
    python = target[0].minor if target else wanted.python
    base = sys.base_prefix if target and target[0].is_ours else ""  # a venv is a link to the interpreter it is made of
    extra = needs(wanted, target[0]) if target else ()
    said = (requirements.digest(wanted), python, base, sys.implementation.name, sysconfig.get_platform(), extra)
    return hashlib.sha256(msgspec.json.encode(said)).hexdigest()[:32]


def needs(wanted: Requirements, target: Target) -> tuple[str, ...]:
    """What is installed beside what the model asks for, so that Headrace's worker runs there."""
    if target.is_ours:
        return ()
    custom = Path(wanted.source).with_name(_MLSERVER_FILE).is_file()
    return (*NEEDS, *(MLSERVER_NEEDS if custom else ()))


def build(
    wanted: Requirements,
    *,
    cache: Path,
    describe: str,
    progress: Progress = ignore,
    timeout_seconds: float = TIMEOUT_SECONDS,
    cancel: threading.Event | None = None,
) -> Path:
    """The environment's folder, built now unless it is there. Blocks.

    Args:
        wanted: What it holds.
        cache: Folder of all that is kept.
        describe: Whose it is, for messages: `model 'churn'`.
        progress: Told of each phase, and of each line that an installer says.
        timeout_seconds: Longest that it may take.
        cancel: Set by another thread to have this end soon.

    Raises:
        LoadFailed: it cannot be built here; names the cause, and the log.
    """
    doing = f"{describe}: building the environment that {wanted.source} asks for"
    candidates = targets(wanted.python)
    if not candidates:
        raise LoadFailed(
            f"{doing}: Headrace does not run on Python {wanted.python}, but on 3.{_OLDEST} and newer; train the model "
            "under one of those, or set `environment: off` to try it with the server's own packages"
        )

    def make(place: Path, desk: Path, shell: Shell) -> Made:
        if wanted.conda_packages:
            return _make_conda(wanted, place=place, shell=shell, progress=progress, doing=doing)
        return _make_pip(wanted, place=place, desk=desk, shell=shell, progress=progress, doing=doing)

    return kept.keep(
        cache,
        key(wanted),
        make,
        source=wanted.source,
        doing=doing,
        explain=lambda lines: explain(lines, minor=candidates[0].minor),
        progress=progress,
        timeout_seconds=timeout_seconds,
        cancel=cancel or threading.Event(),
    )


def explain(lines: Sequence[str], *, minor: str) -> str:
    """The cause in what an installer said, for a person; empty: none is recognised.

    Args:
        lines: Its output.
        minor: The Python it was for.
    """
    # uv wraps its sentences at the terminal's width, under a bar.
    text = "\n" + re.sub(r"\n\s*(?:│|╰─▶|├─▶)?[ ]{2,}(?=\S)", " ", "\n".join(lines))
    here = f"{sysconfig.get_platform()} / Python {minor}"
    for pattern, said in _CAUSES:
        if found := re.search(pattern, text):
            return said.format(here=here, **{key: value.strip() for key, value in found.groupdict().items()})
    return ""


# -- pip's packages --


def _make_pip(wanted: Requirements, *, place: Path, desk: Path, shell: Shell, progress: Progress, doing: str) -> Made:
    uv = _working("uv")
    target = _create(wanted, uv, place=place, shell=shell, doing=doing)
    count = len(wanted.packages) + len(wanted.build_packages)
    tool = "uv" if uv else "pip"
    progress(f"{doing}: installing {count} package{'s' if count != 1 else ''} and what they need with {tool}")
    text, constraints = requirements.render(wanted)
    own = needs(wanted, target)
    if any(each.hashes for each in wanted.packages):
        # With hashes every package needs one, and ours have none: they come second, held to what came first.
        _install(wanted.options, text, constraints, uv, place=place, desk=desk, shell=shell)
        _, installed = _probe(place, shell)
        held = "\n".join(f"{name}=={version}" for name, version in installed.items())
        text, constraints = "\n".join([*_indexes(text), *own, ""]), held
        if own:
            loose = [each for each in wanted.options if each[0] != "--require-hashes"]
            _install(loose, text, constraints, uv, place=place, desk=desk, shell=shell)
    else:
        _install(wanted.options, "\n".join([text, *own, ""]), constraints, uv, place=place, desk=desk, shell=shell)
    return made("uv" if uv else "venv", place, shell)


def _create(wanted: Requirements, uv: str, *, place: Path, shell: Shell, doing: str) -> Target:
    """An environment with nothing in it."""
    candidates = targets(wanted.python)
    if candidates[0].is_ours:
        if uv:
            shell.run([uv, "venv", "--python", sys.executable, place])
        else:
            shell.run([sys.executable, "-m", "venv", *_without_pip(), place])
        return candidates[0]
    if uv:  # finds one, or downloads it
        shell.run([uv, "venv", "--python", candidates[0].minor, place])
        return candidates[0]
    for each in candidates:
        if python := _working(f"python{each.minor}"):
            shell.run([python, "-m", "venv", *_without_pip(), place])
            return each
    raise LoadFailed(
        f"{doing}: it asks for Python {wanted.python}, this is {ours()}, and no python{candidates[0].minor} is on "
        "PATH; install it, or install uv, which finds or downloads any Python"
    )


def _install(
    options: Sequence[tuple[str, str]],
    text: str,
    constraints: str,
    uv: str,
    *,
    place: Path,
    desk: Path,
    shell: Shell,
) -> None:
    """Install what the text of a file says."""
    asked, held = desk / "requirements.txt", desk / "constraints.txt"
    for path, content in ((asked, text), (held, constraints)):
        path.touch(mode=0o600)  # urls of indexes may hold credentials
        path.write_text(content, encoding="utf-8")
    python = place / "bin" / "python"
    files: list[str | Path] = ["-r", asked]
    if constraints.strip():
        files += ["-c", held]
    arguments: list[str | Path]
    if uv:
        # As pip does, take the best version of all indexes, so that the tool makes no difference to what is installed.
        strategy = ["--index-strategy", "unsafe-best-match"]
        arguments = [
            uv,
            "pip",
            "install",
            "--python",
            python,
            "--no-progress",
            *strategy,
            *_uv_options(options),
            *files,
        ]
    elif _without_pip():
        arguments = [sys.executable, "-m", "pip", "--python", python, "install", *_pip_options(options), *files]
    else:
        arguments = [python, "-m", "pip", "install", *_pip_options(options), *files]
    shell.run(arguments)


def _indexes(text: str) -> list[str]:
    """The options in a rendered file."""
    return [line for line in text.splitlines() if line.startswith("--")]


def _pip_options(options: Sequence[tuple[str, str]]) -> list[str]:
    """Options that are not in the rendered file, as pip's arguments."""
    arguments = []
    for name, value in options:
        if name == "--trusted-host":
            arguments += [name, value]
        elif name in {"--pre", "--prefer-binary", "--require-hashes"}:
            arguments.append(name)
    return arguments


def _uv_options(options: Sequence[tuple[str, str]]) -> list[str]:
    """Options that are not in the rendered file, as uv's arguments. It prefers wheels anyway."""
    arguments = []
    for name, value in options:
        if name == "--trusted-host":
            arguments += ["--allow-insecure-host", value]
        elif name == "--pre":
            arguments += ["--prerelease", "allow"]
        elif name == "--require-hashes":
            arguments.append(name)
    return arguments


def _without_pip() -> tuple[str, ...]:
    """`--without-pip` when the pip beside us can install into another environment: it saves seconds, and ensurepip."""
    try:
        found = Version(metadata.version("pip")) >= _PIP_PYTHON
    except metadata.PackageNotFoundError:
        found = False
    return ("--without-pip",) if found else ()


# -- conda's packages --


def _make_conda(wanted: Requirements, *, place: Path, shell: Shell, progress: Progress, doing: str) -> Made:
    tool, name = next(((found, name) for name in _CONDAS if (found := _working(name))), ("", ""))
    if not tool:
        asked = ", ".join(each.text for each in wanted.conda_packages[:8])
        raise LoadFailed(
            f"{doing}: it asks conda for {asked}, and none of {', '.join(_CONDAS)} is on PATH; install micromamba, or "
            "write a requirements.txt beside the model with what they are called for pip"
        )
    progress(f"{doing}: solving and installing with {name}")
    # The file itself, not a copy: paths in its pip section are relative to it.
    if name == "micromamba":
        shell.run([tool, "create", "--yes", "--prefix", place, "--file", wanted.source])
    else:
        shell.run([tool, "env", "create", "--yes", "--prefix", place, "--file", wanted.source])
    if not (place / "bin" / "python").exists():
        raise Ended(f"it names no Python: add python={ours()} to its dependencies")
    version, _ = _probe(place, shell)
    minor = ".".join(version.split(".")[:2])
    if int(minor.split(".")[1]) < _OLDEST:
        raise Ended(f"it holds Python {version}, older than Headrace runs on (3.{_OLDEST})")
    target = Target(minor=minor, is_ours=minor == ours())
    if own := needs(wanted, target):
        progress(f"{doing}: installing what Headrace needs under Python {minor}")
        shell.run([place / "bin" / "python", "-m", "pip", "install", *own])
    return made(name, place, shell)


# -- both --


def _working(name: str) -> str:
    """The path of a program that is on PATH and runs; empty: there is none. Shims of version managers may not run."""
    found = shutil.which(name)
    if found is None:
        return ""
    try:
        tried = subprocess.run(  # noqa: S603 - a program of the user's own PATH
            [found, "--version"],
            env=clean(os.environ),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=30,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return found if tried.returncode == 0 else ""


def _probe(place: Path, shell: Shell) -> tuple[str, dict[str, str]]:
    """The version of an environment's Python and the distributions in it, as it says itself."""
    lines = shell.run([place / "bin" / "python", "-I", "-c", _PROBE])
    try:
        return msgspec.json.decode(lines[-1], type=tuple[str, dict[str, str]])
    except (IndexError, msgspec.DecodeError) as exc:
        raise Ended(f"{place}/bin/python did not say what it is", lines) from exc


def made(builder: str, place: Path, shell: Shell) -> Made:
    """What the environment in a folder says of itself.

    Raises:
        Ended: its interpreter does not run here.
    """
    python, packages = _probe(place, shell)
    return Made(builder=builder, python=python, platform=sysconfig.get_platform(), packages=packages)
