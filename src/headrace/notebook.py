"""`headrace.serve`: from a variable in a notebook, or a script, to a running server in one call.

The server lives on an event loop of its own in a thread of its own, so it works where a loop already runs (Jupyter) and
where none does. Errors of loading and listening are raised to the caller.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import os
import re
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import msgspec

from headrace import settings as settings_
from headrace.app import App
from headrace.client import Client
from headrace.errors import HeadraceError, SettingsError
from headrace.serving import discovery
from headrace.serving.spec import ModelSpec, check_name, parse_yaml, render

_STOP_SECONDS: Final = 60.0
"""How long `stop` waits beyond the time that requests in flight are given."""


def serve(
    model: Any,
    *,
    name: str | None = None,
    block: bool = False,
    host: str = "127.0.0.1",
    port: int = 0,
    settings: Mapping[str, Any] | None = None,
    **overrides: Any,
) -> Server:
    """Serve a model, and return when it answers.

    Example:
        >>> server = headrace.serve(classifier)  # doctest: +SKIP
        >>> server.client.predict(X)  # doctest: +SKIP
        array([0, 1])
        >>> server.stop()  # doctest: +SKIP

    Args:
        model: A fitted estimator or other object a runtime recognises; a path of a file or folder, or `module:Class`;
            or a mapping of names to these.
        name: What the model is called in urls; default: from the class or the file. Not for a mapping, which has names.
        block: Stay here until Ctrl-C, as a script that only serves would.
        host: The address to listen on. `0.0.0.0` lets other machines ask.
        port: The port of REST; 0 takes a free one. gRPC and metrics take free ones unless `settings` says otherwise.
        settings: Any other setting by its key: `{"models.optimize": "off", "grpc.enabled": False}`.
        overrides: Keys of headrace.yaml, for every model given: `placement="process"`,
            `batching={"max_batch_size": 32}`.

    Raises:
        SettingsError: an unknown setting or field.
        LoadFailed: a model cannot be loaded.
        HeadraceError: a port is taken.
    """
    if isinstance(model, Mapping):
        if name is not None:
            raise SettingsError(f"name={name!r} is for one model; a mapping of models names each by its key")
        specs = [spec for each, value in model.items() for spec in _specs(value, str(each), overrides)]
    else:
        specs = _specs(model, name, overrides)
    flags = {"http.host": host, "http.port": port, "grpc.port": 0, "metrics.port": 0, **(settings or {})}
    quiet = settings_.Settings(log=settings_.LogSettings(level="warning"))
    server = Server(settings_.load(quiet, "", os.environ, flags), specs)
    try:
        server.start()
        if block:
            server.wait()
    except KeyboardInterrupt:
        server.stop()
        if not block:
            raise
    return server


class Server:
    """A running server: made by `serve`, stopped by `stop`, by leaving a `with` block, or at the end of the process."""

    def __init__(self, settings: settings_.Settings, specs: Sequence[ModelSpec]) -> None:
        self._settings, self._specs = settings, list(specs)
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._leave: asyncio.Event | None = None
        self._leaving = False
        self._ended: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._client: Client | None = None
        self.grpc_port: int | None = None
        self.http_port: int | None = None
        self.metrics_port: int | None = None

    def __repr__(self) -> str:
        names = ", ".join(self.models)
        return f"<headrace.Server {names} at {self.url}>" if self.running else f"<headrace.Server {names}, stopped>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def models(self) -> list[str]:
        """The names of the models, in the order they were given."""
        return list(dict.fromkeys(spec.name for spec in self._specs))

    @property
    def running(self) -> bool:
        """Whether it answers."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def url(self) -> str:
        """Where REST answers."""
        scheme = "https" if self._settings.http.tls_certificate else "http"
        host = self._settings.http.host
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "": "127.0.0.1"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104
        return f"{scheme}://{host}:{self.http_port}"

    @property
    def client(self) -> Client:
        """A client of this server; with one model, `client.predict(X)` means that model."""
        if self._client is None:
            self._client = Client(self.url, model=self.models[0] if len(self.models) == 1 else "")
        return self._client

    def start(self) -> None:
        """Load the models and listen. Raises what went wrong, and leaves nothing running then."""
        started: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._thread = threading.Thread(target=self._run, args=(started,), name="headrace", daemon=True)
        self._thread.start()
        try:
            started.result()
        except KeyboardInterrupt:
            raise  # it starts on: `stop` ends it
        except BaseException:
            self._thread.join()
            raise
        atexit.register(self.stop)

    def stop(self) -> None:
        """Let requests in flight end, unload the models, and close the ports. A second call does nothing."""
        atexit.unregister(self.stop)
        if self._thread is None:
            return
        if self._client is not None:
            self._client.close()
        self._leaving = True
        loop, leave = self._loop, self._leave
        if loop is not None and leave is not None and not loop.is_closed():
            loop.call_soon_threadsafe(leave.set)
        self._thread.join(self._settings.models.drain_seconds + _STOP_SECONDS)
        if self._thread.is_alive():
            raise HeadraceError(f"the server at {self.url} did not stop in time; it ends with this process")
        self._ended.result()

    def wait(self) -> None:
        """Stay until it ends: by `stop` from elsewhere, or by what ended it, which is raised."""
        self._ended.result()

    def _run(self, started: concurrent.futures.Future[None]) -> None:
        import uvloop

        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(self._serve(started))
        except BaseException as exc:  # noqa: BLE001 - raised where somebody waits: in the caller's thread
            if not started.done():
                started.set_exception(exc)
            self._ended.set_exception(exc)
        else:
            self._ended.set_result(None)

    async def _serve(self, started: concurrent.futures.Future[None]) -> None:
        self._loop, self._leave = asyncio.get_running_loop(), asyncio.Event()
        if self._leaving:  # asked to stop before there was a loop to tell
            self._leave.set()
        app = App(self._settings, self._specs)
        try:
            await app.start()
            self.http_port, self.grpc_port, self.metrics_port = app.http_port, app.grpc_port, app.metrics_port
            started.set_result(None)
            await self._leave.wait()
        finally:
            await app.stop()


def _specs(model: Any, name: str | None, overrides: Mapping[str, Any]) -> list[ModelSpec]:
    changes = parse_yaml(render(overrides), "headrace.serve")  # the same keys, forms and errors as beside a model
    own = {} if name is None else {"name": check_name(name, where="headrace.serve")}
    if not isinstance(model, str | Path):
        return [ModelSpec(**{"name": _name_of(model), "model": model, **changes, **own})]
    specs = discovery.discover([str(model)], overrides=changes)
    if own and len({spec.name for spec in specs}) > 1:
        raise SettingsError(f"name={name!r} is for one model, and {model} holds {len(specs)}")
    return [msgspec.structs.replace(spec, **own) for spec in specs]


def _name_of(model: Any) -> str:
    """A model's name from its class: `RandomForestClassifier` gives `random-forest-classifier`."""
    kind = model if isinstance(model, type) else type(model)
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", kind.__name__).strip("_").lower()
