"""What is read and built of a model before it is loaded: its runtime, what it may name, its environment, its samples.

First part of step *load*; called by `app`, in a thread.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import msgspec

from headrace.environments.files import is_asked
from headrace.monitoring import logs
from headrace.payload import Tensor
from headrace.protocols import v2_rest
from headrace.runtimes import recognise
from headrace.security import load_policy
from headrace.serving.build import RuntimeSpec
from headrace.serving.digest import digest
from headrace.serving.spec import ModelSpec, warm_up_bodies
from headrace.settings import Settings

if TYPE_CHECKING:
    from headrace.environments.prepare import Environments

log = logging.getLogger(__name__)
_T = TypeVar("_T")


class Prepared(msgspec.Struct, frozen=True):
    """What the engine needs of a model."""

    spec: RuntimeSpec
    """What to load, where, and what it may name."""
    warm_up: list[tuple[Tensor, ...]]
    """Inputs of the requests that it answers before anybody's."""
    warnings: tuple[str, ...]
    """For its status."""


def prepare(
    spec: ModelSpec, settings: Settings, *, environments: Callable[[], Environments], cancel: threading.Event
) -> Prepared:
    """Read a model's files, and build its environment where it is to have one. Blocks.

    Args:
        spec: The model.
        settings: The server's.
        environments: Who builds; called when there is something to build.
        cancel: Ends a build when it is set.

    Raises:
        LoadFailed: nothing recognises its files, its environment cannot be built, or the load policy refuses it.
        InvalidRequest: a request to warm it up with is none.
    """
    defaults = settings.models
    runtime, allowed, fingerprint = spec.runtime, None, ""
    optimize = unless_set(spec.optimize, "auto", defaults.optimize)
    policy = unless_set(spec.load_policy, "auto", defaults.load_policy)
    if spec.model is not None:
        runtime = runtime or recognise.recognise_object(spec.model)[0]
        fingerprint = _fingerprint(spec.model) if optimize != "off" else ""
    elif spec.path:
        path = Path(spec.path)
        runtime = runtime or recognise.recognise(path)[0]
        allowed = load_policy.decide(path, policy, origin=_origin(path, settings))
        fingerprint = digest(path)  # also tells callers of this server which model answers
    elif spec.folder:  # code that a headrace.yaml names, not the person who starts the server
        allowed = load_policy.decide(Path(spec.folder), policy, origin=_origin(Path(spec.folder), settings))
    place, wanted = _own_folder(spec), unless_set(spec.environment, "auto", defaults.environment)
    environment = ""
    warnings: tuple[str, ...] = ()
    if is_asked(place, wanted):
        prepared = environments().prepare(
            place,
            wanted,
            cache=defaults.cache_path,
            trusted=allowed is None,
            describe=spec.describe(),
            cancel=cancel,
        )
        environment, warnings = prepared.folder, prepared.warnings
    if environment:  # another Python may load other engines: what is proven here says nothing of there
        optimize = "off"
    runtime_spec = RuntimeSpec(
        logging=logs.of_worker(
            spec.name, style=settings.log.format, level=settings.log.level, config=settings.log.config_file
        ),
        environment=environment,
        name=spec.name,
        version=spec.version,
        runtime=runtime or "python",
        path=spec.path,
        reference=spec.reference,
        parameters=_parameters(spec, settings),
        allowed_globals=allowed,
        optimize=_when(optimize, spec, defaults.cache_path) if fingerprint else "off",
        cache=str(defaults.cache_path),
        digest=fingerprint,
        inputs=spec.inputs,
        outputs=spec.outputs,
    )
    samples = [v2_rest.parse(body, model_name=spec.name).inputs for body in warm_up_bodies(spec)]
    return Prepared(runtime_spec, samples, warnings)


def _origin(path: Path, settings: Settings) -> load_policy.Origin:
    """Whether it was on this machine all along, or came from a store."""
    cache = Path(settings.artifacts.cache_dir).expanduser().resolve()
    return "remote" if path.resolve().is_relative_to(cache) else "local"


def _parameters(spec: ModelSpec, settings: Settings) -> dict[str, Any]:
    if spec.runtime == "mlserver":
        return {**spec.parameters, "package": settings.compat.mlserver_package}
    return dict(spec.parameters)


def _own_folder(spec: ModelSpec) -> Path | None:
    """Where a file may say what packages the model needs; None: nowhere.

    A file that was named itself lies in somebody's project, whose requirements are not the model's, unless its settings
    speak of an environment.
    """
    if spec.model is not None or not (spec.path or spec.folder):
        return None
    path = Path(spec.path)
    if spec.path and path.is_dir():
        return path
    is_loose = bool(spec.path) and not spec.dialect and spec.environment == "auto" and spec.name == path.stem
    return None if is_loose or not spec.folder else Path(spec.folder)


def _when(
    optimize: Literal["auto", "require", "off"], spec: ModelSpec, cache: Path
) -> Literal["auto", "stored", "require", "off"]:
    """When a faster engine is looked for: at load, or, where a child can do it and leave what it finds, afterwards."""
    return "stored" if optimize == "auto" and spec.model is None and writable(cache) else optimize


def _fingerprint(model: Any) -> str:
    """Of a model in memory, by its pickle; empty when it has none, and then no faster engine is looked for."""
    import hashlib
    import pickle

    try:
        return hashlib.sha256(pickle.dumps(model)).hexdigest()
    except Exception as exc:  # noqa: BLE001 - pickling runs the model's own code, which may fail in any way
        log.info("no faster engine is looked for: %s cannot be pickled (%s)", type(model).__name__, exc)
        return ""


def unless_set(own: _T, silent: _T, default: _T) -> _T:
    """The model's own setting, unless it is silent; then the server's."""
    return default if own == silent else own


def writable(folder: Path) -> bool:
    """Whether files can be made in a folder, made itself if need be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK | os.X_OK)
