"""Custom runtimes written for MLServer: any subclass of `mlserver.MLModel`, served as it is.

The module `mlserver` that such a class imports is our stand-in (`headrace.compat`) unless the original is installed.
`load` imports the class, the model's folder first, and constructs it with its ModelSettings; `begin` awaits the model's
own `load` on the loop on which its answers run, as what it makes there (sessions, locks, tasks) belongs to that loop;
`end` awaits its `unload` on the same loop. Requests and answers are whole ones (`mlserver_payloads`), and methods under
`custom_handler` are routes (`mlserver_routes`).

`Source.reference` is the class's dotted path (`models.MyModel`). `Source.parameters`, written by whoever reads the
folder: `settings`, the content of model-settings.json with the environment merged; `source`, that file's path;
`search_path`, folders that follow the model's own on the import path; `package`, `auto` (the original package where it
is installed) or `provided` (always ours).

What a runtime raises: `MLServerError` and FastAPI's `HTTPException` end the request with their status; a ValueError out
of a codec's decoding is the caller's mistake; anything else is the model's failure.
"""

from __future__ import annotations

import asyncio
import contextvars
import importlib
import inspect
import json
import logging
import sys
import threading
import types
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final

from headrace.errors import (
    HeadraceError,
    InvalidRequest,
    LoadFailed,
    ModelError,
    NotSupported,
    SettingsError,
    UnsafeArtifact,
)
from headrace.payload import (
    EMPTY,
    InferenceRequest,
    InferenceResponse,
    RouteRequest,
    RouteResponse,
    Signature,
    TensorSpec,
)
from headrace.runtimes.base import Recognition, Runtime, Source, Values, check_parameters, missing_extra
from headrace.runtimes.mlserver_payloads import Original, Payloads
from headrace.runtimes.mlserver_routes import Handler, Visitors
from headrace.runtimes.own_code import OwnCode

_log = logging.getLogger(__name__)
_PARAMETERS: Final = frozenset({"settings", "source", "search_path", "package"})
_PACKAGES: Final = ("auto", "provided")
_DECODING: Final = frozenset(
    {"decode", "decode_input", "decode_request", "decode_request_input", "decode_inference_request"}
)
"""The functions of `mlserver` that turn a caller's tensors into Python's values."""


class MlserverRuntime(Runtime):
    """An instance of a subclass of `mlserver.MLModel`."""

    extra: ClassVar[str] = "mlserver"
    whole: ClassVar[bool] = True
    is_async = True

    def __init__(self, source: Source) -> None:
        super().__init__(source)
        self._code: OwnCode | None = None
        self._package: _Package | None = None
        self._settings: Any = None
        self._given: dict[str, list[Any]] = {}
        self._model: Any = None
        self._payloads: Any = None
        self._predict: Callable[[Any], Any] | None = None
        self._visitors: Visitors | None = None
        self._begun = False
        self._warned_of_metrics = False

    @classmethod
    def recognise(cls, path: Path) -> Recognition | None:  # noqa: ARG003 - it claims none
        """Nothing: a folder is known by its model-settings.json, which names the runtime."""
        return None

    # -- loading --

    def load(self) -> Signature:
        """Import the class and construct it; its own `load` is `begin`'s to await.

        Raises:
            LoadFailed: there is no such module or class, or it is no MLModel; what its own code raises is chained.
            MissingExtra: pydantic, of which MLServer's classes are made, is not installed.
            UnsafeArtifact: the code comes from where nobody is trusted to run code.
            SettingsError: a parameter of the source is unknown or not what is expected.
        """
        reference, parameters = self.source.reference, self.source.parameters
        check_parameters(parameters, _PARAMETERS, runtime="mlserver")
        if self.source.allowed_globals is not None:
            raise UnsafeArtifact(
                f"{reference} is Python code, which the load policy refuses to run; if you trust whoever wrote it, "
                "set `load_policy: trusted`"
            )
        package = parameters.get("package", "auto")
        if package not in _PACKAGES:
            raise SettingsError(f"parameters of an mlserver model: package is {package!r}; expected auto or provided")
        self._package = _Package(always=package == "provided")
        source = str(parameters.get("source") or "")
        others = tuple(Path(each).absolute() for each in parameters.get("search_path", ()))
        self._code = OwnCode(Path(source).absolute().parent if source else None, others=others, fresh=True)
        with self._code.importable():
            settings = {"implementation": reference, **parameters.get("settings", {})}
            self._settings = self._package.settings(settings, source)
            self._given = self._tensors(self._settings)
            kind = self._package.find(reference, self._code)
            if self._package.ours:
                self._settings.implementation = kind  # whoever asks the settings for it gets this very class
            with self._package.context(self._settings):
                self._model = _tried(f"{reference} cannot be constructed", kind, self._settings)
        return self._describe()

    async def begin(self) -> Signature | None:
        """Await the model's `load`, and see what it then offers.

        Raises:
            LoadFailed: it raised, or answered that the model is not ready.
        """
        assert self._package is not None
        assert self._code is not None
        model, settings = self._model, self._settings
        self._begun = True
        try:
            ready = await self._code.run(self._in_context(model.load))
        except HeadraceError:
            raise
        except Exception as error:
            raise LoadFailed(f"{self.source.reference}.load: {_said(error)}") from error
        if not ready:
            raise LoadFailed(
                f"{self.source.reference}.load returned {ready!r}, so the model never becomes ready; it should return "
                "True"
            )
        model.ready = True
        base = self._package.model_class
        self._payloads = Payloads(self._package.types, self._package.build, settings.name)
        self._predict = model.predict if _overrides(model, base, "predict") else None
        self.streams = _overrides(model, base, "predict_stream")
        handlers = [
            Handler(handler.rest_method.upper(), handler.rest_path, method)
            for handler, method in self._package.handlers(model)
        ]
        if handlers:
            self._visitors = Visitors(handlers, self._package.error)
            self.routes = self._visitors.routes
        if not _overrides(model, base, "metadata"):
            return self._describe()
        try:
            return self._describe(await self._in_context(model.metadata))
        except Exception as error:
            raise LoadFailed(f"{self.source.reference}.metadata: {_said(error)}") from error

    async def end(self) -> None:
        """Await the model's `unload`."""
        if self._begun:
            self._begun = False
            await self._in_context(self._model.unload)

    def unload(self) -> None:
        """Forget the model and its code. Where nobody has awaited `end`, the model's `unload` runs here, on a loop of
        its own, as the one of its answers may be closed by now.
        """
        try:
            if self._begun:
                _run_apart(self.end)
        finally:
            code, self._code = self._code, None
            if self._model is not None:
                self.logged()  # what nobody has read by now must not be the next model's of this name
            self._model = self._predict = self._visitors = self._payloads = None
            if code is not None:
                code.forget()

    # -- answering --

    def predict(self, inputs: Values, outputs: Sequence[str] = (), parameters: Mapping[str, Any] = EMPTY) -> Any:
        """Never called: requests come whole, to `answer`."""
        raise NotSupported("a runtime written for MLServer takes whole requests")

    async def answer(self, request: InferenceRequest) -> InferenceResponse:
        """What the model's `predict` answers.

        Raises:
            NotSupported: it has `predict_stream` only.
            ModelError: it raised MLServerError or HTTPException, or answered no response.
            InvalidRequest: a codec could not decode an input.
        """
        predict, package = self._predict, self._package
        assert package is not None
        if predict is None:
            raise NotSupported(
                f"model '{self._settings.name}' has no predict"
                + ("; ask it by infer_stream, as it answers with streams only" if self.streams else "")
            )
        payloads = self._payloads
        try:
            with package.context(self._settings):
                response = predict(payloads.request(request))
                if not payloads.is_response(response) and inspect.isawaitable(response):
                    response = await response
        except Exception as error:
            self._translate(error)
            raise
        answer: InferenceResponse = payloads.response(response, request)
        return answer

    async def answer_stream(self, request: InferenceRequest) -> AsyncIterator[InferenceResponse]:
        """What the model's `predict_stream` yields, given the one request.

        Raises:
            As of `answer`.
        """
        assert self._package is not None
        payloads, context, settings = self._payloads, self._package.context, self._settings
        parts: Any = None
        try:
            with context(settings):
                parts = self._model.predict_stream(_once(payloads.request(request)))
                if inspect.isawaitable(parts):
                    parts = await parts
                parts = aiter(parts)
            while True:
                # In the model's context from one part to the next: between them this is the caller's.
                with context(settings):
                    try:
                        part = await anext(parts)
                    except StopAsyncIteration:
                        return
                yield payloads.response(part, request)
        except Exception as error:
            self._translate(error)
            raise
        finally:
            if hasattr(parts, "aclose"):
                await parts.aclose()

    async def visit(self, request: RouteRequest) -> RouteResponse:
        """Answer by the model's handler of that path; a streaming response comes whole."""
        assert self._visitors is not None
        assert self._package is not None
        with self._package.context(self._settings):
            return await self._visitors.visit(request)

    def logged(self) -> list[tuple[str, str, float]]:
        """What the model's code gave to `mlserver.log`; of the original package nothing, which is said once."""
        assert self._package is not None
        drain = getattr(self._package.metrics, "_drain", None)
        if drain is not None:
            return [*drain(self._settings)]
        if not self._warned_of_metrics and any(True for _ in self._package.metrics.REGISTRY.collect()):
            self._warned_of_metrics = True
            _log.warning(
                "model '%s' measures itself by mlserver.log, which the installed mlserver package keeps to itself; set "
                "`compat.mlserver_package: provided` to see its metrics",
                self._settings.name,
            )
        return []

    # -- parts --

    async def _in_context(self, method: Callable[[], Any]) -> Any:
        """Call a method of the model's life cycle, and await it where it waits."""
        assert self._package is not None
        with self._package.context(self._settings):
            result = method()
            return await result if inspect.isawaitable(result) else result

    def _translate(self, error: Exception) -> None:
        """Raise what the runtime meant by it; return where it meant nothing."""
        assert self._package is not None
        if isinstance(error, self._package.error):
            raise ModelError(str(error), status=_status(error), kind=_class(error)) from error
        web = sys.modules.get("starlette.exceptions")
        if web is not None and isinstance(error, web.HTTPException):
            detail = error.detail if isinstance(error.detail, str) else json.dumps(error.detail, default=str)
            raise ModelError(detail, status=_status(error), kind=_class(error)) from error
        if isinstance(error, (ValueError, OverflowError)) and _while_decoding(error):
            raise InvalidRequest(f"an input cannot be decoded: {error}") from error

    def _describe(self, metadata: Any = None) -> Signature:
        """What is known: of the model's own `metadata`, where it has one, else of itself."""
        model, settings = self._model, self._settings
        tagged = settings.parameters.content_type if settings.parameters is not None else None
        return Signature(
            objects=True,
            platform=(metadata or settings).platform or "mlserver",
            inputs=_specs((metadata or model).inputs),
            outputs=_specs((metadata or model).outputs),
            strict=False,
            batchable=settings.max_batch_size > 1 and settings.max_batch_time > 0,
            content_type=tagged or "",
            warnings=self._visitors.warnings if self._visitors is not None else (),
            properties={"class": self.source.reference},
            declared=self._stated(metadata),
        )

    def _stated(self, metadata: Any) -> dict[str, Any]:
        """What the model's code says of itself and its settings do not."""
        if metadata is not None:
            said = _plain(metadata)
            return {name: said.get(name) for name in ("platform", "versions", "inputs", "outputs", "parameters")}
        return {role: now for role, now in self._tensors(self._model).items() if now != self._given[role]}

    @staticmethod
    def _tensors(source: Any) -> dict[str, list[Any]]:
        """The inputs and outputs that a model, or its settings, tell of."""
        return {
            "inputs": [_plain(each) for each in source.inputs or ()],
            "outputs": [_plain(each) for each in source.outputs or ()],
        }


class _Package:
    """The parts of the package `mlserver` that are used, ours or the original's."""

    def __init__(self, *, always: bool) -> None:
        try:
            import pydantic  # noqa: F401 - the stand-in is made of its classes
        except ModuleNotFoundError as missing:
            raise missing_extra("pydantic", "mlserver", needed_by="a runtime written for MLServer") from missing
        from headrace import compat

        compat.provide(always=always)
        self.types = _imported("mlserver.types")
        self.ours = compat.provided()
        self.build = _imported("mlserver.types._build") if self.ours else Original(self.types)
        self.metrics = _imported("mlserver.metrics")
        self.model_class: type = _imported("mlserver").MLModel
        self.error: type[Exception] = _imported("mlserver.errors").MLServerError
        self.context: Callable[[Any], Any] = _imported("mlserver.context").model_context
        self.handlers: Callable[[Any], list[tuple[Any, Any]]] = _imported("mlserver.handlers").get_custom_handlers
        self._settings_class: Any = _imported("mlserver.settings").ModelSettings

    def settings(self, values: Mapping[str, Any], source: str) -> Any:
        """As ModelSettings that know which file they came from."""
        given = {**values, "_source": source} if source else {**values}
        return _tried("model settings are not valid", self._settings_class.model_validate, given)

    def find(self, reference: str, code: OwnCode) -> type:
        """The class of that dotted path."""
        name, _, attribute = reference.rpartition(".")
        if not name or not attribute:
            raise LoadFailed(f"implementation {reference!r} names no class; expected module.Class")
        try:
            module = code.module(name)
        except LoadFailed as error:
            raise _explained(reference, error) from error
        found = getattr(module, attribute, None)
        if not isinstance(found, type):
            known = ", ".join(self._classes_of(module)) or "none"
            raise LoadFailed(f"module {name} has no class {attribute!r}; its runtimes are: {known}")
        if not issubclass(found, self.model_class):
            raise LoadFailed(f"{reference} is no MLServer runtime; expected a subclass of mlserver.MLModel")
        return found

    def _classes_of(self, module: types.ModuleType) -> list[str]:
        return [
            name
            for name, each in vars(module).items()
            if isinstance(each, type) and issubclass(each, self.model_class) and each is not self.model_class
        ]


def _plain(said: Any) -> dict[str, Any]:
    """One of MLServer's values as JSON has it."""
    plain: dict[str, Any] = said.model_dump(mode="json", exclude_none=True)
    return plain


def _imported(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise LoadFailed(f"{name} cannot be imported: {error}") from error


def _explained(reference: str, error: LoadFailed) -> LoadFailed:
    """Where a package of MLServer's is missing, which one and what to do; else the error as it is."""
    missing = error.__cause__
    name = missing.name if isinstance(missing, ModuleNotFoundError) else None
    if name is None:
        return LoadFailed(str(error))
    package = name.partition(".")[0]
    if package.startswith("mlserver_"):
        return LoadFailed(
            f"{reference} builds on {name}, which is not installed; run: pip install {package.replace('_', '-')}"
        )
    return LoadFailed(str(error))


def _tried(what: str, work: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return work(*arguments)
    except HeadraceError:
        raise
    except Exception as error:
        raise LoadFailed(f"{what}: {_said(error)}") from error


def _said(error: BaseException) -> str:
    """Class and message, on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _overrides(model: Any, base: type, method: str) -> bool:
    """Whether it has a method of its own in place of the base's."""
    found = getattr(model, method)
    return getattr(found, "__func__", found) is not getattr(base, method)


def _status(error: Any) -> int:
    """The status that an error asks for; one that is no error's counts as the server's."""
    status = getattr(error, "status_code", None)
    return status if isinstance(status, int) and 400 <= status <= 599 else 500


def _while_decoding(error: BaseException) -> bool:
    """Whether it was raised while MLServer's own code decoded what the caller sent, whoever's codec it used."""
    step = error.__traceback__
    while step is not None:
        frame = step.tb_frame
        module = frame.f_globals.get("__name__", "")
        if module.partition(".")[0] == "mlserver" and frame.f_code.co_name in _DECODING:
            return True
        step = step.tb_next
    return False


def _specs(tensors: Any) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(
            name=each.name,
            datatype=str(getattr(each.datatype, "value", each.datatype)),
            shape=tuple(each.shape),
            content_type=(each.parameters.content_type or "") if each.parameters is not None else "",
        )
        for each in tensors or ()
    )


async def _once(payload: Any) -> AsyncIterator[Any]:
    yield payload


def _run_apart(work: Callable[[], Awaitable[None]]) -> None:
    """Run it on a loop of its own, in a thread where this one has a loop already."""

    async def whole() -> None:
        await work()

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        asyncio.run(whole())
        return
    failed: list[BaseException] = []

    def run() -> None:
        try:
            asyncio.run(whole())
        except BaseException as error:  # noqa: BLE001 - raised where it is waited for
            failed.append(error)

    thread = threading.Thread(target=contextvars.copy_context().run, args=(run,), name="headrace-unload")
    thread.start()
    thread.join()
    if failed:
        raise failed[0]


def _class(error: Exception) -> str:
    return f"{type(error).__module__}.{type(error).__qualname__}"
