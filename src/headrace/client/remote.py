"""A model on another server of the Open Inference Protocol, as an `Infer`: steps of pipelines and candidates of splits
that lie elsewhere are one. Whoever composes them makes it, and closes it.

    http://host:port[/prefix], https://...    REST; kept connections, tensors as bytes where the server says that it
                                              reads them (`binary_tensor_data` in its metadata), else as JSON
    grpc://host:port, grpcs://...             gRPC by grpcio (extra `grpc-client`), tensors raw

Nothing is opened before the first call. One `Remote` serves one event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

import msgspec

from headrace.client import http
from headrace.client.channel import Answer, Channel, NotConnected, Target, header_lines, header_value, target_of
from headrace.errors import (
    Conflict,
    DeadlineExceeded,
    HeadraceError,
    InvalidRequest,
    MissingExtra,
    ModelNotFound,
    ModelNotReady,
    NotSupported,
    Overloaded,
    RuntimeFailed,
    Temporary,
    TooLarge,
    Unreachable,
    located,
)
from headrace.payload import (
    EMPTY,
    InferenceRequest,
    InferenceResponse,
    Parameters,
    RequestedOutput,
    Signature,
    TensorSpec,
)
from headrace.protocols import v2_grpc, v2_rest

FORWARDED: Final = frozenset({"traceparent", "tracestate", "baggage", "x-request-id", "x-seldon-route"})
"""Headers of a caller that go on to the other server. An authorization does not: it was meant for this one."""
_RETURNED: Final = frozenset({"x-seldon-route"})
"""Headers of the answer that go back."""
VERSIONS: Final = "versions"
"""Property of a model on another server: its versions there."""
_BINARY: Final = frozenset({"binary_tensor_data", "binary_data"})
_PAUSE_SECONDS: Final = 0.05
"""Before the one more try of a server that refused the connection: it may be starting again."""
_READY_SECONDS: Final = 5.0
_JSON: Final = b"Content-Type: application/json\r\n"
_WIRE: Final = frozenset({"binary_data_output", "binary_data_size", "binary_data"})
"""Parameters that speak of the wire that the request came by."""


class Remote:
    """Asks one model of one server.

    Errors are those of an own model, by the status that the server gives, with the model and the address before its
    text: ModelNotFound, ModelNotReady, Overloaded, InvalidRequest, DeadlineExceeded, RuntimeFailed, NotSupported; and
    `client.Unreachable`, which is Temporary, where no server answers. A request is sent again only where the server
    cannot have seen it: the connection was refused (once), or a kept one had been closed meanwhile.
    """

    def __init__(
        self,
        url: str,
        *,
        model: str,
        version: str = "",
        timeout_seconds: float = 60.0,
        headers: Mapping[str, str] = EMPTY,
        max_in_flight: int = 64,
        max_waiting: int = 1024,
    ) -> None:
        """Store; nothing is opened.

        Args:
            url: Of the server, with the path that an ingress adds.
            model: Its name there.
            version: Its version there; empty: the default one.
            timeout_seconds: The longest that one request may take; its own deadline may be earlier.
            headers: Sent with every request, for example an authorization.
            max_in_flight: Requests that the server is asked at once, and so connections that are kept.
            max_waiting: Requests that may wait for their turn; more are refused as Overloaded.

        Raises:
            InvalidRequest: it is no URL of a server.
        """
        self.url, self.model, self.version = url, model, version
        scheme = urlsplit(url).scheme if "://" in url else "http"
        self._wire: _Wire
        if scheme in {"grpc", "grpcs"}:
            self._wire = _Grpc(url, model, version, headers)
        else:
            self._wire = _Rest(target_of(url), model, version, headers, timeout_seconds)
        self._timeout = timeout_seconds
        self._turns = asyncio.Semaphore(max_in_flight)
        self._waiting, self._max_waiting = 0, max_waiting
        self._inside = 0
        self._left: asyncio.Event | None = None  # set by close, for requests that are under way

    def __repr__(self) -> str:
        return f"Remote({self.url!r}, model={self.model!r})"

    async def infer(self, request: InferenceRequest) -> InferenceResponse:
        """The other model's answer. Raises as the class says."""
        left = self._timeout
        if request.deadline is not None:
            left = min(left, request.deadline - time.monotonic())
            if left <= 0:
                raise DeadlineExceeded(f"{self._place}: the deadline had passed before the request was sent")
        self._inside += 1
        try:
            while asyncio.current_task() is None:  # noqa: ASYNC110 - a request's first step has none yet; a time-out needs it
                await asyncio.sleep(0)
            async with asyncio.timeout(left):
                return await self._in_turn(request)
        except TimeoutError as exc:
            raise DeadlineExceeded(f"{self._place}: no answer within {left:.3g} seconds") from exc
        except HeadraceError as exc:
            raise located(exc, self._place) from exc
        finally:
            self._inside -= 1
            if self._left is not None and not self._inside:
                self._left.set()

    async def ready(self) -> bool:
        """Whether the server answers and says that the model is ready."""
        try:
            async with asyncio.timeout(min(self._timeout, _READY_SECONDS)):
                return await self._wire.ready()
        except (TimeoutError, Temporary, InvalidRequest, ModelNotFound):
            return False

    async def metadata(self) -> Signature:
        """What the other server says of the model: inputs, outputs, platform. Names and datatypes are not held against
        requests here; the other server does that. Raises as `infer` does.
        """
        try:
            async with asyncio.timeout(self._timeout):
                return await self._wire.metadata()
        except TimeoutError as exc:
            raise DeadlineExceeded(f"{self._place}: no metadata within {self._timeout:g} seconds") from exc
        except HeadraceError as exc:
            raise located(exc, self._place) from exc

    async def close(self, *, drain_seconds: float = 10.0) -> None:
        """Let the requests that are under way end, for that long at most, then close the connections. The remote may
        still be used.
        """
        if self._inside:
            self._left = asyncio.Event()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(drain_seconds):
                    await self._left.wait()
        await self._wire.close()

    @property
    def _place(self) -> str:
        return f"model '{self.model}' at {self.url}"

    async def _in_turn(self, request: InferenceRequest) -> InferenceResponse:
        if self._turns.locked():
            if self._waiting >= self._max_waiting:
                raise Overloaded(f"{self._waiting} requests wait for this server already")
            self._waiting += 1
            try:
                await self._turns.acquire()
            finally:
                self._waiting -= 1
        else:
            await self._turns.acquire()
        try:
            return await self._wire.infer(request)
        finally:
            self._turns.release()


class _Wire(Protocol):
    async def infer(self, request: InferenceRequest) -> InferenceResponse: ...

    async def ready(self) -> bool: ...

    async def metadata(self) -> Signature: ...

    async def close(self) -> None: ...


def _plain(parameters: Parameters) -> Parameters:
    """Without what speaks of another wire."""
    if not parameters or _WIRE.isdisjoint(parameters):
        return parameters
    return {name: value for name, value in parameters.items() if name not in _WIRE}


def _outgoing(request: InferenceRequest, model: str, version: str, *, binary: bool) -> InferenceRequest:
    parameters = _plain(request.parameters)
    outputs = request.outputs
    if any(output.parameters for output in outputs):
        outputs = tuple([RequestedOutput(output.name, _plain(output.parameters)) for output in outputs])
    return InferenceRequest(
        model_name=model,
        model_version=version,
        inputs=request.inputs,
        id=request.id,
        outputs=outputs,
        parameters={**parameters, "binary_data_output": True} if binary else parameters,
    )


def _parsed(response: InferenceResponse, headers: Mapping[str, str]) -> InferenceResponse:
    back = {name: headers[name] for name in _RETURNED if name in headers}
    return msgspec.structs.replace(response, headers=back) if back else response


def _signature(
    platform: str,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    properties: Mapping[str, Any],
    versions: Sequence[str],
) -> Signature:
    rows = bool(inputs and outputs) and all(spec.shape[:1] == (-1,) for spec in (*inputs, *outputs))
    known = {VERSIONS: ", ".join(versions)} if versions else {}
    return Signature(
        platform=platform or "remote",
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        strict=False,
        batchable=rows,
        properties=known | {name: str(value) for name, value in properties.items()},
    )


# -- REST --


class _Rest:
    def __init__(
        self, target: Target, model: str, version: str, headers: Mapping[str, str], timeout_seconds: float
    ) -> None:
        self._target, self._model, self._version = target, model, version
        self._path = http.model_path(model, version)
        self._headers, self._timeout = header_lines(headers), timeout_seconds
        self._idle: list[Channel] = []
        self._binary: bool | None = None
        self._asking: asyncio.Lock | None = None

    async def infer(self, request: InferenceRequest) -> InferenceResponse:
        binary = self._binary if self._binary is not None else await self._learn()
        rendered = v2_rest.render_request(_outgoing(request, self._model, self._version, binary=binary), binary=binary)
        headers = _JSON
        if rendered.header_length is not None:
            headers = (
                f"Content-Type: {rendered.content_type.decode()}\r\n"
                f"Inference-Header-Content-Length: {rendered.header_length}\r\n"
            ).encode()
        if request.headers and not FORWARDED.isdisjoint(request.headers):
            forwarded = {name: header_value(value) for name, value in request.headers.items() if name in FORWARDED}
            headers += header_lines(forwarded)
        answer = await self._exchange(f"{self._path}/infer", rendered.body, headers)
        length = answer.headers.get("inference-header-content-length")
        try:
            response = v2_rest.parse_response(
                answer.body, header_length=int(length) if length and length.isdecimal() else None
            )
        except InvalidRequest as exc:
            raise RuntimeFailed(f"the answer is no V2 inference response: {exc}") from exc
        return _parsed(response, answer.headers)

    async def ready(self) -> bool:
        await self._exchange(f"{self._path}/ready")
        return True

    async def metadata(self) -> Signature:
        known = http.metadata_of((await self._exchange(self._path)).body)
        return _signature(known.platform, known.inputs, known.outputs, known.properties, known.versions)

    async def close(self) -> None:
        while self._idle:
            self._idle.pop().close()

    async def _learn(self) -> bool:
        """Ask the server, once, whether it reads tensors as bytes."""
        if self._asking is None:
            self._asking = asyncio.Lock()
        async with self._asking:
            if self._binary is None:
                try:
                    said = msgspec.json.decode((await self._exchange("/v2")).body)
                except Temporary:
                    raise  # nothing has been learnt
                except (HeadraceError, msgspec.MsgspecError):
                    said = {}  # an ingress may let only the models' own paths through
                extensions = said.get("extensions") if isinstance(said, dict) else None
                self._binary = isinstance(extensions, list) and not _BINARY.isdisjoint(map(str, extensions))
        return self._binary

    async def _exchange(self, path: str, body: bytes | None = None, headers: bytes = b"") -> Answer:
        channel = (
            self._idle.pop()
            if self._idle
            else Channel(self._target, headers=self._headers, timeout_seconds=self._timeout)
        )
        try:
            try:
                answer = await self._send(channel, path, body, headers)
            except NotConnected:
                await asyncio.sleep(_PAUSE_SECONDS)
                answer = await self._send(channel, path, body, headers)
        finally:
            self._idle.append(channel)  # one whose connection broke opens another
        if answer.status >= 400:
            raise http.error_of(answer.status, answer.body, answer.headers, path)
        return answer

    @staticmethod
    async def _send(channel: Channel, path: str, body: bytes | None, headers: bytes) -> Answer:
        return await (channel.get(path) if body is None else channel.post(path, [body], headers))


# -- gRPC --

_SERVICE: Final = "/inference.GRPCInferenceService/"
_OF_CODE: Final[Mapping[int, type[HeadraceError]]] = {
    v2_grpc.INVALID_ARGUMENT: InvalidRequest,
    v2_grpc.NOT_FOUND: ModelNotFound,
    v2_grpc.UNIMPLEMENTED: NotSupported,
    v2_grpc.FAILED_PRECONDITION: Conflict,
    v2_grpc.DEADLINE_EXCEEDED: DeadlineExceeded,
    v2_grpc.UNAVAILABLE: ModelNotReady,
    7: InvalidRequest,  # PERMISSION_DENIED
    16: InvalidRequest,  # UNAUTHENTICATED
}
"""Our errors by the status codes that a server gives; any other is RuntimeFailed."""
_AWAY: Final = ("failed to connect", "connection refused", "dns resolution failed", "name resolution", "socket closed")
"""What grpcio says, in lower case, where no server has answered."""
_OPTIONS: Final = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 5000),
)


class _Grpc:
    def __init__(self, url: str, model: str, version: str, headers: Mapping[str, str]) -> None:
        parts = urlsplit(url)
        if not parts.netloc or parts.path.strip("/"):
            raise InvalidRequest(f"expected grpc://host:port without a path, got {url!r}")
        self._authority, self._secure = parts.netloc, parts.scheme == "grpcs"
        self._model, self._version = model, version
        self._headers = tuple((name.lower(), value) for name, value in headers.items())
        self._channel: Any = None
        self._calls: dict[str, Any] = {}

    async def infer(self, request: InferenceRequest) -> InferenceResponse:
        message = v2_grpc.render_request(_outgoing(request, self._model, self._version, binary=False))
        metadata = self._headers
        if request.headers and not FORWARDED.isdisjoint(request.headers):
            metadata += tuple((name, value) for name, value in request.headers.items() if name in FORWARDED)
        call = self._call("ModelInfer", v2_grpc.ModelInferResponse)(message, metadata=metadata)
        answer, came = await self._answered(call)
        try:
            return _parsed(v2_grpc.parse_response(answer), came)
        except InvalidRequest as exc:
            raise RuntimeFailed(f"the answer is no V2 inference response: {exc}") from exc

    async def ready(self) -> bool:
        request = v2_grpc.message_class("inference.ModelReadyRequest")(name=self._model, version=self._version)
        kind = v2_grpc.message_class("inference.ModelReadyResponse")
        answer, _ = await self._answered(self._call("ModelReady", kind)(request, metadata=self._headers))
        return bool(answer.ready)

    async def metadata(self) -> Signature:
        request = v2_grpc.message_class("inference.ModelMetadataRequest")(name=self._model, version=self._version)
        kind = v2_grpc.message_class("inference.ModelMetadataResponse")
        answer, _ = await self._answered(self._call("ModelMetadata", kind)(request, metadata=self._headers))
        inputs, outputs = [
            [TensorSpec(name=each.name, datatype=each.datatype, shape=tuple(each.shape)) for each in side]
            for side in (answer.inputs, answer.outputs)
        ]
        return _signature(answer.platform, inputs, outputs, dict(answer.properties), answer.versions)

    async def close(self) -> None:
        channel, self._channel = self._channel, None
        self._calls.clear()
        if channel is not None:
            await channel.close()

    def _call(self, method: str, answer: Any) -> Any:
        known = self._calls.get(method)
        if known is None:
            if self._channel is None:
                self._channel = self._connect()
            known = self._calls[method] = self._channel.unary_unary(
                _SERVICE + method,
                request_serializer=lambda message: message.SerializeToString(),
                response_deserializer=answer.FromString,
            )
        return known

    def _connect(self) -> Any:
        try:
            import grpc
        except ModuleNotFoundError as missing:
            raise MissingExtra(
                "a model behind grpc:// needs grpcio, which is not installed; run: pip install 'headrace[grpc-client]'"
            ) from missing
        if self._secure:
            return grpc.aio.secure_channel(self._authority, grpc.ssl_channel_credentials(), options=_OPTIONS)
        return grpc.aio.insecure_channel(self._authority, options=_OPTIONS)

    @staticmethod
    async def _answered(call: Any) -> tuple[Any, Mapping[str, str]]:
        """The message that a call gives, and the metadata that came with it."""
        import grpc

        try:
            answer = await call
            came = await call.initial_metadata()
        except grpc.aio.AioRpcError as error:
            raise _of_status(error.code().value[0], error.details() or error.code().name) from error
        return answer, {name: value for name, value in came if isinstance(value, str)}


def _of_status(code: int, text: str) -> HeadraceError:
    if code == v2_grpc.UNAVAILABLE and any(each in text.lower() for each in _AWAY):
        return Unreachable(text)
    if code == v2_grpc.RESOURCE_EXHAUSTED:
        return TooLarge(text) if "larger than" in text.lower() else Overloaded(text)
    return _OF_CODE.get(code, RuntimeFailed)(text)
