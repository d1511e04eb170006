"""What an image of an MLServer folder is made of: its Dockerfile, what it leaves out, and the folder to build it from.

`mlserver` calls it. The Dockerfile needs no file but the folder's, so it can be built from the folder itself too.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from headrace import __version__
from headrace.errors import SettingsError
from headrace.serving.dialects import mlserver as dialect

BASE: Final = "python:3.11-slim"
CONDA_BASE: Final = "continuumio/miniconda3"

MADE: Final = "# Made by `headrace mlserver`"
"""How every Dockerfile of ours begins; a folder that holds one may be written again."""

_CONDA_FILES: Final = ("environment.yml", "environment.yaml", "conda.yml", "conda.yaml")

_LINKED_BYTES: Final = 1 << 20

_SKIPPED: Final = frozenset(
    {".git", "__pycache__", ".metrics", ".envs", ".ipynb_checkpoints", ".mypy_cache", ".pytest_cache"}
)

IGNORED: Final = """\
**/.git
**/__pycache__
**/*.py[cod]
**/.DS_Store
**/.ipynb_checkpoints
**/.mypy_cache
**/.pytest_cache
.metrics
.envs
Dockerfile
Dockerfile.dockerignore
.dockerignore
"""
"""What does not travel to the builder."""


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """What a folder has that its image depends on."""

    extras: tuple[str, ...]
    """Of headrace, that its models need."""
    requirements: bool = False
    conda_file: str = ""
    """Empty: it has none."""
    defaults: Mapping[str, str] = {}
    """Environment variables for what settings.json says."""
    nulls: tuple[str, ...] = ()
    """Keys of settings.json that are null, which no environment variable can say."""
    warnings: tuple[str, ...] = ()


def survey(folder: Path) -> Found:
    """What is in a folder.

    Raises:
        SettingsError: it is no folder, or its settings.json cannot be read.
    """
    if not folder.is_dir():
        raise SettingsError(f"{folder} is not a folder; expected one with model-settings.json in it or below")
    warnings: list[str] = []
    extras = {"mlserver"}
    files = sorted(dialect.settings_files(folder))
    if not files:
        warnings.append(f"no model-settings.json in {folder} or below: models must be mounted at /mnt/models")
    for file in files:
        try:
            implementation = str(_read(file).get("implementation", ""))
        except SettingsError as exc:
            warnings.append(str(exc))
            continue
        package, _, rest = implementation.partition(".")
        official = dialect.OFFICIAL.get((package, rest.rpartition(".")[2]))
        if official is not None:
            extras.add(official.runtime)
        elif package in dialect.ELSEWHERE:
            served = dialect.ELSEWHERE[package]
            warnings.append(f"{file}: {served} are not served yet, unless {package} is in requirements.txt")
    defaults, nulls, unfit = (
        _defaults(_read(folder / "settings.json")) if (folder / "settings.json").exists() else _NONE
    )
    warnings += [f"{folder / 'settings.json'}: {key!r} has no environment variable and is left out" for key in unfit]
    return Found(
        extras=tuple(sorted(extras)),
        requirements=(folder / "requirements.txt").exists(),
        conda_file=next((name for name in _CONDA_FILES if (folder / name).exists()), ""),
        defaults=defaults,
        nulls=nulls,
        warnings=tuple(warnings),
    )


def dockerfile(found: Found) -> str:
    """The Dockerfile of a folder's image; its build context is the folder."""
    blocks = ["# syntax=docker/dockerfile:1", f"{MADE}: serves this folder's models with Headrace {__version__}.", ""]
    if found.conda_file:
        blocks += _conda_stage(found.conda_file)
    blocks += [
        f"FROM {BASE}",
        "ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 \\",
        "    MLSERVER_MODELS_DIR=/mnt/models MLSERVER_ENV_TARBALL=/mnt/models/environment.tar.gz",
    ]
    if "lightgbm" in found.extras:  # its wheel brings no OpenMP
        blocks += [
            "RUN apt-get update && apt-get install --yes --no-install-recommends libgomp1 && \\",
            "    rm -rf /var/lib/apt/lists/*",
        ]
    install = f'"headrace[{",".join(found.extras)}]=={__version__}"'
    if found.requirements:
        provided = "|".join(sorted({package.partition("_")[2] for package, _ in dialect.OFFICIAL}))
        blocks += [
            "COPY ./requirements.txt /opt/headrace/requirements.txt",
            "# What these packages are imported for is provided by Headrace; installed, they would only be in the way.",
            "RUN grep --invert-match --ignore-case --extended-regexp \\",
            f"        '^ *mlserver([-_]({provided}))? *([[<>=!~;@#].*)?$' \\",
            "        /opt/headrace/requirements.txt > /opt/headrace/needed.txt || true; \\",
            f"    pip install {install} --requirement /opt/headrace/needed.txt",
        ]
    else:
        blocks += [f"RUN pip install {install}"]
    blocks += [
        "RUN useradd --uid 1000 --gid 0 --create-home headrace && mkdir --parents /mnt/models /opt/headrace",
        "COPY --chmod=755 <<'END' /opt/headrace/start",
        _START.rstrip("\n"),
        "END",
        "# SageMaker runs an image as `docker run IMAGE serve`.",
        "RUN ln --symbolic /opt/headrace/start /usr/local/bin/serve",
        "LABEL com.amazonaws.sagemaker.capabilities.accept-bind-to-port=true",
    ]
    if found.conda_file:
        blocks += ["COPY --from=environment --chown=1000:0 /environment.tar.gz /opt/headrace/environment.tar.gz"]
    blocks += ["WORKDIR /mnt/models", "COPY --chown=1000:0 . ."]
    if found.defaults or found.nulls:
        kept = json.dumps(dict.fromkeys(found.nulls)) if found.nulls else ""
        how = f"printf '%s' '{kept}' > ./settings.json" if kept else "rm -f ./settings.json"
        blocks += [
            "# As variables, so that those given to the container win over them; in a file they would win over those.",
            f"RUN {how}",
            *(f"ENV {name}={_quoted(value)}" for name, value in found.defaults.items()),
        ]
    blocks += ["RUN chown 1000:0 /mnt/models", "USER 1000", "EXPOSE 8080 8081 8082", 'CMD ["/opt/headrace/start"]']
    return "\n".join(blocks) + "\n"


def write_context(folder: Path, context: Path, found: Found) -> None:
    """Write the folder to build from: the files of `folder`, large ones linked where possible, and the Dockerfile.

    Raises:
        SettingsError: the context is there and not ours, lies inside the folder, or cannot be written.
    """
    folder, context = folder.resolve(), context.resolve()
    if context == folder or folder in context.parents:
        raise SettingsError(f"the build context {context} lies in {folder} itself; name another by --context")
    made = context / "Dockerfile"
    if context.exists() and any(context.iterdir()):
        if not made.is_file() or MADE not in made.read_text("utf-8", "replace"):
            raise SettingsError(f"{context} is there and was not made by headrace; name another by --context")
        shutil.rmtree(context)
    try:
        shutil.copytree(
            folder,
            context,
            copy_function=_link_or_copy,
            ignore=lambda _, names: _SKIPPED.intersection(names),
            dirs_exist_ok=True,
        )
        for name, text in {"Dockerfile": dockerfile(found), ".dockerignore": IGNORED}.items():
            (context / name).unlink(missing_ok=True)  # it may be a link to the folder's own
            (context / name).write_text(text, "utf-8")
    except OSError as exc:
        raise SettingsError(f"cannot write the build context {context}: {exc.strerror or exc}") from exc


_NONE: Final[tuple[dict[str, str], tuple[str, ...], tuple[str, ...]]] = ({}, (), ())

_START: Final = """\
#!/bin/bash
# Unpacks and activates the folder's packed environment and one mounted with the models, then serves the models.
set -e
for packed in /opt/headrace/environment.tar.gz "$MLSERVER_ENV_TARBALL"; do
    if [ -f "$packed" ]; then
        unpacked="${TMPDIR:-/tmp}/environments/$(sha256sum "$packed" | cut --characters 1-16)"
        if [ ! -d "$unpacked" ]; then
            mkdir --parents "$unpacked"
            tar --extract --gzip --file "$packed" --directory "$unpacked"
        fi
        source "$unpacked/bin/activate"
        if [ -x "$unpacked/bin/conda-unpack" ]; then "$unpacked/bin/python" "$unpacked/bin/conda-unpack"; fi
        environment="$unpacked"
    fi
done
# Models run in their environment; the server that starts them keeps its own Python.
if [ -n "$environment" ]; then
    export MLSERVER_MODEL_ENVIRONMENT_PATH="${MLSERVER_MODEL_ENVIRONMENT_PATH:-$environment}"
fi
# Where SageMaker runs several containers, it says which port this one has.
if [ -n "$SAGEMAKER_BIND_TO_PORT" ]; then export MLSERVER_HTTP_PORT="$SAGEMAKER_BIND_TO_PORT"; fi
exec /usr/local/bin/headrace mlserver start "$MLSERVER_MODELS_DIR"
"""


def _conda_stage(file: str) -> list[str]:
    return [
        f"FROM {CONDA_BASE} AS environment",
        f"COPY ./{file} /environment.yaml",
        "RUN conda install --yes --name base --channel conda-forge conda-pack && \\",
        "    conda env create --name served --file /environment.yaml && \\",
        "    conda-pack --name served --ignore-missing-files --output /environment.tar.gz",
        "",
    ]


def _defaults(settings: Mapping[str, Any]) -> tuple[dict[str, str], tuple[str, ...], tuple[str, ...]]:
    """Variables for what settings say, the keys that are null, and those that no variable can stand for."""
    values: dict[str, str] = {}
    nulls: list[str] = []
    unfit: list[str] = []
    for key, value in settings.items():
        if key == "model_repository_root":
            continue  # `start` serves the folder it is given
        if key.startswith("_") or not re.fullmatch(r"[A-Za-z0-9_]+", key):
            unfit.append(key)
        elif value is None:
            nulls.append(key)
        else:
            values[f"MLSERVER_{key.upper()}"] = value if isinstance(value, str) else json.dumps(value)
    return values, tuple(nulls), tuple(unfit)


def _read(file: Path) -> Mapping[str, Any]:
    try:
        value = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as exc:
        raise SettingsError(f"cannot read {file}: {exc}") from exc
    if not isinstance(value, dict):
        raise SettingsError(f"{file}: expected a JSON object, got {type(value).__name__}")
    return value


def _quoted(value: str) -> str:
    escaped = re.sub(r'(["\\$])', r"\\\1", " ".join(value.splitlines()))
    return f'"{escaped}"'


def _link_or_copy(source: str, target: str) -> str:
    """A large file is linked, not copied; a small one may be edited in the context, and is its own."""
    if Path(source).stat().st_size >= _LINKED_BYTES:
        try:
            os.link(source, target)
        except OSError:  # another file system, or one without links
            pass
        else:
            return target
    return str(shutil.copy2(source, target))
