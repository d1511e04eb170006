"""`compat.answers: mlserver`: the surfaces with MLServer's answers where ours differ, bug for bug. `app.py` chooses.

Everything that differs is a row of `SWITCHES`, from which the documents render their table. The classes here take the
place of `Rest` and `InferenceService` when the server is put together, so the usual path has no branch for them.
"""

from __future__ import annotations

import builtins
from collections.abc import Callable, Coroutine
from typing import Any, Final

import msgspec

from headrace.errors import (
    HeadraceError,
    InvalidRequest,
    ModelError,
    ModelNotFound,
    ModelNotReady,
    NotFound,
    RuntimeFailed,
)
from headrace.payload import InferenceRequest
from headrace.protocols import mlserver_schema, status
from headrace.server.grpc_connection import Call, Kind, Message, Method
from headrace.server.grpc_services import InferenceService
from headrace.server.http import TEXT, HttpReply, HttpRequest
from headrace.server.rest import Rest, Target
from headrace.serving.models import Models, Served, State


class Switch(msgspec.Struct, frozen=True):
    """One thing that `compat.answers: mlserver` changes."""

    name: str
    theirs: str
    """What MLServer 1.7.1 does, and we then too."""
    ours: str
    """What we do otherwise."""
    why: str
    """Why ours is the default."""


SWITCHES: Final[tuple[Switch, ...]] = (
    Switch(
        "REST: a body that breaks the schema",
        '422 `{"detail": [{"type", "loc", "msg", "input"}]}`',
        '400 `{"error": text}`',
        "One form for all errors, and one status for what is the caller's.",
    ),
    Switch(
        "REST: data that do not fill their shape",
        "500 with numpy's text",
        "400 that names the input, its shape and what came",
        "It is the caller's mistake: retries and alarms for 5xx would be wrong.",
    ),
    Switch(
        "REST: a path or method that is not there",
        '404 and 405 `{"detail": text}`, 405 also for OPTIONS and HEAD',
        '404 and 405 `{"error": text}`; OPTIONS lists the methods, HEAD is GET without the body',
        "One form for all errors; RFC 9110.",
    ),
    Switch(
        "REST: a model or server that is not ready",
        "400; server and model readiness without a body",
        "503, with the reason",
        "400 says that the caller is wrong, and load balancers do not retry it.",
    ),
    Switch(
        "REST and gRPC: a model that was unloaded",
        "404, NOT_FOUND: `Model m not found`; the index lists it",
        "503, UNAVAILABLE, as any model that is not ready",
        "It is known, and a load brings it back.",
    ),
    Switch(
        "REST: ready without any model",
        "200 as long as every model that is there is ready",
        "503 until every wanted model is",
        "A model that failed to load must not be promoted.",
    ),
    Switch(
        "REST: health, load and unload",
        "an empty body",
        "a JSON object that says what was done",
        "A person with curl sees an answer.",
    ),
    Switch(
        "REST: the index without a body, or with a flag that is none",
        "422",
        "all models; 400",
        "Other servers take no body for no wish.",
    ),
    Switch(
        "REST: an unknown model or version",
        "`Model nope not found`, `Model m with version v9 not found`",
        "names the nearest one, or the versions there are",
        "The text helps.",
    ),
    Switch(
        "REST and gRPC: an error of a model in a process",
        "the text begins with the path of its class: `mlserver.errors.InferenceError: ...`",
        "the text alone",
        "The class is no concern of the caller's.",
    ),
    Switch(
        "REST: another exception of a model in the server's own process",
        "500 text/plain `Internal Server Error`",
        '500 `{"error": text}` that names model and exception',
        "One form for all errors.",
    ),
    Switch(
        "REST: a stream that cannot start",
        "500 text/plain `Internal Server Error`, also for an unknown model",
        'the status and `{"error": text}` of any other request',
        "The caller learns what is wrong.",
    ),
    Switch(
        "REST: `/ping`, `/health`, `/version` and `/invocations`",
        "there while an MLflow model is loaded; `/ping` is always 200",
        "always there, for models of every runtime; `/ping` is 503 until the server is ready",
        "Containers are asked so, whatever they serve.",
    ),
    Switch(
        "REST: pages of other origins",
        "GET only, unless methods are set",
        "GET and POST",
        "A page that may not POST cannot infer.",
    ),
    Switch(
        "gRPC: states in the index",
        "`State.READY`",
        "`READY`",
        "The extension's own words.",
    ),
    Switch(
        "gRPC: a request without id",
        "answered without id and without the attributes `ce-id` and `ce-requestid`",
        "gets a UUID, as over REST",
        "Logs and traces need one.",
    ),
    Switch(
        "gRPC: whether an unknown model is ready",
        "UNKNOWN",
        "NOT_FOUND",
        "The other calls say so too.",
    ),
    Switch(
        "gRPC: an unknown model",
        "`Model nope with version  not found`",
        "names the nearest one",
        "The text is broken.",
    ),
    Switch(
        "gRPC: a model that is not ready",
        "INVALID_ARGUMENT",
        "UNAVAILABLE",
        "Clients retry UNAVAILABLE.",
    ),
    Switch(
        "gRPC: another exception of a model",
        "INTERNAL with the exception's text",
        "INTERNAL with the names of model and exception before it",
        "A text such as `0` says nothing.",
    ),
    Switch(
        "gRPC: data that do not fill their shape",
        "INTERNAL with numpy's text",
        "INVALID_ARGUMENT that names the input",
        "It is the caller's mistake.",
    ),
)
"""What the setting changes, in the order of the documents. Ids over gRPC are `routing.mlserver_answers`' (`faithful`);
the methods of other origins are `CORS_METHODS`; the rest is here.
"""

CORS_METHODS: Final = ("GET",)
"""What MLServer allows pages of other origins where its settings are silent."""


def table() -> str:
    """`SWITCHES` as a table in Markdown."""
    rows = [(each.name, each.theirs, each.ours, each.why) for each in SWITCHES]
    lines = [("What", "MLServer, and here with the setting", "Here by default", "Why"), ("---",) * 4, *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def _not_found(name: str, version: str) -> str:
    return f"Model {name} with version {version} not found" if version else f"Model {name} not found"


def _not_ready(name: str) -> str:
    return f"Model {name} is not ready yet."


# -- REST --


class _Faults(InvalidRequest):
    """A body that MLServer's schema refuses."""

    def __init__(self, faults: list[mlserver_schema.Fault]) -> None:
        super().__init__(str(faults))
        self.faults = faults


class _Misfit(RuntimeFailed):
    """Data that do not fill their shape, which MLServer takes for a failure of its own."""


_EMPTY: Final = b""


class MlserverRest(Rest):
    """The REST surface as MLServer 1.7.1 answers."""

    AS_MLSERVER = True

    def _parse_v2(self, request: HttpRequest, served: Served) -> InferenceRequest:
        try:
            return super()._parse_v2(request, served)
        except InvalidRequest as error:
            if "inference-header-content-length" in request.headers:
                raise  # binary tensors are beyond MLServer
            body = self._body(request)
            faults = mlserver_schema.of_request(body, request.headers.get("content-type", ""))
            if faults:
                raise _Faults(faults) from error
            text = mlserver_schema.misfit(body)
            if text:
                raise _Misfit(text) from error
            raise

    async def _infer_stream(self, request: HttpRequest, target: Target) -> HttpReply:
        try:
            return await super()._infer_stream(request, target)
        except _Faults:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, MLServer answers this
            self._failed(error, request, target)  # for the log
            return HttpReply(b"Internal Server Error", 500, TEXT)

    async def _live(self, request: HttpRequest, target: Target) -> HttpReply:
        return HttpReply(content_type=_EMPTY)

    async def _ready(self, request: HttpRequest, target: Target) -> HttpReply:
        ready = all(served.state is State.READY for served in self._models if not _is_gone(served))
        return HttpReply(status=200 if ready else 400, content_type=_EMPTY)

    async def _model_ready(self, request: HttpRequest, target: Target) -> HttpReply:
        served = self._models.find(target.name, target.version)
        if served.kind != "model":  # MLServer has none of these
            return await super()._model_ready(request, target)
        if _is_gone(served):
            raise ModelNotFound(target.name)
        ready = served.state is State.READY
        return HttpReply(status=200 if ready else 400, content_type=_EMPTY)

    async def _index(self, request: HttpRequest, target: Target) -> HttpReply:
        faults = mlserver_schema.of_index(self._body(request), request.headers.get("content-type", ""))
        if faults:
            raise _Faults(faults)
        return await super()._index(request, target)

    async def _load(self, request: HttpRequest, target: Target) -> HttpReply:
        await super()._load(request, target)
        return HttpReply(content_type=_EMPTY)

    async def _unload(self, request: HttpRequest, target: Target) -> HttpReply:
        await super()._unload(request, target)
        return HttpReply(content_type=_EMPTY)

    async def _unknown(self, request: HttpRequest, target: Target) -> HttpReply:
        return _detail(404, "Not Found")

    async def _wrong_method(self, request: HttpRequest, target: Target) -> HttpReply:
        return _detail(405, "Method Not Allowed", ((b"allow", target.allow.encode()),))

    async def _options(self, request: HttpRequest, target: Target) -> HttpReply:
        return await self._wrong_method(request, target)

    def _resolve(self, key: tuple[bytes, bytes]) -> Target:
        target = super()._resolve(key)
        if key[0] == b"HEAD" and not target.allow and target.route != "unknown" and target.claim is None:
            target = Target(self._wrong_method, target.route, target.name, allow="GET")
            self._targets[key] = target
        return target

    def _failed(self, error: Exception, request: HttpRequest, target: Target) -> HttpReply:
        reply = super()._failed(error, request, target)
        match error:
            case _Faults():
                return HttpReply(mlserver_schema.render(error.faults), 422)
            case _Misfit():
                return HttpReply(status.error_body(f"builtins.ValueError: {error}"), 500)
            case ModelNotFound():
                text = _not_found(target.name, target.version)
            case ModelNotReady() if target.claim is not None and _is_forgotten(self._models, target.name):
                return _detail(404, "Not Found")
            case ModelNotReady() if _is_forgotten(self._models, target.name, target.version):
                reply.status, text = 404, _not_found(target.name, target.version)
            case ModelNotReady():
                reply.status, text = 400, _not_ready(target.name)
            case RuntimeFailed():
                return self._raised(error, reply, target)
            case _:
                return reply
        reply.body = status.error_body(text)
        return reply

    def _raised(self, error: RuntimeFailed, reply: HttpReply, target: Target) -> HttpReply:
        """What a model raised: from a process with the path of its class before it, else with nothing at all."""
        in_process = _in_process(self._models, target.name, target.version)
        if not in_process and not isinstance(error, ModelError):
            return HttpReply(b"Internal Server Error", 500, TEXT)
        reply.body = status.error_body(_said(error, target.name, in_process=in_process))
        return reply


def _detail(code: int, text: str, headers: tuple[tuple[bytes, bytes], ...] = ()) -> HttpReply:
    return HttpReply(msgspec.json.encode({"detail": text}), code, headers=headers)


def _class_path(error: RuntimeFailed) -> str:
    """The path of the class that the model raised, as far as it is known: what the error says, or its cause."""
    if isinstance(error, ModelError) and error.kind:
        return error.kind
    cause = error.__cause__
    return "" if cause is None else f"{type(cause).__module__}.{type(cause).__qualname__}"


def _said(error: RuntimeFailed, name: str, *, in_process: bool) -> str:
    """What the model said, without the names that we put before it; from a process behind the path of its class."""
    text, path = str(error), _class_path(error)
    if not isinstance(error, ModelError):
        text = text.removeprefix(f"model '{name}': ")
        kind, colon, rest = text.partition(": ")
        if colon and kind.isidentifier():
            raised = getattr(builtins, kind, None)
            known = f"builtins.{kind}" if isinstance(raised, type) and issubclass(raised, BaseException) else kind
            text, path = rest, path or known
    return f"{path}: {text}" if in_process and path else text


def _is_gone(served: Served) -> bool:
    """Whether MLServer would have forgotten it: nobody has loaded it, or somebody has unloaded it."""
    return served.state is State.UNAVAILABLE and not served.wanted


def _is_forgotten(models: Models, name: str, version: str = "") -> bool:
    """Whether all of a model that was asked for is gone."""
    asked = [served for served in models.versions(name) if version in {"", served.version}]
    return bool(asked) and all(map(_is_gone, asked))


def _in_process(models: Models, name: str, version: str) -> bool:
    """Whether a model is in a process of its own."""
    return any(served.placement == "process" and version in {"", served.version} for served in models.versions(name))


# -- gRPC --

_Handler = Callable[[Call, Message], Coroutine[Any, Any, Message]]
_UNKNOWN: Final = 520
"""A status that no code stands for, so that gRPC says UNKNOWN."""


class MlserverService(InferenceService):
    """The gRPC calls as MLServer 1.7.1 answers."""

    def methods(self) -> dict[str, Method]:
        """The rows of the table, each behind the translation of its errors."""
        return {
            path: msgspec.structs.replace(row, handler=self._translated(row.handler)) if row.kind is Kind.UNARY else row
            for path, row in super().methods().items()
        }

    def _translated(self, handler: _Handler) -> _Handler:
        async def translated(call: Call, message: Message) -> Message:
            try:
                return await handler(call, message)
            except HeadraceError as error:
                raise self._theirs(error, message) from error

        return translated

    def _state(self, served: Served) -> str:
        return f"State.{served.state.value}"

    async def _model_ready(self, call: Call, message: Message) -> Message:
        try:
            return await super()._model_ready(call, message)
        except ModelNotFound as error:
            text = f"Unexpected <class 'mlserver.errors.ModelNotFound'>: {_told(message)}"
            raise ModelError(text, status=_UNKNOWN) from error

    async def _answer_in_stream(self, call: Call, message: Message, send: Any) -> None:
        try:
            await super()._answer_in_stream(call, message, send)
        except HeadraceError as error:
            raise self._theirs(error, message) from error

    def _theirs(self, error: HeadraceError, message: Message) -> HeadraceError:
        match error:
            case ModelNotFound():
                return NotFound(_told(message))
            case ModelNotReady() if _is_forgotten(self._models, _name(message), _version(message)):
                return NotFound(_told(message))
            case ModelNotReady():
                return InvalidRequest(_not_ready(_name(message)))
            case InvalidRequest():
                text = _misfit(message)
                return ModelError(text, status=500) if text else error
            case RuntimeFailed():
                name, version = _name(message), _version(message)
                said = _said(error, name, in_process=_in_process(self._models, name, version))
                return ModelError(said, status=error.status if isinstance(error, ModelError) else 500)
            case _:
                return error


def _name(message: Message) -> str:
    fields = message.DESCRIPTOR.fields_by_name
    return str(message.model_name if "model_name" in fields else message.name if "name" in fields else "")


def _version(message: Message) -> str:
    fields = message.DESCRIPTOR.fields_by_name
    return str(message.model_version if "model_version" in fields else message.version if "version" in fields else "")


def _told(message: Message) -> str:
    """Of an unknown model; the version stands there even where there is none."""
    fields = message.DESCRIPTOR.fields_by_name
    if "model_version" not in fields and "version" not in fields:
        return _not_found(_name(message), "")
    return f"Model {_name(message)} with version {_version(message)} not found"


def _misfit(message: Message) -> str:
    """What numpy says to the first typed tensor of a ModelInferRequest whose elements do not fill its shape."""
    if "raw_input_contents" not in message.DESCRIPTOR.fields_by_name or message.raw_input_contents:
        return ""
    for tensor in message.inputs:
        count = sum(len(values) for _, values in tensor.contents.ListFields())
        wanted = 1
        for size in tensor.shape:
            wanted *= size
        if count != wanted and tensor.datatype != "BYTES":
            shape = ",".join(map(str, tensor.shape)) + ("," if len(tensor.shape) == 1 else "")
            return f"cannot reshape array of size {count} into shape ({shape})"
    return ""
