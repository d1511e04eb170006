"""inference.GRPCInferenceService: what each call does. `server.grpc` puts its rows into the table of calls.

Inference is the walk and nothing else: *route, parse, await, render*.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Final, Protocol

import msgspec

from headrace.errors import HeadraceError, InvalidRequest, ModelNotReady, NotSupported
from headrace.monitoring.tracing import Tracing
from headrace.payload import EMPTY, Infer, InferenceRequest, InferenceResponse, Signature
from headrace.protocols import status, v2_grpc, v2_grpc_control
from headrace.protocols.v2_control import Statistics
from headrace.routing import sticky
from headrace.server.grpc_connection import Call, Kind, Message, Method, Send
from headrace.serving.models import Models, Served, State

log = logging.getLogger(__name__)

SERVICE: Final = "inference.GRPCInferenceService"
REPOSITORY_SERVICE: Final = "inference.model_repository.ModelRepositoryService"
"""The repository's calls under the name that MLServer gave them first."""
STREAM_FORM: Final = "headrace-stream-form"
"""Metadata of a ModelStreamInfer call: `mlserver` or `triton`."""
ADDRESS: Final = "seldon-model"
"""Metadata of a call that names what is asked, over the message's own name, as behind Seldon Core's ingress."""
_FINAL: Final = "triton_final_response"
_WANTS_FINAL: Final = "triton_enable_empty_final_response"

_message: Final = v2_grpc.message_class
_StreamResponse: Final = v2_grpc.ModelStreamInferResponse
_LiveResponse: Final = _message("inference.ServerLiveResponse")
_ReadyResponse: Final = _message("inference.ServerReadyResponse")
_ModelReadyResponse: Final = _message("inference.ModelReadyResponse")
_OldIndexResponse: Final = _message("inference.model_repository.RepositoryIndexResponse")
_OldLoadResponse: Final = _message("inference.model_repository.RepositoryModelLoadResponse")
_OldUnloadResponse: Final = _message("inference.model_repository.RepositoryModelUnloadResponse")
_LoadResponse: Final = _message("inference.RepositoryModelLoadResponse")
_UnloadResponse: Final = _message("inference.RepositoryModelUnloadResponse")
_SystemStatusResponse: Final = _message("inference.SystemSharedMemoryStatusResponse")
_SystemUnregisterResponse: Final = _message("inference.SystemSharedMemoryUnregisterResponse")
_CudaStatusResponse: Final = _message("inference.CudaSharedMemoryStatusResponse")
_CudaUnregisterResponse: Final = _message("inference.CudaSharedMemoryUnregisterResponse")


class Repository(Protocol):
    """What loads and unloads (`serving.repository`)."""

    async def load(self, name: str, parameters: Mapping[str, Any]) -> None:
        """Load or reload a model of the repository."""

    async def unload(self, name: str, *, unload_dependents: bool = False) -> None:
        """Take a model out of service."""


class InferenceService:
    """The calls of the service, over the routing table and the repository.

    Args:
        models: The routing table.
        repository: What loads and unloads.
        name: The server's.
        version: The server's.
        extensions: What its metadata names beside those that are built in.
        statistics: What was counted of a version; None: the statistics call is not supported.
        traces: Set to trace inference.
    """

    def __init__(
        self,
        models: Models,
        repository: Repository,
        *,
        name: str,
        version: str,
        extensions: Sequence[str] = (),
        statistics: Callable[[Served], Statistics] | None = None,
        traces: Tracing | None = None,
    ) -> None:
        self._models, self._repository = models, repository
        self._name, self._version, self._extensions = name, version, extensions
        self._statistics, self._traces = statistics, traces

    def methods(self) -> dict[str, Method]:
        """The rows of the table, by path."""
        unary = {
            "ServerLive": self._server_live,
            "ServerReady": self._server_ready,
            "ModelReady": self._model_ready,
            "ServerMetadata": self._server_metadata,
            "ModelMetadata": self._model_metadata,
            "ModelInfer": self._model_infer if self._traces is None else self._model_infer_traced,
            "ModelConfig": self._model_config,
            "ModelStatistics": self._model_statistics,
            "RepositoryIndex": self._repository_index,
            "RepositoryModelLoad": self._load,
            "RepositoryModelUnload": self._unload,
            "SystemSharedMemoryStatus": self._system_status,
            "SystemSharedMemoryRegister": self._register,
            "SystemSharedMemoryUnregister": self._system_unregister,
            "CudaSharedMemoryStatus": self._cuda_status,
            "CudaSharedMemoryRegister": self._register,
            "CudaSharedMemoryUnregister": self._cuda_unregister,
            "TraceSetting": self._trace_setting,
            "LogSettings": self._log_settings,
        }
        rows = {
            name: Method(name=name, kind=Kind.UNARY, request=_message(f"inference.{name}Request"), handler=handler)
            for name, handler in unary.items()
        }
        rows["ModelStreamInfer"] = Method(
            name="ModelStreamInfer",
            kind=Kind.BIDIRECTIONAL,
            request=v2_grpc.ModelInferRequest,
            handler=self._model_stream_infer,
        )
        repository = {
            name: Method(
                name=name,
                kind=Kind.UNARY,
                request=_message(f"inference.model_repository.{name}Request"),
                handler=handler,
            )
            for name, handler in {
                "RepositoryIndex": self._old_index,
                "RepositoryModelLoad": self._old_load,
                "RepositoryModelUnload": self._old_unload,
            }.items()
        }
        return {
            **{f"/{SERVICE}/{name}": row for name, row in rows.items()},
            **{f"/{REPOSITORY_SERVICE}/{name}": row for name, row in repository.items()},
        }

    # -- inference --

    async def _model_infer(self, call: Call, message: Message) -> Message:
        if ADDRESS in call.metadata:
            _address(call, message)
        served = self._models.route(message.model_name, message.model_version)
        request = v2_grpc.parse(message, headers=call.metadata, deadline=call.deadline)
        response = await _infer(served)(request)
        if ADDRESS in call.metadata:
            response = sticky.signed(response, served.key, served.version)
        if response.headers:
            call.trailers = response.headers
        return _render(served, request, response, message)

    async def _model_infer_traced(self, call: Call, message: Message) -> Message:
        """The same walk, with a span for each step that the server takes itself."""
        traces = self._traces
        if traces is None:
            return await self._model_infer(call, message)
        if ADDRESS in call.metadata:
            _address(call, message)
        trace = traces.begin("infer", call.metadata, {"model": message.model_name, "rpc.method": "ModelInfer"})
        error = ""
        try:
            started = time.time_ns()
            served = self._models.route(message.model_name, message.model_version)
            request = msgspec.structs.replace(
                v2_grpc.parse(message, headers=call.metadata, deadline=call.deadline), trace=trace
            )
            trace.record("parse", started, time.time_ns())
            response = await _infer(served)(request)
            if ADDRESS in call.metadata:
                response = sticky.signed(response, served.key, served.version)
            started = time.time_ns()
            answer = _render(served, request, response, message)
            trace.record("render", started, time.time_ns())
            call.trailers = {**response.headers, "traceparent": trace.context.render()}
        except BaseException as exc:
            error = type(exc).__name__
            raise
        finally:
            trace.finish(error)
        return answer

    async def _model_stream_infer(self, call: Call, messages: AsyncIterator[Message], send: Send) -> None:
        """Requests are answered in the order they come; an error is one request's and leaves the stream open.

        With the metadata `triton_grpc_error: true` the first error ends the stream with its status instead.

        Two protocols have a call of this name. Triton's answers are ModelStreamInferResponse, which holds a
        ModelInferResponse or an error; MLServer's are the ModelInferResponse itself, and an error ends the stream. The
        requests are alike, so the model's dialect decides, unless the metadata `headrace-stream-form` names the form.
        """
        strict = call.metadata.get("triton_grpc_error", "") == "true"
        form = call.metadata.get(STREAM_FORM, "")
        if form not in {"", "mlserver", "triton"}:
            raise InvalidRequest(f"metadata {STREAM_FORM} must be mlserver or triton, got: {form!r}")

        async def send_wrapped(message: Message) -> None:
            await send(_StreamResponse(infer_response=message))

        bare_of: dict[tuple[str, str], bool] = {}  # the models of a stream are few
        async for message in messages:
            if ADDRESS in call.metadata:
                _address(call, message)
            key = (message.model_name, message.model_version)
            if key not in bare_of:
                bare_of[key] = form == "mlserver" or (not form and self._is_mlservers(*key))
            bare = bare_of[key]
            try:
                await self._answer_in_stream(call, message, send if bare else send_wrapped)
            except Exception as error:
                if strict or bare:
                    raise
                if not isinstance(error, HeadraceError):
                    log.exception("ModelStreamInfer failed for model %r", message.model_name)
                response = _StreamResponse(error_message=status.public_text(error))
                response.infer_response.id = message.id
                response.infer_response.model_name = message.model_name
                await send(response)

    def _is_mlservers(self, name: str, version: str) -> bool:
        """Whether the clients of a model are made for MLServer. Of a model nobody knows: whether those of all are."""
        versions = self._models.versions(name)
        chosen = [served for served in versions if served.version == version] or versions or list(self._models)
        return bool(chosen) and all(served.dialect == "mlserver" for served in chosen)

    async def _answer_in_stream(self, call: Call, message: Message, send: Send) -> None:
        served = self._models.route(message.model_name, message.model_version)
        request = v2_grpc.parse(message, headers=call.metadata, deadline=call.deadline)
        wants_final = request.parameters.get(_WANTS_FINAL) is True
        if _WANTS_FINAL in request.parameters:
            kept = {name: value for name, value in request.parameters.items() if name != _WANTS_FINAL}
            request = msgspec.structs.replace(request, parameters=kept)
        stream = served.infer_stream
        if stream is None:
            response = await _infer(served)(request)
            answer = _render(served, request, response, message)
            if response.headers:
                call.trailers = {**(call.trailers or EMPTY), **response.headers}
            if wants_final:
                answer.parameters[_FINAL].bool_param = True
            await send(answer)
            return
        responses = stream(request)
        try:
            async for response in responses:
                answer = _render(served, request, response, message)
                if response.headers:
                    call.trailers = {**(call.trailers or EMPTY), **response.headers}
                if wants_final:
                    answer.parameters[_FINAL].bool_param = False
                await send(answer)
        finally:
            close = getattr(responses, "aclose", None)  # a generator that nobody reads on must not wait for collection
            if close is not None:
                await close()
        if wants_final:
            answer = v2_grpc.ModelInferResponse(model_name=served.name, model_version=served.version, id=request.id)
            answer.parameters[_FINAL].bool_param = True
            await send(answer)

    # -- health and metadata --

    async def _server_live(self, call: Call, message: Message) -> Message:
        return _LiveResponse(live=True)

    async def _server_ready(self, call: Call, message: Message) -> Message:
        return _ReadyResponse(ready=self._models.is_ready())

    async def _model_ready(self, call: Call, message: Message) -> Message:
        served = self._models.find(*_asked_about(call, message))
        return _ModelReadyResponse(ready=served.state is State.READY)

    async def _server_metadata(self, call: Call, message: Message) -> Message:
        return v2_grpc_control.render_server(self._name, self._version, self._extensions)

    async def _model_metadata(self, call: Call, message: Message) -> Message:
        served = self._models.route(*_asked_about(call, message))
        versions = [other.version for other in self._models.versions(served.key) if other.version]
        signature = _signature(served)
        if served.dialect == "mlserver":
            return v2_grpc_control.render_mlserver_metadata(
                served.name, versions, signature, declared=served.declared, warnings=served.warnings
            )
        return v2_grpc_control.render_metadata(
            served.name,
            versions,
            signature,
            placement=served.placement,
            declared=served.declared,
            warnings=served.warnings,
        )

    async def _model_config(self, call: Call, message: Message) -> Message:
        served = self._models.route(*_asked_about(call, message))
        return v2_grpc_control.render_config(served.name, _signature(served), decoupled=served.infer_stream is not None)

    async def _model_statistics(self, call: Call, message: Message) -> Message:
        if self._statistics is None:
            raise NotSupported("this server keeps no statistics")
        chosen: Sequence[Served]
        if not message.name:
            chosen = [each for each in self._models if each.state is State.READY and each.kind == "model"]
        elif message.version:
            chosen = [self._models.find(message.name, message.version)]
        else:
            self._models.find(message.name)
            chosen = self._models.versions(message.name)
        return v2_grpc_control.render_statistics([self._statistics(served) for served in chosen])

    # -- model repository --

    async def _repository_index(self, call: Call, message: Message) -> Message:
        if message.repository_name:
            raise NotSupported(
                f"repository '{message.repository_name}' cannot be chosen: this server has one, without a name"
            )
        return v2_grpc_control.render_index(self._entries(message))

    def _entries(self, message: Message) -> list[tuple[str, str, str, str]]:
        return [
            (served.key, served.version, self._state(served), served.reason)
            for served in self._models
            if served.state is State.READY or not message.ready
        ]

    def _state(self, served: Served) -> str:
        """A version's state as the index shows it."""
        return served.state.value

    async def _old_index(self, call: Call, message: Message) -> Message:
        return v2_grpc_control.render_index(self._entries(message), response=_OldIndexResponse)

    async def _old_load(self, call: Call, message: Message) -> Message:
        await self._repository.load(v2_grpc.parse_repository_target(message), {})
        return _OldLoadResponse()

    async def _old_unload(self, call: Call, message: Message) -> Message:
        await self._repository.unload(v2_grpc.parse_repository_target(message))
        return _OldUnloadResponse()

    async def _load(self, call: Call, message: Message) -> Message:
        name = v2_grpc.parse_repository_target(message)
        await self._repository.load(name, v2_grpc.parse_repository_parameters(message))
        return _LoadResponse(model_name=name, isLoaded=True)

    async def _unload(self, call: Call, message: Message) -> Message:
        name = v2_grpc.parse_repository_target(message)
        parameters = v2_grpc.parse_repository_parameters(message)
        await self._repository.unload(name, unload_dependents=parameters.get("unload_dependents") is True)
        return _UnloadResponse(model_name=name, isUnloaded=True)

    # -- shared memory, trace and log settings --

    async def _system_status(self, call: Call, message: Message) -> Message:
        return _SystemStatusResponse()

    async def _cuda_status(self, call: Call, message: Message) -> Message:
        return _CudaStatusResponse()

    async def _system_unregister(self, call: Call, message: Message) -> Message:
        return _SystemUnregisterResponse()  # clients begin by unregistering all; there is never one

    async def _cuda_unregister(self, call: Call, message: Message) -> Message:
        return _CudaUnregisterResponse()

    async def _register(self, call: Call, message: Message) -> Message:
        raise NotSupported(
            f"shared memory region '{message.name}' is refused: this server maps no memory of its clients; "
            "send tensors in raw_input_contents"
        )

    async def _trace_setting(self, call: Call, message: Message) -> Message:
        if message.model_name:
            self._models.find(message.model_name)
        return v2_grpc_control.render_trace_settings(message.settings)

    async def _log_settings(self, call: Call, message: Message) -> Message:
        return v2_grpc_control.render_log_settings(message.settings, log.getEffectiveLevel())


def _address(call: Call, message: Message) -> None:
    """Let a request to infer be for what the call's metadata name: `iris`, `p.pipeline`, `e.experiment`."""
    name = call.metadata[ADDRESS].removesuffix(".model")
    if message.model_name != name:
        message.model_name, message.model_version = name, ""


def _asked_about(call: Call, message: Message) -> tuple[str, str]:
    """Name and version that a call is about."""
    name = call.metadata.get(ADDRESS, message.name)
    return name, message.version if name == message.name else ""


def _render(served: Served, request: InferenceRequest, response: InferenceResponse, message: Message) -> Message:
    labels: Mapping[str, Sequence[str]] = EMPTY
    if request.outputs and served.signature is not None:
        labels = {spec.name: spec.labels for spec in served.signature.outputs if spec.labels}
    return v2_grpc.render(request, response, raw=v2_grpc.is_raw(message), labels=labels)


def _signature(served: Served) -> Signature:
    if served.signature is None:
        raise ModelNotReady(f"{served.describe()} has not said yet what it takes")
    return served.signature


def _infer(served: Served) -> Infer:
    if served.infer is None:
        raise ModelNotReady(f"{served.describe()} has just been unloaded")
    return served.infer
