"""`headrace.serve`: from a variable in a notebook, or a script, to a running server in one call; `headrace.fit_trust`:
from the same variable and its training data to a trust folder.

The server lives on an event loop of its own in a thread of its own, so it works where a loop already runs (Jupyter) and
where none does. Errors of loading and listening are raised to the caller.
"""

from __future__ import annotations

import asyncio
import concurrent.futures.thread
import contextlib
import logging
import os
import re
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

import msgspec

from headrace import settings as settings_
from headrace.app import App
from headrace.artifacts.uri import is_local
from headrace.client import Client
from headrace.errors import HeadraceError, SettingsError
from headrace.local.copies import Copies
from headrace.offline import OpenModel
from headrace.payload import EMPTY, Signature
from headrace.serving import build, discovery
from headrace.serving.digest import digest
from headrace.serving.loaded import Loaded
from headrace.serving.spec import ModelSpec, check_name, parse_yaml, render
from headrace.trust.spec import Guard

if TYPE_CHECKING:
    from headrace.trust.folder import Folder
    from headrace.trust.parts import Progress

_log = logging.getLogger(__name__)

_STOP_SECONDS: Final = 60.0
"""How long `stop` waits beyond the time that requests in flight are given."""

_running: Final[weakref.WeakSet[Server]] = weakref.WeakSet()
"""Servers that the end of the process must stop."""


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
        model: A fitted estimator or other object a runtime recognises; a path of a file or folder, a uri of a store or
            registry (`s3://...`, `models:/iris@champion`), or `module:Class`; or a mapping of names to these.
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
    if isinstance(model, Mapping) and name is not None:
        raise SettingsError(f"name={name!r} is for one model; a mapping of models names each by its key")
    flags = {"http.host": host, "http.port": port, "grpc.port": 0, "metrics.port": 0, **(settings or {})}
    quiet = settings_.Settings(log=settings_.LogSettings(level="warning"))
    loaded = settings_.load(quiet, "", os.environ, flags)
    copies = Copies(loaded.artifacts)
    models = {str(each): value for each, value in model.items()} if isinstance(model, Mapping) else {name: model}
    try:
        specs = [spec for each, value in models.items() for spec in _specs(value, each, overrides, copies)]
    except BaseException:
        copies.close()
        raise
    server = Server(loaded, specs, copies)
    try:
        server.start()
        if block:
            server.wait()
    except KeyboardInterrupt:
        server.stop()
        if not block:
            raise
    return server


def fit_trust(
    model: Any,
    X: Any,  # noqa: N803 - the name that its callers give it
    y: Any = None,
    *,
    unseen: Any = None,
    unseen_labels: Any = None,
    path: str | Path | None = None,
    labels: str = "",
    protected: Sequence[str] = (),
    favourable: str = "",
    categories: Sequence[str] = (),
    kind: str = "",
    task: str = "",
    detectors: Sequence[str] = (),
    explainers: Sequence[str] = (),
    window: Mapping[str, Any] = EMPTY,
    guards: Mapping[str, str] = EMPTY,
    detector_models: Mapping[str, str] = EMPTY,
    explainer_model: str = "",
    false_positive_rate: float = 0.01,
    alpha: float = 0.05,
    fold_seconds: float = 60.0,
    seed: int = 0,
    progress: Progress | None = None,
    **overrides: Any,
) -> Folder:
    """Fit what watches and explains a model, and write it as the model's trust folder: schema, reference rows,
    detectors with calibrated thresholds, explainers.

    Example:
        >>> folder = headrace.fit_trust("iris.joblib", X_train, y_train)  # doctest: +SKIP
        >>> [(each.name, each.false_positive_rate) for each in folder.detectors]  # doctest: +SKIP
        [('isolation-forest', 0.0), ('mahalanobis', 0.03), ...]

    Args:
        model: As for `serve`, one model.
        X: Training data: a DataFrame, an array (of images, `[n, ...]`), a list of texts, a mapping of columns, or the
            path of a file.
        y: Labels or targets; None: the column `labels`, or none.
        unseen: Rows that the model was not trained on, in the same forms: what it says of them, and not of rows that it
            knows, is what later answers are compared with. None: where X and y show that it was trained on them,
            clones of a scikit-learn model say what it would have answered; else the folder's card warns.
        unseen_labels: Their labels; None: the column `labels` of them, or none.
        path: Where the folder shall be; None: beside the model, where `headrace serve` finds it.
        labels: The column of X that holds the labels.
        protected: `sex=male`, `age>25`: who is compared with whom.
        favourable: The class that is good to get.
        categories: Columns of numbers that are categories.
        kind: `tabular`, `image`, `text` or `series`; empty: told by the model.
        task: `classification` or `regression`; empty: told by the model.
        detectors: `METHOD[:ON][,name=value...]`; none: those that fit the data.
        explainers: `METHOD[,name=value...]`; none: those that fit.
        window: When tests are made: `rows`, `min_rows`, `seconds`, `step`; see `trust.spec.Window`.
        guards: By detector of rows, `flag` or `reject`: it also looks before the model answers.
        detector_models: By detector: the name of a model that answers with its verdicts.
        explainer_model: The name of a model that answers with explanations, so that gRPC and pipelines explain.
        false_positive_rate: Which share of usual rows row detectors may call odd.
        alpha: How often drift tests may call a usual window drifted.
        fold_seconds: The most that clones may take, by the clock; 0: none are made.
        seed: Of all that is random.
        progress: Told of each step: what, how much is done, of how much.
        overrides: As for `serve`.

    Raises:
        InvalidRequest: the data cannot be read or does not fit the model, or a method cannot be fitted.
        SettingsError: an unknown field, several models, or a model in memory without `path`.
        LoadFailed: the model cannot be loaded, or the folder not be written.
        MissingExtra: a library is not installed.
    """
    from headrace.trust import fit, schema

    hints = {"data": kind, "task": task, "favourable": str(favourable)}
    for given, known in ((kind, ("tabular", "image", "text", "series")), (task, ("classification", "regression"))):
        if given and given not in known:
            raise SettingsError(f"{given!r} is not one of {', '.join(known)}")
    for detector, guard in guards.items():
        if guard not in {"off", "flag", "reject"}:
            raise SettingsError(f"guard of '{detector}': {guard!r} is not one of off, flag, reject")
    named = (("explainer_model", explainer_model), *(("detector_models", each) for each in detector_models.values()))
    for where, name in named:
        if name:
            check_name(name, where=where)
    options = fit.Options(
        hints=msgspec.convert({**hints, "protected": protected, "categories": categories}, schema.Hints),
        labels=labels,
        detectors=tuple(detectors),
        explainers=tuple(explainers),
        window=fit.window_of(window),
        guards=msgspec.convert(dict(guards), dict[str, Guard]),
        detector_models=dict(detector_models),
        explainer_model=explainer_model,
        fold_seconds=fold_seconds,
        false_positive_rate=false_positive_rate,
        alpha=alpha,
        seed=seed,
    )
    with _one(model, overrides) as spec:
        place = _trust_path(model, spec) if path is None else Path(path)
        with _asked(spec) as (loaded, ask):
            asked = fit.Model(
                ask=ask,
                signature=loaded.signature or Signature(platform=""),
                artifact=_artifact(spec),
                digest=digest(spec.path) if spec.path else "",
            )
            return fit.fit(
                place,
                X,
                y,
                model=asked,
                unseen=unseen,
                unseen_labels=unseen_labels,
                options=options,
                progress=progress,
            )


def _trust_path(model: Any, spec: ModelSpec) -> Path:
    """Beside the model, where the server looks."""
    if not isinstance(model, str | Path) or not (spec.path or spec.folder):
        raise SettingsError("a model in memory has no place of its own: say where its trust folder shall be by 'path'")
    given = Path(model).expanduser()
    if given.is_file():
        return given.parent / f"{given.stem}.trust"
    return (given if given.is_dir() else Path(spec.folder)) / "trust"


_WHITE_BOX: Final = frozenset({"sklearn", "xgboost", "lightgbm", "catboost"})
"""Runtimes whose models explainers can look into."""


def _artifact(spec: ModelSpec) -> Any:
    """The model itself, for explainers that look into it; None: there is nothing that they would know."""
    if spec.model is not None:
        return spec.model
    if spec.runtime not in _WHITE_BOX or not spec.path:
        return None
    from headrace.security import load_policy

    policy = spec.load_policy if spec.load_policy != "auto" else settings_.Settings().models.load_policy
    wanted = build.RuntimeSpec(
        name=spec.name,
        runtime=spec.runtime,
        path=spec.path,
        parameters=dict(spec.parameters),
        allowed_globals=load_policy.decide(Path(spec.path), policy),
    )
    runtime, _ = build.build(wanted)
    return getattr(runtime, "model", None)


@contextlib.contextmanager
def asked(model: Any) -> Iterator[tuple[Loaded, Any]]:
    """A model in memory, as `fit_trust` has it, and a function that asks it: inputs and the outputs wanted to outputs.

    Raises:
        SettingsError: there are several models.
        LoadFailed: it cannot be loaded.
    """
    with _one(model, {}) as spec, _asked(spec) as both:
        yield both


@contextlib.contextmanager
def _one(model: Any, overrides: Mapping[str, Any]) -> Iterator[ModelSpec]:
    """The one model that is meant; its copy stays while the body runs."""
    with contextlib.closing(Copies(settings_.load(settings_.Settings(), "", os.environ, {}).artifacts)) as copies:
        specs = _specs(model, None, overrides, copies)
        if len(specs) != 1:
            told = ", ".join(spec.describe() for spec in specs)
            raise SettingsError(f"{model} holds {len(specs)} models ({told}): name the path of the one that is meant")
        yield specs[0]


@contextlib.contextmanager
def _asked(spec: ModelSpec) -> Iterator[tuple[Loaded, Any]]:
    """The model in memory, without a server around it, and a plain function that asks it: inputs and the outputs
    wanted to outputs.
    """
    spec = msgspec.structs.replace(spec, optimize="off")
    with OpenModel(spec, settings={"models.optimize": "off"}, headers={"headrace-internal": "fit"}) as model:
        yield model.loaded, model.ask


class Server:
    """A running server: made by `serve`, stopped by `stop`, by leaving a `with` block, or at the end of the process."""

    def __init__(self, settings: settings_.Settings, specs: Sequence[ModelSpec], copies: Copies | None = None) -> None:
        self._settings, self._specs, self._copies = settings, list(specs), copies
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
        _running.add(self)

    def stop(self) -> None:
        """Let requests in flight end, unload the models, and close the ports. A second call does nothing."""
        _running.discard(self)
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
        app = App(self._settings, self._specs, copies=self._copies)
        try:
            await app.start()
            self.http_port, self.grpc_port, self.metrics_port = app.http_port, app.grpc_port, app.metrics_port
            started.set_result(None)
            await self._leave.wait()
        finally:
            await app.stop()


def _end() -> None:
    """Stop what still runs. A server that does not stop holds up neither the others nor the end of the process."""
    for server in list(_running):
        try:
            server.stop()
        except Exception:  # noqa: BLE001 - logged, and the next one is stopped
            _log.exception("%r did not stop well", server)


# `atexit` comes after pools of threads were closed, which stopping needs. The pools are closed from the same list, last
# registered first: hence the import of `concurrent.futures.thread` above.
threading._register_atexit(_end)  # type: ignore[attr-defined]  # noqa: SLF001 - there is no public name for it
os.register_at_fork(after_in_child=_running.clear)  # a child has the object, and not the thread that serves


def _specs(model: Any, name: str | None, overrides: Mapping[str, Any], copies: Copies) -> list[ModelSpec]:
    changes = parse_yaml(render(overrides), "headrace.serve")  # the same keys, forms and errors as beside a model
    own = {} if name is None else {"name": check_name(name, where="headrace.serve")}
    if not isinstance(model, str | Path):
        return [ModelSpec(**{"name": _name_of(model), "model": model, **changes, **own})]
    path = str(model)
    if not is_local(path):
        path = str(copies.path_of(path))
    specs = discovery.discover([path], overrides=changes)
    if own and len({spec.name for spec in specs}) > 1:
        raise SettingsError(f"name={name!r} is for one model, and {model} holds {len(specs)}")
    return [msgspec.structs.replace(spec, **own) for spec in specs]


def _name_of(model: Any) -> str:
    """A model's name from its class: `RandomForestClassifier` gives `random-forest-classifier`."""
    kind = model if isinstance(model, type) else type(model)
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", kind.__name__).strip("_").lower()
