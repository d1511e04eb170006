"""The REST surface: which path asks for what, and the walk of a request: *route, parse, await, render*.

`app.py` gives an instance to `HttpServer` as its handler. Paths become targets once and are remembered, but those of
the models' own routes (`model_routes`); errors turn into replies in one place (`_failed`), by `protocols.status`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from typing import Any, ClassVar, Final, Protocol
from urllib.parse import unquote

import msgspec

from headrace.errors import (
    HeadraceError,
    InvalidRequest,
    NotFound,
    NotSupported,
    Overloaded,
    UnsupportedEncoding,
    WorkerDied,
)
from headrace.monitoring import tracing
from headrace.monitoring.logs import request_id
from headrace.payload import InferenceRequest, InferenceResponse, InferStream
from headrace.protocols import openapi, routing_feedback, status, v1, v2_control, v2_rest
from headrace.routing import sticky
from headrace.server import compression, model_routes, results, trust
from headrace.server.answer_headers import fields_of
from headrace.server.deployments import Deployments, give
from headrace.server.http import HttpReply, HttpRequest
from headrace.server.inference_graph import Graphs
from headrace.server.invocations import Invocations
from headrace.server.trust import Trust, TrustSurface
from headrace.serving.models import Kind, Models, Served, State

log = logging.getLogger(__name__)
access = logging.getLogger("headrace.access")

_TARGETS_KEPT: Final = 4096
_OFF_LOOP_BYTES: Final = 256 << 10
"""Bodies above this are compressed in a thread: below it, the hand-over costs as much as the work."""
_ADDRESSED: Final = ("/v2/models/{", "/v1/models/{", "/v2/pipelines/{", "/v2/experiments/{")
"""Routes whose name the header `seldon-model` overrides, as it does behind Seldon Core's ingress."""
_V1_STATES: Final[Mapping[State, str]] = {
    State.UNKNOWN: "START",
    State.LOADING: "LOADING",
    State.READY: "AVAILABLE",
    State.UNLOADING: "UNLOADING",
    State.UNAVAILABLE: "END",
}
EVENTS: Final = b"text/event-stream; charset=utf-8"
HTML: Final = b"text/html; charset=utf-8"


class Repository(Protocol):
    """What loads and unloads (`serving.repository`)."""

    async def load(self, name: str, parameters: Mapping[str, Any]) -> None:
        """Load or reload a model of the repository."""

    async def unload(self, name: str, *, unload_dependents: bool = False) -> None:
        """Take a model out of service."""


class RestSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What the REST surface may be told."""

    server_name: str = "headrace"
    server_version: str = ""
    server_extensions: tuple[str, ...] = ()
    """Named in server metadata beside those that are built in."""
    root_path: str = ""
    """What a proxy puts before every path; stripped where it is there, and shown in the documents."""
    max_body_bytes: int = 64 << 20
    compress: bool = True
    """Whether answers are compressed at all."""
    compress_min_bytes: int = 4096
    """Answers from this size on are compressed for callers that accept it."""
    access_log: bool = False
    invocations_model: str = ""
    """Whom `POST /invocations` asks where several models are served and the caller names none; empty: nobody."""


class Target(msgspec.Struct, frozen=True):
    """What a path asks for."""

    call: Callable[[HttpRequest, Target], Awaitable[HttpReply]]
    route: str
    """The path with its variable parts named: the label in metrics."""
    name: str = ""
    version: str = ""
    allow: str = ""
    """For a method that is not the path's: those that are."""
    well: tuple[str, str, int] = ("", "", 200)
    """What a request that is answered well counts as: route, method, status."""
    claim: model_routes.Claim | None = None
    """For a path of a model's own: whose, and which."""
    path: str = ""
    """The same path as the model calls it, with the query."""


_Found = tuple[dict[str, Any], str, str, str]
"""What a path asks for: calls by method, route, name, version."""


class Rest:
    """Answers V2 (Open Inference Protocol with its extensions), V1, documents and health."""

    AS_MLSERVER: ClassVar[bool] = False
    """Whether MLServer's answers count where ours differ."""

    def __init__(
        self,
        models: Models,
        repository: Repository,
        settings: RestSettings,
        *,
        statistics: Callable[[Served], v2_control.Statistics],
        counts: dict[tuple[str, str, int], int],
        traces: tracing.Tracing | None = None,
        trust: TrustSurface | None = None,
    ) -> None:
        self._models, self._repository, self._settings = models, repository, settings
        self._statistics, self._counts, self._traces = statistics, counts, traces
        self._targets: dict[tuple[bytes, bytes], Target] = {}
        self._root = settings.root_path.rstrip("/")
        self._warned: set[tuple[str, ...]] = set()
        self._trust = Trust(models, trust, parse=self._parse_v2, body=self._body, root=self._root)
        self._deployments = Deployments(
            models,
            body=self._body,
            failed=self._failed,
            label=self._trust.label,
            own={
                "infer": self._infer,
                "infer_stream": self._infer_stream,
                "predict": self._v1_predict,
                "explain": self._trust.explain,
                "explain_v1": self._trust.explain_v1,
                "metadata": self._metadata,
                "ready": self._model_ready,
            },
        )
        self._graphs = Graphs(models, body=self._body, failed=self._failed, unknown=self._unknown)
        self._invocations = Invocations(
            models,
            body=self._body,
            failed=self._failed,
            version=settings.server_version,
            default=settings.invocations_model,
            as_mlserver=self.AS_MLSERVER,
        )

    async def __call__(self, request: HttpRequest) -> HttpReply:
        """Answer one request; never raises but for cancellation."""
        key = (request.method, request.target)
        target = self._targets.get(key)
        if target is None:
            target = self._resolve(key)
        headers = request.headers
        if "seldon-model" in headers:
            target = _addressed(target, headers["seldon-model"])
        if "x-request-id" in headers:
            request_id.set(headers["x-request-id"])  # a handler has a context of its own, so nobody else sees it
        started = time.perf_counter() if self._settings.access_log else 0.0
        try:
            reply = await target.call(request, target)
        except Exception as error:  # noqa: BLE001 - the one place where errors become replies
            reply = self._failed(error, request, target)
        if "accept-encoding" in headers and len(reply.body) >= self._settings.compress_min_bytes:
            await self._compress(reply, headers["accept-encoding"])
        if "x-request-id" in headers:
            reply.headers = (*reply.headers, (b"x-request-id", headers["x-request-id"].encode("latin-1")))
        if "traceparent" in headers and self._traces is None:
            context = tracing.parse(headers["traceparent"])
            if context is not None:
                reply.headers = (*reply.headers, (b"traceparent", context.child().render().encode()))
        counted = target.well if reply.status == 200 else (target.route, request.method.decode("latin-1"), reply.status)
        self._counts[counted] = self._counts.get(counted, 0) + 1
        if self._settings.access_log:
            _log_access(request, reply.status, time.perf_counter() - started)
        return reply

    # -- inference --

    async def _infer(self, request: HttpRequest, target: Target) -> HttpReply:
        if self._traces is not None:
            return await self._infer_traced(self._traces, request, target)
        served = self._models.route(target.name, target.version)
        inference = self._parse_v2(request, served)
        if "prefer" in request.headers and served.results is not None and results.is_async(request.headers):
            return await results.accept(served, served.results, inference, root=self._root)
        return _v2_reply(served, inference, await served.infer(inference))  # type: ignore[misc]  # set while READY

    async def _result(self, request: HttpRequest, target: Target) -> HttpReply:
        return await results.result(self._models, target.name, request)

    async def _infer_traced(self, traces: tracing.Tracing, request: HttpRequest, target: Target) -> HttpReply:
        """The same walk, with a span for each step that the server takes itself."""
        trace = traces.begin("infer", request.headers, {"model": target.name, "http.route": target.route})
        error = ""
        try:
            started = time.time_ns()
            served = self._models.route(target.name, target.version)
            inference = msgspec.structs.replace(self._parse_v2(request, served), trace=trace)
            trace.record("parse", started, time.time_ns())
            if "prefer" in request.headers and served.results is not None and results.is_async(request.headers):
                return await results.accept(served, served.results, inference, root=self._root)
            response = await served.infer(inference)  # type: ignore[misc]  # set while READY
            started = time.time_ns()
            reply = _v2_reply(served, inference, response)
            trace.record("render", started, time.time_ns())
            reply.headers = (*reply.headers, (b"traceparent", trace.context.render().encode()))
        except BaseException as exc:
            error = type(exc).__name__
            raise
        finally:
            trace.finish(error)
        return reply

    def _parse_v2(self, request: HttpRequest, served: Served) -> InferenceRequest:
        headers = request.headers
        body = request.body
        if "content-encoding" in headers:
            body = compression.decompress(body, headers["content-encoding"], limit=self._settings.max_body_bytes)
        length = headers.get("inference-header-content-length")
        inference = v2_rest.parse(
            body,
            model_name=served.name,
            model_version=served.version,
            header_length=None if length is None else _header_length(length),
            signature=served.signature,
            headers=headers,
            deadline=request.deadline,
        )
        if "timeout" in inference.parameters:
            inference = _sooner(inference, request.deadline)
            request.deadline = inference.deadline or request.deadline
        return inference

    async def _infer_stream(self, request: HttpRequest, target: Target) -> HttpReply:
        """Server-sent events, one response each; a model that does not stream answers with one."""
        served = self._models.route(target.name, target.version)
        inference = self._parse_v2(request, served)
        stream = served.infer_stream or _once(served)
        responses = stream(inference)
        first = await anext(aiter(responses), None)  # an error before the first answer still has a status of its own
        headers = fields_of(first) if first is not None and first.headers and served.kind != "model" else ()
        return HttpReply(content_type=EVENTS, headers=headers, stream=_events(served, inference, first, responses))

    async def _v1_predict(self, request: HttpRequest, target: Target) -> HttpReply:
        served = self._models.route(target.name, target.version)
        body = self._body(request)
        inference = v1.parse(
            body,
            model_name=served.name,
            model_version=served.version,
            signature=served.signature,
            headers=request.headers,
            deadline=request.deadline,
        )
        response = await served.infer(inference)  # type: ignore[misc]  # set while READY
        return HttpReply(v1.render(inference, response), headers=fields_of(response))

    def _body(self, request: HttpRequest) -> bytes:
        encoding = request.headers.get("content-encoding")
        if encoding is None:
            return request.body
        return compression.decompress(request.body, encoding, limit=self._settings.max_body_bytes)

    # -- health and metadata --

    async def _alive(self, request: HttpRequest, target: Target) -> HttpReply:
        return HttpReply(b'{"status":"alive"}')

    async def _live(self, request: HttpRequest, target: Target) -> HttpReply:
        return HttpReply(v2_control.render_live(live=True))

    async def _ready(self, request: HttpRequest, target: Target) -> HttpReply:
        ready = self._models.is_ready()
        return HttpReply(v2_control.render_ready(ready=ready), 200 if ready else 503)

    async def _server_metadata(self, request: HttpRequest, target: Target) -> HttpReply:
        settings = self._settings
        return HttpReply(
            v2_control.render_server(settings.server_name, settings.server_version, settings.server_extensions)
        )

    async def _models_list(self, request: HttpRequest, target: Target) -> HttpReply:
        return HttpReply(v1.render_models(sorted({served.key for served in self._models})))

    async def _metadata(self, request: HttpRequest, target: Target) -> HttpReply:
        served = self._models.route(target.name, target.version)
        versions = [other.version for other in self._models.versions(served.key) if other.version]
        return HttpReply(
            v2_control.render_metadata(
                served.name,
                versions,
                served.signature,
                placement=served.placement,
                declared=served.declared,
                warnings=served.warnings,
                complete=served.dialect == "mlserver",
            )
        )

    async def _model_ready(self, request: HttpRequest, target: Target) -> HttpReply:
        served = self._models.find(target.name, target.version)
        ready = served.state is State.READY
        if not ready and served.kind != "model":  # as Seldon Core: what it is made of is to blame
            reason = served.reason or served.state.lower()
            return HttpReply(status.error_body(f"{served.describe()} is not ready: {reason}"), 424)
        return HttpReply(v2_control.render_model_ready(served.name, ready=ready), 200 if ready else 503)

    async def _config(self, request: HttpRequest, target: Target) -> HttpReply:
        served = self._models.route(target.name, target.version)
        return HttpReply(v2_control.render_config(served.name, served.signature))

    async def _stats(self, request: HttpRequest, target: Target) -> HttpReply:
        if not target.name:
            chosen = [each for each in self._models if each.state is State.READY and each.kind == "model"]
        elif target.version:
            chosen = [self._models.find(target.name, target.version)]
        else:
            self._models.find(target.name)
            chosen = self._models.versions(target.name)
        return HttpReply(v2_control.render_statistics([self._statistics(served) for served in chosen]))

    async def _v1_model(self, request: HttpRequest, target: Target) -> HttpReply:
        served = self._models.find(target.name, target.version)
        ready = served.state is State.READY
        chosen = [served] if target.version else self._models.versions(served.key)
        versions = [v1.VersionStatus(each.version, _V1_STATES[each.state], each.reason) for each in chosen]
        return HttpReply(v1.render_status(served.name, versions, ready=ready), 200 if ready else 503)

    # -- model repository --

    async def _index(self, request: HttpRequest, target: Target) -> HttpReply:
        ready_only = v2_control.parse_index(self._body(request))
        entries = [
            v2_control.IndexEntry(served.key, served.version, served.state.value, served.reason)
            for served in self._models
            if served.state is State.READY or not ready_only
        ]
        return HttpReply(v2_control.render_index(entries))

    async def _load(self, request: HttpRequest, target: Target) -> HttpReply:
        await self._repository.load(target.name, v2_control.parse_load(self._body(request)))
        return HttpReply(v2_control.render_loaded(target.name))

    async def _unload(self, request: HttpRequest, target: Target) -> HttpReply:
        unload_dependents = v2_control.parse_unload(self._body(request))
        await self._repository.unload(target.name, unload_dependents=unload_dependents)
        return HttpReply(v2_control.render_unloaded(target.name))

    # -- pipelines and experiments --

    async def _made_list(self, request: HttpRequest, target: Target) -> HttpReply:
        """The names of all of one kind, which the target's name is."""
        names = sorted({served.name for served in self._models if served.kind == target.name})
        return HttpReply(msgspec.json.encode({f"{target.name}s": names}))

    async def _feedback(self, request: HttpRequest, target: Target) -> HttpReply:
        """A reward for routers that learn, what was true for what watches models, or both."""
        body = self._body(request)
        taken = b""
        if trust.says_reward(body):
            served = self._models.route(target.name, target.version)
            feedback = routing_feedback.parse(
                body, model_name=served.name, signature=served.signature, headers=request.headers
            )
            give(served, feedback.routing, feedback.reward, feedback.request)
            taken = routing_feedback.render_taken(served.name)
            if not self._trust.is_there:
                return HttpReply(taken)
        if trust.says_labels(body):
            answer = await self._trust.labels(body, target)
            taken = taken or answer
        return HttpReply(taken)

    # -- documents --

    def _documented(self, target: Target) -> list[Served]:
        return [self._models.find(target.name, target.version)] if target.name else list(self._models)

    async def _document(self, request: HttpRequest, target: Target) -> HttpReply:
        served = self._documented(target)
        document = openapi.document(
            [(each.key, each.signature) for each in served],
            base=self._root,
            own=[(each.key, route) for each in served for route in each.routes],
            scoring=not target.name and self._invocations.is_there,
        )
        return HttpReply(msgspec.json.encode(document))

    async def _page(self, request: HttpRequest, target: Target) -> HttpReply:
        self._documented(target)
        title = f"{self._settings.server_name}: {target.name or 'all models'}"
        url = f"/v2/models/{target.name}/docs/dataplane.json" if target.name else "/openapi.json"
        if target.version:
            url = f"/v2/models/{target.name}/versions/{target.version}/docs/dataplane.json"
        return HttpReply(openapi.page(title, self._root + url), content_type=HTML)

    # -- the models' own routes --

    async def _visit(self, request: HttpRequest, target: Target) -> HttpReply:
        if target.claim is None:
            return await self._unknown(request, target)
        return await model_routes.visit(target.claim, request, target=target.path, body=self._body(request))

    # -- paths and errors --

    async def _unknown(self, request: HttpRequest, target: Target) -> HttpReply:
        raise NotFound(f"no such path: {request.target.decode('latin-1')}; GET /openapi.json lists all")

    async def _wrong_method(self, request: HttpRequest, target: Target) -> HttpReply:
        text = f"method {request.method.decode('latin-1')} is not for this path; use {target.allow}"
        return HttpReply(status.error_body(text), 405, headers=((b"allow", target.allow.encode()),))

    async def _options(self, request: HttpRequest, target: Target) -> HttpReply:
        """What a path can be asked, for who asks before asking (RFC 9110, section 9.3.7)."""
        return HttpReply(status=204, content_type=b"", headers=((b"allow", target.allow.encode()),))

    def _resolve(self, key: tuple[bytes, bytes]) -> Target:
        method, raw = key
        path, mark, query = raw.decode("latin-1").partition("?")
        if self._root and (path == self._root or path.startswith(self._root + "/")):
            path = path[len(self._root) :]
        segments = [unquote(segment) for segment in path.strip("/").split("/")]
        verb = method.decode("latin-1")
        found = self._match(segments)
        if found is None:
            return self._of_a_model(verb, segments, path, mark + query)
        calls, route, name, version = found
        if verb == "HEAD":
            verb = "GET"
        if verb not in calls:
            if verb == "POST" and segments == [""] and self._graphs.any():
                return Target(self._graphs.call, "/")
            return self._not_so(verb, calls, route, name)
        self._warn_of_clash(verb, segments)
        target = Target(calls[verb], route, name, version, well=(route, method.decode("latin-1"), 200))
        if len(self._targets) >= _TARGETS_KEPT:
            self._targets.clear()  # a caller that makes up paths costs a look-up, not memory
        self._targets[key] = target
        return target

    def _not_so(self, verb: str, allowed: Iterable[str], route: str, name: str = "") -> Target:
        allow = ", ".join(dict.fromkeys(allowed))
        return Target(self._options if verb == "OPTIONS" else self._wrong_method, route, name, allow=allow)

    def _of_a_model(self, verb: str, segments: list[str], path: str, query: str) -> Target:
        """A path that is none of ours; not remembered, since models come and go."""
        models: Iterable[Served] = self._models
        match segments:
            case ["v2", "models", name, "versions", version, "routes", *own] if own:
                models = [self._models.find(name, version)] if self._knows(name, version) else ()
            case ["v2", "models", name, "routes", *own] if own:
                models = self._models.versions(name)
            case _:
                own = segments
        claims = model_routes.claims(models, own)
        if not claims:
            calls = self._invocations.match(segments)
            if not calls:
                if verb == "POST" and self._graphs.any():
                    return Target(self._graphs.call, "graph")
                return Target(self._unknown, "unknown")
            asked = "GET" if verb == "HEAD" else verb
            if asked not in calls:
                return self._not_so(asked, calls, path)
            return Target(calls[asked], "/" + segments[0], well=("/" + segments[0], verb, 200))
        methods = [each.route.method.upper() for each in claims]
        wanted = "GET" if verb == "HEAD" and "HEAD" not in methods else verb
        answering = [each for each, method in zip(claims, methods, strict=True) if method == wanted]
        if not answering:
            return self._not_so(verb, methods, claims[0].route.path)
        claim = answering[0]
        others = {each.served.name for each in answering if not model_routes.same(each, claim)}
        if others:
            self._warn(
                "route %s %s is claimed by several models: %s answers; ask %s at /v2/models/{model}/routes%s",
                (wanted, claim.route.path, claim.served.name, ", ".join(sorted(others)), claim.route.path),
            )
        if own is not segments:
            path = "/" + path.partition("/routes/")[2]
        well = (claim.route.path, verb, 200)
        return Target(self._visit, claim.route.path, claim.served.name, well=well, claim=claim, path=path + query)

    def _knows(self, name: str, version: str) -> bool:
        return any(served.version == version for served in self._models.versions(name))

    def _warn_of_clash(self, verb: str, segments: list[str]) -> None:
        """Tell once of a model's route that this server's own is before."""
        for claim in model_routes.claims(self._models, segments):
            if claim.route.method.upper() == verb:
                self._warn(
                    "%s %s of model '%s' is a path of the server's own, which answers; the model's is at "
                    "/v2/models/{model}/routes%s",
                    (verb, claim.route.path, claim.served.name, claim.route.path),
                )

    def _warn(self, text: str, about: tuple[str, ...]) -> None:
        if about not in self._warned and len(self._warned) < _TARGETS_KEPT:
            self._warned.add(about)
            log.warning(text, *about)

    def _match(self, segments: list[str]) -> _Found | None:
        """What a path asks for, by method: the table of all routes, kept equal to the OpenAPI document by a test."""
        match segments:
            case [""]:
                return {"GET": self._alive}, "/", "", ""
            case ["openapi.json"] | ["v2", "docs", "dataplane.json"]:
                return {"GET": self._document}, "/openapi.json", "", ""
            case ["docs"] | ["v2", "docs"]:
                return {"GET": self._page}, "/docs", "", ""
            case ["v2"]:
                return {"GET": self._server_metadata}, "/v2", "", ""
            case ["v2", "health", "live"]:
                return {"GET": self._live}, "/v2/health/live", "", ""
            case ["v2", "health", "ready"]:
                return {"GET": self._ready}, "/v2/health/ready", "", ""
            case ["v2", "models"]:
                return {"GET": self._models_list}, "/v2/models", "", ""
            case ["v2", "models", "stats"]:
                return {"GET": self._stats}, "/v2/models/stats", "", ""
            case ["v2", "models", name, "versions", version, *rest] if version:
                return self._match_model("/v2/models/{model}/versions/{version}", name, version, rest)
            case ["v2", "models", name, *rest]:
                return self._match_model("/v2/models/{model}", name, "", rest)
            case ["v2", ("pipelines" | "experiments") as made]:
                return {"GET": self._made_list}, f"/v2/{made}", made[:-1], ""
            case ["v2", "pipelines", name, *rest] if name:
                return self._match_made("pipeline", name, rest)
            case ["v2", "experiments", name, *rest] if name:
                return self._match_made("experiment", name, rest)
            case ["v2", "repository", "index"]:
                return {"POST": self._index}, "/v2/repository/index", "", ""
            case ["v2", "repository", "models", name, "load"]:
                return {"POST": self._load}, "/v2/repository/models/{model}/load", name, ""
            case ["v2", "repository", "models", name, "unload"]:
                return {"POST": self._unload}, "/v2/repository/models/{model}/unload", name, ""
            case ["v1", "models"]:
                return {"GET": self._models_list}, "/v1/models", "", ""
            case ["v1", "models", name]:
                return self._match_v1("/v1/models/{model}", name, "")
            case ["v1", "models", name, "versions", version]:
                return self._match_v1("/v1/models/{model}/versions/{version}", name, version)
        return self._deployments.match(segments)

    def _match_made(self, kind: Kind, name: str, rest: list[str]) -> _Found | None:
        base, key = f"/v2/{kind}s/{{{kind}}}", f"{name}.{kind}"
        match rest:
            case []:
                return {"GET": self._metadata}, base, key, ""
            case ["ready"]:
                return {"GET": self._model_ready}, f"{base}/ready", key, ""
            case ["infer"]:
                return {"POST": self._infer}, f"{base}/infer", key, ""
            case ["infer_stream"]:
                return {"POST": self._infer_stream}, f"{base}/infer_stream", key, ""
            case ["feedback"] if kind == "pipeline":
                return {"POST": self._feedback}, f"{base}/feedback", key, ""
            case ["results", request_id] if kind == "pipeline" and request_id:
                return {"GET": self._result}, f"{base}/results/{{request}}", key, ""
        return None

    def _match_model(self, base: str, name: str, version: str, rest: list[str]) -> _Found | None:
        match rest:
            case []:
                return {"GET": self._metadata}, base, name, version
            case ["ready"]:
                return {"GET": self._model_ready}, base + "/ready", name, version
            case ["infer" | "generate"]:  # MLServer's other name
                return {"POST": self._infer}, base + "/infer", name, version
            case ["infer_stream" | "generate_stream"]:
                return {"POST": self._infer_stream}, base + "/infer_stream", name, version
            case ["invocations"]:
                return {"POST": self._invocations.call}, base + "/invocations", name, version
            case ["config"]:
                return {"GET": self._config}, base + "/config", name, version
            case ["stats"]:
                return {"GET": self._stats}, base + "/stats", name, version
            case ["explain"]:
                return {"POST": self._trust.explain}, base + "/explain", name, version
            case ["explain", "jobs", job] if job:
                calls = {"GET": self._trust.job, "DELETE": self._trust.cancel}
                return calls, base + "/explain/jobs/{job}", name, version
            case ["trust"]:
                return {"GET": self._trust.status}, base + "/trust", name, version
            case ["feedback"]:
                return {"POST": self._feedback}, base + "/feedback", name, version
            case ["trust", "report"]:
                return {"GET": self._trust.report}, base + "/trust/report", name, version
            case ["docs"]:
                return {"GET": self._page}, base + "/docs", name, version
            case ["docs", "dataplane.json"]:
                return {"GET": self._document}, base + "/docs/dataplane.json", name, version
        return None

    def _match_v1(self, base: str, last: str, version: str) -> _Found | None:
        name, _, verb = (version or last).rpartition(":")
        if verb not in {"predict", "explain"} or not name:
            return {"GET": self._v1_model}, base, last, version
        call = self._v1_predict if verb == "predict" else self._trust.explain_v1
        return {"POST": call}, f"{base}:{verb}", last if version else name, name if version else ""

    def _failed(self, error: Exception, request: HttpRequest, target: Target) -> HttpReply:
        code = status.http_status(error)
        if code >= 500 and not isinstance(error, NotSupported):
            unexpected = None if isinstance(error, HeadraceError) else error
            log.warning("%s: %s", request.target.decode("latin-1"), error, exc_info=unexpected)
        headers: tuple[tuple[bytes, bytes], ...] = ()
        if isinstance(error, Overloaded):
            headers = ((b"retry-after", b"%d" % max(1, round(error.retry_after_seconds))),)
        elif isinstance(error, WorkerDied):
            headers = ((b"retry-after", b"1"),)  # another one has begun by then
        elif isinstance(error, UnsupportedEncoding):
            headers = ((b"accept-encoding", ", ".join(compression.ENCODINGS).encode()),)
        return HttpReply(status.error_body(status.public_text(error)), code, headers=headers)

    async def _compress(self, reply: HttpReply, accept: str) -> None:
        coded = reply.stream is not None or any(name == b"content-encoding" for name, _ in reply.headers)
        encoding = compression.negotiate(accept)
        if not encoding or coded or not self._settings.compress:
            return
        if len(reply.body) > _OFF_LOOP_BYTES:
            reply.body = await asyncio.to_thread(compression.compress, reply.body, encoding)
        else:
            reply.body = compression.compress(reply.body, encoding)
        reply.headers = (*reply.headers, (b"content-encoding", encoding.encode()), (b"vary", b"accept-encoding"))


def _addressed(target: Target, name: str) -> Target:
    """The same call of what a header names: `iris`, `p.pipeline`, `e.experiment`. The version is that of another."""
    if target.name == name or not target.route.startswith(_ADDRESSED):
        return target
    return msgspec.structs.replace(target, name=name, version="")


def _log_access(request: HttpRequest, code: int, seconds: float) -> None:
    method, target = request.method.decode("latin-1"), request.target.decode("latin-1")
    fields = {"method": method, "path": target, "status": code, "milliseconds": round(seconds * 1000, 3)}
    access.info("%s %s %d %.3f ms", method, target, code, seconds * 1000, extra={"fields": fields})


def _header_length(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise InvalidRequest(f"Inference-Header-Content-Length must be a number of bytes, got: {text!r}") from None


def _sooner(inference: InferenceRequest, deadline: float) -> InferenceRequest:
    """The same request under its own `timeout` parameter, microseconds (Triton's schedule policy extension)."""
    timeout = inference.parameters["timeout"]
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or timeout < 0:
        raise InvalidRequest(f"parameter 'timeout' must be a number of microseconds, got: {timeout!r}")
    own = time.monotonic() + timeout / 1e6
    return msgspec.structs.replace(inference, deadline=min(own, deadline) if timeout else deadline)


def _render(served: Served, inference: InferenceRequest, response: InferenceResponse) -> v2_rest.Rendered:
    if inference.outputs and served.signature is not None:  # an output may be asked for as classes
        labels = {spec.name: spec.labels for spec in served.signature.outputs if spec.labels}
        return v2_rest.render(inference, response, labels=labels)
    return v2_rest.render(inference, response)


def _v2_reply(served: Served, inference: InferenceRequest, response: InferenceResponse) -> HttpReply:
    if "seldon-model" in inference.headers:  # Seldon Core's clients count and keep who answered
        response = sticky.signed(response, served.key, served.version)
    rendered = _render(served, inference, response)
    headers = fields_of(response) if response.headers else ()
    if rendered.header_length is not None:
        headers = (*headers, (b"inference-header-content-length", b"%d" % rendered.header_length))
    return HttpReply(rendered.body, 200, rendered.content_type, headers)


def _once(served: Served) -> InferStream:
    """A stream of the one answer, with its headers inside where MLServer's clients look for them."""
    infer = served.infer

    async def stream(inference: InferenceRequest) -> AsyncIterator[InferenceResponse]:
        response = await infer(inference)  # type: ignore[misc]  # set while READY
        if served.dialect == "mlserver" and response.headers:
            parameters = {"headers": dict(response.headers), **response.parameters}
            response = msgspec.structs.replace(response, parameters=parameters)
        yield response

    return stream


async def _events(
    served: Served,
    inference: InferenceRequest,
    first: InferenceResponse | None,
    responses: AsyncIterator[InferenceResponse],
) -> AsyncIterator[bytes]:
    """Frames of server-sent events; an error after the first answer travels as the last frame."""
    # Whoever leaves early stops the model at once, rather than when the iterator is collected.
    try:
        if first is not None:
            yield b"data: %b\n\n" % _render(served, inference, first).body
        async for response in responses:
            yield b"data: %b\n\n" % _render(served, inference, response).body
    except Exception as error:
        if not isinstance(error, HeadraceError):
            log.exception("a stream of model '%s' failed", inference.model_name)
        yield b"data: %b\n\n" % status.error_body(status.public_text(error))
    finally:
        close = getattr(responses, "aclose", None)
        if close is not None:
            await close()
