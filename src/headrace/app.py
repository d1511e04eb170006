"""The composition root: settings and models in, a running server out. The one module that knows every room.

`run` is what `headrace serve` calls; `App` is what `headrace.serve` runs on a loop of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import gc
import logging
import os
import signal
import socket
import ssl
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

import headrace
from headrace.brokers.base import library
from headrace.control.parse import File
from headrace.errors import LoadFailed, SettingsError
from headrace.local.backend import LocalBackend
from headrace.local.copies import Copies, Follower
from headrace.local.durable import Durables
from headrace.local.plane import Plane
from headrace.monitoring import logs
from headrace.monitoring.metrics import Metrics, ModelMetrics, measure
from headrace.monitoring.model_events import ModelEvents
from headrace.monitoring.tracing import Tracing
from headrace.payload import EMPTY, Infer, InferStream, Parameters, Route, Signature, Visit
from headrace.prepared import prepare, unless_set, writable
from headrace.protocols import v2_control
from headrace.routing import mlserver_answers
from headrace.routing.cache import Cache
from headrace.runtimes.base import UNCHECKED
from headrace.security.callers import Callers
from headrace.server.authentication import authenticated
from headrace.server.cors import Cors, CorsSettings
from headrace.server.grpc import GrpcServer
from headrace.server.grpc_services import InferenceService
from headrace.server.http import Handler, HttpLimits, HttpServer
from headrace.server.metrics import handler as metrics_handler
from headrace.server.metrics import timed
from headrace.server.mlserver import CORS_METHODS, MlserverRest, MlserverService
from headrace.server.rest import Rest, RestSettings
from headrace.serving import build
from headrace.serving.ahead import Lookout
from headrace.serving.discovery import Problem
from headrace.serving.engine import Engine, load_engine
from headrace.serving.explain import LoadedExplainer
from headrace.serving.loaded import Loaded
from headrace.serving.models import Explain, Models, Served, State
from headrace.serving.repository import Repository
from headrace.serving.residency import Residency
from headrace.serving.spec import EXPLAINER, ModelSpec
from headrace.settings import Settings
from headrace.trusted import Trusted

if TYPE_CHECKING:
    from headrace.brokers.settings import KafkaSettings
    from headrace.environments.prepare import Environments
    from headrace.server.kafka import KafkaServer

log = logging.getLogger(__name__)
_EVENTS_SECONDS = 5.0
"""What events that are still to be sent may take at a stop; the rest stays in the spool."""


class LoadedModel(msgspec.Struct, frozen=True):
    """A started engine as the repository wants it: counted."""

    engine: Engine
    infer: Infer
    infer_stream: InferStream | None
    warnings: tuple[str, ...]
    closed: Callable[[], Awaitable[None]]
    """Called once the engine is closed."""
    declared: Parameters = EMPTY
    """Metadata in the form of the model's dialect."""
    explain: Explain | None = None
    """What explains it."""

    @property
    def routes(self) -> tuple[Route, ...]:
        """Paths of the model's own."""
        return self.engine.routes

    @property
    def visit(self) -> Visit | None:
        """What answers them."""
        return self.engine.visit if self.engine.routes else None

    @property
    def signature(self) -> Signature:
        """What the model declares."""
        return self.engine.signature

    @property
    def pids(self) -> tuple[int, ...]:
        """Of the processes that it runs in."""
        return tuple(self.engine.pids)

    @property
    def placement(self) -> str:
        """Where it predicts."""
        return self.engine.placement

    async def close(self, drain_seconds: float) -> None:
        """Let what is in flight end, then unload."""
        await self.engine.close(drain_seconds)
        await self.closed()


class App:
    """One server: `start` opens it when every model is loaded, `stop` drains it."""

    def __init__(
        self,
        settings: Settings,
        specs: Sequence[ModelSpec],
        *,
        paths: Sequence[str] = (),
        defaults: Mapping[str, Any] = EMPTY,
        overrides: Mapping[str, Any] = EMPTY,
        problems: Sequence[Problem] = (),
        resources: Sequence[File] = (),
        copies: Copies | None = None,
    ) -> None:
        """Store what to serve.

        Args:
            settings: The server's.
            specs: The models.
            paths: Where the models were found, so that they can be found again; none for models in memory.
            defaults: Fields of every spec where nothing is said of the model itself, as discovery had them.
            overrides: Fields of every spec that hold over its own headrace.yaml, as discovery had them.
            problems: What was found and cannot be a model; the start-up policy decides what that means.
            resources: Manifests to apply at the start; `settings.control.enabled` with them.
            copies: What the paths that were uris stand for; `stop` closes it.
        """
        self._settings = settings
        self._specs, self._problems = list(specs), list(problems)
        aliases = settings.metrics.aliases
        self.models = Models()
        self.metrics = Metrics(
            mlserver_names=aliases in {"mlserver", "all"},
            kserve_names=aliases in {"kserve", "all"},
            seldon_server=settings.server.name if aliases in {"seldon", "all"} else "",
            rest_prefix=settings.metrics.rest_prefix,
        )
        self.http_port: int | None = None
        self.grpc_port: int | None = None
        self.metrics_port: int | None = None
        self._residency = Residency(
            self._load,
            memory_bytes=settings.models.memory_bytes,
            always=settings.control.enabled,
            max_parallel_loads=settings.models.max_parallel_loads,
            pids=lambda loaded: loaded.pids,
            changed=self._moved,
            witness=self.metrics.memory,
        )
        self._repository = Repository(
            models=self.models,
            load_engine=self._residency.load_engine,
            tune=self._residency.tune,
            paths=paths,
            defaults=defaults,
            overrides=overrides,
            startup_policy=settings.models.startup_policy,
            max_parallel_loads=settings.models.max_parallel_loads,
            watch_seconds=settings.models.watch_seconds,
            drain_seconds=settings.models.drain_seconds,
        )
        self._callers = _callers(settings)
        self._trusted = Trusted(
            settings,
            self.models,
            self._callers,
            load=self._load,
            guard_metrics=self.metrics.guards,
            trust_metrics=self.metrics.trust,
        )
        self._stopping = threading.Event()
        self._copies = copies or Copies(settings.artifacts)
        self._following: asyncio.Task[None] | None = None
        self._lookout = Lookout(self._again)
        self._http: HttpServer | None = None
        self._grpc: GrpcServer | None = None
        self._scrapes: HttpServer | None = None
        self._kafka: KafkaServer | None = None
        self._events = ModelEvents(
            settings.events, rows=self.models.versions, server=settings.server.name, kafka=settings.kafka
        )
        self.metrics.events = self._events.counts
        self._opening: asyncio.Task[Any] | None = None
        self._tracing: Tracing | None = None
        self._plane = self._plane_of(settings, resources) if settings.control.enabled else None

    async def start(self) -> None:
        """Listen, load, and return when the start-up policy is content.

        The listeners open first, so that health and the index tell the truth while models load.

        Whatever it raises, `stop` gives back what it took.

        Raises:
            LoadFailed: a model cannot be served, under the policy `fail`.
            SettingsError: a port is taken, or a TLS file cannot be used.
        """
        settings = self._settings
        if settings.models.optimize != "off" and not writable(settings.models.cache_path):
            log.warning(
                "models.cache_dir %s cannot be written: faster engines are looked for again at each start",
                settings.models.cache_path,
            )
        if settings.tracing.otlp_endpoint:
            self._tracing = Tracing(
                endpoint=settings.tracing.otlp_endpoint,
                sample_ratio=settings.tracing.sample_ratio,
                service_name=settings.server.name,
                protocol=settings.tracing.protocol,
            )
        self._events.open()
        self.models.listen(self._events.changed)
        self.models.complete = False
        await self._listen(settings)
        if self._plane is not None:
            with _taken(settings.control.host, settings.control.port, "control.port"):
                await self._plane.open()
        await asyncio.to_thread(build.prepare, [spec.runtime for spec in self._specs if spec.placement != "process"])
        await self._repository.start(self._specs, self._problems)
        if self._plane is not None:
            await self._plane.start()
        if settings.kafka.enabled:
            await self._listen_to_kafka(settings.kafka)
        control = self._plane.control if self._plane is not None else None
        follower = Follower(self._copies, self._repository, control, rolled_back=self._rolled_back)
        self._following = asyncio.create_task(follower.run(), name="follow uris")
        if settings.metrics.enabled:
            self._opening = asyncio.create_task(asyncio.to_thread(self.metrics.open))  # before the first scrape asks

    async def _listen(self, settings: Settings) -> None:
        host = settings.http.host
        limits = HttpLimits(
            max_body_bytes=settings.http.max_body_bytes,
            max_header_bytes=settings.http.max_header_bytes,
            max_connections=settings.http.max_connections,
            header_timeout_seconds=settings.http.header_timeout_seconds,
            idle_timeout_seconds=settings.http.idle_timeout_seconds,
            request_timeout_seconds=settings.http.request_timeout_seconds,
        )
        faithful = settings.compat.answers == "mlserver"
        rest = (MlserverRest if faithful else Rest)(
            self.models,
            self._repository,
            RestSettings(
                server_name=settings.server.name,
                server_version=settings.server.version or headrace.__version__,
                server_extensions=settings.server.extensions,
                root_path=settings.http.root_path,
                max_body_bytes=settings.http.max_body_bytes,
                compress=settings.http.compress,
                compress_min_bytes=settings.http.compress_min_bytes,
                access_log=settings.log.access,
                invocations_model=settings.http.invocations_model,
            ),
            statistics=self._statistics,
            counts=self.metrics.http,
            traces=self._tracing,
            trust=self._trusted.watch,
        )
        self._http = HttpServer(self._around(rest), limits=limits, refused=self.metrics.refused)
        with _taken(host, settings.http.port, "http.port"):
            self.http_port = await self._http.start(host, settings.http.port, tls=_tls(settings))
        if settings.grpc.enabled:
            self._grpc = GrpcServer(
                self.models,
                self._repository,
                name=settings.server.name,
                version=settings.server.version or headrace.__version__,
                extensions=settings.server.extensions,
                max_message_bytes=settings.grpc.max_message_bytes,
                request_timeout_seconds=settings.http.request_timeout_seconds,
                statistics=self._statistics,
                service=MlserverService if faithful else InferenceService,
                counts=self.metrics.grpc,
                traces=self._tracing,
                times=self.metrics.grpc_times,
                callers=self._callers,
            )
            with _taken(host, settings.grpc.port, "grpc.port"):
                self.grpc_port = await self._grpc.start(host, settings.grpc.port, ssl=_tls(settings))
        if settings.metrics.enabled:
            self._scrapes = HttpServer(
                metrics_handler(self._render_metrics, path=settings.metrics.path), limits=HttpLimits(max_body_bytes=1)
            )
            with _taken(host, settings.metrics.port, "metrics.port"):
                self.metrics_port = await self._scrapes.start(host, settings.metrics.port)

    async def _listen_to_kafka(self, settings: KafkaSettings) -> None:
        listener = library("headrace.server.kafka", needed_by="requests by Kafka")
        kafka: KafkaServer = listener.KafkaServer(self.models, settings, traces=self._tracing)
        self._kafka = kafka
        self.metrics.kafka.attach(settings.group, kafka.counts, lambda: kafka.reason)
        await kafka.start()

    async def load(self, spec: ModelSpec) -> LoadedModel:
        """Load one model as `start` would, and serve nothing: who called this asks it, and closes it.

        Raises:
            LoadFailed: it cannot be served.
            SettingsError: a setting of it is wrong.
        """
        loaded = await self._load(spec)
        if isinstance(loaded, LoadedExplainer):
            raise LoadFailed(f"{spec.describe()} explains another model; name that one")
        return loaded

    async def stop(self) -> None:
        """Accept nothing new, let what is in flight end, unload, close.

        Raises:
            ExceptionGroup: what did not end well; everything else has ended.
        """
        failures: list[Exception] = []
        for step in self._ending():
            try:
                await step
            except Exception as exc:  # noqa: BLE001 - raised below, when the others have ended
                failures.append(exc)
        if failures:
            raise ExceptionGroup("the server did not stop well", failures)

    def _ending(self) -> Iterator[Awaitable[Any]]:
        """What to wait for, one after the other; each begins when it is asked for."""
        self._stopping.set()
        self._copies.cancel()
        if self._following is not None:
            self._following.cancel()
            yield asyncio.wait({self._following})
        if self._plane is not None:
            yield self._plane.stop()
        grace = self._settings.models.drain_seconds
        if self._kafka is not None:
            yield self._kafka.stop(grace)
        listeners = [listener for listener in (self._http, self._grpc) if listener is not None]
        yield asyncio.gather(*(listener.stop(grace) for listener in listeners))
        yield self._lookout.close()
        if self._plane is not None:
            yield self._plane.close()
        yield self._repository.close()
        yield asyncio.to_thread(self._events.close, _EVENTS_SECONDS)
        yield self._residency.close()
        yield self._trusted.close()
        yield asyncio.to_thread(self._copies.close)
        if self._opening is not None:
            yield self._opening
        if self._scrapes is not None:
            yield self._scrapes.stop(1.0)
        if self._tracing is not None:
            yield asyncio.to_thread(self._tracing.close)

    @property
    def control_port(self) -> int | None:
        """Of the control API; None: it is off."""
        return self._plane.port if self._plane is not None else None

    # -- what the rooms below are given --

    def unready(self) -> list[tuple[str, str]]:
        """Resources that are not ready, as `pipeline/shop`, with the reason."""
        return self._plane.unready() if self._plane is not None else []

    def _plane_of(self, settings: Settings, resources: Sequence[File]) -> Plane:
        backend = LocalBackend(
            self.models,
            self._repository,
            self._residency,
            mirrors=settings.models.uri_mirrors,
            fetch=self._copies.path_of,
            memory_bytes=settings.models.memory_bytes,
            metric=self.metrics.value,
            counted=lambda key, version, infer: measure(infer, self.metrics.model(key, version)),
            forgotten=self.metrics.forget,
            gauges=self.metrics.traffic,
            settling=self._lookout.is_looking,
            load_policy=settings.models.load_policy,
            durables=Durables(settings.kafka, drain_seconds=settings.models.drain_seconds, metrics=self.metrics.kafka),
        )
        return Plane(
            settings.control,
            backend,
            self.models,
            taken=lambda: sorted({spec.name for spec in self._specs} | self._trusted.names(self._specs)),
            files=resources,
            max_parallel_loads=settings.models.max_parallel_loads,
            rolled_back=self._rolled_back,
        )

    def _rolled_back(self, model: str, version: str, stable: str, reason: str) -> None:
        self._events.rolled_back(model, version, to=stable, reason=reason)

    @functools.cached_property
    def _environments(self) -> Environments:
        from headrace.environments.prepare import Environments

        return Environments()

    def _moved(self, spec: ModelSpec, loaded: Loaded, failed: str = "") -> None:
        """A model left memory, came back or could not: the table says so, and its resource soon."""
        self._repository.refresh(spec, loaded, failed)
        if self._plane is not None:
            self._plane.moved(spec.name)

    async def _again(self, name: str, version: str) -> None:
        """A faster engine was found for a model; one that is not in memory takes it when it comes back."""
        if self._residency.is_resident(name, version):
            await self._repository.again(name, version)

    async def _load(self, spec: ModelSpec) -> LoadedModel | LoadedExplainer:
        """The load walk: what may it name, where does it run, is it warm; counted from the first request on."""
        if spec.runtime == EXPLAINER:
            return await self._trusted.explaining.load(spec, ask=self.models.asking, explain=self.models.explain)
        counted = self.metrics.model(spec.name, spec.version)
        started = time.monotonic()
        defaults = self._settings.models
        engine: Engine | None = None

        def changed(ready: bool, reason: str) -> None:
            served = self.models.find(spec.name, spec.version)
            if engine is not None and self._residency.stands_for(served.infer, infer):
                self.models.changed(served, State.READY if ready else State.UNAVAILABLE, reason)

        async def closed() -> None:
            if not any(
                served.infer is not None and served.state is not State.UNLOADING
                for served in self.models.versions(spec.name)
                if served.version == spec.version
            ):
                self.metrics.forget(spec.name, spec.version)
                await self._trusted.forget(spec)

        ready = await asyncio.to_thread(
            prepare, spec, self._settings, environments=lambda: self._environments, cancel=self._stopping
        )
        engine = await load_engine(
            ready.spec,
            model=spec.model,
            placement=unless_set(spec.placement, "auto", defaults.placement),
            replicas=unless_set(spec.replicas, 1, defaults.replicas),
            batching=spec.batching,
            warm_up=ready.warm_up,
            predict_timeout_seconds=unless_set(spec.predict_timeout_seconds, 60.0, defaults.predict_timeout_seconds),
            observer=counted,
            on_state=changed,
        )
        # Only a server stays long enough to look for a faster engine afterwards; `load` by itself does not.
        if self._http is not None and engine.signature.properties.get("engine.check") == UNCHECKED:
            self._lookout.add(msgspec.structs.replace(ready.spec, optimize="auto"))
        infer, stream = self._wrapped(spec, engine, counted)
        try:
            around = await self._trusted.around(spec, infer, bare=engine.infer, artifact=ready.spec)
        except BaseException:
            await engine.close(0.0)
            raise
        infer = measure(around.infer, counted)
        if stream is not None and not around.streams:
            stream = None
            guarded = "it streams, and what guards it looks at whole answers: a request for a stream gets one part"
            around = msgspec.structs.replace(around, warnings=(*around.warnings, guarded))
        counted.load_seconds = time.monotonic() - started
        declared = mlserver_answers.metadata(engine.signature) if spec.dialect == "mlserver" else EMPTY
        warnings = (*spec.warnings, *ready.warnings, *around.warnings)
        return LoadedModel(engine, infer, stream, warnings, closed, declared, around.explain)

    def _wrapped(self, spec: ModelSpec, engine: Engine, counted: ModelMetrics) -> tuple[Infer, InferStream | None]:
        """What stands next to a model, from the inside: cache, another server's form."""
        infer = engine.infer
        stream: InferStream | None = engine.infer_stream if engine.streams else None
        if spec.cache is not None:
            cache = Cache(
                infer,
                model=spec.name,
                version=spec.version,
                max_entries=spec.cache.max_entries,
                max_bytes=spec.cache.max_bytes,
                ttl_seconds=spec.cache.ttl_seconds,
            )
            counted.attach(cache)
            infer = cache.infer
        if spec.dialect == "mlserver":
            form: dict[str, Any] = {
                "model": spec.name,
                "version": spec.version,
                "server_name": self._settings.server.name,
                "namespace": mlserver_answers.namespace(),
                "signature": engine.signature,
                "whole": spec.runtime == "mlserver",
                "faithful": self._settings.compat.answers == "mlserver",
            }
            infer = mlserver_answers.answers(infer, **form)
            stream = mlserver_answers.answers_stream(stream, **form) if stream is not None else None
        counted.parallel = engine.placement == "process"
        return infer, stream

    def _around(self, rest: Rest) -> Handler:
        """The REST surface behind what only some settings ask for."""
        settings = self._settings
        handler: Handler = rest
        if self._callers is not None:
            handler = authenticated(handler, self._callers, root_path=settings.http.root_path)
        if self.metrics.rest_times is not None:
            handler = timed(
                handler,
                self.metrics.rest_times,
                root_path=settings.http.root_path,
                own=lambda: [route.path for served in self.models for route in served.routes],
            )
        methods = settings.http.cors_allow_methods
        if settings.compat.answers == "mlserver" and "http.cors_allow_methods" not in settings.origins:
            methods = CORS_METHODS
        cors = CorsSettings(
            allow_origins=settings.http.cors_allow_origins,
            allow_origin_regex=settings.http.cors_allow_origin_regex,
            allow_methods=methods,
            allow_headers=settings.http.cors_allow_headers,
            expose_headers=settings.http.cors_expose_headers,
            allow_credentials=settings.http.cors_allow_credentials,
            max_age_seconds=settings.http.cors_max_age_seconds,
        )
        return Cors(handler, cors) if cors.enabled else handler

    def _statistics(self, served: Served) -> v2_control.Statistics:
        counted = self.metrics.find(served.key, served.version) or ModelMetrics(served.key, served.version)
        hits, misses, _ = counted.cache_totals()
        return v2_control.Statistics(
            name=served.name,
            version=served.version,
            last_inference_ms=counted.last_inference_ms(),
            inference_count=counted.rows().total,
            execution_count=counted.predict.count(),
            success=v2_control.Duration(*counted.successes()),
            fail=v2_control.Duration(*counted.failures()),
            queue=v2_control.Duration(counted.executed_requests, counted.queue_ns),
            compute_infer=v2_control.Duration(counted.predict.count(), counted.predict.total),
            cache_hit=v2_control.Duration(hits, 0),
            cache_miss=v2_control.Duration(misses, 0),
            batches=tuple(
                v2_control.BatchStatistics(batch_size=rows, compute_infer=v2_control.Duration(count, nanoseconds))
                for rows, (count, nanoseconds) in sorted(counted.batches.items())
            ),
        )

    def _render_metrics(self) -> bytes:
        for served in self.models:
            counted = self.metrics.find(served.key, served.version)
            if counted is not None:
                counted.ready = served.state is State.READY
        return self.metrics.render()


def run(
    settings: Settings,
    specs: Sequence[ModelSpec],
    *,
    paths: Sequence[str] = (),
    defaults: Mapping[str, Any] = EMPTY,
    overrides: Mapping[str, Any] = EMPTY,
    problems: Sequence[Problem] = (),
    resources: Sequence[File] = (),
    copies: Copies | None = None,
    started: Callable[[App], None] | None = None,
) -> int:
    """Serve until SIGINT or SIGTERM, then drain. Blocks.

    Args:
        settings: The server's.
        specs: The models.
        paths: Where they were found.
        defaults: As for `App`.
        overrides: As for `App`.
        problems: As for `App`.
        resources: As for `App`.
        copies: As for `App`.
        started: Called once everything answers.

    Returns:
        The exit code: 0.

    Raises:
        LoadFailed: a model cannot be served, under the start-up policy `fail`.
        SettingsError: a port is taken, or a TLS file cannot be used.
    """
    import uvloop

    logs.configure(style=settings.log.format, level=settings.log.level, config=settings.log.config_file)

    async def serve() -> bool:
        """Whether everything that began has ended."""
        app = App(
            settings,
            specs,
            paths=paths,
            defaults=defaults,
            overrides=overrides,
            problems=problems,
            resources=resources,
            copies=copies,
        )
        loop = asyncio.get_running_loop()
        leave = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, leave.set)
        starting = loop.create_task(app.start())
        leaving = loop.create_task(leave.wait())
        try:
            await asyncio.wait({starting, leaving}, return_when=asyncio.FIRST_COMPLETED)
            loaded = starting.done()
            if loaded:
                starting.result()
                gc.collect()
                gc.freeze()  # libraries and models stay: walking them at each full collection would stop requests
                if started is not None:
                    started(app)
                await leaving
                log.info("stopping: requests in flight have %g s to end", settings.models.drain_seconds)
            else:
                log.info("stopping during the start")
        finally:
            leaving.cancel()
            starting.cancel()
            await asyncio.wait({starting, leaving})
            await app.stop()
        return loaded

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        ended = runner.run(serve())
    if not ended:
        # A load goes on in a thread, perhaps inside native code, which the interpreter's own end would pull away under
        # it and abort. Nothing is left that would need that end.
        logging.shutdown()
        os._exit(0)
    return 0


@contextlib.contextmanager
def _taken(host: str, port: int, key: str) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        where = exc.errno == errno.EADDRNOTAVAIL or isinstance(exc, socket.gaierror)
        todo = "set http.host to an address of this machine" if where else "choose another port"
        raise SettingsError(f"{key}: cannot listen on {host}:{port}: {exc.strerror or exc}; {todo}") from exc


def _callers(settings: Settings) -> Callers | None:
    """Who has a key; None: nobody needs one."""
    security = settings.security
    if security.keys_file:
        return Callers.read(Path(security.keys_file), require=security.require_key)
    if security.require_key:
        raise SettingsError("security.require_key is set, and security.keys_file is not: nobody could call")
    return None


def _tls(settings: Settings) -> ssl.SSLContext | None:
    """A context for one listener: each offers its own protocol to the client (ALPN)."""
    certificate, key = settings.http.tls_certificate, settings.http.tls_key
    if not certificate and not key:
        return None
    if not (certificate and key):
        raise SettingsError("http.tls_certificate and http.tls_key go together: set both, or none")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as exc:
        raise SettingsError(
            f"http.tls_certificate {certificate!r} with http.tls_key {key!r} cannot be used: {exc}"
        ) from exc
    return context
