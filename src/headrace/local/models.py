"""A revision of a Model resource as the serving room knows it: where its files are, and what its fields override.

The backend calls `model_spec` in a thread, since it reads the heads of files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import msgspec

from headrace.artifacts.base import Pinned
from headrace.artifacts.uri import is_local, shown
from headrace.control.backends.base import ModelUnit
from headrace.control.resources import EXPLAINER, Model
from headrace.errors import HeadraceError, LoadFailed
from headrace.payload import TensorSpec
from headrace.serving import discovery
from headrace.serving.batching import Batching
from headrace.serving.models import readable
from headrace.serving.spec import Cache, ModelSpec

Fetch = Callable[[str, Pinned | None], Path]
"""Uri of a store, and what it stood for where that is known, to a local copy; raises HeadraceError."""

_SAME: Final = ("runtime", "placement", "replicas", "predict_timeout_seconds", "optimize", "load_policy", "environment")
"""Fields of Model that are those of ModelSpec."""


def model_spec(unit: ModelUnit, *, mirrors: Sequence[str] = (), fetch: Fetch | None = None) -> ModelSpec:
    """What the repository is to load for a revision. Blocks while the heads of files are read.

    Args:
        unit: The revision.
        mirrors: `PREFIX=FOLDER`, as the setting `models.uri_mirrors`.
        fetch: Brings what a uri of a store names to this machine; None: nothing does.

    Raises:
        LoadFailed: or another of the load's errors: there is nothing at the uri, or not one model.
    """
    model = unit.spec
    where, uri = f"Model '{unit.name}'", model.uri
    pinned = None if model.resolved is None else Pinned(**msgspec.structs.asdict(model.resolved))
    if model.runtime == EXPLAINER:
        return ModelSpec(
            name=unit.name,
            version=str(unit.revision),
            runtime=EXPLAINER,
            path=str(place(uri, unit.base, mirrors, where=where, fetch=fetch, pinned=pinned)) if uri else "",
            parameters=model.parameters,
            on_demand=model.load == "onDemand",
        )
    if model.reference:
        found = discovery.discover([_reference(model.reference, unit.base)], overrides=_overrides(model))
    else:
        path = str(place(uri, unit.base, mirrors, where=where, fetch=fetch, pinned=pinned))
        try:
            found = discovery.discover([path], overrides=_overrides(model))
        except LoadFailed as error:
            if is_local(uri):
                raise
            raise type(error)(str(error).replace(path, shown(uri))) from error  # callers know no path of this machine
    chosen = _one(found, model, unit.name, where)
    version = str(unit.revision)
    own = {"warm_up": tuple(model.warm_up)} if model.warm_up else {}
    return msgspec.structs.replace(
        chosen,
        name=unit.name,
        version=version,
        parameters=_parameters(chosen, model.parameters, unit.name, version),
        idle_seconds=model.idle_seconds or chosen.idle_seconds,
        on_demand=model.load == "onDemand" or chosen.on_demand,
        memory_bytes=model.memory_bytes or chosen.memory_bytes,
        **own,
    )


def place(
    uri: str,
    base: str,
    mirrors: Sequence[str] = (),
    *,
    where: str = "uri",
    fetch: Fetch | None = None,
    pinned: Pinned | None = None,
) -> Path:
    """The local file or folder that a uri names. Blocks while it is fetched.

    Args:
        uri: A path, `file://`, what begins with the prefix of a mirror, or a uri of a store.
        base: Where relative paths start.
        mirrors: `PREFIX=FOLDER`; the longest prefix that fits counts.
        where: What names the uri, for the message.
        fetch: As for `model_spec`.
        pinned: What the uri stood for; None: what it stands for now.

    Raises:
        LoadFailed: it cannot be fetched.
    """
    for mirror in sorted(mirrors, key=len, reverse=True):
        prefix, _, folder = mirror.partition("=")
        if prefix and uri.startswith(prefix):
            return Path(folder).expanduser().absolute() / uri[len(prefix) :].lstrip("/")
    if uri.startswith("file:"):
        return Path(unquote(urlsplit(uri).path))
    if is_local(uri):
        return Path(base or ".", uri).expanduser().absolute()
    if fetch is None:
        raise LoadFailed(f"{where}: {shown(uri)} cannot be fetched here: expected a path or file://")
    try:
        return fetch(uri, pinned)
    except HeadraceError as error:
        raise LoadFailed(f"{where}: {error}") from error


def _reference(reference: str, base: str) -> str:
    module, _, attribute = reference.rpartition(":")
    file = Path(base or ".", module if module.endswith(".py") else module.replace(".", "/") + ".py")
    return f"{file.absolute()}:{attribute}" if file.is_file() else reference


def _overrides(model: Model) -> dict[str, Any]:
    """What the resource says, over the files beside the model; a field at its default says nothing."""
    silent = Model()
    said: dict[str, Any] = {
        name: getattr(model, name) for name in _SAME if getattr(model, name) != getattr(silent, name)
    }
    if model.inputs:
        said["inputs"] = tuple(TensorSpec(**msgspec.structs.asdict(each)) for each in model.inputs)
    if model.outputs:
        said["outputs"] = tuple(TensorSpec(**msgspec.structs.asdict(each)) for each in model.outputs)
    if model.batching is not None:
        said["batching"] = Batching(**msgspec.structs.asdict(model.batching))
    if model.cache is not None:
        said["cache"] = Cache(**msgspec.structs.asdict(model.cache))
    return said


def _one(found: Sequence[ModelSpec], model: Model, name: str, where: str) -> ModelSpec:
    """The one version of the one model that is meant."""
    named = [each for each in found if each.name == name] or list(found)
    names = sorted({each.name for each in named})
    if len(names) > 1:
        raise LoadFailed(
            f"{where}: {shown(model.uri)} holds several models: {', '.join(names)}; name one of them in uri"
        )
    if not named:
        raise LoadFailed(f"{where}: there is no model at {shown(model.uri) or model.reference}")
    if not model.artifact_version:
        return max(named, key=lambda each: readable(each.version))
    for each in named:
        if each.version == model.artifact_version:
            return each
    versions = ", ".join(sorted((each.version for each in named if each.version), key=readable)) or "none"
    raise LoadFailed(
        f"{where}: artifactVersion '{model.artifact_version}' is not at {shown(model.uri)}; there are: {versions}"
    )


def _parameters(spec: ModelSpec, said: Mapping[str, Any], name: str, version: str) -> Mapping[str, Any]:
    """The runtime's parameters with those of the resource; a class made for MLServer finds them in `extra`, as under
    Seldon Core, and its own name and version in its settings.
    """
    if spec.runtime != "mlserver":
        return {**spec.parameters, **said}
    settings = dict(spec.parameters.get("settings", {}))
    parameters = dict(settings.get("parameters") or {})
    parameters["extra"] = {**(parameters.get("extra") or {}), **said}
    parameters["version"] = version
    return {**spec.parameters, "settings": {**settings, "name": name, "parameters": parameters}}
