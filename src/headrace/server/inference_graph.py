"""Requests in the manner of KServe's InferenceGraph: any path of the graph's own host, V1 in and out. `rest` asks.

Only endpoints that say of themselves that they are graphs (`Served.graph`) are answered so. The path
`/serving/{namespace}/{graph}` names one as well, for callers without a name server; `/` is the one graph there is.
Source: KServe's router.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import msgspec
import orjson

from headrace.errors import NotFound
from headrace.payload import EMPTY, InferenceRequest, InferenceResponse, Tensor
from headrace.protocols import seldon_v1, status, v1, v2_rest
from headrace.protocols.documents import read_json
from headrace.server.answer_headers import fields_of
from headrace.server.deployments import ROUTING
from headrace.server.http import HttpReply, HttpRequest
from headrace.serving.models import Models, Served

if TYPE_CHECKING:
    from headrace.server.rest import Target

NO_ROUTE: Final = "None of the routes matched with the switch condition"
_FAILED: Final = "Failed to process request"


class Graphs:
    """What the hosts of graphs answer.

    Args:
        models: The routing table.
        body: Gives a request's body, its content encoding undone.
        failed: Turns an error into a reply, whose body is then replaced by this protocol's.
        unknown: What answers when a path is no graph's after all.
    """

    def __init__(
        self,
        models: Models,
        *,
        body: Callable[[HttpRequest], bytes],
        failed: Callable[[Exception, HttpRequest, Target], HttpReply],
        unknown: Callable[[HttpRequest, Target], Any],
    ) -> None:
        self._models, self._body, self._failed, self._unknown = models, body, failed, unknown
        self._known: dict[str, str] | None = None
        models.listen(self._forget)

    def _forget(self, key: str) -> None:
        self._known = None  # among thousands of endpoints, graphs are not searched for at each request

    def _keys(self) -> dict[str, str]:
        """Key in the routing table by the name of the graph."""
        if self._known is None:
            self._known = {served.name: served.key for served in self._models if served.graph}
        return self._known

    def any(self) -> bool:
        """Whether there is a graph."""
        return bool(self._keys())

    async def call(self, request: HttpRequest, target: Target) -> HttpReply:
        """The answer of the graph that host or path name; of none, that there is no such path."""
        key = self.find(request.headers.get("host", ""), request.target.partition(b"?")[0].decode("latin-1"))
        if not key:
            reply: HttpReply = await self._unknown(request, target)
            return reply
        try:
            return await self._answer(request, self._models.route(key))
        except Exception as error:  # noqa: BLE001 - this protocol has an error form of its own
            reply = self._failed(error, request, target)
            reply.body = orjson.dumps({"error": _FAILED, "cause": status.public_text(error)})
            return reply

    def find(self, host: str, path: str) -> str:
        """The key of the graph that a host (`GRAPH.NAMESPACE`, `GRAPH-NAMESPACE`) or a path names; empty: none."""
        graphs = self._keys()
        match path.strip("/").split("/"):
            case ["serving", _, name]:
                return graphs.get(name, "")
        label = host.partition(":")[0].partition(".")[0].lower()
        if label in graphs:
            return graphs[label]
        named = [name for name in graphs if label.startswith(name + "-")]
        if named:
            return graphs[max(named, key=len)]
        return next(iter(graphs.values())) if path == "/" and len(graphs) == 1 else ""

    async def _answer(self, request: HttpRequest, served: Served) -> HttpReply:
        body = self._body(request)
        parse = v2_rest.parse if _is_v2(body) else v1.parse
        inference = parse(
            body,
            model_name=served.name,
            model_version=served.version,
            signature=served.signature,
            headers=request.headers,
            deadline=request.deadline,
        )
        response = await served.infer(inference)  # type: ignore[misc]  # set while READY
        routing = response.headers.get(ROUTING, "")
        if routing and not all(seldon_v1.parse_routing(routing).values()):
            raise NotFound(NO_ROUTE)  # a router that chose nothing: of a switch, that is an error
        headers = fields_of(response) if response.headers else ()
        return HttpReply(_rendered(inference, response, is_v2=parse is v2_rest.parse), headers=headers)


def _is_v2(body: bytes) -> bool:
    """Whether a body holds V2 tensors: a list of objects with a name, a shape and a datatype."""
    if b'"datatype"' not in body:
        return False
    document = read_json(body)
    inputs = document.get("inputs") if isinstance(document, dict) else None
    return isinstance(inputs, list) and all(
        isinstance(each, dict) and {"name", "shape", "datatype"} <= each.keys() for each in inputs
    )


def _rendered(inference: InferenceRequest, response: InferenceResponse, *, is_v2: bool) -> bytes:
    """The answer in its request's protocol; of an ensemble, whose outputs are `STEP.TENSOR`, an object by step."""
    steps: dict[str, list[Tensor]] = {}
    for tensor in response.outputs:
        step, _, name = tensor.name.partition(".")
        steps.setdefault(step if name else "", []).append(Tensor(name, tensor.datatype, tensor.data, tensor.parameters))
    if "" in steps or not steps:
        return _one(inference, response, is_v2=is_v2)
    parts = [
        orjson.dumps(step)
        + b":"
        + _one(inference, msgspec.structs.replace(response, outputs=tuple(tensors)), is_v2=is_v2)
        for step, tensors in steps.items()
    ]
    return b"{" + b",".join(parts) + b"}"


def _one(inference: InferenceRequest, response: InferenceResponse, *, is_v2: bool) -> bytes:
    if is_v2:
        return v2_rest.render(msgspec.structs.replace(inference, outputs=(), parameters=EMPTY), response).body
    return v1.render(inference, response)
