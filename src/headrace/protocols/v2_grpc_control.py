"""What a server says of itself and its models, as messages of the Open Inference Protocol over gRPC.

The gRPC server calls it for every call but inference; `v2_grpc` has that. What the shared memory, trace and log
extensions ask for is answered with what is true here: no region is mapped, nothing is traced or set by their calls.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from headrace.errors import NotSupported
from headrace.payload import EMPTY, Parameters, Signature
from headrace.protocols import v2_control
from headrace.protocols.v2_grpc import Message, message_class, render_parameters

_Metadata: Final = message_class("inference.ModelMetadataResponse")
_TheirMetadata: Final = message_class("inference.MLServerModelMetadataResponse")
_Config: Final = message_class("inference.ModelConfigResponse")
_Statistics: Final = message_class("inference.ModelStatisticsResponse")
_Index: Final = message_class("inference.RepositoryIndexResponse")
_ServerMetadata: Final = message_class("inference.ServerMetadataResponse")
_TraceSettings: Final = message_class("inference.TraceSettingResponse")
_LogSettings: Final = message_class("inference.LogSettingsResponse")

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


def render_server(name: str, version: str, extensions: Sequence[str] = ()) -> Message:
    """A ServerMetadataResponse; `extensions` are named beside those that are built in."""
    return _ServerMetadata(name=name, version=version, extensions=v2_control.all_extensions(extensions))


def render_metadata(
    name: str,
    versions: Sequence[str],
    signature: Signature,
    *,
    placement: str = "",
    declared: Parameters = EMPTY,
    warnings: Sequence[str] = (),
) -> Message:
    """A ModelMetadataResponse; what a person should know stands in its properties.

    Args: as of `v2_control.render_metadata`.
    """
    message = _Metadata()
    _fill_metadata(message, name, versions, signature, declared)
    for key, value in v2_control.properties_of(signature, placement=placement, warnings=warnings).items():
        message.properties[key] = value
    return message


def render_mlserver_metadata(
    name: str,
    versions: Sequence[str],
    signature: Signature,
    *,
    declared: Parameters = EMPTY,
    warnings: Sequence[str] = (),
) -> Message:
    """The same in MLServer's form, whose field 6 holds parameters; all warnings are one of them.

    Clients made for MLServer cannot read the other form at all.
    """
    message = _TheirMetadata()
    _fill_metadata(message, name, versions, signature, declared)
    if signature.content_type:
        message.parameters["content_type"].string_param = signature.content_type
    render_parameters(message.parameters, declared.get("parameters") or EMPTY)
    told = "; ".join(dict.fromkeys((*signature.warnings, *warnings)))
    if told:
        message.parameters["warnings"].string_param = told
    return message


def _fill_metadata(
    message: Message, name: str, versions: Sequence[str], signature: Signature, declared: Parameters
) -> None:
    message.name = name
    message.versions.extend(declared.get("versions") or versions)
    message.platform = declared.get("platform") or signature.platform
    for role, specs, tensors in (
        ("inputs", signature.inputs, message.inputs),
        ("outputs", signature.outputs, message.outputs),
    ):
        for each in declared.get(role) or map(v2_control.tensor_of, specs):
            tensor = tensors.add(name=each["name"], datatype=each["datatype"], shape=each["shape"])
            render_parameters(tensor.parameters, each.get("parameters") or EMPTY)


def render_config(name: str, signature: Signature, *, decoupled: bool = False) -> Message:
    """A ModelConfigResponse.

    `max_batch_size` is 0, which says that shapes are whole: axis 0 stands in `dims` where a model has rows.
    """
    message = _Config()
    config = message.config
    config.name, config.platform = name, signature.platform
    config.backend = signature.platform.partition("_")[2] or signature.platform
    config.version_policy.latest.num_versions = 1
    for spec in signature.inputs:
        config.input.add(name=spec.name, data_type=_data_type(spec.datatype), dims=spec.shape, optional=spec.optional)
    for spec in signature.outputs:
        config.output.add(name=spec.name, data_type=_data_type(spec.datatype), dims=spec.shape)
    if decoupled:
        config.model_transaction_policy.decoupled = True
    return message


def _data_type(datatype: str) -> str:
    return "TYPE_STRING" if datatype == "BYTES" else f"TYPE_{datatype}"


def render_statistics(versions: Iterable[v2_control.Statistics]) -> Message:
    """A ModelStatisticsResponse."""
    message = _Statistics()
    for counted in versions:
        stats = message.model_stats.add(
            name=counted.name,
            version=counted.version,
            last_inference=counted.last_inference_ms,
            inference_count=counted.inference_count,
            execution_count=counted.execution_count,
        )
        for field in _DURATIONS:
            _render_duration(getattr(stats.inference_stats, field), getattr(counted, field))
        for size in counted.batches:
            batch = stats.batch_stats.add(batch_size=size.batch_size)
            for field in ("compute_input", "compute_infer", "compute_output"):
                _render_duration(getattr(batch, field), getattr(size, field))
    return message


def _render_duration(message: Message, duration: v2_control.Duration) -> None:
    message.count, message.ns = duration.count, duration.ns


def render_index(entries: Iterable[tuple[str, str, str, str]], *, response: Any = _Index) -> Message:
    """A RepositoryIndexResponse from names, versions, states and reasons.

    Args:
        entries: One for each version.
        response: The class of the message, for the service of another package.
    """
    message = response()
    for name, version, state, reason in entries:
        message.models.add(name=name, version=version, state=state, reason=reason)
    return message


def render_trace_settings(asked: Mapping[str, Any]) -> Message:
    """A TraceSettingResponse; tracing is set where the server is configured, so a change is refused.

    Raises:
        NotSupported: the request would change something.
    """
    if asked:
        raise NotSupported("trace settings cannot be changed by a call; set `tracing` in the server's settings")
    message = _TraceSettings()
    message.settings["trace_level"].value.append("OFF")
    return message


def render_log_settings(asked: Mapping[str, Any], level: int) -> Message:
    """A LogSettingsResponse for a logger's effective level; a change is refused.

    Raises:
        NotSupported: the request would change something.
    """
    if asked:
        raise NotSupported("log settings cannot be changed by a call; set `log` in the server's settings")
    message = _LogSettings()
    for name, threshold in (("log_error", logging.ERROR), ("log_warning", logging.WARNING), ("log_info", logging.INFO)):
        message.settings[name].bool_param = level <= threshold
    message.settings["log_verbose_level"].uint32_param = 1 if level <= logging.DEBUG else 0
    return message
