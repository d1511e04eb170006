"""Verdicts on disk: whether a model got a faster engine, which, and why not; under everything the verdict depends on.

Called by `choose`, at load. A folder per key, published whole by one rename: a reader finds all of a verdict or none.
A refusal is a verdict too. A changed library, engine, processor or exporter is another key: a new check.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import platform
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

EXPORTER: Final = 4
"""Counted up whenever a change to this room may change a verdict."""
_VERDICT: Final = "verdict.json"
_LIBRARIES: Final = (
    *("numpy", "scipy", "onnxruntime", "scikit-learn", "xgboost", "xgboost-cpu", "lightgbm", "catboost"),
    *("skl2onnx", "onnx"),
)


class EngineVerdict(msgspec.Struct, frozen=True, kw_only=True):
    """An engine that passed."""

    name: str
    datatypes: tuple[str, ...]
    outputs: tuple[str, ...]
    takes: str
    """Which rows it takes: `finite`, `missing`, `anything`."""
    artefact: str = ""
    """File name beside the verdict; empty: the engine needs none."""
    digest: str = ""
    """sha256 of that file."""


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What a check decided."""

    engines: tuple[EngineVerdict, ...] = ()
    ranges: tuple[tuple[int | None, str], ...] = ()
    properties: dict[str, str] = {}
    refusal: str = ""
    """Empty: the engines serve."""


def key(digest: str, *, model: str, outputs: Sequence[str], settings: Sequence[object]) -> str:
    """The name of a verdict.

    Args:
        digest: sha256 of the model's bytes.
        model: Class of the runtime.
        outputs: Names the runtime answers.
        settings: Whatever else decided: speed-up asked for, rows, tolerances.
    """
    versions = [f"{name} {version}" for name in _LIBRARIES if (version := _version(name))]
    parts = [
        str(EXPORTER),
        digest,
        model,
        *outputs,
        *map(repr, settings),
        *versions,
        platform.python_version(),
        _processor(),
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _version(name: str) -> str:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(name)
    return ""


def _processor() -> str:
    """The instruction sets an engine may choose its code by."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("flags", "Features")):
                return " ".join(sorted(line.partition(":")[2].split()))
    return f"{platform.machine()} {platform.processor()}"


def read(cache: Path, name: str) -> tuple[Verdict, dict[str, bytes]] | None:
    """A stored verdict and the files of its engines; None: there is none that is whole."""
    folder = cache / name
    try:
        verdict = msgspec.json.decode((folder / _VERDICT).read_bytes(), type=Verdict)
        files = {engine.name: (folder / engine.artefact).read_bytes() for engine in verdict.engines if engine.artefact}
    except (OSError, msgspec.MsgspecError):
        return None
    for engine in verdict.engines:
        if engine.artefact and hashlib.sha256(files[engine.name]).hexdigest() != engine.digest:
            return None
    return verdict, files


def write(cache: Path, name: str, verdict: Verdict, files: Mapping[str, bytes]) -> Verdict:
    """Store a verdict, whole or not at all; where another process was first, or wrote less, this one replaces it."""
    cache.mkdir(parents=True, exist_ok=True)
    engines = [
        msgspec.structs.replace(
            engine, artefact=f"{at}.onnx" if files.get(engine.name) else "", digest=_sha256(files.get(engine.name, b""))
        )
        for at, engine in enumerate(verdict.engines)
    ]
    verdict = msgspec.structs.replace(verdict, engines=tuple(engines))
    folder = Path(tempfile.mkdtemp(prefix=f".{name[:12]}-", dir=cache))
    try:
        for engine in engines:
            if engine.artefact:
                (folder / engine.artefact).write_bytes(files[engine.name])
        (folder / _VERDICT).write_bytes(msgspec.json.encode(verdict))
        _publish(folder, cache / name)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return verdict


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest() if data else ""


def _publish(folder: Path, target: Path) -> None:
    try:
        folder.rename(target)
    except OSError:  # a folder stands there: one of another process, which is as good, or a broken one
        if read(target.parent, target.name) is None:
            shutil.rmtree(target, ignore_errors=True)
            with contextlib.suppress(OSError):
                folder.rename(target)
