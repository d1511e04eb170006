"""The load step's work: a runtime brought into memory, made faster where that is proven.

The engine calls it in a thread, a worker process in its main thread; both block until it is done.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import msgspec

from headrace import runtimes
from headrace.errors import HeadraceError, LoadFailed
from headrace.payload import Signature, TensorSpec
from headrace.runtimes.base import Runtime, Source


class RuntimeSpec(msgspec.Struct, frozen=True, kw_only=True):
    """All that another process needs to load a model; crosses the socket to a worker as msgpack."""

    name: str
    """The model's name, for messages."""
    version: str = ""
    runtime: str
    """A name known to `runtimes`, or `module:Class` of somebody's own Runtime."""
    path: str = ""
    """File or folder, absolute; empty for a reference."""
    reference: str = ""
    """`module:Class` of a model written in Python."""
    parameters: dict[str, Any] = {}
    allowed_globals: tuple[str, ...] | None = None
    """As in `Source`: None trusts the artifact."""
    optimize: Literal["auto", "stored", "require", "off"] = "off"
    """Whether to look for a faster engine; see `runtimes.optimize`. `stored`: take one that was found before, and leave
    the looking to somebody else."""
    cache: str = ""
    """Folder where faster engines and their verdicts are kept; empty: none are."""
    digest: str = ""
    """Of the artifact's bytes, the key of the cache; empty: unknown."""
    environment: str = ""
    """Folder of the virtual or conda environment whose interpreter runs the model, in a process of its own; empty: the
    server's own."""
    logging: dict[str, Any] = {}
    """For `logging.config.dictConfig`, where the model gets a process of its own; empty: Python's own form."""
    inputs: tuple[TensorSpec, ...] = ()
    """Said in headrace.yaml, in place of what the model says; empty: the model's own."""
    outputs: tuple[TensorSpec, ...] = ()


def plain(value: Any) -> Any:
    """What msgspec cannot write by itself, in a form that it can: read-only mappings, numpy's numbers and arrays."""
    if isinstance(value, MappingProxyType):
        return dict(value)
    if isinstance(value, Mapping):
        return dict(value)
    if hasattr(value, "tolist"):  # numpy's numbers and arrays
        return value.tolist()
    msg = f"{type(value).__name__} cannot cross to a worker process"
    raise TypeError(msg)


def prepare(runtimes_wanted: Iterable[str]) -> None:
    """Let the runtimes that will be needed import their libraries, before anything else runs. Blocks."""
    for name in sorted(set(runtimes_wanted) & set(runtimes.RUNTIMES)):
        runtimes.find(name).prepare()


def build(spec: RuntimeSpec, *, model: Any = None) -> tuple[Runtime, Signature]:
    """Find the runtime, load the model, and give it a faster engine where one is proven equal. Blocks.

    Args:
        spec: What to load.
        model: The object itself, when it is in memory already; `path` and `reference` are empty then.

    Raises:
        LoadFailed: or a subclass: the model cannot be served; whatever else a framework raises is chained into it.
        SettingsError: no such runtime, or a parameter it does not know.
    """
    kind = _find(spec.runtime)
    source = Source(
        path=Path(spec.path) if spec.path else None,
        model=model,
        reference=spec.reference,
        allowed_globals=spec.allowed_globals,
        parameters=spec.parameters,
    )
    runtime = kind(source)
    try:
        signature = runtime.load()
        if spec.optimize != "off" and runtime.optimizable:
            runtime, signature = _optimized(spec, runtime, signature)
        elif spec.optimize == "require":
            raise LoadFailed(  # noqa: TRY301 - a refusal among others of the same load
                f"model '{spec.name}': optimize: require, but nothing faster is known for runtime {spec.runtime!r}; "
                "set optimize to auto to serve it as it is"
            )
    except HeadraceError:
        raise
    except Exception as exc:
        raise _failed(spec, exc) from exc
    return runtime, override(signature, inputs=spec.inputs, outputs=spec.outputs)


async def begin(spec: RuntimeSpec, runtime: Runtime, signature: Signature) -> Signature:
    """Have an async runtime that was built make what belongs to this loop; its signature as then known.

    Raises:
        LoadFailed: as of `build`. What the runtime took is left to `unload`.
    """
    try:
        known = await runtime.begin()
    except HeadraceError:
        raise
    except (Exception, SystemExit) as exc:
        raise _failed(spec, exc) from exc
    return signature if known is None else override(known, inputs=spec.inputs, outputs=spec.outputs)


def _failed(spec: RuntimeSpec, exc: BaseException) -> LoadFailed:
    cause = " ".join(str(exc).split())
    return LoadFailed(f"model '{spec.name}': runtime {spec.runtime!r}: {type(exc).__name__}: {cause}")


def override(signature: Signature, *, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> Signature:
    """The signature with what a person said of inputs and outputs in the place of what the model says."""
    changes: dict[str, Any] = {}
    if inputs:
        changes["inputs"] = inputs
    if outputs:
        changes["outputs"] = outputs
        known = {each.name for each in outputs}
        changes["default_outputs"] = tuple(name for name in signature.default_outputs if name in known)
    return msgspec.structs.replace(signature, **changes) if changes else signature


def _find(name: str) -> type[Runtime]:
    if ":" in name:
        return runtimes.find(name, {name: name})
    if name in runtimes.RUNTIMES:
        return runtimes.find(name)
    return runtimes.find(name, runtimes.with_entry_points())  # reads every installed package's list: only when needed


def _optimized(spec: RuntimeSpec, runtime: Runtime, signature: Signature) -> tuple[Runtime, Signature]:
    from headrace.runtimes.optimize import optimize

    digest = spec.digest if spec.cache else ""  # without either, nothing is stored
    return optimize(runtime, signature, mode=spec.optimize, digest=digest, cache=Path(spec.cache))
