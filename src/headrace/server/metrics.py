"""The metrics listener: what Prometheus scrapes, on a port of its own. `app.py` gives `handler` to an `HttpServer`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from headrace.server.http import TEXT, Handler, HttpReply, HttpRequest, error_body

EXPOSITION: Final = b"text/plain; version=0.0.4; charset=utf-8"


def handler(render: Callable[[], bytes]) -> Handler:
    """Answers `GET /metrics` with the text that `render` makes."""

    async def answer(request: HttpRequest) -> HttpReply:
        path = request.target.partition(b"?")[0]
        if request.method not in {b"GET", b"HEAD"}:
            return HttpReply(error_body("only GET is for this port"), 405, headers=((b"allow", b"GET"),))
        if path == b"/metrics":
            return HttpReply(render(), content_type=EXPOSITION)
        if path == b"/":
            return HttpReply(b"metrics are at /metrics\n", content_type=TEXT)
        return HttpReply(error_body("only /metrics is on this port"), 404)

    return answer
