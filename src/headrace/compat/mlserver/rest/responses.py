"""Responses of custom handlers."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from starlette.responses import JSONResponse

from ..codecs.json import encode_to_json_bytes


class Response(JSONResponse):
    """JSON in which NaN is null and bytes are text."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """The body."""
        return encode_to_json_bytes(content)


class ServerSentEvent:
    """One event of a stream."""

    def __init__(self, data: BaseModel, *args: Any, **kwargs: Any) -> None:
        self.data = data

    def encode(self) -> bytes:
        """As the wire has it."""
        return b"data: " + encode_to_json_bytes(self.data.model_dump()) + b"\n\n"
