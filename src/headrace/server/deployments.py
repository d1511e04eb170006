"""The paths of Seldon Core v1: predictions, feedback, health and metadata of deployments. `rest` dispatches to it.

A deployment is an experiment, a pipeline or a model, looked for in this order by the name in the path, as the ingress
of Seldon Core has it: `/seldon/{namespace}/{deployment}/api/v1.0/predictions`. Without that prefix, the one meant is
the header `seldon-model`'s, else the one graph there is, else the one endpoint there is. Namespaces are not told apart.

A predictor's explainer is `/seldon/{namespace}/{deployment}-explainer/{predictor}/...`; it is the model
`DEPLOYMENT-PREDICTOR-explainer` of several predictors, else `DEPLOYMENT-explainer`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import msgspec

from headrace.control.resources import EXPLAINER_NAME
from headrace.errors import ModelNotFound, NotFound, NotSupported
from headrace.payload import EMPTY, InferenceRequest, InferenceResponse
from headrace.protocols import explain, seldon_v1
from headrace.routing import sticky
from headrace.server.answer_headers import fields_of
from headrace.server.http import HttpReply, HttpRequest
from headrace.serving.models import KINDS, Models, Served, State

if TYPE_CHECKING:
    from headrace.server.rest import Target

Call = Callable[[HttpRequest, "Target"], Awaitable[HttpReply]]
Found = tuple[dict[str, Any], str, str, str]
ROUTING: Final = "headrace-routing"
"""Header of an answer: which branches routers chose."""
_PUID: Final = b"seldon-puid"
_VERSIONS: Final = frozenset({"v0.1", "v1.0"})


class Deployments:
    """What the paths of Seldon Core v1 do.

    Args:
        models: The routing table.
        body: Gives a request's body, its content encoding undone.
        failed: Turns an error into a reply, whose body is then replaced by this protocol's.
        label: Told what was true of a request's rows.
        own: Calls of the other protocols that deployments answer below their prefix, by what they do: `infer`,
            `infer_stream`, `predict`, `explain`, `explain_v1`, `metadata`, `ready`.
    """

    def __init__(
        self,
        models: Models,
        *,
        body: Callable[[HttpRequest], bytes],
        failed: Callable[[Exception, HttpRequest, Target], HttpReply],
        label: Callable[[Served, str, list[Any]], Awaitable[bool]],
        own: Mapping[str, Call],
    ) -> None:
        self._models, self._body, self._failed, self._label, self._own = models, body, failed, label, own
        self._only: str = ""
        models.listen(self._forget)

    def _forget(self, key: str) -> None:
        self._only = ""

    # -- paths --

    def match(self, segments: list[str]) -> Found | None:
        """What a path asks for, by method, as `Rest` has it; the name is the deployment's, or empty."""
        match segments:
            case ["api", version, *rest] if version in _VERSIONS:
                return self._match(rest, "/api/v1.0", "")
            case ["seldon", _, name, "api", version, *rest] if version in _VERSIONS and name:
                return self._match(rest, "/seldon/{namespace}/{deployment}/api/v1.0", name)
            case ["seldon", _, name, predictor, *rest] if name.endswith(EXPLAINER_NAME) and name != EXPLAINER_NAME:
                found = self._match_explainer(rest, name, predictor)
                return found or self._match_others([predictor, *rest], "/seldon/{namespace}/{deployment}", name)
            case ["seldon", _, name, *rest] if name:
                return self._match_others(rest, "/seldon/{namespace}/{deployment}", name)
        return None

    def _match(self, rest: list[str], base: str, name: str) -> Found | None:
        match rest:
            case ["predictions"]:
                return {"POST": self._told(self._predict)}, f"{base}/predictions", name, ""
            case ["feedback"]:
                return {"POST": self._told(self._feedback)}, f"{base}/feedback", name, ""
            case ["status"] | ["status", _] | ["health", "status"]:
                return {"GET": self._told(self._health)}, f"{base}/status", name, ""
            case ["metadata"]:
                return {"GET": self._told(self._metadata)}, f"{base}/metadata", name, ""
            case ["metadata", model] if model:
                call = self._told(partial(self._metadata, model=model))
                return {"GET": call}, f"{base}/metadata/{{model}}", name, ""
        return None

    def _match_explainer(self, rest: list[str], name: str, predictor: str) -> Found | None:
        """What a predictor's explainer answers, by each protocol of a deployment."""
        base = f"/seldon/{{namespace}}/{{deployment}}{EXPLAINER_NAME}/{{predictor}}"
        of_predictor = f"{name.removesuffix(EXPLAINER_NAME)}-{predictor}{EXPLAINER_NAME}"
        key = of_predictor if self._models.versions(of_predictor) else name
        match rest:
            case ["api", version, "explain"] if version in _VERSIONS:
                return {"POST": self._told(self._explain)}, f"{base}/api/v1.0/explain", key, ""
            case ["v1", "models", model] if model.endswith(":explain"):
                return {"POST": self._own["explain_v1"]}, f"{base}/v1/models/{{model}}:explain", key, ""
            case ["v2", "models", _, "explain" | "infer" as what]:
                return {"POST": self._own[what]}, f"{base}/v2/models/{{model}}/{what}", key, ""
        return None

    def _match_others(self, rest: list[str], base: str, name: str) -> Found | None:
        """V2 and V1 below the prefix. The model in the path is a node of the graph; the deployment answers."""
        match rest:
            case ["v2", "models", _, "infer"] | ["v2", "models", "infer"]:
                return {"POST": self._deployed("infer")}, f"{base}/v2/models/{{model}}/infer", name, ""
            case ["v2", "models", _, "infer_stream"]:
                return {"POST": self._deployed("infer_stream")}, f"{base}/v2/models/{{model}}/infer_stream", name, ""
            case ["v2", "models", model, "ready"]:
                return {"GET": self._deployed("ready", model)}, f"{base}/v2/models/{{model}}/ready", name, ""
            case ["v2", "models", model] | ["v2", "models", model, "metadata"] if model:
                return {"GET": self._deployed("metadata", model)}, f"{base}/v2/models/{{model}}", name, ""
            case ["v1", "models", model] if model.endswith(":predict"):
                return {"POST": self._deployed("predict")}, f"{base}/v1/models/{{model}}:predict", name, ""
        return None

    def _deployed(self, what: str, node: str = "") -> Call:
        """A call of another protocol, of the deployment in the path; or of the node, where one is asked about."""
        own = self._own[what]

        async def call(request: HttpRequest, target: Target) -> HttpReply:
            key = node if node and self._models.versions(node) else self.find(target.name).key
            return await own(request, msgspec.structs.replace(target, name=key))

        return call

    def _told(self, call: Call) -> Call:
        """A call whose errors are told as this protocol tells them."""

        async def told(request: HttpRequest, target: Target) -> HttpReply:
            try:
                return await call(request, target)
            except Exception as error:  # noqa: BLE001 - this protocol has an error form of its own
                reply = self._failed(error, request, target)
                reply.body = seldon_v1.render_error(error, reply.status)
                return reply

        return told

    # -- deployments --

    def find(self, name: str) -> Served:
        """The deployment of a name, in whatever state; of no name, the one there is.

        Raises:
            NotFound: there is none, or no one that alone can be meant.
        """
        models = self._models
        if name:
            if name.rpartition(".")[2] in KINDS:
                return models.find(name)
            for kind in reversed(KINDS):
                key = name if kind == "model" else f"{name}.{kind}"
                if models.versions(key):
                    return models.find(key)
            raise ModelNotFound(f"deployment '{name}' is not found: there is no experiment, pipeline or model of it")
        self._only = self._only or self._find_only()
        return models.find(self._only)

    def _find_only(self) -> str:
        """The key of the one deployment there is; kept until something changes."""
        graphs = keys = {served.key for served in self._models if served.graph}
        for kind in ("experiment", "pipeline"):  # where an experiment shares its requests, it stands before them
            of_kind = {key for key in keys if key.endswith(f".{kind}")}
            if of_kind:
                keys = of_kind
                break
        keys = keys or {served.key for served in self._models}
        if len(keys) != 1:
            listed = ", ".join(sorted(graphs or keys)[:20]) or "none"
            raise NotFound(
                "this path is for a server with one deployment; name yours: /seldon/NAMESPACE/DEPLOYMENT/api/v1.0/..., "
                f"or the header seldon-model. There are: {listed}"
            )
        return keys.pop()

    def _asked(self, request: HttpRequest, target: Target) -> Served:
        return self.find(target.name or request.headers.get("seldon-model", ""))

    def _message(self, request: HttpRequest) -> bytes:
        query = request.target.partition(b"?")[2].decode("latin-1")
        return seldon_v1.body_of(self._body(request), content_type=request.headers.get("content-type", ""), query=query)

    def _parse(self, request: HttpRequest, served: Served) -> seldon_v1.SeldonRequest:
        return seldon_v1.parse(
            self._message(request),
            model_name=served.name,
            model_version=served.version,
            signature=served.signature,
            headers=request.headers,
            deadline=request.deadline,
        )

    # -- calls --

    async def _predict(self, request: HttpRequest, target: Target) -> HttpReply:
        served = self._models.route(self._asked(request, target).key)
        inference = self._parse(request, served)
        response = await served.infer(inference)  # type: ignore[misc]  # set while READY
        body = seldon_v1.render(
            inference, response, path=_path(served, response), routing=response.headers.get(ROUTING, "")
        )
        headers = fields_of(response) if response.headers else ()
        return HttpReply(body, headers=(*headers, (_PUID, inference.puid.encode("latin-1", errors="replace"))))

    async def _explain(self, request: HttpRequest, target: Target) -> HttpReply:
        served = self._models.route(target.name)
        inference = self._parse(request, served)
        return HttpReply(explain.render_v1(await served.explained()(explain.parse(inference, strict=False))))

    async def _feedback(self, request: HttpRequest, target: Target) -> HttpReply:
        served = self._models.route(self._asked(request, target).key)
        feedback = seldon_v1.parse_feedback(self._message(request), model_name=served.name, signature=served.signature)
        asked = feedback.request
        is_truth = asked is not None and bool(asked.id) and seldon_v1.TRUTH in asked.parameters
        if asked is not None and is_truth:
            await self._label(served, asked.id, [_text(each) for each in asked.parameters[seldon_v1.TRUTH]])
        if served.feedback is not None or not (served.graph or is_truth):
            give(served, feedback.routing, feedback.reward, feedback.request)
        return HttpReply(seldon_v1.render_done())  # where nobody learns too: their clients tell everybody

    async def _health(self, request: HttpRequest, target: Target) -> HttpReply:
        served = self._asked(request, target)
        if served.state is State.READY:
            return HttpReply(seldon_v1.render_done())
        reason = f"{served.describe()} is not ready: {served.reason or served.state.lower()}"
        return HttpReply(seldon_v1.render_done(reason, failed=True), 503)

    async def _metadata(self, request: HttpRequest, target: Target, model: str = "") -> HttpReply:
        served = self._asked(request, target)
        if model:
            own = f"{served.name}-{model}"  # what a node's model is called, as two graphs may have nodes of one name
            node = self._models.find(own if self._models.versions(own) else model)
            described = {model: (self._versions(node), node.signature)}
        else:
            described = {served.name: (self._versions(served), served.signature)}
        return HttpReply(seldon_v1.render_metadata(target.name or served.name, described, alone=model))

    def _versions(self, served: Served) -> list[str]:
        return [each.version for each in self._models.versions(served.key) if each.version]


def give(served: Served, routing: Mapping[str, str], reward: float, request: InferenceRequest | None) -> None:
    """Tell a pipeline's routers what came of their choices.

    Raises:
        NotSupported: it learns from nothing.
        InvalidRequest: no such router or branch.
    """
    if served.feedback is None:
        raise NotSupported(f"{served.describe()} has no router that learns from feedback")
    served.feedback(routing, reward, request)


def _text(label: Any) -> Any:
    """A label as JSON has it; one of a column of labels alone."""
    if isinstance(label, list) and len(label) == 1:
        (label,) = label
    return label.decode("utf-8", "replace") if isinstance(label, bytes) else label


def _path(served: Served, response: InferenceResponse) -> Mapping[str, str]:
    """Who answered, with versions."""
    header = response.headers.get(sticky.HEADER, "") if response.headers else ""
    routes = dict(sticky.routes(header)) if header else EMPTY
    return routes or {served.name: served.version or (served.signature.platform if served.signature else "")}
