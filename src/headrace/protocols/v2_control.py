"""The Open Inference Protocol's bodies around inference: health, metadata, model repository, statistics, configuration.

The HTTP server calls `parse_*` on what comes and `render_*` on what it knows. Sources: the Open Inference Protocol's
REST document; Triton's model repository, statistics and model configuration extensions.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
import orjson

from headrace.errors import InvalidRequest
from headrace.payload import EMPTY, Parameters, Signature, TensorSpec
from headrace.protocols.documents import read_object

EXTENSIONS: Final = (
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "model_repository",
    "model_repository(unload_dependents)",
    "parameters",
    "schedule_policy",
    "statistics",
)
"""What server metadata names: Triton's extensions that are served here."""


# -- health and metadata --


def render_live(*, live: bool) -> bytes:
    """Whether the server runs."""
    return orjson.dumps({"live": live})


def render_ready(*, ready: bool) -> bytes:
    """Whether every wanted model is loaded."""
    return orjson.dumps({"ready": ready})


def render_model_ready(name: str, *, ready: bool) -> bytes:
    """Whether one model is loaded."""
    return orjson.dumps({"name": name, "ready": ready})


def render_server(name: str, version: str, extensions: Sequence[str] = ()) -> bytes:
    """What the server is.

    Args:
        name: Its name.
        version: Its version.
        extensions: What it names beside those that are built in.
    """
    return orjson.dumps({"name": name, "version": version, "extensions": all_extensions(extensions)})


def all_extensions(extensions: Sequence[str]) -> list[str]:
    """Those that are built in and these, each once."""
    return list(dict.fromkeys((*EXTENSIONS, *extensions)))


def render_metadata(
    name: str,
    versions: Sequence[str],
    signature: Signature | None,
    *,
    placement: str = "",
    declared: Parameters = EMPTY,
    warnings: Sequence[str] = (),
    complete: bool = False,
) -> bytes:
    """What a model is.

    Args:
        name: The model's.
        versions: Those that are served, or could be; empty: the model has none.
        signature: What the model declares; None: not known yet.
        placement: Where it runs: `inline`, `thread` or `process`.
        declared: Members that hold over what the signature says: `platform`, `versions`, `inputs`, `outputs`,
            `parameters`. Empty ones declare nothing.
        warnings: What a person should know, with the signature's.
        complete: Every member is there, also an empty one, as MLServer's clients expect.
    """
    known = signature or Signature(platform="")
    parameters = {"content_type": known.content_type} if known.content_type else {}
    document: dict[str, Any] = {
        "name": name,
        "versions": declared.get("versions") or list(versions),
        "platform": declared.get("platform") or known.platform,
        "inputs": declared.get("inputs") or [tensor_of(spec) for spec in known.inputs],
        "outputs": declared.get("outputs") or [tensor_of(spec) for spec in known.outputs],
        "parameters": {**parameters, **(declared.get("parameters") or {})},
    }
    if not complete:
        for member in ("versions", "parameters"):
            if not document[member]:
                del document[member]
    properties = properties_of(known, placement=placement, warnings=warnings)
    if properties:
        document["properties"] = properties
    return orjson.dumps(document)


def properties_of(signature: Signature, *, placement: str = "", warnings: Sequence[str] = ()) -> dict[str, str]:
    """Metadata's `properties`, text by name: the signature's own, its libraries, all warnings and placement."""
    properties = {str(key): str(value) for key, value in signature.properties.items()}
    properties.update({f"library.{library}": version for library, version in signature.libraries.items()})
    if signature.default_outputs:
        properties["default_outputs"] = ",".join(signature.default_outputs)
    told = dict.fromkeys((*signature.warnings, *warnings))
    if told:
        properties["warnings"] = "; ".join(told)
    if placement:
        properties["placement"] = str(placement)
    return properties


def tensor_of(spec: TensorSpec) -> dict[str, Any]:
    """A tensor in metadata."""
    entry: dict[str, Any] = {"name": spec.name, "datatype": spec.datatype, "shape": spec.shape}
    parameters: dict[str, Any] = {}
    if spec.content_type:
        parameters["content_type"] = spec.content_type
    if spec.optional:
        parameters["optional"] = True
    if spec.labels:
        parameters["labels"] = list(spec.labels)
    if parameters:
        entry["parameters"] = parameters
    return entry


# -- model repository --


class IndexEntry(msgspec.Struct, frozen=True):
    """One version of one model in the repository's index."""

    name: str
    version: str
    """Empty: the model has no versions."""
    state: str
    """`UNKNOWN`, `READY`, `UNAVAILABLE`, `LOADING` or `UNLOADING`."""
    reason: str = ""


def parse_index(body: bytes | memoryview) -> bool:
    """Whether only ready models are asked for; an empty body asks for all.

    Raises:
        InvalidRequest: not a JSON object, or `ready` is not a boolean.
    """
    return _flag(_object(body), "ready")


def render_index(entries: Sequence[IndexEntry]) -> bytes:
    """The repository's index; `version` is left out where there is none.

    `reason` is there even when it is empty, since MLServer's client reads no entry without it.
    """
    index = []
    for each in entries:
        entry = {"name": each.name}
        if each.version:
            entry["version"] = each.version
        entry["state"] = each.state
        entry["reason"] = each.reason
        index.append(entry)
    return orjson.dumps(index)


def parse_load(body: bytes | memoryview) -> Mapping[str, Any]:
    """The parameters of a load: `config` as JSON text, files as bytes by `file:<path>`, others as they came.

    Raises:
        InvalidRequest: not a JSON object; `config` is not the text of one; a file is not base64, or comes without
            `config`.
    """
    parameters = _parameters(_object(body))
    loaded: dict[str, Any] = {}
    for key, value in parameters.items():
        if key == "config":
            if type(value) is not str:
                raise InvalidRequest("parameter 'config' must be the JSON text of a configuration, as a string")
            read_object(value.encode(), "parameter 'config'")
        elif key.startswith("file:"):
            if "config" not in parameters:
                raise InvalidRequest(f"parameter '{key}' overrides the model's files: give its 'config' too")
            loaded[key] = _file(key, value)
            continue
        loaded[key] = value
    return loaded or EMPTY


def parse_unload(body: bytes | memoryview) -> bool:
    """Whether models that only this one needs are to be unloaded too (`unload_dependents`).

    Raises:
        InvalidRequest: not a JSON object, or the parameter is not a boolean.
    """
    return _flag(_parameters(_object(body)), "unload_dependents")


def render_loaded(name: str) -> bytes:
    """A load that succeeded, in KServe's form; other clients read the status only."""
    return orjson.dumps({"name": name, "load": True})


def render_unloaded(name: str) -> bytes:
    """An unload that succeeded, in KServe's form; other clients read the status only."""
    return orjson.dumps({"name": name, "unload": True})


def _object(body: bytes | memoryview) -> dict[str, Any]:
    if not bytes(body[:64]).strip():
        return {}
    return read_object(body)


def _parameters(document: dict[str, Any]) -> dict[str, Any]:
    parameters = document.get("parameters")
    if parameters is None:
        return {}
    if type(parameters) is not dict:
        raise InvalidRequest("'parameters' must be an object")
    return parameters


def _flag(members: Mapping[str, Any], name: str) -> bool:
    value = members.get(name)
    if value is None:
        return False
    if type(value) is not bool:
        raise InvalidRequest(f"Invalid value for '{name}': expected a boolean")
    return value


def _file(key: str, value: Any) -> bytes:
    if type(value) is not str:
        raise InvalidRequest(f"parameter '{key}' must be the file's content in base64, as a string")
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as exc:
        raise InvalidRequest(f"parameter '{key}' is not base64: {exc}") from None


# -- statistics --


class Duration(msgspec.Struct, frozen=True):
    """How often something was done, and how long it took in all."""

    count: int = 0
    ns: int = 0


class BatchStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """What predicts of one size cost."""

    batch_size: int
    compute_input: Duration = Duration()
    compute_infer: Duration = Duration()
    compute_output: Duration = Duration()


class Statistics(msgspec.Struct, frozen=True, kw_only=True):
    """What one version of one model has done since it was loaded."""

    name: str
    version: str = ""
    last_inference_ms: int = 0
    """Milliseconds since the epoch; 0: none yet."""
    inference_count: int = 0
    """Rows answered; over `execution_count` it is the mean batch."""
    execution_count: int = 0
    """Predicts."""
    success: Duration = Duration()
    fail: Duration = Duration()
    queue: Duration = Duration()
    compute_input: Duration = Duration()
    compute_infer: Duration = Duration()
    compute_output: Duration = Duration()
    cache_hit: Duration = Duration()
    cache_miss: Duration = Duration()
    batches: tuple[BatchStatistics, ...] = ()


_DURATIONS: Final = (
    "success",
    "fail",
    "queue",
    "compute_input",
    "compute_infer",
    "compute_output",
    "cache_hit",
    "cache_miss",
)


def render_statistics(statistics: Sequence[Statistics]) -> bytes:
    """The answer of the statistics extension."""
    return msgspec.json.encode({"model_stats": [_statistics(each) for each in statistics]})


def _statistics(each: Statistics) -> dict[str, Any]:
    return {
        "name": each.name,
        "version": each.version,
        "last_inference": each.last_inference_ms,
        "inference_count": each.inference_count,
        "execution_count": each.execution_count,
        "inference_stats": {name: getattr(each, name) for name in _DURATIONS},
        "response_stats": {},
        "batch_stats": each.batches,
        "memory_usage": [],
    }


# -- configuration --


def render_config(name: str, signature: Signature | None, *, max_batch_size: int = 0) -> bytes:
    """The model in the terms of Triton's ModelConfig: what clients read to learn names, types and batching.

    Args:
        name: The model's.
        signature: What the model declares; None: not known.
        max_batch_size: Rows in one predict; above 0 the first dimension is left out of `dims`, as Triton does for
            models that batch.
    """
    known = signature or Signature(platform="")
    batching = max_batch_size if known.batchable else 0
    return orjson.dumps(
        {
            "name": name,
            "platform": known.platform,
            "backend": known.platform.partition("_")[2] or known.platform,
            "max_batch_size": batching,
            "input": [_config_tensor(spec, batching=batching > 0) for spec in known.inputs],
            "output": [_config_tensor(spec, batching=batching > 0) for spec in known.outputs],
        }
    )


def _config_tensor(spec: TensorSpec, *, batching: bool) -> dict[str, Any]:
    kind = "STRING" if spec.datatype == "BYTES" else spec.datatype
    entry: dict[str, Any] = {
        "name": spec.name,
        "data_type": f"TYPE_{kind}",
        "dims": list(spec.shape[1:] if batching else spec.shape),
    }
    if spec.optional:
        entry["optional"] = True
    return entry
