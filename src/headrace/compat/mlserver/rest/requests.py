"""Requests to custom handlers."""

from __future__ import annotations

import gzip
from typing import Any

import orjson
from starlette.requests import Request as _Request


class Request(_Request):
    """A request whose body is decompressed and whose JSON is read fast."""

    async def body(self) -> bytes:
        """The body, decompressed where it says that it is compressed."""
        if not hasattr(self, "_body"):
            body = await super().body()
            if "gzip" in self.headers.getlist("content-encoding"):
                body = gzip.decompress(body)
            self._body = body
        return self._body

    async def json(self) -> Any:
        """The body as JSON."""
        if not hasattr(self, "_json"):
            self._json = orjson.loads(await self.body())
        return self._json
