"""Answers of durable pipelines by the id of their request, and requests whose answer nobody waits for. `rest` asks.

A request with `Prefer: respond-async` (RFC 7240) is answered 202 once it is stored, with the address of its result in
`Location`. There it is 202 while it is pending, then the V2 response, or the error, that it would have been answered
with; 404 where the id is unknown, or too old.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import quote, unquote

import orjson

from headrace.errors import NotSupported
from headrace.payload import InferenceRequest
from headrace.protocols import v2_rest
from headrace.server.answer_headers import fields_of
from headrace.server.http import HttpReply, HttpRequest
from headrace.serving.models import Models, Results, Served

_RETRY: Final = (b"retry-after", b"1")


def is_async(headers: dict[str, str]) -> bool:
    """Whether a caller does not want to wait."""
    return "respond-async" in [each.partition(";")[0].strip().lower() for each in headers["prefer"].split(",")]


async def accept(served: Served, results: Results, inference: InferenceRequest, *, root: str) -> HttpReply:
    """Store a request; says where its result will be."""
    request_id = await results.submit(inference)
    place = f"{root}/v2/pipelines/{quote(served.name, safe='')}/results/{quote(request_id, safe='')}"
    return _pending(
        request_id, ((b"location", place.encode("latin-1", "replace")), (b"preference-applied", b"respond-async"))
    )


async def result(models: Models, name: str, request: HttpRequest) -> HttpReply:
    """The answer to a request that was stored, or that there is none yet.

    Raises:
        NotFound: no such pipeline, or no such request.
        NotSupported: the pipeline stores nothing.
        HeadraceError: what the pipeline raised.
    """
    served = models.find(name)
    if served.results is None:
        raise NotSupported(f"{served.describe()} keeps no results; those with durability: kafka do")
    path = request.target.partition(b"?")[0].rstrip(b"/").decode("latin-1")
    request_id = unquote(path.rpartition("/")[2])
    response = await served.results.find(request_id)
    if response is None:
        return _pending(request_id, ())
    binary = "octet-stream" in request.headers.get("accept", "")
    asks = InferenceRequest(model_name=name, inputs=(), parameters={"binary_data_output": True} if binary else {})
    rendered = v2_rest.render(asks, response)
    headers = fields_of(response) if response.headers else ()
    if rendered.header_length is not None:
        headers = (*headers, (b"inference-header-content-length", b"%d" % rendered.header_length))
    return HttpReply(rendered.body, 200, rendered.content_type, headers)


def _pending(request_id: str, headers: tuple[tuple[bytes, bytes], ...]) -> HttpReply:
    body = orjson.dumps({"id": request_id, "status": "pending"})
    return HttpReply(body, 202, headers=(*headers, _RETRY))
